//! What the cache keeps of one answer. There are some hundred thousand of them, each with its message: what few answers have lies in a box of its own.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use smallvec::SmallVec;

use super::{KEY_INLINE, Key};
use crate::core::event::{Grant, Grants, LeaseHandle, LeaseHandles};
use crate::core::moment::Moment;
use crate::core::name::Name;
use crate::dns::codec::ede::Ede;
use crate::dns::codec::reply::Body;
use crate::dns::codec::wire::HEADER;
use crate::dns::would::Would;

/// Octets that an entry costs beside its own data: the slot, the index and the allocator's headers.
const OVERHEAD: usize = 192;
/// More TTLs than any message has room for.
const MOST_TTLS: usize = 8192;
/// Uses that make an entry worth asking for again before it ends.
pub const POPULAR: u8 = 2;

/// What is needed to have the addresses of an entry admitted again without asking the upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readmission {
    /// The question's name.
    pub question: Name,
    /// The question's type.
    pub qtype: u16,
    /// Aliases from the question to the addresses.
    pub chain: Arc<[Name]>,
    /// Addresses with the TTLs they had when the entry was stored.
    pub grants: Grants,
    /// The answer can't be given in part.
    pub whole: bool,
}

/// A key and a [`Body`] in one piece of memory: what a new answer costs is in good part what it costs to have memory for it.
///
/// ```text
/// octets of the key here (2) | TTLs (2) | octets of the key in the body (2) | key | offsets of the TTLs | body
/// ```
///
/// A key begins with the question's name and type, which nearly every body has as well; those two aren't kept twice.
#[derive(Clone, Debug)]
pub struct Message(Box<[u8]>);

/// The lengths before the key.
const LENGTHS: usize = 6;

impl Message {
    /// Kept under `key`.
    #[must_use]
    pub fn new(key: &Key, body: &Body) -> Self {
        let key = key.octets();
        // A body has fewer octets than 65,536, and a TTL for eleven of them at most.
        let ttls = body.ttls.get(..body.ttls.len().min(MOST_TTLS)).unwrap_or_default();
        let shared = shared(key, &body.octets);
        let own = key.get(shared..).unwrap_or_default();
        let len = own.len().saturating_add(ttls.len().saturating_mul(2)).saturating_add(body.octets.len());
        let mut all = Vec::with_capacity(LENGTHS.saturating_add(len));
        for len in [own.len(), ttls.len(), shared] {
            all.extend_from_slice(&u16::try_from(len).unwrap_or(0).to_be_bytes());
        }
        all.extend_from_slice(own);
        for ttl in ttls {
            all.extend_from_slice(&ttl.to_be_bytes());
        }
        all.extend_from_slice(&body.octets);
        Self(all.into())
    }

    fn length(&self, which: usize) -> usize {
        let at = which.saturating_mul(2);
        self.0.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |len| usize::from(u16::from_be_bytes(*len)))
    }

    fn key_end(&self) -> usize {
        LENGTHS.saturating_add(self.length(0))
    }

    fn ttls_end(&self) -> usize {
        self.key_end().saturating_add(self.length(1).saturating_mul(2))
    }

    /// The parts of its key.
    fn key_parts(&self) -> (&[u8], &[u8]) {
        let shared = self.octets().get(HEADER..HEADER.saturating_add(self.length(2)));
        (shared.unwrap_or_default(), self.0.get(LENGTHS..self.key_end()).unwrap_or_default())
    }

    /// The key's octets.
    #[must_use]
    pub fn key(&self) -> SmallVec<[u8; KEY_INLINE]> {
        let (shared, own) = self.key_parts();
        let mut key = SmallVec::from_slice(shared);
        key.extend_from_slice(own);
        key
    }

    /// Whether it is kept under this key.
    #[must_use]
    pub fn is_under(&self, key: &[u8]) -> bool {
        let (shared, own) = self.key_parts();
        key.split_at_checked(shared.len()) == Some((shared, own))
    }

    /// The question's name and type, where they aren't kept twice.
    fn question(&self) -> Option<(&[u8], u16)> {
        let (name, qtype) = self.key_parts().0.split_last_chunk()?;
        Some((name, u16::from_be_bytes(*qtype)))
    }

    /// The message without id, client bits and OPT.
    #[must_use]
    pub fn octets(&self) -> &[u8] {
        self.0.get(self.ttls_end()..).unwrap_or_default()
    }

    /// Offsets of the TTLs.
    pub fn ttls(&self) -> impl Iterator<Item = u16> + use<'_> {
        let ttls = self.0.get(self.key_end()..self.ttls_end()).unwrap_or_default();
        ttls.as_chunks().0.iter().map(|ttl| u16::from_be_bytes(*ttl))
    }

    /// A copy that can be changed.
    #[must_use]
    pub fn body(&self) -> Body {
        Body { octets: self.octets().to_vec(), ttls: self.ttls().collect() }
    }
}

