//! Admission: how much of an answer is opened, and when.
//!
//! ```text
//!  admit --> per_answer, room --> tokens for all? --yes--> leases, then the gate
//!                                     | no
//!                                     v
//!                      queue: keeps what it could take --its rest is there, or patience is over--> leases of what fits
//!                                     | not even one address within its patience
//!                                     v
//!                                  refused
//! ```
//!
//! Addresses that are open already come first, since they cost nothing: who asks again keeps what it has. Room in a
//! table, or at a router, is not waited for: it comes within minutes, not within the gate's deadline. No client and no
//! domain takes more than its share of it ([`crate::core::share`]).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use smallvec::SmallVec;

use super::Guard;
use crate::core::event::{Admission, LeaseHandles, Refusal};
use crate::core::gate::{MOST_WAITING, Needs, Waiting};
use crate::core::groups::{Group, GroupSet, MOST_SETS};
use crate::core::lease::{ByFamily, Cause, Lease};
use crate::core::moment::Moment;
use crate::core::name::Name;
use crate::core::queue::{Asked, Cost};
use crate::core::share::{Holder, LEAST, may_hold};

/// No lease is shorter, whatever the configuration says: a TTL of 0 must be neither "never" nor "for ever".
pub(super) const SHORTEST: Duration = Duration::from_secs(1);
/// The part of the gate's deadline that an answer may wait for tokens; the rest is its enforcers'.
const PATIENCE: u32 = 2;
/// An answer is looked at so often before its patience is over.
const TRIES: u8 = 4;

/// One address of an answer.
#[derive(Clone, Copy, Debug)]
struct Item {
    address: IpAddr,
    /// The end of its lease.
    ends: Moment,
    /// What opening it costs.
    cost: Cost,
    /// Not in the table.
    new: bool,
    /// In the table and not lingering.
    active: bool,
    /// So many of the pairs that the answer needs are not there.
    lacks_pairs: u16,
}

type Items = SmallVec<[Item; 4]>;

/// What becomes of an answer.
enum Choice {
    /// These are opened; with the budget that left no more.
    Open(Items, Option<Refusal>),
    /// It is looked at again then.
    Wait(Moment),
    /// Nothing of it can be opened.
    Refuse(Refusal),
}

impl Guard {
    pub(super) fn admit(&mut self, admission: Admission) {
        if self.gate.len() + self.fresh.len() + self.queue.len() >= MOST_WAITING {
            self.refuse(admission.ticket, Refusal::Capacity);
            return;
        }
        let patience = self.now.plus(self.settings.gate.deadline.0 / PATIENCE);
        let client = [(admission.client, patience)];
        let claim = self.whom.claim_for(admission.client, admission.domain.wire());
        let holders = [claim.client, claim.domain];
        let asked = Asked { admission, since: self.now, patience, credit: Cost::default(), tries: 0, client, holders };
        self.consider(asked);
    }

    /// Opens what can be opened of an answer, lets it wait, or refuses it.
    pub(super) fn consider(&mut self, mut asked: Asked) {
        let group = self.group_of(asked.admission.client, asked.admission.mark);
        let items = self.items(&asked.admission);
        let holders = asked.holders;
        match self.choose(&mut asked, group, items, holders) {
            Choice::Open(mut items, short) => {
                self.shorten_for_the_great(&mut items, holders);
                self.open(asked, group, &items, short);
                items.iter().filter(|item| item.new).for_each(|item| self.table.hold(item.address, holders));
            }
            Choice::Wait(until) => self.queue.push(until, asked),
            Choice::Refuse(refusal) => self.refuse_asked(&asked, refusal),
        }
    }

    /// Refuses answers that wait for tokens.
    pub(super) fn fail_queued(&mut self, gone: impl Fn(&Asked) -> bool, refusal: &Refusal) {
        if self.queue.is_empty() {
            return;
        }
        self.queue.take_if(gone).iter().for_each(|asked| self.refuse_asked(asked, refusal.clone()));
    }

    fn refuse_asked(&mut self, asked: &Asked, refusal: Refusal) {
        self.give_back(asked, asked.credit);
        self.refuse(asked.admission.ticket, refusal);
    }

