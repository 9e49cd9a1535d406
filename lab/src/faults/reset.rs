//! Resets of the router's session: at random moments, and in each state on the way up.
//!
//! A session is kept in a state by what a packet filter drops meanwhile; the segments bear TCP-MD5, but their lengths tell them apart.

use std::time::{Duration, Instant};

use super::AnyError;
use super::fault::whole;
use super::world::{LONG, World};
use crate::wait::wait_until;

/// Resets in a row.
const RESETS: u32 = 4;
/// Between those at random moments, at most.
const GAP: Duration = Duration::from_millis(300);
/// So long the session has stood before: a peer whose sessions end earlier flaps, and is damped on purpose.
const STOOD: Duration = Duration::from_secs(11);

/// States of the guard's session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The SYN is on its way.
    Connect,
    /// The guard's OPEN is.
    OpenSent,
    /// The guard waits for the KEEPALIVE.
    OpenConfirm,
    /// It is up.
    Established,
}

impl State {
    /// As `destguard peers` says.
    fn name(self) -> &'static str {
        match self {
            Self::Connect => "Connect",
            Self::OpenSent => "OpenSent",
            Self::OpenConfirm => "OpenConfirm",
            Self::Established => "Established",
        }
    }

    /// What the guard's packet filter drops of the router's so that the session gets no farther. What the router's own filter dropped on the way out
    /// TCP would keep, and send as one with what follows.
    fn held_by(self) -> Option<&'static str> {
        match self {
            Self::Connect => Some("tcp flags & (syn | ack) == syn | ack"),
            // The first segment with octets in it is the OPEN, and it is longer than this.
            Self::OpenSent => Some("ip length > 99"),
            // 19 octets behind the headers. Without any they are 60, or with one gap in what came 72.
            Self::OpenConfirm => Some("ip length 75-99"),
            Self::Established => None,
        }
    }
}

/// At random moments, so that some meet a session that is only being made.
pub(super) fn at_random(world: &World) -> Result<(), AnyError> {
    std::thread::sleep(STOOD);
    world.excuse();
    world.ledger().down(Instant::now());
    for _ in 0..RESETS {
        world.recover_from(Instant::now());
        world.lab.node("router").ok("ss -K dst 10.0.3.2")?;
        std::thread::sleep(world.random(GAP));
    }
    world.recovered()?;
    whole(world)
}

/// An established session, and each of the next ones in this state.
pub(super) fn in_state(world: &World, state: State) -> Result<(), AnyError> {
    std::thread::sleep(STOOD);
    world.excuse();
    world.ledger().down(Instant::now());
    let router = world.lab.node("router");
    // At the guard first: the router's reset would lie behind what is dropped, and the kernel's second word on it bears no TTL of 255.
    let end = || -> Result<(), AnyError> {
        for node in [world.node(), router] {
            node.ok("ss -K '( dport = 179 or sport = 179 )'")?;
        }
        Ok(())
    };
    let mut port = connection(world);
    if let Some(rule) = state.held_by() {
        let hook = "type filter hook input priority 0";
        world.node().ok(&format!("nft 'table ip held {{ chain held {{ {hook}; tcp sport 179 {rule} drop; }}; }}'"))?;
    }
    router.ok("ss -K dst 10.0.3.2")?;
    for left in (0..RESETS).rev() {
        let reached = wait_until(LONG, || {
            let next = connection(world);
            let other = next.is_some() && next != port && state_of(world).as_deref() == Some(state.name());
            if other {
                port = next;
            }
            other
        });
        if !reached {
            return Err(format!("the session is never in {}\n{}", state.name(), world.lab.logs()).into());
        }
        if left == 0 {
            world.recover_from(Instant::now());
            if state.held_by().is_some() {
                world.node().ok("nft delete table ip held")?;
            }
        }
        end()?;
    }
    world.recovered()?;
    whole(world)
}

/// The guard's end of the newest connection to the router.
fn connection(world: &World) -> Option<String> {
    let all = world.node().ok("ss -tanH '( dport = 179 )'").ok()?;
    let lives = |line: &&str| line.starts_with("ESTAB") || line.starts_with("SYN-SENT");
    all.lines().find(lives)?.split_whitespace().find(|word| word.starts_with("10.0.3.2:")).map(str::to_owned)
}

fn state_of(world: &World) -> Option<String> {
    Some(world.read("peers")?["peers"][0]["state"].as_str()?.to_owned())
}
