//! Faults at scale: the guard is killed, stopped, starved and lied to while clients ask, and an observer outside looks at what is so.
//!
//! ```text
//!   upstream (its mood) --> guard --answers--> clients --a probe to each answered address--> the far side
//!                             |                   |
//!                   kernel's sets, router      ledger: what was promised, what may be open
//!                             '---- looks --------'
//! ```
//!
//! - [`fault`]: the faults, [`reset`] those of a session; [`world`]: a gateway with nftables, or a guard beside BIRD or FRR, and who watches it.
//! - [`clients`]: stubs that ask, and ask again; [`upstream`]: whom the guard asks; [`probe`]: whether an address is open.
//! - [`ledger`]: the promises and their judgement; [`table`]: the counts.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::clients::{CLIENTS, Client};
use self::fault::{ALL, Fault};
use self::table::Row;
use self::world::{LONG, Place, World};
use crate::dns::Server;
use crate::wait::wait_until;

pub mod clients;
pub mod fault;
pub mod ledger;
pub mod probe;
pub mod reset;
pub mod table;
pub mod upstream;
pub mod world;

/// Errors cross threads.
pub type AnyError = Box<dyn std::error::Error + Send + Sync>;

const UPSTREAMS: [&str; 2] = ["192.0.2.53:53", "[2001:db8:53::53]:53"];
/// Names that are asked for once; each has an address of its own.
pub const FRESH: Range<usize> = 1_000..120_000;
/// Names that are asked for again and again.
pub const REPEATED: usize = 100;

/// What is run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The guard's program.
    pub binary: PathBuf,
    /// Questions a second, at each place.
    pub rate: u32,
    /// SIGKILLs, of which nftables and BIRD have half each; FRR a tenth more.
    pub kills: u32,
    /// SIGSTOPs at each place.
    pub stops: u32,
    /// How long each lasts.
    pub stop: Duration,
    /// How often every other fault is made.
    pub times: u32,
    /// How often the session is reset in each state.
    pub resets: u32,
    /// How long those last that last.
    pub brief: Duration,
    /// How long a router reads nothing.
    pub window: Duration,
    /// Longest between two kills, beside the recovery.
    pub gap: Duration,
    /// How long a stub asks again before it gives up.
    pub patience: Duration,
    /// How long the echo of a probe may take.
    pub echo: Duration,
    /// How much later than its end an address may be open.
    pub slack: Duration,
    /// All places at once.
    pub together: bool,
    /// Only faults whose name begins so; empty: all.
    pub only: Vec<String>,
}

impl Plan {
    /// All of it: the better part of an hour on an idle machine.
    #[must_use]
    pub fn whole(binary: &Path) -> Self {
        Self {
            binary: binary.to_owned(),
            rate: 500,
            kills: 1000,
            stops: 2,
            stop: Duration::from_secs(60),
            times: 10,
            resets: 5,
            brief: Duration::from_secs(5),
            window: Duration::from_secs(15),
            gap: Duration::from_millis(600),
            patience: Duration::from_secs(5),
            echo: Duration::from_secs(5),
            slack: Duration::from_secs(3),
            together: false,
            only: Vec::new(),
        }
    }

    /// Some of each, for a machine that is busy.
    #[must_use]
    pub fn quick(binary: &Path) -> Self {
        Self {
            rate: 100,
            kills: 25,
            stops: 1,
            stop: Duration::from_secs(3),
            times: 2,
            resets: 1,
            brief: Duration::from_secs(2),
            window: Duration::from_secs(3),
            patience: Duration::from_secs(30),
            echo: Duration::from_secs(30),
            slack: Duration::from_secs(20),
            together: true,
            ..Self::whole(binary)
        }
    }
}

/// What was seen, by fault and place.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The table of all rows, as it is printed.
    pub rows: Vec<Row>,
}

impl Outcome {
    /// The table of all rows, to be looked into.
    pub fn print(&self) {
        Row::print_head();
        self.rows.iter().for_each(Row::print);
    }

