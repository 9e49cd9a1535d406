//! What enforcers report: what they lost, refused or hold ahead of the rest.

use std::net::IpAddr;

use super::Guard;
use super::plan::count_sets;
use crate::core::ended::End;
use crate::core::event::{EnforcerId, EnforcerKind, Generation, Refusal};
use crate::core::lease::{Lease, Share};
use crate::core::narrow::{Narrow, PairId};
use crate::core::pairs::Pairs;
use crate::core::plan::Planned;

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
        self.table.lose(kind);
        if kind == EnforcerKind::Timed {
            self.pairs.iter_mut().for_each(Pairs::lose);
        }
    }

    /// What is planned of an address, leased or not: what is closed, but not planned, may be opened again within this
    /// batch; then its route just stays.
    fn planned(&self, address: IpAddr) -> Option<Planned> {
        self.table.get(address).map(Lease::planned).or_else(|| self.marks.removed_of(address))
    }

    /// A router took single routes back, and was sent them again: none counts before it is confirmed again. It stays
    /// open meanwhile.
    pub(super) fn missing_routes(&mut self, enforcer: EnforcerId, addresses: &[IpAddr], generation: Generation) {
        if self.enforcers.kind(enforcer) != Some(EnforcerKind::Route) {
            return;
        }
        let required = self.enforcers.is_required(enforcer);
        for address in addresses {
            // What was opened anew since then is not meant.
            let planned = self.planned(*address).and_then(|planned| planned.route);
            if planned.is_none_or(|route| route.opened > generation) {
                continue;
            }
            self.enforcers.lacks(enforcer, *address);
            if required {
                self.table.lose_route(*address);
            }
        }
    }

    /// A timed enforcer lacks single elements. What was closed meanwhile is closed; what is left is planned anew, for
    /// all of its kind.
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
            if self.table.miss(*address, required) {
                self.marks.change(*address);
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
        for address in self.table.opened_by(kind, generation) {
            self.close_refused(kind, address, &refusal);
        }
        if kind == EnforcerKind::Timed {
            self.refuse_pairs(generation, &refusal);
        }
        if kind == EnforcerKind::Route {
            for address in self.table.shared_by(generation) {
                self.refuse_shares(address, generation..=generation, &refusal);
            }
        }
        let changed: Vec<IpAddr> = self.marks.changed().collect();
        for address in changed {
            self.tell_anew(kind, address, |plan| plan == generation);
        }
    }

    /// Nobody waits for this route enforcer now. It may be required later: then what it refused is what it lacks.
    /// O(leases).
    fn note_refusal(&mut self, enforcer: EnforcerId, kind: EnforcerKind, refused: impl Fn(Generation) -> bool) {
        if kind != EnforcerKind::Route {
            return;
        }
        let leased = self.table.iter().filter(|(_, lease)| {
            let opened = lease.planned().route.is_some_and(|route| refused(route.opened));
            opened || lease.shares().iter().any(|share| share.borne.plan().is_some_and(&refused))
        });
        let mut lacking: Vec<IpAddr> = leased.map(|(address, _)| address).collect();
        lacking.extend(self.marks.removed_where(|planned| planned.route.is_some_and(|route| refused(route.opened))));
        lacking.into_iter().for_each(|address| self.enforcers.lacks(enforcer, address));
    }

    /// An address that was closed and opened again since the last plan, or that a group left and came back to, is not
    /// what the refused plan was about; but what that plan said of it is not there. The next plan says it anew, though
    /// nothing differs from what is planned.
    fn tell_anew(&mut self, kind: EnforcerKind, address: IpAddr, refused: impl Fn(Generation) -> bool) {
        let anew = self.table.plan_anew(address, kind, &refused);
        let anew = anew.or_else(|| self.marks.plan_removed_anew(address, kind, &refused));
        if let Some((before, planned)) = anew {
            count_sets(&mut self.group_sets, before, planned);
        }
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
            let planned = self.planned(address).and_then(|planned| planned.route);
            if planned.is_some_and(|route| route.opened <= generation) {
                self.enforcers.lacks(enforcer, address);
            }
        }
        // What is in force was confirmed by this enforcer too; what was opened anew since will be.
        let meant = self.table.get(address).filter(|lease| lease.lacks_route().is_some_and(|at| at <= generation));
        let Some(lease) = meant.filter(|_| self.enforcers.is_required(enforcer)) else { return };
        let opened = lease.planned().route.is_some_and(|route| route.opened <= generation);
        let refusal = Refusal::Enforcer { name: self.enforcers.name(enforcer), reason };
        if lease.progress().is_confirmed() || !opened {
            self.refuse_shares(address, Generation(0)..=generation, &refusal);
        } else {
            self.close_refused(EnforcerKind::Route, address, &refusal);
        }
    }

    /// Takes back the communities that these plans put on a route that stays open for others.
    fn refuse_shares(&mut self, address: IpAddr, plans: std::ops::RangeInclusive<Generation>, refusal: &Refusal) {
        let refused = |share: &Share| share.borne.lacks().is_some_and(|plan| plans.contains(&plan));
        if self.table.take_shares(address, refused) {
            self.fail_tickets_of(address, |_, _| refusal.clone());
            self.marks.change(address);
            self.marks.journal(address);
        }
    }

    /// Takes back what a required enforcer does not hold, everywhere.
    fn close_refused(&mut self, kind: EnforcerKind, address: IpAddr, refusal: &Refusal) {
        self.fail_tickets_of(address, |_, _| refusal.clone());
        self.table.refuse(address, kind);
        // What lingered before the plan opened it again goes on lingering: its route was up all the time.
        let fallback = self.table.get(address).and_then(Lease::fallback).filter(|until| *until > self.now);
        match fallback {
            Some(until) if kind == EnforcerKind::Timed => {
                self.table.linger(address, until);
                // For whom it was never in force it has nothing to linger for.
                self.table.take_shares(address, |share| !share.borne.is_confirmed());
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
            let opened = self.table.get(address).and_then(|lease| lease.planned().route).map(|route| route.opened);
            let generation = generation.min(self.generation);
            let closed = self.marks.removed_of(address).and_then(|planned| planned.route);
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
            self.follow_confirmed(news);
        }
    }
}
