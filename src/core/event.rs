//! Everything that goes into the core and comes out of it.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};
use smallvec::SmallVec;

mod reload;
pub use reload::{Forbidden, ForbiddenPath, Reload, Routers};

use super::client::Clients;
use super::flows::FlowsSeen;
use super::groups::{GroupSet, Groups};
use super::moment::Moment;
use super::name::Name;
use super::narrow::{Narrow, NarrowKinds, Openings, PairId};
use super::person::Mark;
pub use super::verdict::{Grant, Grants};

/// Questions of an address that outlive the process; the rest comes back with the next answer.
pub const ASKED: usize = 16;

/// Names one answer that waits at the gate. Chosen by the caller, unique while it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ticket(pub u64);

/// Names an enforcer. Those that the core was built with have their places in that list; one that came later has a number that no other had lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EnforcerId(pub u16);

/// Number of a plan. Generations only grow; having applied `n` means having applied everything up to `n`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Generation(pub u64);

/// What kind of enforcer, as far as plans differ for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EnforcerKind {
    /// Holds leases with their own timeout, must hear of extensions, needs no close at the end.
    Timed,
    /// Holds routes without timeout: hears open and close only, and keeps them `linger` longer than the lease.
    /// All of this kind share one stream of plans (one table, many peers).
    Route,
}

/// One enforcer as the core knows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EnforcerSpec {
    /// As shown to users: "nftables" or the peer's name.
    pub name: String,
    /// What it does with ends: see [`EnforcerKind`].
    pub kind: EnforcerKind,
    /// Whether its acknowledgement gates answers.
    pub required: bool,
    /// The most addresses it may hold (route budget), all families together.
    pub max_addresses: usize,
    /// Whether it can hold IPv4, IPv6 addresses. An address that a required enforcer can't hold is refused.
    pub ipv4: bool,
    /// The same for IPv6: see `ipv4`.
    pub ipv6: bool,
    /// Of timed ones: what they can hold apart. A configuration that needs more of one is refused at start.
    pub narrow: NarrowKinds,
}

/// One of the enforcers that there are from now on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listed {
    /// One that was there before, or a new one.
    pub id: EnforcerId,
    /// What it is from now on.
    pub spec: EnforcerSpec,
    /// A new one that gates nothing before it has acknowledged all that there was when it came. Then it gates, where that is required of it.
    pub joins: bool,
}

/// A judged answer that asks for its addresses to be opened.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Admission {
    /// Comes back in the [`Output::Decide`] for it.
    pub ticket: Ticket,
    /// Who asked the question.
    pub client: IpAddr,
    /// By what that was known, if by more than the address.
    pub mark: Option<Mark>,
    /// The question's name.
    pub question: Name,
    /// The question's type.
    pub qtype: u16,
    /// The aliases that led from the question to the addresses, in order, without the question; empty without CNAME.
    pub chain: Arc<[Name]>,
    /// Registrable domain of the question, for budgets.
    pub domain: Name,
    /// What to open; never empty.
    pub grants: Grants,
    /// What of each address, and for whom; nothing: all of it. Counts only where leases can be less than that, see [`super::pairs`].
    pub openings: Openings,
    /// All of it or nothing: the answer can't be given in part.
    pub whole: bool,
    /// The number of the rules that it was judged by; see [`super::judge`].
    #[serde(default)]
    pub judged: u64,
}

