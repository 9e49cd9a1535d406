//! The file of leases.
//!
//! Records are appended before the answers that caused them leave. A write reaches the kernel before it returns, so
//! that a crash of the process can't undo it; what a power failure can take are leases of the last seconds, and it
//! takes the kernel's sets with them. The file is compacted by writing a new one beside it, flushing it and renaming it
//! over.
//!
//! Ends are kept on two clocks. Within one boot the boot clock counts, which no clock step touches. After a reboot the
//! wall clock counts; a lease then never lasts longer than it did when it was written.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use super::record::{self, GroupRecord, Record};
use crate::core::event::StoredLease;
use crate::core::moment::Moment;
use crate::core::pairs::{PairId, PairRecord, StoredPair};
use crate::core_task::{Alive, Journal, JournalRecord};
use crate::sys::clock::{Clock, Outside};

const FILE: &str = "leases.journal";
const TEMPORARY: &str = "leases.journal.new";
const LOCK: &str = "lock";
const MAGIC: &[u8; 8] = b"DGLEASE3";
/// Files of versions that knew no pairs of client and address, and no groups either: the same without records of them.
const OLD_MAGICS: [&[u8; 8]; 2] = [b"DGLEASE2", b"DGLEASE1"];
/// Who asked for what is nobody else's business.
const OWNER_ONLY: u32 = 0o600;
/// A boot id is a UUID in text form.
const BOOT_ID: usize = 36;
/// The journal is compacted when it holds this many octets more than four times what is alive.
const SLACK: u64 = 1 << 20;
/// Octets read back at most; a journal is compacted long before.
const LARGEST: u64 = 4 << 30;

/// The open journal. Holds the lock on its directory.
#[derive(Debug)]
pub struct LeaseJournal {
    directory: PathBuf,
    file: File,
    /// Where the next record goes; what lies behind is the rest of a write that failed.
    length: u64,
    /// Octets in the file after the last compaction.
    compacted: u64,
    /// Pairs of client and address that were read back, until they are asked for.
    pairs: Vec<StoredPair>,
    clock: Clock,
    outside: Outside,
    /// Monotonic time at which `outside` was read.
    read_at: Moment,
    buffer: Vec<u8>,
    /// A compacted file on its way to the disk.
    flushing: Option<Flushing>,
    /// Set by a write that failed: the file lacks something. Nothing counts as written until all that is alive is.
    behind: Option<Behind>,
    _lock: File,
}

/// A compacted file that a thread flushes and puts in place of the old one: on a busy disk that takes longer than an answer may wait. Until
/// it is known to be there, each record goes into both, so that either will do.
#[derive(Debug)]
struct Flushing {
    file: File,
    length: u64,
    compacted: u64,
    done: JoinHandle<io::Result<()>>,
}

/// The file can't be written at the moment.
#[derive(Debug)]
struct Behind {
    error: String,
    kind: io::ErrorKind,
    /// When it is tried again: each time all that is alive is written.
    retry: Moment,
}

/// Between two tries to write a journal that failed.
const RETRY: Duration = Duration::from_secs(1);

/// Why the journal can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {what}: {source}", path = path.display())]
pub struct StoreError {
    path: PathBuf,
    what: &'static str,
    source: io::Error,
}

fn at(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError { path, what, source }
}

