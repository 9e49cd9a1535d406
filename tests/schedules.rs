//! A gateway whose group and list come in force at a minute, without a reload. In network namespaces; needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use lab::dns::{self, Server};
use lab::{Lab, wait_until};
use serde_json::Value;

const CONFIG: &str = "/etc/destguard/destguard.toml";
const DESTGUARD: &str = env!("CARGO_BIN_EXE_destguard");
const LONG: Duration = Duration::from_secs(180);
/// Its hours differ from UTC's also in their minutes.
const ZONE: &str = "Asia/Kathmandu";

/// Six hours from then.
fn window(start: Timestamp) -> String {
    let zone = TimeZone::get(ZONE).unwrap();
    let minute = |at: Timestamp| zone.to_datetime(at).strftime("%H:%M").to_string();
    format!("{}-{}", minute(start), minute(start.checked_add(SignedDuration::from_hours(6)).unwrap()))
}

fn json(lab: &Lab, words: &[&str]) -> Value {
    let output = lab.node("gateway").command(DESTGUARD).args(words).arg("--json").output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

#[test]
fn a_group_and_a_list_come_in_force_at_their_minute_and_close_what_they_deny() {
    let lab = Lab::builder("lab/gateway/gateway.clab.yml").destguard(DESTGUARD).hold("gateway").up().unwrap();
    let upstreams = ["192.0.2.53:53", "[2001:db8:53::53]:53"].map(|at| at.parse().unwrap());
    let upstream = Server::start(lab.node("internet"), &upstreams).unwrap();
    upstream.set_addresses("one.test", 3600, &["203.0.113.31".parse().unwrap()]);
    upstream.set_addresses("two.test", 3600, &["203.0.113.32".parse().unwrap()]);
    upstream.set_addresses("three.test", 3600, &["203.0.113.33".parse().unwrap()]);
    let gateway = lab.node("gateway");
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
    gateway.start().unwrap();
    assert!(wait_until(LONG, || json(&lab, &["status"])["state"] == "enforcing"), "{}", lab.logs());

    let denies = |name: &str| {
        let server: SocketAddr = "10.0.1.1:53".parse().unwrap();
        let ask = || dns::ask(server, name, dns::A, Duration::from_secs(5));
        lab.node("client").in_namespace(ask).unwrap().is_ok_and(|answer| answer.rcode() == dns::NXDOMAIN)
    };
    let leases = || json(&lab, &["leases"]).to_string();
    for name in ["one.test", "two.test", "three.test"] {
        assert!(!denies(name), "{name} {}", lab.logs());
    }
    assert!(leases().contains("203.0.113.31") && leases().contains("203.0.113.32"), "{}", leases());
    let out = json(&lab, &["status"])["out_of_hours"].clone();
    assert_eq!((&out[0]["what"], &out[1]["what"]), (&"group school".into(), &"list night".into()), "{out}");
    assert!(out[0]["until"].as_str().unwrap().ends_with("+0545"), "{out}");
    let explained = json(&lab, &["explain", "one.test", "--client", "10.0.1.2"]).to_string();
    assert!(
        explained.contains("the group school, which the client belongs to, is out of its hours until"),
        "{explained}"
    );
    let explained = json(&lab, &["explain", "two.test"]).to_string();
    assert!(explained.contains("the list night, which has a rule for it, is out of its hours until"), "{explained}");

    // The next minute but for one that begins before the reload may be done.
    let soon = Timestamp::now().as_second() + 15;
    let start = Timestamp::from_second(soon - soon.rem_euclid(60) + 60).unwrap();
    configure(&window(start));
    gateway.ok(&format!("{DESTGUARD} reload")).unwrap();
    assert!(
        wait_until(LONG, || denies("one.test") && denies("two.test")),
        "{}\n{}",
        json(&lab, &["status"]),
        lab.logs()
    );
    assert!(Timestamp::now() >= start, "not before its minute");
    let closed = || !leases().contains("203.0.113.31") && !leases().contains("203.0.113.32");
    assert!(wait_until(LONG, closed), "{}", leases());
    assert!(leases().contains("203.0.113.33") && !denies("three.test"), "{}", leases());
    assert_eq!(json(&lab, &["status"])["out_of_hours"], Value::Null, "nothing is out of its hours");
}
