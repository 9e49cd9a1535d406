//! What a reload changes, as the core is told of it: all of it with one turn.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Listed, Ticket};
use crate::config::schema::{Gate as GateSettings, Lease as LeaseSettings};
use crate::core::client::Clients;
use crate::core::groups::Groups;
use crate::core::judge::Judge;
use crate::core::name::Name;
use crate::core::narrow::{PairId, Port};
use crate::core::person::Mark;

/// What changes; the rest stays as it is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Reload {
    /// Times and limits of answers; leases keep their ends, also those that a smaller capacity would not have let in.
    pub settings: Option<(LeaseSettings, GateSettings)>,
    /// Who route enforcers are.
    pub routers: Option<Routers>,
    /// Whether routes are announced. Without it (audit) route enforcers hold nothing and gate nothing; leases stay, and are
    /// announced with the next plan once they are.
    pub announces: Option<bool>,
    /// Groups, or other communities of theirs: leases follow the groups of those who asked, and routes are announced anew
    /// where that makes a difference.
    pub groups: Option<Arc<Groups>>,
    /// The clients' neighbours, as in [`Event::Clients`](super::Event::Clients).
    pub clients: Option<Arc<Clients>>,
    /// Leases can be less than all of an address from then on. What is leased stays open as it is.
    pub narrowly: bool,
    /// The rules by which answers are judged from then on, and by which what is open is judged before.
    #[serde(skip)]
    pub judge: Option<Judge>,
    /// What those forbid. The core judges it; a recording, which can't hold a million rules, has this instead of them.
    pub forbidden: Option<Forbidden>,
}

/// Who route enforcers are, how long routes stay, and who is told of leases; see [`Event::Exchange`](super::Event::Exchange).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Routers {
    /// All enforcers from then on, in the order of the configuration. What only one that is gone lacked is in force; leases that
    /// a new one lacks are not, unless it joins.
    pub enforcers: Vec<Listed>,
    /// How long routes outlive their leases, those that linger already, too.
    pub linger: Duration,
    /// The router id by which other guards know this one.
    pub exchange: Option<Ipv4Addr>,
}

/// The way to an address of those who asked one question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForbiddenPath {
    /// Where it leads.
    pub address: IpAddr,
    /// The question for which the address was leased.
    pub question: Name,
    /// The aliases behind it, in order.
    pub chain: Arc<[Name]>,
    /// By what those who asked were known, if by more than their addresses.
    pub mark: Option<Mark>,
}

/// What rules forbid of what is open, and of answers that wait.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forbidden {
    /// Addresses that no answer may hold: closed, and flows to them cut.
    pub addresses: Vec<IpAddr>,
    /// Ways that lead to an address no more; those of one address side by side.
    pub paths: Vec<ForbiddenPath>,
    /// What a question, with its aliases, does not open any more, where there are pairs.
    pub pairs: Vec<(PairId, Arc<[Name]>, Option<Mark>)>,
    /// Likewise, of what it opens other ports instead.
    pub reopened: Vec<(PairId, Name, Vec<Port>)>,
    /// Answers that wait: they are refused.
    pub tickets: Vec<Ticket>,
}
