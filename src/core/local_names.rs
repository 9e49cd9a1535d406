//! Names that no resolver may forward, and the answers that their RFCs ask for. They open nothing.
//!
//! | names | answer | why |
//! |---|---|---|
//! | `localhost` and below | 127.0.0.1, ::1 | RFC 6761 section 6.3 |
//! | `invalid`, `onion`, `local`, `alt` and below | NXDOMAIN | RFC 6761 section 6.4, RFC 7686, RFC 6762 section 22.1, RFC 9476 |
//! | `home.arpa` and below | NXDOMAIN | RFC 8375 section 4 |
//! | reverse zones of private, loopback, link-local and documentation space | NXDOMAIN | RFC 6303, RFC 7793 |
//! | `ipv4only.arpa` | its two addresses; AAAA within `addresses.nat64` | RFC 8880 section 7, RFC 7050 |
//! | `resolver.arpa` and below | NODATA | RFC 9462 section 6.4 |
//! | `use-application-dns.net` | NXDOMAIN | Firefox asks it before it turns DNS over HTTPS on by itself |
//! | `mask.icloud.com`, `mask-h2.icloud.com` | NXDOMAIN | Apple's way to say that iCloud Private Relay is not to be used here |
//!
//! `test` is not among them although RFC 6761 section 6.2 names it: labs use it with an upstream that knows it, and the root answers
//! NXDOMAIN to everybody else. `example` needs nothing (RFC 6761 section 6.5).
//!
//! A name within a domain that an upstream is configured for, or within a [`policy.private`] domain, is the operator's: it is forwarded.
//! A question for DS at the top of a zone concerns its parent and is forwarded as well (RFC 8375 section 4 asks so, for `home.arpa`).
//!
//! [`policy.private`]: crate::config::schema::Private

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hashbrown::HashMap;
use ipnet::Ipv6Net;

use super::answer::rtype;
use super::name::Name;
use super::policy::name_from_user;
use crate::config::schema::Config;

#[cfg(test)]
mod tests;

/// The DS type: a question for the parent's side of a delegation.
const DS: u16 = 43;

/// What an answer consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Local {
    /// The name doesn't exist: NXDOMAIN, with the zone's SOA.
    NoName,
    /// NOERROR without data.
    NoData,
    /// These addresses, of the type that was asked for.
    Addresses(Vec<IpAddr>),
}

/// How the names of a zone are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The zone doesn't exist, nor anything below.
    Absent,
    /// The zone exists and is empty.
    Empty,
    /// Nothing is said of it or of what lies below.
    Silent,
    /// Names of `localhost` get the loopback addresses.
    Localhost,
    /// `ipv4only.arpa` gets its well-known addresses (RFC 7050).
    Ipv4Only,
}

/// Zone, kind, where it is written.
type Row = (&'static str, Kind, &'static str);

const ZONES: &[Row] = &[
    ("localhost", Kind::Localhost, "RFC 6761"),
    ("invalid", Kind::Absent, "RFC 6761"),
    ("onion", Kind::Absent, "RFC 7686"),
    ("local", Kind::Absent, "RFC 6762"),
    ("alt", Kind::Absent, "RFC 9476"),
    ("home.arpa", Kind::Empty, "RFC 8375"),
    ("ipv4only.arpa", Kind::Ipv4Only, "RFC 8880"),
    ("resolver.arpa", Kind::Silent, "RFC 9462"),
    ("use-application-dns.net", Kind::Absent, "it keeps Firefox on this resolver"),
    ("mask.icloud.com", Kind::Absent, "it turns iCloud Private Relay off"),
    ("mask-h2.icloud.com", Kind::Absent, "it turns iCloud Private Relay off"),
    // RFC 6303 section 4; 172.16/12 and 100.64/10 (RFC 7793) are added by `zones`.
    ("10.in-addr.arpa", Kind::Empty, "RFC 6303"),
    ("168.192.in-addr.arpa", Kind::Empty, "RFC 6303"),
    ("0.in-addr.arpa", Kind::Empty, "RFC 6303"),
    ("127.in-addr.arpa", Kind::Empty, "RFC 6303"),
    ("254.169.in-addr.arpa", Kind::Empty, "RFC 6303"),
    ("2.0.192.in-addr.arpa", Kind::Empty, "RFC 6303"),
    ("100.51.198.in-addr.arpa", Kind::Empty, "RFC 6303"),
    ("113.0.203.in-addr.arpa", Kind::Empty, "RFC 6303"),
    ("255.255.255.255.in-addr.arpa", Kind::Empty, "RFC 6303"),
    ("0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa", Kind::Empty, "RFC 6303"),
    ("1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa", Kind::Empty, "RFC 6303"),
    ("d.f.ip6.arpa", Kind::Empty, "RFC 6303"),
    ("8.e.f.ip6.arpa", Kind::Empty, "RFC 6303"),
    ("9.e.f.ip6.arpa", Kind::Empty, "RFC 6303"),
    ("a.e.f.ip6.arpa", Kind::Empty, "RFC 6303"),
    ("b.e.f.ip6.arpa", Kind::Empty, "RFC 6303"),
    ("8.b.d.0.1.0.0.2.ip6.arpa", Kind::Empty, "RFC 6303"),
];

