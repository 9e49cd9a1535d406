//! Encrypted listeners as clients of all kinds use them: HTTP/1.1, no ALPN, HEAD; how long a connection may stay; the guard by its own name.

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::client::TlsStream;

use super::encrypted::{address, base64, front};
use super::encrypted_ends::*;
use super::harness::*;
use crate::dns::Transport;

const MEDIA: &str = "application/dns-message";

/// TLS to the DoH port with these protocols.
async fn connect_with(world: &World, authority: &Authority, alpn: &[&[u8]]) -> TlsStream<tokio::net::TcpStream> {
    let mut config = client_config(Transport::Https, authority);
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let stream = tokio::net::TcpStream::connect(address(world, Transport::Https)).await.unwrap();
    connector.connect("guard.example".try_into().unwrap(), stream).await.unwrap()
}

fn encoded(question: &[u8]) -> String {
    base64(question).replace('+', "-").replace('/', "_")
}

async fn a_world(more: &str) -> (World, Authority, Upstream) {
    let upstream = Upstream::table(&[("a.example", 60, &["192.0.2.1"])]).await;
    let authority = Authority::new();
    let world = front(&upstream, &authority, more).await;
    (world, authority, upstream)
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_is_served_to_all_who_negotiate_nothing_better() {
    let (world, authority, _upstream) = a_world("").await;
    let question = query(0, "a.example", 1, None);
    for (alpn, chosen) in
        [(&[][..], None), (&[&b"http/1.1"[..]], Some(&b"http/1.1"[..])), (&[b"http/1.1", b"h2"], Some(b"h2"))]
    {
        let stream = connect_with(&world, &authority, alpn).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), chosen);
        if chosen == Some(b"h2") {
            continue;
        }
        let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        // Several on one connection.
        for (method, uri, body) in [
            ("POST", "/dns-query".to_owned(), question.clone()),
            ("GET", format!("/dns-query?dns={}", encoded(&question)), vec![]),
            ("HEAD", format!("/dns-query?dns={}", encoded(&question)), vec![]),
            ("GET", format!("/dns-query?ct&dns={}%3D%3D", encoded(&question)), vec![]),
        ] {
            let request = hyper::Request::builder()
                .method(method)
                .uri(uri)
                .header("host", "guard.example")
                .header("content-type", MEDIA)
                .body(Full::new(Bytes::from(body)))
                .unwrap();
            send.ready().await.unwrap();
            let response = tokio::time::timeout(PATIENCE, send.send_request(request)).await.unwrap().unwrap();
            assert_eq!(
                (response.status().as_u16(), &response.headers()["content-type"]),
                (200, &MEDIA.try_into().unwrap())
            );
            let len: usize = response.headers()["content-length"].to_str().unwrap().parse().unwrap();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            if method == "HEAD" {
                assert!(len > 12 && body.is_empty());
            } else {
                assert_eq!((len, read(&body).addresses().len()), (body.len(), 1), "{method}");
            }
        }
    }
}

