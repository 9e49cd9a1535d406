//! Streams of one connection to an upstream (DoH, DoQ), of which the upstream allows few: no client and no domain takes more than its part of them.
//!
//! A domain that never answers holds each of its streams until the question is given up. Without parts, a few hundred such questions would take them
//! all, and everybody else's would wait behind. Who has its part already waits for itself, in a line for each client and domain; lines are served in turns.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::core::client::Claim;
use crate::core::share::Holder;
use crate::dns::limits::{Limit, Place};

/// Streams at once: as many as upstreams usually allow (RFC 9113 section 6.5.2 says no fewer than 100).
const MOST: usize = 100;
/// Of these, whatever is free, for anybody.
const LEAST: usize = 4;
/// Queries that wait for one. Beyond it a query fails at once.
const WAITING: usize = 4096;
/// Lines that are looked at when a stream is free: of most of them the first may go.
const LOOKS: usize = 16;

type Line = (Holder, Holder);

#[derive(Default)]
struct Waiting {
    lines: HashMap<Line, VecDeque<(Claim, oneshot::Sender<Stream>)>>,
    turns: VecDeque<Line>,
    count: usize,
}

/// The streams of one connection.
pub struct Streams {
    limit: Arc<Limit>,
    waiting: Mutex<Waiting>,
}

/// One of them; free again when dropped.
pub struct Stream {
    streams: Arc<Streams>,
    place: Option<Place>,
}

impl Streams {
    /// All are free.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self { limit: Limit::new(MOST, MOST, LEAST), waiting: Mutex::default() })
    }

    /// How many are in use.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.limit.taken()
    }

    /// Takes one, when it is this claim's turn.
    ///
    /// # Errors
    /// Too many wait.
    pub async fn take(self: &Arc<Self>, claim: Claim) -> io::Result<Stream> {
        let line = (claim.client, claim.domain);
        let turn = {
            let mut waiting = self.waiting();
            // Not before those of its own who came earlier.
            if !waiting.lines.contains_key(&line)
                && let Ok(place) = self.limit.take(claim)
            {
                return Ok(Stream { streams: self.clone(), place: Some(place) });
            }
            if waiting.count >= WAITING {
                return Err(io::ErrorKind::QuotaExceeded.into());
            }
            let (sender, turn) = oneshot::channel();
            if !waiting.lines.contains_key(&line) {
                waiting.turns.push_back(line);
            }
            waiting.lines.entry(line).or_default().push_back((claim, sender));
            waiting.count = waiting.count.saturating_add(1);
            turn
        };
        // The sender goes only with the streams, which this future holds.
        turn.await.map_err(|_| io::ErrorKind::QuotaExceeded.into())
    }

    /// Gives what is free to those whose turn it is.
    fn serve(self: &Arc<Self>) {
        let mut waiting = self.waiting();
        for _ in 0..LOOKS.min(waiting.turns.len()) {
            let Some(line) = waiting.turns.pop_front() else { return };
            let mut served = 0;
            let mut rest = waiting.lines.remove(&line).unwrap_or_default();
            while let Some((claim, sender)) = rest.pop_front() {
                served += 1;
                if sender.is_closed() {
                    continue;
                }
                let Ok(place) = self.limit.take(claim) else {
                    rest.push_front((claim, sender));
                    served -= 1;
                    break;
                };
                if let Err(mut stream) = sender.send(Stream { streams: self.clone(), place: Some(place) }) {
                    // Given up at this very moment. The lock is held: its place goes by itself, without another turn.
                    stream.place = None;
                    continue;
                }
                break;
            }
            waiting.count = waiting.count.saturating_sub(served);
            if !rest.is_empty() {
                waiting.lines.insert(line, rest);
                waiting.turns.push_back(line);
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.place.take().is_some() {
            self.streams.serve();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::client::Clients;

    fn claim(client: u8, domain: &str) -> Claim {
        Clients::default().claim_for([192, 0, 2, client].into(), domain.as_bytes())
    }

    /// Lets everything run that can.
    async fn settle() {
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_silent_domain_leaves_streams_to_others_and_waits_for_itself() {
        let streams = Streams::new();
        let (held, mut taken) = tokio::sync::mpsc::unbounded_channel();
        for number in 0..300u16 {
            let (streams, held) = (streams.clone(), held.clone());
            tokio::spawn(async move {
                held.send(streams.take(claim((number % 2) as u8, "silent.example")).await.unwrap()).unwrap_or(());
            });
        }
        settle().await;
        assert_eq!((streams.in_use(), streams.waiting().count), (50, 250));
        // Others have theirs at once, one after the other and many at once.
        for _ in 0..100 {
            drop(streams.take(claim(3, "good.example")).await.unwrap());
        }
        let good: Vec<Stream> = {
            let mut all = Vec::new();
            for _ in 0..25 {
                all.push(streams.take(claim(4, "good.example")).await.unwrap());
            }
            all
        };
        // What ends lets the next one in.
        for _ in 0..300 {
            drop(taken.recv().await.unwrap());
            settle().await;
        }
        drop(good);
        assert_eq!((streams.in_use(), streams.waiting().count), (0, 0));
        assert!(streams.waiting().lines.is_empty() && streams.waiting().turns.is_empty());
    }

    #[tokio::test]
    async fn who_gives_up_costs_nobody_a_stream() {
        let streams = Streams::new();
        let mut held = Vec::new();
        for _ in 0..50 {
            held.push(streams.take(claim(1, "silent.example")).await.unwrap());
        }
        let waits = |number: u8| {
            let streams = streams.clone();
            tokio::spawn(async move { streams.take(claim(number, "silent.example")).await.map(drop) })
        };
        let (gone, stays) = (waits(1), waits(1));
        settle().await;
        gone.abort();
        settle().await;
        held.clear();
        stays.await.unwrap().unwrap();
        settle().await;
        assert_eq!((streams.in_use(), streams.waiting().count), (0, 0));
    }
}
