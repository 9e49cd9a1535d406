//! Each capability as octets and as a value, both ways.

use super::*;
use crate::wire::capability::{
    AddPathMode, Capability, GracefulRestart, LongLivedFamily, RestartFamily, decode_capabilities,
};
use crate::wire::iana::{AfiSafi, Family, Role};

const V4: AfiSafi = Family::Ipv4.afi_safi();
const V6: AfiSafi = Family::Ipv6.afi_safi();

fn one(octets: &str) -> Capability {
    let mut all = vec![];
    decode_capabilities(&hex(octets), &mut all).unwrap();
    assert_eq!(all.len(), 1, "{octets}");
    all.remove(0)
}

#[test]
fn both_ways() {
    let restart = |restarting, notification, time, families| {
        Capability::GracefulRestart(GracefulRestart { restarting, notification, time, families })
    };
    let fqdn = |host: &str, domain: &str| Capability::Fqdn { host: host.into(), domain: domain.into() };
    for (octets, capability) in [
        ("01 04 0001 00 01", Capability::Multiprotocol(V4)),
        ("01 04 0002 00 01", Capability::Multiprotocol(V6)),
        ("01 04 0019 00 46", Capability::Multiprotocol(AfiSafi { afi: 25, safi: 70 })),
        ("02 00", Capability::RouteRefresh),
        ("05 06 0001 0001 0002", Capability::ExtendedNextHop(vec![(V4, 2)])),
        (
            "05 0c 0001 0001 0002 0001 0080 0002",
            Capability::ExtendedNextHop(vec![(V4, 2), (AfiSafi { afi: 1, safi: 128 }, 2)]),
        ),
        ("06 00", Capability::ExtendedMessage),
        ("09 01 00", Capability::Role(Role::Provider)),
        ("09 01 03", Capability::Role(Role::Customer)),
        ("09 01 04", Capability::Role(Role::Peer)),
        ("40 02 0000", restart(false, false, 0, vec![])),
        ("40 02 0fff", restart(false, false, 4095, vec![])),
        (
            "40 0a c078 0001 01 80 0002 01 00",
            restart(
                true,
                true,
                120,
                vec![RestartFamily { family: V4, forwarding: true }, RestartFamily { family: V6, forwarding: false }],
            ),
        ),
        ("41 04 0000fc00", Capability::FourOctetAs(64512)),
        ("45 08 0001 01 01 0002 01 03", Capability::AddPath(vec![(V4, AddPathMode::Receive), (V6, AddPathMode::Both)])),
        ("46 00", Capability::EnhancedRouteRefresh),
        (
            "47 0e 0001 01 80 000e10 0002 01 00 ffffff",
            Capability::LongLivedGracefulRestart(vec![
                LongLivedFamily { family: V4, forwarding: true, stale_time: 3600 },
                LongLivedFamily { family: V6, forwarding: false, stale_time: 0x00FF_FFFF },
            ]),
        ),
        ("49 0e 05 6564676531 07 6578616d706c65", fqdn("edge1", "example")),
        ("49 07 05 6564676531 00", fqdn("edge1", "")),
        ("80 00", Capability::OldRouteRefresh),
        ("c8 02 abcd", Capability::Raw { code: 200, value: vec![0xAB, 0xCD] }),
        ("00 00", Capability::Raw { code: 0, value: vec![] }),
    ] {
        assert_eq!(one(octets), capability, "{octets}");
        let mut out = BytesMut::new();
        capability.encode(&mut out).unwrap();
        assert_eq!(out.to_vec(), hex(octets), "{capability:?}");
    }
}

#[test]
fn a_value_that_its_code_cannot_have_is_kept_but_has_no_effect() {
    for octets in [
        "01 03 0001 00",
        "01 05 0001 00 01 00",
        "02 01 00",
        "05 05 0001 0001 00",
        "05 06 0001 0101 0002",
        "06 01 00",
        "09 00",
        "09 01 05",
        "09 02 0000",
        "40 01 00",
        "40 05 0078 0001 01",
        "41 02 fc00",
        "45 03 0001 01",
        "46 01 00",
        "47 06 0001 01 80 0000",
        "49 00",
        "49 02 05 61",
        "80 01 00",
    ] {
        let capability = one(octets);
        assert!(matches!(capability, Capability::Raw { .. }), "{octets}: {capability:?}");
        let mut out = BytesMut::new();
        capability.encode(&mut out).unwrap();
        assert_eq!(out.to_vec(), hex(octets));
    }
}

#[test]
fn reserved_bits_are_ignored() {
    assert_eq!(one("01 04 0001 ff 01"), Capability::Multiprotocol(V4));
    assert_eq!(one("40 02 3078"), one("40 02 0078"));
    assert_eq!(one("40 06 0078 0001 01 ff"), one("40 06 0078 0001 01 80"));
    assert_eq!(one("47 07 0001 01 ff 000e10"), one("47 07 0001 01 80 000e10"));
}

#[test]
fn add_path_entry_with_an_unknown_mode_is_ignored() {
    assert_eq!(one("45 08 0001 01 00 0002 01 02"), Capability::AddPath(vec![(V6, AddPathMode::Send)]));
}

#[test]
fn names_that_are_not_utf8_become_readable_and_still_fit() {
    let octets = [&[73u8, 254, 253][..], &[0xFF; 253]].concat();
    let mut all = vec![];
    decode_capabilities(&octets, &mut all).unwrap();
    let Capability::Fqdn { host, domain } = &all[0] else { panic!("{all:?}") };
    assert_eq!((host.as_str(), domain.as_str()), ("?".repeat(253).as_str(), ""));
    let mut out = BytesMut::new();
    all[0].encode(&mut out).unwrap();
    assert_eq!(out.len(), 257);
}

#[test]
fn a_name_that_leaves_no_room_for_the_length_it_left_out_is_kept_raw() {
    let octets = [&[73u8, 255, 254][..], &[b'a'; 254]].concat();
    let mut all = vec![];
    decode_capabilities(&octets, &mut all).unwrap();
    assert!(matches!(&all[0], Capability::Raw { code: 73, .. }));
    let mut out = BytesMut::new();
    all[0].encode(&mut out).unwrap();
    assert_eq!(out, octets);
}

#[test]
fn times_beyond_their_field_are_cut_down() {
    let mut out = BytesMut::new();
    Capability::GracefulRestart(GracefulRestart { time: 5000, ..GracefulRestart::default() }).encode(&mut out).unwrap();
    Capability::LongLivedGracefulRestart(vec![LongLivedFamily { family: V4, forwarding: false, stale_time: u32::MAX }])
        .encode(&mut out)
        .unwrap();
    assert_eq!(out.to_vec(), hex("40 02 0fff 47 07 0001 01 00 ffffff"));
}
