//! From octets that were written to generations that are in force at one peer.
//!
//! The driver says which generation lies complete before which octet of the session's stream, how many octets are written
//! and how many the peer's TCP has acknowledged. Each way of confirming is a rule for when a mark is *evident*; after that
//! `settle` passes, then the generation is confirmed. A rule that needs more than octets (an echo by ROUTE-REFRESH, a
//! reflected prefix, a probe) is one more arm in [`Confirmer::evident`] and one more input.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::config::Confirm;
use crate::table::Stamp;

/// Most marks kept; when there are more, the newest replaces the last, so a slow peer confirms in larger steps.
const MARKS: usize = 1024;

#[derive(Clone, Copy, Debug)]
struct Mark {
    stamp: Stamp,
    /// All of the generation lies before this octet of the stream.
    offset: u64,
}

/// What became confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// This generation and all before it.
    pub generation: u64,
    /// From its being put into the table; `None` for a table that was there before the session.
    pub latency: Option<Duration>,
}

/// One session's confirmations. See the module.
#[derive(Debug)]
pub struct Confirmer {
    rule: Confirm,
    settle: Duration,
    marks: VecDeque<Mark>,
    settling: VecDeque<(Instant, Stamp)>,
    newest: Option<u64>,
    first: bool,
    written: u64,
    acked: u64,
}

impl Confirmer {
    /// For a session that just came up.
    #[must_use]
    pub fn new(rule: Confirm, settle: Duration) -> Self {
        Self {
            rule,
            settle,
            marks: VecDeque::new(),
            settling: VecDeque::new(),
            newest: None,
            first: true,
            written: 0,
            acked: 0,
        }
    }

    /// Everything up to `stamp.generation` is encoded before octet `offset` of the stream. Repeating a generation does nothing.
    pub fn encoded(&mut self, stamp: Stamp, offset: u64) {
        if self.newest.is_some_and(|newest| stamp.generation <= newest) {
            return;
        }
        self.newest = Some(stamp.generation);
        push_bounded(&mut self.marks, Mark { stamp, offset });
    }

    /// `written` octets of the stream are handed to the kernel, `acked` of them acknowledged by the peer's TCP.
    pub fn progress(&mut self, written: u64, acked: u64, now: Instant) {
        self.written = self.written.max(written);
        self.acked = self.acked.max(acked);
        while let Some(mark) = self.marks.front().copied().filter(|mark| self.evident(mark)) {
            self.marks.pop_front();
            push_bounded(&mut self.settling, (now + self.settle, mark.stamp));
        }
    }

    fn evident(&self, mark: &Mark) -> bool {
        match self.rule {
            Confirm::Sent => self.written >= mark.offset,
            Confirm::Acked => self.acked >= mark.offset,
        }
    }

    /// Whether an acknowledgement is waited for: the driver should look at the socket soon.
    #[must_use]
    pub fn wants_acks(&self) -> bool {
        self.rule == Confirm::Acked && self.marks.front().is_some_and(|mark| self.written >= mark.offset)
    }

    /// The newest generation whose time has come.
    pub fn poll(&mut self, now: Instant) -> Option<Confirmed> {
        let mut confirmed = None;
        while let Some((_, stamp)) = self.settling.front().copied().filter(|(due, _)| *due <= now) {
            self.settling.pop_front();
            let latency = stamp.at.filter(|_| !self.first).map(|at| now.saturating_duration_since(at));
            confirmed = Some(Confirmed { generation: stamp.generation, latency });
        }
        if confirmed.is_some() {
            self.first = false;
        }
        confirmed
    }

    /// When [`Self::poll`] has something next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.settling.front().map(|(due, _)| *due)
    }
}

fn push_bounded<T>(queue: &mut VecDeque<T>, item: T) {
    if queue.len() >= MARKS {
        queue.pop_back();
    }
    queue.push_back(item);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(generation: u64, at: Instant) -> Stamp {
        Stamp { generation, at: Some(at) }
    }

    #[test]
    fn acked_waits_for_the_octets_then_settles() {
        let start = Instant::now();
        let settle = Duration::from_millis(75);
        let mut confirmer = Confirmer::new(Confirm::Acked, settle);
        confirmer.encoded(stamp(3, start), 100);
        confirmer.encoded(stamp(4, start), 200);
        confirmer.progress(200, 99, start);
        assert!(confirmer.wants_acks());
        assert_eq!(confirmer.poll_timeout(), None);
        let acked = start + Duration::from_millis(1);
        confirmer.progress(200, 100, acked);
        assert_eq!(confirmer.poll(acked), None);
        assert_eq!(confirmer.poll_timeout(), Some(acked + settle));
        assert_eq!(confirmer.poll(acked + settle).map(|c| c.generation), Some(3));
        confirmer.progress(200, 200, acked + settle);
        assert!(!confirmer.wants_acks());
        let confirmed = confirmer.poll(acked + settle * 2).unwrap();
        assert_eq!(confirmed, Confirmed { generation: 4, latency: Some(Duration::from_millis(151)) });
    }

    #[test]
    fn sent_needs_no_acknowledgement_and_reports_the_newest_only() {
        let now = Instant::now();
        let mut confirmer = Confirmer::new(Confirm::Sent, Duration::ZERO);
        for generation in 0..10_000 {
            confirmer.encoded(stamp(generation, now), generation);
        }
        assert!(confirmer.marks.len() <= MARKS);
        confirmer.progress(10_000, 0, now);
        assert_eq!(confirmer.poll(now).map(|c| c.generation), Some(9_999));
        assert_eq!(confirmer.poll(now), None);
    }
}
