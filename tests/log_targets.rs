//! Where questions go beside memory, with the whole daemon, confined as it is by default: a file, syslog, dnstap.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// For whatever must happen in the end.
const PATIENCE: Duration = Duration::from_secs(60);

/// An upstream that knows no name.
fn upstream() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            let end = 12 + buffer[12..].iter().position(|octet| *octet == 0).unwrap() + 5;
            let mut reply = buffer[..end].to_vec();
            (reply[2], reply[3]) = (0x81, 0x83);
            reply[4..12].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
            drop(socket.send_to(&reply, from));
        }
    });
    address
}

fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A running daemon with its directory.
struct Guard {
    directory: tempfile::TempDir,
    child: Child,
    dns: SocketAddr,
    upstream: SocketAddr,
}

impl Guard {
    fn start(log: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let dns = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let upstream = upstream();
        write(directory.path(), dns, upstream, log);
        let child = run(directory.path());
        let mut guard = Self { directory, child, dns, upstream };
        guard.comes();
        guard
    }

    fn comes(&mut self) {
        let began = Instant::now();
        while !self.command(&["status"]).status.success() {
            assert!(self.child.try_wait().unwrap().is_none(), "it ended: {}", self.words());
            assert!(began.elapsed() < PATIENCE, "{}", self.words());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn stop(&mut self) {
        assert!(self.command(&["stop"]).status.success());
        self.child.wait().unwrap();
    }

    fn restart(&mut self) {
        self.stop();
        self.child = run(self.directory.path());
        self.comes();
    }

    fn reload(&self, log: &str) {
        write(self.directory.path(), self.dns, self.upstream, log);
        let output = self.command(&["reload"]);
        assert!(output.status.success(), "{output:?}");
    }

    fn words(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("words")).unwrap()
    }

    fn command(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_destguard"));
        command.arg("--socket").arg(self.directory.path().join("control.sock")).args(words).output().unwrap()
    }

    fn json(&self, words: &[&str]) -> Value {
        let output = self.command(&[words, &["--json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{words:?}: {output:?}"))
    }

    #[track_caller]
    fn eventually(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let began = Instant::now();
        while !holds() {
            assert!(began.elapsed() < PATIENCE, "{what}: not in time\n{:?}\n{}", self.warnings(), self.words());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A warning of the log, if there is one.
    fn warnings(&self) -> Option<String> {
        let status = self.json(&["status"]);
        let warnings = status["warnings"].as_array().unwrap().iter();
        warnings.filter_map(|warning| warning.as_str()).find(|warning| warning.contains("log.")).map(str::to_owned)
    }

    /// The same over TCP.
    fn ask_by_stream(&self, name: &str) -> u8 {
        let query = query(name);
        let mut stream = TcpStream::connect(self.dns).unwrap();
        stream.write_all(&[&(query.len() as u16).to_be_bytes(), query.as_slice()].concat()).unwrap();
        let mut reply = [0; 14];
        stream.read_exact(&mut reply).unwrap();
        reply[5] & 0x0f
    }

    /// The code of the reply.
    fn ask(&self, name: &str) -> u8 {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(&query(name), self.dns).unwrap();
        let mut buffer = [0; 1500];
        socket.recv(&mut buffer).unwrap();
        buffer[3] & 0x0f
    }

    /// A number of `/metrics`.
    fn metric(&self, name: &str) -> u64 {
        let mut stream = UnixStream::connect(self.directory.path().join("control.sock")).unwrap();
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map_or(0, |number| number.trim().parse().unwrap())
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("state/log/queries.jsonl")
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn write(directory: &Path, dns: SocketAddr, upstream: SocketAddr, log: &str) {
    let state = directory.join("state");
    let text = format!(
        "[dns]\nlisten = [\"{dns}\"]\nworkers = 1\n[[dns.upstream]]\nurl = \"udp://{upstream}\"\n\
         [policy]\ndeny = [\"evil.test\"]\n[addresses]\ninside = []\n\
         [bgp]\nasn = 64512\nrouter_id = \"192.0.2.2\"\nnext_hop_ipv4 = \"192.0.2.1\"\n\
         [[bgp.peer]]\nname = \"edge1\"\naddress = \"127.0.0.1\"\nport = 9\nasn = 64513\nfamilies = [\"ipv4\"]\n\
         [state]\ndir = \"{}\"\n[log]\n{log}\n",
        state.display()
    );
    std::fs::write(directory.join("destguard.toml"), text).unwrap();
}

fn run(directory: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_destguard"));
    command.arg("--socket").arg(directory.join("control.sock"));
    command.args(["run", "--config"]).arg(directory.join("destguard.toml"));
    command.stderr(std::fs::File::create(directory.join("words")).unwrap()).stdout(Stdio::null()).spawn().unwrap()
}

fn query(name: &str) -> Vec<u8> {
    let labels = name.split('.');
    let wire: Vec<u8> = labels.flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect();
    [&[7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &wire, &[0, 0, 1, 0, 1]].concat()
}

/// The lines of a file of questions.
fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    // The last may be on its way.
    text.split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn names(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["name"].as_str().unwrap()).collect()
}

/// A message of syslog: its head and the question.
fn message(octets: &[u8]) -> (String, Value) {
    let text = std::str::from_utf8(octets).unwrap();
    let (head, json) = text.split_once(" query - ").unwrap();
    (head.to_owned(), serde_json::from_str(json).unwrap())
}

#[test]
fn every_question_is_in_the_file_and_goes_to_syslog() {
    let elsewhere = tempfile::tempdir().unwrap();
    let place = elsewhere.path().join("dev-log");
    let bind = || {
        let reader = UnixDatagram::bind(&place).unwrap();
        reader.set_read_timeout(Some(PATIENCE)).unwrap();
        reader
    };
    let next = |reader: &UnixDatagram| {
        let mut buffer = [0; 4096];
        let len = reader.recv(&mut buffer).unwrap();
        message(&buffer[..len])
    };
    let reader = bind();
    let log = format!("file = \"queries.jsonl\"\nsyslog = \"unix:{}\"", place.display());
    let mut guard = Guard::start(&log);
    for name in ["nowhere.test", "evil.test", "localhost"] {
        guard.ask(name);
    }
    let messages: Vec<_> = (0..3).map(|_| next(&reader)).collect();
    let head: Vec<&str> = messages[0].0.split(' ').collect();
    assert_eq!((head[0], head[3], head[4]), ("<30>1", "destguard", guard.child.id().to_string().as_str()));
    let kept = guard.json(&["log"])["asked"].as_array().unwrap().clone();
    assert_eq!(kept, messages.into_iter().map(|(_, json)| json).collect::<Vec<_>>());
    guard.eventually("the file", || lines(&guard.file()) == kept);
    assert_eq!(names(&kept), ["nowhere.test", "evil.test", "localhost"]);
    assert_eq!(guard.warnings(), None);

    // As logrotate does it.
    std::fs::rename(guard.file(), guard.file().with_extension("old")).unwrap();
    guard.ask("second.test");
    guard.eventually("the new file", || names(&lines(&guard.file())) == ["second.test"]);
    assert_eq!(next(&reader).1["name"], "second.test");

    // A reader that is gone holds up nobody; once it is back it gets what waited.
    drop(reader);
    std::fs::remove_file(&place).unwrap();
    assert_eq!(guard.ask("third.test"), 3);
    guard.eventually("the warning", || guard.warnings().is_some_and(|warning| warning.contains("log.syslog unix:")));
    assert_eq!(guard.ask("fourth.test"), 3);
    let reader = bind();
    assert_eq!(next(&reader).1["name"], "third.test");
    assert_eq!(next(&reader).1["name"], "fourth.test");
    guard.eventually("no warning", || guard.warnings().is_none());
    assert_eq!(guard.metric("destguard_query_log_written_total{sink=\"syslog\"}"), 6);

    // A reload hides names and clients, and nothing need be kept in memory; syslog goes elsewhere.
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_read_timeout(Some(PATIENCE)).unwrap();
    let log = format!(
        "queries = 0\nfile = \"queries.jsonl\"\nsyslog = \"udp:{}\"\nhide = [\"names\", \"clients\"]",
        udp.local_addr().unwrap()
    );
    guard.reload(&log);
    guard.ask("secret.test");
    let mut buffer = [0; 4096];
    let len = udp.recv(&mut buffer).unwrap();
    let hidden = message(&buffer[..len]).1;
    assert!(hidden["name"].as_str().unwrap().starts_with('#') && hidden["client"].as_str().unwrap().starts_with('#'));
    guard.eventually("the hidden one", || lines(&guard.file()).last() == Some(&hidden));

    // What was asked last is there when it has stopped.
    guard.reload("file = \"queries.jsonl\"");
    for number in 0..200 {
        guard.ask(&format!("last{number}.test"));
    }
    guard.stop();
    assert_eq!(
        lines(&guard.file()).iter().filter(|line| line["name"].as_str().unwrap().starts_with("last")).count(),
        200
    );
}

#[test]
fn a_directory_that_the_daemon_may_not_write_to_is_a_warning_until_a_restart() {
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("queries");
    let mut guard = Guard::start("");
    let confined = guard.json(&["status"])["process"]["files"] == "confined";
    guard.reload(&format!("file = \"{}\"", file.display()));
    assert_eq!(guard.ask("nowhere.test"), 3);
    if confined {
        guard.eventually("the warning", || guard.warnings().is_some_and(|warning| warning.contains("after a restart")));
        guard.restart();
        guard.ask("nowhere.test");
    }
    guard.eventually("the file", || names(&lines(&file)) == ["nowhere.test"]);
    assert_eq!(guard.warnings(), None);
}

/// The reader of dnstap's authors.
struct Reader(Child);

impl Reader {
    fn start(from: &[&str], into: &Path) -> Self {
        let mut command = Command::new("dnstap");
        command.args(from).args(["-j", "-w"]).arg(into).stderr(Stdio::null());
        Self(command.spawn().expect("dnstap of golang-github-dnstap-golang-dnstap-cli"))
    }

    /// It writes what it holds at the end.
    fn stop(mut self, into: &Path) -> Vec<Value> {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        self.0.wait().unwrap();
        lines(into)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Of each message: type, transport, and who asked for what.
fn told(messages: &[Value]) -> Vec<[String; 4]> {
    let one = |message: &Value| {
        let message = &message["message"];
        let text = |key: &str| message[key].as_str().unwrap_or("-").to_owned();
        let octets = ["query_message", "response_message"].into_iter().find_map(|key| message[key].as_str());
        let octets = octets.unwrap_or("-");
        // The reader's own form: as dig prints it.
        let name = octets.lines().find_map(|line| line.strip_prefix(';').filter(|line| line.contains("\tIN\t")));
        let name = name.and_then(|line| line.split_whitespace().next()).unwrap_or("-").to_owned();
        [text("type"), text("socket_protocol"), text("query_address"), name]
    };
    messages.iter().map(one).collect()
}

#[test]
fn a_reader_of_dnstap_sees_what_clients_ask_and_get() {
    let elsewhere = tempfile::tempdir().unwrap();
    let (socket, first) = (elsewhere.path().join("dnstap"), elsewhere.path().join("first.json"));
    // The guard is there first, and tells what waited.
    let guard = Guard::start(&format!("dnstap = \"unix:{}\"", socket.display()));
    guard.eventually("the warning", || guard.warnings().is_some_and(|warning| warning.contains("log.dnstap unix:")));
    assert_eq!(guard.ask("evil.test"), 3);
    let reader = Reader::start(&["-u", socket.to_str().unwrap()], &first);
    guard.eventually("it is read", || guard.metric("destguard_query_log_written_total{sink=\"dnstap\"}") == 2);
    assert_eq!(guard.ask_by_stream("nowhere.test"), 3);
    guard.eventually("it is read", || guard.metric("destguard_query_log_written_total{sink=\"dnstap\"}") == 4);
    assert_eq!(guard.warnings(), None);

    // Another one, over TCP, and hidden.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let second = elsewhere.path().join("second.json");
    let other = Reader::start(&["-l", &port], &second);
    guard.reload(&format!("dnstap = \"tcp:{port}\"\nhide = [\"names\", \"clients\"]"));
    assert_eq!(guard.ask("evil.test"), 3);
    guard.eventually("it is read", || guard.metric("destguard_query_log_written_total{sink=\"dnstap\"}") == 6);
    // The first has heard the goodbye.
    let messages = reader.stop(&first);
    let seen = told(&messages);
    let line = |kind: &str, way: &str, name: &str| [kind, way, "127.0.0.1", name].map(str::to_owned);
    assert_eq!(
        seen,
        [
            line("CLIENT_QUERY", "UDP", "evil.test."),
            line("CLIENT_RESPONSE", "UDP", "evil.test."),
            line("CLIENT_QUERY", "TCP", "nowhere.test."),
            line("CLIENT_RESPONSE", "TCP", "nowhere.test."),
        ]
    );
    drop(guard);
    let messages = other.stop(&second);
    let hidden = |kind: &str| [kind, "UDP", "-", "-"].map(str::to_owned);
    assert_eq!(told(&messages), [hidden("CLIENT_QUERY"), hidden("CLIENT_RESPONSE")]);
}
