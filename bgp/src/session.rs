//! One peer's session machine: RFC 4271 section 8, without sockets and without a clock of its own.
//!
//! ```text
//!            start                TCP up                OPEN ok              KEEPALIVE
//!   Idle ----------> Connect --------------> OpenSent ----------> OpenConfirm --------> Established
//!    ^  \               | failed                ^                                            |
//!    |   \-- passive -> v                       |                                            |
//!    |               Active --- incoming TCP ---/                                            |
//!    |                 ^ \-- retry timer --> Connect                                         |
//!    |                 |                                                                     |
//!    \--- damped ------+------------- NOTIFICATION, time-out, close (all states) <-----------/
//! ```
//!
//! The driver reports what happened ([`Session::connected`], [`Session::received`], [`Session::closed`], ...), carries out
//! [`Session::poll_output`], and calls [`Session::handle_timeout`] when [`Session::poll_timeout`] has passed. A peer may have two
//! connections for a while, one from each side; section 6.8 and RFC 6286 say which one stays. Which state is shown is that of the
//! connection that has come furthest.
//!
//! Deviations, on purpose: a failed connection doesn't go through Idle unless the peer flaps (then incoming connections are refused for the
//! damping time as section 8.1.1 wants); DelayOpen isn't implemented; a KEEPALIVE counts as heard like every other message.
//!
//! UPDATEs are parsed by RFC 7606's rules, counted, and never used.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use ipnet::IpNet;

use crate::networks::is_network;
use crate::status::{Received, State};
use crate::wire::capability::{Capability, Negotiated, check_open, negotiate};
use crate::wire::error::OpenError;
use crate::wire::iana::{Cease, Family, FsmError, error_code};
use crate::wire::message::{Message, Notification, Open, RefreshSubtype, frame};
use crate::wire::{DecodeContext, EncodeContext, PeerType};

use self::retry::{End, Retry};

mod heard;
mod reason;
mod retry;
mod settings;
#[cfg(test)]
mod tests;

pub use self::heard::Heard;
pub use self::reason::describe;
pub use self::settings::SessionConfig;

/// How long a connection may stay in OpenSent ("a large value", section 8.2.2).
pub const OPEN_HOLD: Duration = Duration::from_secs(60);
/// Send hold time that the RFC recommends (RFC 9687 section 3.4).
pub const SEND_HOLD: Duration = Duration::from_secs(480);
/// An established session younger than this counts as one of two that collide, not as one that its peer has forgotten.
const SETTLED: Duration = Duration::from_secs(5);
/// How long a connection that would lose a collision waits for the OPEN on the one that would win.
const YIELD: Duration = Duration::from_secs(1);
/// Most connections of one peer at a time.
const CONNECTIONS: usize = 3;

/// Names one connection of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u32);

impl ConnectionId {
    /// That of no connection.
    pub const NONE: Self = Self(u32::MAX);
}

/// What the driver is to do, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Open a TCP connection to the peer; answer with [`Session::connected`] or [`Session::connect_failed`].
    Connect,
    /// Give up opening it; no answer is wanted.
    CancelConnect,
    /// Write these octets behind all others of the connection.
    Send(ConnectionId, Bytes),
    /// Close the connection once what was to be sent is written, or after a short time. No [`Session::closed`] is wanted.
    Close(ConnectionId),
    /// The session is up on this connection; the whole table is due.
    Up(ConnectionId, Box<Negotiated>),
    /// The session is down; why, in one line.
    Down(String),
    /// The peer wants this family again.
    Refresh(Family),
    /// What an established peer said of its own routes; only with [`SessionConfig::hear`].
    Heard(Heard),
    /// Networks that an established peer announced, and withdrew; see [`is_network`].
    Networks(Vec<IpNet>, Vec<IpNet>),
    /// It has said all that it has of this family.
    Said(Family),
}

/// How a session is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Cease, administrative shutdown, with a text for the peer's operator (RFC 9003). The peer drops our routes at once.
    Shutdown(String),
    /// Cease, peer de-configured: it was removed from the configuration. It drops our routes at once.
    Deconfigured,
    /// Cease, other configuration change: its session begins anew. It drops our routes at once.
    Changed,
    /// Just close: a peer with graceful restart keeps our routes for the restart time.
    Restart,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    OpenSent,
    OpenConfirm,
    Established,
}

