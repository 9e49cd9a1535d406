//! Guards that tell each other of their leases: some cores, joined by what their sessions would carry.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use destguard_bgp::leases::{self, Leases, News, Seconds, Word};
use destguard_bgp::table::classes::Extra;
use ipnet::IpNet;

use super::*;
use crate::core::event::{GuardNews, GuardWord, Shared};
use crate::core::exchange::name_of;
use crate::core::share::LEAST;

const MAX: u64 = 150_000;
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
/// Ends are told rounded up to this.
const ROUNDING: u64 = 30_000;

fn id(guard: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, u8::try_from(guard).unwrap())
}

struct Node {
    guard: Guard,
    /// What it announces to each of the others: end and whose.
    routes: BTreeMap<IpAddr, (Seconds, Option<Ipv4Addr>)>,
    leases: Leases,
}

impl Node {
    fn new(number: usize) -> Self {
        let mut settings = settings();
        settings.lease.capacity = 20 * LEAST;
        settings.linger = Duration::ZERO;
        let nft = specs().into_iter().take(1).collect();
        let mut guard = Guard::new(settings, nft);
        guard.handle(Event::Exchange(Some(id(number))), Moment(0));
        Self { guard, routes: BTreeMap::new(), leases: Leases::new(id(number)) }
    }
}

struct Net {
    nodes: Vec<Node>,
    /// Sessions that are up, each as (who says, who hears).
    up: BTreeSet<(usize, usize)>,
    now: Moment,
    ticket: u64,
}

impl Net {
    fn new(count: usize) -> Self {
        let nodes = (0..count).map(Node::new).collect();
        let mut net = Self { nodes, up: BTreeSet::new(), now: Moment(1_000_000), ticket: 0 };
        for one in 0..count {
            (one + 1..count).for_each(|other| net.join(one, other));
        }
        net
    }

    fn seconds(&self) -> Seconds {
        Seconds::try_from(self.now.0 / 1000).unwrap()
    }

    fn session(from: usize) -> u32 {
        u32::try_from(from).unwrap()
    }

    fn take(&mut self, at: usize, news: Vec<News>) {
        let until = |end: Seconds| Moment(u64::from(end) * 1000);
        let news = news.into_iter().map(|News { address, guard, by, what }| GuardNews {
            address,
            guard,
            by,
            what: match what {
                leases::Change::Until(end) => GuardWord::Until(until(end)),
                leases::Change::AtLeast(end) => GuardWord::AtLeast(until(end)),
                leases::Change::TakenBack => GuardWord::TakenBack,
                leases::Change::Orphaned(_) => GuardWord::Orphaned,
            },
        });
        let event = Event::Guards(news.collect());
        self.nodes[at].guard.handle(event, self.now);
    }

    fn hear(&mut self, from: usize, at: usize, address: IpAddr, route: Option<(Seconds, Option<Ipv4Addr>)>) {
        let nets = vec![IpNet::from(address)];
        let word = match route {
            Some((end, of)) => Word::new(id(from), None, &leases::bearing(64512, end, of), nets, Vec::new()),
            None => Word::new(id(from), None, &Extra::default(), Vec::new(), nets),
        };
        let now = self.seconds();
        let news = self.nodes[at].leases.heard(Self::session(from), &word, now);
        self.take(at, news);
    }

    /// A session between these two comes up: each replays its table.
    fn join(&mut self, one: usize, other: usize) {
        for (from, at) in [(one, other), (other, one)] {
            self.up.insert((from, at));
            self.nodes[at].leases.came_up(Self::session(from), 1000);
            for (address, route) in self.nodes[from].routes.clone() {
                self.hear(from, at, address, Some(route));
            }
        }
        self.settle();
    }

    fn part(&mut self, one: usize, other: usize) {
        for (from, at) in [(one, other), (other, one)] {
            self.up.remove(&(from, at));
            let now = self.seconds();
            let news = self.nodes[at].leases.went_down(Self::session(from), now);
            self.take(at, news);
        }
        self.settle();
    }

