//! What the guard costs: how much later a fresh answer is, and how many questions one core serves. Prints; judges nothing.

use std::collections::HashSet;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::dns::message::{Edns, Message, Question, RECURSION_DESIRED};
use crate::dns::{self, Asker, Server};
use crate::error::Error;
use crate::lab::Lab;
use crate::node::Node;
use crate::wait::wait_until;

pub(crate) const CONFIG: &str = "/etc/destguard/destguard.toml";
const UPSTREAM: &str = "192.0.2.53:53";
const ANSWER: Duration = Duration::from_secs(5);
/// Fresh names asked one after another.
const FRESH: u32 = 200;
/// Leases that there is room for.
const CAPACITY: u32 = 200_000;
/// How long each load runs.
const LOAD: Duration = Duration::from_secs(4);
/// Questions in flight under load.
const WINDOW: usize = 64;
/// proc(5) counts CPU time in these.
const TICKS_PER_SECOND: f64 = 100.0;

pub mod backends;
pub mod first_syns;

/// A lab that is measured.
pub(crate) struct Place {
    what: &'static str,
    file: &'static str,
    pub(crate) guard: &'static str,
    pub(crate) server: &'static str,
}

pub(crate) const PLACES: [Place; 3] = [
    Place { what: "nftables", file: "lab/gateway/gateway.clab.yml", guard: "gateway", server: "10.0.1.1:53" },
    Place { what: "BGP to BIRD", file: "lab/bird/bird.clab.yml", guard: "guard", server: "10.0.3.2:53" },
    Place { what: "BGP to FRR", file: "lab/frr/frr.clab.yml", guard: "guard", server: "10.0.3.2:53" },
];

/// Runs all measurements with this destguard binary.
///
/// # Errors
/// When a lab does not come up or the guard does not answer.
pub fn run(binary: &Path) -> Result<(), Box<dyn std::error::Error>> {
    println!("Fresh answers, one after another ({FRESH} names; added = median through the guard - median without)");
    println!("{:<14}{:>12}{:>12}{:>12}{:>12}", "", "p50 ms", "p99 ms", "max ms", "added ms");
    for place in &PLACES {
        let (lab, _dns) = up(place, binary, CAPACITY)?;
        let direct = latencies(lab.node(place.guard), UPSTREAM.parse()?, 1_000_000)?;
        let mut guarded = latencies(lab.node("client"), place.server.parse()?, 0)?;
        let added = (middle(&guarded).as_secs_f64() - middle(&direct).as_secs_f64()) * 1e3;
        guarded.sort_unstable();
        let at = |part: usize| guarded.get(guarded.len() * part / 100).or(guarded.last()).map_or(0.0, millis);
        println!("{:<14}{:>12.2}{:>12.2}{:>12.2}{added:>12.2}", place.what, at(50), at(99), at(100));
        lab.down()?;
    }

    println!("\nThroughput over UDP, nftables, the guard on one core, {WINDOW} questions in flight");
    println!("{:<14}{:>12}{:>14}{:>12}{:>12}", "", "answers/s", "us CPU/answer", "refused", "lost");
    let [place, ..] = &PLACES;
    let (lab, _dns) = up(place, binary, CAPACITY)?;
    let guard = lab.node(place.guard);
    let pid = guard.pid("destguard").ok_or("the guard is not running")?;
    guard.ok(&format!("taskset -a -p -c 0 {pid}"))?;
    let server = place.server.parse()?;
    for (what, distinct) in [("cached", 100), ("uncached", u32::MAX)] {
        let before = cpu_seconds(pid)?;
        let load = lab.node("client").in_namespace(|| load(server, distinct))??;
        let used = cpu_seconds(pid)? - before;
        println!(
            "{what:<14}{:>12.0}{:>14.1}{:>12}{:>12}",
            f64::from(load.answered) / load.took.as_secs_f64(),
            used * 1e6 / f64::from(load.answered.max(1)),
            load.refused,
            load.lost,
        );
    }
    Ok(lab.down()?)
}

