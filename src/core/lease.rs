//! The lease table: which address is open until when, and because of which questions.
//!
//! ```text
//!            open                     end passed                 linger passed
//!  (none) ----------> active --------------------> lingering -----------------> (none)
//!                     ^    |  revoke, forbid           |   |  revoke, forbid
//!                     |    +------------> (none)       |   +----------------> (none)
//!                     +--------------------------------+
//!                                  open again
//! ```
//!
//! Lingering exists only with route enforcers and a linger above zero. An active lease's end only ever moves later,
//! except when a part of its causes is revoked or forbidden. Each step costs O(log n).
//!
//! Whoever reads a lease gets all of it; whoever changes one calls a step of the table, which says what holds before
//! and after. How far a lease is at the enforcers is [`Progress`].

#[cfg(test)]
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::moment::Moment;
use super::name::Name;
use super::plan::Planned;
use super::share::{Holder, Shares};
use by_address::AddressMap;
use names::NameIndex;
use places::{Place, Places};

mod by_address;
mod cause;
mod enforced;
mod family;
mod names;
mod one;
mod packed;
mod places;
mod progress;
mod shares;

pub use cause::{CAUSES_PER_ADDRESS, CLIENTS_PER_CAUSE, Cause, Causes, Clients, Remaining};
pub use family::ByFamily;
pub use one::Lease;
pub use progress::{Borne, Progress, Required};
pub use shares::Share;

/// Room for causes and clients beyond the one of each that every lease always has: this much, and four for each lease
/// that the table may hold.
const SPARE_ENTRIES: usize = 65_536;

/// All leases, with what finds them by time, by name, and by what they lack.
#[derive(Debug)]
pub struct LeaseTable {
    leases: AddressMap<Box<Lease>>,
    places: Places,
    names: NameIndex,
    entries: usize,
    most_entries: usize,
    shares: Shares,
    dropped: u64,
}

