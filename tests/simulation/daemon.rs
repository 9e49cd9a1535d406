//! The daemon in the simulated world: the core and the driver, and what `core_task` and the resolver do between them.
//!
//! A turn is in the order of `src/core_task/turn.rs`: commands to the drivers, records to the disk, decisions to who
//! asked.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use destguard::config::Config;
use destguard::config::schema::{self, NftablesMode, OnDeadline, Scope};
use destguard::config::value::{Rate, Span};
use destguard::core::address::AddressFilter;
use destguard::core::event::{
    Admission, Change, Decision, EnforcerId, EnforcerKind, EnforcerSpec, Event, Generation, Grant, LeaseHandles,
    Output, Reload, RevokeTarget, Routers, StoredPair, Ticket,
};
use destguard::core::guard::{Guard, Settings};
use destguard::core::journal::JournalRecord;
use destguard::core::judge::Judge;
use destguard::core::moment::Moment;
use destguard::core::name::Name;
use destguard::core::policy::view::Views;
use destguard::daemon::wall::Steps;
use destguard::enforce::Command;
use destguard::enforce::rules::{Own, Rules, Special};
use destguard::enforce::timed::{self, Driver, Switch, Table as _};
use destguard::sys::clock::Clock;

use super::draw::Draw;
use super::names::{address, chain, name, number};
use super::nftables::Nftables;
use super::plan::{Defect, MOST_ROUTERS, Millis, Plan, What};
use super::promises::{Promise, SETTLED, SLACK, Told};
use super::router::Router;
use super::world::{DEADLINE, Question, TURN, World};

/// The packet filter's.
pub const NFTABLES: EnforcerId = EnforcerId(0);
/// How long it may take until a sleep is noticed.
const NOTICED: Millis = 400;
/// An acknowledgement that is sent before its plan is carried out is early by so much.
const EARLY: Millis = 60;

/// An answer that waits at the gate.
struct Waiting {
    question: Question,
    since: Millis,
    /// The answer's TTL, in seconds.
    ttl: u64,
}

/// A kept answer.
struct Kept {
    handles: LeaseHandles,
    expires: Millis,
    told: Vec<Told>,
}

/// See the module.
pub struct Daemon {
    guard: Guard,
    clock: Clock,
    /// When the host booted.
    booted: Millis,
    driver: Driver<Nftables>,
    commands: VecDeque<(Millis, Command)>,
    /// Of the driver, and of each router's session.
    reports: [VecDeque<(Millis, Event)>; 1 + MOST_ROUTERS],
    /// By owner and name.
    cache: BTreeMap<(u8, u8), Kept>,
    waiting: BTreeMap<Ticket, Waiting>,
    next_ticket: u64,
    /// When the next turn is.
    turn: Option<Millis>,
    /// The number of the rules in force; an answer that is on its way was judged by those before.
    rules: u64,
    /// What judges by those rules.
    judge: Option<Judge>,
    /// The last plan for routes.
    pub last_routes: Generation,
    /// How the wall clock goes, where leases were restored by it.
    steps: Option<Steps>,
    /// The number that an enforcer was given last.
    pub last_id: u16,
    draw: Draw,
}

/// What the speaker is told: a plan, or that all begins anew.
type Routes = Option<(Generation, Vec<Change>)>;

/// What a turn puts out.
#[derive(Default)]
struct Out {
    timed: Vec<Command>,
    routes: Vec<Routes>,
    records: Vec<JournalRecord>,
    decisions: Vec<(Ticket, Decision)>,
}

fn settings(plan: &Plan, linger: Millis) -> Settings {
    let free = Rate { count: 1_000_000, per: Duration::from_secs(1) };
    let lease = schema::Lease {
        min: Span::secs(plan.min),
        max: Span::secs(plan.max),
        grace: Span::secs(plan.grace),
        capacity: plan.capacity,
        new_per_client: free,
        burst_per_client: free.count,
        new_per_domain: free,
        burst_per_domain: free.count,
        ..schema::Lease::default()
    };
    let gate = schema::Gate { deadline: Span(Duration::from_millis(DEADLINE)), on_deadline: OnDeadline::Servfail };
    Settings { lease, gate, linger: Duration::from_millis(linger) }
}

