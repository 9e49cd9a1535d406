//! Belief compared with the world, all the time.
//!
//! ```text
//!   every half second   the rules are looked at, and a page of entries      changed --> put back; missing --> a sweep
//!   every 10 s or less  all entries are listed, part by part (a sweep)      missing, short --Missing--> core, which opens them again
//!   often                                                                   long, extra --> put right at once
//! ```

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use super::driver::{Driver, State};
use super::written::{Difference, judge};
use super::{Entry, Table, TableError};
use crate::config::schema::Scope;
use crate::core::event::Event;
use crate::core::moment::Moment;
use crate::core::narrow::{HOST, Narrow, PairId};

const PERIOD: Duration = Duration::from_millis(500);
/// The least time between sweeps; and how much longer than one took.
const SWEEP_PAUSE: Duration = Duration::from_secs(10);
const SWEEP_SHARE: u32 = 100;
/// The pause for commands between two parts.
const PART_PAUSE: Duration = Duration::from_millis(2);
/// Entries that are looked up at once.
const PAGE: usize = 64;
/// So many entries missing are a loss of the table.
const LOSS: usize = 64;
/// Most entries named in the log.
const NAMED: usize = 5;
/// Entries that may be removed while a sweep goes on; it is given up beyond.
const REMOVED: usize = 65_536;

/// When what is looked at next, since the boot.
#[derive(Debug)]
pub(super) struct Schedule {
    /// The next look, or part of a sweep.
    pub(super) next: Duration,
    looked: Duration,
    sweep: Duration,
    number: u64,
    sweeping: Option<Sweep>,
}

#[derive(Debug)]
struct Sweep {
    begun: Duration,
    /// Time spent on it.
    took: Duration,
    /// Number of the last change before it began.
    change: u64,
    /// Between which moments the next part may have been read.
    times: [Moment; 2],
    /// Removed since it began.
    removed: HashSet<Entry>,
    found: BTreeMap<Difference, Vec<Entry>>,
}

impl Schedule {
    pub(super) fn new(now: Duration) -> Self {
        let (next, sweep) = (now.saturating_add(PERIOD), now.saturating_add(SWEEP_PAUSE));
        Self { next, looked: now, sweep, number: 0, sweeping: None }
    }

    /// A sweep is due.
    pub(super) fn hurry(&mut self, now: Duration) {
        self.sweep = now;
        self.next = now;
    }

    /// What a sweep has found so far counts for nothing.
    pub(super) fn stop(&mut self) {
        self.sweeping = None;
    }

    pub(super) fn removed(&mut self, entry: &Entry) {
        if let Some(sweep) = &mut self.sweeping {
            sweep.removed.insert(*entry);
            if sweep.removed.len() > REMOVED {
                self.sweeping = None;
            }
        }
    }
}

impl<T: Table> Driver<T> {
    pub(super) fn look(&mut self) {
        let now = self.now();
        self.schedule.next = now.saturating_add(PERIOD);
        if self.is_disarmed() {
            return;
        }
        if now >= self.schedule.looked.saturating_add(PERIOD) {
            self.schedule.looked = now;
            match self.look_at_rules() {
                Ok(None) => {}
                Ok(Some(what)) => return self.changed(what),
                Err(error) => return self.lose_for(&error),
            }
        }
        if !matches!(self.state, State::Synced) {
            return;
        }
        let looked = if self.schedule.sweeping.is_some() { self.sweep_on() } else { self.look_at_page() };
        if let Err(error) = looked {
            self.lose_for(&error);
        }
    }

    fn look_at_rules(&mut self) -> Result<Option<String>, TableError> {
        let switch = self.settings.switch.clone();
        let _turn = switch.turn();
        if switch.is_disarmed() {
            return Ok(None);
        }
        self.table.look()
    }

    fn look_at_page(&mut self) -> Result<(), TableError> {
        let page = self.written.page(PAGE, self.settings.clock.now());
        let there = if page.is_empty() { Vec::new() } else { self.table.has(&page)? };
        if there.contains(&false) {
            self.schedule.sweep = self.now();
        }
        if self.now() >= self.schedule.sweep {
            self.schedule.number += 1;
            self.table.list()?;
            self.schedule.sweeping = Some(Sweep {
                begun: self.now(),
                took: Duration::ZERO,
                change: self.written.change,
                times: [self.settings.clock.now(); 2],
                removed: HashSet::new(),
                found: BTreeMap::new(),
            });
            self.schedule.next = self.now();
        }
        Ok(())
    }

