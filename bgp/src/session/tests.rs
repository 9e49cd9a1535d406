//! On a virtual clock: `Script` plays the peer and the driver by hand.

use super::*;
use crate::wire::capability::{GracefulRestart, LongLivedFamily};
use crate::wire::iana::MessageType;
use crate::wire::iana::{Families, Role};
use crate::wire::message::RouteRefresh;

mod any_order;
mod collisions;
mod restart;
mod timers;
mod wire;

const SECOND: Duration = Duration::from_secs(1);

fn config(asn: u32, id: u8, peer_asn: u32) -> SessionConfig {
    SessionConfig {
        asn,
        router_id: Ipv4Addr::new(192, 0, 2, id),
        peer_asn,
        hold_time: 90,
        send_hold: Duration::ZERO,
        families: Families::ALL,
        passive: false,
        restart_time: 120,
        stale_time: 0,
        restarting: false,
        extended_next_hop: false,
        bgp_role: None,
        hear: false,
        seed: u64::from(id),
    }
}

/// One scripted peer against one session; the script plays the driver too.
struct Script {
    session: Session,
    now: Instant,
    outputs: Vec<Output>,
}

impl Script {
    fn new(config: SessionConfig) -> Self {
        let now = Instant::now();
        let mut session = Session::new(config, now);
        session.start(now);
        let mut script = Self { session, now, outputs: Vec::new() };
        script.collect();
        script
    }

    fn collect(&mut self) {
        while let Some(output) = self.session.poll_output() {
            self.outputs.push(output);
        }
    }

    fn take(&mut self) -> Vec<Output> {
        self.collect();
        std::mem::take(&mut self.outputs)
    }

    fn sent(&mut self, id: ConnectionId) -> Vec<Bytes> {
        self.take()
            .into_iter()
            .filter_map(|o| match o {
                Output::Send(to, octets) if to == id => Some(octets),
                _ => None,
            })
            .collect()
    }

    fn connect(&mut self, outgoing: bool) -> ConnectionId {
        self.session.connected(outgoing, self.now).expect("wanted")
    }

    fn hear(&mut self, id: ConnectionId, message: &Message<'_>) {
        let context = EncodeContext { families: Families::ALL, four_octet_as: true, ..EncodeContext::initial() };
        let mut octets = BytesMut::new();
        message.encode(&context, &mut octets).unwrap();
        self.session.received(id, &octets, self.now);
    }

    fn open(&mut self, id: ConnectionId, change: impl FnOnce(&mut Open)) {
        let mut open = Open {
            asn: self.session.config.peer_asn,
            hold_time: 90,
            identifier: Ipv4Addr::new(192, 0, 2, 254),
            capabilities: vec![
                Capability::Multiprotocol(Family::Ipv4.afi_safi()),
                Capability::Multiprotocol(Family::Ipv6.afi_safi()),
                Capability::RouteRefresh,
                Capability::EnhancedRouteRefresh,
                Capability::FourOctetAs(self.session.config.peer_asn),
            ],
        };
        change(&mut open);
        self.hear(id, &Message::Open(open));
    }

    fn establish(&mut self, outgoing: bool) -> ConnectionId {
        let id = self.connect(outgoing);
        self.open(id, |_| {});
        self.hear(id, &Message::Keepalive);
        assert_eq!(self.session.state().0, State::Established);
        self.take();
        id
    }

    /// Lets time pass, firing timers on the way.
    fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(due) = self.session.poll_timeout().filter(|due| *due <= end) {
            self.now = due.max(self.now);
            self.session.handle_timeout(self.now);
            self.collect();
        }
        self.now = end;
    }

    fn error(&self) -> &str {
        self.session.last_error().map_or("", |(text, _)| text)
    }

    fn notification(&mut self, id: ConnectionId) -> Option<(u8, u8, Vec<u8>)> {
        self.sent(id).iter().find_map(|octets| {
            match Message::decode(octets, &DecodeContext::initial(PeerType::External)) {
                Ok(Message::Notification(n)) => Some((n.code, n.subcode, n.data)),
                _ => None,
            }
        })
    }
}

