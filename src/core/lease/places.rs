//! What the table keeps of its leases twice, to find them: by when they end, by what they lack, and how many there are.

use std::net::IpAddr;

use super::by_address::AddressQueue;
use super::{ByFamily, Lease};
use crate::core::event::Generation;
use crate::core::moment::Moment;

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
            lacks_route: lease.lacks_route(),
        }
    }
}

/// Where all leases stand.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Places {
    /// When something ends.
    pub(super) timers: AddressQueue,
    /// Leases that lack an acknowledgement, by the first plan that they lack.
    pub(super) lacking_timed: AddressQueue,
    /// Leases whose route, or what it bears, is not confirmed, likewise.
    pub(super) lacking_route: AddressQueue,
    pub(super) active: ByFamily,
    pub(super) lingering: ByFamily,
}

impl Places {
    /// A lease has gone from one place to another; `None`: it is not in the table.
    pub(super) fn follow(&mut self, address: IpAddr, before: Option<Place>, after: Option<Place>) {
        if before == after {
            return;
        }
        let timer = |place: Option<Place>| Some(place?.timer.0);
        let timed = |place: Option<Place>| Some(place?.lacks_timed?.0);
        let route = |place: Option<Place>| Some(place?.lacks_route?.0);
        moves(&mut self.timers, address, timer(before), timer(after));
        moves(&mut self.lacking_timed, address, timed(before), timed(after));
        moves(&mut self.lacking_route, address, route(before), route(after));
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

fn moves(queue: &mut AddressQueue, address: IpAddr, before: Option<u64>, after: Option<u64>) {
    if before == after {
        return;
    }
    if let Some(before) = before {
        queue.remove(before, address);
    }
    if let Some(after) = after {
        queue.insert(after, address);
    }
}
