//! The way of a question, on any transport.
//!
//! ```text
//! handle()  on the thread that received it: codec::query -> cache --hit--> reply
//!                                            | miss: policy on the name --denied--> reply
//! pending   place in flight? --no--> SERVFAIL v
//!           an identical question pending? --yes--> wait with it
//!                                            | no
//! worker    plain upstreams, question over UDP  } upstreams, aliases (follow), validation -> draft
//! task      all others; local zones             }                                             |
//! settle    (entry near its leases' end? admit again, or) core admits -> cache -> all who wait v
//! prefetch  a used entry near its end: the same with nobody waiting
//! ```
//!
//! - `draft`: from response to judged reply. `stale`: answers beyond their end. `audit`: the same without refusing anything.
//! - `origin`: the upstreams and other keys of the configuration, replaced by a reload. [`local`], [`ddr`]: names answered here. [`explain`]: what a question would get, without asking it in earnest.
//!
//! Questions are identical when name, type and DO are. The core admits an answer for one of the clients that wait; only a refusal that
//! concerns that client alone (its budget) makes it ask again for another of them.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};

use super::Rules;
use super::cache::{Cache, Entry, Key, Outcome};
use super::limits::Limit;
use super::metrics::Metrics;
use super::rate::Allowed;
use super::refusals::Refusals;
use super::upstream::query::Query;
use crate::control::query_log::Fate;
use crate::control::{QueryLog, Usage};
use crate::core::client::{Claim, Clients};
use crate::core::local_names::Local;
use crate::core::moment::Moment;
use crate::core::name::Name;
use crate::core::person::Who;
use crate::core::policy::{Effect, Policy, Verdict, registrable};
use crate::core::verdict;
use crate::core_task::CoreHandle;
use crate::dns::codec::cookie::Cookies;
use crate::dns::codec::ede::{Ede, code};
use crate::dns::codec::query::{ClientEdns, Parsed, Question, Reject};
use crate::dns::codec::reply::{self, ReplyHead};
use crate::dns::codec::wire::{flag, rcode};
use crate::sys::clock::Clock;
use audit::Requests;
use ddr::Designated;
use draft::Draft;
use noted::{Asked, End};
use origin::{Origin, Setup};
use pending::Waiters;
use unsent::Backlog;

pub(in crate::dns) mod audit;
pub mod ddr;
pub mod draft;
pub mod explain;
pub(in crate::dns) mod follow;
pub mod itself;
pub mod local;
pub(in crate::dns) mod noted;
pub(in crate::dns) mod origin;
pub(in crate::dns) mod pending;
pub(in crate::dns) mod settle;
pub mod stale;
pub(in crate::dns) mod task;
pub(in crate::dns) mod unsent;
pub(in crate::dns) mod worker;

/// Questions that wait at once. Beyond it: SERVFAIL at once, counted.
pub const IN_FLIGHT: usize = 16_384;
/// So many of one client, or for one domain, may wait whatever else does.
pub const IN_FLIGHT_LEAST: usize = 16;

/// What became of a packet at once. Lives on the stack for one packet, so that a box would only cost.
#[allow(clippy::large_enum_variant)]
pub enum Handled<'a> {
    /// The reply was appended.
    Reply,
    /// No reply: no question, or one too many.
    Drop,
    /// A question that a list leaves without reply (`rpz-drop`). A stream goes on behind it.
    Silence,
    /// To be given to [`Resolver::submit`], or to a worker's forwarder.
    Miss(Missed<'a>),
}

/// A question that must wait.
pub struct Missed<'a> {
    /// What was asked.
    pub question: Question<'a>,
    /// The question's name in lower case.
    pub(in crate::dns) name: Name,
    /// By which it is kept, in the view of who asked.
    pub(in crate::dns) key: Key,
    /// An entry is there, but not in force for long enough.
    pub(in crate::dns) kept: bool,
    /// A list has an answer of its own.
    pub(in crate::dns) local_data: bool,
    /// In audit: it would have been refused, and that is noted.
    pub(in crate::dns) noted: bool,
}

/// What the packets of one batch share, and what is counted of them.
pub struct Turn<'a> {
    /// The rules of the moment.
    pub rules: &'a Rules,
    /// When the batch arrived.
    pub now: Moment,
    /// The guard's address that the packet was sent to, where it is known.
    pub local: Option<IpAddr>,
    /// Served from the cache.
    pub hits: u64,
    /// Of these, answers (not kept refusals).
    pub released: u64,
}

impl<'a> Turn<'a> {
    /// Nothing counted yet.
    #[must_use]
    pub fn new(rules: &'a Rules, now: Moment, local: Option<IpAddr>) -> Self {
        Self { rules, now, local, hits: 0, released: 0 }
    }
}

