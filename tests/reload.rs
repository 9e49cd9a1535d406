//! Changes of a running guard: tried, applied as far as they can be, taken back.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lab::reload_soak::witness::Routes;
use serde_json::Value;

/// Longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(60);

struct Guard {
    directory: tempfile::TempDir,
    process: Child,
}

impl Guard {
    fn start() -> Self {
        Self::start_with(|directory| write(directory, "60s", "state", ""))
    }

    fn start_with(write: impl FnOnce(&tempfile::TempDir)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let guard = |directory: &tempfile::TempDir| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_destguard"));
            command.arg("--socket").arg(directory.path().join("control"));
            command.arg("--config").arg(directory.path().join("destguard.toml"));
            command
        };
        write(&directory);
        let process = guard(&directory).arg("run").stderr(Stdio::null()).spawn().unwrap();
        let guard = Self { directory, process };
        eventually("it starts", || guard.run(&["peers"]).0);
        guard
    }

    fn write(&self, min: &str, state: &str, more: &str) {
        write(&self.directory, min, state, more);
    }

    /// Whether it succeeded, and what it printed.
    fn run(&self, arguments: &[&str]) -> (bool, String) {
        let path = |name: &str| -> PathBuf { self.directory.path().join(name) };
        let mut command = Command::new(env!("CARGO_BIN_EXE_destguard"));
        command.arg("--socket").arg(path("control")).arg("--config").arg(path("destguard.toml"));
        let output = command.args(arguments).output().unwrap();
        (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let (done, text) = self.run(&[arguments, &["--json"]].concat());
        assert!(done, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    /// What the file would change of what is in force.
    fn differs(&self) -> Vec<String> {
        texts(&self.json(&["reload", "--dry-run"])["changes"])
    }

    fn warnings(&self) -> String {
        texts(&self.json(&["status"])["warnings"]).join("\n")
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < DEADLINE, "{what}: never");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn write(directory: &tempfile::TempDir, min: &str, state: &str, more: &str) {
    write_with(directory, "udp://127.0.0.1:9", min, ("127.0.0.1:0", state), more);
}

fn write_with(directory: &tempfile::TempDir, upstream: &str, min: &str, (listen, state): (&str, &str), more: &str) {
    let text = format!(
        "[dns]\nlisten = [\"{listen}\"]\n[[dns.upstream]]\nurl = \"{upstream}\"\n[lease]\nmin = \"{min}\"\n\
         [state]\ndir = \"{state}\"\n[addresses]\ninside = []\n\
         [bgp]\nasn = 64512\nrouter_id = \"192.0.2.2\"\nnext_hop_ipv4 = \"192.0.2.1\"\nlisten = [\"127.0.0.1:0\"]\n\
         [[bgp.peer]]\nname = \"edge1\"\naddress = \"127.0.0.77\"\nasn = 64513\npassive = true\nfamilies = [\"ipv4\"]\n{more}"
    );
    std::fs::write(directory.path().join("destguard.toml"), text).unwrap();
}

/// An upstream that has this response code for everything; how many questions it had.
fn upstream(rcode: u8) -> (String, Arc<AtomicUsize>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (url, asked) = (format!("udp://{}", socket.local_addr().unwrap()), Arc::new(AtomicUsize::new(0)));
    let count = asked.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((len, peer)) = socket.recv_from(&mut buffer) {
            count.fetch_add(1, Ordering::SeqCst);
            // The question without EDNS; with a text, where that is no error.
            let end = 12 + buffer[12..len].iter().position(|octet| *octet == 0).unwrap() + 5;
            let mut reply = buffer[..end].to_vec();
            reply[2..12].copy_from_slice(&[0x81, 0x80 | rcode, 0, 1, 0, u8::from(rcode == 0), 0, 0, 0, 0]);
            if rcode == 0 {
                reply.extend_from_slice(&[0xc0, 12, 0, 16, 0, 1, 0, 0, 1, 0, 0, 2, 1, b'x']);
            }
            drop(socket.send_to(&reply, peer));
        }
    });
    (url, asked)
}

/// The response code of the answer to a question for text.
fn ask(listener: &str, name: &str) -> u8 {
    let mut question = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len()).unwrap());
        question.extend_from_slice(label.as_bytes());
    }
    question.extend_from_slice(&[0, 0, 16, 0, 1]);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.send_to(&question, listener).unwrap();
    let mut reply = [0; 1500];
    let len = socket.recv(&mut reply).unwrap();
    assert!(len > 12 && reply[..2] == [7, 7]);
    reply[3] & 15
}

