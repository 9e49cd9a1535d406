//! Addresses open for single clients, and to single ports: random operations against an in-memory enforcer, and a model of who was answered with what.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::{CAPACITY, changes, name, settings, specs};
use crate::core::event::{Admission, Change, Decision, Grant, LeaseHandle};
use crate::core::event::{PairRecord, StoredPair};
use crate::core::guard::*;
use crate::core::narrow::{HOST, Narrow, Opening, PairId, Port, TCP, Who, owner};
use crate::core::plan::LEAST_EXTENSION;
use crate::enforce::memory::Held;

const NFT: EnforcerId = EnforcerId(0);

#[derive(Clone, Debug)]
enum Operation {
    /// An answer: client, name, alias, addresses, what it opens of them, TTL.
    Admit {
        openings: u8,
        client: u8,
        name: u8,
        alias: Option<u8>,
        addresses: Vec<u8>,
        ttl: u32,
    },
    /// The enforcer carries out and acknowledges this many of its commands.
    Deliver {
        commands: usize,
    },
    /// It refuses the openings of the next one.
    Refuse,
    /// It loses everything; it asks for the full state.
    Lose,
    Recover,
    /// It finds that it lacks a pair, if it held it.
    Miss {
        place: u8,
    },
    /// The operator closes an address, or what a name opened; a new policy forbids a name, or forbids it to one client.
    Revoke {
        address: u8,
    },
    RevokeName {
        name: u8,
    },
    Forbid {
        name: u8,
    },
    ForbidPair {
        client: u8,
        openings: u8,
        name: u8,
        address: u8,
    },
    /// New rules: what a question opened it opens other ports of.
    Reopen {
        openings: [u8; 2],
        client: u8,
        name: u8,
        address: u8,
    },
    Wait {
        millis: u64,
    },
    /// `kill -9` and a new start.
    Restart,
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        10 => (0..5u8, 0..4u8, prop::option::of(4..6u8), prop::collection::vec(0..4u8, 1..3), 0..4u8, 0..200u32)
            .prop_map(|(client, name, alias, addresses, openings, ttl)| {
                Operation::Admit { openings, client, name, alias, addresses, ttl }
            }),
        10 => (1..4usize).prop_map(|commands| Operation::Deliver { commands }),
        1 => Just(Operation::Refuse),
        1 => Just(Operation::Lose),
        3 => Just(Operation::Recover),
        3 => (0..8u8).prop_map(|place| Operation::Miss { place }),
        1 => (0..4u8).prop_map(|address| Operation::Revoke { address }),
        1 => (0..6u8).prop_map(|name| Operation::RevokeName { name }),
        1 => (0..6u8).prop_map(|name| Operation::Forbid { name }),
        1 => (0..5u8, 0..4u8, 0..4u8, 0..4u8)
            .prop_map(|(client, openings, name, address)| Operation::ForbidPair { client, openings, name, address }),
        1 => (prop::array::uniform2(0..3u8), 0..5u8, 0..4u8, 0..4u8)
            .prop_map(|(openings, client, name, address)| Operation::Reopen { openings, client, name, address }),
        4 => prop_oneof![0..900u64, 0..20_000u64, 0..300_000u64].prop_map(|millis| Operation::Wait { millis }),
        1 => Just(Operation::Restart),
    ]
}

/// Two IPv4 clients, an IPv6 one, and this host by two of its addresses.
fn client(index: u8) -> IpAddr {
    ["192.0.2.1", "192.0.2.2", "2001:db8:c::1", "127.0.0.1", "::1"][usize::from(index)].parse().unwrap()
}

fn address(index: u8) -> IpAddr {
    if index == 3 { "2001:db8::3".parse().unwrap() } else { IpAddr::from([198, 51, 100, index]) }
}

/// What an observer knows of one answer: its names and until when it may hold.
type Answered = (Vec<Name>, Moment);

