//! From octets that were written to generations that are in force at one peer.
//!
//! The driver says which generation lies complete before which octet of the session's stream, how many octets are written
//! and how many the peer's TCP has acknowledged; what the peer answered; which prefix came back or was answered. Each way
//! of confirming is a rule for when a mark is *evident* ([`Confirmer::evident`]); after that `settle` passes, then the
//! generation is confirmed.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::config::{Confirm, PeerConfig};
use crate::table::{Batch, Stamp, index};
use crate::wire::capability::Negotiated;
use crate::wire::iana::Family;

use self::awaited::Awaited;
use self::refresh::{Ask, Barrier};

pub mod awaited;
pub mod learn;
pub mod refresh;

/// Most marks kept; when there are more, the newest replaces the last, so a slow peer confirms in larger steps.
const MARKS: usize = 1024;
/// Of a table that is replayed so many prefixes are probed: its newest.
const SAMPLE: usize = 32;
/// Plans that one prefix may belong to when it is given up; of more, the newest.
const REFUSED: u64 = 64;
/// A prefix that the observer had already when it was announced anew may never be sent again by the router; it counts when it
/// is still there after this.
const STALE: Duration = Duration::from_secs(2);

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

/// A prefix that was not confirmed in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unconfirmed {
    /// The prefix.
    pub net: IpNet,
    /// The generations that it may belong to; none if it belongs to the table that was there before the session.
    pub generations: Option<std::ops::RangeInclusive<u64>>,
    /// Waited so long.
    pub waited: Duration,
}

/// One session's confirmations. See the module.
#[derive(Debug)]
pub struct Confirmer {
    rule: Confirm,
    settle: Duration,
    patience: Duration,
    marks: VecDeque<Mark>,
    settling: VecDeque<(Instant, Stamp)>,
    newest: Option<u64>,
    first: bool,
    written: u64,
    acked: u64,
    touched: [u64; 2],
    barrier: Option<Barrier>,
    awaited: Awaited,
    probes: bool,
}

impl Confirmer {
    /// For a session that just came up; `settle` is `peer.settle` unless something was learnt.
    #[must_use]
    pub fn new(peer: &PeerConfig, negotiated: &Negotiated, settle: Duration, now: Instant) -> Self {
        let mut confirmer = Self::plain(peer.confirm, settle);
        confirmer.patience = peer.patience;
        if peer.confirm == Confirm::Refresh {
            let (refresh, enhanced) = (negotiated.route_refresh, negotiated.enhanced_route_refresh);
            confirmer.barrier = Some(Barrier::new(negotiated.families, refresh, enhanced, now));
        }
        confirmer
    }

    /// With what every rule has.
    #[must_use]
    pub fn plain(rule: Confirm, settle: Duration) -> Self {
        Self {
            rule,
            settle,
            patience: Duration::from_millis(800),
            marks: VecDeque::new(),
            settling: VecDeque::new(),
            newest: None,
            first: true,
            written: 0,
            acked: 0,
            touched: [0; 2],
            barrier: None,
            awaited: Awaited::new(rule == Confirm::Probe),
            probes: rule == Confirm::Probe,
        }
    }

    /// Whether [`Self::batch`] must see each prefix.
    #[must_use]
    pub fn wants_prefixes(&self) -> bool {
        matches!(self.rule, Confirm::Reflect | Confirm::Probe)
    }

    /// Waited after what becomes evident from now on.
    pub fn set_settle(&mut self, settle: Duration) {
        self.settle = settle;
    }

    /// What is waited now.
    #[must_use]
    pub fn settle(&self) -> Duration {
        if self.refused().is_some() { self.settle.max(learn::START) } else { self.settle }
    }