/// The enforcer that packets are judged by, or a router.
pub fn spec(name: &str, kind: EnforcerKind) -> EnforcerSpec {
    EnforcerSpec {
        name: name.to_owned(),
        kind,
        required: true,
        max_addresses: usize::MAX,
        ipv4: true,
        ipv6: true,
        narrow: Default::default(),
    }
}

impl Daemon {
    fn moment(&self) -> Moment {
        self.clock.now()
    }

    /// When it is this moment in the world.
    fn to_world(&self, moment: Moment) -> Millis {
        let begun = self.clock.since_boot().as_millis() as i64 - self.moment().0 as i64;
        self.booted + moment.0.saturating_add_signed(begun)
    }

    /// The core hears something.
    fn hear(&mut self, event: Event, now: Millis) {
        let moment = self.moment();
        self.guard.handle(event, moment);
        self.heard(now);
    }

    /// The core heard something: it has a turn soon.
    fn heard(&mut self, now: Millis) {
        let at = now + self.draw.below(2);
        self.turn.get_or_insert(at);
    }

    /// A reload: other rules, and all else as it was. These names are forbidden from now on, and no others.
    fn reload(&mut self, plan: &Plan, forbidden: impl Iterator<Item = u8>) -> Event {
        self.rules += 1;
        let mut config = Config::default();
        config.policy.deny = forbidden.map(|of| name(of).to_string()).collect();
        let prefixes = ["198.51.100.0/24", "2001:db8::/32"].map(|net| net.parse().unwrap()).to_vec();
        config.policy.private = vec![schema::Private { domain: ".".to_owned(), prefixes }];
        let (views, filter) = (Views::new(&config, &[]).unwrap(), AddressFilter::new(&config, &[]).unwrap());
        let judge = Judge::new(self.rules, Arc::new(views), Arc::new(filter), Arc::default());
        self.judge = Some(judge.clone());
        let Settings { lease, gate, .. } = settings(plan, 0);
        Event::Reload(Box::new(Reload {
            settings: Some((lease, gate)),
            announces: Some(true),
            groups: Some(Arc::default()),
            clients: Some(Arc::default()),
            narrowly: plan.apart,
            judge: Some(judge),
            ..Reload::default()
        }))
    }

    fn due(&self) -> Millis {
        let turn = self.turn.or_else(|| self.guard.poll_timeout().map(|at| self.to_world(at)));
        let commands = self.commands.front().map(|(at, _)| *at);
        let reports = self.reports.iter().filter_map(|queue| queue.front().map(|(at, _)| *at)).min();
        let driver = self.driver.due().map(|due| self.booted + u64::try_from(due.as_millis()).unwrap());
        [turn, commands, reports, driver].into_iter().flatten().min().unwrap_or(Millis::MAX)
    }

    pub fn report(&mut self, of: usize, event: Event, at: Millis) {
        let queue = &mut self.reports[of];
        let at = queue.back().map_or(at, |(last, _)| at.max(*last));
        queue.push_back((at, event));
    }

    fn collect_reports(&mut self, now: Millis, slow: Millis) {
        while let Some(event) = self.driver.poll_report() {
            let at = now + self.draw.below(3) + self.draw.below(slow + 1);
            self.report(0, event, at);
        }
    }

    fn drain(&mut self) -> Out {
        let mut out = Out::default();
        while let Some(output) = self.guard.poll_output() {
            match output {
                Output::ApplyTimed { generation, changes } => out.timed.push(Command::Apply { generation, changes }),
                Output::ApplyRoutes { generation, changes } => out.routes.push(Some((generation, changes))),
                Output::RoutesAnew => out.routes.push(None),
                Output::Sync { generation, leases, pairs, .. } => {
                    out.timed.push(Command::Sync { generation, leases, pairs });
                }
                Output::CutFlows(address) => out.timed.push(Command::CutFlows(address)),
                Output::Journal(lease) => out.records.push(JournalRecord::Lease(lease)),
                Output::JournalClosed(address) => out.records.push(JournalRecord::Closed(address)),
                Output::JournalRevoked(name) => out.records.push(JournalRecord::Revoked(name)),
                Output::JournalPair(record) => out.records.push(JournalRecord::Pair(record)),
                Output::Decide { ticket, decision } => out.decisions.push((ticket, decision)),
                Output::Hurry(_) | Output::Share(_) | Output::Groups(_) => {}
            }
        }
        out
    }
}

