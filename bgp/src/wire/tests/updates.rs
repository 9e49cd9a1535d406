//! UPDATE: vectors with routes of both families, next hops, End-of-RIB, ADD-PATH, size.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;
use crate::wire::attribute::{AsPath, Attributes, Origin};
use crate::wire::error::{Action, EncodeError, Problem, ProblemKind};
use crate::wire::iana::Family;
use crate::wire::message::{MpReach, MpUnreach, NextHop, Update};
use crate::wire::nlri::{Nlri, Route};

fn nlri(family: Family, octets: &[u8]) -> Nlri<'_> {
    Nlri::parse(family, Families::NONE, octets).unwrap()
}

fn decode(octets: &[u8]) -> Update<'_> {
    match Message::decode(octets, &DECODE) {
        Ok(Message::Update(update)) => update,
        other => panic!("{other:?}"),
    }
}

fn prefixes(routes: impl Iterator<Item = Route>) -> Vec<String> {
    routes.map(|route| route.prefix.to_string()).collect()
}

#[test]
fn classic_ipv4_both_ways() {
    let octets = update("18 c63364", "40 01 01 00 40 02 00 40 03 04 c0000201", "20 cb007101 18 cb0072 00");
    let (unreach, reach) = (hex("18 c63364"), hex("20 cb007101 18 cb0072 00"));
    let expected = Update {
        unreach: nlri(Family::Ipv4, &unreach),
        reach: nlri(Family::Ipv4, &reach),
        attributes: Attributes {
            origin: Some(Origin::Igp),
            as_path: Some(AsPath::default()),
            next_hop: Some(Ipv4Addr::new(192, 0, 2, 1)),
            ..Attributes::default()
        },
        ..Update::empty()
    };
    assert_both_ways(&octets, &Message::Update(expected.clone()), &DECODE, &ENCODE);
    assert_eq!(prefixes(expected.announced()), ["203.0.113.1/32", "203.0.114.0/24", "0.0.0.0/0"]);
    assert_eq!(prefixes(expected.withdrawn()), ["198.51.100.0/24"]);
    assert_eq!((expected.announced_len(), expected.withdrawn_len()), (3, 1));
}

#[test]
fn ipv6_both_ways() {
    let next_hop = "20010db8000000000000000000000001";
    let link_local = "fe800000000000000000000000000001";
    let global: Ipv6Addr = "2001:db8::1".parse().unwrap();
    let prefix = "80 20010db8000100000000000000000005";
    let host = hex(prefix);
    let attributes =
        Attributes { origin: Some(Origin::Igp), as_path: Some(AsPath::default()), ..Attributes::default() };
    for (octets, hop) in [
        (format!("80 0e 26 0002 01 10 {next_hop} 00 {prefix}"), NextHop::Ipv6(global)),
        (
            format!("80 0e 36 0002 01 20 {next_hop} {link_local} 00 {prefix}"),
            NextHop::Ipv6WithLinkLocal(global, "fe80::1".parse().unwrap()),
        ),
    ] {
        let octets = update("", &format!("{octets} 40 01 01 00 40 02 00"), "");
        let mp_reach = Some(MpReach { next_hop: hop, nlri: nlri(Family::Ipv6, &host) });
        let expected = Update { mp_reach, attributes: attributes.clone(), ..Update::empty() };
        assert_both_ways(&octets, &Message::Update(expected.clone()), &DECODE, &ENCODE);
        assert_eq!(prefixes(expected.announced()), ["2001:db8:1::5/128"]);
        assert_eq!(hop.address(), std::net::IpAddr::V6(global));
    }
    let octets = update("", &format!("80 0f 14 0002 01 {prefix}"), "");
    let mp_unreach = Some(MpUnreach { nlri: nlri(Family::Ipv6, &host) });
    let expected = Update { mp_unreach, ..Update::empty() };
    assert_both_ways(&octets, &Message::Update(expected.clone()), &DECODE, &ENCODE);
    assert_eq!(prefixes(expected.withdrawn()), ["2001:db8:1::5/128"]);
}

#[test]
fn ipv4_with_an_ipv6_next_hop_needs_rfc8950() {
    let octets =
        update("", "80 0e 1a 0001 01 10 20010db8000000000000000000000001 00 20 cb007101 40 01 01 00 40 02 00", "");
    let update = decode(&octets);
    assert_eq!(update.problems, []);
    assert_eq!(prefixes(update.announced()), ["203.0.113.1/32"]);
    assert_eq!(encode(&Message::Update(update), &ENCODE), octets);
    let context = DecodeContext { extended_next_hop: false, ..DECODE };
    let Ok(Message::Update(update)) = Message::decode(&octets, &context) else { panic!() };
    assert_eq!(update.disabled_families(), Families { ipv4: true, ipv6: false });
    assert_eq!(update.announced_len(), 0);
}

#[test]
fn ipv4_in_mp_with_an_ipv4_next_hop() {
    let octets = update("", "80 0e 0e 0001 01 04 c0000201 00 20 cb007101 40 01 01 00 40 02 00", "");
    let update = decode(&octets);
    assert_eq!(update.mp_reach.unwrap().next_hop, NextHop::Ipv4(Ipv4Addr::new(192, 0, 2, 1)));
    assert_eq!(prefixes(update.announced()), ["203.0.113.1/32"]);
}

