//! Clients over TLS, HTTPS and QUIC: some open a connection for each question, some keep one and ask again on another when it ends, as RFC 7766 and RFC 9250 tell them to.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hyper::body::{Buf as _, Bytes};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::load::question;

/// As long as a client waits.
const LIMIT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(15);

/// How it is asked.
#[derive(Clone, Copy, Debug)]
pub enum Speech {
    Tls,
    Https,
    Quic,
}

/// What became of the questions.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub asked: usize,
    /// Of those on a connection of their own: without an answer.
    pub failed: usize,
    /// Of those on a connection that is kept: asked again on another, because the first ended.
    pub again: usize,
    /// Of these: without an answer there, too.
    pub lost: usize,
    pub slowest: Duration,
    pub words: Vec<String>,
}

pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    all: Vec<(&'static str, Arc<Mutex<Seen>>)>,
    threads: Vec<JoinHandle<()>>,
}

type Asked = Result<Vec<u8>, String>;

enum Connection {
    Tls(Box<TlsStream<TcpStream>>),
    Https(http2::SendRequest<http_body_util::Full<Bytes>>),
    /// The endpoint lives as long.
    Quic(#[allow(dead_code)] quinn::Endpoint, quinn::Connection),
}

#[derive(Clone)]
struct Server {
    speech: Speech,
    at: SocketAddr,
    roots: rustls::RootCertStore,
}

impl Server {
    fn tls(&self, alpn: &[u8]) -> rustls::ClientConfig {
        let mut config =
            rustls::ClientConfig::builder().with_root_certificates(self.roots.clone()).with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        config
    }

    async fn connect(&self) -> Result<Connection, String> {
        let said = |error: &dyn std::fmt::Display| error.to_string();
        let secure = async |alpn: &[u8]| -> io::Result<TlsStream<TcpStream>> {
            let stream = TcpStream::connect(self.at).await?;
            stream.set_nodelay(true)?;
            let name = "guard.test".try_into().map_err(io::Error::other)?;
            tokio_rustls::TlsConnector::from(Arc::new(self.tls(alpn))).connect(name, stream).await
        };
        match self.speech {
            Speech::Tls => {
                secure(b"dot").await.map(Box::new).map(Connection::Tls).map_err(|error| format!("connecting: {error}"))
            }
            Speech::Https => {
                let stream = secure(b"h2").await.map_err(|error| format!("connecting: {error}"))?;
                let made = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
                let (sender, connection) = made.map_err(|error| said(&error))?;
                tokio::spawn(async move { drop(connection.await) });
                Ok(Connection::Https(sender))
            }
            Speech::Quic => {
                let tls = quinn::crypto::rustls::QuicClientConfig::try_from(self.tls(b"doq")).unwrap();
                let mut endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).map_err(|e| said(&e))?;
                endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(tls)));
                let connecting = endpoint.connect(self.at, "guard.test").map_err(|error| said(&error))?;
                let connection = connecting.await.map_err(|error| format!("connecting: {error}"))?;
                Ok(Connection::Quic(endpoint, connection))
            }
        }
    }
}

impl Connection {
    async fn ask(&mut self, question: &[u8]) -> Asked {
        let said = |error: &dyn std::error::Error| {
            let cause = error.source().map_or_else(String::new, |cause| format!(": {cause}"));
            format!("{error}{cause}")
        };
        let framed = [&u16::try_from(question.len()).unwrap().to_be_bytes()[..], question].concat();
        match self {
            Self::Tls(stream) => {
                let exchange = async {
                    stream.write_all(&framed).await?;
                    let length = stream.read_u16().await?;
                    let mut reply = vec![0; usize::from(length)];
                    stream.read_exact(&mut reply).await?;
                    io::Result::Ok(reply)
                };
                exchange.await.map_err(|error| said(&error))
            }
            Self::Https(sender) => {
                sender.ready().await.map_err(|error| said(&error))?;
                let request = hyper::Request::post("https://guard.test/dns-query")
                    .header("content-type", "application/dns-message")
                    .body(http_body_util::Full::new(Bytes::copy_from_slice(question)))
                    .unwrap();
                let response = sender.send_request(request).await.map_err(|error| said(&error))?;
                let whole = http_body_util::BodyExt::collect(response.into_body()).await;
                let mut body = whole.map_err(|error| said(&error))?.aggregate();
                Ok(body.copy_to_bytes(body.remaining()).to_vec())
            }
            Self::Quic(_, connection) => {
                let (mut send, mut receive) = connection.open_bi().await.map_err(|error| said(&error))?;
                send.write_all(&framed).await.map_err(|error| said(&error))?;
                send.finish().map_err(|error| said(&error))?;
                let reply = receive.read_to_end(1 << 16).await.map_err(|error| said(&error))?;
                reply.get(2..).map(<[u8]>::to_vec).ok_or_else(|| "an empty stream".to_owned())
            }
        }
    }
}

