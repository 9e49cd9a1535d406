//! Routes on routers: maps the configuration to a BGP speaker, plans to its table, its events to the core's.
//!
//! ```text
//!   core --Command--> [commands] --table--> speaker --> routers
//!   core <---Event--- [events] <--PeerEvent-- speaker
//! ```
//!
//! Two tasks, so that a full channel in one direction never stops the other: the core waits for room in the commands, the events for room in
//! the reports, and the core is who empties those.
//!
//! Each peer of role `enforcer` is one enforcer to the core; all share one table. When the daemon stops, a configured graceful restart makes the
//! sessions just close, so that routers keep the routes for the restart time; without it, or when the operator wants the routes gone, they
//! are told (Cease; where NOTIFICATIONs are graceful too, Hard Reset) and drop them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use destguard_bgp::config::{AoAlgorithm, BfdConfig, BgpRole, Confirm, PeerConfig, Role, Secret, SpeakerConfig, TcpAo};
use destguard_bgp::io::{PeerEvent, Speaker, SpeakerHandle, StartError, What, bfd};
use destguard_bgp::leases::Session;
use destguard_bgp::session::Stop;
use destguard_bgp::status::PeerStatus;
use destguard_bgp::table::classes::{Extra, Want};
use destguard_bgp::wire::iana::{Families, Family};
use ipnet::IpNet;
use tokio::sync::mpsc;

use crate::config::community::CommunityError;
use crate::config::schema::{self, Config};
use crate::config::upstream::UpstreamUrlError;
use crate::config::value::Settle;
use crate::config::{Communities, UpstreamUrl};
use crate::core::event::{EnforcerId, EnforcerKind, EnforcerSpec, Event, Generation};
use crate::core::groups::{self, GroupSet, Groups};
use crate::core::narrow::NarrowKinds;
use crate::enforce::{Command, Reports};
use crate::sys::clock::Clock;

pub mod backend;
mod confirmations;
mod edges;
pub mod guards;
pub mod metrics;
mod obeying;
pub mod service;
#[cfg(test)]
mod tests;

use guards::{Heard, Judge, Listening, Telling};
use obeying::Obeying;

/// Refusals kept for the events' task.
const REFUSALS: usize = 1024;

