//! What holds of plans, and of what is on disk, whatever happened.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::core::event::{Change, StoredLease};
use crate::core::groups::{GroupCommunities, Groups};
use crate::core::guard::LeaseTable;
use crate::core::lease::Lease;
use crate::core::moment::Moment;

pub fn changed(change: &Change) -> IpAddr {
    match change {
        Change::Open { address, .. }
        | Change::Extend { address, .. }
        | Change::Close { address }
        | Change::Announce { address, .. }
        | Change::Narrow { address, .. } => *address,
    }
}

pub fn check_plan(changes: &[Change]) {
    let addresses: BTreeSet<IpAddr> = changes.iter().map(changed).collect();
    assert!(!changes.is_empty(), "an empty plan");
    assert_eq!(addresses.len(), changes.len(), "an address occurs twice in a plan");
}

/// What is on disk of an active lease is live for the same questions as the table, and as long.
pub fn check_stored(journal: &BTreeMap<IpAddr, StoredLease>, table: &LeaseTable, now: Moment) {
    let live = |ends: Moment| ends > now;
    for (address, lease) in table.iter().filter(|(_, lease)| lease.is_active()) {
        let stored = &journal[&address];
        let told = |lease: &Lease| lease.paths().into_iter().filter(|path| live(path.ends)).collect::<Vec<_>>();
        let wanted = told(lease);
        for path in stored.paths.iter().filter(|path| live(path.ends)) {
            assert!(wanted.iter().any(|other| other.is_same(path)), "{address}: {path:?} is only on disk");
        }
        for path in &wanted {
            assert!(stored.paths.iter().any(|other| other.is_same(path)), "{address}: {path:?} isn't on disk");
        }
    }
}

/// Carries out what a plan says of communities.
pub fn mark(bears: &mut BTreeMap<IpAddr, GroupCommunities>, changes: &[Change], groups: &Groups) {
    for change in changes {
        match change {
            Change::Open { address, .. } => drop(bears.insert(*address, GroupCommunities::default())),
            Change::Announce { address, groups: set, .. } => drop(bears.insert(*address, groups.communities(*set))),
            Change::Close { address } => drop(bears.remove(address)),
            Change::Extend { .. } | Change::Narrow { .. } => {}
        }
    }
}

pub fn covers(borne: &GroupCommunities, needed: &GroupCommunities) -> bool {
    needed.standard.iter().all(|community| borne.standard.contains(community))
        && needed.large.iter().all(|community| borne.large.contains(community))
}

/// Ends of what is active, and whether it is in force.
pub fn ends(table: &LeaseTable) -> BTreeMap<IpAddr, (Moment, bool)> {
    let active = table.iter().filter(|(_, lease)| lease.is_active());
    active.map(|(address, lease)| (address, (lease.ends(), lease.progress().in_force_since().is_some()))).collect()
}
