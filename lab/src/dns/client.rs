//! A client that asks one question and says when the answer was there.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use super::message::{Data, Edns, Message, Question, RECURSION_DESIRED, RESPONSE};

/// How a question travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// One datagram each way.
    Udp,
    /// Two octets of length before each message.
    Tcp,
}

/// An answer and when it was seen.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The message that came.
    pub message: Message,
    /// When the question left.
    pub asked: Instant,
    /// When the answer was in this process.
    pub seen: Instant,
}

impl Answer {
    /// The addresses in ANSWER, in order.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        let records = self.message.answers.iter();
        records
            .filter_map(|record| match record.data {
                Data::A(address) => Some(IpAddr::V4(address)),
                Data::Aaaa(address) => Some(IpAddr::V6(address)),
                _ => None,
            })
            .collect()
    }

    /// The response code, from the header alone.
    #[must_use]
    pub fn rcode(&self) -> u8 {
        self.message.rcode()
    }

    /// How long it took.
    #[must_use]
    pub fn took(&self) -> Duration {
        self.seen.duration_since(self.asked)
    }
}

/// Asks over UDP from the calling thread's network; see [`crate::Node::in_namespace`].
///
/// # Errors
/// The socket's; `TimedOut` when no answer to this question came in time.
pub fn ask(server: SocketAddr, name: &str, rtype: u16, limit: Duration) -> io::Result<Answer> {
    Asker::new(server)?.ask(name, rtype, limit)
}

/// Like [`ask`], over a transport of choice.
///
/// # Errors
/// As [`ask`].
pub fn ask_over(
    transport: Transport,
    server: SocketAddr,
    name: &str,
    rtype: u16,
    limit: Duration,
) -> io::Result<Answer> {
    match transport {
        Transport::Udp => ask(server, name, rtype, limit),
        Transport::Tcp => ask_tcp(server, name, rtype, limit),
    }
}

/// Asks many questions from one socket.
#[derive(Debug)]
pub struct Asker {
    socket: UdpSocket,
}

impl Asker {
    /// A socket in the calling thread's network.
    ///
    /// # Errors
    /// The socket's.
    pub fn new(server: SocketAddr) -> io::Result<Self> {
        let any: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
        let socket = UdpSocket::bind(any)?;
        socket.connect(server)?;
        Ok(Self { socket })
    }

    /// As [`ask`].
    ///
    /// # Errors
    /// As [`ask`].
    pub fn ask(&self, name: &str, rtype: u16, limit: Duration) -> io::Result<Answer> {
        let query = query(name, rtype);
        let asked = Instant::now();
        self.socket.send(&query.encode())?;
        let mut room = vec![0; 65536];
        loop {
            let left = limit.checked_sub(asked.elapsed()).filter(|left| !left.is_zero());
            let left = left.ok_or_else(|| io::Error::from(io::ErrorKind::TimedOut))?;
            self.socket.set_read_timeout(Some(left))?;
            let length = match self.socket.recv(&mut room) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer for {name}")));
                }
                Err(error) => return Err(error),
            };
            let seen = Instant::now();
            if let Some(message) = room.get(..length).and_then(Message::decode)
                && answers(&query, &message)
            {
                return Ok(Answer { message, asked, seen });
            }
        }
    }
}

fn ask_tcp(server: SocketAddr, name: &str, rtype: u16, limit: Duration) -> io::Result<Answer> {
    let query = query(name, rtype);
    let asked = Instant::now();
    let mut stream = TcpStream::connect_timeout(&server, limit)?;
    stream.set_read_timeout(Some(limit))?;
    send_framed(&mut stream, &query.encode())?;
    let octets = receive_framed(&mut stream)?;
    let seen = Instant::now();
    let message = Message::decode(&octets).filter(|message| answers(&query, message));
    let message = message.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an answer to the question"))?;
    Ok(Answer { message, asked, seen })
}

/// Writes a message with its length before it, in one segment.
pub(super) fn send_framed(stream: &mut TcpStream, octets: &[u8]) -> io::Result<()> {
    let length = u16::try_from(octets.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend(octets);
    stream.write_all(&frame)
}

/// Reads one message with its length before it.
pub(super) fn receive_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut octets = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut octets)?;
    Ok(octets)
}

fn query(name: &str, rtype: u16) -> Message {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    Message {
        id: NEXT.fetch_add(1, Ordering::Relaxed),
        flags: RECURSION_DESIRED,
        questions: vec![Question { name: name.to_owned(), rtype, class: 1 }],
        edns: Some(Edns { size: 1232, dnssec_ok: false, options: Vec::new() }),
        ..Message::default()
    }
}

fn answers(query: &Message, message: &Message) -> bool {
    message.id == query.id && message.flags & RESPONSE != 0 && message.questions == query.questions
}
