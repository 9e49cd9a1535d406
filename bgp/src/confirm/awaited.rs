//! Prefixes of which each is waited for by itself: until the router sends it back, or forwards to it.
//!
//! Every announced prefix gets a number; a generation is confirmed as a whole once no prefix with its number or a lower one is waited
//! for. What is new is probed quickly and given up after a while. What a session started with (*replayed*) is probed at a bounded rate and never
//! given up: it may have been in force for long, and stays announced; whoever waits for one of it has it moved to the front.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::table::classes::Extra;

/// Least times between two probes of one new address: at first, and later.
const STEPS: [Duration; 6] = [
    Duration::from_millis(1),
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(4),
    Duration::from_millis(5),
    Duration::from_millis(10),
];
/// Most probes due at once; the others are a millisecond later.
const AT_ONCE: usize = 64;
/// Between two probes of replayed addresses, all of them together: Linux answers 1000 a second in all.
const SLOW: Duration = Duration::from_millis(2);
/// The same when those that are left were probed often in vain.
const SLOWEST: Duration = Duration::from_millis(250);
/// Most probes of replayed addresses at once, after a pause.
const SLOW_AT_ONCE: u32 = 8;
/// A prefix of which the observer's word can't be told from word on an earlier announcement counts when the word stays the same for so long.
pub const QUIET: Duration = Duration::from_secs(2);

/// How a prefix was announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced {
    /// The table's generation then.
    pub generation: u64,
    /// Only word that is newer than this counts.
    pub after: u64,
    /// Nothing counts before this.
    pub not_before: Instant,
    /// Given up after this; a replayed prefix is not, see `quiet`.
    pub patience: Duration,
    /// Part of the table that a session starts with.
    pub replayed: bool,
    /// The observer has it, from an earlier announcement, or may yet hear of that: what it has when there was no word for [`QUIET`] counts.
    pub quiet: bool,
    /// It took the place of an announcement that bore something else: word that doesn't show this may be on that one.
    pub shows: Option<Arc<Extra>>,
    /// It bears this beside what every route bears: another guard's path that doesn't is none for it.
    pub wants: Option<Arc<Extra>>,
}

impl Announced {
    /// At this generation, and looked at from now on.
    #[must_use]
    pub fn at(generation: u64, now: Instant) -> Self {
        let patience = Duration::ZERO;
        Self {
            generation,
            after: 0,
            not_before: now,
            patience,
            replayed: false,
            quiet: false,
            shows: None,
            wants: None,
        }
    }
}

#[derive(Clone, Debug)]
struct Item {
    net: IpNet,
    since: Instant,
    announced: Announced,
    /// Looked at then: given up, or taken for what the observer has.
    until: Option<Instant>,
    /// The next probe; `None` for one that is probed slowly.
    probe: Option<Instant>,
    /// Probed slowly from then on.
    hurry: Option<Instant>,
    tries: u32,
}

/// See the module.
#[derive(Debug)]
pub struct Awaited {
    next: u64,
    items: BTreeMap<u64, Item>,
    by_net: HashMap<IpNet, u64>,
    probes: BTreeSet<(Instant, u64)>,
    slow: BTreeSet<(u32, u64)>,
    /// The next slow probe.
    slow_at: Option<Instant>,
    ends: BTreeSet<(Instant, u64)>,
    replayed: usize,
}

/// What is not waited for any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Prefix that is not waited for any more.
    pub net: IpNet,
    /// The table's generation when it was announced.
    pub generation: u64,
    /// Waited so long.
    pub waited: Duration,
    /// Part of the table that a session started with.
    pub replayed: bool,
    /// Whether it is in force.
    pub held: bool,
}

impl Default for Awaited {
    fn default() -> Self {
        Self::new()
    }
}

impl Awaited {
    /// Nothing is waited for.
    #[must_use]
    pub fn new() -> Self {
        Self {
            next: 1,
            items: BTreeMap::new(),
            by_net: HashMap::new(),
            probes: BTreeSet::new(),
            slow: BTreeSet::new(),
            slow_at: None,
            ends: BTreeSet::new(),
            replayed: 0,
        }
    }

