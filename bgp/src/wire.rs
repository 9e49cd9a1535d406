//! BGP-4 on the wire: messages, capabilities, path attributes and NLRI, decoded from `&[u8]` and encoded into a
//! caller's buffer.
//!
//! * [`iana`]: code points, one enum per registry.
//! * [`error`]: what can be wrong, one variant per NOTIFICATION subcode, and the actions of RFC 7606.
//! * [`capability`]: OPEN's capabilities, and [`capability::Negotiated`], the function of the two OPENs.
//! * [`message`]: the five messages; [`message::frame`] cuts them out of a stream, [`message::Message::decode`] reads one.
//! * [`attribute`]: path attributes, each with its RFC 7606 treatment.
//! * [`nlri`]: runs of prefixes, walked without copying.
//! * [`builder`]: UPDATEs of a route injector, packed up to the size limit.
//!
//! Nothing here panics on any input: all reads go through [`read::Reader`], and the lints below forbid the rest.
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]
#![deny(clippy::cast_sign_loss, clippy::cast_possible_wrap, missing_docs)]

pub mod attribute;
pub mod builder;
pub mod capability;
pub mod error;
pub mod iana;
pub mod message;
pub mod nlri;
mod read;
mod write;

#[cfg(test)]
mod tests;

/// Largest message without RFC 8654, octets (RFC 4271 section 4.1).
pub const MAX_MESSAGE: usize = 4096;
/// Largest message with RFC 8654, octets.
pub const MAX_EXTENDED_MESSAGE: usize = 65535;
/// Message header: marker, length, type; octets.
pub const HEADER: usize = 19;

/// What the decoder must know about the session; comes from [`capability::Negotiated`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeContext {
    /// Whether the peer is in our AS.
    pub peer_type: PeerType,
    /// AS numbers in AS_PATH and AGGREGATOR have four octets (RFC 6793).
    pub four_octet_as: bool,
    /// UPDATE, NOTIFICATION and ROUTE-REFRESH may have up to 65535 octets (RFC 8654).
    pub extended_message: bool,
    /// The reserved octet of ROUTE-REFRESH is a subtype (RFC 7313).
    pub enhanced_route_refresh: bool,
    /// IPv4 NLRI in MP_REACH_NLRI may have an IPv6 next hop (RFC 8950).
    pub extended_next_hop: bool,
    /// Families of which UPDATEs are understood; MP attributes of others are ignored and reported.
    pub families: iana::Families,
    /// Families whose inbound NLRI carry a path identifier (RFC 7911).
    pub add_path: iana::Families,
}

impl DecodeContext {
    /// The context before the OPENs were exchanged: nothing negotiated.
    pub const fn initial(peer_type: PeerType) -> Self {
        Self {
            peer_type,
            four_octet_as: false,
            extended_message: false,
            enhanced_route_refresh: false,
            extended_next_hop: false,
            families: iana::Families::NONE,
            add_path: iana::Families::NONE,
        }
    }

    /// Largest message the peer may send, octets. OPEN and KEEPALIVE stay at 4096 (RFC 8654 section 3).
    pub const fn limit(&self) -> usize {
        if self.extended_message { MAX_EXTENDED_MESSAGE } else { MAX_MESSAGE }
    }
}

/// What the encoder must know about the session; comes from [`capability::Negotiated`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EncodeContext {
    /// AS numbers are sent with four octets; else AS_TRANS and AS4_PATH are used (RFC 6793).
    pub four_octet_as: bool,
    /// UPDATE, NOTIFICATION and ROUTE-REFRESH may have up to 65535 octets (RFC 8654).
    pub extended_message: bool,
    /// IPv4 may be sent with an IPv6 next hop (RFC 8950).
    pub extended_next_hop: bool,
    /// IPv4 goes into MP_REACH_NLRI and MP_UNREACH_NLRI although the classic fields would do.
    pub ipv4_in_mp: bool,
    /// Families that may be sent.
    pub families: iana::Families,
    /// Families whose NLRI carry a path identifier (RFC 7911); we never offer to send it.
    pub add_path: iana::Families,
}

impl EncodeContext {
    /// The context before the OPENs were exchanged: nothing negotiated.
    pub const fn initial() -> Self {
        Self {
            four_octet_as: false,
            extended_message: false,
            extended_next_hop: false,
            ipv4_in_mp: false,
            families: iana::Families::NONE,
            add_path: iana::Families::NONE,
        }
    }

    /// Largest message that may be sent, octets. OPEN and KEEPALIVE stay at 4096 (RFC 8654 section 3).
    pub const fn limit(&self) -> usize {
        if self.extended_message { MAX_EXTENDED_MESSAGE } else { MAX_MESSAGE }
    }
}

/// Whether a peer is in our AS (RFC 4271 section 1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerType {
    /// The peer's AS is ours.
    Internal,
    /// The peer's AS is another one.
    External,
}
