//! One matrix for whatever enforces on a host: backend, mode, family and story, each with real packets between network namespaces, by the whole
//! daemon. A backend is a constant and a test for each mode that it has.
//!
//! eBPF judges what a host's own programs begin: it has no gateway (`tests/ebpf/daemon.rs` sees `check` say so), and its client is a program of the
//! control group that it guards. Where the others drop packets it refuses the connect, which is so at once: EPERM and nothing else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "backends/client.rs"]
mod client;
#[path = "support/control_group.rs"]
mod group;

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::time::Duration;

use client::Client;
use group::Group;
use lab::dns::server::{many_v4, many_v6};
use lab::dns::{self, Server};
use lab::tcp::{self, EchoServer};
use lab::{Lab, Node, Process, wait_until};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_destguard");
const CONFIG: &str = "/etc/destguard/destguard.toml";
const PORT: u16 = 80;
/// A lost SYN is sent again after a second; nothing is said about how soon.
const CONNECTED: Duration = Duration::from_secs(5);
/// What isn't refused at once, but dropped, is found out so.
const REFUSED: Duration = Duration::from_millis(1500);
const ANSWER: Duration = Duration::from_secs(5);
const LONG: Duration = Duration::from_secs(60);
const FAMILIES: [u16; 2] = [dns::A, dns::AAAA];

/// What differs between backends.
struct Backend {
    name: &'static str,
    /// What is there before the guard, as a shell command.
    before: &'static str,
    /// A stranger's doing, as a shell command.
    flush: &'static str,
    /// Guard and clients are programs of a control group; else whoever is in the client's network.
    in_group: bool,
}

const NFTABLES: Backend = Backend { name: "nftables", before: "true", flush: "nft flush ruleset", in_group: false };
/// The variant of iptables is the one that others use.
const IPTABLES_NFT: Backend = Backend {
    name: "iptables",
    before: "iptables-nft -A INPUT -p tcp --dport 22 -j ACCEPT",
    flush: "iptables-nft -F; ip6tables-nft -F; ipset flush",
    in_group: false,
};
/// The other one.
const IPTABLES_LEGACY: Backend = Backend {
    name: "iptables",
    before: "iptables-legacy -A INPUT -p tcp --dport 22 -j ACCEPT",
    flush: "iptables-legacy -F; ip6tables-legacy -F; ipset flush",
    in_group: false,
};
#[cfg(feature = "ebpf")]
const EBPF: Backend = Backend {
    name: "ebpf",
    before: "true",
    flush: "for hook in connect4 connect6; do bpftool link detach pinned /sys/fs/bpf/destguard/$hook; done; rm -r /sys/fs/bpf/destguard",
    in_group: true,
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Local,
    Gateway,
}

/// What is dropped first comes first: the group outlives its programs, the lab the group.
struct World {
    inside: Option<Inside>,
    lab: Lab,
    dns: Server,
    _echo: EchoServer,
    mode: Mode,
    backend: &'static Backend,
}

/// The control group that is judged, and who is in it.
struct Inside {
    daemon: Mutex<Option<Process>>,
    client: Client,
    group: Group,
}

/// A connection that lives on.
enum Flow<'a> {
    Ours(TcpStream),
    OfClient(&'a Client),
}

impl Flow<'_> {
    fn lives(&mut self) {
        match self {
            Self::Ours(stream) => tcp::ping(stream, b"still here", CONNECTED).unwrap(),
            Self::OfClient(client) => assert_eq!(client.ping(), "ok"),
        }
    }
}

impl World {
    fn up(backend: &'static Backend, mode: Mode) -> Self {
        let (file, guard) = match mode {
            Mode::Local => ("lab/single/single.clab.yml", "laptop"),
            Mode::Gateway => ("lab/gateway/gateway.clab.yml", "gateway"),
        };
        let lab = Lab::builder(file).destguard(BINARY).hold(guard).up().unwrap();
        let internet = lab.node("internet");
        let upstreams = ["192.0.2.53:53", "[2001:db8:53::53]:53"].map(|at| at.parse().unwrap());
        let dns = Server::start(internet, &upstreams).unwrap();
        let echo = EchoServer::start(internet, PORT).unwrap();
        let inside = backend.in_group.then(|| {
            let group = Group::make(lab.node(guard));
            Inside { daemon: Mutex::default(), client: Client::start(lab.node(guard), &group), group }
        });
        let world = Self { inside, lab, dns, _echo: echo, mode, backend };
        let text = world.guard().file(CONFIG).unwrap();
        assert!(text.contains("[lease]\n"));
        let text = text.replace("[lease]\n", "[lease]\nmin = \"1s\"\ngrace = \"0s\"\n");
        let mut text = format!("enforcer = \"{}\"\n{text}", backend.name);
        if let Some(inside) = &world.inside {
            text = format!("{text}\n[ebpf]\ncgroup = \"{}\"\n", inside.group.path);
        }
        world.guard().write(CONFIG, &text).unwrap();
        world.guard().ok(backend.before).unwrap();
        world.start();
        world
    }

