//! `[[nftables.application]]`

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[[nftables.application]]`: names whose addresses are open for one application of this host only. It is known by `unit`, by `unit` and `user`, by `user` or by
/// `cgroup`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Application {
    /// As shown to users; the kernel's sets are called by it.
    pub name: String,
    /// A unit of systemd: "web.service", "worker@*.service"; of a user's manager where `user` is given too.
    pub unit: Option<String>,
    /// A user, by name or number. Without `unit`: every socket of this user.
    pub user: Option<String>,
    /// A control group of version 2, with all below: "/system.slice/docker-*.scope".
    pub cgroup: Option<String>,
    /// The names, as in `policy.allow`, with ports where they have some. The policy must allow them as well.
    pub names: Vec<String>,
}
