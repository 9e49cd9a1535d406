//! Plain UDP to the upstreams on the sockets of one worker, in batches.
//!
//! What one turn of the worker asks of an upstream goes out together, on one of [`Lines::slots`] connected sockets, drawn at random for the turn. A socket
//! serves [`USES`] queries or [`LIFE`]; then a new one with another random port takes its place, and the old one stays until its last
//! reply came or was given up. A forger must guess port, id and case of a socket that lives for seconds; that the questions of one turn
//! share a port tells it nothing.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::ops::Range;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use hashbrown::HashMap;

use super::Upstreams;
use super::query::{Fit, Query, fit, question_of};
use super::udp::open_socket;
use crate::dns::wire::u16_at;
use crate::sys::connected::{self, DATAGRAM, Received};
use crate::sys::poll::Poll;
use crate::sys::udp::want_receive_buffer;

/// Sockets per upstream that all workers together have in use at once.
const SLOTS: usize = 64;
/// The least that one worker has.
const SLOTS_LEAST: usize = 16;
/// What the kernel may hold of replies that the worker hasn't read yet: all that one socket can be owed, and it counts a kilobyte for each.
const RECEIVE_BUFFER: i32 = 1 << 20;
/// Queries after which a socket is replaced.
const USES: u32 = 256;
/// Time after which a socket is replaced by the next query on it.
const LIFE: Duration = Duration::from_secs(10);
/// A socket that served nothing for so long is closed.
const IDLE: Duration = Duration::from_secs(15);

/// Names an attempt: the flight's number, and the place of the attempt in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The flight.
    pub flight: u64,
    /// Which of its attempts.
    pub place: usize,
}

/// Where an attempt is noted, to be given up there.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    line: usize,
    id: u16,
}

/// What a datagram is to the query that bears its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// Its response.
    Response(Attempt),
    /// A response in another case, or one longer than anybody was offered: to be asked over TCP.
    AskTcp(Attempt),
    /// Nothing.
    None,
}

struct Waiting {
    question: Box<[u8]>,
    attempt: Attempt,
}

struct Line {
    socket: UdpSocket,
    upstream: usize,
    pending: HashMap<u16, Waiting>,
    uses: u32,
    born: Instant,
    used: Instant,
    /// No slot has it any more.
    retired: bool,
    /// Queries of one length go to the kernel as one; not where it refused that.
    bundled: bool,
    /// To be sent at the end of the turn.
    octets: Vec<u8>,
    parts: Vec<(Range<usize>, Attempt)>,
}

struct Pool {
    peer: SocketAddr,
    slots: Vec<Option<usize>>,
    /// This turn's line.
    current: Option<usize>,
}

/// All sockets of one worker to all plain upstreams.
pub struct Lines {
    mark: Option<u32>,
    pools: HashMap<usize, Pool>,
    lines: Vec<Option<Line>>,
    free: Vec<usize>,
    /// Lines with something to be sent.
    full: Vec<usize>,
}

impl Lines {
    /// No socket is opened before the first query. `workers`: how many share the descriptors.
    #[must_use]
    pub fn new(upstreams: &Upstreams, workers: usize) -> Self {
        let slots = (SLOTS / workers.max(1)).max(SLOTS_LEAST);
        let pools = upstreams
            .plain_peers()
            .map(|(upstream, peer)| (upstream, Pool { peer, slots: vec![None; slots], current: None }));
        Self { mark: upstreams.mark(), pools: pools.collect(), lines: Vec::new(), free: Vec::new(), full: Vec::new() }
    }

