//! What may happen to a guard: operations drawn at random, and the settings and groups that they bring.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::{CAPACITY, settings};
use crate::config::value::{Rate, Span};
use crate::core::event::{Event, GuardWord};
use crate::core::groups::Groups;
use crate::core::guard::{Guard, Settings};
use crate::core::moment::Moment;

/// What may happen to a guard.
#[derive(Clone, Debug)]
pub enum Operation {
    /// A client's answer: client, name, alias, addresses, TTL.
    Admit { client: u8, name: u8, alias: Option<u8>, addresses: Vec<u8>, ttl: u32 },
    /// An enforcer carries out and acknowledges this many of its commands.
    Deliver { enforcer: usize, commands: usize },
    /// An enforcer refuses the openings of its next command.
    Refuse { enforcer: usize },
    /// A route enforcer carries out what it was told of one address only, ahead of everything else; its word on it is under way.
    Install { enforcer: usize, address: u8 },
    /// A route enforcer finds that it does not hold this one address.
    RefuseOne { enforcer: usize, address: u8 },
    /// What single addresses an enforcer spoke of arrives, one of them a second time.
    Report { enforcer: usize },
    /// An enforcer loses everything it holds and says so.
    Lose { enforcer: usize },
    /// An enforcer finds that it lacks this address, if it held it.
    Miss { enforcer: usize, address: u8 },
    /// It comes back: asks for the full state, or replays the route table. A router's new session may lack IPv6.
    Recover { enforcer: usize, ipv6: bool },
    /// The operator closes an address.
    Revoke { address: u8 },
    /// The operator closes what a name opened.
    RevokeName { name: u8 },
    /// Another guard speaks of an address: leased for so long, or taken back, or nobody tells of it any more.
    Guard { guard: u8, address: u8, says: Option<Option<u64>> },
    /// A new policy.
    Forbid { name: u8 },
    /// Nothing happens for this time.
    Wait { millis: u64 },
    /// The daemon is killed and starts again from its journal.
    Restart,
    /// A reload with other groups.
    Regroup { which: usize },
    /// A reload with other times and limits.
    Set { which: usize },
    /// A reload that switches routes to audit, or back.
    Announce { announces: bool },
    /// A reload without a router.
    Remove { enforcer: usize },
    /// A reload with a router that wasn't there, or is another than before; it isn't up yet.
    Add { enforcer: usize, required: bool, joins: bool },
    /// A reload that makes a router required, or not.
    Require { enforcer: usize, required: bool },
    /// A reload with another linger.
    Linger { seconds: u64 },
}

/// The settings that reloads bring: those of the start, and with other times, a smaller capacity and rates that matter.
pub fn other_settings(which: usize) -> Settings {
    let mut settings = settings();
    let lease = &mut settings.lease;
    let rate = |count, seconds| Rate { count, per: Duration::from_secs(seconds) };
    match which {
        1 => {
            (lease.min, lease.grace, lease.max, lease.capacity) =
                (Span::secs(5), Span::secs(0), Span::secs(60), CAPACITY - 3)
        }
        2 => {
            (lease.min, lease.new_per_client, lease.new_per_domain) = (Span::secs(60), rate(3, 10), rate(5, 20));
            (lease.burst_per_client, lease.burst_per_domain) = (3, 5);
        }
        _ => {}
    }
    settings
}

/// Groups of the clients 192.0.2.0 to 192.0.2.2: none, two, one with the communities that another had, moved, and with others.
pub const GROUPS: [&[(&str, &str, &str)]; 5] = [
    &[],
    &[("red", "192.0.2.1/32", "64512:1"), ("blue", "192.0.2.2/32", "64512:2")],
    &[("blue", "192.0.2.1/32", "64512:1")],
    &[("red", "192.0.2.0/31", "64512:1"), ("plain", "192.0.2.1/32", ""), ("blue", "192.0.2.2/32", "64512:2")],
    &[("blue", "192.0.2.0/24", "64512:2\", \"64512:0:3"), ("red", "192.0.2.1/32", "64512:4")],
];

