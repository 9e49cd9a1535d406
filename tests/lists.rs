//! A gateway whose list of names changes while it runs: the kernel's table follows, and a list with an error changes nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code)]
#[path = "support/gateway_lab.rs"]
mod gateway_lab;

use std::net::IpAddr;
use std::time::Duration;

use gateway_lab::{CONFIG, DESTGUARD, LONG, World, address};
use lab::{dns, wait_until};

const LIST: &str = "/etc/destguard/lists/bad.txt";
/// Less than the second after which a lost SYN is sent again.
const FIRST_SYN: Duration = Duration::from_millis(300);

/// A guard whose list denies this.
fn up(list: &str) -> World {
    let world = World::held();
    world.dns.set_addresses("one.test", 600, &[address(31)]);
    world.dns.set_addresses("two.test", 600, &[address(32)]);
    let more = "[[policy.list]]\npath = \"lists/bad.txt\"\nformat = \"domains\"\naction = \"deny\"\n";
    world.configure(|text| format!("{text}\n{more}"));
    world.gateway().write(LIST, list).unwrap();
    world.start();
    world
}

#[test]
fn a_list_that_changes_closes_what_it_forbids_and_a_broken_one_changes_nothing() {
    let world = up("# first\ntwo.test\n");
    let [one, two] = [31, 32].map(|last| IpAddr::from([203, 0, 113, last]));
    assert_eq!(world.ask("two.test", dns::A).rcode(), dns::NXDOMAIN);
    assert_eq!(world.ask("one.test", dns::A).addresses(), [one]);
    assert!(world.connects(one, FIRST_SYN) && !world.connects(two, FIRST_SYN));

    // The other way round: what is open closes, and what was denied opens.
    world.replace(LIST, "# second\n\none.test\n");
    assert!(wait_until(LONG, || world.ask("one.test", dns::A).rcode() == dns::NXDOMAIN), "{}", world.lab.logs());
    assert!(wait_until(LONG, || !world.connects(one, FIRST_SYN)), "{}", world.lab.logs());
    assert_eq!(world.guard("leases")["leases"].as_array().map(Vec::len), Some(0));
    assert_eq!(world.ask("two.test", dns::A).addresses(), [two]);
    assert!(world.connects(two, FIRST_SYN));
    let why = world.guard("explain www.one.test").to_string();
    assert!(why.contains("lists/bad.txt:3"), "{why}");

    // A limit is applied without a restart; a key that needs one is named, and keeps no other from being applied.
    let gateway = world.gateway();
    let old = gateway.file(CONFIG).unwrap();
    let new = old.replace("new_per_domain = \"1000/s\"", "new_per_domain = \"999/s\"");
    gateway.write(CONFIG, &new).unwrap();
    let told = world.reload();
    assert!(told.contains("lease.new_per_domain") && told.contains("999/s"), "{told}");
    gateway.write(CONFIG, &format!("confine = false\n{}", new.replace("999/s", "998/s"))).unwrap();
    let text = world.reload();
    assert!(text.contains("998/s") && text.contains("these need a restart") && text.contains("confine"), "{text}");
    // A lease of the old length, then one of the new.
    let ends = |address: IpAddr| {
        let leases = world.guard("leases")["leases"].clone();
        let lease = leases.as_array().unwrap().iter().find(|lease| lease["address"] == address.to_string()).cloned();
        lease.unwrap()["ends_in_seconds"].as_u64().unwrap()
    };
    let (before, after) = (IpAddr::from([203, 0, 113, 11]), IpAddr::from([203, 0, 113, 12]));
    world.dns.set_addresses("before.test", 1, &[before]);
    world.dns.set_addresses("after.test", 1, &[after]);
    world.ask("before.test", dns::A);
    gateway.write(CONFIG, &new.replace("[lease]", "[lease]\nmin = \"600s\"\ngrace = \"300s\"\ncapacity = 50")).unwrap();
    world.reload();
    world.ask("after.test", dns::A);
    assert!(ends(before) <= 135 && ends(after) > 890, "{} s, {} s", ends(before), ends(after));
    assert_eq!(world.guard("status")["leases"]["capacity"], 50);
    gateway.write(CONFIG, &new).unwrap();
    let text = world.reload();
    assert!(text.contains("lease.capacity") && !text.contains("these need a restart"), "{text}");
    assert_eq!(world.guard("status")["leases"]["capacity"], 100_000, "the sets grow again");

    // Broken: nothing changes, and status tells where.
    world.replace(LIST, "two.test\none..test\n");
    assert!(wait_until(LONG, || world.guard("status")["state"] == "degraded"), "{}", world.lab.logs());
    let status = world.guard("status");
    for told in [&status["reasons"], &status["errors"]] {
        assert!(told.to_string().contains("lists/bad.txt:2: "), "{status}");
    }
    assert_eq!(world.ask("one.test", dns::A).rcode(), dns::NXDOMAIN);
    assert!(world.connects(two, FIRST_SYN));

    // Gone: neither.
    gateway.ok(&format!("rm {LIST}")).unwrap();
    let missing = || world.guard("status")["reasons"].to_string().contains("No such file");
    assert!(wait_until(LONG, missing), "{}", world.lab.logs());
    assert_eq!(world.ask("one.test", dns::A).rcode(), dns::NXDOMAIN);

    // Broken, and the host starts anew: the last list that could be read serves.
    world.replace(LIST, "two.test\none..test\n");
    gateway.stop();
    gateway.start().unwrap();
    assert!(wait_until(LONG, || world.guard("status")["state"] == "degraded"), "{}", world.lab.logs());
    let reasons = world.guard("status")["reasons"].to_string();
    assert!(reasons.contains("the last copy that could be read") && reasons.contains("lists/bad.txt:2: "), "{reasons}");
    assert_eq!(world.ask("one.test", dns::A).rcode(), dns::NXDOMAIN);
    assert_eq!(world.ask("two.test", dns::A).addresses(), [two]);

    // Right again, written in place.
    gateway.write(LIST, "two.test\n").unwrap();
    assert!(wait_until(LONG, || world.guard("status")["state"] == "enforcing"), "{}", world.lab.logs());
    assert_eq!(world.ask("one.test", dns::A).addresses(), [one]);
    assert!(wait_until(LONG, || !world.connects(two, FIRST_SYN)), "{}", world.lab.logs());
}

#[test]
fn a_check_of_a_broken_list_tells_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    file("bad.txt", "a.test\nb..test\n");
    let list = |name: &str| format!("[[policy.list]]\npath = \"{name}\"\nformat = \"domains\"\naction = \"deny\"\n");
    let base = "[[dns.upstream]]\nurl = \"udp://192.0.2.53\"\n[nftables]\nmode = \"local\"\n";
    file("destguard.toml", &format!("{base}{}{}", list("bad.txt"), list("absent.txt")));
    let config = directory.path().join("destguard.toml");
    let output = std::process::Command::new(DESTGUARD).args(["check", "--config"]).arg(&config).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(text.contains("destguard.toml:6:") && text.contains("bad.txt:2: \"b..test\""), "{text}");
    assert!(text.contains("destguard.toml:10:") && text.contains("absent.txt can't be read"), "{text}");
}
