//! The sockets that clients reach, bound as a whole before anything starts.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::DnsError;
use crate::config::Config;
use crate::dns::transport::Transport;
use crate::sys::endpoint;
use crate::sys::handover::{self, Store};
use crate::sys::udp as sys;
use late::Wanted;

pub mod encrypted;
pub mod https;
pub mod late;
pub mod phase;
pub mod quic;
pub mod reload;
pub mod seats;
pub mod tcp;
pub mod udp;

pub use late::{Absent, Listeners};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// What the kernel may hold of questions that no worker has read yet.
const RECEIVE_BUFFER: i32 = 4 << 20;
/// How long a worker waits before it looks whether the daemon stops.
const WAIT: Duration = Duration::from_millis(200);
/// Times another port is tried where the configuration leaves it open (port 0) and the first is free for UDP only.
const PORT_TRIES: usize = 16;

/// Bound, not yet served.
#[derive(Debug, Default)]
pub struct Sockets {
    /// Listener by listener.
    pub(super) bound: Vec<Bound>,
    /// The addresses, with the real port where the configuration said 0.
    pub(super) addresses: Vec<SocketAddr>,
    /// Where encrypted transports are reached.
    pub(super) encrypted: Vec<(Transport, SocketAddr)>,
    /// Not there yet. Their addresses are among the others.
    pub(super) absent: Vec<Absent>,
    /// What an earlier process left, and what the next one gets.
    pub(super) store: Arc<Store>,
}

/// The sockets of one listener.
#[derive(Debug)]
pub(super) struct Bound {
    wanted: Wanted,
    /// Of its interface, where it names one.
    index: Option<u32>,
    /// With the real port.
    actual: SocketAddr,
    /// One for each worker.
    udp: Vec<UdpSocket>,
    /// Of an earlier process with more workers: what waits in them is read, then they are closed.
    surplus: Vec<UdpSocket>,
    tcp: Option<TcpListener>,
    quic: Option<UdpSocket>,
}

impl Bound {
    fn new(wanted: Wanted, actual: SocketAddr) -> Self {
        Self { wanted, index: None, actual, udp: Vec::new(), surplus: Vec::new(), tcp: None, quic: None }
    }

    /// By which the next process knows its sockets.
    fn name(&self) -> String {
        handover::name(&self.wanted.key(), self.actual)
    }

    /// Has the next process get them.
    fn keep(&self, store: &Store) {
        let udp = self.udp.iter().chain(&self.quic).map(AsFd::as_fd);
        let all: Vec<_> = udp.chain(self.tcp.iter().map(AsFd::as_fd)).collect();
        store.keep(&self.name(), &all);
    }

    /// Has replies bear the firewall mark, or none. What a listener accepts inherits it.
    fn mark(&self, mark: u32) -> io::Result<()> {
        let udp = self.udp.iter().chain(&self.surplus).chain(&self.quic).map(SockRef::from);
        udp.chain(self.tcp.iter().map(SockRef::from)).try_for_each(|socket| {
            // To set it needs a capability that a guard without nftables hasn't.
            if socket.mark()? == mark { Ok(()) } else { socket.set_mark(mark) }
        })
    }
}

impl Sockets {
    /// Where clients reach the guard.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Every port that clients reach the guard at: over TCP, and over UDP.
    #[must_use]
    pub fn ports(&self) -> (Vec<u16>, Vec<u16>) {
        let plain = || self.addresses.iter().map(SocketAddr::port);
        let encrypted = |quic: bool| {
            let mine = self.encrypted.iter().filter(move |(transport, _)| (*transport == Transport::Quic) == quic);
            mine.map(|(_, address)| address.port())
        };
        (plain().chain(encrypted(false)).collect(), plain().chain(encrypted(true)).collect())
    }
}

/// The firewall mark of replies.
fn mark(config: &Config) -> u32 {
    crate::sys::mark(config).unwrap_or(0)
}

/// The number of UDP threads of each listener: `dns.workers`, or one per core.
#[must_use]
pub fn workers(config: &Config) -> usize {
    match config.dns.workers {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        workers => workers,
    }
}

/// Binds every listener of `dns.listen` and `dns.tls`. An address that this host doesn't have yet is bound all the same, and served from when it
/// comes; what can't be bound before its interface or address family is there waits ([`late`]).
///
/// # Errors
/// [`DnsError::Bind`] with the address.
pub fn bind(config: &Config) -> Result<Sockets, DnsError> {
    bind_or_take(config, Arc::default())
}

/// Likewise, with what an earlier process has left in the store.
///
/// # Errors
/// As [`bind`].
pub fn bind_or_take(config: &Config, store: Arc<Store>) -> Result<Sockets, DnsError> {
    let mark = mark(config);
    let mut sockets = Sockets { store, ..Sockets::default() };
    for wanted in late::wanted(config) {
        // Interfaces come again with another number, so those that name one are looked after all the time.
        if wanted.address.zone().is_some() {
            sockets.wait(wanted, "");
            continue;
        }
        match wanted.bind(false, &sockets.store) {
            Ok(bound) => {
                bound.mark(mark).map_err(DnsError::Mark)?;
                sockets.push(bound);
            }
            Err((_, error)) if endpoint::is_absent(&error) => sockets.wait(wanted, &error.to_string()),
            Err((transport, error)) => return Err(wanted.refused(transport, error)),
        }
    }
    Ok(sockets)
}

