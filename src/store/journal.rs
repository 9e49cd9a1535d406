//! The file of leases.
//!
//! Records are appended before the answers that caused them leave. A write reaches the kernel before it returns, so
//! that a crash of the process can't undo it; what a power failure can take are leases of the last seconds, and it
//! takes the kernel's sets with them. A revocation is flushed at once, behind the core's back: it must not come undone with the power. The file is compacted by writing a new one beside it, flushing it and renaming it
//! over. How its octets survive damage, [`super::frame`] says; which leases come back, [`super::past`].
//!
//! # A disk that takes nothing
//!
//! ```text
//!            a write fails, full, read-only                nor that one
//!   at home ---------------------------------> at the spare ----------> behind: answers with addresses are refused
//!      ^                                          |   ^                     |
//!      +---- tried each second, takes it again ---+   +---------------------+ tried each second
//! ```
//! The spare place is a file beside the control socket, on a file system in memory: it survives what the promise is about, a crash, a
//! restart, an upgrade, though not a reboot. So answers go on and nothing is lost, and `status` says what is wrong. Both places have the number of
//! their file, its epoch; at a start the later one counts.
//!
//! # The disk is looked at
//!
//! A write that succeeded into a file that somebody removed keeps nothing. [`Journal::check`], called about twice a second, compares the file
//! with what its directory has under its name, and writes all that is alive anew where they differ.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::frame::{self, Head, Stored};
use super::health::{Health, Trouble};
use super::past::{is_by_wall, restore, restore_pairs};
use super::place::{Lock, LockError, Place};
use super::record::{GroupRecord, PathRecord, Record, Whom};
use crate::core::applications;
use crate::core::event::{PairRecord, QueryPath, StoredLease, StoredPair};
use crate::core::journal::{Alive, Journal, JournalRecord};
use crate::core::moment::Moment;
use crate::core::name::Name;
use crate::core::narrow::{Narrow, Port, Who};
use crate::sys::clock::{Clock, Outside};

/// The journal is compacted when it holds this many octets more than four times what is alive.
const SLACK: u64 = 1 << 20;
/// Octets read back at most; a journal is compacted long before.
const LARGEST: u64 = 4 << 30;
/// Between two tries to write a journal that failed.
const RETRY: Duration = Duration::from_secs(1);
/// The longest that a file says nothing of the time while anything is alive: by so much at most may a clock that is set back lengthen a lease.
const QUIET: Duration = Duration::from_secs(60);
/// A step of the wall clock, in milliseconds, that is worth writing all ends anew.
const STEP: u64 = 2_000;

