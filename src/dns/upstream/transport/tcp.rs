//! TCP (RFC 7766) or TLS (RFC 7858) to one upstream: one connection, many queries in flight, replies in any order, closed when idle.
//!
//! Some servers close a connection after a reply, or after a few, whatever waits there. What waited is asked again on another one (section 6.2.4). How
//! many replies such a server gives on a connection is learnt; then each connection has one query in flight and is left in time.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, oneshot};

use crate::dns::codec::wire::u16_at;
use crate::dns::metrics::Metrics;
use crate::dns::upstream::query::{Fit, Query, fit, misfit};
use crate::dns::upstream::transport::dial::{CONNECT, DEAF_AFTER, Ends, Slot, Target, Tls, ended_unheard};

/// A connection on which nothing came for so long is closed.
const IDLE: Duration = Duration::from_secs(10);
/// The same with TLS, whose handshake is dear.
const IDLE_TLS: Duration = Duration::from_secs(30);
/// Queries in flight on the connection; beyond it a query fails at once.
const IN_FLIGHT: usize = 4096;
/// Queries that wait to be written; when it is full the asker waits.
const WRITES: usize = 64;

/// Connections at once to a server that gives a few replies on each.
const CONNECTIONS: usize = 32;
/// How often a query is asked again because its connection ended.
const TRIES: usize = 4;
/// A connection that ends so soon behind a reply, while others wait, ends because of that reply.
const BEHIND: Duration = Duration::from_secs(1);
/// How long it is remembered how many replies a connection has.
const LESSON: Duration = Duration::from_secs(600);

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
    /// Replies so far.
    replies: AtomicUsize,
    /// It ended right behind a reply, while others waited.
    cut_short: AtomicBool,
    /// Why it ended.
    reason: Mutex<Option<(io::ErrorKind, String)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn end(&self, error: &io::Error) {
        lock(&self.reason).get_or_insert_with(|| (error.kind(), error.to_string()));
        let just_heard = lock(&self.heard).is_some_and(|heard| heard.elapsed() < BEHIND);
        if just_heard && !lock(&self.pending).is_empty() {
            self.cut_short.store(true, Ordering::Release);
        }
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
    /// How many replies the server gives on a connection, and until when that is believed.
    replies_each: Mutex<Option<(usize, Instant)>>,
    /// To such a server: connections without query in flight.
    spare: Mutex<Vec<Arc<Connection>>>,
    room: Semaphore,
}

impl TcpClient {
    /// Nothing is connected before the first query. With `tls` nothing is ever sent outside of it.
    #[must_use]
    pub fn new(target: Target, tls: Option<Tls>, metrics: Metrics) -> Self {
        Self {
            target,
            tls,
            slot: Slot::default(),
            metrics,
            replies_each: Mutex::default(),
            spare: Mutex::default(),
            room: Semaphore::new(CONNECTIONS),
        }
    }

    /// Sends `query` and waits for its response; the caller sets the time.
    ///
    /// # Errors
    /// Connecting failed, the upstream answered another question, or the connection ended again and again: an upstream may close an idle one just when it
    /// is used again, and one that has given a reply.
    pub async fn exchange(&self, query: &Query) -> io::Result<Vec<u8>> {
        let mut tries = 0usize;
        loop {
            let each = lock(&self.replies_each).filter(|(_, until)| Instant::now() < *until).map(|(each, _)| each);
            let (connection, reused, _room) = match each {
                None => {
                    let open = open(self.target, self.tls.clone(), self.metrics.clone());
                    let (connection, reused) = self.slot.get(open).await?;
                    (connection, reused, None)
                }
                Some(each) => self.own(each).await?,
            };
            let result = self.once(&connection, query).await;
            let has_more = |each| connection.shared.replies.load(Ordering::Acquire) < each;
            if each.is_some_and(has_more) && result.is_ok() {
                lock(&self.spare).push(connection.clone());
            }
            let Err(error) = result else { return result };
            let cut_short = connection.shared.cut_short.load(Ordering::Acquire);
            if cut_short {
                self.learn(connection.shared.replies.load(Ordering::Acquire));
            }
            tries = tries.saturating_add(1);
            // A connection that was never used says by its end what the server thinks of it.
            let again = cut_short || (reused && tries < 2);
            if !again || tries >= TRIES || error.kind() == io::ErrorKind::QuotaExceeded {
                return Err(error);
            }
        }
    }

    fn learn(&self, replies: usize) {
        let mut each = lock(&self.replies_each);
        let now = Instant::now();
        if each.is_none_or(|(known, until)| until <= now || replies < known) {
            tracing::debug!(upstream = %self.target.peer, replies, "the upstream closes its connections after so many replies");
            *each = Some((replies.max(1), now + LESSON));
        }
    }

    /// A connection with nothing in flight that has replies left; whether it was used before.
    async fn own(&self, each: usize) -> io::Result<(Arc<Connection>, bool, Option<SemaphorePermit<'_>>)> {
        let room = self.room.acquire().await.map_err(io::Error::other)?;
        loop {
            let Some(spare) = lock(&self.spare).pop() else { break };
            if !spare.has_ended() && spare.shared.replies.load(Ordering::Acquire) < each {
                return Ok((spare, true, Some(room)));
            }
        }
        let open = open(self.target, self.tls.clone(), self.metrics.clone());
        let opened = tokio::time::timeout(CONNECT, open).await;
        let connection = opened.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "connecting took too long"))??;
        Ok((Arc::new(connection), false, Some(room)))
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
        connection.write.send(crate::dns::upstream::framed(&message)).await.map_err(|_| shared.error())?;
        let message = received.await.map_err(|_| shared.error())??;
        drop(claim);
        Ok(message)
    }
}

async fn open(target: Target, tls: Option<Tls>, metrics: Metrics) -> io::Result<Connection> {
    match tls {
        None => {
            let (read, write) = target.tcp().await?.into_split();
            Ok(begin(read, write, *target.peer, false, metrics))
        }
        Some(tls) => {
            let (read, write) = tokio::io::split(tls.connect(target).await?);
            Ok(begin(read, write, *target.peer, true, metrics))
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
        shared.replies.fetch_add(1, Ordering::AcqRel);
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
