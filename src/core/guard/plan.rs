//! The plan: all that events changed since the last one, as at most one message to each enforcer, in which each address
//! occurs at most once.
//!
//! ```text
//!  marks --draw_plan--> changes, records
//!                          |
//!    1  tell_guards        Share
//!    2  cut_what_reopens   CutFlows, of what the plan opens again: opening ends a cut
//!    3  send_changes       ApplyTimed, ApplyRoutes
//!    4  send_full_states   Sync, which holds the changes too
//!    5  keep               JournalRevoked, JournalClosed, Journal, JournalPair
//!    6                     CutFlows, of what the plan closes: a flow that is cut earlier comes back at once
//!    7  follow_plan        what needs nobody's word is in force
//!    8  meet_gate          fresh answers go through, or wait
//!    9  release            who lacks nothing goes; Hurry, of what is waited for
//! ```
//!
//! Decisions leave behind all of these: what an answer needs on disk is written before the answer leaves.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::Guard;
use super::expire::stored;
use crate::core::event::{Change, EnforcerKind, Generation, LeaseHandles, Output, QueryPaths, StoredLease};
use crate::core::gate::{Needs, Waiting};
use crate::core::groups::GroupSet;
use crate::core::lease::{Lease, Required};
use crate::core::plan::{Mark, Planned, Wanted, difference};

/// A plan that is being made.
struct Plan {
    generation: Generation,
    required: Required,
    /// For timed enforcers.
    timed: Vec<Change>,
    /// What they hold of leases changes, whatever they are told in place of the leases.
    is_timed: bool,
    /// For route enforcers.
    routes: Vec<Change>,
    /// Leases that lack a route, or what it bears, with this plan.
    lacking: Vec<IpAddr>,
    /// For the disk, in order.
    records: Vec<Output>,
}

impl Guard {
    /// Makes one plan of all marks, then lets the new answers through or to the gate.
    ///
    /// Before: all outputs of the last plan have left. After: nothing is marked, to be cut or to be synced, and no
    /// answer is fresh: each that came since the last plan is decided, or waits at the gate.
    pub(super) fn plan(&mut self) {
        let mut plan = self.draw_plan();
        self.plan_pairs(plan.generation, &mut plan.timed);
        self.tell_guards();
        let closed = self.cut_what_reopens();
        let generation = plan.generation;
        self.send_changes(generation, &mut plan);
        self.send_full_states();
        self.keep(plan.records);
        self.outputs.extend(closed.into_iter().map(Output::CutFlows));
        self.follow_plan(plan.lacking);
        for (ticket, waiting) in std::mem::take(&mut self.fresh) {
            self.meet_gate(ticket, waiting, generation);
        }
        self.release(generation);
    }

    /// Takes the marks; what they come to is planned of each lease, and to be said.
    ///
    /// Before: the table is as events left it, and each lease that differs from what is planned of it is marked. After:
    /// what is planned is what is wanted, of every lease and of every address that left the table.
    fn draw_plan(&mut self) -> Plan {
        let required = Required {
            timed: self.enforcers.requires(EnforcerKind::Timed),
            route: self.enforcers.requires(EnforcerKind::Route),
        };
        let mut plan = Plan {
            generation: Generation(self.generation.0 + 1),
            required,
            timed: Vec::new(),
            is_timed: false,
            routes: Vec::new(),
            lacking: Vec::new(),
            // First: a name that is revoked is struck from what is on disk; the records of leases say what is left.
            records: std::mem::take(&mut self.revoked).into_iter().map(Output::JournalRevoked).collect(),
        };
        for (address, mark) in self.marks.take() {
            self.exchange.iter_mut().for_each(|exchange| exchange.mark(address));
            self.plan_address(address, mark, &mut plan);
        }
        plan.is_timed = !plan.timed.is_empty();
        plan
    }

    /// Plans one address, leased or not: what differs goes to the enforcers, what is to be kept to the disk. After:
    /// what is planned is what is wanted.
    fn plan_address(&mut self, address: IpAddr, mark: Mark, plan: &mut Plan) {
        let mut change = |planned: Planned, wanted: Wanted| {
            let wanted = Wanted { route: wanted.route.filter(|_| self.announces), ..wanted };
            let change = difference(address, planned, wanted, plan.generation, self.now);
            // What a router lacked or refused before is not lacked any more: the plan says it anew.
            if matches!(
                change.route,
                Some(Change::Open { .. } | Change::Announce { new: true, .. } | Change::Close { .. })
            ) {
                self.enforcers.planned_anew(address);
            }
            count_sets(&mut self.group_sets, planned, change.planned);
            plan.timed.extend(change.timed);
            plan.routes.extend(change.route);
            change.planned
        };
        let lease = if mark.change {
            let removed = self.marks.take_removed(address);
            let planned = |lease: &Lease| change(lease.planned(), lease.wanted());
            let lease = self.table.plan(address, plan.required, self.now, planned);
            match lease {
                Some(lease) if lease.lacks_route().is_some() => plan.lacking.push(address),
                Some(_) => {}
                None => drop(change(removed, Wanted::default())),
            }
            lease
        } else {
            self.table.get(address)
        };
        if mark.journal {
            let stored = |lease: &Lease, paths: QueryPaths| {
                stored((address, lease), paths, self.settings.linger, &self.groups, self.now)
            };
            write_down(address, mark, lease, stored, &mut plan.records);
        }
    }

