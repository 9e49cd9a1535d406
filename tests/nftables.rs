//! The nftables enforcer against the real kernel, each test in network namespaces of its own. Needs root and `nft`.
// Helpers outside of #[test] functions fail a test as tests do.
#![allow(clippy::expect_used, clippy::panic)]

#[path = "nftables/changed.rs"]
mod changed;
#[path = "nftables/daemon.rs"]
mod daemon;
#[path = "nftables/gateway.rs"]
mod gateway;
#[path = "nftables/kernel_compared.rs"]
mod kernel_compared;
#[path = "support/namespace.rs"]
mod namespace;
#[path = "nftables/renewals.rs"]
mod renewals;
#[path = "support/traffic.rs"]
mod traffic;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use destguard::config::schema::{Nftables, NftablesMode, OnStop, Scope};
use destguard::core::event::{Change, EnforcerId, Event, Generation};
use destguard::core::moment::Moment;
use destguard::core::narrow::Narrow;
use destguard::enforce::backend::Backend as _;
use destguard::enforce::nftables::elements::{Features, Held, Key, Set, Timeout};
use destguard::enforce::nftables::kernel::Kernel;
use destguard::enforce::nftables::{self, Enforcer, NftError, probe};
use destguard::enforce::rules::{Own, OwnTraffic, Rules, Special, Transport};
use destguard::enforce::{COMMANDS, Command};
use destguard::sys::clock::Clock;
use namespace::{Namespace, address, alone, link, run, without_privileges};
use tokio::sync::mpsc;
use traffic::{Met, alive, connect, datagram_leaves, open, serve};

const ID: EnforcerId = EnforcerId(3);
/// How long anything that must happen may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);
const CAPACITY: usize = 100;

fn config(mode: NftablesMode) -> Nftables {
    Nftables { mode, inside: vec!["in0".to_owned()], ..Nftables::default() }
}

fn rules(config: &Nftables, capacity: usize) -> Rules {
    Rules {
        config: config.clone(),
        open: Vec::new(),
        own: Own::default(),
        ports: false,
        capacity,
        special: Special::default(),
    }
}

fn local() -> Nftables {
    config(NftablesMode::Local)
}

fn enforcer(config: &Nftables) -> Enforcer {
    enforcer_at(config, Clock::start())
}

fn enforcer_at(config: &Nftables, clock: Clock) -> Enforcer {
    let open =
        ["10.88.0.0/16", "10.88.1.0/24", "192.0.2.9/32", "2001:db8:88::/48"].map(|net| net.parse().expect("net"));
    let own = [
        OwnTraffic { address: "10.9.1.53".parse().expect("address"), transport: Transport::Udp, port: 53 },
        OwnTraffic { address: "2001:db8:1::53".parse().expect("address"), transport: Transport::Tcp, port: 53 },
    ];
    let rules =
        Rules { open: open.to_vec(), own: Own { traffic: own.to_vec(), ..Own::default() }, ..rules(config, CAPACITY) };
    Enforcer::new(&rules, clock, ID).expect("nft")
}

/// A running driver in the calling thread's namespace.
struct Running {
    commands: Option<mpsc::Sender<Command>>,
    reports: mpsc::Receiver<Event>,
    clock: Clock,
    thread: Option<std::thread::JoinHandle<()>>,
    generation: u64,
    /// What it said it repaired, by kind.
    repairs: std::collections::BTreeMap<&'static str, u64>,
}

impl Running {
    /// Installs, starts and answers the first WantSync with `leases`.
    fn start(config: &Nftables, leases: &[(&str, u64)]) -> Self {
        Self::start_as(config, leases, |enforcer| enforcer)
    }

    fn start_as(config: &Nftables, leases: &[(&str, u64)], change: impl FnOnce(Enforcer) -> Enforcer) -> Self {
        let mut running = Self::begin(config, change);
        running.sync(leases);
        running
    }

