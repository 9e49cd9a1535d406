//! A worker: one thread on one socket for clients, and on its own sockets to plain upstreams. Hits are answered here, in batches; so are misses
//! that it can forward itself.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::WAIT;
use super::phase::{Mode, Phase, close_to_new};
use crate::control::query_log::Tapped;
use crate::core::person::Who;
use crate::core::way::Way;
use crate::dns::resolver::pending::Route;
use crate::dns::resolver::worker::Forwarder;
use crate::dns::resolver::{Handled, Resolver, Turn};
use crate::sys::poll::Poll;
use crate::sys::udp::{Received, Sending};

/// Waited after an unexpected error of the socket, so that a lasting one doesn't spin.
const AFTER_ERROR: Duration = Duration::from_millis(20);
/// What [`Poll`] tells: clients ask, the core has decided, the listener's phase changes, or (behind these) a line to an upstream has something.
const CLIENTS: u64 = 0;
const CORE: u64 = 1;
const PHASE: u64 = 2;
const LINES: u64 = 3;
/// As [`WAIT`], when no more questions are read.
const LEAVING: Duration = Duration::from_millis(10);
/// How long the questions of a listener that goes may take to be answered.
const LAST_WORD: Duration = Duration::from_secs(10);

/// What is read of clients.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    All,
    /// Nothing new comes.
    WhatHasCome,
    Nothing,
}

/// What one worker owns.
pub struct Worker {
    socket: Arc<UdpSocket>,
    /// Where it is bound; with a wildcard the kernel tells it of each datagram.
    bound: Option<IpAddr>,
    resolver: Arc<Resolver>,
    phase: Arc<Phase>,
    reading: Reading,
    poll: Poll,
    forwarder: Forwarder,
    received: Received,
    sending: Sending,
}

impl Worker {
    /// For this socket, one of so many.
    ///
    /// # Errors
    /// The kernel has no descriptor.
    pub fn new(socket: UdpSocket, resolver: Arc<Resolver>, workers: usize, phase: Arc<Phase>) -> io::Result<Self> {
        let bound = Some(socket.local_addr()?.ip()).filter(|ip| !ip.is_unspecified());
        let socket = Arc::new(socket);
        let forwarder = Forwarder::new(resolver.clone(), socket.clone(), workers)?;
        let poll = Poll::new()?;
        poll.add(socket.as_fd(), CLIENTS)?;
        poll.add(forwarder.bell().as_fd(), CORE)?;
        poll.add(phase.bell(), PHASE)?;
        Ok(Self {
            socket,
            bound,
            resolver,
            phase,
            reading: Reading::All,
            poll,
            forwarder,
            received: Received::default(),
            sending: Sending::default(),
        })
    }

    /// Serves until its phase is over.
    pub fn serve(mut self) {
        let mut idle = WAIT;
        let mut left = None;
        loop {
            match self.phase.mode() {
                Mode::Serve => {}
                Mode::Stop => return,
                mode if self.reading == Reading::All => {
                    idle = LEAVING;
                    self.read_no_more(mode);
                }
                Mode::Leave if self.reading == Reading::Nothing => {
                    let since = *left.get_or_insert_with(Instant::now);
                    if self.forwarder.waiting() == 0 || since.elapsed() > LAST_WORD {
                        return;
                    }
                }
                Mode::Pause | Mode::Leave => {}
            }
            if let Err(error) = self.poll.wait(self.forwarder.patience(idle)) {
                if error.kind() != ErrorKind::Interrupted {
                    tracing::warn!(%error, "waiting for questions");
                    std::thread::sleep(AFTER_ERROR);
                }
                continue;
            }
            self.forwarder.begin_turn();
            let mut place = 0usize;
            while let Some(token) = self.poll.ready(place) {
                place += 1;
                match token.checked_sub(LINES).map(usize::try_from) {
                    Some(Ok(line)) => self.forwarder.read_line(line, (&self.poll, LINES), &mut self.sending),
                    _ if token == CORE => self.forwarder.take_decisions(&mut self.sending),
                    // Looked at when the turn is over.
                    _ if token == PHASE => {}
                    _ if self.reading == Reading::All && self.phase.mode() == Mode::Serve => {
                        self.take_questions();
                    }
                    _ => {}
                }
            }
            if self.reading == Reading::WhatHasCome && !self.take_questions() {
                self.quieten();
            }
            self.forwarder.end_turn((&self.poll, LINES), &mut self.sending);
            for (reply, peer, local) in self.sending.messages() {
                self.resolver.metrics.replies.count(Way::Udp, reply);
                let local = local.map(|local| local.ip).or(self.bound);
                self.resolver.query_log.tap(Tapped::datagram(true, peer, local, reply));
            }
            let (_, skipped) = self.sending.flush(self.socket.as_fd());
            for _ in 0..skipped {
                self.resolver.metrics.drop_packet("send_failed");
            }
        }
    }

    fn read_no_more(&mut self, mode: Mode) {
        if let Err(error) = self.poll.remove(self.phase.bell()) {
            tracing::debug!(%error, "waiting for clients");
        }
        if mode == Mode::Leave {
            match close_to_new(&self.socket) {
                Ok(()) => {
                    self.reading = Reading::WhatHasCome;
                    return;
                }
                Err(error) => tracing::debug!(%error, "what comes to a listener that goes is lost"),
            }
        }
        self.quieten();
    }

    fn quieten(&mut self) {
        if let Err(error) = self.poll.remove(self.socket.as_fd()) {
            tracing::debug!(%error, "waiting for clients");
        }
        self.reading = Reading::Nothing;
        self.phase.note_quiet();
    }

    /// False: there were none.
    fn take_questions(&mut self) -> bool {
        let count = match self.received.receive(self.socket.as_fd()) {
            Ok(count) => count,
            Err(error) => {
                if ![ErrorKind::WouldBlock, ErrorKind::Interrupted].contains(&error.kind()) {
                    tracing::warn!(%error, "receiving questions");
                    std::thread::sleep(AFTER_ERROR);
                }
                return false;
            }
        };
        let resolver = &self.resolver;
        let rules = resolver.rules.load();
        let mut turn = Turn::new(&rules, resolver.clock.now(), self.bound);
        for datagram in self.received.iter() {
            // Nobody can be answered at port 0.
            if datagram.peer.port() == 0 {
                resolver.metrics.drop_packet("port_zero");
                continue;
            }
            let client = datagram.peer.ip().to_canonical();
            let who = Who::from(client);
            if let Some(local) = datagram.local {
                turn.local = Some(local.ip);
            }
            let mut handled = Handled::Drop;
            self.sending.push(datagram.peer, datagram.local, |out| {
                handled = resolver.handle(datagram.payload, &who, false, &mut turn, out);
            });
            if !matches!(handled, Handled::Drop) {
                resolver.query_log.tap(Tapped::datagram(false, datagram.peer, turn.local, datagram.payload));
            }
            if let Handled::Miss(missed) = handled {
                let route = Route::Udp { socket: self.socket.clone(), peer: datagram.peer, local: datagram.local };
                self.forwarder.begin(&missed, &who, route, &turn, (&self.poll, LINES), &mut self.sending);
            }
        }
        resolver.metrics.udp_questions.inc_by(u64::try_from(count).unwrap_or(0));
        if turn.hits > 0 {
            resolver.metrics.cache_hits.inc_by(turn.hits);
            resolver.metrics.released.inc_by(turn.released);
        }
        count > 0
    }
}
