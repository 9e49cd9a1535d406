//! Four codecs must agree on what our UPDATEs mean, and on what is wrong with broken ones.

use std::net::Ipv4Addr;

use bytes::BytesMut;
use destguard_bgp::wire::builder::end_of_rib;
use destguard_bgp::wire::capability::{AddPathMode, Capability, GracefulRestart, LongLivedFamily, RestartFamily};
use destguard_bgp::wire::iana::{AfiSafi, Cease, Family, FsmError, MessageType, Role};
use destguard_bgp::wire::message::{Message, Notification, Open, RefreshSubtype, RouteRefresh};
use destguard_bgp_difftest::{BgpRs, Bgpkit, Codec, DECODE, ENCODE, Generator, Netgauze, Ours, Verdict};

#[test]
fn others_read_what_we_write() {
    let mut generator = Generator::new(1);
    let mut bgp_rs_votes = 0;
    for round in 0..3000 {
        let octets = generator.update();
        let Verdict::Update(mut ours) = Ours::read(&octets) else { panic!("round {round}: {:?}", Ours::read(&octets)) };
        assert_eq!(Netgauze::read(&octets), Verdict::Update(ours.clone()), "netgauze, round {round}");
        assert_eq!(Bgpkit::read(&octets), Verdict::Update(ours.clone()), "bgpkit, round {round}");
        if let Verdict::Update(theirs) = BgpRs::read(&octets) {
            // It has no OTC, which is younger.
            bgp_rs_votes += 1;
            ours.otc = None;
            assert_eq!(theirs, ours, "bgp-rs, round {round}");
        }
    }
    assert!(bgp_rs_votes > 500, "bgp-rs voted only {bgp_rs_votes} times");
}

#[test]
fn we_read_what_others_write() {
    let mut generator = Generator::new(2);
    let mut counts = [0; 3];
    for round in 0..2000 {
        let octets = generator.update();
        let ours = Ours::read(&octets);
        for (index, (name, rewrite)) in [
            ("netgauze", Netgauze::rewrite as fn(&[u8]) -> Option<Vec<u8>>),
            ("bgpkit", Bgpkit::rewrite),
            ("ours", Ours::rewrite),
        ]
        .into_iter()
        .enumerate()
        {
            if let Some(theirs) = rewrite(&octets) {
                counts[index] += 1;
                assert_eq!(Ours::read(&theirs), ours, "{name}, round {round}");
            }
        }
    }
    assert!(counts.iter().all(|count| *count > 1500), "{counts:?}");
}

#[test]
fn broken_updates_mean_the_same_or_are_refused() {
    let mut generator = Generator::new(3);
    let (mut agreed, mut stricter, mut milder) = (0, vec![], vec![]);
    for round in 0..10_000 {
        let mut octets = generator.update();
        generator.mutate(&mut octets);
        let (one, two) = (Netgauze::read(&octets), Bgpkit::read(&octets));
        match Ours::read(&octets) {
            Verdict::Update(ours) => match (&one, &two) {
                (Verdict::Update(one), Verdict::Update(two)) if one == two => {
                    agreed += 1;
                    assert_eq!(ours, *one, "round {round}: both others read something else");
                }
                (Verdict::Refused(one), Verdict::Refused(two)) => milder.push(format!("{one} / {two} / {ours:?}")),
                _ => {}
            },
            Verdict::Refused(ours) => {
                if matches!((&one, &two), (Verdict::Update(one), Verdict::Update(two)) if one == two) {
                    stricter.push(ours);
                }
            }
            other => panic!("round {round}: {other:?}"),
        }
    }
    // A well-known attribute that nobody knows: RFC 4271 section 6.3 still resets the session.
    stricter.retain(|ours| !ours.contains("unrecognized well-known attribute"));
    // The partial bit is no error since RFC 7606 section 3.c; and what we don't know we don't judge.
    milder.retain(|both| {
        !["InvalidPartialFlagValue", "Aigp", "SegmentIdentifier", "BgpLs"].iter().any(|known| both.contains(known))
    });
    assert!(stricter.is_empty(), "we refuse what both others read the same way: {stricter:#?}");
    assert!(milder.is_empty(), "we read what both others refuse: {milder:#?}");
    assert!(agreed > 3000, "{agreed}");
}

/// The octets of a message, and that both oracles read it as this type and write it back as the same message.
fn assert_understood(message: &Message<'_>) {
    let mut out = BytesMut::new();
    message.encode(&ENCODE, &mut out).expect("room");
    let expected = Verdict::Other(message.kind().code());
    assert_eq!(Netgauze::read(&out), expected, "netgauze: {message:?}");
    assert_eq!(Bgpkit::read(&out), expected, "bgpkit: {message:?}");
    for (name, rewritten) in [("netgauze", Netgauze::rewrite(&out)), ("bgpkit", Bgpkit::rewrite(&out))] {
        let rewritten = rewritten.unwrap_or_else(|| panic!("{name} cannot write {message:?}"));
        assert_eq!(Message::decode(&rewritten, &DECODE).as_ref(), Ok(message), "{name}");
    }
}

