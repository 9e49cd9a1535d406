//! Packed UPDATEs: what a peer reads is what went in, full to the limit and never beyond.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::*;
use crate::wire::attribute::{AsPath, Attributes, LargeCommunity, Origin};
use crate::wire::builder::{AttributeBlock, UpdateBuilder, announce, end_of_rib, withdraw};
use crate::wire::error::EncodeError;
use crate::wire::iana::{Family, community};
use crate::wire::message::{NextHop, Update, frame};

fn attributes() -> Attributes {
    Attributes {
        origin: Some(Origin::Igp),
        as_path: Some(AsPath::default()),
        local_pref: Some(100),
        communities: vec![community::NO_EXPORT, 64512 << 16 | 100],
        large_communities: vec![LargeCommunity { global: 64512, first: 1, second: 2 }],
        ..Attributes::default()
    }
}

fn hosts4(count: u32) -> Vec<Ipv4Addr> {
    (0..count).map(|host| Ipv4Addr::from_bits(0xC633_0000 + host)).collect()
}

fn hosts6(count: u128) -> Vec<Ipv6Addr> {
    (0..count).map(|host| Ipv6Addr::from_bits(0x2001_0db8_0000_0000_0000_0000_0000_0000 + host)).collect()
}

fn block(context: &EncodeContext, family: Family, next_hop: &str) -> Result<AttributeBlock, EncodeError> {
    AttributeBlock::new(context, family, next_hop.parse::<IpAddr>().unwrap().into(), &attributes())
}

fn decoded(octets: &[u8]) -> Update<'_> {
    let context = DecodeContext { extended_message: true, ..DECODE };
    assert_eq!(frame(octets, &context), Ok(Some(octets.len())));
    match Message::decode(octets, &context) {
        Ok(Message::Update(update)) => {
            assert_eq!(update.problems, []);
            update
        }
        other => panic!("{other:?}"),
    }
}

fn addresses(routes: impl Iterator<Item = crate::wire::nlri::Route>) -> Vec<IpAddr> {
    routes
        .map(|route| {
            assert_eq!(route.prefix.prefix_len(), route.prefix.max_prefix_len());
            route.prefix.addr()
        })
        .collect()
}

#[test]
fn one_message_holds_800_hosts_of_ipv4_and_230_of_ipv6() {
    for (context, least4, least6) in
        [(ENCODE, 800, 230), (EncodeContext { extended_message: true, ..ENCODE }, 13_000, 3_800)]
    {
        let hosts = hosts4(20_000);
        let mut out = BytesMut::new();
        let fitted =
            announce(&context, &block(&context, Family::Ipv4, "192.0.2.1").unwrap(), &hosts, &mut out).unwrap();
        assert!(fitted >= least4, "{fitted}");
        assert!(out.len() <= context.limit() && out.len() + 5 > context.limit(), "{}", out.len());
        let update = decoded(&out);
        assert_eq!(addresses(update.announced()), hosts[..fitted].iter().copied().map(IpAddr::V4).collect::<Vec<_>>());
        let next_hop = Some(Ipv4Addr::new(192, 0, 2, 1));
        assert_eq!(update.attributes, Attributes { next_hop, ..attributes() });
        assert_eq!((update.mp_reach, update.withdrawn_len()), (None, 0));

        out.clear();
        let fitted = withdraw(&context, Family::Ipv4, &hosts, &mut out).unwrap();
        assert!(fitted >= least4, "{fitted}");
        assert!(out.len() <= context.limit() && out.len() + 5 > context.limit(), "{}", out.len());
        let update = decoded(&out);
        assert_eq!(addresses(update.withdrawn()), hosts[..fitted].iter().copied().map(IpAddr::V4).collect::<Vec<_>>());
        assert_eq!((update.announced_len(), update.mp_unreach), (0, None));

        let hosts = hosts6(5_000);
        out.clear();
        let fitted =
            announce(&context, &block(&context, Family::Ipv6, "2001:db8::1").unwrap(), &hosts, &mut out).unwrap();
        assert!(fitted >= least6, "{fitted}");
        assert!(out.len() <= context.limit() && out.len() + 17 > context.limit(), "{}", out.len());
        let update = decoded(&out);
        assert_eq!(addresses(update.announced()), hosts[..fitted].iter().copied().map(IpAddr::V6).collect::<Vec<_>>());
        assert_eq!(update.attributes, attributes());
        assert_eq!(update.mp_reach.unwrap().next_hop, NextHop::Ipv6("2001:db8::1".parse().unwrap()));

        out.clear();
        let fitted = withdraw(&context, Family::Ipv6, &hosts, &mut out).unwrap();
        assert!(fitted >= least6, "{fitted}");
        assert!(out.len() <= context.limit() && out.len() + 17 > context.limit(), "{}", out.len());
        let update = decoded(&out);
        assert_eq!(addresses(update.withdrawn()), hosts[..fitted].iter().copied().map(IpAddr::V6).collect::<Vec<_>>());
    }
}

