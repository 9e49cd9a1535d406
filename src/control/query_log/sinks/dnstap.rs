//! dnstap over Frame Streams: what clients ask and get, octet by octet (dnstap.info).

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::sync::OnceLock;
use std::time::Duration;

use socket2::{Socket, Type};

use super::{Sink, connect, syslog};
use crate::config::schema::Hide;
use crate::config::value::Target;
use crate::core::way::Way;

pub mod asked;

/// What the frames are.
const CONTENT: &[u8] = b"protobuf:dnstap.Dnstap";
/// Types of control frames.
const ACCEPT: u32 = 1;
const START: u32 = 2;
const STOP: u32 = 3;
const READY: u32 = 4;
const FINISH: u32 = 5;
/// The field of a control frame that says what the frames are.
const CONTENT_TYPE: u32 = 1;
/// Octets of a control frame at most.
const CONTROL: usize = 512;
/// Octets that are written at once.
const AT_ONCE: usize = 64 << 10;

/// A message to or from a client.
#[derive(Clone, Copy, Debug)]
pub struct Tapped<T> {
    /// How it goes.
    pub way: Way,
    /// Of the guard.
    pub reply: bool,
    /// The client's address, at the other end of the connection.
    pub client: IpAddr,
    /// The client's port, where the transport says it.
    pub port: Option<u16>,
    /// The guard's end, where known.
    pub local: Option<IpAddr>,
    /// As on the wire.
    pub octets: T,
}

impl<'a> Tapped<&'a [u8]> {
    /// A message over UDP: a query that came, or a reply that was sent.
    pub fn datagram(reply: bool, peer: SocketAddr, local: Option<IpAddr>, octets: &'a [u8]) -> Self {
        Self { way: Way::Udp, reply, client: peer.ip(), port: Some(peer.port()), local, octets }
    }
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

fn number(out: &mut Vec<u8>, field: u64, value: u64) {
    varint(out, field << 3);
    varint(out, value);
}

fn fixed32(out: &mut Vec<u8>, field: u64, value: u32) {
    varint(out, field << 3 | 5);
    out.extend_from_slice(&value.to_le_bytes());
}

fn octets(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, super::count(value.len()));
    out.extend_from_slice(value);
}

fn address(out: &mut Vec<u8>, field: u64, value: IpAddr) {
    match value {
        IpAddr::V4(address) => octets(out, field, &address.octets()),
        IpAddr::V6(address) => octets(out, field, &address.octets()),
    }
}

/// The frame of a message that went by at `time` since 1970; `asked`: when the question of a reply did.
pub fn frame<T: AsRef<[u8]>>(
    tapped: &Tapped<T>,
    (time, asked): (Duration, Option<Duration>),
    hide: &[Hide],
) -> Vec<u8> {
    static HOST: OnceLock<String> = OnceLock::new();
    let (client, local) = (tapped.client.to_canonical(), tapped.local.map(|local| local.to_canonical()));
    let mut message = Vec::with_capacity(tapped.octets.as_ref().len().saturating_add(64));
    // CLIENT_QUERY and CLIENT_RESPONSE.
    number(&mut message, 1, if tapped.reply { 6 } else { 5 });
    number(&mut message, 2, if client.is_ipv4() { 1 } else { 2 });
    let protocol = match tapped.way {
        Way::Udp => 1,
        Way::Tcp => 2,
        Way::Tls => 3,
        Way::Https => 4,
        Way::Quic => 7,
    };
    number(&mut message, 3, protocol);
    if !hide.contains(&Hide::Clients) {
        address(&mut message, 4, client);
        if let Some(port) = tapped.port {
            number(&mut message, 6, port.into());
        }
    }
    if let Some(local) = local.filter(|local| !local.is_unspecified()) {
        address(&mut message, 5, local);
    }
    let fields = if tapped.reply { (12, 13, 14) } else { (8, 9, 10) };
    if let Some(asked) = asked {
        number(&mut message, 8, asked.as_secs());
        fixed32(&mut message, 9, asked.subsec_nanos());
    }
    number(&mut message, fields.0, time.as_secs());
    fixed32(&mut message, fields.1, time.subsec_nanos());
    if !hide.contains(&Hide::Names) {
        octets(&mut message, fields.2, tapped.octets.as_ref());
    }
    let mut whole = Vec::with_capacity(message.len().saturating_add(96));
    octets(&mut whole, 1, HOST.get_or_init(syslog::host).as_bytes());
    octets(&mut whole, 2, concat!("destguard ", env!("CARGO_PKG_VERSION")).as_bytes());
    octets(&mut whole, 14, &message);
    number(&mut whole, 15, 1);
    [&length(whole.len()), whole.as_slice()].concat()
}

