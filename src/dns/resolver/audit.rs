//! Audit: an answer leaves at once, as its upstream gave it; what enforcement would have done is noted in the same words, with a mark.
//!
//! ```text
//!  question --policy--> would be denied? noted ---+--> upstream --> judged: what would be removed or refused is noted
//!                                                 |                   |
//!                                                 |                   +--> the answer, whole, at once
//!                                                 |                   +--> the core, behind it: leases, budgets, gate; a refusal is noted
//!                                                 +-- its addresses are not asked for: enforcement would not have opened them
//! ```
//!
//! The core judges as it does when it enforces, so that what is leased in audit is what enforcement would have leased, and is in force once the mode is
//! switched. Nobody waits for its word. Questions that come meanwhile join the same request, as they would join the pending that waits at the gate.
//!
//! What protects the guard itself is no policy and stays: `dns.clients`, rate limits, places in flight, malformed messages, DNSSEC. So do names that are
//! answered here (`dns.local_names`): they must not be forwarded.

use std::collections::HashSet;
use std::hash::RandomState;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashMap;
use hashbrown::hash_map::EntryRef;

use crate::core::client::Claim;
use crate::core::event::{Decision, Refusal};
use crate::core::name::Name;
use crate::core::person::Who;
use crate::core::policy::{Effect, Policy, Verdict};
use crate::dns::cache::{Entry, Key, Readmission};
use crate::dns::codec::ede::{self, code};
use crate::dns::codec::query::Question;
use crate::dns::limits::Place;
use crate::dns::resolver::Resolver;
use crate::dns::resolver::draft::{self, Draft, Kind};
use crate::dns::resolver::pending::{Asker, Outbox, Pending};
use crate::dns::resolver::settle;
use crate::dns::upstream::query::Query;

/// Most questions that one request to the core is noted for.
const TOGETHER: usize = 4096;

/// Requests to the core behind answers that have left, by the question's [`Key`]: whom their refusal would have met. Bounded by the places for them.
pub(in crate::dns) type Requests = Mutex<HashMap<Box<[u8]>, Vec<Who>, RandomState>>;

impl Resolver {
    /// Notes what a verdict on a question, or on who asks, would do. Returns whether the question would go no further.
    pub(in crate::dns) fn would_judge(
        &self,
        policy: &Policy,
        verdict: Verdict,
        question: &Question<'_>,
        client: IpAddr,
        stream: bool,
    ) -> bool {
        let effect = policy.effect(verdict);
        let (reason, words, code) = match effect {
            Effect::Data => ("rewritten", policy.words(verdict), code::FORGED),
            Effect::TcpOnly if !verdict.denies() && !stream => {
                ("tcp_only", format!("over TCP only: {}", policy.words(verdict)), code::BLOCKED)
            }
            _ if verdict.denies() => ("policy", policy.words(verdict), code::BLOCKED),
            _ => return false,
        };
        if let Ok(name) = Name::from_wire(question.name.wire()) {
            self.note_would(client, &name, question.qtype, reason, &words, code);
        }
        // Its client would come back over TCP.
        effect != Effect::TcpOnly
    }

    /// Likewise of the verdict on its name.
    pub(in crate::dns) fn would_judge_name(
        &self,
        policy: &Policy,
        question: &Question<'_>,
        client: IpAddr,
        stream: bool,
    ) -> bool {
        let Ok(name) = Name::from_wire(question.name.wire()) else { return false };
        self.would_judge(policy, policy.judge(&name), question, client, stream)
    }

    fn note_would(&self, client: IpAddr, name: &Name, qtype: u16, reason: &'static str, words: &str, code: u16) {
        self.metrics.would_refuse(reason);
        self.refusals.push_audit(client, name, qtype, reason, words, code);
    }

    /// An entry was given out of the cache. `noted`: the question itself would have been refused.
    pub(in crate::dns) fn audit_hit(
        self: &Arc<Self>,
        key: &Key,
        entry: &Arc<Entry>,
        who: &Who,
        question: &Question<'_>,
        noted: bool,
    ) {
        if noted {
            return;
        }
        if let Some(would) = entry.would()
            && let Ok(name) = Name::from_wire(question.name.wire())
        {
            self.note_would(who.address, &name, question.qtype, would.reason, &would.ede.text, would.ede.code);
        }
        let rules = self.rules.load();
        if !entry.is_in_force(self.clock.now(), rules.lease_min) {
            self.ask_behind(key, entry, vec![who.clone()]);
        }
    }

    /// Gives an answer that is kept to all who wait.
    pub(in crate::dns) fn audit_release(
        self: &Arc<Self>,
        pending: &Pending,
        entry: &Arc<Entry>,
        askers: Vec<Asker>,
        outbox: &mut Outbox<'_>,
    ) {
        let query = &pending.query;
        let open: Vec<Who> = askers.iter().filter(|asker| !asker.noted).map(|asker| asker.who.clone()).collect();
        if let Some(would) = entry.would() {
            for who in &open {
                self.note_would(who.address, &query.name, query.qtype, would.reason, &would.words, would.ede.code);
            }
        }
        let sponsor = pending.sponsor.as_ref().map(|sponsor| sponsor.who.clone());
        self.release(query, entry, askers, outbox);
        let whom: Vec<Who> = open.into_iter().chain(sponsor).collect();
        self.ask_behind(&pending.key, entry, whom);
    }

