//! Schedules in `status`.

use serde::{Deserialize, Serialize};

/// A group or list that has a schedule.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Scheduled {
    /// Its key: "policy.group\[0\]".
    pub key: String,
    /// In words: "group school".
    pub what: String,
    /// When it comes in force or goes, in local time; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}
