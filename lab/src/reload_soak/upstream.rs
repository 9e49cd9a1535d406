//! An upstream that knows every name: each has an address of its own in each family. The first letter says what else: `k` is kept for a day, `h` for
//! half a minute, `x` doesn't exist, `c` is an alias.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

const TICK: Duration = Duration::from_millis(100);

/// Binds the upstream's sockets, of UDP and TCP at one address.
pub fn bind(address: &str) -> io::Result<(UdpSocket, TcpListener)> {
    let (udp, tcp) = (UdpSocket::bind(address)?, TcpListener::bind(address)?);
    udp.set_read_timeout(Some(TICK))?;
    tcp.set_nonblocking(true)?;
    Ok((udp, tcp))
}

pub fn serve_udp(socket: &UdpSocket, end: &AtomicBool) {
    let mut room = [0; 2048];
    while !end.load(Relaxed) {
        let Ok((length, peer)) = socket.recv_from(&mut room) else { continue };
        if let Some(reply) = room.get(..length).and_then(answer) {
            // One that can't be sent is asked again.
            drop(socket.send_to(&reply, peer));
        }
    }
}

pub fn serve_tcp(listener: &TcpListener, end: &AtomicBool) {
    std::thread::scope(|scope| {
        while !end.load(Relaxed) {
            match listener.accept() {
                // The guard ended it.
                Ok((stream, _)) => drop(scope.spawn(move || drop(serve(stream, end)))),
                Err(_) => std::thread::sleep(TICK / 20),
            }
        }
    });
}

fn serve(mut stream: TcpStream, end: &AtomicBool) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TICK))?;
    while !end.load(Relaxed) {
        let mut length = [0; 2];
        match stream.read_exact(&mut length) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut query)?;
        let reply = answer(&query).unwrap_or_default();
        stream.write_all(&[&u16::try_from(reply.len()).unwrap_or(0).to_be_bytes()[..], &reply].concat())?;
    }
    Ok(())
}

/// Of an answer to a question for addresses: the last one.
pub fn last_address(reply: &[u8]) -> Option<IpAddr> {
    let kind = reply.get(question_end(reply)? - 4..)?.get(1)?;
    // Without EDNS in the question there is nothing behind it.
    if *kind == 1 {
        let octets = reply.get(reply.len().checked_sub(4)?..)?;
        Some(IpAddr::from(<[u8; 4]>::try_from(octets).ok()?))
    } else {
        let octets = reply.get(reply.len().checked_sub(16)?..)?;
        Some(IpAddr::from(<[u8; 16]>::try_from(octets).ok()?))
    }
}

fn question_end(message: &[u8]) -> Option<usize> {
    let mut end = 12usize;
    loop {
        let length = usize::from(*message.get(end)?);
        end += length + 1;
        if length == 0 {
            return Some(end + 4);
        }
    }
}

fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let end = question_end(query)?;
    let ipv6 = match query.get(end - 3)? {
        1 => false,
        28 => true,
        _ => return Some(empty(query.get(..end)?, 0)),
    };
    let first = query.get(13..13 + usize::from(*query.get(12)?))?.to_ascii_lowercase();
    let (kind, digits) = first.split_first()?;
    let number =
        digits.iter().fold(0u32, |number, digit| number.wrapping_mul(10).wrapping_add(u32::from(digit & 0x0f)));
    if *kind == b'x' {
        return Some(empty(query.get(..end)?, 3));
    }
    let mut reply = query.get(..end)?.to_vec();
    reply.get_mut(2..4)?.copy_from_slice(&[0x81, 0x80]);
    reply.get_mut(6..12)?.copy_from_slice(&[0; 6]);
    let (ttl, net) = match *kind {
        b'k' => (86_400u32, 1u8),
        b'h' => (30, 2),
        b'c' => (2, 3),
        _ => (2, 4 + u8::try_from(number >> 16 & 0x3f).unwrap_or(0)),
    };
    let mut owner = [0xc0, 12];
    *reply.get_mut(7)? = 1;
    if *kind == b'c' {
        reply.extend(b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x0a\x00\x07\x04edge");
        owner = (0xc000 | u16::try_from(reply.len() - 5).ok()?).to_be_bytes();
        reply.push(0xc0);
        reply.push(u8::try_from(end - 4 - 14).ok()?);
        *reply.get_mut(7)? = 2;
    }
    reply.extend(owner);
    reply.extend([0, if ipv6 { 28 } else { 1 }, 0, 1]);
    reply.extend(ttl.to_be_bytes());
    let [_, _, high, low] = number.to_be_bytes();
    if ipv6 {
        reply.extend([0, 16, 0x20, 0x01, 0x0d, 0xb8, 0, net, 0, 0, 0, 0, 0, 0, 0, 1, high, low]);
    } else {
        reply.extend([0, 4, 10, net, high, low]);
    }
    Some(reply)
}

/// No data of this type, or no such name.
fn empty(question: &[u8], rcode: u8) -> Vec<u8> {
    let mut reply = question.to_vec();
    let head = [0x81, 0x80 | rcode, 0, 1, 0, 0, 0, 1, 0, 0];
    reply.get_mut(2..12).into_iter().for_each(|part| part.copy_from_slice(&head));
    // The SOA of soak.example, by the name's last two labels.
    let owner = u8::try_from(question.len().saturating_sub(4 + 14)).unwrap_or(12);
    reply.extend([0xc0, owner, 0, 6, 0, 1, 0, 0, 0, 10, 0, 22, 0, 0]);
    for number in [1u32, 1, 1, 1, 10] {
        reply.extend(number.to_be_bytes());
    }
    reply
}