enum Command {
    Apply(Generation, Vec<Change>),
    Sync(Generation, Vec<(IpAddr, Moment)>, Vec<(PairId, Moment)>),
}

/// What an answer opens: everything, single ports, for an application.
fn openings(index: u8) -> Vec<Opening> {
    let tcp = |port| Port::Of { protocol: TCP, port };
    match index {
        0 => Vec::new(),
        1 => vec![Opening { application: None, to: tcp(443) }],
        2 => vec![Opening { application: None, to: tcp(443) }, Opening { application: None, to: tcp(22) }],
        _ => vec![Opening { application: Some(3), to: Port::Any }],
    }
}

struct World {
    per_client: bool,
    guard: Guard,
    now: Moment,
    held: Held,
    /// Every command carried out at once.
    ideal: Held,
    queue: VecDeque<Command>,
    lost: bool,
    /// What was answered to whom, and neither revoked nor forbidden since.
    answered: BTreeMap<PairId, Vec<Answered>>,
    waiting: BTreeMap<Ticket, (Vec<Narrow>, Vec<IpAddr>)>,
    handles: Vec<(PairId, LeaseHandle)>,
    leases_on_disk: BTreeMap<IpAddr, StoredLease>,
    pairs_on_disk: BTreeMap<PairId, StoredPair>,
    tickets: u64,
}

fn guard(per_client: bool) -> Guard {
    let nft = specs().into_iter().next().unwrap();
    let guard = Guard::new(settings(), vec![nft]);
    if per_client { guard.for_single_clients() } else { guard.narrowly() }
}

impl World {
    fn new() -> Self {
        Self::of(true)
    }

    fn of(per_client: bool) -> Self {
        let mut world = Self {
            per_client,
            guard: guard(per_client),
            now: Moment(1_000),
            held: Held::default(),
            ideal: Held::default(),
            queue: VecDeque::new(),
            lost: false,
            answered: BTreeMap::new(),
            waiting: BTreeMap::new(),
            handles: Vec::new(),
            leases_on_disk: BTreeMap::new(),
            pairs_on_disk: BTreeMap::new(),
            tickets: 0,
        };
        world.handle(Event::WantSync { enforcer: NFT });
        world.deliver(1);
        world
    }

    fn handle(&mut self, event: Event) {
        self.guard.handle(event, self.now);
        self.drain();
    }

    fn narrows(&self, from: IpAddr, openings: &[Opening]) -> Vec<Narrow> {
        let whoever = if self.per_client { Who::Client(owner(from)) } else { Who::Anyone };
        let all = if openings.is_empty() { &[Opening::ALL][..] } else { openings };
        let narrow = |one: &Opening| Narrow { who: one.application.map_or(whoever, Who::Application), to: one.to };
        all.iter().map(narrow).collect()
    }

    fn admit(&mut self, from: IpAddr, names: Vec<Name>, addresses: &[IpAddr], ttl: u32) -> Ticket {
        self.admit_to(from, names, addresses, &[], ttl)
    }

    fn admit_to(
        &mut self,
        from: IpAddr,
        names: Vec<Name>,
        addresses: &[IpAddr],
        openings: &[Opening],
        ttl: u32,
    ) -> Ticket {
        let narrows = self.narrows(from, openings);
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let settings = settings().lease;
        let life = Duration::from_secs(u64::from(ttl)).max(settings.min.0) + settings.grace.0;
        let ends = self.now.plus(life.min(settings.max.0));
        for address in addresses {
            for narrow in &narrows {
                self.answered.entry((*address, *narrow)).or_default().push((names.clone(), ends));
            }
        }
        self.waiting.insert(ticket, (narrows, addresses.to_vec()));
        let (question, chain) = names.split_first().unwrap();
        self.handle(Event::Admit(Admission {
            judged: 0,
            openings: openings.into(),
            whole: false,
            ticket,
            client: from,
            mark: None,
            question: question.clone(),
            qtype: 1,
            chain: chain.into(),
            domain: "test".parse().unwrap(),
            grants: addresses.iter().map(|address| Grant { address: *address, ttl }).collect(),
        }));
        ticket
    }

