//! What becomes of answers: leases, policy, cache, gate.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::harness::*;
use crate::core::event::{Event, RevokeTarget};

fn addresses(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|address| address.parse().unwrap()).collect()
}

/// An upstream that always sends these records.
async fn fixed(rcode: u16, records: Vec<Rr>) -> Upstream {
    Upstream::new(move |query, _| Act::Send(vec![response(query, rcode, &records)])).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_enforced_before_it_is_seen() {
    let upstream = Upstream::table(&[("two.example", 300, &["192.0.2.1", "192.0.2.2", "2001:db8::1"])]).await;
    let world = World::new(&[&upstream]).await;
    let seen = world.ask("two.example", 1).await;
    assert_eq!(seen.rcode, 0);
    assert_eq!(seen.addresses(), addresses(&["192.0.2.1", "192.0.2.2"]));
    assert_eq!(seen.answers.iter().map(|(_, _, ttl, _)| *ttl).collect::<Vec<_>>(), [300, 300]);
    assert_eq!(seen.flags & 0x8780, 0x8180 & 0x8780, "QR, RD, RA; neither AA nor TC nor AD: {:x}", seen.flags);
    assert!(world.enforced.is_open("192.0.2.1") && world.enforced.is_open("192.0.2.2"));
    assert!(!world.enforced.is_open("2001:db8::1"));
    let seen = world.ask("two.example", 28).await;
    assert_eq!(seen.addresses(), addresses(&["2001:db8::1"]));
    assert!(world.enforced.is_open("2001:db8::1"));
    assert_eq!(world.running.status().released, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_is_followed_put_in_order_and_freed_of_what_does_not_belong() {
    // Scenarios 3, 4, 6, 7, 15: address first, aliases out of order, a stranger, a repeated record, addresses elsewhere.
    let upstream = fixed(
        0,
        vec![
            a("c.example", 3600, "192.0.2.3"),
            a("victim.example", 300, "192.0.2.66"),
            cname("b.example", 60, "c.example"),
            a("c.example", 3600, "192.0.2.3"),
            cname("a.example", 300, "b.example"),
            Rr { section: 1, ..a("ns.example", 300, "192.0.2.67") },
            additional(a("c.example", 300, "192.0.2.68")),
        ],
    )
    .await;
    let world = World::new(&[&upstream]).await;
    let seen = world.ask("a.example", 1).await;
    let shape: Vec<(&str, u16)> = seen.answers.iter().map(|(owner, kind, ..)| (owner.as_str(), *kind)).collect();
    assert_eq!(shape, [("a.example.", 5), ("b.example.", 5), ("c.example.", 1)]);
    assert!(seen.authority.is_empty() && seen.additional.is_empty());
    assert_eq!(seen.addresses(), addresses(&["192.0.2.3"]));
    assert_eq!(world.enforced.open.lock().unwrap().len(), 1);
    assert!(world.metric("dns_unrelated_records_total") >= 1);
    // The lease follows the least TTL of the chain (60), and no TTL given to the client outlives it.
    assert!(seen.answers.iter().all(|(_, _, ttl, _)| *ttl <= 60), "{:?}", seen.answers);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_and_a_mismatched_dname_are_servfail_and_a_malformed_service_is_none() {
    let upstream = Upstream::new(|query, _| {
        let (name, _) = asked(query);
        let records = match name.as_str() {
            "self.example" => vec![cname("self.example", 60, "self.example"), a("self.example", 60, "192.0.2.1")],
            "x.d.example" => {
                let dname = rr("d.example", 39, 60, &wire("e.example"));
                vec![dname, cname("x.d.example", 60, "other.example"), a("other.example", 60, "192.0.2.1")]
            }
            _ => vec![rr(&name, 65, 60, &[0, 1, 0, 0, 4, 0, 9, 192, 0, 2, 1])],
        };
        Act::Send(vec![response(query, 0, &records)])
    })
    .await;
    let world = World::new(&[&upstream]).await;
    for (name, qtype) in [("self.example", 1), ("x.d.example", 1)] {
        let seen = world.ask(name, qtype).await;
        assert_eq!((seen.rcode, seen.ede.map(|(code, _)| code)), (2, Some(24)), "{name}");
        assert!(seen.answers.is_empty());
    }
    // RFC 9460 section 2.2: the client goes on as if there were none.
    let seen = world.ask("svc.example", 65).await;
    assert_eq!((seen.rcode, seen.answers.len()), (0, 0));
    assert!(world.enforced.open.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dname_without_its_cname_is_completed() {
    let dname = rr("d.example", 39, 60, &wire("e.example"));
    let upstream = fixed(0, vec![dname, a("x.e.example", 60, "192.0.2.9")]).await;
    let world = World::new(&[&upstream]).await;
    let seen = world.ask("x.d.example", 1).await;
    let kinds: Vec<u16> = seen.answers.iter().map(|(_, kind, ..)| *kind).collect();
    assert_eq!(kinds, [39, 5, 1], "{seen:?}");
    assert_eq!(seen.addresses(), addresses(&["192.0.2.9"]));
    assert!(world.enforced.is_open("192.0.2.9"));
}

#[tokio::test(flavor = "multi_thread")]
async fn hints_are_opened_or_taken_out() {
    // priority 1, target ".", alpn h2, ipv4hint 192.0.2.5 and 127.0.0.1, ipv6hint ::1
    let mut rdata = vec![0, 1, 0];
    rdata.extend_from_slice(&[0, 1, 0, 3, 2, b'h', b'2']);
    rdata.extend_from_slice(&[0, 4, 0, 8, 192, 0, 2, 5, 127, 0, 0, 1]);
    rdata.extend_from_slice(&[0, 6, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    let upstream = fixed(0, vec![rr("svc.example", 65, 60, &rdata)]).await;
    let world = World::new(&[&upstream]).await;
    let seen = world.ask("svc.example", 65).await;
    let mut expected = vec![0, 1, 0];
    expected.extend_from_slice(&[0, 1, 0, 3, 2, b'h', b'2', 0, 4, 0, 4, 192, 0, 2, 5]);
    assert_eq!(seen.answers.len(), 1, "{seen:?}");
    assert_eq!(seen.answers[0].3, expected);
    assert_eq!(seen.ede.map(|(code, _)| code), Some(17));
    assert!(world.enforced.is_open("192.0.2.5"));
    assert_eq!(world.enforced.open.lock().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn filtered_addresses_are_taken_out_of_the_answer() {
    let upstream = Upstream::table(&[
        ("bad.example", 60, &["127.0.0.1", "10.0.0.1"]),
        ("mixed.example", 60, &["10.0.0.1", "192.0.2.7"]),
    ])
    .await;
    let world = World::new(&[&upstream]).await;
    let seen = world.ask("bad.example", 1).await;
    assert_eq!((seen.rcode, seen.answers.len(), seen.ede.map(|(code, _)| code)), (0, 0, Some(17)));
    assert_eq!(seen.authority.len(), 1, "a SOA, so that clients keep it for a minute only");
    let seen = world.ask("mixed.example", 1).await;
    assert_eq!(seen.addresses(), addresses(&["192.0.2.7"]));
    assert_eq!(seen.ede.map(|(code, _)| code), Some(17));
    assert_eq!(world.enforced.open.lock().unwrap().len(), 1);
    assert_eq!(world.running.status().denied, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_name_never_reaches_the_upstream() {
    let upstream = Upstream::table(&[("fine.example", 60, &["192.0.2.1"]), ("bad.example", 60, &["192.0.2.2"])]).await;
    let world = World::with(config(&[&upstream], "[policy]\ndeny = [\"bad.example\"]\n")).await;
    for name in ["bad.example", "below.bad.example", "BAD.example"] {
        let seen = world.ask(name, 1).await;
        assert_eq!((seen.rcode, seen.ede.as_ref().map(|(code, _)| *code)), (3, Some(15)), "{name}");
        assert!(seen.ede.unwrap().1.contains("bad.example"));
        assert_eq!(seen.authority[0].1, 6);
        assert!(seen.authority[0].2 <= 60);
    }
    assert_eq!(upstream.count(), 0);
    let refused = world.refused();
    let shape: Vec<_> = refused.iter().map(|(kind, what, _, count)| (kind.as_str(), what.as_str(), *count)).collect();
    assert_eq!(shape, [("name", "below.bad.example A", 1), ("name", "bad.example A", 2)]);
    assert!(refused[0].2.contains("policy.deny[0]") && refused[0].2.contains("EDE 15"), "{refused:?}");
    assert_eq!(world.running.status().denied, 3);
    assert_eq!(world.ask("fine.example", 1).await.rcode, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_alias_denies_the_answer() {
    let upstream =
        fixed(0, vec![cname("a.example", 60, "tracker.example"), a("tracker.example", 60, "192.0.2.1")]).await;
    let world = World::with(config(&[&upstream], "[policy]\ndeny = [\"tracker.example\"]\n")).await;
    for _ in 0..2 {
        let seen = world.ask("a.example", 1).await;
        assert_eq!((seen.rcode, seen.ede.map(|(code, _)| code)), (3, Some(15)));
    }
    assert!(world.enforced.open.lock().unwrap().is_empty());
    // The second came from the cache and counts as well.
    assert_eq!((upstream.count(), world.running.status().denied), (1, 2));
    assert_eq!(world.refused()[0].3, 2, "{:?}", world.refused());
}

#[tokio::test(flavor = "multi_thread")]
async fn new_rules_count_at_once_for_what_is_cached() {
    let upstream = Upstream::table(&[("name.example", 600, &["192.0.2.1"])]).await;
    let mut world = World::new(&[&upstream]).await;
    assert_eq!(world.ask("name.example", 1).await.rcode, 0);
    world.config.policy.deny.push("name.example".to_owned());
    world.rules.store(Arc::new(rules(&world.config)));
    assert_eq!(world.ask("name.example", 1).await.rcode, 3);
    world.config.policy.deny.clear();
    world.rules.store(Arc::new(rules(&world.config)));
    assert_eq!(world.ask("name.example", 1).await.rcode, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn negative_answers_are_relayed_with_their_soa_and_kept() {
    let upstream = Upstream::new(|query, _| {
        let (name, _) = asked(query);
        let (rcode, records) = match name.as_str() {
            "nodata.example" => {
                (0, vec![soa("example", 300, 40), Rr { section: 1, ..rr("example", 2, 60, &wire("ns.example")) }])
            }
            "alias.example" => (3, vec![cname("alias.example", 30, "gone.example"), soa("example", 300, 40)]),
            "foreign.example" => (3, vec![soa("example.net", 300, 40)]),
            _ => (3, vec![soa("example", 300, 40)]),
        };
        Act::Send(vec![response(query, rcode, &records)])
    })
    .await;
    let world = World::new(&[&upstream]).await;
    for (name, rcode, answers) in [("gone.example", 3, 0), ("nodata.example", 0, 0), ("alias.example", 3, 1)] {
        let before = upstream.count();
        for _ in 0..2 {
            let seen = world.ask(name, 1).await;
            assert_eq!((seen.rcode, seen.answers.len()), (rcode, answers), "{name}");
            let authority: Vec<(u16, u32)> = seen.authority.iter().map(|(_, kind, ttl, _)| (*kind, *ttl)).collect();
            assert!(matches!(authority[..], [(6, 39..=40)]), "{name}: {authority:?}");
        }
        assert_eq!(upstream.count() - before, 1, "{name}");
    }
    // A SOA that isn't responsible for the name is taken out; without one nothing is kept (RFC 2308 section 5).
    for _ in 0..2 {
        assert!(world.ask("foreign.example", 1).await.authority.is_empty());
    }
    assert_eq!(upstream.count(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ttl_of_zero_is_opened_and_not_kept() {
    let upstream = Upstream::table(&[("zero.example", 0, &["192.0.2.1"])]).await;
    let world = World::new(&[&upstream]).await;
    for _ in 0..2 {
        let seen = world.ask("zero.example", 1).await;
        assert_eq!(seen.answers[0].2, 0);
    }
    assert!(world.enforced.is_open("192.0.2.1"));
    assert_eq!(upstream.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn ttls_count_down_and_never_exceed_the_lease() {
    let upstream =
        Upstream::table(&[("long.example", 900_000, &["192.0.2.1"]), ("top.example", 0x8000_0001, &["192.0.2.2"])])
            .await;
    let world = World::with(config(&[&upstream], "max = \"1h\"\n")).await;
    let first = world.ask("long.example", 1).await.answers[0].2;
    // "max" holds the grace too: 3600 less 75, and a little for the way.
    assert!((3515..=3525).contains(&first), "{first}");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let second = world.ask("long.example", 1).await.answers[0].2;
    assert!(second < first, "{first} {second}");
    assert_eq!(upstream.count(), 1);
    // RFC 2181 section 8.
    assert_eq!(world.ask("top.example", 1).await.answers[0].2, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn near_the_end_of_its_lease_an_entry_is_admitted_again_without_the_upstream() {
    let upstream = Upstream::table(&[("name.example", 300, &["192.0.2.1"])]).await;
    // The lease is as long as the margin that a hit wants, so that a moment later every hit is near its end.
    let world = World::with(config(&[&upstream], "min = \"1h\"\ngrace = \"0s\"\n")).await;
    for _ in 0..3 {
        assert_eq!(world.ask("name.example", 1).await.rcode, 0);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(upstream.count(), 1);
    assert_eq!(world.metric("dns_cache_readmitted_total"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_address_leaves_the_cache_with_its_lease() {
    let upstream = Upstream::table(&[("name.example", 300, &["192.0.2.1"])]).await;
    let world = World::new(&[&upstream]).await;
    world.ask("name.example", 1).await;
    assert!(world.enforced.is_open("192.0.2.1"));
    world.core.tell(Event::Revoke(RevokeTarget::Address("192.0.2.1".parse().unwrap()))).await.unwrap();
    until("closed", || !world.enforced.is_open("192.0.2.1")).await;
    // Whoever gets the address again finds it open again.
    assert_eq!(world.ask("name.example", 1).await.addresses().len(), 1);
    assert!(world.enforced.is_open("192.0.2.1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_confirmation_there_is_no_answer() {
    let upstream = Upstream::table(&[("name.example", 300, &["192.0.2.1"])]).await;
    let world = World::with(config(&[&upstream], "[gate]\ndeadline = \"200ms\"\n")).await;
    world.enforced.mute.store(true, Ordering::SeqCst);
    for asked in 1..=3 {
        let seen = world.ask("name.example", 1).await;
        assert_eq!((seen.rcode, seen.ede.as_ref().map(|(code, _)| *code)), (2, Some(23)));
        assert!(seen.answers.is_empty());
        assert!(seen.ede.unwrap().1.contains("memory"));
        assert_eq!(world.running.status().gate_timeouts, asked);
    }
    // The judged answer is kept, the upstream isn't bothered again.
    assert_eq!((upstream.count(), world.running.status().gate_refused), (1, 3));
    assert!(world.refused()[0].2.starts_with("deadline: "), "{:?}", world.refused());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_budget_of_one_client_is_not_anothers() {
    let upstream = Upstream::new(|query, _| {
        let (name, _) = asked(query);
        let address = if name == "first.same.example" { "192.0.2.1" } else { "192.0.2.2" };
        Act::Later(Duration::from_millis(200), response(query, 0, &[a(&name, 300, address)]))
    })
    .await;
    let mut config = config(&[&upstream], "");
    (config.lease.new_per_client, config.lease.burst_per_client) = ("1/h".parse().unwrap(), 1);
    let world = World::with(config).await;
    assert_eq!(world.ask("first.same.example", 1).await.rcode, 0);
    let (greedy, other) = (client("127.0.0.1:0"), client("127.0.0.2:0"));
    greedy.send_to(&query(1, "second.same.example", 1, EDNS), world.address).unwrap();
    until("in flight", || world.running.status().in_flight == 1).await;
    other.send_to(&query(2, "second.same.example", 1, EDNS), world.address).unwrap();
    let receive = |socket: &std::net::UdpSocket| {
        let mut buffer = [0; 1500];
        let len = socket.recv(&mut buffer).unwrap();
        read(&buffer[..len])
    };
    let (refused, served) = tokio::task::spawn_blocking(move || (receive(&greedy), receive(&other))).await.unwrap();
    assert_eq!((refused.rcode, refused.ede.map(|(code, _)| code)), (2, Some(18)));
    assert_eq!((served.rcode, served.addresses()), (0, addresses(&["192.0.2.2"])));
    assert_eq!(upstream.count(), 2);
    // Over its budget a client can't make the guard bother the upstream either.
    let mut config = world.config.clone();
    (config.lease.new_per_client, config.lease.burst_per_client) = ("1/h".parse().unwrap(), 1);
    let world = World::with(config).await;
    world.ask("first.same.example", 1).await;
    for _ in 0..3 {
        assert_eq!(world.ask("second.same.example", 1).await.rcode, 2);
    }
    assert_eq!(upstream.count(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn dnssec_records_only_for_those_who_ask() {
    let upstream = Upstream::new(move |query, _| {
        let (name, _) = asked(query);
        let mut records = vec![a(&name, 60, "192.0.2.1")];
        if read(query).edns.unwrap().1 {
            records.push(rrsig(&name, 1));
            records.push(Rr { section: 1, ..rr("example", 47, 60, &[&wire("a.example")[..], &[0, 1, 64]].concat()) });
            records.push(Rr { section: 1, ..rrsig("example", 47) });
            records.push(Rr { section: 1, ..rrsig("example", 2) });
        }
        Act::Send(vec![response(query, 0, &records)])
    })
    .await;
    let world = World::new(&[&upstream]).await;
    assert_eq!(world.ask("s.example", 1).await.answers.len(), 1);
    let seen = world.exchange(query(1, "s.example", 1, Some((1232, true)))).await.unwrap();
    let kinds = |list: &[(String, u16, u32, Vec<u8>)]| list.iter().map(|(_, kind, ..)| *kind).collect::<Vec<_>>();
    assert_eq!((kinds(&seen.answers), kinds(&seen.authority)), (vec![1, 46], vec![47, 46]));
    assert_eq!(seen.edns, Some((1232, true)));
    assert_eq!(upstream.count(), 2, "DO is part of the key");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_entry_is_asked_for_again_before_it_ends() {
    let upstream = Upstream::table(&[("name.example", 3, &["192.0.2.1"])]).await;
    let world = World::new(&[&upstream]).await;
    let end = std::time::Instant::now() + PATIENCE;
    // Somebody asks all the time; everything but the first comes from the cache.
    while world.metric("dns_cache_prefetches_total") < 2 {
        assert!(std::time::Instant::now() < end, "no prefetch");
        assert_eq!(world.ask("name.example", 1).await.rcode, 0);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    until("fetched", || upstream.count() >= 3).await;
    assert_eq!(world.metric("dns_forwarded_seconds_count"), 1, "nobody waited but the first");
}

#[tokio::test(flavor = "multi_thread")]
async fn how_full_the_cache_is_can_be_read() {
    let upstream = Upstream::table(&[("name.example", 60, &["192.0.2.1"])]).await;
    let world = World::new(&[&upstream]).await;
    assert_eq!(world.metric("dns_cache_bytes"), 0);
    world.ask("name.example", 1).await;
    assert_eq!((world.metric("dns_cache_entries"), world.metric("dns_cache_evictions_total")), (1, 0));
    assert!((100..2000).contains(&world.metric("dns_cache_bytes")), "{}", world.metric("dns_cache_bytes"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefetch_that_fails_leaves_the_entry() {
    let asked_before = std::sync::atomic::AtomicUsize::new(0);
    let upstream = Upstream::new(move |query, _| {
        if asked_before.fetch_add(1, Ordering::SeqCst) > 0 {
            return Act::Send(vec![response(query, 2, &[])]);
        }
        Act::Send(vec![response(query, 0, &[a("name.example", 10, "192.0.2.1")])])
    })
    .await;
    let world = World::new(&[&upstream]).await;
    let started = std::time::Instant::now();
    while upstream.count() < 2 {
        assert!(started.elapsed() < PATIENCE, "no prefetch");
        assert_eq!(world.ask("name.example", 1).await.rcode, 0);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    until("the prefetch is over", || world.metric("dns_questions_in_flight") == 0).await;
    let seen = world.ask("name.example", 1).await;
    assert!(seen.rcode == 0 || started.elapsed() > Duration::from_millis(9900), "{seen:?}");
}
