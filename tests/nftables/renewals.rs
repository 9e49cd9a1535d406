//! The driver against a real kernel set, in random order: what the kernel holds, and until when, is what was granted.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use super::{Running, alone, config, ip};
use destguard::config::schema::{Nftables, NftablesMode, Scope};
use destguard::core::event::Change;
use destguard::core::moment::Moment;
use destguard::core::narrow::Narrow;
use destguard::enforce::Command;
use destguard::enforce::nftables::elements::{Features, Key, Set, Timeout};
use destguard::enforce::nftables::kernel::Kernel;
use destguard::enforce::nftables::{PAD, probe};

/// What a kernel that counts a hundred times a second may be off by.
const JIFFIES: Duration = Duration::from_millis(20);
/// Between two steps: an end that stays where it was is found out.
const STEP: Duration = Duration::from_millis(50);
/// The driver's, see its source.
const CUT: Duration = Duration::from_secs(600);
const OLD: Features = Features { refresh: false, destroy: false };

fn everything() -> Nftables {
    Nftables { scope: Scope::Client, ..config(NftablesMode::Both) }
}

/// The keys of each set, one of each.
fn key_of(set: Set) -> Key {
    match set {
        Set::Lease4 | Set::Cut4 => Key::Address(ip("203.0.113.1")),
        Set::Lease6 | Set::Cut6 => Key::Address(ip("2001:db8::1")),
        Set::ClientLease4 => Key::pair(ip("10.9.2.7"), ip("203.0.113.1")).expect("one family"),
        Set::ClientLease6 => Key::pair(ip("2001:db8:2::7"), ip("2001:db8::1")).expect("one family"),
        Set::Application(..) => unreachable!("see tests/applications.rs"),
        Set::PortLease4 => Key::Port(ip("203.0.113.1"), 6, 443),
        Set::PortLease6 => Key::Port(ip("2001:db8::1"), 6, 443),
        Set::ClientPortLease4 => Key::client_port(ip("10.9.2.7"), ip("203.0.113.1"), 17, 443).expect("one family"),
        Set::ClientPortLease6 => Key::client_port(ip("2001:db8:2::7"), ip("2001:db8::1"), 17, 443).expect("one family"),
    }
}

#[test]
fn every_set_moves_its_ends_for_equal_longer_and_shorter_timeouts() {
    alone(|| {
        let rules = super::Rules { ports: true, ..super::rules(&everything(), super::CAPACITY) };
        super::Enforcer::new(&rules, destguard::sys::clock::Clock::start(), super::ID)
            .expect("nft")
            .install()
            .expect("installed");
        let mut kernel = Kernel::open().expect("a socket");
        let found = probe::probe(&mut kernel).expect("probed");
        for features in [found, OLD] {
            for set in Set::ALL {
                let mut put = |seconds: &[u64]| {
                    let begin = std::time::Instant::now();
                    for seconds in seconds {
                        let mut transaction = kernel.transaction();
                        transaction.put(features, set, &[(key_of(set), Timeout::of(Duration::from_secs(*seconds)))]);
                        kernel.commit("renewing", transaction).expect("committed");
                    }
                    let held = kernel.dump("destguard", set).expect("the set");
                    assert_eq!(held.len(), 1, "{set:?}");
                    let left = held[0].left.expect("a timeout");
                    let wanted = Duration::from_secs(*seconds.last().expect("one"));
                    let least = wanted.saturating_sub(begin.elapsed() + JIFFIES);
                    assert!(left >= least && left <= wanted, "{features:?} {set:?} {seconds:?}: {left:?}");
                };
                put(&[60]);
                std::thread::sleep(STEP);
                // A name that is asked again has the same TTL: this is what happens all day.
                put(&[60]);
                std::thread::sleep(STEP);
                put(&[60]);
                put(&[300]);
                put(&[30]);
                put(&[40, 50, 50, 40]);
            }
        }
    });
}

/// One thing that the core says of one address.
#[derive(Clone, Copy, Debug)]
enum Act {
    Open(Duration),
    Close,
    Cut,
}

fn acts() -> impl Strategy<Value = Vec<(usize, Act)>> {
    // Mostly the same length: names asked again. A few milliseconds more, so that the driver's delay changes no jiffy.
    let open = prop_oneof![
        6 => Just(Duration::from_millis(60_003)),
        1 => Just(Duration::from_millis(300_003)),
        1 => (30_000u64..90_000).prop_map(Duration::from_millis),
    ]
    .prop_map(Act::Open);
    let act = prop_oneof![6 => open, 1 => Just(Act::Close), 1 => Just(Act::Cut)];
    proptest::collection::vec((0usize..6, act), 1..6)
}

/// Addresses of both families, for three clients each where leases are for clients.
fn target(scope: Scope, index: usize) -> (Option<&'static str>, &'static str) {
    let (four, six) = ("203.0.113.1", "2001:db8::1");
    match (scope, index) {
        (Scope::Shared, 0) => (None, four),
        (Scope::Shared, 1) => (None, "203.0.113.2"),
        (Scope::Shared, 2) => (None, "203.0.113.3"),
        (Scope::Shared, 3) => (None, six),
        (Scope::Shared, 4) => (None, "2001:db8::2"),
        (Scope::Shared, _) => (None, "2001:db8::3"),
        (Scope::Client, 0) => (Some("10.9.2.7"), four),
        (Scope::Client, 1) => (Some("10.9.2.8"), four),
        (Scope::Client, 2) => (Some("127.0.0.1"), four),
        (Scope::Client, 3) => (Some("2001:db8:2::7"), six),
        (Scope::Client, 4) => (Some("2001:db8:2::8"), six),
        (Scope::Client, _) => (Some("127.0.0.1"), six),
    }
}

