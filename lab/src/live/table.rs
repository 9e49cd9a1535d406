//! What happened, counted by place and by kind of connect.

use std::collections::BTreeMap;
use std::time::Duration;

use super::ledger::Verdict;

/// Most faults of one kind that are kept in words for each place.
const SHOWN: usize = 6;

/// One answer of so many may miss the gate's deadline, on a machine that is busy.
const UNCONFIRMED: u64 = 50;

/// Connects of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connects {
    /// Open, as promised.
    pub open: u64,
    /// Closed, as promised.
    pub closed: u64,
    /// Neither was promised.
    pub unjudged: u64,
    /// The first packet was lost within the client's TTL.
    pub first_lost: u64,
    /// Refused within the client's TTL.
    pub wrongly_refused: u64,
    /// Open outside any lease.
    pub wrongly_open: u64,
}

impl Connects {
    fn add(&mut self, verdict: Verdict) {
        let count = match verdict {
            Verdict::Open => &mut self.open,
            Verdict::Closed => &mut self.closed,
            Verdict::Unjudged => &mut self.unjudged,
            Verdict::FirstLost => &mut self.first_lost,
            Verdict::WronglyRefused => &mut self.wrongly_refused,
            Verdict::WronglyOpen => &mut self.wrongly_open,
        };
        *count += 1;
    }

    fn plus(self, other: Self) -> Self {
        Self {
            open: self.open + other.open,
            closed: self.closed + other.closed,
            unjudged: self.unjudged + other.unjudged,
            first_lost: self.first_lost + other.first_lost,
            wrongly_refused: self.wrongly_refused + other.wrongly_refused,
            wrongly_open: self.wrongly_open + other.wrongly_open,
        }
    }

    /// All of them.
    #[must_use]
    pub fn all(self) -> u64 {
        self.open + self.closed + self.unjudged + self.wrong()
    }

    /// Those that weren't as promised.
    #[must_use]
    pub fn wrong(self) -> u64 {
        self.first_lost + self.wrongly_refused + self.wrongly_open
    }
}

/// Questions of one place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Questions {
    /// Asked, repetitions not counted.
    pub asked: u64,
    /// SERVFAIL for any other reason, each time, while the guard was up.
    pub servfail: u64,
    /// SERVFAIL since an enforcer was late, each time: a machine that is busy can be the cause.
    pub unconfirmed: u64,
    /// Answered without addresses although the name has some, while the guard was up.
    pub empty: u64,
    /// Sent again for want of an answer, while the guard was up.
    pub again: u64,
    /// Without a good answer in the end, though the guard was up all the time.
    pub lost: u64,
    /// Failed in any of these ways while the guard was down or just back.
    pub while_down: u64,
}

/// One place's counts.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// By kind of connect.
    pub connects: BTreeMap<&'static str, Connects>,
    /// Counts of the questions that were asked.
    pub questions: Questions,
    /// Comparisons of what the guard believes with the world.
    pub comparisons: u64,
    /// Differences that stayed, each counted once.
    pub differences: u64,
    /// Flows that were open, and those of them that were cut.
    pub flows: (u64, u64),
    /// Reloads, stops and kills, and how long each took until the guard enforced again.
    pub events: Vec<(&'static str, Duration)>,
    /// Fewest times that the upstream was asked again for one name of a program.
    pub renewals: u32,
    /// Why no verdict was possible: sockets that could not be made and the like.
    pub trouble: u64,
    /// The first faults of each kind, in words.
    pub faults: Vec<(&'static str, String)>,
    /// Whether the run reached its end.
    pub whole: bool,
}

impl Counts {
    /// Counts one connect.
    pub fn connect(&mut self, kind: &'static str, verdict: Verdict) {
        self.connects.entry(kind).or_default().add(verdict);
    }

    /// Keeps a description, when there is room.
    pub fn fault(&mut self, kind: &'static str, text: String) {
        if self.faults.iter().filter(|(known, _)| *known == kind).count() < SHOWN {
            self.faults.push((kind, text));
        }
    }

    fn total(&self) -> Connects {
        self.connects.values().fold(Connects::default(), |total, &one| total.plus(one))
    }

    /// What isn't as promised, in words; empty when all is well.
    #[must_use]
    pub fn wrong(&self) -> Vec<String> {
        let (total, questions) = (self.total(), self.questions);
        let bad: Vec<(u64, &str)> = vec![
            (total.wrongly_refused, "connects refused within the TTL that the client was told"),
            (total.first_lost, "connects whose first packet was lost within that TTL"),
            (total.wrongly_open, "connects to what no lease had open"),
            (self.differences, "differences between what the guard believes and the world"),
            (self.flows.1, "open flows cut"),
            (questions.lost, "questions without a good answer"),
            (questions.servfail, "answers SERVFAIL while the guard was up"),
            (questions.empty, "answers without the addresses that the name has"),
            (self.trouble, "attempts that could not be made"),
        ];
        let mut all: Vec<String> =
            bad.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        for (good, what) in [
            (self.whole, "the run ended early"),
            (questions.unconfirmed * UNCONFIRMED <= questions.asked, "too many answers not confirmed in time"),
            (total.open > 50 && total.closed > 20, "too few connects to say anything"),
            (self.comparisons > 5, "too few comparisons to say anything"),
            (self.renewals >= 3, "fewer than three renewals of a program's name"),
        ] {
            if !good {
                all.push(what.to_owned());
            }
        }
        all
    }

    /// Lines for people.
    pub fn print(&self, place: &str) {
        let line = |name: &str, kind: &str, count: Connects| {
            println!(
                "{name:<22}{kind:<10}{:>9}{:>8}{:>8}{:>9}{:>9}{:>8}{:>9}",
                count.all(),
                count.open,
                count.closed,
                count.wrongly_refused,
                count.wrongly_open,
                count.first_lost,
                count.unjudged
            );
        };
        line(place, "all", self.total());
        for (kind, count) in &self.connects {
            line("", kind, *count);
        }
        let questions = self.questions;
        println!(
            "    questions {}: SERVFAIL {}, not confirmed in time {}, empty {}, sent again {}, lost {}; {} failed while the guard was down",
            questions.asked,
            questions.servfail,
            questions.unconfirmed,
            questions.empty,
            questions.again,
            questions.lost,
            questions.while_down
        );
        let events: Vec<String> =
            self.events.iter().map(|(what, took)| format!("{what} ({:.1} s)", took.as_secs_f64())).collect();
        println!(
            "    comparisons {}: differences {}; flows {}, cut {}; renewals of each name at least {}; {}",
            self.comparisons,
            self.differences,
            self.flows.0,
            self.flows.1,
            self.renewals,
            events.join(", ")
        );
    }

    /// The head of the lines.
    pub fn print_head() {
        println!(
            "{:<22}{:<10}{:>9}{:>8}{:>8}{:>9}{:>9}{:>8}{:>9}",
            "place", "kind", "connects", "open", "closed", "REFUSED", "OPENED", "LATE", "unjudged"
        );
    }
}
