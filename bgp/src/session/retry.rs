//! When to connect again: ConnectRetry with back-off and jitter, and the damping of peers that flap (RFC 4271 section 8.1.1).

use std::time::{Duration, Instant};

/// First wait before a session is opened again.
const FIRST: Duration = Duration::from_secs(1);
/// Longest wait between two tries. Short, since answers wait for a required peer.
const LONGEST: Duration = Duration::from_secs(10);
/// Longest damping time.
const LONGEST_DAMPING: Duration = Duration::from_secs(60);
/// Sessions that may fail in a row before the peer is damped.
const FLAPS: u32 = 4;
/// A session that lasted this long clears the record.
const STABLE: Duration = Duration::from_secs(60);

/// Timers and counts. Jitter is RFC 4271 section 10's: 0.75 to 1 of the time.
#[derive(Debug)]
pub(super) struct Retry {
    due: Option<Instant>,
    damped_until: Option<Instant>,
    /// Tries of ours that failed since the last session.
    failures: u32,
    /// Sessions that failed since the last stable one.
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
        self.due = Some(now + self.wait(self.failures, LONGEST));
        self.failures = self.failures.saturating_add(1);
    }

    /// The last connection of the session ended.
    pub(super) fn session_failed(&mut self, now: Instant) {
        let stable = self.established.take().is_some_and(|since| now.saturating_duration_since(since) >= STABLE);
        self.flaps = if stable { 0 } else { self.flaps.saturating_add(1) };
        let wait = self.wait(self.flaps.saturating_sub(1), LONGEST_DAMPING);
        self.due = Some(now + wait);
        self.damped_until = (self.flaps > FLAPS).then(|| now + wait);
    }

    fn wait(&mut self, doublings: u32, longest: Duration) -> Duration {
        FIRST.saturating_mul(1 << doublings.min(16)).min(longest).mul_f64(self.jitter())
    }
}
