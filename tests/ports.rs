//! Names with ports: what is open of an address, with real packets between network namespaces, by the whole daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use lab::dns::{self, Server};
use lab::tcp::{self, EchoServer};
use lab::{Lab, Node, wait_until};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_destguard");
const CONFIG: &str = "/etc/destguard/destguard.toml";
const WEB: u16 = 80;
const DATABASE: u16 = 5432;
/// A lost SYN is sent again after a second; nothing is said about how soon.
const CONNECTED: Duration = Duration::from_secs(5);
const REFUSED: Duration = Duration::from_millis(1500);
const ANSWER: Duration = Duration::from_secs(5);
const LONG: Duration = Duration::from_secs(60);
const FAMILIES: [u16; 2] = [dns::A, dns::AAAA];
const RULES: &str = "[policy]\nallow = [\"db.test:5432\", \"web.test:80,443/tcp+udp\"]\n";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Local,
    Gateway,
    /// A gateway whose leases are for single clients.
    Clients,
}

struct World {
    lab: Lab,
    dns: Server,
    _echo: [EchoServer; 2],
    mode: Mode,
    /// The configuration without rules.
    plain: String,
}

impl World {
    fn up(mode: Mode, rules: &str) -> Self {
        let (file, guard) = match mode {
            Mode::Local => ("lab/single/single.clab.yml", "laptop"),
            Mode::Gateway | Mode::Clients => ("lab/gateway/gateway.clab.yml", "gateway"),
        };
        let lab = Lab::builder(file).destguard(BINARY).hold(guard).up().unwrap();
        let internet = lab.node("internet");
        let upstreams = ["192.0.2.53:53", "[2001:db8:53::53]:53"].map(|at| at.parse().unwrap());
        let dns = Server::start(internet, &upstreams).unwrap();
        let echo = [WEB, DATABASE].map(|port| EchoServer::start(internet, port).unwrap());
        let mut plain = lab.node(guard).file(CONFIG).unwrap();
        let lease = "[lease]\nmin = \"1s\"\ngrace = \"0s\"\n";
        assert!(plain.contains("[lease]\n") && plain.contains("mode = \"gateway\"\n") == (mode != Mode::Local));
        plain = plain.replace("[lease]\n", lease);
        if mode == Mode::Clients {
            plain = plain.replace("mode = \"gateway\"\n", "mode = \"gateway\"\nscope = \"client\"\n");
        }
        let world = Self { lab, dns, _echo: echo, mode, plain };
        world.guard().write(CONFIG, &world.with(rules)).unwrap();
        world.start();
        world
    }

    fn with(&self, rules: &str) -> String {
        self.plain.replacen("[[policy.private]]\n", &format!("{rules}\n[[policy.private]]\n"), 1)
    }

    fn start(&self) {
        self.guard().start().unwrap();
        assert!(wait_until(LONG, || self.json(&["status"])["state"] == "enforcing"), "{}", self.lab.logs());
    }

    fn guard(&self) -> &Node {
        self.lab.node(if self.mode == Mode::Local { "laptop" } else { "gateway" })
    }

    fn client(&self) -> &Node {
        self.lab.node(if self.mode == Mode::Local { "laptop" } else { "client" })
    }

