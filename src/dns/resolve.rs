//! What happens to a question, on any transport: cache, policy, upstream, judgement, gate, reply.
//!
//! ```text
//!  handle()  on the thread that received it: parse -> cache --hit--> reply
//!                                                    | miss: policy on the name --denied--> reply
//!  submit()  place in flight? --no--> SERVFAIL        v
//!            an identical question in flight? --yes--> wait with it
//!                                                    | no: a task
//!  fly()     (entry near its leases' end? admit again) or (upstream -> draft) -> core admits -> cache -> all who wait
//! prefetch() a used entry near its end: the same flight with nobody waiting
//! ```
//!
//! Questions are identical when name, type and DO are. The core admits an answer for one of the clients that wait; only a refusal that
//! concerns that client alone (its budget) makes it ask again for another of them.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use tokio::sync::mpsc;

use super::Rules;
use super::cache::{Again, Cache, Entry, Key, Outcome};
use super::cookie::Cookies;
use super::ddr::{self, Designated};
use super::draft::{Draft, Kind, alias, draft, local};
use super::ede::{self, Ede, code};
use super::limits::{Full, Limit, Place};
use super::local;
use super::metrics::Metrics;
use super::rate::{Allowed, RateLimit};
use super::refusals::Refusals;
use super::reply::{self, ReplyHead, ReplyTo};
use super::stale;
use super::upstream::query::Query;
use super::upstream::{AskError, Asked, Upstreams};
use super::wire::{self, ClientEdns, Parsed, Question, Reject, flag, rcode};
use crate::core::event::{Admission, Decision, Grant, LeaseHandle, Refusal, Ticket};
use crate::core::moment::Moment;
use crate::core::name::Name;
use crate::core::policy::list::LocalData;
use crate::core::policy::view::Views;
use crate::core::policy::{Effect, Policy, Verdict};
use crate::core_task::CoreHandle;
use crate::sys::clock::Clock;
use crate::sys::udp::{self, Local};

/// Questions that wait at once. Beyond it: SERVFAIL at once, counted.
pub const IN_FLIGHT: usize = 16_384;
/// Questions of one client that wait at once.
pub const IN_FLIGHT_PER_CLIENT: usize = 8_192;
const SECOND: Duration = Duration::from_secs(1);
/// How many of the last who joined a question are looked through for the same client's retransmission.
const LOOK_BACK: usize = 16;

/// How a reply reaches its client.
#[derive(Clone)]
pub enum Route {
    /// From this socket.
    Udp {
        /// The socket that received the question.
        socket: Arc<std::net::UdpSocket>,
        /// The client.
        peer: SocketAddr,
        /// The address that was asked.
        local: Option<Local>,
    },
    /// Through the connection's writer. Its channel has room for every question in flight on the connection.
    Stream(mpsc::Sender<Vec<u8>>),
}

/// A question that waits.
pub struct Asker {
    /// What the reply needs.
    pub to: ReplyTo,
    /// Who asked, canonical.
    pub client: IpAddr,
    /// Where the reply goes.
    pub route: Route,
    place: Place,
    since: Instant,
}

impl Asker {
    fn is_same(&self, other: &Self) -> bool {
        let same_route = match (&self.route, &other.route) {
            (Route::Udp { peer, .. }, Route::Udp { peer: other, .. }) => peer == other,
            _ => false,
        };
        same_route && self.to.id == other.to.id
    }
}

/// One question on its way. However its task ends, by a panic too, nobody is left waiting for it.
struct Flight {
    resolver: Arc<Resolver>,
    key: Key,
    /// What the key's view means.
    views: Arc<Views>,
    query: Query,
    sponsor: Option<Sponsor>,
}

/// The client in whose name something is prefetched, and its place.
struct Sponsor {
    client: IpAddr,
    _place: Place,
}

