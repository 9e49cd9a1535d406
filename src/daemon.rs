//! Spawns every task, in the order in which nothing can be half started.
//!
//! ```text
//!   clients --> dns workers --admit--> core task --Command--> nftables enforcer --report--+
//!                   |                   ^  |  ^ --Command--> bgp enforcer       --report--+
//!                upstreams              |  |  |                                           |
//!                                       |  |  +----------------- reports -----------------+
//!   command line --> control socket ----+  +--> lease journal
//! ```
//!
//! No part leads back to itself (`tests/imports.rs`), and none uses this file:
//!
//! ```text
//!   what is in force or known:  rules, lists (files, zones), hours, exceptions, routers, listening, switch, history
//!   what tasks share of it:     shared
//!   how it becomes another:     reload (by the file)      changes (by itself: files, hours, exceptions, addresses, a trial's end)
//!   what goes on beside:        fetch, flows, preload, neighbours, packets, revalidate, service, metrics, usage, plots, wall
//!   what is told of it:         sources (judge, applications, containers, suggest)
//!   how it starts and ends:     takeover, privileges, process, own, enforcers, signals, watchdog; early, where no daemon runs yet
//! ```
//!
//! Start: the file is checked; then everything that can fail is done (state directory, listeners, control socket, ruleset);
//! then leases are restored, and only then the enforcer of the kernel starts, so that the first full state it is given has them; once
//! it holds them questions are answered and systemd is told.
//! Stop: the service addresses are withdrawn; then no more questions are taken; then the enforcers do what the configuration says about stopping.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::check;
use crate::config::schema::NftablesMode;
use crate::config::{Config, Places};
use crate::control::{self, ControlSocket, DeniedLog, NamespaceName, Sources};
use crate::core::client::Clients;
use crate::core::event::{EnforcerId, EnforcerKind, EnforcerSpec, Event, Reload, StoredLease, StoredPair};
use crate::core::groups::Groups;
use crate::core_task::{self, CoreHandle, Drivers, Stopped, core_task};
use crate::dns;
use crate::enforce::backend::{self, Backend as _};
use crate::enforce::bgp;
use crate::enforce::bgp::backend::BgpBackend;
use crate::enforce::bgp::service::Service;
use crate::enforce::rules::Own;
use crate::enforce::{self, packet_filters};
use crate::recording::line::Beginning;
use crate::recording::{self, Recorder};
use crate::store::journal::LeaseJournal;
use crate::sys::clock::Clock;
use crate::sys::handover::{self, Predecessor, Store};
use crate::sys::interfaces::Here;

// How it starts and ends.
pub mod early;
pub mod enforcers;
pub mod error;
pub mod own;
pub mod privileges;
pub mod process;
pub mod signals;
pub mod takeover;
pub mod watchdog;

// What is in force, or known; `shared` holds them all, and none of the others knows of it.
pub mod exceptions;
pub mod files;
pub mod history;
pub mod hours;
pub mod listening;
pub mod lists;
pub mod routers;
pub mod rules;
pub mod shared;
pub mod switch;
pub mod zones;

// How other things come in force: by a reload, or by themselves.
pub mod changes;
pub mod reload;

// What goes on beside.
pub mod fetch;
pub mod flows;
pub mod metrics;
pub mod neighbours;
pub mod packets;
pub mod plots;
pub mod preload;
#[cfg(feature = "ebpf")]
pub mod refusals;
pub mod revalidate;
pub mod service;
pub mod usage;
pub mod wall;
mod whose;

// What the control interface is told.
pub mod applications;
pub mod containers;
pub mod judge;
pub mod sources;
pub mod suggest;

use enforcers::{Enforcers, HOLDING};
use error::RunError;
use files::Kind;
use listening::Listening;
use lists::Lists;
use lists::state::ListState;
use process::confined;
use shared::Shared;
use signals::Signals;
use takeover::soon;
use watchdog::notify;

