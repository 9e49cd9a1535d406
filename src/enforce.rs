//! What opens and closes addresses.
//!
//! An enforcer is told the desired state, as a diff with a generation number or in full, and answers with the
//! generation it holds, or a typed error. The full state is the base operation, diffs are the optimisation. Each
//! [`backend`] drives one enforcer or many: [`nftables`] (timed leases in the kernel), [`bgp`] (routes on routers; each
//! peer is an enforcer to the gate, all share one stream of changes) and [`memory`] (tests and dry runs).
//!
//! [`rules`] is what all for packets are made from, [`packet_filters`] is the list of them.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot};

use crate::config::Config;
use crate::core::event::{Change, Event, Generation, Shared};
use crate::core::groups::Groups;
use crate::core::moment::Moment;
use crate::core::narrow::{NarrowKinds, PairId};

pub mod backend;
pub mod bgp;
#[cfg(feature = "ebpf")]
pub mod ebpf;
mod error;
pub mod iptables;
pub mod memory;
mod merged;
pub mod nftables;
pub mod packet_filters;
pub mod rules;
pub mod timed;

pub use error::EnforceError;

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
        /// Address, for whom and to which port, and the end; where there are pairs at all, they are everything.
        pairs: Vec<(PairId, Moment)>,
    },
    /// Live flows to this address are to be cut, where the enforcer can.
    CutFlows(IpAddr),
    /// Answers wait for these addresses: an enforcer that confirms addresses one by one takes these first.
    Hurry(Vec<IpAddr>),
    /// Whether it blocks from now on, or only says what it would block. What it holds stays. `done` hears when that is in force, or why it is as before.
    Enforce {
        /// Whether it blocks from now on.
        enforce: bool,
        /// Hears the outcome from the driver.
        done: oneshot::Sender<Result<(), EnforceError>>,
    },
    /// The guard's own traffic is this from now on; only for packets. `done`: as above.
    Own {
        /// All of it.
        own: rules::Own,
        /// Hears the outcome from the driver.
        done: oneshot::Sender<Result<(), EnforceError>>,
    },
    /// The prefixes that are announced without a lease, where it blocks; only for routes. `done`: as above.
    Open {
        /// All of them.
        open: Vec<IpNet>,
        /// Hears the outcome from the driver.
        done: oneshot::Sender<Result<(), EnforceError>>,
    },
    /// The rules of another configuration; only for packets. What is leased stays, and so does every flow. `done` hears when they are in force,
    /// with what the kernel can't do of them, or why it is as before.
    Rules {
        /// In force from now on.
        rules: Box<rules::Rules>,
        /// Hears the outcome from the driver, with what the kernel can't do of the rules.
        done: oneshot::Sender<Result<Vec<backend::LeftOut>, EnforceError>>,
    },
    /// Other peers, or another configuration of theirs; only for routes. `done` hears once all that can fail is done, or why it can't be; nothing is in
    /// force yet.
    PreparePeers {
        /// All of it.
        next: Box<bgp::BgpEnforcer>,
        /// Hears the outcome from the speaker.
        done: oneshot::Sender<Result<(), EnforceError>>,
    },
    /// What was prepared last is in force from now on; `done` hears when the peers were told.
    ChangePeers {
        /// Hears when the peers were told.
        done: oneshot::Sender<()>,
    },
    /// Other guards are told this of our leases; only for routes.
    Share(Vec<(IpAddr, Shared)>),
    /// What groups mean from now on; only for routes.
    Groups(Arc<Groups>),
    /// All that was restored from an earlier run has been told. What was taken over from that run and isn't among it may go.
    Restored,
}

/// Whether whoever can hold so much apart can hold what this configuration leases.
///
/// # Errors
/// [`EnforceError::CantHold`].
pub fn can_hold(name: &str, narrow: NarrowKinds, config: &Config) -> Result<(), EnforceError> {
    let lacks = |what| Err(EnforceError::CantHold { name: name.to_owned(), what });
    if config.narrows_ports() && !narrow.ports {
        return lacks("single ports, which names have here (policy.allow, policy.rule)");
    }
    if config.per_client() && !narrow.clients {
        return lacks("addresses for single clients (nftables.scope)");
    }
    if !config.nftables.application.is_empty() && !narrow.applications {
        return lacks("addresses for single applications (nftables.application)");
    }
    Ok(())
}

/// Room in an enforcer's command channel.
pub const COMMANDS: usize = 1024;

/// Where enforcers report. Bounded; an enforcer waits when it is full.
pub type Reports = mpsc::Sender<Event>;
