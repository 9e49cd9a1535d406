//! Path attributes: what they hold, and how they are written. How they are read, and what RFC 7606 does with broken
//! ones, is in `decode`.

mod as_path;
mod decode;

pub use as_path::{AsPath, Segment, SegmentKind};
pub(super) use decode::{Decoder, Outcome};

use std::fmt;
use std::net::Ipv4Addr;

use bytes::{BufMut, BytesMut};

use super::EncodeContext;
use super::error::EncodeError;
use super::iana::{AS_TRANS, attribute as code};

/// Attribute flag: optional, not well-known (RFC 4271 section 4.3).
pub const OPTIONAL: u8 = 0x80;
/// Attribute flag: transitive.
pub const TRANSITIVE: u8 = 0x40;
/// Attribute flag: somebody on the way did not know it.
pub const PARTIAL: u8 = 0x20;
/// Attribute flag: the length has two octets.
pub const EXTENDED: u8 = 0x10;

/// The path attributes of an UPDATE, but for MP_REACH_NLRI and MP_UNREACH_NLRI, which belong to its routes.
///
/// Absent lists are empty. AS4_PATH and AS4_AGGREGATOR are merged into `as_path` and `aggregator` when read, and
/// written when the peer needs them (RFC 6793).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Attributes {
    /// ORIGIN (RFC 4271): where the path information is from.
    pub origin: Option<Origin>,
    /// AS_PATH; `Some` of an empty path is what an internal originator sends.
    pub as_path: Option<AsPath>,
    /// NEXT_HOP of the classic NLRI field.
    pub next_hop: Option<Ipv4Addr>,
    /// MULTI_EXIT_DISC (RFC 4271): the lower, the better.
    pub med: Option<u32>,
    /// LOCAL_PREF; only between internal peers.
    pub local_pref: Option<u32>,
    /// Whether ATOMIC_AGGREGATE is there (RFC 4271): AS numbers were left out of the path.
    pub atomic_aggregate: bool,
    /// AGGREGATOR (RFC 4271): who made the aggregate.
    pub aggregator: Option<Aggregator>,
    /// COMMUNITIES (RFC 1997).
    pub communities: Vec<u32>,
    /// ORIGINATOR_ID (RFC 4456).
    pub originator_id: Option<Ipv4Addr>,
    /// CLUSTER_LIST (RFC 4456).
    pub cluster_list: Vec<Ipv4Addr>,
    /// EXTENDED COMMUNITIES (RFC 4360), as they are.
    pub extended_communities: Vec<[u8; 8]>,
    /// LARGE_COMMUNITY (RFC 8092).
    pub large_communities: Vec<LargeCommunity>,
    /// Only to Customer (RFC 9234).
    pub otc: Option<u32>,
    /// Optional attributes that we don't know, in the order received.
    pub unknown: Vec<UnknownAttribute>,
}

/// ORIGIN (RFC 4271 section 5.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// Value 0: from within the AS that originates it.
    Igp,
    /// Value 1: learnt by EGP (RFC 904).
    Egp,
    /// Value 2: learnt otherwise.
    Incomplete,
}

/// AGGREGATOR (RFC 4271 section 5.1.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Aggregator {
    /// AS of the speaker that aggregated.
    pub asn: u32,
    /// Its BGP identifier.
    pub address: Ipv4Addr,
}

/// Large community (RFC 8092), written `global:first:second`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LargeCommunity {
    /// Global Administrator: an AS.
    pub global: u32,
    /// Local Data Part 1.
    pub first: u32,
    /// Local Data Part 2.
    pub second: u32,
}

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.global, self.first, self.second)
    }
}

/// An optional attribute that we don't know, as received.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UnknownAttribute {
    /// Flags; [`EXTENDED`] is set anew when written.
    pub flags: u8,
    /// Type code of the attribute.
    pub code: u8,
    /// Octets of the value, as received.
    pub value: Vec<u8>,
}

/// Flags that an attribute must have; `None` for one that we don't know.
pub(super) const fn expected_flags(attribute: u8) -> Option<u8> {
    Some(match attribute {
        code::ORIGIN | code::AS_PATH | code::NEXT_HOP | code::LOCAL_PREF | code::ATOMIC_AGGREGATE => TRANSITIVE,
        code::MULTI_EXIT_DISC
        | code::ORIGINATOR_ID
        | code::CLUSTER_LIST
        | code::MP_REACH_NLRI
        | code::MP_UNREACH_NLRI => OPTIONAL,
        code::AGGREGATOR
        | code::COMMUNITIES
        | code::EXTENDED_COMMUNITIES
        | code::AS4_PATH
        | code::AS4_AGGREGATOR
        | code::LARGE_COMMUNITIES
        | code::OTC => OPTIONAL | TRANSITIVE,
        _ => return None,
    })
}

