//! A guard whose routes reach the routers that forward through a route reflector (FRR, BIRD): clients behind an FRR edge and a BIRD edge that
//! resolve and connect at once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use lab::dns::server::{many_v4, many_v6};
use lab::dns::{self, Asker, Server};
use lab::tcp::{self, EchoServer};
use lab::{Lab, wait_until};
use serde_json::Value;

const FRR: &str = "lab/reflector/reflector.clab.yml";
const BIRD: &str = "tests/interop/reflector-bird.clab.yml";
const CONFIG: &str = "/etc/destguard/destguard.toml";
const BINARY: &str = env!("CARGO_BIN_EXE_destguard");
const PORT: u16 = 80;
/// Less than the second after which Linux sends a lost SYN again.
const FIRST_SYN: Duration = Duration::from_millis(300);
/// For an answer on a machine that is busy.
const ANSWER: Duration = Duration::from_secs(5);
const LONG: Duration = Duration::from_secs(60);
const CLIENTS: [&str; 2] = ["client1", "client2"];

/// In place of the second edge's entry: a session with it, on which it sends what it has in force.
const WATCH: [(&str, &str); 3] = [
    ("forwards = false", "forwards = false\nobservers = [\"watch2\"]"),
    (
        "[[bgp.edge]]\nname = \"edge2\"\naddress = \"10.0.3.12\"\nlocal_address = \"10.0.3.2\"\n",
        "[[bgp.peer]]\nname = \"watch2\"\naddress = \"10.0.3.12\"\nasn = 65010\nlocal_address = \"10.0.3.2\"\n\
         password = \"lab-secret\"\nhold_time = \"9s\"\nrole = \"observer\"\n",
    ),
    ("linger = \"10m\"", "linger = \"10m\"\nno_export = false"),
];

struct World {
    _dns: Server,
    _echo: EchoServer,
    lab: Lab,
}

impl World {
    fn up(file: &str, edits: &[(&str, &str)]) -> Self {
        let lab = Lab::builder(file).destguard(BINARY).hold("guard").up().unwrap();
        let internet = lab.node("internet");
        let upstreams = ["192.0.2.53:53", "[2001:db8:53::53]:53"].map(|at| at.parse().unwrap());
        let dns = Server::start(internet, &upstreams).unwrap();
        let echo = EchoServer::start(internet, PORT).unwrap();
        let mut text = lab.node("guard").file(CONFIG).unwrap();
        for (from, to) in edits {
            assert!(text.contains(from), "{from:?} is not in {CONFIG}");
            text = text.replace(from, to);
        }
        text = text.replace("[bgp]\n", "[http]\nlisten = [\"10.0.3.2:8080\"]\n\n[bgp]\n");
        lab.node("guard").write(CONFIG, &text).unwrap();
        lab.node("guard").start().unwrap();
        let world = Self { _dns: dns, _echo: echo, lab };
        // Both edges have their sessions with the reflector: what nobody announces anew would come late else.
        let fed = || {
            let frr = world.lab.node("edge1").ok("vtysh -c 'show bgp summary json'").unwrap_or_default();
            let bird = world.lab.node("edge2").ok("birdc show protocols reflector").unwrap_or_default();
            frr.contains("\"state\":\"Established\"") && bird.contains("Established")
        };
        assert!(wait_until(LONG, fed), "the edges have no session: {}", world.lab.logs());
        let enforcing = || world.ask_guard("status")["state"] == "enforcing";
        assert!(wait_until(LONG, enforcing), "{}\n{}", world.ask_guard("status"), world.lab.logs());
        world
    }