/// What the core is told.
#[derive(Debug, Serialize, Deserialize)]
pub enum Event {
    /// An answer wants its addresses opened.
    Admit(Admission),
    /// An enforcer holds everything of every plan up to `generation`.
    Applied {
        /// Enforcer that says so.
        enforcer: EnforcerId,
        /// Number of the plan up to which it holds.
        generation: Generation,
    },
    /// A route enforcer holds these addresses as the table had them when it was at the generation beside each: whatever plan up to that one
    /// opened the address last. Says nothing of other addresses, comes in any order, and before or instead of the
    /// [`Event::Applied`] that covers it. A later opening of the address is not meant by it.
    Confirmed {
        /// Enforcer that says so.
        enforcer: EnforcerId,
        /// Addresses, each with the number of the plan that the table was at.
        addresses: Vec<(IpAddr, Generation)>,
    },
    /// An enforcer can't be trusted to hold anything until it has applied a full [`Output::Sync`] (timed) or, for routes, until it reports
    /// [`Event::Applied`] again after its own replay, or [`Event::Confirmed`] of single addresses.
    Lost {
        /// Enforcer that says so.
        enforcer: EnforcerId,
        /// Reason, in one line, as `status` shows it.
        reason: String,
    },
    /// An enforcer could not open the addresses that the plan `generation` opens (a full set, for one), but holds all else, the closes
    /// and extensions of that very plan included; a driver that can't promise this reports [`Event::Lost`] instead. Comes before
    /// any [`Event::Applied`] of that generation or a later one. Answers that wait for the plan fail at once, addresses first opened
    /// by it are closed again everywhere. From an enforcer that is not required it is only noted.
    Refused {
        /// Enforcer that says so.
        enforcer: EnforcerId,
        /// Number of the plan that it could not carry out.
        generation: Generation,
        /// Reason, in one line, as `status` shows it.
        reason: String,
    },
    /// A route enforcer does not hold this one address, as a plan up to `generation` opened it; nothing is said of the others. Answers that wait for
    /// the address fail at once and it is closed again everywhere, unless it was opened anew since, or is in force. From
    /// an enforcer that is not required it is only noted.
    RefusedAddress {
        /// Enforcer that says so.
        enforcer: EnforcerId,
        /// Address that is meant.
        address: IpAddr,
        /// Number of the last plan that is meant.
        generation: Generation,
        /// Reason, in one line, as `status` shows it.
        reason: String,
    },
    /// A timed enforcer looked at the world and lacks these, which it had acknowledged: addresses as a whole, or pairs. They are out of
    /// force at once, so that cached answers with them are admitted anew, and the next plan opens them again.
    Missing {
        /// Enforcer that says so.
        enforcer: EnforcerId,
        /// Addresses that are meant.
        addresses: Vec<IpAddr>,
        /// Pairs that are meant.
        pairs: Vec<PairId>,
    },
    /// A router took these addresses back, as the plans up to `generation` opened them. They are out of force at once, as above; their leases stay. The
    /// enforcer announces them again; each is in force there when it is [`Event::Confirmed`].
    MissingRoutes {
        /// Enforcer that says so.
        enforcer: EnforcerId,
        /// Addresses that are meant.
        addresses: Vec<IpAddr>,
        /// Number of the last plan that is meant.
        generation: Generation,
    },
    /// An enforcer looked at the world, and `count` things of this kind were not as it believed. They are as they should be again, or an event before
    /// this one says what is not. Only counted and shown. `kind` is a metric label; `what` says it in words.
    Repaired {
        /// Enforcer that says so.
        enforcer: EnforcerId,
        /// Kind of what was found; a metric label.
        #[serde(deserialize_with = "known_kind")]
        kind: RepairKind,
        /// Number of things that were found.
        count: u64,
        /// What was found, in words.
        what: String,
    },
    /// Which families an enforcer can hold from now on, of those that are configured (what a session negotiated); comes before its next [`Event::Applied`]. An answer
    /// that a required enforcer can't hold is then refused alone, before anything is opened.
    Families {
        /// Enforcer that says so.
        enforcer: EnforcerId,
        /// Whether it can hold IPv4 addresses.
        ipv4: bool,
        /// Whether it can hold IPv6 addresses.
        ipv6: bool,
    },
    /// A timed enforcer asks for the full state (start, or after it lost it).
    WantSync {
        /// Enforcer that asks.
        enforcer: EnforcerId,
    },
    /// The operator closes an address, or all that a name opened, now.
    Revoke(RevokeTarget),
    /// Somebody sees flows; those to leased addresses keep their routes.
    FlowsSeen(FlowsSeen),
    /// Flows keep routes at most so long behind their leases from now on; zero: not at all.
    FlowLimit(Duration),
    /// More is known of who clients are. Counts from now on; what somebody holds already stays in the share in which it was taken.
    Clients(Arc<Clients>),
    /// The host slept. The ends that timed enforcers count by themselves stood still meanwhile: they get the full state, with what is left of
    /// each lease now. What they hold is not less than it should be, so that nothing is out of force.
    Slept,
    /// The wall clock by which leases and pairs were restored was behind by so much: those that nobody has asked for since end so much earlier.
    RestoredEarlier(Duration),
    /// Leases read back from disk at start; their causes are kept, they are opened at all enforcers by the first plan or sync.
    Restore(Vec<StoredLease>),
    /// Likewise pairs; after the leases. Nothing where leases open all of an address for everybody.
    RestorePairs(Vec<StoredPair>),
    /// What other guards say of their leases.
    Guards(Vec<GuardNews>),
    /// Other guards are told of our leases, by which we have this router id; or there are none.
    Exchange(Option<Ipv4Addr>),
    /// Another configuration, or other rules: judged in slices, and in force with one turn.
    Reload(Box<Reload>),
    /// An answer that was judged by former rules, and that those in force deny: it is refused.
    Denied(Ticket),
}

