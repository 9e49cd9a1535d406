//! DNS over QUIC for clients (RFC 9250): a stream per question, no early data (it could be replayed).

use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, EndpointConfig, Incoming, RecvStream, SendStream, TransportConfig, VarInt};
use rustls::pki_types::CertificateDer;
use tokio::time::MissedTickBehavior;

use self::socket::Socket;
use super::encrypted::{self, CONNECTIONS, CONNECTIONS_PER_CLIENT, HANDSHAKE, IDLE, LOOK, answer, idle_time};
use super::phase::{Mode, Phase, close_to_new};
use super::seats::{Busy, Seat};
use super::tcp::Connections;
use crate::core::person::Who;
use crate::dns::DnsError;
use crate::dns::codec::wire::{TCP_KEEPALIVE, bears_option};
use crate::dns::limits::{Full, Place};
use crate::dns::resolver::Resolver;
use crate::dns::transport::Transport;
use crate::tls::people::Shown;

mod socket;

/// Questions in flight on one connection; QUIC tells the client.
const STREAMS: u32 = 128;
/// How long a question may take to arrive.
const QUESTION: Duration = Duration::from_secs(5);
/// A client that doesn't take a reply for so long loses it.
const WRITE: Duration = Duration::from_secs(10);
/// What of replies may wait within QUIC on one connection, sent or not, until the client says that it has it.
const SEND_WINDOW: u64 = 256 * 1024;
/// How long a reply may take to be written once it is there.
const LAST: Duration = Duration::from_millis(10);
/// How long the end of all connections may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// The same where their clients can't be heard any more: until they were told.
const TOLD: Duration = Duration::from_millis(100);
/// Two octets of length and the longest message.
const MOST: usize = 2 + u16::MAX as usize;

/// Error codes, RFC 9250 section 8.4.
mod code {
    use super::VarInt;

    pub const NO_ERROR: VarInt = VarInt::from_u32(0);
    pub const INTERNAL_ERROR: VarInt = VarInt::from_u32(1);
    pub const PROTOCOL_ERROR: VarInt = VarInt::from_u32(2);
    pub const EXCESSIVE_LOAD: VarInt = VarInt::from_u32(4);
}

/// The endpoint on a bound socket, and that.
///
/// # Errors
/// The TLS configuration can't be used for QUIC, or the socket not by the runtime.
pub fn endpoint(socket: UdpSocket, tls: rustls::ServerConfig) -> Result<(Endpoint, Arc<Socket>), DnsError> {
    let crypto = QuicServerConfig::try_from(tls).map_err(|error| DnsError::Tls(error.to_string()))?;
    let mut transport = TransportConfig::default();
    transport.max_concurrent_bidi_streams(STREAMS.into()).max_concurrent_uni_streams(0u8.into());
    transport.max_idle_timeout(IDLE.try_into().ok());
    // A question is small: what clients may send ahead of being read is bounded.
    transport.stream_receive_window((MOST as u32).into()).receive_window((8 * MOST as u32).into());
    transport.send_window(SEND_WINDOW);
    transport.datagram_receive_buffer_size(None);
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    config.max_incoming(CONNECTIONS / 4).incoming_buffer_size(16 * 1024).incoming_buffer_size_total(4 << 20);
    let (socket, runtime) = (Arc::new(Socket::new(socket).map_err(DnsError::Start)?), Arc::new(quinn::TokioRuntime));
    Endpoint::new_with_abstract_socket(EndpointConfig::default(), Some(config), socket.clone(), runtime)
        .map(|endpoint| (endpoint, socket))
        .map_err(DnsError::Start)
}

/// Accepts until the phase is over. `socket`: the endpoint's.
pub async fn serve(
    ((endpoint, hearing), socket): ((Endpoint, Arc<Socket>), UdpSocket),
    resolver: Arc<Resolver>,
    connections: Arc<Connections>,
    phase: Arc<Phase>,
) {
    let (mut stop, first) = (phase.over(), First::default());
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let Some(incoming) = incoming else { return };
        let client = incoming.remote_address().ip().to_canonical();
        if !resolver.admits(client) {
            // A source that may be forged, and isn't one of ours anyway, gets no packet.
            incoming.ignore();
            resolver.metrics.refuse("client");
            resolver.refusals.push_connection(client, "over QUIC", "client: not in dns.clients");
            continue;
        }
        let Some(held) = admit(&incoming, client, &resolver, &connections) else {
            // It costs the guard one packet and no memory. A client that is where it says comes again with the token.
            resolver.metrics.quic_retries.inc();
            // Refused only to those whose address is proven.
            drop(incoming.retry());
            continue;
        };
        match held {
            Ok(held) => {
                tokio::spawn(converse(incoming, client, held, (resolver.clone(), first.begin()), connections.clone()));
            }
            Err(_) => {
                incoming.refuse();
                note_too_many(&resolver, client);
            }
        }
    }
    if phase.mode() == Mode::Leave
        && let Err(error) = close_to_new(&socket)
    {
        tracing::debug!(%error, "a QUIC listener that goes");
    }
    drop(socket);
    let leaves = phase.mode() == Mode::Leave;
    if !leaves {
        let until = tokio::time::Instant::now() + encrypted::FIRST;
        // Whoever has just begun is served to the end. Who comes now tries again, and finds the next process.
        while first.are_awaited() {
            let wait = until.min(tokio::time::Instant::now() + LAST);
            match tokio::time::timeout_at(wait, endpoint.accept()).await {
                Ok(Some(incoming)) => incoming.ignore(),
                Ok(None) => break,
                Err(_) if Instant::now() >= until.into_std() => break,
                Err(_) => {}
            }
        }
        // What comes from now on waits for the next process.
        hearing.deafen();
    }
    // What was asked is answered.
    let answered = async {
        while resolver.in_flight.taken() > 0 {
            tokio::time::sleep(LAST).await;
        }
        tokio::time::sleep(LAST).await;
    };
    drop(tokio::time::timeout(FAREWELL, answered).await);
    endpoint.close(code::NO_ERROR, b"");
    // Whoever isn't told in time will find out.
    drop(tokio::time::timeout(if leaves { FAREWELL } else { TOLD }, endpoint.wait_idle()).await);
}

