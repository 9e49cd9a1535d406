//! Upstreams that are slow, dead, cut, or wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::harness::*;

fn address(seen: &Seen) -> String {
    seen.addresses().first().map(ToString::to_string).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_reply_is_fetched_over_tcp() {
    let upstream = Upstream::new(|query, tcp| {
        let (name, _) = asked(query);
        let mut message = response(query, 0, &[a(&name, 60, if tcp { "192.0.2.1" } else { "192.0.2.66" })]);
        if !tcp {
            message[2] |= 2;
        }
        Act::Send(vec![message])
    })
    .await;
    let world = World::new(&[&upstream]).await;
    for name in ["one.example", "two.example"] {
        assert_eq!(address(&world.ask(name, 1).await), "192.0.2.1");
    }
    assert!(!world.enforced.is_open("192.0.2.66"));
    assert_eq!(upstream.asked_tcp.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_reply_without_tcp_is_passed_on_as_cut_and_opens_nothing() {
    let upstream = Upstream::new(|query, tcp| {
        let (name, _) = asked(query);
        if tcp {
            return Act::Silence;
        }
        let mut message = response(query, 0, &[a(&name, 60, "192.0.2.66")]);
        message[2] |= 2;
        Act::Send(vec![message])
    })
    .await;
    let world = World::new(&[&upstream]).await;
    let seen = world.ask("name.example", 1).await;
    assert_eq!((seen.rcode, seen.truncated(), seen.answers.len()), (0, true, 0));
    let seen = world.ask_tcp(&[query(1, "name.example", 1, EDNS)]).await;
    assert_eq!((seen[0].rcode, seen[0].truncated()), (2, false));
    assert!(world.enforced.open.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_reply_stands_when_tcp_is_silent() {
    let upstream = Upstream::new(|query, tcp| {
        if tcp {
            return Act::Later(PATIENCE, Vec::new());
        }
        let mut message = response(query, 0, &[]);
        message[2] |= 2;
        Act::Send(vec![message])
    })
    .await;
    let world = World::new(&[&upstream]).await;
    let seen = world.ask("name.example", 1).await;
    assert_eq!((seen.rcode, seen.truncated()), (0, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn identical_questions_in_flight_are_asked_once() {
    let upstream = Upstream::new(|query, _| {
        let (name, _) = asked(query);
        Act::Later(Duration::from_millis(200), response(query, 0, &[a(&name, 60, "192.0.2.1")]))
    })
    .await;
    let world = World::new(&[&upstream]).await;
    let asks: Vec<_> = (0..50).map(|_| world.ask("name.example", 1)).collect();
    // They borrow the world, so that they are driven here, all at once.
    let seen = futures_all(asks).await;
    assert!(seen.iter().all(|seen| address(seen) == "192.0.2.1"));
    assert_eq!(upstream.count(), 1);
}

/// Drives all futures at once.
async fn futures_all<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut ready = true;
        for (future, output) in &mut futures {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *output = Some(value),
                    std::task::Poll::Pending => ready = false,
                }
            }
        }
        if ready { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    futures.into_iter().map(|(_, output)| output.unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_upstream_is_hedged_then_passed_over_then_found_again() {
    let alive = Arc::new(AtomicBool::new(false));
    let switch = alive.clone();
    let flaky = Upstream::new(move |query, _| {
        let (name, _) = asked(query);
        if switch.load(Ordering::SeqCst) {
            return Act::Send(vec![response(query, 0, &[a(&name, 60, "192.0.2.1")])]);
        }
        Act::Silence
    })
    .await;
    let steady = Upstream::new(|query, _| {
        let (name, _) = asked(query);
        Act::Send(vec![response(query, 0, &[a(&name, 60, "192.0.2.2")])])
    })
    .await;
    let world = World::new(&[&flaky, &steady]).await;
    let started = Instant::now();
    let names: Vec<String> = (0..40).map(|n| format!("n{n}.example")).collect();
    for name in &names {
        assert_eq!(world.ask(name, 1).await.rcode, 0);
    }
    // Without hedging each would cost seconds; the first may cost what an unknown server is granted.
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    assert!(flaky.count() < 20, "it is asked less and less: {}", flaky.count());
    let status = world.running.status().upstreams;
    assert_eq!((status[1].healthy, status[1].last_error.as_ref()), (true, None));
    alive.store(true, Ordering::SeqCst);
    assert_eq!(world.ask("after.example", 1).await.rcode, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_down_is_passed_over_and_found_again_by_probes() {
    // The first refuses every datagram (nobody listens), until a server starts on its port.
    let reserved = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let first = reserved.local_addr().unwrap();
    drop(reserved);
    let steady = Upstream::new(|query, _| {
        let (name, _) = asked(query);
        Act::Send(vec![response(query, 0, &[a(&name, 60, "192.0.2.2")])])
    })
    .await;
    let mut config = config(&[&steady, &steady], "");
    config.dns.upstream[0].url = format!("udp://{first}");
    let world = World::with(config).await;
    let end = Instant::now() + PATIENCE;
    let mut number = 0;
    while world.running.status().upstreams[0].healthy {
        number += 1;
        assert!(Instant::now() < end, "it stays healthy: {:?}", world.running.status().upstreams);
        assert_eq!(address(&world.ask(&format!("n{number}.example"), 1).await), "192.0.2.2");
    }
    // Passed over now: only probes reach it, and they come one or two seconds apart, then more.
    let before = world.running.status().upstreams[0].queries;
    for number in 0..50 {
        assert_eq!(address(&world.ask(&format!("m{number}.example"), 1).await), "192.0.2.2");
    }
    assert!(world.running.status().upstreams[0].queries - before <= 2);
    let server = tokio::net::UdpSocket::bind(first).await.unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        while let Ok((len, peer)) = server.recv_from(&mut buffer).await {
            let (name, _) = asked(&buffer[..len]);
            server.send_to(&response(&buffer[..len], 0, &[a(&name, 60, "192.0.2.1")]), peer).await.unwrap();
        }
    });
    let end = Instant::now() + Duration::from_secs(20);
    let mut number = 0;
    while !world.running.status().upstreams[0].healthy {
        assert!(Instant::now() < end, "not found again");
        number += 1;
        assert_eq!(world.ask(&format!("p{number}.example"), 1).await.rcode, 0);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_are_dead_the_client_hears_it_in_time() {
    let silent = Upstream::new(|_, _| Act::Silence).await;
    let world = World::new(&[&silent]).await;
    let started = Instant::now();
    let seen = world.ask("name.example", 1).await;
    assert_eq!((seen.rcode, seen.ede.map(|(code, _)| code)), (2, Some(22)));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    // The failure is kept for a moment (RFC 9520), so that retries cost nothing.
    let asked = silent.count();
    let again = Instant::now();
    assert_eq!(world.ask("name.example", 1).await.rcode, 2);
    assert!(again.elapsed() < Duration::from_secs(1));
    assert_eq!(silent.count(), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_port_is_noticed_at_once() {
    let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let alive = Upstream::table(&[("name.example", 60, &["192.0.2.1"])]).await;
    let mut config = config(&[&alive], "");
    config.dns.upstream[0].url = format!("udp://{free}");
    let world = World::with(config).await;
    let started = Instant::now();
    let seen = world.ask("name.example", 1).await;
    assert_eq!((seen.rcode, seen.ede.map(|(code, _)| code)), (2, Some(23)));
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!(world.running.status().upstreams[0].last_error.as_deref(), Some("connection refused"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusing_upstream_is_not_the_last_word() {
    let refusing = Upstream::new(|query, _| Act::Send(vec![response(query, 5, &[])])).await;
    let fine = Upstream::table(&[("name.example", 60, &["192.0.2.1"])]).await;
    let world = World::new(&[&refusing, &fine]).await;
    assert_eq!(address(&world.ask("name.example", 1).await), "192.0.2.1");
    let world = World::new(&[&refusing]).await;
    let seen = world.ask("name.example", 1).await;
    assert_eq!((seen.rcode, seen.ede), (2, Some((0, "the upstream answered with code 5".to_owned()))));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_domain_chooses_the_upstream() {
    let upstream = |address: &'static str| {
        Upstream::new(move |query, _| {
            let (name, _) = asked(query);
            Act::Send(vec![response(query, 0, &[a(&name, 60, address)])])
        })
    };
    let (all, corp, deep) = (upstream("192.0.2.1").await, upstream("192.0.2.2").await, upstream("192.0.2.3").await);
    let mut config = config(&[&all, &corp, &deep], "");
    config.dns.upstream[1].domains = vec!["corp.example".to_owned()];
    config.dns.upstream[2].domains = vec!["deep.corp.example.".to_owned(), "Other.Example".to_owned()];
    let world = World::with(config).await;
    for (name, expected) in [
        ("www.example", "192.0.2.1"),
        ("notcorp.example", "192.0.2.1"),
        ("corp.example", "192.0.2.2"),
        ("a.b.corp.example", "192.0.2.2"),
        ("deep.corp.example", "192.0.2.3"),
        ("x.other.example", "192.0.2.3"),
    ] {
        assert_eq!(address(&world.ask(name, 1).await), expected, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tcp_upstream_serves_many_questions_on_one_connection() {
    let upstream = Upstream::table(&[("name.example", 0, &["192.0.2.1"])]).await;
    let mut config = config(&[&upstream], "");
    config.dns.upstream[0].url = format!("tcp://{}", upstream.address);
    let world = World::with(config).await;
    for _ in 0..5 {
        assert_eq!(address(&world.ask("name.example", 1).await), "192.0.2.1");
    }
    assert_eq!((upstream.count(), upstream.asked_tcp.load(Ordering::SeqCst)), (0, 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_ids_and_case_can_not_be_guessed() {
    let upstream = Upstream::table(&[]).await;
    let world = World::new(&[&upstream]).await;
    for number in 0..300 {
        world.ask(&format!("a-name-with-letters-{number}.example"), 1).await;
    }
    let ports = upstream.peers.lock().unwrap().len();
    assert!(ports > 40, "{ports} ports");
    let queries = upstream.queries.lock().unwrap();
    let ids: std::collections::HashSet<&[u8]> = queries.iter().map(|query| &query[..2]).collect();
    assert!(ids.len() > 280, "{} ids", ids.len());
    let cases: std::collections::HashSet<&[u8]> = queries.iter().map(|query| &query[13..30]).collect();
    assert!(cases.len() > 250, "{} cases", cases.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guard_is_not_its_own_upstream() {
    let upstream = Upstream::table(&[]).await;
    let world = World::new(&[&upstream]).await;
    for listen in ["127.0.0.1:0", "0.0.0.0:0"] {
        let mut config = config(&[&upstream], "");
        config.dns.listen = vec![listen.parse().unwrap()];
        let sockets = crate::dns::bind(&config).unwrap();
        config.dns.upstream[0].url = format!("udp://127.0.0.1:{}", sockets.addresses()[0].port());
        let started = crate::dns::start(
            &config,
            sockets,
            world.rules.clone(),
            world.core.clone(),
            crate::sys::clock::Clock::start(),
            world.denied.clone(),
            &mut crate::metrics::registry(),
        );
        assert!(matches!(started, Err(crate::dns::DnsError::Loop(_))), "{listen}");
    }
}

#[tokio::test]
async fn a_server_whose_domain_is_named_twice_is_no_second_server() {
    let text = "[[dns.upstream]]\nurl = \"udp://192.0.2.1\"\ndomains = [\"a.test\", \"b.test\", \"A.test.\"]\n";
    let config: crate::config::Config = toml::from_str(text).unwrap();
    let metrics = crate::dns::metrics::Metrics::register(&mut crate::metrics::registry());
    let upstreams = crate::dns::upstream::Upstreams::new(&config.dns.upstream, None, &metrics).unwrap();
    assert_eq!(upstreams.choices(), 1);
}