/// What `destguard run` was told.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The configuration file.
    pub config: PathBuf,
    /// Instead of `state.dir`.
    pub state_dir: Option<PathBuf>,
    /// Where the control socket goes.
    pub socket: PathBuf,
    /// Takes the place of the daemon that runs there.
    pub replace: bool,
    /// What the core hears is recorded.
    pub record: Option<recording::Wanted>,
}

/// How long questions that were taken may be waited for at the end. Those that come meanwhile wait for the next process.
const DRAINING: Duration = Duration::from_secs(1);
/// How long the enforcers may take to stop.
const STOPPING: Duration = Duration::from_secs(5);

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// [`RunError`].
pub fn run(options: &RunOptions) -> Result<(), RunError> {
    let (mut config, warnings, places) = check::load(&options.config).map_err(RunError::Config)?;
    // First: what systemd kept has fixed numbers; and whom we replace may be another user's.
    let store = Arc::new(Store::new());
    let replaced = if options.replace { takeover::replace(&options.socket, &store)? } else { None };
    // Before there are threads: each has its own.
    let mut needed = privileges::needed(&config);
    // To say so, and to take it away: when another guards now, or when the operator wants that.
    let used = (config.nftables.mode != NftablesMode::Off).then_some(config.enforcer.as_str());
    needed.extend(packet_filters::left_behind(used).flat_map(privileges::left_behind));
    let given_up = crate::sys::privileges::give_up(&needed);
    if let Some(directory) = &options.state_dir {
        config.state.dir.clone_from(directory);
        config.place_lists();
    }
    // Later there is no right to.
    let record = options.record.as_ref().map(Recorder::open).transpose().map_err(RunError::failed)?;
    let process = confined(&config, &options.socket, given_up.err());
    crate::sys::log::start().map_err(RunError::failed)?;
    for why in &process.troubles {
        tracing::warn!("the daemon may do more than it needs: {why}");
    }
    if !crate::sys::memory::few_heaps() {
        tracing::debug!("the allocator takes no settings");
    }
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| RunError::failed(format!("the runtime can't be started: {error}")))?;
    let outcome = runtime.block_on(guarded(options, config, places, (process, record), (store, replaced)));
    // Nothing that is left may keep the process: what matters has been awaited.
    runtime.shutdown_timeout(Duration::from_millis(200));
    crate::sys::log::finish();
    outcome
}