    fn start(&self) {
        match &self.inside {
            Some(inside) => {
                let daemon = inside.group.spawn(&format!("{BINARY} run --config {CONFIG}"));
                *inside.daemon.lock().unwrap() = Some(daemon);
            }
            None => self.guard().start().unwrap(),
        }
        assert!(wait_until(LONG, || self.status()["state"] == "enforcing"), "{}", self.lab.logs());
    }

    fn kill(&self) {
        match &self.inside {
            Some(inside) => inside.daemon.lock().unwrap().take().unwrap().kill(),
            None => self.guard().kill(),
        }
    }

    fn guard(&self) -> &Node {
        self.lab.node(if self.mode == Mode::Local { "laptop" } else { "gateway" })
    }

    fn client(&self) -> &Node {
        self.lab.node(if self.mode == Mode::Local { "laptop" } else { "client" })
    }

    fn status(&self) -> Value {
        let output = self.guard().command(BINARY).args(["status", "--json"]).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// Asks for a name of which the far side gives this address.
    fn ask(&self, rtype: u16, number: u32) -> Vec<IpAddr> {
        let server = if self.mode == Mode::Local { "127.0.0.1:53" } else { "10.0.1.1:53" };
        let server: SocketAddr = server.parse().unwrap();
        let ask = || dns::ask(server, &format!("n{number}.many.test"), rtype, ANSWER);
        self.client().in_namespace(ask).unwrap().map(|answer| answer.addresses()).unwrap_or_default()
    }

    fn opens(&self, rtype: u16, number: u32) {
        assert_eq!(self.ask(rtype, number), [address(rtype, number)], "{}\n{}", self.status(), self.lab.logs());
        assert!(self.connects(rtype, number), "n{number} {}\n{}", address(rtype, number), self.lab.logs());
    }

    /// A connection that is kept, where there is one.
    fn flow(&self, rtype: u16, number: u32) -> Option<Flow<'_>> {
        let to = SocketAddr::new(address(rtype, number), PORT);
        match &self.inside {
            Some(inside) => (inside.client.keep(to) == "ok").then_some(Flow::OfClient(&inside.client)),
            None => {
                let connect = || TcpStream::connect_timeout(&to, CONNECTED);
                self.client().in_namespace(connect).unwrap().ok().map(Flow::Ours)
            }
        }
    }

    fn connects(&self, rtype: u16, number: u32) -> bool {
        let to = address(rtype, number);
        match &self.inside {
            Some(inside) => inside.client.connect(SocketAddr::new(to, PORT)) == "ok",
            None => self.client().in_namespace(|| tcp::connect(to, PORT, CONNECTED)).unwrap().is_ok(),
        }
    }

    fn refuses(&self, rtype: u16, number: u32) -> bool {
        let to = address(rtype, number);
        match &self.inside {
            Some(inside) => inside.client.connect(SocketAddr::new(to, PORT)) == "EPERM",
            None => self.client().in_namespace(|| tcp::connect(to, PORT, REFUSED)).unwrap().is_err(),
        }
    }

