//! The resolver that clients use.
//!
//! ```text
//!  listen: UDP workers (threads), connections (tasks)
//!     | codec::query
//!     v
//!  resolver: cache, policy ----hit, denied, answered here----> codec::reply, on the same thread
//!     | miss
//!     v
//!  resolver::worker: on the same thread, where the upstreams are plain  }  upstream -> draft -> core's gate -> cache -> replies
//!  resolver::task: else a task for each question                        }
//! ```
//!
//! - [`listen`]: sockets for clients. [`limits`], [`rate`]: what one client may take.
//! - [`codec`]: what clients send, what upstreams send, what goes out. [`transport`]: the encrypted ways between.
//! - [`resolver`]: the way of a question. [`cache`]: finished replies with their leases. [`checked`], [`would`]: what one part tells another of an answer.
//! - [`upstream`]: servers, the race of one question among them, their sockets and health. [`validate`]: whether what they send is signed (DNSSEC).
//! - [`zones`]: local zones. Keys and certificates are [`crate::tls`]'s. [`refusals`], [`metrics`]: what is told of it.
//!
//! There is no channel between the workers and the tasks: a worker spawns them. What bounds them, and what the workers forward, is the number of questions that may
//! wait ([`resolver::IN_FLIGHT`], [`limits`]); beyond it a question gets SERVFAIL at once.
//!
//! Choices where the RFCs leave one: RD=0 is refused (a cache that answers strangers shows what others asked). CD is copied to the reply and
//! else ignored where the answer may hold addresses: it opens nothing that would stay closed. AD means that the guard itself validated the answer
//! ([`validate`]); no upstream is trusted to have done it. EDNS
//! options of clients (subnet, padding, unknown ones) are ignored and never passed on; cookies end here. A question with octets behind its last
//! record is answered as if they weren't there.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use crate::config::Config;
use crate::config::endpoint::Endpoint;
use crate::config::schema;
use crate::config::upstream::UpstreamUrl;
use crate::control::{DeniedLog, QueryLog, Usage};
use crate::core::address::AddressFilter;
use crate::core::client::Clients;
use crate::core::judge::Judge;
use crate::core::local_names::{Local, LocalNames};
use crate::core::name::Name;
use crate::core::narrow::Openings;
use crate::core::policy::bound::Bound;
use crate::core::policy::exceptions::Exception;
use crate::core::policy::list::LocalData;
use crate::core::policy::view::{ViewId, Views};
use crate::core_task::CoreHandle;
pub use crate::dns::resolver::itself::OpenError;
use crate::dns::resolver::itself::{self, Opened};
use crate::sys::clock::Clock;
use crate::tls;
use crate::tls::people::Believed;
use limits::Limit;
use refusals::Refusals;
use resolver::Resolver;
use resolver::origin::{Origin, Setup};
use resolver::pending::Waiters;
use transport::Transport;
use upstream::{UpstreamError, UpstreamStatus, Upstreams};
use zones::Zones;

pub mod cache;
pub mod checked;
pub mod codec;
pub mod limits;
pub mod listen;
pub mod metrics;
pub mod rate;
pub mod refusals;
pub mod resolver;
pub mod transport;
pub mod upstream;
pub mod validate;
pub mod would;
pub mod zones;

pub use listen::{Listeners, Sockets, bind, bind_or_take};
pub use resolver::origin::Change;

/// What names and addresses are judged by. Replaced as a whole on a reload; what was cached under older ones counts no more.
#[derive(Debug)]
pub struct Rules {
    /// Which names may be asked, by whom.
    pub views: Arc<Views>,
    /// Which addresses may be opened.
    pub filter: Arc<AddressFilter>,
    /// Which names are answered here.
    pub local: LocalNames,
    /// The operator's own zones; before those names.
    pub zones: Arc<Zones>,
    /// A kept answer is served only while its leases last this much longer (`lease.min`).
    pub lease_min: Duration,
    /// What leases last beyond the TTLs that clients get (`lease.grace`).
    pub lease_grace: Duration,
    /// Nothing is refused by them; what would be is only noted.
    pub audit: bool,
    /// Names that are for applications of this host.
    pub bound: Arc<Bound>,
    /// No two have the same.
    pub(in crate::dns) generation: u64,
}

impl Rules {
    /// With the operator's exceptions.
    #[must_use]
    pub fn with_exceptions(mut self, exceptions: &[Exception]) -> Self {
        self.views = Arc::new(self.views.with_exceptions(exceptions));
        self
    }

