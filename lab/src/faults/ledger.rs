//! What clients were told, and what may be open. Pure: moments come from outside.
//!
//! Each bound is on the side that can't accuse wrongly: open for certain from the answer until its TTL has passed since the question;
//! closed for certain once the longest lease that any question so far can have opened is over, and the slack.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// A question's lease begins within this after it was sent.
const DELIVERY: Duration = Duration::from_secs(3);
/// After the guard is back a router may keep for so long what ended meanwhile.
const ROUTES_SETTLE: Duration = Duration::from_secs(8);

/// What the guard's configuration promises.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// The longest of `lease.min` and the names' TTL, and `lease.grace`.
    pub longest: Duration,
    /// `bgp.linger`; `None` where the kernel closes by itself.
    pub linger: Option<Duration>,
    /// How much later than its end an address may be open.
    pub slack: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Promise {
    /// A client has the answer since.
    told: Option<Instant>,
    /// Open at least until then.
    until: Instant,
    /// Closed, but for linger and slack, from then on.
    ends: Instant,
}

/// Everything that was promised at one place.
#[derive(Debug)]
pub struct Ledger {
    terms: Terms,
    promises: HashMap<IpAddr, Promise>,
    /// Already counted as lost, or as open too long.
    counted: HashSet<(IpAddr, bool)>,
    /// Since when the guard works; `None` while it doesn't.
    up: Option<Instant>,
    /// When it was last kept from working.
    down: Instant,
}

impl Ledger {
    /// Nobody was told anything yet.
    #[must_use]
    pub fn new(terms: Terms, now: Instant) -> Self {
        Self { terms, promises: HashMap::new(), counted: HashSet::new(), up: Some(now), down: now }
    }

    fn entry(&mut self, address: IpAddr, ends: Instant) -> &mut Promise {
        let promise = self.promises.entry(address).or_insert(Promise { told: None, until: ends, ends });
        promise.ends = promise.ends.max(ends);
        promise
    }

    /// A question for this address is about to be sent.
    pub fn asked(&mut self, address: IpAddr, now: Instant) {
        let ends = now + DELIVERY + self.terms.longest;
        self.entry(address, ends);
    }

    /// A client has an answer with this TTL.
    pub fn told(&mut self, address: IpAddr, ttl: Duration, asked: Instant, seen: Instant) {
        let ends = seen + self.terms.longest.max(ttl);
        let promise = self.entry(address, ends);
        let until = asked + ttl;
        match promise.told {
            Some(_) if promise.until >= seen => promise.until = promise.until.max(until),
            _ => {
                promise.told = Some(seen);
                promise.until = until;
                self.counted.remove(&(address, false));
            }
        }
    }

    /// The guard is about to be kept from working.
    pub fn down(&mut self, now: Instant) {
        self.up = None;
        self.down = now;
    }

    /// It goes on where it was stopped: its socket kept what was asked meanwhile, also by who gave up.
    pub fn resumed(&mut self, now: Instant) {
        self.up = Some(now);
        // The last lease before ended earlier than one that a question since then can have begun.
        let since = self.down + self.terms.longest;
        let ends = now + DELIVERY + self.terms.longest;
        self.promises
            .values_mut()
            .filter(|promise| promise.ends >= since)
            .for_each(|promise| promise.ends = ends.max(promise.ends));
    }

    /// It works again, started anew: what was asked meanwhile is gone.
    pub fn up(&mut self, now: Instant) {
        self.up = Some(now);
    }

    /// Addresses that are open for at least so long from now on.
    #[must_use]
    pub fn open_for(&self, now: Instant, least: Duration) -> Vec<IpAddr> {
        let open = |promise: &Promise| promise.told.is_some_and(|told| told <= now) && promise.until >= now + least;
        self.promises.iter().filter(|(_, promise)| open(promise)).map(|(address, _)| *address).collect()
    }

