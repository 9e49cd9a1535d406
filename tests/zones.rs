//! Local zones of a gateway, with the whole daemon and the kernel's table: what they name is answered and opened, follows their files, and a broken file
//! changes nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code)]
#[path = "support/gateway_lab.rs"]
mod gateway_lab;

use std::net::IpAddr;
use std::time::Duration;

use gateway_lab::{CONFIG, DESTGUARD, LONG, World, address};
use lab::dns::{self, Answer};
use lab::wait_until;
use serde_json::Value;

const ZONE: &str = "/etc/destguard/zones/home";
const HOSTS: &str = "/etc/destguard/zones/hosts";
const PTR: u16 = 12;

const FILE: &str = "@ SOA ns admin (\n 1 3600 600 86400\n 30 ) ; negative\nns A 203.0.113.41\nnas 120 A 203.0.113.41\n\
    pc A 10.0.1.77\nwww CNAME nas\nout CNAME cdn.test.\n*.dev A 203.0.113.42\n";
const MORE: &str = "[[dns.zone]]\nname = \"home.arpa\"\nfile = \"zones/home\"\n\
    [[dns.zone]]\nname = \"lan\"\nhosts = \"zones/hosts\"\n\
    [[dns.zone]]\nname = \"inline.example\"\nrecords = [\"@ A 203.0.113.44\", \"far CNAME nas.home.arpa.\"]\nttl = \"90s\"\n";

/// A guard with three local zones, and this at the end of its configuration.
fn up(more: &str) -> World {
    let world = World::held();
    world.dns.set_addresses("cdn.test", 600, &[address(45)]);
    world.dns.set_addresses("rebind.other", 600, &[address(41)]);
    world.configure(|text| format!("{text}\n{MORE}{more}"));
    world.gateway().write(ZONE, FILE).unwrap();
    world.gateway().write(HOSTS, "127.0.0.1 localhost\n203.0.113.43 tv tv.lan\n").unwrap();
    world.start();
    world
}

fn connects(world: &World, to: IpAddr) -> bool {
    world.connects(to, Duration::from_millis(300))
}

fn leased(world: &World) -> Vec<String> {
    let leases = world.guard("leases")["leases"].clone();
    let mut leased: Vec<String> =
        leases.as_array().unwrap().iter().map(|lease| lease["address"].as_str().unwrap().to_owned()).collect();
    leased.sort();
    leased
}

fn zone(world: &World, name: &str) -> Value {
    let status = world.guard("status");
    let zones = status["zones"].as_array().unwrap();
    zones.iter().find(|zone| zone["name"] == name).unwrap().clone()
}

/// The name of the SOA in the authority.
fn soa(answer: &Answer) -> Option<String> {
    let found = answer.message.authority.iter().find(|record| record.data.rtype() == dns::SOA);
    found.map(|record| record.name.trim_end_matches('.').to_owned())
}

