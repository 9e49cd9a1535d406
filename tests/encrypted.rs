//! DoT, DoH and DoQ with programs that have never seen this code: unbound, knot-resolver, dnsdist and aioquic as upstreams; kdig, aioquic,
//! unbound and knot-resolver as clients. (Debian's kdig has no QUIC.) In a network namespace of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fmt::Write as _;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lab::wait_until;

#[path = "support/namespace.rs"]
#[allow(dead_code)]
mod namespace;
#[path = "support/programs.rs"]
mod programs;
#[path = "support/upstream_script.rs"]
#[allow(dead_code)]
mod script;

use programs::{Running, certificates, run, write};

/// For the script, which draws nothing here.
pub fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    *state >> 33
}

const LONG: Duration = Duration::from_secs(60);
const GUARD: &str = "127.0.0.10";
/// The version whose wheels this was written with.
const AIOQUIC: &str = "aioquic==1.2.0";

/// A Python with aioquic: made once, kept with what else was built.
fn python() -> PathBuf {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("aioquic");
    let python = home.join("bin/python");
    let works =
        || Command::new(&python).args(["-c", "import aioquic"]).output().is_ok_and(|seen| seen.status.success());
    if !works() {
        run(Command::new("/usr/bin/python3").args(["-m", "venv", "--clear"]).arg(&home));
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--only-binary", ":all:", AIOQUIC]));
    }
    python
}

/// The last octets of the addresses that a name has at the server; empty when the answer is another, or none.
fn ask(server: &str, name: &str) -> Vec<u8> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(6))).unwrap();
    let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    query.extend(script::name(name));
    query.extend([0, 1, 0, 1]);
    socket.send_to(&query, (server, 53)).unwrap();
    let mut room = [0; 1500];
    socket.recv(&mut room).map_or_else(|_| Vec::new(), |length| addresses(&room[..length]))
}

/// The last octets of the addresses in a reply; empty when it is another.
fn addresses(reply: &[u8]) -> Vec<u8> {
    let mut at = 12 + reply[12..].iter().position(|octet| *octet == 0).unwrap() + 5;
    let mut found = Vec::new();
    for _ in 0..reply[7] {
        // Each record of the script's plain answers: a pointer, type, class, TTL, length, address.
        let Some([192, 12, 0, 1, 0, 1, _, _, _, _, 0, 4, 198, 51, 100, last]) = reply.get(at..at + 16) else {
            return Vec::new();
        };
        found.push(*last);
        at += 16;
    }
    found.sort_unstable();
    found
}

/// What the script says of this number.
fn expected(number: u32) -> Vec<u8> {
    (0..number % 4 + 1).map(|nth| (number * 7 + nth) as u8).collect()
}

const UNBOUND: &str = "server:
 interface: 127.0.0.20@53
 interface: 127.0.0.20@853
 interface: 127.0.0.20@443
 tls-port: 853
 https-port: 443
 tls-service-key: \"DIR/own.key\"
 tls-service-pem: \"DIR/own.pem\"
 do-daemonize: no
 use-syslog: no
 username: \"\"
 chroot: \"\"
 pidfile: \"\"
 module-config: \"iterator\"
 do-not-query-localhost: no
 tls-cert-bundle: \"DIR/ca.pem\"
remote-control:
 control-enable: no
forward-zone:
 name: \"viaguard.example.\"
 forward-tls-upstream: yes
 forward-addr: 127.0.0.10@853#guard.example
forward-zone:
 name: \".\"
 forward-addr: 127.0.0.1@5300
";

const KRESD: &str = "net.listen('127.0.0.21', 53, { kind = 'dns' })
net.listen('127.0.0.21', 853, { kind = 'tls' })
net.listen('127.0.0.21', 443, { kind = 'doh2' })
net.tls('DIR/own.pem', 'DIR/own.key')
trust_anchors.remove('.')
cache.open(10 * MB, 'lmdb://DIR/kresd')
policy.add(policy.suffix(policy.TLS_FORWARD({{'127.0.0.10@853', hostname='guard.example', ca_file='DIR/ca.pem'}}),
  policy.todnames({'viaguard.example'})))
policy.add(policy.all(policy.FORWARD('127.0.0.1@5300')))
";

