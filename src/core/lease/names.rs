//! Which leases a name caused, as question or alias.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smallvec::SmallVec;

use super::Cause;
use crate::core::name::Name;

/// A part of the hash of a name that is among an address's causes, and the address. The name itself stands in the lease: twice in memory it would cost
/// more than all else of the index.
type Place = (u32, IpAddr);

/// The index: each place once, and how often it stands among the causes (64 of them, each with a chain of bounded length). Bounded by the causes of the
/// lease table. Names are chosen by whoever asks, so that the hash has to be one that can't be guessed. In order, since one name may have caused
/// a hundred thousand addresses: another guard's, or a pool's that rotates.
#[derive(Clone, Debug, Default)]
pub struct NameIndex {
    table: BTreeMap<Place, u16>,
    hasher: RandomState,
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
        for hash in self.hashes(cause) {
            let times = self.table.entry((hash, address)).or_default();
            *times = times.saturating_add(1);
        }
    }

    /// It is none any more.
    pub fn remove(&mut self, address: IpAddr, cause: &Cause) {
        for hash in self.hashes(cause) {
            if let Entry::Occupied(mut times) = self.table.entry((hash, address)) {
                match *times.get() {
                    0 | 1 => drop(times.remove()),
                    _ => *times.get_mut() -= 1,
                }
            }
        }
    }

    /// Addresses that the name may have caused, once each, in order; those that it did are among them.
    pub fn candidates(&self, name: &Name) -> impl Iterator<Item = IpAddr> + use<'_> {
        let hash = self.tag(name);
        let (first, last) = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::from_bits(u128::MAX)));
        self.table.range((hash, first)..=(hash, last)).map(|((_, address), _)| *address)
    }
}

#[cfg(test)]
impl NameIndex {
    /// All of it, in order.
    pub fn places(&self) -> Vec<(Place, u16)> {
        self.table.iter().map(|(place, times)| (*place, *times)).collect()
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
