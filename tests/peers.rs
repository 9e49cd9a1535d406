//! The daemon beside real routers: what an operator reads in `peers` when something is wrong, the labs that no other test brings up, and limits.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use lab::dns::server::{many_v4, many_v6};
use lab::dns::{self, Answer, Asker, Server};
use lab::routes::Monitor;
use lab::tcp::{self, EchoServer};
use lab::{Lab, Node, wait_until};
use serde_json::Value;

#[path = "peers/harmful_peers.rs"]
mod harmful_peers;

const GUARD: &str = env!("CARGO_BIN_EXE_destguard");
const CONFIG: &str = "/etc/destguard/destguard.toml";
const PORT: u16 = 80;
/// Less than the second after which Linux sends a lost SYN again.
const FIRST_SYN: Duration = Duration::from_millis(300);
const ANSWER: Duration = Duration::from_secs(5);
const LONG: Duration = Duration::from_secs(60);

/// A node, a file in it, a text that must be there, and what stands in its place.
type Edit<'a> = (&'a str, &'a str, &'a str, &'a str);

/// A lab with the far side's servers, brought up with some texts changed.
struct World {
    dns: Server,
    _echo: EchoServer,
    lab: Lab,
}

impl World {
    /// `routers` and `guards` are started in this order; the guards' sessions are up when this returns.
    fn up(topology: &str, routers: &[&str], guards: &[&str], edits: &[Edit<'_>]) -> Self {
        let world = Self::begin(topology, routers, guards, edits);
        for guard in guards {
            let up = wait_until(LONG, || world.all_established(guard));
            assert!(up, "{guard}: {}\n{}", world.peers(guard), world.lab.logs());
        }
        world
    }

    fn begin(topology: &str, routers: &[&str], guards: &[&str], edits: &[Edit<'_>]) -> Self {
        let mut builder = Lab::builder(topology).destguard(GUARD);
        for node in routers.iter().chain(guards) {
            builder = builder.hold(node);
        }
        Self::start(builder.up().unwrap(), routers, guards, edits)
    }

    /// In a lab that is up, with these nodes still to be started.
    fn start(lab: Lab, routers: &[&str], guards: &[&str], edits: &[Edit<'_>]) -> Self {
        let upstreams = ["192.0.2.53:53", "[2001:db8:53::53]:53"].map(|at| at.parse().unwrap());
        let dns = Server::start(lab.node("internet"), &upstreams).unwrap();
        let echo = EchoServer::start(lab.node("internet"), PORT).unwrap();
        for (node, file, from, to) in edits {
            let text = lab.node(node).file(file).unwrap();
            assert!(text.contains(from), "{from:?} is not in {file} of {node}");
            lab.node(node).write(file, &text.replace(from, to)).unwrap();
        }
        for node in routers.iter().chain(guards) {
            lab.node(node).start().unwrap();
        }
        Self { dns, _echo: echo, lab }
    }

    fn node(&self, name: &str) -> &Node {
        self.lab.node(name)
    }

    fn read(&self, guard: &str, command: &str) -> Value {
        let output = self.node(guard).command(GUARD).args([command, "--json"]).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    fn peers(&self, guard: &str) -> Value {
        self.read(guard, "peers")["peers"].clone()
    }

    fn peer(&self, guard: &str, name: &str) -> Value {
        let peers = self.peers(guard);
        peers.as_array().into_iter().flatten().find(|peer| peer["name"] == name).cloned().unwrap_or_default()
    }

    fn established(&self, guard: &str, name: &str) -> bool {
        self.peer(guard, name)["state"] == "Established"
    }

    fn all_established(&self, guard: &str) -> bool {
        let peers = self.peers(guard);
        peers.as_array().is_some_and(|peers| peers.iter().all(|peer| peer["state"] == "Established"))
    }

    fn error(&self, guard: &str, name: &str) -> String {
        self.peer(guard, name)["last_error"].as_str().unwrap_or_default().to_owned()
    }

    /// Polls until the operator reads this of a peer: one line.
    fn reads(&self, guard: &str, name: &str, wanted: &str) {
        self.reads_one_of(guard, name, &[wanted]);
    }

    /// What is read of a peer that died: the kernel resets the connection where the dead had left something unread.
    fn reads_that_it_died(&self, guard: &str, name: &str) {
        self.reads_one_of(guard, name, &["the peer closed the connection", "Connection reset by peer"]);
    }

    fn reads_one_of(&self, guard: &str, name: &str, wanted: &[&str]) {
        let wanted_in = |text: &str| wanted.iter().any(|wanted| text.contains(wanted));
        let told = wait_until(LONG, || wanted_in(&self.error(guard, name)));
        let error = self.error(guard, name);
        assert!(told, "{name}: {wanted:?} is not in {error:?}\n{}", self.lab.logs());
        assert!(!error.contains('\n'), "{error:?}");
        // The log has it too, in a line of its own.
        let logged = || {
            let logs = self.node(guard).logs();
            logs.iter().any(|(_, log)| log.lines().any(|line| line.contains(name) && wanted_in(line)))
        };
        assert!(wait_until(ANSWER, logged), "{name}: {wanted:?} is not in the log:\n{}", self.lab.logs());
    }

    fn ask(&self, node: &str, server: &str, name: &str, rtype: u16) -> Answer {
        let server: SocketAddr = format!("{server}:53").parse().unwrap();
        self.node(node).in_namespace(|| dns::ask(server, name, rtype, ANSWER)).unwrap().unwrap()
    }

    fn connects(&self, node: &str, to: IpAddr) -> bool {
        self.node(node).in_namespace(|| tcp::connect(to, PORT, FIRST_SYN)).unwrap().is_ok()
    }

    fn until(&self, what: &str, met: impl FnMut() -> bool) {
        assert!(wait_until(LONG, met), "not in time: {what}\n{}", self.lab.logs());
    }
}

const BIRD: &str = "lab/bird/bird.clab.yml";
const BIRD_CONF: &str = "/etc/bird/bird.conf";
const FRR_CONF: &str = "/etc/frr/frr.conf";

/// A session that can't come up: its name, what the router's BIRD has of its own beside the addresses, its and the guard's idea of the
/// other's AS, what the guard has, and what the operator is to read.
struct Fault {
    name: &'static str,
    router: &'static str,
    guard_as: u32,
    router_as: u32,
    guard: &'static str,
    told: &'static str,
}

const FAULTS: [Fault; 6] = [
    Fault {
        name: "other-password",
        router: "password \"other\";",
        guard_as: 65020,
        router_as: 65010,
        guard: "password = \"lab-secret\"",
        told: "s; is it up, is the password the same at both ends?",
    },
    Fault {
        name: "no-password-here",
        router: "password \"lab-secret\";",
        guard_as: 65020,
        router_as: 65010,
        guard: "",
        told: "s; is it up, is a password or ttl_security set at its end only?",
    },
    Fault {
        name: "gtsm-there-only",
        router: "ttl security on;",
        guard_as: 65020,
        router_as: 65010,
        guard: "hold_time = \"3s\"",
        told: "then nothing for 3 s; is ttl_security on at its end only?",
    },
    Fault {
        name: "other-as-there",
        router: "",
        guard_as: 65020,
        router_as: 65999,
        guard: "",
        told: "wrong AS: peer says 65010, configured 65999",
    },
    Fault {
        name: "other-as-here",
        router: "",
        guard_as: 65099,
        router_as: 65010,
        guard: "",
        told: "peer says: OPEN refused, bad peer AS (our AS is not the one it has configured",
    },
    Fault {
        name: "wrong-port",
        router: "",
        guard_as: 65020,
        router_as: 65010,
        guard: "port = 1790",
        told: "can't connect: Connection refused",
    },
];

#[test]
fn what_keeps_a_session_from_coming_up_is_named() {
    let mut conf = "protocol bgp guard {".to_owned();
    let mut peers = String::new();
    for (n, fault) in FAULTS.iter().enumerate() {
        let (there, here) = (format!("10.0.3.{}", 11 + n), format!("10.0.3.{}", 31 + n));
        let (name, line, asn) = (fault.name.replace('-', "_"), fault.router, fault.guard_as);
        conf = format!(
            "protocol bgp {name} {{ local {there} as 65010; neighbor {here} as {asn}; direct; passive on; {line}\n  error wait \
             time 1, 2; ipv4 {{ import all; export none; }}; }}\n{conf}"
        );
        peers.push_str(&format!(
            "\n[[bgp.peer]]\nname = \"{}\"\naddress = \"{there}\"\nlocal_address = \"{here}\"\nasn = {}\nrequired = false\n{}\n",
            fault.name, fault.router_as, fault.guard
        ));
    }
    peers.push_str("\n[[bgp.peer]]\nname = \"nobody\"\naddress = \"10.0.3.77\"\nasn = 65010\nrequired = false\n");
    let router = "[[bgp.peer]]\nname = \"router\"\n";
    let edits: [Edit<'_>; 2] = [
        ("router", BIRD_CONF, "protocol bgp guard {", &conf),
        ("guard", CONFIG, router, &format!("{peers}\n{router}")),
    ];
    let lab = Lab::builder(BIRD).destguard(GUARD).hold("router").hold("guard").up().unwrap();
    for n in 0..FAULTS.len() {
        lab.node("router").ok(&format!("ip addr add 10.0.3.{}/24 dev eth3", 11 + n)).unwrap();
        lab.node("guard").ok(&format!("ip addr add 10.0.3.{}/24 dev eth1", 31 + n)).unwrap();
    }
    for (node, file, from, to) in edits {
        let text = lab.node(node).file(file).unwrap();
        assert!(text.contains(from));
        lab.node(node).write(file, &text.replace(from, to)).unwrap();
    }
    let upstreams = ["192.0.2.53:53".parse().unwrap()];
    let dns = Server::start(lab.node("internet"), &upstreams).unwrap();
    let echo = EchoServer::start(lab.node("internet"), PORT).unwrap();
    lab.node("router").start().unwrap();
    lab.node("guard").start().unwrap();
    let world = World { dns, _echo: echo, lab };

    // The others' troubles are not this one's.
    world.until("the good session", || world.established("guard", "router"));
    for fault in &FAULTS {
        world.reads("guard", fault.name, fault.told);
        assert!(!world.established("guard", fault.name));
    }
    world.reads("guard", "nobody", "can't connect: No route to host");
    assert_eq!(world.ask("client", "10.0.3.2", "n1.many.test", dns::A).addresses(), [IpAddr::from(many_v4(1))]);
    assert_eq!(world.error("guard", "router"), "");
}

#[test]
fn what_ends_a_session_is_named() {
    let edits = [("guard", CONFIG, "hold_time = \"9s\"", "hold_time = \"3s\"")];
    let world = World::up(BIRD, &["router"], &["guard"], &edits);
    let router = world.node("router");
    let back = || world.until("the session again", || world.established("guard", "router"));

    // The router's kernel takes what it is sent, and nobody reads it.
    router.signal("bird", libc::SIGSTOP).unwrap();
    world.reads("guard", "router", "hold timer expired: nothing heard for 3 s");
    router.signal("bird", libc::SIGCONT).unwrap();
    back();

    router.ok("birdc restart guard").unwrap();
    world.reads("guard", "router", "peer says: Cease, administrative reset");
    back();

    // Where something of the guard's is still unread when BIRD closes, a reset overtakes its word; then it is brought to say it again.
    let shutdown = "peer says: Cease, administrative shutdown";
    world.until("the shutdown's name", || {
        router.stop();
        let named = wait_until(Duration::from_secs(3), || world.error("guard", "router").contains(shutdown));
        if !named {
            router.start().unwrap();
            back();
        }
        named
    });
    world.reads("guard", "router", "; since then: can't connect: no answer within ");
    router.start().unwrap();
    back();

    router.kill();
    world.reads_that_it_died("guard", "router");
    router.start().unwrap();
    back();

    let conf = router.file(BIRD_CONF).unwrap();
    router.write(BIRD_CONF, &conf.replace("import limit 20000", "import limit 3")).unwrap();
    router.ok("birdc configure").unwrap();
    for number in 0..5 {
        // The last ones may be refused: the session is gone.
        world.ask("client", "10.0.3.2", &format!("n{number}.many.test"), dns::A);
    }
    // Now and then BIRD closes before its word is out; then it is brought to say it again.
    let limit = "peer says: Cease, maximum number of prefixes reached";
    world.until("the limit's name", || {
        router.run("birdc enable guard").unwrap();
        world.error("guard", "router").contains(limit)
    });
    world.reads("guard", "router", limit);
}

/// A router that reads no more: its window closes, the guard keeps what it may and no more, and says in the end what it was (RFC 9687). Without hold
/// times, since those would end it first.
#[test]
fn a_router_that_reads_no_more_is_given_up() {
    let edits = [
        ("router", FRR_CONF, "timers 3 9", "timers 0 0"),
        ("guard", CONFIG, "hold_time = \"9s\"", "hold_time = \"0s\"\nsend_hold_time = \"3s\""),
        ("guard", CONFIG, "[lease]\n", "[gate]\ndeadline = \"300ms\"\n\n[lease]\n"),
        // One domain gets half of them, and that must be more than the buffers take.
        ("guard", CONFIG, "max_routes = 10000", "max_routes = 20000"),
        // With another rule nothing more would be announced to a router that confirms nothing.
        ("guard", CONFIG, "confirm = \"probe\"", "confirm = \"sent\""),
    ];
    let lab = Lab::builder("lab/frr/frr.clab.yml").destguard(GUARD).hold("router").hold("guard").up().unwrap();
    // Buffers that are full soon.
    lab.node("router").ok("sysctl -qw net.ipv4.tcp_rmem='4096 4096 4096'").unwrap();
    lab.node("guard").ok("sysctl -qw net.ipv4.tcp_wmem='4096 4096 4096'").unwrap();
    let world = World::start(lab, &["router"], &["guard"], &edits);
    world.until("the session", || world.established("guard", "router"));
    assert_eq!(world.ask("client", "10.0.3.2", "n0.many.test", dns::A).addresses(), [IpAddr::from(many_v4(0))]);
    let pid = world.node("guard").pid("destguard").unwrap();
    let before = memory_kb(pid);
    world.node("router").signal("bgpd", libc::SIGSTOP).unwrap();
    let (next, told) = (AtomicU32::new(1), AtomicBool::new(false));
    let most = std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let ask = || {
                    let asker = Asker::new("10.0.3.2:53".parse().unwrap()).unwrap();
                    while !told.load(Ordering::Relaxed) {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        asker.ask(&format!("n{number}.many.test"), dns::A, ANSWER).unwrap();
                    }
                };
                world.node("client").in_namespace(ask).unwrap();
            });
        }
        let mut most = 0;
        let ended = wait_until(LONG, || {
            most = most.max(world.peer("guard", "router")["queued_octets"].as_u64().unwrap_or(0));
            world.error("guard", "router").contains("send hold timer expired")
        });
        told.store(true, Ordering::Relaxed);
        assert!(ended, "{}\n{}", world.peer("guard", "router"), world.lab.logs());
        most
    });
    world.reads("guard", "router", "send hold timer expired: the peer took nothing for 3 s");
    assert!((1..256 * 1024).contains(&most), "{most} octets waited");
    let after = memory_kb(pid);
    assert!(after < before + 24 * 1024, "the daemon grew from {before} to {after} kB");
    world.node("router").signal("bgpd", libc::SIGCONT).unwrap();
    world.until("the session again", || world.established("guard", "router"));
    world.until("an answer again", || {
        world.ask("client", "10.0.3.2", "n0.many.test", dns::A).addresses() == [IpAddr::from(many_v4(0))]
    });
}

