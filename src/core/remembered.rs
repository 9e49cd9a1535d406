//! What is remembered for a while, with a bound, so that nobody pushes out what others are remembered for.
//!
//! Each entry has a holder. Where there is no room the holder of the most gives up its oldest. Each step costs O(log n).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeBounds;

/// Entries by key; at most so many.
#[derive(Debug)]
pub struct Remembered<K, H, V> {
    most: usize,
    entries: BTreeMap<K, Entry<H, V>>,
    /// Of each holder, by age.
    held: BTreeMap<H, BTreeMap<u64, K>>,
    /// Holders by the number of their entries.
    sizes: BTreeSet<(usize, H)>,
    next: u64,
}

#[derive(Debug)]
struct Entry<H, V> {
    value: V,
    holder: H,
    number: u64,
}

impl<K: Ord + Clone, H: Ord + Clone, V> Remembered<K, H, V> {
    /// Room for `most` entries.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, entries: BTreeMap::new(), held: BTreeMap::new(), sizes: BTreeSet::new(), next: 0 }
    }

    /// Remembers `value` as the newest; what was known of the key is forgotten.
    pub fn put(&mut self, key: K, holder: H, value: V) {
        self.forget(&key);
        if self.entries.len() >= self.most {
            let greatest = self.sizes.last().map(|(_, holder)| holder.clone());
            let oldest = greatest.and_then(|holder| self.held.get(&holder)?.values().next().cloned());
            oldest.iter().for_each(|key| drop(self.forget(key)));
        }
        if self.entries.len() >= self.most {
            return;
        }
        self.next = self.next.wrapping_add(1);
        let number = self.next;
        self.resize(&holder, |held| drop(held.insert(number, key.clone())));
        self.entries.insert(key, Entry { value, holder, number });
    }

    /// Forgets an entry.
    pub fn forget(&mut self, key: &K) -> Option<V> {
        let Entry { value, holder, number } = self.entries.remove(key)?;
        self.resize(&holder, |held| drop(held.remove(&number)));
        Some(value)
    }

    /// The value of this key, while it is kept.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|entry| &entry.value)
    }

    /// One entry, to be changed; its age stays.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key).map(|entry| &mut entry.value)
    }

    /// Whether something else goes for the next new one.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.entries.len() >= self.most
    }

    /// All entries in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().map(|(key, entry)| (key, &entry.value))
    }

    /// Entries in the order of their keys.
    pub fn range(&self, keys: impl RangeBounds<K>) -> impl Iterator<Item = (&K, &V)> {
        self.entries.range(keys).map(|(key, entry)| (key, &entry.value))
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn resize(&mut self, holder: &H, change: impl FnOnce(&mut BTreeMap<u64, K>)) {
        let held = self.held.entry(holder.clone()).or_default();
        self.sizes.remove(&(held.len(), holder.clone()));
        change(held);
        match held.len() {
            0 => drop(self.held.remove(holder)),
            left => drop(self.sizes.insert((left, holder.clone()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_holder_of_the_most_gives_up_its_oldest() {
        let mut table = Remembered::new(10);
        table.put(100, "small", ());
        (0..50).for_each(|key| table.put(key, "great", ()));
        assert_eq!((table.len(), table.get(&100)), (10, Some(&())));
        let kept: Vec<i32> = table.range(..50).map(|(key, ())| *key).collect();
        assert_eq!(kept, (41..50).collect::<Vec<_>>());
        table.put(41, "great", ());
        table.put(200, "third", ());
        assert!(table.get(&41).is_some() && table.get(&42).is_none(), "what came again is the newest");
    }

    proptest! {
        #[test]
        fn its_parts_agree(steps in prop::collection::vec((0u8..20, 0u8..4, any::<bool>()), 0..200)) {
            let mut table = Remembered::new(7);
            for (key, holder, put) in steps {
                if put { table.put(key, holder, key) } else { table.forget(&key); }
                prop_assert!(table.len() <= 7);
                let held: usize = table.held.values().map(BTreeMap::len).sum();
                prop_assert_eq!(held, table.len());
                let sizes: Vec<_> = table.held.iter().map(|(holder, held)| (held.len(), *holder)).collect();
                prop_assert_eq!(table.sizes.iter().copied().collect::<BTreeSet<_>>(), sizes.into_iter().collect());
                prop_assert!(table.range(..).all(|(key, value)| key == value));
            }
        }
    }
}