    /// With a generation of their own.
    #[must_use]
    pub fn new(views: impl Into<Arc<Views>>, filter: AddressFilter, local: LocalNames, lease: &schema::Lease) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let generation = NEXT.fetch_add(1, Ordering::Relaxed);
        let (lease_min, lease_grace) = (lease.min.0, lease.grace.0);
        Self {
            views: views.into(),
            filter: Arc::new(filter),
            local,
            zones: Arc::default(),
            lease_min,
            lease_grace,
            audit: false,
            bound: Arc::default(),
            generation,
        }
    }

    /// With names that are for applications of this host.
    #[must_use]
    pub fn with_bound(self, bound: Bound) -> Self {
        Self { bound: Arc::new(bound), ..self }
    }

    /// What an answer opens of its addresses, and for whom; nothing: all, for whoever asked.
    #[must_use]
    pub fn openings_in(&self, view: ViewId, question: &Name) -> Openings {
        self.bound.openings(question, self.views.policy(view).openings(question))
    }

    /// The same as the core is given them.
    #[must_use]
    pub fn judge(&self) -> Judge {
        Judge::new(self.generation, self.views.clone(), self.filter.clone(), self.bound.clone())
    }

    /// With local zones.
    #[must_use]
    pub fn with_zones(self, zones: Zones) -> Self {
        let filter = Arc::unwrap_or_clone(self.filter).with_zones(zones.set.clone());
        Self { filter: Arc::new(filter), zones: Arc::new(zones), ..self }
    }

    /// What is answered of the special-use names, but for those that a zone answers; and why.
    #[must_use]
    pub fn answer_local(&self, name: &Name, qtype: u16) -> Option<(Local, &'static str)> {
        self.local.answer(name, qtype).filter(|_| !self.zones.answers(name))
    }

    /// A list's own answer for a name, where it is given.
    #[must_use]
    pub fn local_data(&self, view: ViewId, name: &Name) -> Option<&[LocalData]> {
        if self.audit { None } else { self.views.policy(view).local_data(name) }
    }

    /// Whether they are only to be noted.
    #[must_use]
    pub fn auditing(mut self, audit: bool) -> Self {
        self.audit = audit;
        self
    }
}

/// Why the DNS side doesn't start.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// A listener can't be bound.
    #[error("dns.listen: {address}/{transport}: {error}")]
    Bind {
        /// "udp" or "tcp".
        transport: &'static str,
        /// The listener's address, as configured.
        address: Endpoint,
        /// The kernel's word.
        error: io::Error,
    },
    /// A listener of `dns.tls` can't be bound.
    #[error("dns.tls.{transport}: {address}: {error}")]
    BindTls {
        /// "dot", "doh" or "doq".
        transport: &'static str,
        /// The listener's address, as configured.
        address: Endpoint,
        /// The kernel's word.
        error: io::Error,
    },
    /// The certificate or key can't be used.
    #[error("dns.tls: {0}")]
    Tls(String),
    /// The trust anchor can't be used.
    #[error("dns.dnssec.{0}")]
    TrustAnchor(validate::anchor::AnchorError),
    /// An upstream can't be used.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The guard would ask itself.
    #[error("dns.upstream: {0} is an address that the guard itself listens on")]
    Loop(SocketAddr),
    /// The guard's own packets can't be marked, so that its own firewall would stop them.
    #[error("packets can't be marked (SO_MARK needs CAP_NET_ADMIN, and nftables.mode is not \"off\"): {0}")]
    Mark(io::Error),
    /// A thread or listener can't be started.
    #[error("starting the DNS workers: {0}")]
    Start(io::Error),
}

/// How the DNS side fares.
#[derive(Clone, Debug)]
pub struct DnsStatus {
    /// Every upstream and how it fares, in the order of the configuration.
    pub upstreams: Vec<UpstreamStatus>,
    /// Answers given to clients.
    pub released: u64,
    /// Questions denied by name, or whose addresses were all filtered.
    pub denied: u64,
    /// In audit: questions that would have been refused, or answered in part.
    pub would_refuse: u64,
    /// Answers that the gate did not release.
    pub gate_refused: u64,
    /// Of these, at the gate's deadline.
    pub gate_timeouts: u64,
    /// Questions that wait now.
    pub in_flight: usize,
    /// Entries of the cache.
    pub cache_entries: usize,
    /// Octets of the cache.
    pub cache_octets: usize,
}

/// The running DNS side. Dropping it stops it.
pub struct Running {
    resolver: Arc<Resolver>,
    addresses: Vec<SocketAddr>,
    encrypted: Vec<(Transport, SocketAddr)>,
    listeners: Arc<Listeners>,
    stop_tasks: watch::Sender<bool>,
}

impl Running {
    /// Where clients reach the guard.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where clients reach the guard over DoT, DoH and DoQ.
    #[must_use]
    pub fn encrypted(&self) -> &[(Transport, SocketAddr)] {
        &self.encrypted
    }