fn memory_kb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A router's bgpd that dies and comes back has every route again, and the guard says what it was.
#[test]
fn a_router_that_is_killed_comes_back_to_all_its_routes() {
    let world = World::up("lab/frr/frr.clab.yml", &["router"], &["guard"], &[]);
    let router = world.node("router");
    for number in 0..5 {
        let answer = world.ask("client", "10.0.3.2", &format!("n{number}.many.test"), dns::A);
        assert_eq!(answer.addresses(), [IpAddr::from(many_v4(number))], "{:?}", answer.message);
    }
    router.kill();
    world.reads_that_it_died("guard", "router");
    router.start().unwrap();
    world.until("the session again", || world.established("guard", "router"));
    world.until("every route", || (0..5).all(|number| world.connects("client", many_v4(number).into())));
    assert_eq!(world.peer("guard", "router")["sessions"], 2);

    // A wire that is cut: BGP's or TCP's own time-out notices, whichever is first.
    router.ok("ip link set eth3 down").unwrap();
    world.until("the dead path to be noticed", || {
        let error = world.error("guard", "router");
        error.contains("hold timer expired: nothing heard for 9 s")
            || error.contains("connection lost: Connection timed out")
    });
    assert!(!world.established("guard", "router"));
    router.ok("ip link set eth3 up").unwrap();
    world.until("the session again", || world.established("guard", "router"));
    world.until("every route", || (0..5).all(|number| world.connects("client", many_v4(number).into())));
}

