//! Who lives behind the guard: a browser, programs that ask each time they connect, flows that stay open; and a few that try
//! what nobody opened.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::World;
use super::ask::{Told, resolve};
use super::ledger::{Attempt, Seen, Verdict};
use super::names::{Entry, Kind, PAGES, never};
use crate::dns::{A, AAAA, HTTPS};
use crate::{sys, tcp};

/// Where the far side listens.
pub const PORT: u16 = 80;
/// Between two page loads of one client.
const PAGE: Duration = Duration::from_secs(6);
/// Between two rounds of a program.
const PROGRAM: Duration = Duration::from_secs(1);
/// How long before its end an address is tried once more.
const LATE: Duration = Duration::from_millis(400);
/// For a connect that must succeed: three SYNs.
const PATIENCE: Duration = Duration::from_secs(5);
/// For one that must fail.
const BRIEF: Duration = Duration::from_millis(400);
/// For a flow's echo, on a machine that is busy.
const ECHO: Duration = Duration::from_secs(20);
const CONNECTORS: usize = 8;
/// Flows of one client.
const FLOWS: usize = 4;

/// A connect that is due.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Job {
    due: Instant,
    kind: &'static str,
    address: IpAddr,
    name: String,
}

/// What one client's programs are about to connect to.
#[derive(Default)]
struct Jobs {
    heap: Mutex<BinaryHeap<Reverse<Job>>>,
    more: Condvar,
}

