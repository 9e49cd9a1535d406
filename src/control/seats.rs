//! Seats of connections to the control interface: who comes when all are taken gets that of whoever has kept one longest without a new request.
//!
//! A request counts from its first octet, so that it isn't made younger by more of them, nor by taking its answer slowly.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

/// A source's own connection is closed for another one of it only after so long: who opens them without end is refused, which is cheap.
const REST: Duration = Duration::from_millis(250);

/// All of one listener.
#[derive(Clone)]
pub struct Seats(Arc<All>);

struct All {
    most: usize,
    per_source: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    next: u64,
    by: HashMap<u64, Known>,
}

struct Known {
    source: Option<IpAddr>,
    /// Since the connection began, or its latest request.
    since: Instant,
    /// Something was answered since.
    answered: bool,
    waker: Option<Waker>,
}

/// One of them.
pub struct Seat {
    all: Seats,
    number: u64,
}

impl Seats {
    /// So many, and so many of a source where that is known.
    #[must_use]
    pub fn new(most: usize, per_source: usize) -> Self {
        Self(Arc::new(All { most, per_source, taken: Mutex::default() }))
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A seat; `None`: all are taken by those who have just begun.
    #[must_use]
    pub fn take(&self, source: Option<IpAddr>) -> Option<Seat> {
        let now = Instant::now();
        let mut taken = self.taken();
        let mut counts: HashMap<Option<IpAddr>, usize> = HashMap::new();
        taken.by.values().for_each(|known| *counts.entry(known.source).or_default() += 1);
        let own = counts.get(&source).copied().unwrap_or(0);
        let full = taken.by.len() >= self.0.most;
        if full || source.is_some() && own >= self.0.per_source {
            let greatest = counts.into_iter().max_by_key(|(_, count)| *count);
            let greatest = greatest.filter(|(_, count)| full && *count > own + 1).map(|(source, _)| source);
            let (victims, rest) = greatest.map_or((source, REST), |source| (source, Duration::ZERO));
            // Where nobody has more than others, it is anybody's.
            let anybody = full && greatest.is_none();
            let of = taken.by.iter().filter(|(_, known)| anybody || known.source == victims);
            let (number, since) = of.map(|(number, known)| (*number, known.since)).min_by_key(|(_, since)| *since)?;
            if now.duration_since(since) < rest {
                return None;
            }
            // It finds out when it is woken.
            if let Some(waker) = taken.by.remove(&number).and_then(|known| known.waker) {
                waker.wake();
            }
        }
        let number = taken.next;
        taken.next += 1;
        taken.by.insert(number, Known { source, since: now, answered: false, waker: None });
        Some(Seat { all: self.clone(), number })
    }
}

impl Seat {
    /// Whether somebody else has it now; who asks is woken when that happens.
    pub fn is_lost(&self, cx: &Context<'_>) -> bool {
        match self.all.taken().by.get_mut(&self.number) {
            Some(known) => {
                if !known.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    known.waker = Some(cx.waker().clone());
                }
                false
            }
            None => true,
        }
    }

    /// Something was read.
    pub fn read(&self) {
        if let Some(known) = self.all.taken().by.get_mut(&self.number).filter(|known| known.answered) {
            (known.since, known.answered) = (Instant::now(), false);
        }
    }

    /// Something was written.
    pub fn wrote(&self) {
        if let Some(known) = self.all.taken().by.get_mut(&self.number) {
            known.answered = true;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.all.taken().by.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(seat: &Seat) -> bool {
        seat.is_lost(&Context::from_waker(Waker::noop()))
    }

    /// As if all had begun earlier.
    fn rest(seats: &Seats) {
        seats.taken().by.values_mut().for_each(|known| known.since -= REST);
    }

    #[test]
    fn a_source_that_has_its_part_gives_up_its_own_oldest_and_others_keep_theirs() {
        let seats = Seats::new(8, 3);
        let [one, other] = [1, 2].map(|last| Some(IpAddr::from([127, 0, 0, last])));
        let held: Vec<Seat> = (0..3).map(|_| seats.take(one).unwrap()).collect();
        let others = seats.take(other).unwrap();
        assert!(seats.take(one).is_none(), "they have just begun");
        rest(&seats);
        // A new request on the first.
        held[0].wrote();
        held[0].read();
        let fourth = seats.take(one).unwrap();
        assert_eq!(held.iter().map(lost).collect::<Vec<_>>(), [false, true, false]);
        assert!(!lost(&others) && !lost(&fourth));
        drop((held, others, fourth));
        assert!(seats.taken().by.is_empty());
    }

    #[test]
    fn where_all_are_taken_whoever_has_most_gives_one_up() {
        let seats = Seats::new(8, 8);
        let source = |last| Some(IpAddr::from([127, 0, 0, last]));
        let crowd: Vec<Seat> = (0..8).map(|at| seats.take(source(1 + at % 2)).unwrap()).collect();
        // Octet by octet, both ways: no request becomes younger by that.
        crowd[0].read();
        crowd[0].wrote();
        crowd[0].wrote();
        let third = seats.take(source(3)).unwrap();
        assert!(!lost(&third));
        assert_eq!(crowd.iter().filter(|seat| lost(seat)).count(), 1);
        let local = Seats::new(2, 1);
        let both = [local.take(None).unwrap(), local.take(None).unwrap()];
        assert!(local.take(None).is_none());
        rest(&local);
        assert!(local.take(None).is_some() && both.iter().any(lost), "sources may be unknown");
    }
}