/// With a password a router that is down can't refuse, so SYNs vanish; the kernel repeats one after 1, 3 and 7 s, since Linux 6.5 each second at
/// first. A router that is back doesn't wait for that, and one that stays away gets about one SYN a second.
#[test]
fn a_router_that_is_silent_is_asked_each_second() {
    let world = World::up(BIRD, &["router"], &["guard"], &[]);
    let router = world.node("router");
    // As before Linux 6.5, which has no such file.
    let pace = "/proc/sys/net/ipv4/tcp_syn_linear_timeouts";
    world.node("guard").ok(&format!("[ ! -e {pace} ] || echo 0 >{pace}")).unwrap();
    let rule = "type filter hook input priority 0; tcp dport 179 tcp flags & (syn | ack) == syn counter drop";
    router.ok(&format!("nft 'table ip away {{ chain away {{ {rule}; }}; }}'")).unwrap();
    let begun = Instant::now();
    router.ok("ss -K dst 10.0.3.2").unwrap();
    let seen = || -> u64 {
        let text = router.ok("nft list table ip away").unwrap();
        let count = text.split_whitespace().skip_while(|word| *word != "packets").nth(1);
        count.unwrap().parse().unwrap()
    };
    let mut count = 0;
    world.until("seven SYNs", || {
        count = seen();
        count >= 7
    });
    let took = begun.elapsed();
    // By the kernel's own pace the seventh comes after 12 s.
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(count <= took.as_secs() + 4, "{count} in {took:?}");
    router.ok("nft delete table ip away").unwrap();
    world.until("the session again", || world.established("guard", "router"));
}

