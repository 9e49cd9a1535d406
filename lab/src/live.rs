//! People and programs living behind the guard, and a witness that judges every connect: `lab/live` for minutes or hours.
//!
//! ```text
//!   names --upstream--> guard --answers--> people --connects--> the far side
//!     \                   |                  |
//!      `---- ledger: what was promised <-----'--- each connect is judged
//!                         |
//!   belief: `leases --json` against the kernel's sets and the router's table, once a second
//! ```
//!
//! In the middle the guard is reloaded, stopped and started, killed and started; on nftables somebody empties the sets, then
//! flushes the ruleset, and the host loses power; routers end their session. Each place is a lab of its own; they run side by side.
//!
//! - [`place`]: single host, gateway, FRR, BIRD; [`names`]: what is asked for; [`ask`] and [`people`]: who asks and connects.
//! - [`ledger`]: what was promised, and the judgement; [`belief`]: the comparison; [`table`]: the counts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use self::ledger::Ledger;
use self::names::{Kind, Names};
use self::place::{Place, Site};
use self::table::Counts;
use crate::dns::Server;
use crate::process::tail;
use crate::tcp::EchoServer;

pub mod ask;
pub mod belief;
pub mod ledger;
pub mod names;
pub mod people;
pub mod place;
pub mod table;

/// Errors cross threads.
pub type AnyError = Box<dyn std::error::Error + Send + Sync>;

const UPSTREAMS: [&str; 2] = ["192.0.2.53:53", "[2001:db8:53::53]:53"];
/// Names of one client's programs.
const PROGRAMS: u32 = 5;
/// Reload, stop and kill come once in this, in a longer run again and again.
const CYCLE: Duration = Duration::from_secs(240);
/// No event comes later than this before the end.
const LAST_EVENT: Duration = Duration::from_secs(8);
/// So long after somebody else emptied the sets all must be as before.
const EMPTIED: Duration = Duration::from_secs(3);
/// So long after somebody else's `nft flush ruleset` all must be as before.
const FLUSHED: Duration = Duration::from_secs(1);
/// Logs of the guard, one for each start, that are shown of a place where something went wrong.
const LOGS: usize = 3;
/// Before and after the wait for a session that a router has ended.
const CLEARED: Duration = Duration::from_secs(2);
/// After the guard is back, questions may still fail for so long: resolvers wait before they ask again.
const BACK: Duration = Duration::from_secs(3);
/// Faults of one place that are shown with what the guard says of the address.
const EXPLAINED: u32 = 4;

/// What happens to the guard.
#[derive(Clone, Copy, Debug)]
enum Event {
    Reload,
    /// SIGTERM, and started again.
    Stop,
    /// SIGKILL, and started again.
    Kill,
    /// Another program takes the elements of the lease sets away.
    Empty,
    /// Another program's `nft flush ruleset`.
    Flush,
    /// As [`Event::Kill`], and the kernel's table is gone.
    Reboot,
    /// The router's operator ends the session.
    Clear,
}

/// What is run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The path of the destguard that is tried.
    pub binary: PathBuf,
    /// How long people live behind it, once all places are up.
    pub length: Duration,
    /// The places where it runs, one behind the other.
    pub places: Vec<Place>,
}

/// What was seen, by place.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// In the plan's order.
    pub places: Vec<(Place, Counts)>,
}

impl Outcome {
    /// What isn't as promised; empty when all is well.
    #[must_use]
    pub fn wrong(&self) -> Vec<String> {
        let of = |(place, counts): &(Place, Counts)| {
            let name = place.name();
            counts.wrong().into_iter().map(move |text| format!("{name}: {text}")).collect::<Vec<_>>()
        };
        self.places.iter().flat_map(of).collect()
    }

    /// The table, and the first faults of each place.
    pub fn print(&self) {
        Counts::print_head();
        for (place, counts) in &self.places {
            counts.print(&place.name());
        }
        for (place, counts) in self.places.iter().filter(|(_, counts)| !counts.faults.is_empty()) {
            println!("{}: the first faults", place.name());
            for (_, fault) in &counts.faults {
                println!("  {fault}");
            }
        }
    }
}

/// One place and all that is known of it.
pub struct World {
    site: Site,
    names: Arc<Names>,
    ledger: Arc<Mutex<Ledger>>,
    counts: Mutex<Counts>,
    /// When the guard was away; the end is `None` while it is.
    away: Mutex<Vec<(Instant, Option<Instant>)>>,
    begin: Instant,
    end: Instant,
    stop: AtomicBool,
    random: AtomicU32,
    explained: AtomicU32,
}

