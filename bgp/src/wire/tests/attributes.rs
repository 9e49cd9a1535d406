//! Each attribute as octets and as a value, both ways, and AS numbers at two-octet peers (RFC 6793).

use std::net::Ipv4Addr;

use super::*;
use crate::wire::attribute::{
    Aggregator, AsPath, Attributes, LargeCommunity, Origin, PARTIAL, Segment, SegmentKind, UnknownAttribute,
};
use crate::wire::iana::community;
use crate::wire::message::Update;

/// An UPDATE with only these attributes.
fn with(attributes: Attributes) -> Message<'static> {
    Message::Update(Update { attributes, ..Update::empty() })
}

fn two_octets() -> (DecodeContext, EncodeContext) {
    (DecodeContext { four_octet_as: false, ..DECODE }, EncodeContext { four_octet_as: false, ..ENCODE })
}

fn segment(kind: SegmentKind, asns: &[u32]) -> Segment {
    Segment { kind, asns: asns.to_vec() }
}

#[test]
fn both_ways() {
    let none = Attributes::default;
    let path = |segments: Vec<Segment>| Some(AsPath { segments });
    let address = Ipv4Addr::new(192, 0, 2, 1);
    for (octets, attributes) in [
        ("40 01 01 00", Attributes { origin: Some(Origin::Igp), ..none() }),
        ("40 01 01 01", Attributes { origin: Some(Origin::Egp), ..none() }),
        ("40 01 01 02", Attributes { origin: Some(Origin::Incomplete), ..none() }),
        ("40 02 00", Attributes { as_path: path(vec![]), ..none() }),
        ("40 02 06 02 01 0000fc00", Attributes { as_path: Some(AsPath::sequence([64512])), ..none() }),
        (
            "40 02 20 02 02 0000fc00 fa56ea00 01 02 00000001 00000002 03 01 00000003 04 01 00000004",
            Attributes {
                as_path: path(vec![
                    segment(SegmentKind::Sequence, &[64512, 4_200_000_000]),
                    segment(SegmentKind::Set, &[1, 2]),
                    segment(SegmentKind::ConfederationSequence, &[3]),
                    segment(SegmentKind::ConfederationSet, &[4]),
                ]),
                ..none()
            },
        ),
        ("40 03 04 c0000201", Attributes { next_hop: Some(address), ..none() }),
        ("80 04 04 0000000a", Attributes { med: Some(10), ..none() }),
        ("40 05 04 00000064", Attributes { local_pref: Some(100), ..none() }),
        ("40 06 00", Attributes { atomic_aggregate: true, ..none() }),
        (
            "c0 07 08 fa56ea00 c0000201",
            Attributes { aggregator: Some(Aggregator { asn: 4_200_000_000, address }), ..none() },
        ),
        (
            "c0 08 08 ffffff01 fc000064",
            Attributes { communities: vec![community::NO_EXPORT, 64512 << 16 | 100], ..none() },
        ),
        ("80 09 04 c0000201", Attributes { originator_id: Some(address), ..none() }),
        (
            "80 0a 08 c0000201 c6336401",
            Attributes { cluster_list: vec![address, Ipv4Addr::new(198, 51, 100, 1)], ..none() },
        ),
        (
            "c0 10 08 0002 fc00 00000064",
            Attributes { extended_communities: vec![[0, 2, 0xFC, 0, 0, 0, 0, 100]], ..none() },
        ),
        (
            "c0 20 0c 0000fc00 00000001 00000002",
            Attributes { large_communities: vec![LargeCommunity { global: 64512, first: 1, second: 2 }], ..none() },
        ),
        ("c0 23 04 0000fc00", Attributes { otc: Some(64512), ..none() }),
        (
            "e0 c8 02 abcd",
            Attributes {
                unknown: vec![UnknownAttribute { flags: 0xC0 | PARTIAL, code: 200, value: vec![0xAB, 0xCD] }],
                ..none()
            },
        ),
        (
            "80 1a 0b 01 000b 0000000000000001",
            Attributes {
                unknown: vec![UnknownAttribute { flags: 0x80, code: 26, value: hex("01 000b 0000000000000001") }],
                ..none()
            },
        ),
    ] {
        assert_both_ways(&update("", octets, ""), &with(attributes), &DECODE, &ENCODE);
    }
}

