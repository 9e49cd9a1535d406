//! What was written and acknowledged, and how what is found is compared with it. Pure.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use super::{Entry, Held};
use crate::core::moment::Moment;

/// By how much an end may differ, beside the grain.
pub(super) const TOLERANCE: Duration = Duration::from_millis(200);

/// When an entry ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    /// When it is to end.
    pub(super) until: Moment,
    /// When it ends at the earliest. Before `until` only where the table can't hold it for so long.
    pub(super) earliest: Moment,
    /// When it ends at the latest: its time began when it was written, a little after it was reckoned.
    pub(super) latest: Moment,
    /// Number of the change that wrote it.
    pub(super) change: u64,
    /// Number of the sweep that has seen it last.
    seen: u64,
}

/// How an entry differs from what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Difference {
    Missing,
    Short,
    Long,
    Extra,
}

impl Difference {
    /// As metrics name it.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Short => "short",
            Self::Long => "long",
            Self::Extra => "extra",
        }
    }

    /// In words, of so many entries.
    pub(super) fn words(self, count: usize, table: &str) -> String {
        let (noun, was) = if count == 1 { ("entry", "was") } else { ("entries", "were") };
        match self {
            Self::Missing => format!("{count} {noun} {was} missing from {table}"),
            Self::Short => format!("{count} {noun} of {table} ended too early"),
            Self::Long => format!("{count} {noun} of {table} ended too late"),
            Self::Extra => format!("{count} {noun} {was} in {table} that should not be there"),
        }
    }
}

/// All entries that were acknowledged. As many as the table has room for.
#[derive(Debug, Default)]
pub(super) struct Written {
    entries: BTreeMap<Entry, Times>,
    /// Number of the last change.
    pub(super) change: u64,
    /// The last entry of the page before.
    page: Option<Entry>,
}

impl Written {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Takes note of an entry that was given this time between two moments.
    pub(super) fn put(&mut self, entry: Entry, until: Moment, time: Duration, (before, after): (Moment, Moment)) {
        let times =
            Times { until, earliest: before.plus(time), latest: after.plus(time), change: self.change, seen: 0 };
        self.entries.insert(entry, times);
    }

    /// Takes note of an entry that was found as it should be.
    pub(super) fn keep(&mut self, entry: Entry, until: Moment, latest: Moment) {
        self.entries.insert(entry, Times { until, earliest: until, latest, change: self.change, seen: 0 });
    }

    pub(super) fn remove(&mut self, entry: &Entry) -> bool {
        self.entries.remove(entry).is_some()
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.page = None;
    }

    pub(super) fn get(&self, entry: &Entry) -> Option<&Times> {
        self.entries.get(entry)
    }

    /// A sweep has seen it. `None`: it was not written.
    pub(super) fn saw(&mut self, entry: &Entry, sweep: u64) -> Option<Times> {
        let times = self.entries.get_mut(entry)?;
        times.seen = sweep;
        Some(*times)
    }

    /// What a sweep should have seen and has not: written before it began, and not about to end.
    pub(super) fn unseen(&self, sweep: u64, change: u64, now: Moment) -> Vec<Entry> {
        let lacks =
            |times: &Times| times.seen != sweep && times.change <= change && times.earliest > now.plus(TOLERANCE);
        self.entries.iter().filter(|(_, times)| lacks(times)).map(|(entry, _)| *entry).collect()
    }

    /// Everything that has not ended, with its end.
    pub(super) fn all(&self, now: Moment) -> Vec<(Entry, Moment)> {
        let live = self.entries.iter().filter(|(_, times)| times.until > now);
        live.map(|(entry, times)| (*entry, times.until)).collect()
    }

    /// What a table can't hold until its end, and has less than half of `longest` left.
    pub(super) fn waning(&self, longest: Duration, now: Moment) -> Vec<(Entry, Moment)> {
        let wanes = |times: &Times| times.earliest < times.until && now.until(times.earliest) < longest / 2;
        self.entries.iter().filter(|(_, times)| wanes(times)).map(|(entry, times)| (*entry, times.until)).collect()
    }

    /// Forgets what has ended.
    pub(super) fn forget(&mut self, grain: Duration, now: Moment) {
        self.entries.retain(|_, times| times.latest.plus(grain).plus(TOLERANCE) > now || times.earliest < times.until);
    }