fn capabilities() -> Vec<Capability> {
    let (v4, v6): (AfiSafi, AfiSafi) = (Family::Ipv4.into(), Family::Ipv6.into());
    vec![
        Capability::Multiprotocol(v4),
        Capability::Multiprotocol(v6),
        Capability::RouteRefresh,
        Capability::ExtendedNextHop(vec![(v4, 2)]),
        Capability::ExtendedMessage,
        Capability::Role(Role::Customer),
        Capability::GracefulRestart(GracefulRestart {
            restarting: true,
            // N of RFC 8538 is not set here: bgpkit does not know it.
            notification: false,
            time: 120,
            families: vec![
                RestartFamily { family: v4, forwarding: true },
                RestartFamily { family: v6, forwarding: false },
            ],
        }),
        Capability::FourOctetAs(4_200_000_000),
        Capability::AddPath(vec![(v4, AddPathMode::Receive), (v6, AddPathMode::Both)]),
        Capability::EnhancedRouteRefresh,
        Capability::LongLivedGracefulRestart(vec![LongLivedFamily { family: v4, forwarding: true, stale_time: 3600 }]),
        Capability::Fqdn { host: "guard".into(), domain: "example".into() },
    ]
}

#[test]
fn opens_with_each_capability() {
    let open = |capabilities| {
        let identifier = Ipv4Addr::new(192, 0, 2, 1);
        Message::Open(Open { asn: 64512, hold_time: 90, identifier, capabilities })
    };
    assert_understood(&open(vec![]));
    for capability in capabilities() {
        if !matches!(capability, Capability::FourOctetAs(_)) {
            assert_understood(&open(vec![capability]));
        }
    }
    let restart = GracefulRestart { notification: true, time: 120, ..GracefulRestart::default() };
    let message = open(vec![Capability::GracefulRestart(restart)]);
    let mut out = BytesMut::new();
    message.encode(&ENCODE, &mut out).expect("room");
    let rewritten = Netgauze::rewrite(&out).expect("netgauze knows RFC 8538");
    assert_eq!(Message::decode(&rewritten, &DECODE), Ok(message));

    let identifier = Ipv4Addr::new(192, 0, 2, 1);
    let all = Open { asn: 4_200_000_000, hold_time: 90, identifier, capabilities: capabilities() };
    assert_understood(&Message::Open(all));
}

#[test]
fn open_in_the_extended_form() {
    // Of the two only bgpkit knows RFC 9072.
    let capabilities = [capabilities(), vec![Capability::Raw { code: 200, value: vec![7; 200] }]].concat();
    let identifier = Ipv4Addr::new(192, 0, 2, 1);
    let open = Message::Open(Open { asn: 4_200_000_000, hold_time: 90, identifier, capabilities });
    let mut out = BytesMut::new();
    open.encode(&ENCODE, &mut out).expect("room");
    let rewritten = Bgpkit::rewrite(&out).expect("bgpkit reads and writes it");
    assert_eq!(Message::decode(&rewritten, &DECODE), Ok(open));
}

#[test]
fn other_messages() {
    assert_understood(&Message::Keepalive);
    for family in [Family::Ipv4, Family::Ipv6] {
        for subtype in [RefreshSubtype::Request, RefreshSubtype::Begin, RefreshSubtype::End] {
            assert_understood(&Message::RouteRefresh(RouteRefresh { family: family.into(), subtype }));
        }
        let mut out = BytesMut::new();
        end_of_rib(&ENCODE, family, &mut out).expect("negotiated");
        assert_eq!(Netgauze::read(&out), Verdict::Update(Box::default()));
        assert_eq!(Bgpkit::read(&out), Verdict::Update(Box::default()));
        assert_eq!(BgpRs::read(&out), Verdict::Update(Box::default()));
    }
    for notification in [
        Notification::hold_timer_expired(),
        Notification::unexpected(FsmError::UnexpectedInOpenSent, MessageType::Update),
        Notification::cease(Cease::MaximumPrefixes),
        Notification::cease(Cease::ConnectionCollision),
        Notification::cease(Cease::BfdDown),
        Notification::shutdown("maintenance until 3"),
        Notification::hard_reset(&Notification::shutdown("maintenance until 3")),
        Notification { code: 2, subcode: 7, data: vec![1, 4, 0, 2, 0, 1] },
        Notification { code: 3, subcode: 1, data: vec![] },
        Notification { code: 7, subcode: 1, data: vec![1, 2, 3] },
    ] {
        assert_understood(&Message::Notification(notification));
    }
}