pub fn groups(which: usize) -> Arc<Groups> {
    let group = |(name, clients, communities): &(&str, &str, &str)| {
        let communities = if communities.is_empty() { String::new() } else { format!("\"{communities}\"") };
        format!("[[policy.group]]\nname = \"{name}\"\nclients = [\"{clients}\"]\ncommunities = [{communities}]\n")
    };
    let text: String = GROUPS[which].iter().map(group).collect();
    Arc::new(Groups::new(&toml::from_str(&text).unwrap()).unwrap())
}

pub fn operation() -> impl Strategy<Value = Operation> {
    let enforcer = 0..4usize;
    prop_oneof![
        8 => (0..3u8, 0..4u8, prop::option::of(4..6u8), prop::collection::vec(0..10u8, 1..4), 0..200u32)
            .prop_map(|(client, name, alias, addresses, ttl)| Operation::Admit { client, name, alias, addresses, ttl }),
        10 => (enforcer.clone(), 1..4usize).prop_map(|(enforcer, commands)| Operation::Deliver { enforcer, commands }),
        1 => enforcer.clone().prop_map(|enforcer| Operation::Refuse { enforcer }),
        6 => (1..4usize, 0..10u8).prop_map(|(enforcer, address)| Operation::Install { enforcer, address }),
        1 => (1..4usize, 0..10u8).prop_map(|(enforcer, address)| Operation::RefuseOne { enforcer, address }),
        4 => (1..4usize).prop_map(|enforcer| Operation::Report { enforcer }),
        1 => enforcer.clone().prop_map(|enforcer| Operation::Lose { enforcer }),
        6 => (enforcer.clone(), 0..10u8).prop_map(|(enforcer, address)| Operation::Miss { enforcer, address }),
        3 => (enforcer, prop::bool::weighted(0.8)).prop_map(|(enforcer, ipv6)| Operation::Recover { enforcer, ipv6 }),
        1 => (0..10u8).prop_map(|address| Operation::Revoke { address }),
        1 => (0..6u8).prop_map(|name| Operation::RevokeName { name }),
        4 => (1..3u8, 0..10u8, prop::option::of(prop::option::of(0..200_000u64)))
            .prop_map(|(guard, address, says)| Operation::Guard { guard, address, says }),
        1 => (0..6u8).prop_map(|name| Operation::Forbid { name }),
        4 => prop_oneof![0..900u64, 0..20_000u64, 0..300_000u64].prop_map(|millis| Operation::Wait { millis }),
        1 => Just(Operation::Restart),
        1 => (0..GROUPS.len()).prop_map(|which| Operation::Regroup { which }),
        1 => (0..3usize).prop_map(|which| Operation::Set { which }),
        1 => prop::bool::ANY.prop_map(|announces| Operation::Announce { announces }),
        2 => (1..4usize).prop_map(|enforcer| Operation::Remove { enforcer }),
        2 => (1..4usize, prop::bool::ANY, prop::bool::ANY)
            .prop_map(|(enforcer, required, joins)| Operation::Add { enforcer, required, joins }),
        1 => (1..4usize, prop::bool::ANY).prop_map(|(enforcer, required)| Operation::Require { enforcer, required }),
        1 => prop_oneof![Just(0), Just(20), Just(60)].prop_map(|seconds| Operation::Linger { seconds }),
    ]
}

pub fn address(index: u8) -> IpAddr {
    if index.is_multiple_of(3) {
        format!("2001:db8::{index:x}").parse().unwrap()
    } else {
        IpAddr::from([198, 51, 100, index])
    }
}

/// Among other guards.
pub fn exchanging(mut guard: Guard) -> Guard {
    guard.handle(Event::Exchange(Some(Ipv4Addr::new(203, 0, 113, 9))), Moment::ZERO);
    guard
}

/// What another guard says now; see [`Operation::Guard`].
pub fn guard_word(now: Moment, says: Option<Option<u64>>) -> GuardWord {
    match says {
        Some(Some(millis)) => GuardWord::Until(now.plus(Duration::from_millis(millis))),
        Some(None) => GuardWord::TakenBack,
        None => GuardWord::Orphaned,
    }
}