    fn carry_out(&mut self, operation: Operation) {
        match operation {
            Operation::Admit { openings: opens, client: from, name: question, alias, addresses, ttl } => {
                let names = std::iter::once(question).chain(alias).map(name).collect();
                let addresses: BTreeSet<IpAddr> = addresses.into_iter().map(address).collect();
                self.admit_to(client(from), names, &Vec::from_iter(addresses), &openings(opens), ttl);
            }
            Operation::Deliver { commands } => self.deliver(commands),
            Operation::Refuse => {
                let plan = self.queue.pop_front_if(|command| matches!(command, Command::Apply(..)));
                if let Some(Command::Apply(generation, changes)) = plan {
                    self.held.limit = Some(0);
                    let refused = self.held.apply(&changes);
                    self.held.limit = None;
                    if let Err(reason) = refused {
                        self.handle(Event::Refused { enforcer: NFT, generation, reason });
                    }
                    self.handle(Event::Applied { enforcer: NFT, generation });
                }
            }
            Operation::Lose => {
                self.held = Held::default();
                self.queue.clear();
                self.lost = true;
                self.handle(Event::Lost { enforcer: NFT, reason: "test".to_owned() });
                self.queue.clear();
            }
            Operation::Miss { place } => {
                if let Some(id) = self.held.pairs.keys().nth(usize::from(place)).copied() {
                    self.held.pairs.remove(&id);
                    self.handle(Event::Missing { enforcer: NFT, addresses: Vec::new(), pairs: vec![id] });
                }
            }
            Operation::Recover if self.lost => {
                self.lost = false;
                self.handle(Event::WantSync { enforcer: NFT });
            }
            Operation::Recover => {}
            Operation::Revoke { address: at } => {
                self.answered.retain(|(known, _), _| *known != address(at));
                self.handle(Event::Revoke(RevokeTarget::Address(address(at))));
            }
            Operation::RevokeName { name: gone } => {
                self.forget(&name(gone));
                self.handle(Event::Revoke(RevokeTarget::Name(name(gone))));
            }
            Operation::Forbid { name: gone } => {
                self.forget(&name(gone));
                self.handle(changes::forbid(&self.guard, &[name(gone)]));
            }
            Operation::ForbidPair { client: from, openings: opens, name: gone, address: at } => {
                for narrow in self.narrows(client(from), &openings(opens)) {
                    let id = (address(at), narrow);
                    if let Some(answers) = self.answered.get_mut(&id) {
                        answers.retain(|(names, _)| names[0] != name(gone));
                    }
                    self.handle(changes::forbid_pair(&self.guard, id, &name(gone)));
                }
            }
            Operation::Reopen { openings: [from, to], client: of, name: question, address: at } => {
                let ports = |index| self.narrows(client(of), &openings(index));
                let (before, after) = (ports(from), ports(to));
                let to: Vec<Port> = after.iter().map(|narrow| narrow.to).collect();
                for narrow in before.into_iter().filter(|narrow| !to.contains(&narrow.to)) {
                    let id = (address(at), narrow);
                    let known = self.answered.remove(&id).unwrap_or_default();
                    let (moved, left) = known.into_iter().partition(|(names, _)| names[0] == name(question));
                    self.answered.insert(id, left);
                    for narrow in &after {
                        self.answered.entry((address(at), *narrow)).or_default().extend::<Vec<_>>(Clone::clone(&moved));
                    }
                    self.handle(changes::reopen(&self.guard, id, &name(question), to.clone()));
                }
            }
            Operation::Wait { millis } => self.wait(millis),
            Operation::Restart => self.restart(),
        }
        self.check();
    }

    fn forget(&mut self, gone: &Name) {
        self.answered.values_mut().for_each(|answers| answers.retain(|(names, _)| !names.contains(gone)));
    }

