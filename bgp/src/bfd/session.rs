//! One BFD session: RFC 5880 section 6, without sockets and without a clock of its own.
//!
//! ```text
//!                    hears Down                  hears Init, Up
//!            Down ---------------> Init ----------------------------> Up
//!             ^ \--- hears Init ------------------------------------> |
//!             |                                                       |
//!             \-- detection time (from Init and Up), hears AdminDown (both), hears Down (from Up)
//! ```
//!
//! The driver gives every packet to [`Session::received`], calls [`Session::handle_timeout`] when [`Session::poll_timeout`] has passed, and after
//! either sends all of [`Session::poll_transmit`] and heeds all of [`Session::poll_event`].
//!
//! Until the session is up a packet goes out about once a second (section 6.8.3). Each change of the offered interval while up is told by a poll
//! sequence (section 6.5). Periodic packets come up to a quarter early, at random (section 6.8.7).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::packet::Packet;
use super::state::{Cause, Diagnostic, State};

#[cfg(test)]
mod tests;

/// The least offered interval while a session isn't up.
pub const SLOW: Duration = Duration::from_secs(1);
/// What is assumed of a neighbour that said nothing yet (`bfd.RemoteMinRxInterval`, section 6.8.1).
const ANY: Duration = Duration::from_micros(1);

/// What a session is told.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Our name for the session: unique here, hard to guess, not zero.
    pub discriminator: u32,
    /// How often we want to send, and can receive.
    pub interval: Duration,
    /// So many packets may be lost before the other end gives up on us; not zero.
    pub multiplier: u8,
    /// Seed for jitter.
    pub seed: u64,
}

/// What the user of a session must hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Both ends hear each other.
    Up,
    /// They did, and don't any more.
    Down(Cause),
}

/// See the module.
#[derive(Debug)]
pub struct Session {
    config: Config,
    state: State,
    since: Instant,
    diagnostic: Diagnostic,
    remote_state: State,
    remote_discriminator: u32,
    remote_min_rx: Duration,
    remote_min_tx: Duration,
    remote_multiplier: u8,
    remote_demand: bool,
    /// Our own poll sequence is under way.
    polling: bool,
    /// A packet of it went out.
    polled: bool,
    /// The neighbour's poll is to be answered.
    answer: bool,
    /// A packet is due now.
    due: bool,
    /// When the last periodic packet went out, and how much of the interval is waited for the next.
    last: Instant,
    share: f64,
    next: Option<Instant>,
    detect_at: Option<Instant>,
    random: u64,
    events: VecDeque<Event>,
}

impl Session {
    /// A session in Down that sends its first packet within a second.
    #[must_use]
    pub fn new(config: Config, now: Instant) -> Self {
        let mut session = Self {
            config,
            state: State::Down,
            since: now,
            diagnostic: Diagnostic::NONE,
            remote_state: State::Down,
            remote_discriminator: 0,
            remote_min_rx: ANY,
            remote_min_tx: Duration::ZERO,
            remote_multiplier: 0,
            remote_demand: false,
            polling: false,
            polled: false,
            answer: false,
            due: false,
            last: now,
            share: 1.0,
            next: None,
            detect_at: None,
            random: config.seed | 1,
            events: VecDeque::new(),
        };
        // The first packet goes out soon, but not that of all sessions at once.
        session.share = session.jitter() / 4.0;
        session.schedule();
        session
    }

    /// Our name for the session.
    #[must_use]
    pub fn discriminator(&self) -> u32 {
        self.config.discriminator
    }

    /// The state, and since when.
    #[must_use]
    pub fn state(&self) -> (State, Instant) {
        (self.state, self.since)
    }

    /// The neighbour's state as it last said.
    #[must_use]
    pub fn remote_state(&self) -> State {
        self.remote_state
    }

    /// Why we last left Up.
    #[must_use]
    pub fn diagnostic(&self) -> Diagnostic {
        self.diagnostic
    }

    /// The interval between our packets, before jitter; `None` while the neighbour wants none.
    #[must_use]
    pub fn interval(&self) -> Option<Duration> {
        let silent = self.remote_min_rx.is_zero();
        // Section 6.8.7: not while the neighbour asks for silence and both ends know that all is well.
        let demanded = self.remote_demand && self.state == State::Up && self.remote_state == State::Up && !self.polling;
        (!silent && !demanded).then(|| self.offered().max(self.remote_min_rx))
    }

