//! What `router-config` prints, on the routers themselves: the lab with the generated file in place of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use lab::dns::server::{many_v4, many_v6};
use lab::dns::{self, Server};
use lab::tcp::{self, EchoServer};
use lab::{Lab, wait_until};
use serde_json::Value;

const PORT: u16 = 80;
/// Less than the second after which Linux sends a lost SYN again.
const FIRST_SYN: Duration = Duration::from_millis(300);
const ANSWER: Duration = Duration::from_secs(5);
const LONG: Duration = Duration::from_secs(60);

/// Copies a lab, all but its router's file, which becomes `own` and what is generated from its guard's.
fn copy_with_generated(from: &Path, to: &Path, kind: &str, file: &str, own: &str, guard: &str) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy_with_generated(&entry.path(), &target, kind, "", own, "");
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
    if !file.is_empty() {
        let router = to.join(file);
        let config = to.join("guard/destguard.toml");
        std::fs::write(&config, guard).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_destguard"))
            .args(["router-config", kind, "--config"])
            .arg(config)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::write(&router, format!("{own}{}", String::from_utf8(output.stdout).unwrap())).unwrap();
    }
}

/// The lab with what was generated for its router, and its guard's session up. `edits` change the guard's configuration before.
fn lab(
    kind: &str,
    topology: &str,
    file: &str,
    own: &str,
    edits: &[(&str, &str)],
) -> (Lab, Server, EchoServer, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    // The router's daemons run as a user of their own.
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("lab").join(kind);
    let config = source.join("guard/destguard.toml");
    let mut text = std::fs::read_to_string(config).unwrap();
    for (from, to) in edits {
        assert!(text.contains(from), "{from:?} is not in the guard's file");
        text = text.replace(from, to);
    }
    copy_with_generated(&source, dir.path(), kind, file, own, &text);
    let lab =
        Lab::builder(dir.path().join(topology)).destguard(env!("CARGO_BIN_EXE_destguard")).hold("guard").up().unwrap();
    let upstreams = ["192.0.2.53:53", "[2001:db8:53::53]:53"].map(|at| at.parse().unwrap());
    let dns = Server::start(lab.node("internet"), &upstreams).unwrap();
    let echo = EchoServer::start(lab.node("internet"), PORT).unwrap();
    if text.contains("10.0.3.3") {
        lab.node("guard").ok("ip addr add 10.0.3.3/24 dev eth1").unwrap();
    }
    lab.node("guard").start().unwrap();
    let established = || {
        let output =
            lab.node("guard").command(env!("CARGO_BIN_EXE_destguard")).args(["peers", "--json"]).output().unwrap();
        let peers: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        peers["peers"][0]["state"] == "Established"
    };
    assert!(wait_until(LONG, established), "no session: {}", lab.logs());
    (lab, dns, echo, dir)
}

/// Nothing is reached before its name is asked, and all is at once afterwards.
fn names_open_the_way(kind: &str, topology: &str, file: &str, own: &str, edits: &[(&str, &str)]) {
    let (lab, _dns, _echo, _dir) = lab(kind, topology, file, own, edits);
    let guard: SocketAddr = "10.0.3.2:53".parse().unwrap();
    let outcome = lab.node("client").in_namespace(|| {
        for (rtype, address) in [(dns::A, IpAddr::from(many_v4(7))), (dns::AAAA, IpAddr::from(many_v6(7)))] {
            assert!(tcp::connect(address, PORT, FIRST_SYN).is_err(), "{address} is reached without a question");
            let answer = dns::ask(guard, "n7.many.test", rtype, ANSWER).unwrap();
            assert_eq!(answer.addresses(), [address], "{:?}", answer.message);
            tcp::connect(address, PORT, FIRST_SYN).unwrap_or_else(|error| panic!("{address} after its name: {error}"));
        }
    });
    outcome.unwrap_or_else(|error| panic!("{error}: {}", lab.logs()));
}

