//! Which addresses a name caused, as question or alias, and by how many causes.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::core::name::Name;

/// Addresses of one name with the number of causes. Most names have one address, which needs no tree.
#[derive(Clone, Debug)]
enum Addresses {
    One(IpAddr, u32),
    Many(BTreeMap<IpAddr, u32>),
}

/// A name of the index. Its hash is kept: names are chosen by whoever asks, so that it has to be one that can't be guessed, and those
/// are too dear to be computed anew whenever the table grows.
#[derive(Clone, Debug)]
struct Known {
    hash: u64,
    name: Name,
    addresses: Addresses,
}

/// The index. Bounded by the causes of the lease table.
#[derive(Clone, Debug, Default)]
pub struct NameIndex {
    table: HashTable<Known>,
    hasher: RandomState,
}

impl NameIndex {
    fn hash(&self, name: &Name) -> u64 {
        self.hasher.hash_one(name.wire())
    }

    fn get(&self, name: &Name) -> Option<&Addresses> {
        self.table.find(self.hash(name), |known| known.name == *name).map(|known| &known.addresses)
    }

    /// One more cause of this address bears the name.
    pub fn add(&mut self, name: &Name, address: IpAddr) {
        let hash = self.hash(name);
        let mut known = match self.table.entry(hash, |known| known.name == *name, |known| known.hash) {
            Entry::Vacant(place) => {
                place.insert(Known { hash, name: name.clone(), addresses: Addresses::One(address, 1) });
                return;
            }
            Entry::Occupied(known) => known,
        };
        match &mut known.get_mut().addresses {
            Addresses::One(known, count) if *known == address => *count += 1,
            Addresses::Many(counts) => *counts.entry(address).or_default() += 1,
            one @ Addresses::One(..) => {
                if let Addresses::One(known, count) = *one {
                    *one = Addresses::Many(BTreeMap::from([(known, count), (address, 1)]));
                }
            }
        }
    }

    /// One cause less.
    pub fn remove(&mut self, name: &Name, address: IpAddr) {
        let Ok(mut known) = self.table.find_entry(self.hash(name), |known| known.name == *name) else { return };
        let empty = match &mut known.get_mut().addresses {
            Addresses::One(known, count) if *known == address => {
                *count = count.saturating_sub(1);
                *count == 0
            }
            Addresses::Many(counts) => {
                if let Some(count) = counts.get_mut(&address) {
                    *count = count.saturating_sub(1);
                    if *count == 0 {
                        counts.remove(&address);
                    }
                }
                counts.is_empty()
            }
            Addresses::One(..) => false,
        };
        if empty {
            known.remove();
        }
    }

    /// The addresses of a name, in order.
    pub fn addresses_of(&self, name: &Name) -> impl Iterator<Item = IpAddr> + use<'_> {
        let (one, many) = match self.get(name) {
            Some(Addresses::One(address, _)) => (Some(*address), None),
            Some(Addresses::Many(counts)) => (None, Some(counts)),
            None => (None, None),
        };
        one.into_iter().chain(many.into_iter().flat_map(|counts| counts.keys().copied()))
    }

    /// Every name once, in order. O(n log n).
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        let mut names: Vec<&Name> = self.table.iter().map(|known| &known.name).collect();
        names.sort_unstable();
        names.into_iter()
    }
}

#[cfg(test)]
impl NameIndex {
    /// All of it.
    pub fn counts(&self) -> BTreeMap<(Name, IpAddr), u32> {
        let mut all = BTreeMap::new();
        for Known { name, addresses, .. } in &self.table {
            match addresses {
                Addresses::One(address, count) => all.extend([((name.clone(), *address), *count)]),
                Addresses::Many(counts) => {
                    all.extend(counts.iter().map(|(address, count)| ((name.clone(), *address), *count)));
                }
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_each_address_until_its_last_cause_goes() {
        let address = |n: u8| IpAddr::from([192, 0, 2, n]);
        let (one, other): (Name, Name) = ("one.test".parse().unwrap(), "a.other.test".parse().unwrap());
        let mut index = NameIndex::default();
        for (name, n) in [(&one, 3), (&one, 3), (&one, 1), (&other, 3), (&one, 2)] {
            index.add(name, address(n));
        }
        assert!(index.addresses_of(&one).eq([address(1), address(2), address(3)]));
        assert!(index.names().eq([&other, &one]), "wire form: the shorter label first");
        index.remove(&one, address(3));
        index.remove(&one, address(9));
        assert_eq!(index.addresses_of(&one).count(), 3);
        for n in [3, 2, 1] {
            index.remove(&one, address(n));
        }
        assert_eq!(index.addresses_of(&one).count(), 0);
        index.remove(&other, address(3));
        assert!(index.table.is_empty());
    }
}