    /// Installs and starts; it waits for the full state.
    fn begin(config: &Nftables, change: impl FnOnce(Enforcer) -> Enforcer) -> Self {
        let clock = Clock::start();
        let mut enforcer = change(enforcer_at(config, clock));
        enforcer.install().expect("installed");
        let (commands, received) = mpsc::channel(COMMANDS);
        let (sender, reports) = mpsc::channel(64);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(Box::new(enforcer).run(received, sender));
        });
        let mut running = Self {
            commands: Some(commands),
            reports,
            clock,
            thread: Some(thread),
            generation: 0,
            repairs: Default::default(),
        };
        running.expect("a wish for the full state", |event| matches!(event, Event::WantSync { enforcer: ID }));
        running
    }

    fn send(&self, command: Command) {
        self.commands.as_ref().expect("running").blocking_send(command).expect("the driver runs");
    }

    /// Takes note of a repair; gives other reports back.
    fn note(&mut self, event: Event) -> Option<Event> {
        let Event::Repaired { kind, count, what, .. } = event else { return Some(event) };
        assert!(!what.is_empty());
        *self.repairs.entry(kind).or_default() += count;
        None
    }

    /// Passes over what was reported so far.
    fn drop_others(&mut self) {
        while self.reports.try_recv().is_ok() {}
    }

    /// The next report that is no repair.
    fn next(&mut self) -> Event {
        self.next_but(|_| false)
    }

    /// The next one for which `passed` doesn't hold either.
    fn next_but(&mut self, passed: impl Fn(&Event) -> bool) -> Event {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.reports.try_recv() {
                Ok(event) => {
                    if let Some(event) = self.note(event).filter(|event| !passed(event)) {
                        return event;
                    }
                }
                Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
                Err(error) => panic!("no report: {error}"),
            }
        }
    }

    fn expect(&mut self, what: &str, is: impl Fn(&Event) -> bool) -> Event {
        let event = self.next();
        assert!(is(&event), "{what} was expected, not {event:?}");
        event
    }

    fn in_seconds(&self, seconds: u64) -> Moment {
        self.clock.now().plus(Duration::from_secs(seconds))
    }

    fn sync(&mut self, leases: &[(&str, u64)]) {
        let leases = leases.iter().map(|(address, seconds)| (ip(address), self.in_seconds(*seconds))).collect();
        self.sync_all(leases);
    }

    fn sync_all(&mut self, leases: Vec<(IpAddr, Moment)>) {
        self.generation += 1;
        self.send(Command::Sync { generation: Generation(self.generation), leases, pairs: Vec::new() });
        self.applied();
    }

    fn apply(&mut self, changes: Vec<Change>) {
        self.generation += 1;
        self.send(Command::Apply { generation: Generation(self.generation), changes });
    }

    /// Waits for the acknowledgement of everything so far.
    fn applied(&mut self) {
        let wanted = Generation(self.generation);
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.next() {
                Event::Applied { enforcer: ID, generation } if generation == wanted => return,
                Event::Applied { enforcer: ID, generation } if generation < wanted => {}
                other => panic!("{wanted:?} was expected, not {other:?}"),
            }
            assert!(Instant::now() < deadline, "{wanted:?} was not acknowledged");
        }
    }

    fn open(&mut self, address: &str, seconds: u64) {
        let change = Change::Open { address: ip(address), ends: self.in_seconds(seconds) };
        self.apply(vec![change]);
        self.applied();
    }

    /// Ends the driver as the daemon does.
    fn stop(mut self) {
        self.commands = None;
        self.thread.take().expect("running").join().expect("no panic");
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn held(set: Set) -> Vec<Held> {
    Kernel::open().expect("a socket").dump("destguard", set).expect("the set")
}

/// Seconds left of an IPv4 or IPv6 lease, as the kernel sees it.
fn left(address: &str) -> Option<f64> {
    let key = Key::Address(ip(address));
    let found = held(key.lease_set()).into_iter().find(|held| held.key == key)?;
    Some(found.left.expect("no lease is without timeout").as_secs_f64())
}

fn near(found: Option<f64>, wanted: f64) -> bool {
    // Never shorter than the lease when written, and the test may dawdle.
    found.is_some_and(|found| found <= wanted + 1.0 && found > wanted - 9.0)
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A host in the calling thread's namespace (h0) and a peer with servers on the ports 80 and 853, 10.9.1.2 to .5 and
/// 2001:db8:1::2 to ::5.
fn host_and_peer() -> Namespace {
    let peer = Namespace::new();
    link("h0", &peer, "p0");
    address("h0", 1, 1);
    peer.within(|| {
        for host in 2..=5 {
            address("p0", 1, host);
        }
        serve(&[53, 80, 853]);
    });
    assert_eq!(connect("10.9.1.2", 80), Met::Connected);
    assert_eq!(connect("2001:db8:1::2", 80), Met::Connected);
    peer
}

#[test]
fn every_mode_replaces_every_other_and_leaves_no_chain_behind() {
    alone(|| {
        let all = [NftablesMode::Local, NftablesMode::Both, NftablesMode::Gateway, NftablesMode::Local];
        for mode in all {
            for (enforce, scope, redirect_dns) in
                [(true, Scope::Shared, true), (false, Scope::Client, false), (true, Scope::Client, true)]
            {
                let config = Nftables { enforce, scope, redirect_dns, ..config(mode) };
                enforcer(&config).install().unwrap_or_else(|error| panic!("{mode:?} {enforce} {scope:?}: {error}"));
                let table = run("nft list table inet destguard");
                let hook = |name: &str| table.contains(&format!("hook {name}"));
                assert_eq!(hook("output"), matches!(mode, NftablesMode::Local | NftablesMode::Both), "{table}");
                assert_eq!(hook("forward"), matches!(mode, NftablesMode::Gateway | NftablesMode::Both), "{table}");
                assert_eq!(hook("prerouting"), mode != NftablesMode::Local && redirect_dns, "{table}");
                assert_eq!(table.contains("policy drop"), enforce, "{table}");
                assert_eq!(table.contains("set client_lease4"), scope == Scope::Client, "{table}");
            }
        }
    });
}

#[test]
fn a_later_end_lengthens_and_nothing_is_ever_permanent() {
    alone(|| {
        let mut running = Running::start(&local(), &[]);
        for address in ["203.0.113.7", "2001:db8:7::7"] {
            running.open(address, 100);
            assert!(near(left(address), 100.0), "{:?}", left(address));
            let ends = running.in_seconds(500);
            running.apply(vec![Change::Extend { address: ip(address), ends }]);
            running.applied();
            assert!(near(left(address), 500.0), "{:?}", left(address));
            // An end that has passed still gets a timeout: zero would be for ever.
            running.apply(vec![Change::Open { address: ip(address), ends: Moment::ZERO }]);
            running.applied();
            eventually("it ends", || left(address).is_none());
        }
        running.stop();
    });
}

#[test]
fn kernels_before_6_12_are_served_by_add_delete_add() {
    alone(|| {
        let old = Features { refresh: false, destroy: false };
        let mut running = Running::start_as(&local(), &[("203.0.113.1", 50)], |enforcer| enforcer.assume(old));
        running.open("203.0.113.1", 700);
        assert!(near(left("203.0.113.1"), 700.0));
        // The last change of an address counts; closing what is not there is no error.
        let open = Change::Open { address: ip("203.0.113.2"), ends: running.in_seconds(60) };
        let close = |address| Change::Close { address: ip(address) };
        running.apply(vec![open, open, close("203.0.113.1"), close("203.0.113.3"), close("2001:db8::3")]);
        running.applied();
        assert!(left("203.0.113.1").is_none() && near(left("203.0.113.2"), 60.0));
        assert_eq!((held(Set::Lease4).len(), held(Set::Lease6).len()), (1, 0));
        running.stop();
    });
}

#[test]
fn pairs_of_client_and_address_are_kept_apart_on_every_kernel() {
    alone(|| {
        let config = Nftables { scope: Scope::Client, ..config(NftablesMode::Both) };
        let (one, other, six) = ("10.9.2.7", "10.9.2.8", "2001:db8:2::7");
        let pair = |client: &str, address: &str, ends: Option<Moment>, new| Change::Narrow {
            address: ip(address),
            narrow: Narrow::of_client(ip(client)),
            ends,
            new,
        };
        let left_for = |client: &str, address: &str| {
            let key = Key::pair(ip(client), ip(address)).expect("one family");
            let found = held(key.lease_set()).into_iter().find(|held| held.key == key)?;
            Some(found.left.expect("no pair is without timeout").as_secs_f64())
        };
        for old in [false, true] {
            let mut running = Running::start_as(&config, &[("203.0.113.1", 50)], |enforcer| match old {
                true => enforcer.assume(Features { refresh: false, destroy: false }),
                false => enforcer,
            });
            assert!(left("203.0.113.1").is_none(), "a lease opens nothing for nobody");
            let ends = |seconds| Some(running.in_seconds(seconds));
            let changes = vec![
                Change::Open { address: ip("203.0.113.1"), ends: running.in_seconds(60) },
                pair(one, "203.0.113.1", ends(60), true),
                pair(other, "203.0.113.1", ends(700), true),
                pair(six, "2001:db8:9::1", ends(60), true),
                pair("127.0.0.1", "2001:db8:9::2", ends(60), true),
                // No packet can go there.
                pair(one, "2001:db8:9::3", ends(60), true),
            ];
            running.apply(changes);
            running.applied();
            assert!(near(left_for(one, "203.0.113.1"), 60.0) && near(left_for(other, "203.0.113.1"), 700.0));
            assert!(near(left_for(six, "2001:db8:9::1"), 60.0));
            assert!(near(left("2001:db8:9::2"), 60.0), "this host's own, for the output hook");
            assert_eq!((held(Set::Lease4).len(), held(Set::Lease6).len()), (0, 1));
            assert_eq!((held(Set::ClientLease4).len(), held(Set::ClientLease6).len()), (2, 1));
            // One is extended, the other closed; closing what is not there is no error.
            let ends = Some(running.in_seconds(900));
            running.apply(vec![
                pair(one, "203.0.113.1", ends, false),
                pair(other, "203.0.113.1", None, false),
                pair(other, "203.0.113.9", None, false),
            ]);
            running.applied();
            assert!(near(left_for(one, "203.0.113.1"), 900.0) && left_for(other, "203.0.113.1").is_none());
            // The full state takes the place of everything.
            running.generation += 1;
            let pairs = vec![((ip("203.0.113.1"), Narrow::of_client(ip(other))), running.in_seconds(60))];
            let generation = Generation(running.generation);
            running.send(Command::Sync { generation, leases: Vec::new(), pairs });
            running.applied();
            assert!(near(left_for(other, "203.0.113.1"), 60.0) && left_for(one, "203.0.113.1").is_none());
            assert_eq!((held(Set::Lease6).len(), held(Set::ClientLease6).len()), (0, 0));
            running.stop();
        }
    });
}

#[test]
fn the_probe_tells_what_this_kernel_does() {
    alone(|| {
        let mut kernel = Kernel::open().expect("a socket");
        let found = probe::probe(&mut kernel).expect("probed");
        let release = run("uname -r");
        let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
        let version = (numbers.next().expect("major"), numbers.next().expect("minor"));
        assert_eq!(found, Features { refresh: version >= (6, 12), destroy: version >= (6, 3) }, "{release}");
        assert_eq!(run("nft list tables"), "", "the scratch table is gone");
    });
}

#[test]
fn closing_what_is_absent_is_no_error() {
    alone(|| {
        let mut running = Running::start(&local(), &[("203.0.113.1", 50)]);
        let close = |address| Change::Close { address: ip(address) };
        running.apply(vec![close("203.0.113.1"), close("203.0.113.99"), close("2001:db8::99")]);
        running.applied();
        assert!(held(Set::Lease4).is_empty());
        running.stop();
    });
}

#[test]
fn a_full_set_refuses_the_plan_that_does_not_fit_and_nothing_else() {
    alone(|| {
        let mut running = Running::start(&local(), &[("198.51.100.1", 300)]);
        let ends = running.in_seconds(300);
        // Room for the capacity, a quarter more and 1024.
        let many = (0..CAPACITY + CAPACITY / 4 + 1024 - 1)
            .map(|n| Change::Open { address: IpAddr::from([10, 200, (n / 256) as u8, (n % 256) as u8]), ends });
        running.apply(many.collect());
        running.applied();
        let full = held(Set::Lease4).len();

        let extend = Change::Extend { address: ip("198.51.100.1"), ends: running.in_seconds(900) };
        let open = |address| Change::Open { address: ip(address), ends };
        running.apply(vec![open("198.51.100.2"), extend]);
        let refused = Generation(running.generation);
        let event = running.next();
        assert!(
            matches!(&event, Event::Refused { generation, reason, .. } if *generation == refused && reason.contains("full")),
            "{event:?}"
        );
        assert!(near(left("198.51.100.1"), 900.0), "what fits is done");
        assert_eq!(held(Set::Lease4).len(), full, "nothing was lost");
        // IPv6 has room; so has IPv4 once something is closed.
        running.apply(vec![open("2001:db8::2")]);
        running.applied();
        running.apply(vec![Change::Close { address: ip("198.51.100.1") }]);
        running.applied();
        running.open("198.51.100.3", 60);
        assert!(left("198.51.100.3").is_some());
        running.stop();
    });
}

#[test]
fn a_new_daemon_takes_over_what_it_finds_without_a_gap() {
    alone(|| {
        let peer = host_and_peer();
        let mut running = Running::start(&local(), &[("10.9.1.2", 300), ("10.9.1.3", 300)]);
        running.open("2001:db8:1::2", 300);
        running.stop();
        assert_eq!(connect("10.9.1.2", 80), Met::Connected, "keep: leases stay while no daemon runs");
        assert_eq!(connect("10.9.1.4", 80), Met::Refused, "and so does the guard");

        // A changed configuration, and a changed size of the sets: the elements stay through the installation.
        let audit = Nftables { enforce: false, ..local() };
        let mut other = Enforcer::new(&rules(&audit, CAPACITY * 2), Clock::start(), ID).expect("nft");
        other.install().expect("installed");
        assert!(left("10.9.1.3").is_some());
        enforcer(&local()).install().expect("installed");
        assert!(left("10.9.1.3").is_some() && left("2001:db8:1::2").is_some());

        // The full state: one stays, one goes, one comes. A client that connects all the while is never refused.
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let client = scope.spawn(|| {
                let mut attempts = 0;
                let deadline = Instant::now() + PATIENCE;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) && Instant::now() < deadline {
                    assert_eq!(connect("10.9.1.2", 80), Met::Connected);
                    attempts += 1;
                }
                attempts
            });
            let mut running = Running::start(&local(), &[("10.9.1.2", 400), ("10.9.1.4", 400)]);
            for _ in 0..50 {
                running.sync(&[("10.9.1.2", 400), ("10.9.1.4", 400)]);
            }
            assert!(near(left("10.9.1.2"), 400.0) && left("10.9.1.3").is_none());
            assert_eq!(connect("10.9.1.4", 80), Met::Connected);
            assert_eq!(connect("10.9.1.3", 80), Met::Refused);
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(client.join().expect("never refused") > 0);
            running.stop();
        });
        drop(peer);
    });
}

