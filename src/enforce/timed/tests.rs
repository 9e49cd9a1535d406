//! The driver over a table in memory.

use std::collections::BTreeMap;
use std::time::Instant;

use super::*;
use crate::config::schema::{Nftables, NftablesMode, OnStop, Scope};
use crate::core::event::{Change, Generation};
use crate::core::moment::Moment;
use crate::core::narrow::Narrow;
use crate::enforce::COMMANDS;
use crate::enforce::rules::{Own, Special};

const ID: EnforcerId = EnforcerId(2);
/// How long anything that must happen may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
struct World {
    entries: BTreeMap<Entry, Option<Moment>>,
    /// Those that were ever removed or put, in order.
    touched: Vec<Entry>,
    room: usize,
    /// What `look` says.
    changed: Option<String>,
    /// Installing loses what was held.
    forgets: bool,
    /// Every call fails.
    broken: bool,
    installed: u32,
    there: bool,
    enforce: bool,
    grain: Duration,
    longest: Option<Duration>,
    forgotten: Vec<IpAddr>,
}

type Shared = Arc<Mutex<World>>;

struct Memory {
    world: Shared,
    clock: Clock,
    enforce: bool,
    listing: Option<Vec<Entry>>,
}

impl Memory {
    fn world(&self) -> Result<MutexGuard<'_, World>, TableError> {
        let mut world = self.world.lock().unwrap();
        let now = self.clock.now();
        world.entries.retain(|_, ends| ends.is_none_or(|ends| ends > now));
        if world.broken { Err(TableError::Other("broken".into())) } else { Ok(world) }
    }
}

impl Table for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn set(&mut self, rules: &Rules) {
        self.enforce = rules.config.enforce;
    }

    fn install(&mut self) -> Result<Installed, TableError> {
        let enforce = self.enforce;
        let mut world = self.world()?;
        let fresh = std::mem::take(&mut world.forgets);
        if fresh {
            world.entries.clear();
        }
        (world.there, world.enforce, world.changed) = (true, enforce, None);
        world.installed += 1;
        Ok(Installed { fresh, moved: false, left_out: Vec::new() })
    }

    fn look(&mut self) -> Result<Option<String>, TableError> {
        let world = self.world()?;
        Ok(world.changed.clone().or_else(|| (!world.there).then(|| "it is gone".to_owned())))
    }

    fn write(&mut self, remove: &[Entry], put: &[(Entry, Duration)]) -> Result<(), TableError> {
        let now = self.clock.now();
        let mut world = self.world()?;
        for entry in remove {
            world.entries.remove(entry);
            world.touched.push(*entry);
        }
        for (entry, time) in put {
            assert!(!time.is_zero() && world.longest.is_none_or(|longest| *time <= longest));
            assert!(world.grain.is_zero() || time.as_millis().is_multiple_of(world.grain.as_millis()), "{time:?}");
            if !world.entries.contains_key(entry) && world.entries.len() >= world.room {
                return Err(TableError::Full("no room".into()));
            }
            world.entries.insert(*entry, Some(now.plus(*time)));
            world.touched.push(*entry);
        }
        Ok(())
    }

    fn has(&mut self, entries: &[Entry]) -> Result<Vec<bool>, TableError> {
        let world = self.world()?;
        Ok(entries.iter().map(|entry| world.entries.contains_key(entry)).collect())
    }

    fn list(&mut self) -> Result<(), TableError> {
        let entries = self.world()?.entries.keys().copied().collect();
        self.listing = Some(entries);
        Ok(())
    }

    fn listed(&mut self) -> Result<Option<Vec<Held>>, TableError> {
        let Some(mut rest) = self.listing.take() else { return Ok(None) };
        let now = self.clock.now();
        let part: Vec<Entry> = rest.drain(..rest.len().min(3)).collect();
        let world = self.world()?;
        let grain = u64::try_from(world.grain.as_millis()).unwrap().max(1);
        let held = |entry: Entry| {
            let ends = world.entries.get(&entry)?;
            let left = ends.map(|ends| Duration::from_millis((ends.0 - now.0) / grain * grain));
            Some(Held { entry, left })
        };
        let part: Vec<Held> = part.into_iter().filter_map(held).collect();
        drop(world);
        self.listing = (!rest.is_empty()).then_some(rest);
        Ok((!part.is_empty() || self.listing.is_some()).then_some(part))
    }

    fn holds(&self, entry: &Entry) -> bool {
        match entry {
            Entry::Pair((address, narrow)) => {
                narrow.client().is_none_or(|client| address.is_ipv4() == client.is_ipv4())
            }
            Entry::Address(_) | Entry::Cut(_) => true,
        }
    }

    fn forget_flows(&mut self, addresses: &[IpAddr]) -> Result<usize, TableError> {
        self.world.lock().unwrap().forgotten.extend(addresses);
        Ok(addresses.len())
    }

    fn remove(&mut self) -> Result<(), TableError> {
        let mut world = self.world()?;
        world.there = false;
        world.entries.clear();
        Ok(())
    }

    fn grain(&self) -> Duration {
        self.world.lock().unwrap().grain
    }

    fn longest(&self) -> Duration {
        self.world.lock().unwrap().longest.unwrap_or(Duration::from_secs(1_000_000))
    }
}