/// The open journal. Holds the lock on its directory.
#[derive(Debug)]
pub struct LeaseJournal {
    home: Place,
    spare: Option<Place>,
    /// `file` lies at the spare place.
    away: bool,
    /// `None`: no place took one yet.
    file: Option<File>,
    /// Where the next record goes; what lies behind is the rest of a write that failed.
    length: u64,
    /// Octets in the file after the last compaction.
    compacted: u64,
    /// Of the frames of this process; see [`super::frame`].
    secret: u64,
    /// The next frame's number.
    next: u32,
    /// Of the last file that was made.
    epoch: u64,
    /// The wall clock less the boot clock, where by the former alone it is known when what was restored ends.
    restored_by: Option<u64>,
    /// Pairs of client and address that were read back, until they are asked for.
    pairs: Vec<StoredPair>,
    clock: Clock,
    outside: Outside,
    /// Time inside at which `outside` was read.
    read_at: Moment,
    /// The wall clock less the boot clock when the file was made.
    apart: u64,
    /// When anything was last written.
    written_at: Moment,
    buffer: Vec<u8>,
    /// A compacted file on its way to the disk.
    flushing: Option<Flushing>,
    /// Set by a write that failed everywhere: the file lacks something. Nothing counts as written until all that is alive is.
    behind: Option<Behind>,
    /// When the way home is tried again.
    home_again: Moment,
    /// A revocation was written that may not be on the disk yet.
    unflushed: bool,
    /// The thread that flushes the last ones.
    flusher: Option<JoinHandle<io::Result<()>>>,
    health: Health,
    lock: Option<Lock>,
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
    /// Opens the journal in `directory` (made if missing), or at `spare` where the directory can't be written, and reads back what is alive: leases that
    /// have not ended, and ended ones whose routes still linger. None lasts longer than `max` from now. What can't be read is kept
    /// beside; that, and any other trouble with the disk, is in [`LeaseJournal::health`]. `applications`: those that pairs are brought back of, by name.
    ///
    /// # Errors
    /// Another daemon uses the directory, or the machine has no clock.
    pub fn open(
        directory: &Path,
        spare: Option<&Path>,
        clock: Clock,
        max: Duration,
        linger: Duration,
        applications: Vec<String>,
    ) -> Result<(Self, Vec<StoredLease>), StoreError> {
        let home = Place::home(directory);
        let spare = spare.map(|file| Place::of(file.to_owned()));
        let health = Health::default();
        let outside = Outside::read().map_err(at(Path::new("/proc"), "can't read the clocks"))?;
        let read_at = clock.now();
        let mut journal = Self {
            apart: outside.apart(),
            home,
            spare,
            away: false,
            file: None,
            length: 0,
            compacted: 0,
            secret: rand::random(),
            next: 0,
            epoch: 0,
            restored_by: None,
            pairs: Vec::new(),
            clock,
            outside,
            read_at,
            written_at: read_at,
            buffer: Vec::new(),
            flushing: None,
            behind: None,
            home_again: read_at,
            unflushed: false,
            flusher: None,
            health,
            lock: None,
        };
        if !journal.own_home() {
            let held = io::Error::from(io::ErrorKind::WouldBlock);
            return Err(at(&Lock::path(directory), "another destguard uses this state directory")(held));
        }
        let stored = journal.read_back();
        journal.epoch = stored.epoch;
        journal.restored_by = is_by_wall(&stored, &journal.outside, read_at).then(|| journal.outside.apart());
        let live = restore(&stored, &journal.outside, read_at, max, linger);
        let pairs = restore_pairs(&stored, &journal.outside, read_at, max, &applications);
        let mut leases: Vec<StoredLease> = live.into_values().collect();
        leases.sort_by_key(|lease| lease.address);
        journal.pairs = pairs.into_values().collect();
        // A new file at once: it is on this boot's clock and without a torn tail.
        let pairs = std::mem::take(&mut journal.pairs);
        let restored = Restored { leases: &leases, pairs: &pairs };
        if let Err(error) = journal.compact(&restored) {
            // What is wrong is told by then; it is tried again.
            drop(journal.fail(error, Some(&restored), read_at));
        }
        journal.pairs = pairs;
        Ok((journal, leases))
    }

    /// What is wrong with it, and what was repaired.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// What the wall clock was ahead of the boot clock when leases of an earlier boot were restored; see [`Outside::apart`].
    #[must_use]
    pub fn restored_by(&self) -> Option<u64> {
        self.restored_by
    }

    /// The pairs that were alive at [`LeaseJournal::open`]; once.
    #[must_use]
    pub fn take_pairs(&mut self) -> Vec<StoredPair> {
        std::mem::take(&mut self.pairs)
    }

    /// Makes the state directory and takes its lock, where it isn't there or isn't ours. Without one the daemon goes on, and says so.
    /// Returns whether nobody else has it.
    fn own_home(&mut self) -> bool {
        if self.lock.as_ref().is_some_and(|lock| lock.is_of(&self.home.directory)) {
            return true;
        }
        let taken = self.home.make().map_err(LockError::Failed).and_then(|()| Lock::take(&self.home.directory));
        let path = Lock::path(&self.home.directory);
        match taken {
            Ok(lock) => {
                self.lock = Some(lock);
                self.health.set(Trouble::Lock, None);
                true
            }
            Err(LockError::Held) => {
                let reason = format!("another destguard uses the state directory {}", self.home.directory.display());
                self.health.set(Trouble::Lock, Some(reason));
                false
            }
            Err(LockError::Failed(error)) => {
                let reason =
                    format!("{}: {error}: another destguard could be started on the same state", path.display());
                self.health.set(Trouble::Lock, Some(reason));
                true
            }
        }
    }

