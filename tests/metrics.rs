//! The metrics of a whole daemon, in a network namespace of its own: their reference, what questions make of them, and what Prometheus' own tool says
//! of them, of the alert rules and of the dashboard's queries. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code)]

#[cfg(feature = "ebpf")]
#[path = "support/ebpf_host.rs"]
mod host;
#[path = "support/namespace.rs"]
mod namespace;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use namespace::alone;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0";

/// A daemon with every kind of enforcer. Its one router never comes up; its upstream answers 203.0.113.7.
struct Daemon {
    child: Child,
    directory: tempfile::TempDir,
}

impl Daemon {
    fn start() -> Self {
        Self::start_with("", "")
    }

    /// `first` stands before all tables of its configuration, `last` behind them.
    fn start_with(first: &str, last: &str) -> Self {
        namespace::run(
            "ip link add up0 type veth peer name up1 && ip addr add 192.0.2.2/24 dev up0 && ip link set up0 up && ip link set up1 up",
        );
        let upstream = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = upstream.local_addr().unwrap().port();
        std::thread::spawn(move || serve(&upstream));
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().display();
        std::fs::write(directory.path().join("ads.txt"), "0.0.0.0 ads.example\n").unwrap();
        let text = format!(
            "{first}[dns]\nlisten = [\"127.0.0.1:53\"]\n[[dns.upstream]]\nurl = \"udp://127.0.0.1:{port}\"\n\
             [[policy.private]]\ndomain = \"example\"\nprefixes = [\"203.0.113.0/24\"]\n[[policy.list]]\nname = \"ads\"\npath = \"{at}/ads.txt\"\nformat = \"hosts\"\naction = \"deny\"\n\
             [[policy.group]]\nname = \"office\"\nclients = [\"127.0.0.0/8\"]\n\
             [addresses]\ninside = []\n\
             [nftables]\nmode = \"local\"\n\
             [bgp]\nasn = 64512\nrouter_id = \"192.0.2.2\"\nnext_hop_ipv4 = \"192.0.2.2\"\nnext_hop_ipv6 = \"2001:db8::2\"\n\
             [[bgp.peer]]\nname = \"edge\"\naddress = \"192.0.2.1\"\nasn = 64512\nrequired = false\nbfd = true\n\
             [state]\ndir = \"{at}/state\"\n[http]\nlisten = [\"127.0.0.1:8080\"]\n{last}"
        );
        let path = directory.path().join("destguard.toml");
        std::fs::write(&path, text).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_destguard"))
            .args(["run", "--config"])
            .arg(&path)
            .args(["--socket", &format!("{at}/control.sock")])
            .stderr(std::fs::File::create(directory.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut daemon = Self { child, directory };
        let started = Instant::now();
        while !daemon.get("/ready", "").is_some_and(|reply| reply.starts_with("HTTP/1.1 200")) {
            let log = std::fs::read_to_string(daemon.directory.path().join("log")).unwrap();
            assert!(started.elapsed() < PATIENCE && daemon.child.try_wait().unwrap().is_none(), "{log}");
            std::thread::sleep(Duration::from_millis(50));
        }
        daemon
    }

    fn get(&self, path: &str, accept: &str) -> Option<String> {
        let mut stream = TcpStream::connect("127.0.0.1:8080").ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).ok()?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply).ok()?;
        Some(reply)
    }

    /// Headers and text.
    fn scrape(&self, accept: &str) -> (String, String) {
        let reply = self.get("/metrics", accept).expect("a reply");
        let (head, body) = reply.split_once("\r\n\r\n").expect("a head");
        (head.to_lowercase(), body.to_owned())
    }

