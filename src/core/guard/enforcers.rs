//! Enforcers come and go while the guard runs.
//!
//! ```text
//!   a new one --joins--> gates nothing --Applied: all there was when it came--> gates, where that is required of it
//!             --else---> gates at once: what it lacks is out of force until it has it
//!   one that goes -----> what only it lacked is in force
//! ```
//!
//! So an operator who adds a second router keeps no answer waiting for a session that is not up yet. Until it has joined, the new router
//! refuses what it doesn't know; it opens nothing.

use std::net::IpAddr;

use super::Guard;
use crate::core::event::{EnforcerId, EnforcerKind, LeaseHandle, LeaseHandles, Listed, Output};
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

    /// What a router refused, or took back, while nobody waited for it is told anew once somebody does: answers would lack it for as long as their
    /// leases last.
    fn tell_what_was_refused(&mut self, optional: &[EnforcerId]) {
        for address in self.enforcers.lacked_by_required(optional) {
            match self.table.get_mut(address) {
                Some(lease) if lease.told().route.is_some() => lease.change_told(|told| told.route_refused = true),
                _ => continue,
            }
            self.marks.change(address);
        }
    }

    /// Others are required than before: what they hold is in force, and nothing else. O(leases).
    pub(super) fn follow_enforcers(&mut self) {
        let required = self.enforcers.requires(EnforcerKind::Route);
        let addresses: Vec<IpAddr> = self.table.iter().map(|(address, _)| address).collect();
        for address in addresses {
            let enforcers = &self.enforcers;
            if let Some(lease) = self.table.get_mut(address).filter(|_| required) {
                self.unproven.recheck_route(address, lease, |plan| enforcers.all_route(address, plan));
            }
        }
        if self.enforcers.all_timed().is_none() {
            self.unproven.lost(EnforcerKind::Timed, &mut self.table);
            self.pairs.iter_mut().for_each(crate::core::pairs::Pairs::lost);
        }
        self.prove_timed();
        self.prove_routes(self.unproven.all_routes());
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
        for told in self.marks.removed_mut() {
            (told.route, told.route_refused) = (None, false);
        }
        let groups = self.groups.clone();
        let addresses: Vec<IpAddr> = self.table.iter().map(|(address, _)| address).collect();
        for address in addresses {
            if let Some(lease) = self.table.get_mut(address) {
                self.unproven.untold_route(address, lease);
                if !groups.is_empty() {
                    // Who keeps an answer may belong to a group, which nobody asked for as long as no route bore anything.
                    lease.out_of_force();
                    lease.handle = LeaseHandle::new(address, lease.ends);
                }
            }
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
