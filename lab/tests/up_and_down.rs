//! A lab comes up, carries traffic only where a route is, and leaves nothing behind, whatever ends it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::BufReader;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use lab::dns::server::{many_v4, many_v6};
use lab::dns::{self, Server};
use lab::routes::Monitor;
use lab::{Lab, tcp, wait_until};

const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(30);

/// Names of namespaces of one run.
fn namespaces(run: &str) -> Vec<String> {
    let prefix = format!("{run}-");
    let entries = std::fs::read_dir("/run/netns").into_iter().flatten().filter_map(Result::ok);
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(&prefix)).collect()
}

/// Neither namespaces nor records of a run are left.
fn gone(run: &str) -> bool {
    namespaces(run).is_empty() && !Path::new("/run/dg-lab").join(run).exists()
}

/// A lab without daemons: two hosts and a wire.
fn wire() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("hello.txt"), "hello\n").unwrap();
    std::fs::write(
        directory.path().join("wire.clab.yml"),
        r#"
name: wire
topology:
  defaults: {kind: linux, network-mode: none, image: host, env: {WHO: everybody}}
  nodes:
    a:
      binds: ["hello.txt:/etc/not/there/hello.txt:ro"]
      env: {WHO: a}
      sysctls: {net.ipv4.ip_forward: 1}
      exec: ["ip addr add 10.9.0.1/24 dev eth1"]
    b:
      exec: ["ip addr add 10.9.0.2/24 dev eth1"]
  links:
    - endpoints: ["a:eth1", "b:eth1"]
"#,
    )
    .unwrap();
    directory
}

fn wire_file(directory: &tempfile::TempDir) -> PathBuf {
    directory.path().join("wire.clab.yml")
}

#[test]
fn nodes_have_their_own_network_files_and_names() {
    let directory = wire();
    let lab = Lab::up(wire_file(&directory)).unwrap();
    let (a, b) = (lab.node("a"), lab.node("b"));
    assert_eq!(a.ok("cat /etc/not/there/hello.txt").unwrap(), "hello\n");
    assert!(!b.path("/etc/not").exists() && !Path::new("/etc/not").exists());
    assert_eq!(a.ok("echo $WHO; cat /proc/sys/kernel/hostname").unwrap(), "a\na\n");
    assert_eq!(b.ok("echo $WHO").unwrap(), "everybody\n");
    let forward = "cat /proc/sys/net/ipv4/ip_forward";
    assert_eq!((a.ok(forward).unwrap().as_str(), b.ok(forward).unwrap().as_str()), ("1\n", "0\n"));
    a.write("/run/x/y", "z").unwrap();
    assert_eq!(a.file("/run/x/y").unwrap(), "z");
    assert!(b.file("/run/x/y").is_err());

    let echo = tcp::EchoServer::start(b, 80).unwrap();
    let to = IpAddr::from([10, 9, 0, 2]);
    a.in_namespace(|| tcp::connect(to, 80, Duration::from_secs(5))).unwrap().unwrap();
    assert!(wait_until(LONG, || echo.accepted() == 1));

    let error = a.ok("echo says; echo why >&2; exit 3").unwrap_err().to_string();
    assert!(error.contains("why") && error.contains('3'), "{error}");
}

#[test]
fn an_end_leaves_nothing_and_so_does_a_panic() {
    let directory = wire();
    let lab = Lab::up(wire_file(&directory)).unwrap();
    let run = lab.id().to_owned();
    assert_eq!(namespaces(&run).len(), 2);
    // A process that the lab does not know of, in a session of its own.
    lab.node("a").ok("setsid sleep 1000 >/dev/null 2>&1 &").unwrap();
    let mut sleeper = lab.node("b").spawn("sleep", &["1000"]).unwrap();
    lab.down().unwrap();
    assert!(gone(&run));
    assert!(sleeper.wait(LONG).is_some(), "ended with its namespace");

    let file = wire_file(&directory);
    let (tell, told) = std::sync::mpsc::channel();
    let panicked = std::thread::spawn(move || {
        let lab = Lab::up(file).unwrap();
        tell.send(lab.id().to_owned()).unwrap();
        panic!("as a failing test does");
    });
    assert!(panicked.join().is_err());
    assert!(gone(&told.recv().unwrap()));
}

