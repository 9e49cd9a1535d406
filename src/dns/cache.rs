//! The wire cache: finished replies by question, bounded in octets.
//!
//! A hit copies a finished reply; nothing is parsed or built. An entry bears the leases of its addresses and may be served only while all of them
//! stay in force for `lease.min` more (the caller asks [`Entry::is_in_force`]); it takes no lock that the core shares.
//!
//! Eviction is by second chance (CLOCK): an entry that was hit since the hand last passed stays once more.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hashbrown::HashTable;
use smallvec::SmallVec;

use crate::config::value::{Size, Span};
use crate::core::moment::Moment;
use crate::core::name::Name;
use crate::core::narrow;
use crate::core::policy::view::ViewId;
use crate::core::verdict::Family;
use crate::dns::codec::wire::NAME_MAX;

pub use entry::{Entry, Made, Message, Outcome, POPULAR, Readmission};

/// Parts with a lock of their own.
const SHARDS: usize = 64;
/// The least by which a part's list of entries grows.
const LEAST_ROOM: usize = 16;
/// Keys of so many octets need no memory of their own: nearly all do with that.
const KEY_INLINE: usize = 88;
/// Octets of a view.
const VIEW: usize = size_of::<ViewId>();
/// Flags: DO, unchecked, and for clients of which family an answer was judged.
const UNCHECKED: u8 = 2;
const FOR_IPV4: u8 = 4;
const FOR_IPV6: u8 = 8;

/// Name in lower case, type, whether DNSSEC records are wanted (DO), and whose policy judged it (0: everybody's); of which client alone it is, where addresses are open for single clients. CD is part of it only where the guard
/// validates and the answer can hold no address ([`Key::unchecked`]): for all else CD changes nothing, since it may open nothing that would stay closed.
#[derive(Clone)]
pub struct Key {
    octets: SmallVec<[u8; KEY_INLINE]>,
    /// How many of these are the client.
    client: usize,
}

impl Key {
    /// From a lower-case wire name.
    #[must_use]
    pub fn new(name: &[u8], qtype: u16, dnssec_ok: bool) -> Self {
        let [high, low] = qtype.to_be_bytes();
        let mut octets = SmallVec::new();
        octets.extend_from_slice(name.get(..NAME_MAX).unwrap_or(name));
        octets.extend_from_slice(&[high, low, u8::from(dnssec_ok), 0, 0]);
        Self { octets, client: 0 }
    }

    /// The same question by somebody who wants the answer unvalidated, and may have it.
    #[must_use]
    pub fn unchecked(mut self, unchecked: bool) -> Self {
        if unchecked {
            self.set_flag(UNCHECKED);
        }
        self
    }

    /// Whether it is [`Key::unchecked`].
    #[must_use]
    pub fn is_unchecked(&self) -> bool {
        self.flags() & UNCHECKED != 0
    }

    /// The same question in another view.
    #[must_use]
    pub fn in_view(mut self, view: ViewId) -> Self {
        let place = self.place_before_client(VIEW);
        if let Some(octets) = place.and_then(|place| self.octets.get_mut(place..place.checked_add(VIEW)?)) {
            octets.copy_from_slice(&view.to_be_bytes());
        }
        self
    }

    /// The view that the key's answers are for, read from the key's octets.
    #[must_use]
    pub fn view(&self) -> ViewId {
        let octets = self.place_before_client(VIEW).and_then(|place| self.octets.get(place..place.checked_add(VIEW)?));
        octets.and_then(|octets| octets.try_into().ok()).map_or(0, ViewId::from_be_bytes)
    }

    /// The same question by this client alone, where addresses are open for single clients. Asked once for a key.
    #[must_use]
    pub fn of_client(mut self, client: IpAddr) -> Self {
        let owner = narrow::owner(client);
        if owner != narrow::HOST {
            self.set_flag(if owner.is_ipv4() { FOR_IPV4 } else { FOR_IPV6 });
        }
        let octets = match owner {
            IpAddr::V4(owner) => owner.to_ipv6_mapped().octets(),
            IpAddr::V6(owner) => owner.octets(),
        };
        self.octets.extend_from_slice(&octets);
        self.client = octets.len();
        self
    }

    /// Whether it is of one client alone.
    #[must_use]
    pub fn is_of_client(&self) -> bool {
        self.client != 0
    }

    /// The same question by all whose answers are judged alike.
    #[must_use]
    pub fn of_all(&self) -> Self {
        let end = self.octets.len().saturating_sub(self.client);
        Self { octets: SmallVec::from_slice(self.octets.get(..end).unwrap_or_default()), client: 0 }
    }

    /// The family of the addresses that an answer may open; `None`: both.
    #[must_use]
    pub fn family(&self) -> Option<Family> {
        match self.flags() & (FOR_IPV4 | FOR_IPV6) {
            FOR_IPV4 => Some(Family::Ipv4),
            FOR_IPV6 => Some(Family::Ipv6),
            _ => None,
        }
    }

    fn flags(&self) -> u8 {
        self.place_before_client(VIEW + 1).and_then(|place| self.octets.get(place)).copied().unwrap_or(0)
    }

