//! Routers come, go and change by a reload: `[bgp]` with its peers and edges.
//!
//! ```text
//!   prepare: sockets, passwords, options     (an error: all stays as it was)
//!   change:  core (who gates answers) --> speaker (sessions begin, end, begin anew; the others go on)
//! ```
//!
//! A peer that is new gates answers only once it has confirmed the table for the first time: until its session is up, answers go on as before. So does
//! one whose session begins anew, as long as another required router is there meanwhile; where it is the only one, answers wait for it as after
//! any loss of a session.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use destguard_bgp::config::SpeakerConfig;
use tokio::sync::mpsc::WeakSender;
use tokio::sync::oneshot;

use crate::config::Config;
use crate::config::schema::Role;
use crate::core::event::{self, EnforcerId, Listed};
use crate::dns::Rules;
use crate::enforce::bgp::guards::Judge;
use crate::enforce::bgp::{self, BgpEnforcer};
use crate::enforce::{Command, EnforceError, packet_filters};

/// The routers as they are in force.
#[derive(Debug)]
pub struct Routers {
    driver: WeakSender<Command>,
    known: Mutex<Known>,
}

#[derive(Clone, Debug)]
struct Known {
    speaker: SpeakerConfig,
    ids: BTreeMap<String, EnforcerId>,
    /// The number given last.
    last: u16,
}

/// What is ready to be put in force.
pub struct Prepared {
    known: Known,
    list: Vec<Listed>,
}

/// How long routes outlive their leases: only routes linger. Without peers an ended lease is over, in memory and on disk.
#[must_use]
pub fn linger(config: &Config) -> Duration {
    if config.bgp.peer.is_empty() { Duration::ZERO } else { config.bgp.linger.0 }
}

/// The router id by which other guards know this one, where there are any.
#[must_use]
pub fn among_guards(config: &Config) -> Option<Ipv4Addr> {
    config.bgp.router_id.filter(|_| config.bgp.peer.iter().any(|peer| peer.role == Role::Guard))
}

/// What another guard may lease here: what an answer to some name could open by the rules in force, and no list denies.
#[must_use]
pub fn judge(rules: Arc<ArcSwap<Rules>>) -> Judge {
    Arc::new(move |address| rules.load().judge().may_be_of_a_guard(address))
}

impl Prepared {
    /// What the core is told of them, before they say anything.
    #[must_use]
    pub fn told(&self, new: &Config) -> event::Routers {
        event::Routers { enforcers: self.list.clone(), linger: linger(new), exchange: among_guards(new) }
    }
}

impl Routers {
    /// Of a speaker that runs with this configuration.
    #[must_use]
    pub fn new(driver: WeakSender<Command>, enforcer: &BgpEnforcer) -> Self {
        let ids: BTreeMap<String, EnforcerId> = enforcer.members().map(|(id, spec)| (spec.name.clone(), id)).collect();
        let last = ids.values().map(|id| id.0).max().unwrap_or(0);
        Self { driver, known: Mutex::new(Known { speaker: enforcer.speaker().clone(), ids, last }) }
    }

    fn known(&self) -> Known {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn send(&self, command: Command) -> Result<(), EnforceError> {
        let driver = self.driver.upgrade().ok_or_else(stopped)?;
        driver.send(command).await.map_err(|_| stopped())
    }

    /// Does all that can fail. `None`: nothing differs. `packets`: there is a packet filter's enforcer as well.
    ///
    /// # Errors
    /// What can't be had; nothing has changed.
    pub async fn prepare(&self, old: &Config, new: &Config, packets: bool) -> Result<Option<Prepared>, EnforceError> {
        let wrong = |error: bgp::BgpError| EnforceError::from(error).of("bgp");
        let open = |config| bgp::open(config).map_err(wrong);
        // How much each peer may hold follows from other keys.
        if old.bgp == new.bgp && open(old)? == open(new)? {
            return Ok(None);
        }
        let before = self.known();
        let mut known = Known { ids: BTreeMap::new(), ..before.clone() };
        let mut fresh = Vec::new();
        let next = BgpEnforcer::with_ids(
            new,
            |speaker, name| {
                let same = before.ids.get(name).filter(|_| !before.speaker.restarts(speaker, name));
                let id = same.copied().unwrap_or_else(|| {
                    known.last = unused(known.last, &before.ids, &known.ids);
                    fresh.push(name.to_owned());
                    EnforcerId(known.last)
                });
                known.ids.insert(name.to_owned(), id);
                id
            },
            false,
        )
        .map_err(wrong)?;
        known.speaker = next.speaker().clone();
        // Somebody whose session goes on is waited for meanwhile.
        let stays = next.members().any(|(_, spec)| spec.required && !fresh.contains(&spec.name));
        let mut list = Vec::new();
        if let Some(backend) = packet_filters::named(&new.enforcer).filter(|_| packets) {
            list.push(Listed { id: EnforcerId(0), spec: (backend.spec)(new.lease.capacity), joins: false });
        }
        list.extend(next.members().map(|(id, spec)| {
            let added = !before.ids.contains_key(&spec.name);
            Listed { id, spec: spec.clone(), joins: added || stays }
        }));
        let (done, outcome) = oneshot::channel();
        self.send(Command::PreparePeers { next: Box::new(next), done }).await?;
        outcome.await.map_err(|_| stopped())?.map_err(|error| error.of("bgp"))?;
        Ok(Some(Prepared { known, list }))
    }

    /// Puts in force what was prepared, and the core was told; returns once the peers were told.
    ///
    /// # Errors
    /// The speaker has stopped.
    pub async fn change(&self, prepared: Prepared) -> Result<(), EnforceError> {
        let (done, told) = oneshot::channel();
        self.send(Command::ChangePeers { done }).await?;
        told.await.map_err(|_| stopped())?;
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = prepared.known;
        Ok(())
    }
}

/// The speaker's task has ended.
fn stopped() -> EnforceError {
    EnforceError::Stopped.of("bgp")
}

/// The next number that nobody has.
fn unused(last: u16, before: &BTreeMap<String, EnforcerId>, now: &BTreeMap<String, EnforcerId>) -> u16 {
    let taken = |number: &u16| before.values().chain(now.values()).any(|id| id.0 == *number);
    // 0 is that of the packet filter.
    let numbers = (last.saturating_add(1)..u16::MAX).chain(1..=last);
    numbers.into_iter().find(|number| !taken(number)).unwrap_or(u16::MAX)
}