/// Brings a place up, with room for `capacity` leases.
pub(crate) fn up(place: &Place, binary: &Path, capacity: u32) -> Result<(Lab, Server), Box<dyn std::error::Error>> {
    let lab = Lab::builder(place.file).destguard(binary).hold(place.guard).up()?;
    let guard = lab.node(place.guard);
    let text = guard
        .file(CONFIG)?
        .replace("\"1000/s\"", "\"1000000/s\"")
        .replace("[lease]", &format!("[lease]\ncapacity = {capacity}"));
    guard.write(CONFIG, &text)?;
    answering(lab, place)
}

/// Starts the far side's names and the guard, and waits until it answers.
fn answering(lab: Lab, place: &Place) -> Result<(Lab, Server), Box<dyn std::error::Error>> {
    let dns = Server::start(lab.node("internet"), &[UPSTREAM.parse()?])?;
    lab.node(place.guard).start()?;
    // Until answers flow: a peer's session may not be up yet.
    let server: SocketAddr = place.server.parse()?;
    let answers = || {
        let answer = lab.node("client").in_namespace(|| dns::ask(server, "n99999.many.test", dns::A, ANSWER));
        answer.is_ok_and(|answer| answer.is_ok_and(|answer| !answer.addresses().is_empty()))
    };
    if !wait_until(Duration::from_secs(30), answers) {
        return Err(format!("{}: the guard does not answer\n{}", place.what, lab.logs()).into());
    }
    Ok((lab, dns))
}

/// How long each of [`FRESH`] questions took. Names from `first` on, so that none is cached.
fn latencies(from: &Node, server: SocketAddr, first: u32) -> Result<Vec<Duration>, Error> {
    let all: io::Result<Vec<Duration>> = from.in_namespace(|| {
        let asker = Asker::new(server)?;
        (first..first + FRESH)
            .map(|n| asker.ask(&format!("n{n}.many.test"), dns::A, ANSWER).map(|a| a.took()))
            .collect()
    })?;
    all.map_err(Error::system(format!("questions to {server}")))
}

fn middle(all: &[Duration]) -> Duration {
    let mut sorted = all.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

fn millis(duration: &Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[derive(Default)]
pub(crate) struct Load {
    answered: u32,
    refused: u32,
    lost: u32,
    took: Duration,
}

/// Keeps [`WINDOW`] questions in flight; names `n1000` on, coming round after `distinct` of them.
pub(crate) fn load(server: SocketAddr, distinct: u32) -> io::Result<Load> {
    load_of(server, dns::A, 1000, distinct)
}

/// Likewise with names from `first` on, and of another type.
pub(crate) fn load_of(server: SocketAddr, rtype: u16, first: u32, distinct: u32) -> io::Result<Load> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut room = vec![0; 4096];
    let mut waiting: HashSet<u16> = HashSet::with_capacity(WINDOW);
    let mut load = Load::default();
    let mut next: u32 = 0;
    let begin = Instant::now();
    while begin.elapsed() < LOAD {
        while waiting.len() < WINDOW {
            let id = next as u16;
            let query = Message {
                id,
                flags: RECURSION_DESIRED,
                questions: vec![Question { name: format!("n{}.many.test", first + next % distinct), rtype, class: 1 }],
                edns: Some(Edns { size: 1232, dnssec_ok: false, options: Vec::new() }),
                ..Message::default()
            };
            socket.send(&query.encode())?;
            waiting.insert(id);
            next = next.wrapping_add(1);
        }
        match socket.recv(&mut room) {
            Ok(length) => {
                let Some(&[high, low, _, flags]) = room.get(..length).and_then(|octets| octets.first_chunk()) else {
                    continue;
                };
                if waiting.remove(&u16::from_be_bytes([high, low])) {
                    if flags & 0x0f == dns::NOERROR {
                        load.answered += 1;
                    } else {
                        load.refused += 1;
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                load.lost += waiting.len() as u32;
                waiting.clear();
            }
            Err(error) => return Err(error),
        }
    }
    load.took = begin.elapsed();
    Ok(load)
}

/// User and system time of a process so far (fields 14 and 15 of proc(5) stat).
fn cpu_seconds(pid: u32) -> io::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(')').map(|(_, after)| after).unwrap_or_default();
    let ticks: f64 = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    Ok(ticks / TICKS_PER_SECOND)
}