#[test]
fn octets_of_a_small_announcement() {
    let context = ENCODE;
    let attributes = Attributes {
        origin: Some(Origin::Igp),
        as_path: Some(AsPath::originated(PeerType::External, 64512)),
        communities: vec![community::NO_EXPORT],
        ..Attributes::default()
    };
    let mut out = BytesMut::new();
    let next_hop = NextHop::Ipv4(Ipv4Addr::new(192, 0, 2, 1));
    let block = AttributeBlock::new(&context, Family::Ipv4, next_hop, &attributes).unwrap();
    assert_eq!(announce(&context, &block, &[Ipv4Addr::new(203, 0, 113, 1)], &mut out), Ok(1));
    let expected = "40 01 01 00 40 02 06 02 01 0000fc00 40 03 04 c0000201 c0 08 04 ffffff01";
    assert_eq!(out.to_vec(), update("", expected, "20 cb007101"));

    out.clear();
    let next_hop = NextHop::Ipv6("2001:db8::1".parse().unwrap());
    let block = AttributeBlock::new(&context, Family::Ipv6, next_hop, &attributes).unwrap();
    assert_eq!(announce(&context, &block, &hosts6(1), &mut out), Ok(1));
    // MP_REACH_NLRI comes first (RFC 7606 section 5.1).
    let expected = "90 0e 0026 0002 01 10 20010db8000000000000000000000001 00 80 20010db8000000000000000000000000
        40 01 01 00 40 02 06 02 01 0000fc00 c0 08 04 ffffff01";
    assert_eq!(out.to_vec(), update("", expected, ""));

    out.clear();
    assert_eq!(withdraw(&context, Family::Ipv4, &[Ipv4Addr::new(203, 0, 113, 1)], &mut out), Ok(1));
    assert_eq!(withdraw(&context, Family::Ipv6, &hosts6(1), &mut out), Ok(1));
    let expected =
        [update("20 cb007101", "", ""), update("", "90 0f 0014 0002 01 80 20010db8000000000000000000000000", "")];
    assert_eq!(out.to_vec(), expected.concat());
}

#[test]
fn open_prefixes_of_any_length() {
    let prefixes: Vec<IpNet> = ["203.0.113.0/24", "198.51.100.4/30", "192.0.2.77/8", "0.0.0.0/0", "203.0.113.5/32"]
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
    let mut out = BytesMut::new();
    let block = block(&ENCODE, Family::Ipv4, "192.0.2.1").unwrap();
    assert_eq!(announce(&ENCODE, &block, &prefixes, &mut out), Ok(5));
    let update = decoded(&out);
    let read: Vec<IpNet> = update.announced().map(|route| route.prefix).collect();
    assert_eq!(read, prefixes.iter().map(IpNet::trunc).collect::<Vec<_>>());
    let v6: Vec<IpNet> = vec!["2001:db8:1::/48".parse().unwrap(), "2001:db8::/33".parse().unwrap()];
    out.clear();
    assert_eq!(withdraw(&ENCODE, Family::Ipv6, &v6, &mut out), Ok(2));
    assert_eq!(decoded(&out).withdrawn().map(|route| route.prefix).collect::<Vec<_>>(), v6);
}

#[test]
fn ipv4_in_multiprotocol_form() {
    let forced = EncodeContext { ipv4_in_mp: true, ..ENCODE };
    for (context, next_hop) in [(forced, "192.0.2.1"), (ENCODE, "2001:db8::1")] {
        let mut out = BytesMut::new();
        let block = block(&context, Family::Ipv4, next_hop).unwrap();
        let fitted = announce(&context, &block, &hosts4(1000), &mut out).unwrap();
        assert!(fitted >= 780, "{fitted}");
        let update = decoded(&out);
        let mp = update.mp_reach.unwrap();
        assert_eq!((mp.next_hop.address(), mp.nlri.len()), (next_hop.parse().unwrap(), fitted));
        assert_eq!((update.reach.len(), update.attributes.next_hop), (0, None));
    }
    let mut out = BytesMut::new();
    assert_eq!(withdraw(&forced, Family::Ipv4, &hosts4(3), &mut out), Ok(3));
    assert_eq!(decoded(&out).mp_unreach.unwrap().nlri.len(), 3);
}

