//! Certificates, an upstream and clients that speak TLS, HTTPS and QUIC: with rustls, hyper and quinn alone, none of the guard's code.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use super::harness::*;
use crate::dns::Transport;

pub fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// An authority of certificates; its files lie in a directory of their own.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub directory: tempfile::TempDir,
}

/// A certificate and its key.
pub struct Leaf {
    pub der: CertificateDer<'static>,
    key: KeyPair,
    pem: String,
}

impl Leaf {
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(rcgen::DnType::CommonName, format!("test {}", rand::random::<u32>()));
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, directory }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn ca(&self) -> String {
        self.file("ca.pem").display().to_string()
    }

    pub fn leaf(&self, names: &[&str]) -> Leaf {
        self.leaf_until(names, 2099)
    }

    pub fn leaf_until(&self, names: &[&str], year: i32) -> Leaf {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Leaf { der: certificate.der().clone(), pem: certificate.pem(), key }
    }

    /// Nobody but itself has signed it.
    pub fn lonely(names: &[&str]) -> Leaf {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        Leaf { der: certificate.der().clone(), pem: certificate.pem(), key }
    }

    /// A list of what this authority has revoked.
    pub fn crl(&self, revoked: &[&Leaf]) -> String {
        let serial = |leaf: &Leaf| {
            // Certificate, TBSCertificate, version, then the serial number: all within 127 octets of one another but for the lengths of the first two.
            let at = leaf.der.windows(5).position(|part| part == [0xa0, 3, 2, 1, 2]).unwrap() + 5;
            let len = usize::from(leaf.der[at + 1]);
            rcgen::SerialNumber::from_slice(&leaf.der[at + 2..at + 2 + len])
        };
        let revoked = revoked.iter().map(|leaf| rcgen::RevokedCertParams {
            serial_number: serial(leaf),
            revocation_time: rcgen::date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = rcgen::CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2020, 1, 1),
            next_update: rcgen::date_time_ymd(2099, 1, 1),
            crl_number: rcgen::SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    /// Writes NAME.pem and NAME.key.
    pub fn write(&self, name: &str, leaf: &Leaf) {
        std::fs::write(self.file(&format!("{name}.key")), leaf.key.serialize_pem()).unwrap();
        std::fs::write(self.file(&format!("{name}.pem")), &leaf.pem).unwrap();
    }

    pub fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        Arc::new(roots)
    }
}

pub fn alpn(transport: Transport) -> &'static [u8] {
    match transport {
        Transport::Tls => b"dot",
        Transport::Https => b"h2",
        Transport::Quic => b"doq",
    }
}

pub fn scheme(transport: Transport) -> &'static str {
    match transport {
        Transport::Tls => "tls",
        Transport::Https => "https",
        Transport::Quic => "quic",
    }
}

/// A server's configuration; with `clients` only those whom this authority knows may connect.
pub fn server(transport: Transport, leaf: &Leaf, clients: Option<&Authority>) -> ServerConfig {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => builder.with_client_cert_verifier(
            WebPkiClientVerifier::builder_with_provider(authority.roots(), provider()).build().unwrap(),
        ),
    };
    let mut config = builder.with_single_cert(vec![leaf.der.clone()], leaf.key()).unwrap();
    config.alpn_protocols = vec![alpn(transport).to_vec()];
    config
}

/// The certificate that a client showed, and whether it resumed a session.
pub type Client = (Option<CertificateDer<'static>>, bool);

/// From a query to the reply.
pub type Script = dyn Fn(&[u8]) -> Vec<u8> + Send + Sync;

/// An upstream that answers every A question with 192.0.2.1, over one encrypted transport.
pub struct Secure {
    pub transport: Transport,
    pub address: SocketAddr,
    /// Queries, as they came.
    pub queries: Arc<Mutex<Vec<Vec<u8>>>>,
    pub handshakes: Arc<AtomicUsize>,
    /// Of each handshake: the client's certificate, and (not known of QUIC) whether a session was resumed.
    pub clients: Arc<Mutex<Vec<Client>>>,
    /// It hears queries and says nothing.
    pub mute: Arc<AtomicBool>,
    /// What it says to a query; at first, that every name has 192.0.2.1.
    pub script: Arc<Mutex<Arc<Script>>>,
    /// What follows its replies on QUIC streams.
    pub surplus: Arc<Mutex<Vec<u8>>>,
    /// `Age` headers of its HTTP responses.
    pub ages: Arc<Mutex<Vec<&'static str>>>,
    /// How the QUIC connections ended that the guard closed.
    pub ended: Arc<Mutex<Vec<quinn::ConnectionError>>>,
    /// Changed: every connection is closed.
    close: watch::Sender<u32>,
    /// The other protocol's sockets on the same port.
    beside: (Option<std::net::UdpSocket>, Option<std::net::TcpListener>),
}

pub fn reply_to(query: &[u8]) -> Vec<u8> {
    let (name, qtype) = asked(query);
    let records = if qtype == 1 { vec![a(&name, 60, "192.0.2.1")] } else { vec![soa("example", 60, 60)] };
    response(query, 0, &records)
}

pub async fn read_framed(read: &mut (impl tokio::io::AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let mut message = vec![0; usize::from(read.read_u16().await?)];
    read.read_exact(&mut message).await?;
    Ok(message)
}

pub fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes()[..], message].concat()
}

