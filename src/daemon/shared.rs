//! What several tasks of the daemon share: each part is a type of its own, which knows nothing of this one.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use prometheus_client::registry::Registry;

use super::exceptions::ExceptionState;
use super::flows::FlowState;
use super::history::History;
use super::listening::Listening;
use super::lists::state::ListState;
use super::metrics::DaemonMetrics;
use super::preload::Preloaded;
use super::process::Process;
use super::routers::Routers;
use super::switch::Switches;
use crate::config::{Config, Places};
use crate::control::history::Plots;
use crate::control::{Access, DeniedLog};
use crate::core_task::CoreHandle;
use crate::dns::{Listeners, Rules, View};
use crate::enforce::backend::Control;
use crate::enforce::bgp::BgpStatus;
use crate::enforce::bgp::service::Service;
use crate::store::health::Health;

/// What several tasks of the daemon share.
pub struct Shared {
    /// The handle of the core's task.
    pub core: CoreHandle,
    /// The configuration in force, and where its keys stand.
    pub config: Mutex<(Config, Places)>,
    /// The path of the configuration file, which a reload reads again.
    pub path: PathBuf,
    /// What stands above the file's `state.dir`, when it was given.
    pub state_dir: Option<PathBuf>,
    /// What questions and addresses are judged by.
    pub rules: Arc<ArcSwap<Rules>>,
    /// The list files.
    pub lists: ListState,
    /// The operator's exceptions.
    pub exceptions: ExceptionState,
    /// Held by whoever puts other rules in force.
    pub applying: tokio::sync::Mutex<()>,
    /// The DNS side.
    pub dns: View,
    /// The listeners of the DNS side.
    pub listeners: Arc<Listeners>,
    /// The other listeners, and this host's addresses.
    pub listening: Listening,
    /// Who may read over HTTP.
    pub access: Access,
    /// What was refused.
    pub denied: DeniedLog,
    /// The BGP side.
    pub peers: BgpStatus,
    /// What it was told.
    pub routers: Routers,
    /// The guard's own anycast addresses.
    pub service: Arc<Service>,
    /// The packet filter of this host, when there is one.
    pub filter: Option<Arc<dyn Control>>,
    /// How the lease journal is.
    pub journal: Health,
    /// Whether enforcers block.
    pub switches: Switches,
    /// Names that are to be kept open.
    pub preloaded: Arc<Preloaded>,
    /// Who sees live flows.
    pub flows: Arc<FlowState>,
    /// The daemon's own.
    pub metrics: Arc<DaemonMetrics>,
    /// The registry of all metrics, which a scrape encodes.
    pub registry: Mutex<Registry>,
    /// Told when the operator wants the daemon to end.
    pub stop: Arc<tokio::sync::Notify>,
    /// The sockets that the next process gets.
    pub store: Arc<crate::sys::handover::Store>,
    /// Where it waits for them.
    pub successor: PathBuf,
    /// What was in force before.
    pub history: History,
    /// What the page draws.
    pub plots: Plots,
    /// What the process may do.
    pub process: Process,
    /// Told when upstreams may be asked no more.
    pub left: tokio::sync::Notify,
    /// Why what a former configuration, or one that was refused, let pass stays open; `None`: it doesn't.
    pub stays_open: ArcSwapOption<String>,
}

impl Shared {
    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> (Config, Places) {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Another configuration is in force.
    pub fn set_config(&self, config: Config, places: Places) {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = (config, places);
    }
}
