//! ROUTE-REFRESH as an echo: what was sent before it has been processed once its answer is there.
//!
//! ```text
//!   us:      UPDATE UPDATE ROUTE-REFRESH (2 ms) KEEPALIVE
//!   router:                               BoRR ... EoRR          RFC 7313
//!                                         UPDATE of the beacon   RFC 2918 alone: the prefix that the router exports to us
//! ```
//!
//! TCP keeps the order, so one request covers every UPDATE before it; at most one is outstanding per family, and what is
//! sent meanwhile is covered by the next. The KEEPALIVE is for BIRD: its event loop may else sleep up to 3 s before it sends the answer.
//! A request that comes before the router has sent its own table may be lost in that: BIRD drops it. Where Graceful Restart was negotiated the
//! router says when it has ([`Barrier::after_its_table`]).
//! A router that exports more than [`FEW`] routes to us would send all of them each time; it is not asked until it exports fewer.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::table::index;
use crate::wire::iana::{Families, Family};

/// Most routes that a router may export to us.
pub const FEW: usize = 16;
/// Most of them that are remembered. A router that exported more is not asked again in this session.
const REMEMBERED: usize = 4096;
/// When a KEEPALIVE follows the request.
const NUDGES: [Duration; 3] = [Duration::from_millis(2), Duration::from_millis(20), Duration::from_millis(200)];
/// A request of which no answer begins is repeated after this, then after twice as long, and so on.
const AGAIN: Duration = Duration::from_secs(1);
/// Longest time between two repetitions.
const AGAIN_MOST: Duration = Duration::from_secs(8);
/// Requests that may follow each other at once.
const BURST: u32 = 32;
/// The time in which one more is earned: [`REST`] times what the last answer took, so that a router spends a fifth of its time on them at most,
/// within these bounds.
const EARN: (Duration, Duration) = (Duration::from_micros(500), Duration::from_millis(5));
const REST: u32 = 4;
/// A router has this long to send its own table before it is asked all the same.
const TABLE: Duration = Duration::from_millis(500);
/// A router whose answer took too long is asked again after this, to see whether it still does, and believed after so many quick answers.
const SLOW_AGAIN: Duration = Duration::from_secs(2);
const QUICK: u32 = 3;
/// A router without RFC 7313 has this long to show its beacon.
const BEACON: Duration = Duration::from_secs(5);

/// What is to be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// ROUTE-REFRESH for this family.
    Refresh(Family),
    /// A KEEPALIVE goes out.
    Keepalive,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    /// The first request, and the newest repetition.
    first: Instant,
    at: Instant,
    /// Every octet of the stream before this one was sent before the first request.
    covers: u64,
    /// BoRRs that came since.
    begun: u32,
    repeated: u32,
    nudges: usize,
    wait: Duration,
}

impl Asked {
    fn new(at: Instant, covers: u64) -> Self {
        Self { first: at, at, covers, begun: 0, repeated: 0, nudges: 0, wait: AGAIN }
    }

    /// When it is repeated. What is being answered isn't, unless the end of the answer never comes.
    fn again(&self) -> Instant {
        self.at + if self.begun > 0 { AGAIN_MOST } else { self.wait }
    }

    /// Also of what is being answered: BIRD may sleep between BoRR and EoRR just as before it.
    fn nudge(&self) -> Option<Instant> {
        NUDGES.get(self.nudges).map(|after| self.at + *after)
    }
}

/// Answers to repetitions that may still come. They say nothing of what was sent after the repetition, and an answer doesn't say which request
/// it is to; so nothing is asked until they came, or didn't for as long as the answer before took.
#[derive(Clone, Copy, Debug)]
struct Stray {
    answers: u32,
    begun: u32,
    first: Instant,
    until: Option<Instant>,
}

#[derive(Clone, Debug, Default)]
struct Line {
    asked: Option<Asked>,
    stray: Option<Stray>,
    /// The router still sends its own table, as far as is known: it isn't asked before this.
    busy: Option<Instant>,
    /// UPDATEs before this octet are known to be processed.
    echoed: u64,
    /// UPDATEs before this one wait for it.
    wanted: u64,
    beacon: Option<IpNet>,
}

