//! The TCP and UDP sockets of this network namespace, as the kernel lists them (sock_diag(7)).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::dialogue::Dialogue;
use super::wire::{self, F_DUMP};
use crate::enforce::rules::Transport;

/// The kernel's `SOCK_DIAG_BY_FAMILY`: a request for sockets of one family.
const BY_FAMILY: u16 = 20;
/// `INET_DIAG_MARK`: told to who has CAP_NET_ADMIN.
const MARK: u16 = 15;
/// The kernel's `INET_DIAG_CGROUP_ID`: the attribute of a socket's control group.
const GROUP: u16 = 21;
/// `struct inet_diag_sockid` begins here in `struct inet_diag_msg`.
const ID: usize = 4;
/// Attributes begin behind `struct inet_diag_msg`.
const MESSAGE: usize = 72;

/// Where a socket is in its life. UDP knows the first and the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Both ends know of the connection; for UDP: `connect` was called.
    Connected,
    /// We asked for a connection.
    Asked,
    /// We were asked for one.
    WasAsked,
    /// One end has closed, or both.
    Closing,
    /// Only a timer is left of it.
    Over,
    /// Takes connections, or datagrams from anybody.
    Listening,
}

/// A socket of this host, as the kernel's dump shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// TCP or UDP.
    pub transport: Transport,
    /// Where in its life.
    pub state: State,
    /// Its own end. IPv4 within IPv6 is shown as IPv4.
    pub local: SocketAddr,
    /// The other end; unspecified when it listens.
    pub remote: SocketAddr,
    /// The user that made the socket, by number.
    pub uid: u32,
    /// The file, as `/proc/PID/fd` names it; 0: nobody's.
    pub inode: u32,
    /// The firewall mark, where it is told.
    pub mark: Option<u32>,
    /// The control group that it was made in (Linux 5.8).
    pub group: Option<u64>,
}

/// Every one.
///
/// # Errors
/// The kernel's: it may be built without `INET_DIAG`.
pub fn all() -> io::Result<Vec<Socket>> {
    let mut kernel = Dialogue::open(libc::NETLINK_SOCK_DIAG)?;
    let mut found = Vec::new();
    for (transport, protocol) in [(Transport::Tcp, libc::IPPROTO_TCP), (Transport::Udp, libc::IPPROTO_UDP)] {
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut request = [0u8; 56];
            request[0] = u8::try_from(family).unwrap_or(0);
            request[1] = u8::try_from(protocol).unwrap_or(0);
            // Every state.
            request[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
            kernel.ask(BY_FAMILY, F_DUMP, &request, |kind, payload| {
                if kind == BY_FAMILY {
                    found.extend(read(transport, payload));
                }
            })?;
        }
    }
    Ok(found)
}

fn read(transport: Transport, message: &[u8]) -> Option<Socket> {
    let ipv4 = i32::from(*message.first()?) == libc::AF_INET;
    let state = match (transport, message.get(1)?) {
        (_, 1) => State::Connected,
        (Transport::Udp, _) => State::Listening,
        (_, 2) => State::Asked,
        (_, 3 | 12) => State::WasAsked,
        (_, 6 | 7) => State::Over,
        (_, 10) => State::Listening,
        _ => State::Closing,
    };
    let port = |at: usize| wire::number(message, ID + at).map(u16::from_be_bytes);
    let address = |at: usize| {
        if ipv4 {
            wire::number::<4>(message, ID + at).map(|octets| IpAddr::V4(Ipv4Addr::from(octets)))
        } else {
            wire::number::<16>(message, ID + at).map(|octets| Ipv6Addr::from(octets).to_canonical())
        }
    };
    Some(Socket {
        transport,
        state,
        local: SocketAddr::new(address(4)?, port(0)?),
        remote: SocketAddr::new(address(20)?, port(2)?),
        uid: u32::from_ne_bytes(wire::number(message, 64)?),
        inode: u32::from_ne_bytes(wire::number(message, 68)?),
        mark: message
            .get(MESSAGE..)
            .and_then(|attributes| wire::find(attributes, MARK))
            .and_then(|value| wire::number(value, 0))
            .map(u32::from_ne_bytes),
        group: message
            .get(MESSAGE..)
            .and_then(|attributes| wire::find(attributes, GROUP))
            .and_then(|value| wire::number(value, 0))
            .map(u64::from_ne_bytes),
    })
}

