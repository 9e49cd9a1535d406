//! The tokio driver: sockets and tasks around the pure machines.
//!
//! ```text
//!   Speaker::apply --> Table (one, behind a mutex) --watch: "changed"--> one task per peer --> sockets
//!   listeners --mpsc(4): accepted connections--------------------------> one task per peer
//!   Speaker::stop --watch: how to stop---------------------------------> one task per peer
//!   one task per peer --mpsc(EVENTS): Up, Down, Confirmed--------------> the caller
//!   one BFD task for all peers --watch: BfdStatus----------------------> one task per peer
//! ```
//!
//! The mutex around the table is held to put changes in and to take one batch out, never across an await. A peer task that the caller's event channel
//! keeps waiting stops serving its peer until there is room, so the caller must always read.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle};

use crate::adj_out::AdjOut;
use crate::config::{Confirm, PeerConfig, Role, SpeakerConfig};
use crate::leases::Word;
use crate::networks::Networks;
use crate::session::Stop;
use crate::status::{BfdStatus, PeerStatus};
use crate::table::classes::Want;
use crate::table::{ReaderId, Table};
use crate::wire::iana::Families;

use self::observed::Observed;

pub mod bfd;
mod connection;
mod link;
mod listen;
mod observed;
mod peer;
mod prober;
pub mod reconfigure;
pub mod sys;
#[cfg(test)]
mod tests;

/// Room in the channel of events.
pub const EVENTS: usize = 1024;
/// Most addresses that somebody waits for kept for peers that haven't looked.
const HURRIED: usize = 4096;
/// Accepted connections that wait for a peer's task.
const ACCEPTED: usize = 4;
/// Places for peers that come while the speaker runs, beside those that become free.
const SPARE: usize = 1024;
/// How long peers may take to be told that their sessions end.
const PATIENCE: Duration = Duration::from_secs(2);
/// A peer task that panicked is started again after this.
const REBIRTH: Duration = if cfg!(test) { Duration::from_millis(200) } else { Duration::from_secs(5) };

/// What happened at a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerEvent {
    /// Its place: index into the [`SpeakerConfig::peers`] that the speaker was started with; of one that came later, another number.
    pub peer: usize,
    /// What [`PeerConfig::tag`] was when it was sent.
    pub tag: u64,
    /// What the session, or its router, did.
    pub what: What,
}

/// What happened at a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The session came up; the table is on its way.
    Up {
        /// Configured, but the peer doesn't have them. While the table holds leased routes of these, nothing is confirmed.
        missing: Families,
    },
    /// The session went down; why, in one line. Nothing is in force there any more.
    Down(String),
    /// Everything up to this generation is in force there. After [`What::Up`] this comes once the whole table is.
    Confirmed {
        /// Generation of the table up to which all is confirmed.
        generation: u64,
        /// From its being put into the table; `None` for the table that was there before the session.
        latency: Option<Duration>,
    },
    /// Single addresses are in force, as the table had each at the generation beside it; also before [`What::Confirmed`] of that one.
    Held(Vec<(IpAddr, u64)>),
    /// The router has taken these back although they are announced to it: what was said of them counts no more until [`What::Held`] names them
    /// again. They were sent to it once more.
    Missing {
        /// Prefixes that the router has no more.
        lost: Vec<IpNet>,
        /// As the table had them up to this generation.
        generation: u64,
    },
    /// One address was not confirmed in time, as the table had it at this generation; nothing is said of others.
    Refused {
        /// Address that was not confirmed.
        address: IpAddr,
        /// Generation of the table that announced the address.
        generation: u64,
        /// For how long it was waited.
        reason: String,
    },
    /// Another guard, or a reflector between guards, said this of leases.
    Told(Word),
    /// The session is up, but nothing can be confirmed on it, for this reason; nothing that was confirmed counts until something is
    /// confirmed again.
    Unable(String),
}

