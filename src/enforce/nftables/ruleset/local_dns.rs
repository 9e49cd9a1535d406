//! Names without the guard: this host's own questions for other servers, DNS over HTTPS by known addresses, and names of the link itself.
//!
//! ```text
//!   dns_local           output, before the host's own destination NAT: port 53 elsewhere goes to where the guard is asked
//!   dns_local_source    postrouting: and comes from loopback, as a question does that was meant for the guard
//! ```
//!
//! What bears the guard's mark isn't redirected: it is the guard's own question, or refused like any other.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ::nftables::expr::{Expression, FibResult, MetaKey, NamedExpression};
use ::nftables::schema::{SetFlag, SetType};
use ::nftables::stmt::{Mangle, NAT, NATFamily, Statement};
use ::nftables::types::{NfChainPolicy, NfChainType, NfHook};
use ipnet::IpNet;

#[allow(clippy::wildcard_imports)]
use super::words::*;
use super::{REDIRECT_PRIORITY, Ruleset, Settings};

/// Before the host's own source NAT.
const SOURCE_PRIORITY: i32 = 90;
/// The port of HTTPS.
pub(in crate::enforce) const HTTPS: u32 = 443;
/// mDNS, LLMNR, SSDP: groups and ports.
pub(in crate::enforce) const DISCOVERY4: [(&str, u32); 3] =
    [("224.0.0.251", 5353), ("224.0.0.252", 5355), ("239.255.255.250", 1900)];
/// The groups and ports of IPv6, like [`DISCOVERY4`].
pub(in crate::enforce) const DISCOVERY6: [(&str, u32); 3] =
    [("ff02::fb", 5353), ("ff02::1:3", 5355), ("ff02::c", 1900)];

impl Settings {
    /// The port at which hosts of others ask the guard.
    pub(in crate::enforce) fn asked_at(&self) -> u16 {
        let mut ports: Vec<u16> =
            self.special.resolver.iter().filter(|at| !at.ip().is_loopback()).map(SocketAddr::port).collect();
        ports.retain(|port| *port != 0);
        if ports.contains(&53) { 53 } else { ports.first().copied().unwrap_or(53) }
    }

    /// Where this host asks the guard, in each family that it listens in.
    pub(in crate::enforce) fn resolvers(&self) -> Vec<SocketAddr> {
        let mut all = self.special.resolver.clone();
        if all.is_empty() {
            all = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 53)), SocketAddr::from((Ipv6Addr::LOCALHOST, 53))];
        }
        all.retain(|at| at.port() != 0);
        for at in &mut all {
            match at.ip() {
                IpAddr::V4(Ipv4Addr::UNSPECIFIED) => at.set_ip(Ipv4Addr::LOCALHOST.into()),
                IpAddr::V6(Ipv6Addr::UNSPECIFIED) => at.set_ip(Ipv6Addr::LOCALHOST.into()),
                _ => {}
            }
        }
        let best = |of: fn(&SocketAddr) -> bool| {
            let rank = |at: &&SocketAddr| (!at.ip().is_loopback(), at.port() != 53);
            all.iter().filter(|at| of(at)).min_by_key(rank).copied()
        };
        best(SocketAddr::is_ipv4).into_iter().chain(best(SocketAddr::is_ipv6)).collect()
    }
}

/// Questions of one family for somebody else go to this address.
pub(in crate::enforce::nftables) fn to_resolver(at: SocketAddr) -> Vec<Statement<'static>> {
    let mut rule = vec![if at.is_ipv4() { is_ipv4() } else { is_ipv6() }];
    rule.extend(asks_elsewhere());
    rule.push(Statement::DNAT(Some(translated(at.ip(), Some(at.port())))));
    rule
}

fn translated(address: IpAddr, port: Option<u16>) -> NAT<'static> {
    NAT {
        addr: Some(Expression::String(address.to_string().into())),
        family: Some(if address.is_ipv4() { NATFamily::IP } else { NATFamily::IP6 }),
        port: port.map(|port| number(u32::from(port))),
        flags: None,
    }
}

/// Whether destination NAT changed where it goes.
fn is_translated() -> Statement<'static> {
    within(ct("status"), &["dnat"])
}

