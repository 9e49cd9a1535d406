//! What the daemon listens on, address by address: served, or why not.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use socket2::Type;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::config::endpoint::{Endpoint, Zone};
use crate::config::{Config, UpstreamUrl};
use crate::control::{self, Sources};
use crate::dns::Listeners;
use crate::dns::listen::late::{is_there, not_here, not_served};
use crate::dns::listen::new_stream;
use crate::enforce::bgp::BgpStatus;
use crate::sys::endpoint;
use crate::sys::handover::{self, Store};
use crate::sys::interfaces::Here;

/// The key of the file.
const KEY: &str = "http.listen";
/// `[::]` takes IPv4 too, as the system's setting has it by default.
const V6_ONLY: bool = false;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// One address of `http.listen`.
struct Http {
    address: Endpoint,
    /// With the real port.
    actual: Option<SocketAddr>,
    /// Bound, not served yet.
    listener: Option<TcpListener>,
    /// The number of its interface, where it names one.
    index: Option<u32>,
    task: Option<JoinHandle<()>>,
    /// As the next process gets it.
    name: String,
    why: String,
}

impl Http {
    fn new(address: Endpoint) -> Self {
        Self { address, actual: None, listener: None, index: None, task: None, name: String::new(), why: String::new() }
    }

    fn port(&self) -> u16 {
        self.actual.map_or(self.address.port(), |actual| actual.port())
    }
}

/// Listeners that are bound and not served yet. Dropped, all is as before.
pub struct Prepared {
    listen: Vec<Endpoint>,
    new: Vec<Http>,
}

impl Prepared {
    /// The ports of those that are new.
    #[must_use]
    pub fn ports(&self) -> Vec<u16> {
        self.new.iter().map(Http::port).collect()
    }
}

/// See the module.
pub struct Listening {
    http: Mutex<Vec<Http>>,
    mark: u32,
    store: Arc<Store>,
    bgp: Mutex<Vec<Endpoint>>,
    here: Mutex<Here>,
    /// What the listeners serve from.
    sources: OnceLock<Weak<dyn Sources>>,
}

/// A listener of `http.listen` can't be bound although its address may be there.
#[derive(Debug, thiserror::Error)]
#[error("{KEY}: {address}: {source}")]
pub struct ListenError {
    address: Endpoint,
    source: std::io::Error,
}

impl Listening {
    /// Binds the listeners of `http.listen`, or takes them of the store; `here`: this host's addresses. Must be called on the runtime.
    ///
    /// # Errors
    /// One can't be bound although its address may be there.
    pub fn bind(config: &Config, here: Here, store: Arc<Store>) -> Result<Self, ListenError> {
        let mark = crate::sys::mark(config).unwrap_or(0);
        let mut http = Vec::new();
        for address in &config.http.listen {
            let mut one = Http::new(*address);
            match one.bind(mark, false, &store) {
                Ok(()) => {}
                Err(error) if endpoint::is_absent(&error) => one.why = error.to_string(),
                Err(source) => return Err(ListenError { address: *address, source }),
            }
            one.keep(&store);
            http.push(one);
        }
        let bgp = Mutex::new(config.bgp.listen.clone());
        Ok(Self { http: Mutex::new(http), mark, store, bgp, here: Mutex::new(here), sources: OnceLock::new() })
    }

    /// This host as it was read last.
    pub fn here(&self) -> Here {
        self.here.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// It is otherwise now.
    pub fn set_here(&self, here: &Here) {
        self.here.lock().unwrap_or_else(PoisonError::into_inner).clone_from(here);
    }

    fn http(&self) -> std::sync::MutexGuard<'_, Vec<Http>> {
        self.http.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `bgp.listen` is another.
    pub fn set_bgp(&self, config: &Config) {
        self.bgp.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&config.bgp.listen);
    }

    /// The ports of `http.listen`.
    pub fn ports(&self) -> Vec<u16> {
        self.http().iter().map(Http::port).collect()
    }

    /// Binds what is new in this configuration.
    ///
    /// # Errors
    /// See [`ListenError`]; nothing has changed then.
    pub fn prepare(&self, config: &Config) -> Result<Prepared, ListenError> {
        let listen = config.http.listen.clone();
        let before = self.http();
        let goes: Vec<SocketAddr> =
            before.iter().filter(|one| !listen.contains(&one.address)).map(|one| *one.address).collect();
        let mut new = Vec::new();
        for address in listen.iter().filter(|new| before.iter().all(|old| old.address != **new)) {
            let mut one = Http::new(*address);
            let meets = |old: &SocketAddr| {
                let ips = old.ip() == address.ip() || old.ip().is_unspecified() || address.ip().is_unspecified();
                ips && old.port() == address.port() && old.port() != 0
            };
            match one.bind(self.mark, goes.iter().any(meets), &self.store) {
                Ok(()) => {}
                Err(error) if endpoint::is_absent(&error) => one.why = error.to_string(),
                Err(source) => return Err(ListenError { address: *address, source }),
            }
            new.push(one);
        }
        Ok(Prepared { listen, new })
    }

    /// Serves what was prepared, and lets go what the configuration has no longer.
    pub fn switch(&self, prepared: Prepared) {
        let mut all = self.http();
        let (stays, goes): (Vec<Http>, Vec<Http>) =
            std::mem::take(&mut *all).into_iter().partition(|one| prepared.listen.contains(&one.address));
        for mut one in goes {
            one.end(&self.store);
        }
        *all = stays;
        for mut one in prepared.new {
            one.keep(&self.store);
            all.push(one);
        }
        drop(all);
        if let Some(sources) = self.sources.get().and_then(Weak::upgrade) {
            self.look(&sources);
        }
    }

