//! One leased address. There may be some hundred thousand: what few have lies in a box of its own, and what all have is packed.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::packed::{PackedTold, Six};
use super::{Cause, Causes, Share};
use crate::core::event::{Generation, LeaseHandle, QueryPaths, keep_the_last};
use crate::core::groups::{Group, GroupSet};
use crate::core::moment::Moment;
use crate::core::name::Name;
use crate::core::plan::{Told, Wanted};
use crate::core::share::Holder;

/// One leased address.
#[derive(Clone, Debug)]
pub struct Lease {
    /// What the hot path reads, for clients without a group.
    pub handle: LeaseHandle,
    /// When it was opened.
    pub begun: Moment,
    /// End of the lease; in the past while it lingers.
    pub ends: Moment,
    /// Why; never empty.
    pub causes: Causes,
    /// Every required route enforcer has the route, whatever it bears.
    pub route_proven: bool,
    /// In whose share it is: the client and the domain that opened it.
    pub holders: [Holder; 2],
    told: PackedTold,
    held: Six,
    unproven_timed: [Six; 2],
    unproven_route: Six,
    proven: Six,
    rare: Option<Box<Rare>>,
}

/// One for each address: its size matters.
const _: () = assert!(size_of::<Lease>() <= 216);

/// What few leases have.
#[derive(Clone, Debug, Default)]
struct Rare {
    lingers: Option<Moment>,
    fallback: Option<Moment>,
    shares: Vec<Share>,
    /// Of what route enforcers were told.
    groups: Option<GroupSet>,
}

impl Rare {
    fn is_empty(&self) -> bool {
        let Self { lingers, fallback, shares, groups } = self;
        lingers.is_none() && fallback.is_none() && shares.is_empty() && groups.is_none()
    }
}

impl Lease {
    /// Opened just now.
    #[must_use]
    pub fn new(address: IpAddr, ends: Moment, cause: Cause, told: Told, now: Moment) -> Self {
        let mut lease = Self {
            handle: LeaseHandle::new(address, ends),
            begun: now,
            ends,
            causes: smallvec::smallvec![cause],
            route_proven: false,
            holders: [Holder::NOBODY; 2],
            told: PackedTold::pack(Told::default()).0,
            held: Six::NONE,
            unproven_timed: [Six::NONE; 2],
            unproven_route: Six::NONE,
            proven: Six::NONE,
            rare: None,
        };
        lease.set_told(told);
        lease
    }

    /// Changes what few leases have.
    fn rarely(&mut self, change: impl FnOnce(&mut Rare)) {
        let mut rare = self.rare.take().unwrap_or_default();
        change(&mut rare);
        self.rare = (!rare.is_empty()).then_some(rare);
    }

    /// Lingering: when its route goes.
    #[must_use]
    pub fn lingers(&self) -> Option<Moment> {
        self.rare.as_ref()?.lingers
    }

    /// Whether it lingers, and until when.
    pub fn set_lingers(&mut self, until: Option<Moment>) {
        if self.lingers() != until {
            self.rarely(|rare| rare.lingers = until);
        }
    }

    /// Opened again while it lingered, not confirmed yet: the end of lingering to fall back to.
    #[must_use]
    pub fn fallback(&self) -> Option<Moment> {
        self.rare.as_ref()?.fallback
    }

    /// Where it falls back to.
    pub fn set_fallback(&mut self, until: Option<Moment>) {
        if self.fallback() != until {
            self.rarely(|rare| rare.fallback = until);
        }
    }

    /// The groups that asked, in order of their numbers.
    #[must_use]
    pub fn shares(&self) -> &[Share] {
        self.rare.as_ref().map_or(&[], |rare| &rare.shares)
    }

    /// The same, to change what isn't their order.
    pub fn shares_mut(&mut self) -> &mut [Share] {
        self.rare.as_mut().map_or(&mut [], |rare| &mut rare.shares)
    }

    /// Changes the list of the groups.
    pub(super) fn change_shares<T>(&mut self, change: impl FnOnce(&mut Vec<Share>) -> T) -> T {
        let mut shares = self.take_shares();
        let changed = change(&mut shares);
        if !shares.is_empty() {
            self.rarely(|rare| rare.shares = shares);
        }
        changed
    }

    /// Leaves no group.
    pub(super) fn take_shares(&mut self) -> Vec<Share> {
        let mut taken = Vec::new();
        if !self.shares().is_empty() {
            self.rarely(|rare| taken = std::mem::take(&mut rare.shares));
        }
        taken
    }

    /// What enforcers were told.
    #[must_use]
    pub fn told(&self) -> Told {
        self.told.unpack(|| self.rare.as_ref()?.groups)
    }

    /// They were told this.
    pub fn set_told(&mut self, told: Told) {
        let (packed, groups) = PackedTold::pack(told);
        self.told = packed;
        let groups = groups.flatten();
        if self.rare.as_ref().and_then(|rare| rare.groups) != groups {
            self.rarely(|rare| rare.groups = groups);
        }
    }