impl World {
    pub fn start_daemon(&mut self) {
        let clock = Clock::simulated(self.host.boot);
        let grace = Duration::from_secs(self.plan.grace);
        let mut table = Nftables::new(self.kernel.clone(), self.plan.defect, grace);
        // Where the kernel refuses, the driver tries again.
        drop(table.install());
        let scope = if self.plan.apart { Scope::Client } else { Scope::Shared };
        let config = schema::Nftables { mode: NftablesMode::Both, scope, ..schema::Nftables::default() };
        let (capacity, special) = (self.plan.capacity, Special::default());
        let rules = Rules { config, open: Vec::new(), own: Own::default(), ports: false, capacity, special };
        let settings_of_driver =
            timed::Settings { id: NFTABLES, clock, switch: Switch::default(), rules, left_out: Vec::new() };
        let specs = self.first_specs();
        let guard = Guard::new(settings(&self.plan, self.linger()), specs);
        let mut daemon = Daemon {
            guard: if self.plan.apart { guard.for_single_clients() } else { guard },
            clock,
            booted: self.host.booted,
            driver: Driver::new(table, settings_of_driver),
            commands: VecDeque::new(),
            reports: Default::default(),
            cache: BTreeMap::new(),
            waiting: BTreeMap::new(),
            next_ticket: 0,
            turn: Some(self.now),
            rules: 0,
            judge: None,
            last_routes: Generation(0),
            steps: None,
            last_id: u16::try_from(self.routers.listed().count()).unwrap(),
            draw: Draw::of(&[self.plan.seed, 2, self.runs]),
        };
        let now = daemon.moment();
        let restored = self.journal.read(&self.host.clocks(self.now, now), self.plan.max * 1_000, self.linger());
        daemon.steps = restored.by_wall.map(|told| Steps { told });
        daemon.guard.handle(Event::Restore(restored.leases), now);
        daemon.guard.handle(Event::RestorePairs(restored.pairs), now);
        let rules = daemon.reload(&self.plan, self.forbidden.keys().copied());
        daemon.guard.handle(rules, now);
        daemon.driver.start();
        daemon.collect_reports(self.now, 0);
        self.daemon = Some(daemon);
    }

    pub fn daemon_due(&self) -> Millis {
        let router = self.routers.due().map_or(Millis::MAX, |(at, _)| at);
        self.daemon.as_ref().map_or(Millis::MAX, Daemon::due).min(router)
    }

    /// One thing that is due.
    pub fn daemon_acts(&mut self) {
        let (now, slow, far) = (self.now, self.kernel_delay(), self.router_delay());
        if let Some((_, place)) = self.routers.due().filter(|(due, _)| *due <= now) {
            let router = &mut self.routers.all[place];
            let (enforcer, reached) = (router.enforcer, router.receive());
            if let (Some(generation), Some(daemon)) = (reached, &mut self.daemon) {
                let at = now + daemon.draw.below(3) + far;
                daemon.report(1 + place, Event::Applied { enforcer, generation }, at);
            }
            return;
        }
        let Some(daemon) = &mut self.daemon else { return };
        let is_due = |at: Option<&(Millis, Event)>| at.is_some_and(|(at, _)| *at <= now);
        if let Some(place) = (0..=MOST_ROUTERS).find(|place| is_due(daemon.reports[*place].front())) {
            let Some((_, event)) = daemon.reports[place].pop_front() else { return };
            self.routers.hear(&event);
            daemon.hear(event, now);
            return;
        }
        if daemon.commands.front().is_some_and(|(at, _)| *at <= now) {
            let due = daemon.commands.partition_point(|(at, _)| *at <= now);
            let due: Vec<Command> = daemon.commands.drain(..due).map(|(_, command)| command).collect();
            daemon.driver.obey(due.into_iter());
            daemon.collect_reports(now, slow);
            return;
        }
        if daemon.driver.due().is_some_and(|due| due <= daemon.clock.since_boot()) {
            daemon.driver.wake();
            daemon.collect_reports(now, slow);
            return;
        }
        self.turn();
    }