impl LeaseJournal {
    /// Opens the journal in `directory` (made if missing) and reads back what is alive: leases that have not ended, and
    /// ended ones whose routes still linger. None lasts longer than `max` from now. A torn tail is cut and reported in
    /// the log.
    ///
    /// # Errors
    /// The directory can't be used, or another daemon uses it.
    pub fn open(
        directory: &Path,
        clock: Clock,
        max: Duration,
        linger: Duration,
    ) -> Result<(Self, Vec<StoredLease>), StoreError> {
        std::fs::create_dir_all(directory).map_err(at(directory, "can't make the state directory"))?;
        let lock_path = directory.join(LOCK);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(at(&lock_path, "can't open the lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let held = io::Error::from(io::ErrorKind::WouldBlock);
                return Err(at(&lock_path, "another destguard uses this state directory")(held));
            }
            Err(TryLockError::Error(error)) => return Err(at(&lock_path, "can't lock")(error)),
        }
        let outside = Outside::read().map_err(at(Path::new("/proc"), "can't read the clocks"))?;
        let read_at = clock.now();
        let path = directory.join(FILE);
        let stored = read_back(&path)?;
        let live = restore(&stored, &outside, read_at, max, linger);
        let pairs = restore_pairs(&stored, &outside, read_at, max);
        let mut leases: Vec<StoredLease> = live.into_values().collect();
        leases.sort_by_key(|lease| lease.address);
        let pairs: Vec<StoredPair> = pairs.into_values().collect();
        // A new file at once: it is on this boot's clock and without a torn tail.
        let clocks = Clocks { clock: read_at, outside: &outside };
        let restored = Restored { leases: &leases, pairs: &pairs };
        let (file, length) = written(directory, &restored, &clocks)
            .and_then(|(file, length)| put_in_place(directory, &file).map(|()| (file, length)))
            .map_err(at(&path, "can't write the journal"))?;
        let journal = Self {
            directory: directory.to_owned(),
            file,
            length,
            compacted: length,
            pairs,
            clock,
            outside,
            read_at,
            buffer: Vec::new(),
            flushing: None,
            behind: None,
            _lock: lock,
        };
        Ok((journal, leases))
    }

    /// The pairs of client and address that were alive at [`LeaseJournal::open`]; once.
    #[must_use]
    pub fn take_pairs(&mut self) -> Vec<StoredPair> {
        std::mem::take(&mut self.pairs)
    }

    /// The wall clock may have been stepped since they were last read, and the boot clock counts the time in which the machine slept, which
    /// the monotonic one doesn't: records are to follow both.
    fn read_clocks(&mut self) -> io::Result<()> {
        self.outside.refresh()?;
        self.read_at = self.clock.now();
        Ok(())
    }

    /// Writes all that is alive to a new file, not yet in place of the old one.
    fn compacted(&mut self, alive: &dyn Alive) -> io::Result<(File, u64)> {
        self.read_clocks()?;
        written(&self.directory, alive, &Clocks { clock: self.read_at, outside: &self.outside })
    }

    /// Writes all that is alive to a new file and puts it in place of the old one.
    fn compact(&mut self, alive: &dyn Alive) -> io::Result<()> {
        self.finish_flushing();
        let (file, length) = self.compacted(alive)?;
        put_in_place(&self.directory, &file)?;
        (self.file, self.length, self.compacted) = (file, length, length);
        Ok(())
    }

    /// The same, but nobody waits for the disk.
    fn begin_compaction(&mut self, alive: &dyn Alive) -> io::Result<()> {
        let (file, length) = self.compacted(alive)?;
        let (directory, flushed) = (self.directory.clone(), file.try_clone()?);
        let done =
            std::thread::Builder::new().name("journal".to_owned()).spawn(move || put_in_place(&directory, &flushed))?;
        self.flushing = Some(Flushing { file, length, compacted: length, done });
        Ok(())
    }

    /// Waits for a compaction that was begun; from then on its file alone is written, or the old one where it failed.
    fn finish_flushing(&mut self) {
        let Some(flushing) = self.flushing.take() else { return };
        match flushing.done.join().unwrap_or_else(|_| Err(io::ErrorKind::Interrupted.into())) {
            Ok(()) => {
                (self.file, self.length, self.compacted) = (flushing.file, flushing.length, flushing.compacted);
            }
            Err(error) => {
                tracing::warn!(%error, octets = self.length, "the lease journal can't be compacted");
                // Tried again when it has grown as much again.
                self.compacted = self.length;
            }
        }
    }
}

