//! What was seen of each fault, and the table of it.

use std::time::Duration;

/// Faults of one row that are told in words.
const TOLD: usize = 6;

/// What was seen while one kind of fault was made, and until the next kind.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// The fault's name.
    pub fault: &'static str,
    /// Where the guard stands.
    pub place: &'static str,
    /// How often it was made.
    pub times: u32,
    /// Answers with an address.
    pub answers: u64,
    /// Replies without an address: SERVFAIL, mostly.
    pub failed: u64,
    /// Answers with an address that was closed when they arrived, or that isn't the name's.
    pub unenforced: u64,
    /// Addresses that were closed before the TTL that a client was told had passed.
    pub leases_lost: u64,
    /// Addresses that were open without lease, or later than the lease's end and the slack.
    pub open_too_long: u64,
    /// Questions that got no reply, though asked again each second.
    pub questions_lost: u64,
    /// Questions that were given up while the fault lasted.
    pub given_up: u64,
    /// From each fault, or the end of one that lasts, to the first enforced answer to a question asked since.
    pub recoveries: Vec<Duration>,
    /// Why no more faults were made: the guard ended by itself or didn't recover.
    pub broken: Option<String>,
    /// Some of what is wrong, in words.
    pub told: Vec<String>,
}

impl Row {
    /// Notes what is wrong in words, as long as there is room.
    pub fn tell(&mut self, text: String) {
        if self.told.len() < TOLD {
            self.told.push(text);
        }
    }

    /// The recovery that so many of a hundred don't exceed; `None` without any.
    #[must_use]
    pub fn recovery(&self, percent: usize) -> Option<Duration> {
        let mut all = self.recoveries.clone();
        all.sort_unstable();
        let place = (all.len() * percent).div_ceil(100).saturating_sub(1);
        all.get(place).copied()
    }

    /// Head of the table.
    pub fn print_head() {
        println!(
            "{:<22}{:<10}{:>6}{:>9}{:>8}{:>12}{:>8}{:>10}{:>10}{:>10}{:>9}{:>9}{:>9}",
            "fault",
            "place",
            "times",
            "answers",
            "failed",
            "unenforced",
            "leases",
            "open too",
            "questions",
            "given up",
            "p50 ms",
            "p99 ms",
            "max ms"
        );
        println!("{:<22}{:<10}{:>6}{:>9}{:>8}{:>12}{:>8}{:>10}{:>10}", "", "", "", "", "", "", "lost", "long", "lost");
    }

    /// One line of it.
    pub fn print(&self) {
        let time =
            |percent| self.recovery(percent).map_or("-".to_owned(), |time| format!("{:.0}", time.as_secs_f64() * 1e3));
        println!(
            "{:<22}{:<10}{:>6}{:>9}{:>8}{:>12}{:>8}{:>10}{:>10}{:>10}{:>9}{:>9}{:>9}",
            self.fault,
            self.place,
            self.times,
            self.answers,
            self.failed,
            self.unenforced,
            self.leases_lost,
            self.open_too_long,
            self.questions_lost,
            self.given_up,
            time(50),
            time(99),
            time(100)
        );
    }

    /// What must not be; empty when all is well. Times of recovery are no part of it.
    #[must_use]
    pub fn wrong(&self) -> Vec<String> {
        let counts = [
            (self.unenforced, "answers unenforced"),
            (self.leases_lost, "leases lost"),
            (self.open_too_long, "addresses open too long"),
            (self.questions_lost, "questions lost"),
        ];
        let counts = counts.iter().filter(|(count, _)| *count > 0);
        let wrong = counts.map(|(count, what)| format!("{}, {}: {count} {what}", self.fault, self.place));
        let broken = self.broken.iter().map(|text| format!("{}, {}: {text}", self.fault, self.place));
        wrong.chain(broken).chain(self.told.iter().map(|text| format!("  {text}"))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recoveries_are_ranked_and_every_count_is_wrong() {
        let mut row = Row { recoveries: (1..=200).rev().map(Duration::from_millis).collect(), ..Row::default() };
        assert_eq!([50, 99].map(|percent| row.recovery(percent)), [100, 198].map(|ms| Some(Duration::from_millis(ms))));
        assert_eq!(Row::default().recovery(99), None);
        assert!(row.wrong().is_empty());
        (row.unenforced, row.leases_lost, row.open_too_long, row.questions_lost) = (1, 1, 1, 1);
        assert_eq!(row.wrong().len(), 4);
    }
}
