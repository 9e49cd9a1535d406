//! The static ruleset: table `inet destguard` as typed objects. Elements of the lease sets are not part of it.
//!
//! ```text
//!   output  (local)    lo, own traffic and replies, judged, [cut], replies, DNS elsewhere, established, ND/MLD/DHCP, invalid, open, leased,
//!                      leased to single applications ([`super::applications`]), else deny
//!   forward (gateway)  not from inside: none of our business; judged; between ports of one bridge: neither; [cut], replies, DNS elsewhere, established, adopt,
//!                      invalid, open, leased, else deny
//!   dns_redirect       port 53 from inside to anybody but this host comes to this host; see [`bridges`]
//!   dns_local          port 53 of this host itself likewise; see [`local_dns`]
//!   deny               count, log a few to NFLOG group 4242, TCP reset or ICMP "prohibited"; in audit: count, log, accept
//! ```
//!
//! Bridges of containers are inside too, also where the mode is local: see [`bridges`].
//!
//! "judged" says that the table was there: see [`super::lock`]. It is not in force in audit.
//!
//! DNS elsewhere (53, 853) is denied before the lease sets are looked at: an address that was leased as a web server
//! must not become a second resolver. It is denied before "established", so that flows to other resolvers from before the
//! start end, too; only a server's replies pass before, since its client may use port 53 for its own end.
//! "cut" comes before all of these, since that is what it is for.
//!
//! Table `bridge destguard` (gateway) marks what goes from port to port of a bridge, and takes the mark off again. Only with
//! bridge-nf-call-iptables = 1 does such a packet come to "forward" at all, and there it looks like one that is routed back to
//! the interface it came from. What is routed so is judged.
//!
//! "adopt": for some minutes after the first installation, a gateway lets a TCP segment pass that belongs to no flow that
//! the kernel knows, unless it asks for a new connection (SYN). So connections from before are found. The kernel itself
//! ends that time. Where the far end doesn't know the connection it resets it.

use std::borrow::Cow;
use std::collections::HashSet;
use std::time::Duration;

use ::nftables::expr::{BinaryOperation, Elem, Expression, MetaKey, NamedExpression, Range};
use ::nftables::schema::{
    Chain, Counter, Element, FlushObject, NfCmd, NfListObject, NfObject, Nftables, Rule, Set, SetFlag, SetType, Table,
};
use ::nftables::stmt::{Drop, Reject, RejectType, Statement};
use ::nftables::types::{NfChainType, NfFamily, NfHook};
use ipnet::IpNet;

use super::TABLE;
use super::applications::{self, Application};
use super::needs::Feature;
use crate::config::schema::{NftablesMode, Scope, WHOLE_IPV6};
use crate::enforce::rules::{OwnTraffic, Rules, Special, Transport};

mod bridges;
pub(in crate::enforce) mod local_dns;
pub(super) mod words;

#[allow(clippy::wildcard_imports)]
use words::*;

/// NFLOG group in which denied packets are seen.
pub const LOG_GROUP: u32 = 4242;
/// Ports of resolvers: in the clear, over TLS and over QUIC.
pub const RESOLVER_PORTS: [u16; 2] = [53, 853];
/// Ports below this are those of servers.
pub const SERVER_PORTS: u32 = 1024;
/// A table that is there only while the guard is armed for the first time.
const TRACKING: &str = "destguard_arming";
/// How long a gateway finds connections from before its first installation. Keep-alives of applications are more frequent.
pub const ADOPT: Duration = Duration::from_secs(300);
/// Most addresses whose flows are being cut at once.
pub const CUT_CAPACITY: u32 = 16_384;
/// The named counters of the table, as metrics show them.
const COUNTERS: [&str; 4] = ["allowed", "established", "denied", "dns_bypass"];
/// Every chain that any mode has.
const CHAINS: [&str; 7] =
    ["deny", "output", "forward", "dns_redirect", "dns_local", "dns_local_source", applications::CHAIN];