/// Kinds of repairs are labels of metrics: one that is read and not known is another.
fn known_kind<'de, D: Deserializer<'de>>(deserializer: D) -> Result<&'static str, D::Error> {
    let read = String::deserialize(deserializer)?;
    Ok(REPAIRS.into_iter().find(|kind| *kind == read).unwrap_or("other"))
}

/// A label of metrics.
pub type RepairKind = &'static str;

/// What [`Event::Repaired`] may be of.
pub const REPAIRS: [RepairKind; 6] = ["missing", "short", "long", "extra", "ruleset", "other"];

/// What `revoke` names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RevokeTarget {
    /// One address that is to be opened.
    Address(IpAddr),
    /// Every address that this name (as question or alias) alone caused.
    Name(Name),
}

/// A question and the aliases behind it, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryPath {
    /// The question's name.
    pub question: Name,
    /// The aliases between question and address.
    pub chain: Arc<[Name]>,
    /// The latest end that anybody was told.
    pub ends: Moment,
}

impl QueryPath {
    /// Whether it is the same question, answered by the same way.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.question == other.question && self.chain == other.chain
    }

    /// The question and its aliases.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        std::iter::once(&self.question).chain(&*self.chain)
    }
}

/// Those of a lease; most have one.
pub type QueryPaths = SmallVec<[QueryPath; 1]>;

/// A pair as it survives a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredPair {
    /// The address that is leased.
    pub address: IpAddr,
    /// Who may reach what of it.
    pub narrow: Narrow,
    /// The end, on the monotonic clock.
    pub ends: Moment,
    /// The questions that caused it, each with the aliases behind it.
    pub names: Vec<Arc<[Name]>>,
    /// Until when each of these was told, to about a second; one that is missing: until the pair's end.
    #[serde(default)]
    pub told: Vec<Moment>,
}

/// What is to be written of a pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PairRecord {
    /// It began, or its end moved.
    Open(StoredPair),
    /// It was closed early.
    Closed(PairId),
}

/// A lease as it survives a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredLease {
    /// The leased address.
    pub address: IpAddr,
    /// End of the lease, already converted to the monotonic clock and checked against `lease.max`.
    pub ends: Moment,
    /// The questions that caused it; of more than [`ASKED`] those that end last.
    pub paths: QueryPaths,
    /// Of the questions these are only the new ones: those that the record before had count as well.
    pub adds: bool,
    /// Names of the groups whose communities its route bears, and the end of the lease for each.
    pub groups: Vec<(String, Moment)>,
}

/// What another guard says of one of its leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardNews {
    /// The address that is meant.
    pub address: IpAddr,
    /// The guard's router id.
    pub guard: Ipv4Addr,
    /// Whose word it is, in whose share of the table it counts: the guard's, or another one's that passes it on.
    pub by: Ipv4Addr,
    /// What it says.
    pub what: GuardWord,
}

/// What [`GuardNews`] say of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuardWord {
    /// Leased until then, be that earlier or later than before.
    Until(Moment),
    /// Another one says so: leased until then at least.
    AtLeast(Moment),
    /// It took it back.
    TakenBack,
    /// Nobody tells of it any more: what is held is held to its end, and passed on.
    Orphaned,
}

/// What other guards are to be told of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shared {
    /// It lasts until then; it is ours, or that of a guard that is gone.
    Until(Moment, Option<Ipv4Addr>),
    /// It was taken back before its end.
    TakenBack,
    /// Nothing more is known of it.
    Nothing,
}

