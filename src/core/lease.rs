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

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use smallvec::SmallVec;

use super::event::{Generation, LeaseHandle, QueryPath};
use super::groups::Group;
use super::moment::Moment;
use super::name::Name;
use super::person::Mark;
use super::plan::{LEAST_EXTENSION, Told};
use super::share::{Holder, Shares};
use names::NameIndex;

mod family;
mod names;
mod one;
mod packed;

pub use family::ByFamily;
pub use one::Lease;

/// Most causes of one address.
pub const CAUSES_PER_ADDRESS: usize = 64;
/// Most clients of one cause.
pub const CLIENTS_PER_CAUSE: usize = 16;

/// Room for causes and clients beyond the one of each that every lease always has: this much, and four for each lease
/// that the table may hold.
const SPARE_ENTRIES: usize = 65_536;

/// Nearly all addresses have one cause with one client, which lie in the lease itself.
pub type Causes = SmallVec<[Cause; 1]>;
/// Who asked, and until when each was told.
pub type Clients = SmallVec<[(IpAddr, Moment); 1]>;

/// One question that opened an address.
#[derive(Clone, Debug)]
pub struct Cause {
    /// The question's name.
    pub question: Name,
    /// The question's type; `None` when read back from disk.
    pub qtype: Option<u16>,
    /// Aliases behind the question, in order.
    pub chain: Arc<[Name]>,
    /// The group of those who asked, when it has communities.
    pub group: Option<Group>,
    /// By what those who asked were known, if by more than their addresses.
    pub mark: Option<Mark>,
    /// Who asked, and until when each was told; at most [`CLIENTS_PER_CAUSE`].
    pub clients: Clients,
    /// The latest end that anybody was told; also of clients that are forgotten.
    pub ends: Moment,
    /// A hash of the question's name, which the table sets: most causes differ in it, and it needs no look at the name.
    pub tag: u32,
}

impl Cause {
    /// The question and its aliases.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        std::iter::once(&self.question).chain(self.chain.iter())
    }

    fn same(&self, other: &Self) -> bool {
        self.tag == other.tag
            && self.question == other.question
            && self.qtype == other.qtype
            && self.chain == other.chain
            && self.group == other.group
            && self.mark == other.mark
    }

    /// The question and its aliases, as they are kept on disk.
    #[must_use]
    pub fn path(&self) -> QueryPath {
        QueryPath { question: self.question.clone(), chain: self.chain.clone(), ends: self.ends }
    }

    /// What it counts against the table's bound.
    fn entries(&self) -> usize {
        1 + self.clients.len()
    }
}

/// One group's part in a lease.
#[derive(Clone, Debug)]
pub struct Share {
    /// Whose.
    pub group: Group,
    /// The latest end that anybody of the group was told.
    pub ends: Moment,
    /// When the group's communities leave the route.
    pub gone: Moment,
    /// What the hot path reads for clients of the group.
    pub handle: LeaseHandle,
    /// The plan that put the group's communities on the route.
    pub told: Option<Generation>,
    /// Every required route enforcer holds them.
    pub proven: bool,
}

/// What became of an address after causes were taken from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remaining {
    /// It was not caused by that name, or its end did not change.
    Same,
    /// Other causes remain; the lease ends earlier now.
    Earlier,
    /// No cause remains that has not ended: close it.
    Nothing,
}

/// All leases, with their timers and an index by name.
#[derive(Debug)]
pub struct LeaseTable {
    leases: BTreeMap<IpAddr, Box<Lease>>,
    timers: BTreeSet<Due>,
    names: NameIndex,
    active: ByFamily,
    lingering: ByFamily,
    entries: usize,
    most_entries: usize,
    shares: Shares,
    /// Causes and clients forgotten for want of room.
    pub dropped: u64,
}

