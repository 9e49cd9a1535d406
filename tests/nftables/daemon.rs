//! The whole daemon in a namespace of its own.

use std::io::Write;
use std::net::UdpSocket;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use super::{Kernel, Namespace, PATIENCE, address, alone, config, enforcer, eventually, link, nftables, run};
use destguard::config::schema::NftablesMode;

const DESTGUARD: &str = env!("CARGO_BIN_EXE_destguard");
const DNS: &str = "[dns]\nlisten = [\"127.0.0.1:0\"]\n[[dns.upstream]]\nurl = \"udp://127.0.0.1:9\"\n";
/// A peer that never comes.
const PEER: &str = "[bgp]\nasn = 64512\nrouter_id = \"192.0.2.2\"\nnext_hop_ipv4 = \"192.0.2.1\"\nlisten = [\"127.0.0.1:0\"]\n\
                    [[bgp.peer]]\nname = \"edge1\"\naddress = \"127.0.0.77\"\nasn = 64513\npassive = true\nfamilies = [\"ipv4\"]\n[addresses]\ninside = []\n";

struct Daemon {
    directory: tempfile::TempDir,
    child: Option<Child>,
}

impl Daemon {
    /// Runs once this returns.
    fn start(more: &str) -> Self {
        Self::start_as(&format!("{DNS}{more}"))
    }

