//! Listeners as they come and go: an interface that isn't there yet, or comes again; an address family that the kernel lacks.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::tcp::{Connections, Speech};
use super::{Failed, Sockets, Transport, bind_one, https, quic, quic_socket, tcp, tcp_listener, udp};
use crate::config::Config;
use crate::dns::resolver::Resolver;
use crate::dns::{DnsError, tls};
use crate::sys::endpoint::Endpoint;

/// One listener of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// `None`: UDP and TCP.
    transport: Option<Transport>,
    /// Where.
    pub(super) address: Endpoint,
    v6_only: bool,
}

/// One that isn't there.
#[derive(Clone, Debug)]
pub struct Absent {
    wanted: Wanted,
    why: String,
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
    let mut all = Vec::new();
    for (transport, list) in lists {
        for address in list {
            // [::] takes IPv4 too, unless an IPv4 listener wants the same port (0 is never the same).
            let port = address.port();
            let v6_only = port != 0 && list.iter().any(|other| other.is_ipv4() && other.port() == port);
            all.push(Wanted { transport, address: *address, v6_only });
        }
    }
    all
}

impl Wanted {
    /// The key of the file.
    fn key(&self) -> String {
        self.transport.map_or_else(|| "dns.listen".to_owned(), |one| format!("dns.tls.{}", one.label().transport))
    }

    pub(super) fn bind(&self, workers: usize, sockets: &mut Sockets) -> Result<(), Failed> {
        let Some(transport) = self.transport else {
            let address = self.address.now().map_err(|error| ("udp", error))?;
            return bind_one(address, self.v6_only, workers, sockets);
        };
        let bound = self.address.now().and_then(|address| {
            Ok(if transport == Transport::Quic {
                let socket = quic_socket(address, self.v6_only)?;
                let actual = socket.local_addr()?;
                sockets.quic.push(socket);
                actual
            } else {
                let (listener, actual) = tcp_listener(address, self.v6_only)?;
                sockets.streams.push((transport, listener));
                actual
            })
        });
        let actual = bound.map_err(|error| (transport.label().transport, error))?;
        sockets.encrypted.push((transport, actual));
        Ok(())
    }

    /// It is to be bound later.
    pub(super) fn wait(self, why: &str, sockets: &mut Sockets) {
        match self.transport {
            None => sockets.addresses.push(*self.address),
            Some(transport) => sockets.encrypted.push((transport, *self.address)),
        }
        sockets.absent.push(Absent { wanted: self, why: why.to_owned() });
    }

    pub(super) fn refused(&self, transport: &'static str, error: io::Error) -> DnsError {
        let address = self.address;
        match self.transport {
            None => DnsError::Bind { transport, address, error },
            Some(_) => DnsError::BindTls { transport, address, error },
        }
    }
}

/// Listeners that are served on one interface, with what ends them when that goes.
struct Zoned {
    wanted: Wanted,
    index: u32,
    stop: Arc<AtomicBool>,
    stopped: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    workers: Vec<JoinHandle<()>>,
    absent: Vec<Absent>,
    zoned: Vec<Zoned>,
    started: usize,
}

/// Serves sockets, and looks after those that aren't there.
pub struct Listeners {
    resolver: Arc<Resolver>,
    connections: Arc<Connections>,
    identity: Option<Arc<tls::server::Identity>>,
    all: Vec<Wanted>,
    workers: usize,
    mark: Option<u32>,
    stop: Arc<AtomicBool>,
    stopped: watch::Receiver<bool>,
    state: Mutex<State>,
}

impl Listeners {
    /// Nothing is served yet.
    pub(in crate::dns) fn new(
        config: &Config,
        resolver: Arc<Resolver>,
        identity: Option<Arc<tls::server::Identity>>,
        mark: Option<u32>,
        stopped: watch::Receiver<bool>,
    ) -> Self {
        Self {
            resolver,
            connections: Arc::new(Connections::default()),
            identity,
            all: wanted(config),
            workers: super::workers(config),
            mark,
            stop: Arc::new(AtomicBool::new(false)),
            stopped,
            state: Mutex::default(),
        }
    }

    /// Serves what was bound at the start. Must be called on the runtime.
    pub(in crate::dns) fn begin(&self, mut sockets: Sockets) -> Result<(), DnsError> {
        let absent = std::mem::take(&mut sockets.absent);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.absent = absent;
        self.serve(sockets, &mut state, &self.stop, &self.stopped)?;
        drop(state);
        self.look();
        Ok(())
    }