async fn guarded(
    options: &RunOptions,
    config: Config,
    places: Places,
    (process, record): (process::Process, Option<std::fs::File>),
    (store, replaced): (Arc<Store>, Option<Predecessor>),
) -> Result<(), RunError> {
    let mut signals = Signals::listen()?;
    let replacing = replaced.is_some();
    if let Some(replaced) = replaced {
        replaced.wait().map_err(RunError::failed)?;
    }
    let name = match config.nftables.mode {
        NftablesMode::Off => None,
        _ => NamespaceName::take().await.map_err(RunError::failed)?,
    };
    let clock = Clock::start();
    let linger = routers::linger(&config);
    let control = soon(replacing, || ControlSocket::bind(&options.socket))
        .await
        .map_err(|error| RunError::failed(format!("{}: {error}", options.socket.display())))?;
    // Beside the socket, which this daemon alone has.
    let mut spare = options.socket.clone().into_os_string();
    spare.push(".leases");
    let applications = || config.nftables.application.iter().map(|one| one.name.clone()).collect();
    let open = || {
        LeaseJournal::open(&config.state.dir, Some(spare.as_ref()), clock, config.lease.max.0, linger, applications())
    };
    let (mut journal, restored) = soon(replacing, open).await.map_err(RunError::failed)?;
    let health = journal.health();
    let here = rules::here(&config, None).map_err(RunError::failed)?;
    let lists = Lists::start(&config);
    let exceptions = exceptions::ExceptionState::open(config.state.dir.clone(), clock);
    let now = hours::now(&config).map_err(RunError::failed)?;
    let made = rules::rules(&config, &lists, &here, &now).map_err(RunError::failed)?;
    let rules = Arc::new(ArcSwap::from_pointee(made.with_exceptions(&exceptions.current())));
    let sockets = dns::bind_or_take(&config, store.clone()).map_err(RunError::failed)?;
    let listening = Listening::bind(&config, here.clone(), store.clone()).map_err(RunError::failed)?;
    let access = control::Access::default();
    access.switch(access.prepare(&config.http).map_err(RunError::failed)?);
    let listeners = own::listeners(&config, sockets.ports(), listening.ports());
    let own = Own { traffic: own::traffic(&config), listeners };
    let mut enforcers = Enforcers::new(&config, clock, !restored.is_empty(), own.clone())?;
    for spec in enforcers.specs.iter().filter(|spec| spec.kind == EnforcerKind::Timed) {
        enforce::can_hold(&spec.name, spec.narrow, &config).map_err(RunError::failed)?;
    }
    let left_out = enforcers.install(&config).await?;
    let filter = enforcers.packets.as_ref().map(|packets| packets.control());

    let (reports, inbox) = mpsc::channel(core_task::REPORTS);
    let groups = Groups::new(&now.narrow(&config)).map_err(RunError::failed)?;
    let begins = beginning(&config, enforcers.specs.clone(), groups);
    let guard = begins.guard();
    let recorder = match (record, &options.record) {
        (Some(file), Some(wanted)) => Some(Recorder::start(file, wanted, begins).map_err(RunError::failed)?),
        _ => None,
    };
    let pairs = journal.take_pairs();
    let restored_by = journal.restored_by().filter(|_| !restored.is_empty());
    let mut tasks = Vec::new();
    let mut switches = switch::Switches::new(&config, own, left_out);
    let mut drivers = Drivers { timed: Vec::new(), routes: None, journal: Some(Box::new(journal)), recorder };
    let mut kernel = None;
    if let Some(backend) = enforcers.packets {
        let narrow = enforcers.specs.first().map(|spec| spec.narrow).unwrap_or_default();
        let (sender, commands) = mpsc::channel(enforce::COMMANDS);
        switches.packets = Some(switch::Packets::new(sender.downgrade(), &config, narrow));
        kernel = Some(backend.run(commands, reports.clone()));
        drivers.timed.push((EnforcerId(0), sender));
    }
    let (sender, commands) = mpsc::channel(enforce::COMMANDS);
    switches.bgp = Some(sender.downgrade());
    let routers = routers::Routers::new(sender.downgrade(), &enforcers.bgp);
    let mut speaker = Box::new(BgpBackend::new(enforcers.bgp, clock, routers::judge(Arc::clone(&rules))));
    let peers = speaker.start().await.map_err(RunError::failed)?;
    let routes = speaker.control();
    let service = Arc::new(Service::start(&config).await.map_err(RunError::failed)?);
    tasks.push(tokio::spawn(speaker.run(commands, reports.clone())));
    drivers.routes = Some(sender);
    drop(reports);
    let (core, task) = core_task(guard, drivers, inbox, clock);
    let core_task = tokio::spawn(task);
    if !restored.is_empty() {
        tracing::info!(leases = restored.len(), "leases restored");
    }
    restore(&core, &config, (restored, pairs), &rules.load()).await.map_err(RunError::failed)?;
    if let Some(kernel) = kernel {
        tasks.push(tokio::spawn(kernel));
        wait_for_the_kernel(&core).await?;
    }

    let mut registry = crate::metrics::registry();
    crate::metrics::log::register(&mut registry);
    let mut packets = None;
    if let Some(filter) = &filter {
        filter.register(&mut registry);
        packets = Some(packets::PacketMetrics::register(&mut registry, filter.status().name));
    }
    routes.register(&mut registry);
    access.register(&mut registry);
    bgp::service::metrics::register(&mut registry, service.clone());
    let counted = Arc::new(metrics::DaemonMetrics::register(&mut registry));
    let lists = ListState::new(lists, &mut registry);
    let denied = DeniedLog::default();
    let resolver = dns::start(&config, sockets, rules.clone(), core.clone(), clock, denied.clone(), &mut registry)
        .map_err(RunError::failed)?;
    let usage = resolver.view().usage();
    usage::load(&usage, &config.state.dir);
    let blocks = switches.packets_block.clone();
    let (refused, refusals) = tokio::sync::mpsc::channel(revalidate::WAITING);
    let packets = packets.map(|metrics| -> backend::Later<'static, ()> {
        let logs = (denied.clone(), usage, core.clone());
        #[cfg(feature = "ebpf")]
        if config.enforcer == enforce::ebpf::NAME {
            return Box::pin(refusals::follow(logs, metrics, blocks, refused));
        }
        Box::pin(packets::follow(logs, metrics, blocks, refused))
    });
    let revalidations = revalidate::RevalidateMetrics::register(&mut registry);
    let flows = Arc::new(flows::FlowState::new(&config, &mut registry));
    let shared = Arc::new(Shared {
        core: core.clone(),
        config: Mutex::new((config.clone(), places)),
        path: options.config.clone(),
        state_dir: options.state_dir.clone(),
        rules,
        lists,
        applying: tokio::sync::Mutex::new(()),
        exceptions,
        dns: resolver.view(),
        listeners: resolver.listeners(),
        listening,
        access,
        denied,
        peers,
        routers,
        service: service.clone(),
        filter,
        journal: health,
        switches,
        registry: Mutex::new(registry),
        metrics: counted,
        preloaded: Arc::default(),
        flows,
        stop: Arc::default(),
        store: store.clone(),
        successor: handover::successor(&options.socket),
        history: history::History::default(),
        plots: control::history::Plots::default(),
        process,
        left: tokio::sync::Notify::new(),
        stays_open: arc_swap::ArcSwapOption::empty(),
    });
    let sources: Arc<dyn Sources> = shared.clone();
    let mut served = vec![tokio::spawn(control.serve(sources.clone()))];
    served.extend(name.map(|name| tokio::spawn(name.serve(sources.clone()))));
    shared.listening.look(&sources);
    store.settle();
    served.push(tokio::spawn(metrics::follow(shared.metrics.clone(), sources, shared.journal.clone())));
    served.extend(restored_by.map(|apart| tokio::spawn(wall::follow(core.clone(), apart, config.lease.max.0))));
    served.extend(packets.map(tokio::spawn));
    served.push(tokio::spawn(revalidate::follow(shared.clone(), refusals, revalidations)));
    served.extend(tasks_of(&shared, here));
    tracing::info!(listen = ?resolver.addresses(), "destguard answers");
    early::keep(&options.config, &config.state.dir);
    notify(&[sd_notify::NotifyState::Ready]);
    served.extend(watchdog::interval().map(|interval| tokio::spawn(watchdog::follow(core.clone(), interval))));

    let ended = signals.wait(&shared, core_task).await;

    notify(&[sd_notify::NotifyState::Stopping]);
    service::leave(&shared).await;
    served.iter().for_each(JoinHandle::abort);
    shared.listening.end();
    resolver.drain(DRAINING).await;
    resolver.stop();
    let (log, usage) = (shared.dns.query_log(), shared.dns.usage());
    drop(shared);
    let directory = config.state.dir.clone();
    let finish = move || {
        log.finish();
        usage::keep(&usage, &directory);
    };
    if tokio::task::spawn_blocking(finish).await.is_err() {
        tracing::error!("the query log did not end");
    }
    service.end().await;
    stop(core, served, tasks, STOPPING + config.bgp.shutdown_drain.0).await;
    tracing::info!("destguard has stopped");
    ended
}

