//! Addresses that are open for single clients: what the guard does with the table of pairs, where there is one.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::Guard;
use crate::core::event::{Change, Generation, Output, Refusal, Ticket};
use crate::core::gate::Waiting;
use crate::core::moment::Moment;
use crate::core::name::Name;
use crate::core::pairs::{PairCause, PairId, Pairs, StoredPair, owner};
use crate::core::policy::registrable;
use crate::core::queue::Asked;
use crate::core::share::Holder;

impl Guard {
    /// Addresses are open only for the clients that were answered with them.
    #[must_use]
    pub fn for_single_clients(mut self) -> Self {
        self.pairs = Some(Pairs::default());
        self
    }

    /// Every cause of every pair: address and client, question, aliases; and of those that may follow from answers that wait for tokens. None
    /// where leases are for everybody.
    pub fn pair_causes(&self) -> impl Iterator<Item = (PairId, &Name, &[Name])> {
        let queued = self.queue.iter().filter(|_| self.pairs.is_some()).flat_map(|asked| {
            let admission = &asked.admission;
            let id = move |address| (address, owner(admission.client));
            admission.grants.iter().map(move |grant| (id(grant.address), &admission.question, &*admission.chain))
        });
        let open = self.pairs.iter().flat_map(Pairs::iter).flat_map(|(id, pair)| {
            let causes = pair.causes.iter().filter_map(PairCause::question_and_chain);
            causes.map(move |(question, chain)| (id, question, chain))
        });
        open.chain(queued)
    }

    /// Every pair as it survives a restart. None where leases are for everybody.
    pub fn stored_pairs(&self) -> impl Iterator<Item = StoredPair> {
        self.pairs.iter().flat_map(Pairs::stored)
    }

    /// Whether the client can't reach this address yet; `None` where leases are for everybody.
    pub(super) fn lacks_pair(&self, client: IpAddr, address: IpAddr) -> Option<bool> {
        self.pairs.as_ref().map(|pairs| pairs.get((address, owner(client))).is_none())
    }

    /// Whether the table has room for so many more pairs of this client's.
    pub(super) fn has_room_for_pairs(&self, holder: Holder, lacking: usize) -> bool {
        // Only what grows can be refused.
        let Some(pairs) = self.pairs.as_ref().filter(|_| lacking > 0) else { return true };
        let free = self.settings.lease.capacity.saturating_sub(pairs.len());
        lacking <= free && pairs.shares().may_take(holder, lacking, free)
    }

    /// Opens for a client what an answer holds, whose leases were just granted.
    pub(super) fn grant_pairs(&mut self, client: IpAddr, names: &[Name], wanted: &[(IpAddr, Moment)], holder: Holder) {
        let Some(pairs) = &mut self.pairs else { return };
        let (client, names) = (owner(client), Arc::<[Name]>::from(names));
        for (address, ends) in wanted {
            if let Some(lease) = self.table.get(*address) {
                pairs.grant((*address, client), names.clone(), lease.ends.min(*ends), holder);
            }
        }
    }

    /// Adds to an answer what it needs of its client's pairs. False: one was closed within the very batch that opened it.
    pub(super) fn need_pairs(&self, waiting: &mut Waiting) -> bool {
        let Some(pairs) = &self.pairs else { return true };
        let client = owner(waiting.client);
        for address in &waiting.addresses {
            let Some(pair) = pairs.get((*address, client)) else { return false };
            waiting.leases.push(pair.handle.clone());
            waiting.needs.timed = waiting.needs.timed.max(pair.told.map(|told| told.last).unwrap_or_default());
        }
        true
    }

    /// Ends what is due.
    pub(super) fn expire_pairs(&mut self) {
        while let Some((address, client)) = self.pairs.as_mut().and_then(|pairs| pairs.pop_due(self.now)) {
            self.fail_client(address, client, None);
        }
    }

    /// Answers of this client that wait for the address; without a word of why, their time is over.
    fn fail_client(&mut self, address: IpAddr, client: IpAddr, refusal: Option<&Refusal>) {
        let waits = |ticket: &Ticket| self.gate.client_of(*ticket).is_some_and(|asked| owner(asked) == client);
        let tickets: Vec<Ticket> = self.gate.tickets_of(address).filter(waits).collect();
        self.fail_tickets(tickets, |guard, waiting| match refusal {
            Some(refusal) => refusal.clone(),
            None => guard.deadline_refusal(waiting),
        });
    }

