//! TCP (RFC 7766) or TLS (RFC 7858) to one upstream: one connection, many queries in flight, replies in any order, closed when idle.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};

use super::dial::{DEAF_AFTER, Ends, Slot, Target, Tls, ended_unheard};
use super::query::{Fit, Query, fit, misfit};
use crate::dns::metrics::Metrics;
use crate::dns::wire::u16_at;

/// A connection on which nothing came for so long is closed.
const IDLE: Duration = Duration::from_secs(10);
/// The same with TLS, whose handshake is dear.
const IDLE_TLS: Duration = Duration::from_secs(30);
/// Queries in flight on the connection; beyond it a query fails at once.
const IN_FLIGHT: usize = 4096;
/// Queries that wait to be written; when it is full the asker waits.
const WRITES: usize = 64;

struct Waiting {
    question: Box<[u8]>,
    reply: oneshot::Sender<io::Result<Vec<u8>>>,
}

#[derive(Default)]
struct Shared {
    pending: Mutex<HashMap<u16, Waiting>>,
    closed: AtomicBool,
    /// When the last reply came.
    heard: Mutex<Option<Instant>>,
    /// Why it ended.
    reason: Mutex<Option<(io::ErrorKind, String)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn end(&self, error: &io::Error) {
        lock(&self.reason).get_or_insert_with(|| (error.kind(), error.to_string()));
        self.closed.store(true, Ordering::Release);
        // Dropping the senders wakes their askers with an error.
        lock(&self.pending).clear();
    }

    fn error(&self) -> io::Error {
        match lock(&self.reason).clone() {
            Some((kind, words)) => io::Error::new(kind, words),
            None => io::ErrorKind::ConnectionAborted.into(),
        }
    }
}

struct Connection {
    write: mpsc::Sender<Vec<u8>>,
    shared: Arc<Shared>,
}

impl Ends for Connection {
    fn has_ended(&self) -> bool {
        self.shared.closed.load(Ordering::Acquire)
    }
}

/// Gives the id back. Given up for want of any sign of life, it leaves a note for those who come next.
struct Claim {
    shared: Arc<Shared>,
    id: u16,
    since: Instant,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let waited = lock(&self.shared.pending).remove(&self.id).is_some();
        let silent = lock(&self.shared.heard).is_none_or(|heard| heard < self.since);
        if waited && silent && self.since.elapsed() >= DEAF_AFTER {
            self.shared.closed.store(true, Ordering::Release);
        }
    }
}

/// The connection to one upstream.
pub struct TcpClient {
    target: Target,
    tls: Option<Tls>,
    slot: Slot<Connection>,
    metrics: Metrics,
}

impl TcpClient {
    /// Nothing is connected before the first query. With `tls` nothing is ever sent outside of it.
    #[must_use]
    pub fn new(target: Target, tls: Option<Tls>, metrics: Metrics) -> Self {
        Self { target, tls, slot: Slot::default(), metrics }
    }

    /// Sends `query` and waits for its response; the caller sets the time.
    ///
    /// # Errors
    /// Connecting failed, the upstream answered another question, or the connection ended twice: an upstream may close an idle one just when it is used
    /// again.
    pub async fn exchange(&self, query: &Query) -> io::Result<Vec<u8>> {
        let mut again = true;
        loop {
            let (target, tls, metrics) = (self.target, self.tls.clone(), self.metrics.clone());
            let (connection, reused) = self.slot.get(open(target, tls, metrics)).await?;
            match self.once(&connection, query).await {
                Err(error) if reused && again && error.kind() != io::ErrorKind::QuotaExceeded => again = false,
                result => return result,
            }
        }
    }

