//! The static ruleset: table `inet destguard` as typed objects. Elements of the lease sets are not part of it.
//!
//! ```text
//!   output  (local)    lo, own traffic and replies, [cut], replies, DNS elsewhere, established, ND/MLD/DHCP, invalid, open, leased, else deny
//!   forward (gateway)  not from inside, or between ports of one bridge: none of our business; [cut], replies, DNS elsewhere, established, adopt, invalid, open,
//!                      leased, else deny
//!   dns_redirect       port 53 from inside to anybody but this host comes to this host
//!   deny               count, log a few to NFLOG group 4242, TCP reset or ICMP "prohibited"; in audit: count, log, accept
//! ```
//!
//! DNS elsewhere (53, 853) is denied before the lease sets are looked at: an address that was leased as a web server
//! must not become a second resolver. It is denied before "established", so that flows to other resolvers from before the
//! start end, too; only replies to what others began pass before, since a server's client may use port 53 for its own end.
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
use std::net::IpAddr;
use std::time::Duration;

use ::nftables::expr::{
    BinaryOperation, CT, Elem, Expression, Fib, FibFlag, FibResult, Meta, MetaKey, NamedExpression, Payload,
    PayloadField, Prefix, SetItem,
};
use ::nftables::schema::{
    Chain, Counter, Element, FlushObject, NfCmd, NfListObject, NfObject, Nftables, Rule, Set, SetFlag, SetType,
    SetTypeValue, Table,
};
use ::nftables::stmt::{
    self, Accept, Drop, JumpTarget, Limit, Log, Mangle, Match, NAT, Operator, Reject, RejectType, Statement,
};
use ::nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook, RejectCode};
use ipnet::IpNet;

use super::needs::Feature;
use super::{OwnTraffic, TABLE, Transport};
use crate::config::schema::{NftablesMode, Scope};

/// NFLOG group in which denied packets are seen.
pub const LOG_GROUP: u32 = 4242;
/// Ports of resolvers: in the clear, over TLS and over QUIC.
pub const RESOLVER_PORTS: [u16; 2] = [53, 853];
/// A table that is there only while the guard is armed for the first time.
const TRACKING: &str = "destguard_arming";
/// How long a gateway finds connections from before its first installation. Keep-alives of applications are more frequent.
pub const ADOPT: Duration = Duration::from_secs(300);
/// Most addresses whose flows are being cut at once.
pub const CUT_CAPACITY: u32 = 16_384;
/// On packets between ports of a bridge, while they pass the forward hook.
const BRIDGED: u32 = 0x8000_0000;
/// br_netfilter calls the forward hook at -1 of the bridge's own.
const BEFORE_FORWARD: i32 = -10;
const BEHIND_FORWARD: i32 = 10;
/// Named counters.
const COUNTERS: [&str; 4] = ["allowed", "established", "denied", "dns_bypass"];
/// Every chain that any mode has.
const CHAINS: [&str; 4] = ["deny", "output", "forward", "dns_redirect"];
/// Behind the host's own filters, so that what they drop is not counted here.
const OUTPUT_PRIORITY: i32 = 10;
/// Before the host's own filters, behind destination NAT.
const FORWARD_PRIORITY: i32 = -10;
/// Before the host's own destination NAT.
const REDIRECT_PRIORITY: i32 = -110;

/// What the ruleset is made of.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which hooks.
    pub mode: NftablesMode,
    /// false = audit.
    pub enforce: bool,
    /// Whom a lease opens for.
    pub scope: Scope,
    /// Interfaces whose hosts are guarded.
    pub inside: Vec<String>,
    /// Send foreign port 53 here.
    pub redirect_dns: bool,
    /// `addresses.open`
    pub open: Vec<IpNet>,
    /// What the guard itself must reach.
    pub own: Vec<OwnTraffic>,
    /// The ports that it answers from.
    pub listeners: Vec<(Transport, u16)>,
    /// Most leases.
    pub capacity: usize,
    /// What this kernel can't do.
    pub without: Vec<Feature>,
}

impl Settings {
    /// Of a ruleset that knows nothing yet.
    #[must_use]
    pub fn nothing(mode: NftablesMode) -> Self {
        Self {
            mode,
            enforce: true,
            scope: Scope::Shared,
            inside: Vec::new(),
            redirect_dns: false,
            open: Vec::new(),
            own: Vec::new(),
            listeners: Vec::new(),
            capacity: 0,
            without: Vec::new(),
        }
    }

    pub(super) fn local(&self) -> bool {
        matches!(self.mode, NftablesMode::Local | NftablesMode::Both)
    }

    pub(super) fn gateway(&self) -> bool {
        matches!(self.mode, NftablesMode::Gateway | NftablesMode::Both)
    }

