//! Networks that the router announces to the guard: never leased while it does, where the operator wants that.

use super::*;

const EXCLUDES: (&str, &str) = ("[bgp]\n", "[bgp]\nexclude_announced = true\n");
const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(45, 10, 7, 9));
const COME: &str = "ip addr add 45.10.7.1/24 dev eth4";
const GO: &str = "ip addr del 45.10.7.1/24 dev eth4";

fn inside(world: &World) -> String {
    world.ask_guard("status")["inside"].to_string()
}

/// `tells` makes the router announce whatever it has: its links' networks, a default route, host routes.
fn what_the_router_announces_is_not_leased(world: &World, tells: impl FnOnce(&Node)) {
    let router = world.node("router");
    tells(router);
    world.dns.set_addresses("other.example", 60, &[OTHER]);
    let is_told = || world.resolve("client", "other.example", dns::A).addresses() == [OTHER];
    assert!(wait_until(LONG, is_told), "{}", world.lab.logs());
    assert!(world.routes.last(OTHER, true).is_some());

    router.ok(COME).unwrap();
    let closed = || world.routes.last(OTHER, false) > world.routes.last(OTHER, true);
    assert!(wait_until(LONG, closed), "it stays open: {}\n{}", inside(world), world.lab.logs());
    assert!(inside(world).contains("45.10.7.0/24 (announced by router)"), "{}", inside(world));
    let answer = world.resolve("client", "other.example", dns::A);
    assert_eq!((answer.addresses(), answer.message.extended_errors()), (Vec::new(), vec![17]), "Filtered");
    let explain = || {
        let command =
            world.node(world.guard).command(env!("CARGO_BIN_EXE_destguard")).args(["explain", "45.10.7.9"]).output();
        String::from_utf8_lossy(&command.unwrap().stdout).into_owned()
    };
    assert!(explain().contains("45.10.7.0/24 is announced by peer router"), "{}", explain());
    // Neither the default route nor host routes, of this guard or anybody, make anything inside.
    assert_eq!(world.resolve("client", "n1.many.test", dns::A).addresses(), [many(dns::A, 1)]);
    assert_eq!(world.resolve("client", "n1.many.test", dns::AAAA).addresses(), [many(dns::AAAA, 1)]);
    for wrong in ["0.0.0.0/0", "::/0", "/32 (announced", "/128 (announced"] {
        assert!(!inside(world).contains(wrong), "{}", inside(world));
    }

    router.ok(GO).unwrap();
    assert!(wait_until(LONG, is_told), "{}\n{}", inside(world), world.lab.logs());
    assert!(!inside(world).contains("45.10.7.0/24"), "{}", inside(world));
}

#[test]
fn on_bird_what_it_announces_is_the_networks_own() {
    let world = World::up(BIRD, &[EXCLUDES]);
    what_the_router_announces_is_not_leased(&world, |router| {
        let text = router.file("/etc/bird/bird.conf").unwrap();
        router
            .write("/etc/bird/bird.conf", &text.replace("export none; import limit", "export all; import limit"))
            .unwrap();
        router.ok("birdc configure").unwrap();
    });
    // A router that restarts keeps what it had said.
    let router = world.node("router");
    router.ok(COME).unwrap();
    assert!(wait_until(LONG, || inside(&world).contains("45.10.7.0/24")), "{}", inside(&world));
    router.stop();
    assert!(wait_until(LONG, || !world.established()), "{}", world.lab.logs());
    assert!(inside(&world).contains("45.10.7.0/24 (announced by router)"), "{}", inside(&world));
}

#[test]
fn on_frr_what_it_announces_is_the_networks_own() {
    let world = World::up(FRR, &[EXCLUDES]);
    what_the_router_announces_is_not_leased(&world, |router| {
        let lines = [
            "configure terminal",
            "route-map ALL permit 10",
            "router bgp 65010",
            "address-family ipv4 unicast",
            "redistribute connected",
            "redistribute static",
            "neighbor 10.0.3.2 default-originate",
            "neighbor 10.0.3.2 route-map ALL out",
        ];
        let lines: String = lines.iter().map(|line| format!(" -c '{line}'")).collect();
        router.ok(&format!("vtysh{lines}")).unwrap();
    });
}

#[test]
fn unless_the_operator_says_so_what_it_announces_changes_nothing() {
    let world = World::up(BIRD, &[]);
    let router = world.node("router");
    let text = router.file("/etc/bird/bird.conf").unwrap();
    router
        .write("/etc/bird/bird.conf", &text.replace("export none; import limit", "export all; import limit"))
        .unwrap();
    router.ok("birdc configure").unwrap();
    router.ok(COME).unwrap();
    let heard = || world.ask_guard("peers")["peers"][0]["received"]["announced"].as_u64() > Some(0);
    assert!(wait_until(LONG, heard), "{}", world.ask_guard("peers"));
    world.dns.set_addresses("other.example", 60, &[OTHER]);
    assert_eq!(world.resolve("client", "other.example", dns::A).addresses(), [OTHER]);
    assert!(!inside(&world).contains("announced"), "{}", inside(&world));
    // Said later, it counts at once: what the router announces is known.
    let guard = world.node("guard");
    let text = guard.file(CONFIG).unwrap();
    guard.write(CONFIG, &text.replace(EXCLUDES.0, EXCLUDES.1)).unwrap();
    let reload = guard.command(env!("CARGO_BIN_EXE_destguard")).arg("reload").output().unwrap();
    assert!(reload.status.success(), "{reload:?}");
    assert!(wait_until(LONG, || inside(&world).contains("45.10.7.0/24 (announced by router)")), "{}", inside(&world));
    assert_eq!(world.resolve("client", "other.example", dns::A).addresses(), [] as [IpAddr; 0]);
}