    /// What must not be; empty when all is well.
    #[must_use]
    pub fn wrong(&self) -> Vec<String> {
        self.rows.iter().flat_map(Row::wrong).collect()
    }
}

/// Makes every fault of the plan at every place.
///
/// # Errors
/// When a place can't be brought up, or the guard there ends by itself or doesn't recover.
pub fn run(plan: &Plan) -> Result<Outcome, AnyError> {
    let mut rows = Vec::new();
    if plan.together {
        std::thread::scope(|scope| -> Result<(), AnyError> {
            let places = [Place::Nftables, Place::Bird, Place::Frr].map(|place| scope.spawn(move || at(place, plan)));
            for place in places {
                rows.extend(place.join().unwrap_or_else(|_| Err("a place panicked".into()))?);
            }
            Ok(())
        })?;
    } else {
        for place in [Place::Nftables, Place::Bird, Place::Frr] {
            rows.extend(at(place, plan)?);
        }
    }
    Ok(Outcome { rows })
}

/// Ends the threads of a scope however it is left.
struct EndAtLast<'a>(&'a World);

impl Drop for EndAtLast<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

fn at(place: Place, plan: &Plan) -> Result<Vec<Row>, AnyError> {
    let wanted = |fault: &Fault| plan.only.is_empty() || plan.only.iter().any(|only| fault.name().starts_with(only));
    let faults: Vec<Fault> = ALL.into_iter().filter(|fault| fault.fits(place) && wanted(fault)).collect();
    if faults.is_empty() {
        return Ok(Vec::new());
    }
    let world = World::up(place, plan)?;
    let internet = world.lab.node("internet");
    let upstreams = UPSTREAMS.iter().map(|at| at.parse()).collect::<Result<Vec<_>, _>>()?;
    let server = Server::start(internet, &upstreams)?;
    let moody = world.moody.clone();
    server.script(move |question| upstream::reply(&moody, question));
    let far = probe::far_side(internet)?;
    let client = || Client::new(world.lab.node("client"), world.server());
    let clients = (0..CLIENTS).map(|_| client()).collect::<Result<Vec<_>, _>>()?;
    let pending = || clients.iter().flat_map(Client::pending).collect::<Vec<_>>();
    let (world, clients) = (&world, &clients);
    std::thread::scope(|scope| {
        let ended = EndAtLast(world);
        for socket in &far {
            scope.spawn(|| probe::echo(socket, world.stop()));
        }
        for six in [false, true] {
            scope.spawn(move || world.prober.receive(six, world.stop(), |probe| world.heard(&probe)));
        }
        if faults.contains(&Fault::Clock) {
            world.own_clocks()?;
        }
        world.start()?;
        world.hold()?;
        for client in clients {
            scope.spawn(|| client.receive(world));
        }
        scope.spawn(|| clients::ask_at_rate(world, clients, plan.rate));
        scope.spawn(|| clients::ask_again(world, clients));
        scope.spawn(|| world.judge_probes());
        scope.spawn(|| world.look());
        let make_all = || -> Result<(), AnyError> {
            for fault in faults {
                world.begin_row(fault.name());
                for _ in 0..fault.times(world) {
                    fault.make(world)?;
                    world.count(world.row(), |row| row.times += 1);
                }
                world.looked()?;
            }
            Ok(())
        };
        if let Err(error) = make_all() {
            world.count(world.row(), |row| row.broken = Some(error.to_string()));
            return Ok(world.rows());
        }
        world.end_questions();
        // Every question has its reply or is lost, every probe its echo or is judged, and what is leased for long stays alone.
        wait_until(LONG, || pending().is_empty() && world.prober.waiting() < 2);
        let held = upstream::HELD as usize;
        if !wait_until(LONG, || world.open().is_some_and(|open| open.len() == held)) {
            let open = world.open().map_or(0, |open| open.len());
            world.count(world.row(), |row| row.open_too_long += 1);
            world.tell(world.row(), format!("{open} addresses are open in the end, {held} are leased"));
        }
        world.looked()?;
        drop(ended);
        Ok(world.rows())
    })
}