    /// Silence of this length means Down (section 6.8.4); zero before the neighbour was heard.
    #[must_use]
    pub fn detection_time(&self) -> Duration {
        self.config.interval.max(self.remote_min_tx).saturating_mul(self.remote_multiplier.into())
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.next, self.detect_at].into_iter().flatten().min()
    }

    /// The next thing to tell.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next packet to send. At most one of each kind waits: an answer to a poll, and a packet of our own.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Packet> {
        if std::mem::take(&mut self.answer) {
            return Some(Packet { is_final: true, ..self.packet() });
        }
        if !std::mem::take(&mut self.due) {
            return None;
        }
        self.last = now;
        self.share = self.jitter();
        self.schedule();
        self.polled = self.polling;
        Some(Packet { poll: self.polling, ..self.packet() })
    }

    /// A packet that is for this session came.
    pub fn received(&mut self, packet: &Packet, now: Instant) {
        self.remote_discriminator = packet.my_discriminator;
        self.remote_state = packet.state;
        self.remote_demand = packet.demand;
        self.remote_min_rx = micros(packet.required_min_rx);
        self.remote_min_tx = micros(packet.desired_min_tx);
        self.remote_multiplier = packet.multiplier;
        if packet.is_final && self.polled {
            self.polling = false;
            self.polled = false;
        }
        self.detect_at = Some(now + self.detection_time());
        if self.state != State::AdminDown {
            self.heard(packet, now);
            self.answer |= packet.poll;
        }
        self.schedule();
    }

    /// Fires every timer that is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.detect_at.is_some_and(|at| at <= now) {
            self.forget();
            match self.state {
                State::Up => self.down(Diagnostic::DETECTION_TIME_EXPIRED, Cause::Expired, now),
                State::Init => self.enter(State::Down, Some(Diagnostic::DETECTION_TIME_EXPIRED), now),
                State::Down | State::AdminDown => {}
            }
            self.schedule();
        }
        if self.next.is_some_and(|at| at <= now) {
            self.next = None;
            self.due = true;
        }
    }

    /// The operator takes the session down, or lets it come up again (section 6.8.16). Nothing is told by [`Self::poll_event`].
    pub fn set_admin_down(&mut self, down: bool, now: Instant) {
        match (down, self.state) {
            (true, State::Down | State::Init | State::Up) => {
                self.enter(State::AdminDown, Some(Diagnostic::ADMINISTRATIVELY_DOWN), now);
            }
            (false, State::AdminDown) => self.enter(State::Down, None, now),
            _ => {}
        }
        self.schedule();
    }

    /// The state machine of section 6.8.6.
    fn heard(&mut self, packet: &Packet, now: Instant) {
        match (self.state, packet.state) {
            (State::Up, State::AdminDown) => self.down(Diagnostic::NEIGHBOR_DOWN, Cause::NeighborAdmin, now),
            (State::Up, State::Down) => {
                self.down(Diagnostic::NEIGHBOR_DOWN, Cause::Neighbor(packet.diagnostic), now);
            }
            (State::Init, State::AdminDown) => self.enter(State::Down, Some(Diagnostic::NEIGHBOR_DOWN), now),
            (State::Down, State::Down) => self.enter(State::Init, None, now),
            (State::Down, State::Init) | (State::Init, State::Init | State::Up) => {
                self.enter(State::Up, Some(Diagnostic::NONE), now);
                self.events.push_back(Event::Up);
            }
            _ => {}
        }
    }

    fn down(&mut self, diagnostic: Diagnostic, cause: Cause, now: Instant) {
        self.enter(State::Down, Some(diagnostic), now);
        self.events.push_back(Event::Down(cause));
    }

    fn enter(&mut self, state: State, diagnostic: Option<Diagnostic>, now: Instant) {
        self.state = state;
        self.since = now;
        self.diagnostic = diagnostic.unwrap_or(self.diagnostic);
        // The offered interval goes up or down with Up. Other states have no poll sequences: all is told in every packet.
        self.polling = state == State::Up;
        self.polled = false;
        // The neighbour hears of it at once, not with the next periodic packet.
        self.due = true;
    }

    /// Section 6.8.1: nothing valid came for a detection time. What it last wished must not keep us silent for ever.
    fn forget(&mut self) {
        self.detect_at = None;
        self.remote_discriminator = 0;
        self.remote_min_rx = ANY;
        self.remote_demand = false;
        self.remote_state = State::Down;
    }

    /// What we offer as our interval.
    fn offered(&self) -> Duration {
        if self.state == State::Up { self.config.interval } else { self.config.interval.max(SLOW) }
    }

    /// The next periodic packet, by the interval as it is now.
    fn schedule(&mut self) {
        self.next = self.interval().map(|interval| self.last + interval.mul_f64(self.share));
    }

    fn packet(&self) -> Packet {
        Packet {
            diagnostic: self.diagnostic,
            state: self.state,
            poll: false,
            is_final: false,
            independent: false,
            demand: false,
            multiplier: self.config.multiplier.max(1),
            my_discriminator: self.config.discriminator,
            your_discriminator: self.remote_discriminator,
            desired_min_tx: in_micros(self.offered()),
            required_min_rx: in_micros(self.config.interval),
            required_min_echo_rx: 0,
        }
    }

    /// 0.75 to 1; to 0.9 where the loss of a single packet counts.
    fn jitter(&mut self) -> f64 {
        // xorshift64: jitter needs no better.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let most = if self.config.multiplier <= 1 { 0.90 } else { 1.0 };
        0.75 + (most - 0.75) * ((self.random >> 11) as f64 / (1u64 << 53) as f64)
    }
}

fn micros(count: u32) -> Duration {
    Duration::from_micros(count.into())
}

fn in_micros(span: Duration) -> u32 {
    u32::try_from(span.as_micros()).unwrap_or(u32::MAX)
}
