//! Prefixes of which each is waited for by itself: until the router sends it back, or forwards to it.
//!
//! Every announced prefix gets a number; a generation is confirmed once no prefix with its number or a lower one is waited
//! for. What takes too long is given up, so that one bad prefix doesn't hold all others for ever.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use ipnet::IpNet;

/// Least times between two probes of one address: at first, and later.
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
/// A prefix is given up this long after one that was sent later was answered: routers work in order, more or less.
const OVERTAKEN: Duration = Duration::from_millis(250);

#[derive(Clone, Copy, Debug)]
struct Item {
    net: IpNet,
    since: Instant,
    /// Given up then.
    until: Instant,
    /// Only word that is newer than this counts.
    after: u64,
    probe: Instant,
    tries: usize,
}

/// See the module.
#[derive(Debug)]
pub struct Awaited {
    next: u64,
    items: BTreeMap<u64, Item>,
    by_net: HashMap<IpNet, u64>,
    probes: BTreeSet<(Instant, u64)>,
    ends: BTreeSet<(Instant, u64)>,
    /// Whether later answers shorten the wait of earlier prefixes.
    ordered: bool,
}

/// What was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GivenUp {
    /// The prefix.
    pub net: IpNet,
    /// Its number.
    pub number: u64,
    /// Waited so long.
    pub waited: Duration,
}

impl Awaited {
    /// Nothing is waited for; `ordered`: answers come about in the order of the announcements.
    #[must_use]
    pub fn new(ordered: bool) -> Self {
        Self {
            next: 1,
            items: BTreeMap::new(),
            by_net: HashMap::new(),
            probes: BTreeSet::new(),
            ends: BTreeSet::new(),
            ordered,
        }
    }

    /// A prefix was announced: only word newer than `after` counts, and it is given up after `patience`.
    pub fn announce(&mut self, net: IpNet, after: u64, patience: Duration, now: Instant) {
        self.forget(net);
        let number = self.next;
        self.next += 1;
        let item = Item { net, since: now, until: now + patience, after, probe: now, tries: 0 };
        self.items.insert(number, item);
        self.by_net.insert(net, number);
        self.probes.insert((item.probe, number));
        self.ends.insert((item.until, number));
    }

    /// A prefix was withdrawn, or there is no need to wait for it.
    pub fn forget(&mut self, net: IpNet) {
        if let Some(number) = self.by_net.get(&net).copied() {
            self.remove(number);
        }
    }

    fn remove(&mut self, number: u64) -> Option<Item> {
        let item = self.items.remove(&number)?;
        self.by_net.remove(&item.net);
        self.probes.remove(&(item.probe, number));
        self.ends.remove(&(item.until, number));
        Some(item)
    }

