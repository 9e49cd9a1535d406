//! Addresses open for single clients: random operations against an in-memory enforcer, and a model of who was answered with what.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::{CAPACITY, name, settings, specs};
use crate::core::event::{Admission, Grant, LeaseHandle};
use crate::core::guard::*;
use crate::core::pairs::{HOST, PairId, PairRecord, StoredPair, owner};
use crate::enforce::memory::Held;

const NFT: EnforcerId = EnforcerId(0);

#[derive(Clone, Debug)]
enum Operation {
    /// An answer: client, name, alias, addresses, TTL.
    Admit {
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
        client: u8,
        address: u8,
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
    ForbidClient {
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
        10 => (0..5u8, 0..4u8, prop::option::of(4..6u8), prop::collection::vec(0..4u8, 1..3), 0..200u32)
            .prop_map(|(client, name, alias, addresses, ttl)| Operation::Admit { client, name, alias, addresses, ttl }),
        10 => (1..4usize).prop_map(|commands| Operation::Deliver { commands }),
        1 => Just(Operation::Refuse),
        1 => Just(Operation::Lose),
        3 => Just(Operation::Recover),
        3 => (0..5u8, 0..4u8).prop_map(|(client, address)| Operation::Miss { client, address }),
        1 => (0..4u8).prop_map(|address| Operation::Revoke { address }),
        1 => (0..6u8).prop_map(|name| Operation::RevokeName { name }),
        1 => (0..6u8).prop_map(|name| Operation::Forbid { name }),
        1 => (0..5u8, 0..4u8, 0..4u8)
            .prop_map(|(client, name, address)| Operation::ForbidClient { client, name, address }),
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

struct World {
    guard: Guard,
    now: Moment,
    held: Held,
    /// Every command carried out at once.
    ideal: Held,
    queue: VecDeque<Command>,
    lost: bool,
    /// What was answered to whom, and neither revoked nor forbidden since.
    answered: BTreeMap<PairId, Vec<Answered>>,
    waiting: BTreeMap<Ticket, (IpAddr, Vec<IpAddr>)>,
    handles: Vec<(PairId, LeaseHandle)>,
    leases_on_disk: BTreeMap<IpAddr, StoredLease>,
    pairs_on_disk: BTreeMap<PairId, StoredPair>,
    tickets: u64,
}

fn guard() -> Guard {
    let nft = specs().into_iter().next().unwrap();
    Guard::new(settings(), vec![nft]).for_single_clients()
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            guard: guard(),
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

    fn admit(&mut self, from: IpAddr, names: Vec<Name>, addresses: &[IpAddr], ttl: u32) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let settings = settings().lease;
        let life = Duration::from_secs(u64::from(ttl)).max(settings.min.0) + settings.grace.0;
        let ends = self.now.plus(life.min(settings.max.0));
        for address in addresses {
            let answers = self.answered.entry((*address, owner(from))).or_default();
            answers.push((names.clone(), ends));
        }
        self.waiting.insert(ticket, (from, addresses.to_vec()));
        let (question, chain) = names.split_first().unwrap();
        self.handle(Event::Admit(Admission {
            whole: false,
            ticket,
            client: from,
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
            Operation::Admit { client: from, name: question, alias, addresses, ttl } => {
                let names = std::iter::once(question).chain(alias).map(name).collect();
                let addresses: BTreeSet<IpAddr> = addresses.into_iter().map(address).collect();
                self.admit(client(from), names, &Vec::from_iter(addresses), ttl);
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
            Operation::Miss { client: from, address: at } => {
                let id = (address(at), owner(client(from)));
                if self.held.pairs.remove(&id).is_some() {
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
                self.handle(Event::Forbid(vec![name(gone)]));
            }
            Operation::ForbidClient { client: from, name: gone, address: at } => {
                let id = (address(at), owner(client(from)));
                if let Some(answers) = self.answered.get_mut(&id) {
                    answers.retain(|(names, _)| names[0] != name(gone));
                }
                self.handle(Event::ForbidClients(vec![(id, name(gone))]));
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
        self.guard = guard();
        self.queue.clear();
        self.ideal = Held::default();
        let leases: Vec<_> = self.leases_on_disk.values().cloned().collect();
        let pairs: Vec<_> = self.pairs_on_disk.values().cloned().collect();
        let lives = |pair: &&StoredPair| pair.ends > self.now;
        let live: BTreeSet<PairId> = pairs.iter().filter(lives).map(|pair| (pair.address, pair.client)).collect();
        for (id, answers) in &mut self.answered {
            let kept = self.pairs_on_disk.get(id).map(|pair| pair.names.clone()).unwrap_or_default();
            let ends = self.pairs_on_disk.get(id).map(|pair| pair.ends).unwrap_or_default();
            *answers = kept.into_iter().map(|names| (names.to_vec(), ends)).collect();
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
                    assert!(!changes.is_empty(), "an empty plan");
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
                    self.pairs_on_disk.insert((pair.address, pair.client), pair);
                }
                Output::JournalPair(PairRecord::Closed(id)) => drop(self.pairs_on_disk.remove(&id)),
                Output::Decide { ticket, decision } => {
                    let (from, addresses) = self.waiting.remove(&ticket).expect("each answer is decided once");
                    let Decision::Release { leases, short } = decision else { continue };
                    let told: BTreeSet<IpAddr> = leases.iter().map(LeaseHandle::address).collect();
                    assert!(!told.is_empty() && told.iter().all(|address| addresses.contains(address)));
                    assert_eq!(short.is_some(), told.len() < addresses.len(), "{short:?}");
                    for address in &told {
                        let id = (*address, owner(from));
                        assert!(self.held.pairs.contains_key(&id), "{id:?} released, not open for its client");
                        assert!(self.pairs_on_disk.contains_key(&id), "{id:?} released, not on disk");
                    }
                    for handle in leases {
                        assert!(handle.in_force_for(self.now, Duration::ZERO), "{from} released, not in force");
                        // Every client that joins them later would have handles of its own.
                        self.handles.push(((handle.address(), owner(from)), handle));
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
        let lease_ends = |address| table.get(address).filter(|lease| lease.is_active()).map(|lease| lease.ends);
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
        // The hot path: a client's part and the lease together.
        let mut in_force: BTreeMap<PairId, Vec<&LeaseHandle>> = BTreeMap::new();
        for (id, handle) in &self.handles {
            in_force.entry(*id).or_default().push(handle);
        }
        for (id, handles) in in_force {
            let pair = self.guard.pairs.as_ref().unwrap().get(id);
            let own = handles.into_iter().filter(|handle| handle.in_force_for(self.now, Duration::ZERO));
            for handle in own {
                // The lease's handle is everybody's: it alone serves nobody.
                let lease = table.get(id.0).is_some_and(|lease| lease.handle.is_same(handle));
                let held = self.held.pairs.get(&id);
                assert!(
                    lease || held >= Some(&handle.ends()),
                    "{id:?} believed open until {:?}: {held:?}",
                    handle.ends()
                );
                assert!(lease || pair.is_some(), "{id:?} in force without a pair");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn an_answer_opens_for_its_client_alone_and_is_enforced_before_it_leaves(
        operations in prop::collection::vec(operation(), 1..60)
    ) {
        let mut world = World::new();
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
fn what_one_client_opened_is_not_in_force_for_another_until_it_was_answered_too() {
    let mut world = World::new();
    let (one, other, at) = (client(0), client(1), address(1));
    world.admit(one, vec![name(0)], &[at], 60);
    world.deliver(1);
    let (_, first) = world.handles.pop().unwrap();
    assert!(first.in_force_for(world.now, Duration::from_secs(30)));
    assert!(!world.held.pairs.contains_key(&(at, other)));
    let ticket = world.admit(other, vec![name(0)], &[at], 60);
    assert!(world.waiting.contains_key(&ticket), "the lease is there, the other client's part is waited for");
    world.deliver(1);
    assert!(!world.waiting.contains_key(&ticket));
    assert_eq!(world.held.pairs.keys().map(|(_, client)| *client).collect::<Vec<_>>(), [one, other]);
    // Forbidden to one of them it stays open for the other.
    world.handle(Event::ForbidClients(vec![((at, one), name(0))]));
    assert!(!first.in_force_for(world.now, Duration::ZERO));
    world.deliver(1);
    assert_eq!(world.held.pairs.keys().map(|(_, client)| *client).collect::<Vec<_>>(), [other]);
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
    assert_eq!(world.held.pairs.keys().copied().collect::<Vec<_>>(), [(address(1), HOST), (address(3), HOST)]);
}