/// A router that ends session after session is left alone for a while, longer each time, and the operator reads so.
#[test]
fn a_router_that_flaps_is_damped_and_says_so() {
    let edits = [
        ("router", BIRD_CONF, "passive on;", "connect delay time 1; connect retry time 1;"),
        ("router", BIRD_CONF, "error wait time 0, 0;", "error wait time 1, 1;"),
        ("guard", CONFIG, "[bgp]\n", "[bgp]\nlisten = [\"10.0.3.2:179\"]\n"),
        ("guard", CONFIG, "local_address = \"10.0.3.2\"", "local_address = \"10.0.3.2\"\npassive = true"),
    ];
    let world = World::up(BIRD, &["router"], &["guard"], &edits);
    for session in 1..=5 {
        let again = || world.established("guard", "router") && world.peer("guard", "router")["sessions"] == session;
        world.until("the next session", again);
        world.node("router").ok("birdc restart guard").unwrap();
        world.until("its end", || !again());
    }
    world.reads("guard", "router", "Cease, administrative reset; sessions fail again and again: no other for ");
    // And forgiven.
    world.until("the session again", || world.established("guard", "router"));
    assert_eq!(world.peer("guard", "router")["sessions"], 6);
}

/// RFC 8538 on FRR: what would have ended a session for good without it, a NOTIFICATION or silence for the hold time, keeps the routes now; a hard
/// reset doesn't.
#[test]
fn frr_keeps_routes_over_notifications_but_not_over_a_hard_reset() {
    let edits = [
        (
            "router",
            FRR_CONF,
            " no bgp default ipv4-unicast",
            " bgp graceful-restart\n bgp graceful-restart notification\n no bgp default ipv4-unicast",
        ),
        ("guard", CONFIG, "hold_time = \"9s\"", "hold_time = \"3s\""),
    ];
    let world = World::up("lab/frr/frr.clab.yml", &["router"], &["guard"], &edits);
    let router = world.node("router");
    let address = IpAddr::from(many_v4(1));
    assert_eq!(world.ask("client", "10.0.3.2", "n1.many.test", dns::A).addresses(), [address]);
    let capabilities = world.peer("guard", "router")["capabilities"].clone();
    assert!(capabilities.as_array().unwrap().iter().any(|name| name == "graceful-notification"), "{capabilities}");
    let routes = Monitor::start(router).unwrap();
    let back = |sessions: u64| {
        world.until("the session again", || {
            world.established("guard", "router") && world.peer("guard", "router")["sessions"] == sessions
        });
        assert_eq!(routes.last(address, false), None, "gone for a while: {:?}", routes.changes());
        assert!(world.connects("client", address));
    };

    // The guard's NOTIFICATION to a router that is silent for the hold time.
    router.signal("bgpd", libc::SIGSTOP).unwrap();
    world.reads("guard", "router", "hold timer expired: nothing heard for 3 s");
    router.signal("bgpd", libc::SIGCONT).unwrap();
    back(2);

    // The router's to a guard that is.
    let guard = world.node("guard");
    guard.signal("destguard", libc::SIGSTOP).unwrap();
    let lost = wait_until(LONG, || {
        let shown = router.ok("vtysh -c 'show bgp neighbor 10.0.3.2'").unwrap();
        !shown.contains("BGP state = Established")
    });
    guard.signal("destguard", libc::SIGCONT).unwrap();
    assert!(lost, "{}", world.lab.logs());
    back(3);

    guard.ok(&format!("{GUARD} stop --withdraw")).unwrap();
    world.until("the hard reset", || routes.last(address, false).is_some());
    assert!(!world.connects("client", address));
}