    fn turn(&mut self) {
        let (now, slow, far) = (self.now, self.kernel_delay(), self.router_delay());
        let Some(daemon) = &mut self.daemon else { return };
        let moment = daemon.moment();
        daemon.turn = None;
        daemon.guard.handle_timeout(moment);
        let out = daemon.drain();
        for command in out.timed {
            let early = match &command {
                Command::Apply { generation, .. } if self.plan.defect == Defect::AckedEarly => Some(*generation),
                _ => None,
            };
            let mut at = now + daemon.draw.below(3) + daemon.draw.below(slow + 1);
            if let Some(generation) = early {
                daemon.report(0, Event::Applied { enforcer: NFTABLES, generation }, now);
                at += EARLY;
            }
            let at = daemon.commands.back().map_or(at, |(last, _)| at.max(*last));
            daemon.commands.push_back((at, command));
        }
        for routes in out.routes {
            let delay = 1 + daemon.draw.below(20) + daemon.draw.below(far + 1);
            match routes {
                Some((generation, changes)) => {
                    daemon.last_routes = generation;
                    self.routers.apply(generation, &changes, now, delay);
                }
                None => self.routers.begin_anew(now, delay),
            }
        }
        let forbidden = &self.forbidden;
        let names: BTreeMap<Name, u8> = forbidden.keys().map(|of| (name(*of), *of)).collect();
        let causes = daemon.guard.causes().map(|cause| (cause.address, cause.question));
        let causes = causes.chain(daemon.guard.pair_causes().map(|cause| (cause.id.0, cause.question)));
        let open = causes.into_iter().find_map(|(address, question)| Some((address, *names.get(question)?)));
        let open = open.filter(|_| !daemon.guard.is_reloading());
        let journalled = self.journal.write(out.records, &daemon.guard, &self.host.clocks(now, moment));
        if journalled.is_ok() {
            self.pending.clear();
        }
        for (ticket, decision) in out.decisions {
            self.decided(ticket, decision, journalled.is_ok());
        }
        if let Some((address, name)) = open {
            self.violate(Promise::NothingForbidden, format!("{address} is open for n{name} behind the reload's turn"));
        }
    }

    /// The process is killed in the middle of a turn: what it told the driver is done, the disk has so many records,
    /// and nobody has an answer.
    pub fn last_turn(&mut self, records: usize) {
        let Some(daemon) = &mut self.daemon else { return };
        let moment = daemon.moment();
        daemon.guard.handle_timeout(moment);
        let out = daemon.drain();
        let commands: Vec<Command> = daemon.commands.drain(..).map(|(_, command)| command).chain(out.timed).collect();
        daemon.driver.obey(commands.into_iter());
        self.journal.write_some(out.records, records, &self.host.clocks(self.now, moment));
    }

    fn decided(&mut self, ticket: Ticket, decision: Decision, journalled: bool) {
        let now = self.now;
        let Some(daemon) = &mut self.daemon else { return };
        let Some(Waiting { question, since, ttl }) = daemon.waiting.remove(&ticket) else {
            return self.violate(Promise::OneEnd, format!("{ticket:?} is decided twice"));
        };
        if now > since + DEADLINE + TURN && now > self.woke + 2 * DEADLINE {
            self.violate(Promise::OneEnd, format!("{ticket:?} is decided after {} ms", now - since));
        }
        match decision {
            Decision::Release { leases, .. } if journalled => {
                let until = lasts_until(&self.plan, since, ttl);
                let owner = self.plan.owner(question.client);
                let told = |address: u8| Told { owner, name: question.name, address, since, until };
                // Behind those of the addresses are those of what is open of them.
                let addresses: BTreeSet<u8> = leases.iter().map(|lease| number(lease.address())).collect();
                let told: Vec<Told> = addresses.into_iter().map(told).collect();
                self.told(&told, false);
                if ttl > 0
                    && let Some(daemon) = &mut self.daemon
                {
                    let kept = Kept { handles: leases, expires: since + ttl * 1_000, told };
                    daemon.cache.insert((owner, question.name), kept);
                }
            }
            Decision::Release { .. } => self.seen.refused += 1,
            Decision::Refuse(why) => {
                self.tell(|| format!("n{} is refused: {why:?}", question.name));
                self.seen.refused += 1;
            }
        }
        self.ends(question.id);
    }

