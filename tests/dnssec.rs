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
/// Of an unbound that validates.
const VALIDATING: &str = "192.0.2.54";
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
        for address in [SERVER, VALIDATING] {
            internet.ok(&format!("ip addr add {address}/32 dev lo")).unwrap();
        }
        let file = |name: &str| format!("{ZONES}/{name}");
        let daemons = vec![
            internet.spawn("/usr/sbin/nsd", &["-d", "-c", &file("nsd.conf")]).unwrap(),
            internet.spawn("/usr/sbin/unbound", &["-d", "-c", &file("unbound.conf")]).unwrap(),
            internet.spawn("/usr/sbin/unbound", &["-d", "-c", &file("validating.conf")]).unwrap(),
        ];
        let echo = EchoServer::start(internet, PORT).unwrap();
        for resolver in ["192.0.2.53", VALIDATING] {
            let line = format!("dig @{resolver} +short +tries=1 +time=2 www.good.test");
            let resolves = || internet.ok(&line).unwrap_or_default() == "203.0.113.10\n";
            assert!(wait_until(LONG, resolves), "{}", lab.logs());
        }

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

/// Code, AD and data of each answer that `dig` shows for a batch.
fn verdicts(shown: &str) -> Vec<(String, bool, Vec<String>)> {
    let verdict = |one: &str| {
        let status = one.split("status: ").nth(1).unwrap().split(',').next().unwrap().to_owned();
        // The alias of a DNAME keeps the case in which unbound was first asked.
        let answer = one.split(";; ANSWER SECTION:\n").nth(1).unwrap_or_default().to_lowercase();
        let lines = answer.lines().take_while(|line| !line.is_empty());
        // Owner, type and data; TTLs age, and signatures come or don't in a cut chain.
        let mut data: Vec<String> = lines
            .map(|line| line.split_whitespace().enumerate().filter(|(at, _)| *at != 1).map(|(_, word)| word).collect())
            .collect();
        data.sort_unstable();
        (status, has_ad(one), data)
    };
    shown.split(";; Got answer:").skip(1).map(verdict).collect()
}

#[test]
fn the_guard_and_unbound_agree() {
    let world = World::up();
    let mut questions = vec![". DNSKEY".to_owned(), ". SOA".to_owned(), "absent A".to_owned(), "test DS".to_owned()];
    for zone in ["test", "good.test", "hashed.test", "plain.test", "bad.test", "old.test", "stripped.test"] {
        for kind in ["SOA", "NS", "DNSKEY", "DS", "A", "TYPE65280"] {
            questions.push(format!("{zone} {kind}"));
        }
        let labels = [
            "www",
            "right",
            "none",
            "a.b.none",
            "wild",
            "a.wild",
            "b.a.wild",
            "*.wild",
            "tree",
            "www.tree",
            "a.wild.tree",
            "none.tree",
            "to-hashed",
            "to-plain",
            "to-bad",
            "text",
        ];
        for label in labels {
            for kind in ["A", "AAAA", "CNAME", "TXT", "DS"] {
                questions.push(format!("{label}.{zone} {kind}"));
            }
        }
    }
    let client = world.lab.node("client");
    client.write("/etc/destguard/questions", &questions.join("\n")).unwrap();
    world.lab.node("internet").write("/etc/destguard/questions", &questions.join("\n")).unwrap();
    let batch = |server: &str| format!("dig @{server} -f /etc/destguard/questions +adflag +tries=2 +time=9");
    let own = verdicts(&client.ok(&batch("10.0.1.1")).unwrap());
    let other = verdicts(&world.lab.node("internet").ok(&batch(VALIDATING)).unwrap());
    assert_eq!((own.len(), other.len()), (questions.len(), questions.len()));
    // unbound 1.17 refuses the alias that a signed DNAME makes, when the question is for that alias itself (RFC 6672 section 5.3.1 wants it validated by
    // the DNAME).
    let by_dname = |question: &str| question.ends_with(".tree.good.test CNAME");
    let differ = questions.iter().zip(own.iter().zip(&other)).filter(|(_, (own, other))| own != other);
    let (known, unknown): (Vec<_>, Vec<_>) = differ.partition(|(question, _)| by_dname(question));
    assert!(unknown.is_empty(), "{} of {}: {unknown:#?}", unknown.len(), questions.len());
    assert!(known.iter().all(|(_, (own, other))| own.1 && other.0 == "SERVFAIL"), "{known:#?}");
    for (status, ad) in
        [("NOERROR", true), ("NOERROR", false), ("NXDOMAIN", true), ("NXDOMAIN", false), ("SERVFAIL", false)]
    {
        let seen = own.iter().filter(|(own, own_ad, _)| own == status && *own_ad == ad).count();
        assert!(seen > 10, "{status} {ad}: {seen}");
    }
}
