//! Connects at once after each of thousands of answers: is the route there, or is the first SYN lost?

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::{ANSWER, CAPACITY, CONFIG, PLACES, Place, answering};
use crate::dns::Server;
use crate::dns::server::{many_v4, many_v6};
use crate::dns::{self, Asker};
use crate::lab::Lab;
use crate::tcp::{self, EchoServer};

/// Names for each router and family.
const NAMES: u32 = 10_000;
/// So often one is asked for.
const EACH: Duration = Duration::from_millis(1);
/// Clients that ask and connect at the same time: as many as wait for a router that takes a quarter of a second.
const CLIENTS: usize = 256;
const PORT: u16 = 80;
/// Less than the second after which Linux sends a lost SYN again: whoever connects in this time lost none.
const FIRST_SYN: Duration = Duration::from_millis(700);

#[derive(Default)]
struct Seen {
    /// Each answer that came in time, by how long it took.
    answers: Vec<Duration>,
    /// Refused, or not answered.
    refused: u32,
    /// First SYNs that were lost.
    lost: u32,
}

/// Prints a row for each router and family.
///
/// # Errors
/// A lab does not come up, or a first SYN was lost.
pub fn run(binary: &Path) -> Result<(), Box<dyn std::error::Error>> {
    println!(
        "{NAMES} names for each row, one every {} ms, each with an address of its own; {CLIENTS} clients connect at once",
        EACH.as_millis()
    );
    println!("{:<20}{:>10}{:>10}{:>12}{:>12}{:>12}", "", "answered", "refused", "p50 ms", "p99 ms", "SYNs lost");
    let mut lost = 0;
    for place in PLACES.iter().filter(|place| place.what.starts_with("BGP")) {
        let (lab, _dns) = roomy(place, binary)?;
        let _echo = EchoServer::start(lab.node("internet"), PORT)?;
        for (family, rtype, first) in [("IPv4", dns::A, 0), ("IPv6", dns::AAAA, NAMES)] {
            let server = place.server.parse()?;
            let mut seen = lab.node("client").in_namespace(|| all(server, rtype, first))?;
            seen.answers.sort_unstable();
            let at = |part: usize| {
                seen.answers.get(seen.answers.len() * part / 100).map_or(0.0, |took| took.as_secs_f64() * 1e3)
            };
            let what = format!("{} {family}", place.what);
            let answered = seen.answers.len();
            println!("{what:<20}{answered:>10}{:>10}{:>12.1}{:>12.1}{:>12}", seen.refused, at(50), at(99), seen.lost);
            lost += seen.lost;
        }
        lab.down()?;
    }
    if lost > 0 { Err(format!("{lost} first SYNs were lost").into()) } else { Ok(()) }
}

/// The lab with room for all of it: one domain and one client may have at most half of what a router takes.
fn roomy(place: &Place, binary: &Path) -> Result<(Lab, Server), Box<dyn std::error::Error>> {
    let lab = Lab::builder(place.file).destguard(binary).hold(place.guard).hold("router").up()?;
    let router = lab.node("router");
    for path in ["/etc/frr/frr.conf", "/etc/bird/bird.conf"] {
        if let Ok(text) = router.file(path) {
            router.write(path, &text.replace("20000", "200000"))?;
        }
    }
    router.start()?;
    let guard = lab.node(place.guard);
    let text = guard.file(CONFIG)?.replace("\"1000/s\"", "\"1000000/s\"");
    let text = text.replace("max_routes = 10000", "max_routes = 100000");
    guard.write(CONFIG, &text.replace("[lease]", &format!("[lease]\ncapacity = {CAPACITY}")))?;
    answering(lab, place)
}

/// All of them, from the calling thread's network.
fn all(server: SocketAddr, rtype: u16, first: u32) -> Seen {
    let (next, begun) = (AtomicU32::new(0), Instant::now());
    std::thread::scope(|scope| {
        let clients: Vec<_> =
            (0..CLIENTS).map(|_| scope.spawn(|| client(server, rtype, first, &next, begun))).collect();
        clients.into_iter().filter_map(|client| client.join().ok()).fold(Seen::default(), |mut all, seen| {
            all.answers.extend(seen.answers);
            Seen { refused: all.refused + seen.refused, lost: all.lost + seen.lost, ..all }
        })
    })
}

fn client(server: SocketAddr, rtype: u16, first: u32, next: &AtomicU32, begun: Instant) -> Seen {
    let mut seen = Seen::default();
    let Ok(asker) = Asker::new(server) else { return seen };
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= NAMES {
            return seen;
        }
        std::thread::sleep((begun + EACH * number).saturating_duration_since(Instant::now()));
        let address: IpAddr =
            if rtype == dns::A { many_v4(first + number).into() } else { many_v6(first + number).into() };
        let answer = asker.ask(&format!("n{}.many.test", first + number), rtype, ANSWER);
        match answer {
            Ok(answer) if answer.addresses() == [address] => {
                seen.lost += u32::from(tcp::connect(address, PORT, FIRST_SYN).is_err());
                seen.answers.push(answer.took());
            }
            _ => seen.refused += 1,
        }
    }
}
