//! What it costs guards to tell each other of their leases: octets on a session, CPU and memory of who tells and who hears.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::bench;
use crate::bench_dns::{cpu_seconds, resident};
use crate::dns::{self, Server};
use crate::lab::Lab;
use crate::node::Node;
use crate::wait::wait_until;

/// The number of leases that stand while the guards are measured.
const LEASES: u32 = 100_000;
/// New ones each second, and for how long.
const RATE: u32 = 1000;
const SECONDS: u32 = 20;
/// How long all may take to be told.
const PATIENCE: Duration = Duration::from_secs(180);
/// The first is asked. The fourth stands in the reflector's place, which has a link of its own.
const GUARDS: [&str; 4] = ["guard1", "guard2", "guard3", "reflector"];
const ADDRESSES: [&str; 4] = ["10.0.3.2", "10.0.5.2", "10.0.7.2", "10.0.8.2"];
const SERVER: &str = "10.0.3.2:53";
/// The others, and the first number of the names that each is asked for.
const OTHERS: [(&str, u32); 3] =
    [("10.0.5.2:53", 1000), ("10.0.7.2:53", 1000 + LEASES), ("10.0.8.2:53", 1000 + 2 * LEASES)];
/// Where the first one's session with the second ends.
const SECOND: &str = "10.0.5.2";

type Failure = Box<dyn std::error::Error>;

/// What the guards took so far.
struct Seen {
    cpu: Vec<f64>,
    memory: Vec<f64>,
    octets: u64,
    at: Instant,
}

/// Runs it with this destguard binary.
///
/// # Errors
/// When the lab does not come up, or leases don't arrive.
pub fn run(binary: &Path) -> Result<(), Failure> {
    let mut builder = Lab::builder("lab/three-guards/three-guards.clab.yml").destguard(binary);
    for guard in GUARDS {
        builder = builder.hold(guard);
    }
    let lab = builder.up()?;
    let dns = Server::start(lab.node("internet"), &["192.0.2.53:53".parse()?])?;
    dns.many_ttl(3600);
    let third = lab.node("guard3").file(bench::CONFIG)?;
    for (guard, own) in GUARDS.iter().zip(ADDRESSES) {
        let node = lab.node(guard);
        let text = if own == ADDRESSES[3] { fourth(&third) } else { node.file(bench::CONFIG)? };
        // As a pair of Linux gateways; routers have figures of their own.
        let (before, rest) = text.split_once("[[bgp.peer]]\nname = \"router\"").ok_or("no router in the file")?;
        let (_, after) = rest.split_once("\n[[bgp.peer]]").ok_or("no guard in the file")?;
        let text = format!("{before}[[bgp.peer]]{after}")
            .replace("\"1000/s\"", "\"1000000/s\"")
            .replace("[lease]", "[lease]\ncapacity = 1000000")
            .replace("max_routes = 10000", "max_routes = 1000000")
            .replace("[bgp]", "[nftables]\nmode = \"gateway\"\ninside = [\"eth1\"]\n\n[bgp]");
        if own == ADDRESSES[3] {
            node.write(FOURTH, &text)?;
        } else {
            node.write(bench::CONFIG, &format!("{text}{}", peer(3, own)))?;
            node.start()?;
        }
    }
    let node = lab.node("reflector");
    // The image has neither its place for state nor for the socket.
    node.ok("mkdir -p /var/lib/destguard /run/destguard")?;
    let mut fourth = Process(node.command(binary).args(["run", "--config", FOURTH]).stderr(Stdio::null()).spawn()?);
    let leases = |guard: &str| count(lab.node(guard), binary);
    let up = || count_peers(lab.node("guard1"), binary) == 3;
    if !wait_until(PATIENCE, up) {
        return Err(format!("no sessions ({:?} of the fourth)\n{}", fourth.0.try_wait(), lab.logs()).into());
    }
    let (client, server): (_, SocketAddr) = (lab.node("client"), SERVER.parse()?);
    let empty = seen(&lab, fourth.0.id())?;
    let filled = wait_until(PATIENCE, || {
        leases("guard1") >= LEASES
            || client.in_namespace(|| bench::load(server, LEASES)).is_ok_and(|loaded| loaded.is_err())
    });
    let own = empty.at.elapsed();
    let told = filled && GUARDS.iter().all(|guard| wait_until(PATIENCE, || leases(guard) >= LEASES));
    if !told {
        return Err(format!("leases: {:?}\n{}", GUARDS.map(leases), lab.logs()).into());
    }
    let full = seen(&lab, fourth.0.id())?;
    println!(
        "{LEASES} leases of one guard, told to three others: there after {:.1} s at the first, {:.1} s at all",
        own.as_secs_f64(),
        (full.at - empty.at).as_secs_f64()
    );
    println!("octets on a session: {:.1} a lease", (full.octets - empty.octets) as f64 / f64::from(leases("guard1")));
    println!("{:<10}{:>14}{:>14}{:>16}", "", "MiB before", "MiB after", "CPU seconds");
    for (at, guard) in GUARDS.iter().enumerate() {
        let of = |all: &[f64]| all.get(at).copied().unwrap_or(f64::NAN);
        println!(
            "{guard:<10}{:>14.1}{:>14.1}{:>16.2}",
            of(&empty.memory),
            of(&full.memory),
            of(&full.cpu) - of(&empty.cpu)
        );
    }
    let all = 4 * LEASES;
    for (server, first) in OTHERS {
        let server: SocketAddr = server.parse()?;
        let others = |count: u32| client.in_namespace(|| bench::load_of(server, dns::AAAA, first, count));
        let aim = leases("guard1") + LEASES;
        if !wait_until(PATIENCE, || others(LEASES).is_ok_and(|loaded| loaded.is_ok()) && leases("guard1") >= aim) {
            return Err(format!("leases: {:?}\n{}", GUARDS.map(leases), lab.logs()).into());
        }
    }
    if !GUARDS.iter().all(|guard| wait_until(PATIENCE, || leases(guard) >= all)) {
        return Err(format!("leases: {:?}\n{}", GUARDS.map(leases), lab.logs()).into());
    }
    let most = seen(&lab, fourth.0.id())?;
    println!("\nand {LEASES} of each of the others, IPv6: {all} at each");
    for (at, guard) in GUARDS.iter().enumerate() {
        println!("{guard:<10}{:>14.1} MiB", most.memory.get(at).copied().unwrap_or(f64::NAN));
    }
    let before = seen(&lab, fourth.0.id())?;
    let asked = client.in_namespace(|| ask_steadily(server))??;
    let reached = leases("guard1");
    if !wait_until(PATIENCE, || leases("guard3") >= reached) {
        return Err(format!("leases: {:?}", GUARDS.map(leases)).into());
    }
    let after = seen(&lab, fourth.0.id())?;
    let span = (after.at - before.at).as_secs_f64();
    println!(
        "\n{asked} new leases in {span:.1} s beside these: {:.0} octets/s on a session, {:.1} a lease",
        (after.octets - before.octets) as f64 / span,
        (after.octets - before.octets) as f64 / f64::from(asked)
    );
    for (at, guard) in GUARDS.iter().enumerate() {
        let of = |all: &[f64]| all.get(at).copied().unwrap_or(f64::NAN);
        println!("{guard:<10}{:>10.1} % of a core", (of(&after.cpu) - of(&before.cpu)) / span * 100.0);
    }
    drop(fourth);
    Ok(lab.down()?)
}