/// The IPv4 addresses of `ipv4only.arpa`.
const IPV4_ONLY: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 0, 170), Ipv4Addr::new(192, 0, 0, 171)];

fn zones() -> impl Iterator<Item = (Name, Kind, &'static str)> {
    let private = (16..32).map(|octet| (format!("{octet}.172.in-addr.arpa"), Kind::Empty, "RFC 6303"));
    let shared = (64..128).map(|octet| (format!("{octet}.100.in-addr.arpa"), Kind::Empty, "RFC 7793"));
    let rows = ZONES.iter().map(|(zone, kind, why)| ((*zone).to_owned(), *kind, *why));
    rows.chain(private).chain(shared).filter_map(|(zone, kind, why)| Some((zone.parse().ok()?, kind, why)))
}

/// The names of one configuration. Never changed: a reload builds another.
#[derive(Clone, Debug, Default)]
pub struct LocalNames {
    zones: HashMap<Name, (Kind, &'static str)>,
    /// Domains that the operator's upstreams know.
    forwarded: Vec<Name>,
    nat64: Option<Ipv6Net>,
}

impl LocalNames {
    /// From `dns.local_names`, the domains of upstreams and of `policy.private`, and `addresses.nat64`. Domains that can't be read
    /// are reported elsewhere and left out.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        if !config.dns.local_names {
            return Self::default();
        }
        let upstreams = config.dns.upstream.iter().flat_map(|upstream| upstream.domains.iter());
        let private = config.policy.private.iter().map(|private| &private.domain);
        let forwarded = upstreams.chain(private).filter_map(|domain| name_from_user(domain).ok());
        Self {
            zones: zones().map(|(zone, kind, why)| (zone, (kind, why))).collect(),
            // The root says nothing of any of these names.
            forwarded: forwarded.filter(|domain| *domain != Name::root()).collect(),
            nat64: config.addresses.nat64,
        }
    }

    /// The answer to a question, and why it is given here; `None`: the question is like any other.
    #[must_use]
    pub fn answer(&self, name: &Name, qtype: u16) -> Option<(Local, &'static str)> {
        let (zone, (kind, why)) = name.suffixes().find_map(|zone| self.zones.get_key_value(zone))?;
        if self.forwarded.iter().any(|domain| name.is_within(domain)) {
            return None;
        }
        let apex = name == zone;
        if apex && qtype == DS && zone.label_count() > 1 {
            return None;
        }
        let local = match *kind {
            Kind::Absent => Local::NoName,
            Kind::Empty if !apex => Local::NoName,
            Kind::Empty | Kind::Silent => Local::NoData,
            Kind::Localhost => match qtype {
                rtype::A => Local::Addresses(vec![Ipv4Addr::LOCALHOST.into()]),
                rtype::AAAA => Local::Addresses(vec![Ipv6Addr::LOCALHOST.into()]),
                _ => Local::NoData,
            },
            Kind::Ipv4Only if !apex => Local::NoName,
            Kind::Ipv4Only => match (qtype, self.nat64) {
                (rtype::A, _) => Local::Addresses(IPV4_ONLY.map(IpAddr::V4).to_vec()),
                (rtype::AAAA, Some(net)) => Local::Addresses(IPV4_ONLY.map(|inner| within(net, inner)).to_vec()),
                // Where no prefix is configured the guard opens nothing behind one, so that clients had better not find any.
                _ => Local::NoData,
            },
        };
        Some((local, why))
    }
}

/// RFC 6052 section 2.2, for a /96.
fn within(net: Ipv6Net, inner: Ipv4Addr) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from_bits(net.network().to_bits() | u128::from(inner.to_bits())))
}
