//! Leases in ipsets, for hosts that must stay on iptables.
//!
//! ```text
//!   config --> rules --iptables-restore--> chains destguard-*     (once at start, after a change, after somebody removed them)
//!   core --Command--> timed driver --netlink, acked--> ipsets      (per answer)
//!                         ^----- read back, listed, compared ------'
//! ```
//!
//! Rules and sets outlive the daemon, and elements have times of their own, so a crash fails closed and leases end. Nobody tells of changes of others
//! here: they are looked for twice a second. Both variants of iptables do: see [`program`].

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::registry::Registry;
use tokio::sync::mpsc;

use crate::core::event::{EnforcerId, EnforcerKind, EnforcerSpec};
use crate::core::narrow::NarrowKinds;
use crate::enforce::backend::{Backend, BackendStatus, Control, Later, LeftOut, PacketBackend, Stop};
use crate::enforce::nftables::{Counters, metrics};
use crate::enforce::rules::Rules;
use crate::enforce::timed::{self, Switch, Table as _, TableError};
use crate::enforce::{Command, EnforceError, Reports};
use crate::sys::clock::Clock;

pub mod counters;
pub mod ipset;
mod others;
pub mod program;
pub mod rules;
mod table;

use ipset::SetError;
use program::{ProgramError, Programs};
use rules::Family;
use table::{Filter, Seen};

/// Room for addresses whose flows are being cut.
const CUTS: u32 = 16_384;

/// The enforcer by iptables of this network namespace.
#[derive(Debug)]
pub struct Enforcer {
    id: EnforcerId,
    clock: Clock,
    rules: Rules,
    filter: Filter,
    control: Arc<Switches>,
    left_out: Vec<LeftOut>,
}

impl Enforcer {
    /// Takes what the rules are made of; `id` is its place in the core's list. Nothing is touched yet.
    ///
    /// # Errors
    /// There is no iptables.
    pub fn new(rules: &Rules, clock: Clock, id: EnforcerId) -> Result<Self, ProgramError> {
        Programs::available()?;
        let control = Arc::new(Switches::default());
        let filter = Filter::new(rules, Arc::clone(&control.seen));
        Ok(Self { id, clock, rules: rules.clone(), filter, control, left_out: Vec::new() })
    }

    /// How the core is to see it: timed, required, both families, `capacity` addresses.
    #[must_use]
    pub fn spec(capacity: usize) -> EnforcerSpec {
        EnforcerSpec {
            name: BACKEND.name.to_owned(),
            kind: EnforcerKind::Timed,
            required: true,
            max_addresses: capacity,
            ipv4: true,
            ipv6: true,
            narrow: NarrowKinds { clients: true, ports: true, applications: false },
        }
    }

    /// Uses these programs, whatever the host's rules say. In tests.
    #[must_use]
    pub fn by(self, programs: Programs) -> Self {
        self.control.seen.lock().unwrap_or_else(PoisonError::into_inner).programs = Some(programs);
        self
    }

    /// Puts rules and sets in force; what an earlier run left in sets is taken over. Blocks.
    ///
    /// # Errors
    /// See [`TableError`].
    pub fn install(&mut self) -> Result<Vec<LeftOut>, TableError> {
        self.left_out = self.filter.install()?.left_out;
        Ok(self.left_out.clone())
    }
}

impl Backend for Enforcer {
    fn specs(&self) -> Vec<EnforcerSpec> {
        vec![Self::spec(self.rules.capacity)]
    }

    fn install(&mut self) -> Later<'_, Result<Vec<LeftOut>, EnforceError>> {
        Box::pin(async { Ok(Self::install(self)?) })
    }

    fn control(&self) -> Arc<dyn Control> {
        self.control.clone()
    }

    fn run(self: Box<Self>, commands: mpsc::Receiver<Command>, reports: Reports) -> Later<'static, ()> {
        let settings = timed::Settings {
            id: self.id,
            clock: self.clock,
            switch: self.control.switch.clone(),
            rules: self.rules,
            left_out: self.left_out,
        };
        Box::pin(timed::run(self.filter, settings, commands, reports))
    }
}

/// For whoever asks while it runs.
#[derive(Debug, Default)]
struct Switches {
    switch: Switch,
    seen: Arc<Mutex<Seen>>,
}

impl Control for Switches {
    fn status(&self) -> BackendStatus {
        BackendStatus { name: BACKEND.name, disarmed: self.switch.is_disarmed(), warnings: Vec::new() }
    }

    fn stop(&self, how: Stop) -> Result<bool, EnforceError> {
        Ok(self.switch.stop(how, table::remove_all)?)
    }

    fn register(&self, registry: &mut Registry) {
        let seen = Arc::clone(&self.seen);
        metrics::register_by(registry, move || counted(&seen));
    }
}

fn counted(seen: &Mutex<Seen>) -> Result<Counters, ProgramError> {
    let (programs, base) = {
        let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        (seen.programs.clone().ok_or(ProgramError::NotUsed)?, seen.base)
    };
    Ok(counters::sum(base, counters::read(&programs, &Family::ALL)?))
}

/// Whether rules and sets of a guard are here. Blocks for microseconds.
///
/// # Errors
/// The kernel's.
pub fn is_there() -> Result<bool, SetError> {
    table::is_there()
}

/// Removes rules and sets, where no driver runs. Nothing being there is no error. Blocks.
///
/// # Errors
/// What may still be there.
pub fn remove() -> Result<(), TableError> {
    table::remove_all()
}

/// The row of iptables in [`crate::enforce::packet_filters::PACKETS`].
pub const BACKEND: PacketBackend = PacketBackend {
    name: "iptables",
    spec: Enforcer::spec,
    make: |rules, clock, id| Ok(Box::new(Enforcer::new(rules, clock, id)?)),
    is_there: || Ok(is_there()?),
    remove: || Ok(remove()?),
    leaves: "iptables chains and ipsets \"destguard\"",
};
