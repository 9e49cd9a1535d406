//! From octets that were written to what is in force at one peer.
//!
//! The driver says which generation lies complete before which octet of the session's stream, how many octets are written
//! and how many the peer's TCP has acknowledged; what the peer answered; which prefix came back or was answered. Each way
//! of confirming is a rule for when a mark is *evident* ([`Confirmer::evident`]); after that `settle` passes, then the
//! generation is confirmed.
//!
//! `reflect` and `probe` show prefixes one by one and in any order, so these are confirmed one by one too ([`Held`]); a generation
//! as a whole follows when none of its prefixes is waited for any more. They also show what a router has taken back
//! ([`Confirmer::lost`]): the observer says so, and probes look at each route again in turn ([`recheck`]).

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::config::{Confirm, PeerConfig};
use crate::table::classes::{Extra, PLAIN};
use crate::table::{Batch, Replay, Stamp, index};
use crate::wire::capability::Negotiated;
use crate::wire::iana::Family;

use self::awaited::{Announced, Awaited, Ended};
use self::closing::Closing;
use self::recheck::Recheck;
use self::refresh::{Ask, Barrier};

pub mod awaited;
pub mod closing;
pub mod learn;
pub mod recheck;
pub mod refresh;

/// Most marks kept; when there are more, the newest replaces the last, so a slow peer confirms in larger steps.
const MARKS: usize = 1024;
/// An address of the session's first table that somebody waits for is probed quickly for so long, or for the patience where that is longer.
const HURRY: Duration = Duration::from_secs(1);
/// Between two announcements of what the router took back, at first and at last.
const AGAIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// Between two announcements of one of these that somebody waits for.
const AGAIN_SOON: Duration = Duration::from_secs(1);
/// With so many routes, all of them lost are one thing.
const SEVERAL: usize = 3;
/// Most new addresses in one go that are probed before they are announced.
const LOOKS: usize = 64;
/// So long after a session came up the router may still have a path of the session before.
const STALE: Duration = Duration::from_secs(10);
/// Most such addresses remembered before they are announced; others wait for their turn.
const EARLY: usize = 4096;

#[derive(Clone, Copy, Debug)]
struct Mark {
    stamp: Stamp,
    /// The newest generation of the mark before it.
    before: Option<u64>,
    /// All of the generation lies before this octet of the stream.
    offset: u64,
    /// The last UPDATE of each family before it lies before this octet.
    touched: [u64; 2],
    /// The newest prefix of it that is waited for.
    number: u64,
}

/// What became confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// This generation and all before it.
    pub generation: u64,
    /// From its being put into the table; `None` for a table that was there before the session.
    pub latency: Option<Duration>,
}

/// One host route that is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Address of the host route.
    pub address: IpAddr,
    /// As the table had it at this generation: a later withdrawal or announcement is not meant.
    pub generation: u64,
    /// From its being announced; `None` if it is part of the table that was there before the session.
    pub latency: Option<Duration>,
}

/// A prefix that was not confirmed in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unconfirmed {
    /// Prefix that was not confirmed in time.
    pub net: IpNet,
    /// As in [`Held::generation`].
    pub generation: u64,
    /// Waited so long.
    pub waited: Duration,
}

/// What works worse than configured, in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The line itself, as `peers` and the log show it.
    pub text: String,
    /// Nothing is confirmed, or nothing of what was announced lately.
    pub is_failing: bool,
}

impl Warning {
    /// Of something that goes on working.
    #[must_use]
    pub fn of(text: String) -> Self {
        Self { text, is_failing: false }
    }

    /// Of something that doesn't work.
    #[must_use]
    pub fn failing(text: String) -> Self {
        Self { text, is_failing: true }
    }
}

/// What the observer has heard, for a peer that has one.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    /// Its newest word.
    pub word: u64,
    /// Whether the router sends it this prefix now.
    pub has: &'a dyn Fn(IpNet) -> bool,
    /// What it bears, when it is another guard's path.
    pub another: &'a dyn Fn(IpNet) -> Option<Arc<Extra>>,
    /// What announced routes of a class bear.
    pub bears: &'a dyn Fn(u16) -> Option<Arc<Extra>>,
}

