//! One question on its way to the upstreams that may answer it: who is asked, when, in which manner, and when it is over. Pure: it has neither clock
//! nor socket, and says what to send.
//!
//! ```text
//!            poll_ask -> send                 on_reply: useful ---------------------------> won
//!  new() --> asking  --------> waiting --+--> on_reply: otherwise -> the same server, in that manner
//!               ^                        +--> on_reply: elsewhere -> the next server not asked yet
//!               |                        +--> on_error            -> likewise; without one, after a pause, when the fault is this host's
//!               +---- handle_timeout <---+--> nothing for a round trip -> whoever may answer soonest
//!                                             nothing is awaited, or the time is over ----> lost: the best of what was kept
//! ```
//!
//! - There is one deadline, [`TOTAL`], over all of this.
//! - A lost datagram is asked again after the server's own round trip ([`Choice::patience`], RFC 6298), then after twice that, up to [`BACKOFF`]. With several
//!   servers the next one is asked instead; one that was silent of late ([`Choice::silent`]) comes after three attempts at the others.
//! - No question makes more than [`QUERIES`] queries, and none is asked of one server twice in the same manner but because time passed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::AskError;
use super::judgement::{Fault, Judgement, Manner};

#[cfg(test)]
mod tests;

/// The longest that one question may take.
pub const TOTAL: Duration = Duration::from_secs(4);
/// The longest when every server is down.
pub const TOTAL_DOWN: Duration = Duration::from_secs(2);
/// Queries that one question makes at most.
pub const QUERIES: usize = 8;
/// Of these, those that are sent because time passed.
const BY_TIME: u8 = 6;
/// The longest wait between two queries to one server, however often it was silent.
const BACKOFF: Duration = Duration::from_millis(400);
/// A stream loses nothing: the same server isn't asked again before this.
const AGAIN: Duration = Duration::from_millis(1200);
/// Bounds of the pause after a query that this host could not send.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(400));
/// How many attempts at others come before one at a server that was silent of late.
const SILENT: usize = 2;

/// A server that may be asked.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    /// Its place among all upstreams.
    pub server: usize,
    /// How long to wait for it before something else is tried.
    pub patience: Duration,
    /// Nothing came from it of late, though it was asked.
    pub silent: bool,
    /// In which manner it is asked at first.
    pub manner: Manner,
}

/// The servers of one group, best first.
#[derive(Clone, Debug, Default)]
pub struct Order {
    /// All of them.
    pub choices: Vec<Choice>,
    /// How many of them are asked in the usual course.
    pub usable: usize,
    /// All of them are down; then all are usable.
    pub all_down: bool,
}

/// A query to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// What the race calls it.
    pub place: usize,
    /// To whom, by the place among all upstreams.
    pub server: usize,
    /// The manner in which it goes out.
    pub manner: Manner,
    /// When the first of those was sent to it that had no reply in time: what it was sent on may be of no use any more.
    pub lost: Option<Instant>,
}

/// Why a query has no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// This host can't send, or not as things are now.
    Ours,
    /// The server refused or broke off.
    Theirs,
    /// Somebody guesses at its reply.
    Forged,
}

/// How a race ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With the reply to the query of this place.
    Won(usize),
    /// Without useful reply: see [`Race::last_word`].
    Lost,
}

#[derive(Clone, Copy, Debug)]
struct Try {
    choice: usize,
    manner: Manner,
    because: Option<Fault>,
    sent: Instant,
    /// Whether its reply is awaited still.
    open: bool,
    /// No reply within the server's patience.
    late: bool,
    /// What its reply lacked.
    fault: Option<Fault>,
}

#[derive(Clone, Copy, Debug)]
struct Want {
    choice: usize,
    manner: Manner,
    because: Option<Fault>,
}

/// See the module.
#[derive(Debug)]
pub struct Race {
    order: Arc<Order>,
    plain: bool,
    /// Nearly every question has one or two.
    tries: SmallVec<[Try; 2]>,
    by_time: u8,
    want: Option<Want>,
    /// Waits until this host can send again.
    paused: bool,
    pauses: u32,
    kept: Option<(Fault, Vec<u8>)>,
    error: AskError,
    next_at: Instant,
    ends_at: Instant,
    end: Option<End>,
}

