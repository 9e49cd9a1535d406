//! The parts that rules are made of.

use std::borrow::Cow;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv6Addr};

use ::nftables::expr::{
    BinaryOperation, CT, Expression, Fib, FibFlag, FibResult, Meta, MetaKey, NamedExpression, Payload, PayloadField,
    Prefix, SetItem,
};
use ::nftables::schema::{
    Chain, FlushObject, NfCmd, NfListObject, NfObject, Rule, Set, SetFlag, SetType, SetTypeValue, Table,
};
use ::nftables::stmt::{
    self, Accept, JumpTarget, Limit, Log, Mangle, Match, NAT, Operator, Reject, RejectType, Statement,
};
use ::nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook, RejectCode};
use ipnet::IpNet;

use super::super::TABLE;
use super::LOG_GROUP;
use crate::config::schema::WHOLE_IPV6;
use crate::core::narrow;
use crate::enforce::rules::{OwnTraffic, Transport};

/// On packets between ports of a bridge, while they pass the forward hook.
pub(in crate::enforce::nftables) const BRIDGED: u32 = 0x8000_0000;
/// On the first packets of flows that our table was not asked about yet: see [`super::super::lock`]. Not a bit of [`crate::sys::MARK`].
pub(in crate::enforce::nftables) const UNJUDGED: u32 = 0x1000_0000;
const _: () = assert!(UNJUDGED & (crate::sys::MARK | BRIDGED) == 0);
/// br_netfilter calls the forward hook at -1 of the bridge's own.
const BEFORE_FORWARD: i32 = -10;
const BEHIND_FORWARD: i32 = 10;

/// A few packets a second.
pub(in crate::enforce::nftables) fn log_some() -> Vec<Statement<'static>> {
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

pub(in crate::enforce::nftables) fn prohibit() -> Statement<'static> {
    Statement::Reject(Some(Reject::new(Some(RejectType::ICMPX), Some(RejectCode::AdminProhibited))))
}

/// Questions for somebody else come to this port of this host.
pub(in crate::enforce::nftables) fn to_this_host(port: u16) -> Vec<Statement<'static>> {
    let here = NAT { addr: None, family: None, port: Some(number(u32::from(port))), flags: None };
    let mut rule = asks_elsewhere();
    rule.push(Statement::Redirect(Some(here)));
    rule
}

/// Questions in the clear for somebody else than this host.
pub(in crate::enforce::nftables) fn asks_elsewhere() -> Vec<Statement<'static>> {
    let destination = way(FibResult::Type);
    vec![tcp_or_udp(), is(field("th", "dport"), number(53)), compare(Operator::NEQ, destination, word("local"))]
}

/// What the kernel's routes say of the destination.
pub(in crate::enforce::nftables) fn way(result: FibResult) -> Expression<'static> {
    Expression::Named(NamedExpression::Fib(Fib { result, flags: HashSet::from([FibFlag::Daddr]) }))
}

/// An interface's name, or the beginning of names: "br-*".
pub(in crate::enforce::nftables) fn named(pattern: &str) -> Expression<'static> {
    Expression::String(pattern.to_owned().into())
}

/// Has the packets between ports of each bridge bear [`BRIDGED`] at the forward hook.
pub(in crate::enforce::nftables) fn mark_ports(objects: &mut Vec<NfObject<'static>>, table: &'static str) {
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

/// Takes [`UNJUDGED`] off.
pub(in crate::enforce::nftables) fn judged() -> Vec<Statement<'static>> {
    let value = Expression::BinaryOperation(Box::new(BinaryOperation::AND(meta(MetaKey::Mark), number(!UNJUDGED))));
    vec![within(ct("state"), &["new"]), Statement::Mangle(Mangle { key: meta(MetaKey::Mark), value })]
}

