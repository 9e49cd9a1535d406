//! DNS over TCP (RFC 7766): many questions in flight on a connection, replies in the order they are ready.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::dns::limits::Limit;
use crate::dns::resolve::{Handled, Resolver, Route, Turn};

/// Connections at once.
pub const CONNECTIONS: usize = 2048;
/// Connections of one client at once.
pub const CONNECTIONS_PER_CLIENT: usize = 64;
/// Connections at once of those who may not ask, and of one of them: enough to tell them so.
const STRANGERS: (usize, usize) = (64, 4);
/// Questions in flight on one connection; beyond it the guard stops reading from it.
const IN_FLIGHT: usize = 128;
/// A connection without a whole question for so long is closed.
const IDLE: Duration = Duration::from_secs(10);
/// The same when three quarters of all connections are in use.
const IDLE_CROWDED: Duration = Duration::from_secs(2);
/// A client that takes no reply for so long is cut off.
const WRITE: Duration = Duration::from_secs(10);
/// Replies are gathered into writes of about this size.
const GATHER: usize = 16 * 1024;
/// Bounds of the wait after accept() failed for want of descriptors or memory.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Who is connected.
pub struct Connections {
    clients: Arc<Limit>,
    strangers: Arc<Limit>,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            clients: Limit::new(CONNECTIONS, CONNECTIONS_PER_CLIENT),
            strangers: Limit::new(STRANGERS.0, STRANGERS.1),
        }
    }
}

/// Accepts until `stop`; no error ends it.
pub async fn serve(
    listener: TcpListener,
    resolver: Arc<Resolver>,
    connections: Arc<Connections>,
    mut stop: watch::Receiver<bool>,
) {
    let mut wait = BACK_OFF.0;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // Stopped, or nobody is left who could stop it.
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                wait = BACK_OFF.0;
                let client = peer.ip().to_canonical();
                let limit = if resolver.admits(client) { &connections.clients } else { &connections.strangers };
                match limit.take(client) {
                    Ok(place) => {
                        let (resolver, connections, stop) = (resolver.clone(), connections.clone(), stop.clone());
                        tokio::spawn(async move {
                            resolver.metrics.tcp_connections.inc();
                            if let Err(error) = converse(stream, client, &resolver, &connections, stop).await {
                                tracing::debug!(%client, %error, "a TCP connection ended");
                            }
                            resolver.metrics.tcp_connections.dec();
                            drop(place);
                        });
                    }
                    Err(_) => resolver.metrics.drop_packet("too_many_connections"),
                }
            }
            Err(error) => {
                resolver.metrics.accept_errors.inc();
                if concerns_one_connection(&error) {
                    continue;
                }
                // The connection stays in the kernel's queue, so that trying again at once would spin.
                tracing::warn!(%error, "accepting a TCP connection; trying again in {wait:?}");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(BACK_OFF.1);
            }
        }
    }
}

/// Errors of a connection that ended before it was accepted; accept(2) passes those of the network on as well.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::HostUnreachable
    )
}

/// Reads questions until the client ends, falls silent or sends nonsense. Replies still due are written all the same.
async fn converse(
    stream: TcpStream,
    client: IpAddr,
    resolver: &Arc<Resolver>,
    connections: &Connections,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut read, write) = stream.into_split();
    // Room for every question in flight, so that sending a reply never waits and never fails for want of room.
    let (sender, replies) = mpsc::channel(IN_FLIGHT);
    let free = Arc::new(Semaphore::new(IN_FLIGHT));
    let writer = tokio::spawn(write_replies(write, replies, free.clone()));
    let stranger = !resolver.admits(client);
    let mut refused = false;
    let result = loop {
        if refused {
            break Ok(());
        }
        // One question is enough to learn that more are in vain.
        refused = stranger;
        let crowded = stranger || connections.clients.taken() > CONNECTIONS / 4 * 3;
        let idle = if crowded { IDLE_CROWDED } else { IDLE };
        // The writer gives places back; it closes the semaphore when the client takes no replies.
        let Ok(place) = free.acquire().await else { break Ok(()) };
        let message = tokio::select! {
            message = tokio::time::timeout(idle, next_message(&mut read)) => message,
            _ = stop.wait_for(|stop| *stop) => break Ok(()),
        };
        let message = match message {
            Ok(Ok(Some(message))) => message,
            Ok(Err(error)) => break Err(error),
            Ok(Ok(None)) | Err(_) => break Ok(()),
        };
        resolver.metrics.tcp_questions.inc();
        let mut out = Vec::new();
        let handled = {
            let rules = resolver.rules.load();
            let mut turn = Turn::new(&rules, resolver.clock.now());
            let handled = resolver.handle(&message, client, true, &mut turn, &mut out);
            resolver.metrics.cache_hits.inc_by(turn.hits);
            resolver.metrics.released.inc_by(turn.released);
            handled
        };
        match handled {
            Handled::Reply => {
                place.forget();
                if sender.send(out).await.is_err() {
                    break Ok(());
                }
            }
            Handled::Miss(question) => {
                place.forget();
                resolver.submit(&question, client, Route::Stream(sender.clone()));
            }
            // Not a question: whoever sends that over TCP has lost the framing.
            Handled::Drop => break Ok(()),
        }
    };
    drop(sender);
    // It ends when the last reply that is due was written or given up.
    if let Err(error) = writer.await {
        tracing::debug!(%error, "a TCP writer ended");
    }
    result
}

/// The next message; `None` at the end of the stream.
async fn next_message(read: &mut OwnedReadHalf) -> io::Result<Option<Vec<u8>>> {
    let len = match read.read_u16().await {
        Ok(len) => len,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut message = vec![0; usize::from(len)];
    read.read_exact(&mut message).await?;
    Ok(Some(message))
}

/// Length and message in one write, several messages where they are ready.
async fn write_replies(mut write: OwnedWriteHalf, mut replies: mpsc::Receiver<Vec<u8>>, free: Arc<Semaphore>) {
    let mut out = Vec::new();
    while let Some(reply) = replies.recv().await {
        out.clear();
        let mut count = 0usize;
        let mut next = Some(reply);
        while let Some(reply) = next.take() {
            count = count.saturating_add(1);
            // A body that is longer is refused when it is built.
            out.extend_from_slice(&u16::try_from(reply.len()).unwrap_or(u16::MAX).to_be_bytes());
            out.extend_from_slice(&reply);
            if out.len() < GATHER {
                next = replies.try_recv().ok();
            }
        }
        match tokio::time::timeout(WRITE, write.write_all(&out)).await {
            Ok(Ok(())) => free.add_permits(count),
            Ok(Err(_)) | Err(_) => {
                free.close();
                return;
            }
        }
    }
    // The client may be gone; there is nothing left to tell it.
    drop(write.shutdown().await);
}