/// FRR deletes everything when its maximum is passed. The guard's own limit lies below it: one name gets no answer, nobody else notices.
#[test]
fn the_routers_limit_is_never_met() {
    let edits = [
        ("router", FRR_CONF, "maximum-prefix 20000", "maximum-prefix 100"),
        ("guard", CONFIG, "max_routes = 10000", "max_routes = 90"),
        ("guard", CONFIG, "linger = \"10m\"", "linger = \"1s\""),
        ("guard", CONFIG, "[lease]\n", "[lease]\nmin = \"2s\"\ngrace = \"1s\"\n"),
    ];
    let world = World::up("lab/frr/frr.clab.yml", &["router"], &["guard"], &edits);
    world.dns.many_ttl(12);
    std::thread::scope(|scope| {
        for first in (0..90).step_by(10) {
            let world = &world;
            scope.spawn(move || {
                for number in first..first + 10 {
                    let answer = world.ask("client", "10.0.3.2", &format!("n{number}.many.test"), dns::A);
                    assert_eq!(answer.addresses(), [IpAddr::from(many_v4(number))], "{:?}", answer.message);
                }
            });
        }
    });
    let before = world.error("guard", "router");
    let refused = world.ask("client", "10.0.3.2", "n90.many.test", dns::A);
    assert_eq!((refused.rcode(), refused.addresses()), (dns::SERVFAIL, vec![]));
    assert!(!refused.message.extended_errors().is_empty(), "{:?}", refused.message);
    let peer = world.peer("guard", "router");
    assert_eq!(peer["state"], "Established", "{peer}");
    assert_eq!(peer["advertised"]["ipv4"], 90, "{peer}");
    assert!(world.connects("client", many_v4(0).into()), "what was open stays open");
    // When the others have ended there is room again.
    world.until("room for another name", || {
        world.ask("client", "10.0.3.2", "n91.many.test", dns::A).addresses() == [IpAddr::from(many_v4(91))]
    });
    assert!(world.connects("client", many_v4(91).into()), "{}", world.lab.logs());
    assert_eq!(world.error("guard", "router"), before, "one session all along");
}

