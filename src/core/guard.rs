//! The owner of the lease table, the gate and the plans: `handle(event, now)`, then `poll_output` until it is dry.
//!
//! ```text
//!  Admit ---> budgets ---> lease table ---+                         +--> ApplyTimed, ApplyRoutes, Sync
//!  Revoke, Reload, Restore ------^        +--> marks --> plan n ----+--> Journal, JournalClosed
//!  time passes ------------------^                         |        +--> CutFlows
//!                                                          v
//!  Applied, Confirmed, Lost, Missing, Refused -> in force -> gate ----> Decide, Hurry
//! ```
//!
//! Events only change the table and mark addresses. The first `poll_output` after them makes one plan of all marks, so
//! a batch of answers costs each enforcer one round trip. An answer needs, of every required timed enforcer, the plans
//! that opened or extended its addresses, and of every required route enforcer its addresses, each by itself; an
//! address that is already confirmed needs nothing.
//!
//! The route budget: all route enforcers share one table, so the least `max_addresses` among those that take the family
//! bounds it, required or not. A peer that is not required is thus never pushed over its maximum-prefix either.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::budget::Buckets;
use super::client::Clients;
use super::counts::Counts;
use super::ended::EndedLeases;
use super::event::{
    EnforcerId, EnforcerKind, EnforcerSpec, Event, Generation, Output, Refusal, Reload, RevokeTarget, StoredLease,
    Ticket,
};
use super::exchange::Exchange;
use super::flows::Flows;
use super::gate::{Gate, Waiting};
use super::groups::{GroupSet, Groups};
use super::judge::Judge;
use super::lease::LeaseTable;
use super::moment::Moment;
use super::name::Name;
use super::pairs::Pairs;
use super::person::Mark;
use super::plan::Marks;
use super::proof::Enforcers;
use super::queue::Queue;
use super::share::Holder;
use crate::config::schema::{Gate as GateSettings, Lease as LeaseSettings, OnDeadline, WHOLE_IPV6};

/// What the core needs of the configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The settings of `[lease]`.
    pub lease: LeaseSettings,
    /// The settings of `[gate]`.
    pub gate: GateSettings,
    /// How long routes stay behind their lease: `bgp.linger`.
    pub linger: Duration,
}

/// One cause of one lease.
#[derive(Clone, Copy, Debug)]
pub struct Caused<'a> {
    /// What is leased.
    pub address: IpAddr,
    /// The question that caused it.
    pub question: &'a Name,
    /// The aliases behind it.
    pub chain: &'a [Name],
    /// Who asked, and until when each was told; none after a restart.
    pub clients: &'a [(IpAddr, Moment)],
    /// By what those were known, if by more than their addresses.
    pub mark: Option<Mark>,
}

/// Owner of all pure state.
#[derive(Debug)]
pub struct Guard {
    pub(super) settings: Settings,
    pub(super) enforcers: Enforcers,
    pub(super) table: LeaseTable,
    pub(super) gate: Gate,
    /// Where leases can be less than all of an address for everybody.
    pub(super) pairs: Option<Pairs>,
    /// Whether each is for the client that asked.
    pub(super) per_client: bool,
    /// So many bits of IPv6 addresses tell those apart.
    pub(super) client_prefix: u8,
    pub(super) counts: Counts,
    /// Leases that are over.
    pub(super) ended: EndedLeases,
    /// What flows go to.
    pub(super) flows: Flows,
    pub(super) generation: Generation,
    /// Whether routes are announced.
    pub(super) announces: bool,
    pub(super) groups: Arc<Groups>,
    /// Who clients are.
    pub(super) whom: Arc<Clients>,
    /// Different sets of groups that are planned, and for how many addresses.
    pub(super) group_sets: BTreeMap<GroupSet, usize>,
    marks: Marks,
    /// What other guards are told, where there are any.
    pub(super) exchange: Option<Exchange>,
    /// Admitted since the last plan. At most [`MOST_WAITING`](super::gate::MOST_WAITING) together with the gate and the
    /// queue.
    fresh: Vec<(Ticket, Waiting)>,
    /// Lack nothing; told so when the outputs are drained, unless that changed meanwhile.
    through: Vec<(Ticket, Waiting)>,
    syncs: BTreeSet<EnforcerId>,
    cuts: BTreeSet<IpAddr>,
    /// To be written: causes that the table forgot for want of room are on disk. Bounded by what a batch revokes.
    revoked: BTreeSet<Name>,
    /// Answers wait for these, which earlier plans opened.
    hurry: BTreeSet<IpAddr>,
    clients: Buckets<Holder>,
    domains: Buckets<Holder>,
    /// Answers that wait for tokens of these.
    pub(super) queue: Queue,
    outputs: VecDeque<Output>,
    decisions: VecDeque<Output>,
    /// The rules in force, where they were told.
    judge: Option<Judge>,
    /// A reload that is not in force yet.
    judging: Option<Judging>,
    /// One that has come in force; see [`Guard::take_reloaded`].
    reloaded: Option<Box<Reload>>,
    now: Moment,
    /// A time was heard of.
    begun: bool,
}