/// The requests of one session. See the module.
#[derive(Debug)]
pub struct Barrier {
    enhanced: bool,
    families: Families,
    lines: [Line; 2],
    /// What the router exports to us, up to [`REMEMBERED`].
    exported: BTreeSet<IpNet>,
    up: Instant,
    tokens: u32,
    earned: Instant,
    /// In which one more token is earned.
    pace: Duration,
    refused: Option<Refusal>,
    silent: bool,
    /// There was more than could be remembered.
    overflowed: bool,
    /// An answer of use comes within this.
    patience: Duration,
    /// When what was just answered was asked.
    timing: Option<Instant>,
    /// How long the last answer took that came too late, and the quick ones since.
    slow: Option<(Duration, u32)>,
    /// When it is asked for the sake of that alone.
    measure: Option<Instant>,
}

/// Why a router isn't asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    NoRefresh,
    NoBeacon,
    TooMany,
}

impl Refusal {
    const fn reason(self) -> &'static str {
        match self {
            Self::NoRefresh => "the router can't refresh routes (RFC 2918)",
            Self::NoBeacon => {
                "the router has no enhanced route refresh (RFC 7313) and exports no prefix to us that could be its echo"
            }
            Self::TooMany => {
                "the router exports more than 16 routes to us, and would send them all for every answer; let it export nothing"
            }
        }
    }
}

impl Barrier {
    /// For a session that came up now with these families; `refresh` and `enhanced`: capabilities 2 and 70 of both ends.
    #[must_use]
    pub fn new(families: Families, refresh: bool, enhanced: bool, now: Instant) -> Self {
        let refused = (!refresh).then_some(Refusal::NoRefresh);
        Self {
            enhanced,
            families,
            lines: Default::default(),
            exported: BTreeSet::new(),
            up: now,
            tokens: BURST,
            earned: now,
            pace: EARN.1,
            refused,
            silent: false,
            overflowed: false,
            patience: Duration::from_millis(800),
            timing: None,
            slow: None,
            measure: None,
        }
    }

    /// Later answers come too late for whoever waits.
    pub fn expect_within(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// How long the router's answers take, when that is too long.
    #[must_use]
    pub fn slow(&self) -> Option<Duration> {
        self.slow.map(|(took, _)| took)
    }

    fn time(&mut self, now: Instant) {
        let Some(took) = self.timing.take().map(|asked| now.saturating_duration_since(asked)) else { return };
        self.pace = took.saturating_mul(REST).clamp(EARN.0, EARN.1);
        self.slow = match self.slow {
            _ if took > self.patience => Some((took, 0)),
            Some((took, quick)) if quick + 1 < QUICK => Some((took, quick + 1)),
            _ => None,
        };
        self.measure = self.slow.map(|_| now + SLOW_AGAIN);
    }

    /// Asks for each family only after its End-of-RIB, or [`TABLE`] after the session came up.
    #[must_use]
    pub fn after_its_table(mut self) -> Self {
        let until = self.up + TABLE;
        self.lines.iter_mut().for_each(|line| line.busy = Some(until));
        self
    }

    /// The router has sent its table.
    pub fn whole(&mut self, family: Family) {
        self.lines[index(family)].busy = None;
    }

    /// Why this router can't be asked; nothing is confirmed by refreshes then.
    #[must_use]
    pub fn refused(&self) -> Option<&'static str> {
        self.refused.map(Refusal::reason)
    }

