//! Restarts and other listeners under load: no question is lost, neither by a reload, nor under a service manager that keeps the sockets nor where the next process takes them from the one before. The
//! real daemon with its packet filter, in a network namespace. Needs root and `nft`.
// Helpers outside of #[test] functions fail a test as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "handover/encrypted.rs"]
mod encrypted;
#[path = "handover/load.rs"]
mod load;
#[path = "handover/manager.rs"]
mod manager;
#[path = "support/namespace.rs"]
#[allow(dead_code)]
mod namespace;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lab::dns::Server;
use load::Load;
use manager::Manager;
use namespace::{alone, run};

const DESTGUARD: &str = env!("CARGO_BIN_EXE_destguard");
const UPSTREAM: &str = "127.0.0.1:5300";
const LISTEN: &str = "127.0.0.1:5353";
/// How long anything that must happen may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

struct Host {
    directory: tempfile::TempDir,
    _upstream: Server,
}

impl Host {
    fn new() -> Self {
        let upstream = Server::start_here(&[UPSTREAM.parse().unwrap()]).unwrap();
        let host = Self { directory: tempfile::tempdir().unwrap(), _upstream: upstream };
        host.write(2, "");
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, workers: usize, more: &str) {
        self.write_listening(LISTEN, "127.0.0.1:9153", workers, more);
    }

    fn write_listening(&self, listen: &str, http: &str, workers: usize, more: &str) {
        let text = format!(
            "[dns]\nlisten = [\"{listen}\"]\nworkers = {workers}\n[[dns.upstream]]\nurl = \"udp://{UPSTREAM}\"\n\
             [[policy.private]]\ndomain = \"test\"\nprefixes = [\"203.0.113.0/24\", \"198.51.100.0/24\"]\n\
             [lease]\nnew_per_client = \"10000/s\"\nburst_per_client = 10000\nnew_per_domain = \"10000/s\"\nburst_per_domain = 10000\n\
             [nftables]\nmode = \"local\"\n{more}[http]\nlisten = [\"{http}\"]\n[state]\ndir = \"{}\"\n",
            self.path("state").display()
        );
        std::fs::write(self.path("destguard.toml"), text).unwrap();
    }

    /// `run` and what else.
    fn words(&self, more: &[&str]) -> Vec<String> {
        let path = |name| self.path(name).display().to_string();
        let mut words = vec!["--socket".to_owned(), path("control"), "--config".to_owned(), path("destguard.toml")];
        words.extend(more.iter().map(|word| (*word).to_owned()));
        words
    }

    fn log(&self) -> Stdio {
        std::fs::File::options().append(true).create(true).open(self.path("log")).unwrap().into()
    }