    /// Until nobody has anything to say.
    fn settle(&mut self) {
        for _ in 0..100 {
            let mut said = Vec::new();
            for (number, node) in self.nodes.iter_mut().enumerate() {
                while let Some(output) = node.guard.poll_output() {
                    if let Output::ApplyTimed { generation, .. } = output {
                        let applied = Event::Applied { enforcer: EnforcerId(0), generation };
                        node.guard.handle(applied, self.now);
                    } else if let Output::Share(leases) = output {
                        for (address, what) in leases {
                            let route = match what {
                                Shared::Until(ends, of) => Some((leases::rounded(ends.0), of)),
                                Shared::TakenBack => Some((0, None)),
                                Shared::Nothing => None,
                            };
                            match route {
                                Some(route) => drop(node.routes.insert(address, route)),
                                None => drop(node.routes.remove(&address)),
                            }
                            said.push((number, address, route));
                        }
                    }
                }
            }
            if said.is_empty() {
                self.nodes.iter().for_each(|node| node.guard.table.check_consistency());
                return;
            }
            for (from, address, route) in said {
                for at in self.up.clone().into_iter().filter(|(says, _)| *says == from).map(|(_, at)| at) {
                    self.hear(from, at, address, route);
                }
            }
        }
        panic!("it goes on for ever");
    }

    fn pass(&mut self, seconds: u64) {
        let until = self.now.plus(Duration::from_secs(seconds));
        while let Some(due) =
            self.nodes.iter().filter_map(|node| node.guard.poll_timeout()).min().filter(|due| *due <= until)
        {
            self.now = self.now.max(due);
            self.nodes.iter_mut().for_each(|node| node.guard.handle_timeout(self.now));
            self.settle();
        }
        self.now = until;
    }

    fn ask(&mut self, at: usize, address: IpAddr, ttl: u32) {
        self.ticket += 1;
        let question: Name = "www.shop.test".parse().unwrap();
        let admission = Admission {
            judged: 0,
            openings: Default::default(),
            ticket: Ticket(self.ticket),
            client: IpAddr::from([10, 0, 0, 1]),
            mark: None,
            domain: question.clone(),
            question,
            qtype: 1,
            chain: Arc::default(),
            grants: [Grant { address, ttl }].into(),
            whole: false,
        };
        self.nodes[at].guard.handle(Event::Admit(admission), self.now);
        self.settle();
    }

    /// How long the address is open at each, seconds.
    fn open(&self, address: IpAddr) -> Vec<Option<u64>> {
        let ends = |node: &Node| {
            let lease = node.guard.table.get(address).filter(|lease| lease.is_active())?;
            assert!(lease.progress().acked().is_some_and(|acked| acked >= lease.ends()), "it is in the kernel too");
            Some(self.now.until(lease.ends()).as_secs())
        };
        self.nodes.iter().map(ends).collect()
    }

    fn is_open(&self, address: IpAddr) -> Vec<bool> {
        self.open(address).into_iter().map(|open| open.is_some()).collect()
    }
}

#[test]
fn a_lease_is_held_by_all_renewed_at_all_and_ends_at_all_within_half_a_minute() {
    let mut net = Net::new(3);
    net.ask(0, ADDRESS, 60);
    let own = 70;
    let open = net.open(ADDRESS);
    assert_eq!(open[0], Some(own));
    assert!(open[1] == open[2] && (own..own + 30).contains(&open[1].unwrap()), "{open:?}");
    net.pass(50);
    net.ask(0, ADDRESS, 60);
    net.pass(50);
    assert_eq!(net.is_open(ADDRESS), [true; 3]);
    net.pass(20 + ROUNDING / 1000);
    assert_eq!(net.is_open(ADDRESS), [false; 3]);
    net.pass(60);
    assert!(net.nodes.iter().all(|node| node.routes.is_empty()), "nothing is told of it any more");
    assert!(net.nodes.iter().all(|node| node.guard.exchange.as_ref().unwrap().is_empty()));
}

