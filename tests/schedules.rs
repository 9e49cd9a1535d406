//! A gateway whose group and list come in force at a minute, without a reload. In network namespaces; needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/gateway_lab.rs"]
#[allow(dead_code)]
mod gateway_lab;

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use lab::wait_until;
use serde_json::Value;

use gateway_lab::{CONFIG, World, address};

/// For what happens at a minute that is yet to come.
const LONG: Duration = Duration::from_secs(180);
/// Its hours differ from UTC's also in their minutes.
const ZONE: &str = "Asia/Kathmandu";

/// Six hours from then.
fn window(start: Timestamp) -> String {
    let zone = TimeZone::get(ZONE).unwrap();
    let minute = |at: Timestamp| zone.to_datetime(at).strftime("%H:%M").to_string();
    format!("{}-{}", minute(start), minute(start.checked_add(SignedDuration::from_hours(6)).unwrap()))
}

#[test]
fn a_group_and_a_list_come_in_force_at_their_minute_and_close_what_they_deny() {
    let world = World::held();
    for (name, last) in [("one.test", 31), ("two.test", 32), ("three.test", 33)] {
        world.dns.set_addresses(name, 3600, &[address(last)]);
    }
    let gateway = world.gateway();
    let base = gateway.file(CONFIG).unwrap();
    let configure = |window: &str| {
        let more = format!(
            "[policy]\ntimezone = \"{ZONE}\"\n\
             [[policy.list]]\nname = \"night\"\npath = \"lists/night.txt\"\nformat = \"domains\"\naction = \"deny\"\n\
             schedule = [\"{window}\"]\n\
             [[policy.group]]\nname = \"school\"\nclients = [\"10.0.0.0/8\"]\ndeny = [\"one.test\"]\nschedule = [\"{window}\"]\n"
        );
        gateway.write(CONFIG, &format!("{base}\n{more}")).unwrap();
    };
    gateway.write("/etc/destguard/lists/night.txt", "two.test\n").unwrap();
    let now = Timestamp::now();
    configure(&window(now.checked_add(SignedDuration::from_hours(12)).unwrap()));
    world.start();

    let denies = |name: &str| world.denies(name);
    let leases = || world.guard("leases").to_string();
    for name in ["one.test", "two.test", "three.test"] {
        assert!(!denies(name), "{name} {}", world.lab.logs());
    }
    assert!(leases().contains("203.0.113.31") && leases().contains("203.0.113.32"), "{}", leases());
    let out = world.guard("status")["out_of_hours"].clone();
    assert_eq!((&out[0]["what"], &out[1]["what"]), (&"group school".into(), &"list night".into()), "{out}");
    assert!(out[0]["until"].as_str().unwrap().ends_with("+0545"), "{out}");
    let explained = world.guard("explain one.test --client 10.0.1.2").to_string();
    assert!(
        explained.contains("the group school, which the client belongs to, is out of its hours until"),
        "{explained}"
    );
    let explained = world.guard("explain two.test").to_string();
    assert!(explained.contains("the list night, which has a rule for it, is out of its hours until"), "{explained}");

    // The next minute but for one that begins before the reload may be done.
    let soon = Timestamp::now().as_second() + 15;
    let start = Timestamp::from_second(soon - soon.rem_euclid(60) + 60).unwrap();
    configure(&window(start));
    world.reload();
    assert!(
        wait_until(LONG, || denies("one.test") && denies("two.test")),
        "{}\n{}",
        world.guard("status"),
        world.lab.logs()
    );
    assert!(Timestamp::now() >= start, "not before its minute");
    let closed = || !leases().contains("203.0.113.31") && !leases().contains("203.0.113.32");
    assert!(wait_until(LONG, closed), "{}", leases());
    assert!(leases().contains("203.0.113.33") && !denies("three.test"), "{}", leases());
    assert_eq!(world.guard("status")["out_of_hours"], Value::Null, "nothing is out of its hours");
}
