//! Which leases a name caused, as question or alias.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use smallvec::SmallVec;

use super::Cause;
use crate::core::name::Name;

/// A part of the hash of a name that is among causes, and the addresses that it led to. With each stands how often it
/// is among the causes: 64 of them, each with a chain of bounded length. The name itself stands in the lease: twice in
/// memory it would cost more than all else of the index.
#[derive(Clone, Debug)]
enum Tagged {
    /// One address, nearly always.
    Ipv4 { tag: u32, address: Ipv4Addr, times: u16 },
    /// A single IPv6 address.
    Ipv6 { tag: u32, one: Box<(Ipv6Addr, u16)> },
    /// In order: one name may have caused a hundred thousand, another guard's, or a pool's that rotates.
    // A map by itself would make each name 16 octets greater.
    #[allow(clippy::box_collection)]
    Many { tag: u32, all: Box<BTreeMap<IpAddr, u16>> },
}

/// One for each name: its size matters.
const _: () = assert!(size_of::<Tagged>() <= 16);

impl Tagged {
    fn one(tag: u32, address: IpAddr, times: u16) -> Self {
        match address {
            IpAddr::V4(address) => Self::Ipv4 { tag, address, times },
            IpAddr::V6(address) => Self::Ipv6 { tag, one: Box::new((address, times)) },
        }
    }

    fn tag(&self) -> u32 {
        match self {
            Self::Ipv4 { tag, .. } | Self::Ipv6 { tag, .. } | Self::Many { tag, .. } => *tag,
        }
    }

    /// Its addresses, each with its count, in order.
    fn iter(&self) -> impl Iterator<Item = (IpAddr, u16)> {
        let (one, many) = match self {
            Self::Ipv4 { address, times, .. } => (Some((IpAddr::V4(*address), *times)), None),
            Self::Ipv6 { one, .. } => (Some((IpAddr::V6(one.0), one.1)), None),
            Self::Many { all, .. } => (None, Some(all.iter().map(|(address, times)| (*address, *times)))),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    fn add(&mut self, address: IpAddr) {
        let tag = self.tag();
        let (one, times) = match self {
            Self::Ipv4 { address, times, .. } => (IpAddr::V4(*address), *times),
            Self::Ipv6 { one, .. } => (IpAddr::V6(one.0), one.1),
            Self::Many { all, .. } => {
                let times = all.entry(address).or_default();
                *times = times.saturating_add(1);
                return;
            }
        };
        *self = if one == address {
            Self::one(tag, one, times.saturating_add(1))
        } else {
            Self::Many { tag, all: Box::new(BTreeMap::from([(one, times), (address, 1)])) }
        };
    }

    /// Takes it away once; returns whether nothing is left.
    fn remove(&mut self, address: IpAddr) -> bool {
        let tag = self.tag();
        let less = |one: IpAddr, times: u16| if one == address { times.saturating_sub(1) } else { times };
        match self {
            Self::Ipv4 { address: one, times, .. } => {
                *times = less(IpAddr::V4(*one), *times);
                *times == 0
            }
            Self::Ipv6 { one, .. } => {
                one.1 = less(IpAddr::V6(one.0), one.1);
                one.1 == 0
            }
            Self::Many { all, .. } => {
                if let Some(times) = all.get_mut(&address) {
                    *times = times.saturating_sub(1);
                    if *times == 0 {
                        all.remove(&address);
                    }
                }
                if all.len() == 1
                    && let Some((one, times)) = all.pop_first()
                {
                    *self = Self::one(tag, one, times);
                }
                false
            }
        }
    }
}

/// The index. Bounded by the causes of the lease table. Names are chosen by whoever asks, so that the hash has to be
/// one that can't be guessed.
#[derive(Clone, Debug, Default)]
pub struct NameIndex {
    table: HashTable<Tagged>,
    hasher: RandomState,
}

/// Room that is never given back.
const LEAST_ROOM: usize = 1024;

/// The table looks at a hash's both ends.
fn spread(tag: u32) -> u64 {
    u64::from(tag) << u32::BITS | u64::from(tag)
}

impl NameIndex {
    /// What [`Cause::tag`] is to be for this question.
    #[must_use]
    pub fn tag(&self, name: &Name) -> u32 {
        let hash = self.hasher.hash_one(name.wire());
        u32::try_from(hash >> 32).unwrap_or(0)
    }

    /// Of the question and its aliases.
    fn hashes(&self, cause: &Cause) -> SmallVec<[u32; 4]> {
        std::iter::once(cause.tag).chain(cause.chain.iter().map(|name| self.tag(name))).collect()
    }

    /// This is a cause of the address now.
    pub fn add(&mut self, address: IpAddr, cause: &Cause) {
        for tag in self.hashes(cause) {
            match self.table.entry(spread(tag), |one| one.tag() == tag, |one| spread(one.tag())) {
                Entry::Occupied(mut known) => known.get_mut().add(address),
                Entry::Vacant(place) => {
                    place.insert(Tagged::one(tag, address, 1));
                }
            }
        }
    }

    /// It is none any more.
    pub fn remove(&mut self, address: IpAddr, cause: &Cause) {
        for tag in self.hashes(cause) {
            if let Ok(mut known) = self.table.find_entry(spread(tag), |one| one.tag() == tag)
                && known.get_mut().remove(address)
            {
                known.remove();
            }
        }
        // A table that has shrunk gives its memory back.
        if self.table.capacity() > LEAST_ROOM && self.table.len() < self.table.capacity() / 8 {
            self.table.shrink_to(self.table.len().saturating_mul(2), |one| spread(one.tag()));
        }
    }

    /// Addresses that the name may have caused, once each, in order; those that it did are among them.
    pub fn candidates(&self, name: &Name) -> impl Iterator<Item = IpAddr> + use<'_> {
        let tag = self.tag(name);
        let known = self.table.find(spread(tag), |one| one.tag() == tag);
        known.into_iter().flat_map(|known| known.iter().map(|(address, _)| address))
    }
}

#[cfg(test)]
type Place = (u32, IpAddr);

#[cfg(test)]
impl NameIndex {
    /// All of it, in order.
    pub fn places(&self) -> Vec<(Place, u16)> {
        let all = self.table.iter().flat_map(|known| known.iter().map(|(at, times)| ((known.tag(), at), times)));
        all.collect::<BTreeMap<_, _>>().into_iter().collect()
    }

    /// What it would hold of these causes, in order.
    pub fn places_of<'a>(&self, causes: impl Iterator<Item = (IpAddr, &'a Cause)>) -> Vec<(Place, u16)> {
        let mut all: BTreeMap<Place, u16> = BTreeMap::new();
        for (address, cause) in causes {
            cause.names().for_each(|name| *all.entry((self.tag(name), address)).or_default() += 1);
        }
        all.into_iter().collect()
    }
}
