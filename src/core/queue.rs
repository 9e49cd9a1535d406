//! Answers that wait for tokens of their client or their domain.
//!
//! An answer that doesn't fit takes at once what is there, one address at least though the bucket owes it then, and waits: until the rest is there, or
//! its patience is over. So whoever comes first has its first address first, and nobody's second goes before another's first. The debt
//! is bounded by the patience, which bounds the queue; and together with the gate it holds [`MOST_WAITING`](super::gate::MOST_WAITING).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::event::{Admission, Ticket};
use super::moment::Moment;
use super::name::Name;
use super::share::Holder;

/// Tokens that something costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Of the client's.
    pub client: u64,
    /// Of the domain's.
    pub domain: u64,
}

impl Cost {
    /// These and those.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { client: self.client.saturating_add(other.client), domain: self.domain.saturating_add(other.domain) }
    }

    /// These without those; never below zero.
    #[must_use]
    pub fn less(self, other: Self) -> Self {
        Self { client: self.client.saturating_sub(other.client), domain: self.domain.saturating_sub(other.domain) }
    }

    /// Whether it costs nothing, so that it waits for nobody.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self == Self::default()
    }
}

/// An answer that asks to be opened.
#[derive(Debug)]
pub struct Asked {
    /// What it asked for.
    pub admission: Admission,
    /// When it came.
    pub since: Moment,
    /// Until when it waits for tokens.
    pub patience: Moment,
    /// Taken for it already.
    pub credit: Cost,
    /// How often it was looked at.
    pub tries: u8,
    /// Who asked, as causes name them.
    pub client: [(IpAddr, Moment); 1],
    /// In whose shares it is: the client's and the domain's.
    pub holders: [Holder; 2],
}

impl Asked {
    /// Whether it bears this name, as question or alias.
    #[must_use]
    pub fn bears(&self, name: &Name) -> bool {
        self.admission.question == *name || self.admission.chain.contains(name)
    }

    /// Whether it holds this address.
    #[must_use]
    pub fn holds(&self, address: IpAddr) -> bool {
        self.admission.grants.iter().any(|grant| grant.address == address)
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: BTreeMap<Ticket, (Moment, Asked)>,
    timers: BTreeSet<(Moment, Ticket)>,
}

impl Queue {
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

    /// When one is to be looked at next.
    #[must_use]
    pub fn next_timer(&self) -> Option<Moment> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Lets an answer wait until `at`.
    pub fn push(&mut self, at: Moment, asked: Asked) {
        let ticket = asked.admission.ticket;
        self.timers.insert((at, ticket));
        if let Some((before, _)) = self.waiting.insert(ticket, (at, asked))
            && before != at
        {
            // A ticket names one answer; should one come twice, the later stands for both.
            self.timers.remove(&(before, ticket));
        }
    }

    /// Takes one whose time has come.
    pub fn pop_due(&mut self, now: Moment) -> Option<Asked> {
        let (at, ticket) = self.timers.first().copied()?;
        if at > now {
            return None;
        }
        self.timers.remove(&(at, ticket));
        self.waiting.remove(&ticket).map(|(_, asked)| asked)
    }

    /// Takes all of which `gone` says so. O(waiting).
    pub fn take_if(&mut self, gone: impl Fn(&Asked) -> bool) -> Vec<Asked> {
        let tickets: Vec<Ticket> =
            self.waiting.iter().filter(|(_, (_, asked))| gone(asked)).map(|(ticket, _)| *ticket).collect();
        let taken = tickets.into_iter().filter_map(|ticket| {
            let (at, asked) = self.waiting.remove(&ticket)?;
            self.timers.remove(&(at, ticket));
            Some(asked)
        });
        taken.collect()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Asked> {
        self.waiting.values().map(|(_, asked)| asked)
    }
}
