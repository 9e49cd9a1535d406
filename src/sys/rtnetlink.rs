//! What interfaces, addresses, routes and neighbours share of rtnetlink(7): messages, their attributes, and whole dumps.

use std::io;
use std::net::IpAddr;

use super::netlink::Socket;

/// A dump has ended by then.
const DUMP_MILLIS: i32 = 2000;
/// The kernel's parts of a dump are no longer.
pub const PART: usize = 64 * 1024;
/// Of `struct nlmsghdr`.
pub const HEADER: usize = 16;

/// A netlink message without its header.
pub struct Message<'a> {
    /// The message's type, such as `RTM_NEWNEIGH`.
    pub kind: u16,
    /// All behind the header.
    pub body: &'a [u8],
}

impl<'a> Message<'a> {
    /// Kind and value of each attribute behind the first `fixed` octets.
    pub fn attributes(&self, fixed: usize) -> impl Iterator<Item = (u16, &'a [u8])> {
        let mut rest = self.body.get(fixed..).unwrap_or_default();
        std::iter::from_fn(move || {
            let length = usize::from(u16::from_ne_bytes(number(rest, 0)?));
            let kind = u16::from_ne_bytes(number(rest, 2)?);
            let value = rest.get(4..length)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            Some((kind, value))
        })
    }
}

/// A number in host order.
pub fn number<const N: usize>(octets: &[u8], at: usize) -> Option<[u8; N]> {
    octets.get(at..)?.first_chunk().copied()
}

/// An address of either family.
pub fn address(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => number::<4>(value, 0).map(IpAddr::from),
        16 => number::<16>(value, 0).map(IpAddr::from),
        _ => None,
    }
}

/// The messages of one datagram.
pub fn messages(mut octets: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(number(octets, 0)?)).ok()?;
        let kind = u16::from_ne_bytes(number(octets, 4)?);
        let body = octets.get(HEADER..length)?;
        octets = octets.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind, body })
    })
}

/// Asks for all of one kind (`RTM_GET...`), `body` being the fixed part of the request, and hands each message to `take`. `room`:
/// [`PART`] octets.
///
/// # Errors
/// The system's.
pub fn dump(
    socket: &Socket,
    room: &mut [u8],
    kind: u16,
    body: &[u8],
    mut take: impl FnMut(&Message<'_>),
) -> io::Result<()> {
    let length = u32::try_from(HEADER.saturating_add(body.len())).unwrap_or(0);
    let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_DUMP).unwrap_or(0);
    let mut request = length.to_ne_bytes().to_vec();
    request.extend(kind.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    request.resize(HEADER, 0);
    request.extend(body);
    socket.send(&request)?;
    loop {
        if !socket.wait(DUMP_MILLIS)? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let octets = match socket.receive(room) {
            Ok(octets) => octets.unwrap_or_default(),
            // Notifications that were lost; what they said is in the dump.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => continue,
            Err(error) => return Err(error),
        };
        for message in messages(octets) {
            match i32::from(message.kind) {
                libc::NLMSG_DONE => return Ok(()),
                libc::NLMSG_ERROR => {
                    let code = message.body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                    return Err(io::Error::from_raw_os_error(code.saturating_neg()));
                }
                _ => take(&message),
            }
        }
    }
}