#[test]
fn what_others_remove_is_noticed_and_comes_back_with_every_lease() {
    alone(|| {
        let mut running = Running::start(&local(), &[]);
        for act in [
            "nft flush ruleset",
            "nft delete table inet destguard",
            "nft flush table inet destguard",
            "nft flush set inet destguard lease4",
            "nft add element inet destguard lease6 '{ 2001:db8::bad }'",
        ] {
            running.sync(&[("203.0.113.1", 300), ("2001:db8::1", 300)]);
            run(act);
            let event = running.next();
            assert!(matches!(&event, Event::Lost { reason, .. } if reason.contains("\"nft\"")), "{act}: {event:?}");
            running.expect("a wish for the full state", |event| matches!(event, Event::WantSync { .. }));
            running.sync(&[("203.0.113.1", 300), ("2001:db8::1", 300)]);
            assert!(left("203.0.113.1").is_some(), "{act}");
            assert_eq!(held(Set::Lease6).len(), 1, "{act}");
            assert!(run("nft list chain inet destguard output").contains("policy drop"), "{act}");
        }
        // Tables of others are their own business, and nothing was reported of it.
        run(
            "nft add table inet other; nft add set inet other lease4 '{ type ipv4_addr; }'; nft delete table inet other",
        );
        running.open("203.0.113.2", 60);
        running.stop();
    });
}