#[test]
fn on_frr() {
    let own = "ip route 192.0.2.53/32 10.0.2.2\nipv6 route 2001:db8:53::53/128 fd00:2::2\n";
    names_open_the_way("frr", "frr.clab.yml", "router/frr.conf", own, &[]);
}

#[test]
fn on_bird() {
    let own = "protocol static own4 { ipv4; route 192.0.2.53/32 via 10.0.2.2; }
protocol static own6 { ipv6; route 2001:db8:53::53/128 via fd00:2::2; }\n";
    names_open_the_way("bird", "bird.clab.yml", "router/bird.conf", own, &[]);
}

/// RFC 8950: the guard has no IPv4 next hop, and BIRD sends IPv4 packets over the IPv6 one.
#[test]
fn on_bird_with_ipv6_next_hops_alone() {
    let own = "protocol static own4 { ipv4; route 192.0.2.53/32 via 10.0.2.2; }
protocol static own6 { ipv6; route 2001:db8:53::53/128 via fd00:2::2; }\n";
    let without = [("next_hop_ipv4 = ", "#next_hop_ipv4 = ")];
    names_open_the_way("bird", "bird.clab.yml", "router/bird.conf", own, &without);
}

/// Passwords whose characters mean something in the router's grammar, written so that the router has the very same.
fn a_strange_password(kind: &str, password: &str) -> (String, String) {
    let (old, new) = ("password = \"lab-secret\"".to_owned(), format!("password = {}", toml::Value::from(password)));
    assert!(std::fs::read_to_string(format!("lab/{kind}/guard/destguard.toml")).unwrap().contains(&old));
    (old, new)
}

#[test]
fn on_frr_with_a_strange_password() {
    let own = "ip route 192.0.2.53/32 10.0.2.2\nipv6 route 2001:db8:53::53/128 fd00:2::2\n";
    let (old, new) = a_strange_password("frr", "#a\"b\\c'd!$%{\\");
    names_open_the_way("frr", "frr.clab.yml", "router/frr.conf", own, &[(&old, &new)]);
}

#[test]
fn on_bird_with_a_strange_password() {
    let own = "protocol static own4 { ipv4; route 192.0.2.53/32 via 10.0.2.2; }
protocol static own6 { ipv6; route 2001:db8:53::53/128 via fd00:2::2; }\n";
    let (old, new) = a_strange_password("bird", " a \\n b\\'#$%{  \\");
    names_open_the_way("bird", "bird.clab.yml", "router/bird.conf", own, &[(&old, &new)]);
}

/// FRR answers a ROUTE-REFRESH at once because it has something to send; every answer waits for that.
#[test]
fn on_frr_with_refresh() {
    let own = "ip route 192.0.2.53/32 10.0.2.2\nipv6 route 2001:db8:53::53/128 fd00:2::2\n";
    let edits = [("confirm = \"probe\"", "confirm = \"refresh\"")];
    let (lab, _dns, _echo, _dir) = lab("frr", "frr.clab.yml", "router/frr.conf", own, &edits);
    let guard: SocketAddr = "10.0.3.2:53".parse().unwrap();
    let peer = || {
        let output = lab.node("guard").command(env!("CARGO_BIN_EXE_destguard")).args(["peers", "--json"]).output();
        let peers: Value = serde_json::from_slice(&output.unwrap().stdout).unwrap_or_default();
        peers["peers"][0].clone()
    };
    let ask = |n: u32| dns::ask(guard, &format!("n{n}.many.test"), dns::A, ANSWER);
    let told = |n: u32| ask(n).is_ok_and(|answer| !answer.addresses().is_empty());
    let client = lab.node("client");
    // FRR takes its time with the first refresh of a session.
    assert!(wait_until(LONG, || client.in_namespace(|| told(0)).unwrap()), "{}{}", peer(), lab.logs());
    let took = client.in_namespace(|| {
        let each = (1..40).map(|n| {
            let answer = ask(n).unwrap();
            assert!(!answer.addresses().is_empty(), "{:?}", answer.message);
            answer.seen.duration_since(answer.asked)
        });
        let mut took: Vec<Duration> = each.collect();
        took.sort_unstable();
        took[took.len() / 2]
    });
    // Without something to send it answers with its next KEEPALIVE, 3 s apart here.
    assert!(took.unwrap() < Duration::from_millis(500), "{}", peer());
}

