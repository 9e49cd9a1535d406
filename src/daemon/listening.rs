//! What the daemon listens on, address by address: served, or why not; and what is done when this host's addresses change.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::unix::AsyncFd;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::sources::Shared;
use super::{RunError, reload, rules};
use crate::config::schema::NftablesMode;
use crate::config::{Config, UpstreamUrl};
use crate::control;
use crate::dns::Listeners;
use crate::dns::listen::late::{is_there, not_here, not_served};
use crate::enforce::bgp::BgpStatus;
use crate::sys::endpoint::{self, Endpoint, Zone};
use crate::sys::interfaces::Here;
use crate::sys::netlink::Socket as Netlink;
use crate::sys::{MARK, on_link};

/// How often this host's own addresses are read anew although the kernel told of no change.
const INTERFACES: Duration = Duration::from_secs(10);
/// Changes seldom come alone: they are read together.
const GATHERED: Duration = Duration::from_millis(50);
/// Notifications taken in one go.
const MOST: usize = 1024;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// One address of `http.listen`.
struct Http {
    address: Endpoint,
    /// Bound, not served yet.
    listener: Option<TcpListener>,
    /// The number of its interface, where it names one.
    index: Option<u32>,
    task: Option<JoinHandle<()>>,
    why: String,
}

/// See the module.
pub struct Listening {
    http: Mutex<Vec<Http>>,
    mark: Option<u32>,
    bgp: Vec<Endpoint>,
    here: Mutex<Here>,
}

impl Listening {
    /// Binds the listeners of `http.listen`; `here`: this host's addresses. Must be called on the runtime.
    ///
    /// # Errors
    /// One can't be bound although its address may be there.
    pub fn bind(config: &Config, here: Here) -> Result<Self, RunError> {
        let mark = (config.nftables.mode != NftablesMode::Off).then_some(MARK);
        let mut http = Vec::new();
        for address in &config.http.listen {
            let mut one = Http { address: *address, listener: None, index: None, task: None, why: String::new() };
            match one.bind(mark) {
                Ok(()) => {}
                Err(error) if endpoint::is_absent(&error) => one.why = error.to_string(),
                Err(error) => return Err(RunError::Failed(format!("http.listen: {address}: {error}"))),
            }
            http.push(one);
        }
        let bgp = config.bgp.listen.clone();
        Ok(Self { http: Mutex::new(http), mark, bgp, here: Mutex::new(here) })
    }

    /// This host as it was read last.
    pub fn here(&self) -> Here {
        self.here.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn http(&self) -> std::sync::MutexGuard<'_, Vec<Http>> {
        self.http.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ports of `http.listen`.
    pub fn ports(&self) -> Vec<u16> {
        let port = |one: &Http| one.listener.as_ref().and_then(|listener| listener.local_addr().ok());
        self.http().iter().map(|one| port(one).map_or(one.address.port(), |actual| actual.port())).collect()
    }

    /// Serves what is bound, and binds what has become possible.
    pub fn look(&self, shared: &Arc<Shared>) {
        for one in self.http().iter_mut() {
            if let Some(index) = one.index
                && one.address.zone().and_then(|zone| zone.index().ok()) != Some(index)
            {
                one.end();
            }
            if one.listener.is_none()
                && one.task.is_none()
                && let Err(error) = one.bind(self.mark)
            {
                let why = error.to_string();
                if why != one.why {
                    tracing::warn!(address = %one.address, "http.listen: not served yet: {why}");
                }
                one.why = why;
            }
            if let Some(listener) = one.listener.take() {
                one.task = Some(tokio::spawn(control::serve_tcp(listener, shared.clone())));
            }
        }
    }

    /// What isn't reached although the configuration in force says so: what is wrong, and what only may be.
    pub fn missing(&self, config: &Config, dns: &Listeners, bgp: Option<&BgpStatus>) -> (Vec<String>, Vec<String>) {
        let own = self.here().addresses;
        let mut all = dns.missing(&own);
        let not_bound = bgp.map(BgpStatus::not_bound).unwrap_or_default();
        for address in &self.bgp {
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
        let gone = others(config).into_iter().filter_map(|(who, zone)| Some(format!("{who}: {}", zone.index().err()?)));
        wrong.extend(gone);
        (wrong, words(odd))
    }

    /// Ends the listeners.
    pub fn end(&self) {
        self.http().iter_mut().for_each(Http::end);
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
    fn bind(&mut self, mark: Option<u32>) -> io::Result<()> {
        let address: SocketAddr = self.address.now()?;
        let index = self.address.zone().map(|zone| zone.index()).transpose()?;
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        endpoint::bind_ahead(&socket, address);
        if let Some(mark) = mark {
            let words = |error: io::Error| io::Error::new(error.kind(), format!("replies can't be marked: {error}"));
            socket.set_mark(mark).map_err(words)?;
        }
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        (self.listener, self.index) = (Some(TcpListener::from_std(socket.into())?), index);
        Ok(())
    }

    fn end(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
        (self.listener, self.index) = (None, None);
    }
}

/// Links, addresses, routes and prefixes that a router advertises.
const GROUPS: [u32; 6] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_ROUTE,
    libc::RTNLGRP_IPV6_PREFIX,
];

/// Tells of changes of interfaces, addresses and what is on-link.
struct Changes(Option<AsyncFd<Netlink>>);

impl Changes {
    fn new() -> Self {
        let opened = Netlink::open(libc::NETLINK_ROUTE, 1 << 20).and_then(|socket| {
            // A router's table may change all the time; what is on-link no routing daemon makes.
            socket.ignore_routes_but_of(&on_link::PROTOCOLS)?;
            for group in GROUPS {
                socket.join(i32::try_from(group).unwrap_or_default())?;
            }
            socket.watched()
        });
        if let Err(error) = &opened {
            tracing::warn!(%error, "changes of this host's addresses are seen only every {} s", INTERFACES.as_secs());
        }
        Self(opened.ok())
    }

    /// Waits for the next one. What was lost is one too.
    async fn next(&self) {
        let Some(socket) = &self.0 else { return std::future::pending().await };
        match socket.readable().await {
            Ok(mut ready) => {
                // What they say is read from the kernel anyway.
                let mut buffer = [0; 16 * 1024];
                for _ in 0..MOST {
                    if matches!(socket.get_ref().receive(&mut buffer), Ok(None)) {
                        break;
                    }
                }
                ready.clear_ready();
            }
            Err(error) => {
                tracing::warn!(%error, "waiting for changes of this host's addresses");
                std::future::pending().await
            }
        }
    }
}

/// Keeps this host's own addresses and what is on-link out of what may be opened, and serves what is to be listened on, also when they change.
pub async fn follow(shared: Arc<Shared>, mut known: Here) {
    let changes = Changes::new();
    let mut tick = tokio::time::interval(INTERFACES);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = changes.next() => tokio::time::sleep(GATHERED).await,
        }
        let now = match rules::here(&shared.config().0) {
            Ok(now) => now,
            Err(error) => {
                tracing::warn!(%error, "what was known last is used");
                continue;
            }
        };
        shared.listening.here.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&now);
        shared.listeners.look();
        shared.listening.look(&shared);
        if now != known {
            let _applying = shared.applying.lock().await;
            let config = shared.config().0;
            let made = rules::rules(&config, &shared.lists.lists(), &now);
            let closed = match made {
                Ok(rules) => reload::put_in_force(&shared, rules).await,
                Err(error) => Err(error),
            };
            match closed {
                Ok(()) => known = now,
                // Tried again the next time.
                Err(error) => tracing::error!(%error, "the address filter can't be made anew"),
            }
        }
    }
}
