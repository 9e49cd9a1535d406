//! What the page draws: questions, refusals, leases and the gate's latency of the last hour by minutes, and of the last day by ten minutes.
//!
//! [`Ring`] is pure: it is given readings of counters and keeps what changed between them. The daemon reads the counters every [`EVERY`].

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::types::{Past, Plotted};

/// Between two readings.
pub const EVERY: Duration = Duration::from_secs(60);
/// Minutes that are kept.
const MINUTES: usize = 60;
/// Spans of ten minutes that are kept: a day.
const TENS: usize = 144;
/// Readings of one such span.
const TEN: usize = 10;

/// The counters at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// Replies to clients.
    pub questions: u64,
    /// Questions that were refused, or would have been.
    pub refused: u64,
    /// Leases that are active now.
    pub leases: u64,
    /// The gate's histogram: upper bound in microseconds, and how many took at most so long.
    pub gate: Vec<(u64, u64)>,
}

impl Reading {
    /// Of the text that `/metrics` gives.
    #[must_use]
    pub fn of(metrics: &str) -> Self {
        let mut reading = Self::default();
        for line in metrics.lines().filter(|line| !line.starts_with('#')) {
            let mut words = line.split_ascii_whitespace();
            let (Some(series), Some(value)) = (words.next(), words.next()) else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            // Whole numbers, all of them.
            let Ok(value) = value.parse::<u64>() else { continue };
            match name {
                "destguard_dns_replies_total" => reading.questions = reading.questions.saturating_add(value),
                "destguard_dns_refused_questions_total" | "destguard_dns_would_refuse_questions_total" => {
                    reading.refused = reading.refused.saturating_add(value);
                }
                "destguard_leases" if labels.contains("\"ipv4\"") || labels.contains("\"ipv6\"") => {
                    reading.leases = reading.leases.saturating_add(value);
                }
                "destguard_dns_gate_seconds_bucket" => {
                    let bound = labels.split('"').nth(1).unwrap_or_default();
                    reading.gate.push((micros(bound), value));
                }
                _ => {}
            }
        }
        reading
    }
}

/// Seconds as they stand in a label; "+Inf" is the greatest.
fn micros(bound: &str) -> u64 {
    let Ok(seconds) = bound.parse::<f64>() else { return u64::MAX };
    Duration::try_from_secs_f64(seconds).map_or(u64::MAX, |bound| u64::try_from(bound.as_micros()).unwrap_or(u64::MAX))
}

/// The last hour and day.
#[derive(Clone, Debug, Default)]
pub struct Ring {
    minutes: VecDeque<Plotted>,
    tens: VecDeque<Plotted>,
    /// The reading before, and the one that the present ten minutes began with.
    last: Option<(u64, Reading)>,
    ten: Option<(u64, Reading)>,
    /// Readings since that one.
    since: usize,
}

impl Ring {
    /// Takes a reading of the moment `now`, in seconds since 1970.
    pub fn take(&mut self, now: u64, reading: Reading) {
        if let Some((then, before)) = &self.last {
            keep(&mut self.minutes, MINUTES, between(*then, before, now, &reading));
        }
        match &self.ten {
            None => self.ten = Some((now, reading.clone())),
            Some((then, before)) => {
                self.since = self.since.saturating_add(1);
                if self.since >= TEN {
                    keep(&mut self.tens, TENS, between(*then, before, now, &reading));
                    (self.ten, self.since) = (Some((now, reading.clone())), 0);
                }
            }
        }
        self.last = Some((now, reading));
    }

    /// All that is kept, oldest first.
    #[must_use]
    pub fn past(&self) -> Past {
        Past { hour: self.minutes.iter().cloned().collect(), day: self.tens.iter().cloned().collect() }
    }
}

fn keep(kept: &mut VecDeque<Plotted>, most: usize, one: Plotted) {
    if kept.len() >= most {
        kept.pop_front();
    }
    kept.push_back(one);
}

fn between(then: u64, before: &Reading, now: u64, after: &Reading) -> Plotted {
    // The clock may be set back; counters only begin anew with the process, and this with them.
    Plotted {
        time: now,
        seconds: now.saturating_sub(then),
        questions: after.questions.saturating_sub(before.questions),
        refused: after.refused.saturating_sub(before.refused),
        leases: after.leases,
        gate_p50_us: quantile(before, after, 50),
        gate_p99_us: quantile(before, after, 99),
    }
}

/// The bound below which so many percent of what came between two readings lies; above the last bound, that one.
fn quantile(before: &Reading, after: &Reading, percent: u64) -> Option<u64> {
    let earlier = |bound: u64| before.gate.iter().find(|(other, _)| *other == bound).map_or(0, |(_, count)| *count);
    let added: Vec<(u64, u64)> =
        after.gate.iter().map(|(bound, count)| (*bound, count.saturating_sub(earlier(*bound)))).collect();
    let all = added.last().map_or(0, |(_, count)| *count);
    if all == 0 {
        return None;
    }
    let wanted = all.saturating_mul(percent).div_ceil(100);
    let highest = added.iter().rev().map(|(bound, _)| *bound).find(|bound| *bound != u64::MAX);
    let found = added.iter().find(|(_, count)| *count >= wanted).map(|(bound, _)| *bound);
    found.map(|bound| if bound == u64::MAX { highest.unwrap_or(bound) } else { bound })
}

/// Shared by who reads and who shows; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Plots(Arc<Mutex<Ring>>);

impl Plots {
    /// Adds a reading to the ring of each span, as [`Ring::take`] says.
    pub fn take(&self, now: u64, reading: Reading) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take(now, reading);
    }

    /// What the rings hold, oldest first, as [`Ring::past`] says.
    #[must_use]
    pub fn past(&self) -> Past {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).past()
    }
}

#[cfg(test)]
mod tests;