/// How many octets of a key are the body's name and type of the question.
fn shared(key: &[u8], body: &[u8]) -> usize {
    let mut len = 0usize;
    while let Some(label) = key.get(len).copied().filter(|label| *label != 0) {
        len = len.saturating_add(1).saturating_add(usize::from(label));
    }
    // The root, and the type.
    len = len.saturating_add(3);
    match (key.get(..len), body.get(HEADER..HEADER.saturating_add(len))) {
        (Some(asked), Some(told)) if asked == told => len,
        _ => 0,
    }
}

/// What a kept reply counts as when it is served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// An answer, negative ones included.
    #[default]
    Released,
    /// Refused by policy or filter.
    Denied(&'static str),
    /// SERVFAIL, with the label that metrics count it by.
    Failed(&'static str),
}

/// The leases of an answer: one mostly, which needs no memory of its own.
#[derive(Debug)]
enum Leases {
    One([LeaseHandle; 1]),
    Others(Box<[LeaseHandle]>),
}

impl From<LeaseHandles> for Leases {
    fn from(mut leases: LeaseHandles) -> Self {
        match leases.pop() {
            Some(one) if leases.is_empty() => Self::One([one]),
            last => {
                leases.extend(last);
                Self::Others(leases.into_vec().into())
            }
        }
    }
}

impl Deref for Leases {
    type Target = [LeaseHandle];

    fn deref(&self) -> &[LeaseHandle] {
        match self {
            Self::One(one) => one,
            Self::Others(others) => others,
        }
    }
}

/// How its addresses are admitted again, where all have one TTL and everything else follows from the question and the leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    /// It has no addresses, or it isn't that plain.
    Else,
    /// It may be given in part.
    Parts,
    /// It may not.
    Whole,
}

/// What few entries have.
#[derive(Clone, Debug, Default)]
struct Rare {
    again: Option<Readmission>,
    ede: Option<Ede>,
    outcome: Outcome,
    would: Option<Box<Would>>,
    ended: Option<Moment>,
}

impl Rare {
    fn boxed(self) -> Option<Box<Self>> {
        let Self { again, ede, outcome, would, ended } = &self;
        let is_empty = again.is_none() && ede.is_none() && would.is_none() && ended.is_none();
        (!is_empty || *outcome != Outcome::Released).then(|| Box::new(self))
    }
}

/// What an entry is made of.
#[derive(Debug, Default)]
pub struct Made {
    /// When its TTLs are right.
    pub stored: Moment,
    /// When the first TTL ends, in seconds; a TTL of 0 ends at once.
    pub keep: u32,
    /// The leases of its addresses.
    pub leases: LeaseHandles,
    /// For a new admission near the end of the leases; `None` without addresses.
    pub again: Option<Readmission>,
    /// Extended error that goes with it.
    pub ede: Option<Ede>,
    /// What it counts as.
    pub outcome: Outcome,
    /// In audit: what enforcement would have made of it.
    pub would: Option<Box<Would>>,
    /// The policy's generation under which it was judged.
    pub generation: u64,
    /// Of a stale answer: when the true one ended.
    pub ended: Option<Moment>,
}