/// What the core begins with.
fn beginning(config: &Config, enforcers: Vec<EnforcerSpec>, groups: Groups) -> Beginning {
    Beginning {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        lease: config.lease.clone(),
        gate: config.gate.clone(),
        linger: routers::linger(config),
        enforcers,
        groups: Arc::new(groups),
        clients: Arc::new(Clients::new(config)),
        announces: config.bgp_enforces(),
        per_client: config.per_client(),
        client_prefix: config.nftables.client_ipv6_prefix,
        narrow: config.is_narrow(),
    }
}

/// Tells the core of the leases of an earlier run, and has it judge them.
async fn restore(
    core: &CoreHandle,
    config: &Config,
    (leases, pairs): (Vec<StoredLease>, Vec<StoredPair>),
    rules: &dns::Rules,
) -> Result<(), Stopped> {
    core.tell(Event::Exchange(routers::among_guards(config))).await?;
    // Told even when empty: enforcers that took over routes of an earlier process may then let go of what is not restored.
    core.tell(Event::Restore(leases)).await?;
    core.tell(Event::RestorePairs(pairs)).await?;
    // The policy may have changed while the guard was down.
    core.reload(Reload { judge: Some(rules.judge()), ..Reload::default() }).await
}

/// What goes on beside questions and control sockets, until it is aborted. `here`: this host as the rules know it.
fn tasks_of(shared: &Arc<Shared>, here: Here) -> Vec<JoinHandle<()>> {
    let of = || shared.clone();
    let kept_open = of();
    let kept_open = move || kept_open.config().0.lease.preload;
    vec![
        tokio::spawn(changes::files::follow(of(), Kind::Lists)),
        tokio::spawn(changes::files::follow(of(), Kind::Zones)),
        tokio::spawn(changes::exceptions::follow(of())),
        tokio::spawn(changes::hours::follow(of(), jiff::Timestamp::now)),
        tokio::spawn(changes::trial::follow(of())),
        tokio::spawn(changes::addresses::follow(of(), here)),
        tokio::spawn(reload::upstreams::follow(of())),
        tokio::spawn(fetch::follow(of())),
        tokio::spawn(preload::follow(shared.preloaded.clone(), shared.dns.clone(), kept_open)),
        tokio::spawn(flows::follow(shared.flows.clone(), shared.core.clone())),
        tokio::spawn(neighbours::follow(shared.dns.clone(), shared.core.clone())),
        tokio::spawn(service::follow(of())),
        tokio::spawn(plots::follow(of())),
        tokio::spawn(usage::follow(of())),
    ]
}

