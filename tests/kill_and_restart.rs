//! Promise 3: kill -9 at any instant, restart and stop withdraw no route of a live lease and open nothing that was not leased. The real
//! daemon in the lab, under load, with routers that keep routes over a restart (RFC 4724), and as the gateway itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lab::dns::server::{many_v4, many_v6};
use lab::dns::{self, Asker, Server};
use lab::routes::Monitor;
use lab::tcp::{self, EchoServer};
use lab::{Lab, Node, wait_until};
use serde_json::Value;

const FRR: &str = "lab/frr/frr.clab.yml";
const BIRD: &str = "lab/bird/bird.clab.yml";
const GATEWAY: &str = "lab/gateway/gateway.clab.yml";
const CONFIG: &str = "/etc/destguard/destguard.toml";
const JOURNAL: &str = "/var/lib/destguard/leases.journal";
const PORT: u16 = 80;
/// For an answer of a guard that may just have been killed.
const ANSWER: Duration = Duration::from_millis(1500);
/// For whatever must happen in the end.
const LONG: Duration = Duration::from_secs(60);
/// Times that a guard is killed.
const KILLS: u32 = 3;

/// A lab, its far side's servers, and a guard that is killed.
struct World {
    dns: Server,
    _echo: EchoServer,
    routes: Monitor,
    gateway: bool,
    lab: Lab,
}

impl World {
    /// `edits` change the guard's configuration: each text must be in it, and is replaced.
    fn up(file: &str, edits: &[(&str, &str)]) -> Self {
        Self::beside(file, edits, |_| {})
    }

    /// With a router that `prepare` works on before the guard starts.
    fn beside(file: &str, edits: &[(&str, &str)], prepare: impl FnOnce(&Node)) -> Self {
        let gateway = file == GATEWAY;
        let (guard, router) = if gateway { ("gateway", "gateway") } else { ("guard", "router") };
        let lab = Lab::builder(file).destguard(env!("CARGO_BIN_EXE_destguard")).hold(guard).up().unwrap();
        let internet = lab.node("internet");
        let dns = Server::start(internet, &["192.0.2.53:53".parse().unwrap()]).unwrap();
        dns.many_ttl(600);
        let echo = EchoServer::start(internet, PORT).unwrap();
        let routes = Monitor::start(lab.node(router)).unwrap();
        let mut text = lab.node(guard).file(CONFIG).unwrap();
        for (from, to) in edits {
            assert!(text.contains(from), "{from:?} is not in {CONFIG}");
            text = text.replace(from, to);
        }
        lab.node(guard).write(CONFIG, &text).unwrap();
        prepare(lab.node(router));
        let world = Self { dns, _echo: echo, routes, gateway, lab };
        world.start();
        world
    }

    /// Changes the guard's file for its next start.
    fn edit(&self, from: &str, to: &str) {
        let text = self.guard().file(CONFIG).unwrap();
        assert!(text.contains(from), "{from:?} is not in {CONFIG}");
        self.guard().write(CONFIG, &text.replace(from, to)).unwrap();
    }

    fn guard(&self) -> &Node {
        self.lab.node(if self.gateway { "gateway" } else { "guard" })
    }

    fn start(&self) {
        self.guard().start().unwrap();
        assert!(wait_until(LONG, || self.ready()), "not ready: {}", self.lab.logs());
    }

    fn ready(&self) -> bool {
        if self.gateway {
            self.ask_guard(&["status"])["state"] == "enforcing"
        } else {
            self.ask_guard(&["peers"])["peers"][0]["state"] == "Established"
        }
    }

