//! Groups of clients on a real router: BIRD takes each group's routes into a table of its own, by the communities that the guard
//! gives them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use lab::dns::{self, Server};
use lab::tcp::{self, EchoServer};
use lab::{Lab, wait_until};
use serde_json::Value;

const CONFIG: &str = "/etc/destguard/destguard.toml";
const BIRD: &str = "/etc/bird/bird.conf";
const PORT: u16 = 80;
const FIRST_SYN: Duration = Duration::from_millis(300);
const ANSWER: Duration = Duration::from_secs(5);
const LONG: Duration = Duration::from_secs(60);

/// The comment in the router's file says which packets look where.
const GROUPS_CONF: &str = include_str!("../lab/bird/router/groups.conf");

const GROUPS: &str = r#"
[[policy.group]]
name = "red"
clients = ["10.0.1.0/24"]
communities = ["64512:101"]

[[policy.group]]
name = "blue"
clients = ["10.0.4.0/24"]
communities = ["64512:0:102"]
"#;

struct World {
    dns: Server,
    _echo: EchoServer,
    lab: Lab,
}

impl World {
    fn up() -> Self {
        let lab = Lab::builder("lab/bird/bird.clab.yml")
            .destguard(env!("CARGO_BIN_EXE_destguard"))
            .hold("guard")
            .hold("router")
            .up()
            .unwrap();
        let upstreams = ["192.0.2.53:53", "[2001:db8:53::53]:53"].map(|at| at.parse().unwrap());
        let dns = Server::start(lab.node("internet"), &upstreams).unwrap();
        let echo = EchoServer::start(lab.node("internet"), PORT).unwrap();
        let router = lab.node("router");
        for line in GROUPS_CONF.lines().filter_map(|line| line.strip_prefix("#   ")) {
            router.ok(line).unwrap();
        }
        router.write(BIRD, &format!("{}\n{GROUPS_CONF}", router.file(BIRD).unwrap())).unwrap();
        router.start().unwrap();
        let guard = lab.node("guard");
        let text = guard.file(CONFIG).unwrap();
        let short = [("[lease]\n", "[lease]\nmin = \"2s\"\ngrace = \"1s\"\n"), ("linger = \"10m\"", "linger = \"2s\"")];
        let text = short.iter().fold(text, |text, (from, to)| {
            assert!(text.contains(from), "{from:?} is not in {CONFIG}");
            text.replace(from, to)
        });
        guard.write(CONFIG, &format!("{text}{GROUPS}")).unwrap();
        guard.start().unwrap();
        let world = Self { dns, _echo: echo, lab };
        world.wait_for_session();
        world
    }

    fn wait_for_session(&self) {
        let established = || self.ask_guard(&["peers"])["peers"][0]["state"] == "Established";
        assert!(wait_until(LONG, established), "no session: {}", self.lab.logs());
    }

