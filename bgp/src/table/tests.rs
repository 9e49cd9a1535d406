use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;

/// A peer that does what it is told.
#[derive(Default)]
struct Peer {
    /// With their classes.
    routes: BTreeMap<IpNet, u16>,
    ends: Vec<(Family, Replay)>,
    withdrawals_of_unknown: usize,
    updates: usize,
}

fn announced(batch: &Batch) -> Vec<(IpNet, u16)> {
    let classes = |classes: &[u16], count: usize| {
        assert!(classes.is_empty() || classes.len() == count);
        if classes.is_empty() { vec![PLAIN; count] } else { classes.to_vec() }
    };
    let v4 = batch.announce4.iter().map(|net| IpNet::V4(*net)).zip(classes(&batch.classes4, batch.announce4.len()));
    let v6 = batch.announce6.iter().map(|net| IpNet::V6(*net)).zip(classes(&batch.classes6, batch.announce6.len()));
    v4.chain(v6).collect()
}

/// Stands for the encoder: prefixes and classes as text.
fn written(batch: &Batch) -> Option<Bytes> {
    Some(announced(batch).iter().map(|(net, class)| format!("{net}@{class} ")).collect::<String>().into())
}

impl Peer {
    fn hear(&mut self, batch: &Batch) {
        if let Some(encoded) = &batch.encoded {
            assert_eq!(batch.routes(), 0);
            for (net, class) in
                std::str::from_utf8(encoded).unwrap().split_whitespace().map(|word| word.split_once('@').unwrap())
            {
                self.updates += 1;
                self.routes.insert(net.parse().unwrap(), class.parse().unwrap());
            }
        }
        for (net, class) in announced(batch) {
            self.updates += 1;
            self.routes.insert(net, class);
        }
        for net in
            batch.withdraw4.iter().map(|net| IpNet::V4(*net)).chain(batch.withdraw6.iter().map(|n| IpNet::V6(*n)))
        {
            self.updates += 1;
            if self.routes.remove(&net).is_none() {
                self.withdrawals_of_unknown += 1;
            }
        }
        self.ends.extend(batch.end);
    }

    fn drain(&mut self, table: &mut Table, id: ReaderId) {
        let mut batch = Batch::default();
        while table.pending(id) {
            table.take(id, 800, &mut batch);
            self.hear(&batch);
        }
    }
}

fn held(table: &Table, families: Families) -> BTreeMap<IpNet, u16> {
    let v4 = table.v4.iter().filter(|(_, e)| e.announced() && families.ipv4);
    let v6 = table.v6.iter().filter(|(_, e)| e.announced() && families.ipv6);
    let v4 = v4.map(|(net, entry)| (IpNet::V4(*net), entry.class()));
    v4.chain(v6.map(|(net, entry)| (IpNet::V6(*net), entry.class()))).collect()
}

