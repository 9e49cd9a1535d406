//! The monotonic clock that everything inside runs on, and the two clocks that outlive the process.
#![allow(unsafe_code)]

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
    /// `/proc` is not there, or the kernel has no such clock.
    pub fn read() -> io::Result<Self> {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        let mut outside = Self { boot_id, since_boot: 0, wall: 0 };
        outside.refresh()?;
        Ok(outside)
    }

    /// Reads the clocks of the same boot again. Costs no system call on most machines.
    ///
    /// # Errors
    /// The kernel has no boot clock (before 2.6.39).
    pub fn refresh(&mut self) -> io::Result<()> {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` lives across the call, which writes nothing else.
        if unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
        self.since_boot = seconds.saturating_mul(1000).saturating_add(nanos / 1_000_000);
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        self.wall = u64::try_from(wall).unwrap_or(u64::MAX);
        Ok(())
    }
}
