//! How one upstream fares, by evidence. Pure: the time comes from outside.
//!
//! ```text
//!       silent over names of several registrable domains for 3 s, and a probe of the guard's own has
//!       no reply either; or refusing again and again, probes too
//!   up -------------------------------------------------------------------------------------> down: passed over, probed
//!    ^                                                                                           |
//!    +-- a second reply, a second later -- rising: asked again, but not yet called healthy <-----+ a reply
//! ```
//!
//! - Any reply ends a silence. Names whose own servers never answer say nothing of the upstream: it answers its probe.
//! - What this host couldn't send is silence, no refusal: it tells of the upstream only when it lasts.
//! - The time after which a query counts as lost is RFC 6298's, of replies alone: who didn't reply has no round trip.

use std::time::{Duration, Instant};

use super::judgement::Manner;

#[cfg(test)]
mod tests;

/// Bounds of the wait for a datagram before it counts as lost.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(400));
/// The same over a stream, which may have to be opened first.
const PATIENCE_STREAM: (Duration, Duration) = (Duration::from_millis(60), Duration::from_millis(600));
/// A server that was never asked counts as this fast.
const UNKNOWN: Duration = Duration::from_millis(40);
/// A silence that lasts so long is looked into by a probe, and others are asked first.
const SUSPECT: Duration = Duration::from_millis(1000);
/// So many queries in a row without reply in time, or refused, are enough for the latter.
const SUSPECT_AFTER: u32 = 3;
/// After so long it is down.
const SILENCE: Duration = Duration::from_secs(3);
/// Registrable domains that a silence must reach over, unless as many probes went without reply as are below.
const DOMAINS: usize = 2;
/// Probes in a row without reply that say it whatever was asked.
const PROBES: u32 = 4;
/// Refusals in a row that say that it is down, probes among them.
const REFUSALS: u32 = 5;
/// How soon one that refuses is probed again.
const PROBE_REFUSED: Duration = Duration::from_millis(100);
/// How long a probe is waited for.
pub const PROBE: Duration = Duration::from_millis(1500);
/// Bounds of the time between probes of a server that is down.
const PROBE_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Replies for so long make one that rises healthy.
const RISING: Duration = Duration::from_secs(1);
/// How long it is remembered in which manner a server wants to be asked.
const LESSON: Duration = Duration::from_secs(900);

/// Whether it is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Up,
    Down,
    /// It replied again, first at this time.
    Rising(Instant),
}

#[derive(Debug)]
struct Silence {
    /// When the first of those was sent that have no reply.
    since: Instant,
    /// Hashes of the registrable domains that they are of; a few are enough.
    domains: [Option<u64>; DOMAINS],
    /// How many there are.
    late: u32,
}

/// What came of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probed {
    /// A reply, after so long.
    Replied(Duration),
    /// The server refused it, or broke off.
    Refused,
    /// Nothing came in time.
    Unanswered,
}

/// What changed, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is passed over from now on.
    Down,
    /// It answers again.
    Up,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Health {
    srtt: Option<Duration>,
    variance: Duration,
    state: State,
    silence: Option<Silence>,
    refusals: u32,
    /// The next probe; `None`: none is needed.
    probe_at: Option<Instant>,
    probe_wait: Duration,
    probing: bool,
    /// The probe that is on its way: when it was sent, where nothing was wrong.
    looking: Option<Instant>,
    unanswered: u32,
    lessons: Option<(Manner, Instant)>,
    /// Queries sent since the guard started.
    pub queries: u64,
    /// Queries without reply.
    pub failures: u64,
    /// When the last reply came.
    pub last_reply: Option<Instant>,
    /// The last failure in words.
    pub last_error: Option<String>,
}

