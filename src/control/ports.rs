//! Ports of an address, as `explain` shows them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::core::explain::PortView;

/// A port of an address that is open.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct OpenPort {
    /// "tcp/443"; "all ports".
    pub port: String,
    /// Whom it is open for; absent: everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<IpAddr>,
    /// The application of this host that it is open for alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application: Option<String>,
    /// The questions that opened it.
    pub names: Vec<String>,
    /// Until it closes.
    pub ends_in_seconds: u64,
}

impl From<PortView> for OpenPort {
    fn from(view: PortView) -> Self {
        Self {
            port: view.port.to_string(),
            client: view.client,
            application: view.application.map(|name| name.to_string()),
            names: view.names,
            ends_in_seconds: view.ends_in_seconds,
        }
    }
}