#[test]
fn on_stop_remove_and_disarm_open_the_host() {
    alone(|| {
        let running = Running::start(&Nftables { on_stop: OnStop::Remove, ..local() }, &[]);
        running.stop();
        assert_eq!(run("nft list tables"), "");
        Running::start(&local(), &[]).stop();
        assert!(run("nft list tables").contains("destguard"));
        nftables::disarm().expect("disarmed");
        assert_eq!(run("nft list tables"), "");
        nftables::disarm().expect("an absent table is no error");
        assert!(matches!(nftables::counters(), Err(NftError::Gone)));
    });
}

#[test]
fn disarmed_while_it_runs_the_host_stays_open_and_answers_flow() {
    alone(|| {
        let mut disarmer = None;
        let mut running = Running::start_as(&local(), &[("203.0.113.1", 300)], |enforcer| {
            disarmer = Some(enforcer.disarmer());
            enforcer
        });
        disarmer.expect("taken").disarm().expect("disarmed");
        running.expect("a wish for the full state", |event| matches!(event, Event::WantSync { .. }));
        running.sync(&[("203.0.113.1", 300)]);
        running.open("203.0.113.2", 60);
        running.send(Command::CutFlows(ip("203.0.113.2")));
        running.open("203.0.113.3", 60);
        eventually("nothing is left", || run("nft list tables").is_empty());
        running.stop();
    });
}