#[test]
fn zones_of_every_kind_are_answered_and_opened() {
    let world = up("[policy]\ndeny = [\"=denied.home.arpa\"]\n");
    assert!(!connects(&world, address(41)));
    assert_eq!(world.ask("nas.home.arpa", dns::A).addresses(), [address(41)]);
    assert!(connects(&world, address(41)), "{}", world.lab.logs());
    for (name, last) in [("www.home.arpa", 41), ("x.dev.home.arpa", 42), ("tv.lan", 43), ("inline.example", 44)] {
        assert_eq!(world.ask(name, dns::A).addresses(), [address(last)], "{name}");
        assert!(connects(&world, address(last)), "{name}");
    }
    assert_eq!(world.ask("far.inline.example", dns::A).addresses(), [address(41)]);
    assert!(world.dns.asked().is_empty(), "{:?}", world.dns.asked());
    assert_eq!(world.ask("out.home.arpa", dns::A).addresses(), [address(45)], "an alias leads out");
    assert!(connects(&world, address(45)));
    assert_eq!(world.dns.times_asked("cdn.test"), 1);

    // On the client's own network: told, and not leased.
    assert_eq!(world.ask("pc.home.arpa", dns::A).addresses(), [IpAddr::from([10, 0, 1, 77])]);
    assert_eq!(leased(&world), [41, 42, 43, 44, 45].map(|last| address(last).to_string()));
    let why = world.guard("explain 10.0.1.77").to_string();
    assert!(why.contains("the local zone home.arpa"), "{why}");
    // A name of somebody else's can't lead there.
    assert_eq!(world.ask("rebind.other", dns::A).addresses(), [] as [IpAddr; 0]);

    // What isn't there, by the zone's word.
    for (name, kind, rcode, apex) in [
        ("nobody.home.arpa", dns::A, dns::NXDOMAIN, "home.arpa"),
        ("nas.home.arpa", dns::AAAA, dns::NOERROR, "home.arpa"),
        ("dev.home.arpa", dns::A, dns::NOERROR, "home.arpa"),
        ("x.nas.home.arpa", dns::A, dns::NXDOMAIN, "home.arpa"),
        ("localhost.lan", dns::A, dns::NXDOMAIN, "lan"),
        ("other.lan", dns::A, dns::NXDOMAIN, "lan"),
    ] {
        let answer = world.ask(name, kind);
        assert_eq!((answer.rcode(), answer.addresses().len()), (rcode, 0), "{name}");
        assert_eq!(soa(&answer).as_deref(), Some(apex), "{name}");
    }
    for (name, rcode, records) in [
        ("41.113.0.203.in-addr.arpa", dns::NOERROR, 2),
        ("43.113.0.203.in-addr.arpa", dns::NOERROR, 1),
        ("77.1.0.10.in-addr.arpa", dns::NOERROR, 1),
        ("78.1.0.10.in-addr.arpa", dns::NXDOMAIN, 0),
    ] {
        let answer = world.ask(name, PTR);
        assert_eq!((answer.rcode(), answer.message.answers.len()), (rcode, records), "{name}");
    }
    assert_eq!(world.ask("home.arpa", 252).rcode(), dns::REFUSED, "no zone is transferred");
    let text = world.gateway().ok(&format!("{DESTGUARD} status")).unwrap();
    assert!(text.contains("home.arpa") && text.contains("zones/hosts") && text.contains("inline.example"), "{text}");
    assert_eq!((&zone(&world, "lan")["records"], &zone(&world, "lan")["skipped"]), (&2.into(), &1.into()));

    // And the policy has the last word.
    let denied = world.ask("denied.home.arpa", dns::A);
    assert_eq!((denied.rcode(), denied.message.extended_errors()), (dns::NXDOMAIN, vec![15]));
}

