//! Who is told apart by a certificate or by a path, over DoT, DoH and DoQ: real connections, with rustls, hyper and quinn alone.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;

use super::encrypted::ALL;
use super::encrypted_ends::*;
use super::harness::*;
use crate::core::person::hex;
use crate::dns::*;

/// Everybody is denied `secret.example` and, behind an alias, `ads.example`; each group otherwise.
fn configuration(upstream: &Upstream, authority: &Authority, people: &Authority, groups: &str) -> Config {
    authority.write("guard", &authority.leaf(&["guard.example"]));
    let more = format!(
        "[dns.tls]\ncertificate = \"{}\"\nkey = \"{}\"\ndot = [\"127.0.0.1:0\"]\ndoh = [\"127.0.0.1:0\"]\ndoq = [\"127.0.0.1:0\"]\n\
         client_ca = \"{}\"\n[policy]\ndeny = [\"secret.example\", \"ads.example\"]\n{groups}",
        authority.file("guard.pem").display(),
        authority.file("guard.key").display(),
        people.ca(),
    );
    config(&[upstream], &more)
}

fn group(name: &str, how: &str) -> String {
    format!("[[policy.group]]\nname = \"{name}\"\n{how}\n")
}

async fn upstream(after: Duration) -> Upstream {
    Upstream::new(move |query, _| {
        let (name, qtype) = asked(query);
        let mut records = Vec::new();
        if name.starts_with("alias") {
            records.push(cname(&name, 60, "ads.example"));
            records.extend((qtype == 1).then(|| a("ads.example", 60, "192.0.2.9")));
        } else if qtype == 1 {
            records.push(a(&name, 60, "192.0.2.1"));
        }
        match response(query, 0, &records) {
            reply if after.is_zero() => Act::Send(vec![reply]),
            reply => Act::Later(after, reply),
        }
    })
    .await
}

fn client_of(transport: Transport, authority: &Authority, leaf: Option<&Leaf>) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(authority.roots());
    let mut config = match leaf {
        None => builder.with_no_client_auth(),
        Some(leaf) => builder.with_client_auth_cert(vec![leaf.der.clone()], leaf.key()).unwrap(),
    };
    config.alpn_protocols = vec![alpn(transport).to_vec()];
    config
}

/// An open connection of somebody.
enum Line {
    Tls(Box<tokio_rustls::client::TlsStream<tokio::net::TcpStream>>),
    Https(hyper::client::conn::http2::SendRequest<Full<Bytes>>),
    Quic { _endpoint: quinn::Endpoint, connection: quinn::Connection },
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

impl Line {
    async fn open(world: &World, transport: Transport, config: &ClientConfig) -> Result<Self, Failed> {
        let at = world.running.encrypted().iter().find(|(one, _)| *one == transport).unwrap().1;
        if transport == Transport::Quic {
            let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(config.clone()).unwrap();
            let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
            endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
            let connection = endpoint.connect(at, "guard.example").unwrap().await?;
            return Ok(Self::Quic { _endpoint: endpoint, connection });
        }
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config.clone()));
        let stream = tokio::net::TcpStream::connect(at).await?;
        let stream = connector.connect(ServerName::try_from("guard.example").unwrap(), stream).await?;
        if transport == Transport::Tls {
            return Ok(Self::Tls(Box::new(stream)));
        }
        let (send, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self::Https(send))
    }

    async fn ask_at(&mut self, name: &str, path: &str) -> Result<Seen, Failed> {
        let question = query(0, name, 1, EDNS);
        let exchange = async {
            match self {
                Self::Tls(stream) => {
                    stream.write_all(&framed(&question)).await?;
                    stream.flush().await?;
                    Ok(read(&read_framed(stream).await?))
                }
                Self::Https(send) => {
                    let request = hyper::Request::post(format!("https://guard.example{path}"))
                        .header("content-type", "application/dns-message")
                        .body(Full::new(Bytes::from(question)))?;
                    send.ready().await?;
                    let response = send.send_request(request).await?;
                    if response.status() != 200 {
                        return Err(response.status().as_str().into());
                    }
                    Ok(read(&response.into_body().collect().await?.to_bytes()))
                }
                Self::Quic { connection, .. } => {
                    let (mut send, mut receive) = connection.open_bi().await?;
                    send.write_all(&framed(&question)).await?;
                    send.finish()?;
                    let octets = receive.read_to_end(70_000).await?;
                    Ok(read(octets.get(2..).ok_or("no reply")?))
                }
            }
        };
        tokio::time::timeout(2 * PATIENCE, exchange).await.expect("an end of it")
    }

    async fn ask(&mut self, name: &str) -> Result<Seen, Failed> {
        self.ask_at(name, "/dns-query").await
    }
}

/// What a question gets on a connection of its own: "open", "denied", or why there is no reply.
async fn asked_by(world: &World, transport: Transport, config: &ClientConfig, (name, path): (&str, &str)) -> String {
    let seen = match Line::open(world, transport, config).await {
        Ok(mut line) => line.ask_at(name, path).await,
        Err(error) => Err(error),
    };
    words(seen)
}