    /// Waits until this series isn't 0.
    fn until_counted(&self, series: &str) {
        let started = Instant::now();
        loop {
            let (_, text) = self.scrape("");
            let value = text.lines().find_map(|line| line.strip_prefix(series)).map(str::trim);
            if value.is_some_and(|value| value != "0") {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "{series}: {value:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until this series has this value.
    fn until(&self, series: &str, value: &str) {
        let wanted = format!("{series} {value}");
        let started = Instant::now();
        loop {
            let (_, text) = self.scrape("");
            if text.lines().any(|line| line == wanted) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "no {wanted}:\n{text}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A for every name; no record of another type. NXDOMAIN below `nx`.
fn serve(socket: &UdpSocket) {
    let mut buffer = [0; 1500];
    while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
        let mut end = 12;
        while buffer[end] != 0 {
            end += 1 + usize::from(buffer[end]);
        }
        // The guard asks in mixed case.
        let (qtype, nx) = (buffer[end + 2], buffer[12..15].eq_ignore_ascii_case(b"\x02nx"));
        let mut reply = buffer[..end + 5].to_vec();
        reply[2..12].copy_from_slice(&[0x81, if nx { 0x83 } else { 0x80 }, 0, 1, 0, 0, 0, 0, 0, 0]);
        if qtype == 1 && !nx {
            reply[7] = 1;
            reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 203, 0, 113, 7]);
        }
        drop(socket.send_to(&reply, peer));
    }
}

fn dig(arguments: &[&str]) {
    let done = Command::new("dig").args(["@127.0.0.1", "+time=10", "+tries=1"]).args(arguments).output().unwrap();
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stdout));
}

/// Name (as its series has it), kind, help.
fn families(text: &str) -> Vec<(String, String, String)> {
    let mut helps = std::collections::BTreeMap::new();
    let mut families = Vec::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            helps.insert(name.to_owned(), help.trim_end_matches('.').to_owned());
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let help = helps.get(name).cloned().unwrap_or_default();
            families.push((name.to_owned(), kind.to_owned(), help));
        }
    }
    families.sort();
    families
}

/// What a daemon with this enforcer has beyond others.
#[cfg(feature = "ebpf")]
fn families_of_ebpf(others: &[(String, String, String)]) -> Vec<(String, String, String)> {
    let mut all = Vec::new();
    host::alone(|host| all = families(&ebpf(host).scrape("").1));
    all.retain(|family| !others.contains(family));
    assert!(!all.is_empty() && all.iter().all(|(name, ..)| name.starts_with("destguard_ebpf_")), "{all:?}");
    all
}

/// As they are written: this program can't tell.
#[cfg(not(feature = "ebpf"))]
fn families_of_ebpf(_: &[(String, String, String)]) -> Vec<(String, String, String)> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md")).unwrap();
    let row = |line: &str| {
        let [name, kind, help] = line.strip_prefix("| `")?.strip_suffix(" |")?.splitn(3, " | ").collect::<Vec<_>>()[..]
        else {
            return None;
        };
        Some((name.trim_end_matches('`').to_owned(), kind.to_owned(), help.to_owned()))
    };
    text.lines().filter(|line| line.starts_with("| `destguard_ebpf_")).filter_map(row).collect()
}

/// A daemon with this enforcer, for the host's own control group.
#[cfg(feature = "ebpf")]
fn ebpf(host: &host::Host) -> Daemon {
    let cgroup = host.group.path.display();
    Daemon::start_with("enforcer = \"ebpf\"\n", &format!("[ebpf]\ncgroup = \"{cgroup}\"\n"))
}

fn reference(text: &str) -> String {
    let parts = [
        ("The guard", "destguard_"),
        ("Questions and answers", "destguard_dns_"),
        (
            "Leases and the gate",
            "destguard_lease|destguard_gate_|destguard_client_|destguard_group_|destguard_generation",
        ),
        ("Enforcers", "destguard_ebpf_|destguard_enforcer_|destguard_nftables_|destguard_refusals_"),
        ("BGP and BFD", "destguard_bgp_|destguard_bfd_"),
        ("Lists", "destguard_list_"),
        ("The process", "process_"),
    ];
    let part_of = |name: &str| {
        let fits = |(_, starts): &&(&str, &str)| starts.split('|').any(|start| name.starts_with(start));
        // The first takes what is left.
        parts[1..].iter().find(fits).unwrap_or(&parts[0]).0
    };
    let mut families = families(text);
    families.extend(families_of_ebpf(&families));
    families.sort();
    let mut out = String::from(
        "# Metrics\n\n`GET /metrics` at `http.listen`, as OpenMetrics where the reader asks for it, else in Prometheus' text format. Counters begin with\n\
         0 at each start. Every series that the guard has is listed here; a test compares this page with running guards. Those of nftables are iptables' too,\n\
         where it has them; `destguard_ebpf_` begins those that only a guard with `enforcer = \"ebpf\"` has.\n\n\
         Alert rules for Prometheus: [destguard.rules.yml](../packaging/prometheus/destguard.rules.yml). A dashboard for Grafana:\n\
         [destguard.json](../packaging/grafana/destguard.json).\n",
    );
    for (part, _) in parts {
        out.push_str(&format!("\n## {part}\n\n| name | kind | what |\n|---|---|---|\n"));
        for (name, kind, help) in families.iter().filter(|(name, ..)| part_of(name) == part) {
            assert!(!help.is_empty(), "{name} has no help");
            out.push_str(&format!("| `{name}` | {kind} | {help} |\n", help = help.replace('|', "\\|")));
        }
    }
    out
}

