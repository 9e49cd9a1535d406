//! The router's side of a configuration, ready to paste: a null route as default in both families, and a session on which
//! nothing is taken from the guard but host routes (and `addresses.open`, exactly) with the configured next hop, up to a limit.
//!
//! [`frr`], [`bird`] and [`daemons`] are what the lab's tests run. The others follow the vendors' manuals and say so in their first lines.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::RouterKind;
use crate::config::schema::{AoAlgorithm, Config, Confirm, Family, Peer, Role, ServicePeer};

mod bird;
mod daemons;
mod frr;
mod groups;
mod header;
mod passing;
mod password;
mod routeros;
mod srlinux;
mod vendors;

use password::NotWritten;

/// IPv4 space that no host route of the guard may lie in unless the configuration says otherwise (RFC 6890 and successors).
const SPECIAL_IPV4: [&str; 9] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "224.0.0.0/4",
    "240.0.0.0/4",
];
/// Most characters of a peer's name in names that routers limit.
const LONGEST_NAME: usize = 24;
/// Likewise for IPv6.
const SPECIAL_IPV6: [&str; 4] = ["::/16", "fc00::/7", "fe80::/10", "ff00::/8"];

/// Permitted or not, prefix, least length, most length.
type Rule<N> = (bool, N, u8, u8);

/// One session, seen from the router.
#[derive(Debug)]
pub struct Side {
    /// The peer's name in the guard's file.
    name: String,
    /// What every name in the router's configuration ends with: peer and guard, so that two guards can be told apart.
    tag: String,
    /// Whether it carries the guard's service addresses, and nothing else.
    service: bool,
    /// Whether routes are to go no further than this router: not where it is to send them back.
    no_advertise: bool,
    /// Whether the router must send the guard a route, so that it answers a ROUTE-REFRESH at once.
    beacon: bool,
    /// The session on which the router sends the guard's routes back.
    watch: Option<Watch>,
    /// Whether the guard's routes are to be kept while it restarts.
    graceful: bool,
    /// The router's AS.
    router_asn: u32,
    /// The guard's AS.
    guard_asn: u32,
    /// The router's own address on this session.
    router: IpAddr,
    /// The guard's address on this session.
    guard: IpAddr,
    /// Whether `guard` is a guess.
    guessed: bool,
    /// TCP-MD5, as the router's grammar takes it.
    password: Option<String>,
    /// TCP-AO in place of TCP-MD5, to be entered by hand: what its password is for, the ids as the router sends and receives them.
    tcp_ao: Option<(AoAlgorithm, u8, u8)>,
    /// Whether packets must come with a TTL of 255 (GTSM, RFC 5082).
    gtsm: bool,
    /// The hops that the session may go over; `None`: the router is next door.
    multihop: Option<u8>,
    /// The hold time that the guard proposes, in seconds.
    hold: u64,
    /// Whether the guard waits for the router to connect.
    guard_waits: bool,
    /// BFD: milliseconds between packets, and how many may be lost.
    bfd: Option<(u128, u8)>,
    /// BFD over several hops although BGP has no `multihop`: an internal peer.
    bfd_multihop: bool,
    /// What the guard sends as next hop; `None` = family not in use.
    next_hop4: Option<Ipv4Addr>,
    /// The same for IPv6.
    next_hop6: Option<Ipv6Addr>,
    /// IPv4 routes come with this IPv6 next hop (RFC 8950), since there is no `next_hop4` although the family is in use.
    hop4_over_ipv6: Option<Ipv6Addr>,
    /// Prefixes taken exactly as they are.
    exact4: Vec<Ipv4Net>,
    /// The same for IPv6.
    exact6: Vec<Ipv6Net>,
    /// Prefixes within which host routes are taken although they are special or inside.
    private4: Vec<Ipv4Net>,
    /// The same for IPv6.
    private6: Vec<Ipv6Net>,
    /// The network's own prefixes: no host route within them is taken.
    inside4: Vec<Ipv4Net>,
    /// The same for IPv6.
    inside6: Vec<Ipv6Net>,
    /// The most routes of a family; above the guard's own budget, so that it is never reached in good order.
    limit: usize,
}

