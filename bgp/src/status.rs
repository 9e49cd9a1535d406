//! What an operator sees of a peer.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::bfd::state as bfd;
use crate::config::{Confirm, Role};
use crate::wire::iana::Families;

/// A session's state, in BGP's own words (RFC 4271 section 8.2.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Stopped, or waiting out a back-off.
    #[default]
    Idle,
    /// TCP is connecting.
    Connect,
    /// Waiting for the peer to connect, or for the next try.
    Active,
    /// TCP is up, our OPEN is sent.
    OpenSent,
    /// The peer's OPEN was accepted.
    OpenConfirm,
    /// Routes may flow.
    Established,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What came from a peer. Counted, never used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Messages of every kind.
    pub messages: u64,
    /// Number of UPDATE messages.
    pub updates: u64,
    /// Routes announced in them.
    pub announced: u64,
    /// Routes withdrawn in them.
    pub withdrawn: u64,
    /// UPDATEs with an error that RFC 7606 lets a session survive.
    pub malformed: u64,
    /// Number of ROUTE-REFRESH requests.
    pub refreshes: u64,
}

/// How long announcements took to be confirmed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// The newest span; `None` before the first.
    pub latest: Option<Duration>,
    /// How many, per bucket of [`Latency::BOUNDS`]; the last counts all above.
    pub buckets: [u64; 17],
    /// How many in all.
    pub count: u64,
    /// Sum of all spans.
    pub sum: Duration,
}

impl Latency {
    /// Upper bounds of the buckets, in microseconds.
    pub const BOUNDS: [u64; 16] = [
        100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 75_000, 100_000, 250_000, 500_000, 1_000_000,
        2_500_000, 5_000_000,
    ];

    /// Counts one span.
    pub fn add(&mut self, span: Duration) {
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        let bucket = Self::BOUNDS.partition_point(|bound| *bound < micros);
        if let Some(count) = self.buckets.get_mut(bucket) {
            *count += 1;
        }
        self.latest = Some(span);
        self.count += 1;
        self.sum = self.sum.saturating_add(span);
    }

    /// The upper bound of the bucket in which the `share` (0 to 1) quantile lies; `None` when nothing was counted or it lies above all bounds.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let mut seen = 0u64;
        for (count, bound) in self.buckets.iter().zip(Self::BOUNDS) {
            seen += count;
            if self.count > 0 && seen as f64 >= share * self.count as f64 {
                return Some(Duration::from_micros(bound));
            }
        }
        None
    }
}

/// A peer at one moment.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// Name of the peer, as configured.
    pub name: String,
    /// Address of the peer, as configured.
    pub address: IpAddr,
    /// AS number of the peer, as configured.
    pub asn: u32,
    /// Role of the peer, as configured.
    pub role: Role,
    /// Whether its word on routes counts: not that of an observer of another peer.
    pub confirms: bool,
    /// How the peer confirms, as configured.
    pub confirm: Confirm,
    /// What is waited after a confirmation now.
    pub settle: Duration,
    /// The session's state.
    pub state: State,
    /// Moment at which the state was entered.
    pub since: Instant,
    /// What went wrong last, in one line, and when.
    pub last_error: Option<(String, Instant)>,
    /// What works worse than configured while the session is up, in one line.
    pub warning: Option<String>,
    /// Whether the warning says that nothing is confirmed, or nothing of what was announced lately.
    pub is_failing: bool,
    /// Routes the peer was given, IPv4 and IPv6.
    pub advertised: [usize; 2],
    /// What came from it.
    pub received: Received,
    /// Families both ends want; none while there is no session.
    pub families: Families,
    /// Capabilities that both ends announced, by name.
    pub capabilities: Vec<&'static str>,
    /// The negotiated hold time; zero = none.
    pub hold_time: Option<Duration>,
    /// Routes of the table that this session started with that are not confirmed one by one yet.
    pub unverified: usize,
    /// Withdrawals that the observer should hear of and hasn't.
    pub closing: usize,
    /// Routes that are in force by another guard's path, as far as can be told.
    pub borrowed: usize,
    /// From a withdrawal to its coming back from the observer.
    pub close_latency: Latency,
    /// What was learnt of the time that the router needs after its word: samples, median and 99th percentile.
    pub learnt: Option<(usize, Option<[Duration; 2]>)>,
    /// Newest confirmed generation of this session.
    pub confirmed: Option<u64>,
    /// From a change of the table to its confirmation.
    pub latency: Latency,
    /// Times the session came up.
    pub established: u64,
    /// Octets that wait in our own memory to be written.
    pub queued: usize,
    /// The BFD session beside it, where one is configured.
    pub bfd: Option<BfdStatus>,
}

/// A BFD session at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BfdStatus {
    /// State of the BFD session (RFC 5880 section 6.2).
    pub state: bfd::State,
    /// Moment at which the state was entered.
    pub since: Instant,
    /// The neighbour's state as it last said.
    pub remote_state: bfd::State,
    /// Between our packets, before jitter; `None` while the neighbour wants none.
    pub interval: Option<Duration>,
    /// Silence of this length means Down; zero before the neighbour was heard.
    pub detection_time: Duration,
    /// Why it last went down after it was up.
    pub cause: Option<bfd::Cause>,
    /// Times it came up.
    pub ups: u64,
    /// Times it went down after it was up, and not on purpose. Each ends an established BGP session.
    pub failures: u64,
    /// Packets from the peer's address that were discarded.
    pub discarded: u64,
    /// Why the last one was.
    pub last_discard: Option<String>,
}

impl BfdStatus {
    /// A session that nothing has happened to.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            state: bfd::State::Down,
            since: now,
            remote_state: bfd::State::Down,
            interval: None,
            detection_time: Duration::ZERO,
            cause: None,
            ups: 0,
            failures: 0,
            discarded: 0,
            last_discard: None,
        }
    }
}

impl PeerStatus {
    /// A peer that nothing has happened to.
    #[must_use]
    pub fn new(peer: &crate::config::PeerConfig, now: Instant) -> Self {
        Self {
            name: peer.name.clone(),
            address: peer.address,
            asn: peer.asn,
            role: peer.role,
            confirms: (peer.role != Role::Observer || peer.watches) && peer.role != Role::Guard,
            confirm: peer.confirm,
            settle: peer.settle,
            state: State::Idle,
            since: now,
            last_error: None,
            warning: None,
            is_failing: false,
            advertised: [0; 2],
            received: Received::default(),
            families: Families::NONE,
            capabilities: Vec::new(),
            hold_time: None,
            unverified: 0,
            closing: 0,
            borrowed: 0,
            close_latency: Latency::default(),
            learnt: None,
            confirmed: None,
            latency: Latency::default(),
            established: 0,
            queued: 0,
            bfd: peer.bfd.map(|_| BfdStatus::new(now)),
        }
    }
}
