//! The list files of the policy: read at the start and by a reload, followed while the daemon runs.
//!
//! What can't be read, or has one line that can't, changes nothing: the old list stays and `status` says so.
//! At a start there is no old list: the copy that was kept of it serves, else its readable lines, and `status` says so.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::{self, Held, Kind, Renewed};
use super::zones::LocalZones;
use crate::config::Config;
use crate::config::list_file::{self, Stamp};
use crate::config::schema::{Action, PolicyList};
use crate::core::policy::list::Report;
use crate::core::policy::{ListFile, Table};
use crate::store::lists::{self as copies, Which};

pub mod fetched;
pub mod state;

/// One list in force.
#[derive(Clone, Debug)]
struct Loaded {
    list: PolicyList,
    /// `None`: what is in force is not what stood in the file when it was read.
    stamp: Option<Stamp>,
    /// Then: what it is instead, and why.
    instead: Option<(&'static str, String)>,
    table: Arc<Table>,
    /// What of it is not served.
    report: Report,
    /// Of the octets that were read.
    sha256: Option<String>,
}

/// The lists in force, in the order of the configuration; and the local zones.
#[derive(Clone, Debug, Default)]
pub struct Lists(Vec<Loaded>, LocalZones);

impl Lists {
    /// As at a start: where a list can't be read whole, its copy in the state directory serves, else its readable lines, else nothing.
    #[must_use]
    pub fn start(config: &Config) -> Self {
        Self(
            config
                .policy
                .list
                .iter()
                .map(|list| load(list).unwrap_or_else(|why| instead(list, &config.state.dir, &why)))
                .collect(),
            LocalZones::start(config),
        )
    }

    /// Reads what is not the same in `old`. A list that is in force and can't be read any more stays.
    ///
    /// # Errors
    /// Every other list that can't be used, a line each with file and line.
    pub fn load(config: &Config, old: &Self) -> Result<Self, Vec<String>> {
        let (mut lists, mut errors) = (Vec::new(), Vec::new());
        for list in &config.policy.list {
            let same = |loaded: &&Loaded| {
                let is = &loaded.list;
                (&is.path, &is.name, is.format, is.action) == (&list.path, &list.name, list.format, list.action)
            };
            let held = old.0.iter().find(same).map(|loaded| Loaded { list: list.clone(), ..loaded.clone() });
            if let Some(loaded) = held.clone().filter(Loaded::is_of_now) {
                lists.push(loaded);
                continue;
            }
            match (load(list), held) {
                (Ok(loaded), _) => lists.push(loaded),
                (Err(error), Some(held)) => {
                    tracing::error!("{error}; the old list stays in force");
                    lists.push(held);
                }
                // The network isn't waited for; the guard starts so as well.
                (Err(error), None) if list.url.is_some() => lists.push(instead(list, &config.state.dir, &error)),
                (Err(error), None) => errors.push(error),
            }
        }
        let zones = LocalZones::load(config, &old.1).unwrap_or_else(|wrong| {
            errors.extend(wrong);
            LocalZones::default()
        });
        if errors.is_empty() { Ok(Self(lists, zones)) } else { Err(errors) }
    }

    /// Whether these are the same tables, in the same order.
    #[must_use]
    pub fn are_same(&self, other: &Self) -> bool {
        let same = |(one, other): (&Loaded, &Loaded)| Arc::ptr_eq(&one.table, &other.table);
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(same) && self.1.are_same(&other.1)
    }

    /// The local zones.
    #[must_use]
    pub fn zones(&self) -> &LocalZones {
        &self.1
    }

    /// The files of a kind, and what of each is in force.
    #[must_use]
    pub fn held(&self, kind: Kind) -> Vec<Held> {
        match kind {
            Kind::Lists => self.0.iter().map(Loaded::held).collect(),
            Kind::Zones => self.1.held(),
        }
    }

