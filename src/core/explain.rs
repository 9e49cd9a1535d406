//! What the core shows of itself: leases, why an address is open, counts, enforcers. Plain values, made on the task that
//! owns the core, so nothing here walks more than it shows.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use super::name::Name;

/// Which leases a view shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LeaseFilter {
    /// All of them.
    #[default]
    All,
    /// One address.
    Address(IpAddr),
    /// Those that this name caused, as question or as alias.
    Name(Name),
    /// Those within a prefix.
    Prefix(IpNet),
}

/// How far a lease is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LeaseState {
    /// Not yet held by every required enforcer.
    Pending,
    /// Held by every required enforcer.
    Installed,
    /// Ended; its route stays up a while for flows that still live.
    Lingering,
}

/// One lease, as `destguard leases` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeaseView {
    /// The leased address.
    pub address: IpAddr,
    /// How far it is.
    pub state: LeaseState,
    /// Whole seconds until its end, rounded up; of a lingering one until its route is withdrawn.
    pub ends_in_seconds: u64,
    /// Question names that caused it, without doubles, in order.
    pub names: Vec<String>,
    /// Clients that asked, without doubles, in order.
    pub clients: Vec<IpAddr>,
    /// Per enforcer: "open", "opening", "closed" (timed, while lingering), "lost".
    pub enforcers: BTreeMap<String, String>,
}

/// One client of a cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClientView {
    /// Who asked.
    pub client: IpAddr,
    /// Seconds until what this client was told ends; 0 = ended.
    pub ends_in_seconds: u64,
}

/// One question that opened an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CauseView {
    /// The question's name.
    pub question: String,
    /// The question's type; `None` after a restart.
    pub qtype: Option<u16>,
    /// Aliases from the question to the address, in order, without the question.
    pub chain: Vec<String>,
    /// Who asked; empty after a restart.
    pub clients: Vec<ClientView>,
    /// Seconds until this cause ends; 0 = ended.
    pub ends_in_seconds: u64,
}

/// What one enforcer does about one address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HoldView {
    /// The enforcer.
    pub name: String,
    /// Whether its acknowledgement gates answers.
    pub required: bool,
    /// As in [`LeaseView::enforcers`].
    pub state: String,
    /// For how many seconds it has held the address, when it does.
    pub since_seconds: Option<u64>,
}

/// Why one address is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The address.
    pub address: IpAddr,
    /// How far its lease is.
    pub state: LeaseState,
    /// Seconds since the lease began.
    pub age_seconds: u64,
    /// Seconds until the lease ends; 0 while it lingers.
    pub ends_in_seconds: u64,
    /// Seconds until the route is withdrawn; `None` without route enforcers.
    pub route_ends_in_seconds: Option<u64>,
    /// Every question that opened it, the one that ends last first.
    pub causes: Vec<CauseView>,
    /// Every enforcer.
    pub enforcers: Vec<HoldView>,
    /// Answers that wait at the gate for this address.
    pub waiting: usize,
}

/// How far an enforcer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EnforcerState {
    /// Has not reported yet.
    Starting,
    /// Holds everything up to its acknowledged generation.
    InForce,
    /// Can't be trusted to hold anything.
    Lost,
}

/// One enforcer, as `destguard status` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EnforcerView {
    /// Its name.
    pub name: String,
    /// Whether its acknowledgement gates answers.
    pub required: bool,
    /// How far it is.
    pub state: EnforcerState,
    /// Seconds since it entered this state.
    pub since_seconds: u64,
    /// The last generation it acknowledged since it was last lost.
    pub acknowledged: Option<u64>,
    /// Whether there are plans it has not acknowledged.
    pub behind: bool,
    /// Addresses it holds.
    pub installed: usize,
    /// The most it may hold.
    pub max_addresses: usize,
    /// Why it was last lost, or what it last refused.
    pub last_error: Option<String>,
}

/// Refused answers by kind; the fields are named as [`super::event::Refusal`]'s variants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RefusedCounts {
    /// The gate's deadline passed.
    pub deadline: u64,
    /// A required enforcer refused the plan.
    pub enforcer: u64,
    /// A required enforcer can't hold the address family.
    pub family: u64,
    /// Too many addresses in one answer.
    pub per_answer: u64,
    /// The client's rate of new addresses.
    pub per_client: u64,
    /// The registrable domain's rate of new addresses.
    pub per_domain: u64,
    /// A route budget.
    pub route_budget: u64,
    /// The lease table, or the gate's list of waiting answers, is full.
    pub capacity: u64,
    /// Revoked while the answer waited.
    pub revoked: u64,
}

/// Counts for status and metrics. Gauges first, then what only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Active IPv4 leases.
    pub ipv4: usize,
    /// Active IPv6 leases.
    pub ipv6: usize,
    /// Lingering routes.
    pub lingering: usize,
    /// Active leases that not every required enforcer holds yet.
    pub pending: usize,
    /// `lease.capacity`; active and lingering leases count against it.
    pub capacity: usize,
    /// (question, chain, client) causes kept.
    pub causes: usize,
    /// Answers that wait at the gate.
    pub waiting: usize,
    /// The last generation of a plan.
    pub generation: u64,
    /// Answers released.
    pub released: u64,
    /// Answers refused.
    pub refused: RefusedCounts,
    /// Answers whose gate deadline passed, released all the same or not.
    pub gate_timeouts: u64,
    /// Leases begun.
    pub opened: u64,
    /// Leases moved later.
    pub extended: u64,
    /// Leases ended in their time.
    pub expired: u64,
    /// Leases closed early: revoked, forbidden or refused by an enforcer.
    pub closed: u64,
    /// Causes forgotten because an address, or all together, had too many; never shortens a lease.
    pub causes_dropped: u64,
    /// Leases read back at start that had no room.
    pub restore_dropped: u64,
}
