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
use std::time::Duration;

use super::Guard;
use crate::core::event::{EnforcerKind, LeaseHandle, LeaseHandles, Listed, Output};
use crate::core::gate::{Needs, Waiting};

impl Guard {
    /// These are the enforcers from now on. O(leases).
    pub(super) fn set_enforcers(&mut self, list: Vec<Listed>) {
        let had = self.enforcers.has(EnforcerKind::Route);
        self.enforcers.set(list, self.now);
        if !had && self.enforcers.has(EnforcerKind::Route) {
            self.tell_routes_anew();
        }
        self.follow_enforcers();
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
            let group = self.group_of(waiting.client);
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
                self.table.regroup(address, |client| groups.of(client), Some, self.settings.linger, self.now);
                self.marks.journal(address);
            }
            self.marks.change(address);
        }
    }

    /// Routes outlive their leases by so much from now on; those that linger already, too. O(leases).
    pub(super) fn set_linger(&mut self, linger: Duration) {
        let before = std::mem::replace(&mut self.settings.linger, linger);
        if before == linger {
            return;
        }
        let all: Vec<(IpAddr, _)> = self.table.iter().map(|(address, lease)| (address, lease.lingers)).collect();
        for (address, lingers) in all {
            if let Some(lease) = self.table.get_mut(address) {
                lease.fallback = lease.fallback.map(|until| until.minus(before).plus(linger));
            }
            self.table.retain_shares(address, |share| {
                share.gone = share.gone.minus(before).plus(linger);
                true
            });
            if let Some(until) = lingers {
                self.table.linger(address, until.minus(before).plus(linger));
            }
        }
        // What would have gone by now.
        self.expire(self.now);
    }
}