    fn ask_guard(&self, command: &[&str]) -> Value {
        let output =
            self.guard().command(env!("CARGO_BIN_EXE_destguard")).args(command).arg("--json").output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    fn server(&self) -> SocketAddr {
        if self.gateway { "10.0.1.1:53" } else { "10.0.3.2:53" }.parse().unwrap()
    }

    /// Addresses that the guard has leased.
    fn leased(&self) -> BTreeSet<IpAddr> {
        let leases = self.ask_guard(&["leases"]);
        let all = leases["leases"].as_array().unwrap();
        all.iter().map(|lease| lease["address"].as_str().unwrap().parse().unwrap()).collect()
    }

    /// Addresses that are open: the elements of the sets on the gateway, else the router's host routes to the far side.
    fn open(&self) -> BTreeSet<IpAddr> {
        if self.gateway { elements(self.guard()) } else { host_routes(self.lab.node("router")) }
    }

    /// Asks for name after name, from both families, until told to end; notes what was released.
    fn load(&self, released: &Mutex<BTreeSet<IpAddr>>, end: &AtomicBool) {
        let next = AtomicU32::new(0);
        let work = || {
            let asker = Asker::new(self.server()).unwrap();
            while !end.load(Ordering::Relaxed) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let (rtype, address) = if number.is_multiple_of(3) {
                    (dns::AAAA, IpAddr::from(many_v6(number)))
                } else {
                    (dns::A, IpAddr::from(many_v4(number)))
                };
                // A guard that is dead, or has no session, gives no answer or none with an address.
                if let Ok(answer) = asker.ask(&format!("n{number}.many.test"), rtype, ANSWER)
                    && answer.addresses() == [address]
                {
                    released.lock().unwrap().insert(address);
                } else {
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| self.lab.node("client").in_namespace(work).unwrap());
            }
        });
    }

    fn assert_never_gone(&self, addresses: &BTreeSet<IpAddr>) {
        let gone: Vec<&IpAddr> =
            addresses.iter().filter(|address| self.routes.last(**address, false).is_some()).collect();
        assert!(gone.is_empty(), "routes of live leases were withdrawn: {gone:?}\n{}", self.lab.logs());
    }
}

/// The host routes of a router that lead to the far side, but for the way to the upstream.
fn host_routes(router: &Node) -> BTreeSet<IpAddr> {
    let mut all = BTreeSet::new();
    for (family, hop) in [("-4", "via 10.0.2.2"), ("-6", "via fd00:2::2")] {
        let text = router.ok(&format!("ip {family} route show")).unwrap();
        let lines = text.lines().filter(|line| line.contains(hop));
        all.extend(lines.filter_map(|line| line.split_whitespace().next()?.parse::<IpAddr>().ok()));
    }
    let upstreams: [IpAddr; 2] = ["192.0.2.53".parse().unwrap(), "2001:db8:53::53".parse().unwrap()];
    all.retain(|address| !upstreams.contains(address));
    all
}

/// The elements of the lease sets.
fn elements(node: &Node) -> BTreeSet<IpAddr> {
    let mut all = BTreeSet::new();
    for set in ["lease4", "lease6"] {
        let text = node.ok(&format!("nft -j list set inet destguard {set}")).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        let sets = json["nftables"].as_array().unwrap().iter().filter_map(|item| item["set"]["elem"].as_array());
        let values = sets.flatten().map(|element| &element["elem"]["val"]);
        all.extend(values.filter_map(|value| value.as_str()?.parse::<IpAddr>().ok()));
    }
    all
}

/// Any instant: the time of day decides.
fn random(least: u64, most: u64) -> Duration {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos();
    Duration::from_millis(least + u64::from(nanos / 1000) % (most - least))
}

