//! Leases that lack an enforcer's word.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Bound;

use crate::core::event::{EnforcerKind, Generation};
use crate::core::lease::{Lease, LeaseTable};
use crate::core::moment::Moment;
use crate::core::plan::{RouteTold, Told};

/// Which kinds of enforcers gate answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Required {
    /// A timed one.
    pub timed: bool,
    /// One with routes.
    pub route: bool,
}

/// Leases that lack an acknowledgement, in the order of the plans they lack. At most one entry of each kind for a lease.
#[derive(Debug, Default)]
pub struct Unproven {
    timed: BTreeSet<(Generation, IpAddr)>,
    route: BTreeSet<(Generation, IpAddr)>,
}

impl Unproven {
    /// Whether every required timed enforcer holds whatever it was told.
    #[must_use]
    pub fn is_timed_proven(&self) -> bool {
        self.timed.is_empty()
    }

    /// A plan told the enforcers about a lease. What no enforcer is required to hold is in force at once.
    pub fn told(&mut self, address: IpAddr, lease: &mut Lease, told: Told, required: Required, now: Moment) {
        let before = lease.told();
        lease.set_told(told);
        match told.timed {
            Some(timed) if !required.timed => lease.set_held(Some(timed.ends)),
            Some(timed) if before.timed != told.timed || lease.held().is_none() => {
                // While an earlier change is not acknowledged, the later one waits behind it: the lease then comes into
                // force with the first, and its end follows with the last.
                if lease.unproven_timed().is_none() {
                    lease.set_unproven_timed(Some((timed.last, timed.ends)));
                    self.timed.insert((timed.last, address));
                }
            }
            Some(_) => {}
            None => self.forget_timed(address, Some(lease)),
        }
        match told.route {
            Some(route) => self.told_route(address, lease, route, before.route, required),
            // Only where none is announced.
            None => {
                self.forget_route(address, lease);
                lease.route_proven = true;
                for share in lease.shares_mut() {
                    (share.told, share.proven) = (None, true);
                }
            }
        }
        if !required.timed || !required.route {
            lease.into_force(now);
        }
    }

    fn told_route(
        &mut self,
        address: IpAddr,
        lease: &mut Lease,
        route: RouteTold,
        before: Option<RouteTold>,
        required: Required,
    ) {
        // Only the newest opening counts.
        let reopened = before.is_none_or(|before| before.opened != route.opened);
        if reopened {
            lease.route_proven = false;
        }
        for share in lease.shares_mut() {
            if reopened || share.told.is_none() {
                // What it bears it has borne since the last plan that changed that, at the latest.
                share.told = Some(route.last);
                share.proven = false;
                share.handle.set_in_force(false);
            }
        }
        if required.route {
            self.wait_for_route(address, lease);
        } else {
            lease.route_proven = true;
            lease.shares_mut().iter_mut().for_each(|share| share.proven = share.told.is_some());
        }
    }

    /// Puts a lease whose route, or what it bears, lacks an acknowledgement into the queue, by the first plan that it lacks.
    fn wait_for_route(&mut self, address: IpAddr, lease: &mut Lease) {
        self.forget_route(address, lease);
        let shares = lease.shares().iter().filter(|share| !share.proven).filter_map(|share| share.told);
        let opened = lease.told().route.filter(|_| !lease.route_proven).map(|route| route.opened);
        if let Some(first) = shares.chain(opened).min() {
            lease.set_unproven_route(Some(first));
            self.route.insert((first, address));
        }
    }

    /// A required route enforcer holds the lease's route no more.
    pub fn lost_route(&mut self, address: IpAddr, lease: &mut Lease) {
        // What it bears comes back with it.
        lease.out_of_force();
        lease.route_proven = false;
        lease.set_proven(None);
        self.wait_for_route(address, lease);
    }

    /// Others are required than before: `held` says of a plan whether each of them has the address as that plan made it.
    pub fn recheck_route(&mut self, address: IpAddr, lease: &mut Lease, held: impl Fn(Generation) -> bool) {
        let lacks = lease.route_proven && lease.told().route.is_some_and(|route| !held(route.opened));
        let mut less = false;
        for share in lease.shares_mut().iter_mut().filter(|share| share.proven) {
            if share.told.is_some_and(|told| !held(told)) {
                share.proven = false;
                share.handle.set_in_force(false);
                less = true;
            }
        }
        if lacks {
            self.lost_route(address, lease);
        } else if less {
            self.wait_for_route(address, lease);
        }
    }

    /// Nobody was told of the lease's route.
    pub fn untold_route(&mut self, address: IpAddr, lease: &mut Lease) {
        self.forget_route(address, lease);
        // Until it is planned: then it is in force where nobody waits for routers.
        lease.out_of_force();
        lease.change_told(|told| (told.route, told.route_refused) = (None, false));
        for share in lease.shares_mut() {
            (share.told, share.proven) = (None, false);
            share.handle.set_in_force(false);
        }
    }

    /// Addresses that lack a route, or what it bears.
    #[must_use]
    pub fn all_routes(&self) -> Vec<IpAddr> {
        self.route.iter().map(|(_, address)| *address).collect()
    }

    /// The lease is not open at timed enforcers any more.
    pub fn forget_timed(&mut self, address: IpAddr, lease: Option<&mut Lease>) {
        if let Some(lease) = lease
            && let Some((generation, _)) = lease.unproven_timed()
        {
            lease.set_unproven_timed(None);
            self.timed.remove(&(generation, address));
        }
    }

    fn forget_route(&mut self, address: IpAddr, lease: &mut Lease) {
        if let Some(generation) = lease.unproven_route() {
            lease.set_unproven_route(None);
            self.route.remove(&(generation, address));
        }
    }