const DNSDIST: &str = "addTLSLocal('127.0.0.22:853', 'DIR/own.pem', 'DIR/own.key')
addDOHLocal('127.0.0.22:443', 'DIR/own.pem', 'DIR/own.key', '/dns-query')
setLocal('127.0.0.22:53')
setACL({'127.0.0.0/8'})
setSecurityPollSuffix('')
newServer({address='127.0.0.1:5300'})
";

/// Domain below "example" and URL of each upstream.
const UPSTREAMS: [(&str, &str); 7] = [
    ("unbounddot", "tls://127.0.0.20"),
    ("unbounddoh", "https://127.0.0.20/dns-query"),
    ("knotdot", "tls://127.0.0.21"),
    ("knotdoh", "https://127.0.0.21/dns-query"),
    ("dnsdistdot", "tls://127.0.0.22"),
    ("dnsdistdoh", "https://127.0.0.22/dns-query"),
    ("aioquic", "quic://127.0.0.23"),
];

fn guard(dir: &Path) -> String {
    let mut text = format!(
        "[dns]\nlisten = [\"{GUARD}:53\"]\nclients = [\"127.0.0.0/8\"]\n[dns.tls]\ncertificate = \"DIR/own.pem\"\nkey = \"DIR/own.key\"\n\
         dot = [\"{GUARD}:853\"]\ndoh = [\"{GUARD}:443\"]\ndoq = [\"{GUARD}:853\"]\n[[dns.upstream]]\nurl = \"udp://127.0.0.1:5300\"\n"
    );
    for (domain, url) in UPSTREAMS {
        write!(
            text,
            "[[dns.upstream]]\nurl = \"{url}\"\nserver_name = \"server.example\"\nca = \"DIR/ca.pem\"\ndomains = [\"{domain}.example\"]\n"
        )
        .unwrap();
    }
    text += "[[policy.private]]\ndomain = \"example\"\nprefixes = [\"198.51.100.0/24\"]\n\
             [lease]\nnew_per_client = \"10000/s\"\nnew_per_domain = \"10000/s\"\n[nftables]\nmode = \"local\"\n[state]\ndir = \"DIR/state\"\n\
             [log]\ndnstap = \"unix:DIR/tap\"\n";
    write(dir, "guard.toml", &text);
    format!("{} --config {1}/guard.toml --socket {1}/control run", env!("CARGO_BIN_EXE_destguard"), dir.display())
}

/// What the reader of dnstap's authors saw of those who asked over TLS, HTTPS and QUIC: each question, and each reply with its question's time.
fn tapped(mut reader: Running, into: &Path) {
    reader.interrupt();
    let text = std::fs::read_to_string(into).unwrap();
    let mut seen = std::collections::BTreeMap::new();
    for line in text.lines() {
        let whole: serde_json::Value = serde_json::from_str(line).unwrap();
        let message = &whole["message"];
        let time = |key: &str| message[key].as_str().map(|text| text.parse::<jiff::Timestamp>().unwrap());
        let way = message["socket_protocol"].as_str().unwrap().to_owned();
        let (questions, replies) = seen.entry(way).or_insert((0, 0));
        match message["type"].as_str().unwrap() {
            "CLIENT_QUERY" => {
                assert!(time("query_time").is_some() && time("response_time").is_none(), "{line}");
                *questions += 1;
            }
            "CLIENT_RESPONSE" => {
                assert!(time("query_time").unwrap() <= time("response_time").unwrap(), "{line}");
                *replies += 1;
            }
            other => panic!("{other}"),
        }
    }
    // Two by kdig and one by knot-resolver or unbound at least; aioquic asks for twenty names.
    assert_eq!(seen.get("DOH"), Some(&(2, 2)), "{seen:?}");
    // Older readers have no word for DOQ.
    assert_eq!(seen.get("DOQ").or(seen.get("7")), Some(&(20, 20)), "{seen:?}");
    let (questions, replies) = seen["DOT"];
    assert!(questions >= 3 && questions == replies, "{seen:?}");
    assert!(seen["UDP"].0 > 100, "{seen:?}");
}

