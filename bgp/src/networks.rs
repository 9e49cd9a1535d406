//! Networks that a router announces to us: never used as routes, only said to who asks which addresses are the network's own.
//!
//! ```text
//!            announced                  session goes, the router restarts gracefully
//!  (none) ---------------> there ------------------------------------------------------> stale
//!     ^                    |   ^                 announced again                          |   |
//!     |     withdrawn,     |   +----------------------------------------------------------+   |
//!     +--------------------+  session goes otherwise                                          |
//!     +---------------------------------------------------------------------------------------+
//!                          the router has said all that it has, or its restart time is over
//! ```

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::wire::iana::{Families, Family};

/// Most networks of one router; more are only counted.
pub const MOST: usize = 4096;
/// After a restart a router has so long to say all that it has.
const SAYING: Duration = Duration::from_secs(360);

/// Whether a prefix can be one network's own: no default route and nothing near it, with which a captured router would close everything, and no
/// host route, as the guards themselves announce.
#[must_use]
pub fn is_network(net: &IpNet) -> bool {
    match net {
        IpNet::V4(net) => (8..32).contains(&net.prefix_len()),
        IpNet::V6(net) => (16..128).contains(&net.prefix_len()),
    }
}

/// Those of one router.
#[derive(Debug, Default)]
pub(crate) struct Networks {
    /// Whether each is left from an earlier session.
    all: BTreeMap<IpNet, bool>,
    /// Prefixes that found no room.
    beyond: u64,
    /// The router's restart time in this session; none without graceful restart.
    restart: Duration,
    /// Until when what is left from an earlier session counts.
    until: Option<Instant>,
}

impl Networks {
    /// The session is up. What was there before is the router's until it says otherwise.
    pub(crate) fn came_up(&mut self, restart: Option<Duration>, now: Instant) {
        self.restart = restart.unwrap_or_default();
        self.beyond = 0;
        self.all.values_mut().for_each(|stale| *stale = true);
        self.until = (!self.all.is_empty()).then(|| now + SAYING);
    }

    /// The session is gone.
    pub(crate) fn went_down(&mut self, now: Instant) -> bool {
        if self.restart.is_zero() {
            self.until = None;
            let any = !self.all.is_empty();
            self.all.clear();
            return any;
        }
        self.all.values_mut().for_each(|stale| *stale = true);
        // One that comes up and goes again before it has said everything has no more time.
        self.until = Some(self.until.unwrap_or(now + self.restart).min(now + self.restart));
        false
    }

    /// What it said. Returns whether others are there now.
    pub(crate) fn said(&mut self, announced: &[IpNet], withdrawn: &[IpNet]) -> bool {
        let mut news = false;
        for net in withdrawn.iter().filter(|net| is_network(net)) {
            news |= self.all.remove(net).is_some();
        }
        for net in announced.iter().filter(|net| is_network(net)) {
            if let Some(stale) = self.all.get_mut(net) {
                *stale = false;
            } else if self.all.len() < MOST {
                self.all.insert(*net, false);
                news = true;
            } else {
                self.beyond = self.beyond.saturating_add(1);
            }
        }
        news
    }

    /// It has said all that it has of a family. Returns whether fewer are there now.
    pub(crate) fn said_all(&mut self, family: Family) -> bool {
        let before = self.all.len();
        let mut families = Families::NONE;
        families.insert(family);
        self.all.retain(|net, stale| {
            let of = if matches!(net, IpNet::V4(_)) { Family::Ipv4 } else { Family::Ipv6 };
            !*stale || !families.contains(of)
        });
        self.all.len() < before
    }

    /// Those that count now, and how many prefixes found no room.
    pub(crate) fn all(&mut self, now: Instant) -> (Vec<IpNet>, u64) {
        if self.until.is_some_and(|until| until <= now) {
            self.until = None;
            self.all.retain(|_, stale| !*stale);
        }
        (self.all.keys().copied().collect(), self.beyond)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| net(text)).collect()
    }

    #[test]
    fn only_networks_are_kept_and_no_more_than_there_is_room_for() {
        let now = Instant::now();
        let mut networks = Networks::default();
        networks.came_up(None, now);
        let other =
            nets(&["0.0.0.0/0", "0.0.0.0/1", "10.0.0.0/7", "203.0.113.1/32", "::/0", "2000::/3", "2001:db8::1/128"]);
        assert!(!networks.said(&other, &[]));
        let own = nets(&["45.0.0.0/8", "198.51.100.0/31", "2001:db8::/32", "2001:db8:0:1::/64"]);
        assert!(networks.said(&own, &[]) && !networks.said(&own, &[]));
        assert!(networks.said(&[], &own[1..]));
        assert_eq!(networks.all(now), (own[..1].to_vec(), 0));
        let many: Vec<IpNet> = net("10.0.0.0/8").subnets(24).unwrap().take(MOST + 5).collect();
        networks.said(&many, &[]);
        assert_eq!((networks.all(now).0.len(), networks.all(now).1), (MOST, 6));
        assert!(networks.went_down(now) && networks.all(now).0.is_empty());
    }

    #[test]
    fn what_a_router_that_restarts_had_stays_until_it_has_said_what_it_has() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (one, two, six) = (net("198.51.100.0/24"), net("203.0.113.0/24"), net("2001:db8::/32"));
        let up = || {
            let mut networks = Networks::default();
            networks.came_up(Some(Duration::from_secs(120)), start);
            networks.said(&[one, two, six], &[]);
            assert!(!networks.went_down(start));
            networks
        };
        let mut networks = up();
        assert_eq!(networks.all(at(119)).0.len(), 3);
        networks.came_up(Some(Duration::from_secs(120)), at(119));
        assert!(!networks.said(&[one], &[]));
        assert_eq!(networks.all(at(400)).0, [one, two, six]);
        assert!(networks.said_all(Family::Ipv4) && !networks.said_all(Family::Ipv4));
        assert_eq!(networks.all(at(400)).0, [one, six]);
        assert_eq!(networks.all(at(480)).0, [one], "it has not said all in time");
        assert_eq!(up().all(at(120)).0, [], "it didn't come back");
    }
}
