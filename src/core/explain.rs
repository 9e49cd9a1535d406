//! What the core shows of itself: leases, why an address is open, counts, enforcers. Plain values, made on the task that
//! owns the core, so nothing here walks more than it shows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::Serialize;

use super::applications;
use super::counts::Counts;
use super::ended::Ended;
use super::event::{EnforcerKind, Generation};
use super::guard::Guard;
use super::lease::{ByFamily, Cause, Lease};
use super::moment::Moment;
use super::name::Name;
use super::narrow::{Narrow, Port, Who, owner};
use super::pairs::{Pair, Pairs};
use super::proof::{Enforcer, EnforcerState};

/// Most clients shown of an address that is open for single clients.
pub const CLIENTS_SHOWN: usize = 64;
/// For how long a repair is shown.
const SHOWN_FOR: Duration = Duration::from_secs(3600);

/// Which leases a view shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LeaseFilter {
    /// All of them.
    #[default]
    All,
    /// The lease of one address alone.
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
    /// Not in force yet at every required enforcer.
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
    /// Clients that asked, without doubles, in order; where leases are for single clients those for whom it is open, at most [`CLIENTS_SHOWN`].
    pub clients: Vec<IpAddr>,
    /// Where only some of its ports are open: these.
    pub ports: Vec<Port>,
    /// Where it is open for single applications of this host only: these.
    pub applications: Vec<Arc<str>>,
    /// Groups whose communities its route bears, in the order of the configuration.
    pub groups: Vec<String>,
    /// Per enforcer: "open", "opening", "closed" (timed, while lingering), "lost", "unsupported" (the address family), "audit" (it would be announced).
    pub enforcers: BTreeMap<String, String>,
}

/// Most ports of an address that are told of.
const PORTS_SHOWN: usize = 64;

/// One client of a cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClientView {
    /// The client that asked, by its address.
    pub client: IpAddr,
    /// Seconds until what this client was told ends; 0 = ended.
    pub ends_in_seconds: u64,
}

/// A port of an address that is open, or all of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PortView {
    /// The transport and port, or any.
    pub port: Port,
    /// Whom it is open for; `None`: everybody.
    pub client: Option<IpAddr>,
    /// The application of this host that it is open for alone.
    pub application: Option<Arc<str>>,
    /// The questions that opened it.
    pub names: Vec<String>,
    /// Seconds until it closes.
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
    /// The group of those who asked, when it has communities.
    pub group: Option<String>,
    /// By what those who asked were known, if by more than their addresses.
    pub known_by: Option<String>,
    /// Who asked; empty after a restart.
    pub clients: Vec<ClientView>,
    /// Seconds until this cause ends; 0 = ended.
    pub ends_in_seconds: u64,
}

/// One group whose communities the route of an address bears.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GroupView {
    /// The group's name, as configured.
    pub name: String,
    /// Seconds until what its clients were told ends; 0 = ended, and the communities stay for `bgp.linger`.
    pub ends_in_seconds: u64,
    /// Whether every required router has the route with them.
    pub in_force: bool,
}

/// What one enforcer does about one address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HoldView {
    /// The enforcer's name, as in `status`.
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
    /// The address that is open.
    pub address: IpAddr,
    /// How far its lease is.
    pub state: LeaseState,
    /// Seconds since the lease began.
    pub age_seconds: u64,
    /// Seconds until the lease ends; 0 while it lingers.
    pub ends_in_seconds: u64,
    /// Seconds until the route is withdrawn; `None` without route enforcers.
    pub route_ends_in_seconds: Option<u64>,
    /// A live flow keeps the route though the lease has ended: seconds as things are now, and at most.
    pub held_by_flow_seconds: Option<(u64, u64)>,
    /// Every question that opened it, the one that ends last first.
    pub causes: Vec<CauseView>,
    /// For whom it is open, at most [`CLIENTS_SHOWN`]; `None` = for everybody.
    pub open_for: Option<Vec<ClientView>>,
    /// Where single ports are open, or for single applications: which, and by which names. All of the address may be open beside them.
    pub open_ports: Option<Vec<PortView>>,
    /// The groups whose communities its route bears.
    pub groups: Vec<GroupView>,
    /// What each enforcer does about it, in the order of the configuration.
    pub enforcers: Vec<HoldView>,
    /// Answers that wait at the gate for this address.
    pub waiting: usize,
}

