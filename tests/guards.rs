//! Three guards that tell each other of their leases, beside one FRR: one of them dies, loses its link, comes back empty, and no client notices.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use destguard_bgp::config::{Confirm, PeerConfig, Role, Secret, SpeakerConfig};
use destguard_bgp::io::Speaker;
use destguard_bgp::leases;
use destguard_bgp::table::classes::Want;
use lab::dns::server::many_v4;
use lab::dns::{self, Server};
use lab::tcp::{self, EchoServer};
use lab::{Lab, wait_until};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_destguard");
const CONFIG: &str = "/etc/destguard/destguard.toml";
const PORT: u16 = 80;
/// Below the second after which a lost SYN is sent again.
const FIRST_SYN: Duration = Duration::from_millis(900);
const ANSWER: Duration = Duration::from_secs(5);
const LONG: Duration = Duration::from_secs(60);
/// On the third link, the fifth, the seventh.
const GUARDS: [(&str, &str); 3] = [("guard1", "10.0.3.2"), ("guard2", "10.0.5.2"), ("guard3", "10.0.7.2")];

struct World {
    lab: Lab,
    dns: Server,
    _echo: EchoServer,
}

impl World {
    /// Guards whose routes no router keeps when they are gone; `reflector`: they have no sessions with each other.
    fn up(reflector: bool) -> Self {
        let world = Self::with(reflector, &GUARDS, |text| text);
        for (guard, _) in GUARDS {
            world.is_up(guard, if reflector { 2 } else { 3 });
        }
        world
    }

    /// With these guards alone.
    fn with(reflector: bool, guards: &[(&str, &str)], change: impl Fn(String) -> String) -> Self {
        let mut builder = Lab::builder("lab/three-guards/three-guards.clab.yml").destguard(BINARY);
        for (guard, _) in GUARDS {
            builder = builder.hold(guard);
        }
        let lab = builder.up().unwrap();
        let internet = lab.node("internet");
        let dns =
            Server::start(internet, &["192.0.2.53:53", "[2001:db8:53::53]:53"].map(|at| at.parse().unwrap())).unwrap();
        let echo = EchoServer::start(internet, PORT).unwrap();
        let world = Self { lab, dns, _echo: echo };
        for (guard, own) in guards {
            let node = world.lab.node(guard);
            let mut text = node.file(CONFIG).unwrap();
            assert!(text.contains("linger = \"10s\""));
            text = text.replace("linger = \"10s\"", "linger = \"10s\"\ngraceful_restart = \"0s\"");
            if reflector {
                let (before, rest) = text.split_once("[[bgp.peer]]\nname = \"guard").unwrap();
                let (_, after) = rest.split_once("\n[addresses]").unwrap();
                text = format!(
                    "{before}[[bgp.peer]]\nname = \"reflector\"\nrole = \"guard\"\naddress = \"10.0.8.2\"\nlocal_address = \"{own}\"\nasn = 65020\n\
                     password = \"between-guards\"\nttl_security = true\nmultihop = 2\nhold_time = \"9s\"\nmax_routes = 10000\n\n[addresses]{after}"
                );
            }
            node.write(CONFIG, &change(text)).unwrap();
            node.start().unwrap();
        }
        world
    }

    /// Waits until a guard enforces, with so many sessions.
    fn is_up(&self, guard: &str, sessions: usize) {
        let up = || {
            let status = self.status(guard);
            let peers = status["peers"].as_array().cloned().unwrap_or_default();
            status["state"] == "enforcing"
                && peers.iter().filter(|peer| peer["state"] == "Established").count() == sessions
        };
        assert!(wait_until(LONG, up), "{guard}: {}\n{}", self.status(guard), self.lab.logs());
    }

