//! What an observer knows: who was told what, until when each address may be open, and when it is too early to
//! complain. Nothing here asks the guard.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use super::plan::Millis;

/// What is promised; see docs/promises.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// An answer is released when each of its addresses is open everywhere, for as long as was told.
    EnforcedBeforeAnswered,
    /// Who was told an address reaches it for as long.
    InForceStaysInForce,
    /// Nothing is open longer than leased, and what was taken back closes.
    ClosedAfterTheLease,
    /// What the rules forbid is open for nobody once the turn of their reload is over.
    NothingForbidden,
    /// Each question ends once, by the gate's deadline.
    OneEnd,
    /// What the guard believes is so.
    BeliefIsSo,
    /// What grows has a bound.
    Bounded,
    /// No part of the guard panics.
    NoPanic,
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which of the promises was broken.
    pub promise: Promise,
    /// When, from the beginning.
    pub at: Millis,
    /// What was seen, in words.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} s: {:?}: {}", self.at as f64 / 1000.0, self.promise, self.what)
    }
}

/// An address that a client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// For whom it is open: 192.0.2.N, or everybody where that is 0.
    pub owner: u8,
    /// The number of the name.
    pub name: u8,
    /// The address, by its number.
    pub address: u8,
    /// When the answer came.
    pub since: Millis,
    /// It may be used until then.
    pub until: Millis,
}

/// How much later than its end anything may be open: the pad of timed elements, and the second of the promise.
pub const SLACK: Millis = 500 + 1_000;
/// How long after all is well again, or after it was taken back, something may still be open, or still be closed that
/// somebody else closed.
pub const SETTLED: Millis = 20_000;

/// See the module.
#[derive(Debug, Default)]
pub struct Book {
    /// Until when each address may be held open, for each owner, by each name.
    leased: BTreeMap<(u8, u8, u8), Millis>,
    /// When a name, or an address, was last taken back.
    names: BTreeMap<u8, Millis>,
    addresses: BTreeMap<u8, Millis>,
    /// When anything that an address was open for was last taken back.
    taken: BTreeMap<(u8, u8), Millis>,
    /// Nothing has gone wrong since then.
    calm_since: Millis,
    /// The host slept, so that the kernel's ends came later.
    pub slept: bool,
    /// What was told in these times is owed no more: nobody could know until when it lasts, or it was lost with the
    /// power.
    pub forgiven: Vec<RangeInclusive<Millis>>,
    /// Somebody else closed addresses in the kernel; not mended yet.
    pub closed_in_kernel: bool,
}

impl Book {
    /// Something is wrong until then.
    pub fn trouble(&mut self, until: Millis) {
        self.calm_since = self.calm_since.max(until);
    }

    /// For how long all has been well.
    pub fn calm(&self, now: Millis) -> Millis {
        now.saturating_sub(self.calm_since)
    }

    /// An answer asked for an address to be leased.
    pub fn asked(&mut self, name: u8, (address, owner): (u8, u8), until: Millis) {
        let ends = self.leased.entry((address, owner, name)).or_default();
        *ends = until.max(*ends);
    }

    /// Until when an address may be open for these owners.
    fn until(&self, address: u8, owners: &RangeInclusive<u8>) -> Millis {
        let of = self.leased.range((address, *owners.start(), 0)..=(address, *owners.end(), u8::MAX));
        of.map(|(_, ends)| *ends).max().unwrap_or(0)
    }

    /// A name was taken back.
    pub fn name_taken_back(&mut self, name: u8, now: Millis) {
        self.names.insert(name, now);
        for ((address, owner, of), ends) in &mut self.leased {
            if *of == name && *ends > now {
                *ends = now;
                self.taken.insert((*address, *owner), now);
            }
        }
    }

    /// An address was taken back.
    pub fn address_taken_back(&mut self, address: u8, now: Millis) {
        self.addresses.insert(address, now);
        for ((of, owner, _), ends) in &mut self.leased {
            if *of == address {
                self.taken.insert((address, *owner), now);
                *ends = now.min(*ends);
            }
        }
    }

    /// Whether a client may still use what it was told.
    pub fn is_owed(&self, told: &Told, now: Millis) -> bool {
        let after = |at: Option<&Millis>| at.is_none_or(|at| *at < told.since);
        let forgiven = self.forgiven.iter().any(|times| times.contains(&told.since));
        !forgiven && now < told.until && after(self.names.get(&told.name)) && after(self.addresses.get(&told.address))
    }

    /// Whether it is too late for an address to be open for any of these owners: by `linger` later than its lease.
    pub fn must_be_closed(
        &self,
        address: u8,
        owners: RangeInclusive<u8>,
        linger: Millis,
        ends_itself: bool,
        now: Millis,
    ) -> bool {
        if now <= self.until(address, &owners) + linger + SLACK {
            return false;
        }
        let taken = self.taken.range((address, *owners.start())..=(address, *owners.end()));
        let taken = taken.map(|(_, at)| *at).max();
        // The kernel ends a lease even when the daemon is dead.
        let strictly = ends_itself && taken.is_none() && !self.slept;
        let settled = self.calm(now) > SETTLED && taken.is_none_or(|taken| now > taken + SETTLED);
        strictly || settled
    }
}
