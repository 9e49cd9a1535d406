//! The control groups of this host (cgroups(7), version 2): which of those that are meant are there, by their numbers.
//!
//! ```text
//!   patterns --> directories that can hold such a group --inotify--> somebody made or removed one --> looked at again
//!                                          \----every few seconds----------------------------------> all looked at again
//! ```
//!
//! A group's number is the inode of its directory. The kernel gives it once: the low half is counted up, the high half counts the rounds. So a
//! number that is kept too long stands for nobody; a unit that starts again has another one.
//!
//! Whatever is told, the directory is looked at: what was said of it may be over. A watch is set before the directory is read, so that nothing comes
//! between the two.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tokio::io::unix::AsyncFd;

mod inotify;
pub mod pattern;

use inotify::{Inotify, Said};
pub use pattern::{MOST_LEVELS, Pattern};

/// Most directories that are watched.
const MOST_WATCHES: usize = 4096;
/// Most groups that are told.
pub const MOST_GROUPS: usize = 1024;
const MOUNTS: &str = "/proc/self/mountinfo";

/// Where the tree is mounted; `None`: nowhere.
#[must_use]
pub fn mounted() -> Option<PathBuf> {
    mounted_in(&fs::read_to_string(MOUNTS).ok()?)
}

/// The same of what proc(5) says.
fn mounted_in(mounts: &str) -> Option<PathBuf> {
    let mount = |line: &str| {
        let (before, behind) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let (root, place) = (fields.next()?, fields.next()?);
        // A part of the tree shows paths that aren't the real ones.
        (behind.split(' ').next() == Some("cgroup2") && root == "/").then(|| PathBuf::from(unescaped(place)))
    };
    // Those behind hide those before.
    mounts.lines().filter_map(mount).next_back()
}

/// proc(5) writes blanks and the like in octal.
fn unescaped(text: &str) -> String {
    ["040", "011", "012", "134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(text.to_owned(), |text, (code, meant)| text.replace(&format!("\\{code}"), meant))
}

/// A group that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// From the root: "/system.slice/web.service".
    pub path: String,
    /// Which patterns it is as.
    pub patterns: Vec<usize>,
}

/// The groups that are meant.
#[derive(Debug)]
pub struct Groups {
    root: PathBuf,
    patterns: Vec<Pattern>,
    inotify: Option<AsyncFd<Inotify>>,
    watched: HashMap<i32, String>,
    /// By path, since one is there at a time.
    found: BTreeMap<String, (u64, Vec<usize>)>,
    /// Not all could be watched, or told.
    beyond: bool,
}

