//! Lists in `status`.

use serde::{Deserialize, Serialize};

/// One list file of the policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct List {
    /// What groups call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// As configured: the file, or where it is fetched from.
    pub path: String,
    /// SHA-256 of what is in force, in hexadecimal; absent where a copy or a part stands in for the list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Of a list that is fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetch: Option<Fetch>,
    /// Names and prefixes that have a rule.
    pub rules: usize,
    /// Lines that say nothing of names as a whole, or of what the guard doesn't see.
    pub skipped: usize,
    /// Records whose data is not served, so that their names are denied.
    pub denied_instead: usize,
    /// Records that are not served since their name has too many.
    pub surplus: usize,
    /// The same in words, with file and line.
    pub warnings: Vec<String>,
}

/// How fetching a list goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Fetch {
    /// Since its server last said what it is; absent: it never did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_ago: Option<u64>,
    /// Why the last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Until the next attempt.
    pub next_in_seconds: u64,
}
