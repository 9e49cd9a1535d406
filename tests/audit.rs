//! A guard that is switched between audit and enforcement by a reload, while clients live behind it: the real daemon with the kernel's packet filter, and
//! beside a real router.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use lab::dns::{self, Answer, Server};
use lab::routes::Monitor;
use lab::tcp::{self, EchoServer};
use lab::{Lab, wait_until};
use serde_json::Value;

const CONFIG: &str = "/etc/destguard/destguard.toml";
const DESTGUARD: &str = env!("CARGO_BIN_EXE_destguard");
const PORT: u16 = 80;
const LONG: Duration = Duration::from_secs(60);
/// Less than the second after which Linux sends a lost SYN again.
const FIRST_SYN: Duration = Duration::from_millis(300);
const NAMES: [(&str, u8); 3] = [("one.test", 31), ("bad.test", 32), ("later.test", 33)];
const INSIDE: &str = "10.1.2.3";

struct World {
    lab: Lab,
    _dns: Server,
    _echo: EchoServer,
    guard: &'static str,
    /// The configuration without `mode`.
    config: String,
}

impl World {
    /// In audit, with a name that is denied and one whose address is filtered.
    fn up(topology: &str, guard: &'static str) -> Self {
        let lab = Lab::builder(topology).destguard(DESTGUARD).hold(guard).up().unwrap();
        let internet = lab.node("internet");
        let upstreams = ["192.0.2.53:53", "[2001:db8:53::53]:53"].map(|at| at.parse().unwrap());
        let dns = Server::start(internet, &upstreams).unwrap();
        let echo = EchoServer::start(internet, PORT).unwrap();
        for (name, last) in NAMES {
            dns.set_addresses(name, 600, &[address(last)]);
        }
        dns.set_addresses("inside.test", 600, &[INSIDE.parse().unwrap()]);
        let config = format!("{}\n[policy]\ndeny = [\"bad.test\"]\n", lab.node(guard).file(CONFIG).unwrap());
        let world = Self { lab, _dns: dns, _echo: echo, guard, config };
        world.write("audit");
        world.lab.node(guard).start().unwrap();
        world.reads("audit");
        world
    }

    fn write(&self, mode: &str) {
        let text = format!("mode = \"{mode}\"\n{}", self.config);
        self.lab.node(self.guard).write(CONFIG, &text).unwrap();
    }

    fn reads(&self, state: &str) {
        let is = || self.read("status")["state"] == state;
        assert!(wait_until(LONG, is), "not {state}: {}\n{}", self.read("status"), self.lab.logs());
    }

    /// By a reload.
    fn switch(&self, mode: &str) {
        self.write(mode);
        let told = self.lab.node(self.guard).ok(&format!("{DESTGUARD} reload")).unwrap();
        assert!(told.contains("mode: ") && told.contains("applied"), "{told}");
    }

