//! Every JSON shape that leaves the daemon. Scripts rely on the names: fields may be added, none renamed or removed while
//! [`VERSION`] stays.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::config::schema::Action;
use crate::core::explain;
use crate::core::proof::EnforcerState;

mod application;
mod asked;
mod bfd;
mod denied;
mod exception;
mod guard;
mod hours;
mod list;
mod past;
mod process;
mod service;
mod suggest;
mod top;
mod zone;

pub use application::Application;
pub use asked::{Asked, AskedPage};
pub use bfd::Bfd;
pub use denied::{Denied, DeniedPage, Sender};
pub use exception::Exception;
pub use guard::OtherGuard;
pub use hours::Scheduled;
pub use list::{Fetch, List};
pub use past::{Past, Plotted};
pub use process::{CONFINED, Process};
pub use service::{Service, ServicePeer};
pub use suggest::{Suggested, SuggestedAddress, SuggestedName};
pub use top::{Top, TopAddress, TopClient, TopDenied, TopName, TopPage};
pub use zone::Zone;

/// In every object at the top, as `version`.
pub const VERSION: u32 = 1;

/// An object with its version.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Versioned<T> {
    /// The version of the interface, always [`VERSION`].
    pub version: u32,
    /// The object itself; its fields stand beside the version.
    #[serde(flatten)]
    pub body: T,
}

impl<T> Versioned<T> {
    /// `body` in this version.
    pub fn new(body: T) -> Self {
        Self { version: VERSION, body }
    }
}

/// How the guard is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Every enforcer is in force.
    Enforcing,
    /// An enforcer only counts and logs.
    Audit,
    /// Something is wrong; `reasons` says what.
    Degraded,
    /// An enforcer has not reported yet.
    Starting,
}

impl State {
    /// The word for the state in JSON and in tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforcing => "enforcing",
            Self::Audit => "audit",
            Self::Degraded => "degraded",
            Self::Starting => "starting",
        }
    }
}

/// The body of `status`: all that the guard says of itself at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Status {
    /// In one word.
    pub state: State,
    /// Why it is not "enforcing".
    pub reasons: Vec<String>,
    /// What is not well, or soon won't be, though the guard does what it should: nothing of it changes `state` or `/ready`.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Prefixes of the network itself, of which answers open nothing: configured ones and on-link ones, each with its cause. Absent: there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inside: Vec<String>,
    /// What the daemon's process may do.
    #[serde(default)]
    pub process: Process,
    /// Since the daemon started.
    pub uptime_seconds: u64,
    /// Of the lease table.
    pub leases: LeaseCounts,
    /// Of the questions.
    pub answers: AnswerCounts,
    /// All of them.
    pub enforcers: Vec<Enforcer>,
    /// All of them.
    pub upstreams: Vec<Upstream>,
    /// All of them, in short.
    pub peers: Vec<Peer>,
    /// The guard's own anycast addresses. Absent: there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Service>,
    /// The policy's list files that are in force, in the order of the configuration.
    #[serde(default)]
    pub lists: Vec<List>,
    /// The local zones in force, in the order of the configuration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<Zone>,
    /// Applications that names are bound to, in the order of the configuration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub applications: Vec<Application>,
    /// Groups and lists that are out of their hours.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub out_of_hours: Vec<Scheduled>,
    /// Those that are in force by their schedules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub in_hours: Vec<Scheduled>,
    /// The operator's exceptions from the policy, in the order in which they end.
    #[serde(default)]
    pub exceptions: Vec<Exception>,
    /// The last few, newest first.
    pub errors: Vec<LoggedError>,
}

/// Part of [`Status`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct LeaseCounts {
    /// Leases that live now, of both families; lingering routes don't count.
    pub active: usize,
    /// Of them IPv4.
    pub ipv4: usize,
    /// Of them IPv6.
    pub ipv6: usize,
    /// Not yet open at every required enforcer.
    pub pending: usize,
    /// Ended, with a route that stays a while.
    pub lingering: usize,
    /// Of these, routes that stay for live flows alone.
    #[serde(default)]
    pub held_by_flows: usize,
    /// The most there may be.
    pub capacity: usize,
}

/// Part of [`Status`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct AnswerCounts {
    /// Released with every address in force.
    pub released: u64,
    /// Denied by policy or filter.
    pub denied: u64,
    /// In audit: questions that would have been refused, or answered in part.
    #[serde(default)]
    pub would_refuse: u64,
    /// Waiting at the gate now.
    pub held: usize,
    /// Whose gate deadline passed.
    pub gate_timeouts: u64,
    /// Refused by a budget, a full table or an enforcer.
    pub refused: u64,
}