/// What two guards announce stays in the router's kernel without an event when one of them dies, whichever.
#[test]
fn one_of_two_guards_may_go() {
    let guards = ["guard1", "guard2"];
    let world = World::up("lab/two-guards/two-guards.clab.yml", &["router"], &guards, &[]);
    let servers = ["10.0.3.2", "10.0.5.2"];
    let routes = Monitor::start(world.node("router")).unwrap();
    let ask = |number: u32, server: &str| {
        for (rtype, address) in [(dns::A, IpAddr::from(many_v4(number))), (dns::AAAA, many_v6(number).into())] {
            let answer = world.ask("client", server, &format!("n{number}.many.test"), rtype);
            assert_eq!(answer.addresses(), [address], "{:?}", answer.message);
        }
    };
    let mut next = 10;
    for (gone, stays) in [(0, 1), (1, 0)] {
        let both = [IpAddr::from(many_v4(next)), many_v6(next).into()];
        for server in servers {
            ask(next, server);
        }
        world.until("both routes", || both.iter().all(|&address| routes.last(address, true).is_some()));
        let before = routes.changes().iter().filter(|change| both.contains(&change.destination)).count();
        let mut flow = world
            .node("client")
            .in_namespace(|| std::net::TcpStream::connect_timeout(&SocketAddr::new(both[0], PORT), FIRST_SYN))
            .unwrap()
            .unwrap();
        world.node(guards[gone]).kill();
        let neighbour = servers[gone];
        world.until("the router to notice", || {
            let summary = world.node("router").ok(&format!("vtysh -c 'show bgp neighbor {neighbour}'")).unwrap();
            !summary.contains("BGP state = Established")
        });
        // Another route of the guard that stays: when it is there, the router has done what the loss made it do.
        ask(next + 1, servers[stays]);
        world.until("the next route", || routes.last(many_v4(next + 1).into(), true).is_some());
        let after = routes.changes().iter().filter(|change| both.contains(&change.destination)).count();
        assert_eq!(after, before, "{:?}", routes.changes());
        tcp::ping(&mut flow, b"still here", ANSWER).unwrap();
        assert!(world.connects("client", both[0]) && world.connects("client", both[1]));
        world.node(guards[gone]).start().unwrap();
        world.until("the guard again", || world.all_established(guards[gone]));
        next += 10;
    }
}