/// Whether it is about a domain of which nobody has an answer (over DoH and DoQ).
fn is_silent(query: &[u8]) -> bool {
    query.windows(8).any(|part| part == b"\x06silent\x07")
}

impl Secure {
    pub async fn new(transport: Transport, tls: ServerConfig) -> Self {
        let (close, closed) = watch::channel(0);
        let (queries, handshakes) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let note = {
            let queries = queries.clone();
            Arc::new(move |query: &[u8]| queries.lock().unwrap().push(query.to_vec()))
        };
        let count = handshakes.clone();
        let (clients, mute) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (seen, silent) = (clients.clone(), mute.clone());
        let script: Arc<Mutex<Arc<Script>>> = Arc::new(Mutex::new(Arc::new(reply_to)));
        let replies = script.clone();
        let say = move |query: &[u8]| {
            let script = replies.lock().unwrap().clone();
            script(query)
        };
        let ages: Arc<Mutex<Vec<&'static str>>> = Arc::default();
        let ended: Arc<Mutex<Vec<quinn::ConnectionError>>> = Arc::default();
        let surplus: Arc<Mutex<Vec<u8>>> = Arc::default();
        let (aged, ends, more) = (ages.clone(), ended.clone(), surplus.clone());
        let (tcp, udp) = loop {
            let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            if let Ok(udp) = std::net::UdpSocket::bind(tcp.local_addr().unwrap()) {
                break (tcp, udp);
            }
        };
        let address = tcp.local_addr().unwrap();
        tcp.set_nonblocking(true).unwrap();
        udp.set_nonblocking(true).unwrap();
        let beside = if transport == Transport::Quic {
            let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(tls).unwrap();
            let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
            let runtime = Arc::new(quinn::TokioRuntime);
            let endpoint = quinn::Endpoint::new(Default::default(), Some(config), udp, runtime).unwrap();
            tokio::spawn(async move {
                while let Some(incoming) = endpoint.accept().await {
                    let (note, count, mut closed) = (note.clone(), count.clone(), closed.clone());
                    let (seen, silent) = (seen.clone(), silent.clone());
                    let (say, ends, more) = (say.clone(), ends.clone(), more.clone());
                    tokio::spawn(async move {
                        let Ok(connection) = incoming.await else { return };
                        count.fetch_add(1, Ordering::SeqCst);
                        let shown = connection.peer_identity().and_then(|shown| {
                            shown.downcast::<Vec<CertificateDer<'static>>>().ok().and_then(|all| all.first().cloned())
                        });
                        seen.lock().unwrap().push((shown, false));
                        closed.mark_unchanged();
                        loop {
                            let (mut send, mut receive) = tokio::select! {
                                biased;
                                _ = closed.changed() => return connection.close(0u32.into(), b""),
                                streams = connection.accept_bi() => match streams {
                                    Ok(streams) => streams,
                                    Err(end) => return ends.lock().unwrap().push(end),
                                },
                            };
                            let octets = receive.read_to_end(70_000).await.unwrap();
                            note(&octets[2..]);
                            if silent.load(Ordering::SeqCst) || is_silent(&octets) {
                                // Neither a reply nor the stream's end.
                                tokio::spawn(async move {
                                    tokio::time::sleep(4 * PATIENCE).await;
                                    drop((send, receive));
                                });
                                continue;
                            }
                            let mut reply = framed(&say(&octets[2..]));
                            reply.extend_from_slice(&more.lock().unwrap());
                            send.write_all(&reply).await.unwrap();
                            send.finish().unwrap();
                        }
                    });
                }
            });
            (None, Some(tcp))
        } else {
            let listener = tokio::net::TcpListener::from_std(tcp).unwrap();
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
            tokio::spawn(async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let (note, count, mut closed) = (note.clone(), count.clone(), closed.clone());
                    let (seen, silent) = (seen.clone(), silent.clone());
                    let (say, aged) = (say.clone(), aged.clone());
                    let acceptor = acceptor.clone();
                    tokio::spawn(async move {
                        let Ok(mut stream) = acceptor.accept(stream).await else { return };
                        count.fetch_add(1, Ordering::SeqCst);
                        {
                            let tls = stream.get_ref().1;
                            let shown = tls.peer_certificates().and_then(|all| all.first()).cloned();
                            let resumed = tls.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
                            seen.lock().unwrap().push((shown.map(CertificateDer::into_owned), resumed));
                        }
                        closed.mark_unchanged();
                        if transport == Transport::Https {
                            let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
                                let (note, silent) = (note.clone(), silent.clone());
                                let (say, aged) = (say.clone(), aged.clone());
                                async move {
                                    assert_eq!(request.uri().path(), "/dns-query");
                                    let query = request.into_body().collect().await?.to_bytes();
                                    note(&query);
                                    if silent.load(Ordering::SeqCst) || is_silent(&query) {
                                        tokio::time::sleep(4 * PATIENCE).await;
                                    }
                                    let mut response = hyper::Response::builder()
                                        .header("content-type", "application/dns-message")
                                        .body(Full::new(Bytes::from(say(&query))))
                                        .unwrap();
                                    for age in &*aged.lock().unwrap() {
                                        response.headers_mut().append("age", age.parse().unwrap());
                                    }
                                    Ok::<_, hyper::Error>(response)
                                }
                            });
                            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                                .serve_connection(TokioIo::new(stream), service);
                            tokio::select! {
                                biased;
                                // Closed, or the client's end: both are fine here.
                                _ = closed.changed() => {}
                                _ = connection => {}
                            }
                            return;
                        }
                        loop {
                            let query = tokio::select! {
                                biased;
                                _ = closed.changed() => return,
                                Ok(query) = read_framed(&mut stream) => query,
                                else => return,
                            };
                            note(&query);
                            if silent.load(Ordering::SeqCst) {
                                continue;
                            }
                            stream.write_all(&framed(&say(&query))).await.unwrap();
                            stream.flush().await.unwrap();
                        }
                    });
                }
            });
            (Some(udp), None)
        };
        Self { transport, address, queries, handshakes, clients, mute, script, surplus, ages, ended, close, beside }
    }

    /// From now on it says this.
    pub fn says(&self, script: impl Fn(&[u8]) -> Vec<u8> + Send + Sync + 'static) {
        *self.script.lock().unwrap() = Arc::new(script);
    }

    pub fn count(&self) -> usize {
        self.queries.lock().unwrap().len()
    }

    pub fn handshakes(&self) -> usize {
        self.handshakes.load(Ordering::SeqCst)
    }

    pub fn close_all(&self) {
        self.close.send_modify(|count| *count += 1);
    }

    /// `[[dns.upstream]]` for it, with more keys.
    pub fn table(&self, keys: &str) -> String {
        format!("[[dns.upstream]]\nurl = \"{}://{}\"\n{keys}\n", scheme(self.transport), self.address)
    }

    /// That nobody tried the same port in plain text over the other of UDP and TCP.
    pub fn assert_nothing_beside(&self) {
        let mut buffer = [0; 512];
        if let Some(udp) = &self.beside.0 {
            assert_eq!(udp.recv(&mut buffer).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        }
        if let Some(tcp) = &self.beside.1 {
            assert_eq!(tcp.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        }
    }
}

pub fn client_config(transport: Transport, authority: &Authority) -> ClientConfig {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(authority.roots())
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn(transport).to_vec()];
    config
}