    fn reload(&self, text: &str) {
        self.guard().write(CONFIG, text).unwrap();
        let output = self.guard().command(BINARY).args(["reload"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

fn address(rtype: u16, number: u32) -> IpAddr {
    if rtype == dns::AAAA { many_v6(number).into() } else { many_v4(number).into() }
}

/// What was asked for is open at once, and nothing else is.
fn fresh(world: &World, rtype: u16) {
    world.dns.many_ttl(600);
    for number in 0..10 {
        world.opens(rtype, number);
    }
    assert!(world.refuses(rtype, 900), "what nobody asked for");
}

/// A name whose TTL is always the same stays open, renewal after renewal, each asked for when the one before is nearly or just over.
fn extension_with_equal_times(world: &World, rtype: u16) {
    world.dns.many_ttl(3);
    for _ in 0..12 {
        world.opens(rtype, 20);
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// A lease that ends leaves its flows alone, and nothing new comes through. eBPF never looks at a flow's packets; what its user notices is the same.
fn expiry_with_live_flow(world: &World, rtype: u16) {
    world.dns.many_ttl(3);
    let mut flow = None;
    // On a busy machine the lease may end before somebody connects.
    let mut begun = || {
        assert_eq!(world.ask(rtype, 30), [address(rtype, 30)]);
        flow = world.flow(rtype, 30);
        flow.is_some()
    };
    assert!(wait_until(LONG, &mut begun), "{}", world.lab.logs());
    let mut flow = flow.unwrap();
    assert!(wait_until(LONG, || world.refuses(rtype, 30)), "it never ends: {}", world.lab.logs());
    flow.lives();
    world.dns.many_ttl(600);
    world.opens(rtype, 30);
}

/// What the operator takes back is closed now.
fn revoke(world: &World, rtype: u16) {
    world.opens(rtype, 40);
    let revoked = world.guard().command(BINARY).args(["revoke", &address(rtype, 40).to_string()]).output().unwrap();
    assert!(revoked.status.success(), "{revoked:?}");
    assert!(wait_until(LONG, || world.refuses(rtype, 40)), "{}", world.lab.logs());
    world.opens(rtype, 40);
}

/// Whoever removes what the guard put there opens nothing for long, and closes nothing for long.
fn flush_by_another(world: &World, rtype: u16) {
    world.opens(rtype, 50);
    world.guard().ok(world.backend.flush).unwrap();
    let again = || world.refuses(rtype, 901) && world.connects(rtype, 50);
    assert!(wait_until(LONG, again), "{}\n{}", world.status(), world.lab.logs());
    world.opens(rtype, 51);
}

/// Dead, it leaves everything as it was, and the kernel ends its leases; back, it goes on from there.
fn kill_and_restart(world: &World, rtype: u16) {
    world.opens(rtype, 60);
    world.dns.many_ttl(3);
    assert_eq!(world.ask(rtype, 62), [address(rtype, 62)]);
    world.dns.many_ttl(600);
    world.kill();
    assert!(world.refuses(rtype, 902), "a dead guard opens nothing");
    assert!(world.connects(rtype, 60), "and closes nothing");
    assert!(wait_until(LONG, || world.refuses(rtype, 62)), "its leases end without it");
    world.start();
    assert!(world.connects(rtype, 60), "{}", world.lab.logs());
    assert!(world.refuses(rtype, 902));
    world.opens(rtype, 61);
}

/// In audit nothing is refused; leases are kept meanwhile.
fn audit(world: &World, rtype: u16) {
    world.opens(rtype, 70);
    let text = world.guard().file(CONFIG).unwrap();
    world.reload(&format!("mode = \"audit\"\n{text}"));
    assert!(world.connects(rtype, 903), "{}\n{}", world.status(), world.lab.logs());
    world.reload(&text);
    assert!(world.refuses(rtype, 903));
    assert!(world.connects(rtype, 70));
}

/// Other rules are in force when the command returns.
fn reload(world: &World, rtype: u16) {
    world.opens(rtype, 80);
    let text = world.guard().file(CONFIG).unwrap();
    let width = if rtype == dns::AAAA { 128 } else { 32 };
    world.reload(&format!("{text}\n[addresses]\nopen = [\"{}/{width}\"]\n", address(rtype, 904)));
    assert!(world.connects(rtype, 904), "{}\n{}", world.status(), world.lab.logs());
    assert!(world.refuses(rtype, 905));
    assert!(world.connects(rtype, 80));
    world.reload(&text);
    assert!(world.refuses(rtype, 904));
    assert!(world.connects(rtype, 80));
}

/// Whoever is answered connects, however little room there is; whoever finds none isn't told an address.
fn full_set(world: &World, rtype: u16) {
    let text = world.guard().file(CONFIG).unwrap();
    let before = world.status()["leases"].clone();
    let held = before["ipv4"].as_u64().unwrap() + before["ipv6"].as_u64().unwrap();
    world.reload(&text.replace("[lease]\n", &format!("[lease]\ncapacity = {}\n", held + 20)));
    let (mut told, mut untold) = (0, 0);
    for number in 100..150 {
        let answer = world.ask(rtype, number);
        if answer.is_empty() {
            untold += 1;
            assert!(world.refuses(rtype, number), "n{number}");
        } else {
            told += 1;
            assert!(world.connects(rtype, number), "n{number}\n{}", world.lab.logs());
        }
    }
    assert!(told > 0 && untold > 0, "{told} {untold}");
    world.reload(&text);
    world.opens(rtype, 160);
}

fn all_stories(backend: &'static Backend, mode: Mode) {
    type Story = fn(&World, u16);
    let stories: [(&str, Story); 9] = [
        ("fresh", fresh),
        ("extension with equal times", extension_with_equal_times),
        ("expiry with a live flow", expiry_with_live_flow),
        ("revoke", revoke),
        ("flush by another", flush_by_another),
        ("kill -9 and restart", kill_and_restart),
        ("audit", audit),
        ("reload", reload),
        ("full set", full_set),
    ];
    let world = World::up(backend, mode);
    for (name, story) in stories {
        for rtype in FAMILIES {
            println!("{}: {name}, {}", backend.name, if rtype == dns::A { "IPv4" } else { "IPv6" });
            story(&world, rtype);
        }
    }
}

#[test]
fn nftables_on_a_host() {
    all_stories(&NFTABLES, Mode::Local);
}

#[test]
fn nftables_on_a_gateway() {
    all_stories(&NFTABLES, Mode::Gateway);
}

#[test]
fn iptables_nft_on_a_host() {
    all_stories(&IPTABLES_NFT, Mode::Local);
}

#[test]
fn iptables_nft_on_a_gateway() {
    all_stories(&IPTABLES_NFT, Mode::Gateway);
}

#[test]
fn iptables_legacy_on_a_host() {
    all_stories(&IPTABLES_LEGACY, Mode::Local);
}

#[test]
fn iptables_legacy_on_a_gateway() {
    all_stories(&IPTABLES_LEGACY, Mode::Gateway);
}

#[cfg(feature = "ebpf")]
#[test]
fn ebpf_on_a_host() {
    all_stories(&EBPF, Mode::Local);
}
