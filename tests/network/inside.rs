//! The network's own addresses: answers that name them draw nothing out of the network, and what is on the guard's own link is inside by itself.

use super::*;

const INSIDE: (&str, &str) = ("inside = []", "inside = [\"45.10.0.0/24\"]");
/// A server in the DMZ, and the router itself.
const SERVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(45, 10, 0, 10));
const ROUTER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(45, 10, 0, 1));

/// The network has a public prefix behind its router, with a server in it; two names of strangers point there.
fn dmz(file: &str, edits: &[(&str, &str)]) -> (World, EchoServer) {
    let world = World::up(file, edits);
    world.node("router").ok(&format!("ip addr add {ROUTER}/24 dev eth4")).unwrap();
    world.node("client2").ok(&format!("ip addr add {SERVER}/24 dev eth1")).unwrap();
    let server = EchoServer::start(world.node("client2"), PORT).unwrap();
    world.dns.set_addresses("evil.example", 60, &[SERVER]);
    world.dns.set_addresses("router.example", 60, &[ROUTER]);
    assert!(wait_until(LONG, || world.connects("client", SERVER)), "{}", world.lab.logs());
    (world, server)
}

fn the_dmz_stays_reachable(file: &str) {
    let (world, _server) = dmz(file, &[INSIDE]);
    for (name, address) in [("evil.example", SERVER), ("router.example", ROUTER)] {
        let answer = world.resolve("client", name, dns::A);
        assert_eq!((answer.rcode(), answer.addresses()), (dns::NOERROR, Vec::new()), "{:?}", answer.message);
        assert_eq!(answer.message.extended_errors(), [17], "Filtered");
        let drawn = world.node("router").ok(&format!("ip route show table main exact {address}/32")).unwrap();
        assert_eq!(drawn, "", "{address} was drawn out");
    }
    assert!(world.connects("client", SERVER));
    let status = world.ask_guard("status");
    assert_eq!(status["leases"]["active"], 0);
    let inside = status["inside"].to_string();
    assert!(inside.contains("45.10.0.0/24 (addresses.inside)"), "{inside}");
}

#[test]
fn on_frr_a_server_of_the_network_stays_reachable_whoever_names_it() {
    the_dmz_stays_reachable(FRR);
}

#[test]
fn on_bird_a_server_of_the_network_stays_reachable_whoever_names_it() {
    the_dmz_stays_reachable(BIRD);
}

/// What the two tests above are there for: nobody said what is inside.
#[test]
fn without_a_word_on_what_is_inside_a_server_of_the_network_is_drawn_out() {
    let (world, _server) = dmz(BIRD, &[]);
    assert_eq!(world.resolve("client", "evil.example", dns::A).addresses(), [SERVER]);
    assert!(world.routes.last(SERVER, true).is_some());
    assert!(!world.connects("client", SERVER), "the host route is more specific than the link");
}

