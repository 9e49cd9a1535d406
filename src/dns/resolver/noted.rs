//! What the query log is told: each question once, when its reply is made.

use std::iter;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use smallvec::SmallVec;

use crate::control::query_log::{self, Fate};
use crate::core::event::LeaseHandle;
use crate::core::name::Name;
use crate::core::person::Who;
use crate::core::policy::Verdict;
use crate::dns::cache::{Entry, Outcome};
use crate::dns::codec::query::Question;
use crate::dns::codec::wire::{rtype, u16_at};
use crate::dns::resolver::Resolver;
use crate::store::usage::Got;

/// Who asked what, and how.
#[derive(Clone, Copy)]
pub(in crate::dns) struct Asked<'a> {
    pub(in crate::dns) who: &'a Who,
    pub(in crate::dns) stream: bool,
    /// Lower-case wire form.
    pub(in crate::dns) name: &'a [u8],
    pub(in crate::dns) qtype: u16,
    /// Since the question came.
    pub(in crate::dns) took: Duration,
    /// In audit: the question would have been refused.
    pub(in crate::dns) noted: bool,
}

impl<'a> Asked<'a> {
    /// Answered at once.
    pub(in crate::dns) fn now(question: &'a Question<'_>, who: &'a Who, stream: bool) -> Self {
        Self { who, stream, name: question.name.wire(), qtype: question.qtype, took: Duration::ZERO, noted: false }
    }
}

/// What the reply says, and why.
pub(in crate::dns) struct End<'a> {
    pub(in crate::dns) fate: Fate,
    pub(in crate::dns) rcode: u16,
    pub(in crate::dns) why: Option<&'a str>,
}

impl Resolver {
    /// Notes the end of a question whose answer had no addresses.
    pub(in crate::dns) fn log(&self, asked: Asked<'_>, end: &End<'_>) {
        if self.usage.is_on() && end.fate != Fate::Local {
            self.usage.asked(asked.who.address, asked.name, Got::Nothing, seconds(), iter::empty());
        }
        self.log_with(asked, end, SmallVec::new(), false);
    }

    /// The reply of an entry. `fate`: of one that is an answer.
    pub(in crate::dns) fn log_entry(&self, asked: Asked<'_>, entry: &Entry, fate: Fate, why: Option<&str>) {
        if self.usage.is_on() {
            self.note_usage(asked, entry);
        }
        if !self.query_log.wants() {
            return;
        }
        let fate = match entry.outcome() {
            Outcome::Released => fate,
            Outcome::Denied(reason) | Outcome::Failed(reason) => Fate::of_reason(reason),
        };
        let would = if asked.noted { self.would_words(asked) } else { entry.would().map(|would| would.words.clone()) };
        let why = would.as_deref().or(why).or_else(|| entry.ede().map(|ede| ede.text.as_ref()));
        let addresses = entry.leases().iter().map(LeaseHandle::address).collect();
        let rcode = entry.message.octets().get(3).map_or(0, |flags| u16::from(flags & 0x0f));
        self.log_with(asked, &End { fate, rcode, why }, addresses, would.is_some());
    }

    /// By which rule a question would have been refused.
    fn would_words(&self, asked: Asked<'_>) -> Option<String> {
        let name = Name::from_wire(asked.name).ok()?;
        let rules = self.rules.load();
        let policy = rules.views.policy(rules.views.of_who(asked.who));
        let client = policy.judge_client(asked.who.address).filter(Verdict::denies);
        Some(policy.words(client.unwrap_or_else(|| policy.judge(&name))))
    }

    /// What the reply holds, as the upstream gave it.
    fn note_usage(&self, asked: Asked<'_>, entry: &Entry) {
        let filtered = entry.would().is_some_and(|would| would.reason == "filter");
        let got = match entry.outcome() {
            _ if filtered => Got::Filtered,
            Outcome::Released if has_data(entry.message.octets()) => Got::Data,
            _ => Got::Nothing,
        };
        let message = entry.message.octets();
        let led = entry.message.ttls().filter_map(|ttl| address_at(message, usize::from(ttl)));
        self.usage.asked(asked.who.address, asked.name, got, seconds(), led);
    }

    fn log_with(&self, asked: Asked<'_>, end: &End<'_>, addresses: SmallVec<[IpAddr; 2]>, audit: bool) {
        if !self.query_log.wants() {
            return;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.query_log.record(query_log::Entry {
            time: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            client: asked.who.address,
            person: asked.who.person.clone(),
            over: if asked.stream { "stream" } else { "udp" },
            name: SmallVec::from_slice(asked.name),
            qtype: asked.qtype,
            rcode: u8::try_from(end.rcode & 0x0f).unwrap_or(0),
            fate: end.fate,
            audit,
            why: end.why.filter(|why| !why.is_empty()).map(Box::from),
            took: u32::try_from(asked.took.as_micros()).unwrap_or(u32::MAX),
            addresses,
        });
    }
}

/// Whether a message says NOERROR and has an answer (RFC 1035 section 4.1.1).
fn has_data(message: &[u8]) -> bool {
    let code = message.get(3).map_or(0, |flags| flags & 0x0f);
    code == 0 && message.get(6..8).is_some_and(|answers| answers != [0, 0])
}

/// The address of a record whose TTL stands here: type and class are before it, length and data behind it.
fn address_at(message: &[u8], ttl: usize) -> Option<IpAddr> {
    let kind = u16_at(message, ttl.checked_sub(4)?)?;
    let length = usize::from(u16_at(message, ttl.checked_add(4)?)?);
    let data = message.get(ttl.checked_add(6)?..)?.get(..length)?;
    match kind {
        rtype::A => <[u8; 4]>::try_from(data).ok().map(IpAddr::from),
        rtype::AAAA => <[u8; 16]>::try_from(data).ok().map(IpAddr::from),
        _ => None,
    }
}

/// Seconds since 1970, by the wall clock.
fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
