//! The owner of the lease table, the gate and the plans: `handle(event, now)`, then `poll_output` until it is dry.
//!
//! ```text
//!  Admit ---> budgets ---> lease table ---+                         +--> ApplyTimed, ApplyRoutes, Sync
//!  Revoke, Forbid, Restore ------^        +--> marks --> plan n ----+--> Journal, JournalClosed
//!  time passes ------------------^                         |        +--> CutFlows
//!                                                          v
//!  Applied, Confirmed, Lost, Missing, Refused -> proof --> gate --------> Decide, Hurry
//! ```
//!
//! Events only change the table and mark addresses. The first `poll_output` after them makes one plan of all marks, so a
//! batch of answers costs each enforcer one round trip. An answer needs, of every required timed enforcer, the plans that opened or
//! extended its addresses, and of every required route enforcer its addresses, each by itself; an address that is already
//! confirmed needs nothing.
//!
//! The route budget: all route enforcers share one table, so the least `max_addresses` among those that take the family
//! bounds it, required or not. A peer that is not required is thus never pushed over its maximum-prefix either.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::budget::{BUCKETS, Buckets};
use super::client::Clients;
use super::counts::Counts;
use super::ended::{End, EndedLeases};
use super::event::{
    Change, Decision, EnforcerId, EnforcerKind, EnforcerSpec, Event, Generation, LeaseHandles, Output, Refusal,
    RevokeTarget, StoredLease, Ticket,
};
use super::exchange::Exchange;
use super::flows::Flows;
use super::gate::{Gate, Needs, Waiting};
use super::groups::{GroupSet, Groups};
use super::lease::{Cause, LeaseTable, Remaining, Required};
use super::moment::Moment;
use super::name::Name;
use super::pairs::Pairs;
use super::person::Mark;
use super::plan::{LEAST_EXTENSION, Marks, Planned, Wanted, difference};
use super::proof::Enforcers;
use super::queue::Queue;
use super::share::Holder;
use crate::config::schema::{Gate as GateSettings, Lease as LeaseSettings, OnDeadline, WHOLE_IPV6};

/// How much later a group is looked at again whose leaving found no room for another set of groups.
const POSTPONED: Duration = Duration::from_secs(60);

/// What the core needs of the configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `[lease]`
    pub lease: LeaseSettings,
    /// `[gate]`
    pub gate: GateSettings,
    /// `bgp.linger`
    pub linger: Duration,
}

