//! The control interface over a real unix socket, with made-up sources; and the command line against it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use destguard::control::sources::{CoreView, Later, Sources, Subject, Undone, Wish};
use destguard::control::types::{
    Advertised, Bfd, Confirmations, Judgement, Learnt, LoggedError, Peer, Process, Received, Reloaded, Upstream,
};
use destguard::control::{ControlSocket, DeniedKind, DeniedLog, serve_tcp};
use destguard::core::counts::{Counts, RefusedCounts};
use destguard::core::event::RevokeTarget;
use destguard::core::explain::{
    CauseView, ClientView, EnforcerView, Explanation, HoldView, LeaseFilter, LeaseState, LeaseView,
};
use destguard::core::name::Name;
use destguard::core::policy::view::Whose;
use destguard::core::proof::EnforcerState;
use destguard::core_task::Stopped;

/// A core with fixed leases.
struct FakeCore {
    leases: Mutex<Vec<LeaseView>>,
    state: Mutex<EnforcerState>,
}

fn lease(address: &str, name: &str) -> LeaseView {
    LeaseView {
        address: address.parse().unwrap(),
        state: LeaseState::Installed,
        ends_in_seconds: 250,
        names: vec![name.to_owned()],
        clients: vec!["192.0.2.7".parse().unwrap()],
        ports: Vec::new(),
        applications: Vec::new(),
        groups: Vec::new(),
        enforcers: BTreeMap::from([("nftables".to_owned(), "open".to_owned())]),
    }
}

fn ready<'a, T: Send + 'a>(value: T) -> Later<'a, T> {
    Box::pin(std::future::ready(value))
}

impl CoreView for FakeCore {
    fn leases(
        &self,
        filter: LeaseFilter,
        after: Option<IpAddr>,
        limit: usize,
    ) -> Later<'_, Result<Vec<LeaseView>, Stopped>> {
        let fits = |lease: &&LeaseView| match &filter {
            LeaseFilter::All => true,
            LeaseFilter::Address(address) => lease.address == *address,
            LeaseFilter::Prefix(net) => net.contains(&lease.address),
            LeaseFilter::Name(name) => lease.names.contains(&name.to_string()),
        };
        let leases = self.leases.lock().unwrap();
        let page = leases.iter().filter(fits).filter(|lease| after.is_none_or(|after| lease.address > after));
        ready(Ok(page.take(limit).cloned().collect()))
    }

    fn explain(&self, address: IpAddr) -> Later<'_, Result<Option<Explanation>, Stopped>> {
        let known = self.leases.lock().unwrap().iter().any(|lease| lease.address == address);
        ready(Ok(known.then(|| Explanation {
            address,
            state: LeaseState::Installed,
            age_seconds: 80,
            ends_in_seconds: 250,
            route_ends_in_seconds: Some(850),
            held_by_flow_seconds: None,
            causes: vec![CauseView {
                question: "www.one.test".to_owned(),
                qtype: Some(1),
                chain: vec!["cdn.one.test".to_owned()],
                known_by: None,
                group: None,
                clients: vec![ClientView { client: "192.0.2.7".parse().unwrap(), ends_in_seconds: 250 }],
                ends_in_seconds: 250,
            }],
            open_for: None,
            open_ports: None,
            groups: Vec::new(),
            enforcers: vec![HoldView {
                name: "nftables".to_owned(),
                required: true,
                state: "open".to_owned(),
                since_seconds: Some(79),
            }],
            waiting: 0,
        })))
    }

    fn explain_name(&self, _name: Name, _limit: usize) -> Later<'_, Result<Vec<Explanation>, Stopped>> {
        ready(Ok(Vec::new()))
    }

    fn overview(&self) -> Later<'_, Result<(Counts, Vec<EnforcerView>), Stopped>> {
        let counts = Counts {
            ipv4: 1_200,
            ipv6: 3,
            pending: 2,
            lingering: 10,
            capacity: 100_000,
            waiting: 1,
            released: 12_345,
            gate_timeouts: 4,
            refused: RefusedCounts { per_client: 5, ..RefusedCounts::default() },
            ..Counts::default()
        };
        let enforcer = EnforcerView {
            would_announce: None,
            name: "nftables".to_owned(),
            required: true,
            state: *self.state.lock().unwrap(),
            since_seconds: 11_520,
            acknowledged: Some(9),
            behind: false,
            behind_seconds: 0,
            budget_used: None,
            installed: 1_203,
            max_addresses: 100_000,
            last_error: None,
            repairs: std::collections::BTreeMap::new(),
        };
        ready(Ok((counts, vec![enforcer])))
    }

    fn revoke(&self, target: RevokeTarget) -> Later<'_, Result<(), Stopped>> {
        self.leases.lock().unwrap().retain(|lease| match &target {
            RevokeTarget::Address(address) => lease.address != *address,
            RevokeTarget::Name(name) => !lease.names.contains(&name.to_string()),
        });
        ready(Ok(()))
    }
}

