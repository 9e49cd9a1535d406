//! `[log]`

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::value::{Size, Target};

/// `[log]`: the query log.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// Questions kept in memory, at most 1,000,000; 0 = none.
    pub queries: usize,
    /// What a reader of the query log doesn't learn.
    pub hide: Vec<Hide>,
    /// File that every question is written to, a line of JSON each; a relative path starts at `log` in `state.dir`.
    pub file: Option<PathBuf>,
    /// Size at which the file becomes FILE.1, and a new one begins.
    pub file_size: Size,
    /// Former files kept, as FILE.1 and so on.
    pub file_keep: u32,
    /// Where every question is sent to as syslog (RFC 5424): `unix:PATH` or `udp:ADDRESS:PORT`.
    pub syslog: Option<Target>,
    /// Reader of dnstap that messages of clients and the replies go to: `unix:PATH` or `tcp:ADDRESS:PORT`.
    pub dnstap: Option<Target>,
}

/// What is replaced by a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Hide {
    /// Names, and the reasons and addresses that go with them.
    Names,
    /// Addresses of clients, and whatever else tells who asked.
    Clients,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            queries: 10_000,
            hide: Vec::new(),
            file: None,
            file_size: Size(64 << 20),
            file_keep: 4,
            syslog: None,
            dnstap: None,
        }
    }
}
