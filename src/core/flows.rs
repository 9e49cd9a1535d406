//! Addresses that flows were seen to, and routes that stay for them longer than their lease and its linger.
//!
//! ```text
//!   flow seen --> remembered, of a leased address alone
//!   lease, linger end --> the route stays, as long as flows are seen and `flows.max` behind the lease has not passed
//! ```
//!
//! A flow opens nothing: what is not in the lease table is not remembered, and what was revoked or forbidden is gone from it. The lease itself ends in
//! its time. Routes that stay count against the same budgets as all others; at most half of what fits may be such, and none of an exporter, a client
//! or a domain more than its share of that.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::moment::Moment;
use super::share::{Holder, Shares};

/// How many intervals of its exporter a flow counts for after it was seen.
pub const INTERVALS: u32 = 3;

/// Somebody sees flows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowsSeen {
    /// Who sees them.
    pub source: IpAddr,
    /// How often it says so of a flow that lives.
    pub interval: Duration,
    /// Both ends of each, whichever of them is leased.
    pub ends: Vec<(IpAddr, IpAddr)>,
}

/// What is remembered. No larger than the lease table.
#[derive(Debug, Default)]
pub struct Flows {
    max: Duration,
    seen: BTreeMap<IpAddr, Seen>,
    held: usize,
    shares: Shares,
}

#[derive(Debug)]
struct Seen {
    until: Moment,
    source: IpAddr,
    /// In whose share the route stays for the flow alone.
    holds: Option<[Holder; 3]>,
}

impl Flows {
    /// Routes stay at most so long behind their lease; with zero none stays.
    pub fn limit(&mut self, max: Duration) {
        self.max = max;
    }

    /// How long at most.
    #[must_use]
    pub fn max(&self) -> Duration {
        self.max
    }

    /// A flow to this leased address lives until then, as far as is known.
    pub fn see(&mut self, address: IpAddr, source: IpAddr, until: Moment) {
        if self.max.is_zero() {
            return;
        }
        let seen = self.seen.entry(address).or_insert(Seen { until, source, holds: None });
        if until >= seen.until {
            (seen.until, seen.source) = (until, source);
        }
    }

    /// Until when the route of a lease that ended, or ends, at `ends` stays for flows.
    #[must_use]
    pub fn until(&self, address: IpAddr, ends: Moment) -> Option<Moment> {
        Some(self.seen.get(&address)?.until.min(ends.plus(self.max)))
    }

    /// Whether a route stays for flows alone.
    #[must_use]
    pub fn holds(&self, address: IpAddr) -> bool {
        self.seen.get(&address).is_some_and(|seen| seen.holds.is_some())
    }

    /// The route stays for flows alone from now on, within the share of those who opened the lease; `most` is room for so many. Returns whether it may.
    pub fn hold(&mut self, address: IpAddr, [client, domain]: [Holder; 2], most: usize) -> bool {
        let Some(seen) = self.seen.get_mut(&address) else { return false };
        if seen.holds.is_some() {
            return true;
        }
        let Some(free) = most.checked_sub(self.held).filter(|free| *free > 0) else { return false };
        let holders = [Holder::of(&("flows of", seen.source)), client, domain];
        if !holders.iter().all(|holder| self.shares.may_take(*holder, 1, free)) {
            return false;
        }
        holders.into_iter().for_each(|holder| self.shares.add(holder));
        seen.holds = Some(holders);
        self.held = self.held.saturating_add(1);
        true
    }

    /// The route has another reason to be there: the address is leased again.
    pub fn release(&mut self, address: IpAddr) {
        if let Some(holders) = self.seen.get_mut(&address).and_then(|seen| seen.holds.take()) {
            self.give_back(holders);
        }
    }

    /// The route is gone.
    pub fn forget(&mut self, address: IpAddr) {
        if let Some(holders) = self.seen.remove(&address).and_then(|seen| seen.holds) {
            self.give_back(holders);
        }
    }

    fn give_back(&mut self, holders: [Holder; 3]) {
        holders.into_iter().for_each(|holder| self.shares.remove(holder));
        self.held = self.held.saturating_sub(1);
    }

    /// Routes that stay for flows alone.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::share::LEAST;

    fn address(n: u32) -> IpAddr {
        IpAddr::from((0xcb00_7100 + n).to_be_bytes())
    }

    #[test]
    fn one_exporter_and_one_client_get_their_share_of_half_the_room_and_others_find_some() {
        let (one, other) = (address(90_001), address(90_002));
        let mut flows = Flows::default();
        flows.see(address(0), one, Moment(10));
        assert_eq!(flows.until(address(0), Moment(0)), None, "nothing stays without a limit");
        flows.limit(Duration::from_secs(10));
        let most = 20 * LEAST;
        let mut took = |source, client: u32, from: u32, count: u32| {
            let hold = |n: &u32| {
                flows.see(address(*n), source, Moment(99));
                flows.hold(address(*n), [Holder::of(&client), Holder::NOBODY], most)
            };
            (from..from + count).filter(hold).count()
        };
        assert_eq!(took(one, 1, 0, 5000), most / 2, "a captured exporter ends at a half");
        assert!(took(other, 2, 10_000, 100) == 100, "another one finds room");
        assert_eq!(flows.held(), most / 2 + 100);
        flows.forget(address(0));
        flows.release(address(1));
        flows.release(address(1));
        assert_eq!(flows.held(), most / 2 + 98);
        assert!(!flows.holds(address(1)) && flows.until(address(1), Moment(0)).is_some());
        assert!(!flows.hold(address(60_000), [Holder::NOBODY; 2], most), "nobody saw a flow there");
    }
}
