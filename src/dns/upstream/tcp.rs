//! TCP to one upstream (RFC 7766): one connection, many queries in flight, replies in any order, closed when idle.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::{mpsc, oneshot};

use super::query::{Fit, Query, fit, question_of};
use crate::dns::metrics::Metrics;
use crate::dns::wire::u16_at;

/// How long connecting may take.
const CONNECT: Duration = Duration::from_millis(1500);
/// A connection on which nothing came for so long is closed.
const IDLE: Duration = Duration::from_secs(10);
/// Queries in flight on the connection; beyond it a query fails at once.
const IN_FLIGHT: usize = 4096;
/// Queries that wait to be written; when it is full the asker waits.
const WRITES: usize = 64;

struct Waiting {
    question: Box<[u8]>,
    reply: oneshot::Sender<Vec<u8>>,
}

struct Connection {
    write: mpsc::Sender<Vec<u8>>,
    pending: Mutex<HashMap<u16, Waiting>>,
    closed: AtomicBool,
}

impl Connection {
    fn pending(&self) -> std::sync::MutexGuard<'_, HashMap<u16, Waiting>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Claim {
    connection: Arc<Connection>,
    id: u16,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.connection.pending().remove(&self.id);
    }
}

/// The connection to one upstream.
pub struct TcpClient {
    peer: SocketAddr,
    mark: Option<u32>,
    connection: tokio::sync::Mutex<Option<Arc<Connection>>>,
    metrics: Metrics,
}

impl TcpClient {
    /// Nothing is connected before the first query.
    #[must_use]
    pub fn new(peer: SocketAddr, mark: Option<u32>, metrics: Metrics) -> Self {
        Self { peer, mark, connection: tokio::sync::Mutex::new(None), metrics }
    }

    /// Sends `query` and waits for its response; the caller sets the time.
    ///
    /// # Errors
    /// Connecting failed, or the connection ended twice: an upstream may close an idle one just when it is used again.
    pub async fn exchange(&self, query: &Query) -> io::Result<Vec<u8>> {
        for _ in 0..2 {
            let (connection, reused) = self.connection().await?;
            match self.once(&connection, query).await {
                Err(_) if reused => {}
                result => return result,
            }
        }
        Err(io::ErrorKind::ConnectionAborted.into())
    }

    async fn once(&self, connection: &Arc<Connection>, query: &Query) -> io::Result<Vec<u8>> {
        let (reply, received) = oneshot::channel();
        let (claim, message) = {
            let mut pending = connection.pending();
            if pending.len() >= IN_FLIGHT {
                return Err(io::ErrorKind::QuotaExceeded.into());
            }
            let mut id: u16 = rand::random();
            while pending.contains_key(&id) {
                id = id.wrapping_add(1);
            }
            let message = query.message(id, false);
            pending.insert(id, Waiting { question: question_of(&message).into(), reply });
            (Claim { connection: connection.clone(), id }, message)
        };
        let mut framed = Vec::with_capacity(message.len().saturating_add(2));
        framed.extend_from_slice(&u16::try_from(message.len()).unwrap_or(0).to_be_bytes());
        framed.extend_from_slice(&message);
        connection.write.send(framed).await.map_err(|_| io::ErrorKind::ConnectionAborted)?;
        let message = received.await.map_err(|_| io::ErrorKind::ConnectionAborted)?;
        drop(claim);
        Ok(message)
    }

    /// The connection, and whether it had been used before.
    async fn connection(&self) -> io::Result<(Arc<Connection>, bool)> {
        let mut slot = self.connection.lock().await;
        if let Some(connection) = slot.as_ref().filter(|connection| !connection.closed.load(Ordering::Acquire)) {
            return Ok((connection.clone(), true));
        }
        let stream = tokio::time::timeout(CONNECT, self.connect()).await??;
        stream.set_nodelay(true)?;
        let (read, mut write) = stream.into_split();
        let (sender, mut queue) = mpsc::channel::<Vec<u8>>(WRITES);
        let connection =
            Arc::new(Connection { write: sender, pending: Mutex::default(), closed: AtomicBool::new(false) });
        let weak = Arc::downgrade(&connection);
        tokio::spawn(async move {
            while let Some(framed) = queue.recv().await {
                if write.write_all(&framed).await.is_err() {
                    break;
                }
            }
            // The reader sees the end of the stream and wakes whoever waits.
            drop(write.shutdown().await);
            if let Some(connection) = weak.upgrade() {
                connection.closed.store(true, Ordering::Release);
            }
        });
        let reader = connection.clone();
        let metrics = self.metrics.clone();
        tokio::spawn(async move {
            read_all(read, &reader, &metrics).await;
            reader.closed.store(true, Ordering::Release);
            // Dropping the senders wakes their askers with an error.
            reader.pending().clear();
        });
        *slot = Some(connection.clone());
        Ok((connection, false))
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        use socket2::{Domain, Protocol, Socket, Type};
        let socket = Socket::new(Domain::for_address(self.peer), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        if let Some(mark) = self.mark {
            socket.set_mark(mark)?;
        }
        let stream: std::net::TcpStream = socket.into();
        tokio::net::TcpSocket::from_std_stream(stream).connect(self.peer).await
    }
}

/// Reads replies until the connection ends or falls silent.
async fn read_all(mut read: OwnedReadHalf, connection: &Connection, metrics: &Metrics) {
    let next = async |read: &mut OwnedReadHalf| -> io::Result<Vec<u8>> {
        let len = read.read_u16().await?;
        let mut message = vec![0; usize::from(len)];
        read.read_exact(&mut message).await?;
        Ok(message)
    };
    while let Ok(Ok(message)) = tokio::time::timeout(IDLE, next(&mut read)).await {
        let Some(id) = u16_at(&message, 0) else {
            metrics.upstream_mismatch.inc();
            continue;
        };
        let mut pending = connection.pending();
        // A connection can't be forged into as a datagram can; an upstream that changes the case is believed here.
        let fits = pending.get(&id).is_some_and(|waiting| fit(&message, &waiting.question) != Fit::No);
        match pending.remove(&id).filter(|_| fits) {
            // The asker may have given up.
            Some(waiting) => drop(waiting.reply.send(message)),
            None => {
                metrics.upstream_mismatch.inc();
            }
        }
    }
}
