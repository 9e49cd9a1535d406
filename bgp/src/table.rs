//! The route table that all peers share, and how far each peer has followed it.
//!
//! There is one copy of every route. A change gets a sequence number and goes to the end of a log; a peer (a *reader*)
//! holds a position in that log, not a table of its own. Only the newest log entry of a prefix counts, so a route
//! that came and went before it was sent is never sent. A new reader starts at the end of the log and walks the
//! table once beside it (*replay*); log entries go first, so a fresh route overtakes a replay in progress.
//!
//! The log is cut when it grows past its bound because a peer doesn't read. The reader that loses entries keeps the
//! withdrawals it is owed (never more than the routes it had) and walks the table again for the rest.
//!
//! Only host routes come in by [`Table::apply`]; the operator's own prefixes by [`Table::set_open`].
//!
//! Routes may differ in the communities that they bear beyond those of every route: each has a class ([`classes`]). A change of
//! class is a change like any other, so the route is announced again, in place of what the peer has (RFC 4271 section 3.1).

use std::collections::btree_map::Entry as MapEntry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Instant;

use bytes::Bytes;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

pub use self::batch::{Batch, Room};
use self::chunks::Chunks;
use self::classes::{Classes, PLAIN, Want};
use self::walk::{Make, Routes, Walk, ask, restart};
use crate::wire::iana::{Families, Family};

mod batch;
mod chunks;
pub mod classes;
#[cfg(test)]
mod tests;
mod walk;

/// 0 for IPv4, 1 for IPv6.
#[must_use]
pub const fn index(family: Family) -> usize {
    match family {
        Family::Ipv4 => 0,
        Family::Ipv6 => 1,
    }
}

/// Names a reader of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReaderId(u64);

/// Most log entries kept for readers that lag (24 octets each).
pub const LOG_LIMIT: usize = 1 << 20;
/// So many changes in one call make it not worth while to keep what pieces of replays they leave.
const MANY: usize = 256;
/// Most log entries looked at in one call, so that nobody holds the table for long.
const SCAN: usize = 32_768;

/// Changes of so many classes fill their messages.
const MIXED: usize = 4;

const LEASED: u64 = 1;
const OPEN: u64 = 2;
const SOURCES: u64 = LEASED | OPEN;

/// One prefix. 8 octets: there are as many of these as routes.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Sequence number of the newest change (46 bits); below it the route's class (16 bits), and who wants it announced ([`LEASED`],
    /// [`OPEN`]). With neither it is a tombstone, kept until every reader has passed it.
    packed: u64,
}

impl Entry {
    const fn new(sequence: u64, sources: u64, class: u16) -> Self {
        Self { packed: sequence << 18 | (class as u64) << 2 | sources }
    }
    const fn sources(self) -> u64 {
        self.packed & SOURCES
    }
    const fn class(self) -> u16 {
        (self.packed >> 2 & 0xffff) as u16
    }
    const fn announced(self) -> bool {
        self.sources() != 0
    }
    const fn sequence(self) -> u64 {
        self.packed >> 18
    }
}

/// One change. What only readers that lag need to know stands here and not in [`Entry`].
#[derive(Clone, Copy, Debug)]
struct Logged {
    net: IpNet,
    /// How many changes before this one the prefix came to be: a reader whose position is not beyond that never saw it.
    /// [`u32::MAX`]: before the log's front, so that every reader may have seen it.
    age: u32,
}

impl Logged {
    /// Whether a reader that went on at `position` may have been told of the prefix before; `sequence` is the entry's own.
    const fn seen_from(self, position: u64, sequence: u64) -> bool {
        self.age == u32::MAX || sequence - (self.age as u64) < position
    }
}

/// Why a family is replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// The session came up: End-of-RIB follows (RFC 4724 section 2).
    Initial,
    /// The peer asked by ROUTE-REFRESH (RFC 2918; between BoRR and EoRR where RFC 7313 was negotiated).
    Refresh,
    /// The log was cut: the peer gets everything again, unmarked.
    Repair,
}

#[derive(Debug)]
struct Reader {
    families: Families,
    /// Sequence number of the next log entry to look at.
    position: u64,
    walk4: Option<Walk<Ipv4Net>>,
    walk6: Option<Walk<Ipv6Net>>,
    /// Withdrawals whose log entries were cut.
    owed: BTreeSet<IpNet>,
    /// Routes that the peer lost and is to get once more.
    again: BTreeSet<IpNet>,
    /// Announcements before the position come only by the walk of the family that is under way.
    behind: Families,
    /// Before this position stands a newer announcement of a route whose entry was passed over for it.
    passed_over: u64,
    advertised: [usize; 2],
}

