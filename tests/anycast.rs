//! Two guards at one address, on FRR and on BIRD: a client asks all the time, while one guard is killed, frozen, cut off from its upstreams, stopped and
//! started again. What is lost was asked before the router knew; whoever left comes back alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lab::dns::{self, Server};
use lab::{Lab, Node, wait_until};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_destguard");
const LONG: Duration = Duration::from_secs(60);
/// Less than the hold time of 90 s: what happens by then is BFD's doing.
const SOON: Duration = Duration::from_secs(30);
/// What a busy machine needs for an answer that isn't lost.
const ANSWER: Duration = Duration::from_secs(10);
const GUARDS: [&str; 2] = ["guard1", "guard2"];
const UPSTREAMS: [&str; 2] = ["192.0.2.53:53", "[2001:db8:53::53]:53"];

/// A question, and what became of it.
#[derive(Clone, Debug)]
struct Asked {
    at: Instant,
    outcome: Result<(), String>,
}

/// Asks again and again, whatever becomes of it.
struct Asking {
    asked: Arc<Mutex<Vec<Asked>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Asking {
    fn start(client: &Node, server: SocketAddr, rtype: u16) -> Self {
        let (asked, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        // Each question is for a name that nobody has asked for, so that it takes all that a guard has.
        let next = Arc::new(AtomicU32::new(if rtype == dns::A { 1 } else { 50_000 }));
        let threads = (0..3).map(|_| {
            let (asked, stop, next) = (Arc::clone(&asked), Arc::clone(&stop), Arc::clone(&next));
            let ask = move || {
                while !stop.load(Ordering::Relaxed) {
                    let name = format!("n{}.many.test", next.fetch_add(1, Ordering::Relaxed));
                    let at = Instant::now();
                    let outcome = match dns::ask(server, &name, rtype, ANSWER) {
                        Ok(answer) if answer.addresses().len() == 1 => Ok(()),
                        Ok(answer) => Err(format!("rcode {}", answer.rcode())),
                        Err(error) => Err(error.to_string()),
                    };
                    asked.lock().unwrap().push(Asked { at, outcome });
                    std::thread::sleep(Duration::from_millis(100));
                }
            };
            // A thread is in the namespace of the one that starts it.
            client.in_namespace(|| std::thread::spawn(ask)).unwrap()
        });
        let threads = threads.collect();
        Self { asked, stop, threads }
    }

    /// Those without the answer that they should have had, once all have had their time.
    fn lost(mut self) -> (usize, Vec<Asked>) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
        let asked = self.asked.lock().unwrap().clone();
        (asked.len(), asked.into_iter().filter(|asked| asked.outcome.is_err()).collect())
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Where a session's file for a router comes from.
fn generated(kind: &str, config: &Path, peer: &str) -> String {
    let output = Command::new(BINARY).args(["router-config", kind, "--peer", peer, "--config"]).arg(config).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (entry, target) = entry.map(|entry| (entry.path(), to.join(entry.file_name()))).unwrap();
        if entry.is_dir() {
            copy(&entry, &target);
        } else {
            std::fs::copy(&entry, &target).unwrap();
        }
    }
}

struct World {
    ipv6: bool,
    _dns: Server,
    lab: Lab,
    _dir: tempfile::TempDir,
}

impl World {
    fn up(kind: &str, ipv6: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // The router's daemons run as a user of their own.
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let labs = Path::new(env!("CARGO_MANIFEST_DIR")).join("lab");
        copy(&labs.join("anycast"), dir.path());
        let topology = dir.path().join("anycast.clab.yml");
        let sessions = |kind: &str| -> String {
            let of = |guard: &str| dir.path().join(guard).join("destguard.toml");
            let each = GUARDS.map(|guard| {
                ["router-service", "router-service6"].map(|peer| generated(kind, &of(guard), peer)).concat()
            });
            each.concat()
        };
        if kind == "frr" {
            let shipped = std::fs::read_to_string(dir.path().join("router/frr.conf")).unwrap();
            let without = |text: &str| text.lines().filter(|line| *line != "!").collect::<Vec<_>>().join("\n");
            assert!(without(&shipped).ends_with(&without(&sessions("frr"))), "the lab's file is not what is printed");
        } else {
            let text = std::fs::read_to_string(&topology).unwrap();
            let text = text.replace("destguard-lab/frr:8", "destguard-lab/bird:2");
            let text = text.replace("        - router/frr.conf:/etc/frr/frr.conf\n", "");
            let text = text.replace("- router/daemons:/etc/frr/daemons", "- router/bird.conf:/etc/bird/bird.conf");
            std::fs::write(&topology, text).unwrap();
            let own = std::fs::read_to_string(labs.join("bird/router/bird.conf")).unwrap();
            let guard = own.find("protocol bgp guard {").unwrap();
            let second =
                own[guard..].replace("protocol bgp guard", "protocol bgp second").replace("10.0.3.", "10.0.5.");
            // As its first line says, BIRD has one for all.
            let bfd = "protocol bfd destguard_bfd { }\n";
            let sessions = sessions("bird").replace(bfd, "");
            std::fs::write(dir.path().join("router/bird.conf"), format!("{own}{second}{bfd}{sessions}")).unwrap();
        }
        for guard in GUARDS {
            let config = dir.path().join(guard).join("destguard.toml");
            let text = std::fs::read_to_string(&config).unwrap();
            std::fs::write(&config, text.replace("[bgp.service]\n", "[bgp.service]\nup_after = \"1s\"\n")).unwrap();
        }
        let lab = Lab::builder(&topology).destguard(BINARY).hold("guard1").hold("guard2").up().unwrap();
        let dns = Server::start(lab.node("internet"), &UPSTREAMS.map(|at| at.parse().unwrap())).unwrap();
        let world = Self { ipv6, _dns: dns, lab, _dir: dir };
        GUARDS.iter().for_each(|guard| world.lab.node(guard).start().unwrap());
        GUARDS.iter().for_each(|guard| world.is_announced_by(guard));
        world
    }

    fn address(&self) -> IpAddr {
        if self.ipv6 { "fd00:53::53" } else { "10.53.0.53" }.parse().unwrap()
    }

    fn status(&self, guard: &str) -> Value {
        let output = self.lab.node(guard).command(BINARY).args(["status", "--json"]).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    fn explain(&self) -> String {
        let routes = self.lab.node("router").run("ip route; ip -6 route").unwrap();
        format!("{}\n{}", String::from_utf8_lossy(&routes.stdout), self.lab.logs())
    }

    /// Where the router sends what is for the service address.
    fn next_hops(&self) -> String {
        self.lab
            .node("router")
            .ok(&format!("ip route show {}; ip -6 route show {}", "10.53.0.53", "fd00:53::53"))
            .unwrap()
    }

    fn leads_to(&self, guard: &str) -> bool {
        let link = if guard == "guard1" { 3 } else { 5 };
        let hop = if self.ipv6 { format!("via fd00:{link}::3") } else { format!("via 10.0.{link}.3") };
        self.next_hops().contains(&hop)
    }

    fn is_announced_by(&self, guard: &str) {
        let announced = || {
            let status = self.status(guard);
            status["service"]["announced"] == true && status["state"] == "enforcing"
        };
        assert!(wait_until(LONG, announced), "{guard}: {}\n{}", self.status(guard), self.explain());
    }

    /// The guard that has the client's questions.
    fn serving(&self) -> (&'static str, &'static str) {
        let from = if self.ipv6 { "fd00:1::2" } else { "10.0.1.2" };
        // What a guard says it announces may not have reached the router's kernel yet.
        let way = || self.lab.node("router").ok(&format!("ip route get {} from {from} iif eth1", self.address()));
        let mut serving = None;
        let found = wait_until(LONG, || {
            let way = way().unwrap_or_default();
            let eth3 = way.contains("eth3").then_some(("guard1", "guard2"));
            serving = eth3.or_else(|| way.contains("eth4").then_some(("guard2", "guard1")));
            serving.is_some()
        });
        assert!(found, "nobody is asked: {:?}\n{}", way(), self.explain());
        serving.unwrap()
    }

    fn ask(&self) -> Asking {
        let rtype = if self.ipv6 { dns::AAAA } else { dns::A };
        let asking = Asking::start(self.lab.node("client"), SocketAddr::new(self.address(), 53), rtype);
        let some = || asking.asked.lock().unwrap().iter().filter(|asked| asked.outcome.is_ok()).count() > 5;
        assert!(wait_until(LONG, some), "{:?}\n{}", asking.asked.lock().unwrap(), self.explain());
        asking
    }

    /// A guard leaves by `how`; nothing that is asked once the router knows is lost.
    fn leaves(&self, what: &str, how: impl Fn(&Node)) -> (&'static str, Vec<Asked>) {
        let (guard, _) = self.serving();
        let asking = self.ask();
        how(self.lab.node(guard));
        let began = Instant::now();
        let gone = || !self.leads_to(guard);
        let left = wait_until(SOON, gone);
        // When this is known, it has been so.
        let known = Instant::now();
        assert!(left, "{what}: the router still leads to {guard}: {}", self.explain());
        let enough = || {
            let asked = asking.asked.lock().unwrap();
            asked.iter().filter(|asked| asked.at > known).count() > 20
        };
        assert!(wait_until(LONG, enough), "{what}: {}", self.explain());
        let (all, lost) = asking.lost();
        let late: Vec<_> = lost.iter().filter(|asked| asked.at > known).collect();
        assert!(
            late.is_empty(),
            "{what}: {} of {all} lost, of these after it left: {late:?}\n{}",
            lost.len(),
            self.explain()
        );
        println!("{what}: gone after {:?}, {} of {all} questions lost", known - began, lost.len());
        (guard, lost)
    }

    /// Comes back without anybody's doing, and no question is lost by that.
    fn comes_back(&self, guard: &str) {
        let asking = self.ask();
        self.is_announced_by(guard);
        assert!(wait_until(LONG, || self.leads_to(guard) || self.bird_prefers_another()), "{}", self.explain());
        let (all, lost) = asking.lost();
        assert!(lost.is_empty(), "{} of {all} lost while {guard} came back: {lost:?}\n{}", lost.len(), self.explain());
    }

    /// BIRD has one way at a time: another guard's goes on.
    fn bird_prefers_another(&self) -> bool {
        self.lab.node("router").pid("bird").is_some()
    }
}

fn clients_lose_what_was_in_flight(kind: &str, ipv6: bool) {
    let world = World::up(kind, ipv6);
    let signal = |signal| move |guard: &Node| guard.signal("destguard", signal).unwrap();

    let (guard, _) = world.leaves("killed", |guard| guard.kill());
    world.lab.node(guard).start().unwrap();
    world.comes_back(guard);

    let (guard, _) = world.leaves("frozen", signal(libc::SIGSTOP));
    world.lab.node(guard).signal("destguard", libc::SIGCONT).unwrap();
    world.comes_back(guard);

    let cut = "nft add table inet cut && nft add chain inet cut out '{ type filter hook output priority 0; }' \
               && nft add rule inet cut out ip daddr 192.0.2.53 drop && nft add rule inet cut out ip6 daddr 2001:db8:53::53 drop";
    let (guard, _) = world.leaves("without upstreams", |guard| drop(guard.ok(cut).unwrap()));
    let status = world.status(guard);
    assert_eq!(status["service"]["announced"], false, "{status}");
    assert!(status["service"]["reason"].as_str().unwrap().contains("upstream"), "{status}");
    let warned = status["warnings"].to_string().contains("the service addresses are not announced");
    assert!(warned, "{status}");
    world.lab.node(guard).ok("nft delete table inet cut").unwrap();
    world.comes_back(guard);

    let (guard, lost) = world.leaves("stopped", Node::stop);
    assert!(lost.is_empty(), "a guard that stops answers what it was asked: {lost:?}\n{}", world.explain());
    world.lab.node(guard).start().unwrap();
    world.comes_back(guard);
}

#[test]
fn on_frr() {
    clients_lose_what_was_in_flight("frr", false);
}

#[test]
fn on_bird() {
    clients_lose_what_was_in_flight("bird", false);
}

#[test]
fn on_frr_over_ipv6() {
    clients_lose_what_was_in_flight("frr", true);
}