/// TLS to the guard under the name "guard.example".
pub async fn connect(
    transport: Transport,
    address: SocketAddr,
    authority: &Authority,
) -> std::io::Result<tokio_rustls::client::TlsStream<tokio::net::TcpStream>> {
    handshake(tokio::net::TcpStream::connect(address).await?, transport, authority).await
}

/// The same over a connection that is there.
pub async fn handshake(
    stream: tokio::net::TcpStream,
    transport: Transport,
    authority: &Authority,
) -> std::io::Result<tokio_rustls::client::TlsStream<tokio::net::TcpStream>> {
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client_config(transport, authority)));
    connector.connect(ServerName::try_from("guard.example").unwrap(), stream).await
}

/// One question over DoT for an A record.
pub async fn ask_over(mut stream: tokio_rustls::client::TlsStream<tokio::net::TcpStream>, name: &str) -> Seen {
    stream.write_all(&framed(&query(0, name, 1, EDNS))).await.unwrap();
    stream.flush().await.unwrap();
    let reply = tokio::time::timeout(PATIENCE, read_framed(&mut stream)).await.expect("a reply");
    read(&unpadded(reply.unwrap()))
}

/// Answers queries on a stream like [`Secure`] does, until it ends.
pub async fn answer_framed(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin) {
    while let Ok(query) = read_framed(&mut stream).await {
        if stream.write_all(&framed(&reply_to(&query))).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

/// HTTP/2 to the guard.
pub async fn connect_https(
    address: SocketAddr,
    authority: &Authority,
) -> hyper::client::conn::http2::SendRequest<Full<Bytes>> {
    let stream = connect(Transport::Https, address, authority).await.unwrap();
    let (send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    send
}

/// QUIC to the guard.
pub async fn connect_quic(
    address: SocketAddr,
    authority: &Authority,
) -> Result<(quinn::Endpoint, quinn::Connection), quinn::ConnectionError> {
    connect_quic_from("127.0.0.1", address, authority).await
}

/// The same from an address of one's own. It sends a PING every second.
pub async fn connect_quic_from(
    from: &str,
    address: SocketAddr,
    authority: &Authority,
) -> Result<(quinn::Endpoint, quinn::Connection), quinn::ConnectionError> {
    let endpoint = quic_endpoint(from, authority);
    let connection = endpoint.connect(address, "guard.example").unwrap().await?;
    Ok((endpoint, connection))
}

fn quic_endpoint(from: &str, authority: &Authority) -> quinn::Endpoint {
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(client_config(Transport::Quic, authority)).unwrap();
    let mut endpoint = quinn::Endpoint::client(format!("{from}:0").parse().unwrap()).unwrap();
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    let mut transport = quinn::TransportConfig::default();
    transport.keep_alive_interval(Some(std::time::Duration::from_secs(1)));
    config.transport_config(Arc::new(transport));
    endpoint.set_default_client_config(config);
    endpoint
}

/// The first packets of so many QUIC connections, as a forger would send them.
pub async fn initials(count: usize, authority: &Authority) -> Vec<Vec<u8>> {
    let sink = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let endpoint = quic_endpoint("127.0.0.1", authority);
    let mut packets: std::collections::HashMap<Vec<u8>, Vec<u8>> = Default::default();
    let mut buffer = [0; 2048];
    for wanted in 1..=count {
        let connecting = endpoint.connect(sink.local_addr().unwrap(), "guard.example").unwrap();
        // The farewell of the one before may come first; it bears the same id of its destination.
        while packets.len() < wanted {
            let (len, _) = tokio::time::timeout(PATIENCE, sink.recv_from(&mut buffer)).await.unwrap().unwrap();
            let id = buffer[6..6 + usize::from(buffer[5])].to_vec();
            packets.entry(id).or_insert_with(|| buffer[..len].to_vec());
        }
        drop(connecting);
    }
    packets.into_values().collect()
}

/// Asks the guard on one connection, all at once; replies in the order of the questions (but of their arrival for DoT).
pub async fn ask(transport: Transport, address: SocketAddr, authority: &Authority, queries: &[Vec<u8>]) -> Vec<Seen> {
    let exchange = async {
        match transport {
            Transport::Tls => {
                let mut stream = connect(transport, address, authority).await.unwrap();
                for query in queries {
                    stream.write_all(&framed(query)).await.unwrap();
                }
                stream.flush().await.unwrap();
                let mut seen = Vec::new();
                for _ in queries {
                    seen.push(read(&unpadded(read_framed(&mut stream).await.unwrap())));
                }
                seen
            }
            Transport::Https => {
                let send = connect_https(address, authority).await;
                let mut seen = Vec::new();
                let tasks: Vec<_> = queries
                    .iter()
                    .map(|query| {
                        let request = hyper::Request::post("https://guard.example/dns-query")
                            .header("content-type", "application/dns-message")
                            .body(Full::new(Bytes::from(query.clone())))
                            .unwrap();
                        tokio::spawn(send.clone().send_request(request))
                    })
                    .collect();
                for task in tasks {
                    let response = task.await.unwrap().unwrap();
                    assert_eq!(response.status(), 200);
                    assert_eq!(response.headers()["content-type"], "application/dns-message");
                    seen.push(read(&unpadded(response.into_body().collect().await.unwrap().to_bytes().into())));
                }
                seen
            }
            Transport::Quic => {
                let (_endpoint, connection) = connect_quic(address, authority).await.unwrap();
                let mut seen = Vec::new();
                let mut streams = Vec::new();
                for query in queries {
                    let (mut send, receive) = connection.open_bi().await.unwrap();
                    send.write_all(&framed(query)).await.unwrap();
                    send.finish().unwrap();
                    streams.push(receive);
                }
                for mut receive in streams {
                    let octets = receive.read_to_end(70_000).await.unwrap();
                    assert_eq!(usize::from(u16::from_be_bytes([octets[0], octets[1]])), octets.len() - 2);
                    seen.push(read(&unpadded(octets[2..].to_vec())));
                }
                seen
            }
        }
    };
    tokio::time::timeout(PATIENCE, exchange).await.expect("replies in time")
}

/// That the reply is padded to a multiple of 468, as every one with EDNS is.
fn unpadded(message: Vec<u8>) -> Vec<u8> {
    assert!(message.len().is_multiple_of(468), "{} octets", message.len());
    message
}