impl Drop for LeaseJournal {
    fn drop(&mut self) {
        // While the lock is held: a file put in place later would take that of the next daemon away.
        self.finish_flushing();
    }
}

impl LeaseJournal {
    /// Appends the buffer behind the last whole record.
    fn append(&mut self) -> io::Result<()> {
        // A write that fails half-way leaves a part of a record: the next one starts at the last whole one.
        if let Err(error) = self.file.write_all_at(&self.buffer, self.length) {
            self.file.set_len(self.length)?;
            return Err(error);
        }
        self.length = self.length.saturating_add(self.buffer.len() as u64);
        if let Some(flushing) = &mut self.flushing {
            // It may be in place already: what fails here fails as a whole.
            if let Err(error) = flushing.file.write_all_at(&self.buffer, flushing.length) {
                flushing.file.set_len(flushing.length)?;
                return Err(error);
            }
            flushing.length = flushing.length.saturating_add(self.buffer.len() as u64);
        }
        Ok(())
    }

    /// After a failure: writes all that is alive anew, so that nothing that was to be written meanwhile is missing.
    fn catch_up(&mut self, alive: Option<&dyn Alive>, now: Moment) -> io::Result<()> {
        let Some(behind) = &mut self.behind else { return Ok(()) };
        if now < behind.retry {
            return Err(io::Error::new(behind.kind, behind.error.clone()));
        }
        let Some(alive) = alive else {
            behind.retry = now.plus(RETRY);
            return Err(io::Error::new(behind.kind, behind.error.clone()));
        };
        match self.compact(alive) {
            Ok(()) => {
                self.behind = None;
                tracing::info!("the lease journal is written again, nothing is missing in it");
                Ok(())
            }
            Err(error) => Err(self.fall_behind(error, now)),
        }
    }

    fn fall_behind(&mut self, error: io::Error, now: Moment) -> io::Error {
        self.behind = Some(Behind { error: error.to_string(), kind: error.kind(), retry: now.plus(RETRY) });
        error
    }
}

impl Journal for LeaseJournal {
    fn write(&mut self, records: Vec<JournalRecord>, alive: Option<&dyn Alive>, now: Moment) -> io::Result<()> {
        if self.behind.is_some() {
            // All that is alive has them too.
            return self.catch_up(alive, now);
        }
        self.buffer.clear();
        if !records.is_empty()
            && let Err(error) = self.read_clocks()
        {
            tracing::warn!(%error, "the clocks can't be read; the lease journal counts from when they could");
        }
        let clocks = Clocks { clock: self.read_at, outside: &self.outside };
        for entry in records {
            record::encode(&clocks.stamped(entry, now), &mut self.buffer);
        }
        if !self.buffer.is_empty()
            && let Err(error) = self.append()
        {
            return Err(self.fall_behind(error, now));
        }
        if self.flushing.as_ref().is_some_and(|flushing| flushing.done.is_finished()) {
            self.finish_flushing();
        }
        if let Some(alive) = alive
            && self.is_long()
        {
            // The records are in the file already: a compaction that fails loses nothing and is tried again later.
            if let Err(error) = self.begin_compaction(alive) {
                tracing::warn!(%error, octets = self.length, "the lease journal can't be compacted");
                self.compacted = self.length;
            }
        }
        Ok(())
    }

    fn retry(&self) -> Option<Moment> {
        self.behind.as_ref().map(|behind| behind.retry)
    }

    fn is_long(&self) -> bool {
        self.flushing.is_none() && self.length > self.compacted.saturating_mul(4).saturating_add(SLACK)
    }
}

/// The monotonic clock and those outside, read at the same time.
struct Clocks<'a> {
    clock: Moment,
    outside: &'a Outside,
}

