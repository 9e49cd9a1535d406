//! What the enforcers have acknowledged, and which leases are therefore in force.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use serde::Serialize;

use super::event::{EnforcerId, EnforcerKind, EnforcerSpec, Generation, Listed};
use super::lease::ByFamily;
#[cfg(test)]
use super::lease::LeaseTable;
use super::moment::Moment;

/// How far an enforcer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EnforcerState {
    /// Has not reported yet.
    Starting,
    /// Holds everything up to its acknowledged generation.
    InForce,
    /// Holds what it confirmed one by one; of the table that it was given, some is not confirmed yet.
    Partial,
    /// Can't be trusted to hold anything.
    Lost,
}

/// Acknowledgements remembered with their time, for "since when"; and plans with their number of openings. What is
/// older is only known to be older.
const REMEMBERED: usize = 1024;

/// One enforcer and its last words.
#[derive(Debug)]
pub struct Enforcer {
    /// The enforcer's name in the configuration.
    pub id: EnforcerId,
    /// As configured; the families as it last said.
    pub spec: EnforcerSpec,
    /// Whether IPv4, IPv6 are configured.
    configured: (bool, bool),
    /// Whether answers are to wait for it, as configured.
    gates: bool,
    /// It gates nothing until it has acknowledged this.
    joins_at: Option<Generation>,
    /// How far it is.
    pub state: EnforcerState,
    /// Since when; `None` = since before the guard heard of any time.
    pub since: Option<Moment>,
    /// Since when it lacks the word on a plan; `None` = it has acknowledged all that is planned.
    pub behind_since: Option<Moment>,
    /// Holds everything up to here; `None` = nothing that can be counted on.
    pub acknowledged: Option<Generation>,
    /// Lost, refused: why.
    pub last_error: Option<String>,
    /// What it found otherwise than planned, by kind. As many kinds as there are in the code.
    pub repairs: BTreeMap<&'static str, u64>,
    /// The last of them in words, and when.
    pub last_repair: Option<(Moment, String)>,
    /// Timed: acknowledgements of plans before this one don't count (they were made before the state was lost).
    trusted_from: Generation,
    history: VecDeque<(Generation, Moment)>,
    /// Routes: addresses that it confirmed one by one and that `acknowledged` doesn't cover, with how far the table was
    /// then. Only of addresses that are leased.
    ahead: BTreeMap<IpAddr, Generation>,
    /// The same, to find those that are covered.
    ahead_by_plan: BTreeSet<(Generation, IpAddr)>,
    /// Routes: addresses that it had and has no more, whatever it acknowledged. Only of addresses whose route is
    /// planned.
    lacking: BTreeSet<IpAddr>,
}

impl Enforcer {
    /// It has not reported yet.
    fn new(id: EnforcerId, spec: EnforcerSpec, joins_at: Option<Generation>, since: Option<Moment>) -> Self {
        Self {
            id,
            configured: (spec.ipv4, spec.ipv6),
            gates: spec.required,
            joins_at,
            spec,
            state: EnforcerState::Starting,
            since,
            behind_since: None,
            acknowledged: None,
            last_error: None,
            repairs: BTreeMap::new(),
            last_repair: None,
            trusted_from: Generation(0),
            history: VecDeque::new(),
            ahead: BTreeMap::new(),
            ahead_by_plan: BTreeSet::new(),
            lacking: BTreeSet::new(),
        }
    }

    /// Whether answers are to wait for it now.
    fn decide(&mut self, announces: bool) {
        let heard = self.spec.kind == EnforcerKind::Timed || announces;
        self.spec.required = self.gates && heard && self.joins_at.is_none();
    }

    /// The same enforcer with another configuration.
    fn become_as(&mut self, spec: EnforcerSpec) {
        // What it said of its families counts as long as the same are configured.
        let families = (self.configured == (spec.ipv4, spec.ipv6)).then_some((self.spec.ipv4, self.spec.ipv6));
        self.configured = (spec.ipv4, spec.ipv6);
        self.gates = spec.required;
        self.spec = spec;
        if let Some((ipv4, ipv6)) = families {
            (self.spec.ipv4, self.spec.ipv6) = (ipv4, ipv6);
        }
    }

