//! The rules, as `iptables-restore` reads them: pure.
//!
//! ```text
//!   OUTPUT  -> destguard-out (local)    lo, own traffic and replies, then destguard-local
//!   FORWARD -> destguard-fwd (gateway)  from inside: destguard-in; else none of our business
//!   both                                [cut], replies, DNS elsewhere, established, ND/MLD/DHCP (local), adopt (gateway), invalid, leased, open,
//!                                       else destguard-deny
//!   PREROUTING -> destguard-nat         port 53 from inside to anybody but this host comes to this host; see [`super::others`]
//! ```
//!
//! Nothing is ever accepted here: what passes returns to the host's own chain, behind our jump. So chains go on by "goto", and RETURN leads back there.
//! The order is that of the nftables ruleset, for the same reasons. What is counted passes a chain of its own.

use ipnet::IpNet;

use super::ipset::{Kind, Shape};
use super::others;
use crate::config::schema::{NftablesMode, Scope};
use crate::enforce::nftables::ruleset::{LOG_GROUP, RESOLVER_PORTS, SERVER_PORTS};
use crate::enforce::rules::{Rules, Transport};

/// A family with rules of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4, by `iptables`.
    V4,
    /// IPv6, by `ip6tables`.
    V6,
}

impl Family {
    /// Both families, IPv4 first.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub(super) fn is(self, ipv4: bool) -> bool {
        ipv4 == (self == Self::V4)
    }
}

/// One of the kernel's tables, and what of ours any mode has there.
#[derive(Debug)]
pub struct TableOf {
    /// The kernel's name of the table.
    pub name: &'static str,
    /// The names of our chains in it.
    pub chains: &'static [&'static str],
    /// Chain of the host's own, and ours that it jumps to first.
    pub jumps: &'static [(&'static str, &'static str)],
}

/// Where the guard judges.
pub const FILTER: TableOf = TableOf {
    name: "filter",
    chains: &[
        "destguard-out",
        "destguard-own",
        "destguard-local",
        "destguard-fwd",
        "destguard-in",
        "destguard-est",
        "destguard-allow",
        "destguard-dns",
        "destguard-deny",
        "destguard-bad",
        "destguard-refuse",
    ],
    jumps: &[("OUTPUT", "destguard-out"), ("FORWARD", "destguard-fwd")],
};
/// All of them.
pub const TABLES: [&TableOf; 3] = [
    &FILTER,
    &TableOf {
        name: "nat",
        chains: &["destguard-nat", "destguard-nout", "destguard-npost"],
        jumps: &[("PREROUTING", "destguard-nat"), ("OUTPUT", "destguard-nout"), ("POSTROUTING", "destguard-npost")],
    },
    &TableOf { name: "mangle", chains: &["destguard-hop"], jumps: &[("OUTPUT", "destguard-hop")] },
];

/// What is to be in a table.
#[must_use]
pub fn of(table: &TableOf, rules: &Rules, family: Family) -> Chains {
    match table.name {
        "nat" => others::nat(rules, family),
        "mangle" => others::mangle(rules, family),
        _ => filter(rules, family),
    }
}

/// A set by its purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Set {
    /// Open for everybody; where pairs count: for this host.
    Lease,
    /// Closed, also to flows that go on.
    Cut,
    /// One port, open for everybody; where clients count: for this host.
    Port,
    /// Open for one client.
    Pair,
    /// One port, open for one client.
    PairPort,
    /// While connections from before are found.
    Adopt,
}