/// One session's confirmations. See the module.
#[derive(Debug)]
pub struct Confirmer {
    rule: Confirm,
    settle: Duration,
    patience: Duration,
    /// Acknowledgements may stand in for a rule that can't be applied.
    stand_in: bool,
    marks: VecDeque<Mark>,
    settling: VecDeque<(Instant, Stamp)>,
    /// Prefixes one by one, and whether each was lost before. As many as there are routes, and more only where one is announced again within
    /// `settle`.
    held: VecDeque<(Instant, Held, bool)>,
    newest: Option<u64>,
    /// The table's generation when something was last taken from it.
    taken: u64,
    confirmed: Option<u64>,
    first: bool,
    written: u64,
    acked: u64,
    touched: [u64; 2],
    barrier: Option<Barrier>,
    awaited: Awaited,
    /// Addresses that somebody waits for until then and that were not announced on this session yet. Bounded by [`EARLY`].
    early: HashMap<IpNet, Instant>,
    closing: Closing,
    /// Prefixes that the router took back unasked, until [`Self::lost`] is asked for them.
    taken_back: BTreeSet<IpNet>,
    /// Those of which [`Self::lost`] told, until the router has them again, and when each was last to be sent again. At most as many
    /// as there are routes.
    lacking: HashMap<IpNet, Option<Instant>>,
    /// The newest of them.
    last_lacking: Option<IpNet>,
    /// When these are to be sent again, and how long after that.
    again: Option<Instant>,
    again_after: Duration,
    /// Some of them are to be sent before that.
    sooner: Vec<IpNet>,
    /// In force by another guard's path, as far as can be told: these go when that one goes, whether ours was taken or not. At most as many as
    /// there are routes.
    borrowed: HashSet<IpNet>,
    /// New addresses of which it is to be looked whether the router forwards to them already.
    looks: Vec<IpAddr>,
    /// Per family; for [`Confirm::Probe`].
    recheck: [Recheck; 2],
    /// What is seen earlier may be left from the session before.
    clean: Instant,
    unavailable: bool,
}

impl Confirmer {
    /// For a session that just came up; `settle` is `peer.settle` unless something was learnt. `lost`: when the session before it ended.
    #[must_use]
    pub fn new(
        peer: &PeerConfig,
        negotiated: &Negotiated,
        settle: Duration,
        lost: Option<Instant>,
        now: Instant,
    ) -> Self {
        let mut confirmer = Self::plain(peer.confirm, settle, now);
        confirmer.patience = peer.patience;
        confirmer.stand_in = !peer.learn && !peer.settle.is_zero();
        confirmer.clean = lost.map_or(now, |lost| lost + closing::OLD_ROUTE).max(now);
        if peer.confirm == Confirm::Refresh {
            let (refresh, enhanced) = (negotiated.route_refresh, negotiated.enhanced_route_refresh);
            let barrier = Barrier::new(negotiated.families, refresh, enhanced, now);
            let says_whole = negotiated.graceful_restart.is_some();
            confirmer.barrier = Some(if says_whole { barrier.after_its_table() } else { barrier });
        }
        confirmer
    }

    /// With what every rule has.
    #[must_use]
    pub fn plain(rule: Confirm, settle: Duration, now: Instant) -> Self {
        Self {
            rule,
            settle,
            patience: Duration::from_millis(800),
            stand_in: false,
            marks: VecDeque::new(),
            settling: VecDeque::new(),
            held: VecDeque::new(),
            newest: None,
            taken: 0,
            confirmed: None,
            first: true,
            written: 0,
            acked: 0,
            touched: [0; 2],
            barrier: None,
            awaited: Awaited::new(),
            early: HashMap::new(),
            closing: Closing::default(),
            taken_back: BTreeSet::new(),
            lacking: HashMap::new(),
            last_lacking: None,
            again: None,
            again_after: AGAIN.0,
            sooner: Vec::new(),
            borrowed: HashSet::new(),
            looks: Vec::new(),
            recheck: [Recheck::new(None, now), Recheck::new(None, now)],
            clean: now,
            unavailable: false,
        }
    }

    /// Where routes of each family lead to.
    #[must_use]
    pub fn leading_to(mut self, hops: [Option<IpAddr>; 2], now: Instant) -> Self {
        self.recheck = hops.map(|hop| Recheck::new(hop, now));
        self
    }

    fn recheck(&mut self, address: IpAddr) -> &mut Recheck {
        let [four, six] = &mut self.recheck;
        if address.is_ipv4() { four } else { six }
    }