impl Reader {
    /// Whether the reader has been given everything before its position, as it is there or newer.
    fn whole(&self) -> bool {
        self.owed.is_empty() && self.again.is_empty() && self.behind.is_empty() && self.position >= self.passed_over
    }

    fn wants(&self, net: IpNet) -> bool {
        match net {
            IpNet::V4(_) => self.families.ipv4,
            IpNet::V6(_) => self.families.ipv6,
        }
    }
}

/// A generation, and when it was put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Generation of the table.
    pub generation: u64,
    /// When [`Table::apply`] was called for it; `None` before the first.
    pub at: Option<Instant>,
}

/// The routes. See the module.
#[derive(Debug)]
pub struct Table {
    v4: BTreeMap<Ipv4Net, Entry>,
    v6: BTreeMap<Ipv6Net, Entry>,
    announced: [usize; 2],
    /// Of them those that leases want.
    leased: [usize; 2],
    chunks4: Chunks<Ipv4Net>,
    chunks6: Chunks<Ipv6Net>,
    classes: Classes,
    log: VecDeque<Logged>,
    /// Sequence number of the log's front.
    base: u64,
    log_limit: usize,
    /// (sequence number after its last change, stamp); grows with the log and is cut with it.
    stamps: VecDeque<(u64, Stamp)>,
    readers: BTreeMap<ReaderId, Reader>,
    next_reader: u64,
    /// Times that a reader lost log entries.
    cuts: u64,
}

impl Default for Table {
    fn default() -> Self {
        Self::new(LOG_LIMIT)
    }
}

impl Table {
    /// An empty table that keeps at most `log_limit` changes for readers that lag.
    #[must_use]
    pub fn new(log_limit: usize) -> Self {
        Self {
            v4: BTreeMap::new(),
            v6: BTreeMap::new(),
            announced: [0; 2],
            leased: [0; 2],
            chunks4: Chunks::default(),
            chunks6: Chunks::default(),
            classes: Classes::default(),
            log: VecDeque::new(),
            base: 0,
            log_limit: log_limit.max(16),
            stamps: VecDeque::from([(0, Stamp { generation: 0, at: None })]),
            readers: BTreeMap::new(),
            next_reader: 0,
            cuts: 0,
        }
    }

    fn end(&self) -> u64 {
        self.base + self.log.len() as u64
    }

    /// Host routes to announce (`true`, or with communities of their own) and withdraw, in order; all of them belong to `generation`. Withdrawing
    /// what is absent changes nothing. Generations only grow; an older one is taken as part of the newest.
    pub fn apply<W: Into<Want>>(
        &mut self,
        generation: u64,
        changes: impl IntoIterator<Item = (IpAddr, W)>,
        now: Instant,
    ) {
        for (number, (address, want)) in changes.into_iter().enumerate() {
            if number == MANY {
                self.chunks4.clear();
                self.chunks6.clear();
            }
            let class = match want.into() {
                Want::Withdrawn => None,
                Want::Plain => Some(PLAIN),
                Want::With(extra) => Some(self.classes.number(&extra)),
            };
            self.change(IpNet::from(address), LEASED, class);
        }
        let end = self.end();
        let newest = self.stamps.back().map_or(0, |(_, stamp)| stamp.generation);
        let stamp = Stamp { generation: generation.max(newest), at: Some(now) };
        match self.stamps.back_mut() {
            Some(last) if last.0 == end => last.1 = stamp,
            _ => self.stamps.push_back((end, stamp)),
        }
        self.bound();
        self.trim();
    }

    /// Like [`Self::apply`], with all host routes that there are to be; the others are withdrawn.
    pub fn replace(&mut self, generation: u64, addresses: &[IpAddr], now: Instant) {
        let wanted: BTreeSet<IpNet> = addresses.iter().map(|address| IpNet::from(*address)).collect();
        let v4 = self.v4.iter().filter(|(_, entry)| entry.packed & LEASED != 0).map(|(net, _)| IpNet::V4(*net));
        let v6 = self.v6.iter().filter(|(_, entry)| entry.packed & LEASED != 0).map(|(net, _)| IpNet::V6(*net));
        let gone: Vec<IpNet> = v4.chain(v6).filter(|net| !wanted.contains(net)).collect();
        let gone = gone.into_iter().map(|net| (net.addr(), false));
        self.apply(generation, gone.chain(addresses.iter().map(|address| (*address, true))), now);
    }

