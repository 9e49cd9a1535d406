//! One place with a guard that faults are made to: who asks, what watches, and what was seen.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::ledger::{Ledger, Terms};
use super::probe::{Answered, Probe, Prober};
use super::table::Row;
use super::upstream::{self, Moody, TTL};
use super::{AnyError, FRESH, Plan};
use crate::lab::Lab;
use crate::node::Node;
use crate::process::Process;
use crate::sys;
use crate::wait::wait_until;

const CONFIG: &str = "/etc/destguard/destguard.toml";
/// Where leases are kept.
pub const STATE: &str = "/var/lib/destguard";
/// For what must happen in the end, on a machine that is busy.
pub const LONG: Duration = Duration::from_secs(120);
/// What moves the guard's clocks: the source, the library, the seconds.
const SHIM: &str = include_str!("../../../tests/restart/shim.c");
const LIBRARY: &str = "/run/clocks.so";
const OFFSETS: &str = "/run/clocks";
const LEASE: &str = "[lease]\nmin = \"5s\"\ngrace = \"1s\"\n";
const LINGER: Duration = Duration::from_secs(2);
/// Probes within the TTL are sent to addresses that have so long left.
const LEFT: Duration = Duration::from_secs(5);
/// Between such probes.
const WITHIN: Duration = Duration::from_millis(50);

/// Where the guard stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A gateway with nftables.
    Nftables,
    /// Beside a BIRD router.
    Bird,
    /// Beside an FRR router.
    Frr,
}

impl Place {
    /// As in the table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Bird => "BIRD",
            Self::Frr => "FRR",
        }
    }

    /// What speaks BGP on the router.
    #[must_use]
    pub fn daemon(self) -> &'static str {
        if self == Self::Frr { "bgpd" } else { "bird" }
    }

    fn file(self) -> &'static str {
        match self {
            Self::Nftables => "lab/gateway/gateway.clab.yml",
            Self::Bird => "lab/bird/bird.clab.yml",
            Self::Frr => "lab/frr/frr.clab.yml",
        }
    }

    fn guard(self) -> &'static str {
        match self {
            Self::Nftables => "gateway",
            Self::Bird | Self::Frr => "guard",
        }
    }
}

/// What recovery is measured from, and how long it took.
#[derive(Clone, Copy, Debug, Default)]
struct Recovery {
    since: Option<Instant>,
    took: Option<Duration>,
}

/// One place and all that is known of it.
#[derive(Debug)]
pub struct World {
    /// Which of the places it is.
    pub place: Place,
    /// The namespaces that it is made of.
    pub lab: Lab,
    /// The upstream's mood.
    pub moody: Moody,
    /// How the guard is run.
    pub plan: Plan,
    /// Probes on their way.
    pub prober: Prober,
    guard: Mutex<Option<Process>>,
    ledger: Mutex<Ledger>,
    rows: Mutex<Vec<Row>>,
    row: AtomicUsize,
    recovery: Mutex<Recovery>,
    /// Whether a fault lasts, and when the last one ended.
    lasting: Mutex<(bool, Option<Instant>)>,
    /// While a router itself has no routes: nothing is judged that was sent meanwhile.
    excused: Mutex<Vec<(Instant, Option<Instant>)>>,
    looks: AtomicU32,
    quiet: AtomicBool,
    stop: AtomicBool,
    dice: AtomicU32,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    /// Brings a place up, the guard not yet started.
    ///
    /// # Errors
    /// The lab's; a configuration that isn't as expected.
    pub fn up(place: Place, plan: &Plan) -> Result<Self, AnyError> {
        let lab = Lab::builder(place.file()).destguard(&plan.binary).hold(place.guard()).up()?;
        let guard = lab.node(place.guard());
        let mut text = guard.file(CONFIG)?;
        let mut edit = |from: &str, to: &str| -> Result<(), AnyError> {
            if !text.contains(from) {
                return Err(format!("{from:?} is not in {CONFIG}").into());
            }
            text = text.replace(from, to);
            Ok(())
        };
        edit("[lease]\n", LEASE)?;
        if place != Place::Nftables {
            edit("linger = \"10m\"", &format!("linger = \"{}s\"", LINGER.as_secs()))?;
        }
        guard.write(CONFIG, &text)?;
        // A disk of its own, which can be full and gone; bound, so that what comes back is the same.
        guard.ok(&format!(
            "install -d -m 755 /run/destguard /run/disk {STATE} && mount -t tmpfs -o size=16m,mode=755 disk /run/disk \
             && mount --bind /run/disk {STATE}"
        ))?;
        let now = Instant::now();
        let longest = Duration::from_secs(u64::from(TTL) + 1);
        let linger = (place != Place::Nftables).then_some(LINGER);
        let prober = Prober::new(lab.node("client"))?;
        let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos();
        Ok(Self {
            place,
            lab,
            moody: Moody::default(),
            plan: plan.clone(),
            prober,
            guard: Mutex::default(),
            ledger: Mutex::new(Ledger::new(Terms { longest, linger, slack: plan.slack }, now)),
            rows: Mutex::default(),
            row: AtomicUsize::new(0),
            recovery: Mutex::default(),
            lasting: Mutex::default(),
            excused: Mutex::default(),
            looks: AtomicU32::new(0),
            quiet: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            dice: AtomicU32::new(seed),
        })
    }

