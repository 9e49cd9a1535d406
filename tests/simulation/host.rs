//! The host: its clocks, and how it is killed under the daemon, sleeps and boots.
//!
//! ```text
//!   the world's time --+-- less when it booted ------> boot clock, anew with each boot
//!                      +-- by what it is set apart --> wall clock, which somebody sets, and which may come back behind
//! ```

use std::sync::atomic::AtomicU64;

use destguard::core::moment::Moment;
use destguard::sys::clock::Outside;

use super::journal::{Now, UNFLUSHED};
use super::plan::{Millis, What};
use super::world::{Happening, World};

/// A session survives a sleep of this length.
const HOLD: Millis = 90_000;
/// What the wall clock shows at the beginning: 2026-01-01, in milliseconds since 1970.
const ERA: i64 = 1_767_225_600_000;
/// A wall clock that came back behind is set right so long after the boot.
const SET: Millis = 15_000;
/// A step of the wall clock is on disk after this, and so is a revocation.
const NOTED: Millis = 2_000;

/// See the module.
#[derive(Debug)]
pub struct Host {
    /// Milliseconds since the boot.
    pub boot: &'static AtomicU64,
    /// When it booted.
    pub booted: Millis,
    /// How often the host booted.
    boots: u64,
    /// What the wall clock is ahead of the world's.
    apart: i64,
    /// The same once it is set right.
    right: i64,
    /// Revocations that may not be on the disk yet, and since when.
    taken_back: Vec<(Millis, What)>,
}

impl Host {
    /// Of a boot that began at the world's time zero.
    pub fn new(now: Millis) -> Self {
        Self {
            boot: Box::leak(Box::new(AtomicU64::new(now))),
            booted: 0,
            boots: 0,
            apart: ERA,
            right: ERA,
            taken_back: Vec::new(),
        }
    }

    /// All clocks at once.
    pub fn clocks(&self, now: Millis, moment: Moment) -> Now {
        let boot_id = format!("{:036}", self.boots);
        let outside = Outside { boot_id, since_boot: now - self.booted, wall: now.saturating_add_signed(self.apart) };
        Now { moment, outside, now }
    }

    /// Something was taken back.
    pub fn note(&mut self, what: What, now: Millis) {
        self.taken_back.retain(|(since, _)| now < since + NOTED);
        self.taken_back.push((now, what));
    }
}

impl World {
    /// Whether leases were restored by a clock that is behind, and nobody was told yet. A crash of the daemon until then
    /// lengthens them: docs/operation.md says so.
    pub fn awaits_clock(&self) -> bool {
        let right = self.host.right.wrapping_add_unsigned(self.host.booted).cast_unsigned();
        self.goes_by_wall().is_some_and(|told| told < right)
    }

    /// The daemon is killed, and starts again.
    pub fn kill(&mut self, down: Millis, within: Option<usize>) {
        if self.daemon.is_none() {
            return;
        }
        if let Some(records) = within {
            self.last_turn(records);
        }
        self.daemon = None;
        self.questions.clear();
        self.seen.lost += self.open.len() as u64;
        self.open.clear();
        self.book.trouble(self.now + down);
        self.put(self.now + down, Happening::Starts);
        self.routers.restart_speaker();
        for place in 0..self.routers.all.len() {
            self.keeps_stale(place);
        }
    }

    /// The host sleeps.
    pub fn sleep(&mut self, span: Millis) {
        self.kernel.lock().unwrap().sleep(span);
        self.advance(self.now + span);
        self.book.slept = true;
        self.book.trouble(self.now);
        self.woke = self.now;
        self.woken(span);
        if span > HOLD {
            (0..self.routers.all.len()).for_each(|place| self.lose_router(place, 1_000, true));
        }
    }

    /// The host boots: the kernel holds nothing, and the boot clock begins anew.
    pub fn reboot(&mut self, down: Millis, behind: Millis, kept: Option<usize>) {
        let now = self.now;
        let followed = self.journal.apart().wrapping_sub(self.host.booted).cast_signed() == self.host.apart;
        // Somebody set the clock just now: the disk knows no better than the clock.
        if self.daemon.is_none() || !followed {
            return;
        }
        self.kill(down, None);
        if let Some(percent) = kept {
            self.journal.power_fails(percent);
            self.book.forgiven.push(now.saturating_sub(UNFLUSHED)..=now);
            let undone = std::mem::take(&mut self.host.taken_back);
            let undone = undone.into_iter().filter(|(since, _)| now < since + NOTED);
            self.pending.extend(undone.map(|(_, what)| what));
        }
        {
            let mut kernel = self.kernel.lock().unwrap();
            kernel.flush();
            kernel.there = false;
        }
        self.book.closed_in_kernel = true;
        let host = &mut self.host;
        host.boots += 1;
        host.booted = now;
        let (before, was_right) = (host.apart, host.apart == host.right);
        host.apart = host.right - behind.cast_signed();
        let back = before - host.apart;
        if back < 0 || back > down.cast_signed() || (behind > 0 && !was_right) {
            // It has ended by the clock, or nobody knows when.
            self.book.forgiven.push(0..=now);
        }
        if behind > 0 {
            self.put(now + down + SET, Happening::ClockSet(self.host.boots));
            // What is restored lasts longer until then.
            self.book.slept = true;
            self.book.trouble(now + down + SET);
        }
    }

    /// The wall clock that came back behind is set right.
    pub fn clock_set(&mut self, boot: u64) {
        if boot == self.host.boots {
            self.host.apart = self.host.right;
            // What was restored for too long ends now, and lingers.
            self.book.trouble(self.now + self.plan.linger * 1_000);
        }
    }

    /// Somebody sets the wall clock.
    pub fn clock_stepped(&mut self, by: i64) {
        self.host.apart += by;
        self.host.right += by;
        if by > 0 && (self.goes_by_wall().is_some() || self.daemon.is_none()) {
            // As if it had been behind when the leases were restored.
            self.book.forgiven.push(0..=self.now);
        }
    }

    /// Looks at both clocks, as the daemon does.
    pub fn look_at_clocks(&mut self) {
        self.follow_clocks();
        if self.host.apart < self.host.right {
            self.book.trouble(self.now);
        }
    }
}
