//! When the service addresses are announced. Pure: the time comes from outside.
//!
//! ```text
//!                well for up_after x 2^(withdrawals of late but one)
//!   withdrawn ----------------------------------------------------> announced
//!       ^                                                               |
//!       +----------------- not well for down_after ---------------------+
//! ```

use std::time::{Duration, Instant};

/// Withdrawals are forgotten when it was announced for so long.
const FORGOTTEN: Duration = Duration::from_secs(600);
/// However often it was withdrawn, it need not be well for longer than this, or `up_after` where that is more.
const LONGEST: Duration = Duration::from_secs(600);

/// Why clients are better served elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ill {
    /// In one word, for metrics.
    pub word: &'static str,
    /// In a sentence.
    pub why: String,
}

impl Ill {
    /// All words there are, those of [`Steady`] among them.
    pub const WORDS: [&'static str; 5] = ["core", "state", "upstreams", "waiting", "stopping"];
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It goes to the routers.
    Announce,
    /// It goes from them.
    Withdraw,
}

/// `bgp.service.up_after` and `down_after`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waits {
    /// How long it must be well.
    pub up: Duration,
    /// How long it must not be.
    pub down: Duration,
}

/// See the module.
#[derive(Debug)]
pub struct Steady {
    waits: Waits,
    announced: bool,
    /// Since when it is announced, or isn't.
    since: Instant,
    /// Since when what is seen says the other thing.
    other_since: Option<Instant>,
    /// Withdrawals of late.
    withdrawals: u32,
    ill: Option<Ill>,
    /// Whether the daemon ends, after which nothing is announced any more.
    stopped: bool,
}

impl Steady {
    /// The state of a guard that has announced nothing yet.
    #[must_use]
    pub fn new(waits: Waits, now: Instant) -> Self {
        Self { waits, announced: false, since: now, other_since: None, withdrawals: 0, ill: None, stopped: false }
    }

    /// Others are configured.
    pub fn set(&mut self, waits: Waits) {
        self.waits = waits;
    }

    /// How it is now; `None`: well.
    pub fn look(&mut self, ill: Option<Ill>, now: Instant) -> Option<Step> {
        if self.stopped {
            return None;
        }
        if self.announced && now.saturating_duration_since(self.since) >= FORGOTTEN {
            self.withdrawals = 0;
        }
        let agrees = self.announced == ill.is_none();
        self.ill = ill;
        if agrees {
            self.other_since = None;
            return None;
        }
        let since = *self.other_since.get_or_insert(now);
        if now.saturating_duration_since(since) < self.wait() {
            return None;
        }
        self.turn(now)
    }

    /// The guard ends: it is withdrawn at once, for good.
    pub fn stop(&mut self, now: Instant) -> Option<Step> {
        self.stopped = true;
        self.ill = Some(Ill { word: "stopping", why: "the guard stops".to_owned() });
        self.announced.then(|| self.turn(now)).flatten()
    }

    fn turn(&mut self, now: Instant) -> Option<Step> {
        self.announced = !self.announced;
        self.since = now;
        self.other_since = None;
        if self.announced {
            return Some(Step::Announce);
        }
        self.withdrawals = self.withdrawals.saturating_add(1);
        Some(Step::Withdraw)
    }

    fn wait(&self) -> Duration {
        if self.announced {
            return self.waits.down;
        }
        let times = 1_u32.checked_shl(self.withdrawals.saturating_sub(1)).unwrap_or(u32::MAX);
        self.waits.up.saturating_mul(times).min(LONGEST.max(self.waits.up))
    }

    /// Whether it is announced.
    #[must_use]
    pub fn is_announced(&self) -> bool {
        self.announced
    }

