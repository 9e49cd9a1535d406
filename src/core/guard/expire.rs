//! Leases and lingering routes end in their time; routes to which flows live stay longer.

use std::net::IpAddr;
use std::time::Duration;

use super::Guard;
use crate::core::ended::End;
use crate::core::event::{EnforcerKind, QueryPaths, StoredLease};
use crate::core::flows::{FlowsSeen, INTERVALS};
use crate::core::groups::GroupSet;
use crate::core::groups::Groups;
use crate::core::lease::{Lease, Share};
use crate::core::moment::Moment;

impl Guard {
    /// Ends the leases and lingering routes that are due.
    pub(super) fn expire(&mut self, now: Moment) {
        self.now = self.now.max(now);
        if !std::mem::replace(&mut self.begun, true) {
            self.enforcers.begin(self.now);
        }
        self.expire_pairs();
        while let Some((at, address)) = self.table.next_timer()
            && at <= self.now
        {
            let Some(lease) = self.table.get(address) else { return };
            // Or it is a group's time that is over.
            let at = lease.own_timer().max(at);
            if at > self.now {
                self.end_shares(address);
                continue;
            }
            let active = lease.is_active();
            if active {
                self.counts.expired += 1;
                // Who still waits for it would get an answer that is closed already.
                self.fail_tickets_of(address, Self::deadline_refusal);
            }
            let natural = if active { at.plus(self.settings.linger) } else { at };
            let until = self.route_until(address, natural);
            if self.enforcers.has(EnforcerKind::Route) && until > at {
                if active {
                    self.marks.change(address);
                }
                self.table.linger(address, until);
                if until > natural {
                    self.marks.journal(address);
                }
                continue;
            }
            self.drop_lease(address, End::Expired);
        }
    }

    /// When the route of an address goes whose lease has ended: at `natural`, or later because flows live.
    fn route_until(&mut self, address: IpAddr, natural: Moment) -> Moment {
        let Some(lease) = self.table.get(address) else { return natural };
        let held = self.flows.until(address, told_until(lease));
        let Some(held) = held.filter(|until| *until > natural && *until > self.now) else { return natural };
        // Half of what fits: answers find room.
        let most = self.settings.lease.capacity.min(self.enforcers.least_budget()) / 2;
        if !self.flows.hold(address, lease.holders(), most) {
            self.counts.flows_refused += 1;
            return natural;
        }
        held
    }

    /// Flows live; those to leased addresses keep their routes, and nothing else follows.
    pub(super) fn flows_seen(&mut self, FlowsSeen { source, interval, ends }: &FlowsSeen) {
        if !self.enforcers.has(EnforcerKind::Route) || self.flows.max().is_zero() {
            return;
        }
        let span = self.settings.linger.max(interval.saturating_mul(INTERVALS));
        let until = self.now.plus(span);
        // Moved before it is due, so that what is on disk covers a restart; not with each report.
        let soon = self.now.plus(span.mul_f64(0.75));
        for (one, other) in ends {
            for (address, client) in [(*one, *other), (*other, *one)] {
                let Some(lease) = self.table.get(address) else { continue };
                self.flows.see(address, *source, until);
                if let Some(lingers) = lease.lingers().filter(|lingers| *lingers < soon) {
                    let until = self.route_until(address, lingers);
                    if until <= lingers {
                        continue;
                    }
                    self.table.linger(address, until);
                    self.marks.journal(address);
                }
                self.keep_communities(address, client, until, soon);
            }
        }
    }

    /// The communities of the client's group stay on the route as well; of all groups, where it is not known who the
    /// client is.
    fn keep_communities(&mut self, address: IpAddr, client: IpAddr, until: Moment, soon: Moment) {
        let Some(lease) = self.table.get(address).filter(|lease| !lease.shares().is_empty()) else { return };
        let asked = lease.causes().iter().filter(|cause| cause.clients.iter().any(|(asked, _)| *asked == client));
        let groups = asked.filter_map(|cause| cause.group).chain(self.group_of(client, None));
        let groups: GroupSet = groups.filter(|group| lease.share(*group).is_some()).collect();
        let meant = |other| groups.is_empty() || groups.has(other);
        if !lease.shares().iter().any(|share| meant(share.group) && share.gone < soon) {
            return;
        }
        let max = self.flows.max();
        let stays = |share: &Share| meant(share.group).then(|| until.min(share.ends.plus(max)));
        self.table.keep_shares(address, stays);
    }

    /// For how long a live flow keeps the route of an address whose lease has ended, as things are now, and at most.
    pub(in crate::core) fn flow_holds(&self, address: IpAddr, lease: &Lease) -> Option<(Moment, Moment)> {
        let lingers = lease.lingers().filter(|_| self.flows.holds(address))?;
        Some((lingers, told_until(lease).plus(self.flows.max())))
    }

    /// Routes outlive their leases by so much from now on; those that linger already, too. O(leases).
    pub(super) fn set_linger(&mut self, linger: Duration) {
        let before = std::mem::replace(&mut self.settings.linger, linger);
        if before == linger {
            return;
        }
        self.table.move_linger(|until| until.minus(before).plus(linger));
        // What would have gone by now.
        self.expire(self.now);
    }
}

/// The latest end that anybody was told: what lingers after a restart has none of its own.
fn told_until(lease: &Lease) -> Moment {
    lease.causes().iter().map(|cause| cause.ends).max().unwrap_or(lease.ends())
}

/// A lease as it survives a restart.
pub(super) fn stored(
    (address, lease): (IpAddr, &Lease),
    paths: QueryPaths,
    linger: Duration,
    groups: &Groups,
    now: Moment,
) -> StoredLease {
    // What lingers is on disk as what has ended, so that its route survives a restart; what a flow holds, as what ended
    // just now at the latest.
    let ended = |gone: Moment| gone.minus(linger).min(now);
    let ends = lease.lingers().map_or(lease.ends(), ended);
    let shares = lease.shares().iter();
    let groups = shares.map(|share| (groups.name(share.group).to_owned(), share.ends.max(ended(share.gone)))).collect();
    StoredLease { address, ends, paths, adds: false, groups }
}