#[test]
fn a_table_of_another_make_is_made_anew() {
    alone(|| {
        run("nft add table inet destguard; nft add set inet destguard lease4 '{ type ipv6_addr; }'; \
             nft add chain inet destguard stranger '{ type filter hook input priority 0; policy accept; }'");
        enforcer(&local()).install().expect("installed");
        let table = run("nft list table inet destguard");
        assert!(!table.contains("stranger"), "{table}");
    });
}

#[test]
fn only_leased_addresses_are_reached_and_live_flows_outlive_the_lease() {
    alone(|| {
        let _peer = host_and_peer();
        let mut running = Running::start(&local(), &[]);
        for address in ["10.9.1.2", "2001:db8:1::2"] {
            assert_eq!(connect(address, 80), Met::Refused, "{address} was never leased");
            running.open(address, 1);
            let mut flow = open(address, 80).expect("leased");
            assert!(alive(&mut flow));
            assert_eq!(connect(address, 853), Met::Refused, "another resolver, even at a leased address");
            assert_eq!(connect(address, 53), Met::Refused);
            eventually("the lease ends", || left(address).is_none());
            assert_eq!(connect(address, 80), Met::Refused, "{address} after its lease");
            assert!(alive(&mut flow), "the live flow goes on");
            running.open(address, 300);
            assert_eq!(connect(address, 80), Met::Connected, "leased again");
        }
        // Revoked: closed and cut.
        let mut flow = open("10.9.1.2", 80).expect("leased");
        let mut other = open("2001:db8:1::2", 80).expect("leased");
        running.send(Command::CutFlows(ip("10.9.1.2")));
        running.apply(vec![Change::Close { address: ip("10.9.1.2") }]);
        running.applied();
        eventually("the flow is cut", || !alive(&mut flow));
        assert!(alive(&mut other), "no other flow is");
        assert_eq!(connect("10.9.1.2", 80), Met::Refused);
        running.open("10.9.1.2", 60);
        let mut flow = open("10.9.1.2", 80).expect("leased once more");
        assert!(alive(&mut flow));

        let counters = nftables::counters().expect("counters");
        assert!(counters.dns_bypass.packets >= 4 && counters.denied.packets >= 8, "{counters:?}");
        let mut registry = destguard::metrics::registry();
        nftables::metrics::register(&mut registry);
        let text = destguard::metrics::encode(&registry).expect("encoded");
        let line =
            format!("destguard_nftables_packets_total{{counter=\"dns_bypass\"}} {}\n", counters.dns_bypass.packets);
        assert!(text.contains(&line), "{text}");
        assert!(counters.allowed.packets >= 4 && counters.established.bytes > 0, "{counters:?}");
        running.stop();
    });
}

