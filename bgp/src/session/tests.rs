//! Both ends on a virtual clock: `pair` joins two sessions by queues of octets; `Peer` scripts one end by hand.

use std::collections::VecDeque;

use super::*;
use crate::wire::iana::MessageType;
use crate::wire::iana::{Families, Role};
use crate::wire::message::RouteRefresh;

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
fn silence_ends_a_session_after_the_lesser_hold_time() {
    let mut script = Script::new(config(64512, 1, 64513));
    let id = script.connect(true);
    script.open(id, |open| open.hold_time = 9);
    script.hear(id, &Message::Keepalive);
    script.pass(8 * SECOND);
    assert_eq!(script.session.state().0, State::Established);
    script.hear(id, &Message::Keepalive);
    script.pass(8 * SECOND);
    assert_eq!(script.session.state().0, State::Established, "a KEEPALIVE starts it anew");
    script.take();
    script.pass(2 * SECOND);
    assert_eq!(script.error(), "hold timer expired: nothing heard for 9 s");
    let outputs = script.take();
    assert!(outputs.contains(&Output::Down("hold timer expired: nothing heard for 9 s".to_owned())));
    assert!(outputs.contains(&Output::Close(id)));
}

#[test]
fn keepalives_go_out_three_times_per_hold_time() {
    let mut script = Script::new(config(64512, 1, 64513));
    let id = script.connect(true);
    script.open(id, |open| open.hold_time = 9);
    script.hear(id, &Message::Keepalive);
    script.take();
    for _ in 0..10 {
        script.hear(id, &Message::Keepalive);
        script.pass(3 * SECOND);
    }
    let count = script.sent(id).len();
    assert!((10..=14).contains(&count), "{count} KEEPALIVEs in 30 s");
}

#[test]
fn hold_time_zero_means_no_timers() {
    let mut script = Script::new(config(64512, 1, 64513));
    let id = script.connect(true);
    script.open(id, |open| open.hold_time = 0);
    script.hear(id, &Message::Keepalive);
    script.take();
    assert_eq!(script.session.poll_timeout(), None);
    script.pass(SECOND * 86_400);
    assert_eq!(script.session.state().0, State::Established);
    assert!(script.sent(id).is_empty());
}

#[test]
fn a_peer_that_takes_nothing_is_given_up() {
    let mut script = Script::new(config(64512, 1, 64513));
    let id = script.establish(true);
    script.session.written(id, true, script.now);
    for _ in 0..23 {
        script.pass(20 * SECOND);
        script.hear(id, &Message::Keepalive);
        assert_eq!(script.session.state().0, State::Established);
    }
    script.pass(20 * SECOND);
    assert!(script.error().starts_with("send hold timer expired"), "{}", script.error());
    // A shorter one is the operator's choice, but never less than twice the hold time.
    for (send_hold, hold_time, after) in [(4 * SECOND, 0, 4), (4 * SECOND, 9, 18), (600 * SECOND, 9, 600)] {
        let mut short = Script::new(SessionConfig { send_hold, hold_time, ..config(64512, 1, 64513) });
        let id = short.establish(true);
        short.session.written(id, true, short.now);
        for _ in 0..after {
            assert_eq!(short.session.state().0, State::Established);
            short.hear(id, &Message::Keepalive);
            short.pass(SECOND);
        }
        assert_eq!(short.error(), format!("send hold timer expired: the peer took nothing for {after} s"));
    }
    // What waits first may be a KEEPALIVE behind a full socket; that it is tried again and again is no progress.
    let mut full = Script::new(config(64512, 1, 64513));
    let id = full.establish(true);
    full.session.written(id, false, full.now);
    for _ in 0..24 {
        assert_eq!(full.session.state().0, State::Established);
        full.session.stuck(id, full.now);
        full.hear(id, &Message::Keepalive);
        full.pass(20 * SECOND);
    }
    assert!(full.error().starts_with("send hold timer expired"), "{}", full.error());
    let mut reading = Script::new(config(64512, 1, 64513));
    let id = reading.establish(true);
    for _ in 0..100 {
        reading.session.written(id, true, reading.now);
        reading.pass(20 * SECOND);
        reading.hear(id, &Message::Keepalive);
    }
    assert_eq!(reading.session.state().0, State::Established, "slow is not dead");
}

