//! The part of the guard that enforces on a host, alone: what the core tells it comes from standard input. Measured by `lab/bench backends`.
//!
//! ```text
//! enforcer nftables 198.18.0.0 100000 /sys/fs/cgroup/some/group
//! put 100 50           open the next 100 addresses, 50 times over, each time until they are in force: microseconds, median and 99th percentile
//! connect 80 2000      connect so often to addresses that are open, on this port: likewise
//! ```
//!
//! The words are a backend (`none`: nobody enforces), the first address, the room for leases, and the control group for eBPF. It ends with its input,
//! and leaves nothing behind.

use std::io::BufRead;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use destguard::config::schema::{Nftables, NftablesMode};
use destguard::core::event::{Change, EnforcerId, Event, Generation};
use destguard::enforce::backend::Stop;
use destguard::enforce::packet_filters;
use destguard::enforce::rules::{Own, Rules, Special};
use destguard::enforce::{COMMANDS, Command};
use destguard::sys::clock::Clock;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::mpsc;

type Failure = Box<dyn std::error::Error>;

/// How long a lease lasts: beyond what is measured.
const LEASE: Duration = Duration::from_secs(3600);
const CONNECTED: Duration = Duration::from_secs(10);

fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [name, first, capacity, cgroup] = words.as_slice() else {
        return Err("usage: enforcer BACKEND FIRST-ADDRESS CAPACITY CGROUP".into());
    };
    let first: Ipv4Addr = first.parse()?;
    if name == "none" {
        return obey(first, None);
    }
    let rules = Rules {
        ports: false,
        config: Nftables { mode: NftablesMode::Local, ..Nftables::default() },
        open: Vec::new(),
        own: Own::default(),
        capacity: capacity.parse()?,
        special: Special { cgroup: cgroup.into(), ..Special::default() },
    };
    let clock = Clock::start();
    let make = packet_filters::named(name).ok_or("this program has no such backend")?.make;
    let mut enforcer = make(&rules, clock, EnforcerId(0))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(enforcer.install())?;
    let control = enforcer.control();
    let (commands, receiver) = mpsc::channel(COMMANDS);
    let (reports, events) = mpsc::channel::<Event>(COMMANDS);
    let running = runtime.spawn(enforcer.run(receiver, reports));
    let mut told = Told { clock, commands, events, generation: 0 };
    told.all(|generation| Command::Sync { generation, leases: Vec::new(), pairs: Vec::new() })?;
    told.commands.blocking_send(Command::Restored)?;
    let done = obey(first, Some(&mut told));
    control.stop(Stop::Withdraw)?;
    drop(told);
    runtime.block_on(running)?;
    done
}

/// The enforcer's two ends.
struct Told {
    clock: Clock,
    commands: mpsc::Sender<Command>,
    events: mpsc::Receiver<Event>,
    generation: u64,
}

impl Told {
    /// Tells it, and waits until it is in force.
    fn all(&mut self, command: impl FnOnce(Generation) -> Command) -> Result<(), Failure> {
        self.generation += 1;
        self.commands.blocking_send(command(Generation(self.generation)))?;
        loop {
            match self.events.blocking_recv().ok_or("the enforcer has ended")? {
                Event::Applied { generation: Generation(applied), .. } if applied >= self.generation => return Ok(()),
                Event::Lost { reason, .. } | Event::Refused { reason, .. } => return Err(reason.into()),
                _ => {}
            }
        }
    }

    fn open(&mut self, addresses: impl Iterator<Item = IpAddr>) -> Result<(), Failure> {
        let ends = self.clock.now().plus(LEASE);
        let changes = addresses.map(|address| Change::Open { address, ends }).collect();
        self.all(|generation| Command::Apply { generation, changes })
    }
}

fn obey(first: Ipv4Addr, mut told: Option<&mut Told>) -> Result<(), Failure> {
    let address = |number: u32| IpAddr::from(Ipv4Addr::from(u32::from(first).wrapping_add(number)));
    let mut open: u32 = 0;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let mut took = Vec::new();
        match line.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["put", size, times] => {
                let (size, times): (u32, u32) = (size.parse()?, times.parse()?);
                for _ in 0..times {
                    let begun = Instant::now();
                    if let Some(told) = &mut told {
                        told.open((open..open + size).map(address))?;
                    }
                    took.push(begun.elapsed());
                    open += size;
                }
            }
            ["connect", port, times] => {
                for number in 0..times.parse()? {
                    // All over them.
                    let to = address(2_654_435_761_u32.wrapping_mul(number) % open.max(1));
                    took.push(connect(SocketAddr::new(to, port.parse()?))?);
                }
            }
            _ => return Err(format!("not understood: {line}").into()),
        }
        took.sort_unstable();
        let at = |part: usize| took.get(took.len() * part / 100).map_or(0.0, |took| took.as_secs_f64() * 1e6);
        println!("{:.1} {:.1}", at(50), at(99));
    }
    Ok(())
}

/// How long connect(2) took.
fn connect(to: SocketAddr) -> Result<Duration, Failure> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    // No place is kept for what was closed: ports would run out.
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_write_timeout(Some(CONNECTED))?;
    let begun = Instant::now();
    socket.connect(&to.into())?;
    Ok(begun.elapsed())
}
