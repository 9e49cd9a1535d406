//! The wire cache: finished replies by question, bounded in octets.
//!
//! A hit copies a finished reply; nothing is parsed or built. An entry bears the leases of its addresses and may be served only while all of them
//! stay in force for `lease.min` more (the caller asks [`Entry::is_in_force`]); it takes no lock that the core shares.
//!
//! Eviction is by second chance (CLOCK): an entry that was hit since the hand last passed stays once more.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hashbrown::HashTable;
use smallvec::SmallVec;

use crate::config::value::{Size, Span};
use crate::core::event::{Grants, LeaseHandles};
use crate::core::moment::Moment;
use crate::core::name::Name;
use crate::core::pairs;
use crate::core::policy::view::ViewId;
use crate::core::verdict::Family;
use crate::dns::codec::ede::Ede;
use crate::dns::codec::reply::Body;
use crate::dns::codec::wire::NAME_MAX;
use crate::dns::resolver::audit::Would;

/// Parts with a lock of their own.
const SHARDS: usize = 64;
/// Octets that an entry costs beside its own data: the slot, the index and the allocator's headers.
const OVERHEAD: usize = 288;
/// More TTLs than any message has room for.
const MOST_TTLS: usize = 8192;
/// Keys of so many octets need no memory of their own: nearly all do with that.
const KEY_INLINE: usize = 88;
/// Flags: DO, unchecked, and for clients of which family an answer was judged.
const UNCHECKED: u8 = 2;
const FOR_IPV4: u8 = 4;
const FOR_IPV6: u8 = 8;