/// Why a speaker can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listening socket could not be made.
    #[error("can't listen for {protocol} on {address}: {source}")]
    Listen {
        /// BGP or BFD.
        protocol: &'static str,
        /// Address and port to listen on.
        address: SocketAddr,
        /// Reason from the operating system.
        source: io::Error,
    },
    /// Nothing to wait on.
    #[error("peer {peer} is passive, but there is no address of its family to listen on")]
    NoListener {
        /// Name of the peer.
        peer: String,
    },
    /// The socket that BFD packets are sent through.
    #[error("peer {peer}: no BFD: {source}")]
    Bfd {
        /// Name of the peer.
        peer: String,
        /// Reason from the operating system.
        source: io::Error,
    },
    /// There were never so many peers.
    #[error("peer {peer}: too many peers were added since the start")]
    NoPlace {
        /// Name of the peer.
        peer: String,
    },
    /// A protection that can't be had.
    #[error("peer {peer}: {source}")]
    Option {
        /// Name of the peer.
        peer: String,
        /// Reason from the operating system.
        source: io::Error,
    },
}

/// A running speaker. Dropping it aborts its tasks without a word to the peers; see [`Speaker::stop`].
#[derive(Debug)]
pub struct Speaker {
    shared: Arc<Shared>,
    events: mpsc::Sender<PeerEvent>,
    /// Tasks of the peers, by the place of each.
    tasks: BTreeMap<usize, Running>,
    listeners: BTreeMap<SocketAddr, JoinHandle<()>>,
    stop_bfd: watch::Sender<bool>,
    bfd_updates: mpsc::Sender<bfd::Update>,
    bfd: JoinHandle<()>,
}

/// A peer's task.
#[derive(Debug)]
struct Running {
    task: JoinHandle<()>,
    stop: watch::Sender<Option<Stop>>,
    tag: Arc<AtomicU64>,
}

/// How changes get in and status out. Cheap to clone, outlives the speaker.
#[derive(Clone, Debug)]
pub struct SpeakerHandle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// In force. Each peer has a place, its index, for as long as it is there; places of peers that were removed are [`Role::Gone`].
    config: Mutex<Arc<SpeakerConfig>>,
    /// What there is at each place; as many as were ever used at the same time.
    slots: Box<[OnceLock<Slot>]>,
    /// The places in the order of the configuration.
    order: Mutex<Vec<usize>>,
    table: Mutex<Table>,
    /// Our own leases with their ends, as other guards are told.
    leases: Mutex<Table>,
    changed: watch::Sender<()>,
    /// Other networks are announced to us.
    networks: watch::Sender<()>,
    /// The table is what it is to be: sessions may start. A process that restarts would otherwise send End-of-RIB behind an empty table,
    /// and routers would drop what they kept for it.
    filled: watch::Sender<bool>,
    /// Whether it drains: see [`SpeakerHandle::drain`].
    draining: AtomicBool,
    /// Sets of attributes that sessions encode with; an index is a style. As many as there are different sets of
    /// negotiated capabilities at most.
    styles: Mutex<Vec<AdjOut>>,
    /// Established sessions that bring edges their routes, by the peer's index.
    feeders: Mutex<BTreeMap<usize, ReaderId>>,
    /// The peer whose task is to panic next.
    #[cfg(test)]
    fault: std::sync::atomic::AtomicUsize,
    /// Addresses that somebody waits for, and how many there ever were. Bounded by [`HURRIED`]; what is
    /// pushed out has to wait for its turn.
    hurried: Mutex<(u64, VecDeque<(Instant, IpAddr)>)>,
    /// Listeners that aren't there yet.
    waiting: listen::Waiting,
    /// See [`SpeakerHandle::set_patience`], milliseconds; zero = as configured.
    patience: AtomicU64,
}

/// What all may know of a peer.
#[derive(Debug)]
struct Slot {
    status: Mutex<PeerStatus>,
    /// What BFD knows of it, where it has it.
    bfd: Mutex<Option<watch::Sender<BfdStatus>>>,
    /// Only that of an observer is ever filled.
    observed: Mutex<Observed>,
    /// What it announced to us.
    networks: Mutex<Networks>,
    /// Where its task takes connections from.
    door: Mutex<Option<mpsc::Sender<tokio::net::TcpStream>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Returns the configuration in force.
    fn config(&self) -> Arc<SpeakerConfig> {
        Arc::clone(&lock(&self.config))
    }

