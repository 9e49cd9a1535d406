//! Plain UDP for tasks: one task has the sockets of all of them ([`UdpSockets`]), as a worker has its own.
//!
//! ```text
//!  a task that asks --letter--> queue --> the post: UdpSockets, one Poll --> upstreams
//!         ^                                   |
//!         +---- one reply, or its failure ----+
//! ```
//!
//! The queue is bounded by [`LETTERS`]; where it is full the asker waits, which the questions in owner bound in turn. Who gives up drops its end of the
//! reply, and is forgotten with the next [`TIDY`].

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use crate::dns::metrics::Metrics;
use crate::dns::upstream::query::{Fit, Query};
use crate::dns::upstream::race::{Ask, Trouble};
use crate::dns::upstream::transport::dial::Target;
use crate::dns::upstream::transport::udp::{Attempt, Claim, Failed, UdpSockets};
use crate::sys::connected::Received;
use crate::sys::poll::Poll;

/// Letters that wait to be sent.
const LETTERS: usize = 1024;
/// Letters that go out together.
const TOGETHER: usize = 64;
/// Looks at what is ready before something else has its turn.
const ROUNDS: usize = 16;
/// How often it is looked at who gave up, and which sockets may be closed.
const TIDY: Duration = Duration::from_secs(1);
/// The first line's token; nothing else is polled.
const TOKEN: u64 = 0;

/// Why a query has no reply, and in words.
#[derive(Debug)]
pub struct Failure {
    /// Whose fault it is.
    pub trouble: Trouble,
    /// The kernel's error, or one that says what came instead.
    pub error: io::Error,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self { trouble: crate::dns::upstream::transport::udp::trouble_of(error.kind()), error }
    }
}

type Outcome = Result<(Vec<u8>, Fit), Failure>;

struct Letter {
    ask: Ask,
    target: Target,
    query: Query,
    reply: oneshot::Sender<Outcome>,
}

/// Where letters are handed in. Nothing runs before the first.
pub struct Post {
    metrics: Metrics,
    queue: Mutex<Option<mpsc::Sender<Letter>>>,
}

impl Post {
    /// For all upstreams.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self { metrics, queue: Mutex::new(None) }
    }

    /// Sends a query to the upstream at `target` and waits for its response, for ever: the caller sets the time.
    ///
    /// # Errors
    /// [`Failure`]; among them "connection refused" when the upstream's host says so.
    pub async fn exchange(&self, ask: Ask, target: Target, query: Query) -> Outcome {
        let (reply, replied) = oneshot::channel();
        let queue = self.queue()?;
        let ended = || io::Error::from(io::ErrorKind::ConnectionAborted);
        queue.send(Letter { ask, target, query, reply }).await.map_err(|_| ended())?;
        replied.await.unwrap_or_else(|_| Err(ended().into()))
    }

    /// The queue of the running post; begun anew should it have ended.
    fn queue(&self) -> io::Result<mpsc::Sender<Letter>> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queue.as_ref().filter(|queue| !queue.is_closed()) {
            return Ok(queue.clone());
        }
        let poll = Poll::new()?;
        let readable = poll.watched()?;
        let (sender, letters) = mpsc::channel(LETTERS);
        let office = Office {
            lines: UdpSockets::new(1),
            poll,
            waiting: HashMap::new(),
            number: 0,
            failed: Vec::new(),
            received: Received::default(),
            metrics: self.metrics.clone(),
        };
        tokio::spawn(office.run(letters, readable));
        *queue = Some(sender.clone());
        Ok(sender)
    }
}

/// The task that has the sockets.
struct Office {
    lines: UdpSockets,
    poll: Poll,
    waiting: HashMap<u64, (Claim, oneshot::Sender<Outcome>)>,
    number: u64,
    failed: Vec<Failed>,
    received: Received,
    metrics: Metrics,
}

impl Office {
    async fn run(mut self, mut letters: mpsc::Receiver<Letter>, readable: AsyncFd<OwnedFd>) {
        let mut tidy = tokio::time::interval(TIDY);
        tidy.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                letter = letters.recv() => {
                    let Some(letter) = letter else { return };
                    let now = Instant::now();
                    self.take(letter, now);
                    for _ in 1..TOGETHER {
                        let Ok(letter) = letters.try_recv() else { break };
                        self.take(letter, now);
                    }
                    self.lines.flush(now, (&self.poll, TOKEN), &mut self.failed);
                }
                ready = readable.readable() => {
                    let all = self.read();
                    match ready {
                        Ok(mut ready) if all => ready.clear_ready(),
                        Ok(mut ready) => ready.retain_ready(),
                        Err(error) => {
                            tracing::error!(%error, "the post can't wait for replies; it begins anew");
                            return;
                        }
                    }
                }
                _ = tidy.tick() => self.tidy(),
            }
            self.tell_failures();
        }
    }

    fn take(&mut self, letter: Letter, now: Instant) {
        let Letter { ask, target, query, reply } = letter;
        if reply.is_closed() {
            return;
        }
        self.number = self.number.wrapping_add(1);
        let attempt = Attempt { owner: self.number, place: 0 };
        match self.lines.ask((&ask, target), &query, attempt, now, (&self.poll, TOKEN)) {
            Ok(claim) => drop(self.waiting.insert(self.number, (claim, reply))),
            // The asker may have given up.
            Err(error) => drop(reply.send(Err(Failure { trouble: Trouble::Ours, error }))),
        }
    }

    /// Takes what arrived; whether that is all. What is left wouldn't be told again.
    fn read(&mut self) -> bool {
        let now = Instant::now();
        for _ in 0..ROUNDS {
            if self.poll.wait(Duration::ZERO).is_err() || self.poll.ready(0).is_none() {
                return true;
            }
            let mut place = 0usize;
            while let Some(token) = self.poll.ready(place) {
                place = place.saturating_add(1);
                let Ok(line) = usize::try_from(token) else { continue };
                self.read_line(line, now);
            }
        }
        false
    }

    fn read_line(&mut self, line: usize, now: Instant) {
        let count = self.lines.receive(line, &mut self.received, &mut self.failed);
        for place in 0..count {
            let Some(message) = self.received.get(place) else { break };
            let answered = self.lines.answers(line, message, now, &mut self.failed);
            if !matches!(answered, Some((_, Fit::Exact | Fit::Bare))) {
                self.metrics.upstream_mismatch.inc();
            }
            if let Some((attempt, fit)) = answered
                && let Some((_, reply)) = self.waiting.remove(&attempt.owner)
            {
                // The asker may have given up.
                drop(reply.send(Ok((message.to_vec(), fit))));
            }
        }
    }

    fn tell_failures(&mut self) {
        for (attempt, trouble, kind) in self.failed.drain(..) {
            if let Some((_, reply)) = self.waiting.remove(&attempt.owner) {
                // Likewise.
                drop(reply.send(Err(Failure { trouble, error: kind.into() })));
            }
        }
    }

    fn tidy(&mut self) {
        let lines = &mut self.lines;
        self.waiting.retain(|number, (claim, reply)| {
            if reply.is_closed() {
                lines.give_up(*claim, Attempt { owner: *number, place: 0 });
            }
            !reply.is_closed()
        });
        lines.tidy(Instant::now());
    }
}
