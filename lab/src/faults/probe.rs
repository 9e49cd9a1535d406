//! One datagram from the client's network to an address, and back: whether the address is open at that moment.
//!
//! Each probe goes to a port of its own, so that no flow which the kernel knows already lets it through; the far side turns every
//! port to one socket. The echo may take its time: the packet was let through, or dropped, when it was sent.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::AnyError;
use crate::node::Node;

/// Where the far side's socket listens.
const ECHO: u16 = 7777;
/// The ports that probes are sent to: the first, and how many.
const PORTS: (u64, u64) = (10_000, 50_000);
const TICK: Duration = Duration::from_millis(50);

/// Why a probe was sent.
#[derive(Clone, Debug)]
pub struct Probe {
    /// The address that is tried.
    pub address: IpAddr,
    /// When it left.
    pub sent: Instant,
    /// The row of the table that it counts in.
    pub row: usize,
    /// The answer that it followed; `None` for one within the TTL.
    pub answer: Option<Answered>,
}

/// An answer that a probe followed.
#[derive(Clone, Debug)]
pub struct Answered {
    /// The name that is asked for.
    pub name: String,
    /// When the question was sent last.
    pub asked: Instant,
    /// When the answer was there.
    pub seen: Instant,
}

/// The client's sockets for probes, and what is on its way.
#[derive(Debug)]
pub struct Prober {
    sockets: [UdpSocket; 2],
    next: AtomicU64,
    pending: Mutex<HashMap<u64, Probe>>,
}

impl Prober {
    /// Sockets in a node.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(node: &Node) -> Result<Self, AnyError> {
        let bind = |at: &str| -> io::Result<UdpSocket> {
            let socket = UdpSocket::bind(at)?;
            socket.set_read_timeout(Some(TICK))?;
            Ok(socket)
        };
        let sockets = node.in_namespace(|| Ok::<_, io::Error>([bind("0.0.0.0:0")?, bind("[::]:0")?]))??;
        Ok(Self { sockets, next: AtomicU64::new(0), pending: Mutex::default() })
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<u64, Probe>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends one.
    ///
    /// # Errors
    /// The socket's.
    pub fn send(&self, address: IpAddr, row: usize, answer: Option<Answered>) -> io::Result<()> {
        let number = self.next.fetch_add(1, Relaxed);
        let port = u16::try_from(PORTS.0 + number % PORTS.1).unwrap_or(ECHO);
        let [four, six] = &self.sockets;
        let socket = if address.is_ipv4() { four } else { six };
        self.pending().insert(number, Probe { address, sent: Instant::now(), row, answer });
        socket.send_to(&number.to_be_bytes(), SocketAddr::new(address, port)).map(drop)
    }

    /// Reads echoes of one family until `end`; each goes to `heard`.
    pub fn receive(&self, six: bool, end: &AtomicBool, heard: impl Fn(Probe)) {
        let socket = &self.sockets[usize::from(six)];
        let mut room = [0; 64];
        while !end.load(Relaxed) {
            let Ok((length, _)) = socket.recv_from(&mut room) else { continue };
            let number = room.get(..length).and_then(|octets| octets.try_into().ok()).map(u64::from_be_bytes);
            let probe = number.and_then(|number| self.pending().remove(&number));
            if let Some(probe) = probe {
                heard(probe);
            }
        }
    }

    /// Takes out those that have no echo after `patience`.
    pub fn overdue(&self, patience: Duration) -> Vec<Probe> {
        let now = Instant::now();
        self.pending().extract_if(|_, probe| probe.sent + patience < now).map(|(_, probe)| probe).collect()
    }

    /// How many are on their way.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.pending().len()
    }
}

/// The far side's sockets.
///
/// # Errors
/// The kernel's; when its filter can't be loaded.
pub fn far_side(node: &Node) -> Result<[UdpSocket; 2], AnyError> {
    let (first, last) = (PORTS.0, PORTS.0 + PORTS.1 - 1);
    let chain = "chain pre { type nat hook prerouting priority dstnat; ";
    node.ok(&format!("nft 'table inet echo {{ {chain} udp dport {first}-{last} redirect to :{ECHO}; }}; }}'"))?;
    let bind = |at: &str| -> io::Result<UdpSocket> {
        use socket2::{Domain, Socket, Type};
        let at: SocketAddr = at.parse().map_err(io::Error::other)?;
        let socket = Socket::new(if at.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 }, Type::DGRAM, None)?;
        if at.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_recv_buffer_size(8 << 20)?;
        socket.bind(&at.into())?;
        let socket = UdpSocket::from(socket);
        socket.set_read_timeout(Some(TICK))?;
        Ok(socket)
    };
    let sockets =
        node.in_namespace(|| Ok::<_, io::Error>([bind(&format!("0.0.0.0:{ECHO}"))?, bind(&format!("[::]:{ECHO}"))?]))?;
    Ok(sockets?)
}

/// Sends back what comes until `end`.
pub fn echo(socket: &UdpSocket, end: &AtomicBool) {
    let mut room = [0; 64];
    while !end.load(Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut room) else { continue };
        if let Err(error) = socket.send_to(room.get(..length).unwrap_or_default(), from) {
            eprintln!("lab: the far side could not reply: {error}");
        }
    }
}