impl Jobs {
    fn heap(&self) -> MutexGuard<'_, BinaryHeap<Reverse<Job>>> {
        self.heap.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, due: Instant, kind: &'static str, address: IpAddr, name: &str) {
        self.heap().push(Reverse(Job { due, kind, address, name: name.to_owned() }));
        self.more.notify_one();
    }

    /// The next one that is due; `None` at the end.
    fn next(&self, world: &World) -> Option<Job> {
        let mut heap = self.heap();
        while !world.ended() {
            let now = Instant::now();
            let wait = match heap.peek() {
                Some(Reverse(job)) if job.due <= now => return heap.pop().map(|Reverse(job)| job),
                Some(Reverse(job)) => job.due - now,
                None => PROGRAM,
            };
            // So that the end is noticed.
            let wait = wait.min(Duration::from_millis(200));
            heap = self.more.wait_timeout(heap, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
        None
    }
}

/// Lives until the world's end, in the calling thread's network.
///
/// # Errors
/// The first that ended a part of it, in words.
pub fn live(world: &World, client: usize) -> Result<(), String> {
    let jobs = Jobs::default();
    let jobs = &jobs;
    std::thread::scope(|scope| {
        for _ in 0..CONNECTORS {
            scope.spawn(|| {
                while let Some(job) = jobs.next(world) {
                    connect(world, client, jobs, &job);
                }
            });
        }
        let parts = [
            scope.spawn(move || pages(world, client, jobs)),
            scope.spawn(move || programs(world, client, jobs, Kind::Program(client), "program")),
            scope.spawn(move || programs(world, client, jobs, Kind::Rotating(client), "rotating")),
            scope.spawn(move || flows(world, client)),
            scope.spawn(move || strangers(world, client, jobs)),
        ];
        for part in parts {
            match part.join() {
                Ok(result) => result.map_err(|error| error.to_string())?,
                Err(_) => return Err("a part of it panicked".to_owned()),
            }
        }
        Ok(())
    })
}

/// Sleeps, but not beyond the end.
fn rest(world: &World, until: Instant) {
    while !world.ended() && Instant::now() < until {
        std::thread::sleep((until - Instant::now()).min(Duration::from_millis(100)));
    }
}

/// Twenty names at once, three types each; every second time the first page.
fn pages(world: &World, client: usize, jobs: &Jobs) -> std::io::Result<()> {
    for load in 0.. {
        let begun = Instant::now();
        let page = if load % 2 == 0 { 0 } else { 1 + load / 2 % (PAGES - 1) };
        let questions = world.names.of(Kind::Page(page)).flat_map(|entry| [A, AAAA, HTTPS].map(|rtype| (entry, rtype)));
        resolve(world, client, questions, |told| {
            follow(world, jobs, &told, "page");
            if world.dice(4) == 0 {
                // Looked at again once the lease is over, whenever that is.
                let address = pick(world, &told.addresses);
                jobs.push(told.seen + told.ttl, "ended", address, &told.entry.name);
            }
        })?;
        rest(world, begun + PAGE);
        if world.ended() {
            break;
        }
    }
    Ok(())
}

/// Asks the same names again and again, and connects each time.
fn programs(world: &World, client: usize, jobs: &Jobs, kind: Kind, what: &'static str) -> std::io::Result<()> {
    while !world.ended() {
        let begun = Instant::now();
        for entry in world.names.of(kind) {
            for rtype in [A, AAAA] {
                resolve(world, client, [(entry, rtype)], |told| {
                    follow(world, jobs, &told, what);
                    // An address that is kept is used some time within its TTL.
                    let within = told.ttl.saturating_sub(LATE);
                    let later = within.mul_f64(f64::from(world.dice(1000)) / 1000.0);
                    jobs.push(told.seen + later, "kept", pick(world, &told.addresses), &entry.name);
                })?;
            }
        }
        rest(world, begun + PROGRAM);
    }
    Ok(())
}

/// One connect at once, and sometimes one near the end of the TTL.
fn follow(world: &World, jobs: &Jobs, told: &Told<'_>, kind: &'static str) {
    jobs.push(told.seen, kind, pick(world, &told.addresses), &told.entry.name);
    if told.ttl > LATE && world.dice(4) == 0 {
        jobs.push(told.seen + told.ttl - LATE, "late", pick(world, &told.addresses), &told.entry.name);
    }
}

fn pick(world: &World, addresses: &[IpAddr]) -> IpAddr {
    let index = world.dice(addresses.len().max(1) as u32) as usize;
    addresses.get(index).copied().unwrap_or(IpAddr::from([0; 4]))
}

/// Tries what nobody asked for, and what another client was answered with.
fn strangers(world: &World, client: usize, jobs: &Jobs) -> std::io::Result<()> {
    for number in 0.. {
        let begun = Instant::now();
        for address in never(number) {
            jobs.push(begun, "never", address, "nobody's");
        }
        if world.site.place.terms().per_client {
            let others: Vec<&Entry> = world.names.of(Kind::Program(1 - client)).collect();
            let entry = others.get(number as usize % others.len().max(1));
            let address = entry.and_then(|entry| entry.addresses().nth(number as usize % 2));
            if let (Some(entry), Some(address)) = (entry, address) {
                jobs.push(begun, "other's", address, &entry.name);
            }
        }
        rest(world, begun + PROGRAM);
        if world.ended() {
            break;
        }
    }
    Ok(())
}

/// Opens flows and leaves them idle for longer than any lease; the kernel's filter never cuts them. Routers cut what isn't
/// asked for again, so there they lead to what is.
fn flows(world: &World, client: usize) -> std::io::Result<()> {
    let kind = if world.site.place.routes() { Kind::Program(client) } else { Kind::Flow(client) };
    let mut flows: Vec<(TcpStream, SocketAddr)> = Vec::new();
    for entry in world.names.of(kind) {
        for rtype in [A, AAAA] {
            let mut addresses = Vec::new();
            resolve(world, client, [(entry, rtype)], |told| addresses.extend(told.addresses))?;
            for address in addresses {
                let at = SocketAddr::new(address, PORT);
                if flows.len() < FLOWS
                    && let Ok(stream) = TcpStream::connect_timeout(&at, PATIENCE)
                {
                    flows.push((stream, at));
                }
            }
        }
    }
    world.counts().flows.0 += flows.len() as u64;
    // The last look is a little before the end.
    let idle = world.end.saturating_duration_since(Instant::now()).saturating_sub(Duration::from_secs(2)) / 3;
    for _ in 0..3 {
        let until = Instant::now() + idle;
        rest(world, until);
        flows.retain_mut(|(stream, at)| match tcp::ping(stream, b"still there", ECHO) {
            Ok(()) => true,
            Err(error) => {
                world.counts().flows.1 += 1;
                world.fault("flow", format!("of client {client} to {at} was cut: {error}"));
                false
            }
        });
    }
    Ok(())
}

/// Connects, and has it judged.
fn connect(world: &World, client: usize, jobs: &Jobs, job: &Job) {
    let (promised, closed) = {
        let ledger = world.ledger();
        (ledger.promised(client, job.address), ledger.closed_from(client, job.address))
    };
    let now = Instant::now();
    if job.kind == "ended" && closed.is_none_or(|closed| closed > now) {
        // Leased again meanwhile, or it can't be said now.
        let again = closed.map_or(now + PROGRAM, |closed| closed + Duration::from_millis(100));
        return jobs.push(again, job.kind, job.address, &job.name);
    }
    let limit = if promised.is_some_and(|promised| promised > now) { PATIENCE } else { BRIEF };
    let begun = Instant::now();
    let result = TcpStream::connect_timeout(&SocketAddr::new(job.address, PORT), limit);
    let ended = Instant::now();
    let said = result.as_ref().err().map(ToString::to_string);
    let seen = match &result {
        Ok(stream) => Seen::Connected { again: sys::sent_again(stream).is_ok_and(|count| count > 0) },
        Err(error) if error.kind() == std::io::ErrorKind::TimedOut => Seen::Silent,
        Err(error) => match error.raw_os_error() {
            Some(
                libc::ECONNREFUSED
                | libc::ECONNRESET
                | libc::EPERM
                | libc::EACCES
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH,
            ) => Seen::Refused,
            _ => {
                world.counts().trouble += 1;
                return world.fault("trouble", format!("{} {}: {error}", job.kind, job.address));
            }
        },
    };
    drop(result);
    let attempt = Attempt { client, address: job.address, promised, begun, ended, seen };
    let verdict = world.ledger().judge(&attempt);
    world.counts().connect(job.kind, verdict);
    let fault = match verdict {
        Verdict::WronglyRefused => "wrongly refused",
        Verdict::WronglyOpen => "wrongly open",
        Verdict::FirstLost => "first packet lost",
        Verdict::Open | Verdict::Closed | Verdict::Unjudged => return,
    };
    let since = |moment: Instant| match moment.checked_duration_since(begun) {
        Some(after) => format!("+{:.1} s", after.as_secs_f64()),
        None => format!("-{:.1} s", begun.duration_since(moment).as_secs_f64()),
    };
    let mut text = format!(
        "{} {} {} by client {client}, took {:.3} s{}; told until {}, closed from {}",
        job.kind,
        job.name,
        job.address,
        ended.duration_since(begun).as_secs_f64(),
        said.map(|said| format!(" ({said})")).unwrap_or_default(),
        promised.map_or_else(|| "never".to_owned(), since),
        world.ledger().closed_from(client, job.address).map_or_else(|| "unknown".to_owned(), since),
    );
    if world.first_few() {
        text.push('\n');
        text.push_str(&world.site.explain(job.address));
    }
    world.fault(fault, text);
}