/// Of more than [`ASKED`] those that end last, and of those that end alike the last in order: one at least lasts as long as the lease.
pub fn keep_the_last(paths: &mut QueryPaths) {
    while paths.len() > ASKED
        && let Some((first, _)) = paths.iter().enumerate().min_by_key(|(_, path)| path.ends)
    {
        paths.remove(first);
    }
}

impl StoredLease {
    /// With the questions of the record `before` it, where it adds to that.
    #[must_use]
    pub fn joined_to(mut self, before: Option<Self>) -> Self {
        if let (true, Some(before)) = (self.adds, before) {
            let own = std::mem::take(&mut self.paths);
            self.paths = before.paths.into_iter().filter(|path| !own.iter().any(|other| other.is_same(path))).collect();
            self.paths.extend(own);
            keep_the_last(&mut self.paths);
        }
        self.adds = false;
        self
    }
}

/// What the core wants done, in order.
#[derive(Debug)]
pub enum Output {
    /// There was no route enforcer, and now there is one: whatever was announced before is over. The plans behind it announce what is leased.
    RoutesAnew,
    /// Changes for every timed enforcer; one for each address, or for each pair of it, at most. Where there are pairs, only those: an empty list
    /// then is a plan of which timed enforcers need nothing.
    ApplyTimed {
        /// Number of the plan.
        generation: Generation,
        /// Changes in order.
        changes: Vec<Change>,
    },
    /// Changes for the route table that all route enforcers share; one for each address at most. May bear the same generation as an
    /// [`Output::ApplyTimed`].
    ApplyRoutes {
        /// Number of the plan.
        generation: Generation,
        /// Changes in order.
        changes: Vec<Change>,
    },
    /// Answers wait for these addresses, which earlier plans opened, or are about to leave with them: route enforcers that look at addresses one by
    /// one take these first.
    Hurry(Vec<IpAddr>),
    /// What the groups of later [`Output::ApplyRoutes`] mean.
    Groups(Arc<Groups>),
    /// The full state, for one timed enforcer that asked for it. Everything else must be removed. Where there are pairs, they are all: no leases.
    Sync {
        /// Enforcer that asked for it.
        enforcer: EnforcerId,
        /// Number of the plan that the state stands for.
        generation: Generation,
        /// Addresses, each with the moment at which it ends.
        leases: Vec<(IpAddr, Moment)>,
        /// Pairs, each with the moment at which it ends.
        pairs: Vec<(PairId, Moment)>,
    },
    /// The gate's word on an answer.
    Decide {
        /// Ticket of the answer.
        ticket: Ticket,
        /// What becomes of the answer.
        decision: Decision,
    },
    /// A lease began or moved later; to be on disk before the answer that caused it leaves.
    Journal(StoredLease),
    /// A lease was closed early; to be on disk as well.
    JournalClosed(IpAddr),
    /// A name was revoked: what is on disk of it must not count any more, be it in the table or not.
    JournalRevoked(Name),
    /// The same of a pair.
    JournalPair(PairRecord),
    /// Other guards are told this of our leases; one for each address.
    Share(Vec<(IpAddr, Shared)>),
    /// Live flows to this address are to be cut (revoke). A later [`Change::Open`] or [`Change::Extend`] of it ends the cut.
    CutFlows(IpAddr),
}

/// One change of the desired state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Open this address; timed enforcers: until exactly `ends`. Being open already is not an error.
    Open {
        /// Address that is meant.
        address: IpAddr,
        /// Moment at which it ends.
        ends: Moment,
    },
    /// The address is open already; its end becomes exactly `ends`: later, or earlier after a part of its causes was revoked. Timed
    /// enforcers only. Where the element has just expired this opens it again.
    Extend {
        /// Address that is meant.
        address: IpAddr,
        /// Moment at which it ends.
        ends: Moment,
    },
    /// Close this address now. Being absent already is not an error.
    Close {
        /// Address that is meant.
        address: IpAddr,
    },
    /// Routes only: open, bearing the communities of exactly these groups from now on, in place of what it bore; `new`: the plan opens it.
    Announce {
        /// Address that is meant.
        address: IpAddr,
        /// Groups whose communities the route bears.
        groups: GroupSet,
        /// Whether the plan opens it.
        new: bool,
    },
    /// Timed enforcers only: this much is open of it until exactly `ends`, or closed now. Being open or absent already is not an error. `new`:
    /// the plan opens it, as [`Change::Open`] does.
    Narrow {
        /// Address that is meant.
        address: IpAddr,
        /// What is open of the address.
        narrow: Narrow,
        /// Moment at which it ends; `None` closes it now.
        ends: Option<Moment>,
        /// Whether the plan opens it.
        new: bool,
    },
}