#[test]
fn the_way_up() {
    let mut script = Script::new(config(64512, 1, 64513));
    assert_eq!(script.take(), [Output::Connect]);
    assert_eq!(script.session.state().0, State::Connect);
    let id = script.connect(true);
    assert_eq!(script.session.state().0, State::OpenSent);
    let sent = script.sent(id);
    assert_eq!((sent.len(), sent[0][18]), (1, MessageType::Open.code()));
    script.open(id, |_| {});
    assert_eq!(script.session.state().0, State::OpenConfirm);
    assert_eq!(script.sent(id)[0][18], MessageType::Keepalive.code());
    script.hear(id, &Message::Keepalive);
    assert_eq!(script.session.state().0, State::Established);
    let outputs = script.take();
    assert!(matches!(&outputs[..], [Output::Up(up, terms)] if *up == id && terms.hold_time == 90), "{outputs:?}");
}

#[test]
fn octets_may_come_one_by_one() {
    let mut whole = Script::new(config(64512, 1, 64513));
    let id = whole.connect(true);
    let mut octets = BytesMut::new();
    let open = Open { asn: 64513, hold_time: 9, identifier: Ipv4Addr::new(192, 0, 2, 254), capabilities: vec![] };
    Message::Open(open).encode(&EncodeContext::initial(), &mut octets).unwrap();
    Message::Keepalive.encode(&EncodeContext::initial(), &mut octets).unwrap();
    for octet in octets {
        whole.session.received(id, &[octet], whole.now);
    }
    assert_eq!(whole.session.state().0, State::Established);
    let terms = whole.session.negotiated().unwrap();
    assert_eq!((terms.hold_time, terms.families), (9, Families { ipv4: true, ipv6: false }));
}

#[test]
fn what_is_wrong_with_an_open_is_said_to_both_operators() {
    let wrong = |change: fn(&mut Open)| {
        let mut script = Script::new(config(64512, 1, 64513));
        let id = script.connect(true);
        script.take();
        script.open(id, change);
        let (code, subcode, data) = script.notification(id).expect("a NOTIFICATION");
        assert_ne!(script.session.state().0, State::OpenConfirm);
        (code, subcode, data, script.error().to_owned())
    };
    let (code, subcode, _, error) = wrong(|open| {
        open.asn = 64999;
        open.capabilities.retain(|c| !matches!(c, Capability::FourOctetAs(_)));
    });
    assert_eq!((code, subcode, error.as_str()), (2, 2, "wrong AS: peer says 64999, configured 64513"));
    let (code, subcode, data, error) = wrong(|open| {
        open.capabilities = vec![Capability::Multiprotocol(crate::wire::iana::AfiSafi { afi: 1, safi: 128 })];
        open.capabilities.push(Capability::FourOctetAs(64513));
    });
    assert_eq!((code, subcode, error.as_str()), (2, 7, "no address family in common with the peer"));
    assert_eq!(data, [1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1]);
    let mut internal = Script::new(config(64512, 1, 64512));
    let id = internal.connect(true);
    internal.take();
    internal.open(id, |open| open.identifier = Ipv4Addr::new(192, 0, 2, 1));
    assert_eq!(internal.notification(id).map(|(code, subcode, _)| (code, subcode)), Some((2, 3)));
    assert!(internal.error().contains("peer says 192.0.2.1, ours is 192.0.2.1"), "{}", internal.error());
}

#[test]
fn messages_out_of_place_end_the_connection_with_their_type() {
    let mut script = Script::new(config(64512, 1, 64513));
    let id = script.connect(true);
    script.take();
    script.hear(id, &Message::Keepalive);
    assert_eq!(script.notification(id), Some((5, 1, vec![4])));
    assert_eq!(script.error(), "unexpected Keepalive in OpenSent");
    let id = {
        script.pass(2 * SECOND);
        script.establish(true)
    };
    script.open(id, |_| {});
    assert_eq!(script.notification(id), Some((5, 3, vec![1])));
}

