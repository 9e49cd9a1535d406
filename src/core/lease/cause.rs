//! Why an address is open: the questions that led to it, who asked them, and what is left when one is taken back.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::LeaseTable;
use crate::core::event::QueryPath;
use crate::core::groups::Group;
use crate::core::moment::Moment;
use crate::core::name::Name;
use crate::core::person::Mark;
use crate::core::plan::moves_on;

/// Most causes of one address.
pub const CAUSES_PER_ADDRESS: usize = 64;
/// Most clients of one cause.
pub const CLIENTS_PER_CAUSE: usize = 16;

/// Nearly all addresses have one cause with one client, which lie in the lease itself.
pub type Causes = SmallVec<[Cause; 1]>;
/// Who asked, and until when each was told.
pub type Clients = SmallVec<[(IpAddr, Moment); 1]>;

/// One question that opened an address.
#[derive(Clone, Debug)]
pub struct Cause {
    /// The question's name.
    pub question: Name,
    /// The question's type; `None` when read back from disk.
    pub qtype: Option<u16>,
    /// Aliases behind the question, in order.
    pub chain: Arc<[Name]>,
    /// The group of those who asked, when it has communities.
    pub group: Option<Group>,
    /// By what those who asked were known, if by more than their addresses.
    pub mark: Option<Mark>,
    /// Who asked, and until when each was told; at most [`CLIENTS_PER_CAUSE`].
    pub clients: Clients,
    /// The latest end that anybody was told; also of clients that are forgotten.
    pub ends: Moment,
    /// A hash of the question's name, which the table sets: most causes differ in it, and it needs no look at the name.
    pub tag: u32,
}

impl Cause {
    /// The question and its aliases.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        std::iter::once(&self.question).chain(self.chain.iter())
    }

    pub(super) fn same(&self, other: &Self) -> bool {
        self.tag == other.tag
            && self.question == other.question
            && self.qtype == other.qtype
            && self.chain == other.chain
            && self.group == other.group
            && self.mark == other.mark
    }

    /// The question and its aliases, as they are kept on disk.
    #[must_use]
    pub fn path(&self) -> QueryPath {
        QueryPath { question: self.question.clone(), chain: self.chain.clone(), ends: self.ends }
    }

    /// What it counts against the table's bound.
    pub(super) fn entries(&self) -> usize {
        1 + self.clients.len()
    }
}

/// What became of an address after causes were taken from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remaining {
    /// It was not caused by that name, or its end did not change.
    Same,
    /// Other causes remain; the lease ends earlier now.
    Earlier,
    /// No cause remains that has not ended: close it.
    Nothing,
}

impl LeaseTable {
    /// Adds a cause to a lease, or moves the end of one it has. Returns whether the disk must hear of it: the
    /// question, or the way it took, is new for this address, or its end [`moves_on`]: another question may hold the
    /// lease for longer, and be taken back after a restart.
    ///
    /// Over a bound the cause (or client) that ends first is forgotten, be it the new one. The lease's own end does not
    /// change by that: it is kept apart from the causes, and the cause that ends last is never forgotten.
    pub fn add_cause(&mut self, address: IpAddr, mut cause: Cause, now: Moment) -> bool {
        let Some(lease) = self.leases.get_mut(address) else { return false };
        cause.tag = self.names.tag(&cause.question);
        let mut causes = std::mem::take(lease.causes_mut());
        let (ends, mut before, mut known, mut ended) = (cause.ends, None, None, false);
        for (place, other) in causes.iter().enumerate() {
            if other.tag == cause.tag && other.question == cause.question && other.chain == cause.chain {
                before = before.max(Some(other.ends));
                if other.same(&cause) {
                    known = Some(place);
                    continue;
                }
            }
            ended |= other.ends <= now;
        }
        match known.and_then(|place| causes.get_mut(place)) {
            Some(known) => {
                let before = known.entries();
                known.ends = known.ends.max(cause.ends);
                for (client, ends) in cause.clients {
                    self.dropped += u64::from(add_client(known, client, ends));
                }
                self.entries = self.entries + known.entries() - before;
            }
            None => {
                self.entries += cause.entries();
                self.names.add(address, &cause);
                known = Some(causes.len());
                causes.push(cause);
            }
        }
        // Ended causes make room. What a later revoke finds is what still lives.
        if ended {
            let mut left = Causes::new();
            for (place, other) in causes.into_iter().enumerate() {
                if other.ends <= now && Some(place) != known {
                    self.forget(address, &other);
                } else {
                    left.push(other);
                }
            }
            causes = left;
        }
        while causes.len() > 1
            && (causes.len() > CAUSES_PER_ADDRESS || self.entries > self.most_entries)
            && let Some(first) = earliest(&causes)
        {
            let gone = causes.swap_remove(first);
            self.forget(address, &gone);
            self.dropped += 1;
        }
        if let Some(lease) = self.leases.get_mut(address) {
            *lease.causes_mut() = causes;
        }
        before.is_none_or(|before| moves_on(before, ends))
    }