/// A lease that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedView {
    /// The address that was open.
    pub address: IpAddr,
    /// Questions that had opened it, and the aliases behind each.
    pub causes: Vec<(Name, Vec<Name>)>,
    /// Seconds since it was closed.
    pub seconds_ago: u64,
    /// Why it was, in a few words.
    pub how: &'static str,
}

/// What is known of an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The lease, while the address is open.
    pub lease: Option<Explanation>,
    /// Its last one, where it has none.
    pub ended: Option<EndedView>,
    /// Questions that opened it, with their aliases, of the lease that is or was.
    pub causes: Vec<(Name, Vec<Name>)>,
}

/// One enforcer, as `destguard status` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EnforcerView {
    /// The enforcer's name, as metrics and log have it.
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
    /// For how many seconds it has acknowledged nothing though there are such plans; 0 = it keeps up.
    pub behind_seconds: u64,
    /// Of routers: the addresses that count against `max_addresses`, confirmed or not. `None`: what is held is the lease table.
    pub budget_used: Option<usize>,
    /// Addresses it holds.
    pub installed: usize,
    /// The most it may hold.
    pub max_addresses: usize,
    /// Why it was last lost, or what it last refused; for an hour what it last found otherwise than planned, and when.
    pub last_error: Option<String>,
    /// What it found otherwise than planned, by kind.
    pub repairs: BTreeMap<&'static str, u64>,
    /// In audit: IPv4 and IPv6 routes that it would have.
    pub would_announce: Option<(usize, usize)>,
}

impl Guard {
    /// Leases that `filter` selects, in the order of their addresses, at most `limit`, only those after the address
    /// `after`. O(log n) and what it returns.
    #[must_use]
    pub fn leases(&self, filter: &LeaseFilter, after: Option<IpAddr>, limit: usize, now: Moment) -> Vec<LeaseView> {
        let view = |(address, lease): (IpAddr, &Lease)| self.lease_view(address, lease, now);
        let behind = |address: &IpAddr| after.is_none_or(|after| *address > after);
        match filter {
            LeaseFilter::All => self.table.range(None, after).take(limit).map(view).collect(),
            LeaseFilter::Prefix(prefix) => self.table.range(Some(*prefix), after).take(limit).map(view).collect(),
            LeaseFilter::Address(address) => {
                let found = self.table.get(*address).filter(|_| behind(address));
                found.into_iter().take(limit).map(|lease| view((*address, lease))).collect()
            }
            LeaseFilter::Name(name) => {
                let addresses = self.table.addresses_of(name).into_iter().filter(behind).take(limit);
                addresses.filter_map(|address| Some(view((address, self.table.get(address)?)))).collect()
            }
        }
    }

