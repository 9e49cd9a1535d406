//! The log of what was refused: names by policy, addresses by filter, answers by budgets and the gate, packets by nftables.
//! It keeps the last [`KEPT`] entries; the same thing in a row is one entry with a count, so that one noisy client doesn't
//! push out the rest.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use super::types::{Denied, DeniedPage, RefusedClient, RefusedPackets, Sender, TopAddress};
use crate::core::client::prefix;
use crate::core::remembered::Remembered;

/// Entries kept; older ones are forgotten and counted.
pub const KEPT: usize = 1024;
/// Most pairs of destination and client whose refused packets are counted apart.
const PAIRS: usize = 4096;
/// Most clients that are told of one destination.
const CLIENTS: usize = 16;
/// How far back the same thing is looked for.
const LOOK_BACK: usize = 16;

/// What was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeniedKind {
    /// A name, by policy.
    Name,
    /// An address, by the filter.
    Address,
    /// An answer, by a budget or the gate.
    Answer,
    /// A packet, by nftables.
    Packet,
}

impl DeniedKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Address => "address",
            Self::Answer => "answer",
            Self::Packet => "packet",
        }
    }
}

#[derive(Debug, Default)]
struct Log {
    entries: VecDeque<Denied>,
    /// The number of the newest change.
    number: u64,
    /// The highest number among forgotten entries.
    forgotten: u64,
    forgotten_count: u64,
}

/// Shared by everybody who refuses; cheap to clone. Recording takes a short lock: it is for refusals, not for the hot path.
#[derive(Clone, Debug)]
pub struct DeniedLog {
    log: Arc<Mutex<Log>>,
    changed: Arc<watch::Sender<u64>>,
    packets: Arc<Mutex<Packets>>,
}

/// Refused packets by destination and client: how many, and when the last one was. A client has its share of the table.
type Packets = Remembered<(IpAddr, IpAddr), IpAddr, (u64, Instant)>;

impl Default for DeniedLog {
    fn default() -> Self {
        let packets = Arc::new(Mutex::new(Remembered::new(PAIRS)));
        Self { log: Arc::default(), changed: Arc::new(watch::Sender::new(0)), packets }
    }
}

impl DeniedLog {
    fn lock(&self) -> MutexGuard<'_, Log> {
        // Nothing panics while it holds the lock; were it so, the log would still be whole.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a refusal.
    pub fn record(&self, kind: DeniedKind, what: &str, client: Option<IpAddr>, reason: &str) {
        self.note(kind, what, client, reason, (false, None));
    }

    /// Notes what would have been refused, were it not for the audit.
    pub fn record_audit(&self, kind: DeniedKind, what: &str, client: Option<IpAddr>, reason: &str) {
        self.note(kind, what, client, reason, (true, None));
    }

    /// Notes a packet that was refused, or in audit would have been; `by`: who on this host sent it.
    pub fn record_packet(&self, what: &str, client: IpAddr, reason: &str, audit: bool, by: Option<Sender>) {
        self.note(DeniedKind::Packet, what, Some(client), reason, (audit, by));
    }

    fn note(
        &self,
        kind: DeniedKind,
        what: &str,
        client: Option<IpAddr>,
        reason: &str,
        (audit, by): (bool, Option<Sender>),
    ) {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let client = client.map(|client| client.to_string());
        let mut log = self.lock();
        log.number = log.number.saturating_add(1);
        let number = log.number;
        let same = log.entries.iter().rev().take(LOOK_BACK).position(|entry| {
            entry.kind == kind.as_str()
                && entry.what == what
                && entry.client == client
                && entry.reason == reason
                && entry.audit == audit
                && match (&entry.by, &by) {
                    (Some(one), Some(other)) => one.is_like(other),
                    (one, other) => one == other,
                }
        });
        let known = same.and_then(|back| {
            let at = log.entries.len().checked_sub(back.saturating_add(1))?;
            log.entries.remove(at)
        });
        let entry = match known {
            Some(entry) => Denied { number, time, count: entry.count.saturating_add(1), by, ..entry },
            None => Denied {
                number,
                time,
                kind: kind.as_str().to_owned(),
                what: what.to_owned(),
                client,
                reason: reason.to_owned(),
                count: 1,
                audit,
                by,
            },
        };
        log.entries.push_back(entry);
        if log.entries.len() > KEPT
            && let Some(old) = log.entries.pop_front()
        {
            log.forgotten = old.number;
            log.forgotten_count = log.forgotten_count.saturating_add(1);
        }
        drop(log);
        self.changed.send_replace(number);
    }

    /// Counts a packet that was refused.
    pub fn refused(&self, client: IpAddr, destination: IpAddr) {
        let mut packets = self.packets.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (destination, client);
        let before = packets.get(&key).map_or(0, |(count, _)| *count);
        packets.put(key, prefix(client), (before.saturating_add(1), Instant::now()));
    }

