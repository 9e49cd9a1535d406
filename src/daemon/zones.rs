//! The local zones in force: read at the start and by a reload; their files are followed while the daemon runs.
//!
//! As with lists, one that can't be read whole changes nothing: the old zone stays, and `status` says so. At a start the copy that was kept of it serves;
//! without one the zone's names get SERVFAIL until its file is mended.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::files::{self, Held, Renewed};
use crate::config::Config;
use crate::config::list_file::Stamp;
use crate::config::schema::{self, ListFormat};
use crate::control::types;
use crate::core::name::Name;
use crate::dns::zones::{Zone, read};
use crate::metrics::labelled;
use crate::store::lists::{self as copies, Which};

/// One zone in force.
#[derive(Clone, Debug)]
struct Loaded {
    config: schema::Zone,
    /// `None`: what is in force is not what stood in the file when it was read, or there is no file.
    stamp: Option<Stamp>,
    zone: Arc<Zone>,
    sha256: Option<String>,
    skipped: usize,
    since: Instant,
    /// Why what is in force is not what stands in the file now.
    trouble: Option<String>,
}

impl Loaded {
    /// Whether it is that of the file as it is.
    fn is_of_now(&self) -> bool {
        match self.config.path() {
            Some(path) => self.stamp.is_some() && self.stamp == Stamp::now(path),
            None => self.trouble.is_none(),
        }
    }
}

/// The zones in force, in the order of the configuration.
#[derive(Clone, Debug, Default)]
pub struct LocalZones(Vec<Loaded>);

impl LocalZones {
    /// As at a start: where a zone can't be read, its copy in the state directory serves, else its names get SERVFAIL.
    #[must_use]
    pub fn start(config: &Config) -> Self {
        let instead = |zone, why| copied(zone, &config.state.dir, why).unwrap_or_else(|why| broken(zone, why));
        Self(config.dns.zone.iter().map(|zone| load(zone).unwrap_or_else(|why| instead(zone, why))).collect())
    }

    /// Reads what is not the same in `old`. A zone in force whose file can't be read any more stays.
    ///
    /// # Errors
    /// Every other zone that can't be used, in words.
    pub fn load(config: &Config, old: &Self) -> Result<Self, Vec<String>> {
        let (mut zones, mut errors) = (Vec::new(), Vec::new());
        for zone in &config.dns.zone {
            let source = |zone: &schema::Zone| (zone.name.clone(), zone.file.clone(), zone.hosts.clone());
            let held = old.0.iter().find(|loaded| source(&loaded.config) == source(zone));
            if let Some(loaded) = held.filter(|loaded| loaded.config == *zone && loaded.is_of_now()) {
                zones.push(loaded.clone());
                continue;
            }
            match (load(zone), held) {
                (Ok(loaded), _) => zones.push(loaded),
                (Err(why), Some(held)) if zone.path().is_some() => {
                    let mut stays = held.clone();
                    stays.refuse(&why);
                    zones.push(stays);
                }
                (Err(why), _) => errors.push(why),
            }
        }
        if errors.is_empty() { Ok(Self(zones)) } else { Err(errors) }
    }

    /// Whether these are the same, in the same order.
    #[must_use]
    pub fn are_same(&self, other: &Self) -> bool {
        let same = |(one, other): (&Loaded, &Loaded)| Arc::ptr_eq(&one.zone, &other.zone);
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(same)
    }

    /// The zones that questions are answered from.
    #[must_use]
    pub fn zones(&self) -> Vec<Arc<Zone>> {
        self.0.iter().map(|loaded| loaded.zone.clone()).collect()
    }

    /// Why zones in force are not what stands in their files.
    pub fn troubles(&self) -> impl Iterator<Item = String> {
        self.0.iter().filter_map(|loaded| loaded.trouble.clone())
    }

    /// The zones as `status` shows them.
    #[must_use]
    pub fn views(&self) -> Vec<types::Zone> {
        let view = |loaded: &Loaded| types::Zone {
            name: loaded.config.name.clone(),
            source: loaded.config.path().map(|path| path.display().to_string()),
            records: loaded.zone.records(),
            skipped: loaded.skipped,
            sha256: loaded.sha256.clone(),
            seconds_ago: loaded.since.elapsed().as_secs(),
            trouble: loaded.trouble.clone(),
        };
        self.0.iter().map(view).collect()
    }

    /// Their files, and what of each is in force.
    #[must_use]
    pub fn held(&self) -> Vec<Held> {
        let held =
            |loaded: &Loaded| Some(Held { which: which(&loaded.config)?, stamp: loaded.stamp, is_fetched: false });
        self.0.iter().filter_map(held).collect()
    }

