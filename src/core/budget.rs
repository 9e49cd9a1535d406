//! Rates of new addresses, per client and per registrable domain: token buckets in tables with a bound.
//!
//! A bucket is one number, the moment at which it is full again (the "generic cell rate" form of a token bucket). A full
//! bucket says nothing, so it needs no entry: the table holds the buckets that are not full. A bucket may be in debt:
//! its tokens are taken before they are there by somebody who then waits until they are ([`Buckets::ready`]).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::moment::Moment;
use super::name::Name;
use super::share::Holder;
use crate::config::value::Rate;

/// Most buckets of a table.
pub const BUCKETS: usize = 65_536;

/// Nanoseconds since the epoch; fine enough for 50,000 tokens a second.
type Nanos = u128;
/// Nanoseconds of a millisecond, by which tokens are counted.
const MILLISECOND: Nanos = 1_000_000;

/// Token buckets of one size and one rate.
///
/// At most [`BUCKETS`] are kept apart. Buckets that are full again go first; when there is none, whoever has no bucket
/// yet shares one bucket with all the others that have none. So those who were there before are not touched by a flood
/// of new ones, and memory stays bounded.
#[derive(Debug)]
pub struct Buckets<K> {
    count: u64,
    per: Nanos,
    /// How long an empty one takes to be full.
    depth: Nanos,
    limit: usize,
    full_at: BTreeMap<K, Nanos>,
    by_time: BTreeSet<(Nanos, K)>,
    shared: Nanos,
}

/// Whose bucket it is.
pub trait Weigh {
    /// For how many it counts: so much larger is its bucket, and so much faster filled.
    fn parts(&self) -> u8 {
        1
    }
}

impl Weigh for Name {}

impl Weigh for Holder {
    fn parts(&self) -> u8 {
        Self::parts(*self)
    }
}

impl<K: Ord + Clone + Weigh> Buckets<K> {
    /// All buckets full, each with `burst` tokens, refilled at `rate`; at most `limit` of them kept apart.
    #[must_use]
    pub fn new(rate: Rate, burst: u64, limit: usize) -> Self {
        let mut buckets = Self {
            count: rate.count,
            per: rate.per.as_nanos(),
            depth: 0,
            limit,
            full_at: BTreeMap::new(),
            by_time: BTreeSet::new(),
            shared: 0,
        };
        buckets.depth = buckets.cost_of(burst, 1);
        buckets
    }

    /// When `key`'s bucket holds `tokens`, if nobody takes any meanwhile; more than it ever holds: when who takes them now has them paid. Takes
    /// nothing.
    #[must_use]
    pub fn ready(&self, key: &K, tokens: u64, now: Moment) -> Moment {
        if tokens == 0 {
            return now;
        }
        if self.count == 0 {
            return Moment(u64::MAX);
        }
        let start = nanos(now);
        let full_at = match self.full_at.get(key) {
            Some(at) => *at,
            None if self.has_room(start) => 0,
            None => self.shared,
        };
        let at = (full_at.max(start) + self.cost(key, tokens)).saturating_sub(self.depth);
        Moment(u64::try_from(at.div_ceil(MILLISECOND)).unwrap_or(u64::MAX)).max(now)
    }

    /// Whether `key`'s bucket holds `tokens` now. Takes nothing.
    #[must_use]
    pub fn has(&self, key: &K, tokens: u64, now: Moment) -> bool {
        self.ready(key, tokens, now) <= now
    }

    /// Takes `tokens` from `key`'s bucket, be they there or not.
    pub fn take(&mut self, key: &K, tokens: u64, now: Moment) {
        if tokens == 0 {
            return;
        }
        let now = nanos(now);
        let cost = self.cost(key, tokens);
        if let Some(at) = self.full_at.get_mut(key) {
            self.by_time.remove(&(*at, key.clone()));
            *at = (*at).max(now) + cost;
            self.by_time.insert((*at, key.clone()));
        } else if self.has_room(now) {
            while let Some((_, full)) = self.by_time.pop_first_if(|(at, _)| *at <= now) {
                self.full_at.remove(&full);
            }
            self.full_at.insert(key.clone(), now + cost);
            self.by_time.insert((now + cost, key.clone()));
        } else {
            self.shared = self.shared.max(now) + cost;
        }
    }

    /// Gives tokens back that were taken and not used.
    pub fn give_back(&mut self, key: &K, tokens: u64) {
        let cost = self.cost(key, tokens);
        if let Some(at) = self.full_at.get_mut(key) {
            self.by_time.remove(&(*at, key.clone()));
            *at = at.saturating_sub(cost);
            self.by_time.insert((*at, key.clone()));
        }
    }

    /// Number of buckets kept apart.
    #[must_use]
    pub fn len(&self) -> usize {
        self.full_at.len()
    }

