//! Properties: nothing panics, what is read can be written and read again, what is written is read as it was.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::strategy::Union;

use super::*;
use crate::wire::attribute::{
    Aggregator, AsPath, Attributes, LargeCommunity, Origin, Segment, SegmentKind, UnknownAttribute,
};
use crate::wire::builder::{AttributeBlock, announce, withdraw};
use crate::wire::capability::{
    AddPathMode, Capability, GracefulRestart, LongLivedFamily, RestartFamily, decode_capabilities, negotiate,
};
use crate::wire::iana::{AfiSafi, Family, Role};
use crate::wire::message::{
    MpReach, MpUnreach, NextHop, Notification, Open, RefreshSubtype, RouteRefresh, Update, frame,
};
use crate::wire::nlri::{Nlri, Prefix};

fn any_families() -> impl Strategy<Value = Families> {
    any::<(bool, bool)>().prop_map(|(ipv4, ipv6)| Families { ipv4, ipv6 })
}

fn any_context() -> impl Strategy<Value = DecodeContext> {
    (any::<[bool; 5]>(), any_families(), any_families()).prop_map(|(flags, families, add_path)| DecodeContext {
        peer_type: if flags[0] { PeerType::Internal } else { PeerType::External },
        four_octet_as: flags[1],
        extended_message: flags[2],
        enhanced_route_refresh: flags[3],
        extended_next_hop: flags[4],
        families,
        add_path,
    })
}

fn encoder_of(context: &DecodeContext) -> EncodeContext {
    EncodeContext {
        four_octet_as: context.four_octet_as,
        extended_message: context.extended_message,
        extended_next_hop: context.extended_next_hop,
        ipv4_in_mp: false,
        families: context.families,
        add_path: context.add_path,
    }
}

/// Reads, writes and reads again: the second reading must give what was written. Returns whether it could be read.
pub(in crate::wire) fn stable(octets: &[u8], context: &DecodeContext) -> bool {
    let Ok(first) = Message::decode(octets, context) else { return false };
    if let Message::Update(update) = &first {
        assert_eq!(update.announced().count(), update.announced_len());
        assert_eq!(update.withdrawn().count(), update.withdrawn_len());
    }
    let mut out = BytesMut::new();
    // A two-octet peer's path can grow beyond the limit when AS4_PATH is written next to it.
    if first.encode(&encoder_of(context), &mut out).is_err() {
        assert!(out.is_empty());
        return true;
    }
    match (&first, Message::decode(&out, context)) {
        (Message::Update(one), Ok(Message::Update(two))) => {
            assert_eq!((&one.reach, &one.unreach), (&two.reach, &two.unreach));
            assert_eq!((&one.mp_reach, &one.mp_unreach), (&two.mp_reach, &two.mp_unreach));
            if context.four_octet_as {
                assert_eq!(one.attributes, two.attributes);
            }
            let mut again = BytesMut::new();
            Message::Update(two.clone()).encode(&encoder_of(context), &mut again).unwrap();
            if context.four_octet_as {
                assert_eq!(out, again);
            }
        }
        // With its broken attributes gone, an UPDATE may lack what its routes need; it never is an error.
        (one, two) => assert_eq!(Ok(one.clone()), two),
    }
    true
}

/// Attributes one after the other, most of them of a known type with a likely length.
fn likely_attributes() -> impl Strategy<Value = Vec<u8>> {
    let code = Union::new([(0..=20u8).boxed(), Just(32u8).boxed(), Just(35u8).boxed(), any::<u8>().boxed()]);
    let flags = prop_oneof![Just(0x40u8), Just(0x80), Just(0xC0), any::<u8>()];
    let family = prop_oneof![Just(vec![0u8, 1, 1]), Just(vec![0u8, 2, 1, 16]), vec(any::<u8>(), 0..4)];
    let one = (flags, code, family, vec(any::<u8>(), 0..24)).prop_map(|(flags, code, family, value)| {
        let value = if matches!(code, 14 | 15) { [family, value].concat() } else { value };
        let mut octets = vec![flags & !0x10, code, value.len() as u8];
        octets.extend(value);
        octets
    });
    vec(one, 0..12).prop_map(|all| all.concat())
}

fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut octets = vec![0xFF; 16];
    octets.extend(((body.len() + 19) as u16).to_be_bytes());
    octets.push(kind);
    octets.extend(body);
    octets
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_octets_never_panic(octets in vec(any::<u8>(), 0..200), context in any_context()) {
        // Only whole messages are read.
        prop_assert_eq!(
            Message::decode(&octets, &context).is_ok_and(|_| frame(&octets, &context) != Ok(Some(octets.len()))),
            false
        );
        let mut all = vec![];
        prop_assert!(decode_capabilities(&octets, &mut all).is_ok() || all.len() <= octets.len() / 2);
        for family in Family::ALL {
            if let Some(nlri) = Nlri::parse(family, context.add_path, &octets) {
                prop_assert_eq!(nlri.iter().count(), nlri.len());
            }
        }
    }

    #[test]
    fn any_body_is_read_stably(kind in 1..=5u8, body in vec(any::<u8>(), 0..200), context in any_context()) {
        stable(&framed(kind, &body), &context);
    }

    #[test]
    fn any_open_parameters_are_read_stably(parameters in vec(any::<u8>(), 0..64), extended: bool) {
        let length = parameters.len() as u8;
        let mut body = hex("04 fc00 005a c0000201");
        if extended {
            body.extend([255, 255, 0, length + 3, 2, 0, length]);
        } else {
            body.extend([length + 2, 2, length]);
        }
        body.extend(parameters);
        stable(&framed(1, &body), &DECODE);
    }

    #[test]
    fn any_attributes_are_read_stably(
        attributes in likely_attributes(), nlri in vec(any::<u8>(), 0..12), mandatory: bool, context in any_context(),
    ) {
        let mandatory = if mandatory { hex("40 01 01 00 40 02 00 40 03 04 c0000201") } else { vec![] };
        let attributes = [mandatory, attributes].concat();
        let mut body = vec![0, 0];
        body.extend((attributes.len() as u16).to_be_bytes());
        body.extend(attributes);
        body.extend(nlri);
        stable(&framed(2, &body), &context);
    }

    #[test]
    fn any_change_to_a_good_message_never_panics(
        attributes in any_attributes(), at in any::<prop::sample::Index>(), value: u8, context in any_context(),
    ) {
        let message = Message::Update(Update { attributes, ..Update::empty() });
        let mut octets = encode(&message, &ENCODE);
        let at = at.index(octets.len() - 19) + 19;
        octets[at] = value;
        stable(&octets, &context);
    }

    #[test]
    fn open_round_trip(open in any_open()) {
        let octets = encode(&Message::Open(open.clone()), &ENCODE);
        prop_assert_eq!(Message::decode(&octets, &DECODE), Ok(Message::Open(open)));
    }

    #[test]
    fn negotiation_is_symmetric(ours in any_open(), theirs in any_open()) {
        match (negotiate(&ours, &theirs), negotiate(&theirs, &ours)) {
            (Ok(one), Ok(two)) => {
                prop_assert_eq!(one.families, two.families);
                prop_assert_eq!(one.hold_time, two.hold_time);
                prop_assert_eq!(one.peer_type, two.peer_type);
                prop_assert_eq!(
                    [one.four_octet_as, one.route_refresh, one.enhanced_route_refresh, one.extended_message],
                    [two.four_octet_as, two.route_refresh, two.enhanced_route_refresh, two.extended_message],
                );
                prop_assert_eq!(one.graceful_restart.is_some(), two.graceful_restart.is_some());
                prop_assert_eq!(one.graceful_notification, two.graceful_notification);
            }
            (one, two) => prop_assert_eq!(one.is_err(), two.is_err()),
        }
    }

    #[test]
    fn notification_round_trip(code: u8, subcode: u8, data in vec(any::<u8>(), 0..300)) {
        let message = Message::Notification(Notification { code, subcode, data });
        let octets = encode(&message, &ENCODE);
        prop_assert_eq!(Message::decode(&octets, &DECODE), Ok(message));
    }

    #[test]
    fn notification_text_round_trip(text in "\\PC{0,300}") {
        let sent = Notification::shutdown(&text);
        let read = sent.text().unwrap_or_default();
        prop_assert!(text.starts_with(&read) && read.len() <= 255);
        prop_assert!(text.len() <= 255 || read.len() > 251);
        let _ = sent.to_string();
    }

    #[test]
    fn route_refresh_round_trip(family in any_afi_safi(), code: u8) {
        let subtype = match code {
            0 => RefreshSubtype::Request,
            1 => RefreshSubtype::Begin,
            2 => RefreshSubtype::End,
            code => RefreshSubtype::Unknown(code),
        };
        let message = Message::RouteRefresh(RouteRefresh { family, subtype });
        let octets = encode(&message, &ENCODE);
        prop_assert_eq!(Message::decode(&octets, &DECODE), Ok(message));
    }

    #[test]
    fn update_round_trip(
        attributes in any_attributes(),
        four in vec(any::<(u32, u8)>(), 0..40),
        six in vec(any::<(u128, u8)>(), 0..40),
        next_hop in any_next_hop(),
    ) {
        let four = nlri_octets(four.iter().map(|(bits, len)| {
            ipnet::Ipv4Net::new(Ipv4Addr::from_bits(*bits), len % 33).unwrap().into()
        }));
        let six = nlri_octets(six.iter().map(|(bits, len)| {
            ipnet::Ipv6Net::new(Ipv6Addr::from_bits(*bits), len % 129).unwrap().into()
        }));
        let parse = |family, octets| Nlri::parse(family, Families::NONE, octets).unwrap();
        let mandatory = Attributes {
            origin: attributes.origin.or(Some(Origin::Igp)),
            as_path: attributes.as_path.clone().or(Some(AsPath::default())),
            next_hop: attributes.next_hop.or(Some(Ipv4Addr::new(192, 0, 2, 1))),
            ..attributes
        };
        let update = Update {
            unreach: parse(Family::Ipv4, &four),
            reach: parse(Family::Ipv4, &four),
            mp_reach: Some(MpReach { next_hop, nlri: parse(Family::Ipv6, &six) }),
            mp_unreach: Some(MpUnreach { nlri: parse(Family::Ipv6, &six) }),
            attributes: mandatory,
            ..Update::empty()
        };
        let octets = encode(&Message::Update(update.clone()), &ENCODE);
        prop_assert_eq!(Message::decode(&octets, &DECODE), Ok(Message::Update(update)));
    }

    #[test]
    fn attributes_reach_a_two_octet_peer_whole(attributes in any_attributes()) {
        let decode = DecodeContext { four_octet_as: false, ..DECODE };
        let context = EncodeContext { four_octet_as: false, ..ENCODE };
        // An aggregator without four-octet number voids AS4_PATH, as if an old speaker had aggregated (RFC 6793).
        let aggregator = attributes.aggregator.filter(|it| it.asn > 65535);
        let attributes = Attributes { aggregator, as_path: attributes.as_path.map(joined), ..attributes };
        let message = Message::Update(Update { attributes, ..Update::empty() });
        let octets = encode(&message, &context);
        prop_assert_eq!(Message::decode(&octets, &decode), Ok(message));
    }

    #[test]
    fn packing_is_exact(count in 0..900usize, communities in 0..900usize, lengths in vec(0..=32u8, 900)) {
        let attributes = Attributes {
            origin: Some(Origin::Igp),
            as_path: Some(AsPath::default()),
            communities: vec![7; communities],
            ..Attributes::default()
        };
        let hop = NextHop::Ipv4(Ipv4Addr::new(192, 0, 2, 1));
        let block = AttributeBlock::new(&ENCODE, Family::Ipv4, hop, &attributes).unwrap();
        let prefixes: Vec<ipnet::IpNet> = (0..count)
            .map(|index| {
                let address = Ipv4Addr::from_bits(0xC633_0000 + index as u32);
                ipnet::Ipv4Net::new(address, lengths[index]).unwrap().trunc().into()
            })
            .collect();
        let mut out = BytesMut::new();
        let fitted = announce(&ENCODE, &block, &prefixes, &mut out).unwrap();
        prop_assert!(out.len() <= 4096);
        if fitted < count {
            prop_assert!(out.len() + prefixes[fitted].encoded_len() > 4096);
        }
        if count > 0 {
            let Ok(Message::Update(update)) = Message::decode(&out, &DECODE) else { panic!() };
            let read: Vec<_> = update.announced().map(|route| route.prefix).collect();
            prop_assert_eq!(&read[..], &prefixes[..fitted]);
            out.clear();
            let fitted = withdraw(&ENCODE, Family::Ipv4, &prefixes, &mut out).unwrap();
            let Ok(Message::Update(update)) = Message::decode(&out, &DECODE) else { panic!() };
            let read: Vec<_> = update.withdrawn().map(|route| route.prefix).collect();
            prop_assert_eq!(&read[..], &prefixes[..fitted]);
        }
    }
}