    /// The addresses of an answer, each once, those that cost nothing first.
    fn items(&self, admission: &Admission) -> Items {
        let lease = &self.settings.lease;
        let shortest = lease.min.0.max(SHORTEST);
        let longest = self.now.plus(lease.max.0.max(SHORTEST));
        let narrows = self.narrows(admission);
        let item = |grant: &crate::core::event::Grant| {
            let ttl = Duration::from_secs(u64::from(grant.ttl)).max(shortest);
            let known = self.table.get(grant.address);
            let new = known.is_none();
            // Where leases are for single clients, or ports, what others opened is new to this one.
            let lacks_pairs = self.lacks_pairs(grant.address, &narrows);
            let costs = lacks_pairs.map_or(new, |lacking| lacking > 0);
            Item {
                address: grant.address,
                ends: self.now.plus(ttl).plus(lease.grace.0).min(longest),
                cost: Cost { client: u64::from(costs), domain: u64::from(new) },
                new,
                active: known.is_some_and(Lease::is_active),
                lacks_pairs: u16::try_from(lacks_pairs.unwrap_or(0)).unwrap_or(u16::MAX),
            }
        };
        let mut items: Items = admission.grants.iter().map(item).collect();
        // Of an address that came twice the later end counts.
        let mut at = 0;
        while let Some(item) = items.get(at).copied() {
            let (before, _) = items.split_at_mut(at);
            match before.iter_mut().find(|other| other.address == item.address) {
                Some(other) => {
                    other.ends = other.ends.max(item.ends);
                    items.remove(at);
                }
                None => at += 1,
            }
        }
        // In the order in which they came where it makes no difference.
        items.sort_by_key(|item| (item.cost.client + item.cost.domain, !item.active));
        items
    }

    fn choose(&mut self, asked: &mut Asked, group: Option<Group>, mut items: Items, holders: [Holder; 2]) -> Choice {
        let whole = asked.admission.whole;
        let mut short = None;
        for item in &items {
            if let Some(name) = self.enforcers.cannot_hold(item.address) {
                return Choice::Refuse(Refusal::Family { name });
            }
        }
        if items.len() > self.settings.lease.per_answer {
            items.truncate(self.settings.lease.per_answer);
            short = Some(Refusal::PerAnswer);
        }
        while let Err(refusal) = self.room_for(&items, group, holders) {
            items.pop();
            if items.is_empty() {
                return Choice::Refuse(refusal);
            }
            short = Some(refusal);
        }
        if let Some(refusal) = short.take_if(|_| whole) {
            return Choice::Refuse(refusal);
        }
        let [key, domain] = holders;
        let ready = |guard: &Self, cost: Cost| {
            let client = guard.clients.ready(&key, cost.client, guard.now);
            let domain = guard.domains.ready(&domain, cost.domain, guard.now);
            (client.max(domain), if client > guard.now { Refusal::PerClient } else { Refusal::PerDomain })
        };
        let total = sum(&items);
        let (all_ready, refusal) = ready(self, total.less(asked.credit));
        if all_ready > self.now {
            // So many addresses fit now.
            let cost_of = |count: usize| sum(items.get(..count).unwrap_or_default()).less(asked.credit);
            let fitting = (1..items.len()).rev().find(|count| ready(self, cost_of(*count)).0 <= self.now).unwrap_or(0);
            if self.now < asked.patience {
                if asked.tries == 0 {
                    let reserved = if whole { items.len() } else { fitting.max(1) };
                    let cost = cost_of(reserved);
                    if ready(self, cost).0 > asked.patience {
                        return Choice::Refuse(refusal);
                    }
                    self.take_tokens(asked, cost);
                    asked.credit = cost;
                }
                asked.tries = asked.tries.saturating_add(1);
                let next = if asked.tries > TRIES { asked.patience } else { all_ready.min(asked.patience) };
                return Choice::Wait(next);
            }
            if fitting == 0 || whole {
                return Choice::Refuse(refusal);
            }
            items.truncate(fitting);
            short = Some(refusal);
        }
        let total = sum(&items);
        self.take_tokens(asked, total.less(asked.credit));
        // What it waited for was opened by somebody else meanwhile.
        self.give_back(asked, asked.credit.less(total));
        asked.credit = Cost::default();
        Choice::Open(items, short)
    }

    fn take_tokens(&mut self, asked: &Asked, cost: Cost) {
        let [client, domain] = &asked.holders;
        self.clients.take(client, cost.client, self.now);
        self.domains.take(domain, cost.domain, self.now);
    }

    fn give_back(&mut self, asked: &Asked, cost: Cost) {
        if !cost.is_zero() {
            let [client, domain] = &asked.holders;
            self.clients.give_back(client, cost.client);
            self.domains.give_back(domain, cost.domain);
        }
    }

