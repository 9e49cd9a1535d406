//! When to connect again, and the damping of peers that flap (RFC 4271 section 8.1.1).
//!
//! | what ended | the next try comes after |
//! |---|---|
//! | a session | 50 ms; the 2nd to 4th in a row 75 to 169 ms |
//! | the 5th to 30th in a row, by loss or silence | 190 to 500 ms; from then on up to 10 s |
//! | the 5th and more in a row, by a NOTIFICATION | 2 s, each time twice as long, up to a minute |
//! | a try of ours | 50 ms, each time half as long again, up to 10 s |
//!
//! From the fifth session in a row on, the peer's own connections are refused in the wait too. A session that stood for ten seconds clears the record.
//! A router that is killed, reset or cut off is waited for half a second at most, since answers wait for it: what is lost says little against
//! the next session, as a NOTIFICATION does. A peer that refuses each try at once sees 13 in the first ten seconds, and one every
//! 7.5 to 10 s in the end.

use std::time::{Duration, Instant};

/// First wait before a session is opened again.
const FIRST: Duration = Duration::from_millis(50);
/// Each wait is so much longer than the one before. Twice as long would mean that a router that is back after a second waits for another one.
const GROWTH: f64 = 1.5;
/// Longest wait between two tries. Short, since answers wait for a required peer.
const LONGEST: Duration = Duration::from_secs(10);
/// Sessions that may fail in a row before the peer is damped.
const FLAPS: u32 = 4;
/// Longest wait behind sessions that were lost, and how many in a row are no accident any more: each costs both ends a table.
const LONGEST_LOST: (Duration, u32) = (Duration::from_millis(500), 30);
/// First and longest damping time of a peer that turns sessions down.
const DAMPING: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// A session that stood this long clears the record.
const STOOD: Duration = Duration::from_secs(10);

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Its connection was lost, or the peer fell silent.
    Lost,
    /// One end turned it down, by a NOTIFICATION or before it was up.
    Refused,
}

/// Timers and counts. Jitter is RFC 4271 section 10's: 0.75 to 1 of the time.
#[derive(Debug)]
pub(super) struct Retry {
    due: Option<Instant>,
    damped_until: Option<Instant>,
    /// Tries of ours that failed since the last session.
    failures: u32,
    /// Sessions that failed since the last one that stood.
    flaps: u32,
    established: Option<Instant>,
    random: u64,
}

impl Retry {
    pub(super) fn new(seed: u64) -> Self {
        Self { due: None, damped_until: None, failures: 0, flaps: 0, established: None, random: seed | 1 }
    }

    /// 0.75 to 1.
    pub(super) fn jitter(&mut self) -> f64 {
        // xorshift64: jitter needs no better.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        0.75 + 0.25 * ((self.random >> 11) as f64 / (1u64 << 53) as f64)
    }

    pub(super) fn reset(&mut self) {
        self.due = None;
        self.damped_until = None;
        self.failures = 0;
        self.flaps = 0;
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether it is time to connect; clears the timer then.
    pub(super) fn take_due(&mut self, now: Instant) -> bool {
        let due = self.due.is_some_and(|at| at <= now);
        if due {
            self.due = None;
        }
        due
    }

    /// Whether connections are refused for now.
    pub(super) fn damped(&self, now: Instant) -> bool {
        self.damped_until.is_some_and(|until| now < until)
    }

    /// A connection came about: no need to try for another.
    pub(super) fn hush(&mut self) {
        self.due = None;
    }

    pub(super) fn established(&mut self, now: Instant) {
        self.due = None;
        self.failures = 0;
        self.established = Some(now);
    }

    pub(super) fn connect_failed(&mut self, now: Instant) {
        let wait = grown(FIRST, GROWTH, self.failures, LONGEST);
        self.due = Some(now + wait.mul_f64(self.jitter()));
        self.failures = self.failures.saturating_add(1);
    }

    /// The last connection of the session ended.
    pub(super) fn session_failed(&mut self, end: End, now: Instant) {
        let stood = self.established.take().is_some_and(|since| now.saturating_duration_since(since) >= STOOD);
        self.flaps = if stood { 0 } else { self.flaps.saturating_add(1) };
        let damped = self.flaps > FLAPS;
        let longest = if self.flaps > LONGEST_LOST.1 { LONGEST } else { LONGEST_LOST.0 };
        let wait = match end {
            End::Refused if damped => grown(DAMPING.0, 2.0, self.flaps - FLAPS - 1, DAMPING.1),
            End::Lost | End::Refused => grown(FIRST, GROWTH, self.flaps.saturating_sub(1), longest),
        };
        let until = now + wait.mul_f64(self.jitter());
        self.due = Some(until);
        self.damped_until = damped.then_some(until);
    }
}

/// A wait that was made longer so many times.
fn grown(first: Duration, growth: f64, times: u32, longest: Duration) -> Duration {
    // Far beyond the longest one at 64 times.
    let factor = growth.powi(i32::try_from(times.min(64)).unwrap_or(64));
    Duration::try_from_secs_f64(first.as_secs_f64() * factor).map_or(longest, |wait| wait.min(longest))
}
