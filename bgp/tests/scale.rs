//! What the table costs and how full its messages are, at the sizes the speaker is made for. Counted, never timed.
//!
//! The allocator of this program counts the octets that each thread holds.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use destguard_bgp::adj_out::AdjOut;
use destguard_bgp::config::{PeerConfig, SpeakerConfig};
use destguard_bgp::table::classes::{Extra, Want};
use destguard_bgp::table::{Batch, ReaderId, Table};
use destguard_bgp::wire::capability::{Capability, Negotiated, negotiate};
use destguard_bgp::wire::iana::{Families, Family};
use destguard_bgp::wire::message::{Message, Open};

use self::counting::Counting;

#[path = "support/counting.rs"]
mod counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting(count);

fn count(octets: usize, sign: isize) {
    // What the C library's allocator makes of it: 8 octets of its own, multiples of 16.
    let octets = (octets + 8).next_multiple_of(16) as isize;
    // A thread that ends frees after its counter is gone.
    HELD.try_with(|held| held.set(held.get() + sign * octets)).unwrap_or_default();
}

fn held() -> isize {
    HELD.with(Cell::get)
}

const MANY: u32 = 24_000;

/// Host routes of a family, in the order of their addresses or scattered.
fn hosts(family: Family, count: u32, scattered: bool) -> impl Iterator<Item = IpAddr> {
    (0..count).map(move |n| {
        let n = if scattered { n.wrapping_mul(2_654_435_761) } else { 0x0a00_0000 + n };
        match family {
            Family::Ipv4 => IpAddr::V4(Ipv4Addr::from(n)),
            Family::Ipv6 => IpAddr::V6(Ipv6Addr::from((0x2001_0db8_u128 << 96) | u128::from(n))),
        }
    })
}

fn announce(table: &mut Table, generation: u64, hosts: impl Iterator<Item = IpAddr>, on: bool) {
    table.apply(generation, hosts.map(|address| (address, on)), Instant::now());
}