/// Some communities, and none for 0.
fn extra(n: u8) -> Want {
    match n {
        0 => Want::Plain,
        n => Want::With(Arc::new(classes::Extra::new(vec![u32::from(n)], vec![]))),
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_new_peer_gets_everything_then_the_end_of_each_family() {
    let mut table = Table::default();
    let now = Instant::now();
    table.apply(1, [(address("192.0.2.1"), true), (address("2001:db8::1"), true)], now);
    let id = table.attach(Families::ALL);
    assert_eq!(table.reached(id), None);
    let mut peer = Peer::default();
    peer.drain(&mut table, id);
    assert_eq!(peer.routes, held(&table, Families::ALL));
    assert_eq!(peer.routes.len(), 2);
    assert_eq!(peer.ends, [(Family::Ipv4, Replay::Initial), (Family::Ipv6, Replay::Initial)]);
    assert_eq!(table.reached(id).unwrap().generation, 1);
    assert_eq!(table.advertised(id), [1, 1]);
}

#[test]
fn nothing_of_a_family_that_was_not_negotiated() {
    let mut table = Table::default();
    table.apply(1, [(address("2001:db8::1"), true)], Instant::now());
    let id = table.attach(Families { ipv4: true, ipv6: false });
    let mut peer = Peer::default();
    peer.drain(&mut table, id);
    table.apply(2, [(address("2001:db8::2"), true)], Instant::now());
    table.refresh(id, Family::Ipv6);
    peer.drain(&mut table, id);
    assert!(peer.routes.is_empty());
    assert_eq!(peer.ends, [(Family::Ipv4, Replay::Initial)]);
    assert_eq!(table.reached(id).unwrap().generation, 2);
}

#[test]
fn a_route_that_came_and_went_unsent_is_never_sent() {
    let mut table = Table::default();
    let id = table.attach(Families::ALL);
    let mut peer = Peer::default();
    peer.drain(&mut table, id);
    table.apply(1, [(address("192.0.2.1"), true)], Instant::now());
    table.apply(2, [(address("192.0.2.1"), false)], Instant::now());
    peer.drain(&mut table, id);
    assert_eq!(peer.updates, 0);
    assert_eq!(table.reached(id).unwrap().generation, 2);
    assert!(table.v4.is_empty(), "the tombstone is gone once every reader passed it");
}

#[test]
fn a_fresh_route_overtakes_a_replay() {
    let mut table = Table::default();
    table.apply(1, (0..10_000u32).map(|n| (IpAddr::from((0x0a00_0000 + n).to_be_bytes()), true)), Instant::now());
    let id = table.attach(Families::ALL);
    let mut batch = Batch::default();
    table.take(id, 100, &mut batch);
    table.apply(2, [(address("198.51.100.1"), true)], Instant::now());
    table.take(id, 100, &mut batch);
    assert_eq!(batch.announce4, ["198.51.100.1/32".parse::<Ipv4Net>().unwrap()]);
    assert_eq!(table.reached(id), None, "not before the replay is through");
}

#[test]
fn a_refresh_is_a_marked_replay_of_one_family() {
    let mut table = Table::default();
    table.apply(1, [(address("192.0.2.1"), true), (address("2001:db8::1"), true)], Instant::now());
    let id = table.attach(Families::ALL);
    let mut peer = Peer::default();
    peer.drain(&mut table, id);
    table.refresh(id, Family::Ipv4);
    table.refresh(id, Family::Ipv4);
    let mut batch = Batch::default();
    table.take(id, 100, &mut batch);
    assert_eq!((batch.begin, batch.announce4.len()), (Some(Family::Ipv4), 1));
    assert_eq!(batch.end, Some((Family::Ipv4, Replay::Refresh)));
    assert!(!table.pending(id), "two requests before the first answer are one");
    assert_eq!(table.reached(id).unwrap().generation, 1);
}

#[test]
fn a_refresh_during_the_first_replay_comes_after_it() {
    let mut table = Table::default();
    table.apply(1, [(address("192.0.2.1"), true), (address("192.0.2.2"), true)], Instant::now());
    let id = table.attach(Families { ipv4: true, ipv6: false });
    let mut batch = Batch::default();
    table.take(id, 1, &mut batch);
    table.refresh(id, Family::Ipv4);
    let mut peer = Peer::default();
    peer.drain(&mut table, id);
    assert_eq!(peer.ends, [(Family::Ipv4, Replay::Initial), (Family::Ipv4, Replay::Refresh)]);
    assert_eq!(peer.updates, 3);
}

#[test]
fn an_open_prefix_and_a_lease_hold_a_route_each_on_its_own() {
    let mut table = Table::default();
    let both = address("192.0.2.1");
    table.set_open(&["192.0.2.1/32".parse().unwrap(), "10.88.3.0/16".parse().unwrap()]);
    table.apply(1, [(both, true)], Instant::now());
    table.apply(2, [(both, false)], Instant::now());
    assert!(table.contains(both.into()));
    assert!(table.contains("10.88.0.0/16".parse().unwrap()));
    table.apply(3, [(both, true)], Instant::now());
    table.set_open(&[]);
    assert!(table.contains(both.into()));
    assert_eq!(table.announced(), [1, 0]);
}

#[test]
fn a_peer_that_stops_reading_costs_a_bounded_log() {
    let mut table = Table::new(1000);
    let id = table.attach(Families::ALL);
    let mut peer = Peer::default();
    table.apply(1, [(address("203.0.113.1"), true)], Instant::now());
    peer.drain(&mut table, id);
    table.apply(2, [(address("203.0.113.1"), false)], Instant::now());
    for n in 0..100_000u32 {
        table.apply(u64::from(n) + 3, [(IpAddr::from(n.to_be_bytes()), n % 3 != 0)], Instant::now());
        table.apply(u64::from(n) + 3, [(IpAddr::from((n / 2).to_be_bytes()), false)], Instant::now());
        assert!(table.log_depth().0 <= 1000);
    }
    assert_eq!(table.reached(id), None);
    peer.drain(&mut table, id);
    assert_eq!(peer.routes, held(&table, Families::ALL));
    assert_eq!(table.reached(id).unwrap().generation, 100_002);
}

/// Its withdrawal is owed from a log that was cut, it comes back, and goes again before the peer is told anything.
#[test]
fn a_route_that_came_back_is_still_owed_when_it_goes_again() {
    let mut table = Table::new(16);
    let id = table.attach(Families::ALL);
    let route = address("203.0.113.1");
    let mut peer = Peer::default();
    table.apply(1, [(route, true)], Instant::now());
    peer.drain(&mut table, id);
    table.apply(2, [(route, false)], Instant::now());
    table.apply(3, (0..20u8).map(|n| (IpAddr::from([192, 0, 2, n]), true)), Instant::now());
    table.apply(4, [(route, true)], Instant::now());
    let mut batch = Batch::default();
    table.take(id, 1, &mut batch);
    peer.hear(&batch);
    table.apply(5, [(route, false)], Instant::now());
    peer.drain(&mut table, id);
    assert!(!peer.routes.contains_key(&route.into()));
    assert_eq!(peer.routes, held(&table, Families::ALL));
}

#[test]
fn peers_with_the_same_attributes_share_what_was_encoded() {
    let mut table = Table::default();
    table.apply(1, (0..10_000u32).map(|n| (IpAddr::from((0x0a00_0000 + n).to_be_bytes()), true)), Instant::now());
    let ids = [(); 3].map(|()| table.attach(Families::ALL));
    let mut made = 0;
    let mut batch = Batch::default();
    let mut peers = [Peer::default(), Peer::default(), Peer::default()];
    let mut round = 0;
    while ids.iter().any(|id| table.pending(*id)) {
        for (id, peer) in ids.iter().zip(&mut peers) {
            table.take_encoded(*id, 100, &mut batch, 0, |batch| {
                made += 1;
                written(batch)
            });
            peer.hear(&batch);
            assert!(table.chunks4.octets() <= super::chunks::KEPT, "a replay costs a window of the table, not a copy");
        }
        // A change makes one piece old, not those behind it.
        round += 1;
        if round == 50 {
            table.apply(2, [(IpAddr::from([10, 0, 0x1f, 0x40]), false)], Instant::now());
        }
    }
    for peer in &peers {
        assert_eq!(peer.routes, held(&table, Families::ALL));
    }
    assert!((100..=106).contains(&made), "{made} pieces were encoded");
    assert!(table.chunks4.is_empty() && table.chunks6.is_empty(), "nothing is kept once all have it");
}

#[test]
fn other_communities_are_an_announcement_in_place_and_no_withdrawal() {
    let mut table = Table::default();
    let id = table.attach(Families::ALL);
    let mut peer = Peer::default();
    let route = address("203.0.113.1");
    table.apply(1, [(route, extra(1))], Instant::now());
    table.apply(1, [(address("203.0.113.2"), extra(0))], Instant::now());
    peer.drain(&mut table, id);
    let before = peer.updates;
    table.apply(2, [(route, extra(2))], Instant::now());
    assert_ne!(table.reached(id).map(|stamp| stamp.generation), Some(2), "the peer doesn't have the new communities");
    let mut batch = Batch::default();
    table.take(id, 10, &mut batch);
    assert_eq!((batch.announce4.len(), batch.withdraw4.len()), (1, 0));
    peer.hear(&batch);
    assert_eq!((peer.updates, table.reached(id).unwrap().generation), (before + 1, 2));
    assert_eq!(peer.routes, held(&table, Families::ALL));
    table.apply(3, [(route, extra(2))], Instant::now());
    assert!(!table.pending(id), "the same again is no change");
    // The operator's own prefix too: without the lease it is a plain one.
    table.set_open(&[route.into()]);
    assert!(!table.pending(id));
    table.apply(4, [(route, false)], Instant::now());
    peer.drain(&mut table, id);
    assert_eq!(peer.routes.get(&route.into()), Some(&PLAIN));
    assert_eq!((peer.withdrawals_of_unknown, table.classes().usage()), (0, (0, 0)));
}

#[test]
fn numbers_of_classes_are_given_away_again_and_bounded() {
    let mut table = Table::default();
    let communities = |n: u32| Want::With(Arc::new(classes::Extra::new(vec![n], vec![])));
    for n in 0..3 * classes::MOST_CLASSES as u32 {
        table.apply(u64::from(n), [(address("203.0.113.1"), communities(n + 1))], Instant::now());
    }
    assert_eq!(table.classes().usage(), (1, 0));
    let many = (0..classes::MOST_CLASSES as u32)
        .map(|n| (IpAddr::from((0x0a00_0000 + n).to_be_bytes()), communities(1_000_000 + n)));
    table.apply(99_999, many, Instant::now());
    let (used, refused) = table.classes().usage();
    assert_eq!(used, classes::MOST_CLASSES - 1, "and not one more");
    assert!(refused > 0);
    assert!(std::mem::size_of::<(Ipv4Net, Entry)>() <= 24 && std::mem::size_of::<(Ipv6Net, Entry)>() <= 40);
}

#[derive(Clone, Debug)]
enum Op {
    /// Addresses; `None` withdraws, else the number of some communities.
    Apply(Vec<(u8, Option<u8>)>),
    Open(Vec<u8>),
    Attach(bool, bool),
    Detach(usize),
    Take(usize, usize),
    Refresh(usize, bool),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => prop::collection::vec((0u8..40, prop::option::of(0u8..4)), 0..12).prop_map(Op::Apply),
        1 => prop::collection::vec(0u8..40, 0..4).prop_map(Op::Open),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(a, b)| Op::Attach(a, b)),
        1 => (0usize..4).prop_map(Op::Detach),
        6 => (0usize..4, 1usize..6).prop_map(|(who, room)| Op::Take(who, room)),
        1 => (0usize..4, any::<bool>()).prop_map(|(who, v4)| Op::Refresh(who, v4)),
    ]
}