/// The observer's session.
#[derive(Debug)]
struct Watch {
    /// The guard's address.
    guard: IpAddr,
    password: Option<String>,
    /// Whether the guard waits for the router to connect.
    waits: bool,
}

/// Why a router's configuration can't be written.
#[derive(Debug, thiserror::Error)]
pub enum RouterError {
    /// No peer is of this name.
    #[error("there is no peer called \"{0}\"")]
    NoPeer(String),
    /// There is nothing to write.
    #[error("the configuration has no [[bgp.peer]]")]
    NoPeers,
    /// One paste is for one router.
    #[error("the configuration has {} routers; name one: {}", .0.len(), .0.join(" | "))]
    Several(Vec<String>),
    /// The guard itself has no number.
    #[error("bgp.asn and bgp.router_id are needed")]
    NoNumbers,
    /// The router could not know whom to take the session from.
    #[error("peer \"{0}\" has no local_address: the router must know the guard's address on this session")]
    NoAddress(String),
    /// The router could not know where the observer is.
    #[error("peer \"{0}\" has no local_address: the router must know where to send routes back")]
    NoWayBack(String),
    /// The file of the password can't be read.
    #[error("the password of peer \"{peer}\" can't be read: {source}")]
    Unread {
        /// The peer's name.
        peer: String,
        /// The kernel's word.
        source: std::io::Error,
    },
    /// The router's grammar has no way to write the password.
    #[error("the password of peer \"{peer}\" can't be written for this router: {source}")]
    Unwritable {
        /// The peer's name.
        peer: String,
        /// What of it can't be written.
        source: NotWritten,
    },
    /// The router lacks TCP-AO.
    #[error("peer \"{0}\" has tcp_ao, which this router doesn't know; use TCP-MD5 instead")]
    TcpAo(String),
    /// A session that is written for two kinds of routers only.
    #[error(
        "peer \"{0}\" is an observer: only for FRR and BIRD is its session written; docs/confirmation.md says what it must send"
    )]
    Observer(String),
    /// Likewise, of the guard's own addresses.
    #[error(
        "peer \"{0}\" carries service addresses: only for FRR and BIRD is its session written; docs/anycast.md says what it must take"
    )]
    Service(String),
    /// The text could not be put together, which never happens to a string.
    #[error(transparent)]
    Text(#[from] std::fmt::Error),
}

impl Watch {
    fn of(config: &Config, peer: &Peer, kind: RouterKind) -> Result<Option<Self>, RouterError> {
        let Some(name) = peer.observer.as_ref().filter(|_| peer.confirm == Confirm::Reflect) else { return Ok(None) };
        let observer = config.bgp.peer.iter().find(|each| each.name == *name);
        let Some((observer, guard)) = observer.and_then(|each| Some((each, each.local_address?))) else {
            return Err(RouterError::NoWayBack(name.clone()));
        };
        Ok(Some(Self { guard, password: password_of(observer, kind)?, waits: observer.passive }))
    }
}

/// TCP-MD5's password of a session.
fn password_of(peer: &Peer, kind: RouterKind) -> Result<Option<String>, RouterError> {
    let unread = |source| RouterError::Unread { peer: peer.name.clone(), source };
    let password = crate::config::peer_password(peer).map_err(unread)?;
    let password = password.filter(|_| peer.tcp_ao.is_none());
    let written = password.map(|password| password::written(kind, &password)).transpose();
    written.map_err(|source| RouterError::Unwritable { peer: peer.name.clone(), source })
}

