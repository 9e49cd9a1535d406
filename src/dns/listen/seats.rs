//! Seats of connections. Where there is none left, the one that has been idle for longest among those of whoever has most goes first.
//!
//! A client that has its part already gives up its own oldest idle connection for a new one; so does the greatest holder when all seats are taken and
//! somebody comes who has fewer. Its own go only after a rest of [`REST`], so that who opens connections without end is refused, which is cheap. Connections with a question in flight are never closed for others. A handshake that isn't over is idle.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::core::client::Claim;
use crate::core::share::Holder;
use crate::dns::limits::{Full, Limit, Place};

/// Whether a connection is in use.
pub struct Activity {
    in_flight: AtomicUsize,
    last: Mutex<Instant>,
}

impl Activity {
    /// Of a connection that begins now.
    #[must_use]
    pub fn begin() -> Arc<Self> {
        Arc::new(Self { in_flight: AtomicUsize::new(0), last: Mutex::new(Instant::now()) })
    }

    /// For how long there has been no question.
    #[must_use]
    pub fn idle(&self) -> Duration {
        self.idle_since().map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Since when; `None`: there is one.
    fn idle_since(&self) -> Option<Instant> {
        let busy = self.in_flight.load(Ordering::Acquire) > 0;
        (!busy).then(|| *self.last.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A question begins.
    pub fn asked(&self) {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
    }

    /// So many have ended.
    pub fn answered(&self, count: usize) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.in_flight.fetch_sub(count, Ordering::AcqRel);
    }
}

/// A question in flight, until it is dropped.
pub struct Busy(Arc<Activity>);

impl Busy {
    /// Counts one more question in flight.
    #[must_use]
    pub fn new(activity: &Arc<Activity>) -> Self {
        activity.asked();
        Self(activity.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.answered(1);
    }
}

/// What is known of one connection.
struct Known {
    claim: Claim,
    activity: Arc<Activity>,
    /// Empty once it was given to somebody else.
    place: Mutex<Option<Place>>,
    /// It is to end.
    displaced: AtomicBool,
    told: Notify,
}

/// A host's own connection is given up for another of its own only when it was idle for so long. (Tests open theirs in a row.)
const REST: Duration = Duration::from_millis(if cfg!(test) { 0 } else { 250 });

/// All seats of some transports.
pub struct Seats {
    limit: Arc<Limit>,
    rest: Duration,
    next: AtomicU64,
    /// By client; nobody is in it without a seat.
    taken: Mutex<HashMap<Holder, HashMap<u64, Arc<Known>>>>,
}

/// A connection's seat; free again when dropped.
pub struct Seat {
    seats: Arc<Seats>,
    known: Arc<Known>,
    number: u64,
}

impl Seats {
    /// At most so many, and so many of one host.
    #[must_use]
    pub fn new(most: usize, most_per_host: usize) -> Arc<Self> {
        Self::resting(most, most_per_host, REST)
    }

    fn resting(most: usize, most_per_host: usize, rest: Duration) -> Arc<Self> {
        let limit = Limit::new(most, most_per_host, most_per_host.min(LEAST));
        Arc::new(Self { limit, rest, next: AtomicU64::new(0), taken: Mutex::default() })
    }

    /// How many are taken, by whom.
    #[must_use]
    pub fn limit(&self) -> &Arc<Limit> {
        &self.limit
    }

    /// Takes a seat. `displaced` is called for each connection that has to go for it.
    ///
    /// # Errors
    /// [`Full`], and nobody's connection is idle who has more.
    pub fn take(self: &Arc<Self>, claim: Claim, displaced: impl Fn()) -> Result<Seat, Full> {
        let mut result = self.limit.take(claim);
        // Freeing one may meet the other bound.
        for _ in 0..2 {
            let turns = match result {
                Ok(_) => break,
                Err(Full::Total) => [Turn::Greatest, Turn::Client],
                Err(Full::Client | Full::Domain) => [Turn::Host, Turn::Client],
            };
            if !turns.into_iter().any(|turn| self.displace(claim, turn)) {
                break;
            }
            displaced();
            result = self.limit.take(claim);
        }
        let place = Mutex::new(Some(result?));
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let known = Arc::new(Known {
            claim,
            activity: Activity::begin(),
            place,
            displaced: AtomicBool::new(false),
            told: Notify::new(),
        });
        self.taken().entry(claim.client).or_default().insert(number, known.clone());
        Ok(Seat { seats: self.clone(), known, number })
    }

    /// Frees the seat that has been idle for longest among some. False: there is none.
    fn displace(&self, claim: Claim, turn: Turn) -> bool {
        let victim = {
            let taken = self.taken();
            let own = taken.get(&claim.client).map_or(0, HashMap::len);
            let weight = |(holder, seats): &(&Holder, &HashMap<u64, Arc<Known>>)| {
                (seats.len() / usize::from(holder.parts()), **holder)
            };
            let seats = match turn {
                Turn::Host | Turn::Client => taken.get(&claim.client),
                Turn::Greatest => {
                    let least = own / usize::from(claim.client.parts()) + 1;
                    let greatest = taken.iter().max_by_key(weight);
                    greatest.filter(|one| weight(one).0 > least).map(|(_, seats)| seats)
                }
            };
            let meant = |known: &Arc<Known>| {
                let own = turn != Turn::Host || known.claim.host == claim.host;
                own && !known.displaced.load(Ordering::Relaxed)
            };
            let idle = seats.into_iter().flatten().filter(|(_, known)| meant(known));
            let idle = idle.filter_map(|(number, known)| Some(((known.activity.idle_since()?, *number), known)));
            let rest = if turn == Turn::Greatest { Duration::ZERO } else { self.rest };
            let oldest = idle.min_by_key(|(since, _)| *since);
            oldest.filter(|((since, _), _)| since.elapsed() >= rest).map(|(_, known)| known.clone())
        };
        let Some(victim) = victim else { return false };
        victim.displaced.store(true, Ordering::Relaxed);
        drop(victim.place.lock().unwrap_or_else(PoisonError::into_inner).take());
        victim.told.notify_one();
        true
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<Holder, HashMap<u64, Arc<Known>>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Seats that anybody may have as long as there are any.
const LEAST: usize = 16;

/// Whose connection goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Host,
    Client,
    Greatest,
}

impl Seat {
    /// Whether the connection is in use.
    #[must_use]
    pub fn activity(&self) -> &Arc<Activity> {
        &self.known.activity
    }

    /// Returns when the connection is to end, because somebody else has the seat.
    pub async fn displaced(&self) {
        // Told once: by whoever sets it.
        if !self.known.displaced.load(Ordering::Relaxed) {
            self.known.told.notified().await;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken();
        if let Some(own) = taken.get_mut(&self.known.claim.client) {
            own.remove(&self.number);
            if own.is_empty() {
                taken.remove(&self.known.claim.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::core::client::Clients;

    fn of(host: [u8; 4]) -> Claim {
        Clients::default().claim(host.into())
    }

    fn is_over(seat: &Seat) -> bool {
        seat.known.displaced.load(Ordering::Relaxed)
    }

    #[test]
    fn a_client_gives_up_its_own_oldest_idle_connection_and_nobody_elses() {
        let seats = Seats::new(8, 3);
        let gone = Cell::new(0);
        let take = |claim| seats.take(claim, || gone.set(gone.get() + 1)).ok();
        let other = take(of([192, 0, 2, 2])).unwrap();
        let own: Vec<Seat> = (0..3).filter_map(|_| take(of([192, 0, 2, 1]))).collect();
        let busy = Busy::new(own[0].activity());
        let fourth = take(of([192, 0, 2, 1])).unwrap();
        assert_eq!((gone.get(), own.iter().map(is_over).collect::<Vec<_>>()), (1, vec![false, true, false]));
        assert!(!is_over(&other) && seats.limit().taken() == 4);
        let (_a, _b) = (Busy::new(own[2].activity()), Busy::new(fourth.activity()));
        assert!(take(of([192, 0, 2, 1])).is_none(), "all of its own are in use");
        drop((busy, own, fourth, other));
        assert_eq!((seats.limit().taken(), seats.taken().len()), (0, 0));
    }

    #[test]
    fn a_host_that_opens_without_end_is_refused_until_its_own_have_rested() {
        let seats = Seats::resting(8, 2, Duration::from_secs(3600));
        let take = |last| seats.take(of([192, 0, 2, last]), || ()).ok();
        let own: Vec<Seat> = (0..2).filter_map(|_| take(1)).collect();
        assert!(own.len() == 2 && take(1).is_none() && !own.iter().any(is_over));
        let others: Vec<Seat> = (2..8).filter_map(take).collect();
        assert_eq!(others.len(), 6);
        let last = take(9).unwrap();
        assert!(own.iter().filter(|seat| is_over(seat)).count() == 1, "for others it goes at once");
        drop((own, others, last));
    }

    #[test]
    fn where_all_are_taken_whoever_has_most_gives_up_one_for_those_who_have_fewer() {
        let seats = Seats::new(8, 8);
        let take = |claim| seats.take(claim, || ()).ok();
        let one: Vec<Seat> = (0..5).filter_map(|_| take(of([192, 0, 2, 1]))).collect();
        let two: Vec<Seat> = (0..3).filter_map(|_| take(of([192, 0, 2, 2]))).collect();
        assert_eq!((one.len(), two.len()), (5, 3));
        let three: Vec<Seat> = (0..2).filter_map(|_| take(of([192, 0, 2, 3]))).collect();
        assert_eq!((three.len(), one.iter().filter(|seat| is_over(seat)).count()), (2, 2));
        assert!(two.iter().chain(&three).all(|seat| !is_over(seat)));
        drop((one, two, three));
        assert_eq!((seats.limit().taken(), seats.taken().len()), (0, 0));
    }
}
