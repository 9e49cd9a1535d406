//! DoT, DoH and DoQ, towards upstreams and towards clients, over real sockets.

use std::time::Duration;

use super::encrypted_ends::*;
use super::harness::*;
use crate::dns::Transport;

pub(super) const ALL: [Transport; 3] = [Transport::Tls, Transport::Https, Transport::Quic];

/// A guard whose only upstreams are these.
pub(super) async fn world(tables: &[String]) -> World {
    World::with(config(&[], &tables.concat())).await
}

pub(super) fn trusting(authority: &Authority) -> String {
    format!("server_name = \"resolver.example\"\nca = \"{}\"\n", authority.ca())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_questions_go_over_one_handshake_and_tell_nothing_by_their_length() {
    for transport in ALL {
        let authority = Authority::new();
        let upstream = Secure::new(transport, server(transport, &authority.leaf(&["resolver.example"]), None)).await;
        let world = world(&[upstream.table(&trusting(&authority))]).await;
        for round in 0..2 {
            let names: Vec<String> = (0..30).map(|index| format!("n{}.example", round * 100 + index)).collect();
            let seen = futures(names.iter().map(|name| world.ask(name, 1))).await;
            for seen in seen {
                assert_eq!((seen.rcode, seen.addresses()), (0, vec!["192.0.2.1".parse().unwrap()]), "{transport:?}");
            }
        }
        assert!(world.enforced.is_open("192.0.2.1"));
        assert_eq!(upstream.handshakes(), 1, "{transport:?}");
        let queries = upstream.queries.lock().unwrap().clone();
        assert_eq!(queries.len(), 60);
        for query in queries {
            assert_eq!(query.len(), 128, "padded");
            assert!(transport == Transport::Tls || query[..2] == [0, 0], "id 0");
        }
        upstream.assert_nothing_beside();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_a_silent_domain_leave_an_upstreams_streams_to_others() {
    for transport in [Transport::Https, Transport::Quic] {
        let authority = Authority::new();
        let upstream = Secure::new(transport, server(transport, &authority.leaf(&["resolver.example"]), None)).await;
        let world = world(&[upstream.table(&trusting(&authority))]).await;
        let greedy = client("127.0.0.1:0");
        for number in 0..600u16 {
            let question = query(number, &format!("n{number}.silent.example"), 1, EDNS);
            greedy.send_to(&question, world.address).unwrap();
        }
        until("many are asked", || upstream.count() >= 50).await;
        for number in 0..20 {
            let seen = world.ask(&format!("n{number}.example"), 1).await;
            assert_eq!((seen.rcode, seen.addresses().len()), (0, 1), "{transport:?} {seen:?}");
        }
        assert!(upstream.count() < 100, "{}", upstream.count());
    }
}

async fn futures<T>(all: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    // One after the other is enough where nothing depends on their being together; polled together all the same.
    let mut pinned: Vec<_> = all.map(Box::pin).collect();
    let mut done: Vec<Option<T>> = pinned.iter().map(|_| None).collect();
    std::future::poll_fn(move |context| {
        let mut waiting = false;
        for (future, done) in pinned.iter_mut().zip(&mut done) {
            if done.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *done = Some(value),
                    std::task::Poll::Pending => waiting = true,
                }
            }
        }
        if waiting {
            return std::task::Poll::Pending;
        }
        std::task::Poll::Ready(done.iter_mut().map(|done| done.take().unwrap()).collect())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_proves_nothing_is_not_asked_and_the_reason_is_shown() {
    let (authority, other) = (Authority::new(), Authority::new());
    for transport in ALL {
        let good = authority.leaf(&["resolver.example"]);
        let expired = authority.leaf_until(&["resolver.example"], 2002);
        let unpinned =
            format!("{}pins = [\"sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"]\n", trusting(&authority));
        let cases = [
            ("UnknownIssuer", server(transport, &good, None), trusting(&other)),
            ("resolver.example", server(transport, &authority.leaf(&["else.example"]), None), trusting(&authority)),
            // Without a name the certificate must bear the address.
            ("127.0.0.1", server(transport, &good, None), format!("ca = \"{}\"\n", authority.ca())),
            ("expired", server(transport, &expired, None), trusting(&authority)),
            ("pins", server(transport, &good, None), unpinned),
            ("ertificate", server(transport, &good, Some(&authority)), trusting(&authority)),
        ];
        for (words, tls, keys) in cases {
            let upstream = Secure::new(transport, tls).await;
            let world = world(&[upstream.table(&keys)]).await;
            let seen = world.ask("a.example", 1).await;
            assert_eq!((seen.rcode, seen.addresses().len()), (2, 0), "{transport:?} {words}");
            let (code, text) = seen.ede.unwrap();
            assert!([22, 23].contains(&code), "{transport:?} {words}: {code} {text}");
            let status = world.running.status().upstreams[0].clone();
            let error = status.last_error.unwrap();
            assert!(error.contains(words), "{transport:?}: {error:?} doesn't speak of {words}");
            assert!(status.failures > 0);
            assert_eq!(upstream.count(), 0, "{transport:?} {words}: it was asked");
            upstream.assert_nothing_beside();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_a_pin_and_an_address_open_the_door() {
    let authority = Authority::new();
    authority.write("client", &authority.leaf(&["guard.example"]));
    for transport in ALL {
        let leaf = authority.leaf(&["127.0.0.1"]);
        let pin = crate::tls::client::pin_of(&leaf.der).unwrap();
        let upstream = Secure::new(transport, server(transport, &leaf, Some(&authority))).await;
        let keys = format!(
            "ca = \"{}\"\nclient_certificate = \"{}\"\nclient_key = \"{}\"\npins = [\"sha256/{}\"]\n",
            authority.ca(),
            authority.file("client.pem").display(),
            authority.file("client.key").display(),
            base64(&pin),
        );
        let world = world(&[upstream.table(&keys)]).await;
        assert_eq!(world.ask("a.example", 1).await.addresses().len(), 1, "{transport:?}");
    }
}

pub(super) fn base64(octets: &[u8]) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bit = |at: usize| octets.get(at / 8).map_or(0, |octet| octet >> (7 - at % 8) & 1);
    let sextets = (0..octets.len() * 8).step_by(6).map(|at| (0..6).fold(0, |value, step| value << 1 | bit(at + step)));
    sextets.map(|sextet| char::from(LETTERS[usize::from(sextet)])).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_the_upstream_closes_is_made_anew_without_a_lost_question() {
    for transport in ALL {
        let authority = Authority::new();
        let upstream = Secure::new(transport, server(transport, &authority.leaf(&["resolver.example"]), None)).await;
        let world = world(&[upstream.table(&trusting(&authority))]).await;
        for round in 1..=5 {
            assert_eq!(world.ask(&format!("n{round}.example"), 1).await.addresses().len(), 1, "{transport:?}");
            assert_eq!(upstream.handshakes(), round, "{transport:?}");
            upstream.close_all();
        }
        assert_eq!(world.running.status().upstreams[0].failures, 0, "{transport:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_upstream_takes_over_from_one_that_proves_nothing() {
    let (authority, other) = (Authority::new(), Authority::new());
    let leaf = authority.leaf(&["resolver.example"]);
    let bad = Secure::new(Transport::Tls, server(Transport::Tls, &leaf, None)).await;
    let good = Secure::new(Transport::Quic, server(Transport::Quic, &leaf, None)).await;
    let world = world(&[bad.table(&trusting(&other)), good.table(&trusting(&authority))]).await;
    for index in 0..20 {
        assert_eq!(world.ask(&format!("n{index}.example"), 1).await.addresses().len(), 1);
    }
    assert_eq!(bad.count(), 0);
    assert!(!world.running.status().upstreams[0].healthy || good.handshakes() == 1);
}

/// A guard with listeners of all kinds and a plain upstream.
pub(super) async fn front(upstream: &Upstream, authority: &Authority, more: &str) -> World {
    authority.write("guard", &authority.leaf(&["guard.example", "127.0.0.1"]));
    let tls = format!(
        "[dns.tls]\ncertificate = \"{}\"\nkey = \"{}\"\ndot = [\"127.0.0.1:0\"]\ndoh = [\"127.0.0.1:0\"]\ndoq = [\"127.0.0.1:0\"]\n",
        authority.file("guard.pem").display(),
        authority.file("guard.key").display(),
    );
    World::with(config(&[upstream], &format!("{tls}{more}"))).await
}

pub(super) fn address(world: &World, transport: Transport) -> std::net::SocketAddr {
    world.running.encrypted().iter().find(|(other, _)| *other == transport).unwrap().1
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_over_every_transport_wait_for_the_gate() {
    let addresses: Vec<String> = (1..=6).map(|last| format!("192.0.2.{last}")).collect();
    let table: Vec<(String, u32, Vec<&str>)> =
        (0..6).map(|index| (format!("n{index}.example"), 60, vec![addresses[index].as_str()])).collect();
    let table: Vec<(&str, u32, &[&str])> =
        table.iter().map(|(name, ttl, list)| (name.as_str(), *ttl, &list[..])).collect();
    let upstream = Upstream::table(&table).await;
    let authority = Authority::new();
    let world = front(&upstream, &authority, "[gate]\ndeadline = \"300ms\"\n").await;
    for (index, transport) in ALL.into_iter().enumerate() {
        world.enforced.mute.store(true, std::sync::atomic::Ordering::SeqCst);
        let held = query(0, &format!("n{}.example", index + 3), 1, EDNS);
        let seen = ask(transport, address(&world, transport), &authority, &[held]).await.remove(0);
        assert_eq!((seen.rcode, seen.addresses().len()), (2, 0), "{transport:?}");
        assert_eq!(seen.ede.unwrap().0, 23);
        world.enforced.mute.store(false, std::sync::atomic::Ordering::SeqCst);
        world
            .core
            .tell(crate::core::event::Event::WantSync { enforcer: crate::core::event::EnforcerId(0) })
            .await
            .unwrap();
        let open = query(0, &format!("n{index}.example"), 1, EDNS);
        let seen = ask(transport, address(&world, transport), &authority, &[open]).await.remove(0);
        assert_eq!(seen.addresses(), [addresses[index].parse::<std::net::IpAddr>().unwrap()], "{transport:?}");
        assert!(world.enforced.is_open(&addresses[index]), "{transport:?}: released before it was open");
    }
    assert!(world.metric("dns_answers_gate_refused_total") >= 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_carries_many_questions_and_long_replies() {
    let upstream = Upstream::new(|query, tcp| {
        let (name, _) = asked(query);
        if name == "big.example" {
            let records: Vec<Rr> =
                (0..40).map(|n| rr(&name, 16, 60, &[&[250u8, n][..], &[b'x'; 249]].concat())).collect();
            let mut message = response(query, 0, &records);
            if !tcp {
                message.truncate(12 + name.len() + 2 + 4);
                message[2] |= 2;
                message[4..12].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
            }
            return Act::Send(vec![message]);
        }
        Act::Send(vec![response(query, 0, &[a(&name, 60, "192.0.2.7")])])
    })
    .await;
    let authority = Authority::new();
    let world = front(&upstream, &authority, "").await;
    for transport in ALL {
        let mut queries: Vec<_> = (0..50).map(|index| query(0, &format!("n{index}.example"), 1, EDNS)).collect();
        queries.push(query(0, "big.example", 16, EDNS));
        let seen = ask(transport, address(&world, transport), &authority, &queries).await;
        assert_eq!(seen.iter().filter(|seen| seen.addresses().len() == 1).count(), 50, "{transport:?}");
        let big = seen.iter().find(|seen| seen.answers.len() == 40).expect("the long reply");
        assert!(big.len > 10_000 && !big.truncated(), "{transport:?}");
    }
    let text = crate::metrics::encode(&world.registry).unwrap();
    for transport in ["dot", "doh", "doq"] {
        let line = format!("destguard_dns_encrypted_questions_total{{transport=\"{transport}\"}} 51");
        assert!(text.contains(&line), "{line}");
    }
    // Long replies count as waiting until they are taken, and no longer.
    assert!(text.contains("destguard_dns_stream_backlog_bytes "));
    until("nothing waits", || world.metric("dns_stream_backlog_bytes") == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_may_not_ask_get_no_handshake() {
    let upstream = Upstream::table(&[("a.example", 60, &["192.0.2.1"])]).await;
    let authority = Authority::new();
    authority.write("guard", &authority.leaf(&["guard.example"]));
    let mut config = config(&[&upstream], "");
    config.dns.clients = vec!["192.0.2.0/24".parse().unwrap()];
    config.dns.tls.certificate = Some(authority.file("guard.pem"));
    config.dns.tls.key = Some(authority.file("guard.key"));
    for list in [&mut config.dns.tls.dot, &mut config.dns.tls.doh, &mut config.dns.tls.doq] {
        list.push("127.0.0.1:0".parse().unwrap());
    }
    let world = World::with(config).await;
    for transport in [Transport::Tls, Transport::Https] {
        assert!(connect(transport, address(&world, transport), &authority).await.is_err(), "{transport:?}");
    }
    let quic = connect_quic(address(&world, Transport::Quic), &authority);
    assert!(!matches!(tokio::time::timeout(Duration::from_secs(1), quic).await, Ok(Ok(_))));
    assert_eq!(upstream.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn http_requests_that_are_no_questions_get_their_status() {
    use http_body_util::{BodyExt, Full};
    use hyper::body::Bytes;
    let upstream = Upstream::table(&[("a.example", 60, &["192.0.2.1"])]).await;
    let authority = Authority::new();
    let world = front(&upstream, &authority, "").await;
    let mut send = connect_https(address(&world, Transport::Https), &authority).await;
    let question = query(0, "a.example", 1, None);
    let encoded = base64(&question).replace('+', "-").replace('/', "_");
    let media = "application/dns-message";
    let cases = [
        ("GET", format!("/dns-query?x=1&dns={encoded}"), "", vec![], 200),
        ("GET", "/dns-query".to_owned(), "", vec![], 400),
        ("GET", "/dns-query?dns=*".to_owned(), "", vec![], 400),
        ("GET", "/".to_owned(), "", vec![], 404),
        ("POST", "/dns-query".to_owned(), media, question.clone(), 200),
        ("POST", "/dns-query".to_owned(), media, vec![0; 5], 400),
        ("POST", "/dns-query".to_owned(), media, vec![0; 70_000], 413),
        ("POST", "/dns-query".to_owned(), "text/plain", question.clone(), 415),
        ("PUT", "/dns-query".to_owned(), media, question.clone(), 405),
    ];
    for (method, path, media, body, status) in cases {
        let request = hyper::Request::builder()
            .method(method)
            .uri(format!("https://guard.example{path}"))
            .header("content-type", media)
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        send.ready().await.unwrap();
        let response = tokio::time::timeout(PATIENCE, send.send_request(request)).await.unwrap().unwrap();
        assert_eq!(response.status(), status, "{method} {path} {media}");
        if status == 200 {
            assert_eq!(response.headers()["cache-control"], "max-age=60");
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(read(&body).addresses().len(), 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quic_client_that_breaks_the_protocol_loses_its_connection() {
    let upstream = Upstream::table(&[("a.example", 60, &["192.0.2.1"])]).await;
    let authority = Authority::new();
    let world = front(&upstream, &authority, "").await;
    let address = address(&world, Transport::Quic);
    let whole = query(0, "a.example", 1, EDNS);
    let wrong_id = query(7, "a.example", 1, EDNS);
    let framed = |message: &[u8], more: u16| [&(message.len() as u16 + more).to_be_bytes()[..], message].concat();
    for octets in [framed(&wrong_id, 0), framed(&whole, 1), vec![0], vec![]] {
        let (_endpoint, connection) = connect_quic(address, &authority).await.unwrap();
        let (mut send, _receive) = connection.open_bi().await.unwrap();
        send.write_all(&octets).await.unwrap();
        send.finish().unwrap();
        let ended = tokio::time::timeout(PATIENCE, connection.closed()).await.expect("closed");
        let quinn::ConnectionError::ApplicationClosed(close) = ended else { panic!("{ended}") };
        assert_eq!(u64::from(close.error_code), 2, "DOQ_PROTOCOL_ERROR");
    }
    assert_eq!(upstream.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guard_names_its_encrypted_listeners_and_forwards_nothing_of_resolver_arpa() {
    let upstream = Upstream::table(&[("a.example", 60, &["192.0.2.1"])]).await;
    let authority = Authority::new();
    let world = front(&upstream, &authority, "").await;
    let seen = world.ask("_dns.resolver.arpa", 64).await;
    assert_eq!((seen.rcode, seen.answers.len()), (0, 3));
    for (index, (transport, alpn)) in ALL.into_iter().zip([&b"\x03dot"[..], b"\x02h2", b"\x03doq"]).enumerate() {
        let (owner, kind, _, rdata) = &seen.answers[index];
        assert_eq!((owner.as_str(), *kind), ("_dns.resolver.arpa.", 64));
        let port = address(&world, transport).port();
        let mut expected = (index as u16 + 1).to_be_bytes().to_vec();
        expected.extend_from_slice(&wire("guard.example"));
        let mut parameters = vec![(1u16, alpn.to_vec()), (3, port.to_be_bytes().to_vec()), (4, vec![127, 0, 0, 1])];
        if transport == Transport::Https {
            parameters.push((7, b"/dns-query{?dns}".to_vec()));
        }
        for (key, value) in parameters {
            expected.extend_from_slice(&key.to_be_bytes());
            expected.extend_from_slice(&(value.len() as u16).to_be_bytes());
            expected.extend_from_slice(&value);
        }
        assert_eq!(*rdata, expected, "{transport:?}");
    }
    for (name, qtype) in [("_dns.resolver.arpa", 1), ("resolver.arpa", 64), ("x.resolver.arpa", 1)] {
        let seen = world.ask(name, qtype).await;
        assert_eq!((seen.rcode, seen.answers.len(), seen.authority.len()), (0, 0, 1), "{name}");
    }
    let without = World::new(&[&upstream]).await;
    let seen = without.ask("_dns.resolver.arpa", 64).await;
    assert_eq!((seen.rcode, seen.answers.len()), (0, 0));
    assert_eq!(upstream.count(), 0);
    // A name that only ends alike is another's.
    world.ask("notresolver.arpa", 1).await;
    assert_eq!(upstream.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_wildcards_the_address_that_was_asked_is_the_hint() {
    let upstream = Upstream::table(&[("a.example", 60, &["192.0.2.1"])]).await;
    let authority = Authority::new();
    authority.write("guard", &authority.leaf(&["guard.example"]));
    let mut config = config(&[&upstream], "");
    config.dns.listen = ["0.0.0.0:0", "[::]:0", "127.0.0.4:0"].map(|address| address.parse().unwrap()).to_vec();
    config.dns.tls.certificate = Some(authority.file("guard.pem"));
    config.dns.tls.key = Some(authority.file("guard.key"));
    config.dns.tls.dot = vec!["0.0.0.0:0".parse().unwrap()];
    // This one takes IPv4 as well.
    config.dns.tls.doh = vec!["[::]:0".parse().unwrap()];
    config.dns.tls.doq = vec!["127.0.0.1:0".parse().unwrap()];
    let world = World::with(config).await;
    let question = query(0, "_dns.resolver.arpa", 64, EDNS);
    let [v4, v6, bound] = [0, 1, 2].map(|index| world.running.addresses()[index].port());
    // Per record its address hints, IPv4 and IPv6.
    let hints = |seen: &Seen| -> Vec<(Vec<u8>, Vec<u8>)> {
        let of = |rdata: &[u8]| {
            let mut rest = &rdata[2 + wire("guard.example").len()..];
            let mut hints = (Vec::new(), Vec::new());
            while let [k0, k1, l0, l1, ..] = *rest {
                let end = 4 + usize::from(u16::from_be_bytes([l0, l1]));
                match u16::from_be_bytes([k0, k1]) {
                    4 => hints.0 = rest[4..end].to_vec(),
                    6 => hints.1 = rest[4..end].to_vec(),
                    _ => {}
                }
                rest = &rest[end..];
            }
            hints
        };
        seen.answers.iter().map(|(.., rdata)| of(rdata)).collect()
    };
    let (none, fixed) = (Vec::new(), (vec![127, 0, 0, 1], Vec::new()));
    let reached = |ip: [u8; 4]| vec![(ip.to_vec(), Vec::new()), (ip.to_vec(), Vec::new()), fixed.clone()];
    let over_udp = async |to: std::net::SocketAddr| {
        let from = if to.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
        let socket = tokio::net::UdpSocket::bind(from).await.unwrap();
        socket.connect(to).await.unwrap();
        socket.send(&question).await.unwrap();
        let mut buffer = [0; 2048];
        let len = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await.unwrap().unwrap();
        hints(&read(&buffer[..len]))
    };
    assert_eq!(over_udp(([127, 0, 0, 5], v4).into()).await, reached([127, 0, 0, 5]));
    assert_eq!(over_udp(([127, 0, 0, 6], v4).into()).await, reached([127, 0, 0, 6]));
    assert_eq!(over_udp(([127, 0, 0, 7], v6).into()).await, reached([127, 0, 0, 7]), "IPv4 to an IPv6 socket");
    assert_eq!(over_udp(([127, 0, 0, 4], bound).into()).await, reached([127, 0, 0, 4]), "a bound socket");
    // Which IPv4 address leads here isn't known to who asks over IPv6.
    let to = (std::net::Ipv6Addr::LOCALHOST, v6).into();
    let own = std::net::Ipv6Addr::LOCALHOST.octets().to_vec();
    assert_eq!(over_udp(to).await, [(none.clone(), none.clone()), (none.clone(), own), fixed.clone()]);
    // Over streams, and over the services themselves: the hints lead there.
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.8", v4)).await.unwrap();
    use tokio::io::AsyncWriteExt;
    stream.write_all(&[&(question.len() as u16).to_be_bytes()[..], &question].concat()).await.unwrap();
    assert_eq!(hints(&next_tcp(&mut stream).await), reached([127, 0, 0, 8]));
    for transport in ALL {
        let ip = if transport == Transport::Quic { [127, 0, 0, 1] } else { [127, 0, 0, 9] };
        let to = (ip, address(&world, transport).port()).into();
        let seen = ask(transport, to, &authority, std::slice::from_ref(&question)).await.remove(0);
        assert_eq!(hints(&seen), reached(ip), "{transport:?}");
    }
    assert_eq!(upstream.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_shown_and_a_broken_one_is_not() {
    let upstream = Upstream::table(&[("a.example", 60, &["192.0.2.1"])]).await;
    let authority = Authority::new();
    let world = front(&upstream, &authority, "").await;
    let shown = async || {
        let stream = connect(Transport::Tls, address(&world, Transport::Tls), &authority).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    };
    let (_endpoint, held) = connect_quic(address(&world, Transport::Quic), &authority).await.unwrap();
    let first = shown().await;
    let next = authority.leaf(&["guard.example", "other.example"]);
    assert_ne!(first, next.der);
    authority.write("guard", &next);
    until_async("the new certificate", async || shown().await == next.der).await;
    assert!(held.close_reason().is_none(), "connections stay");
    // The key of another certificate.
    let stray = authority.leaf(&["guard.example"]);
    authority.write("stray", &stray);
    std::fs::copy(authority.file("stray.pem"), authority.file("guard.pem")).unwrap();
    until("the error", || world.metric("dns_certificate_errors_total") > 0).await;
    assert_eq!(shown().await, next.der);
    std::fs::copy(authority.file("stray.key"), authority.file("guard.key")).unwrap();
    until_async("the third certificate", async || shown().await == stray.der).await;
}

pub(super) async fn until_async(what: &str, done: impl AsyncFn() -> bool) {
    let end = std::time::Instant::now() + PATIENCE;
    while !done().await {
        assert!(std::time::Instant::now() < end, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// BIND's client, which has never seen this code.
#[tokio::test(flavor = "multi_thread")]
async fn dig_gets_answers_over_tls_and_https() {
    let upstream = Upstream::table(&[("a.example", 60, &["192.0.2.1"])]).await;
    let authority = Authority::new();
    let world = front(&upstream, &authority, "").await;
    for (transport, option) in [(Transport::Tls, "+tls"), (Transport::Https, "+https")] {
        let (port, ca) = (address(&world, transport).port().to_string(), format!("+tls-ca={}", authority.ca()));
        let dig = move || {
            std::process::Command::new("dig")
                .args([
                    "@127.0.0.1",
                    "-p",
                    &port,
                    option,
                    &ca,
                    "+tls-hostname=guard.example",
                    "a.example",
                    "A",
                    "+time=5",
                ])
                .output()
        };
        let output = tokio::task::spawn_blocking(dig).await.unwrap().expect("dig of BIND 9.18 (package dnsutils)");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("status: NOERROR") && text.contains("192.0.2.1"), "{option}: {text}");
    }
}