    /// Puts a query among what [`Lines::flush`] sends. `token` is what `poll` shall tell of a line: its place is added.
    ///
    /// # Errors
    /// No socket can be had.
    pub fn ask(
        &mut self,
        upstream: usize,
        query: &Query,
        attempt: Attempt,
        now: Instant,
        poll: &Poll,
        token: u64,
    ) -> io::Result<Claim> {
        let at = self.line(upstream, now, poll, token)?;
        let line = self.lines.get_mut(at).and_then(Option::as_mut).ok_or(io::ErrorKind::NotFound)?;
        // At most USES ids and some are taken, so that a free one is found soon.
        let mut id: u16 = rand::random();
        while line.pending.contains_key(&id) {
            id = id.wrapping_add(1);
        }
        let start = line.octets.len();
        query.write(id, true, &mut line.octets);
        let message = line.octets.get(start..).unwrap_or_default();
        line.pending.insert(id, Waiting { question: question_of(message).into(), attempt });
        line.uses = line.uses.saturating_add(1);
        line.used = now;
        if line.parts.is_empty() {
            self.full.push(at);
        }
        line.parts.push((start..line.octets.len(), attempt));
        Ok(Claim { line: at, id })
    }

    /// Sends what was put in; ends the turn. Attempts that the kernel refuses go to `failed`; they aren't pending any more.
    pub fn flush(&mut self, failed: &mut Vec<(Attempt, io::ErrorKind)>) {
        for pool in self.pools.values_mut() {
            pool.current = None;
        }
        while let Some(at) = self.full.pop() {
            let Some(line) = self.lines.get_mut(at).and_then(Option::as_mut) else { continue };
            // What is of one length goes as one.
            line.parts.sort_by_key(|(range, _)| range.len());
            let ranges: Vec<Range<usize>> = line.parts.iter().map(|(range, _)| range.clone()).collect();
            let mut from = 0usize;
            let mut retried = false;
            let mut bundled = line.bundled;
            while let Some(rest) = ranges.get(from..).filter(|rest| !rest.is_empty()) {
                match connected::send(line.socket.as_fd(), &line.octets, rest, bundled) {
                    Ok(sent) => {
                        from = from.saturating_add(sent.max(1));
                        retried = false;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    // An error that an earlier datagram caused may be told here; it says nothing about this one.
                    Err(_) if !retried => retried = true,
                    // Not every way can take datagrams apart, and not always is there room for all: each by itself.
                    Err(error) if bundled => {
                        bundled = false;
                        line.bundled = error.kind() == io::ErrorKind::WouldBlock;
                    }
                    Err(error) => {
                        retried = false;
                        // No room is a lost packet: it is asked again in time.
                        let lost = [io::ErrorKind::WouldBlock, io::ErrorKind::OutOfMemory].contains(&error.kind());
                        if let Some((range, attempt)) = line.parts.get(from).filter(|_| !lost) {
                            let id = u16_at(line.octets.get(range.clone()).unwrap_or_default(), 0);
                            if id.is_some_and(|id| line.pending.remove(&id).is_some()) {
                                failed.push((*attempt, error.kind()));
                            }
                        }
                        from = from.saturating_add(1);
                    }
                }
            }
            line.octets.clear();
            line.parts.clear();
        }
    }

    /// Takes a batch from a line. An error concerns everybody who waits there; they are moved to `failed`.
    pub fn receive(&mut self, at: usize, into: &mut Received, failed: &mut Vec<(Attempt, io::ErrorKind)>) -> usize {
        let Some(line) = self.lines.get_mut(at).and_then(Option::as_mut) else { return 0 };
        match into.receive(line.socket.as_fd()) {
            Ok(count) => count,
            Err(error) if [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted].contains(&error.kind()) => 0,
            Err(error) => {
                // The host says that nobody listens, or the route is gone: whoever waits here needs another upstream at once.
                failed.extend(line.pending.drain().map(|(_, waiting)| (waiting.attempt, error.kind())));
                if error.kind() != io::ErrorKind::ConnectionRefused {
                    // Whatever it is, another socket may be better.
                    line.uses = USES;
                }
                0
            }
        }
    }

    /// Which query a datagram from a line answers. That query is then not pending any more; what answers none changes nothing.
    pub fn answers(&mut self, at: usize, message: &[u8]) -> Match {
        let Some(line) = self.lines.get_mut(at).and_then(Option::as_mut) else { return Match::None };
        let Some(id) = u16_at(message, 0) else { return Match::None };
        let Some(waiting) = line.pending.get(&id) else { return Match::None };
        let attempt = waiting.attempt;
        let found = match fit(message, &waiting.question) {
            Fit::Exact if message.len() < DATAGRAM => Match::Response(attempt),
            Fit::Exact | Fit::OtherCase => Match::AskTcp(attempt),
            Fit::No => return Match::None,
        };
        line.pending.remove(&id);
        found
    }

    /// Forgets an attempt; a reply to it is then an answer to nothing.
    pub fn give_up(&mut self, claim: Claim, attempt: Attempt) {
        if let Some(line) = self.lines.get_mut(claim.line).and_then(Option::as_mut)
            && line.pending.get(&claim.id).is_some_and(|waiting| waiting.attempt == attempt)
        {
            line.pending.remove(&claim.id);
        }
    }

    /// Closes what is of no use any more.
    pub fn tidy(&mut self, now: Instant) {
        for at in 0..self.lines.len() {
            let Some(Some(line)) = self.lines.get(at) else { continue };
            let idle = now.saturating_duration_since(line.used) > IDLE;
            if !line.pending.is_empty() || !(line.retired || idle) {
                continue;
            }
            if let Some(pool) = self.pools.get_mut(&line.upstream) {
                pool.slots.iter_mut().filter(|slot| **slot == Some(at)).for_each(|slot| *slot = None);
                pool.current = pool.current.filter(|current| *current != at);
            }
            if let Some(place) = self.lines.get_mut(at) {
                *place = None;
            }
            self.free.push(at);
        }
    }

    /// This turn's line to an upstream, opened or replaced where needed.
    fn line(&mut self, upstream: usize, now: Instant, poll: &Poll, token: u64) -> io::Result<usize> {
        let worn = |line: &Line| line.uses >= USES || now.saturating_duration_since(line.born) > LIFE;
        let pool = self.pools.get_mut(&upstream).ok_or(io::ErrorKind::NotFound)?;
        let live = |at: Option<usize>| at.filter(|at| matches!(self.lines.get(*at), Some(Some(line)) if !worn(line)));
        if let Some(current) = live(pool.current) {
            return Ok(current);
        }
        let start = rand::random_range(0..pool.slots.len().max(1));
        let slot = pool.slots.get_mut(start).ok_or(io::ErrorKind::NotFound)?;
        let old = *slot;
        if let Some(at) = live(old) {
            pool.current = Some(at);
            return Ok(at);
        }
        let at = self.free.last().copied().unwrap_or(self.lines.len());
        let opened = open_socket(pool.peer, self.mark).and_then(|socket| {
            want_receive_buffer(socket.as_fd(), RECEIVE_BUFFER)?;
            poll.add(socket.as_fd(), token.saturating_add(u64::try_from(at).unwrap_or(u64::MAX)))?;
            Ok(socket)
        });
        let socket = match opened {
            Ok(socket) => socket,
            // Out of descriptors: a worn socket is better than none.
            Err(error) => {
                let other = old.or_else(|| pool.slots.iter().copied().flatten().next()).ok_or(error)?;
                pool.current = Some(other);
                return Ok(other);
            }
        };
        *slot = Some(at);
        pool.current = Some(at);
        if let Some(Some(old)) = old.and_then(|old| self.lines.get_mut(old)) {
            old.retired = true;
        }
        let line = Line {
            socket,
            upstream,
            pending: HashMap::new(),
            uses: 0,
            born: now,
            used: now,
            retired: false,
            bundled: true,
            octets: Vec::new(),
            parts: Vec::new(),
        };
        self.free.pop();
        match self.lines.get_mut(at) {
            Some(place) => *place = Some(line),
            None => self.lines.push(Some(line)),
        }
        Ok(at)
    }
}

#[cfg(test)]
mod tests;