/// The gate's word.
#[derive(Clone, Debug)]
pub enum Decision {
    /// Every address is in force at every required enforcer. `leases` in the order of the grants; behind them, where there are pairs, those that
    /// the answer opens. `short`: a budget left fewer addresses than were asked for, and only those of the leases may be told.
    Release {
        /// Handles of the leases, in the order of the grants.
        leases: LeaseHandles,
        /// Budget that left fewer addresses than were asked for; `None` if none did.
        short: Option<Refusal>,
    },
    /// Not enforced in time, or nothing of it fits a budget: SERVFAIL with this reason.
    Refuse(Refusal),
}

/// Why an answer was not released. Each has an EDE code in `dns` and a metric label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The gate's deadline passed before these enforcers confirmed.
    Deadline {
        /// Names of the enforcers that were missing.
        waiting_for: Vec<String>,
    },
    /// A required enforcer refused the plan.
    Enforcer {
        /// Name of the enforcer.
        name: String,
        /// Reason, in one line, as `status` shows it.
        reason: String,
    },
    /// A required enforcer can't hold this address family.
    Family {
        /// Name of the enforcer.
        name: String,
    },
    /// Too many addresses in one answer that can't be given in part.
    PerAnswer,
    /// The client opened too many new addresses lately.
    PerClient,
    /// The registrable domain opened too many new addresses lately.
    PerDomain,
    /// A peer's route budget is used up.
    RouteBudget {
        /// Name of the enforcer.
        name: String,
    },
    /// The lease table, or the gate's list of waiting answers, is full.
    Capacity,
    /// The address was revoked while the answer waited.
    Revoked,
}

/// Shared view of a lease for the hot path: read without any lock. The core alone writes it.
#[derive(Clone, Debug)]
pub struct LeaseHandle(Arc<LeaseShared>);

/// Those of an answer; most have one or two addresses.
pub type LeaseHandles = SmallVec<[LeaseHandle; 2]>;

/// One for each lease: its size matters.
#[derive(Debug)]
struct LeaseShared {
    /// IPv4 as mapped into IPv6: no mapped address is ever leased as such.
    address: [u8; 16],
    /// The end in milliseconds, and [`IN_FORCE`].
    state: AtomicU64,
}

/// Set while the address is in force. Ends stay below it.
const IN_FORCE: u64 = 1 << 63;

impl LeaseHandle {
    /// A handle that is not in force yet.
    #[must_use]
    pub fn new(address: IpAddr, ends: Moment) -> Self {
        let address = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        };
        Self(Arc::new(LeaseShared { address, state: AtomicU64::new(ends.0.min(IN_FORCE - 1)) }))
    }

    /// The leased address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        IpAddr::from(self.0.address).to_canonical()
    }

    /// Whether both show the same.
    #[cfg(test)]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The end of the lease.
    #[must_use]
    pub fn ends(&self) -> Moment {
        Moment(self.0.state.load(Ordering::Acquire) & !IN_FORCE)
    }

    /// Whether the address is open at every required enforcer and will stay so for at least `margin`.
    #[must_use]
    pub fn in_force_for(&self, now: Moment, margin: Duration) -> bool {
        let state = self.0.state.load(Ordering::Acquire);
        state & IN_FORCE != 0 && Moment(state & !IN_FORCE) >= now.plus(margin)
    }

    /// Says whether the lease is in force; only the core may.
    pub(in crate::core) fn set_in_force(&self, value: bool) {
        if value {
            self.0.state.fetch_or(IN_FORCE, Ordering::AcqRel);
        } else {
            self.0.state.fetch_and(!IN_FORCE, Ordering::AcqRel);
        }
    }

    /// Core only. Never moves earlier except by closing, which clears `in_force` first.
    pub(in crate::core) fn set_ends(&self, ends: Moment) {
        // The core alone writes: nothing changes between these two.
        let in_force = self.0.state.load(Ordering::Acquire) & IN_FORCE;
        self.0.state.store(ends.0.min(IN_FORCE - 1) | in_force, Ordering::Release);
    }
}