#[test]
fn a_revoked_flow_does_not_come_back_by_a_packet_from_the_other_end() {
    alone(|| {
        let peer = host_and_peer();
        let mut running = Running::start(&local(), &[("10.9.1.2", 300)]);
        let listener = peer.within(|| std::net::TcpListener::bind("10.9.1.2:8080").expect("a port"));
        let mut flow = open("10.9.1.2", 8080).expect("leased");
        let (mut server, _) = listener.accept().expect("accepted");
        running.apply(vec![Change::Close { address: ip("10.9.1.2") }]);
        running.send(Command::CutFlows(ip("10.9.1.2")));
        running.applied();
        // Reports come in order: this one shows that the cut before it was carried out.
        running.open("203.0.113.1", 60);
        std::io::Write::write_all(&mut server, b"push").expect("the server speaks first");
        let mut buffer = [0u8; 4];
        std::io::Read::read_exact(&mut flow, &mut buffer).expect("input is not guarded");
        eventually("our packets are refused", || std::io::Write::write_all(&mut flow, b"x").is_err());
        server.set_read_timeout(Some(Duration::from_millis(200))).expect("a time-out");
        assert!(std::io::Read::read(&mut server, &mut buffer).is_err(), "nothing more leaves");
        running.stop();
    });
}

#[test]
fn the_open_prefixes_need_no_question_and_the_mark_reaches_the_upstream_only() {
    alone(|| {
        let peer = host_and_peer();
        peer.within(|| run("ip addr add 10.88.1.7/32 dev p0; ip addr add 10.9.1.53/32 dev p0; ip -6 addr add 2001:db8:88::7/128 dev p0 nodad; ip -6 addr add 2001:db8:1::53/128 dev p0 nodad"));
        run("ip route add 10.88.0.0/16 via 10.9.1.2; ip -6 route add 2001:db8:88::/48 via 2001:db8:1::2");
        let running = Running::start(&local(), &[]);
        assert_eq!(connect("10.88.1.7", 80), Met::Connected);
        assert_eq!(connect("2001:db8:88::7", 80), Met::Connected);
        assert_eq!(connect("10.88.1.7", 53), Met::Refused, "an open prefix is no way to other resolvers");

        let marked = |address: &str, port: u16| {
            let to = std::net::SocketAddr::new(ip(address), port);
            let domain = socket2::Domain::for_address(to);
            let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).expect("a socket");
            socket.set_mark(destguard::sys::MARK).expect("CAP_NET_ADMIN");
            socket.connect_timeout(&to.into(), Duration::from_secs(3)).is_ok()
        };
        assert!(marked("2001:db8:1::53", 53), "the upstream over TCP");
        assert!(!marked("2001:db8:1::53", 80), "not another port of it");
        assert!(!marked("2001:db8:1::2", 53), "not another resolver");
        assert!(!marked("10.9.1.53", 53), "not over a protocol that was not named");
        assert!(!marked("10.9.1.2", 80), "not anybody");
        assert_eq!(connect("2001:db8:1::53", 53), Met::Refused, "and nobody without the mark");
        running.stop();
    });
}