    /// Whether the router leaves requests unanswered.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.silent
    }

    /// UPDATEs of each family up to these octets are to be echoed.
    pub fn want(&mut self, ends: [u64; 2]) {
        for (line, end) in self.lines.iter_mut().zip(ends) {
            line.wanted = line.wanted.max(end);
        }
    }

    /// Whether the UPDATEs of each family up to these octets have been.
    #[must_use]
    pub fn echoed(&self, ends: [u64; 2]) -> bool {
        self.families.iter().all(|family| {
            let end = ends[index(family)];
            end == 0 || self.lines[index(self.asks(family))].echoed >= end
        })
    }

    /// The family that is asked for the sake of this one: itself, or the other one where only that has a beacon.
    fn asks(&self, family: Family) -> Family {
        let has = |family: Family| self.enhanced || self.lines[index(family)].beacon.is_some();
        Family::ALL.into_iter().find(|other| !has(family) && has(*other)).unwrap_or(family)
    }

    /// The next thing to send, all of the stream before octet `end` being sent before it.
    pub fn poll(&mut self, now: Instant, end: u64) -> Option<Ask> {
        if self.refused.is_some() {
            return None;
        }
        self.earn(now);
        self.time(now);
        let measures = self.measure.is_some_and(|at| at <= now);
        for family in self.families.iter() {
            let wanted = self.lines[index(family)].wanted;
            let asks = self.asks(family);
            let possible = self.enhanced || self.lines[index(asks)].beacon.is_some();
            let tokens = self.tokens;
            let line = &mut self.lines[index(asks)];
            if let Some(stray) = &mut line.stray {
                let took = now.saturating_duration_since(stray.first).clamp(AGAIN, AGAIN_MOST);
                if *stray.until.get_or_insert(now + took) > now {
                    continue;
                }
                line.stray = None;
            }
            match &mut line.asked {
                Some(asked) if asked.again() <= now => {
                    // An answer to either covers only what was before the first.
                    asked.wait = (asked.wait * 2).min(AGAIN_MOST);
                    asked.repeated += 1;
                    asked.nudges = 0;
                    asked.at = now;
                    self.silent = true;
                    return Some(Ask::Refresh(asks));
                }
                Some(asked) if asked.nudge().is_some_and(|at| at <= now) => {
                    asked.nudges += 1;
                    return Some(Ask::Keepalive);
                }
                None if line.echoed < wanted && !possible && now >= self.up + BEACON => {
                    self.refused = Some(Refusal::NoBeacon);
                    return None;
                }
                None if line.echoed < wanted && possible && line.busy.is_some_and(|until| now < until) => {}
                None if (line.echoed < wanted || measures) && possible && tokens > 0 => {
                    line.asked = Some(Asked::new(now, end));
                    self.measure = None;
                    self.tokens -= 1;
                    return Some(Ask::Refresh(asks));
                }
                _ => {}
            }
        }
        None
    }

    fn earn(&mut self, now: Instant) {
        while self.tokens < BURST && self.earned + self.pace <= now {
            self.tokens += 1;
            self.earned += self.pace;
        }
        if self.tokens == BURST {
            self.earned = now;
        }
    }

    /// When [`Self::poll`] may have something that it hasn't now.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.refused.is_some() {
            return None;
        }
        let due = |family: Family| {
            let line = &self.lines[index(self.asks(family))];
            match (&line.asked, &line.stray) {
                (Some(asked), _) => Some(asked.nudge().map_or(asked.again(), |nudge| nudge.min(asked.again()))),
                (None, _) if line.echoed >= self.lines[index(family)].wanted => None,
                (None, Some(stray)) => Some(stray.until.unwrap_or(self.up)),
                (None, None) if !self.enhanced && line.beacon.is_none() => Some(self.up + BEACON),
                (None, None) => {
                    let earned = (self.tokens == 0).then_some(self.earned + self.pace);
                    line.busy.into_iter().chain(earned).max()
                }
            }
        };
        self.families.iter().filter_map(due).chain(self.measure).min()
    }

    /// Notes that the replay of a family began (BoRR, RFC 7313).
    pub fn begin(&mut self, family: Family) {
        let line = &mut self.lines[index(family)];
        match (&mut line.asked, &mut line.stray) {
            (Some(asked), _) => asked.begun += 1,
            (None, Some(stray)) => stray.begun += 1,
            (None, None) => {}
        }
    }

    /// EoRR came. One without BoRR after our request answers somebody else.
    pub fn end(&mut self, family: Family) {
        let line = &mut self.lines[index(family)];
        match (&line.asked, line.stray) {
            (Some(asked), _) if asked.begun > 0 => self.answered(family),
            // One that answers several is as good as several.
            (None, Some(stray)) if stray.begun > 0 => line.came(stray.begun),
            _ => {}
        }
    }

    /// The router announced these to us.
    pub fn announced(&mut self, nets: &[IpNet]) {
        for net in nets {
            if self.exported.len() < REMEMBERED {
                self.exported.insert(*net);
            }
            if self.refused == Some(Refusal::NoBeacon) {
                self.refused = None;
            }
            let family = if net.addr().is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
            let beacon = *self.lines[index(family)].beacon.get_or_insert(*net);
            if self.enhanced || beacon != *net {
                continue;
            }
            let line = &mut self.lines[index(family)];
            if line.asked.is_some() {
                self.answered(family);
            } else {
                line.came(1);
            }
        }
        if self.exported.len() > FEW && self.refused.is_none() {
            self.refused = Some(Refusal::TooMany);
        }
        if self.exported.len() >= REMEMBERED {
            self.overflowed = true;
        }
    }

    /// The router withdrew these.
    pub fn withdrawn(&mut self, nets: &[IpNet]) {
        for net in nets {
            self.exported.remove(net);
            for line in &mut self.lines {
                line.beacon = line.beacon.filter(|beacon| beacon != net);
            }
        }
        if self.refused == Some(Refusal::TooMany) && self.exported.len() <= FEW && !self.overflowed {
            self.refused = None;
            // What was asked before that may never have been answered, or may be yet.
            for line in &mut self.lines {
                if let Some(asked) = line.asked.take() {
                    line.stray(asked, 0);
                }
            }
        }
    }

    fn answered(&mut self, family: Family) {
        let line = &mut self.lines[index(family)];
        if let Some(asked) = line.asked.take() {
            self.timing = Some(asked.first);
            line.echoed = line.echoed.max(asked.covers).max(1);
            line.stray(asked, 1);
            self.silent = false;
        }
    }
}