fn length(octets: usize) -> [u8; 4] {
    u32::try_from(octets).unwrap_or(u32::MAX).to_be_bytes()
}

/// A control frame: an escape, its length, its type and what the frames are.
fn control(kind: u32, content: bool) -> Vec<u8> {
    let mut body = kind.to_be_bytes().to_vec();
    if content {
        body.extend_from_slice(&CONTENT_TYPE.to_be_bytes());
        body.extend_from_slice(&length(CONTENT.len()));
        body.extend_from_slice(CONTENT);
    }
    [&[0; 4][..], &length(body.len()), &body].concat()
}

/// Reads a control frame of this type.
fn expect(socket: &Socket, kind: u32) -> io::Result<()> {
    let wrong = |what: &str| io::Error::other(format!("the reader speaks no Frame Streams: {what}"));
    let mut socket = socket;
    let mut word = [0; 4];
    socket.read_exact(&mut word)?;
    if word != [0; 4] {
        return Err(wrong("no control frame"));
    }
    socket.read_exact(&mut word)?;
    let len = usize::try_from(u32::from_be_bytes(word)).unwrap_or(usize::MAX);
    if !(4..=CONTROL).contains(&len) {
        return Err(wrong("a control frame of a wrong length"));
    }
    let mut body = vec![0; len];
    socket.read_exact(&mut body)?;
    if !body.starts_with(&kind.to_be_bytes()) {
        return Err(wrong("another control frame"));
    }
    if kind == ACCEPT && !body.windows(CONTENT.len()).any(|part| part == CONTENT) {
        return Err(io::Error::other("the reader takes no dnstap"));
    }
    Ok(())
}

/// A connection to the reader.
pub struct Stream {
    target: Target,
    mark: Option<u32>,
    socket: Option<Socket>,
}

impl Stream {
    /// Connected with the first write.
    pub fn new(target: Target, mark: Option<u32>) -> Self {
        Self { target, mark, socket: None }
    }

    fn begin(&self) -> io::Result<Socket> {
        let socket = connect(&self.target, Type::STREAM, self.mark)?;
        (&socket).write_all(&control(READY, true))?;
        expect(&socket, ACCEPT)?;
        (&socket).write_all(&control(START, true))?;
        Ok(socket)
    }
}

/// Whether the reader has closed the connection: it says nothing else once it has accepted.
fn is_over(socket: &Socket) -> bool {
    let mut octet = [MaybeUninit::uninit(); 1];
    match socket.recv_with_flags(&mut octet, libc::MSG_PEEK | libc::MSG_DONTWAIT) {
        Ok(_) => true,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    }
}

impl Sink for Stream {
    fn write(&mut self, items: &mut VecDeque<Vec<u8>>) -> io::Result<()> {
        let socket = match self.socket.take().filter(|socket| !is_over(socket)) {
            Some(socket) => socket,
            None => self.begin()?,
        };
        while !items.is_empty() {
            let mut text = Vec::new();
            let mut frames = 0usize;
            for item in items.iter() {
                if text.len() >= AT_ONCE {
                    break;
                }
                text.extend_from_slice(item);
                frames = frames.saturating_add(1);
            }
            (&socket).write_all(&text)?;
            items.drain(..frames);
        }
        self.socket = Some(socket);
        Ok(())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let Some(socket) = self.socket.take() else { return };
        // FINISH is the reader's word that it has all.
        let ended = (&socket).write_all(&control(STOP, false)).and_then(|()| expect(&socket, FINISH));
        if let Err(error) = ended.and_then(|()| socket.shutdown(Shutdown::Both)) {
            tracing::debug!(%error, "the reader of dnstap said no goodbye");
        }
    }
}
