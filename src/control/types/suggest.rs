//! What was used in audit, as `suggest` shows it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The body of `suggest`: what clients asked for in audit, and what a rule could allow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Suggested {
    /// When the first of it was seen, in seconds since 1970; absent: nothing was yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// Whether the guard is in audit now: else nothing is added.
    pub audit: bool,
    /// Names and destinations that there was no room for.
    pub forgotten: u64,
    /// By registrable domain, then by name.
    pub names: Vec<SuggestedName>,
    /// Destinations without a lease.
    pub addresses: Vec<SuggestedAddress>,
}

/// A name that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct SuggestedName {
    /// The name that clients asked for.
    pub name: String,
    /// Its registrable domain.
    pub domain: String,
    /// "suggested"; "allowed": by the configuration's own rules already; "denied": by a rule, not merely by default; "filtered": its addresses
    /// are; "reverse": stands for the names of all addresses; "nothing": it led nowhere.
    pub verdict: String,
    /// The rule of "allowed" and "denied".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Questions for the name within the span.
    pub questions: u64,
    /// Clients that asked; of IPv6 each /64.
    pub clients: usize,
    /// The first question, in seconds since 1970.
    pub first: u64,
    /// The last one.
    pub last: u64,
}

/// Where packets went without a lease.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct SuggestedAddress {
    /// The address that packets went to.
    pub address: IpAddr,
    /// Protocols and ports, as in "tcp/443".
    pub ports: Vec<String>,
    /// A name whose answer had the address: the lease was over, or the name would have been denied. Absent: no answer had it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Packets that the ruleset told of, a few a second at most.
    pub packets: u64,
    /// Clients that sent them.
    pub clients: usize,
    /// The first packet, in seconds since 1970.
    pub first: u64,
    /// The last one.
    pub last: u64,
}
