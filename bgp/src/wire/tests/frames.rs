//! Header checks (RFC 4271 section 6.1), KEEPALIVE and ROUTE-REFRESH.

use super::*;
use crate::wire::error::{DecodeError, HeaderError};
use crate::wire::iana::{AfiSafi, Family};
use crate::wire::message::{Notification, RefreshSubtype, RouteRefresh, frame};

#[test]
fn keepalive() {
    assert_both_ways(&message(4, ""), &Message::Keepalive, &DECODE, &ENCODE);
}

#[test]
fn route_refresh_with_each_subtype() {
    for (body, family, subtype) in [
        ("0001 00 01", Family::Ipv4.afi_safi(), RefreshSubtype::Request),
        ("0002 01 01", Family::Ipv6.afi_safi(), RefreshSubtype::Begin),
        ("0002 02 01", Family::Ipv6.afi_safi(), RefreshSubtype::End),
        ("0001 07 01", Family::Ipv4.afi_safi(), RefreshSubtype::Unknown(7)),
        ("4004 00 47", AfiSafi { afi: 16388, safi: 71 }, RefreshSubtype::Request),
    ] {
        let refresh = Message::RouteRefresh(RouteRefresh { family, subtype });
        assert_both_ways(&message(5, body), &refresh, &DECODE, &ENCODE);
    }
}

#[test]
fn route_refresh_subtype_is_reserved_without_rfc7313() {
    let context = DecodeContext { enhanced_route_refresh: false, ..DECODE };
    let octets = message(5, "0001 02 01");
    let Ok(Message::RouteRefresh(refresh)) = Message::decode(&octets, &context) else { panic!() };
    assert_eq!(refresh.subtype, RefreshSubtype::Request);
}

#[test]
fn route_refresh_of_wrong_length() {
    // BoRR and EoRR have their own error, with the whole message as data (RFC 7313 section 5).
    for body in ["0001 01 01 00", "0001 02", "0001 02 01 0000"] {
        let octets = message(5, body);
        let error = Message::decode(&octets, &DECODE).unwrap_err();
        let notification = Notification::from(error);
        assert_eq!((notification.code, notification.subcode), (7, 1));
        assert_eq!(notification.data, octets);
    }
    for body in ["", "00", "0001 00", "0001 00 01 00"] {
        let octets = message(5, body);
        let error = Message::decode(&octets, &DECODE).unwrap_err();
        assert_eq!(error, DecodeError::Header(HeaderError::BadLength(octets.len() as u16)));
    }
}

#[test]
fn length_is_known_once_the_header_is_there() {
    let octets = message(4, "");
    for end in 0..19 {
        assert_eq!(frame(&octets[..end], &DECODE), Ok(None), "{end} octets");
    }
    let two = [octets.clone(), octets].concat();
    assert_eq!(frame(&two, &DECODE), Ok(Some(19)));
}

#[test]
fn broken_headers() {
    let limit = |extended_message| DecodeContext { extended_message, ..DECODE };
    let header = |marker: u8, length: u16, kind: u8| {
        let mut octets = vec![0xFF; 15];
        octets.push(marker);
        octets.extend(length.to_be_bytes());
        octets.push(kind);
        octets
    };
    let bad_length = |length: u16| Err(HeaderError::BadLength(length));
    for (octets, context, expected) in [
        (header(0xFE, 19, 4), DECODE, Err(HeaderError::NotSynchronized)),
        (header(0xFF, 18, 4), DECODE, bad_length(18)),
        (header(0xFF, 0, 4), DECODE, bad_length(0)),
        (header(0xFF, 20, 4), DECODE, bad_length(20)),
        (header(0xFF, 28, 1), DECODE, bad_length(28)),
        (header(0xFF, 29, 1), DECODE, Ok(Some(29))),
        (header(0xFF, 22, 2), DECODE, bad_length(22)),
        (header(0xFF, 23, 2), DECODE, Ok(Some(23))),
        (header(0xFF, 20, 3), DECODE, bad_length(20)),
        (header(0xFF, 21, 3), DECODE, Ok(Some(21))),
        (header(0xFF, 4096, 2), DECODE, Ok(Some(4096))),
        (header(0xFF, 4097, 2), DECODE, bad_length(4097)),
        (header(0xFF, 4097, 2), limit(true), Ok(Some(4097))),
        (header(0xFF, 65535, 3), limit(true), Ok(Some(65535))),
        // OPEN keeps its limit (RFC 8654 section 3).
        (header(0xFF, 4097, 1), limit(true), bad_length(4097)),
        (header(0xFF, 23, 0), DECODE, Err(HeaderError::BadType(0))),
        (header(0xFF, 23, 6), DECODE, Err(HeaderError::BadType(6))),
        (header(0xFF, 23, 128), DECODE, Err(HeaderError::BadType(128))),
    ] {
        assert_eq!(frame(&octets, &context), expected, "{octets:02x?}");
    }
}

#[test]
fn rubbish_is_refused_at_its_first_octet() {
    assert_eq!(frame(b"G", &DECODE), Err(HeaderError::NotSynchronized));
}

#[test]
fn header_notifications_carry_the_field() {
    let cases = [
        (HeaderError::NotSynchronized, 1, vec![]),
        (HeaderError::BadLength(0x1234), 2, vec![0x12, 0x34]),
        (HeaderError::BadType(9), 3, vec![9]),
    ];
    for (error, subcode, data) in cases {
        assert_eq!(Notification::from(error), Notification { code: 1, subcode, data });
    }
}

#[test]
fn decode_wants_exactly_one_message() {
    let mut octets = message(4, "");
    octets.push(0xFF);
    assert_eq!(Message::decode(&octets, &DECODE), Err(DecodeError::Header(HeaderError::BadLength(20))));
    assert!(Message::decode(&octets[..18], &DECODE).is_err());
    assert!(Message::decode(&[], &DECODE).is_err());
}