#[derive(Debug)]
struct Connection {
    id: ConnectionId,
    /// We opened it.
    outgoing: bool,
    phase: Phase,
    buffer: BytesMut,
    context: DecodeContext,
    ours: Open,
    negotiated: Option<Box<Negotiated>>,
    hold: Duration,
    hold_until: Option<Instant>,
    keepalive_at: Option<Instant>,
    send_until: Option<Instant>,
    established: Option<Instant>,
    /// The peer's KEEPALIVE came, but a connection that would win against this one has still to show its OPEN; until then
    /// at most.
    yields_until: Option<Instant>,
}

/// One peer's session. See the module.
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    started: bool,
    connecting: bool,
    connections: Vec<Connection>,
    next_id: u32,
    retry: Retry,
    outputs: VecDeque<Output>,
    state: State,
    since: Instant,
    last_error: Option<(String, Instant)>,
    /// Why the last session ended, or was refused by word of one end: what failed tries to connect must not hide.
    cause: Option<String>,
    received: Received,
    /// The first session of this process is still to come.
    restarting: bool,
    /// What was announced in an earlier session still leads where it led: nothing of the data path runs through the guard. A peer drops at
    /// once what it kept when the F bits are missing (RFC 4724 section 4.2), also after a mere loss of the session.
    forwarding: bool,
}

impl Session {
    /// A session that isn't started.
    #[must_use]
    pub fn new(config: SessionConfig, now: Instant) -> Self {
        Self {
            restarting: config.restarting,
            forwarding: config.restarting,
            retry: Retry::new(config.seed),
            config,
            started: false,
            connecting: false,
            connections: Vec::new(),
            next_id: 0,
            outputs: VecDeque::new(),
            state: State::Idle,
            since: now,
            last_error: None,
            cause: None,
            received: Received::default(),
        }
    }

    /// The state of the connection that has come furthest, and since when.
    #[must_use]
    pub fn state(&self) -> (State, Instant) {
        (self.state, self.since)
    }

    /// What went wrong last.
    #[must_use]
    pub fn last_error(&self) -> Option<&(String, Instant)> {
        self.last_error.as_ref()
    }

    /// What came from the peer, over all connections.
    #[must_use]
    pub fn counts(&self) -> Received {
        self.received
    }

    /// What the established connection may use.
    #[must_use]
    pub fn negotiated(&self) -> Option<&Negotiated> {
        self.established().and_then(|at| self.connections.get(at)?.negotiated.as_deref())
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let timers = self.connections.iter().flat_map(|c| [c.hold_until, c.keepalive_at, c.send_until, c.yields_until]);
        let retry = if self.started { self.retry.due() } else { None };
        timers.flatten().chain(retry).min()
    }

    /// The operator wants the session.
    pub fn start(&mut self, now: Instant) {
        if !self.started {
            self.started = true;
            self.retry.reset();
            self.connect();
        }
        self.settle_state(now);
    }

    /// The operator doesn't want it any more.
    pub fn stop(&mut self, how: &Stop, now: Instant) {
        self.started = false;
        if std::mem::take(&mut self.connecting) {
            self.outputs.push_back(Output::CancelConnect);
        }
        let was_up = self.established().is_some();
        for connection in std::mem::take(&mut self.connections) {
            let why = match how {
                Stop::Shutdown(text) => Some(Notification::shutdown(text)),
                Stop::Deconfigured => Some(Notification::cease(Cease::PeerDeconfigured)),
                Stop::Changed => Some(Notification::cease(Cease::OtherConfigurationChange)),
                Stop::Restart => None,
            };
            if let Some(why) = why {
                // Where NOTIFICATIONs keep routes, only this one doesn't (RFC 8538 section 3).
                let keeps = connection.negotiated.as_ref().is_some_and(|terms| terms.graceful_notification);
                let notification = if keeps { Notification::hard_reset(&why) } else { why };
                self.notify(connection.id, &notification);
            }
            self.outputs.push_back(Output::Close(connection.id));
        }
        if was_up {
            self.outputs.push_back(Output::Down("stopped".to_owned()));
        }
        self.settle_state(now);
    }

