//! What the table keeps of its leases twice, to find them: by when they end, by what they lack, and how many there are.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{ByFamily, Lease};
use crate::core::event::Generation;
use crate::core::moment::Moment;

/// A moment, or a plan's number, and whose it is. Without holes: there is one for each lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Due(pub(super) [u8; 8], pub(super) IpAddr);

pub(super) fn due(at: u64, address: IpAddr) -> Due {
    Due(at.to_be_bytes(), address)
}

/// Where one lease stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    timer: Moment,
    is_active: bool,
    lacks_timed: Option<Generation>,
    lacks_route: Option<Generation>,
}

impl Place {
    /// As it is now.
    pub(super) fn of(lease: &Lease) -> Self {
        let progress = lease.progress();
        Self {
            timer: lease.timer(),
            is_active: lease.is_active(),
            lacks_timed: progress.lacks_timed(),
            lacks_route: progress.lacks_route(),
        }
    }
}

/// Where all leases stand.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Places {
    /// When something ends.
    pub(super) timers: BTreeSet<Due>,
    /// Leases that lack an acknowledgement, by the first plan that they lack.
    pub(super) lacking_timed: BTreeSet<Due>,
    /// Leases whose route, or what it bears, is not confirmed, likewise.
    pub(super) lacking_route: BTreeSet<Due>,
    pub(super) active: ByFamily,
    pub(super) lingering: ByFamily,
}

impl Places {
    /// A lease has gone from one place to another; `None`: it is not in the table.
    pub(super) fn follow(&mut self, address: IpAddr, before: Option<Place>, after: Option<Place>) {
        if before == after {
            return;
        }
        let timer = |place: Place| Some(place.timer.0);
        let timed = |place: Place| Some(place.lacks_timed?.0);
        let route = |place: Place| Some(place.lacks_route?.0);
        let moves = |set: &mut BTreeSet<Due>, key: &dyn Fn(Place) -> Option<u64>| {
            let (before, after) = (before.and_then(key), after.and_then(key));
            if before != after {
                before.map(|at| set.remove(&due(at, address)));
                after.map(|at| set.insert(due(at, address)));
            }
        };
        moves(&mut self.timers, &timer);
        moves(&mut self.lacking_timed, &timed);
        moves(&mut self.lacking_route, &route);
        if let Some(before) = before {
            *self.count(before).of(address) -= 1;
        }
        if let Some(after) = after {
            *self.count(after).of(address) += 1;
        }
    }

    fn count(&mut self, place: Place) -> &mut ByFamily {
        if place.is_active { &mut self.active } else { &mut self.lingering }
    }
}
