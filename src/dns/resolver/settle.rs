//! A judged reply to its end: the core admits its addresses, the cache keeps it, everybody who waits gets it.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::control::query_log::Fate;
use crate::core::event::{Admission, Decision, Grant, LeaseHandle, LeaseHandles, Refusal, Ticket};
use crate::core::moment::Moment;
use crate::core::person::Who;
use crate::core::policy::registrable;
use crate::dns::cache::{Entry, Key, Made, Outcome, Readmission};
use crate::dns::codec::ede::code;
use crate::dns::codec::reply;
use crate::dns::codec::wire::rcode;
use crate::dns::resolver::Resolver;
use crate::dns::resolver::draft::{Draft, Kind, words_for_short};
use crate::dns::resolver::noted::End;
use crate::dns::resolver::pending::{Asker, Outbox, Pending, Route};
use crate::dns::upstream::query::Query;

const SECOND: Duration = Duration::from_secs(1);

impl Resolver {
    /// Has the draft's addresses admitted and answers everybody.
    pub(in crate::dns) async fn settle(self: &Arc<Self>, pending: &Pending, draft: Draft, generation: u64) {
        let outbox = &mut Outbox::Now;
        if self.rules.load().audit {
            self.settle_audit(pending, draft, generation, outbox);
            return;
        }
        if draft.would.is_some() {
            // The mode was switched, and enforcement says otherwise.
            self.begin_anew(pending);
            return;
        }
        let Some(again) = draft.again.clone() else {
            self.settle_without_gate(pending, draft, generation, outbox);
            return;
        };
        let started = Instant::now();
        let mut tried: HashSet<IpAddr> = HashSet::new();
        while let Some(who) = self.next_client(pending, |client| tried.contains(client)) {
            let client = who.address;
            let refusal = match self.core.admit(self.admission(&again, &who, generation)).await {
                Ok(Decision::Release { leases, short }) => {
                    let opened = Opened { leases, short };
                    if opened.short == Some(Refusal::PerClient) {
                        self.let_part_through(pending, &draft, opened, client, generation, outbox);
                        tried.insert(client);
                        continue;
                    }
                    self.let_through(pending, draft, opened, generation, started, outbox);
                    return;
                }
                Ok(Decision::Refuse(refusal)) => refusal,
                Err(_) => Refusal::Enforcer { name: "guard".to_owned(), reason: "stopping".to_owned() },
            };
            tried.insert(client);
            if !self.turn_away(pending, &draft, &refusal, client, generation, outbox) {
                return;
            }
        }
    }

    /// What the core is asked in this client's name, of an answer that was judged by these rules.
    pub(in crate::dns) fn admission(&self, again: &Readmission, who: &Who, judged: u64) -> Admission {
        let rules = self.rules.load();
        Admission {
            judged,
            openings: rules.openings_in(rules.views.of_who(who), &again.question),
            ticket: Ticket(0),
            client: who.address,
            mark: who.person.as_ref().and_then(|_| self.rules.load().views.mark_of(who)),
            question: again.question.clone(),
            qtype: again.qtype,
            chain: again.chain.clone(),
            domain: registrable(&again.question),
            grants: again.grants.clone(),
            whole: again.whole,
        }
    }

    /// The gate let an answer through: it is kept, and goes to everybody.
    pub(in crate::dns) fn let_through(
        &self,
        pending: &Pending,
        mut draft: Draft,
        opened: Opened,
        generation: u64,
        started: Instant,
        outbox: &mut Outbox<'_>,
    ) {
        self.metrics.gate_seconds.observe(outbox.now().saturating_duration_since(started).as_secs_f64());
        let now = self.clock.now();
        if pending.key.is_of_client() {
            // For the others, each of whom has to be admitted.
            self.keep_closed(&pending.key, &draft, generation, now);
        }
        // More of it may fit the next time; more than one answer may hold never will.
        let for_now = opened.short.as_ref().is_some_and(|budget| *budget != Refusal::PerAnswer);
        if for_now && !pending.key.is_of_client() {
            self.keep_closed(&pending.key, &draft, generation, now);
        }
        let words = self.shorten_draft(&pending.query, &mut draft, &opened);
        let kept = Kept { key: &pending.key, now, generation, grace: self.rules.load().lease_grace };
        let entry = Arc::new(finish(draft, opened.leases, kept));
        if !for_now {
            self.cache.put(entry.clone(), now);
        }
        let askers = self.finish(pending);
        self.note_short(&pending.query, &askers, words);
        self.release(&pending.query, &entry, askers, outbox);
    }

