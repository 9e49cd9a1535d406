//! `[flows]`

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::defaults;
use crate::config::endpoint::Endpoint;
use crate::config::value::Span;

/// `[flows]`: live flows keep the routes of leases that ended.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Flows {
    /// Where exporters send their datagrams to.
    #[schemars(with = "Vec<String>")]
    pub listen: Vec<Endpoint>,
    /// Longest that flows keep a route behind the end of its lease.
    pub max: Span,
    /// Whether this host's own list of connections counts as well: where the guard is the gateway.
    pub conntrack: bool,
    /// Who is believed.
    pub exporter: Vec<Exporter>,
}

impl Flows {
    /// Whether anything sees flows.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.conntrack || !self.exporter.is_empty()
    }
}

impl Default for Flows {
    fn default() -> Self {
        Self { listen: Vec::new(), max: Span::secs(24 * 3600), conntrack: false, exporter: Vec::new() }
    }
}

/// A row of `[[flows.exporter]]`: one router that reports its flows.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Exporter {
    /// The address that its datagrams come from.
    pub address: IpAddr,
    /// What it sends.
    pub kind: ExporterKind,
    /// How often it reports a flow that lives, its active timeout; after three of them without a datagram it counts as silent.
    #[serde(default = "defaults::flow_interval")]
    pub interval: Span,
}

/// What an exporter sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ExporterKind {
    /// IPFIX as in RFC 7011.
    Ipfix,
    /// `NetFlow` version 9 as in RFC 3954.
    Netflow9,
    /// `NetFlow` version 5, which knows IPv4 alone.
    Netflow5,
    /// `sFlow` version 5, which samples packets.
    Sflow,
}
