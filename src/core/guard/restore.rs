//! Leases that survived a restart.

use std::sync::Arc;
use std::time::Duration;

use super::Guard;
use super::admit::SHORTEST;
use super::exchange::holder_of;
use crate::core::event::{EnforcerKind, QueryPath, StoredLease};
use crate::core::exchange::guard_of;
use crate::core::lease::{ByFamily, Cause, Clients};
use crate::core::name::Name;
use crate::core::pairs::Pairs;
use crate::core::plan::Planned;
use crate::core::policy::registrable;
use crate::core::share::Holder;

impl Guard {
    /// What was restored ends earlier by so much, at once where that is over; what was answered since keeps its end. A
    /// route that lingers already is left alone: it is over within the linger.
    pub(super) fn end_restored_earlier(&mut self, by: Duration) {
        let addresses: Vec<_> = self.table.iter().map(|(address, _)| address).collect();
        for address in addresses {
            if self.table.end_restored_earlier(address, by, self.now) {
                self.follow_earlier_end(address);
            }
        }
        if let Some(pairs) = &mut self.pairs {
            pairs.end_restored_earlier(by, self.now);
        }
    }

    /// Whether every required timed enforcer has acknowledged every lease.
    #[must_use]
    pub fn is_all_acked(&self) -> bool {
        self.enforcers.acked_by_all_timed().is_some()
            && self.table.is_all_acked()
            && self.pairs.as_ref().is_none_or(Pairs::is_all_acked)
    }

    /// How many records a journal of all that is alive has.
    #[must_use]
    pub fn stored_count(&self) -> usize {
        self.table.len() + self.pairs.as_ref().map_or(0, Pairs::len)
    }

    /// Leases from disk, those that end last first as far as there is room: a smaller capacity than before must not be
    /// exceeded either. What has no room is closed on disk as well, and counted. A lease that ended less than the
    /// linger ago comes back as a lingering route: a restart must not cut flows that would go on without it.
    pub(super) fn restore(&mut self, mut leases: Vec<StoredLease>) {
        leases.sort_by_key(|lease| std::cmp::Reverse((lease.ends, lease.address)));
        let longest = self.now.plus(self.settings.lease.max.0.max(SHORTEST));
        for StoredLease { address, ends: stored, mut paths, groups, .. } in leases {
            let ends = stored.min(longest);
            // What is shorter now than on disk is written again.
            let shorter = ends < stored || paths.iter().any(|path| path.ends > ends);
            let lingers = ends.plus(self.settings.linger);
            let alive = ends > self.now;
            if !alive && (lingers <= self.now || !self.enforcers.has(EnforcerKind::Route)) {
                continue;
            }
            let lease = self.table.get(address);
            if !alive && lease.is_some() {
                continue;
            }
            let (mut new, mut opened) = (ByFamily::default(), ByFamily::default());
            *new.of(address) += usize::from(lease.is_none());
            *opened.of(address) += usize::from(alive && lease.is_none_or(|lease| !lease.is_active()));
            let fits = self.enforcers.cannot_hold(address).is_none() && self.room(new, opened).is_ok();
            if !fits {
                self.counts.restore_dropped += 1;
                self.marks.journal(address);
                continue;
            }
            // A record without names can only come from elsewhere; the root stands for "unknown".
            if paths.is_empty() {
                paths.push(QueryPath { question: Name::root(), chain: Arc::default(), ends });
            }
            let first = paths.first();
            let domain = first.map_or(Holder::NOBODY, |path| Holder::of(registrable(&path.question).wire()));
            let guard = first.and_then(|path| guard_of(&path.question)).map(holder_of);
            let is_new = lease.is_none();
            for QueryPath { question, chain, ends: told } in paths {
                let told = told.min(ends);
                let cause = Cause {
                    question,
                    qtype: None,
                    chain,
                    group: None,
                    mark: None,
                    clients: Clients::new(),
                    ends: told,
                    tag: 0,
                };
                if alive {
                    self.grant(address, ends, cause);
                } else if self.table.get(address).is_some() {
                    self.table.add_cause(address, cause, ends.minus(Duration::from_millis(1)));
                } else {
                    self.table.open(address, ends, cause, Planned::default(), ends);
                }
            }
            if is_new {
                // Who asked is not on disk.
                self.table.hold(address, guard.map_or([Holder::NOBODY, domain], |guard| [guard, Holder::NOBODY]));
            }
            // Where it was read from.
            if shorter {
                self.marks.journal(address);
            } else {
                self.marks.is_on_disk(address);
            }
            if !alive {
                self.table.linger(address, lingers);
                self.marks.change(address);
            }
            if !self.enforcers.has(EnforcerKind::Route) {
                continue;
            }
            for (name, group_ends) in groups {
                let group_ends = group_ends.min(ends);
                if let Some(group) = self.groups.by_name(&name)
                    && group_ends.plus(self.settings.linger) > self.now
                {
                    self.table.share(address, group, group_ends, self.settings.linger);
                    self.marks.change(address);
                }
            }
        }
    }
}
