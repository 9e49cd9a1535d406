//! Runs of NLRI: what is read is written with the same octets, but for bits beyond a prefix's length.
#![no_main]

use bytes::BytesMut;
use destguard_bgp::wire::iana::{Families, Family};
use destguard_bgp::wire::nlri::{Nlri, Prefix, Route};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [bits, octets @ ..] = input else { return };
    let family = if bits & 1 == 0 { Family::Ipv4 } else { Family::Ipv6 };
    let add_path = if bits & 2 == 0 { Families::NONE } else { Families::ALL };
    let Some(nlri) = Nlri::parse(family, add_path, octets) else { return };
    let routes: Vec<Route> = nlri.iter().collect();
    assert_eq!(routes.len(), nlri.len());
    let mut out = BytesMut::new();
    for route in &routes {
        assert_eq!(route.path.is_some(), bits & 2 != 0);
        out.extend_from_slice(
            &route.path.map(u32::to_be_bytes).unwrap_or_default()[..if bits & 2 == 0 { 0 } else { 4 }],
        );
        let before = out.len();
        route.prefix.put(&mut out);
        assert_eq!(out.len() - before, route.prefix.encoded_len());
    }
    assert_eq!(out.len(), octets.len());
    let again = Nlri::parse(family, add_path, &out).expect("what was written is read");
    assert_eq!(again.iter().collect::<Vec<_>>(), routes);
});
