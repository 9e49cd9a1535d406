//! Carries out the core's commands: plans go to the table; another configuration goes to the speaker, while plans go on.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use destguard_bgp::io::reconfigure::Prepared;
use destguard_bgp::io::{Speaker, SpeakerHandle};
use destguard_bgp::wire::iana::Family;
use ipnet::IpNet;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;

use super::guards::{Heard, Telling};
use super::{AT_ONCE, AllLimits, BgpEnforcer, BgpError, GATHERING, Marks, Missing, REFUSALS, Refusals, Want};
use crate::core::event::{Change, EnforcerId, Event, Generation};
use crate::enforce::{Command, EnforceError};

/// What the commands' task has.
pub(super) struct Obeying {
    pub(super) handle: SpeakerHandle,
    /// `None` while it is being changed.
    pub(super) speaker: Option<Speaker>,
    pub(super) changing: Option<(JoinHandle<Speaker>, oneshot::Sender<()>)>,
    /// What is ready to be put in force.
    pub(super) prepared: Option<(Prepared, BgpEnforcer)>,
    pub(super) open: Vec<IpNet>,
    /// Whether `open` is announced.
    pub(super) enforce: bool,
    pub(super) marks: Marks,
    pub(super) ids: Vec<Option<EnforcerId>>,
    pub(super) graceful: bool,
    pub(super) drain: Duration,
    pub(super) missing: Missing,
    pub(super) refusals: Refusals,
    pub(super) wake: Arc<Notify>,
    pub(super) limits: Arc<Mutex<AllLimits>>,
    pub(super) telling: Telling,
    pub(super) heard: Arc<Heard>,
}

impl Obeying {
    /// Until `commands` closes.
    pub(super) async fn obey(&mut self, mut commands: mpsc::Receiver<Command>) {
        let mut taken = Vec::new();
        loop {
            let changing = async {
                match &mut self.changing {
                    Some((task, _)) => task.await,
                    None => std::future::pending().await,
                }
            };
            let changed = tokio::select! {
                biased;
                changed = changing => Some(changed),
                count = commands.recv_many(&mut taken, AT_ONCE) => {
                    if count == 0 {
                        break;
                    }
                    None
                }
            };
            if let Some(changed) = changed {
                self.changed(changed);
            }
            for command in taken.drain(..) {
                self.carry_out(command);
            }
            // Nobody hears of them yet: a wake-up for each plan would cost more than the plan.
            if !self.handle.has_sessions() && commands.len() < commands.max_capacity() / 2 {
                tokio::time::sleep(GATHERING).await;
            }
        }
        if let Some((task, _)) = &mut self.changing {
            let changed = task.await;
            self.changed(changed);
        }
    }

    fn changed(&mut self, changed: Result<Speaker, tokio::task::JoinError>) {
        let Some((_, done)) = self.changing.take() else { return };
        match changed {
            Ok(speaker) => self.speaker = Some(speaker),
            // Its sessions have ended with it, and nothing is confirmed: the gate says so.
            Err(error) => tracing::error!(%error, "a defect ended the BGP speaker"),
        }
        // Who asked may have gone away.
        done.send(()).unwrap_or_default();
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::Apply { generation, changes } => {
                if self.refuse(generation, &changes) {
                    self.wake.notify_one();
                }
                let marks = &mut self.marks;
                let changes = changes.iter().filter_map(|change| match change {
                    Change::Open { address, .. } => Some((*address, Want::Plain)),
                    Change::Announce { address, groups, .. } => Some((*address, marks.of(*groups))),
                    Change::Close { address } => Some((*address, Want::Withdrawn)),
                    // A route has no end of its own, and is for everybody.
                    Change::Extend { .. } | Change::Narrow { .. } => None,
                });
                self.handle.apply(generation.0, changes);
            }
            Command::Sync { generation, leases, .. } => {
                let addresses: Vec<_> = leases.iter().map(|(address, _)| *address).collect();
                self.handle.replace(generation.0, &addresses);
            }
            Command::Share(leases) => self.handle.tell_guards(self.telling.routes(&leases)),
            Command::Groups(groups) => self.marks = Marks::new(groups),
            Command::Enforce { enforce, done } => {
                // The routes of leases come and go with the core's plans.
                self.enforce = enforce;
                self.announce_open();
                drop(done.send(Ok(())));
            }
            Command::Open { open, done } => {
                self.open = open;
                self.announce_open();
                drop(done.send(Ok(())));
            }
            Command::Restored => self.handle.filled(),
            // A withdrawn route cuts flows anyway; there is no more that a speaker could do.
            Command::CutFlows(_) => {}
            // Of packets.
            Command::Rules { done, .. } => drop(done.send(Ok(Vec::new()))),
            Command::Own { done, .. } => drop(done.send(Ok(()))),
            Command::Hurry(addresses) => self.handle.hurry(&addresses),
            Command::PreparePeers { next, done } => drop(done.send(self.prepare(*next))),
            Command::ChangePeers { done } => self.change(done),
        }
    }

    fn announce_open(&self) {
        self.handle.set_open(if self.enforce { &self.open } else { &[] });
    }

    fn prepare(&mut self, next: BgpEnforcer) -> Result<(), EnforceError> {
        self.prepared = None;
        let speaker = self.speaker.as_ref().ok_or(EnforceError::Changing)?;
        let prepared = speaker.prepare(next.config.clone()).map_err(BgpError::from)?;
        self.prepared = Some((prepared, next));
        Ok(())
    }

    /// Puts in force what is prepared, else nothing.
    fn change(&mut self, done: oneshot::Sender<()>) {
        let (Some((prepared, next)), Some(mut speaker)) = (self.prepared.take(), self.speaker.take()) else { return };
        self.telling.asn = next.config.asn;
        self.heard.own.store(next.config.router_id.to_bits(), Ordering::Relaxed);
        self.ids = next.ids;
        self.graceful = !next.config.graceful_restart.is_zero();
        self.drain = next.drain;
        {
            let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
            missing.retain(|id, _| self.ids.contains(&Some(*id)));
        }
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner) = next.limits;
        let task = tokio::spawn(async move {
            speaker.commit(prepared).await;
            speaker
        });
        self.changing = Some((task, done));
    }

    /// Notes a refusal of each address that this plan opens for each peer whose session lacks its family. Returns whether there is any.
    fn refuse(&self, generation: Generation, changes: &[Change]) -> bool {
        let mut any = false;
        let missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        for (enforcer, lacks) in missing.iter() {
            let unfit = changes.iter().filter_map(|change| match change {
                Change::Open { address, .. } | Change::Announce { address, .. } => {
                    Some(*address).filter(|address| lacks.contains(Family::of(*address)))
                }
                _ => None,
            });
            for address in unfit {
                let reason = format!("the peer did not negotiate {}", Family::of(address));
                let mut queue = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
                // When full, the gate's deadline does what the refusal would: nothing is confirmed meanwhile.
                if queue.len() < REFUSALS {
                    queue.push_back(Event::RefusedAddress { enforcer: *enforcer, address, generation, reason });
                    any = true;
                }
            }
        }
        any
    }
}