pub(in crate::enforce::nftables) fn bridge_table(name: &'static str) -> NfListObject<'static> {
    NfListObject::Table(Table { family: NfFamily::Bridge, name: name.into(), handle: None })
}

pub(in crate::enforce::nftables) fn add(object: NfListObject<'static>) -> NfObject<'static> {
    NfObject::CmdObject(NfCmd::Add(object))
}

pub(in crate::enforce::nftables) fn table() -> NfListObject<'static> {
    NfListObject::Table(Table { family: NfFamily::INet, name: TABLE.into(), handle: None })
}

pub(in crate::enforce::nftables) fn bare_chain(name: &'static str) -> Chain<'static> {
    Chain { family: NfFamily::INet, table: TABLE.into(), name: name.into(), ..Chain::default() }
}

pub(in crate::enforce::nftables) fn base(
    name: &'static str,
    kind: NfChainType,
    hook: NfHook,
    priority: i32,
    policy: NfChainPolicy,
) -> Chain<'static> {
    Chain { _type: Some(kind), hook: Some(hook), prio: Some(priority), policy: Some(policy), ..bare_chain(name) }
}

pub(in crate::enforce::nftables) fn policy(enforce: bool) -> NfChainPolicy {
    if enforce { NfChainPolicy::Drop } else { NfChainPolicy::Accept }
}

pub(in crate::enforce::nftables) fn plain(name: &'static str, types: &[SetType]) -> Set<'static> {
    let set_type = match types {
        [one] => SetTypeValue::Single(*one),
        several => SetTypeValue::Concatenated(Cow::Owned(several.to_vec())),
    };
    Set { family: NfFamily::INet, table: TABLE.into(), name: name.into(), set_type, ..Set::default() }
}

pub(in crate::enforce::nftables) fn timed(name: &'static str, types: &[SetType], size: u32) -> Set<'static> {
    Set { flags: Some(HashSet::from([SetFlag::Timeout])), size: Some(size), ..plain(name, types) }
}

pub(in crate::enforce::nftables) fn prefix(net: IpNet) -> Expression<'static> {
    let address = Expression::String(net.network().to_string().into());
    if net.prefix_len() == net.max_prefix_len() {
        return address;
    }
    Expression::Named(NamedExpression::Prefix(Prefix { addr: Box::new(address), len: u32::from(net.prefix_len()) }))
}

pub(in crate::enforce::nftables) fn listener_element((transport, port): (Transport, u16)) -> Expression<'static> {
    Expression::Named(NamedExpression::Concat(vec![transport_number(transport), number(u32::from(port))]))
}

/// As IANA numbers them. `nft` finds their names in `/etc/protocols`, which small hosts and containers lack.
pub(in crate::enforce::nftables) const IGMP: u32 = 2;
pub(in crate::enforce::nftables) const TCP: u32 = 6;
pub(in crate::enforce::nftables) const UDP: u32 = 17;

fn transport_number(transport: Transport) -> Expression<'static> {
    number(match transport {
        Transport::Tcp => TCP,
        Transport::Udp => UDP,
    })
}

pub(in crate::enforce::nftables) fn own_element(own: OwnTraffic) -> Expression<'static> {
    let address = match own.address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => address.to_string(),
    };
    Expression::Named(NamedExpression::Concat(vec![
        Expression::String(address.into()),
        transport_number(own.transport),
        Expression::Number(u32::from(own.port)),
    ]))
}

pub(in crate::enforce::nftables) fn word(text: &'static str) -> Expression<'static> {
    Expression::String(text.into())
}

pub(in crate::enforce::nftables) fn number(value: u32) -> Expression<'static> {
    Expression::Number(value)
}

pub(in crate::enforce::nftables) fn set_of(items: impl Iterator<Item = Expression<'static>>) -> Expression<'static> {
    Expression::Named(NamedExpression::Set(items.map(SetItem::Element).collect()))
}

pub(in crate::enforce::nftables) fn meta(key: MetaKey) -> Expression<'static> {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

pub(in crate::enforce::nftables) fn ct(key: &'static str) -> Expression<'static> {
    Expression::Named(NamedExpression::CT(CT { key: key.into(), family: None, dir: None }))
}

pub(in crate::enforce::nftables) fn field(protocol: &'static str, field: &'static str) -> Expression<'static> {
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(PayloadField {
        protocol: protocol.into(),
        field: field.into(),
    })))
}

/// Who sends, as pairs name it.
pub(in crate::enforce::nftables) fn client_of(protocol: &'static str, ipv6_prefix: u8) -> Expression<'static> {
    let source = field(protocol, "saddr");
    if protocol != "ip6" || ipv6_prefix >= WHOLE_IPV6 {
        return source;
    }
    let mask = narrow::owner_of(Ipv6Addr::from_bits(u128::MAX).into(), ipv6_prefix).to_string();
    Expression::BinaryOperation(Box::new(BinaryOperation::AND(source, Expression::String(mask.into()))))
}

pub(in crate::enforce::nftables) fn compare(
    op: Operator,
    left: Expression<'static>,
    right: Expression<'static>,
) -> Statement<'static> {
    Statement::Match(Match { left, right, op })
}

pub(in crate::enforce::nftables) fn is(left: Expression<'static>, right: Expression<'static>) -> Statement<'static> {
    compare(Operator::EQ, left, right)
}

/// Any of these flags.
pub(in crate::enforce::nftables) fn within(left: Expression<'static>, flags: &[&'static str]) -> Statement<'static> {
    compare(Operator::IN, left, Expression::List(flags.iter().map(|flag| word(flag)).collect()))
}

pub(in crate::enforce::nftables) fn is_ipv4() -> Statement<'static> {
    is(meta(MetaKey::Nfproto), word("ipv4"))
}

pub(in crate::enforce::nftables) fn is_ipv6() -> Statement<'static> {
    is(meta(MetaKey::Nfproto), word("ipv6"))
}

pub(in crate::enforce::nftables) fn tcp_or_udp() -> Statement<'static> {
    is(meta(MetaKey::L4proto), set_of([TCP, UDP].into_iter().map(number)))
}

pub(in crate::enforce::nftables) fn counted(name: &'static str) -> Statement<'static> {
    Statement::Counter(stmt::Counter::Named(name.into()))
}

pub(in crate::enforce::nftables) fn accept() -> Statement<'static> {
    Statement::Accept(None::<Accept>)
}

pub(in crate::enforce::nftables) fn jump(chain: &'static str) -> Statement<'static> {
    Statement::Jump(JumpTarget { target: chain.into() })
}