    /// Word came that a prefix is in force; for how long it was waited for.
    pub fn arrived(&mut self, net: IpNet, word: u64, now: Instant) -> Option<Duration> {
        let number = self.by_net.get(&net).copied()?;
        if self.items.get(&number)?.after >= word {
            return None;
        }
        let item = self.remove(number)?;
        if self.ordered {
            let sooner: Vec<u64> = self.items.range(..number).map(|(number, _)| *number).take(AT_ONCE).collect();
            for number in sooner {
                if let Some(earlier) = self.items.get_mut(&number)
                    && earlier.until > now + OVERTAKEN
                {
                    self.ends.remove(&(earlier.until, number));
                    earlier.until = now + OVERTAKEN;
                    self.ends.insert((earlier.until, number));
                }
            }
        }
        Some(now.saturating_duration_since(item.since))
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

    /// How many are waited for.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Keeps only the newest `count`.
    pub fn keep_newest(&mut self, count: usize) {
        while self.items.len() > count {
            let Some(first) = self.items.first_key_value().map(|(number, _)| *number) else { return };
            self.remove(first);
        }
    }

    /// The prefixes to probe now.
    pub fn probes(&mut self, now: Instant) -> Vec<IpNet> {
        let mut due = Vec::new();
        while due.len() < AT_ONCE
            && let Some((at, number)) = self.probes.first().copied().filter(|(at, _)| *at <= now)
        {
            self.probes.remove(&(at, number));
            let Some(item) = self.items.get_mut(&number) else { continue };
            let step = STEPS.get(item.tries).or(STEPS.last()).copied().unwrap_or_default();
            item.tries += 1;
            item.probe = now + step;
            self.probes.insert((item.probe, number));
            due.push(item.net);
        }
        due
    }

    /// When [`Self::probes`] has something.
    #[must_use]
    pub fn next_probe(&self) -> Option<Instant> {
        self.probes.first().map(|(at, _)| *at)
    }

    /// One that has been waited for too long.
    pub fn give_up(&mut self, now: Instant) -> Option<GivenUp> {
        let (_, number) = self.ends.first().copied().filter(|(at, _)| *at <= now)?;
        let item = self.remove(number)?;
        Some(GivenUp { net: item.net, number, waited: now.saturating_duration_since(item.since) })
    }

    /// When [`Self::give_up`] has something.
    #[must_use]
    pub fn next_end(&self) -> Option<Instant> {
        self.ends.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn host(last: u8) -> IpNet {
        IpNet::from(std::net::IpAddr::from([203, 0, 113, last]))
    }

    #[test]
    fn a_number_is_passed_when_all_before_it_arrived() {
        let now = Instant::now();
        let mut awaited = Awaited::new(false);
        for last in 1..=3 {
            awaited.announce(host(last), 0, 800 * MS, now);
        }
        assert_eq!(awaited.newest(), 3);
        assert_eq!(awaited.arrived(host(2), 1, now + MS), Some(MS));
        assert_eq!(awaited.arrived(host(2), 1, now + MS), None);
        assert!(!awaited.passed(1));
        awaited.forget(host(1));
        assert!(awaited.passed(2) && !awaited.passed(3));
        awaited.arrived(host(3), 1, now);
        assert!(awaited.passed(3) && awaited.is_empty());
        assert_eq!((awaited.next_probe(), awaited.next_end()), (None, None));
    }

    #[test]
    fn old_word_does_not_count() {
        let now = Instant::now();
        let mut awaited = Awaited::new(false);
        awaited.announce(host(1), 7, 800 * MS, now);
        assert_eq!(awaited.arrived(host(1), 7, now), None);
        assert!(awaited.arrived(host(1), 8, now).is_some());
    }

    #[test]
    fn probes_repeat_and_end_with_giving_up() {
        let start = Instant::now();
        let mut awaited = Awaited::new(true);
        awaited.announce(host(1), 0, 800 * MS, start);
        let mut now = start;
        let mut sent = 0;
        while let Some(at) = awaited.next_probe() {
            now = at.max(now);
            if let Some(lost) = awaited.give_up(now) {
                assert_eq!(lost, GivenUp { net: host(1), number: 1, waited: lost.waited });
                assert!(lost.waited >= 800 * MS);
                break;
            }
            sent += awaited.probes(now).len();
        }
        assert!((75..100).contains(&sent), "{sent}");
        assert!(awaited.passed(1));
    }

    #[test]
    fn an_overtaken_prefix_is_given_up_sooner() {
        let start = Instant::now();
        let mut awaited = Awaited::new(true);
        awaited.announce(host(1), 0, 800 * MS, start);
        awaited.announce(host(2), 0, 800 * MS, start + 10 * MS);
        awaited.arrived(host(2), 1, start + 60 * MS);
        assert_eq!(awaited.next_end(), Some(start + 60 * MS + OVERTAKEN));
        assert_eq!(awaited.give_up(start + 300 * MS), None);
        assert!(awaited.give_up(start + 310 * MS).is_some());
    }

    #[test]
    fn of_a_replay_the_newest_are_kept() {
        let now = Instant::now();
        let mut awaited = Awaited::new(true);
        for last in 0..200 {
            awaited.announce(host(last), 0, 800 * MS, now);
        }
        awaited.keep_newest(3);
        assert_eq!(awaited.probes(now), [host(197), host(198), host(199)]);
        assert!(awaited.passed(197));
    }
}
