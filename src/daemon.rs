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
//! Start: the file is checked; then everything that can fail is done (state directory, listeners, control socket, ruleset);
//! then leases are restored, and only then the enforcer of the kernel starts, so that the first full state it is given has them; once
//! it holds them questions are answered and systemd is told.
//! Stop: no more questions are taken; then the enforcers do what the configuration says about stopping.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::config::schema::NftablesMode;
use crate::config::{self, Config, Places};
use crate::control::{self, ControlSocket, DeniedLog, NamespaceName};
use crate::core::client::Clients;
use crate::core::event::{EnforcerId, EnforcerSpec, Event};
use crate::core::groups::Groups;
use crate::core::guard::{Guard, Settings};
use crate::core_task::{self, CoreHandle, Drivers, core_task};
use crate::dns;
use crate::enforce::bgp::{self, BgpEnforcer};
use crate::enforce::{self, Enforcer as _, nftables};
use crate::store::journal::LeaseJournal;
use crate::sys::clock::Clock;
use crate::sys::handover::{self, Predecessor, Store};
use crate::sys::privileges;

pub mod early;
pub mod exceptions;
pub mod history;
pub mod judge;
pub mod listening;
pub mod lists;
pub mod neighbours;
pub mod packets;
pub mod process;
pub mod reload;
pub mod routers;
pub mod rules;
pub mod sources;
pub mod switch;
pub mod wall;
pub mod watchdog;

use listening::Listening;
use lists::{ListState, Lists};
use process::confined;
use sources::Shared;

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
}

/// Why the daemon did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration was refused.
    #[error("{0}")]
    Config(config::Report),
    /// Anything else, with its cause.
    #[error("{0}")]
    Failed(String),
}

impl RunError {
    fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }
}

/// How long the kernel may take to hold the leases that were restored.
const HOLDING: Duration = Duration::from_secs(10);
/// How long questions that were taken may be waited for at the end. Those that come meanwhile wait for the next process.
const DRAINING: Duration = Duration::from_secs(1);
/// How long what belongs to one daemon at a time may be held by the one that was replaced.
const LETTING_GO: Duration = Duration::from_secs(2);
/// How long the enforcers may take to stop.
const STOPPING: Duration = Duration::from_secs(5);

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// [`RunError`].
pub fn run(options: &RunOptions) -> Result<(), RunError> {
    let (mut config, warnings, places) = config::load(&options.config).map_err(RunError::Config)?;
    // First: what systemd kept has fixed numbers; and whom we replace may be another user's.
    let store = Arc::new(Store::new());
    let replaced = if options.replace { replace(&options.socket, &store)? } else { None };
    // Before there are threads: each has its own.
    let mut needed = privileges::needed(&config);
    if config.nftables.mode == NftablesMode::Off && nftables::is_left_behind() {
        // To say so, and to take it away when the operator wants that.
        needed.insert(privileges::LEFT_BEHIND);
    }
    let given_up = privileges::give_up(&needed);
    if let Some(directory) = &options.state_dir {
        config.state.dir.clone_from(directory);
    }
    let process = confined(&config, &options.socket, given_up.err());
    crate::sys::log::start().map_err(RunError::Failed)?;
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
        .map_err(|error| RunError::Failed(format!("the runtime can't be started: {error}")))?;
    let outcome = runtime.block_on(guarded(options, config, places, process, (store, replaced)));
    // Nothing that is left may keep the process: what matters has been awaited.
    runtime.shutdown_timeout(Duration::from_millis(200));
    crate::sys::log::finish();
    outcome
}

/// Everything of the enforcers that the daemon holds.
struct Enforcers {
    specs: Vec<EnforcerSpec>,
    nftables: Option<Box<nftables::Enforcer>>,
    /// Also without peers: they may come.
    bgp: BgpEnforcer,
}