impl Drop for Flight {
    fn drop(&mut self) {
        let left = self.resolver.take_all(&self.key);
        if left.is_empty() {
            return;
        }
        let ede = Ede::new(code::OTHER, "an error within the guard");
        for asker in left {
            self.resolver.metrics.refuse("internal");
            let query = &self.query;
            self.resolver.refusals.push(asker.client, &query.name, query.qtype, "internal", &ede.text, ede.code);
            let mut out = Vec::with_capacity(128);
            reply::error(rcode::SERVFAIL, &asker.to.head(), Some(&ede), &mut out);
            self.resolver.send(&asker.route, out);
        }
    }
}

/// What became of a packet at once. Lives on the stack for one packet, so that a box would only cost.
#[allow(clippy::large_enum_variant)]
pub enum Handled<'a> {
    /// The reply was appended.
    Reply,
    /// No reply.
    Drop,
    /// To be given to [`Resolver::submit`].
    Miss(Question<'a>),
}

/// What the packets of one batch share, and what is counted of them.
pub struct Turn<'a> {
    /// The rules of the moment.
    pub rules: &'a Rules,
    /// When the batch arrived.
    pub now: Moment,
    /// Served from the cache.
    pub hits: u64,
    /// Of these, answers (not kept refusals).
    pub released: u64,
}

impl<'a> Turn<'a> {
    /// Nothing counted yet.
    #[must_use]
    pub fn new(rules: &'a Rules, now: Moment) -> Self {
        Self { rules, now, hits: 0, released: 0 }
    }
}

/// Everything a question meets. One for the daemon.
pub struct Resolver {
    pub(super) rules: Arc<ArcSwap<Rules>>,
    pub(super) clients: Vec<IpNet>,
    pub(super) core: CoreHandle,
    pub(super) clock: Clock,
    pub(super) upstreams: Upstreams,
    pub(super) cache: Cache,
    pub(super) metrics: Metrics,
    pub(super) refusals: Refusals,
    pub(super) in_flight: Arc<Limit>,
    pub(super) flights: Mutex<HashMap<Box<[u8]>, Vec<Asker>>>,
    pub(super) designated: Option<Designated>,
    pub(super) cookies: Cookies,
    pub(super) rate_limit: Option<RateLimit>,
    pub(super) prefetch: bool,
    pub(super) lease_min: Duration,
    pub(super) lease_grace: Duration,
    pub(super) runtime: tokio::runtime::Handle,
}

impl Resolver {
    /// Whether this client may ask.
    #[must_use]
    pub fn admits(&self, client: IpAddr) -> bool {
        self.clients.iter().any(|net| net.contains(&client))
    }