    /// An upstream's answer: kept and given at once, whole. The core is asked for its addresses behind it.
    pub(in crate::dns) fn settle_audit(
        self: &Arc<Self>,
        pending: &Pending,
        draft: Draft,
        generation: u64,
        outbox: &mut Outbox<'_>,
    ) {
        if draft.kind != Kind::Answer {
            self.settle_without_gate(pending, draft, generation, outbox);
            return;
        }
        let now = self.clock.now();
        let entry = Arc::new(settle::closed(&pending.key.of_all(), &draft, generation, now));
        self.cache.put(entry.clone(), now);
        self.audit_release(pending, &entry, self.finish(pending), outbox);
    }

    /// The mode was switched while an answer waited at the gate, which has refused it now.
    pub(in crate::dns) fn release_refused(
        &self,
        query: &Query,
        entry: &Entry,
        refusal: &Refusal,
        askers: Vec<Asker>,
        outbox: &mut Outbox<'_>,
    ) {
        self.note_held(query, refusal, askers.iter().map(|asker| asker.who.address));
        self.release(query, entry, askers, outbox);
    }

    fn note_held(&self, query: &Query, refusal: &Refusal, clients: impl Iterator<Item = IpAddr>) {
        let (ede, reason) = ede::of_refusal(refusal);
        for client in clients {
            self.note_would(client, &query.name, query.qtype, reason, &ede.text, ede.code);
        }
    }

    /// Asks the core for the addresses of an answer that has left, in the name of those who got it.
    fn ask_behind(self: &Arc<Self>, key: &Key, entry: &Arc<Entry>, mut clients: Vec<Who>) {
        let Some(first) = clients.first().map(|who| who.address).filter(|_| entry.opens()) else { return };
        {
            let mut requests = self.requests();
            match requests.entry_ref(key.octets()) {
                EntryRef::Occupied(mut waiting) => {
                    let waiting = waiting.get_mut();
                    clients.truncate(TOGETHER.saturating_sub(waiting.len()));
                    waiting.append(&mut clients);
                    return;
                }
                EntryRef::Vacant(free) => drop(free.insert(clients)),
            }
        }
        let Ok(place) = self.behind.take(self.claim(first)) else {
            self.metrics.audit_unjudged.inc();
            self.requests().remove(key.octets());
            return;
        };
        let Some(again) = entry.again() else {
            self.requests().remove(key.octets());
            return;
        };
        self.runtime.spawn(self.clone().judge_behind(key.clone(), entry.clone(), again, place));
    }

    fn requests(&self) -> MutexGuard<'_, HashMap<Box<[u8]>, Vec<Who>, RandomState>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn judge_behind(self: Arc<Self>, key: Key, entry: Arc<Entry>, again: Readmission, _place: Place) {
        let query = Query {
            name: again.question.clone(),
            qtype: again.qtype,
            dnssec_ok: false,
            checking_disabled: false,
            plain: false,
            whose: Claim::NOBODY,
        };
        let again = settle::aged(&again, entry.age(self.clock.now()));
        let mut tried: HashSet<IpAddr> = HashSet::new();
        loop {
            let next = {
                let mut requests = self.requests();
                let waiting = requests.get(key.octets());
                let next =
                    waiting.and_then(|waiting| waiting.iter().find(|who| !tried.contains(&who.address)).cloned());
                if next.is_none() {
                    requests.remove(key.octets());
                }
                next
            };
            let Some(who) = next else { return };
            let client = who.address;
            let refusal = match self.core.admit(self.admission(&again, &who, entry.generation())).await {
                Ok(Decision::Release { leases, short }) => {
                    // Those who joined wanted the same addresses, which are in force now.
                    let whom = self.requests().remove(key.octets()).unwrap_or_default();
                    if let Some(budget) = &short {
                        let words = draft::words_for_short(&again, &leases, budget);
                        for who in whom {
                            self.note_would(who.address, &query.name, query.qtype, "shortened", &words, code::OTHER);
                        }
                        if *budget != Refusal::PerAnswer {
                            return;
                        }
                    }
                    let now = self.clock.now();
                    let newer = self.cache.get(&key, entry.generation(), now);
                    if newer.is_none_or(|kept| kept.stored <= entry.stored) {
                        self.cache.put(Arc::new(entry.leased(&key, leases)), now);
                    }
                    return;
                }
                Ok(Decision::Refuse(refusal)) => refusal,
                Err(_) => {
                    self.requests().remove(key.octets());
                    return;
                }
            };
            let whom = if refusal == Refusal::PerClient {
                tried.insert(client);
                let mut requests = self.requests();
                let waiting = requests.get_mut(key.octets());
                waiting
                    .map(|waiting| waiting.extract_if(.., |other| other.address == client).collect())
                    .unwrap_or_default()
            } else {
                self.requests().remove(key.octets()).unwrap_or_default()
            };
            self.note_held(&query, &refusal, whom.into_iter().map(|who| who.address));
            if refusal != Refusal::PerClient {
                return;
            }
        }
    }
}
