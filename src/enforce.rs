//! What opens and closes addresses.
//!
//! An enforcer is told the desired state, as a diff with a generation number or in full, and answers with the
//! generation it holds, or a typed error. The full state is the base operation, diffs are the optimisation. There are
//! [`nftables`] (timed leases in the kernel), [`bgp`] (routes on routers; each peer is an enforcer to the gate, all
//! share one stream of changes) and [`memory`] (tests and dry runs).

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot};

use crate::core::event::{Change, Event, Generation};
use crate::core::groups::Groups;
use crate::core::moment::Moment;
use crate::core::pairs::PairId;

pub mod bgp;
pub mod memory;
pub mod nftables;

/// What an enforcer is told, in order. The channel is bounded ([`COMMANDS`]); when it is full the core task waits, so that
/// answers wait too and time out at the gate: the guard slows down, it never forgets.
#[derive(Debug)]
pub enum Command {
    /// Changes on top of everything before.
    Apply {
        /// Reported back once they are in force.
        generation: Generation,
        /// In order; several for one address may occur, the last counts.
        changes: Vec<Change>,
    },
    /// The full state: whatever is not in it is removed, without a gap for what is.
    Sync {
        /// Reported back once it is in force.
        generation: Generation,
        /// Address and end of lease.
        leases: Vec<(IpAddr, Moment)>,
        /// Address and client, where addresses are open for single clients, and the end.
        pairs: Vec<(PairId, Moment)>,
    },
    /// Live flows to this address are to be cut, where the enforcer can.
    CutFlows(IpAddr),
    /// Answers wait for these addresses: an enforcer that confirms addresses one by one takes these first.
    Hurry(Vec<IpAddr>),
    /// Whether it blocks from now on, or only says what it would block. What it holds stays. `done` hears when that is in force, or why it is as before.
    Enforce {
        /// It blocks.
        enforce: bool,
        /// Who waits.
        done: oneshot::Sender<Result<(), String>>,
    },
    /// The guard's own traffic is this from now on; only for packets. `done`: as above.
    Own {
        /// All of it.
        own: nftables::Own,
        /// Who waits.
        done: oneshot::Sender<Result<(), String>>,
    },
    /// The prefixes that are announced without a lease, where it blocks; only for routes. `done`: as above.
    Open {
        /// All of them.
        open: Vec<IpNet>,
        /// Who waits.
        done: oneshot::Sender<Result<(), String>>,
    },
    /// The rules of another configuration; only for nftables. What is leased stays, and so does every flow. `done` hears when they are in force,
    /// with what the kernel can't do of them, or why it is as before.
    Rules {
        /// In force from now on.
        rules: Box<nftables::Rules>,
        /// Who waits.
        done: oneshot::Sender<Result<Vec<nftables::needs::Feature>, String>>,
    },
    /// Other peers, or another configuration of theirs; only for routes. `done` hears once all that can fail is done, or why it can't be; nothing is in
    /// force yet.
    PreparePeers {
        /// All of it.
        next: Box<bgp::BgpEnforcer>,
        /// Who waits.
        done: oneshot::Sender<Result<(), String>>,
    },
    /// What was prepared last is in force from now on; `done` hears when the peers were told.
    ChangePeers {
        /// Who waits.
        done: oneshot::Sender<()>,
    },
    /// What groups mean from now on; only for routes.
    Groups(Arc<Groups>),
    /// All that was restored from an earlier run has been told. What was taken over from that run and isn't among it may go.
    Restored,
}

/// Room in an enforcer's command channel.
pub const COMMANDS: usize = 1024;

/// Where enforcers report. Bounded; an enforcer waits when it is full.
pub type Reports = mpsc::Sender<Event>;

/// An enforcer's driver. `run` ends when `commands` is closed, after it has done what its configuration says about stopping.
pub trait Enforcer: Send + 'static {
    /// Runs until `commands` closes.
    fn run(self: Box<Self>, commands: mpsc::Receiver<Command>, reports: Reports) -> impl Future<Output = ()> + Send
    where
        Self: Sized;
}
