//! Plain UDP to one upstream, over many sockets that are replaced all the time.
//!
//! A query goes out on a random one of [`SLOTS`] connected sockets under a random id. A socket serves [`USES`] queries or [`LIFE`], then
//! a new one with another random port takes its place; the old one stays until its last reply came or was given up. A forger must guess port, id and
//! case of a socket that lives for seconds, while the guard doesn't pay for a socket per query.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::sync::oneshot;

use super::query::{Fit, Query, fit, question_of};
use crate::dns::metrics::Metrics;
use crate::dns::wire::u16_at;

/// Sockets per upstream that are in use at once.
const SLOTS: usize = 64;
/// Queries after which a socket is replaced.
const USES: u32 = 256;
/// Time after which a socket is replaced by the next query on it.
const LIFE: Duration = Duration::from_secs(10);
/// A socket without anything pending is closed after this.
const IDLE: Duration = Duration::from_secs(15);
/// Room for one response. The guard offers 1232; what is longer all the same is treated as cut.
const RESPONSE: usize = 4096;

/// What came for a query.
#[derive(Debug)]
pub enum Received {
    /// Its response.
    Message(Vec<u8>),
    /// A response in another case, or one longer than anybody was offered: ask over TCP.
    AskTcp,
}

struct Waiting {
    question: Box<[u8]>,
    reply: oneshot::Sender<io::Result<Received>>,
}

struct Line {
    socket: UdpSocket,
    pending: Mutex<HashMap<u16, Waiting>>,
    uses: AtomicU32,
    born: Instant,
    retired: AtomicBool,
}

impl Line {
    fn pending(&self) -> std::sync::MutexGuard<'_, HashMap<u16, Waiting>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_worn(&self) -> bool {
        self.retired.load(Ordering::Relaxed) || self.uses.load(Ordering::Relaxed) >= USES || self.born.elapsed() > LIFE
    }
}

/// Gives the id back when the query is answered or given up.
struct Claim {
    line: Arc<Line>,
    id: u16,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.line.pending().remove(&self.id);
    }
}

/// The sockets to one upstream.
pub struct UdpPool {
    peer: SocketAddr,
    mark: Option<u32>,
    slots: Box<[Mutex<Option<Arc<Line>>>]>,
    metrics: Metrics,
}

impl UdpPool {
    /// No socket is opened before the first query.
    #[must_use]
    pub fn new(peer: SocketAddr, mark: Option<u32>, metrics: Metrics) -> Self {
        Self { peer, mark, slots: (0..SLOTS).map(|_| Mutex::new(None)).collect(), metrics }
    }

    /// The upstream.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Sends `query` and waits for its response, for ever: the caller sets the time.
    ///
    /// # Errors
    /// The socket's, among them "connection refused" when the upstream's host says so.
    pub async fn exchange(&self, query: &Query) -> io::Result<Received> {
        let line = self.line()?;
        line.uses.fetch_add(1, Ordering::Relaxed);
        let (reply, received) = oneshot::channel();
        let (claim, message) = {
            let mut pending = line.pending();
            // At most USES ids are taken, so that a free one is found soon.
            let mut id: u16 = rand::random();
            while pending.contains_key(&id) {
                id = id.wrapping_add(1);
            }
            let message = query.message(id, true);
            pending.insert(id, Waiting { question: question_of(&message).into(), reply });
            (Claim { line: line.clone(), id }, message)
        };
        // An error that an earlier datagram caused may be reported here; it says nothing about this one.
        if line.socket.send(&message).await.is_err() {
            line.socket.send(&message).await?;
        }
        let result = received.await.unwrap_or_else(|_| Err(io::ErrorKind::ConnectionAborted.into()));
        drop(claim);
        result
    }