/// No question is answered before the kernel holds what was restored: a kept answer of a client's own may name any of it.
async fn wait_for_the_kernel(core: &CoreHandle) -> Result<(), RunError> {
    match tokio::time::timeout(HOLDING, core.held()).await {
        Ok(held) => held.map_err(RunError::failed),
        Err(_) => {
            // The gate keeps answers with addresses until it does; the others need not wait for it.
            tracing::error!("the kernel doesn't hold the leases after {} s", HOLDING.as_secs());
            Ok(())
        }
    }
}

/// Closes the core, and with it the enforcers' channels; waits until they have done what is to be done at the end.
async fn stop(core: CoreHandle, served: Vec<JoinHandle<()>>, enforcers: Vec<JoinHandle<()>>, patience: Duration) {
    for task in served {
        // Aborted: an error is what is expected.
        drop(task.await);
    }
    // Told, since others may hold it too: a connection to the control socket that is open, a question that waits for its upstream.
    if tokio::time::timeout(patience, core.stop()).await.is_err() {
        tracing::error!("the core did not stop within {} s", patience.as_secs());
    }
    drop(core);
    for task in enforcers {
        match tokio::time::timeout(patience, task).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "an enforcer ended badly"),
            Err(_) => tracing::error!("an enforcer did not stop within {} s", patience.as_secs()),
        }
    }
}
