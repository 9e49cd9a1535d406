//! What of a file is alive now, on the clocks of this run.
//!
//! Ends are kept on two clocks. Within one boot the boot clock counts, which no clock step touches. After a reboot the wall clock counts, as far as it can
//! be believed: where the file has anything from a later time than now, the clock was set back by nobody knows how much, and all that
//! was leased has ended. A lease never lasts longer than it did when it was written.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use super::frame::{Entry, Stored};
use super::record::{PathRecord, Record, Whom};
use crate::core::applications as core_applications;
use crate::core::event::StoredPair;
use crate::core::event::{QueryPath, StoredLease};
use crate::core::moment::Moment;
use crate::core::name::Name;
use crate::core::narrow::{Narrow, PairId, Port, Who};
use crate::sys::clock::Outside;

/// The leases of `stored` that are alive, or whose routes still linger.
pub fn restore(
    stored: &Stored,
    outside: &Outside,
    now: Moment,
    max: Duration,
    linger: Duration,
) -> HashMap<IpAddr, StoredLease> {
    let past = Past::new(stored, outside, now, max);
    // Each with the number of revoked names before its last record.
    let mut live: HashMap<IpAddr, (StoredLease, usize)> = HashMap::new();
    let mut revoked: HashMap<&Name, usize> = HashMap::new();
    let mut revocations = 0;
    for entry in &stored.entries {
        match entry {
            Entry::Gap => live.clear(),
            Entry::Record(Record::Closed { address }) => {
                live.remove(address);
            }
            Entry::Record(Record::Revoked { name }) => {
                revocations += 1;
                revoked.insert(name, revocations);
            }
            Entry::Record(Record::Lease { address, written, ends_boot, ends_wall, paths, adds, groups }) => {
                let end = |ends_boot: u64, ends_wall: u64| past.end(*written, ends_boot, ends_wall);
                let groups =
                    groups.iter().map(|group| (group.name.clone(), end(group.ends_boot, group.ends_wall))).collect();
                let ends = end(*ends_boot, *ends_wall);
                let path = |path: &PathRecord| QueryPath {
                    question: path.question.clone(),
                    chain: path.chain.clone(),
                    ends: ends.minus(Duration::from_millis(u64::from(path.before_end))),
                };
                let paths = paths.iter().map(path).collect();
                let lease = StoredLease { address: *address, ends, paths, adds: *adds, groups };
                let before = live.remove(address).map(|(before, since)| without(before, &revoked, since));
                live.insert(*address, (lease.joined_to(before), revocations));
            }
            Entry::Record(Record::Pair { .. } | Record::PairClosed { .. } | Record::Time { .. }) => {}
        }
    }
    let left = live.into_iter().filter_map(|(address, (lease, since))| {
        let asked = !lease.paths.is_empty();
        let lease = without(lease, &revoked, since);
        let alive = lease.ends.plus(linger) > now && (!asked || !lease.paths.is_empty());
        alive.then_some((address, lease))
    });
    left.collect()
}

/// Without the questions that bear a name that was revoked after this many others.
fn without(mut lease: StoredLease, revoked: &HashMap<&Name, usize>, since: usize) -> StoredLease {
    if !revoked.is_empty() {
        let is_revoked = |name: &Name| revoked.get(name).is_some_and(|number| *number > since);
        lease.paths.retain(|path| !path.names().any(is_revoked));
    }
    lease
}

