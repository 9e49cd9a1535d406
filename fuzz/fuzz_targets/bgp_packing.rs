//! UPDATEs of the route injector: any prefixes are packed, none is lost or added, no limit is exceeded.
#![no_main]

use bytes::BytesMut;
use destguard_bgp::wire::attribute::{AsPath, Attributes, Origin};
use destguard_bgp::wire::builder::{AttributeBlock, announce, withdraw};
use destguard_bgp::wire::iana::{Families, Family};
use destguard_bgp::wire::message::{Message, NextHop};
use destguard_bgp::wire::nlri::Nlri;
use destguard_fuzz::{context, encoder};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [bits, more, communities, octets @ ..] = input else { return };
    let decode = destguard_bgp::wire::DecodeContext {
        families: Families::ALL,
        add_path: Families::NONE,
        extended_next_hop: true,
        ..context(*bits)
    };
    let mut encode = encoder(&decode);
    encode.ipv4_in_mp = more & 1 == 1;
    let family = if more & 2 == 0 { Family::Ipv4 } else { Family::Ipv6 };
    let Some(nlri) = Nlri::parse(family, Families::NONE, octets) else { return };
    let prefixes: Vec<_> = nlri.iter().map(|route| route.prefix).collect();
    let next_hop = match family {
        Family::Ipv4 if more & 4 == 0 => NextHop::Ipv4([192, 0, 2, 1].into()),
        Family::Ipv4 | Family::Ipv6 => NextHop::Ipv6(std::net::Ipv6Addr::LOCALHOST),
    };
    let attributes = Attributes {
        origin: Some(Origin::Igp),
        as_path: Some(AsPath::originated(decode.peer_type, 4_200_000_000)),
        communities: vec![7; usize::from(*communities) * 4],
        ..Attributes::default()
    };
    let block = AttributeBlock::new(&encode, family, next_hop, &attributes).expect("all is negotiated");
    for announcing in [true, false] {
        let (mut out, mut sent) = (BytesMut::new(), 0);
        while sent < prefixes.len() {
            out.clear();
            let fitted = if announcing {
                announce(&encode, &block, &prefixes[sent..], &mut out)
            } else {
                withdraw(&encode, family, &prefixes[sent..], &mut out)
            };
            let fitted = match fitted {
                Ok(fitted) => fitted,
                Err(_) => return assert!(out.is_empty() && announcing && *communities > 240),
            };
            assert!(fitted > 0 && out.len() <= encode.limit());
            let Ok(Message::Update(update)) = Message::decode(&out, &decode) else { panic!("unreadable") };
            assert!(update.problems.is_empty());
            let expected = &prefixes[sent..sent + fitted];
            let announced: Vec<_> = update.announced().map(|route| route.prefix).collect();
            let withdrawn: Vec<_> = update.withdrawn().map(|route| route.prefix).collect();
            let none: &[_] = &[];
            let (a, w) = if announcing { (expected, none) } else { (none, expected) };
            assert_eq!((&announced[..], &withdrawn[..]), (a, w));
            sent += fitted;
        }
    }
});