    fn logged(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn reload(&self) {
        let done = Command::new(DESTGUARD).args(self.words(&["reload", "--json"])).output().unwrap();
        let text = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
        assert!(done.status.success() && text.contains("\"needs_restart\": []"), "{text}");
    }

    /// Whether it can be asked how it is.
    fn answers(&self) -> bool {
        Command::new(DESTGUARD).args(self.words(&["status"])).output().unwrap().status.success()
    }

    fn leases(&self) -> usize {
        run("nft list set inet destguard lease4").matches("expires").count()
    }

    fn until(&self, what: &str, mut is: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !is() {
            assert!(begun.elapsed() < PATIENCE, "{what}: never\n{}", self.logged());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn ten_restarts_under_a_service_manager_lose_no_question() {
    alone(|| {
        let host = Host::new();
        let mut manager = Manager::new(&host.path("notify"));
        manager.start(&host.words(&["run"]), host.log());
        let load = Load::start(LISTEN.parse().unwrap());
        load.warm();
        let held = host.leases();
        assert!(held > 100, "{held}");
        for round in 0..10 {
            // Others than before, too.
            host.write([3, 1, 2][round % 3], "");
            load.wait(100);
            manager.stop();
            manager.start(&host.words(&["run"]), host.log());
        }
        load.wait(200);
        let seen = load.end();
        assert!(host.leases() >= held, "what was leased stays open");
        assert!(seen.asked > 1000 && seen.over_tcp > 20, "{seen:?}");
        assert_eq!((seen.lost, seen.refused, seen.tcp_failed), (0, 0, 0), "{seen:?}\n{}", host.logged());
        manager.stop();
    });
}

#[test]
fn ten_successors_take_the_sockets_over_and_lose_no_question() {
    alone(|| {
        let host = Host::new();
        // Whoever stops it for good opens the host; a successor doesn't.
        host.write(2, "on_stop = \"remove\"\n");
        let launch = |more: &[&str]| {
            let words = [&["run"], more].concat();
            let mut command = Command::new(DESTGUARD);
            Guard(command.args(host.words(&words)).stdout(Stdio::null()).stderr(host.log()).spawn().unwrap())
        };
        let mut running = launch(&["--replace"]);
        host.until("it starts", || host.answers());
        let load = Load::start(LISTEN.parse().unwrap());
        load.warm();
        let held = host.leases();
        for round in 0..10 {
            host.write([3, 1, 2][round % 3], "on_stop = \"remove\"\n");
            load.wait(100);
            let next = launch(&["--replace"]);
            assert!(ended(&mut running.0).success());
            assert!(run("nft list tables").contains("inet destguard"), "the host stays closed");
            running = next;
        }
        load.wait(200);
        let seen = load.end();
        assert!(host.leases() >= held, "what was leased stays open");
        assert_eq!((seen.lost, seen.refused, seen.tcp_failed), (0, 0, 0), "{seen:?}\n{}", host.logged());
        // Without being told so, nobody is replaced; nor by who can't run.
        let second = Command::new(DESTGUARD).args(host.words(&["run"])).output().unwrap();
        assert!(!second.status.success());
        std::fs::write(host.path("destguard.toml"), "mode = \"nonsense\"").unwrap();
        let broken = Command::new(DESTGUARD).args(host.words(&["run", "--replace"])).output().unwrap();
        assert_eq!(broken.status.code(), Some(2), "{broken:?}");
        assert!(host.answers(), "the one that ran goes on");
        run(&format!("kill -TERM {}", running.0.id()));
        assert!(ended(&mut running.0).success());
        assert_eq!(run("nft list tables"), "");
    });
}

/// The encrypted listeners and what they are asked by.
fn encrypted_load(host: &Host) -> (String, impl FnOnce() -> encrypted::Load) {
    use encrypted::Speech;
    let key = rcgen::KeyPair::generate().unwrap();
    let made = rcgen::CertificateParams::new(vec!["guard.test".to_owned()]).unwrap().self_signed(&key).unwrap();
    std::fs::write(host.path("guard.pem"), made.pem()).unwrap();
    std::fs::write(host.path("guard.key"), key.serialize_pem()).unwrap();
    let of = |name: &str| host.path(name).display().to_string();
    let more = format!(
        "[dns.tls]\ncertificate = \"{}\"\nkey = \"{}\"\ndot = [\"127.0.0.1:8853\"]\ndoh = [\"127.0.0.1:8443\"]\ndoq = [\"127.0.0.1:8853\"]\n",
        of("guard.pem"),
        of("guard.key")
    );
    let servers = [(Speech::Tls, 8853), (Speech::Https, 8443), (Speech::Quic, 8853)]
        .map(|(speech, port)| (speech, std::net::SocketAddr::from(([127, 0, 0, 1], port))));
    (more, move || encrypted::Load::start(&servers, &made))
}

/// Nobody's question is lost, neither on a connection of its own nor where a connection that ended is opened again.
fn judge(host: &Host, load: encrypted::Load) {
    for (name, seen) in load.end() {
        println!("{name}: {seen:?}");
        assert!(seen.asked > 300, "{name}: {seen:?}");
        assert_eq!((seen.failed, seen.lost), (0, 0), "{name}: {seen:?}\n{}", host.logged());
    }
}

#[test]
fn ten_restarts_lose_no_encrypted_question() {
    alone(|| {
        let host = Host::new();
        let mut manager = Manager::new(&host.path("notify"));
        let (more, start) = encrypted_load(&host);
        host.write(2, &more);
        manager.start(&host.words(&["run"]), host.log());
        let load = start();
        load.wait(300);
        for _ in 0..10 {
            load.wait(100);
            manager.stop();
            manager.start(&host.words(&["run"]), host.log());
        }
        load.wait(200);
        judge(&host, load);
        manager.stop();
    });
}

#[test]
fn ten_successors_lose_no_encrypted_question() {
    alone(|| {
        let host = Host::new();
        let (more, start) = encrypted_load(&host);
        host.write(2, &more);
        let launch = || {
            let mut command = Command::new(DESTGUARD);
            let words = host.words(&["run", "--replace"]);
            Guard(command.args(words).stdout(Stdio::null()).stderr(host.log()).spawn().unwrap())
        };
        let mut running = launch();
        host.until("it starts", || host.answers());
        let load = start();
        load.wait(300);
        for _ in 0..10 {
            load.wait(100);
            let next = launch();
            assert!(ended(&mut running.0).success());
            running = next;
        }
        load.wait(200);
        judge(&host, load);
        run(&format!("kill -TERM {}", running.0.id()));
        assert!(ended(&mut running.0).success());
    });
}

#[test]
fn listeners_come_move_and_go_by_a_reload_and_no_question_is_lost() {
    alone(|| {
        let host = Host::new();
        let mut command = Command::new(DESTGUARD);
        let command = command.args(host.words(&["run"])).stdout(Stdio::null()).stderr(host.log());
        let mut running = Guard(command.spawn().unwrap());
        host.until("it starts", || host.answers());
        let load = Load::start(LISTEN.parse().unwrap());
        load.warm();
        let own_port = |port: u16| run("nft list set inet destguard own_ports").contains(&format!("udp . {port}"));
        let serves = |at: &str| lab::dns::ask(at.parse().unwrap(), "n1.many.test", lab::dns::A, PATIENCE).is_ok();
        let steps = [
            ("127.0.0.1:5353\", \"127.0.0.2:5354", 2, Some("127.0.0.2:5354")),
            ("127.0.0.1:5353", 3, None),
            ("127.0.0.1:5353\", \"[::1]:5354", 1, Some("[::1]:5354")),
            ("0.0.0.0:5353", 1, Some("127.0.0.3:5353")),
            ("[::]:5353", 2, Some("[::1]:5353")),
            ("127.0.0.1:5353", 2, None),
        ];
        for _ in 0..3 {
            for (listen, workers, also) in steps {
                host.write_listening(listen, "127.0.0.1:9153", workers, "");
                host.reload();
                assert!(also.is_none_or(serves), "{listen}");
                assert_eq!(own_port(5354), listen.contains("5354"), "{listen}");
                load.wait(40);
            }
        }
        let seen = load.end();
        assert_eq!((seen.lost, seen.refused, seen.tcp_failed), (0, 0, 0), "{seen:?}\n{}", host.logged());
        // What went is closed, and nobody asks there in vain.
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect("127.0.0.2:5354").unwrap();
        socket.send(b"anybody?").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(socket.recv(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
        assert!(std::net::TcpStream::connect("127.0.0.2:5354").is_err());
        run(&format!("kill -TERM {}", running.0.id()));
        assert!(ended(&mut running.0).success());
    });
}

#[test]
fn what_cant_be_bound_leaves_all_as_it_is_and_what_stays_is_not_touched() {
    alone(|| {
        let host = Host::new();
        let mut manager = Manager::new(&host.path("notify"));
        manager.start(&host.words(&["run"]), host.log());
        manager.listen();
        let inodes = || {
            let text = std::fs::read_to_string("/proc/thread-self/net/udp").unwrap();
            let own = text.lines().filter(|line| line.contains("0100007F:14E9"));
            own.map(|line| line.split_whitespace().nth(9).unwrap().to_owned()).collect::<Vec<_>>()
        };
        let (before, kept) = (inodes(), manager.store.keys().cloned().collect::<Vec<_>>());
        assert_eq!((before.len(), kept.len()), (2, 2), "{kept:?}");
        let taken = std::net::UdpSocket::bind("127.0.0.1:5399").unwrap();
        let both = format!("{LISTEN}\", \"127.0.0.1:5399");
        host.write_listening(&both, "127.0.0.1:9154", 2, "");
        let refused = Command::new(DESTGUARD).args(host.words(&["reload"])).output().unwrap();
        let said = String::from_utf8_lossy(&[refused.stdout, refused.stderr].concat()).into_owned();
        assert!(!refused.status.success() && said.contains("dns.listen: 127.0.0.1:5399/udp"), "{said}");
        let http = |port: u16| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        assert!(http(9153) && !http(9154) && inodes() == before);
        drop(taken);
        host.reload();
        assert!(http(9154) && inodes() == before, "{}", host.logged());
        manager.listen();
        host.until("the old page is gone", || !http(9153));
        let names: Vec<&str> = manager.store.keys().map(String::as_str).collect();
        let wanted = ["dns.listen/127.0.0.1_5353", "dns.listen/127.0.0.1_5399", "http.listen/127.0.0.1_9154"];
        assert_eq!(names, wanted, "systemd keeps what is served, and nothing else");
        // In the order of the file, the two addresses are the same listeners.
        let turned = format!("127.0.0.1:5399\", \"{LISTEN}");
        host.write_listening(&turned, "127.0.0.1:9154", 2, "");
        host.reload();
        assert_eq!(inodes(), before);
        let undone = Command::new(DESTGUARD).args(host.words(&["undo"])).output().unwrap();
        assert!(undone.status.success(), "{undone:?}");
        manager.stop();
    });
}

#[test]
fn encrypted_listeners_and_their_certificate_change_by_a_reload() {
    alone(|| {
        let host = Host::new();
        let mut manager = Manager::new(&host.path("notify"));
        for name in ["one.test", "two.test"] {
            let key = rcgen::KeyPair::generate().unwrap();
            let made = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
            std::fs::write(host.path(&format!("{name}.pem")), made.pem()).unwrap();
            std::fs::write(host.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        let write = |name: &str, lists: &str| {
            let of = |end: &str| host.path(&format!("{name}.{end}")).display().to_string();
            let tls = format!("[dns.tls]\ncertificate = \"{}\"\nkey = \"{}\"\n{lists}", of("pem"), of("key"));
            host.write(2, if name.is_empty() { "" } else { &tls });
        };
        let shown = |port: u16| {
            let line = format!(
                "timeout 20 openssl s_client -connect 127.0.0.1:{port} </dev/null 2>/dev/null | openssl x509 -noout -ext subjectAltName 2>&1 || true"
            );
            run(&line)
        };
        manager.start(&host.words(&["run"]), host.log());
        assert!(!shown(8853).contains("test"));
        write("one.test", "dot = [\"127.0.0.1:8853\"]\ndoq = [\"127.0.0.1:8853\"]\n");
        host.reload();
        assert!(shown(8853).contains("one.test"));
        assert!(run("nft list set inet destguard own_ports").contains("udp . 8853"));
        // A certificate that is none: all stays.
        std::fs::write(host.path("bad.pem"), "none").unwrap();
        std::fs::write(host.path("bad.key"), "none").unwrap();
        write("bad", "dot = [\"127.0.0.1:8854\"]\n");
        assert!(!Command::new(DESTGUARD).args(host.words(&["reload"])).output().unwrap().status.success());
        assert!(shown(8853).contains("one.test") && !shown(8854).contains("test"));
        write("two.test", "dot = [\"127.0.0.1:8853\"]\ndoh = [\"127.0.0.1:8443\"]\n");
        host.reload();
        assert!(shown(8853).contains("two.test") && shown(8443).contains("two.test"), "{}", host.logged());
        assert!(!run("nft list set inet destguard own_ports").contains("udp . 8853"));
        let undone = Command::new(DESTGUARD).args(host.words(&["undo"])).output().unwrap();
        assert!(undone.status.success(), "{undone:?}");
        manager.listen();
        assert!(shown(8853).contains("one.test") && !shown(8443).contains("test"));
        manager.stop();
    });
}

/// Ends with its test, however that ends.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn ended(child: &mut Child) -> std::process::ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(begun.elapsed() < PATIENCE, "it doesn't end");
        std::thread::sleep(Duration::from_millis(2));
    }
}