impl LeaseTable {
    /// An empty table that will be kept to `capacity` leases by its owner.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            leases: BTreeMap::new(),
            timers: BTreeSet::new(),
            names: NameIndex::default(),
            active: ByFamily::default(),
            lingering: ByFamily::default(),
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
        self.leases.get(&address).map(Box::as_ref)
    }

    /// For what is not indexed: what was told and is held, what is unproven, where it falls back to.
    pub fn get_mut(&mut self, address: IpAddr) -> Option<&mut Lease> {
        self.leases.get_mut(&address).map(Box::as_mut)
    }

    /// All leases in the order of their addresses.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, &Lease)> {
        self.leases.iter().map(|(address, lease)| (*address, &**lease))
    }

    /// All leases, for what [`LeaseTable::get_mut`] allows.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (IpAddr, &mut Lease)> {
        self.leases.iter_mut().map(|(address, lease)| (*address, &mut **lease))
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
        self.leases.range((from, Bound::Included(last))).map(|(address, lease)| (*address, &**lease))
    }

    /// Addresses that a name caused, as question or alias, in order.
    pub fn addresses_of(&self, name: &Name) -> Vec<IpAddr> {
        let bears = |lease: &Lease| lease.causes.iter().any(|cause| cause.names().any(|other| other == name));
        let caused = |address: &IpAddr| self.get(*address).is_some_and(bears);
        let mut addresses: Vec<IpAddr> = self.names.candidates(name).filter(caused).collect();
        addresses.sort_unstable();
        addresses
    }

    /// Every name that caused a lease, once each, in order. O(n log n).
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        let mut names: Vec<&Name> =
            self.leases.values().flat_map(|lease| &lease.causes).flat_map(Cause::names).collect();
        names.sort_unstable();
        names.dedup();
        names.into_iter()
    }

    /// Active leases.
    #[must_use]
    pub fn active(&self) -> ByFamily {
        self.active
    }

    /// Lingering leases.
    #[must_use]
    pub fn lingering(&self) -> ByFamily {
        self.lingering
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

    /// When something ends next.
    #[must_use]
    pub fn next_timer(&self) -> Option<(Moment, IpAddr)> {
        self.timers.first().map(|Due(at, address)| (Moment(u64::from_be_bytes(*at)), *address))
    }

    /// Opens an address that is not in the table.
    pub fn open(&mut self, address: IpAddr, ends: Moment, mut cause: Cause, told: Told, now: Moment) {
        debug_assert!(!self.leases.contains_key(&address));
        cause.tag = self.names.tag(&cause.question);
        self.entries += cause.entries();
        self.names.add(address, &cause);
        let lease = Lease::new(address, ends, cause, told, now);
        self.timers.insert(due(ends, address));
        *self.active.of(address) += 1;
        self.leases.insert(address, Box::new(lease));
    }

    /// Counts a lease that was just opened for those who opened it.
    pub fn hold(&mut self, address: IpAddr, holders: [Holder; 2]) {
        let Some(lease) = self.leases.get_mut(&address) else { return };
        std::mem::replace(&mut lease.holders, holders).into_iter().for_each(|holder| self.shares.remove(holder));
        holders.into_iter().for_each(|holder| self.shares.add(holder));
    }

    /// How much of the table is whose.
    #[must_use]
    pub fn shares(&self) -> &Shares {
        &self.shares
    }

    /// Moves a lease's end, whichever way, and makes it active when it lingered.
    pub fn set_end(&mut self, address: IpAddr, ends: Moment, now: Moment) {
        let Some(lease) = self.leases.get_mut(&address) else { return };
        self.timers.remove(&due(lease.timer(), address));
        if let Some(lingers) = lease.lingers() {
            lease.set_lingers(None);
            lease.set_fallback(Some(lingers));
            lease.begun = now;
            *self.lingering.of(address) -= 1;
            *self.active.of(address) += 1;
        }
        lease.ends = ends;
        self.timers.insert(due(lease.timer(), address));
    }

    /// Gives a group a part in a lease until `ends`, or moves its end later; its communities stay `linger` longer. Returns whether that is worth
    /// a record on disk.
    pub fn share(&mut self, address: IpAddr, group: Group, ends: Moment, linger: Duration) -> bool {
        let Some(lease) = self.leases.get_mut(&address) else { return false };
        self.timers.remove(&due(lease.timer(), address));
        let gone = ends.plus(linger);
        let notable = match lease.shares().binary_search_by_key(&group, |share| share.group) {
            Ok(at) => lease.shares_mut().get_mut(at).is_some_and(|share| {
                let notable = ends >= share.ends.plus(LEAST_EXTENSION);
                share.ends = share.ends.max(ends);
                share.gone = share.gone.max(gone);
                notable
            }),
            Err(at) => {
                let handle = LeaseHandle::new(address, ends);
                let share = Share { group, ends, gone, handle, told: None, proven: false };
                lease.change_shares(|shares| shares.insert(at, share));
                true
            }
        };
        // The timed enforcers may hold it for long enough already.
        if let Some(held) = lease.held() {
            for share in lease.shares().iter().filter(|share| share.group == group && share.proven) {
                share.handle.set_ends(held.min(share.ends));
            }
        }
        self.timers.insert(due(lease.timer(), address));
        notable
    }

    /// Takes their parts from groups of which `keep` says so, after it changed them at will; returns whether one went.
    pub fn retain_shares(&mut self, address: IpAddr, mut keep: impl FnMut(&mut Share) -> bool) -> bool {
        let Some(lease) = self.leases.get_mut(&address) else { return false };
        self.timers.remove(&due(lease.timer(), address));
        let before = lease.shares().len();
        lease.change_shares(|shares| {
            shares.retain_mut(|share| {
                let kept = keep(share);
                if !kept {
                    share.handle.set_in_force(false);
                }
                kept
            });
        });
        self.timers.insert(due(lease.timer(), address));
        lease.shares().len() < before
    }

    /// Other groups: each client's part in a cause goes to the group that `of` gives it now, and `name` says what has become of a
    /// group whose clients aren't all known. The parts in the lease follow; nothing of them counts as told.
    pub fn regroup(
        &mut self,
        address: IpAddr,
        of: impl Fn(IpAddr, Option<Mark>) -> Option<Group>,
        name: impl Fn(Group) -> Option<Group>,
        linger: Duration,
        now: Moment,
    ) {
        let Some(lease) = self.leases.get_mut(&address) else { return };
        let (shares, causes) = (lease.take_shares(), std::mem::take(&mut lease.causes));
        // The timers' entry was that with the shares.
        let timer = shares.iter().map(|share| share.gone).fold(lease.own_timer(), Moment::min);
        self.timers.remove(&due(timer, address));
        let own = lease.own_timer();
        self.timers.insert(due(own, address));
        shares.iter().for_each(|share| share.handle.set_in_force(false));
        let mut parts: BTreeMap<Group, Moment> = BTreeMap::new();
        let mut extend = |group: Option<Group>, ends: Moment| {
            if let Some(group) = group {
                let known = parts.entry(group).or_insert(ends);
                *known = (*known).max(ends);
            }
        };
        let unknown = |cause: &Cause| cause.clients.is_empty() || cause.clients.len() >= CLIENTS_PER_CAUSE;
        if causes.iter().any(unknown) {
            shares.iter().for_each(|share| extend(name(share.group), share.ends));
        }
        let mut regrouped = Causes::with_capacity(causes.len());
        for cause in causes {
            // What the others bear as well comes back below.
            self.forget(address, &cause);
            let mut pieces: BTreeMap<Option<Group>, Cause> = BTreeMap::new();
            if unknown(&cause) {
                let group = cause.group.and_then(&name);
                pieces.insert(group, Cause { group, clients: Clients::new(), ..cause.clone() });
            }
            for (client, ends) in &cause.clients {
                let group = of(*client, cause.mark);
                extend(group, *ends);
                let empty = || Cause { group, clients: Clients::new(), ends: *ends, ..cause.clone() };
                let piece = pieces.entry(group).or_insert_with(empty);
                piece.clients.push((*client, *ends));
                piece.ends = piece.ends.max(*ends);
            }
            for piece in pieces.into_values() {
                match regrouped.iter_mut().find(|other| other.same(&piece)) {
                    Some(other) => {
                        other.ends = other.ends.max(piece.ends);
                        for (client, ends) in piece.clients {
                            self.dropped += u64::from(add_client(other, client, ends));
                        }
                    }
                    None => regrouped.push(piece),
                }
            }
        }
        while regrouped.len() > CAUSES_PER_ADDRESS
            && let Some(first) = earliest(&regrouped)
        {
            regrouped.swap_remove(first);
            self.dropped += 1;
        }
        for cause in &regrouped {
            self.entries += cause.entries();
            self.names.add(address, cause);
        }
        if let Some(lease) = self.leases.get_mut(&address) {
            lease.causes = regrouped;
        }
        for (group, ends) in parts.into_iter().filter(|(_, ends)| ends.plus(linger) > now) {
            self.share(address, group, ends, linger);
        }
    }

    /// Ends an active lease, whose route stays until `until`.
    pub fn linger(&mut self, address: IpAddr, until: Moment) {
        let Some(lease) = self.leases.get_mut(&address) else { return };
        lease.out_of_force();
        self.timers.remove(&due(lease.timer(), address));
        if lease.lingers().is_none() {
            *self.active.of(address) -= 1;
            *self.lingering.of(address) += 1;
        }
        lease.set_lingers(Some(until));
        lease.set_fallback(None);
        lease.set_held(None);
        lease.set_proven(None);
        self.timers.insert(due(lease.timer(), address));
    }

    /// Takes a lease out of the table; its handle is not in force any more.
    pub fn remove(&mut self, address: IpAddr) -> Option<Lease> {
        let mut lease = self.leases.remove(&address)?;
        lease.out_of_force();
        self.timers.remove(&due(lease.timer(), address));
        let counts = if lease.is_active() { &mut self.active } else { &mut self.lingering };
        *counts.of(address) -= 1;
        lease.holders.into_iter().for_each(|holder| self.shares.remove(holder));
        for cause in &lease.causes {
            self.forget(address, cause);
        }
        Some(*lease)
    }

    /// Adds a cause to a lease, or moves the end of one it has. Returns whether the disk must hear of it: the
    /// question, or the way it took, is new for this address, or its end moved on by about [`LEAST_EXTENSION`]: another
    /// question may hold the lease for longer, and be taken back after a restart.
    ///
    /// Over a bound the cause (or client) that ends first is forgotten, be it the new one. The lease's own end does not
    /// change by that: it is kept apart from the causes, and the cause that ends last is never forgotten.
    pub fn add_cause(&mut self, address: IpAddr, mut cause: Cause, now: Moment) -> bool {
        let Some(lease) = self.leases.get_mut(&address) else { return false };
        cause.tag = self.names.tag(&cause.question);
        let mut causes = std::mem::take(&mut lease.causes);
        let (ends, mut before, mut known, mut ended) = (cause.ends, None, None, false);
        for (place, other) in causes.iter().enumerate() {
            if other.tag == cause.tag && other.question == cause.question && other.chain == cause.chain {
                before = before.max(Some(other.ends));
                if other.same(&cause) {
                    known = Some(place);
                    continue;
                }
            }
            ended |= other.ends <= now;
        }
        match known.and_then(|place| causes.get_mut(place)) {
            Some(known) => {
                let before = known.entries();
                known.ends = known.ends.max(cause.ends);
                for (client, ends) in cause.clients {
                    self.dropped += u64::from(add_client(known, client, ends));
                }
                self.entries = self.entries + known.entries() - before;
            }
            None => {
                self.entries += cause.entries();
                self.names.add(address, &cause);
                known = Some(causes.len());
                causes.push(cause);
            }
        }
        // Ended causes make room. What a later revoke finds is what still lives.
        if ended {
            let mut left = Causes::new();
            for (place, other) in causes.into_iter().enumerate() {
                if other.ends <= now && Some(place) != known {
                    self.forget(address, &other);
                } else {
                    left.push(other);
                }
            }
            causes = left;
        }
        while causes.len() > 1
            && (causes.len() > CAUSES_PER_ADDRESS || self.entries > self.most_entries)
            && let Some(first) = earliest(&causes)
        {
            let gone = causes.swap_remove(first);
            self.forget(address, &gone);
            self.dropped += 1;
        }
        if let Some(lease) = self.leases.get_mut(&address) {
            lease.causes = causes;
        }
        // Counted in whole steps, so that many small ones add up.
        let steps = |moment: Moment| u128::from(moment.0) / LEAST_EXTENSION.as_millis();
        before.is_none_or(|before| steps(ends) > steps(before))
    }

    /// Takes every cause that bears `name` from a lease.
    pub fn remove_causes(&mut self, address: IpAddr, name: &Name, now: Moment) -> Remaining {
        let Some(lease) = self.leases.get_mut(&address) else { return Remaining::Same };
        let (gone, left): (Causes, Causes) =
            std::mem::take(&mut lease.causes).into_iter().partition(|cause| cause.names().any(|other| other == name));
        let latest = left.iter().map(|cause| cause.ends).max();
        let (active, ends) = (lease.is_active(), lease.ends);
        for cause in &gone {
            self.forget(address, cause);
        }
        if let Some(lease) = self.leases.get_mut(&address) {
            lease.causes = left;
        }
        if !gone.is_empty() {
            self.follow_causes(address, now);
        }
        match latest {
            None => Remaining::Nothing,
            // What lingers for another name goes on lingering.
            Some(_) if gone.is_empty() || !active => Remaining::Same,
            Some(latest) if latest <= now => Remaining::Nothing,
            Some(latest) if latest < ends => {
                self.set_end(address, latest, now);
                Remaining::Earlier
            }
            Some(_) => Remaining::Same,
        }
    }

    /// Moves the ends of causes that were restored earlier by so much, and that of the lease to the latest that is left; no further than to `now`.
    /// Returns whether the lease's own has moved.
    pub fn end_restored_earlier(&mut self, address: IpAddr, by: Duration, now: Moment) -> bool {
        let Some(lease) = self.leases.get_mut(&address).filter(|lease| lease.is_active()) else { return false };
        let (known, mut any) = (lease.ends, false);
        // An answer's cause has a type.
        for cause in lease.causes.iter_mut().filter(|cause| cause.qtype.is_none()) {
            cause.ends = cause.ends.minus(by);
            any = true;
        }
        let latest = lease.causes.iter().map(|cause| cause.ends).max().unwrap_or(now).max(now);
        if any {
            self.follow_causes(address, now);
        }
        let moves = any && latest < known;
        if moves {
            self.set_end(address, latest, now);
        }
        moves
    }

    /// Groups have no longer a part than their causes say; those read back from disk may be any group's.
    fn follow_causes(&mut self, address: IpAddr, now: Moment) {
        let Some(lease) = self.leases.get(&address).filter(|lease| !lease.shares().is_empty()) else { return };
        let mut latest: BTreeMap<Group, Moment> = BTreeMap::new();
        for share in lease.shares() {
            let of = lease.causes.iter().filter(|cause| cause.group == Some(share.group) || cause.qtype.is_none());
            if let Some(ends) = of.map(|cause| cause.ends).max() {
                latest.insert(share.group, ends);
            }
        }
        self.retain_shares(address, |share| {
            let Some(ends) = latest.get(&share.group) else { return false };
            if *ends < share.ends {
                share.gone = ends.plus(share.ends.until(share.gone));
                share.ends = *ends;
                share.handle.set_ends(share.handle.ends().min(*ends));
            }
            share.gone > now
        });
    }

    /// A cause is gone from an address that has these `left`.
    fn forget(&mut self, address: IpAddr, cause: &Cause) {
        self.entries -= cause.entries();
        self.names.remove(address, cause);
    }
}