impl World {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self) -> bool {
        self.stop.load(Relaxed) || Instant::now() >= self.end
    }

    fn fault(&self, kind: &'static str, text: String) {
        let at = self.begin.elapsed().as_secs_f64();
        self.counts().fault(kind, format!("{at:.1} s {kind}: {text}"));
    }

    /// Whether a fault is to be shown at length.
    fn first_few(&self) -> bool {
        self.explained.fetch_add(1, Relaxed) < EXPLAINED
    }

    fn servers(&self, client: usize) -> [SocketAddr; 2] {
        self.site.clients.get(client).map_or([SocketAddr::from(([127, 0, 0, 1], 53)); 2], |client| client.servers)
    }

    /// A number below `below`; a linear congruential generator is random enough to choose addresses.
    fn dice(&self, below: u32) -> u32 {
        let step = |state: u32| Some(state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
        let state = self.random.fetch_update(Relaxed, Relaxed, step).unwrap_or_default();
        (state >> 8) % below.max(1)
    }

    /// Whether the guard was away, or just back, at some moment between these.
    fn was_down(&self, from: Instant, to: Instant) -> bool {
        let away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        away.iter().any(|(gone, back)| *gone <= to && back.is_none_or(|back| from <= back + BACK))
    }

    /// Whether belief and world may differ: the guard was away, or the enforcer was taken away.
    fn was_disturbed(&self, from: Instant, to: Instant) -> bool {
        self.was_down(from, to) || self.ledger().was_unguarded(from, to)
    }

    /// Counts a question that had to be sent again.
    fn again(&self, begun: Instant) {
        if self.was_down(begun, Instant::now()) {
            self.counts().questions.while_down += 1;
        } else {
            self.counts().questions.again += 1;
        }
    }

    /// Takes the guard away and brings it back.
    fn without(&self, what: &'static str, away: impl FnOnce(&Site)) -> Result<(), AnyError> {
        self.apart(what, |site| {
            away(site);
            site.start()
        })
    }

    /// Does what leaves people without answers for a while.
    fn apart(&self, what: &'static str, act: impl FnOnce(&Site) -> Result<(), AnyError>) -> Result<(), AnyError> {
        let begun = Instant::now();
        self.away.lock().unwrap_or_else(PoisonError::into_inner).push((begun, None));
        self.ledger().down();
        act(&self.site)?;
        let now = Instant::now();
        self.ledger().up(now);
        if let Some(last) = self.away.lock().unwrap_or_else(PoisonError::into_inner).last_mut() {
            last.1 = Some(now);
        }
        self.counts().events.push((what, begun.elapsed()));
        Ok(())
    }

    fn reload(&self) -> Result<(), AnyError> {
        let begun = Instant::now();
        self.site.reload()?;
        self.counts().events.push(("reload", begun.elapsed()));
        Ok(())
    }

    /// Takes something of the kernel's away and lets the guard find it gone; what happens until it is back is not judged here.
    fn meddle(&self, what: &'static str, command: &str, limit: Duration) -> Result<(), AnyError> {
        self.ledger().unguarded(Instant::now());
        self.site.guard().ok(command)?;
        std::thread::sleep(limit);
        self.ledger().guarded(Instant::now());
        self.counts().events.push((what, limit));
        Ok(())
    }

    /// Takes every element of the lease sets away.
    fn empty(&self) -> Result<(), AnyError> {
        let prefix = if self.site.place.terms().per_client { "client_lease" } else { "lease" };
        let set = |family| format!("nft flush set inet destguard {prefix}{family}");
        self.meddle("emptied", &format!("{} && {}", set(4), set(6)), EMPTIED)
    }

    /// Kills the guard and takes the kernel's table away, as a host that loses power; then starts it.
    fn reboot(&self) -> Result<(), AnyError> {
        self.ledger().unguarded(Instant::now());
        self.without("reboot", |site| {
            site.guard().kill();
            if let Err(error) = site.guard().ok("nft delete table inet destguard") {
                eprintln!("lab: {error}");
            }
        })?;
        self.ledger().guarded(Instant::now());
        Ok(())
    }

    /// Has the router end the session, and with it drop every route, until the guard has announced them again.
    fn clear(&self) -> Result<(), AnyError> {
        self.ledger().unguarded(Instant::now());
        self.apart("clear", |site| {
            site.clear_session()?;
            std::thread::sleep(CLEARED);
            site.ready()?;
            // The session is up before the routes are back.
            std::thread::sleep(CLEARED);
            Ok(())
        })?;
        self.ledger().guarded(Instant::now());
        Ok(())
    }

    /// What happens to the guard, each at its time, until the end.
    fn events(&self, offset: Duration) -> Result<(), AnyError> {
        let cycle = CYCLE.min(self.end.saturating_duration_since(self.begin));
        let kernel = [(0.56_f64, Event::Empty), (0.66, Event::Flush), (0.75, Event::Reboot)];
        let kernel = kernel.into_iter().filter(|_| !self.site.place.routes());
        let router = [(0.66, Event::Clear)].into_iter().filter(|_| self.site.place.routes());
        let mut all: Vec<(f64, Event)> =
            vec![(0.15, Event::Reload), (0.3, Event::Stop), (0.48, Event::Kill), (0.85, Event::Reload)];
        all.extend(kernel.chain(router));
        all.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        for round in 0.. {
            for (part, event) in &all {
                let at = self.begin + offset + cycle * round + cycle.mul_f64(*part);
                // Nothing just before the end: what comes of it is to be seen.
                if at + LAST_EVENT > self.end {
                    return Ok(());
                }
                while Instant::now() < at {
                    if self.ended() {
                        return Ok(());
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
                match event {
                    Event::Reload => self.reload()?,
                    Event::Stop => self.without("SIGTERM", |site| site.guard().stop())?,
                    Event::Kill => self.without("kill -9", |site| site.guard().kill())?,
                    Event::Empty => self.empty()?,
                    Event::Flush => self.meddle("flush", "nft flush ruleset", FLUSHED)?,
                    Event::Reboot => self.reboot()?,
                    Event::Clear => self.clear()?,
                }
            }
        }
        Ok(())
    }

    /// All of it, until the end.
    fn live(&self, offset: Duration) -> Result<(), AnyError> {
        std::thread::scope(|scope| {
            let people: Vec<_> = (0..self.site.clients.len())
                .map(|client| {
                    scope.spawn(move || -> Result<(), AnyError> {
                        let Some(at) = self.site.clients.get(client) else { return Ok(()) };
                        Ok(at.node.in_namespace(|| people::live(self, client))??)
                    })
                })
                .collect();
            scope.spawn(|| belief::watch(self));
            let mut result = self.events(offset);
            if result.is_err() {
                self.stop.store(true, Relaxed);
            }
            for part in people {
                let part = part.join().unwrap_or_else(|_| Err("a part panicked".into()));
                result = result.and(part);
            }
            result
        })
    }
}

/// Lives at all places at once. What fails at one place is told in its faults.
///
/// # Errors
/// When a place can't be brought up.
pub fn run(plan: &Plan) -> Result<Outcome, AnyError> {
    let mut sites = Vec::new();
    for &place in &plan.places {
        sites.push(Site::up(place, &plan.binary)?);
    }
    let places = std::thread::scope(|scope| {
        let running: Vec<_> = sites
            .into_iter()
            .enumerate()
            .map(|(number, site)| {
                let place = site.place;
                let offset = Duration::from_secs(2) * number as u32;
                (place, scope.spawn(move || one(site, plan.length, offset)))
            })
            .collect();
        let join = |(place, thread): (Place, std::thread::ScopedJoinHandle<'_, Result<Counts, AnyError>>)| {
            let counts = thread.join().unwrap_or_else(|_| Err("it panicked".into()));
            counts.map(|counts| (place, counts))
        };
        running.into_iter().map(join).collect::<Result<Vec<_>, _>>()
    })?;
    Ok(Outcome { places })
}

fn one(site: Site, length: Duration, offset: Duration) -> Result<Counts, AnyError> {
    let place = site.place;
    let internet = site.lab.node("internet");
    let upstreams = UPSTREAMS.iter().map(|at| at.parse()).collect::<Result<Vec<SocketAddr>, _>>()?;
    let dns = Server::start(internet, &upstreams)?;
    let _far = EchoServer::start(internet, people::PORT)?;
    let names = Arc::new(Names::new(site.clients.len(), place.ttls(), PROGRAMS));
    let ledger = Arc::new(Mutex::new(Ledger::new(place.terms(), Instant::now())));
    let (known, noted) = (Arc::clone(&names), Arc::clone(&ledger));
    dns.script(move |question| {
        let entry = known.get(&question.name)?;
        let (reply, addresses) = entry.reply(question.rtype);
        // Before it leaves.
        let mut ledger = noted.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.sent(addresses, entry.ttl(), Instant::now());
        Some(reply)
    });
    site.start()?;
    let begin = Instant::now();
    let world = World {
        site,
        names,
        ledger,
        counts: Mutex::default(),
        away: Mutex::default(),
        begin,
        end: begin + length,
        stop: AtomicBool::new(false),
        random: AtomicU32::new(place.kind as u32 + 1),
        explained: AtomicU32::new(0),
    };
    let result = world.live(offset);
    let renewals = (0..world.site.clients.len()).flat_map(|client| world.names.of(Kind::Program(client)));
    let renewals = renewals.map(|entry| entry.renewed.load(Relaxed).saturating_sub(1)).min().unwrap_or_default();
    if let Err(error) = &result {
        world.fault("ended early", error.to_string());
    }
    let mut counts = world.counts().clone();
    counts.renewals = renewals;
    counts.whole = result.is_ok();
    if !counts.wrong().is_empty() {
        let logs = world.site.guard().logs();
        for (name, log) in logs.iter().rev().take(LOGS).rev() {
            eprintln!("--- {} {name}\n{}", place.name(), tail(log, 15));
        }
    }
    Ok(counts)
}