#[test]
fn what_comes_on_link_is_inside_at_once_and_what_goes_is_not() {
    let world = World::up(BIRD, &[]);
    let (own, other) = (IpAddr::from([45, 10, 7, 1]), IpAddr::from([45, 10, 7, 9]));
    world.dns.set_addresses("other.example", 60, &[other]);
    world.dns.set_addresses("own.example", 60, &[own]);
    assert_eq!(world.resolve("client", "other.example", dns::A).addresses(), [other]);
    assert!(world.routes.last(other, true).is_some());
    let guard = world.node("guard");
    let is_told = |name: &str| !world.resolve("client", name, dns::A).addresses().is_empty();
    let explain = || {
        let command = guard.command(env!("CARGO_BIN_EXE_destguard")).args(["explain", &other.to_string()]).output();
        String::from_utf8_lossy(&command.unwrap().stdout).into_owned()
    };
    for (come, go) in [
        (format!("ip addr add {own}/24 dev eth1"), format!("ip addr del {own}/24 dev eth1")),
        ("ip route add 45.10.7.0/24 dev eth1".to_owned(), "ip route del 45.10.7.0/24 dev eth1".to_owned()),
    ] {
        guard.ok(&come).unwrap();
        let closed = || world.routes.last(other, false) > world.routes.last(other, true);
        assert!(wait_until(LONG, closed), "{come}: it stays open: {}", world.lab.logs());
        assert!(!is_told("other.example"), "{come}");
        assert!(explain().contains("45.10.7.0/24 is on-link at eth1"), "{}", explain());
        let inside = world.ask_guard("status")["inside"].to_string();
        assert!(inside.contains("45.10.7.0/24 (on-link at eth1)"), "{inside}");
        if come.contains("addr") {
            assert_eq!(world.resolve("client", "own.example", dns::A).addresses(), [own], "its own name is told");
            assert!(world.routes.last(own, true).is_none(), "and not opened");
        }
        guard.ok(&go).unwrap();
        assert!(wait_until(LONG, || is_told("other.example")), "{go}: {}", world.lab.logs());
    }
    // Ways to everywhere make nothing inside, and a route with a gateway leads elsewhere.
    for far in ["128.0.0.0/2 dev eth1", "45.10.7.0/24 via 10.0.3.1"] {
        guard.ok(&format!("ip route add {far}")).unwrap();
    }
    guard.ok("ip addr add 45.10.9.1/24 dev eth1").unwrap();
    let known = || world.ask_guard("status")["inside"].to_string();
    assert!(wait_until(LONG, || known().contains("45.10.9.0/24")), "{}", known());
    assert!(!known().contains("45.10.7.0/24"), "{}", known());
    assert!(is_told("other.example"));
    let warnings = world.ask_guard("status")["warnings"].to_string();
    assert!(warnings.contains("128.0.0.0/2 is on-link at eth1: too large"), "{warnings}");
    // Who has not said what is inside is told what to write.
    let silent = guard.file(CONFIG).unwrap().replace("inside = []", "");
    guard.write("/etc/destguard/silent.toml", &silent).unwrap();
    let mut check = guard.command(env!("CARGO_BIN_EXE_destguard"));
    check.args(["check", "--config", "/etc/destguard/silent.toml"]);
    let check = check.output().unwrap();
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    assert_eq!(check.status.code(), Some(2), "{said}");
    assert!(said.contains("addresses.inside = [\"45.10.9.0/24\"] (on-link at this host)"), "{said}");
}

#[test]
fn on_link_prefixes_are_like_others_where_the_operator_says_so() {
    let world = World::up(BIRD, &[("inside = []", "inside = []\non_link = \"ignore\"")]);
    let other = IpAddr::from([45, 10, 7, 9]);
    world.dns.set_addresses("other.example", 60, &[other]);
    world.node("guard").ok("ip addr add 45.10.7.1/24 dev eth1").unwrap();
    assert_eq!(world.resolve("client", "other.example", dns::A).addresses(), [other]);
    assert_eq!(world.ask_guard("status")["inside"], Value::Null);
}

/// The upstream of a gateway is a router with a page of its own: the operator allows its name and address.
#[test]
fn on_the_gateway_the_page_of_the_router_that_is_the_upstream_is_reached() {
    let page = IpAddr::from([192, 0, 2, 53]);
    let allowed =
        "[[policy.private]]\ndomain = \"router.test\"\nprefixes = [\"192.0.2.53/32\"]\n\n[[policy.private]]\n";
    let world = World::up(GATEWAY, &[("[[policy.private]]\n", allowed)]);
    for name in ["router.test", "rebind.test"] {
        world.dns.set_addresses(name, 60, &[page]);
    }
    assert_eq!(
        world.resolve("client", "rebind.test", dns::A).addresses(),
        [] as [IpAddr; 0],
        "nobody allowed that name"
    );
    assert!(!world.connects("client", page));
    assert_eq!(world.resolve("client", "router.test", dns::A).addresses(), [page]);
    assert!(world.connects("client", page), "{}", world.lab.logs());
    let past = || dns::ask(SocketAddr::new(page, 53), "n1.many.test", dns::A, FIRST_SYN);
    let answer = world.node("client").in_namespace(past).unwrap();
    assert!(answer.is_err(), "its resolver is not: {answer:?}");
}
