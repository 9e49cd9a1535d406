//! `[log]`

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::endpoint::Endpoint;
use crate::config::value::Size;

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
    /// Clients.
    Clients,
}

/// Who is told of questions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A socket of this host.
    Unix(PathBuf),
    /// Datagrams.
    Udp(Endpoint),
    /// A connection.
    Tcp(Endpoint),
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

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("\"{text}\" is no target; write \"unix:/PATH\", \"udp:ADDRESS:PORT\" or \"tcp:ADDRESS:PORT\"");
        let (kind, place) = text.split_once(':').ok_or_else(wrong)?;
        let endpoint = || place.parse::<Endpoint>().map_err(|error| format!("\"{text}\": {error}"));
        match kind {
            "unix" if place.starts_with('/') => Ok(Self::Unix(PathBuf::from(place))),
            "udp" => endpoint().map(Self::Udp),
            "tcp" => endpoint().map(Self::Tcp),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Udp(endpoint) => write!(f, "udp:{endpoint}"),
            Self::Tcp(endpoint) => write!(f, "tcp:{endpoint}"),
        }
    }
}