    /// A TCP connection is up; `outgoing` if we opened it. `None`: close it, it isn't wanted now.
    pub fn connected(&mut self, outgoing: bool, now: Instant) -> Option<ConnectionId> {
        if outgoing {
            if !std::mem::take(&mut self.connecting) || !self.started {
                return None;
            }
        } else {
            if !self.started || self.retry.damped(now) {
                return None;
            }
            // A peer that connects anew has given up its earlier try.
            while let Some(at) = self.connections.iter().position(|c| !c.outgoing && c.phase == Phase::OpenSent) {
                self.drop_connection(at, Some(&Notification::cease(Cease::ConnectionCollision)));
            }
            if self.connections.len() >= CONNECTIONS {
                return None;
            }
        }
        let id = ConnectionId(self.next_id);
        self.next_id = self.next_id.wrapping_add(1);
        let ours = self.config.open(self.restarting, self.forwarding);
        let peer_type = if self.config.asn == self.config.peer_asn { PeerType::Internal } else { PeerType::External };
        self.send(id, &Message::Open(ours.clone()));
        self.connections.push(Connection {
            id,
            outgoing,
            phase: Phase::OpenSent,
            buffer: BytesMut::new(),
            context: DecodeContext::initial(peer_type),
            ours,
            negotiated: None,
            hold: OPEN_HOLD,
            hold_until: Some(now + OPEN_HOLD),
            keepalive_at: None,
            send_until: None,
            established: None,
            yields_until: None,
        });
        self.retry.hush();
        self.settle_state(now);
        Some(id)
    }

    /// The connection that [`Output::Connect`] asked for didn't come about.
    pub fn connect_failed(&mut self, error: &str, now: Instant) {
        if !std::mem::take(&mut self.connecting) {
            return;
        }
        if self.connections.is_empty() {
            self.note_try(format!("can't connect: {error}"), now);
            self.retry.connect_failed(now);
        }
        self.settle_state(now);
    }

    /// Octets came on a connection. They may be any part of the stream.
    pub fn received(&mut self, id: ConnectionId, octets: &[u8], now: Instant) {
        let Some(at) = self.index(id) else { return };
        if let Some(connection) = self.connections.get_mut(at) {
            connection.buffer.extend_from_slice(octets);
        }
        // Each message may end this connection, or another.
        while let Some(connection) = self.connections.iter_mut().find(|connection| connection.id == id) {
            let (octets, context) = match frame(&connection.buffer, &connection.context) {
                Ok(Some(length)) if length <= connection.buffer.len() => {
                    (connection.buffer.split_to(length), connection.context)
                }
                Ok(_) => break,
                Err(error) => {
                    let reason = format!("the peer sent no BGP: {error}");
                    self.fail(id, Some(&Notification::from(error)), reason, now);
                    break;
                }
            };
            self.received.messages += 1;
            match Message::decode(&octets, &context) {
                Ok(message) => {
                    self.message(id, message, now);
                    self.promote(now);
                }
                Err(error) => {
                    let reason = format!("the peer sent a bad message: {error}");
                    self.fail(id, Some(&Notification::from(error)), reason, now);
                }
            }
        }
        self.settle_state(now);
    }

    /// A connection ended from outside; `error` if it wasn't an orderly close.
    pub fn closed(&mut self, id: ConnectionId, error: Option<&str>, now: Instant) {
        let Some(at) = self.index(id) else { return };
        let Some((phase, outgoing)) = self.connections.get(at).map(|c| (c.phase, c.outgoing)) else { return };
        let what =
            error.map_or("the peer closed the connection".to_owned(), |error| format!("connection lost: {error}"));
        let reason = match phase {
            Phase::OpenSent => format!("{what} before its OPEN"),
            Phase::OpenConfirm => format!("{what} after the OPENs, before its KEEPALIVE"),
            Phase::Established => what,
        };
        self.remove(at);
        if phase == Phase::OpenSent && self.connections.is_empty() {
            self.note_try(reason, now);
            self.try_again(outgoing, End::Refused, now);
        } else {
            let end = if phase == Phase::Established { End::Lost } else { End::Refused };
            self.ended(phase, outgoing, end, reason, now);
        }
        self.settle_state(now);
    }

