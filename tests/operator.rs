//! What an operator is told and can do, with the whole daemon on loopback: beside it an upstream and a router that are made up.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

/// For whatever must happen in the end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A router that takes a session and every route, acknowledges by TCP, and answers no ROUTE-REFRESH.
struct Router {
    address: SocketAddr,
}

impl Router {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || drop(Self::speak(stream)));
            }
        });
        Self { address }
    }

    fn speak(mut stream: TcpStream) -> std::io::Result<()> {
        let message = |kind: u8, body: &[u8]| {
            let length = (19 + body.len() as u16).to_be_bytes();
            [&[0xff; 16][..], &length, &[kind], body].concat()
        };
        loop {
            let mut head = [0; 19];
            stream.read_exact(&mut head)?;
            let mut body = vec![0; usize::from(u16::from_be_bytes([head[16], head[17]])) - 19];
            stream.read_exact(&mut body)?;
            match head[18] {
                1 => {
                    // IPv4 unicast, route refresh, enhanced route refresh, AS 64513 in four octets.
                    let capabilities = [1, 4, 0, 1, 0, 1, 2, 0, 70, 0, 65, 4, 0, 0, 0xfc, 1];
                    let mut open = vec![4, 0xfc, 1, 0, 90, 192, 0, 2, 254, 2 + capabilities.len() as u8, 2];
                    open.push(capabilities.len() as u8);
                    open.extend(capabilities);
                    stream.write_all(&message(1, &open))?;
                    stream.write_all(&message(4, &[]))?;
                }
                4 => stream.write_all(&message(4, &[]))?,
                _ => {}
            }
        }
    }
}

/// Names with their aliases and IPv4 addresses, in one answer. What isn't there does not exist.
type Names = Arc<Mutex<BTreeMap<String, Vec<String>>>>;

/// An upstream that answers from [`Names`], and counts who asks.
struct Upstream {
    address: SocketAddr,
    names: Names,
    asked: Arc<AtomicUsize>,
}

fn wire(name: &str) -> Vec<u8> {
    let labels = name.split('.').filter(|label| !label.is_empty());
    let mut out: Vec<u8> = labels.flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect();
    out.push(0);
    out
}

impl Upstream {
    fn start(names: &[(&str, &[&str])]) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let own = |(name, data): &(&str, &[&str])| (name.to_string(), data.iter().map(ToString::to_string).collect());
        let upstream = Self {
            address: socket.local_addr().unwrap(),
            names: Arc::new(Mutex::new(names.iter().map(own).collect())),
            asked: Arc::default(),
        };
        let (names, asked) = (upstream.names.clone(), upstream.asked.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 1500];
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                asked.fetch_add(1, Ordering::SeqCst);
                drop(socket.send_to(&Self::answer(&buffer[..len], &names.lock().unwrap()), from));
            }
        });
        upstream
    }

    fn answer(query: &[u8], names: &BTreeMap<String, Vec<String>>) -> Vec<u8> {
        let (mut at, mut name) = (12, String::new());
        while query[at] != 0 {
            let len = usize::from(query[at]);
            name.push_str(&format!("{}.", String::from_utf8_lossy(&query[at + 1..=at + len]).to_lowercase()));
            at += 1 + len;
        }
        let qtype = query[at + 2];
        let mut out = query[..at + 5].to_vec();
        out[2] = 0x81;
        out[4..12].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
        let data = names.get(name.trim_end_matches('.'));
        out[3] = if data.is_some() { 0x80 } else { 0x83 };
        let mut owner = name.trim_end_matches('.').to_owned();
        for one in data.into_iter().flatten() {
            let (kind, rdata, next) = match one.parse::<Ipv4Addr>() {
                Ok(_) if qtype != 1 => continue,
                Ok(address) => (1, address.octets().to_vec(), owner.clone()),
                Err(_) => (5, wire(one), one.clone()),
            };
            out[7] += 1;
            out.extend(wire(&owner));
            out.extend([0, kind, 0, 1, 0, 0, 1, 44]);
            out.extend((rdata.len() as u16).to_be_bytes());
            out.extend(rdata);
            owner = next;
        }
        out
    }
}

