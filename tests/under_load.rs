//! In a crowd that takes all it can get, the guard still answers those who operate it, and those who only ask. In a network namespace; needs root.
// Helpers outside of #[test] functions fail a test as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/namespace.rs"]
#[allow(dead_code)]
mod namespace;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lab::dns::{self, Server};
use namespace::alone;
use socket2::{Domain, Socket, Type};

const DESTGUARD: &str = env!("CARGO_BIN_EXE_destguard");
const DNS: &str = "127.0.0.1:5353";
const HTTP: &str = "127.0.0.1:9153";
const PATIENCE: Duration = Duration::from_secs(20);

struct Guard {
    directory: tempfile::TempDir,
    process: Child,
    _upstream: Server,
}

impl Guard {
    /// With so many descriptors.
    fn start(descriptors: usize) -> Self {
        let upstream = Server::start_here(&["127.0.0.1:5300".parse().unwrap()]).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let text = format!(
            "[dns]\nlisten = [\"{DNS}\"]\n[[dns.upstream]]\nurl = \"udp://127.0.0.1:5300\"\n[http]\nlisten = [\"{HTTP}\"]\n\
             [[policy.private]]\ndomain = \"test\"\nprefixes = [\"203.0.113.0/24\", \"198.51.100.0/24\"]\n\
             [nftables]\nmode = \"local\"\n\
             [addresses]\ninside = []\n[state]\ndir = \"state\"\n"
        );
        std::fs::write(directory.path().join("destguard.toml"), text).unwrap();
        let process = Command::new("sh")
            .args(["-c", &format!("ulimit -n {descriptors}; exec \"$@\""), "sh", DESTGUARD])
            .arg("--socket")
            .arg(directory.path().join("control"))
            .arg("--config")
            .arg(directory.path().join("destguard.toml"))
            .arg("run")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let guard = Self { directory, process, _upstream: upstream };
        let begun = Instant::now();
        while !guard.says_how_it_is() {
            assert!(begun.elapsed() < PATIENCE, "it starts");
            std::thread::sleep(Duration::from_millis(20));
        }
        guard
    }

    fn says_how_it_is(&self) -> bool {
        let mut command = Command::new("timeout");
        command.args(["20", DESTGUARD, "--socket"]).arg(self.directory.path().join("control")).arg("peers");
        command.output().unwrap().status.success()
    }

    fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.process.id())).unwrap().count()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// Connects from 127.0.0.SOURCE, so that each source is a client of its own.
fn connect(source: u8, to: SocketAddr) -> Option<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(IpAddr::from([127, 0, 0, source]), 0).into()).unwrap();
    socket.connect_timeout(&to.into(), Duration::from_secs(1)).ok()?;
    let stream: TcpStream = socket.into();
    stream.set_nonblocking(true).unwrap();
    Some(stream)
}

/// So many connections of so many sources, each of which says `word` on its way and comes again when it was closed, until `stop`.
fn crowd(to: SocketAddr, most: usize, sources: usize, word: &[u8], (full, stop): (&AtomicBool, &AtomicBool)) {
    let mut all: Vec<Option<TcpStream>> = (0..most).map(|_| None).collect();
    while !stop.load(Ordering::Relaxed) {
        for (at, place) in all.iter_mut().enumerate() {
            let open = place.as_mut().is_some_and(|stream| match stream.read(&mut [0; 4096]) {
                Ok(octets) => octets > 0,
                Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
            });
            if !open {
                *place = connect(2 + u8::try_from(at % sources).unwrap(), to);
            }
            if let Some(stream) = place {
                drop(stream.write(word));
            }
        }
        full.store(true, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The answer's first line.
fn get(path: &str) -> String {
    let mut stream = TcpStream::connect(HTTP).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut said = String::new();
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    let done = stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_string(&mut said));
    done.map_or_else(|error| error.to_string(), |_| said.lines().next().unwrap_or_default().to_owned())
}

/// Does this while there is a crowd.
fn in_a_crowd(to: &str, most: usize, sources: usize, word: &[u8], body: impl FnOnce()) {
    let (full, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| crowd(to.parse().unwrap(), most, sources, word, (&full, &stop)));
        let begun = Instant::now();
        while !full.load(Ordering::Relaxed) && begun.elapsed() < 3 * PATIENCE {
            std::thread::sleep(Duration::from_millis(20));
        }
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
    });
}

#[test]
fn connections_of_clients_take_no_descriptor_from_upstreams_and_the_operator() {
    alone(|| {
        let guard = Guard::start(200);
        // Who asks all the time is never idle.
        let question =
            b"\x00\x1e\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x02n1\x04many\x04test\x00\x00\x01\x00\x01";
        in_a_crowd(DNS, 300, 8, question, || {
            // It takes all that it can.
            let (mut most, mut since) = (0, Instant::now());
            while most < 140 || since.elapsed() < Duration::from_millis(500) {
                let now = guard.descriptors();
                if now > most {
                    (most, since) = (now, Instant::now());
                }
                assert!(since.elapsed() < PATIENCE, "{most} are in use");
                std::thread::sleep(Duration::from_millis(20));
            }
            for number in 0..10 {
                assert!(guard.says_how_it_is(), "the control socket");
                for path in ["/health", "/ready", "/metrics"] {
                    assert!(get(path).contains("HTTP/1.1"), "{path}: {}", get(path));
                }
                let answer = dns::ask(DNS.parse().unwrap(), &format!("n{number}.many.test"), dns::A, PATIENCE).unwrap();
                assert_eq!(answer.addresses().len(), 1, "a question over UDP");
            }
        });
    });
}

#[test]
fn neither_silent_nor_slow_ones_keep_others_from_the_page_of_health() {
    alone(|| {
        let guard = Guard::start(1024);
        for word in [&b""[..], b"x"] {
            in_a_crowd(HTTP, 90, 6, word, || {
                for _ in 0..5 {
                    assert!(get("/ready").contains("HTTP/1.1"), "{word:?}: {}", get("/ready"));
                }
            });
        }
        assert!(guard.says_how_it_is());
    });
}