    /// Octets of this connection were written; `pending`: others still wait.
    pub fn written(&mut self, id: ConnectionId, pending: bool, now: Instant) {
        if let Some(connection) = self.connections.iter_mut().find(|connection| connection.id == id) {
            connection.send_until = pending.then(|| now + send_hold(self.config.send_hold, connection.hold));
        }
    }

    /// Octets of this connection wait and none could be written.
    pub fn stuck(&mut self, id: ConnectionId, now: Instant) {
        let idle = self.connections.iter().any(|connection| connection.id == id && connection.send_until.is_none());
        if idle {
            self.written(id, true, now);
        }
    }

    /// The driver ends the connection for a reason of its own, with this NOTIFICATION.
    pub fn abort(&mut self, id: ConnectionId, notification: &Notification, reason: String, now: Instant) {
        self.fail(id, Some(notification), reason, now);
        self.settle_state(now);
    }

    /// Fires every timer that is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let due = |timer: Option<Instant>| timer.is_some_and(|at| at <= now);
        while let Some(connection) = self.connections.iter().find(|c| due(c.hold_until)) {
            let (id, hold, phase) = (connection.id, connection.hold, connection.phase);
            let notification = Notification::hold_timer_expired();
            let seconds = hold.as_secs();
            let reason = match phase {
                // TCP came up, so what one end drops of the other is most likely its TTL.
                Phase::OpenSent => {
                    format!("no OPEN from the peer within {seconds} s; is ttl_security on at one end only?")
                }
                Phase::OpenConfirm => format!(
                    "hold timer expired: the peer sent its OPEN, then nothing for {seconds} s; is ttl_security on at its end \
                     only?"
                ),
                Phase::Established => format!("hold timer expired: nothing heard for {seconds} s"),
            };
            self.fail(id, Some(&notification), reason, now);
        }
        while let Some(connection) = self.connections.iter().find(|c| due(c.send_until)) {
            let (id, wait) = (connection.id, send_hold(self.config.send_hold, connection.hold));
            let notification = Notification::send_hold_timer_expired();
            let reason = format!("send hold timer expired: the peer took nothing for {} s", wait.as_secs());
            self.fail(id, Some(&notification), reason, now);
        }
        let keepalives: Vec<ConnectionId> =
            self.connections.iter().filter(|c| due(c.keepalive_at)).map(|c| c.id).collect();
        for id in keepalives {
            self.keepalive(id, now);
        }
        if self.started && self.retry.take_due(now) {
            self.connect();
        }
        self.settle_state(now);
    }

    fn established(&self) -> Option<usize> {
        self.connections.iter().position(|connection| connection.phase == Phase::Established)
    }

    fn index(&self, id: ConnectionId) -> Option<usize> {
        self.connections.iter().position(|connection| connection.id == id)
    }

    /// Tries to connect, unless the peer is to do that or there is a connection already.
    fn connect(&mut self) {
        if !self.config.passive && !self.connecting && self.connections.is_empty() {
            self.connecting = true;
            self.outputs.push_back(Output::Connect);
        }
    }

    fn send(&mut self, id: ConnectionId, message: &Message<'_>) {
        let context = self
            .connections
            .iter()
            .find(|connection| connection.id == id)
            .and_then(|connection| connection.negotiated.as_ref())
            .map_or(EncodeContext::initial(), |negotiated| negotiated.encode_context());
        let mut octets = BytesMut::new();
        match message.encode(&context, &mut octets) {
            Ok(()) => self.outputs.push_back(Output::Send(id, octets.freeze())),
            // Only an OPEN or NOTIFICATION with more data than fits; none of ours has it.
            Err(error) => tracing::error!(%error, "a message can't be encoded"),
        }
    }

    fn notify(&mut self, id: ConnectionId, notification: &Notification) {
        self.send(id, &Message::Notification(notification.clone()));
    }

    fn keepalive(&mut self, id: ConnectionId, now: Instant) {
        self.send(id, &Message::Keepalive);
        let jitter = self.retry.jitter();
        if let Some(connection) = self.connections.iter_mut().find(|connection| connection.id == id) {
            let interval = (connection.hold / 3).mul_f64(jitter);
            connection.keepalive_at = (!connection.hold.is_zero()).then(|| now + interval);
        }
    }

    fn message(&mut self, id: ConnectionId, message: Message<'_>, now: Instant) {
        let yields = self.connections.iter().any(|c| c.id == id && c.yields_until.is_some());
        if yields && !matches!(message, Message::Open(_) | Message::Notification(_)) {
            // The other end has this session up: it has decided.
            self.up(id, now);
        }
        let Some(connection) = self.connections.iter_mut().find(|connection| connection.id == id) else { return };
        let phase = connection.phase;
        if phase != Phase::OpenSent && !connection.hold.is_zero() {
            connection.hold_until = Some(now + connection.hold);
        }
        match (phase, message) {
            (_, Message::Notification(notification)) => {
                let reason = format!("peer says: {}", describe(&notification));
                self.fail(id, None, reason, now);
            }
            (Phase::OpenSent, Message::Open(theirs)) => self.opened(id, &theirs, now),
            (Phase::OpenConfirm, Message::Keepalive) => {
                connection.yields_until.get_or_insert(now + YIELD);
            }
            (Phase::Established, Message::Keepalive) => {}
            (Phase::Established, Message::Update(update)) => {
                for family in update.disabled_families().iter() {
                    connection.context.families.remove(family);
                }
                self.received.updates += 1;
                let (announced, withdrawn) = (update.announced_len() as u64, update.withdrawn_len() as u64);
                self.received.announced += announced;
                self.received.withdrawn += withdrawn;
                let news: Vec<IpNet> = update.announced().map(|route| route.prefix).filter(is_network).collect();
                let gone: Vec<IpNet> = update.withdrawn().map(|route| route.prefix).filter(is_network).collect();
                if !news.is_empty() || !gone.is_empty() {
                    self.outputs.push_back(Output::Networks(news, gone));
                }
                if let Some(family) = update.end_of_rib() {
                    self.outputs.push_back(Output::Said(family));
                }
                if self.config.hear && announced + withdrawn > 0 {
                    self.outputs.push_back(Output::Heard(Heard::update(&update)));
                }
                if let Some(family) = update.end_of_rib().filter(|_| self.config.hear) {
                    self.outputs.push_back(Output::Heard(Heard::Whole(family)));
                }
                if let Some(problem) = update.problems.first() {
                    self.received.malformed += 1;
                    tracing::debug!(%problem, "the peer's UPDATE has an error");
                }
            }
            (Phase::Established, Message::RouteRefresh(refresh)) => {
                self.received.refreshes += 1;
                if let Some(family) = refresh.family.family() {
                    match refresh.subtype {
                        RefreshSubtype::Request => self.outputs.push_back(Output::Refresh(family)),
                        RefreshSubtype::Begin if self.config.hear => {
                            self.outputs.push_back(Output::Heard(Heard::Begin(family)));
                        }
                        RefreshSubtype::End if self.config.hear => {
                            self.outputs.push_back(Output::Heard(Heard::End(family)));
                        }
                        RefreshSubtype::Begin | RefreshSubtype::End | RefreshSubtype::Unknown(_) => {}
                    }
                }
            }
            (phase, message) => {
                let (subcode, state) = match phase {
                    Phase::OpenSent => (FsmError::UnexpectedInOpenSent, "OpenSent"),
                    Phase::OpenConfirm => (FsmError::UnexpectedInOpenConfirm, "OpenConfirm"),
                    Phase::Established => (FsmError::UnexpectedInEstablished, "Established"),
                };
                let kind = message.kind();
                let notification = Notification::unexpected(subcode, kind);
                self.fail(id, Some(&notification), format!("unexpected {kind:?} in {state}"), now);
            }
        }
    }

    /// The peer's OPEN came: judge it, then see whether it collides.
    fn opened(&mut self, id: ConnectionId, theirs: &Open, now: Instant) {
        let Some(at) = self.index(id) else { return };
        let Some(ours) = self.connections.get(at).map(|connection| connection.ours.clone()) else { return };
        let negotiated = match self.judge(&ours, theirs) {
            Ok(negotiated) => negotiated,
            Err((error, reason)) => {
                self.fail(id, Some(&Notification::from(error)), reason, now);
                return;
            }
        };
        if !self.survives_collision(id, theirs, now) {
            let notification = Notification::cease(Cease::ConnectionCollision);
            if let Some(at) = self.index(id) {
                self.drop_connection(at, Some(&notification));
            }
            return;
        }
        let Some(connection) = self.connections.iter_mut().find(|connection| connection.id == id) else { return };
        connection.hold = Duration::from_secs(u64::from(negotiated.hold_time));
        connection.hold_until = (negotiated.hold_time > 0).then(|| now + connection.hold);
        connection.context = negotiated.decode_context();
        connection.negotiated = Some(Box::new(negotiated));
        connection.phase = Phase::OpenConfirm;
        self.keepalive(id, now);
    }

    fn judge(&self, ours: &Open, theirs: &Open) -> Result<Negotiated, (OpenError, String)> {
        let check = || {
            check_open(ours, theirs, self.config.peer_asn)?;
            let negotiated = negotiate(ours, theirs)?;
            if negotiated.families.is_empty() {
                let mut wanted = BytesMut::new();
                for family in self.config.families.iter() {
                    // Four octets of value: it always fits, and without it the data is only shorter.
                    Capability::Multiprotocol(family.afi_safi()).encode(&mut wanted).unwrap_or_default();
                }
                return Err(OpenError::UnsupportedCapability(wanted.to_vec()));
            }
            Ok(negotiated)
        };
        check().map_err(|error| {
            let reason = match &error {
                OpenError::BadPeerAs(asn) => {
                    format!("wrong AS: peer says {asn}, configured {}", self.config.peer_asn)
                }
                OpenError::BadIdentifier => {
                    format!("bad BGP identifier: peer says {}, ours is {}", theirs.identifier, self.config.router_id)
                }
                OpenError::UnsupportedCapability(_) => "no address family in common with the peer".to_owned(),
                other => format!("the peer's OPEN is refused: {other}"),
            };
            (error, reason)
        })
    }

    /// RFC 4271 section 6.8 with RFC 6286 section 2.3: whether connection `id`, whose OPEN has just come, stays. Those that lose to it are closed.
    fn survives_collision(&mut self, id: ConnectionId, theirs: &Open, now: Instant) -> bool {
        let Some(outgoing) = self.index(id).and_then(|at| self.connections.get(at)).map(|c| c.outgoing) else {
            return false;
        };
        let ours_wins = self.ours_wins(theirs.identifier, theirs.asn);
        let notification = Notification::cease(Cease::ConnectionCollision);
        while let Some(at) = self.connections.iter().position(|c| c.id != id && c.phase != Phase::OpenSent) {
            let Some(other) = self.connections.get(at) else { return false };
            if let Some(since) = other.established {
                let graceful = other.negotiated.as_ref().is_some_and(|n| n.graceful_restart.is_some());
                // A peer that restarted has forgotten the old session (RFC 4724 section 5); otherwise the established one stays.
                if !graceful || now.saturating_duration_since(since) < SETTLED {
                    return false;
                }
                self.drop_connection(at, None);
                self.note("the peer has restarted and opened a new session".to_owned(), now);
                self.outputs.push_back(Output::Down("the peer has restarted and opened a new session".to_owned()));
            } else if other.outgoing != outgoing && outgoing != ours_wins {
                return false;
            } else {
                self.drop_connection(at, Some(&notification));
            }
        }
        true
    }

    /// Whether of two connections the one that we opened stays.
    fn ours_wins(&self, identifier: Ipv4Addr, asn: u32) -> bool {
        (u32::from(self.config.router_id), self.config.asn) > (u32::from(identifier), asn)
    }

    /// Brings a connection up that has all it needs. One that would lose a collision against another whose OPEN may be on its way
    /// waits for that: the other end may be about to decide for the other one, and then both would be lost.
    fn promote(&mut self, now: Instant) {
        let ready = self.connections.iter().find_map(|connection| {
            let until = connection.yields_until.filter(|_| connection.phase == Phase::OpenConfirm)?;
            let terms = connection.negotiated.as_ref()?;
            let winner = self.ours_wins(terms.peer_identifier, terms.peer_as);
            let rival = self.connections.iter().any(|other| {
                other.phase == Phase::OpenSent && other.outgoing == winner && connection.outgoing != winner
            });
            (!rival || until <= now).then_some(connection.id)
        });
        if let Some(id) = ready {
            self.up(id, now);
        }
    }

    fn up(&mut self, id: ConnectionId, now: Instant) {
        let collision = Notification::cease(Cease::ConnectionCollision);
        while let Some(at) = self.connections.iter().position(|connection| connection.id != id) {
            self.drop_connection(at, Some(&collision));
        }
        if std::mem::take(&mut self.connecting) {
            self.outputs.push_back(Output::CancelConnect);
        }
        let Some(connection) = self.connections.iter_mut().find(|connection| connection.id == id) else { return };
        connection.phase = Phase::Established;
        connection.yields_until = None;
        connection.established = Some(now);
        if let Some(negotiated) = connection.negotiated.clone() {
            self.outputs.push_back(Output::Up(id, negotiated));
        }
        self.restarting = false;
        self.forwarding = true;
        self.cause = None;
        self.retry.established(now);
    }

    /// Ends a connection because of an error; the peer is told by `notification`.
    fn fail(&mut self, id: ConnectionId, notification: Option<&Notification>, reason: String, now: Instant) {
        let Some(at) = self.index(id) else { return };
        let Some((phase, outgoing)) = self.connections.get(at).map(|c| (c.phase, c.outgoing)) else { return };
        self.drop_connection(at, notification);
        let silent = |notification: &Notification| {
            matches!(notification.code, error_code::HOLD_TIMER_EXPIRED | error_code::SEND_HOLD_TIMER_EXPIRED)
        };
        let end = if notification.is_some_and(silent) { End::Lost } else { End::Refused };
        self.ended(phase, outgoing, end, reason, now);
    }

    fn drop_connection(&mut self, at: usize, notification: Option<&Notification>) {
        let Some(id) = self.connections.get(at).map(|connection| connection.id) else { return };
        if let Some(notification) = notification {
            self.notify(id, notification);
        }
        self.remove(at);
        self.outputs.push_back(Output::Close(id));
    }

    fn remove(&mut self, at: usize) {
        if at < self.connections.len() {
            self.connections.swap_remove(at);
        }
    }

    /// After a connection ended: what it means for the session.
    fn ended(&mut self, phase: Phase, outgoing: bool, end: End, reason: String, now: Instant) {
        let was_up = phase == Phase::Established;
        if was_up {
            self.outputs.push_back(Output::Down(reason.clone()));
        }
        // One of two may die without harm.
        if was_up || self.connections.is_empty() {
            self.note(reason, now);
        }
        self.try_again(outgoing && !was_up, end, now);
    }

    /// Without any connection: when to try again. A try of ours that the peer turned down is no reason to turn its own down.
    fn try_again(&mut self, ours: bool, end: End, now: Instant) {
        if self.connections.is_empty() && self.started {
            if ours {
                self.retry.connect_failed(now)
            } else {
                self.retry.session_failed(end, now)
            }
            if end == End::Refused
                && self.retry.damped(now)
                && let (Some(due), Some((line, _))) = (self.retry.due(), &mut self.last_error)
            {
                let wait = due.saturating_duration_since(now).as_secs_f64().ceil();
                line.push_str(&format!("; sessions fail again and again: no other for {wait} s"));
            }
        }
    }

    fn note(&mut self, reason: String, now: Instant) {
        self.cause = Some(reason.clone());
        self.last_error = Some((reason, now));
    }

    /// A try that came to nothing says less than how the last session ended.
    fn note_try(&mut self, reason: String, now: Instant) {
        let line = match &self.cause {
            Some(cause) => format!("{cause}; since then: {reason}"),
            None => reason,
        };
        self.last_error = Some((line, now));
    }

    fn settle_state(&mut self, now: Instant) {
        self.promote(now);
        let furthest = self.connections.iter().map(|connection| connection.phase).max();
        let state = match furthest {
            Some(Phase::Established) => State::Established,
            Some(Phase::OpenConfirm) => State::OpenConfirm,
            Some(Phase::OpenSent) => State::OpenSent,
            None if !self.started || self.retry.damped(now) => State::Idle,
            None if self.connecting => State::Connect,
            None => State::Active,
        };
        if state != self.state {
            self.state = state;
            self.since = now;
        }
    }
}

/// The send hold time (RFC 9687 section 3.4): the configured one, or 8 minutes; twice the hold time at least.
fn send_hold(configured: Duration, hold: Duration) -> Duration {
    if configured.is_zero() { SEND_HOLD } else { configured }.max(hold * 2)
}