/// One sequence of the whole path: what AS4_PATH of an old speaker can express without loss.
fn joined(path: AsPath) -> AsPath {
    AsPath::sequence(path.asns().take(200).collect::<Vec<_>>())
}

fn nlri_octets(prefixes: impl Iterator<Item = ipnet::IpNet>) -> Vec<u8> {
    let mut out = BytesMut::new();
    prefixes.for_each(|prefix| prefix.put(&mut out));
    out.to_vec()
}

fn any_next_hop() -> impl Strategy<Value = NextHop> {
    prop_oneof![
        any::<u128>().prop_map(|bits| NextHop::Ipv6(Ipv6Addr::from_bits(bits))),
        any::<(u128, u128)>()
            .prop_map(|(one, two)| NextHop::Ipv6WithLinkLocal(Ipv6Addr::from_bits(one), Ipv6Addr::from_bits(two))),
    ]
}

fn any_afi_safi() -> impl Strategy<Value = AfiSafi> {
    prop_oneof![
        Just(Family::Ipv4.afi_safi()),
        Just(Family::Ipv6.afi_safi()),
        any::<(u16, u8)>().prop_map(|(afi, safi)| AfiSafi { afi, safi }),
    ]
}

fn any_open() -> impl Strategy<Value = Open> {
    let asn = prop_oneof![1..=65535u32, 1..=u32::MAX];
    let hold_time = prop_oneof![Just(0u16), 3..=u16::MAX];
    (asn, hold_time, 1..=u32::MAX, vec(any_capability(), 0..12), any::<bool>()).prop_map(
        |(asn, hold_time, identifier, mut capabilities, four_octet)| {
            let asn = if four_octet { asn } else { asn % 65535 + 1 };
            if four_octet {
                capabilities.push(Capability::FourOctetAs(asn));
            }
            Open { asn, hold_time, identifier: Ipv4Addr::from_bits(identifier), capabilities }
        },
    )
}