/// A finished answer.
#[derive(Debug)]
pub struct Entry {
    /// What it says, and to which question.
    pub message: Message,
    /// When the TTLs were right.
    pub stored: Moment,
    leases: Leases,
    rare: Option<Box<Rare>>,
    /// Aliases to the addresses of [`Again`].
    chain: Option<Box<Arc<[Name]>>>,
    keep: u32,
    /// Of the addresses.
    ttl: u32,
    generation: u32,
    again: Again,
    /// How often it was served; counts to [`POPULAR`] only.
    uses: AtomicU8,
    /// It was, since the cache's hand passed.
    pub(super) used: AtomicBool,
}

/// One for each kept answer: its size matters.
const _: () = assert!(size_of::<Entry>() <= 72);

impl Entry {
    /// `body`, kept under `key`.
    #[must_use]
    pub fn new(key: &Key, body: &Body, made: Made) -> Self {
        let Made { stored, keep, leases, again, ede, outcome, would, generation, ended } = made;
        let stale = ended.is_some();
        Self {
            message: Message::new(key, body),
            stored,
            leases: Leases::Others(Box::default()),
            rare: Rare { again: None, ede, outcome, would, ended }.boxed(),
            chain: None,
            keep,
            ttl: 0,
            // Told apart from its neighbours, which is all that matters.
            generation: u32::try_from(generation & u64::from(u32::MAX)).unwrap_or(0),
            again: Again::Else,
            uses: AtomicU8::new(if stale { u8::MAX } else { 0 }),
            used: AtomicBool::new(false),
        }
        .with(leases.into(), again)
    }

    fn with(mut self, leases: Leases, again: Option<Readmission>) -> Self {
        self.leases = leases;
        (self.again, self.ttl, self.chain) = (Again::Else, 0, None);
        let Some(again) = again else { return self };
        let ttl = again.grants.first().map_or(0, |grant| grant.ttl);
        let is_plain = self.message.question() == Some((again.question.wire(), again.qtype))
            && again.grants.len() == self.leases.len()
            && again.grants.iter().zip(&*self.leases).all(|(grant, lease)| grant.address == lease.address())
            && again.grants.iter().all(|grant| grant.ttl == ttl);
        if is_plain {
            self.again = if again.whole { Again::Whole } else { Again::Parts };
            self.ttl = ttl;
            self.chain = (!again.chain.is_empty()).then(|| Box::new(again.chain));
        } else {
            self.rare.get_or_insert_default().again = Some(again);
        }
        self
    }

    /// The leases of its addresses.
    #[must_use]
    pub fn leases(&self) -> &[LeaseHandle] {
        &self.leases
    }

    /// For a new admission near the end of the leases; `None` without addresses.
    #[must_use]
    pub fn again(&self) -> Option<Readmission> {
        if self.again == Again::Else {
            return self.rare.as_ref()?.again.clone();
        }
        let (name, qtype) = self.message.question()?;
        let grant = |lease: &LeaseHandle| Grant { address: lease.address(), ttl: self.ttl };
        Some(Readmission {
            question: Name::from_wire(name).ok()?,
            qtype,
            chain: self.chain.as_deref().cloned().unwrap_or_default(),
            grants: self.leases.iter().map(grant).collect(),
            whole: self.again == Again::Whole,
        })
    }

    /// Whether it has addresses to admit.
    #[must_use]
    pub fn opens(&self) -> bool {
        self.again != Again::Else || self.rare.as_ref().is_some_and(|rare| rare.again.is_some())
    }

    /// Whether it is of this name, or leads over it.
    #[must_use]
    pub fn is_about(&self, name: &Name) -> bool {
        let again = self.rare.as_ref().and_then(|rare| rare.again.as_ref());
        self.chain.as_ref().is_some_and(|chain| chain.contains(name))
            || again.is_some_and(|again| again.question == *name || again.chain.contains(name))
    }

    /// Extended error that goes with it.
    #[must_use]
    pub fn ede(&self) -> Option<&Ede> {
        self.rare.as_ref()?.ede.as_ref()
    }

