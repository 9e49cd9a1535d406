//! BFD against the routers that people run: both ends see it up, a router that freezes or vanishes ends the session long before the hold time,
//! the guard says why, and everything comes back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use lab::{Lab, Node, wait_until};
use serde_json::Value;

const CONFIG: &str = "/etc/destguard/destguard.toml";
const LONG: Duration = Duration::from_secs(60);
/// BFD needs 0.6 s; BGP's hold time is 90 s. Whatever the machine has to do beside, the one can't be taken for the other.
const SOON: Duration = Duration::from_secs(15);

/// A router's own way of seeing things.
struct Router {
    lab: &'static str,
    file: &'static str,
    edits: &'static [(&'static str, &'static str)],
    guard: &'static [(&'static str, &'static str)],
    /// What speaks BFD.
    daemon: &'static str,
    /// A command whose output has the text once its end of the session is up.
    bfd: (&'static str, &'static str),
    bgp: (&'static str, &'static str),
}

const BFD_ON: (&str, &str) = ("hold_time = \"9s\"", "hold_time = \"90s\"\nbfd = true\nbfd_interval = \"200ms\"");

/// Over one hop, without GTSM.
const FRR: Router = Router {
    lab: "lab/frr/frr.clab.yml",
    file: "/etc/frr/frr.conf",
    edits: &[
        ("timers 3 9", "timers 30 90"),
        (" neighbor 10.0.3.2 ttl-security hops 1\n", ""),
        ("passive\n", "passive\n neighbor 10.0.3.2 bfd\n"),
        (
            "router bgp 65010",
            "bfd\n peer 10.0.3.2\n  detect-multiplier 3\n  receive-interval 200\n  transmit-interval 200\n!\nrouter bgp 65010",
        ),
    ],
    guard: &[BFD_ON, ("ttl_security = true", "")],
    daemon: "bfdd",
    bfd: ("vtysh -c 'show bfd peers'", "Status: up"),
    bgp: ("vtysh -c 'show bgp neighbors 10.0.3.2'", "BGP state = Established"),
};

/// FRR's bgpd wants multihop BFD of an external peer with GTSM, and heeds no other.
const FRR_GTSM: Router = Router {
    edits: &[
        ("timers 3 9", "timers 30 90"),
        ("passive\n", "passive\n neighbor 10.0.3.2 bfd\n"),
        (
            "router bgp 65010",
            "bfd\n peer 10.0.3.2 multihop local-address 10.0.3.1\n  detect-multiplier 3\n  receive-interval 200\n  \
             transmit-interval 200\n!\nrouter bgp 65010",
        ),
    ],
    guard: &[BFD_ON, ("bfd = true", "bfd = true\nbfd_multihop = true")],
    ..FRR
};

const BIRD: Router = Router {
    lab: "lab/bird/bird.clab.yml",
    file: "/etc/bird/bird.conf",
    edits: &[
        ("hold time 9;\n  keepalive time 3;", "hold time 90;\n  keepalive time 30;"),
        ("error wait time 0, 0;", "error wait time 1, 2; connect retry time 2; connect delay time 1;\n  bfd on;"),
        (
            "protocol bgp guard",
            "protocol bfd { interface \"*\" { interval 200 ms; multiplier 3; }; }\nprotocol bgp guard",
        ),
    ],
    guard: &[BFD_ON],
    daemon: "bird",
    bfd: ("birdc show bfd sessions", "Up"),
    bgp: ("birdc show protocols guard", "Established"),
};

fn edit(node: &Node, file: &str, edits: &[(&str, &str)]) {
    let mut text = node.file(file).unwrap();
    for (from, to) in edits {
        assert!(text.contains(from), "{from:?} is not in {file}");
        text = text.replace(from, to);
    }
    node.write(file, &text).unwrap();
}

/// A lab whose router has BFD, and a guard that has it too.
struct World {
    lab: Lab,
    router: &'static Router,
}