    /// This batch is encoded before octet `offset`. `seen` is the observer's newest word, and tells whether it has a prefix.
    pub fn batch(&mut self, batch: &Batch, offset: u64, seen: (u64, &dyn Fn(IpNet) -> bool), now: Instant) {
        let coded = batch.encoded.is_some();
        if coded || !batch.withdraw4.is_empty() || !batch.announce4.is_empty() {
            self.touched[index(Family::Ipv4)] = offset;
        }
        if coded || !batch.withdraw6.is_empty() || !batch.announce6.is_empty() {
            self.touched[index(Family::Ipv6)] = offset;
        }
        if !self.wants_prefixes() {
            return;
        }
        let withdrawn = batch.withdraw4.iter().map(|net| IpNet::V4(*net));
        for net in withdrawn.chain(batch.withdraw6.iter().map(|net| IpNet::V6(*net))) {
            self.awaited.forget(net);
        }
        let announced = batch.announce4.iter().map(|net| IpNet::V4(*net));
        for net in announced.chain(batch.announce6.iter().map(|net| IpNet::V6(*net))) {
            let patience = if seen.1(net) { self.patience.max(STALE) } else { self.patience };
            // The operator's own prefixes have no address that could be asked for all of it.
            if !self.probes || net.prefix_len() == net.max_prefix_len() {
                self.awaited.announce(net, seen.0, patience, now);
            }
        }
        if self.probes && self.newest.is_none() {
            self.awaited.keep_newest(SAMPLE);
        }
    }

    /// Everything up to `stamp.generation` is encoded before octet `offset` of the stream. Repeating a generation does nothing.
    pub fn encoded(&mut self, stamp: Stamp, offset: u64) {
        if self.newest.is_some_and(|newest| stamp.generation <= newest) {
            return;
        }
        let mark = Mark { stamp, before: self.newest, offset, touched: self.touched, number: self.awaited.newest() };
        self.newest = Some(stamp.generation);
        if self.marks.len() >= MARKS
            && let Some(last) = self.marks.pop_back()
        {
            self.marks.push_back(Mark { before: last.before, ..mark });
        } else {
            self.marks.push_back(mark);
        }
        if let Some(barrier) = &mut self.barrier {
            barrier.want(self.touched);
        }
    }

    /// `written` octets of the stream are handed to the kernel, `acked` of them acknowledged by the peer's TCP.
    pub fn progress(&mut self, written: u64, acked: u64, now: Instant) {
        self.written = self.written.max(written);
        self.acked = self.acked.max(acked);
        let settle = self.settle();
        while let Some(mark) = self.marks.front().copied().filter(|mark| self.evident(mark)) {
            self.marks.pop_front();
            push_bounded(&mut self.settling, (now + settle, mark.stamp));
        }
    }

    fn evident(&self, mark: &Mark) -> bool {
        match (self.rule, &self.barrier) {
            (Confirm::Sent, _) => self.written >= mark.offset,
            (Confirm::Refresh, Some(barrier)) if barrier.refused().is_none() => {
                self.written >= mark.offset && barrier.echoed(mark.touched)
            }
            (Confirm::Acked | Confirm::Refresh, _) => self.acked >= mark.offset,
            (Confirm::Reflect | Confirm::Probe, _) => self.written >= mark.offset && self.awaited.passed(mark.number),
        }
    }

    /// Whether an acknowledgement is waited for: the driver should look at the socket soon.
    #[must_use]
    pub fn wants_acks(&self) -> bool {
        let by_acks = self.rule == Confirm::Acked || self.refused().is_some();
        by_acks && self.marks.front().is_some_and(|mark| self.written >= mark.offset)
    }

    /// Why the configured rule can't be applied; acknowledgements and some settle stand in for it.
    #[must_use]
    pub fn refused(&self) -> Option<&str> {
        self.barrier.as_ref().and_then(Barrier::refused)
    }