    async fn once(&self, connection: &Connection, query: &Query) -> io::Result<Vec<u8>> {
        let (reply, received) = oneshot::channel();
        let shared = &connection.shared;
        let (claim, message) = {
            let mut pending = lock(&shared.pending);
            if pending.len() >= IN_FLIGHT {
                return Err(io::ErrorKind::QuotaExceeded.into());
            }
            let mut id: u16 = rand::random();
            while pending.contains_key(&id) {
                id = id.wrapping_add(1);
            }
            let message = if self.tls.is_some() { query.padded(id) } else { query.message(id, false) };
            pending.insert(id, Waiting { question: query.question().into_boxed_slice(), reply });
            (Claim { shared: shared.clone(), id, since: Instant::now() }, message)
        };
        // Ended between the look at it and the entry above: nobody would come to clear the latter.
        if connection.has_ended() {
            return Err(shared.error());
        }
        connection.write.send(super::framed(&message)).await.map_err(|_| shared.error())?;
        let message = received.await.map_err(|_| shared.error())??;
        drop(claim);
        Ok(message)
    }
}

async fn open(target: Target, tls: Option<Tls>, metrics: Metrics) -> io::Result<Connection> {
    match tls {
        None => {
            let (read, write) = target.tcp().await?.into_split();
            Ok(begin(read, write, target.peer, false, metrics))
        }
        Some(tls) => {
            let (read, write) = tokio::io::split(tls.connect(target).await?);
            Ok(begin(read, write, target.peer, true, metrics))
        }
    }
}

fn begin<R, W>(mut read: R, mut write: W, peer: SocketAddr, tls: bool, metrics: Metrics) -> Connection
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    let (sender, mut queue) = mpsc::channel::<Vec<u8>>(WRITES);
    let shared = Arc::new(Shared::default());
    let writer = tokio::spawn(async move {
        while let Some(framed) = queue.recv().await {
            if write.write_all(&framed).await.is_err() || write.flush().await.is_err() {
                break;
            }
        }
        // The reader sees the end of the stream and wakes whoever waits.
        drop(write.shutdown().await);
    });
    let reader = shared.clone();
    tokio::spawn(async move {
        let idle = if tls { IDLE_TLS } else { IDLE };
        let ended = read_all(&mut read, peer, idle, &reader, &metrics).await;
        let unheard = tls && lock(&reader.heard).is_none();
        reader.end(&if unheard { ended_unheard(&ended) } else { ended });
        // One that waits to write to a peer that takes nothing would keep the socket.
        writer.abort();
    });
    Connection { write: sender, shared }
}

/// Reads replies until the connection ends or falls silent; says why.
async fn read_all(
    read: &mut (impl AsyncRead + Unpin),
    peer: SocketAddr,
    idle: Duration,
    shared: &Shared,
    metrics: &Metrics,
) -> io::Error {
    loop {
        let next = async {
            let len = read.read_u16().await?;
            let mut message = vec![0; usize::from(len)];
            read.read_exact(&mut message).await?;
            Ok(message)
        };
        let message = match tokio::time::timeout(idle, next).await {
            Ok(Ok(message)) => message,
            Ok(Err(error)) => return ended(error),
            Err(_) => return io::Error::new(io::ErrorKind::TimedOut, "the connection was silent too long"),
        };
        *lock(&shared.heard) = Some(Instant::now());
        let Some(id) = u16_at(&message, 0) else {
            metrics.upstream_mismatch.inc();
            continue;
        };
        let Some(waiting) = lock(&shared.pending).remove(&id) else {
            metrics.upstream_mismatch.inc();
            continue;
        };
        // A connection can't be forged into as a datagram can; an upstream that changes the case is believed here.
        let reply = if fit(&message, &waiting.question) == Fit::No {
            metrics.upstream_mismatch.inc();
            Err(misfit(peer, &message, &waiting.question))
        } else {
            Ok(message)
        };
        // The asker may have given up.
        drop(waiting.reply.send(reply));
    }
}

fn ended(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            io::Error::new(io::ErrorKind::ConnectionAborted, "the upstream closed the connection")
        }
        _ => error,
    }
}