/// Under load: dies, comes back, and again. What was released stays open all the time, and in the end nothing is open that isn't leased.
fn killed_at_any_instant(file: &str) {
    let world = World::up(file, &[]);
    let (released, end) = (Mutex::new(BTreeSet::new()), AtomicBool::new(false));
    let count = || released.lock().unwrap().len();
    let lost_syns = Mutex::new(Vec::new());
    let probe = || {
        let first = IpAddr::from(many_v4(1));
        while !end.load(Ordering::Relaxed) {
            if let Err(error) = tcp::connect(first, PORT, Duration::from_millis(900)) {
                lost_syns.lock().unwrap().push(error.to_string());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let asked =
        world.lab.node("client").in_namespace(|| dns::ask(world.server(), "n1.many.test", dns::A, LONG)).unwrap();
    assert_eq!(asked.unwrap().addresses(), [IpAddr::from(many_v4(1))]);
    std::thread::scope(|scope| {
        scope.spawn(|| world.lab.node("client2").in_namespace(probe).unwrap());
        scope.spawn(|| world.load(&released, &end));
        for kill in 0..KILLS {
            let before = count();
            assert!(wait_until(LONG, || count() > before + 5), "no answers: {}", world.lab.logs());
            std::thread::sleep(random(0, 1000));
            world.guard().kill();
            if kill == 0 {
                tear(&world.guard().path(JOURNAL));
            }
            world.start();
        }
        let before = count();
        assert!(wait_until(LONG, || count() > before + 5), "no answers: {}", world.lab.logs());
        end.store(true, Ordering::Relaxed);
    });
    let released = released.into_inner().unwrap();
    world.assert_never_gone(&released);
    // What was announced for an answer that a kill kept from leaving goes with the End-of-RIB of the next run.
    let settled = wait_until(LONG, || world.open() == world.leased());
    let (open, leased) = (world.open(), world.leased());
    let unleased: Vec<_> = open.difference(&leased).collect();
    let closed: Vec<_> = leased.difference(&open).collect();
    assert!(settled, "open and not leased: {unleased:?}; leased and not open: {closed:?}\n{}", world.lab.logs());
    let lost: Vec<_> = released.difference(&leased).collect();
    assert!(lost.is_empty(), "released, and forgotten: {lost:?}");
    let lost_syns = lost_syns.into_inner().unwrap();
    assert!(lost_syns.is_empty(), "a leased address was not open for a while: {lost_syns:?}\n{}", world.lab.logs());
}

/// As if the kill had come in the middle of a write: the front part of a record at the end.
fn tear(journal: &Path) {
    let mut octets = std::fs::read(journal).unwrap();
    // Magic, boot id, and at least one record.
    assert!(octets.len() > 80, "{} octets", octets.len());
    let record = octets[44..64].to_vec();
    octets.extend(record);
    std::fs::write(journal, octets).unwrap();
}

#[test]
fn frr_keeps_what_is_leased_whenever_the_guard_is_killed() {
    killed_at_any_instant(FRR);
}

#[test]
fn bird_keeps_what_is_leased_whenever_the_guard_is_killed() {
    killed_at_any_instant(BIRD);
}

#[test]
fn the_gateway_keeps_what_is_leased_whenever_the_guard_is_killed() {
    killed_at_any_instant(GATEWAY);
}

/// A thousand live leases, and some that end while the guard is away.
#[test]
fn a_thousand_leases_survive_and_those_that_ended_meanwhile_are_withdrawn() {
    let edits = [("[lease]\n", "[lease]\nmin = \"3s\"\ngrace = \"1s\"\n"), ("linger = \"10m\"", "linger = \"1s\"")];
    let world = World::up(BIRD, &edits);
    let next = AtomicU32::new(0);
    let ask_all = || {
        let asker = Asker::new(world.server()).unwrap();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= 1000 {
                return;
            }
            let answer = asker.ask(&format!("n{number}.many.test"), dns::A, LONG).unwrap();
            assert_eq!(answer.addresses(), [IpAddr::from(many_v4(number))], "{:?}", answer.message);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| world.lab.node("client").in_namespace(ask_all).unwrap());
        }
    });
    let live: BTreeSet<IpAddr> = (0..1000).map(|number| IpAddr::from(many_v4(number))).collect();
    let brief = IpAddr::from([203, 0, 113, 255]);
    world.dns.set_addresses("brief.test", 1, &[brief]);
    let ask = || dns::ask(world.server(), "brief.test", dns::A, LONG).unwrap();
    assert_eq!(world.lab.node("client").in_namespace(ask).unwrap().addresses(), [brief]);
    assert!(wait_until(LONG, || world.routes.last(brief, true).is_some()));
    world.guard().kill();
    let killed = Instant::now();
    // Longer than 3 s + 1 s grace + 1 s linger.
    std::thread::sleep(Duration::from_millis(5500));
    assert_eq!(world.routes.last(brief, false), None, "the router keeps it while the guard is away");
    world.start();
    assert!(wait_until(LONG, || world.routes.last(brief, false).is_some_and(|at| at > killed)), "{}", world.lab.logs());
    assert!(wait_until(LONG, || world.open() == live), "{} open\n{}", world.open().len(), world.lab.logs());
    world.assert_never_gone(&live);
    assert_eq!(world.leased(), live);
    assert_eq!(world.ask_guard(&["peers"])["peers"][0]["advertised"]["ipv4"], 1000);
}