#[test]
fn the_link_keeps_working_without_any_lease() {
    alone(|| {
        let _peer = host_and_peer();
        let running = Running::start(&local(), &[]);
        let denied = || nftables::counters().expect("counters").denied.packets;
        let before = denied();
        run("ip route add 255.255.255.255/32 dev h0");
        assert!(datagram_leaves(68, "255.255.255.255:67"), "DHCPv4");
        let scope: u32 = run("ip -o link show h0 | cut -d: -f1").trim().parse().expect("an index");
        assert!(datagram_leaves(546, &format!("[ff02::1:2%{scope}]:547")), "DHCPv6");
        // Joining a group sends MLD and IGMP reports; a flushed neighbour is asked for again.
        run("ip maddr add 33:33:00:00:12:34 dev h0; ip neigh flush all");
        let group = std::net::UdpSocket::bind("[::]:0").expect("a socket");
        group.join_multicast_v6(&"ff02::1234".parse().expect("a group"), scope).expect("joined");
        let group4 = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
        group4.join_multicast_v4(&[239, 1, 2, 3].into(), &[10, 9, 1, 1].into()).expect("joined");
        // Counted by the kernel only when the packet got through the output hook.
        eventually("an MLDv2 report leaves", || {
            run("cat /proc/net/snmp6").lines().any(|line| {
                let mut words = line.split_whitespace();
                words.next() == Some("Icmp6OutType143") && words.next() != Some("0")
            })
        });
        assert_eq!(denied(), before, "none of it was denied");
        let mut running = running;
        running.open("2001:db8:1::3", 60);
        assert_eq!(connect("2001:db8:1::3", 80), Met::Connected, "after neighbour discovery");
        // What looks like DHCP but isn't from its port is judged.
        assert!(!datagram_leaves(6868, "10.9.1.2:67"));
        assert!(denied() > before);
        // Loopback is nobody's business.
        serve(&[8000]);
        assert_eq!(connect("127.0.0.1", 8000), Met::Connected);
        assert_eq!(connect("10.9.1.1", 8000), Met::Connected);
        running.stop();
    });
}