fn words(seen: Result<Seen, Failed>) -> String {
    match seen {
        Ok(seen) if seen.rcode == 0 && !seen.addresses().is_empty() => "open".to_owned(),
        Ok(seen) if seen.rcode == 3 => "denied".to_owned(),
        Ok(seen) => format!("{seen:?}"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_says_who_asks_and_nobody_is_asked_for_one_who_has_none() {
    let (authority, people, strangers) = (Authority::new(), Authority::new(), Authority::new());
    let upstream = upstream(Duration::ZERO).await;
    let lonely = Authority::lonely(&["anna.staff.example"]);
    let digest = ring::digest::digest(&ring::digest::SHA256, &lonely.der);
    let groups = group("staff", "certificate = [\"*.staff.example\"]\nallow = [\"secret.example\"]")
        + &group(
            "one",
            &format!("certificate = [\"{}\"]\nallow = [\"secret.example\"]", hex(digest.as_ref().try_into().unwrap())),
        )
        + &group("here", "clients = [\"127.0.0.0/8\"]\ndeny = [\"secret.example\"]");
    let world = World::with(configuration(&upstream, &authority, &people, &groups)).await;
    for transport in ALL {
        let ask = async |leaf: Option<&Leaf>| {
            let config = client_of(transport, &authority, leaf);
            asked_by(&world, transport, &config, ("secret.example", "/dns-query")).await
        };
        assert_eq!(ask(Some(&people.leaf(&["anna.staff.example"]))).await, "open", "{transport:?}");
        // What was kept for those isn't there for others: of the address, and of a CA's people who are of no group.
        assert_eq!(ask(None).await, "denied", "{transport:?}");
        assert_eq!(ask(Some(&people.leaf(&["anna.guests.example"]))).await, "denied", "{transport:?}");
        assert_eq!(ask(Some(&lonely)).await, "open", "{transport:?}");
        // A name that no CA vouches for, another CA's, and one whose time is over.
        for wrong in [
            Authority::lonely(&["anna.staff.example"]),
            strangers.leaf(&["anna.staff.example"]),
            people.leaf_until(&["anna.staff.example"], 2002),
        ] {
            let end = ask(Some(&wrong)).await;
            assert!(!["open", "denied"].contains(&end.as_str()), "{transport:?}: {end}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_that_was_judged_for_one_is_given_to_another() {
    let (authority, people) = (Authority::new(), Authority::new());
    let upstream = upstream(Duration::from_millis(400)).await;
    let groups = group("staff", "certificate = [\"*.staff.example\"]\nallow = [\"ads.example\"]")
        + &group("kids", "certificate = [\"*.kids.example\"]\ndoh_path = \"/kids\"\ndeny = [\"ads.example\"]");
    let world = World::with(configuration(&upstream, &authority, &people, &groups)).await;
    let (staff, kid) = (people.leaf(&["anna.staff.example"]), people.leaf(&["pad.kids.example"]));
    for (round, transport) in ALL.into_iter().enumerate() {
        // In flight together, then out of the cache: the alias is judged when the answer comes.
        let name = format!("alias{round}.example");
        for _ in 0..2 {
            let ask = async |leaf: Option<&Leaf>| {
                let config = client_of(transport, &authority, leaf);
                asked_by(&world, transport, &config, (&name, "/dns-query")).await
            };
            let seen = tokio::join!(ask(Some(&staff)), ask(Some(&kid)), ask(None), ask(Some(&staff)));
            let seen = [seen.0, seen.1, seen.2, seen.3];
            assert_eq!(seen, ["open", "denied", "denied", "open"], "{transport:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_is_enough_without_a_certificate_and_nothing_against_one() {
    let (authority, people) = (Authority::new(), Authority::new());
    let upstream = upstream(Duration::ZERO).await;
    let groups = group("staff", "certificate = [\"*.staff.example\"]\ndeny = [\"x.example\"]\ndoh_path = \"/staff\"")
        + &group("kids", "certificate = [\"*.kids.example\"]\ndoh_path = \"/dns-query/kids\"\ndeny = [\"y.example\"]");
    let world = World::with(configuration(&upstream, &authority, &people, &groups)).await;
    let kid = people.leaf(&["pad.kids.example"]);
    let nobody = people.leaf(&["somebody.example"]);
    let cases: [(Option<&Leaf>, &str, [&str; 2]); 7] = [
        (None, "/dns-query", ["open", "open"]),
        (None, "/dns-query/kids", ["open", "denied"]),
        (None, "/staff", ["denied", "open"]),
        // The child asks by the grown-ups' path: its certificate says who it is.
        (Some(&kid), "/staff", ["open", "denied"]),
        (Some(&kid), "/dns-query", ["open", "denied"]),
        (Some(&nobody), "/staff", ["denied", "open"]),
        (None, "/dns-query/others", ["404", "404"]),
    ];
    for (leaf, path, expected) in cases {
        let config = client_of(Transport::Https, &authority, leaf);
        for (name, expected) in ["x.example", "y.example"].into_iter().zip(expected) {
            let seen = asked_by(&world, Transport::Https, &config, (name, path)).await;
            assert_eq!(seen, expected, "{name} at {path} with a certificate: {}", leaf.is_some());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_believed_changes_under_open_connections() {
    let (authority, people) = (Authority::new(), Authority::new());
    let upstream = upstream(Duration::ZERO).await;
    let groups = group("staff", "certificate = [\"*.staff.example\"]\nallow = [\"secret.example\"]");
    let before = configuration(&upstream, &authority, &people, &groups);
    let world = World::with(before.clone()).await;
    let (anna, otto) = (people.leaf(&["anna.staff.example"]), people.leaf(&["otto.staff.example"]));
    let put = |config: &Config| {
        let listeners = world.running.listeners();
        let prepared = listeners.prepare(config).unwrap();
        world.rules.store(Arc::new(rules(config)));
        listeners.switch(prepared).unwrap();
    };
    for transport in ALL {
        put(&before);
        let open = async |leaf: Option<&Leaf>| {
            Line::open(&world, transport, &client_of(transport, &authority, leaf)).await.unwrap()
        };
        let (mut of_anna, mut of_otto, mut of_nobody) =
            (open(Some(&anna)).await, open(Some(&otto)).await, open(None).await);
        for line in [&mut of_anna, &mut of_otto] {
            assert_eq!(words(line.ask("secret.example").await), "open", "{transport:?}");
        }
        // Of other groups: the same connections are judged anew.
        let narrow = group("staff", "certificate = [\"anna.staff.example\"]\nallow = [\"secret.example\"]");
        put(&configuration(&upstream, &authority, &people, &narrow));
        assert_eq!(words(of_anna.ask("secret.example").await), "open", "{transport:?}");
        assert_eq!(words(of_otto.ask("secret.example").await), "denied", "{transport:?}");
        // Revoked: the connection ends, and none is had again.
        let mut revoking = before.clone();
        std::fs::write(people.file("crl.pem"), people.crl(&[&otto])).unwrap();
        revoking.dns.tls.client_crl = Some(people.file("crl.pem"));
        put(&revoking);
        assert_eq!(words(of_anna.ask("secret.example").await), "open", "{transport:?}");
        let ended = words(of_otto.ask("secret.example").await);
        assert!(!["open", "denied"].contains(&ended.as_str()), "{transport:?}: {ended}");
        let config = client_of(transport, &authority, Some(&otto));
        let again = asked_by(&world, transport, &config, ("secret.example", "/dns-query")).await;
        assert!(!["open", "denied", "403"].contains(&again.as_str()), "{transport:?}: {again}");
        // Demanded of all.
        assert_eq!(words(of_nobody.ask("a.example").await), "open", "{transport:?}");
        let mut strict = before.clone();
        strict.dns.tls.require_client_certificate = true;
        put(&strict);
        assert_eq!(words(of_anna.ask("secret.example").await), "open", "{transport:?}");
        let ended = words(of_nobody.ask("a.example").await);
        assert!(!["open", "denied"].contains(&ended.as_str()), "{transport:?}: {ended}");
        let config = client_of(transport, &authority, None);
        let again = asked_by(&world, transport, &config, ("a.example", "/dns-query")).await;
        assert!(!["open", "denied", "403"].contains(&again.as_str()), "{transport:?}: {again}");
    }
    assert!(world.label("dns_dropped_packets_total", "client_certificate") >= 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_no_certificate() {
    let (authority, people) = (Authority::new(), Authority::new());
    let upstream = upstream(Duration::ZERO).await;
    let groups = group("staff", "certificate = [\"*.staff.example\"]\nallow = [\"secret.example\"]");
    let with = configuration(&upstream, &authority, &people, &groups);
    let mut without = with.clone();
    without.dns.tls.client_ca = None;
    without.policy.group.clear();
    let world = World::with(without.clone()).await;
    let put = |config: &Config| {
        let listeners = world.running.listeners();
        let prepared = listeners.prepare(config).unwrap();
        world.rules.store(Arc::new(rules(config)));
        listeners.switch(prepared).unwrap();
    };
    // One client, which remembers its sessions, as long as it may and longer.
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        put(&without);
        let leaf = people.leaf(&["anna.staff.example"]);
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(authority.roots())
            .with_client_auth_cert(vec![leaf.der.clone()], leaf.key())
            .unwrap();
        config.alpn_protocols = vec![alpn(Transport::Tls).to_vec()];
        let kind = async || {
            let mut line = Line::open(&world, Transport::Tls, &config).await.unwrap();
            let seen = words(line.ask("secret.example").await);
            let Line::Tls(stream) = &line else { panic!("TLS") };
            (seen, stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed))
        };
        assert_eq!(kind().await, ("denied".to_owned(), false));
        assert_eq!(kind().await, ("denied".to_owned(), true), "without certificates sessions are resumed");
        put(&with);
        for _ in 0..3 {
            assert_eq!(kind().await, ("open".to_owned(), false), "{version:?}");
        }
    }
}
