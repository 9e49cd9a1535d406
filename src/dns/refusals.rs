//! What was refused, for `destguard denied`: questions in the words of the log that all parts share.
//!
//! The log takes a lock and allocates, so that a flood of refused questions must not reach it: of one client it hears [`PER_SECOND`] a
//! second at most, in full words; what was beyond is counted and told in one line as soon as that client is refused again.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use prometheus_client::metrics::counter::Counter;

use crate::control::{DeniedKind, DeniedLog};
use crate::core::name::Name;

/// Refusals of one client that are noted in a second.
pub const PER_SECOND: u32 = 64;
/// Clients are told apart by a keyed hash of so many values; two that share one share its rate.
const SLOTS: usize = 256;

/// The DNS side's way into the log.
pub struct Refusals {
    log: DeniedLog,
    /// How many were not noted.
    unnoted: Counter,
    started: Instant,
    hasher: RandomState,
    /// The second since `started` (high half) and refusals in it (low half).
    slots: [AtomicU64; SLOTS],
}

impl Refusals {
    /// Into `log`; `unnoted` counts what is beyond the rate.
    #[must_use]
    pub fn new(log: DeniedLog, unnoted: Counter) -> Self {
        let slots = std::array::from_fn(|_| AtomicU64::new(0));
        Self { log, unnoted, started: Instant::now(), hasher: RandomState::new(), slots }
    }

    /// Notes one. `reason` is one of a fixed set of words, as in the metrics; `text` says it in words, with the rule or the
    /// addresses; `ede` is the Extended DNS Error code of the reply.
    pub fn push(&self, client: IpAddr, name: &Name, qtype: u16, reason: &'static str, text: &str, ede: u16) {
        self.note((client, false), name, qtype, reason, text, ede);
    }

    /// Notes one that would have been, were it not for the audit; in the same words.
    pub fn push_audit(&self, client: IpAddr, name: &Name, qtype: u16, reason: &'static str, text: &str, ede: u16) {
        self.note((client, true), name, qtype, reason, text, ede);
    }

    fn note(
        &self,
        (client, audit): (IpAddr, bool),
        name: &Name,
        qtype: u16,
        reason: &'static str,
        text: &str,
        ede: u16,
    ) {
        if !self.may_note(client) {
            return;
        }
        let kind = match reason {
            "policy" | "rewritten" => DeniedKind::Name,
            "filter" | "filtered" => DeniedKind::Address,
            _ => DeniedKind::Answer,
        };
        let what = format!("{name} {}", hickory_proto::rr::RecordType::from(qtype));
        let reason = format!("{reason}: {text} (EDE {ede})");
        if audit {
            self.log.record_audit(kind, &what, Some(client), &reason);
        } else {
            self.log.record(kind, &what, Some(client), &reason);
        }
    }

    /// Notes a connection that was closed before anything was asked, as in "over DoT".
    pub fn push_connection(&self, client: IpAddr, how: &str, reason: &str) {
        if self.may_note(client) {
            self.log.record(DeniedKind::Answer, &format!("a connection {how}"), Some(client), reason);
        }
    }

    /// Counts what may not be noted, and tells how many of them there were when something may be again.
    fn may_note(&self, client: IpAddr) -> bool {
        let Some(untold) = self.take(client, self.started.elapsed().as_secs()) else {
            self.unnoted.inc();
            return false;
        };
        if untold > 0 {
            let what = format!("{untold} more questions");
            self.log.record(DeniedKind::Answer, &what, Some(client), "too many to note each");
        }
        true
    }

    /// Whether another may be noted in this second; if so, how many of an earlier second were not told yet.
    fn take(&self, client: IpAddr, second: u64) -> Option<u32> {
        const LOW: u64 = u32::MAX as u64;
        let place = usize::try_from(self.hasher.hash_one(client)).unwrap_or(0) % SLOTS;
        let slot = self.slots.get(place)?;
        let old = slot.load(Ordering::Relaxed);
        if old >> 32 == second {
            // A second can't see 2^32 packets, so that the count never reaches into the other half.
            let before = slot.fetch_add(1, Ordering::Relaxed) & LOW;
            return (before < u64::from(PER_SECOND)).then_some(0);
        }
        match slot.compare_exchange(old, second << 32 | 1, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => Some(u32::try_from(old & LOW).unwrap_or(u32::MAX).saturating_sub(PER_SECOND)),
            // Another worker began the second.
            Err(_) => {
                slot.fetch_add(1, Ordering::Relaxed);
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_told_in_one_line_and_hides_nobody_else() {
        let refusals = Refusals::new(DeniedLog::default(), Counter::default());
        let (noisy, quiet) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let noted = (0..1000).filter(|_| refusals.take(noisy, 7).is_some()).count();
        assert_eq!(noted, PER_SECOND as usize);
        assert_eq!(refusals.take(noisy, 8), Some(1000 - PER_SECOND));
        assert_eq!(refusals.take(noisy, 8), Some(0));
        // Unless the keyed hash happens to put both into one slot, which it does once in 256 keys.
        let refusals = [refusals, Refusals::new(DeniedLog::default(), Counter::default())];
        assert!(refusals.iter().any(|refusals| refusals.take(quiet, 7) == Some(0)));
    }

    #[test]
    fn what_is_within_the_rate_is_noted_in_full() {
        let log = DeniedLog::default();
        let refusals = Refusals::new(log.clone(), Counter::default());
        let name = Name::from_wire(b"\x01a\x04test\x00").unwrap();
        refusals.push(IpAddr::from([192, 0, 2, 1]), &name, 1, "policy", "deny = \"a.test\"", 15);
        let page = log.since(0);
        assert_eq!((page.denied.len(), page.denied[0].what.as_str()), (1, "a.test A"));
        assert_eq!(page.denied[0].reason, "policy: deny = \"a.test\" (EDE 15)");
        for n in 0..10 * PER_SECOND {
            refusals.push(IpAddr::from([192, 0, 2, 1]), &name, n as u16, "policy", "x", 15);
        }
        assert!(refusals.unnoted.get() > 0);
    }
}
