//! Applications of this host that names are bound to, as `status` shows them.

use serde::{Deserialize, Serialize};

/// Part of [`super::Status`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Application {
    /// The application's name, as configured.
    pub name: String,
    /// What it is known by: "unit web.service", "user alice", "cgroup /docker/*".
    pub who: String,
    /// Its control groups that are there now, at most sixteen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cgroups: Vec<String>,
    /// How many are there.
    #[serde(default)]
    pub groups: usize,
    /// Why it reaches nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

impl std::fmt::Display for Application {
    /// "web (unit web.service): /system.slice/web.service".
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.name, self.who)?;
        match (&self.trouble, self.cgroups.as_slice()) {
            (Some(trouble), _) => write!(f, ": {trouble}"),
            (None, []) => Ok(()),
            (None, [one]) => write!(f, ": {one}"),
            (None, [first, ..]) => write!(f, ": {first} and {} more", self.groups.saturating_sub(1)),
        }
    }
}
