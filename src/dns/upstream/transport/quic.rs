//! QUIC to one upstream (RFC 9250): one connection, a stream per query.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig};
use quinn::{Endpoint, EndpointConfig, TransportConfig, VarInt};

use super::streams::Streams;
use crate::dns::codec::wire::{TCP_KEEPALIVE, bears_option};
use crate::dns::metrics::Metrics;
use crate::dns::upstream::query::{Fit, Query, fit, misfit};
use crate::dns::upstream::transport::dial::{DEAF_AFTER, Ends, Slot, Target, Tls};

/// A connection on which nothing comes for so long has ended. Also bounds how long a dead one is believed in.
const IDLE: Duration = Duration::from_secs(10);
/// DOQ_NO_ERROR, DOQ_PROTOCOL_ERROR and DOQ_REQUEST_CANCELLED, section 8.4.
const NO_ERROR: VarInt = VarInt::from_u32(0);
const PROTOCOL_ERROR: VarInt = VarInt::from_u32(2);
const REQUEST_CANCELLED: VarInt = VarInt::from_u32(3);
/// Two octets of length and the longest message.
const MOST: usize = 2 + u16::MAX as usize;

struct Connection {
    connection: quinn::Connection,
    /// Keeps the socket.
    _endpoint: Endpoint,
    streams: Arc<Streams>,
    heard: Mutex<Option<Instant>>,
    closed: AtomicBool,
}

impl Connection {
    fn heard(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ends for Connection {
    fn has_ended(&self) -> bool {
        self.closed.load(Ordering::Acquire) || self.connection.close_reason().is_some()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.connection.close(NO_ERROR, b"");
    }
}

/// One query in in_flight.
struct InFlight<'a> {
    connection: &'a Connection,
    since: Instant,
    done: bool,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let silent = self.connection.heard().is_none_or(|heard| heard < self.since);
        if !self.done && silent && self.since.elapsed() >= DEAF_AFTER {
            self.connection.closed.store(true, Ordering::Release);
        }
    }
}

/// The connection to one upstream.
pub struct QuicClient {
    target: Target,
    tls: Tls,
    crypto: Arc<QuicClientConfig>,
    slot: Slot<Connection>,
    metrics: Metrics,
}

impl QuicClient {
    /// Nothing is connected before the first query.
    ///
    /// # Errors
    /// The TLS configuration can't be used for QUIC.
    pub fn new(target: Target, tls: Tls, metrics: Metrics) -> Result<Self, NoInitialCipherSuite> {
        let crypto = QuicClientConfig::try_from(tls.config.clone())?;
        Ok(Self { target, tls, crypto: Arc::new(crypto), slot: Slot::default(), metrics })
    }

    /// Sends `query` and waits for its response; the caller sets the time.
    ///
    /// # Errors
    /// Connecting failed, the connection ended twice, or the upstream broke RFC 9250.
    pub async fn exchange(&self, query: &Query) -> io::Result<Vec<u8>> {
        let mut again = true;
        loop {
            let open = open(self.target, self.tls.clone(), self.crypto.clone());
            let (connection, reused) = self.slot.get(open).await?;
            match self.once(&connection, query).await {
                Err(error) if reused && again && error.kind() == io::ErrorKind::ConnectionAborted => again = false,
                result => return result,
            }
        }
    }

    async fn once(&self, connection: &Connection, query: &Query) -> io::Result<Vec<u8>> {
        let _stream = connection.streams.take(query.whose).await?;
        let mut in_flight = InFlight { connection, since: Instant::now(), done: false };
        // When the peer allows no more streams this waits until one ends.
        let (mut send, mut receive) = connection.connection.open_bi().await.map_err(aborted)?;
        // Section 4.2.1: the id is 0.
        let sent = send.write_all(&crate::dns::upstream::framed(&query.padded(0))).await;
        let sent = sent.and_then(|()| send.finish().map_err(|_| quinn::WriteError::ClosedStream));
        let mut cancel = Cancel(Some(&mut receive));
        let read = match cancel.0.as_mut() {
            Some(receive) => receive.read_to_end(MOST).await,
            None => return Err(io::ErrorKind::ConnectionAborted.into()),
        };
        cancel.0 = None;
        in_flight.done = true;
        // Why the connection ended says more than that the stream did.
        let lost = |words: String| match connection.connection.close_reason() {
            Some(error) => aborted(error),
            None => io::Error::new(io::ErrorKind::InvalidData, words),
        };
        // Section 4.3.3: a peer that breaks the protocol loses its connection. Whoever else waits on it asks again on another.
        let broke = |words: &str| {
            connection.connection.close(PROTOCOL_ERROR, words.as_bytes());
            io::Error::new(io::ErrorKind::InvalidData, words.to_owned())
        };
        if matches!(read, Err(quinn::ReadToEndError::TooLong)) {
            return Err(broke("the response's length is wrong"));
        }
        let octets = read.map_err(|error| lost(error.to_string()))?;
        sent.map_err(|error| lost(error.to_string()))?;
        *connection.heard() = Some(Instant::now());
        let Some((len, message)) = octets.split_first_chunk::<2>() else {
            return Err(broke("the upstream ended a stream without response"));
        };
        if usize::from(u16::from_be_bytes(*len)) != message.len() {
            return Err(broke("the response's length is wrong"));
        }
        // Section 4.2.1.
        if !message.starts_with(&[0, 0]) {
            return Err(broke("the response's id is not 0"));
        }
        // Section 5.5.2.
        if bears_option(message, TCP_KEEPALIVE) {
            return Err(broke("the response bears edns-tcp-keepalive"));
        }
        let question = query.question();
        if fit(message, &question) == Fit::No {
            self.metrics.upstream_mismatch.inc();
            return Err(misfit(*self.target.peer, message, &question));
        }
        Ok(message.to_vec())
    }
}

/// Tells the upstream when a query was given up (section 4.3.1).
struct Cancel<'a>(Option<&'a mut quinn::RecvStream>);

impl Drop for Cancel<'_> {
    fn drop(&mut self) {
        if let Some(receive) = self.0.take() {
            // The stream may have ended meanwhile.
            drop(receive.stop(REQUEST_CANCELLED));
        }
    }
}

fn aborted(error: quinn::ConnectionError) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, format!("QUIC: {error}"))
}

async fn open(target: Target, tls: Tls, crypto: Arc<QuicClientConfig>) -> io::Result<Connection> {
    let runtime = Arc::new(quinn::TokioRuntime);
    let mut endpoint = Endpoint::new(EndpointConfig::default(), None, target.udp()?, runtime)?;
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(IDLE.try_into().ok());
    // The upstream has no reason to open streams or send datagrams.
    transport.max_concurrent_bidi_streams(0u8.into()).max_concurrent_uni_streams(0u8.into());
    transport.datagram_receive_buffer_size(None);
    let mut config = quinn::ClientConfig::new(crypto);
    config.transport_config(Arc::new(transport));
    endpoint.set_default_client_config(config);
    tls.handshakes.inc();
    let connecting =
        endpoint.connect(crate::sys::endpoint::now(&target.peer)?, &tls.name.to_str()).map_err(io::Error::other)?;
    let connection =
        connecting.await.map_err(|error| io::Error::new(io::ErrorKind::ConnectionRefused, format!("QUIC: {error}")))?;
    Ok(Connection {
        connection,
        _endpoint: endpoint,
        streams: Streams::new(),
        heard: Mutex::new(None),
        closed: AtomicBool::new(false),
    })
}
