//! A scripted authoritative server for names below `.test` and `.example`: UDP and TCP, answers from a table that the
//! test changes while it runs; it can be late, silent, truncated, or be overtaken by a forger.
//!
//! `nNNN.many.test` needs no entry: each number has an address of its own in each family ([`many_v4`], [`many_v6`]).

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::client::{Transport, receive_framed, send_framed};
use super::message::{AUTHORITATIVE, Edns, Message, Question, RESPONSE, Record, TRUNCATED};
use super::{A, AAAA, ANY, NOERROR, NXDOMAIN};
use crate::error::Error;
use crate::node::Node;

/// TTL of `nNNN.many.test`, unless set with [`Server::many_ttl`].
const MANY_TTL: u32 = 60;
/// How often a thread looks whether it is to end.
const TICK: Duration = Duration::from_millis(50);

/// What a question gets. `Reply::default()` is an empty NOERROR.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// The response code of the reply.
    pub rcode: u8,
    /// ANSWER, in this order. All of it is sent whatever the question's type: a scripted server may lie.
    pub answers: Vec<Record>,
    /// The records of the AUTHORITY section.
    pub authority: Vec<Record>,
    /// The records of the ADDITIONAL section.
    pub additional: Vec<Record>,
    /// Waited before the reply.
    pub delay: Duration,
    /// Over UDP: TC and no records.
    pub truncate: bool,
    /// No reply at all.
    pub silent: bool,
    /// Sent at once from the same socket, before the reply.
    pub forged: Vec<Forged>,
}

impl Reply {
    /// These records and nothing else.
    #[must_use]
    pub fn of(answers: Vec<Record>) -> Self {
        Self { answers, ..Self::default() }
    }

    /// An RCODE and no records.
    #[must_use]
    pub fn rcode(rcode: u8) -> Self {
        Self { rcode, ..Self::default() }
    }
}

/// A forger's message: like the reply, with these differences.
#[derive(Clone, Debug, Default)]
pub struct Forged {
    /// Added to the question's ID.
    pub id_offset: u16,
    /// In place of the question's name.
    pub question: Option<String>,
    /// The forged records of the ANSWER section.
    pub answers: Vec<Record>,
}

/// A question that came.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The name in lower case.
    pub name: String,
    /// The type asked for (QTYPE).
    pub rtype: u16,
    /// How it came.
    pub transport: Transport,
    /// The address and port that it came from.
    pub from: SocketAddr,
    /// The moment when it came.
    pub at: Instant,
}

/// The running server; ends when dropped.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    addresses: Vec<SocketAddr>,
}

/// What answers before the table does.
type Script = dyn Fn(&Question) -> Option<Reply> + Send + Sync;

#[derive(Default)]
struct Scripts(Mutex<Option<Arc<Script>>>);

impl std::fmt::Debug for Scripts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if lock(&self.0).is_some() { "a script" } else { "no script" })
    }
}

#[derive(Debug, Default)]
struct Shared {
    script: Scripts,
    table: Mutex<HashMap<(String, u16), Reply>>,
    asked: Mutex<Vec<Asked>>,
    many_ttl: Mutex<Option<u32>>,
    stop: AtomicBool,
}

impl Server {
    /// Listens in a node, on each address, with UDP and TCP. Port 0 = any, the same for both.
    ///
    /// # Errors
    /// [`Error::System`] when an address can't be bound.
    pub fn start(node: &Node, addresses: &[SocketAddr]) -> Result<Self, Error> {
        let place = format!("DNS server in {}", node.name());
        node.in_namespace(|| Self::start_here(addresses))?.map_err(Error::system(place))
    }

    /// Listens in the calling thread's network.
    ///
    /// # Errors
    /// When an address can't be bound.
    pub fn start_here(addresses: &[SocketAddr]) -> io::Result<Self> {
        let mut server = Self { shared: Arc::default(), threads: Vec::new(), addresses: Vec::new() };
        for &address in addresses {
            let tcp = TcpListener::bind(address)?;
            let bound = tcp.local_addr()?;
            let udp = UdpSocket::bind(bound)?;
            udp.set_read_timeout(Some(TICK))?;
            tcp.set_nonblocking(true)?;
            server.addresses.push(bound);
            let shared = Arc::clone(&server.shared);
            server.threads.push(std::thread::spawn(move || serve_udp(&shared, &udp)));
            let shared = Arc::clone(&server.shared);
            server.threads.push(std::thread::spawn(move || serve_tcp(&shared, &tcp)));
        }
        Ok(server)
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Sets what a question gets from now on. `rtype` [`ANY`]: whatever its type.
    pub fn set(&self, name: &str, rtype: u16, reply: Reply) {
        lock(&self.shared.table).insert((name.to_ascii_lowercase(), rtype), reply);
    }

    /// Sets address records, each under its own type.
    pub fn set_addresses(&self, name: &str, ttl: u32, addresses: &[IpAddr]) {
        for rtype in [A, AAAA] {
            let records = addresses.iter().filter(|address| address.is_ipv4() == (rtype == A));
            let answers = records.map(|&address| Record::address(name, ttl, address)).collect();
            self.set(name, rtype, Reply::of(answers));
        }
    }

    /// Asks this first from now on, and the table only for what it leaves; [`Server::asked`] doesn't show what it answered.
    pub fn script(&self, script: impl Fn(&Question) -> Option<Reply> + Send + Sync + 'static) {
        *lock(&self.shared.script.0) = Some(Arc::new(script));
    }

    /// Takes a name out of the table: NXDOMAIN.
    pub fn remove(&self, name: &str) {
        let name = name.to_ascii_lowercase();
        lock(&self.shared.table).retain(|(known, _), _| *known != name);
    }

    /// TTL of `nNNN.many.test` from now on.
    pub fn many_ttl(&self, ttl: u32) {
        *lock(&self.shared.many_ttl) = Some(ttl);
    }

    /// Every question so far.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.shared.asked).clone()
    }

