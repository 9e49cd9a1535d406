//! `http.listen` of a whole daemon, asked by curl and octet by octet: names, TLS, token, and reloads of all of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

#[path = "support/programs.rs"]
#[allow(dead_code)]
mod programs;

/// For whatever must happen in the end.
const PATIENCE: Duration = Duration::from_secs(60);
const TOKEN: &str = "a-token-that-nobody-guesses";

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

struct Guard {
    directory: tempfile::TempDir,
    child: Child,
    /// The address of the listener at loopback.
    near: SocketAddr,
    /// Of every address of this host.
    wide: u16,
}

impl Guard {
    fn start(http: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (near, wide) = (SocketAddr::from(([127, 0, 0, 1], free_port())), free_port());
        std::fs::write(directory.path().join("token"), format!("{TOKEN}\n")).unwrap();
        programs::certificates(directory.path(), &[("guard", &["guard.example"]), ("other", &["other.example"])]);
        write(directory.path(), near, wide, http);
        let mut command = Command::new(env!("CARGO_BIN_EXE_destguard"));
        command.arg("--socket").arg(directory.path().join("control.sock"));
        command.args(["run", "--config"]).arg(directory.path().join("destguard.toml"));
        command.stderr(std::fs::File::create(directory.path().join("words")).unwrap()).stdout(Stdio::null());
        let mut guard = Self { child: command.spawn().unwrap(), directory, near, wide };
        let began = Instant::now();
        while !guard.command(&["status"]).status.success() {
            assert!(guard.child.try_wait().unwrap().is_none(), "it ended: {}", guard.words());
            assert!(began.elapsed() < PATIENCE, "{}", guard.words());
            std::thread::sleep(Duration::from_millis(20));
        }
        guard
    }