    fn ask_guard(&self, words: &[&str]) -> Value {
        let guard = self.lab.node("guard");
        let output = guard.command(env!("CARGO_BIN_EXE_destguard")).args(words).arg("--json").output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    fn resolve(&self, node: &str, name: &str) -> Vec<IpAddr> {
        let server = SocketAddr::from(([10, 0, 3, 2], 53));
        let ask = || dns::ask(server, name, dns::A, ANSWER);
        self.lab.node(node).in_namespace(ask).unwrap().unwrap().addresses()
    }

    fn connects(&self, node: &str, to: IpAddr) -> bool {
        self.lab.node(node).in_namespace(|| tcp::connect(to, PORT, FIRST_SYN)).unwrap().is_ok()
    }

    /// Red and blue.
    fn reaches(&self, to: IpAddr) -> (bool, bool) {
        (self.connects("client", to), self.connects("client2", to))
    }

    fn groups(&self, address: IpAddr) -> Value {
        self.ask_guard(&["leases", &address.to_string()])["leases"][0]["groups"].clone()
    }
}

#[test]
fn what_a_group_asked_for_is_open_for_that_group_only() {
    let world = World::up();
    let address = IpAddr::from([203, 0, 113, 80]);
    let name = "www.example.test";
    world.dns.set_addresses(name, 12, &[address]);
    assert_eq!(world.reaches(address), (false, false), "open although nobody asked");
    assert_eq!(world.resolve("client", name), [address]);
    let red_asked = Instant::now();
    assert!(world.connects("client", address), "red's first packet is lost: {}", world.lab.logs());
    assert!(!world.connects("client2", address), "blue did not ask");
    assert_eq!(world.groups(address), serde_json::json!(["red"]));

    // Asked later by blue too, with a TTL that outlives red's: a hit in nobody's cache, since blue's table lacks the route.
    std::thread::sleep(Duration::from_secs(6).saturating_sub(red_asked.elapsed()));
    world.dns.set_addresses(name, 60, &[address]);
    assert_eq!(world.resolve("client2", name), [address]);
    assert!(world.connects("client2", address), "blue's first packet is lost: {}", world.lab.logs());
    assert!(world.connects("client", address), "red still has it");
    assert_eq!(world.groups(address), serde_json::json!(["red", "blue"]));
    let why = world.ask_guard(&["explain", &address.to_string()])["addresses"][0].clone();
    let groups: Vec<_> = why["groups"].as_array().unwrap().iter().map(|group| &group["in_force"]).collect();
    assert_eq!(groups, [&Value::Bool(true), &Value::Bool(true)], "{why}");

    // Red's ends: 12 s TTL + 1 s grace + 2 s linger; blue never loses it meanwhile.
    while world.connects("client", address) {
        assert!(world.connects("client2", address), "blue lost it with red: {}", world.lab.logs());
        assert!(red_asked.elapsed() < LONG, "red keeps it: {}", world.lab.logs());
    }
    assert!(red_asked.elapsed() >= Duration::from_millis(14_500), "red lost it early: {:?}", red_asked.elapsed());
    assert_eq!(world.reaches(address), (false, true), "{}", world.lab.logs());
    assert_eq!(world.groups(address), serde_json::json!(["blue"]));

    // A crash: the new process says the same of it, before anybody asks.
    let guard = world.lab.node("guard");
    guard.kill();
    guard.start().unwrap();
    world.wait_for_session();
    let settled = || world.groups(address) == serde_json::json!(["blue"]);
    assert!(wait_until(LONG, settled), "{}", world.lab.logs());
    assert_eq!(world.reaches(address), (false, true), "after a restart: {}", world.lab.logs());

    // Blue's clients become red's: the route follows them.
    let text = guard.file(CONFIG).unwrap();
    let moved = text.replace("\"10.0.1.0/24\"", "\"10.0.9.0/24\"").replace("64512:0:102", "64512:101");
    guard.write(CONFIG, &moved).unwrap();
    guard.ok(&format!("{} reload", env!("CARGO_BIN_EXE_destguard"))).unwrap();
    let follows = || world.reaches(address) == (true, false);
    assert!(wait_until(LONG, follows), "the route bears what it bore: {}", world.lab.logs());
}

#[test]
fn the_generated_router_configuration_has_a_table_for_each_group() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("destguard.toml");
    let own = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/lab/bird/guard/destguard.toml")).unwrap();
    std::fs::write(&config, format!("{own}{GROUPS}")).unwrap();
    let generated = |kind: &str| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_destguard"))
            .args(["router-config", kind, "--config"])
            .arg(&config)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let text = generated("bird");
    let file = dir.path().join("bird.conf");
    std::fs::write(&file, &text).unwrap();
    let parsed = std::process::Command::new("bird").arg("-p").arg("-c").arg(&file).output().unwrap();
    assert!(parsed.status.success(), "{}\n{text}", String::from_utf8_lossy(&parsed.stderr));
    for line in [
        "export where source = RTS_BGP && (64512, 101) ~ bgp_community;",
        "export where source = RTS_BGP && (64512, 0, 102) ~ bgp_large_community;",
        "kernel table 102; ipv6 { table destguard_blue6;",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
    let text = generated("frr");
    assert!(text.contains("bgp large-community-list standard DESTGUARD-BLUE permit 64512:0:102"), "{text}");
    assert!(generated("junos").contains("#   red: 64512:101"));
}