impl Guard {
    /// An empty guard.
    #[must_use]
    pub fn new(settings: Settings, enforcers: Vec<EnforcerSpec>) -> Self {
        Self {
            clients: client_buckets(&settings.lease),
            domains: domain_buckets(&settings.lease),
            queue: Queue::default(),
            table: LeaseTable::new(settings.lease.capacity),
            counts: Counts { capacity: settings.lease.capacity, ..Counts::default() },
            settings,
            enforcers: Enforcers::new(enforcers),
            ended: EndedLeases::default(),
            flows: Flows::default(),
            gate: Gate::default(),
            pairs: None,
            per_client: false,
            client_prefix: WHOLE_IPV6,
            generation: Generation(0),
            announces: true,
            groups: Arc::default(),
            whom: Arc::default(),
            group_sets: BTreeMap::new(),
            marks: Marks::default(),
            exchange: None,
            fresh: Vec::new(),
            through: Vec::new(),
            syncs: BTreeSet::new(),
            cuts: BTreeSet::new(),
            revoked: BTreeSet::new(),
            hurry: BTreeSet::new(),
            outputs: VecDeque::new(),
            decisions: VecDeque::new(),
            judge: None,
            judging: None,
            reloaded: None,
            now: Moment::ZERO,
            begun: false,
        }
    }

    /// With groups whose routes bear communities of their own.
    #[must_use]
    pub fn with_groups(mut self, groups: Arc<Groups>) -> Self {
        self.groups = groups;
        self
    }

    /// With what is known of clients.
    #[must_use]
    pub fn knowing(mut self, whom: Arc<Clients>) -> Self {
        self.whom = whom;
        self
    }

    /// Whether it begins with routes announced.
    #[must_use]
    pub fn announcing(mut self, announces: bool) -> Self {
        self.announces = announces;
        self.enforcers.announce(announces);
        self
    }

    /// Takes an event; what follows from it comes out of [`Guard::poll_output`].
    ///
    /// Leases that ended meanwhile end first. Answers whose deadline passed meanwhile do not: an acknowledgement that
    /// is at hand may still release them until [`Guard::handle_timeout`].
    pub fn handle(&mut self, event: Event, now: Moment) {
        self.expire(now);
        match self.judged(event) {
            Event::Admit(admission) => self.admit(admission),
            Event::Denied(ticket) => self.refuse(ticket, Refusal::Revoked),
            Event::Reload(reload) => self.reload(*reload),
            Event::Applied { enforcer, generation } => {
                let generation = generation.min(self.generation);
                if self.enforcers.joins(enforcer, generation, self.now) {
                    self.follow_enforcers();
                }
                match self.enforcers.applied(enforcer, generation, self.now) {
                    Some((EnforcerKind::Timed, _)) => self.follow_acks(),
                    Some((EnforcerKind::Route, before)) if self.enforcers.is_required(enforcer) => {
                        self.follow_confirmed(self.table.lacking_routes_of(before, generation));
                    }
                    _ => {}
                }
            }
            Event::Confirmed { enforcer, addresses } => self.confirmed(enforcer, addresses),
            Event::Lost { enforcer, reason } => self.lose(enforcer, reason),
            Event::Missing { enforcer, addresses, pairs } => self.missing(enforcer, &addresses, &pairs),
            Event::MissingRoutes { enforcer, addresses, generation } => {
                self.missing_routes(enforcer, &addresses, generation);
            }
            Event::Repaired { enforcer, kind, count, what } => {
                self.enforcers.repaired(enforcer, kind, count, what, self.now);
            }
            Event::Refused { enforcer, generation, reason } => self.refused(enforcer, generation, reason),
            Event::RefusedAddress { enforcer, address, generation, reason } => {
                self.refused_address(enforcer, address, generation, reason);
            }
            Event::Families { enforcer, ipv4, ipv6 } => self.enforcers.families(enforcer, ipv4, ipv6),
            Event::WantSync { enforcer } => self.want_sync(enforcer),
            Event::Revoke(RevokeTarget::Address(address)) => self.revoke(address),
            Event::Revoke(RevokeTarget::Name(name)) => {
                self.take_pairs_back(&name);
                self.take_back(&name);
                self.revoked.insert(name);
            }
            Event::Restore(leases) => self.restore(leases),
            Event::RestorePairs(pairs) => self.restore_pairs(pairs),
            Event::RestoredEarlier(by) => self.end_restored_earlier(by),
            Event::Clients(whom) => {
                self.judging.iter_mut().for_each(|judging| judging.learn(&whom));
                self.whom = whom;
            }
            Event::Guards(news) => news.into_iter().for_each(|news| self.heed_guard(news)),
            Event::Exchange(own) => self.set_exchange(own),
            Event::FlowsSeen(seen) => self.flows_seen(&seen),
            Event::FlowLimit(max) => self.flows.limit(max),
            Event::Slept => self.syncs.extend(self.enforcers.timed_in_use()),
        }
    }

