//! The disk: records as they were written, with ends on the clock that outlives the process.

use std::collections::BTreeMap;
use std::net::IpAddr;

use destguard::core::event::StoredLease;
use destguard::core::journal::JournalRecord;
use destguard::core::moment::Moment;
use destguard::core::name::Name;

use super::plan::Millis;

/// How much later a record is really written that was acknowledged before, where that is the defect.
const LATE: Millis = 20_000;

/// See the module. Ends are milliseconds since the boot.
#[derive(Debug, Default)]
pub struct Journal {
    leases: BTreeMap<IpAddr, StoredLease>,
    /// Nothing is written.
    pub fails: bool,
    /// Something was not written: all that is alive is to be written.
    behind: bool,
    /// Whether records are written late.
    late: bool,
    /// Acknowledged and not written.
    pending: Vec<(Millis, JournalRecord)>,
}

/// The lease with all times moved from one clock to another.
fn moved(mut lease: StoredLease, by: impl Fn(Moment) -> Moment) -> StoredLease {
    lease.ends = by(lease.ends);
    lease.paths.iter_mut().for_each(|path| path.ends = by(path.ends));
    lease.groups.iter_mut().for_each(|(_, ends)| *ends = by(*ends));
    lease
}

impl Journal {
    /// An empty one.
    pub fn new(late: bool) -> Self {
        Self { late, ..Self::default() }
    }

    /// Writes records. `begun`: since the boot, at the moment zero of the run's clock. `alive`: all that is to be on
    /// disk.
    ///
    /// # Errors
    /// The disk takes nothing.
    pub fn write(
        &mut self,
        records: Vec<JournalRecord>,
        alive: impl Iterator<Item = StoredLease>,
        begun: i64,
        now: Millis,
    ) -> Result<(), ()> {
        let to_boot = |moment: Moment| Moment(moment.0.saturating_add_signed(begun));
        if self.fails {
            self.behind = true;
            return Err(());
        }
        if std::mem::take(&mut self.behind) {
            self.leases = alive.map(|lease| (lease.address, moved(lease, to_boot))).collect();
            return Ok(());
        }
        for record in records {
            let record = match record {
                JournalRecord::Lease(lease) => JournalRecord::Lease(moved(lease, to_boot)),
                other => other,
            };
            if self.late { self.pending.push((now + LATE, record)) } else { self.put(record) }
        }
        let due = self.pending.partition_point(|(at, _)| *at <= now);
        let due: Vec<_> = self.pending.drain(..due).collect();
        due.into_iter().for_each(|(_, record)| self.put(record));
        Ok(())
    }

    /// Only the first few records reach the disk: the process was killed.
    pub fn write_some(&mut self, records: Vec<JournalRecord>, count: usize, begun: i64, now: Millis) {
        if !self.behind {
            let some = records.into_iter().take(count).collect();
            self.write(some, std::iter::empty(), begun, now).unwrap_or_default();
        }
    }

    fn put(&mut self, record: JournalRecord) {
        match record {
            JournalRecord::Lease(lease) => {
                let before = self.leases.remove(&lease.address);
                let joined = lease.joined_to(before);
                self.leases.insert(joined.address, joined);
            }
            JournalRecord::Closed(address) => drop(self.leases.remove(&address)),
            JournalRecord::Revoked(name) => self.revoked(&name),
            JournalRecord::Pair(record) => panic!("leases are for everybody: {record:?}"),
        }
    }

    fn revoked(&mut self, name: &Name) {
        for lease in self.leases.values_mut() {
            lease.paths.retain(|path| !path.names().any(|other| other == name));
        }
        self.leases.retain(|_, lease| !lease.paths.is_empty());
    }

    /// What a new run reads back. `begun`: as above, of that run.
    pub fn read(&mut self, begun: i64, now: Millis, linger: Millis) -> Vec<StoredLease> {
        self.pending.clear();
        self.behind = false;
        self.leases.retain(|_, lease| lease.ends.0 + linger > now);
        let from_boot = |moment: Moment| Moment(moment.0.saturating_add_signed(-begun));
        self.leases.values().map(|lease| moved(lease.clone(), from_boot)).collect()
    }

    /// How many leases it holds.
    pub fn len(&self) -> usize {
        self.leases.len()
    }
}