    /// Whether it holds an address that this plan opened.
    #[must_use]
    pub fn holds(&self, address: IpAddr, opened: Generation) -> bool {
        !self.lacking.contains(&address)
            && (self.acknowledged.is_some_and(|held| opened <= held)
                || self.ahead.get(&address).is_some_and(|at| opened <= *at))
    }

    /// Whether it holds such an address and can hold it at all: what a session without its family acknowledges is the
    /// table, not the address.
    fn has(&self, address: IpAddr, opened: Generation) -> bool {
        self.takes(address) && self.holds(address, opened)
    }

    /// Addresses that it confirmed one by one, ahead of what it acknowledged.
    #[must_use]
    pub fn ahead(&self) -> usize {
        self.ahead.len()
    }

    fn forget_ahead(&mut self, address: IpAddr) {
        if let Some(at) = self.ahead.remove(&address) {
            self.ahead_by_plan.remove(&(at, address));
        }
    }

    /// Since when it has held a plan, at the latest.
    #[must_use]
    pub fn held_since(&self, generation: Generation) -> Option<Moment> {
        let at = self.history.partition_point(|(held, _)| *held < generation);
        self.history.get(at).map(|(_, when)| *when)
    }

    /// Whether it takes addresses of this family.
    #[must_use]
    pub fn takes(&self, address: IpAddr) -> bool {
        if address.is_ipv4() { self.spec.ipv4 } else { self.spec.ipv6 }
    }

    /// Of these leases, the number that it takes.
    #[must_use]
    pub fn share(&self, leases: ByFamily) -> usize {
        usize::from(self.spec.ipv4) * leases.ipv4 + usize::from(self.spec.ipv6) * leases.ipv6
    }

    /// Of these leases, the number that it may have to take: its next session may have a family that this one lacks.
    #[must_use]
    pub fn most(&self, leases: ByFamily) -> usize {
        usize::from(self.configured.0) * leases.ipv4 + usize::from(self.configured.1) * leases.ipv6
    }
}

/// All enforcers, with what is known of each.
#[derive(Debug)]
pub struct Enforcers {
    all: Vec<Enforcer>,
    /// Whether routes are announced.
    announces: bool,
    timed_plans: VecDeque<(Generation, usize)>,
    route_plans: VecDeque<(Generation, usize)>,
}

impl Enforcers {
    /// None has reported yet.
    #[must_use]
    pub fn new(specs: Vec<EnforcerSpec>) -> Self {
        let ids = (0..).map(EnforcerId);
        let all = ids.zip(specs).map(|(id, spec)| Enforcer::new(id, spec, None, None)).collect();
        Self { all, announces: true, timed_plans: VecDeque::new(), route_plans: VecDeque::new() }
    }

    /// These are all from now on.
    pub fn set(&mut self, list: Vec<Listed>, now: Moment) {
        let mut before = std::mem::take(&mut self.all);
        for Listed { id, spec, joins } in list {
            let known = before.iter().position(|enforcer| enforcer.id == id);
            let mut enforcer = match known {
                Some(at) => {
                    let mut known = before.swap_remove(at);
                    known.become_as(spec);
                    known
                }
                None => {
                    let joins_at = joins.then(|| self.last_plan(spec.kind));
                    Enforcer::new(id, spec, joins_at, Some(now))
                }
            };
            enforcer.decide(self.announces);
            self.all.push(enforcer);
        }
    }

    /// Whether it gates from now on and didn't before, since it is about to acknowledge this. The acknowledgement is
    /// noted.
    pub fn joins(&mut self, id: EnforcerId, generation: Generation, now: Moment) -> bool {
        let announces = self.announces;
        let Some(enforcer) = self.get_mut(id) else { return false };
        if enforcer.joins_at.is_none_or(|at| generation < at.max(enforcer.trusted_from)) {
            return false;
        }
        enforcer.joins_at = None;
        enforcer.decide(announces);
        let required = enforcer.spec.required;
        self.applied(id, generation, now);
        required
    }