impl Clocks<'_> {
    /// What `base`, a clock outside, shows at `moment`.
    fn shifted(&self, base: u64, moment: Moment) -> u64 {
        if moment >= self.clock {
            base.saturating_add(moment.0 - self.clock.0)
        } else {
            base.saturating_sub(self.clock.0 - moment.0)
        }
    }

    /// What is written of it at `now`.
    fn stamped(&self, entry: JournalRecord, now: Moment) -> Record {
        let written = self.shifted(self.outside.wall, now);
        let boot = |moment| self.shifted(self.outside.since_boot, moment);
        let wall = |moment| self.shifted(self.outside.wall, moment);
        match entry {
            JournalRecord::Lease(StoredLease { address, ends, names, groups }) => {
                let group = |(name, ends)| GroupRecord { name, ends_boot: boot(ends), ends_wall: wall(ends) };
                let groups = groups.into_iter().map(group).collect();
                Record::Lease { address, written, ends_boot: boot(ends), ends_wall: wall(ends), names, groups }
            }
            JournalRecord::Closed(address) => Record::Closed { address },
            JournalRecord::Pair(PairRecord::Open(StoredPair { client, address, ends, names })) => {
                Record::Pair { address, client, written, ends_boot: boot(ends), ends_wall: wall(ends), names }
            }
            JournalRecord::Pair(PairRecord::Closed((address, client))) => Record::PairClosed { address, client },
        }
    }
}

/// What was read back.
struct Restored<'a> {
    leases: &'a [StoredLease],
    pairs: &'a [StoredPair],
}

impl Alive for Restored<'_> {
    fn each(&self, give: &mut dyn FnMut(JournalRecord)) {
        self.leases.iter().for_each(|lease| give(JournalRecord::Lease(lease.clone())));
        self.pairs.iter().for_each(|pair| give(JournalRecord::Pair(PairRecord::Open(pair.clone()))));
    }
}

/// A new file that holds what is alive, beside the old one; and its length.
fn written(directory: &Path, alive: &dyn Alive, clocks: &Clocks<'_>) -> io::Result<(File, u64)> {
    let mut octets = MAGIC.to_vec();
    octets.extend(clocks.outside.boot_id.bytes().chain(std::iter::repeat(b' ')).take(BOOT_ID));
    alive.each(&mut |entry| record::encode(&clocks.stamped(entry, clocks.clock), &mut octets));
    let temporary = directory.join(TEMPORARY);
    let mut file =
        OpenOptions::new().create(true).truncate(true).read(true).write(true).mode(OWNER_ONLY).open(&temporary)?;
    // One that was left behind keeps the mode it had.
    file.set_permissions(Permissions::from_mode(OWNER_ONLY))?;
    file.write_all(&octets)?;
    Ok((file, octets.len() as u64))
}

/// Flushes what [`written`] made and puts it in place of the old one.
fn put_in_place(directory: &Path, file: &File) -> io::Result<()> {
    // Whatever may fail comes before the rename: behind it there is no way back.
    let parent = File::open(directory)?;
    file.sync_all()?;
    swap(directory, &parent)
}

/// Puts the new file in place of the old one. An error means that the old one is still there.
fn swap(directory: &Path, parent: &File) -> io::Result<()> {
    std::fs::rename(directory.join(TEMPORARY), directory.join(FILE))?;
    if let Err(error) = parent.sync_all() {
        // After a crash of the machine the old one may be there again; it ends with this moment.
        tracing::warn!(%error, path = %directory.display(), "the state directory can't be flushed");
    }
    Ok(())
}

/// What a file holds.
#[derive(Debug, Default)]
struct Stored {
    boot_id: String,
    records: Vec<Record>,
}

