//! Properties of the guard as a whole: random operations against in-memory enforcers, and a model that knows only what
//! an observer would.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::checks::{changed, check_plan, check_stored, covers, ends, mark};
use super::operations::{Operation, address, exchanging, groups, guard_word, operation, other_settings};
use super::{CAPACITY, changes, name, settings, specs};
use crate::config::value::Rate;
use crate::core::event::{
    Admission, Change, Decision, Grant, GuardNews, GuardWord, LeaseHandle, Listed, QueryPath, Refusal,
};
use crate::core::groups::GroupCommunities;
use crate::core::guard::*;
use crate::core::plan::LEAST_EXTENSION;
use crate::enforce::memory::Held;

/// How long an answer waits for tokens.
const PATIENCE: Duration = Duration::from_millis(500);

/// What an enforcer was told and has not carried out.
#[derive(Clone, Debug)]
enum Told {
    Apply(Generation, Vec<Change>, Arc<Groups>),
    Sync(Generation, Vec<(IpAddr, Moment)>),
}

/// One in-memory enforcer behind a queue.
#[derive(Debug, Default)]
struct Simulated {
    held: Held,
    queue: VecDeque<Told>,
    /// What each route bears.
    bears: BTreeMap<IpAddr, GroupCommunities>,
    lost: bool,
    /// The session can't bear IPv6.
    lacks_ipv6: bool,
    /// Addresses that are as the commands up to this plan make them, whatever was carried out of the others.
    ahead: BTreeMap<IpAddr, Generation>,
    /// Said of single addresses, not heard by the guard yet.
    said: VecDeque<Event>,
    /// Said and heard in this session: it may be heard again.
    heard: Vec<(IpAddr, Generation)>,
    /// The last plan that was carried out.
    carried: Generation,
    /// What a router lost, with what it bore; it comes back with the next report.
    missing: BTreeMap<IpAddr, (Moment, GroupCommunities)>,
    /// Not required, and refused something: the guard only notes that.
    incomplete: bool,
}

impl Simulated {
    /// Routes of a family that the session lacks are not there, whatever it was told; returns those that `changes` were to open.
    fn drop_what_it_lacks(&mut self, changes: &[Change]) -> Vec<IpAddr> {
        if !self.lacks_ipv6 {
            return Vec::new();
        }
        self.held.open.retain(|address, _| address.is_ipv4());
        self.bears.retain(|address, _| address.is_ipv4());
        let opens = changes.iter().filter(|change| matches!(change, Change::Open { .. } | Change::Announce { .. }));
        opens.map(changed).filter(IpAddr::is_ipv6).collect()
    }
}

/// An enforcer's place in the configuration.
#[derive(Clone, Debug)]
struct Member {
    id: EnforcerId,
    spec: EnforcerSpec,
    there: bool,
    /// It came while the guard ran, and has not acknowledged all since.
    joining: bool,
}

fn members() -> Vec<Member> {
    let ids = (0..).map(EnforcerId);
    ids.zip(specs()).map(|(id, spec)| Member { id, spec, there: true, joining: false }).collect()
}

/// The guard, its enforcers, and what an observer has seen of them.
struct World {
    guard: Guard,
    now: Moment,
    enforcers: Vec<Simulated>,
    /// Which of them there are, by what name, and what the configuration says of them.
    listed: Vec<Member>,
    next_id: u16,
    /// Every plan and sync carried out at once: what all enforcers would hold if they were infinitely fast.
    ideal_timed: Held,
    ideal_routes: Held,
    ideal_bears: BTreeMap<IpAddr, GroupCommunities>,
    last_routes: Generation,
    groups: Arc<Groups>,
    settings: Settings,
    announces: bool,
    /// When each client, and when anybody, last was let open something that was not open.
    opened_by: BTreeMap<IpAddr, Moment>,
    opened: Option<Moment>,
    /// What the enforcer was last told of them.
    told_groups: Arc<Groups>,
    journal: BTreeMap<IpAddr, StoredLease>,
    next_ticket: u64,
    /// Waiting answers and when they must be decided.
    waiting: BTreeMap<Ticket, Moment>,
    /// The latest end that any admission asked for.
    asked: BTreeMap<IpAddr, Moment>,
    /// Who asked, by the ticket.
    askers: BTreeMap<Ticket, IpAddr>,
    /// With what the route must bear for it.
    handles: Vec<(LeaseHandle, GroupCommunities)>,
}