    /// How often a name was asked, over all types.
    #[must_use]
    pub fn times_asked(&self, name: &str) -> usize {
        lock(&self.shared.asked).iter().filter(|asked| asked.name.eq_ignore_ascii_case(name)).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                eprintln!("lab: a thread of the DNS server panicked");
            }
        }
    }
}

/// The IPv4 address of `n<number>.many.test`: the documentation prefixes first, then 198.18.0.0/15 (RFC 2544).
#[must_use]
pub fn many_v4(number: u32) -> Ipv4Addr {
    let base = match number {
        0..254 => Ipv4Addr::new(203, 0, 113, 1),
        254..508 => Ipv4Addr::new(198, 51, 100, 1),
        _ => Ipv4Addr::new(198, 18, 0, 0),
    };
    let offset = match number {
        0..254 => number,
        254..508 => number - 254,
        _ => (number - 508) % (1 << 17),
    };
    Ipv4Addr::from(u32::from(base) + offset)
}

/// The IPv6 address of `n<number>.many.test`: 2001:db8:ff::<number + 1>.
#[must_use]
pub fn many_v6(number: u32) -> Ipv6Addr {
    let number = number.wrapping_add(1);
    Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, (number >> 16) as u16, number as u16)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn reply(&self, question: &Question) -> Reply {
        let name = question.name.to_ascii_lowercase();
        if let Some(number) = name.strip_suffix(".many.test").and_then(|label| label.strip_prefix('n')?.parse().ok()) {
            let ttl = lock(&self.many_ttl).unwrap_or(MANY_TTL);
            return match question.rtype {
                A => Reply::of(vec![Record::address(&question.name, ttl, many_v4(number))]),
                AAAA => Reply::of(vec![Record::address(&question.name, ttl, many_v6(number))]),
                _ => Reply::default(),
            };
        }
        let table = lock(&self.table);
        let found = table.get(&(name.clone(), question.rtype)).or_else(|| table.get(&(name.clone(), ANY)));
        match found {
            Some(reply) => reply.clone(),
            None if table.keys().any(|(known, _)| *known == name) => Reply::rcode(NOERROR),
            None => Reply::rcode(NXDOMAIN),
        }
    }

    /// The reply and the forgeries before it, as messages.
    fn answer(&self, query: &Message, from: SocketAddr, transport: Transport) -> Option<Scripted> {
        let question = query.questions.first()?;
        let script = lock(&self.script.0).clone();
        let reply = script.and_then(|script| script(question)).unwrap_or_else(|| {
            lock(&self.asked).push(Asked {
                name: question.name.to_ascii_lowercase(),
                rtype: question.rtype,
                transport,
                from,
                at: Instant::now(),
            });
            self.reply(question)
        });
        let edns = query.edns.is_some().then(|| Edns { size: 1232, dnssec_ok: false, options: Vec::new() });
        let base = Message {
            id: query.id,
            flags: RESPONSE | AUTHORITATIVE | (query.flags & 0x7900) | u16::from(reply.rcode & 0xf),
            questions: vec![question.clone()],
            edns,
            ..Message::default()
        };
        let forged = reply.forged.into_iter().map(|forged| {
            let mut message = base.clone();
            message.id = message.id.wrapping_add(forged.id_offset);
            if let (Some(name), Some(question)) = (forged.question, message.questions.first_mut()) {
                question.name = name;
            }
            message.answers = forged.answers;
            message.encode()
        });
        let forged = forged.collect();
        let mut message = base;
        if reply.truncate && transport == Transport::Udp {
            message.flags |= TRUNCATED;
        } else {
            message.answers = reply.answers;
            message.authority = reply.authority;
            message.additional = reply.additional;
        }
        let room = query.edns.as_ref().map_or(512, |edns| usize::from(edns.size.max(512)));
        let mut octets = message.encode();
        if transport == Transport::Udp && octets.len() > room {
            message.flags |= TRUNCATED;
            message.answers.clear();
            message.authority.clear();
            message.additional.clear();
            octets = message.encode();
        }
        Some(Scripted { forged, reply: (!reply.silent).then_some(octets), delay: reply.delay })
    }
}

struct Scripted {
    forged: Vec<Vec<u8>>,
    reply: Option<Vec<u8>>,
    delay: Duration,
}

