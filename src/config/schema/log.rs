//! `[log]`

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[log]`: the query log.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// Questions kept in memory; 0 = none.
    pub queries: usize,
    /// What a reader of the query log doesn't learn.
    pub hide: Vec<Hide>,
}

/// What is replaced by a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Hide {
    /// Names, and the reasons and addresses that go with them.
    Names,
    /// Clients.
    Clients,
}

impl Default for Log {
    fn default() -> Self {
        Self { queries: 10_000, hide: Vec::new() }
    }
}
