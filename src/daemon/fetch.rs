//! Lists that are fetched: each into a file of the state directory, which is read and followed like any other list file. A file changes only when what came
//! can be read whole and isn't suddenly next to nothing, so that the last good one serves whatever the server does.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::fetch::http::{Got, Validators, Wanted};
use super::lists::fetched::{FetchState, now};
use super::shared::Shared;
use crate::config::schema::{FETCHED, PolicyList};
use crate::core::policy::list::LineError;
use crate::core::policy::{ListFile, PolicyError, Table};
use crate::sys::private;

pub mod http;

/// How often it is looked whether one is due.
const LOOK: Duration = Duration::from_secs(1);
/// From so many rules on, a list that shrinks to less than a tenth is taken for a fault.
const MANY: usize = 100;

/// What is kept beside a fetched file.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct Beside {
    etag: Option<String>,
    modified: Option<String>,
    /// Seconds since 1970 when the server last said that this is it.
    checked: u64,
}

fn beside(path: &Path) -> Option<Beside> {
    let text = std::fs::read(path.with_extension("json")).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Why a list is as it was, as words behind its URL.
#[derive(Debug, thiserror::Error)]
enum RenewError {
    /// Nothing came from the server.
    #[error(transparent)]
    Fetch(#[from] http::FetchError),
    /// What came can't be rules.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// What came has a line that can't be read.
    #[error("{0}; the one before stays")]
    Line(LineError),
    /// What came says nothing.
    #[error("has no rule; the one before stays")]
    Empty,
    /// What came is next to nothing beside what is there.
    #[error("shrinks from {held} rules to {rules}; the one before stays. If that is right, remove {} and reload", path.display())]
    Shrinks {
        /// Rules of the list that is there.
        held: usize,
        /// Rules of the one that came.
        rules: usize,
        /// The file of the list that is there.
        path: PathBuf,
    },
    /// What came can't be kept.
    #[error("{}: {source}", path.display())]
    File {
        /// The list's file.
        path: PathBuf,
        /// The kernel's word.
        source: io::Error,
    },
    /// The task that writes it failed.
    #[error("writing it failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// Fetches what is due, again and again; never ends.
pub async fn follow(shared: Arc<Shared>) {
    let mut tick = tokio::time::interval(LOOK);
    let mut states: BTreeMap<String, (PolicyList, FetchState)> = BTreeMap::new();
    loop {
        tick.tick().await;
        let again = shared.lists.take_fetch_again();
        let (config, _) = shared.config();
        let fetched = config.policy.list.iter().filter_map(|list| Some((list.url.clone()?, list)));
        let wanted: BTreeMap<String, &PolicyList> = fetched.collect();
        if states.keys().any(|url| !wanted.contains_key(url))
            && let Err(error) = forget(&config.state.dir, &wanted)
        {
            tracing::warn!(%error, "fetched lists that are no more can't be removed");
        }
        states.retain(|url, (list, _)| wanted.get(url).is_some_and(|new| *new == list));
        for (url, list) in wanted {
            let (_, state) = states.entry(url.clone()).or_insert_with(|| (list.clone(), found(list)));
            if !state.left().is_zero() && !again {
                shared.lists.note_fetch(&url, state.clone());
                continue;
            }
            let outcome = renew(&shared, list, &url).await;
            if let Err(error) = &outcome {
                tracing::warn!(list = url, %error, "the list was not fetched");
            }
            state.done(outcome.err().map(|error| error.to_string()), list.refresh.0);
            shared.lists.note_fetch(&url, state.clone());
        }
    }
}

/// As a start or a reload finds it.
fn found(list: &PolicyList) -> FetchState {
    let checked = beside(&list.path).filter(|_| list.path.exists()).map(|beside| beside.checked);
    FetchState::found(checked, list.refresh.0)
}

/// Removes what was fetched for lists that are no more.
fn forget(state: &Path, wanted: &BTreeMap<String, &PolicyList>) -> io::Result<()> {
    for entry in std::fs::read_dir(state.join(FETCHED))? {
        let path = entry?.path();
        if !wanted.values().any(|list| path.with_extension("") == list.path) {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

async fn renew(shared: &Arc<Shared>, list: &PolicyList, url: &str) -> Result<(), RenewError> {
    let known = beside(&list.path).filter(|_| list.path.exists()).unwrap_or_default();
    let known = Validators { etag: known.etag, modified: known.modified };
    let (config, _) = shared.config();
    let wanted = Wanted { url, ca: list.ca.as_deref(), most: list.max_size.0, known: &known };
    let got = http::fetch(&shared.dns, crate::sys::mark(&config), &wanted).await?;
    let (list, held) = (list.clone(), shared.lists.rules_of(&list.path));
    let write = move || match got {
        Got::Same => note(&list.path, known),
        Got::File(content, validators) => {
            judge(&list, &content, held)?;
            put(&list.path, &content).map_err(|source| RenewError::File { path: list.path.clone(), source })?;
            note(&list.path, validators)
        }
    };
    tokio::task::spawn_blocking(write).await?
}

/// Whether what came may take the place of a list with so many rules.
fn judge(list: &PolicyList, content: &[u8], held: usize) -> Result<(), RenewError> {
    let path = list.shown();
    let file = ListFile { path: &path, format: list.format, action: list.action, content };
    let (table, report) = Table::from_list(&file)?;
    if let Some(error) = report.errors.first() {
        return Err(RenewError::Line(error.clone()));
    }
    let rules = table.len();
    if rules == 0 {
        return Err(RenewError::Empty);
    }
    if held >= MANY && rules < held / 10 {
        return Err(RenewError::Shrinks { held, rules, path: list.path.clone() });
    }
    Ok(())
}

fn put(path: &Path, content: &[u8]) -> io::Result<()> {
    if std::fs::read(path).is_ok_and(|held| held == content) {
        return Ok(());
    }
    if let Some(directory) = path.parent() {
        private::directory(directory)?;
    }
    private::replace(path, &[content])
}

fn note(path: &Path, Validators { etag, modified }: Validators) -> Result<(), RenewError> {
    let beside = Beside { etag, modified, checked: now() };
    let written = serde_json::to_vec(&beside).map_err(io::Error::other);
    let written = written.and_then(|text| private::replace(&path.with_extension("json"), &[&text]));
    written.map_err(|source| RenewError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> PolicyList {
        toml::from_str(&format!("format = \"domains\"\naction = \"deny\"\nurl = \"https://lists.example/a\"\n{text}"))
            .unwrap()
    }

    #[test]
    fn what_is_no_list_or_next_to_none_takes_no_place() {
        let list = list("");
        let names = |count: usize| (0..count).map(|n| format!("n{n}.example\n")).collect::<String>();
        judge(&list, names(20).as_bytes(), 0).unwrap();
        judge(&list, names(20).as_bytes(), 200).unwrap();
        assert!(
            judge(&list, names(19).as_bytes(), 200).unwrap_err().to_string().contains("shrinks from 200 rules to 19")
        );
        judge(&list, names(1).as_bytes(), 99).unwrap();
        assert!(judge(&list, b"# nothing\n", 0).unwrap_err().to_string().contains("no rule"));
        assert!(judge(&list, b"<html><body>Not found</body></html>\n", 0).is_err());
    }

    #[test]
    fn a_start_asks_again_when_its_time_has_come() {
        let directory = tempfile::tempdir().unwrap();
        let mut list = list("refresh = \"1h\"\n");
        list.place(directory.path());
        let due = |list: &PolicyList| found(list).left();
        assert_eq!(due(&list), Duration::ZERO, "nothing is there");
        put(&list.path, b"a.example\n").unwrap();
        assert_eq!(due(&list), Duration::ZERO, "nobody knows of when it is");
        note(&list.path, Validators::default()).unwrap();
        let wait = due(&list);
        assert!(wait > Duration::from_secs(3590) && wait <= Duration::from_secs(3600), "{wait:?}");
        let old = Beside { checked: now() - 4000, ..Beside::default() };
        std::fs::write(list.path.with_extension("json"), serde_json::to_vec(&old).unwrap()).unwrap();
        assert_eq!(due(&list), Duration::ZERO);
        forget(directory.path(), &BTreeMap::new()).unwrap();
        assert!(!list.path.exists());
    }
}
