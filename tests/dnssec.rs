//! DNSSEC as the world makes it: zones signed by BIND's tools, served by NSD, fetched by an unbound that judges nothing, validated by the guard of a
//! gateway, asked by `dig`. What is good is opened in the kernel, what is bogus is not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use lab::tcp::{self, EchoServer};
use lab::{Lab, Process, wait_until};
use serde_json::Value;

const DESTGUARD: &str = env!("CARGO_BIN_EXE_destguard");
const CONFIG: &str = "/etc/destguard/destguard.toml";
const LONG: Duration = Duration::from_secs(60);
const PORT: u16 = 80;
/// Of the name server.
const SERVER: &str = "10.9.0.1";
/// In its node.
const ZONES: &str = "/etc/destguard/zones";

struct World {
    lab: Lab,
    _echo: EchoServer,
    _daemons: Vec<Process>,
}

impl World {
    fn up() -> Self {
        let lab = Lab::builder("lab/gateway/gateway.clab.yml").destguard(DESTGUARD).hold("gateway").up().unwrap();
        let internet = lab.node("internet");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dnssec/make-zones");
        let made = format!("mkdir -p {ZONES} && cd {ZONES} && {} {SERVER}", script.display());
        internet.ok(&made).unwrap();
        internet.ok(&format!("ip addr add {SERVER}/32 dev lo")).unwrap();
        let file = |name: &str| format!("{ZONES}/{name}");
        let daemons = vec![
            internet.spawn("/usr/sbin/nsd", &["-d", "-c", &file("nsd.conf")]).unwrap(),
            internet.spawn("/usr/sbin/unbound", &["-d", "-c", &file("unbound.conf")]).unwrap(),
        ];
        let echo = EchoServer::start(internet, PORT).unwrap();
        let resolves = || internet.ok("dig @192.0.2.53 +cd +short +tries=1 +time=2 www.good.test").unwrap_or_default();
        assert!(wait_until(LONG, || resolves() == "203.0.113.10\n"), "{}", lab.logs());

        let gateway = lab.node("gateway");
        let anchor = internet.file(&file("root.key")).unwrap();
        gateway.write("/etc/destguard/root.key", &anchor).unwrap();
        let old = gateway.file(CONFIG).unwrap();
        let config = old.replace("[[dns.upstream]]\nurl = \"udp://[2001:db8:53::53]\"\n", "");
        let more = "[dns.dnssec]\nvalidate = true\ntrust_anchor = \"root.key\"\n";
        gateway.write(CONFIG, &format!("{config}\n{more}")).unwrap();
        gateway.start().unwrap();
        let world = Self { lab, _echo: echo, _daemons: daemons };
        assert!(wait_until(LONG, || world.guard("status")["state"] == "enforcing"), "{}", world.lab.logs());
        world
    }

    /// A read command of the guard's command line.
    fn guard(&self, command: &str) -> Value {
        let words: Vec<&str> = command.split(' ').collect();
        let output = self.lab.node("gateway").command(DESTGUARD).args(words).arg("--json").output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// What `dig` shows the client.
    fn dig(&self, words: &str) -> String {
        self.lab.node("client").ok(&format!("dig @10.0.1.1 +tries=1 +time=9 {words}")).unwrap()
    }

    fn connects(&self, to: &str) -> bool {
        let to: IpAddr = to.parse().unwrap();
        let connect = || tcp::connect(to, PORT, Duration::from_millis(300));
        self.lab.node("client").in_namespace(connect).unwrap().is_ok()
    }

    fn leased(&self) -> Vec<String> {
        let leases = self.guard("leases");
        let mut all: Vec<String> = leases["leases"]
            .as_array()
            .unwrap()
            .iter()
            .map(|lease| lease["address"].as_str().unwrap().to_owned())
            .collect();
        all.sort_unstable();
        all
    }
}

/// The header's flags, as `dig` writes them.
fn has_ad(shown: &str) -> bool {
    let flags = shown.split(";; flags:").nth(1).unwrap().split(';').next().unwrap();
    flags.split_whitespace().any(|flag| flag == "ad")
}

#[test]
fn good_names_are_opened_and_bogus_ones_are_not() {
    let world = World::up();
    for (name, address, secure) in [
        ("www.good.test", "203.0.113.10", true),
        ("a.wild.good.test", "203.0.113.11", true),
        ("to-hashed.good.test", "203.0.113.12", true),
        ("www.tree.good.test", "203.0.113.12", true),
        ("b.a.wild.hashed.test", "203.0.113.14", true),
        ("right.bad.test", "203.0.113.15", true),
        ("www.plain.test", "203.0.113.13", false),
        ("to-plain.good.test", "203.0.113.13", false),
    ] {
        let shown = world.dig(&format!("+adflag {name}"));
        assert!(shown.contains("status: NOERROR") && shown.contains(address), "{shown}\n{}", world.lab.logs());
        assert_eq!(has_ad(&shown), secure, "{shown}");
        assert!(!shown.contains("RRSIG"), "{shown}");
        assert!(world.connects(address), "{name}");
    }
    let shown = world.dig("+dnssec www.good.test");
    assert!(has_ad(&shown) && shown.contains("RRSIG\tA 13 3 300"), "{shown}");
    assert!(!has_ad(&world.dig("+noadflag www.good.test")));

    // What is not there, proved by NSEC and NSEC3. The zone "test" leaves out unsigned delegations, and so proves less.
    for (question, status, secure) in [
        ("none.good.test", "NXDOMAIN", true),
        ("www.good.test AAAA", "NOERROR", true),
        ("a.wild.good.test AAAA", "NOERROR", true),
        ("none.hashed.test", "NXDOMAIN", true),
        ("www.hashed.test AAAA", "NOERROR", true),
        ("absent", "NXDOMAIN", true),
        ("none.test", "NXDOMAIN", false),
        ("none.plain.test", "NXDOMAIN", false),
    ] {
        let shown = world.dig(&format!("+dnssec {question}"));
        assert!(shown.contains(&format!("status: {status}")) && shown.contains("ANSWER: 0"), "{shown}");
        assert_eq!(has_ad(&shown), secure, "{shown}");
    }

    let open = world.leased();
    for (question, ede) in [
        ("www.bad.test", "6 (DNSSEC Bogus): (the signature of A www.bad.test is wrong)"),
        ("+cd www.bad.test", "6 (DNSSEC Bogus)"),
        ("+cdflag +dnssec to-bad.good.test", "6 (DNSSEC Bogus)"),
        ("text.bad.test TXT", "6 (DNSSEC Bogus)"),
        ("www.old.test", "7 (Signature Expired)"),
        ("www.stripped.test", "9 (DNSKEY Missing)"),
    ] {
        let shown = world.dig(question);
        assert!(shown.contains("status: SERVFAIL") && shown.contains("ANSWER: 0"), "{shown}");
        assert!(shown.contains(&format!("EDE: {ede}")), "{question}: {shown}");
    }
    assert_eq!(world.leased(), open, "nothing was opened");
    for address in ["203.0.113.64", "203.0.113.65", "203.0.113.66", "203.0.113.68"] {
        assert!(!world.connects(address), "{address}");
    }
    let elements = world.lab.node("gateway").ok("nft list ruleset").unwrap();
    assert!(elements.contains("203.0.113.10") && !elements.contains("203.0.113.66"), "{elements}");
    // A client that wants to judge by itself may see what opens nothing.
    assert!(world.dig("+cd text.bad.test TXT").contains("\"hallo\""));

    let denied = world.guard("denied").to_string();
    assert!(denied.contains("www.bad.test") && denied.contains("bogus: "), "{denied}");
}
