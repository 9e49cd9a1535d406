//! DNS over TCP (RFC 7766) and over TLS (RFC 7858): many questions in flight on a connection, replies in the order they are ready.
//! The same accept loop takes the connections of DNS over HTTPS.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::encrypted::{self, HANDSHAKE};
use super::https;
use super::phase::{Mode, Phase};
use super::seats::{Activity, Seat, Seats};
use crate::control::query_log::Tapped;
use crate::core::way::Way;
use crate::dns::codec::wire::{TCP_KEEPALIVE, bears_option};
use crate::dns::limits::Limit;
use crate::dns::resolver::pending::Route;
use crate::dns::resolver::unsent::Reply;
use crate::dns::resolver::{Handled, Resolver, Turn};
use crate::dns::transport::Transport;
use crate::sys::descriptors::Use;
use crate::tls::people::{Shown, Trust};

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
/// The same when the guard stops: what is on its way has come by then.
const LAST: Duration = Duration::from_millis(50);
/// The longest that a listener that goes accepts connections which are just arriving.
const LEAVING: Duration = Duration::from_secs(1);
/// A client that takes no reply for so long is cut off.
const WRITE: Duration = Duration::from_secs(10);
/// Replies are gathered into writes of about this size.
const GATHER: usize = 16 * 1024;
/// Bounds of the wait after accept() failed for want of descriptors or memory.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Who is connected.
pub struct Connections {
    clients: Arc<Seats>,
    strangers: Arc<Seats>,
    encrypted: Arc<Seats>,
    unproven: Arc<Limit>,
    trust: Arc<Trust>,
}

impl Connections {
    /// Whose certificates are believed.
    pub(super) fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    /// Those of all encrypted transports.
    pub(in crate::dns) fn encrypted(&self) -> &Arc<Seats> {
        &self.encrypted
    }

    /// Whether there is any.
    pub(super) fn any(&self) -> bool {
        [&self.clients, &self.strangers, &self.encrypted].iter().any(|seats| seats.limit().taken() > 0)
    }

    /// QUIC handshakes with an address that may be forged. They take none of its places.
    pub(super) fn unproven(&self) -> &Arc<Limit> {
        &self.unproven
    }
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            clients: Seats::new(CONNECTIONS, CONNECTIONS_PER_CLIENT),
            strangers: Seats::new(STRANGERS.0, STRANGERS.1),
            encrypted: Seats::new(encrypted::CONNECTIONS, encrypted::CONNECTIONS_PER_CLIENT),
            unproven: Limit::new(encrypted::CONNECTIONS / 4, encrypted::CONNECTIONS_PER_CLIENT / 4, 1),
            trust: Arc::default(),
        }
    }
}

/// What is spoken on a listener.
#[derive(Clone)]
pub enum Speech {
    /// DNS as it is.
    Plain,
    /// DNS within TLS.
    Tls(TlsAcceptor),
    /// HTTP within TLS.
    Https(TlsAcceptor),
}

impl Speech {
    /// For the log of refusals.
    fn words(&self) -> &'static str {
        match self {
            Self::Plain => "over TCP",
            Self::Tls(_) => "over TLS",
            Self::Https(_) => "over HTTPS",
        }
    }
}

/// What the connections of one listener share.
#[derive(Clone)]
struct Front {
    resolver: Arc<Resolver>,
    connections: Arc<Connections>,
    speech: Speech,
    stop: watch::Receiver<bool>,
    /// Beside the listener, which may go before.
    _phase: Arc<Phase>,
}