#[test]
fn end_of_rib_of_each_family() {
    let mut out = BytesMut::new();
    end_of_rib(&ENCODE, Family::Ipv4, &mut out).unwrap();
    assert_eq!(out.to_vec(), update("", "", ""));
    out.clear();
    end_of_rib(&ENCODE, Family::Ipv6, &mut out).unwrap();
    assert_eq!(out.to_vec(), update("", "80 0f 03 0002 01", ""));
}

#[test]
fn nothing_of_a_family_that_was_not_negotiated() {
    let context = EncodeContext { families: Families { ipv4: true, ipv6: false }, extended_next_hop: false, ..ENCODE };
    let mut out = BytesMut::new();
    assert_eq!(end_of_rib(&context, Family::Ipv6, &mut out), Err(EncodeError::NotNegotiated));
    assert_eq!(withdraw(&context, Family::Ipv6, &hosts6(1), &mut out), Err(EncodeError::NotNegotiated));
    assert_eq!(block(&context, Family::Ipv6, "2001:db8::1"), Err(EncodeError::NotNegotiated));
    assert_eq!(block(&context, Family::Ipv4, "2001:db8::1"), Err(EncodeError::NotNegotiated));
    assert_eq!(block(&ENCODE, Family::Ipv6, "192.0.2.1"), Err(EncodeError::WrongFamily));
    assert!(out.is_empty());
}

#[test]
fn unfinished_or_empty_leaves_the_buffer_alone() {
    let mut out = BytesMut::from(&b"x"[..]);
    let block4 = block(&ENCODE, Family::Ipv4, "192.0.2.1").unwrap();
    let block6 = block(&ENCODE, Family::Ipv6, "2001:db8::1").unwrap();
    assert_eq!(announce::<Ipv4Addr>(&ENCODE, &block4, &[], &mut out), Ok(0));
    assert_eq!(withdraw::<Ipv6Addr>(&ENCODE, Family::Ipv6, &[], &mut out), Ok(0));
    let mut builder = UpdateBuilder::announce(&ENCODE, &block6, &mut out).unwrap();
    assert_eq!(builder.push(hosts6(1)[0]), Ok(true));
    assert_eq!(builder.push(hosts4(1)[0]), Err(EncodeError::WrongFamily));
    assert_eq!(builder.len(), 1);
    drop(builder);
    let mixed = [IpAddr::V6(hosts6(1)[0]), IpAddr::V4(hosts4(1)[0])];
    assert_eq!(announce(&ENCODE, &block6, &mixed, &mut out), Err(EncodeError::WrongFamily));
    assert_eq!(&out[..], b"x");
}

#[test]
fn attributes_that_leave_no_room_are_refused() {
    let large = |count| Attributes { communities: vec![7; count], ..attributes() };
    let next_hop = NextHop::Ipv4(Ipv4Addr::new(192, 0, 2, 1));
    let mut out = BytesMut::new();
    for count in 990..1100 {
        let block = AttributeBlock::new(&ENCODE, Family::Ipv4, next_hop, &large(count)).unwrap();
        match announce(&ENCODE, &block, &hosts4(9), &mut out) {
            Ok(fitted) => assert!(fitted > 0 && out.len() <= 4096),
            Err(error) => assert_eq!((error, out.len()), (EncodeError::TooLong, 0)),
        }
        out.clear();
    }
    let block = AttributeBlock::new(&ENCODE, Family::Ipv4, next_hop, &large(1099)).unwrap();
    assert_eq!(announce(&ENCODE, &block, &hosts4(9), &mut out), Err(EncodeError::TooLong));
}

#[test]
fn several_messages_in_one_buffer() {
    let block = block(&ENCODE, Family::Ipv4, "192.0.2.1").unwrap();
    let hosts = hosts4(10_000);
    let mut out = BytesMut::new();
    let mut sent = 0;
    while sent < hosts.len() {
        sent += announce(&ENCODE, &block, &hosts[sent..], &mut out).unwrap();
    }
    let mut rest = &out[..];
    let mut read = vec![];
    while let Some(length) = frame(rest, &DECODE).unwrap() {
        read.extend(addresses(decoded(&rest[..length]).announced()));
        rest = &rest[length..];
    }
    assert_eq!(read, hosts.into_iter().map(IpAddr::V4).collect::<Vec<_>>());
}