#[test]
fn all_in_ascending_order() {
    let octets = "40 01 01 00 40 02 06 02 01 0000fc00 40 03 04 c0000201 80 04 04 00000001 40 05 04 00000064 40 06 00
        c0 07 08 0000fc00 c0000201 c0 08 04 ffffff01 80 09 04 c0000201 80 0a 04 c0000201 c0 10 08 0002fc0000000064
        c0 20 0c 000000010000000200000003 c0 23 04 0000fc00 c0 c8 00";
    let octets = update("", octets, "20 cb007101");
    let decoded = Message::decode(&octets, &DECODE).unwrap();
    let Message::Update(update) = &decoded else { panic!() };
    assert_eq!(update.problems, []);
    assert_eq!(encode(&decoded, &ENCODE), octets);
}

#[test]
fn lengths_of_two_octets() {
    // A short attribute may come with a long length; it goes out with a short one.
    let octets = update("", "50 01 0001 00", "");
    assert_eq!(
        Message::decode(&octets, &DECODE),
        Ok(with(Attributes { origin: Some(Origin::Igp), ..Default::default() }))
    );
    for (count, header) in [(63, hex("c0 08 fc")), (64, hex("d0 08 0100"))] {
        let message = with(Attributes { communities: vec![7; count], ..Default::default() });
        let octets = encode(&message, &ENCODE);
        assert_eq!(octets[23..23 + header.len()], header);
        assert_eq!(Message::decode(&octets, &DECODE), Ok(message));
    }
}

#[test]
fn long_sequences_are_split_and_sets_refused() {
    let sequence = with(Attributes { as_path: Some(AsPath::sequence(vec![1; 300])), ..Default::default() });
    let octets = encode(&sequence, &ENCODE);
    let Ok(Message::Update(update)) = Message::decode(&octets, &DECODE) else { panic!() };
    let path = update.attributes.as_path.unwrap();
    assert_eq!(path.segments.iter().map(|segment| segment.asns.len()).collect::<Vec<_>>(), [255, 45]);
    let set = AsPath { segments: vec![segment(SegmentKind::Set, &[1; 256])] };
    let mut out = BytesMut::new();
    assert!(with(Attributes { as_path: Some(set), ..Default::default() }).encode(&ENCODE, &mut out).is_err());
    assert!(out.is_empty());
}

#[test]
fn originated_path() {
    assert_eq!(AsPath::originated(PeerType::Internal, 64512), AsPath::default());
    assert_eq!(AsPath::originated(PeerType::External, 64512), AsPath::sequence([64512]));
}

#[test]
fn path_as_routers_show_it() {
    let path = AsPath {
        segments: vec![
            segment(SegmentKind::ConfederationSequence, &[65001]),
            segment(SegmentKind::Sequence, &[1, 2]),
            segment(SegmentKind::Set, &[3, 4]),
        ],
    };
    assert_eq!(path.to_string(), "(65001) 1 2 {3 4}");
    assert_eq!(path.hops(), 3);
}

#[test]
fn two_octet_peer_gets_as_trans_and_as4_path() {
    let (decode, context) = two_octets();
    for (octets, attributes) in [
        // Numbers that fit need no second attribute.
        (
            "40 02 06 02 02 fc00 fc01",
            Attributes { as_path: Some(AsPath::sequence([64512, 64513])), ..Default::default() },
        ),
        (
            "40 02 06 02 02 5ba0 fc01  c0 11 0a 02 02 fa56ea00 0000fc01",
            Attributes { as_path: Some(AsPath::sequence([4_200_000_000, 64513])), ..Default::default() },
        ),
        (
            "c0 07 06 fc00 c0000201",
            Attributes {
                aggregator: Some(Aggregator { asn: 64512, address: Ipv4Addr::new(192, 0, 2, 1) }),
                ..Default::default()
            },
        ),
        (
            "c0 07 06 5ba0 c0000201  c0 12 08 fa56ea00 c0000201",
            Attributes {
                aggregator: Some(Aggregator { asn: 4_200_000_000, address: Ipv4Addr::new(192, 0, 2, 1) }),
                ..Default::default()
            },
        ),
    ] {
        assert_both_ways(&update("", octets, ""), &with(attributes), &decode, &context);
    }
}