#[test]
fn what_each_asked_itself_is_its_own_and_taken_back_by_nobody_else() {
    let mut net = Net::new(2);
    net.ask(0, ADDRESS, 60);
    net.ask(1, ADDRESS, 30);
    net.nodes[0].guard.handle(Event::Revoke(RevokeTarget::Address(ADDRESS)), net.now);
    net.settle();
    // A guard takes back what it gave, and so the other's is held by the first as well.
    assert!(net.is_open(ADDRESS)[1]);
    net.nodes[1].guard.handle(Event::Revoke(RevokeTarget::Address(ADDRESS)), net.now);
    net.settle();
    assert_eq!(net.is_open(ADDRESS), [false; 2]);
}

#[test]
fn a_dead_guards_leases_last_to_their_end_and_a_machine_in_its_place_starts_with_them() {
    let mut net = Net::new(3);
    net.ask(0, ADDRESS, 60);
    net.part(0, 1);
    net.part(0, 2);
    assert_eq!(net.is_open(ADDRESS), [true; 3], "nobody took it back");
    net.nodes[0] = Node::new(0);
    net.join(0, 1);
    net.join(0, 2);
    let open = net.open(ADDRESS);
    assert!(open[0].is_some_and(|left| left >= 70), "{open:?}");
    assert_eq!(net.nodes[0].routes[&ADDRESS].1, None, "it is its own again");
    assert!(net.nodes[1].routes.is_empty() && net.nodes[2].routes.is_empty(), "so that nobody passes it on");
    net.pass(70 + ROUNDING / 1000);
    assert_eq!(net.is_open(ADDRESS), [false; 3]);
    net.pass(100);
    assert!(net.nodes.iter().all(|node| node.routes.is_empty()));
}

#[test]
fn what_was_taken_back_during_a_partition_is_closed_when_it_heals() {
    let mut net = Net::new(2);
    net.ask(0, ADDRESS, 100);
    net.part(0, 1);
    net.nodes[0].guard.handle(Event::Revoke(RevokeTarget::Name("www.shop.test".parse().unwrap())), net.now);
    net.settle();
    net.pass(60);
    assert_eq!(net.is_open(ADDRESS), [false, true]);
    net.join(0, 1);
    assert_eq!(net.is_open(ADDRESS), [false, false]);
}

#[test]
fn a_captured_guard_opens_nothing_for_longer_than_a_lease_lasts_and_leaves_others_room() {
    let mut net = Net::new(2);
    let capacity = 20 * LEAST;
    net.nodes[1].leases.came_up(0, usize::MAX);
    for number in 0..u32::try_from(2 * capacity).unwrap() {
        net.hear(0, 1, IpAddr::V4(Ipv4Addr::from_bits(0xc612_0000 + number)), Some((Seconds::MAX, None)));
    }
    net.settle();
    let held = net.nodes[1].guard.guards();
    assert_eq!(held[&id(0)], capacity * 4 / 5, "four times what it leaves free");
    assert_eq!(net.nodes[1].guard.counts.guards_refused, u64::try_from(capacity * 6 / 5).unwrap());
    let longest = net.nodes[1].guard.table.iter().map(|(_, lease)| lease.ends()).max().unwrap();
    assert_eq!(longest, net.now.plus(Duration::from_millis(MAX)));
    net.ask(1, ADDRESS, 60);
    assert!(net.is_open(ADDRESS)[1], "there is room for those who ask");
    // All of it is closed by the guard's name.
    net.nodes[1].guard.handle(Event::Revoke(RevokeTarget::Name(name_of(id(0)))), net.now);
    net.settle();
    assert_eq!(net.nodes[1].guard.guards(), BTreeMap::new());
}

