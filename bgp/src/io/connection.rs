//! One TCP connection: what waits to be written, what was read, how it ends.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use tokio::net::TcpStream;

use super::sys;
use crate::session::ConnectionId;

/// How long a connection that is to be closed may take to write its last octets and to see the peer's end.
const LINGER: Duration = Duration::from_secs(1);
/// Octets read in one go.
const READ: usize = 64 * 1024;
/// Pieces written in one go.
const PIECES: usize = 32;

/// What happened on a connection.
#[derive(Debug)]
pub(super) enum Seen {
    /// These octets came; they are in the buffer given.
    Read(usize),
    /// It ended; `None` if orderly.
    Ended(Option<io::Error>),
    /// Nothing more for now.
    Nothing,
}

pub(super) struct Connection {
    pub(super) id: ConnectionId,
    stream: TcpStream,
    out: VecDeque<Bytes>,
    queued: usize,
    /// Octets ever handed to [`Self::push`] and to the kernel.
    pushed: u64,
    written: u64,
    /// To be closed: what is queued is written, nothing that comes is used.
    closing: Option<Instant>,
    shut: bool,
}

impl Connection {
    pub(super) fn new(id: ConnectionId, stream: TcpStream) -> Self {
        sys::quick_ack(stream.as_fd());
        Self { id, stream, out: VecDeque::new(), queued: 0, pushed: 0, written: 0, closing: None, shut: false }
    }

    /// Puts octets behind all others.
    pub(super) fn push(&mut self, octets: Bytes) {
        if !octets.is_empty() {
            self.queued += octets.len();
            self.pushed += octets.len() as u64;
            self.out.push_back(octets);
        }
    }

    /// Octets that wait in our own memory.
    pub(super) fn queued(&self) -> usize {
        self.queued
    }

    /// The offset in the stream behind all that was pushed.
    pub(super) fn end(&self) -> u64 {
        self.pushed
    }

    /// Octets handed to the kernel.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Octets of them that the peer's TCP has.
    pub(super) fn acknowledged(&self) -> u64 {
        self.written.saturating_sub(sys::unacknowledged(self.stream.as_fd()).unwrap_or(self.written))
    }

    /// Closes it in an orderly way, within [`LINGER`].
    pub(super) fn close(&mut self, now: Instant) {
        self.closing.get_or_insert(now + LINGER);
    }

    pub(super) fn closing(&self) -> Option<Instant> {
        self.closing
    }

    /// Whether the caller wants to hear of this connection: octets came, or there is room for queued ones.
    pub(super) fn poll_ready(&self, context: &mut Context<'_>) -> Poll<()> {
        let read = self.stream.poll_read_ready(context).is_ready();
        let write = self.queued > 0 && self.stream.poll_write_ready(context).is_ready();
        if read || write { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Writes as much as the kernel takes; returns how much.
    pub(super) fn flush(&mut self) -> io::Result<usize> {
        let mut total = 0;
        while self.queued > 0 {
            let pieces: Vec<IoSlice<'_>> = self.out.iter().take(PIECES).map(|piece| IoSlice::new(piece)).collect();
            match self.stream.try_write_vectored(&pieces) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    total += count;
                    self.taken(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(total)
    }

    fn taken(&mut self, mut count: usize) {
        self.written += count as u64;
        self.queued -= count.min(self.queued);
        while let Some(front) = self.out.front_mut() {
            if count < front.len() {
                front.advance(count);
                break;
            }
            count -= front.len();
            self.out.pop_front();
        }
    }

    /// Reads once what the socket has, without waiting for more.
    pub(super) fn read(&mut self, buffer: &mut Vec<u8>) -> Seen {
        buffer.resize(READ, 0);
        match self.stream.try_read(buffer) {
            Ok(0) => Seen::Ended(None),
            Ok(count) => {
                sys::quick_ack(self.stream.as_fd());
                Seen::Read(count)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Seen::Nothing
            }
            Err(error) => Seen::Ended(Some(error)),
        }
    }

    /// Works on the end of a connection that is to be closed; true once it can be dropped.
    pub(super) fn finish(&mut self, buffer: &mut Vec<u8>, now: Instant) -> bool {
        let Some(until) = self.closing else { return false };
        if now >= until || self.flush().is_err() {
            return true;
        }
        if self.queued == 0 && !self.shut {
            self.shut = true;
            // Without this end the peer might lose our NOTIFICATION to a reset.
            if socket2::SockRef::from(&self.stream).shutdown(std::net::Shutdown::Write).is_err() {
                return true;
            }
        }
        loop {
            match self.read(buffer) {
                Seen::Read(_) => {}
                Seen::Ended(_) => return true,
                Seen::Nothing => return false,
            }
        }
    }
}