/// How many connections have yet to ask for the first time.
#[derive(Clone, Default)]
struct First(Arc<AtomicUsize>);

impl First {
    /// One that begins.
    fn begin(&self) -> Awaited {
        self.0.fetch_add(1, Ordering::AcqRel);
        Awaited(self.clone())
    }

    fn are_awaited(&self) -> bool {
        self.0.load(Ordering::Acquire) > 0
    }
}

/// The first question of a connection, until it is answered or the connection has ended.
struct Awaited(First);

impl Drop for Awaited {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What a handshake holds.
enum Held {
    /// One of the client's own seats.
    Seat(Seat),
    /// A place among those whose address may be forged.
    Unproven(Place),
}

/// The place of a handshake that begins; `None`: only when the client has shown that it receives at its address. Whoever sends packets from a forged
/// address must not use up the places of whom it belongs to, nor all of them.
fn admit(
    incoming: &Incoming,
    client: IpAddr,
    resolver: &Resolver,
    connections: &Connections,
) -> Option<Result<Held, Full>> {
    let (encrypted, claim) = (connections.encrypted(), resolver.claim(client));
    if incoming.remote_address_validated() {
        return Some(encrypted.take(claim, || resolver.metrics.note_displaced()).map(Held::Seat));
    }
    let limit = encrypted.limit();
    if limit.taken() > CONNECTIONS / 4 || limit.taken_by(claim.host) > CONNECTIONS_PER_CLIENT / 4 {
        return None;
    }
    connections.unproven().take(claim).ok().map(|place| Ok(Held::Unproven(place)))
}

fn note_too_many(resolver: &Resolver, client: IpAddr) {
    resolver.metrics.drop_packet("too_many_connections");
    resolver.refusals.push_connection(client, "over QUIC", "too_many_connections: of this client, or of all");
}

/// Serves one connection until the client ends it, has no question for too long, or the guard stops.
async fn converse(
    incoming: Incoming,
    client: IpAddr,
    held: Held,
    (resolver, first): (Arc<Resolver>, Awaited),
    connections: Arc<Connections>,
) {
    let label = Transport::Quic.label();
    let failed = |words: String| {
        tracing::debug!(%client, error = words, "a QUIC handshake failed");
        resolver.metrics.handshake_failures.get_or_create(&label).inc();
    };
    let connection = match incoming.accept() {
        Ok(connecting) => match tokio::time::timeout(HANDSHAKE, connecting).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return failed(error.to_string()),
            Err(_) => return failed("too slow".to_owned()),
        },
        Err(error) => return failed(error.to_string()),
    };
    // Who has finished a handshake receives at its address (RFC 9000 section 8.1).
    let displaced = || resolver.metrics.note_displaced();
    let seat = match held {
        Held::Seat(seat) => seat,
        Held::Unproven(unproven) => match connections.encrypted().take(resolver.claim(client), displaced) {
            Ok(seat) => {
                drop(unproven);
                seat
            }
            Err(_) => {
                connection.close(code::EXCESSIVE_LOAD, b"too many connections");
                note_too_many(&resolver, client);
                return;
            }
        },
    };
    let open = resolver.metrics.encrypted_connections.get_or_create_owned(&label);
    open.inc();
    serve_streams(&connection, client, (&resolver, first), (&connections, &seat)).await;
    open.dec();
    drop(seat);
}