#[test]
fn answers_to_others_leave_the_guarded_host() {
    alone(|| {
        let peer = host_and_peer();
        let running = Running::start(&local(), &[]);
        serve(&[53, 179]);
        for port in [53, 179] {
            assert_eq!(peer.within(|| connect("10.9.1.1", port)), Met::Connected, "port {port}");
            assert_eq!(peer.within(|| connect("2001:db8:1::1", port)), Met::Connected, "port {port}");
        }
        assert_eq!(peer.within(|| connect("10.9.1.1", 9)), Met::Refused, "the host's own refusal gets out, too");
        running.stop();
    });
}

#[test]
fn audit_counts_what_enforcing_denies_and_the_switch_keeps_live_flows() {
    alone(|| {
        let _peer = host_and_peer();
        let audit = Nftables { enforce: false, ..local() };
        let running = Running::start(&audit, &[("10.9.1.2", 300)]);
        let mut flow = open("10.9.1.3", 80).expect("nothing is blocked");
        assert!(alive(&mut flow));
        assert_eq!(connect("10.9.1.4", 853), Met::Connected);
        let counters = nftables::counters().expect("counters");
        assert_eq!((counters.denied.packets, counters.dns_bypass.packets), (2, 1), "{counters:?}");
        running.stop();

        let running = Running::start(&local(), &[("10.9.1.2", 300)]);
        assert!(alive(&mut flow), "what was established goes on");
        assert_eq!(connect("10.9.1.3", 80), Met::Refused, "what is new does not");
        assert_eq!(connect("10.9.1.2", 80), Met::Connected);
        running.stop();
    });
}

#[test]
fn without_privileges_the_error_says_what_is_missing() {
    alone(|| {
        without_privileges(|| {
            let error = enforcer(&local()).install().expect_err("no privileges");
            assert!(matches!(error, NftError::Permission), "{error}");
            let mut kernel = Kernel::open().expect("a socket is free");
            assert!(matches!(probe::probe(&mut kernel), Err(NftError::Permission)));
            assert!(matches!(nftables::disarm(), Err(NftError::Permission)));
        });
        assert_eq!(run("nft list tables"), "");
    });
}

#[test]
fn the_full_state_of_a_large_network_is_one_transaction() {
    alone(|| {
        let many: u32 = 120_000;
        let mut enforcer = Enforcer::new(&rules(&local(), many as usize), Clock::start(), ID).expect("nft");
        enforcer.install().expect("installed");
        let mut kernel = Kernel::open().expect("a socket");
        let elements: Vec<_> = (0..many)
            .map(|n| {
                let address = std::net::Ipv6Addr::from((0x2001_0db8_u128 << 96) + u128::from(n));
                (Key::Address(IpAddr::V6(address)), Timeout::of(Duration::from_secs(600)))
            })
            .collect();
        for _ in 0..2 {
            let mut transaction = kernel.transaction();
            transaction.flush(Set::Lease6);
            transaction.add(Set::Lease6, &elements);
            kernel.commit("writing many leases", transaction).expect("committed");
        }
        assert_eq!(held(Set::Lease6).len(), elements.len());
    });
}

/// Prints what one lease costs; nothing is asserted of it.
#[test]
fn latency_of_one_lease() {
    alone(|| {
        let mut kernel = Kernel::open().expect("a socket");
        enforcer(&local()).install().expect("installed");
        kernel.features = probe::probe(&mut kernel).expect("probed");
        let mut times: Vec<Duration> = (0..1000u32)
            .map(|n| {
                let mut transaction = kernel.transaction();
                let key = Key::Address(IpAddr::from((0x0a00_0000 + n).to_be_bytes()));
                transaction.put(kernel.features, Set::Lease4, &[(key, Timeout::of(Duration::from_secs(60)))]);
                let begin = Instant::now();
                kernel.commit("timing", transaction).expect("committed");
                begin.elapsed()
            })
            .collect();
        times.sort_unstable();
        let mut running = Running::start(&local(), &[]);
        let mut through: Vec<Duration> = (0..200u8)
            .map(|n| {
                let begin = Instant::now();
                running.apply(vec![Change::Open { address: IpAddr::from([10, 1, 0, n]), ends: Moment(60_000) }]);
                assert!(matches!(running.reports.blocking_recv(), Some(Event::Applied { .. })));
                begin.elapsed()
            })
            .collect();
        through.sort_unstable();
        println!("one lease, acknowledged: p50 {:?} p99 {:?}", times[500], times[990]);
        println!("one lease through the driver's channels: p50 {:?} p99 {:?}", through[100], through[198]);
        running.stop();
    });
}