/// An enforcer and how far it came with what it was told.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Enforcer {
    /// "nftables" or the peer's name.
    pub name: String,
    /// "starting", "in-force", "partial" (some of the table that it was given is not confirmed yet) or "lost".
    pub state: String,
    /// Addresses it holds.
    pub installed: usize,
    /// Why it was last lost, or what it last refused.
    pub last_error: Option<String>,
    /// Whether answers wait for it.
    pub required: bool,
    /// Since it entered its state.
    pub since_seconds: u64,
    /// The most it may hold.
    pub max_addresses: usize,
    /// Whether there are changes it has not acknowledged.
    pub behind: bool,
    /// For how long it has acknowledged nothing though there are.
    #[serde(default)]
    pub behind_seconds: u64,
}

impl From<explain::EnforcerView> for Enforcer {
    fn from(view: explain::EnforcerView) -> Self {
        let state = match view.state {
            EnforcerState::Starting => "starting",
            EnforcerState::InForce => "in-force",
            EnforcerState::Partial => "partial",
            EnforcerState::Lost => "lost",
        };
        Self {
            name: view.name,
            state: state.to_owned(),
            installed: view.installed,
            last_error: view.last_error,
            required: view.required,
            since_seconds: view.since_seconds,
            max_addresses: view.max_addresses,
            behind: view.behind,
            behind_seconds: view.behind_seconds,
        }
    }
}

/// An upstream resolver and how it fares.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Upstream {
    /// Its URL, written as in the configuration.
    pub url: String,
    /// Whether it replied, and questions go to it at present.
    pub healthy: bool,
    /// "healthy", "broken" (it doesn't reply), or "unknown" (it never replied yet).
    #[serde(default)]
    pub state: String,
    /// Queries sent to it since the guard started.
    pub asked: u64,
    /// Of them without a usable reply.
    pub failed: u64,
    /// Smoothed round trip.
    pub rtt_ms: Option<u64>,
    /// The last failure.
    pub last_error: Option<String>,
}

/// Something that went wrong lately.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct LoggedError {
    /// How long ago.
    pub seconds_ago: u64,
    /// The message as it stands in the log.
    pub message: String,
}

/// The body of `leases`: what is open, one object for each address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Leases {
    /// In the order of their addresses.
    pub leases: Vec<Lease>,
    /// Where the next page starts (`after`), when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<IpAddr>,
}

/// A lease: an address that may be reached until a moment, and how far its enforcers are.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Lease {
    /// The leased address.
    pub address: IpAddr,
    /// "pending", "installed" or "lingering".
    pub state: String,
    /// Until it ends; of a lingering one until its route is withdrawn.
    pub ends_in_seconds: u64,
    /// Questions that caused it.
    pub names: Vec<String>,
    /// The clients whose questions caused it.
    pub clients: Vec<IpAddr>,
    /// Where only some of its ports are open: these, as "tcp/443".
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<String>,
    /// Where it is open for single applications of this host only: these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub applications: Vec<String>,
    /// Groups whose communities its route bears.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Per enforcer "open", "opening", "closed", "lost", "unsupported" or "audit" (it would be announced).
    pub enforcers: BTreeMap<String, String>,
}

fn lease_state(state: explain::LeaseState) -> String {
    match state {
        explain::LeaseState::Pending => "pending",
        explain::LeaseState::Installed => "installed",
        explain::LeaseState::Lingering => "lingering",
    }
    .to_owned()
}

impl From<explain::LeaseView> for Lease {
    fn from(view: explain::LeaseView) -> Self {
        Self {
            address: view.address,
            state: lease_state(view.state),
            ends_in_seconds: view.ends_in_seconds,
            names: view.names,
            clients: view.clients,
            ports: view.ports.iter().map(ToString::to_string).collect(),
            applications: view.applications.iter().map(ToString::to_string).collect(),
            groups: view.groups,
            enforcers: view.enforcers,
        }
    }
}

/// The body of `explain`: what is known of a name or an address, and why.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Explained {
    /// What was asked about.
    pub query: String,
    /// Whether it, or any address of the name, is open now.
    pub open: bool,
    /// What would happen to a question for it, or an answer with it, now.
    pub now: Judgement,
    /// The leases that the subject's questions opened, one for each address.
    pub addresses: Vec<AddressExplained>,
    /// Of a name: what a question for it would get now, by type. Empty where that isn't found out: over TCP, or when the name is denied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<Tried>,
    /// Leases that are over, as far as they are remembered: of an address that is closed its last one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ended: Vec<EndedLease>,
    /// Packets to the address that were refused, as far as the ruleset told of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<RefusedPackets>,
}

