//! What enforcers report: what they lost, refused or hold ahead of the rest.

use std::net::IpAddr;

use super::{Guard, count_sets};
use crate::core::ended::End;
use crate::core::event::{EnforcerId, EnforcerKind, Generation, Refusal};
use crate::core::lease::{Lease, Share};
use crate::core::narrow::{Narrow, PairId};
use crate::core::pairs::Pairs;

impl Guard {
    pub(super) fn want_sync(&mut self, enforcer: EnforcerId) {
        // Routes are replayed by their driver from its own table.
        if self.enforcers.kind(enforcer) != Some(EnforcerKind::Timed) {
            return;
        }
        if self.enforcers.acknowledged(enforcer).is_some() {
            self.lose(enforcer, "asked for the full state".to_owned());
        }
        self.enforcers.distrust(enforcer);
        self.syncs.insert(enforcer);
    }

    /// O(leases): nothing is in force until the enforcer reports again. Answers go on waiting until their deadline.
    pub(super) fn lose(&mut self, enforcer: EnforcerId, reason: String) {
        let Some(kind) = self.enforcers.lost(enforcer, reason, self.now) else { return };
        if !self.enforcers.is_required(enforcer) {
            return;
        }
        self.gate.lost(kind);
        self.unproven.lost(kind, &mut self.table);
        if kind == EnforcerKind::Timed {
            self.pairs.iter_mut().for_each(Pairs::lost);
        }
    }

    /// A router took single routes back, and was sent them again: none counts before it is confirmed again. It stays open meanwhile.
    pub(super) fn missing_routes(&mut self, enforcer: EnforcerId, addresses: &[IpAddr], generation: Generation) {
        if self.enforcers.kind(enforcer) != Some(EnforcerKind::Route) {
            return;
        }
        let required = self.enforcers.is_required(enforcer);
        for address in addresses {
            let lease = self.table.get_mut(*address);
            // What is closed, but not planned, may be opened again within this batch; then its route just stays.
            let told = lease.as_ref().map(|lease| lease.told()).or_else(|| self.marks.removed_of(*address).copied());
            // What was opened anew since then is not meant.
            if told.and_then(|told| told.route).is_none_or(|route| route.opened > generation) {
                continue;
            }
            self.enforcers.lacks(enforcer, *address);
            if let Some(lease) = lease.filter(|_| required) {
                self.unproven.lost_route(*address, lease);
            }
        }
    }

    /// A timed enforcer lacks single elements. What was closed meanwhile is closed; what is left is told anew to all of its kind.
    pub(super) fn missing(&mut self, enforcer: EnforcerId, addresses: &[IpAddr], pairs: &[PairId]) {
        if self.enforcers.kind(enforcer) != Some(EnforcerKind::Timed) {
            return;
        }
        let required = self.enforcers.is_required(enforcer);
        if let Some(table) = &mut self.pairs {
            addresses.iter().for_each(|address| table.missing((*address, Narrow::NOT), required));
            return pairs.iter().for_each(|id| table.missing(*id, required));
        }
        for address in addresses {
            let Some(lease) = self.table.get_mut(*address).filter(|lease| lease.told().timed.is_some()) else {
                continue;
            };
            lease.change_told(|told| told.timed_refused = true);
            self.marks.change(*address);
            if required {
                lease.out_of_force();
                // As after a loss: should it be refused now, it is closed.
                lease.set_held(None);
                lease.set_proven(None);
                self.unproven.forget_timed(*address, Some(lease));
            }
        }
    }

    pub(super) fn refused(&mut self, enforcer: EnforcerId, generation: Generation, reason: String) {
        let Some(kind) = self.enforcers.refused(enforcer, reason.clone()) else { return };
        if !self.enforcers.is_required(enforcer) {
            return self.note_refusal(enforcer, kind, |plan| plan == generation);
        }
        let name = self.enforcers.name(enforcer);
        let refusal = Refusal::Enforcer { name, reason };
        self.fail_tickets(self.gate.tickets_needing(kind, generation), |_, _| refusal.clone());
        for address in self.unproven.opened_by(kind, generation, &self.table) {
            self.close_refused(kind, address, &refusal);
        }
        if kind == EnforcerKind::Timed {
            self.refuse_pairs(generation, &refusal);
        }
        if kind == EnforcerKind::Route {
            for address in self.unproven.shared_by(generation, &self.table) {
                self.refuse_shares(address, generation..=generation, &refusal);
            }
        }
        let changed: Vec<IpAddr> = self.marks.changed().collect();
        for address in changed {
            self.tell_anew(kind, address, |plan| plan == generation);
        }
    }

    /// Nobody waits for this route enforcer now. It may be required later: then what it refused is what it lacks. O(leases).
    fn note_refusal(&mut self, enforcer: EnforcerId, kind: EnforcerKind, refused: impl Fn(Generation) -> bool) {
        if kind != EnforcerKind::Route {
            return;
        }
        let leased = self.table.iter().filter(|(_, lease)| {
            let opened = lease.told().route.is_some_and(|route| refused(route.opened));
            opened || lease.shares().iter().any(|share| share.told.is_some_and(&refused))
        });
        let mut lacking: Vec<IpAddr> = leased.map(|(address, _)| address).collect();
        lacking.extend(self.marks.removed_where(|told| told.route.is_some_and(|route| refused(route.opened))));
        lacking.into_iter().for_each(|address| self.enforcers.lacks(enforcer, address));
    }

