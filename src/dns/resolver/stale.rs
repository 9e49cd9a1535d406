//! Answers beyond their end, while no upstream answers (RFC 8767). They open nothing: one whose addresses are not all still leased and in force is not
//! given, and it neither makes a lease nor extends one.

use std::time::Duration;

use crate::core::event::LeaseHandle;
use crate::core::moment::Moment;
use crate::dns::cache::{Entry, Key, Made, Outcome};
use crate::dns::codec::ede::{Ede, code};
use crate::dns::codec::reply;
use crate::dns::codec::wire::rcode;

/// How long the upstreams have, when there is something stale to give (RFC 8767 section 5: the client response timer).
pub const PATIENCE: Duration = Duration::from_millis(1800);
/// TTL of a stale answer, in seconds, and the time until the upstreams are asked again (sections 4 and 5 recommend 30 for both).
const TTL: u32 = 30;
/// The least that a lease must have left.
const LEAST: Duration = Duration::from_secs(1);

/// Whether every address of the entry is open and will be for a moment.
#[must_use]
pub fn is_open(entry: &Entry, now: Moment) -> bool {
    entry.is_in_force(now, LEAST)
}

/// An ended entry of `key` made fit to be given for a while: TTLs of [`TTL`], or what the leases have left, and an extended error that says it is stale.
/// `None`: it was no answer, or an address of it is not open any more (in audit that is no matter).
#[must_use]
pub fn revive(key: &Key, entry: &Entry, now: Moment, audit: bool) -> Option<Entry> {
    if entry.outcome() != Outcome::Released || !(audit || is_open(entry, now)) {
        return None;
    }
    let ends = entry.leases().iter().map(LeaseHandle::ends).min().filter(|_| !audit);
    let left = ends.map_or(u64::MAX, |ends| now.until(ends).as_secs());
    let ttl = u32::try_from(left).unwrap_or(u32::MAX).min(TTL);
    let mut body = entry.message.body();
    reply::set_ttls(&mut body, ttl);
    // Its signatures may have ended since.
    reply::unauthentic(&mut body);
    let absent = entry.message.octets().get(3).is_some_and(|flags| u16::from(flags & 0x0f) == rcode::NXDOMAIN);
    let made = Made {
        stored: now,
        keep: ttl,
        leases: entry.leases().iter().cloned().collect(),
        // Nothing is admitted for it.
        again: None,
        ede: Some(Ede::new(if absent { code::STALE_NXDOMAIN } else { code::STALE }, "no upstream answers")),
        outcome: Outcome::Released,
        would: entry.would().cloned().map(Box::new),
        generation: entry.generation(),
        ended: Some(entry.ended()),
    };
    Some(Entry::new(key, &body, made))
}