/// The fourth guard's file.
const FOURTH: &str = "/etc/bird/destguard.toml";

/// Ends with what holds it.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended already needs neither.
        drop(self.0.kill().and_then(|()| self.0.wait()));
    }
}

/// What a guard's file says of the one at this place in the list.
fn peer(place: usize, own: &str) -> String {
    let address = ADDRESSES.get(place).copied().unwrap_or_default();
    format!(
        "\n[[bgp.peer]]\nname = \"guard{}\"\nrole = \"guard\"\naddress = \"{address}\"\nlocal_address = \"{own}\"\nasn = 65020\n\
         password = \"between-guards\"\nttl_security = true\nmultihop = 2\nhold_time = \"9s\"\nmax_routes = 1000000\n",
        place + 1
    )
}

/// The file of the fourth guard, made of the third's.
fn fourth(third: &str) -> String {
    format!("{}{}", third.replace(ADDRESSES[2], ADDRESSES[3]), peer(2, ADDRESSES[3]))
}

fn seen(lab: &Lab, fourth: u32) -> Result<Seen, Failure> {
    let mut seen = Seen { cpu: Vec::new(), memory: Vec::new(), octets: 0, at: Instant::now() };
    for guard in GUARDS {
        let pid = lab.node(guard).pid("destguard").unwrap_or(fourth);
        seen.cpu.push(cpu_seconds(pid)?);
        seen.memory.push(resident(pid)?);
    }
    let sockets = lab.node("guard1").ok(&format!("ss -tinH dst {SECOND}"))?;
    let sent = sockets.split_whitespace().filter_map(|word| word.strip_prefix("bytes_sent:"));
    seen.octets = sent.filter_map(|count| count.parse::<u64>().ok()).sum();
    Ok(seen)
}

/// Leases that a guard holds.
fn count(guard: &Node, binary: &Path) -> u32 {
    let status = status(guard, binary);
    let of = |family: &str| status["leases"][family].as_u64().unwrap_or(0);
    u32::try_from(of("ipv4") + of("ipv6")).unwrap_or(u32::MAX)
}

fn count_peers(guard: &Node, binary: &Path) -> usize {
    let peers = status(guard, binary)["peers"].as_array().cloned().unwrap_or_default();
    peers.iter().filter(|peer| peer["state"] == "Established").count()
}

fn status(guard: &Node, binary: &Path) -> serde_json::Value {
    let output = guard.command(binary).args(["status", "--json"]).output();
    output.ok().and_then(|output| serde_json::from_slice(&output.stdout).ok()).unwrap_or_default()
}

/// Asks for new names at an even rate; how many were answered.
fn ask_steadily(server: SocketAddr) -> std::io::Result<u32> {
    let asker = dns::Asker::new(server)?;
    let begin = Instant::now();
    let mut answered = 0;
    for number in 0..RATE * SECONDS {
        let due = begin + Duration::from_secs(1) * number / RATE;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let name = format!("n{}.many.test", 2000 + 3 * LEASES + number);
        let answer = asker.ask(&name, dns::A, Duration::from_secs(2));
        answered += u32::from(answer.is_ok_and(|answer| !answer.addresses().is_empty()));
    }
    Ok(answered)
}