    /// The lease of an address is gone, or ends earlier.
    pub(super) fn pairs_follow(&mut self, address: IpAddr) {
        let Some(pairs) = &mut self.pairs else { return };
        match self.table.get(address).filter(|lease| lease.is_active()) {
            Some(lease) => pairs.shorten_all_of(address, lease.ends),
            None => pairs.close_all_of(address),
        }
    }

    /// Takes these names' causes from every pair. O(pairs).
    pub(super) fn take_pairs_back(&mut self, names: &[Name]) {
        let Some(pairs) = &self.pairs else { return };
        let names: BTreeSet<&Name> = names.iter().collect();
        let bears = |cause: &PairCause| cause.names.iter().any(|name| names.contains(name));
        let found: Vec<PairId> =
            pairs.iter().filter(|(_, pair)| pair.causes.iter().any(bears)).map(|(id, _)| id).collect();
        found.into_iter().for_each(|id| self.take_pair_back(id, bears));
    }

    /// What these clients may not ask any more.
    pub(super) fn forbid_clients(&mut self, forbidden: &[(PairId, Name)]) {
        for (id, question) in forbidden {
            let asks = |asked: &Asked| asked.admission.question == *question && owner(asked.admission.client) == id.1;
            self.fail_queued(|asked| asks(asked) && asked.holds(id.0), &Refusal::Revoked);
            self.take_pair_back(*id, |cause| cause.names.first() == Some(question));
        }
    }

    fn take_pair_back(&mut self, id: PairId, gone: impl Fn(&PairCause) -> bool) {
        let Some(pairs) = &mut self.pairs else { return };
        pairs.remove_causes(id, self.now, gone);
        if pairs.get(id).is_none() {
            self.counts.closed += 1;
            self.fail_client(id.0, id.1, Some(&Refusal::Revoked));
        }
    }

    /// A timed enforcer refused the openings of this plan: pairs that were not in force since are closed everywhere.
    pub(super) fn refuse_pairs(&mut self, generation: Generation, refusal: &Refusal) {
        let opened = self.pairs.as_ref().map(|pairs| pairs.opened_by(generation)).unwrap_or_default();
        for id in opened {
            self.fail_client(id.0, id.1, Some(refusal));
            if let Some(pairs) = &mut self.pairs {
                pairs.close(id);
                self.counts.closed += 1;
            }
        }
    }

    /// Pairs from disk, behind the leases: those that end last first as far as there is room. None outlasts its lease.
    pub(super) fn restore_pairs(&mut self, mut stored: Vec<StoredPair>) {
        let Some(pairs) = &mut self.pairs else { return };
        stored.sort_by_key(|pair| std::cmp::Reverse((pair.ends, pair.address, pair.client)));
        for StoredPair { client, address, ends, names } in stored {
            let lease = self.table.get(address).filter(|lease| lease.is_active());
            let ends = lease.map_or(Moment::ZERO, |lease| lease.ends.min(ends));
            if ends <= self.now || pairs.len() >= self.settings.lease.capacity {
                self.counts.restore_dropped += u64::from(ends > self.now);
                continue;
            }
            // A record without names can only come from elsewhere; the root stands for "unknown".
            let names = if names.is_empty() { vec![Arc::from([Name::root()])] } else { names };
            for names in names {
                let Some(question) = names.first() else { continue };
                let holder = self.whom.claim_for(client, registrable(question).wire()).client;
                pairs.restore((address, owner(client)), names, ends, holder);
            }
        }
    }

    /// Adds what timed enforcers are to be told of pairs to a plan.
    pub(super) fn plan_pairs(&mut self, generation: Generation, timed: &mut Vec<Change>) {
        let Some(pairs) = &mut self.pairs else { return };
        timed.append(&mut pairs.plan(generation, self.now));
    }

    /// Writes down what changed.
    pub(super) fn journal_pairs(&mut self) {
        if let Some(pairs) = &mut self.pairs {
            self.outputs.extend(pairs.take_journal().into_iter().map(Output::JournalPair));
        }
    }
}
