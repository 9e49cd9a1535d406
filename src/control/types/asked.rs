//! The query log, as `log` shows it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The body of `log`: questions from the log in memory, and where to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct AskedPage {
    /// The questions of this page, oldest first.
    pub asked: Vec<Asked>,
    /// The number to ask on `after`.
    pub next: u64,
    /// Something came since `after` that the log had no room to keep, or the page none to show.
    pub lost: bool,
}

/// One question, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Asked {
    /// Grows with every question.
    pub number: u64,
    /// Milliseconds since 1970.
    pub time_ms: u64,
    /// Who asked; a hash where `log.hide` says so.
    pub client: String,
    /// As whom, where more is known than the address: a certificate's name or hash, or the path of DNS over HTTPS; a hash where `log.hide` has clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub person: Option<String>,
    /// "udp", or "stream": TCP, TLS, HTTPS, QUIC.
    pub over: String,
    /// The name; a hash where `log.hide` says so.
    pub name: String,
    /// The type, as in "AAAA".
    #[serde(rename = "type")]
    pub qtype: String,
    /// Of the reply, as in "NOERROR".
    pub rcode: String,
    /// "released", "cached", "local", "denied", "filtered", "refused" or "failed".
    pub fate: String,
    /// In audit: policy or filter would have refused it, and `why` says why.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub audit: bool,
    /// Why, where that isn't plain: the rule, the budget, the enforcer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// From question to reply, in microseconds; 0: at once.
    pub took_us: u64,
    /// The addresses that the answer opened, or found open.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
}