impl World {
    fn new() -> Self {
        Self {
            guard: exchanging(Guard::new(settings(), specs()).with_groups(groups(1))),
            groups: groups(1),
            settings: settings(),
            announces: true,
            opened_by: BTreeMap::new(),
            opened: None,
            told_groups: groups(1),
            ideal_bears: BTreeMap::new(),
            askers: BTreeMap::new(),
            now: Moment(1000),
            enforcers: specs().iter().map(|_| Simulated::default()).collect(),
            listed: members(),
            next_id: 100,
            ideal_timed: Held::default(),
            ideal_routes: Held::default(),
            last_routes: Generation(0),
            journal: BTreeMap::new(),
            next_ticket: 0,
            waiting: BTreeMap::new(),
            asked: BTreeMap::new(),
            handles: Vec::new(),
        }
    }

    fn handle(&mut self, event: Event) {
        self.guard.handle(event, self.now);
    }

    fn id(&self, enforcer: usize) -> EnforcerId {
        self.listed[enforcer].id
    }

    /// Tells the guard of all enforcers that there are; `joins`: a new one does.
    fn list(&mut self, joins: bool) {
        let there = self.listed.iter().filter(|member| member.there);
        let list = there.map(|Member { id, spec, .. }| Listed { id: *id, spec: spec.clone(), joins }).collect();
        self.handle(changes::routers(&self.guard, list, self.settings.linger));
    }

    fn has_routers(&self) -> bool {
        self.listed[1..].iter().any(|member| member.there)
    }

    /// What a router had, and all that was under way, is gone.
    fn forget(&mut self, enforcer: usize) {
        self.enforcers[enforcer] = Simulated { lost: true, ..Simulated::default() };
    }

    fn is_timed(enforcer: usize) -> bool {
        enforcer == 0
    }