    /// Reads these files anew; what can't be used stays as it is.
    pub fn renew(&mut self, wanted: &[PathBuf]) -> Renewed {
        files::renew(&mut self.0, wanted, |loaded| loaded.config.path(), |loaded| load(&loaded.config))
    }

    /// This file is in force as it stands.
    pub fn mended(&mut self, path: &Path) {
        self.of(path).for_each(|loaded| loaded.trouble = None);
    }

    /// This file can't be used.
    pub fn refuse(&mut self, path: &Path, why: &str) {
        self.of(path).for_each(|loaded| loaded.refuse(why));
    }

    fn of(&mut self, path: &Path) -> impl Iterator<Item = &mut Loaded> {
        self.0.iter_mut().filter(move |loaded| loaded.config.path().is_some_and(|of| of == path))
    }
}

impl Loaded {
    fn refuse(&mut self, why: &str) {
        let words = match self.sha256 {
            Some(_) => "what it held before stays in force",
            None => "its names get SERVFAIL",
        };
        let trouble = format!("local zone {}: {words}: {why}", self.config.name);
        tracing::error!("{trouble}");
        self.trouble = Some(trouble);
    }
}

fn load(zone: &schema::Zone) -> Result<Loaded, String> {
    let loaded = read::read(zone).map(|read| loaded(zone, read)).map_err(words)?;
    let (records, skipped) = (loaded.zone.records(), loaded.skipped);
    tracing::info!(zone = zone.name, records, skipped, "local zone read");
    Ok(loaded)
}

fn loaded(zone: &schema::Zone, read: read::Read) -> Loaded {
    Loaded {
        config: zone.clone(),
        stamp: read.stamp,
        zone: Arc::new(read.zone),
        sha256: read.sha256,
        skipped: read.skipped,
        since: Instant::now(),
        trouble: None,
    }
}

fn words(wrong: Vec<read::Wrong>) -> String {
    wrong.into_iter().map(|wrong| wrong.reason).collect::<Vec<_>>().join("; ")
}

/// By the copy that was kept of its file; or why not, behind why the file can't be used.
fn copied(zone: &schema::Zone, state: &Path, why: String) -> Result<Loaded, String> {
    let Some(which) = which(zone) else { return Err(why) };
    let copy = copies::read(state, &which).map_err(|error| format!("{why}; {error}"))?;
    let Some(content) = copy else { return Err(why) };
    let mut loaded = read::of_content(zone, &content).map(|read| loaded(zone, read)).map_err(|_| why.clone())?;
    loaded.refuse(&why);
    Ok(loaded)
}

/// Which copy is of its file; a master file as response policy zones are.
fn which(zone: &schema::Zone) -> Option<Which> {
    let format = if zone.hosts.is_some() { ListFormat::Hosts } else { ListFormat::Rpz };
    Some(Which { directory: copies::ZONES, path: zone.path()?.clone(), format })
}

fn broken(zone: &schema::Zone, why: String) -> Loaded {
    let apex = read::apex(&zone.name).unwrap_or_else(|_| Name::root());
    let mut loaded = Loaded {
        config: zone.clone(),
        stamp: None,
        zone: Arc::new(Zone::broken(&apex, why.clone())),
        sha256: None,
        skipped: 0,
        since: Instant::now(),
        trouble: None,
    };
    loaded.refuse(&why);
    loaded
}

/// What is counted of zones.
#[derive(Debug, Default)]
pub struct ZoneMetrics {
    records: Family<[(&'static str, String); 1], Gauge>,
    reads: Family<[(&'static str, &'static str); 1], Counter>,
}

impl ZoneMetrics {
    /// Into the registry.
    pub fn register(&self, registry: &mut Registry) {
        labelled(registry, "zone_records", "Records of the local zones in force, by zone", &self.records);
        let help = "Local zones whose files were read anew, by outcome: applied, or refused (the old one stays)";
        labelled(registry, "zone_reads", help, &self.reads);
    }

    /// These are in force.
    pub fn set(&self, zones: &LocalZones) {
        self.records.clear();
        for loaded in &zones.0 {
            let records = i64::try_from(loaded.zone.records()).unwrap_or(i64::MAX);
            self.records.get_or_create(&[("zone", loaded.config.name.clone())]).set(records);
        }
    }

    /// One was read anew.
    pub fn count(&self, outcome: &'static str) {
        self.reads.get_or_create(&[("outcome", outcome)]).inc();
    }
}