/// The socket with these two ends; `None`: it is gone, or the kernel doesn't tell.
#[must_use]
pub fn find(transport: Transport, local: SocketAddr, remote: SocketAddr) -> Option<Socket> {
    let mut kernel = Dialogue::open(libc::NETLINK_SOCK_DIAG).ok()?;
    let (family, protocol) = (
        if local.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 },
        if transport == Transport::Tcp { libc::IPPROTO_TCP } else { libc::IPPROTO_UDP },
    );
    // UDP sockets are looked for as if a packet came to them: its source first. Else it is the other way round.
    let (first, second) = if transport == Transport::Tcp { (local, remote) } else { (remote, local) };
    let mut request = [0u8; 56];
    request[0] = u8::try_from(family).unwrap_or(0);
    request[1] = u8::try_from(protocol).unwrap_or(0);
    request[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
    request[8..10].copy_from_slice(&first.port().to_be_bytes());
    request[10..12].copy_from_slice(&second.port().to_be_bytes());
    for (at, ip) in [(12, first.ip()), (28, second.ip())] {
        match ip {
            IpAddr::V4(ip) => request[at..at + 4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => request[at..at + 16].copy_from_slice(&ip.octets()),
        }
    }
    // No cookie.
    request[48..56].fill(0xff);
    let mut found = None;
    let asked = kernel.ask(BY_FAMILY, 0, &request, |kind, payload| {
        if kind == BY_FAMILY {
            found = read(transport, payload);
        }
    });
    asked.ok().and(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_kernel_lists_our_sockets() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let stream = std::net::TcpStream::connect(to).unwrap();
        let mapped = std::net::UdpSocket::bind("[::]:0").unwrap();
        mapped.connect(("::ffff:127.0.0.1", 9)).unwrap();
        let all = all().unwrap();
        let has = |transport, state, local: SocketAddr, remote: Option<SocketAddr>| {
            all.iter().any(|socket| {
                (socket.transport, socket.state, socket.local) == (transport, state, local)
                    && remote.is_none_or(|remote| socket.remote == remote)
                    && socket.inode != 0
            })
        };
        assert!(has(Transport::Tcp, State::Listening, to, None));
        assert!(has(Transport::Tcp, State::Connected, stream.local_addr().unwrap(), Some(to)));
        let local = mapped.local_addr().unwrap();
        let local = SocketAddr::new(local.ip().to_canonical(), local.port());
        assert!(has(Transport::Udp, State::Connected, local, Some("127.0.0.1:9".parse().unwrap())), "{local} {all:?}");
    }

    #[test]
    fn one_socket_is_found_by_its_ends_with_its_control_group() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let stream = std::net::TcpStream::connect(to).unwrap();
        let from = stream.local_addr().unwrap();
        let found = find(Transport::Tcp, from, to).unwrap();
        assert_eq!((found.local, found.remote, found.state), (from, to, State::Connected));
        assert!(found.inode != 0 && found.group.is_some(), "{found:?}");
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let local = udp.local_addr().unwrap();
        let found = find(Transport::Udp, local, "127.0.0.1:9".parse().unwrap()).unwrap();
        assert_eq!((found.local, found.group.is_some()), (local, true));
        drop(stream);
        assert_eq!(find(Transport::Tcp, "127.0.0.1:1".parse().unwrap(), to), None);
    }

    proptest! {
        #[test]
        fn any_octets_are_read_without_panic(octets in proptest::collection::vec(any::<u8>(), 0..120)) {
            std::hint::black_box(read(Transport::Tcp, &octets));
        }
    }
}