fn numbered(n: u8) -> IpAddr {
    if n.is_multiple_of(2) {
        IpAddr::from([192, 0, 2, n])
    } else {
        IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(n)])
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Whatever happens: a peer that has been given everything holds exactly the table, it is told so (`reached`) only then, and
    /// nothing is remembered for peers that have it.
    #[test]
    fn a_peer_holds_exactly_the_table(ops in prop::collection::vec(op(), 1..120)) {
        let mut table = Table::new(16);
        let mut peers: Vec<(ReaderId, Families, Peer)> = Vec::new();
        let mut generation = 0;
        let mut batch = Batch::default();
        for op in ops {
            match op {
                Op::Apply(changes) => {
                    generation += 1;
                    let changes = changes.into_iter().map(|(n, on)| (numbered(n), on.map_or(Want::Withdrawn, extra)));
                    table.apply(generation, changes, Instant::now());
                }
                Op::Open(nets) => {
                    let nets: Vec<IpNet> = nets.into_iter().map(|n| IpNet::from(numbered(n))).collect();
                    table.set_open(&nets);
                }
                Op::Attach(v4, v6) if peers.len() < 4 => peers.push((table.attach(Families { ipv4: v4, ipv6: v6 }), Families { ipv4: v4, ipv6: v6 }, Peer::default())),
                Op::Detach(who) if who < peers.len() => {
                    let (id, ..) = peers.remove(who);
                    table.detach(id);
                }
                Op::Take(who, room) => if let Some((id, _, peer)) = peers.get_mut(who) {
                    // Even readers share a style, odd ones take lists.
                    if who % 2 == 0 {
                        table.take_encoded(*id, room, &mut batch, 7, written);
                    } else {
                        table.take(*id, room, &mut batch);
                    }
                    prop_assert!(batch.withdraw4.len() + batch.announce4.len() <= room * MIXED);
                    prop_assert!(batch.withdraw6.len() + batch.announce6.len() <= room * MIXED);
                    peer.hear(&batch);
                },
                Op::Refresh(who, v4) => if let Some((id, ..)) = peers.get_mut(who) {
                    table.refresh(*id, if v4 { Family::Ipv4 } else { Family::Ipv6 });
                },
                _ => {}
            }
            for (id, families, peer) in &peers {
                if table.reached(*id).is_some_and(|stamp| stamp.generation == generation)
                    && table.readers[id].position == table.end() {
                    prop_assert_eq!(&peer.routes, &held(&table, *families));
                }
            }
            prop_assert!(table.log.len() <= 16);
            prop_assert!(table.stamps.len() <= 18);
        }
        for (id, families, peer) in &mut peers {
            peer.drain(&mut table, *id);
            prop_assert_eq!(&peer.routes, &held(&table, *families));
            prop_assert_eq!(table.reached(*id).map(|stamp| stamp.generation), Some(generation));
            let counts = table.announced();
            let mine = Family::ALL.map(|family| if families.contains(family) { counts[index(family)] } else { 0 });
            prop_assert_eq!(table.advertised(*id), mine);
        }
        prop_assert_eq!(table.log.len(), 0);
        let mut counts: BTreeMap<u16, usize> = BTreeMap::new();
        held(&table, Families::ALL).values().for_each(|class| *counts.entry(*class).or_default() += 1);
        let classes = counts.keys().filter(|class| **class != PLAIN).count();
        prop_assert_eq!(table.classes().usage(), (classes, 0));
        prop_assert_eq!(table.v4.len() + table.v6.len(), held(&table, Families::ALL).len());
    }
}