#[test]
fn other_upstreams_and_clients_need_no_restart() {
    const LISTEN: &str = "127.0.0.1:45353";
    let ((old, _), (new, asked)) = (upstream(3), upstream(0));
    let guard = Guard::start_with(|directory| write_with(directory, &old, "60s", (LISTEN, "state"), ""));
    assert_eq!(ask(LISTEN, "www.example"), 3);
    write_with(&guard.directory, &new, "60s", (LISTEN, "state"), "");
    let applied = guard.json(&["reload"]);
    assert_eq!(texts(&applied["changes"]), [format!("dns.upstream[0].url: \"{old}\" -> \"{new}\"")]);
    assert_eq!(applied["needs_restart"].as_array().unwrap().len(), 0);
    assert_eq!(ask(LISTEN, "www.example"), 0, "nothing is kept of what the old one said");
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    assert_eq!(ask(LISTEN, "www.example"), 0);
    // What judges nothing keeps the answers.
    let text = std::fs::read_to_string(guard.directory.path().join("destguard.toml")).unwrap();
    let file = guard.directory.path().join("destguard.toml");
    std::fs::write(&file, text.replace("[dns]\n", "[dns]\nrate_limit = \"1000/s\"\n")).unwrap();
    assert_eq!(texts(&guard.json(&["reload"])["changes"]), ["dns.rate_limit: not set -> \"1000/s\""]);
    assert_eq!(ask(LISTEN, "www.example"), 0);
    assert_eq!(asked.load(Ordering::SeqCst), 1, "it is kept");
    std::fs::write(&file, text.replace("[dns]\n", "[dns]\nclients = [\"192.0.2.0/24\"]\n")).unwrap();
    guard.json(&["reload"]);
    assert_eq!(ask(LISTEN, "www.example"), 5, "who may not ask any more is refused");
    // One that can't be had leaves all as it was, and is named.
    write_with(&guard.directory, "tls://127.0.0.1\"\nca = \"nowhere.pem", "60s", (LISTEN, "state"), "");
    let (done, words) = guard.run(&["reload"]);
    assert!(!done && words.contains("nowhere.pem"), "{words}");
    assert_eq!(ask(LISTEN, "www.example"), 5);
    guard.json(&["undo"]);
    assert_eq!(ask(LISTEN, "www.example"), 0);
}

#[test]
fn routers_hear_of_what_is_open_and_of_other_upstreams_without_a_restart() {
    let (first, second) = ("192.0.2.77", "192.0.2.78");
    let end = AtomicBool::new(false);
    let (routes, listener) = (Routes::default(), TcpListener::bind("127.0.0.2:0").unwrap());
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let text = |upstream: &str, open: &str, more: &str| {
        format!(
            "[dns]\nlisten = [\"127.0.0.1:0\"]\n[[dns.upstream]]\nurl = \"udp://{upstream}\"\n[state]\ndir = \"state\"\n\
             [addresses]\ninside = []\nopen = [\"{open}\"]\n\
             [bgp]\nasn = 64512\nrouter_id = \"192.0.2.2\"\nnext_hop_ipv4 = \"192.0.2.1\"\n{more}\
             [[bgp.peer]]\nname = \"watch\"\naddress = \"127.0.0.2\"\nport = {port}\nasn = 64513\nfamilies = [\"ipv4\"]\n"
        )
    };
    let write = |directory: &tempfile::TempDir, text: String| {
        std::fs::write(directory.path().join("destguard.toml"), text).unwrap();
    };
    let holds = |addresses: &[&str]| {
        let all = addresses.iter().map(|address| address.parse().unwrap()).collect::<Vec<_>>();
        routes.of(&all).iter().map(|story| story.announced > story.withdrawn).collect::<Vec<_>>()
    };
    std::thread::scope(|scope| {
        scope.spawn(|| routes.listen(&listener, &end));
        let ended = EndAtLast(&end);
        let guard = Guard::start_with(|directory| write(directory, text("198.51.100.53", first, "")));
        eventually("what is open is announced", || holds(&[first]) == [true]);
        write(&guard.directory, text("198.51.100.54", second, "announce_upstreams = true\n"));
        let applied = guard.json(&["reload"]);
        assert_eq!(applied["needs_restart"].as_array().unwrap().len(), 0, "{applied}");
        eventually("what is new is announced", || holds(&[second, "198.51.100.54"]) == [true, true]);
        eventually("what is over is withdrawn", || holds(&[first]) == [false]);
        assert_eq!(holds(&[second, "198.51.100.53", "198.51.100.54"]), [true, false, true]);
        assert_eq!(routes.sessions.load(Ordering::Relaxed), 1, "the session is the first one");
        write(&guard.directory, text("198.51.100.54", second, "announce_open = false\n"));
        guard.json(&["reload"]);
        eventually("nothing is announced", || holds(&[second, "198.51.100.54"]) == [false, false]);
        drop(ended);
    });
}

