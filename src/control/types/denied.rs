//! What was refused, as `denied` shows it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// `denied`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct DeniedPage {
    /// Oldest first.
    pub denied: Vec<Denied>,
    /// The number to ask on `after`.
    pub next: u64,
    /// Entries that the log had no room to keep since `after`.
    pub lost: u64,
}

/// One thing that was refused, and how often in a row.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Denied {
    /// Grows with every change of the log.
    pub number: u64,
    /// Seconds since 1970.
    pub time: u64,
    /// "name" (policy), "address" (filter), "answer" (budget or gate) or "packet" (nftables).
    pub kind: String,
    /// The name, the address, or the packet's destination.
    pub what: String,
    /// Who asked or sent.
    pub client: Option<IpAddr>,
    /// Why.
    pub reason: String,
    /// The same in a row.
    pub count: u64,
    /// It was only said: in audit nothing is refused.
    #[serde(default)]
    pub audit: bool,
}