    fn run(&mut self, operation: &Operation) {
        match operation {
            Operation::Admit { client, name: question, alias, addresses, ttl } => {
                self.next_ticket += 1;
                let ticket = Ticket(self.next_ticket);
                self.waiting.insert(ticket, self.now.plus(Duration::from_secs(1)));
                self.askers.insert(ticket, IpAddr::from([192, 0, 2, *client]));
                let grants: Vec<_> =
                    addresses.iter().map(|index| Grant { address: address(*index), ttl: *ttl }).collect();
                let admission = Admission {
                    judged: 0,
                    openings: Default::default(),
                    whole: false,
                    ticket,
                    client: IpAddr::from([192, 0, 2, *client]),
                    mark: None,
                    question: name(*question),
                    qtype: 1,
                    chain: alias.iter().map(|index| name(*index)).collect(),
                    domain: "a.test".parse().unwrap(),
                    grants: grants.as_slice().into(),
                };
                self.guard.expire(self.now);
                let opens = grants.iter().any(|grant| self.guard.table.get(grant.address).is_none());
                let refused = self.guard.decisions.len();
                let queued = self.guard.queue.len();
                self.handle(Event::Admit(admission));
                let admitted = self.guard.decisions.len() == refused;
                let queued = self.guard.queue.len() > queued;
                self.check_rates(IpAddr::from([192, 0, 2, *client]), opens, admitted);
                let lease = &self.settings.lease;
                let ends = self.now.plus(Duration::from_secs(u64::from(*ttl)).max(lease.min.0)).plus(lease.grace.0);
                let ends = ends.min(self.now.plus(lease.max.0));
                if queued {
                    // Opened later, if at all.
                    for grant in &grants {
                        let asked = self.asked.entry(grant.address).or_default();
                        *asked = (*asked).max(ends.plus(PATIENCE));
                    }
                } else if admitted {
                    let (_, waiting) = self.guard.fresh.last().expect("admitted");
                    assert!(!waiting.addresses.is_empty() && grants.len() >= waiting.addresses.len());
                    for address in &waiting.addresses {
                        let asked = self.asked.entry(*address).or_default();
                        *asked = (*asked).max(ends);
                        let lease = self.guard.table.get(*address).expect("admitted, so leased");
                        assert!(lease.ends().plus(LEAST_EXTENSION) > ends, "the lease covers what was asked");
                    }
                }
            }
            Operation::Deliver { enforcer, commands } => {
                for _ in 0..*commands {
                    self.deliver(*enforcer, false);
                }
            }
            Operation::Refuse { enforcer } => self.deliver(*enforcer, true),
            Operation::Install { enforcer, address: index } => self.install(*enforcer, address(*index), false),
            Operation::RefuseOne { enforcer, address: index } => self.install(*enforcer, address(*index), true),
            Operation::Report { enforcer } => {
                self.report(*enforcer);
                if let Some(again) = self.enforcers[*enforcer].heard.first().copied() {
                    self.handle(Event::Confirmed { enforcer: self.id(*enforcer), addresses: vec![again] });
                }
            }
            Operation::Lose { enforcer } => {
                self.report(*enforcer);
                let simulated = &mut self.enforcers[*enforcer];
                simulated.held = Held::default();
                simulated.bears.clear();
                simulated.queue.clear();
                simulated.ahead.clear();
                simulated.heard.clear();
                simulated.lost = true;
                self.handle(Event::Lost { enforcer: self.id(*enforcer), reason: "gone".to_owned() });
            }
            Operation::Miss { enforcer, address: index } if !Self::is_timed(*enforcer) => {
                self.report(*enforcer);
                let address = address(*index);
                let simulated = &mut self.enforcers[*enforcer];
                if let Some(ends) = simulated.held.open.remove(&address) {
                    simulated.heard.retain(|(heard, _)| *heard != address);
                    let generation = simulated.ahead.get(&address).copied().unwrap_or_default().max(simulated.carried);
                    simulated.missing.insert(address, (ends, simulated.bears.remove(&address).unwrap()));
                    let (enforcer, addresses) = (self.id(*enforcer), vec![address]);
                    self.handle(Event::MissingRoutes { enforcer, addresses, generation });
                }
            }
            Operation::Miss { address: index, .. } => {
                if self.enforcers[0].held.open.remove(&address(*index)).is_some() {
                    let addresses = vec![address(*index)];
                    self.handle(Event::Missing { enforcer: self.id(0), addresses, pairs: Vec::new() });
                }
            }
            Operation::Recover { enforcer, ipv6 } => self.recover(*enforcer, *ipv6),
            Operation::Revoke { address: index } => {
                self.asked.remove(&address(*index));
                self.handle(Event::Revoke(RevokeTarget::Address(address(*index))));
                assert!(self.guard.table.get(address(*index)).is_none());
            }
            Operation::RevokeName { name: index } => self.handle(Event::Revoke(RevokeTarget::Name(name(*index)))),
            Operation::Guard { guard, address: index, says } => {
                let address = address(*index);
                let what = guard_word(self.now, *says);
                let guard = std::net::Ipv4Addr::new(203, 0, 113, *guard);
                if let GuardWord::Until(ends) = what {
                    let ends = ends.min(self.now.plus(self.settings.lease.max.0));
                    let asked = self.asked.entry(address).or_default();
                    *asked = (*asked).max(ends);
                }
                self.handle(Event::Guards(vec![GuardNews { address, guard, by: guard, what }]));
            }
            Operation::Forbid { name: index } => {
                self.handle(changes::forbid(&self.guard, &[name(*index)]));
                assert!(!self.guard.names().any(|other| *other == name(*index)));
            }
            Operation::Wait { millis } => self.wait(self.now.plus(Duration::from_millis(*millis))),
            Operation::Restart => self.restart(),
            Operation::Set { which } => {
                self.settings = other_settings(*which);
                let Settings { lease, gate, .. } = self.settings.clone();
                self.handle(changes::settings(lease, gate));
            }
            Operation::Announce { announces } => {
                self.announces = *announces;
                self.handle(changes::announce(*announces));
            }
            Operation::Remove { enforcer } => {
                self.listed[*enforcer].there = false;
                self.forget(*enforcer);
                self.list(false);
            }
            Operation::Add { enforcer, required, joins } => {
                self.next_id += 1;
                let member = &mut self.listed[*enforcer];
                (member.id, member.there, member.joining) = (EnforcerId(self.next_id), true, *joins);
                (member.spec.required, member.spec.max_addresses) = (*required, usize::MAX);
                self.forget(*enforcer);
                self.list(*joins);
            }
            Operation::Require { enforcer, required } => {
                self.listed[*enforcer].spec.required = *required;
                self.list(false);
            }
            Operation::Linger { seconds } => {
                self.settings.linger = Duration::from_secs(*seconds);
                self.list(false);
            }
            Operation::Regroup { which } => {
                self.groups = groups(*which);
                self.handle(changes::groups(groups(*which)));
            }
        }
    }

