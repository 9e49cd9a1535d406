//! `settle = "auto"`: how long after its confirmation a router really forwards, learnt from occasional data-path probes.
//!
//! Of what is announced one address at a time is probed, a few times a second at most. The time from the confirmation
//! to its first answer is a sample. Routers take longer for more routes, so samples are kept apart by how many were announced
//! shortly before; a large burst never counts as quicker than a small one.

use std::collections::VecDeque;
use std::time::Duration;

/// Waited before anything is known: FRR's way from the UPDATE to the kernel, with some room.
pub const START: Duration = Duration::from_millis(75);
/// Most that is ever waited, where the gate's deadline leaves room for it.
pub const MOST: Duration = Duration::from_millis(700);
/// Samples kept of each class.
const KEPT: usize = 128;
/// Less than [`START`] is believed only after so many samples.
const ENOUGH: usize = 16;
/// Classes by routes in the backlog: up to 64, up to 1024, more.
const CLASSES: [usize; 2] = [64, 1024];
/// Room for what the samples did not show.
const ROOM: Duration = Duration::from_millis(5);

/// One peer's samples; they outlive its sessions.
#[derive(Clone, Debug, Default)]
pub struct Learner {
    classes: [VecDeque<Duration>; CLASSES.len() + 1],
    answered: u64,
    /// Addresses in a row that never answered.
    missed: u32,
}

fn class(backlog: usize) -> usize {
    CLASSES.partition_point(|bound| *bound < backlog)
}

impl Learner {
    /// An address was answered `after` its confirmation (zero if before it), with so many routes announced shortly before.
    pub fn answered(&mut self, after: Duration, backlog: usize) {
        self.missed = 0;
        self.answered += 1;
        if let Some(samples) = self.classes.get_mut(class(backlog)) {
            if samples.len() >= KEPT {
                samples.pop_front();
            }
            samples.push_back(after);
        }
    }

    /// An address never answered.
    pub fn missed(&mut self) {
        self.missed = self.missed.saturating_add(1);
    }

    /// Answers in the class of this backlog, and what they showed: the median and the 99th percentile.
    #[must_use]
    pub fn shown(&self, backlog: usize) -> (usize, Option<[Duration; 2]>) {
        let mut sorted: Vec<Duration> = self.classes.get(class(backlog)).into_iter().flatten().copied().collect();
        sorted.sort_unstable();
        let at = |share: usize| sorted.get((sorted.len() * share).div_ceil(100).checked_sub(1)?).copied();
        (sorted.len(), at(50).zip(at(99)).map(|(median, high)| [median, high]))
    }

    /// Addresses that were answered; those in a row since then that were not.
    #[must_use]
    pub fn counts(&self) -> (u64, u32) {
        (self.answered, self.missed)
    }

    /// What is to be waited after a confirmation with this backlog: the high quantile of the samples with some room, `most` at most.
    #[must_use]
    pub fn settle(&self, backlog: usize, most: Duration) -> Duration {
        self.wanted(backlog).min(most)
    }

    /// The same without bound.
    #[must_use]
    pub fn wanted(&self, backlog: usize) -> Duration {
        let class = class(backlog);
        let mut settle = Duration::ZERO;
        let mut known = false;
        for (at, samples) in self.classes.iter().enumerate().take(class + 1) {
            let mut sorted: Vec<Duration> = samples.iter().copied().collect();
            sorted.sort_unstable();
            // At most KEPT samples: one in a hundred is the largest or the one below.
            let rank = (sorted.len() * 99).div_ceil(100);
            if let Some(high) = rank.checked_sub(1).and_then(|rank| sorted.get(rank)) {
                settle = settle.max(high.mul_f64(1.25) + ROOM);
                known |= at == class && sorted.len() >= ENOUGH;
            }
        }
        if known { settle } else { settle.max(START) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn it_starts_high_and_falls_only_when_it_knows() {
        let mut learner = Learner::default();
        assert_eq!(learner.settle(1, MOST), START);
        for count in 1..ENOUGH {
            learner.answered(ms(4), 1);
            assert_eq!(learner.settle(1, MOST), START, "after {count}");
        }
        learner.answered(ms(4), 1);
        assert_eq!(learner.settle(1, MOST), ms(10));
        assert_eq!(learner.settle(500, MOST), START, "nothing is known of bursts");
    }

    #[test]
    fn one_slow_answer_raises_it_at_once() {
        let mut learner = Learner::default();
        learner.answered(ms(120), 1);
        assert_eq!(learner.settle(1, MOST), ms(155));
        assert_eq!(learner.settle(5000, MOST), ms(155), "a burst is not quicker");
        learner.answered(ms(2000), 1);
        assert_eq!(learner.settle(1, MOST), MOST);
        assert_eq!((learner.settle(1, ms(100)), learner.wanted(1)), (ms(100), ms(2505)), "bounded, and one can tell");
        assert_eq!(learner.shown(1), (2, Some([ms(120), ms(2000)])));
    }

    #[test]
    fn the_high_quantile_forgets_slowly() {
        let mut learner = Learner::default();
        for _ in 0..KEPT {
            learner.answered(ms(60), 1);
        }
        assert_eq!(learner.settle(1, MOST), ms(80));
        learner.answered(ms(100), 1);
        learner.answered(ms(100), 1);
        assert_eq!(learner.settle(1, MOST), ms(130));
        for _ in 0..KEPT {
            learner.answered(ms(10), 1);
        }
        assert_eq!(learner.settle(1, MOST), Duration::from_micros(17_500));
        learner.missed();
        assert_eq!(learner.counts(), (2 * KEPT as u64 + 2, 1));
        learner.answered(ms(1), 1);
        assert_eq!(learner.counts().1, 0);
    }
}