impl Set {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Lease, Self::Cut, Self::Port, Self::Pair, Self::PairPort, Self::Adopt];

    /// Its name in the kernel.
    #[must_use]
    pub fn name(self, family: Family) -> &'static str {
        match (self, family) {
            (Self::Lease, Family::V4) => "destguard4",
            (Self::Lease, Family::V6) => "destguard6",
            (Self::Cut, Family::V4) => "destguard-cut4",
            (Self::Cut, Family::V6) => "destguard-cut6",
            (Self::Pair, Family::V4) => "destguard-pair4",
            (Self::Pair, Family::V6) => "destguard-pair6",
            (Self::Port, Family::V4) => "destguard-port4",
            (Self::Port, Family::V6) => "destguard-port6",
            (Self::PairPort, Family::V4) => "destguard-pp4",
            (Self::PairPort, Family::V6) => "destguard-pp6",
            (Self::Adopt, Family::V4) => "destguard-adopt4",
            (Self::Adopt, Family::V6) => "destguard-adopt6",
        }
    }

    /// Whether these rules look into it.
    #[must_use]
    pub fn is_needed(self, rules: &Rules) -> bool {
        match self {
            Self::Lease | Self::Cut | Self::Port => true,
            Self::Pair | Self::PairPort => rules.config.scope == Scope::Client,
            Self::Adopt => forwards(rules),
        }
    }

    /// As it is to be made.
    #[must_use]
    pub fn shape(self, family: Family, rules: &Rules) -> Shape {
        let kind = match self {
            Self::Lease | Self::Cut => Kind::Address,
            Self::Port => Kind::Port,
            Self::Pair => Kind::Pair,
            Self::PairPort => Kind::PairPort,
            Self::Adopt => Kind::Ports,
        };
        let most = match self {
            Self::Cut => super::CUTS,
            _ => size(rules.capacity),
        };
        Shape { kind, ipv4: family == Family::V4, most }
    }
}

/// Room in a set of leases.
fn size(capacity: usize) -> u32 {
    let size = capacity.saturating_add(capacity / 4).saturating_add(1024);
    u32::try_from(size).unwrap_or(u32::MAX)
}

/// Whether this host itself is guarded.
#[must_use]
pub fn local(rules: &Rules) -> bool {
    matches!(rules.config.mode, NftablesMode::Local | NftablesMode::Both)
}

/// Whether hosts behind it are.
#[must_use]
pub fn gateway(rules: &Rules) -> bool {
    matches!(rules.config.mode, NftablesMode::Gateway | NftablesMode::Both)
}

/// Whether something is guarded that this host forwards.
#[must_use]
pub fn forwards(rules: &Rules) -> bool {
    gateway(rules) || local(rules) && !rules.config.bridges.is_empty()
}

/// Chains with their rules, without "-A CHAIN".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chains(pub Vec<(&'static str, Vec<String>)>);

impl Chains {
    pub(super) fn add(&mut self, chain: &'static str, rule: impl Into<String>) {
        let rule = rule.into();
        match self.0.iter_mut().find(|(name, _)| *name == chain) {
            Some((_, rules)) => rules.push(rule),
            None => self.0.push((chain, vec![rule])),
        }
    }

    /// Number of rules in a chain of ours; `None`: it isn't to be there.
    #[must_use]
    pub fn count(&self, chain: &str) -> Option<usize> {
        self.0.iter().find(|(name, _)| *name == chain).map(|(_, rules)| rules.len())
    }
}

/// Has the kernel keep its list of flows, and refuses nothing.
#[must_use]
pub fn tracking() -> Chains {
    let mut chains = Chains::default();
    chains.add("destguard-est", "-m conntrack --ctstate ESTABLISHED -j RETURN");
    chains
}

/// Our chains of table `filter`, which judge packets.
#[must_use]
pub fn filter(rules: &Rules, family: Family) -> Chains {
    let mut chains = Chains::default();
    let enforce = rules.config.enforce;
    chains.add("destguard-est", "-j RETURN");
    chains.add("destguard-allow", "-j RETURN");
    chains.add("destguard-dns", "-g destguard-deny");
    chains.add("destguard-deny", "-g destguard-refuse");
    chains.add("destguard-bad", if enforce { "-j DROP" } else { "-j RETURN" });
    chains.add(
        "destguard-refuse",
        format!(
            "-m limit --limit 50/second --limit-burst 100 -j NFLOG --nflog-group {LOG_GROUP} --nflog-prefix \"destguard-deny \" \
             --nflog-size 96 --nflog-threshold 1"
        ),
    );
    if enforce {
        chains.add("destguard-refuse", "-p tcp -j REJECT --reject-with tcp-reset");
        let prohibited = if family == Family::V4 { "icmp-admin-prohibited" } else { "icmp6-adm-prohibited" };
        chains.add("destguard-refuse", format!("-j REJECT --reject-with {prohibited}"));
    } else {
        chains.add("destguard-refuse", "-j RETURN");
    }
    if local(rules) {
        output(&mut chains, rules, family);
    }
    if forwards(rules) {
        forward(&mut chains, rules, family);
    }
    chains
}

