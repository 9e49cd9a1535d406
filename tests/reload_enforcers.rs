//! Routers that come, go and change by a reload, beside real ones and under questions: nothing else is touched, and no question is lost.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "reload_enforcers/refused.rs"]
mod refused;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use lab::dns::server::many_v4;
use lab::dns::{self, Asker, Server};
use lab::routes::Monitor;
use lab::tcp::{self, EchoServer};
use lab::{Lab, wait_until};
use serde_json::Value;

const GUARD: &str = env!("CARGO_BIN_EXE_destguard");
const CONFIG: &str = "/etc/destguard/destguard.toml";
const PORT: u16 = 80;
const FIRST_SYN: Duration = Duration::from_millis(300);
const ANSWER: Duration = Duration::from_secs(5);
const LONG: Duration = Duration::from_secs(60);
const BIRD: &str = "# BIRD, external.\n";
const FRR: &str = "# FRR, internal.\n";

struct World {
    lab: Lab,
    dns: Server,
    _echo: EchoServer,
    /// The configuration as the lab has it: both routers.
    whole: String,
}

impl World {
    /// The guard knows what `edit` leaves of the routers.
    fn up(edit: impl Fn(&str) -> String) -> Self {
        let builder = Lab::builder("lab/two-routers/two-routers.clab.yml").destguard(GUARD);
        let lab = builder.hold("frr").hold("bird").hold("guard").up().unwrap();
        let upstreams = ["192.0.2.53:53", "[2001:db8:53::53]:53"].map(|at| at.parse().unwrap());
        let dns = Server::start(lab.node("internet"), &upstreams).unwrap();
        let echo = EchoServer::start(lab.node("internet"), PORT).unwrap();
        let whole = lab.node("guard").file(CONFIG).unwrap();
        let world = Self { lab, dns, _echo: echo, whole };
        world.write(&edit(&world.whole));
        for node in ["frr", "bird", "guard"] {
            world.lab.node(node).start().unwrap();
        }
        world.until("the sessions", || world.established());
        world
    }

    fn write(&self, text: &str) {
        self.lab.node("guard").write(CONFIG, text).unwrap();
    }

    fn guard(&self, arguments: &[&str]) -> Value {
        let output = self.lab.node("guard").command(GUARD).args(arguments).arg("--json").output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
    }

    /// What is applied of this text; nothing waits for a restart.
    fn reload(&self, text: &str) -> Vec<String> {
        self.write(text);
        let reloaded = self.guard(&["reload"]);
        assert_eq!(reloaded["applied"], true, "{reloaded}\n{}", self.lab.logs());
        assert_eq!(reloaded["needs_restart"], serde_json::json!([]), "{reloaded}");
        reloaded["changes"].as_array().unwrap().iter().map(|change| change.as_str().unwrap().to_owned()).collect()
    }

    fn peers(&self) -> Vec<Value> {
        let output = self.lab.node("guard").command(GUARD).args(["peers", "--json"]).output().unwrap();
        let read: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        read["peers"].as_array().cloned().unwrap_or_default()
    }

    fn peer(&self, name: &str) -> Value {
        self.peers().into_iter().find(|peer| peer["name"] == name).unwrap_or_default()
    }

    fn established(&self) -> bool {
        let peers = self.peers();
        !peers.is_empty() && peers.iter().all(|peer| peer["state"] == "Established")
    }

    fn until(&self, what: &str, met: impl FnMut() -> bool) {
        assert!(wait_until(LONG, met), "not in time: {what}\n{}", self.lab.logs());
    }

    fn ask(&self, number: u32) -> Vec<IpAddr> {
        let server: SocketAddr = "10.0.3.2:53".parse().unwrap();
        let ask = || dns::ask(server, &format!("n{number}.many.test"), dns::A, ANSWER);
        self.lab.node("client").in_namespace(ask).unwrap().unwrap().addresses()
    }