    /// Whoever opened nothing for as long as its bucket needs to be full is not refused for its rate: no other refusal costs tokens.
    fn check_rates(&mut self, client: IpAddr, opens: bool, admitted: bool) {
        let lease = &self.settings.lease;
        // A bucket may owe what who waits is patient for.
        let long_ago =
            |at: Option<Moment>, rate: Rate| at.is_none_or(|at| at.until(self.now) >= rate.per + PATIENCE * 2);
        let may = long_ago(self.opened_by.get(&client).copied(), lease.new_per_client)
            && long_ago(self.opened, lease.new_per_domain);
        let over = matches!(
            self.guard.decisions.back(),
            Some(Output::Decide { decision: Decision::Refuse(Refusal::PerClient | Refusal::PerDomain), .. })
        );
        assert!(admitted || !over || !may, "{client} is refused for its rate although it opened nothing lately");
        if admitted && opens {
            self.opened_by.insert(client, self.now);
            self.opened = Some(self.now);
        }
    }

    /// A router has again what it lost, as it bore it, and says so.
    fn bring_back(&mut self, enforcer: usize, address: IpAddr) {
        let id = self.id(enforcer);
        let simulated = &mut self.enforcers[enforcer];
        let Some((ends, bears)) = simulated.missing.remove(&address) else { return };
        simulated.held.open.insert(address, ends);
        simulated.bears.insert(address, bears);
        let generation = simulated.ahead.get(&address).copied().unwrap_or_default().max(simulated.carried);
        simulated.said.push_back(Event::Confirmed { enforcer: id, addresses: vec![(address, generation)] });
    }

    /// What a route enforcer has said arrives, in order.
    fn report(&mut self, enforcer: usize) {
        let missing: Vec<IpAddr> = self.enforcers[enforcer].missing.keys().copied().collect();
        missing.into_iter().for_each(|address| self.bring_back(enforcer, address));
        // It may have been required when it refused.
        let noted = !self.gates(&self.listed[enforcer]);
        while let Some(event) = self.enforcers[enforcer].said.pop_front() {
            self.enforcers[enforcer].incomplete |= noted && matches!(event, Event::RefusedAddress { .. });
            if let Event::Confirmed { addresses, .. } = &event {
                let simulated = &mut self.enforcers[enforcer];
                simulated.heard.extend(addresses);
                let older = simulated.heard.len().saturating_sub(8);
                simulated.heard.drain(..older);
            }
            self.handle(event);
        }
    }

    /// A router brings one address up to date before all others: only its newest change counts.
    fn install(&mut self, enforcer: usize, address: IpAddr, refuse: bool) {
        self.bring_back(enforcer, address);
        let noted = !self.gates(&self.listed[enforcer]);
        let id = self.id(enforcer);
        let simulated = &mut self.enforcers[enforcer];
        if simulated.lost || (simulated.lacks_ipv6 && address.is_ipv6()) {
            return;
        }
        let mut newest = None;
        let mut opened = false;
        for told in &simulated.queue {
            let Told::Apply(generation, changes, groups) = told else { continue };
            newest = Some(*generation);
            let fresh = simulated.ahead.get(&address).is_none_or(|at| at < generation);
            for change in changes.iter().filter(|change| changed(change) == address && fresh) {
                simulated.held.limit = None;
                simulated.held.apply(std::slice::from_ref(change)).unwrap();
                mark(&mut simulated.bears, std::slice::from_ref(change), groups);
                opened = match change {
                    Change::Open { .. } | Change::Announce { new: true, .. } => true,
                    // What was opened by an earlier one that is under way is still new.
                    Change::Announce { .. } => opened,
                    _ => false,
                };
            }
        }
        // Nothing under way: it is as it was, and may say so again.
        let generation = newest.unwrap_or(self.last_routes);
        simulated.ahead.insert(address, generation);
        if !simulated.held.open.contains_key(&address) {
            return;
        }
        let event = if refuse && opened {
            simulated.held.open.remove(&address);
            simulated.bears.remove(&address);
            simulated.incomplete |= noted;
            Event::RefusedAddress { enforcer: id, address, generation, reason: "not forwarded".to_owned() }
        } else {
            Event::Confirmed { enforcer: id, addresses: vec![(address, generation)] }
        };
        simulated.said.push_back(event);
    }

