//! Each attribute error and what RFC 7606 does with it.

use super::*;
use crate::wire::attribute::Attributes;
use crate::wire::error::{Action, DecodeError, Problem, ProblemKind, UpdateError, UpdateSubcode};
use crate::wire::iana::Family;
use crate::wire::message::{MAX_PROBLEMS, Notification, Update};

const EXTERNAL: DecodeContext = DecodeContext { peer_type: PeerType::External, ..DECODE };
const TWO_OCTETS: DecodeContext = DecodeContext { four_octet_as: false, ..DECODE };

/// The mandatory attributes but for ORIGIN.
const REST: &str = "40 02 06 02 01 0000fc00 40 03 04 c0000201";

const DISCARD: Action = Action::Discard;
const WITHDRAW: Action = Action::Withdraw;

use ProblemKind::{Duplicate, Flags, Length, Missing, NotAllowed, Truncated, Value};

fn decode<'a>(octets: &'a [u8], context: &DecodeContext) -> Result<Update<'a>, UpdateError> {
    match Message::decode(octets, context) {
        Ok(Message::Update(update)) => Ok(update),
        Err(DecodeError::Update(error)) => Err(error),
        other => panic!("{other:?}"),
    }
}

/// One row: context, the broken attribute in hexadecimal, its type, what is wrong, what is done.
type Case = (DecodeContext, &'static str, u8, ProblemKind, Action);

/// Broken attributes that come beside the good ones.
const OPTIONAL_CASES: &[Case] = &[
    // 7.4 MULTI_EXIT_DISC
    (DECODE, "80 04 03 000000", 4, Length, WITHDRAW),
    (DECODE, "80 04 05 0000000000", 4, Length, WITHDRAW),
    (DECODE, "c0 04 04 00000001", 4, Flags, WITHDRAW),
    // 7.5 LOCAL_PREF
    (DECODE, "40 05 03 000000", 5, Length, WITHDRAW),
    (DECODE, "c0 05 04 00000064", 5, Flags, WITHDRAW),
    (EXTERNAL, "40 05 04 00000064", 5, NotAllowed, DISCARD),
    (EXTERNAL, "c0 05 01 00", 5, NotAllowed, DISCARD),
    // 7.6 ATOMIC_AGGREGATE
    (DECODE, "40 06 01 00", 6, Length, DISCARD),
    (DECODE, "c0 06 00", 6, Flags, WITHDRAW),
    // 7.7 AGGREGATOR
    (DECODE, "c0 07 06 fc00 c0000201", 7, Length, DISCARD),
    (DECODE, "c0 07 00", 7, Length, DISCARD),
    (TWO_OCTETS, "c0 07 08 0000fc00 c0000201", 7, Length, DISCARD),
    (DECODE, "c0 07 08 00000000 c0000201", 7, Value, DISCARD),
    (DECODE, "40 07 08 0000fc00 c0000201", 7, Flags, WITHDRAW),
    // 7.8 COMMUNITIES
    (DECODE, "c0 08 00", 8, Length, WITHDRAW),
    (DECODE, "c0 08 05 ffffff01 00", 8, Length, WITHDRAW),
    (DECODE, "80 08 04 ffffff01", 8, Flags, WITHDRAW),
    // 7.9 ORIGINATOR_ID
    (DECODE, "80 09 03 c00002", 9, Length, WITHDRAW),
    (EXTERNAL, "80 09 04 c0000201", 9, NotAllowed, DISCARD),
    (EXTERNAL, "80 09 00", 9, NotAllowed, DISCARD),
    // 7.10 CLUSTER_LIST
    (DECODE, "80 0a 00", 10, Length, WITHDRAW),
    (DECODE, "80 0a 06 c0000201 0000", 10, Length, WITHDRAW),
    (EXTERNAL, "80 0a 04 c0000201", 10, NotAllowed, DISCARD),
    // 7.14 EXTENDED COMMUNITIES
    (DECODE, "c0 10 00", 16, Length, WITHDRAW),
    (DECODE, "c0 10 09 0002fc0000000064 00", 16, Length, WITHDRAW),
    // RFC 6793 section 6: AS4_PATH, AS4_AGGREGATOR
    (DECODE, "c0 11 06 02 01 000186a0", 17, NotAllowed, DISCARD),
    (DECODE, "c0 12 08 000186a0 c0000201", 18, NotAllowed, DISCARD),
    (TWO_OCTETS, "c0 11 04 02 01 86a0", 17, Value, DISCARD),
    (TWO_OCTETS, "c0 11 06 02 01 00000000", 17, Value, DISCARD),
    (TWO_OCTETS, "c0 12 06 86a0 c0000201", 18, Length, DISCARD),
    // RFC 8092 section 6: LARGE_COMMUNITY
    (DECODE, "c0 20 00", 32, Length, WITHDRAW),
    (DECODE, "c0 20 0d 0000fc00 00000001 00000002 00", 32, Length, WITHDRAW),
    // RFC 9234 section 5: OTC
    (DECODE, "c0 23 02 fc00", 35, Length, WITHDRAW),
    (DECODE, "80 23 04 0000fc00", 35, Flags, WITHDRAW),
    // 3.g: a second one is ignored
    (DECODE, "40 01 01 02", 1, Duplicate, DISCARD),
    // 4: runs over the end of the list
    (DECODE, "80 04 04 000000", 4, Truncated, WITHDRAW),
    (DECODE, "80 04", 4, Truncated, WITHDRAW),
    (DECODE, "90 04 00", 4, Truncated, WITHDRAW),
    (DECODE, "80", 0, Truncated, WITHDRAW),
    (DECODE, "c0 c8 ff 00", 200, Truncated, WITHDRAW),
];

#[test]
fn broken_attribute_beside_good_ones() {
    for (context, attribute, code, kind, action) in OPTIONAL_CASES {
        let path = if context.four_octet_as { REST } else { "40 02 04 02 01 fc00 40 03 04 c0000201" };
        let octets = update("18 c63364", &format!("40 01 01 00 {path} {attribute}"), "20 cb007101");
        let update = decode(&octets, context).unwrap();
        assert_eq!(update.problems, [Problem { attribute: *code, kind: *kind, action: *action }], "{attribute}");
        let withdraw = *action == WITHDRAW;
        assert_eq!(update.treat_as_withdraw, withdraw, "{attribute}");
        let counts = if withdraw { (0, 2) } else { (1, 1) };
        assert_eq!((update.announced().count(), update.withdrawn().count()), counts, "{attribute}");
        assert_eq!((update.announced_len(), update.withdrawn_len()), counts, "{attribute}");
        // The broken attribute leaves nothing behind.
        let attributes = Attributes { origin: None, as_path: None, next_hop: None, ..update.attributes.clone() };
        assert_eq!(attributes, Attributes::default(), "{attribute}");
    }
}

/// Broken mandatory attributes, with the two others good.
#[test]
fn broken_mandatory_attribute() {
    let origin = "40 01 01 00";
    let path = "40 02 06 02 01 0000fc00";
    let next_hop = "40 03 04 c0000201";
    let cases: &[(&DecodeContext, String, u8, ProblemKind)] = &[
        // 7.1
        (&DECODE, format!("40 01 01 03 {path} {next_hop}"), 1, Value),
        (&DECODE, format!("40 01 00 {path} {next_hop}"), 1, Length),
        (&DECODE, format!("40 01 02 0000 {path} {next_hop}"), 1, Length),
        (&DECODE, format!("c0 01 01 00 {path} {next_hop}"), 1, Flags),
        (&DECODE, format!("00 01 01 00 {path} {next_hop}"), 1, Flags),
        (&DECODE, format!("{path} {next_hop}"), 1, Missing),
        // 7.2: unknown segment, overrun, underrun, empty segment; RFC 7607: AS 0
        (&DECODE, format!("{origin} 40 02 06 05 01 0000fc00 {next_hop}"), 2, Value),
        (&DECODE, format!("{origin} 40 02 06 00 01 0000fc00 {next_hop}"), 2, Value),
        (&DECODE, format!("{origin} 40 02 06 02 02 0000fc00 {next_hop}"), 2, Value),
        (&DECODE, format!("{origin} 40 02 07 02 01 0000fc00 02 {next_hop}"), 2, Value),
        (&DECODE, format!("{origin} 40 02 02 02 00 {next_hop}"), 2, Value),
        (&DECODE, format!("{origin} 40 02 04 02 01 fc00 {next_hop}"), 2, Value),
        (&DECODE, format!("{origin} 40 02 06 02 01 00000000 {next_hop}"), 2, Value),
        (&DECODE, format!("{origin} 80 02 00 {next_hop}"), 2, Flags),
        (&DECODE, format!("{origin} {next_hop}"), 2, Missing),
        // RFC 5065 section 5: confederation segments from outside
        (&EXTERNAL, format!("{origin} 40 02 06 03 01 0000fc00 {next_hop}"), 2, Value),
        // 7.3
        (&DECODE, format!("{origin} {path} 40 03 03 c00002"), 3, Length),
        (&DECODE, format!("{origin} {path} 40 03 10 20010db8000000000000000000000001"), 3, Length),
        (&DECODE, format!("{origin} {path} 80 03 04 c0000201"), 3, Flags),
        (&DECODE, format!("{origin} {path}"), 3, Missing),
    ];
    for (context, attributes, code, kind) in cases {
        let octets = update("", attributes, "20 cb007101");
        let update = decode(&octets, context).unwrap();
        assert_eq!(update.problems, [Problem { attribute: *code, kind: *kind, action: WITHDRAW }], "{attributes}");
        assert_eq!((update.announced_len(), update.withdrawn_len()), (0, 1), "{attributes}");
    }
}

#[test]
fn partial_bit_is_no_error() {
    let octets = update("", &format!("60 01 01 00 {REST} e0 08 04 ffffff01"), "20 cb007101");
    assert_eq!(decode(&octets, &DECODE).unwrap().problems, []);
}

#[test]
fn mp_reach_needs_no_next_hop_attribute() {
    let mp = "80 0e 26 0002 01 10 20010db8000000000000000000000001 00 80 20010db8000100000000000000000005";
    let octets = update("", &format!("{mp} 40 01 01 00 40 02 00"), "");
    assert_eq!(decode(&octets, &DECODE).unwrap().problems, []);
    // But the two others; both families are then withdrawn.
    let octets = update("", &format!("{mp} 40 02 00 40 03 04 c0000201"), "20 cb007101");
    let update = decode(&octets, &DECODE).unwrap();
    assert_eq!(update.problems, [Problem { attribute: 1, kind: Missing, action: WITHDRAW }]);
    assert_eq!((update.announced_len(), update.withdrawn_len()), (0, 2));
}

/// Errors of the routes themselves cost the family (sections 5.3 and 7.11).
#[test]
fn broken_routes_disable_their_family() {
    let origin = format!("40 01 01 00 {REST}");
    let v6 = Families { ipv4: false, ipv6: true };
    let v4 = Families { ipv4: true, ipv6: false };
    for (withdrawn, mp, nlri, families, kind) in [
        // Next hop of the wrong length, or cut off.
        ("", "80 0e 09 0002 01 04 c0000201 00", "", v6, Length),
        ("", "80 0e 05 0002 01 00 00", "", v6, Length),
        ("", "80 0e 04 0002 01 10", "", v6, Length),
        ("", "80 0e 03 0002 01", "", v6, Length),
        ("", "80 0e 14 0002 01 10 20010db8000000000000000000000001", "", v6, Length),
        // Prefix too long, prefix cut off.
        ("", "80 0e 17 0002 01 10 20010db8000000000000000000000001 00 81 00", "", v6, ProblemKind::Nlri),
        ("", "80 0e 17 0002 01 10 20010db8000000000000000000000001 00 10 00", "", v6, ProblemKind::Nlri),
        ("", "80 0f 05 0002 01 80 00", "", v6, ProblemKind::Nlri),
        ("", "80 0f 08 0001 01 21 cb007101", "", v4, ProblemKind::Nlri),
        // Flags (section 5.3).
        ("", "c0 0f 03 0002 01", "", v6, Flags),
        ("", "40 0e 03 0002 01", "", v6, Flags),
        // The classic fields.
        ("", "", "21 cb00710100", v4, ProblemKind::Nlri),
        ("", "", "20 cb0071", v4, ProblemKind::Nlri),
        ("20 cb0071", "", "", v4, ProblemKind::Nlri),
    ] {
        let octets = update(withdrawn, &format!("{mp} {origin}"), nlri);
        let update = decode(&octets, &DECODE).unwrap();
        assert_eq!(update.disabled_families(), families, "{withdrawn} {mp} {nlri}");
        assert_eq!(update.problems.len(), 1, "{withdrawn} {mp} {nlri}: {:?}", update.problems);
        assert_eq!(update.problems[0].kind, kind, "{withdrawn} {mp} {nlri}");
        assert_eq!((update.announced_len(), update.withdrawn_len()), (0, 0));
        assert_eq!(update.end_of_rib(), None);
    }
}

#[test]
fn what_nothing_milder_can_save() {
    use UpdateSubcode as Sub;
    let good = format!("40 01 01 00 {REST}");
    let cases: &[(Vec<u8>, Sub, &str)] = &[
        // Lengths that conflict with the message's (3.b).
        (message(2, "0001 0000"), Sub::MalformedAttributeList, ""),
        (message(2, "0000 0001"), Sub::MalformedAttributeList, ""),
        (message(2, "0000 0005 40 01 01 00"), Sub::MalformedAttributeList, ""),
        (message(2, "ffff 0000"), Sub::MalformedAttributeList, ""),
        (message(2, "0002 0000"), Sub::MalformedAttributeList, ""),
        // A well-known attribute that nobody knows.
        (update("", &format!("{good} 40 63 01 aa"), "20 cb007101"), Sub::UnrecognizedWellKnown, "40 63 01 aa"),
        (update("", &format!("{good} 50 63 0001 aa"), ""), Sub::UnrecognizedWellKnown, "50 63 0001 aa"),
        // Two of the same multiprotocol attribute (3.g).
        (update("", "80 0f 03 0002 01 80 0f 03 0001 01", ""), Sub::MalformedAttributeList, ""),
        (update("", "80 0e 03 0002 01 80 0e 03 0001 01", ""), Sub::MalformedAttributeList, ""),
        // Not even the family can be read.
        (update("", "80 0f 02 0002", ""), Sub::OptionalAttribute, "80 0f 02 0002"),
        (update("", "80 0e 00", ""), Sub::OptionalAttribute, "80 0e 00"),
        // Errors where no reachable route is seen may hide routes (5.2).
        (update("", "40 01 01 07", ""), Sub::InvalidOrigin, "40 01 01 07"),
        (update("18 c63364", "40 01 02 0000", ""), Sub::AttributeLength, "40 01 02 0000"),
        (update("", "c0 01 01 00", ""), Sub::AttributeFlags, "c0 01 01 00"),
        (update("", "40 02 02 02 00", ""), Sub::MalformedAsPath, ""),
        (update("", "40 01 01", ""), Sub::MalformedAttributeList, ""),
        (update("", "80 0f 03 0002 01 c0 08 01 00", ""), Sub::AttributeLength, "c0 08 01 00"),
    ];
    for (octets, subcode, data) in cases {
        let error = decode(octets, &DECODE).expect_err("session reset");
        assert_eq!(error, UpdateError { subcode: *subcode, data: hex(data) }, "{octets:02x?}");
        let notification = Notification { code: 3, subcode: subcode.code(), data: hex(data) };
        assert_eq!(Notification::from(error), notification);
    }
}

#[test]
fn discarded_attribute_without_routes_is_harmless() {
    for attribute in ["40 06 01 00", "c0 07 00"] {
        let octets = update("18 c63364", attribute, "");
        let update = decode(&octets, &DECODE).unwrap();
        assert_eq!((update.withdrawn_len(), update.problems.len()), (1, 1));
    }
}

#[test]
fn problems_are_bounded_but_none_that_matters_is_lost() {
    let duplicates = "40 06 00".repeat(200);
    let octets = update("", &format!("40 01 01 00 {REST} {duplicates} 80 0f 02 0002"), "20 cb007101");
    assert!(decode(&octets, &DECODE).is_err());
    let octets = update("", &format!("40 01 01 00 {REST} {duplicates} 80 0f 04 0002 01 ff c0 08 00"), "20 cb007101");
    let update = decode(&octets, &DECODE).unwrap();
    assert_eq!(update.problems.len(), MAX_PROBLEMS + 1);
    assert_eq!(update.problems_left_out, 199 - MAX_PROBLEMS + 1);
    assert_eq!(update.disabled_families(), Families { ipv4: false, ipv6: true });
    assert!(update.treat_as_withdraw);
    assert_eq!(update.withdrawn().next().unwrap().prefix.to_string(), "203.0.113.1/32");
    assert_eq!(update.reach.family(), Family::Ipv4);
}
