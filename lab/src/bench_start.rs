//! How long a guard with many leases takes to begin again: from the start of its process to the first answer with an address that was not
//! leased before. A reply without an address ends the run: it says something else than how long a start takes.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::bench;
use crate::dns;
use crate::node::Node;
use crate::wait::{wait_for, wait_until};

/// Leases that it has to take over.
const LEASES: u32 = 100_000;
/// Starts of each kind, unless another number is asked for.
pub const STARTS: u32 = 5;
/// Starts that are killed in their middle, before one that is measured.
const INTERRUPTED: u32 = 3;
/// They are killed at moments spread over so many milliseconds: a whole start takes about as long.
const SPREAD: u32 = 600;
/// How long the leases may take to be there, and a start.
const PATIENCE: Duration = Duration::from_secs(120);
/// One question's patience: a lost one is asked again.
const AGAIN: Duration = Duration::from_millis(50);

/// How the guard ended before: what it is called, what is done to the kernel, and how many starts are killed in their middle then.
const ENDS: [(&str, Option<&str>, u32); 4] = [
    ("killed (SIGKILL)", None, 0),
    ("killed, and killed again while it started", None, INTERRUPTED),
    ("killed, and the kernel has forgotten all", Some(FORGET), 0),
    ("the same, and killed while it wrote all", Some(FORGET), INTERRUPTED),
];
const FORGET: &str = "nft flush ruleset";

/// Runs it with this destguard binary.
///
/// # Errors
/// When the lab does not come up, or the guard does not answer.
pub fn run(binary: &Path, starts: u32) -> Result<(), Box<dyn std::error::Error>> {
    let [place, ..] = &bench::PLACES;
    // One domain holds all of them: it may have no more than half of what would be left.
    let (lab, dns) = bench::up(place, binary, LEASES * 4)?;
    dns.many_ttl(3600);
    let (guard, client, server) = (lab.node(place.guard), lab.node("client"), place.server.parse()?);
    let held = || elements(guard);
    let filled = wait_until(PATIENCE, || {
        let loaded = client.in_namespace(|| bench::load(server, LEASES));
        loaded.is_ok_and(|loaded| loaded.is_ok()) && held() >= LEASES
    });
    if !filled {
        return Err(format!("there are {} leases after {} s", held(), PATIENCE.as_secs()).into());
    }
    println!("From the start of the process to the first new answer, {} leases, seconds", held());
    println!("{:<44}{:>8}{:>8}{:>8}", "before", "least", "median", "most");
    let mut fresh = 0;
    for (what, forgets, interrupted) in ENDS {
        let mut took = Vec::new();
        for number in 0..starts {
            guard.kill();
            if let Some(line) = forgets {
                guard.ok(line)?;
            }
            for again in 0..interrupted {
                let mut process = guard.spawn(binary, &["run", "--config", bench::CONFIG])?;
                let moment = (number * interrupted + again) * SPREAD / (starts * interrupted);
                std::thread::sleep(Duration::from_millis(moment.into()));
                process.kill();
            }
            fresh += 1;
            took.push(start(guard, client, server, &format!("n{}.many.test", 1000 + LEASES + fresh))?.as_secs_f64());
        }
        took.sort_unstable_by(f64::total_cmp);
        let at = |place: usize| took.get(place).copied().unwrap_or_default();
        println!("{what:<44}{:>8.2}{:>8.2}{:>8.2}", at(0), at(took.len() / 2), at(took.len().saturating_sub(1)));
    }
    Ok(lab.down()?)
}

/// How many addresses the kernel holds.
fn elements(guard: &Node) -> u32 {
    let count = guard.ok("nft list set inet destguard lease4 | grep -o expires | wc -l");
    count.ok().and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

fn start(guard: &Node, client: &Node, server: SocketAddr, name: &str) -> Result<Duration, Box<dyn std::error::Error>> {
    let begin = Instant::now();
    let asked = || {
        let answer = dns::ask(server, name, dns::A, AGAIN).ok()?;
        Some((answer.addresses().is_empty().then(|| format!("{answer:?}")), begin.elapsed()))
    };
    let (started, answered) = std::thread::scope(|scope| {
        let asker = scope.spawn(|| client.in_namespace(|| wait_for(PATIENCE, asked)));
        (guard.start(), asker.join())
    });
    started?;
    let answered = answered.map_err(|_| "the asking thread failed")??;
    match answered {
        Some((None, took)) => Ok(took),
        Some((Some(answer), took)) => Err(format!("after {took:?}, {name}: {answer}").into()),
        None => Err(format!("no answer for {name}").into()),
    }
}