    /// Changes what they were told.
    pub fn change_told(&mut self, change: impl FnOnce(&mut Told)) {
        let mut told = self.told();
        change(&mut told);
        self.set_told(told);
    }

    /// Until when every required timed enforcer holds it.
    #[must_use]
    pub fn held(&self) -> Option<Moment> {
        self.held.moment()
    }

    /// They hold it until then.
    pub fn set_held(&mut self, until: Option<Moment>) {
        self.held = until.into();
    }

    /// The first change that not every required timed enforcer has acknowledged: its plan, and the end it gave.
    #[must_use]
    pub fn unproven_timed(&self) -> Option<(Generation, Moment)> {
        let [plan, ends] = self.unproven_timed;
        plan.plan().zip(ends.moment())
    }

    /// They lack this.
    pub fn set_unproven_timed(&mut self, change: Option<(Generation, Moment)>) {
        let (plan, ends) = change.unzip();
        self.unproven_timed = [plan.into(), ends.into()];
    }

    /// The first plan for the route, or for what it bears, of which not every required route enforcer holds this address.
    #[must_use]
    pub fn unproven_route(&self) -> Option<Generation> {
        self.unproven_route.plan()
    }

    /// They lack this.
    pub fn set_unproven_route(&mut self, plan: Option<Generation>) {
        self.unproven_route = plan.into();
    }

    /// Since when it is in force at every required enforcer.
    #[must_use]
    pub fn proven(&self) -> Option<Moment> {
        self.proven.moment()
    }

    /// It is in force since then, or not.
    pub fn set_proven(&mut self, since: Option<Moment>) {
        self.proven = since.into();
    }

    /// Whether it is active, not lingering.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.lingers().is_none()
    }

    /// What the enforcers should hold of it.
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        Wanted { timed: self.is_active().then_some(self.ends), route: Some(self.groups()) }
    }

    /// The groups whose communities the route is to bear.
    #[must_use]
    pub fn groups(&self) -> GroupSet {
        self.shares().iter().map(|share| share.group).collect()
    }

    /// A group's part in it.
    #[must_use]
    pub fn share(&self, group: Group) -> Option<&Share> {
        self.shares().iter().find(|share| share.group == group)
    }

    /// What the hot path reads for clients of this group.
    #[must_use]
    pub fn handle_of(&self, group: Option<Group>) -> &LeaseHandle {
        group.and_then(|group| self.share(group)).map_or(&self.handle, |share| &share.handle)
    }

    /// Whether every required route enforcer has its route, with the communities of this group.
    #[must_use]
    pub fn has_route(&self, group: Option<Group>) -> bool {
        self.route_proven && group.is_none_or(|group| self.share(group).is_some_and(|share| share.proven))
    }

    /// Nobody may use it unasked.
    pub fn out_of_force(&mut self) {
        self.handle.set_in_force(false);
        self.shares().iter().for_each(|share| share.handle.set_in_force(false));
    }

    /// Its end has moved earlier; so it has for everybody.
    pub fn shorten(&mut self) {
        self.handle.set_ends(self.handle.ends().min(self.ends));
        for share in self.shares() {
            share.handle.set_ends(share.handle.ends().min(self.ends).min(share.ends));
        }
    }

    /// Lets the hot path use what every required enforcer holds, until the end that they know.
    pub fn into_force(&mut self, now: Moment) {
        if let (true, Some(held), true) = (self.is_active(), self.held(), self.route_proven) {
            self.handle.set_ends(held);
            self.handle.set_in_force(true);
            self.set_proven(self.proven().or(Some(now)));
            self.set_fallback(None);
            for share in self.shares().iter().filter(|share| share.proven) {
                share.handle.set_ends(held.min(share.ends));
                share.handle.set_in_force(true);
            }
        }
    }

    /// The questions without doubles, each until its last cause ends; of more than [`crate::core::event::ASKED`] those that end last.
    #[must_use]
    pub fn paths(&self) -> QueryPaths {
        let mut paths = QueryPaths::new();
        for cause in &self.causes {
            match paths.iter_mut().find(|known| known.question == cause.question && known.chain == cause.chain) {
                Some(known) => known.ends = known.ends.max(cause.ends),
                None => paths.push(cause.path()),
            }
        }
        keep_the_last(&mut paths);
        paths
    }

    /// Question names, without doubles, in order.
    #[must_use]
    pub fn questions(&self) -> Vec<Name> {
        if let [cause] = self.causes.as_slice() {
            return vec![cause.question.clone()];
        }
        let set: BTreeSet<&Name> = self.causes.iter().map(|cause| &cause.question).collect();
        set.into_iter().cloned().collect()
    }

    /// When the lease itself, or its lingering, ends.
    #[must_use]
    pub fn own_timer(&self) -> Moment {
        self.lingers().unwrap_or(self.ends)
    }

    pub(super) fn timer(&self) -> Moment {
        self.shares().iter().map(|share| share.gone).fold(self.own_timer(), Moment::min)
    }
}