    /// A prefix was announced.
    pub fn announce(&mut self, net: IpNet, announced: Announced, now: Instant) {
        self.forget(net);
        let number = self.next;
        self.next += 1;
        self.put(number, net, announced, now);
    }

    /// The same was announced once more. Generations that waited for it go on waiting.
    pub fn announce_again(&mut self, net: IpNet, announced: Announced, now: Instant) {
        match self.by_net.get(&net).copied() {
            Some(number) => {
                self.remove(number);
                self.put(number, net, announced, now);
            }
            None => self.announce(net, announced, now),
        }
    }

    fn put(&mut self, number: u64, net: IpNet, announced: Announced, now: Instant) {
        let &Announced { replayed, quiet, patience, not_before, .. } = &announced;
        let until = match (replayed, quiet) {
            (false, false) => Some(now + patience),
            (_, true) => Some(now + QUIET),
            (true, false) => None,
        };
        let probe = (!replayed).then_some(now.max(not_before));
        let item = Item { net, since: now, announced, until, probe, hurry: None, tries: 0 };
        match probe {
            Some(at) => drop(self.probes.insert((at, number))),
            None => drop(self.slow.insert((0, number))),
        }
        if replayed {
            self.replayed += 1;
            self.slow_at = self.slow_at.max(Some(not_before)).or(Some(now));
        }
        self.ends.extend(until.map(|until| (until, number)));
        self.items.insert(number, item);
        self.by_net.insert(net, number);
    }

    /// A prefix was withdrawn, or there is no need to wait for it. Returns whether it was waited for.
    pub fn forget(&mut self, net: IpNet) -> bool {
        self.by_net.get(&net).copied().and_then(|number| self.remove(number)).is_some()
    }

    fn remove(&mut self, number: u64) -> Option<Item> {
        let item = self.items.remove(&number)?;
        self.by_net.remove(&item.net);
        match item.probe {
            Some(at) => self.probes.remove(&(at, number)),
            None => self.slow.remove(&(item.tries, number)),
        };
        if let Some(until) = item.until {
            self.ends.remove(&(until, number));
        }
        self.replayed -= usize::from(item.announced.replayed);
        Some(item)
    }

    /// Whether this prefix is waited for.
    #[must_use]
    pub fn has(&self, net: IpNet) -> bool {
        self.by_net.contains_key(&net)
    }

    /// Whether word on this prefix with these communities can only be on its newest announcement, as far as they tell.
    #[must_use]
    pub fn shown(&self, net: IpNet, bears: &Extra) -> bool {
        let item = self.by_net.get(&net).and_then(|number| self.items.get(number));
        item.and_then(|item| item.announced.shows.as_ref()).is_none_or(|shows| bears.covers(shows))
    }

    /// Whether another guard's path with these communities is as good as the one that is waited for.
    #[must_use]
    pub fn wanted(&self, net: IpNet, bears: &Extra) -> bool {
        let item = self.by_net.get(&net).and_then(|number| self.items.get(number));
        item.and_then(|item| item.announced.wants.as_ref()).is_none_or(|wants| bears.covers(wants))
    }

    /// Word came that a prefix is in force.
    pub fn arrived(&mut self, net: IpNet, word: u64, now: Instant) -> Option<Ended> {
        let number = self.by_net.get(&net).copied()?;
        let announced = &self.items.get(&number)?.announced;
        if announced.after >= word || now < announced.not_before {
            return None;
        }
        self.remove(number).map(|item| ended(&item, true, now))
    }

    /// Word came that may be on an earlier announcement of the prefix: what the observer has [`QUIET`] after the last such word counts.
    pub fn doubtful(&mut self, net: IpNet, now: Instant) {
        let Some((number, item)) =
            self.by_net.get(&net).and_then(|number| Some((*number, self.items.get_mut(number)?)))
        else {
            return;
        };
        if let Some(before) = item.until.replace(now + QUIET) {
            self.ends.remove(&(before, number));
        }
        self.ends.insert((now + QUIET, number));
    }