/// Why the speaker can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum BgpError {
    /// A key that is needed with a peer.
    #[error("bgp.{0} is needed with a [[bgp.peer]]")]
    Missing(&'static str),
    /// A community that routes may not bear.
    #[error(transparent)]
    Community(#[from] CommunityError),
    /// The URL of an upstream that is to be announced.
    #[error(transparent)]
    Upstream(#[from] UpstreamUrlError),
    /// A password file.
    #[error("{path}: {source}", path = path.display())]
    Password {
        /// The path of `password_file`.
        path: PathBuf,
        /// The kernel's word on the file.
        source: std::io::Error,
    },
    /// The speaker was started once, in vain.
    #[error("the BGP speaker failed to start before")]
    FailedBefore,
    /// A socket of the speaker can't be had.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// What the configuration says of a peer, beside what its session knows.
#[derive(Clone, Debug)]
struct Limits {
    required: bool,
    max_routes: usize,
    observer: Option<String>,
}

/// A peer as it is, with what the configuration says of it.
#[derive(Clone, Debug)]
pub struct PeerView {
    /// What its session knows.
    pub status: PeerStatus,
    /// Answers wait for it.
    pub required: bool,
    /// The most routes it may get.
    pub max_routes: usize,
    /// The peer whose session shows what it has, with confirm = "reflect".
    pub observer: Option<String>,
    /// What it says of its leases, where it is another guard.
    pub guard: Option<Session>,
}

/// The speaker before it is started.
#[derive(Debug)]
pub struct BgpEnforcer {
    /// Each peer's tag is its enforcer's id, see [`tag`].
    config: SpeakerConfig,
    open: Vec<IpNet>,
    /// Whether `open` is announced.
    enforce: bool,
    groups: Arc<Groups>,
    /// Per peer, in the order of the configuration; observers have none.
    ids: Vec<Option<EnforcerId>>,
    specs: Vec<EnforcerSpec>,
    limits: AllLimits,
    drain: Duration,
}

/// By the peers' names.
type AllLimits = HashMap<String, Limits>;

/// What a peer of the speaker bears that is this enforcer; observers are none.
fn tag(id: Option<EnforcerId>) -> u64 {
    id.map_or(u64::MAX, |id| id.0.into())
}

/// Whose event it is.
fn id_of(event: &PeerEvent) -> Option<EnforcerId> {
    u16::try_from(event.tag).ok().map(EnforcerId)
}

impl BgpEnforcer {
    /// From the configuration; `None` without a peer. The peers' ids start at `first`, in the order of [`Self::specs`]. `restarting`: leases of
    /// an earlier run were restored, so that routers may keep forwarding meanwhile (RFC 4724).
    ///
    /// # Errors
    /// [`BgpError`]; nothing is bound or connected yet.
    pub fn new(config: &Config, first: EnforcerId, restarting: bool) -> Result<Option<Self>, BgpError> {
        if config.bgp.peer.is_empty() {
            return Ok(None);
        }
        let mut next = first.0;
        let number = |_: &SpeakerConfig, _: &str| {
            let id = EnforcerId(next);
            next = next.saturating_add(1);
            id
        };
        Self::with_ids(config, number, restarting).map(Some)
    }

    /// Likewise, also without a peer. `id` gives each of [`Self::specs`] its id, by its name.
    ///
    /// # Errors
    /// [`BgpError`]; nothing is bound or connected yet.
    pub fn with_ids(
        config: &Config,
        mut id: impl FnMut(&SpeakerConfig, &str) -> EnforcerId,
        restarting: bool,
    ) -> Result<Self, BgpError> {
        let bgp = &config.bgp;
        let alone = bgp.peer.is_empty();
        let communities = Communities::of(bgp)?;
        let open = open(config)?;
        let needed = |key| if alone { Ok(()) } else { Err(BgpError::Missing(key)) };
        let mut speaker = SpeakerConfig {
            asn: bgp.asn.map_or_else(|| needed("asn").map(|()| 0), Ok)?,
            router_id: bgp.router_id.map_or_else(|| needed("router_id").map(|()| Ipv4Addr::UNSPECIFIED), Ok)?,
            next_hop_ipv4: bgp.next_hop_ipv4,
            next_hop_ipv6: bgp.next_hop_ipv6,
            communities: communities.standard,
            large_communities: communities.large,
            no_export: bgp.no_export,
            local_pref: bgp.local_pref,
            // In audit the core tells of no route.
            announce: true,
            listen: bgp.listen.iter().filter(|_| !alone).map(|address| **address).collect(),
            graceful_restart: bgp.graceful_restart.0,
            long_lived: bgp.long_lived_graceful_restart.0,
            // Prefixes of the configuration were announced by an earlier run too, if there was one.
            restarting: restarting || !open.is_empty(),
            // Only the guard's own packet filter asks for it, and setting it needs a capability.
            mark: crate::sys::mark(config),
            peers: edges::peers(bgp, config.gate.deadline.0)?,
        };
        let mut ids = Vec::new();
        let mut specs = Vec::new();
        for (index, spec) in edges::specs(bgp, &open).enumerate() {
            let id = spec.as_ref().map(|spec| id(&speaker, &spec.name));
            if let Some(peer) = speaker.peers.get_mut(index) {
                let most = bgp.peer.get(index).filter(|entry| entry.role == schema::Role::Guard);
                peer.tag = most.map_or_else(|| tag(id), |entry| guards::tag(entry.max_routes));
            }
            ids.push(id);
            specs.extend(spec);
        }
        let limits = bgp.peer.iter().map(|peer| {
            let observer = peer.observer.clone().filter(|_| peer.confirm == schema::Confirm::Reflect);
            (peer.name.clone(), Limits { required: peer.required, max_routes: peer.max_routes, observer })
        });
        let edge = |edge: &schema::Edge| {
            (edge.name.clone(), Limits { required: edge.required, max_routes: 0, observer: None })
        };
        let limits = limits.chain(bgp.edge.iter().map(edge)).collect();
        let groups = Arc::new(Groups::new(config)?);
        Ok(Self {
            config: speaker,
            open,
            enforce: config.bgp_enforces(),
            groups,
            ids,
            specs,
            limits,
            drain: bgp.shutdown_drain.0,
        })
    }

    /// The peers as the core is to know them.
    #[must_use]
    pub fn specs(&self) -> &[EnforcerSpec] {
        &self.specs
    }

    /// What the speaker is told.
    #[must_use]
    pub fn speaker(&self) -> &SpeakerConfig {
        &self.config
    }

    /// The peers with their ids, as the core is to know them.
    pub fn members(&self) -> impl Iterator<Item = (EnforcerId, &EnforcerSpec)> {
        self.ids.iter().flatten().copied().zip(&self.specs)
    }

    /// Binds the listeners and starts the sessions. `judge`: what other guards lease passes it.
    ///
    /// # Errors
    /// [`BgpError::Start`]; nothing runs then.
    pub async fn start(self, clock: Clock, judge: Judge) -> Result<RunningBgp, BgpError> {
        let telling = Telling { asn: self.config.asn, clock };
        let heard = Arc::new(Heard::default());
        heard.own.store(self.config.router_id.to_bits(), Ordering::Relaxed);
        let listening = Listening::new(judge, clock, Arc::clone(&heard));
        let graceful = !self.config.graceful_restart.is_zero();
        let (speaker, events) = Speaker::start(self.config).await?;
        let handle = speaker.handle();
        if self.enforce {
            handle.set_open(&self.open);
        }
        let status =
            BgpStatus { speaker: handle, limits: Arc::new(Mutex::new(self.limits)), withdraw: Arc::default(), heard };
        let marks = Marks::new(self.groups);
        let (open, ids, enforce) = (self.open, self.ids, self.enforce);
        Ok(RunningBgp {
            speaker,
            events,
            open,
            enforce,
            ids,
            marks,
            status,
            graceful,
            drain: self.drain,
            listening,
            telling,
        })
    }
}

/// The speaker with its sessions.
pub struct RunningBgp {
    speaker: Speaker,
    events: mpsc::Receiver<PeerEvent>,
    open: Vec<IpNet>,
    enforce: bool,
    ids: Vec<Option<EnforcerId>>,
    marks: Marks,
    status: BgpStatus,
    graceful: bool,
    drain: Duration,
    listening: Listening,
    telling: Telling,
}

/// Commands taken at once.
const AT_ONCE: usize = 256;
/// How long plans are gathered while no session is up.
const GATHERING: Duration = Duration::from_millis(5);

/// What an enforcer can't hold although it should.
type Missing = Arc<Mutex<HashMap<EnforcerId, Families>>>;
/// Events from the commands' task that are due before any confirmation.
type Refusals = Arc<Mutex<VecDeque<Event>>>;

impl RunningBgp {
    /// What operators may read, also while [`Self::run`] runs.
    #[must_use]
    pub fn status(&self) -> BgpStatus {
        self.status.clone()
    }

    /// Runs until `commands` closes; the peers have been told when it returns.
    pub async fn run(self, commands: mpsc::Receiver<Command>, reports: Reports) {
        let missing = Missing::default();
        let refusals = Refusals::default();
        let wake = Arc::new(tokio::sync::Notify::new());
        let events = forward(
            self.events,
            self.listening,
            Arc::clone(&missing),
            Arc::clone(&refusals),
            Arc::clone(&wake),
            reports,
        );
        let events = tokio::spawn(events);
        let mut obeying = Obeying {
            handle: self.speaker.handle(),
            speaker: Some(self.speaker),
            changing: None,
            prepared: None,
            open: self.open,
            enforce: self.enforce,
            marks: self.marks,
            ids: self.ids,
            graceful: self.graceful,
            drain: self.drain,
            missing,
            refusals,
            wake,
            limits: Arc::clone(&self.status.limits),
            telling: self.telling,
            heard: Arc::clone(&self.status.heard),
        };
        obeying.obey(commands).await;
        let Some(speaker) = obeying.speaker else { return };
        let how = if obeying.graceful && !self.status.withdraw.load(Ordering::SeqCst) {
            Stop::Restart
        } else {
            let drain = obeying.drain;
            if !drain.is_zero() {
                tracing::info!(
                    seconds = drain.as_secs(),
                    "routers are asked to prefer other routes (GRACEFUL_SHUTDOWN)"
                );
                speaker.handle().drain();
                tokio::time::sleep(drain).await;
            }
            Stop::Shutdown("destguard stops".to_owned())
        };
        speaker.stop(how).await;
        events.abort();
    }
}

/// What routes of groups bear.
struct Marks {
    groups: Arc<Groups>,
    /// What was worked out already; at most as many as there are sets in use, see [`groups::MOST_SETS`].
    known: HashMap<GroupSet, Arc<Extra>>,
}

impl Marks {
    fn new(groups: Arc<Groups>) -> Self {
        Self { groups, known: HashMap::new() }
    }

    fn of(&mut self, set: GroupSet) -> Want {
        if self.known.len() > groups::MOST_SETS {
            self.known.clear();
        }
        let extra = self.known.entry(set).or_insert_with(|| {
            let communities = self.groups.communities(set);
            Arc::new(Extra::new(communities.standard, communities.large))
        });
        Want::With(Arc::clone(extra))
    }
}

async fn forward(
    mut events: mpsc::Receiver<PeerEvent>,
    mut listening: Listening,
    missing: Missing,
    refusals: Refusals,
    wake: Arc<tokio::sync::Notify>,
    reports: Reports,
) {
    loop {
        let event = tokio::select! {
            event = events.recv() => match event {
                Some(event) => Some(event),
                None => return,
            },
            () = wake.notified() => None,
        };
        loop {
            let refusal = refusals.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(refusal) = refusal else { break };
            if reports.send(refusal).await.is_err() {
                return;
            }
        }
        let Some(event) = event else { continue };
        if let Some(news) = listening.take(&event) {
            for event in news {
                if reports.send(event).await.is_err() {
                    return;
                }
            }
            continue;
        }
        let Some(enforcer) = id_of(&event) else { continue };
        let report = match event.what {
            What::Missing { lost, generation } => {
                let count = u64::try_from(lost.len()).unwrap_or(u64::MAX);
                let what = match lost.as_slice() {
                    [one] => format!("the router took back {one}, which it had confirmed"),
                    _ => format!("the router took back {count} routes that it had confirmed"),
                };
                if reports.send(Event::Repaired { enforcer, kind: "missing", count, what }).await.is_err() {
                    return;
                }
                let hosts = lost.into_iter().filter(|net| net.prefix_len() == net.max_prefix_len());
                let addresses = hosts.map(|net| net.addr()).collect();
                Event::MissingRoutes { enforcer, addresses, generation: Generation(generation) }
            }
            What::Up { missing: lacks } => {
                set_missing(&missing, enforcer, lacks);
                let (ipv4, ipv6) = (!lacks.contains(Family::Ipv4), !lacks.contains(Family::Ipv6));
                Event::Families { enforcer, ipv4, ipv6 }
            }
            What::Down(reason) => {
                set_missing(&missing, enforcer, Families::NONE);
                Event::Lost { enforcer, reason }
            }
            // Only guards say such things.
            What::Told(_) => continue,
            // It is lost to the gate: nothing of it counts until it confirms again.
            What::Unable(reason) => Event::Lost { enforcer, reason },
            What::Refused { address, generation, reason } => {
                Event::RefusedAddress { enforcer, address, generation: Generation(generation), reason }
            }
            What::Held(addresses) => {
                let addresses = addresses.into_iter().map(|(address, at)| (address, Generation(at))).collect();
                Event::Confirmed { enforcer, addresses }
            }
            What::Confirmed { generation, .. } => Event::Applied { enforcer, generation: Generation(generation) },
        };
        if reports.send(report).await.is_err() {
            return;
        }
    }
}

fn set_missing(missing: &Missing, enforcer: EnforcerId, families: Families) {
    let mut missing = missing.lock().unwrap_or_else(PoisonError::into_inner);
    match families.is_empty() {
        true => drop(missing.remove(&enforcer)),
        false => drop(missing.insert(enforcer, families)),
    }
}

/// What operators may read of the sessions. Cheap to clone.
#[derive(Clone, Debug)]
pub struct BgpStatus {
    speaker: SpeakerHandle,
    limits: Arc<Mutex<AllLimits>>,
    withdraw: Arc<AtomicBool>,
    heard: Arc<Heard>,
}

impl BgpStatus {
    /// Everything, in the order of the configuration.
    #[must_use]
    pub fn sessions(&self) -> Vec<PeerStatus> {
        self.speaker.status()
    }

    /// Networks that the peers announce to us, each with the first peer that does.
    #[must_use]
    pub fn networks(&self) -> BTreeMap<IpNet, String> {
        let mut all = BTreeMap::new();
        for (name, nets, _) in self.speaker.networks() {
            for net in nets {
                all.entry(net).or_insert_with(|| name.clone());
            }
        }
        all
    }

    /// How many each peer announces, and how many prefixes more than are kept.
    #[must_use]
    pub fn network_counts(&self) -> Vec<(String, usize, u64)> {
        self.speaker.networks().into_iter().map(|(name, nets, beyond)| (name, nets.len(), beyond)).collect()
    }

    /// Tells whenever they announce others.
    #[must_use]
    pub fn watch_networks(&self) -> tokio::sync::watch::Receiver<()> {
        self.speaker.watch_networks()
    }

    /// Addresses of `bgp.listen` that can't be bound yet, and why.
    #[must_use]
    pub fn not_bound(&self) -> Vec<(std::net::SocketAddr, String)> {
        self.speaker.not_bound()
    }

    /// Peers as they are now, in the order of the configuration.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerView> {
        let limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        let said = self.other_guards();
        let known = |status: PeerStatus| {
            let guard = said.iter().find(|(name, _)| *name == status.name).map(|(_, said)| *said);
            let Limits { required, max_routes, observer } = limits.get(&status.name)?.clone();
            Some(PeerView { required: required && status.confirms, max_routes, observer, guard, status })
        };
        self.sessions().into_iter().filter_map(known).collect()
    }

    /// The gate has another deadline from now on.
    pub fn set_deadline(&self, deadline: Duration) {
        self.speaker.set_patience(patience(deadline));
    }

    /// When the daemon stops, routers are to drop its routes at once, whatever `bgp.graceful_restart` says.
    pub fn withdraw_on_stop(&self) {
        self.withdraw.store(true, Ordering::SeqCst);
    }

    /// What each other guard says, by the peer's name.
    #[must_use]
    pub fn other_guards(&self) -> Vec<(String, Session)> {
        let sessions = self.heard.sessions.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let of = |(name, place): (String, usize)| {
            let (_, said) = sessions.iter().find(|(session, _)| usize::try_from(*session) == Ok(place))?;
            Some((name, *said))
        };
        self.speaker.places().into_iter().filter_map(of).collect()
    }

    /// What other guards said.
    #[must_use]
    pub fn heard(&self) -> &Heard {
        &self.heard
    }

    /// How many leases other guards are told of, IPv4 and IPv6; and how many found no room for their ends.
    #[must_use]
    pub fn told_guards(&self) -> ([usize; 2], u64) {
        self.speaker.told_guards()
    }

    /// Sets of communities in use beyond that of every route; and routes that found no room for theirs.
    #[must_use]
    pub fn classes(&self) -> (usize, u64) {
        self.speaker.classes()
    }

    /// Routes in the table, IPv4 and IPv6.
    #[must_use]
    pub fn routes(&self) -> [usize; 2] {
        self.speaker.announced()
    }
}

/// `deadline` is the gate's: a prefix that isn't confirmed a little before it is refused, so that it holds no others up.
fn patience(deadline: Duration) -> Duration {
    deadline.mul_f64(0.8)
}

fn peer(peer: &schema::Peer, deadline: Duration) -> Result<PeerConfig, BgpError> {
    let password = match (&peer.password, &peer.password_file) {
        (Some(password), _) => Some(Secret::new(password.as_bytes())),
        (None, Some(path)) => Some(password_file(path)?),
        (None, None) => None,
    };
    let confirm = match peer.confirm {
        schema::Confirm::Sent => Confirm::Sent,
        schema::Confirm::Acked => Confirm::Acked,
        schema::Confirm::Refresh => Confirm::Refresh,
        // Where only its edges are observed, the router itself shows nothing.
        schema::Confirm::Reflect if peer.observer.is_none() => Confirm::Acked,
        schema::Confirm::Reflect => Confirm::Reflect,
        schema::Confirm::Probe => Confirm::Probe,
    };
    let is_guard = peer.role == schema::Role::Guard;
    // Nothing waits for another guard.
    let confirm = if is_guard { Confirm::Sent } else { confirm };
    let one_by_one = matches!(confirm, Confirm::Reflect | Confirm::Probe);
    Ok(PeerConfig {
        name: peer.name.clone(),
        address: *peer.address,
        zone: peer.address.zone().map(|zone| zone.name().to_owned()),
        asn: peer.asn,
        port: peer.port,
        local_address: peer.local_address,
        passive: peer.passive,
        password,
        tcp_ao: peer.tcp_ao.map(|algorithm| TcpAo {
            algorithm: match algorithm {
                schema::AoAlgorithm::HmacSha1 => AoAlgorithm::HmacSha1,
                schema::AoAlgorithm::Aes128Cmac => AoAlgorithm::Aes128Cmac,
            },
            send_id: peer.tcp_ao_send_id,
            recv_id: peer.tcp_ao_recv_id,
        }),
        ttl_security: peer.ttl_security,
        multihop: peer.multihop,
        hold_time: peer.hold_time.0,
        send_hold: peer.send_hold_time.0,
        families: families(&peer.families),
        confirm,
        settle: match peer.settle {
            // What forwards nothing answers no probe, and there is nothing to wait for.
            _ if is_guard => Duration::ZERO,
            Settle::Auto if !peer.forwards => Duration::ZERO,
            Settle::Auto => destguard_bgp::confirm::learn::START,
            Settle::Fixed(span) => span.0,
        },
        learn: peer.settle == Settle::Auto && peer.forwards && !is_guard,
        samples: peer.role == schema::Role::Enforcer && peer.forwards && peer.multihop.is_none() && !one_by_one,
        observer: peer.observer.clone().filter(|_| confirm == Confirm::Reflect),
        probe_ttl: peer.probe_ttl,
        patience: patience(deadline),
        role: match peer.role {
            schema::Role::Enforcer => Role::Enforcer,
            schema::Role::Observer => Role::Observer,
            schema::Role::Guard => Role::Guard,
        },
        forwards: peer.forwards,
        watches: false,
        bgp_role: peer.bgp_role.map(|role| match role {
            schema::BgpRole::Provider => BgpRole::Provider,
            schema::BgpRole::RouteServer => BgpRole::RouteServer,
            schema::BgpRole::RouteServerClient => BgpRole::RouteServerClient,
            schema::BgpRole::Customer => BgpRole::Customer,
            schema::BgpRole::Peer => BgpRole::Peer,
        }),
        bfd: peer.bfd.then_some(BfdConfig {
            interval: peer.bfd_interval.0,
            multiplier: peer.bfd_multiplier,
            multihop: peer.bfd_multihop,
        }),
        tag: 0,
    })
}

fn families(names: &[schema::Family]) -> Families {
    let family = |family: &schema::Family| match family {
        schema::Family::Ipv4 => Family::Ipv4,
        schema::Family::Ipv6 => Family::Ipv6,
    };
    names.iter().map(family).collect()
}

/// The port that BFD packets to a peer go to.
#[must_use]
pub fn bfd_port(peer: &schema::Peer) -> u16 {
    if peer.bfd_multihop || peer.multihop.is_some() { bfd::MULTIHOP } else { bfd::SINGLE_HOP }
}

fn password_file(path: &std::path::Path) -> Result<Secret, BgpError> {
    let failed = |source| BgpError::Password { path: path.to_owned(), source };
    let text = std::fs::read(path).map_err(failed)?;
    let line = text.strip_suffix(b"\n").unwrap_or(&text);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return Err(failed(std::io::Error::new(std::io::ErrorKind::InvalidData, "holds no password")));
    }
    Ok(Secret::new(line))
}

/// What is announced without any lease.
///
/// # Errors
/// An upstream's URL can't be read.
pub fn open(config: &Config) -> Result<Vec<IpNet>, BgpError> {
    let mut open = Vec::new();
    if config.bgp.announce_open {
        open.extend(config.addresses.open.iter().map(IpNet::trunc));
    }
    if config.bgp.announce_upstreams {
        for upstream in &config.dns.upstream {
            let url: UpstreamUrl = upstream.url.parse()?;
            // Of its link alone, it is reached without a route.
            if url.addr.zone().is_none() {
                open.push(IpNet::from(url.addr.ip()));
            }
        }
    }
    open.sort_unstable();
    open.dedup();
    Ok(open)
}

fn spec(bgp: &schema::Bgp, peer: &schema::Peer, open: &[IpNet]) -> EnforcerSpec {
    // Without an IPv4 next hop they have the IPv6 one (RFC 8950).
    let hop4 = bgp.next_hop_ipv4.is_some() || bgp.next_hop_ipv6.is_some();
    let ipv4 = peer.families.contains(&schema::Family::Ipv4) && hop4;
    let ipv6 = peer.families.contains(&schema::Family::Ipv6) && bgp.next_hop_ipv6.is_some();
    // The router counts these too.
    let fixed = open.iter().filter(|net| if net.addr().is_ipv4() { ipv4 } else { ipv6 }).count();
    EnforcerSpec {
        name: peer.name.clone(),
        kind: EnforcerKind::Route,
        required: peer.required,
        max_addresses: peer.max_routes.saturating_sub(fixed),
        ipv4,
        ipv6,
        narrow: NarrowKinds::default(),
    }
}
