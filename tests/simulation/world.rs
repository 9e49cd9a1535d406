//! The simulated world: one queue of what happens, and whatever the daemon has due, in order of time.
//!
//! ```text
//!   clients --ask--> cache --miss--> upstreams --reply--> core --command--> driver --transaction--> kernel
//!      ^               |                                  | ^ ---plan--> table --wire--> router         |
//!      +----answer-----+<------------- decision ----------+ +---- report ----------------+--------------+
//! ```
//! The core, the driver of timed tables, the encoding of its transactions and the speaker's table are real; what is
//! around them is not.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use super::daemon::Daemon;
use super::draw::Draw;
use super::host::Host;
use super::journal::Journal;
use super::kernel::Kernel;
use super::names::address;
use super::plan::{Defect, Millis, Plan, What};
use super::promises::{Book, Promise, SETTLED, Told, Violation};
use super::router::{Router, Routers};
use super::statistics::Seen;

/// Since the boot when it all begins.
const BEGINS: Millis = 1_000_000;
/// A question that no upstream answers has failed after so long.
const UPSTREAM: Millis = 4_000;
/// The gate's deadline.
pub const DEADLINE: Millis = 1_000;
/// A turn of a busy daemon may come so much later.
pub const TURN: Millis = 10;
/// Room of the kernel's sets beyond the leases: what has ended keeps its place for a second.
const SPARE: usize = 8;
/// Lines of the history that are kept.
const LINES: usize = 40;

/// What happens in the simulated world.
#[derive(Clone, Copy, Debug)]
pub enum Happening {
    /// A client, by its place, asks.
    Asks(usize),
    /// An upstream replies to a question, or none does.
    Replies(u64, bool),
    Connects(Told),
    Fault(usize),
    Starts,
    /// A router's session comes up; what is of an earlier one counts for nothing.
    SessionUp(usize, u64),
    /// The router has waited long enough for it.
    StaleGone(usize, u64),
    /// The speaker ends a session, since the router is configured no more.
    Deconfigured(usize, u64),
    /// A reload adds a router.
    RouterAdded(usize),
    /// In this boot of the host its clock is set right.
    ClockSet(u64),
    /// The promises are looked at.
    Look,
}

/// A question that waits for an upstream.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// The question's own number.
    pub id: u64,
    /// Who asked: 192.0.2.N.
    pub client: u8,
    /// The number of the name.
    pub name: u8,
}

/// See the module.
pub struct World {
    pub plan: Plan,
    /// Milliseconds, on a clock that nobody but the world has.
    pub now: Millis,
    pub host: Host,
    queue: BTreeMap<(Millis, u64), Happening>,
    sequence: u64,
    pub daemon: Option<Daemon>,
    /// How often it was started.
    pub runs: u64,
    pub kernel: Arc<Mutex<Kernel>>,
    pub routers: Routers,
    pub journal: Journal,
    pub book: Book,
    pub seen: Seen,
    /// Names that are forbidden, and until when.
    pub forbidden: BTreeMap<u8, Millis>,
    /// What the operator asked for and was not told to be done.
    pub pending: Vec<What>,
    kernel_fails: Millis,
    journal_fails: Millis,
    slow_kernel: (Millis, Millis),
    slow_router: (Millis, Millis),
    lossy: (Millis, u64),
    pub questions: BTreeMap<u64, Question>,
    /// Questions that have not ended, and when they must have.
    pub open: BTreeMap<u64, Millis>,
    clients: Vec<(Draw, u64)>,
    /// When the host last woke up.
    pub woke: Millis,
    violation: Option<Violation>,
    trace: Option<VecDeque<String>>,
}

/// Lives through a plan.
///
/// # Errors
/// The first promise that is broken, and nothing behind it.
pub fn run(plan: &Plan) -> Result<Seen, (Violation, Vec<String>)> {
    go(plan, false)
}

/// The same, with what happened last.
pub fn history(plan: &Plan) -> Vec<String> {
    go(plan, true).err().map(|(_, lines)| lines).unwrap_or_default()
}

fn go(plan: &Plan, traced: bool) -> Result<Seen, (Violation, Vec<String>)> {
    let mut world = World::new(plan, traced);
    let ended = catch_unwind(AssertUnwindSafe(|| world.live()));
    if let Err(panic) = ended {
        let what = panic.downcast_ref::<String>().cloned();
        let what = what.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        world.violate(Promise::NoPanic, what.unwrap_or_default());
    }
    match world.violation {
        None => Ok(world.seen),
        Some(violation) => Err((violation, world.trace.unwrap_or_default().into())),
    }
}