    /// Packets to this destination that were refused, as far as the ruleset told of them; `None`: none.
    #[must_use]
    pub fn packets_to(&self, destination: IpAddr) -> Option<RefusedPackets> {
        let packets = self.packets.lock().unwrap_or_else(PoisonError::into_inner);
        let (first, last) = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::from_bits(u128::MAX)));
        let mut clients: Vec<RefusedClient> = packets
            .range((destination, first)..=(destination, last))
            .map(|((_, client), (packets, at))| RefusedClient {
                client: *client,
                packets: *packets,
                last_seconds_ago: at.elapsed().as_secs(),
            })
            .collect();
        drop(packets);
        let packets = clients.iter().fold(0, |sum: u64, client| sum.saturating_add(client.packets));
        clients.sort_by_key(|client| client.last_seconds_ago);
        clients.truncate(CLIENTS);
        (packets > 0).then_some(RefusedPackets { packets, clients })
    }

    /// Destinations whose packets were refused most; of each client those where one came in this span.
    #[must_use]
    pub fn top_addresses(&self, span: Duration, most: usize) -> Vec<TopAddress> {
        let packets = self.packets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut counts: BTreeMap<IpAddr, u64> = BTreeMap::new();
        let (first, last) = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::from_bits(u128::MAX)));
        let all = packets.range((first, first)..=(last, last));
        for ((destination, _), (packets, _)) in all.filter(|(_, (_, at))| at.elapsed() <= span) {
            let count = counts.entry(*destination).or_default();
            *count = count.saturating_add(*packets);
        }
        drop(packets);
        let mut all: Vec<TopAddress> =
            counts.into_iter().map(|(address, packets)| TopAddress { address, packets }).collect();
        all.sort_by_key(|one| std::cmp::Reverse(one.packets));
        all.truncate(most);
        all
    }

    /// What changed behind the number `after`, oldest first; 0 = everything kept.
    #[must_use]
    pub fn since(&self, after: u64) -> DeniedPage {
        let log = self.lock();
        let denied = log.entries.iter().filter(|entry| entry.number > after).cloned().collect();
        let lost = if log.forgotten > after { log.forgotten_count } else { 0 };
        DeniedPage { denied, next: log.number, lost, hidden: Vec::new() }
    }

    /// Returns once something changed behind `after`.
    pub async fn wait(&self, after: u64) {
        let mut changed = self.changed.subscribe();
        // The sender lives as long as `self`.
        drop(changed.wait_for(|number| *number > after).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_again_is_counted_and_moves_to_the_end() {
        let log = DeniedLog::default();
        log.record(DeniedKind::Name, "a.test", None, "policy");
        log.record(DeniedKind::Name, "b.test", None, "policy");
        log.record(DeniedKind::Name, "a.test", None, "policy");
        let page = log.since(0);
        let seen: Vec<_> = page.denied.iter().map(|entry| (entry.what.as_str(), entry.count)).collect();
        assert_eq!(seen, [("b.test", 1), ("a.test", 2)]);
        assert_eq!(page.next, 3);
        assert_eq!(log.since(2).denied.len(), 1);
        assert!(log.since(3).denied.is_empty());
    }

    #[test]
    fn what_would_be_refused_is_an_entry_of_its_own() {
        let log = DeniedLog::default();
        log.record(DeniedKind::Name, "a.test", None, "policy");
        log.record_audit(DeniedKind::Name, "a.test", None, "policy");
        let page = log.since(0);
        assert_eq!(
            page.denied.iter().map(|entry| (entry.audit, entry.count)).collect::<Vec<_>>(),
            [(false, 1), (true, 1)]
        );
    }

    #[test]
    fn it_is_bounded_and_says_what_it_lost() {
        let log = DeniedLog::default();
        for index in 0..KEPT + 10 {
            log.record(DeniedKind::Packet, &index.to_string(), None, "nftables");
        }
        let page = log.since(0);
        assert_eq!((page.denied.len(), page.lost), (KEPT, 10));
        assert_eq!(log.since(page.next).lost, 0);
    }

    #[test]
    fn refused_packets_are_counted_by_destination_and_a_flood_of_one_client_hides_no_other() {
        let log = DeniedLog::default();
        let (quiet, noisy) = (IpAddr::from([10, 0, 0, 13]), IpAddr::from([10, 0, 0, 66]));
        let address = IpAddr::from([203, 0, 113, 9]);
        assert_eq!(log.packets_to(address), None);
        (0..12).for_each(|_| log.refused(quiet, address));
        for n in 0..2 * PAIRS as u32 {
            log.refused(noisy, IpAddr::from(n.to_be_bytes()));
        }
        log.refused(noisy, address);
        let seen = log.packets_to(address).unwrap();
        assert_eq!(seen.packets, 13);
        let of = |client| seen.clients.iter().find(|seen| seen.client == client).map(|seen| seen.packets);
        assert_eq!((of(quiet), of(noisy)), (Some(12), Some(1)));
        let top = log.top_addresses(Duration::from_secs(3600), 3);
        assert_eq!((top.len(), top[0].address, top[0].packets), (3, address, 13));
        assert!(log.packets.lock().unwrap().len() <= PAIRS);
    }

    #[tokio::test]
    async fn waiting_ends_with_the_next_entry() {
        let log = DeniedLog::default();
        log.record(DeniedKind::Name, "a.test", None, "policy");
        log.wait(0).await;
        let other = log.clone();
        let waiting = tokio::spawn(async move { other.wait(1).await });
        log.record(DeniedKind::Name, "b.test", None, "policy");
        waiting.await.unwrap();
    }
}
