//! `[[dns.zone]]`

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::defaults;
use crate::config::value::Span;

/// `[[dns.zone]]`: a zone that is answered here, from one of `file`, `hosts` and `records`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Zone {
    /// The zone's name: it and what lies below is answered here.
    pub name: String,
    /// A master file (RFC 1035 section 5); relative to the configuration file.
    #[serde(default)]
    pub file: Option<PathBuf>,
    /// A hosts file: of its names those without a dot, and those within the zone.
    #[serde(default)]
    pub hosts: Option<PathBuf>,
    /// Records as in a master file: "nas A 192.0.2.7", "*.dev AAAA 2001:db8::7", "www CNAME nas".
    #[serde(default)]
    pub records: Vec<String>,
    /// TTL of records that have none of their own.
    #[serde(default = "defaults::zone_ttl")]
    pub ttl: Span,
}

impl Zone {
    /// Where its records stand, if in a file.
    #[must_use]
    pub fn path(&self) -> Option<&PathBuf> {
        self.file.as_ref().or(self.hosts.as_ref())
    }
}