    /// Asks the core to open addresses.
    pub fn admit(&mut self, question: Question, addresses: &[u8], ttl: u64) {
        let now = self.now;
        let longest = now + (ttl.max(self.plan.min) + self.plan.grace).min(self.plan.max) * 1_000;
        // Asked before a reload that forbids it: nothing of it may open.
        let is_late = self.forbidden.contains_key(&question.name);
        let owner = self.plan.owner(question.client);
        let told = addresses.iter().filter(|_| !is_late);
        told.for_each(|address| self.book.asked(question.name, (*address, owner), longest));
        let Some(daemon) = &mut self.daemon else { return };
        let judged = if is_late && self.plan.defect != Defect::LateAsNew { daemon.rules - 1 } else { daemon.rules };
        daemon.next_ticket += 1;
        let ticket = Ticket(daemon.next_ticket);
        let grants = addresses.iter().map(|one| Grant { address: address(*one), ttl: u32::try_from(ttl).unwrap() });
        let admission = Admission {
            judged,
            ticket,
            client: IpAddr::from([192, 0, 2, question.client]),
            mark: None,
            question: name(question.name),
            qtype: 1,
            chain: chain(question.name),
            domain: name(question.name),
            grants: grants.collect(),
            openings: Default::default(),
            whole: false,
        };
        daemon.waiting.insert(ticket, Waiting { question, since: now, ttl });
        daemon.hear(Event::Admit(admission), now);
    }

    /// Answers from the cache, or has the core look at what is kept; `false`: nothing is.
    pub fn answer_from_cache(&mut self, question: Question) -> bool {
        let now = self.now;
        let Some(daemon) = &mut self.daemon else { return false };
        let key = (self.plan.owner(question.client), question.name);
        let Some(kept) = daemon.cache.get(&key).filter(|kept| kept.expires > now) else { return false };
        let (moment, margin) = (daemon.clock.now(), Duration::from_secs(self.plan.min));
        let in_force = kept.handles.iter().all(|handle| handle.in_force_for(moment, margin));
        let told: Vec<Told> = kept.told.iter().map(|told| Told { since: now, ..*told }).collect();
        let ttl = (kept.expires - now) / 1_000;
        if in_force && told.iter().all(|told| told.until > now) {
            self.told(&told, true);
            self.ends(question.id);
        } else {
            let addresses: Vec<u8> = told.iter().map(|told| told.address).collect();
            self.admit(question, &addresses, ttl);
        }
        true
    }

    /// Tells the daemon what is taken back, if it runs.
    pub fn tell_daemon(&mut self, what: What) {
        let now = self.now;
        let Some(daemon) = &mut self.daemon else { return };
        let event = match what {
            What::Revoke { address: of } => {
                daemon.cache.retain(|_, kept| !kept.told.iter().any(|told| told.address == of));
                Event::Revoke(RevokeTarget::Address(address(of)))
            }
            What::RevokeName { name: of } => {
                daemon.cache.retain(|(_, name), _| *name != of);
                Event::Revoke(RevokeTarget::Name(name(of)))
            }
            What::Forbid { .. } => {
                // What was judged by other rules is not served.
                daemon.cache.clear();
                daemon.reload(&self.plan, self.forbidden.keys().copied())
            }
            _ => return,
        };
        daemon.hear(event, now);
    }

    /// Names are allowed again.
    pub fn reload(&mut self) {
        let now = self.now;
        let Some(daemon) = &mut self.daemon else { return };
        let event = daemon.reload(&self.plan, self.forbidden.keys().copied());
        daemon.cache.clear();
        daemon.hear(event, now);
    }

    /// What is done about twice a second: the journal is looked after, and the clock.
    pub fn follow_clocks(&mut self) {
        let now = self.now;
        let Some(daemon) = &mut self.daemon else { return };
        let clocks = self.host.clocks(now, daemon.moment());
        self.journal.check(&daemon.guard, &clocks);
        let ahead = daemon.steps.as_mut().and_then(|steps| steps.ahead(clocks.outside.apart()));
        if let Some(ahead) = ahead.filter(|_| self.plan.defect != Defect::ClockUnheeded) {
            daemon.hear(Event::RestoredEarlier(ahead), now);
        }
    }

    /// What the wall clock was ahead of the boot clock when leases were restored by it, or was last heeded.
    pub fn goes_by_wall(&self) -> Option<u64> {
        self.daemon.as_ref()?.steps.as_ref().map(|steps| steps.told)
    }

    /// The host woke up: timers of the daemon stood still.
    pub fn woken(&mut self, span: Millis) {
        let now = self.now;
        let Some(daemon) = &mut self.daemon else { return };
        daemon.commands.iter_mut().for_each(|(at, _)| *at += span);
        daemon.reports.iter_mut().flatten().for_each(|(at, _)| *at += span);
        daemon.turn = daemon.turn.map(|at| at + span);
        let noticed = now + daemon.draw.below(NOTICED);
        daemon.report(0, Event::Slept, noticed);
    }

