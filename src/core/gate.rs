//! The gate: which answer waits for which plan.
//!
//! Of the timed enforcers an answer needs the latest plan that concerns one of its addresses: their acknowledgements are
//! cumulative, so one number says all. Of the route enforcers it needs each of its addresses, by whatever plan.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use super::event::{EnforcerKind, Generation, LeaseHandles, Refusal, Ticket};
use super::groups::Group;
use super::moment::Moment;
use super::name::Name;
use super::narrow::{Narrow, Narrows};
use super::person::Mark;

/// Most answers that wait at once; what comes then is refused. Each comes from a question that has a place in flight, of which there are fewer: so nobody
/// takes more of the gate than of those.
pub const MOST_WAITING: usize = 65_536;

/// The plans that an answer needs; zero = none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Of the timed enforcers.
    pub timed: Generation,
    /// Of the route enforcers.
    pub route: Generation,
}

impl Needs {
    /// The need of one kind.
    #[must_use]
    pub fn of(self, kind: EnforcerKind) -> Generation {
        match kind {
            EnforcerKind::Timed => self.timed,
            EnforcerKind::Route => self.route,
        }
    }
}

/// One answer that waits.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// When its client must be told something.
    pub deadline: Moment,
    /// The client that asked, in whose share it counts.
    pub client: IpAddr,
    /// By what that was known, if by more than the address.
    pub mark: Option<Mark>,
    /// The client's group, when it has communities.
    pub group: Option<Group>,
    /// The question's name.
    pub question: Name,
    /// Aliases behind the question, in order.
    pub chain: Arc<[Name]>,
    /// What it opens of each address, where there are pairs.
    pub narrows: Narrows,
    /// In the order of the grants.
    pub addresses: SmallVec<[IpAddr; 2]>,
    /// Likewise; empty until the plan is made.
    pub leases: LeaseHandles,
    /// Zero until the plan is made.
    pub needs: Needs,
    /// Why it holds fewer addresses than were asked for.
    pub short: Option<Refusal>,
}

impl Waiting {
    /// Whether it bears this name, as question or alias.
    #[must_use]
    pub fn bears(&self, name: &Name) -> bool {
        self.question == *name || self.chain.contains(name)
    }
}

/// All answers that wait for enforcers.
#[derive(Debug, Default)]
pub struct Gate {
    waiting: BTreeMap<Ticket, Waiting>,
    deadlines: BTreeSet<(Moment, Ticket)>,
    by_address: BTreeSet<(IpAddr, Ticket)>,
    /// Answers that lack something of this kind.
    timed: BTreeSet<(Generation, Ticket)>,
    route: BTreeSet<(Generation, Ticket)>,
}

impl Gate {
    /// Number of answers that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The next deadline.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Moment> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Number of answers that wait for an address.
    #[must_use]
    pub fn waiting_for(&self, address: IpAddr) -> usize {
        self.tickets_of(address).count()
    }

    /// Lets an answer wait for everything it needs; [`Gate::acknowledged`], [`Gate::in_force`] and [`Gate::pass`] say when it is through.
    pub fn wait(&mut self, ticket: Ticket, waiting: Waiting) {
        // A ticket names one answer; should one come twice, the later stands for both.
        self.take(ticket);
        self.deadlines.insert((waiting.deadline, ticket));
        for address in &waiting.addresses {
            self.by_address.insert((*address, ticket));
        }
        self.timed.insert((waiting.needs.timed, ticket));
        self.route.insert((waiting.needs.route, ticket));
        self.waiting.insert(ticket, waiting);
    }

    /// Takes an answer away from the gate.
    pub fn take(&mut self, ticket: Ticket) -> Option<Waiting> {
        let waiting = self.waiting.remove(&ticket)?;
        self.deadlines.remove(&(waiting.deadline, ticket));
        for address in &waiting.addresses {
            self.by_address.remove(&(*address, ticket));
        }
        self.timed.remove(&(waiting.needs.timed, ticket));
        self.route.remove(&(waiting.needs.route, ticket));
        Some(waiting)
    }