struct Fake {
    core: FakeCore,
    denied: DeniedLog,
    /// How long a reload takes, in milliseconds.
    reload_takes: AtomicU64,
    reloads: [AtomicU64; 2],
}

impl Sources for Fake {
    fn core(&self) -> &dyn CoreView {
        &self.core
    }

    fn denied(&self) -> &DeniedLog {
        &self.denied
    }

    fn denied_count(&self) -> u64 {
        7
    }

    fn process(&self) -> Process {
        Process {
            uid: 998,
            capabilities: vec!["CAP_NET_ADMIN".to_owned()],
            system_calls: "confined".to_owned(),
            files: "the kernel has no landlock".to_owned(),
        }
    }

    fn peers(&self) -> Vec<Peer> {
        vec![Peer {
            would_advertise: None,
            name: "edge1".to_owned(),
            address: "192.0.2.254".parse().unwrap(),
            asn: 64_512,
            state: "Established".to_owned(),
            since_seconds: 90,
            advertised: Advertised { ipv4: 1_200, ipv6: 3 },
            confirm: "acked + 75ms".to_owned(),
            confirm_latency_ms: Some(76),
            confirmations: Some(Confirmations {
                count: 1_002,
                p99_ms: Some(100),
                p50_us: Some(75_000),
                p99_us: None,
                histogram: vec![(Some(500), 2), (Some(75_000), 990), (None, 10)],
                settle_ms: 75,
                learnt: Some(Learnt { samples: 20, p50_ms: Some(60), p99_ms: Some(64) }),
                unverified: 3,
                closing: 2,
                borrowed: 0,
                close_latency_ms: None,
            }),
            capabilities: vec!["route refresh".to_owned()],
            // A peer's own words: they must not reach the terminal as they are.
            last_error: Some("Cease: \x1b[2Jmaintenance".to_owned()),
            unconfirmed: None,
            warning: None,
            observer: None,
            required: true,
            max_routes: 50_000,
            received: Received::default(),
            sessions: 1,
            queued_octets: 0,
            guard: None,
            bfd: Some(Bfd {
                state: "Up".to_owned(),
                since_seconds: 89,
                remote_state: "Up".to_owned(),
                interval_ms: Some(300),
                detection_ms: Some(900),
                last_down: Some("control detection time expired".to_owned()),
                failures: 1,
                discarded: 0,
                last_discard: None,
            }),
        }]
    }

    fn upstreams(&self) -> Vec<Upstream> {
        let state = "healthy".to_owned();
        vec![Upstream { url: "udp://192.0.2.53:53".to_owned(), healthy: true, state, asked: 10, ..Upstream::default() }]
    }

    fn errors(&self) -> Vec<LoggedError> {
        vec![LoggedError { seconds_ago: 61, message: "edge1: hold timer expired".to_owned() }]
    }

    fn judge(&self, subject: &Subject, _: Whose<'_>, _: &[(Name, Vec<Name>)]) -> Judgement {
        match subject {
            Subject::Name(name) if name.to_string() == "bad.test" => Judgement {
                verdict: "denied".to_owned(),
                reason: "the question gets NXDOMAIN".to_owned(),
                rule: Some("policy.deny[0]".to_owned()),
                place: Some("destguard.toml:12".to_owned()),
            },
            _ => Judgement { verdict: "allowed".to_owned(), ..Judgement::default() },
        }
    }

    fn metrics(&self) -> Result<String, Undone> {
        Ok("destguard_one 1\n# EOF\n".to_owned())
    }