impl Side {
    fn of(config: &Config, peer: &Peer, kind: RouterKind) -> Result<Self, RouterError> {
        let bgp = &config.bgp;
        let (Some(guard_asn), Some(router_id)) = (bgp.asn, bgp.router_id) else {
            return Err(RouterError::NoNumbers);
        };
        let (guard, guessed) = match (peer.local_address, *peer.address) {
            (Some(local), _) => (local, false),
            (None, IpAddr::V4(_)) => (IpAddr::V4(router_id), true),
            (None, IpAddr::V6(_)) => {
                return Err(RouterError::NoAddress(peer.name.clone()));
            }
        };
        let open = if bgp.announce_open { config.addresses.open.as_slice() } else { &[] };
        // A translator's prefix may well be part of the network's own.
        let nat64 = config.addresses.nat64.map(IpNet::from);
        let private = || config.policy.private.iter().flat_map(|private| private.prefixes.iter().copied()).chain(nat64);
        let upstreams = || {
            let addresses = config.dns.upstream.iter().filter_map(|upstream| {
                upstream
                    .url
                    .parse::<crate::config::UpstreamUrl>()
                    .ok()
                    .filter(|url| url.addr.zone().is_none())
                    .map(|url| IpNet::from(url.addr.ip()))
            });
            addresses.filter(|_| bgp.announce_upstreams)
        };
        let (exact4, exact6) = split(open.iter().copied().chain(upstreams()));
        let (private4, private6) = split(private());
        // The guard's own anycast addresses travel over sessions of their own.
        let service = bgp.service.addresses.iter().copied().map(IpNet::from);
        let (inside4, inside6) = split(config.addresses.inside.iter().copied().chain(service));
        let takes = |family| peer.families.contains(&family);
        Ok(Self {
            name: peer.name.clone(),
            tag: format!(
                "{}_{}",
                word(&peer.name).chars().take(LONGEST_NAME).collect::<String>(),
                word(&guard.to_string())
            ),
            service: false,
            no_advertise: !passing::passes_on(peer),
            beacon: peer.confirm == Confirm::Refresh,
            watch: Watch::of(config, peer, kind)?,
            graceful: !bgp.graceful_restart.0.is_zero(),
            router_asn: peer.asn,
            guard_asn,
            router: *peer.address,
            guard,
            guessed,
            password: password_of(peer, kind)?,
            tcp_ao: peer.tcp_ao.map(|algorithm| (algorithm, peer.tcp_ao_recv_id, peer.tcp_ao_send_id)),
            gtsm: peer.ttl_security,
            multihop: peer.multihop,
            hold: peer.hold_time.0.as_secs(),
            guard_waits: peer.passive,
            bfd: peer.bfd.then_some((peer.bfd_interval.0.as_millis(), peer.bfd_multiplier)),
            bfd_multihop: peer.bfd_multihop || peer.multihop.is_some(),
            next_hop4: bgp.next_hop_ipv4.filter(|_| takes(Family::Ipv4)),
            hop4_over_ipv6: bgp.next_hop_ipv6.filter(|_| bgp.next_hop_ipv4.is_none() && takes(Family::Ipv4)),
            next_hop6: bgp.next_hop_ipv6.filter(|_| takes(Family::Ipv6)),
            exact4,
            exact6,
            private4,
            private6,
            inside4,
            inside6,
            limit: peer.max_routes.saturating_add((peer.max_routes / 10).max(100)),
        })
    }

    /// The session of the guard's service addresses, of which it takes those and nothing else.
    fn of_service(config: &Config, peer: &ServicePeer, kind: RouterKind) -> Result<Self, RouterError> {
        let side = Self::of(config, &peer.as_peer(), kind)?;
        let of_family = |address: &&IpAddr| address.is_ipv4() == peer.local_address.is_ipv4();
        let addresses = config.bgp.service.addresses.iter().filter(of_family).copied();
        let (exact4, exact6) = split(addresses.map(IpNet::from));
        let (next_hop4, next_hop6) = match peer.local_address {
            IpAddr::V4(own) => (Some(own), None),
            IpAddr::V6(own) => (None, Some(own)),
        };
        Ok(Self {
            service: true,
            no_advertise: false,
            beacon: false,
            graceful: false,
            hop4_over_ipv6: None,
            limit: exact4.len().saturating_add(exact6.len()),
            private4: Vec::new(),
            private6: Vec::new(),
            inside4: Vec::new(),
            inside6: Vec::new(),
            next_hop4,
            next_hop6,
            exact4,
            exact6,
            ..side
        })
    }