    /// The next thing to do, in order. Makes the plan of all that happened since it was last dry. Decisions come last:
    /// what must be on disk before them comes before them.
    pub fn poll_output(&mut self) -> Option<Output> {
        if self.outputs.is_empty() {
            self.plan();
        }
        self.outputs.pop_front().or_else(|| self.decisions.pop_front())
    }

    /// When [`Guard::handle_timeout`] must be called next; outputs must have been drained.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Moment> {
        let lease = self.table.next_timer().map(|(at, _)| at);
        let pair = self.pairs.as_ref().and_then(Pairs::next_timer);
        let shared = self.exchange.as_ref().and_then(Exchange::next_timer);
        let judging = self.judging.as_ref().map(|_| self.now);
        let due = [lease, pair, shared, judging, self.gate.next_deadline(), self.queue.next_timer()];
        due.into_iter().flatten().min()
    }

    /// Ends what is due.
    pub fn handle_timeout(&mut self, now: Moment) {
        self.expire(now);
        while let Some(asked) = self.queue.pop_due(self.now) {
            self.consider(asked);
        }
        while let Some((ticket, waiting)) = self.gate.overdue(self.now) {
            self.counts.gate_timeouts += 1;
            match self.settings.gate.on_deadline {
                OnDeadline::Servfail => self.refuse(ticket, self.deadline_refusal(&waiting)),
                OnDeadline::Answer => self.decide(ticket, waiting),
            }
        }
        self.judge_slice();
    }

    /// Every cause of every lease, as address, question and aliases, and of those that may follow from answers that
    /// wait for tokens: what rules are asked about.
    pub fn causes(&self) -> impl Iterator<Item = Caused<'_>> {
        let queued = self.queue.iter().flat_map(|asked| {
            let admission = &asked.admission;
            let grants = admission.grants.iter();
            grants.map(move |grant| Caused {
                address: grant.address,
                question: &admission.question,
                chain: &admission.chain,
                clients: &asked.client,
                mark: admission.mark,
            })
        });
        let leased = self.table.iter().flat_map(|(address, lease)| {
            lease.causes().iter().map(move |cause| Caused {
                address,
                question: &cause.question,
                chain: &cause.chain,
                clients: &cause.clients,
                mark: cause.mark,
            })
        });
        leased.chain(queued)
    }

    /// Names that caused a live lease, as question or alias, once each, in order.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.table.names()
    }

    /// Every lease as it survives a restart, in the order of addresses.
    pub fn stored(&self) -> impl Iterator<Item = StoredLease> {
        let (linger, groups) = (self.settings.linger, &self.groups);
        self.table.iter().map(move |entry| stored(entry, entry.1.paths(), linger, groups, self.now))
    }
}

mod admit;
mod clients;
pub use clients::PairCaused;
mod enforcers;
mod exchange;
mod expire;
mod gate;
mod grant;
mod plan;
mod regroup;
mod reload;
mod reports;
mod restore;
mod revoke;
mod settings;

use expire::stored;
use reload::Judging;
use settings::{client_buckets, domain_buckets};
#[cfg(test)]
mod tests;