/// Behind the host's own filters, so that what they drop is not counted here.
pub(super) const OUTPUT_PRIORITY: i32 = 10;
/// Before the host's own filters, behind destination NAT.
pub(super) const FORWARD_PRIORITY: i32 = -10;
/// Before the host's own destination NAT.
pub(super) const REDIRECT_PRIORITY: i32 = -110;

/// What the ruleset is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The hooks that are guarded (`nftables.mode`).
    pub mode: NftablesMode,
    /// false = audit.
    pub enforce: bool,
    /// Whom a lease opens for.
    pub scope: Scope,
    /// [`Scope::Client`]: so many bits of IPv6 addresses tell clients apart.
    pub client_ipv6_prefix: u8,
    /// Whether leases can be for single ports.
    pub ports: bool,
    /// Interfaces whose hosts are guarded.
    pub inside: Vec<String>,
    /// Bridges of containers, likewise; patterns.
    pub bridges: Vec<String>,
    /// Send foreign port 53 here.
    pub redirect_dns: bool,
    /// Services that are judged otherwise than by leases.
    pub special: Special,
    /// Prefixes that are open without a lease (`addresses.open`).
    pub open: Vec<IpNet>,
    /// What the guard itself must reach.
    pub own: Vec<OwnTraffic>,
    /// The ports that it answers from.
    pub listeners: Vec<(Transport, u16)>,
    /// The most leases of a set (`lease.capacity`).
    pub capacity: usize,
    /// local: those that addresses are open for alone.
    pub applications: Vec<Application>,
    /// What this kernel can't do.
    pub without: Vec<Feature>,
}

impl Settings {
    /// Of what every packet filter is given, on a kernel that can do all of it.
    pub(in crate::enforce) fn of(rules: &Rules) -> Self {
        Self {
            mode: rules.config.mode,
            enforce: rules.config.enforce,
            scope: rules.config.scope,
            client_ipv6_prefix: rules.config.client_ipv6_prefix,
            ports: rules.ports,
            inside: rules.config.inside.clone(),
            bridges: rules.config.bridges.clone(),
            redirect_dns: rules.config.redirect_dns,
            special: rules.special.clone(),
            open: rules.open.clone(),
            own: rules.own.traffic.clone(),
            listeners: rules.own.listeners.clone(),
            capacity: rules.capacity,
            applications: Application::all(&rules.config.application),
            without: Vec::new(),
        }
    }

    /// Of a ruleset that knows nothing yet.
    #[must_use]
    pub fn nothing(mode: NftablesMode) -> Self {
        Self {
            mode,
            enforce: true,
            scope: Scope::Shared,
            client_ipv6_prefix: WHOLE_IPV6,
            ports: false,
            inside: Vec::new(),
            bridges: Vec::new(),
            redirect_dns: false,
            special: Special::default(),
            open: Vec::new(),
            own: Vec::new(),
            listeners: Vec::new(),
            capacity: 0,
            applications: Vec::new(),
            without: Vec::new(),
        }
    }

    pub(super) fn local(&self) -> bool {
        matches!(self.mode, NftablesMode::Local | NftablesMode::Both)
    }

    pub(super) fn gateway(&self) -> bool {
        matches!(self.mode, NftablesMode::Gateway | NftablesMode::Both)
    }

    /// Whether something is guarded that this host forwards.
    pub(super) fn forwards(&self) -> bool {
        self.gateway() || self.mode == NftablesMode::Local && !self.bridges.is_empty()
    }

    /// Room in a lease set: expired elements count until the kernel collects them, a second or two later.
    pub(super) fn size(&self) -> u32 {
        let size = self.capacity.saturating_add(self.capacity / 4).saturating_add(1024);
        u32::try_from(size).unwrap_or(u32::MAX)
    }
}

/// These addresses and the port that a packet goes to are in a set.
fn with_port(mut fields: Vec<Expression<'static>>, set: &'static str) -> Statement<'static> {
    fields.extend([meta(MetaKey::L4proto), field("th", "dport")]);
    is(Expression::Named(NamedExpression::Concat(fields)), word(set))
}