    /// Cuts flows to what is open again within the same batch: opening it ends the cut, so the cut comes first. Returns
    /// the other addresses whose flows are to be cut once they are closed.
    fn cut_what_reopens(&mut self) -> Vec<IpAddr> {
        let (open_again, closed): (Vec<_>, Vec<_>) = std::mem::take(&mut self.cuts)
            .into_iter()
            .partition(|address| self.table.get(*address).is_some_and(Lease::is_active));
        self.outputs.extend(open_again.into_iter().map(Output::CutFlows));
        closed
    }

    /// Sends the changes to enforcers of each kind, where there are both. After: the guard's generation is the plan's
    /// if anybody has to acknowledge it.
    fn send_changes(&mut self, generation: Generation, plan: &mut Plan) {
        let (timed, routes) = (std::mem::take(&mut plan.timed), std::mem::take(&mut plan.routes));
        // Where they are told of pairs, leases may change of which no pair does: the plan is empty then, and its
        // acknowledgement still what these leases lack.
        let timed_to = (plan.is_timed || !timed.is_empty()) && self.enforcers.has(EnforcerKind::Timed);
        let routes_to = !routes.is_empty() && self.enforcers.has(EnforcerKind::Route);
        if timed_to || routes_to {
            self.generation = generation;
        }
        if timed_to {
            self.enforcers.planned(EnforcerKind::Timed, generation, opens(&timed), self.now);
            self.outputs.push_back(Output::ApplyTimed { generation, changes: timed });
        }
        if routes_to {
            self.enforcers.planned(EnforcerKind::Route, generation, opens(&routes), self.now);
            self.outputs.push_back(Output::ApplyRoutes { generation, changes: routes });
        }
    }

    /// Sends all that is open to timed enforcers that asked for it. After: each is trusted from a generation of its own
    /// on, which is later than the plan's: what it acknowledges before that is of a state that it lost.
    fn send_full_states(&mut self) {
        for enforcer in std::mem::take(&mut self.syncs) {
            self.generation = Generation(self.generation.0 + 1);
            self.enforcers.synced(enforcer, self.generation);
            let active = self.table.iter().filter(|(_, lease)| lease.is_active());
            let (leases, pairs) = match &self.pairs {
                None => (active.map(|(address, lease)| (address, lease.ends())).collect(), Vec::new()),
                Some(pairs) => (Vec::new(), pairs.full()),
            };
            self.outputs.push_back(Output::Sync { enforcer, generation: self.generation, leases, pairs });
        }
    }

    /// Hands what is to be on disk on, leases before the pairs that hang on them.
    fn keep(&mut self, records: Vec<Output>) {
        self.outputs.extend(records);
        self.journal_pairs();
    }

    /// The plan is on its way. After: what needs no word on it, since enforcers have it already or none is required, is
    /// in force; who waited for that alone lacks nothing.
    fn follow_plan(&mut self, lacking: Vec<IpAddr>) {
        self.follow_acks();
        self.follow_confirmed(lacking);
    }

    /// Decides for those who lack nothing.
    ///
    /// Before: they lacked nothing when they were found. After: each is decided, or at the gate again: an enforcer may
    /// have been lost, an address revoked, after the acknowledgement but within the same batch.
    fn release(&mut self, generation: Generation) {
        for (ticket, waiting) in std::mem::take(&mut self.through) {
            if waiting.leases.iter().all(|lease| lease.in_force_for(self.now, Duration::ZERO)) {
                self.decide(ticket, waiting);
            } else {
                let anew = Waiting { leases: LeaseHandles::new(), needs: Needs::default(), ..waiting };
                self.meet_gate(ticket, anew, generation);
            }
        }
        // Who came through just now was looked at just now.
        for (ticket, waiting) in std::mem::take(&mut self.through) {
            self.decide(ticket, waiting);
        }
        let hurry = std::mem::take(&mut self.hurry);
        if !hurry.is_empty() {
            self.outputs.push_back(Output::Hurry(hurry.into_iter().collect()));
        }
    }
}

/// What is to be on disk of a marked address, leased or not.
fn write_down(
    address: IpAddr,
    mark: Mark,
    lease: Option<&Lease>,
    stored: impl FnOnce(&Lease, QueryPaths) -> StoredLease,
    records: &mut Vec<Output>,
) {
    let Some(lease) = lease else { return records.push(Output::JournalClosed(address)) };
    // A record adds to what is on disk. What was taken back must not count there any more, whatever becomes of the
    // record behind this one.
    if mark.anew {
        records.push(Output::JournalClosed(address));
    }
    let paths = if mark.whole { lease.paths() } else { mark.paths };
    records.push(Output::Journal(StoredLease { adds: !mark.whole, ..stored(lease, paths) }));
}

/// Takes note of a set of groups that is planned in place of another. Before: what was planned is counted. After: what
/// is planned is, and sets that no address has any more are not: how many there are is bounded.
pub(super) fn count_sets(sets: &mut BTreeMap<GroupSet, usize>, before: Planned, after: Planned) {
    let set = |planned: Planned| planned.route.and_then(|route| route.groups);
    let (before, after) = (set(before), set(after));
    if before == after {
        return;
    }
    if let Some(set) = before
        && let Some(count) = sets.get_mut(&set)
    {
        *count -= 1;
        if *count == 0 {
            sets.remove(&set);
        }
    }
    if let Some(set) = after {
        *sets.entry(set).or_default() += 1;
    }
}

fn opens(changes: &[Change]) -> usize {
    changes.iter().filter(|change| matches!(change, Change::Open { .. } | Change::Announce { new: true, .. })).count()
}
