//! The query log: the last questions and what became of each, in memory.
//!
//! Recording is for the hot path: one short lock of its own part, no notification, no memory beyond the entry. Readers ask for what came since, and
//! followers look again in short steps. [`sinks`] have each question elsewhere too.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use prometheus_client::registry::Registry;
use smallvec::SmallVec;

use super::types::{Asked, AskedPage, Denied};
use crate::config::Config;
use crate::config::schema::Hide;
use crate::core::name::Name;
use crate::core::person::Person;

mod sinks;
mod top;

pub use sinks::dnstap::Tapped;

/// Parts with a lock of their own, by client.
const PARTS: usize = 16;
/// How often a follower looks for news.
const LOOK: Duration = Duration::from_millis(200);
/// Entries of one page at most.
pub const PAGE: usize = 1000;
/// Octets of a name that need no memory of their own.
const NAME_INLINE: usize = 40;

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Answered by an upstream's word, after the gate where it opens addresses.
    Released,
    /// Answered by a kept reply.
    Cached,
    /// Answered without asking anybody: special-use names, own names.
    Local,
    /// Denied by policy.
    Denied,
    /// All its addresses were filtered.
    Filtered,
    /// Refused by a budget, the gate or an enforcer.
    Refused,
    /// No upstream gave an answer that could be used.
    Failed,
}

impl Fate {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Released, Self::Cached, Self::Local, Self::Denied, Self::Filtered, Self::Refused, Self::Failed];

    /// The word that stands for it in the log, in JSON and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::Cached => "cached",
            Self::Local => "local",
            Self::Denied => "denied",
            Self::Filtered => "filtered",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }

    /// Of a refusal whose reason has this label, as in the metrics.
    #[must_use]
    pub fn of_reason(reason: &str) -> Self {
        match reason {
            "policy" | "rewritten" => Self::Denied,
            "filter" | "filtered" => Self::Filtered,
            "upstream" | "bogus" | "dnssec" | "alias" | "truncated" => Self::Failed,
            _ => Self::Refused,
        }
    }
}

/// What is kept of a question.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Milliseconds since 1970.
    pub time: u64,
    /// The client that asked, by its address.
    pub client: IpAddr,
    /// As whom, where more is known than the address.
    pub person: Option<Arc<Person>>,
    /// "udp", "tcp", "tls", "https" or "quic".
    pub over: &'static str,
    /// The name, in lower-case wire form.
    pub name: SmallVec<[u8; NAME_INLINE]>,
    /// The question's type as a number of the DNS.
    pub qtype: u16,
    /// Of the reply.
    pub rcode: u8,
    /// What became of it.
    pub fate: Fate,
    /// In audit: policy or filter would have refused it; `why` says why.
    pub audit: bool,
    /// Why, where that isn't plain: rule, budget, enforcer.
    pub why: Option<Box<str>>,
    /// From question to reply, in microseconds.
    pub took: u32,
    /// The addresses that it may use by that.
    pub addresses: SmallVec<[IpAddr; 2]>,
}

#[derive(Debug, Default)]
struct Part {
    entries: VecDeque<(u64, Entry)>,
    /// The highest number among forgotten entries.
    forgotten: u64,
}

/// Whom and what a reader wants to see.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Clients of this prefix.
    pub client: Option<IpNet>,
    /// This name and those below it.
    pub name: Option<Name>,
    /// Answers that hold this address.
    pub address: Option<IpAddr>,
    /// With this fate.
    pub fate: Option<Fate>,
    /// Not older than this: milliseconds since 1970.
    pub since: u64,
}

/// Shared by everybody who answers; cheap to clone.
#[derive(Clone, Debug)]
pub struct QueryLog(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    parts: [Mutex<Part>; PARTS],
    hasher: RandomState,
    /// The newest entry.
    number: AtomicU64,
    /// Entries that a part keeps.
    room: AtomicUsize,
    sinks: sinks::Sinks,
}

impl Default for QueryLog {
    fn default() -> Self {
        let parts = std::array::from_fn(|_| Mutex::default());
        Self(Arc::new(Shared {
            parts,
            hasher: RandomState::new(),
            number: AtomicU64::new(0),
            room: AtomicUsize::new(0),
            sinks: sinks::Sinks::default(),
        }))
    }
}