    /// What the later of the files says. What is damaged is kept beside.
    fn read_back(&mut self) -> Stored {
        let home = self.read_file(&self.home);
        let spare = self.spare.as_ref().and_then(|spare| self.read_file(spare));
        match (home, spare) {
            // One that can't be read at all may have been the later one: what the other opens may be revoked in it.
            (Some(home), Some(spare)) if spare.epoch > home.epoch && home.epoch > 0 => spare,
            (Some(home), _) => home,
            (None, Some(spare)) => spare,
            (None, None) => Stored::default(),
        }
    }

    fn read_file(&self, place: &Place) -> Option<Stored> {
        let path = place.file.display();
        let mut octets = Vec::new();
        let read = File::open(&place.file).and_then(|file| file.take(LARGEST).read_to_end(&mut octets));
        let stored = match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            // What isn't a directory has nothing in it.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => return None,
            Err(error) => Stored { damage: Some(format!("it can't be read: {error}")), ..Stored::default() },
            Ok(_) => frame::read(&octets),
        };
        if let Some(damage) = &stored.damage {
            let kept = match place.keep_bad() {
                Ok(bad) => format!("it is kept as {}; remove that to end this notice", bad.display()),
                Err(error) => format!("it can't be kept beside: {error}"),
            };
            let reason = format!("the lease journal {path} was not read as a whole: {damage}; {kept}");
            self.health.set(Trouble::Damage, Some(reason));
        }
        Some(stored)
    }
}

impl LeaseJournal {
    /// Where its file lies.
    fn place(&self) -> &Place {
        self.spare.as_ref().filter(|_| self.away).unwrap_or(&self.home)
    }

    /// The wall clock may have been stepped since they were last read: records are to follow both.
    fn read_clocks(&mut self) -> io::Result<()> {
        self.outside.refresh()?;
        self.read_at = self.clock.now();
        Ok(())
    }

    /// All that is alive, as a new file.
    fn octets(&mut self, alive: &dyn Alive) -> io::Result<Vec<u8>> {
        self.read_clocks()?;
        let clocks = Clocks { clock: self.read_at, outside: &self.outside };
        let mut frames = Vec::new();
        // The frames behind these follow in the numbers of this process, into whichever file.
        let count = u32::try_from(alive.count()).unwrap_or(u32::MAX);
        let first = self.next.wrapping_sub(count);
        let mut number = first;
        alive.each(&mut |entry| {
            frame::put(self.secret, &mut number, &clocks.stamped(entry, clocks.clock), &mut frames);
        });
        self.epoch = self.epoch.saturating_add(1);
        let boot_id = self.outside.boot_id.clone();
        let head = Head { boot_id, secret: self.secret, epoch: self.epoch, first, settled: count };
        let mut octets = Vec::with_capacity(frames.len().saturating_add(1024));
        frame::put_heads(&head, &mut octets);
        octets.append(&mut frames);
        self.apart = self.outside.apart();
        self.written_at = self.read_at;
        Ok(octets)
    }