    /// Counters and upstreams as of now.
    #[must_use]
    pub fn status(&self) -> DnsStatus {
        self.view().status()
    }

    /// What is listened on.
    #[must_use]
    pub fn listeners(&self) -> Arc<Listeners> {
        self.listeners.clone()
    }

    /// A view that outlives nothing and can be cloned into the control API.
    #[must_use]
    pub fn view(&self) -> View {
        View(self.resolver.clone())
    }

    /// Takes no more questions and waits, at most so long, until those that were taken are answered. What comes waits in the kernel.
    pub async fn drain(&self, most: Duration) {
        self.listeners.drain(most).await;
    }

    /// Stops the workers and waits for them (at most a fraction of a second). Questions that wait are dropped; their clients ask again.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // No connection may be left to be told.
        self.stop_tasks.send_replace(true);
        self.listeners.end();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// What the control API sees. Cheap to clone.
#[derive(Clone)]
pub struct View(Arc<Resolver>);

impl View {
    /// Counters and upstreams as of now.
    #[must_use]
    pub fn status(&self) -> DnsStatus {
        let resolver = &self.0;
        let (cache_entries, cache_octets, _) = resolver.cache.usage();
        DnsStatus {
            upstreams: resolver.origin.load().upstreams.status(),
            released: resolver.metrics.released.get(),
            denied: resolver.metrics.denied.get(),
            would_refuse: resolver.metrics.would_refuse_all.get(),
            gate_refused: resolver.metrics.gate_refused.get(),
            gate_timeouts: resolver.metrics.gate_timeouts.get(),
            in_flight: resolver.in_flight.taken(),
            cache_entries,
            cache_octets,
        }
    }

    /// Asks upstreams that have said nothing for so long whether they live.
    pub fn ask_quiet_upstreams(&self, quiet: Duration) {
        self.0.origin.load().upstreams.ask_quiet(quiet);
    }

    /// Forgets kept answers to questions for this name, and those that lead over it as an alias; returns how many.
    #[must_use]
    pub fn forget(&self, name: &Name) -> usize {
        self.0.cache.forget(name)
    }

    /// The last questions.
    #[must_use]
    pub fn query_log(&self) -> QueryLog {
        self.0.query_log.clone()
    }

    /// What was asked for in audit.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.0.usage.clone()
    }

    /// Makes all that can fail of another configuration; nothing is in force yet.
    ///
    /// # Errors
    /// [`DnsError`].
    pub fn prepare(&self, config: &Config) -> Result<Change, DnsError> {
        self.0.prepare(config)
    }

    /// Puts it in force, before the rules that are made of the same configuration; returns how to go back.
    pub fn switch(&self, change: Change) -> Change {
        self.0.switch(change)
    }

    /// Who clients are, as the listeners see it.
    #[must_use]
    pub fn whom(&self) -> &Arc<ArcSwap<Clients>> {
        &self.0.whom
    }

    /// Has the addresses of a name, of both families, opened: for this host itself, or in a client's place.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open_unasked(&self, client: Option<IpAddr>, name: &Name) -> Result<Opened, OpenError> {
        let client = client.filter(|client| self.admits(*client)).unwrap_or(itself::ITSELF);
        let (v4, v6) = tokio::join!(
            self.0.ask_unasked(client, name, codec::wire::rtype::A),
            self.0.ask_unasked(client, name, codec::wire::rtype::AAAA),
        );
        match (v4, v6) {
            (Ok(v4), Ok(v6)) => Ok(Opened {
                addresses: v4.addresses.into_iter().chain(v6.addresses).collect(),
                ttl: v4.ttl.min(v6.ttl),
            }),
            (Ok(one), Err(_)) | (Err(_), Ok(one)) => Ok(one),
            (Err(error), Err(_)) => Err(error),
        }
    }

    /// Whether this client may ask.
    #[must_use]
    pub fn admits(&self, client: IpAddr) -> bool {
        self.0.admits(client.to_canonical())
    }
}