    /// The lease goes.
    pub fn forget(&mut self, address: IpAddr, lease: Option<&mut Lease>) {
        if let Some(lease) = lease {
            self.forget_route(address, lease);
            self.forget_timed(address, Some(lease));
        }
    }

    /// Addresses that lack a route which a plan after `after` up to `upto` opened.
    #[must_use]
    pub fn routes_of(&self, after: Option<Generation>, upto: Generation) -> Vec<IpAddr> {
        let first = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let next = |generation: Generation| (Generation(generation.0.saturating_add(1)), first);
        let from = after.map_or(Bound::Unbounded, |after| Bound::Included(next(after)));
        self.route.range((from, Bound::Excluded(next(upto)))).map(|(_, address)| *address).collect()
    }

    /// Brings into force what every required route enforcer holds of a lease: the address as the plans made it of which `held` says so. Returns
    /// whether there is anything new.
    pub fn prove_route(
        &mut self,
        address: IpAddr,
        lease: &mut Lease,
        held: impl Fn(Generation) -> bool,
        now: Moment,
    ) -> bool {
        let mut news = false;
        if !lease.route_proven && lease.told().route.is_some_and(|route| held(route.opened)) {
            lease.route_proven = true;
            news = true;
        }
        for share in lease.shares_mut().iter_mut().filter(|share| !share.proven) {
            share.proven = share.told.is_some_and(&held);
            news |= share.proven;
        }
        if news {
            self.wait_for_route(address, lease);
            lease.into_force(now);
        }
        news
    }

    /// Brings into force what every required timed enforcer holds now.
    pub fn prove_timed(&mut self, table: &mut LeaseTable, timed: Option<Generation>, now: Moment) {
        while let Some(held) = timed
            && let Some((generation, address)) = self.timed.first().copied()
            && generation <= held
        {
            self.timed.remove(&(generation, address));
            let Some(lease) = table.get_mut(address) else { continue };
            let Some((_, ends)) = lease.unproven_timed() else { continue };
            lease.set_unproven_timed(None);
            // A change that made the end earlier is the last word at once.
            lease.set_held(Some(lease.held().map_or(ends, |before| before.max(ends)).min(lease.ends)));
            if let Some(told) = lease.told().timed {
                if told.last <= held {
                    // Made earlier since, and not planned yet: the next plan says so.
                    lease.set_held(Some(told.ends.min(lease.ends)));
                } else {
                    lease.set_unproven_timed(Some((told.last, told.ends)));
                    self.timed.insert((told.last, address));
                }
            }
            lease.into_force(now);
        }
    }

    /// A required enforcer of this kind holds nothing any more. O(leases).
    pub fn lost(&mut self, kind: EnforcerKind, table: &mut LeaseTable) {
        for (address, lease) in table.iter_mut() {
            lease.out_of_force();
            lease.set_proven(None);
            match kind {
                EnforcerKind::Timed => {
                    lease.set_held(None);
                    self.forget_timed(address, Some(lease));
                    // A lease that is not planned yet gets its entry with its plan.
                    if let (true, Some(timed)) = (lease.is_active(), lease.told().timed) {
                        lease.set_unproven_timed(Some((timed.last, timed.ends)));
                        self.timed.insert((timed.last, address));
                    }
                }
                EnforcerKind::Route => {
                    lease.route_proven = false;
                    lease.shares_mut().iter_mut().for_each(|share| share.proven = false);
                    self.wait_for_route(address, lease);
                }
            }
        }
    }

    /// Addresses that this plan opened at this kind of enforcer and that were not in force since.
    #[must_use]
    pub fn opened_by(&self, kind: EnforcerKind, generation: Generation, table: &LeaseTable) -> Vec<IpAddr> {
        let queue = match kind {
            EnforcerKind::Timed => &self.timed,
            EnforcerKind::Route => &self.route,
        };
        let first = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let opened = |address: &IpAddr| {
            table.get(*address).is_some_and(|lease| match kind {
                EnforcerKind::Timed => lease.told().timed.is_some_and(|told| told.opened == generation),
                EnforcerKind::Route => lease.told().route.is_some_and(|told| told.opened == generation),
            })
        };
        let after = Generation(generation.0.saturating_add(1));
        queue.range((generation, first)..(after, first)).map(|(_, address)| *address).filter(opened).collect()
    }

    /// Addresses that were open already and to which this plan gave communities that were not in force since. O(unproven).
    #[must_use]
    pub fn shared_by(&self, generation: Generation, table: &LeaseTable) -> Vec<IpAddr> {
        let shared = |address: &IpAddr| {
            table.get(*address).is_some_and(|lease| {
                lease.told().route.is_some_and(|told| told.opened != generation)
                    && lease.shares().iter().any(|share| !share.proven && share.told == Some(generation))
            })
        };
        self.route.iter().map(|(_, address)| *address).filter(shared).collect()
    }

    /// Number of active leases that are not in force: those that lack a timed enforcer or a route; an upper bound where
    /// both lack.
    #[must_use]
    pub fn len(&self) -> usize {
        self.timed.len().max(self.route.len())
    }

    /// Whether everything is in force.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.timed.is_empty() && self.route.is_empty()
    }
}

#[cfg(test)]
impl Unproven {
    /// The queues are what the leases say.
    pub fn check_consistency(&self, table: &LeaseTable) {
        let timed: BTreeSet<_> =
            table.iter().filter_map(|(address, lease)| Some((lease.unproven_timed()?.0, address))).collect();
        let route: BTreeSet<_> =
            table.iter().filter_map(|(address, lease)| Some((lease.unproven_route()?, address))).collect();
        assert_eq!(self.timed, timed);
        assert_eq!(self.route, route);
    }
}
