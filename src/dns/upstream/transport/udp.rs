//! Plain UDP to the upstreams on the sockets of one owner (a worker, or the post of all tasks), in batches.
//!
//! What one turn of the owner asks of an upstream goes out together, on one of [`UdpSockets::slots`] connected sockets, drawn at random for the turn. A socket
//! serves [`USES`] queries or [`LIFE`]; then a new one with another random port takes its place, and the old one stays until its last
//! reply came or was given up. A forger must guess port, id and case of a socket that lives for seconds; that the questions of one turn
//! share a port tells it nothing.
//!
//! - After [`MISSES`] datagrams that nearly fit (another id, question or case) a socket takes nothing more: somebody guesses. What waits there is told
//!   so, and goes over a stream. What comes late to a query that was answered or given up is no guess.
//! - A socket that can't send is replaced at once, and what it was to send goes out on the new one. A new socket that has another source address than
//!   the others replaces them all: the host has moved. So does, one by one, what a reply was lost on and nothing came to since.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use hashbrown::HashMap;

use crate::dns::codec::wire::u16_at;
use crate::dns::upstream::judgement::Manner;
use crate::dns::upstream::query::{Fit, Query, fit, question_of};
use crate::dns::upstream::race::{Ask, Trouble};
use crate::dns::upstream::transport::dial::Target;
use crate::sys::connected::{self, Received};
use crate::sys::descriptors::Use;
use crate::sys::endpoint;
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
/// Closed sockets whose memory is kept for new ones.
const SPARE: usize = 8;
/// A socket that served nothing for so long is closed.
const IDLE: Duration = Duration::from_secs(15);
/// Datagrams that nearly fit, after which a socket takes nothing more.
const MISSES: u32 = 3;
/// How often all sockets may be replaced because this host has another address.
const SWEEP: Duration = Duration::from_secs(1);
/// Nobody waits longer for a reply.
const FORGET: Duration = Duration::from_secs(12);

/// Names an attempt: the owner's number, and the place of the attempt in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The number of the one who waits for the reply.
    pub owner: u64,
    /// Which of its attempts.
    pub place: usize,
}

/// Where an attempt is noted, to be given up there.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    line: usize,
    id: u16,
}

/// A query that fails, why, and the error's kind where it was one.
pub type Failed = (Attempt, Trouble, io::ErrorKind);

struct Waiting {
    /// Where [`Line::asked`] has the question.
    question: Range<u32>,
    attempt: Attempt,
    sent: Instant,
    /// Neither answered nor given up.
    open: bool,
}

/// A query to be sent at the end of the turn.
struct Part {
    range: Range<usize>,
    id: u16,
    /// Another socket couldn't send it.
    moved: bool,
}

struct Line {
    socket: UdpSocket,
    upstream: usize,
    /// Every query that it served.
    served: HashMap<u16, Waiting>,
    /// Their questions, one behind the other.
    asked: Vec<u8>,
    /// How many of these are open.
    open: usize,
    uses: u32,
    born: Instant,
    used: Instant,
    /// When the last reply came.
    heard: Option<Instant>,
    misses: u32,
    /// No slot has it any more.
    retired: bool,
    /// Queries of one length go to the kernel as one; not where it refused that.
    bundled: bool,
    /// To be sent at the end of the turn.
    octets: Vec<u8>,
    parts: Vec<Part>,
}

impl Line {
    /// What was asked.
    fn question(&self, waiting: &Waiting) -> &[u8] {
        let [from, to] =
            [waiting.question.start, waiting.question.end].map(|at| usize::try_from(at).unwrap_or(usize::MAX));
        self.asked.get(from..to).unwrap_or_default()
    }

    /// Nobody will ask on it again, nor waits on it.
    fn is_done(&self) -> bool {
        self.retired && self.open == 0
    }

    /// Ends the wait for this query.
    fn close(&mut self, id: u16) -> Option<Attempt> {
        let waiting = self.served.get_mut(&id).filter(|waiting| waiting.open)?;
        waiting.open = false;
        self.open = self.open.saturating_sub(1);
        Some(waiting.attempt)
    }

    /// Ends the wait for all.
    fn fail(&mut self, trouble: Trouble, kind: io::ErrorKind, failed: &mut Vec<Failed>) {
        for waiting in self.served.values_mut().filter(|waiting| waiting.open) {
            waiting.open = false;
            failed.push((waiting.attempt, trouble, kind));
        }
        self.open = 0;
    }
}

struct Pool {
    target: Target,
    /// The source address of its sockets, and since when that is known.
    local: Option<(IpAddr, Instant)>,
    slots: Vec<Option<usize>>,
    /// This turn's line.
    current: Option<usize>,
}