    /// What the router's BGP identifier may be.
    fn router_id(&self) -> String {
        match self.router {
            IpAddr::V4(router) => router.to_string(),
            IpAddr::V6(_) => "A.B.C.D".to_owned(),
        }
    }

    /// Whether the session is on one link, whose name at the router the guard doesn't know.
    fn link_local(&self) -> bool {
        matches!(self.guard, IpAddr::V6(guard) if guard.is_unicast_link_local())
    }

    fn internal(&self) -> bool {
        self.router_asn == self.guard_asn
    }

    /// The rules for IPv4 in order.
    fn rules4(&self) -> Vec<Rule<Ipv4Net>> {
        let exact = self.exact4.iter().map(|net| (true, *net, net.prefix_len(), net.prefix_len()));
        if self.service {
            return exact.collect();
        }
        let private = self.private4.iter().map(|net| (true, *net, 32, 32));
        let special = SPECIAL_IPV4.iter().filter_map(|net| net.parse().ok());
        let denied = self.inside4.iter().copied().chain(special);
        let denied = denied.map(|net: Ipv4Net| (false, net, net.prefix_len(), 32));
        exact.chain(private).chain(denied).chain([(true, Ipv4Net::default(), 32, 32)]).collect()
    }

    /// Likewise for IPv6.
    fn rules6(&self) -> Vec<Rule<Ipv6Net>> {
        let exact = self.exact6.iter().map(|net| (true, *net, net.prefix_len(), net.prefix_len()));
        if self.service {
            return exact.collect();
        }
        let private = self.private6.iter().map(|net| (true, *net, 128, 128));
        let special = SPECIAL_IPV6.iter().filter_map(|net| net.parse().ok());
        let denied = self.inside6.iter().copied().chain(special);
        let denied = denied.map(|net: Ipv6Net| (false, net, net.prefix_len(), 128));
        exact.chain(private).chain(denied).chain([(true, Ipv6Net::default(), 128, 128)]).collect()
    }
}

