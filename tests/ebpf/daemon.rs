//! The whole daemon on the lab's single host, in a control group that it guards and is in itself.

use std::net::SocketAddr;
use std::time::Duration;

use lab::dns::server::many_v4;
use lab::tcp::EchoServer;
use lab::{Lab, Node, Process, dns, wait_until};
use serde_json::Value;

use super::group::Group;
use super::host::PROBE;

const BINARY: &str = env!("CARGO_BIN_EXE_destguard");
const CONFIG: &str = "/etc/destguard/destguard.toml";
const LONG: Duration = Duration::from_secs(60);
const ANSWER: Duration = Duration::from_secs(10);
/// Connects and says every fifth of a second whether it still gets its octets back.
const HOLD: &str = "import socket, sys, time, errno
one = socket.create_connection((sys.argv[1], 80))
while True:
    try:
        one.sendall(b'x')
        print('alive' if one.recv(1) else 'closed', flush=True)
    except OSError as error:
        print(errno.errorcode[error.errno], flush=True)
        time.sleep(600)
    time.sleep(0.2)
";
/// Sends every datagram back.
const ECHO: &str = "import socket, sys
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.bind(('', 7777))
print('ready', flush=True)
while True:
    octets, whose = one.recvfrom(100)
    one.sendto(octets, whose)
";

/// What is dropped first comes first: the group outlives its processes, the lab the group.
struct World {
    daemon: Option<Process>,
    group: Group,
    lab: Lab,
    dns: dns::Server,
    _echo: EchoServer,
}

impl World {
    /// `more` stands behind the lab's own configuration. It answers when this returns.
    fn up(more: &str) -> Self {
        let mut world = Self::prepared(more);
        world.start();
        world
    }

    /// Nothing is started.
    fn prepared(more: &str) -> Self {
        let lab = Lab::builder("lab/single/single.clab.yml").destguard(BINARY).hold("laptop").up().unwrap();
        let internet = lab.node("internet");
        let dns =
            dns::Server::start(internet, &["192.0.2.53:53".parse().unwrap(), "[2001:db8:53::53]:53".parse().unwrap()]);
        let dns = dns.unwrap();
        let echo = EchoServer::start(internet, 80).unwrap();
        let host = lab.node("laptop");
        let group = Group::make(host);
        for (name, text) in [("probe", PROBE), ("hold", HOLD), ("echo", ECHO)] {
            host.write(&format!("/etc/{name}.py"), text).unwrap();
        }
        let world = Self { daemon: None, group, lab, dns, _echo: echo };
        world.configure(more);
        world
    }

    fn host(&self) -> &Node {
        self.lab.node("laptop")
    }

    fn configure(&self, more: &str) {
        let base = "\n[[policy.private]]\ndomain = \"test\"\nprefixes = [\"203.0.113.0/24\", \"198.18.0.0/15\", \"2001:db8:ff::/48\"]\n\
                    [dns]\nlisten = [\"127.0.0.1:53\"]\n[[dns.upstream]]\nurl = \"udp://192.0.2.53\"\n[ebpf]\n";
        // Keys without a table come first.
        let (first, tables) = more.split_once("\n\n").unwrap_or(("", more));
        let cgroup = &self.group.path;
        let text = format!("enforcer = \"ebpf\"\n{first}{base}cgroup = \"{cgroup}\"\n{tables}");
        let text = if text.contains("[nftables]") { text } else { format!("{text}\n[nftables]\nmode = \"local\"\n") };
        self.host().write(CONFIG, &text).unwrap();
    }

    /// Starts a program as one of the group.
    fn spawn(&self, line: &str) -> Process {
        self.group.spawn(line)
    }

    fn start(&mut self) {
        self.daemon = Some(self.spawn(&format!("{BINARY} run --config {CONFIG}")));
        self.until("it enforces", |world| {
            ["enforcing", "audit"].contains(&world.status()["state"].as_str().unwrap_or(""))
        });
    }