    fn deliver(&mut self, enforcer: usize, refuse: bool) {
        self.report(enforcer);
        let now = self.now;
        let noted = !self.gates(&self.listed[enforcer]);
        let id = self.id(enforcer);
        let simulated = &mut self.enforcers[enforcer];
        if simulated.lost {
            return;
        }
        let Some(told) = simulated.queue.pop_front() else { return };
        if Self::is_timed(enforcer) {
            simulated.held.expire(now);
        }
        let generation = match told {
            Told::Apply(generation, mut changes, groups) => {
                let ahead = &simulated.ahead;
                changes.retain(|change| ahead.get(&changed(change)).is_none_or(|at| *at < generation));
                simulated.held.limit = refuse.then_some(0);
                let outcome = simulated.held.apply(&changes);
                let opens =
                    |change: &Change| matches!(change, Change::Open { .. } | Change::Announce { new: true, .. });
                let done: Vec<Change> =
                    changes.iter().copied().filter(|change| outcome.is_ok() || !opens(change)).collect();
                mark(&mut simulated.bears, &done, &groups);
                let lacking = simulated.drop_what_it_lacks(&changes);
                for address in lacking {
                    let reason = "the peer did not negotiate IPv6".to_owned();
                    self.handle(Event::RefusedAddress { enforcer: id, address, generation, reason });
                }
                let simulated = &mut self.enforcers[enforcer];
                if let Err(reason) = outcome {
                    simulated.incomplete |= noted;
                    self.handle(Event::Refused { enforcer: id, generation, reason });
                }
                generation
            }
            Told::Sync(generation, leases) => {
                simulated.held.sync(&leases, &[]);
                generation
            }
        };
        self.enforcers[enforcer].carried = generation;
        self.handle(Event::Applied { enforcer: id, generation });
        self.listed[enforcer].joining = false;
    }

    fn recover(&mut self, enforcer: usize, ipv6: bool) {
        if !self.enforcers[enforcer].lost || !self.listed[enforcer].there {
            return;
        }
        // The driver reads its commands in order: what was sent before it came back is in its table.
        self.drain();
        self.enforcers[enforcer].lost = false;
        self.enforcers[enforcer].queue.clear();
        if Self::is_timed(enforcer) {
            self.handle(Event::WantSync { enforcer: self.id(enforcer) });
        } else {
            self.enforcers[enforcer].held.open = self.ideal_routes.open.clone();
            self.enforcers[enforcer].bears = self.ideal_bears.clone();
            self.enforcers[enforcer].lacks_ipv6 = !ipv6;
            self.enforcers[enforcer].carried = self.last_routes;
            self.enforcers[enforcer].drop_what_it_lacks(&[]);
            self.handle(Event::Families { enforcer: self.id(enforcer), ipv4: true, ipv6 });
            self.handle(Event::Applied { enforcer: self.id(enforcer), generation: self.last_routes });
            self.listed[enforcer].joining = false;
        }
    }