struct Running {
    world: Shared,
    clock: Clock,
    switch: Switch,
    commands: Option<mpsc::Sender<Command>>,
    reports: mpsc::Receiver<Event>,
    thread: Option<std::thread::JoinHandle<()>>,
    generation: u64,
}

fn rules(scope: Scope) -> Rules {
    let config = Nftables { mode: NftablesMode::Both, scope, ..Nftables::default() };
    Rules { config, open: Vec::new(), own: Own::default(), ports: false, capacity: 100, special: Special::default() }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

impl Running {
    fn start(scope: Scope, change: impl FnOnce(&mut World)) -> Self {
        let clock = Clock::start();
        let mut world = World { room: 1000, there: true, ..World::default() };
        change(&mut world);
        let world = Arc::new(Mutex::new(world));
        let switch = Switch::default();
        let table = Memory { world: world.clone(), clock, enforce: true, listing: None };
        let settings = Settings { id: ID, clock, switch: switch.clone(), rules: rules(scope), left_out: Vec::new() };
        let (commands, received) = mpsc::channel(COMMANDS);
        let (sender, reports) = mpsc::channel(64);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(run(table, settings, received, sender));
        });
        let commands = Some(commands);
        let mut running = Self { world, clock, switch, commands, reports, thread: Some(thread), generation: 0 };
        running.until(|event| matches!(event, Event::WantSync { enforcer: ID }));
        running
    }

    fn next(&mut self) -> Event {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.reports.try_recv() {
                Ok(event) => return event,
                Err(error) => assert!(Instant::now() < deadline, "no report: {error}"),
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Passes over all reports before this one.
    fn until(&mut self, is: impl Fn(&Event) -> bool) -> Event {
        loop {
            let event = self.next();
            if is(&event) {
                return event;
            }
        }
    }

    fn send(&self, command: Command) {
        self.commands.as_ref().unwrap().blocking_send(command).unwrap();
    }

    fn ends(&self, seconds: u64) -> Moment {
        self.clock.now().plus(Duration::from_secs(seconds))
    }

    fn applied(&mut self) {
        let wanted = Generation(self.generation);
        self.until(|event| matches!(event, Event::Applied { generation, .. } if *generation == wanted));
    }

    fn sync(&mut self, leases: &[(IpAddr, u64)], pairs: &[(&str, &str, u64)]) {
        self.generation += 1;
        let leases = leases.iter().map(|(address, seconds)| (*address, self.ends(*seconds))).collect();
        let pairs = pairs
            .iter()
            .map(|(address, client, seconds)| ((ip(address), Narrow::of_client(ip(client))), self.ends(*seconds)));
        self.send(Command::Sync { generation: Generation(self.generation), leases, pairs: pairs.collect() });
        self.applied();
    }

    fn apply(&mut self, changes: Vec<Change>) {
        self.generation += 1;
        self.send(Command::Apply { generation: Generation(self.generation), changes });
    }

    fn left(&self, entry: Entry) -> Option<Duration> {
        let ends = self.world.lock().unwrap().entries.get(&entry).copied()??;
        Some(self.clock.now().until(ends)).filter(|left| !left.is_zero())
    }

    fn lasts(&self, entry: Entry, seconds: u64) -> bool {
        // Never shorter when written; the test may dawdle.
        let range = seconds.saturating_sub(20)..=seconds + 2;
        self.left(entry).is_some_and(|left| range.contains(&left.as_secs()))
    }

    fn eventually(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < deadline, "never: {what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn stop(mut self) -> Shared {
        self.commands = None;
        self.thread.take().unwrap().join().unwrap();
        self.world.clone()
    }
}

fn open(last: u8, ends: Moment) -> Change {
    Change::Open { address: at(last), ends }
}

#[test]
fn what_is_there_after_a_crash_stays_and_the_rest_is_put_right() {
    let mut running = Running::start(Scope::Shared, |world| {
        for last in 1..=20 {
            world.entries.insert(Entry::Address(at(last)), None);
        }
    });
    let leases: Vec<(IpAddr, u64)> = (2..=21).map(|last| (at(last), 500)).collect();
    running.sync(&leases, &[]);
    assert!(running.left(Entry::Address(at(1))).is_none() && running.lasts(Entry::Address(at(20)), 500));
    running.world.lock().unwrap().touched.clear();
    // The same once more.
    let leases: Vec<(IpAddr, Moment)> = running
        .world
        .lock()
        .unwrap()
        .entries
        .iter()
        .map(|(entry, ends)| match entry {
            Entry::Address(address) => (*address, ends.unwrap().minus(PAD)),
            other => panic!("{other:?}"),
        })
        .collect();
    running.generation += 1;
    running.send(Command::Sync { generation: Generation(running.generation), leases, pairs: Vec::new() });
    running.applied();
    assert_eq!(running.world.lock().unwrap().touched, []);
    running.stop();
}

#[test]
fn an_equal_end_a_later_one_and_an_earlier_one_are_written() {
    let mut running = Running::start(Scope::Shared, |world| world.grain = Duration::from_secs(1));
    running.sync(&[], &[]);
    for seconds in [100, 100, 700, 50] {
        let ends = running.ends(seconds);
        running.apply(vec![open(1, ends)]);
        running.applied();
        let ends_there = running.world.lock().unwrap().entries[&Entry::Address(at(1))].unwrap();
        assert!(ends_there >= ends, "never shorter than the lease");
        assert!(running.lasts(Entry::Address(at(1)), seconds));
    }
    running.apply(vec![Change::Close { address: at(1) }, Change::Close { address: at(9) }]);
    running.applied();
    assert!(running.left(Entry::Address(at(1))).is_none());
    running.stop();
}

#[test]
fn a_full_table_refuses_the_plan_that_does_not_fit_and_nothing_else() {
    let mut running = Running::start(Scope::Shared, |world| world.room = 3);
    running.sync(&[(at(1), 300), (at(2), 300)], &[]);
    let ends = running.ends(900);
    let extend = Change::Extend { address: at(1), ends };
    running.apply(vec![extend, open(3, ends), open(4, ends)]);
    let refused = Generation(running.generation);
    let event = running.next();
    assert!(matches!(event, Event::Refused { generation, .. } if generation == refused), "{event:?}");
    assert!(running.lasts(Entry::Address(at(1)), 900), "the extension is carried out");
    assert!(running.left(Entry::Address(at(3))).is_none() && running.left(Entry::Address(at(4))).is_none());
    running.apply(vec![Change::Close { address: at(2) }, open(5, ends)]);
    running.apply(vec![open(6, ends)]);
    running.applied();
    let held = |last| running.left(Entry::Address(at(last))).is_some();
    assert!(held(1) && !held(2) && held(5) && held(6));
    running.stop();
}

#[test]
fn what_others_did_is_found_and_put_right() {
    let mut running = Running::start(Scope::Shared, |_| ());
    running.sync(&[(at(1), 300), (at(2), 300), (at(3), 300)], &[]);
    let far = running.ends(9_000);
    {
        let mut world = running.world.lock().unwrap();
        world.entries.insert(Entry::Address(at(9)), Some(far));
        world.entries.insert(Entry::Address(at(3)), Some(far));
        world.entries.remove(&Entry::Address(at(1)));
    }
    let missing = running.until(|event| matches!(event, Event::Missing { .. }));
    assert!(matches!(missing, Event::Missing { addresses, .. } if addresses == [at(1)]));
    running.eventually("the others are put right", |running| {
        running.left(Entry::Address(at(9))).is_none() && running.lasts(Entry::Address(at(3)), 300)
    });
    // The core opens it again.
    let ends = running.ends(100);
    running.apply(vec![open(1, ends)]);
    running.applied();
    assert!(running.left(Entry::Address(at(1))).is_some());
    running.stop();
}

#[test]
fn changed_rules_are_put_back_and_a_fresh_table_is_filled_again() {
    let mut running = Running::start(Scope::Shared, |_| ());
    running.sync(&[(at(1), 300)], &[]);
    running.world.lock().unwrap().changed = Some("the jump is gone".to_owned());
    running.until(|event| matches!(event, Event::Repaired { kind: "ruleset", what, .. } if what.contains("jump")));
    assert!(running.left(Entry::Address(at(1))).is_some());
    {
        let mut world = running.world.lock().unwrap();
        (world.changed, world.forgets) = (Some("all is gone".to_owned()), true);
    }
    running.until(|event| matches!(event, Event::Lost { .. }));
    running.until(|event| matches!(event, Event::WantSync { .. }));
    running.sync(&[(at(1), 300)], &[]);
    assert!(running.lasts(Entry::Address(at(1)), 300));
    // What fails is tried again.
    running.world.lock().unwrap().broken = true;
    let ends = running.ends(100);
    running.apply(vec![open(2, ends)]);
    running.until(|event| matches!(event, Event::Lost { .. }));
    running.world.lock().unwrap().broken = false;
    running.until(|event| matches!(event, Event::WantSync { .. }));
    running.sync(&[(at(2), 300)], &[]);
    running.stop();
}

#[test]
fn pairs_are_kept_apart_and_leases_open_nothing_where_pairs_count() {
    let mut running = Running::start(Scope::Client, |_| ());
    running.sync(
        &[(at(1), 300)],
        &[("192.0.2.1", "10.0.0.7", 300), ("192.0.2.1", "127.0.0.1", 300), ("2001:db8::1", "10.0.0.7", 9)],
    );
    let pair = Entry::Pair((at(1), Narrow::of_client(ip("10.0.0.7"))));
    assert!(running.lasts(pair, 300) && running.lasts(Entry::Address(at(1)), 300), "this host's own");
    assert_eq!(running.world.lock().unwrap().entries.len(), 2, "no packet can go from one family to the other");
    let close =
        |client: &str| Change::Narrow { address: at(1), narrow: Narrow::of_client(ip(client)), ends: None, new: false };
    running.apply(vec![close("127.0.0.1"), Change::Open { address: at(2), ends: running.ends(50) }]);
    running.applied();
    assert_eq!(running.world.lock().unwrap().entries.keys().collect::<Vec<_>>(), [&pair]);
    running.world.lock().unwrap().entries.clear();
    let missing = running.until(|event| matches!(event, Event::Missing { .. }));
    assert!(matches!(missing, Event::Missing { pairs, .. } if pairs == [(at(1), Narrow::of_client(ip("10.0.0.7")))]));
    running.stop();
}

#[test]
fn flows_are_cut_until_the_address_is_opened_again() {
    let mut running = Running::start(Scope::Shared, |_| ());
    running.sync(&[(at(1), 300)], &[]);
    running.apply(vec![Change::Close { address: at(1) }]);
    running.send(Command::CutFlows(at(1)));
    running.applied();
    running.eventually("it is cut", |running| running.left(Entry::Cut(at(1))).is_some());
    running.eventually("and forgotten", |running| running.world.lock().unwrap().forgotten == [at(1)]);
    let ends = running.ends(60);
    running.apply(vec![open(1, ends)]);
    running.applied();
    assert!(running.left(Entry::Cut(at(1))).is_none() && running.left(Entry::Address(at(1))).is_some());
    running.stop();
}

#[test]
fn rules_are_changed_turned_off_and_on_and_disarmed() {
    let mut running = Running::start(Scope::Shared, |_| ());
    running.sync(&[(at(1), 300)], &[]);
    let enforce = |running: &Running, enforce| {
        let (done, heard) = tokio::sync::oneshot::channel();
        running.send(Command::Enforce { enforce, done });
        heard.blocking_recv().unwrap()
    };
    enforce(&running, false).unwrap();
    assert!(!running.world.lock().unwrap().enforce && running.left(Entry::Address(at(1))).is_some());
    let mode = |running: &Running, mode| {
        let mut rules = Box::new(rules(Scope::Shared));
        rules.config.mode = mode;
        let (done, heard) = tokio::sync::oneshot::channel();
        running.send(Command::Rules { rules, done });
        heard.blocking_recv().unwrap()
    };
    assert!(mode(&running, NftablesMode::Off).unwrap().is_empty());
    assert!(!running.world.lock().unwrap().there);
    let ends = running.ends(60);
    running.apply(vec![open(2, ends)]);
    running.applied();
    assert!(running.world.lock().unwrap().entries.is_empty());
    assert!(mode(&running, NftablesMode::Local).unwrap().is_empty());
    running.until(|event| matches!(event, Event::WantSync { .. }));
    running.sync(&[(at(2), 300)], &[]);
    assert!(running.world.lock().unwrap().there && running.lasts(Entry::Address(at(2)), 300));
    // A change that fails leaves the old rules.
    running.world.lock().unwrap().broken = true;
    assert!(enforce(&running, false).is_err());
    running.world.lock().unwrap().broken = false;
    running.until(|event| matches!(event, Event::WantSync { .. }));
    running.sync(&[(at(2), 300)], &[]);
    assert!(running.world.lock().unwrap().enforce);

    let world = running.world.clone();
    let disarmed = running.switch.disarm(|| -> Result<(), TableError> {
        let mut world = world.lock().unwrap();
        world.there = false;
        world.entries.clear();
        Ok(())
    });
    disarmed.unwrap();
    running.until(|event| matches!(event, Event::WantSync { .. }));
    running.sync(&[(at(3), 300)], &[]);
    let world = running.stop();
    let world = world.lock().unwrap();
    assert!(!world.there && world.entries.is_empty(), "what was disarmed stays so");
}

#[test]
fn what_is_to_be_done_when_it_stops_is_done() {
    for (on_stop, there) in [(OnStop::Keep, true), (OnStop::Remove, false)] {
        let mut running = Running::start(Scope::Shared, |_| ());
        running.sync(&[(at(1), 300)], &[]);
        let (done, heard) = tokio::sync::oneshot::channel();
        let mut other = Box::new(rules(Scope::Shared));
        other.config.on_stop = on_stop;
        running.send(Command::Rules { rules: other, done });
        heard.blocking_recv().unwrap().unwrap();
        let world = running.stop();
        assert_eq!(world.lock().unwrap().there, there);
    }
}
