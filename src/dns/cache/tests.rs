use proptest::prelude::*;

use super::*;
use crate::core::event::{Grant, Grants, LeaseHandle, LeaseHandles};
use crate::dns::codec::ede::Ede;
use crate::dns::codec::reply::{Body, BodyWriter};

fn entry(key: &Key, octets: usize, expires: u64, generation: u64) -> Arc<Entry> {
    let keep = u32::try_from(expires / 1000).unwrap();
    let body = Body { octets: vec![0; octets], ttls: Vec::new() };
    Arc::new(Entry::new(key, &body, Made { keep, generation, ..Made::default() }))
}

fn key(number: u32) -> Key {
    Key::new(format!("\x08n{number:07}\x00").as_bytes(), 1, false)
}

#[test]
fn type_and_do_are_part_of_the_key() {
    let cache = Cache::new(1 << 20);
    let name = b"\x01a\x00";
    cache.put(entry(&Key::new(name, 1, false), 10, 1000, 1), Moment(0));
    assert!(cache.get(&Key::new(name, 1, false), 1, Moment(0)).is_some());
    assert!(cache.get(&Key::new(name, 1, true), 1, Moment(0)).is_none());
    assert!(cache.get(&Key::new(name, 28, false), 1, Moment(0)).is_none());
}

#[test]
fn a_key_of_one_client_is_its_own_and_leads_to_that_of_all_of_its_family() {
    let ip = |text: &str| text.parse::<std::net::IpAddr>().unwrap();
    let of = |client: &str| Key::new(b"\x01a\x00", 1, true).unchecked(true).in_view(3).of_client(ip(client));
    let (one, other, six, host) = (of("192.0.2.1"), of("192.0.2.2"), of("2001:db8::1"), of("127.0.0.1"));
    let keys = [&one, &other, &six, &host].map(|key| key.octets().to_vec());
    assert!(keys.iter().enumerate().all(|(at, key)| !keys[..at].contains(key)), "each has its own");
    for key in [&one, &other, &six, &host] {
        assert!(key.is_of_client() && key.is_unchecked() && key.view() == 3);
        assert!(!key.of_all().is_of_client() && key.of_all().view() == 3 && key.of_all().family() == key.family());
        assert_eq!(key.clone().in_view(5).view(), 5);
    }
    assert_eq!([one.family(), six.family(), host.family()], [Some(Family::Ipv4), Some(Family::Ipv6), None]);
    assert_eq!(one.of_all().octets(), other.of_all().octets());
    assert_ne!(one.of_all().octets(), six.of_all().octets(), "what they may be told differs");
    assert_eq!(host.octets(), of("::1").octets(), "this host is one client");
    let cache = Cache::new(1 << 20);
    cache.put(entry(&one, 10, 1000, 1), Moment(0));
    assert!(cache.get(&one, 1, Moment(0)).is_some() && cache.get(&other, 1, Moment(0)).is_none());
    assert!(cache.get(&one.of_all(), 1, Moment(0)).is_none());
}

#[test]
fn an_entry_ends_with_its_time_and_with_its_rules() {
    let cache = Cache::new(1 << 20);
    cache.put(entry(&key(1), 10, 1000, 1), Moment(0));
    assert!(cache.get(&key(1), 1, Moment(999)).is_some());
    assert!(cache.get(&key(1), 1, Moment(1000)).is_none());
    cache.put(entry(&key(1), 10, 1000, 1), Moment(0));
    assert!(cache.get(&key(1), 2, Moment(0)).is_none());
    assert_eq!(cache.usage(), (0, 0, 0));
    cache.put(entry(&key(1), 10, 1000, 1), Moment(1000));
    assert_eq!(cache.usage().0, 0, "what has ended is not kept");
}

#[test]
fn what_is_used_outlives_what_is_not() {
    let cache = Cache::new(64 * 20_000);
    for number in 0..20_000 {
        cache.put(entry(&key(number), 100, 1000, 1), Moment(0));
        for popular in 0..10 {
            drop(cache.get(&key(popular), 1, Moment(0)));
        }
    }
    assert!(cache.usage().2 > 10_000, "{:?}", cache.usage());
    for popular in 0..10 {
        assert!(cache.get(&key(popular), 1, Moment(0)).is_some(), "{popular}");
    }
}

#[test]
fn an_entry_larger_than_its_share_is_not_kept() {
    let cache = Cache::new(64 * 1000);
    cache.put(entry(&key(1), 1001, 1000, 1), Moment(0));
    assert_eq!(cache.usage(), (0, 0, 0));
    assert!(Cache::new(0).get(&key(1), 1, Moment(0)).is_none());
}