    /// Somebody waits for this prefix: until then it is probed quickly. Returns whether it is waited for here.
    pub fn hurry(&mut self, net: IpNet, until: Instant, now: Instant) -> bool {
        let Some((number, item)) =
            self.by_net.get(&net).and_then(|number| Some((*number, self.items.get_mut(number)?)))
        else {
            return false;
        };
        if !item.announced.replayed {
            return true;
        }
        item.hurry = item.hurry.max(Some(until));
        if item.probe.is_none() {
            self.slow.remove(&(item.tries, number));
            let at = now.max(item.announced.not_before);
            item.probe = Some(at);
            self.probes.insert((at, number));
        }
        true
    }

    /// The number of the newest prefix; zero before the first.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.next - 1
    }

    /// Whether nothing up to this number is waited for.
    #[must_use]
    pub fn passed(&self, number: u64) -> bool {
        self.items.first_key_value().is_none_or(|(first, _)| *first > number)
    }

    /// How many are waited for; of them those that a session started with.
    #[must_use]
    pub fn len(&self) -> (usize, usize) {
        (self.items.len(), self.replayed)
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The prefixes to probe now.
    pub fn probes(&mut self, now: Instant) -> Vec<IpNet> {
        let mut due = Vec::new();
        while due.len() < AT_ONCE
            && let Some((at, number)) = self.probes.first().copied().filter(|(at, _)| *at <= now)
        {
            self.probes.remove(&(at, number));
            let Some(item) = self.items.get_mut(&number) else { continue };
            if item.hurry.is_some_and(|until| until <= now) {
                item.hurry = None;
                item.probe = None;
                self.slow.insert((item.tries, number));
                continue;
            }
            let step = STEPS.get(usize::try_from(item.tries).unwrap_or(usize::MAX));
            let next = now + step.or(STEPS.last()).copied().unwrap_or_default();
            item.tries += 1;
            item.probe = Some(next);
            self.probes.insert((next, number));
            due.push(item.net);
        }
        let mut budget = SLOW_AT_ONCE;
        while let Some(at) = self.slow_at.filter(|at| *at <= now)
            && let Some((tries, number)) = self.slow.pop_first()
        {
            let Some(item) = self.items.get_mut(&number) else { continue };
            item.tries = tries.saturating_add(1);
            self.slow.insert((item.tries, number));
            due.push(item.net);
            let step = (SLOW * 2u32.saturating_pow(tries.min(16))).min(SLOWEST);
            budget -= 1;
            // A pause is made up for only a little.
            self.slow_at = Some(if budget == 0 { now + step } else { at + step });
            if budget == 0 {
                break;
            }
        }
        due
    }

    /// When [`Self::probes`] has something.
    #[must_use]
    pub fn next_probe(&self) -> Option<Instant> {
        let slow = self.slow_at.filter(|_| !self.slow.is_empty());
        self.probes.first().map(|(at, _)| *at).into_iter().chain(slow).min()
    }

    /// One that has been waited for too long; `holds`: the observer has it.
    pub fn give_up(&mut self, now: Instant, holds: impl Fn(IpNet) -> bool) -> Option<Ended> {
        while let Some((at, number)) = self.ends.first().copied().filter(|(at, _)| *at <= now) {
            let Some(item) = self.items.get_mut(&number) else {
                self.ends.remove(&(at, number));
                continue;
            };
            let held = holds(item.net);
            let last = item.since + item.announced.patience;
            if !held && (item.announced.replayed || now < last) {
                item.until = (!item.announced.replayed).then_some(last);
                self.ends.remove(&(at, number));
                self.ends.extend(item.until.map(|until| (until, number)));
                continue;
            }
            return self.remove(number).map(|item| ended(&item, held, now));
        }
        None
    }

    /// When [`Self::give_up`] has something.
    #[must_use]
    pub fn next_end(&self) -> Option<Instant> {
        self.ends.first().map(|(at, _)| *at)
    }
}

fn ended(item: &Item, held: bool, now: Instant) -> Ended {
    Ended {
        net: item.net,
        generation: item.announced.generation,
        waited: now.saturating_duration_since(item.since),
        replayed: item.announced.replayed,
        held,
    }
}

#[cfg(test)]
mod tests;