    fn reload(&self, _: Wish) -> Later<'_, Reloaded> {
        Box::pin(async {
            let [begun, done] = &self.reloads;
            begun.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(self.reload_takes.load(Ordering::SeqCst))).await;
            done.fetch_add(1, Ordering::SeqCst);
            Reloaded { report: "destguard.toml:1:1: error: unknown key `x`".to_owned(), ..Reloaded::default() }
        })
    }
}

/// A control socket with made-up sources behind it, until it is dropped.
struct Server {
    _runtime: tokio::runtime::Runtime,
    dir: tempfile::TempDir,
    sources: Arc<Fake>,
}

impl Server {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut leases = vec![lease("192.0.2.10", "www.one.test"), lease("2001:db8::10", "www.two.test")];
        leases.sort_by_key(|lease| lease.address);
        let sources = Arc::new(Fake {
            core: FakeCore { leases: Mutex::new(leases), state: Mutex::new(EnforcerState::InForce) },
            denied: DeniedLog::default(),
            reload_takes: AtomicU64::new(0),
            reloads: Default::default(),
        });
        let socket = runtime.block_on(async { ControlSocket::bind(&dir.path().join("run/control.sock")) }).unwrap();
        runtime.spawn(socket.serve(Arc::clone(&sources) as Arc<dyn Sources>));
        Self { _runtime: runtime, dir, sources }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("run/control.sock")
    }

    fn run(&self, arguments: &[&str]) -> Output {
        destguard(&self.socket(), arguments)
    }

    fn stdout(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, arguments: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.stdout(arguments)).unwrap()
    }
}

fn destguard(socket: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_destguard")).arg("--socket").arg(socket).args(arguments).output().unwrap()
}