    /// Whether [`Self::batch`] must see each prefix.
    #[must_use]
    pub fn wants_prefixes(&self) -> bool {
        matches!(self.rule, Confirm::Reflect | Confirm::Probe)
    }

    fn probes_each(&self) -> bool {
        self.rule == Confirm::Probe
    }

    /// Waited after what becomes evident from now on.
    pub fn set_settle(&mut self, settle: Duration) {
        self.settle = settle;
    }

    /// For prefixes that are announced from now on.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
        if let Some(barrier) = &mut self.barrier {
            barrier.expect_within(patience);
        }
    }

    /// What is waited now.
    #[must_use]
    pub fn settle(&self) -> Duration {
        self.settle
    }

    /// What is to be withdrawn before this batch is announced. A router whose BGP still has a route that its kernel has lost takes no notice of the
    /// same once more.
    #[must_use]
    pub fn anew(&self, batch: &Batch) -> Option<Batch> {
        if !self.probes_each() || self.lacking.is_empty() || batch.replay.is_some() {
            return None;
        }
        let lacks = |net: IpNet| self.lacking.contains_key(&net);
        let withdraw4: Vec<_> = batch.announce4.iter().copied().filter(|net| lacks(IpNet::V4(*net))).collect();
        let withdraw6: Vec<_> = batch.announce6.iter().copied().filter(|net| lacks(IpNet::V6(*net))).collect();
        let any = !withdraw4.is_empty() || !withdraw6.is_empty();
        any.then(|| Batch { withdraw4, withdraw6, ..Batch::default() })
    }

    /// This batch was taken out of the table when that was at `generation`, and is encoded before octet `offset`.
    pub fn batch(&mut self, batch: &Batch, generation: u64, offset: u64, seen: Option<Seen<'_>>, now: Instant) {
        let coded = batch.encoded.is_some();
        if coded || !batch.withdraw4.is_empty() || !batch.announce4.is_empty() {
            self.touched[index(Family::Ipv4)] = offset;
        }
        if coded || !batch.withdraw6.is_empty() || !batch.announce6.is_empty() {
            self.touched[index(Family::Ipv6)] = offset;
        }
        self.taken = self.taken.max(generation);
        if !self.wants_prefixes() {
            return;
        }
        let withdrawn = batch.withdraw4.iter().map(|net| IpNet::V4(*net));
        for net in withdrawn.chain(batch.withdraw6.iter().map(|net| IpNet::V6(*net))) {
            self.awaited.forget(net);
            self.recheck(net.addr()).forget(net.addr());
            self.taken_back.remove(&net);
            self.lacking.remove(&net);
            // Of a path that isn't the router's best nobody hears that it goes.
            let unseen = self.borrowed.remove(&net) || seen.is_some_and(|seen| (seen.another)(net).is_some());
            self.closing.withdrawn(net, seen.filter(|_| !unseen).map(|seen| seen.word), now);
        }
        // The router asked to hear everything again: what was confirmed is, and what is waited for is already.
        if batch.replay == Some(Replay::Refresh) {
            return;
        }
        let replayed = batch.replay.is_some();
        let plain = std::iter::repeat(PLAIN);
        let four =
            batch.announce4.iter().map(|net| IpNet::V4(*net)).zip(batch.classes4.iter().copied().chain(plain.clone()));
        let six = batch.announce6.iter().map(|net| IpNet::V6(*net)).zip(batch.classes6.iter().copied().chain(plain));
        for (net, class) in four.chain(six) {
            // The operator's own prefixes have no address that could be asked for all of it.
            if self.probes_each() && net.prefix_len() != net.max_prefix_len() {
                continue;
            }
            let old = self.closing.old_until(net).filter(|_| self.probes_each());
            if self.probes_each() && !replayed && old.is_none() && now >= self.clean && self.looks.len() < LOOKS {
                self.looks.push(net.addr());
            }
            let wants = seen.filter(|_| class != PLAIN).and_then(|seen| (seen.bears)(class));
            if self.is_anothers(net, wants.as_deref(), replayed, seen, now) {
                let mut announced = Announced::at(generation, now);
                (announced.replayed, announced.wants) = (replayed, wants);
                self.awaited.announce(net, announced, now);
                self.borrow(net, now);
                continue;
            }
            let has = seen.is_some_and(|seen| (seen.has)(net));
            let again = has || self.awaited.has(net);
            let announced = Announced {
                generation,
                after: seen.map_or(0, |seen| seen.word),
                not_before: old.unwrap_or(now).max(self.clean),
                patience: self.patience,
                // It was in force, and stays announced whether the router takes it again or not.
                replayed: replayed || self.lacking.contains_key(&net),
                quiet: has || self.closing.owes(net),
                shows: wants.clone().filter(|_| again),
                wants,
            };
            if self.probes_each() {
                self.recheck(net.addr()).forget(net.addr());
            }
            if self.lacking.contains_key(&net) {
                self.awaited.announce_again(net, announced, now);
            } else {
                self.awaited.announce(net, announced, now);
            }
            if let Some(until) = self.early.remove(&net).filter(|until| *until > now) {
                self.awaited.hurry(net, until, now);
            }
        }
    }

    /// Whether the router had this prefix, with these communities, from another guard before we announced it, and so forwards to it.
    fn is_anothers(
        &self,
        net: IpNet,
        wants: Option<&Extra>,
        replayed: bool,
        seen: Option<Seen<'_>>,
        now: Instant,
    ) -> bool {
        let Some(seen) = seen.filter(|seen| (seen.has)(net) && self.rule == Confirm::Reflect) else { return false };
        // Where no mark tells it: nothing of ours can be left of it by now.
        let untold = wants.is_none()
            && !replayed
            && !self.closing.owes(net)
            && !self.lacking.contains_key(&net)
            && !self.awaited.has(net);
        match (seen.another)(net) {
            Some(bears) => wants.is_none_or(|wants| bears.covers(wants)),
            None => untold && now >= self.clean + STALE,
        }
    }

    /// It is in force by another guard's path.
    fn borrow(&mut self, net: IpNet, now: Instant) {
        self.borrowed.insert(net);
        if let Some(ended) = self.awaited.arrived(net, u64::MAX, now) {
            self.hold(ended, now);
        }
    }

    /// The router sends another guard's path for this prefix: it forwards to it, and what it had of ours isn't what it uses. The end of a withdrawal
    /// of ours, if that was owed.
    pub fn reflected_another(&mut self, net: IpNet, bears: &Extra, now: Instant) {
        self.taken_back.remove(&net);
        self.closing.settled(net);
        if self.awaited.has(net) && self.awaited.wanted(net, bears) {
            self.borrow(net, now);
        }
    }

    /// Addresses that were just announced: to be probed before the router hears of it.
    pub fn looks(&mut self) -> Vec<IpAddr> {
        std::mem::take(&mut self.looks)
    }

    /// The router forwarded to this address before we announced it.
    pub fn forwarded_before(&mut self, address: IpAddr, now: Instant) {
        let net = IpNet::from(address);
        if self.probes_each() && self.awaited.has(net) {
            self.borrowed.insert(net);
            self.recheck(address).borrowed(address);
            self.forwarded(address, now);
        }
    }

    /// Routes that are in force by another guard's path.
    #[must_use]
    pub fn borrowed(&self) -> usize {
        self.borrowed.len()
    }

    /// Everything up to `stamp.generation` is encoded before octet `offset` of the stream. Repeating a generation does nothing.
    pub fn encoded(&mut self, stamp: Stamp, offset: u64) {
        if self.newest.is_some_and(|newest| stamp.generation <= newest) {
            return;
        }
        let mark = Mark { stamp, before: self.newest, offset, touched: self.touched, number: self.awaited.newest() };
        self.newest = Some(stamp.generation);
        self.taken = self.taken.max(stamp.generation);
        self.early.clear();
        if self.marks.len() >= MARKS
            && let Some(last) = self.marks.pop_back()
        {
            self.marks.push_back(Mark { before: last.before, ..mark });
        } else {
            self.marks.push_back(mark);
        }
        if let Some(barrier) = &mut self.barrier {
            // At least once, though there be nothing to confirm yet: whether it can be is known before somebody waits for it.
            barrier.want(self.touched.map(|end| end.max(1)));
        }
    }

    /// `written` octets of the stream are handed to the kernel, `acked` of them acknowledged by the peer's TCP.
    pub fn progress(&mut self, written: u64, acked: u64, now: Instant) {
        self.written = self.written.max(written);
        self.acked = self.acked.max(acked);
        while let Some(mark) = self.marks.front().copied().filter(|mark| self.evident(mark)) {
            self.marks.pop_front();
            push_bounded(&mut self.settling, (now + self.settle, mark.stamp));
        }
    }

    fn evident(&self, mark: &Mark) -> bool {
        match (self.rule, &self.barrier) {
            (Confirm::Sent, _) => self.written >= mark.offset,
            (Confirm::Refresh, Some(barrier)) if barrier.refused().is_none() => {
                self.written >= mark.offset && barrier.echoed(mark.touched)
            }
            (Confirm::Refresh, _) => self.stand_in && self.acked >= mark.offset,
            (Confirm::Acked, _) => self.acked >= mark.offset,
            (Confirm::Reflect | Confirm::Probe, _) => self.written >= mark.offset && self.awaited.passed(mark.number),
        }
    }

    /// Whether an acknowledgement is waited for: the driver should look at the socket soon.
    #[must_use]
    pub fn wants_acks(&self) -> bool {
        let by_acks = self.rule == Confirm::Acked || (self.stand_in && self.refused().is_some());
        by_acks && self.marks.front().is_some_and(|mark| self.written >= mark.offset)
    }

    /// Why the configured rule can't be applied.
    #[must_use]
    pub fn refused(&self) -> Option<&str> {
        self.barrier.as_ref().and_then(Barrier::refused)
    }

    /// Nothing can be confirmed as things are; said once, and again after it could be for a while.
    pub fn became_unavailable(&mut self) -> Option<String> {
        let refused = self.refused().filter(|_| !self.stand_in).map(|why| format!("nothing is confirmed: {why}"));
        if refused.is_some() == self.unavailable {
            return None;
        }
        self.unavailable = refused.is_some();
        if refused.is_some() {
            // Whoever heard of earlier generations is to forget them.
            self.settling.clear();
            self.confirmed = None;
        } else if self.marks.is_empty()
            && let Some(generation) = self.newest
        {
            let stamp = Stamp { generation, at: None };
            self.marks.push_back(Mark { stamp, before: None, offset: 0, touched: self.touched, number: 0 });
        }
        refused
    }

    /// What an operator should know.
    #[must_use]
    pub fn warning(&self) -> Option<Warning> {
        if let Some((count, net)) = self.closing.overdue() {
            return Some(Warning::of(format!(
                "withdrawn but not closed: the router still sends back {count} withdrawn routes, {net} the last"
            )));
        }
        let barrier = self.barrier.as_ref()?;
        match barrier.refused() {
            Some(why) if self.stand_in => {
                let settle = self.settle.as_millis();
                Some(Warning::of(format!(
                    "confirm = \"refresh\" is not possible, \"acked\" and settle = {settle}ms stand in: {why}"
                )))
            }
            Some(why) => Some(Warning::failing(format!("nothing is confirmed: {why}"))),
            None if barrier.slow().is_some() && !barrier.is_silent() => {
                let took = barrier.slow().unwrap_or_default().as_millis();
                Some(Warning::failing(format!(
                    "the router answers a ROUTE-REFRESH (EoRR) after {took} ms only, and answers are given up before: FRR sends it with its next \
                     KEEPALIVE unless it exports a prefix to the guard (a beacon, as router-config writes it); or raise gate.deadline"
                )))
            }
            None if barrier.is_silent() => {
                Some(Warning::failing(
                    "the router doesn't answer ROUTE-REFRESH; nothing is confirmed (FRR answers in time when it exports a beacon, as \
                     router-config writes it)"
                        .to_owned(),
                ))
            }
            None => None,
        }
    }

    /// The request that is due, if all of the stream before octet `end` goes before it.
    pub fn ask(&mut self, now: Instant, end: u64) -> Option<Ask> {
        self.barrier.as_mut()?.poll(now, end)
    }

    /// For what the peer says of its own routes.
    pub fn barrier(&mut self) -> Option<&mut Barrier> {
        self.barrier.as_mut()
    }

    /// The router sent this prefix back, with these communities, or took it back (`None`), as the observer's word of this number. From our
    /// withdrawal to the router's, where that is the last that was owed.
    pub fn reflected(&mut self, net: IpNet, bears: Option<&Extra>, word: u64, now: Instant) -> Option<Duration> {
        let Some(bears) = bears else {
            self.missed(net);
            return self.closing.seen(net, word, now);
        };
        self.taken_back.remove(&net);
        self.borrowed.remove(&net);
        if self.closing.owes(net) || now < self.clean || !self.awaited.shown(net, bears) {
            self.awaited.doubtful(net, now);
        } else if let Some(ended) = self.awaited.arrived(net, word, now) {
            self.hold(ended, now);
        }
        None
    }

    /// The router doesn't send this prefix, which is announced, as far as the observer has heard. What is waited for anyway, and word that may be on
    /// a withdrawal of ours, says nothing new.
    pub fn missed(&mut self, net: IpNet) {
        if self.rule == Confirm::Reflect
            && !self.closing.owes(net)
            && !self.awaited.has(net)
            && !self.lacking.contains_key(&net)
        {
            self.taken_back.insert(net);
        }
    }

    /// Prefixes that the router has taken back although they are `announced`: nothing that was said of them counts until they are held again.
    pub fn lost(&mut self, announced: impl Fn(IpNet) -> bool) -> Vec<IpNet> {
        for recheck in &mut self.recheck {
            self.taken_back.extend(recheck.lost().into_iter().map(IpNet::from));
        }
        let lost: Vec<IpNet> = std::mem::take(&mut self.taken_back).into_iter().filter(|net| announced(*net)).collect();
        if let Some(last) = lost.last() {
            self.last_lacking = Some(*last);
            self.lacking.extend(lost.iter().map(|net| (*net, None)));
            self.borrowed.retain(|net| !lost.contains(net));
            self.sooner.extend(&lost);
            self.again_after = AGAIN.0;
            let lacking = &self.lacking;
            self.held.retain(|(_, held, _)| !lacking.contains_key(&IpNet::from(held.address)));
        }
        lost
    }

    /// Prefixes that the router has taken back and doesn't have again yet, one of them, and whether it has none of ours at all (`none`: the observer
    /// has none): that is one thing, with one cause.
    #[must_use]
    pub fn lacking(&self, none: bool) -> Option<(usize, IpNet, bool)> {
        let count = self.lacking.len();
        let none = if self.probes_each() { self.recheck.iter().all(Recheck::is_empty) } else { none };
        self.last_lacking.filter(|_| count > 0).map(|last| (count, last, none && count >= SEVERAL))
    }

    /// For how long the router has answered no probe, although it answered some before.
    #[must_use]
    pub fn silent(&self, now: Instant) -> Option<Duration> {
        self.recheck.iter().filter_map(|recheck| recheck.silent(now)).max()
    }

    /// What was opened after this generation was not sent yet.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// What the router took back is to be sent to it now: at once, and every few seconds until it has it, less and less often.
    pub fn send_again(&mut self, now: Instant) -> Vec<IpNet> {
        if self.lacking.is_empty() {
            (self.again, self.again_after) = (None, AGAIN.0);
            self.sooner.clear();
            return Vec::new();
        }
        if self.again.is_some_and(|at| at <= now) {
            self.again = Some(now + self.again_after);
            self.again_after = (self.again_after * 2).min(AGAIN.1);
            self.sooner.clear();
            return self.lacking.iter_mut().map(|(net, sent)| (*net, *sent = Some(now)).0).collect();
        }
        let mut due = std::mem::take(&mut self.sooner);
        due.retain(|net| self.lacking.get_mut(net).map(|sent| *sent = Some(now)).is_some());
        if !due.is_empty() {
            self.again = self.again.or(Some(now + self.again_after));
        }
        due
    }

    /// The router forwards to this address. Returns whether it was waited for.
    pub fn forwarded(&mut self, address: IpAddr, now: Instant) -> bool {
        self.recheck(address).answered(address, now);
        let ended = self.awaited.arrived(IpNet::from(address), u64::MAX, now);
        ended.map(|ended| self.hold(ended, now)).is_some()
    }

    fn hold(&mut self, ended: Ended, now: Instant) {
        self.closing.settled(ended.net);
        let again = self.lacking.remove(&ended.net).is_some();
        if self.probes_each() {
            self.recheck(ended.net.addr()).note_in_force(ended.net.addr(), now);
        }
        if ended.net.prefix_len() == ended.net.max_prefix_len() {
            let settle = self.settle;
            let latency = (!ended.replayed).then(|| ended.waited + settle);
            let held = Held { address: ended.net.addr(), generation: ended.generation, latency };
            self.held.push_back((now + settle, held, again));
        }
    }

    /// Answers with this address came then: they wait for it, or it is about to be used again.
    pub fn hurry(&mut self, address: IpAddr, since: Instant, now: Instant) {
        let until = since + HURRY.max(self.patience);
        let net = IpNet::from(address);
        if until <= now || !self.wants_prefixes() {
            return;
        }
        if let Some(sent) = self.lacking.get(&net)
            && sent.is_none_or(|sent| sent + AGAIN_SOON <= now)
        {
            self.sooner.push(net);
        }
        if !self.probes_each() {
            return;
        }
        self.recheck(address).soon(address, now);
        // While the session is still being given its table, it may be further on in that.
        if !self.awaited.hurry(net, until, now) && self.newest.is_none() && self.early.len() < EARLY {
            self.early.insert(net, until);
        }
    }

    /// Addresses to probe now.
    pub fn probes(&mut self, now: Instant) -> Vec<IpAddr> {
        if !self.probes_each() {
            return Vec::new();
        }
        let mut due: Vec<IpAddr> = self.awaited.probes(now).into_iter().map(|net| net.addr()).collect();
        self.recheck.iter_mut().for_each(|recheck| due.extend(recheck.probes(now)));
        due
    }

    /// A prefix that took too long; `has`: the observer has it.
    pub fn give_up(&mut self, now: Instant, has: impl Fn(IpNet) -> bool) -> Option<Unconfirmed> {
        self.closing.expire(now, |net| has(net) && !self.awaited.has(net));
        while let Some(ended) = self.awaited.give_up(now, &has) {
            if ended.held {
                self.hold(ended, now);
            } else {
                return Some(Unconfirmed { net: ended.net, generation: ended.generation, waited: ended.waited });
            }
        }
        None
    }

    /// Prefixes of the table that the session started with and that are not confirmed yet, lost ones among them; withdrawals that the observer should
    /// hear of and hasn't.
    #[must_use]
    pub fn outstanding(&self) -> (usize, usize) {
        let closing = if self.probes_each() { 0 } else { self.closing.len() };
        (self.awaited.len().1, closing)
    }

    /// Whether something was sent that is not evident yet.
    #[must_use]
    pub fn lags(&self) -> bool {
        !self.marks.is_empty()
    }

    /// The newest generation that is evident, settled or not.
    #[must_use]
    pub fn evident_up_to(&self) -> Option<u64> {
        match self.marks.front() {
            Some(mark) => mark.before,
            None => self.newest,
        }
    }

    /// The newest generation whose time has come.
    pub fn poll(&mut self, now: Instant) -> Option<Confirmed> {
        let mut confirmed = None;
        while let Some((_, stamp)) = self.settling.front().copied().filter(|(due, _)| *due <= now) {
            self.settling.pop_front();
            let latency = stamp.at.filter(|_| !self.first).map(|at| now.saturating_duration_since(at));
            confirmed = Some(Confirmed { generation: stamp.generation, latency });
            self.confirmed = Some(stamp.generation);
        }
        if confirmed.is_some() {
            self.first = false;
        }
        confirmed
    }

    /// The next single address whose time has come, and whether it says more than what [`Self::poll`] and [`Self::lost`] have said.
    pub fn poll_held(&mut self, now: Instant) -> Option<(Held, bool)> {
        let (_, held, again) = self.held.front().copied().filter(|(due, ..)| *due <= now)?;
        self.held.pop_front();
        Some((held, again || self.confirmed.is_none_or(|confirmed| confirmed < held.generation)))
    }

    /// When [`Self::poll`], [`Self::poll_held`], [`Self::ask`], [`Self::probes`], [`Self::give_up`] or [`Self::send_again`] has something next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let settling = self.settling.front().map(|(due, _)| *due);
        let held = self.held.front().map(|(due, ..)| *due);
        let asking = self.barrier.as_ref().and_then(Barrier::poll_timeout);
        let probing = self.awaited.next_probe().filter(|_| self.probes_each());
        let ends = [self.awaited.next_end(), self.closing.next_end()];
        let rechecks = self.recheck.iter().map(Recheck::poll_timeout);
        [settling, held, asking, probing, self.again].into_iter().chain(ends).chain(rechecks).flatten().min()
    }
}

fn push_bounded<T>(queue: &mut VecDeque<T>, item: T) {
    if queue.len() >= MARKS {
        queue.pop_back();
    }
    queue.push_back(item);
}

#[cfg(test)]
mod tests;
