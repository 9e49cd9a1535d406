//! A gateway whose clients keep addresses: names that are kept open for them, and programs that connect beyond a lease's end. In network namespaces; needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use lab::dns::{self, Answer, Server};
use lab::tcp::{self, EchoServer};
use lab::{Lab, wait_until};
use serde_json::Value;

const CONFIG: &str = "/etc/destguard/destguard.toml";
const DESTGUARD: &str = env!("CARGO_BIN_EXE_destguard");
const PORT: u16 = 80;
const LONG: Duration = Duration::from_secs(60);

struct World {
    lab: Lab,
    dns: Server,
    _echo: EchoServer,
}

impl World {
    /// Leases of one second and no grace, with these keys beside them.
    fn up(keys: &str, names: &[(&str, u8)]) -> Self {
        let lab = Lab::builder("lab/gateway/gateway.clab.yml").destguard(DESTGUARD).hold("gateway").up().unwrap();
        let internet = lab.node("internet");
        let upstreams = ["192.0.2.53:53", "[2001:db8:53::53]:53"].map(|at| at.parse().unwrap());
        let dns = Server::start(internet, &upstreams).unwrap();
        let echo = EchoServer::start(internet, PORT).unwrap();
        for (name, last) in names {
            dns.set_addresses(name, 1, &[IpAddr::from([203, 0, 113, *last])]);
        }
        let gateway = lab.node("gateway");
        let text = gateway.file(CONFIG).unwrap();
        let text = text.replace("[lease]", &format!("[lease]\nmin = \"1s\"\ngrace = \"1s\"\n{keys}"));
        gateway.write(CONFIG, &format!("{text}\n[http]\nlisten = [\"127.0.0.1:8080\"]\n")).unwrap();
        gateway.start().unwrap();
        let world = Self { lab, dns, _echo: echo };
        assert!(wait_until(LONG, || world.status()["state"] == "enforcing"), "{}", world.lab.logs());
        world
    }

    fn json(&self, words: &[&str]) -> Value {
        let output = self.lab.node("gateway").command(DESTGUARD).args(words).arg("--json").output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    fn status(&self) -> Value {
        self.json(&["status"])
    }

    fn ask(&self, name: &str) -> Answer {
        let server: SocketAddr = "10.0.1.1:53".parse().unwrap();
        let ask = || dns::ask(server, name, dns::A, Duration::from_secs(5));
        self.lab.node("client").in_namespace(ask).unwrap().unwrap()
    }

    fn connects(&self, last: u8, within: Duration) -> bool {
        let to = IpAddr::from([203, 0, 113, last]);
        self.lab.node("client").in_namespace(|| tcp::connect(to, PORT, within)).unwrap().is_ok()
    }

    fn is_leased(&self, last: u8) -> bool {
        self.json(&["explain", &format!("203.0.113.{last}")])["open"] == true
    }

    fn metric(&self, series: &str) -> u64 {
        let text = self.lab.node("gateway").ok("curl -s http://127.0.0.1:8080/metrics").unwrap();
        let line = text.lines().find(|line| line.starts_with(series)).map(str::to_owned);
        line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }
}

#[test]
fn a_preloaded_name_is_open_before_anybody_asks_and_stays_so() {
    let world = World::up("preload = [\"updates.test\", \"gone.test\"]\n", &[("updates.test", 31)]);
    assert!(wait_until(LONG, || world.is_leased(31)), "{}", world.lab.logs());
    // Longer than several of its leases.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(25) {
        // Asked for again within its grace: a TTL of a second is shorter than what is asked for at most, so it may be closed for a moment.
        assert!(wait_until(Duration::from_secs(10), || world.connects(31, Duration::from_millis(300))));
    }
    let warnings = world.status()["warnings"].to_string();
    assert!(warnings.contains("gone.test isn't kept open") && !warnings.contains("updates.test"), "{warnings}");

    // Taken out by a reload, it closes with its lease.
    let gateway = world.lab.node("gateway");
    gateway.write(CONFIG, &gateway.file(CONFIG).unwrap().replace("\"updates.test\", \"gone.test\"", "")).unwrap();
    gateway.ok(&format!("{DESTGUARD} reload")).unwrap();
    assert!(wait_until(LONG, || !world.is_leased(31)), "{}", world.lab.logs());
    assert!(!world.status()["warnings"].to_string().contains("gone.test"));
}

/// Until its lease is over, in the kernel too.
fn outlive(world: &World, last: u8) {
    let address = format!("203.0.113.{last}");
    let gateway = world.lab.node("gateway");
    let is_set = || gateway.ok("nft list table inet destguard").unwrap().contains(&address);
    assert!(wait_until(LONG, || !world.is_leased(last) && !is_set()), "{}", world.lab.logs());
}

#[test]
fn without_it_an_address_that_is_kept_beyond_its_lease_is_refused() {
    let world = World::up("", &[("pool.test", 32)]);
    assert_eq!(world.ask("pool.test").addresses().len(), 1);
    outlive(&world, 32);
    assert!(!world.connects(32, Duration::from_secs(6)), "{}", world.lab.logs());
}

#[test]
fn a_program_that_keeps_its_address_goes_on_while_the_name_leads_there() {
    let world = World::up("revalidate = true\n", &[("pool.test", 33), ("moves.test", 34)]);
    world.ask("pool.test");
    outlive(&world, 33);
    // The first attempt is refused; as programs do, another follows.
    assert!(wait_until(LONG, || world.connects(33, Duration::from_secs(1))), "{}", world.lab.logs());
    assert!(wait_until(LONG, || world.metric("destguard_lease_revalidations_total{outcome=\"opened\"}") == 1));

    // The name has moved: what it left stays closed.
    world.ask("moves.test");
    outlive(&world, 34);
    world.dns.set_addresses("moves.test", 1, &[IpAddr::from([203, 0, 113, 35])]);
    assert!(!world.connects(34, Duration::from_secs(6)), "{}", world.lab.logs());
    assert!(wait_until(LONG, || world.metric("destguard_lease_revalidations_total{outcome=\"moved\"}") == 1));
    assert!(!world.connects(34, Duration::from_secs(1)), "{}", world.lab.logs());

    // What no name ever opened, and what the operator took back, isn't asked about.
    assert!(!world.connects(36, Duration::from_secs(4)));
    world.dns.set_addresses("back.test", 600, &[IpAddr::from([203, 0, 113, 37])]);
    world.ask("back.test");
    world.json(&["revoke", "203.0.113.37"]);
    assert!(!world.connects(37, Duration::from_secs(4)), "{}", world.lab.logs());
}
