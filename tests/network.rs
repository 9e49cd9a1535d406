//! End to end on real routers: a client that resolves and connects at once, through FRR, through BIRD and through a Linux
//! gateway, in network namespaces. The guard runs with what the lab's files recommend for each.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "network/announced.rs"]
mod announced;
#[path = "network/flows.rs"]
mod flows;
#[path = "network/inside.rs"]
mod inside;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use lab::dns::server::{many_v4, many_v6};
use lab::dns::{self, Answer, Asker, Forged, Record, Reply, Server};
use lab::routes::Monitor;
use lab::tcp::{self, EchoServer};
use lab::{Lab, Node, wait_until};
use serde_json::Value;

const FRR: &str = "lab/frr/frr.clab.yml";
const BIRD: &str = "lab/bird/bird.clab.yml";
const GATEWAY: &str = "lab/gateway/gateway.clab.yml";
const CONFIG: &str = "/etc/destguard/destguard.toml";
const PORT: u16 = 80;
/// Less than the second after which Linux sends a lost SYN again: whoever connects in this time lost none.
const FIRST_SYN: Duration = Duration::from_millis(300);
/// For an answer on a machine that is busy; the gate's own deadline is one second.
const ANSWER: Duration = Duration::from_secs(5);
/// For whatever must happen in the end.
const LONG: Duration = Duration::from_secs(60);
const NAMES: u32 = 200;

/// Tests that wait share the machine; those that count lost packets have it alone, since a router that gets no processor is
/// late through no fault of the guard.
static MACHINE: RwLock<()> = RwLock::new(());

/// A lab with the far side's servers and a guard that enforces.
struct World {
    dns: Server,
    _echo: EchoServer,
    /// Of the router; of the gateway where there is none.
    routes: Monitor,
    /// The guard's node.
    guard: &'static str,
    lab: Lab,
    _machine: Option<RwLockReadGuard<'static, ()>>,
}

impl World {
    /// `edits` change the guard's configuration: each text must be in it, and is replaced.
    fn up(file: &str, edits: &[(&str, &str)]) -> Self {
        let machine = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
        let mut world = Self::up_alone(file, edits);
        world._machine = Some(machine);
        world
    }

    /// The caller holds the machine.
    fn up_alone(file: &str, edits: &[(&str, &str)]) -> Self {
        let (guard, router) = if file == GATEWAY { ("gateway", "gateway") } else { ("guard", "router") };
        let lab = Lab::builder(file).destguard(env!("CARGO_BIN_EXE_destguard")).hold(guard).up().unwrap();
        let internet = lab.node("internet");
        let upstreams = ["192.0.2.53:53", "[2001:db8:53::53]:53"].map(|at| at.parse().unwrap());
        let dns = Server::start(internet, &upstreams).unwrap();
        let echo = EchoServer::start(internet, PORT).unwrap();
        let routes = Monitor::start(lab.node(router)).unwrap();
        let mut text = lab.node(guard).file(CONFIG).unwrap();
        for (from, to) in edits {
            assert!(text.contains(from), "{from:?} is not in {CONFIG}");
            text = text.replace(from, to);
        }
        lab.node(guard).write(CONFIG, &text).unwrap();
        lab.node(guard).start().unwrap();
        let world = Self { dns, _echo: echo, routes, guard, lab, _machine: None };
        let up = |state: &Value| state == "enforcing" || state == "audit";
        let enforcing = || file == GATEWAY && up(&world.ask_guard("status")["state"]);
        assert!(wait_until(LONG, || enforcing() || world.established()), "not ready: {}", world.lab.logs());
        world
    }

    fn node(&self, name: &str) -> &Node {
        self.lab.node(name)
    }

    fn established(&self) -> bool {
        self.ask_guard("peers")["peers"][0]["state"] == "Established"
    }

    /// The guard's address, over the family that is asked for, so that both are used.
    fn server(&self, rtype: u16) -> SocketAddr {
        let text = match (self.guard, rtype) {
            ("gateway", dns::AAAA) => "[fd00:1::1]:53",
            ("gateway", _) => "10.0.1.1:53",
            (_, dns::AAAA) => "[fd00:3::2]:53",
            _ => "10.0.3.2:53",
        };
        text.parse().unwrap()
    }