    fn slot(&self, place: usize) -> Option<&Slot> {
        self.slots.get(place)?.get()
    }

    fn door(&self, place: usize) -> Option<mpsc::Sender<tokio::net::TcpStream>> {
        lock(&self.slot(place)?.door).clone()
    }

    fn bfd(&self, place: usize) -> Option<watch::Sender<BfdStatus>> {
        lock(&self.slot(place)?.bfd).clone()
    }

    /// Of each place of the configuration.
    fn bfd_watches(&self) -> bfd::Watches {
        (0..self.config().peers.len()).map(|place| self.bfd(place)).collect()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leases(&self) -> MutexGuard<'_, Table> {
        lock(&self.leases)
    }

    fn feeders(&self) -> MutexGuard<'_, BTreeMap<usize, ReaderId>> {
        self.feeders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The style of a session: sessions of one style share what was encoded.
    fn style(&self, adj_out: &AdjOut) -> u32 {
        let mut styles = self.styles.lock().unwrap_or_else(PoisonError::into_inner);
        let at = styles.iter().position(|known| known.same_style(adj_out)).unwrap_or_else(|| {
            styles.push(adj_out.clone());
            styles.len() - 1
        });
        u32::try_from(at).unwrap_or(u32::MAX)
    }

    fn networks(&self, peer: usize) -> Option<MutexGuard<'_, Networks>> {
        self.slot(peer).map(|slot| lock(&slot.networks))
    }

    fn observed(&self, peer: usize) -> Option<MutexGuard<'_, Observed>> {
        self.slot(peer).map(|slot| lock(&slot.observed))
    }

    /// Addresses that somebody waits for since there were `known` of them, and since when; how many there are now.
    fn hurried(&self, known: u64) -> (u64, Vec<(Instant, IpAddr)>) {
        let hurried = self.hurried.lock().unwrap_or_else(PoisonError::into_inner);
        let new = usize::try_from(hurried.0.saturating_sub(known)).unwrap_or(usize::MAX);
        let skip = hurried.1.len().saturating_sub(new);
        (hurried.0, hurried.1.iter().skip(skip).copied().collect())
    }

    fn status(&self, peer: usize) -> Option<MutexGuard<'_, PeerStatus>> {
        self.slot(peer).map(|slot| lock(&slot.status))
    }
}

impl SpeakerHandle {
    /// Host routes to announce (`true`, or with communities of their own) and withdraw, as one generation. Returns at once; [`What::Confirmed`] follows per peer.
    /// With [`SpeakerConfig::restarting`] the first one must hold all that was announced before: sessions wait for it.
    pub fn apply<W: Into<Want>>(&self, generation: u64, changes: impl IntoIterator<Item = (IpAddr, W)>) {
        self.0.table().apply(generation, changes, Instant::now());
        self.0.changed.send_replace(());
        self.0.filled.send_if_modified(|filled| !std::mem::replace(filled, true));
    }

    /// What other guards are to be told of our leases; nothing of those that are [`Want::Withdrawn`].
    pub fn tell_guards(&self, changes: impl IntoIterator<Item = (IpAddr, Want)>) {
        {
            let mut leases = self.0.leases();
            let next = leases.newest() + 1;
            leases.apply(next, changes, Instant::now());
        }
        self.0.changed.send_replace(());
    }

    /// How many leases other guards are told of, IPv4 and IPv6; and how many found no room for their ends.
    #[must_use]
    pub fn told_guards(&self) -> ([usize; 2], u64) {
        let leases = self.0.leases();
        (leases.announced(), leases.classes().usage().1)
    }

    /// Whether any session is up.
    #[must_use]
    pub fn has_sessions(&self) -> bool {
        let slots = self.0.slots.iter().map_while(OnceLock::get);
        slots.map(|slot| lock(&slot.status)).any(|status| status.state == crate::status::State::Established)
    }

    /// There is nothing to announce from before, or all of it is in: sessions of a process that restarts need not wait any longer.
    pub fn filled(&self) {
        self.0.filled.send_if_modified(|filled| !std::mem::replace(filled, true));
    }