    /// Reads these files of a kind anew; what can't be used stays as it is.
    pub fn renew(&mut self, kind: Kind, wanted: &[PathBuf]) -> Renewed {
        match kind {
            Kind::Lists => {
                files::renew(&mut self.0, wanted, |loaded| Some(&loaded.list.path), |loaded| load(&loaded.list))
            }
            Kind::Zones => self.1.renew(wanted),
        }
    }

    /// The tables, in the order of the configuration.
    #[must_use]
    pub fn tables(&self) -> Vec<Arc<Table>> {
        self.0.iter().map(|loaded| loaded.table.clone()).collect()
    }
}

impl Loaded {
    /// Whether the file is the one that is in force.
    fn is_of_now(&self) -> bool {
        self.stamp.is_some() && self.stamp == Stamp::now(&self.list.path)
    }

    fn held(&self) -> Held {
        Held { which: which(&self.list), stamp: self.stamp, is_fetched: self.list.url.is_some() }
    }

    /// Why what is in force is not the list, where it never was since the start.
    fn trouble(&self) -> Option<String> {
        self.instead.as_ref().map(|(words, why)| format!("{words} in force: {why}"))
    }
}

fn which(list: &PolicyList) -> Which {
    Which { directory: copies::LISTS, path: list.path.clone(), format: list.format }
}

/// What serves in place of a list that can't be read whole.
fn instead(list: &PolicyList, state: &Path, why: &str) -> Loaded {
    let path = list.shown();
    let read = |content: &[u8]| {
        let file = ListFile { path: &path, format: list.format, action: list.action, content };
        let made = Table::from_list(&file).map_err(|error| error.to_string())?;
        Ok::<_, String>((made.0.named(list.name.as_deref()), made.1))
    };
    let mut why = why.to_owned();
    let copy = copies::read(state, &which(list)).unwrap_or_else(|error| {
        why = format!("{why}; {error}");
        None
    });
    let copied = copy.and_then(|content| read(&content).ok()).map(|made| ("the last copy that could be read is", made));
    let lines = || {
        let (content, _) = list_file::read(&list.path).ok()?;
        read(&content).ok().map(|made| ("only its readable lines are", made))
    };
    let nothing = || {
        let words = match list.action {
            Action::Deny => "none of its names is denied, since nothing of it is",
            Action::Allow => "none of its names is allowed, since nothing of it is",
        };
        (words, (Table::empty(), Report::default()))
    };
    let (words, (table, report)) = copied.or_else(lines).unwrap_or_else(nothing);
    tracing::error!(list = path, rules = table.len(), "{words} in force: {why}");
    Loaded {
        list: list.clone(),
        stamp: None,
        instead: Some((words, why)),
        table: Arc::new(table),
        report,
        sha256: None,
    }
}

/// Reads one list whole.
fn load(list: &PolicyList) -> Result<Loaded, String> {
    let path = list.shown();
    if list.url.is_some() && !list.path.exists() {
        return Err(format!("{path} was not fetched yet"));
    }
    let (content, stamp) = list_file::read(&list.path).map_err(|reason| format!("{path}: {reason}"))?;
    let file = ListFile { path: &path, format: list.format, action: list.action, content: &content };
    let (table, report) = Table::from_list(&file).map_err(|error| error.to_string())?;
    let table = table.named(list.name.as_deref());
    if let Some(error) = report.errors.first() {
        let more = match report.wrong.saturating_sub(1) {
            0 => String::new(),
            more => format!(" (and {more} more lines that can't be read)"),
        };
        return Err(format!("{path}:{}: {}{more}", error.line, error.reason));
    }
    tracing::info!(list = path, rules = report.entries, skipped = report.skipped, "list read");
    report.warnings(&path).iter().for_each(|warning| tracing::warn!("{warning}"));
    let sha256 = Some(sha256(&content));
    Ok(Loaded { list: list.clone(), stamp: Some(stamp), instead: None, table: Arc::new(table), report, sha256 })
}

/// The SHA-256 of a file's content, in hexadecimal digits.
fn sha256(content: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, content);
    digest.as_ref().iter().map(|octet| format!("{octet:02x}")).collect()
}

#[cfg(test)]
mod tests;