    /// Answers a packet if that needs no waiting. `stream`: over TCP.
    pub fn handle<'a>(
        self: &Arc<Self>,
        packet: &'a [u8],
        client: IpAddr,
        stream: bool,
        turn: &mut Turn<'_>,
        out: &mut Vec<u8>,
    ) -> Handled<'a> {
        let (rules, now) = (turn.rules, turn.now);
        let mut question = match wire::parse(packet) {
            Parsed::Question(question) => question,
            Parsed::Drop => {
                self.metrics.drop_packet("not_a_question");
                return Handled::Drop;
            }
            Parsed::Reject(mut reject) => {
                // Nothing is worth a short reply here: real clients send real questions.
                if self.allows(&mut reject.edns, client, stream, now) != Allowed::Whole {
                    self.metrics.drop_packet("rate_limit");
                    return Handled::Drop;
                }
                if !self.admits(client) {
                    reject.rcode = rcode::REFUSED;
                }
                self.reject(&reject, client, stream, out);
                return Handled::Reply;
            }
        };
        let allowed = self.allows(&mut question.edns, client, stream, now);
        let head = head_of(&question, stream);
        if allowed != Allowed::Whole {
            return self.limited(allowed, &question, &head, client, out);
        }
        if !self.admits(client) {
            let ede = Ede::new(code::PROHIBITED, "not in dns.clients");
            self.metrics.refuse("client");
            self.note(client, question.name.wire(), question.qtype, "client", &ede);
            reply::error(rcode::REFUSED, &head, Some(&ede), out);
            return Handled::Reply;
        }
        if ddr::is_resolver_arpa(question.name.wire()) {
            ddr::answer(self.designated.as_ref(), &question, &head, out);
            return Handled::Reply;
        }
        let dnssec_ok = question.edns.is_some_and(|edns| edns.dnssec_ok);
        let view = rules.views.of(client);
        let policy = rules.views.policy(view);
        if let Some(verdict) = policy.judge_client(client)
            && let Some(handled) = self.judged(policy, verdict, &question, client, stream, out)
        {
            return handled;
        }
        let key = Key::new(question.name.wire(), question.qtype, dnssec_ok).in_view(view);
        if let Some(entry) = self.cache.get(&key, rules.generation, now)
            && entry.is_in_force(now, self.lease_min)
        {
            reply::render(&entry.octets, &entry.ttls, entry.age(now), &head, entry.ede.as_ref(), out);
            turn.hits += 1;
            if self.prefetch && entry.wants_prefetch(now) {
                self.prefetch(key, &question, client);
            }
            if entry.outcome == Outcome::Released {
                turn.released += 1;
            } else {
                self.count_kept_refusal(&entry, client, &question);
            }
            return Handled::Reply;
        }
        let Ok(name) = Name::from_wire(question.name.wire()) else {
            reply::error(rcode::FORMERR, &head, None, out);
            return Handled::Reply;
        };
        // Before the policy: its default may deny everything, and a host without "localhost" is broken.
        if let Some((local, why)) = rules.local.answer(&name, question.qtype) {
            self.metrics.local.inc();
            let (body, ede) = local::reply(&name, question.qtype, &local, why);
            reply::render(&body.octets, &body.ttls, 0, &head, Some(&ede), out);
            return Handled::Reply;
        }
        match self.judged(policy, policy.judge(&name), &question, client, stream, out) {
            Some(handled) => handled,
            None => Handled::Miss(question),
        }
    }

    /// Looks at the cookie, puts the one for the reply in its place, and says how long a reply may be. Whoever brings a valid cookie, or comes over
    /// a connection, is where it says it is.
    fn allows(&self, edns: &mut Option<ClientEdns>, client: IpAddr, stream: bool, now: Moment) -> Allowed {
        let cookie = edns.as_mut().and_then(|edns| edns.cookie.as_mut());
        let known = cookie.is_some_and(|cookie| self.cookies.check(cookie, client));
        match &self.rate_limit {
            Some(limit) if !stream && !known => limit.take(client, now),
            _ => Allowed::Whole,
        }
    }

    /// Over the rate: BADCOOKIE to those who can come back with the cookie in it (RFC 7873 section 5.2.3), TC to others, or nothing.
    fn limited<'a>(
        &self,
        allowed: Allowed,
        question: &Question<'_>,
        head: &ReplyHead<'_>,
        client: IpAddr,
        out: &mut Vec<u8>,
    ) -> Handled<'a> {
        let Allowed::Short { first } = allowed else {
            self.metrics.drop_packet("rate_limit");
            return Handled::Drop;
        };
        self.metrics.refuse("rate_limit");
        // Without words: the reply is to be no longer than need be.
        let ede = Ede::new(code::PROHIBITED, "");
        if first {
            let words = Ede::new(code::PROHIBITED, "too many replies over UDP to this network (dns.rate_limit)");
            self.note(client, question.name.wire(), question.qtype, "rate_limit", &words);
        }
        if question.edns.is_some_and(|edns| edns.cookie.is_some()) {
            reply::error(rcode::BADCOOKIE, head, Some(&ede), out);
        } else {
            reply::truncated(head, Some(&ede), out);
        }
        Handled::Reply
    }

    /// What a verdict on the question or on who asks does at once; `None`: the question goes on.
    fn judged<'a>(
        &self,
        policy: &Policy,
        verdict: Verdict,
        question: &Question<'_>,
        client: IpAddr,
        stream: bool,
        out: &mut Vec<u8>,
    ) -> Option<Handled<'a>> {
        let effect = policy.effect(verdict);
        let head = head_of(question, stream);
        if effect == Effect::Data {
            return None;
        }
        if !verdict.denies() {
            if effect != Effect::TcpOnly || stream {
                return None;
            }
            self.metrics.refuse("tcp_only");
            reply::truncated(&head, None, out);
            return Some(Handled::Reply);
        }
        let Ok(name) = Name::from_wire(question.name.wire()) else { return Some(Handled::Drop) };
        let dnssec_ok = question.edns.is_some_and(|edns| edns.dnssec_ok);
        let query = Query { name, qtype: question.qtype, dnssec_ok, plain: false };
        let words = policy.words(verdict);
        self.metrics.denied.inc();
        self.metrics.refuse("policy");
        self.refusals.push(client, &query.name, query.qtype, "policy", &words, code::BLOCKED);
        if effect == Effect::Drop {
            return Some(Handled::Drop);
        }
        let draft = Draft::denied(&query, effect, words);
        reply::render(&draft.body.octets, &draft.body.ttls, 0, &head, draft.ede.as_ref(), out);
        Some(Handled::Reply)
    }

    /// An error that needs no question to be understood; for type ANY, the HINFO of RFC 8482.
    fn reject(&self, reject: &Reject<'_>, client: IpAddr, stream: bool, out: &mut Vec<u8>) {
        let limit = if stream { usize::from(u16::MAX) } else { reply::udp_limit(reject.edns) };
        let head = ReplyHead { id: reject.id, flags: reject.flags, octets: reject.octets, edns: reject.edns, limit };
        let (reason, ede) = match reject.rcode {
            rcode::NOERROR => {
                reply::any(&head, out);
                return;
            }
            rcode::FORMERR => ("malformed", None),
            rcode::NOTIMP => ("opcode", None),
            rcode::BADVERS => ("edns_version", None),
            rcode::NOTAUTH => ("signed", None),
            _ if !self.admits(client) => ("client", Some(Ede::new(code::PROHIBITED, "not in dns.clients"))),
            _ if reject.flags & flag::RD == 0 && reject.qtype < 128 => {
                ("no_recursion_desired", Some(Ede::new(code::NOT_AUTHORITATIVE, "RD is not set")))
            }
            _ => ("unsupported", Some(Ede::new(code::NOT_SUPPORTED, "this type or class is not served"))),
        };
        self.metrics.refuse(reason);
        // The others are errors of form, which the code itself tells all about.
        if let Some(ede) = &ede
            && let Some(name) = reject.octets.get(..reject.octets.len().saturating_sub(4))
        {
            self.note(client, name, reject.qtype, reason, ede);
        }
        reply::error(reject.rcode, &head, ede.as_ref(), out);
    }

    /// A refusal out of the cache counts like the first.
    fn count_kept_refusal(&self, entry: &Entry, client: IpAddr, question: &Question<'_>) {
        let (Outcome::Denied(reason) | Outcome::Failed(reason)) = entry.outcome else { return };
        if matches!(entry.outcome, Outcome::Denied(_)) {
            self.metrics.denied.inc();
        }
        self.metrics.refuse(reason);
        if let Some(ede) = &entry.ede {
            self.note(client, question.name.wire(), question.qtype, reason, ede);
        }
    }

    fn note(&self, client: IpAddr, name: &[u8], qtype: u16, reason: &'static str, ede: &Ede) {
        if let Ok(name) = Name::from_wire(name) {
            self.refusals.push(client, &name, qtype, reason, &ede.text, ede.code);
        }
    }

    /// Takes a question that must wait. The reply goes out by `route`.
    pub fn submit(self: &Arc<Self>, question: &Question<'_>, client: IpAddr, route: Route) {
        let stream = matches!(route, Route::Stream(_));
        let head = head_of(question, stream);
        let place = match self.in_flight.take(client) {
            Ok(place) => place,
            Err(full) => {
                let (reason, text) = match full {
                    Full::Total => ("overload", "too many questions wait"),
                    Full::Client => ("client_overload", "too many questions of this client wait"),
                };
                self.metrics.refuse(reason);
                let ede = Ede::new(code::OTHER, text);
                self.note(client, question.name.wire(), question.qtype, reason, &ede);
                let mut out = Vec::with_capacity(128);
                reply::error(rcode::SERVFAIL, &head, Some(&ede), &mut out);
                self.send(&route, out);
                return;
            }
        };
        let Ok(name) = Name::from_wire(question.name.wire()) else { return };
        let dnssec_ok = question.edns.is_some_and(|edns| edns.dnssec_ok);
        let views = self.rules.load().views.clone();
        let key = Key::new(question.name.wire(), question.qtype, dnssec_ok).in_view(views.of(client));
        let to = ReplyTo {
            id: question.id,
            flags: question.flags,
            octets: question.octets.into(),
            edns: question.edns,
            limit: head.limit,
        };
        let asker = Asker { to, client, route, place, since: Instant::now() };
        {
            let mut flights = self.flights();
            if let Some(waiting) = flights.get_mut(key.octets()) {
                self.metrics.coalesced.inc();
                // A retransmission is answered once: by the reply to the first.
                if !waiting.iter().rev().take(LOOK_BACK).any(|other| other.is_same(&asker)) {
                    waiting.push(asker);
                }
                return;
            }
            flights.insert(key.octets().into(), vec![asker]);
        }
        self.metrics.in_flight.inc();
        let query = Query { name, qtype: question.qtype, dnssec_ok, plain: false };
        self.runtime.spawn(self.clone().fly(Flight { resolver: self.clone(), key, views, query, sponsor: None }));
    }

    /// Asks again for what is about to end, on behalf of the client who used it last; nobody waits for it.
    fn prefetch(self: &Arc<Self>, key: Key, question: &Question<'_>, client: IpAddr) {
        let (Ok(place), Ok(name)) = (self.in_flight.take(client), Name::from_wire(question.name.wire())) else {
            return;
        };
        {
            let mut flights = self.flights();
            if flights.contains_key(key.octets()) {
                return;
            }
            flights.insert(key.octets().into(), Vec::new());
        }
        self.metrics.in_flight.inc();
        self.metrics.cache_prefetches.inc();
        let dnssec_ok = question.edns.is_some_and(|edns| edns.dnssec_ok);
        let query = Query { name, qtype: question.qtype, dnssec_ok, plain: false };
        let sponsor = Some(Sponsor { client, _place: place });
        let views = self.rules.load().views.clone();
        if views.of(client) != key.view() {
            // Other groups since this packet arrived; then its entry is not to be renewed.
            self.take_all(&key);
            return;
        }
        self.runtime.spawn(self.clone().fly(Flight { resolver: self.clone(), key, views, query, sponsor }));
    }

    fn flights(&self) -> std::sync::MutexGuard<'_, HashMap<Box<[u8]>, Vec<Asker>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everybody who waits for `key`; later ones begin anew (and find the cache filled).
    fn take_all(&self, key: &Key) -> Vec<Asker> {
        let taken = self.flights().remove(key.octets());
        if taken.is_some() {
            self.metrics.in_flight.dec();
        }
        taken.unwrap_or_default()
    }

    async fn fly(self: Arc<Self>, flight: Flight) {
        let query = &flight.query;
        let rules = self.rules.load_full();
        let now = self.clock.now();
        let kept = if flight.sponsor.is_some() || !rules.views.same_clients(&flight.views) {
            None
        } else {
            self.cache.get(&flight.key, rules.generation, now)
        };
        if let Some(entry) = kept {
            if entry.is_in_force(now, self.lease_min) {
                // Another task filled it between the lookup and this one's start.
                self.release(query, &entry, self.take_all(&flight.key));
                return;
            }
            if entry.ended.is_some() && stale::is_open(&entry, now) {
                self.metrics.stale.inc();
                self.release(query, &entry, self.take_all(&flight.key));
                return;
            }
            if let Some(draft) = draft_again(&entry, now) {
                self.metrics.cache_readmitted.inc();
                self.settle(&flight, draft, rules.generation).await;
                return;
            }
        }
        let view = flight.key.view();
        let data = rules.views.policy(view).local_data(&query.name).map(<[LocalData]>::to_vec);
        let hurry = self.stale(&flight, &rules).is_some();
        let asked = match &data {
            None => Some(self.ask(query, hurry).await),
            Some(data) => match alias(data) {
                Some(target) => Some(self.ask(&Query { name: target.clone(), ..query.clone() }, hurry).await),
                // A list's own addresses need nobody.
                None => None,
            },
        };
        let failed = matches!(asked, Some(Err(_)));
        // Judged by the rules of now: they may have changed while the upstream thought.
        let rules = self.rules.load_full();
        let same = rules.views.same_clients(&flight.views)
            && rules.views.policy(view).local_data(&query.name) == data.as_deref();
        let draft = match (asked, &data) {
            // Nobody can say any more whose rules these questions were to be judged by, or another question is to be asked.
            _ if !same => Draft::failure(query, "reloaded", Ede::new(code::OTHER, "the policy changed meanwhile")),
            (Some(Err(error)), _) => Draft::unanswered(query, error),
            (Some(Ok(asked)), None) => draft(query, &asked.message, &rules, view),
            (Some(Ok(asked)), Some(data)) => local(query, data, Some(&asked.message), &rules, view),
            (None, data) => local(query, data.as_deref().unwrap_or_default(), None, &rules, view),
        };
        if failed && let Some(entry) = self.stale(&flight, &rules) {
            let entry = Arc::new(entry);
            self.metrics.stale.inc();
            self.cache.put(&flight.key, entry.clone(), self.clock.now());
            self.release(query, &entry, self.take_all(&flight.key));
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
        stale::revive(&*self.cache.stale(&flight.key, rules.generation, now)?, now)
    }

    /// Asks the upstreams; in a `hurry` when there is something stale to give instead.
    async fn ask(&self, query: &Query, hurry: bool) -> Result<Asked, AskError> {
        let asked = self.upstreams.ask(query);
        if hurry {
            return tokio::time::timeout(stale::PATIENCE, asked).await.unwrap_or(Err(AskError::TimeOut));
        }
        asked.await
    }

    /// Has the draft's addresses admitted and answers everybody.
    async fn settle(&self, flight: &Flight, draft: Draft, generation: u64) {
        let (key, query) = (&flight.key, &flight.query);
        let Some(again) = draft.again.clone() else {
            self.settle_without_gate(flight, draft, generation);
            return;
        };
        let started = Instant::now();
        let mut tried: HashSet<IpAddr> = HashSet::new();
        while let Some(client) = self.next_client(flight, &tried) {
            let admission = Admission {
                ticket: Ticket(0),
                client,
                question: again.question.clone(),
                qtype: again.qtype,
                chain: again.chain.clone(),
                domain: again.domain.clone(),
                grants: again.grants.clone(),
            };
            let refusal = match self.core.admit(admission).await {
                Ok(Decision::Release { leases }) => {
                    self.metrics.gate_seconds.observe(started.elapsed().as_secs_f64());
                    let now = self.clock.now();
                    let entry = Arc::new(finish(draft, Some(leases), now, generation, self.lease_grace));
                    self.cache.put(key, entry.clone(), now);
                    self.release(query, &entry, self.take_all(key));
                    return;
                }
                Ok(Decision::Refuse(refusal)) => refusal,
                Err(_) => Refusal::Enforcer { name: "guard".to_owned(), reason: "stopping".to_owned() },
            };
            let for_client_only = refusal == Refusal::PerClient;
            // A prefetch that fails leaves the entry that it was to follow.
            if flight.sponsor.is_none() {
                self.keep_for_later(key, &draft, &refusal, generation);
            }
            tried.insert(client);
            let askers = if for_client_only { self.take_those_of(key, client) } else { self.take_all(key) };
            self.hold(query, &refusal, askers);
            if !for_client_only {
                return;
            }
        }
    }

    /// Nothing is to be opened: kept and given at once.
    fn settle_without_gate(&self, flight: &Flight, draft: Draft, generation: u64) {
        let (key, query) = (&flight.key, &flight.query);
        let kind = draft.kind.clone();
        let now = self.clock.now();
        let entry = Arc::new(finish(draft, None, now, generation, self.lease_grace));
        if flight.sponsor.is_none() || !matches!(kind, Kind::Failed(..)) {
            self.cache.put(key, entry.clone(), now);
        }
        let askers = self.take_all(key);
        match &kind {
            Kind::Answer => self.release(query, &entry, askers),
            Kind::Denied(reason, words) => {
                self.metrics.denied.inc_by(u64::try_from(askers.len()).unwrap_or(0));
                self.refuse_all(query, &entry, askers, reason, words);
            }
            Kind::Dropped(words) => {
                for asker in askers {
                    self.metrics.denied.inc();
                    self.metrics.refuse("policy");
                    self.refusals.push(asker.client, &query.name, query.qtype, "policy", words, code::BLOCKED);
                }
            }
            Kind::Failed(reason, words) => self.refuse_all(query, &entry, askers, reason, words),
            Kind::Truncated => {
                let (streams, datagrams): (Vec<_>, Vec<_>) =
                    askers.into_iter().partition(|asker| matches!(asker.route, Route::Stream(_)));
                self.refuse_all(query, &entry, streams, "truncated", "the whole answer can't be had");
                for asker in datagrams {
                    let mut out = Vec::with_capacity(128);
                    reply::truncated(&asker.to.head(), None, &mut out);
                    self.send(&asker.route, out);
                }
            }
        }
    }

    /// A client that waits (or sponsors) and wasn't tried. Without one the flight ends here.
    fn next_client(&self, flight: &Flight, tried: &HashSet<IpAddr>) -> Option<IpAddr> {
        let mut flights = self.flights();
        let waiting = flights.get(flight.key.octets())?;
        let sponsor = flight.sponsor.as_ref().map(|sponsor| sponsor.client);
        let next = waiting.iter().map(|asker| asker.client).chain(sponsor).find(|client| !tried.contains(client));
        // One that was refused and asked again meanwhile is refused again.
        let next = next.or_else(|| waiting.first().map(|asker| asker.client));
        if next.is_none() {
            flights.remove(flight.key.octets());
            self.metrics.in_flight.dec();
        }
        next
    }

    fn take_those_of(&self, key: &Key, client: IpAddr) -> Vec<Asker> {
        let mut flights = self.flights();
        let Some(waiting) = flights.get_mut(key.octets()) else { return Vec::new() };
        waiting.extract_if(.., |asker| asker.client == client).collect()
    }

    /// After a refusal the judged answer is kept without leases, so that the next question tries the gate again and leaves the
    /// upstream alone.
    fn keep_for_later(&self, key: &Key, draft: &Draft, refusal: &Refusal, generation: u64) {
        if *refusal == Refusal::Revoked {
            return;
        }
        let now = self.clock.now();
        let closed = draft.again.as_ref().map_or_else(Vec::new, |again| {
            again.grants.iter().map(|grant| LeaseHandle::new(grant.address, now)).collect()
        });
        let mut entry = finish(draft.clone(), None, now, generation, self.lease_grace);
        entry.leases = closed.into();
        self.cache.put(key, Arc::new(entry), now);
    }

    fn release(&self, query: &Query, entry: &Entry, askers: Vec<Asker>) {
        let now = self.clock.now();
        tracing::trace!(name = %query.name, qtype = query.qtype, clients = askers.len(), "released");
        self.metrics.released.inc_by(u64::try_from(askers.len()).unwrap_or(0));
        self.reply_all(entry, askers, now);
    }

    fn refuse_all(&self, query: &Query, entry: &Entry, askers: Vec<Asker>, reason: &'static str, words: &str) {
        let ede = entry.ede.as_ref().map_or(code::OTHER, |ede| ede.code);
        for asker in &askers {
            self.metrics.refuse(reason);
            self.refusals.push(asker.client, &query.name, query.qtype, reason, words, ede);
        }
        self.reply_all(entry, askers, self.clock.now());
    }

    fn reply_all(&self, entry: &Entry, askers: Vec<Asker>, now: Moment) {
        for asker in askers {
            let mut out = Vec::with_capacity(entry.octets.len().saturating_add(64));
            let head = asker.to.head();
            reply::render(&entry.octets, &entry.ttls, entry.age(now), &head, entry.ede.as_ref(), &mut out);
            self.metrics.forwarded_seconds.observe(asker.since.elapsed().as_secs_f64());
            self.send(&asker.route, out);
            drop(asker.place);
        }
    }

    /// The gate said no.
    fn hold(&self, query: &Query, refusal: &Refusal, askers: Vec<Asker>) {
        let (ede, reason) = ede::of_refusal(refusal);
        for asker in askers {
            self.metrics.held.inc();
            self.metrics.refuse(reason);
            if matches!(refusal, Refusal::Deadline { .. }) {
                self.metrics.gate_timeouts.inc();
            }
            self.refusals.push(asker.client, &query.name, query.qtype, reason, &ede.text, ede.code);
            let mut out = Vec::with_capacity(128);
            reply::error(rcode::SERVFAIL, &asker.to.head(), Some(&ede), &mut out);
            self.send(&asker.route, out);
        }
    }

    fn send(&self, route: &Route, message: Vec<u8>) {
        match route {
            Route::Udp { socket, peer, local } => {
                if let Err(error) = udp::send_one(socket.as_fd(), &message, *peer, *local) {
                    tracing::debug!(%peer, %error, "a reply could not be sent");
                    self.metrics.drop_packet("send_failed");
                }
            }
            Route::Stream(writer) => {
                // The client closed the connection, or doesn't read: its own loss.
                if writer.try_send(message).is_err() {
                    self.metrics.drop_packet("stream_closed");
                }
            }
        }
    }
}

