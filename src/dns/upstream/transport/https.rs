//! HTTPS to one upstream (RFC 8484): POST over one HTTP/2 connection, a stream per query.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::{Request, StatusCode, Uri, header};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::watch;

use super::streams::{Stream, Streams};
use crate::core::client::Claim;
use crate::dns::metrics::Metrics;
use crate::dns::upstream::query::{Fit, Query, fit, misfit};
use crate::dns::upstream::transport::age::{age_of, shorten_ttls};
use crate::dns::upstream::transport::dial::{DEAF_AFTER, Ends, Slot, Target, Tls, ended_unheard};

/// A connection without query for so long is closed.
const IDLE: Duration = Duration::from_secs(30);
/// How often it is looked at for that.
const LOOK: Duration = Duration::from_secs(5);
/// With queries in in_flight the peer is pinged this often, and given up when it doesn't answer in time.
const PING: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3));
/// How long a failed query waits to learn why its connection ended.
const REASON: Duration = Duration::from_millis(100);
/// The media type of RFC 8484 section 6.
pub const DNS_MESSAGE: &str = "application/dns-message";

#[derive(Debug)]
struct Pulse {
    used: Instant,
    heard: Option<Instant>,
}

struct Shared {
    pulse: Mutex<Pulse>,
    streams: Arc<Streams>,
    closed: AtomicBool,
    /// Why it ended, once it has; hyper tells that to the connection's driver, not to those who wait.
    reason: watch::Sender<Option<String>>,
}

impl Shared {
    fn pulse(&self) -> std::sync::MutexGuard<'_, Pulse> {
        self.pulse.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection's own reason, when it has ended with one; else `error`.
    async fn why(&self, error: io::Error) -> io::Error {
        let mut reason = self.reason.subscribe();
        let told = tokio::time::timeout(REASON, reason.wait_for(Option::is_some)).await;
        let error = match told {
            Ok(Ok(words)) => io::Error::new(error.kind(), words.clone().unwrap_or_default()),
            Ok(Err(_)) | Err(_) => error,
        };
        if self.pulse().heard.is_none() { ended_unheard(&error) } else { error }
    }

    fn is_idle(&self) -> bool {
        self.streams.in_use() == 0 && self.pulse().used.elapsed() >= IDLE
    }
}

struct Connection {
    send: SendRequest<Full<Bytes>>,
    shared: Arc<Shared>,
}

impl Ends for Connection {
    fn has_ended(&self) -> bool {
        self.send.is_closed() || self.shared.closed.load(Ordering::Acquire)
    }
}

/// One query in in_flight.
struct InFlight {
    shared: Arc<Shared>,
    since: Instant,
    _stream: Stream,
}

impl InFlight {
    async fn begin(shared: &Arc<Shared>, claim: Claim) -> io::Result<Self> {
        let stream = shared.streams.take(claim).await?;
        let since = Instant::now();
        shared.pulse().used = since;
        Ok(Self { shared: shared.clone(), since, _stream: stream })
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let silent = self.shared.pulse().heard.is_none_or(|heard| heard < self.since);
        if silent && self.since.elapsed() >= DEAF_AFTER {
            self.shared.closed.store(true, Ordering::Release);
        }
    }
}

/// The connection to one upstream.
pub struct HttpsClient {
    target: Target,
    tls: Tls,
    uri: Uri,
    slot: Slot<Connection>,
    metrics: Metrics,
}

impl HttpsClient {
    /// Nothing is connected before the first query. `path` may hold a query part.
    ///
    /// # Errors
    /// Name and path don't make a URI.
    pub fn new(target: Target, tls: Tls, path: &str, metrics: Metrics) -> Result<Self, hyper::http::Error> {
        let mut host = tls.name.to_str().into_owned();
        if host.contains(':') {
            host = format!("[{host}]");
        }
        let port = target.peer.port();
        let authority = if port == 443 { host } else { format!("{host}:{port}") };
        let uri = Uri::builder().scheme("https").authority(authority).path_and_query(path).build()?;
        Ok(Self { target, tls, uri, slot: Slot::default(), metrics })
    }