/// A running daemon with its directory.
struct Guard {
    directory: tempfile::TempDir,
    child: Option<Child>,
    dns: SocketAddr,
    config: String,
}

/// A free UDP and TCP port.
fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Guard {
    /// With one required router, and what `more` says.
    fn start(upstream: &Upstream, router: &Router, confirm: &str, more: &str) -> Self {
        let port = free_port();
        let config = format!(
            "[dns]\nlisten = [\"127.0.0.1:{port}\"]\nworkers = 1\n[[dns.upstream]]\nurl = \"udp://{}\"\n\
             [[policy.private]]\ndomain = \"test\"\nprefixes = [\"203.0.113.0/24\", \"198.51.100.0/24\"]\n\
             [addresses]\ninside = []\n\
             [bgp]\nasn = 64512\nrouter_id = \"192.0.2.2\"\nnext_hop_ipv4 = \"192.0.2.1\"\nlinger = \"0s\"\n\
             [[bgp.peer]]\nname = \"edge1\"\naddress = \"127.0.0.1\"\nport = {}\nasn = 64513\nfamilies = [\"ipv4\"]\n{confirm}\n{more}",
            upstream.address,
            router.address.port()
        );
        let directory = tempfile::tempdir().unwrap();
        let mut guard = Self { directory, child: None, dns: SocketAddr::from(([127, 0, 0, 1], port)), config };
        guard.write("");
        guard.run();
        guard
    }

    /// Writes the file, with `more` behind it.
    fn write(&self, more: &str) {
        let state = self.directory.path().join("state");
        let text = format!("{}\n{more}\n[state]\ndir = \"{}\"\n", self.config, state.display());
        std::fs::write(self.file(), text).unwrap();
    }

    fn run(&mut self) {
        self.run_with(Stdio::from(std::fs::File::create(self.directory.path().join("log")).unwrap()));
    }

    fn run_with(&mut self, stderr: Stdio) {
        let child = Command::new(env!("CARGO_BIN_EXE_destguard"))
            .arg("--socket")
            .arg(self.socket())
            .args(["run", "--config"])
            .arg(self.file())
            .stderr(stderr)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let mut child = self.child.take().unwrap();
        self.eventually("it runs", || {
            assert!(child.try_wait().unwrap().is_none(), "it ended: {}", self.log());
            self.command(&["status"]).status.success()
        });
        self.child = Some(child);
    }

    /// Kills the daemon at once (SIGKILL), so that it can't tidy up.
    fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("destguard.toml")
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("control.sock")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    #[track_caller]
    fn eventually(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let began = Instant::now();
        while !holds() {
            assert!(began.elapsed() < PATIENCE, "{what}: not in time\n{}\n{}", self.text(&["status"]), self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn command(&self, words: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_destguard")).arg("--socket").arg(self.socket()).args(words).output().unwrap()
    }

    /// What it prints, of both kinds.
    fn text(&self, words: &[&str]) -> String {
        let output = self.command(words);
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
    }

    fn json(&self, words: &[&str]) -> Value {
        let output = self.command(&[words, &["--json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{words:?}: {output:?}"))
    }

    fn state(&self) -> Value {
        self.json(&["status"])["state"].clone()
    }

    fn enforcing(&self) {
        self.eventually("enforcing", || self.state() == "enforcing");
    }

    /// The status line of `/ready`.
    fn ready(&self) -> String {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        write!(stream, "GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text.lines().next().unwrap().to_owned()
    }

    /// Response code and addresses.
    fn ask_from(&self, client: &str, name: &str) -> (u8, Vec<IpAddr>) {
        let socket = UdpSocket::bind((client, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let query = [&[7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &wire(name), &[0, 1, 0, 1]].concat();
        socket.send_to(&query, self.dns).unwrap();
        let mut buffer = [0; 1500];
        let len = socket.recv(&mut buffer).unwrap();
        let reply = &buffer[..len];
        let mut at = query.len();
        let mut addresses = Vec::new();
        for _ in 0..reply[7] {
            while reply[at] != 0 && reply[at] < 192 {
                at += 1 + usize::from(reply[at]);
            }
            at += if reply[at] == 0 { 1 } else { 2 };
            let (kind, length) = (reply[at + 1], usize::from(u16::from_be_bytes([reply[at + 8], reply[at + 9]])));
            at += 10;
            if kind == 1 {
                addresses.push(IpAddr::from(<[u8; 4]>::try_from(&reply[at..at + 4]).unwrap()));
            }
            at += length;
        }
        addresses.sort_unstable();
        (reply[3] & 15, addresses)
    }

    fn ask(&self, name: &str) -> (u8, Vec<IpAddr>) {
        self.ask_from("127.0.0.1", name)
    }

    fn is_open(&self, address: &str) -> bool {
        self.json(&["explain", address])["open"] == true
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}

const ACKED: &str = "confirm = \"acked\"\nsettle = \"0s\"";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_peer_that_is_not_required_and_never_comes_is_told_and_stops_nothing() {
    let (upstream, router) = (Upstream::start(&[]), Router::start());
    let spare = format!(
        "[[bgp.peer]]\nname = \"spare\"\naddress = \"127.0.0.9\"\nport = {}\nasn = 64514\nfamilies = [\"ipv4\"]\nrequired = false\n",
        free_port()
    );
    let guard = Guard::start(&upstream, &router, ACKED, &spare);
    guard.enforcing();
    assert_eq!(guard.ready(), "HTTP/1.1 200 OK");
    let status = guard.json(&["status"]);
    assert_eq!(status["reasons"], serde_json::json!([]));
    assert!(status["warnings"].to_string().contains("spare"), "{status}");
    let text = guard.text(&["status"]);
    assert!(text.contains("  warning: spare ") && text.contains("(not required)"), "{text}");
    // Nothing is older than the daemon; and nobody has asked the upstream.
    let up = status["uptime_seconds"].as_u64().unwrap();
    for one in status["enforcers"].as_array().unwrap() {
        assert!(one["since_seconds"].as_u64().unwrap() <= up + 1, "{status}");
    }
    assert_eq!(
        (&status["upstreams"][0]["healthy"], &status["upstreams"][0]["state"]),
        (&false.into(), &"unknown".into())
    );
    guard.ask("nobody.test");
    let status = guard.json(&["status"]);
    assert_eq!(
        (&status["upstreams"][0]["healthy"], &status["upstreams"][0]["state"]),
        (&true.into(), &"healthy".into())
    );
}

#[test]
fn a_required_router_that_is_up_and_confirms_nothing_is_named_within_five_seconds() {
    let (upstream, router) = (Upstream::start(&[]), Router::start());
    let guard = Guard::start(&upstream, &router, "confirm = \"refresh\"\nsettle = \"0s\"", "");
    let peer = || guard.json(&["peers"])["peers"][0].clone();
    guard.eventually("the session is up", || peer()["state"] == "Established");
    guard.eventually("degraded", || guard.state() == "degraded");
    let reasons = guard.json(&["status"])["reasons"].to_string();
    assert!(reasons.contains("edge1 does not confirm") && reasons.contains("ROUTE-REFRESH"), "{reasons}");
    // By the guard's own word, so that a busy machine can't make it miss; it may be looked at a while later.
    assert!(peer()["since_seconds"].as_u64().unwrap() <= 5 || guard.log().contains("ROUTE-REFRESH"));
    assert_eq!(guard.ready(), "HTTP/1.1 503 Service Unavailable");
}

#[test]
fn a_state_directory_that_is_lost_is_named() {
    let (upstream, router) = (Upstream::start(&[]), Router::start());
    let guard = Guard::start(&upstream, &router, ACKED, "");
    guard.enforcing();
    std::fs::remove_dir_all(guard.directory.path().join("state")).unwrap();
    // Whether it is told or mended first.
    let told = || guard.json(&["status"])["reasons"].to_string().contains("state");
    guard.eventually("told or mended", || told() || guard.directory.path().join("state").exists());
}

#[test]
fn explain_tells_of_the_past_and_names_the_rule_that_would_open() {
    let names: [(&str, &[&str]); 3] = [
        ("shop.test", &["cdn.test", "203.0.113.5"]),
        ("inside.test", &["10.0.0.1"]),
        ("elsewhere.invalid-tld", &["203.0.113.7"]),
    ];
    let (upstream, router) = (Upstream::start(&names), Router::start());
    let guard = Guard::start(&upstream, &router, ACKED, "");
    guard.enforcing();
    let closed = "203.0.113.5 is closed: nobody was answered with it; not filtered (policy.private[0] at ";
    let text = guard.text(&["explain", "203.0.113.5"]);
    assert!(text.starts_with(closed), "{text}");
    assert!(text.contains("destguard.toml:") && text.contains("names within test "), "{text}");
    // What would happen to a question, without asking one in earnest.
    let now = guard.json(&["explain", "shop.test"]);
    assert_eq!((&now["open"], &now["now"]["verdict"]), (&false.into(), &"allowed".into()));
    assert_eq!(now["answers"][0]["addresses"][0]["address"], "203.0.113.5");
    assert_eq!(now["answers"][0]["addresses"][0]["rule"], "policy.private[0]");
    assert_eq!(now["answers"][0]["chain"], serde_json::json!(["cdn.test"]));
    assert!(!guard.is_open("203.0.113.5"));
    for (name, verdict) in
        [("inside.test", "filtered"), ("elsewhere.invalid-tld", "filtered"), ("none.test", "allowed")]
    {
        assert_eq!(guard.json(&["explain", name])["now"]["verdict"], verdict, "{name}");
        let (_, addresses) = guard.ask(name);
        assert_eq!(addresses, Vec::<IpAddr>::new(), "{name}");
    }
    assert_eq!(guard.ask("shop.test"), (0, vec![ip("203.0.113.5")]));
    assert!(guard.is_open("203.0.113.5"));
    assert!(guard.text(&["revoke", "203.0.113.5"]).contains("closed 203.0.113.5"));
    let text = guard.text(&["explain", "203.0.113.5"]);
    assert!(text.starts_with("203.0.113.5 is closed: it was open for shop.test until "), "{text}");
    assert!(text.contains("(revoked); not filtered"), "{text}");
}

#[test]
fn revoke_names_what_stays_and_forgets_what_was_kept() {
    let names: [(&str, &[&str]); 3] = [
        ("shop.test", &["203.0.113.5", "203.0.113.6"]),
        ("video.test", &["203.0.113.6"]),
        ("www.shop.test", &["shop.test", "203.0.113.5"]),
    ];
    let (upstream, router) = (Upstream::start(&names), Router::start());
    let guard = Guard::start(&upstream, &router, ACKED, "");
    guard.enforcing();
    for name in ["shop.test", "video.test"] {
        assert_eq!(guard.ask(name).0, 0);
    }
    let asked = upstream.asked.load(Ordering::SeqCst);
    guard.ask("shop.test");
    assert_eq!(upstream.asked.load(Ordering::SeqCst), asked, "kept");
    let revoked = guard.json(&["revoke", "shop.test"]);
    assert_eq!(revoked["addresses"], serde_json::json!(["203.0.113.5"]));
    assert_eq!(revoked["stays"][0]["address"], "203.0.113.6");
    assert_eq!(revoked["stays"][0]["names"], serde_json::json!(["video.test"]));
    assert_eq!(revoked["forgotten"], 1);
    assert!(!guard.is_open("203.0.113.5") && guard.is_open("203.0.113.6"));
    let explained = guard.json(&["explain", "203.0.113.6"]);
    assert_eq!(explained["addresses"][0]["causes"].as_array().unwrap().len(), 1, "{explained}");
    assert_eq!(guard.json(&["explain", "shop.test"])["open"], false);
    // What was kept is not given: the next question asks, and opens.
    guard.ask("shop.test");
    assert_eq!(upstream.asked.load(Ordering::SeqCst), asked + 3, "explain (A and AAAA) and the question have asked");
    assert!(guard.is_open("203.0.113.5"));
    let text = guard.text(&["revoke", "shop.test"]);
    assert!(text.starts_with("shop.test: closed 203.0.113.5\n  203.0.113.6 stays open for "), "{text}");
    assert!(text.contains("video.test holds it") && text.contains("the next question for it opens it again"), "{text}");
    // An alias is a name too.
    guard.ask("www.shop.test");
    assert_eq!(guard.json(&["revoke", "shop.test"])["addresses"], serde_json::json!(["203.0.113.5"]));
    assert_eq!(guard.command(&["revoke", "nobody.test"]).status.code(), Some(1));
}

#[test]
fn an_exception_denies_or_allows_for_a_while_and_outlives_a_kill() {
    let names: [(&str, &[&str]); 4] = [
        ("shop.test", &["cdn.test", "203.0.113.5"]),
        ("video.test", &["203.0.113.6"]),
        ("both.test", &["203.0.113.5", "203.0.113.6"]),
        ("closed.test", &["203.0.113.9"]),
    ];
    let (upstream, router) = (Upstream::start(&names), Router::start());
    let mut guard = Guard::start(&upstream, &router, ACKED, "[policy]\ndeny = [\"closed.test\"]\n");
    guard.enforcing();
    for name in ["shop.test", "video.test"] {
        assert_eq!(guard.ask(name).0, 0, "{name}");
    }
    // At once: questions, aliases, leases and what is kept. Only what nobody else holds is closed.
    let text = guard.text(&["deny", "cdn.test", "--for", "1h"]);
    assert_eq!(text, "cdn.test: denied for 1h\n  closed 203.0.113.5\n");
    assert_eq!((guard.ask("shop.test").0, guard.ask("video.test").0), (3, 0));
    assert!(!guard.is_open("203.0.113.5") && guard.is_open("203.0.113.6"));
    let explained = guard.json(&["explain", "shop.test"]);
    assert_eq!(explained["now"]["verdict"], "denied", "{explained}");
    assert!(explained["now"]["rule"].as_str().unwrap().starts_with("exception: deny until "), "{explained}");
    let status = guard.json(&["status"]);
    assert_eq!(
        (&status["exceptions"][0]["name"], &status["exceptions"][0]["action"]),
        (&"cdn.test".into(), &"deny".into())
    );
    assert!(guard.text(&["status"]).contains("deny       cdn.test  everybody  "), "{}", guard.text(&["status"]));
    assert_eq!(guard.state(), "enforcing");
    // One that allows stands above the file, and below one that denies; for one client only where it is named.
    assert_eq!((guard.ask_from("127.0.0.7", "closed.test").0, guard.ask("closed.test").0), (3, 3));
    guard.text(&["allow", "closed.test", "--client", "127.0.0.7", "--for", "30m"]);
    guard.text(&["allow", "cdn.test", "--for", "30m"]);
    assert_eq!((guard.ask_from("127.0.0.7", "closed.test").0, guard.ask("closed.test").0), (0, 3));
    assert_eq!(guard.ask("shop.test").0, 3);
    assert_eq!(guard.json(&["explain", "closed.test", "--client", "127.0.0.7"])["now"]["verdict"], "allowed");
    assert_eq!(guard.json(&["explain", "closed.test"])["now"]["verdict"], "denied");
    // kill -9
    guard.kill();
    guard.run();
    guard.enforcing();
    assert_eq!(
        (guard.ask("shop.test").0, guard.ask_from("127.0.0.7", "closed.test").0, guard.ask("closed.test").0),
        (3, 0, 3)
    );
    assert_eq!(guard.json(&["status"])["exceptions"].as_array().unwrap().len(), 3);
    assert!(guard.is_open("203.0.113.9"));
    // Undone, what it had allowed is closed.
    let undone = guard.json(&["allow", "closed.test", "--client", "127.0.0.7", "--undo"]);
    assert_eq!((&undone["ends_in_seconds"], &undone["closed"]), (&Value::Null, &serde_json::json!(["203.0.113.9"])));
    assert_eq!(guard.ask_from("127.0.0.7", "closed.test").0, 3);
    guard.text(&["deny", "cdn.test", "--undo"]);
    assert_eq!(guard.ask("shop.test").0, 0);
    assert_eq!(guard.command(&["deny", "cdn.test", "--undo"]).status.code(), Some(1), "it is undone already");
    assert_eq!(guard.command(&["deny", "cdn.test"]).status.code(), Some(2), "for how long?");
    assert_eq!(guard.command(&["deny", "a..b", "--for", "1h"]).status.code(), Some(2));
    assert_eq!(guard.command(&["deny", "a.test", "--for", "31d"]).status.code(), Some(1));
    // It ends by itself, and a reload leaves it alone.
    guard.text(&["deny", "video.test", "--for", "2s"]);
    guard.text(&["reload"]);
    guard.eventually("it ends", || guard.ask("video.test").0 == 0);
    // A wrong file: started without, kept beside, told.
    guard.kill();
    let file = guard.directory.path().join("state/exceptions");
    let mut octets = std::fs::read(&file).unwrap();
    *octets.last_mut().unwrap() ^= 1;
    std::fs::write(&file, octets).unwrap();
    guard.run();
    guard.enforcing();
    let status = guard.json(&["status"]);
    assert!(status["warnings"].to_string().contains("exceptions.bad"), "{status}");
    assert_eq!(status["exceptions"], serde_json::json!([]));
}

#[test]
fn exceptions_have_a_bound() {
    let (upstream, router) = (Upstream::start(&[]), Router::start());
    let guard = Guard::start(&upstream, &router, ACKED, "");
    guard.enforcing();
    let mut refused = None;
    for n in 0..200 {
        let output = guard.command(&["deny", &format!("n{n}.test"), "--for", "1h"]);
        if !output.status.success() {
            refused = Some((n, String::from_utf8(output.stderr).unwrap()));
            break;
        }
    }
    let (n, words) = refused.unwrap();
    assert_eq!(n, 128, "{words}");
    assert!(words.contains("there are 128 exceptions already"), "{words}");
}

#[test]
fn a_stderr_that_nobody_reads_stops_nothing() {
    let (upstream, router) = (Upstream::start(&[("one.test", &["203.0.113.1"])]), Router::start());
    let mut guard = Guard::start(&upstream, &router, ACKED, "");
    guard.kill();
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    // The pipe is full before the daemon writes its first line.
    writer.write_all(&[b'\n'; 65_536]).unwrap();
    guard.run_with(Stdio::from(writer));
    guard.enforcing();
    assert_eq!(guard.ask("one.test"), (0, vec![ip("203.0.113.1")]));
    // Told to end it ends, though nobody takes its last line.
    let pid = guard.child.as_ref().unwrap().id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let mut child = guard.child.take().unwrap();
    let began = Instant::now();
    let ended = loop {
        if let Some(ended) = child.try_wait().unwrap() {
            break ended;
        }
        assert!(began.elapsed() < PATIENCE, "it doesn't end");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(ended.success(), "{ended}");
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text.trim(), "", "the pipe was full");
}

#[test]
fn who_asks_most_what_is_denied_most_and_what_a_question_would_get() {
    let names: [(&str, &[&str]); 3] = [
        ("shop.test", &["cdn.test", "203.0.113.5"]),
        ("cdn.test", &["203.0.113.5"]),
        ("inside.test", &["192.168.7.7"]),
    ];
    let (upstream, router) = (Upstream::start(&names), Router::start());
    let guard = Guard::start(&upstream, &router, ACKED, "[policy]\ndeny = [\"evil.test\"]\n");
    guard.enforcing();

    // Asked and judged, and nothing is opened by that.
    let text = guard.text(&["test", "shop.test"]);
    assert!(text.contains("A -> cdn.test") && text.contains("203.0.113.5"), "{text}");
    assert!(!text.contains("AAAA -> evil"), "{text}");
    assert!(guard.text(&["test", "inside.test", "--type", "A"]).contains("192.168.7.7"), "{text}");
    assert!(guard.text(&["test", "evil.test"]).contains("evil.test: denied"), "{}", guard.text(&["test", "evil.test"]));
    assert_eq!(guard.json(&["leases"])["leases"].as_array().map(Vec::len), Some(0));

    (0..3).for_each(|_| drop(guard.ask("shop.test")));
    (0..2).for_each(|_| drop(guard.ask("evil.test")));
    guard.ask_from("127.0.0.2", "inside.test");
    let top = guard.json(&["top", "--limit", "2"]);
    assert_eq!(top["questions"], 6, "{top}");
    assert_eq!(
        (&top["clients"][0]["client"], &top["clients"][0]["questions"], &top["clients"][0]["denied"]),
        (&"127.0.0.1".into(), &5.into(), &2.into())
    );
    assert_eq!((&top["names"][0]["name"], &top["names"][0]["questions"]), (&"shop.test".into(), &3.into()));
    assert_eq!((&top["denied"][0]["name"], &top["denied"][0]["count"]), (&"evil.test".into(), &2.into()));
    let text = guard.text(&["top"]);
    assert!(text.contains("6 questions in the last 1h") && text.contains("evil.test (policy.deny[0])"), "{text}");

    let denied = |words: &[&str]| guard.json(&[&["denied"], words].concat())["denied"].as_array().unwrap().len();
    assert_eq!([denied(&[]), denied(&["--client", "127.0.0.2"]), denied(&["--kind", "packet"])], [2, 1, 0]);
    assert_eq!(denied(&["--kind", "question"]), denied(&["--kind", "name"]));
    assert_eq!(denied(&["--kind", "question"]), 1);
    assert_eq!([denied(&["--since", "1h"]), denied(&["--top", "1"])], [2, 1]);
    assert_eq!(guard.command(&["denied", "--kind", "nonsense"]).status.code(), Some(2));
}

#[test]
fn every_question_and_its_fate_are_in_the_log() {
    let names: [(&str, &[&str]); 3] =
        [("shop.test", &["203.0.113.5"]), ("evil.shop.test", &["203.0.113.6"]), ("inside.test", &["192.168.7.7"])];
    let (upstream, router) = (Upstream::start(&names), Router::start());
    let policy = "[policy]\ndeny = [\"evil.shop.test\"]\n";
    let mut guard = Guard::start(&upstream, &router, ACKED, policy);
    guard.enforcing();
    for name in ["shop.test", "shop.test", "evil.shop.test", "inside.test", "localhost", "nowhere.test"] {
        guard.ask(name);
    }
    guard.ask_from("127.0.0.2", "shop.test");
    let asked = |words: &[&str]| {
        let page = guard.json(&[&["log"], words].concat());
        let one =
            |asked: &Value| ["name", "fate", "rcode"].map(|key| asked[key].as_str().unwrap().to_owned()).join(" ");
        page["asked"].as_array().unwrap().iter().map(one).collect::<Vec<_>>()
    };
    let all = [
        "shop.test released NOERROR",
        "shop.test cached NOERROR",
        "evil.shop.test denied NXDOMAIN",
        "inside.test filtered NOERROR",
        "localhost local NOERROR",
        "nowhere.test released NXDOMAIN",
        "shop.test cached NOERROR",
    ];
    assert_eq!(asked(&[]), all, "{}", guard.text(&["log"]));
    assert_eq!(asked(&["--client", "127.0.0.2"]), all[6..]);
    assert_eq!(asked(&["--name", "shop.test", "--client", "127.0.0.1/32"]), all[..3]);
    assert_eq!(asked(&["--address", "203.0.113.5"]).len(), 3);
    assert_eq!(asked(&["--fate", "denied", "--since", "1h"]), all[2..3]);
    assert_eq!(asked(&["--limit", "1"]), all[6..]);
    let text = guard.text(&["log", "--fate", "denied"]);
    assert!(text.contains("denied NXDOMAIN") && text.contains("evil.shop.test (policy.deny[0])"), "{text}");
    for wrong in [["--fate", "lost"], ["--client", "nobody"], ["--name", "a..b"]] {
        assert_eq!(guard.command(&[&["log"][..], &wrong].concat()).status.code(), Some(2), "{wrong:?}");
    }

    // A follower sees what comes, once each.
    let mut follower = Command::new(env!("CARGO_BIN_EXE_destguard"))
        .arg("--socket")
        .arg(guard.socket())
        .args(["log", "--follow", "--json", "--name", "shop.test"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(follower.stdout.take().unwrap()));
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!((0..4).map(|_| next()["version"].clone()).collect::<Vec<_>>(), [1; 4]);
    guard.ask("other.test");
    guard.ask("evil.shop.test");
    assert_eq!(next()["name"], "evil.shop.test");
    follower.kill().unwrap();
    follower.wait().unwrap();

    // A reload hides names, and keeps none at all.
    let reload = |more: &str| {
        guard.write(more);
        assert!(guard.command(&["reload"]).status.success(), "{}", guard.text(&["reload"]));
    };
    reload("[log]\nhide = [\"names\", \"clients\"]\n");
    let text = guard.text(&["log", "--json"]);
    assert!(!text.contains("shop") && !text.contains("127.0.0") && !text.contains("203.0.113"), "{text}");
    assert_eq!(guard.command(&["log", "--name", "shop.test"]).status.code(), Some(2));
    reload("[log]\nqueries = 0\n");
    assert!(guard.text(&["log"]).contains("log.queries is 0"));

    // A stranger, whose address may be forged, pushes nobody out of it.
    guard.config = guard.config.replace("workers = 1", "workers = 1\nclients = [\"127.0.0.1/32\"]");
    guard.write("");
    assert!(guard.command(&["reload"]).status.success());
    assert_eq!(guard.ask_from("127.0.0.2", "shop.test").0, 5);
    guard.ask("shop.test");
    let seen = guard.json(&["log"])["asked"].clone();
    assert_eq!((seen.as_array().unwrap().len(), &seen[0]["client"]), (1, &Value::from("127.0.0.1")), "{seen}");
    guard.kill();
}

#[test]
fn a_signal_that_comes_while_it_starts_waits_until_it_runs() {
    let (upstream, router) = (Upstream::start(&[]), Router::start());
    let mut guard = Guard::start(&upstream, &router, ACKED, "");
    for signal in ["-HUP", "-TERM"] {
        guard.kill();
        std::fs::remove_file(guard.socket()).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_destguard"))
            .arg("--socket")
            .arg(guard.socket())
            .args(["run", "--config"])
            .arg(guard.file())
            .stderr(Stdio::from(std::fs::File::create(guard.directory.path().join("log")).unwrap()))
            .spawn()
            .unwrap();
        let id = child.id().to_string();
        guard.child = Some(child);
        // The socket is there well before anything else runs.
        let socket = guard.socket();
        let begun = Instant::now();
        while !socket.exists() {
            assert!(begun.elapsed() < PATIENCE, "{}", guard.log());
        }
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
        if signal == "-HUP" {
            guard.eventually("it runs", || guard.command(&["status"]).status.success());
        } else {
            let ended = guard.child.as_mut().unwrap().wait().unwrap();
            assert!(ended.success(), "{ended}: {}", guard.log());
            assert!(guard.log().contains("destguard has stopped"), "{}", guard.log());
        }
    }
}