/// Appends one attribute whose value is there already.
fn put(out: &mut BytesMut, flags: u8, attribute: u8, value: &[u8]) -> Result<(), EncodeError> {
    if let Ok(length) = u8::try_from(value.len()) {
        out.put_slice(&[flags & !EXTENDED, attribute, length]);
    } else {
        let length = u16::try_from(value.len()).map_err(|_| EncodeError::TooLong)?;
        out.put_slice(&[flags | EXTENDED, attribute]);
        out.put_u16(length);
    }
    out.put_slice(value);
    Ok(())
}

/// Appends one known attribute, with the flags it must have.
pub(super) fn put_known(out: &mut BytesMut, attribute: u8, value: &[u8]) -> Result<(), EncodeError> {
    put(out, expected_flags(attribute).unwrap_or(OPTIONAL | TRANSITIVE), attribute, value)
}

impl Attributes {
    /// Appends all attributes in ascending order of type, the unknown ones last.
    ///
    /// Fails with [`EncodeError::TooLong`] if one exceeds 65535 octets or a set of the AS path 255 numbers; the caller
    /// takes back what was written.
    pub fn encode(&self, context: &EncodeContext, out: &mut BytesMut) -> Result<(), EncodeError> {
        if let Some(origin) = self.origin {
            put_known(out, code::ORIGIN, &[origin.code()])?;
        }
        if let Some(path) = &self.as_path {
            put_known(out, code::AS_PATH, &path.encode(context.four_octet_as)?)?;
        }
        if let Some(next_hop) = self.next_hop {
            put_known(out, code::NEXT_HOP, &next_hop.octets())?;
        }
        if let Some(med) = self.med {
            put_known(out, code::MULTI_EXIT_DISC, &med.to_be_bytes())?;
        }
        if let Some(preference) = self.local_pref {
            put_known(out, code::LOCAL_PREF, &preference.to_be_bytes())?;
        }
        if self.atomic_aggregate {
            put_known(out, code::ATOMIC_AGGREGATE, &[])?;
        }
        if let Some(aggregator) = self.aggregator {
            put_known(out, code::AGGREGATOR, &aggregator.encode(context.four_octet_as))?;
        }
        put_list(out, code::COMMUNITIES, &self.communities, |community| community.to_be_bytes())?;
        if let Some(id) = self.originator_id {
            put_known(out, code::ORIGINATOR_ID, &id.octets())?;
        }
        put_list(out, code::CLUSTER_LIST, &self.cluster_list, Ipv4Addr::octets)?;
        put_list(out, code::EXTENDED_COMMUNITIES, &self.extended_communities, |community| *community)?;
        if !context.four_octet_as {
            self.encode_as4(out)?;
        }
        let large = self.large_communities.iter().flat_map(|it| [it.global, it.first, it.second]).collect::<Vec<_>>();
        put_list(out, code::LARGE_COMMUNITIES, &large, |part| part.to_be_bytes())?;
        if let Some(asn) = self.otc {
            put_known(out, code::OTC, &asn.to_be_bytes())?;
        }
        for attribute in &self.unknown {
            put(out, attribute.flags, attribute.code, &attribute.value)?;
        }
        Ok(())
    }

    /// AS4_PATH and AS4_AGGREGATOR for a two-octet peer, where it could not read a number (RFC 6793 section 4.2.2).
    fn encode_as4(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        if let Some(path) = self.as_path.as_ref().filter(|path| path.needs_four_octets()) {
            put_known(out, code::AS4_PATH, &path.without_confederation().encode(true)?)?;
        }
        if let Some(aggregator) = self.aggregator.filter(|it| u16::try_from(it.asn).is_err()) {
            put_known(out, code::AS4_AGGREGATOR, &aggregator.encode(true))?;
        }
        Ok(())
    }
}

fn put_list<T, const N: usize>(
    out: &mut BytesMut,
    attribute: u8,
    list: &[T],
    octets: impl Fn(&T) -> [u8; N],
) -> Result<(), EncodeError> {
    if list.is_empty() {
        return Ok(());
    }
    put_known(out, attribute, &list.iter().flat_map(octets).collect::<Vec<_>>())
}

impl Origin {
    const fn code(self) -> u8 {
        match self {
            Self::Igp => 0,
            Self::Egp => 1,
            Self::Incomplete => 2,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::Igp,
            1 => Self::Egp,
            2 => Self::Incomplete,
            _ => return None,
        })
    }
}

impl Aggregator {
    fn encode(self, four_octet: bool) -> Vec<u8> {
        let mut value = encode_as(self.asn, four_octet);
        value.extend_from_slice(&self.address.octets());
        value
    }
}

/// An AS number in four octets, or in two with AS_TRANS for those that need four.
fn encode_as(asn: u32, four_octet: bool) -> Vec<u8> {
    if four_octet {
        return asn.to_be_bytes().to_vec();
    }
    let short = u16::try_from(asn).or_else(|_| u16::try_from(AS_TRANS)).unwrap_or_default();
    short.to_be_bytes().to_vec()
}