/// The ruleset of some settings.
#[derive(Clone, Debug)]
pub struct Ruleset {
    /// Chains to be there, no others.
    pub chains: Vec<Chain<'static>>,
    /// Sets to be there, no others.
    pub sets: Vec<Set<'static>>,
    /// Whether packets between ports of a bridge are marked.
    bridge: bool,
    /// Sets of other settings, to be removed.
    unused: Vec<Set<'static>>,
    /// Elements of the static sets.
    elements: Vec<Element<'static>>,
    /// Rules in order; each bears a comment that is unique in its chain.
    pub rules: Vec<Rule<'static>>,
}

/// One transaction that has the kernel keep a list of flows, and refuses nothing. [`Ruleset::replacing`] ends it.
#[must_use]
pub fn tracking() -> Nftables<'static> {
    let table = || NfListObject::Table(Table { family: NfFamily::INet, name: TRACKING.into(), handle: None });
    let chain = Chain { table: TRACKING.into(), ..bare_chain("track") };
    let rule = Rule {
        family: NfFamily::INet,
        table: TRACKING.into(),
        chain: "track".into(),
        expr: vec![within(ct("state"), &["established"]), accept()].into(),
        handle: None,
        index: None,
        comment: None,
    };
    let list = [table(), NfListObject::Chain(chain), NfListObject::Rule(rule)];
    Nftables { objects: list.into_iter().map(add).collect::<Vec<_>>().into() }
}

/// Ends [`tracking`], whether it was begun or not.
fn no_tracking() -> [NfObject<'static>; 2] {
    let table = || NfListObject::Table(Table { family: NfFamily::INet, name: TRACKING.into(), handle: None });
    [add(table()), NfObject::CmdObject(NfCmd::Delete(table()))]
}