impl Line {
    /// Of this request and its repetitions so many were answered; by more than one BoRR, more of them.
    fn stray(&mut self, asked: Asked, answered: u32) {
        let answers = (asked.repeated + 1).saturating_sub(asked.begun.max(answered));
        self.stray = (answers > 0).then_some(Stray { answers, begun: 0, first: asked.first, until: None });
    }

    /// So many stray answers came.
    fn came(&mut self, answers: u32) {
        if let Some(stray) = &mut self.stray {
            stray.answers = stray.answers.saturating_sub(answers);
            stray.begun = 0;
        }
        self.stray = self.stray.filter(|stray| stray.answers > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const V4: Family = Family::Ipv4;
    const V6: Family = Family::Ipv6;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn echo(barrier: &mut Barrier, family: Family) {
        barrier.begin(family);
        barrier.end(family);
    }

    #[test]
    fn one_request_covers_all_before_it_and_only_one_is_under_way() {
        let now = Instant::now();
        let mut barrier = Barrier::new(Families::ALL, true, true, now);
        assert_eq!(barrier.poll(now, 0), None, "nothing was sent");
        barrier.want([100, 0]);
        assert_eq!(barrier.poll(now, 100), Some(Ask::Refresh(V4)));
        barrier.want([200, 300]);
        assert_eq!(barrier.poll(now, 300), Some(Ask::Refresh(V6)), "each family for itself");
        assert_eq!(barrier.poll(now, 300), None, "one at a time");
        assert!(!barrier.echoed([100, 0]));
        barrier.end(V4);
        assert!(!barrier.echoed([100, 0]), "an EoRR that nothing began is somebody else's");
        echo(&mut barrier, V4);
        assert!(barrier.echoed([100, 0]) && !barrier.echoed([200, 0]) && !barrier.echoed([100, 300]));
        assert_eq!(barrier.poll(now, 400), Some(Ask::Refresh(V4)), "for what was sent meanwhile");
        echo(&mut barrier, V4);
        echo(&mut barrier, V6);
        assert!(barrier.echoed([200, 300]));
        assert_eq!((barrier.poll(now, 400), barrier.poll_timeout()), (None, None));
    }

    #[test]
    fn a_router_that_sends_its_own_table_is_asked_behind_it() {
        let start = Instant::now();
        let mut barrier = Barrier::new(Families::ALL, true, true, start).after_its_table();
        barrier.want([100, 100]);
        assert_eq!((barrier.poll(start, 100), barrier.poll_timeout()), (None, Some(start + TABLE)));
        barrier.whole(V6);
        assert_eq!(barrier.poll(start, 100), Some(Ask::Refresh(V6)));
        assert_eq!(barrier.poll(start + TABLE - MS, 100), Some(Ask::Keepalive), "still only the other family");
        assert_eq!(barrier.poll(start + TABLE, 100), Some(Ask::Refresh(V4)), "it may never say so");
    }

    #[test]
    fn a_keepalive_follows_and_silence_is_asked_again() {
        let start = Instant::now();
        let mut barrier = Barrier::new(Families::ALL, true, true, start);
        barrier.want([10, 0]);
        assert_eq!(barrier.poll(start, 10), Some(Ask::Refresh(V4)));
        assert_eq!(barrier.poll_timeout(), Some(start + 2 * MS));
        assert_eq!(barrier.poll(start + MS, 10), None);
        assert_eq!(barrier.poll(start + 2 * MS, 10), Some(Ask::Keepalive));
        assert_eq!(barrier.poll(start + 20 * MS, 10), Some(Ask::Keepalive));
        assert_eq!(barrier.poll(start + 200 * MS, 10), Some(Ask::Keepalive));
        assert_eq!(barrier.poll_timeout(), Some(start + AGAIN));
        barrier.want([50, 0]);
        assert!(!barrier.is_silent());
        assert_eq!(barrier.poll(start + AGAIN, 50), Some(Ask::Refresh(V4)));
        assert!(barrier.is_silent());
        echo(&mut barrier, V4);
        assert!(barrier.echoed([10, 0]) && !barrier.echoed([50, 0]), "it may be the answer to the first");
        assert!(!barrier.is_silent());
        assert_eq!(barrier.poll(start + AGAIN, 50), None);
        echo(&mut barrier, V4);
        assert!(!barrier.echoed([50, 0]), "nor does the second answer tell which it is");
        assert_eq!(barrier.poll(start + AGAIN, 50), Some(Ask::Refresh(V4)));
        echo(&mut barrier, V4);
        assert!(barrier.echoed([50, 0]));
    }

    #[test]
    fn requests_are_limited_in_rate() {
        // A router that needs 2 ms for each, and one that has answered a quarter of one later.
        for (takes, least, most) in [(2, 198, 202), (0, 990, 1010)] {
            let start = Instant::now();
            let mut barrier = Barrier::new(Families::ALL, true, true, start);
            let (mut asked, mut answer) = (0u32, None);
            for step in 0..4000 {
                let now = start + MS / 4 * step;
                if answer.is_some_and(|at| at <= now) {
                    echo(&mut barrier, V4);
                    answer = None;
                }
                barrier.want([u64::from(step) + 1, 0]);
                match barrier.poll(now, u64::from(step) + 1) {
                    Some(Ask::Refresh(V4)) => {
                        asked += 1;
                        answer = Some(now + MS * takes);
                    }
                    Some(_) => {}
                    None => assert!(barrier.poll_timeout().is_some_and(|at| at > now && at <= now + NUDGES[2])),
                }
                if takes == 0 && answer.take().is_some() {
                    echo(&mut barrier, V4);
                }
            }
            assert!((BURST + least..=BURST + most).contains(&asked), "{takes} ms: {asked}");
        }
    }

    #[test]
    fn without_rfc_7313_the_beacon_is_the_echo() {
        let start = Instant::now();
        let mut barrier = Barrier::new(Families::ALL, true, false, start);
        barrier.want([10, 20]);
        assert_eq!(barrier.poll(start, 20), None, "no beacon is known yet");
        assert_eq!(barrier.poll_timeout(), Some(start + BEACON));
        let beacon = [net("192.0.2.0/24")];
        barrier.announced(&beacon);
        assert_eq!(barrier.poll(start, 20), Some(Ask::Refresh(V4)));
        assert_eq!(barrier.poll(start, 20), None, "one beacon serves both families");
        barrier.announced(&[net("198.51.100.0/24")]);
        assert!(!barrier.echoed([10, 20]), "another prefix is no echo");
        barrier.announced(&beacon);
        assert!(barrier.echoed([10, 20]));
    }

    #[test]
    fn a_router_that_cannot_be_asked_is_refused_with_the_reason() {
        let start = Instant::now();
        let mut barrier = Barrier::new(Families::ALL, false, false, start);
        barrier.want([10, 0]);
        assert_eq!(barrier.poll(start, 10), None);
        assert!(barrier.refused().is_some_and(|why| why.contains("2918")));
        let mut barrier = Barrier::new(Families::ALL, true, false, start);
        barrier.want([10, 0]);
        assert_eq!(barrier.poll(start + BEACON, 10), None);
        assert!(barrier.refused().is_some_and(|why| why.contains("7313")));
        barrier.announced(&[net("192.0.2.0/24")]);
        assert_eq!((barrier.refused(), barrier.poll(start + BEACON, 10)), (None, Some(Ask::Refresh(V4))));
        let mut barrier = Barrier::new(Families::ALL, true, true, start);
        let many: Vec<IpNet> = (0..=FEW).map(|n| net(&format!("198.18.{n}.0/24"))).collect();
        barrier.announced(&many[..FEW]);
        barrier.announced(&many[..FEW]);
        assert_eq!(barrier.refused(), None);
        barrier.announced(&many);
        assert!(barrier.refused().is_some_and(|why| why.contains("more than 16")));
        barrier.want([10, 0]);
        assert_eq!((barrier.poll(start, 10), barrier.poll_timeout()), (None, None));
        barrier.withdrawn(&many[..1]);
        assert_eq!((barrier.refused(), barrier.poll(start, 10)), (None, Some(Ask::Refresh(V4))), "few enough now");
    }

    /// A request that was only slow to be answered is answered twice when it was repeated.
    #[test]
    fn the_answer_to_a_repetition_says_nothing_of_what_was_sent_after_it() {
        for merged in [false, true] {
            let start = Instant::now();
            let mut barrier = Barrier::new(Families::ALL, true, true, start);
            barrier.want([10, 0]);
            assert_eq!(barrier.poll(start, 10), Some(Ask::Refresh(V4)));
            let repeated = start + AGAIN;
            while barrier.poll(repeated, 10) != Some(Ask::Refresh(V4)) {}
            barrier.want([80, 0]);
            let slow = repeated + 500 * MS;
            assert!(!matches!(barrier.poll(slow, 80), Some(Ask::Refresh(_))));
            echo(&mut barrier, V4);
            assert!(barrier.echoed([10, 0]) && !barrier.echoed([80, 0]));
            assert_eq!(barrier.poll(slow, 80), None, "the answer to the repetition may be under way");
            let wait = barrier.poll_timeout().unwrap();
            assert_eq!(wait, slow + AGAIN + 500 * MS, "for as long as the first took");
            let mut next = wait;
            if !merged {
                next = slow + 300 * MS;
                echo(&mut barrier, V4);
                assert!(!barrier.echoed([80, 0]), "it was asked for before that was sent");
            }
            assert_eq!(barrier.poll(next, 80), Some(Ask::Refresh(V4)));
            echo(&mut barrier, V4);
            assert!(barrier.echoed([80, 0]));
        }
    }

    /// FRR's EoRR comes half a second and more after its BoRR.
    #[test]
    fn what_is_being_answered_is_not_asked_again() {
        let start = Instant::now();
        let mut barrier = Barrier::new(Families::ALL, true, true, start);
        barrier.want([10, 0]);
        assert_eq!(barrier.poll(start, 10), Some(Ask::Refresh(V4)));
        barrier.begin(V4);
        for after in NUDGES {
            assert_eq!(barrier.poll_timeout(), Some(start + after));
            assert_eq!(barrier.poll(start + after, 10), Some(Ask::Keepalive), "BIRD may sleep before its EoRR");
        }
        assert_eq!(barrier.poll(start + AGAIN_MOST - MS, 10), None);
        assert_eq!(barrier.poll_timeout(), Some(start + AGAIN_MOST));
        assert!(!barrier.is_silent());
        assert_eq!(barrier.poll(start + AGAIN_MOST, 10), Some(Ask::Refresh(V4)), "no EoRR at all");
    }

    #[test]
    fn answers_that_come_too_late_are_said_and_looked_at_again() {
        let start = Instant::now();
        let mut barrier = Barrier::new(Families { ipv4: true, ipv6: false }, true, true, start);
        barrier.want([10, 0]);
        assert_eq!(barrier.poll(start, 10), Some(Ask::Refresh(V4)));
        barrier.begin(V4);
        barrier.end(V4);
        assert_eq!((barrier.poll(start + 900 * MS, 10), barrier.slow()), (None, Some(900 * MS)));
        let mut now = start + 900 * MS;
        for quick in 1..=QUICK {
            now += SLOW_AGAIN;
            assert_eq!(barrier.poll_timeout(), Some(now), "nobody waits, and it is asked all the same");
            assert_eq!(barrier.poll(now, 10), Some(Ask::Refresh(V4)));
            echo(&mut barrier, V4);
            assert_eq!(barrier.poll(now, 10), None);
            assert_eq!(barrier.slow().is_none(), quick == QUICK);
        }
        assert_eq!(barrier.poll_timeout(), None);
    }

    #[test]
    fn a_beacon_of_the_other_family_is_asked_for_in_time() {
        let start = Instant::now();
        let mut barrier = Barrier::new(Families::ALL, true, false, start);
        let beacon = [net("192.0.2.0/24")];
        barrier.announced(&beacon);
        for octet in 1..=u64::from(BURST) {
            barrier.want([0, octet]);
            assert_eq!(barrier.poll(start, octet), Some(Ask::Refresh(V4)));
            barrier.announced(&beacon);
        }
        barrier.want([0, 100]);
        assert_eq!(barrier.poll(start, 100), None, "too many at once");
        assert_eq!(barrier.poll_timeout(), Some(start + EARN.0));
        assert_eq!(barrier.poll(start + EARN.0, 100), Some(Ask::Refresh(V4)));
    }
}