#[test]
fn no_open_within_a_minute_ends_the_connection() {
    let mut script = Script::new(config(64512, 1, 64513));
    let id = script.connect(true);
    script.take();
    script.pass(OPEN_HOLD + SECOND);
    assert_eq!(script.notification(id).map(|(code, ..)| code), Some(4));
    assert_eq!(script.error(), "no OPEN from the peer within 60 s; is ttl_security on at one end only?");
}

#[test]
fn tries_back_off_and_the_cause_stays_readable() {
    let mut script = Script::new(config(64512, 1, 64513));
    let id = script.establish(true);
    script.pass(90 * SECOND / 2);
    script.hear(id, &Message::Notification(Notification::cease(Cease::MaximumPrefixes)));
    assert_eq!(script.error(), "peer says: Cease, maximum number of prefixes reached");
    script.take();
    let mut gaps = Vec::new();
    for _ in 0..12 {
        let since = script.now;
        while !script.outputs.contains(&Output::Connect) {
            script.pass(Duration::from_millis(50));
        }
        gaps.push(script.now - since);
        script.take();
        script.session.connect_failed("Connection refused", script.now);
        assert_eq!(script.session.state().0, State::Active);
    }
    assert!(gaps.windows(2).take(4).all(|pair| pair[1] > pair[0]), "{gaps:?}");
    assert!(gaps.iter().all(|gap| *gap <= 11 * SECOND), "{gaps:?}");
    assert_eq!(
        script.error(),
        "peer says: Cease, maximum number of prefixes reached; since then: can't connect: Connection refused"
    );
}