fn judge(asked: Asked) -> Result<(), String> {
    match asked?.as_slice() {
        reply if reply.len() > 12 && reply[3] & 15 == 0 && reply[7] > 0 => Ok(()),
        reply => Err(format!(
            "not an answer: {}",
            String::from_utf8_lossy(reply).replace(|c: char| !c.is_ascii_graphic(), " ")
        )),
    }
}

async fn in_time<T>(what: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    tokio::time::timeout(LIMIT, what).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
}

fn note(seen: &Mutex<Seen>, begun: Instant, what: impl FnOnce(&mut Seen)) {
    let mut seen = seen.lock().unwrap();
    seen.asked += 1;
    seen.slowest = seen.slowest.max(begun.elapsed());
    what(&mut seen);
}

/// One client with a connection for each question.
async fn each(server: Server, stop: &AtomicBool, answered: &AtomicUsize, seen: &Mutex<Seen>) {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let begun = Instant::now();
        let outcome = in_time(async { judge(server.connect().await?.ask(&named(server.speech, number)).await) }).await;
        answered.fetch_add(1, Ordering::Relaxed);
        note(seen, begun, |seen| {
            if let Err(words) = outcome {
                seen.failed += 1;
                seen.words.push(format!("{:?}, new: {words}", server.speech));
            }
        });
        tokio::time::sleep(PAUSE).await;
    }
}

/// One client that keeps its connection as long as it lasts.
async fn kept(server: Server, stop: &AtomicBool, answered: &AtomicUsize, seen: &Mutex<Seen>) {
    let (mut number, mut connection) = (100, None);
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let (begun, question) = (Instant::now(), named(server.speech, number));
        let (mut tries, mut words) = (0, Vec::new());
        while tries < 2 {
            tries += 1;
            let outcome = in_time(async {
                if connection.is_none() {
                    connection = Some(server.connect().await?);
                }
                judge(connection.as_mut().unwrap().ask(&question).await)
            });
            match outcome.await {
                Ok(()) => break,
                Err(why) => {
                    connection = None;
                    words.push(format!("{:?}, kept: {why}", server.speech));
                }
            }
        }
        answered.fetch_add(1, Ordering::Relaxed);
        note(seen, begun, |seen| {
            seen.again += usize::from(!words.is_empty());
            seen.lost += usize::from(words.len() == 2);
            seen.words.extend(words);
        });
        tokio::time::sleep(PAUSE).await;
    }
}

fn named(speech: Speech, number: usize) -> Vec<u8> {
    let mut question = question(number);
    // EDNS, so that an error has its reason with it.
    question[11] = 1;
    question.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    if !matches!(speech, Speech::Tls) {
        question[..2].copy_from_slice(&[0, 0]);
    }
    question
}

impl Load {
    /// `certificate`: of "guard.test", in PEM.
    pub fn start(servers: &[(Speech, SocketAddr)], certificate: &rcgen::Certificate) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        let (stop, answered): (Arc<AtomicBool>, Arc<AtomicUsize>) = Default::default();
        let (mut all, mut threads) = (Vec::new(), Vec::new());
        for (speech, at) in servers {
            let name = match speech {
                Speech::Tls => "TLS",
                Speech::Https => "HTTPS",
                Speech::Quic => "QUIC",
            };
            let seen: Arc<Mutex<Seen>> = Arc::default();
            all.push((name, seen.clone()));
            let server = Server { speech: *speech, at: *at, roots: roots.clone() };
            let (stop, answered) = (stop.clone(), answered.clone());
            threads.push(std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let (first, second) =
                        (each(server.clone(), &stop, &answered, &seen), kept(server.clone(), &stop, &answered, &seen));
                    tokio::join!(first, second)
                });
            }));
        }
        Self { stop, answered, all, threads }
    }

    /// Until so many more are answered, or given up.
    pub fn wait(&self, more: usize) {
        let (begun, before) = (Instant::now(), self.answered.load(Ordering::Relaxed));
        while self.answered.load(Ordering::Relaxed) < before + more {
            assert!(begun.elapsed() < super::PATIENCE, "no answers: {:?}", self.all);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What became of all, by transport.
    pub fn end(self) -> Vec<(&'static str, Seen)> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        self.all.into_iter().map(|(name, seen)| (name, seen.lock().unwrap().clone())).collect()
    }
}
