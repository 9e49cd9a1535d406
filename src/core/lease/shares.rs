//! Groups' parts in leases: until when each was told of an address, and how far its communities are on the route.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::cause::{add_client, earliest};
use super::progress::Borne;
use super::{CAUSES_PER_ADDRESS, CLIENTS_PER_CAUSE, Cause, Causes, Clients, LeaseTable};
use crate::core::event::LeaseHandle;
use crate::core::groups::Group;
use crate::core::moment::Moment;
use crate::core::person::Mark;
use crate::core::plan::LEAST_EXTENSION;

/// One group's part in a lease.
#[derive(Clone, Debug)]
pub struct Share {
    /// The group whose share it is.
    pub group: Group,
    /// The latest end that anybody of the group was told.
    pub ends: Moment,
    /// When the group's communities leave the route.
    pub gone: Moment,
    /// What the hot path reads for clients of the group.
    pub handle: LeaseHandle,
    /// How far the group's communities are at the route enforcers.
    pub borne: Borne,
}

impl LeaseTable {
    /// Gives a group a part in a lease until `ends`, or moves its end later; its communities stay `linger` longer.
    /// Returns whether that is worth a record on disk.
    ///
    /// After: a part that is new waits for its plan; one that is in force is so until its new end as far as timed
    /// enforcers hold the lease.
    pub fn share(&mut self, address: IpAddr, group: Group, ends: Moment, linger: Duration) -> bool {
        let gone = ends.plus(linger);
        let notable = self.step(address, |lease| {
            let acked = lease.progress().acked();
            lease.change_shares(|shares| match shares.binary_search_by_key(&group, |share| share.group) {
                Ok(at) => shares.get_mut(at).is_some_and(|share| {
                    let notable = ends >= share.ends.plus(LEAST_EXTENSION);
                    share.ends = share.ends.max(ends);
                    share.gone = share.gone.max(gone);
                    // The timed enforcers may hold it for long enough already.
                    if let Some(acked) = acked.filter(|_| share.borne.is_confirmed()) {
                        share.handle.set_ends(acked.min(share.ends));
                    }
                    notable
                }),
                Err(at) => {
                    let handle = LeaseHandle::new(address, ends);
                    shares.insert(at, Share { group, ends, gone, handle, borne: Borne::Unplanned });
                    true
                }
            })
        });
        notable.unwrap_or(false)
    }

    /// Takes their parts from groups of which `gone` says so; returns whether one went. After: who has the handle of
    /// such a part asks again.
    pub fn take_shares(&mut self, address: IpAddr, gone: impl Fn(&Share) -> bool) -> bool {
        self.retain_shares(address, |share| !gone(share))
    }

    /// The communities of groups stay on the route for as long as `until` says, or longer.
    pub fn keep_shares(&mut self, address: IpAddr, until: impl Fn(&Share) -> Option<Moment>) {
        self.retain_shares(address, |share| {
            share.gone = until(share).map_or(share.gone, |until| share.gone.max(until));
            true
        });
    }

    fn retain_shares(&mut self, address: IpAddr, mut keep: impl FnMut(&mut Share) -> bool) -> bool {
        let went = self.step(address, |lease| {
            lease.change_shares(|shares| {
                let before = shares.len();
                shares.retain_mut(|share| {
                    let kept = keep(share);
                    if !kept {
                        share.handle.set_in_force(false);
                    }
                    kept
                });
                shares.len() < before
            })
        });
        went.unwrap_or(false)
    }

    /// Groups have no longer a part than their causes say; those read back from disk may be any group's.
    pub(super) fn follow_causes(&mut self, address: IpAddr, now: Moment) {
        let Some(lease) = self.leases.get(address).filter(|lease| !lease.shares().is_empty()) else { return };
        let mut latest: BTreeMap<Group, Moment> = BTreeMap::new();
        for share in lease.shares() {
            let of = lease.causes().iter().filter(|cause| cause.group == Some(share.group) || cause.qtype.is_none());
            if let Some(ends) = of.map(|cause| cause.ends).max() {
                latest.insert(share.group, ends);
            }
        }
        self.retain_shares(address, |share| {
            let Some(ends) = latest.get(&share.group) else { return false };
            if *ends < share.ends {
                share.gone = ends.plus(share.ends.until(share.gone));
                share.ends = *ends;
                share.handle.set_ends(share.handle.ends().min(*ends));
            }
            share.gone > now
        });
    }

    /// Other groups: each client's part in a cause goes to the group that `of` gives it now. `name` says what has
    /// become of a group whose clients aren't all known. After: the parts in the lease are those of the causes, and
    /// none of them is planned.
    pub fn regroup(
        &mut self,
        address: IpAddr,
        of: impl Fn(IpAddr, Option<Mark>) -> Option<Group>,
        name: impl Fn(Group) -> Option<Group>,
        linger: Duration,
        now: Moment,
    ) {
        let taken = self.step(address, |lease| (lease.take_shares(), std::mem::take(lease.causes_mut())));
        let Some((shares, causes)) = taken else { return };
        shares.iter().for_each(|share| share.handle.set_in_force(false));
        let mut parts: BTreeMap<Group, Moment> = BTreeMap::new();
        let mut extend = |group: Option<Group>, ends: Moment| {
            if let Some(group) = group {
                let known = parts.entry(group).or_insert(ends);
                *known = (*known).max(ends);
            }
        };
        let unknown = |cause: &Cause| cause.clients.is_empty() || cause.clients.len() >= CLIENTS_PER_CAUSE;
        if causes.iter().any(unknown) {
            shares.iter().for_each(|share| extend(name(share.group), share.ends));
        }
        let mut regrouped = Causes::with_capacity(causes.len());
        for cause in causes {
            // What the others bear as well comes back below.
            self.forget(address, &cause);
            let mut pieces: BTreeMap<Option<Group>, Cause> = BTreeMap::new();
            if unknown(&cause) {
                let group = cause.group.and_then(&name);
                pieces.insert(group, Cause { group, clients: Clients::new(), ..cause.clone() });
            }
            for (client, ends) in &cause.clients {
                let group = of(*client, cause.mark);
                extend(group, *ends);
                let empty = || Cause { group, clients: Clients::new(), ends: *ends, ..cause.clone() };
                let piece = pieces.entry(group).or_insert_with(empty);
                piece.clients.push((*client, *ends));
                piece.ends = piece.ends.max(*ends);
            }
            for piece in pieces.into_values() {
                match regrouped.iter_mut().find(|other| other.same(&piece)) {
                    Some(other) => {
                        other.ends = other.ends.max(piece.ends);
                        for (client, ends) in piece.clients {
                            self.dropped += u64::from(add_client(other, client, ends));
                        }
                    }
                    None => regrouped.push(piece),
                }
            }
        }
        while regrouped.len() > CAUSES_PER_ADDRESS
            && let Some(first) = earliest(&regrouped)
        {
            regrouped.swap_remove(first);
            self.dropped += 1;
        }
        for cause in &regrouped {
            self.entries += cause.entries();
            self.names.add(address, cause);
        }
        if let Some(lease) = self.leases.get_mut(address) {
            *lease.causes_mut() = regrouped;
        }
        for (group, ends) in parts.into_iter().filter(|(_, ends)| ends.plus(linger) > now) {
            self.share(address, group, ends, linger);
        }
    }
}
