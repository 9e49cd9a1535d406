//! Commands that a driver carries out together.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use crate::core::event::{Change, Generation};
use crate::core::narrow::Narrow;

/// Plans in order, and addresses whose flows are to be cut behind them.
#[derive(Debug, Default)]
pub(in crate::enforce) struct Merged {
    pub(in crate::enforce) plans: Vec<(Generation, Vec<Change>)>,
    pub(in crate::enforce) cuts: HashSet<IpAddr>,
}

impl Merged {
    /// With another plan.
    pub(in crate::enforce) fn apply(&mut self, generation: Generation, changes: Vec<Change>) {
        for change in &changes {
            if !matches!(change, Change::Close { .. } | Change::Narrow { ends: None, .. }) {
                // Opened again after it was to be cut.
                self.cuts.remove(&subject(change).0);
            }
        }
        self.plans.push((generation, changes));
    }

    /// With flows to this address cut.
    pub(in crate::enforce) fn cut(&mut self, address: IpAddr) {
        self.cuts.insert(address);
    }
}

/// Whether it is opened first by this.
pub(in crate::enforce) fn opens(change: &Change) -> bool {
    matches!(change, Change::Open { .. } | Change::Narrow { ends: Some(_), new: true, .. })
}

/// The last change of each address, and of each pair of it.
pub(in crate::enforce) fn latest<'a>(changes: impl Iterator<Item = &'a Change>) -> Vec<Change> {
    let latest: HashMap<(IpAddr, Option<Narrow>), Change> = changes.map(|change| (subject(change), *change)).collect();
    latest.into_values().collect()
}

/// What a change is about.
pub(in crate::enforce) fn subject(change: &Change) -> (IpAddr, Option<Narrow>) {
    match change {
        Change::Open { address, .. }
        | Change::Extend { address, .. }
        | Change::Close { address }
        | Change::Announce { address, .. } => (*address, None),
        Change::Narrow { address, narrow, .. } => (*address, Some(*narrow)),
    }
}