    fn ask_guard(&self, command: &str) -> Value {
        let guard = self.lab.node("guard");
        let output = guard.command(BINARY).args([command, "--json"]).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    fn resolve(&self, client: &str, name: &str, rtype: u16) -> dns::Answer {
        self.lab.node(client).in_namespace(|| dns::ask(server(rtype), name, rtype, ANSWER)).unwrap().unwrap()
    }

    fn connects(&self, client: &str, to: IpAddr) -> bool {
        self.lab.node(client).in_namespace(|| tcp::connect(to, PORT, FIRST_SYN)).unwrap().is_ok()
    }

    fn metrics(&self) -> String {
        let get = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect("10.0.3.2:8080")?;
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: 10.0.3.2:8080\r\nConnection: close\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        self.lab.node("guard").in_namespace(get).unwrap().unwrap_or_default()
    }

    /// Of `count` names: one client asks, and both connect at once, each through its own edge. Those whose first SYN was lost.
    fn lost(&self, rtype: u16, count: u32) -> Vec<String> {
        let mut lost = Vec::new();
        for number in 0..count {
            let name = format!("n{number}.many.test");
            let answer = self
                .lab
                .node(CLIENTS[number as usize % 2])
                .in_namespace(|| Asker::new(server(rtype)).unwrap().ask(&name, rtype, ANSWER).unwrap());
            let answer = answer.unwrap();
            let address = many(rtype, number);
            assert_eq!(answer.addresses(), [address], "{name}: {:?}\n{}", answer.message, self.lab.logs());
            std::thread::scope(|scope| {
                let tries = CLIENTS.map(|client| (client, scope.spawn(move || self.connects(client, address))));
                for (client, tried) in tries {
                    if !tried.join().unwrap() {
                        lost.push(format!("{name} {address} from {client}"));
                    }
                }
            });
        }
        lost
    }
}

fn many(rtype: u16, number: u32) -> IpAddr {
    if rtype == dns::AAAA { many_v6(number).into() } else { many_v4(number).into() }
}

fn server(rtype: u16) -> SocketAddr {
    if rtype == dns::AAAA { "[fd00:3::2]:53" } else { "10.0.3.2:53" }.parse().unwrap()
}

#[test]
fn the_lab_is_configured_without_a_warning() {
    let config = format!("{}/lab/reflector/guard/destguard.toml", env!("CARGO_MANIFEST_DIR"));
    let check = Command::new(BINARY).args(["check", "--config", &config]).output().unwrap();
    assert!(check.status.success() && check.stderr.is_empty(), "{}", String::from_utf8_lossy(&check.stderr));
}

fn no_first_syn_is_lost(file: &str, edits: &[(&str, &str)], names: u32) {
    let world = World::up(file, edits);
    for (client, rtype) in [("client1", dns::A), ("client2", dns::AAAA)] {
        assert!(!world.connects(client, many(rtype, names)), "open although nobody asked");
    }
    let lost: Vec<String> = [dns::A, dns::AAAA].into_iter().flat_map(|rtype| world.lost(rtype, names)).collect();
    assert!(lost.is_empty(), "{} lost: {lost:#?}\n{}", lost.len(), world.lab.logs());
    let peers = world.ask_guard("peers");
    for peer in peers["peers"].as_array().unwrap() {
        eprintln!(
            "{file} {}: {} confirmed within {} ms (median)",
            peer["name"], peer["confirm"], peer["confirm_latency_ms"]
        );
        assert_eq!((&peer["unconfirmed"], &peer["required"]), (&Value::Null, &Value::Bool(true)), "{peer}");
    }
    let metrics = world.metrics();
    let counted = |name: &str| metrics.contains(&format!("destguard_bgp_confirm_seconds_count{{peer=\"{name}\"}} "));
    assert!(counted("edge1"), "{metrics}");
}

#[test]
fn behind_frr_no_first_syn_is_lost_on_either_edge() {
    no_first_syn_is_lost(FRR, &[], 200);
}

#[test]
fn behind_bird_no_first_syn_is_lost_on_either_edge() {
    no_first_syn_is_lost(BIRD, &[], 200);
}

/// One edge is probed, the other one sends what it has on a session of its own.
#[test]
fn an_observer_on_an_edge_is_as_good_as_probes() {
    no_first_syn_is_lost(BIRD, &WATCH, 50);
}

/// So that the tests above can fail, and why the reflector's own word is refused: nobody waits for the edges.
#[test]
fn the_reflectors_word_alone_loses_first_syns() {
    let nobody_waits = [(
        "local_address = \"10.0.3.2\"\n\n[[bgp.edge]]",
        "local_address = \"10.0.3.2\"\nrequired = false\n\n[[bgp.edge]]",
    )];
    let path = format!("{}/lab/reflector/guard/destguard.toml", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let alone = text.split("# Who forwards:").next().unwrap().to_owned() + "[addresses]\ninside = []\n";
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), alone).unwrap();
    let check = Command::new(BINARY).args(["check", "--config"]).arg(file.path()).output().unwrap();
    let said = String::from_utf8_lossy(&check.stdout).into_owned() + &String::from_utf8_lossy(&check.stderr);
    assert!(!check.status.success() && said.contains("forwards nothing") && said.contains("[[bgp.edge]]"), "{said}");
    let world = World::up(
        FRR,
        &[
            nobody_waits[0],
            ("address = \"10.0.3.12\"\n", "address = \"10.0.3.12\"\nrequired = false\n"),
            ("forwards = false", "settle = \"0s\""),
        ],
    );
    let lost = world.lost(dns::A, 3);
    assert!(!lost.is_empty(), "nothing was lost: the other tests would not notice either");
}