fn output(chains: &mut Chains, rules: &Rules, family: Family) {
    let mark = format!("-m mark --mark {:#x}", crate::sys::MARK);
    chains.add("destguard-out", "-o lo -j RETURN");
    chains.add("destguard-out", format!("{mark} -g destguard-own"));
    chains.add("destguard-out", "-g destguard-local");
    let mut traffic = rules.own.traffic.clone();
    traffic.sort_unstable();
    traffic.dedup();
    for own in traffic.iter().filter(|own| family.is(own.address.is_ipv4())) {
        let protocol = protocol(own.transport);
        chains.add(
            "destguard-own",
            format!("-d {} -p {protocol} -m {protocol} --dport {} -j RETURN", own.address, own.port),
        );
    }
    let mut listeners = rules.own.listeners.clone();
    listeners.sort_unstable();
    listeners.dedup();
    for (transport, port) in listeners.into_iter().filter(|(_, port)| *port != 0) {
        let protocol = protocol(transport);
        chains.add("destguard-own", format!("-p {protocol} -m {protocol} --sport {port} -j RETURN"));
    }
    chains.add("destguard-own", "-g destguard-local");

    let chain = "destguard-local";
    others::redirected(chains, chain, rules);
    flows(chains, chain, rules, family);
    match family {
        Family::V4 => {
            chains.add(chain, "-p igmp -j RETURN");
            chains.add(chain, "-p udp -m udp --sport 68 --dport 67 -j RETURN");
        }
        Family::V6 => {
            // Neighbour discovery and MLD have no flows; their hop limit shows that they stay on the link.
            for (kinds, hops) in [([133, 134, 135, 136, 137].as_slice(), 255), (&[130, 131, 132, 143], 1)] {
                for kind in kinds {
                    chains
                        .add(chain, format!("-p icmpv6 -m icmp6 --icmpv6-type {kind} -m hl --hl-eq {hops} -j RETURN"));
                }
            }
            chains.add(chain, "-p udp -m udp --sport 546 --dport 547 -j RETURN");
        }
    }
    // The end of a flow that conntrack has forgotten: harmless, and the peer waits for it.
    for flag in ["FIN", "RST"] {
        chains.add(chain, format!("-p tcp -m tcp --tcp-flags {flag} {flag} -m conntrack --ctstate INVALID -j RETURN"));
    }
    chains.add(chain, "-m conntrack --ctstate INVALID -g destguard-bad");
    others::discovery(chains, chain, rules, family);
    others::reach_bridges(chains, chain, rules, "");
    lookups(chains, chain, rules, family, &[(Set::Lease, "dst"), (Set::Port, "dst,dst")]);
}

fn forward(chains: &mut Chains, rules: &Rules, family: Family) {
    let inside = others::guarded(rules);
    let chain = "destguard-in";
    for name in &inside {
        chains.add("destguard-fwd", format!("-i {name} -g {chain}"));
        // From port to port of a bridge, with bridge-nf-call-iptables = 1.
        chains.add(chain, format!("-i {name} -o {name} -m physdev --physdev-is-bridged -j RETURN"));
    }
    flows(chains, chain, rules, family);
    chains.add(
        chain,
        format!(
            "-p tcp -m tcp --tcp-flags SYN NONE -m set --match-set {} dst -m conntrack --ctstate NEW,INVALID -g destguard-est",
            Set::Adopt.name(family)
        ),
    );
    chains.add(chain, "-m conntrack --ctstate INVALID -g destguard-bad");
    // Ports that containers publish: only this host's own rules translate so.
    others::reach_bridges(chains, chain, rules, " -m conntrack --ctstate DNAT");
    let sets = match rules.config.scope {
        Scope::Client => [(Set::Pair, "src,dst"), (Set::PairPort, "src,dst,dst")],
        Scope::Shared => [(Set::Lease, "dst"), (Set::Port, "dst,dst")],
    };
    lookups(chains, chain, rules, family, &sets);
    if inside.is_empty() {
        chains.add("destguard-fwd", "-j RETURN");
    }
}