/// AS_PATH and AS4_PATH (kind, numbers), and the path that they mean.
type Merge<'a> = (&'a [(SegmentKind, &'a [u32])], &'a [(SegmentKind, &'a [u32])], &'a [(SegmentKind, &'a [u32])]);

#[test]
fn as4_path_is_merged() {
    use SegmentKind::{ConfederationSequence as Confed, Sequence as Seq, Set};
    let cases: &[Merge<'_>] = &[
        // Same length: AS4_PATH counts.
        (&[(Seq, &[23456, 23456])], &[(Seq, &[100_000, 200_000])], &[(Seq, &[100_000, 200_000])]),
        // Two old speakers were on the way since.
        (&[(Seq, &[1, 2, 23456])], &[(Seq, &[100_000])], &[(Seq, &[1, 2, 100_000])]),
        // Longer than the path: out of date, ignored.
        (&[(Seq, &[1])], &[(Seq, &[100_000, 200_000])], &[(Seq, &[1])]),
        // A set is one hop.
        (
            &[(Seq, &[1, 23456]), (Set, &[2, 3])],
            &[(Seq, &[100_000]), (Set, &[2, 3])],
            &[(Seq, &[1, 100_000]), (Set, &[2, 3])],
        ),
        (&[(Set, &[1, 2]), (Seq, &[23456])], &[(Seq, &[100_000])], &[(Set, &[1, 2]), (Seq, &[100_000])]),
        // Confederation segments are no hops; leading ones stay.
        (&[(Confed, &[65001]), (Seq, &[23456])], &[(Seq, &[100_000])], &[(Confed, &[65001]), (Seq, &[100_000])]),
        // In AS4_PATH they have no business.
        (&[(Seq, &[23456])], &[(Confed, &[65001]), (Seq, &[100_000])], &[(Seq, &[100_000])]),
    ];
    let (decode, _) = two_octets();
    let path = |segments: &[(SegmentKind, &[u32])]| AsPath {
        segments: segments.iter().map(|(kind, asns)| segment(*kind, asns)).collect(),
    };
    let code = |kind: SegmentKind| match kind {
        Set => 1u8,
        Seq => 2,
        Confed => 3,
        SegmentKind::ConfederationSet => 4,
    };
    for (two, four, merged) in cases {
        let mut value2 = vec![];
        for (kind, asns) in *two {
            value2.extend([code(*kind), asns.len() as u8]);
            asns.iter().for_each(|asn| value2.extend((*asn as u16).to_be_bytes()));
        }
        let mut value4 = vec![];
        for (kind, asns) in *four {
            value4.extend([code(*kind), asns.len() as u8]);
            asns.iter().for_each(|asn| value4.extend(asn.to_be_bytes()));
        }
        let octets = |octets: &[u8]| octets.iter().map(|octet| format!("{octet:02x}")).collect::<String>();
        let attributes =
            format!("4002{:02x}{} c011{:02x}{}", value2.len(), octets(&value2), value4.len(), octets(&value4));
        let message = update("", &attributes, "");
        let Ok(Message::Update(update)) = Message::decode(&message, &decode) else { panic!() };
        assert_eq!(update.problems, []);
        assert_eq!(update.attributes.as_path, Some(path(merged)), "{two:?} {four:?}");
    }
}

#[test]
fn aggregator_of_an_old_speaker_makes_both_as4_attributes_void() {
    let (decode, _) = two_octets();
    let paths = "40 02 04 02 01 5ba0  c0 11 06 02 01 000186a0";
    for (aggregator, path, asn) in [
        ("c0 07 06 5ba0 c0000201  c0 12 08 000186a0 c0000202", 100_000, Some(100_000)),
        ("c0 07 06 fc00 c0000201  c0 12 08 000186a0 c0000202", 23456, Some(64512)),
        ("c0 07 06 5ba0 c0000201", 100_000, Some(23456)),
        ("c0 12 08 000186a0 c0000202", 100_000, None),
    ] {
        let octets = update("", &format!("{paths} {aggregator}"), "");
        let Ok(Message::Update(update)) = Message::decode(&octets, &decode) else { panic!() };
        assert_eq!(update.attributes.as_path, Some(AsPath::sequence([path])), "{aggregator}");
        assert_eq!(update.attributes.aggregator.map(|aggregator| aggregator.asn), asn, "{aggregator}");
    }
}