impl World {
    fn new(plan: &Plan, traced: bool) -> Self {
        let kernel = Kernel::new(plan.linux, plan.capacity + SPARE);
        let mut world = Self {
            now: BEGINS,
            host: Host::new(BEGINS),
            queue: BTreeMap::new(),
            sequence: 0,
            daemon: None,
            runs: 0,
            kernel: Arc::new(Mutex::new(kernel)),
            routers: Routers::new(plan.routers(), plan.defect == Defect::Overtaken),
            journal: Journal::new(plan.defect),
            book: Book::default(),
            seen: Seen::default(),
            forbidden: BTreeMap::new(),
            pending: Vec::new(),
            kernel_fails: 0,
            journal_fails: 0,
            slow_kernel: (0, 0),
            slow_router: (0, 0),
            lossy: (0, 0),
            questions: BTreeMap::new(),
            open: BTreeMap::new(),
            clients: plan.clients.iter().map(|one| (Draw::of(&[plan.seed, 3, u64::from(one.number)]), 0)).collect(),
            woke: 0,
            violation: None,
            trace: traced.then(VecDeque::new),
            plan: plan.clone(),
        };
        world.put(BEGINS, Happening::Starts);
        world.put(BEGINS + 1_000, Happening::Look);
        for place in 0..plan.clients.len() {
            world.put(BEGINS + 3_000 + 100 * place as u64, Happening::Asks(place));
        }
        for (place, fault) in plan.faults.iter().enumerate() {
            world.put(BEGINS + fault.at, Happening::Fault(place));
        }
        world
    }