fn config() -> SpeakerConfig {
    SpeakerConfig {
        next_hop_ipv4: Some(Ipv4Addr::new(192, 0, 2, 1)),
        next_hop_ipv6: Some(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
        communities: vec![(64512 << 16) | 100],
        ..SpeakerConfig::new(64512, Ipv4Addr::new(192, 0, 2, 1))
    }
}

fn terms() -> Negotiated {
    let open = |asn| Open {
        asn,
        hold_time: 90,
        identifier: Ipv4Addr::from(asn),
        capabilities: vec![
            Capability::Multiprotocol(Family::Ipv4.afi_safi()),
            Capability::Multiprotocol(Family::Ipv6.afi_safi()),
            Capability::FourOctetAs(asn),
        ],
    };
    negotiate(&open(64512), &open(64513)).unwrap()
}

fn adj_out() -> AdjOut {
    let peer = PeerConfig::new("router", IpAddr::from([192, 0, 2, 2]), 64513);
    AdjOut::new(&config(), &peer, &terms(), false).unwrap()
}

/// As a peer's task does it: everything that is due, as octets.
fn written(table: &mut Table, id: ReaderId, adj_out: &mut AdjOut) -> BytesMut {
    let (mut batch, mut out) = (Batch::default(), BytesMut::new());
    while table.pending(id) {
        adj_out.learn(table.classes()).unwrap();
        let adj_out = &*adj_out;
        table.take_encoded(id, adj_out.room(4096), &mut batch, 0, |batch| {
            let mut piece = BytesMut::new();
            adj_out.announcements(batch, &mut piece).ok().map(|()| piece.freeze())
        });
        adj_out.encode(&batch, &mut out).unwrap();
    }
    out
}

/// Routes in each UPDATE that has any: announced, withdrawn.
fn updates(mut octets: &[u8]) -> Vec<(usize, usize)> {
    let context = terms().decode_context();
    let mut counts = Vec::new();
    while !octets.is_empty() {
        let length = usize::from(u16::from_be_bytes([octets[16], octets[17]]));
        assert!(length <= 4096);
        let (message, rest) = octets.split_at(length);
        octets = rest;
        let Message::Update(update) = Message::decode(message, &context).unwrap() else { panic!("{message:x?}") };
        assert_eq!(update.problems, []);
        let count = (update.announced_len(), update.withdrawn_len());
        if count != (0, 0) {
            counts.push(count);
        }
    }
    counts
}

/// The least that a message of 4096 octets is to hold.
const fn packed(family: Family) -> usize {
    match family {
        Family::Ipv4 => 800,
        Family::Ipv6 => 230,
    }
}

#[test]
fn a_route_costs_little_and_a_peer_that_has_it_nothing() {
    for family in Family::ALL {
        for scattered in [false, true] {
            let before = held();
            let mut table = Table::default();
            announce(&mut table, 1, hosts(family, MANY, scattered), true);
            let each = (held() - before) as f64 / f64::from(MANY);
            assert!(each <= 64.0, "{family}, scattered: {scattered}: {each} octets a route");

            let mut adj_out = adj_out();
            let before = held();
            let ids = [(); 10].map(|()| table.attach(Families::ALL));
            for id in ids {
                written(&mut table, id, &mut adj_out);
            }
            let each = (held() - before) as f64 / f64::from(MANY) / 10.0;
            assert!(each <= 0.1, "{family}: {each} octets a route and peer");

            // Readers that lag by a change of every route.
            let before = held();
            announce(&mut table, 2, hosts(family, MANY, scattered), false);
            let each = (held() - before) as f64 / f64::from(MANY) / 10.0;
            assert!(each <= 8.0, "{family}: {each} octets a route and peer that lags");
            for id in ids {
                written(&mut table, id, &mut adj_out);
            }
            assert!(
                held() - before < isize::try_from(MANY).unwrap(),
                "tombstones and log are gone: {}",
                held() - before
            );
        }
    }
}

#[test]
fn messages_of_replays_changes_and_withdrawals_are_full() {
    let mut adj_out = adj_out();
    for family in Family::ALL {
        let mut table = Table::default();
        announce(&mut table, 1, hosts(family, MANY, true), true);
        let id = table.attach(Families::ALL);
        let replay = written(&mut table, id, &mut adj_out);
        table.refresh(id, family);
        let again = written(&mut table, id, &mut adj_out);
        announce(&mut table, 2, hosts(family, MANY, true), false);
        let withdrawn = written(&mut table, id, &mut adj_out);
        announce(&mut table, 3, hosts(family, MANY, true), true);
        let changed = written(&mut table, id, &mut adj_out);
        for (what, octets) in [("replay", replay), ("refresh", again), ("withdrawals", withdrawn), ("changes", changed)]
        {
            let counts = updates(&octets);
            let routes = |counts: &[(usize, usize)]| counts.iter().map(|(on, off)| on + off).collect::<Vec<_>>();
            assert_eq!(routes(&counts).iter().sum::<usize>(), usize::try_from(MANY).unwrap(), "{family}, {what}");
            let (_, but_the_last) = counts.split_last().unwrap();
            let mean = routes(but_the_last).iter().sum::<usize>() / but_the_last.len();
            assert!(mean >= packed(family), "{family}, {what}: {mean} in a message");
        }
    }
}

#[test]
fn messages_are_full_where_routes_of_many_communities_are_mixed() {
    let mut adj_out = adj_out();
    // With how many classes, and whether the peer is there before the routes.
    for (classes, changes) in [(1, false), (4, false), (16, false), (4, true)] {
        let extras: Vec<Arc<Extra>> = (0..classes)
            .map(|class| Arc::new(Extra::new(vec![64512 << 16 | class], vec![[64512, 1, class]])))
            .collect();
        for family in Family::ALL {
            let mut table = Table::default();
            let early = changes.then(|| {
                let id = table.attach(Families::ALL);
                written(&mut table, id, &mut adj_out);
                id
            });
            let mixed = hosts(family, MANY, true).zip(extras.iter().cycle());
            table.apply(1, mixed.map(|(address, extra)| (address, Want::With(Arc::clone(extra)))), Instant::now());
            let id = early.unwrap_or_else(|| table.attach(Families::ALL));
            let counts = updates(&written(&mut table, id, &mut adj_out));
            let routes: usize = counts.iter().map(|(on, _)| on).sum();
            assert_eq!(routes, usize::try_from(MANY).unwrap());
            // Each class ends with a message that is not full; in a burst, which is taken in two goes, twice.
            let most = (routes / extras.len()).div_ceil(packed(family)) * extras.len();
            let most = if changes { most + extras.len() } else { most };
            assert!(counts.len() <= most, "{classes} classes, {family}, {changes}: {} messages", counts.len());
        }
    }
}

#[test]
fn ten_peers_are_sent_the_same_octets_from_the_same_place() {
    let adj_out = adj_out();
    let mut table = Table::default();
    announce(&mut table, 1, hosts(Family::Ipv4, MANY, true), true);
    let ids = [(); 10].map(|()| table.attach(Families::ALL));
    let mut batch = Batch::default();
    let mut encoded = 0;
    let mut pieces: Vec<Vec<Bytes>> = vec![Vec::new(); ids.len()];
    while ids.iter().any(|id| table.pending(*id)) {
        for (id, pieces) in ids.iter().zip(&mut pieces) {
            table.take_encoded(*id, adj_out.room(4096), &mut batch, 0, |batch| {
                encoded += 1;
                let mut piece = BytesMut::new();
                adj_out.announcements(batch, &mut piece).ok().map(|()| piece.freeze())
            });
            pieces.extend(batch.encoded.take());
        }
    }
    let (first, others) = pieces.split_first().unwrap();
    assert!(first.len() >= 5);
    for other in others {
        let places = |pieces: &[Bytes]| pieces.iter().map(|piece| piece.as_ptr()).collect::<Vec<_>>();
        assert_eq!(places(first), places(other));
    }
    assert!(encoded <= first.len() + 2, "{encoded} encodings of {} pieces", first.len());
}