    /// The operator's own prefixes, announced exactly as given (host bits cleared); whatever was set before and isn't
    /// among them is withdrawn unless a lease wants it too.
    pub fn set_open(&mut self, prefixes: &[IpNet]) {
        let wanted: BTreeSet<IpNet> = prefixes.iter().map(IpNet::trunc).collect();
        let v4 = self.v4.iter().filter(|(_, entry)| entry.packed & OPEN != 0).map(|(net, _)| IpNet::V4(*net));
        let v6 = self.v6.iter().filter(|(_, entry)| entry.packed & OPEN != 0).map(|(net, _)| IpNet::V6(*net));
        let gone: Vec<IpNet> = v4.chain(v6).filter(|net| !wanted.contains(net)).collect();
        for net in gone {
            self.change(net, OPEN, None);
        }
        for net in wanted {
            self.change(net, OPEN, Some(PLAIN));
        }
        self.bound();
        self.trim();
    }

    fn entry(&self, net: IpNet) -> Option<Entry> {
        match net {
            IpNet::V4(net) => self.v4.get(&net).copied(),
            IpNet::V6(net) => self.v6.get(&net).copied(),
        }
    }

    /// `class`: of a route to announce; `None` withdraws it.
    fn change(&mut self, net: IpNet, source: u64, class: Option<u16>) {
        let sequence = self.end();
        // Nobody to tell: no log, and nothing to remember of what is gone.
        let alone = self.readers.is_empty();
        let change = Change { sequence, source, class, alone };
        let (family, moved) = match net {
            IpNet::V4(net) => (0, put(&mut self.v4, net, change)),
            IpNet::V6(net) => (1, put(&mut self.v6, net, change)),
        };
        let Some(Moved { had, has, was, is, before }) = moved else { return };
        match (had & LEASED != 0, has & LEASED != 0) {
            (false, true) => self.leased[family] += 1,
            (true, false) => self.leased[family] -= 1,
            _ => {}
        }
        match (had != 0, has != 0) {
            (false, true) => self.announced[family] += 1,
            (true, false) => self.announced[family] -= 1,
            // Announced as it was.
            _ if was == is => return,
            _ => {}
        }
        if had != 0 {
            self.classes.leaves(was);
        }
        if has != 0 {
            self.classes.joins(is);
        }
        if alone {
            self.base += 1;
            return;
        }
        let age = before.map_or(0, |before| self.age(before, sequence));
        self.log.push_back(Logged { net, age });
        match net {
            IpNet::V4(net) => self.chunks4.forget(net),
            IpNet::V6(net) => self.chunks6.forget(net),
        }
    }

    /// How long before `sequence` the prefix came to be whose change before that was `before`.
    fn age(&self, before: u64, sequence: u64) -> u32 {
        let index = before.checked_sub(self.base).and_then(|index| usize::try_from(index).ok());
        let Some(logged) = index.and_then(|index| self.log.get(index)) else { return u32::MAX };
        u32::try_from(sequence - before).unwrap_or(u32::MAX).saturating_add(logged.age)
    }

    /// Cuts a log that is too long; readers that lose entries keep what they are owed.
    fn bound(&mut self) {
        self.trim();
        if self.log.len() <= self.log_limit {
            return;
        }
        self.cuts += 1;
        let keep = self.log_limit / 2;
        let cut = (self.log.len() - keep) as u64;
        let new_base = self.base + cut;
        let (v4, v6) = (&self.v4, &self.v6);
        for reader in self.readers.values_mut().filter(|reader| reader.position < new_base) {
            let from = usize::try_from(reader.position - self.base).unwrap_or(usize::MAX);
            let lost = self.log.iter().take(usize::try_from(cut).unwrap_or(usize::MAX)).enumerate().skip(from);
            for (index, logged) in lost {
                let (net, sequence) = (&logged.net, self.base + index as u64);
                let entry = match net {
                    IpNet::V4(net) => v4.get(net),
                    IpNet::V6(net) => v6.get(net),
                };
                let newest = entry.filter(|entry| entry.sequence() == sequence);
                if let Some(entry) = newest
                    && reader.wants(*net)
                    && !entry.announced()
                    && logged.seen_from(reader.position, sequence)
                {
                    reader.owed.insert(*net);
                }
            }
            reader.position = new_base;
            reader.behind = reader.families;
            restart(&mut reader.walk4, reader.families.ipv4);
            restart(&mut reader.walk6, reader.families.ipv6);
        }
        self.trim();
    }