/// What is cut, what belongs to a flow that the kernel knows, and DNS elsewhere, known or not. In audit no flow ends: only first packets are counted.
fn flows(chains: &mut Chains, chain: &'static str, rules: &Rules, family: Family) {
    chains.add(chain, format!("-m set --match-set {} dst -g destguard-deny", Set::Cut.name(family)));
    let ports = RESOLVER_PORTS.map(|port| port.to_string()).join(",");
    let dns = |chains: &mut Chains| {
        for protocol in ["tcp", "udp"] {
            chains.add(chain, format!("-p {protocol} -m multiport --dports {ports} -g destguard-dns"));
        }
        others::doh(chains, chain, rules, family);
    };
    let enforce = rules.config.enforce;
    if enforce {
        for protocol in ["tcp", "udp"] {
            // What was found in its middle may seem to have been begun by the far end; of this host's own it is known who began them.
            let from = match chain {
                "destguard-in" => format!(" -m {protocol} --sport 0:{}", SERVER_PORTS - 1),
                _ => String::new(),
            };
            chains.add(
                chain,
                format!("-p {protocol}{from} -m conntrack --ctstate ESTABLISHED --ctdir REPLY -g destguard-est"),
            );
        }
        dns(chains);
    }
    chains.add(chain, "-m conntrack --ctstate RELATED,ESTABLISHED -g destguard-est");
    if !enforce {
        dns(chains);
    }
}

/// `sets`: each with what of a packet is looked for in it.
fn lookups(chains: &mut Chains, chain: &'static str, rules: &Rules, family: Family, sets: &[(Set, &str)]) {
    for (set, ends) in sets {
        chains.add(chain, format!("-m set --match-set {} {ends} -g destguard-allow", set.name(family)));
    }
    for net in IpNet::aggregate(&rules.open).into_iter().filter(|net| family.is(matches!(net, IpNet::V4(_)))) {
        chains.add(chain, format!("-d {net} -j RETURN"));
    }
    chains.add(chain, "-g destguard-deny");
}

/// As iptables writes a pattern. What could end the word is no part of any name.
pub(super) fn interface(name: &str) -> String {
    let name: String = name.chars().filter(|letter| letter.is_ascii_graphic() && !"\"'\\".contains(*letter)).collect();
    match name.strip_suffix('*') {
        Some(begin) => format!("{begin}+"),
        None => name,
    }
}

fn protocol(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    }
}

/// One table as `iptables-save` writes it: its chains, and the rules in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// Names of all chains.
    pub chains: Vec<String>,
    /// Chain, and the rest of the line; with counters before it where they were asked for.
    pub rules: Vec<(String, String)>,
}

impl Saved {
    /// Reads it. Counters are passed over.
    #[must_use]
    pub fn read(text: &str) -> Self {
        let mut saved = Self::default();
        for line in text.lines() {
            if let Some(chain) = line.strip_prefix(':') {
                saved.chains.extend(chain.split(' ').next().map(str::to_owned));
            }
            let line = line.split_once("] ").filter(|_| line.starts_with('[')).map_or(line, |(_, rest)| rest);
            let rule = line.strip_prefix("-A ");
            saved.rules.extend(
                rule.and_then(|rule| rule.split_once(' ')).map(|(chain, rest)| (chain.to_owned(), rest.to_owned())),
            );
        }
        saved
    }

    fn of<'a>(&'a self, chain: &'a str) -> impl Iterator<Item = &'a str> {
        self.rules.iter().filter(move |(name, _)| name == chain).map(|(_, rest)| rest.as_str())
    }