/// What a question of one type would get now.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Tried {
    /// "A" or "AAAA".
    pub qtype: String,
    /// As in [`Judgement::verdict`]; "failed" where no upstream gives an answer.
    pub verdict: String,
    /// In a sentence.
    pub reason: String,
    /// The rule that decides.
    pub rule: Option<String>,
    /// Where it is written.
    pub place: Option<String>,
    /// Aliases behind the question.
    pub chain: Vec<String>,
    /// The addresses of the answer.
    pub addresses: Vec<TriedAddress>,
}

/// One address of an answer that would be given.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct TriedAddress {
    /// The address as the answer has it.
    pub address: IpAddr,
    /// "allowed" (it would be opened), "always open" or "filtered".
    pub verdict: String,
    /// The reason why it would be filtered; without one it would be leased.
    pub reason: Option<String>,
    /// The rule that decides, as in `policy.private[0]`.
    pub rule: Option<String>,
    /// Where it is written.
    pub place: Option<String>,
}

/// A lease that is over.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct EndedLease {
    /// The address that was open.
    pub address: IpAddr,
    /// Questions that had opened it, some of them.
    pub names: Vec<String>,
    /// Since it was closed.
    pub seconds_ago: u64,
    /// Why it was.
    pub how: String,
}

impl From<explain::EndedView> for EndedLease {
    fn from(view: explain::EndedView) -> Self {
        Self {
            address: view.address,
            names: view.causes.iter().map(|(question, _)| question.to_string()).collect(),
            seconds_ago: view.seconds_ago,
            how: view.how.to_owned(),
        }
    }
}

/// Packets that were refused.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct RefusedPackets {
    /// Packets to the address that were refused, of all clients together.
    pub packets: u64,
    /// Who sent them, those who did last first, some of them.
    pub clients: Vec<RefusedClient>,
}

/// One who sent them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct RefusedClient {
    /// The client whose packets were refused.
    pub client: IpAddr,
    /// Packets that this client sent and that were refused.
    pub packets: u64,
    /// Since the last one.
    pub last_seconds_ago: u64,
}

/// What policy and filter say at present.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Judgement {
    /// "allowed", "denied", "answered here" (a name that no upstream is asked for), "always open", "filtered", "failed" (no upstream
    /// gives an answer) or "unknown".
    pub verdict: String,
    /// In a sentence.
    pub reason: String,
    /// The rule that decides, as in `policy.deny[2]`.
    pub rule: Option<String>,
    /// Where it is written, as file:line.
    pub place: Option<String>,
}

/// Why one address is open.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct AddressExplained {
    /// The address that is open.
    pub address: IpAddr,
    /// As in [`Lease::state`].
    pub state: String,
    /// Since the lease began.
    pub age_seconds: u64,
    /// Until the lease ends.
    pub ends_in_seconds: u64,
    /// Until the route is withdrawn, where there are routes.
    pub route_ends_in_seconds: Option<u64>,
    /// A live flow keeps the route though the lease has ended: for so long as things are now, and at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_by_flow_seconds: Option<(u64, u64)>,
    /// Every question that opened it.
    pub causes: Vec<Cause>,
    /// For whom it is open, some of them; absent: for everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_for: Option<Vec<CauseClient>>,
    /// Where single ports are open: which. All of the address may be open beside them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_ports: Option<Vec<super::ports::OpenPort>>,
    /// Groups whose communities its route bears.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Group>,
    /// What each enforcer does about it.
    pub enforcers: Vec<Hold>,
    /// Answers that wait at the gate for it.
    pub waiting: usize,
}

/// One group whose communities a route bears.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Group {
    /// The group's name, as configured.
    pub name: String,
    /// Until what its clients were told ends; then the communities stay for `bgp.linger`.
    pub ends_in_seconds: u64,
    /// Whether every required router has the route with them.
    pub in_force: bool,
}

/// One question that opened an address.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Cause {
    /// The name that the question asked for.
    pub question: String,
    /// Its type as a number; unknown after a restart.
    pub qtype: Option<u16>,
    /// The aliases behind it.
    pub chain: Vec<String>,
    /// The group of those who asked, when it has communities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// By what they were known, if by more than their addresses: "certificate NAME" or "path PATH".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_by: Option<String>,
    /// Who asked; unknown after a restart.
    pub clients: Vec<CauseClient>,
    /// Until it ends.
    pub ends_in_seconds: u64,
}

/// One client of a cause.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct CauseClient {
    /// The client that asked, by its address.
    pub client: IpAddr,
    /// Until what it was told ends.
    pub ends_in_seconds: u64,
}