/// Uses that make an entry worth asking for again before it ends.
pub const POPULAR: u32 = 2;

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
        octets.extend_from_slice(&[high, low, u8::from(dnssec_ok), 0]);
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
        if let Some(octet) = self.place_before_client(1).and_then(|place| self.octets.get_mut(place)) {
            *octet = view;
        }
        self
    }

    /// The view.
    #[must_use]
    pub fn view(&self) -> ViewId {
        self.place_before_client(1).and_then(|place| self.octets.get(place)).copied().unwrap_or(0)
    }

    /// The same question by this client alone, where addresses are open for single clients. Asked once for a key.
    #[must_use]
    pub fn of_client(mut self, client: IpAddr) -> Self {
        let owner = pairs::owner(client);
        if owner != pairs::HOST {
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
        self.place_before_client(2).and_then(|place| self.octets.get(place)).copied().unwrap_or(0)
    }

    fn set_flag(&mut self, flag: u8) {
        if let Some(flags) = self.place_before_client(2).and_then(|place| self.octets.get_mut(place)) {
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

/// What is needed to have the addresses of an entry admitted again without asking the upstream.
#[derive(Clone, Debug)]
pub struct Readmission {
    /// The question's name.
    pub question: Name,
    /// The question's type.
    pub qtype: u16,
    /// Aliases from the question to the addresses.
    pub chain: Arc<[Name]>,
    /// Addresses with the TTLs they had when the entry was stored.
    pub grants: Grants,
    /// The answer can't be given in part.
    pub whole: bool,
}

/// A key and a [`Body`] in one piece of memory: what a new answer costs is in good part what it costs to have memory for it.
#[derive(Clone, Debug)]
pub struct Message {
    /// The key, the offsets of the TTLs, the body's octets.
    all: Box<[u8]>,
    key: u16,
    ttls: u16,
}

impl Message {
    /// Kept under `key`.
    #[must_use]
    pub fn new(key: &Key, body: &Body) -> Self {
        let key = key.octets();
        // A body has fewer octets than 65,536, and a TTL for eleven of them at most.
        let ttls = body.ttls.get(..body.ttls.len().min(MOST_TTLS)).unwrap_or_default();
        let len = key.len().saturating_add(ttls.len().saturating_mul(2)).saturating_add(body.octets.len());
        let mut all = Vec::with_capacity(len);
        all.extend_from_slice(key);
        for ttl in ttls {
            all.extend_from_slice(&ttl.to_be_bytes());
        }
        all.extend_from_slice(&body.octets);
        let short = |len: usize| u16::try_from(len).unwrap_or(0);
        Self { all: all.into(), key: short(key.len()), ttls: short(ttls.len()) }
    }

    /// The key's octets.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.all.get(..usize::from(self.key)).unwrap_or_default()
    }

    /// The message without id, client bits and OPT.
    #[must_use]
    pub fn octets(&self) -> &[u8] {
        self.all.get(self.ttls_end()..).unwrap_or_default()
    }

    /// Offsets of the TTLs.
    pub fn ttls(&self) -> impl Iterator<Item = u16> + use<'_> {
        let ttls = self.all.get(usize::from(self.key)..self.ttls_end()).unwrap_or_default();
        ttls.as_chunks().0.iter().map(|ttl| u16::from_be_bytes(*ttl))
    }

    /// A copy that can be changed.
    #[must_use]
    pub fn body(&self) -> Body {
        Body { octets: self.octets().to_vec(), ttls: self.ttls().collect() }
    }

    fn ttls_end(&self) -> usize {
        usize::from(self.key).saturating_add(usize::from(self.ttls).saturating_mul(2))
    }
}

/// What a kept reply counts as when it is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An answer, negative ones included.
    Released,
    /// Refused by policy or filter.
    Denied(&'static str),
    /// SERVFAIL.
    Failed(&'static str),
}

/// A finished answer.
#[derive(Debug)]
pub struct Entry {
    /// What it says, and to which question.
    pub message: Message,
    /// When the TTLs were right.
    pub stored: Moment,
    /// When the first TTL ends; a TTL of 0 ends at once.
    pub expires: Moment,
    /// The leases of its addresses.
    pub leases: LeaseHandles,
    /// For a new admission near the end of the leases; `None` without addresses.
    pub again: Option<Readmission>,
    /// Extended error that goes with it.
    pub ede: Option<Box<Ede>>,
    /// What it counts as.
    pub outcome: Outcome,
    /// In audit: what enforcement would have made of it.
    pub would: Option<Box<Would>>,
    /// The policy's generation under which it was judged.
    pub generation: u64,
    /// How often it was served; counts to [`POPULAR`] only.
    pub uses: AtomicU32,
    /// When the true answer ends: of a stale one earlier than `expires`.
    pub ended: Moment,
}

impl Entry {
    /// Whether the true answer ended before it.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.ended < self.expires
    }

    /// Whether it may be served as it is.
    #[must_use]
    pub fn is_in_force(&self, now: Moment, margin: Duration) -> bool {
        self.leases.iter().all(|lease| lease.in_force_for(now, margin))
    }

    /// The same under `key`, its addresses leased.
    #[must_use]
    pub fn leased(&self, key: &Key, leases: LeaseHandles) -> Self {
        Self {
            message: Message::new(key, &self.message.body()),
            leases,
            again: self.again.clone(),
            ede: self.ede.clone(),
            would: self.would.clone(),
            uses: AtomicU32::new(self.uses.load(Ordering::Relaxed)),
            ..*self
        }
    }

    /// Counts a use; says, once in its life, whether it is used enough and near enough to its end to be asked for again: served
    /// [`POPULAR`] times at least, and in the last tenth of its time.
    #[must_use]
    pub fn wants_prefetch(&self, now: Moment) -> bool {
        let uses = self.uses.load(Ordering::Relaxed);
        if uses > POPULAR || self.outcome != Outcome::Released {
            return false;
        }
        if uses < POPULAR {
            self.uses.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        let (life, left) = (self.stored.until(self.expires), now.until(self.expires));
        // Whoever moves it beyond POPULAR asks; several workers may try at once.
        left < life / 10
            && self.uses.compare_exchange(uses, uses.saturating_add(1), Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Whole seconds since it was stored.
    #[must_use]
    pub fn age(&self, now: Moment) -> u32 {
        u32::try_from(self.stored.until(now).as_secs()).unwrap_or(u32::MAX)
    }

    fn cost(&self) -> usize {
        let again = self.again.as_ref().map_or(0, |again| {
            let names: usize = again.chain.iter().map(|name| name.wire().len().saturating_add(32)).sum();
            names
                .saturating_add(again.question.wire().len())
                .saturating_add(again.grants.len().saturating_sub(1).saturating_mul(24))
                .saturating_add(64)
        });
        let words = self.ede.as_ref().map_or(0, |ede| ede.text.len().saturating_add(32));
        let would = self.would.as_ref().map_or(0, |would| would.words.len().saturating_add(would.ede.text.len() + 80));
        OVERHEAD
            .saturating_add(words)
            .saturating_add(would)
            .saturating_add(self.message.all.len())
            // What has no room in the entry itself.
            .saturating_add(self.leases.len().saturating_sub(2).saturating_mul(8))
            .saturating_add(again)
    }
}

struct Slot {
    hash: u64,
    entry: Arc<Entry>,
    cost: u32,
    used: AtomicBool,
}

#[derive(Default)]
struct Shard {
    index: HashTable<u32>,
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    hand: usize,
    octets: usize,
}

impl Shard {
    fn find(&self, hash: u64, key: &[u8]) -> Option<u32> {
        self.index.find(hash, |slot| self.slot(*slot).is_some_and(|slot| slot.entry.message.key() == key)).copied()
    }

    fn slot(&self, slot: u32) -> Option<&Slot> {
        self.slots.get(usize::try_from(slot).ok()?)?.as_ref()
    }

    fn remove(&mut self, slot: u32) {
        let Some(place) = usize::try_from(slot).ok().and_then(|slot| self.slots.get_mut(slot)) else { return };
        let Some(removed) = place.take() else { return };
        if let Ok(found) = self.index.find_entry(removed.hash, |other| *other == slot) {
            found.remove();
        }
        self.free.push(slot);
        self.octets = self.octets.saturating_sub(usize::try_from(removed.cost).unwrap_or(usize::MAX));
    }

    /// Removes the first entry that the hand finds unused since it last passed; returns whether there was one.
    fn evict(&mut self) -> bool {
        // Twice around: the first pass takes every mark away.
        for _ in 0..self.slots.len().saturating_mul(2) {
            let at = self.hand;
            self.hand = if at.saturating_add(1) >= self.slots.len() { 0 } else { at.saturating_add(1) };
            let Some(Some(slot)) = self.slots.get(at) else { continue };
            if !slot.used.swap(false, Ordering::Relaxed) {
                self.remove(u32::try_from(at).unwrap_or(u32::MAX));
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
            while shard.octets > per_shard && shard.evict() {
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
        let slot = shard.slot(at)?;
        if slot.entry.generation != generation || slot.entry.expires <= now {
            if slot.entry.generation != generation || self.is_over(&slot.entry, now) {
                shard.remove(at);
            }
            return None;
        }
        slot.used.store(true, Ordering::Relaxed);
        Some(slot.entry.clone())
    }

    /// Whether an entry is of no use any more, not even as a stale answer.
    fn is_over(&self, entry: &Entry, now: Moment) -> bool {
        entry.ended.plus(self.kept_for()) <= now
    }

    /// The entry for `key`, also when it has ended, but not longer ago than stale answers are kept.
    #[must_use]
    pub fn stale(&self, key: &Key, generation: u64, now: Moment) -> Option<Arc<Entry>> {
        if self.kept_for().is_zero() {
            return None;
        }
        let (hash, shard) = self.shard(key.octets());
        let shard = shard?.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = &shard.slot(shard.find(hash, key.octets())?)?.entry;
        (entry.generation == generation && !self.is_over(entry, now)).then(|| entry.clone())
    }

    /// Keeps `entry` under its key, in place of an older one, unless it has ended already.
    pub fn put(&self, entry: Arc<Entry>, now: Moment) {
        let cost = entry.cost();
        let Ok(counted) = u32::try_from(cost) else { return };
        let per_shard = self.per_shard.load(Ordering::Relaxed);
        if entry.expires <= now || cost > per_shard {
            return;
        }
        let (hash, shard) = self.shard(entry.message.key());
        let Some(shard) = shard else { return };
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = shard.find(hash, entry.message.key()) {
            shard.remove(old);
        }
        while shard.octets.saturating_add(cost) > per_shard {
            if !shard.evict() {
                return;
            }
            self.evicted.fetch_add(1, Ordering::Relaxed);
        }
        let slot = Slot { hash, entry, cost: counted, used: AtomicBool::new(false) };
        let at = match shard.free.pop() {
            Some(at) => at,
            None => {
                shard.slots.push(None);
                u32::try_from(shard.slots.len().saturating_sub(1)).unwrap_or(u32::MAX)
            }
        };
        let Some(place) = usize::try_from(at).ok().and_then(|at| shard.slots.get_mut(at)) else { return };
        *place = Some(slot);
        shard.octets = shard.octets.saturating_add(cost);
        let Shard { index, slots, .. } = &mut *shard;
        index.insert_unique(hash, at, |slot| {
            usize::try_from(*slot).ok().and_then(|slot| slots.get(slot)?.as_ref()).map_or(0, |slot| slot.hash)
        });
    }

    /// Forgets every entry of a question for this name, or with it as an alias; returns how many. O(entries), a part at a time.
    pub fn forget(&self, name: &Name) -> usize {
        let bears = |entry: &Entry| {
            // A name ends with its root: no other begins with all of it.
            let own = entry.message.key().starts_with(name.wire());
            own || entry.again.as_ref().is_some_and(|again| again.question == *name || again.chain.contains(name))
        };
        let mut forgotten = 0usize;
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let places = shard.slots.iter().enumerate();
            let found = places.filter(|(_, slot)| slot.as_ref().is_some_and(|slot| bears(&slot.entry)));
            let found: Vec<u32> = found.filter_map(|(place, _)| u32::try_from(place).ok()).collect();
            forgotten = forgotten.saturating_add(found.len());
            found.into_iter().for_each(|place| shard.remove(place));
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

pub mod metrics;
#[cfg(test)]
mod tests;