    /// Forgets log entries that every reader has passed, and the tombstones they stand for.
    fn trim(&mut self) {
        let end = self.end();
        let least = self.readers.values().map(|reader| reader.position).min().unwrap_or(end);
        while self.base < least {
            let Some(Logged { net, .. }) = self.log.pop_front() else { break };
            let sequence = self.base;
            self.base += 1;
            let gone = |entry: &Entry| entry.sequence() == sequence && !entry.announced();
            match net {
                IpNet::V4(net) if self.v4.get(&net).is_some_and(gone) => drop(self.v4.remove(&net)),
                IpNet::V6(net) if self.v6.get(&net).is_some_and(gone) => drop(self.v6.remove(&net)),
                _ => {}
            }
        }
        while self.stamps.get(1).is_some_and(|(end, _)| *end <= least) {
            self.stamps.pop_front();
        }
        if self.log.is_empty() && self.log.capacity() > 4096 {
            self.log.shrink_to(1024);
            self.stamps.shrink_to(64);
        }
    }

    /// A new reader for the families its session negotiated; it is given the whole table first.
    pub fn attach(&mut self, families: Families) -> ReaderId {
        let id = ReaderId(self.next_reader);
        self.next_reader += 1;
        let reader = Reader {
            families,
            position: self.end(),
            walk4: families.ipv4.then(|| Walk::new(Replay::Initial)),
            walk6: families.ipv6.then(|| Walk::new(Replay::Initial)),
            owed: BTreeSet::new(),
            again: BTreeSet::new(),
            behind: families,
            passed_over: 0,
            advertised: [0; 2],
        };
        self.readers.insert(id, reader);
        id
    }

    /// The reader's session is over.
    pub fn detach(&mut self, id: ReaderId) {
        self.readers.remove(&id);
        self.forget_chunks();
        self.trim();
    }

    /// The peer wants a family again. Families that were not negotiated are ignored.
    pub fn refresh(&mut self, id: ReaderId, family: Family) {
        let Some(reader) = self.readers.get_mut(&id) else { return };
        if !reader.families.contains(family) {
            return;
        }
        match family {
            Family::Ipv4 => ask(&mut reader.walk4),
            Family::Ipv6 => ask(&mut reader.walk6),
        }
    }

    /// The reader's peer is to get every route once more, unasked: what is said of the routes has changed.
    pub fn again(&mut self, id: ReaderId) {
        if let Some(reader) = self.readers.get_mut(&id) {
            restart(&mut reader.walk4, reader.families.ipv4);
            restart(&mut reader.walk6, reader.families.ipv6);
        }
    }

    /// The reader's peer lost this route, and is to get it once more.
    pub fn resend(&mut self, id: ReaderId, net: IpNet) {
        if let Some(reader) = self.readers.get_mut(&id).filter(|reader| reader.wants(net)) {
            reader.again.insert(net);
        }
    }

    /// Whether [`Table::take`] would give this reader anything.
    #[must_use]
    pub fn pending(&self, id: ReaderId) -> bool {
        self.readers.get(&id).is_some_and(|reader| {
            let walks = reader.walk4.is_some() || reader.walk6.is_some();
            reader.position < self.end() || !reader.owed.is_empty() || !reader.again.is_empty() || walks
        })
    }

    /// Replaces `batch` by what this reader is to send next, about `room` routes at most: changes first; once there are none,
    /// the next piece of a replay.
    pub fn take(&mut self, id: ReaderId, room: impl Into<Room>, batch: &mut Batch) {
        self.take_any(id, &room.into(), batch, None);
    }

    /// Like [`Self::take`], but pieces of replays come encoded, and readers with the same `style` share them: `make` encodes the
    /// announcements of a batch, and must give the same for each reader of that style. What it answers with `None` stays as it is.
    pub fn take_encoded(
        &mut self,
        id: ReaderId,
        room: impl Into<Room>,
        batch: &mut Batch,
        style: u32,
        mut make: impl FnMut(&Batch) -> Option<Bytes>,
    ) {
        self.take_any(id, &room.into(), batch, Some((style, &mut make)));
    }