    fn restart(&mut self) {
        self.drain();
        // On disk is what ended as well, and how long it lingers is known when that is read: as if it were compacted now.
        let (table, now) = (&self.guard.table, self.now);
        self.journal.retain(|address, stored| stored.ends > now || table.get(*address).is_some());
        for (handle, _) in &self.handles {
            handle.set_in_force(false);
        }
        // With less room or a shorter maximum it would close and shorten what it reads back, as it should.
        let settings = Settings { linger: self.settings.linger, ..settings() };
        self.settings = settings.clone();
        let there: Vec<EnforcerSpec> =
            self.listed.iter().filter(|member| member.there).map(|member| member.spec.clone()).collect();
        let mut ids = (0..).map(EnforcerId);
        for member in &mut self.listed {
            // No number of those that are there.
            member.id = if member.there { ids.next().unwrap() } else { EnforcerId(99) };
            member.joining = false;
        }
        self.guard =
            exchanging(Guard::new(settings, there).with_groups(self.groups.clone()).announcing(self.announces));
        self.told_groups = self.groups.clone();
        self.waiting.clear();
        self.askers.clear();
        self.ideal_bears.clear();
        self.ideal_routes = Held::default();
        self.ideal_timed = Held::default();
        self.last_routes = Generation(0);
        (self.opened, self.opened_by) = (None, BTreeMap::new());
        let stored: Vec<StoredLease> = self.journal.values().cloned().collect();
        let live: BTreeSet<IpAddr> = stored.iter().filter(|s| s.ends > self.now).map(|s| s.address).collect();
        // Without a router nothing lingers.
        let linger = if self.has_routers() { self.settings.linger } else { Duration::ZERO };
        let routes: BTreeSet<IpAddr> =
            stored.iter().filter(|s| s.ends.plus(linger) > self.now).map(|s| s.address).collect();
        let in_groups: BTreeSet<(IpAddr, String)> = stored
            .iter()
            .flat_map(|stored| stored.groups.iter().map(move |(name, ends)| (stored, name, (*ends).min(stored.ends))))
            .filter(|(_, name, ends)| {
                self.has_routers() && ends.plus(linger) > self.now && self.groups.by_name(name).is_some()
            })
            .map(|(stored, name, _)| (stored.address, name.clone()))
            .collect();
        self.handle(Event::Restore(stored));
        let restored: BTreeSet<IpAddr> = self.guard.table.iter().map(|(address, _)| address).collect();
        assert_eq!(restored, routes, "every live lease and every lingering route survives a restart, and nothing else");
        let active = self.guard.table.iter().filter(|(_, lease)| lease.is_active());
        assert_eq!(active.map(|(address, _)| address).collect::<BTreeSet<_>>(), live, "and nothing lives again");
        let known = &self.groups;
        let shares = self.guard.table.iter().flat_map(|(address, lease)| {
            lease.shares().iter().map(move |share| (address, known.name(share.group).to_owned()))
        });
        assert_eq!(shares.collect::<BTreeSet<_>>(), in_groups, "routes bear again what they bore");
        for enforcer in 0..self.enforcers.len() {
            self.enforcers[enforcer].queue.clear();
            self.enforcers[enforcer].ahead.clear();
            self.enforcers[enforcer].said.clear();
            self.enforcers[enforcer].heard.clear();
            self.enforcers[enforcer].bears.clear();
            self.enforcers[enforcer].missing.clear();
            self.enforcers[enforcer].carried = Generation(0);
            self.enforcers[enforcer].lost = false;
            self.enforcers[enforcer].lacks_ipv6 = false;
            if Self::is_timed(enforcer) {
                self.handle(Event::WantSync { enforcer: self.id(enforcer) });
            } else {
                self.enforcers[enforcer].held = Held::default();
            }
        }
    }

    fn wait(&mut self, until: Moment) {
        self.drain();
        while let Some(due) = self.guard.poll_timeout().filter(|due| *due <= until) {
            assert!(due > self.now || self.now <= due, "time goes forward");
            self.now = self.now.max(due);
            self.guard.handle_timeout(self.now);
            self.drain();
            assert!(self.guard.poll_timeout().is_none_or(|next| next > self.now), "a due timer stays due");
            self.check();
        }
        self.now = until;
        self.guard.handle_timeout(self.now);
    }

    fn drain(&mut self) {
        while let Some(output) = self.guard.poll_output() {
            match output {
                Output::ApplyTimed { generation, changes } => {
                    check_plan(&changes);
                    self.ideal_timed.apply(&changes).unwrap();
                    self.enforcers[0].queue.push_back(Told::Apply(generation, changes, self.told_groups.clone()));
                }
                Output::ApplyRoutes { generation, changes } => {
                    check_plan(&changes);
                    assert!(!changes.iter().any(|change| matches!(change, Change::Extend { .. })));
                    self.ideal_routes.apply(&changes).unwrap();
                    self.last_routes = generation;
                    mark(&mut self.ideal_bears, &changes, &self.told_groups);
                    assert!(self.has_routers());
                    let there = self.enforcers.iter_mut().zip(&self.listed).skip(1);
                    for (enforcer, _) in there.filter(|(_, member)| member.there) {
                        enforcer.queue.push_back(Told::Apply(generation, changes.clone(), self.told_groups.clone()));
                    }
                }
                Output::Sync { enforcer, generation, leases, pairs } => {
                    assert!(pairs.is_empty(), "leases are for everybody");
                    assert_eq!(enforcer, EnforcerId(0));
                    self.ideal_timed.expire(self.now);
                    let ideal: Vec<_> = self.ideal_timed.open.iter().map(|(a, b)| (*a, *b)).collect();
                    assert_eq!(leases, ideal, "the full state is what all changes make");
                    self.enforcers[0].queue.push_back(Told::Sync(generation, leases));
                }
                Output::Journal(lease) => {
                    let before = self.journal.remove(&lease.address);
                    let joined = lease.joined_to(before);
                    self.journal.insert(joined.address, joined);
                }
                Output::JournalRevoked(name) => {
                    let revoked = |path: &QueryPath| path.names().any(|other| *other == name);
                    self.journal.values_mut().for_each(|lease| lease.paths.retain(|path| !revoked(path)));
                }
                Output::JournalClosed(address) => drop(self.journal.remove(&address)),
                Output::CutFlows(_) | Output::Share(_) => {}
                Output::JournalPair(record) => panic!("leases are for everybody: {record:?}"),
                Output::Hurry(addresses) => {
                    assert!(addresses.iter().all(|address| self.guard.table.get(*address).is_some()));
                }
                Output::RoutesAnew => {
                    self.ideal_routes = Held::default();
                    self.ideal_bears.clear();
                }
                Output::Groups(groups) => self.told_groups = groups,
                Output::Decide { ticket, decision } => {
                    self.waiting.remove(&ticket).expect("each answer is decided once");
                    let asker = self.askers.remove(&ticket).unwrap();
                    let group = self.groups.of(asker, None).filter(|_| self.has_routers());
                    let needed = self.groups.communities(group.into_iter().collect());
                    if let Decision::Release { leases, .. } = decision {
                        leases.iter().for_each(|lease| self.check_released(lease, &needed));
                        self.handles.extend(leases.into_iter().map(|lease| (lease, needed.clone())));
                    }
                }
            }
        }
    }

