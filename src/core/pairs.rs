//! What is open of an address, and for whom, where that is less than all of it for everybody: an address is open only
//! for those who were answered with it (`nftables.scope = "client"`), to the ports of the names that led there, or for
//! single applications. A pair is an address and one [`Narrow`]; an address that is open to everybody as a whole has
//! the pair [`Narrow::NOT`].
//!
//! ```text
//!            grant                     end passed, or the lease's
//!  (none) ----------> open until end -----------------------------> (none)
//!                      ^   |    revoke, forbid, lease closed
//!                      +---+------------------------------------> (none)
//!                  grant again: the end moves later
//! ```
//!
//! A pair never lasts longer than the lease of its address, which carries routes and capacity as ever. What is planned
//! of a pair, and what is acked and in force, follows the same rules as with leases: see [`super::plan`] and
//! [`super::lease::Progress`]. The owner keeps the table to its capacity. Each step costs O(log n).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use super::event::{Change, Generation, LeaseHandle, PairRecord, StoredPair};
use super::moment::Moment;
use super::name::Name;
pub use super::narrow::{HOST, Narrow, PairId, owner, reaches};
use super::person::Mark;
use super::plan::{LEAST_EXTENSION, PlannedTimed, moves_on};
use super::share::{Holder, Shares};

/// Most questions of one pair that are kept apart.
pub const CAUSES_PER_PAIR: usize = 8;

/// One question that opened a pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairCause {
    /// The question, and the aliases behind it.
    pub names: Arc<[Name]>,
    /// By what whoever asked was known, if by more than the address.
    pub mark: Option<Mark>,
    /// The latest end that the client was told.
    pub ends: Moment,
    /// It was read back from disk, and nobody has asked since.
    restored: bool,
}

impl PairCause {
    /// Whether it was read back from disk, and nobody has asked since.
    #[must_use]
    pub fn is_restored(&self) -> bool {
        self.restored
    }

    /// The question and the aliases behind it.
    #[must_use]
    pub fn question_and_chain(&self) -> Option<(&Name, &[Name])> {
        self.names.split_first()
    }
}

/// One address open for somebody, to something.
#[derive(Clone, Debug)]
pub struct Pair {
    /// What the hot path reads.
    pub handle: LeaseHandle,
    /// When it ends.
    pub ends: Moment,
    /// Why; never empty.
    pub causes: Vec<PairCause>,
    /// What is planned of it.
    pub planned: Option<PlannedTimed>,
    /// In whose share it is.
    holder: Holder,
    /// Until when every required timed enforcer has acknowledged it.
    acked: Option<Moment>,
    /// The first change that not every required one has acknowledged: its plan, and the end it gave.
    lacks: Option<(Generation, Moment)>,
    /// What is planned is not there: to be planned anew, as an opening.
    missing: bool,
}

impl Pair {
    /// In whose share it is.
    #[must_use]
    pub fn holder(&self) -> Holder {
        self.holder
    }
}

/// All pairs, with their timers and what is to be planned of them.
#[derive(Debug, Default)]
pub struct Pairs {
    pairs: BTreeMap<PairId, Pair>,
    timers: BTreeSet<(Moment, PairId)>,
    /// Pairs that lack an acknowledgement, by the first plan that they lack.
    lacking: BTreeSet<(Generation, PairId)>,
    /// To be looked at with the next plan. Bounded by the table and what a batch of events removes from it.
    changed: BTreeSet<PairId>,
    /// What is planned still of pairs that left the table since the last plan.
    removed: BTreeMap<PairId, PlannedTimed>,
    journal: BTreeSet<PairId>,
    /// Of those, the ones of which a part was taken back: what was on disk before must not count any more.
    taken_back: BTreeSet<PairId>,
    shares: Shares,
}

