//! How fetching a list goes: when it was the same as the server's, when it is asked for next, and what went wrong.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::RngExt as _;

use crate::control::types::Fetch;
use crate::sys::clock::since_boot;

/// After the first failure; doubled with each more.
const AGAIN: Duration = Duration::from_secs(30);
/// The longest wait after failures.
const LONGEST: Duration = Duration::from_secs(3600);
/// How fetching one list goes.
#[derive(Clone, Debug)]
pub struct FetchState {
    /// Of the last attempt.
    pub error: Option<String>,
    /// Seconds since 1970.
    checked: Option<u64>,
    failures: u32,
    /// Time since the boot: it goes on while the host sleeps.
    next: Duration,
}

impl FetchState {
    /// The last attempts as `status` shows them.
    #[must_use]
    pub fn view(&self) -> Fetch {
        Fetch {
            seconds_ago: self.checked.map(|checked| now().saturating_sub(checked)),
            error: self.error.clone(),
            next_in_seconds: self.left().as_secs(),
        }
    }

    /// As a start or a reload finds it. `checked`: when the server last said that what is there is it, in seconds since 1970.
    #[must_use]
    pub fn found(checked: Option<u64>, refresh: Duration) -> Self {
        // A clock that was set back doesn't put it off beyond the usual.
        let age = Duration::from_secs(now().saturating_sub(checked.unwrap_or(0)));
        let next = since_boot() + checked.map_or(Duration::ZERO, |_| refresh.saturating_sub(age));
        Self { error: None, checked, failures: 0, next }
    }

    /// Until it is asked for next.
    #[must_use]
    pub fn left(&self) -> Duration {
        self.next.saturating_sub(since_boot())
    }

    /// Notes an attempt: with what went wrong, if it did.
    pub fn done(&mut self, error: Option<String>, refresh: Duration) {
        self.error = error;
        if self.error.is_some() {
            self.failures = self.failures.saturating_add(1);
        } else {
            (self.failures, self.checked) = (0, Some(now()));
        }
        self.next = since_boot() + spread(wait(self.failures, refresh));
    }
}

/// Until the next attempt, after so many failures in a row.
fn wait(failures: u32, refresh: Duration) -> Duration {
    match failures.checked_sub(1) {
        None => refresh,
        Some(more) => AGAIN.saturating_mul(1 << more.min(10)).min(LONGEST).min(refresh.max(AGAIN)),
    }
}

/// Up to a tenth longer: not everybody asks at once.
fn spread(wait: Duration) -> Duration {
    wait.saturating_add(wait.mul_f64(rand::rng().random_range(0.0..0.1)))
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fails_is_asked_ever_more_rarely_and_never_more_rarely_than_usual() {
        let day = Duration::from_secs(86_400);
        let waits: Vec<u64> = (0..12).map(|failures| wait(failures, day).as_secs()).collect();
        assert_eq!(waits, [86_400, 30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600, 3600]);
        assert_eq!(wait(9, Duration::from_secs(600)), Duration::from_secs(600));
        let long = spread(day);
        assert!(long >= day && long <= day + day / 10);
    }
}
