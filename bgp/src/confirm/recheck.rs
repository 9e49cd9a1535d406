//! Routes that were seen in force are looked at again, in turn, by probes through the router.
//!
//! A probe without answer proves nothing: packets get lost, and routers answer only so many. What wasn't answered is *doubted* and asked for again in
//! *rounds*: a few doubted addresses, and behind them one whose answer is sure (the *control*: the next hop, else a route that was answered
//! lately). A round whose control answers counts as a miss for each of its addresses that doesn't, since the router would have had an
//! answer left for it; a round whose control stays silent counts for nothing. After enough misses the route is lost. So no loss and no limit of the
//! router makes a route of ours flap, and where the router answers nothing any more that is said as one thing ([`Recheck::silent`]).
//!
//! The rate follows what the router answers: it is halved when a probe got lost that should not have, and grows slowly.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Every route is looked at once in this time, where the router's answers and [`MOST`] let it.
const TURN: Duration = Duration::from_secs(30);
/// Most probes a second: 100,000 routes in 59 s.
pub const MOST: f64 = 1700.0;
/// Least probes a second.
const LEAST: f64 = 0.25;
/// Probes a second at first.
const FIRST: f64 = 16.0;
/// Most probes that a pause is made up for by.
const BURST: f64 = 32.0;
/// An answer that comes later counts as none.
const WAIT: Duration = Duration::from_millis(500);
/// What is answered before the control is, but comes behind it, comes within this.
const BEHIND: Duration = Duration::from_millis(20);
/// Between two rounds with the same address, so that no moment counts twice.
const APART: Duration = Duration::from_millis(100);
/// Most addresses of a round.
const ROUND: usize = 32;
/// With so many in doubt nothing else is looked at.
const DOUBTS: usize = 1024;
/// Longest time between rounds that aren't answered.
const PATIENT: Duration = Duration::from_secs(2);
/// The router answers nothing for so long: that is said.
const SILENT: Duration = Duration::from_secs(5);
/// The rate is halved at most so often, and raised when nothing got lost for so long.
const HALVED: Duration = Duration::from_secs(2);
const RAISED: Duration = Duration::from_secs(60);
/// Most addresses that are looked at out of their turn.
const SOON: usize = 1024;
/// Addresses that another guard's path holds are looked at in turn, so many of them in this time: they tell when that one goes.
const CANARY: Duration = Duration::from_secs(1);
const CANARIES: usize = 4;
/// An address that was looked at within this isn't looked at out of its turn.
const LATELY: Duration = Duration::from_secs(5);
/// Between two attempts to learn whether the next hop can be the control.
const LEARN: Duration = Duration::from_secs(30);
/// Share of probes that get lost, before anything is known.
const UNKNOWN: f64 = 0.1;
/// A route is taken for lost at most so often by bad luck.
const ERROR: f64 = 1e-7;

#[derive(Clone, Copy, Debug)]
struct Entry {
    address: IpAddr,
    /// Seconds since the start when it was last answered.
    seen: u32,
}

#[derive(Clone, Copy, Debug)]
struct Doubt {
    misses: u32,
    not_before: Instant,
}

#[derive(Clone, Debug)]
struct Round {
    begun: Instant,
    until: Instant,
    control: Option<IpAddr>,
    /// The control is the next hop, which no lost route takes along.
    sure: bool,
    answered: bool,
    asked: Vec<IpAddr>,
}

/// The routes of one family at one router, in one session.
#[derive(Debug)]
pub struct Recheck {
    start: Instant,
    /// Those before `next` were looked at in this turn.
    ring: Vec<Entry>,
    places: HashMap<IpAddr, usize>,
    next: usize,
    soon: VecDeque<IpAddr>,
    /// In force by another guard's path, as far as can be told; and when some of them are to be looked at.
    borrowed: VecDeque<IpAddr>,
    canary: Instant,
    /// Asked for once, without answer yet.
    flying: HashSet<IpAddr>,
    ends: VecDeque<(Instant, IpAddr)>,
    doubted: HashMap<IpAddr, Doubt>,
    line: VecDeque<IpAddr>,
    round: Option<Round>,
    next_round: Instant,
    lost: Vec<IpAddr>,
    hop: Option<IpAddr>,
    /// The next hop was answered in this session.
    proven: bool,
    next_hop: Instant,
    /// Answered lately, the newest last.
    good: VecDeque<IpAddr>,
    /// Rounds without answer in a row, and the first of them.
    silent: (u32, Option<Instant>),
    /// Share of the probes for what is there that got lost.
    loss: f64,
    pace: Pace,
}