/// What one enforcer does about one address.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Hold {
    /// The enforcer's name, as in `status`.
    pub name: String,
    /// Whether answers wait for it.
    pub required: bool,
    /// As in [`Lease::enforcers`].
    pub state: String,
    /// For how long the address has been open there.
    pub since_seconds: Option<u64>,
}

impl From<explain::Explanation> for AddressExplained {
    fn from(view: explain::Explanation) -> Self {
        let client = |c: explain::ClientView| CauseClient { client: c.client, ends_in_seconds: c.ends_in_seconds };
        let cause = |c: explain::CauseView| Cause {
            question: c.question,
            qtype: c.qtype,
            chain: c.chain,
            group: c.group,
            known_by: c.known_by,
            clients: c.clients.into_iter().map(client).collect(),
            ends_in_seconds: c.ends_in_seconds,
        };
        let group =
            |g: explain::GroupView| Group { name: g.name, ends_in_seconds: g.ends_in_seconds, in_force: g.in_force };
        let hold = |h: explain::HoldView| Hold {
            name: h.name,
            required: h.required,
            state: h.state,
            since_seconds: h.since_seconds,
        };
        Self {
            address: view.address,
            state: lease_state(view.state),
            age_seconds: view.age_seconds,
            ends_in_seconds: view.ends_in_seconds,
            route_ends_in_seconds: view.route_ends_in_seconds,
            held_by_flow_seconds: view.held_by_flow_seconds,
            causes: view.causes.into_iter().map(cause).collect(),
            open_for: view.open_for.map(|clients| clients.into_iter().map(client).collect()),
            open_ports: view.open_ports.map(|ports| ports.into_iter().map(Into::into).collect()),
            groups: view.groups.into_iter().map(group).collect(),
            enforcers: view.enforcers.into_iter().map(hold).collect(),
            waiting: view.waiting,
        }
    }
}

/// The body of `peers`: every BGP peer with its session and routes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Peers {
    /// In the order of the file.
    pub peers: Vec<Peer>,
}

/// One BGP peer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Peer {
    /// The peer's name, as configured.
    pub name: String,
    /// The address that the session goes to.
    pub address: IpAddr,
    /// The number of the peer's autonomous system.
    pub asn: u32,
    /// "Idle", "Connect", "Active", "OpenSent", "OpenConfirm" or "Established".
    pub state: String,
    /// Since it entered its state.
    pub since_seconds: u64,
    /// Routes it was sent.
    pub advertised: Advertised,
    /// In audit: routes it would have been sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub would_advertise: Option<Advertised>,
    /// As configured, with what is waited behind it: "acked + 75ms".
    pub confirm: String,
    /// Announce to confirmation, median, once known.
    #[serde(default)]
    pub confirm_latency_ms: Option<u64>,
    /// How it confirms, in more detail; `None` for an observer.
    #[serde(default)]
    pub confirmations: Option<Confirmations>,
    /// What the peer's OPEN said, in words.
    pub capabilities: Vec<String>,
    /// What works worse than it should while the session is up, else why it was last down.
    pub last_error: Option<String>,
    /// Why nothing is confirmed, or announcements are not, though the session is up.
    #[serde(default)]
    pub unconfirmed: Option<String>,
    /// What else works worse than configured while the session is up.
    #[serde(default)]
    pub warning: Option<String>,
    /// The peer whose session shows what it has, with confirm = "reflect".
    #[serde(default)]
    pub observer: Option<String>,
    /// Whether answers wait for it.
    #[serde(default)]
    pub required: bool,
    /// The most routes it may get.
    #[serde(default)]
    pub max_routes: usize,
    /// What came from it: counted, never used.
    #[serde(default)]
    pub received: Received,
    /// Times the session came up.
    #[serde(default)]
    pub sessions: u64,
    /// Octets that wait in the guard's memory until the peer takes them.
    #[serde(default)]
    pub queued_octets: usize,
    /// The BFD session beside it, where one is configured.
    #[serde(default)]
    pub bfd: Option<Bfd>,
    /// What it says of its leases, where it is another guard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<OtherGuard>,
}