/// Scenario 44: SIGTERM leaves routers their routes for the restart; `stop --withdraw` takes them back.
#[test]
fn a_stop_keeps_routes_unless_the_operator_wants_them_gone() {
    let world = World::up(BIRD, &[("linger = \"10m\"", "linger = \"10m\"\nshutdown_drain = \"1s\"")]);
    let address = IpAddr::from(many_v4(5));
    let ask = || dns::ask(world.server(), "n5.many.test", dns::A, LONG).unwrap();
    assert_eq!(world.lab.node("client").in_namespace(ask).unwrap().addresses(), [address]);
    let connects = || world.lab.node("client").in_namespace(|| tcp::connect(address, PORT, ANSWER)).unwrap().is_ok();
    assert!(connects());
    world.guard().stop();
    assert!(connects(), "the router forwards while the guard is away");
    world.start();
    assert!(wait_until(LONG, || world.ask_guard(&["leases"])["leases"][0]["state"] == "installed"));
    world.assert_never_gone(&BTreeSet::from([address]));
    assert!(connects());

    let said = world.ask_guard(&["stop", "--withdraw"])["message"].clone();
    assert_eq!(said, "the guard stops; its routes are withdrawn");
    assert!(wait_until(LONG, || world.routes.last(address, false).is_some()), "{}", world.lab.logs());
    assert!(!connects());
}

/// Scenario 44 on the gateway: it stays closed, and open for what is leased.
#[test]
fn a_stopped_gateway_stays_closed_and_keeps_its_leases() {
    let world = World::up(GATEWAY, &[]);
    let address = IpAddr::from(many_v4(5));
    let ask = || dns::ask(world.server(), "n5.many.test", dns::A, LONG).unwrap();
    assert_eq!(world.lab.node("client").in_namespace(ask).unwrap().addresses(), [address]);
    world.guard().stop();
    let connects = |to| world.lab.node("client").in_namespace(|| tcp::connect(to, PORT, ANSWER)).unwrap().is_ok();
    assert!(connects(address), "leased");
    assert!(!connects(IpAddr::from(many_v4(6))), "nobody asked");
    assert_eq!(elements(world.guard()), BTreeSet::from([address]));
    world.start();
    assert_eq!(elements(world.guard()), BTreeSet::from([address]));
    assert!(connects(address));

    // What was allowed when it was leased and no longer is does not come back.
    world.guard().stop();
    let text = world.guard().file(CONFIG).unwrap();
    let denied = "[policy]\ndeny = [\"n5.many.test\"]\n\n[[policy.private]]";
    world.guard().write(CONFIG, &text.replacen("[[policy.private]]", denied, 1)).unwrap();
    world.start();
    assert!(wait_until(LONG, || elements(world.guard()).is_empty()), "{}", world.lab.logs());
    assert!(!connects(address));
}

/// A router's word on one route: whether it is stale in the long-lived way.
struct LongLived {
    lab: &'static str,
    /// What it needs beside the lab's configuration.
    prepare: &'static str,
    show: &'static str,
    stale: &'static str,
}