    /// A random line, opened or replaced where needed.
    fn line(&self) -> io::Result<Arc<Line>> {
        let start = rand::random_range(0..SLOTS);
        let slot = self.slots.get(start).ok_or(io::ErrorKind::NotFound)?;
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = slot.as_ref().filter(|line| !line.is_worn()) {
            return Ok(line.clone());
        }
        match self.open() {
            Ok(line) => {
                if let Some(old) = slot.replace(line.clone()) {
                    old.retired.store(true, Ordering::Relaxed);
                }
                Ok(line)
            }
            // Out of descriptors: a worn socket is better than none.
            Err(error) => match slot.as_ref().filter(|line| !line.retired.load(Ordering::Relaxed)) {
                Some(line) => Ok(line.clone()),
                None => {
                    drop(slot);
                    self.any_line(start).ok_or(error)
                }
            },
        }
    }

    fn any_line(&self, except: usize) -> Option<Arc<Line>> {
        self.slots.iter().enumerate().filter(|(at, _)| *at != except).find_map(|(_, slot)| {
            let slot = slot.try_lock().ok()?;
            slot.as_ref().filter(|line| !line.retired.load(Ordering::Relaxed)).cloned()
        })
    }

    fn open(&self) -> io::Result<Arc<Line>> {
        let socket = UdpSocket::from_std(open_socket(self.peer, self.mark)?)?;
        let line = Arc::new(Line {
            socket,
            pending: Mutex::default(),
            uses: AtomicU32::new(0),
            born: Instant::now(),
            retired: AtomicBool::new(false),
        });
        tokio::spawn(read(line.clone(), self.metrics.clone()));
        Ok(line)
    }
}

/// A connected socket on a port that the kernel draws at random.
pub(super) fn open_socket(peer: SocketAddr, mark: Option<u32>) -> io::Result<std::net::UdpSocket> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(peer), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if let Some(mark) = mark {
        socket.set_mark(mark)?;
    }
    // Connected: the kernel drops whatever comes from another address or port.
    socket.connect(&peer.into())?;
    Ok(socket.into())
}

async fn read(line: Arc<Line>, metrics: Metrics) {
    let mut buffer = vec![0u8; RESPONSE];
    loop {
        let received = tokio::time::timeout(IDLE, line.socket.recv(&mut buffer)).await;
        match received {
            Ok(Ok(len)) => deliver(&line, buffer.get(..len).unwrap_or_default(), &metrics),
            Ok(Err(error)) => {
                // The host says that nobody listens, or the route is gone: whoever waits here needs another upstream at once.
                let waiting: Vec<Waiting> = line.pending().drain().map(|(_, waiting)| waiting).collect();
                for waiting in waiting {
                    // The asker may have given up.
                    drop(waiting.reply.send(Err(error.kind().into())));
                }
                if !matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::WouldBlock) {
                    line.retired.store(true, Ordering::Relaxed);
                }
            }
            Err(_) => {
                if line.pending().is_empty() {
                    line.retired.store(true, Ordering::Relaxed);
                }
            }
        }
        if line.retired.load(Ordering::Relaxed) && line.pending().is_empty() {
            return;
        }
    }
}

/// Hands a datagram to the query it answers. What answers none is counted and forgotten; the query waits on.
fn deliver(line: &Line, message: &[u8], metrics: &Metrics) {
    let Some(id) = u16_at(message, 0) else {
        metrics.upstream_mismatch.inc();
        return;
    };
    let mut pending = line.pending();
    let fits = pending.get(&id).map(|waiting| fit(message, &waiting.question));
    let received = match fits {
        Some(Fit::Exact) if message.len() < RESPONSE => Received::Message(message.to_vec()),
        Some(Fit::Exact) => Received::AskTcp,
        Some(Fit::OtherCase) => {
            metrics.upstream_mismatch.inc();
            Received::AskTcp
        }
        Some(Fit::No) | None => {
            metrics.upstream_mismatch.inc();
            return;
        }
    };
    if let Some(waiting) = pending.remove(&id) {
        // The asker may have given up.
        drop(waiting.reply.send(Ok(received)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_on_the_socket() {
        let socket = open_socket("127.0.0.1:53".parse().unwrap(), Some(crate::sys::MARK)).unwrap();
        assert_eq!(socket2::SockRef::from(&socket).mark().unwrap(), crate::sys::MARK);
    }
}