    fn set_flag(&mut self, flag: u8) {
        if let Some(flags) = self.place_before_client(VIEW + 1).and_then(|place| self.octets.get_mut(place)) {
            *flags |= flag;
        }
    }

    /// A place before the client.
    fn place_before_client(&self, back: usize) -> Option<usize> {
        self.octets.len().checked_sub(self.client)?.checked_sub(back)
    }

    /// The key's octets.
    #[must_use]
    pub fn octets(&self) -> &[u8] {
        &self.octets
    }
}

/// An entry's slot, and what the table needs of its key's hash when it grows: without it each growth would read every key from memory that is far away.
#[derive(Clone, Copy)]
struct Indexed {
    slot: u32,
    hash: u32,
}

/// How many of a hash's last bits the index keeps; the table's buckets are counted by them.
const LAST_BITS: u32 = 25;
/// How many of its first ones: the table compares these before it looks at an entry.
const FIRST_BITS: u32 = 32 - LAST_BITS;

/// The ends of a hash.
fn shortened(hash: u64) -> u32 {
    let first = hash >> (u64::BITS - FIRST_BITS) << LAST_BITS;
    u32::try_from(first | hash & ((1 << LAST_BITS) - 1)).unwrap_or(0)
}

/// A hash with these ends, the same for an entry at all times.
fn lengthened(hash: u32) -> u64 {
    let first = u64::from(hash >> LAST_BITS) << (u64::BITS - FIRST_BITS);
    first | u64::from(hash) & ((1 << LAST_BITS) - 1)
}

#[derive(Default)]
struct Shard {
    index: HashTable<Indexed>,
    /// What an entry costs is reckoned anew where it is needed: kept, it would be a twentieth of what an entry takes.
    slots: Vec<Option<Arc<Entry>>>,
    free: Vec<u32>,
    hand: usize,
    octets: usize,
}

impl Shard {
    fn find(&self, hash: u64, key: &[u8]) -> Option<u32> {
        let short = shortened(hash);
        let is_it =
            |one: &Indexed| one.hash == short && self.slot(one.slot).is_some_and(|entry| entry.message.is_under(key));
        Some(self.index.find(lengthened(short), is_it)?.slot)
    }

    fn slot(&self, slot: u32) -> Option<&Arc<Entry>> {
        self.slots.get(usize::try_from(slot).ok()?)?.as_ref()
    }

    fn remove(&mut self, slot: u32, hasher: &RandomState) {
        let Some(place) = usize::try_from(slot).ok().and_then(|slot| self.slots.get_mut(slot)) else { return };
        let Some(removed) = place.take() else { return };
        let hash = lengthened(shortened(hasher.hash_one(&*removed.message.key())));
        if let Ok(found) = self.index.find_entry(hash, |other| other.slot == slot) {
            found.remove();
        }
        self.free.push(slot);
        self.octets = self.octets.saturating_sub(removed.cost());
    }

    /// A place for one more. Grows by an eighth: twice the room would stand half empty.
    fn place(&mut self) -> u32 {
        if let Some(at) = self.free.pop() {
            return at;
        }
        if self.slots.len() == self.slots.capacity() {
            self.slots.reserve_exact((self.slots.len() / 8).max(LEAST_ROOM));
        }
        self.slots.push(None);
        u32::try_from(self.slots.len().saturating_sub(1)).unwrap_or(u32::MAX)
    }

    /// Removes the first entry that the hand finds unused since it last passed; returns whether there was one.
    fn evict(&mut self, hasher: &RandomState) -> bool {
        // Twice around: the first pass takes every mark away.
        for _ in 0..self.slots.len().saturating_mul(2) {
            let at = self.hand;
            self.hand = if at.saturating_add(1) >= self.slots.len() { 0 } else { at.saturating_add(1) };
            let Some(Some(entry)) = self.slots.get(at) else { continue };
            if !entry.used.swap(false, Ordering::Relaxed) {
                self.remove(u32::try_from(at).unwrap_or(u32::MAX), hasher);
                return true;
            }
        }
        false
    }
}

/// The cache. Shared by all workers.
pub struct Cache {
    shards: Box<[Mutex<Shard>]>,
    /// The most octets, of all.
    size: AtomicU64,
    per_shard: AtomicUsize,
    /// How long an entry that has ended is kept, in milliseconds.
    stale: AtomicU64,
    hasher: RandomState,
    evicted: AtomicU64,
}