    /// Room in a lease set: expired elements count until the kernel collects them, a second or two later.
    fn size(&self) -> u32 {
        let size = self.capacity.saturating_add(self.capacity / 4).saturating_add(1024);
        u32::try_from(size).unwrap_or(u32::MAX)
    }
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
    /// Builds it.
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
            bridge: settings.gateway() && !settings.without.contains(&Feature::Bridge),
            unused: Vec::new(),
            elements: Vec::new(),
            rules: Vec::new(),
        };
        ruleset.declare_sets(settings);
        ruleset.deny_chain(settings);
        if settings.local() {
            ruleset.output_chain(settings);
        }
        if settings.gateway() {
            ruleset.forward_chain(settings);
        }
        if settings.gateway() && settings.redirect_dns {
            ruleset.redirect_chain();
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
        for name in CHAINS {
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
        let tcp = Elem { val: Box::new(word("tcp")), timeout, ..Elem::default() };
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
        if settings.gateway() {
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
        if settings.gateway() { self.sets.push(adopt) } else { self.unused.push(adopt) }
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
            self.rule("deny", "reset", vec![is(meta(MetaKey::L4proto), word("tcp")), Statement::Reject(Some(reset))]);
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
        self.rule(chain, "igmp", vec![is(meta(MetaKey::L4proto), word("igmp")), accept()]);
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
        self.open_rules(chain);
        self.lease_rules(chain);
        self.rule(chain, "deny", vec![jump("deny")]);
    }

    fn forward_chain(&mut self, settings: &Settings) {
        let chain = "forward";
        self.chains.push(base(chain, NfChainType::Filter, NfHook::Forward, FORWARD_PRIORITY, policy(settings.enforce)));
        self.rule(chain, "not_inside", vec![compare(Operator::NEQ, meta(MetaKey::Iifname), word("@inside")), accept()]);
        if self.bridge {
            let marked =
                Expression::BinaryOperation(Box::new(BinaryOperation::AND(meta(MetaKey::Mark), number(BRIDGED))));
            let ends = vec![meta(MetaKey::Iifname), meta(MetaKey::Oifname)];
            let same = is(Expression::Named(NamedExpression::Concat(ends)), word("@one_bridge"));
            self.rule(chain, "bridged", vec![same, compare(Operator::NEQ, marked, number(0)), accept()]);
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
        self.open_rules(chain);
        match settings.scope {
            Scope::Shared => self.lease_rules(chain),
            Scope::Client => {
                for (comment, protocol, set) in
                    [("lease4", "ip", "@client_lease4"), ("lease6", "ip6", "@client_lease6")]
                {
                    let pair = Expression::Named(NamedExpression::Concat(vec![
                        field(protocol, "saddr"),
                        field(protocol, "daddr"),
                    ]));
                    self.rule(chain, comment, vec![is(pair, word(set)), counted("allowed"), accept()]);
                }
            }
        }
        self.rule(chain, "deny", vec![jump("deny")]);
    }

    fn redirect_chain(&mut self) {
        let chain = "dns_redirect";
        self.chains.push(base(chain, NfChainType::NAT, NfHook::Prerouting, REDIRECT_PRIORITY, NfChainPolicy::Accept));
        let mut rule = vec![is(meta(MetaKey::Iifname), word("@inside"))];
        rule.extend(to_this_host());
        self.rule(chain, "redirect", rule);
    }

    fn cut_rules(&mut self, chain: &'static str) {
        self.rule(chain, "cut4", vec![is(field("ip", "daddr"), word("@cut4")), jump("deny")]);
        self.rule(chain, "cut6", vec![is(field("ip6", "daddr"), word("@cut6")), jump("deny")]);
    }

    /// What belongs to a flow that the kernel knows; what is DNS elsewhere, known or not. In audit no flow ends: only first
    /// packets are counted.
    fn flow_rules(&mut self, chain: &'static str, enforce: bool) {
        if enforce {
            self.rule(
                chain,
                "replies",
                vec![
                    is(ct("direction"), word("reply")),
                    within(ct("state"), &["established", "related"]),
                    counted("established"),
                    accept(),
                ],
            );
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
    }

    fn open_rules(&mut self, chain: &'static str) {
        self.rule(chain, "open4", vec![is(field("ip", "daddr"), word("@open4")), accept()]);
        self.rule(chain, "open6", vec![is(field("ip6", "daddr"), word("@open6")), accept()]);
    }

    fn lease_rules(&mut self, chain: &'static str) {
        for (comment, protocol, set) in [("lease4", "ip", "@lease4"), ("lease6", "ip6", "@lease6")] {
            self.rule(chain, comment, vec![is(field(protocol, "daddr"), word(set)), counted("allowed"), accept()]);
        }
    }

    fn rule(&mut self, chain: &'static str, comment: &'static str, expr: Vec<Statement<'static>>) {
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

/// A few packets a second.
fn log_some() -> Vec<Statement<'static>> {
    let log = Log {
        prefix: Some("destguard-deny ".into()),
        group: Some(LOG_GROUP),
        snaplen: Some(96),
        queue_threshold: Some(1),
        level: None,
        flags: None,
    };
    let limit =
        Limit { rate: 50, rate_unit: None, per: Some("second".into()), burst: Some(100), burst_unit: None, inv: None };
    vec![Statement::Limit(limit), Statement::Log(Some(log))]
}

fn prohibit() -> Statement<'static> {
    Statement::Reject(Some(Reject::new(Some(RejectType::ICMPX), Some(RejectCode::AdminProhibited))))
}

fn to_this_host() -> Vec<Statement<'static>> {
    let kind_of_destination = Expression::Named(NamedExpression::Fib(Fib {
        result: FibResult::Type,
        flags: HashSet::from([FibFlag::Daddr]),
    }));
    let here = NAT { addr: None, family: None, port: Some(number(53)), flags: None };
    vec![
        tcp_or_udp(),
        is(field("th", "dport"), number(53)),
        compare(Operator::NEQ, kind_of_destination, word("local")),
        Statement::Redirect(Some(here)),
    ]
}

/// What the ruleset of some settings can't do without: its name, and a small ruleset that needs it.
pub fn needed(settings: &Settings) -> Vec<(&'static str, Nftables<'static>)> {
    let mut needed = vec![
        ("nf_tables for IPv4 and IPv6 (nf_tables, CONFIG_NF_TABLES_INET)", sample(None, vec![accept()])),
        (
            "connection tracking (nf_conntrack, nft_ct)",
            sample(None, vec![within(ct("state"), &["established"]), accept()]),
        ),
    ];
    if settings.enforce {
        needed.push(("refusal of packets (nft_reject_inet)", sample(None, vec![prohibit()])));
    }
    if settings.gateway() && settings.redirect_dns {
        let chain = base("probe", NfChainType::NAT, NfHook::Prerouting, REDIRECT_PRIORITY, NfChainPolicy::Accept);
        needed.push((
            "redirection, for nftables.redirect_dns (nft_chain_nat, nft_redir, nft_fib_inet)",
            sample(Some(chain), to_this_host()),
        ));
    }
    needed
}

/// What it can do without.
pub fn wanted(settings: &Settings) -> Vec<(Feature, Nftables<'static>)> {
    let mut wanted = vec![(Feature::Log, sample(None, log_some()))];
    if settings.gateway() {
        let mut objects = Vec::new();
        mark_ports(&mut objects, PROBE);
        wanted.push((Feature::Bridge, Nftables { objects: objects.into() }));
    }
    wanted
}

/// A table that is only ever checked.
const PROBE: &str = "destguard_sample";

fn sample(chain: Option<Chain<'static>>, expr: Vec<Statement<'static>>) -> Nftables<'static> {
    let chain = Chain { table: PROBE.into(), ..chain.unwrap_or_else(|| bare_chain("probe")) };
    let rule = Rule {
        family: NfFamily::INet,
        table: PROBE.into(),
        chain: "probe".into(),
        expr: expr.into(),
        handle: None,
        index: None,
        comment: None,
    };
    let table = Table { family: NfFamily::INet, name: PROBE.into(), handle: None };
    let list = [NfListObject::Table(table), NfListObject::Chain(chain), NfListObject::Rule(rule)];
    Nftables { objects: list.into_iter().map(add).collect::<Vec<_>>().into() }
}

/// Has the packets between ports of each bridge bear [`BRIDGED`] at the forward hook.
fn mark_ports(objects: &mut Vec<NfObject<'static>>, table: &'static str) {
    objects.push(add(bridge_table(table)));
    let mark = || meta(MetaKey::Mark);
    let with = BinaryOperation::OR(vec![mark(), number(BRIDGED)]);
    let without = BinaryOperation::AND(mark(), number(!BRIDGED));
    for (name, priority, value) in [("bridged", BEFORE_FORWARD, with), ("passed", BEHIND_FORWARD, without)] {
        let chain = Chain {
            family: NfFamily::Bridge,
            table: table.into(),
            ..base(name, NfChainType::Filter, NfHook::Forward, priority, NfChainPolicy::Accept)
        };
        let flushed = Chain { family: NfFamily::Bridge, table: table.into(), ..bare_chain(name) };
        objects.push(add(NfListObject::Chain(chain)));
        objects.push(NfObject::CmdObject(NfCmd::Flush(FlushObject::Chain(flushed))));
        let set = Mangle { key: mark(), value: Expression::BinaryOperation(Box::new(value)) };
        objects.push(add(NfListObject::Rule(Rule {
            family: NfFamily::Bridge,
            table: table.into(),
            chain: name.into(),
            expr: vec![Statement::Mangle(set)].into(),
            handle: None,
            index: None,
            comment: Some(name.into()),
        })));
    }
}

fn bridge_table(name: &'static str) -> NfListObject<'static> {
    NfListObject::Table(Table { family: NfFamily::Bridge, name: name.into(), handle: None })
}

fn add(object: NfListObject<'static>) -> NfObject<'static> {
    NfObject::CmdObject(NfCmd::Add(object))
}

fn table() -> NfListObject<'static> {
    NfListObject::Table(Table { family: NfFamily::INet, name: TABLE.into(), handle: None })
}

fn bare_chain(name: &'static str) -> Chain<'static> {
    Chain { family: NfFamily::INet, table: TABLE.into(), name: name.into(), ..Chain::default() }
}

fn base(name: &'static str, kind: NfChainType, hook: NfHook, priority: i32, policy: NfChainPolicy) -> Chain<'static> {
    Chain { _type: Some(kind), hook: Some(hook), prio: Some(priority), policy: Some(policy), ..bare_chain(name) }
}

fn policy(enforce: bool) -> NfChainPolicy {
    if enforce { NfChainPolicy::Drop } else { NfChainPolicy::Accept }
}

fn plain(name: &'static str, types: &[SetType]) -> Set<'static> {
    let set_type = match types {
        [one] => SetTypeValue::Single(*one),
        several => SetTypeValue::Concatenated(Cow::Owned(several.to_vec())),
    };
    Set { family: NfFamily::INet, table: TABLE.into(), name: name.into(), set_type, ..Set::default() }
}

fn timed(name: &'static str, types: &[SetType], size: u32) -> Set<'static> {
    Set { flags: Some(HashSet::from([SetFlag::Timeout])), size: Some(size), ..plain(name, types) }
}

fn prefix(net: IpNet) -> Expression<'static> {
    let address = Expression::String(net.network().to_string().into());
    if net.prefix_len() == net.max_prefix_len() {
        return address;
    }
    Expression::Named(NamedExpression::Prefix(Prefix { addr: Box::new(address), len: u32::from(net.prefix_len()) }))
}

fn listener_element((transport, port): (Transport, u16)) -> Expression<'static> {
    Expression::Named(NamedExpression::Concat(vec![word(transport_name(transport)), number(u32::from(port))]))
}

fn transport_name(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    }
}

fn own_element(own: OwnTraffic) -> Expression<'static> {
    let address = match own.address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => address.to_string(),
    };
    Expression::Named(NamedExpression::Concat(vec![
        Expression::String(address.into()),
        word(transport_name(own.transport)),
        Expression::Number(u32::from(own.port)),
    ]))
}

fn word(text: &'static str) -> Expression<'static> {
    Expression::String(text.into())
}

fn number(value: u32) -> Expression<'static> {
    Expression::Number(value)
}

fn set_of(items: impl Iterator<Item = Expression<'static>>) -> Expression<'static> {
    Expression::Named(NamedExpression::Set(items.map(SetItem::Element).collect()))
}

fn meta(key: MetaKey) -> Expression<'static> {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

fn ct(key: &'static str) -> Expression<'static> {
    Expression::Named(NamedExpression::CT(CT { key: key.into(), family: None, dir: None }))
}

fn field(protocol: &'static str, field: &'static str) -> Expression<'static> {
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(PayloadField {
        protocol: protocol.into(),
        field: field.into(),
    })))
}

fn compare(op: Operator, left: Expression<'static>, right: Expression<'static>) -> Statement<'static> {
    Statement::Match(Match { left, right, op })
}

fn is(left: Expression<'static>, right: Expression<'static>) -> Statement<'static> {
    compare(Operator::EQ, left, right)
}

/// Any of these flags.
fn within(left: Expression<'static>, flags: &[&'static str]) -> Statement<'static> {
    compare(Operator::IN, left, Expression::List(flags.iter().map(|flag| word(flag)).collect()))
}

fn is_ipv4() -> Statement<'static> {
    is(meta(MetaKey::Nfproto), word("ipv4"))
}

fn is_ipv6() -> Statement<'static> {
    is(meta(MetaKey::Nfproto), word("ipv6"))
}

fn tcp_or_udp() -> Statement<'static> {
    is(meta(MetaKey::L4proto), set_of(["tcp", "udp"].into_iter().map(word)))
}

fn counted(name: &'static str) -> Statement<'static> {
    Statement::Counter(stmt::Counter::Named(name.into()))
}

fn accept() -> Statement<'static> {
    Statement::Accept(None::<Accept>)
}

fn jump(chain: &'static str) -> Statement<'static> {
    Statement::Jump(JumpTarget { target: chain.into() })
}