/// Ends a thread however its scope is left.
struct EndAtLast<'a>(&'a AtomicBool);

impl Drop for EndAtLast<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

const CHANGE: &str = "lease.min: \"1m\" -> \"70s\"";

#[test]
fn one_key_that_needs_a_restart_keeps_no_other_from_being_applied() {
    let guard = Guard::start();
    guard.write("70s", "other", "");
    let tried = guard.json(&["reload", "--dry-run"]);
    assert_eq!((tried["applied"].as_bool(), tried["dry_run"].as_bool()), (Some(false), Some(true)));
    assert_eq!(texts(&tried["changes"]), [CHANGE]);
    assert_eq!(guard.differs(), [CHANGE], "nothing was applied by that");
    let applied = guard.json(&["reload"]);
    assert_eq!(applied["applied"], true);
    assert_eq!(texts(&applied["changes"]), [CHANGE]);
    let waits = texts(&applied["needs_restart"]);
    assert!(waits.len() == 1 && waits[0].starts_with("state.dir: "), "{waits:?}");
    assert!(guard.differs().is_empty());
    assert!(guard.warnings().contains("state.dir"), "{}", guard.warnings());
    let (done, text) = guard.run(&["reload"]);
    assert!(
        done && text.contains("nothing differs") && text.contains("need a restart") && text.contains("state.dir"),
        "{text}"
    );
    guard.write("70s", "state", "");
    guard.json(&["reload"]);
    assert!(!guard.warnings().contains("state.dir"), "{}", guard.warnings());
    // A file with an error changes nothing.
    guard.write("80s", "state", "[policy]\ndeny = [\"a..b\"]\n");
    let (done, text) = guard.run(&["reload"]);
    assert!(!done && text.contains("a..b"), "{text}");
    guard.write("70s", "state", "");
    assert!(guard.differs().is_empty());
}

#[test]
fn a_change_is_undone_and_done_again() {
    let guard = Guard::start();
    let (done, text) = guard.run(&["undo"]);
    assert!(!done && text.contains("nothing was changed since the start"), "{text}");
    guard.write("70s", "state", "");
    guard.json(&["reload"]);
    let undone = guard.json(&["undo"]);
    assert_eq!(texts(&undone["changes"]), ["lease.min: \"70s\" -> \"1m\""]);
    assert_eq!(guard.differs(), [CHANGE]);
    assert!(guard.warnings().contains("lease.min"), "{}", guard.warnings());
    assert_eq!(texts(&guard.json(&["undo"])["changes"]), [CHANGE]);
    assert!(guard.differs().is_empty());
}

#[test]
fn what_nobody_confirms_goes_back_by_itself() {
    let guard = Guard::start();
    guard.write("70s", "state", "");
    let tried = guard.json(&["reload", "--confirm", "1s"]);
    assert_eq!((tried["applied"].as_bool(), tried["goes_back_in_seconds"].as_u64()), (Some(true), Some(1)));
    eventually("it goes back", || guard.differs() == [CHANGE]);
    assert!(!guard.run(&["confirm"]).0, "too late");
    guard.json(&["reload", "--confirm", "1h"]);
    assert!(guard.warnings().contains("on trial"), "{}", guard.warnings());
    assert!(guard.run(&["confirm"]).0);
    assert!(!guard.warnings().contains("on trial"), "{}", guard.warnings());
    assert!(guard.differs().is_empty());
    assert!(!guard.run(&["confirm"]).0, "once");
}
