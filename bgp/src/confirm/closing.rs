//! Prefixes that were withdrawn and of which the router's word is still to come.
//!
//! Word on an announcement may be late: the prefix was withdrawn and announced anew meanwhile, and the old word would pass for one
//! on the new announcement. An observer's word therefore counts only when as many withdrawals were seen as were sent; what the
//! data path shows counts only some time after the withdrawal, when the old route is surely gone.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use ipnet::IpNet;

/// A probe that is answered sooner after a withdrawal may have met the old route: FRR takes 61 ms to remove one, and more under load.
pub const OLD_ROUTE: Duration = Duration::from_millis(500);
/// A withdrawal of which the observer heard nothing is forgotten after this, unless the observer still has the prefix.
const FORGOTTEN: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug)]
struct Close {
    /// The newest withdrawal.
    at: Instant,
    /// Withdrawals that the observer hasn't heard of.
    owed: u32,
    /// Older word of the observer is on earlier ones.
    after: u64,
    end: Instant,
    overdue: bool,
}

/// See the module. At most one entry for a prefix, and only for those that were withdrawn lately or that the router doesn't let go.
#[derive(Debug, Default)]
pub struct Closing {
    by_net: HashMap<IpNet, Close>,
    ends: BTreeSet<(Instant, IpNet)>,
    overdue: usize,
    last_overdue: Option<IpNet>,
}

impl Closing {
    /// A prefix was withdrawn; `word` is the observer's newest, `None` without an observer.
    pub fn withdrawn(&mut self, net: IpNet, word: Option<u64>, now: Instant) {
        let before = self.remove(net);
        let end = now + if word.is_some() { FORGOTTEN } else { OLD_ROUTE };
        let close = Close {
            at: now,
            owed: word.map_or(0, |_| before.map_or(0, |before| before.owed) + 1),
            after: before.map_or(word.unwrap_or_default(), |before| before.after),
            end,
            overdue: false,
        };
        self.by_net.insert(net, close);
        self.ends.insert((end, net));
    }

    fn remove(&mut self, net: IpNet) -> Option<Close> {
        let close = self.by_net.remove(&net)?;
        self.ends.remove(&(close.end, net));
        self.overdue -= usize::from(close.overdue);
        Some(close)
    }

    /// The observer heard of the prefix's withdrawal; from the newest withdrawal to this, when it was the last that was owed.
    pub fn seen(&mut self, net: IpNet, word: u64, now: Instant) -> Option<Duration> {
        let close = self.by_net.get_mut(&net).filter(|close| close.after < word)?;
        close.owed = close.owed.saturating_sub(1);
        if close.owed > 0 {
            return None;
        }
        self.remove(net).map(|close| now.saturating_duration_since(close.at))
    }

    /// Whether word of the observer on this prefix may be on an announcement before its newest withdrawal.
    #[must_use]
    pub fn owes(&self, net: IpNet) -> bool {
        self.by_net.get(&net).is_some_and(|close| close.owed > 0)
    }

    /// Before this the data path may show the old route.
    #[must_use]
    pub fn old_until(&self, net: IpNet) -> Option<Instant> {
        self.by_net.get(&net).map(|close| close.at + OLD_ROUTE)
    }

    /// What is in force now is the new announcement: nothing is owed any more.
    pub fn settled(&mut self, net: IpNet) {
        self.remove(net);
    }

    /// Forgets what is old; `kept`: the observer has the prefix although nothing was announced since.
    pub fn expire(&mut self, now: Instant, kept: impl Fn(IpNet) -> bool) {
        while let Some((at, net)) = self.ends.first().copied().filter(|(at, _)| *at <= now) {
            self.ends.remove(&(at, net));
            let Some(close) = self.by_net.get_mut(&net) else { continue };
            if close.owed > 0 && kept(net) {
                close.end = now + FORGOTTEN;
                self.overdue += usize::from(!close.overdue);
                close.overdue = true;
                self.last_overdue = Some(net);
                self.ends.insert((close.end, net));
            } else {
                self.overdue -= usize::from(close.overdue);
                self.by_net.remove(&net);
            }
        }
    }

    /// When [`Self::expire`] has something to do.
    #[must_use]
    pub fn next_end(&self) -> Option<Instant> {
        self.ends.first().map(|(at, _)| *at)
    }

    /// Withdrawals that an observer should hear of and hasn't.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_net.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_net.is_empty()
    }

    /// Prefixes that the router still sends long after their withdrawal, and one of them.
    #[must_use]
    pub fn overdue(&self) -> Option<(usize, IpNet)> {
        self.last_overdue.filter(|_| self.overdue > 0).map(|net| (self.overdue, net))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn host() -> IpNet {
        "203.0.113.1/32".parse().unwrap()
    }

    #[test]
    fn as_many_withdrawals_must_be_seen_as_were_sent() {
        let start = Instant::now();
        let mut closing = Closing::default();
        closing.withdrawn(host(), Some(5), start);
        assert!(closing.owes(host()));
        assert_eq!(closing.seen(host(), 5, start), None, "word from before");
        closing.withdrawn(host(), Some(9), start + MS);
        assert_eq!(closing.seen(host(), 6, start + 2 * MS), None, "one more is owed");
        assert!(closing.owes(host()));
        assert_eq!(closing.seen(host(), 8, start + 4 * MS), Some(3 * MS));
        assert!(closing.is_empty() && closing.next_end().is_none());
    }

    #[test]
    fn what_the_router_keeps_is_said_and_what_it_never_had_is_forgotten() {
        let start = Instant::now();
        let other: IpNet = "203.0.113.2/32".parse().unwrap();
        let mut closing = Closing::default();
        closing.withdrawn(host(), Some(5), start);
        closing.withdrawn(other, Some(5), start);
        closing.expire(start + FORGOTTEN, |net| net == host());
        assert_eq!((closing.overdue(), closing.len()), (Some((1, host())), 1));
        closing.expire(start + FORGOTTEN * 2, |_| true);
        assert_eq!(closing.overdue(), Some((1, host())), "once");
        assert!(closing.seen(host(), 6, start + FORGOTTEN * 2).is_some());
        assert_eq!((closing.overdue(), closing.len()), (None, 0));
    }

    #[test]
    fn without_an_observer_only_time_tells() {
        let start = Instant::now();
        let mut closing = Closing::default();
        closing.withdrawn(host(), None, start);
        assert!(!closing.owes(host()));
        assert_eq!(closing.old_until(host()), Some(start + OLD_ROUTE));
        assert_eq!(closing.next_end(), Some(start + OLD_ROUTE));
        closing.expire(start + OLD_ROUTE, |_| true);
        assert!(closing.is_empty());
    }
}