/// An answer waits for both routers, an internal FRR and an external BIRD, so whoever has it connects through either.
#[test]
fn two_routers_open_together() {
    let world = World::up("lab/two-routers/two-routers.clab.yml", &["frr", "bird"], &["guard"], &[]);
    let short = [IpAddr::from([203, 0, 113, 9]), "2001:db8:ff::9".parse().unwrap()];
    for (rtype, number) in [(dns::A, 1), (dns::AAAA, 1), (dns::A, 2)] {
        let address = if rtype == dns::A { IpAddr::from(many_v4(number)) } else { many_v6(number).into() };
        assert!(
            !world.connects("client", address) && !world.connects("client2", address),
            "open although nobody asked"
        );
        let (node, server) = if number == 1 { ("client", "10.0.3.2") } else { ("client2", "10.0.5.2") };
        let answer = world.ask(node, server, &format!("n{number}.many.test"), rtype);
        assert_eq!(answer.addresses(), [address], "{:?}", answer.message);
        for client in ["client", "client2"] {
            assert!(world.connects(client, address), "{client} {address}: {}", world.lab.logs());
        }
    }
    world.node("bird").stop();
    world.reads("guard", "bird", "peer says: Cease, administrative shutdown");
    world.dns.set_addresses("www.example.test", 60, &short);
    let answer = world.ask("client", "10.0.3.2", "www.example.test", dns::A);
    assert_eq!((answer.rcode(), answer.addresses()), (dns::SERVFAIL, vec![]), "one required router is gone");
    assert!(world.connects("client", many_v4(1).into()), "what was open stays open at the other");
    world.node("bird").start().unwrap();
    world.until("both sessions", || world.all_established("guard"));
    for (rtype, address) in [(dns::A, short[0]), (dns::AAAA, short[1])] {
        world.until("an answer again", || {
            world.ask("client2", "10.0.5.2", "www.example.test", rtype).addresses() == [address]
        });
        assert!(world.connects("client", address) && world.connects("client2", address), "{}", world.lab.logs());
    }
    assert!(world.connects("client2", many_v4(1).into()), "the router that was away has everything again");
}