/// The router sends each route back on the observer's session, which the generated file has too.
fn names_come_back(kind: &str, file: &str, own: &str, confirm: &str, deadline: &str) {
    let confirmed = "confirm = \"reflect\"\nsettle = \"0s\"\nobserver = \"watch\"\n[[bgp.peer]]\nname = \"watch\"\nrole = \"observer\"\naddress = \"10.0.3.1\"\n\
         asn = 65010\nlocal_address = \"10.0.3.3\"\npassword = \"lab-secret\"\nttl_security = true\n";
    let gate = format!("[gate]\ndeadline = \"{deadline}\"\n\n[bgp]\nno_export = false\n");
    let confirm = format!("{confirm}\nsettle = \"0s\"\n");
    let edits = [(confirm.as_str(), confirmed), ("[bgp]\n", &gate)];
    let topology = format!("{kind}.clab.yml");
    let (lab, _dns, _echo, _dir) = lab(kind, &topology, file, own, &edits);
    let guard: SocketAddr = "10.0.3.2:53".parse().unwrap();
    let asked = || dns::ask(guard, "n7.many.test", dns::A, ANSWER).is_ok_and(|answer| !answer.addresses().is_empty());
    let told = || lab.node("client").in_namespace(asked).unwrap();
    assert!(wait_until(LONG, told), "{}", lab.logs());
    let connected = lab.node("client").in_namespace(|| tcp::connect(many_v4(7).into(), PORT, FIRST_SYN)).unwrap();
    assert!(connected.is_ok(), "{}", lab.logs());
}

/// A router whose RIB is all that can be seen: what was asked is in it with its next hop, and nothing else.
fn names_reach_the_rib(kind: &str, file: &str, commands: [&str; 2], edits: &[(&str, &str)]) {
    let (lab, _dns, _echo, _dir) = lab(kind, &format!("{kind}.clab.yml"), file, "", edits);
    let guard: SocketAddr = "10.0.3.2:53".parse().unwrap();
    let router = lab.node("router");
    let of =
        |rtype| if rtype == dns::A { (IpAddr::from(many_v4(7)), "10.0.2.2") } else { (many_v6(7).into(), "fd00:2::2") };
    for (rtype, command) in [dns::A, dns::AAAA].into_iter().zip(commands) {
        let (address, hop) = of(rtype);
        let rib = || router.ok(command).unwrap_or_default();
        assert!(!rib().contains(&address.to_string()), "{}", rib());
        let answer =
            lab.node("client").in_namespace(|| dns::ask(guard, "n7.many.test", rtype, ANSWER)).unwrap().unwrap();
        assert_eq!(answer.addresses(), [address], "{:?}", answer.message);
        let held = || rib().lines().any(|line| line.contains(&address.to_string()) && line.contains(hop));
        assert!(wait_until(LONG, held), "{}\n{}", rib(), lab.logs());
        let hosts = rib().lines().filter(|line| line.contains(hop)).count();
        assert_eq!(hosts, 1, "{}", rib());
    }
}

#[test]
fn on_gobgp() {
    names_reach_the_rib("gobgp", "router/gobgpd.toml", ["gobgp global rib -a ipv4", "gobgp global rib -a ipv6"], &[]);
}

#[test]
fn on_openbgpd() {
    names_reach_the_rib("openbgpd", "router/bgpd.conf", ["bgpctl show rib inet", "bgpctl show rib inet6"], &[]);
}

#[test]
fn on_gobgp_with_a_strange_password() {
    let (old, new) = a_strange_password("gobgp", "a \"b\\c' d#$%{\\");
    let commands = ["gobgp global rib -a ipv4", "gobgp global rib -a ipv6"];
    names_reach_the_rib("gobgp", "router/gobgpd.toml", commands, &[(&old, &new)]);
}

