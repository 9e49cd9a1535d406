//! What is judged otherwise than by leases: containers' bridges, questions for other resolvers, DNS over HTTPS by known addresses, names of the link.
//! The nftables ruleset says why each is so.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::rules::{Chains, Family, forwards, gateway, interface, local};
use crate::enforce::nftables::ruleset::Settings;
use crate::enforce::nftables::ruleset::local_dns::{DISCOVERY4, DISCOVERY6, HTTPS};
use crate::enforce::rules::Rules;

/// This host's own questions.
const ASKED: &str = "destguard-nout";

/// Patterns of interfaces whose hosts are guarded: those inside, and bridges.
pub(super) fn guarded(rules: &Rules) -> Vec<String> {
    let inside = rules.config.inside.iter().filter(|_| gateway(rules));
    let mut all: Vec<String> = inside.chain(&rules.config.bridges).map(|name| interface(name)).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// To containers; `how`: what else must hold.
pub(super) fn reach_bridges(chains: &mut Chains, chain: &'static str, rules: &Rules, how: &str) {
    for bridge in &rules.config.bridges {
        chains.add(chain, format!("-o {}{how} -j RETURN", interface(bridge)));
    }
}

/// DNS over HTTPS, beside DNS elsewhere.
pub(super) fn doh(chains: &mut Chains, chain: &'static str, rules: &Rules, family: Family) {
    let nets = IpNet::aggregate(&rules.special.doh).into_iter();
    for net in nets.filter(|net| family.is(matches!(net, IpNet::V4(_)))) {
        for protocol in ["tcp", "udp"] {
            chains.add(chain, format!("-d {net} -p {protocol} -m {protocol} --dport {HTTPS} -g destguard-dns"));
        }
    }
}

fn groups(family: Family) -> [(&'static str, u32); 3] {
    if family == Family::V4 { DISCOVERY4 } else { DISCOVERY6 }
}

fn answers(family: Family) -> String {
    let ports = groups(family).map(|(_, port)| port.to_string()).join(",");
    format!("-p udp -m multiport --sports {ports}")
}

/// Names and devices of the link: questions to the groups, and answers.
pub(super) fn discovery(chains: &mut Chains, chain: &'static str, rules: &Rules, family: Family) {
    if !rules.special.local_discovery {
        return;
    }
    for (group, port) in groups(family) {
        chains.add(chain, format!("-d {group} -p udp -m udp --dport {port} -j RETURN"));
    }
    chains.add(chain, format!("{} -j RETURN", answers(family)));
}

/// Table `mangle`: those answers go no further than the link.
pub(super) fn mangle(rules: &Rules, family: Family) -> Chains {
    let mut chains = Chains::default();
    if !local(rules) || !rules.special.local_discovery || !rules.config.enforce {
        return chains;
    }
    let chain = "destguard-hop";
    for (group, port) in groups(family) {
        chains.add(chain, format!("-d {group} -p udp -m udp --dport {port} -j RETURN"));
    }
    let one = if family == Family::V4 { "TTL --ttl-set 1" } else { "HL --hl-set 1" };
    chains.add(chain, format!("{} -m conntrack --ctstate NEW -j {one}", answers(family)));
    chains
}

/// This host's own questions that went to the guard instead: the filter sees the interface that they were to leave by.
pub(super) fn redirected(chains: &mut Chains, chain: &'static str, rules: &Rules) {
    if rules.config.redirect_dns {
        chains.add(chain, "-m conntrack --ctstate DNAT -m addrtype --dst-type LOCAL -j RETURN");
    }
}

/// Our chains of table `nat`, which send foreign DNS here.
pub(super) fn nat(rules: &Rules, family: Family) -> Chains {
    let mut chains = Chains::default();
    if !rules.config.redirect_dns {
        return chains;
    }
    let settings = Settings::of(rules);
    if forwards(rules) {
        for name in guarded(rules) {
            for protocol in ["tcp", "udp"] {
                let question = asks_elsewhere(protocol);
                let port = settings.asked_at();
                chains.add("destguard-nat", format!("-i {name} {question} -j REDIRECT --to-ports {port}"));
            }
        }
    }
    if !local(rules) {
        return chains;
    }
    chains.add(ASKED, format!("-m mark --mark {:#x} -j RETURN", crate::sys::MARK));
    for at in settings.resolvers().into_iter().filter(|at| family.is(at.is_ipv4())) {
        for protocol in ["tcp", "udp"] {
            chains.add(ASKED, format!("{} -j DNAT --to-destination {at}", asks_elsewhere(protocol)));
            if at.ip().is_loopback() {
                let from: IpAddr = if at.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
                chains.add(
                    "destguard-npost",
                    format!(
                        "-o lo -d {} -p {protocol} -m {protocol} --dport {} -m conntrack --ctstate DNAT -j SNAT --to-source {from}",
                        at.ip(),
                        at.port()
                    ),
                );
            }
        }
    }
    chains
}

fn asks_elsewhere(protocol: &str) -> String {
    format!("-p {protocol} -m {protocol} --dport 53 -m addrtype ! --dst-type LOCAL")
}