    /// The guard is about to go for good: every route is announced again with GRACEFUL_SHUTDOWN and, to internal peers, LOCAL_PREF 0
    /// (RFC 8326), so that routers move to another guard's route while this one still works. There is no way back.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::SeqCst);
        self.0.changed.send_replace(());
    }

    /// Like [`Self::apply`], with all host routes that there are to be.
    pub fn replace(&self, generation: u64, addresses: &[IpAddr]) {
        self.0.table().replace(generation, addresses, Instant::now());
        self.0.changed.send_replace(());
        self.0.filled.send_if_modified(|filled| !std::mem::replace(filled, true));
    }

    /// The operator's own prefixes, announced exactly as given.
    pub fn set_open(&self, prefixes: &[IpNet]) {
        self.0.table().set_open(prefixes);
        self.0.changed.send_replace(());
    }

    /// Somebody waits for these, or is about to use them: where addresses are confirmed one by one, these come first.
    pub fn hurry(&self, addresses: &[IpAddr]) {
        let one_by_one = |peer: &PeerConfig| matches!(peer.confirm, Confirm::Probe | Confirm::Reflect);
        if !self.0.config().peers.iter().any(one_by_one) {
            return;
        }
        {
            let mut hurried = self.0.hurried.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            for address in addresses {
                hurried.0 += 1;
                hurried.1.push_back((now, *address));
            }
            let older = hurried.1.len().saturating_sub(HURRIED);
            hurried.1.drain(..older);
        }
        self.0.changed.send_replace(());
    }

    /// In place of every [`PeerConfig::patience`], from the next announcement on.
    pub fn set_patience(&self, patience: Duration) {
        let millis = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        self.0.patience.store(millis, Ordering::SeqCst);
        self.0.changed.send_replace(());
    }

    /// Addresses to listen on that can't be bound yet, and why.
    #[must_use]
    pub fn not_bound(&self) -> Vec<(SocketAddr, String)> {
        self.0.waiting.all()
    }

    /// All peers, in the order of the configuration.
    #[must_use]
    pub fn status(&self) -> Vec<PeerStatus> {
        let order = lock(&self.0.order).clone();
        order.into_iter().filter_map(|place| Some(self.0.status(place)?.clone())).collect()
    }

    /// The place of each peer, as its events bear it, in the order of the configuration.
    #[must_use]
    pub fn places(&self) -> Vec<(String, usize)> {
        let order = lock(&self.0.order).clone();
        order.into_iter().filter_map(|place| Some((self.0.status(place)?.name.clone(), place))).collect()
    }

    /// Networks that each router, not an observer, announces to us, by its name, and how many of its prefixes found no room. They count until they
    /// are withdrawn, or the session goes and no graceful restart is under way.
    #[must_use]
    pub fn networks(&self) -> Vec<(String, Vec<IpNet>, u64)> {
        let now = Instant::now();
        let order = lock(&self.0.order).clone();
        let of = |place: usize| {
            let name = self.0.status(place).filter(|status| status.role == Role::Enforcer)?.name.clone();
            let (nets, beyond) = self.0.networks(place)?.all(now);
            Some((name, nets, beyond))
        };
        order.into_iter().filter_map(of).collect()
    }

    /// Tells whenever other networks are announced to us; not when their time is over.
    #[must_use]
    pub fn watch_networks(&self) -> watch::Receiver<()> {
        self.0.networks.subscribe()
    }

    /// Routes in the table, IPv4 and IPv6.
    #[must_use]
    pub fn announced(&self) -> [usize; 2] {
        self.0.table().announced()
    }

    /// Sets of communities in use beyond that of every route; and routes that found no room for theirs.
    #[must_use]
    pub fn classes(&self) -> (usize, u64) {
        self.0.table().classes().usage()
    }
}

impl Speaker {
    /// Binds the listeners and starts a task for each peer.
    ///
    /// # Errors
    /// [`StartError`]; nothing is started then.
    pub async fn start(config: SpeakerConfig) -> Result<(Self, mpsc::Receiver<PeerEvent>), StartError> {
        Self::start_with(config, Table::default()).await
    }