#[test]
fn other_programs_speak_tls_https_and_quic_with_the_guard_both_ways() {
    let python = python();
    let server = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/encrypted/doq_server.py");
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path();
    certificates(dir, &[("own", &["server.example", "guard.example"])]);
    for name in ["state", "kresd", "kresd-run"] {
        std::fs::create_dir(dir.join(name)).unwrap();
    }
    write(dir, "unbound.conf", UNBOUND);
    write(dir, "kresd.conf", KRESD);
    write(dir, "dnsdist.conf", DNSDIST);
    namespace::alone(|| {
        script::serve(Ipv4Addr::LOCALHOST);
        let at = dir.display();
        let running = [
            Running::start(dir, "unbound", &format!("unbound -d -c {at}/unbound.conf")),
            Running::start(dir, "kresd", &format!("kresd -n -c {at}/kresd.conf {at}/kresd-run")),
            Running::start(dir, "dnsdist", &format!("dnsdist --supervised -C {at}/dnsdist.conf")),
            Running::start(
                dir,
                "aioquic",
                &format!("{} {server} 127.0.0.23 853 {at}/own.pem {at}/own.key", python.display()),
            ),
            Running::start(dir, "guard", &guard(dir)),
        ];
        let tap = Running::start(dir, "dnstap", &format!("dnstap -u {at}/tap -j -w {at}/tap.json"));
        let logs = || running.iter().map(Running::log).collect::<Vec<_>>().join("\n");
        for server in [GUARD, "127.0.0.20", "127.0.0.21", "127.0.0.22"] {
            let answers = || ask(server, "1.start.example") == expected(1);
            assert!(wait_until(LONG, answers), "{server} doesn't answer\n{}", logs());
        }
        // The guard asks.
        for (domain, url) in UPSTREAMS {
            let right = |number: u32| if domain == "aioquic" { vec![53] } else { expected(number) };
            // The server may come up after the guard.
            let first = || ask(GUARD, &format!("0.{domain}.example")) == right(0);
            assert!(wait_until(LONG, first), "no answer from {url}\n{}", logs());
            for number in 1..25 {
                let name = format!("{number}.{domain}.example");
                assert_eq!(ask(GUARD, &name), right(number), "{name} from {url}\n{}", logs());
            }
        }
        // The guard is asked.
        for (number, option) in ["+tls", "+https", "+https-get"].into_iter().enumerate() {
            let mut kdig = Command::new("kdig");
            kdig.args([&format!("@{GUARD}"), option, &format!("+tls-ca={at}/ca.pem"), "+tls-hostname=guard.example"]);
            let more = if option == "+https-get" { "+https" } else { "+time=8" };
            let text = run(kdig.args([more, &format!("{}.kdig.example", 4 * number), "A"]));
            let address = format!("198.51.100.{}", expected(4 * number as u32)[0]);
            assert!(text.contains("status: NOERROR") && text.contains(&address), "{option}: {text}\n{}", logs());
        }
        let client = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/encrypted/doq_client.py");
        let names: Vec<String> = (0..20).map(|number| format!("{number}.kdig.example")).collect();
        let mut quic = Command::new(&python);
        quic.args([client, GUARD, "853", &format!("{at}/ca.pem"), "guard.example"]).args(&names);
        for (number, line) in run(&mut quic).lines().enumerate() {
            let octets: Vec<u8> =
                (0..line.len() / 2).map(|at| u8::from_str_radix(&line[2 * at..2 * at + 2], 16).unwrap()).collect();
            assert_eq!(addresses(&octets), expected(number as u32), "over QUIC\n{}", logs());
        }
        for (number, server) in [(5, "127.0.0.20"), (6, "127.0.0.21")] {
            let name = format!("{number}.viaguard.example");
            assert_eq!(ask(server, &name), expected(number), "{server} over TLS\n{}", logs());
        }
        // All are well in the end.
        let status = run(Command::new(env!("CARGO_BIN_EXE_destguard"))
            .args(["status", "--json", "--socket"])
            .arg(dir.join("control")));
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let upstreams = status["upstreams"].as_array().unwrap();
        assert_eq!(upstreams.len(), UPSTREAMS.len() + 1, "{status}");
        assert!(upstreams.iter().all(|upstream| upstream["healthy"] == true), "{upstreams:?}");
        drop(running);
        tapped(tap, &dir.join("tap.json"));
    });
}
