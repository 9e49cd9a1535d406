//! Which prefixes are on-link: hosts within them are reached without any router, so they belong to this network.
//!
//! | taken | left out |
//! |---|---|
//! | the prefix of each interface's address (RTM_GETADDR) | /32 and /128; addresses whose prefix has no route (`noprefixroute`): RFC 5942 |
//! | routes without gateway (RTM_GETROUTE) that the kernel, an operator or a router advertisement made | defaults; routes of routing daemons; point-to-point interfaces, behind which a tunnel may lead anywhere |
//!
//! What is larger than an allocation ever was is no network of anybody's ([`Found::too_large`]). Link-local and multicast space is special-purpose anyway.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;

use super::netlink::Socket;
use super::rtnetlink::{self, Message, number};

/// Most prefixes that are taken.
pub const MOST: usize = 65_536;
/// Larger prefixes are ways to everywhere.
const LEAST_IPV4: u8 = 8;
/// The shortest prefix of IPv6 that counts as the host's own network.
const LEAST_IPV6: u8 = 16;

/// Of `struct ifinfomsg`, `struct ifaddrmsg` and `struct rtmsg`.
const LINK: usize = 16;
const ADDRESS: usize = 8;
pub(super) const ROUTE: usize = 12;

const IFLA_IFNAME: u16 = 3;
const IFA_ADDRESS: u16 = 1;
const IFA_FLAGS: u16 = 8;
/// The address made no route to its prefix.
const IFA_F_NOPREFIXROUTE: u32 = 0x200;
pub(super) const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
/// Gateway, several ways, gateway of another family, encapsulation: not on-link.
const FAR: [u16; 4] = [5, 9, 18, 22];
const RTN_UNICAST: u8 = 1;
const RTM_F_CLONED: u32 = 0x200;
/// Who made a route: kernel, boot (`ip route add`), static, router advertisement, DHCP client.
pub const PROTOCOLS: [u8; 5] = [2, 3, 4, 9, 16];

/// What is on-link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Each prefix with the name of its interface.
    pub nets: BTreeMap<IpNet, String>,
    /// Prefixes that are too large to be this network's.
    pub too_large: BTreeMap<IpNet, String>,
}

/// An interface and the prefixes that are on link there.
struct Interface {
    name: String,
    flags: u32,
}

impl Interface {
    fn has(&self, flag: i32) -> bool {
        u32::try_from(flag).is_ok_and(|flag| self.flags & flag != 0)
    }
}

/// Reads it from the kernel, in the network namespace of the calling thread.
///
/// # Errors
/// The system's.
pub fn read() -> io::Result<Found> {
    let mut room = vec![0; rtnetlink::PART];
    let socket = Socket::open(libc::NETLINK_ROUTE, 1 << 20)?;
    let mut interfaces = HashMap::new();
    rtnetlink::dump(&socket, &mut room, libc::RTM_GETLINK, &[0; LINK], |message| {
        interfaces.extend(interface(message));
    })?;
    let mut found = Found::default();
    rtnetlink::dump(&socket, &mut room, libc::RTM_GETADDR, &[0; ADDRESS], |message| {
        found.extend(of_address(message), &interfaces);
    })?;
    // So a table of a million routes of others isn't copied out. Kernels before 4.20 don't know it and give all.
    socket.strict();
    for family in [libc::AF_INET, libc::AF_INET6] {
        for protocol in PROTOCOLS {
            let mut body = [0; ROUTE];
            (body[0], body[5]) = (u8::try_from(family).unwrap_or_default(), protocol);
            let dumped = rtnetlink::dump(&socket, &mut room, libc::RTM_GETROUTE, &body, |message| {
                found.extend(of_route(message).filter(|(_, at)| leads_to_hosts(*at, &interfaces)), &interfaces);
            });
            match dumped {
                Ok(()) => {}
                // A kernel without that family.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT)) => break,
                Err(error) => return Err(error),
            }
        }
    }
    Ok(found)
}

fn leads_to_hosts(index: u32, interfaces: &HashMap<u32, Interface>) -> bool {
    interfaces
        .get(&index)
        .is_some_and(|interface| !interface.has(libc::IFF_POINTOPOINT) && !interface.has(libc::IFF_LOOPBACK))
}

impl Found {
    fn extend(&mut self, net: Option<(IpNet, u32)>, interfaces: &HashMap<u32, Interface>) {
        let Some((net, index)) = net else { return };
        if is_local_by_nature(net.addr()) {
            return;
        }
        let least = if net.addr().is_ipv4() { LEAST_IPV4 } else { LEAST_IPV6 };
        let all = match net.prefix_len() {
            0 => return,
            length if length < least => &mut self.too_large,
            _ => &mut self.nets,
        };
        if all.len() < MOST {
            let name = interfaces.get(&index).map_or_else(|| index.to_string(), |interface| interface.name.clone());
            all.entry(net.trunc()).or_insert(name);
        }
    }
}

/// Loopback, link-local and multicast.
fn is_local_by_nature(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local() || v4.is_multicast(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local() || v6.is_multicast(),
    }
}

fn interface(message: &Message<'_>) -> Option<(u32, Interface)> {
    let index = u32::from_ne_bytes(number(message.body, 4)?);
    let flags = u32::from_ne_bytes(number(message.body, 8)?);
    let name = message.attributes(LINK).find(|(kind, _)| *kind == IFLA_IFNAME)?.1;
    let name = String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name)).into_owned();
    Some((index, Interface { name, flags }))
}