    fn deliver(&mut self, commands: usize) {
        for _ in 0..commands {
            let Some(command) = self.queue.pop_front() else { return };
            let generation = match command {
                Command::Apply(generation, changes) => {
                    self.held.apply(&changes).unwrap();
                    generation
                }
                Command::Sync(generation, leases, pairs) => {
                    self.held.sync(&leases, &pairs);
                    generation
                }
            };
            self.handle(Event::Applied { enforcer: NFT, generation });
        }
    }

    fn wait(&mut self, millis: u64) {
        let until = self.now.plus(Duration::from_millis(millis));
        while let Some(due) = self.guard.poll_timeout().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            self.guard.handle_timeout(self.now);
            self.drain();
            assert!(self.guard.poll_timeout().is_none_or(|next| next > self.now), "a due timer stays due");
            self.check();
        }
        self.now = until;
        self.guard.handle_timeout(self.now);
        self.drain();
    }

    fn restart(&mut self) {
        self.drain();
        self.waiting.clear();
        self.handles.clear();
        self.guard = guard(self.per_client);
        self.queue.clear();
        self.ideal = Held::default();
        let leases: Vec<_> = self.leases_on_disk.values().cloned().collect();
        let pairs: Vec<_> = self.pairs_on_disk.values().cloned().collect();
        let lives = |pair: &&StoredPair| pair.ends > self.now;
        let mut live: BTreeSet<PairId> = pairs.iter().filter(lives).map(|pair| (pair.address, pair.narrow)).collect();
        for (id, answers) in &mut self.answered {
            let kept = self.pairs_on_disk.get(id).map(|pair| pair.names.clone()).unwrap_or_default();
            let ends = self.pairs_on_disk.get(id).map(|pair| pair.ends).unwrap_or_default();
            let told = self.pairs_on_disk.get(id).map(|pair| pair.told.clone()).unwrap_or_default();
            *answers = kept.iter().zip(told).map(|(names, told)| (names.to_vec(), told.min(ends))).collect();
        }
        // Without a word of pairs they are of a guard whose leases opened all of an address.
        for lease in leases.iter().filter(|lease| !self.per_client && pairs.is_empty() && lease.ends > self.now) {
            live.insert((lease.address, Narrow::NOT));
            let answers = lease.paths.iter().map(|path| (path.names().cloned().collect(), lease.ends));
            self.answered.insert((lease.address, Narrow::NOT), answers.collect());
        }
        self.guard.handle(Event::Restore(leases), self.now);
        self.handle(Event::RestorePairs(pairs));
        let restored: BTreeSet<PairId> = self.guard.pairs.as_ref().unwrap().iter().map(|(id, _)| id).collect();
        assert_eq!(restored, live, "every live pair survives a restart, and nothing else");
        self.lost = false;
        self.handle(Event::WantSync { enforcer: NFT });
    }

    fn drain(&mut self) {
        // What ends now is open to the end of now.
        self.held.expire(self.now.minus(Duration::from_millis(1)));
        self.ideal.expire(self.now);
        while let Some(output) = self.guard.poll_output() {
            match output {
                Output::ApplyTimed { generation, changes } => {
                    self.ideal.apply(&changes).unwrap();
                    self.queue.push_back(Command::Apply(generation, changes));
                }
                Output::Sync { generation, leases, pairs, .. } => {
                    let ideal: Vec<_> = self.ideal.pairs.iter().map(|(id, ends)| (*id, *ends)).collect();
                    assert_eq!(pairs, ideal, "the full state is what all changes make");
                    self.queue.push_back(Command::Sync(generation, leases, pairs));
                }
                Output::Journal(lease) => {
                    let before = self.leases_on_disk.remove(&lease.address);
                    let joined = lease.joined_to(before);
                    self.leases_on_disk.insert(joined.address, joined);
                }
                Output::JournalRevoked(name) => {
                    self.leases_on_disk
                        .values_mut()
                        .for_each(|lease| lease.paths.retain(|path| !path.names().any(|other| *other == name)));
                }
                Output::JournalClosed(address) => drop(self.leases_on_disk.remove(&address)),
                Output::JournalPair(PairRecord::Open(pair)) => {
                    self.pairs_on_disk.insert((pair.address, pair.narrow), pair);
                }
                Output::JournalPair(PairRecord::Closed(id)) => drop(self.pairs_on_disk.remove(&id)),
                Output::Decide { ticket, decision } => {
                    let (narrows, addresses) = self.waiting.remove(&ticket).expect("each answer is decided once");
                    let Decision::Release { leases, short } = decision else { continue };
                    let told: BTreeSet<IpAddr> = leases.iter().map(LeaseHandle::address).collect();
                    assert!(!told.is_empty() && told.iter().all(|address| addresses.contains(address)));
                    assert_eq!(short.is_some(), told.len() < addresses.len(), "{short:?}");
                    for id in told.iter().flat_map(|address| narrows.iter().map(|narrow| (*address, *narrow))) {
                        assert!(self.held.pairs.contains_key(&id), "{id:?} released, not open");
                        assert!(self.pairs_on_disk.contains_key(&id), "{id:?} released, not on disk");
                    }
                    assert_eq!(leases.len(), told.len() * (1 + narrows.len()), "each address, and each of its pairs");
                    assert!(leases.iter().all(|handle| handle.in_force_for(self.now, Duration::ZERO)), "{narrows:?}");
                    // The hot path serves what was released together.
                    for (place, handle) in leases.iter().skip(told.len()).enumerate() {
                        let id = (handle.address(), narrows[place % narrows.len()]);
                        self.handles.push((id, handle.clone()));
                    }
                }
                _ => {}
            }
        }
    }

    fn check(&mut self) {
        // What ends now is open to the end of now.
        self.held.expire(self.now.minus(Duration::from_millis(1)));
        self.ideal.expire(self.now);
        let pairs = self.guard.pairs.as_ref().unwrap();
        let table = &self.guard.table;
        let lease_ends = |address| table.get(address).filter(|lease| lease.is_active()).map(|lease| lease.ends());
        pairs.check_consistency(lease_ends, self.now);
        table.check_consistency();
        assert!(pairs.len() <= CAPACITY, "more pairs than the capacity");
        let open: BTreeMap<PairId, Moment> = pairs.iter().map(|(id, pair)| (id, pair.ends)).collect();
        assert_eq!(self.ideal.pairs, open, "the enforcer gets exactly the pairs");
        // The promise: nothing is open for anybody but those who were answered with it, and no longer.
        for (id, ends) in &open {
            let answers = self.answered.get(id).map(Vec::as_slice).unwrap_or_default();
            let latest = answers.iter().map(|(_, ends)| *ends).max();
            assert!(latest >= Some(*ends), "{id:?} is open until {ends:?}, answered until {latest:?}");
        }
        // The hot path: the pairs' part of it.
        let mut in_force: BTreeMap<PairId, Vec<&LeaseHandle>> = BTreeMap::new();
        for (id, handle) in &self.handles {
            in_force.entry(*id).or_default().push(handle);
        }
        for (id, handles) in in_force {
            let pair = self.guard.pairs.as_ref().unwrap().get(id);
            let own = handles.into_iter().filter(|handle| handle.in_force_for(self.now, Duration::ZERO));
            for handle in own {
                let held = self.held.pairs.get(&id);
                assert!(held >= Some(&handle.ends()), "{id:?} believed open until {:?}: {held:?}", handle.ends());
                assert!(pair.is_some(), "{id:?} in force without a pair");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn an_answer_opens_no_more_than_it_says_and_is_enforced_before_it_leaves(
        per_client: bool,
        operations in prop::collection::vec(operation(), 1..60)
    ) {
        let mut world = World::of(per_client);
        for operation in operations {
            world.carry_out(operation);
        }
        // In the end everything closes by itself.
        world.carry_out(Operation::Recover);
        world.deliver(100);
        world.wait(400_000);
        world.check();
        prop_assert!(world.held.pairs.is_empty() && world.guard.pairs.as_ref().unwrap().is_empty());
    }
}

#[test]
fn a_question_that_is_taken_back_behind_a_restart_leaves_no_more_than_the_others_were_told() {
    let mut world = World::of(true);
    let (id, at) = ((address(1), Narrow::of_client(client(0))), address(1));
    let ends = |world: &World| world.guard.pairs.as_ref().unwrap().get(id).map(|pair| pair.ends);
    world.admit(client(0), vec![name(0)], &[at], 60);
    world.deliver(1);
    let short = ends(&world).unwrap();
    world.admit(client(0), vec![name(1)], &[at], 600);
    world.deliver(1);
    let long = ends(&world).unwrap();
    // Another client's question holds the lease itself.
    world.admit(client(2), vec![name(2)], &[at], 600);
    world.deliver(1);
    assert!(short.plus(LEAST_EXTENSION) < long);
    world.restart();
    world.deliver(1);
    assert_eq!(ends(&world), Some(long));
    world.handle(Event::Revoke(RevokeTarget::Name(name(1))));
    let left = ends(&world);
    assert!(left.is_some_and(|left| left >= short && left <= short.plus(LEAST_EXTENSION)), "{left:?}, not {short:?}");
}

#[test]
fn a_question_that_has_ended_opens_no_port_when_the_rules_change() {
    let mut world = World::of(false);
    world.admit(client(0), vec![name(0)], &[address(1)], 88);
    world.admit(client(0), vec![name(1)], &[address(1)], 0);
    // To the moment at which the second one ends.
    world.wait(40_000);
    world.carry_out(Operation::Reopen { openings: [0, 1], client: 0, name: 1, address: 1 });
    world.check();
    let open: Vec<PairId> = world.guard.pairs.as_ref().unwrap().iter().map(|(id, _)| id).collect();
    assert_eq!(open, [(address(1), Narrow::NOT)]);
}

#[test]
fn what_one_client_opened_is_not_in_force_for_another_until_it_was_answered_too() {
    let mut world = World::new();
    let (one, other, at) = (client(0), client(1), address(1));
    world.admit(one, vec![name(0)], &[at], 60);
    world.deliver(1);
    let (_, first) = world.handles.pop().unwrap();
    assert!(first.in_force_for(world.now, Duration::from_secs(30)));
    assert!(!world.held.pairs.contains_key(&(at, Narrow::of_client(other))));
    let ticket = world.admit(other, vec![name(0)], &[at], 60);
    assert!(world.waiting.contains_key(&ticket), "the lease is there, the other client's part is waited for");
    world.deliver(1);
    assert!(!world.waiting.contains_key(&ticket));
    assert_eq!(world.held.pairs.keys().filter_map(|(_, narrow)| narrow.client()).collect::<Vec<_>>(), [one, other]);
    // Forbidden to one of them it stays open for the other.
    world.handle(changes::forbid_pair(&world.guard, (at, Narrow::of_client(one)), &name(0)));
    assert!(!first.in_force_for(world.now, Duration::ZERO));
    world.deliver(1);
    assert_eq!(world.held.pairs.keys().filter_map(|(_, narrow)| narrow.client()).collect::<Vec<_>>(), [other]);
}

#[test]
fn a_port_is_open_to_all_and_a_name_without_ports_opens_the_rest_beside_it() {
    let mut world = World::of(false);
    let at = address(1);
    let whole = Narrow::NOT;
    let port = Narrow { to: Port::Of { protocol: TCP, port: 443 }, ..whole };
    world.admit_to(client(0), vec![name(0)], &[at], &openings(1), 60);
    world.deliver(1);
    assert_eq!(world.held.pairs.keys().copied().collect::<Vec<_>>(), [(at, port)]);
    assert!(world.held.open.is_empty(), "the lease itself opens nothing");
    let ticket = world.admit(client(1), vec![name(1)], &[at], 60);
    assert!(world.waiting.contains_key(&ticket), "what the other name opened is not enough");
    world.deliver(1);
    assert_eq!(world.held.pairs.keys().copied().collect::<Vec<_>>(), [(at, whole), (at, port)]);
    world.handle(changes::forbid(&world.guard, &[name(1)]));
    world.deliver(1);
    assert_eq!(world.held.pairs.keys().copied().collect::<Vec<_>>(), [(at, port)]);
}

#[test]
fn leases_that_become_narrow_stay_open_and_then_are_what_the_new_rules_say() {
    let nft = specs().into_iter().next().unwrap();
    let mut world = World { guard: Guard::new(settings(), vec![nft]), ..World::of(false) };
    world.queue.clear();
    world.handle(Event::WantSync { enforcer: NFT });
    world.deliver(1);
    let at = address(1);
    let admission = Admission {
        judged: 0,
        mark: None,
        openings: openings(1).into(),
        whole: false,
        ticket: Ticket(0),
        client: client(0),
        question: name(0),
        qtype: 1,
        chain: Arc::default(),
        domain: "test".parse().unwrap(),
        grants: [Grant { address: at, ttl: 60 }].into(),
    };
    world.waiting.insert(Ticket(0), (Vec::new(), vec![at]));
    world.handle(Event::Admit(admission));
    world.deliver(1);
    assert_eq!(world.held.open.len(), 1, "leases are of whole addresses");
    world.handle(changes::narrowly());
    world.deliver(1);
    assert_eq!(world.held.pairs.keys().copied().collect::<Vec<_>>(), [(at, Narrow::NOT)]);
    let port = Port::Of { protocol: TCP, port: 443 };
    world.handle(changes::reopen(&world.guard, (at, Narrow::NOT), &name(0), vec![port]));
    let Some(Command::Apply(_, changes)) = world.queue.front() else { panic!("no plan") };
    assert_eq!(changes.len(), 2, "one is closed in the very plan that opens the other: {changes:?}");
    world.deliver(1);
    assert_eq!(world.held.pairs.keys().copied().collect::<Vec<_>>(), [(at, Narrow { to: port, ..Narrow::NOT })]);
    assert!(world.pairs_on_disk.keys().eq(world.held.pairs.keys()));
}

#[test]
fn the_table_of_pairs_is_bounded_and_what_is_over_is_refused() {
    let mut world = World::new();
    for last in 1..=7u8 {
        world.admit(IpAddr::from([192, 0, 2, last]), vec![name(0)], &[address(1)], 60);
        world.deliver(1);
    }
    assert_eq!(world.guard.counts().pairs, CAPACITY);
    world.admit(IpAddr::from([192, 0, 2, 8]), vec![name(0)], &[address(1)], 60);
    assert!(world.waiting.is_empty());
    assert_eq!(world.guard.counts().refused.capacity, 1, "one client more, though the address is leased");
    world.admit(IpAddr::from([192, 0, 2, 7]), vec![name(1)], &[address(1)], 100);
    world.deliver(1);
    assert_eq!((world.waiting.len(), world.guard.counts().refused.capacity), (0, 1), "who is in is served");
}

#[test]
fn this_host_is_one_client_whichever_of_its_addresses_asks() {
    let mut world = World::new();
    world.admit(client(3), vec![name(0)], &[address(1)], 60);
    world.admit(client(4), vec![name(0)], &[address(3)], 60);
    world.deliver(2);
    assert_eq!(
        world.held.pairs.keys().copied().collect::<Vec<_>>(),
        [1, 3].map(|last| (address(last), Narrow::of_client(HOST)))
    );
}