impl Health {
    /// Smoothed round-trip time; `None` before the first reply.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        self.srtt
    }

    /// Whether it is called healthy.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.state == State::Up
    }

    /// Whether it is passed over.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.state == State::Down
    }

    /// Whether nothing came of late, though it was asked.
    #[must_use]
    pub fn is_silent(&self, now: Instant) -> bool {
        let long = |silence: &Silence| {
            silence.late >= SUSPECT_AFTER || now.saturating_duration_since(silence.since) >= SUSPECT
        };
        self.refusals >= SUSPECT_AFTER || self.silence.as_ref().is_some_and(long)
    }

    /// What it is ranked by among its like.
    #[must_use]
    pub fn rank(&self) -> Duration {
        self.srtt.unwrap_or(UNKNOWN)
    }

    /// How long a query is waited for before something else is tried.
    #[must_use]
    pub fn patience(&self, stream: bool) -> Duration {
        let (least, most) = if stream { PATIENCE_STREAM } else { PATIENCE };
        self.srtt.map_or(PATIENCE.1, |srtt| (srtt + self.variance.saturating_mul(4)).clamp(least, most))
    }

    /// In which manner it wants to be asked, as far as it taught that.
    #[must_use]
    pub fn manner(&self, now: Instant) -> Manner {
        self.lessons.filter(|(_, until)| now < *until).map_or(Manner::USUAL, |(manner, _)| manner)
    }

    /// It answered only when asked so.
    pub fn learn(&mut self, manner: Manner, now: Instant) {
        self.lessons = Some((self.manner(now).and(manner), now + LESSON));
    }

    /// It isn't to be had in this manner any more.
    pub fn unlearn(&mut self, manner: Manner) {
        if let Some((learnt, _)) = &mut self.lessons {
            *learnt = learnt.without(manner);
        }
    }

    /// It replied, after so long.
    pub fn on_reply(&mut self, rtt: Duration, now: Instant) -> Option<Change> {
        // RFC 6298 section 2.
        match self.srtt {
            None => {
                self.srtt = Some(rtt);
                self.variance = rtt / 2;
            }
            Some(srtt) => {
                let off = srtt.abs_diff(rtt);
                self.variance = (self.variance * 3 + off) / 4;
                self.srtt = Some((srtt * 7 + rtt) / 8);
            }
        }
        self.last_reply = Some(now);
        self.silence = None;
        self.refusals = 0;
        self.unanswered = 0;
        match self.state {
            State::Up => {
                self.probe_at = None;
                None
            }
            State::Down => {
                self.state = State::Rising(now);
                self.probe_at = Some(now + RISING);
                None
            }
            State::Rising(since) if now.saturating_duration_since(since) >= RISING => {
                self.state = State::Up;
                self.probe_at = None;
                Some(Change::Up)
            }
            State::Rising(_) => None,
        }
    }

    /// Another server was faster by at least so much.
    pub fn on_slow(&mut self, at_least: Duration) {
        if self.srtt.is_none_or(|srtt| srtt < at_least) {
            let srtt = self.srtt.unwrap_or(at_least);
            self.srtt = Some((srtt * 3 + at_least) / 4);
        }
    }

    /// A query sent then, for a name of this registrable domain (its hash), had no reply in the time that one takes. Whether somebody is to look into it.
    pub fn on_late(&mut self, sent: Instant, domain: u64, now: Instant) -> bool {
        if self.last_reply.is_some_and(|reply| reply >= sent) {
            return false;
        }
        let silence = self.silence.get_or_insert(Silence { since: sent, domains: [None; DOMAINS], late: 0 });
        silence.late = silence.late.saturating_add(1);
        silence.since = silence.since.min(sent);
        if !silence.domains.contains(&Some(domain))
            && let Some(free) = silence.domains.iter_mut().find(|place| place.is_none())
        {
            *free = Some(domain);
        }
        let at = silence.since + SUSPECT;
        self.want_probe(at.max(now))
    }

    /// A query had no reply at all.
    pub fn on_failure(&mut self, error: &str) {
        self.failures = self.failures.saturating_add(1);
        if self.last_error.as_deref() != Some(error) {
            self.last_error = Some(error.to_owned());
        }
    }

    /// It refused a query, or broke off. Whether somebody is to look into it.
    pub fn on_refusal(&mut self, now: Instant) -> bool {
        self.refusals = self.refusals.saturating_add(1);
        self.refusals >= SUSPECT_AFTER && self.want_probe(now)
    }

    fn want_probe(&mut self, at: Instant) -> bool {
        if self.state != State::Up || self.probing {
            return false;
        }
        let sooner = self.probe_at.is_none_or(|due| at < due);
        if sooner {
            self.probe_at = Some(at);
        }
        sooner
    }

    /// Whether a probe is to be sent now.
    pub fn take_probe(&mut self, now: Instant) -> bool {
        if self.probing || self.probe_at.is_none_or(|at| now < at) {
            return false;
        }
        if self.state == State::Up && self.silence.is_none() && self.refusals < SUSPECT_AFTER {
            // It answered meanwhile.
            self.probe_at = None;
            return false;
        }
        self.probing = true;
        self.probe_at = None;
        true
    }

    /// Whether a probe is to be sent now because nothing is known: no reply for so long, and no silence that somebody looks into.
    pub fn take_look(&mut self, quiet: Duration, now: Instant) -> bool {
        let heard = self.last_reply.is_some_and(|reply| now.saturating_duration_since(reply) < quiet);
        if heard || self.probing || self.probe_at.is_some() || self.state != State::Up {
            return false;
        }
        self.probing = true;
        self.looking = Some(now);
        true
    }

    /// When the next probe is due.
    #[must_use]
    pub fn probe_at(&self) -> Option<Instant> {
        self.probe_at.filter(|_| !self.probing)
    }

    /// A probe ended.
    pub fn on_probed(&mut self, probed: Probed, now: Instant) -> Option<Change> {
        self.probing = false;
        let looked = self.looking.take();
        match probed {
            Probed::Replied(rtt) => return self.on_reply(rtt, now),
            Probed::Refused => self.refusals = self.refusals.saturating_add(1),
            Probed::Unanswered => {
                // Nobody asked, so that this is the first that is known of a silence.
                if let Some(since) = looked.filter(|sent| self.last_reply.is_none_or(|reply| reply < *sent)) {
                    self.silence.get_or_insert(Silence { since, domains: [None; DOMAINS], late: 0 });
                }
            }
        }
        self.unanswered = self.unanswered.saturating_add(1);
        match self.state {
            State::Up => {
                let long = |silence: &Silence| {
                    let several = silence.domains.iter().all(Option::is_some) || self.unanswered >= PROBES;
                    several && now.saturating_duration_since(silence.since) >= SILENCE
                };
                if self.refusals >= REFUSALS || self.silence.as_ref().is_some_and(long) {
                    self.state = State::Down;
                    self.probe_wait = PROBE_AGAIN.0;
                    self.probe_at = Some(now + PROBE_AGAIN.0);
                    return Some(Change::Down);
                }
                // As long as it is silent.
                self.probe_at = Some(now + if probed == Probed::Refused { PROBE_REFUSED } else { PROBE_AGAIN.0 });
            }
            State::Down | State::Rising(_) => {
                self.state = State::Down;
                self.probe_wait = self.probe_wait.saturating_mul(2).clamp(PROBE_AGAIN.0, PROBE_AGAIN.1);
                self.probe_at = Some(now + self.probe_wait);
            }
        }
        None
    }
}