    /// The next entries, `count` at most, that are not about to end; none at the end of a round.
    pub(super) fn page(&mut self, count: usize, now: Moment) -> Vec<Entry> {
        let from = self.page.map_or(Bound::Unbounded, Bound::Excluded);
        let mut page = Vec::with_capacity(count);
        let mut last = None;
        for (entry, times) in self.entries.range((from, Bound::Unbounded)).take(count) {
            last = Some(*entry);
            if times.earliest > now.plus(TOLERANCE) {
                page.push(*entry);
            }
        }
        self.page = last;
        page
    }
}

/// What is wrong with an entry that was read between two moments.
pub(super) fn judge(
    times: &Times,
    held: &Held,
    grain: Duration,
    (before, after): (Moment, Moment),
) -> Option<Difference> {
    match held.left {
        None => Some(Difference::Long),
        Some(left) if after.plus(left).plus(grain).plus(TOLERANCE) < times.earliest => Some(Difference::Short),
        Some(left) if before.plus(left) > times.latest.plus(TOLERANCE) => Some(Difference::Long),
        Some(_) => None,
    }
}

/// Whether an entry that was read between two moments surely ends when it should.
pub(super) fn agrees(
    left: Option<Duration>,
    until: Moment,
    grain: Duration,
    (before, after): (Moment, Moment),
) -> bool {
    let Some(left) = left else { return false };
    before.plus(left).plus(TOLERANCE / 2) >= until && after.plus(left) <= until.plus(grain).plus(TOLERANCE * 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn entry(last: u8) -> Entry {
        Entry::Address(IpAddr::from([192, 0, 2, last]))
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn what_a_table_can_not_hold_until_its_end_wanes_and_is_not_forgotten() {
        let mut written = Written::default();
        let at = (Moment(1_000), Moment(1_001));
        written.put(entry(1), Moment(900_000), seconds(100), at);
        written.put(entry(2), Moment(100_000), seconds(99), at);
        assert_eq!(written.waning(seconds(100), Moment(20_000)), []);
        assert_eq!(written.waning(seconds(100), Moment(60_000)), [(entry(1), Moment(900_000))]);
        written.forget(seconds(1), Moment(200_000));
        assert_eq!((written.len(), written.waning(seconds(100), Moment(200_000)).len()), (1, 1));
    }

    #[test]
    fn an_entry_is_judged_by_its_grain_and_by_when_it_was_read() {
        let mut written = Written::default();
        written.put(entry(1), Moment(60_500), seconds(60), (Moment(1_000), Moment(1_050)));
        let times = *written.get(&entry(1)).unwrap();
        let judged = |left: Option<u64>, before, after| {
            let held = Held { entry: entry(1), left: left.map(seconds) };
            judge(&times, &held, seconds(1), (Moment(before), Moment(after)))
        };
        assert_eq!(judged(Some(59), 2_000, 2_000), None);
        assert_eq!(judged(Some(58), 2_000, 2_900), None, "rounded down");
        assert_eq!(judged(Some(57), 2_000, 2_100), Some(Difference::Short));
        assert_eq!(judged(Some(70), 2_000, 2_100), Some(Difference::Long));
        assert_eq!(judged(None, 2_000, 2_100), Some(Difference::Long));
        let moments = (Moment(2_000), Moment(2_010));
        assert!(agrees(Some(seconds(58)), Moment(60_000), seconds(1), moments));
        assert!(!agrees(Some(seconds(57)), Moment(60_000), seconds(1), moments), "it may end before");
        assert!(!agrees(Some(seconds(60)), Moment(60_000), seconds(1), moments));
        assert!(!agrees(None, Moment(60_000), seconds(1), moments));
    }

    #[test]
    fn a_sweep_misses_only_what_was_written_before_it() {
        let mut written = Written::default();
        let at = (Moment(0), Moment(0));
        written.put(entry(1), Moment(60_000), seconds(60), at);
        written.put(entry(2), Moment(60_000), seconds(60), at);
        written.change = 1;
        written.put(entry(3), Moment(60_000), seconds(60), at);
        assert!(written.saw(&entry(1), 1).is_some() && written.saw(&entry(9), 1).is_none());
        assert_eq!(written.unseen(1, 0, Moment(100)), [entry(2)]);
        assert_eq!(written.unseen(1, 0, Moment(59_900)), [], "it is about to end");
        assert_eq!(written.page(2, Moment(0)), [entry(1), entry(2)]);
        assert_eq!((written.page(2, Moment(0)).len(), written.page(2, Moment(0)).len()), (1, 0));
    }
}