    /// Every required timed enforcer holds all plans up to `generation`. Returns the answers that lack nothing now.
    pub fn acknowledged(&mut self, generation: Generation) -> Vec<(Ticket, Waiting)> {
        let mut through = Vec::new();
        while let Some((_, ticket)) = self.timed.first().copied().filter(|(needed, _)| *needed <= generation) {
            through.extend(self.pass(EnforcerKind::Timed, ticket));
        }
        through
    }

    /// Every required route enforcer holds this address for some group, and `in_force` says which others for which. Returns the answers
    /// that lack nothing now. O(answers that wait for it).
    pub fn in_force(
        &mut self,
        address: IpAddr,
        in_force: impl Fn(IpAddr, Option<Group>) -> bool,
    ) -> Vec<(Ticket, Waiting)> {
        let tickets: Vec<Ticket> = self.tickets_of(address).collect();
        let all = |gate: &Self, ticket: &Ticket| {
            let waiting = gate.waiting.get(ticket);
            waiting.is_some_and(|waiting| waiting.addresses.iter().all(|other| in_force(*other, waiting.group)))
        };
        let whole: Vec<Ticket> = tickets.into_iter().filter(|ticket| all(self, ticket)).collect();
        whole.into_iter().filter_map(|ticket| self.pass(EnforcerKind::Route, ticket)).collect()
    }

    /// An answer lacks nothing of this kind any more. Returns it when it lacks nothing at all.
    pub fn pass(&mut self, kind: EnforcerKind, ticket: Ticket) -> Option<(Ticket, Waiting)> {
        let needs = self.waiting.get(&ticket)?.needs;
        let lacks = match kind {
            EnforcerKind::Timed => {
                self.timed.remove(&(needs.timed, ticket));
                self.route.contains(&(needs.route, ticket))
            }
            EnforcerKind::Route => {
                self.route.remove(&(needs.route, ticket));
                self.timed.contains(&(needs.timed, ticket))
            }
        };
        if lacks { None } else { self.take(ticket).map(|waiting| (ticket, waiting)) }
    }

    /// A required enforcer of this kind holds nothing any more: every answer needs it anew. O(waiting).
    pub fn lost(&mut self, kind: EnforcerKind) {
        let queue = match kind {
            EnforcerKind::Timed => &mut self.timed,
            EnforcerKind::Route => &mut self.route,
        };
        for (ticket, waiting) in &self.waiting {
            queue.insert((waiting.needs.of(kind), *ticket));
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (Ticket, &Waiting)> {
        self.waiting.iter().map(|(ticket, waiting)| (*ticket, waiting))
    }

    /// Takes all answers away.
    pub fn take_all(&mut self) -> Vec<(Ticket, Waiting)> {
        let waiting = std::mem::take(self).waiting;
        waiting.into_iter().collect()
    }

    /// Takes away one answer whose deadline has come.
    pub fn overdue(&mut self, now: Moment) -> Option<(Ticket, Waiting)> {
        let (at, ticket) = self.deadlines.first().copied()?;
        if at > now {
            return None;
        }
        self.take(ticket).map(|waiting| (ticket, waiting))
    }

    /// Answers with this address.
    pub fn tickets_of(&self, address: IpAddr) -> impl Iterator<Item = Ticket> {
        self.by_address.range((address, Ticket(0))..=(address, Ticket(u64::MAX))).map(|(_, ticket)| *ticket)
    }

    /// Answers that wait for exactly this plan of this kind.
    pub fn tickets_needing(&self, kind: EnforcerKind, generation: Generation) -> Vec<Ticket> {
        let queue = match kind {
            EnforcerKind::Timed => &self.timed,
            EnforcerKind::Route => &self.route,
        };
        queue.range((generation, Ticket(0))..=(generation, Ticket(u64::MAX))).map(|(_, ticket)| *ticket).collect()
    }

    /// Whether an answer opens this of its addresses.
    #[must_use]
    pub fn opens(&self, ticket: Ticket, narrow: Narrow) -> bool {
        self.waiting.get(&ticket).is_some_and(|waiting| waiting.narrows.contains(&narrow))
    }

    /// Whether an answer bears a name.
    #[must_use]
    pub fn bears(&self, ticket: Ticket, name: &Name) -> bool {
        self.waiting.get(&ticket).is_some_and(|waiting| waiting.bears(name))
    }
}

#[cfg(test)]
mod tests;
