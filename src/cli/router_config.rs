//! The router's side of a configuration, ready to paste: a null route as default in both families, and a session on which
//! nothing is taken from the guard but host routes (and `addresses.open`, exactly) with the configured next hop, up to a limit.
//!
//! [`frr`], [`bird`] and [`daemons`] are what the lab's tests run. The others follow the vendors' manuals and say so in their first lines.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::RouterKind;
use crate::config::schema::{AoAlgorithm, Config, Family, Peer, Role};

mod bird;
mod daemons;
mod frr;
mod groups;
mod passing;
mod vendors;

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
/// Likewise for IPv6.
const SPECIAL_IPV6: [&str; 4] = ["::/16", "fc00::/7", "fe80::/10", "ff00::/8"];

/// Permitted or not, prefix, least length, most length.
type Rule<N> = (bool, N, u8, u8);

/// One session, seen from the router.
#[derive(Debug)]
pub struct Side {
    /// The peer's name in the guard's file.
    name: String,
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
    /// TCP-MD5.
    password: Option<String>,
    /// TCP-AO in place of TCP-MD5, to be entered by hand: what its password is for, the ids as the router sends and receives them.
    tcp_ao: Option<(AoAlgorithm, u8, u8)>,
    /// GTSM.
    gtsm: bool,
    /// Hops.
    multihop: Option<u8>,
    /// Seconds.
    hold: u64,
    /// Whether the guard waits for the router to connect.
    guard_waits: bool,
    /// BFD: milliseconds between packets, and how many may be lost.
    bfd: Option<(u128, u8)>,
    /// BFD over several hops although BGP has no `multihop`: an internal peer.
    bfd_multihop: bool,
    /// What the guard sends as next hop; `None` = family not in use.
    next_hop4: Option<Ipv4Addr>,
    /// Likewise.
    next_hop6: Option<Ipv6Addr>,
    /// IPv4 routes come with this IPv6 next hop (RFC 8950), since there is no `next_hop4` although the family is in use.
    hop4_over_ipv6: Option<Ipv6Addr>,
    /// Prefixes taken exactly as they are.
    exact4: Vec<Ipv4Net>,
    /// Likewise.
    exact6: Vec<Ipv6Net>,
    /// Prefixes within which host routes are taken although they are special.
    private4: Vec<Ipv4Net>,
    /// Likewise.
    private6: Vec<Ipv6Net>,
    /// The network's own prefixes: no host route within them is taken.
    inside4: Vec<Ipv4Net>,
    /// Likewise.
    inside6: Vec<Ipv6Net>,
    /// The most routes of a family; above the guard's own budget, so that it is never reached in good order.
    limit: usize,
}

