//! The iptables enforcer against the real kernel, each test in network namespaces of its own and for both variants of iptables. Needs root, `iptables`
//! and `ipset`.
// Helpers outside of #[test] functions fail a test as tests do.
#![allow(clippy::expect_used, clippy::panic)]

#[path = "iptables/changed.rs"]
mod changed;
#[path = "iptables/containers_and_names.rs"]
mod containers_and_names;
#[path = "iptables/daemon.rs"]
mod daemon;
#[path = "iptables/gateway.rs"]
mod gateway;
#[path = "support/namespace.rs"]
#[allow(dead_code)]
mod namespace;
#[path = "iptables/own_traffic.rs"]
mod own_traffic;
#[path = "support/traffic.rs"]
#[allow(dead_code)]
mod traffic;

use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use destguard::config::schema::{Nftables, NftablesMode, OnStop, Scope};
use destguard::core::event::{Change, EnforcerId, Event, Generation};
use destguard::core::moment::Moment;
use destguard::core::narrow::{Narrow, Port, TCP, Who};
use destguard::enforce::backend::{Backend as _, Control, Stop};
use destguard::enforce::iptables::program::{Programs, Variant};
use destguard::enforce::iptables::{self, Enforcer};
use destguard::enforce::rules::{Own, OwnTraffic, Rules, Special, Transport};
use destguard::enforce::{COMMANDS, Command, EnforceError};
use destguard::sys::clock::Clock;
use namespace::{Namespace, address, alone, link, run};
use tokio::sync::mpsc;
use traffic::{Met, alive, connect, datagram_leaves, open, serve};

const ID: EnforcerId = EnforcerId(3);
/// How long anything that must happen may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(40);
const CAPACITY: usize = 100;

/// Each variant in a namespace of its own.
fn both(story: impl Fn(&Programs) + Sync) {
    let all = Programs::available().expect("iptables");
    assert_eq!(all.iter().map(|programs| programs.variant).collect::<Vec<_>>(), [Variant::Nft, Variant::Legacy]);
    for programs in &all {
        eprintln!("variant {}", programs.variant.name());
        alone(|| story(programs));
    }
}

fn config(mode: NftablesMode) -> Nftables {
    Nftables { mode, inside: vec!["in0".to_owned()], ..Nftables::default() }
}

fn rules(config: &Nftables) -> Rules {
    let open =
        ["10.88.0.0/16", "10.88.1.0/24", "192.0.2.9/32", "2001:db8:88::/48"].map(|net| net.parse().expect("net"));
    let own = [
        OwnTraffic { address: ip("10.9.1.5"), transport: Transport::Udp, port: 53 },
        OwnTraffic { address: ip("2001:db8:1::5"), transport: Transport::Tcp, port: 853 },
    ];
    let own = Own { traffic: own.to_vec(), listeners: vec![(Transport::Udp, 5300)] };
    Rules {
        config: config.clone(),
        open: open.to_vec(),
        own,
        ports: true,
        capacity: CAPACITY,
        special: Special::default(),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A running driver in the calling thread's namespace.
struct Running {
    commands: Option<mpsc::Sender<Command>>,
    reports: mpsc::Receiver<Event>,
    control: Arc<dyn Control>,
    clock: Clock,
    thread: Option<std::thread::JoinHandle<()>>,
    generation: u64,
}

impl Running {
    /// Installs, starts and answers the first WantSync with `leases`.
    fn start(programs: &Programs, config: &Nftables, leases: &[(&str, u64)]) -> Self {
        let clock = Clock::start();
        let mut enforcer = Enforcer::new(&rules(config), clock, ID).expect("made").by(programs.clone());
        enforcer.install().expect("installed");
        let control = enforcer.control();
        let (commands, received) = mpsc::channel(COMMANDS);
        let (sender, reports) = mpsc::channel(64);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(Box::new(enforcer).run(received, sender));
        });
        let (commands, thread) = (Some(commands), Some(thread));
        let mut running = Self { commands, reports, control, clock, thread, generation: 0 };
        running.until("a wish for the full state", |event| matches!(event, Event::WantSync { .. }));
        running.sync(leases);
        running
    }

    fn send(&self, command: Command) {
        self.commands.as_ref().expect("running").blocking_send(command).expect("the driver runs");
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
    fn until(&mut self, what: &str, is: impl Fn(&Event) -> bool) -> Event {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let event = self.next();
            if is(&event) {
                return event;
            }
            assert!(Instant::now() < deadline, "never: {what}");
        }
    }

    /// The driver finds it and puts it right, and nothing has to be written anew.
    fn repaired(&mut self, kind: &str) -> String {
        let event = self.until(kind, |event| matches!(event, Event::Repaired { kind: found, .. } if *found == kind));
        match event {
            Event::Repaired { what, .. } => what,
            other => panic!("{other:?}"),
        }
    }

    fn in_seconds(&self, seconds: u64) -> Moment {
        self.clock.now().plus(Duration::from_secs(seconds))
    }

    fn sync(&mut self, leases: &[(&str, u64)]) {
        self.generation += 1;
        let leases = leases.iter().map(|(address, seconds)| (ip(address), self.in_seconds(*seconds))).collect();
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
        self.until(
            "an acknowledgement",
            |event| matches!(event, Event::Applied { generation, .. } if *generation == wanted),
        );
    }

    fn open(&mut self, address: &str, seconds: u64) {
        let change = Change::Open { address: ip(address), ends: self.in_seconds(seconds) };
        self.apply(vec![change]);
        self.applied();
    }

    fn close(&mut self, address: &str) {
        self.apply(vec![Change::Close { address: ip(address) }]);
        self.applied();
    }

    /// Puts other rules in force.
    fn change(&self, rules: Rules) -> Result<(), EnforceError> {
        let (done, heard) = tokio::sync::oneshot::channel();
        self.send(Command::Rules { rules: Box::new(rules), done });
        heard.blocking_recv().expect("an answer").map(drop)
    }

    fn counters(&self) -> String {
        let mut registry = prometheus_client::registry::Registry::default();
        self.control.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
        text
    }

    /// Ends the driver as the daemon does.
    fn stop(mut self) {
        self.commands = None;
        self.thread.take().expect("running").join().expect("no panic");
    }
}

/// Seconds left of a lease, as `ipset` sees it.
fn left(address: &str) -> Option<u64> {
    let set = if ip(address).is_ipv4() { "destguard4" } else { "destguard6" };
    let list = run(&format!("ipset list {set}"));
    let line = list.lines().find_map(|line| line.strip_prefix(&format!("{address} timeout ")).map(str::to_owned))?;
    Some(line.trim().parse().expect("seconds"))
}

fn near(found: Option<u64>, wanted: u64) -> bool {
    // Never shorter when written, and the test may dawdle.
    found.is_some_and(|found| found <= wanted + 1 && found + 120 > wanted)
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A host in the calling thread's namespace (h0) and a peer with servers on the ports 53, 80 and 853, 10.9.1.2 to .5 and
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

/// What is there of a guard, in either variant.
fn remains() -> String {
    run("for v in nft legacy; do iptables-$v-save 2>/dev/null; ip6tables-$v-save 2>/dev/null; done | grep destguard; \
         ipset -n list | grep destguard; true")
}

/// The command line of a variant.
fn tables(programs: &Programs, line: &str) -> String {
    run(&format!("iptables-{0} {line} && ip6tables-{0} {line}", programs.variant.name()))
}
