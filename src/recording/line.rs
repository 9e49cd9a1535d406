//! One line of a recording.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::schema::{Gate, Lease};
use crate::core::client::Clients;
use crate::core::event::{Decision, EnforcerSpec};
use crate::core::groups::Groups;
use crate::core::guard::{Guard, Settings};
use crate::core::moment::Moment;

/// One line. `E` is an event, or borrows one.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line<E> {
    /// The first line: what the core began with.
    Begins(Box<Beginning>),
    /// The core heard this.
    Event {
        /// The moment when the core heard it, by its clock.
        at: Moment,
        /// The event itself, as the core was given it.
        event: E,
    },
    /// The core did what was due.
    Timeout {
        /// The moment when the core was called, by its clock.
        at: Moment,
    },
    /// Its outputs were carried out: what it heard since the turn before counts as one.
    Turn {
        /// Tickets, in order, and what was said to each.
        decided: Vec<(u64, Said)>,
    },
    /// The last, unless the process was killed.
    Ends {
        /// The reason why the recording ends.
        why: String,
    },
}

/// What a core begins with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Beginning {
    /// Of the program that recorded.
    pub version: String,
    /// The section `[lease]` of the configuration.
    pub lease: Lease,
    /// The section `[gate]` of the configuration.
    pub gate: Gate,
    /// How long routes outlive their leases.
    pub linger: Duration,
    /// In the order of their ids.
    pub enforcers: Vec<EnforcerSpec>,
    /// Whose routes bear what.
    pub groups: Arc<Groups>,
    /// Who clients are.
    pub clients: Arc<Clients>,
    /// Routes are announced.
    pub announces: bool,
    /// Leases are for single clients.
    pub per_client: bool,
    /// So many bits of IPv6 addresses tell clients apart.
    pub client_prefix: u8,
    /// Leases may be for single ports or applications.
    pub narrow: bool,
}

impl Beginning {
    /// A core that begins so.
    #[must_use]
    pub fn guard(&self) -> Guard {
        let settings = Settings { lease: self.lease.clone(), gate: self.gate.clone(), linger: self.linger };
        let guard = Guard::new(settings, self.enforcers.clone()).with_groups(Arc::clone(&self.groups));
        let guard = guard.announcing(self.announces).knowing(Arc::clone(&self.clients));
        let guard = if self.narrow { guard.narrowly() } else { guard };
        if self.per_client { guard.for_single_clients().by_ipv6_prefix(self.client_prefix) } else { guard }
    }
}

/// The gate's word, as far as recordings tell it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// The answer left with so many leases; `short`: why not with all.
    Released {
        /// The number of leases that the answer left with.
        leases: usize,
        /// The reason why not all addresses were leased; absent where all were.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        short: Option<String>,
    },
    /// It did not leave, and why.
    Refused(String),
}

impl From<&Decision> for Said {
    fn from(decision: &Decision) -> Self {
        match decision {
            Decision::Release { leases, short } => {
                Self::Released { leases: leases.len(), short: short.as_ref().map(super::words::refusal) }
            }
            Decision::Refuse(refusal) => Self::Refused(super::words::refusal(refusal)),
        }
    }
}
