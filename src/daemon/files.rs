//! Files whose content is in force while the daemon runs: lists, and local zones. Here is which of them are to be
//! read anew, and how copies are kept for the next start.
//!
//! A file is read when its stamp (inode, size, times) was twice the same and is not that of what is in force: whoever writes it in place
//! gets the time for it. What can't be used is not tried again until it is another file.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::config::list_file::{self, Stamp};
use crate::store::lists::{self as copies, Which};

/// What the files hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Lists of the policy.
    Lists,
    /// The files of local zones.
    Zones,
}

impl Kind {
    /// Where their copies lie in the state directory; as messages on copies name them.
    fn directory(self) -> &'static str {
        match self {
            Self::Lists => copies::LISTS,
            Self::Zones => copies::ZONES,
        }
    }
}

/// As messages name them.
impl fmt::Display for Kind {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        text.write_str(match self {
            Self::Lists => "lists",
            Self::Zones => "local zones",
        })
    }
}

/// A file, and what of it is in force.
#[derive(Clone, Debug)]
pub struct Held {
    /// Its path, and how it is read.
    pub which: Which,
    /// `None`: what is in force is not what stood in the file when it was read.
    pub stamp: Option<Stamp>,
    /// It need not be there: it comes when it is fetched.
    pub is_fetched: bool,
}

/// The stamps of all files as of now, by path. Reads the disk.
#[must_use]
pub fn stamps(held: &[Held]) -> BTreeMap<PathBuf, Option<Stamp>> {
    let paths = held.iter().map(|held| &held.which.path);
    paths.map(|path| (path.clone(), Stamp::now(path))).collect()
}

/// What is known of the files from one look to the next. Bounded by their number.
#[derive(Debug, Default)]
pub struct Watch {
    seen: BTreeMap<PathBuf, Option<Stamp>>,
    tried: BTreeMap<PathBuf, Option<Stamp>>,
}

/// What a look found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Files that are in force as they stand; also when a broken one was put back.
    pub in_force: Vec<PathBuf>,
    /// Files that are to be read.
    pub wanted: Vec<PathBuf>,
}

impl Watch {
    /// Takes what [`stamps`] saw.
    pub fn look(&mut self, held: &[Held], stamps: BTreeMap<PathBuf, Option<Stamp>>) -> Found {
        let mut found = Found::default();
        for (path, stamp) in &stamps {
            let mut all = held.iter().filter(|held| held.which.path == *path);
            if stamp.is_some() && all.clone().all(|held| held.stamp == *stamp) {
                self.tried.remove(path);
                found.in_force.push(path.clone());
            } else if stamp.is_none() && all.any(|held| held.is_fetched) {
                self.tried.remove(path);
            } else if self.seen.get(path) == Some(stamp) && self.tried.get(path) != Some(stamp) {
                self.tried.insert(path.clone(), *stamp);
                found.wanted.push(path.clone());
            }
        }
        self.tried.retain(|path, _| stamps.contains_key(path));
        self.seen = stamps;
        found
    }
}

/// What became of files that were to be read anew.
#[derive(Debug, Default)]
pub struct Renewed {
    /// Those that can be put in force; one that is used twice stands there twice.
    pub good: Vec<PathBuf>,
    /// The others, and why.
    pub bad: Vec<(PathBuf, String)>,
}

/// Reads the wanted ones of `all` anew, and puts what could be read in their place.
pub fn renew<T>(
    all: &mut [T],
    wanted: &[PathBuf],
    path: impl Fn(&T) -> Option<&PathBuf>,
    load: impl Fn(&T) -> Result<T, String>,
) -> Renewed {
    let mut renewed = Renewed::default();
    for one in all {
        let Some(path) = path(one).filter(|path| wanted.contains(path)).cloned() else { continue };
        match load(one) {
            Ok(new) => {
                *one = new;
                renewed.good.push(path);
            }
            Err(why) => renewed.bad.push((path, why)),
        }
    }
    renewed
}

/// Copies of the files that are in force, for the next start: what was kept, or tried.
#[derive(Debug)]
pub struct Copies {
    kind: Kind,
    kept: Vec<(Which, Stamp)>,
}

impl Copies {
    /// Of files of this kind; none is kept yet.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        Self { kind, kept: Vec::new() }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Copies what came in force into the state directory, and removes copies of what is no more.
    pub fn keep(&mut self, held: &[Held], state: &Path) {
        let before = self.kept.len();
        self.kept.retain(|(kept, _)| held.iter().any(|held| held.which == *kept));
        let mut changed = self.kept.len() != before;
        for (which, stamp) in held.iter().filter_map(|held| Some((&held.which, held.stamp?))) {
            if self.kept.iter().any(|(kept, of)| (kept, *of) == (which, stamp)) {
                continue;
            }
            // Should the file have changed meanwhile, it isn't what is in force.
            let Ok((content, now)) = list_file::read(&which.path) else { continue };
            if now != stamp {
                continue;
            }
            if let Err(error) = copies::keep(state, which, &content) {
                let path = which.path.display();
                match self.kind {
                    Kind::Lists => {
                        tracing::warn!(%error, list = %path, "no copy of the list can be kept for the next start");
                    }
                    Kind::Zones => {
                        tracing::warn!(%error, zone = %path, "no copy of the zone can be kept for the next start");
                    }
                }
            }
            self.kept.retain(|(kept, _)| kept != which);
            self.kept.push((which.clone(), stamp));
            changed = true;
        }
        let directory = self.kind.directory();
        let all: Vec<Which> = held.iter().map(|held| held.which.clone()).collect();
        if changed && let Err(error) = copies::forget_others(state, directory, &all) {
            tracing::warn!(%error, "copies of {directory} that are no more can't be removed");
        }
    }
}

#[cfg(test)]
mod tests;
