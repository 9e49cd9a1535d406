//! Many questions at once, as a stub resolver asks: unanswered ones again, failed ones up to three times.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use super::World;
use super::names::{Entry, told};
use crate::dns::message::{Edns, Message, Question, RECURSION_DESIRED, RESPONSE};
use crate::dns::{AAAA, NOERROR};

/// Rounds of questions before a name counts as lost.
const ROUNDS: usize = 3;
/// For the answers of one round.
const ROUND: Duration = Duration::from_secs(5);
/// After so long a question is sent again within a round.
const AGAIN: Duration = Duration::from_secs(2);
/// The pause between two rounds of questions.
const PAUSE: Duration = Duration::from_secs(1);

/// Extended DNS Error 23 (RFC 8914): an enforcer was late.
const NETWORK_ERROR: u16 = 23;

/// One question of a batch.
struct Asking<'a> {
    entry: &'a Entry,
    rtype: u16,
    message: Message,
    /// Done for this round.
    heard: bool,
    /// Whether the answer was as it should be.
    good: bool,
}

/// What a client was told.
pub struct Told<'a> {
    /// The name that was asked for, with its addresses.
    pub entry: &'a Entry,
    /// The type that was asked for.
    pub rtype: u16,
    /// At least one.
    pub addresses: Vec<IpAddr>,
    /// The least TTL.
    pub ttl: Duration,
    /// When the answer was there.
    pub seen: Instant,
}

/// Asks all at once; each good answer is noted in the ledger and handed on as it comes.
///
/// # Errors
/// When sockets can't be had.
pub fn resolve<'a>(
    world: &'a World,
    client: usize,
    questions: impl IntoIterator<Item = (&'a Entry, u16)>,
    mut on: impl FnMut(Told<'a>),
) -> io::Result<()> {
    let mut batch: Vec<Asking<'a>> = questions
        .into_iter()
        .map(|(entry, rtype)| Asking { entry, rtype, message: query(&entry.name, rtype), heard: false, good: false })
        .collect();
    let begun = Instant::now();
    for asking in &batch {
        world.ledger().asks(client, asking.entry.addresses());
    }
    world.counts().questions.asked += batch.len() as u64;
    for round in 0..ROUNDS {
        if round > 0 {
            std::thread::sleep(PAUSE);
        }
        for asking in batch.iter_mut().filter(|asking| !asking.good) {
            asking.heard = false;
            asking.message.id = next_id();
        }
        one_round(world, client, &mut batch, &mut on)?;
        if batch.iter().all(|asking| asking.good) || world.ended() {
            break;
        }
    }
    let lost: Vec<&Asking<'_>> = batch.iter().filter(|asking| !asking.good).collect();
    let now = Instant::now();
    for asking in lost {
        world.ledger().unanswered(asking.entry.addresses(), asking.entry.ttl(), now);
        if world.was_down(begun, now) {
            world.counts().questions.while_down += 1;
        } else if !world.ended() {
            world.counts().questions.lost += 1;
            world.fault("lost", format!("{} type {} by client {client}", asking.entry.name, asking.rtype));
        }
    }
    Ok(())
}

fn one_round<'a>(
    world: &World,
    client: usize,
    batch: &mut [Asking<'a>],
    on: &mut impl FnMut(Told<'a>),
) -> io::Result<()> {
    let servers = world.servers(client);
    let sockets = servers.map(|server| -> io::Result<UdpSocket> {
        let any: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
        let socket = UdpSocket::bind(any)?;
        socket.connect(server)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    });
    let [four, six] = sockets;
    let sockets = [four?, six?];
    let begun = Instant::now();
    let mut sent = 0;
    let mut room = vec![0; 4096];
    while batch.iter().any(|asking| !asking.good && !asking.heard) && begun.elapsed() < ROUND {
        if begun.elapsed() >= AGAIN * sent {
            for asking in batch.iter().filter(|asking| !asking.good && !asking.heard) {
                let [four, six] = &sockets;
                let socket = if asking.rtype == AAAA { six } else { four };
                // While no guard listens this fails with what ICMP said of the one before; it is sent again.
                if socket.send(&asking.message.encode()).is_err() && !world.was_down(begun, Instant::now()) {
                    std::thread::yield_now();
                }
                if sent > 0 {
                    world.again(begun);
                }
            }
            sent += 1;
        }
        let mut idle = true;
        for socket in &sockets {
            while let Ok(length) = socket.recv(&mut room) {
                let seen = Instant::now();
                idle = false;
                let Some(message) = room.get(..length).and_then(Message::decode) else { continue };
                let asked = |asking: &&mut Asking<'_>| {
                    asking.message.id == message.id
                        && message.flags & RESPONSE != 0
                        && asking.message.questions == message.questions
                };
                let Some(asking) = batch.iter_mut().find(asked).filter(|asking| !asking.heard) else { continue };
                asking.heard = true;
                asking.good = heard(world, client, asking, &message, begun, seen, on);
            }
        }
        if idle {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

/// Judges an answer; whether it is a good one.
fn heard<'a>(
    world: &World,
    client: usize,
    asking: &Asking<'a>,
    message: &Message,
    begun: Instant,
    seen: Instant,
    on: &mut impl FnMut(Told<'a>),
) -> bool {
    let addresses = told(&message.answers);
    if message.rcode() != NOERROR || addresses.is_empty() {
        let down = world.was_down(begun, seen);
        let mut counts = world.counts();
        let questions = &mut counts.questions;
        match (down, message.rcode()) {
            (true, _) => questions.while_down += 1,
            (false, NOERROR) => questions.empty += 1,
            (false, _) if message.extended_errors().contains(&NETWORK_ERROR) => questions.unconfirmed += 1,
            (false, _) => questions.servfail += 1,
        }
        drop(counts);
        if !down {
            let errors: Vec<String> = message
                .edns
                .iter()
                .flat_map(|edns| &edns.options)
                .map(|(code, content)| {
                    let text = content.get(2..).unwrap_or_default();
                    let info = content.first_chunk().map_or(0, |two| u16::from_be_bytes(*two));
                    format!("option {code}: {info} {}", String::from_utf8_lossy(text))
                })
                .collect();
            let kind = if message.rcode() == NOERROR { "empty" } else { "refused question" };
            world.fault(
                kind,
                format!(
                    "{} type {} by client {client}: rcode {}, {} addresses; {}",
                    asking.entry.name,
                    asking.rtype,
                    message.rcode(),
                    addresses.len(),
                    errors.join("; ")
                ),
            );
        }
        return false;
    }
    let ttl = message.answers.iter().map(|record| record.ttl).min().unwrap_or_default();
    let ttl = Duration::from_secs(ttl.into());
    world.ledger().told(client, &addresses, ttl, begun, seen);
    on(Told { entry: asking.entry, rtype: asking.rtype, addresses, ttl, seen });
    true
}

fn next_id() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn query(name: &str, rtype: u16) -> Message {
    Message {
        flags: RECURSION_DESIRED,
        questions: vec![Question { name: name.to_owned(), rtype, class: 1 }],
        edns: Some(Edns { size: 1232, dnssec_ok: false, options: Vec::new() }),
        ..Message::default()
    }
}