    /// A read command of the guard's command line.
    fn ask_guard(&self, command: &str) -> Value {
        let guard = self.node(self.guard);
        let output = guard.command(env!("CARGO_BIN_EXE_destguard")).args([command, "--json"]).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// What a node gets from the guard.
    fn resolve(&self, node: &str, name: &str, rtype: u16) -> Answer {
        self.node(node).in_namespace(|| dns::ask(self.server(rtype), name, rtype, ANSWER)).unwrap().unwrap()
    }

    fn connects(&self, node: &str, to: IpAddr) -> bool {
        self.node(node).in_namespace(|| tcp::connect(to, PORT, FIRST_SYN)).unwrap().is_ok()
    }

    /// Waits until the host route of an address is gone from the router's kernel; for how long it was there.
    fn route_life(&self, address: IpAddr) -> Duration {
        let gone = || self.routes.last(address, false).is_some();
        assert!(wait_until(LONG, gone), "the route for {address} stays: {}", self.lab.logs());
        let (from, to) = (self.routes.last(address, true).unwrap(), self.routes.last(address, false).unwrap());
        to.duration_since(from)
    }
}

fn many(rtype: u16, number: u32) -> IpAddr {
    if rtype == dns::AAAA { many_v6(number).into() } else { many_v4(number).into() }
}

/// Resolves names one after another, each followed at once by a connection; those whose first SYN was lost.
fn resolve_and_connect(world: &World, rtype: u16, count: u32) -> Vec<String> {
    let all = world.node("client").in_namespace(|| {
        let asker = Asker::new(world.server(rtype)).unwrap();
        let mut lost = Vec::new();
        for number in 0..count {
            let name = format!("n{number}.many.test");
            let answer = asker.ask(&name, rtype, ANSWER).unwrap();
            assert_eq!(answer.addresses(), [many(rtype, number)], "{name}: {:?}", answer.message);
            let address = many(rtype, number);
            if let Err(error) = tcp::connect(address, PORT, FIRST_SYN) {
                let route = world.routes.last(address, true);
                let late = route.map(|route| route.saturating_duration_since(answer.seen));
                lost.push(format!("{name} {address}: {error}; the route was later than the answer by {late:?}"));
            }
        }
        lost
    });
    all.unwrap()
}

/// A filter on the router is changed, and one of the routes that it had taken goes. Nothing tells the guard: it sees that packets are not forwarded
/// any more. No answer with that address leaves, a cached one neither, until the router forwards again.
#[test]
fn what_frr_loses_is_said_counted_and_held_back_until_it_is_there_again() {
    let http = ("[bgp]\nasn", "[http]\nlisten = [\"10.0.3.2:8080\"]\n\n[bgp]\nasn");
    let world = World::up(FRR, &[http]);
    let (lost, kept) = (many(dns::A, 1), many(dns::A, 2));
    let answers = |number: u32| {
        let answer = world.resolve("client", &format!("n{number}.many.test"), dns::A);
        answer.addresses() == [many(dns::A, number)]
    };
    assert!(answers(1) && answers(2) && world.connects("client", lost) && world.connects("client", kept));
    let repairs = || {
        let get = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect("10.0.3.2:8080")?;
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: 10.0.3.2:8080\r\nConnection: close\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        let text = world.node("guard").in_namespace(get).unwrap().unwrap_or_default();
        let line = "destguard_enforcer_repairs_total{enforcer=\"router\",kind=\"missing\"} ";
        text.lines().find_map(|found| found.strip_prefix(line)).map(str::to_owned)
    };
    assert_eq!(repairs(), None);

    let router = world.node("router");
    let filter = |word: &str| {
        let rule = format!("{word}ip prefix-list HOST4 seq 1 deny {lost}/32");
        router.ok(&format!("vtysh -c 'configure terminal' -c '{rule}'")).unwrap();
        router.ok("vtysh -c 'clear bgp ipv4 unicast 10.0.3.2 soft in'").unwrap();
    };
    filter("");
    let named = |lines: &Value| {
        let lines = lines.as_array().into_iter().flatten().filter_map(Value::as_str);
        lines.filter(|line| line.contains("router took back") && line.contains(&lost.to_string())).count()
    };
    let said = || {
        let status = world.ask_guard("status");
        named(&status["warnings"]) == 1
    };
    assert!(wait_until(LONG, said), "{}{}", world.ask_guard("status"), world.lab.logs());
    let status = world.ask_guard("status");
    let last_error = status["enforcers"][0]["last_error"].as_str().unwrap_or_default();
    assert!(last_error.contains(&format!("the router took back {lost}")), "{status}");
    assert!(wait_until(LONG, || repairs().as_deref() == Some("1")), "{:?}", repairs());
    assert!(world.lab.logs().contains("the router took back routes that it had confirmed"), "{}", world.lab.logs());
    // From its cache the guard answered both; now it holds one back.
    let answer = world.resolve("client", "n1.many.test", dns::A);
    assert!(answer.addresses().is_empty(), "{:?}", answer.message);
    assert!(answers(2) && world.connects("client", kept));
    assert_eq!(world.ask_guard("leases")["leases"].as_array().map(Vec::len), Some(2), "its lease stays");

    filter("no ");
    assert!(wait_until(LONG, || answers(1)), "{}{}", world.ask_guard("status"), world.lab.logs());
    assert!(world.connects("client", lost), "the answer came before the route");
    assert!(wait_until(LONG, || world.ask_guard("status")["state"] == "enforcing"), "{}", world.ask_guard("status"));
    assert_eq!(repairs().as_deref(), Some("1"), "{}", world.lab.logs());
}

#[test]
fn the_labs_configurations_are_good() {
    for directory in ["frr/guard", "bird/guard", "gateway/gateway"] {
        let config = format!("{}/lab/{directory}/destguard.toml", env!("CARGO_MANIFEST_DIR"));
        let check =
            Command::new(env!("CARGO_BIN_EXE_destguard")).args(["check", "--config", &config]).output().unwrap();
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
        assert_eq!(String::from_utf8_lossy(&check.stderr), "", "{config} has warnings");
    }
}

fn no_first_syn_is_lost(file: &str) {
    let _alone = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
    let world = World::up_alone(file, &[]);
    for rtype in [dns::A, dns::AAAA] {
        assert!(!world.connects("client", many(rtype, NAMES)), "open although nobody asked");
    }
    // Both families at once, as clients ask them.
    let lost: Vec<String> = std::thread::scope(|scope| {
        let families = [dns::A, dns::AAAA].map(|rtype| {
            let world = &world;
            scope.spawn(move || resolve_and_connect(world, rtype, NAMES))
        });
        families.into_iter().flat_map(|family| family.join().unwrap()).collect()
    });
    assert!(lost.is_empty(), "{} of {} lost: {lost:#?}\n{}", lost.len(), 2 * NAMES, world.lab.logs());
    for rtype in [dns::A, dns::AAAA] {
        assert!(!world.connects("client", many(rtype, NAMES)), "open although nobody asked");
    }
    let leases = world.ask_guard("status")["leases"].clone();
    assert_eq!((&leases["ipv4"], &leases["ipv6"]), (&Value::from(NAMES), &Value::from(NAMES)), "{leases}");
    if file == GATEWAY {
        return;
    }
    let peer = world.ask_guard("peers")["peers"][0].clone();
    eprintln!("{file} {}: confirmed within {} ms (median)", peer["confirm"], peer["confirm_latency_ms"]);
    // Nothing but how the first tries to connect failed.
    assert!(!peer["last_error"].to_string().contains("confirm"), "{peer}");
    let advertised = peer["advertised"].clone();
    assert_eq!((&advertised["ipv4"], &advertised["ipv6"]), (&Value::from(NAMES), &Value::from(NAMES)), "{advertised}");
}

#[test]
fn through_frr_no_first_syn_is_lost() {
    no_first_syn_is_lost(FRR);
}

#[test]
fn through_bird_no_first_syn_is_lost() {
    no_first_syn_is_lost(BIRD);
}

#[test]
fn through_the_gateway_no_first_syn_is_lost() {
    no_first_syn_is_lost(GATEWAY);
}

/// So that the tests above can fail: FRR needs at least 50 ms from the UPDATE to the kernel.
#[test]
fn without_confirmation_frr_loses_first_syns() {
    let edits = [("confirm = \"probe\"", "confirm = \"sent\"")];
    let world = World::up(FRR, &edits);
    let lost = resolve_and_connect(&world, dns::A, 3);
    // A SYN that was lost is sent again after a second, so these connections all failed within 300 ms or not at all:
    // the 50 ms hold in bgpd makes the first SYN of each late answer meet the null route.
    assert!(!lost.is_empty(), "nothing was lost: the other tests would not notice either");
}

const SHORT_LEASES: [(&str, &str); 2] = [SHORT_LEASE, ("linger = \"10m\"", "linger = \"2s\"")];
const SHORT_LEASE: (&str, &str) = ("[lease]\n", "[lease]\nmin = \"2s\"\ngrace = \"1s\"\n");

fn what_ended_is_closed(file: &str) {
    let world = World::up(file, &SHORT_LEASES);
    let open = [IpAddr::from([203, 0, 113, 80]), "2001:db8:ff::80".parse().unwrap()];
    world.dns.set_addresses("www.example.test", 1, &open);
    for (rtype, address) in [(dns::A, open[0]), (dns::AAAA, open[1])] {
        assert!(!world.connects("client", address));
        let answer = world.resolve("client", "www.example.test", rtype);
        assert_eq!(answer.addresses(), [address]);
        assert!(world.connects("client", address), "{}", world.lab.logs());
        assert!(world.connects("client2", address), "a route is for everybody behind the router");
    }
    for address in open {
        let life = world.route_life(address);
        // max(TTL, min) + grace + linger; the route was added before the answer, so it may not be shorter.
        assert!(life >= Duration::from_millis(4900), "{address} was open for {life:?} only");
        assert!(!world.connects("client", address), "{address} stayed open");
    }
}

#[test]
fn on_frr_what_ended_is_closed() {
    what_ended_is_closed(FRR);
}

#[test]
fn on_bird_what_ended_is_closed() {
    what_ended_is_closed(BIRD);
}

#[test]
fn on_the_gateway_what_ended_is_closed_and_open_flows_live() {
    let world = World::up(GATEWAY, &[SHORT_LEASE]);
    let open = [IpAddr::from([203, 0, 113, 80]), "2001:db8:ff::80".parse().unwrap()];
    world.dns.set_addresses("www.example.test", 1, &open);
    let mut flows = Vec::new();
    for (rtype, address) in [(dns::A, open[0]), (dns::AAAA, open[1])] {
        assert!(!world.connects("client", address));
        let what = format!("{address} tcp/{PORT}");
        let shown = || {
            let denied = world.ask_guard("denied");
            let entries = denied["denied"].as_array().unwrap().clone();
            entries.iter().any(|entry| {
                entry["kind"] == "packet" && entry["what"] == what.as_str() && entry["reason"] == "no lease"
            })
        };
        assert!(wait_until(LONG, shown), "`denied` doesn't show the refused packet to {address}");
        let answer = world.resolve("client", "www.example.test", rtype);
        assert_eq!(answer.addresses(), [address]);
        let flow = || TcpStream::connect_timeout(&SocketAddr::new(address, PORT), FIRST_SYN);
        let mut flow = world.node("client").in_namespace(flow).unwrap().unwrap();
        tcp::ping(&mut flow, b"before", ANSWER).unwrap();
        assert!(world.connects("client2", address), "scope = shared: for everybody behind the gateway");
        flows.push(flow);
    }
    for address in open {
        assert!(wait_until(LONG, || !world.connects("client", address)), "{address} stays open");
    }
    for mut flow in flows {
        tcp::ping(&mut flow, b"after", ANSWER).expect("an open connection outlives its lease");
    }
}

/// A lease of the gateway is for the client that was answered alone.
const FOR_CLIENTS: (&str, &str) = ("mode = \"gateway\"\n", "mode = \"gateway\"\nscope = \"client\"\n");

/// The clients that `leases` shows for an address.
fn clients_of(world: &World, address: IpAddr) -> Vec<String> {
    let leases = world.ask_guard("leases");
    let lease = leases["leases"].as_array().unwrap().iter().find(|lease| lease["address"] == address.to_string());
    let clients = lease.map(|lease| lease["clients"].as_array().unwrap().as_slice()).unwrap_or_default();
    clients.iter().map(|client| client.as_str().unwrap().to_owned()).collect()
}

#[test]
fn on_the_gateway_an_answer_opens_for_its_client_alone() {
    let world = World::up(GATEWAY, &[SHORT_LEASE, FOR_CLIENTS]);
    let open = [IpAddr::from([203, 0, 113, 80]), "2001:db8:ff::80".parse().unwrap()];
    let own = [IpAddr::from([203, 0, 113, 81]), "2001:db8:ff::81".parse().unwrap()];
    let brief = [IpAddr::from([203, 0, 113, 82]), "2001:db8:ff::82".parse().unwrap()];
    world.dns.set_addresses("www.example.test", 600, &open);
    world.dns.set_addresses("own.example.test", 600, &own);
    world.dns.set_addresses("brief.example.test", 1, &brief);
    let clients = [["10.0.1.2", "10.0.4.2"], ["fd00:1::2", "fd00:4::2"]];
    for (family, rtype) in [dns::A, dns::AAAA].into_iter().enumerate() {
        let address = open[family];
        assert!(!world.connects("client", address));
        assert_eq!(world.resolve("client", "www.example.test", rtype).addresses(), [address]);
        assert!(world.connects("client", address), "{}", world.lab.logs());
        assert!(!world.connects("client2", address), "{address} was answered to the other client only");
        assert_eq!(clients_of(&world, address), [clients[family][0]]);
        let asked = world.dns.times_asked("www.example.test");
        assert_eq!(world.resolve("client2", "www.example.test", rtype).addresses(), [address]);
        assert_eq!(
            world.dns.times_asked("www.example.test"),
            asked,
            "the kept answer is admitted for the second client"
        );
        assert!(world.connects("client2", address), "{}", world.lab.logs());
        assert_eq!(clients_of(&world, address), clients[family]);
        // From the cache, at once, for either.
        assert_eq!(world.resolve("client", "www.example.test", rtype).addresses(), [address]);
        world.resolve("client", "own.example.test", rtype);
    }
    let guard = world.node("gateway");
    let explained = guard.ok(&format!("{} explain {}", env!("CARGO_BIN_EXE_destguard"), own[0])).unwrap();
    assert!(explained.contains("open to 10.0.1.2 for ") && explained.contains("and to nobody else"), "{explained}");

    // From where a client of one family would connect to the other can't be told: no address, and no refusal to be looked at.
    let asked = || dns::ask("10.0.1.1:53".parse().unwrap(), "www.example.test", dns::AAAA, ANSWER);
    let answer = world.node("client").in_namespace(asked).unwrap().unwrap();
    assert_eq!((answer.rcode(), answer.addresses()), (dns::NOERROR, Vec::new()));
    assert!(!answer.message.extended_errors().is_empty());

    // Killed and started again, the guard still knows what is whose.
    guard.kill();
    for own in own {
        assert!(world.connects("client", own) && !world.connects("client2", own), "while it is down");
    }
    guard.start().unwrap();
    assert!(wait_until(LONG, || world.ask_guard("status")["state"] == "enforcing"), "{}", world.lab.logs());
    for family in 0..2 {
        assert!(
            world.connects("client", open[family]) && world.connects("client2", open[family]),
            "both were answered"
        );
        assert!(world.connects("client", own[family]), "{}", world.lab.logs());
        assert!(!world.connects("client2", own[family]), "{} was opened by a restart", own[family]);
        assert_eq!(clients_of(&world, own[family]), [clients[family][0]]);
    }

    // Revoked it is closed for all; who asks again is let in alone.
    guard.ok(&format!("{} revoke {}", env!("CARGO_BIN_EXE_destguard"), open[0])).unwrap();
    assert!(wait_until(LONG, || !world.connects("client", open[0]) && !world.connects("client2", open[0])));
    assert_eq!(world.resolve("client2", "www.example.test", dns::A).addresses(), [open[0]]);
    assert!(world.connects("client2", open[0]) && !world.connects("client", open[0]), "{}", world.lab.logs());

    // What ended is closed, and flows that are open live on.
    let mut flows = Vec::new();
    for (rtype, address) in [(dns::A, brief[0]), (dns::AAAA, brief[1])] {
        assert_eq!(world.resolve("client", "brief.example.test", rtype).addresses(), [address]);
        let flow = || TcpStream::connect_timeout(&SocketAddr::new(address, PORT), FIRST_SYN);
        flows.push(world.node("client").in_namespace(flow).unwrap().unwrap());
        assert!(wait_until(LONG, || !world.connects("client", address)), "{address} stays open");
    }
    for mut flow in flows {
        tcp::ping(&mut flow, b"after", ANSWER).expect("an open connection outlives its lease");
    }
}

#[test]
fn the_gateway_itself_is_a_client_of_its_own() {
    let both = ("mode = \"gateway\"\n", "mode = \"both\"\nscope = \"client\"\n");
    let world = World::up(GATEWAY, &[both, ("\"fd00::/16\"]", "\"fd00::/16\", \"127.0.0.0/8\", \"::1/128\"]")]);
    let ask = |name: &str, rtype| {
        let ask = || dns::ask("127.0.0.1:53".parse().unwrap(), name, rtype, ANSWER);
        world.node("gateway").in_namespace(ask).unwrap().unwrap().addresses()
    };
    let [host, client]: [IpAddr; 2] = [many_v4(1).into(), many_v4(2).into()];
    assert_eq!(ask("n1.many.test", dns::A), [host]);
    assert_eq!(world.resolve("client", "n2.many.test", dns::A).addresses(), [client]);
    assert!(world.connects("gateway", host) && !world.connects("gateway", client), "{}", world.lab.logs());
    assert!(world.connects("client", client) && !world.connects("client", host));
    // The host asks by one address for both families.
    let six = IpAddr::from(many_v6(3));
    assert_eq!(ask("n3.many.test", dns::AAAA), [six]);
    assert!(world.connects("gateway", six) && !world.connects("client", six));
}

#[test]
fn in_audit_the_other_client_is_counted_and_let_through() {
    let audit = ("mode = \"gateway\"\n", "mode = \"gateway\"\nscope = \"client\"\nenforce = false\n");
    let world = World::up(GATEWAY, &[audit]);
    let address = IpAddr::from(many_v4(1));
    assert_eq!(world.resolve("client", "n1.many.test", dns::A).addresses(), [address]);
    let denied = || {
        let denied = world.ask_guard("denied");
        let what = format!("{address} tcp/{PORT}");
        denied["denied"].as_array().unwrap().iter().any(|entry| entry["what"] == what.as_str())
    };
    assert!(world.connects("client", address) && !denied(), "its own answer");
    assert!(world.connects("client2", address), "audit blocks nothing");
    assert!(wait_until(LONG, denied), "what would have been refused isn't shown");
}

#[test]
fn a_second_client_does_not_shorten_the_lease_of_the_first() {
    let world = World::up(BIRD, &SHORT_LEASES);
    let shared = IpAddr::from([203, 0, 113, 90]);
    world.dns.set_addresses("long.example.test", 8, &[shared]);
    world.dns.set_addresses("short.example.test", 1, &[shared]);
    assert_eq!(world.resolve("client", "long.example.test", dns::A).addresses(), [shared]);
    let asked = Instant::now();
    assert_eq!(world.resolve("client2", "short.example.test", dns::A).addresses(), [shared]);
    // 8 s + 1 s grace + 2 s linger; by the second answer alone it would be 5 s.
    let life = world.route_life(shared);
    assert!(life >= Duration::from_millis(10_500), "closed after {life:?}");
    assert!(asked.elapsed() >= Duration::from_secs(10));
    assert!(!world.connects("client", shared));
}

#[test]
fn what_is_not_of_the_question_is_neither_passed_on_nor_opened() {
    let world = World::up(BIRD, &[]);
    let [right, stray, glue, forged, foreign] = [1, 2, 3, 4, 5].map(|last| IpAddr::from([203, 0, 113, last]));
    let name = "shop.example.test";
    world.dns.set(
        name,
        dns::A,
        Reply {
            answers: vec![Record::address(name, 60, right), Record::address("other.test", 60, stray)],
            additional: vec![Record::address(name, 60, glue)],
            forged: vec![
                Forged { id_offset: 1, answers: vec![Record::address(name, 60, forged)], question: None },
                Forged {
                    question: Some("shop.example.tset".into()),
                    answers: vec![Record::address(name, 60, foreign)],
                    id_offset: 0,
                },
            ],
            delay: Duration::from_millis(20),
            ..Reply::default()
        },
    );
    let answer = world.resolve("client", name, dns::A);
    assert_eq!(answer.addresses(), [right]);
    assert!(answer.message.additional.is_empty(), "{:?}", answer.message);
    assert!(world.connects("client", right));
    for closed in [stray, glue, forged, foreign] {
        assert!(world.routes.last(closed, true).is_none() && !world.connects("client", closed), "{closed} was opened");
    }
    // Special-purpose and own addresses: the router, the guard, the upstream, a neighbour's private address.
    for (number, never) in
        ["10.0.3.1", "10.0.3.2", "10.0.2.2", "192.0.2.53", "10.0.1.2", "127.0.0.1", "169.254.169.254"]
            .iter()
            .enumerate()
    {
        let name = format!("rebind{number}.test");
        world.dns.set_addresses(&name, 60, &[never.parse().unwrap()]);
        let answer = world.resolve("client", &name, dns::A);
        assert_eq!((answer.rcode(), answer.addresses()), (dns::NOERROR, Vec::new()), "{never}");
        assert!(!answer.message.extended_errors().is_empty(), "{never}: {:?}", answer.message);
    }
    assert_eq!(world.ask_guard("status")["leases"]["active"], 1);
}

#[test]
fn a_revoked_address_is_closed_and_opens_again() {
    let world = World::up(BIRD, &[]);
    let address = IpAddr::from(many_v4(7));
    world.resolve("client", "n7.many.test", dns::A);
    assert!(world.connects("client", address));
    let guard = world.node(world.guard);
    guard.ok(&format!("{} revoke {address}", env!("CARGO_BIN_EXE_destguard"))).unwrap();
    assert!(wait_until(LONG, || world.routes.last(address, false).is_some()), "{}", world.lab.logs());
    assert!(!world.connects("client", address));
    assert_eq!(world.resolve("client", "n7.many.test", dns::A).addresses(), [address]);
    assert!(world.connects("client", address), "{}", world.lab.logs());
}

#[test]
fn without_the_router_no_answer_leaves_and_with_it_everything_returns() {
    let world = World::up(BIRD, &[]);
    let before = IpAddr::from(many_v4(0));
    world.resolve("client", "n0.many.test", dns::A);
    assert!(world.connects("client", before));
    let router = world.node("router");
    router.kill();
    assert!(wait_until(LONG, || !world.established()), "{}", world.lab.logs());
    let answer = world.resolve("client", "n1.many.test", dns::A);
    assert_eq!((answer.rcode(), answer.addresses()), (dns::SERVFAIL, Vec::new()));
    assert!(!answer.message.extended_errors().is_empty());
    let status = world.ask_guard("status");
    let errors = status["errors"].as_array().unwrap();
    let said = |error: &Value| error["message"].as_str().unwrap().starts_with("BGP session down peer=\"router\"");
    assert!(errors.iter().any(said), "the last errors don't name the session: {errors:?}");
    router.start().unwrap();
    assert!(wait_until(LONG, || world.established()), "{}", world.lab.logs());
    assert!(wait_until(LONG, || world.connects("client", before)), "the lease did not return: {}", world.lab.logs());
    assert_eq!(world.resolve("client", "n1.many.test", dns::A).addresses(), [IpAddr::from(many_v4(1))]);
    assert!(world.connects("client", many_v4(1).into()), "{}", world.lab.logs());
}
