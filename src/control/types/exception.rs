//! Exceptions from the policy, as `status` shows them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::config::schema::Action;

/// One exception from the policy.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Exception {
    /// The names, as a rule of the configuration is written.
    pub name: String,
    /// "deny" or "allow".
    pub action: Action,
    /// Whose questions; of IPv6 its /64. Absent: everybody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<IpAddr>,
    /// Until it ends.
    pub ends_in_seconds: u64,
}