impl LeaseTable {
    /// An empty table that will be kept to `capacity` leases by its owner.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            leases: AddressMap::default(),
            places: Places::default(),
            names: NameIndex::default(),
            entries: 0,
            most_entries: most_entries(capacity),
            shares: Shares::default(),
            dropped: 0,
        }
    }

    /// Its owner keeps it to another capacity from now on.
    pub fn set_capacity(&mut self, capacity: usize) {
        self.most_entries = most_entries(capacity);
    }

    /// One lease, active or lingering.
    #[must_use]
    pub fn get(&self, address: IpAddr) -> Option<&Lease> {
        self.leases.get(address).map(Box::as_ref)
    }

    /// All leases in the order of their addresses.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, &Lease)> {
        self.leases.iter().map(|(address, lease)| (address, &**lease))
    }

    /// Leases behind `after` within `prefix`, in order.
    pub fn range(&self, prefix: Option<IpNet>, after: Option<IpAddr>) -> impl Iterator<Item = (IpAddr, &Lease)> {
        use std::ops::Bound;
        let (first, last) = match prefix {
            Some(prefix) => (prefix.network(), prefix.broadcast()),
            None => (IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::from_bits(u128::MAX))),
        };
        let from = match after {
            Some(after) if after >= last => Bound::Excluded(last),
            Some(after) if after >= first => Bound::Excluded(after),
            _ => Bound::Included(first),
        };
        // An excluded start must not meet an excluded end; the end is included, so start = end is an empty range.
        self.leases.range(from, last).map(|(address, lease)| (address, &**lease))
    }

    /// Addresses that a name caused, as question or alias, in order.
    pub fn addresses_of(&self, name: &Name) -> Vec<IpAddr> {
        let bears = |lease: &Lease| lease.causes().iter().any(|cause| cause.names().any(|other| other == name));
        let caused = |address: &IpAddr| self.get(*address).is_some_and(bears);
        let mut addresses: Vec<IpAddr> = self.names.candidates(name).filter(caused).collect();
        addresses.sort_unstable();
        addresses
    }

    /// Every name that caused a lease, once each, in order. O(n log n).
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        let mut names: Vec<&Name> = self.iter().flat_map(|(_, lease)| lease.causes()).flat_map(Cause::names).collect();
        names.sort_unstable();
        names.dedup();
        names.into_iter()
    }

    /// How many leases are active.
    #[must_use]
    pub fn active(&self) -> ByFamily {
        self.places.active
    }

    /// How many leases linger.
    #[must_use]
    pub fn lingering(&self) -> ByFamily {
        self.places.lingering
    }

    /// Active and lingering leases.
    #[must_use]
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// Causes and clients kept.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// Causes and clients forgotten for want of room.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// When something ends next.
    #[must_use]
    pub fn next_timer(&self) -> Option<(Moment, IpAddr)> {
        self.places.timers.first().map(|(at, address)| (Moment(at), address))
    }

    /// Opens an address that is not in the table. What is `planned` of it is what enforcers were told before, and not
    /// taken back since.
    ///
    /// After: the lease is active, and not in force before a plan says so.
    pub fn open(&mut self, address: IpAddr, ends: Moment, mut cause: Cause, planned: Planned, now: Moment) {
        debug_assert!(self.leases.get(address).is_none());
        cause.tag = self.names.tag(&cause.question);
        self.entries += cause.entries();
        self.names.add(address, &cause);
        let lease = Box::new(Lease::new(address, ends, cause, planned, now));
        self.places.follow(address, None, Some(Place::of(&lease)));
        self.leases.insert(address, lease);
    }

    /// Counts a lease that was just opened for those who opened it.
    pub fn hold(&mut self, address: IpAddr, holders: [Holder; 2]) {
        let Some(lease) = self.leases.get_mut(address) else { return };
        lease.hold(holders).into_iter().for_each(|holder| self.shares.remove(holder));
        holders.into_iter().for_each(|holder| self.shares.add(holder));
    }

    /// How much of the table is whose.
    #[must_use]
    pub fn shares(&self) -> &Shares {
        &self.shares
    }

    /// Moves a lease's end later, or makes it active when it lingered. After: it is active until `ends`; what enforcers
    /// hold of it follows by a plan.
    pub fn extend(&mut self, address: IpAddr, ends: Moment, now: Moment) {
        self.step(address, |lease| lease.set_end(ends, now));
    }

    /// Ends an active lease, whose route stays until `until`, or moves the end of lingering. After: it is in force for
    /// nobody.
    pub fn linger(&mut self, address: IpAddr, until: Moment) {
        self.step(address, |lease| lease.linger(until));
    }

    /// Routes outlive leases by another time: `moved` says until when what was until then. O(leases).
    pub fn move_linger(&mut self, moved: impl Fn(Moment) -> Moment) {
        self.each(|_, lease| lease.move_linger(&moved));
    }

    /// Takes a lease out of the table. After: its handles are not in force any more, and nothing finds it.
    pub fn remove(&mut self, address: IpAddr) -> Option<Lease> {
        let mut lease = self.leases.remove(address)?;
        self.places.follow(address, Some(Place::of(&lease)), None);
        lease.close();
        lease.holders().into_iter().for_each(|holder| self.shares.remove(holder));
        for cause in lease.causes() {
            self.forget(address, cause);
        }
        Some(*lease)
    }

    /// One step in the life of a lease: what is kept twice follows. Every change of one lease goes through here.
    fn step<T>(&mut self, address: IpAddr, step: impl FnOnce(&mut Lease) -> T) -> Option<T> {
        let lease = self.leases.get_mut(address)?;
        let before = Place::of(lease);
        let done = step(lease);
        self.places.follow(address, Some(before), Some(Place::of(lease)));
        Some(done)
    }

    /// One step in the lives of all leases.
    fn each(&mut self, mut step: impl FnMut(IpAddr, &mut Lease)) {
        for (address, lease) in self.leases.iter_mut() {
            let before = Place::of(lease);
            step(address, lease);
            self.places.follow(address, Some(before), Some(Place::of(lease)));
        }
    }
}

#[cfg(test)]
impl LeaseTable {
    /// Everything that is kept twice agrees.
    pub fn check_consistency(&self) {
        let mut places = Places::default();
        let mut entries = 0;
        let mut held = BTreeMap::new();
        for (address, lease) in self.iter() {
            places.follow(address, None, Some(Place::of(lease)));
            assert!(lease.causes().len() <= CAUSES_PER_ADDRESS);
            assert!(lease.shares().is_sorted_by(|one, other| one.group < other.group));
            for holder in lease.holders().into_iter().filter(|holder| *holder != Holder::NOBODY) {
                *held.entry(holder).or_insert(0usize) += 1;
            }
            for cause in lease.causes() {
                assert!(cause.clients.len() <= CLIENTS_PER_CAUSE);
                entries += cause.entries();
            }
        }
        held.iter().for_each(|(holder, count)| assert_eq!(self.shares.of(*holder), *count));
        let causes = self.iter().flat_map(|(address, lease)| lease.causes().iter().map(move |cause| (address, cause)));
        assert_eq!(self.names.places(), self.names.places_of(causes));
        assert_eq!((&self.places, self.entries), (&places, entries));
    }
}

fn most_entries(capacity: usize) -> usize {
    capacity.saturating_mul(4).saturating_add(SPARE_ENTRIES)
}

#[cfg(test)]
mod tests;