#[test]
fn only_what_is_used_and_nearly_over_is_asked_for_again_and_once() {
    let entry = entry(&key(1), 10, 1000, 1);
    assert!(!entry.wants_prefetch(Moment(950)));
    assert!(!entry.wants_prefetch(Moment(950)));
    assert!(!entry.wants_prefetch(Moment(899)));
    assert!(entry.wants_prefetch(Moment(901)));
    assert!(!entry.wants_prefetch(Moment(902)));
}

#[test]
fn what_an_entry_says_and_for_whom_counts_as_well() {
    let long: Name = format!("{0}.{0}.{0}.example", "x".repeat(60)).parse().unwrap();
    let of = |question: &Name, text: &'static str| {
        let again = Readmission {
            question: question.clone(),
            qtype: 1,
            chain: Arc::default(),
            grants: Grants::new(),
            whole: false,
        };
        let made = Made { again: Some(again), ede: Some(Ede::new(0, text)), keep: 1, ..Made::default() };
        Entry::new(&key(1), &Body { octets: vec![0; 100], ttls: Vec::new() }, made).cost()
    };
    let short = of(&Name::root(), "");
    assert!(of(&long, "") >= short + (long.wire().len() - 1));
    assert_eq!(of(&Name::root(), "words"), short + 5);
}

#[test]
fn however_an_answer_is_kept_it_says_what_it_said() {
    let name = |text: &str| text.parse::<Name>().unwrap();
    let ip = |n: u8| IpAddr::from([203, 0, 113, n]);
    let asked = name("www.example");
    let key = Key::new(asked.wire(), 1, true).in_view(3);
    let body = || BodyWriter::new(&asked, 1, 0).finish().unwrap();
    let again = |grants: &[(u8, u32)], chain: &[&str], whole| Readmission {
        question: asked.clone(),
        qtype: 1,
        chain: chain.iter().map(|text| name(text)).collect(),
        grants: grants.iter().map(|(n, ttl)| Grant { address: ip(*n), ttl: *ttl }).collect(),
        whole,
    };
    let leases = |of: &[u8]| of.iter().map(|n| LeaseHandle::new(ip(*n), Moment(9))).collect::<LeaseHandles>();
    for key in [key.clone(), key.clone().of_client(ip(7)), Key::new(b"\x05other\x00", 1, false)] {
        for (again, leased) in [
            (None, &[][..]),
            (Some(again(&[(1, 60)], &[], false)), &[1][..]),
            (Some(again(&[(1, 60)], &["alias.example"], true)), &[1]),
            (Some(again(&[(1, 60), (2, 60)], &[], false)), &[1, 2]),
            (Some(again(&[(1, 60), (2, 61)], &["alias.example"], false)), &[1, 2]),
            (Some(again(&[(1, 60), (2, 60)], &[], false)), &[2]),
            (Some(Readmission { question: name("else.example"), ..again(&[(1, 60)], &[], false) }), &[1]),
            (Some(Readmission { qtype: 28, ..again(&[(1, 60)], &[], false) }), &[1]),
        ] {
            let made = Made { keep: 5, leases: leases(leased), again: again.clone(), ..Made::default() };
            let entry = Entry::new(&key, &body(), made);
            assert_eq!((entry.again(), entry.opens()), (again.clone(), again.is_some()));
            assert_eq!(
                entry.leases().iter().map(LeaseHandle::address).collect::<Vec<_>>(),
                leased.iter().copied().map(ip).collect::<Vec<_>>()
            );
            assert!(entry.message.is_under(key.octets()) && entry.message.key().as_slice() == key.octets());
            assert!(!entry.message.is_under(Key::new(asked.wire(), 1, false).octets()));
            assert_eq!((entry.message.octets(), entry.expires()), (&*body().octets, Moment(5000)));
            let about = |text: &str| entry.is_about(&name(text));
            let chained = again.as_ref().is_some_and(|again| !again.chain.is_empty());
            assert_eq!((about("alias.example"), about("none.example")), (chained, false));
            // Leased anew, to others.
            let other = entry.leased(&key, leases(&[9]));
            assert_eq!((other.again(), other.leases().len(), other.expires()), (again, 1, entry.expires()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens, the octets stay within the bound, and what is found is what was put last.
    #[test]
    fn the_bound_holds(steps in proptest::collection::vec((0u32..40, 0usize..400, any::<bool>()), 1..400)) {
        let cache = Cache::new(64 * 1500);
        let mut last = std::collections::HashMap::new();
        for (number, octets, put) in steps {
            if put {
                cache.put(entry(&key(number), octets, 1000, 1), Moment(0));
                last.insert(number, octets);
            } else if let Some(found) = cache.get(&key(number), 1, Moment(0)) {
                prop_assert_eq!(Some(&found.message.octets().len()), last.get(&number));
            }
            prop_assert!(cache.usage().1 <= 64 * 1500);
        }
    }
}