    fn words(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("words")).unwrap()
    }

    fn command(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_destguard"));
        command.arg("--socket").arg(self.directory.path().join("control.sock")).args(words).output().unwrap()
    }

    #[track_caller]
    fn reload(&self, http: &str) {
        write(self.directory.path(), self.near, self.wide, http);
        let output = self.command(&["reload"]);
        assert!(output.status.success(), "{output:?}");
    }

    #[track_caller]
    fn eventually(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let began = Instant::now();
        while !holds() {
            assert!(began.elapsed() < PATIENCE, "{what}: not in time\n{}", self.words());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A number of `/metrics`.
    fn metric(&self, name: &str) -> u64 {
        let path = self.directory.path().join("control.sock");
        let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name} is not there")).trim().parse().unwrap()
    }

    /// Status line and body, in plain text.
    fn plain(&self, port: u16, request: &str, host: &str) -> (String, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {request} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        drop(stream.read_to_string(&mut text));
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
        (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
    }

    /// Code and body by curl, which believes our authority alone; 0: no answer.
    fn curl(&self, name: &str, port: u16, path: &str, more: &[&str]) -> (u32, String) {
        let mut command = Command::new("curl");
        command.args(["-s", "--noproxy", "*", "--max-time", "60", "-w", "\n%{http_code}", "--cacert"]);
        command.arg(self.directory.path().join("ca.pem"));
        command.args(["--resolve", &format!("{name}:{port}:127.0.0.1")]);
        let output = command.args(more).arg(format!("https://{name}:{port}{path}")).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (body, code) = text.rsplit_once('\n').unwrap();
        (code.parse().unwrap(), body.to_owned())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn write(directory: &Path, near: SocketAddr, wide: u16, http: &str) {
    let at = directory.display();
    let dns = SocketAddr::from(([127, 0, 0, 1], near.port()));
    let text = format!(
        "[dns]\nlisten = [\"{dns}\"]\nworkers = 1\n[[dns.upstream]]\nurl = \"udp://127.0.0.1:9\"\n\
         [addresses]\ninside = []\n\
         [bgp]\nasn = 64512\nrouter_id = \"192.0.2.2\"\nnext_hop_ipv4 = \"192.0.2.1\"\n\
         [[bgp.peer]]\nname = \"edge1\"\naddress = \"127.0.0.1\"\nport = 9\nasn = 64513\nfamilies = [\"ipv4\"]\n\
         [state]\ndir = \"{at}/state\"\n[http]\nlisten = [\"127.0.0.1:{}\", \"0.0.0.0:{wide}\"]\n{http}\n",
        near.port() ^ 1
    );
    std::fs::write(directory.join("destguard.toml"), text).unwrap();
}

const TLS: &str = "certificate = \"guard.pem\"\nkey = \"guard.key\"\n";
const WITH_TOKEN: &str = "token_file = \"token\"\n";

#[test]
fn names_tls_and_token_are_asked_for_and_change_by_reload() {
    let guard = Guard::start("");
    let near = guard.near.port() ^ 1;
    let wide = guard.wide;

    // In plain text, without a token: by address or a configured name.
    for (host, path, begins) in [
        ("127.0.0.1", "/api/v1/status", "HTTP/1.1 200"),
        ("evil.test", "/api/v1/status", "HTTP/1.1 421"),
        ("evil.test", "/", "HTTP/1.1 421"),
        ("evil.test", "/metrics", "HTTP/1.1 200"),
        ("evil.test", "/health", "HTTP/1.1 200"),
        ("guard.example", "/", "HTTP/1.1 421"),
        ("127.0.0.1", "http://evil.test/api/v1/status", "HTTP/1.1 421"),
        ("127.0.0.1", "http://localhost/api/v1/status", "HTTP/1.1 200"),
    ] {
        let (status, body) = guard.plain(near, path, host);
        assert!(status.starts_with(begins), "{host} {path}: {status} {body}");
        assert!(!begins.ends_with("421") || body.contains("add the name to `http.names`"), "{body}");
    }
    guard.reload("names = [\"guard.example\"]");
    assert!(guard.plain(near, "/", "Guard.Example:80").0.starts_with("HTTP/1.1 200"));
    assert!(guard.metric("destguard_http_refused_total{reason=\"name\"}") >= 4);
    // Who asked for what is for loopback.
    for path in ["/api/v1/log", "/api/v1/top", "/api/v1/log/events"] {
        let (status, body) = guard.plain(wide, path, "127.0.0.1");
        assert!(status.starts_with("HTTP/1.1 403") && body.contains("under TLS with a token"), "{status} {body}");
    }
    assert!(guard.plain(near, "/api/v1/log", "127.0.0.1").0.starts_with("HTTP/1.1 200"));

    // A token in plain text: needed everywhere, and it opens the log beyond loopback no more than before.
    let mut followed = TcpStream::connect(("127.0.0.1", near)).unwrap();
    followed.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(followed, "GET /api/v1/log/events HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").unwrap();
    guard.eventually("it follows", || guard.metric("destguard_query_log_followers") == 1);
    guard.reload(WITH_TOKEN);
    // Who followed without it is told nothing more.
    let mut rest = Vec::new();
    followed.read_to_end(&mut rest).unwrap();
    guard.eventually("nobody follows", || guard.metric("destguard_query_log_followers") == 0);
    for port in [near, wide] {
        let (status, body) = guard.plain(port, "/api/v1/status", "127.0.0.1");
        assert!(status.starts_with("HTTP/1.1 401") && body.contains("http.token_file"), "{status} {body}");
        assert!(guard.plain(port, "/metrics", "127.0.0.1").0.starts_with("HTTP/1.1 200"));
    }
    let bearer = format!("127.0.0.1\r\nAuthorization: Bearer {TOKEN}");
    assert!(guard.plain(near, "/api/v1/log", &bearer).0.starts_with("HTTP/1.1 200"));
    assert!(guard.plain(wide, "/api/v1/status", &bearer).0.starts_with("HTTP/1.1 200"));
    assert!(guard.plain(wide, "/api/v1/log", &bearer).0.starts_with("HTTP/1.1 403"));

    // TLS: a connection from before is told nothing more, new ones in plain text neither.
    let mut kept = TcpStream::connect(("127.0.0.1", near)).unwrap();
    kept.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("GET /health HTTP/1.1\r\nHost: {bearer}\r\n\r\n");
    kept.write_all(request.as_bytes()).unwrap();
    let mut octets = [0; 12];
    kept.read_exact(&mut octets).unwrap();
    assert_eq!(&octets, b"HTTP/1.1 200");
    guard.reload(&format!("{TLS}{WITH_TOKEN}"));
    kept.write_all(request.as_bytes()).unwrap();
    let mut rest = String::new();
    drop(kept.read_to_string(&mut rest));
    assert!(rest.contains("HTTP/1.1 421") && rest.contains("TLS is spoken here"), "{rest}");
    assert_eq!(guard.plain(near, "/health", "127.0.0.1").0, "");
    let right = ["-u", &format!("me:{TOKEN}")];
    for port in [near, wide] {
        // By the name in the certificate.
        assert_eq!(guard.curl("guard.example", port, "/api/v1/log", &[]).0, 401);
        assert_eq!(guard.curl("guard.example", port, "/api/v1/log", &["-u", "me:another-token-altogether"]).0, 401);
        assert_eq!(guard.curl("guard.example", port, "/api/v1/log", &right).0, 200);
        assert_eq!(guard.curl("guard.example", port, "/", &right).0, 200);
        assert_eq!(guard.curl("guard.example", port, "/ready", &[]).0 / 100, 5);
        assert_eq!(guard.curl("guard.example", port, "/metrics", &[]).0, 200);
    }
    let header = format!("Authorization: Bearer {TOKEN}");
    assert_eq!(guard.curl("guard.example", wide, "/api/v1/top", &["-H", &header]).0, 200);
    assert_eq!(guard.curl("guard.example", wide, "/api/v1/top", &["-H", &header, "-H", "Host: evil.test"]).0, 421);
    assert_eq!(
        guard.curl("guard.example", wide, "/api/v1/top", &["-H", &header, "-H", "Sec-Fetch-Site: cross-site"]).0,
        403
    );
    assert!(guard.metric("destguard_http_refused_total{reason=\"token\"}") >= 4);
    guard.reload(&format!("{TLS}{WITH_TOKEN}metrics_need_token = true\n"));
    assert_eq!(guard.curl("guard.example", near, "/metrics", &[]).0, 401);
    assert_eq!(guard.curl("guard.example", near, "/metrics", &right).0, 200);
    assert_ne!(guard.curl("guard.example", near, "/health", &[]).0, 401);

    // Another token.
    std::fs::write(guard.directory.path().join("token"), "another-token-altogether").unwrap();
    guard.reload(&format!("{TLS}{WITH_TOKEN}"));
    assert_eq!(guard.curl("guard.example", near, "/", &right).0, 401);
    let right = ["-u", ":another-token-altogether"];
    assert_eq!(guard.curl("guard.example", near, "/", &right).0, 200);

    // Renewed files are taken over by themselves; what can't be used is not.
    let copy = |from: &str, to: &str| {
        std::fs::copy(guard.directory.path().join(from), guard.directory.path().join(to)).unwrap();
    };
    copy("other.pem", "guard.pem");
    guard.eventually("it is read", || guard.metric("destguard_http_certificate_errors_total") > 0);
    assert_eq!(guard.curl("guard.example", near, "/", &right).0, 200);
    copy("other.key", "guard.key");
    guard.eventually("it is shown", || guard.curl("other.example", near, "/", &right).0 == 200);
    assert_eq!(guard.curl("guard.example", near, "/", &right).0, 0, "curl doesn't believe it");
    assert_eq!(guard.metric("destguard_http_certificate_reloads_total"), 1);

    // A reload that can't be done changes nothing.
    write(
        guard.directory.path(),
        guard.near,
        guard.wide,
        &format!("{WITH_TOKEN}certificate = \"other.pem\"\nkey = \"ca.pem\"\n"),
    );
    let refused = guard.command(&["reload"]);
    assert!(!refused.status.success(), "{refused:?}");
    assert_eq!(guard.curl("other.example", wide, "/api/v1/log", &right).0, 200);

    // And back to plain text.
    guard.reload("");
    assert!(guard.plain(near, "/api/v1/log", "127.0.0.1").0.starts_with("HTTP/1.1 200"));
    assert!(guard.plain(wide, "/api/v1/log", "127.0.0.1").0.starts_with("HTTP/1.1 403"));
}

#[test]
fn a_handshake_that_never_comes_keeps_nobody_out() {
    let guard = Guard::start(TLS);
    let silent: Vec<TcpStream> = (0..8).map(|_| TcpStream::connect(("127.0.0.1", guard.wide)).unwrap()).collect();
    for _ in 0..3 {
        assert_eq!(guard.curl("guard.example", guard.wide, "/api/v1/status", &[]).0, 200, "{}", guard.words());
    }
    drop(silent);
}