#[test]
fn what_is_closed_here_is_not_opened_by_those_who_pass_it_on() {
    let mut net = Net::new(3);
    net.ask(0, ADDRESS, 100);
    let close = |net: &mut Net, at: usize| {
        net.nodes[at].guard.handle(Event::Revoke(RevokeTarget::Name(name_of(id(0)))), net.now);
    };
    // Closed before anybody hears that its guard is gone.
    close(&mut net, 1);
    net.settle();
    net.part(0, 1);
    net.part(0, 2);
    assert_eq!(net.is_open(ADDRESS), [true, false, true]);
    assert_eq!(net.nodes[2].routes[&ADDRESS].1, Some(id(0)), "it is passed on");
    close(&mut net, 2);
    net.settle();
    assert_eq!(net.is_open(ADDRESS), [true, false, false], "and goes round no more");
    // The guard's own word opens it again.
    net.join(0, 1);
    net.ask(0, ADDRESS, 150);
    assert!(net.is_open(ADDRESS)[1]);
}

#[test]
fn in_audit_nothing_is_told_and_what_was_told_is_not_taken_back() {
    let mut net = Net::new(2);
    net.ask(0, ADDRESS, 60);
    net.nodes[0].guard.handle(changes::announce(false), net.now);
    net.settle();
    assert!(net.nodes[0].routes.is_empty());
    assert_eq!(net.is_open(ADDRESS), [true; 2]);
    net.nodes[0].guard.handle(changes::announce(true), net.now);
    net.settle();
    assert_eq!(net.nodes[0].routes.len(), 1);
}

#[test]
fn leases_of_others_survive_a_restart_as_theirs() {
    let mut net = Net::new(2);
    net.ask(0, ADDRESS, 60);
    let stored: Vec<StoredLease> = net.nodes[1].guard.stored().collect();
    net.part(0, 1);
    net.nodes[1] = Node::new(1);
    net.nodes[1].guard.handle(Event::Restore(stored), net.now);
    net.settle();
    assert_eq!(net.is_open(ADDRESS), [true; 2]);
    assert!(net.nodes[1].routes.is_empty(), "it is not its own");
    net.join(0, 1);
    net.nodes[0].guard.handle(Event::Revoke(RevokeTarget::Address(ADDRESS)), net.now);
    net.settle();
    assert_eq!(net.is_open(ADDRESS), [false; 2]);
}

/// Who names others as the owners has no more for it.
#[test]
fn a_captured_guard_that_speaks_for_many_has_one_share() {
    let mut net = Net::new(2);
    let capacity = 20 * LEAST;
    net.nodes[1].leases.came_up(0, usize::MAX);
    for number in 0..u32::try_from(2 * capacity).unwrap() {
        let owner = Ipv4Addr::from_bits(0xcb00_7100 + number % 200);
        net.hear(0, 1, IpAddr::V4(Ipv4Addr::from_bits(0xc612_0000 + number)), Some((Seconds::MAX, Some(owner))));
    }
    net.settle();
    assert_eq!(net.nodes[1].guard.table.len(), capacity * 4 / 5);
}

/// Each lease costs the same, however many others have the guard's name.
#[test]
fn a_guard_tells_of_as_many_leases_as_a_table_holds() {
    let mut node = Node::new(1);
    let mut settings = settings();
    settings.lease.capacity = 400_000;
    node.guard.handle(changes::settings(settings.lease, settings.gate), Moment(1000));
    let news = (0..100_000).map(|number| GuardNews {
        address: IpAddr::V4(Ipv4Addr::from_bits(0xc612_0000 + number)),
        guard: id(0),
        by: id(0),
        what: GuardWord::Until(Moment(100_000)),
    });
    node.guard.handle(Event::Guards(news.collect()), Moment(1000));
    assert!(node.guard.poll_output().is_some());
    assert_eq!(node.guard.guards()[&id(0)], 100_000);
    node.guard.handle(Event::Revoke(RevokeTarget::Name(name_of(id(0)))), Moment(1000));
    assert!(node.guard.table.is_empty());
}
