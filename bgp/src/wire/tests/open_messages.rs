//! OPEN: vectors, its checks, both forms of optional parameters, and what two OPENs agree on.

use std::net::Ipv4Addr;

use super::*;
use crate::wire::capability::{
    AddPathMode, Capability, GracefulRestart, LongLivedFamily, Negotiated, RestartFamily, check_open, negotiate,
};
use crate::wire::error::{DecodeError, EncodeError, OpenError};
use crate::wire::iana::{AfiSafi, Family, Role};
use crate::wire::message::{Notification, Open};

const V4: AfiSafi = Family::Ipv4.afi_safi();
const V6: AfiSafi = Family::Ipv6.afi_safi();

fn open(asn: u32, capabilities: Vec<Capability>) -> Open {
    Open { asn, hold_time: 90, identifier: Ipv4Addr::new(192, 0, 2, 1), capabilities }
}

#[test]
fn without_parameters() {
    let octets = message(1, "04 fc00 005a c0000201 00");
    assert_both_ways(&octets, &Message::Open(open(64512, vec![])), &DECODE, &ENCODE);
}

#[test]
fn with_capabilities() {
    let octets = message(1, "04 5ba0 005a c0000201 10 02 0e  01 04 0001 00 01  02 00  41 04 fa56ea00");
    let capabilities =
        vec![Capability::Multiprotocol(V4), Capability::RouteRefresh, Capability::FourOctetAs(4_200_000_000)];
    assert_both_ways(&octets, &Message::Open(open(4_200_000_000, capabilities)), &DECODE, &ENCODE);
}

#[test]
fn one_parameter_per_capability_is_read_too() {
    let octets = message(1, "04 fc00 005a c0000201 0c  02 06 01 04 0001 00 01  02 02 02 00");
    let capabilities = vec![Capability::Multiprotocol(V4), Capability::RouteRefresh];
    assert_eq!(Message::decode(&octets, &DECODE), Ok(Message::Open(open(64512, capabilities))));
}

#[test]
fn extended_parameters_when_one_octet_is_too_short() {
    let filler = |length| vec![Capability::Raw { code: 200, value: vec![7; length] }];
    for length in 0..=255usize {
        let message = Message::Open(open(64512, filler(length)));
        let octets = encode(&message, &ENCODE);
        let extended = octets[28] == 255;
        assert_eq!(extended, length > 250, "capability of {length} octets");
        assert_eq!(Message::decode(&octets, &DECODE), Ok(message));
    }
    // RFC 9072 section 2: 255, 255, 2-octet length; then parameters with 2-octet lengths.
    let octets = encode(&Message::Open(open(64512, filler(255))), &ENCODE);
    assert_eq!(octets[28..35], [255, 255, 1, 4, 2, 1, 1]);
    assert_eq!(octets[35..37], [200, 255]);
}

#[test]
fn extended_parameters_although_short() {
    // The one-octet length says nothing in this form, as long as it is not 0.
    for length in ["ff", "01"] {
        let octets = message(1, &format!("04 fc00 005a c0000201 {length} ff 0005 02 0002 02 00"));
        assert_eq!(Message::decode(&octets, &DECODE), Ok(Message::Open(open(64512, vec![Capability::RouteRefresh]))));
    }
}

#[test]
fn too_many_capabilities_are_refused_and_leave_the_buffer_alone() {
    let capabilities = vec![Capability::Raw { code: 200, value: vec![7; 255] }; 16];
    let mut out = BytesMut::from(&b"x"[..]);
    assert_eq!(open(64512, capabilities).encode(&mut out), Err(EncodeError::TooLong));
    let too_long = vec![Capability::Raw { code: 200, value: vec![7; 256] }];
    assert_eq!(open(64512, too_long).encode(&mut out), Err(EncodeError::TooLong));
    assert_eq!(&out[..], b"x");
}

