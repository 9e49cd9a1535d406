//! `[[policy.rule]]`

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Config, NftablesMode};

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
                || policy.allow.iter().chain(groups).any(|name| split_ports(name).1.is_some()))
    }
}

/// Splits what `policy.allow` has into the name and its ports, if it has any: a number behind a colon. What follows another colon is part of something else.
#[must_use]
pub fn split_ports(text: &str) -> (&str, Option<&str>) {
    match text.split_once(':') {
        Some((name, ports)) if ports.starts_with(|first: char| first.is_ascii_digit()) && !ports.contains(':') => {
            (name, Some(ports))
        }
        _ => (text, None),
    }
}
