//! The addresses of this host's interfaces, as the kernel tells them.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr};

use super::netlink::Socket;
use super::on_link;
use super::rtnetlink::{self, Message};

/// Where this host is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Here {
    /// Its own addresses, without doubles, in order.
    pub addresses: Vec<IpAddr>,
    /// What it reaches without a router; nothing where that isn't asked for.
    pub on_link: on_link::Found,
    /// What routers announce to the guard, each with the peer's name; nothing where that isn't asked for.
    pub announced: std::collections::BTreeMap<ipnet::IpNet, String>,
}

/// What of this host can't be read.
#[derive(Debug, thiserror::Error)]
pub enum InterfacesError {
    /// Its own addresses.
    #[error("this host's addresses can't be read: {0}")]
    Addresses(#[source] io::Error),
    /// What it reaches without a router.
    #[error("this host's on-link prefixes can't be read: {0}")]
    OnLink(#[source] io::Error),
}

/// Both, or the addresses alone.
///
/// # Errors
/// See [`InterfacesError`].
pub fn here(with_on_link: bool) -> Result<Here, InterfacesError> {
    let addresses = addresses().map_err(InterfacesError::Addresses)?;
    let on_link = if with_on_link { on_link::read() } else { Ok(on_link::Found::default()) };
    let on_link = on_link.map_err(InterfacesError::OnLink)?;
    Ok(Here { addresses, on_link, ..Here::default() })
}

/// Every address of every interface of this network namespace, without doubles, in order.
///
/// # Errors
/// The kernel's.
pub fn addresses() -> io::Result<Vec<IpAddr>> {
    let mut all = ipv4()?;
    match fs::read_to_string("/proc/thread-self/net/if_inet6") {
        Ok(text) => all.extend(ipv6(&text).map(IpAddr::V6)),
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

/// The routes to this host itself: an address of an interface that is down has none. The kernel picks them out, however many others there are.
fn ipv4() -> io::Result<Vec<IpAddr>> {
    let socket = Socket::open(libc::NETLINK_ROUTE, 1 << 20)?;
    socket.strict();
    let mut body = [0; on_link::ROUTE];
    (body[0], body[7]) = (u8::try_from(libc::AF_INET).unwrap_or_default(), libc::RTN_LOCAL);
    let mut all = Vec::new();
    let mut room = vec![0; rtnetlink::PART];
    rtnetlink::dump(&socket, &mut room, libc::RTM_GETROUTE, &body, |message| all.extend(own(message)))?;
    Ok(all)
}

/// Where a route of type LOCAL leads to one address.
fn own(message: &Message<'_>) -> Option<IpAddr> {
    let (length, kind) = (*message.body.get(1)?, *message.body.get(7)?);
    let is_one = message.kind == libc::RTM_NEWROUTE && kind == libc::RTN_LOCAL && length == 32;
    let to = message.attributes(on_link::ROUTE).find(|(kind, _)| *kind == on_link::RTA_DST)?.1;
    rtnetlink::address(to).filter(|_| is_one)
}

/// The first field of each line: 32 hexadecimal digits.
fn ipv6(if_inet6: &str) -> impl Iterator<Item = Ipv6Addr> {
    if_inet6.lines().filter_map(|line| {
        let digits = line.split_whitespace().next()?;
        (digits.len() == 32).then(|| u128::from_str_radix(digits, 16).ok()).flatten().map(Ipv6Addr::from)
    })
}

/// Bridges of container engines and of libvirt, as they name them, but for what stands between a bridge and a container.
pub const CONTAINERS: [&str; 5] = ["docker0", "br-*", "virbr*", "podman*", "cni*"];

/// Whether an interface's name is `pattern`, or begins with what stands before its asterisk.
#[must_use]
pub fn is_like(name: &str, pattern: &str) -> bool {
    pattern.strip_suffix('*').map_or(name == pattern, |beginning| name.starts_with(beginning))
}

/// Name and number of the interfaces that are like one of these patterns.
///
/// # Errors
/// The kernel's.
pub fn like(patterns: &[String]) -> io::Result<Vec<(String, u32)>> {
    /// `struct ifinfomsg`, and where its number is.
    const LINK: usize = 16;
    const NUMBER: usize = 4;
    let socket = Socket::open(libc::NETLINK_ROUTE, 1 << 20)?;
    let mut all = Vec::new();
    let mut room = vec![0; rtnetlink::PART];
    rtnetlink::dump(&socket, &mut room, libc::RTM_GETLINK, &[0; LINK], |message| {
        let name = message.attributes(LINK).find(|(kind, _)| *kind == libc::IFLA_IFNAME);
        let name = name.map(|(_, name)| String::from_utf8_lossy(name).trim_end_matches('\0').to_owned());
        let number = rtnetlink::number(message.body, NUMBER).map(u32::from_ne_bytes);
        if let (Some(name), Some(number)) = (name, number)
            && patterns.iter().any(|pattern| is_like(&name, pattern))
        {
            all.push((name, number));
        }
    })?;
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_addresses_are_found_and_others_are_not() {
        let route = |length: u8, kind: u8| {
            let mut body = vec![2, length, 0, 0, 255, 2, 254, kind, 0, 0, 0, 0];
            body.extend([8u16.to_ne_bytes(), on_link::RTA_DST.to_ne_bytes()].concat());
            body.extend([192, 0, 2, 1]);
            body
        };
        let of = |body: &[u8]| own(&Message { kind: libc::RTM_NEWROUTE, body });
        assert_eq!(of(&route(32, libc::RTN_LOCAL)), Some(IpAddr::from([192, 0, 2, 1])));
        assert_eq!(of(&route(24, libc::RTN_LOCAL)), None, "a whole prefix is no address of an interface");
        assert_eq!(of(&route(32, libc::RTN_BROADCAST)), None);
        assert_eq!(of(&route(32, libc::RTN_UNICAST)), None);
        assert_eq!(of(&route(32, libc::RTN_LOCAL)[..14]), None);
        let six = "20010db8000000000000000000000001 02 40 00 80     eth0\nbroken line\n";
        assert_eq!(ipv6(six).collect::<Vec<_>>(), ["2001:db8::1".parse::<Ipv6Addr>().unwrap()]);
    }

    #[test]
    fn loopback_is_there_where_it_is_up() {
        // Every machine that runs this test has at least one address or none at all; reading must work either way.
        addresses().unwrap();
    }
}
