//! The life of encrypted connections: how many, how long, with whom, and what follows when one end fails.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::io::AsyncReadExt;

use super::encrypted::{ALL, address, front, trusting, until_async, world};
use super::encrypted_ends::*;
use super::harness::*;
use crate::dns::Transport;
use crate::dns::listen::encrypted::{CONNECTIONS_PER_CLIENT, IDLE};

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_client_certificate_is_shown_without_restart_and_no_old_session_is_resumed() {
    for transport in ALL {
        let authority = Authority::new();
        let (first, second) = (authority.leaf(&["guard.example"]), authority.leaf(&["guard.example"]));
        authority.write("client", &first);
        let tls = server(transport, &authority.leaf(&["resolver.example"]), Some(&authority));
        let upstream = Secure::new(transport, tls).await;
        let keys = format!(
            "{}client_certificate = \"{}\"\nclient_key = \"{}\"\n",
            trusting(&authority),
            authority.file("client.pem").display(),
            authority.file("client.key").display(),
        );
        let world = world(&[upstream.table(&keys)]).await;
        let shown = async |name: &str| {
            assert_eq!(world.ask(name, 1).await.addresses().len(), 1, "{transport:?}: {name}");
            upstream.close_all();
            let (shown, _) = upstream.clients.lock().unwrap().last().unwrap().clone();
            shown.unwrap()
        };
        assert_eq!(shown("a.example").await, first.der, "{transport:?}");
        assert_eq!(shown("b.example").await, first.der, "{transport:?}");
        authority.write("client", &second);
        assert_eq!(shown("c.example").await, second.der, "{transport:?}");
        // A certificate without its key, as in the middle of a renewal, changes nothing.
        let third = authority.leaf(&["guard.example"]);
        authority.write("third", &third);
        std::fs::copy(authority.file("third.pem"), authority.file("client.pem")).unwrap();
        assert_eq!(shown("d.example").await, second.der, "{transport:?}");
        std::fs::copy(authority.file("third.key"), authority.file("client.key")).unwrap();
        assert_eq!(shown("e.example").await, third.der, "{transport:?}");
        assert_eq!(upstream.handshakes(), 5, "{transport:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_resumed_with_upstreams_and_by_clients() {
    for transport in [Transport::Tls, Transport::Https] {
        let authority = Authority::new();
        authority.write("client", &authority.leaf(&["guard.example"]));
        for mutual in [false, true] {
            let clients = mutual.then_some(&authority);
            let tls = server(transport, &authority.leaf(&["resolver.example"]), clients);
            let upstream = Secure::new(transport, tls).await;
            let mut keys = trusting(&authority);
            if mutual {
                keys += &format!(
                    "client_certificate = \"{}\"\nclient_key = \"{}\"\n",
                    authority.file("client.pem").display(),
                    authority.file("client.key").display()
                );
            }
            let world = world(&[upstream.table(&keys)]).await;
            for name in ["a.example", "b.example"] {
                assert_eq!(world.ask(name, 1).await.addresses().len(), 1);
                upstream.close_all();
            }
            let resumed: Vec<bool> = upstream.clients.lock().unwrap().iter().map(|(_, resumed)| *resumed).collect();
            assert_eq!(resumed, [false, true], "{transport:?}, client certificate: {mutual}");
        }
        // A client of the guard's listener.
        let plain = Upstream::table(&[("a.example", 60, &["192.0.2.1"])]).await;
        let world = front(&plain, &authority, "").await;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(client_config(transport, &authority)));
        let connect = async || {
            let stream = tokio::net::TcpStream::connect(address(&world, transport)).await.unwrap();
            connector.connect("guard.example".try_into().unwrap(), stream).await.unwrap()
        };
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let mut stream = connect().await;
            kinds.push(stream.get_ref().1.handshake_kind().unwrap());
            // Tickets come behind the handshake; reading takes them in.
            drop(tokio::time::timeout(std::time::Duration::from_millis(300), stream.read(&mut [0; 64])).await);
        }
        assert_eq!(kinds[1], rustls::HandshakeKind::Resumed, "{transport:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_encrypted_upstream_is_hedged_passed_over_and_found_again() {
    for (silent, steady) in
        [(Transport::Tls, Transport::Quic), (Transport::Https, Transport::Tls), (Transport::Quic, Transport::Https)]
    {
        let authority = Authority::new();
        let leaf = authority.leaf(&["resolver.example"]);
        let first = Secure::new(silent, server(silent, &leaf, None)).await;
        let second = Secure::new(steady, server(steady, &leaf, None)).await;
        first.mute.store(true, Ordering::SeqCst);
        let world = world(&[first.table(&trusting(&authority)), second.table(&trusting(&authority))]).await;
        let mut number = 0;
        let mut ask = async || {
            number += 1;
            let seen = world.ask(&format!("n{number}.example"), 1).await;
            assert_eq!((seen.rcode, seen.addresses().len()), (0, 1), "{silent:?}: question {number}");
        };
        // Every question is answered meanwhile, by the other one.
        let end = std::time::Instant::now() + 4 * PATIENCE;
        while second.count() < 30 {
            assert!(std::time::Instant::now() < end, "{silent:?}: {} questions", second.count());
            ask().await;
        }
        assert!(first.count() < second.count(), "{silent:?} is asked less: {} of {}", first.count(), second.count());
        // The other way round: the one that was silent is found again.
        first.mute.store(false, Ordering::SeqCst);
        second.mute.store(true, Ordering::SeqCst);
        let before = first.count();
        while first.count() < before + 30 {
            assert!(std::time::Instant::now() < end + 4 * PATIENCE, "{silent:?}: {} questions", first.count());
            ask().await;
        }
        first.assert_nothing_beside();
        second.assert_nothing_beside();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_upstream_that_is_gone_is_passed_over_and_found_again() {
    // Nobody listens on its port, until somebody does.
    let authority = Authority::new();
    let leaf = authority.leaf(&["resolver.example"]);
    let steady = Secure::new(Transport::Tls, server(Transport::Tls, &leaf, None)).await;
    let reserved = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = reserved.local_addr().unwrap();
    drop(reserved);
    let table = format!("[[dns.upstream]]\nurl = \"tls://{gone}\"\n{}", trusting(&authority));
    let world = world(&[table, steady.table(&trusting(&authority))]).await;
    let mut number = 0;
    let mut ask = async || {
        number += 1;
        assert_eq!(world.ask(&format!("n{number}.example"), 1).await.addresses().len(), 1);
    };
    let end = std::time::Instant::now() + 4 * PATIENCE;
    while world.running.status().upstreams[0].healthy {
        assert!(std::time::Instant::now() < end, "{:?}", world.running.status().upstreams);
        ask().await;
    }
    assert!(world.running.status().upstreams[1].healthy);
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server(Transport::Tls, &leaf, None)));
    let listener = tokio::net::TcpListener::bind(gone).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move { answer_framed(acceptor.accept(stream).await.unwrap()).await });
        }
    });
    let number = std::sync::atomic::AtomicUsize::new(1000);
    until_async("found again", async || {
        let number = number.fetch_add(1, Ordering::SeqCst);
        assert_eq!(world.ask(&format!("n{number}.example"), 1).await.addresses().len(), 1);
        world.running.status().upstreams[0].healthy
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_has_a_bounded_number_of_encrypted_connections() {
    let upstream = Upstream::table(&[("a.example", 60, &["192.0.2.1"])]).await;
    let authority = Authority::new();
    let world = front(&upstream, &authority, "").await;
    let mut open = Vec::new();
    for _ in 0..CONNECTIONS_PER_CLIENT {
        open.push(connect(Transport::Tls, address(&world, Transport::Tls), &authority).await.unwrap());
    }
    // All transports count together: for each one more, the one that has been idle for longest goes.
    let mut more = Vec::new();
    for transport in [Transport::Tls, Transport::Https] {
        more.push(connect(transport, address(&world, transport), &authority).await.unwrap());
    }
    let (_endpoint, quic) = connect_quic(address(&world, Transport::Quic), &authority).await.unwrap();
    assert!(quic.close_reason().is_none());
    assert_eq!(world.metric("dns_connections_displaced_total"), 3);
    for stream in &mut open[..3] {
        let ended = tokio::time::timeout(PATIENCE, stream.read(&mut [0; 1])).await.expect("closed");
        assert!(matches!(ended, Ok(0) | Err(_)));
    }
    // The others are served, and so is somebody else.
    let asked = ask_over(open.remove(3), "a.example").await;
    assert_eq!(asked.addresses().len(), 1);
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
    let stream = socket.connect(address(&world, Transport::Tls)).await.unwrap();
    let other = handshake(stream, Transport::Tls, &authority).await.unwrap();
    assert_eq!(ask_over(other, "a.example").await.addresses().len(), 1);
    drop((open, more));
    until_async("places given back", async || connect_quic(address(&world, Transport::Quic), &authority).await.is_ok())
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_encrypted_connections_are_closed() {
    let upstream = Upstream::table(&[("a.example", 60, &["192.0.2.1"])]).await;
    let authority = Authority::new();
    let world = front(&upstream, &authority, "").await;
    let begin = std::time::Instant::now();
    let mut tls = connect(Transport::Tls, address(&world, Transport::Tls), &authority).await.unwrap();
    let https = connect_https(address(&world, Transport::Https), &authority).await;
    let (_endpoint, quic) = connect_quic(address(&world, Transport::Quic), &authority).await.unwrap();
    let most = IDLE + 2 * PATIENCE;
    let ended = tokio::time::timeout(most, tls.read(&mut [0; 1])).await.expect("DoT is closed");
    assert!(matches!(ended, Ok(0) | Err(_)));
    // Its PINGs keep it alive, but bring no question.
    let ended = tokio::time::timeout(most, quic.closed()).await.expect("DoQ is closed");
    let quinn::ConnectionError::ApplicationClosed(close) = ended else { panic!("{ended}") };
    assert_eq!((u64::from(close.error_code), &close.reason[..]), (0, &b"idle"[..]), "DOQ_NO_ERROR");
    until_async("DoH is closed", async || https.is_closed()).await;
    assert!(begin.elapsed() >= IDLE / 2, "they were given time");
    let open = |transport: &str| world.metric(&format!("dns_encrypted_connections{{transport=\"{transport}\"}}"));
    until("all places given back", || ["dot", "doh", "doq"].into_iter().map(open).sum::<u64>() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quic_connection_lives_by_its_questions_alone() {
    let upstream = Upstream::table(&[("a.example", 60, &["192.0.2.1"])]).await;
    let authority = Authority::new();
    let world = front(&upstream, &authority, "").await;
    // A listener of the same kind, most of whose places are taken.
    let (certificate, key) = (authority.file("guard.pem"), authority.file("guard.key"));
    let identity = crate::tls::server::Identity::open("dns.tls", &certificate, &key).unwrap();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let crowded = socket.local_addr().unwrap();
    let tls = crate::tls::server::config(identity, &Arc::default(), &[b"doq"]).unwrap();
    let own = socket.try_clone().unwrap();
    let endpoint = crate::dns::listen::quic::endpoint(socket, tls).unwrap();
    let connections = Arc::new(crate::dns::listen::tcp::Connections::default());
    let claim = |last: u8| crate::core::client::Clients::default().claim([192, 0, 2, last].into());
    let limit = connections.encrypted().limit();
    let crowd: Vec<_> = (0..25).map(|one| limit.take_some(claim(one), CONNECTIONS_PER_CLIENT).ok()).collect();
    assert!(crowd.iter().all(Option::is_some));
    let phase = Arc::new(crate::dns::listen::phase::Phase::new().unwrap());
    let resolver = world.running.resolver.clone();
    tokio::spawn(crate::dns::listen::quic::serve((endpoint, own), resolver, connections, phase));

    let (_endpoint, asking) = connect_quic(address(&world, Transport::Quic), &authority).await.unwrap();
    let (_other, opening) = connect_quic(address(&world, Transport::Quic), &authority).await.unwrap();
    let (_third, in_crowd) = connect_quic(crowded, &authority).await.unwrap();
    let begin = std::time::Instant::now();
    let ended = async |connection: &quinn::Connection| {
        let ended = tokio::time::timeout(IDLE + PATIENCE, connection.closed()).await.expect("closed");
        let quinn::ConnectionError::ApplicationClosed(close) = ended else { panic!("{ended}") };
        assert_eq!((u64::from(close.error_code), &close.reason[..]), (0, &b"idle"[..]));
    };
    ended(&in_crowd).await;
    assert!(begin.elapsed() < IDLE, "in a crowd less time is given");
    let mut streams = Vec::new();
    while begin.elapsed() < IDLE + std::time::Duration::from_secs(1) {
        // One has a question now and then; the other opens a stream and says nothing on it.
        let (mut send, mut receive) = asking.open_bi().await.expect("a connection with questions stays");
        let question = query(0, "a.example", 1, EDNS);
        send.write_all(&(question.len() as u16).to_be_bytes()).await.unwrap();
        send.write_all(&question).await.unwrap();
        send.finish().unwrap();
        let reply = tokio::time::timeout(PATIENCE, receive.read_to_end(70_000)).await.unwrap().unwrap();
        assert_eq!(read(&reply[2..]).addresses().len(), 1);
        if let Ok((mut send, receive)) = opening.open_bi().await {
            // It may have been closed meanwhile, which is what is asked for.
            drop(send.write_all(&[0]).await);
            streams.push((send, receive));
        }
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    }
    ended(&opening).await;
    assert!(asking.close_reason().is_none(), "it is older than what may be idle");
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_quic_packets_take_no_place_of_their_victim() {
    let upstream = Upstream::table(&[("a.example", 60, &["192.0.2.1"])]).await;
    let authority = Authority::new();
    let world = front(&upstream, &authority, "").await;
    let (dot, doq) = (address(&world, Transport::Tls), address(&world, Transport::Quic));
    const VICTIM: &str = "127.0.0.7";
    // Whether the guard answers a first packet with Retry (RFC 9000 section 17.2.5).
    let is_retry = |packet: &[u8]| packet[0] & 0xb0 == 0xb0;
    let forged = initials(2 * CONNECTIONS_PER_CLIENT, &authority).await;
    let forger = tokio::net::UdpSocket::bind(format!("{VICTIM}:0")).await.unwrap();
    for packet in &forged {
        forger.send_to(packet, doq).await.unwrap();
    }
    let expected = forged.len() - CONNECTIONS_PER_CLIENT / 4;
    until("handshakes are begun with a few", || world.metric("dns_quic_retries_total") == expected as u64).await;
    // All of the victim's places are there for it.
    let tls_from = async |from: &str| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        handshake(socket.connect(dot).await.unwrap(), Transport::Tls, &authority).await
    };
    let mut open = Vec::new();
    for number in 1..CONNECTIONS_PER_CLIENT {
        open.push(tls_from(VICTIM).await.unwrap_or_else(|error| panic!("connection {number}: {error}")));
    }
    let (_endpoint, quic) = connect_quic_from(VICTIM, doq, &authority).await.expect("by way of Retry");
    assert!(quic.close_reason().is_none());
    assert_eq!(world.metric("dns_connections_displaced_total"), 0);
    tls_from(VICTIM).await.expect("in place of its oldest");
    assert_eq!(world.metric("dns_connections_displaced_total"), 1, "no more than all");

    // Another client, without forged packets, is asked for a proof when a quarter of its places is taken, not before.
    let other = "127.0.0.8";
    let socket = tokio::net::UdpSocket::bind(format!("{other}:0")).await.unwrap();
    let mut held = Vec::new();
    let mut forged = initials(2, &authority).await;
    for (places, retried) in [(CONNECTIONS_PER_CLIENT / 4, false), (1, true)] {
        for _ in 0..places {
            held.push(tls_from(other).await.unwrap());
        }
        socket.send_to(&forged.pop().unwrap(), doq).await.unwrap();
        let answered = async {
            let mut buffer = [0; 2048];
            loop {
                let len = socket.recv(&mut buffer).await.unwrap();
                // The handshake that was begun is sent again and again.
                if is_retry(&buffer[..len]) || !retried {
                    return is_retry(&buffer[..len]);
                }
            }
        };
        assert_eq!(tokio::time::timeout(PATIENCE, answered).await, Ok(retried), "{} places taken", held.len());
    }
}