impl Enforcers {
    /// Makes them; nothing of the kernel or the network is touched yet. `restored`: leases of an earlier run are there; `own`: the guard's
    /// own traffic.
    fn new(config: &Config, clock: Clock, restored: bool, own: nftables::Own) -> Result<Self, RunError> {
        let mut specs = Vec::new();
        let id = |specs: &Vec<EnforcerSpec>| EnforcerId(u16::try_from(specs.len()).unwrap_or(u16::MAX));
        let mut nft = None;
        if config.nftables.mode != NftablesMode::Off {
            let rules = switch::rules(config, own);
            let made = nftables::Enforcer::new(&rules, clock, id(&specs)).map_err(RunError::failed)?;
            let capacity = config.lease.capacity;
            specs.push(nftables::Enforcer::spec(capacity));
            nft = Some(Box::new(made));
        }
        let mut next = id(&specs).0;
        let number = |_: &_, _: &str| {
            let id = EnforcerId(next);
            next = next.saturating_add(1);
            id
        };
        let bgp = BgpEnforcer::with_ids(config, number, restored).map_err(RunError::failed)?;
        specs.extend_from_slice(bgp.specs());
        Ok(Self { specs, nftables: nft, bgp })
    }
}

/// Where the guard itself connects to.
pub fn own_traffic(config: &Config) -> Vec<nftables::OwnTraffic> {
    let mut own = Vec::new();
    for upstream in &config.dns.upstream {
        // A URL that can't be read was refused by the check.
        let Ok(url) = upstream.url.parse::<config::UpstreamUrl>() else { continue };
        let (address, port) = (url.addr.ip(), url.addr.port());
        let transports: &[nftables::Transport] = match url.transport {
            config::Transport::Udp => &[nftables::Transport::Udp, nftables::Transport::Tcp],
            config::Transport::Quic => &[nftables::Transport::Udp],
            config::Transport::Tcp | config::Transport::Tls | config::Transport::Https => &[nftables::Transport::Tcp],
        };
        own.extend(transports.iter().map(|&transport| nftables::OwnTraffic { address, transport, port }));
    }
    own.extend(config.bgp.peer.iter().map(|peer| nftables::OwnTraffic {
        address: *peer.address,
        transport: nftables::Transport::Tcp,
        port: peer.port,
    }));
    own.extend(config.bgp.peer.iter().filter(|peer| peer.bfd).map(|peer| nftables::OwnTraffic {
        address: *peer.address,
        transport: nftables::Transport::Udp,
        port: bgp::bfd_port(peer),
    }));
    own
}

/// The ports that the guard itself answers from.
pub fn own_listeners(
    config: &Config,
    (tcp, udp): (Vec<u16>, Vec<u16>),
    http: Vec<u16>,
) -> Vec<(nftables::Transport, u16)> {
    let bgp = config.bgp.listen.iter().map(|address| address.port());
    let tcp = tcp.into_iter().chain(http).chain(bgp).map(|port| (nftables::Transport::Tcp, port));
    tcp.chain(udp.into_iter().map(|port| (nftables::Transport::Udp, port))).collect()
}

/// Has the daemon that runs hand its sockets over and end; `None`: there is none.
fn replace(socket: &std::path::Path, store: &Store) -> Result<Option<Predecessor>, RunError> {
    let path = socket.to_owned();
    let ask = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let asked = runtime.block_on(control::client::ask(&path, hyper::Method::POST, "/api/v1/hand-over"));
        asked.map(drop).map_err(|error| error.to_string())
    };
    if std::os::unix::net::UnixStream::connect(socket).is_err_and(|error| nobody_listens(&error)) {
        return Ok(None);
    }
    handover::replace(socket, store, ask).map(Some).map_err(RunError::Failed)
}

fn nobody_listens(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused)
}

/// Opens what only one daemon may have, which the one before may be about to let go.
async fn soon<T, E>(replacing: bool, mut open: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let begun = std::time::Instant::now();
    loop {
        match open() {
            Err(_) if replacing && begun.elapsed() < LETTING_GO => tokio::time::sleep(Duration::from_millis(5)).await,
            opened => return opened,
        }
    }
}

