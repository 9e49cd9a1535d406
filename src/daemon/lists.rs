//! The list files of the policy: read at the start and by a reload, followed while the daemon runs.
//!
//! A file is read when its stamp (inode, size, times) was twice the same and is not that of what is in force: whoever writes it in place
//! gets the time for it. What can't be read, or has one line that can't, changes nothing: the old list stays and `status` says so.
//! At a start there is no old list: the copy that was kept of it serves, else its readable lines, and `status` says so.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::fetch::FetchState;
use super::reload;
use super::sources::Shared;
use super::zones::{LocalZones, ZoneMetrics};
use crate::config::Config;
use crate::config::list_file::{self, Stamp};
use crate::config::schema::{Action, PolicyList};
use crate::control::types::{List, LoggedError};
use crate::core::policy::list::Report;
use crate::core::policy::{ListFile, Table};
use crate::metrics::labelled;
use crate::store::lists::{self as copies, Which};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// Most errors that are remembered.
const ERRORS: usize = 20;

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

    /// Likewise, to put others in their place.
    pub fn zones_mut(&mut self) -> &mut LocalZones {
        &mut self.1
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

    fn which(&self) -> Which {
        which(&self.list)
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

/// Keeps copies of lists that are in force, for the next start. `kept`: what was done or tried.
fn keep(lists: &Lists, state: &Path, kept: &mut Vec<(Which, Stamp)>) {
    let mut wanted = Vec::new();
    for loaded in &lists.0 {
        let Some(stamp) = loaded.stamp else { continue };
        if !kept.contains(&(loaded.which(), stamp)) {
            wanted.push((loaded.which(), stamp));
        }
    }
    if wanted.is_empty() {
        return;
    }
    for (which, stamp) in wanted {
        // Should the file have changed meanwhile, it isn't what is in force.
        let Ok((content, now)) = list_file::read(&which.path) else { continue };
        if now != stamp {
            continue;
        }
        if let Err(error) = copies::keep(state, &which, &content) {
            tracing::warn!(%error, list = %which.path.display(), "no copy of the list can be kept for the next start");
        }
        kept.retain(|(held, _)| *held != which);
        kept.push((which, stamp));
    }
    let all: Vec<Which> = lists.0.iter().map(Loaded::which).collect();
    kept.retain(|(held, _)| all.contains(held));
    if let Err(error) = copies::forget_others(state, copies::LISTS, &all) {
        tracing::warn!(%error, "copies of lists that are no more can't be removed");
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

/// What is known of the lists, for the control interface and the metrics.
#[derive(Debug, Default)]
pub struct ListState {
    inner: Mutex<Inner>,
    again: AtomicBool,
    metrics: ListMetrics,
    zone_metrics: ZoneMetrics,
}

#[derive(Debug, Default)]
struct Inner {
    lists: Lists,
    /// By file: why what is in force is not what stands there now. Bounded by the number of lists.
    troubles: BTreeMap<PathBuf, String>,
    /// The newest first.
    errors: VecDeque<(Instant, String)>,
    /// By URL. Bounded by the number of lists.
    fetches: BTreeMap<String, FetchState>,
}

#[derive(Debug, Default)]
struct ListMetrics {
    rules: Family<[(&'static str, String); 1], Gauge>,
    not_served: Family<[(&'static str, String); 2], Gauge>,
    octets: Gauge,
    reads: Family<[(&'static str, &'static str); 1], Counter>,
}

impl ListState {
    /// With what the start read.
    #[must_use]
    pub fn new(lists: Lists, registry: &mut Registry) -> Self {
        let state = Self::default();
        let metrics = &state.metrics;
        labelled(registry, "list_rules", "Names and prefixes in force, by list", &metrics.rules);
        labelled(
            registry,
            "list_not_served",
            "What of each list in force has no effect, or another than its author meant, by list and why: skipped (not about names as a whole, or a trigger on \
             name servers), denied_instead (data that can't be served: its name is denied), surplus (records of a name beyond 64)",
            &metrics.not_served,
        );
        registry.register("list_octets", "Memory that all lists in force take", metrics.octets.clone());
        labelled(
            registry,
            "list_reads",
            "Lists read anew, by outcome: applied, or refused (the old one stays)",
            &metrics.reads,
        );
        state.zone_metrics.register(registry);
        for loaded in &lists.0 {
            if let Some((words, why)) = &loaded.instead {
                let trouble = format!("{words} in force: {why}");
                let mut inner = state.inner();
                inner.errors.push_front((Instant::now(), trouble.clone()));
                inner.errors.truncate(ERRORS);
                inner.troubles.insert(loaded.list.path.clone(), trouble.clone());
            }
        }
        state.set(lists);
        state
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those in force.
    #[must_use]
    pub fn lists(&self) -> Lists {
        self.inner().lists.clone()
    }

    /// The local zones in force.
    #[must_use]
    pub fn zones(&self) -> LocalZones {
        self.inner().lists.1.clone()
    }

    /// Notes something of the zones in force.
    pub fn change_zones(&self, change: impl FnOnce(&mut LocalZones)) {
        change(&mut self.inner().lists.1);
    }

    /// What is counted of them.
    pub fn zone_metrics(&self) -> &ZoneMetrics {
        &self.zone_metrics
    }

    /// Others are in force.
    pub fn set(&self, lists: Lists) {
        self.metrics.rules.clear();
        self.metrics.not_served.clear();
        let number = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        for loaded in &lists.0 {
            let label = [("list", loaded.list.called())];
            self.metrics.rules.get_or_create(&label).set(number(loaded.table.len()));
            let Report { skipped, denied_instead, surplus, .. } = loaded.report;
            for (why, lines) in [("skipped", skipped), ("denied_instead", denied_instead), ("surplus", surplus)] {
                let labels = [label[0].clone(), ("why", why.to_owned())];
                self.metrics.not_served.get_or_create(&labels).set(number(lines));
            }
        }
        self.metrics.octets.set(number(lists.0.iter().map(|loaded| loaded.table.octets()).sum()));
        self.zone_metrics.set(&lists.1);
        let mut inner = self.inner();
        let is_listed = |path: &PathBuf| lists.0.iter().any(|loaded| loaded.list.path == *path);
        inner.troubles.retain(|path, _| is_listed(path));
        for loaded in &lists.0 {
            if let Some((words, why)) = &loaded.instead {
                let trouble = || format!("{words} in force: {why}");
                inner.troubles.entry(loaded.list.path.clone()).or_insert_with(trouble);
            }
        }
        inner.fetches.retain(|url, _| lists.0.iter().any(|loaded| loaded.list.url.as_ref() == Some(url)));
        inner.lists = lists;
    }

    fn applied(&self, path: &Path) {
        self.metrics.reads.get_or_create(&[("outcome", "applied")]).inc();
        self.inner().troubles.remove(path);
    }

    fn refused(&self, path: &Path, error: String) {
        tracing::error!("{error}; the old list stays in force");
        self.metrics.reads.get_or_create(&[("outcome", "refused")]).inc();
        let mut inner = self.inner();
        inner.errors.push_front((Instant::now(), format!("{error}; the old list stays in force")));
        inner.errors.truncate(ERRORS);
        let loaded = inner.lists.0.iter().find(|loaded| loaded.list.path == path);
        let words = loaded.and_then(|loaded| loaded.instead.as_ref()).map_or("an older list is", |(words, _)| words);
        let trouble = format!("{words} in force: {error}");
        inner.troubles.insert(path.to_owned(), trouble);
    }

    /// Those in force, in the order of the configuration.
    #[must_use]
    pub fn views(&self) -> Vec<List> {
        let inner = self.inner();
        let view = |loaded: &Loaded| {
            let path = loaded.list.shown();
            List {
                name: loaded.list.name.clone(),
                sha256: loaded.sha256.clone(),
                fetch: loaded.list.url.as_ref().and_then(|url| inner.fetches.get(url)).map(FetchState::view),
                rules: loaded.table.len(),
                skipped: loaded.report.skipped,
                denied_instead: loaded.report.denied_instead,
                surplus: loaded.report.surplus,
                warnings: loaded.report.warnings(&path),
                path,
            }
        };
        inner.lists.0.iter().map(view).collect()
    }

    /// Has every list fetched anew at once, by who reloads.
    pub fn fetch_again(&self) {
        self.again.store(true, Ordering::Relaxed);
    }

    /// Whether somebody wants that.
    pub fn take_fetch_again(&self) -> bool {
        self.again.swap(false, Ordering::Relaxed)
    }

    /// What became of an attempt to fetch a list.
    pub fn note_fetch(&self, url: &str, state: FetchState) {
        self.inner().fetches.insert(url.to_owned(), state);
    }

    /// Lists that could not be fetched anew. Their last copies are in force.
    #[must_use]
    pub fn fetch_warnings(&self) -> Vec<String> {
        let failed = |(url, state): (&String, &FetchState)| Some(format!("{url}: {}", state.error.as_ref()?));
        self.inner().fetches.iter().filter_map(failed).collect()
    }

    /// How many rules of this list are in force.
    #[must_use]
    pub fn rules_of(&self, path: &Path) -> usize {
        let inner = self.inner();
        let loaded = inner.lists.0.iter().find(|loaded| loaded.list.path == path && loaded.instead.is_none());
        loaded.map_or(0, |loaded| loaded.table.len())
    }

    /// Why lists in force are not what stands in their files.
    #[must_use]
    pub fn troubles(&self) -> Vec<String> {
        let inner = self.inner();
        inner.troubles.values().cloned().chain(inner.lists.1.troubles()).collect()
    }

    /// The last errors, newest first.
    #[must_use]
    pub fn errors(&self) -> Vec<LoggedError> {
        let logged = |(at, message): &(Instant, String)| LoggedError {
            seconds_ago: at.elapsed().as_secs(),
            message: message.clone(),
        };
        self.inner().errors.iter().map(logged).collect()
    }
}

/// Looks at the files again and again; never ends.
pub async fn follow(shared: Arc<Shared>) {
    let mut tick = tokio::time::interval(LOOK);
    // What was seen the last time, and what was tried; by file.
    let mut seen: BTreeMap<PathBuf, Option<Stamp>> = BTreeMap::new();
    let mut tried: BTreeMap<PathBuf, Option<Stamp>> = BTreeMap::new();
    let mut kept = Vec::new();
    loop {
        tick.tick().await;
        let lists = shared.lists.lists();
        if lists.0.is_empty() {
            continue;
        }
        let look = move || {
            let stamps: Vec<Option<Stamp>> = lists.0.iter().map(|loaded| Stamp::now(&loaded.list.path)).collect();
            (lists, stamps)
        };
        let Ok((lists, stamps)) = tokio::task::spawn_blocking(look).await else { continue };
        let mut wanted = Vec::new();
        for (loaded, stamp) in lists.0.iter().zip(stamps) {
            let path = &loaded.list.path;
            let settled = seen.insert(path.clone(), stamp) == Some(stamp);
            if stamp.is_some() && stamp == loaded.stamp {
                // In force; also when a broken file was put back.
                shared.lists.inner().troubles.remove(path);
                tried.remove(path);
            } else if stamp.is_none() && loaded.list.url.is_some() {
                // It comes when it is fetched.
                tried.remove(path);
            } else if settled && tried.get(path) != Some(&stamp) {
                tried.insert(path.clone(), stamp);
                wanted.push(path.clone());
            }
        }
        let is_listed = |path: &PathBuf| lists.0.iter().any(|loaded| loaded.list.path == *path);
        seen.retain(|path, _| is_listed(path));
        tried.retain(|path, _| is_listed(path));
        if !wanted.is_empty() {
            renew(&shared, wanted).await;
        }
        // At once after what came in force: the next file in its place may be a bad one.
        let (lists, state) = (shared.lists.lists(), shared.config().0.state.dir);
        let mut copies = std::mem::take(&mut kept);
        let write = move || {
            keep(&lists, &state, &mut copies);
            copies
        };
        match tokio::task::spawn_blocking(write).await {
            Ok(copies) => kept = copies,
            Err(error) => tracing::error!(%error, "keeping copies of the lists failed"),
        }
    }
}

/// Reads these files and puts in force what can be.
async fn renew(shared: &Arc<Shared>, wanted: Vec<PathBuf>) {
    let _applying = shared.applying.lock().await;
    let mut lists = shared.lists.lists();
    let read = move || {
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for loaded in lists.0.iter_mut().filter(|loaded| wanted.contains(&loaded.list.path)) {
            match load(&loaded.list) {
                Ok(new) => {
                    good.push(new.list.path.clone());
                    *loaded = new;
                }
                Err(error) => bad.push((loaded.list.path.clone(), error)),
            }
        }
        (lists, good, bad)
    };
    let (lists, good, bad) = match tokio::task::spawn_blocking(read).await {
        Ok(read) => read,
        Err(error) => {
            tracing::error!(%error, "reading the lists failed; the old ones stay");
            return;
        }
    };
    for (path, error) in bad {
        shared.lists.refused(&path, error);
    }
    if good.is_empty() {
        return;
    }
    match reload::apply_lists(shared, lists).await {
        Ok(()) => good.iter().for_each(|path| shared.lists.applied(path)),
        Err(error) => good.iter().for_each(|path| shared.lists.refused(path, error.to_string())),
    }
}

#[cfg(test)]
mod tests;
