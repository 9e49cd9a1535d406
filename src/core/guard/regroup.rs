//! Groups whose routes bear communities of their own: whose a client is, whose time is over, and what follows from
//! other groups.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::Guard;
use crate::core::event::{EnforcerKind, LeaseHandles, Output};
use crate::core::gate::{Needs, Waiting};
use crate::core::groups::{Group, GroupSet, Groups, MOST_SETS};
use crate::core::person::Mark;

/// How much later a group is looked at again whose leaving found no room for another set of groups.
const POSTPONED: Duration = Duration::from_secs(60);

impl Guard {
    /// Groups whose time and its linger are over leave the route, which stays for the others.
    pub(super) fn end_shares(&mut self, address: IpAddr) {
        let now = self.now;
        let Some(lease) = self.table.get(address) else { return };
        let left: GroupSet = lease.shares().iter().filter(|share| share.gone > now).map(|share| share.group).collect();
        if left.is_empty() || self.group_sets.contains_key(&left) || self.group_sets.len() < MOST_SETS {
            self.table.take_shares(address, |share| share.gone <= now);
            self.marks.change(address);
            return;
        }
        // No room for one more set: they stay a while.
        self.table.keep_shares(address, |_| Some(now.plus(POSTPONED)));
    }

    /// The client's group, where routes bear communities by group.
    pub(super) fn group_of(&self, client: IpAddr, mark: Option<Mark>) -> Option<Group> {
        if self.groups.is_empty() || !self.enforcers.has(EnforcerKind::Route) {
            return None;
        }
        self.groups.of(client, mark)
    }

    /// Other groups: everybody is asked anew where they belong. O(leases).
    pub(super) fn regroup(&mut self, groups: Arc<Groups>) {
        if *groups == *self.groups {
            return;
        }
        let old = std::mem::replace(&mut self.groups, groups);
        self.outputs.push_back(Output::Groups(self.groups.clone()));
        if !self.enforcers.has(EnforcerKind::Route) {
            return;
        }
        let new = self.groups.clone();
        let addresses: Vec<IpAddr> = self.table.iter().map(|(address, _)| address).collect();
        for address in addresses {
            let name = |group| new.by_name(old.name(group));
            self.table.regroup(address, |client, mark| new.of(client, mark), name, self.settings.linger, self.now);
            self.marks.change(address);
            self.marks.journal(address);
        }
        self.group_sets.clear();
        let sets = &mut self.group_sets;
        let mut rename = |set: GroupSet| {
            let renamed = old.translated(set, &new);
            if let Some(set) = renamed {
                *sets.entry(set).or_default() += 1;
            }
            renamed
        };
        self.table.rename_groups(&mut rename);
        self.marks.rename_groups(rename);
        // What was promised to those who wait was promised to their old groups.
        let mut waiting = self.gate.take_all();
        waiting.append(&mut self.through);
        waiting.append(&mut self.fresh);
        for (ticket, waiting) in waiting {
            let group = self.group_of(waiting.client, waiting.mark);
            self.fresh
                .push((ticket, Waiting { group, leases: LeaseHandles::new(), needs: Needs::default(), ..waiting }));
        }
    }
}