#[test]
fn a_zone_follows_its_file_and_a_broken_one_changes_nothing() {
    let world = up("");
    let gateway = world.gateway();
    assert_eq!(world.ask("nas.home.arpa", dns::A).addresses(), [address(41)]);
    assert!(connects(&world, address(41)));
    let sum = zone(&world, "home.arpa")["sha256"].clone();

    // Another address: answered at once, though the old answer is good for two minutes; what the zone has no more closes.
    world.replace(ZONE, &FILE.replace("nas 120 A 203.0.113.41\n", "nas A 203.0.113.46\n"));
    assert!(
        wait_until(LONG, || world.ask("nas.home.arpa", dns::A).addresses() == [address(46)]),
        "{}",
        world.lab.logs()
    );
    assert!(connects(&world, address(46)));
    assert_ne!(zone(&world, "home.arpa")["sha256"], sum);
    world.replace(ZONE, "nas A 203.0.113.46\n");
    assert!(wait_until(LONG, || world.ask("ns.home.arpa", dns::A).rcode() == dns::NXDOMAIN), "{}", world.lab.logs());
    assert!(wait_until(LONG, || !connects(&world, address(41))), "{}", world.lab.logs());
    assert!(connects(&world, address(46)), "what stays is open on");

    // Broken: nothing changes, and status says where.
    world.replace(ZONE, "nas A 203.0.113.47\n\nbad A 203.0.113.999\n");
    assert!(wait_until(LONG, || world.guard("status")["state"] == "degraded"), "{}", world.lab.logs());
    let status = world.guard("status");
    for told in [&status["reasons"], &status["errors"], &zone(&world, "home.arpa")["trouble"]] {
        assert!(told.to_string().contains("zones/home:3: "), "{status}");
    }
    assert_eq!(world.ask("nas.home.arpa", dns::A).addresses(), [address(46)]);
    let check = gateway.command(DESTGUARD).args(["check", "--config", CONFIG]).output().unwrap();
    let text = String::from_utf8_lossy(&check.stderr).into_owned() + &String::from_utf8_lossy(&check.stdout);
    assert!(!check.status.success() && text.contains("zones/home:3: "), "{text}");

    // A reload keeps it too, and applies the rest.
    let config = gateway.file(CONFIG).unwrap();
    gateway.write(CONFIG, &config.replace("@ A 203.0.113.44", "@ A 203.0.113.48")).unwrap();
    let text = world.reload();
    assert!(text.contains("dns.zone[2].records[0]"), "{text}");
    assert_eq!(world.ask("inline.example", dns::A).addresses(), [address(48)]);
    assert_eq!(world.ask("nas.home.arpa", dns::A).addresses(), [address(46)]);
    // A wrong record of the configuration keeps the reload from anything.
    gateway.write(CONFIG, &config.replace("@ A 203.0.113.44", "@ A 203.0.113")).unwrap();
    let reload = gateway.command(DESTGUARD).arg("reload").output().unwrap();
    let text = String::from_utf8_lossy(&reload.stderr).into_owned() + &String::from_utf8_lossy(&reload.stdout);
    assert!(!reload.status.success() && text.contains("\"@ A 203.0.113\""), "{text}");
    gateway.write(CONFIG, &config).unwrap();

    // Mended.
    world.replace(ZONE, "nas A 203.0.113.47\n");
    assert!(
        wait_until(LONG, || world.ask("nas.home.arpa", dns::A).addresses() == [address(47)]),
        "{}",
        world.lab.logs()
    );
    assert!(wait_until(LONG, || world.guard("status")["state"] == "enforcing"), "{}", world.lab.logs());

    // Without the zones the names are like any other.
    gateway.write(CONFIG, config.split("[[dns.zone]]").next().unwrap()).unwrap();
    world.reload();
    world.dns.set_addresses("inline.example", 60, &[]);
    let before = world.dns.times_asked("inline.example");
    world.ask("inline.example", dns::A);
    assert_eq!(world.dns.times_asked("inline.example"), before + 1);
    assert_eq!(world.guard("status")["zones"], Value::Null);
}

#[test]
fn a_zone_that_is_broken_at_the_start_is_served_from_its_copy_or_once_it_is_mended() {
    const COPIES: &str = "/var/lib/destguard/zones";
    let world = up("");
    let gateway = world.gateway();
    let copies = || gateway.ok(&format!("ls {COPIES}")).map_or(0, |text| text.lines().count());
    assert!(wait_until(LONG, || copies() == 2), "{}", world.lab.logs());
    let begins_anew = |what: &dyn Fn()| {
        gateway.stop();
        what();
        gateway.start().unwrap();
        assert!(wait_until(LONG, || world.guard("status")["state"] == "degraded"), "{}", world.lab.logs());
        let reasons = world.guard("status")["reasons"].to_string();
        assert!(reasons.contains("zones/home:1: "), "{reasons}");
    };
    begins_anew(&|| world.replace(ZONE, "bad\n"));
    assert_eq!(world.ask("nas.home.arpa", dns::A).addresses(), [address(41)], "the last copy serves");
    begins_anew(&|| drop(gateway.ok(&format!("rm -r {COPIES}")).unwrap()));
    let answer = world.ask("nas.home.arpa", dns::A);
    assert_eq!((answer.rcode(), world.ask("tv.lan", dns::A).addresses()), (dns::SERVFAIL, vec![address(43)]));
    world.replace(ZONE, FILE);
    assert!(
        wait_until(LONG, || world.ask("nas.home.arpa", dns::A).addresses() == [address(41)]),
        "{}",
        world.lab.logs()
    );
    assert!(connects(&world, address(41)));
}