    /// What an operator should know.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let barrier = self.barrier.as_ref()?;
        match barrier.refused() {
            Some(why) => Some(format!("confirm = \"refresh\" is not possible, \"acked\" stands in: {why}")),
            None if barrier.is_silent() => {
                Some("the router doesn't answer ROUTE-REFRESH; nothing is confirmed".to_owned())
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

    /// The router sent this prefix back, as the observer's word of this number.
    pub fn reflected(&mut self, net: IpNet, word: u64, now: Instant) {
        self.awaited.arrived(net, word, now);
    }

    /// The router forwards to this address.
    pub fn forwarded(&mut self, address: IpAddr, now: Instant) {
        self.awaited.arrived(IpNet::from(address), u64::MAX, now);
    }

    /// Addresses to probe now.
    pub fn probes(&mut self, now: Instant) -> Vec<IpAddr> {
        if !self.probes {
            return Vec::new();
        }
        self.awaited.probes(now).into_iter().map(|net| net.addr()).collect()
    }

    /// A prefix that took too long; `holds`: the observer has it.
    pub fn give_up(&mut self, now: Instant, holds: impl Fn(IpNet) -> bool) -> Option<Unconfirmed> {
        loop {
            let lost = self.awaited.give_up(now)?;
            if holds(lost.net) {
                continue;
            }
            let mark = self.marks.iter().find(|mark| mark.number >= lost.number);
            let (last, before) = match mark {
                Some(mark) => (Some(mark.stamp.generation), mark.before),
                // Part of a generation that is still being sent.
                None => (None, self.newest),
            };
            let generations = match (last, before) {
                (Some(last), Some(before)) => Some(last.saturating_sub(REFUSED).max(before.saturating_add(1))..=last),
                _ => None,
            };
            return Some(Unconfirmed { net: lost.net, generations, waited: lost.waited });
        }
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
        }
        if confirmed.is_some() {
            self.first = false;
        }
        confirmed
    }

    /// When [`Self::poll`], [`Self::ask`], [`Self::probes`] or [`Self::give_up`] has something next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let settling = self.settling.front().map(|(due, _)| *due);
        let asking = self.barrier.as_ref().and_then(Barrier::poll_timeout);
        let probing = self.awaited.next_probe().filter(|_| self.probes);
        [settling, asking, probing, self.awaited.next_end()].into_iter().flatten().min()
    }
}

