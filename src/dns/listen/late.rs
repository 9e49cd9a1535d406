//! Listeners as they come and go: an interface that isn't there yet, or comes again; an address family that the kernel lacks.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::phase::{Mode, Phase};
use super::tcp::{Connections, Speech};
use super::{At, Bound, Failed, Sockets, bind_plain, https, quic, quic_socket, stream, tcp, udp};
use crate::config::Config;
use crate::config::endpoint::Endpoint;
use crate::dns::DnsError;
use crate::dns::resolver::Resolver;
use crate::dns::transport::Transport;
use crate::sys::endpoint;
use crate::sys::handover::Store;
use crate::tls;
use crate::tls::people::Believed;

/// One listener of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// `None`: UDP and TCP.
    pub(super) transport: Option<Transport>,
    /// The address that it is to listen at.
    pub(super) address: Endpoint,
    v6_only: bool,
    /// The number of its UDP threads.
    workers: usize,
}

/// Why a listener is absent still.
#[derive(Debug, thiserror::Error)]
enum NotServed {
    /// Its socket can't be had.
    #[error(transparent)]
    Socket(#[from] io::Error),
    /// Its socket is there, and can't be served.
    #[error(transparent)]
    Serve(#[from] DnsError),
}

/// One that isn't there.
#[derive(Clone, Debug)]
pub struct Absent {
    pub(super) wanted: Wanted,
    pub(super) why: String,
}

/// All of them, plain ones first.
pub(super) fn wanted(config: &Config) -> Vec<Wanted> {
    let tls = &config.dns.tls;
    let lists = [
        (None, &config.dns.listen),
        (Some(Transport::Tls), &tls.dot),
        (Some(Transport::Https), &tls.doh),
        (Some(Transport::Quic), &tls.doq),
    ];
    let workers = super::workers(config);
    let mut all = Vec::new();
    for (transport, list) in lists {
        for address in list {
            // [::] takes IPv4 too, unless an IPv4 listener wants the same port (0 is never the same).
            let port = address.port();
            let v6_only = port != 0 && list.iter().any(|other| other.is_ipv4() && other.port() == port);
            let workers = if transport.is_none() { workers } else { 0 };
            all.push(Wanted { transport, address: *address, v6_only, workers });
        }
    }
    all
}

impl Wanted {
    /// The key of the file.
    pub(super) fn key(&self) -> String {
        self.transport.map_or_else(|| "dns.listen".to_owned(), |one| format!("dns.tls.{}", one.label().transport))
    }

    pub(super) fn at(&self, address: SocketAddr) -> At {
        (address, self.v6_only)
    }

    /// `beside`: one of our own listeners has the address too.
    pub(super) fn bind(&self, beside: bool, store: &Store) -> Result<Bound, Failed> {
        let index = self.address.zone().map(|zone| endpoint::index(&zone)).transpose();
        let transport = self.transport.map_or("udp", |transport| transport.label().transport);
        let (index, address) =
            index.and_then(|index| Ok((index, endpoint::now(&self.address)?))).map_err(|error| (transport, error))?;
        let bound = match self.transport {
            None => bind_plain(*self, address, (self.workers, beside), store)?,
            Some(Transport::Quic) => {
                let socket = quic_socket(&self.key(), self.at(address), beside, store);
                let named = socket.and_then(|socket| Ok((socket.local_addr()?, socket)));
                let (actual, socket) = named.map_err(|error| (transport, error))?;
                Bound { quic: Some(socket), ..Bound::new(*self, actual) }
            }
            Some(_) => {
                let bound = stream(&self.key(), self.at(address), beside, store);
                let (listener, actual) = bound.map_err(|error| (transport, error))?;
                Bound { tcp: Some(listener), ..Bound::new(*self, actual) }
            }
        };
        Ok(Bound { index, ..bound })
    }

    pub(super) fn refused(&self, transport: &'static str, error: io::Error) -> DnsError {
        let address = self.address;
        match self.transport {
            None => DnsError::Bind { transport, address, error },
            Some(_) => DnsError::BindTls { transport, address, error },
        }
    }
}

/// One that is served.
pub(super) struct Served {
    pub(super) wanted: Wanted,
    /// Of its interface, where it names one.
    index: Option<u32>,
    /// With the real port.
    pub(super) actual: SocketAddr,
    /// As the next process gets it.
    pub(super) name: String,
    pub(super) phase: Arc<Phase>,
    pub(super) workers: Vec<JoinHandle<()>>,
}

#[derive(Default)]
pub(super) struct State {
    /// All that the configuration names.
    pub(super) all: Vec<Wanted>,
    /// The firewall mark of replies.
    pub(super) mark: u32,
    pub(super) identity: Option<Arc<tls::server::Identity>>,
    pub(super) served: Vec<Served>,
    pub(super) absent: Vec<Absent>,
    /// Those that went: their sockets, of late, and connections may still be there.
    pub(super) left: Vec<(Wanted, Instant, Arc<Phase>)>,
    /// Threads of those that go.
    pub(super) leaving: Vec<JoinHandle<()>>,
    started: usize,
}

/// Serves sockets, and looks after those that aren't there.
pub struct Listeners {
    pub(super) resolver: Arc<Resolver>,
    pub(super) connections: Arc<Connections>,
    pub(super) store: Arc<Store>,
    pub(super) stopped: watch::Receiver<bool>,
    state: Mutex<State>,
}

impl Listeners {
    /// Nothing is served yet.
    pub(in crate::dns) fn new(
        config: &Config,
        resolver: Arc<Resolver>,
        identity: Option<Arc<tls::server::Identity>>,
        store: Arc<Store>,
        stopped: watch::Receiver<bool>,
    ) -> Self {
        let state = State { all: wanted(config), mark: super::mark(config), identity, ..State::default() };
        let connections = Arc::new(Connections::default());
        Self { resolver, connections, store, stopped, state: Mutex::new(state) }
    }

    pub(super) fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves what was bound at the start, for those whose certificates are `believed`. Must be called on the runtime.
    pub(in crate::dns) fn begin(&self, sockets: Sockets, believed: Believed) -> Result<(), DnsError> {
        let trust = self.connections.trust();
        trust.put(believed);
        let reloads = self.resolver.metrics.certificates.clone();
        tokio::spawn(trust.clone().follow(reloads, self.stopped.clone()));
        let mut state = self.state();
        state.absent = sockets.absent;
        for bound in sockets.bound {
            self.serve(bound, &mut state)?;
        }
        drop(state);
        self.look();
        Ok(())
    }

    pub(super) fn serve(&self, bound: Bound, state: &mut State) -> Result<(), DnsError> {
        bound.keep(&self.store);
        let phase = Arc::new(Phase::new().map_err(DnsError::Start)?);
        let served = Served {
            wanted: bound.wanted,
            index: bound.index,
            actual: bound.actual,
            name: bound.name(),
            phase,
            workers: Vec::new(),
        };
        // Dropped on an error, it ends what it began.
        let served = self.start(bound, served, state)?;
        state.served.push(served);
        Ok(())
    }

    fn start(&self, bound: Bound, mut served: Served, state: &mut State) -> Result<Served, DnsError> {
        let (resolver, connections) = (&self.resolver, &self.connections);
        let identity = state.identity.clone();
        let tls = |alpn: &[&[u8]]| {
            let identity =
                identity.clone().ok_or_else(|| DnsError::Tls("certificate and key are missing".to_owned()))?;
            tls::server::config(identity, connections.trust(), alpn).map_err(|error| DnsError::Tls(error.to_string()))
        };
        if let Some(listener) = bound.tcp {
            let listener = tokio::net::TcpListener::from_std(listener).map_err(DnsError::Start)?;
            let speech = match bound.wanted.transport {
                None => Speech::Plain,
                Some(Transport::Https) => Speech::Https(TlsAcceptor::from(Arc::new(tls(&https::ALPN)?))),
                Some(_) => Speech::Tls(TlsAcceptor::from(Arc::new(tls(&[b"dot"])?))),
            };
            let task = tcp::serve(listener, speech, resolver.clone(), connections.clone(), served.phase.clone());
            tokio::spawn(task);
        }
        if let Some(socket) = bound.quic {
            let own = socket.try_clone().map_err(DnsError::Start)?;
            let endpoint = quic::endpoint(socket, tls(&[b"doq"])?)?;
            let task = quic::serve((endpoint, own), resolver.clone(), connections.clone(), served.phase.clone());
            tokio::spawn(task);
        }
        let workers = bound.udp.len();
        for socket in bound.udp {
            let worker = self.worker(socket, workers, &served.phase, state)?;
            served.workers.push(worker);
        }
        if !bound.surplus.is_empty() {
            let phase = Arc::new(Phase::new().map_err(DnsError::Start)?);
            phase.enter(Mode::Leave);
            for socket in bound.surplus {
                let worker = self.worker(socket, workers, &phase, state)?;
                state.leaving.push(worker);
            }
        }
        Ok(served)
    }

    fn worker(
        &self,
        socket: UdpSocket,
        workers: usize,
        phase: &Arc<Phase>,
        state: &mut State,
    ) -> Result<JoinHandle<()>, DnsError> {
        let worker =
            udp::Worker::new(socket, self.resolver.clone(), workers, phase.clone()).map_err(DnsError::Start)?;
        let thread = std::thread::Builder::new().name(format!("dns-{}", state.started));
        state.started += 1;
        thread.spawn(move || worker.serve()).map_err(DnsError::Start)
    }

    /// Binds what has become possible, and what came again with another number. Must be called on the runtime.
    pub fn look(&self) {
        let mut state = self.state();
        for served in std::mem::take(&mut state.served) {
            let now = served.wanted.address.zone().and_then(|zone| endpoint::index(&zone).ok());
            if now == served.index {
                state.served.push(served);
                continue;
            }
            state.absent.push(Absent { wanted: served.wanted, why: String::new() });
            self.store.let_go(&served.name);
        }
        for absent in std::mem::take(&mut state.absent) {
            if let Err(error) = self.try_again(&absent, &mut state).map_err(|error| error.to_string()) {
                if error != absent.why {
                    let (key, address) = (absent.wanted.key(), absent.wanted.address);
                    tracing::warn!(%address, "{key}: not served yet: {error}");
                }
                state.absent.push(Absent { wanted: absent.wanted, why: error });
            }
        }
        state.leaving.retain(|worker| !worker.is_finished());
    }

    fn try_again(&self, absent: &Absent, state: &mut State) -> Result<(), NotServed> {
        let wanted = absent.wanted;
        let bound = wanted.bind(false, &self.store).map_err(|(_, error)| error)?;
        bound.mark(state.mark)?;
        self.serve(bound, state)?;
        tracing::info!(address = %wanted.address, "{}: served from now on", wanted.key());
        Ok(())
    }

    /// What isn't reached although the file says so, each with its address; `own`: this host's addresses.
    #[must_use]
    pub fn missing(&self, own: &[IpAddr]) -> Vec<(Endpoint, String)> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut missing = Vec::new();
        for absent in &state.absent {
            missing.push((absent.wanted.address, not_served(&absent.wanted.key(), absent.wanted.address, &absent.why)));
        }
        for wanted in &state.all {
            let waits = state
                .absent
                .iter()
                .any(|absent| (absent.wanted.transport, absent.wanted.address) == (wanted.transport, wanted.address));
            if !waits && !is_there(&wanted.address, own) {
                missing.push((wanted.address, not_here(&wanted.key(), wanted.address)));
            }
        }
        missing
    }

    /// Takes no more questions, leaves what comes in the kernel, and waits until those that were taken are answered; at most so long.
    pub(in crate::dns) async fn drain(&self, most: Duration) {
        let phases: Vec<(Arc<Phase>, usize)> =
            self.state().served.iter().map(|served| (served.phase.clone(), served.workers.len())).collect();
        phases.iter().for_each(|(phase, _)| phase.enter(Mode::Pause));
        self.state().left.iter().for_each(|(_, _, phase)| phase.close());
        let drained = async {
            while phases.iter().any(|(phase, workers)| phase.quiet() < *workers)
                || self.resolver.in_flight.taken() > 0
                || self.connections.any()
            {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        if tokio::time::timeout(most, drained).await.is_err() {
            tracing::info!(questions = self.resolver.in_flight.taken(), "not all questions were answered in time");
        }
    }

    /// Stops all and waits for the workers (at most a fraction of a second).
    pub(in crate::dns) fn end(&self) {
        let mut state = self.state();
        state.absent.clear();
        let served = std::mem::take(&mut state.served);
        served.iter().for_each(|served| served.phase.enter(Mode::Stop));
        state.left.drain(..).for_each(|(_, _, phase)| phase.enter(Mode::Stop));
        for worker in served.into_iter().flat_map(|mut served| std::mem::take(&mut served.workers)) {
            if worker.join().is_err() {
                tracing::error!("a DNS worker panicked");
            }
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // One that leaves ends by itself.
        if self.phase.mode() != Mode::Leave {
            self.phase.enter(Mode::Stop);
        }
    }
}

/// Whether packets to this address can reach the host.
#[must_use]
pub fn is_there(address: &SocketAddr, own: &[IpAddr]) -> bool {
    let ip = address.ip().to_canonical();
    // All of 127.0.0.0/8 is there with its first.
    let ip = if ip.is_ipv4() && ip.is_loopback() { Ipv4Addr::LOCALHOST.into() } else { ip };
    ip.is_unspecified() || own.contains(&ip)
}

/// In words, for one that couldn't be bound.
#[must_use]
pub fn not_served(key: &str, address: Endpoint, why: &str) -> String {
    format!("{key}: {address} is not served until it can be: {why}")
}

/// In words, for one that is bound and that nobody reaches.
#[must_use]
pub fn not_here(key: &str, address: Endpoint) -> String {
    format!("{key}: {} is no address of this host now; it is served as soon as it is one", address)
}