    /// Why an address is open; `None` when it isn't leased.
    #[must_use]
    pub fn explain(&self, address: IpAddr, now: Moment) -> Option<Explanation> {
        let lease = self.table.get(address)?;
        let mut causes: Vec<&Cause> = lease.causes().iter().collect();
        causes.sort_by_key(|cause| std::cmp::Reverse(cause.ends));
        let route_ends = lease.lingers().unwrap_or(lease.ends().plus(self.settings.linger));
        Some(Explanation {
            address,
            state: lease_state(lease),
            age_seconds: lease.begun().until(now).as_secs(),
            ends_in_seconds: seconds(now, lease.ends()),
            route_ends_in_seconds: self.enforcers.has(EnforcerKind::Route).then(|| seconds(now, route_ends)),
            held_by_flow_seconds: self
                .flow_holds(address, lease)
                .map(|(until, most)| (seconds(now, until), seconds(now, most))),
            causes: causes.into_iter().map(|cause| self.cause_view(cause, now)).collect(),
            open_for: self.pairs.as_ref().filter(|_| self.per_client).map(|pairs| {
                let view = |(narrow, pair): (Narrow, &Pair)| {
                    Some(ClientView { client: narrow.client()?, ends_in_seconds: seconds(now, pair.ends) })
                };
                pairs.of(address).filter_map(view).take(CLIENTS_SHOWN).collect()
            }),
            open_ports: self.open_ports(address, now),
            groups: lease
                .shares()
                .iter()
                .map(|share| GroupView {
                    name: self.groups.name(share.group).to_owned(),
                    ends_in_seconds: seconds(now, share.ends),
                    in_force: share.borne.is_confirmed() && lease.progress().is_confirmed(),
                })
                .collect(),
            enforcers: self
                .enforcers
                .iter()
                .map(|enforcer| hold_view(enforcer, address, lease, self.announces, now))
                .collect(),
            waiting: self.gate.waiting_for(address),
        })
    }

    /// Every address that a name opened, as question or alias, at most `limit`.
    #[must_use]
    pub fn explain_name(&self, name: &Name, limit: usize, now: Moment) -> Vec<Explanation> {
        self.table.addresses_of(name).into_iter().take(limit).filter_map(|address| self.explain(address, now)).collect()
    }

    /// What is known of an address, open or not.
    #[must_use]
    pub fn known(&self, address: IpAddr, now: Moment) -> Known {
        let lease = self.table.get(address);
        let of_lease = lease.into_iter().flat_map(|lease| lease.causes()).take(CLIENTS_SHOWN);
        let mut causes: Vec<_> = of_lease.map(|cause| (cause.question.clone(), cause.chain.to_vec())).collect();
        let ended = self.ended.of(address).map(|ended| ended_view(address, ended, now));
        causes.extend(ended.iter().flat_map(|ended| ended.causes.clone()));
        Known { lease: self.explain(address, now), ended, causes }
    }

    /// Leases of a name, as question or alias, that are over, at most `limit`.
    #[must_use]
    pub fn ended_of_name(&self, name: &Name, limit: usize, now: Moment) -> Vec<EndedView> {
        self.ended.of_name(name).take(limit).map(|(address, ended)| ended_view(address, ended, now)).collect()
    }