    /// Like [`Self::start`], with a table that may hold routes already.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with(
        config: SpeakerConfig,
        table: Table,
    ) -> Result<(Self, mpsc::Receiver<PeerEvent>), StartError> {
        let config = Arc::new(config);
        check(&config)?;
        let mut bound = Vec::new();
        let waiting = listen::Waiting::default();
        for address in &config.listen {
            match listen::bind(*address, &config) {
                Ok(listener) => bound.push((*address, Some(listener))),
                Err(error) if listen::is_absent(&error) => {
                    tracing::warn!(%address, %error, "BGP isn't listened for here until it can be");
                    waiting.note(*address, Some(error.to_string()));
                    bound.push((*address, None));
                }
                Err(source) => return Err(StartError::Listen { protocol: "BGP", address: *address, source }),
            }
        }
        let watches = bfd::watches(&config);
        let driver = bfd::bind(&config, &watches)?;
        let now = Instant::now();
        let slots = (0..config.peers.len() + SPARE).map(|_| OnceLock::new()).collect();
        let shared = Arc::new(Shared {
            slots,
            order: Mutex::new((0..config.peers.len()).collect()),
            feeders: Mutex::default(),
            hurried: Mutex::default(),
            patience: AtomicU64::new(0),
            table: Mutex::new(table),
            leases: Mutex::default(),
            changed: watch::Sender::new(()),
            networks: watch::Sender::new(()),
            filled: watch::Sender::new(!config.restarting),
            draining: AtomicBool::new(false),
            styles: Mutex::default(),
            waiting: waiting.clone(),
            config: Mutex::new(Arc::clone(&config)),
            #[cfg(test)]
            fault: std::sync::atomic::AtomicUsize::new(usize::MAX),
        });
        let stop_bfd = watch::Sender::new(false);
        let (bfd_updates, updates) = mpsc::channel(1);
        let bfd = tokio::spawn(bfd::keep_alive(driver, Arc::clone(&shared), updates, stop_bfd.subscribe()));
        let (events, receiver) = mpsc::channel(EVENTS);
        let mut speaker =
            Self { shared, events, tasks: BTreeMap::new(), listeners: BTreeMap::new(), stop_bfd, bfd_updates, bfd };
        for (place, (peer, watch)) in config.peers.iter().zip(watches).enumerate() {
            speaker.take_in(place, peer, watch, now);
        }
        for place in 0..config.peers.len() {
            speaker.begin(place, false);
        }
        bound.into_iter().for_each(|(address, listener)| speaker.listen(address, listener));
        Ok((speaker, receiver))
    }

    /// Gives a peer its place.
    fn take_in(&self, place: usize, peer: &PeerConfig, bfd: Option<watch::Sender<BfdStatus>>, now: Instant) {
        let Some(slot) = self.shared.slots.get(place) else { return };
        let fresh = || Slot {
            status: Mutex::new(PeerStatus::new(peer, now)),
            bfd: Mutex::default(),
            observed: Mutex::default(),
            networks: Mutex::default(),
            door: Mutex::default(),
        };
        let slot = slot.get_or_init(fresh);
        *lock(&slot.status) = PeerStatus::new(peer, now);
        *lock(&slot.bfd) = bfd;
        *lock(&slot.observed) = Observed::default();
        *lock(&slot.networks) = Networks::default();
    }

    /// Starts the task of a peer that has its place. `resumes`: see [`peer::Place`].
    fn begin(&mut self, place: usize, resumes: bool) {
        let config = self.shared.config();
        let (Some(peer), Some(slot)) = (config.peers.get(place), self.shared.slot(place)) else { return };
        if peer.role == Role::Gone {
            return;
        }
        let (door, accepted) = mpsc::channel(ACCEPTED);
        *lock(&slot.door) = Some(door);
        let (stop, tag) = (watch::Sender::new(None), Arc::new(AtomicU64::new(peer.tag)));
        let place_of = peer::Place {
            shared: Arc::clone(&self.shared),
            index: place,
            name: peer.name.as_str().into(),
            tag: Arc::clone(&tag),
            resumes,
            is_guard: peer.role == Role::Guard,
            events: self.events.clone(),
        };
        let task = tokio::spawn(keep_alive(place_of, accepted, stop.subscribe()));
        self.tasks.insert(place, Running { task, stop, tag });
    }

    fn listen(&mut self, address: SocketAddr, listener: Option<tokio::net::TcpListener>) {
        let (shared, waiting) = (Arc::clone(&self.shared), self.shared.waiting.clone());
        let task = match listener {
            Some(listener) => tokio::spawn(listen::accept(listener, shared)),
            None => tokio::spawn(listen::accept_later(address, shared, waiting)),
        };
        self.listeners.insert(address, task);
    }

    /// A handle of this speaker: see [`SpeakerHandle`].
    #[must_use]
    pub fn handle(&self) -> SpeakerHandle {
        SpeakerHandle(Arc::clone(&self.shared))
    }

    /// Ends all sessions and waits until the peers were told, two seconds at most.
    pub async fn stop(mut self, how: Stop) {
        for listener in self.listeners.values_mut() {
            hang_up(listener).await;
        }
        let stops = self.tasks.values().map(|running| &running.stop);
        stops.for_each(|stop| drop(stop.send_replace(Some(how.clone()))));
        let deadline = tokio::time::Instant::now() + PATIENCE;
        for running in self.tasks.values_mut() {
            running.ended(deadline).await;
        }
        // Behind BGP, whose own word on why it ends shall be the first that the peer hears.
        self.stop_bfd.send_replace(true);
        if tokio::time::timeout_at(deadline, &mut self.bfd).await.is_err() {
            tracing::warn!("BFD took too long to end");
        }
    }
}

