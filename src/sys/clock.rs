//! The monotonic clock that everything inside runs on, and the two clocks that outlive the process.

use std::fs;
use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::core::moment::Moment;

/// The daemon's epoch is this long ago when it starts, so that moments before the start (a lease that ended while the
/// daemon was down and whose route still lingers) can be told.
const BASE: Duration = Duration::from_secs(30 * 86_400);
/// Timers are never set further ahead than this; they fire and are set anew.
const FAR: Duration = Duration::from_secs(365 * 86_400);

/// Turns `Instant`s into [`Moment`]s. One per daemon, copied to every task.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
}

impl Clock {
    /// A clock that starts now.
    #[must_use]
    pub fn start() -> Self {
        Self { started: Instant::now() }
    }

    /// Milliseconds since the daemon's epoch.
    #[must_use]
    pub fn now(&self) -> Moment {
        self.moment(Instant::now())
    }

    /// The same at `instant`.
    #[must_use]
    pub fn moment(&self, instant: Instant) -> Moment {
        Moment::ZERO.plus(BASE).plus(instant.saturating_duration_since(self.started))
    }

    /// When the daemon started.
    #[must_use]
    pub fn started(&self) -> Moment {
        Moment::ZERO.plus(BASE)
    }

    /// When `moment` is, for timers; the start for moments before it.
    #[must_use]
    pub fn instant(&self, moment: Moment) -> Instant {
        self.started + self.started().until(moment).min(FAR)
    }
}

/// What the clocks outside of the process say. The boot clock isn't touched by clock steps but ends with the boot; the
/// wall clock outlives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outside {
    /// Names this boot of the machine.
    pub boot_id: String,
    /// Milliseconds since the boot, suspended time included.
    pub since_boot: u64,
    /// Milliseconds since 1970.
    pub wall: u64,
}

impl Outside {
    /// Reads the clocks.
    ///
    /// # Errors
    /// `/proc` is not there or holds something else.
    pub fn read() -> io::Result<Self> {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        let uptime = fs::read_to_string("/proc/uptime")?;
        let seconds: f64 = uptime
            .split_whitespace()
            .next()
            .and_then(|field| field.parse().ok())
            .ok_or_else(|| io::Error::other("/proc/uptime holds no number"))?;
        let since_boot = u64::try_from(Duration::from_secs_f64(seconds.max(0.0)).as_millis()).unwrap_or(u64::MAX);
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        Ok(Self { boot_id, since_boot, wall: u64::try_from(wall).unwrap_or(u64::MAX) })
    }
}
