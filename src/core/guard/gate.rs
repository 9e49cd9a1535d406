//! The gate from the guard's side: what answers need, who lacks nothing any more, and what becomes of the rest.

use std::net::IpAddr;

use super::Guard;
use crate::core::event::{Decision, EnforcerKind, Generation, Output, Refusal, Ticket};
use crate::core::gate::Waiting;

impl Guard {
    /// An answer whose plan, `plan` if anything changed, is made.
    ///
    /// Before: its leases were granted, and are planned. After: it lacks nothing where everything it needs is in force,
    /// else it waits; refused where one of its leases went within the batch.
    pub(super) fn meet_gate(&mut self, ticket: Ticket, mut waiting: Waiting, plan: Generation) {
        let mut routes = true;
        waiting.leases.reserve_exact(waiting.addresses.len());
        for address in &waiting.addresses {
            let Some(lease) = self.table.get(*address).filter(|lease| lease.is_active()) else {
                // Closed within the very batch that opened it.
                self.refuse(ticket, Refusal::Revoked);
                return;
            };
            let share = waiting.group.map(|group| lease.share(group));
            if matches!(share, Some(None)) {
                // Its group lost it within the very batch.
                self.refuse(ticket, Refusal::Revoked);
                return;
            }
            waiting.leases.push(lease.handle_of(waiting.group).clone());
            let planned = lease.planned();
            let timed = planned.timed.map(|timed| timed.last).unwrap_or_default();
            waiting.needs.timed = waiting.needs.timed.max(timed);
            let opened = planned.route.map(|route| route.opened).unwrap_or_default();
            let shared = share.flatten().and_then(|share| share.borne.plan()).unwrap_or_default();
            let needed = opened.max(shared);
            waiting.needs.route = waiting.needs.route.max(needed);
            if !lease.has_route(waiting.group) {
                routes = false;
                // What is opened while a session is down is part of the table that its next one starts with.
                if needed < plan || self.enforcers.lacks_route_session() {
                    self.hurry.insert(*address);
                }
            } else if needed != Generation::default() && needed < plan && self.enforcers.has(EnforcerKind::Route) {
                // What was announced before is about to be used again: whether the routers still have it is looked at
                // soon.
                self.hurry.insert(*address);
            }
        }
        if !self.need_pairs(&mut waiting) {
            self.refuse(ticket, Refusal::Revoked);
            return;
        }
        let timed = self.enforcers.acked_by_all_timed().is_some_and(|acked| waiting.needs.timed <= acked);
        if timed && routes {
            self.through.push((ticket, waiting));
            return;
        }
        self.gate.wait(ticket, waiting);
        // What is there already is not waited for.
        for (kind, is_there) in [(EnforcerKind::Timed, timed), (EnforcerKind::Route, routes)] {
            if is_there {
                self.through.extend(self.gate.pass(kind, ticket));
            }
        }
    }

    /// What every required timed enforcer has acknowledged is acked, and in force where it is confirmed too. After: who
    /// waited for that alone lacks nothing.
    pub(super) fn follow_acks(&mut self) {
        if let Some(generation) = self.enforcers.acked_by_all_timed() {
            self.pairs.iter_mut().for_each(|pairs| pairs.ack(generation));
            self.table.ack(generation, self.now);
            self.through.extend(self.gate.acknowledged(generation));
        }
    }

    /// Likewise for those of these addresses that every required route enforcer has: they are confirmed, and in force
    /// where they are acked too.
    pub(super) fn follow_confirmed(&mut self, addresses: Vec<IpAddr>) {
        for address in addresses {
            let holds = |plan| self.enforcers.confirmed_by_all_routes(address, plan);
            if !self.table.confirm(address, holds, self.now) {
                continue;
            }
            let table = &self.table;
            let in_force = |other, group| table.get(other).is_some_and(|lease| lease.has_route(group));
            self.through.extend(self.gate.in_force(address, in_force));
        }
    }

    /// Lets an answer go: the last word on its ticket.
    pub(super) fn decide(&mut self, ticket: Ticket, waiting: Waiting) {
        self.counts.released += 1;
        let decision = Decision::Release { leases: waiting.leases, short: waiting.short };
        self.decisions.push_back(Output::Decide { ticket, decision });
    }

    /// Refuses an answer: likewise.
    pub(super) fn refuse(&mut self, ticket: Ticket, refusal: Refusal) {
        *self.counts.refused.of(&refusal) += 1;
        self.decisions.push_back(Output::Decide { ticket, decision: Decision::Refuse(refusal) });
    }

    /// An answer's time is over: whom it waited for.
    pub(super) fn deadline_refusal(&self, waiting: &Waiting) -> Refusal {
        let opened = |address: &IpAddr| {
            let lease = self.table.get(*address)?;
            let shared = waiting.group.and_then(|group| lease.share(group)?.borne.plan()).unwrap_or_default();
            Some((*address, lease.planned().route?.opened.max(shared)))
        };
        let routes: Vec<_> = waiting.addresses.iter().filter_map(opened).collect();
        Refusal::Deadline { waiting_for: self.enforcers.missing(waiting.needs.timed, &routes) }
    }

    /// Refuses every answer that waits for an address.
    pub(super) fn fail_tickets_of(&mut self, address: IpAddr, refusal: impl Fn(&Self, &Waiting) -> Refusal) {
        let tickets = self.gate.tickets_of(address).collect();
        self.fail_tickets(tickets, refusal);
    }

    /// Refuses these answers, as far as they wait.
    pub(super) fn fail_tickets(&mut self, tickets: Vec<Ticket>, refusal: impl Fn(&Self, &Waiting) -> Refusal) {
        for ticket in tickets {
            if let Some(waiting) = self.gate.take(ticket) {
                let refusal = refusal(self, &waiting);
                self.refuse(ticket, refusal);
            }
        }
    }
}