/// How a peer confirms.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Confirmations {
    /// Confirmations, or with "reflect" and "probe" confirmed addresses, since the start.
    pub count: u64,
    /// A hundredth took longer than this; an upper bound.
    pub p99_ms: Option<u64>,
    /// Half of them took longer than this, in microseconds; an upper bound.
    #[serde(default)]
    pub p50_us: Option<u64>,
    /// Likewise a hundredth.
    #[serde(default)]
    pub p99_us: Option<u64>,
    /// Those that took so many microseconds at most and more than the entry before: only entries that have any. `None` = more than the last bound.
    pub histogram: Vec<(Option<u64>, u64)>,
    /// Waited after the peer's word.
    pub settle_ms: u64,
    /// With settle = "auto": what is known of the time from the peer's word until it forwards.
    pub learnt: Option<Learnt>,
    /// Routes of the table that the session started with that are not confirmed yet, where each is confirmed by itself.
    pub unverified: usize,
    /// Withdrawals that the observer hasn't heard of yet.
    pub closing: usize,
    /// Routes in force by another guard's path: whether ours was taken shows only when that one goes.
    #[serde(default)]
    pub borrowed: usize,
    /// From a withdrawal to the observer's hearing of it, median, once known.
    pub close_latency_ms: Option<u64>,
}

/// What probes showed of the time from a router's word until it forwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Learnt {
    /// Answered probes that count for as many routes as were announced lately.
    pub samples: usize,
    /// Half of them took longer.
    pub p50_ms: Option<u64>,
    /// A hundredth took longer.
    pub p99_ms: Option<u64>,
}

/// What a BGP peer sent since the guard started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Received {
    /// Messages of every kind.
    pub messages: u64,
    /// UPDATE messages, of routes and of End-of-RIB alike.
    pub updates: u64,
    /// Routes announced in them.
    pub announced: u64,
    /// Routes withdrawn in them.
    pub withdrawn: u64,
    /// UPDATEs with an error that a session survives (RFC 7606).
    pub malformed: u64,
    /// ROUTE-REFRESH messages, each of which has all routes sent again.
    pub refreshes: u64,
}

impl Bfd {
    /// In a few words, as a table shows it.
    #[must_use]
    pub fn words(&self) -> String {
        match (self.state.as_str(), self.detection_ms, &self.last_down) {
            ("Up", Some(detection), _) => format!("Up ({detection}ms)"),
            ("Up", None, _) | (_, _, None) => self.state.clone(),
            (state, _, Some(cause)) => format!("{state}: {cause}"),
        }
    }
}

/// Routes sent to a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Advertised {
    /// Routes of IPv4 that the peer has from us.
    pub ipv4: usize,
    /// Routes of IPv6 that the peer has from us.
    pub ipv6: usize,
}

/// The body of `revoke`: what was closed, and what stays open for other causes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Revoked {
    /// What was named.
    pub target: String,
    /// The addresses that were closed.
    pub addresses: Vec<IpAddr>,
    /// Those that stay open, since other names hold them too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stays: Vec<Stays>,
    /// Kept answers that were forgotten.
    #[serde(default)]
    pub forgotten: usize,
}

/// An address that stays open.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Stays {
    /// The address that other causes keep open.
    pub address: IpAddr,
    /// Questions that hold it.
    pub names: Vec<String>,
    /// Until its lease ends.
    pub ends_in_seconds: u64,
}

/// The body of `deny` and `allow`: the exception that was made or undone.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Excepted {
    /// What was named.
    pub target: String,
    /// "deny" or "allow".
    pub action: Action,
    /// The one client it is for; without it, it is for everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<IpAddr>,
    /// For how long; absent: it was undone.
    pub ends_in_seconds: Option<u64>,
    /// Addresses of the name itself that were closed by it.
    pub closed: Vec<IpAddr>,
    /// Those that stay open, since other names hold them too.
    pub stays: Vec<Stays>,
}

/// The body of `reload`: what changed, what needs a restart, and what was wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Reloaded {
    /// Whether the new configuration is in force.
    pub applied: bool,
    /// Nothing was to be applied, only said.
    #[serde(default)]
    pub dry_run: bool,
    /// What differs and can be in force at once, one line each.
    pub changes: Vec<String>,
    /// What keeps its value until a restart, one line each.
    #[serde(default)]
    pub needs_restart: Vec<String>,
    /// Seconds after which it is taken back, unless it is confirmed.
    #[serde(default)]
    pub goes_back_in_seconds: Option<u64>,
    /// Errors and warnings, as `check` prints them.
    pub report: String,
}

/// The body of `confirm`: whether the change on trial stays.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Confirmed {
    /// What was done.
    pub message: String,
}

/// The body of `disarm`: what of the packet filter was removed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Disarmed {
    /// What was done.
    pub message: String,
}

/// The body of `stop`: what becomes of the routes when the guard ends.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Stopping {
    /// What is done.
    pub message: String,
}

/// With every status code that is not 200.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Failed {
    /// What went wrong, in a sentence.
    pub error: String,
}