    pub fn put(&mut self, at: Millis, happening: Happening) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), happening);
    }

    /// Notes that a promise is broken; the first one counts.
    pub fn violate(&mut self, promise: Promise, what: String) {
        let at = self.now - BEGINS;
        self.violation.get_or_insert(Violation { promise, at, what });
    }

    /// Writes a line of the history.
    pub fn tell(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            if trace.len() == LINES {
                trace.pop_front();
            }
            trace.push_back(format!("{:.3} {}", (self.now - BEGINS) as f64 / 1000.0, line()));
        }
    }

    fn live(&mut self) {
        let end = BEGINS + self.plan.span;
        while self.violation.is_none() {
            let next = self.queue.first_key_value().map_or(Millis::MAX, |((at, _), _)| *at);
            let due = self.daemon_due().max(self.now);
            if next.min(due) > end {
                break;
            }
            self.advance(next.min(due).max(self.now));
            if due <= next {
                self.daemon_acts();
            } else if let Some(((at, _), happening)) = self.queue.pop_first() {
                self.happens(happening, at);
            }
        }
    }

    pub fn advance(&mut self, now: Millis) {
        self.now = now;
        self.host.boot.store(now - self.host.booted, Ordering::Relaxed);
        let mut kernel = self.kernel.lock().unwrap();
        kernel.advance(now);
        kernel.fails = now < self.kernel_fails;
        drop(kernel);
        self.journal.fails = now < self.journal_fails;
    }

    fn happens(&mut self, happening: Happening, at: Millis) {
        match happening {
            Happening::Asks(place) => self.asks(place),
            Happening::Replies(id, good) => self.replies(id, good),
            // The host slept then.
            Happening::Connects(_) if at + TURN < self.now => {}
            Happening::Connects(told) => self.connects(&told),
            Happening::Fault(place) => {
                let what = self.plan.faults[place].what;
                self.fault(what);
            }
            Happening::Starts => self.start(),
            Happening::SessionUp(place, session) => self.session_up(place, session),
            Happening::StaleGone(place, session) => {
                let router = &mut self.routers.all[place];
                if router.session == session && !router.is_up() {
                    router.forget();
                    router.excused = true;
                }
            }
            Happening::Deconfigured(place, session) => self.deconfigured(place, session),
            Happening::RouterAdded(place) => self.router_added(place),
            Happening::ClockSet(boot) => self.clock_set(boot),
            Happening::Look => {
                self.look();
                self.put(self.now + 1_000, Happening::Look);
            }
        }
    }

    fn start(&mut self) {
        self.runs += 1;
        self.tell(|| "the daemon starts".to_owned());
        self.start_daemon();
        for what in std::mem::take(&mut self.pending) {
            self.take_back(what);
        }
        for place in 0..self.routers.all.len() {
            self.expect_session(place);
        }
    }

    /// The way to the kernel takes so much longer now, at most.
    pub fn kernel_delay(&self) -> Millis {
        if self.now < self.slow_kernel.0 { self.slow_kernel.1 } else { 0 }
    }

    /// The way to the router, likewise.
    pub fn router_delay(&self) -> Millis {
        if self.now < self.slow_router.0 { self.slow_router.1 } else { 0 }
    }

    fn asks(&mut self, place: usize) {
        let client = self.plan.clients[place];
        let (draw, count) = &mut self.clients[place];
        *count += 1;
        let id = u64::from(client.number) * 1_000_000 + *count;
        let names = u64::from(self.plan.names);
        // Mostly the same few.
        let name = if draw.percent(70) { u64::from(client.number) + draw.below(2) } else { draw.next() } % names;
        let pause = draw.between(client.pause / 2..=client.pause * 3 / 2);
        self.put(self.now + pause, Happening::Asks(place));
        self.seen.asked += 1;
        if self.daemon.is_none() {
            self.seen.lost += 1;
            return;
        }
        let question = Question { id, client: client.number, name: u8::try_from(name).unwrap() };
        self.open.insert(id, self.now + UPSTREAM + DEADLINE);
        if self.forbidden.contains_key(&question.name) {
            self.ends(id);
        } else if !self.answer_from_cache(question) {
            self.ask_upstream(question);
        }
    }

    fn ask_upstream(&mut self, question: Question) {
        self.questions.insert(question.id, question);
        let mut draw = Draw::of(&[self.plan.seed, 4, question.id]);
        let lost = if self.now < self.lossy.0 { self.lossy.1 } else { 0 };
        for attempt in 0..4 {
            let (delay, is_lost, twice) = (draw.between(1..=40), draw.percent(lost), draw.percent(5));
            if !is_lost {
                let at = self.now + 1_000 * attempt + delay;
                self.put(at, Happening::Replies(question.id, true));
                if twice {
                    self.put(at + draw.below(20), Happening::Replies(question.id, true));
                }
                return;
            }
        }
        self.put(self.now + UPSTREAM, Happening::Replies(question.id, false));
    }

    fn replies(&mut self, id: u64, good: bool) {
        // Answered, or of a daemon that is gone.
        let Some(question) = self.questions.remove(&id) else { return };
        if !good {
            self.ends(id);
            return;
        }
        let (addresses, ttl) = super::names::reply(&self.plan, question.name, self.now);
        self.admit(question, &addresses, ttl);
    }

    /// A question has its answer, be it one or a failure.
    pub fn ends(&mut self, id: u64) {
        match self.open.remove(&id) {
            None => self.violate(Promise::OneEnd, format!("question {id} ends twice")),
            Some(deadline) if self.now > deadline + TURN && self.now > self.woke + 2 * DEADLINE => {
                self.violate(Promise::OneEnd, format!("question {id} ends too late"));
            }
            Some(_) => {}
        }
    }

    /// Whether an address is open for a client, everywhere where that isn't excused; otherwise where not.
    pub fn closed_at(&self, (place, owner): (u8, u8), until: Millis) -> Option<&'static str> {
        let open = self.kernel.lock().unwrap().open_until(address(place), owner);
        // No packet goes from an IPv4 client to an IPv6 address.
        let may_be = owner == 0 || address(place).is_ipv4();
        if may_be && !self.book.closed_in_kernel && open.is_none_or(|open| open < until) {
            return Some("nftables");
        }
        let lacks = |router: &&Router| router.joined && !router.excused && !router.has(address(place));
        self.routers.listed().find(lacks).map(|_| "a router")
    }

    /// A client has an answer from now on.
    pub fn told(&mut self, told: &[Told], from_cache: bool) {
        self.seen.released += 1;
        self.seen.cached += u64::from(from_cache);
        for told in told {
            let Told { name, address: place, until, .. } = *told;
            let left = (until - self.now) as f64 / 1000.0;
            self.tell(|| format!("n{name} is told {} for {left:.3} s", address(place)));
            if let Some(place) = self.closed_at((told.address, told.owner), told.until) {
                let open = self.kernel.lock().unwrap().open_until(address(told.address), told.owner);
                let what = format!("{} of n{name} is not open at {place}: {open:?}", address(told.address));
                self.violate(Promise::EnforcedBeforeAnswered, what);
            }
            self.seen.note(&[self.now, u64::from(told.address), told.until]);
            let mut draw = Draw::of(&[self.plan.seed, 6, self.now, u64::from(told.address)]);
            let span = told.until.saturating_sub(self.now + 1);
            for at in [self.now, self.now + draw.below(span), self.now + span - draw.below(span.min(3_000))] {
                self.put(at, Happening::Connects(*told));
            }
        }
    }

    fn connects(&mut self, told: &Told) {
        if !self.book.is_owed(told, self.now) {
            return;
        }
        self.seen.connected += 1;
        if let Some(place) = self.closed_at((told.address, told.owner), self.now) {
            let Told { name, since, until, .. } = *told;
            let times = [since, until].map(|at| (at - BEGINS) as f64 / 1000.0);
            let what = format!("{} of n{name}, told for {times:?} s, is closed at {place}", address(told.address));
            self.violate(Promise::InForceStaysInForce, what);
        }
    }

    fn fault(&mut self, what: What) {
        self.tell(|| format!("{what:?}"));
        self.seen.faults += 1;
        match what {
            What::Kill { .. } if self.awaits_clock() => {}
            What::Kill { down, within } => self.kill(down, within),
            What::Sleep { span } => self.sleep(span),
            What::Reboot { down, behind, kept } => self.reboot(down, behind, kept),
            What::ClockStepped { by } => self.clock_stepped(by),
            What::SlowKernel { span, by } => {
                self.slow_kernel = (self.now + span, by);
                self.book.trouble(self.now + span + by);
            }
            What::KernelFails { span } => {
                self.kernel_fails = self.now + span;
                self.book.trouble(self.now + span);
            }
            What::TableRemoved | What::Flushed => {
                let mut kernel = self.kernel.lock().unwrap();
                if self.plan.defect == Defect::BlindLists {
                    kernel.freeze();
                }
                kernel.flush();
                kernel.there &= what != What::TableRemoved;
                drop(kernel);
                self.book.closed_in_kernel = true;
                self.book.trouble(self.now);
            }
            What::JournalFails { span } => {
                self.journal_fails = self.now + span;
                self.book.trouble(self.now + span);
            }
            What::LossyUpstream { span, percent } => self.lossy = (self.now + span, percent),
            What::SlowRouter { span, by } => {
                self.slow_router = (self.now + span, by);
                self.book.trouble(self.now + by);
            }
            What::RouterLost { place, down, keeps } => self.lose_router(place, down, keeps),
            What::RouterTakenOut { place, span } => self.router_taken_out(place, span),
            What::Revoke { .. } | What::RevokeName { .. } | What::Forbid { .. } => self.take_back(what),
        }
    }

    /// The operator, or a reload, takes something back.
    fn take_back(&mut self, what: What) {
        match what {
            What::Revoke { address } => self.book.address_taken_back(address, self.now),
            What::RevokeName { name } => self.book.name_taken_back(name, self.now),
            What::Forbid { name, span } => {
                self.book.name_taken_back(name, self.now);
                self.forbidden.insert(name, self.now + span);
            }
            _ => return,
        }
        self.host.note(what, self.now);
        self.pending.push(what);
        self.tell_daemon(what);
    }

    fn look(&mut self) {
        let now = self.now;
        let before = self.forbidden.len();
        self.forbidden.retain(|_, until| *until > now);
        if self.forbidden.len() < before {
            self.reload();
        }
        if self.daemon.is_none() || now < self.kernel_fails || now < self.slow_kernel.0 || now < self.journal_fails {
            self.book.trouble(now);
        }
        if self.routers.listed().any(|router| !router.is_up()) || !self.kernel.lock().unwrap().there {
            self.book.trouble(now);
        }
        if self.book.calm(now) > SETTLED {
            self.book.closed_in_kernel = false;
            self.routers.all.iter_mut().for_each(|router| router.excused = false);
        }
        for ((place, owner), _) in self.open_in_kernel() {
            if self.book.must_be_closed(place, owner..=owner, 0, true, now) {
                let whom = if owner == 0 { "everybody".to_owned() } else { format!("client {owner}") };
                let what = format!("{} is open in nftables for {whom}", address(place));
                self.violate(Promise::ClosedAfterTheLease, what);
            }
        }
        for place in 0..self.plan.addresses {
            let linger = self.plan.linger * 1_000 + self.router_delay();
            let open = self.routers.listed().any(|router| router.has(address(place)));
            if open && self.book.must_be_closed(place, 0..=u8::MAX, linger, false, now) {
                self.violate(Promise::ClosedAfterTheLease, format!("{} is open at a router", address(place)));
            }
        }
        self.look_at_clocks();
        self.look_at_former_routers();
        if let Some((id, _)) = self.open.iter().find(|(_, deadline)| now > **deadline + TURN)
            && now > self.woke + 2 * DEADLINE
        {
            let what = format!("question {id} has no end");
            self.violate(Promise::OneEnd, what);
        }
        let (most, size) = {
            let kernel = self.kernel.lock().unwrap();
            (kernel.most(), kernel.size())
        };
        let (length, longest) = self.journal.length();
        if most > size || length > longest {
            self.violate(Promise::Bounded, format!("{most} elements, {length} octets on disk"));
        }
        if now % 10_000 < 1_000 {
            self.compare_belief();
        }
    }

    /// What is open in the kernel, by address and owner.
    pub fn open_in_kernel(&self) -> BTreeMap<(u8, u8), Millis> {
        self.kernel.lock().unwrap().open().into_iter().collect()
    }
}