fn read_back(path: &Path) -> Result<Stored, StoreError> {
    let mut octets = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(LARGEST).read_to_end(&mut octets).map_err(at(path, "can't read the journal"))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Stored::default()),
        Err(error) => return Err(at(path, "can't open the journal")(error)),
    };
    let Some((magic, rest)) = octets.split_first_chunk::<8>() else {
        tracing::warn!(path = %path.display(), "the lease journal is cut before its head: no lease restored");
        return Ok(Stored::default());
    };
    if magic != MAGIC && !OLD_MAGICS.contains(&magic) {
        return Err(at(path, "not a lease journal; move it away")(io::ErrorKind::InvalidData.into()));
    }
    let Some((boot_id, mut rest)) = rest.split_at_checked(BOOT_ID) else { return Ok(Stored::default()) };
    let mut records = Vec::new();
    while !rest.is_empty() {
        let Some((record, length)) = record::decode(rest) else {
            tracing::warn!(path = %path.display(), octets = rest.len(), "the lease journal's torn tail is cut");
            break;
        };
        records.push(record);
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(Stored { boot_id: String::from_utf8_lossy(boot_id).trim().to_owned(), records })
}

/// The leases of `stored` that are alive, on the monotonic clock.
fn restore(
    stored: &Stored,
    outside: &Outside,
    now: Moment,
    max: Duration,
    linger: Duration,
) -> HashMap<IpAddr, StoredLease> {
    let past = Past::new(stored, outside, now, max);
    let mut live = HashMap::new();
    for record in &stored.records {
        match record {
            Record::Closed { address } => {
                live.remove(address);
            }
            Record::Lease { address, written, ends_boot, ends_wall, names, groups } => {
                let end = |ends_boot: u64, ends_wall: u64| past.end(*written, ends_boot, ends_wall);
                let groups =
                    groups.iter().map(|group| (group.name.clone(), end(group.ends_boot, group.ends_wall))).collect();
                let ends = end(*ends_boot, *ends_wall);
                live.insert(*address, StoredLease { address: *address, ends, names: names.clone(), groups });
            }
            Record::Pair { .. } | Record::PairClosed { .. } => {}
        }
    }
    live.retain(|_, lease: &mut StoredLease| lease.ends.plus(linger) > now);
    live
}

/// Likewise the pairs of client and address.
fn restore_pairs(stored: &Stored, outside: &Outside, now: Moment, max: Duration) -> HashMap<PairId, StoredPair> {
    let past = Past::new(stored, outside, now, max);
    let mut live = HashMap::new();
    for record in &stored.records {
        match record {
            Record::PairClosed { address, client } => {
                live.remove(&(*address, *client));
            }
            Record::Pair { address, client, written, ends_boot, ends_wall, names } => {
                let ends = past.end(*written, *ends_boot, *ends_wall);
                let pair = StoredPair { client: *client, address: *address, ends, names: names.clone() };
                live.insert((*address, *client), pair);
            }
            Record::Lease { .. } | Record::Closed { .. } => {}
        }
    }
    live.retain(|_, pair: &mut StoredPair| pair.ends > now);
    live
}

/// What is needed to bring ends of an earlier run to the monotonic clock of this one.
struct Past<'a> {
    same_boot: bool,
    outside: &'a Outside,
    now: Moment,
    longest: i128,
}

impl<'a> Past<'a> {
    fn new(stored: &Stored, outside: &'a Outside, now: Moment, max: Duration) -> Self {
        let longest = i128::try_from(max.as_millis()).unwrap_or(i128::MAX);
        Self { same_boot: stored.boot_id == outside.boot_id, outside, now, longest }
    }

    fn end(&self, written: u64, ends_boot: u64, ends_wall: u64) -> Moment {
        let (ends, clock) =
            if self.same_boot { (ends_boot, self.outside.since_boot) } else { (ends_wall, self.outside.wall) };
        // How long it has left; negative when it has ended.
        let left = i128::from(ends) - i128::from(clock);
        // It may not have more left than when it was written, though a clock was set back: the wall clock by whoever
        // may, the boot clock where a container has its own and starts again.
        let at_writing = i128::from(ends_wall) - i128::from(written);
        let left = left.min(at_writing).min(self.longest);
        Moment(u64::try_from(i128::from(self.now.0).saturating_add(left)).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests;
