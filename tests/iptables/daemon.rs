//! The whole daemon, confined, in a namespace of its own.

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command as Process, Output, Stdio};

use super::*;

const DESTGUARD: &str = env!("CARGO_BIN_EXE_destguard");
const CONFIG: &str = "enforcer = \"iptables\"\n[dns]\nlisten = [\"127.0.0.1:5353\"]\n[[dns.upstream]]\nurl = \"udp://10.9.1.5\"\n\
                      [addresses]\ninside = []\n[nftables]\nmode = \"local\"\n";

struct Daemon {
    directory: tempfile::TempDir,
    child: Option<Child>,
}

impl Daemon {
    fn new(text: &str) -> Self {
        let daemon = Self { directory: tempfile::tempdir().expect("a directory"), child: None };
        daemon.write(text);
        daemon
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, text: &str) {
        let text = format!("{text}[state]\ndir = \"{}\"\n", self.path("state").display());
        std::fs::write(self.path("destguard.toml"), text).expect("written");
    }

    fn start(&mut self) {
        let file = self.path("destguard.toml");
        let child = self.command(&["run", "--config"]).arg(&file).stderr(Stdio::piped()).spawn().expect("started");
        self.child = Some(child);
        eventually("the daemon answers", || self.ask(&["status"]).status.success());
    }

    fn command(&self, words: &[&str]) -> Process {
        let mut command = Process::new(DESTGUARD);
        command.arg("--socket").arg(self.path("control.sock")).args(words);
        command
    }

    fn ask(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("destguard")
    }

    fn status(&self) -> serde_json::Value {
        serde_json::from_slice(&self.ask(&["status", "--json"]).stdout).expect("JSON")
    }

    /// Ends it by a signal; what it said in its life.
    fn end(&mut self, signal: &str) -> String {
        let child = self.child.take().expect("it runs");
        run(&format!("kill -{signal} {}", child.id()));
        let output = child.wait_with_output().expect("it ends");
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

/// Answers every question for an IPv4 address with 81.2.69.2, in the calling thread's namespace.
fn answer_at(address: &str) {
    let socket = UdpSocket::bind(address).expect("bound");
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            let end = buffer[12..length].iter().position(|octet| *octet == 0).expect("a name") + 12 + 5;
            let mut reply = buffer[..end].to_vec();
            reply[2..4].copy_from_slice(&[0x81, 0x80]);
            reply[6..12].copy_from_slice(&[0; 6]);
            if buffer[end - 3] == 1 {
                reply[7] = 1;
                reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 81, 2, 69, 2]);
            }
            drop(socket.send_to(&reply, peer));
        }
    });
}

/// The return code, and the number of answers.
fn resolve(name: &str) -> (u8, u8) {
    let mut question = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in [name, "example"] {
        question.push(u8::try_from(label.len()).expect("short"));
        question.extend_from_slice(label.as_bytes());
    }
    question.extend_from_slice(&[0, 0, 1, 0, 1]);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bound");
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    socket.send_to(&question, "127.0.0.1:5353").expect("sent");
    let mut reply = [0; 1500];
    socket.recv(&mut reply).expect("a reply");
    (reply[3] & 15, reply[7])
}

fn world() -> Namespace {
    let peer = Namespace::new();
    link("h0", &peer, "p0");
    address("h0", 1, 1);
    peer.within(|| {
        address("p0", 1, 5);
        run("ip addr add 81.2.69.2/32 dev p0; ip addr add 81.2.69.3/32 dev p0");
        serve(&[80]);
        answer_at("10.9.1.5:53");
    });
    // Not on the link: what is on it is the network's own.
    run("ip route add default via 10.9.1.5");
    peer
}

#[test]
fn an_answer_opens_its_address_through_crash_restart_and_disarming() {
    both(|programs| {
        let _peer = world();
        // So that this variant is the one that is found.
        run(&format!("iptables-{} -A INPUT -p tcp --dport 22 -j ACCEPT", programs.variant.name()));
        let mut daemon = Daemon::new(CONFIG);
        daemon.start();
        assert_eq!(connect("81.2.69.2", 80), Met::Refused);
        eventually("it is answered", || resolve("one") == (0, 1));
        assert_eq!(connect("81.2.69.2", 80), Met::Connected, "before the answer left");
        assert_eq!(connect("81.2.69.3", 80), Met::Refused);
        let saved = run(&format!("iptables-{}-save", programs.variant.name()));
        assert!(saved.contains("-A OUTPUT -j destguard-out"), "{saved}");
        let status = daemon.status();
        assert_eq!(status["enforcers"][0]["name"], "iptables", "{status}");
        assert_eq!(status["process"]["system_calls"], "confined", "{status}");
        assert_eq!(status["process"]["files"], "confined", "{status}");
        assert_eq!(status["reasons"], serde_json::json!([]), "{status}");
        eventually("refused packets are shown", || {
            assert_eq!(connect("81.2.69.3", 80), Met::Refused);
            String::from_utf8_lossy(&daemon.ask(&["denied"]).stdout).contains("81.2.69.3")
        });
        // Confined as it is, it puts back what others flush.
        run(&format!("iptables-{} -F OUTPUT", programs.variant.name()));
        eventually("it is put back", || connect("81.2.69.3", 80) == Met::Refused);

        daemon.end("KILL");
        assert_eq!((connect("81.2.69.2", 80), connect("81.2.69.3", 80)), (Met::Connected, Met::Refused));
        daemon.start();
        assert_eq!((connect("81.2.69.2", 80), connect("81.2.69.3", 80)), (Met::Connected, Met::Refused));
        eventually("it is answered", || resolve("one") == (0, 1));
        assert!(daemon.ask(&["disarm"]).status.success());
        assert_eq!((remains().as_str(), connect("81.2.69.3", 80)), ("", Met::Connected));
        daemon.end("TERM");
    });
}