/// RFC 9494: a guard that is killed stays away for longer than the restart time. Routers keep its routes, marked as a last resort, until the stale
/// time is over too; when it comes back in time nothing was gone. A route with NO_LLGR goes with the restart time.
fn long_lived(router: &LongLived) {
    const STALE: &str = "long_lived_graceful_restart = \"60s\"";
    let restart = format!("linger = \"10m\"\ngraceful_restart = \"2s\"\n{STALE}");
    let world = World::beside(router.lab, &[("linger = \"10m\"", &restart)], |node| {
        node.ok(router.prepare).unwrap();
    });
    let address = IpAddr::from(many_v4(5));
    let ask = || dns::ask(world.server(), "n5.many.test", dns::A, LONG).unwrap();
    assert_eq!(world.lab.node("client").in_namespace(ask).unwrap().addresses(), [address]);
    let capabilities = world.ask_guard(&["peers"])["peers"][0]["capabilities"].clone();
    let offered = capabilities.as_array().unwrap().iter().any(|name| name == "long-lived-graceful-restart");
    assert!(offered, "{capabilities}");

    let node = world.lab.node("router");
    let show = router.show.replace("ADDRESS", &address.to_string());
    let stale = || node.ok(&show).unwrap_or_default().contains(router.stale);
    let connects = || world.lab.node("client").in_namespace(|| tcp::connect(address, PORT, ANSWER)).unwrap().is_ok();
    assert!(!stale() && connects(), "{}", node.ok(&show).unwrap());
    world.guard().kill();
    assert!(wait_until(LONG, stale), "the restart time passes: {}\n{}", node.ok(&show).unwrap(), world.lab.logs());
    assert!(connects(), "still forwarded");
    world.start();
    assert!(wait_until(LONG, || !stale()), "fresh again: {}", node.ok(&show).unwrap());
    assert!(connects());
    world.assert_never_gone(&BTreeSet::from([address]));

    // The stale time ends too.
    let back = || {
        world.start();
        assert!(wait_until(LONG, || host_routes(node).contains(&address) && !stale()), "{}", world.lab.logs());
    };
    world.guard().stop();
    world.edit(STALE, "long_lived_graceful_restart = \"2s\"");
    back();
    world.assert_never_gone(&BTreeSet::from([address]));
    let killed = Instant::now();
    world.guard().kill();
    assert!(wait_until(LONG, || world.routes.last(address, false).is_some()), "never gone: {}", world.lab.logs());
    assert!(killed.elapsed() >= Duration::from_secs(3), "gone after {:?} already", killed.elapsed());

    // NO_LLGR: long before the stale time.
    world.edit("long_lived_graceful_restart = \"2s\"", "long_lived_graceful_restart = \"3600s\"");
    world.edit("communities = [", "communities = [\"no-llgr\", ");
    back();
    let killed = Instant::now();
    world.guard().kill();
    let gone = || world.routes.last(address, false).is_some_and(|at| at > killed);
    assert!(wait_until(LONG, gone), "NO_LLGR means nothing to it: {}\n{}", node.ok(&show).unwrap(), world.lab.logs());
}

#[test]
fn bird_keeps_routes_beyond_the_restart_time_where_long_lived_restart_is_on() {
    let show = "birdc show route for ADDRESS all";
    long_lived(&LongLived { lab: BIRD, prepare: "true", show, stale: "(65535,6)" });
}

#[test]
fn frr_keeps_routes_beyond_the_restart_time_where_long_lived_restart_is_on() {
    let prepare = "vtysh -c 'configure terminal' -c 'router bgp 65010' -c 'bgp graceful-restart' \
                   -c 'bgp long-lived-graceful-restart stale-time 3600'";
    let show = "vtysh -c 'show bgp ipv4 unicast ADDRESS'";
    long_lived(&LongLived { lab: FRR, prepare, show, stale: "llgr-stale" });
}

/// What the tests above would see if routers did not keep the routes: without graceful restart the same crash takes them.
#[test]
fn without_graceful_restart_a_crash_takes_the_routes() {
    for lab in [FRR, BIRD] {
        let world = World::up(lab, &[("linger = \"10m\"", "linger = \"10m\"\ngraceful_restart = \"0s\"")]);
        let address = IpAddr::from(many_v4(5));
        let ask = || dns::ask(world.server(), "n5.many.test", dns::A, LONG).unwrap();
        assert_eq!(world.lab.node("client").in_namespace(ask).unwrap().addresses(), [address]);
        assert_eq!(world.routes.last(address, false), None);
        world.guard().kill();
        assert!(wait_until(LONG, || world.routes.last(address, false).is_some()), "{lab}: {}", world.lab.logs());
        let connects = || world.lab.node("client").in_namespace(|| tcp::connect(address, PORT, ANSWER)).unwrap();
        assert!(connects().is_err(), "{lab}: open although the route is gone");
    }
}
