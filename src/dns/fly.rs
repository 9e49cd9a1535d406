//! A question on its way, as a task of its own: upstream, judgement, gate, cache, replies.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use super::Rules;
use super::cache::{Again, Entry, Key, Message, Outcome};
use super::draft::{Checked, Draft, Kind, Whom, alias, draft_checked, local, words_for_short};
use super::ede::{Ede, code};
use super::flights::{Asker, Flight, Outbox, Route};
use super::follow::Following;
use super::reply;
use super::resolve::Resolver;
use super::stale;
use super::upstream::query::Query;
use super::upstream::race::{Ask, Race};
use super::upstream::{AskError, Asked, TOTAL};
use super::validate::{self, Pick, Source};
use crate::core::event::{Admission, Decision, Grant, LeaseHandle, LeaseHandles, Refusal, Ticket};
use crate::core::moment::Moment;
use crate::core::policy::list::LocalData;
use crate::core::policy::registrable;
use crate::core::policy::view::ViewId;

const SECOND: Duration = Duration::from_secs(1);

impl Resolver {
    pub(super) async fn fly(self: Arc<Self>, flight: Flight) {
        let query = &flight.query;
        let rules = self.rules.load_full();
        let now = self.clock.now();
        let kept = if flight.sponsor.is_some() || !rules.views.same_clients(&flight.views) {
            None
        } else {
            self.kept(&flight.key, rules.generation, now)
        };
        if let Some(entry) = kept {
            if rules.audit {
                drop(rules);
                self.audit_release(&flight, &entry, self.land_all(&flight), &mut Outbox::Now);
                return;
            }
            if entry.is_in_force(now, rules.lease_min) {
                // Another task filled it between the lookup and this one's start.
                self.release(query, &entry, self.land_all(&flight), &mut Outbox::Now);
                return;
            }
            if entry.ended.is_some() && stale::is_open(&entry, now) {
                self.metrics.stale.inc();
                self.release(query, &entry, self.land_all(&flight), &mut Outbox::Now);
                return;
            }
            if let Some(draft) = draft_again(&entry, now) {
                self.metrics.cache_readmitted.inc();
                self.settle(&flight, draft, rules.generation).await;
                return;
            }
        }
        let view = flight.key.view();
        let data = rules.local_data(view, &query.name).map(<[LocalData]>::to_vec);
        let hurry = self.stale(&flight, &rules).is_some();
        drop(rules);
        let asked = match &data {
            None => Some(self.ask(query, view, hurry).await),
            Some(data) => match alias(data) {
                Some(target) => Some(self.ask(&Query { name: target.clone(), ..query.clone() }, view, hurry).await),
                // A list's own addresses need nobody.
                None => None,
            },
        };
        self.answered(flight, asked, data).await;
    }

    /// The rest of the way of a question whose race a worker began: with this query, which needs a stream.
    pub(super) async fn go_on(self: Arc<Self>, flight: Flight, race: Race, ask: Ask) {
        let until = race.ends_at();
        let asked = match self.upstreams.run(race, &flight.query, Some(ask)).await {
            Ok(asked) => self.complete(&flight.query, flight.key.view(), read(asked), until).await,
            Err(error) => Err(error),
        };
        self.answered(flight, Some(asked), None).await;
    }

    /// The rest of the way of a question that a worker's forwarder could not bring to its end: its alias leads on.
    pub(super) async fn land(self: Arc<Self>, flight: Flight, checked: Checked, until: Instant) {
        let asked = self.complete(&flight.query, flight.key.view(), checked, until).await;
        self.answered(flight, Some(asked), None).await;
    }

