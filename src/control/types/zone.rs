//! Local zones, as `status` shows them.

use serde::{Deserialize, Serialize};

/// Part of [`super::Status`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Zone {
    /// The zone's name, as configured.
    pub name: String,
    /// Its file; absent: records of the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Those in force, with the SOA.
    pub records: usize,
    /// Names of a hosts file that are not the zone's, or only its own host's.
    pub skipped: usize,
    /// SHA-256 of the file's octets in force, in hexadecimal; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Since it was read.
    pub seconds_ago: u64,
    /// Why what is in force is not what stands in the file now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}