impl QueryLog {
    /// Counts what goes elsewhere.
    pub fn register(&self, registry: &mut Registry) {
        self.0.sinks.register(registry);
    }

    /// As the configuration says. What was on its way goes where it was to go.
    pub fn configure(&self, config: &Config) {
        self.keep(config.log.queries);
        self.0.sinks.set(config, &self.0.hasher);
    }

    /// What is wrong with places that questions go to, in words.
    #[must_use]
    pub fn troubles(&self) -> Vec<String> {
        self.0.sinks.troubles()
    }

    /// Writes what is left, for a moment; at the end.
    pub fn finish(&self) {
        self.0.sinks.finish();
    }

    /// Keeps so many entries; 0: none.
    pub fn keep(&self, entries: usize) {
        self.0.room.store(entries.div_ceil(PARTS), Ordering::Relaxed);
        for part in &self.0.parts {
            self.trim(&mut part.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Whether anything is kept: what is only made for the log need not be made else.
    #[must_use]
    pub fn keeps(&self) -> bool {
        self.0.room.load(Ordering::Relaxed) > 0
    }

    /// Whether anybody is to learn of questions.
    #[must_use]
    pub fn wants(&self) -> bool {
        self.keeps() || self.0.sinks.any()
    }

    fn trim(&self, part: &mut Part) {
        let room = self.0.room.load(Ordering::Relaxed);
        while part.entries.len() > room
            && let Some((number, _)) = part.entries.pop_front()
        {
            part.forgotten = number;
        }
    }

    /// Tells of a message to or from a client, where somebody wants it.
    pub fn tap(&self, tapped: Tapped<&[u8]>) {
        if self.taps() {
            self.0.sinks.tap(tapped);
        }
    }

    /// Whether somebody wants messages.
    #[must_use]
    pub fn taps(&self) -> bool {
        self.0.sinks.taps()
    }

    /// Keeps one more, and tells others.
    pub fn record(&self, entry: Entry) {
        let told = self.0.sinks.any().then(|| entry.clone());
        let number = if self.keeps() {
            self.push(entry)
        } else if told.is_some() {
            Some(self.next())
        } else {
            None
        };
        if let (Some(number), Some(entry)) = (number, told) {
            self.0.sinks.tell(number, &entry);
        }
    }

    fn push(&self, entry: Entry) -> Option<u64> {
        let place = usize::try_from(self.0.hasher.hash_one(entry.client)).unwrap_or(0) % PARTS;
        let mut part = self.0.parts.get(place)?.lock().unwrap_or_else(PoisonError::into_inner);
        // Numbered under the lock: a part is in order.
        let number = self.next();
        part.entries.push_back((number, entry));
        self.trim(&mut part);
        Some(number)
    }

    fn next(&self) -> u64 {
        self.0.number.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    /// What came behind the number `after`, oldest first, the newest `most` of it; `hide` says what the reader doesn't learn.
    #[must_use]
    pub fn since(&self, after: u64, wanted: &Wanted, most: usize, hide: &[Hide]) -> AskedPage {
        // Read first: what comes meanwhile is for the next page.
        let next = self.0.number.load(Ordering::Relaxed);
        let mut found: Vec<(u64, Entry)> = Vec::new();
        let mut lost = false;
        for part in &self.0.parts {
            let part = part.lock().unwrap_or_else(PoisonError::into_inner);
            lost |= part.forgotten > after && after > 0;
            let news = part.entries.iter().rev().take_while(|(number, _)| *number > after);
            let here = news.filter(|(number, entry)| *number <= next && wanted.has(entry)).take(most);
            found.extend(here.cloned());
        }
        found.sort_unstable_by_key(|(number, _)| *number);
        let surplus = found.len().saturating_sub(most);
        let asked = found.drain(surplus..).map(|(number, entry)| told(&self.0.hasher, number, entry, hide)).collect();
        AskedPage { asked, next, lost: lost || (surplus > 0 && after > 0) }
    }

    /// As `hide` has it in the log: the same name, address or client has the same hash there.
    pub fn hide(&self, denied: &mut Denied, hide: &[Hide]) {
        let hash = |octets: &[u8]| hashed(&self.0.hasher, octets);
        if hide.contains(&Hide::Clients)
            && let Some(client) = &mut denied.client
        {
            *client = hash(client.as_bytes());
            denied.by = None;
        }
        if !hide.contains(&Hide::Names) {
            return;
        }
        // A name and a type, or a destination and a port; anything else is neither.
        if let Some((what, kind)) = denied.what.split_once(' ').filter(|(_, kind)| !kind.contains(' ')) {
            let named = |name: Name| hash(name.wire());
            let hidden = match what.parse::<IpAddr>() {
                Ok(_) => hash(what.as_bytes()),
                Err(_) => what.parse::<Name>().map_or_else(|_| hash(what.as_bytes()), named),
            };
            denied.what = format!("{hidden} {kind}");
        }
        // What stands behind may hold names and addresses.
        if let Some((label, _)) = denied.reason.split_once(':') {
            denied.reason = label.to_owned();
        }
    }

    /// Returns once something came behind `after`, and not at once: a follower that wants few of many questions costs little.
    pub async fn wait(&self, after: u64) {
        loop {
            tokio::time::sleep(LOOK).await;
            if self.0.number.load(Ordering::Relaxed) > after {
                return;
            }
        }
    }
}

/// The same for the same within this process, and nothing that can be traced back.
fn hashed(hasher: &RandomState, octets: &[u8]) -> String {
    format!("#{:012x}", hasher.hash_one(octets) >> 16)
}

fn told(hasher: &RandomState, number: u64, entry: Entry, hide: &[Hide]) -> Asked {
    let (names, clients) = (hide.contains(&Hide::Names), hide.contains(&Hide::Clients));
    let hash = |octets: &[u8]| hashed(hasher, octets);
    let name = if names {
        hash(&entry.name)
    } else {
        Name::from_wire(&entry.name).map(|name| name.to_string()).unwrap_or_default()
    };
    let shown = |text: String| if clients { hash(text.as_bytes()) } else { text };
    let client = shown(entry.client.to_string());
    let person = entry.person.as_deref().map(|person| shown(person.words()));
    Asked {
        number,
        time_ms: entry.time,
        client,
        person,
        over: entry.over.to_owned(),
        name,
        qtype: hickory_proto::rr::RecordType::from(entry.qtype).to_string(),
        rcode: rcode(entry.rcode),
        fate: entry.fate.as_str().to_owned(),
        audit: entry.audit,
        // It may hold the name.
        why: entry.why.filter(|_| !names).map(String::from),
        took_us: u64::from(entry.took),
        addresses: if names { Vec::new() } else { entry.addresses.into_vec() },
    }
}

/// Names of the codes that replies bear (RFC 1035 section 4.1.1).
fn rcode(code: u8) -> String {
    const NAMES: [&str; 6] = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"];
    NAMES.get(usize::from(code)).map_or_else(|| format!("RCODE{code}"), |name| (*name).to_owned())
}

impl Wanted {
    fn has(&self, entry: &Entry) -> bool {
        let below = |name: &Name| {
            let (suffix, whole) = (name.wire(), &entry.name);
            let at = whole.len().checked_sub(suffix.len());
            at.is_some_and(|at| whole.get(at..) == Some(suffix) && is_boundary(whole, at))
        };
        entry.time >= self.since
            && self.client.is_none_or(|net| net.contains(&entry.client))
            && self.fate.is_none_or(|fate| fate == entry.fate)
            && self.address.is_none_or(|address| entry.addresses.contains(&address))
            && self.name.as_ref().is_none_or(below)
    }
}

/// Whether a label begins here.
fn is_boundary(wire: &[u8], at: usize) -> bool {
    let mut place = 0;
    while place < at {
        let Some(len) = wire.get(place) else { return false };
        place = place.saturating_add(usize::from(*len)).saturating_add(1);
    }
    place == at
}

#[cfg(test)]
mod tests;