/// Whose fault an error of a socket is: nobody listens there, or this host can't send as things are.
#[must_use]
pub fn trouble_of(kind: io::ErrorKind) -> Trouble {
    match kind {
        io::ErrorKind::ConnectionRefused => Trouble::Theirs,
        _ => Trouble::Ours,
    }
}

/// All sockets of one owner to all plain upstreams.
pub struct UdpSockets {
    /// By the upstream's place. Of one that isn't asked any more nothing stays.
    pools: HashMap<usize, Pool>,
    /// Of each pool.
    slots: usize,
    lines: Vec<Option<Line>>,
    free: Vec<usize>,
    /// Those with something to be sent.
    full: Vec<usize>,
    /// Those that are to be closed at the turn's end: what was received from them may still be looked at.
    done: Vec<usize>,
    /// Memory of closed ones for new ones.
    spare: Vec<(HashMap<u16, Waiting>, Vec<u8>)>,
}

impl UdpSockets {
    /// No socket is opened before the first query. `owners`: how many share the descriptors.
    #[must_use]
    pub fn new(owners: usize) -> Self {
        Self {
            pools: HashMap::new(),
            slots: (SLOTS / owners.max(1)).max(SLOTS_LEAST),
            lines: Vec::new(),
            free: Vec::new(),
            full: Vec::new(),
            done: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// Puts a query to the upstream at `target` among what [`UdpSockets::flush`] sends. `poll` is to tell the token of a line: its place is added.
    ///
    /// # Errors
    /// No socket can be had.
    pub fn ask(
        &mut self,
        (ask, target): (&Ask, Target),
        query: &Query,
        attempt: Attempt,
        now: Instant,
        poll: (&Poll, u64),
    ) -> io::Result<Claim> {
        let slots = self.slots;
        let pool = || Pool { target, local: None, slots: vec![None; slots], current: None };
        self.pools.entry(ask.server).or_insert_with(pool);
        let at = self.line(ask.server, ask.lost, now, poll)?;
        let line = self.lines.get_mut(at).and_then(Option::as_mut).ok_or(io::ErrorKind::NotFound)?;
        let id = Self::put(line, attempt, now, false, |id, out| {
            query.write(id, !ask.manner.has(Manner::LOWER), out);
        });
        if line.parts.len() == 1 {
            self.full.push(at);
        }
        Ok(Claim { line: at, id })
    }

    /// Puts what `write` appends under a free id among what the line sends.
    fn put(line: &mut Line, attempt: Attempt, now: Instant, moved: bool, write: impl FnOnce(u16, &mut Vec<u8>)) -> u16 {
        // At most USES ids and some are taken, so that a free one is found soon.
        let mut id: u16 = rand::random();
        while line.served.contains_key(&id) {
            id = id.wrapping_add(1);
        }
        let start = line.octets.len();
        write(id, &mut line.octets);
        let from = u32::try_from(line.asked.len()).unwrap_or(u32::MAX);
        line.asked.extend_from_slice(question_of(line.octets.get(start..).unwrap_or_default()));
        let question = from..u32::try_from(line.asked.len()).unwrap_or(u32::MAX);
        line.served.insert(id, Waiting { question, attempt, sent: now, open: true });
        line.open = line.open.saturating_add(1);
        line.uses = line.uses.saturating_add(1);
        line.used = now;
        line.parts.push(Part { range: start..line.octets.len(), id, moved });
        id
    }

    /// Sends what was put in; ends the turn. Queries that can't be sent go to `failed`; they aren't awaited any more.
    pub fn flush(&mut self, now: Instant, poll: (&Poll, u64), failed: &mut Vec<Failed>) {
        for pool in self.pools.values_mut() {
            pool.current = None;
        }
        while let Some(at) = self.full.pop() {
            let Some(line) = self.lines.get_mut(at).and_then(Option::as_mut) else { continue };
            // What is of one length goes as one.
            line.parts.sort_by_key(|part| part.range.len());
            let ranges: Vec<Range<usize>> = line.parts.iter().map(|part| part.range.clone()).collect();
            let mut from = 0usize;
            let mut retried = false;
            let mut bundled = line.bundled;
            let mut unsent: Vec<(usize, io::ErrorKind)> = Vec::new();
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
                        if ![io::ErrorKind::WouldBlock, io::ErrorKind::OutOfMemory].contains(&error.kind()) {
                            unsent.push((from, error.kind()));
                        }
                        from = from.saturating_add(1);
                    }
                }
            }
            let (octets, parts) = (std::mem::take(&mut line.octets), std::mem::take(&mut line.parts));
            let upstream = line.upstream;
            let mut again: Vec<(Vec<u8>, Attempt)> = Vec::new();
            for (place, kind) in unsent {
                let Some(part) = parts.get(place) else { continue };
                let Some(attempt) = line.close(part.id) else { continue };
                let trouble = trouble_of(kind);
                if trouble == Trouble::Ours && !part.moved {
                    line.uses = USES;
                    again.push((octets.get(part.range.clone()).unwrap_or_default().to_vec(), attempt));
                } else {
                    failed.push((attempt, trouble, kind));
                }
            }
            // Their memory serves the next turn.
            (line.octets, line.parts) = (octets, parts);
            line.octets.clear();
            line.parts.clear();
            for (octets, attempt) in again {
                if let Err(error) = self.move_to_another((upstream, at), &octets, attempt, now, poll) {
                    failed.push((attempt, Trouble::Ours, error.kind()));
                }
            }
        }
        while let Some(at) = self.done.pop() {
            if self.lines.get(at).and_then(Option::as_ref).is_some_and(Line::is_done) {
                self.close(at);
            }
        }
    }

    /// Closes a socket.
    fn close(&mut self, at: usize) {
        let Some(line) = self.lines.get_mut(at).and_then(Option::take) else { return };
        if let Some(pool) = self.pools.get_mut(&line.upstream) {
            pool.slots.iter_mut().filter(|slot| **slot == Some(at)).for_each(|slot| *slot = None);
            pool.current = pool.current.filter(|current| *current != at);
        }
        let (mut served, mut asked) = (line.served, line.asked);
        if self.spare.len() < SPARE {
            served.clear();
            asked.clear();
            self.spare.push((served, asked));
        }
        self.free.push(at);
    }

    /// Puts what the line at `from` couldn't send on one that is opened for it, or was in this turn.
    fn move_to_another(
        &mut self,
        (upstream, from): (usize, usize),
        octets: &[u8],
        attempt: Attempt,
        now: Instant,
        poll: (&Poll, u64),
    ) -> io::Result<()> {
        // What else is there may be as old as that one.
        let at = self.line(upstream, now.checked_sub(Duration::from_nanos(1)), now, poll)?;
        if at == from {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let line = self.lines.get_mut(at).and_then(Option::as_mut).ok_or(io::ErrorKind::NotFound)?;
        Self::put(line, attempt, now, true, |id, out| {
            out.extend_from_slice(&id.to_be_bytes());
            out.extend_from_slice(octets.get(2..).unwrap_or_default());
        });
        if line.parts.len() == 1 {
            self.full.push(at);
        }
        Ok(())
    }

    /// Takes a batch from a line. An error concerns everybody who waits there; they are moved to `failed`.
    pub fn receive(&mut self, at: usize, into: &mut Received, failed: &mut Vec<Failed>) -> usize {
        let Some(line) = self.lines.get_mut(at).and_then(Option::as_mut) else { return 0 };
        match into.receive(line.socket.as_fd()) {
            Ok(count) => count,
            Err(error) if [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted].contains(&error.kind()) => 0,
            Err(error) => {
                // The host says that nobody listens, or the route is gone: whoever waits here needs another upstream at once.
                let trouble = trouble_of(error.kind());
                line.fail(trouble, error.kind(), failed);
                if trouble == Trouble::Ours {
                    // Whatever it is, another socket may be better.
                    line.uses = USES;
                }
                0
            }
        }
    }

    /// Which query a datagram from a line answers, and how it fits. That query is then not awaited any more; what answers none changes nothing, but that
    /// too many near misses end the line, and those who wait there are moved to `failed`.
    pub fn answers(
        &mut self,
        at: usize,
        message: &[u8],
        now: Instant,
        failed: &mut Vec<Failed>,
    ) -> Option<(Attempt, Fit)> {
        let line = self.lines.get_mut(at).and_then(Option::as_mut)?;
        let served = u16_at(message, 0).and_then(|id| Some((id, line.served.get(&id)?)));
        let fits = match served {
            // Late, or sent twice.
            Some((_, waiting)) if !waiting.open => return None,
            Some((id, waiting)) => Some((id, fit(message, line.question(waiting)))),
            None => None,
        };
        if !matches!(fits, Some((_, Fit::Exact | Fit::Bare))) {
            line.misses = line.misses.saturating_add(1);
        }
        let found = match fits {
            Some((id, fit)) if fit != Fit::No => line.close(id).map(|attempt| (attempt, fit)),
            _ => None,
        };
        if found.is_some() {
            line.heard = Some(now);
            if line.is_done() {
                self.done.push(at);
            }
        }
        let Some(line) = self.lines.get_mut(at).and_then(Option::as_mut) else { return found };
        if line.misses >= MISSES {
            line.uses = USES;
            line.fail(Trouble::Forged, io::ErrorKind::InvalidData, failed);
        }
        found
    }

    /// Forgets an attempt; a reply to it is then an answer to nothing.
    pub fn give_up(&mut self, claim: Claim, attempt: Attempt) {
        if let Some(line) = self.lines.get_mut(claim.line).and_then(Option::as_mut)
            && line.served.get(&claim.id).is_some_and(|waiting| waiting.attempt == attempt)
        {
            line.close(claim.id);
            if line.is_done() {
                self.done.push(claim.line);
            }
        }
    }

    /// Closes what is of no use any more.
    pub fn tidy(&mut self, now: Instant) {
        for at in 0..self.lines.len() {
            let Some(Some(line)) = self.lines.get_mut(at) else { continue };
            // What was moved here is given up where it came from.
            let forgotten =
                |waiting: &&mut Waiting| waiting.open && now.saturating_duration_since(waiting.sent) > FORGET;
            for waiting in line.served.values_mut().filter(forgotten) {
                waiting.open = false;
                line.open = line.open.saturating_sub(1);
            }
            let idle = now.saturating_duration_since(line.used) > IDLE;
            if line.open > 0 || !(line.retired || idle) {
                continue;
            }
            self.close(at);
        }
        let lines = &self.lines;
        self.pools.retain(|upstream, _| lines.iter().flatten().any(|line| line.upstream == *upstream));
    }

    /// This turn's line to an upstream, opened or replaced where needed. With `lost` one that is younger, or to which something came since.
    fn line(
        &mut self,
        upstream: usize,
        lost: Option<Instant>,
        now: Instant,
        (poll, token): (&Poll, u64),
    ) -> io::Result<usize> {
        let worn = |line: &Line| {
            let deaf = |lost: Instant| line.born <= lost && line.heard.is_none_or(|heard| heard <= lost);
            line.uses >= USES || now.saturating_duration_since(line.born) > LIFE || lost.is_some_and(deaf)
        };
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
        let opened =
            endpoint::now(&pool.target.peer).and_then(|peer| open_socket(peer, pool.target.mark)).and_then(|socket| {
                want_receive_buffer(socket.as_fd(), RECEIVE_BUFFER)?;
                poll.add(socket.as_fd(), token.saturating_add(u64::try_from(at).unwrap_or(u64::MAX)))?;
                let local = socket.local_addr()?.ip();
                Ok((socket, local))
            });
        let (socket, local) = match opened {
            Ok(opened) => opened,
            // Out of descriptors: a worn socket is better than none.
            Err(error) => {
                let spent = error.raw_os_error().is_some_and(|code| [libc::EMFILE, libc::ENFILE].contains(&code));
                let other = old.or_else(|| pool.slots.iter().copied().flatten().next());
                let other = other.filter(|_| spent).ok_or(error)?;
                pool.current = Some(other);
                return Ok(other);
            }
        };
        *slot = Some(at);
        pool.current = Some(at);
        // The host has another address: from the one it had nothing can be sent, or nothing would come back. Where several ways lead there by turns
        // this is said of each; once a second is enough.
        let settled = |since: Instant| now.saturating_duration_since(since) < SWEEP;
        let moved = pool.local.is_some_and(|(before, since)| before != local && !settled(since));
        if moved || pool.local.is_none() {
            pool.local = Some((local, now));
        }
        for (_, other) in pool.slots.iter_mut().enumerate().filter(|(place, _)| moved && *place != start) {
            if let Some(other) = other.take()
                && let Some(Some(line)) = self.lines.get_mut(other)
            {
                line.retired = true;
                self.done.push(other);
            }
        }
        if let Some(at) = old
            && let Some(Some(old)) = self.lines.get_mut(at)
        {
            old.retired = true;
            self.done.push(at);
        }
        let (served, asked) = self.spare.pop().unwrap_or_default();
        let line = Line {
            socket,
            upstream,
            served,
            asked,
            open: 0,
            uses: 0,
            born: now,
            used: now,
            heard: None,
            misses: 0,
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

/// A connected socket on a port that the kernel draws at random.
fn open_socket(peer: SocketAddr, mark: Option<u32>) -> io::Result<UdpSocket> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(peer), Type::DGRAM, Some(Protocol::UDP))?;
    let socket = Use::Upstream.within(socket)?;
    socket.set_nonblocking(true)?;
    if let Some(mark) = mark {
        socket.set_mark(mark)?;
    }
    // Connected: the kernel drops whatever comes from another address or port.
    socket.connect(&peer.into())?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests;