fn lease_key(client: Option<&str>, address: &str) -> Key {
    match client {
        None | Some("127.0.0.1") => Key::Address(ip(address)),
        Some(client) => Key::pair(ip(client), ip(address)).expect("one family"),
    }
}

/// What the kernel must hold: the earliest and the latest end of each element.
type Expected = BTreeMap<(Set, Key), Range<Moment>>;

fn step(running: &mut Running, scope: Scope, acts: &[(usize, Act)], expected: &mut Expected) {
    let begin = running.clock.now();
    let mut changes = Vec::new();
    let mut wanted: HashMap<(Set, Key), Option<Moment>> = HashMap::new();
    let mut said = HashSet::new();
    for (index, act) in acts {
        // Of what is opened and closed in one breath only the last is carried out, and whether that ends a cut is left open.
        if !matches!(act, Act::Cut) && !said.insert(*index) {
            continue;
        }
        let (client, address) = target(scope, *index);
        let key = lease_key(client, address);
        let cut = (if ip(address).is_ipv4() { Set::Cut4 } else { Set::Cut6 }, Key::Address(ip(address)));
        let change = |ends: Option<Moment>| match (client, ends) {
            (Some(client), ends) => {
                Change::Narrow { address: ip(address), narrow: Narrow::of_client(ip(client)), ends, new: false }
            }
            (None, Some(ends)) => Change::Extend { address: ip(address), ends },
            (None, None) => Change::Close { address: ip(address) },
        };
        match act {
            Act::Open(span) => {
                let ends = running.clock.now().plus(*span);
                changes.push(change(Some(ends)));
                wanted.insert((key.lease_set(), key), Some(ends.plus(PAD)));
                wanted.insert(cut, None);
            }
            Act::Close => {
                changes.push(change(None));
                wanted.insert((key.lease_set(), key), None);
            }
            Act::Cut => {
                if !changes.is_empty() {
                    running.apply(std::mem::take(&mut changes));
                }
                running.send(Command::CutFlows(ip(address)));
                wanted.insert(cut, Some(begin.plus(CUT)));
            }
        }
    }
    // Also when there is nothing left to say: the acknowledgement shows that all before it was carried out.
    changes.push(Change::Close { address: ip("198.51.100.99") });
    running.apply(changes);
    running.applied();
    let took = begin.until(running.clock.now());
    for (element, ends) in wanted {
        match ends {
            Some(ends) => expected.insert(element, ends.minus(JIFFIES)..ends.plus(took + JIFFIES)),
            None => expected.remove(&element),
        };
    }
}

fn compare(running: &Running, expected: &Expected) -> Result<(), TestCaseError> {
    let mut kernel = Kernel::open().expect("a socket");
    for set in [Set::Lease4, Set::Lease6, Set::ClientLease4, Set::ClientLease6, Set::Cut4, Set::Cut6] {
        let before = running.clock.now();
        let held = match kernel.dump("destguard", set) {
            Ok(held) => held,
            Err(_) if matches!(set, Set::ClientLease4 | Set::ClientLease6) => Vec::new(),
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        };
        let after = running.clock.now();
        let keys: Vec<Key> = {
            let mut keys: Vec<Key> = held.iter().map(|held| held.key).collect();
            keys.sort_unstable();
            // A dump walks the kernel's hash table while that may grow, and can show an element twice.
            keys.dedup();
            keys
        };
        let wanted: Vec<Key> = expected.keys().filter(|(of, _)| *of == set).map(|(_, key)| *key).collect();
        prop_assert_eq!(keys, wanted, "the keys of {:?}", set);
        for element in held {
            let left = element.left.expect("nothing is permanent");
            let ends = &expected[&(set, element.key)];
            let (earliest, latest) = (before.plus(left), after.plus(left + JIFFIES));
            prop_assert!(
                latest >= ends.start && earliest <= ends.end,
                "{set:?} {:?}: ends between {earliest:?} and {latest:?} instead of {ends:?}",
                element.key
            );
        }
    }
    Ok(())
}

/// Some random lives of a driver, on what the probe finds or as on an old kernel.
fn lives(scope: Scope, old: bool) {
    alone(|| {
        let config = Nftables { scope, ..config(NftablesMode::Both) };
        let runner = Config { cases: 8, max_shrink_iters: 20, failure_persistence: None, ..Config::default() };
        let result = TestRunner::new(runner).run(&proptest::collection::vec(acts(), 4..9), |steps| {
            let mut running = Running::start_as(&config, &[], |enforcer| match old {
                true => enforcer.assume(OLD),
                false => enforcer,
            });
            let mut expected = Expected::new();
            let mut judged = Ok(());
            for acts in &steps {
                step(&mut running, scope, acts, &mut expected);
                judged = compare(&running, &expected);
                if judged.is_err() {
                    break;
                }
                std::thread::sleep(STEP);
            }
            running.stop();
            judged
        });
        if let Err(error) = result {
            panic!("{scope:?}, old {old}: {error}");
        }
    });
}

#[test]
fn leases_and_cuts_end_in_the_kernel_when_they_were_told_to() {
    lives(Scope::Shared, false);
}

#[test]
fn leases_and_cuts_end_when_they_were_told_to_on_kernels_before_6_12() {
    lives(Scope::Shared, true);
}

#[test]
fn pairs_and_cuts_end_in_the_kernel_when_they_were_told_to() {
    lives(Scope::Client, false);
}

#[test]
fn pairs_and_cuts_end_when_they_were_told_to_on_kernels_before_6_12() {
    lives(Scope::Client, true);
}