impl Groups {
    /// Begins with none. Without inotify only [`Self::scan`] finds what comes. Needs a tokio runtime.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        let inotify = Inotify::open().and_then(Inotify::watched);
        let inotify = inotify
            .inspect_err(
                |error| tracing::warn!(%error, "control groups that come and go are seen every few seconds only"),
            )
            .ok();
        Self { root, patterns: Vec::new(), inotify, watched: HashMap::new(), found: BTreeMap::new(), beyond: false }
    }

    /// Looks for others from now on.
    pub fn look_for(&mut self, patterns: Vec<Pattern>) {
        if self.patterns != patterns {
            self.patterns = patterns;
            self.found.clear();
            self.scan();
        }
    }

    /// What is there, by number.
    #[must_use]
    pub fn all(&self) -> BTreeMap<u64, Group> {
        let group = |(path, (number, patterns)): (&String, &(u64, Vec<usize>))| {
            (*number, Group { path: path.clone(), patterns: patterns.clone() })
        };
        self.found.iter().map(group).collect()
    }

    /// Whether there are more than are watched and told.
    #[must_use]
    pub fn is_beyond(&self) -> bool {
        self.beyond
    }

    /// Looks at everything.
    pub fn scan(&mut self) {
        self.beyond = false;
        let mut seen = BTreeSet::new();
        if !self.patterns.is_empty() {
            self.enter("", &mut seen);
        }
        self.found.retain(|path, _| seen.contains(path));
    }

    /// Waits until something came or went; true when the groups are others than before.
    ///
    /// # Errors
    /// The queue's.
    pub async fn changed(&mut self) -> io::Result<bool> {
        let said = {
            let Some(inotify) = &self.inotify else { return std::future::pending().await };
            let mut ready = inotify.readable().await?;
            let said = ready.get_inner().read()?;
            ready.clear_ready();
            said
        };
        Ok(self.hear(said))
    }

    /// The same without waiting.
    pub fn take(&mut self) -> bool {
        let said = self.inotify.as_ref().map(|inotify| inotify.get_ref().read());
        match said {
            Some(Ok(said)) => self.hear(said),
            _ => false,
        }
    }

    fn hear(&mut self, said: Vec<Said>) -> bool {
        let before = self.found.clone();
        for one in said {
            match one {
                Said::Of(number, name) => {
                    if let Some(above) = self.watched.get(&number) {
                        let path = format!("{above}/{name}");
                        self.look_at(&path);
                    }
                }
                Said::Over(number) => drop(self.watched.remove(&number)),
                Said::Lost => self.scan(),
            }
        }
        self.found != before
    }

    /// Looks at one place, and below.
    fn look_at(&mut self, path: &str) {
        let below = format!("{path}/");
        let mut seen = BTreeSet::new();
        self.visit(path, &mut seen);
        self.found.retain(|known, _| (known != path && !known.starts_with(&below)) || seen.contains(known));
    }

    fn visit(&mut self, path: &str, seen: &mut BTreeSet<String>) {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        if parts.len() > MOST_LEVELS {
            return;
        }
        let meant = self.patterns.iter().enumerate().filter(|(_, pattern)| pattern.matches(&parts));
        let meant: Vec<usize> = meant.map(|(index, _)| index).collect();
        if !meant.is_empty() {
            let metadata = fs::symlink_metadata(self.place(path));
            match metadata {
                Ok(metadata) if metadata.is_dir() => {
                    if self.found.len() < MOST_GROUPS || self.found.contains_key(path) {
                        seen.insert(path.to_owned());
                        self.found.insert(path.to_owned(), (metadata.ino(), meant));
                    } else {
                        self.beyond = true;
                    }
                }
                _ => return,
            }
        }
        if self.patterns.iter().any(|pattern| pattern.descends(&parts)) {
            self.enter(path, seen);
        }
    }

    /// Watches a directory, then visits what is in it.
    fn enter(&mut self, path: &str, seen: &mut BTreeSet<String>) {
        let place = self.place(path);
        if let Some(inotify) = &self.inotify {
            if self.watched.len() >= MOST_WATCHES && !self.watched.values().any(|known| known == path) {
                self.beyond = true;
            } else {
                match inotify.get_ref().watch(&place) {
                    Ok(number) => drop(self.watched.insert(number, path.to_owned())),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return,
                    Err(error) => {
                        tracing::debug!(%error, place = %place.display(), "it isn't watched");
                        self.beyond = true;
                    }
                }
            }
        }
        let Ok(entries) = fs::read_dir(&place) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.visit(&format!("{path}/{name}"), seen);
            }
        }
    }

    fn place(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }
}

/// Those that are there now, without watching.
#[must_use]
pub fn now(root: &Path, patterns: Vec<Pattern>) -> BTreeMap<u64, Group> {
    let mut groups = Groups {
        root: root.to_path_buf(),
        patterns,
        inotify: None,
        watched: HashMap::new(),
        found: BTreeMap::new(),
        beyond: false,
    };
    groups.scan();
    groups.all()
}