    fn start_as(text: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("destguard.toml");
        write(directory.path(), text);
        let child = Command::new(DESTGUARD)
            .arg("--socket")
            .arg(socket(directory.path()))
            .args(["run", "--config"])
            .arg(&file)
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        let daemon = Self { directory, child: Some(child) };
        let began = Instant::now();
        while !daemon.ask(&["status"]).status.success() {
            assert!(began.elapsed() < PATIENCE, "the daemon can't be reached");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        daemon
    }

    fn write(&self, text: &str) {
        write(self.directory.path(), text);
    }

    fn ask(&self, words: &[&str]) -> Output {
        let mut command = Command::new(DESTGUARD);
        command.arg("--socket").arg(socket(self.directory.path())).args(words).output().expect("destguard")
    }

    /// Reloads with this instead; returns what needs a restart.
    fn reload(&self, more: &str) -> Vec<String> {
        let state = self.directory.path().join("state");
        let text = format!("{DNS}{more}[state]\ndir = \"{}\"\n", state.display());
        std::fs::write(self.directory.path().join("destguard.toml"), text).expect("written");
        let output = self.ask(&["reload", "--json"]);
        let reloaded: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(reloaded["applied"], true, "{reloaded}");
        let waits = reloaded["needs_restart"].as_array().expect("a list");
        waits.iter().map(|key| key.as_str().expect("a text").to_owned()).collect()
    }

    /// Why it is as it is.
    fn reasons(&self) -> String {
        let status: serde_json::Value = serde_json::from_slice(&self.ask(&["status", "--json"]).stdout).expect("JSON");
        status["reasons"].to_string()
    }

    fn warnings(&self) -> String {
        let status: serde_json::Value = serde_json::from_slice(&self.ask(&["status", "--json"]).stdout).expect("JSON");
        status["warnings"].to_string()
    }

    /// What it said in its life.
    fn stop(mut self) -> String {
        let child = self.child.take().expect("it runs");
        run(&format!("kill -TERM {}", child.id()));
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

fn write(directory: &Path, text: &str) {
    let state = directory.join("state");
    let text = format!("{text}[state]\ndir = \"{}\"\n", state.display());
    std::fs::write(directory.join("destguard.toml"), text).expect("written");
}

fn socket(directory: &Path) -> std::path::PathBuf {
    directory.join("control.sock")
}

#[test]
fn mode_and_capacity_follow_a_reload() {
    alone(|| {
        let table = || run("nft list table inet destguard 2>&1; true");
        let daemon = Daemon::start("[nftables]\nmode = \"local\"\n[lease]\ncapacity = 100\n");
        assert!(table().contains("hook output") && table().contains("size 1149"));
        let none: [String; 0] = [];
        assert_eq!(daemon.reload("[nftables]\nmode = \"both\"\ninside = [\"lo\"]\n[lease]\ncapacity = 1000\n"), none);
        assert!(table().contains("hook forward") && table().contains("size 2274"), "{}", table());
        assert_eq!(daemon.reload(&format!("[nftables]\nmode = \"off\"\n{PEER}")), none);
        assert!(table().contains("No such file"), "{}", table());
        assert_eq!(daemon.reload("[nftables]\nmode = \"local\"\n"), none);
        let text = table();
        assert!(
            text.contains("hook output") && !text.contains("hook forward") && text.contains("policy drop"),
            "{text}"
        );
        daemon.stop();

        let daemon = Daemon::start(&format!("[nftables]\nmode = \"off\"\n{PEER}"));
        let waits = daemon.reload("[nftables]\nmode = \"local\"\n[lease]\ncapacity = 100\n");
        assert_eq!(waits, ["nftables.mode: \"off\" -> \"local\""]);
        daemon.stop();
    });
}

#[test]
fn the_table_of_an_earlier_run_is_named_while_the_mode_is_off() {
    alone(|| {
        assert!(!nftables::is_left_behind());
        enforcer(&config(NftablesMode::Local)).install().expect("installed");
        let daemon = Daemon::start(PEER);
        let what = "the table inet destguard of an earlier run is still in the kernel";
        assert!(daemon.reasons().contains(what), "{}", daemon.reasons());
        assert!(daemon.ask(&["disarm"]).status.success());
        assert!(!daemon.reasons().contains(what), "{}", daemon.reasons());
        assert_eq!(run("nft list tables"), "");
        let said = daemon.stop();
        assert!(said.contains(what) && said.contains("`destguard disarm` removes it"), "{said}");
    });
}

/// As on a kernel whose tables have no owners.
#[test]
fn a_guard_that_cant_keep_flushed_rules_closed_says_so() {
    alone(|| {
        let mut kernel = Kernel::open().expect("a socket");
        let mut transaction = kernel.transaction();
        let (new_table, create, name, flags, owner) = (0, 0x400, 1, 2, 2);
        transaction.request(new_table, create, |writer| {
            writer.put_text(name, "destguard_lock");
            writer.put_u32(flags, owner);
        });
        kernel.commit("a test", transaction).expect("committed");
        let daemon = Daemon::start("[nftables]\nmode = \"local\"\n");
        eventually("it says so", || daemon.warnings().contains("another program flushes the ruleset"));
        eventually("it is enforcing", || daemon.reasons() == "[]");
        daemon.stop();
        drop(kernel);
        let daemon = Daemon::start("[nftables]\nmode = \"local\"\n");
        eventually("it is locked", || run("nft list tables").contains("destguard_lock"));
        assert!(!daemon.warnings().contains("flushes"), "{}", daemon.warnings());
        daemon.stop();
    });
}

#[test]
fn who_is_connected_does_not_keep_the_daemon_from_stopping_as_it_is_configured() {
    alone(|| {
        let daemon = Daemon::start("[nftables]\nmode = \"local\"\non_stop = \"remove\"\n");
        assert!(nftables::is_left_behind());
        let mut waiting = UnixStream::connect(socket(daemon.directory.path())).expect("connected");
        waiting.write_all(b"GET /api/v1/denied?after=0&wait=20 HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("sent");
        // It has been taken by the time a later one is answered.
        daemon.reasons();
        let said = daemon.stop();
        assert!(!said.contains("did not stop") && said.contains("destguard has stopped"), "{said}");
        assert!(!nftables::is_left_behind(), "{said}");
        drop(waiting);
    });
}

#[test]
fn a_second_guard_of_one_network_namespace_is_refused_whatever_its_state_directory() {
    alone(|| {
        const LOCAL: &str = "[nftables]\nmode = \"local\"\n";
        let first = Daemon::start(LOCAL);
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("destguard.toml");
        let state = directory.path().join("state");
        std::fs::write(&file, format!("{DNS}{LOCAL}[state]\ndir = \"{}\"\n", state.display())).expect("written");
        let second = Command::new(DESTGUARD)
            .arg("--socket")
            .arg(socket(directory.path()))
            .args(["run", "--config"])
            .arg(&file)
            .output()
            .expect("it ends");
        let said = String::from_utf8_lossy(&second.stderr).into_owned();
        let process = first.child.as_ref().expect("it runs").id();
        assert!(!second.status.success(), "{said}");
        assert!(said.contains(&format!("(process {process}) guards this network namespace")), "{said}");
        assert!(first.ask(&["status"]).status.success(), "the first goes on");
        assert!(nftables::is_left_behind());
        // Another namespace is another's.
        alone(|| drop(Daemon::start(LOCAL)));
        // One that does nothing with nftables has nothing to quarrel about.
        drop(Daemon::start(PEER));
        first.stop();
        // Nobody has to wait for the name after a daemon was killed.
        drop(Daemon::start(LOCAL));
        drop(Daemon::start(LOCAL));
    });
}

#[test]
fn disarm_finds_the_guard_by_its_network_namespace_and_says_what_it_did() {
    alone(|| {
        let disarm = || {
            let output =
                Command::new(DESTGUARD).args(["--socket", "/nowhere/else", "disarm"]).output().expect("destguard");
            let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{said}");
            said
        };
        assert!(disarm().contains("nothing was changed"));
        enforcer(&config(NftablesMode::Local)).install().expect("installed");
        let said = disarm();
        assert!(
            said.contains("no guard runs in this network namespace; its table inet destguard was removed"),
            "{said}"
        );
        assert!(!nftables::is_left_behind());

        let daemon = Daemon::start("[nftables]\nmode = \"local\"\n");
        assert!(nftables::is_left_behind());
        let process = daemon.child.as_ref().expect("it runs").id();
        let said = disarm();
        assert!(
            said.contains(&format!("(process {process})")) && said.contains("until the daemon starts again"),
            "{said}"
        );
        assert!(!nftables::is_left_behind());
        assert!(daemon.ask(&["status"]).status.success());
        assert!(!nftables::is_left_behind(), "it stays so");
    });
}

#[test]
fn a_stranger_who_takes_the_name_first_keeps_no_guard_from_starting() {
    alone(|| {
        let name = std::os::unix::net::SocketAddr::from_abstract_name("destguard/nftables").expect("a name");
        let stranger = super::without_privileges(|| std::os::unix::net::UnixListener::bind_addr(&name).expect("taken"));
        let daemon = Daemon::start("[nftables]\nmode = \"local\"\n");
        assert!(nftables::is_left_behind());
        let said = daemon.stop();
        assert!(said.contains("a stranger holds the name"), "{said}");
        drop(stranger);
    });
}

/// Answers every question with an empty answer, in the calling thread's namespace.
fn answer(address: &str) {
    let socket = UdpSocket::bind(address).expect("bound");
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            buffer[2..4].copy_from_slice(&[0x81, 0x80]);
            drop(socket.send_to(&buffer[..length], peer));
        }
    });
}

/// Whether it is answered well, and not SERVFAIL.
fn resolves(name: &str) -> bool {
    let mut question = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in [name, "example"] {
        question.push(u8::try_from(label.len()).expect("short"));
        question.extend_from_slice(label.as_bytes());
    }
    question.extend_from_slice(&[0, 0, 16, 0, 1]);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bound");
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    socket.send_to(&question, "127.0.0.1:5353").expect("sent");
    let mut reply = [0; 1500];
    socket.recv(&mut reply).expect("a reply");
    reply[3] & 15 == 0
}

#[test]
fn the_way_to_another_upstream_opens_before_it_is_asked_and_that_to_the_old_one_closes() {
    alone(|| {
        let far = Namespace::new();
        link("up0", &far, "far0");
        address("up0", 1, 1);
        far.within(|| {
            address("far0", 1, 53);
            run("ip addr add 10.9.1.54/24 dev far0");
            answer("10.9.1.53:53");
            answer("10.9.1.54:53");
        });
        let text = |host: u8| {
            format!(
                "[dns]\nlisten = [\"127.0.0.1:5353\"]\n[[dns.upstream]]\nurl = \"udp://10.9.1.{host}\"\n[nftables]\nmode = \"local\"\n"
            )
        };
        let daemon = Daemon::start_as(&text(53));
        assert!(resolves("one"));
        let guarded = |host: u8| run("nft list table inet destguard").contains(&format!("10.9.1.{host}"));
        assert!(guarded(53) && !guarded(54));
        daemon.write(&text(54));
        let said = daemon.ask(&["reload"]);
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stdout));
        assert!(resolves("two"), "the guard's own rules let it through");
        assert!(guarded(54));
        eventually("the old way closes", || !guarded(53));
        assert!(resolves("three") && guarded(54));
        daemon.stop();
    });
}