    /// An address that was closed and opened again since the last plan, or that a group left and came back to, is not what the refused plan was
    /// about; but what that plan told of it is not there. The next plan tells it anew, though nothing differs from what was told.
    fn tell_anew(&mut self, kind: EnforcerKind, address: IpAddr, refused: impl Fn(Generation) -> bool) {
        let lease = self.table.get_mut(address);
        // What is planned waits for its plan, and is found there.
        let unplanned = lease.as_ref().is_none_or(|lease| match kind {
            EnforcerKind::Timed => lease.held().is_none() && lease.unproven_timed().is_none(),
            EnforcerKind::Route => !lease.route_proven && lease.unproven_route().is_none(),
        });
        let joined = lease.as_ref().is_some_and(|lease| lease.shares().iter().any(|share| share.told.is_none()));
        let told = lease.as_ref().map(|lease| lease.told()).or_else(|| self.marks.removed_of(address).copied());
        let Some(before) = told else { return };
        let mut told = before;
        match kind {
            EnforcerKind::Timed => {
                told.timed_refused |= unplanned && told.timed.is_some_and(|timed| refused(timed.opened))
            }
            EnforcerKind::Route if unplanned && told.route.is_some_and(|route| refused(route.opened)) => {
                told.route_refused = true;
            }
            EnforcerKind::Route if joined || unplanned => {
                if let Some(route) = told.route.as_mut().filter(|route| refused(route.last)) {
                    route.groups = None;
                }
            }
            EnforcerKind::Route => {}
        }
        match (lease, self.marks.removed_of(address)) {
            (Some(lease), _) => lease.set_told(told),
            (None, Some(removed)) => *removed = told,
            (None, None) => {}
        }
        count_sets(&mut self.group_sets, before, told);
    }

    pub(super) fn refused_address(
        &mut self,
        enforcer: EnforcerId,
        address: IpAddr,
        generation: Generation,
        reason: String,
    ) {
        let Some(EnforcerKind::Route) = self.enforcers.refused(enforcer, reason.clone()) else { return };
        if self.enforcers.is_required(enforcer) {
            self.tell_anew(EnforcerKind::Route, address, |plan| plan <= generation);
        } else {
            let lease = self.table.get(address).map(Lease::told);
            let told = lease.or_else(|| self.marks.removed_of(address).copied());
            if told.and_then(|told| told.route).is_some_and(|route| route.opened <= generation) {
                self.enforcers.lacks(enforcer, address);
            }
        }
        // What is in force was confirmed by this enforcer too; what was opened anew since will be.
        let meant = self.table.get(address).filter(|lease| lease.unproven_route().is_some_and(|at| at <= generation));
        let Some(lease) = meant.filter(|_| self.enforcers.is_required(enforcer)) else { return };
        let opened = lease.told().route.is_some_and(|told| told.opened <= generation);
        let refusal = Refusal::Enforcer { name: self.enforcers.name(enforcer), reason };
        if lease.route_proven || !opened {
            self.refuse_shares(address, Generation(0)..=generation, &refusal);
        } else {
            self.close_refused(EnforcerKind::Route, address, &refusal);
        }
    }

    /// Takes back the communities that these plans put on a route that stays open for others.
    fn refuse_shares(&mut self, address: IpAddr, plans: std::ops::RangeInclusive<Generation>, refusal: &Refusal) {
        let refused = |share: &Share| !share.proven && share.told.is_some_and(|told| plans.contains(&told));
        if self.table.retain_shares(address, |share| !refused(share)) {
            self.fail_tickets_of(address, |_, _| refusal.clone());
            self.marks.change(address);
            self.marks.journal(address);
        }
    }

    /// Takes back what a required enforcer does not hold, everywhere.
    fn close_refused(&mut self, kind: EnforcerKind, address: IpAddr, refusal: &Refusal) {
        self.fail_tickets_of(address, |_, _| refusal.clone());
        if let Some(lease) = self.table.get_mut(address) {
            lease.change_told(|told| match kind {
                EnforcerKind::Timed => told.timed_refused = true,
                EnforcerKind::Route => told.route_refused = true,
            });
        }
        // What lingered before the plan opened it again goes on lingering: its route was up all the time.
        let fallback = self.table.get(address).and_then(Lease::fallback).filter(|until| *until > self.now);
        match fallback {
            Some(until) if kind == EnforcerKind::Timed => {
                self.unproven.forget_timed(address, self.table.get_mut(address));
                self.table.linger(address, until);
                // For whom it was never in force it has nothing to linger for.
                self.table.retain_shares(address, |share| share.proven);
                self.pairs_follow(address);
                self.counts.closed += 1;
                self.marks.change(address);
                self.marks.journal(address);
            }
            _ => self.close(address, End::Refused),
        }
    }

    /// So many answers that were released did not leave: their leases could not be written to disk.
    pub fn withheld(&mut self, answers: u64) {
        self.counts.released = self.counts.released.saturating_sub(answers);
        self.counts.refused.enforcer = self.counts.refused.enforcer.saturating_add(answers);
    }

    /// Single addresses, ahead of what the enforcer has applied as a whole.
    pub(super) fn confirmed(&mut self, enforcer: EnforcerId, addresses: Vec<(IpAddr, Generation)>) {
        let mut news = Vec::new();
        for (address, generation) in addresses {
            // What was closed, or closed and opened anew, since then is not meant.
            let opened = self.table.get(address).and_then(|lease| lease.told().route).map(|told| told.opened);
            let generation = generation.min(self.generation);
            let closed = self.marks.removed_of(address).and_then(|told| told.route);
            if opened.is_none() && closed.is_some_and(|route| route.opened <= generation) {
                // Closed, but not planned: it may be opened again within this batch.
                self.enforcers.found(enforcer, address);
            }
            if opened.is_some_and(|opened| opened <= generation)
                && self.enforcers.confirmed(enforcer, address, generation, self.now)
            {
                news.push(address);
            }
        }
        if self.enforcers.is_required(enforcer) {
            self.prove_routes(news);
        }
    }
}