impl Race {
    /// Begins. A server that is known to have no EDNS is asked with it all the same when the question wants what only EDNS can ask for.
    #[must_use]
    pub fn new(order: Arc<Order>, dnssec_ok: bool, now: Instant) -> Self {
        let ends_at = now + if order.all_down { TOTAL_DOWN } else { TOTAL };
        let mut race = Self {
            plain: !dnssec_ok,
            tries: SmallVec::new(),
            by_time: 0,
            want: None,
            paused: false,
            pauses: 0,
            kept: None,
            error: AskError::TimeOut,
            next_at: ends_at,
            ends_at,
            end: None,
            order,
        };
        if race.order.choices.is_empty() {
            race.error = AskError::NoServer;
            race.end = Some(End::Lost);
        } else {
            race.want(0, race.first_manner(0), None);
        }
        race
    }

    /// The query to be sent now, if there is one. To be asked after every event until there is none.
    pub fn poll_ask(&mut self, now: Instant) -> Option<Ask> {
        if self.end.is_some() {
            return None;
        }
        let Want { choice, manner, because } = self.want.take()?;
        let to = *self.order.choices.get(choice)?;
        let of_same = || self.tries.iter().filter(|other| other.choice == choice);
        let silent = |other: &&Try| other.late && other.open && !other.manner.has(Manner::STREAM);
        let lost = of_same().filter(silent).map(|other| other.sent).min();
        let doubled = u32::try_from(of_same().filter(|other| other.late).count()).unwrap_or(0).min(5);
        let place = self.tries.len();
        if place >= QUERIES {
            return None;
        }
        self.tries.push(Try { choice, manner, because, sent: now, open: true, late: false, fault: None });
        self.paused = false;
        self.next_at = now + to.patience.saturating_mul(1 << doubled).min(BACKOFF.max(to.patience));
        Some(Ask { place, server: to.server, manner, lost })
    }

    /// A reply came to the query of this place, and is worth so much.
    pub fn on_reply(&mut self, place: usize, judgement: &Judgement, reply: &[u8]) {
        let fault = match judgement {
            Judgement::Useless => return,
            Judgement::Useful(_) => None,
            Judgement::Otherwise(_, fault) | Judgement::Elsewhere(fault) => Some(*fault),
        };
        let Some(of) = self.close(place, fault) else { return };
        let Some(fault) = fault else {
            self.end = Some(End::Won(place));
            return;
        };
        self.keep(fault, reply, of.because);
        if let Judgement::Otherwise(manner, _) = judgement
            && self.want(of.choice, of.manner.and(*manner), Some(fault))
        {
            return;
        }
        self.elsewhere();
    }

    /// The query of this place will have no reply.
    pub fn on_error(&mut self, place: usize, trouble: Trouble, now: Instant) {
        let Some(of) = self.close(place, None) else { return };
        if self.error != AskError::Referral {
            self.error = AskError::Network;
        }
        match trouble {
            Trouble::Forged if self.want(of.choice, of.manner.and(Manner::STREAM), of.because) => {}
            Trouble::Theirs if of.because == Some(Fault::OtherCase) && self.want_lower(of.choice) => {}
            Trouble::Ours if !self.want_next() && self.may_wait() => {
                self.paused = true;
                let pause = PAUSE.0.saturating_mul(1 << self.pauses.min(4)).min(PAUSE.1);
                self.pauses = self.pauses.saturating_add(1);
                self.next_at = now + pause;
            }
            _ => self.elsewhere(),
        }
    }

