//! What the driver wrote and the kernel acknowledged, and how that is compared with what the kernel holds. Pure.
//!
//! Comparing takes pages of keys, in order, round and round. Nothing is said of an element that is about to end.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use super::elements::{Held, Key, Set, Timeout};
use crate::core::moment::Moment;

/// By how much an end may differ. Less than [`super::PAD`], so that a lease is never shorter in the kernel than in the core.
pub const TOLERANCE: Duration = Duration::from_millis(200);

/// One of our elements.
pub type Id = (Set, Key);

/// When an element that was written ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// When it is to end.
    pub until: Moment,
    /// At the latest: its time began when the kernel committed it, a little after it was reckoned.
    latest: Moment,
}

/// How an element differs from what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Difference {
    /// It isn't there.
    Missing,
    /// It ends earlier.
    Short,
    /// It ends later, or never.
    Long,
    /// It was not written, or has ended.
    Extra,
}

impl Difference {
    /// As metrics name it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Short => "short",
            Self::Long => "long",
            Self::Extra => "extra",
        }
    }

    /// In words, of so many elements.
    #[must_use]
    pub fn words(self, count: usize) -> String {
        let (noun, was) = if count == 1 { ("element", "was") } else { ("elements", "were") };
        match self {
            Self::Missing => format!("{count} {noun} {was} missing from the kernel's sets"),
            Self::Short => format!("{count} {noun} of the kernel's sets ended too early"),
            Self::Long => format!("{count} {noun} of the kernel's sets ended too late"),
            Self::Extra => format!("{count} {noun} {was} in the kernel's sets that should not be there"),
        }
    }
}

/// All elements that the kernel acknowledged. As many as the sets have room for.
#[derive(Debug, Default)]
pub struct Written {
    elements: BTreeMap<Id, Times>,
    /// The last one of the page before.
    seen: Option<Id>,
}

impl Written {
    /// Number of elements, those included that have ended since they were last looked at.
    #[must_use]
    pub fn len(&self) -> usize {
        self.elements.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }

    /// Takes note of an element: its timeout was reckoned at `now`, and the kernel had committed it at `done`.
    pub fn put(&mut self, id: Id, timeout: Timeout, now: Moment, done: Moment) {
        let timeout = Duration::from_millis(timeout.millis());
        self.elements.insert(id, Times { until: now.plus(timeout), latest: done.plus(timeout) });
    }

    /// Takes note of an element that was found as it should be: it is to end at `until`, and ends at `latest` at the latest.
    pub fn keep(&mut self, id: Id, until: Moment, latest: Moment) {
        self.elements.insert(id, Times { until, latest });
    }

    /// It was removed, or isn't believed in any more.
    pub fn remove(&mut self, id: Id) {
        self.elements.remove(&id);
    }

    /// Everything was removed.
    pub fn clear(&mut self) {
        self.elements.clear();
        self.seen = None;
    }

    /// Whether the kernel may hold it.
    #[must_use]
    pub fn may_hold(&self, id: Id, now: Moment) -> bool {
        self.elements.get(&id).is_some_and(|times| times.latest.plus(TOLERANCE) > now)
    }

    /// Everything that has not ended, with what is left of its time.
    pub fn left(&self, now: Moment) -> impl Iterator<Item = (Id, Timeout)> {
        let live = self.elements.iter().filter(move |(_, times)| times.until > now);
        live.map(move |(id, times)| (*id, Timeout::of(now.until(times.until))))
    }

    /// The next elements to be compared, `count` at most; none at the end of a round. Forgets those that have ended.
    pub fn page(&mut self, count: usize, now: Moment) -> Vec<(Id, Times)> {
        let from = self.seen.map_or(Bound::Unbounded, Bound::Excluded);
        let (mut page, mut ended, mut last) = (Vec::with_capacity(count), Vec::new(), None);
        // Those that have ended cost little, so more of them are passed over.
        for (id, times) in self.elements.range((from, Bound::Unbounded)).take(count.saturating_mul(8)) {
            last = Some(*id);
            if times.latest.plus(TOLERANCE) <= now {
                ended.push(*id);
            } else if times.until > now.plus(TOLERANCE) {
                page.push((*id, *times));
                if page.len() == count {
                    break;
                }
            }
        }
        ended.iter().for_each(|id| self.remove(*id));
        self.seen = last;
        page
    }
}

/// What is wrong with an element that was looked at between `before` and `after`.
#[must_use]
pub fn judge(times: Times, held: Option<&Held>, before: Moment, after: Moment) -> Option<Difference> {
    let earliest = times.until.minus(TOLERANCE);
    match held.map(|held| held.left) {
        None if earliest <= after => None,
        None => Some(Difference::Missing),
        Some(None) => Some(Difference::Long),
        Some(Some(left)) if after.plus(left) < earliest => Some(Difference::Short),
        Some(Some(left)) if before.plus(left) > times.latest.plus(TOLERANCE) => Some(Difference::Long),
        Some(Some(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn id(last: u8) -> Id {
        (Set::Lease4, Key::Address(IpAddr::from([192, 0, 2, last])))
    }

    fn timeout(millis: u64) -> Timeout {
        Timeout::of(Duration::from_millis(millis))
    }

    #[test]
    fn pages_go_round_and_what_has_ended_is_forgotten() {
        let mut written = Written::default();
        for last in 0..10 {
            written.put(id(last), timeout(if last == 3 { 1_000 } else { 60_000 }), Moment(1_000), Moment(1_010));
        }
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push(written.page(4, Moment(5_000)).into_iter().map(|(id, _)| id).collect::<Vec<_>>());
        }
        let ids = |list: &[u8]| list.iter().copied().map(id).collect::<Vec<_>>();
        assert_eq!(seen, [ids(&[0, 1, 2, 4]), ids(&[5, 6, 7, 8]), ids(&[9]), ids(&[])]);
        assert_eq!(written.page(2, Moment(5_000)).len(), 2, "round again");
        assert_eq!((written.len(), written.left(Moment(5_000)).count()), (9, 9));
        assert!(!written.may_hold(id(3), Moment(5_000)) && written.may_hold(id(4), Moment(5_000)));
    }

    #[test]
    fn an_element_is_judged_by_when_it_was_looked_at() {
        let mut written = Written::default();
        written.put(id(1), timeout(60_000), Moment(1_000), Moment(1_050));
        let (_, times) = written.page(1, Moment(2_000))[0];
        let held = |left: u64| Held { key: id(1).1, left: Some(Duration::from_millis(left)) };
        let at = |left, before, after| judge(times, Some(&held(left)), Moment(before), Moment(after));
        assert_eq!(at(59_000, 2_000, 2_000), None);
        assert_eq!(at(59_040, 2_000, 2_000), None, "the commit came later");
        assert_eq!(at(40_000, 2_000, 2_000), Some(Difference::Short));
        assert_eq!(at(40_000, 2_000, 30_000), None, "it may have been looked at any time between");
        assert_eq!(at(90_000, 2_000, 2_100), Some(Difference::Long));
        let permanent = Held { key: id(1).1, left: None };
        assert_eq!(judge(times, Some(&permanent), Moment(2_000), Moment(2_000)), Some(Difference::Long));
        assert_eq!(judge(times, None, Moment(2_000), Moment(2_000)), Some(Difference::Missing));
        assert_eq!(judge(times, None, Moment(60_900), Moment(60_900)), None, "it has just ended");
    }
}