    /// The gate let a part of an answer through, since this client may have no more. It goes to this client alone: others may have all.
    pub(in crate::dns) fn let_part_through(
        &self,
        pending: &Pending,
        draft: &Draft,
        opened: Opened,
        client: IpAddr,
        generation: u64,
        outbox: &mut Outbox<'_>,
    ) {
        let now = self.clock.now();
        self.keep_closed(&pending.key, draft, generation, now);
        let mut part = draft.clone();
        let words = self.shorten_draft(&pending.query, &mut part, &opened);
        let kept = Kept { key: &pending.key, now, generation, grace: self.rules.load().lease_grace };
        let entry = finish(part, opened.leases, kept);
        let askers = self.take_those_of(pending, client);
        self.note_short(&pending.query, &askers, words);
        self.release(&pending.query, &entry, askers, outbox);
    }

    /// Leaves the addresses alone that were opened, and says what to note of it; in audit (the mode was switched meanwhile) all of them.
    fn shorten_draft(&self, query: &Query, draft: &mut Draft, opened: &Opened) -> Option<String> {
        let budget = opened.short.as_ref().filter(|_| !self.rules.load().audit)?;
        let words = words_for_short(draft.again.as_ref()?, &opened.leases, budget);
        *draft = draft.only(query, &opened.leases, words.clone());
        Some(words)
    }

    fn note_short(&self, query: &Query, askers: &[Asker], words: Option<String>) {
        let Some(words) = words else { return };
        for asker in askers {
            self.refusals.push(asker.who.address, &query.name, query.qtype, "shortened", &words, code::OTHER);
        }
    }

    /// The gate refused an answer in this client's name. Whether another client's may be tried.
    pub(in crate::dns) fn turn_away(
        &self,
        pending: &Pending,
        draft: &Draft,
        refusal: &Refusal,
        client: IpAddr,
        generation: u64,
        outbox: &mut Outbox<'_>,
    ) -> bool {
        let (key, query) = (&pending.key, &pending.query);
        let for_client_only = *refusal == Refusal::PerClient;
        // A prefetch that fails leaves the entry that it was to follow.
        if pending.sponsor.is_none() {
            self.keep_for_later(key, draft, refusal, generation);
        }
        if self.rules.load().audit {
            let entry = closed(key, draft, generation, self.clock.now());
            let askers = if for_client_only { self.take_those_of(pending, client) } else { self.finish(pending) };
            self.release_refused(query, &entry, refusal, askers, outbox);
            return for_client_only;
        }
        let askers = if for_client_only { self.take_those_of(pending, client) } else { self.finish(pending) };
        self.refuse_at_gate(query, refusal, askers, outbox);
        for_client_only
    }

    /// Nothing is to be opened: kept and given at once.
    pub(in crate::dns) fn settle_without_gate(
        &self,
        pending: &Pending,
        mut draft: Draft,
        generation: u64,
        outbox: &mut Outbox<'_>,
    ) {
        let (key, query) = (&pending.key, &pending.query);
        let kind = std::mem::replace(&mut draft.kind, Kind::Answer);
        let now = self.clock.now();
        let outcome = outcome_of(&kind);
        let kept = Kept { key: &key.of_all(), now, generation, grace: self.rules.load().lease_grace };
        let made = Made { outcome, ..made(&mut draft, LeaseHandles::new(), kept) };
        let entry = Arc::new(Entry::new(kept.key, &draft.body, made));
        if pending.sponsor.is_none() || !matches!(kind, Kind::Failed(..)) {
            self.cache.put(entry.clone(), now);
        }
        let askers = self.finish(pending);
        match &kind {
            Kind::Answer => self.release(query, &entry, askers, outbox),
            Kind::Denied(reason, words) => {
                self.metrics.denied.inc_by(u64::try_from(askers.len()).unwrap_or(0));
                self.refuse_all(query, &entry, askers, (reason, words), outbox);
            }
            Kind::Dropped(words) => {
                for asker in askers {
                    self.metrics.denied.inc();
                    self.metrics.refuse("policy");
                    self.refusals.push(asker.who.address, &query.name, query.qtype, "policy", words, code::BLOCKED);
                    let end = End { fate: Fate::Denied, rcode: rcode::NOERROR, why: Some(words) };
                    self.log(asker.asked(query, outbox.now()), &end);
                }
            }
            Kind::Failed(reason, words) => self.refuse_all(query, &entry, askers, (reason, words), outbox),
            Kind::Truncated => {
                let (streams, datagrams): (Vec<_>, Vec<_>) =
                    askers.into_iter().partition(|asker| matches!(asker.route, Route::Stream(..)));
                let words = ("truncated", "the whole answer can't be had");
                self.refuse_all(query, &entry, streams, words, outbox);
                for asker in datagrams {
                    let end = End { fate: Fate::Failed, rcode: rcode::NOERROR, why: Some(words.1) };
                    self.log(asker.asked(query, outbox.now()), &end);
                    self.post(&asker.route, outbox, |out| reply::truncated(&asker.to.head(), None, out));
                }
            }
        }
    }