#[test]
fn bad_opens() {
    let cases: &[(&str, OpenError, u8, &[u8])] = &[
        ("03 fc00 005a c0000201 00", OpenError::UnsupportedVersion(3), 1, &[0, 4]),
        ("05 fc00 005a c0000201 00", OpenError::UnsupportedVersion(5), 1, &[0, 4]),
        ("04 0000 005a c0000201 00", OpenError::BadPeerAs(0), 2, &[]),
        ("04 5ba0 005a c0000201 08 02 06 41 04 00000000", OpenError::BadPeerAs(0), 2, &[]),
        ("04 fc00 005a 00000000 00", OpenError::BadIdentifier, 3, &[]),
        ("04 fc00 0001 c0000201 00", OpenError::UnacceptableHoldTime(1), 6, &[]),
        ("04 fc00 0002 c0000201 00", OpenError::UnacceptableHoldTime(2), 6, &[]),
        // Authentication Information is gone; any other parameter is unknown.
        ("04 fc00 005a c0000201 03 01 01 00", OpenError::UnsupportedParameter(1), 4, &[]),
        ("04 fc00 005a c0000201 02 03 00", OpenError::UnsupportedParameter(3), 4, &[]),
        // Lengths that don't fit: of all parameters, one parameter, one capability.
        ("04 fc00 005a c0000201 01", OpenError::Unspecific, 0, &[]),
        ("04 fc00 005a c0000201 00 02", OpenError::Unspecific, 0, &[]),
        ("04 fc00 005a c0000201 04 02 03 02 00", OpenError::Unspecific, 0, &[]),
        ("04 fc00 005a c0000201 03 02 01 02", OpenError::Unspecific, 0, &[]),
        ("04 fc00 005a c0000201 04 02 02 02 01", OpenError::Unspecific, 0, &[]),
        // The same in the extended form; the first two crashed other speakers (CVE-2022-40302, CVE-2022-43681).
        ("04 fc00 005a c0000201 ff ff", OpenError::Unspecific, 0, &[]),
        ("04 fc00 005a c0000201 ff ff 0003 02 00", OpenError::Unspecific, 0, &[]),
        ("04 fc00 005a c0000201 ff ff 0002 02 00", OpenError::Unspecific, 0, &[]),
        ("04 fc00 005a c0000201 ff ff 0005 02 0003 02 00", OpenError::Unspecific, 0, &[]),
        ("04 fc00 005a c0000201 ff ff 0005 02 0002 02 00 00", OpenError::Unspecific, 0, &[]),
    ];
    for (body, error, subcode, data) in cases {
        let octets = message(1, body);
        assert_eq!(Message::decode(&octets, &DECODE), Err(DecodeError::Open(error.clone())), "{body}");
        let notification = Notification { code: 2, subcode: *subcode, data: data.to_vec() };
        assert_eq!(Notification::from(error.clone()), notification);
    }
}

#[test]
fn hold_time_0_and_3_are_fine() {
    for body in ["04 fc00 0000 c0000201 00", "04 fc00 0003 c0000201 00"] {
        assert!(Message::decode(&message(1, body), &DECODE).is_ok(), "{body}");
    }
}

#[test]
fn peer_is_checked_against_what_is_configured() {
    let ours = open(64512, vec![]);
    let theirs = |asn, last| Open { identifier: Ipv4Addr::new(192, 0, 2, last), ..open(asn, vec![]) };
    assert_eq!(check_open(&ours, &theirs(64512, 2), 64512), Ok(()));
    assert_eq!(check_open(&ours, &theirs(64513, 2), 64512), Err(OpenError::BadPeerAs(64513)));
    assert_eq!(check_open(&ours, &theirs(64512, 1), 64512), Err(OpenError::BadIdentifier));
    // Across ASes the same identifier is no error (RFC 6286 section 2.1).
    assert_eq!(check_open(&ours, &theirs(64513, 1), 64513), Ok(()));
}

fn agreed(ours: Vec<Capability>, theirs: Vec<Capability>) -> Negotiated {
    negotiate(&open(64512, ours), &open(64513, theirs)).unwrap()
}

#[test]
fn families_need_both_sides_and_ipv4_is_implied() {
    let mp = Capability::Multiprotocol;
    for (ours, theirs, ipv4, ipv6) in [
        (vec![], vec![], true, false),
        (vec![mp(V4), mp(V6)], vec![], true, false),
        (vec![mp(V4), mp(V6)], vec![mp(V6)], false, true),
        (vec![mp(V4), mp(V6)], vec![mp(V6), mp(V4)], true, true),
        (vec![mp(V6)], vec![], false, false),
        (vec![mp(V4), mp(V6)], vec![mp(AfiSafi { afi: 1, safi: 128 })], false, false),
    ] {
        let families = Families { ipv4, ipv6 };
        assert_eq!(agreed(ours.clone(), theirs.clone()).families, families, "{ours:?} {theirs:?}");
        assert_eq!(agreed(theirs, ours).families, families);
    }
}

#[test]
fn features_need_both_sides() {
    let all = vec![
        Capability::RouteRefresh,
        Capability::ExtendedNextHop(vec![(V4, 2)]),
        Capability::ExtendedMessage,
        Capability::FourOctetAs(64512),
        Capability::EnhancedRouteRefresh,
    ];
    let features = |n: &Negotiated| {
        [n.route_refresh, n.extended_next_hop, n.extended_message, n.four_octet_as, n.enhanced_route_refresh]
    };
    assert_eq!(features(&agreed(all.clone(), all.clone())), [true; 5]);
    for index in 0..all.len() {
        let mut fewer = all.clone();
        fewer.remove(index);
        let mut expected = [true; 5];
        expected[index] = false;
        assert_eq!(features(&agreed(all.clone(), fewer.clone())), expected);
        assert_eq!(features(&agreed(fewer, all.clone())), expected);
    }
    let other = vec![Capability::ExtendedNextHop(vec![(V6, 1)]), Capability::OldRouteRefresh];
    assert_eq!(features(&agreed(all, other)), [false; 5]);
}