fn any_capability() -> impl Strategy<Value = Capability> {
    let role = prop_oneof![
        Just(Role::Provider),
        Just(Role::RouteServer),
        Just(Role::RouteServerClient),
        Just(Role::Customer),
        Just(Role::Peer)
    ];
    let mode = prop_oneof![Just(AddPathMode::Receive), Just(AddPathMode::Send), Just(AddPathMode::Both)];
    let restart = (any::<(bool, bool)>(), 0..4096u16, vec((any_afi_safi(), any::<bool>()), 0..9)).prop_map(
        |((restarting, notification), time, families)| {
            let families =
                families.into_iter().map(|(family, forwarding)| RestartFamily { family, forwarding }).collect();
            Capability::GracefulRestart(GracefulRestart { restarting, notification, time, families })
        },
    );
    let long = (any_afi_safi(), any::<bool>(), 0..=0x00FF_FFFFu32)
        .prop_map(|(family, forwarding, stale_time)| LongLivedFamily { family, forwarding, stale_time });
    prop_oneof![
        any_afi_safi().prop_map(Capability::Multiprotocol),
        Just(Capability::RouteRefresh),
        vec((any_afi_safi(), any::<u16>()), 0..9).prop_map(Capability::ExtendedNextHop),
        Just(Capability::ExtendedMessage),
        role.prop_map(Capability::Role),
        restart,
        vec((any_afi_safi(), mode), 0..9).prop_map(Capability::AddPath),
        Just(Capability::EnhancedRouteRefresh),
        vec(long, 0..9).prop_map(Capability::LongLivedGracefulRestart),
        ("\\PC{0,20}", "\\PC{0,20}").prop_map(|(host, domain)| Capability::Fqdn { host, domain }),
        Just(Capability::OldRouteRefresh),
        (200..=255u8, vec(any::<u8>(), 0..30)).prop_map(|(code, value)| Capability::Raw { code, value }),
    ]
}