/// A router that has no forwarding table of its own: the routes are in its RIB with the right next hop before the answer leaves, come again
/// after its restart, and go.
fn in_the_rib(topology: &str, rib: impl Fn(&Node, u16) -> String) {
    let edits = [
        ("guard", CONFIG, "linger = \"10m\"", "linger = \"1s\""),
        ("guard", CONFIG, "[lease]\n", "[lease]\nmin = \"1s\"\ngrace = \"1s\"\n"),
    ];
    let world = World::up(topology, &["router"], &["guard"], &edits);
    let router = world.node("router");
    let stays = |rtype| if rtype == dns::A { IpAddr::from(many_v4(1)) } else { many_v6(1).into() };
    for (rtype, hop) in [(dns::A, "10.0.2.2"), (dns::AAAA, "fd00:2::2")] {
        let answer = world.ask("client", "10.0.3.2", "n1.many.test", rtype);
        assert_eq!(answer.addresses(), [stays(rtype)], "{:?}", answer.message);
        let wanted = stays(rtype).to_string();
        world
            .until("the route", || rib(router, rtype).lines().any(|line| line.contains(&wanted) && line.contains(hop)));
    }
    router.stop();
    world.until("the session's end", || !world.established("guard", "router"));
    router.start().unwrap();
    let all = || [dns::A, dns::AAAA].iter().all(|&rtype| rib(router, rtype).contains(&stays(rtype).to_string()));
    world.until("the routes again", all);
    let short = [IpAddr::from([203, 0, 113, 9]), "2001:db8:ff::9".parse().unwrap()];
    world.dns.set_addresses("short.example.test", 1, &short);
    for (rtype, address) in [(dns::A, short[0]), (dns::AAAA, short[1])] {
        world.until("an answer", || {
            world.ask("client", "10.0.3.2", "short.example.test", rtype).addresses() == [address]
        });
    }
    let begun = Instant::now();
    world.until("the short ones' end", || {
        !rib(router, dns::A).contains("203.0.113.9") && !rib(router, dns::AAAA).contains("2001:db8:ff::9")
    });
    assert!(begun.elapsed() < LONG && all(), "the others stay");
}

#[test]
fn gobgp_has_the_routes() {
    in_the_rib("lab/gobgp/gobgp.clab.yml", |router, rtype| {
        let family = if rtype == dns::A { "ipv4" } else { "ipv6" };
        router.ok(&format!("gobgp global rib -a {family}")).unwrap_or_default()
    });
}

#[test]
fn openbgpd_has_the_routes() {
    in_the_rib("lab/openbgpd/openbgpd.clab.yml", |router, rtype| {
        let family = if rtype == dns::A { "inet" } else { "inet6" };
        router.ok(&format!("bgpctl show rib {family}")).unwrap_or_default()
    });
}

/// The guards' files of the labs that other tests don't check.
#[test]
fn the_labs_guards_are_configured_well() {
    let labs = ["gobgp", "openbgpd", "srlinux", "ceos", "vjunos", "xrd", "routeros", "two-routers"]
        .map(|lab| format!("{lab}/guard"));
    let two = ["two-guards/guard1", "two-guards/guard2"].map(str::to_owned);
    for directory in labs.iter().chain(&two) {
        let source = format!("{}/lab/{directory}/destguard.toml", env!("CARGO_MANIFEST_DIR"));
        // A checkout is readable by all, which is itself worth a warning where there is a password.
        let copy = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(copy.path(), std::fs::read(&source).unwrap()).unwrap();
        let check = std::process::Command::new(GUARD).arg("check").arg("--config").arg(copy.path()).output().unwrap();
        let said = String::from_utf8_lossy(&check.stderr).into_owned();
        assert!(check.status.success() && !said.contains("warning:"), "{source}: {said}");
    }
}
