//! Discovery of Designated Resolvers (RFC 9462): a client that knows only the guard's address learns that the guard speaks DoT, DoH
//! and DoQ too, and under which name; and one that knows that name learns the address. Names below `resolver.arpa` concern the resolver that is asked; they are never forwarded (section 6.1).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::core::local_names::Local;
use crate::core::name::Name;
use crate::dns::codec::query::Question;
use crate::dns::codec::reply::{self, BodyWriter, OWN_TTL, ReplyHead, Section};
use crate::dns::codec::wire::{rcode, rtype};
use crate::dns::transport::{HTTPS_PATH, Transport};
use crate::tls::server::Identity;

/// The wire form of `resolver.arpa`, below which resolvers say how else to ask them.
const RESOLVER_ARPA: &[u8] = b"\x08resolver\x04arpa\x00";
/// The wire form of `_dns.resolver.arpa`, where clients look for encrypted ways.
const DNS_RESOLVER_ARPA: &[u8] = b"\x04_dns\x08resolver\x04arpa\x00";

/// Said of answers for the guard's own names.
pub const OWN_NAME: &str = "a name of dns.tls.certificate";

/// Address hints of one record.
const HINTS: usize = 16;

/// Keys of service parameters: RFC 9460 section 14.3.2, RFC 9461 section 9.
mod key {
    pub const ALPN: u16 = 1;
    pub const PORT: u16 = 3;
    pub const IPV4HINT: u16 = 4;
    pub const IPV6HINT: u16 = 6;
    pub const DOHPATH: u16 = 7;
}

/// Whether a name in wire form and lower case lies in `resolver.arpa`.
#[must_use]
pub fn is_resolver_arpa(name: &[u8]) -> bool {
    // The first half is cheap, for all the others; a label may hold these octets too.
    name.ends_with(RESOLVER_ARPA)
        && Name::from_wire(name).is_ok_and(|name| name.suffixes().any(|suffix| suffix == RESOLVER_ARPA))
}

/// One transport on one port.
#[derive(Debug)]
struct Service {
    transport: Transport,
    port: u16,
    /// Addresses that lead there.
    addresses: Vec<IpAddr>,
    /// Whether every IPv4 address, every IPv6 address of the host does.
    any: (bool, bool),
}

impl Service {
    /// Where a client that sent its question to `asked` reaches it: the known addresses, and on a wildcard listener the one that the client has
    /// reached already. Not a link-local one: a hint has no room for its link.
    fn hints(&self, asked: Option<IpAddr>) -> Vec<IpAddr> {
        let usable = |ip: &IpAddr| match ip {
            IpAddr::V4(ip) => self.any.0 && !ip.is_unspecified() && !ip.is_link_local(),
            IpAddr::V6(ip) => self.any.1 && !ip.is_unspecified() && !ip.is_unicast_link_local(),
        };
        let asked = asked.map(|ip| ip.to_canonical()).filter(usable).filter(|ip| !self.addresses.contains(ip));
        asked.into_iter().chain(self.addresses.iter().copied()).take(HINTS).collect()
    }
}

/// The encrypted listeners that may be named to clients.
#[derive(Debug)]
pub struct Designated {
    identity: Arc<Identity>,
    services: Vec<Service>,
}

impl Designated {
    /// From the bound listeners.
    #[must_use]
    pub fn new(identity: Arc<Identity>, listening: &[(Transport, SocketAddr)]) -> Self {
        let mut services: Vec<Service> = Vec::new();
        for (transport, address) in listening {
            let (transport, port, ip) = (*transport, address.port(), address.ip().to_canonical());
            let same = |service: &&mut Service| service.transport == transport && service.port == port;
            let at = match services.iter_mut().find(same) {
                Some(service) => service,
                None => {
                    services.push(Service { transport, port, addresses: Vec::new(), any: (false, false) });
                    let Some(service) = services.last_mut() else { continue };
                    service
                }
            };
            match ip {
                IpAddr::V4(ip) if ip.is_unspecified() => at.any.0 = true,
                IpAddr::V6(ip) if ip.is_unspecified() => {
                    at.any.1 = true;
                    // It takes IPv4 too, unless another listener has that on the same port (see `listen`).
                    let other = |(kind, other): &(Transport, SocketAddr)| {
                        *kind == transport && other.port() == port && other.is_ipv4()
                    };
                    at.any.0 |= !listening.iter().any(other);
                }
                ip => at.addresses.push(ip),
            }
        }
        Self { identity, services }
    }

    /// What is told of a name that the certificate bears: where the listeners are reached. A client that knows the guard by name alone (DoH in a browser,
    /// Private DNS on a phone) finds it so, though it may ask nobody else. `None`: it is no such name, or its other types are asked for.
    #[must_use]
    pub fn own_name(&self, name: &Name, qtype: u16, asked: Option<IpAddr>) -> Option<Local> {
        let of_service = matches!(qtype, rtype::HTTPS | rtype::SVCB);
        if !(of_service || matches!(qtype, rtype::A | rtype::AAAA)) || !self.identity.current().bears(name) {
            return None;
        }
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in self.services.iter().flat_map(|service| service.hints(asked)) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        // Where nothing is known that leads here, somebody else may know it.
        if addresses.is_empty() {
            return None;
        }
        addresses.retain(|address| !of_service && address.is_ipv4() == (qtype == rtype::A));
        Some(if addresses.is_empty() { Local::NoData } else { Local::Addresses(addresses) })
    }

