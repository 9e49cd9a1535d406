//! The guard's own anycast addresses: sessions that carry nothing else.
//!
//! ```text
//!   daemon: how the guard is --> [steady] --> Service --> a speaker for each local address --> routers
//! ```
//!
//! They have a speaker apart from the leases' one: no graceful restart, so that a router drops the route of a guard that dies at once; the guard itself as
//! the next hop, which is the address that the session comes from; a table that holds service addresses alone. A session carries its own family.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use destguard_bgp::config::SpeakerConfig;
use destguard_bgp::io::reconfigure::Prepared as Renewed;
use destguard_bgp::io::{PeerEvent, Speaker, SpeakerHandle};
use destguard_bgp::session::Stop;
use destguard_bgp::status::{PeerStatus, State};
use ipnet::IpNet;
use tokio::sync::mpsc;

use super::BgpError;
use crate::config::community;
use crate::config::schema::{self, Config};
use crate::enforce::EnforceError;

pub mod metrics;
pub mod steady;

use steady::{Ill, Steady, Step, Waits};

/// How long routers may take to acknowledge that the routes go.
const WITHDRAWING: Duration = Duration::from_millis(500);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// The service addresses and their sessions.
#[derive(Clone, Debug)]
pub struct ServiceView {
    /// The addresses of `bgp.service`, which are announced while the guard answers.
    pub addresses: Vec<IpAddr>,
    /// Whether they are announced to the routers.
    pub announced: bool,
    /// Since when they are, or aren't.
    pub since: Instant,
    /// Why they aren't, or soon won't be.
    pub reason: Option<String>,
    /// In the order of the guard's addresses there.
    pub peers: Vec<PeerStatus>,
}

/// A running session's speaker, by the address that it comes from.
type Speakers = BTreeMap<IpAddr, Speaker>;

/// The service addresses and their sessions.
#[derive(Debug)]
pub struct Service {
    /// Held while sessions change.
    speakers: tokio::sync::Mutex<Speakers>,
    /// What is told and asked meanwhile.
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    addresses: Vec<IpAddr>,
    handles: BTreeMap<IpAddr, SpeakerHandle>,
    steady: Steady,
    /// Times it was announced and withdrawn.
    changes: [u64; 2],
}

/// Another configuration, of which all that can fail has been done.
pub struct Prepared {
    addresses: Vec<IpAddr>,
    waits: Waits,
    renewed: Vec<(IpAddr, Renewed)>,
    new: Vec<(IpAddr, Speaker)>,
}

/// Of each local address.
fn speakers(config: &Config) -> Result<BTreeMap<IpAddr, SpeakerConfig>, BgpError> {
    let bgp = &config.bgp;
    let service = &bgp.service;
    let mut all = BTreeMap::<IpAddr, SpeakerConfig>::new();
    if service.peer.is_empty() {
        return Ok(all);
    }
    let asn = bgp.asn.ok_or(BgpError::Missing("asn"))?;
    let router_id = bgp.router_id.ok_or(BgpError::Missing("router_id"))?;
    let standard = service.communities.iter().map(|text| community::standard(text));
    let standard = standard.collect::<Result<Vec<_>, _>>()?;
    let large = service.large_communities.iter().map(|text| community::large(text));
    let large = large.collect::<Result<Vec<_>, _>>()?;
    for given in &service.peer {
        let speaker = all.entry(given.local_address).or_insert_with(|| SpeakerConfig {
            next_hop_ipv4: ipv4(given.local_address),
            next_hop_ipv6: match given.local_address {
                IpAddr::V6(own) => Some(own),
                IpAddr::V4(_) => None,
            },
            communities: standard.clone(),
            large_communities: large.clone(),
            no_export: service.no_export,
            local_pref: bgp.local_pref,
            mark: crate::sys::mark(config),
            ..SpeakerConfig::new(asn, router_id)
        });
        let mut peer = super::peer(&given.as_peer(), config.gate.deadline.0)?;
        peer.samples = false;
        speaker.peers.push(peer);
    }
    Ok(all)
}

fn ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(own) => Some(own),
        IpAddr::V6(_) => None,
    }
}

fn waits(service: &schema::Service) -> Waits {
    Waits { up: service.up_after.0, down: service.down_after.0 }
}

/// Its sessions come up, and nothing is announced on them yet.
async fn start(config: SpeakerConfig) -> Result<Speaker, BgpError> {
    let (speaker, events) = Speaker::start(config).await?;
    tokio::spawn(forget(events));
    Ok(speaker)
}

/// Nothing waits for what these sessions confirm; up and down are logged where they happen.
async fn forget(mut events: mpsc::Receiver<PeerEvent>) {
    while events.recv().await.is_some() {}
}

impl Service {
    /// Starts the sessions, if there are to be any.
    ///
    /// # Errors
    /// See [`BgpError`].
    pub async fn start(config: &Config) -> Result<Self, BgpError> {
        let mut all = Speakers::new();
        for (local, speaker) in speakers(config)? {
            all.insert(local, start(speaker).await?);
        }
        let service = &config.bgp.service;
        let known = Known {
            addresses: service.addresses.clone(),
            handles: all.iter().map(|(local, speaker)| (*local, speaker.handle())).collect(),
            steady: Steady::new(waits(service), Instant::now()),
            changes: [0; 2],
        };
        Ok(Self { speakers: tokio::sync::Mutex::new(all), known: Mutex::new(known) })
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is anything to announce.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        let known = self.known();
        !known.handles.is_empty() && !known.addresses.is_empty()
    }