    /// Of what was open in one look: what is missing, and what is open that may not be. Each is told once.
    pub fn compare(&mut self, open: &HashSet<IpAddr>, begun: Instant, read: Instant) -> (Vec<IpAddr>, Vec<IpAddr>) {
        let promised = |promise: &Promise| promise.told.is_some_and(|told| told <= begun) && promise.until >= read;
        let missing = self.promises.iter().filter(|(address, promise)| promised(promise) && !open.contains(address));
        let missing: Vec<IpAddr> = missing.map(|(address, _)| *address).collect();
        let stray: Vec<IpAddr> = open.iter().copied().filter(|address| self.is_closed(*address, begun)).collect();
        let missing = missing.into_iter().filter(|address| self.counted.insert((*address, false))).collect();
        let stray = stray.into_iter().filter(|address| self.counted.insert((*address, true))).collect();
        (missing, stray)
    }

    /// Whether an address must be open, by what was told.
    #[must_use]
    pub fn is_promised(&self, address: IpAddr, now: Instant) -> bool {
        self.promises.get(&address).is_some_and(|promise| promise.told.is_some() && promise.until >= now)
    }

    /// Whether an address must be closed.
    #[must_use]
    pub fn is_closed(&self, address: IpAddr, now: Instant) -> bool {
        let Some(promise) = self.promises.get(&address) else { return true };
        match (self.terms.linger, self.up) {
            (None, _) => now > promise.ends + self.terms.slack,
            // Routers close when the guard says so: not while it is away.
            (Some(_), None) => false,
            (Some(linger), Some(up)) => now > (promise.ends + linger).max(up + ROUTES_SETTLE) + self.terms.slack,
        }
    }

    /// Forgets what is long over, so that it doesn't grow; what is open in spite of that is a stray all the same.
    pub fn forget(&mut self, now: Instant) {
        let over = |promise: &Promise| promise.ends + Duration::from_secs(120) < now;
        self.promises.retain(|_, promise| !over(promise));
        let promises = &self.promises;
        self.counted.retain(|(address, _)| promises.contains_key(address));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 1));

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    fn ledger(linger: Option<Duration>, now: Instant) -> Ledger {
        Ledger::new(Terms { longest: seconds(11), linger, slack: seconds(2) }, now)
    }

    #[test]
    fn what_was_told_must_be_open_until_its_ttl_and_closed_behind_the_slack() {
        let now = Instant::now();
        let mut ledger = ledger(None, now);
        let (none, one) = (HashSet::new(), HashSet::from([ADDRESS]));
        assert_eq!(ledger.compare(&one, now, now), (vec![], vec![ADDRESS]), "nobody asked");
        ledger.counted.clear();
        ledger.asked(ADDRESS, now);
        assert_eq!(ledger.compare(&none, now, now), (vec![], vec![]), "nobody was told");
        ledger.told(ADDRESS, seconds(10), now, now + seconds(1));
        let at = |after| now + seconds(after);
        assert_eq!(ledger.compare(&none, at(0), at(2)), (vec![], vec![]), "the look began before the answer");
        assert_eq!(ledger.compare(&none, at(2), at(11)), (vec![], vec![]), "it ended meanwhile");
        assert_eq!(ledger.compare(&none, at(2), at(9)), (vec![ADDRESS], vec![]));
        assert_eq!(ledger.compare(&none, at(2), at(9)), (vec![], vec![]), "told once");
        assert_eq!(ledger.compare(&one, at(16), at(16)), (vec![], vec![]));
        assert_eq!(ledger.compare(&one, at(17), at(17)), (vec![], vec![ADDRESS]));
    }

    #[test]
    fn what_waited_in_the_socket_of_a_stopped_guard_may_be_leased_when_it_goes_on() {
        let now = Instant::now();
        let mut ledger = ledger(None, now);
        ledger.down(now);
        ledger.asked(ADDRESS, now + seconds(1));
        assert!(ledger.is_closed(ADDRESS, now + seconds(60)));
        ledger.resumed(now + seconds(60));
        assert!(!ledger.is_closed(ADDRESS, now + seconds(75)));
        assert!(ledger.is_closed(ADDRESS, now + seconds(77)));
    }

    #[test]
    fn routers_close_only_while_the_guard_works() {
        let now = Instant::now();
        let mut ledger = ledger(Some(seconds(3)), now);
        ledger.asked(ADDRESS, now);
        ledger.down(now);
        assert!(!ledger.is_closed(ADDRESS, now + seconds(600)));
        ledger.up(now + seconds(600));
        assert!(!ledger.is_closed(ADDRESS, now + seconds(609)));
        assert!(ledger.is_closed(ADDRESS, now + seconds(611)));
    }
}