    /// Gauges and counters; costs nothing.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            ipv4: self.table.active().ipv4,
            ipv6: self.table.active().ipv6,
            lingering: self.table.lingering().total(),
            held_by_flows: self.flows.held(),
            pending: self.table.not_in_force(),
            causes: self.table.entries(),
            causes_dropped: self.table.dropped(),
            group_sets: self.group_sets.keys().filter(|set| !set.is_empty()).count(),
            pairs: self.pairs.as_ref().map_or(0, Pairs::len),
            waiting: self.gate.len().saturating_add(self.queue.len()),
            queued: self.queue.len(),
            generation: self.generation.0,
            ..self.counts
        }
    }

    /// Every enforcer, in the order of their ids.
    #[must_use]
    pub fn enforcers(&self, now: Moment) -> Vec<EnforcerView> {
        let active = self.table.active();
        let lingering = self.table.lingering();
        let all = ByFamily { ipv4: active.ipv4 + lingering.ipv4, ipv6: active.ipv6 + lingering.ipv6 };
        let view = |enforcer: &Enforcer| EnforcerView {
            name: enforcer.spec.name.clone(),
            required: enforcer.spec.required,
            state: enforcer.state,
            since_seconds: enforcer.since.map_or(0, |since| since.until(now).as_secs()),
            acknowledged: enforcer.acknowledged.map(|generation| generation.0),
            behind: enforcer.acknowledged.unwrap_or_default() < self.enforcers.last_plan(enforcer.spec.kind),
            behind_seconds: enforcer.behind_since.map_or(0, |since| since.until(now).as_secs()),
            budget_used: (enforcer.spec.kind == EnforcerKind::Route).then(|| enforcer.most(all)),
            installed: match enforcer.spec.kind {
                EnforcerKind::Timed => self.enforcers.installed(enforcer, active),
                EnforcerKind::Route if self.announces => self.enforcers.installed(enforcer, all),
                EnforcerKind::Route => 0,
            },
            would_announce: (enforcer.spec.kind == EnforcerKind::Route && !self.announces).then(|| {
                let only = |ipv4, ipv6| enforcer.share(ByFamily { ipv4, ipv6 });
                (only(all.ipv4, 0), only(0, all.ipv6))
            }),
            max_addresses: enforcer.spec.max_addresses,
            last_error: last_words(enforcer, now),
            repairs: enforcer.repairs.clone(),
        };
        self.enforcers.iter().map(view).collect()
    }

    /// The ports of an address that are open, for this client where that is asked; none: all that is leased of it is all of it.
    #[must_use]
    pub fn leased_ports(&self, address: IpAddr, client: Option<IpAddr>) -> Vec<Port> {
        let is_meant = |narrow: &Narrow| match (narrow.who, client) {
            (Who::Client(of), Some(client)) => of == owner(client),
            (Who::Anyone | Who::Client(_) | Who::Application(_), _) => true,
        };
        let open = self.pairs.iter().flat_map(|pairs| pairs.of(address)).map(|(narrow, _)| narrow).filter(is_meant);
        let ports: BTreeSet<Port> = open.map(|narrow| narrow.to).take(PORTS_SHOWN).collect();
        if ports.contains(&Port::Any) { Vec::new() } else { ports.into_iter().collect() }
    }

    /// The applications that an address is open for, where it is for nobody else.
    #[must_use]
    pub fn leased_applications(&self, address: IpAddr) -> Vec<Arc<str>> {
        let open = self.pairs.iter().flat_map(|pairs| pairs.of(address)).map(|(narrow, _)| narrow.application());
        let numbers: Option<BTreeSet<u16>> = open.collect();
        numbers.unwrap_or_default().into_iter().map(applications::name_of).collect()
    }

    /// What is open of an address, where single ports are, or for single applications.
    fn open_ports(&self, address: IpAddr, now: Moment) -> Option<Vec<PortView>> {
        let pairs = self.pairs.as_ref()?;
        let single = |(narrow, _): (Narrow, &Pair)| narrow.to != Port::Any || narrow.application().is_some();
        pairs.of(address).any(single).then(|| {
            let view = |(narrow, pair): (Narrow, &Pair)| PortView {
                port: narrow.to,
                client: narrow.client(),
                application: narrow.application().map(applications::name_of),
                names: pair.causes.iter().filter_map(|cause| Some(cause.names.first()?.to_string())).collect(),
                ends_in_seconds: seconds(now, pair.ends),
            };
            pairs.of(address).take(PORTS_SHOWN).map(view).collect()
        })
    }

    fn cause_view(&self, cause: &Cause, now: Moment) -> CauseView {
        let client =
            |(client, ends): &(IpAddr, Moment)| ClientView { client: *client, ends_in_seconds: seconds(now, *ends) };
        CauseView {
            question: cause.question.to_string(),
            qtype: cause.qtype,
            chain: cause.chain.iter().map(Name::to_string).collect(),
            group: cause.group.map(|group| self.groups.name(group).to_owned()),
            known_by: cause.mark.map(|mark| mark.words().to_string()),
            clients: cause.clients.iter().map(client).collect(),
            ends_in_seconds: seconds(now, cause.ends),
        }
    }

    fn lease_view(&self, address: IpAddr, lease: &Lease, now: Moment) -> LeaseView {
        let clients: BTreeSet<IpAddr> = match self.pairs.as_ref().filter(|_| self.per_client) {
            None => lease.causes().iter().flat_map(|c| &c.clients).map(|(client, _)| *client).collect(),
            Some(_) if !self.per_client => {
                lease.causes().iter().flat_map(|c| &c.clients).map(|(client, _)| *client).collect()
            }
            Some(pairs) => pairs.of(address).filter_map(|(narrow, _)| narrow.client()).take(CLIENTS_SHOWN).collect(),
        };
        let holds = self.enforcers.iter().map(|enforcer| {
            let (state, _) = holds(enforcer, address, lease, self.announces);
            (enforcer.spec.name.clone(), state.to_owned())
        });
        LeaseView {
            address,
            state: lease_state(lease),
            ends_in_seconds: seconds(now, lease.lingers().unwrap_or(lease.ends())),
            names: lease.questions().iter().map(Name::to_string).collect(),
            ports: self.leased_ports(address, None),
            applications: self.leased_applications(address),
            clients: clients.into_iter().collect(),
            groups: lease.shares().iter().map(|share| self.groups.name(share.group).to_owned()).collect(),
            enforcers: holds.collect(),
        }
    }
}