    /// Whether answers wait for this enforcer.
    fn gates(&self, member: &Member) -> bool {
        let required = member.there && member.spec.required && !member.joining;
        required && (self.announces || member.spec.kind == EnforcerKind::Timed)
    }

    /// Promise 1: what is released is open everywhere it must be, for the group of who asked, and on disk.
    fn check_released(&self, lease: &LeaseHandle, needed: &GroupCommunities) {
        let address = lease.address();
        assert!(lease.in_force_for(self.now, Duration::ZERO), "{address} released, not in force");
        assert!(self.journal.contains_key(&address), "{address} released, not on disk");
        for (simulated, member) in self.enforcers.iter().zip(&self.listed).filter(|(_, member)| self.gates(member)) {
            let spec = &member.spec;
            let open = simulated.held.open.get(&address);
            assert!(open.is_some(), "{address} released, not open at {}", spec.name);
            if spec.kind == EnforcerKind::Route {
                let borne = &simulated.bears[&address];
                assert!(covers(borne, needed), "{address} released with {borne:?} at {}, needs {needed:?}", spec.name);
            }
        }
    }

    /// What must hold whenever the outputs are drained.
    fn check(&mut self) {
        let table = &self.guard.table;
        let spare = &self.listed[3];
        let budget = if spare.there { spare.spec.max_addresses } else { usize::MAX };
        assert!(table.len() <= CAPACITY.min(budget), "more leases than the capacity or a peer's budget");
        table.check_consistency();
        check_stored(&self.journal, table, self.now);
        self.guard.enforcers.check_consistency(table);
        assert!(self.guard.gate.len() <= self.waiting.len());

        self.ideal_timed.expire(self.now);
        let active: BTreeMap<IpAddr, Moment> = table
            .iter()
            .filter(|(_, lease)| lease.is_active())
            .map(|(address, lease)| (address, lease.ends()))
            .collect();
        assert_eq!(self.ideal_timed.open, active, "timed enforcers get exactly the active leases");
        let all: BTreeSet<IpAddr> = table.iter().map(|(address, _)| address).collect();
        let routes: BTreeSet<IpAddr> = self.ideal_routes.open.keys().copied().collect();
        let all = if self.announces { all } else { BTreeSet::new() };
        let routed = self.has_routers();
        let (routes, all) = if routed { (routes, all) } else { Default::default() };
        assert_eq!(routes, all, "routes are the active and the lingering leases, or none in audit");
        let mut sets: BTreeMap<GroupSet, usize> = BTreeMap::new();
        for (address, lease) in table.iter() {
            if self.announces && routed {
                assert_eq!(
                    self.ideal_bears[&address],
                    self.groups.communities(lease.groups()),
                    "routes bear their groups'"
                );
                *sets.entry(lease.groups()).or_default() += 1;
            }
            for share in lease.shares() {
                let asked = self.asked.get(&address).copied().unwrap_or_default();
                assert!(share.ends <= asked, "{address} bears a group's for longer than anybody asked: {share:?}");
                assert!(share.gone > self.now, "{address} bears what has ended: {share:?}");
            }
        }
        assert!(!routed || self.guard.group_sets == sets, "{:?} {sets:?}", self.guard.group_sets);

        for (address, lease) in table.iter() {
            assert!(!lease.causes().is_empty(), "{address} is open without a cause");
            let asked = self.asked.get(&address).copied().unwrap_or_default();
            assert!(lease.ends() <= asked, "{address} is open for longer than anybody asked");
        }
        for (ticket, deadline) in &self.waiting {
            assert!(self.now <= *deadline, "{ticket:?} waits longer than its deadline");
        }
        // The hot path: what it may serve without asking is open wherever it must be, for as long as it believes.
        for (handle, needed) in self.handles.iter().filter(|(handle, _)| handle.in_force_for(self.now, Duration::ZERO))
        {
            for (simulated, member) in self.enforcers.iter().zip(&self.listed).filter(|(_, member)| self.gates(member))
            {
                let spec = &member.spec;
                let open = simulated.held.open.get(&handle.address());
                assert!(open.is_some(), "{} in force, not open at {}", handle.address(), spec.name);
                if spec.kind == EnforcerKind::Timed {
                    assert!(open >= Some(&handle.ends()), "{} open for less than believed", handle.address());
                } else {
                    let borne = &simulated.bears[&handle.address()];
                    assert!(covers(borne, needed), "{} in force with {borne:?}, needs {needed:?}", handle.address());
                }
            }
        }
    }
}