/// One cause of one lease.
#[derive(Clone, Copy, Debug)]
pub struct Caused<'a> {
    /// What is leased.
    pub address: IpAddr,
    /// The question.
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
    /// Different sets of groups that enforcers were told, and for how many addresses.
    pub(super) group_sets: BTreeMap<GroupSet, usize>,
    marks: Marks,
    /// What other guards are told, where there are any.
    pub(super) exchange: Option<Exchange>,
    /// Admitted since the last plan. At most [`MOST_WAITING`](super::gate::MOST_WAITING) together with the gate and the queue.
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
    /// Leases that ended meanwhile end first. Answers whose deadline passed meanwhile do not: an acknowledgement that is
    /// at hand may still release them until [`Guard::handle_timeout`].
    pub fn handle(&mut self, event: Event, now: Moment) {
        self.expire(now);
        match event {
            Event::Admit(admission) => self.admit(admission),
            Event::Applied { enforcer, generation } => {
                let generation = generation.min(self.generation);
                if self.enforcers.joins(enforcer, generation, self.now) {
                    self.follow_enforcers();
                }
                match self.enforcers.applied(enforcer, generation, self.now) {
                    Some((EnforcerKind::Timed, _)) => self.prove_timed(),
                    Some((EnforcerKind::Route, before)) if self.enforcers.is_required(enforcer) => {
                        self.prove_routes(self.table.lacking_routes_of(before, generation));
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
                self.take_pairs_back(std::slice::from_ref(&name));
                self.take_back(&name, true);
                self.revoked.insert(name);
            }
            Event::Forbid(names) => {
                self.take_pairs_back(&names);
                names.iter().for_each(|name| self.take_back(name, false));
            }
            Event::ForbidPairs(forbidden) => self.forbid_pairs(&forbidden),
            Event::Reopen(pairs) => self.reopen_pairs(&pairs),
            Event::Narrowly => self.narrow_from_now_on(),
            Event::Restore(leases) => self.restore(leases),
            Event::RestorePairs(pairs) => self.restore_pairs(pairs),
            Event::Settings(settings) => self.set(settings.0, settings.1),
            Event::Linger(linger) => self.set_linger(linger),
            Event::Enforcers(list) => self.set_enforcers(list),
            Event::Announce(announces) => self.announce(announces),
            Event::Groups(groups) => self.regroup(groups),
            Event::RestoredEarlier(by) => self.end_restored_earlier(by),
            Event::Clients(whom) => self.whom = whom,
            Event::Guards(news) => news.into_iter().for_each(|news| self.heed_guard(news)),
            Event::Exchange(own) => self.set_exchange(own),
            Event::FlowsSeen(seen) => self.flows_seen(&seen),
            Event::FlowLimit(max) => self.flows.limit(max),
            Event::Slept => self.syncs.extend(self.enforcers.timed_in_use()),
        }
    }

    fn set(&mut self, lease: LeaseSettings, gate: GateSettings) {
        let own = &mut self.settings.lease;
        // Buckets of another rate begin full: who was over the old one may be under the new.
        if (own.new_per_client, own.burst_per_client) != (lease.new_per_client, lease.burst_per_client) {
            self.clients = client_buckets(&lease);
        }
        if (own.new_per_domain, own.burst_per_domain) != (lease.new_per_domain, lease.burst_per_domain) {
            self.domains = domain_buckets(&lease);
        }
        self.counts.capacity = lease.capacity;
        self.table.set_capacity(lease.capacity);
        self.enforcers.set_timed_budget(lease.capacity);
        *own = lease;
        self.settings.gate = gate;
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
        let told = self.exchange.as_ref().and_then(Exchange::next_timer);
        [lease, pair, told, self.gate.next_deadline(), self.queue.next_timer()].into_iter().flatten().min()
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
    }

    /// Every cause of every lease, as address, question and aliases, and of those that may follow from answers that wait for tokens: what new
    /// rules are asked about for [`Event::Forbid`] and [`Event::Revoke`].
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

    /// Names that caused a live lease, as question or alias, once each, in order: what a new policy judges for
    /// [`Event::Forbid`].
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.table.names()
    }

    /// Every lease as it survives a restart, in the order of addresses.
    pub fn stored(&self) -> impl Iterator<Item = StoredLease> {
        let (linger, groups) = (self.settings.linger, &self.groups);
        self.table.iter().map(move |entry| stored(entry, entry.1.paths(), linger, groups, self.now))
    }

    /// Opens an address, or gives its lease one more cause. An end only moves later here.
    fn grant(&mut self, address: IpAddr, ends: Moment, cause: Cause) {
        let group = cause.group;
        self.exchange.iter_mut().for_each(|exchange| exchange.mark(address));
        self.grant_lease(address, ends, cause);
        if let Some(group) = group
            && self.table.share(address, group, ends, self.settings.linger)
        {
            self.marks.change(address);
            self.marks.journal(address);
        }
    }

    fn grant_lease(&mut self, address: IpAddr, ends: Moment, cause: Cause) {
        let known = self.table.get(address).map(|lease| (lease.is_active(), lease.ends()));
        match known {
            None => {
                let planned = self.marks.take_removed(address);
                self.table.open(address, ends, cause, planned, self.now);
                self.ended.forget(address);
                self.counts.opened += 1;
                self.marks.journal(address);
            }
            Some((active, known)) => {
                let moves = !active || ends >= known.plus(LEAST_EXTENSION);
                if moves {
                    self.table.extend(address, ends, self.now);
                    *(if active { &mut self.counts.extended } else { &mut self.counts.opened }) += 1;
                }
                let path = cause.path();
                let is_news = self.table.add_cause(address, cause, self.now);
                // What lingers is on disk as ended: only a whole record opens it there.
                if !active {
                    self.flows.release(address);
                    self.marks.journal(address);
                } else if moves || is_news {
                    self.marks.asked(address, path);
                }
                if !moves {
                    return;
                }
            }
        }
        self.marks.change(address);
    }

    /// Routes are announced from now on, or none is any more. O(leases).
    fn announce(&mut self, announces: bool) {
        if announces == self.announces {
            return;
        }
        self.announces = announces;
        self.enforcers.announce(announces);
        if let Some(exchange) = &mut self.exchange {
            self.table.iter().for_each(|(address, _)| exchange.mark(address));
        }
        if !self.enforcers.has(EnforcerKind::Route) {
            return;
        }
        if self.enforcers.requires(EnforcerKind::Route) {
            // Nothing of it is at any router: nobody may use it before it is.
            self.table.lose(EnforcerKind::Route);
        }
        let addresses: Vec<IpAddr> = self.table.iter().map(|(address, _)| address).collect();
        addresses.into_iter().for_each(|address| self.marks.change(address));
        self.ask_anew();
    }

    /// Takes a lease out of the table; the next plan closes it wherever it is still open.
    fn drop_lease(&mut self, address: IpAddr, how: End) {
        self.enforcers.forget(address);
        self.flows.forget(address);
        if let Some(lease) = self.table.remove(address) {
            self.exchange.iter_mut().for_each(|exchange| exchange.is_over(address));
            if how != End::Expired {
                self.shun(address, lease.causes(), None);
            }
            self.ended.note(address, lease.causes(), how, self.now);
            self.marks.removed(address, lease.planned());
        }
        self.pairs_follow(address);
    }

    /// Closes an address before its time, everywhere, without lingering.
    fn close(&mut self, address: IpAddr, how: End) {
        if self.table.get(address).is_some() {
            self.counts.closed += 1;
            self.marks.journal(address);
            self.drop_lease(address, how);
        }
    }

    fn revoke(&mut self, address: IpAddr) {
        self.fail_tickets_of(address, |_, _| Refusal::Revoked);
        self.fail_queued(|asked| asked.holds(address), &Refusal::Revoked);
        self.close(address, End::Revoked);
        // What ended may be on disk, and would linger again after a restart with a longer linger.
        self.marks.journal(address);
        // Also where there is no lease: a flow may have outlived it.
        self.cuts.insert(address);
    }

    /// Takes a name's causes from every lease; what no other cause holds is closed.
    fn take_back(&mut self, name: &Name, cut: bool) {
        let mut gone: Vec<(Ticket, Waiting)> = Vec::new();
        self.fail_queued(|asked| asked.bears(name), &Refusal::Revoked);
        for address in self.table.addresses_of(name) {
            let bearing: Vec<Ticket> = self.gate.tickets_of(address).filter(|t| self.gate.bears(*t, name)).collect();
            self.fail_tickets(bearing, |_, _| Refusal::Revoked);
            let causes = self.table.get(address).map(|lease| lease.causes().clone()).unwrap_or_default();
            self.shun(address, &causes, Some(name));
            match self.table.remove_causes(address, name, self.now) {
                Remaining::Same => {
                    // A group may have gone with it.
                    self.marks.taken_back(address);
                }
                Remaining::Earlier => self.follow_earlier_end(address),
                Remaining::Nothing => {
                    self.fail_tickets_of(address, |_, _| Refusal::Revoked);
                    let how = if cut { End::Revoked } else { End::Forbidden };
                    self.close(address, how);
                    // What it was open for is not in the lease any more.
                    self.ended.note(address, &causes, how, self.now);
                    if cut {
                        self.cuts.insert(address);
                    }
                }
            }
        }
        for list in [&mut self.fresh, &mut self.through] {
            let (bearing, left) = std::mem::take(list).into_iter().partition(|(_, waiting)| waiting.bears(name));
            *list = left;
            gone.extend::<Vec<_>>(bearing);
        }
        gone.into_iter().for_each(|(ticket, _)| self.refuse(ticket, Refusal::Revoked));
    }

    /// The end of a lease was moved earlier.
    fn follow_earlier_end(&mut self, address: IpAddr) {
        self.pairs_follow(address);
        self.marks.taken_back(address);
    }

    /// Makes one plan of all marks, then lets the new answers through or to the gate.
    fn plan(&mut self) {
        let next = Generation(self.generation.0 + 1);
        let (mut timed, mut routes) = (Vec::new(), Vec::new());
        let mut changed = Vec::new();
        let mut records: Vec<Output> =
            std::mem::take(&mut self.revoked).into_iter().map(Output::JournalRevoked).collect();
        let required = Required {
            timed: self.enforcers.requires(EnforcerKind::Timed),
            route: self.enforcers.requires(EnforcerKind::Route),
        };
        for (address, mark) in self.marks.take() {
            self.exchange.iter_mut().for_each(|exchange| exchange.mark(address));
            let lease = if mark.change {
                let mut change = |planned: Planned, wanted: Wanted| {
                    let wanted = Wanted { route: wanted.route.filter(|_| self.announces), ..wanted };
                    let change = difference(address, planned, wanted, next, self.now);
                    if matches!(
                        change.route,
                        Some(Change::Open { .. } | Change::Announce { new: true, .. } | Change::Close { .. })
                    ) {
                        self.enforcers.told_anew(address);
                    }
                    count_sets(&mut self.group_sets, planned, change.planned);
                    timed.extend(change.timed);
                    routes.extend(change.route);
                    change.planned
                };
                let removed = self.marks.take_removed(address);
                let lease =
                    self.table.plan(address, required, self.now, |lease| change(lease.planned(), lease.wanted()));
                match lease {
                    Some(lease) if lease.progress().lacks_route().is_some() => changed.push(address),
                    Some(_) => {}
                    None => drop(change(removed, Wanted::default())),
                }
                lease
            } else {
                self.table.get(address)
            };
            if mark.journal {
                if mark.anew && lease.is_some() {
                    records.push(Output::JournalClosed(address));
                }
                records.push(match lease {
                    Some(lease) => {
                        let paths = if mark.whole { lease.paths() } else { mark.paths };
                        let stored = stored((address, lease), paths, self.settings.linger, &self.groups, self.now);
                        Output::Journal(StoredLease { adds: !mark.whole, ..stored })
                    }
                    None => Output::JournalClosed(address),
                });
            }
        }
        let timed_leases = !timed.is_empty();
        self.plan_pairs(next, &mut timed);
        self.tell_guards();
        // Cut first what is open again within the same batch: opening it ends the cut.
        let (open_again, closed): (Vec<_>, Vec<_>) = std::mem::take(&mut self.cuts)
            .into_iter()
            .partition(|address| self.table.get(*address).is_some_and(|lease| lease.is_active()));
        self.outputs.extend(open_again.into_iter().map(Output::CutFlows));
        let timed_to = (timed_leases || !timed.is_empty()) && self.enforcers.has(EnforcerKind::Timed);
        let routes_to = !routes.is_empty() && self.enforcers.has(EnforcerKind::Route);
        if timed_to || routes_to {
            self.generation = next;
        }
        if timed_to {
            self.enforcers.planned(EnforcerKind::Timed, next, opens(&timed), self.now);
            self.outputs.push_back(Output::ApplyTimed { generation: next, changes: timed });
        }
        if routes_to {
            self.enforcers.planned(EnforcerKind::Route, next, opens(&routes), self.now);
            self.outputs.push_back(Output::ApplyRoutes { generation: next, changes: routes });
        }
        for enforcer in std::mem::take(&mut self.syncs) {
            self.generation = Generation(self.generation.0 + 1);
            self.enforcers.synced(enforcer, self.generation);
            let active = self.table.iter().filter(|(_, lease)| lease.is_active());
            let (leases, pairs) = match &self.pairs {
                None => (active.map(|(address, lease)| (address, lease.ends())).collect(), Vec::new()),
                Some(pairs) => (Vec::new(), pairs.full()),
            };
            self.outputs.push_back(Output::Sync { enforcer, generation: self.generation, leases, pairs });
        }
        self.outputs.extend(records);
        self.journal_pairs();
        self.outputs.extend(closed.into_iter().map(Output::CutFlows));
        self.prove_timed();
        self.prove_routes(changed);
        for (ticket, waiting) in std::mem::take(&mut self.fresh) {
            self.meet_gate(ticket, waiting, next);
        }
        // An enforcer may have been lost, an address revoked, after the acknowledgement but within the same batch.
        for (ticket, waiting) in std::mem::take(&mut self.through) {
            if waiting.leases.iter().all(|lease| lease.in_force_for(self.now, Duration::ZERO)) {
                self.decide(ticket, waiting);
            } else {
                self.meet_gate(
                    ticket,
                    Waiting { leases: LeaseHandles::new(), needs: Needs::default(), ..waiting },
                    next,
                );
            }
        }
        for (ticket, waiting) in std::mem::take(&mut self.through) {
            self.decide(ticket, waiting);
        }
        let hurry = std::mem::take(&mut self.hurry);
        if !hurry.is_empty() {
            self.outputs.push_back(Output::Hurry(hurry.into_iter().collect()));
        }
    }

    /// An answer whose plan, `plan` if anything changed, is made: through at once when everything it needs is in force, else it waits.
    fn meet_gate(&mut self, ticket: Ticket, mut waiting: Waiting, plan: Generation) {
        let mut routes = true;
        waiting.leases.reserve_exact(waiting.addresses.len());
        for address in &waiting.addresses {
            let Some(lease) = self.table.get(*address).filter(|lease| lease.is_active()) else {
                // Closed within the very batch that opened it.
                self.refuse(ticket, Refusal::Revoked);
                return;
            };
            let share = waiting.group.map(|group| lease.share(group));
            if matches!(share, Some(None)) {
                // Its group lost it within the very batch.
                self.refuse(ticket, Refusal::Revoked);
                return;
            }
            waiting.leases.push(lease.handle_of(waiting.group).clone());
            let planned = lease.planned();
            let timed = planned.timed.map(|timed| timed.last).unwrap_or_default();
            waiting.needs.timed = waiting.needs.timed.max(timed);
            let opened = planned.route.map(|route| route.opened).unwrap_or_default();
            let shared = share.flatten().and_then(|share| share.borne.plan()).unwrap_or_default();
            let needed = opened.max(shared);
            waiting.needs.route = waiting.needs.route.max(needed);
            if !lease.has_route(waiting.group) {
                routes = false;
                // What is opened while a session is down is part of the table that its next one starts with.
                if needed < plan || self.enforcers.lacks_route_session() {
                    self.hurry.insert(*address);
                }
            } else if needed != Generation::default() && needed < plan && self.enforcers.has(EnforcerKind::Route) {
                // What was announced before is about to be used again: whether the routers still have it is looked at soon.
                self.hurry.insert(*address);
            }
        }
        if !self.need_pairs(&mut waiting) {
            self.refuse(ticket, Refusal::Revoked);
            return;
        }
        let timed = self.enforcers.all_timed().is_some_and(|held| waiting.needs.timed <= held);
        if timed && routes {
            self.through.push((ticket, waiting));
            return;
        }
        self.gate.wait(ticket, waiting);
        // What is held already is not waited for.
        for (kind, held) in [(EnforcerKind::Timed, timed), (EnforcerKind::Route, routes)] {
            if held {
                self.through.extend(self.gate.pass(kind, ticket));
            }
        }
    }

    /// What every required timed enforcer holds comes into force, then answers go.
    fn prove_timed(&mut self) {
        let held = self.enforcers.all_timed();
        self.pairs.iter_mut().for_each(|pairs| pairs.prove(held));
        if let Some(generation) = held {
            self.table.ack(generation, self.now);
            self.through.extend(self.gate.acknowledged(generation));
        }
    }

    /// Likewise for those of these addresses that every required route enforcer holds.
    fn prove_routes(&mut self, addresses: Vec<IpAddr>) {
        for address in addresses {
            let holds = |plan| self.enforcers.all_route(address, plan);
            if !self.table.confirm(address, holds, self.now) {
                continue;
            }
            let table = &self.table;
            let in_force = |other, group| table.get(other).is_some_and(|lease| lease.has_route(group));
            self.through.extend(self.gate.in_force(address, in_force));
        }
    }

    fn decide(&mut self, ticket: Ticket, waiting: Waiting) {
        self.counts.released += 1;
        let decision = Decision::Release { leases: waiting.leases, short: waiting.short };
        self.decisions.push_back(Output::Decide { ticket, decision });
    }

    fn refuse(&mut self, ticket: Ticket, refusal: Refusal) {
        *self.counts.refused.of(&refusal) += 1;
        self.decisions.push_back(Output::Decide { ticket, decision: Decision::Refuse(refusal) });
    }

    fn deadline_refusal(&self, waiting: &Waiting) -> Refusal {
        let opened = |address: &IpAddr| {
            let lease = self.table.get(*address)?;
            let shared = waiting.group.and_then(|group| lease.share(group)?.borne.plan()).unwrap_or_default();
            Some((*address, lease.planned().route?.opened.max(shared)))
        };
        let routes: Vec<_> = waiting.addresses.iter().filter_map(opened).collect();
        Refusal::Deadline { waiting_for: self.enforcers.missing(waiting.needs.timed, &routes) }
    }

    fn fail_tickets_of(&mut self, address: IpAddr, refusal: impl Fn(&Self, &Waiting) -> Refusal) {
        let tickets = self.gate.tickets_of(address).collect();
        self.fail_tickets(tickets, refusal);
    }

    fn fail_tickets(&mut self, tickets: Vec<Ticket>, refusal: impl Fn(&Self, &Waiting) -> Refusal) {
        for ticket in tickets {
            if let Some(waiting) = self.gate.take(ticket) {
                let refusal = refusal(self, &waiting);
                self.refuse(ticket, refusal);
            }
        }
    }
}