fn serve_udp(shared: &Arc<Shared>, socket: &UdpSocket) {
    let mut room = vec![0; 65536];
    while !shared.stop.load(Ordering::Relaxed) {
        // Time-outs, and ICMP errors of clients that went away: neither ends the server.
        let Ok((length, from)) = socket.recv_from(&mut room) else { continue };
        let Some(query) = room.get(..length).and_then(Message::decode) else { continue };
        let Some(scripted) = shared.answer(&query, from, Transport::Udp) else { continue };
        for forged in &scripted.forged {
            report(socket.send_to(forged, from));
        }
        let Some(reply) = scripted.reply else { continue };
        if scripted.delay.is_zero() {
            report(socket.send_to(&reply, from));
        } else if let Ok(socket) = socket.try_clone() {
            // Ends by itself after the delay; late questions of other clients must not wait for it.
            std::thread::spawn(move || {
                std::thread::sleep(scripted.delay);
                report(socket.send_to(&reply, from));
            });
        }
    }
}

fn serve_tcp(shared: &Arc<Shared>, listener: &TcpListener) {
    while !shared.stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, from)) => {
                let shared = Arc::clone(shared);
                std::thread::spawn(move || {
                    // The other end closing is how a connection ends.
                    drop(serve_connection(&shared, stream, from));
                });
            }
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

fn serve_connection(shared: &Shared, mut stream: TcpStream, from: SocketAddr) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    while !shared.stop.load(Ordering::Relaxed) {
        let octets = receive_framed(&mut stream)?;
        let Some(query) = Message::decode(&octets) else { break };
        let Some(scripted) = shared.answer(&query, from, Transport::Tcp) else { break };
        std::thread::sleep(scripted.delay);
        if let Some(reply) = scripted.reply {
            send_framed(&mut stream, &reply)?;
        }
    }
    Ok(())
}

fn report(sent: io::Result<usize>) {
    if let Err(error) = sent {
        eprintln!("lab: the DNS server could not reply: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::{ask, ask_over};

    const LIMIT: Duration = Duration::from_secs(10);

    fn server() -> (Server, SocketAddr) {
        let server = Server::start_here(&[SocketAddr::from((Ipv4Addr::LOCALHOST, 0))]).unwrap();
        let address = server.addresses()[0];
        (server, address)
    }

    #[test]
    fn the_table_answers() {
        let (server, at) = server();
        let v4 = IpAddr::from([203, 0, 113, 5]);
        server.set_addresses("www.example.test", 60, &[v4, IpAddr::from(many_v6(3))]);
        assert_eq!(ask(at, "WWW.example.test", A, LIMIT).unwrap().addresses(), [v4]);
        assert_eq!(ask(at, "www.example.test", AAAA, LIMIT).unwrap().addresses(), [IpAddr::from(many_v6(3))]);
        assert_eq!(ask(at, "www.example.test", super::super::TXT, LIMIT).unwrap().rcode(), NOERROR);
        assert_eq!(ask(at, "no.example.test", A, LIMIT).unwrap().rcode(), NXDOMAIN);
        assert_eq!(ask(at, "n300.many.test", A, LIMIT).unwrap().addresses(), [IpAddr::from([198, 51, 100, 47])]);
        assert_eq!(server.times_asked("www.example.test"), 3);
    }

    #[test]
    fn truncation_sends_a_client_to_tcp() {
        let (server, at) = server();
        let record = Record::address("big.test", 1, many_v4(0));
        server.set("big.test", A, Reply { answers: vec![record], truncate: true, ..Reply::default() });
        let udp = ask(at, "big.test", A, LIMIT).unwrap();
        assert!(udp.message.truncated() && udp.addresses().is_empty());
        assert_eq!(ask_over(Transport::Tcp, at, "big.test", A, LIMIT).unwrap().addresses(), [IpAddr::from(many_v4(0))]);
    }

    #[test]
    fn a_forger_is_first_and_a_silent_server_says_nothing() {
        let (server, at) = server();
        let wrong = Forged { id_offset: 1, answers: vec![Record::address("f.test", 1, many_v4(9))], question: None };
        let right = vec![Record::address("f.test", 1, many_v4(1))];
        server.set("f.test", A, Reply { answers: right, forged: vec![wrong], ..Reply::default() });
        assert_eq!(ask(at, "f.test", A, LIMIT).unwrap().addresses(), [IpAddr::from(many_v4(1))]);
        server.set("s.test", ANY, Reply { silent: true, ..Reply::default() });
        let error = ask(at, "s.test", A, Duration::from_millis(100)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn every_number_has_an_address_of_its_own() {
        let v4: std::collections::HashSet<_> = (0..5000).map(many_v4).collect();
        let v6: std::collections::HashSet<_> = (0..5000).map(many_v6).collect();
        assert_eq!((v4.len(), v6.len()), (5000, 5000));
        assert_eq!((many_v4(253), many_v4(508)), (Ipv4Addr::new(203, 0, 113, 254), Ipv4Addr::new(198, 18, 0, 0)));
    }
}
