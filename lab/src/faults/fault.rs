//! The faults, and how each is made.

use std::time::{Duration, Instant};

use super::AnyError;
use super::reset::{self, State};
use super::upstream::Mood;
use super::world::{LONG, Place, STATE, World};
use crate::wait::wait_until;

/// `bgp.peer.hold_time` of the labs.
const HOLD_TIME: Duration = Duration::from_secs(9);

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL at a random instant, and started again at once.
    Kill,
    /// SIGSTOP, and SIGCONT.
    Stop,
    /// The upstream changes its mood for a while.
    Upstream(Mood),
    /// The router's daemon is killed and started again.
    Router,
    /// The session's connection is reset, again and again.
    Reset,
    /// It is reset whenever it is in this state.
    ResetIn(State),
    /// The router's daemon is stopped: it reads nothing, and its window closes.
    Window,
    /// No room on the disk of `state.dir`; the guard is killed meanwhile.
    Full,
    /// The disk of `state.dir` is unmounted for a while.
    Gone,
    /// No file can be opened, no connection taken (EMFILE).
    Files,
    /// Somebody else changes routes and tables so fast that who listens misses some (ENOBUFS).
    Netlink,
    /// The wall clock is set an hour ahead, a day back, and right again.
    Clock,
}

/// All, in the table's order.
pub const ALL: [Fault; 18] = [
    Fault::Kill,
    Fault::Stop,
    Fault::Upstream(Mood::Slow),
    Fault::Upstream(Mood::Silent),
    Fault::Upstream(Mood::Lying),
    Fault::Upstream(Mood::Flooding),
    Fault::Full,
    Fault::Gone,
    Fault::Files,
    Fault::Netlink,
    Fault::Clock,
    Fault::Router,
    Fault::Reset,
    Fault::ResetIn(State::Connect),
    Fault::ResetIn(State::OpenSent),
    Fault::ResetIn(State::OpenConfirm),
    Fault::ResetIn(State::Established),
    Fault::Window,
];

impl Fault {
    /// As in the table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill -9",
            Self::Stop => "SIGSTOP",
            Self::Upstream(Mood::Good) => "upstream good",
            Self::Upstream(Mood::Slow) => "upstream slow",
            Self::Upstream(Mood::Silent) => "upstream silent",
            Self::Upstream(Mood::Lying) => "upstream lying",
            Self::Upstream(Mood::Flooding) => "upstream flooding",
            Self::Router => "router restarted",
            Self::Reset => "peer reset",
            Self::ResetIn(State::Connect) => "reset in Connect",
            Self::ResetIn(State::OpenSent) => "reset in OpenSent",
            Self::ResetIn(State::OpenConfirm) => "reset in OpenConfirm",
            Self::ResetIn(State::Established) => "reset in Established",
            Self::Window => "zero window",
            Self::Full => "disk full",
            Self::Gone => "disk gone",
            Self::Files => "EMFILE",
            Self::Netlink => "ENOBUFS",
            Self::Clock => "clock steps",
        }
    }

    /// Whether it can be made there, and is worth to be.
    #[must_use]
    pub fn fits(self, place: Place) -> bool {
        match self {
            Self::Kill => true,
            Self::Stop => place != Place::Frr,
            // FRR's daemons start for seconds, and its routes outlive a SIGKILL.
            Self::Router => place == Place::Bird,
            Self::Reset | Self::ResetIn(_) | Self::Window => place != Place::Nftables,
            Self::Upstream(_) | Self::Full | Self::Gone | Self::Files | Self::Netlink | Self::Clock => {
                place == Place::Nftables
            }
        }
    }

    /// How often, by the plan.
    #[must_use]
    pub fn times(self, world: &World) -> u32 {
        let plan = &world.plan;
        match self {
            // nftables and BIRD share them; FRR gets a tenth more.
            Self::Kill if world.place == Place::Nftables => plan.kills.div_ceil(2),
            Self::Kill if world.place == Place::Frr => plan.kills.div_ceil(10),
            Self::Kill => plan.kills / 2,
            Self::Stop => plan.stops,
            Self::ResetIn(_) => plan.resets,
            _ => plan.times,
        }
    }

    /// Makes it once, and waits until the guard has recovered.
    ///
    /// # Errors
    /// When it can't be made, when the guard ends by it or doesn't recover.
    pub fn make(self, world: &World) -> Result<(), AnyError> {
        let brief = world.plan.brief;
        match self {
            Self::Kill => kill(world)?,
            Self::Stop => stop(world)?,
            Self::Upstream(mood) => lasting(world, brief, |begins| {
                world.moody.set(if begins { mood } else { Mood::Good });
                Ok(())
            })?,
            Self::Router => restart_router(world)?,
            Self::Reset => reset::at_random(world)?,
            Self::ResetIn(state) => reset::in_state(world, state)?,
            Self::Window => {
                excuse_beyond_hold_time(world, world.plan.window);
                lasting(world, world.plan.window, |begins| {
                    let signal = if begins { libc::SIGSTOP } else { libc::SIGCONT };
                    if begins {
                        world.ledger().down(Instant::now());
                    }
                    Ok(world.lab.node("router").signal(world.place.daemon(), signal)?)
                })?;
                whole(world)?;
            }
            Self::Full => full(world)?,
            Self::Gone => lasting(world, brief, |begins| {
                let line =
                    if begins { format!("umount -l {STATE}") } else { format!("mount --bind /run/disk {STATE}") };
                world.node().ok(&line).map(drop).map_err(Into::into)
            })?,
            Self::Files => lasting(world, brief, |begins| world.limit_files(begins))?,
            Self::Netlink => flood(world)?,
            Self::Clock => {
                for seconds in [3600, -86_400, 0] {
                    std::thread::sleep(brief / 3);
                    world.recover_from(Instant::now());
                    world.set_wall_clock(seconds)?;
                    world.recovered()?;
                }
            }
        }
        world.must_run()
    }
}

