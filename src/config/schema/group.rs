//! `[[policy.group]]`

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Action, defaults};
use crate::config::window::Window;

/// `[[policy.group]]`: its own rules stand in place of those of `[policy]`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// As shown to users.
    pub name: String,
    /// Who belongs to it; the longest prefix decides between groups.
    #[serde(with = "crate::config::value::nets")]
    #[schemars(with = "Vec<String>")]
    #[serde(default)]
    pub clients: Vec<IpNet>,
    /// Also whoever shows one of these over DoT, DoH or DoQ: "name", "*.name" or "*" of a certificate of `dns.tls.client_ca`; "sha256:HEX" of any.
    #[serde(default)]
    pub certificate: Vec<String>,
    /// Also whoever asks at this path of DNS over HTTPS, unless a certificate says otherwise. No secret.
    pub doh_path: Option<String>,
    /// For names that nothing matches; absent: as for everybody.
    pub default: Option<Action>,
    /// Names that are allowed, written as in `policy.allow`.
    #[serde(default)]
    pub allow: Vec<String>,
    /// Names that are denied, written as in `policy.deny`.
    #[serde(default)]
    pub deny: Vec<String>,
    /// Names of lists; absent: the lists of everybody.
    pub lists: Option<Vec<String>>,
    /// Communities of the routes that this group's questions open.
    #[serde(default)]
    pub communities: Vec<String>,
    /// For how many each of its clients counts: a forwarder, or a NAT.
    #[serde(default = "defaults::share")]
    pub share: u8,
    /// When it is in force, in local time: "mon-fri 08:00-17:00"; absent: always. Else its clients are as if it weren't there.
    #[serde(default)]
    pub schedule: Vec<Window>,
}
