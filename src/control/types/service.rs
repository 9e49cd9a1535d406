//! The guard's own anycast addresses.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Bfd;

/// `bgp.service`, part of [`super::Status`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Service {
    /// The addresses that are announced while the guard answers.
    pub addresses: Vec<IpAddr>,
    /// Whether they are announced to the routers.
    pub announced: bool,
    /// Since when they are, or aren't.
    pub since_seconds: u64,
    /// Why they aren't, or soon won't be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Their sessions, in the order of the guard's addresses there.
    pub peers: Vec<ServicePeer>,
}

/// One session that carries service addresses.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct ServicePeer {
    /// The session's name, as configured.
    pub name: String,
    /// The router's address, where the session goes to.
    pub address: IpAddr,
    /// In BGP's words.
    pub state: String,
    /// In that state.
    pub since_seconds: u64,
    /// Addresses announced there.
    pub advertised: usize,
    /// Why the session went down last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// BFD, where it is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd: Option<Bfd>,
}