/// Makes a fault that lasts, ends it, and waits for the recovery from its end.
fn lasting(world: &World, length: Duration, act: impl Fn(bool) -> Result<(), AnyError>) -> Result<(), AnyError> {
    world.lasting();
    act(true)?;
    std::thread::sleep(length);
    world.recover_from(Instant::now());
    act(false)?;
    world.over();
    world.recovered()
}

/// SIGSTOP, and SIGCONT.
fn stop(world: &World) -> Result<(), AnyError> {
    let router = world.place != Place::Nftables;
    if router {
        excuse_beyond_hold_time(world, world.plan.stop);
    }
    lasting(world, world.plan.stop, |begins| {
        if begins {
            world.ledger().down(Instant::now());
            return world.signal(libc::SIGSTOP);
        }
        world.ledger().resumed(Instant::now());
        world.signal(libc::SIGCONT)
    })?;
    if router { whole(world) } else { Ok(()) }
}

/// Behind silence for so long the router has no routes by BGP's own rules, until it was told all again.
fn excuse_beyond_hold_time(world: &World, silence: Duration) {
    if silence + HOLD_TIME / 3 >= HOLD_TIME {
        world.excuse();
    }
}

fn kill(world: &World) -> Result<(), AnyError> {
    std::thread::sleep(world.random(world.plan.gap));
    world.must_run()?;
    world.ledger().down(Instant::now());
    world.recover_from(Instant::now());
    world.kill();
    world.start()?;
    world.recovered()?;
    world.ledger().up(Instant::now());
    Ok(())
}

fn full(world: &World) -> Result<(), AnyError> {
    let fill = format!("{STATE}/fill");
    // It ends when there is no room.
    world.node().ok(&format!("dd if=/dev/zero of={fill} bs=4k status=none 2>/dev/null || true"))?;
    std::thread::sleep(world.plan.brief / 2);
    kill(world)?;
    std::thread::sleep(world.plan.brief / 2);
    world.recover_from(Instant::now());
    world.node().ok(&format!("rm {fill}"))?;
    world.recovered()
}

/// Thousands of routes and elements that nobody asked for, added and removed again and again.
fn flood(world: &World) -> Result<(), AnyError> {
    let routes = "for i in $(seq 0 7999); do echo route WORD blackhole 100.64.$((i / 256)).$((i % 256))/32; done";
    let node = world.node();
    for (word, file) in [("add", "/run/add"), ("del", "/run/del")] {
        node.ok(&format!("{{ {}; }} >{file}", routes.replace("WORD", word)))?;
    }
    let begin = Instant::now();
    while begin.elapsed() < world.plan.brief {
        node.ok("ip -batch /run/add && ip -batch /run/del && nft add table inet noise && nft delete table inet noise")?;
    }
    world.recover_from(Instant::now());
    world.recovered()
}

fn established(world: &World) -> bool {
    world.read("peers").is_some_and(|peers| peers["peers"][0]["state"] == "Established")
}

/// Waits until the router has everything back; what it lacks then counts.
pub(super) fn whole(world: &World) -> Result<(), AnyError> {
    if !wait_until(LONG, || established(world)) {
        return Err(format!("no session again\n{}", world.lab.logs()).into());
    }
    if !world.is_whole() {
        world.tell(world.row(), "the router never had all of its routes again".to_owned());
    }
    world.ledger().up(Instant::now());
    world.no_excuse();
    Ok(())
}

fn restart_router(world: &World) -> Result<(), AnyError> {
    let router = world.lab.node("router");
    world.excuse();
    world.ledger().down(Instant::now());
    router.kill();
    if !wait_until(LONG, || !established(world)) {
        return Err("the guard doesn't see that the router is gone".into());
    }
    world.lasting();
    std::thread::sleep(world.random(world.plan.gap));
    world.recover_from(Instant::now());
    router.start()?;
    world.over();
    world.recovered()?;
    whole(world)
}