#[cfg(test)]
impl LeaseTable {
    /// Everything that is kept twice agrees.
    pub fn check_consistency(&self) {
        let (mut active, mut lingering) = (ByFamily::default(), ByFamily::default());
        let mut entries = 0;
        let mut held = BTreeMap::new();
        for (address, lease) in self.iter() {
            *(if lease.is_active() { &mut active } else { &mut lingering }).of(address) += 1;
            assert!(lease.causes.len() <= CAUSES_PER_ADDRESS);
            assert!(lease.shares().is_sorted_by(|one, other| one.group < other.group));
            for holder in lease.holders.into_iter().filter(|holder| *holder != Holder::NOBODY) {
                *held.entry(holder).or_insert(0usize) += 1;
            }
            for cause in &lease.causes {
                assert!(cause.clients.len() <= CLIENTS_PER_CAUSE);
                entries += cause.entries();
            }
        }
        held.iter().for_each(|(holder, count)| assert_eq!(self.shares.of(*holder), *count));
        let causes = self.iter().flat_map(|(address, lease)| lease.causes.iter().map(move |cause| (address, cause)));
        assert_eq!(self.names.places(), self.names.places_of(causes));
        assert_eq!((self.active, self.lingering, self.entries), (active, lingering, entries));
        let timers: BTreeSet<_> = self.iter().map(|(address, lease)| due(lease.timer(), address)).collect();
        assert_eq!(self.timers, timers);
    }
}

/// When something ends, and whose it is. Without holes: there is one for each lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Due([u8; 8], IpAddr);

fn due(at: Moment, address: IpAddr) -> Due {
    Due(at.0.to_be_bytes(), address)
}

fn most_entries(capacity: usize) -> usize {
    capacity.saturating_mul(4).saturating_add(SPARE_ENTRIES)
}

/// Returns whether a client had to be forgotten.
fn add_client(cause: &mut Cause, client: IpAddr, ends: Moment) -> bool {
    if let Some((_, known)) = cause.clients.iter_mut().find(|(other, _)| *other == client) {
        *known = (*known).max(ends);
        return false;
    }
    cause.clients.push((client, ends));
    if cause.clients.len() <= CLIENTS_PER_CAUSE {
        return false;
    }
    if let Some((first, _)) = cause.clients.iter().enumerate().min_by_key(|(_, (_, ends))| *ends) {
        cause.clients.swap_remove(first);
    }
    true
}

fn earliest(causes: &[Cause]) -> Option<usize> {
    causes.iter().enumerate().min_by_key(|(_, cause)| cause.ends).map(|(index, _)| index)
}

#[cfg(test)]
mod tests;