    /// Writes all that is alive to a new file and puts it in place of the old one, at home or away.
    fn compact_at(&mut self, away: bool, alive: &dyn Alive) -> io::Result<()> {
        self.finish_flushing();
        let place = if away { self.spare.clone() } else { Some(self.home.clone()) };
        let Some(place) = place else { return Err(io::ErrorKind::NotFound.into()) };
        place.make()?;
        if !away && !self.own_home() {
            return Err(io::Error::other("another destguard uses it"));
        }
        let octets = self.octets(alive)?;
        let file = place.write(&octets)?;
        place.put(&file)?;
        self.length = octets.len() as u64;
        (self.file, self.compacted, self.away) = (Some(file), self.length, away);
        if !away {
            self.health.set(Trouble::Place, None);
            if let Some(spare) = &self.spare {
                // The later file counts; this one must not be found later than the next.
                match fs::remove_file(&spare.file) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        tracing::warn!(%error, path = %spare.file.display(), "the spare lease journal stays");
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Where it should be.
    fn compact(&mut self, alive: &dyn Alive) -> io::Result<()> {
        self.compact_at(false, alive)
    }

    /// The same where it is, but nobody waits for the disk.
    fn begin_compaction(&mut self, alive: &dyn Alive) -> io::Result<()> {
        let octets = self.octets(alive)?;
        let place = self.place().clone();
        let file = place.write(&octets)?;
        let flushed = file.try_clone()?;
        let done = std::thread::Builder::new().name("journal".to_owned()).spawn(move || place.put(&flushed))?;
        let length = octets.len() as u64;
        self.flushing = Some(Flushing { file, length, compacted: length, done });
        Ok(())
    }

    /// Waits for a compaction that was begun; from then on its file alone is written, or the old one where it failed.
    fn finish_flushing(&mut self) {
        let Some(flushing) = self.flushing.take() else { return };
        match flushing.done.join().unwrap_or_else(|_| Err(io::ErrorKind::Interrupted.into())) {
            Ok(()) => {
                self.file = Some(flushing.file);
                (self.length, self.compacted) = (flushing.length, flushing.compacted);
            }
            Err(error) => {
                tracing::warn!(%error, octets = self.length, "the lease journal can't be compacted");
                // Tried again when it has grown as much again.
                self.compacted = self.length;
            }
        }
    }

    /// Appends the buffer behind the last whole record.
    fn append(&mut self) -> io::Result<()> {
        let Some(file) = &self.file else { return Err(io::ErrorKind::NotFound.into()) };
        // A write that fails half-way leaves a part of a record: the next one starts at the last whole one.
        if let Err(error) = (&*file).write_all(&self.buffer) {
            file.set_len(self.length)?;
            return Err(error);
        }
        self.length = self.length.saturating_add(self.buffer.len() as u64);
        if let Some(flushing) = &mut self.flushing {
            // It may be in place already: what fails here fails as a whole.
            if let Err(error) = flushing.file.write_all(&self.buffer) {
                flushing.file.set_len(flushing.length)?;
                return Err(error);
            }
            flushing.length = flushing.length.saturating_add(self.buffer.len() as u64);
        }
        Ok(())
    }

    /// Where it lies it takes nothing: the other place, at once where all that is alive is at hand.
    fn fail(&mut self, error: io::Error, alive: Option<&dyn Alive>, now: Moment) -> io::Result<()> {
        let Some(alive) = alive else {
            // Whoever has it has the next turn.
            return Err(self.fall_behind(error, now));
        };
        if !self.away && self.spare.is_some() {
            match self.leave_home(&error, alive, now) {
                Ok(()) => return Ok(()),
                Err(other) => tracing::debug!(error = %other, "the spare place takes nothing either"),
            }
        }
        Err(self.fall_behind(error, now.plus(RETRY)))
    }

    fn leave_home(&mut self, cause: &io::Error, alive: &dyn Alive, now: Moment) -> io::Result<()> {
        self.compact_at(true, alive)?;
        self.behind = None;
        self.home_again = now.plus(RETRY);
        let (home, spare) = (self.home.directory.display(), self.place().file.display());
        let reason = format!("{home} takes nothing ({cause}): leases are kept in {spare}, which a reboot takes away");
        self.health.set(Trouble::Place, Some(reason));
        Ok(())
    }

    fn fall_behind(&mut self, error: io::Error, retry: Moment) -> io::Error {
        let (path, words) = (self.home.directory.display(), error.to_string());
        let reason = format!("{path} takes nothing ({words}): answers with addresses are refused");
        self.health.set(Trouble::Place, Some(reason));
        self.behind = Some(Behind { error: words, kind: error.kind(), retry });
        error
    }

    /// After a failure: writes all that is alive anew, so that nothing that was to be written meanwhile is missing.
    fn catch_up(&mut self, alive: Option<&dyn Alive>, now: Moment) -> io::Result<()> {
        let Some(behind) = &mut self.behind else { return Ok(()) };
        let again = |behind: &Behind| io::Error::new(behind.kind, behind.error.clone());
        if now < behind.retry {
            return Err(again(behind));
        }
        let Some(alive) = alive else {
            behind.retry = now.plus(RETRY);
            return Err(again(behind));
        };
        match self.compact(alive) {
            Ok(()) => {
                self.behind = None;
                tracing::info!("the lease journal is written again, nothing is missing in it");
                Ok(())
            }
            Err(error) if self.spare.is_some() => {
                self.leave_home(&error, alive, now).map_err(|_| self.fall_behind(error, now.plus(RETRY)))
            }
            Err(error) => Err(self.fall_behind(error, now.plus(RETRY))),
        }
    }

    /// Back home as soon as it takes anything.
    fn try_home(&mut self, alive: &dyn Alive, now: Moment) {
        if now < self.home_again {
            return;
        }
        self.home_again = now.plus(RETRY);
        // Asked first: what doesn't fit would be written in vain each second.
        let fits = self.home.make().and_then(|()| self.home.takes(self.length));
        match fits.and_then(|_| self.compact(alive)) {
            Ok(()) => {
                self.health.repaired("place");
                tracing::info!(directory = %self.home.directory.display(), "the lease journal is at home again");
            }
            Err(error) => tracing::debug!(%error, "the state directory takes nothing yet"),
        }
    }

    /// Compares the file with what is on the disk, and mends what differs.
    fn compare(&mut self, alive: &dyn Alive, now: Moment) {
        let flushing = self.flushing.as_ref().is_some_and(|flushing| !flushing.done.is_finished());
        if !flushing {
            self.finish_flushing();
            let place = self.place();
            let difference = self.file.as_ref().and_then(|file| place.difference(file, self.length));
            if let Some(difference) = difference {
                let words = difference.words(place);
                tracing::error!("{words}: all live leases are written anew");
                self.health.set(Trouble::Place, Some(words));
                let away = self.away;
                match self.compact_at(away, alive) {
                    Ok(()) => self.health.repaired(difference.kind()),
                    Err(error) => drop(self.fail(error, Some(alive), now)),
                }
                return;
            }
        }
        if self.away {
            self.try_home(alive, now);
            return;
        }
        if self.lock.as_ref().is_none_or(|lock| !lock.is_of(&self.home.directory)) {
            let held = self.lock.is_some();
            if self.own_home() && held {
                self.health.repaired("lock");
            }
        }
        let Err(error) = self.home.takes(0) else {
            self.health.set(Trouble::Room, None);
            return;
        };
        // What is open may take some more; a new file will not be made.
        let left = if self.spare.is_some() {
            self.leave_home(&error, alive, now)
        } else {
            Err(io::ErrorKind::NotFound.into())
        };
        let directory = self.home.directory.display();
        let reason = left.is_err().then(|| format!("{directory} will soon take nothing more: {error}"));
        self.health.set(Trouble::Room, reason);
    }

    /// Has revocations flushed, by one thread at a time.
    fn flush(&mut self) {
        if let Some(flusher) = self.flusher.take_if(|flusher| flusher.is_finished())
            && let Ok(Err(error)) = flusher.join()
        {
            tracing::warn!(%error, "the lease journal can't be flushed");
            self.unflushed = true;
        }
        if !self.unflushed || self.flusher.is_some() {
            return;
        }
        let Some(Ok(file)) = self.file.as_ref().map(File::try_clone) else { return };
        match std::thread::Builder::new().name("flusher".to_owned()).spawn(move || file.sync_data()) {
            Ok(flusher) => (self.flusher, self.unflushed) = (Some(flusher), false),
            Err(error) => tracing::warn!(%error, "the lease journal can't be flushed"),
        }
    }

    /// Ends are kept on the wall clock too, and a clock that is set back is known by what was written later: both need a file that follows.
    fn follow_the_clock(&mut self, alive: &dyn Alive, now: Moment) {
        if self.flushing.is_some() || self.file.is_none() || self.behind.is_some() {
            return;
        }
        if let Err(error) = self.read_clocks() {
            tracing::warn!(%error, "the clocks can't be read");
            return;
        }
        if self.outside.apart().abs_diff(self.apart) > STEP {
            tracing::info!("the wall clock was stepped: all live leases are written anew");
            if let Err(error) = self.begin_compaction(alive) {
                tracing::warn!(%error, "the lease journal can't be written anew");
                self.apart = self.outside.apart();
            }
        } else if self.written_at.until(now) >= QUIET {
            self.written_at = now;
            self.buffer.clear();
            let time = Record::Time { written: self.outside.wall };
            frame::put(self.secret, &mut self.next, &time, &mut self.buffer);
            if let Err(error) = self.append() {
                drop(self.fail(error, Some(alive), now));
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
            let record = clocks.stamped(entry, now);
            self.unflushed |= frame::copies(&record) > 1;
            frame::put(self.secret, &mut self.next, &record, &mut self.buffer);
        }
        if !self.buffer.is_empty() {
            self.written_at = now;
            if let Err(error) = self.append() {
                return self.fail(error, alive, now);
            }
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

    fn check(&mut self, alive: &dyn Alive, now: Moment) {
        // It was told of, and stays on the disk for as long as the operator wants it.
        if !self.home.bad().exists() && !self.spare.as_ref().is_some_and(|spare| spare.bad().exists()) {
            self.health.set(Trouble::Damage, None);
        }
        if self.behind.is_none() {
            self.flush();
            self.compare(alive, now);
            self.follow_the_clock(alive, now);
        }
    }
}

/// The clock inside and those outside, read at the same time.
#[derive(Clone, Copy, Debug)]
pub struct Clocks<'a> {
    /// The clock inside, which the guard runs on.
    pub clock: Moment,
    /// The clocks outside, read at the same time.
    pub outside: &'a Outside,
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

    /// For whom and to what a pair is, as it is on disk.
    fn whom(narrow: Narrow) -> (Whom, Port) {
        let whom = match narrow.who {
            Who::Anyone => Whom::Anyone,
            Who::Client(client) => Whom::Client(client),
            Who::Application(number) => Whom::Application(applications::name_of(number).to_string()),
        };
        (whom, narrow.to)
    }

    /// What is written of it at `now`.
    #[must_use]
    pub fn stamped(&self, entry: JournalRecord, now: Moment) -> Record {
        let written = self.shifted(self.outside.wall, now);
        let boot = |moment| self.shifted(self.outside.since_boot, moment);
        let wall = |moment| self.shifted(self.outside.wall, moment);
        let before_end = |told: Moment, ends: Moment| u32::try_from(told.until(ends).as_millis()).unwrap_or(u32::MAX);
        match entry {
            JournalRecord::Lease(StoredLease { address, ends, paths, adds, groups }) => {
                let group = |(name, ends)| GroupRecord { name, ends_boot: boot(ends), ends_wall: wall(ends) };
                let groups = groups.into_iter().map(group).collect();
                let path = |QueryPath { question, chain, ends: told }| PathRecord {
                    question,
                    chain,
                    before_end: before_end(told, ends),
                };
                let paths = paths.into_iter().map(path).collect();
                Record::Lease { address, written, ends_boot: boot(ends), ends_wall: wall(ends), paths, adds, groups }
            }
            JournalRecord::Closed(address) => Record::Closed { address },
            JournalRecord::Revoked(name) => Record::Revoked { name },
            JournalRecord::Pair(PairRecord::Open(StoredPair { address, narrow, ends, names, told })) => {
                let path = |(place, names): (usize, &Arc<[Name]>)| {
                    let (question, chain) = names.split_first()?;
                    let before_end = told.get(place).map_or(0, |told| before_end(*told, ends));
                    Some(PathRecord { question: question.clone(), chain: Arc::from(chain), before_end })
                };
                let paths = names.iter().enumerate().filter_map(path).collect();
                let (whom, to) = Self::whom(narrow);
                Record::Pair { address, whom, to, written, ends_boot: boot(ends), ends_wall: wall(ends), paths }
            }
            JournalRecord::Pair(PairRecord::Closed((address, narrow))) => {
                let (whom, to) = Self::whom(narrow);
                Record::PairClosed { address, whom, to }
            }
        }
    }
}

/// What was read back.
struct Restored<'a> {
    leases: &'a [StoredLease],
    pairs: &'a [StoredPair],
}

impl Alive for Restored<'_> {
    fn count(&self) -> usize {
        self.leases.len() + self.pairs.len()
    }

    fn each(&self, give: &mut dyn FnMut(JournalRecord)) {
        self.leases.iter().for_each(|lease| give(JournalRecord::Lease(lease.clone())));
        self.pairs.iter().for_each(|pair| give(JournalRecord::Pair(PairRecord::Open(pair.clone()))));
    }
}

#[cfg(test)]
mod tests;
