//! The disk: a file of frames and records as the journal writes and reads them, under its rules for clocks.
//!
//! Real are the octets, what is stamped on a record, and what of a file is alive. Simulated is the disk beneath.

use std::time::Duration;

use destguard::core::event::{StoredLease, StoredPair};
use destguard::core::journal::{Alive, JournalRecord};
use destguard::core::moment::Moment;
use destguard::store::frame::{self, Head};
use destguard::store::journal::Clocks;
use destguard::store::past;
use destguard::store::record::Record;
use destguard::sys::clock::Outside;

use super::plan::{Defect, Millis};

/// How much later a record is really written that was acknowledged before, where that is the defect.
const LATE: Millis = 20_000;
/// The file is written anew when it has so many octets more than four times what it began with.
const SLACK: usize = 4_096;
/// What was written longer ago is on the disk: the kernel flushes by itself.
pub const UNFLUSHED: Millis = 60_000;
/// The longest that it says nothing of the time.
const QUIET: Millis = 60_000;
/// A step of the wall clock that is worth writing all ends anew.
const STEP: u64 = 2_000;

/// All clocks of a daemon, read at once.
#[derive(Clone, Debug)]
pub struct Now {
    /// The clock inside, which the guard runs on.
    pub moment: Moment,
    /// The clocks outside, of this boot and of the wall.
    pub outside: Outside,
    /// Of the world.
    pub now: Millis,
}

/// See the module.
#[derive(Debug)]
pub struct Journal {
    octets: Vec<u8>,
    /// So many of them are on the disk whatever happens to the power.
    flushed: usize,
    /// So many it had then.
    had: (Millis, usize),
    /// A record that is to be flushed was written.
    unflushed: bool,
    /// Octets after the last compaction.
    compacted: usize,
    next: u32,
    epoch: u64,
    /// The wall clock less the boot clock when it was written anew.
    apart: u64,
    /// When it last said what time it is.
    written_at: Millis,
    /// Nothing is written.
    pub fails: bool,
    /// Something was not written: all that is alive is to be written.
    behind: bool,
    defect: Defect,
    /// Acknowledged and not written.
    pending: Vec<(Millis, JournalRecord)>,
}

/// What a new run has of the file.
pub struct Restored {
    /// Leases that are alive, or whose routes linger.
    pub leases: Vec<StoredLease>,
    /// What is less than all of an address.
    pub pairs: Vec<StoredPair>,
    /// The wall clock less the boot clock, where by the former alone it is known when they end.
    pub by_wall: Option<u64>,
}

impl Alive for Restored {
    fn count(&self) -> usize {
        self.leases.len() + self.pairs.len()
    }

    fn each(&self, give: &mut dyn FnMut(JournalRecord)) {
        self.leases.iter().for_each(|lease| give(JournalRecord::Lease(lease.clone())));
        let open = |pair: &StoredPair| destguard::core::event::PairRecord::Open(pair.clone());
        self.pairs.iter().for_each(|pair| give(JournalRecord::Pair(open(pair))));
    }
}

impl Journal {
    /// An empty one.
    pub fn new(defect: Defect) -> Self {
        Self {
            octets: Vec::new(),
            flushed: 0,
            had: (0, 0),
            unflushed: false,
            compacted: 0,
            next: 0,
            epoch: 0,
            apart: 0,
            written_at: 0,
            fails: false,
            behind: false,
            defect,
            pending: Vec::new(),
        }
    }

    /// All that is alive, as a new file that is on the disk.
    fn compact(&mut self, alive: &dyn Alive, clocks: &Now) {
        let stamps = Clocks { clock: clocks.moment, outside: &clocks.outside };
        let settled = u32::try_from(alive.count()).unwrap();
        let first = self.next;
        let mut frames = Vec::new();
        alive.each(&mut |entry| {
            frame::put(0, &mut self.next, &stamps.stamped(entry, clocks.moment), &mut frames);
        });
        self.epoch += 1;
        let boot_id = clocks.outside.boot_id.clone();
        self.octets.clear();
        frame::put_heads(&Head { boot_id, secret: 0, epoch: self.epoch, first, settled }, &mut self.octets);
        self.octets.append(&mut frames);
        (self.compacted, self.flushed, self.unflushed) = (self.octets.len(), self.octets.len(), false);
        self.had = (clocks.now, self.octets.len());
        self.apart = clocks.outside.apart();
        self.written_at = clocks.now;
        self.behind = false;
    }