/// Sends one request and returns status line and body.
fn raw(mut stream: impl Read + Write, method: &str, path: &str, host: &str) -> (String, String) {
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

#[test]
fn status_keeps_its_shape() {
    let server = Server::start();
    let mut status = server.json(&["status", "--json"]);
    assert!(status["uptime_seconds"].take().is_u64());
    assert_eq!(
        status,
        serde_json::json!({
            "version": 1, "state": "enforcing", "reasons": [], "warnings": [], "uptime_seconds": null,
            "leases": {"active": 1203, "ipv4": 1200, "ipv6": 3, "pending": 2, "lingering": 10, "held_by_flows": 0, "capacity": 100_000},
            "answers": {"released": 12_345, "denied": 7, "held": 1, "gate_timeouts": 4, "refused": 5, "would_refuse": 0},
            "enforcers": [{"name": "nftables", "state": "in-force", "installed": 1203, "last_error": null, "required": true,
                "since_seconds": 11_520, "max_addresses": 100_000, "behind": false, "behind_seconds": 0}],
            "upstreams": [{"url": "udp://192.0.2.53:53", "healthy": true, "state": "healthy", "asked": 10, "failed": 0, "rtt_ms": null,
                "last_error": null}],
            "peers": [{"name": "edge1", "address": "192.0.2.254", "asn": 64_512, "state": "Established", "since_seconds": 90,
                "advertised": {"ipv4": 1200, "ipv6": 3}, "confirm": "acked + 75ms", "confirm_latency_ms": 76,
                "confirmations": {"count": 1002, "p99_ms": 100, "p50_us": 75_000, "p99_us": null, "histogram": [[500, 2], [75_000, 990], [null, 10]],
                    "settle_ms": 75, "learnt": {"samples": 20, "p50_ms": 60, "p99_ms": 64}, "unverified": 3, "closing": 2, "borrowed": 0,
                    "close_latency_ms": null},
                "capabilities": ["route refresh"], "last_error": "Cease: \u{1b}[2Jmaintenance", "unconfirmed": null, "warning": null, "observer": null, "required": true,
                "max_routes": 50_000, "queued_octets": 0, "sessions": 1,
                "received": {"messages": 0, "updates": 0, "announced": 0, "withdrawn": 0, "refreshes": 0, "malformed": 0},
                "bfd": {"state": "Up", "since_seconds": 89, "remote_state": "Up", "interval_ms": 300,
                "detection_ms": 900, "last_down": "control detection time expired", "failures": 1, "discarded": 0,
                "last_discard": null}}],
            "lists": [], "exceptions": [],
            "process": {"uid": 998, "capabilities": ["CAP_NET_ADMIN"], "system_calls": "confined", "files": "the kernel has no landlock"},
            "errors": [{"seconds_ago": 61, "message": "edge1: hold timer expired"}],
        })
    );
}

#[test]
fn status_fits_one_screen_and_foreign_words_do_not_steer_the_terminal() {
    let server = Server::start();
    let text = server.stdout(&["status"]);
    assert_eq!(
        text.replace("up 1s", "up 0s"),
        "destguard is enforcing, up 0s

leases   1,203 of 100,000 (IPv4 1,200, IPv6 3), 2 pending, 10 lingering
answers  12,345 released, 7 denied, 5 refused, 1 held now, 4 gate timeouts
process  uid 998, CAP_NET_ADMIN, system calls confined, writing not: the kernel has no landlock

enforcer  state     since   holds  of       required  last error
nftables  in-force  3h 12m  1,203  100,000  yes       -

peer   address      asn    state        since   BFD         IPv4   IPv6  confirm       latency  last error
edge1  192.0.2.254  64512  Established  1m 30s  Up (900ms)  1,200  3     acked + 75ms  75 ms    Cease: ?[2Jmaintenance

upstream             state    asked  failed  rtt  last error
udp://192.0.2.53:53  healthy  10     0       -    -

last errors
  1m 1s ago: edge1: hold timer expired
"
    );
}

#[test]
fn leases_keep_their_shape_and_can_be_narrowed() {
    let server = Server::start();
    let first = serde_json::json!({"address": "192.0.2.10", "state": "installed", "ends_in_seconds": 250,
        "names": ["www.one.test"], "clients": ["192.0.2.7"], "enforcers": {"nftables": "open"}});
    let all = server.json(&["leases", "--json"]);
    assert_eq!((&all["version"], all["leases"].as_array().unwrap().len()), (&1.into(), 2));
    for of in ["192.0.2.10", "192.0.2.0/24", "www.one.test", "WWW.one.test."] {
        let some = server.json(&["leases", of, "--json"]);
        assert_eq!(some, serde_json::json!({"version": 1, "leases": [first]}), "{of}");
    }
    assert_eq!(
        server.stdout(&["leases", "2001:db8::/32"]),
        "address       state      ends in  names         clients    enforcers
2001:db8::10  installed  4m 10s   www.two.test  192.0.2.7  nftables open
"
    );
    assert_eq!(server.stdout(&["leases", "none.test"]), "no leases\n");
}

#[test]
fn many_leases_come_page_by_page_and_whole() {
    let server = Server::start();
    let many: Vec<LeaseView> = (0..2_500u32)
        .map(|index| lease(&std::net::Ipv4Addr::from(0xc612_0000 + index).to_string(), "x.test"))
        .collect();
    *server.sources.core.leases.lock().unwrap() = many;
    let all = server.json(&["leases", "--json"]);
    let addresses: std::collections::BTreeSet<_> =
        all["leases"].as_array().unwrap().iter().map(|lease| lease["address"].to_string()).collect();
    assert_eq!(addresses.len(), 2_500);
}

#[test]
fn explain_says_why() {
    let server = Server::start();
    assert_eq!(
        server.stdout(&["explain", "192.0.2.10"]),
        "192.0.2.10 is open

192.0.2.10: installed for 1m 20s, ends in 4m 10s, routes in 14m 10s
  www.one.test A via cdn.one.test, ends in 4m 10s
    asked by 192.0.2.7
  nftables: open for 1m 19s, required

now: allowed
"
    );
    assert_eq!(
        server.stdout(&["explain", "bad.test"]),
        "bad.test is closed: nobody was answered with its addresses

now: denied, the question gets NXDOMAIN (policy.deny[0] at destguard.toml:12)
"
    );
    // What has no lease, and what was refused.
    let (client, address) = ("10.0.0.13".parse().unwrap(), "203.0.113.9".parse().unwrap());
    assert_eq!(
        server.stdout(&["explain", "203.0.113.9"]),
        "203.0.113.9 is closed: nobody was answered with it; not filtered.\n"
    );
    (0..12).for_each(|_| server.sources.denied.refused(client, address));
    let text = server.stdout(&["explain", "203.0.113.9"]);
    let (before, after) = text.split_once("last ").unwrap();
    assert_eq!(
        before,
        "203.0.113.9 is closed: nobody was answered with it; not filtered. 12 packets refused (10.0.0.13, "
    );
    assert!(after.ends_with(" s ago)\n"), "{text}");
    let json = server.json(&["explain", "203.0.113.9", "--json"]);
    assert_eq!((&json["open"], &json["refused"]["packets"]), (&false.into(), &12.into()));
    let json = server.json(&["explain", "192.0.2.10", "--json"]);
    assert_eq!((&json["version"], &json["open"], &json["query"]), (&1.into(), &true.into(), &"192.0.2.10".into()));
    assert_eq!(json["addresses"][0]["causes"][0]["chain"], serde_json::json!(["cdn.one.test"]));
}

#[test]
fn peers_keep_their_shape() {
    let server = Server::start();
    let json = server.json(&["peers", "--json"]);
    let keys: Vec<&String> = json["peers"][0].as_object().unwrap().keys().collect();
    for key in
        ["name", "address", "asn", "state", "since_seconds", "advertised", "confirm", "capabilities", "last_error"]
    {
        assert!(keys.iter().any(|known| *known == key), "{key}");
    }
    let text = server.stdout(&["peers"]);
    let line = "edge1: confirm p50 75 ms, p99 over 75 ms (1,002); settle 75ms, learnt from 20 probes: median 60ms, 99% 64ms; \
                3 routes not verified yet; 2 withdrawals not reflected yet\n";
    assert!(text.ends_with(line), "{text}");
}

#[test]
fn denied_shows_what_was_refused_and_follows() {
    let server = Server::start();
    assert_eq!(server.stdout(&["denied"]), "nothing was refused\n");
    let client = Some("192.0.2.7".parse().unwrap());
    server.sources.denied.record(DeniedKind::Name, "bad.test", client, "policy.deny[0]");
    server.sources.denied.record(DeniedKind::Name, "bad.test", client, "policy.deny[0]");
    let text = server.stdout(&["denied"]);
    assert!(text.ends_with("name  192.0.2.7  bad.test  2      policy.deny[0]\n"), "{text}");

    let mut follow = Command::new(env!("CARGO_BIN_EXE_destguard"))
        .arg("--socket")
        .arg(server.socket())
        .args(["denied", "--follow", "--json"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(follow.stdout.take().unwrap()));
    assert!(lines.next().unwrap().unwrap().contains("bad.test"));
    server.sources.denied.record(DeniedKind::Address, "10.0.0.1", None, "special-purpose");
    let second: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(second["denied"][0]["what"], "10.0.0.1");
    assert_eq!(second["denied"].as_array().unwrap().len(), 1, "what was shown already comes again");
    follow.kill().unwrap();
    follow.wait().unwrap();
}

#[test]
fn revoke_closes_and_says_what() {
    let server = Server::start();
    let text = server.stdout(&["revoke", "www.one.test"]);
    assert!(text.starts_with("www.one.test: closed 192.0.2.10\n"), "{text}");
    assert!(text.contains("the next question for it opens it again"), "{text}");
    let again = server.run(&["revoke", "www.one.test"]);
    assert_eq!(again.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&again.stderr), "destguard: nothing is leased for www.one.test\n");
    let json = server.json(&["revoke", "2001:db8::10", "--json"]);
    assert_eq!(
        json,
        serde_json::json!({"version": 1, "target": "2001:db8::10", "addresses": ["2001:db8::10"], "forgotten": 0})
    );
}

#[test]
fn a_refused_reload_shows_the_report_and_is_a_configuration_error() {
    let server = Server::start();
    let output = server.run(&["reload"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "destguard.toml:1:1: error: unknown key `x`\nnot applied: the old configuration stays in force\n"
    );
}

fn eventually(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_reload_that_was_begun_is_brought_to_its_end_though_nobody_waits_for_it() {
    let server = Server::start();
    server.sources.reload_takes.store(300, Ordering::SeqCst);
    let [begun, done] = &server.sources.reloads;
    let mut stream = UnixStream::connect(server.socket()).unwrap();
    stream.write_all(b"POST /api/v1/reload HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n").unwrap();
    eventually("it begins", || begun.load(Ordering::SeqCst) == 1);
    drop(stream);
    eventually("it ends", || done.load(Ordering::SeqCst) == 1);
}

#[test]
fn health_follows_the_enforcers() {
    let server = Server::start();
    let get = |path: &str| raw(UnixStream::connect(server.socket()).unwrap(), "GET", path, "localhost");
    assert_eq!(get("/ready").0, "HTTP/1.1 200 OK");
    *server.sources.core.state.lock().unwrap() = EnforcerState::Lost;
    let (status, body) = get("/ready");
    assert_eq!(status, "HTTP/1.1 503 Service Unavailable");
    assert!(body.contains("\"state\":\"degraded\"") && body.contains("nftables is lost"), "{body}");
    assert_eq!(get("/health").0, "HTTP/1.1 200 OK");
    assert_eq!(get("/metrics"), ("HTTP/1.1 200 OK".to_owned(), "destguard_one 1\n".to_owned()));
    let (status, body) = get("/nothing");
    assert_eq!(
        (status.as_str(), body.as_str()),
        ("HTTP/1.1 404 Not Found", "{\"version\":1,\"error\":\"there is no such route\"}")
    );
    assert_eq!(get("/api/v1/explain?of=a..b").0, "HTTP/1.1 400 Bad Request");
    assert_eq!(get("/api/v1/leases?after=x").0, "HTTP/1.1 400 Bad Request");
    assert_eq!(get("/api/v1/revoke?of=www.one.test").0, "HTTP/1.1 405 Method Not Allowed");
}

/// Serves over TCP as well.
fn over_tcp(server: &Server) -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let sources = Arc::clone(&server.sources) as Arc<dyn Sources>;
    server
        ._runtime
        .spawn(async move { serve_tcp(tokio::net::TcpListener::from_std(listener).unwrap(), sources).await });
    addr
}

/// The word behind each occurrence of `before`.
fn words<'a>(text: &'a str, before: &'a str) -> impl Iterator<Item = &'a str> {
    text.match_indices(before).filter_map(move |(at, _)| {
        let starts = text[..at].chars().next_back().is_none_or(|c| !c.is_alphanumeric());
        let word = &text[at + before.len()..];
        let end = word.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(word.len());
        (starts && !word[..end].is_empty()).then_some(&word[..end])
    })
}

#[test]
fn the_page_loads_nothing_from_elsewhere_and_asks_for_what_there_is() {
    let server = Server::start();
    server.sources.denied.record(DeniedKind::Name, "bad.test", None, "policy.deny[0]");
    let addr = over_tcp(&server);
    let get = |path: &str| {
        let mut stream = std::net::TcpStream::connect(addr).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK"), "{path}: {text}");
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.to_ascii_lowercase(), body.to_owned())
    };
    let (head, page) = get("/");
    assert!(head.contains("content-type: text/html"));
    assert!(head.contains("content-security-policy: default-src 'none'; script-src 'self'"), "{head}");
    assert!(head.contains("frame-ancestors 'none'") && head.contains("x-content-type-options: nosniff"), "{head}");
    assert!(!page.contains("://") && !page.contains("onclick") && !page.contains("<style"), "the policy forbids it");
    let style = get("/page.css").1;
    let script = get("/page.js").1;
    let others = ["/kit.js", "/explain.js", "/log.js", "/plots.js"].map(|path| get(path).1);
    for text in [&page, &style, &script].into_iter().chain(&others) {
        assert!(!text.contains("http:") && !text.contains("https:") && !text.contains("innerHTML"));
    }
    let id_is_there = |id: &str| assert!(page.contains(&format!("id=\"{id}\"")), "{id}");
    others.iter().for_each(|text| words(text, "byId(\"").for_each(id_is_there));
    words(&script, "byId(\"").chain(words(&script, "table(\"")).for_each(id_is_there);
    // Every field that the script shows is in what the interface answers.
    let json = |path: &str| serde_json::from_str::<serde_json::Value>(&get(path).1).unwrap();
    let status = json("/api/v1/status");
    let shown = [
        ("status.", &status),
        ("leases.", &status["leases"]),
        ("answers.", &status["answers"]),
        ("e.", &status["enforcers"][0]),
        ("u.", &status["upstreams"][0]),
        ("p.", &json("/api/v1/peers")["peers"][0]),
        ("l.", &json("/api/v1/leases?limit=200")["leases"][0]),
        ("d.", &json("/api/v1/denied")["denied"][0]),
    ];
    for (before, answer) in shown {
        let fields: Vec<&str> = words(&script, before).filter(|word| !["map", "length"].contains(word)).collect();
        assert!(!fields.is_empty(), "{before}");
        fields.into_iter().for_each(|field| assert!(answer.get(field).is_some(), "{before}{field}: {answer}"));
    }
}

#[test]
fn over_tcp_one_may_only_look_and_only_by_address() {
    let server = Server::start();
    let addr = over_tcp(&server);
    let ask =
        |method: &str, path: &str, host: &str| raw(std::net::TcpStream::connect(addr).unwrap(), method, path, host).0;
    assert_eq!(ask("GET", "/api/v1/status", &addr.to_string()), "HTTP/1.1 200 OK");
    assert_eq!(ask("GET", "/api/v1/status", "localhost:8053"), "HTTP/1.1 200 OK");
    assert_eq!(ask("GET", "/api/v1/status", "[::1]:8053"), "HTTP/1.1 200 OK");
    assert_eq!(ask("GET", "/api/v1/status", "evil.test"), "HTTP/1.1 421 Misdirected Request");
    for path in ["/api/v1/revoke?of=www.one.test", "/api/v1/reload", "/api/v1/disarm"] {
        assert_eq!(ask("POST", path, "127.0.0.1"), "HTTP/1.1 404 Not Found", "{path}");
    }
    assert_eq!(server.sources.core.leases.lock().unwrap().len(), 2, "nothing was revoked");
}

#[test]
fn over_tcp_one_source_can_not_keep_all_places() {
    let server = Server::start();
    let addr = over_tcp(&server);
    let half = |_| {
        let mut stream = std::net::TcpStream::connect(addr).unwrap();
        // Those beyond its share are closed at once.
        drop(stream.write_all(b"GET /health HTTP/1.1\r\nho"));
        stream
    };
    let _held: Vec<_> = (0..100).map(half).collect();
    let other = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    other.bind(&std::net::SocketAddr::from(([127, 0, 0, 2], 0)).into()).unwrap();
    other.connect(&addr.into()).unwrap();
    other.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let stream = std::net::TcpStream::from(other);
    assert_eq!(raw(stream, "GET", "/health", "127.0.0.1").0, "HTTP/1.1 200 OK");
}

#[test]
fn the_socket_is_for_owner_and_group_and_goes_with_the_daemon() {
    let server = Server::start();
    let socket = server.socket();
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let second = runtime.block_on(async { ControlSocket::bind(&socket) }).unwrap_err();
    assert_eq!(second.kind(), std::io::ErrorKind::AddrInUse, "{second}");
    let Server { _runtime, dir, .. } = server;
    drop(_runtime);
    assert!(!socket.exists());
    drop(dir);
}

#[test]
fn a_left_over_socket_is_replaced_and_a_file_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let unreachable = destguard(&path, &["status"]);
    assert_eq!(unreachable.status.code(), Some(3));
    assert!(
        String::from_utf8_lossy(&unreachable.stderr).contains("destguard is not running (it left its socket behind at")
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let socket = runtime.block_on(async { ControlSocket::bind(&path) }).unwrap();
    drop(socket);
    assert!(!path.exists());
    std::fs::write(&path, "precious").unwrap();
    assert!(runtime.block_on(async { ControlSocket::bind(&path) }).is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn a_stranger_is_turned_away() {
    use std::os::unix::process::CommandExt;
    let server = Server::start();
    // Everybody may reach the file, so that only the credentials are left to stop a stranger.
    std::fs::set_permissions(server.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(server.socket(), std::fs::Permissions::from_mode(0o666)).unwrap();
    let text = "import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
try:
    s.sendall(b'GET /health HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n')
    print(len(s.recv(1)))
except (ConnectionResetError, BrokenPipeError):
    print(0)
";
    let ask = |uid: u32| {
        let output =
            Command::new("python3").args(["-c", text]).arg(server.socket()).uid(uid).gid(uid).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    assert_eq!(ask(0), "1");
    assert_eq!(ask(65_534), "0");
}