impl Side {
    fn of(config: &Config, peer: &Peer) -> Result<Self, String> {
        let bgp = &config.bgp;
        let (Some(guard_asn), Some(router_id)) = (bgp.asn, bgp.router_id) else {
            return Err("bgp.asn and bgp.router_id are needed".to_owned());
        };
        let (guard, guessed) = match (peer.local_address, *peer.address) {
            (Some(local), _) => (local, false),
            (None, IpAddr::V4(_)) => (IpAddr::V4(router_id), true),
            (None, IpAddr::V6(_)) => {
                return Err(format!(
                    "peer \"{}\" has no local_address: the router must know the guard's address on this session",
                    peer.name
                ));
            }
        };
        let password = crate::config::peer_password(peer)
            .map_err(|error| format!("the password of peer \"{}\" can't be read: {error}", peer.name))?;
        let open = if bgp.announce_open { config.addresses.open.as_slice() } else { &[] };
        let private = || config.policy.private.iter().flat_map(|private| private.prefixes.iter().copied());
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
        let (inside4, inside6) = split(config.addresses.inside.iter().copied());
        let takes = |family| peer.families.contains(&family);
        Ok(Self {
            name: peer.name.clone(),
            router_asn: peer.asn,
            guard_asn,
            router: *peer.address,
            guard,
            guessed,
            password: password.filter(|_| peer.tcp_ao.is_none()),
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

    fn internal(&self) -> bool {
        self.router_asn == self.guard_asn
    }

    /// The rules for IPv4 in order.
    fn rules4(&self) -> Vec<Rule<Ipv4Net>> {
        let exact = self.exact4.iter().map(|net| (true, *net, net.prefix_len(), net.prefix_len()));
        let private = self.private4.iter().map(|net| (true, *net, 32, 32));
        let special = SPECIAL_IPV4.iter().filter_map(|net| net.parse().ok());
        let denied = self.inside4.iter().copied().chain(special);
        let denied = denied.map(|net: Ipv4Net| (false, net, net.prefix_len(), 32));
        exact.chain(private).chain(denied).chain([(true, Ipv4Net::default(), 32, 32)]).collect()
    }

    /// Likewise for IPv6.
    fn rules6(&self) -> Vec<Rule<Ipv6Net>> {
        let exact = self.exact6.iter().map(|net| (true, *net, net.prefix_len(), net.prefix_len()));
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
/// In a sentence: no such peer, or something that the router's side can't do without is missing.
pub fn generate(config: &Config, kind: RouterKind, peer: Option<&str>) -> Result<String, String> {
    let chosen: Vec<&Peer> = config
        .bgp
        .peer
        .iter()
        .filter(|each| peer.map_or(each.role == Role::Enforcer, |name| each.name == name))
        .collect();
    if chosen.is_empty() {
        return Err(match peer {
            Some(name) => format!("there is no peer called \"{name}\""),
            None => "the configuration has no [[bgp.peer]]".to_owned(),
        });
    }
    // One paste is for one router: what is another's would give it a second session.
    if chosen.len() > 1 {
        let names: Vec<String> = chosen.iter().map(|each| format!("--peer {}", each.name)).collect();
        return Err(format!("the configuration has {} routers; name one: {}", names.len(), names.join(" | ")));
    }
    let mut out = String::new();
    for each in chosen {
        if each.role == Role::Observer {
            return Err(format!("peer \"{}\" is an observer; it gets no routes", each.name));
        }
        let side = Side::of(config, each)?;
        if side.tcp_ao.is_some() && matches!(kind, RouterKind::Frr | RouterKind::Gobgp | RouterKind::Openbgpd) {
            return Err(format!(
                "peer \"{}\" has tcp_ao, which this router doesn't know; use TCP-MD5 instead",
                each.name
            ));
        }
        if !out.is_empty() {
            out.push('\n');
        }
        header(&mut out, kind, &side, config);
        match kind {
            RouterKind::Frr => frr::write(&mut out, &side),
            RouterKind::Bird => bird::write(&mut out, &side),
            RouterKind::Gobgp => daemons::gobgp(&mut out, &side),
            RouterKind::Openbgpd => daemons::openbgpd(&mut out, &side),
            RouterKind::Junos => vendors::junos(&mut out, &side),
            RouterKind::Iosxr => vendors::iosxr(&mut out, &side),
            RouterKind::Eos => vendors::eos(&mut out, &side),
            RouterKind::Srlinux => vendors::srlinux(&mut out, &side),
            RouterKind::Routeros => vendors::routeros(&mut out, &side),
        }
        .and_then(|()| groups::write(&mut out, kind, comment(kind), &side, config))
        // Writing to a string can't fail.
        .map_err(|error| error.to_string())?;
        if passing::passes_on(each) {
            let words = passing::WORDS.map(|line| format!("{} {line}\n", comment(kind)));
            out = words.concat() + &passing::let_pass(&out);
        }
    }
    Ok(out)
}

fn comment(kind: RouterKind) -> &'static str {
    match kind {
        RouterKind::Frr | RouterKind::Iosxr | RouterKind::Eos => "!",
        _ => "#",
    }
}

/// What to know before pasting.
fn header(out: &mut String, kind: RouterKind, side: &Side, config: &Config) {
    let comment = comment(kind);
    let mut lines = vec![
        format!(
            "Router \"{}\" ({}, AS {}): its side of the session with destguard.",
            side.name, side.router, side.router_asn
        ),
        "It null-routes everything it has no better route for. Paste it from a place that the router reaches without"
            .to_owned(),
        "its default route, and keep routes to your own networks and to the next hop.".to_owned(),
    ];
    if !config.bgp.announce_upstreams {
        lines.push(
            "The guard's own way to its upstreams must not cross this router, or set bgp.announce_upstreams."
                .to_owned(),
        );
    }
    if let Some((algorithm, send, recv)) = side.tcp_ao {
        let algorithm = match algorithm {
            AoAlgorithm::HmacSha1 => "HMAC-SHA-1-96",
            AoAlgorithm::Aes128Cmac => "AES-128-CMAC-96",
        };
        lines.push(format!(
            "TCP-AO protects the session: enter its key by hand, {algorithm}, the router sends id {send} and receives id {recv}."
        ));
    }
    match (side.hop4_over_ipv6, kind) {
        (Some(_), RouterKind::Frr) => lines.push(
            "IPv4 routes come with the IPv6 next hop (RFC 8950). FRR 8.4 takes them on sessions over IPv6 only.".to_owned(),
        ),
        (Some(_), RouterKind::Bird) | (None, _) => {}
        (Some(hop), _) => lines.push(format!(
            "IPv4 routes come with the IPv6 next hop {hop} (RFC 8950): what follows takes none of them; add it by hand where this router can."
        )),
    }
    if side.guessed {
        lines.push(format!(
            "{} is bgp.router_id: set local_address on the peer if the guard connects from another.",
            side.guard
        ));
    }
    if !matches!(kind, RouterKind::Frr | RouterKind::Bird | RouterKind::Gobgp | RouterKind::Openbgpd) {
        lines.push("Written after the vendor's manual, not run in the lab: read it before you paste it.".to_owned());
    }
    for line in lines {
        out.push_str(&format!("{comment} {line}\n"));
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
    for (index, (permit, net, least, most)) in side.rules4().into_iter().enumerate() {
        let action = if permit { "permit" } else { "deny" };
        let range = ge_le(net.prefix_len(), least, most);
        writeln!(out, "ip prefix-list DESTGUARD4 seq {} {action} {net}{range}", (index + 1) * 5)?;
    }
    for (index, (permit, net, least, most)) in side.rules6().into_iter().enumerate() {
        let action = if permit { "permit" } else { "deny" };
        let range = ge_le(net.prefix_len(), least, most);
        writeln!(out, "ipv6 prefix-list DESTGUARD6 seq {} {action} {net}{range}", (index + 1) * 5)?;
    }
    Ok(())
}