    /// The session to a router is over.
    pub fn tell_lost(&mut self, place: usize) {
        let (now, enforcer) = (self.now, self.routers.all[place].enforcer);
        let Some(daemon) = &mut self.daemon else { return };
        // What was on its way came with the session.
        daemon.reports[1 + place].clear();
        let at = now + daemon.draw.below(50);
        daemon.report(1 + place, Event::Lost { enforcer, reason: "the session is over".to_owned() }, at);
    }

    /// A reload: other routers, and all else as it was.
    pub fn tell_routers(&mut self, routers: Routers) {
        let now = self.now;
        let Some(daemon) = &mut self.daemon else { return };
        let judge = daemon.judge.clone();
        let reload = Reload { routers: Some(routers), announces: Some(true), judge, ..Reload::default() };
        daemon.hear(Event::Reload(Box::new(reload)), now);
    }

    /// Compares what the guard believes with the world, where both have had time.
    pub fn compare_belief(&mut self) {
        let now = self.now;
        let (kernel, router_idle) = (self.open_in_kernel(), self.routers.is_idle());
        let Some(daemon) = &self.daemon else { return };
        let counts = daemon.guard.counts();
        let leases = counts.ipv4 + counts.ipv6 + counts.lingering;
        if leases > self.plan.capacity {
            return self.violate(Promise::Bounded, format!("{leases} leases"));
        }
        let is_idle = daemon.commands.is_empty() && daemon.reports.iter().all(VecDeque::is_empty);
        let slow = now < self.woke + 2 * SETTLED || self.router_delay() > 0 || self.kernel_delay() > 0;
        if self.book.calm(now) <= 2 * SETTLED || slow || !is_idle || !router_idle || daemon.turn.is_some() {
            return;
        }
        if counts.pending > 0 || counts.waiting > 0 {
            return self.violate(Promise::BeliefIsSo, format!("{} leases are not in force", counts.pending));
        }
        let believed: BTreeMap<u8, Millis> =
            daemon.guard.stored().map(|lease| (number(lease.address), daemon.to_world(lease.ends))).collect();
        let in_kernel: BTreeMap<(u8, u8), Millis> = if self.plan.apart {
            let pair = |pair: StoredPair| {
                let owner = pair.narrow.client().map_or(0, number);
                ((number(pair.address), owner), daemon.to_world(pair.ends))
            };
            daemon.guard.stored_pairs().filter(|pair| pair.address.is_ipv4()).map(pair).collect()
        } else {
            believed.iter().map(|(place, ends)| ((*place, 0), *ends)).collect()
        };
        let mut wrong = None;
        for (place, ends) in &in_kernel {
            let held = kernel.get(place).copied().unwrap_or(0);
            if *ends > now + SLACK && !(*ends..=ends + SLACK).contains(&held) {
                wrong = Some(format!("{} is believed to end at {ends} and ends at {held}", address(place.0)));
            }
        }
        for (place, ends) in &believed {
            let lacks = |router: &Router| !router.has(address(*place));
            if *ends > now + SLACK && self.routers.listed().any(lacks) {
                wrong = Some(format!("a router has no route to {}", address(*place)));
            }
        }
        for (place, ends) in kernel {
            if ends > now + SLACK && !in_kernel.contains_key(&place) {
                wrong = Some(format!("{} is open in nftables, and nobody knows", address(place.0)));
            }
        }
        if self.routers.listed().any(|router| !router.joined) {
            wrong = Some("nobody waits for a router that was added".to_owned());
        }
        let unknown = |route: &&IpAddr| !believed.contains_key(&number(**route));
        if let Some(route) = self.routers.listed().flat_map(Router::routes).find(unknown) {
            wrong = Some(format!("a router has a route to {route}, and nobody knows"));
        }
        self.seen.compared += 1;
        if let Some(what) = wrong {
            self.violate(Promise::BeliefIsSo, what);
        }
    }
}

/// Until when an answer may be used: an extension by less than a second isn't made, neither of a lease nor of a client's part in it.
fn lasts_until(plan: &Plan, since: Millis, ttl: u64) -> Millis {
    let unmade = if plan.apart { 2_000 } else { 1_000 };
    since + (ttl.max(plan.min) + plan.grace).min(plan.max) * 1_000 - unmade
}
