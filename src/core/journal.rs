//! What must be on disk before an answer leaves: its records, and what keeps them.

use std::io;
use std::net::IpAddr;

use super::event::{PairRecord, StoredLease};
use super::guard::Guard;
use super::moment::Moment;
use super::name::Name;

/// Where leases are made to survive a crash.
pub trait Journal: Send {
    /// Writes these records; `Ok` means that a crash of the process can't lose them, nor any that were to be written before, any
    /// more. After a failure it goes on failing until all that is missing is written, also with no records at all. `alive` is all that is
    /// to be on disk, these records included; `None` while it lacks what was restored.
    ///
    /// # Errors
    /// The file system's; no answer is released then.
    fn write(&mut self, records: Vec<JournalRecord>, alive: Option<&dyn Alive>, now: Moment) -> io::Result<()>;

    /// When a write that failed is to be tried again; `None` while nothing is missing.
    fn retry(&self) -> Option<Moment>;

    /// Whether a write with `alive`, though without records, would make it shorter. Takes long.
    fn is_long(&self) -> bool;

    /// Compares what it believes with the disk, and mends what differs. Called about twice a second, once all that was restored is in `alive`.
    fn check(&mut self, alive: &dyn Alive, now: Moment) {
        let _: (&dyn Alive, Moment) = (alive, now);
    }
}

/// All that survives a restart.
pub trait Alive {
    /// How many records [`Alive::each`] gives.
    fn count(&self) -> usize;

    /// Gives a record of each lease, and of each pair of client and address.
    fn each(&self, give: &mut dyn FnMut(JournalRecord));
}

impl Alive for Guard {
    fn count(&self) -> usize {
        self.stored_count()
    }

    fn each(&self, give: &mut dyn FnMut(JournalRecord)) {
        self.stored().for_each(|lease| give(JournalRecord::Lease(lease)));
        self.stored_pairs().for_each(|pair| give(JournalRecord::Pair(PairRecord::Open(pair))));
    }
}

/// One record of the journal.
#[derive(Clone, Debug)]
pub enum JournalRecord {
    /// A lease began or moved later.
    Lease(StoredLease),
    /// A lease was closed early.
    Closed(IpAddr),
    /// A name was revoked.
    Revoked(Name),
    /// Of a pair of client and address.
    Pair(PairRecord),
}