fn push_bounded<T>(queue: &mut VecDeque<T>, item: T) {
    if queue.len() >= MARKS {
        queue.pop_back();
    }
    queue.push_back(item);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(generation: u64, at: Instant) -> Stamp {
        Stamp { generation, at: Some(at) }
    }

    #[test]
    fn acked_waits_for_the_octets_then_settles() {
        let start = Instant::now();
        let settle = Duration::from_millis(75);
        let mut confirmer = Confirmer::plain(Confirm::Acked, settle);
        confirmer.encoded(stamp(3, start), 100);
        confirmer.encoded(stamp(4, start), 200);
        confirmer.progress(200, 99, start);
        assert!(confirmer.wants_acks());
        assert_eq!(confirmer.poll_timeout(), None);
        let acked = start + Duration::from_millis(1);
        confirmer.progress(200, 100, acked);
        assert_eq!(confirmer.poll(acked), None);
        assert_eq!(confirmer.poll_timeout(), Some(acked + settle));
        assert_eq!(confirmer.poll(acked + settle).map(|c| c.generation), Some(3));
        confirmer.progress(200, 200, acked + settle);
        assert!(!confirmer.wants_acks());
        let confirmed = confirmer.poll(acked + settle * 2).unwrap();
        assert_eq!(confirmed, Confirmed { generation: 4, latency: Some(Duration::from_millis(151)) });
    }

    #[test]
    fn sent_needs_no_acknowledgement_and_reports_the_newest_only() {
        let now = Instant::now();
        let mut confirmer = Confirmer::plain(Confirm::Sent, Duration::ZERO);
        for generation in 0..10_000 {
            confirmer.encoded(stamp(generation, now), generation);
        }
        assert!(confirmer.marks.len() <= MARKS);
        confirmer.progress(10_000, 0, now);
        assert_eq!(confirmer.poll(now).map(|c| c.generation), Some(9_999));
        assert_eq!(confirmer.poll(now), None);
    }

    fn hosts(count: u8) -> Batch {
        let announce4 = (0..count).map(|n| ipnet::Ipv4Net::from(std::net::Ipv4Addr::new(203, 0, 113, n))).collect();
        Batch { announce4, ..Batch::default() }
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([203, 0, 113, last])
    }

    const UNSEEN: (u64, &dyn Fn(IpNet) -> bool) = (0, &|_| false);

    #[test]
    fn refresh_is_evident_by_the_echo_alone() {
        use crate::wire::iana::Families;
        let now = Instant::now();
        let mut confirmer = Confirmer::plain(Confirm::Refresh, Duration::ZERO);
        confirmer.barrier = Some(Barrier::new(Families::ALL, true, true, now));
        confirmer.batch(&hosts(1), 100, UNSEEN, now);
        confirmer.encoded(stamp(1, now), 100);
        confirmer.progress(100, 100, now);
        assert!(!confirmer.wants_acks());
        assert_eq!(confirmer.poll(now), None, "acknowledged is not processed");
        assert_eq!(confirmer.ask(now, 100), Some(Ask::Refresh(Family::Ipv4)));
        confirmer.batch(&hosts(2), 200, UNSEEN, now);
        confirmer.encoded(stamp(2, now), 200);
        let barrier = confirmer.barrier().unwrap();
        barrier.begin(Family::Ipv4);
        barrier.end(Family::Ipv4);
        confirmer.progress(200, 200, now);
        assert_eq!(confirmer.poll(now).map(|c| c.generation), Some(1));
        // A generation that changes nothing there needs no echo of its own, but the one before does.
        confirmer.encoded(stamp(3, now), 200);
        confirmer.progress(200, 200, now);
        assert_eq!(confirmer.poll(now), None);
        // A full table from the router: the rule is given up, with a warning and some settle.
        let many: Vec<IpNet> = (0..32).map(|n| IpNet::from(address(n))).collect();
        confirmer.barrier().unwrap().announced(&many);
        assert!(confirmer.warning().is_some_and(|text| text.contains("exports more than")));
        confirmer.progress(200, 200, now);
        assert_eq!(confirmer.poll_timeout(), Some(now + learn::START));
    }

    #[test]
    fn reflect_waits_for_each_prefix_and_gives_up_the_generation_of_one_that_never_comes() {
        let start = Instant::now();
        let mut confirmer = Confirmer::plain(Confirm::Reflect, Duration::ZERO);
        confirmer.encoded(stamp(0, start), 0);
        confirmer.batch(&hosts(3), 100, (5, &|_| false), start);
        confirmer.encoded(stamp(7, start), 100);
        confirmer.progress(100, 100, start);
        assert_eq!(confirmer.poll(start).map(|c| c.generation), Some(0));
        confirmer.reflected(IpNet::from(address(0)), 5, start);
        confirmer.reflected(IpNet::from(address(1)), 6, start);
        confirmer.reflected(IpNet::from(address(2)), 7, start);
        confirmer.progress(100, 100, start);
        assert_eq!(confirmer.poll(start), None, "the word on the first is older than its announcement");
        let end = confirmer.poll_timeout().unwrap();
        assert_eq!(end, start + Duration::from_millis(800));
        assert_eq!(confirmer.give_up(start, |_| false), None);
        let lost = confirmer.give_up(end, |_| false).unwrap();
        assert_eq!((lost.net, lost.generations), (IpNet::from(address(0)), Some(1..=7)));
        confirmer.progress(100, 100, end);
        assert_eq!(confirmer.poll(end).map(|c| c.generation), Some(7));
    }

    #[test]
    fn what_the_observer_has_already_counts_after_a_while() {
        let start = Instant::now();
        let mut confirmer = Confirmer::plain(Confirm::Reflect, Duration::ZERO);
        confirmer.batch(&hosts(1), 100, (5, &|_| true), start);
        confirmer.encoded(stamp(1, start), 100);
        assert_eq!(confirmer.poll_timeout(), Some(start + STALE));
        assert_eq!(confirmer.give_up(start + STALE, |_| true), None);
        confirmer.progress(100, 100, start + STALE);
        assert_eq!(confirmer.poll(start + STALE).map(|c| c.generation), Some(1));
    }

    #[test]
    fn probe_asks_until_answered_and_a_withdrawal_ends_it() {
        let start = Instant::now();
        let mut confirmer = Confirmer::plain(Confirm::Probe, Duration::ZERO);
        confirmer.encoded(stamp(0, start), 0);
        confirmer.batch(&hosts(2), 100, UNSEEN, start);
        confirmer.encoded(stamp(1, start), 100);
        confirmer.progress(100, 0, start);
        confirmer.poll(start);
        assert_eq!(confirmer.probes(start), [address(0), address(1)]);
        let next = confirmer.poll_timeout().unwrap();
        assert_eq!(confirmer.probes(next), [address(0), address(1)]);
        confirmer.forwarded(address(1), next);
        confirmer.progress(100, 0, next);
        assert_eq!(confirmer.poll(next), None);
        let withdraw4 = vec!["203.0.113.0/32".parse().unwrap()];
        confirmer.batch(&Batch { withdraw4, ..Batch::default() }, 200, UNSEEN, next);
        confirmer.progress(200, 0, next);
        assert_eq!(confirmer.poll(next).map(|c| c.generation), Some(1));
        assert_eq!(confirmer.poll_timeout(), None);
    }
}
