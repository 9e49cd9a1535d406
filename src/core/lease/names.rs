//! Which leases a name caused, as question or alias.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use smallvec::SmallVec;

use super::Cause;
use crate::core::name::Name;

/// An address, and a part of the hash of a name that is among its causes. The name itself stands in the lease: twice in memory it would cost more than
/// all else of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    hash: u32,
    address: IpAddr,
    /// How often it stands among the causes: 64 of them, each with a chain of bounded length.
    times: u16,
}

impl Place {
    fn is_of(&self, hash: u32, address: IpAddr) -> bool {
        self.hash == hash && self.address == address
    }
}

/// The index: a place for each address and each hash of its causes' names, once. Bounded by the causes of the lease table. Names are chosen by whoever asks,
/// so that the hash has to be one that can't be guessed.
#[derive(Clone, Debug, Default)]
pub struct NameIndex {
    table: HashTable<Place>,
    hasher: RandomState,
}

/// The table takes a hash's place from its low bits, and tells entries of one place apart by its high ones.
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
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
            let of = |other: &Place| other.is_of(hash, address);
            match self.table.entry(spread(hash), of, |other| spread(other.hash)) {
                Entry::Vacant(free) => drop(free.insert(Place { hash, address, times: 1 })),
                Entry::Occupied(mut place) => place.get_mut().times = place.get().times.saturating_add(1),
            }
        }
    }

    /// It is none any more.
    pub fn remove(&mut self, address: IpAddr, cause: &Cause) {
        for hash in self.hashes(cause) {
            if let Ok(mut found) = self.table.find_entry(spread(hash), |other| other.is_of(hash, address)) {
                match found.get().times {
                    0 | 1 => drop(found.remove()),
                    times => found.get_mut().times = times.saturating_sub(1),
                }
            }
        }
    }

    /// Addresses that the name may have caused; those that it did are among them, once each.
    pub fn candidates(&self, name: &Name) -> impl Iterator<Item = IpAddr> + use<'_> {
        let hash = self.tag(name);
        self.table.iter_hash(spread(hash)).filter(move |place| place.hash == hash).map(|place| place.address)
    }
}

#[cfg(test)]
impl NameIndex {
    /// All of it, in order.
    pub fn places(&self) -> Vec<Place> {
        let mut places: Vec<Place> = self.table.iter().copied().collect();
        places.sort_unstable();
        places
    }

    /// What it would hold of these causes, in order.
    pub fn places_of<'a>(&self, causes: impl Iterator<Item = (IpAddr, &'a Cause)>) -> Vec<Place> {
        let places = |(address, cause): (IpAddr, &'a Cause)| {
            cause.names().map(move |name| Place { hash: self.tag(name), address, times: 1 }).collect::<Vec<_>>()
        };
        let mut places: Vec<Place> = causes.flat_map(places).collect();
        places.sort_unstable();
        places.dedup_by(|other, place| {
            let same = place.is_of(other.hash, other.address);
            place.times += u16::from(same);
            same
        });
        places
    }
}
