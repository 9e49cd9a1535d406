//! What is open of an address, and for whom, where leases can be less than all of it for everybody: what the guard does
//! with the table of pairs.

use std::net::IpAddr;
use std::sync::Arc;

use super::Guard;
use crate::core::event::{Admission, Change, Generation, Output, Refusal, StoredPair, Ticket};
use crate::core::gate::Waiting;
use crate::core::moment::Moment;
use crate::core::name::Name;
use crate::core::narrow::{Narrow, Narrows, Opening, PairId, Port, Who, owner_of};
use crate::core::pairs::{PairCause, Pairs};
use crate::core::person::Mark;
use crate::core::policy::registrable;
use crate::core::share::Holder;

/// One cause of one pair.
#[derive(Clone, Copy, Debug)]
pub struct PairCaused<'a> {
    /// The address, and for whom.
    pub id: PairId,
    /// The question that caused it.
    pub question: &'a Name,
    /// The aliases behind it.
    pub chain: &'a [Name],
    /// By what whoever asked was known, if by more than the address.
    pub mark: Option<Mark>,
    /// It was read back from disk, where that isn't told.
    pub restored: bool,
}

impl Guard {
    /// Addresses are open only for the clients that were answered with them.
    #[must_use]
    pub fn for_single_clients(mut self) -> Self {
        self.per_client = true;
        self.narrowly()
    }

    /// IPv6 addresses that have so many bits in common are one client.
    #[must_use]
    pub fn by_ipv6_prefix(mut self, bits: u8) -> Self {
        self.client_prefix = bits;
        self
    }

    /// Addresses may be open to single ports, or for single applications.
    #[must_use]
    pub fn narrowly(mut self) -> Self {
        self.pairs.get_or_insert_default();
        self
    }

    /// What an answer opens of each of its addresses. Nothing where there are no pairs.
    pub(super) fn narrows(&self, admission: &Admission) -> Narrows {
        self.narrows_of(admission.client, &admission.openings)
    }

    /// Likewise, of an answer to this client.
    pub(super) fn narrows_of(&self, client: IpAddr, openings: &[Opening]) -> Narrows {
        if self.pairs.is_none() {
            return Narrows::new();
        }
        let whoever = if self.per_client { Who::Client(owner_of(client, self.client_prefix)) } else { Who::Anyone };
        let narrow =
            |opening: &Opening| Narrow { who: opening.application.map_or(whoever, Who::Application), to: opening.to };
        match openings {
            [] => Narrows::from_slice(&[narrow(&Opening::ALL)]),
            openings => openings.iter().map(narrow).collect(),
        }
    }

