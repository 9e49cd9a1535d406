//! The monotonic clock that everything inside runs on.

use std::time::Instant;

use crate::core::moment::Moment;

/// Turns `Instant`s into [`Moment`]s. One per daemon, copied to every task.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    epoch: Instant,
}

impl Clock {
    /// A clock whose epoch is now.
    #[must_use]
    pub fn start() -> Self {
        Self { epoch: Instant::now() }
    }

    /// Milliseconds since the epoch.
    #[must_use]
    pub fn now(&self) -> Moment {
        Moment(u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// When `moment` is, for timers.
    #[must_use]
    pub fn instant(&self, moment: Moment) -> Instant {
        let far = std::time::Duration::from_secs(365 * 86_400);
        self.epoch + Moment::ZERO.until(moment).min(far)
    }
}