/// Everything a question meets. One for the daemon.
pub struct Resolver {
    pub(in crate::dns) rules: Arc<ArcSwap<Rules>>,
    /// Who they are.
    pub(in crate::dns) whom: Arc<ArcSwap<Clients>>,
    pub(in crate::dns) core: CoreHandle,
    pub(in crate::dns) clock: Clock,
    /// Changed together with the waiters, and read for a question while they are locked.
    pub(in crate::dns) origin: Arc<ArcSwap<Origin>>,
    pub(in crate::dns) setup: ArcSwap<Setup>,
    pub(in crate::dns) cache: Arc<Cache>,
    pub(in crate::dns) metrics: Metrics,
    pub(in crate::dns) refusals: Refusals,
    pub(in crate::dns) query_log: QueryLog,
    /// What is asked for in audit.
    pub(in crate::dns) usage: Usage,
    pub(in crate::dns) in_flight: Arc<Limit>,
    pub(in crate::dns) backlog: Backlog,
    pub(in crate::dns) waiters: std::sync::Mutex<Waiters>,
    /// In audit: what the core is being asked about, and places for that.
    pub(in crate::dns) requests: Requests,
    pub(in crate::dns) behind: Arc<Limit>,
    pub(in crate::dns) designated: ArcSwapOption<Designated>,
    pub(in crate::dns) cookies: Cookies,
    pub(in crate::dns) runtime: tokio::runtime::Handle,
}

impl Resolver {
    /// Whether this client may ask.
    #[must_use]
    pub fn admits(&self, client: IpAddr) -> bool {
        self.setup.load().admits(client)
    }

    /// In whose parts it is counted what this client takes.
    pub(in crate::dns) fn claim(&self, client: IpAddr) -> Claim {
        self.whom.load().claim(client)
    }

    /// The same of a question for this name.
    pub(in crate::dns) fn claim_for(&self, client: IpAddr, name: &Name) -> Claim {
        self.whom.load().claim_for(client, registrable(name).wire())
    }