fn head_of<'a>(question: &Question<'a>, stream: bool) -> ReplyHead<'a> {
    let limit = if stream { usize::from(u16::MAX) } else { reply::udp_limit(question.edns) };
    ReplyHead { id: question.id, flags: question.flags, octets: question.octets, edns: question.edns, limit }
}

/// A draft from a kept entry, its TTLs lowered to what is left of them. `None`: the entry opens nothing, so that it can't be admitted.
fn draft_again(entry: &Entry, now: Moment) -> Option<Draft> {
    let age = entry.age(now);
    let again = entry.again.as_ref()?;
    let mut body = reply::Body { octets: entry.octets.to_vec(), ttls: entry.ttls.to_vec() };
    reply::age_ttls(&mut body, age);
    let grants =
        again.grants.iter().map(|grant| Grant { address: grant.address, ttl: grant.ttl.saturating_sub(age) }).collect();
    let again = Again { grants, ..(**again).clone() };
    let keep = u32::try_from(now.until(entry.expires).as_secs()).unwrap_or(u32::MAX);
    Some(Draft { body, keep, again: Some(Box::new(again)), ede: entry.ede.clone(), kind: Kind::Answer, unrelated: 0 })
}

/// The entry of a draft, its TTLs lowered to what its leases cover: their end less the grace that clients get beyond their TTL.
fn finish(mut draft: Draft, leases: Option<Vec<LeaseHandle>>, now: Moment, generation: u64, grace: Duration) -> Entry {
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
        octets: draft.body.octets.into(),
        ttls: draft.body.ttls.into(),
        stored: now,
        expires: now.plus(Duration::from_secs(u64::from(keep))),
        leases: leases.into(),
        again: draft.again,
        ede: draft.ede,
        outcome: match draft.kind {
            Kind::Answer => Outcome::Released,
            Kind::Denied(reason, _) => Outcome::Denied(reason),
            Kind::Dropped(_) => Outcome::Denied("policy"),
            Kind::Failed(reason, _) => Outcome::Failed(reason),
            Kind::Truncated => Outcome::Failed("truncated"),
        },
        generation,
        uses: AtomicU32::new(0),
        ended: None,
    }
}
