//! Stub resolvers that ask at a rate, half for names never asked before, and again each second while nothing comes back.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::probe::Answered;
use super::upstream;
use super::world::World;
use super::{AnyError, FRESH, REPEATED};
use crate::dns::client::Answer;
use crate::dns::message::{Message, Question, RECURSION_DESIRED, RESPONSE};
use crate::node::Node;

/// Clients, each with a socket of its own.
pub const CLIENTS: usize = 4;
/// A stub asks again after this.
const AGAIN: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(50);

/// A question on its way.
#[derive(Debug)]
struct Asked {
    question: Question,
    address: IpAddr,
    first: Instant,
    last: Instant,
    row: usize,
}

/// One of them.
#[derive(Debug)]
pub struct Client {
    socket: UdpSocket,
    next: AtomicU16,
    asked: Mutex<HashMap<u16, Asked>>,
}

impl Client {
    /// A socket in a node, towards the guard.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(node: &Node, server: SocketAddr) -> Result<Self, AnyError> {
        let bind = || -> io::Result<UdpSocket> {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(server)?;
            socket.set_read_timeout(Some(TICK))?;
            Ok(socket)
        };
        Ok(Self { socket: node.in_namespace(bind)??, next: AtomicU16::new(0), asked: Mutex::default() })
    }

    fn asked(&self) -> MutexGuard<'_, HashMap<u16, Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Addresses of what is on its way.
    pub fn pending(&self) -> Vec<IpAddr> {
        self.asked().values().map(|asked| asked.address).collect()
    }

    /// Asks once; nothing comes of it when the guard is away but a refusal by the kernel, which is as good as silence.
    fn send(&self, id: u16, question: &Question) {
        let questions = vec![question.clone()];
        let message = Message { id, flags: RECURSION_DESIRED, questions, ..Message::default() };
        if let Err(error) = self.socket.send(&message.encode())
            && error.kind() != io::ErrorKind::ConnectionRefused
        {
            eprintln!("lab: a client could not ask: {error}");
        }
    }

    /// Asks for a name.
    pub fn ask(&self, world: &World, name: String) {
        let Some((rtype, address)) = upstream::address(&name) else { return };
        let question = Question { name, rtype, class: 1 };
        let now = Instant::now();
        world.ledger().asked(address, now);
        let mut all = self.asked();
        let mut id = self.next.fetch_add(1, Relaxed);
        while all.contains_key(&id) {
            id = self.next.fetch_add(1, Relaxed);
        }
        let asked = Asked { question: question.clone(), address, first: now, last: now, row: world.row() };
        all.insert(id, asked);
        drop(all);
        self.send(id, &question);
    }

    /// Takes replies until the end.
    pub fn receive(&self, world: &World) {
        let mut room = vec![0; 4096];
        while !world.ended() {
            // Time-outs, and the kernel's word that nobody listens while the guard is away.
            let Ok(length) = self.socket.recv(&mut room) else { continue };
            let seen = Instant::now();
            let Some(message) = room.get(..length).and_then(Message::decode) else { continue };
            let mut all = self.asked();
            let fits = |asked: &Asked| message.flags & RESPONSE != 0 && message.questions == [asked.question.clone()];
            if !all.get(&message.id).is_some_and(fits) {
                continue;
            }
            let Some(asked) = all.remove(&message.id) else { continue };
            drop(all);
            let ttl = message.answers.iter().map(|record| record.ttl).min().unwrap_or_default();
            let answer = Answer { message, asked: asked.first, seen };
            let (addresses, ttl) = (answer.addresses(), Duration::from_secs(u64::from(ttl)));
            judge(world, &asked, &addresses, ttl, seen);
        }
    }

    /// Asks again for what has no reply, and gives up in the end.
    fn again(&self, world: &World) {
        let now = Instant::now();
        let mut over = Vec::new();
        let mut again = Vec::new();
        self.asked().retain(|id, asked| {
            let keep = !world.gives_up(asked.first, now);
            if !keep {
                over.push((asked.row, asked.question.name.clone()));
            } else if asked.last + AGAIN <= now {
                asked.last = now;
                again.push((*id, asked.question.clone(), asked.address));
            }
            keep
        });
        let lasts = world.lasts();
        for (row, name) in over {
            world.count(row, |row| if lasts { row.given_up += 1 } else { row.questions_lost += 1 });
            if !lasts {
                world.tell(row, format!("no reply for {name}"));
            }
        }
        for (id, question, address) in again {
            world.ledger().asked(address, now);
            self.send(id, &question);
        }
    }
}

/// What a reply shows, and a probe at once.
fn judge(world: &World, asked: &Asked, addresses: &[IpAddr], ttl: Duration, seen: Instant) {
    let row = world.row();
    if addresses.is_empty() {
        world.count(row, |row| row.failed += 1);
        return;
    }
    world.count(row, |row| row.answers += 1);
    for &address in addresses {
        let name = asked.question.name.clone();
        if address != asked.address {
            world.count(row, |row| row.unenforced += 1);
            world.tell(row, format!("{name} was answered with {address}, which is not its address"));
            continue;
        }
        world.ledger().told(address, ttl, asked.first, seen);
        let answer = Answered { name, asked: asked.last, seen };
        world.probe(address, Some(answer));
    }
}

/// Asks at a rate until told to end: fresh names and those asked before in turns.
pub fn ask_at_rate(world: &World, clients: &[Client], rate: u32) {
    let gap = Duration::from_secs(1) / rate.max(1);
    let (begin, next) = (Instant::now(), AtomicUsize::new(0));
    let mut due = begin;
    while !world.quiet() {
        let number = next.fetch_add(1, Relaxed);
        if let Some(client) = clients.get(number % clients.len().max(1)) {
            let half = number / 2;
            let label = if number.is_multiple_of(2) { FRESH.start + half % FRESH.len() } else { half % REPEATED };
            client.ask(world, format!("n{label}.many.test"));
        }
        due += gap;
        let now = Instant::now();
        // What couldn't be asked in time on a busy machine isn't asked all at once.
        due = due.max(now.checked_sub(AGAIN).unwrap_or(now));
        std::thread::sleep(due.saturating_duration_since(now));
    }
}

/// Asks again, and gives up, until the end.
pub fn ask_again(world: &World, clients: &[Client]) {
    while !world.ended() {
        clients.iter().for_each(|client| client.again(world));
        std::thread::sleep(TICK);
    }
}