/// The rules of one family as sets, for routers that know no order within one: what is taken first, then what is refused, then what is taken of the rest.
fn in_sets<N: std::fmt::Display + Clone>(rules: &[Rule<N>]) -> [(&'static str, bool, Vec<Rule<N>>); 3] {
    let first = rules.iter().take_while(|rule| rule.0).cloned().collect();
    let refused = rules.iter().filter(|rule| !rule.0).cloned().collect();
    let rest = rules.iter().skip_while(|rule| rule.0).filter(|rule| rule.0).cloned().collect();
    [("own", true, first), ("deny", false, refused), ("allow", true, rest)]
}

fn split(nets: impl Iterator<Item = IpNet>) -> (Vec<Ipv4Net>, Vec<Ipv6Net>) {
    let (mut four, mut six) = (Vec::new(), Vec::new());
    for net in nets {
        match net {
            IpNet::V4(net) if !four.contains(&net) => four.push(net),
            IpNet::V6(net) if !six.contains(&net) => six.push(net),
            _ => {}
        }
    }
    (four, six)
}

/// The text for one peer, or for every enforcer.
///
/// # Errors
/// See [`RouterError`].
pub fn generate(config: &Config, kind: RouterKind, peer: Option<&str>) -> Result<String, RouterError> {
    let of_service = config.bgp.service.peer.iter().find(|each| peer == Some(each.name.as_str()));
    if let Some(each) = of_service {
        return service(config, kind, each);
    }
    let chosen: Vec<&Peer> = config
        .bgp
        .peer
        .iter()
        .filter(|each| peer.map_or(each.role == Role::Enforcer, |name| each.name == name))
        .collect();
    if chosen.is_empty() {
        return Err(match peer {
            Some(name) => RouterError::NoPeer(name.to_owned()),
            None => RouterError::NoPeers,
        });
    }
    // One paste is for one router: what is another's would give it a second session.
    if chosen.len() > 1 {
        let names: Vec<String> = chosen.iter().map(|each| format!("--peer {}", each.name)).collect();
        return Err(RouterError::Several(names));
    }
    let mut out = String::new();
    for each in chosen {
        let side = Side::of(config, each, kind)?;
        if side.tcp_ao.is_some() && matches!(kind, RouterKind::Frr | RouterKind::Gobgp | RouterKind::Openbgpd) {
            return Err(RouterError::TcpAo(each.name.clone()));
        }
        if each.role == Role::Observer {
            header::back(&mut out, kind, &side);
            let written = match kind {
                RouterKind::Frr => frr::back(&mut out, &side),
                RouterKind::Bird => bird::back(&mut out, &side),
                _ => return Err(RouterError::Observer(each.name.clone())),
            };
            written?;
            continue;
        }
        if !out.is_empty() {
            out.push('\n');
        }
        header::write(&mut out, kind, &side, config);
        match kind {
            RouterKind::Frr => frr::write(&mut out, &side),
            RouterKind::Bird => bird::write(&mut out, &side),
            RouterKind::Gobgp => daemons::gobgp(&mut out, &side),
            RouterKind::Openbgpd => daemons::openbgpd(&mut out, &side),
            RouterKind::Junos => vendors::junos(&mut out, &side),
            RouterKind::Iosxr => vendors::iosxr(&mut out, &side),
            RouterKind::Eos => vendors::eos(&mut out, &side),
            RouterKind::Srlinux => srlinux::write(&mut out, &side),
            RouterKind::Routeros => routeros::write(&mut out, &side),
        }
        .and_then(|()| groups::write(&mut out, kind, comment(kind), &side, config))?;
    }
    Ok(out)
}

/// The text for a session of service addresses.
fn service(config: &Config, kind: RouterKind, peer: &ServicePeer) -> Result<String, RouterError> {
    let side = Side::of_service(config, peer, kind)?;
    if side.tcp_ao.is_some() && kind == RouterKind::Frr {
        return Err(RouterError::TcpAo(peer.name.clone()));
    }
    let mut out = String::new();
    header::service(&mut out, kind, &side);
    let written = match kind {
        RouterKind::Frr => frr::write(&mut out, &side),
        RouterKind::Bird => bird::write(&mut out, &side),
        _ => return Err(RouterError::Service(peer.name.clone())),
    };
    written?;
    Ok(out)
}

fn comment(kind: RouterKind) -> &'static str {
    match kind {
        RouterKind::Frr | RouterKind::Iosxr | RouterKind::Eos => "!",
        _ => "#",
    }
}

fn ao_name(algorithm: AoAlgorithm) -> &'static str {
    match algorithm {
        AoAlgorithm::HmacSha1 => "HMAC-SHA-1-96",
        AoAlgorithm::Aes128Cmac => "AES-128-CMAC-96",
    }
}

/// What every generator returns.
type Written = std::fmt::Result;

/// A name without what routers don't take in names.
fn word(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

/// `text` in double quotes, with backslashes before what would end them.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

/// `ge`/`le` as Cisco-like prefix lists write them.
fn ge_le(length: u8, least: u8, most: u8) -> String {
    let mut out = String::new();
    if least > length {
        out.push_str(&format!(" ge {least}"));
    } else if most > length {
        out.push_str(&format!(" le {most}"));
    }
    out
}

/// Cisco-like prefix lists for both families: "ip prefix-list NAME seq N permit ...".
fn prefix_lists(out: &mut String, side: &Side) -> Written {
    let tag = side.tag.as_str();
    for (index, (permit, net, least, most)) in side.rules4().into_iter().enumerate() {
        let action = if permit { "permit" } else { "deny" };
        let range = ge_le(net.prefix_len(), least, most);
        writeln!(out, "ip prefix-list DESTGUARD4-{tag} seq {} {action} {net}{range}", (index + 1) * 5)?;
    }
    for (index, (permit, net, least, most)) in side.rules6().into_iter().enumerate() {
        let action = if permit { "permit" } else { "deny" };
        let range = ge_le(net.prefix_len(), least, most);
        writeln!(out, "ipv6 prefix-list DESTGUARD6-{tag} seq {} {action} {net}{range}", (index + 1) * 5)?;
    }
    Ok(())
}