    fn read(&self, command: &str) -> Value {
        let output = self.lab.node(self.guard).command(DESTGUARD).args([command, "--json"]).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    fn ask(&self, name: &str) -> Answer {
        let server: SocketAddr = if self.guard == "gateway" { "10.0.1.1:53" } else { "10.0.3.2:53" }.parse().unwrap();
        let ask = || dns::ask(server, name, dns::A, Duration::from_secs(5));
        self.lab.node("client").in_namespace(ask).unwrap().unwrap()
    }

    fn connects(&self, to: IpAddr) -> bool {
        self.lab.node("client").in_namespace(|| tcp::connect(to, PORT, FIRST_SYN)).unwrap().is_ok()
    }

    /// A flow that stays.
    fn flow(&self, to: IpAddr) -> TcpStream {
        let open = || TcpStream::connect_timeout(&SocketAddr::new(to, PORT), Duration::from_secs(5));
        self.lab.node("client").in_namespace(open).unwrap().unwrap()
    }

    fn leased(&self) -> Vec<(String, String)> {
        let leases = self.read("leases")["leases"].clone();
        let lease = |lease: &Value| (lease["address"].to_string(), lease["enforcers"].to_string());
        leases.as_array().unwrap().iter().map(lease).collect()
    }

    /// What was noted of this, as audit or not.
    fn noted(&self, what: &str, audit: bool) -> bool {
        let denied = self.read("denied")["denied"].clone();
        let entry = |entry: &Value| entry["what"].as_str().unwrap().starts_with(what) && entry["audit"] == audit;
        denied.as_array().unwrap().iter().any(entry)
    }
}

fn address(last: u8) -> IpAddr {
    IpAddr::from([203, 0, 113, last])
}

fn lives(flow: &mut TcpStream) -> bool {
    tcp::ping(flow, b"still here", Duration::from_secs(5)).is_ok()
}

#[test]
fn a_gateway_is_switched_both_ways_and_keeps_leases_and_flows() {
    let world = World::up("lab/gateway/gateway.clab.yml", "gateway");
    let [one, bad, later] = NAMES.map(|(_, last)| address(last));
    let shown = world.lab.node("gateway").ok(&format!("{DESTGUARD} status")).unwrap();
    assert!(shown.contains("AUDIT (nothing is blocked): mode = \"audit\""), "{shown}");
    assert_eq!(world.ask("one.test").addresses(), [one]);
    assert_eq!(world.ask("bad.test").addresses(), [bad], "nothing is denied");
    assert_eq!(world.ask("inside.test").addresses(), [INSIDE.parse::<IpAddr>().unwrap()], "nothing is filtered");
    assert!(world.connects(one) && world.connects(bad) && world.connects(later), "nothing is blocked");
    assert!(world.noted("bad.test A", true) && world.noted("inside.test A", true) && !world.noted("one.test", true));
    for last in [bad, later] {
        let packet = || world.noted(&format!("{last} tcp/{PORT}"), true);
        assert!(wait_until(LONG, packet), "{}", world.read("denied"));
    }
    let text = world.lab.node("gateway").ok(&format!("{DESTGUARD} denied")).unwrap();
    assert!(text.contains("would deny: policy: bad.test (policy.deny[0])"), "{text}");
    // What went to an address that a denied name led to isn't used without DNS.
    let suggested = world.read("suggest")["addresses"].clone();
    let used = |last: IpAddr| {
        let found = suggested.as_array().unwrap().iter().find(|used| used["address"] == last.to_string());
        found.unwrap_or_else(|| panic!("{last}: {suggested}")).clone()
    };
    assert_eq!((&used(bad)["name"], &used(later)["name"]), (&"bad.test".into(), &Value::Null), "{suggested}");
    assert_eq!(used(later)["ports"], serde_json::json!([format!("tcp/{PORT}")]));
    let leased =
        || wait_until(LONG, || world.leased() == [(format!("\"{one}\""), "{\"nftables\":\"open\"}".to_owned())]);
    assert!(leased(), "{:?}", world.leased());
    let (mut good, mut denied) = (world.flow(one), world.flow(bad));
    let set = "nft list set inet destguard lease4";
    let kept = || world.lab.node("gateway").ok(set).unwrap().contains(&one.to_string());
    assert!(kept());

    for _ in 0..2 {
        world.switch("enforce");
        world.reads("enforcing");
        assert!(kept() && leased(), "the lease stays");
        assert!(lives(&mut good) && lives(&mut denied), "flows stay");
        assert!(world.connects(one), "what was leased in audit is in force");
        assert!(!world.connects(bad) && !world.connects(later), "what was not is closed");
        assert_eq!(world.ask("bad.test").rcode(), dns::NXDOMAIN, "what is kept of the audit is not served");
        assert_eq!((world.ask("inside.test").addresses().len(), world.ask("one.test").addresses()), (0, vec![one]));
        assert!(wait_until(LONG, || world.noted(&format!("{bad} tcp/{PORT}"), false)), "{}", world.read("denied"));

        world.switch("audit");
        world.reads("audit");
        assert!(kept() && leased(), "the lease stays");
        assert!(lives(&mut good) && lives(&mut denied), "flows stay");
        assert_eq!(world.ask("bad.test").addresses(), [bad], "nor what is kept of the enforcement");
        assert!(world.connects(one) && world.connects(bad) && world.connects(later));
    }

    // A key of the enforcer alone: names are denied, packets pass.
    let enforce = world.config.replace("[nftables]\n", "[nftables]\nenforce = false\n");
    world.lab.node("gateway").write(CONFIG, &enforce).unwrap();
    let told = world.lab.node("gateway").ok(&format!("{DESTGUARD} reload")).unwrap();
    assert!(told.contains("nftables.enforce: true -> false"), "{told}");
    assert_eq!(world.ask("bad.test").rcode(), dns::NXDOMAIN);
    assert!(world.connects(bad) && lives(&mut good));
}

#[test]
fn beside_a_router_sessions_stay_and_routes_come_and_go_with_the_mode() {
    let world = World::up("lab/bird/bird.clab.yml", "guard");
    let routes = Monitor::start(world.lab.node("router")).unwrap();
    let peer = || world.read("peers")["peers"][0].clone();
    assert!(wait_until(LONG, || peer()["state"] == "Established"), "{}\n{}", peer(), world.lab.logs());
    let [one, bad, later] = NAMES.map(|(_, last)| address(last));
    assert_eq!((world.ask("one.test").addresses(), world.ask("bad.test").addresses()), (vec![one], vec![bad]));
    let audit = (format!("\"{one}\""), "{\"router\":\"audit\"}".to_owned());
    assert!(wait_until(LONG, || world.leased() == [audit.clone()]), "{:?}", world.leased());
    let told = |advertised: u64, would: Value| {
        let is = || {
            let peer = peer();
            (peer["advertised"]["ipv4"] == advertised, peer["would_advertise"]["ipv4"] == would) == (true, true)
        };
        assert!(wait_until(LONG, is), "{}", peer());
        assert_eq!((&peer()["state"], &peer()["sessions"]), (&Value::from("Established"), &Value::from(1)));
    };
    told(0, Value::from(1));
    assert!(routes.last(one, true).is_none(), "nothing is announced");
    let shown = world.lab.node("guard").ok(&format!("{DESTGUARD} peers")).unwrap();
    assert!(shown.contains("0 (audit: 1)"), "{shown}");

    for round in 1..=2 {
        world.switch("enforce");
        world.reads("enforcing");
        // Also what was answered in audit: its answer leaves when the route is there.
        assert_eq!(world.ask("one.test").addresses(), [one]);
        assert!(world.connects(one), "{}", world.lab.logs());
        assert_eq!(world.ask("later.test").addresses(), [later]);
        assert!(world.connects(later), "{}", world.lab.logs());
        assert_eq!(world.ask("bad.test").rcode(), dns::NXDOMAIN);
        told(2, Value::Null);

        world.switch("audit");
        world.reads("audit");
        told(0, Value::from(2));
        assert!(wait_until(LONG, || routes.last(one, false) > routes.last(one, true)), "round {round}: withdrawn");
        assert_eq!(world.ask("bad.test").addresses(), [bad]);
        assert_eq!(world.leased().len(), 2);
    }
}