    /// Whether the tables and every enforcer have room for all of these.
    fn room_for(&self, items: &[Item], group: Option<Group>, holders: [Holder; 2]) -> Result<(), Refusal> {
        let [client, _] = holders;
        let (mut new, mut opened) = (ByFamily::default(), ByFamily::default());
        for item in items {
            *new.of(item.address) += usize::from(item.new);
            *opened.of(item.address) += usize::from(!item.active);
        }
        if !self.has_room_for_pairs(client, items.iter().map(|item| usize::from(item.lacks_pairs)).sum()) {
            return Err(Refusal::Capacity);
        }
        self.room(new, opened)?;
        let (free, shares) = (self.free(), self.table.shares());
        if !holders.into_iter().all(|holder| shares.may_take(holder, new.total(), free)) {
            return Err(Refusal::Capacity);
        }
        let Some(group) = group else { return Ok(()) };
        let set = |item: &Item| self.table.get(item.address).map_or(GroupSet::EMPTY, Lease::groups).with(group);
        let sets: BTreeSet<GroupSet> = items.iter().map(set).filter(|set| !self.group_sets.contains_key(set)).collect();
        let free = MOST_SETS.checked_sub(self.group_sets.len().saturating_add(sets.len()));
        // Every new set holds this group: the sets that hold it are its part.
        let own = || self.group_sets.keys().filter(|set| set.has(group)).count().saturating_add(sets.len());
        let fits = |free: usize| may_hold(Holder::of("a group"), own(), free, LEAST);
        if !sets.is_empty() && !free.is_some_and(fits) {
            return Err(Refusal::Capacity);
        }
        Ok(())
    }

    /// How many more addresses there is room for.
    pub(super) fn free(&self) -> usize {
        let most = self.settings.lease.capacity.min(self.enforcers.least_budget());
        most.saturating_sub(self.table.len())
    }

    /// Who has much has what comes now for the shortest time only.
    fn shorten_for_the_great(&self, items: &mut Items, holders: [Holder; 2]) {
        let (free, shares) = (self.free(), self.table.shares());
        if holders.into_iter().any(|holder| shares.is_great(holder, free)) {
            let lease = &self.settings.lease;
            let soon = self.now.plus(lease.min.0.max(SHORTEST)).plus(lease.grace.0);
            items.iter_mut().filter(|item| item.new).for_each(|item| item.ends = item.ends.min(soon));
        }
    }

    /// Whether the table and every enforcer have room: `new` addresses come into the table, `opened` become active.
    pub(super) fn room(&self, new: ByFamily, opened: ByFamily) -> Result<(), Refusal> {
        let active = self.table.active().plus(opened);
        let all = self.table.active().plus(self.table.lingering()).plus(new);
        // Only what grows can be refused: a table that a smaller budget found too full still serves what it holds.
        if all.total() > self.settings.lease.capacity && all.total() > self.table.len() {
            return Err(Refusal::Capacity);
        }
        match self.enforcers.over_budget(active, all, self.table.active(), self.table.lingering()) {
            Some(name) => Err(Refusal::RouteBudget { name }),
            None => Ok(()),
        }
    }

    /// Grants the leases of an answer; the next plan lets it through or to the gate.
    fn open(&mut self, asked: Asked, group: Option<Group>, items: &[Item], short: Option<Refusal>) {
        let [holder, _] = asked.holders;
        let admission = asked.admission;
        let narrows = self.narrows(&admission);
        let chain = admission.chain;
        // In the order of the addresses, as plans are.
        let mut wanted: SmallVec<[(IpAddr, Moment); 4]> = items.iter().map(|item| (item.address, item.ends)).collect();
        wanted.sort_unstable();
        for (address, ends) in &wanted {
            let cause = Cause {
                question: admission.question.clone(),
                qtype: Some(admission.qtype),
                chain: chain.clone(),
                group,
                mark: admission.mark,
                clients: smallvec::smallvec![(admission.client, *ends)],
                ends: *ends,
                tag: 0,
            };
            self.grant(*address, *ends, cause);
        }
        if self.pairs.is_some() {
            let names: Vec<Name> = std::iter::once(&admission.question).chain(chain.iter()).cloned().collect();
            self.grant_pairs(&narrows, (&names, admission.mark), &wanted, holder);
        }
        if let Some(budget) = &short {
            *self.counts.shortened.of(budget) += 1;
        }
        let is_open = |address: &IpAddr| wanted.iter().any(|(open, _)| open == address);
        let waiting = Waiting {
            deadline: asked.since.plus(self.settings.gate.deadline.0),
            client: admission.client,
            mark: admission.mark,
            group,
            question: admission.question,
            chain,
            narrows,
            addresses: admission.grants.iter().map(|grant| grant.address).filter(is_open).collect(),
            leases: LeaseHandles::new(),
            needs: Needs::default(),
            short,
        };
        self.fresh.push((admission.ticket, waiting));
    }
}

fn sum(items: &[Item]) -> Cost {
    items.iter().fold(Cost::default(), |sum, item| sum.plus(item.cost))
}