#[test]
fn on_openbgpd_with_a_strange_password() {
    let (old, new) = a_strange_password("openbgpd", "a \"b'c\" d#$%{");
    let commands = ["bgpctl show rib inet", "bgpctl show rib inet6"];
    names_reach_the_rib("openbgpd", "router/bgpd.conf", commands, &[(&old, &new)]);
}

#[test]
fn on_bird_with_reflect() {
    let own = "protocol static own4 { ipv4; route 192.0.2.53/32 via 10.0.2.2; }
protocol static own6 { ipv6; route 2001:db8:53::53/128 via fd00:2::2; }\n";
    names_come_back("bird", "router/bird.conf", own, "confirm = \"refresh\"", "1s");
}

#[test]
fn on_frr_with_reflect() {
    let own = "ip route 192.0.2.53/32 10.0.2.2\nipv6 route 2001:db8:53::53/128 fd00:2::2\n";
    names_come_back("frr", "router/frr.conf", own, "confirm = \"probe\"", "3s");
}

/// Whatever the guard announces, the router takes no route for the network's own servers.
fn inside_is_refused(kind: &str, file: &str, own: &str) {
    let edits = [("inside = []", "inside = [\"45.10.0.0/24\"]"), ("confirm = ", "confirm = \"acked\" #")];
    let (lab, dns, _echo, _dir) = lab(kind, &format!("{kind}.clab.yml"), file, own, &edits);
    let (server, outside) = (IpAddr::from([45, 10, 0, 10]), IpAddr::from([45, 11, 0, 10]));
    lab.node("router").ok("ip addr add 45.10.0.1/24 dev eth4").unwrap();
    lab.node("client2").ok("ip addr add 45.10.0.10/24 dev eth1").unwrap();
    let _server = EchoServer::start(lab.node("client2"), PORT).unwrap();
    dns.set_addresses("evil.example", 60, &[server]);
    dns.set_addresses("shop.example", 60, &[outside]);
    // Somebody takes it out of the guard's file.
    let guard = lab.node("guard");
    let config = "/etc/destguard/destguard.toml";
    let text = guard.file(config).unwrap();
    guard.write(config, &text.replace("inside = [\"45.10.0.0/24\"]", "inside = []")).unwrap();
    guard.ok(&format!("{} reload", env!("CARGO_BIN_EXE_destguard"))).unwrap();
    let ask = |name: &str| {
        let asked = || dns::ask("10.0.3.2:53".parse().unwrap(), name, dns::A, ANSWER);
        lab.node("client").in_namespace(asked).unwrap().unwrap().addresses()
    };
    assert_eq!((ask("evil.example"), ask("shop.example")), (vec![server], vec![outside]), "{}", lab.logs());
    let route = |to: IpAddr| lab.node("router").ok(&format!("ip route show exact {to}/32")).unwrap();
    // What was announced after it is there, so it would be too.
    assert!(wait_until(LONG, || route(outside).contains("10.0.2.2")), "{}", lab.logs());
    assert_eq!(route(server), "");
    let connected = lab.node("client").in_namespace(|| tcp::connect(server, PORT, FIRST_SYN)).unwrap();
    assert!(connected.is_ok(), "{}", lab.logs());
}

#[test]
fn on_frr_no_route_for_the_networks_own_is_taken() {
    let own = "ip route 192.0.2.53/32 10.0.2.2\nipv6 route 2001:db8:53::53/128 fd00:2::2\n";
    inside_is_refused("frr", "router/frr.conf", own);
}

#[test]
fn on_bird_no_route_for_the_networks_own_is_taken() {
    let own = "protocol static own4 { ipv4; route 192.0.2.53/32 via 10.0.2.2; }
protocol static own6 { ipv6; route 2001:db8:53::53/128 via fd00:2::2; }\n";
    inside_is_refused("bird", "router/bird.conf", own);
}