fn stored((address, narrow): PairId, pair: &Pair) -> StoredPair {
    let mut told: BTreeMap<&Arc<[Name]>, Moment> = BTreeMap::new();
    for cause in &pair.causes {
        let known = told.entry(&cause.names).or_default();
        *known = cause.ends.max(*known);
    }
    // Who was told the pair's end may have asked again since, and have been told an earlier one.
    if let Some(latest) = told.values_mut().max() {
        *latest = pair.ends.max(*latest);
    }
    let (names, told) = told.into_iter().map(|(names, told)| (Arc::clone(names), told.min(pair.ends))).unzip();
    StoredPair { address, narrow, ends: pair.ends, names, told }
}

impl Pairs {
    /// Number of pairs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// How much of the table is whose.
    #[must_use]
    pub fn shares(&self) -> &Shares {
        &self.shares
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// The pair of this number, while it is kept.
    #[must_use]
    pub fn get(&self, id: PairId) -> Option<&Pair> {
        self.pairs.get(&id)
    }

    /// All pairs, by address.
    pub fn iter(&self) -> impl Iterator<Item = (PairId, &Pair)> {
        self.pairs.iter().map(|(id, pair)| (*id, pair))
    }

    /// What is open of an address, in order.
    pub fn of(&self, address: IpAddr) -> impl Iterator<Item = (Narrow, &Pair)> {
        let all = self.pairs.range((address, Narrow::FIRST)..=(address, Narrow::LAST));
        all.map(|((_, narrow), pair)| (*narrow, pair))
    }

    /// When a pair ends next.
    #[must_use]
    pub fn next_timer(&self) -> Option<Moment> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Opens a pair, in this one's share, or gives it one more cause; its end only moves later here. The lease of the
    /// address lasts as long at least.
    pub fn grant(&mut self, id: PairId, (names, mark): (Arc<[Name]>, Option<Mark>), ends: Moment, holder: Holder) {
        self.give(id, PairCause { names, mark, ends, restored: false }, holder);
    }

    /// The same for one that was read back from disk: the pair lasts until `ends`, by this question until `told`, which is no later.
    pub fn restore(&mut self, id: PairId, names: &Arc<[Name]>, [told, ends]: [Moment; 2], holder: Holder) {
        let known = self.restored_cause(id, names).map(|cause| cause.ends);
        self.give(id, PairCause { names: Arc::clone(names), mark: None, ends, restored: true }, holder);
        if let Some(cause) = self.restored_cause(id, names) {
            cause.ends = known.map_or(told, |known| known.max(told));
        }
    }

    fn restored_cause(&mut self, id: PairId, names: &Arc<[Name]>) -> Option<&mut PairCause> {
        let causes = &mut self.pairs.get_mut(&id)?.causes;
        causes.iter_mut().find(|cause| cause.restored && cause.names == *names)
    }

    /// What was restored ends earlier by so much; see [`super::guard`].
    pub fn end_restored_earlier(&mut self, by: Duration, now: Moment) {
        let restored = |pair: &Pair| pair.causes.iter().any(|cause| cause.restored);
        let found: Vec<PairId> = self.pairs.iter().filter(|(_, pair)| restored(pair)).map(|(id, _)| *id).collect();
        for id in found {
            let Some(pair) = self.pairs.get_mut(&id) else { continue };
            pair.causes.iter_mut().filter(|cause| cause.restored).for_each(|cause| cause.ends = cause.ends.minus(by));
            let latest = pair.causes.iter().map(|cause| cause.ends).max().unwrap_or(now).max(now);
            if latest < pair.ends {
                self.set_earlier_end(id, latest);
            }
        }
    }

    fn give(&mut self, id: PairId, cause: PairCause, holder: Holder) {
        let ends = cause.ends;
        let Some(pair) = self.pairs.get_mut(&id) else {
            let pair = Pair {
                handle: LeaseHandle::new(id.0, ends),
                ends,
                causes: vec![cause],
                planned: None,
                holder,
                acked: None,
                lacks: None,
                missing: false,
            };
            self.pairs.insert(id, pair);
            self.shares.add(holder);
            self.timers.insert((ends, id));
            self.changed.insert(id);
            self.journal.insert(id);
            return;
        };
        let same = |known: &PairCause| known.names == cause.names && (known.restored || known.mark == cause.mark);
        match pair.causes.iter_mut().find(|known| same(known)) {
            // What was restored may yet end earlier: who asks since has the new end.
            Some(known) if known.restored && !cause.restored => {
                self.journal.insert(id);
                *known = cause;
            }
            // The disk hears of it: another question may be taken back behind a restart.
            Some(known) if ends > known.ends => {
                if moves_on(known.ends, ends) {
                    self.journal.insert(id);
                }
                known.ends = ends;
            }
            Some(_) => {}
            None => {
                self.journal.insert(id);
                pair.causes.push(cause);
                if pair.causes.len() > CAUSES_PER_PAIR
                    && let Some(first) = pair.causes.iter().enumerate().min_by_key(|(_, cause)| cause.ends)
                {
                    let first = first.0;
                    pair.causes.swap_remove(first);
                }
            }
        }
        if ends >= pair.ends.plus(LEAST_EXTENSION) {
            self.timers.remove(&(pair.ends, id));
            pair.ends = ends;
            self.timers.insert((ends, id));
            self.changed.insert(id);
            self.journal.insert(id);
        }
    }

    /// Takes a pair whose end has come out of the table.
    pub fn pop_due(&mut self, now: Moment) -> Option<PairId> {
        let (at, id) = self.timers.first().copied()?;
        if at > now {
            return None;
        }
        self.remove(id);
        // What has ended needs no word on disk, where its end stands.
        self.journal.remove(&id);
        Some(id)
    }

    /// Closes a pair before its time.
    pub fn close(&mut self, id: PairId) {
        if self.remove(id) {
            self.journal.insert(id);
        }
    }

    /// The lease of an address has ended, or was closed: so are its pairs. On disk the word on the lease says so.
    pub fn close_all_of(&mut self, address: IpAddr) {
        let all: Vec<PairId> = self.of(address).map(|(narrow, _)| (address, narrow)).collect();
        for id in all {
            self.remove(id);
            self.journal.insert(id);
        }
    }

    /// The lease of an address ends earlier: no pair of it lasts longer.
    pub fn shorten_all_of(&mut self, address: IpAddr, ends: Moment) {
        let later = self.of(address).filter(|(_, pair)| pair.ends > ends);
        let later: Vec<PairId> = later.map(|(narrow, _)| (address, narrow)).collect();
        later.into_iter().for_each(|id| self.set_earlier_end(id, ends));
    }

    /// Takes the causes of which `gone` says so from a pair: it then ends with the latest of the others, or is closed.
    pub fn remove_causes(&mut self, id: PairId, now: Moment, gone: impl Fn(&PairCause) -> bool) {
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        let before = pair.causes.len();
        pair.causes.retain(|cause| !gone(cause));
        if pair.causes.len() == before {
            return;
        }
        match pair.causes.iter().map(|cause| cause.ends).max() {
            Some(latest) if latest > now => {
                self.journal.insert(id);
                self.taken_back.insert(id);
                if self.pairs.get(&id).is_some_and(|pair| latest < pair.ends) {
                    self.set_earlier_end(id, latest);
                }
            }
            _ => self.close(id),
        }
    }

    fn set_earlier_end(&mut self, id: PairId, ends: Moment) {
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        self.timers.remove(&(pair.ends, id));
        pair.ends = ends;
        // Also of what is under way: the enforcers will hold it for less before they may hold it for more.
        pair.acked = pair.acked.map(|acked| acked.min(ends));
        pair.lacks = pair.lacks.map(|(plan, known)| (plan, known.min(ends)));
        pair.handle.set_ends(pair.handle.ends().min(ends));
        self.timers.insert((ends, id));
        self.changed.insert(id);
        self.journal.insert(id);
        self.taken_back.insert(id);
    }

    fn remove(&mut self, id: PairId) -> bool {
        let Some(pair) = self.pairs.remove(&id) else { return false };
        self.shares.remove(pair.holder);
        pair.handle.set_in_force(false);
        self.timers.remove(&(pair.ends, id));
        if let Some((plan, _)) = pair.lacks {
            self.lacking.remove(&(plan, id));
        }
        if let Some(planned) = pair.planned {
            // One that came back since the last plan isn't planned yet: what was planned before still is.
            self.removed.insert(id, planned);
        }
        self.changed.insert(id);
        true
    }

    /// All of an address is planned for everybody, as its lease was: where no pair of that kind is left, enforcers hear
    /// of it.
    pub fn planned_whole(&mut self, address: IpAddr, planned: PlannedTimed) {
        self.removed.insert((address, Narrow::NOT), planned);
        self.changed.insert((address, Narrow::NOT));
    }

    /// What the plan `generation` is to tell the timed enforcers.
    pub fn plan(&mut self, generation: Generation, now: Moment) -> Vec<Change> {
        let mut changes = Vec::new();
        let fresh = |ends| PlannedTimed { ends, opened: generation, last: generation };
        for id in std::mem::take(&mut self.changed) {
            let (address, narrow) = id;
            let removed = self.removed.remove(&id);
            let Some(pair) = self.pairs.get_mut(&id) else {
                // What has ended is gone without our help.
                if removed.is_some_and(|planned| planned.ends > now) {
                    changes.push(Change::Narrow { address, narrow, ends: None, new: false });
                }
                continue;
            };
            let ends = pair.ends;
            let known = !std::mem::take(&mut pair.missing);
            let planned = match pair.planned.filter(|planned| known && planned.ends > now) {
                None => {
                    changes.push(Change::Narrow { address, narrow, ends: Some(ends), new: true });
                    fresh(ends)
                }
                Some(planned) if planned.ends == ends => planned,
                Some(planned) => {
                    changes.push(Change::Narrow { address, narrow, ends: Some(ends), new: false });
                    PlannedTimed { ends, opened: planned.opened, last: generation }
                }
            };
            let before = pair.planned.replace(planned);
            if (before != pair.planned || pair.acked.is_none()) && pair.lacks.is_none() {
                pair.lacks = Some((planned.last, planned.ends));
                self.lacking.insert((planned.last, id));
            }
        }
        changes
    }

    /// Everything, for an enforcer that asked for the full state.
    #[must_use]
    pub fn full(&self) -> Vec<(PairId, Moment)> {
        self.pairs.iter().map(|(id, pair)| (*id, pair.ends)).collect()
    }

    /// Every pair as it survives a restart.
    pub fn stored(&self) -> impl Iterator<Item = StoredPair> {
        self.pairs.iter().map(|(id, pair)| stored(*id, pair))
    }

    /// What is to be written since the last call.
    pub fn take_journal(&mut self) -> Vec<PairRecord> {
        let taken_back = std::mem::take(&mut self.taken_back);
        let records = |id: PairId| match self.pairs.get(&id) {
            None => [Some(PairRecord::Closed(id)), None],
            Some(pair) => {
                [taken_back.contains(&id).then_some(PairRecord::Closed(id)), Some(PairRecord::Open(stored(id, pair)))]
            }
        };
        std::mem::take(&mut self.journal).into_iter().flat_map(records).flatten().collect()
    }

    /// Every required timed enforcer has acknowledged all plans up to this one. After: no pair lacks one of them, and
    /// what is acked is in force.
    pub fn ack(&mut self, upto: Generation) {
        while let Some((plan, id)) = self.lacking.first().copied()
            && plan <= upto
        {
            self.lacking.remove(&(plan, id));
            let Some(pair) = self.pairs.get_mut(&id) else { continue };
            let Some((_, ends)) = pair.lacks.take() else { continue };
            // A change that made the end earlier is the last word at once.
            let mut until = pair.acked.map_or(ends, |before| before.max(ends)).min(pair.ends);
            if let Some(planned) = pair.planned {
                if planned.last <= upto {
                    until = planned.ends;
                } else {
                    pair.lacks = Some((planned.last, planned.ends));
                    self.lacking.insert((planned.last, id));
                }
            }
            let until = until.min(pair.ends);
            pair.acked = Some(until);
            pair.handle.set_ends(until);
            pair.handle.set_in_force(true);
        }
    }

    /// Whether every required timed enforcer has acknowledged all that is planned.
    #[must_use]
    pub fn is_all_acked(&self) -> bool {
        self.lacking.is_empty()
    }

    /// A timed enforcer lacks this pair, which it had acknowledged; `required`: answers depend on it.
    pub fn missing(&mut self, id: PairId, required: bool) {
        let Some(pair) = self.pairs.get_mut(&id).filter(|pair| pair.planned.is_some()) else { return };
        pair.missing = true;
        self.changed.insert(id);
        if required {
            pair.handle.set_in_force(false);
            pair.acked = None;
            if let Some((plan, _)) = pair.lacks.take() {
                self.lacking.remove(&(plan, id));
            }
        }
    }

    /// A required timed enforcer was lost. After: no pair is in force, and each lacks what is planned of it. O(pairs).
    pub fn lose(&mut self) {
        self.lacking.clear();
        for (id, pair) in &mut self.pairs {
            pair.handle.set_in_force(false);
            pair.acked = None;
            // One that is not planned yet gets its entry with its plan.
            pair.lacks = pair.planned.map(|planned| (planned.last, planned.ends));
            if let Some((plan, _)) = pair.lacks {
                self.lacking.insert((plan, *id));
            }
        }
    }

    /// Pairs that this plan opened and that were not in force since.
    #[must_use]
    pub fn opened_by(&self, generation: Generation) -> Vec<PairId> {
        let first = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), Narrow::FIRST);
        let after = Generation(generation.0.saturating_add(1));
        let lacking = self.lacking.range((generation, first)..(after, first));
        let opened = |id: &PairId| self.pairs.get(id).and_then(|pair| pair.planned).map(|planned| planned.opened);
        lacking.map(|(_, id)| *id).filter(|id| opened(id) == Some(generation)).collect()
    }

    /// Everything that is kept twice agrees, and no pair outlasts the lease of its address.
    #[cfg(test)]
    pub fn check_consistency(&self, lease_ends: impl Fn(IpAddr) -> Option<Moment>, now: Moment) {
        let timers: BTreeSet<_> = self.iter().map(|(id, pair)| (pair.ends, id)).collect();
        assert_eq!(self.timers, timers);
        let lacking: BTreeSet<_> = self.iter().filter_map(|(id, pair)| Some((pair.lacks?.0, id))).collect();
        assert_eq!(self.lacking, lacking);
        for (id, pair) in self.iter() {
            assert!(pair.ends > now, "{id:?} has ended");
            assert!(lease_ends(id.0).is_some_and(|ends| pair.ends <= ends), "{id:?} outlives its lease");
            assert!(!pair.causes.is_empty() && pair.causes.len() <= CAUSES_PER_PAIR);
            if pair.handle.in_force_for(now, std::time::Duration::ZERO) {
                assert!(pair.handle.ends() <= pair.ends, "{id:?} is in force for too long");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_cause_that_ends_first_gives_way_and_the_end_stays() {
        let mut pairs = Pairs::default();
        let id = (ip("203.0.113.1"), Narrow::of_client(ip("192.0.2.7")));
        for number in 0..20u64 {
            let name: Name = format!("n{number}.test").parse().unwrap();
            pairs.grant(id, (Arc::from([name]), None), Moment(50_000 - number * 2_000), Holder::of("one"));
        }
        let pair = pairs.get(id).unwrap();
        assert_eq!((pair.causes.len(), pair.ends), (CAUSES_PER_PAIR, Moment(50_000)));
        pairs.check_consistency(|_| Some(Moment(60_000)), Moment(0));
    }
}