    /// How the guard is now; `None`: well.
    pub fn look(&self, ill: Option<Ill>) {
        let now = Instant::now();
        let mut known = self.known();
        let because = ill.clone();
        match known.steady.look(ill, now) {
            Some(Step::Announce) => tracing::info!(addresses = ?known.addresses, "the service addresses are announced"),
            Some(Step::Withdraw) => {
                let why = because.map(|ill| ill.why).unwrap_or_default();
                tracing::warn!(addresses = ?known.addresses, why, "the service addresses are withdrawn");
            }
            None => return,
        }
        known.changed();
    }

    /// Withdraws for good, and returns once the routers have heard it, or half a second later. Whether anything was announced.
    pub async fn withdraw(&self) -> bool {
        {
            let mut known = self.known();
            if known.steady.stop(Instant::now()).is_none() {
                return false;
            }
            tracing::info!(addresses = ?known.addresses, "the service addresses are withdrawn: the guard stops");
            known.changed();
        }
        let deadline = tokio::time::Instant::now() + WITHDRAWING;
        let announced = |peer: &PeerStatus| peer.state == State::Established && peer.advertised.iter().any(|n| *n > 0);
        while self.sessions().iter().any(announced) && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(LOOK).await;
        }
        true
    }

    /// Ends the sessions.
    pub async fn end(&self) {
        for (_, speaker) in std::mem::take(&mut *self.speakers.lock().await) {
            speaker.stop(Stop::Shutdown("destguard stops".to_owned())).await;
        }
    }

    /// Does all that can fail of another configuration. `None`: nothing differs.
    ///
    /// # Errors
    /// Says what can't be had; nothing has changed.
    pub async fn prepare(&self, old: &Config, new: &Config) -> Result<Option<Prepared>, EnforceError> {
        let prepared = self.renewed(old, new).await;
        prepared.map_err(|error| EnforceError::from(error).of("bgp.service"))
    }

    async fn renewed(&self, old: &Config, new: &Config) -> Result<Option<Prepared>, BgpError> {
        let common = |config: &Config| {
            (
                config.bgp.service.clone(),
                config.bgp.asn,
                config.bgp.router_id,
                config.bgp.local_pref,
                crate::sys::mark(config),
            )
        };
        if common(old) == common(new) {
            return Ok(None);
        }
        let service = &new.bgp.service;
        let addresses = service.addresses.clone();
        let mut prepared = Prepared { addresses, waits: waits(service), renewed: Vec::new(), new: Vec::new() };
        let running = self.speakers.lock().await;
        for (local, config) in speakers(new)? {
            match running.get(&local) {
                Some(speaker) => {
                    let renewed = speaker.prepare(config)?;
                    prepared.renewed.push((local, renewed));
                }
                None => prepared.new.push((local, start(config).await?)),
            }
        }
        Ok(Some(prepared))
    }

    /// Puts in force what was prepared since the last change.
    pub async fn change(&self, prepared: Prepared) {
        let mut running = self.speakers.lock().await;
        let mut ended = std::mem::take(&mut *running);
        for (local, renewed) in prepared.renewed {
            if let Some(mut speaker) = ended.remove(&local) {
                speaker.commit(renewed).await;
                running.insert(local, speaker);
            }
        }
        running.extend(prepared.new);
        {
            let mut known = self.known();
            known.addresses = prepared.addresses;
            known.steady.set(prepared.waits);
            known.handles = running.iter().map(|(local, speaker)| (*local, speaker.handle())).collect();
            known.tell();
        }
        drop(running);
        for (_, speaker) in ended {
            speaker.stop(Stop::Deconfigured).await;
        }
    }

    fn sessions(&self) -> Vec<PeerStatus> {
        self.known().handles.values().flat_map(SpeakerHandle::status).collect()
    }

    /// What operators should know: clients are led elsewhere, or a router can't be told to lead them here.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let Some(view) = self.view() else { return Vec::new() };
        let withheld = view.reason.map(|why| match view.announced {
            false => format!("the service addresses are not announced: {why}"),
            true => format!("the service addresses are about to be withdrawn: {why}"),
        });
        let down = view.peers.iter().filter(|peer| peer.state != State::Established);
        let down = down.map(|peer| {
            let why = peer.last_error.as_ref().map_or_else(String::new, |(why, _)| format!(", {why}"));
            format!("{} leads no client here: its session is not up: {}{why}", peer.name, peer.state)
        });
        withheld.into_iter().chain(down).collect()
    }

    /// As they are now; `None`: there are none.
    #[must_use]
    pub fn view(&self) -> Option<ServiceView> {
        let now = Instant::now();
        let sessions = self.sessions();
        let known = self.known();
        if known.handles.is_empty() {
            return None;
        }
        Some(ServiceView {
            addresses: known.addresses.clone(),
            announced: known.steady.is_announced(),
            since: known.steady.since(),
            reason: known.steady.ill(now).map(|ill| ill.why),
            peers: sessions,
        })
    }
}

impl Known {
    /// What is announced has become another.
    fn changed(&mut self) {
        let [ups, downs] = &mut self.changes;
        let count = if self.steady.is_announced() { ups } else { downs };
        *count = count.saturating_add(1);
        self.tell();
    }

    fn tell(&self) {
        for (local, handle) in &self.handles {
            let mine = self.addresses.iter().filter(|address| address.is_ipv4() == local.is_ipv4());
            let mine: Vec<IpNet> = mine.filter(|_| self.steady.is_announced()).copied().map(IpNet::from).collect();
            handle.set_open(&mine);
        }
    }
}