    fn json(&self, words: &[&str]) -> Value {
        let output = self.guard().command(BINARY).args(words).arg("--json").output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    fn say(&self, words: &str) -> String {
        let output = self.guard().command(BINARY).args(words.split(' ')).output().unwrap();
        assert!(output.status.success(), "{words}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn reload(&self, rules: &str) {
        self.guard().write(CONFIG, &self.with(rules)).unwrap();
        self.say("reload");
    }

    /// A name that leads to the address of this number, asked for by the client.
    fn ask(&self, name: &str, rtype: u16, number: u8, ttl: u32) {
        let own = FAMILIES.map(|rtype| address(rtype, number));
        self.dns.set_addresses(name, ttl, &own);
        let server = if self.mode == Mode::Local { "127.0.0.1:53" } else { "10.0.1.1:53" };
        // A client that gets addresses of its own family alone asks over that one.
        let server = if self.mode == Mode::Clients && rtype == dns::AAAA { "[fd00:1::1]:53" } else { server };
        let server: SocketAddr = server.parse().unwrap();
        let answer = self.client().in_namespace(|| dns::ask(server, name, rtype, ANSWER)).unwrap().unwrap();
        assert_eq!(answer.addresses(), [address(rtype, number)], "{name} {}", self.lab.logs());
    }

    fn connects(&self, rtype: u16, number: u8, port: u16) -> bool {
        self.client().in_namespace(|| tcp::connect(address(rtype, number), port, CONNECTED)).unwrap().is_ok()
    }

    fn refuses(&self, rtype: u16, number: u8, port: u16) -> bool {
        self.client().in_namespace(|| tcp::connect(address(rtype, number), port, REFUSED)).unwrap().is_err()
    }

    /// Only the database's port of an address is open.
    fn only_the_database(&self, rtype: u16, number: u8) {
        assert!(self.connects(rtype, number, DATABASE), "{}", self.lab.logs());
        assert!(self.refuses(rtype, number, WEB), "{}", self.lab.logs());
    }
}

fn address(rtype: u16, number: u8) -> IpAddr {
    if rtype == dns::AAAA {
        Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, u16::from(number)).into()
    } else {
        Ipv4Addr::new(203, 0, 113, number).into()
    }
}

/// The port is open, no other is, and whoever tried another is told why.
fn fresh(world: &World, rtype: u16) {
    world.ask("fresh.db.test", rtype, 20, 600);
    world.only_the_database(rtype, 20);
    let told = || {
        let denied = world.json(&["denied"]).to_string();
        denied.contains(&address(rtype, 20).to_string()) && denied.contains("leased for tcp/5432 only")
    };
    assert!(wait_until(LONG, told), "{}", world.json(&["denied"]));
    let explained = world.say(&format!("explain {}", address(rtype, 20)));
    assert!(explained.contains("tcp/5432 open") && explained.contains("no other port of it is open"), "{explained}");
    assert!(world.say("leases").contains("(tcp/5432 only)"));
}

/// UDP has ports of its own: a datagram goes out where the name says so, and its reply comes back.
fn datagrams(world: &World, rtype: u16) {
    world.ask("fresh.web.test", rtype, 21, 600);
    let internet = world.lab.node("internet");
    let server = internet.in_namespace(|| UdpSocket::bind("[::]:443")).unwrap().unwrap();
    server.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let client = || UdpSocket::bind(if rtype == dns::AAAA { "[::]:0" } else { "0.0.0.0:0" });
    let client = world.client().in_namespace(client).unwrap().unwrap();
    client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut octets = [0; 64];
    let mut through = |number| {
        // What nobody lets pass is refused here, or by the gateway's word.
        drop(client.send_to(b"hello", SocketAddr::new(address(rtype, number), 443)));
        let Ok((len, from)) = server.recv_from(&mut octets) else { return false };
        server.send_to(&octets[..len], from).unwrap();
        client.recv_from(&mut octets).is_ok()
    };
    assert!(wait_until(LONG, || through(21)), "{}", world.lab.logs());
    assert!(world.connects(rtype, 21, WEB) && world.refuses(rtype, 21, DATABASE));
    world.ask("udp.db.test", rtype, 22, 600);
    assert!(!(0..5).any(|_| through(22)), "a port of TCP is none of UDP");
}

/// A name without ports opens all of an address that it shares with one that has some.
fn beside_a_name_without_ports(world: &World, rtype: u16) {
    world.ask("both.db.test", rtype, 23, 600);
    world.only_the_database(rtype, 23);
    let name = format!("both{rtype}.www.test");
    world.ask(&name, rtype, 23, 600);
    assert!(world.connects(rtype, 23, WEB) && world.connects(rtype, 23, DATABASE), "{}", world.lab.logs());
    let explained = world.say(&format!("explain {}", address(rtype, 23)));
    assert!(explained.contains("a name without ports opens all of it"), "{explained}");
    world.say(&format!("revoke {name}"));
    assert!(wait_until(LONG, || world.refuses(rtype, 23, WEB)), "{}", world.lab.logs());
    world.ask("both.db.test", rtype, 23, 600);
    assert!(wait_until(LONG, || world.connects(rtype, 23, DATABASE)), "{}", world.lab.logs());
}

/// A TTL that is always the same keeps the port open, renewal after renewal.
fn extension_with_equal_times(world: &World, rtype: u16) {
    for _ in 0..10 {
        world.ask("renewed.db.test", rtype, 24, 3);
        world.only_the_database(rtype, 24);
    }
}

/// A lease that ends leaves its flows alone, and nothing new comes through.
fn expiry_with_live_flow(world: &World, rtype: u16) {
    world.ask("brief.db.test", rtype, 25, 3);
    let to = SocketAddr::new(address(rtype, 25), DATABASE);
    let stream = || TcpStream::connect_timeout(&to, CONNECTED);
    let mut stream = world.client().in_namespace(stream).unwrap().unwrap();
    assert!(wait_until(LONG, || world.refuses(rtype, 25, DATABASE)), "it never ends: {}", world.lab.logs());
    tcp::ping(&mut stream, b"still here", CONNECTED).unwrap();
}

/// What the operator takes back is closed now.
fn revoke(world: &World, rtype: u16) {
    world.ask("gone.db.test", rtype, 26, 600);
    world.only_the_database(rtype, 26);
    world.say(&format!("revoke {}", address(rtype, 26)));
    assert!(wait_until(LONG, || world.refuses(rtype, 26, DATABASE)), "{}", world.lab.logs());
    world.ask("gone.db.test", rtype, 26, 600);
    world.only_the_database(rtype, 26);
}

/// Whoever removes what the guard put there opens nothing for long, and closes nothing for long.
fn flush_by_another(world: &World, rtype: u16) {
    world.ask("flushed.db.test", rtype, 27, 600);
    world.guard().ok("nft flush ruleset").unwrap();
    let again = || world.refuses(rtype, 27, WEB) && world.connects(rtype, 27, DATABASE);
    assert!(wait_until(LONG, again), "{}", world.lab.logs());
}

/// Dead, it leaves everything as it was; back, it goes on from there.
fn kill_and_restart(world: &World, rtype: u16) {
    world.ask("kept.db.test", rtype, 28, 600);
    world.guard().kill();
    world.only_the_database(rtype, 28);
    world.start();
    world.only_the_database(rtype, 28);
}

/// Ports that a reload takes away, changes or gives back are so for what is leased as well, without another question.
fn reload(world: &World, rtype: u16) {
    world.ask("moved.db.test", rtype, 29, 600);
    world.only_the_database(rtype, 29);
    world.reload("[policy]\nallow = [\"db.test:80\"]\n");
    assert!(wait_until(LONG, || world.connects(rtype, 29, WEB)), "{}", world.lab.logs());
    assert!(world.refuses(rtype, 29, DATABASE));
    world.reload("");
    assert!(wait_until(LONG, || world.connects(rtype, 29, DATABASE)), "{}", world.lab.logs());
    assert!(world.connects(rtype, 29, WEB));
    world.reload(RULES);
    assert!(wait_until(LONG, || world.refuses(rtype, 29, WEB)), "{}", world.lab.logs());
    world.only_the_database(rtype, 29);
}

/// Whoever is answered connects, however little room there is; whoever finds none isn't told an address.
fn full_set(world: &World, rtype: u16) {
    let used = world.json(&["leases"])["leases"].as_array().unwrap().len() + 3;
    let text = world.with(RULES).replace("[lease]\n", &format!("[lease]\ncapacity = {used}\n"));
    world.guard().write(CONFIG, &text).unwrap();
    world.say("reload");
    let mut untold = 0;
    for number in 40..60 {
        let name = format!("n{number}.full{rtype}.db.test");
        world.dns.set_addresses(&name, 600, &FAMILIES.map(|rtype| address(rtype, number)));
        let server = match (world.mode, rtype) {
            (Mode::Local, _) => "127.0.0.1:53",
            (Mode::Clients, dns::AAAA) => "[fd00:1::1]:53",
            _ => "10.0.1.1:53",
        };
        let ask = || dns::ask(server.parse().unwrap(), &name, rtype, ANSWER);
        let told = world.client().in_namespace(ask).unwrap().map(|answer| answer.addresses()).unwrap_or_default();
        if told.is_empty() {
            untold += 1;
            assert!(world.refuses(rtype, number, DATABASE), "{name}");
        } else {
            world.only_the_database(rtype, number);
        }
    }
    assert!(untold > 0);
    world.reload(RULES);
    world.ask("after.db.test", rtype, 61, 600);
    world.only_the_database(rtype, 61);
}

fn all_stories(mode: Mode) {
    type Story = fn(&World, u16);
    let stories: [(&str, Story); 10] = [
        ("fresh", fresh),
        ("datagrams", datagrams),
        ("beside a name without ports", beside_a_name_without_ports),
        ("extension with equal times", extension_with_equal_times),
        ("expiry with a live flow", expiry_with_live_flow),
        ("revoke", revoke),
        ("flush by another", flush_by_another),
        ("kill -9 and restart", kill_and_restart),
        ("reload", reload),
        ("full set", full_set),
    ];
    let world = World::up(mode, RULES);
    for (name, story) in stories {
        for rtype in FAMILIES {
            println!("{name}, {}", if rtype == dns::A { "IPv4" } else { "IPv6" });
            story(&world, rtype);
        }
    }
}

#[test]
fn on_a_host_a_name_opens_its_ports_alone() {
    all_stories(Mode::Local);
}

#[test]
fn on_a_gateway_a_name_opens_its_ports_alone() {
    all_stories(Mode::Gateway);
}

#[test]
fn for_single_clients_a_name_opens_its_ports_alone() {
    all_stories(Mode::Clients);
}

/// The first name with ports needs no restart, neither by a reload nor after one.
#[test]
fn ports_begin_with_a_reload_and_what_was_leased_follows() {
    let world = World::up(Mode::Local, "");
    world.ask("early.db.test", dns::A, 20, 600);
    world.ask("early.www.test", dns::A, 21, 600);
    assert!(world.connects(dns::A, 20, WEB) && world.connects(dns::A, 20, DATABASE));
    world.reload(RULES);
    assert!(wait_until(LONG, || world.refuses(dns::A, 20, WEB)), "{}", world.lab.logs());
    world.only_the_database(dns::A, 20);
    assert!(world.connects(dns::A, 21, WEB), "a name without ports opens all");
    world.ask("early.db.test", dns::A, 20, 600);
    world.only_the_database(dns::A, 20);
    // The same while it is down: what was leased as a whole is judged by the rules that are there now.
    world.reload("");
    assert!(wait_until(LONG, || world.connects(dns::A, 20, WEB)), "{}", world.lab.logs());
    world.guard().kill();
    world.start();
    world.guard().kill();
    world.guard().write(CONFIG, &world.with(RULES)).unwrap();
    world.start();
    assert!(wait_until(LONG, || world.refuses(dns::A, 20, WEB)), "{}", world.lab.logs());
    world.only_the_database(dns::A, 20);
    assert!(world.connects(dns::A, 21, WEB));
}