    /// Sends `query` and waits for its response; the caller sets the time.
    ///
    /// # Errors
    /// Connecting failed, the connection ended twice, or the upstream answered with another status than 200.
    pub async fn exchange(&self, query: &Query) -> io::Result<Vec<u8>> {
        let mut again = true;
        loop {
            let (connection, reused) = self.slot.get(open(self.target, self.tls.clone())).await?;
            match self.once(&connection, query).await {
                Err(error) if reused && again && error.kind() == io::ErrorKind::ConnectionAborted => again = false,
                result => return result,
            }
        }
    }

    async fn once(&self, connection: &Connection, query: &Query) -> io::Result<Vec<u8>> {
        let in_flight = InFlight::begin(&connection.shared, query.whose).await?;
        // Id 0: section 4.1 asks for it for the sake of HTTP caches; streams keep responses apart.
        let request = Request::post(self.uri.clone())
            .header(header::CONTENT_TYPE, DNS_MESSAGE)
            .header(header::ACCEPT, DNS_MESSAGE)
            .body(Full::new(Bytes::from(query.padded(0))))
            .map_err(io::Error::other)?;
        let response = match connection.send.clone().send_request(request).await {
            Ok(response) => response,
            Err(error) => return Err(connection.shared.why(aborted(error)).await),
        };
        connection.shared.pulse().heard = Some(Instant::now());
        let invalid = |words: String| io::Error::new(io::ErrorKind::InvalidData, words);
        if response.status() != StatusCode::OK {
            return Err(invalid(format!("HTTP status {}", response.status())));
        }
        let media = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
        let media = media.split(';').next().unwrap_or("").trim();
        if !media.eq_ignore_ascii_case(DNS_MESSAGE) {
            return Err(invalid("the HTTP response is not a DNS message".to_owned()));
        }
        let age = age_of(response.headers());
        let body = Limited::new(response.into_body(), usize::from(u16::MAX)).collect().await;
        let mut message = Vec::from(body.map_err(|error| invalid(format!("HTTP body: {error}")))?.to_bytes());
        drop(in_flight);
        let question = query.question();
        if fit(&message, &question) == Fit::No {
            self.metrics.upstream_mismatch.inc();
            return Err(misfit(*self.target.peer, &message, &question));
        }
        shorten_ttls(&mut message, age);
        Ok(message)
    }
}

/// hyper says in its source what went wrong; the outer words are general.
fn aborted(error: hyper::Error) -> io::Error {
    let mut words = error.to_string();
    let mut inner = std::error::Error::source(&error);
    while let Some(cause) = inner {
        words = cause.to_string();
        inner = cause.source();
    }
    io::Error::new(io::ErrorKind::ConnectionAborted, words)
}

async fn open(target: Target, tls: Tls) -> io::Result<Connection> {
    let stream = tls.connect(target).await?;
    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the upstream doesn't speak HTTP/2"));
    }
    let (send, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1)
        .max_header_list_size(16 * 1024)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(aborted)?;
    let shared = Arc::new(Shared {
        pulse: Mutex::new(Pulse { used: Instant::now(), heard: None }),
        streams: Streams::new(),
        closed: AtomicBool::new(false),
        reason: watch::Sender::new(None),
    });
    let watched = shared.clone();
    tokio::spawn(async move {
        tokio::pin!(connection);
        loop {
            tokio::select! {
                ended = &mut connection => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "an HTTP/2 connection to an upstream ended");
                        watched.reason.send_replace(Some(aborted(error).to_string()));
                    }
                    break;
                }
                () = tokio::time::sleep(LOOK) => {
                    let done = watched.closed.load(Ordering::Acquire) && watched.streams.in_use() == 0;
                    if done || watched.is_idle() {
                        break;
                    }
                }
            }
        }
        watched.closed.store(true, Ordering::Release);
    });
    Ok(Connection { send, shared })
}
