//! `[[policy.list]]`

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Action, ListFormat, defaults};
use crate::config::value::{Size, Span};
use crate::config::window::Window;

/// `[[policy.list]]`: names from a file, or from a file that is fetched.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyList {
    /// What groups call it.
    pub name: Option<String>,
    /// False: only for the groups that name it.
    #[serde(default = "defaults::yes")]
    pub everybody: bool,
    /// The file; relative to the configuration file. Either this or `url`.
    #[serde(default)]
    pub path: PathBuf,
    /// Where it is fetched from: `https://` alone. The last good copy stays in `state.dir`.
    #[serde(default)]
    pub url: Option<String>,
    /// How often it is fetched anew.
    #[serde(default = "defaults::refresh")]
    pub refresh: Span,
    /// What is longer isn't fetched.
    #[serde(default = "defaults::list_size")]
    pub max_size: Size,
    /// PEM roots for `url`; without it the platform's.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// How it is written.
    pub format: ListFormat,
    /// What its names get.
    pub action: Action,
    /// When it is in force, in local time: "22:00-06:00"; absent: always.
    #[serde(default)]
    pub schedule: Vec<Window>,
}

impl PolicyList {
    /// Its name, else where it comes from.
    #[must_use]
    pub fn called(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.shown())
    }

    /// As people know it: where it comes from.
    #[must_use]
    pub fn shown(&self) -> String {
        self.url.clone().unwrap_or_else(|| self.path.display().to_string())
    }

    /// Where a copy of `url` lies.
    #[must_use]
    pub fn fetched(state: &Path, url: &str) -> PathBuf {
        let digest = ring::digest::digest(&ring::digest::SHA256, url.as_bytes());
        let name: String = digest.as_ref().iter().take(16).map(|octet| format!("{octet:02x}")).collect();
        state.join(FETCHED).join(name)
    }

    /// Names the file of a list that is fetched, unless the configuration names one.
    pub fn place(&mut self, state: &Path) {
        let placed = self.path.parent().and_then(Path::file_name).is_some_and(|directory| directory == FETCHED);
        if let Some(url) = &self.url
            && (placed || self.path.as_os_str().is_empty())
        {
            self.path = Self::fetched(state, url);
        }
    }
}

/// The directory of fetched lists, in `state.dir`.
pub const FETCHED: &str = "fetched";
