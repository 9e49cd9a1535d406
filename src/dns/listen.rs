//! The sockets that clients reach, bound as a whole before anything starts.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::DnsError;
use crate::config::Config;
use crate::config::schema::NftablesMode;
use crate::sys::endpoint;
use crate::sys::udp as sys;

pub mod encrypted;
pub mod https;
pub mod late;
pub mod quic;
pub mod seats;
pub mod tcp;
pub mod udp;
pub mod unsent;

pub use encrypted::Transport;
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
    /// One for each listen address and worker.
    pub(super) udp: Vec<UdpSocket>,
    /// One for each listen address.
    pub(super) tcp: Vec<TcpListener>,
    /// The addresses, with the real port where the configuration said 0.
    pub(super) addresses: Vec<SocketAddr>,
    /// Encrypted listeners over TCP.
    pub(super) streams: Vec<(Transport, TcpListener)>,
    /// Sockets for QUIC.
    pub(super) quic: Vec<UdpSocket>,
    /// Where encrypted transports are reached.
    pub(super) encrypted: Vec<(Transport, SocketAddr)>,
    /// Not there yet. Their addresses are among the others.
    pub(super) absent: Vec<Absent>,
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

    /// Has replies bear the firewall mark. What a listener accepts inherits it.
    fn mark(&self, mark: u32) -> io::Result<()> {
        let udp = self.udp.iter().chain(&self.quic).map(SockRef::from);
        let tcp = self.tcp.iter().chain(self.streams.iter().map(|(_, listener)| listener)).map(SockRef::from);
        udp.chain(tcp).try_for_each(|socket| socket.set_mark(mark))
    }
}

/// UDP threads.
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
    let workers = workers(config);
    let mut sockets = Sockets::default();
    for wanted in late::wanted(config) {
        // Interfaces come again with another number, so those that name one are looked after all the time.
        if wanted.address.zone().is_some() {
            wanted.wait("", &mut sockets);
            continue;
        }
        match wanted.bind(workers, &mut sockets) {
            Ok(()) => {}
            Err((_, error)) if endpoint::is_absent(&error) => wanted.wait(&error.to_string(), &mut sockets),
            Err((transport, error)) => return Err(wanted.refused(transport, error)),
        }
    }
    if config.nftables.mode != NftablesMode::Off {
        sockets.mark(crate::sys::MARK).map_err(DnsError::Mark)?;
    }
    Ok(sockets)
}

fn quic_socket(address: SocketAddr, v6_only: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(v6_only)?;
    }
    socket.set_nonblocking(true)?;
    sys::want_receive_buffer(socket.as_fd(), RECEIVE_BUFFER)?;
    bind_to(&socket, address)?;
    Ok(socket.into())
}

/// Also where the address isn't there yet.
fn bind_to(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if !address.ip().is_unspecified() {
        endpoint::bind_ahead(socket, address);
    }
    socket.bind(&address.into())
}

type Failed = (&'static str, io::Error);

fn bind_one(address: SocketAddr, v6_only: bool, workers: usize, sockets: &mut Sockets) -> Result<(), Failed> {
    let mut tries = if address.port() == 0 { PORT_TRIES } else { 1 };
    loop {
        let (listener, actual) = tcp_listener(address, v6_only).map_err(|error| ("tcp", error))?;
        tries = tries.saturating_sub(1);
        match udp_sockets(actual, v6_only, workers) {
            Ok(udp) => {
                sockets.udp.extend(udp);
                sockets.tcp.push(listener);
                sockets.addresses.push(actual);
                return Ok(());
            }
            Err(error) if tries == 0 => return Err(("udp", error)),
            Err(_) => {}
        }
    }
}

fn tcp_listener(address: SocketAddr, v6_only: bool) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(v6_only)?;
    }
    bind_to(&socket, address)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    let listener: TcpListener = socket.into();
    let actual = listener.local_addr()?;
    Ok((listener, actual))
}

fn udp_sockets(address: SocketAddr, v6_only: bool, workers: usize) -> io::Result<Vec<UdpSocket>> {
    // Without SO_REUSEPORT first: with it a second guard on the same address would bind silently and take half of the questions.
    drop(udp_socket(address, v6_only, false)?);
    (0..workers.max(1)).map(|_| udp_socket(address, v6_only, true)).collect()
}

fn udp_socket(address: SocketAddr, v6_only: bool, shared: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(v6_only)?;
    }
    socket.set_reuse_port(shared)?;
    bind_to(&socket, address)?;
    if address.ip().is_unspecified() {
        // Bound to one address, replies leave from it anyway, and the kernel needn't be asked for each.
        sys::want_local_address(socket.as_fd(), address.is_ipv6())?;
    }
    sys::want_receive_buffer(socket.as_fd(), RECEIVE_BUFFER)?;
    socket.set_read_timeout(Some(WAIT))?;
    Ok(socket.into())
}