    fn serve(
        &self,
        sockets: Sockets,
        state: &mut State,
        stop: &Arc<AtomicBool>,
        stopped: &watch::Receiver<bool>,
    ) -> Result<(), DnsError> {
        let (resolver, connections) = (&self.resolver, &self.connections);
        for listener in sockets.tcp {
            let listener = tokio::net::TcpListener::from_std(listener).map_err(DnsError::Start)?;
            let task = tcp::serve(listener, Speech::Plain, resolver.clone(), connections.clone(), stopped.clone());
            tokio::spawn(task);
        }
        if let Some(identity) = &self.identity {
            let tls = |alpn: &[&[u8]]| {
                tls::server::config(identity.clone(), alpn).map_err(|error| DnsError::Tls(error.to_string()))
            };
            for (transport, listener) in sockets.streams {
                let listener = tokio::net::TcpListener::from_std(listener).map_err(DnsError::Start)?;
                let speech = match transport {
                    Transport::Https => Speech::Https(TlsAcceptor::from(Arc::new(tls(&https::ALPN)?))),
                    _ => Speech::Tls(TlsAcceptor::from(Arc::new(tls(&[b"dot"])?))),
                };
                tokio::spawn(tcp::serve(listener, speech, resolver.clone(), connections.clone(), stopped.clone()));
            }
            for socket in sockets.quic {
                let endpoint = quic::endpoint(socket, tls(&[b"doq"])?)?;
                tokio::spawn(quic::serve(endpoint, resolver.clone(), connections.clone(), stopped.clone()));
            }
        }
        let workers = sockets.udp.len();
        for socket in sockets.udp {
            let (resolver, stop) = (resolver.clone(), stop.clone());
            let worker = udp::Worker::new(socket, resolver, workers).map_err(DnsError::Start)?;
            let worker = std::thread::Builder::new()
                .name(format!("dns-{}", state.started))
                .spawn(move || worker.serve(&stop))
                .map_err(DnsError::Start)?;
            state.started += 1;
            state.workers.push(worker);
        }
        Ok(())
    }

    /// Binds what has become possible, and what came again with another number. Must be called on the runtime.
    pub fn look(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for zoned in std::mem::take(&mut state.zoned) {
            let now = zoned.wanted.address.zone().and_then(|zone| zone.index().ok());
            if now == Some(zoned.index) {
                state.zoned.push(zoned);
                continue;
            }
            zoned.end();
            state.absent.push(Absent { wanted: zoned.wanted, why: String::new() });
        }
        for absent in std::mem::take(&mut state.absent) {
            if let Err(error) = self.try_again(&absent, &mut state) {
                if error != absent.why {
                    let (key, address) = (absent.wanted.key(), absent.wanted.address);
                    tracing::warn!(%address, "{key}: not served yet: {error}");
                }
                state.absent.push(Absent { wanted: absent.wanted, why: error });
            }
        }
        // Threads of listeners that went have ended by themselves.
        state.workers.retain(|worker| !worker.is_finished());
    }

    fn try_again(&self, absent: &Absent, state: &mut State) -> Result<(), String> {
        let wanted = absent.wanted;
        let index = wanted.address.zone().map(|zone| zone.index()).transpose().map_err(|error| error.to_string())?;
        let mut sockets = Sockets::default();
        wanted.bind(self.workers, &mut sockets).map_err(|(_, error)| error.to_string())?;
        if let Some(mark) = self.mark {
            sockets.mark(mark).map_err(|error| error.to_string())?;
        }
        match index {
            None => self.serve(sockets, state, &self.stop, &self.stopped),
            Some(index) => {
                let stop = Arc::new(AtomicBool::new(false));
                let (sender, stopped) = watch::channel(false);
                let served = self.serve(sockets, state, &stop, &stopped);
                let zoned = Zoned { wanted, index, stop, stopped: sender };
                if served.is_ok() {
                    state.zoned.push(zoned);
                } else {
                    zoned.end();
                }
                served
            }
        }
        .map_err(|error| error.to_string())?;
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
        for wanted in &self.all {
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

    /// Stops all and waits for the workers (at most a fraction of a second).
    pub(in crate::dns) fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.zoned.drain(..).for_each(|zoned| zoned.end());
        state.absent.clear();
        for worker in state.workers.drain(..) {
            if worker.join().is_err() {
                tracing::error!("a DNS worker panicked");
            }
        }
    }
}

impl Zoned {
    fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.stopped.send_replace(true);
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