    fn take_any(&mut self, id: ReaderId, room: &Room, batch: &mut Batch, make: Option<Make<'_>>) {
        batch.clear();
        let end = self.end();
        // Changes of different classes go into messages of their own.
        let times = self.classes.known().min(MIXED);
        let limits = Family::ALL.map(|family| room.of(family, PLAIN) * times);
        let Some(reader) = self.readers.get_mut(&id) else { return };
        let (v4, v6, position) = (&self.v4, &self.v6, reader.position);
        reader.owed.retain(|net| {
            let entry = match net {
                IpNet::V4(net) => v4.get(net),
                IpNet::V6(net) => v6.get(net),
            };
            match entry.filter(|entry| entry.announced()) {
                // It came back and the peer never lost it; should it go again before the reader gets there, it is still owed.
                Some(entry) => entry.sequence() >= position,
                None if !batch.has_room(limits, Family::of(net.addr())) => true,
                None => {
                    batch.withdraw(*net);
                    false
                }
            }
        });
        while let Some(net) = reader.again.first().copied()
            && batch.has_room(limits, Family::of(net.addr()))
        {
            reader.again.pop_first();
            let entry = match net {
                IpNet::V4(net) => v4.get(&net),
                IpNet::V6(net) => v6.get(&net),
            };
            // Whatever has changed since is still in the log.
            if let Some(entry) = entry.filter(|entry| entry.announced() && entry.sequence() < position) {
                batch.announce(net, entry.class());
            }
        }
        let start = reader.position;
        let mut scanned = 0;
        let has_room = |batch: &Batch| batch.has_room(limits, Family::Ipv4) && batch.has_room(limits, Family::Ipv6);
        while reader.position < end && has_room(batch) && scanned < SCAN {
            let sequence = reader.position;
            reader.position += 1;
            scanned += 1;
            let index = usize::try_from(sequence - self.base).unwrap_or(usize::MAX);
            let Some(&logged) = self.log.get(index) else { continue };
            let net = logged.net;
            if !reader.wants(net) {
                continue;
            }
            let entry = match net {
                IpNet::V4(net) => self.v4.get(&net),
                IpNet::V6(net) => self.v6.get(&net),
            };
            let Some(entry) = entry else { continue };
            if entry.sequence() != sequence {
                if entry.announced() {
                    reader.passed_over = reader.passed_over.max(entry.sequence() + 1);
                }
                continue;
            }
            // A route that came and went while the reader was at `start` was never announced to it, unless it is in
            // a withdrawal that a cut log left owed; those are sent on their own.
            if entry.announced() {
                batch.announce(net, entry.class());
            } else if logged.seen_from(start, sequence) {
                batch.withdraw(net);
            }
        }
        if batch.routes() == 0 && reader.position == end && reader.owed.is_empty() {
            let classes = &self.classes;
            if let Some(walk) = &mut reader.walk4 {
                let family = Family::Ipv4;
                let mut all = Routes { family, routes: &self.v4, chunks: &mut self.chunks4, classes };
                let routes = all.step(walk, room, batch, make);
                if walk.kind == Replay::Initial {
                    reader.advertised[0] += routes;
                }
                if batch.end.is_some() {
                    reader.behind.remove(family);
                    reader.walk4 = walk.again.then(|| Walk::new(Replay::Refresh));
                }
            } else if let Some(walk) = &mut reader.walk6 {
                let family = Family::Ipv6;
                let mut all = Routes { family, routes: &self.v6, chunks: &mut self.chunks6, classes };
                let routes = all.step(walk, room, batch, make);
                if walk.kind == Replay::Initial {
                    reader.advertised[1] += routes;
                }
                if batch.end.is_some() {
                    reader.behind.remove(family);
                    reader.walk6 = walk.again.then(|| Walk::new(Replay::Refresh));
                }
            }
            self.forget_chunks();
        }
        self.count(id);
        self.trim();
    }

    /// A reader that has everything was given as many routes as there are.
    fn count(&mut self, id: ReaderId) {
        let (end, announced) = (self.end(), self.announced);
        let Some(reader) = self.readers.get_mut(&id) else { return };
        if reader.position < end || !reader.owed.is_empty() {
            return;
        }
        for family in Family::ALL {
            let walking = match family {
                Family::Ipv4 => reader.walk4.is_some_and(|walk| walk.kind == Replay::Initial),
                Family::Ipv6 => reader.walk6.is_some_and(|walk| walk.kind == Replay::Initial),
            };
            if !walking && reader.families.contains(family) {
                reader.advertised[index(family)] = announced[index(family)];
            }
        }
    }