    /// Takes every cause that bears `name` from a lease.
    pub fn remove_causes(&mut self, address: IpAddr, name: &Name, now: Moment) -> Remaining {
        self.take_causes(address, |cause| cause.names().any(|other| other == name), now)
    }

    /// Takes every cause of which `gone` says so from a lease.
    pub fn take_causes(&mut self, address: IpAddr, gone: impl Fn(&Cause) -> bool, now: Moment) -> Remaining {
        let Some(lease) = self.leases.get_mut(address) else { return Remaining::Same };
        let (gone, left): (Causes, Causes) =
            std::mem::take(lease.causes_mut()).into_iter().partition(|cause| gone(cause));
        let latest = left.iter().map(|cause| cause.ends).max();
        let (active, ends) = (lease.is_active(), lease.ends());
        for cause in &gone {
            self.forget(address, cause);
        }
        if let Some(lease) = self.leases.get_mut(address) {
            *lease.causes_mut() = left;
        }
        if !gone.is_empty() {
            self.follow_causes(address, now);
        }
        match latest {
            None => Remaining::Nothing,
            // What lingers for another name goes on lingering.
            Some(_) if gone.is_empty() || !active => Remaining::Same,
            Some(latest) if latest <= now => Remaining::Nothing,
            Some(latest) if latest < ends => {
                self.step(address, |lease| lease.set_earlier_end(latest, now));
                Remaining::Earlier
            }
            Some(_) => Remaining::Same,
        }
    }

    /// Moves the ends of causes that were restored earlier by so much, and that of the lease to the latest that is
    /// left; no further than to `now`. Returns whether the lease's own has moved.
    pub fn end_restored_earlier(&mut self, address: IpAddr, by: Duration, now: Moment) -> bool {
        let Some(lease) = self.leases.get_mut(address).filter(|lease| lease.is_active()) else { return false };
        let (known, mut any) = (lease.ends(), false);
        // An answer's cause has a type.
        for cause in lease.causes_mut().iter_mut().filter(|cause| cause.qtype.is_none()) {
            cause.ends = cause.ends.minus(by);
            any = true;
        }
        let latest = lease.causes().iter().map(|cause| cause.ends).max().unwrap_or(now).max(now);
        if any {
            self.follow_causes(address, now);
        }
        let moves = any && latest < known;
        if moves {
            self.step(address, |lease| lease.set_earlier_end(latest, now));
        }
        moves
    }

    /// A cause is gone from an address.
    pub(super) fn forget(&mut self, address: IpAddr, cause: &Cause) {
        self.entries -= cause.entries();
        self.names.remove(address, cause);
    }
}

/// Returns whether a client had to be forgotten.
pub(super) fn add_client(cause: &mut Cause, client: IpAddr, ends: Moment) -> bool {
    if let Some((_, known)) = cause.clients.iter_mut().find(|(other, _)| *other == client) {
        *known = (*known).max(ends);
        return false;
    }
    cause.clients.push((client, ends));
    if cause.clients.len() <= CLIENTS_PER_CAUSE {
        return false;
    }
    if let Some((first, _)) = cause.clients.iter().enumerate().min_by_key(|(_, (_, ends))| *ends) {
        cause.clients.swap_remove(first);
    }
    true
}

pub(super) fn earliest(causes: &[Cause]) -> Option<usize> {
    causes.iter().enumerate().min_by_key(|(_, cause)| cause.ends).map(|(index, _)| index)
}