    fn append(&mut self, entry: JournalRecord, clocks: &Now) {
        let stamps = Clocks { clock: clocks.moment, outside: &clocks.outside };
        let record = stamps.stamped(entry, clocks.moment);
        self.unflushed |= frame::copies(&record) > 1;
        frame::put(0, &mut self.next, &record, &mut self.octets);
        self.written_at = clocks.now;
    }

    /// Writes records. `alive`: all that is to be on disk.
    ///
    /// # Errors
    /// The disk takes nothing.
    pub fn write(&mut self, records: Vec<JournalRecord>, alive: &dyn Alive, clocks: &Now) -> Result<(), ()> {
        if self.fails {
            self.behind = true;
            return Err(());
        }
        if self.behind {
            self.compact(alive, clocks);
            return Ok(());
        }
        for record in records {
            if self.defect == Defect::RecordLost {
                self.pending.push((clocks.now + LATE, record));
            } else {
                self.append(record, clocks);
            }
        }
        let due = self.pending.partition_point(|(at, _)| *at <= clocks.now);
        let due: Vec<_> = self.pending.drain(..due).collect();
        due.into_iter().for_each(|(_, record)| self.append(record, clocks));
        if self.octets.len() > 4 * self.compacted + SLACK {
            self.compact(alive, clocks);
        }
        Ok(())
    }

    /// Only the first few records reach the disk, and a part of the next: the process was killed.
    pub fn write_some(&mut self, records: Vec<JournalRecord>, count: usize, clocks: &Now) {
        if self.behind || self.fails || self.defect == Defect::RecordLost {
            return;
        }
        for (place, record) in records.into_iter().enumerate().take(count + 1) {
            let before = self.octets.len();
            self.append(record, clocks);
            if place == count {
                let torn = before + (self.octets.len() - before) / 3;
                self.octets.truncate(torn);
            }
        }
    }

    /// What is done about twice a second: flushes what must not come undone, and follows the clock.
    pub fn check(&mut self, alive: &dyn Alive, clocks: &Now) {
        if self.fails || self.behind {
            return;
        }
        if std::mem::take(&mut self.unflushed) {
            self.flushed = self.octets.len();
        }
        if clocks.now >= self.had.0 + UNFLUSHED / 2 {
            self.flushed = self.flushed.max(self.had.1);
            self.had = (clocks.now, self.octets.len());
        }
        if clocks.outside.apart().abs_diff(self.apart) > STEP {
            self.compact(alive, clocks);
        } else if clocks.now >= self.written_at + QUIET {
            let time = Record::Time { written: clocks.outside.wall };
            frame::put(0, &mut self.next, &time, &mut self.octets);
            self.written_at = clocks.now;
        }
    }

    /// The power fails: of what is not flushed, this part of a hundred is on the disk.
    pub fn power_fails(&mut self, percent: usize) {
        let kept = self.flushed + (self.octets.len() - self.flushed) * percent / 100;
        self.octets.truncate(kept);
    }

    /// What a new run reads back, and writes anew.
    pub fn read(&mut self, clocks: &Now, max: Millis, linger: Millis) -> Restored {
        self.pending.clear();
        // At first there is no file.
        let stored = if self.octets.is_empty() { frame::Stored::default() } else { frame::read(&self.octets) };
        assert_eq!(stored.damage, None);
        let mut outside = clocks.outside.clone();
        if self.defect == Defect::WallAlone {
            outside.boot_id = "another".to_owned();
        }
        let now = clocks.moment;
        let (max, linger) = (Duration::from_millis(max), Duration::from_millis(linger));
        let mut leases: Vec<_> = past::restore(&stored, &outside, now, max, linger).into_values().collect();
        leases.sort_by_key(|lease| lease.address);
        let mut pairs: Vec<_> = past::restore_pairs(&stored, &outside, now, max, &[]).into_values().collect();
        pairs.sort_by_key(|pair| (pair.address, pair.narrow));
        let by_wall = past::is_by_wall(&stored, &outside, now).then(|| outside.apart());
        let restored = Restored { leases, pairs, by_wall };
        self.behind = self.fails;
        if !self.fails {
            self.compact(&restored, clocks);
        }
        restored
    }

    /// Its length, and what it may be at most.
    pub fn length(&self) -> (usize, usize) {
        (self.octets.len(), 4 * self.compacted + 2 * SLACK)
    }

    /// What the wall clock was ahead of the boot clock when it was written anew.
    pub fn apart(&self) -> u64 {
        self.apart
    }
}
