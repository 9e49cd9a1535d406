//! The part of the guard that announces routes, alone: what the core tells it comes from standard input. Measured by `lab/bench-bgp`.
//!
//! ```text
//! announcer destguard.toml
//! fill 1000000 4       announce that many IPv4 host routes (6: IPv6), then say "filled"
//! open 198.18.0.1      announce this address
//! ```
//!
//! Ends with its input.

use std::io::BufRead;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use destguard::core::event::{Change, EnforcerId, Event, Generation};
use destguard::core::moment::Moment;
use destguard::enforce::bgp::BgpEnforcer;
use destguard::enforce::{COMMANDS, Command};
use destguard::sys::clock::Clock;
use tokio::sync::mpsc;

type Failure = Box<dyn std::error::Error>;

/// Changes in one plan while the table is filled.
const PLAN: u32 = 10_000;

fn main() -> Result<(), Failure> {
    let Some(file) = std::env::args().nth(1) else { return Err("usage: announcer destguard.toml".into()) };
    let text = std::fs::read_to_string(&file)?;
    let (config, ..) = destguard::check::parse(Path::new(&file), &text).map_err(|report| format!("{report:?}"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let enforcer = BgpEnforcer::new(&config, EnforcerId(0), false)?.ok_or("there is no peer in the configuration")?;
    let running = runtime.block_on(enforcer.start(Clock::start(), Arc::new(|_| false)))?;
    let (commands, receiver) = mpsc::channel(COMMANDS);
    let (reports, mut events) = mpsc::channel::<Event>(COMMANDS);
    runtime.spawn(async move { while events.recv().await.is_some() {} });
    let status = running.status();
    let speaker = runtime.spawn(running.run(receiver, reports));

    let mut generation = 0;
    let mut apply = |changes: Vec<Change>| {
        generation += 1;
        commands.blocking_send(Command::Apply { generation: Generation(generation), changes })
    };
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["fill", count, family] => {
                let count: u32 = count.parse()?;
                for begin in (0..count).step_by(usize::try_from(PLAN)?) {
                    let plan = begin..count.min(begin + PLAN);
                    apply(plan.map(|number| open(host(number, *family == "6"))).collect())?;
                }
                while status.routes().iter().sum::<usize>() < usize::try_from(count)? {
                    std::thread::sleep(Duration::from_millis(1));
                }
                println!("filled");
            }
            ["open", address] => apply(vec![open(address.parse()?)])?,
            _ => return Err(format!("not understood: {line}").into()),
        }
    }
    drop(commands);
    runtime.block_on(speaker)?;
    Ok(())
}

fn open(address: IpAddr) -> Change {
    // A route has no end of its own.
    Change::Open { address, ends: Moment(0) }
}

/// Scattered as answers are: below 10.0.0.0/8 or 2001:db8::/96.
fn host(number: u32, ipv6: bool) -> IpAddr {
    let scattered = number.wrapping_mul(2_654_435_761);
    if ipv6 {
        IpAddr::V6(Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(scattered)))
    } else {
        IpAddr::V4(Ipv4Addr::from(0x0a00_0000 | scattered & 0x00ff_ffff))
    }
}