    /// When [`Race::handle_timeout`] is to be called if nothing happens before; `None`: it is over.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.end.is_none().then(|| self.next_at.min(self.ends_at))
    }

    /// When it is over, whatever happens.
    #[must_use]
    pub fn ends_at(&self) -> Instant {
        self.ends_at
    }

    /// Time passed. `late` is told of each query, once, that had no reply within its server's patience: server, and when it was sent.
    pub fn handle_timeout(&mut self, now: Instant, mut late: impl FnMut(usize, Instant)) {
        if self.end.is_some() || now < self.next_at.min(self.ends_at) {
            return;
        }
        for entry in self.tries.iter_mut().filter(|entry| entry.open && !entry.late) {
            let Some(choice) = self.order.choices.get(entry.choice) else { continue };
            if now.saturating_duration_since(entry.sent) >= choice.patience {
                entry.late = true;
                late(choice.server, entry.sent);
            }
        }
        if now >= self.ends_at {
            self.end = Some(End::Lost);
            return;
        }
        self.paused = false;
        if !self.may_wait() {
            self.next_at = self.ends_at;
            self.settle();
            return;
        }
        match self.soonest(now) {
            Ok(want) => {
                self.by_time = self.by_time.saturating_add(1);
                self.want = Some(want);
            }
            // Nobody can be asked before that.
            Err(at) => {
                self.next_at = at.unwrap_or(self.ends_at);
                self.settle();
            }
        }
    }

    /// How it ended, once it has.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// Whose reply won, by the place among all upstreams.
    #[must_use]
    pub fn winner(&self) -> Option<usize> {
        let Some(End::Won(place)) = self.end else { return None };
        let winner = *self.tries.get(place)?;
        self.order.choices.get(winner.choice).map(|choice| choice.server)
    }

    /// Of a race that is lost: the best reply that is no useful one, or why there is none.
    ///
    /// # Errors
    /// [`AskError`].
    pub fn last_word(&mut self) -> Result<Vec<u8>, AskError> {
        self.kept.take().map(|(_, message)| message).ok_or(self.error)
    }

    /// What the winner taught: the server at this place among all upstreams is to be asked in this manner at first.
    #[must_use]
    pub fn lesson(&self) -> Option<(usize, Manner)> {
        let Some(End::Won(place)) = self.end else { return None };
        let winner = *self.tries.get(place)?;
        let server = self.order.choices.get(winner.choice)?.server;
        let manner = match winner.because? {
            Fault::OtherCase if winner.manner.has(Manner::STREAM) => Manner::STREAM,
            Fault::OtherCase => Manner::LOWER,
            Fault::NoEdns => Manner::PLAIN,
            _ => return None,
        };
        Some((server, manner))
    }

    /// Queries that are still awaited: place, server, when sent.
    pub fn awaited(&self) -> impl Iterator<Item = (usize, usize, Instant)> {
        self.tries.iter().enumerate().filter_map(|(place, entry)| {
            let entry = Some(entry).filter(|entry| entry.open)?;
            Some((place, self.order.choices.get(entry.choice)?.server, entry.sent))
        })
    }

    /// Goes on elsewhere, where nothing can arrive but for the query of this place.
    pub fn forget_but(&mut self, place: usize) {
        for (_, entry) in self.tries.iter_mut().enumerate().filter(|(other, _)| *other != place) {
            entry.open = false;
        }
    }

    /// Ends a query: it, if it was awaited.
    fn close(&mut self, place: usize, fault: Option<Fault>) -> Option<Try> {
        let entry = self.tries.get_mut(place).filter(|entry| entry.open)?;
        if self.end.is_some() {
            return None;
        }
        entry.open = false;
        entry.fault = fault;
        Some(*entry)
    }

    /// Keeps a reply for want of a better one. What came because of another one's fault says more than that one.
    fn keep(&mut self, fault: Fault, reply: &[u8], because: Option<Fault>) {
        let better = |kept: Fault| kept <= fault || because == Some(kept);
        match fault {
            // A forger's, perhaps.
            Fault::OtherCase => {}
            Fault::Referral => self.error = AskError::Referral,
            _ if self.kept.as_ref().is_none_or(|(kept, _)| better(*kept)) => self.kept = Some((fault, reply.to_vec())),
            _ => {}
        }
    }

    fn first_manner(&self, choice: usize) -> Manner {
        let manner = self.order.choices.get(choice).map_or(Manner::USUAL, |choice| choice.manner);
        if self.plain { manner } else { manner.without(Manner::PLAIN) }
    }

    fn was_asked(&self, choice: usize) -> bool {
        self.tries.iter().any(|entry| entry.choice == choice)
    }

    /// Wants this, unless it was tried already or there is no room.
    fn want(&mut self, choice: usize, manner: Manner, because: Option<Fault>) -> bool {
        let tried = self.tries.iter().any(|entry| (entry.choice, entry.manner) == (choice, manner));
        if tried || self.tries.len() >= QUERIES || self.want.is_some() {
            return false;
        }
        self.want = Some(Want { choice, manner, because });
        true
    }

    /// Wants the same server's word in lower case: it changed the case, and has no stream.
    fn want_lower(&mut self, choice: usize) -> bool {
        let manner = self.first_manner(choice).without(Manner::STREAM).and(Manner::LOWER);
        self.want(choice, manner, Some(Fault::OtherCase))
    }

    /// Wants the next server of all that wasn't asked yet.
    fn want_next(&mut self) -> bool {
        let next = (0..self.order.choices.len()).find(|choice| !self.was_asked(*choice));
        next.is_some_and(|next| self.want(next, self.first_manner(next), None))
    }

    /// What is left when a server has no useful word: the others, then what they say over a stream.
    fn elsewhere(&mut self) {
        if self.want_next() {
            return;
        }
        for place in 0..self.tries.len() {
            let Some(entry) = self.tries.get(place).copied() else { continue };
            if entry.fault == Some(Fault::Unbound)
                && self.want(entry.choice, entry.manner.and(Manner::STREAM), entry.fault)
            {
                return;
            }
        }
        self.settle();
    }

    /// It is lost when nothing is awaited.
    fn settle(&mut self) {
        let awaited = self.tries.iter().any(|entry| entry.open);
        if self.end.is_none() && self.want.is_none() && !self.paused && !awaited {
            self.end = Some(End::Lost);
        }
    }

    /// Whether time may still send something.
    fn may_wait(&self) -> bool {
        self.by_time < BY_TIME && self.tries.len() < QUERIES
    }

    /// Who may answer soonest; else when somebody can be asked again.
    fn soonest(&self, now: Instant) -> Result<Want, Option<Instant>> {
        let mut best: Option<((usize, bool, usize), Want)> = None;
        let mut later: Option<Instant> = None;
        for (choice, of) in self.order.choices.iter().enumerate().take(self.order.usable) {
            let asked = || self.tries.iter().filter(move |entry| entry.choice == choice);
            let on_a_stream = asked().rfind(|entry| entry.open && entry.manner.has(Manner::STREAM));
            if let Some(stream) = on_a_stream {
                let at = stream.sent + AGAIN;
                if now < at {
                    later = Some(later.map_or(at, |other| other.min(at)));
                    continue;
                }
            }
            let last = asked().next_back();
            let (mut manner, mut because) = (last.map_or(self.first_manner(choice), |last| last.manner), None);
            if let Some(last) = last {
                because = last.because;
                // Its TCP says nothing.
                if because == Some(Fault::OtherCase) && manner.has(Manner::STREAM) {
                    manner = self.first_manner(choice).without(Manner::STREAM).and(Manner::LOWER);
                }
            }
            let times = asked().count().saturating_add(if of.silent { SILENT } else { 0 });
            let key = (times, of.silent, choice);
            if best.as_ref().is_none_or(|(other, _)| key < *other) {
                best = Some((key, Want { choice, manner, because }));
            }
        }
        best.map(|(_, want)| want).ok_or(later)
    }
}

impl Order {
    /// This order with another usable server first.
    #[must_use]
    pub fn with_first(&self, first: usize) -> Self {
        let mut other = self.clone();
        if first < other.usable.min(other.choices.len()) {
            other.choices.swap(0, first);
        }
        other
    }
}
