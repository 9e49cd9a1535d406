//! UPDATEs of a route injector: many routes with the same attributes, packed up to the size limit.
//!
//! ```
//! use bytes::BytesMut;
//! use destguard_bgp::wire::attribute::{AsPath, Attributes, Origin};
//! use destguard_bgp::wire::builder::{AttributeBlock, announce};
//! use destguard_bgp::wire::iana::{Families, Family};
//! use destguard_bgp::wire::{EncodeContext, PeerType};
//!
//! let context = EncodeContext { four_octet_as: true, families: Families::ALL, ..EncodeContext::initial() };
//! let attributes = Attributes {
//!     origin: Some(Origin::Igp),
//!     as_path: Some(AsPath::originated(PeerType::External, 64512)),
//!     ..Attributes::default()
//! };
//! let next_hop = std::net::Ipv4Addr::new(192, 0, 2, 1);
//! let block = AttributeBlock::new(&context, Family::Ipv4, std::net::IpAddr::from(next_hop).into(), &attributes)?;
//! let hosts = [std::net::Ipv4Addr::new(203, 0, 113, 1), std::net::Ipv4Addr::new(203, 0, 113, 2)];
//! let mut out = BytesMut::new();
//! assert_eq!(announce(&context, &block, &hosts, &mut out)?, 2);
//! # Ok::<(), destguard_bgp::wire::error::EncodeError>(())
//! ```

use bytes::{BufMut, Bytes, BytesMut};

use super::attribute::{Attributes, EXTENDED, OPTIONAL};
use super::error::EncodeError;
use super::iana::{Family, MessageType, attribute as code};
use super::message::{NextHop, Update, put_family};
use super::nlri::Prefix;
use super::write::{begin_message, begin16, set16};
use super::{EncodeContext, HEADER};

/// One attribute set, encoded once for all routes and all peers with the same [`EncodeContext`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AttributeBlock {
    family: Family,
    /// MP_REACH_NLRI up to its first route, its length not filled in; empty: the classic field is used.
    mp_reach: Bytes,
    /// All other attributes.
    attributes: Bytes,
}

impl AttributeBlock {
    /// Encodes `attributes` for routes of `family` with this next hop.
    ///
    /// IPv4 with an IPv4 next hop goes into the classic NLRI field unless [`EncodeContext::ipv4_in_mp`];
    /// `attributes.next_hop` is set or removed accordingly. Fails if the family, or IPv4 with an IPv6 next hop, was not
    /// negotiated, and if an IPv6 route would have an IPv4 next hop.
    pub fn new(
        context: &EncodeContext,
        family: Family,
        next_hop: NextHop,
        attributes: &Attributes,
    ) -> Result<Self, EncodeError> {
        if !context.families.contains(family) {
            return Err(EncodeError::NotNegotiated);
        }
        let classic = match (family, next_hop) {
            (Family::Ipv4, NextHop::Ipv4(address)) => (!context.ipv4_in_mp).then_some(address),
            (Family::Ipv4, _) if !context.extended_next_hop => return Err(EncodeError::NotNegotiated),
            (Family::Ipv6, NextHop::Ipv4(_)) => return Err(EncodeError::WrongFamily),
            (Family::Ipv4 | Family::Ipv6, _) => None,
        };
        let mut mp_reach = BytesMut::new();
        if classic.is_none() {
            put_mp_header(&mut mp_reach, code::MP_REACH_NLRI, family);
            next_hop.put(&mut mp_reach);
            mp_reach.put_u8(0);
        }
        let mut octets = BytesMut::new();
        Attributes { next_hop: classic, ..attributes.clone() }.encode(context, &mut octets)?;
        Ok(Self { family, mp_reach: mp_reach.freeze(), attributes: octets.freeze() })
    }

    /// The family of the routes.
    pub const fn family(&self) -> Family {
        self.family
    }

    /// Host routes that one message with these attributes holds.
    pub fn hosts(&self, context: &EncodeContext) -> usize {
        let fixed = [HEADER, 4, self.mp_reach.len(), self.attributes.len()];
        let path = if context.add_path.contains(self.family) { 4 } else { 0 };
        let host = usize::from(self.family.max_len().div_ceil(8)).saturating_add(1).saturating_add(path);
        room(context, &fixed).ok().and_then(|room| room.checked_div(host)).unwrap_or(0)
    }
}