#[test]
fn a_failing_command_fails_the_lab_and_leaves_nothing() {
    let directory = wire();
    let file = wire_file(&directory);
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("10.9.0.2/24", "10.9.0.2/99")).unwrap();
    let before = dg_runs();
    let error = Lab::up(&file).unwrap_err().to_string();
    assert!(error.contains("10.9.0.2/99"), "{error}");
    let mine = format!("dg{}x", std::process::id());
    let after = dg_runs();
    let left: Vec<_> = after.iter().filter(|run| run.starts_with(&mine) && !before.contains(run)).collect();
    // Other tests of this process may have begun one meanwhile; none may hold this lab's nodes without an owner.
    for run in left {
        assert!(wait_until(LONG, || gone(run)), "{run} is left");
    }
}

fn dg_runs() -> Vec<String> {
    let entries = std::fs::read_dir("/run/dg-lab").into_iter().flatten().filter_map(Result::ok);
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Runs `lab up` as a process of its own until it says that the lab is up; with its run's id and its stdout, which must
/// stay open for what it has yet to say.
fn up_in_a_process(file: &Path) -> (std::process::Child, String, BufReader<std::process::ChildStdout>) {
    use std::io::BufRead as _;
    let mut child = Command::new(env!("CARGO_BIN_EXE_lab"))
        .arg("up")
        .arg(file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    while !line.contains("is up") {
        line.clear();
        assert_ne!(reader.read_line(&mut line).unwrap(), 0, "lab up ended");
    }
    let run = line.split_whitespace().next().unwrap().to_owned();
    assert_eq!(namespaces(&run).len(), 2);
    (child, run, reader)
}

#[test]
fn a_killed_owner_leaves_nothing() {
    let directory = wire();
    for signal in ["INT", "KILL"] {
        let (mut child, run, _stdout) = up_in_a_process(&wire_file(&directory));
        let sent = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        child.wait().unwrap();
        assert!(wait_until(LONG, || gone(&run)), "after SIG{signal}");
    }
}

#[test]
fn stale_runs_are_removed_and_living_ones_stay() {
    let directory = wire();
    let living = Lab::up(wire_file(&directory)).unwrap();
    // What a run leaves when its owner and its cleaner were killed together.
    let dead = "dg999999999x0";
    let left = Path::new("/run/dg-lab").join(dead);
    std::fs::create_dir_all(&left).unwrap();
    std::fs::write(left.join("owner"), "999999999 1\n").unwrap();
    std::fs::write(left.join("namespaces"), format!("{dead}-a\n{dead}-never-made\n")).unwrap();
    assert!(Command::new("ip").args(["netns", "add", &format!("{dead}-a")]).status().unwrap().success());
    let output = Command::new(env!("CARGO_BIN_EXE_lab")).args(["destroy", "--all-stale"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains(dead));
    assert!(gone(dead));
    assert_eq!(living.node("a").ok("echo here").unwrap(), "here\n");
}

/// Every daemon that stands for an image comes up in a node of its own, also two of a kind beside each other.
#[test]
fn every_image_has_a_daemon_that_starts() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    write("frr.conf", "frr defaults traditional\nhostname x\nip route 203.0.113.0/24 blackhole\n");
    write("daemons", "bgpd=yes\nbfdd=yes\n");
    write("bird.conf", "router id 10.0.0.1;\nprotocol device {}\n");
    write("gobgpd.toml", "[global.config]\nas = 65001\nrouter-id = \"10.0.0.1\"\n");
    write("bgpd.conf", "AS 65001\nrouter-id 10.0.0.1\n");
    write(
        "images.clab.yml",
        r#"
name: images
topology:
  defaults: {kind: linux, network-mode: none}
  groups:
    frr: {image: "frr:8", binds: ["frr.conf:/etc/frr/frr.conf", "daemons:/etc/frr/daemons"]}
    bird: {image: "bird:2", binds: ["bird.conf:/etc/bird/bird.conf"]}
  nodes:
    frr1: {group: frr}
    frr2: {group: frr}
    bird1: {group: bird}
    bird2: {group: bird}
    gobgp: {image: gobgp, binds: ["gobgpd.toml:/etc/gobgp/gobgpd.toml"]}
    openbgpd: {image: openbgpd, binds: ["bgpd.conf:/etc/bgpd.conf"]}
    plain: {image: host, entrypoint: sleep, cmd: "1000"}
"#,
    );
    let lab = Lab::up(directory.path().join("images.clab.yml")).unwrap();
    for frr in ["frr1", "frr2"] {
        let routes = || lab.node(frr).ok("ip route").unwrap();
        assert!(wait_until(LONG, || routes().contains("blackhole 203.0.113.0/24")), "{}: {}", routes(), lab.logs());
        assert!(lab.node(frr).pid("bfdd").is_some());
    }
    assert_ne!(lab.node("bird1").pid("bird"), lab.node("bird2").pid("bird"));
    assert!(lab.node("openbgpd").ok("bgpctl show summary").is_ok());
    assert!(lab.node("gobgp").ok("gobgp global").unwrap().contains("65001"));
    let plain = lab.node("plain");
    plain.stop();
    assert!(plain.pid("entrypoint").is_none());
}

/// A route server stands for the guard: what it announces is reachable, and nothing else is.
fn only_host_routes_open(file: &str) {
    let lab = Lab::builder(file).hold("guard").up().unwrap();
    let (client, router, guard) = (lab.node("client"), lab.node("router"), lab.node("guard"));
    let _echo = tcp::EchoServer::start(lab.node("internet"), 80).unwrap();
    let upstream = [([192, 0, 2, 53], 53).into(), ([0x2001, 0xdb8, 0x53, 0, 0, 0, 0, 0x53], 53).into()];
    let _dns = Server::start(lab.node("internet"), &upstream).unwrap();
    for upstream in upstream {
        let answer = guard.in_namespace(|| dns::ask(upstream, "n0.many.test", dns::A, Duration::from_secs(5)));
        assert_eq!(answer.unwrap().unwrap().addresses(), [IpAddr::from(many_v4(0))], "the guard's way to {upstream}");
    }
    let open = [IpAddr::from(many_v4(0)), IpAddr::from(many_v6(0))];
    let closed = [IpAddr::from(many_v4(1)), IpAddr::from(many_v6(1))];
    let connect = |to: IpAddr, limit| client.in_namespace(|| tcp::connect(to, 80, limit)).unwrap();
    for to in open.iter().chain(&closed) {
        assert!(connect(*to, SHORT).is_err(), "{to} is open before anybody opened it");
    }

    let monitor = Monitor::start(router).unwrap();
    guard
        .write(
            "/etc/gobgp/gobgpd.toml",
            r#"
[global.config]
  as = 65020
  router-id = "10.0.3.2"
[[neighbors]]
  [neighbors.config]
    neighbor-address = "10.0.3.1"
    peer-as = 65010
    auth-password = "lab-secret"
  [neighbors.timers.config]
    connect-retry = 1
  [neighbors.ttl-security.config]
    enabled = true
    ttl-min = 255
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv4-unicast"
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv6-unicast"
"#,
        )
        .unwrap();
    let speaker = guard.spawn("gobgpd", &["--config-file=/etc/gobgp/gobgpd.toml"]).unwrap();
    let established = || {
        guard.run("gobgp neighbor 10.0.3.1").is_ok_and(|o| String::from_utf8_lossy(&o.stdout).contains("ESTABLISHED"))
    };
    assert!(wait_until(LONG, established), "no session: {}", speaker.log());
    let announce = |what: &str, action: &str| guard.ok(&format!("gobgp global rib {action} {what}")).unwrap();
    let v4 = format!("{}/32 nexthop 10.0.2.2 -a ipv4", many_v4(0));
    let v6 = format!("{}/128 nexthop fd00:2::2 -a ipv6", many_v6(0));
    // None of these may open anything: not a host route, the whole of it, a next hop that is not the internet side.
    let wrong = [
        "203.0.113.0/24 nexthop 10.0.2.2 -a ipv4".to_owned(),
        "0.0.0.0/0 nexthop 10.0.2.2 -a ipv4".to_owned(),
        format!("{}/32 nexthop 10.0.3.2 -a ipv4", many_v4(1)),
        "2001:db8:ff::/64 nexthop fd00:2::2 -a ipv6".to_owned(),
        format!("{}/128 nexthop fd00:3::2 -a ipv6", many_v6(1)),
    ];
    for route in &wrong {
        announce(route, "add");
    }
    for route in [&v4, &v6] {
        announce(route, "add");
    }
    // Announced after the wrong ones on the same session, so these are done with once it is there.
    let shown = || lab.logs();
    for to in open {
        assert!(wait_until(LONG, || monitor.last(to, true).is_some()), "no route for {to}: {}", shown());
        assert!(connect(to, Duration::from_secs(5)).is_ok(), "{to}");
    }
    for to in closed {
        assert!(connect(to, SHORT).is_err(), "{to} was opened");
    }
    for route in [&v4, &v6] {
        announce(route, "del");
    }
    for to in open {
        assert!(wait_until(LONG, || monitor.last(to, false).is_some()), "the route for {to} stays: {}", shown());
        assert!(connect(to, SHORT).is_err(), "{to} stayed open");
    }
}

#[test]
fn frr_opens_host_routes_only() {
    only_host_routes_open("lab/frr/frr.clab.yml");
}

#[test]
fn bird_opens_host_routes_only() {
    only_host_routes_open("lab/bird/bird.clab.yml");
}