/// Accepts until the phase is over; no error ends it.
pub async fn serve(
    listener: TcpListener,
    speech: Speech,
    resolver: Arc<Resolver>,
    connections: Arc<Connections>,
    phase: Arc<Phase>,
) {
    let mut wait = BACK_OFF.0;
    let mut leaves = None;
    let mut stop = phase.over();
    let front = Front { resolver: resolver.clone(), connections, speech, stop: phase.closed(), _phase: phase.clone() };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => Some(accepted),
            over = stop.wait_for(|stop| *stop) => { drop(over); None }
        };
        let accepted = match accepted {
            Some(accepted) => accepted,
            // Who waits to be accepted, or is just arriving, is served now where there will be no next process.
            None if phase.mode() == Mode::Leave => {
                let until = *leaves.get_or_insert_with(|| Instant::now() + LEAVING);
                let wait = LAST.min(until.saturating_duration_since(Instant::now()));
                match tokio::time::timeout(wait, listener.accept()).await {
                    Ok(accepted) => accepted,
                    Err(_) => return front.accept_the_rest(listener),
                }
            }
            None => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                wait = BACK_OFF.0;
                match front.with_room(stream, &mut stop).await {
                    Ok(stream) => front.begin(stream, peer.ip().to_canonical()),
                    Err(error) => tracing::warn!(%error, "a TCP connection is lost"),
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

impl Front {
    /// Waits until it doesn't take one of the last descriptors, which are for upstreams and the operator. Who comes behind it waits in the kernel.
    async fn with_room(&self, mut stream: TcpStream, stop: &mut watch::Receiver<bool>) -> io::Result<TcpStream> {
        let mut wait = BACK_OFF.0;
        while !Use::Client.fits(&stream) {
            self.resolver.metrics.accept_errors.inc();
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                over = stop.wait_for(|stop| *stop) => { drop(over); break }
            }
            wait = (wait * 2).min(BACK_OFF.1);
            stream = renumbered(stream)?;
        }
        Ok(stream)
    }

    /// At the end of the listener: the kernel resets whoever waits in one that is closed.
    fn accept_the_rest(&self, listener: TcpListener) {
        let Ok(listener) = listener.into_std() else { return };
        while let Ok((stream, peer)) = listener.accept() {
            let begun = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
            match begun {
                Ok(stream) => self.begin(stream, peer.ip().to_canonical()),
                Err(error) => tracing::debug!(%error, "a last TCP connection"),
            }
        }
    }

    /// Gives the connection a place and a task, if there is one.
    fn begin(&self, stream: TcpStream, client: IpAddr) {
        let admitted = self.resolver.admits(client);
        let seats = match self.speech {
            Speech::Plain if admitted => &self.connections.clients,
            // They are told REFUSED.
            Speech::Plain => &self.connections.strangers,
            _ if admitted => &self.connections.encrypted,
            // A handshake costs more than a word is worth: the connection is closed at once.
            _ => {
                self.resolver.metrics.refuse("client");
                self.resolver.refusals.push_connection(client, self.speech.words(), "client: not in dns.clients");
                return;
            }
        };
        let metrics = &self.resolver.metrics;
        let Ok(seat) = seats.take(self.resolver.claim(client), || metrics.note_displaced()) else {
            metrics.drop_packet("too_many_connections");
            self.resolver.refusals.push_connection(
                client,
                self.speech.words(),
                "too_many_connections: of this client, or of all",
            );
            return;
        };
        let front = self.clone();
        tokio::spawn(async move {
            if let Err(error) = front.converse(stream, client, &seat).await {
                tracing::debug!(%client, %error, "a TCP connection ended");
            }
            drop(seat);
        });
    }

    async fn converse(self, stream: TcpStream, client: IpAddr, seat: &Seat) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let local = stream.local_addr().map(|address| address.ip()).ok();
        let metrics = &self.resolver.metrics;
        let (transport, acceptor) = match &self.speech {
            Speech::Plain => {
                metrics.tcp_connections.inc();
                let (read, write) = stream.into_split();
                let result = converse((read, write), client, local, (None, Shown::new(None)), (&self, seat)).await;
                metrics.tcp_connections.dec();
                return result;
            }
            Speech::Tls(acceptor) => (Transport::Tls, acceptor),
            Speech::Https(acceptor) => (Transport::Https, acceptor),
        };
        let shaken = tokio::select! {
            shaken = handshake(stream, acceptor) => shaken,
            () = seat.displaced() => Err(io::ErrorKind::ConnectionAborted.into()),
        };
        let stream = match shaken {
            Ok(stream) => stream,
            Err(error) => {
                metrics.handshake_failures.get_or_create(&transport.label()).inc();
                return Err(error);
            }
        };
        let shown = Shown::new(stream.get_ref().1.peer_certificates());
        let open = metrics.encrypted_connections.get_or_create_owned(&transport.label());
        open.inc();
        let result = match transport {
            Transport::Https => {
                https::converse((stream, shown), client, &self.resolver, (&self.connections, seat), self.stop.clone())
                    .await
            }
            _ => {
                let (read, write) = tokio::io::split(stream);
                converse((read, write), client, local, (Some(transport), shown), (&self, seat)).await
            }
        };
        open.dec();
        result
    }
}

