//! Leases in the kernel's own packet filter.
//!
//! ```text
//!   config --> ruleset --nft -j--> table inet destguard        (once at start, after a change, after somebody removed it)
//!   core --Command--> driver --netlink batch, acked--> sets     (per answer, about 5 us)
//!                       |          ^---looked up, swept, compared---'              (all of it within a minute)
//!                       ^----- NFNLGRP_NFTABLES: somebody else touched our table -> put back at once, full sync
//! ```
//!
//! The table is a plain one: it outlives the daemon, so a crash fails closed, and elements have their own kernel
//! timeouts, so a lease ends even when nobody is there to end it. A fresh daemon takes over what it finds.
//!
//! Use: [`Enforcer::new`] (validates, touches nothing), [`Enforcer::install`] (ruleset in force, verified), then
//! [`Backend::run`]. [`Disarmer`] and [`disarm`] remove everything; [`counters`] reads the named counters.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::registry::Registry;
use tokio::sync::mpsc;

use self::elements::Features;
use self::installer::Installer;
use self::kernel::Kernel;
use self::needs::Feature;
use self::program::Program;
use crate::config::schema::{OnStop, Scope};
use crate::core::event::{EnforcerId, EnforcerKind, EnforcerSpec, Event};
use crate::core::narrow::NarrowKinds;
use crate::enforce::backend::{Backend, BackendStatus, Control, Later, LeftOut, PacketBackend, Stop};
use crate::enforce::rules::Rules;
use crate::enforce::{Command, EnforceError, Reports};
use crate::sys::clock::Clock;

pub mod applications;
pub mod arming;
pub mod blueprint;
pub mod conntrack;
pub mod dialogue;
mod driver;
pub mod elements;
pub mod error;
pub mod fit;
mod installer;
pub mod kernel;
pub mod lock;
pub mod metrics;
pub mod needs;
pub mod packets;
pub mod probe;
pub mod program;
pub mod routes;
pub mod ruleset;
pub mod sockets;
pub mod tracking;
pub mod verify;
pub mod watch;
pub mod wire;
pub mod written;

pub use driver::PAD;
pub use error::NftError;

/// The table's name; its family is `inet`.
pub const TABLE: &str = "destguard";

/// Packets and octets that passed a named counter since the table was installed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets that passed the counter.
    pub packets: u64,
    /// Octets that passed the counter, headers among them.
    pub bytes: u64,
}

/// The named counters of the table. In audit mode `denied` counts what would have been denied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Opened by a lease.
    pub allowed: Count,
    /// Belongs to a flow that is established, or is related to one.
    pub established: Count,
    /// Refused, `dns_bypass` included.
    pub denied: Count,
    /// Tried to reach another resolver on port 53 or 853.
    pub dns_bypass: Count,
}

/// The nftables enforcer of this network namespace.
#[derive(Debug)]
pub struct Enforcer {
    id: EnforcerId,
    clock: Clock,
    on_stop: OnStop,
    scope: Scope,
    capacity: usize,
    disarmer: Disarmer,
    installer: Installer,
    features: Option<Features>,
    watched: bool,
}

impl Enforcer {
    /// Takes what the ruleset is made of; `id` is this enforcer's place in the core's list. Nothing is touched yet.
    ///
    /// # Errors
    /// [`NftError::NftMissing`] or [`NftError::NftTooOld`].
    pub fn new(rules: &Rules, clock: Clock, id: EnforcerId) -> Result<Self, NftError> {
        Ok(Self {
            id,
            clock,
            on_stop: rules.config.on_stop,
            scope: rules.config.scope,
            capacity: rules.capacity,
            disarmer: Disarmer::default(),
            installer: Installer::new(Program::find()?, ruleset::Settings::of(rules)),
            features: None,
            watched: true,
        })
    }

    /// How the core is to see this enforcer: timed, required, both families, `capacity` addresses.
    #[must_use]
    pub fn spec(capacity: usize) -> EnforcerSpec {
        EnforcerSpec {
            name: "nftables".to_owned(),
            kind: EnforcerKind::Timed,
            required: true,
            max_addresses: capacity,
            ipv4: true,
            ipv6: true,
            narrow: NarrowKinds { clients: true, ports: true, applications: true },
        }
    }