/// Takes note of a set of groups that was told in place of another.
fn count_sets(sets: &mut BTreeMap<GroupSet, usize>, before: Planned, after: Planned) {
    let set = |planned: Planned| planned.route.and_then(|route| route.groups);
    let (before, after) = (set(before), set(after));
    if before == after {
        return;
    }
    if let Some(set) = before
        && let Some(count) = sets.get_mut(&set)
    {
        *count -= 1;
        if *count == 0 {
            sets.remove(&set);
        }
    }
    if let Some(set) = after {
        *sets.entry(set).or_default() += 1;
    }
}

fn client_buckets(lease: &LeaseSettings) -> Buckets<Holder> {
    Buckets::new(lease.new_per_client, lease.burst_per_client, BUCKETS)
}

fn domain_buckets(lease: &LeaseSettings) -> Buckets<Holder> {
    Buckets::new(lease.new_per_domain, lease.burst_per_domain, BUCKETS)
}

fn opens(changes: &[Change]) -> usize {
    changes.iter().filter(|change| matches!(change, Change::Open { .. } | Change::Announce { new: true, .. })).count()
}

mod admit;
mod clients;
pub use clients::PairCaused;
mod enforcers;
mod exchange;
mod expire;
mod regroup;
mod reports;
mod restore;

use expire::stored;
#[cfg(test)]
mod tests;