    /// After a refusal the judged answer is kept without leases, so that the next question tries the gate again and leaves the
    /// upstream alone.
    fn keep_for_later(&self, key: &Key, draft: &Draft, refusal: &Refusal, generation: u64) {
        if *refusal == Refusal::Revoked {
            return;
        }
        self.keep_closed(key, draft, generation, self.clock.now());
    }

    /// A judged answer without leases in force: whoever asks has to be admitted first.
    fn keep_closed(&self, key: &Key, draft: &Draft, generation: u64, now: Moment) {
        self.cache.put(Arc::new(closed(&key.of_all(), draft, generation, now)), now);
    }
}

/// The entry of a judged answer whose addresses are not leased, its TTLs as they came.
pub(in crate::dns) fn closed(key: &Key, draft: &Draft, generation: u64, now: Moment) -> Entry {
    let leases = draft.again.as_ref().map_or_else(LeaseHandles::new, |again| {
        again.grants.iter().map(|grant| LeaseHandle::new(grant.address, now)).collect()
    });
    let mut draft = draft.clone();
    let made = made(&mut draft, LeaseHandles::new(), Kept { key, now, generation, grace: Duration::ZERO });
    Entry::new(key, &draft.body, Made { leases, ..made })
}

/// The same grants so many seconds later.
pub(in crate::dns) fn aged(again: &Readmission, age: u32) -> Readmission {
    let grants =
        again.grants.iter().map(|grant| Grant { address: grant.address, ttl: grant.ttl.saturating_sub(age) }).collect();
    Readmission { grants, ..again.clone() }
}

/// What the core opened of an answer.
pub(in crate::dns) struct Opened {
    /// Of every address that may be told.
    pub(in crate::dns) leases: LeaseHandles,
    /// The budget that left fewer than were asked for.
    pub(in crate::dns) short: Option<Refusal>,
}

/// How a draft is to be kept.
#[derive(Clone, Copy)]
struct Kept<'a> {
    key: &'a Key,
    now: Moment,
    /// Of the rules it was judged by.
    generation: u64,
    /// The time that clients get beyond a record's TTL (`lease.grace`).
    grace: Duration,
}

/// The entry of a draft, its TTLs lowered to what its leases cover: their end less the grace that clients get beyond their TTL.
fn finish(mut draft: Draft, leases: LeaseHandles, kept: Kept<'_>) -> Entry {
    let made = made(&mut draft, leases, kept);
    Entry::new(kept.key, &draft.body, made)
}

/// The same but for its body, which stays.
fn made(draft: &mut Draft, leases: LeaseHandles, kept: Kept<'_>) -> Made {
    let Kept { now, generation, grace, .. } = kept;
    let mut keep = draft.keep;
    if let Some(ends) = leases.iter().map(LeaseHandle::ends).min() {
        // The lease counts from when the core saw the answer, some milliseconds ago. A grace of a second or more has room for
        // rounding up, so that a TTL of 300 stays 300.
        let round_up = if grace >= SECOND { SECOND.saturating_sub(Duration::from_millis(1)) } else { Duration::ZERO };
        let left = now.until(ends).saturating_sub(grace).saturating_add(round_up).as_secs();
        let left = u32::try_from(left).unwrap_or(u32::MAX);
        reply::cap_ttls(&mut draft.body, left);
        keep = keep.min(left);
    }
    Made {
        stored: now,
        keep,
        leases,
        again: draft.again.take(),
        ede: draft.ede.take(),
        outcome: outcome_of(&draft.kind),
        would: draft.would.take(),
        generation,
        ended: None,
    }
}

/// What a draft of this kind counts as when it is served again.
fn outcome_of(kind: &Kind) -> Outcome {
    match kind {
        Kind::Answer => Outcome::Released,
        Kind::Denied(reason, _) => Outcome::Denied(reason),
        Kind::Dropped(_) => Outcome::Denied("policy"),
        Kind::Failed(reason, _) => Outcome::Failed(reason),
        Kind::Truncated => Outcome::Failed("truncated"),
    }
}
