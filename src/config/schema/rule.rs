//! `[[policy.rule]]`

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Config, NftablesMode};
use crate::core::policy::ports;

/// `[[policy.rule]]`: names that are allowed, and the ports that they open.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// As in `policy.allow`, without ports.
    pub names: Vec<String>,
    /// Names of groups; absent: everybody, groups included.
    #[serde(default)]
    pub clients: Vec<String>,
    /// "5432", "443/tcp+udp", "8000-8003/udp", "22,80"; absent: all.
    #[serde(default)]
    pub ports: Vec<String>,
}

impl Config {
    /// Whether names open single ports, and packets are judged here: then leases can be less than all of an address.
    #[must_use]
    pub fn narrows_ports(&self) -> bool {
        let policy = &self.policy;
        let groups = policy.group.iter().flat_map(|group| &group.allow);
        self.nftables.mode != NftablesMode::Off
            && (policy.rule.iter().any(|rule| !rule.ports.is_empty())
                || policy.allow.iter().chain(groups).any(|name| ports::split(name).1.is_some()))
    }
}
