//! How many replies over UDP a client's network gets: somebody who writes another's address on its questions must not make the guard flood that
//! other. A network is an IPv4 /24 or an IPv6 /56.
//!
//! The table has a fixed number of cells, each one atomic number; a network belongs to the cell that a keyed hash chooses, and networks that meet
//! in a cell share its rate. Nothing is ever inserted or removed, nobody waits for anybody.
//!
//! Each cell holds the time until which its replies are paid for (GCRA, as in ATM's I.371): a reply moves it by one interval, and one that would
//! move it further ahead of now than the bucket holds is over the rate.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::config::value::Rate;
use crate::core::moment::Moment;

/// Cells; 512 KiB.
const CELLS: usize = 1 << 16;

/// The table of clients' rates: one cell for each hash of a network.
pub struct RateLimit {
    cells: Box<[AtomicU64]>,
    hasher: RandomState,
    /// Microseconds that one reply costs.
    interval: u64,
    /// Microseconds that a cell may be ahead.
    depth: u64,
    over: AtomicU64,
}

/// What a reply over UDP may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// The whole reply may be sent.
    Whole,
    /// Over the rate: at most a short one that sends the client to TCP. `first`: the rate has just been reached.
    Short {
        /// Worth a line in the log.
        first: bool,
    },
    /// Over the rate: none.
    None,
}

impl RateLimit {
    /// For this rate; `rate.count` must not be 0.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        let depth = u64::try_from(rate.per.as_micros()).unwrap_or(u64::MAX);
        Self {
            cells: (0..CELLS).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
            // Even, for the mark of a full cell.
            interval: (depth / rate.count.max(1) / 2 * 2).max(2),
            depth,
            over: AtomicU64::new(0),
        }
    }

    /// Counts one reply to `client`. Of those over the rate every second is [`Allowed::Short`], so that a real client behind a spoofed
    /// address finds its way, and the victim gets less than was sent to the guard.
    #[must_use]
    pub fn take(&self, client: IpAddr, now: Moment) -> Allowed {
        let network = match client {
            IpAddr::V4(v4) => u64::from(v4.to_bits() >> 8),
            // No IPv4 network has the top bit set.
            IpAddr::V6(v6) => u64::try_from(v6.to_bits() >> 72).unwrap_or(0) | 1 << 63,
        };
        let at = usize::try_from(self.hasher.hash_one(network)).unwrap_or(0) % CELLS;
        let Some(cell) = self.cells.get(at) else { return Allowed::Whole };
        let now = now.0.saturating_mul(1000);
        let most = now.saturating_add(self.depth);
        let mut paid = cell.load(Ordering::Relaxed);
        loop {
            let next = (paid & !1).max(now).saturating_add(self.interval);
            if next > most {
                break;
            }
            match cell.compare_exchange_weak(paid, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Allowed::Whole,
                Err(other) => paid = other,
            }
        }
        // The lowest bit, of a microsecond, marks a cell that was found full; the next reply that is paid for takes the mark away.
        let first =
            paid & 1 == 0 && cell.compare_exchange(paid, paid | 1, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if first || self.over.fetch_add(1, Ordering::Relaxed) & 1 == 0 {
            Allowed::Short { first }
        } else {
            Allowed::None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(limit: &RateLimit, client: &str, now: u64, tries: usize) -> usize {
        let client = client.parse().unwrap();
        (0..tries).filter(|_| limit.take(client, Moment(now)) == Allowed::Whole).count()
    }

    #[test]
    fn a_network_gets_its_rate_and_others_theirs() {
        let limit = RateLimit::new("10/s".parse().unwrap());
        assert_eq!(whole(&limit, "192.0.2.1", 100_000, 100), 10);
        // The same network, another, both families.
        assert_eq!(whole(&limit, "192.0.2.200", 100_000, 100), 0);
        assert_eq!(whole(&limit, "2001:db8:0:100::1", 100_000, 100), 10);
        assert_eq!(whole(&limit, "2001:db8:0:1ff::1", 100_000, 100), 0);
        assert_eq!(whole(&limit, "2001:db8:0:200::1", 100_000, 100), 10);
        // It comes back with time, and is not saved up beyond the bucket.
        assert_eq!(whole(&limit, "192.0.2.1", 100_500, 100), 5);
        assert_eq!(whole(&limit, "192.0.2.1", 900_000, 100), 10);
    }

    #[test]
    fn beyond_the_rate_every_second_question_gets_a_short_reply() {
        let limit = RateLimit::new("10/s".parse().unwrap());
        let client = "192.0.2.1".parse().unwrap();
        assert_eq!(whole(&limit, "192.0.2.1", 5_000, 10), 10);
        let beyond: Vec<Allowed> = (0..100).map(|_| limit.take(client, Moment(5_000))).collect();
        assert_eq!(beyond[0], Allowed::Short { first: true });
        assert_eq!(beyond.iter().filter(|allowed| matches!(allowed, Allowed::Short { first: true })).count(), 1);
        let short = beyond.iter().filter(|allowed| **allowed != Allowed::None).count();
        assert!((50..=52).contains(&short), "{short}");
    }

    #[test]
    fn any_rate_and_moment_has_an_answer() {
        for rate in ["1/h", "1/s", "1000000000/s", "18446744073709551615/h"] {
            let limit = RateLimit::new(rate.parse().unwrap());
            for now in [0, 1, u64::MAX / 1000, u64::MAX] {
                assert!(whole(&limit, "192.0.2.1", now, 3) <= 3);
            }
        }
        let limit = RateLimit::new("1/h".parse().unwrap());
        assert_eq!(whole(&limit, "192.0.2.1", 10_000_000, 5), 1);
        assert_eq!(whole(&limit, "192.0.2.1", 10_000_000 + 3_599_000, 5), 0);
        assert_eq!(whole(&limit, "192.0.2.1", 10_000_000 + 3_600_001, 5), 1);
    }

    #[test]
    fn many_threads_together_get_no_more_than_the_rate() {
        let limit = RateLimit::new("1000/h".parse().unwrap());
        let got: usize = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| whole(&limit, "192.0.2.1", 99_000_000, 1000))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(got, 1000);
    }
}