    /// Whether every bucket is full.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.full_at.is_empty()
    }

    fn has_room(&self, now: Nanos) -> bool {
        self.full_at.len() < self.limit || self.by_time.first().is_some_and(|(at, _)| *at <= now)
    }

    fn cost(&self, key: &K, tokens: u64) -> Nanos {
        self.cost_of(tokens, key.parts())
    }

    fn cost_of(&self, tokens: u64, parts: u8) -> Nanos {
        self.per * Nanos::from(tokens) / (Nanos::from(self.count.max(1)) * Nanos::from(parts.max(1)))
    }
}

trait PopFirstIf<T> {
    fn pop_first_if(&mut self, wanted: impl FnOnce(&T) -> bool) -> Option<T>;
}

impl<T: Ord> PopFirstIf<T> for BTreeSet<T> {
    fn pop_first_if(&mut self, wanted: impl FnOnce(&T) -> bool) -> Option<T> {
        if self.first().is_some_and(wanted) { self.pop_first() } else { None }
    }
}

fn nanos(moment: Moment) -> Nanos {
    Duration::from_millis(moment.0).as_nanos()
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Weigh for u32 {
        fn parts(&self) -> u8 {
            if *self == 10 { 3 } else { 1 }
        }
    }

    fn rate(count: u64, seconds: u64) -> Rate {
        Rate { count, per: Duration::from_secs(seconds) }
    }

    /// Takes when it may.
    fn try_take(buckets: &mut Buckets<u32>, key: u32, tokens: u64, at: u64) -> bool {
        let may = buckets.has(&key, tokens, Moment(at));
        if may {
            buckets.take(&key, tokens, Moment(at));
        }
        may
    }

    #[test]
    fn a_bucket_holds_count_and_refills_evenly() {
        let mut buckets = Buckets::new(rate(50, 1), 50, 8);
        assert!(!try_take(&mut buckets, 1, 51, 0), "more than the bucket holds");
        assert!(try_take(&mut buckets, 1, 50, 0));
        assert!(!try_take(&mut buckets, 1, 1, 19));
        assert!(try_take(&mut buckets, 1, 1, 20));
        assert!(!try_take(&mut buckets, 1, 1, 39));
        assert!(try_take(&mut buckets, 1, 50, 2000));
        assert!(try_take(&mut buckets, 2, 50, 2000), "another's bucket is its own");
    }

    #[test]
    fn what_a_bucket_holds_is_apart_from_its_rate_and_debts_are_paid_in_order() {
        let mut buckets = Buckets::new(rate(10, 1), 100, 8);
        assert!(try_take(&mut buckets, 1, 100, 0));
        assert_eq!(buckets.ready(&1, 1, Moment(0)), Moment(100));
        buckets.take(&1, 1, Moment(0));
        buckets.take(&1, 2, Moment(0));
        assert_eq!(buckets.ready(&1, 1, Moment(50)), Moment(400), "three are owed");
        buckets.give_back(&1, 2);
        assert_eq!(buckets.ready(&1, 1, Moment(50)), Moment(200));
        assert_eq!(buckets.ready(&1, 50, Moment(0)), Moment(5_100));
        assert!(!buckets.has(&1, 50, Moment(5_099)) && buckets.has(&1, 50, Moment(5_100)));
        assert_eq!(buckets.ready(&2, 101, Moment(7)), Moment(107), "more than it holds: paid later");
    }

    #[test]
    fn a_rate_of_zero_lets_nothing_new_in_but_what_costs_nothing() {
        let mut buckets = Buckets::new(rate(0, 1), 50, 8);
        assert!(!try_take(&mut buckets, 1, 1, 0));
        assert!(try_take(&mut buckets, 1, 0, 0));
    }

    #[test]
    fn a_flood_of_keys_costs_only_the_flood() {
        let mut buckets = Buckets::new(rate(2, 1), 2, 3);
        assert!(try_take(&mut buckets, 1, 1, 0), "an old client, one token left");
        for key in 30..32 {
            assert!(try_take(&mut buckets, key, 1, 0));
        }
        assert!(try_take(&mut buckets, 20, 1, 0), "shares a bucket with");
        assert!(try_take(&mut buckets, 21, 1, 0), "this one");
        assert!(!try_take(&mut buckets, 22, 1, 0), "and this one finds it empty");
        assert!(try_take(&mut buckets, 1, 1, 0), "the old client's token is still there");
        assert_eq!(buckets.len(), 3);
        assert!(try_take(&mut buckets, 22, 2, 1000), "full buckets make room");
        assert!(buckets.len() <= 3);
    }

    #[test]
    fn who_counts_for_three_has_three_times_the_bucket_and_the_rate() {
        let mut buckets = Buckets::new(rate(10, 1), 20, 8);
        assert!(!try_take(&mut buckets, 1, 21, 0) && try_take(&mut buckets, 1, 20, 0));
        assert!(!try_take(&mut buckets, 10, 61, 0) && try_take(&mut buckets, 10, 60, 0));
        assert!(!try_take(&mut buckets, 1, 11, 1000) && try_take(&mut buckets, 1, 10, 1000));
        assert!(!try_take(&mut buckets, 10, 31, 1000) && try_take(&mut buckets, 10, 30, 1000));
    }
}
