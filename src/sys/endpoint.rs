//! What an address with the name of an interface is now, and sockets for addresses that are not there yet.

use std::io;
use std::net::{SocketAddr, SocketAddrV6};

use super::netlink::interface_index;
use crate::config::endpoint::{Endpoint, Zone};

/// The number of the interface now; a name of digits may be that number.
///
/// # Errors
/// There is no interface of this name.
pub fn index(zone: &Zone) -> io::Result<u32> {
    let missing = || io::Error::new(io::ErrorKind::AddrNotAvailable, format!("there is no interface {zone} now"));
    let by_number = || zone.name().parse().ok().filter(|number| *number > 0);
    interface_index(zone.name()).or_else(by_number).ok_or_else(missing)
}

/// What a socket takes, now.
///
/// # Errors
/// Its interface isn't there.
pub fn now(endpoint: &Endpoint) -> io::Result<SocketAddr> {
    match (**endpoint, endpoint.zone()) {
        (SocketAddr::V6(v6), Some(zone)) => Ok(SocketAddrV6::new(*v6.ip(), v6.port(), 0, index(&zone)?).into()),
        (addr, _) => Ok(addr),
    }
}

/// Whether a listener or socket could not be had because its address, interface or address family isn't there now.
#[must_use]
pub fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT | libc::ENODEV))
}

/// Lets a socket be bound to an address that this host doesn't have yet. A kernel without it says so when the address is bound.
pub fn bind_ahead(socket: &socket2::Socket, address: SocketAddr) {
    let done = match address {
        SocketAddr::V4(_) => socket.set_freebind_v4(true),
        SocketAddr::V6(_) => socket.set_freebind_v6(true),
    };
    if let Err(error) = done {
        tracing::debug!(%address, %error, "IP_FREEBIND");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_is_not_there_is_named() {
        let endpoint: Endpoint = "[fe80::1%nosuch0]:53".parse().unwrap();
        let error = now(&endpoint).unwrap_err();
        assert!(is_absent(&error) && error.to_string().contains("no interface nosuch0"), "{error}");
        let lo: Endpoint = "[fe80::1%lo]:53".parse().unwrap();
        assert!(matches!(now(&lo).unwrap(), SocketAddr::V6(v6) if Some(v6.scope_id()) == interface_index("lo")));
    }
}
