//! Tests of the codec: byte vectors both ways, the cases of RFC 7606, and properties.
#![allow(clippy::arithmetic_side_effects, clippy::cast_possible_truncation, clippy::cast_sign_loss, missing_docs)]

mod attributes;
mod builders;
mod capabilities;
mod frames;
mod notifications;
mod open_messages;
mod properties;
mod rfc7606;
mod updates;

use bytes::BytesMut;

use super::iana::Families;
use super::message::Message;
use super::{DecodeContext, EncodeContext, PeerType};

/// All features, an internal peer.
pub(super) const DECODE: DecodeContext = DecodeContext {
    peer_type: PeerType::Internal,
    four_octet_as: true,
    extended_message: false,
    enhanced_route_refresh: true,
    extended_next_hop: true,
    families: Families::ALL,
    add_path: Families::NONE,
};

/// The same, the other way.
pub(super) const ENCODE: EncodeContext = EncodeContext {
    four_octet_as: true,
    extended_message: false,
    extended_next_hop: true,
    ipv4_in_mp: false,
    families: Families::ALL,
    add_path: Families::NONE,
};

/// Octets from hexadecimal digits; anything else separates.
pub(super) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().filter_map(|c| c.to_digit(16)).map(|digit| u8::try_from(digit).unwrap()).collect();
    assert_eq!(digits.len() % 2, 0, "odd number of digits in {text}");
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// A message of this type with the header put before `body`.
pub(super) fn message(kind: u8, body: &str) -> Vec<u8> {
    let body = hex(body);
    let mut out = vec![0xFF; 16];
    out.extend(u16::try_from(body.len() + 19).unwrap().to_be_bytes());
    out.push(kind);
    out.extend(body);
    out
}

/// An UPDATE from its three fields, lengths filled in.
pub(super) fn update(withdrawn: &str, attributes: &str, nlri: &str) -> Vec<u8> {
    let (withdrawn, attributes) = (hex(withdrawn), hex(attributes));
    let mut body = u16::try_from(withdrawn.len()).unwrap().to_be_bytes().to_vec();
    body.extend(withdrawn);
    body.extend(u16::try_from(attributes.len()).unwrap().to_be_bytes());
    body.extend(attributes);
    body.extend(hex(nlri));
    let mut out = vec![0xFF; 16];
    out.extend(u16::try_from(body.len() + 19).unwrap().to_be_bytes());
    out.push(2);
    out.extend(body);
    out
}

/// The octets of a message.
pub(super) fn encode(message: &Message<'_>, context: &EncodeContext) -> Vec<u8> {
    let mut out = BytesMut::from(&b"before"[..]);
    message.encode(context, &mut out).unwrap();
    assert_eq!(&out[..6], b"before", "encode must only append");
    out[6..].to_vec()
}

/// Asserts that the octets and the struct are the same message, both ways.
pub(super) fn assert_both_ways(octets: &[u8], message: &Message<'_>, decode: &DecodeContext, context: &EncodeContext) {
    assert_eq!(Message::decode(octets, decode).as_ref(), Ok(message));
    assert_eq!(encode(message, context), octets);
}
