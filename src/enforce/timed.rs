//! What every table of timed entries has in common, wherever it is: a thread that owns what the table should hold.
//!
//! ```text
//!   core --Command--> driver --remove, put--> Table          (what opens an address, until when)
//!     ^                 |  ^--- list, has, look ---+          (all of it within a minute; rules every second)
//!     +---- reports ----+
//! ```
//!
//! A back end implements [`Table`] over its set, map or list; [`run`] does the rest: merging, acknowledgements, full tables, comparison
//! with the world, repair, adoption after a restart, disarming. The kernel's own nftables have a driver of their own, since they have transactions
//! and notifications.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::config::schema::OnStop;
use crate::core::event::{EnforcerId, Event};
use crate::core::narrow::PairId;
use crate::enforce::backend::{LeftOut, Stop};
use crate::enforce::rules::Rules;
use crate::enforce::{Command, Reports};
use crate::sys::clock::Clock;

mod compare;
mod driver;
mod sync;
#[cfg(test)]
mod tests;
mod written;

pub use driver::{Driver, PAD};

/// What a table holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entry {
    /// Opens an address for everybody; where pairs count: for this host itself.
    Address(IpAddr),
    /// Opens less than all of an address for everybody: for one client, to one port.
    Pair(PairId),
    /// Closes an address, also to flows that go on.
    Cut(IpAddr),
}

/// An entry that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The entry as it was put.
    pub entry: Entry,
    /// What is left of its time, rounded down to [`Table::grain`]; `None`: it never ends.
    pub left: Option<Duration>,
}

/// What went wrong in a table's own words: an error of its kind, or a text.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a table did not do as it was told.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// No room. What was to be removed is removed; of what was to be put any part may be there.
    #[error(transparent)]
    Full(Cause),
    /// The table isn't there.
    #[error(transparent)]
    Gone(Cause),
    /// It failed for another reason, in words.
    #[error(transparent)]
    Other(Cause),
}

/// What [`Table::install`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installed {
    /// What was held before may be gone.
    pub fresh: bool,
    /// What was held before was moved, and may end a little later: it is put once more.
    pub moved: bool,
    /// What this host can't do of the rules.
    pub left_out: Vec<LeftOut>,
}

/// A table of timed entries, and the rules that look into it. Every call may block for some milliseconds.
pub trait Table: Send + 'static {
    /// As logs name it.
    fn name(&self) -> &'static str;

    /// These rules are meant from now on. Nothing is done yet.
    fn set(&mut self, rules: &Rules);

    /// Puts the rules in force that were [`Table::set`], in place of whatever was; entries stay.
    ///
    /// # Errors
    /// What was in force before is in force, as far as it can be known.
    fn install(&mut self) -> Result<Installed, TableError>;

    /// Whether the rules are as they were installed; otherwise what is not. Called about every second.
    ///
    /// # Errors
    /// They can't be read.
    fn look(&mut self) -> Result<Option<String>, TableError>;

    /// Removes entries, then puts others: each has its end in this time, whether it is there or not. What isn't there is removed without a word. A time is a
    /// multiple of [`Table::grain`] and at most [`Table::longest`].
    ///
    /// # Errors
    /// See [`TableError`].
    fn write(&mut self, remove: &[Entry], put: &[(Entry, Duration)]) -> Result<(), TableError>;

    /// Which of these are there, in order.
    ///
    /// # Errors
    /// The table can't be read.
    fn has(&mut self, entries: &[Entry]) -> Result<Vec<bool>, TableError>;

    /// Begins to list all entries.
    ///
    /// # Errors
    /// The table can't be read.
    fn list(&mut self) -> Result<(), TableError>;

    /// Some more of the list; `None`: it has ended. An entry that was changed meanwhile may be missed, or listed twice.
    ///
    /// # Errors
    /// The table can't be read; the list has ended.
    fn listed(&mut self) -> Result<Option<Vec<Held>>, TableError>;

    /// Whether such an entry has a place here: no packet may be able to go from a client to an address.
    fn holds(&self, entry: &Entry) -> bool;

    /// Has the kernel forget the flows to these addresses, where it can; returns how many there were.
    ///
    /// # Errors
    /// The kernel's.
    fn forget_flows(&mut self, addresses: &[IpAddr]) -> Result<usize, TableError>;

    /// Removes rules and entries. What isn't there is no error.
    ///
    /// # Errors
    /// What may still be there.
    fn remove(&mut self) -> Result<(), TableError>;

    /// In what times are counted; zero: milliseconds. Ends are rounded up to it.
    fn grain(&self) -> Duration {
        Duration::ZERO
    }

    /// The longest time that an entry can have. What is to last longer is put again in time.
    fn longest(&self) -> Duration {
        Duration::from_secs(400 * 86_400)
    }

    /// How many entries are closed at once at most, by [`Entry::Cut`].
    fn cuts(&self) -> usize {
        8192
    }
}

