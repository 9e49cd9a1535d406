//! Enforcers come and go while the guard runs.
//!
//! ```text
//!   a new one --joins--> gates nothing --Applied: all there was when it came--> gates, where that is required of it
//!             --else---> gates at once: what it lacks is out of force until it has it
//!   one that goes -----> what only it lacked is in force
//! ```
//!
//! So an operator who adds a second router keeps no answer waiting for a session that is not up yet. Until it has
//! joined, the new router refuses what it doesn't know; it opens nothing.

use std::net::IpAddr;

use super::Guard;
use crate::core::event::{EnforcerId, EnforcerKind, LeaseHandles, Listed, Output};
use crate::core::gate::{Needs, Waiting};

impl Guard {
    /// These are the enforcers from now on. O(leases).
    pub(super) fn set_enforcers(&mut self, list: Vec<Listed>) {
        let had = self.enforcers.has(EnforcerKind::Route);
        let optional = self.enforcers.optional_routes();
        self.enforcers.set(list, self.now);
        if !had && self.enforcers.has(EnforcerKind::Route) {
            self.tell_routes_anew();
        }
        self.follow_enforcers();
        self.tell_what_was_refused(&optional);
    }

    /// What a router refused, or took back, while nobody waited for it is told anew once somebody does: answers would
    /// lack it for as long as their leases last.
    fn tell_what_was_refused(&mut self, optional: &[EnforcerId]) {
        for address in self.enforcers.lacked_by_required(optional) {
            if self.table.get(address).is_some_and(|lease| lease.planned().route.is_some()) {
                self.table.refuse(address, EnforcerKind::Route);
                self.marks.change(address);
            }
        }
    }

    /// Others are required than before. After: what they have acknowledged and confirmed is in force, and nothing else.
    /// O(leases).
    pub(super) fn follow_enforcers(&mut self) {
        if self.enforcers.requires(EnforcerKind::Route) {
            self.table.recheck_routes(|address, plan| self.enforcers.confirmed_by_all_routes(address, plan));
        }
        if self.enforcers.acked_by_all_timed().is_none() {
            self.table.lose(EnforcerKind::Timed);
            self.pairs.iter_mut().for_each(crate::core::pairs::Pairs::lose);
        }
        self.follow_acks();
        self.follow_confirmed(self.table.lacking_routes());
        self.ask_anew();
    }

    /// Who waits needs other things now.
    pub(super) fn ask_anew(&mut self) {
        let mut waiting = self.gate.take_all();
        waiting.append(&mut self.through);
        waiting.append(&mut self.fresh);
        for (ticket, waiting) in waiting {
            let group = self.group_of(waiting.client, waiting.mark);
            let fresh = Waiting { group, leases: LeaseHandles::new(), needs: Needs::default(), ..waiting };
            self.fresh.push((ticket, fresh));
        }
    }

    /// There was nobody who was told of routes: the first one begins with nothing.
    fn tell_routes_anew(&mut self) {
        self.outputs.push_back(Output::RoutesAnew);
        self.group_sets.clear();
        self.marks.forget_removed_routes();
        let groups = self.groups.clone();
        // Who keeps an answer may belong to a group, which nobody asked for as long as no route bore anything.
        self.table.unplan_routes(!groups.is_empty());
        let addresses: Vec<IpAddr> = self.table.iter().map(|(address, _)| address).collect();
        for address in addresses {
            if !groups.is_empty() {
                self.table.regroup(
                    address,
                    |client, mark| groups.of(client, mark),
                    Some,
                    self.settings.linger,
                    self.now,
                );
                self.marks.journal(address);
            }
            self.marks.change(address);
        }
    }
}