#[test]
fn another_enforcer_takes_the_place_of_this_one_and_the_other_way_round() {
    both(|programs| {
        let _peer = world();
        run(&format!("iptables-{} -A INPUT -p tcp --dport 22 -j ACCEPT", programs.variant.name()));
        let mut daemon = Daemon::new(CONFIG);
        daemon.start();
        daemon.end("TERM");
        assert_eq!(iptables::is_there(), Ok(true));
        daemon.write(&CONFIG.replace("\"iptables\"", "\"nftables\""));
        daemon.start();
        assert_eq!(remains(), "");
        assert_eq!(connect("81.2.69.3", 80), Met::Refused);
        daemon.end("TERM");
        daemon.write(CONFIG);
        daemon.start();
        assert!(!run("nft list tables").contains("inet destguard\n"), "{}", run("nft list tables"));
        assert_eq!(connect("81.2.69.3", 80), Met::Refused);
        eventually("it is answered", || resolve("one") == (0, 1));
        assert_eq!(connect("81.2.69.2", 80), Met::Connected);
        daemon.end("TERM");
    });
}

#[test]
fn the_host_is_locked_before_its_guard_starts() {
    both(|programs| {
        let _peer = world();
        run(&format!("iptables-{} -A INPUT -p tcp --dport 22 -j ACCEPT", programs.variant.name()));
        let mut daemon = Daemon::new(CONFIG);
        let lock =
            daemon.command(&["lock", "--config"]).arg(daemon.path("destguard.toml")).output().expect("destguard");
        assert!(lock.status.success(), "{}", String::from_utf8_lossy(&lock.stderr));
        assert_eq!(connect("81.2.69.2", 80), Met::Refused);
        daemon.start();
        eventually("it is answered", || resolve("one") == (0, 1));
        assert_eq!(connect("81.2.69.2", 80), Met::Connected);
        let lock =
            daemon.command(&["lock", "--config"]).arg(daemon.path("destguard.toml")).output().expect("destguard");
        assert!(lock.status.success());
        assert_eq!(connect("81.2.69.2", 80), Met::Connected, "what holds leases stays");
        daemon.end("TERM");
    });
}

/// As the packaged unit runs it.
#[test]
fn a_user_with_the_capabilities_alone_can_run_it() {
    both(|programs| {
        let _peer = world();
        run(&format!("iptables-{} -A INPUT -p tcp --dport 22 -j ACCEPT", programs.variant.name()));
        // The package has systemd make it so.
        let mut daemon = Daemon::new(CONFIG);
        let lock = daemon.path("lock");
        std::fs::write(&lock, "").expect("written");
        std::fs::set_permissions(&lock, std::fs::Permissions::from_mode(0o644)).expect("permitted");
        let everybody = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(daemon.directory.path(), everybody).expect("permitted");
        // Wherever the build is, nobody may not.
        let program = daemon.path("destguard");
        std::fs::copy(DESTGUARD, &program).expect("copied");
        let caps = "+net_admin,+net_raw";
        let child = Process::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps", caps, "--ambient-caps", caps])
            .arg("--bounding-set=-all,+net_admin,+net_raw")
            .arg(program)
            .arg("--socket")
            .arg(daemon.path("control.sock"))
            .args(["run", "--config"])
            .arg(daemon.path("destguard.toml"))
            .env("XTABLES_LOCKFILE", lock)
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        daemon.child = Some(child);
        eventually("the daemon answers", || daemon.ask(&["status"]).status.success());
        eventually("it is answered", || resolve("one") == (0, 1));
        assert_eq!((connect("81.2.69.2", 80), connect("81.2.69.3", 80)), (Met::Connected, Met::Refused));
        daemon.end("TERM");
        assert_eq!(connect("81.2.69.3", 80), Met::Refused);
    });
}
