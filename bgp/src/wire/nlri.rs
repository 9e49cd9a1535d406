//! Runs of prefixes on the wire (RFC 4271 section 4.3, RFC 7911 section 3): checked once, then walked without copying.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::{BufMut, BytesMut};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::iana::{Families, Family};
use super::read::Reader;

/// A checked run of NLRI of one family, as it stands in the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nlri<'a> {
    family: Family,
    add_path: bool,
    octets: &'a [u8],
    count: usize,
}

/// One entry of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// Path identifier, where RFC 7911 is negotiated.
    pub path: Option<u32>,
    /// The prefix; bits beyond its length are zero.
    pub prefix: IpNet,
}

impl<'a> Nlri<'a> {
    /// The run without entries.
    pub const fn empty(family: Family) -> Self {
        Self { family, add_path: false, octets: &[], count: 0 }
    }

    /// Checks a run: `None` if a prefix is longer than its family allows, or the run ends within one.
    pub fn parse(family: Family, add_path: Families, octets: &'a [u8]) -> Option<Self> {
        let add_path = add_path.contains(family);
        let mut reader = Reader::new(octets);
        let mut count = 0usize;
        while !reader.is_empty() {
            if add_path {
                reader.u32()?;
            }
            let bits = reader.u8().filter(|bits| *bits <= family.max_len())?;
            reader.take(usize::from(bits).div_ceil(8))?;
            count = count.saturating_add(1);
        }
        Some(Self { family, add_path, octets, count })
    }

    /// The family of all entries.
    pub const fn family(&self) -> Family {
        self.family
    }

    /// Number of entries; costs nothing.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no entry.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The entries, in order.
    pub const fn iter(&self) -> Routes<'a> {
        Routes { family: self.family, add_path: self.add_path, reader: Reader::new(self.octets) }
    }

    /// The entries as they stand in the message.
    pub(super) const fn octets(&self) -> &'a [u8] {
        self.octets
    }
}

impl<'a> IntoIterator for &Nlri<'a> {
    type Item = Route;
    type IntoIter = Routes<'a>;

    fn into_iter(self) -> Routes<'a> {
        self.iter()
    }
}

/// Walks the entries of an [`Nlri`].
#[derive(Clone, Debug)]
pub struct Routes<'a> {
    family: Family,
    add_path: bool,
    reader: Reader<'a>,
}

impl Iterator for Routes<'_> {
    type Item = Route;

    fn next(&mut self) -> Option<Route> {
        if self.reader.is_empty() {
            return None;
        }
        let path = if self.add_path { Some(self.reader.u32()?) } else { None };
        let bits = self.reader.u8()?;
        let octets = self.reader.take(usize::from(bits).div_ceil(8))?;
        let prefix = match self.family {
            Family::Ipv4 => IpNet::V4(Ipv4Net::new(Ipv4Addr::from(padded::<4>(octets)), bits).ok()?.trunc()),
            Family::Ipv6 => IpNet::V6(Ipv6Net::new(Ipv6Addr::from(padded::<16>(octets)), bits).ok()?.trunc()),
        };
        Some(Route { path, prefix })
    }
}

fn padded<const N: usize>(octets: &[u8]) -> [u8; N] {
    let mut all = [0; N];
    for (to, from) in all.iter_mut().zip(octets) {
        *to = *from;
    }
    all
}

/// What can be announced or withdrawn: a prefix, or an address, which stands for its host route.
pub trait Prefix: Copy {
    /// The family of the prefix.
    fn family(&self) -> Family;
    /// Appends length and octets; bits beyond the length are zero.
    fn put(&self, out: &mut BytesMut);
    /// How many octets [`Prefix::put`] appends.
    fn encoded_len(&self) -> usize;
}

impl Prefix for Ipv4Addr {
    fn family(&self) -> Family {
        Family::Ipv4
    }

    fn put(&self, out: &mut BytesMut) {
        let [a, b, c, d] = self.octets();
        out.put_slice(&[32, a, b, c, d]);
    }

    fn encoded_len(&self) -> usize {
        5
    }
}

impl Prefix for Ipv6Addr {
    fn family(&self) -> Family {
        Family::Ipv6
    }

    fn put(&self, out: &mut BytesMut) {
        out.put_u8(128);
        out.put_u128(self.to_bits());
    }

    fn encoded_len(&self) -> usize {
        17
    }
}

impl Prefix for IpAddr {
    fn family(&self) -> Family {
        Family::of(*self)
    }

    fn put(&self, out: &mut BytesMut) {
        match self {
            Self::V4(address) => address.put(out),
            Self::V6(address) => address.put(out),
        }
    }

    fn encoded_len(&self) -> usize {
        match self {
            Self::V4(address) => address.encoded_len(),
            Self::V6(address) => address.encoded_len(),
        }
    }
}

impl Prefix for IpNet {
    fn family(&self) -> Family {
        Family::of(self.addr())
    }

    fn put(&self, out: &mut BytesMut) {
        let significant = usize::from(self.prefix_len()).div_ceil(8);
        out.put_u8(self.prefix_len());
        match self.network() {
            IpAddr::V4(network) => out.put_slice(network.octets().get(..significant).unwrap_or_default()),
            IpAddr::V6(network) => out.put_slice(network.octets().get(..significant).unwrap_or_default()),
        }
    }

    fn encoded_len(&self) -> usize {
        usize::from(self.prefix_len()).div_ceil(8).saturating_add(1)
    }
}