/// The prefix of an address, and its interface.
fn of_address(message: &Message<'_>) -> Option<(IpNet, u32)> {
    if message.kind != libc::RTM_NEWADDR {
        return None;
    }
    let length = *message.body.get(1)?;
    let mut flags = u32::from(*message.body.get(2)?);
    let index = u32::from_ne_bytes(number(message.body, 4)?);
    let mut address = None;
    for (kind, value) in message.attributes(ADDRESS) {
        match kind {
            // Of a point-to-point link the far end.
            IFA_ADDRESS => address = rtnetlink::address(value),
            IFA_FLAGS => flags = u32::from_ne_bytes(number(value, 0)?),
            _ => {}
        }
    }
    let net = IpNet::new(address?, length).ok()?;
    (net.prefix_len() < net.max_prefix_len() && flags & IFA_F_NOPREFIXROUTE == 0).then_some((net, index))
}

/// Where a route leads without a gateway, and through which interface.
fn of_route(message: &Message<'_>) -> Option<(IpNet, u32)> {
    let body = message.body;
    let (length, protocol, kind) = (*body.get(1)?, *body.get(5)?, *body.get(7)?);
    let flags = u32::from_ne_bytes(number(body, 8)?);
    if message.kind != libc::RTM_NEWROUTE
        || kind != RTN_UNICAST
        || flags & RTM_F_CLONED != 0
        || !PROTOCOLS.contains(&protocol)
    {
        return None;
    }
    let (mut to, mut through) = (None, None);
    for (kind, value) in message.attributes(ROUTE) {
        match kind {
            RTA_DST => to = rtnetlink::address(value),
            RTA_OIF => through = number(value, 0).map(u32::from_ne_bytes),
            kind if FAR.contains(&kind) => return None,
            _ => {}
        }
    }
    Some((IpNet::new(to?, length).ok()?, through?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(fixed: &[u8], attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = fixed.to_vec();
        for (kind, value) in attributes {
            body.extend((value.len() as u16 + 4).to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(*value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        body
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    const ETH: [u8; 4] = 2u32.to_ne_bytes();

    #[test]
    fn prefixes_of_addresses_are_taken_and_host_addresses_are_not() {
        let of = |length: u8, flags: u8, attributes: &[(u16, &[u8])]| {
            let fixed = [&[2, length, flags, 0], &ETH[..]].concat();
            of_address(&Message { kind: libc::RTM_NEWADDR, body: &with(&fixed, attributes) })
        };
        let address: (u16, &[u8]) = (IFA_ADDRESS, &[45, 10, 0, 1]);
        assert_eq!(of(24, 0, &[address]), Some((net("45.10.0.1/24"), 2)));
        assert_eq!(of(31, 0, &[address]), Some((net("45.10.0.1/31"), 2)));
        assert_eq!(of(32, 0, &[address]), None);
        assert_eq!(of(24, 0, &[address, (IFA_FLAGS, &IFA_F_NOPREFIXROUTE.to_ne_bytes())]), None);
        assert_eq!(of(24, 0, &[]), None);
    }

    #[test]
    fn routes_without_gateway_are_taken() {
        let of = |length: u8, protocol: u8, kind: u8, attributes: &[(u16, &[u8])]| {
            let fixed = [2, length, 0, 0, 254, protocol, 253, kind, 0, 0, 0, 0];
            of_route(&Message { kind: libc::RTM_NEWROUTE, body: &with(&fixed, attributes) })
        };
        let [to, through]: [(u16, &[u8]); 2] = [(RTA_DST, &[45, 10, 0, 0]), (RTA_OIF, &ETH)];
        assert_eq!(of(24, 2, RTN_UNICAST, &[to, through]), Some((net("45.10.0.0/24"), 2)));
        assert_eq!(of(32, 3, RTN_UNICAST, &[to, through]), Some((net("45.10.0.0/32"), 2)));
        assert_eq!(of(24, 186, RTN_UNICAST, &[to, through]), None, "of a routing daemon");
        assert_eq!(of(24, 2, 2, &[to, through]), None, "its own addresses");
        for far in FAR {
            assert_eq!(of(24, 3, RTN_UNICAST, &[to, through, (far, &[45, 9, 0, 1])]), None);
        }
        assert_eq!(of(0, 3, RTN_UNICAST, &[through]), None, "a default");
    }

    #[test]
    fn what_leads_everywhere_is_nobodys_network() {
        let interfaces = [
            (2, Interface { name: "eth0".to_owned(), flags: 0 }),
            (3, Interface { name: "tun0".to_owned(), flags: libc::IFF_POINTOPOINT as u32 }),
        ];
        let interfaces = HashMap::from(interfaces);
        assert!(leads_to_hosts(2, &interfaces) && !leads_to_hosts(3, &interfaces));
        let mut found = Found::default();
        for text in ["0.0.0.0/1", "45.10.0.1/24", "10.0.0.0/8", "2000::/3", "2001:db8::/48", "fe80::/64", "127.0.0.1/8"]
        {
            found.extend(Some((net(text), 2)), &interfaces);
        }
        found.extend(Some((net("45.10.0.2/24"), 3)), &interfaces);
        let texts =
            |nets: &BTreeMap<IpNet, String>| nets.iter().map(|(net, at)| format!("{net} {at}")).collect::<Vec<_>>();
        assert_eq!(texts(&found.nets), ["10.0.0.0/8 eth0", "45.10.0.0/24 eth0", "2001:db8::/48 eth0"]);
        assert_eq!(texts(&found.too_large), ["0.0.0.0/1 eth0", "2000::/3 eth0"]);
    }

    #[test]
    fn the_kernel_can_be_asked() {
        let found = read().unwrap();
        assert!(found.nets.keys().all(|net| !net.addr().is_loopback() && net.prefix_len() > 0), "{found:?}");
    }
}