#[derive(Debug)]
struct Pace {
    rate: f64,
    /// What the router was seen to bear.
    ceiling: f64,
    tokens: f64,
    at: Instant,
    stepped: Instant,
    halved: Option<Instant>,
    raised: Instant,
    /// So many more are looked at as fast as can be: one was lost, so others may be.
    hunted: usize,
}

impl Pace {
    fn pass(&mut self, routes: usize, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.tokens = (self.tokens + self.rate * passed).min(BURST);
        while self.stepped + Duration::from_secs(1) <= now {
            // After a long pause the last second is enough.
            self.stepped = (self.stepped + Duration::from_secs(1)).max(now - Duration::from_secs(2));
            self.rate *= 1.5;
        }
        if self.halved.is_some() && self.raised + RAISED <= now {
            self.raised = now;
            self.ceiling = (self.ceiling * 1.25).min(MOST);
        }
        let wanted = if self.hunted > 0 { MOST } else { routes as f64 / TURN.as_secs_f64() };
        self.rate = self.rate.min(wanted).min(self.ceiling).clamp(LEAST, MOST);
    }

    /// One got lost that should have been answered.
    fn slow(&mut self, now: Instant) {
        if self.halved.is_some_and(|at| now < at + HALVED) {
            return;
        }
        (self.halved, self.raised) = (Some(now), now);
        self.ceiling = (self.rate / 2.0).max(LEAST);
        self.rate = self.ceiling;
    }

    /// Regular probes go in small groups.
    fn group(&self) -> f64 {
        (self.rate * 0.01).clamp(1.0, BURST / 2.0)
    }
}

impl Recheck {
    /// Nothing is in force yet. `hop`: where routes lead to.
    #[must_use]
    pub fn new(hop: Option<IpAddr>, now: Instant) -> Self {
        Self {
            start: now,
            ring: Vec::new(),
            places: HashMap::new(),
            next: 0,
            soon: VecDeque::new(),
            borrowed: VecDeque::new(),
            canary: now,
            flying: HashSet::new(),
            ends: VecDeque::new(),
            doubted: HashMap::new(),
            line: VecDeque::new(),
            round: None,
            next_round: now,
            lost: Vec::new(),
            hop,
            proven: false,
            next_hop: now,
            good: VecDeque::new(),
            silent: (0, None),
            loss: UNKNOWN,
            pace: Pace {
                rate: FIRST,
                ceiling: MOST,
                tokens: 1.0,
                at: now,
                stepped: now,
                halved: None,
                raised: now,
                hunted: 0,
            },
        }
    }