#[test]
fn the_reference_is_of_this_program() {
    let text = alone(|| Daemon::start().scrape("").1);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let reference = reference(&text);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &reference).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == reference,
        "docs/metrics.md is not of this program; UPDATE_DOCS=1 cargo test --test metrics writes it"
    );
}

#[test]
fn every_series_is_of_a_kind_that_prometheus_knows() {
    let text = alone(|| {
        let daemon = Daemon::start();
        dig(&["shop.example"]);
        daemon.scrape("").1
    });
    let mut tool = Command::new("promtool")
        .args(["check", "metrics", "--extended"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    tool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let said = tool.wait_with_output().unwrap();
    let words = [said.stdout, said.stderr].concat();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&words));
}

#[test]
fn what_happens_is_counted_where_it_is_looked_for() {
    alone(|| {
        let daemon = Daemon::start();
        for _ in 0..3 {
            dig(&["shop.example"]);
        }
        dig(&["+tcp", "shop.example"]);
        dig(&["nx.example", "AAAA"]);
        dig(&["ads.example"]);
        let replies = |transport: &str, kind: &str, code: &str| {
            format!("destguard_dns_replies_total{{transport=\"{transport}\",type=\"{kind}\",rcode=\"{code}\"}}")
        };
        daemon.until(&replies("udp", "A", "NOERROR"), "3");
        daemon.until(&replies("tcp", "A", "NOERROR"), "1");
        daemon.until(&replies("udp", "AAAA", "NXDOMAIN"), "1");
        daemon.until(&replies("udp", "A", "NXDOMAIN"), "1");
        let (_, text) = daemon.scrape("");
        let denied = text.lines().find(|line| line.starts_with("destguard_dns_answers_denied_total")).unwrap();
        assert_eq!(denied.rsplit(' ').next(), Some("1"), "{text}");
        daemon.until("destguard_dns_group_questions_total{group=\"office\"}", "6");
        daemon.until("destguard_bgp_session_up{peer=\"edge\",required=\"false\"}", "0");
        daemon.until("destguard_state{state=\"enforcing\"}", "1");
        daemon.until("destguard_state{state=\"degraded\"}", "0");
        daemon.until("destguard_gate_answers_total{outcome=\"released\"}", "1");
        daemon.until("destguard_lease_changes_total{change=\"opened\"}", "1");
        let up = text
            .lines()
            .find(|line| line.starts_with("destguard_dns_upstream_up{upstream=\"udp://127.0.0.1:"))
            .unwrap();
        assert!(up.ends_with(" 1"), "{up}");
        assert!(text.contains("\ndestguard_build_info{version=\""), "{text}");

        let socket = daemon.directory.path().join("control.sock");
        let reload = || {
            let command =
                Command::new(env!("CARGO_BIN_EXE_destguard")).args(["reload", "--socket"]).arg(&socket).output();
            command.unwrap().status.success()
        };
        assert!(reload());
        daemon.until("destguard_reloads_total{outcome=\"applied\"}", "1");
        std::fs::write(daemon.directory.path().join("destguard.toml"), "nothing of this").unwrap();
        assert!(!reload());
        daemon.until("destguard_reloads_total{outcome=\"refused\"}", "1");
    });
}

#[test]
fn refusals_are_counted_for_who_refused() {
    alone(|| {
        let daemon = Daemon::start();
        let socket = UdpSocket::bind("192.0.2.2:0").unwrap();
        // Refused at once, or dropped.
        drop(socket.send_to(b"x", "192.0.2.99:9"));
        daemon.until_counted("destguard_refusals_logged_total{enforcer=\"nftables\"}");
    });
}

