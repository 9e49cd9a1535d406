//! What becomes of leases at the enforcers: each step, and which leases lack an enforcer's word.
//!
//! How far one lease is, says [`super::Progress`]; these are the events that bring it on, or back.

use std::net::IpAddr;

use super::{Lease, LeaseTable, Place, Required};
use crate::core::event::{EnforcerKind, Generation};
use crate::core::groups::GroupSet;
use crate::core::moment::Moment;
use crate::core::plan::Planned;

impl LeaseTable {
    /// A plan goes out, in which `plan` says what is planned of this lease from now on. Returns the lease, where there
    /// is one.
    ///
    /// After: what no enforcer is required to hold is in force; all else lacks this plan, or an earlier one.
    pub fn plan(
        &mut self,
        address: IpAddr,
        required: Required,
        now: Moment,
        plan: impl FnOnce(&Lease) -> Planned,
    ) -> Option<&Lease> {
        let lease = self.leases.get_mut(address)?;
        let before = Place::of(lease);
        let planned = plan(lease);
        lease.follow_plan(planned, required, now);
        self.places.follow(address, Some(before), Some(Place::of(lease)));
        Some(lease)
    }

    /// Every required timed enforcer has acknowledged all plans up to this one. After: no lease lacks one of them; what
    /// is confirmed too is in force.
    pub fn ack(&mut self, upto: Generation, now: Moment) {
        while let Some((plan, address)) = self.places.lacking_timed.first()
            && plan <= upto.0
        {
            self.places.lacking_timed.remove(plan, address);
            self.step(address, |lease| lease.ack(upto, now));
        }
    }

    /// Every required route enforcer has a lease's address as the plans made it of which `holds` says so. Returns
    /// whether that is news.
    ///
    /// After: what the lease lacked of these plans is confirmed; what is acked too is in force.
    pub fn confirm(&mut self, address: IpAddr, holds: impl Fn(Generation) -> bool, now: Moment) -> bool {
        let confirm = |lease: &mut Lease| lease.lacks_route().is_some() && lease.confirm(holds, now);
        self.step(address, confirm).unwrap_or(false)
    }

    /// A required enforcer of this kind was lost. O(leases).
    ///
    /// After: no lease is in force, and each lacks what is planned of it for that kind.
    pub fn lose(&mut self, kind: EnforcerKind) {
        self.each(|_, lease| lease.lose(kind));
    }

    /// A required route enforcer has a lease's route no more. After: the lease is not in force until that is confirmed
    /// anew.
    pub fn lose_route(&mut self, address: IpAddr) {
        self.step(address, Lease::lose_route);
    }

    /// Other route enforcers are required than before: `holds` says whether all of them have an address as a plan made
    /// it. O(leases).
    ///
    /// After: no lease is in force that one of them lacks. What all of them have is not confirmed by that: see
    /// [`LeaseTable::confirm`].
    pub fn recheck_routes(&mut self, holds: impl Fn(IpAddr, Generation) -> bool) {
        self.each(|address, lease| lease.recheck_route(|plan| holds(address, plan)));
    }

    /// No route enforcer was told of any lease. O(leases). `renews`: who keeps a handle has to ask again.
    ///
    /// After: no lease is in force before its route is planned anew.
    pub fn unplan_routes(&mut self, renews: bool) {
        self.each(|address, lease| {
            lease.unplan_route();
            if renews {
                lease.renew_handle(address);
            }
        });
    }

    /// A timed enforcer lacks an address that it was told to hold. Returns whether one was told so.
    ///
    /// After: the next plan opens it anew at all of them; where that enforcer is required, the lease is not in force
    /// until then.
    pub fn miss(&mut self, address: IpAddr, is_required: bool) -> bool {
        let miss = |lease: &mut Lease| {
            let is_told = lease.planned().timed.is_some();
            if is_told {
                lease.miss(is_required);
            }
            is_told
        };
        self.step(address, miss).unwrap_or(false)
    }

    /// An enforcer of this kind refused what is planned of a lease. After: the next plan says it anew to all of its
    /// kind, or closes it there.
    pub fn refuse(&mut self, address: IpAddr, kind: EnforcerKind) {
        self.step(address, |lease| lease.refuse(kind));
    }

    /// An enforcer of this kind refused the plans of which `refused` says so: see [`Planned::anew`]. Returns what was
    /// planned of the lease before, and what is now.
    pub fn plan_anew(
        &mut self,
        address: IpAddr,
        kind: EnforcerKind,
        refused: impl Fn(Generation) -> bool,
    ) -> Option<(Planned, Planned)> {
        self.step(address, |lease| lease.plan_anew(kind, refused))
    }

    /// Sets of groups that are planned have other names from now on, or none. O(leases).
    pub fn rename_groups(&mut self, mut rename: impl FnMut(GroupSet) -> Option<GroupSet>) {
        self.each(|_, lease| lease.rename_groups(&mut rename));
    }

    /// Whether every required timed enforcer has acknowledged all that is planned.
    #[must_use]
    pub fn is_all_acked(&self) -> bool {
        self.places.lacking_timed.is_empty()
    }

    /// Number of active leases that are not in force: those that lack a timed enforcer or a route; an upper bound where
    /// both lack.
    #[must_use]
    pub fn not_in_force(&self) -> usize {
        self.places.lacking_timed.len().max(self.places.lacking_route.len())
    }

    /// Addresses that lack a route, or what it bears.
    #[must_use]
    pub fn lacking_routes(&self) -> Vec<IpAddr> {
        self.places.lacking_route.of(0..=u64::MAX)
    }

    /// Addresses that lack a route, or what it bears, first of a plan after `after` up to `upto`.
    #[must_use]
    pub fn lacking_routes_of(&self, after: Option<Generation>, upto: Generation) -> Vec<IpAddr> {
        let from = after.map_or(0, |after| after.0.saturating_add(1));
        self.places.lacking_route.of(from..=upto.0)
    }

    /// Addresses that this plan opened at this kind of enforcer and that were not in force since.
    #[must_use]
    pub fn opened_by(&self, kind: EnforcerKind, plan: Generation) -> Vec<IpAddr> {
        let (lacking, opened): (_, fn(&Planned) -> Option<Generation>) = match kind {
            EnforcerKind::Timed => (&self.places.lacking_timed, |planned| Some(planned.timed?.opened)),
            EnforcerKind::Route => (&self.places.lacking_route, |planned| Some(planned.route?.opened)),
        };
        let is_opened =
            |address: &IpAddr| self.get(*address).is_some_and(|lease| opened(&lease.planned()) == Some(plan));
        lacking.of(plan.0..=plan.0).into_iter().filter(is_opened).collect()
    }

    /// Addresses that were open already and to which this plan gave communities that were not in force since. O(leases
    /// that lack a route).
    #[must_use]
    pub fn shared_by(&self, plan: Generation) -> Vec<IpAddr> {
        let shared = |address: &IpAddr| {
            self.get(*address).is_some_and(|lease| {
                lease.planned().route.is_some_and(|route| route.opened != plan)
                    && lease.shares().iter().any(|share| share.borne.lacks() == Some(plan))
            })
        };
        self.lacking_routes().into_iter().filter(shared).collect()
    }
}