/// An edge that doesn't take the routes holds answers back although the reflector and the other edge have them; it is named, and why.
fn an_edge_that_lacks_a_route_is_named(edits: &[(&str, &str)], name: &str, cause: &str) {
    let world = World::up(BIRD, edits);
    assert_eq!(world.resolve("client1", "n1.many.test", dns::A).addresses(), [many(dns::A, 1)]);
    let edge = world.lab.node("edge2");
    let file = "/etc/bird/bird.conf";
    let good = edge.file(file).unwrap();
    edge.write(file, &good.replace("filter host4 { if", "filter host4 { reject; if")).unwrap();
    edge.ok("birdc configure").unwrap();
    let degraded = || {
        let status = world.ask_guard("status");
        let named = status["reasons"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .any(|reason| reason.starts_with(name) && reason.contains(cause));
        status["state"] == "degraded" && named
    };
    // New addresses are refused, and one that was answered before is held back too.
    let mut number = 10;
    let mut said = String::new();
    assert!(
        wait_until(LONG, || {
            number += 1;
            let answer = world.resolve("client1", &format!("n{number}.many.test"), dns::A);
            said = world.ask_guard("status").to_string();
            answer.addresses().is_empty() && degraded()
        }),
        "{said}\n{}",
        world.lab.logs()
    );
    assert!(wait_until(LONG, || world.resolve("client1", "n1.many.test", dns::A).addresses().is_empty()), "{said}");
    edge.write(file, &good).unwrap();
    edge.ok("birdc configure").unwrap();
    let again = || world.resolve("client2", "n1.many.test", dns::A).addresses() == [many(dns::A, 1)];
    assert!(wait_until(LONG, again), "{}\n{}", world.ask_guard("status"), world.lab.logs());
    assert!(world.connects("client2", many(dns::A, 1)), "{}", world.lab.logs());
}

#[test]
fn a_probed_edge_that_lacks_a_route_is_named() {
    an_edge_that_lacks_a_route_is_named(&[], "edge2", "");
}

#[test]
fn an_observed_edge_that_lacks_a_route_is_named() {
    an_edge_that_lacks_a_route_is_named(&WATCH, "watch2", "");
}

/// Without the reflector there is no way for a route to get anywhere: the edges say so.
#[test]
fn without_the_reflector_the_edges_count_for_nothing() {
    let world = World::up(BIRD, &[]);
    assert_eq!(world.resolve("client1", "n1.many.test", dns::A).addresses(), [many(dns::A, 1)]);
    world.lab.node("reflector").stop();
    let said = || {
        let status = world.ask_guard("status").to_string();
        status.contains("edge1 is lost: nothing brings it the routes: there is no session with reflector")
    };
    assert!(wait_until(LONG, said), "{}", world.ask_guard("status"));
    assert!(world.resolve("client1", "n2.many.test", dns::A).addresses().is_empty());
    let peers = world.ask_guard("peers");
    assert!(peers["peers"].to_string().contains("nothing brings it the routes"), "{peers}");
    world.lab.node("reflector").start().unwrap();
    let again = || world.resolve("client2", "n2.many.test", dns::A).addresses() == [many(dns::A, 2)];
    assert!(wait_until(LONG, again), "{}\n{}", world.ask_guard("status"), world.lab.logs());
    assert!(CLIENTS.iter().all(|client| world.connects(client, many(dns::A, 2))), "{}", world.lab.logs());
}

/// What the generator writes for a reflector lets the routes pass; for a router of its own it keeps them there.
#[test]
fn no_generated_reflector_keeps_the_routes_to_itself() {
    let config = format!("{}/lab/reflector/guard/destguard.toml", env!("CARGO_MANIFEST_DIR"));
    for kind in ["frr", "bird", "gobgp", "openbgpd", "junos", "iosxr", "eos", "srlinux", "routeros"] {
        let output = Command::new(BINARY).args(["router-config", kind, "--config", &config]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains("they bear no NO_ADVERTISE"), "{kind}: {text}");
        let kept = text.lines().filter(|line| {
            let line = line.to_lowercase().replace('_', "-");
            !line.contains("they bear no") && (line.contains("no-advertise") || line.contains("65282"))
        });
        assert_eq!(kept.collect::<Vec<_>>(), [""; 0], "{kind}");
    }
}

/// What `router-config` writes for the observer, on the edge itself in place of its own.
#[test]
fn an_edge_shows_what_it_has_as_router_config_writes_it() {
    let world = World::up(FRR, &WATCH);
    let (guard, edge) = (world.lab.node("guard"), world.lab.node("edge2"));
    let generated = guard.ok(&format!("{BINARY} router-config bird --peer watch2 --config {CONFIG}")).unwrap();
    let conf = edge.file("/etc/bird/bird.conf").unwrap();
    let own = conf.split("# The session of the guard's observer").next().unwrap();
    assert!(own.len() < conf.len());
    edge.write("/etc/bird/bird.conf", &format!("{own}{generated}")).unwrap();
    edge.ok("birdc configure").unwrap();
    let up = || edge.ok("birdc show protocols").unwrap_or_default();
    let shows = || up().lines().any(|line| line.starts_with("destguard_watch2") && line.contains("Established"));
    assert!(wait_until(LONG, shows), "{}\n{}", up(), world.lab.logs());
    let enforcing = || world.ask_guard("status")["state"] == "enforcing";
    assert!(wait_until(LONG, enforcing), "{}\n{}", world.ask_guard("status"), world.lab.logs());
    for rtype in [dns::A, dns::AAAA] {
        assert_eq!(world.lost(rtype, 10), Vec::<String>::new(), "{}", world.lab.logs());
    }
}

/// An edge that a reload brings is waited for from then on, and one that it takes away by nobody, be it there or not.
#[test]
fn an_edge_comes_and_goes_by_a_reload() {
    let second = "[[bgp.edge]]\nname = \"edge2\"\naddress = \"10.0.3.12\"\nlocal_address = \"10.0.3.2\"\n";
    let first = second.replace("edge2", "edge1").replace("10.0.3.12", "10.0.3.11");
    // Longer than a busy machine looks away.
    let world = World::up(FRR, &[(second, ""), ("[lease]\n", "[gate]\ndeadline = \"4s\"\n\n[lease]\n")]);
    let guard = world.lab.node("guard");
    let alone = guard.file(CONFIG).unwrap();
    let reload = |text: &str| {
        guard.write(CONFIG, text).unwrap();
        let reloaded: Value = serde_json::from_str(&guard.ok(&format!("{BINARY} reload --json")).unwrap()).unwrap();
        assert_eq!((&reloaded["applied"], &reloaded["needs_restart"]), (&Value::Bool(true), &serde_json::json!([])));
    };
    let sessions = world.ask_guard("peers")["peers"][0]["sessions"].clone();
    assert_eq!(world.resolve("client1", "n900.many.test", dns::A).addresses(), [many(dns::A, 900)]);
    let both = alone.replace(&first, &format!("{first}\n{second}"));
    assert_ne!(both, alone);
    reload(&both);
    let probed = || {
        let peers = world.ask_guard("peers");
        peers["peers"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|peer| peer["name"] == "edge2" && !peer["confirm_latency_ms"].is_null())
    };
    // What is asked meanwhile is answered, by the first edge's word until the second has confirmed what there was.
    let mut number = 1000;
    assert!(
        wait_until(LONG, || {
            number += 1;
            let answer = world.resolve("client1", &format!("n{number}.many.test"), dns::A);
            assert_eq!(answer.addresses(), [many(dns::A, number)], "{}", world.lab.logs());
            probed()
        }),
        "{}\n{}",
        world.ask_guard("peers"),
        world.lab.logs()
    );
    assert_eq!(world.lost(dns::A, 50), Vec::<String>::new(), "{}", world.lab.logs());
    let enforcing = || world.ask_guard("status")["state"] == "enforcing";
    assert!(wait_until(LONG, enforcing), "{}", world.ask_guard("status"));

    // It is gone from the file before it is gone from the network.
    reload(&alone);
    world.lab.node("edge2").stop();
    for number in 2000..2020 {
        let answer = world.resolve("client1", &format!("n{number}.many.test"), dns::A);
        assert_eq!(answer.addresses(), [many(dns::A, number)], "{}\n{}", world.ask_guard("status"), world.lab.logs());
        assert!(world.connects("client1", many(dns::A, number)), "{}", world.lab.logs());
    }
    assert!(enforcing(), "{}", world.ask_guard("status"));
    assert!(!world.ask_guard("peers").to_string().contains("edge2"));
    assert_eq!(world.ask_guard("peers")["peers"][0]["sessions"], sessions, "the reflector notices nothing");
}