    /// The name that the records point to: the first in the certificate that DNS can carry.
    fn target(&self) -> Option<Name> {
        self.identity.current().names().iter().find_map(|name| name.parse().ok())
    }
}

/// Answers a question in `resolver.arpa`: SVCB of `_dns` with the guard's own listeners, else NODATA. Without a name in the certificate there is nothing
/// that a client could verify, so NODATA too. `asked`: the address that the question was sent to.
pub fn answer(
    designated: Option<&Designated>,
    question: &Question<'_>,
    asked: Option<IpAddr>,
    head: &ReplyHead<'_>,
    out: &mut Vec<u8>,
) {
    let Ok(name) = Name::from_wire(question.name.wire()) else {
        reply::error(rcode::FORMERR, head, None, out);
        return;
    };
    let wanted = question.qtype == rtype::SVCB && question.name.wire() == DNS_RESOLVER_ARPA;
    let own = designated.filter(|_| wanted).and_then(|designated| Some((designated, designated.target()?)));
    let body = match own {
        Some((designated, target)) => {
            let mut writer = BodyWriter::new(&name, question.qtype, rcode::NOERROR);
            for (priority, service) in (1u16..).zip(&designated.services) {
                let rdata = svcb(priority, &target, service.transport, service.port, &service.hints(asked));
                writer.record(Section::Answer, &name, rtype::SVCB, OWN_TTL, &rdata, None);
            }
            // Bounded by the number of listeners; a file with a thousand of them gets NODATA.
            writer.finish().unwrap_or_else(|_| reply::own_negative(&name, question.qtype, rcode::NOERROR))
        }
        None => reply::own_negative(&name, question.qtype, rcode::NOERROR),
    };
    reply::render(&body.octets, body.ttls.iter().copied(), 0, head, None, out);
}

fn svcb(priority: u16, target: &Name, transport: Transport, port: u16, hints: &[IpAddr]) -> Vec<u8> {
    let mut out = priority.to_be_bytes().to_vec();
    out.extend_from_slice(target.wire());
    let alpn: &[u8] = match transport {
        Transport::Tls => b"\x03dot",
        Transport::Https => b"\x02h2",
        Transport::Quic => b"\x03doq",
    };
    let mut parameter = |key: u16, value: &[u8]| {
        // In the order of their keys; no value is longer than a list of addresses.
        out.extend_from_slice(&key.to_be_bytes());
        out.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.extend_from_slice(value);
    };
    parameter(key::ALPN, alpn);
    parameter(key::PORT, &port.to_be_bytes());
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for hint in hints {
        match hint {
            IpAddr::V4(ip) => v4.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => v6.extend_from_slice(&ip.octets()),
        }
    }
    if !v4.is_empty() {
        parameter(key::IPV4HINT, &v4);
    }
    if !v6.is_empty() {
        parameter(key::IPV6HINT, &v6);
    }
    if transport == Transport::Https {
        parameter(key::DOHPATH, format!("{HTTPS_PATH}{{?dns}}").as_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_addresses_that_lead_there() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let service = |any| Service { transport: Transport::Tls, port: 853, addresses: vec![ip("2001:db8::1")], any };
        let hints = |any, asked: &str| service(any).hints(Some(ip(asked)));
        let known = ip("2001:db8::1");
        assert_eq!(hints((true, false), "192.0.2.1"), [ip("192.0.2.1"), known]);
        assert_eq!(hints((true, false), "::ffff:192.0.2.1"), [ip("192.0.2.1"), known], "IPv4 to an IPv6 socket");
        assert_eq!(hints((false, true), "2001:db8::2"), [ip("2001:db8::2"), known]);
        assert_eq!(hints((true, true), "2001:db8::1"), [known], "once");
        for (any, asked) in [
            ((false, true), "192.0.2.1"),
            ((true, false), "2001:db8::2"),
            ((true, true), "fe80::1"),
            ((true, true), "169.254.0.1"),
            ((true, true), "0.0.0.0"),
        ] {
            assert_eq!(hints(any, asked), [known], "{asked}");
        }
        assert_eq!(service((true, true)).hints(None), [known]);
    }

    #[test]
    fn a_name_lies_in_resolver_arpa_by_its_labels() {
        assert!(is_resolver_arpa(RESOLVER_ARPA) && is_resolver_arpa(DNS_RESOLVER_ARPA));
        // One label that holds the octets of two.
        assert!(!is_resolver_arpa(b"\x0cabc\x08resolver\x04arpa\x00"));
        assert!(!is_resolver_arpa(b"\x08resolver\x03arp\x00"));
    }
}