    /// Serves what is bound, and binds what has become possible.
    pub fn look(&self, sources: &Arc<dyn Sources>) {
        let _ = self.sources.get_or_init(|| Arc::downgrade(sources));
        for one in self.http().iter_mut() {
            if let Some(index) = one.index
                && one.address.zone().and_then(|zone| endpoint::index(&zone).ok()) != Some(index)
            {
                one.end(&self.store);
            }
            if one.listener.is_none() && one.task.is_none() {
                match one.bind(self.mark, false, &self.store) {
                    Ok(()) => one.keep(&self.store),
                    Err(error) => {
                        let why = error.to_string();
                        if why != one.why {
                            tracing::warn!(address = %one.address, "http.listen: not served yet: {why}");
                        }
                        one.why = why;
                    }
                }
            }
            if let Some(listener) = one.listener.take() {
                one.task = Some(tokio::spawn(control::serve_tcp(listener, sources.clone())));
            }
        }
    }

    /// What isn't reached although the configuration in force says so: what is wrong, and what only may be.
    pub fn missing(&self, config: &Config, dns: &Listeners, bgp: Option<&BgpStatus>) -> (Vec<String>, Vec<String>) {
        let own = self.here().addresses;
        let mut all = dns.missing(&own);
        let not_bound = bgp.map(BgpStatus::not_bound).unwrap_or_default();
        let listened = self.bgp.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for address in &listened {
            let key = "bgp.listen";
            match not_bound.iter().find(|(other, _)| *address == *other) {
                Some((_, why)) => all.push((*address, not_served(key, *address, why))),
                None if !is_there(address, &own) => all.push((*address, not_here(key, *address))),
                None => {}
            }
        }
        for one in self.http().iter() {
            if one.task.is_none() && one.listener.is_none() {
                all.push((one.address, not_served("http.listen", one.address, &one.why)));
            } else if !is_there(&one.address, &own) {
                all.push((one.address, not_here("http.listen", one.address)));
            }
        }
        // The default listens on ::1, and nobody misses that on a host without IPv6.
        let no_ipv6 = !own.iter().any(IpAddr::is_ipv6);
        let is_wrong = |address: &Endpoint| {
            !(no_ipv6 && address.is_ipv6() && address.ip().is_loopback()
                || config.dns.virtual_addresses.contains(&address.ip()))
        };
        let (wrong, odd): (Vec<_>, Vec<_>) = all.into_iter().partition(|(address, _)| is_wrong(address));
        let words = |all: Vec<(Endpoint, String)>| all.into_iter().map(|(_, words)| words).collect::<Vec<_>>();
        let mut wrong = words(wrong);
        let gone = others(config)
            .into_iter()
            .filter_map(|(who, zone)| Some(format!("{who}: {}", endpoint::index(&zone).err()?)));
        wrong.extend(gone);
        (wrong, words(odd))
    }

    /// Serves no more. The listeners stay, for the next process.
    pub fn end(&self) {
        self.http().iter_mut().for_each(Http::pause);
    }
}

/// Whom the guard itself reaches on one interface only.
fn others(config: &Config) -> Vec<(String, Zone)> {
    let upstreams = config.dns.upstream.iter().filter_map(|upstream| {
        let url: UpstreamUrl = upstream.url.parse().ok()?;
        Some((format!("dns.upstream {url}"), url.addr.zone()?))
    });
    let peers = config.bgp.peer.iter();
    let peers =
        peers.filter_map(|peer| Some((format!("bgp.peer {} ({})", peer.name, peer.address), peer.address.zone()?)));
    let edges = config.bgp.edge.iter();
    let edges =
        edges.filter_map(|edge| Some((format!("bgp.edge {} ({})", edge.name, edge.address), edge.address.zone()?)));
    upstreams.chain(peers).chain(edges).collect()
}

impl Http {
    fn bind(&mut self, mark: u32, beside: bool, store: &Store) -> io::Result<()> {
        let address: SocketAddr = endpoint::now(&self.address)?;
        let index = self.address.zone().map(|zone| endpoint::index(&zone)).transpose()?;
        let v6_only = address.is_ipv6() && V6_ONLY;
        let socket = match store.take(KEY, address, Type::STREAM, v6_only).into_iter().next() {
            Some(socket) => socket,
            None => new_stream((address, v6_only), beside)?,
        };
        socket.set_nonblocking(true)?;
        if socket.mark()? != mark {
            let words = |error: io::Error| io::Error::new(error.kind(), format!("replies can't be marked: {error}"));
            socket.set_mark(mark).map_err(words)?;
        }
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from_std(socket.into())?;
        let actual = listener.local_addr()?;
        self.name = handover::name(KEY, actual);
        (self.listener, self.actual, self.index) = (Some(listener), Some(actual), index);
        Ok(())
    }

    /// Has the next process get it.
    fn keep(&mut self, store: &Store) {
        if let Some(listener) = &self.listener {
            store.keep(&self.name, &[listener.as_fd()]);
        }
    }

    fn pause(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
        (self.listener, self.index) = (None, None);
    }

    fn end(&mut self, store: &Store) {
        self.pause();
        store.let_go(&self.name);
    }
}