#[test]
fn end_of_rib() {
    assert_eq!(decode(&update("", "", "")).end_of_rib(), Some(Family::Ipv4));
    assert_eq!(decode(&update("", "80 0f 03 0002 01", "")).end_of_rib(), Some(Family::Ipv6));
    assert_eq!(decode(&update("", "90 0f 0003 0001 01", "")).end_of_rib(), Some(Family::Ipv4));
    for other in [
        update("20 cb007101", "", ""),
        update("", "40 01 01 00", ""),
        update("", "80 0f 08 0001 01 20 cb007101", ""),
        // Of a family that was not negotiated: noted, and no End-of-RIB of any that was.
        update("", "80 0f 03 0001 80", ""),
    ] {
        assert_eq!(decode(&other).end_of_rib(), None, "{other:02x?}");
    }
}

#[test]
fn bits_beyond_the_length_are_ignored() {
    let octets = update("", "40 01 01 00 40 02 00 40 03 04 c0000201", "14 cb007f 01 ff 00");
    assert_eq!(prefixes(decode(&octets).announced()), ["203.0.112.0/20", "128.0.0.0/1", "0.0.0.0/0"]);
}

#[test]
fn add_path_identifiers_where_negotiated() {
    let context = DecodeContext { add_path: Families { ipv4: true, ipv6: false }, ..DECODE };
    let octets = update("", "40 01 01 00 40 02 00 40 03 04 c0000201", "00000001 20 cb007101 00000002 20 cb007101");
    let Ok(Message::Update(update)) = Message::decode(&octets, &context) else { panic!() };
    let routes: Vec<_> = update.announced().map(|route| (route.path, route.prefix.to_string())).collect();
    assert_eq!(routes, [(Some(1), "203.0.113.1/32".into()), (Some(2), "203.0.113.1/32".into())]);
    // Read without identifiers, the same octets are malformed; and so is too little for one.
    assert_eq!(decode(&octets).disabled_families(), Families { ipv4: true, ipv6: false });
    let short = super::update("", "40 01 01 00 40 02 00 40 03 04 c0000201", "20 cb0071");
    let Ok(Message::Update(update)) = Message::decode(&short, &context) else { panic!() };
    assert_eq!(update.disabled_families(), Families { ipv4: true, ipv6: false });
}

#[test]
fn family_that_was_not_negotiated_is_ignored_and_said() {
    let context = DecodeContext { families: Families { ipv4: true, ipv6: false }, ..DECODE };
    let octets = update("", "80 0e 15 0002 01 10 20010db8000000000000000000000001 00 40 01 01 00 40 02 00", "");
    let Ok(Message::Update(update)) = Message::decode(&octets, &context) else { panic!() };
    let problem = Problem { attribute: 14, kind: ProblemKind::NotNegotiated, action: Action::Discard };
    assert_eq!((update.problems, update.mp_reach), (vec![problem], None));
    // The classic fields too: that is also how a family stays disabled.
    let context = DecodeContext { families: Families { ipv4: false, ipv6: true }, ..DECODE };
    let octets = super::update("18 c63364", "40 01 01 00 40 02 00 40 03 04 c0000201", "20 cb007101 ff");
    let Ok(Message::Update(update)) = Message::decode(&octets, &context) else { panic!() };
    assert_eq!((update.announced_len(), update.withdrawn_len(), update.problems.len()), (0, 0, 2));
    assert_eq!(update.disabled_families(), Families::NONE);
}

#[test]
fn large_update_is_walked_in_place() {
    let context = DecodeContext { extended_message: true, ..DECODE };
    let mut body = hex("0000 0000");
    for host in 0..13_097u32 {
        body.push(32);
        body.extend((0xCB00_7100 + host).to_be_bytes());
    }
    let mut octets = vec![0xFF; 16];
    octets.extend(u16::try_from(body.len() + 19).unwrap().to_be_bytes());
    octets.push(2);
    octets.extend(body);
    let Ok(Message::Update(update)) = Message::decode(&octets, &context) else { panic!() };
    assert!(update.treat_as_withdraw, "attributes are missing");
    assert_eq!((update.announced_len(), update.withdrawn_len()), (0, 13_097));
    assert_eq!(update.withdrawn().count(), 13_097);
    assert_eq!(update.announced().count(), 0);
}

#[test]
fn message_beyond_the_limit_is_refused_and_leaves_the_buffer_alone() {
    let octets = [hex("20 cb007101")].concat().repeat(900);
    let message = Message::Update(Update { unreach: nlri(Family::Ipv4, &octets), ..Update::empty() });
    let mut out = BytesMut::from(&b"x"[..]);
    assert_eq!(message.encode(&ENCODE, &mut out), Err(EncodeError::TooLong));
    assert_eq!(&out[..], b"x");
    assert!(message.encode(&EncodeContext { extended_message: true, ..ENCODE }, &mut out).is_ok());
}
