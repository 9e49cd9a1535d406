//! A gateway whose clients keep addresses: names that are kept open for them, and programs that connect beyond a lease's end. In network namespaces; needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code)]
#[path = "support/gateway_lab.rs"]
mod gateway_lab;

use std::time::{Duration, Instant};

use gateway_lab::{LONG, World, address};
use lab::{dns, wait_until};

/// A guard with leases of one second and no grace, with these keys beside them.
fn up(keys: &str, names: &[(&str, u8)]) -> World {
    let world = World::held();
    for (name, last) in names {
        world.dns.set_addresses(name, 1, &[address(*last)]);
    }
    world.configure(|text| {
        let text = text.replace("[lease]", &format!("[lease]\nmin = \"1s\"\ngrace = \"1s\"\n{keys}"));
        format!("{text}\n[http]\nlisten = [\"127.0.0.1:8080\"]\n")
    });
    world.start();
    world
}

fn is_leased(world: &World, last: u8) -> bool {
    world.guard(&format!("explain 203.0.113.{last}"))["open"] == true
}

fn metric(world: &World, series: &str) -> u64 {
    let text = world.gateway().ok("curl -s http://127.0.0.1:8080/metrics").unwrap();
    let line = text.lines().find(|line| line.starts_with(series)).map(str::to_owned);
    line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

#[test]
fn a_preloaded_name_is_open_before_anybody_asks_and_stays_so() {
    let world = up("preload = [\"updates.test\", \"gone.test\"]\n", &[("updates.test", 31)]);
    assert!(wait_until(LONG, || is_leased(&world, 31)), "{}", world.lab.logs());
    // Longer than several of its leases.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(25) {
        // Asked for again within its grace: a TTL of a second is shorter than what is asked for at most, so it may be closed for a moment.
        assert!(wait_until(Duration::from_secs(10), || world.connects(address(31), Duration::from_millis(300))));
    }
    let warnings = world.guard("status")["warnings"].to_string();
    assert!(warnings.contains("gone.test isn't kept open") && !warnings.contains("updates.test"), "{warnings}");

    // Taken out by a reload, it closes with its lease.
    world.configure(|text| text.replace("\"updates.test\", \"gone.test\"", ""));
    world.reload();
    assert!(wait_until(LONG, || !is_leased(&world, 31)), "{}", world.lab.logs());
    assert!(!world.guard("status")["warnings"].to_string().contains("gone.test"));
}

/// Until its lease is over, in the kernel too.
fn outlive(world: &World, last: u8) {
    let address = format!("203.0.113.{last}");
    let gateway = world.gateway();
    let is_set = || gateway.ok("nft list table inet destguard").unwrap().contains(&address);
    assert!(wait_until(LONG, || !is_leased(world, last) && !is_set()), "{}", world.lab.logs());
}

#[test]
fn without_it_an_address_that_is_kept_beyond_its_lease_is_refused() {
    let world = up("", &[("pool.test", 32)]);
    assert_eq!(world.ask("pool.test", dns::A).addresses().len(), 1);
    outlive(&world, 32);
    assert!(!world.connects(address(32), Duration::from_secs(6)), "{}", world.lab.logs());
}

#[test]
fn a_program_that_keeps_its_address_goes_on_while_the_name_leads_there() {
    let world = up("revalidate = true\n", &[("pool.test", 33), ("moves.test", 34)]);
    world.ask("pool.test", dns::A);
    outlive(&world, 33);
    // The first attempt is refused; as programs do, another follows.
    assert!(wait_until(LONG, || world.connects(address(33), Duration::from_secs(1))), "{}", world.lab.logs());
    assert!(wait_until(LONG, || metric(&world, "destguard_lease_revalidations_total{outcome=\"opened\"}") == 1));

    // The name has moved: what it left stays closed.
    world.ask("moves.test", dns::A);
    outlive(&world, 34);
    world.dns.set_addresses("moves.test", 1, &[address(35)]);
    assert!(!world.connects(address(34), Duration::from_secs(6)), "{}", world.lab.logs());
    assert!(wait_until(LONG, || metric(&world, "destguard_lease_revalidations_total{outcome=\"moved\"}") == 1));
    assert!(!world.connects(address(34), Duration::from_secs(1)), "{}", world.lab.logs());

    // What no name ever opened, and what the operator took back, isn't asked about.
    assert!(!world.connects(address(36), Duration::from_secs(4)));
    world.dns.set_addresses("back.test", 600, &[address(37)]);
    world.ask("back.test", dns::A);
    world.guard("revoke 203.0.113.37");
    assert!(!world.connects(address(37), Duration::from_secs(4)), "{}", world.lab.logs());
}