    /// The next part of a sweep.
    fn sweep_on(&mut self) -> Result<(), TableError> {
        let Some(mut sweep) = self.schedule.sweeping.take() else { return Ok(()) };
        let begun = self.now();
        let part = self.table.listed()?;
        let ended = part.is_none();
        let [from, before] = sweep.times;
        let to = self.settings.clock.now();
        sweep.times = [before, to];
        for held in part.into_iter().flatten() {
            match self.written.saw(&held.entry, self.schedule.number) {
                // It was written while the list was read.
                Some(times) if times.change > sweep.change => {}
                Some(times) => {
                    if let Some(difference) = judge(&times, &held, self.table.grain(), (from, to)) {
                        sweep.found.entry(difference).or_default().push(held.entry);
                    }
                }
                None if sweep.removed.contains(&held.entry) => {}
                None => sweep.found.entry(Difference::Extra).or_default().push(held.entry),
            }
        }
        sweep.took = sweep.took.saturating_add(self.now().saturating_sub(begun));
        if !ended {
            self.schedule.next = self.now().saturating_add(PART_PAUSE);
            self.schedule.sweeping = Some(sweep);
            return Ok(());
        }
        self.schedule.sweep = self.now().saturating_add(sweep.took.saturating_mul(SWEEP_SHARE).max(SWEEP_PAUSE));
        tracing::trace!(took = ?sweep.took, since = ?self.now().saturating_sub(sweep.begun), "{} was swept", self.table.name());
        self.judge_sweep(sweep)
    }

    fn judge_sweep(&mut self, mut sweep: Sweep) -> Result<(), TableError> {
        let now = self.settings.clock.now();
        for unseen in self.written.unseen(self.schedule.number, sweep.change, now).chunks(1024) {
            // The list may have missed it.
            let there = self.table.has(unseen)?;
            let now = self.settings.clock.now();
            let lacks = |(entry, there): (&Entry, &bool)| {
                let lives = self.written.get(entry).is_some_and(|times| times.earliest > now);
                (!there && lives).then_some(*entry)
            };
            let missing: Vec<Entry> = unseen.iter().zip(&there).filter_map(lacks).collect();
            if !missing.is_empty() {
                sweep.found.entry(Difference::Missing).or_default().extend(missing);
            }
        }
        // What was removed or written since it was judged is as it should be.
        for (difference, entries) in &mut sweep.found {
            entries.retain(|entry| match self.written.get(entry) {
                Some(times) => *difference != Difference::Extra && times.change <= sweep.change,
                None => *difference == Difference::Extra && !sweep.removed.contains(entry),
            });
        }
        sweep.found.retain(|_, entries| !entries.is_empty());
        let mended = self.mend(&sweep.found);
        let now = self.settings.clock.now();
        self.written.forget(self.table.grain(), now);
        mended?;
        let waning = self.written.waning(self.table.longest(), now);
        if waning.is_empty() { Ok(()) } else { self.write(&[], &waning) }
    }

    /// Makes the table as it should be again, or has the core do so, and says what was found.
    fn mend(&mut self, found: &BTreeMap<Difference, Vec<Entry>>) -> Result<(), TableError> {
        let lacking = found.get(&Difference::Missing).map_or(0, Vec::len);
        let (mut addresses, mut pairs): (Vec<IpAddr>, Vec<PairId>) = (Vec::new(), Vec::new());
        let (mut remove, mut put) = (Vec::new(), Vec::new());
        for (difference, entries) in found {
            for entry in entries {
                match (difference, entry) {
                    (Difference::Extra, _) => remove.push(*entry),
                    (Difference::Long, _) | (_, Entry::Cut(_)) => {
                        put.extend(self.written.get(entry).map(|times| (*entry, times.until)));
                    }
                    (_, Entry::Address(address)) if self.settings.rules.config.scope == Scope::Client => {
                        pairs.push((*address, Narrow::of_client(HOST)));
                    }
                    (_, Entry::Address(address)) => addresses.push(*address),
                    (_, Entry::Pair(pair)) => pairs.push(*pair),
                }
                if matches!(difference, Difference::Missing | Difference::Short) && !matches!(entry, Entry::Cut(_)) {
                    // The core opens it again, and nothing is believed of it until then.
                    self.written.remove(entry);
                }
            }
        }
        let mended = self.write(&remove, &put);
        if !addresses.is_empty() || !pairs.is_empty() {
            self.report(Event::Missing { enforcer: self.settings.id, addresses, pairs });
        }
        for (difference, entries) in found {
            let what = difference.words(entries.len(), self.table.name());
            let first: Vec<&Entry> = entries.iter().take(NAMED).collect();
            tracing::warn!(?first, "{what}: repaired");
            self.report_repaired(difference.label(), entries.len(), what);
        }
        mended?;
        if lacking > LOSS {
            self.lose(Difference::Missing.words(lacking, self.table.name()), self.now());
        }
        Ok(())
    }
}