    /// What takes the table away while the driver runs: [`disarm`] alone would be undone at once.
    #[must_use]
    pub fn disarmer(&self) -> Disarmer {
        self.disarmer.clone()
    }

    /// What this kernel can't do, and the ruleset does without. Known behind [`Self::install`].
    #[must_use]
    pub fn left_out(&self) -> &[Feature] {
        self.installer.left_out()
    }

    /// Behaves as on a kernel with these features instead of probing. For tests of the ways that old kernels need.
    #[must_use]
    pub fn assume(mut self, features: Features) -> Self {
        self.features = Some(features);
        self
    }

    /// Doesn't listen to notifications of the changes of others. For tests of the comparison, which must find what no notification tells.
    #[must_use]
    pub fn deaf(mut self) -> Self {
        self.watched = false;
        self
    }

    /// Behaves as on a kernel whose sets keep the size that they were made with (before Linux 6.5). For tests of the way around that.
    #[must_use]
    pub fn unresizable(mut self) -> Self {
        self.installer.unresizable = true;
        self
    }

    /// Installs the ruleset in one transaction, keeping the elements of the lease sets where a former daemon left some,
    /// and reads it back. Packets never meet half a ruleset. Where there was none, connections from before are made known
    /// first. Flows to other resolvers end. Blocks for some tens of milliseconds. Acts on the network namespace of the
    /// calling thread.
    ///
    /// # Errors
    /// Any [`NftError`]; what was in force before stays in force, except after [`NftError::ReadBack`].
    pub fn install(&mut self) -> Result<(), NftError> {
        self.installer.arm()
    }

    async fn drive(self: Box<Self>, commands: mpsc::Receiver<Command>, reports: Reports) {
        let settings = driver::Settings {
            id: self.id,
            clock: self.clock,
            on_stop: self.on_stop,
            scope: self.scope,
            disarmer: self.disarmer,
            features: self.features,
            watched: self.watched,
        };
        let (alive, ended) = tokio::sync::oneshot::channel::<()>();
        let lost = reports.clone();
        let installer = self.installer;
        let thread = std::thread::Builder::new().name("nftables".to_owned()).spawn(move || {
            driver::drive(settings, installer, commands, reports);
            drop(alive);
        });
        match thread {
            // Nothing is ever sent: the channel closes when the thread ends.
            Ok(_) => drop(ended.await),
            Err(error) => {
                tracing::error!(%error, "the nftables driver can't start");
                let report = Event::Lost { enforcer: self.id, reason: error.to_string() };
                if lost.send(report).await.is_err() {
                    tracing::debug!("the core has stopped");
                }
            }
        }
    }
}

/// Removes the table for good while the driver runs. Until the daemon starts again the driver then writes nothing and
/// acknowledges everything, so that answers flow on an open host.
#[derive(Clone, Debug, Default)]
pub struct Disarmer(Arc<Armed>);

#[derive(Debug, Default)]
struct Armed {
    disarmed: AtomicBool,
    /// Another process takes over, or follows: the table stays, whatever `nftables.on_stop` says.
    kept: AtomicBool,
    /// See [`lock`]. Held while it is made or let go.
    lock: Mutex<Option<Kernel>>,
    /// Why there is none, though there should be.
    unlocked: Mutex<Option<String>>,
}

impl Disarmer {
    /// Removes the table. Blocks.
    ///
    /// # Errors
    /// As [`disarm`]; the table then stays, guarded as before.
    pub fn disarm(&self) -> Result<(), NftError> {
        // Set first: the driver hears of the removal at once and must know then that it was meant.
        let before = self.0.disarmed.swap(true, Ordering::SeqCst);
        self.unlock();
        disarm().inspect_err(|_| self.0.disarmed.store(before, Ordering::SeqCst))
    }

