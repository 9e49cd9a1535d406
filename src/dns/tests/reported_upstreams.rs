//! Upstreams as people meet them: small forms of public reports about resolvers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::harness::*;

fn only(seen: &Seen) -> String {
    let addresses = seen.addresses();
    assert_eq!(addresses.len(), 1, "{seen:?}");
    addresses[0].to_string()
}

fn tcp(upstream: &Upstream) -> usize {
    upstream.asked_tcp.load(Ordering::SeqCst)
}

/// Asked by a worker's own race, and by a task's (what is kept of a name makes one go).
const TYPES: [u16; 2] = [1, 28];

#[tokio::test(flavor = "multi_thread")]
async fn a_datagram_cut_without_tc_is_asked_for_over_tcp() {
    // In the middle of the record, of its address, of its header; and where it counts one more.
    for cut in [1, 3, 7, 12, 0] {
        let upstream = Upstream::new(move |query, tcp| {
            let (name, qtype) = asked(query);
            let address = if qtype == 1 { "192.0.2.1" } else { "2001:db8::1" };
            let mut message = response(query, 0, &[a(&name, 60, address)]);
            if !tcp {
                message.truncate(message.len() - cut);
                message[7] += u8::from(cut == 0);
            }
            Act::Send(vec![message])
        })
        .await;
        let world = World::new(&[&upstream]).await;
        for qtype in TYPES {
            only(&world.ask("name.example", qtype).await);
        }
        assert_eq!((upstream.count(), tcp(&upstream)), (2, 2), "{cut} octets");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_read_or_used_is_not_the_last_word_while_another_server_is_left() {
    type Reply = fn(&[u8]) -> Vec<u8>;
    let cases: [(&str, Reply); 7] = [
        ("an alias to itself", |query| {
            let (name, _) = asked(query);
            response(query, 0, &[cname(&name, 60, &name)])
        }),
        ("two aliases in a ring", |query| {
            let (name, _) = asked(query);
            response(query, 0, &[cname(&name, 60, "b.example"), cname("b.example", 60, &name)])
        }),
        ("two aliases of one name", |query| {
            let (name, _) = asked(query);
            response(query, 0, &[cname(&name, 60, "b.example"), cname(&name, 60, "c.example")])
        }),
        ("an address of five octets", |query| response(query, 0, &[rr(&asked(query).0, 1, 60, &[1, 2, 3, 4, 5])])),
        ("a referral of one that asks nobody", |query| {
            let mut reply = response(query, 0, &[Rr { section: 1, ..rr("example", 2, 60, &wire("ns.example")) }]);
            reply[3] &= 0x7f;
            reply
        }),
        ("FORMERR with all that was sent", |query| {
            let mut reply = query.to_vec();
            reply[2..4].copy_from_slice(&[0x81, 0x81]);
            reply
        }),
        ("a bare SERVFAIL", |query| [&query[..2], &[0x81, 0x82], &[0; 8]].concat()),
    ];
    for (what, reply) in cases {
        let broken = Upstream::new(move |query, _| Act::Send(vec![reply(query)])).await;
        let fine = Upstream::table(&[("name.example", 60, &["192.0.2.1"])]).await;
        let world = World::new(&[&broken, &fine]).await;
        assert_eq!(only(&world.ask("name.example", 1).await), "192.0.2.1", "{what}");
        // Alone it is the last word, and opens nothing.
        let world = World::new(&[&broken]).await;
        assert_eq!(world.ask("name.example", 1).await.rcode, 2, "{what}");
        assert!(world.enforced.open.lock().unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_copies_the_question_back_with_formerr_is_asked_without_edns_and_that_is_remembered() {
    let upstream = Upstream::new(|query, _| {
        let (name, _) = asked(query);
        if read(query).edns.is_none() {
            return Act::Send(vec![response(query, 0, &[a(&name, 60, "192.0.2.1")])]);
        }
        let mut reply = query.to_vec();
        reply[2..4].copy_from_slice(&[0x81, 0x81]);
        Act::Send(vec![reply])
    })
    .await;
    let world = World::new(&[&upstream]).await;
    for number in 0..20 {
        only(&world.ask(&format!("n{number}.example"), 1).await);
    }
    assert_eq!(upstream.count(), 21, "once it had to be found out");
    // What only EDNS can ask for is asked for all the same.
    let seen = world.exchange(query(1, "signed.example", 1, Some((1232, true)))).await.unwrap();
    assert_eq!((seen.rcode, upstream.count()), (0, 23));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lower_cases_the_question_resolves_with_tcp_and_without() {
    for works in [false, true] {
        let upstream = Upstream::new(move |query, tcp| {
            if tcp && !works {
                return Act::Silence;
            }
            let (name, _) = asked(query);
            let mut message = response(query, 0, &[a(&name, 60, "192.0.2.1")]);
            let end = 12 + name.len() + 2;
            message[12..end].make_ascii_lowercase();
            Act::Send(vec![message])
        })
        .await;
        let world = World::new(&[&upstream]).await;
        for number in 0..20 {
            let seen = world.ask(&format!("a-name-with-many-letters-in-it-{number}.example"), 1).await;
            assert_eq!(only(&seen), "192.0.2.1", "TCP works: {works}");
        }
        // It was found out once.
        let expected = if works { (1, 20) } else { (21, 1) };
        assert_eq!((upstream.count(), tcp(&upstream).min(20)), expected, "TCP works: {works}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_beside_data_is_followed_and_the_data_neither_told_nor_opened() {
    for whole in [true, false] {
        let upstream = Upstream::new(move |query, _| {
            let (name, _) = asked(query);
            let beside = [cname("x.example", 60, "y.example"), a("x.example", 60, "192.0.2.66")];
            let end = [a("y.example", 60, "192.0.2.1")];
            let records = match (name.as_str(), whole) {
                ("x.example", true) => [&beside[..], &end].concat(),
                ("x.example", false) => beside.to_vec(),
                _ => end.to_vec(),
            };
            Act::Send(vec![response(query, 0, &records)])
        })
        .await;
        let world = World::new(&[&upstream]).await;
        let seen = world.ask("x.example", 1).await;
        assert_eq!(only(&seen), "192.0.2.1", "the end came with it: {whole}");
        assert_eq!(seen.answers.iter().map(|(_, kind, ..)| *kind).collect::<Vec<_>>(), [5, 1]);
        assert!(world.enforced.is_open("192.0.2.1") && !world.enforced.is_open("192.0.2.66"));
        assert_eq!(world.metric("dns_unrelated_records_total"), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_at_a_reply_make_the_question_go_over_tcp() {
    let upstream = Upstream::new(|query, tcp| {
        let (name, _) = asked(query);
        let good = response(query, 0, &[a(&name, 60, if tcp { "192.0.2.1" } else { "192.0.2.66" })]);
        if tcp {
            return Act::Send(vec![good]);
        }
        let guesses = (1..=200u8).map(|guess| {
            let mut wrong = good.clone();
            wrong[1] ^= guess;
            wrong
        });
        Act::Send(guesses.chain([good.clone()]).collect())
    })
    .await;
    let world = World::new(&[&upstream]).await;
    for number in 0..10 {
        assert_eq!(only(&world.ask(&format!("n{number}.example"), 1).await), "192.0.2.1");
    }
    assert!(!world.enforced.is_open("192.0.2.66"));
    assert_eq!(tcp(&upstream), 10);
    assert!(world.running.status().upstreams[0].healthy);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_silent_domain_takes_no_upstream_down() {
    let probes = Arc::new(AtomicUsize::new(0));
    let counter = probes.clone();
    let upstream = Upstream::new(move |query, _| {
        let (name, _) = asked(query);
        if name.is_empty() {
            counter.fetch_add(1, Ordering::SeqCst);
        }
        if name.ends_with("silent.test") {
            return Act::Silence;
        }
        Act::Send(vec![response(query, 0, &[a(&name, 60, "192.0.2.1")])])
    })
    .await;
    let world = World::new(&[&upstream]).await;
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let end = Instant::now() + Duration::from_secs(8);
    let mut number = 0;
    // Nothing else is asked: all that the guard hears of its upstream is what it asks itself.
    while Instant::now() < end {
        number += 1;
        socket.send_to(&query(number, &format!("n{number}.silent.test"), 1, EDNS), world.address).await.unwrap();
        assert!(world.running.status().upstreams[0].healthy, "after {number} names");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(probes.load(Ordering::SeqCst) > 1, "it was asked whether it lives");
    assert_eq!(only(&world.ask("name.example", 1).await), "192.0.2.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_answers_nothing_is_down_and_healthy_again_only_after_a_while() {
    let alive = Arc::new(AtomicBool::new(true));
    let switch = alive.clone();
    let upstream = Upstream::new(move |query, _| {
        let (name, _) = asked(query);
        if !switch.load(Ordering::SeqCst) {
            return Act::Silence;
        }
        Act::Send(vec![response(query, 0, &[a(&name, 60, "192.0.2.1")])])
    })
    .await;
    let world = World::new(&[&upstream]).await;
    only(&world.ask("name.example", 1).await);
    alive.store(false, Ordering::SeqCst);
    let silent = Instant::now();
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut number = 0u16;
    while world.running.status().upstreams[0].healthy {
        number += 1;
        let name = format!("www.n{}.test", number % 5);
        socket.send_to(&query(number, &name, number, EDNS), world.address).await.unwrap();
        assert!(silent.elapsed() < 2 * PATIENCE, "still healthy");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(silent.elapsed() >= Duration::from_secs(3), "{:?}", silent.elapsed());
    // Nobody asks any more; the guard finds it by itself, and believes it at the second reply.
    let before = upstream.count();
    alive.store(true, Ordering::SeqCst);
    until("found again", || world.running.status().upstreams[0].healthy).await;
    assert!(upstream.count() >= before + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_dead_server_losses_of_the_living_one_cost_no_answer() {
    let dead = Upstream::new(|_, _| Act::Silence).await;
    let times: Mutex<HashMap<String, usize>> = Mutex::default();
    // It loses the first two queries for each name.
    let lossy = Upstream::new(move |query, _| {
        let (name, _) = asked(query);
        let mut times = times.lock().unwrap();
        let seen = times.entry(name.clone()).or_default();
        *seen += 1;
        if *seen <= 2 && !name.is_empty() {
            return Act::Silence;
        }
        Act::Send(vec![response(query, 0, &[a(&name, 60, "192.0.2.1")])])
    })
    .await;
    let world = World::new(&[&dead, &lossy]).await;
    for number in 0..10 {
        assert_eq!(only(&world.ask(&format!("n{number}.test.example"), 1).await), "192.0.2.1");
    }
    // The last ones asked it and hardly anybody else.
    let (before, of_dead) = (lossy.count(), dead.count());
    for number in 10..15 {
        only(&world.ask(&format!("n{number}.test.example"), 1).await);
    }
    assert!(lossy.count() - before >= 15);
    assert!(dead.count() - of_dead <= 5, "{} queries to the dead one", dead.count() - of_dead);
}

/// Takes every query of a connection, answers the first so many of them, and closes it; over TLS where there is an acceptor.
async fn closes_after(
    replies: usize,
    acceptor: Option<tokio_rustls::TlsAcceptor>,
) -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, connections) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counter = connections.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                match acceptor {
                    None => close_after(stream, replies).await,
                    Some(acceptor) => close_after(acceptor.accept(stream).await.unwrap(), replies).await,
                }
            });
        }
    });
    (address, connections)
}

async fn close_after(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin, replies: usize) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    for _ in 0..replies {
        let Ok(len) = stream.read_u16().await else { return };
        let mut query = vec![0; usize::from(len)];
        stream.read_exact(&mut query).await.unwrap();
        let reply = response(&query, 0, &[a(&asked(&query).0, 60, "192.0.2.1")]);
        stream.write_all(&[&(reply.len() as u16).to_be_bytes()[..], &reply].concat()).await.unwrap();
        stream.flush().await.unwrap();
    }
    // What is behind them is read, so that the end comes behind the replies and doesn't overtake them.
    stream.shutdown().await.unwrap();
    drop(tokio::time::timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_closes_after_some_replies_gets_the_rest_on_other_connections() {
    let authority = super::encrypted_ends::Authority::new();
    let tls = super::encrypted_ends::server(crate::dns::Transport::Tls, &authority.leaf(&["127.0.0.1"]), None);
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    for (replies, acceptor) in [(1, None), (3, None), (1, Some(acceptor.clone())), (3, Some(acceptor))] {
        let scheme = if acceptor.is_some() { "tls" } else { "tcp" };
        let (address, connections) = closes_after(replies, acceptor).await;
        let any = Upstream::table(&[]).await;
        let mut config = config(&[&any], "");
        config.dns.upstream[0].url = format!("{scheme}://{address}");
        config.dns.upstream[0].ca = (scheme == "tls").then(|| authority.ca().into());
        let world = World::with(config).await;
        // All at once, twice: the second time it is known.
        for round in 0..2 {
            let queries: Vec<_> = (0..60u16).map(|n| query(n, &format!("n{n}.r{round}.example"), 1, None)).collect();
            let seen = world.ask_tcp(&queries).await;
            let failed = seen.iter().filter(|seen| seen.addresses().len() != 1).count();
            assert_eq!(failed, 0, "{scheme}, {replies} replies each, round {round}");
        }
        let status = world.running.status().upstreams;
        assert_eq!((status[0].healthy, status[0].failures), (true, 0), "{scheme}, {replies} replies each");
        assert!(connections.load(Ordering::SeqCst) >= 120 / replies);
    }
}