/// The same connection under a number that has become free, if there is a better one.
fn renumbered(stream: TcpStream) -> io::Result<TcpStream> {
    let stream = stream.into_std()?;
    TcpStream::from_std(stream.try_clone().ok().filter(|other| Use::Client.fits(other)).unwrap_or(stream))
}

async fn handshake(stream: TcpStream, acceptor: &TlsAcceptor) -> io::Result<TlsStream<TcpStream>> {
    match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(result) => result,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
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
/// `local`: the guard's end. `transport`: of an encrypted stream, with the certificate that was shown on it.
async fn converse<R, W>(
    (mut read, write): (R, W),
    client: IpAddr,
    local: Option<IpAddr>,
    (transport, shown): (Option<Transport>, Shown),
    (front, seat): (&Front, &Seat),
) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Send + Unpin + 'static,
{
    let Front { resolver, connections, stop, .. } = front;
    let mut stop = stop.clone();
    // Room for every question in flight, so that sending a reply never waits and never fails for want of room.
    let (sender, replies) = mpsc::channel(IN_FLIGHT);
    let free = Arc::new(Semaphore::new(IN_FLIGHT));
    let stay: Arc<AtomicU16> = Arc::default();
    let room = (free.clone(), seat.activity().clone());
    let way = transport.map_or(Way::Tcp, Transport::way);
    let ends = (client, local);
    let writer = tokio::spawn(write_replies(write, replies, room, (way, stay.clone()), (resolver.clone(), ends)));
    let stranger = !resolver.admits(client);
    let mut refused = false;
    // Until when questions are taken of a connection that is to end: once set it stays, however busily the client asks on.
    let (mut asked, mut until) = (false, None);
    let result = loop {
        if refused {
            break Ok(());
        }
        // One question is enough to learn that more are in vain.
        refused = stranger;
        let crowded = stranger || connections.clients.limit().taken() > CONNECTIONS / 4 * 3;
        let idle = match transport {
            Some(_) => encrypted::idle_time(connections),
            None if crowded => IDLE_CROWDED,
            None => IDLE,
        };
        // The writer gives places back; it closes the semaphore when the client takes no replies.
        let Ok(place) = free.acquire().await else { break Ok(()) };
        let message = {
            let next = next_message(&mut read);
            tokio::pin!(next);
            let in_time = tokio::select! {
                message = tokio::time::timeout(idle, &mut next) => Some(message),
                over = stop.wait_for(|stop| *stop) => { drop(over); None }
                () = seat.displaced() => break Ok(()),
            };
            match in_time {
                Some(message) => message,
                // What the client has sent is answered.
                None => {
                    let last = if asked { LAST } else { encrypted::FIRST };
                    let until = *until.get_or_insert_with(|| tokio::time::Instant::now() + last);
                    tokio::time::timeout_at(until, next).await
                }
            }
        };
        let message = match message {
            Ok(Ok(Some(message))) => message,
            Ok(Err(error)) => break Err(error),
            Ok(Ok(None)) | Err(_) => break Ok(()),
        };
        match transport {
            Some(transport) => {
                resolver.metrics.encrypted_questions.get_or_create(&transport.label()).inc();
            }
            None => {
                resolver.metrics.tcp_questions.inc();
            }
        }
        if bears_option(&message, TCP_KEEPALIVE) {
            let tenths = u16::try_from(idle.as_millis() / 100).unwrap_or(u16::MAX);
            stay.store(tenths, Ordering::Relaxed);
        }
        let Ok(who) = encrypted::who(client, transport.map(|_| (&**connections.trust(), &shown)), None) else {
            resolver.metrics.drop_packet(encrypted::CERTIFICATE);
            break Ok(());
        };
        seat.activity().asked();
        asked = true;
        let mut out = Vec::new();
        let handled = {
            let rules = resolver.rules.load();
            let mut turn = Turn::new(&rules, resolver.clock.now(), local);
            let handled = resolver.handle(&message, &who, true, &mut turn, &mut out);
            resolver.metrics.cache_hits.inc_by(turn.hits);
            resolver.metrics.released.inc_by(turn.released);
            handled
        };
        if !matches!(handled, Handled::Drop) {
            resolver.query_log.tap(Tapped { way, reply: false, client, port: None, local, octets: &message });
        }
        match handled {
            Handled::Reply => {
                place.forget();
                if sender.send(resolver.outgoing(client, out)).await.is_err() {
                    break Ok(());
                }
            }
            Handled::Miss(missed) => {
                place.forget();
                resolver.submit(&missed, &who, Route::Stream(sender.clone(), client));
            }
            // The place goes back by itself: no reply will take it.
            Handled::Silence => seat.activity().answered(1),
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
async fn next_message(read: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let len = match read.read_u16().await {
        Ok(len) => len,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut message = vec![0; usize::from(len)];
    read.read_exact(&mut message).await?;
    Ok(Some(message))
}

/// Length and message in one write, several messages where they are ready; padded on encrypted streams. `stay`: how long the connection may be idle, in
/// tenths of a second, for a client that asked (RFC 7828); else 0.
async fn write_replies(
    mut write: impl AsyncWrite + Unpin,
    mut replies: mpsc::Receiver<Reply>,
    (free, activity): (Arc<Semaphore>, Arc<Activity>),
    (way, stay): (Way, Arc<AtomicU16>),
    (resolver, (client, local)): (Arc<Resolver>, (IpAddr, Option<IpAddr>)),
) {
    let mut out = Vec::new();
    // What is being written still counts as waiting.
    let mut held = Vec::new();
    while let Some(reply) = replies.recv().await {
        out.clear();
        let mut next = Some(reply);
        while let Some(Reply { mut octets, held: place }) = next.take() {
            match stay.load(Ordering::Relaxed) {
                0 => {}
                tenths => encrypted::add_option(&mut octets, TCP_KEEPALIVE, &tenths.to_be_bytes()),
            }
            resolver.metrics.replies.count(way, &octets);
            if way == Way::Tls {
                encrypted::pad(&mut octets);
            }
            resolver.query_log.tap(Tapped { way, reply: true, client, port: None, local, octets: &octets });
            held.push(place);
            // A body that is longer is refused when it is built.
            out.extend_from_slice(&u16::try_from(octets.len()).unwrap_or(u16::MAX).to_be_bytes());
            out.extend_from_slice(&octets);
            if out.len() < GATHER {
                next = replies.try_recv().ok();
            }
        }
        let written = async {
            write.write_all(&out).await?;
            write.flush().await
        };
        match tokio::time::timeout(WRITE, written).await {
            Ok(Ok(())) => {
                free.add_permits(held.len());
                activity.answered(held.len());
                held.clear();
            }
            Ok(Err(_)) | Err(_) => {
                free.close();
                return;
            }
        }
    }
    // The client may be gone; there is nothing left to tell it.
    drop(tokio::time::timeout(WRITE, write.shutdown()).await);
}