#[test]
fn contexts_follow_what_was_agreed() {
    let all = vec![Capability::ExtendedMessage, Capability::FourOctetAs(64512), Capability::Multiprotocol(V6)];
    let negotiated = agreed(all.clone(), all);
    let decode = negotiated.decode_context();
    assert_eq!((decode.limit(), decode.four_octet_as), (65535, true));
    assert_eq!(decode.families, Families { ipv4: false, ipv6: true });
    assert_eq!(decode.peer_type, PeerType::External);
    let encode = negotiated.encode_context();
    assert_eq!((encode.limit(), encode.four_octet_as, encode.families), (65535, true, decode.families));
    let internal = negotiate(&open(64512, vec![]), &open(64512, vec![])).unwrap();
    assert_eq!(internal.decode_context().peer_type, PeerType::Internal);
    assert_eq!(internal.decode_context().limit(), 4096);
}

#[test]
fn hold_time_is_the_lesser() {
    let ours = open(64512, vec![]);
    let theirs = Open { hold_time: 30, ..open(64513, vec![]) };
    assert_eq!(negotiate(&ours, &theirs).unwrap().hold_time, 30);
    assert_eq!(negotiate(&theirs, &ours).unwrap().hold_time, 30);
    let none = Open { hold_time: 0, ..theirs };
    assert_eq!(negotiate(&ours, &none).unwrap().hold_time, 0);
}

#[test]
fn add_path_needs_a_sender_and_a_receiver() {
    let entry = |mode| vec![Capability::AddPath(vec![(V4, mode)])];
    let received = |ours, theirs| agreed(entry(ours), entry(theirs)).add_path_receive.ipv4;
    assert!(received(AddPathMode::Receive, AddPathMode::Send));
    assert!(received(AddPathMode::Both, AddPathMode::Both));
    assert!(!received(AddPathMode::Send, AddPathMode::Send));
    assert!(!received(AddPathMode::Receive, AddPathMode::Receive));
    assert!(!agreed(vec![], entry(AddPathMode::Both)).add_path_receive.ipv4);
}

#[test]
fn graceful_restart_needs_both_and_long_lived_needs_it() {
    let restart = |notification| {
        let families = vec![RestartFamily { family: V4, forwarding: true }];
        Capability::GracefulRestart(GracefulRestart { restarting: false, notification, time: 120, families })
    };
    let long =
        Capability::LongLivedGracefulRestart(vec![LongLivedFamily { family: V4, forwarding: true, stale_time: 3600 }]);
    let both = agreed(vec![restart(true), long.clone()], vec![restart(true), long.clone()]);
    assert_eq!(both.graceful_restart.map(|restart| restart.time), Some(120));
    assert!(both.graceful_notification);
    assert_eq!(both.long_lived.map(|families| families.len()), Some(1));
    assert!(!agreed(vec![restart(false)], vec![restart(true)]).graceful_notification);
    assert_eq!(agreed(vec![], vec![restart(true)]).graceful_restart, None);
    assert!(agreed(vec![long.clone()], vec![long]).long_lived.is_none());
}

#[test]
fn roles_must_fit() {
    let all = [Role::Provider, Role::RouteServer, Role::RouteServerClient, Role::Customer, Role::Peer];
    let ours = |role| open(64512, vec![Capability::Role(role)]);
    let theirs = |role| open(64513, vec![Capability::Role(role)]);
    for local in all {
        let fitting: Vec<_> = all.into_iter().filter(|role| negotiate(&ours(local), &theirs(*role)).is_ok()).collect();
        assert_eq!(fitting, [local.counterpart()]);
    }
    let several = open(64513, vec![Capability::Role(Role::Peer), Capability::Role(Role::Customer)]);
    assert_eq!(negotiate(&open(64512, vec![]), &several), Err(OpenError::RoleMismatch));
    assert_eq!(negotiate(&open(64512, vec![]), &theirs(Role::Peer)).unwrap().peer_role, Some(Role::Peer));
    // Within an AS a role means nothing.
    assert!(negotiate(&ours(Role::Peer), &ours(Role::Customer)).is_ok());
    assert_eq!(Notification::from(OpenError::RoleMismatch), Notification { code: 2, subcode: 11, data: vec![] });
}

#[test]
fn missing_capabilities_are_named_in_the_notification() {
    let data = hex("01 04 0002 00 01");
    let notification = Notification::from(OpenError::UnsupportedCapability(data.clone()));
    assert_eq!(notification, Notification { code: 2, subcode: 7, data });
}