/// A lease's end moves earlier only by revoke and forbid; a refusal closes only what was not in force.
fn check_ends(before: &BTreeMap<IpAddr, (Moment, bool)>, world: &World, operation: &Operation) {
    for (address, (ends, in_force)) in before {
        if *ends <= world.now {
            continue;
        }
        let after = world.guard.table.get(*address).filter(|lease| lease.is_active()).map(|lease| lease.ends());
        match operation {
            Operation::Revoke { .. }
            | Operation::RevokeName { .. }
            | Operation::Forbid { .. }
            | Operation::Guard { .. } => {}
            // A report comes with the next delivery at the latest.
            Operation::Refuse { .. }
            | Operation::Deliver { .. }
            | Operation::Report { .. }
            | Operation::Lose { .. }
            | Operation::Miss { .. }
                if !in_force && after.is_none() => {}
            _ => assert!(after >= Some(*ends), "{address} ended at {after:?} instead of {ends:?} by {operation:?}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_promises_hold(operations in prop::collection::vec((operation(), prop::bool::weighted(0.7)), 1..80)) {
        let mut world = World::new();
        for (operation, drained) in &operations {
            let before = ends(&world.guard.table);
            world.run(operation);
            check_ends(&before, &world, operation);
            if *drained {
                world.drain();
                world.check();
            }
        }
        // Let everything settle: then every enforcer holds exactly what it should, and every answer is decided.
        world.drain();
        for enforcer in 0..world.enforcers.len() {
            world.report(enforcer);
            if world.enforcers[enforcer].lacks_ipv6 || world.enforcers[enforcer].incomplete {
                world.run(&Operation::Lose { enforcer });
            }
            world.recover(enforcer, true);
        }
        world.drain();
        for enforcer in 0..world.enforcers.len() {
            while !world.enforcers[enforcer].queue.is_empty() {
                world.deliver(enforcer, false);
                world.drain();
            }
        }
        world.check();
        let active: Vec<IpAddr> = world.ideal_timed.open.keys().copied().collect();
        world.enforcers[0].held.expire(world.now);
        let held: Vec<IpAddr> = world.enforcers[0].held.open.keys().copied().collect();
        prop_assert_eq!(held, active);
        let routes: Vec<IpAddr> = world.ideal_routes.open.keys().copied().collect();
        let there = world.enforcers.iter().zip(&world.listed).skip(1).filter(|(_, member)| member.there);
        for (simulated, _) in there.filter(|(simulated, _)| !simulated.incomplete) {
            prop_assert_eq!(simulated.held.open.keys().copied().collect::<Vec<_>>(), routes.clone());
            prop_assert_eq!(&simulated.bears, &world.ideal_bears);
        }
        prop_assert!(world.guard.gate.is_empty(), "everything was acknowledged, so nothing waits");
        world.wait(world.now.plus(Duration::from_secs(151 + 60)));
        world.drain();
        prop_assert!(world.guard.table.is_empty(), "everything ends");
        let routed = world.has_routers();
        prop_assert!(!routed || world.ideal_routes.open.is_empty() && world.guard.group_sets.is_empty());
        prop_assert_eq!(world.guard.table.entries(), 0);
        prop_assert!(world.waiting.is_empty());
    }
}