    /// The guard's node.
    #[must_use]
    pub fn node(&self) -> &Node {
        self.lab.node(self.place.guard())
    }

    /// Where the guard listens.
    #[must_use]
    pub fn server(&self) -> SocketAddr {
        let address = if self.place == Place::Nftables { [10, 0, 1, 1] } else { [10, 0, 3, 2] };
        SocketAddr::from((address, 53))
    }

    /// What was promised.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    /// Begins a row of the table; what is seen from now on counts there.
    pub fn begin_row(&self, fault: &'static str) {
        let mut rows = lock(&self.rows);
        rows.push(Row { fault, place: self.place.name(), ..Row::default() });
        self.row.store(rows.len() - 1, Relaxed);
    }

    /// The row that counts now.
    #[must_use]
    pub fn row(&self) -> usize {
        self.row.load(Relaxed)
    }

    /// Changes a row.
    pub fn count(&self, row: usize, change: impl FnOnce(&mut Row)) {
        if let Some(row) = lock(&self.rows).get_mut(row) {
            change(row);
        }
    }

    /// Says what is wrong, with what the world says of it.
    pub fn tell(&self, row: usize, text: String) {
        self.count(row, |row| row.tell(text));
    }

    /// All rows so far.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        lock(&self.rows).clone()
    }

    /// Nobody asks anew any more.
    pub fn end_questions(&self) {
        self.quiet.store(true, Relaxed);
    }

    /// Nobody waits for anything any more.
    pub fn end(&self) {
        self.quiet.store(true, Relaxed);
        self.stop.store(true, Relaxed);
    }

    /// Whether nobody asks anew any more.
    #[must_use]
    pub fn quiet(&self) -> bool {
        self.quiet.load(Relaxed)
    }

    /// Whether all is over.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// What threads that know nothing else look at.
    pub fn stop(&self) -> &AtomicBool {
        &self.stop
    }

    /// A duration below `below`; a linear congruential generator is random enough.
    pub fn random(&self, below: Duration) -> Duration {
        let step = |state: u32| Some(state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
        let state = self.dice.fetch_update(Relaxed, Relaxed, step).unwrap_or_default();
        below.mul_f64(f64::from(state >> 8) / f64::from(1 << 24))
    }

    /// Starts the guard; whether it serves is seen by who asks.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(&self) -> Result<(), AnyError> {
        let binary = self.plan.binary.to_str().ok_or("the binary's path is not UTF-8")?;
        let (library, offsets) = (format!("LD_PRELOAD={LIBRARY}"), format!("CLOCK_OFFSETS={OFFSETS}"));
        let mut words = vec![binary, "run", "--config", CONFIG];
        if self.node().path(LIBRARY).exists() {
            words.splice(0..0, ["env", &library, &offsets]);
        }
        let (program, arguments) = words.split_first().ok_or("no program")?;
        *lock(&self.guard) = Some(self.node().spawn(program, arguments)?);
        Ok(())
    }

    /// Lets the guard's clocks be moved from its next start on.
    ///
    /// # Errors
    /// When the library can't be built.
    pub fn own_clocks(&self) -> Result<(), AnyError> {
        self.set_wall_clock(0)?;
        self.node().write("/run/clocks.c", SHIM)?;
        self.node().ok(&format!("cc -shared -fPIC -O1 -o {LIBRARY} /run/clocks.c"))?;
        Ok(())
    }

    /// Moves the wall clock that the guard sees to so many seconds beside the real one.
    ///
    /// # Errors
    /// The file's.
    pub fn set_wall_clock(&self, seconds: i64) -> Result<(), AnyError> {
        use std::os::unix::fs::FileExt as _;
        let mut options = std::fs::OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).open(self.node().path(OFFSETS))?;
        // In place: whoever has mapped it sees it. The boot clock comes first.
        Ok(file.write_all_at(&[0_i64.to_ne_bytes(), seconds.to_ne_bytes()].concat(), 0)?)
    }

    /// Kills the guard with SIGKILL, and waits for its end.
    pub fn kill(&self) {
        drop(lock(&self.guard).take());
    }

    /// Sends the guard a signal.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: i32) -> Result<(), AnyError> {
        let mut guard = lock(&self.guard);
        Ok(guard.as_mut().ok_or("no guard")?.signal(signal)?)
    }

    /// The guard's id.
    ///
    /// # Errors
    /// When there is none.
    pub fn pid(&self) -> Result<u32, AnyError> {
        Ok(lock(&self.guard).as_ref().ok_or("no guard")?.pid())
    }

    /// An error when the guard has ended by itself.
    ///
    /// # Errors
    /// With its log.
    pub fn must_run(&self) -> Result<(), AnyError> {
        let mut guard = lock(&self.guard);
        let ended = guard.as_mut().and_then(|guard| Some((guard.ended()?, guard.log())));
        ended.map_or(Ok(()), |(status, log)| Err(format!("the guard ended: {status}\n{log}").into()))
    }

    /// What one of the guard's commands says.
    #[must_use]
    pub fn read(&self, command: &str) -> Option<Value> {
        let program: &Path = &self.plan.binary;
        let output = self.node().command(program).args([command, "--json"]).output().ok()?;
        serde_json::from_slice(&output.stdout).ok()
    }

    /// Recovery counts from now on.
    pub fn recover_from(&self, since: Instant) {
        *lock(&self.recovery) = Recovery { since: Some(since), took: None };
    }

    /// Waits until an answer to a question asked since is enforced, and notes how long that took.
    ///
    /// # Errors
    /// When none is in two minutes, with the logs.
    pub fn recovered(&self) -> Result<(), AnyError> {
        if !wait_until(LONG, || lock(&self.recovery).took.is_some()) {
            let row = self.rows().pop().unwrap_or_default();
            return Err(format!("{}, {}: no recovery\n{}", row.fault, row.place, self.lab.logs()).into());
        }
        let took = lock(&self.recovery).took.unwrap_or_default();
        self.count(self.row(), |row| row.recoveries.push(took));
        Ok(())
    }

    /// A fault begins that lasts: who gives up meanwhile got what was to be expected.
    pub fn lasting(&self) {
        lock(&self.lasting).0 = true;
    }

    /// The world ends, with all its processes.
    pub fn over(&self) {
        *lock(&self.lasting) = (false, Some(Instant::now()));
    }

    /// Whether one lasts.
    #[must_use]
    pub fn lasts(&self) -> bool {
        lock(&self.lasting).0
    }

    /// Whether who asked first at that moment gives up. A fault that lasted is none of the time that a reply may take.
    #[must_use]
    pub fn gives_up(&self, first: Instant, now: Instant) -> bool {
        let from = lock(&self.lasting).1.map_or(first, |over| over.max(first));
        let from = if self.lasts() { first } else { from };
        now > from + self.plan.patience
    }

    /// From now on routers have no routes, whatever the guard does.
    pub fn excuse(&self) {
        lock(&self.excused).push((Instant::now(), None));
    }

    /// They have again what they were told.
    pub fn no_excuse(&self) {
        if let Some(last) = lock(&self.excused).last_mut() {
            last.1 = Some(Instant::now());
        }
    }

    fn is_excused(&self, from: Instant, to: Instant) -> bool {
        lock(&self.excused).iter().any(|(begin, end)| *begin <= to && end.is_none_or(|end| end >= from))
    }

    /// Sends a probe.
    pub fn probe(&self, address: IpAddr, answer: Option<Answered>) {
        let row = self.row();
        if let Err(error) = self.prober.send(address, row, answer) {
            self.tell(row, format!("a probe to {address}: {error}"));
        }
    }

    /// An echo came.
    pub fn heard(&self, probe: &Probe) {
        let Some(answer) = &probe.answer else { return };
        let number = answer.name.strip_prefix('n').and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
        if !number.is_some_and(|number| FRESH.contains(&number)) {
            return;
        }
        let mut recovery = lock(&self.recovery);
        if let Some(since) = recovery.since.filter(|since| answer.asked > *since && recovery.took.is_none()) {
            recovery.took = Some(answer.seen - since);
        }
    }

    /// Judges probes without echo, and sends some within the TTL of what was answered.
    pub fn judge_probes(&self) {
        while !self.ended() {
            for probe in self.prober.overdue(self.plan.echo) {
                if self.is_excused(probe.sent, probe.sent) {
                    continue;
                }
                let row = probe.row;
                let world = self.explain(probe.address);
                let ago = probe.sent.elapsed().as_secs_f64();
                match probe.answer {
                    Some(answer) => {
                        let took = (answer.seen - answer.asked).as_secs_f64() * 1e3;
                        self.count(row, |row| row.unenforced += 1);
                        let text = format!("{} at {}, {took:.0} ms, {ago:.1} s ago", answer.name, probe.address);
                        self.tell(row, format!("{text}: closed when answered; {world}"));
                    }
                    None => {
                        self.count(row, |row| row.leases_lost += 1);
                        self.tell(row, format!("{} closed within its TTL, {ago:.1} s ago; {world}", probe.address));
                    }
                }
            }
            let now = Instant::now();
            let open = self.ledger().open_for(now, LEFT);
            let place = self.random(Duration::from_secs(open.len() as u64)).as_secs();
            if let Some(address) = usize::try_from(place).ok().and_then(|place| open.get(place))
                && !self.is_excused(now, now)
            {
                self.probe(*address, None);
            }
            std::thread::sleep(WITHIN);
        }
    }

    /// What the world says of an address, for a report.
    fn explain(&self, address: IpAddr) -> String {
        let line = match self.place {
            Place::Nftables => format!("nft list table inet destguard | grep -wF '{address}' || echo in no set"),
            Place::Bird | Place::Frr => format!("ip route get {address} 2>&1"),
        };
        let node = if self.place == Place::Nftables { self.node() } else { self.lab.node("router") };
        let said = node.run(&line).map(|output| output.stdout).unwrap_or_default();
        String::from_utf8_lossy(&said).split_whitespace().take(24).collect::<Vec<_>>().join(" ")
    }

    /// What is open: the elements of the sets, or the router's host routes to the far side.
    #[must_use]
    pub fn open(&self) -> Option<HashSet<IpAddr>> {
        match self.place {
            Place::Nftables => self.elements(),
            Place::Bird | Place::Frr => self.routes(),
        }
    }

    fn elements(&self) -> Option<HashSet<IpAddr>> {
        let output = self.node().command("nft").args(["-j", "list", "table", "inet", "destguard"]).output().ok()?;
        let all: Value = serde_json::from_slice(&output.stdout).ok()?;
        let sets = all["nftables"].as_array()?.iter().filter_map(|object| object.get("set"));
        let sets = sets.filter(|set| matches!(set["name"].as_str(), Some("lease4" | "lease6")));
        let elements = sets.filter_map(|set| set["elem"].as_array()).flatten();
        let values = elements.map(|element| element.get("elem").unwrap_or(element)["val"].as_str());
        Some(values.filter_map(|value| value?.parse().ok()).collect())
    }

    fn routes(&self) -> Option<HashSet<IpAddr>> {
        let mut open = HashSet::new();
        for family in ["-4", "-6"] {
            let output = self.lab.node("router").command("ip").args([family, "-j", "route", "show"]).output().ok()?;
            let all: Value = serde_json::from_slice(&output.stdout).ok()?;
            let by = if self.place == Place::Frr { "bgp" } else { "bird" };
            let ours = all.as_array()?.iter().filter(|route| route["protocol"] == by && route.get("gateway").is_some());
            let values = ours.filter_map(|route| route["dst"].as_str()?.parse::<IpAddr>().ok());
            // The router's own way to the upstreams.
            open.extend(values.filter(|to| to.to_string() != "192.0.2.53" && to.to_string() != "2001:db8:53::53"));
        }
        Some(open)
    }

    /// Whether one address is open, by the kernel's word on it alone.
    fn is_open(&self, address: IpAddr) -> bool {
        let (node, line) = match self.place {
            Place::Nftables => {
                let set = if address.is_ipv4() { "lease4" } else { "lease6" };
                (self.node(), format!("nft get element inet destguard {set} '{{ {address} }}'"))
            }
            // The null route has no next hop.
            Place::Bird | Place::Frr => (self.lab.node("router"), format!("ip route get {address} | grep -q via")),
        };
        node.run(&line).is_ok_and(|output| output.status.success())
    }

    /// Looks at what is open again and again until the end.
    pub fn look(&self) {
        while !self.ended() {
            let begun = Instant::now();
            let open = self.open();
            let read = Instant::now();
            if let Some(open) = open
                && !self.is_excused(begun, read)
            {
                let (missing, stray) = self.ledger().compare(&open, begun, read);
                let row = self.row();
                // A list of thousands that change meanwhile may leave some out: whoever is missing is looked at alone, which
                // takes a while. Its time must not have passed behind that look either.
                let is_lost =
                    |address: &IpAddr| !self.is_open(*address) && self.ledger().is_promised(*address, Instant::now());
                for address in missing.into_iter().filter(is_lost) {
                    self.count(row, |row| row.leases_lost += 1);
                    self.tell(row, format!("{address} is not in force within its TTL"));
                }
                for address in stray {
                    self.count(row, |row| row.open_too_long += 1);
                    self.tell(row, format!("{address} is open and may not be"));
                }
                self.looks.fetch_add(1, Relaxed);
            }
            self.ledger().forget(read);
            // Reading thousands of elements is work that the guard's machine has to do.
            std::thread::sleep((read - begun).mul_f64(4.0).max(Duration::from_millis(500)));
        }
    }

    /// Waits until two looks more have been taken, so that what a fault did counts in its row.
    ///
    /// # Errors
    /// When none is taken.
    pub fn looked(&self) -> Result<(), AnyError> {
        let before = self.looks.load(Relaxed);
        if wait_until(LONG, || self.looks.load(Relaxed) >= before + 2 || self.ended()) {
            return Ok(());
        }
        Err(format!("{}: what is open can't be read\n{}", self.place.name(), self.lab.logs()).into())
    }

    /// Waits until everything that was promised is open, as after a router's restart.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        wait_until(LONG, || {
            let promised = self.ledger().open_for(Instant::now(), Duration::from_secs(2));
            self.open().is_some_and(|open| promised.iter().all(|address| open.contains(address)))
        })
    }

    /// Asks for the names that are held until each is answered.
    ///
    /// # Errors
    /// When one isn't.
    pub fn hold(&self) -> Result<(), AnyError> {
        for number in 0..upstream::HELD {
            let name = format!("h{number}.held.test");
            let Some((rtype, address)) = upstream::address(&name) else { continue };
            let ask = || {
                let now = Instant::now();
                self.ledger().asked(address, now);
                let answer = crate::dns::ask(self.server(), &name, rtype, Duration::from_secs(1));
                let answer = answer.ok().filter(|answer| answer.addresses() == [address]);
                answer.inspect(|answer| {
                    let ttl = Duration::from_secs(upstream::HELD_TTL.into());
                    self.ledger().told(address, ttl, answer.asked, answer.seen);
                })
            };
            let asked = self.lab.node("client").in_namespace(|| wait_until(LONG, || ask().is_some()))?;
            if !asked {
                return Err(format!("{}: {name} is not answered\n{}", self.place.name(), self.lab.logs()).into());
            }
        }
        Ok(())
    }

    /// Lets the guard's process open as many files as it has open, or as many as before.
    ///
    /// # Errors
    /// When it has ended.
    pub fn limit_files(&self, limited: bool) -> Result<(), AnyError> {
        let pid = self.pid()?;
        let open = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count();
        Ok(sys::limit_open_files(pid, limited.then_some(open as u64))?)
    }
}