    /// An upstream has answered the question (or that for the alias among a list's own `data`), or none has; or nobody was asked.
    async fn answered(
        self: &Arc<Self>,
        flight: Flight,
        asked: Option<Result<Checked, AskError>>,
        data: Option<Vec<LocalData>>,
    ) {
        let query = &flight.query;
        let failed = matches!(asked, Some(Err(_)));
        let whom = Whom::from(&flight.key);
        // Judged by the rules of now: they may have changed while the upstream thought.
        let rules = self.rules.load_full();
        let same = flight.is_of(&rules, data.as_deref());
        let draft = match (asked, &data) {
            // Nobody can say any more whose rules these questions were to be judged by, or another question is to be asked.
            _ if !same => Draft::failure(query, "reloaded", Ede::new(code::OTHER, "the policy changed meanwhile")),
            (Some(Err(error)), _) => Draft::unanswered(query, error),
            (Some(Ok(checked)), None) => draft_checked(query, checked, &rules, whom),
            (Some(Ok(checked)), Some(data)) => local(query, data, Some(checked), &rules, whom),
            (None, data) => local(query, data.as_deref().unwrap_or_default(), None, &rules, whom),
        };
        // RFC 8767 section 4: what isn't NOERROR or NXDOMAIN refreshes nothing. An upstream that reaches nobody itself says SERVFAIL.
        let failed = failed || matches!(draft.kind, Kind::Failed("upstream_code", _));
        if failed && let Some(entry) = self.stale(&flight, &rules) {
            let entry = Arc::new(entry);
            self.metrics.stale.inc();
            self.cache.put(entry.clone(), self.clock.now());
            if rules.audit {
                drop(rules);
                self.audit_release(&flight, &entry, self.land_all(&flight), &mut Outbox::Now);
            } else {
                self.release(query, &entry, self.land_all(&flight), &mut Outbox::Now);
            }
            return;
        }
        self.metrics.unrelated_records.inc_by(u64::try_from(draft.unrelated).unwrap_or(0));
        self.settle(&flight, draft, rules.generation).await;
    }

    /// What may be given if no upstream answers. Nobody waits for a prefetch, so that there is nothing for it.
    fn stale(&self, flight: &Flight, rules: &Rules) -> Option<Entry> {
        if flight.sponsor.is_some() || !rules.views.same_clients(&flight.views) {
            return None;
        }
        let now = self.clock.now();
        stale::revive(&flight.key, &*self.kept_stale(&flight.key, rules.generation, now)?, now, rules.audit)
    }

    /// Asks the upstreams and validates what they say; in a `hurry` when there is something stale to give instead.
    pub(super) async fn ask(&self, query: &Query, view: ViewId, hurry: bool) -> Result<Checked, AskError> {
        let until = Instant::now() + TOTAL;
        let asked = async {
            match &self.validator {
                // Its own time is for the keys, and for others when the answer is bogus.
                Some(validator) if !query.checking_disabled => {
                    validator.ask(&self.following(view, until + validate::AGAIN), query).await
                }
                _ => self.complete(query, view, read(self.upstreams.ask(query).await?), until).await,
            }
        };
        if hurry {
            return tokio::time::timeout(stale::PATIENCE, asked).await.unwrap_or(Err(AskError::TimeOut));
        }
        asked.await
    }

    /// Asks for what a response leaves off at, until then.
    async fn complete(
        &self,
        query: &Query,
        view: ViewId,
        checked: Checked,
        until: Instant,
    ) -> Result<Checked, AskError> {
        match checked {
            Checked::Response(response) => self.following(view, until).complete(query, response, Pick::Anyone).await,
            other => Ok(other),
        }
    }