/// What no library would send: HTTP/2 frames without ALPN, requests one behind the other, a request that never ends.
#[tokio::test(flavor = "multi_thread")]
async fn without_alpn_nobody_gets_http_2() {
    let (world, authority, _upstream) = a_world("").await;
    let mut stream = connect_with(&world, &authority, &[]).await;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut reply = Vec::new();
    // It may end without a farewell.
    drop(tokio::time::timeout(PATIENCE, stream.read_to_end(&mut reply)).await.expect("an end"));
    assert!(reply.is_empty() || reply.starts_with(b"HTTP/1.1 "), "{reply:?}");

    let mut stream = connect_with(&world, &authority, &[b"http/1.1"]).await;
    let get =
        format!("GET /dns-query?dns={} HTTP/1.1\r\nHost: guard.example\r\n", encoded(&query(0, "a.example", 1, None)));
    stream.write_all(format!("{get}\r\n{get}Connection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut reply = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut reply)).await.expect("an end").unwrap();
    let text = String::from_utf8_lossy(&reply);
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 2, "{text}");

    let mut stream = connect_with(&world, &authority, &[]).await;
    stream.write_all(get.as_bytes()).await.unwrap();
    let mut reply = Vec::new();
    let ended = tokio::time::timeout(super::super::listen::encrypted::IDLE + PATIENCE, stream.read_to_end(&mut reply));
    drop(ended.await.expect("it isn't kept for ever"));
    assert!(reply.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn media_types_may_have_parameters_and_answers_must_be_wanted() {
    let (world, authority, _upstream) = a_world("").await;
    let question = query(0, "a.example", 1, None);
    let uri = format!("https://guard.example/dns-query?dns={}", encoded(&question));
    let mut send = connect_https(address(&world, Transport::Https), &authority).await;
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], u16);
    let cases: [Case<'_>; 10] = [
        ("POST", &[("content-type", "application/dns-message; charset=utf-8")], 200),
        ("POST", &[("content-type", "Application/DNS-Message ;x=y")], 200),
        ("POST", &[("content-type", "application/dns-messages")], 415),
        ("POST", &[], 415),
        ("GET", &[("accept", "*/*")], 200),
        ("GET", &[("accept", "application/dns-message;q=0.9, text/html")], 200),
        ("GET", &[("accept", "application/dns-json")], 406),
        ("HEAD", &[("accept", "text/html, application/*;q=0.1")], 200),
        ("HEAD", &[], 200),
        ("DELETE", &[], 405),
    ];
    for (method, headers, status) in cases {
        let body = if method == "POST" { question.clone() } else { Vec::new() };
        let mut request = hyper::Request::builder().method(method).uri(&uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        send.ready().await.unwrap();
        let sent = send.send_request(request.body(Full::new(Bytes::from(body))).unwrap());
        let response = tokio::time::timeout(PATIENCE, sent).await.unwrap().unwrap();
        assert_eq!(response.status(), status, "{method} {headers:?}");
        if status == 405 {
            assert_eq!(response.headers()["allow"], "GET, HEAD, POST");
        }
        if status == 200 {
            assert_ne!(response.headers()["content-length"], "0");
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body.is_empty(), method == "HEAD");
        }
    }
}

/// RFC 9113 section 8.1.1: a malformed request is a stream error, also where its head alone would do for a refusal.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_shorter_than_it_says_is_an_error_of_its_stream() {
    let (world, authority, _upstream) = a_world("").await;
    let mut send = connect_https(address(&world, Transport::Https), &authority).await;
    let question = query(0, "a.example", 1, None);
    for media in [MEDIA, "text/plain"] {
        let request = hyper::Request::post("https://guard.example/dns-query")
            .header("content-type", media)
            .header("content-length", question.len() + 1)
            .body(Full::new(Bytes::from(question.clone())))
            .unwrap();
        send.ready().await.unwrap();
        let sent = tokio::time::timeout(PATIENCE, send.send_request(request)).await.unwrap();
        assert!(sent.is_err(), "{media}: {sent:?}");
    }
    // The connection goes on.
    let request = hyper::Request::get(format!("https://guard.example/dns-query?dns={}", encoded(&question)));
    send.ready().await.unwrap();
    assert_eq!(send.send_request(request.body(Full::default()).unwrap()).await.unwrap().status(), 200);
}

/// A question with edns-tcp-keepalive.
fn with_keepalive(name: &str) -> Vec<u8> {
    let mut message = query(7, name, 1, None);
    message[11] += 1;
    message.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 4, 0, 11, 0, 0]);
    message
}

/// The options of a reply: hickory reads them, so that they are well formed.
fn tenths(message: &[u8]) -> Option<u16> {
    use crate::dns::codec::wire::{TCP_KEEPALIVE, bears_option};
    hickory_proto::op::Message::from_vec(message).unwrap();
    let option = [0, 11, 0, 2];
    let at = message.windows(4).position(|window| window == option);
    assert_eq!(at.is_some(), bears_option(message, TCP_KEEPALIVE));
    at.map(|at| u16::from_be_bytes([message[at + 4], message[at + 5]]))
}

async fn exchange(stream: &mut (impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin), query: &[u8]) -> Vec<u8> {
    stream.write_all(&[&(query.len() as u16).to_be_bytes()[..], query].concat()).await.unwrap();
    stream.flush().await.unwrap();
    let reply = async {
        let mut message = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut message).await.unwrap();
        message
    };
    tokio::time::timeout(PATIENCE, reply).await.expect("a reply")
}

