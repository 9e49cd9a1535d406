//! The clock that everything inside runs on, and the two clocks that outlive the process.
//!
//! Time inside is the boot clock's: it goes on while the host sleeps, as a lease does, and no step of the wall clock touches it. Timers and the
//! kernel's set elements count on the monotonic clock, which stands still meanwhile. Who waits for a moment therefore looks again every
//! [`LOOK`], and [`Sleep`] says when the two clocks have parted.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::core::moment::Moment;

/// The daemon's epoch is this long ago when it starts, so that moments before the start (a lease that ended while the
/// daemon was down and whose route still lingers) can be told.
const BASE: Duration = Duration::from_secs(30 * 86_400);
/// Who waits for a moment looks at the clock again after this: its timer stood still while the host slept.
pub const LOOK: Duration = Duration::from_millis(400);
/// What the two clocks may part by before anybody cares. Below the second within which a lease must have ended.
const NAP: Duration = Duration::from_millis(200);
/// Two clocks are read at the same time when reading them takes no longer than this.
const AT_ONCE: Duration = Duration::from_millis(20);

/// Tells the time as [`Moment`]s. One per daemon, copied to every task.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Time since the boot when the daemon started.
    started: Duration,
    /// Milliseconds since the boot of a host that is simulated.
    simulated: Option<&'static AtomicU64>,
}

impl Clock {
    /// A clock that starts now.
    #[must_use]
    pub fn start() -> Self {
        Self { started: since_boot(), simulated: None }
    }

    /// A clock of a host whose milliseconds since the boot these are; it starts now. Only its wall clock is this host's.
    #[must_use]
    pub fn simulated(since_boot: &'static AtomicU64) -> Self {
        let clock = Self { started: Duration::ZERO, simulated: Some(since_boot) };
        Self { started: clock.since_boot(), ..clock }
    }

    /// Milliseconds since the daemon's epoch. Costs no system call on most machines.
    #[must_use]
    pub fn now(&self) -> Moment {
        self.started().plus(self.since_boot().saturating_sub(self.started))
    }

    /// Time since the boot, that in which the machine slept included: for spans that milliseconds are too coarse for.
    #[must_use]
    pub fn since_boot(&self) -> Duration {
        match self.simulated {
            None => since_boot(),
            Some(millis) => Duration::from_millis(millis.load(Ordering::Relaxed)),
        }
    }

    /// When the daemon started.
    #[must_use]
    pub fn started(&self) -> Moment {
        Moment::ZERO.plus(BASE)
    }

    /// What the wall clock will show then, as it goes now: milliseconds since 1970.
    #[must_use]
    pub fn to_wall(&self, moment: Moment) -> u64 {
        let (now, wall) = (self.now(), wall());
        if moment >= now { wall.saturating_add(moment.0 - now.0) } else { wall.saturating_sub(now.0 - moment.0) }
    }

    /// When the wall clock will show this, as it goes now.
    #[must_use]
    pub fn from_wall(&self, millis: u64) -> Moment {
        let (now, wall) = (self.now(), wall());
        Moment(if millis >= wall { now.0.saturating_add(millis - wall) } else { now.0.saturating_sub(wall - millis) })
    }

    /// When to look whether `moment` has come: then, or [`LOOK`] from now where that is earlier.
    #[must_use]
    pub fn look_at(&self, moment: Option<Moment>) -> Instant {
        Instant::now() + moment.map_or(LOOK, |moment| self.now().until(moment).min(LOOK))
    }
}

/// Notices that the host slept.
#[derive(Debug)]
pub struct Sleep {
    /// All the time that it slept until it was last noticed.
    slept: Duration,
}

impl Sleep {
    /// Notices what happens from now on.
    #[must_use]
    pub fn watch() -> Self {
        Self { slept: slept().unwrap_or_default() }
    }

    /// For how long the host slept since this was last asked, naps added up; `None` when there is nothing to speak of.
    pub fn noticed(&mut self) -> Option<Duration> {
        let slept = slept()?;
        let parted = slept.abs_diff(self.slept);
        (parted > NAP).then(|| {
            self.slept = slept;
            parted
        })
    }
}

/// What the boot clock is ahead of the monotonic one; `None` when this thread is not let run for long enough to tell.
fn slept() -> Option<Duration> {
    (0..8).find_map(|_| {
        let before = read(libc::CLOCK_MONOTONIC)?;
        let boot = read(libc::CLOCK_BOOTTIME)?;
        let after = read(libc::CLOCK_MONOTONIC)?;
        (after.saturating_sub(before) < AT_ONCE).then(|| boot.saturating_sub(before))
    })
}

/// Time since the boot, that in which the machine slept included.
pub(crate) fn since_boot() -> Duration {
    // Linux has had it since 2.6.39, and `Outside::read` refuses to go on without; the other one never fails.
    read(libc::CLOCK_BOOTTIME).or_else(|| read(libc::CLOCK_MONOTONIC)).unwrap_or_default()
}

/// Milliseconds since 1970.
pub(crate) fn wall() -> u64 {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    u64::try_from(wall).unwrap_or(u64::MAX)
}

fn read(clock: libc::clockid_t) -> Option<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` lives across the call, which writes nothing else.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return None;
    }
    Some(Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0)))
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

    /// What the wall clock is ahead of the boot clock, in milliseconds: it moves when the wall clock is stepped.
    #[must_use]
    pub fn apart(&self) -> u64 {
        self.wall.wrapping_sub(self.since_boot)
    }

    /// Reads the clocks of the same boot again. Costs no system call on most machines.
    ///
    /// # Errors
    /// The kernel has no boot clock (before 2.6.39).
    pub fn refresh(&mut self) -> io::Result<()> {
        let boot = read(libc::CLOCK_BOOTTIME).ok_or_else(io::Error::last_os_error)?;
        self.since_boot = u64::try_from(boot.as_millis()).unwrap_or(u64::MAX);
        self.wall = wall();
        Ok(())
    }
}