    /// Since when it is, or isn't.
    #[must_use]
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Why it isn't announced, or soon won't be.
    #[must_use]
    pub fn ill(&self, now: Instant) -> Option<Ill> {
        let left = || {
            let past = self.other_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
            self.wait().saturating_sub(past).as_secs().saturating_add(1)
        };
        match &self.ill {
            Some(ill) => Some(ill.clone()),
            None if self.announced => None,
            None => Some(Ill { word: "waiting", why: format!("well, and announced if it stays so for {} s", left()) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    struct Bench {
        steady: Steady,
        now: Instant,
        steps: Vec<(Step, Duration)>,
        begin: Instant,
    }

    impl Bench {
        fn new() -> Self {
            let now = Instant::now();
            let waits = Waits { up: 5 * SECOND, down: SECOND };
            Self { steady: Steady::new(waits, now), now, steps: Vec::new(), begin: now }
        }

        /// So it is for so long.
        fn is(&mut self, well: bool, time: Duration) {
            let end = self.now + time;
            while self.now < end {
                let ill = (!well).then(|| Ill { word: "state", why: "degraded".to_owned() });
                let step = self.steady.look(ill, self.now);
                self.steps.extend(step.map(|step| (step, self.now - self.begin)));
                self.now += SECOND / 4;
            }
        }
    }

    #[test]
    fn it_is_announced_once_it_was_well_for_long_enough() {
        let mut bench = Bench::new();
        bench.is(false, 20 * SECOND);
        bench.is(true, 4 * SECOND);
        bench.is(false, SECOND / 2);
        assert!(bench.steps.is_empty(), "a moment without trouble is no health");
        bench.is(true, 10 * SECOND);
        assert_eq!(bench.steps.len(), 1);
        assert_eq!(bench.steps[0].0, Step::Announce);
        assert!(bench.steady.is_announced() && bench.steady.ill(bench.now).is_none());
    }

    #[test]
    fn a_short_trouble_withdraws_nothing() {
        let mut bench = Bench::new();
        bench.is(true, 10 * SECOND);
        for _ in 0..100 {
            bench.is(false, SECOND * 3 / 4);
            bench.is(true, SECOND / 4);
        }
        assert_eq!(bench.steps.len(), 1);
        bench.is(false, SECOND * 2);
        assert_eq!(bench.steps.len(), 2);
        assert_eq!(bench.steady.ill(bench.now).unwrap().why, "degraded");
    }

    #[test]
    fn one_that_flaps_comes_back_ever_later_and_one_that_stays_is_forgiven() {
        let mut bench = Bench::new();
        bench.is(true, 10 * SECOND);
        let mut waits = Vec::new();
        for _ in 0..12 {
            bench.is(false, 2 * SECOND);
            let well = bench.now;
            while !bench.steady.is_announced() {
                bench.is(true, SECOND / 4);
            }
            waits.push((bench.now - well).as_secs());
        }
        assert_eq!(waits[..5], [5, 10, 20, 40, 80]);
        assert_eq!(waits[11], 600, "at most");
        bench.is(true, 700 * SECOND);
        bench.is(false, 2 * SECOND);
        let well = bench.now;
        while !bench.steady.is_announced() {
            bench.is(true, SECOND / 4);
        }
        assert_eq!((bench.now - well).as_secs(), 5);
    }

    #[test]
    fn it_says_what_it_waits_for() {
        let mut bench = Bench::new();
        bench.is(true, 2 * SECOND);
        let ill = bench.steady.ill(bench.now).unwrap();
        assert_eq!(ill.word, "waiting");
        assert!(Ill::WORDS.contains(&ill.word) && ill.why.contains("4 s"), "{}", ill.why);
    }

    #[test]
    fn who_stops_never_comes_back() {
        let mut bench = Bench::new();
        bench.is(true, 10 * SECOND);
        assert_eq!(bench.steady.stop(bench.now), Some(Step::Withdraw));
        assert_eq!(bench.steady.stop(bench.now), None);
        bench.is(true, 1000 * SECOND);
        assert!(bench.steps.len() == 1 && !bench.steady.is_announced());
        assert_eq!(bench.steady.ill(bench.now).unwrap().word, "stopping");
    }
}