/// The path of the group with this number, if it is found within so many directories. Slow: it walks the tree.
#[must_use]
pub fn path_of(root: &Path, number: u64, most: usize) -> Option<String> {
    let mut waiting = std::collections::VecDeque::from([root.to_path_buf()]);
    let mut left = most;
    while let Some(place) = waiting.pop_front() {
        for entry in fs::read_dir(&place).ok().into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            left = left.checked_sub(1)?;
            let path = entry.path();
            if fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.ino() == number) {
                let below = path.strip_prefix(root).ok()?;
                return Some(format!("/{}", below.display()));
            }
            waiting.push_back(path);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(root: &Path, patterns: &[&str]) -> Groups {
        let mut groups = Groups::new(root.to_path_buf());
        let patterns = patterns.iter().map(|pattern| match pattern.starts_with('/') {
            true => Pattern::path(pattern).unwrap(),
            false => Pattern::unit(pattern).unwrap(),
        });
        groups.look_for(patterns.collect());
        groups
    }

    fn paths(groups: &Groups) -> Vec<String> {
        groups.all().into_values().map(|group| group.path).collect::<BTreeSet<_>>().into_iter().collect()
    }

    #[tokio::test]
    async fn what_comes_and_goes_is_known_at_once_also_below_what_comes() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path();
        fs::create_dir_all(root.join("system.slice/web.service/below")).unwrap();
        fs::create_dir_all(root.join("system.slice/other.service")).unwrap();
        let mut groups = groups(root, &["web", "worker@*.service", "/docker/c*"]);
        assert_eq!(paths(&groups), ["/system.slice/web.service"]);
        let first = *groups.all().keys().next().unwrap();
        // Again, while nobody looks: by another number, unless this file system gives the same one.
        fs::remove_dir_all(root.join("system.slice/web.service")).unwrap();
        fs::create_dir_all(root.join("system.slice/filler.service")).unwrap();
        fs::create_dir_all(root.join("system.slice/web.service")).unwrap();
        fs::create_dir_all(root.join("a.slice/a-b.slice/worker@1.service")).unwrap();
        fs::create_dir_all(root.join("docker/c1")).unwrap();
        while paths(&groups).len() < 3 {
            groups.changed().await.unwrap();
        }
        let all = ["/a.slice/a-b.slice/worker@1.service", "/docker/c1", "/system.slice/web.service"];
        assert_eq!(paths(&groups), all);
        let now = fs::metadata(root.join("system.slice/web.service")).unwrap().ino();
        assert!(groups.all().contains_key(&now) && (now == first || !groups.all().contains_key(&first)));
        fs::remove_dir_all(root.join("a.slice")).unwrap();
        fs::remove_dir(root.join("docker/c1")).unwrap();
        while paths(&groups).len() > 1 {
            groups.changed().await.unwrap();
        }
        assert_eq!(path_of(root, now, 100).as_deref(), Some("/system.slice/web.service"));
        assert_eq!(path_of(root, now, 1), None);
    }

    #[tokio::test]
    async fn a_scan_finds_what_nobody_told() {
        let place = tempfile::tempdir().unwrap();
        let mut groups = groups(place.path(), &["web"]);
        groups.inotify = None;
        fs::create_dir_all(place.path().join("web.service")).unwrap();
        assert!(paths(&groups).is_empty());
        groups.scan();
        assert_eq!(paths(&groups), ["/web.service"]);
        fs::remove_dir(place.path().join("web.service")).unwrap();
        groups.scan();
        assert!(paths(&groups).is_empty());
    }

    #[test]
    fn the_mount_of_the_whole_tree_counts() {
        let mounts = "30 23 0:26 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw\n\
                      31 23 0:27 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                      32 23 0:26 /part /mnt rw - cgroup2 cgroup2 rw\n";
        assert_eq!(mounted_in(mounts), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(mounted_in("32 23 0:26 / /a\\040b rw - cgroup2 cgroup2 rw\n"), Some(PathBuf::from("/a b")));
        assert_eq!(mounted_in(""), None);
    }
}