/// Ends with the connection: the client's close, a time-out, the guard's own close.
async fn serve_streams(
    connection: &Connection,
    client: IpAddr,
    (resolver, first): (&Arc<Resolver>, Awaited),
    (connections, seat): (&Connections, &Seat),
) {
    let (activity, mut first) = (seat.activity(), Some(first));
    let chain = connection.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    let shown = Shown::new(chain.as_deref().map(Vec::as_slice));
    // Beside the streams: those that bring no question must not put off the look.
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            streams = connection.accept_bi() => {
                let Ok((send, receive)) = streams else { return };
                // At most STREAMS of them: a place is free again when both directions have ended.
                let Ok(who) = encrypted::who(client, Some((connections.trust(), &shown)), None) else {
                    resolver.metrics.drop_packet(encrypted::CERTIFICATE);
                    connection.close(code::NO_ERROR, b"the certificate counts no more");
                    return;
                };
                let (connection, resolver, activity) = (connection.clone(), resolver.clone(), activity.clone());
                let first = first.take();
                tokio::spawn(async move {
                    stream(connection, send, receive, who, resolver, activity).await;
                    drop(first);
                });
            }
            () = seat.displaced() => {
                connection.close(code::EXCESSIVE_LOAD, b"idle, and others want its place");
                return;
            }
            _ = look.tick() => {
                // QUIC's own time-out counts every packet, so that a client's PINGs would hold the connection for ever.
                if activity.idle() > idle_time(connections) {
                    connection.close(code::NO_ERROR, b"idle");
                    return;
                }
            }
        }
    }
}

/// Why there is no question on a stream.
enum Fault {
    /// Reset by the client, or too slow: this stream only.
    Incomplete,
    /// The client breaks the protocol; how.
    Protocol(&'static str),
}

/// Whether a message is there that is as long as it says.
fn is_whole(octets: &[u8]) -> bool {
    octets.split_first_chunk::<2>().is_some_and(|(len, rest)| usize::from(u16::from_be_bytes(*len)) == rest.len())
}

/// Reads a stream to its end into `octets`: one message with its length before it (section 4.2). What comes behind it need not be waited for.
async fn read_question(receive: &mut RecvStream, octets: &mut Vec<u8>) -> Result<(), Fault> {
    loop {
        match receive.read_chunk(MOST, true).await {
            Ok(Some(chunk)) => octets.extend_from_slice(&chunk.bytes),
            Ok(None) if is_whole(octets) => return Ok(()),
            Ok(None) => return Err(Fault::Protocol("the stream ended before the question did")),
            Err(_) => return Err(Fault::Incomplete),
        }
        let len = octets.first_chunk::<2>().map_or(MOST, |len| usize::from(u16::from_be_bytes(*len)).saturating_add(2));
        if octets.len() > len {
            return Err(Fault::Protocol("more than one question on a stream"));
        }
    }
}

/// The message without its length, if DoQ lets it pass (sections 4.2.1 and 5.5.2).
fn message_of(octets: &[u8]) -> Result<&[u8], &'static str> {
    let message = octets.get(2..).unwrap_or_default();
    if !message.starts_with(&[0, 0]) {
        return Err("the id is not 0");
    }
    if bears_option(message, TCP_KEEPALIVE) {
        return Err("edns-tcp-keepalive in a question");
    }
    Ok(message)
}

/// One question. A client that breaks the protocol loses its connection (section 4.3.3).
async fn stream(
    connection: Connection,
    mut send: SendStream,
    mut receive: RecvStream,
    who: Who,
    resolver: Arc<Resolver>,
    activity: Arc<super::seats::Activity>,
) {
    let mut octets = Vec::new();
    let read = match tokio::time::timeout(QUESTION, read_question(&mut receive, &mut octets)).await {
        Ok(result) => result,
        Err(_) if is_whole(&octets) => Err(Fault::Protocol("no end of the stream after the question")),
        Err(_) => Err(Fault::Incomplete),
    };
    let message = match read.and_then(|()| message_of(&octets).map_err(Fault::Protocol)) {
        Ok(message) => message,
        Err(Fault::Incomplete) => {
            resolver.metrics.drop_packet("stream_incomplete");
            // Both may have ended already.
            drop(receive.stop(code::PROTOCOL_ERROR));
            drop(send.reset(code::PROTOCOL_ERROR));
            return;
        }
        Err(Fault::Protocol(words)) => {
            resolver.metrics.drop_packet("doq_protocol");
            tracing::debug!(client = %who.address, error = words, "a QUIC client broke the protocol");
            connection.close(code::PROTOCOL_ERROR, words.as_bytes());
            return;
        }
    };
    // Only whole questions keep the connection.
    let busy = Busy::new(&activity);
    let reply = tokio::select! {
        reply = answer(&resolver, message, &who, connection.local_ip(), Transport::Quic) => reply,
        // The client wants it no more.
        _ = send.stopped() => return,
    };
    // Also for those that a list leaves without reply: the client needn't wait, and has nothing to read.
    let Ok(reply) = reply else {
        // The stream may have ended already.
        drop(send.reset(code::INTERNAL_ERROR));
        return;
    };
    let mut framed = u16::try_from(reply.octets.len()).unwrap_or(u16::MAX).to_be_bytes().to_vec();
    framed.extend_from_slice(&reply.octets);
    match tokio::time::timeout(WRITE, send.write_all(&framed)).await {
        Ok(Ok(())) if send.finish().is_ok() => {}
        Ok(_) => resolver.metrics.drop_packet("stream_closed"),
        // The client takes nothing.
        Err(_) => {
            resolver.metrics.drop_packet("stream_closed");
            // The stream may have ended already.
            drop(send.reset(code::INTERNAL_ERROR));
        }
    }
    drop((reply, busy));
}
