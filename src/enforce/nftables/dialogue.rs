//! Questions to the kernel's other netlink families: its sockets (sock_diag) and its routes (rtnetlink).

use std::io;

use super::wire;
use crate::sys::netlink::Socket;

/// Room for one part of a reply; the kernel makes them at most 32 KiB.
const PART: usize = 64 << 10;
/// How long the kernel may take for the next part.
const PATIENCE_MS: i32 = 10_000;
const BUFFER: i32 = 1 << 20;
/// `NLM_F_MULTI`: more of the reply follows.
const F_MULTI: u16 = 0x2;

/// A socket that asks one question at a time.
#[derive(Debug)]
pub struct Dialogue {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Dialogue {
    /// Opens one of a netlink protocol, in the calling thread's network namespace.
    ///
    /// # Errors
    /// The system's.
    pub fn open(protocol: i32) -> io::Result<Self> {
        Ok(Self { socket: Socket::open(protocol, BUFFER)?, sequence: 0, buffer: vec![0; PART] })
    }

    /// Sends a request and hands the kind and payload of every message of the reply to `each`.
    ///
    /// # Errors
    /// The kernel's refusal as the errno that it names, or the socket's own error.
    pub fn ask(&mut self, kind: u16, flags: u16, body: &[u8], mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        while self.socket.receive(&mut self.buffer)?.is_some() {}
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.send(&wire::message(kind, wire::F_REQUEST | flags, self.sequence, body))?;
        loop {
            let ready = self.socket.wait(PATIENCE_MS)?;
            let Some(part) = self.socket.receive(&mut self.buffer)? else {
                if ready {
                    continue;
                }
                return Err(io::ErrorKind::TimedOut.into());
            };
            let mut single = false;
            for message in wire::messages(part).filter(|message| message.sequence == self.sequence) {
                match message.verdict() {
                    Some(Err(refusal)) => return Err(io::Error::from_raw_os_error(refusal.errno)),
                    Some(Ok(())) => return Ok(()),
                    None => {
                        single |= message.flags & F_MULTI == 0;
                        each(message.kind, message.payload);
                    }
                }
            }
            if single {
                return Ok(());
            }
        }
    }
}