    fn json(&self, guard: &str, arguments: &[&str]) -> Value {
        let output = self.lab.node(guard).command(BINARY).args(arguments).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    fn status(&self, guard: &str) -> Value {
        self.json(guard, &["status", "--json"])
    }

    /// What this guard answers for a name.
    fn ask(&self, guard: usize, number: u32) -> Vec<IpAddr> {
        let server = SocketAddr::new(GUARDS[guard].1.parse().unwrap(), 53);
        let ask = || dns::ask(server, &format!("n{number}.many.test"), dns::A, ANSWER);
        self.lab.node("client").in_namespace(ask).unwrap().unwrap().addresses()
    }

    fn connects(&self, number: u32) -> bool {
        let address = many_v4(number).into();
        self.lab.node("client").in_namespace(|| tcp::connect(address, PORT, FIRST_SYN)).unwrap().is_ok()
    }

    /// Seconds for which the address is leased at this guard.
    fn left(&self, guard: &str, number: u32) -> Option<u64> {
        let leases = self.json(guard, &["leases", &many_v4(number).to_string(), "--json"]);
        let all = leases["leases"].as_array().cloned().unwrap_or_default();
        // What lingers at the router is over.
        let active = all.iter().find(|lease| lease["route_ends_in_seconds"].is_null())?;
        active["ends_in_seconds"].as_u64()
    }

    /// Waits until exactly these guards have the address leased.
    fn leased_at(&self, number: u32, guards: &[&str]) {
        let at = || -> Vec<&str> {
            GUARDS.into_iter().map(|(guard, _)| guard).filter(|guard| self.left(guard, number).is_some()).collect()
        };
        assert!(
            wait_until(LONG, || at() == guards),
            "n{number} at {:?}\n{}\n{}",
            at(),
            self.json("guard2", &["leases", "--json"]),
            self.lab.logs()
        );
    }
}

const ALL: [&str; 3] = ["guard1", "guard2", "guard3"];

fn one_dies_one_is_cut_off_one_is_replaced(reflector: bool) {
    let world = World::up(reflector);
    world.dns.many_ttl(600);
    // Each is told by one guard alone.
    for number in [1, 2] {
        assert_eq!(world.ask(0, number), [many_v4(number)], "{}", world.lab.logs());
        world.leased_at(number, &ALL);
        assert!(world.connects(number));
    }
    assert_eq!(world.ask(1, 11), [many_v4(11)]);
    world.leased_at(11, &ALL);
    let explained = world.json("guard3", &["explain", &many_v4(1).to_string(), "--json"]);
    assert!(explained.to_string().contains("10-0-3-2.guard.invalid"), "whose it is: {explained}");

    // What its guard takes back is closed everywhere.
    let address = many_v4(2).to_string();
    let revoked = world.lab.node("guard1").command(BINARY).args(["revoke", &address]).output().unwrap();
    assert!(revoked.status.success(), "{revoked:?}");
    world.leased_at(2, &[]);
    assert!(wait_until(LONG, || !world.connects(2)), "{}", world.lab.logs());

    // Killed: its routes are gone, and those of the others carry its clients on.
    world.lab.node("guard1").kill();
    for _ in 0..10 {
        assert!(world.connects(1), "{}", world.lab.logs());
        std::thread::sleep(Duration::from_millis(200));
    }
    world.leased_at(1, &["guard2", "guard3"]);
    let status = world.status("guard2");
    assert_eq!(status["state"], "enforcing", "another guard's death is no trouble of this one: {status}");

    // Another one without a disk in its place has what it had, from those who held it.
    world.lab.node("guard1").ok("rm -rf /var/lib/destguard").unwrap();
    world.lab.node("guard1").start().unwrap();
    world.is_up("guard1", if reflector { 2 } else { 3 });
    world.leased_at(1, &ALL);
    world.leased_at(11, &ALL);

    // The second one's link is gone: nobody says that anything is over.
    world.lab.node("guard2").ok("ip link set eth1 down").unwrap();
    let alone = || {
        world.status("guard2")["peers"]
            .as_array()
            .is_some_and(|peers| peers.iter().all(|peer| peer["state"] != "Established"))
    };
    assert!(wait_until(LONG, alone), "{}", world.status("guard2"));
    // For a minute, once.
    for _ in 0..if reflector { 15 } else { 60 } {
        assert!(world.connects(11), "{}", world.lab.logs());
        std::thread::sleep(Duration::from_secs(1));
    }
    world.leased_at(11, &ALL);
    // Meanwhile one lease is taken back by its guard, and another one is begun.
    assert_eq!(world.ask(0, 3), [many_v4(3)]);
    world.leased_at(3, &["guard1", "guard3"]);
    let revoked = world.lab.node("guard1").command(BINARY).args(["revoke", &many_v4(1).to_string()]).output().unwrap();
    assert!(revoked.status.success(), "{revoked:?}");

    // It heals by the table's replay.
    let node = world.lab.node("guard2");
    node.ok("ip link set eth1 up && ip route replace default via 10.0.5.1").unwrap();
    world.is_up("guard2", if reflector { 2 } else { 3 });
    world.leased_at(3, &ALL);
    world.leased_at(11, &ALL);
    world.leased_at(1, &[]);
}

#[test]
fn one_dies_one_is_cut_off_one_is_replaced_and_no_client_notices() {
    one_dies_one_is_cut_off_one_is_replaced(false);
}

#[test]
fn one_dies_one_is_cut_off_one_is_replaced_behind_a_reflector() {
    one_dies_one_is_cut_off_one_is_replaced(true);
}

#[test]
fn a_lease_is_renewed_at_all_and_ends_at_all() {
    let world = World::up(false);
    world.dns.many_ttl(40);
    assert_eq!(world.ask(0, 5), [many_v4(5)]);
    world.leased_at(5, &ALL);
    let begun = std::time::Instant::now();
    // A renewal, half way.
    std::thread::sleep(Duration::from_secs(42));
    assert_eq!(world.ask(0, 5), [many_v4(5)]);
    let ends = begun.elapsed().as_secs() + 40;
    let renewed = || world.left("guard3", 5).is_some_and(|left| begun.elapsed().as_secs() + left >= ends);
    assert!(wait_until(LONG, renewed), "{:?}\n{}", world.left("guard3", 5), world.lab.logs());
    assert!(world.connects(5));
    let own = world.left("guard1", 5).unwrap();
    let others = world.left("guard3", 5).unwrap();
    assert!(others <= own + 31, "{own} {others}");
    // Its route lingers for 10 s.
    std::thread::sleep(Duration::from_secs(own));
    world.leased_at(5, &[]);
    assert!(wait_until(LONG, || !world.connects(5)), "{}", world.lab.logs());
}

/// In place of the third guard, until `stop`: one that speaks of whatever it likes.
fn captured(world: &World, done: &AtomicBool, floods: &AtomicBool, told: &AtomicBool) {
    let peer = |name: &str, address: &str| PeerConfig {
        local_address: Some("10.0.7.2".parse().unwrap()),
        password: Some(Secret::new("between-guards")),
        ttl_security: true,
        multihop: Some(2),
        confirm: Confirm::Sent,
        role: Role::Guard,
        hold_time: Duration::from_secs(9),
        ..PeerConfig::new(name, address.parse().unwrap(), 65020)
    };
    let config = SpeakerConfig {
        next_hop_ipv4: Some("10.0.2.2".parse().unwrap()),
        next_hop_ipv6: Some("fd00:2::2".parse().unwrap()),
        listen: vec!["10.0.7.2:179".parse().unwrap()],
        peers: vec![peer("guard1", "10.0.3.2"), peer("guard2", "10.0.5.2")],
        ..SpeakerConfig::new(65020, "10.0.7.2".parse().unwrap())
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let until = |end| Want::With(Arc::new(leases::bearing(65020, end, None)));
    let ever = until(u32::MAX);
    // First what must not be opened, then one that may be, then what isn't its own to take back, then more than it may have.
    let mut all: Vec<(IpAddr, Want)> = NEVER.iter().map(|address| (address.parse().unwrap(), ever.clone())).collect();
    all.push((many_v4(500).into(), ever.clone()));
    all.push((many_v4(1).into(), until(0)));
    let much = (0..1_000_000).map(|number| (Ipv4Addr::from_bits(0x2d00_0000 + number).into(), ever.clone()));
    world
        .lab
        .node("guard3")
        .in_namespace(|| {
            runtime.block_on(async {
                let (speaker, mut events) = Speaker::start(config).await.unwrap();
                speaker.handle().tell_guards(all);
                let mut much = Some(much);
                while !done.load(Ordering::SeqCst) {
                    if floods.load(Ordering::SeqCst)
                        && let Some(much) = much.take()
                    {
                        speaker.handle().tell_guards(much);
                    }
                    told.store(
                        speaker.handle().status().iter().all(|peer| peer.queued == 0 && peer.advertised[0] > 999_000),
                        Ordering::SeqCst,
                    );
                    drop(tokio::time::timeout(Duration::from_millis(100), events.recv()).await);
                }
            });
        })
        .unwrap();
}

/// Special, the guards' own, an upstream's, in no public space.
const NEVER: [&str; 10] = [
    "127.0.0.1",
    "10.0.3.2",
    "10.9.9.9",
    "169.254.169.254",
    "224.0.0.5",
    "255.255.255.255",
    "192.0.2.53",
    "::1",
    "fe80::1",
    "fd00::99",
];

#[test]
fn a_captured_guard_opens_little_and_closes_nothing() {
    let world = World::with(false, &GUARDS[..2], |text| text);
    for guard in ["guard1", "guard2"] {
        world.is_up(guard, 2);
    }
    assert_eq!(world.ask(0, 1), [many_v4(1)]);
    world.leased_at(1, &ALL[..2]);
    let [done, floods, told] = [const { AtomicBool::new(false) }; 3];
    std::thread::scope(|scope| {
        scope.spawn(|| captured(&world, &done, &floods, &told));
        let took = catch_unwind(AssertUnwindSafe(|| {
            world.leased_at(500, &ALL[..2]);
            floods.store(true, Ordering::SeqCst);
            assert!(wait_until(LONG, || told.load(Ordering::SeqCst)), "{}", world.status("guard1"));
            // Meanwhile those who ask are served.
            assert_eq!(world.ask(0, 7), [many_v4(7)], "{}\n{}", world.status("guard1"), world.lab.logs());
            assert!(world.connects(7));
            world.leased_at(7, &ALL[..2]);
            world.leased_at(1, &ALL[..2]);
            for address in NEVER {
                let leases = world.json("guard1", &["leases", address, "--json"]);
                assert_eq!(leases["leases"].as_array().map(Vec::len), Some(0), "{address}: {leases}");
            }
            assert!(world.left("guard1", 500).unwrap() <= 24 * 3600, "no longer than lease.max");
            let told = || world.json("guard1", &["peers", "--json"]).to_string();
            assert!(wait_until(LONG, || told().contains("\"leases\":10000")), "max_routes: {}", told());
        }));
        done.store(true, Ordering::SeqCst);
        took.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    // It is cut off, and all of it closed by its name.
    let revoked = world.lab.node("guard1").command(BINARY).args(["revoke", "10-0-7-2.guard.invalid"]).output().unwrap();
    assert!(revoked.status.success(), "{revoked:?}");
    let left = || world.left("guard1", 500);
    assert!(wait_until(LONG, || left().is_none()), "{:?}", left());
    assert!(world.connects(1) && world.connects(7), "{}", world.lab.logs());
}

#[test]
fn linux_gateways_have_the_same_sets_without_any_router() {
    let world = World::with(false, &GUARDS, |text| {
        let (before, rest) = text.split_once("[[bgp.peer]]\nname = \"router\"").unwrap();
        let (_, after) = rest.split_once("\n[[bgp.peer]]").unwrap();
        format!("{before}[[bgp.peer]]{after}\n[nftables]\nmode = \"gateway\"\ninside = [\"eth1\"]\n")
    });
    for guard in ALL {
        world.is_up(guard, 2);
    }
    assert_eq!(world.ask(0, 1), [many_v4(1)]);
    world.leased_at(1, &ALL);
    world.dns.many_ttl(3600);
    for number in [1001, 1002, 1003, 1004] {
        assert_eq!(world.ask(0, number), [many_v4(number)]);
    }
    world.leased_at(1004, &ALL);
    for guard in ALL {
        let set = || world.lab.node(guard).ok("nft list set inet destguard lease4").unwrap();
        let is_there = || set().contains(&many_v4(1).to_string());
        assert!(wait_until(LONG, is_there), "{guard}: {}", set());
    }
}