    /// How many are looked at in turn.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ring.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    fn seconds(&self, now: Instant) -> u32 {
        u32::try_from(now.saturating_duration_since(self.start).as_secs()).unwrap_or(u32::MAX)
    }

    fn swap(&mut self, one: usize, other: usize) {
        self.ring.swap(one, other);
        for place in [one, other] {
            if let Some(entry) = self.ring.get(place) {
                self.places.insert(entry.address, place);
            }
        }
    }

    /// Notes that an address is in force: the router was just seen to forward to it.
    pub fn note_in_force(&mut self, address: IpAddr, now: Instant) {
        let seen = self.seconds(now);
        self.doubted.remove(&address);
        self.note_good(address);
        if let Some(entry) = self.places.get(&address).and_then(|place| self.ring.get_mut(*place)) {
            entry.seen = seen;
            return;
        }
        let last = self.ring.len();
        self.ring.push(Entry { address, seen });
        self.places.insert(address, last);
        self.swap(self.next, last);
        self.next += 1;
    }

    /// This one isn't announced any more, or not as it was.
    pub fn forget(&mut self, address: IpAddr) {
        self.doubted.remove(&address);
        self.flying.remove(&address);
        let Some(mut place) = self.places.get(&address).copied() else { return };
        if place < self.next {
            self.next -= 1;
            self.swap(place, self.next);
            place = self.next;
        }
        let last = self.ring.len().saturating_sub(1);
        self.swap(place, last);
        self.ring.pop();
        self.places.remove(&address);
        if self.ring.len() * 4 < self.ring.capacity() {
            self.ring.shrink_to(self.ring.len() * 2);
            self.places.shrink_to(self.ring.len() * 2);
        }
    }

    /// This one is about to be used again: it is looked at next, unless it was lately.
    pub fn soon(&mut self, address: IpAddr, now: Instant) {
        let now = self.seconds(now);
        let entry = self.places.get(&address).and_then(|place| self.ring.get(*place));
        let old = entry.is_some_and(|entry| u64::from(now.saturating_sub(entry.seen)) >= LATELY.as_secs());
        if old && self.soon.len() < SOON && !self.flying.contains(&address) && !self.doubted.contains_key(&address) {
            self.soon.push_back(address);
        }
    }

    /// This one is in force by another guard's path: whether ours would be shows only when that one goes.
    pub fn borrowed(&mut self, address: IpAddr) {
        self.borrowed.push_back(address);
    }

    /// Some of these are looked at next.
    fn send_canaries(&mut self, now: Instant) {
        if self.canary > now || self.borrowed.is_empty() {
            return;
        }
        self.canary = now + CANARY;
        for _ in 0..CANARIES.min(self.borrowed.len()) {
            // Those that are gone are forgotten here; the others come again.
            let Some(address) = self.borrowed.pop_front() else { return };
            if !self.places.contains_key(&address) {
                continue;
            }
            self.borrowed.push_back(address);
            if !self.flying.contains(&address) && !self.doubted.contains_key(&address) && self.soon.len() < SOON {
                self.soon.push_back(address);
            }
        }
    }

    fn note_good(&mut self, address: IpAddr) {
        if self.good.back() == Some(&address) {
            return;
        }
        if self.good.len() >= 8 {
            self.good.pop_front();
        }
        self.good.push_back(address);
    }

    /// The router forwards to this address.
    pub fn answered(&mut self, address: IpAddr, now: Instant) {
        if self.hop == Some(address) {
            self.proven = true;
        }
        if let Some(round) = self.round.as_mut().filter(|round| round.control == Some(address) && !round.answered) {
            round.answered = true;
            round.until = round.until.min(now + BEHIND);
            if self.hop != Some(address) {
                self.note_good(address);
            }
        }
        let flew = self.flying.remove(&address);
        let doubted = self.doubted.remove(&address).is_some();
        if doubted {
            // It was lost before, not the route.
            self.pace.slow(now);
            self.silent = (0, None);
        }
        if flew || doubted {
            self.learn(doubted);
            let seen = self.seconds(now);
            if let Some(entry) = self.places.get(&address).and_then(|place| self.ring.get_mut(*place)) {
                entry.seen = seen;
            }
            self.note_good(address);
        }
    }

    /// The probes to send now.
    pub fn probes(&mut self, now: Instant) -> Vec<IpAddr> {
        let mut due = Vec::new();
        self.pace.pass(self.ring.len(), now);
        self.send_canaries(now);
        while let Some((at, address)) = self.ends.front().copied().filter(|(at, _)| *at <= now) {
            self.ends.pop_front();
            if self.flying.remove(&address) {
                self.doubted.insert(address, Doubt { misses: 0, not_before: at });
                self.line.push_back(address);
            }
        }
        if let Some(round) = self.round.take_if(|round| round.until <= now) {
            self.conclude(round, now);
        }
        if self.round.is_none() && self.next_round <= now {
            self.begin(now, &mut due);
        }
        if !self.ring.is_empty() && !self.proven && self.next_hop <= now {
            self.next_hop = now + LEARN;
            due.extend(self.hop);
        }
        if self.takes_more() && self.pace.tokens >= self.pace.group() {
            while self.pace.tokens >= 1.0
                && let Some(address) = self.turn()
            {
                self.pace.tokens -= 1.0;
                if self.flying.insert(address) {
                    self.ends.push_back((now + WAIT, address));
                    due.push(address);
                }
            }
        }
        due
    }

    /// Whether there is room for doubt.
    fn takes_more(&self) -> bool {
        !self.ring.is_empty() && self.silent.0 == 0 && self.doubted.len() < DOUBTS
    }

    /// The next one.
    fn turn(&mut self) -> Option<IpAddr> {
        while let Some(address) = self.soon.pop_front() {
            if self.places.contains_key(&address) && !self.doubted.contains_key(&address) {
                return Some(address);
            }
        }
        // Each of the few at most once in a call.
        for _ in 0..self.ring.len().min(DOUBTS * 2) {
            if self.next >= self.ring.len() {
                self.next = 0;
            }
            let entry = self.ring.get(self.next)?;
            self.next += 1;
            self.pace.hunted = self.pace.hunted.saturating_sub(1);
            if !self.doubted.contains_key(&entry.address) && !self.flying.contains(&entry.address) {
                return Some(entry.address);
            }
        }
        None
    }

    fn begin(&mut self, now: Instant, due: &mut Vec<IpAddr>) {
        let room = if self.silent.0 > 0 { 1 } else { (self.pace.tokens.max(1.0) as usize).min(ROUND) };
        let mut asked = Vec::new();
        while asked.len() < room
            && let Some(address) = self.line.front().copied()
        {
            match self.doubted.get(&address) {
                Some(doubt) if doubt.not_before > now => break,
                // It stands here once more if it was answered and doubted anew.
                Some(_) if !asked.contains(&address) => asked.push(address),
                _ => {}
            }
            self.line.pop_front();
        }
        if asked.is_empty() {
            return;
        }
        let known = |address: &IpAddr| self.places.contains_key(address) && !self.doubted.contains_key(address);
        let good = self.good.iter().rev().copied().find(known);
        let sure = self.hop.filter(|_| self.proven);
        let control = sure.or(good).or_else(|| self.any());
        due.extend(&asked);
        due.extend(control);
        self.pace.tokens = (self.pace.tokens - asked.len() as f64).max(-1.0);
        self.round =
            Some(Round { begun: now, until: now + WAIT, control, sure: sure.is_some(), answered: false, asked });
    }

    /// One that may be in force, another one each time.
    fn any(&mut self) -> Option<IpAddr> {
        let address = self.turn()?;
        self.flying.remove(&address);
        Some(address)
    }

    fn conclude(&mut self, round: Round, now: Instant) {
        let left = round.asked.into_iter().filter(|address| self.doubted.contains_key(address)).collect::<Vec<_>>();
        if round.sure {
            self.learn(!round.answered);
        }
        if !round.answered {
            self.good.retain(|good| round.control != Some(*good));
            self.line.extend(&left);
            if left.is_empty() {
                return;
            }
            if round.sure {
                self.pace.slow(now);
            }
            self.silent.0 = self.silent.0.saturating_add(1);
            self.silent.1.get_or_insert(round.begun);
            self.next_round = now + (APART * self.silent.0).min(PATIENT);
            return;
        }
        self.silent = (0, None);
        self.next_round = now;
        let enough = self.enough();
        for address in left {
            let Some(doubt) = self.doubted.get_mut(&address) else { continue };
            doubt.misses += 1;
            doubt.not_before = now + APART;
            if doubt.misses < enough {
                self.line.push_back(address);
                continue;
            }
            self.forget(address);
            self.lost.push(address);
            self.pace.hunted = self.ring.len();
            self.pace.rate = self.pace.rate.max(FIRST).min(self.pace.ceiling);
        }
    }

    /// A probe that should have been answered was lost, or was answered.
    fn learn(&mut self, lost: bool) {
        self.loss += (f64::from(u8::from(lost)) - self.loss) / 64.0;
    }

    /// So many misses can't be bad luck.
    fn enough(&self) -> u32 {
        (ERROR.ln() / self.loss.clamp(0.005, 0.5).ln()).ceil() as u32
    }

    /// Those that the router forwards to no more, since this was last asked.
    pub fn lost(&mut self) -> Vec<IpAddr> {
        std::mem::take(&mut self.lost)
    }

    /// For how long the router has answered nothing, so that nothing can be said of any route.
    #[must_use]
    pub fn silent(&self, now: Instant) -> Option<Duration> {
        let since = self.silent.1.map(|since| now.saturating_duration_since(since));
        since.filter(|since| *since >= SILENT)
    }

    /// When [`Self::probes`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.ring.is_empty() {
            return None;
        }
        let regular = self.takes_more().then(|| {
            let lacks = (self.pace.group() - self.pace.tokens).max(0.0);
            self.pace.at + Duration::from_secs_f64(lacks / self.pace.rate.max(LEAST)) + Duration::from_micros(1)
        });
        let round = match &self.round {
            Some(round) => Some(round.until),
            None => {
                let first = self.line.front().map(|address| self.doubted.get(address).map(|doubt| doubt.not_before));
                first.map(|at| at.unwrap_or(self.next_round).max(self.next_round))
            }
        };
        let end = self.ends.front().map(|(at, _)| *at);
        let canary = (!self.borrowed.is_empty()).then_some(self.canary);
        [regular, round, end, canary].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests;
