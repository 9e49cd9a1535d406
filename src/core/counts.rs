//! What the guard counts, for status and metrics.

use serde::Serialize;

use super::event::Refusal;

/// Refused answers by kind; the fields are named as [`super::event::Refusal`]'s variants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RefusedCounts {
    /// The gate's deadline passed.
    pub deadline: u64,
    /// A required enforcer refused the plan.
    pub enforcer: u64,
    /// A required enforcer can't hold the address family.
    pub family: u64,
    /// Too many addresses in one answer.
    pub per_answer: u64,
    /// The client's rate of new addresses.
    pub per_client: u64,
    /// The registrable domain's rate of new addresses.
    pub per_domain: u64,
    /// A route budget.
    pub route_budget: u64,
    /// The lease table, or the gate's list of waiting answers, is full.
    pub capacity: u64,
    /// Revoked while the answer waited.
    pub revoked: u64,
}

impl RefusedCounts {
    /// Those of this kind.
    pub fn of(&mut self, refusal: &Refusal) -> &mut u64 {
        match refusal {
            Refusal::Deadline { .. } => &mut self.deadline,
            Refusal::Enforcer { .. } => &mut self.enforcer,
            Refusal::Family { .. } => &mut self.family,
            Refusal::PerAnswer => &mut self.per_answer,
            Refusal::PerClient => &mut self.per_client,
            Refusal::PerDomain => &mut self.per_domain,
            Refusal::RouteBudget { .. } => &mut self.route_budget,
            Refusal::Capacity => &mut self.capacity,
            Refusal::Revoked => &mut self.revoked,
        }
    }
}

/// Counts for status and metrics. Gauges first, then what only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Active IPv4 leases.
    pub ipv4: usize,
    /// Active IPv6 leases.
    pub ipv6: usize,
    /// Routes that stay behind the end of their lease.
    pub lingering: usize,
    /// Of these, routes that stay for live flows alone.
    pub held_by_flows: usize,
    /// Active leases that not every required enforcer holds yet.
    pub pending: usize,
    /// `lease.capacity`; active and lingering leases count against it.
    pub capacity: usize,
    /// (question, chain, client) causes kept.
    pub causes: usize,
    /// Different sets of groups whose communities routes bear; [`super::groups::MOST_SETS`] at most.
    pub group_sets: usize,
    /// Pairs of client and address, where leases are for single clients; `lease.capacity` at most.
    pub pairs: usize,
    /// Answers that wait at the gate, or for tokens.
    pub waiting: usize,
    /// Of these, for tokens of their client or domain.
    pub queued: usize,
    /// The last generation of a plan.
    pub generation: u64,
    /// Answers that the gate let go since the start.
    pub released: u64,
    /// Answers that were refused since the start, by reason.
    pub refused: RefusedCounts,
    /// Answers with fewer addresses than were asked for, by the budget.
    pub shortened: RefusedCounts,
    /// Answers whose gate deadline passed, released all the same or not.
    pub gate_timeouts: u64,
    /// Leases that began since the start; one that is extended counts once.
    pub opened: u64,
    /// Leases moved later.
    pub extended: u64,
    /// Leases ended in their time.
    pub expired: u64,
    /// Leases closed early: revoked, forbidden or refused by an enforcer.
    pub closed: u64,
    /// Causes forgotten because an address, or all together, had too many; never shortens a lease.
    pub causes_dropped: u64,
    /// Leases read back at start that had no room.
    pub restore_dropped: u64,
    /// Leases of other guards that had no room, or no enforcer for their family.
    pub guards_refused: u64,
    /// Leases that other guards are told of.
    pub shared: usize,
    /// Routes that ended in their time though flows lived, for want of room.
    pub flows_refused: u64,
}