/// Starts to answer. Must be called within the runtime that is to carry the tasks.
///
/// # Errors
/// [`DnsError`].
pub fn start(
    config: &Config,
    sockets: Sockets,
    rules: Arc<ArcSwap<Rules>>,
    core: CoreHandle,
    clock: Clock,
    denied: DeniedLog,
    registry: &mut Registry,
) -> Result<Running, DnsError> {
    let listening: Vec<SocketAddr> =
        sockets.addresses.iter().copied().chain(sockets.encrypted.iter().map(|(_, address)| *address)).collect();
    if let Some(own) = own_upstream(config, &listening) {
        return Err(DnsError::Loop(own));
    }
    let mark = crate::sys::mark(config).map(|_| usable_mark()).transpose()?;
    // A socket per upstream slot and one per connection: 1024 descriptors, the usual soft limit, are few.
    match crate::sys::descriptors::raise_limit() {
        Ok(limit) if limit < 4096 => tracing::warn!(limit, "few open files allowed; LimitNOFILE= should be 65536"),
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "the limit of open files can't be raised"),
    }
    let metrics = metrics::Metrics::register(registry);
    let identity = identity(config)?;
    let believed = Believed::read(config).map_err(|error| DnsError::Tls(error.to_string()))?;
    let designated =
        identity.clone().map(|identity| Arc::new(resolver::ddr::Designated::new(identity, &sockets.encrypted)));
    let cache = Arc::new(cache::Cache::new(config.dns.cache.size.0).keeping(config.dns.cache.serve_stale.0));
    cache::metrics::register(registry, &cache);
    let origin = Origin::first(config, mark, &metrics)?;
    let resolver = Arc::new(Resolver {
        rules,
        whom: Arc::new(ArcSwap::from_pointee(Clients::new(config))),
        core,
        clock,
        waiters: Waiters::new(origin.epoch),
        origin: Arc::new(ArcSwap::new(origin)),
        setup: ArcSwap::from_pointee(Setup::new(config, None)),
        cache,
        query_log: {
            let log = QueryLog::default();
            log.register(registry);
            log.configure(config);
            log
        },
        usage: {
            let usage = Usage::default();
            usage.register(registry);
            usage.configure(config);
            usage
        },
        refusals: Refusals::new(denied, metrics.refusals_unnoted.clone()),
        backlog: resolver::unsent::Backlog::new(metrics.stream_backlog.clone()),
        metrics,
        in_flight: Limit::new(resolver::IN_FLIGHT, resolver::IN_FLIGHT, resolver::IN_FLIGHT_LEAST),
        requests: std::sync::Mutex::default(),
        behind: Limit::new(resolver::IN_FLIGHT, resolver::IN_FLIGHT, resolver::IN_FLIGHT_LEAST),
        designated: designated.into(),
        cookies: codec::cookie::Cookies::new(),
        runtime: tokio::runtime::Handle::current(),
    });
    let (stop_tasks, stopped) = watch::channel(false);
    let origin = resolver.origin.clone();
    upstream::metrics::register(registry, move || origin.load().upstreams.status());
    let origin = resolver.origin.clone();
    let watched = Upstreams::watch(move || origin.load().upstreams.clone());
    let mut stop_watching = stopped.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = watched => {}
            _ = stop_watching.wait_for(|stop| *stop) => {}
        }
    });
    if let Some(identity) = &identity {
        tokio::spawn(identity.clone().follow(resolver.metrics.certificates.clone(), stopped.clone()));
    }
    let (addresses, encrypted) = (sockets.addresses.clone(), sockets.encrypted.clone());
    let listeners = Arc::new(Listeners::new(config, resolver.clone(), identity, sockets.store.clone(), stopped));
    // Dropped on an error, it ends what it began.
    let running = Running { resolver, addresses, encrypted, listeners, stop_tasks };
    running.listeners.begin(sockets, believed)?;
    Ok(running)
}

/// The identity that encrypted listeners show, when there are any.
fn identity(config: &Config) -> Result<Option<Arc<tls::server::Identity>>, DnsError> {
    let tls = &config.dns.tls;
    if tls.dot.is_empty() && tls.doh.is_empty() && tls.doq.is_empty() {
        return Ok(None);
    }
    let (Some(certificate), Some(key)) = (&tls.certificate, &tls.key) else {
        return Err(DnsError::Tls("certificate and key are missing".to_owned()));
    };
    let identity = tls::server::Identity::open("dns.tls", certificate, key);
    identity.map(Some).map_err(|error| DnsError::Tls(error.to_string()))
}

/// An upstream that is one of the guard's own listeners. (Behind a wildcard listener only loopback is known for certain to be.)
fn own_upstream(config: &Config, listening: &[SocketAddr]) -> Option<SocketAddr> {
    let upstreams = config.dns.upstream.iter().filter_map(|upstream| upstream.url.parse::<UpstreamUrl>().ok());
    upstreams.map(|url| *url.addr).find(|addr| {
        listening.iter().any(|own| {
            let same = own.ip() == addr.ip() || (own.ip().is_unspecified() && addr.ip().is_loopback());
            own.port() == addr.port() && same
        })
    })
}

/// The mark, after one socket has borne it.
fn usable_mark() -> Result<u32, DnsError> {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).map_err(DnsError::Mark)?;
    socket.set_mark(crate::sys::MARK).map_err(DnsError::Mark)?;
    Ok(crate::sys::MARK)
}

#[cfg(test)]
mod tests;