/// Flags with the 2-octet length, type, a length of 0 to be filled in, AFI and SAFI.
fn put_mp_header(out: &mut BytesMut, attribute: u8, family: Family) {
    out.put_slice(&[OPTIONAL | EXTENDED, attribute, 0, 0]);
    put_family(out, family.afi_safi());
}

/// Where the prefixes of an UPDATE stand.
enum Field<'b> {
    /// The classic NLRI field: last in the message.
    Nlri,
    /// The classic withdrawn routes field; its length stands at this place.
    Withdrawn { length_at: usize },
    /// An MP attribute that starts at `at`; the attributes in `after` follow the prefixes.
    Multiprotocol { attributes_at: usize, at: usize, after: &'b [u8] },
}

/// One UPDATE that is filled prefix by prefix. Dropped before [`UpdateBuilder::finish`], it leaves the buffer as it was.
pub struct UpdateBuilder<'b> {
    out: &'b mut BytesMut,
    family: Family,
    add_path: bool,
    start: usize,
    field: Field<'b>,
    /// Octets left for prefixes.
    room: usize,
    count: usize,
    finished: bool,
}

impl<'b> UpdateBuilder<'b> {
    /// Begins an UPDATE that announces. Fails with [`EncodeError::TooLong`] if the attributes alone exceed the limit.
    pub fn announce(
        context: &EncodeContext,
        block: &'b AttributeBlock,
        out: &'b mut BytesMut,
    ) -> Result<Self, EncodeError> {
        let fixed = [HEADER, 4, block.mp_reach.len(), block.attributes.len()];
        let room = room(context, &fixed)?;
        let start = begin_message(out, MessageType::Update);
        out.put_u16(0);
        let attributes_at = begin16(out);
        let at = out.len();
        let field = if block.mp_reach.is_empty() {
            out.put_slice(&block.attributes);
            set16(out, attributes_at, u16::try_from(block.attributes.len()).map_err(|_| EncodeError::TooLong)?);
            Field::Nlri
        } else {
            out.put_slice(&block.mp_reach);
            Field::Multiprotocol { attributes_at, at, after: &block.attributes }
        };
        Ok(Self::new(context, block.family, out, start, field, room))
    }

    /// Begins an UPDATE that withdraws. IPv4 goes into the classic field unless [`EncodeContext::ipv4_in_mp`].
    pub fn withdraw(context: &EncodeContext, family: Family, out: &'b mut BytesMut) -> Result<Self, EncodeError> {
        if !context.families.contains(family) {
            return Err(EncodeError::NotNegotiated);
        }
        let classic = family == Family::Ipv4 && !context.ipv4_in_mp;
        let room = room(context, &[HEADER, 4, if classic { 0 } else { 7 }])?;
        let start = begin_message(out, MessageType::Update);
        let length_at = begin16(out);
        let field = if classic {
            Field::Withdrawn { length_at }
        } else {
            let attributes_at = begin16(out);
            let at = out.len();
            put_mp_header(out, code::MP_UNREACH_NLRI, family);
            Field::Multiprotocol { attributes_at, at, after: &[] }
        };
        Ok(Self::new(context, family, out, start, field, room))
    }

    fn new(
        context: &EncodeContext,
        family: Family,
        out: &'b mut BytesMut,
        start: usize,
        field: Field<'b>,
        room: usize,
    ) -> Self {
        out.reserve(room.min(super::MAX_MESSAGE));
        let add_path = context.add_path.contains(family);
        Self { out, family, add_path, start, field, room, count: 0, finished: false }
    }

    /// Adds a prefix; `Ok(false)`: the message is full and the prefix is not in it.
    pub fn push<P: Prefix>(&mut self, prefix: P) -> Result<bool, EncodeError> {
        if prefix.family() != self.family {
            return Err(EncodeError::WrongFamily);
        }
        let octets = prefix.encoded_len().saturating_add(if self.add_path { 4 } else { 0 });
        let Some(room) = self.room.checked_sub(octets) else { return Ok(false) };
        self.room = room;
        if self.add_path {
            self.out.put_u32(0);
        }
        prefix.put(self.out);
        self.count = self.count.saturating_add(1);
        Ok(true)
    }