impl Sockets {
    fn push(&mut self, bound: Bound) {
        match bound.wanted.transport {
            None => self.addresses.push(bound.actual),
            Some(transport) => self.encrypted.push((transport, bound.actual)),
        }
        self.bound.push(bound);
    }

    /// It is to be bound later.
    fn wait(&mut self, wanted: Wanted, why: &str) {
        match wanted.transport {
            None => self.addresses.push(*wanted.address),
            Some(transport) => self.encrypted.push((transport, *wanted.address)),
        }
        self.absent.push(Absent { wanted, why: why.to_owned() });
    }
}

/// Also where the address isn't there yet.
fn bind_to(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if !address.ip().is_unspecified() {
        endpoint::bind_ahead(socket, address);
    }
    socket.bind(&address.into())
}

type Failed = (&'static str, io::Error);

/// `beside`: one of our own listeners has the address too, and goes when this one is served.
fn bind_plain(
    wanted: Wanted,
    address: SocketAddr,
    (workers, beside): (usize, bool),
    store: &Store,
) -> Result<Bound, Failed> {
    let key = wanted.key();
    let mut tries = if address.port() == 0 { PORT_TRIES } else { 1 };
    loop {
        let (listener, actual) = stream(&key, wanted.at(address), beside, store).map_err(|error| ("tcp", error))?;
        tries = tries.saturating_sub(1);
        match datagrams(&key, wanted.at(actual), (workers, beside), store) {
            Ok((udp, surplus)) => {
                return Ok(Bound { udp, surplus, tcp: Some(listener), ..Bound::new(wanted, actual) });
            }
            Err(error) if tries == 0 => return Err(("udp", error)),
            Err(_) => {}
        }
    }
}

/// An address, and whether only IPv6 is meant by it.
type At = (SocketAddr, bool);

/// A TCP listener: an earlier process's, or a new one.
fn stream(key: &str, at: At, beside: bool, store: &Store) -> io::Result<(TcpListener, SocketAddr)> {
    let taken = store.take(key, at.0, Type::STREAM, at.1).into_iter().next();
    // Who waits to be accepted is lost with a listener that is closed: where another one has its address, they share the socket.
    let shared = || if beside { store.share(key, at.0, Type::STREAM, at.1) } else { None };
    let socket = match taken.or_else(shared) {
        Some(socket) => socket,
        None => new_stream(at, beside)?,
    };
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    let listener: TcpListener = socket.into();
    let actual = listener.local_addr()?;
    Ok((listener, actual))
}

/// Bound, not listening yet. `beside`: one of our own listeners has the address too, and goes when this one is served.
///
/// # Errors
/// The kernel's.
pub(crate) fn new_stream((address, v6_only): At, beside: bool) -> io::Result<Socket> {
    let bound = |shared: bool| {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(v6_only)?;
        }
        socket.set_reuse_port(shared)?;
        bind_to(&socket, address)?;
        io::Result::Ok(socket)
    };
    if !beside && address.port() != 0 {
        // As with UDP; a free port that the kernel finds is nobody else's.
        drop(bound(false)?);
    }
    bound(true)
}

/// UDP sockets, one for each worker, and those that an earlier process had beyond that.
fn datagrams(
    key: &str,
    at: At,
    (workers, beside): (usize, bool),
    store: &Store,
) -> io::Result<(Vec<UdpSocket>, Vec<UdpSocket>)> {
    let mut all = store.take(key, at.0, Type::DGRAM, at.1);
    if workers > 1 {
        all.retain(|socket| socket.reuse_port().unwrap_or(false));
    }
    if all.is_empty() && !beside {
        // Without SO_REUSEPORT first: with it a second guard on the same address would bind silently and take half of the questions.
        drop(new_datagram(at, false)?);
    }
    while all.len() < workers.max(1) {
        all.push(new_datagram(at, true)?);
    }
    let mut all = all
        .into_iter()
        .map(|socket| {
            if at.0.ip().is_unspecified() {
                // Bound to one address, replies leave from it anyway, and the kernel needn't be asked for each.
                sys::want_local_address(socket.as_fd(), at.0.is_ipv6())?;
            }
            sys::want_receive_buffer(socket.as_fd(), RECEIVE_BUFFER)?;
            Ok(socket.into())
        })
        .collect::<io::Result<Vec<UdpSocket>>>()?;
    let surplus = all.split_off(workers.max(1));
    Ok((all, surplus))
}

fn new_datagram((address, v6_only): At, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(v6_only)?;
    }
    socket.set_reuse_port(shared)?;
    bind_to(&socket, address)?;
    Ok(socket)
}

/// A socket for QUIC. Its handshakes need no worker of their own.
fn quic_socket(key: &str, at: At, beside: bool, store: &Store) -> io::Result<UdpSocket> {
    let (sockets, _) = datagrams(key, at, (1, beside), store)?;
    let socket = sockets.into_iter().next().ok_or(io::ErrorKind::AddrNotAvailable)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
