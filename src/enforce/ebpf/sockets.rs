//! Ends connections that were made before their address was revoked (sock_diag(7), `SOCK_DESTROY`): those of this network namespace.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;

use super::layout;
use crate::enforce::nftables::dialogue::Dialogue;
use crate::enforce::nftables::sockets::{Socket, State, all};
use crate::enforce::nftables::wire::F_ACK;
use crate::enforce::rules::Transport;
use crate::sys::MARK;

/// The kernel's `SOCK_DESTROY`: a request that ends a socket.
const DESTROY: u16 = 21;

/// Ends every socket that is connected to one of these; returns how many. Whoever uses it gets ECONNABORTED.
///
/// # Errors
/// The kernel's: it may be built without `CONFIG_INET_DIAG_DESTROY`.
pub fn end(addresses: &HashSet<IpAddr>) -> io::Result<usize> {
    let lives = |socket: &&Socket| {
        !matches!(socket.state, State::Listening | State::Over)
            && socket.mark != Some(MARK)
            && addresses.contains(&socket.remote.ip())
    };
    let mut kernel = Dialogue::open(libc::NETLINK_SOCK_DIAG)?;
    let mut ended = 0usize;
    for socket in all()?.iter().filter(lives) {
        match kernel.ask(DESTROY, F_ACK, &request(socket), |_, _| {}) {
            Ok(()) => ended = ended.saturating_add(1),
            // It ended by itself.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(ended)
}

/// `struct inet_diag_req_v2` for exactly this socket.
fn request(socket: &Socket) -> Vec<u8> {
    let (family, protocol) = match (socket.remote, socket.transport) {
        (std::net::SocketAddr::V4(_), transport) => (libc::AF_INET, transport),
        (std::net::SocketAddr::V6(_), transport) => (libc::AF_INET6, transport),
    };
    let protocol = if protocol == Transport::Tcp { libc::IPPROTO_TCP } else { libc::IPPROTO_UDP };
    let mut request = vec![u8::try_from(family).unwrap_or(0), u8::try_from(protocol).unwrap_or(0), 0, 0];
    request.extend(u32::MAX.to_ne_bytes());
    request.extend(socket.local.port().to_be_bytes());
    request.extend(socket.remote.port().to_be_bytes());
    for address in [socket.local.ip(), socket.remote.ip()] {
        match address {
            IpAddr::V4(address) => {
                request.extend(address.octets());
                request.extend([0; 12]);
            }
            IpAddr::V6(_) => request.extend(layout::address(address)),
        }
    }
    // Any interface, any cookie.
    request.extend(0u32.to_ne_bytes());
    request.extend([0xff; 8]);
    request
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_connection_is_ended_and_no_other() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        // Addresses that no other test uses.
        let connect = |from: &str| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            let from: std::net::SocketAddr = from.parse().unwrap();
            socket.bind(&from.into()).unwrap();
            socket.connect(&listener.local_addr().unwrap().into()).unwrap();
            std::net::TcpStream::from(socket)
        };
        let (_one, _other) = (connect("127.8.7.6:0"), connect("127.8.7.5:0"));
        let (mut first, mut second) = (listener.accept().unwrap().0, listener.accept().unwrap().0);
        assert_eq!(end(&HashSet::from(["127.8.7.6".parse().unwrap()])).unwrap(), 1);
        let ended = first.read(&mut [0; 1]).unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::ConnectionAborted);
        second.set_nonblocking(true).unwrap();
        assert_eq!(second.read(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