impl Cache {
    /// A cache of at most `octets`; 0 keeps nothing.
    #[must_use]
    pub fn new(octets: u64) -> Self {
        let cache = Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            size: AtomicU64::new(0),
            per_shard: AtomicUsize::new(0),
            stale: AtomicU64::new(0),
            hasher: RandomState::new(),
            evicted: AtomicU64::new(0),
        };
        cache.resize(octets, Duration::ZERO);
        cache
    }

    /// Keeps what has ended so much longer, for [`Cache::stale`].
    #[must_use]
    pub fn keeping(self, stale: Duration) -> Self {
        self.stale.store(u64::try_from(stale.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self
    }

    /// From now on at most so many octets, and what has ended for so long. What finds no room any more goes at once.
    pub fn resize(&self, octets: u64, stale: Duration) {
        let per_shard = usize::try_from(octets).unwrap_or(usize::MAX) / SHARDS;
        self.size.store(octets, Ordering::Relaxed);
        self.stale.store(u64::try_from(stale.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        if self.per_shard.swap(per_shard, Ordering::Relaxed) <= per_shard {
            return;
        }
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            while shard.octets > per_shard && shard.evict(&self.hasher) {
                self.evicted.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// What it was made for, or resized to.
    #[must_use]
    pub fn bounds(&self) -> (Size, Span) {
        (Size(self.size.load(Ordering::Relaxed)), Span(self.kept_for()))
    }

    fn kept_for(&self) -> Duration {
        Duration::from_millis(self.stale.load(Ordering::Relaxed))
    }

    fn shard(&self, key: &[u8]) -> (u64, Option<&Mutex<Shard>>) {
        let hash = self.hasher.hash_one(key);
        // The table uses the hash's ends; the shard takes the middle.
        let shard = usize::try_from((hash >> 24) & (SHARDS as u64 - 1)).unwrap_or(0);
        (hash, self.shards.get(shard))
    }

    /// The entry for `key` that was judged under `generation` and hasn't ended. One that has is removed.
    #[must_use]
    pub fn get(&self, key: &Key, generation: u64, now: Moment) -> Option<Arc<Entry>> {
        let (hash, shard) = self.shard(key.octets());
        let mut shard = shard?.lock().unwrap_or_else(PoisonError::into_inner);
        let at = shard.find(hash, key.octets())?;
        let entry = shard.slot(at)?;
        let other_rules = entry.generation() != generation;
        if other_rules || entry.expires() <= now {
            if other_rules || self.is_over(entry, now) {
                shard.remove(at, &self.hasher);
            }
            return None;
        }
        entry.used.store(true, Ordering::Relaxed);
        Some(entry.clone())
    }

    /// Whether an entry is of no use any more, not even as a stale answer.
    fn is_over(&self, entry: &Entry, now: Moment) -> bool {
        entry.ended().plus(self.kept_for()) <= now
    }

    /// The entry for `key`, also when it has ended, but not longer ago than stale answers are kept.
    #[must_use]
    pub fn stale(&self, key: &Key, generation: u64, now: Moment) -> Option<Arc<Entry>> {
        if self.kept_for().is_zero() {
            return None;
        }
        let (hash, shard) = self.shard(key.octets());
        let shard = shard?.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = shard.slot(shard.find(hash, key.octets())?)?;
        (entry.generation() == generation && !self.is_over(entry, now)).then(|| entry.clone())
    }

    /// Keeps `entry` under its key, in place of an older one, unless it has ended already.
    pub fn put(&self, entry: Arc<Entry>, now: Moment) {
        let cost = entry.cost();
        let per_shard = self.per_shard.load(Ordering::Relaxed);
        if entry.expires() <= now || cost > per_shard {
            return;
        }
        let key = entry.message.key();
        let (hash, shard) = self.shard(&key);
        let Some(shard) = shard else { return };
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = shard.find(hash, &key) {
            shard.remove(old, &self.hasher);
        }
        while shard.octets.saturating_add(cost) > per_shard {
            if !shard.evict(&self.hasher) {
                return;
            }
            self.evicted.fetch_add(1, Ordering::Relaxed);
        }
        let at = shard.place();
        let Some(place) = usize::try_from(at).ok().and_then(|at| shard.slots.get_mut(at)) else { return };
        // It may have been kept before.
        entry.used.store(false, Ordering::Relaxed);
        *place = Some(entry);
        shard.octets = shard.octets.saturating_add(cost);
        let indexed = Indexed { slot: at, hash: shortened(hash) };
        shard.index.insert_unique(lengthened(indexed.hash), indexed, |one| lengthened(one.hash));
    }

    /// Forgets every entry of a question for this name, or with it as an alias; returns how many. O(entries), a part at a time.
    pub fn forget(&self, name: &Name) -> usize {
        let bears = |entry: &Entry| {
            // A name ends with its root: no other begins with all of it.
            entry.message.key().starts_with(name.wire()) || entry.is_about(name)
        };
        let mut forgotten = 0usize;
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let places = shard.slots.iter().enumerate();
            let found = places.filter(|(_, slot)| slot.as_ref().is_some_and(|entry| bears(entry)));
            let found: Vec<u32> = found.filter_map(|(place, _)| u32::try_from(place).ok()).collect();
            forgotten = forgotten.saturating_add(found.len());
            found.into_iter().for_each(|place| shard.remove(place, &self.hasher));
        }
        forgotten
    }

    /// Entries, octets, and entries evicted so far.
    #[must_use]
    pub fn usage(&self) -> (usize, usize, u64) {
        let (mut entries, mut octets) = (0usize, 0usize);
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            entries = entries.saturating_add(shard.index.len());
            octets = octets.saturating_add(shard.octets);
        }
        (entries, octets, self.evicted.load(Ordering::Relaxed))
    }
}

mod entry;
pub mod metrics;
#[cfg(test)]
mod tests;