    fn ask(&self, words: &[&str]) -> Value {
        let output = self.host().command(BINARY).args(words).arg("--json").output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    fn status(&self) -> Value {
        self.ask(&["status"])
    }

    fn until(&self, what: &str, mut met: impl FnMut(&Self) -> bool) {
        assert!(wait_until(LONG, || met(self)), "not in time: {what}; {}\n{}", self.status(), self.lab.logs());
    }

    /// What the group's processes meet.
    fn probe(&self, words: &str) -> String {
        let line = self.group.line(&format!("python3 /etc/probe.py {words}"));
        self.host().ok(&line).unwrap().trim().to_owned()
    }

    /// Asked by one of the host's own.
    fn resolve(&self, name: &str) -> usize {
        let server: SocketAddr = "127.0.0.1:53".parse().unwrap();
        let ask = || dns::ask(server, name, dns::A, ANSWER);
        self.host().in_namespace(ask).unwrap().unwrap().addresses().len()
    }

    fn reload(&self, more: &str) {
        self.configure(more);
        let reloaded = self.ask(&["reload"]);
        assert_eq!(reloaded["applied"], true, "{reloaded}\n{}", self.lab.logs());
        assert_eq!(reloaded["needs_restart"], Value::Array(Vec::new()), "{reloaded}");
    }

    /// What `denied` tells of a place.
    fn denied(&self, what: &str) -> Option<Value> {
        let page = self.ask(&["denied"]);
        page["denied"].as_array().into_iter().flatten().rev().find(|entry| entry["what"] == what).cloned()
    }

    /// Holds a connection; it has got octets back when this returns.
    fn hold(&self, to: &str) -> Process {
        let held = self.spawn(&format!("python3 /etc/hold.py {to}"));
        self.until("a flow", |_| held.log().contains("alive"));
        held
    }
}

/// It goes on.
fn lives(world: &World, held: &Process) {
    let before = held.log().matches("alive").count();
    world.until("the flow goes on", |_| held.log().matches("alive").count() > before);
}

#[test]
fn an_answer_opens_and_its_end_closes_but_no_flow_ends() {
    let world = World::up("[lease]\nmin = \"1s\"\ngrace = \"0s\"\n");
    assert_eq!(world.probe("tcp/203.0.113.9/80 tcp-mapped/203.0.113.9/80 udp/203.0.113.9/80"), "EPERM EPERM EPERM");
    world.dns.set_addresses("long.test", 600, &["203.0.113.9".parse().unwrap()]);
    world.dns.set_addresses("short.test", 1, &["203.0.113.10".parse().unwrap()]);
    assert_eq!(world.resolve("long.test"), 1);
    assert_eq!(world.probe("tcp/203.0.113.9/80 tcp-mapped/203.0.113.9/80 udp/203.0.113.9/80"), "ok ok ok");
    // Again with equal ends: they stay.
    assert_eq!((world.resolve("long.test"), world.resolve("long.test")), (1, 1));
    assert_eq!(world.probe("tcp/203.0.113.9/80 tcp/203.0.113.9/853"), "ok EPERM");
    let mut held = None;
    world.until("a flow within a short lease", |world| {
        assert_eq!(world.resolve("short.test"), 1);
        let flow = world.spawn("python3 /etc/hold.py 203.0.113.10");
        wait_until(Duration::from_secs(5), || flow.log().contains("alive") || flow.log().contains("Error"))
            .then_some(())
            .filter(|()| flow.log().contains("alive"))
            .map(|()| held = Some(flow))
            .is_some()
    });
    let held = held.unwrap();
    world.until("the end of the lease", |world| world.probe("tcp/203.0.113.10/80") == "EPERM");
    lives(&world, &held);
    assert_eq!(world.probe("tcp/203.0.113.9/80"), "ok", "the other goes on");
}

#[test]
fn what_is_revoked_ends_at_once_with_its_flows() {
    let world = World::up("");
    world.dns.set_addresses("one.test", 600, &["203.0.113.9".parse().unwrap()]);
    world.dns.set_addresses("two.test", 600, &["203.0.113.10".parse().unwrap()]);
    assert_eq!((world.resolve("one.test"), world.resolve("two.test")), (1, 1));
    let (held, other) = (world.hold("203.0.113.9"), world.hold("203.0.113.10"));
    world.host().ok(&format!("{BINARY} revoke 203.0.113.9")).unwrap();
    world.until("the flow ends", |_| held.log().contains("ECONNABORTED") || held.log().contains("EPIPE"));
    assert_eq!(world.probe("tcp/203.0.113.9/80 tcp/203.0.113.10/80"), "EPERM ok");
    lives(&world, &other);
    assert_eq!(world.resolve("one.test"), 1);
    assert_eq!(world.probe("tcp/203.0.113.9/80"), "ok", "asked for again");
}

#[test]
fn a_killed_guard_leaves_a_closed_host_and_its_leases_are_taken_over() {
    let mut world = World::up("");
    assert_eq!(world.resolve("n1.many.test"), 1);
    let leased = format!("tcp/{}/80", many_v4(1));
    assert_eq!(world.probe(&leased), "ok");
    world.daemon.as_mut().unwrap().kill();
    assert_eq!(world.probe(&format!("{leased} tcp/203.0.113.9/80")), "ok EPERM");
    world.start();
    assert_eq!(world.probe(&format!("{leased} tcp/203.0.113.9/80")), "ok EPERM");
    assert_eq!(world.resolve("n2.many.test"), 1, "its own traffic passes");
    assert_eq!(world.probe(&format!("tcp/{}/80", many_v4(2))), "ok");
    // What was refused while nobody was there is told, too.
    world.until("it is told", |world| world.denied("203.0.113.9 tcp/80").is_some());
}

#[test]
fn what_another_takes_away_comes_back() {
    let world = World::up("");
    assert_eq!(world.resolve("n1.many.test"), 1);
    let both = format!("tcp/{}/80 tcp/203.0.113.9/80", many_v4(1));
    for harm in [
        "bpftool link detach pinned /sys/fs/bpf/destguard/connect4",
        "rm -r /sys/fs/bpf/destguard",
        "rm /sys/fs/bpf/destguard/1-lease4*",
    ] {
        world.host().ok(harm).unwrap();
        let there = |world: &World| {
            world
                .host()
                .run("bpftool link show pinned /sys/fs/bpf/destguard/connect4 && ls /sys/fs/bpf/destguard/1-lease4*")
                .unwrap()
                .status
                .success()
        };
        world.until(harm, |world| there(world) && world.probe(&both) == "ok EPERM");
    }
    world.host().ok("bpftool map delete pinned $(ls /sys/fs/bpf/destguard/1-lease4*) key $(bpftool -j map dump pinned $(ls /sys/fs/bpf/destguard/1-lease4*) | \
                     python3 -c 'import json,sys; print(*json.load(sys.stdin)[0][\"key\"])')")
        .unwrap();
    world.until("a lease that another removed", |world| world.probe(&both) == "ok EPERM");
}

#[test]
fn audit_refuses_nothing_and_tells_all_and_a_reload_switches() {
    let world = World::up("mode = \"audit\"\n\n");
    assert_eq!(world.probe("tcp/203.0.113.9/80 udp/203.0.113.9/53"), "ok ok");
    world.until("it is told", |world| world.denied("203.0.113.9 tcp/80").is_some_and(|entry| entry["audit"] == true));
    assert!(world.denied("203.0.113.9 udp/53").is_some());
    world.reload("");
    assert_eq!(world.probe("tcp/203.0.113.9/80 tcp/203.0.113.10/80"), "EPERM EPERM");
    world.until("it is told", |world| world.denied("203.0.113.10 tcp/80").is_some_and(|entry| entry["audit"] == false));
    let by = &world.denied("203.0.113.10 tcp/80").unwrap()["by"];
    let group = world.group.path.strip_prefix("/run/cgroup").unwrap();
    assert_eq!(
        (by["uid"].as_u64(), by["user"].as_str(), by["cgroup"].as_str()),
        (Some(0), Some("root"), Some(group)),
        "{by}"
    );
    assert!(
        by["pid"].as_u64().is_some_and(|pid| pid > 1)
            && by["process"].as_str().is_some_and(|name| name.starts_with("python3")),
        "{by}"
    );
    world.reload("[addresses]\nopen = [\"203.0.113.8/30\"]\n");
    assert_eq!(world.probe("tcp/203.0.113.9/80 tcp/203.0.113.12/80"), "ok EPERM");
    world.reload("[lease]\ncapacity = 500\n");
    assert_eq!(world.probe("tcp/203.0.113.9/80"), "EPERM");
}

#[test]
fn a_server_of_the_host_answers_who_asks_it() {
    let world = World::up("");
    let echo = world.spawn("python3 /etc/echo.py");
    world.until("the server", |_| echo.log().contains("ready"));
    let asked = || {
        let socket = std::net::UdpSocket::bind("10.0.2.2:0").unwrap();
        socket.set_read_timeout(Some(ANSWER)).unwrap();
        socket.send_to(b"hello", "10.0.2.1:7777").unwrap();
        socket.recv(&mut [0; 10]).is_ok()
    };
    assert!(world.lab.node("internet").in_namespace(asked).unwrap(), "{}", world.lab.logs());
    assert_eq!(world.probe("udp/10.0.2.2/7777"), "EPERM", "which opens nothing to others");
}

#[test]
fn it_keeps_what_it_needs_and_disarms() {
    let mut world = World::up("");
    let status = world.status();
    let capabilities = ["CAP_BPF", "CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE", "CAP_PERFMON"];
    assert_eq!(status["process"]["capabilities"], serde_json::json!(capabilities), "{status}");
    assert_eq!(status["process"]["system_calls"], "confined", "{status}");
    assert_eq!(status["process"]["files"], "confined", "{status}");
    world.host().ok(&format!("{BINARY} disarm")).unwrap();
    assert_eq!(world.probe("tcp/203.0.113.9/80"), "ok");
    assert_eq!(world.host().ok("ls /sys/fs/bpf/destguard | wc -l").unwrap().trim(), "0");
    assert_eq!(world.resolve("n1.many.test"), 1, "answers flow");
    world.daemon.as_mut().unwrap().kill();
    world.start();
    assert_eq!(world.probe("tcp/203.0.113.9/80"), "EPERM");
    // Without a daemon.
    world.daemon.as_mut().unwrap().kill();
    world.host().ok(&format!("{BINARY} disarm")).unwrap();
    assert_eq!(world.probe("tcp/203.0.113.9/80"), "ok");
}

#[test]
fn it_runs_as_a_user_of_its_own() {
    let mut world = World::prepared("");
    let prepare = "install -d -o nobody -m 700 /sys/fs/bpf/destguard && chmod 711 /sys/fs/bpf && chown -R nobody /run/destguard /var/lib/destguard";
    world.host().ok(prepare).unwrap();
    let needs = "-all,+bpf,+perfmon,+net_admin,+net_bind_service";
    let line = format!(
        "setpriv --reuid nobody --clear-groups --inh-caps={needs} --ambient-caps={needs} --bounding-set={needs} {BINARY} run --config {CONFIG}"
    );
    world.daemon = Some(world.spawn(&line));
    world.until("it enforces", |world| world.status()["state"] == "enforcing");
    assert_eq!((world.resolve("n1.many.test"), world.status()["process"]["uid"].as_u64()), (1, Some(65534)));
    assert_eq!(world.probe(&format!("tcp/{}/80 tcp/203.0.113.9/80", many_v4(1))), "ok EPERM");
    world.reload("[addresses]\nopen = [\"203.0.113.8/30\"]\n");
    assert_eq!(world.probe("tcp/203.0.113.9/80"), "ok");
}

#[test]
fn it_says_what_is_missing_and_does_not_start() {
    let world = World::prepared("");
    let text = world.host().file(CONFIG).unwrap();
    for (place, why) in [("/etc", "is none"), ("/run/cgroup/nowhere", "No such file"), ("etc", "no absolute path")] {
        world.host().write(CONFIG, &text.replace(&world.group.path, place)).unwrap();
        let said = world.host().run(&format!("timeout 20 {BINARY} run --config {CONFIG} 2>&1")).unwrap();
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.contains(why) && said.contains(place), "{said}");
    }
    world.host().write(CONFIG, &text.replace("\"local\"", "\"gateway\"\ninside = [\"eth1\"]")).unwrap();
    let said = world.host().run(&format!("{BINARY} check --config {CONFIG} 2>&1")).unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("no packet that is forwarded"), "{said}");
    world.host().write(CONFIG, &text).unwrap();
    world.host().ok("umount /sys/fs/bpf").unwrap();
    let said = world.host().run(&format!("timeout 20 {BINARY} run --config {CONFIG} 2>&1")).unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("mount -t bpf bpf /sys/fs/bpf"), "{said}");
}