#[cfg(feature = "ebpf")]
#[test]
fn refusals_of_ebpf_are_counted_as_its_own() {
    host::alone(|host| {
        let daemon = ebpf(host);
        assert_eq!(host.probe("udp/192.0.2.99/9 tcp/192.0.2.99/80"), "EPERM EPERM");
        daemon.until("destguard_refusals_logged_total{enforcer=\"ebpf\"}", "2");
        daemon.until("destguard_ebpf_judged_total{counter=\"denied\"}", "2");
        let (_, text) = daemon.scrape("");
        assert!(!text.contains("destguard_nftables_packets"), "{text}");
    });
}

#[test]
fn each_reader_gets_the_form_it_asks_for() {
    alone(|| {
        let daemon = Daemon::start();
        let (head, text) = daemon.scrape(OPEN_METRICS);
        assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
        assert!(text.ends_with("# EOF\n") && text.contains("# TYPE destguard_dns_udp_questions counter\n"), "{text}");
        let (head, text) = daemon.scrape("text/plain");
        assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
        assert!(
            !text.contains("# EOF") && text.contains("# TYPE destguard_dns_udp_questions_total counter\n"),
            "{text}"
        );
    });
}

/// Names of series in a query or rule.
fn series(text: &str) -> BTreeSet<String> {
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    let names = text.split(word).filter(|name| name.starts_with("destguard_") || name.starts_with("process_"));
    let plain = |name: &str| {
        let histogram = ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end));
        histogram.unwrap_or(name).to_owned()
    };
    names.map(plain).collect()
}

fn known() -> BTreeSet<String> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md")).unwrap();
    text.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split('`').next()?.to_owned())).collect()
}

#[test]
fn the_alert_rules_hold() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/prometheus");
    for arguments in [["check", "rules", "destguard.rules.yml"], ["test", "rules", "destguard.rules.test.yml"]] {
        let done = Command::new("promtool").args(arguments).current_dir(&directory).output().unwrap();
        let words = [done.stdout, done.stderr].concat();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&words));
    }
    let rules = std::fs::read_to_string(directory.join("destguard.rules.yml")).unwrap();
    let used = series(&rules);
    assert!(used.len() >= 10, "{used:?}");
    let unknown: Vec<_> = used.difference(&known()).cloned().collect();
    assert!(unknown.is_empty(), "the guard has no such series: {unknown:?}");
}

#[test]
fn the_dashboard_asks_for_what_there_is() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/grafana/destguard.json");
    let dashboard: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let known = known();
    let mut ids = BTreeSet::new();
    let mut places: Vec<[u64; 4]> = Vec::new();
    let mut queries = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "two panels with the id {}", panel["id"]);
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
        assert!(x + w <= 24, "{panel}");
        let apart = |[ox, oy, ow, oh]: &[u64; 4]| x + w <= *ox || ox + ow <= x || y + h <= *oy || oy + oh <= y;
        assert!(places.iter().all(apart), "a panel lies on another: {}", panel["title"]);
        places.push([x, y, w, h]);
        if panel["type"] == "row" {
            continue;
        }
        for target in panel["targets"].as_array().unwrap() {
            let query = target["expr"].as_str().unwrap().replace("$__rate_interval", "5m");
            let query = query.replace("$instance", ".*").replace("$job", ".*");
            let unknown: Vec<_> = series(&query).difference(&known).cloned().collect();
            assert!(unknown.is_empty(), "{}: the guard has no such series: {unknown:?}", panel["title"]);
            // As a rule, so that Prometheus' own parser reads it.
            let mut file = tempfile::NamedTempFile::new().unwrap();
            let rule = serde_json::json!({ "groups": [{ "name": "q", "rules": [{ "record": "q", "expr": query }] }] });
            file.write_all(rule.to_string().as_bytes()).unwrap();
            let done = Command::new("promtool").args(["check", "rules"]).arg(file.path()).output().unwrap();
            assert!(done.status.success(), "{query}: {}", String::from_utf8_lossy(&done.stderr));
            queries += 1;
        }
    }
    assert!(queries >= 20, "{queries}");
}