    /// Whether it is open behind FRR (`client`) or BIRD (`client2`).
    fn connects(&self, client: &str, number: u32) -> bool {
        let connect = || tcp::connect(IpAddr::from(many_v4(number)), PORT, FIRST_SYN);
        self.lab.node(client).in_namespace(connect).unwrap().is_ok()
    }

    /// Does something while a client asks for a new name every few milliseconds: each is answered.
    fn under_questions(&self, first: u32, act: impl FnOnce()) {
        let (stop, asked) = (AtomicBool::new(false), AtomicU32::new(0));
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        std::thread::scope(|scope| {
            let (stop, asked) = (&stop, &asked);
            let asker = scope.spawn(move || {
                let ask = || {
                    let asker = Asker::new("10.0.3.2:53".parse().unwrap()).unwrap();
                    let mut lost = Vec::new();
                    while !stop.load(Ordering::SeqCst) {
                        let number = first + asked.fetch_add(1, Ordering::SeqCst);
                        match asker.ask(&format!("n{number}.many.test"), dns::A, ANSWER) {
                            Ok(answer) if answer.addresses() == [IpAddr::from(many_v4(number))] => {}
                            other => lost.push((number, other.map(|answer| answer.message))),
                        }
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    lost
                };
                self.lab.node("client").in_namespace(ask).unwrap()
            });
            let stopping = Stop(stop);
            act();
            let begun = asked.load(Ordering::SeqCst);
            self.until("more questions", || asked.load(Ordering::SeqCst) > begun + 20);
            drop(stopping);
            let lost = asker.join().unwrap();
            assert!(
                lost.is_empty(),
                "{} of {}: {:?}\n{}",
                lost.len(),
                asked.load(Ordering::SeqCst),
                lost.first(),
                self.lab.logs()
            );
        });
    }
}

/// Host routes that a router took out of its kernel.
fn withdrawn(monitor: &Monitor) -> Vec<IpAddr> {
    let gone = monitor.changes().into_iter().filter(|change| !change.added && change.unicast && change.length == 32);
    gone.map(|change| change.destination).collect()
}

fn without(text: &str, head: &str) -> String {
    let (before, rest) = text.split_once(head).unwrap();
    let peer = rest.find("[[bgp.peer]]").unwrap() + "[[bgp.peer]]".len();
    let end =
        ["\n# BIRD, external", "\n[addresses]"].iter().filter_map(|next| rest[peer..].find(next)).min().unwrap() + peer;
    format!("{before}{}", &rest[end + 1..])
}

#[test]
fn a_router_is_added_changed_and_removed_and_the_other_notices_nothing() {
    let world = World::up(|whole| without(whole, BIRD));
    let frr_routes = Monitor::start(world.lab.node("frr")).unwrap();
    let whole = world.whole.clone();
    for number in 1..20 {
        assert_eq!(world.ask(number), [IpAddr::from(many_v4(number))]);
    }
    assert!(world.connects("client", 1) && !world.connects("client2", 1));

    // Added: answers go on while its session comes up, and then wait for it too.
    world.under_questions(1000, || {
        let changes = world.reload(&whole);
        assert!(changes.iter().any(|change| change.contains("bgp.peer[1].name")), "{changes:?}");
        world.until("the new session", || world.established());
        world.until("the table at the new router", || world.connects("client2", 1));
        world.until("confirmations", || !world.peer("bird")["confirm_latency_ms"].is_null());
    });
    for number in 30..40 {
        assert_eq!(world.ask(number), [IpAddr::from(many_v4(number))]);
        assert!(world.connects("client", number) && world.connects("client2", number), "{}", world.lab.logs());
    }
    let bird_routes = Monitor::start(world.lab.node("bird")).unwrap();

    // What every route bears is announced again, in place of what the routers have.
    let shown = || {
        let show = format!("vtysh -c 'show bgp ipv4 unicast {}'", many_v4(1));
        world.lab.node("frr").ok(&show).unwrap()
    };
    assert!(shown().contains("65020:100"), "{}", shown());
    let marked = whole.replace("\"65020:100\"", "\"65020:200\", \"65020:300\"");
    world.under_questions(2000, || {
        world.reload(&marked);
        world.until("other communities", || {
            let shown = shown();
            shown.contains("65020:200") && shown.contains("65020:300") && !shown.contains("65020:100")
        });
    });

    // Changed: its session begins anew, the other's goes on.
    let before = world.peer("frr");
    let changed = marked.replacen(
        "asn = 65010\nlocal_address = \"10.0.5.2\"",
        "asn = 65010\nsend_hold_time = \"9m\"\nlocal_address = \"10.0.5.2\"",
        1,
    );
    assert_ne!(changed, marked);
    world.under_questions(3000, || {
        world.reload(&changed);
        world.until("the session again", || world.established());
        world.until("confirmations", || !world.peer("bird")["confirm_latency_ms"].is_null());
    });
    assert!(world.connects("client2", 1));
    // What needs no new session gets none.
    let sessions = |name: &str| world.peer(name)["since_seconds"].as_u64().unwrap();
    let since = (sessions("frr"), sessions("bird"));
    let limits =
        changed.replace("max_routes = 10000", "max_routes = 9000").replace("linger = \"10m\"", "linger = \"9m\"");
    world.reload(&limits);
    assert!(sessions("frr") >= since.0 && sessions("bird") >= since.1);
    assert_eq!(world.peer("bird")["max_routes"], 9000);
    let after = world.peer("frr");
    assert_eq!(after["sessions"], before["sessions"]);
    assert_eq!(withdrawn(&frr_routes), Vec::<IpAddr>::new());
    assert_eq!(withdrawn(&bird_routes), Vec::<IpAddr>::new(), "kept by graceful restart, and announced in place");

    // Removed: it is told why, and nobody waits for it.
    world.under_questions(4000, || {
        world.reload(&without(&limits, FRR));
    });
    let told = world.lab.node("frr").ok("vtysh -c 'show bgp neighbors 10.0.3.2'").unwrap();
    assert!(told.contains("Peer Unconfigured") || told.contains("Peer De-configured"), "{told}");
    world.until("it drops the routes", || !world.connects("client", 1));
    assert!(world.connects("client2", 1));
    assert_eq!(world.peers().len(), 1);

    // And taken back.
    world.under_questions(5000, || {
        let undone = world.guard(&["undo"]);
        assert_eq!(undone["applied"], true, "{undone}");
        world.until("the session again", || world.established() && world.peers().len() == 2);
        world.until("its routes", || world.connects("client", 1));
    });
    assert_eq!(withdrawn(&bird_routes), Vec::<IpAddr>::new());
}

const BIRD_CONF: &str = "/etc/bird/bird.conf";

/// What FRR knows of an address.
fn known(world: &World, address: IpAddr) -> String {
    world.lab.node("frr").ok(&format!("vtysh -c 'show bgp ipv4 unicast {address}'")).unwrap()
}

fn listens(world: &World, port: u16) -> bool {
    let sockets = world.lab.node("guard").ok("ss -Hltn").unwrap();
    sockets.lines().any(|line| line.split_whitespace().nth(3).is_some_and(|at| at.ends_with(&format!(":{port}"))))
}

/// Nobody's session begins anew, and no route but those of `gone` is taken out, by what is about neither.
#[test]
fn linger_listeners_and_communities_of_groups_change_under_live_sessions() {
    let short = |whole: &str| whole.replace("[lease]\n", "[lease]\nmin = \"2s\"\ngrace = \"1s\"\n");
    let world = World::up(short);
    let base = short(&world.whole);
    let (brief, held) = (IpAddr::from([203, 0, 113, 80]), IpAddr::from([203, 0, 113, 81]));
    world.dns.set_addresses("brief.test", 1, &[brief]);
    world.dns.set_addresses("held.test", 3600, &[held]);
    let ask = |node: &str, server: &str, name: &str| {
        let server: SocketAddr = server.parse().unwrap();
        let ask = || dns::ask(server, name, dns::A, ANSWER);
        world.lab.node(node).in_namespace(ask).unwrap().unwrap().addresses()
    };
    let open = |client: &str, address: IpAddr| {
        let connect = || tcp::connect(address, PORT, FIRST_SYN);
        world.lab.node(client).in_namespace(connect).unwrap().is_ok()
    };
    assert_eq!(ask("client", "10.0.3.2:53", "held.test"), [held]);
    assert_eq!(ask("client2", "10.0.5.2:53", "brief.test"), [brief]);
    let monitors = ["frr", "bird"].map(|router| Monitor::start(world.lab.node(router)).unwrap());
    let gone = || monitors.each_ref().map(withdrawn);
    let begun = ["frr", "bird"].map(|name| world.peer(name)["sessions"].clone());

    // What lingers follows a shorter linger, and nothing else does.
    let lingers = || world.guard(&["leases", &brief.to_string()])["leases"][0]["state"] == "lingering";
    world.until("the lease's end", lingers);
    assert!(open("client", brief) && open("client2", brief), "it lingers for ten minutes");
    let sooner = base.replace("linger = \"10m\"", "linger = \"1s\"");
    assert_eq!(world.reload(&sooner), ["bgp.linger: \"10m\" -> \"1s\""]);
    world.until("its withdrawal", || !open("client", brief) && !open("client2", brief));
    assert!(open("client", held) && open("client2", held));
    // And a longer one.
    let longer = base.replace("linger = \"10m\"", "linger = \"20m\"");
    world.reload(&longer);
    assert_eq!(ask("client", "10.0.3.2:53", "brief.test"), [brief]);
    world.until("the lease's end", lingers);
    let left = world.guard(&["leases", &brief.to_string()])["leases"][0]["ends_in_seconds"].as_u64().unwrap();
    assert!(left > 15 * 60, "{left}");
    assert_eq!(gone(), [[brief], [brief]], "by the shorter linger alone");

    // Listeners come and go; established sessions have none to lose.
    let at = |list: &str| longer.replace("[bgp]\n", &format!("[bgp]\nlisten = [{list}]\n"));
    for (list, ports) in [
        ("\"10.0.3.2:179\"", [true, false]),
        ("\"10.0.3.2:179\", \"[fd00:3::2]:1790\"", [true, true]),
        ("\"10.0.5.2:1790\"", [false, true]),
        ("", [false, false]),
    ] {
        world.reload(&at(list));
        assert_eq!([179, 1790].map(|port| listens(&world, port)), ports, "{list}");
    }
    world.reload(&longer);

    // A group comes, gets another community, and goes: what its clients asked for is announced again, in place.
    let group = |community: &str| {
        format!(
            "{longer}\n[[policy.group]]\nname = \"red\"\nclients = [\"10.0.1.0/24\"]\ncommunities = [\"{community}\"]\n"
        )
    };
    assert!(!known(&world, held).contains("65020:7"), "{}", known(&world, held));
    world.reload(&group("65020:7"));
    assert_eq!(ask("client", "10.0.3.2:53", "held.test"), [held]);
    world.until("the group's community", || known(&world, held).contains("65020:7"));
    world.reload(&group("65020:8"));
    world.until("another", || {
        let known = known(&world, held);
        known.contains("65020:8") && !known.contains("65020:7")
    });
    assert!(!known(&world, brief).contains("65020:8") || ask("client", "10.0.3.2:53", "brief.test") == [brief]);
    world.reload(&longer);
    world.until("none", || {
        let known = known(&world, held);
        known.contains("65020:100") && !known.contains("65020:8")
    });
    assert!(open("client", held) && open("client2", held));
    assert_eq!(gone(), [[brief], [brief]]);
    assert_eq!(["frr", "bird"].map(|name| world.peer(name)["sessions"].clone()), begun, "no session began anew");
}

/// BFD is turned on, set otherwise and turned off on a router that has it. BIRD may take that for a failure, see docs/routers.md; the other router and
/// the clients that ask notice nothing.
#[test]
fn bfd_comes_changes_and_goes_and_no_question_is_lost() {
    let world = World::up(str::to_owned);
    let bird = world.lab.node("bird");
    let conf = bird.file(BIRD_CONF).unwrap();
    let with_bfd = conf
        .replace(
            "protocol bgp guard",
            "protocol bfd { interface \"*\" { interval 200 ms; multiplier 3; }; }\nprotocol bgp guard",
        )
        .replace("error wait time 0, 0;", "error wait time 1, 2; connect delay time 1;\n  bfd graceful;");
    bird.write(BIRD_CONF, &with_bfd).unwrap();
    bird.ok("birdc configure").unwrap();
    world.until("the sessions", || {
        world.established() && bird.ok("birdc show protocols guard").unwrap().contains("Established")
    });
    for number in 1..10 {
        assert_eq!(world.ask(number), [IpAddr::from(many_v4(number))]);
    }
    let frr_routes = Monitor::start(world.lab.node("frr")).unwrap();
    let frr = world.peer("frr")["sessions"].clone();
    let edit = |more: &str| {
        world.whole.replace(
            "asn = 65010\nlocal_address = \"10.0.5.2\"",
            &format!("asn = 65010\n{more}local_address = \"10.0.5.2\""),
        )
    };
    let up = |detection: u64| {
        let peer = world.peer("bird");
        peer["state"] == "Established"
            && peer["bfd"]["state"] == "Up"
            && peer["bfd"]["remote_state"] == "Up"
            && peer["bfd"]["detection_ms"] == detection
            && bird.ok("birdc show bfd sessions").unwrap().contains(" Up ")
    };
    world.under_questions(1000, || {
        world.reload(&edit("bfd = true\nbfd_interval = \"200ms\"\n"));
        world.until("BFD", || up(600));
    });
    world.under_questions(2000, || {
        world.reload(&edit("bfd = true\nbfd_interval = \"500ms\"\n"));
        world.until("a slower BFD", || up(1500));
    });
    world.under_questions(3000, || {
        world.reload(&world.whole);
        world.until("no BFD", || world.peer("bird")["bfd"].is_null() && world.established());
        world.until("BIRD's session", || bird.ok("birdc show protocols guard").unwrap().contains("Established"));
    });
    assert!(world.connects("client", 1), "{}", world.lab.logs());
    world.until("all routes", || world.connects("client2", 1));
    assert_eq!(withdrawn(&frr_routes), Vec::<IpAddr>::new(), "{}", world.lab.logs());
    assert_eq!(world.peer("frr")["sessions"], frr, "the other router notices nothing");
}

/// A client that asks for a new address right after a restart gets it open at every router, or an error; never one that is closed somewhere.
#[test]
fn after_a_restart_a_new_address_is_open_at_every_router_when_it_is_answered() {
    let world = World::up(str::to_owned);
    assert_eq!(world.ask(1), [IpAddr::from(many_v4(1))]);
    let guard = world.lab.node("guard");
    for first in [100, 200, 300] {
        guard.stop();
        guard.start().unwrap();
        let begun = std::time::Instant::now();
        let mut number = first;
        world.until("a new address", || {
            number += 1;
            let (server, name): (SocketAddr, _) = ("10.0.3.2:53".parse().unwrap(), format!("n{number}.many.test"));
            let ask = || dns::ask(server, &name, dns::A, ANSWER);
            let Ok(answer) = world.lab.node("client").in_namespace(ask).unwrap() else { return false };
            let given = answer.addresses();
            assert!(given == [IpAddr::from(many_v4(number))] || (given.is_empty() && answer.rcode() == 2), "{given:?}");
            !given.is_empty()
        });
        println!("a new address {:?} after the start", begun.elapsed());
        assert!(world.connects("client", number) && world.connects("client2", number), "{}", world.lab.logs());
    }
}