fn ended_view(address: IpAddr, ended: &Ended, now: Moment) -> EndedView {
    EndedView {
        address,
        causes: ended.causes.iter().map(|(question, chain)| (question.clone(), chain.to_vec())).collect(),
        seconds_ago: ended.at.until(now).as_secs(),
        how: ended.how.words(),
    }
}

/// What went wrong last with an enforcer.
fn last_words(enforcer: &Enforcer, now: Moment) -> Option<String> {
    let repair = enforcer.last_repair.as_ref().filter(|(at, _)| at.until(now) < SHOWN_FOR);
    match (enforcer.state, repair) {
        // Why it is lost matters more.
        (EnforcerState::Lost, _) | (_, None) => enforcer.last_error.clone(),
        (_, Some((at, what))) => Some(format!("{what} ({} s ago)", at.until(now).as_secs())),
    }
}

/// Whole seconds from `now` until `then`, rounded up.
fn seconds(now: Moment, then: Moment) -> u64 {
    then.0.saturating_sub(now.0).div_ceil(1000)
}

fn lease_state(lease: &Lease) -> LeaseState {
    match (lease.is_active(), lease.progress().in_force_since()) {
        (false, _) => LeaseState::Lingering,
        (true, None) => LeaseState::Pending,
        (true, Some(_)) => LeaseState::Installed,
    }
}

/// The state of one enforcer for one lease, and the plan that it holds it by.
fn holds(enforcer: &Enforcer, address: IpAddr, lease: &Lease, announces: bool) -> (&'static str, Option<Generation>) {
    let opened = match enforcer.spec.kind {
        EnforcerKind::Timed => lease.planned().timed.map(|timed| timed.opened),
        EnforcerKind::Route => lease.planned().route.map(|route| route.opened),
    };
    let closed = enforcer.spec.kind == EnforcerKind::Timed && !lease.is_active();
    match (enforcer.acknowledged, opened) {
        _ if !enforcer.takes(address) => ("unsupported", None),
        _ if closed => ("closed", None),
        _ if enforcer.spec.kind == EnforcerKind::Route && !announces => ("audit", None),
        (None, _) if enforcer.state == EnforcerState::Lost => ("lost", None),
        (_, Some(opened)) if enforcer.holds(address, opened) => ("open", Some(opened)),
        _ => ("opening", None),
    }
}

fn hold_view(enforcer: &Enforcer, address: IpAddr, lease: &Lease, announces: bool, now: Moment) -> HoldView {
    let (state, opened) = holds(enforcer, address, lease, announces);
    // The enforcer's own word, or, where that is too long ago to be remembered, the lease's.
    let since =
        opened.and_then(|opened| enforcer.held_since(opened)).map(|since| match lease.progress().in_force_since() {
            Some(in_force) if enforcer.spec.required => since.min(in_force),
            _ => since,
        });
    HoldView {
        name: enforcer.spec.name.clone(),
        required: enforcer.spec.required,
        state: state.to_owned(),
        since_seconds: since.map(|since| since.until(now).as_secs()),
    }
}