async fn guarded(
    options: &RunOptions,
    config: Config,
    places: Places,
    process: process::Process,
    (store, replaced): (Arc<Store>, Option<Predecessor>),
) -> Result<(), RunError> {
    let mut signals = Signals::listen()?;
    let replacing = replaced.is_some();
    if let Some(replaced) = replaced {
        replaced.wait().map_err(RunError::Failed)?;
    }
    let name = match config.nftables.mode {
        NftablesMode::Off => None,
        _ => NamespaceName::take().await.map_err(RunError::failed)?,
    };
    let clock = Clock::start();
    let linger = routers::linger(&config);
    let control = soon(replacing, || ControlSocket::bind(&options.socket))
        .await
        .map_err(|error| RunError::Failed(format!("{}: {error}", options.socket.display())))?;
    // Beside the socket, which this daemon alone has.
    let mut spare = options.socket.clone().into_os_string();
    spare.push(".leases");
    let open = || LeaseJournal::open(&config.state.dir, Some(spare.as_ref()), clock, config.lease.max.0, linger);
    let (mut journal, restored) = soon(replacing, open).await.map_err(RunError::failed)?;
    let health = journal.health();
    let here = rules::here(&config).map_err(RunError::Failed)?;
    let lists = Lists::start(&config);
    let exceptions = exceptions::ExceptionState::open(config.state.dir.clone(), clock);
    let made = rules::rules(&config, &lists, &here).map_err(RunError::Failed)?;
    let rules = Arc::new(ArcSwap::from_pointee(made.with_exceptions(&exceptions.current())));
    let sockets = dns::bind_or_take(&config, store.clone()).map_err(RunError::failed)?;
    let listening = Listening::bind(&config, here.clone(), store.clone())?;
    let listeners = own_listeners(&config, sockets.ports(), listening.ports());
    let own = nftables::Own { traffic: own_traffic(&config), listeners };
    let mut enforcers = Enforcers::new(&config, clock, !restored.is_empty(), own.clone())?;
    if let Some(nft) = &mut enforcers.nftables {
        nft.install().map_err(RunError::failed)?;
    }
    let left_out = enforcers.nftables.as_ref().map(|nft| nft.left_out().to_vec()).unwrap_or_default();

    let disarmer = enforcers.nftables.as_ref().map(|nft| nft.disarmer());
    if disarmer.is_none() && nftables::is_left_behind() {
        tracing::warn!("{}", sources::LEFT_BEHIND);
    }

    let (reports, inbox) = mpsc::channel(core_task::REPORTS);
    let settings = Settings { lease: config.lease.clone(), gate: config.gate.clone(), linger };
    let groups = Groups::new(&config).map_err(RunError::Failed)?;
    let mut guard =
        Guard::new(settings, enforcers.specs.clone()).with_groups(Arc::new(groups)).announcing(config.bgp_enforces());
    guard = guard.knowing(Arc::new(Clients::new(&config)));
    if config.per_client() {
        guard = guard.for_single_clients();
    }
    let pairs = journal.take_pairs();
    let restored_by = journal.restored_by().filter(|_| !restored.is_empty());
    let mut tasks = Vec::new();
    let mut switches = switch::Switches::new(&config, own, left_out);
    let mut drivers = Drivers { timed: Vec::new(), routes: None, journal: Some(Box::new(journal)) };
    let mut kernel = None;
    if let Some(nft) = enforcers.nftables {
        let (sender, commands) = mpsc::channel(enforce::COMMANDS);
        switches.nftables = Some(switch::Packets::new(sender.downgrade(), &config));
        kernel = Some(nft.run(commands, reports.clone()));
        drivers.timed.push((EnforcerId(0), sender));
    }
    let (sender, commands) = mpsc::channel(enforce::COMMANDS);
    switches.bgp = Some(sender.downgrade());
    let routers = routers::Routers::new(sender.downgrade(), &enforcers.bgp);
    let running = enforcers.bgp.start().await.map_err(RunError::failed)?;
    let peers = running.status();
    tasks.push(tokio::spawn(running.run(commands, reports.clone())));
    drivers.routes = Some(sender);
    drop(reports);
    let (core, task) = core_task(guard, drivers, inbox, clock);
    let core_task = tokio::spawn(task);
    if !restored.is_empty() {
        tracing::info!(leases = restored.len(), "leases restored");
    }
    // Told even when empty: enforcers that took over routes of an earlier process may then let go of what is not restored.
    core.tell(Event::Restore(restored)).await.map_err(RunError::failed)?;
    core.tell(Event::RestorePairs(pairs)).await.map_err(RunError::failed)?;
    // The policy may have changed while the guard was down.
    reload::close_what_is_forbidden(&core, rules.load_full()).await.map_err(RunError::Failed)?;
    if let Some(kernel) = kernel {
        tasks.push(tokio::spawn(kernel));
        wait_for_the_kernel(&core).await?;
    }

    let mut registry = crate::metrics::registry();
    crate::sys::log::register(&mut registry);
    let mut packets = None;
    if disarmer.is_some() {
        nftables::metrics::register(&mut registry);
        packets = Some(packets::PacketMetrics::register(&mut registry));
    }
    bgp::metrics::register(&mut registry, peers.clone());
    let core_metrics = sources::core_metrics(&mut registry, core.clone(), health.clone());
    let lists = ListState::new(lists, &mut registry);
    let denied = DeniedLog::default();
    let resolver = dns::start(&config, sockets, rules.clone(), core.clone(), clock, denied.clone(), &mut registry)
        .map_err(RunError::failed)?;
    let blocks = switches.nftables_blocks.clone();
    let packets = packets.map(|metrics| packets::follow(denied.clone(), metrics, blocks));
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
        denied,
        peers,
        routers,
        nftables: disarmer,
        journal: health,
        switches,
        registry: Mutex::new(registry),
        stop: Arc::default(),
        store: store.clone(),
        successor: handover::successor(&options.socket),
        history: history::History::default(),
        process,
        left: tokio::sync::Notify::new(),
    });
    let mut served = vec![tokio::spawn(control.serve(shared.clone()))];
    served.extend(name.map(|name| tokio::spawn(name.serve(shared.clone()))));
    shared.listening.look(&shared);
    store.settle();
    served.push(tokio::spawn(core_metrics));
    served.extend(restored_by.map(|apart| tokio::spawn(wall::follow(core.clone(), apart, config.lease.max.0))));
    served.extend(packets.map(tokio::spawn));
    served.push(tokio::spawn(lists::follow(shared.clone())));
    served.push(tokio::spawn(exceptions::follow(shared.clone())));
    served.push(tokio::spawn(history::follow(shared.clone())));
    served.push(tokio::spawn(reload::upstreams::follow(shared.clone())));
    served.push(tokio::spawn(neighbours::follow(shared.clone())));
    served.push(tokio::spawn(listening::follow(shared.clone(), here)));
    tracing::info!(listen = ?resolver.addresses(), "destguard answers");
    early::keep(&options.config, &config.state.dir);
    notify(&[sd_notify::NotifyState::Ready]);
    served.extend(watchdog::interval().map(|interval| tokio::spawn(watchdog::follow(core.clone(), interval))));

    let ended = wait_for_signals(&mut signals, &shared, core_task).await;

    notify(&[sd_notify::NotifyState::Stopping]);
    served.iter().for_each(JoinHandle::abort);
    shared.listening.end();
    resolver.drain(DRAINING).await;
    resolver.stop();
    drop(shared);
    stop(core, served, tasks, STOPPING + config.bgp.shutdown_drain.0).await;
    tracing::info!("destguard has stopped");
    ended
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

