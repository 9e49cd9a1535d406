//! One trait for whatever opens and closes addresses, and what one for the packets of this host tells of itself.
//!
//! ```text
//!   specs --> core        install --> in force, what was there is adopted        run <--Command-- core
//!                                                                                  |---report--> core
//!   control --> status, stop: for whoever asks while it runs
//! ```
//!
//! A new one for packets is a file that implements [`Backend`], and a line in `PACKETS` of `packet_filters.rs`.

use std::fmt::Debug;
use std::pin::Pin;
use std::sync::Arc;

use prometheus_client::registry::Registry;
use tokio::sync::mpsc;

use super::rules::Rules;
use super::{Command, EnforceError, Reports};
use crate::core::event::{EnforcerId, EnforcerSpec};
use crate::sys::clock::Clock;

/// What a backend can't do on this host, and does without; in words for the operator.
pub type LeftOut = String;

/// Ends with what it is for.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What opens and closes addresses: packets of this host, or routes on any number of routers.
pub trait Backend: Send + 'static {
    /// How the core is to see it: one entry, or one for each router.
    fn specs(&self) -> Vec<EnforcerSpec>;

    /// Has in force what it needs before any question is answered. What an earlier run left is taken over. May block for some tens of
    /// milliseconds.
    ///
    /// # Errors
    /// Why it can't guard; what was in force before stays.
    fn install(&mut self) -> Later<'_, Result<Vec<LeftOut>, EnforceError>>;

    /// For whoever asks while it runs; the same before and behind [`Self::install`].
    fn control(&self) -> Arc<dyn Control>;

    /// Runs until `commands` closes; then it does what its configuration and [`Control::stop`] say about stopping.
    fn run(self: Box<Self>, commands: mpsc::Receiver<Command>, reports: Reports) -> Later<'static, ()>;
}

/// A backend as it runs, for others than the core.
pub trait Control: Debug + Send + Sync {
    /// How it is.
    fn status(&self) -> BackendStatus;

    /// Says how it stops; see [`Stop`]. `false`: that means nothing to it. May block.
    ///
    /// # Errors
    /// Why all is as it was.
    fn stop(&self, how: Stop) -> Result<bool, EnforceError>;

    /// Registers what it counts itself; called once.
    fn register(&self, registry: &mut Registry);
}

/// How a backend stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Nothing is guarded by it from now on, until the daemon starts again; it runs on, writes nothing and acknowledges everything.
    Disarm,
    /// What is in force stays when it ends, whatever its configuration says: another process takes over, or follows.
    Keep,
    /// What is in force is taken back when it ends, whatever its configuration says.
    Withdraw,
}

/// How a backend is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendStatus {
    /// As in the configuration, for example `nftables`.
    pub name: &'static str,
    /// Nothing is guarded by it; see [`Stop::Disarm`].
    pub disarmed: bool,
    /// What an operator should know, though all works.
    pub warnings: Vec<String>,
}

/// Makes a backend for packets that is this enforcer to the core, or says why it can't be.
pub type Make = fn(&Rules, Clock, EnforcerId) -> Result<Box<dyn Backend>, EnforceError>;

/// One way to guard packets of this host.
#[derive(Clone, Copy, Debug)]
pub struct PacketBackend {
    /// What `enforcer` names.
    pub name: &'static str,
    /// How the core is to see it, with room for so many addresses.
    pub spec: fn(capacity: usize) -> EnforcerSpec,
    /// Makes it; nothing is touched yet.
    pub make: Make,
    /// Whether something of an earlier run is in force. Blocks for microseconds.
    pub is_there: fn() -> Result<bool, EnforceError>,
    /// Removes that, where no driver runs. Nothing being there is no error. Blocks.
    pub remove: fn() -> Result<(), EnforceError>,
    /// What it leaves in the kernel, in words.
    pub leaves: &'static str,
}

/// Hands out numbers of enforcers, in the order of the list of backends.
#[derive(Debug, Default)]
pub struct Ids(u16);

impl Ids {
    /// The next one.
    pub fn hand_out(&mut self) -> EnforcerId {
        let id = EnforcerId(self.0);
        self.0 = self.0.saturating_add(1);
        id
    }
}
