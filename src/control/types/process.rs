//! The daemon's own process, as `status` shows it.

use serde::{Deserialize, Serialize};

/// Where [`Process`] is confined.
pub const CONFINED: &str = "confined";

/// What the daemon's process may do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Process {
    /// The user that the daemon runs as, by number.
    pub uid: u32,
    /// Those it has, by the kernel's word.
    pub capabilities: Vec<String>,
    /// "confined" to those it needs (seccomp), or why not.
    pub system_calls: String,
    /// "confined" to writing its state and its socket (landlock), or why not.
    pub files: String,
}