/// What the daemon is told by signals. Those that come while it starts wait until it runs: a reload then would be its end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> Result<Self, RunError> {
        let wanted = |kind| signal(kind).map_err(|error| RunError::Failed(format!("signals: {error}")));
        let (terminate, interrupt) = (wanted(SignalKind::terminate())?, wanted(SignalKind::interrupt())?);
        Ok(Self { terminate, interrupt, hangup: wanted(SignalKind::hangup())? })
    }
}

/// Until SIGTERM or SIGINT; SIGHUP reloads.
async fn wait_for_signals(
    signals: &mut Signals,
    shared: &Arc<Shared>,
    mut core_task: JoinHandle<()>,
) -> Result<(), RunError> {
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return Ok(()),
            _ = signals.interrupt.recv() => return Ok(()),
            () = shared.stop.notified() => return Ok(()),
            _ = signals.hangup.recv() => {
                let outcome = reload::reload(shared, reload::Wish::default()).await;
                if outcome.applied {
                    tracing::info!(changes = ?outcome.changes, needs_restart = ?outcome.needs_restart, "the configuration was reloaded");
                } else {
                    tracing::error!("the old configuration stays:\n{}", outcome.report);
                }
            }
            ended = &mut core_task => {
                return Err(RunError::Failed(match ended {
                    Ok(()) => "the core ended".to_owned(),
                    Err(error) => format!("the core failed: {error}"),
                }));
            }
        }
    }
}

/// Tells systemd, when it wants to know.
fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd can't be notified");
    }
}