impl World {
    fn up(router: &'static Router) -> Self {
        let lab = Lab::builder(router.lab)
            .destguard(env!("CARGO_BIN_EXE_destguard"))
            .hold("router")
            .hold("guard")
            .up()
            .unwrap();
        let node = lab.node("router");
        edit(node, router.file, router.edits);
        edit(lab.node("guard"), CONFIG, router.guard);
        node.start().unwrap();
        lab.node("guard").start().unwrap();
        let world = Self { lab, router };
        world.both_up();
        // FRR 8.4 takes a session over one hop down once more, right after BGP has come up.
        let settled = || world.peer()["bfd"]["since_seconds"].as_u64().is_some_and(|since| since >= 3);
        assert!(wait_until(LONG, settled), "{:#}", world.peer());
        world.both_up();
        world
    }

    fn failures(&self) -> u64 {
        self.peer()["bfd"]["failures"].as_u64().unwrap()
    }

    fn peer(&self) -> Value {
        let guard = self.lab.node("guard");
        let output = guard.command(env!("CARGO_BIN_EXE_destguard")).args(["peers", "--json"]).output().unwrap();
        let all: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        all["peers"][0].clone()
    }

    fn router_says(&self, (command, text): (&str, &str)) -> bool {
        let output = self.lab.node("router").run(command).unwrap();
        String::from_utf8_lossy(&output.stdout).contains(text)
    }

    fn both_up(&self) {
        let met = wait_until(LONG, || {
            let peer = self.peer();
            peer["state"] == "Established"
                && peer["bfd"]["state"] == "Up"
                && peer["bfd"]["remote_state"] == "Up"
                && peer["bfd"]["detection_ms"] == 600
                && self.router_says(self.router.bfd)
                && self.router_says(self.router.bgp)
        });
        assert!(met, "not up: {:#}\n{}", self.peer(), self.lab.logs());
        assert_eq!(self.peer()["bfd"]["discarded"], 0);
    }

    /// Waits until the guard has lost the session, which must be long before the hold time; returns what it says.
    fn lost(&self, since: Instant, failures: u64) -> String {
        let met = wait_until(SOON, || self.peer()["bfd"]["failures"] == failures);
        assert!(met, "not noticed: {:#}\n{}", self.peer(), self.lab.logs());
        println!("noticed within {:?}", since.elapsed());
        let peer = self.peer();
        peer["last_error"].as_str().unwrap_or_default().to_owned()
    }
}

fn silence_is_noticed(router: &'static Router) {
    let world = World::up(router);
    let (node, guard) = (world.lab.node("router"), world.lab.node("guard"));

    // A router that freezes.
    let failures = world.failures();
    let since = Instant::now();
    node.signal(router.daemon, libc::SIGSTOP).unwrap();
    let why = world.lost(since, failures + 1);
    assert!(why.starts_with("BFD down: control detection time expired"), "{why}");
    let shown = guard.ok(&format!("{} peers", env!("CARGO_BIN_EXE_destguard"))).unwrap();
    assert!(shown.contains("BFD down: control detection time expired"), "{shown}");
    node.signal(router.daemon, libc::SIGCONT).unwrap();
    world.both_up();

    // A guard that freezes.
    guard.signal("destguard", libc::SIGSTOP).unwrap();
    let noticed = wait_until(SOON, || !world.router_says(router.bgp));
    guard.signal("destguard", libc::SIGCONT).unwrap();
    assert!(noticed, "the router kept the session of a frozen guard: {}", world.lab.logs());
    world.both_up();

    // A network that swallows everything.
    let failures = world.failures();
    let since = Instant::now();
    node.ok("ip link set eth3 down").unwrap();
    let why = world.lost(since, failures + 1);
    assert!(why.contains("BFD down: control detection time expired"), "{why}");
    node.ok("ip link set eth3 up").unwrap();
    world.both_up();
}

#[test]
fn frr_and_the_guard_notice_silence() {
    silence_is_noticed(&FRR);
}

#[test]
fn frr_with_gtsm_and_the_guard_notice_silence() {
    silence_is_noticed(&FRR_GTSM);
}

#[test]
fn bird_and_the_guard_notice_silence() {
    silence_is_noticed(&BIRD);
}