    /// Our own chains with their rules.
    #[must_use]
    pub fn own(&self) -> Vec<(String, Vec<String>)> {
        let ours = |chain: &str| TABLES.iter().any(|table| table.chains.contains(&chain));
        let own = self.chains.iter().filter(|chain| ours(chain));
        let mut own: Vec<(String, Vec<String>)> =
            own.map(|chain| (chain.clone(), self.of(chain).map(str::to_owned).collect())).collect();
        own.sort();
        own
    }

    /// Whether any of our chains is there.
    #[must_use]
    pub fn has_ours(&self) -> bool {
        !self.own().is_empty()
    }

    /// How often a chain of the host's own jumps to ours, and whether that comes first.
    #[must_use]
    pub fn jumps(&self, from: &str, to: &str) -> (usize, bool) {
        let jump = format!("-j {to}");
        let count = self.of(from).filter(|rule| *rule == jump).count();
        (count, self.of(from).next() == Some(jump.as_str()))
    }

    /// Whether anybody has rules here, or chains.
    #[must_use]
    pub fn is_used(&self) -> bool {
        !self.rules.is_empty()
    }
}

/// What puts `wanted` in the place of what a table holds of ours, in one step. `None`: there is nothing to do.
#[must_use]
pub fn replacing(table: &TableOf, wanted: &Chains, found: &Saved) -> Option<String> {
    let (own, jumps) = (table.chains, table.jumps);
    let there = |chain: &str| found.chains.iter().any(|found| found == chain);
    let mut text = format!("*{}\n", table.name);
    for chain in own.iter().filter(|chain| there(chain) || wanted.count(chain).is_some()) {
        text.push_str(&format!(":{chain} - [0:0]\n"));
    }
    for (chain, rules) in &wanted.0 {
        for rule in rules {
            text.push_str(&format!("-A {chain} {rule}\n"));
        }
    }
    for (from, to) in jumps {
        let (count, first) = found.jumps(from, to);
        let is_wanted = wanted.count(to).is_some();
        if is_wanted && count == 1 && first {
            continue;
        }
        text.push_str(&format!("-D {from} -j {to}\n").repeat(count));
        if is_wanted {
            text.push_str(&format!("-I {from} 1 -j {to}\n"));
        }
    }
    for chain in own.iter().filter(|chain| there(chain) && wanted.count(chain).is_none()) {
        text.push_str(&format!("-X {chain}\n"));
    }
    let nothing = wanted.0.is_empty() && !found.has_ours();
    text.push_str("COMMIT\n");
    (!nothing).then_some(text)
}