    /// In the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &Enforcer> {
        self.all.iter()
    }

    fn get(&self, id: EnforcerId) -> Option<&Enforcer> {
        self.all.iter().find(|enforcer| enforcer.id == id)
    }

    fn get_mut(&mut self, id: EnforcerId) -> Option<&mut Enforcer> {
        self.all.iter_mut().find(|enforcer| enforcer.id == id)
    }

    /// `None` for an id that doesn't exist.
    #[must_use]
    pub fn kind(&self, id: EnforcerId) -> Option<EnforcerKind> {
        self.get(id).map(|enforcer| enforcer.spec.kind)
    }

    /// Its name; empty for an id that doesn't exist.
    #[must_use]
    pub fn name(&self, id: EnforcerId) -> String {
        self.get(id).map(|enforcer| enforcer.spec.name.clone()).unwrap_or_default()
    }

    /// Whether its acknowledgement gates answers.
    #[must_use]
    pub fn is_required(&self, id: EnforcerId) -> bool {
        self.get(id).is_some_and(|enforcer| enforcer.spec.required)
    }

    /// Whether one of this kind gates answers.
    #[must_use]
    pub fn requires(&self, kind: EnforcerKind) -> bool {
        self.all.iter().any(|enforcer| enforcer.spec.kind == kind && enforcer.spec.required)
    }

    /// Whether there is any of this kind.
    #[must_use]
    pub fn has(&self, kind: EnforcerKind) -> bool {
        self.all.iter().any(|enforcer| enforcer.spec.kind == kind)
    }

    /// Timed ones that were given the full state, or didn't ask for it yet. The others get it anyway.
    pub fn timed_in_use(&self) -> impl Iterator<Item = EnforcerId> {
        let used = |enforcer: &&Enforcer| {
            enforcer.spec.kind == EnforcerKind::Timed && enforcer.trusted_from < Generation(u64::MAX)
        };
        self.all.iter().filter(used).map(|enforcer| enforcer.id)
    }

    /// What it has acknowledged.
    #[must_use]
    pub fn acknowledged(&self, id: EnforcerId) -> Option<Generation> {
        self.get(id).and_then(|enforcer| enforcer.acknowledged)
    }

    /// The plan up to which every required timed enforcer has acknowledged everything; `None` when one of them can't be
    /// counted on. Without any that is required, everything is acked.
    #[must_use]
    pub fn acked_by_all_timed(&self) -> Option<Generation> {
        self.all
            .iter()
            .filter(|enforcer| enforcer.spec.required && enforcer.spec.kind == EnforcerKind::Timed)
            .map(|enforcer| enforcer.acknowledged)
            .try_fold(Generation(u64::MAX), |least, held| held.map(|held| least.min(held)))
    }

    /// Required enforcers that lack this plan (timed) or one of these addresses as these plans opened them (routes); of
    /// those that were lost, also why.
    #[must_use]
    pub fn missing(&self, timed: Generation, routes: &[(IpAddr, Generation)]) -> Vec<String> {
        let lacks = |enforcer: &&Enforcer| match enforcer.spec.kind {
            EnforcerKind::Timed => enforcer.acknowledged.is_none_or(|held| held < timed),
            EnforcerKind::Route => routes.iter().any(|(address, opened)| !enforcer.has(*address, *opened)),
        };
        let required = self.all.iter().filter(|enforcer| enforcer.spec.required);
        let words = |enforcer: &Enforcer| match (&enforcer.last_error, enforcer.state) {
            (Some(why), EnforcerState::Lost) => format!("{} ({why})", enforcer.spec.name),
            _ => enforcer.spec.name.clone(),
        };
        required.filter(lacks).map(words).collect()
    }

    /// Whether every required route enforcer has an address as this plan made it.
    #[must_use]
    pub fn confirmed_by_all_routes(&self, address: IpAddr, opened: Generation) -> bool {
        let mut routes =
            self.all.iter().filter(|enforcer| enforcer.spec.required && enforcer.spec.kind == EnforcerKind::Route);
        routes.all(|enforcer| enforcer.has(address, opened))
    }

    /// Whether a required route enforcer has confirmed nothing since it was lost, or started.
    #[must_use]
    pub fn lacks_route_session(&self) -> bool {
        let out = |enforcer: &Enforcer| matches!(enforcer.state, EnforcerState::Starting | EnforcerState::Lost);
        let mut required = self.all.iter().filter(|enforcer| enforcer.spec.required);
        required.any(|enforcer| enforcer.spec.kind == EnforcerKind::Route && out(enforcer))
    }

    /// A required enforcer that can't hold the address's family.
    #[must_use]
    pub fn cannot_hold(&self, address: IpAddr) -> Option<String> {
        let unfit = self.all.iter().find(|enforcer| enforcer.spec.required && !enforcer.takes(address));
        unfit.map(|enforcer| enforcer.spec.name.clone())
    }

    /// An enforcer that would hold more than it may, and more than now, with these active leases and these in all.
    #[must_use]
    pub fn over_budget(
        &self,
        active: ByFamily,
        all: ByFamily,
        active_now: ByFamily,
        lingering_now: ByFamily,
    ) -> Option<String> {
        let over = self.all.iter().find(|enforcer| {
            let (then, now) = match enforcer.spec.kind {
                EnforcerKind::Timed => (enforcer.most(active), enforcer.most(active_now)),
                EnforcerKind::Route => (enforcer.most(all), enforcer.most(active_now) + enforcer.most(lingering_now)),
            };
            then > enforcer.spec.max_addresses && then > now
        });
        over.map(|enforcer| enforcer.spec.name.clone())
    }

    /// Whether routes are announced: only then does anybody wait for route enforcers.
    pub fn announce(&mut self, announces: bool) {
        self.announces = announces;
        self.all.iter_mut().for_each(|enforcer| enforcer.decide(announces));
    }

    /// The most that timed ones may hold from now on: the kernel's sets follow `lease.capacity`.
    pub fn set_timed_budget(&mut self, capacity: usize) {
        let timed = self.all.iter_mut().filter(|enforcer| enforcer.spec.kind == EnforcerKind::Timed);
        timed.for_each(|enforcer| enforcer.spec.max_addresses = capacity);
    }

    /// The least that any of them may hold.
    #[must_use]
    pub fn least_budget(&self) -> usize {
        self.all.iter().map(|enforcer| enforcer.spec.max_addresses).min().unwrap_or(usize::MAX)
    }

    /// What it can hold from now on, within what is configured.
    pub fn families(&mut self, id: EnforcerId, ipv4: bool, ipv6: bool) {
        if let Some(enforcer) = self.get_mut(id) {
            enforcer.spec.ipv4 = ipv4 && enforcer.configured.0;
            enforcer.spec.ipv6 = ipv6 && enforcer.configured.1;
        }
    }

    /// Notes an acknowledgement; when it says something new, returns the kind and what was acknowledged before.
    pub fn applied(
        &mut self,
        id: EnforcerId,
        generation: Generation,
        now: Moment,
    ) -> Option<(EnforcerKind, Option<Generation>)> {
        let last = self.kind(id).map(|kind| self.last_plan(kind))?;
        let enforcer = self.get_mut(id)?;
        let before = enforcer.acknowledged;
        if generation < enforcer.trusted_from || before.is_some_and(|held| held >= generation) {
            return None;
        }
        if enforcer.state != EnforcerState::InForce {
            enforcer.state = EnforcerState::InForce;
            enforcer.since = Some(now);
        }
        enforcer.acknowledged = Some(generation);
        // What is still lacking is newer: it moves on.
        enforcer.behind_since = (generation < last).then_some(now);
        remember(&mut enforcer.history, (generation, now));
        while let Some((at, address)) = enforcer.ahead_by_plan.first().copied().filter(|(at, _)| *at <= generation) {
            enforcer.ahead_by_plan.remove(&(at, address));
            enforcer.ahead.remove(&address);
        }
        Some((enforcer.spec.kind, before))
    }

    /// Notes that a route enforcer holds a leased address as the table was at `generation`. Returns whether that is
    /// news.
    pub fn confirmed(&mut self, id: EnforcerId, address: IpAddr, generation: Generation, now: Moment) -> bool {
        let Some(enforcer) = self.get_mut(id).filter(|enforcer| enforcer.spec.kind == EnforcerKind::Route) else {
            return false;
        };
        let lacked = enforcer.lacking.remove(&address);
        if enforcer.holds(address, generation) {
            return lacked;
        }
        if enforcer.acknowledged.is_none() && enforcer.state != EnforcerState::Partial {
            enforcer.state = EnforcerState::Partial;
            enforcer.since = Some(now);
        }
        enforcer.forget_ahead(address);
        enforcer.ahead.insert(address, generation);
        enforcer.ahead_by_plan.insert((generation, address));
        true
    }

    /// A route enforcer had this address and has it no more, until it is confirmed or planned anew.
    pub fn lacks(&mut self, id: EnforcerId, address: IpAddr) {
        if let Some(enforcer) = self.get_mut(id) {
            enforcer.lacking.insert(address);
        }
    }

    /// Route enforcers that no answer waits for.
    #[must_use]
    pub fn optional_routes(&self) -> Vec<EnforcerId> {
        let routes = self.all.iter().filter(|enforcer| enforcer.spec.kind == EnforcerKind::Route);
        routes.filter(|enforcer| !enforcer.spec.required).map(|enforcer| enforcer.id).collect()
    }

    /// What those of them lack that answers wait for.
    #[must_use]
    pub fn lacked_by_required(&self, among: &[EnforcerId]) -> BTreeSet<IpAddr> {
        let required = self.all.iter().filter(|enforcer| enforcer.spec.required && among.contains(&enforcer.id));
        required.flat_map(|enforcer| enforcer.lacking.iter().copied()).collect()
    }

    /// It has this address again, of which there is no lease now.
    pub fn found(&mut self, id: EnforcerId, address: IpAddr) {
        if let Some(enforcer) = self.get_mut(id) {
            enforcer.lacking.remove(&address);
        }
    }

    /// A plan opens or closes this address at route enforcers.
    pub fn planned_anew(&mut self, address: IpAddr) {
        for enforcer in &mut self.all {
            enforcer.lacking.remove(&address);
        }
    }

    /// An address is not leased any more.
    pub fn forget(&mut self, address: IpAddr) {
        self.all.iter_mut().for_each(|enforcer| enforcer.forget_ahead(address));
    }

    /// Nothing of it counts any more. A timed one must be given the full state first.
    pub fn lost(&mut self, id: EnforcerId, reason: String, now: Moment) -> Option<EnforcerKind> {
        let enforcer = self.get_mut(id)?;
        if enforcer.state != EnforcerState::Lost {
            enforcer.since = Some(now);
        }
        enforcer.state = EnforcerState::Lost;
        enforcer.behind_since = None;
        enforcer.acknowledged = None;
        enforcer.last_error = Some(reason);
        enforcer.history.clear();
        enforcer.ahead.clear();
        enforcer.ahead_by_plan.clear();
        enforcer.lacking.clear();
        if enforcer.spec.kind == EnforcerKind::Timed {
            enforcer.trusted_from = Generation(u64::MAX);
        }
        Some(enforcer.spec.kind)
    }

    /// A timed one asked for the full state: until it is given, acknowledgements of it are of no use.
    pub fn distrust(&mut self, id: EnforcerId) {
        if let Some(enforcer) = self.get_mut(id) {
            enforcer.trusted_from = Generation(u64::MAX);
        }
    }

    /// The full state is on its way with this plan.
    pub fn synced(&mut self, id: EnforcerId, generation: Generation) {
        if let Some(enforcer) = self.get_mut(id) {
            enforcer.trusted_from = generation;
        }
    }

    /// Notes what an enforcer found otherwise than planned.
    pub fn repaired(&mut self, id: EnforcerId, kind: &'static str, count: u64, what: String, now: Moment) {
        if let Some(enforcer) = self.get_mut(id) {
            let repairs = enforcer.repairs.entry(kind).or_default();
            *repairs = repairs.saturating_add(count);
            enforcer.last_repair = Some((now, what));
        }
    }

    /// Notes a refusal.
    pub fn refused(&mut self, id: EnforcerId, reason: String) -> Option<EnforcerKind> {
        let enforcer = self.get_mut(id)?;
        enforcer.last_error = Some(reason);
        Some(enforcer.spec.kind)
    }

    /// A plan of this kind went out, with so many openings.
    pub fn planned(&mut self, kind: EnforcerKind, generation: Generation, opens: usize, now: Moment) {
        remember(self.plans_mut(kind), (generation, opens));
        for enforcer in self.all.iter_mut().filter(|enforcer| enforcer.spec.kind == kind) {
            // One that holds nothing is shown as that.
            if enforcer.acknowledged.is_some() && enforcer.behind_since.is_none() {
                enforcer.behind_since = Some(now);
            }
        }
    }

    /// The guard's time begins: the states that the enforcers began with are so old.
    pub fn begin(&mut self, now: Moment) {
        self.all.iter_mut().filter(|enforcer| enforcer.since.is_none()).for_each(|enforcer| enforcer.since = Some(now));
    }

    /// The last plan of a kind.
    #[must_use]
    pub fn last_plan(&self, kind: EnforcerKind) -> Generation {
        self.plans(kind).back().map(|(generation, _)| *generation).unwrap_or_default()
    }

    /// Of `leases`, the number that an enforcer holds. Exact when it lags by no more than [`REMEMBERED`] plans.
    #[must_use]
    pub fn installed(&self, enforcer: &Enforcer, leases: ByFamily) -> usize {
        let Some(held) = enforcer.acknowledged else { return enforcer.ahead() };
        let plans = self.plans(enforcer.spec.kind).iter().rev();
        let lacking: usize = plans.take_while(|(plan, _)| *plan > held).map(|(_, opens)| opens).sum();
        let share = enforcer.share(leases);
        (share.saturating_sub(lacking) + enforcer.ahead()).min(share).saturating_sub(enforcer.lacking.len())
    }

    fn plans(&self, kind: EnforcerKind) -> &VecDeque<(Generation, usize)> {
        match kind {
            EnforcerKind::Timed => &self.timed_plans,
            EnforcerKind::Route => &self.route_plans,
        }
    }

    fn plans_mut(&mut self, kind: EnforcerKind) -> &mut VecDeque<(Generation, usize)> {
        match kind {
            EnforcerKind::Timed => &mut self.timed_plans,
            EnforcerKind::Route => &mut self.route_plans,
        }
    }
}

fn remember<T>(list: &mut VecDeque<T>, item: T) {
    if list.len() >= REMEMBERED {
        list.pop_front();
    }
    list.push_back(item);
}

#[cfg(test)]
impl Enforcers {
    /// What is held ahead is leased, not covered by the acknowledgement, and in both lists.
    pub fn check_consistency(&self, table: &LeaseTable) {
        for enforcer in &self.all {
            assert!(enforcer.ahead.len() <= table.len());
            assert!(enforcer.ahead.keys().all(|address| table.get(*address).is_some()));
            assert!(enforcer.ahead.values().all(|at| enforcer.acknowledged.is_none_or(|held| *at > held)));
            let by_plan: BTreeSet<_> = enforcer.ahead.iter().map(|(address, at)| (*at, *address)).collect();
            assert_eq!(enforcer.ahead_by_plan, by_plan);
        }
    }
}