    /// Locks what is guarded, unless it is locked or disarmed.
    fn lock(&self, make: impl FnOnce() -> Result<Kernel, NftError>) {
        let mut lock = self.0.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if lock.is_some() || self.is_disarmed() {
            return;
        }
        let made = make();
        let why = made.as_ref().err().map(ToString::to_string);
        *self.0.unlocked.lock().unwrap_or_else(PoisonError::into_inner) = why;
        *lock = made.ok();
    }

    /// Why the host is open, where it is, while another program's flush of the ruleset is undone; see [`lock`].
    #[must_use]
    pub fn unlocked(&self) -> Option<String> {
        if self.is_disarmed() {
            return None;
        }
        self.0.unlocked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn unlock(&self) {
        self.0.unlocked.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.0.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// The table stays when the driver ends.
    pub fn keep(&self) {
        self.0.kept.store(true, Ordering::SeqCst);
    }

    fn keeps(&self) -> bool {
        self.0.kept.load(Ordering::SeqCst)
    }

    /// Whether the table was removed so.
    #[must_use]
    pub fn is_disarmed(&self) -> bool {
        self.0.disarmed.load(Ordering::SeqCst)
    }
}

impl Backend for Enforcer {
    fn specs(&self) -> Vec<EnforcerSpec> {
        vec![Self::spec(self.capacity)]
    }

    fn install(&mut self) -> Later<'_, Result<Vec<LeftOut>, EnforceError>> {
        Box::pin(async {
            Self::install(self)?;
            Ok(needs::effects(self.left_out()))
        })
    }

    fn control(&self) -> Arc<dyn Control> {
        Arc::new(self.disarmer())
    }

    /// Runs in a thread of its own, in the network namespace of the thread that first polls this.
    fn run(self: Box<Self>, commands: mpsc::Receiver<Command>, reports: Reports) -> Later<'static, ()> {
        Box::pin(self.drive(commands, reports))
    }
}

impl Control for Disarmer {
    fn status(&self) -> BackendStatus {
        let unlocked = self.unlocked().map(|why| {
            format!("when another program flushes the ruleset, the host is open until the table is back (Linux 5.12 can do better): {why}")
        });
        BackendStatus { name: BACKEND.name, disarmed: self.is_disarmed(), warnings: unlocked.into_iter().collect() }
    }

    fn stop(&self, how: Stop) -> Result<bool, EnforceError> {
        match how {
            Stop::Disarm => self.disarm()?,
            Stop::Keep => self.keep(),
            Stop::Withdraw => return Ok(false),
        }
        Ok(true)
    }

    fn register(&self, registry: &mut Registry) {
        metrics::register(registry);
    }
}

/// The row of nftables in [`crate::enforce::packet_filters::PACKETS`].
pub const BACKEND: PacketBackend = PacketBackend {
    name: "nftables",
    spec: Enforcer::spec,
    make: |rules, clock, id| Ok(Box::new(Enforcer::new(rules, clock, id)?)),
    is_there: || Ok(has_table()?),
    remove: || Ok(disarm()?),
    leaves: "table inet destguard",
};

/// Removes the table, where no driver runs (else see [`Disarmer`]): the only way in which the guard opens the host. A table that is not there is no error. Blocks.
///
/// # Errors
/// [`NftError::Permission`] and the like.
pub fn disarm() -> Result<(), NftError> {
    Kernel::open()?.delete_table()
}

/// Whether the table is in the kernel. Blocks for microseconds.
///
/// # Errors
/// [`NftError::Permission`] and the like.
pub fn has_table() -> Result<bool, NftError> {
    Kernel::open()?.has_table()
}

/// Whether the table is in the kernel, as far as this process may know: it needs CAP_NET_ADMIN. For who runs no driver. Blocks for microseconds.
#[must_use]
pub fn is_left_behind() -> bool {
    match has_table() {
        Ok(there) => there,
        Err(error) => {
            tracing::debug!(%error, "whether there is a table of an earlier run can't be known");
            false
        }
    }
}

/// Reads the named counters over a netlink socket of its own. Not for the hot path. Blocks for microseconds.
///
/// # Errors
/// [`NftError::Gone`] when the table isn't there.
pub fn counters() -> Result<Counters, NftError> {
    Kernel::open()?.counters()
}
