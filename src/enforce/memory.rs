//! An enforcer that holds its state in memory: for tests and dry runs. Does what the contract of [`Event`] and
//! [`Change`] says, no more, so it shows what the contract is worth.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::registry::Registry;
use tokio::sync::mpsc;

use super::backend::{Backend, BackendStatus, Control, Later, LeftOut, Stop};
use super::{Command, EnforceError, Reports};
use crate::core::event::{Change, EnforcerId, EnforcerKind, EnforcerSpec, Event};
use crate::core::groups::GroupSet;
use crate::core::moment::Moment;
use crate::core::narrow::{NarrowKinds, PairId};

/// What an enforcer holds. The synchronous form, for tests on a virtual clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Address and end; the end says nothing with route enforcers.
    pub open: BTreeMap<IpAddr, Moment>,
    /// Of timed ones: pairs of address, and for whom and to which port, and the end.
    pub pairs: BTreeMap<PairId, Moment>,
    /// Of routes: the groups whose communities they bear.
    pub groups: BTreeMap<IpAddr, GroupSet>,
    /// Most addresses it takes; opening more is refused. `None` = any number.
    pub limit: Option<usize>,
}

impl Held {
    /// Carries out a plan. Closes and extensions always; openings all or none.
    ///
    /// # Errors
    /// The openings don't fit; what [`Event::Refused`] reports.
    pub fn apply(&mut self, changes: &[Change]) -> Result<(), String> {
        for change in changes {
            match change {
                Change::Close { address } => {
                    self.open.remove(address);
                    self.groups.remove(address);
                }
                Change::Announce { address, groups, new: false } if self.open.contains_key(address) => {
                    self.groups.insert(*address, *groups);
                }
                Change::Extend { address, ends } => drop(self.open.insert(*address, *ends)),
                Change::Narrow { address, narrow, ends: None, .. } => drop(self.pairs.remove(&(*address, *narrow))),
                Change::Narrow { address, narrow, ends: Some(ends), new: false } => {
                    self.pairs.insert((*address, *narrow), *ends);
                }
                Change::Open { .. } | Change::Announce { .. } | Change::Narrow { .. } => {}
            }
        }
        let opens = changes.iter().filter_map(|change| match change {
            Change::Open { address, ends } => Some((*address, *ends)),
            Change::Announce { address, .. } => Some((*address, Moment::ZERO)),
            _ => None,
        });
        let new_pairs = changes.iter().filter_map(|change| match change {
            Change::Narrow { address, narrow, ends: Some(ends), new: true } => Some(((*address, *narrow), *ends)),
            _ => None,
        });
        let (mut open, mut pairs) = (self.open.clone(), self.pairs.clone());
        open.extend(opens);
        pairs.extend(new_pairs);
        if self.limit.is_some_and(|limit| open.len().max(pairs.len()) > limit) {
            return Err("full".to_owned());
        }
        (self.open, self.pairs) = (open, pairs);
        for change in changes {
            match change {
                Change::Announce { address, groups, .. } => drop(self.groups.insert(*address, *groups)),
                Change::Open { address, .. } => drop(self.groups.remove(address)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes over the full state.
    pub fn sync(&mut self, leases: &[(IpAddr, Moment)], pairs: &[(PairId, Moment)]) {
        self.open = leases.iter().copied().collect();
        self.pairs = pairs.iter().copied().collect();
    }

    /// Lets timed entries go whose end has come, as a kernel does.
    pub fn expire(&mut self, now: Moment) {
        self.open.retain(|_, ends| *ends > now);
        self.pairs.retain(|_, ends| *ends > now);
    }
}

/// A driver that only remembers, so that tests need no kernel.
#[derive(Debug)]
pub struct Memory {
    id: EnforcerId,
    kind: EnforcerKind,
    held: Arc<Mutex<Held>>,
}

impl Memory {
    /// A driver for the enforcer `id`, and what it holds, to look at.
    #[must_use]
    pub fn new(id: EnforcerId, kind: EnforcerKind) -> (Self, Arc<Mutex<Held>>) {
        let held = Arc::default();
        (Self { id, kind, held: Arc::clone(&held) }, held)
    }

    /// Carries out one command and says what to report.
    fn carry_out(&self, command: Command) -> Vec<Event> {
        // Nothing panics while it holds the lock; were it so, the map would still be whole.
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let enforcer = self.id;
        match command {
            Command::Apply { generation, changes } => match held.apply(&changes) {
                Ok(()) => vec![Event::Applied { enforcer, generation }],
                Err(reason) => {
                    vec![Event::Refused { enforcer, generation, reason }, Event::Applied { enforcer, generation }]
                }
            },
            Command::Sync { generation, leases, pairs } => {
                held.sync(&leases, &pairs);
                vec![Event::Applied { enforcer, generation }]
            }
            Command::Enforce { done, .. } | Command::Own { done, .. } | Command::Open { done, .. } => {
                drop(done.send(Ok(())));
                Vec::new()
            }
            Command::Rules { done, .. } => {
                drop(done.send(Ok(Vec::new())));
                Vec::new()
            }
            Command::PreparePeers { done, .. } => {
                drop(done.send(Ok(())));
                Vec::new()
            }
            Command::ChangePeers { done } => {
                done.send(()).unwrap_or_default();
                Vec::new()
            }
            Command::CutFlows(_) | Command::Hurry(_) | Command::Restored | Command::Groups(_) | Command::Share(_) => {
                Vec::new()
            }
        }
    }
}

impl Backend for Memory {
    fn specs(&self) -> Vec<EnforcerSpec> {
        let (ipv4, ipv6, name) = (true, true, "memory".to_owned());
        let narrow = NarrowKinds { clients: true, ports: true, applications: true };
        vec![EnforcerSpec { name, kind: self.kind, required: true, max_addresses: usize::MAX, ipv4, ipv6, narrow }]
    }

    fn install(&mut self) -> Later<'_, Result<Vec<LeftOut>, EnforceError>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn control(&self) -> Arc<dyn Control> {
        Arc::new(MemoryControl)
    }

    fn run(self: Box<Self>, commands: mpsc::Receiver<Command>, reports: Reports) -> Later<'static, ()> {
        Box::pin(self.obey(commands, reports))
    }
}

/// Nothing outlives the driver.
#[derive(Debug)]
struct MemoryControl;

impl Control for MemoryControl {
    fn status(&self) -> BackendStatus {
        BackendStatus { name: "memory", ..BackendStatus::default() }
    }

    fn stop(&self, _how: Stop) -> Result<bool, EnforceError> {
        Ok(false)
    }

    fn register(&self, _registry: &mut Registry) {}
}

impl Memory {
    async fn obey(self: Box<Self>, mut commands: mpsc::Receiver<Command>, reports: Reports) {
        let first = match self.kind {
            EnforcerKind::Timed => Event::WantSync { enforcer: self.id },
            EnforcerKind::Route => Event::Applied { enforcer: self.id, generation: Default::default() },
        };
        if reports.send(first).await.is_err() {
            return;
        }
        while let Some(command) = commands.recv().await {
            for event in self.carry_out(command) {
                if reports.send(event).await.is_err() {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::event::Generation;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([198, 51, 100, last])
    }

    #[test]
    fn a_full_enforcer_refuses_the_openings_and_does_the_rest() {
        let ends = Moment(9000);
        let mut held = Held { limit: Some(1), ..Held::default() };
        held.apply(&[Change::Open { address: address(1), ends: Moment(5000) }]).unwrap();
        held.apply(&[Change::Open { address: address(2), ends }, Change::Extend { address: address(1), ends }])
            .unwrap_err();
        assert_eq!(held.open, BTreeMap::from([(address(1), ends)]));
        held.apply(&[Change::Open { address: address(2), ends }, Change::Close { address: address(1) }]).unwrap();
        assert_eq!(held.open, BTreeMap::from([(address(2), ends)]));
        held.expire(ends);
        assert!(held.open.is_empty());
    }

    #[tokio::test]
    async fn the_driver_asks_for_the_full_state_and_acknowledges() {
        let (memory, held) = Memory::new(EnforcerId(3), EnforcerKind::Timed);
        let (commands, received) = mpsc::channel(4);
        let (reports, mut heard) = mpsc::channel(4);
        let driver = tokio::spawn(Box::new(memory).run(received, reports));
        assert!(matches!(heard.recv().await, Some(Event::WantSync { enforcer: EnforcerId(3) })));
        let leases = vec![(address(1), Moment(5000))];
        commands.send(Command::Sync { generation: Generation(7), leases, pairs: Vec::new() }).await.unwrap();
        assert!(matches!(heard.recv().await, Some(Event::Applied { generation: Generation(7), .. })));
        assert_eq!(held.lock().unwrap().open.len(), 1);
        drop(commands);
        driver.await.unwrap();
    }
}