fn any_asn() -> impl Strategy<Value = u32> {
    prop_oneof![1..=65535u32, 65536..=u32::MAX]
}

fn any_path() -> impl Strategy<Value = AsPath> {
    let kind = prop_oneof![
        Just(SegmentKind::Set),
        Just(SegmentKind::Sequence),
        Just(SegmentKind::ConfederationSequence),
        Just(SegmentKind::ConfederationSet)
    ];
    let segment = (kind, vec(any_asn(), 1..9)).prop_map(|(kind, asns)| Segment { kind, asns });
    vec(segment, 0..5).prop_map(|segments| AsPath { segments })
}

fn any_attributes() -> impl Strategy<Value = Attributes> {
    let origin = prop_oneof![Just(Origin::Igp), Just(Origin::Egp), Just(Origin::Incomplete)];
    let address = || any::<u32>().prop_map(Ipv4Addr::from_bits);
    let unknown = (prop_oneof![Just(0x80u8), Just(0xC0), Just(0xE0)], 200..=255u8, vec(any::<u8>(), 0..300))
        .prop_map(|(flags, code, value)| UnknownAttribute { flags, code, value });
    let first = (
        option::of(origin),
        option::of(any_path()),
        option::of(address()),
        option::of(any::<u32>()),
        option::of(any::<u32>()),
        any::<bool>(),
        option::of((any_asn(), address())),
    );
    let second = (
        vec(any::<u32>(), 0..80),
        option::of(address()),
        vec(address(), 0..5),
        vec(any::<[u8; 8]>(), 0..5),
        vec(any::<(u32, u32, u32)>(), 0..25),
        option::of(any::<u32>()),
        option::of(unknown),
    );
    (first, second).prop_map(|(first, second)| Attributes {
        origin: first.0,
        as_path: first.1,
        next_hop: first.2,
        med: first.3,
        local_pref: first.4,
        atomic_aggregate: first.5,
        aggregator: first.6.map(|(asn, address)| Aggregator { asn, address }),
        communities: second.0,
        originator_id: second.1,
        cluster_list: second.2,
        extended_communities: second.3,
        large_communities: second
            .4
            .into_iter()
            .map(|(global, first, second)| LargeCommunity { global, first, second })
            .collect(),
        otc: second.5,
        unknown: second.6.into_iter().collect(),
    })
}