impl Ruleset {
    /// This host's own questions for others come to the guard.
    pub(super) fn local_redirect(&mut self, settings: &Settings) {
        let (chain, source) = ("dns_local", "dns_local_source");
        self.chains.push(base(chain, NfChainType::NAT, NfHook::Output, REDIRECT_PRIORITY, NfChainPolicy::Accept));
        self.chains.push(base(source, NfChainType::NAT, NfHook::Postrouting, SOURCE_PRIORITY, NfChainPolicy::Accept));
        let marked = is(meta(MetaKey::Mark), Expression::Number(crate::sys::MARK));
        self.rule(chain, "own", vec![marked, accept()]);
        for at in settings.resolvers() {
            let (comment, protocol, family) =
                if at.is_ipv4() { ("4", "ip", is_ipv4()) } else { ("6", "ip6", is_ipv6()) };
            self.rule(chain, format!("redirect{comment}"), to_resolver(at));
            if at.ip().is_loopback() {
                let from = if at.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { IpAddr::from(Ipv6Addr::LOCALHOST) };
                let rule = vec![
                    family,
                    is(meta(MetaKey::Oifname), word("lo")),
                    is_translated(),
                    is(field(protocol, "daddr"), Expression::String(at.ip().to_string().into())),
                    tcp_or_udp(),
                    is(field("th", "dport"), number(u32::from(at.port()))),
                    Statement::SNAT(Some(translated(from, None))),
                ];
                self.rule(source, format!("loopback{comment}"), rule);
            }
        }
    }

    /// The filter still sees the interface that a redirected packet was to leave by.
    pub(super) fn redirected_rule(&mut self, chain: &'static str) {
        self.rule(chain, "redirected", vec![is_translated(), is(way(FibResult::Type), word("local")), accept()]);
    }

    /// Sets for [`Self::doh_rules`], where there is anything in them.
    pub(super) fn doh_sets(&mut self, settings: &Settings) {
        let (doh4, doh6): (Vec<_>, Vec<_>) =
            IpNet::aggregate(&settings.special.doh).into_iter().partition(|net| matches!(net, IpNet::V4(_)));
        for (name, kind, nets) in [("doh4", SetType::Ipv4Addr, doh4), ("doh6", SetType::Ipv6Addr, doh6)] {
            let mut set = plain(name, &[kind]);
            set.flags = Some(HashSet::from([SetFlag::Interval]));
            if nets.is_empty() {
                self.unused.push(set);
            } else {
                self.constant(set, nets.into_iter().map(prefix).collect());
            }
        }
    }

    /// DNS over HTTPS, over TCP and QUIC: beside DNS elsewhere.
    pub(super) fn doh_rules(&mut self, chain: &'static str) {
        for (name, set, protocol) in [("doh4", "@doh4", "ip"), ("doh6", "@doh6", "ip6")] {
            if !self.sets.iter().any(|set| set.name == name) {
                continue;
            }
            let rule = vec![
                is(field(protocol, "daddr"), word(set)),
                tcp_or_udp(),
                is(field("th", "dport"), number(HTTPS)),
                counted("dns_bypass"),
                jump("deny"),
            ];
            self.rule(chain, name, rule);
        }
    }

    /// Names and devices of the link: questions to the groups, and answers to who asked one. The answers go no further than the link: no
    /// router passes on what has one hop left.
    pub(super) fn discovery_rules(&mut self, chain: &'static str, settings: &Settings) {
        if !settings.special.local_discovery {
            return;
        }
        for (comment, answers, protocol, hops, groups) in [
            ("discovery4", "discovery_answers4", "ip", "ttl", DISCOVERY4),
            ("discovery6", "discovery_answers6", "ip6", "hoplimit", DISCOVERY6),
        ] {
            let pair = |(group, port)| Expression::Named(NamedExpression::Concat(vec![word(group), number(port)]));
            let to = vec![field(protocol, "daddr"), field("udp", "dport")];
            let to = Expression::Named(NamedExpression::Concat(to));
            self.rule(chain, comment, vec![is(to, set_of(groups.into_iter().map(pair))), accept()]);
            let ports = set_of(groups.into_iter().map(|(_, port)| number(port)));
            let mut rule = vec![if protocol == "ip" { is_ipv4() } else { is_ipv6() }, is(field("udp", "sport"), ports)];
            if settings.enforce {
                rule.push(Statement::Mangle(Mangle { key: field(protocol, hops), value: number(1) }));
            }
            rule.push(accept());
            self.rule(chain, answers, rule);
        }
    }
}