impl Ruleset {
    /// Builds the ruleset of these settings, as the kernel is to hold it.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        let mut ruleset = Self {
            chains: vec![Chain {
                family: NfFamily::INet,
                table: TABLE.into(),
                name: "deny".into(),
                ..Chain::default()
            }],
            sets: Vec::new(),
            bridge: settings.forwards() && !settings.without.contains(&Feature::Bridge),
            unused: Vec::new(),
            elements: Vec::new(),
            rules: Vec::new(),
        };
        ruleset.declare_sets(settings);
        ruleset.deny_chain(settings);
        if settings.local() {
            ruleset.output_chain(settings);
        }
        if settings.forwards() {
            ruleset.forward_chain(settings);
        }
        if settings.forwards() && settings.redirect_dns {
            ruleset.redirect_chain(settings);
        }
        if settings.local() && settings.redirect_dns {
            ruleset.local_redirect(settings);
        }
        ruleset
    }

    /// One transaction that puts this ruleset in the place of whatever rules the table holds and keeps the elements of
    /// the lease sets. Fails where a set or chain of the same name has another type.
    #[must_use]
    pub fn replacing(&self) -> Nftables<'static> {
        let mut objects = vec![add(table())];
        // Naming every chain once makes it certain to exist, so that flushing and deleting it can't fail.
        for name in CHAINS {
            match self.chains.iter().find(|chain| chain.name == name) {
                Some(chain) => objects.push(add(NfListObject::Chain(chain.clone()))),
                None => objects.push(add(NfListObject::Chain(bare_chain(name)))),
            }
        }
        // Its rules are another's: see [`applications::write`].
        let stays = |name: &str| name == applications::CHAIN && self.chains.iter().any(|chain| chain.name == name);
        for name in CHAINS.into_iter().filter(|name| !stays(name)) {
            objects.push(NfObject::CmdObject(NfCmd::Flush(FlushObject::Chain(bare_chain(name)))));
        }
        for name in CHAINS {
            if !self.chains.iter().any(|chain| chain.name == name) {
                objects.push(NfObject::CmdObject(NfCmd::Delete(NfListObject::Chain(bare_chain(name)))));
            }
        }
        for set in &self.unused {
            objects.push(add(NfListObject::Set(Box::new(set.clone()))));
            objects.push(NfObject::CmdObject(NfCmd::Delete(NfListObject::Set(Box::new(set.clone())))));
        }
        self.fill(&mut objects);
        objects.extend(no_tracking());
        self.mark_bridged(&mut objects);
        Nftables { objects: objects.into() }
    }

    /// Adds to a transaction of this ruleset that connections from before are found for [`ADOPT`].
    pub fn adopting(&self, transaction: &mut Nftables<'static>) {
        if !self.sets.iter().any(|set| set.name == "adopt") {
            return;
        }
        let timeout = u32::try_from(ADOPT.as_secs()).ok();
        let tcp = Elem { val: Box::new(number(TCP)), timeout, ..Elem::default() };
        transaction.objects.to_mut().push(add(NfListObject::Element(Element {
            family: NfFamily::INet,
            table: TABLE.into(),
            name: "adopt".into(),
            elem: vec![Expression::Named(NamedExpression::Elem(tcp))].into(),
        })));
    }

    /// One transaction that makes the table anew, without any element. For a table that another version has left.
    #[must_use]
    pub fn recreating(&self) -> Nftables<'static> {
        let mut objects = vec![add(table()), NfObject::CmdObject(NfCmd::Delete(table())), add(table())];
        objects.extend(self.chains.iter().map(|chain| add(NfListObject::Chain(chain.clone()))));
        self.fill(&mut objects);
        objects.extend(no_tracking());
        self.mark_bridged(&mut objects);
        Nftables { objects: objects.into() }
    }

    fn mark_bridged(&self, objects: &mut Vec<NfObject<'static>>) {
        if self.bridge {
            mark_ports(objects, TABLE);
        }
    }

    /// Counters, sets, their static elements, rules.
    fn fill(&self, objects: &mut Vec<NfObject<'static>>) {
        for name in COUNTERS {
            objects.push(add(NfListObject::Counter(Counter {
                family: NfFamily::INet,
                table: TABLE.into(),
                name: name.into(),
                ..Counter::default()
            })));
        }
        for set in &self.sets {
            objects.push(add(NfListObject::Set(Box::new(set.clone()))));
            if !set.flags.as_ref().is_some_and(|flags| flags.contains(&SetFlag::Timeout)) {
                objects.push(NfObject::CmdObject(NfCmd::Flush(FlushObject::Set(Box::new(set.clone())))));
            }
        }
        objects.extend(self.elements.iter().map(|element| add(NfListObject::Element(element.clone()))));
        objects.extend(self.rules.iter().map(|rule| add(NfListObject::Rule(rule.clone()))));
    }

    fn declare_sets(&mut self, settings: &Settings) {
        let size = settings.size();
        self.sets.push(timed("lease4", &[SetType::Ipv4Addr], size));
        self.sets.push(timed("lease6", &[SetType::Ipv6Addr], size));
        let pairs = [
            timed("client_lease4", &[SetType::Ipv4Addr, SetType::Ipv4Addr], size),
            timed("client_lease6", &[SetType::Ipv6Addr, SetType::Ipv6Addr], size),
        ];
        match settings.scope {
            Scope::Client => self.sets.extend(pairs),
            Scope::Shared => self.unused.extend(pairs),
        }
        let port = [SetType::InetProto, SetType::InetService];
        let with_port = |name, addresses: &[SetType]| timed(name, &[addresses, &port].concat(), size);
        let ports = [with_port("port_lease4", &[SetType::Ipv4Addr]), with_port("port_lease6", &[SetType::Ipv6Addr])];
        let client_ports = [
            with_port("client_port_lease4", &[SetType::Ipv4Addr, SetType::Ipv4Addr]),
            with_port("client_port_lease6", &[SetType::Ipv6Addr, SetType::Ipv6Addr]),
        ];
        if settings.ports {
            self.sets.extend(ports)
        } else {
            self.unused.extend(ports)
        }
        if settings.ports && settings.scope == Scope::Client {
            self.sets.extend(client_ports);
        } else {
            self.unused.extend(client_ports);
        }
        self.sets.push(timed("cut4", &[SetType::Ipv4Addr], CUT_CAPACITY));
        self.sets.push(timed("cut6", &[SetType::Ipv6Addr], CUT_CAPACITY));

        let (open4, open6): (Vec<_>, Vec<_>) =
            IpNet::aggregate(&settings.open).into_iter().partition(|net| matches!(net, IpNet::V4(_)));
        for (name, kind, nets) in [("open4", SetType::Ipv4Addr, open4), ("open6", SetType::Ipv6Addr, open6)] {
            let mut set = plain(name, &[kind]);
            set.flags = Some(HashSet::from([SetFlag::Interval]));
            self.constant(set, nets.into_iter().map(prefix).collect());
        }

        let mut own = settings.own.clone();
        own.sort_unstable();
        own.dedup();
        let (own4, own6): (Vec<_>, Vec<_>) = own.into_iter().partition(|own| own.address.is_ipv4());
        for (name, kind, list) in [("own4", SetType::Ipv4Addr, own4), ("own6", SetType::Ipv6Addr, own6)] {
            let set = plain(name, &[kind, SetType::InetProto, SetType::InetService]);
            self.constant(set, list.into_iter().map(own_element).collect());
        }

        self.doh_sets(settings);

        let mut inside = settings.inside.clone();
        inside.sort_unstable();
        inside.dedup();
        let bridges = inside
            .iter()
            .map(|name| {
                let name = || Expression::String(name.clone().into());
                Expression::Named(NamedExpression::Concat(vec![name(), name()]))
            })
            .collect();
        let inside_set = plain("inside", &[SetType::Ifname]);
        if settings.forwards() {
            self.constant(inside_set, inside.into_iter().map(|name| Expression::String(name.into())).collect());
        } else {
            self.unused.push(inside_set);
        }
        let mut listeners = settings.listeners.clone();
        listeners.retain(|(_, port)| *port != 0);
        listeners.sort_unstable();
        listeners.dedup();
        let own_ports = plain("own_ports", &[SetType::InetProto, SetType::InetService]);
        self.constant(own_ports, listeners.into_iter().map(listener_element).collect());

        let one_bridge = plain("one_bridge", &[SetType::Ifname, SetType::Ifname]);
        if self.bridge {
            self.constant(one_bridge, bridges);
        } else {
            self.unused.push(one_bridge);
        }
        let adopt = timed("adopt", &[SetType::InetProto], 8);
        if settings.forwards() { self.sets.push(adopt) } else { self.unused.push(adopt) }
    }

    fn constant(&mut self, set: Set<'static>, elements: Vec<Expression<'static>>) {
        if !elements.is_empty() {
            self.elements.push(Element {
                family: NfFamily::INet,
                table: TABLE.into(),
                name: set.name.clone(),
                elem: elements.into(),
            });
        }
        self.sets.push(set);
    }

    fn deny_chain(&mut self, settings: &Settings) {
        self.rule("deny", "count", vec![counted("denied")]);
        if !settings.without.contains(&Feature::Log) {
            self.rule("deny", "log", log_some());
        }
        if settings.enforce {
            let reset = Reject::new(Some(RejectType::TCPReset), None);
            self.rule("deny", "reset", vec![is(meta(MetaKey::L4proto), number(TCP)), Statement::Reject(Some(reset))]);
            self.rule("deny", "prohibit", vec![prohibit()]);
        } else {
            self.rule("deny", "audit", vec![accept()]);
        }
    }

    fn output_chain(&mut self, settings: &Settings) {
        let chain = "output";
        self.chains.push(base(chain, NfChainType::Filter, NfHook::Output, OUTPUT_PRIORITY, policy(settings.enforce)));
        let marked = || is(meta(MetaKey::Mark), Expression::Number(crate::sys::MARK));
        self.rule(chain, "loopback", vec![is(meta(MetaKey::Oifname), word("lo")), accept()]);
        for (comment, protocol, set) in [("own4", "ip", "@own4"), ("own6", "ip6", "@own6")] {
            let destination = Expression::Named(NamedExpression::Concat(vec![
                field(protocol, "daddr"),
                meta(MetaKey::L4proto),
                field("th", "dport"),
            ]));
            self.rule(chain, comment, vec![marked(), is(destination, word(set)), accept()]);
        }
        let from = Expression::Named(NamedExpression::Concat(vec![meta(MetaKey::L4proto), field("th", "sport")]));
        self.rule(chain, "own_replies", vec![marked(), is(from, word("@own_ports")), accept()]);
        self.judged_rule(chain, settings.enforce);
        if settings.redirect_dns {
            self.redirected_rule(chain);
        }
        self.cut_rules(chain);
        self.flow_rules(chain, settings.enforce);
        // Neighbour discovery and MLD have no flows; their hop limit shows that they stay on the link.
        let kinds = [
            "nd-neighbor-solicit",
            "nd-neighbor-advert",
            "nd-router-solicit",
            "nd-router-advert",
            "nd-redirect",
            "mld-listener-query",
            "mld-listener-report",
            "mld-listener-done",
            "mld2-listener-report",
        ];
        self.rule(
            chain,
            "neighbours",
            vec![
                is(field("icmpv6", "type"), set_of(kinds.into_iter().map(word))),
                is(field("ip6", "hoplimit"), set_of([1, 255].into_iter().map(Expression::Number))),
                accept(),
            ],
        );
        self.rule(chain, "igmp", vec![is(meta(MetaKey::L4proto), number(IGMP)), accept()]);
        self.rule(
            chain,
            "dhcp4",
            vec![is(field("udp", "sport"), number(68)), is(field("udp", "dport"), number(67)), is_ipv4(), accept()],
        );
        self.rule(
            chain,
            "dhcp6",
            vec![is(field("udp", "sport"), number(546)), is(field("udp", "dport"), number(547)), is_ipv6(), accept()],
        );
        // The end of a flow that conntrack has forgotten: harmless, and the peer waits for it.
        self.rule(
            chain,
            "invalid_end",
            vec![within(ct("state"), &["invalid"]), within(field("tcp", "flags"), &["fin", "rst"]), accept()],
        );
        self.invalid_rule(chain, settings.enforce);
        self.discovery_rules(chain, settings);
        self.reach_bridges(chain, settings, Vec::new);
        self.open_rules(chain);
        self.lease_rules(chain, settings.ports);
        if !settings.applications.is_empty() {
            self.chains.push(bare_chain(applications::CHAIN));
            self.rule(chain, "applications", vec![jump(applications::CHAIN)]);
        }
        self.rule(chain, "deny", vec![jump("deny")]);
    }

    fn forward_chain(&mut self, settings: &Settings) {
        let chain = "forward";
        self.chains.push(base(chain, NfChainType::Filter, NfHook::Forward, FORWARD_PRIORITY, policy(settings.enforce)));
        self.rule(chain, "not_inside", bridges::not_inside(settings));
        self.judged_rule(chain, settings.enforce);
        if self.bridge {
            self.bridged_rules(chain, settings);
        }
        self.cut_rules(chain);
        self.flow_rules(chain, settings.enforce);
        let no_syn = Expression::BinaryOperation(Box::new(BinaryOperation::AND(field("tcp", "flags"), word("syn"))));
        let unknown = within(ct("state"), &["new", "invalid"]);
        self.rule(
            chain,
            "adopt",
            vec![
                is(meta(MetaKey::L4proto), word("@adopt")),
                is(no_syn, number(0)),
                unknown,
                counted("established"),
                accept(),
            ],
        );
        self.invalid_rule(chain, settings.enforce);
        // Ports that containers publish: only this host's own rules translate so.
        self.reach_bridges(chain, settings, || vec![within(ct("status"), &["dnat"])]);
        self.open_rules(chain);
        match settings.scope {
            Scope::Shared => self.lease_rules(chain, settings.ports),
            Scope::Client => {
                for (comment, protocol, set) in
                    [("lease4", "ip", "@client_lease4"), ("lease6", "ip6", "@client_lease6")]
                {
                    let pair = Expression::Named(NamedExpression::Concat(vec![
                        client_of(protocol, settings.client_ipv6_prefix),
                        field(protocol, "daddr"),
                    ]));
                    self.rule(chain, comment, vec![is(pair, word(set)), counted("allowed"), accept()]);
                }
                let sets = [("port4", "ip", "@client_port_lease4"), ("port6", "ip6", "@client_port_lease6")];
                for (comment, protocol, set) in sets.into_iter().filter(|_| settings.ports) {
                    let client = client_of(protocol, settings.client_ipv6_prefix);
                    let addresses = vec![client, field(protocol, "daddr")];
                    self.rule(chain, comment, vec![with_port(addresses, set), counted("allowed"), accept()]);
                }
            }
        }
        self.rule(chain, "deny", vec![jump("deny")]);
    }

    /// Before every rule that accepts what the lock has marked.
    fn judged_rule(&mut self, chain: &'static str, enforce: bool) {
        if enforce {
            self.rule(chain, "judged", judged());
        }
    }

    fn cut_rules(&mut self, chain: &'static str) {
        self.rule(chain, "cut4", vec![is(field("ip", "daddr"), word("@cut4")), jump("deny")]);
        self.rule(chain, "cut6", vec![is(field("ip6", "daddr"), word("@cut6")), jump("deny")]);
    }

    /// What belongs to a flow that the kernel knows; what is DNS elsewhere, known or not. In audit no flow ends: only first
    /// packets are counted.
    fn flow_rules(&mut self, chain: &'static str, enforce: bool) {
        if enforce {
            let mut replies = vec![
                tcp_or_udp(),
                is(ct("direction"), word("reply")),
                within(ct("state"), &["established"]),
                counted("established"),
                accept(),
            ];
            if chain == "forward" {
                // What was found in its middle may seem to have been begun by the far end. A resolver's client has no server's
                // port. Of this host's own connections it is known who began them.
                let servers = Range { range: [number(0), number(SERVER_PORTS - 1)] };
                replies.insert(1, is(field("th", "sport"), Expression::Range(Box::new(servers))));
            }
            self.rule(chain, "replies", replies);
            self.dns_rule(chain);
        }
        self.rule(
            chain,
            "established",
            vec![within(ct("state"), &["established", "related"]), counted("established"), accept()],
        );
        if !enforce {
            self.dns_rule(chain);
        }
    }

    fn invalid_rule(&mut self, chain: &'static str, enforce: bool) {
        let verdict = if enforce { Statement::Drop(None::<Drop>) } else { accept() };
        self.rule(chain, "invalid", vec![within(ct("state"), &["invalid"]), counted("denied"), verdict]);
    }

    fn dns_rule(&mut self, chain: &'static str) {
        let ports = set_of(RESOLVER_PORTS.into_iter().map(|port| Expression::Number(u32::from(port))));
        self.rule(
            chain,
            "dns_bypass",
            vec![tcp_or_udp(), is(field("th", "dport"), ports), counted("dns_bypass"), jump("deny")],
        );
        self.doh_rules(chain);
    }

    fn open_rules(&mut self, chain: &'static str) {
        self.rule(chain, "open4", vec![is(field("ip", "daddr"), word("@open4")), accept()]);
        self.rule(chain, "open6", vec![is(field("ip6", "daddr"), word("@open6")), accept()]);
    }

    fn lease_rules(&mut self, chain: &'static str, ports: bool) {
        for (comment, protocol, set) in [("lease4", "ip", "@lease4"), ("lease6", "ip6", "@lease6")] {
            self.rule(chain, comment, vec![is(field(protocol, "daddr"), word(set)), counted("allowed"), accept()]);
        }
        let sets = [("port4", "ip", "@port_lease4"), ("port6", "ip6", "@port_lease6")];
        for (comment, protocol, set) in sets.into_iter().filter(|_| ports) {
            let address = vec![field(protocol, "daddr")];
            self.rule(chain, comment, vec![with_port(address, set), counted("allowed"), accept()]);
        }
    }

    fn rule(&mut self, chain: &'static str, comment: impl Into<Cow<'static, str>>, expr: Vec<Statement<'static>>) {
        self.rules.push(Rule {
            family: NfFamily::INet,
            table: TABLE.into(),
            chain: chain.into(),
            expr: expr.into(),
            handle: None,
            index: None,
            comment: Some(comment.into()),
        });
    }
}