#[test]
fn garbage_ends_the_connection_and_is_answered() {
    let mut script = Script::new(config(64512, 1, 64513));
    let id = script.establish(true);
    script.session.received(id, b"GET / HTTP/1.0\r\n\r\n", script.now);
    assert_eq!(script.notification(id), Some((1, 1, vec![])));
    assert!(script.error().starts_with("the peer sent no BGP"), "{}", script.error());
    let id = {
        script.pass(2 * SECOND);
        script.establish(true)
    };
    let mut header = vec![0xff; 16];
    header.extend([0x10, 0x01, 2]);
    script.session.received(id, &header, script.now);
    assert_eq!(script.notification(id), Some((1, 2, vec![0x10, 0x01])));
}

#[test]
fn refreshes_are_passed_on_for_known_families() {
    let mut script = Script::new(config(64512, 1, 64513));
    let id = script.establish(true);
    for (afi_safi, subtype) in [
        (Family::Ipv6.afi_safi(), RefreshSubtype::Request),
        (Family::Ipv4.afi_safi(), RefreshSubtype::Begin),
        (crate::wire::iana::AfiSafi { afi: 25, safi: 70 }, RefreshSubtype::Request),
    ] {
        script.hear(id, &Message::RouteRefresh(RouteRefresh { family: afi_safi, subtype }));
    }
    assert_eq!(script.take(), [Output::Refresh(Family::Ipv6)]);
    assert_eq!(script.session.state().0, State::Established);
}

/// RFC 9234 section 4.2 and RFC 8950 section 4: offered when configured, and only then.
#[test]
fn a_role_and_an_ipv6_next_hop_are_offered_and_judged() {
    let offered = |script: &mut Script, id| {
        let sent = script.sent(id);
        let Ok(Message::Open(open)) = Message::decode(&sent[0], &DecodeContext::initial(PeerType::External)) else {
            panic!("no OPEN")
        };
        open.capabilities
    };
    let with = |asn| SessionConfig { bgp_role: Some(Role::Customer), extended_next_hop: true, ..config(asn, 1, 64513) };
    let mut script = Script::new(with(64512));
    let id = script.connect(true);
    let capabilities = offered(&mut script, id);
    assert!(capabilities.contains(&Capability::Role(Role::Customer)));
    let over_ipv6 = Capability::ExtendedNextHop(vec![(Family::Ipv4.afi_safi(), 2)]);
    assert!(capabilities.contains(&over_ipv6));
    script.open(id, |open| open.capabilities.extend([Capability::Role(Role::Provider), over_ipv6]));
    script.hear(id, &Message::Keepalive);
    assert!(script.session.negotiated().unwrap().extended_next_hop);

    let mut script = Script::new(with(64512));
    let id = script.connect(true);
    script.take();
    script.open(id, |open| open.capabilities.push(Capability::Role(Role::Peer)));
    let (code, subcode, _) = script.notification(id).unwrap();
    assert_eq!((code, subcode), (2, 11), "role mismatch");

    // Internal peers have no roles; who configures nothing offers nothing.
    let mut script = Script::new(with(64513));
    let id = script.connect(true);
    assert!(!offered(&mut script, id).iter().any(|c| matches!(c, Capability::Role(_))));
    let mut script = Script::new(config(64512, 1, 64513));
    let id = script.connect(true);
    let none = offered(&mut script, id);
    assert!(!none.iter().any(|c| matches!(c, Capability::Role(_) | Capability::ExtendedNextHop(_))));
}

#[test]
fn updates_are_counted_and_never_used() {
    let mut script = Script::new(config(64512, 1, 64513));
    let id = script.establish(true);
    // Announces 0.0.0.0/0 with an ORIGIN of 7: treat-as-withdraw, no reset (RFC 7606 section 7.1).
    let body = [0, 0, 0, 20, 0x40, 1, 1, 7, 0x40, 2, 6, 2, 1, 0, 0, 0xfc, 1, 0x40, 3, 4, 192, 0, 2, 254, 0];
    let mut message = vec![0xff; 16];
    message.extend((u16::try_from(body.len()).unwrap() + 19).to_be_bytes());
    message.push(2);
    message.extend(body);
    script.session.received(id, &message, script.now);
    let counts = script.session.counts();
    assert_eq!((counts.updates, counts.malformed, counts.announced, counts.withdrawn), (1, 1, 0, 1));
    assert_eq!(script.session.state().0, State::Established);
    assert!(script.take().is_empty());
}