/// RFC 7828: who asks is told how long it may be silent, over TCP and DoT; others, and datagrams, bear nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_is_told_how_long_its_connection_stays() {
    let (world, authority, _upstream) = a_world("").await;
    let mut plain = tokio::net::TcpStream::connect(world.address).await.unwrap();
    let mut secure = connect(Transport::Tls, address(&world, Transport::Tls), &authority).await.unwrap();
    let silent = query(7, "a.example", 1, Some((1232, false)));
    assert_eq!(tenths(&exchange(&mut plain, &silent).await), None);
    // A miss, a hit, an error.
    for name in ["b.example", "a.example", "_dns.resolver.arpa"] {
        assert_eq!(tenths(&exchange(&mut plain, &with_keepalive(name)).await), Some(100), "{name}");
        let reply = exchange(&mut secure, &with_keepalive(name)).await;
        assert_eq!(tenths(&reply), Some(super::super::listen::encrypted::IDLE.as_secs() as u16 * 10), "{name}");
        assert!(reply.len().is_multiple_of(468), "padded");
    }
    // Without EDNS there is no place for it.
    assert_eq!(tenths(&exchange(&mut plain, &query(7, "a.example", 1, None)).await), None);
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&with_keepalive("a.example"), world.address).await.unwrap();
    let mut buffer = [0; 2048];
    let len = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(tenths(&buffer[..len]), None);
}

/// A browser that knows only `https://guard.example/dns-query` and asks the guard alone for that name.
#[tokio::test(flavor = "multi_thread")]
async fn the_guards_own_name_leads_to_it_without_upstream_and_lease() {
    let (world, authority, upstream) = a_world("[policy]\ndefault = \"deny\"\n").await;
    let v4 = world.ask("Guard.Example", 1).await;
    assert_eq!((v4.rcode, v4.addresses()), (0, vec!["127.0.0.1".parse().unwrap()]));
    assert!(v4.answers[0].2 <= 60);
    for qtype in [28, 64, 65] {
        let seen = world.ask("guard.example", qtype).await;
        assert_eq!((seen.rcode, seen.answers.len(), seen.authority.len()), (0, 0, 1), "{qtype}");
    }
    let question = [query(0, "guard.example", 1, EDNS)];
    let over = ask(Transport::Https, address(&world, Transport::Https), &authority, &question);
    assert_eq!(over.await[0].addresses().len(), 1);
    assert_eq!(upstream.count(), 0);
    assert!(world.enforced.open.lock().unwrap().is_empty());
    // Names below, beside, and other types are the policy's.
    for (name, qtype) in [("x.guard.example", 1), ("example", 1), ("guard.example", 16)] {
        assert_eq!(world.ask(name, qtype).await.rcode, 3, "{name} {qtype}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_wildcard_the_own_name_is_where_it_was_asked() {
    let upstream = Upstream::table(&[("guard.example", 60, &["192.0.2.1"])]).await;
    let authority = Authority::new();
    authority.write("guard", &authority.leaf(&["guard.example"]));
    let mut config = config(&[&upstream], "");
    config.mode = crate::config::schema::Mode::Audit;
    config.dns.listen = vec!["0.0.0.0:0".parse().unwrap()];
    config.dns.tls.certificate = Some(authority.file("guard.pem"));
    config.dns.tls.key = Some(authority.file("guard.key"));
    config.dns.tls.doh = vec!["0.0.0.0:0".parse().unwrap()];
    let world = World::with(config).await;
    let port = world.running.addresses()[0].port();
    for last in [5, 6] {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket
            .send_to(&query(7, "guard.example", 1, EDNS), (std::net::Ipv4Addr::new(127, 0, 0, last), port))
            .await
            .unwrap();
        let mut buffer = [0; 2048];
        let len = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await.unwrap().unwrap();
        assert_eq!(read(&buffer[..len]).addresses(), [std::net::IpAddr::from([127, 0, 0, last])]);
    }
    assert_eq!(upstream.count(), 0, "in audit as well");
    // Without listeners of its own the name is anybody's.
    let plain = World::new(&[&upstream]).await;
    assert_eq!(plain.ask("guard.example", 1).await.addresses(), ["192.0.2.1".parse::<std::net::IpAddr>().unwrap()]);
}