    /// Encoded pieces are kept only while somebody may want them.
    fn forget_chunks(&mut self) {
        let kept = !self.chunks4.is_empty() || !self.chunks6.is_empty();
        if kept && self.readers.values().all(|reader| reader.walk4.is_none() && reader.walk6.is_none()) {
            self.chunks4.clear();
            self.chunks6.clear();
        }
    }

    /// The newest generation that was put in. Whatever [`Table::take`] announces is as it is at this one.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.stamps.back().map_or(0, |(_, stamp)| stamp.generation)
    }

    /// The newest generation of which [`Table::take`] has given this reader everything; `None` while it is still being given the
    /// table that it started with, or lacks a route of which the newest announcement is further on.
    #[must_use]
    pub fn reached(&self, id: ReaderId) -> Option<Stamp> {
        let reader = self.readers.get(&id).filter(|reader| reader.whole())?;
        let count = self.stamps.partition_point(|(end, _)| *end <= reader.position);
        self.stamps.get(count.checked_sub(1)?).map(|(_, stamp)| *stamp)
    }

    /// Routes that this reader's peer holds, per family; while a replay or changes are under way, about so many.
    #[must_use]
    pub fn advertised(&self, id: ReaderId) -> [usize; 2] {
        self.readers.get(&id).map_or([0; 2], |reader| reader.advertised)
    }

    /// Routes that are announced, per family.
    #[must_use]
    pub fn announced(&self) -> [usize; 2] {
        self.announced
    }

    /// Host routes put in by [`Self::apply`], per family.
    #[must_use]
    pub fn leased(&self) -> [usize; 2] {
        self.leased
    }

    /// Whether exactly this prefix is announced.
    #[must_use]
    pub fn contains(&self, net: IpNet) -> bool {
        self.entry(net).is_some_and(Entry::announced)
    }

    /// All prefixes of these families that are announced.
    #[must_use]
    pub fn prefixes(&self, families: Families) -> Vec<IpNet> {
        let v4 = self.v4.iter().filter(|(_, entry)| families.ipv4 && entry.announced()).map(|(net, _)| IpNet::V4(*net));
        let v6 = self.v6.iter().filter(|(_, entry)| families.ipv6 && entry.announced()).map(|(net, _)| IpNet::V6(*net));
        v4.chain(v6).collect()
    }

    /// What routes bear beyond the communities of every route.
    #[must_use]
    pub fn classes(&self) -> &Classes {
        &self.classes
    }

    /// Log entries held for readers that lag, and how often a reader lost some.
    #[must_use]
    pub fn log_depth(&self) -> (usize, u64) {
        (self.log.len(), self.cuts)
    }
}

#[derive(Clone, Copy)]
struct Change {
    sequence: u64,
    source: u64,
    /// The route's class; `None` where it is withdrawn.
    class: Option<u16>,
    /// There is no reader.
    alone: bool,
}

/// What a change did to its prefix.
#[derive(Clone, Copy)]
struct Moved {
    /// Who wanted it before, and who wants it now.
    had: u64,
    has: u64,
    /// Its class before and now.
    was: u16,
    is: u16,
    /// Sequence number of the change before, if the prefix or its tombstone was there.
    before: Option<u64>,
}

/// Carries out a change of one prefix; `None` if nothing is different. While a lease wants a prefix it has the lease's class.
fn put<N: Ord>(routes: &mut BTreeMap<N, Entry>, net: N, change: Change) -> Option<Moved> {
    let Change { sequence, source, class, alone } = change;
    match routes.entry(net) {
        MapEntry::Vacant(place) => {
            let class = class?;
            place.insert(Entry::new(sequence, source, class));
            Some(Moved { had: 0, has: source, was: PLAIN, is: class, before: None })
        }
        MapEntry::Occupied(mut place) => {
            let entry = place.get_mut();
            let (had, was) = (entry.sources(), entry.class());
            let has = if class.is_some() { had | source } else { had & !source };
            let is = match class {
                Some(class) if source == LEASED => class,
                _ if has & LEASED != 0 => was,
                _ => PLAIN,
            };
            if has == had && is == was {
                return None;
            }
            let changed = (has == 0) != (had == 0) || (has != 0 && is != was);
            let before = entry.sequence();
            *entry = Entry::new(if changed { sequence } else { before }, has, is);
            if has == 0 && alone {
                place.remove();
            }
            Some(Moved { had, has, was, is, before: Some(before) })
        }
    }
}