/// Likewise the pairs. Those of an application that is not among these are gone with it.
pub fn restore_pairs(
    stored: &Stored,
    outside: &Outside,
    now: Moment,
    max: Duration,
    applications: &[String],
) -> HashMap<PairId, StoredPair> {
    let narrow = |whom: &Whom, to: Port| {
        let who = match whom {
            Whom::Anyone => Who::Anyone,
            Whom::Client(client) => Who::Client(*client),
            Whom::Application(name) => {
                Who::Application(core_applications::number_of(applications.iter().find(|other| *other == name)?)?)
            }
        };
        Some(Narrow { who, to })
    };
    let past = Past::new(stored, outside, now, max);
    let mut live = HashMap::new();
    for entry in &stored.entries {
        match entry {
            Entry::Gap => live.clear(),
            Entry::Record(Record::PairClosed { address, whom, to }) => {
                if let Some(narrow) = narrow(whom, *to) {
                    live.remove(&(*address, narrow));
                }
            }
            Entry::Record(Record::Pair { address, whom, to, written, ends_boot, ends_wall, paths }) => {
                let Some(narrow) = narrow(whom, *to) else { continue };
                let ends = past.end(*written, *ends_boot, *ends_wall);
                let names =
                    paths.iter().map(|path| std::iter::once(&path.question).chain(&*path.chain).cloned().collect());
                let told = |path: &PathRecord| ends.minus(Duration::from_millis(path.before_end.into()));
                let told = paths.iter().map(told).collect();
                let pair = StoredPair { address: *address, narrow, ends, names: names.collect(), told };
                live.insert((*address, narrow), pair);
            }
            Entry::Record(
                Record::Lease { .. } | Record::Closed { .. } | Record::Revoked { .. } | Record::Time { .. },
            ) => {}
        }
    }
    live.retain(|_, pair: &mut StoredPair| pair.ends > now);
    live
}

/// Whether the ends of what was restored are told by the wall clock alone: if that is behind, they come too late.
#[must_use]
pub fn is_by_wall(stored: &Stored, outside: &Outside, now: Moment) -> bool {
    Past::new(stored, outside, now, Duration::ZERO).by == By::Wall
}

/// By which clock ends are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Boot,
    Wall,
    /// None can be believed.
    Nothing,
}

/// What is needed to bring ends of an earlier run to the clock of this one.
struct Past<'a> {
    by: By,
    outside: &'a Outside,
    now: Moment,
    longest: i128,
}

impl<'a> Past<'a> {
    fn new(stored: &Stored, outside: &'a Outside, now: Moment, max: Duration) -> Self {
        let longest = i128::try_from(max.as_millis()).unwrap_or(i128::MAX);
        let (mut last_wall, mut last_boot) = (0, 0);
        for entry in &stored.entries {
            let (written, ends) = match entry {
                Entry::Record(
                    Record::Lease { written, ends_boot, ends_wall, .. }
                    | Record::Pair { written, ends_boot, ends_wall, .. },
                ) => (*written, Some((*ends_boot, *ends_wall))),
                Entry::Record(Record::Time { written }) => (*written, None),
                _ => continue,
            };
            last_wall = last_wall.max(written);
            if let Some((ends_boot, ends_wall)) = ends {
                // Both ends were as far away when they were written.
                last_boot = last_boot.max(i128::from(ends_boot) - i128::from(ends_wall) + i128::from(written));
            }
        }
        let same_boot = stored.boot_id == outside.boot_id;
        let by = if same_boot && last_boot <= i128::from(outside.since_boot) {
            By::Boot
        } else if last_wall <= outside.wall {
            // Another boot; or a container whose boot clock starts again, though the boot is its host's.
            By::Wall
        } else {
            By::Nothing
        };
        if by == By::Nothing && !stored.entries.is_empty() {
            tracing::warn!(
                "the clock was set back while the guard was down: what was leased has ended, for nobody knows when"
            );
        }
        Self { by, outside, now, longest }
    }

    fn end(&self, written: u64, ends_boot: u64, ends_wall: u64) -> Moment {
        let (ends, clock) = match self.by {
            By::Boot => (ends_boot, self.outside.since_boot),
            By::Wall => (ends_wall, self.outside.wall),
            By::Nothing => return Moment::ZERO,
        };
        // How long it has left; negative when it has ended.
        let left = i128::from(ends) - i128::from(clock);
        // It may not have more left than when it was written.
        let at_writing = i128::from(ends_wall) - i128::from(written);
        let left = left.min(at_writing).min(self.longest);
        Moment(u64::try_from(i128::from(self.now.0).saturating_add(left)).unwrap_or(0))
    }
}