/// What is not as it was read back once: in words.
#[must_use]
pub fn difference(table: &TableOf, before: &Saved, now: &Saved) -> Option<String> {
    for (from, to) in table.jumps {
        let (was, is) = (before.jumps(from, to), now.jumps(from, to));
        if was != is {
            let how = match is {
                (0, _) => "is gone",
                (1, _) => "is not the first rule any more",
                _ => "is there more than once",
            };
            return Some(format!("the jump from {from} to {to} {how}"));
        }
    }
    let (was, is) = (before.own(), now.own());
    if was == is {
        return None;
    }
    let chain = was.iter().find(|chain| !is.contains(chain)).map(|(name, _)| name.as_str());
    let gone = chain.is_some_and(|chain| !is.iter().any(|(name, _)| name == chain));
    Some(format!("chain {} {}", chain.unwrap_or("of ours"), if gone { "is gone" } else { "was changed" }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::schema::Nftables;
    use crate::enforce::rules::{Own, OwnTraffic, Special};

    fn rules(mode: NftablesMode) -> Rules {
        let config = Nftables { mode, inside: vec!["in0".to_owned(), "br-*".to_owned()], ..Nftables::default() };
        let own = OwnTraffic { address: "192.0.2.53".parse().unwrap(), transport: Transport::Udp, port: 53 };
        let open = ["10.0.0.0/9", "10.128.0.0/9", "2001:db8::/32"].map(|net| net.parse().unwrap()).to_vec();
        let own = Own { traffic: vec![own, own], listeners: vec![(Transport::Tcp, 53), (Transport::Udp, 0)] };
        Rules { config, open, own, ports: true, capacity: 100, special: Special::default() }
    }

    #[test]
    fn every_chain_that_is_gone_to_is_there_and_none_else() {
        for mode in [NftablesMode::Local, NftablesMode::Gateway, NftablesMode::Both] {
            for enforce in [true, false] {
                let mut rules = rules(mode);
                rules.config.enforce = enforce;
                for family in Family::ALL {
                    let chains = filter(&rules, family);
                    for (name, lines) in &chains.0 {
                        assert!(FILTER.chains.contains(name), "{name}");
                        for line in lines {
                            let target = line.split_once("-g ").map(|(_, to)| to);
                            assert!(target.is_none_or(|to| chains.count(to).is_some()), "{line}");
                        }
                    }
                    let text = format!("{chains:?}");
                    assert_eq!(text.contains("REJECT") || text.contains("DROP"), enforce, "{text}");
                    assert!(!text.contains("ACCEPT"), "what passes is for the host's own rules to judge");
                }
            }
        }
        let four = filter(&rules(NftablesMode::Both), Family::V4);
        let text = format!("{four:?}");
        assert!(text.contains("-d 10.0.0.0/8 -j RETURN") && !text.contains("2001:db8"), "{text}");
        assert!(text.contains("-i br-+ -g destguard-in") && !text.contains("--sport 0 "), "{text}");
        assert_eq!(four.count("destguard-own"), Some(3));
    }

    #[test]
    fn one_step_leads_from_any_table_to_the_wanted_one() {
        let wanted = filter(&rules(NftablesMode::Local), Family::V4);
        let clean = Saved::read("*filter\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -j ufw\nCOMMIT\n");
        let text = replacing(&FILTER, &wanted, &clean).unwrap();
        assert!(
            text.contains("-I OUTPUT 1 -j destguard-out\n") && !text.contains("-D ") && !text.contains("-X "),
            "{text}"
        );
        let moved = ":destguard-out - [0:0]\n:destguard-fwd - [0:0]\n[1:2] -A OUTPUT -j ufw\n[3:4] -A OUTPUT -j destguard-out\n\
                     -A OUTPUT -j destguard-out\n-A FORWARD -j destguard-fwd\n";
        let moved = Saved::read(moved);
        let text = replacing(&FILTER, &wanted, &moved).unwrap();
        assert_eq!(text.matches("-D OUTPUT -j destguard-out\n").count(), 2);
        assert!(text.contains("-D FORWARD -j destguard-fwd\n") && text.contains("-X destguard-fwd\n"), "{text}");
        let text = replacing(&FILTER, &Chains::default(), &moved).unwrap();
        assert!(!text.contains("-I ") && text.contains("-X destguard-out\n"), "{text}");
        assert_eq!(replacing(&FILTER, &Chains::default(), &clean), None);
    }

    #[test]
    fn what_others_did_is_named() {
        let before = Saved::read(
            ":OUTPUT ACCEPT [0:0]\n:destguard-out - [0:0]\n-A OUTPUT -j destguard-out\n-A destguard-out -o lo -j RETURN\n",
        );
        let now = |text: &str| difference(&FILTER, &before, &Saved::read(text)).unwrap_or_default();
        assert_eq!(difference(&FILTER, &before, &before), None);
        let own = ":destguard-out - [0:0]\n-A destguard-out -o lo -j RETURN\n";
        assert_eq!(now(own), "the jump from OUTPUT to destguard-out is gone");
        let moved = format!("{own}-A OUTPUT -j ACCEPT\n-A OUTPUT -j destguard-out\n");
        assert_eq!(now(&moved), "the jump from OUTPUT to destguard-out is not the first rule any more");
        let others = format!("{own}-A OUTPUT -j destguard-out\n-A OUTPUT -j ACCEPT\n");
        assert_eq!(now(&others), "", "what stands behind it is the host's own");
        assert_eq!(now(":destguard-out - [0:0]\n-A OUTPUT -j destguard-out\n"), "chain destguard-out was changed");
    }
}