    /// What it counts as.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.rare.as_ref().map_or(Outcome::Released, |rare| rare.outcome)
    }

    /// In audit: what enforcement would have made of it.
    #[must_use]
    pub fn would(&self) -> Option<&Would> {
        self.rare.as_ref()?.would.as_deref()
    }

    /// The policy's generation under which it was judged.
    #[must_use]
    pub fn generation(&self) -> u64 {
        u64::from(self.generation)
    }

    /// When the first TTL ends.
    #[must_use]
    pub fn expires(&self) -> Moment {
        self.stored.plus(Duration::from_secs(u64::from(self.keep)))
    }

    /// When the true answer ends: of a stale one earlier than [`Entry::expires`].
    #[must_use]
    pub fn ended(&self) -> Moment {
        self.rare.as_ref().and_then(|rare| rare.ended).unwrap_or_else(|| self.expires())
    }

    /// Whether the true answer ended before it.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.ended() < self.expires()
    }

    /// Whether it may be served as it is.
    #[must_use]
    pub fn is_in_force(&self, now: Moment, margin: Duration) -> bool {
        self.leases.iter().all(|lease| lease.in_force_for(now, margin))
    }

    /// The same under `key`, its addresses leased.
    #[must_use]
    pub fn leased(&self, key: &Key, leases: LeaseHandles) -> Self {
        let rare = self.rare.as_deref().map(|rare| Rare { again: None, ..rare.clone() });
        Self {
            message: Message::new(key, &self.message.body()),
            leases: Leases::Others(Box::default()),
            rare: rare.and_then(Rare::boxed),
            chain: None,
            uses: AtomicU8::new(self.uses.load(Ordering::Relaxed)),
            used: AtomicBool::new(false),
            ..*self
        }
        .with(leases.into(), self.again())
    }

    /// Counts a use; says, once in its life, whether it is used enough and near enough to its end to be asked for again: served
    /// [`POPULAR`] times at least, and in the last tenth of its time.
    #[must_use]
    pub fn wants_prefetch(&self, now: Moment) -> bool {
        let uses = self.uses.load(Ordering::Relaxed);
        if uses > POPULAR || self.outcome() != Outcome::Released {
            return false;
        }
        if uses < POPULAR {
            self.uses.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        let (life, left) = (self.stored.until(self.expires()), now.until(self.expires()));
        // Whoever moves it beyond POPULAR asks; several workers may try at once.
        left < life / 10
            && self.uses.compare_exchange(uses, uses.saturating_add(1), Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Whole seconds since it was stored.
    #[must_use]
    pub fn age(&self, now: Moment) -> u32 {
        u32::try_from(self.stored.until(now).as_secs()).unwrap_or(u32::MAX)
    }

    /// What it takes of the cache's room: always the same for one entry.
    pub(super) fn cost(&self) -> usize {
        let names = |chain: &[Name]| chain.iter().map(|name| name.wire().len().saturating_add(48)).sum::<usize>();
        let rare = self.rare.as_ref().map_or(0, |rare| {
            let again = rare.again.as_ref().map_or(0, |again| {
                let grants = again.grants.len().saturating_sub(1).saturating_mul(size_of::<Grant>());
                again.question.wire().len().saturating_add(grants).saturating_add(names(&again.chain))
            });
            let text = rare.ede.as_ref().map_or(0, |ede| ede.text.len());
            let would =
                rare.would.as_ref().map_or(0, |would| would.words.len().saturating_add(would.ede.text.len() + 80));
            size_of::<Rare>().saturating_add(again).saturating_add(text).saturating_add(would)
        });
        let others = self.leases.len().saturating_sub(1).saturating_mul(size_of::<LeaseHandle>());
        let chain = self.chain.as_ref().map_or(0, |chain| names(chain).saturating_add(32));
        OVERHEAD.saturating_add(self.message.0.len()).saturating_add(others).saturating_add(chain).saturating_add(rare)
    }
}
