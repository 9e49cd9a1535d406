//! What was refused lately, for `destguard denied`: a ring in memory.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use crate::core::name::Name;

/// Refusals kept; older ones are forgotten, their count stays in the metrics.
pub const KEPT: usize = 1000;

/// One refused question.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Counts up from 1; a reader that follows asks for what is above the last it saw.
    pub number: u64,
    /// When, by the wall clock.
    pub at: SystemTime,
    /// Who asked.
    pub client: IpAddr,
    /// Which name.
    pub name: Name,
    /// Which type.
    pub qtype: u16,
    /// One of a fixed set of words, as in the metrics.
    pub reason: &'static str,
    /// In words, with the rule or the addresses.
    pub text: String,
    /// Extended DNS Error code of the reply.
    pub ede: u16,
}

#[derive(Default)]
struct Ring {
    last: u64,
    list: VecDeque<Refused>,
}

/// The ring. Its lock is held for a push or a copy only.
#[derive(Default)]
pub struct Refusals(Mutex<Ring>);

impl Refusals {
    /// Adds one; its number and time are set here.
    pub fn push(&self, client: IpAddr, name: &Name, qtype: u16, reason: &'static str, text: &str, ede: u16) {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ring.last = ring.last.saturating_add(1);
        if ring.list.len() >= KEPT {
            ring.list.pop_front();
        }
        let number = ring.last;
        let at = SystemTime::now();
        ring.list.push_back(Refused {
            number,
            at,
            client,
            name: name.clone(),
            qtype,
            reason,
            text: text.to_owned(),
            ede,
        });
    }

    /// Those with a number above `after`, oldest first.
    #[must_use]
    pub fn since(&self, after: u64) -> Vec<Refused> {
        let ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ring.list.iter().filter(|refused| refused.number > after).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_and_numbers_go_on() {
        let refusals = Refusals::default();
        for _ in 0..=KEPT {
            refusals.push(IpAddr::from([192, 0, 2, 1]), &Name::root(), 1, "policy", "", 15);
        }
        let all = refusals.since(0);
        assert_eq!(all.len(), KEPT);
        assert_eq!(all.first().unwrap().number, 2);
        assert_eq!(refusals.since(KEPT as u64).len(), 1);
    }
}