#[test]
fn a_peer_that_flaps_is_damped_and_forgiven() {
    let mut script = Script::new(SessionConfig { passive: true, ..config(64512, 1, 64513) });
    assert_eq!(script.session.state().0, State::Active);
    assert!(script.take().is_empty(), "a passive session never connects");
    for _ in 0..5 {
        let id = script.establish(false);
        script.session.closed(id, None, script.now);
    }
    assert_eq!(script.session.state().0, State::Idle);
    let told = script.error();
    assert!(told.starts_with("the peer closed the connection; sessions fail again and again: no other for "), "{told}");
    assert_eq!(script.session.connected(false, script.now), None);
    script.pass(60 * SECOND);
    assert_eq!(script.session.state().0, State::Active);
    let id = script.establish(false);
    for _ in 0..4 {
        script.pass(20 * SECOND);
        script.hear(id, &Message::Keepalive);
    }
    script.session.closed(id, None, script.now);
    assert_eq!(script.session.state().0, State::Active, "a stable session clears the record");
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

#[test]
fn stop_says_why_or_says_nothing() {
    let mut script = Script::new(config(64512, 1, 64513));
    let id = script.establish(true);
    script.session.stop(&Stop::Shutdown("new kernel".to_owned()), script.now);
    let (code, subcode, data) = script.notification(id).unwrap();
    assert_eq!((code, subcode, &data[1..]), (6, 2, b"new kernel".as_slice()));
    assert_eq!(script.session.state().0, State::Idle);
    assert_eq!(script.session.connected(false, script.now), None);
    script.session.start(script.now);
    let id = script.establish(true);
    script.session.stop(&Stop::Restart, script.now);
    assert_eq!(script.take(), [Output::Close(id), Output::Down("stopped".to_owned())]);
}

#[test]
fn restart_bits_are_set_until_the_first_session() {
    let mut script = Script::new(SessionConfig { restarting: true, ..config(64512, 1, 64513) });
    let restart = |script: &mut Script, id| {
        let sent = script.sent(id);
        let Ok(Message::Open(open)) = Message::decode(&sent[0], &DecodeContext::initial(PeerType::External)) else {
            panic!("no OPEN")
        };
        open.capabilities
            .into_iter()
            .find_map(|c| match c {
                Capability::GracefulRestart(restart) => Some(restart),
                _ => None,
            })
            .unwrap()
    };
    let id = script.connect(true);
    let first = restart(&mut script, id);
    assert!(first.restarting && first.families.iter().all(|family| family.forwarding) && first.families.len() == 2);
    script.open(id, |_| {});
    script.hear(id, &Message::Keepalive);
    script.session.closed(id, None, script.now);
    script.pass(2 * SECOND);
    let id = script.connect(true);
    let second = restart(&mut script, id);
    // Not a restart any more; but what the peer has kept over the loss of the session is still good.
    assert!(!second.restarting && second.families.iter().all(|family| family.forwarding));
    let mut fresh = Script::new(config(64512, 1, 64513));
    let id = fresh.connect(true);
    let cold = restart(&mut fresh, id);
    assert!(!cold.restarting && cold.families.iter().all(|family| !family.forwarding));
    assert!(first.notification && second.notification && cold.notification);
}

/// RFC 8538 section 3: where both ends keep routes over a NOTIFICATION, only a Hard Reset makes the peer drop them.
/// RFC 9494 section 4.1: only together with capability 64, every family with its time, F as there.
#[test]
fn long_lived_restart_is_offered_where_it_is_wanted_and_restart_is() {
    let offered = |restart_time: u16, stale_time: u32, restarting: bool| {
        let config = SessionConfig { restart_time, stale_time, restarting, ..config(64512, 1, 64513) };
        let mut script = Script::new(config);
        let id = script.connect(true);
        let open = script.sent(id).remove(0);
        let Ok(Message::Open(open)) = Message::decode(&open, &DecodeContext::initial(PeerType::External)) else {
            panic!("no OPEN")
        };
        open.capabilities.into_iter().find_map(|capability| match capability {
            Capability::LongLivedGracefulRestart(families) => Some(families),
            _ => None,
        })
    };
    assert_eq!(offered(120, 0, false), None, "off by default");
    assert_eq!(offered(0, 3600, false), None, "nothing without graceful restart");
    for forwarding in [false, true] {
        let entry = |family: Family| LongLivedFamily { family: family.afi_safi(), forwarding, stale_time: 86_400 };
        assert_eq!(offered(120, 86_400, forwarding), Some(vec![entry(Family::Ipv4), entry(Family::Ipv6)]));
    }

    // What the peer has of it shows only where both ends have it.
    for (ours, theirs) in [(3600, true), (3600, false), (0, true)] {
        let mut script = Script::new(SessionConfig { stale_time: ours, ..config(64512, 1, 64513) });
        let id = script.connect(true);
        script.open(id, |open| {
            open.capabilities.push(Capability::GracefulRestart(GracefulRestart::default()));
            if theirs {
                open.capabilities.push(Capability::LongLivedGracefulRestart(vec![]));
                let family = Family::Ipv4.afi_safi();
                let entry = LongLivedFamily { family, forwarding: false, stale_time: 30 };
                open.capabilities.push(Capability::LongLivedGracefulRestart(vec![entry]));
            }
        });
        script.hear(id, &Message::Keepalive);
        let both = &script.session.negotiated().unwrap().long_lived;
        assert_eq!(both.as_ref().map(Vec::len), (ours > 0 && theirs).then_some(1));
    }
}

#[test]
fn a_shutdown_for_good_is_a_hard_reset_where_notifications_are_graceful() {
    for graceful in [true, false] {
        let mut script = Script::new(config(64512, 1, 64513));
        let id = script.connect(true);
        script.open(id, |open| {
            open.capabilities.push(Capability::GracefulRestart(GracefulRestart {
                notification: graceful,
                time: 60,
                ..GracefulRestart::default()
            }));
        });
        script.hear(id, &Message::Keepalive);
        assert_eq!(script.session.negotiated().unwrap().graceful_notification, graceful);
        script.take();
        script.session.stop(&Stop::Shutdown("bye".to_owned()), script.now);
        let (code, subcode, data) = script.notification(id).unwrap();
        if graceful {
            assert_eq!((code, subcode, data), (6, 9, [&[6, 2, 3], b"bye".as_slice()].concat()));
        } else {
            assert_eq!((code, subcode, data), (6, 2, [&[3], b"bye".as_slice()].concat()));
        }
    }
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

/// Both ends connect at once; whoever's OPEN comes first, both must keep the same connection: that of the end with the higher identifier.
#[test]
fn collisions_leave_one_connection_and_both_ends_agree() {
    for (left_id, right_id) in [(1, 2), (2, 1)] {
        for order in 0..24u8 {
            let mut pair = Pair::new(config(64512, left_id, 64513), config(64513, right_id, 64512));
            pair.connect_both();
            pair.run(order);
            assert_eq!(pair.left.session.state().0, State::Established, "order {order}");
            assert_eq!(pair.right.session.state().0, State::Established, "order {order}");
            assert_eq!((pair.left.live.len(), pair.right.live.len()), (1, 1), "order {order}");
            assert_eq!(pair.left.live[0].1, pair.right.live[0].1, "the same connection, order {order}");
        }
    }
}

#[test]
fn a_losing_connection_waits_for_the_winning_one_but_not_for_long() {
    let losing = || {
        let mut script = Script::new(config(64512, 1, 64513));
        script.take();
        let ours = script.connect(true);
        let theirs = script.connect(false);
        script.open(ours, |_| {});
        script.hear(ours, &Message::Keepalive);
        assert_eq!(script.session.state().0, State::OpenConfirm);
        (script, ours, theirs)
    };
    let (mut script, ..) = losing();
    script.pass(2 * SECOND);
    assert_eq!(script.session.state().0, State::Established);

    let (mut script, _, theirs) = losing();
    script.session.closed(theirs, None, script.now);
    assert_eq!(script.session.state().0, State::Established);

    let (mut script, ours, _) = losing();
    script.hear(
        ours,
        &Message::RouteRefresh(RouteRefresh { family: Family::Ipv4.afi_safi(), subtype: RefreshSubtype::Request }),
    );
    assert_eq!(script.session.state().0, State::Established, "the peer has decided");
    assert!(script.take().contains(&Output::Refresh(Family::Ipv4)));
}

#[test]
fn an_established_session_survives_a_second_connection_unless_the_peer_restarted() {
    let mut script = Script::new(config(64512, 1, 64513));
    let first = script.establish(true);
    script.pass(20 * SECOND);
    let second = script.connect(false);
    script.take();
    script.open(second, |_| {});
    assert_eq!(script.notification(second), Some((6, 7, vec![])));
    script.hear(first, &Message::Keepalive);
    assert_eq!(script.session.state().0, State::Established);

    // With graceful restart the new one takes over (RFC 4724 section 5).
    let graceful = |open: &mut Open| {
        open.capabilities.push(Capability::GracefulRestart(GracefulRestart {
            restarting: true,
            notification: false,
            time: 60,
            families: vec![],
        }));
    };
    let mut script = Script::new(config(64512, 1, 64513));
    let first = script.connect(true);
    script.open(first, graceful);
    script.hear(first, &Message::Keepalive);
    script.pass(20 * SECOND);
    let second = script.connect(false);
    script.take();
    script.open(second, graceful);
    let outputs = script.take();
    assert!(outputs.contains(&Output::Close(first)), "{outputs:?}");
    assert!(outputs.iter().any(|output| matches!(output, Output::Down(_))), "{outputs:?}");
    script.hear(second, &Message::Keepalive);
    assert!(matches!(&script.take()[..], [Output::Up(id, _)] if *id == second));
}

#[test]
fn endless_connections_are_bounded() {
    let mut script = Script::new(config(64512, 1, 64513));
    for _ in 0..100 {
        script.session.connected(false, script.now);
        assert!(script.session.connections.len() <= CONNECTIONS);
    }
}

struct End {
    session: Session,
    /// Session's id and the TCP connection's number.
    live: Vec<(ConnectionId, usize)>,
    inbox: VecDeque<(usize, Bytes)>,
}

/// Two sessions and the two TCP connections between them.
struct Pair {
    left: End,
    right: End,
    now: Instant,
}

impl Pair {
    fn new(left: SessionConfig, right: SessionConfig) -> Self {
        let now = Instant::now();
        let end = |config| End { session: Session::new(config, now), live: Vec::new(), inbox: VecDeque::new() };
        let mut pair = Self { left: end(left), right: end(right), now };
        pair.left.session.start(now);
        pair.right.session.start(now);
        pair
    }

    /// TCP connection 0 is opened by the left end, 1 by the right one.
    fn connect_both(&mut self) {
        for (number, left_opens) in [(0, true), (1, false)] {
            let left = self.left.session.connected(left_opens, self.now).unwrap();
            let right = self.right.session.connected(!left_opens, self.now).unwrap();
            self.left.live.push((left, number));
            self.right.live.push((right, number));
        }
    }

    /// Moves octets until nothing moves; `order` decides which end and which connection go first.
    fn run(&mut self, order: u8) {
        let mut turn = order;
        for _ in 0..200 {
            for left in if turn.is_multiple_of(2) { [true, false] } else { [false, true] } {
                let (from, to) =
                    if left { (&mut self.left, &mut self.right) } else { (&mut self.right, &mut self.left) };
                carry(from, to, self.now);
            }
            let end = if (turn / 2).is_multiple_of(2) { &mut self.left } else { &mut self.right };
            let preferred = usize::from((turn / 4).is_multiple_of(2));
            let at = end.inbox.iter().position(|(number, _)| *number == preferred).unwrap_or(0);
            if let Some((number, octets)) = end.inbox.remove(at)
                && let Some((id, _)) = end.live.iter().find(|(_, n)| *n == number).copied()
            {
                if octets.is_empty() {
                    end.live.retain(|(_, n)| *n != number);
                    end.session.closed(id, None, self.now);
                } else {
                    end.session.received(id, &octets, self.now);
                }
            }
            turn = turn.wrapping_mul(5).wrapping_add(3) % 24;
        }
    }
}

/// Sends what one end has to send; an empty message is the end of the connection.
fn carry(from: &mut End, to: &mut End, _now: Instant) {
    while let Some(output) = from.session.poll_output() {
        match output {
            Output::Send(id, octets) => {
                if let Some((_, number)) = from.live.iter().find(|(live, _)| *live == id) {
                    to.inbox.push_back((*number, octets));
                }
            }
            Output::Close(id) => {
                if let Some(at) = from.live.iter().position(|(live, _)| *live == id) {
                    let (_, number) = from.live.remove(at);
                    to.inbox.push_back((number, Bytes::new()));
                }
            }
            _ => {}
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Connected(bool),
    Failed,
    Open(u8, bool),
    Keepalive(u8),
    Refresh(u8),
    Octets(u8, Vec<u8>),
    Closed(u8),
    Written(u8, bool),
    Pass(u16),
    Stop(bool),
    Start,
}

fn op() -> impl proptest::strategy::Strategy<Value = Op> {
    use proptest::prelude::*;
    prop_oneof![
        3 => any::<bool>().prop_map(Op::Connected),
        1 => Just(Op::Failed),
        4 => (0u8..4, any::<bool>()).prop_map(|(id, right)| Op::Open(id, right)),
        4 => (0u8..4).prop_map(Op::Keepalive),
        1 => (0u8..4).prop_map(Op::Refresh),
        1 => (0u8..4, proptest::collection::vec(any::<u8>(), 0..40)).prop_map(|(id, octets)| Op::Octets(id, octets)),
        1 => (0u8..4).prop_map(Op::Closed),
        1 => (0u8..4, any::<bool>()).prop_map(|(id, pending)| Op::Written(id, pending)),
        2 => (0u16..300).prop_map(Op::Pass),
        1 => any::<bool>().prop_map(Op::Stop),
        1 => Just(Op::Start),
    ]
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(500))]

    /// Whatever happens in whatever order: no panic, few connections, Up and Down alternate, nothing is sent on a connection that was
    /// closed, and a session that is wanted always has something under way or a timer that will start it.
    #[test]
    fn any_order_of_events_is_survived(ops in proptest::collection::vec(op(), 0..60), passive: bool) {
        let mut script = Script::new(SessionConfig { passive, ..config(64512, 1, 64513) });
        let mut ids: Vec<ConnectionId> = Vec::new();
        let mut connecting = false;
        let (mut up, mut gone) = (None, Vec::new());
        for op in ops {
            let id = |n: u8| ids.iter().rev().nth(usize::from(n)).copied();
            match op {
                Op::Connected(outgoing) => {
                    if !outgoing || connecting {
                        connecting &= !outgoing;
                        ids.extend(script.session.connected(outgoing, script.now));
                    }
                }
                Op::Failed if connecting => {
                    connecting = false;
                    script.session.connect_failed("refused", script.now);
                }
                Op::Open(n, right) => if let Some(id) = id(n) {
                    script.open(id, |open| if !right { open.hold_time = 3; open.asn ^= 1; });
                },
                Op::Keepalive(n) => if let Some(id) = id(n) { script.hear(id, &Message::Keepalive); },
                Op::Refresh(n) => if let Some(id) = id(n) {
                    let family = Family::Ipv4.afi_safi();
                    script.hear(id, &Message::RouteRefresh(RouteRefresh { family, subtype: RefreshSubtype::Request }));
                },
                Op::Octets(n, octets) => if let Some(id) = id(n) { script.session.received(id, &octets, script.now); },
                Op::Closed(n) => if let Some(id) = id(n) {
                    script.session.closed(id, None, script.now);
                    gone.push(id);
                },
                Op::Written(n, pending) => if let Some(id) = id(n) { script.session.written(id, pending, script.now); },
                Op::Pass(seconds) => script.pass(SECOND * u32::from(seconds)),
                Op::Stop(true) => script.session.stop(&Stop::Restart, script.now),
                Op::Stop(false) => script.session.stop(&Stop::Shutdown("x".to_owned()), script.now),
                Op::Start => script.session.start(script.now),
                Op::Failed => {}
            }
            for output in script.take() {
                match output {
                    Output::Connect => { proptest::prop_assert!(!connecting && !passive); connecting = true; }
                    Output::CancelConnect => { proptest::prop_assert!(connecting); connecting = false; }
                    Output::Send(id, octets) => {
                        proptest::prop_assert!(!gone.contains(&id) && !octets.is_empty());
                    }
                    Output::Close(id) => { proptest::prop_assert!(!gone.contains(&id)); gone.push(id); }
                    Output::Up(id, _) => { proptest::prop_assert_eq!(up, None); up = Some(id); }
                    Output::Down(_) => { proptest::prop_assert!(up.is_some()); up = None; }
                    Output::Refresh(_) | Output::Heard(_) => proptest::prop_assert!(up.is_some()),
                }
            }
            proptest::prop_assert!(script.session.connections.len() <= CONNECTIONS);
            proptest::prop_assert_eq!(up.is_some(), script.session.state().0 == State::Established);
            let wanted = script.session.started && !passive;
            let alive = connecting || !script.session.connections.is_empty() || script.session.poll_timeout().is_some();
            proptest::prop_assert!(!wanted || alive, "nothing will ever happen again");
        }
    }
}