    /// Answers a packet if that needs no waiting. `stream`: over TCP.
    pub fn handle<'a>(
        self: &Arc<Self>,
        packet: &'a [u8],
        who: &Who,
        stream: bool,
        turn: &mut Turn<'_>,
        out: &mut Vec<u8>,
    ) -> Handled<'a> {
        let (rules, now, client) = (turn.rules, turn.now, who.address);
        let setup = self.setup.load();
        let mut question = match crate::dns::codec::query::parse(packet) {
            Parsed::Question(question) => question,
            Parsed::Drop => {
                self.metrics.drop_packet("not_a_question");
                return Handled::Drop;
            }
            Parsed::Reject(mut reject) => {
                // RFC 7873 section 5.4: a client may ask whether its server cookie is still good.
                let mut sent = reject.edns.and_then(|edns| edns.cookie).filter(|cookie| cookie.server.is_some());
                if reject.asks_for_cookie()
                    && let Some(sent) = &mut sent
                    && !self.cookies.check(sent, client)
                {
                    reject.rcode = rcode::BADCOOKIE;
                }
                // Nothing is worth a short reply here: real clients send real questions.
                if self.allows(&setup, &mut reject.edns, client, (stream, now)) != Allowed::Whole {
                    self.metrics.drop_packet("rate_limit");
                    return Handled::Drop;
                }
                if !setup.admits(client) {
                    reject.rcode = rcode::REFUSED;
                }
                self.reject(&reject, client, stream, out);
                return Handled::Reply;
            }
        };
        let allowed = self.allows(&setup, &mut question.edns, client, (stream, now));
        let head = head_of(&question, stream);
        if allowed != Allowed::Whole {
            return self.limited(allowed, &question, &head, client, out);
        }
        if !setup.admits(client) {
            let ede = Ede::new(code::PROHIBITED, "not in dns.clients");
            self.metrics.refuse("client");
            self.note(client, question.name.wire(), question.qtype, "client", &ede);
            // Not in the query log: with forged addresses a stranger could push everybody else out of it.
            reply::error(rcode::REFUSED, &head, Some(&ede), out);
            return Handled::Reply;
        }
        if ddr::is_resolver_arpa(question.name.wire()) {
            ddr::answer(self.designated.load().as_deref(), &question, turn.local, &head, out);
            return Handled::Reply;
        }
        let dnssec_ok = question.edns.is_some_and(|edns| edns.dnssec_ok);
        let view = rules.views.of_who(who);
        let policy = rules.views.policy(view);
        if let Some(group) = rules.views.counted(view) {
            self.metrics.note_group(group);
        }
        let mut noted = false;
        if let Some(verdict) = policy.judge_client(client) {
            if rules.audit {
                noted = self.would_judge(policy, verdict, &question, client, stream);
            } else if let Some(handled) = self.judged(policy, verdict, &question, who, stream, out) {
                return handled;
            }
        }
        let unchecked = self.unchecked(question.flags, question.qtype);
        let key = Key::new(question.name.wire(), question.qtype, dnssec_ok).unchecked(unchecked).in_view(view);
        let key = setup.key_of(key, client);
        let kept = self.kept(&key, rules.generation, now);
        if let Some(entry) = kept.as_ref().filter(|entry| rules.audit || entry.is_in_force(now, rules.lease_min)) {
            let (octets, ttls) = (entry.message.octets(), entry.message.ttls());
            let fits = reply::render(octets, ttls, entry.age(now), &head, entry.ede(), out);
            turn.hits += 1;
            if !fits {
                self.note_too_long(client, question.name.wire(), question.qtype);
                return Handled::Reply;
            }
            if rules.audit {
                noted = noted || self.would_judge_name(policy, &question, client, stream);
                self.audit_hit(&key, entry, who, &question, noted);
            }
            if setup.prefetch && !noted && entry.wants_prefetch(now) {
                self.prefetch(key, &question, who);
            }
            let asked = Asked { noted, ..Asked::now(&question, who, stream) };
            self.log_entry(asked, entry, Fate::Cached, None);
            if entry.outcome() == Outcome::Released {
                turn.released += 1;
                self.note_filtered(entry, client, question.name.wire(), question.qtype);
            } else {
                self.count_kept_refusal(entry, client, &question);
            }
            return Handled::Reply;
        }
        let Ok(name) = Name::from_wire(question.name.wire()) else {
            reply::error(rcode::FORMERR, &head, None, out);
            return Handled::Reply;
        };
        // Before the policy: its default may deny everything, and a host without "localhost" is broken.
        if let Some((local, why)) = self.answered_here(rules, policy, &name, question.qtype, turn.local) {
            self.metrics.local.inc();
            let (body, ede) = local::reply(&name, question.qtype, &local, why);
            let code = body.octets.get(3).map_or(0, |flags| u16::from(flags & 0x0f));
            let end = End { fate: Fate::Local, rcode: code, why: Some(why) };
            self.log(Asked::now(&question, who, stream), &end);
            reply::render(&body.octets, body.ttls.iter().copied(), 0, &head, Some(&ede), out);
            return Handled::Reply;
        }
        if rules.audit {
            noted = noted || self.would_judge_name(policy, &question, client, stream);
            return Handled::Miss(Missed { question, name, key, kept: false, local_data: false, noted });
        }
        let verdict = policy.judge(&name);
        match self.judged(policy, verdict, &question, who, stream, out) {
            Some(handled) => handled,
            None => {
                let local_data = policy.effect(verdict) == Effect::Data;
                Handled::Miss(Missed { question, name, key, kept: kept.is_some(), local_data, noted })
            }
        }
    }

    /// What is answered without asking anybody: special-use names, and the guard's own unless a list has data for them.
    pub(in crate::dns) fn answered_here(
        &self,
        rules: &Rules,
        policy: &Policy,
        name: &Name,
        qtype: u16,
        asked: Option<IpAddr>,
    ) -> Option<(Local, &'static str)> {
        let own = || {
            let own = self.designated.load().as_ref()?.own_name(name, qtype, asked)?;
            let listed = !rules.audit && policy.effect(policy.judge(name)) == Effect::Data;
            (!listed && !rules.zones.has(name)).then_some((own, ddr::OWN_NAME))
        };
        rules.answer_local(name, qtype).or_else(own)
    }

    /// What is kept for a question: the client's own where there are such, else what is to be admitted for it or opens nothing.
    pub(in crate::dns) fn kept(&self, key: &Key, generation: u64, now: Moment) -> Option<Arc<Entry>> {
        let own = self.cache.get(key, generation, now);
        if own.is_some() || !key.is_of_client() {
            return own;
        }
        self.cache.get(&key.of_all(), generation, now)
    }

    /// Likewise beyond its end.
    pub(in crate::dns) fn kept_stale(&self, key: &Key, generation: u64, now: Moment) -> Option<Arc<Entry>> {
        let own = self.cache.stale(key, generation, now);
        if own.is_some() || !key.is_of_client() {
            return own;
        }
        self.cache.stale(&key.of_all(), generation, now)
    }

    /// Whether the answer is given without validation, as the client wishes (CD): only where it can hold no address to open.
    pub(in crate::dns) fn unchecked(&self, flags: u16, qtype: u16) -> bool {
        flags & flag::CD != 0 && !verdict::may_open(qtype) && self.origin.load().validator.is_some()
    }

    /// Looks at the cookie, puts the one for the reply in its place, and says how long a reply may be. Whoever brings a valid cookie, or comes over
    /// a connection, is where it says it is.
    fn allows(
        &self,
        setup: &Setup,
        edns: &mut Option<ClientEdns>,
        client: IpAddr,
        (stream, now): (bool, Moment),
    ) -> Allowed {
        let cookie = edns.as_mut().and_then(|edns| edns.cookie.as_mut());
        let known = cookie.is_some_and(|cookie| self.cookies.check(cookie, client));
        match &setup.rate_limit {
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
        who: &Who,
        stream: bool,
        out: &mut Vec<u8>,
    ) -> Option<Handled<'a>> {
        let client = who.address;
        let effect = policy.effect(verdict);
        let head = head_of(question, stream);
        if effect == Effect::Data {
            return None;
        }
        if !verdict.denies() {
            if effect != Effect::TcpOnly || stream {
                return None;
            }
            let ede = Ede::new(code::BLOCKED, format!("over TCP only: {}", policy.words(verdict)));
            self.metrics.refuse("tcp_only");
            self.note(client, question.name.wire(), question.qtype, "tcp_only", &ede);
            reply::truncated(&head, Some(&ede), out);
            return Some(Handled::Reply);
        }
        let Ok(name) = Name::from_wire(question.name.wire()) else { return Some(Handled::Drop) };
        let dnssec_ok = question.edns.is_some_and(|edns| edns.dnssec_ok);
        let query = Query {
            name,
            qtype: question.qtype,
            dnssec_ok,
            checking_disabled: false,
            plain: false,
            whose: Claim::NOBODY,
        };
        let words = policy.words(verdict);
        self.metrics.denied.inc();
        self.metrics.refuse("policy");
        self.refusals.push(client, &query.name, query.qtype, "policy", &words, code::BLOCKED);
        let asked = Asked::now(question, who, stream);
        if effect == Effect::Drop {
            self.log(asked, &End { fate: Fate::Denied, rcode: rcode::NOERROR, why: Some(&words) });
            return Some(Handled::Silence);
        }
        let draft = Draft::denied(&query, effect, words.clone());
        let code = draft.body.octets.get(3).map_or(0, |flags| u16::from(flags & 0x0f));
        self.log(asked, &End { fate: Fate::Denied, rcode: code, why: Some(&words) });
        reply::render(&draft.body.octets, draft.body.ttls.iter().copied(), 0, &head, draft.ede.as_ref(), out);
        Some(Handled::Reply)
    }

    /// An error that needs no question to be understood; for type ANY, the HINFO of RFC 8482; without question, a cookie (RFC 7873 section 5.4).
    fn reject(&self, reject: &Reject<'_>, client: IpAddr, stream: bool, out: &mut Vec<u8>) {
        let limit = if stream { usize::from(u16::MAX) } else { reply::udp_limit(reject.edns) };
        let head = ReplyHead { id: reject.id, flags: reject.flags, octets: reject.octets, edns: reject.edns, limit };
        let (reason, ede) = match reject.rcode {
            code @ (rcode::NOERROR | rcode::BADCOOKIE) if reject.octets.is_empty() => {
                reply::error(code, &head, None, out);
                return;
            }
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
        let (Outcome::Denied(reason) | Outcome::Failed(reason)) = entry.outcome() else { return };
        if matches!(entry.outcome(), Outcome::Denied(_)) {
            self.metrics.denied.inc();
        }
        self.metrics.refuse(reason);
        if let Some(ede) = entry.ede() {
            self.note(client, question.name.wire(), question.qtype, reason, ede);
        }
    }

    /// An answer without the addresses that may not be opened is an answer; those addresses are refused.
    pub(in crate::dns) fn note_filtered(&self, entry: &Entry, client: IpAddr, name: &[u8], qtype: u16) {
        if let Some(ede) = entry.ede().filter(|ede| ede.code == code::FILTERED) {
            self.metrics.filtered.inc();
            self.note(client, name, qtype, "filtered", ede);
        }
    }

    /// Of a reply to a stream that is longer than a message can be.
    pub(in crate::dns) fn note_too_long(&self, client: IpAddr, name: &[u8], qtype: u16) {
        self.metrics.refuse("too_long");
        self.note(client, name, qtype, "too_long", &reply::too_long());
    }

    pub(in crate::dns) fn note(&self, client: IpAddr, name: &[u8], qtype: u16, reason: &'static str, ede: &Ede) {
        if let Ok(name) = Name::from_wire(name) {
            self.refusals.push(client, &name, qtype, reason, &ede.text, ede.code);
        }
    }
}

/// What the reply to a question needs to know of it.
pub(in crate::dns) fn head_of<'a>(question: &Question<'a>, stream: bool) -> ReplyHead<'a> {
    let limit = if stream { usize::from(u16::MAX) } else { reply::udp_limit(question.edns) };
    ReplyHead { id: question.id, flags: question.flags, octets: question.octets, edns: question.edns, limit }
}