/// Takes a table away while its driver runs, and says whether it stays when the driver ends.
#[derive(Clone, Debug, Default)]
pub struct Switch(Arc<Armed>);

#[derive(Debug, Default)]
struct Armed {
    disarmed: AtomicBool,
    kept: AtomicBool,
    withdrawn: AtomicBool,
    /// Held while rules are put in force or taken away.
    turn: Mutex<()>,
}

impl Switch {
    /// Removes the table for good, by `remove`. Until the daemon starts again the driver then writes nothing and acknowledges everything. Blocks.
    ///
    /// # Errors
    /// That of `remove`: all is as before.
    pub fn disarm<E>(&self, remove: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let _turn = self.turn();
        let before = self.0.disarmed.swap(true, Ordering::SeqCst);
        remove().inspect_err(|_| self.0.disarmed.store(before, Ordering::SeqCst))
    }

    /// Whether it was removed so.
    #[must_use]
    pub fn is_disarmed(&self) -> bool {
        self.0.disarmed.load(Ordering::SeqCst)
    }

    /// Says how it stops; `remove` as in [`Self::disarm`].
    ///
    /// # Errors
    /// That of `remove`.
    pub fn stop<E>(&self, how: Stop, remove: impl FnOnce() -> Result<(), E>) -> Result<bool, E> {
        match how {
            Stop::Disarm => self.disarm(remove)?,
            Stop::Keep => self.0.kept.store(true, Ordering::SeqCst),
            Stop::Withdraw => self.0.withdrawn.store(true, Ordering::SeqCst),
        }
        Ok(true)
    }

    /// Whether the table stays when the driver ends.
    fn keeps(&self, on_stop: OnStop) -> bool {
        let withdrawn = self.0.withdrawn.load(Ordering::SeqCst);
        self.0.kept.load(Ordering::SeqCst) || (on_stop == OnStop::Keep && !withdrawn)
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.0.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a driver is made of, besides its table.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its place in the core's list.
    pub id: EnforcerId,
    /// The daemon's clock, by which ends of leases are meant.
    pub clock: Clock,
    /// Shared with who disarms.
    pub switch: Switch,
    /// In force, by [`Table::install`].
    pub rules: Rules,
    /// What that said can't be done of them.
    pub left_out: Vec<LeftOut>,
}

/// Drives `table`, whose rules were installed, in a thread of its own that runs in the network namespace of the one that first polls this. Ends
/// when `commands` closes, after what `on_stop` says was done.
pub async fn run<T: Table>(table: T, settings: Settings, commands: mpsc::Receiver<Command>, reports: Reports) {
    let (alive, ended) = tokio::sync::oneshot::channel::<()>();
    let (lost, enforcer, name) = (reports.clone(), settings.id, table.name());
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        driver::drive(table, settings, commands, reports);
        drop(alive);
    });
    match thread {
        // Nothing is ever sent: the channel closes when the thread ends.
        Ok(_) => drop(ended.await),
        Err(error) => {
            tracing::error!(%error, "the driver of {name} can't start");
            if lost.send(Event::Lost { enforcer, reason: error.to_string() }).await.is_err() {
                tracing::debug!("the core has stopped");
            }
        }
    }
}