    /// Number of prefixes in the message.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no prefix yet.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Completes the message and says how many prefixes are in it. With none, nothing is written: an UPDATE without
    /// routes would be an End-of-RIB, or an error.
    pub fn finish(mut self) -> Result<usize, EncodeError> {
        if self.count == 0 {
            return Ok(0);
        }
        match self.field {
            Field::Nlri => {}
            Field::Withdrawn { length_at } => {
                let length = self.out.len().saturating_sub(length_at).saturating_sub(2);
                set16(self.out, length_at, u16::try_from(length).map_err(|_| EncodeError::TooLong)?);
                self.out.put_u16(0);
            }
            Field::Multiprotocol { attributes_at, at, after } => {
                let value = self.out.len().saturating_sub(at).saturating_sub(4);
                set16(self.out, at.saturating_add(2), u16::try_from(value).map_err(|_| EncodeError::TooLong)?);
                self.out.put_slice(after);
                let all = self.out.len().saturating_sub(at);
                set16(self.out, attributes_at, u16::try_from(all).map_err(|_| EncodeError::TooLong)?);
            }
        }
        let length = self.out.len().saturating_sub(self.start);
        set16(self.out, self.start.saturating_add(16), u16::try_from(length).map_err(|_| EncodeError::TooLong)?);
        self.finished = true;
        Ok(self.count)
    }
}

impl Drop for UpdateBuilder<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.out.truncate(self.start);
        }
    }
}

fn room(context: &EncodeContext, fixed: &[usize]) -> Result<usize, EncodeError> {
    let fixed = fixed.iter().fold(0, |sum: usize, part| sum.saturating_add(*part));
    context.limit().checked_sub(fixed).ok_or(EncodeError::TooLong)
}

/// Appends one UPDATE that announces the first of `prefixes`; says how many fitted. 0 only if there are none, or if the
/// attributes leave no room (then it is an error).
pub fn announce<P: Prefix>(
    context: &EncodeContext,
    block: &AttributeBlock,
    prefixes: &[P],
    out: &mut BytesMut,
) -> Result<usize, EncodeError> {
    fill(UpdateBuilder::announce(context, block, out)?, prefixes)
}

/// Appends one UPDATE that withdraws the first of `prefixes`, all of `family`; says how many fitted.
pub fn withdraw<P: Prefix>(
    context: &EncodeContext,
    family: Family,
    prefixes: &[P],
    out: &mut BytesMut,
) -> Result<usize, EncodeError> {
    fill(UpdateBuilder::withdraw(context, family, out)?, prefixes)
}

fn fill<P: Prefix>(mut builder: UpdateBuilder<'_>, prefixes: &[P]) -> Result<usize, EncodeError> {
    for prefix in prefixes {
        if !builder.push(*prefix)? {
            break;
        }
    }
    if builder.is_empty() && !prefixes.is_empty() {
        return Err(EncodeError::TooLong);
    }
    builder.finish()
}

/// Appends the End-of-RIB of a family (RFC 4724 section 2): an empty UPDATE for IPv4, an empty MP_UNREACH_NLRI else.
///
/// Fails with [`EncodeError::NotNegotiated`] for a family that was not: some routers reset the session on that.
pub fn end_of_rib(context: &EncodeContext, family: Family, out: &mut BytesMut) -> Result<(), EncodeError> {
    if !context.families.contains(family) {
        return Err(EncodeError::NotNegotiated);
    }
    match family {
        Family::Ipv4 => Update::empty().encode(context, out),
        Family::Ipv6 => {
            let start = begin_message(out, MessageType::Update);
            out.put_slice(&[0, 0, 0, 6, OPTIONAL, code::MP_UNREACH_NLRI, 3]);
            put_family(out, family.afi_safi());
            let length = out.len().saturating_sub(start);
            set16(out, start.saturating_add(16), u16::try_from(length).map_err(|_| EncodeError::TooLong)?);
            Ok(())
        }
    }
}
