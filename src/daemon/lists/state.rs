//! What is known of lists and local zones in force, for the control interface and the metrics.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::fetched::FetchState;
use super::{Lists, Loaded};
use crate::control::types::{List, LoggedError};
use crate::core::policy::list::Report;
use crate::daemon::files::Kind;
use crate::daemon::zones::{LocalZones, ZoneMetrics};
use crate::metrics::labelled;

/// Most errors that are remembered.
const ERRORS: usize = 20;

/// See the module.
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
            if let Some(trouble) = loaded.trouble() {
                let mut inner = state.inner();
                inner.errors.push_front((Instant::now(), trouble.clone()));
                inner.errors.truncate(ERRORS);
                inner.troubles.insert(loaded.list.path.clone(), trouble);
            }
        }
        state.set(lists);
        state
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
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
            if let Some(trouble) = loaded.trouble() {
                inner.troubles.entry(loaded.list.path.clone()).or_insert(trouble);
            }
        }
        inner.fetches.retain(|url, _| lists.0.iter().any(|loaded| loaded.list.url.as_ref() == Some(url)));
        inner.lists = lists;
    }

    /// This file is in force as it stands.
    pub fn mended(&self, kind: Kind, path: &Path) {
        let mut inner = self.inner();
        match kind {
            Kind::Lists => drop(inner.troubles.remove(path)),
            Kind::Zones => inner.lists.1.mended(path),
        }
    }

    /// These files were read anew, and are in force.
    pub fn applied(&self, kind: Kind, good: &[PathBuf]) {
        for path in good {
            match kind {
                Kind::Lists => {
                    self.count("applied");
                    self.inner().troubles.remove(path);
                }
                Kind::Zones => self.zone_metrics.count("applied"),
            }
        }
    }

    /// These files were read anew, and could not be put in force.
    pub fn unapplied(&self, kind: Kind, good: &[PathBuf], error: &str) {
        match kind {
            Kind::Lists => good.iter().for_each(|path| self.refused_list(path, error)),
            Kind::Zones => {
                tracing::error!(%error, "local zones can't be put in force; the old ones stay");
                good.iter().for_each(|_| self.zone_metrics.count("refused"));
            }
        }
    }

    /// This file can't be used.
    pub fn refused(&self, kind: Kind, path: &Path, why: &str) {
        match kind {
            Kind::Lists => self.refused_list(path, why),
            Kind::Zones => {
                self.zone_metrics.count("refused");
                self.inner().lists.1.refuse(path, why);
            }
        }
    }

    fn count(&self, outcome: &'static str) {
        self.metrics.reads.get_or_create(&[("outcome", outcome)]).inc();
    }

    fn refused_list(&self, path: &Path, error: &str) {
        let line = format!("{error}; the old list stays in force");
        tracing::error!("{line}");
        self.count("refused");
        let mut inner = self.inner();
        inner.errors.push_front((Instant::now(), line));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_troubles_until_the_file_is_right_and_errors_are_few() {
        let state = ListState::default();
        let path = Path::new("/x");
        for number in 0..50 {
            state.refused(Kind::Lists, path, &format!("/x:{number}: wrong"));
        }
        assert_eq!(state.troubles(), ["an older list is in force: /x:49: wrong"]);
        assert_eq!(state.errors().len(), ERRORS);
        assert!(state.errors()[0].message.starts_with("/x:49: wrong"));
        state.applied(Kind::Lists, &[path.to_owned()]);
        assert!(state.troubles().is_empty());
    }
}