    /// Every cause of every pair: the pair, question, aliases; and of those that may follow from answers that wait for
    /// tokens. None where there are no pairs.
    pub fn pair_causes(&self) -> impl Iterator<Item = PairCaused<'_>> {
        let queued = self.queue.iter().filter(|_| self.pairs.is_some()).flat_map(|asked| {
            let admission = &asked.admission;
            let narrows = self.narrows(admission);
            admission.grants.iter().flat_map(move |grant| {
                let ids = narrows.clone().into_iter().map(move |narrow| (grant.address, narrow));
                ids.map(|id| PairCaused {
                    id,
                    question: &admission.question,
                    chain: &admission.chain,
                    mark: admission.mark,
                    restored: false,
                })
            })
        });
        let open = self.pairs.iter().flat_map(Pairs::iter).flat_map(|(id, pair)| {
            pair.causes.iter().filter_map(move |cause| {
                let (question, chain) = cause.question_and_chain()?;
                Some(PairCaused { id, question, chain, mark: cause.mark, restored: cause.is_restored() })
            })
        });
        open.chain(queued)
    }

    /// Every pair as it survives a restart.
    pub fn stored_pairs(&self) -> impl Iterator<Item = StoredPair> {
        self.pairs.iter().flat_map(Pairs::stored)
    }

    /// How many of these pairs of an address are not there yet; `None` where there are no pairs.
    pub(super) fn lacks_pairs(&self, address: IpAddr, narrows: &[Narrow]) -> Option<usize> {
        let pairs = self.pairs.as_ref()?;
        Some(narrows.iter().filter(|narrow| pairs.get((address, **narrow)).is_none()).count())
    }

    /// Whether the table has room for so many more pairs of this client's.
    pub(super) fn has_room_for_pairs(&self, holder: Holder, lacking: usize) -> bool {
        // Only what grows can be refused.
        let Some(pairs) = self.pairs.as_ref().filter(|_| lacking > 0) else { return true };
        let free = self.settings.lease.capacity.saturating_sub(pairs.len());
        lacking <= free && pairs.shares().may_take(holder, lacking, free)
    }

    /// Opens what an answer opens of its addresses, whose leases were just granted.
    pub(super) fn grant_pairs(
        &mut self,
        narrows: &[Narrow],
        (names, mark): (&[Name], Option<Mark>),
        wanted: &[(IpAddr, Moment)],
        holder: Holder,
    ) {
        let Some(pairs) = &mut self.pairs else { return };
        let names = Arc::<[Name]>::from(names);
        for (address, ends) in wanted {
            if let Some(lease) = self.table.get(*address) {
                let ends = lease.ends().min(*ends);
                narrows.iter().for_each(|narrow| pairs.grant((*address, *narrow), (names.clone(), mark), ends, holder));
            }
        }
    }

    /// Adds to an answer what it needs of its pairs. False: one was closed within the very batch that opened it.
    pub(super) fn need_pairs(&self, waiting: &mut Waiting) -> bool {
        let Some(pairs) = &self.pairs else { return true };
        for address in &waiting.addresses {
            for narrow in &waiting.narrows {
                let Some(pair) = pairs.get((*address, *narrow)) else { return false };
                waiting.leases.push(pair.handle.clone());
                waiting.needs.timed =
                    waiting.needs.timed.max(pair.planned.map(|planned| planned.last).unwrap_or_default());
            }
        }
        true
    }

    /// Ends what is due.
    pub(super) fn expire_pairs(&mut self) {
        while let Some(id) = self.pairs.as_mut().and_then(|pairs| pairs.pop_due(self.now)) {
            self.fail_pair(id, None);
        }
    }

    /// Answers that wait for this pair; without a word of why, their time is over.
    fn fail_pair(&mut self, (address, narrow): PairId, refusal: Option<&Refusal>) {
        let waits = |ticket: &Ticket| self.gate.opens(*ticket, narrow);
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
            Some(lease) => pairs.shorten_all_of(address, lease.ends()),
            None => pairs.close_all_of(address),
        }
    }

    /// Takes a name's causes from every pair. O(pairs).
    pub(super) fn take_pairs_back(&mut self, name: &Name) {
        let Some(pairs) = &self.pairs else { return };
        let bears = |cause: &PairCause| cause.names.contains(name);
        let found: Vec<PairId> =
            pairs.iter().filter(|(_, pair)| pair.causes.iter().any(bears)).map(|(id, _)| id).collect();
        found.into_iter().for_each(|id| self.take_pair_back(id, bears));
    }

    /// What these questions open instead of what they did. Where there is no room for it, it is closed.
    pub(super) fn reopen_pairs(&mut self, reopened: &[(PairId, Name, Vec<Port>)]) {
        for (id @ (address, narrow), question, ports) in reopened {
            let Some(pairs) = &mut self.pairs else { return };
            let Some(pair) = pairs.get(*id).filter(|_| !ports.contains(&narrow.to)) else { continue };
            let holder = pair.holder();
            let now = self.now;
            let lives = |cause: &&PairCause| cause.names.first() == Some(question) && cause.ends > now;
            let causes: Vec<PairCause> = pair.causes.iter().filter(lives).cloned().collect();
            if pairs.len().saturating_add(ports.len()) <= self.settings.lease.capacity {
                for (cause, to) in causes.iter().flat_map(|cause| ports.iter().map(move |to| (cause, *to))) {
                    let ends = cause.ends.min(pairs.get(*id).map_or(cause.ends, |pair| pair.ends));
                    pairs.grant((*address, Narrow { to, ..*narrow }), (cause.names.clone(), cause.mark), ends, holder);
                }
            }
            self.take_pair_back(*id, |cause| cause.names.first() == Some(question));
        }
    }

    /// Leases can be less than all of an address: what is leased is open to everybody as before.
    pub(super) fn narrow_from_now_on(&mut self) {
        if self.pairs.is_none() {
            let mut pairs = Pairs::default();
            for (address, lease) in self.table.iter() {
                lease.planned().timed.into_iter().for_each(|planned| pairs.planned_whole(address, planned));
            }
            self.pairs = Some(pairs);
            self.pair_all_leases();
        }
    }

    /// Every lease without a pair gets one that opens all of its address to everybody. O(leases).
    fn pair_all_leases(&mut self) {
        let Some(pairs) = &mut self.pairs else { return };
        let lacking = self.table.iter().filter(|(_, lease)| lease.is_active() && lease.ends() > self.now);
        for (address, lease) in lacking {
            if pairs.len() >= self.settings.lease.capacity || pairs.of(address).next().is_some() {
                continue;
            }
            // A cause that was forgotten may have lasted longer than all that are left.
            let latest = lease.causes().iter().map(|cause| cause.ends).max();
            for cause in lease.causes() {
                let ends = if Some(cause.ends) == latest { lease.ends() } else { cause.ends.min(lease.ends()) };
                if ends > self.now {
                    let names: Arc<[Name]> = std::iter::once(&cause.question).chain(&*cause.chain).cloned().collect();
                    pairs.grant((address, Narrow::NOT), (names, cause.mark), ends, Holder::NOBODY);
                }
            }
        }
    }

    pub(super) fn take_pair_back(&mut self, id: PairId, gone: impl Fn(&PairCause) -> bool) {
        let Some(pairs) = &mut self.pairs else { return };
        pairs.remove_causes(id, self.now, gone);
        if pairs.get(id).is_none() {
            self.counts.closed += 1;
            self.fail_pair(id, Some(&Refusal::Revoked));
        }
    }

    /// A timed enforcer refused the openings of this plan: pairs that were not in force since are closed everywhere.
    pub(super) fn refuse_pairs(&mut self, generation: Generation, refusal: &Refusal) {
        let opened = self.pairs.as_ref().map(|pairs| pairs.opened_by(generation)).unwrap_or_default();
        for id in opened {
            self.fail_pair(id, Some(refusal));
            if let Some(pairs) = &mut self.pairs {
                pairs.close(id);
                self.counts.closed += 1;
            }
        }
    }

    /// Pairs from disk, behind the leases: those that end last first as far as there is room. None outlasts its lease.
    pub(super) fn restore_pairs(&mut self, mut stored: Vec<StoredPair>) {
        let prefix = self.client_prefix;
        let was_whole = stored.is_empty();
        let Some(pairs) = &mut self.pairs else { return };
        stored.sort_by_key(|pair| std::cmp::Reverse((pair.ends, pair.address, pair.narrow)));
        for StoredPair { address, narrow, ends, names, told } in stored {
            let lease = self.table.get(address).filter(|lease| lease.is_active());
            let ends = lease.map_or(Moment::ZERO, |lease| lease.ends().min(ends));
            if ends <= self.now || pairs.len() >= self.settings.lease.capacity {
                self.counts.restore_dropped += u64::from(ends > self.now);
                continue;
            }
            // A record without names can only come from elsewhere; the root stands for "unknown".
            let names = if names.is_empty() { vec![Arc::from([Name::root()])] } else { names };
            for (place, names) in names.into_iter().enumerate() {
                let Some(question) = names.first() else { continue };
                let told = told.get(place).map_or(ends, |told| ends.min(*told));
                // Who asked is on disk only where it is for one client.
                let holder = narrow
                    .client()
                    .map_or(Holder::NOBODY, |client| self.whom.claim_for(client, registrable(question).wire()).client);
                // Fewer bits may tell clients apart than before the restart.
                let who = narrow.client().map_or(narrow.who, |client| Who::Client(owner_of(client, prefix)));
                pairs.restore((address, Narrow { who, ..narrow }), &names, [told, ends], holder);
            }
        }
        // They were leased when leases opened all of an address: nothing was kept of pairs.
        if was_whole && !self.per_client {
            self.pair_all_leases();
        }
    }

    /// Where there are pairs, timed enforcers are told of them in place of the leases.
    pub(super) fn plan_pairs(&mut self, generation: Generation, timed: &mut Vec<Change>) {
        let Some(pairs) = &mut self.pairs else { return };
        *timed = pairs.plan(generation, self.now);
    }

    /// Writes down what changed.
    pub(super) fn journal_pairs(&mut self) {
        if let Some(pairs) = &mut self.pairs {
            self.outputs.extend(pairs.take_journal().into_iter().map(Output::JournalPair));
        }
    }
}