/// A piece of a refresh that also brings what the log lost must not pass for one that holds nothing new.
#[test]
fn a_refresh_that_repairs_says_so() {
    let mut table = Table::new(16);
    let now = Instant::now();
    let hosts = |range: std::ops::Range<u32>| range.map(|n| (IpAddr::from((0xc612_0000 + n).to_be_bytes()), true));
    table.apply(1, hosts(0..10), now);
    let id = table.attach(Families::ALL);
    Peer::default().drain(&mut table, id);
    table.refresh(id, Family::Ipv4);
    let mut batch = Batch::default();
    table.take(id, 4, &mut batch);
    assert_eq!((batch.begin, batch.replay), (Some(Family::Ipv4), Some(Replay::Refresh)));
    table.apply(2, hosts(100..200), now);
    let mut seen = Vec::new();
    while table.pending(id) {
        table.take(id, 4, &mut batch);
        assert_ne!(batch.replay, Some(Replay::Refresh));
        seen.extend(batch.end);
    }
    assert!(seen.contains(&(Family::Ipv4, Replay::Refresh)), "it ends as what it was asked for: {seen:?}");
}

/// The look at the log may end between a route's announcement and the newer one that stands in its place.
#[test]
fn a_generation_is_not_reached_before_what_its_routes_became() {
    let now = Instant::now();
    let mut table = Table::default();
    let id = table.attach(Families::ALL);
    let mut peer = Peer::default();
    peer.drain(&mut table, id);
    let (flapping, route) = (address("203.0.113.9"), address("203.0.113.1"));
    let flaps = (1..SCAN).map(|n| (flapping, if n % 2 == 0 { Want::Withdrawn } else { Want::Plain }));
    table.apply(1, flaps.chain([(route, extra(1))]), now);
    table.apply(2, [(route, extra(2))], now);
    let mut batch = Batch::default();
    while table.pending(id) {
        table.take(id, 10, &mut batch);
        peer.hear(&batch);
        let reached = table.reached(id).map_or(0, |stamp| stamp.generation);
        assert!(reached == 0 || peer.routes.contains_key(&route.into()), "{reached} without the route");
    }
    assert_eq!(table.reached(id).map(|stamp| stamp.generation), Some(2));
}