impl Running {
    async fn ended(&mut self, deadline: tokio::time::Instant) {
        if tokio::time::timeout_at(deadline, &mut self.task).await.is_err() {
            tracing::warn!("a BGP session took too long to end");
            self.task.abort();
        }
    }
}

/// Its port is free then.
async fn hang_up(listener: &mut JoinHandle<()>) {
    listener.abort();
    if listener.await.is_err_and(|end| end.is_panic()) {
        tracing::error!("a defect had ended a BGP listener");
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        self.listeners.values().for_each(JoinHandle::abort);
        self.tasks.values().for_each(|running| running.task.abort());
        self.bfd.abort();
    }
}

/// What can be found out before anything runs.
fn check(config: &SpeakerConfig) -> Result<(), StartError> {
    for peer in &config.peers {
        if peer.role == Role::Gone {
            continue;
        }
        if peer.role == Role::Edge {
            let source = peer::check(peer);
            source.map_err(|source| StartError::Option { peer: peer.name.clone(), source })?;
            continue;
        }
        if peer.passive && !config.listen.iter().any(|address| address.is_ipv4() == peer.address.is_ipv4()) {
            return Err(StartError::NoListener { peer: peer.name.clone() });
        }
        // local_address may come up later; everything else must work now.
        let trial = PeerConfig { local_address: None, ..peer.clone() };
        sys::outgoing(&trial, peer.asn == config.asn, config.mark)
            .and_then(|_| peer::check(peer))
            .map_err(|source| StartError::Option { peer: peer.name.clone(), source })?;
    }
    Ok(())
}

/// Runs a peer's task; a panic in it ends that session only.
async fn keep_alive(
    place: peer::Place,
    accepted: mpsc::Receiver<tokio::net::TcpStream>,
    mut stop: watch::Receiver<Option<Stop>>,
) {
    let accepted = Arc::new(tokio::sync::Mutex::new(accepted));
    loop {
        let mut run = tokio::spawn(peer::run(place.clone(), Arc::clone(&accepted), stop.clone()));
        let guard = AbortOnDrop(run.abort_handle());
        let result = (&mut run).await;
        drop(guard);
        match result {
            Err(error) if error.is_panic() => {
                tracing::error!(peer = place.name(), "a defect ended this BGP session; it starts again");
                place.died().await;
            }
            _ => return,
        }
        tokio::select! {
            () = tokio::time::sleep(REBIRTH) => {}
            _ = stop.wait_for(Option::is_some) => return,
        }
    }
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