    fn following(&self, view: ViewId, until: Instant) -> Following<'_> {
        Following { upstreams: &self.upstreams, rules: &self.rules, view, metrics: &self.metrics, until }
    }

    /// Has the draft's addresses admitted and answers everybody.
    async fn settle(self: &Arc<Self>, flight: &Flight, draft: Draft, generation: u64) {
        let outbox = &mut Outbox::Now;
        if self.rules.load().audit {
            self.settle_audit(flight, draft, generation, outbox);
            return;
        }
        let draft = draft.enforced(&flight.query);
        let Some(again) = draft.again.clone() else {
            self.settle_without_gate(flight, draft, generation, outbox);
            return;
        };
        let started = Instant::now();
        let mut tried: HashSet<IpAddr> = HashSet::new();
        while let Some(client) = self.next_client(flight, |client| tried.contains(client)) {
            let refusal = match self.core.admit(Self::admission(&again, client)).await {
                Ok(Decision::Release { leases, short }) => {
                    let opened = Opened { leases, short };
                    if opened.short == Some(Refusal::PerClient) {
                        self.let_part_through(flight, &draft, opened, client, generation, outbox);
                        tried.insert(client);
                        continue;
                    }
                    self.let_through(flight, draft, opened, generation, started, outbox);
                    return;
                }
                Ok(Decision::Refuse(refusal)) => refusal,
                Err(_) => Refusal::Enforcer { name: "guard".to_owned(), reason: "stopping".to_owned() },
            };
            tried.insert(client);
            if !self.turn_away(flight, &draft, &refusal, client, generation, outbox) {
                return;
            }
        }
    }

    /// What the core is asked in this client's name.
    pub(super) fn admission(again: &Again, client: IpAddr) -> Admission {
        Admission {
            ticket: Ticket(0),
            client,
            question: again.question.clone(),
            qtype: again.qtype,
            chain: again.chain.clone(),
            domain: registrable(&again.question),
            grants: again.grants.clone(),
            whole: again.whole,
        }
    }

    /// The gate let an answer through: it is kept, and goes to everybody.
    pub(super) fn let_through(
        &self,
        flight: &Flight,
        mut draft: Draft,
        opened: Opened,
        generation: u64,
        started: Instant,
        outbox: &mut Outbox<'_>,
    ) {
        self.metrics.gate_seconds.observe(outbox.now().saturating_duration_since(started).as_secs_f64());
        let now = self.clock.now();
        if flight.key.is_of_client() {
            // For the others, each of whom has to be admitted.
            self.keep_closed(&flight.key, &draft, generation, now);
        }
        // More of it may fit the next time; more than one answer may hold never will.
        let for_now = opened.short.as_ref().is_some_and(|budget| *budget != Refusal::PerAnswer);
        if for_now && !flight.key.is_of_client() {
            self.keep_closed(&flight.key, &draft, generation, now);
        }
        let words = self.shorten_draft(&flight.query, &mut draft, &opened);
        let kept = Kept { key: &flight.key, now, generation, grace: self.rules.load().lease_grace };
        let entry = Arc::new(finish(draft, Some(opened.leases), kept));
        if !for_now {
            self.cache.put(entry.clone(), now);
        }
        let askers = self.land_all(flight);
        self.note_short(&flight.query, &askers, words);
        self.release(&flight.query, &entry, askers, outbox);
    }

    /// The gate let a part of an answer through, since this client may have no more. It goes to this client alone: others may have all.
    pub(super) fn let_part_through(
        &self,
        flight: &Flight,
        draft: &Draft,
        opened: Opened,
        client: IpAddr,
        generation: u64,
        outbox: &mut Outbox<'_>,
    ) {
        let now = self.clock.now();
        self.keep_closed(&flight.key, draft, generation, now);
        let mut part = draft.clone();
        let words = self.shorten_draft(&flight.query, &mut part, &opened);
        let kept = Kept { key: &flight.key, now, generation, grace: self.rules.load().lease_grace };
        let entry = finish(part, Some(opened.leases), kept);
        let askers = self.take_those_of(&flight.key, client);
        self.note_short(&flight.query, &askers, words);
        self.release(&flight.query, &entry, askers, outbox);
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
            self.refusals.push(asker.client, &query.name, query.qtype, "shortened", &words, code::OTHER);
        }
    }

    /// The gate refused an answer in this client's name. Whether another client's may be tried.
    pub(super) fn turn_away(
        &self,
        flight: &Flight,
        draft: &Draft,
        refusal: &Refusal,
        client: IpAddr,
        generation: u64,
        outbox: &mut Outbox<'_>,
    ) -> bool {
        let (key, query) = (&flight.key, &flight.query);
        let for_client_only = *refusal == Refusal::PerClient;
        // A prefetch that fails leaves the entry that it was to follow.
        if flight.sponsor.is_none() {
            self.keep_for_later(key, draft, refusal, generation);
        }
        if self.rules.load().audit {
            let entry = closed(key, draft, generation, self.clock.now());
            let askers = if for_client_only { self.take_those_of(key, client) } else { self.land_all(flight) };
            self.release_refused(query, &entry, refusal, askers, outbox);
            return for_client_only;
        }
        let askers = if for_client_only { self.take_those_of(key, client) } else { self.land_all(flight) };
        self.hold(query, refusal, askers, outbox);
        for_client_only
    }

    /// Nothing is to be opened: kept and given at once.
    pub(super) fn settle_without_gate(
        &self,
        flight: &Flight,
        mut draft: Draft,
        generation: u64,
        outbox: &mut Outbox<'_>,
    ) {
        let (key, query) = (&flight.key, &flight.query);
        let kind = std::mem::replace(&mut draft.kind, Kind::Answer);
        let now = self.clock.now();
        let outcome = outcome_of(&kind);
        let kept = Kept { key: &key.of_all(), now, generation, grace: self.rules.load().lease_grace };
        let entry = Arc::new(Entry { outcome, ..finish(draft, None, kept) });
        if flight.sponsor.is_none() || !matches!(kind, Kind::Failed(..)) {
            self.cache.put(entry.clone(), now);
        }
        let askers = self.land_all(flight);
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
                    self.refusals.push(asker.client, &query.name, query.qtype, "policy", words, code::BLOCKED);
                }
            }
            Kind::Failed(reason, words) => self.refuse_all(query, &entry, askers, (reason, words), outbox),
            Kind::Truncated => {
                let (streams, datagrams): (Vec<_>, Vec<_>) =
                    askers.into_iter().partition(|asker| matches!(asker.route, Route::Stream(..)));
                let words = ("truncated", "the whole answer can't be had");
                self.refuse_all(query, &entry, streams, words, outbox);
                for asker in datagrams {
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
pub(super) fn closed(key: &Key, draft: &Draft, generation: u64, now: Moment) -> Entry {
    let leases = draft.again.as_ref().map_or_else(LeaseHandles::new, |again| {
        again.grants.iter().map(|grant| LeaseHandle::new(grant.address, now)).collect()
    });
    let entry = finish(draft.clone(), None, Kept { key, now, generation, grace: Duration::ZERO });
    Entry { leases, ..entry }
}

/// The same grants so many seconds later.
pub(super) fn aged(again: &Again, age: u32) -> Again {
    let grants =
        again.grants.iter().map(|grant| Grant { address: grant.address, ttl: grant.ttl.saturating_sub(age) }).collect();
    Again { grants, ..again.clone() }
}

/// What the upstreams said, read.
fn read(asked: Asked) -> Checked {
    asked.response.map_or_else(|| Checked::read(&asked.message), |response| Checked::Response(*response))
}

/// A draft from a kept entry, its TTLs lowered to what is left of them. `None`: the entry opens nothing, so that it can't be admitted.
fn draft_again(entry: &Entry, now: Moment) -> Option<Draft> {
    let age = entry.age(now);
    let again = aged(entry.again.as_ref()?, age);
    let mut body = entry.message.body();
    reply::age_ttls(&mut body, age);
    let keep = u32::try_from(now.until(entry.expires).as_secs()).unwrap_or(u32::MAX);
    Some(Draft {
        body,
        keep,
        again: Some(again),
        ede: entry.ede.clone(),
        kind: Kind::Answer,
        unrelated: 0,
        would: None,
    })
}

/// What the core opened of an answer.
pub(super) struct Opened {
    /// Of every address that may be told.
    pub(super) leases: LeaseHandles,
    /// The budget that left fewer than were asked for.
    pub(super) short: Option<Refusal>,
}

/// How a draft is to be kept.
#[derive(Clone, Copy)]
struct Kept<'a> {
    key: &'a Key,
    now: Moment,
    /// Of the rules it was judged by.
    generation: u64,
    /// `lease.grace`
    grace: Duration,
}

/// The entry of a draft, its TTLs lowered to what its leases cover: their end less the grace that clients get beyond their TTL.
fn finish(mut draft: Draft, leases: Option<LeaseHandles>, kept: Kept<'_>) -> Entry {
    let Kept { key, now, generation, grace } = kept;
    let leases = leases.unwrap_or_default();
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
    Entry {
        message: Message::new(key, &draft.body),
        stored: now,
        expires: now.plus(Duration::from_secs(u64::from(keep))),
        leases,
        again: draft.again,
        ede: draft.ede,
        outcome: outcome_of(&draft.kind),
        would: draft.would,
        generation,
        uses: AtomicU32::new(0),
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
