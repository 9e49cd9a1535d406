//! Another configuration of a running speaker: peers come, go and change; the sessions of the others go on.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::net::TcpListener;

use super::{PATIENCE, Speaker, StartError, bfd, check, hang_up, listen, lock};
use crate::config::{PeerConfig, Role, SpeakerConfig};
use crate::session::Stop;

/// A configuration of which all that can fail has been done.
pub struct Prepared {
    /// With each peer at its place.
    config: SpeakerConfig,
    order: Vec<usize>,
    /// At the places of the configuration; only those that begin.
    watches: bfd::Watches,
    bfd: bfd::Update,
    listeners: Vec<(SocketAddr, Option<TcpListener>)>,
}

impl Speaker {
    /// Binds and checks what another configuration needs; nothing of it is in force yet.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn prepare(&self, config: SpeakerConfig) -> Result<Prepared, StartError> {
        check(&config)?;
        let old = self.shared.config();
        let (config, order) = self.placed(&old, config)?;
        let mut watches = bfd::watches(&config);
        for (place, watch) in watches.iter_mut().enumerate().filter(|(_, watch)| watch.is_some()) {
            let (before, after) = (old.peers.get(place), config.peers.get(place));
            let same = before.zip(after).is_some_and(|(before, after)| bfd::is_same(before, after));
            if let Some(kept) = self.shared.bfd(place).filter(|_| same) {
                *watch = Some(kept);
            }
        }
        let bfd = bfd::Update::prepare(&old, &config, &watches)?;
        let mut listeners = Vec::new();
        for address in config.listen.iter().filter(|address| !self.listeners.contains_key(address)) {
            match listen::bind(*address, &config) {
                Ok(listener) => listeners.push((*address, Some(listener))),
                Err(error) if listen::is_absent(&error) => listeners.push((*address, None)),
                Err(source) => return Err(StartError::Listen { protocol: "BGP", address: *address, source }),
            }
        }
        Ok(Prepared { config, order, watches, bfd, listeners })
    }

    /// Each peer at the place that it has, or at a free one; and the places in the order of the configuration.
    fn placed(
        &self,
        old: &SpeakerConfig,
        mut config: SpeakerConfig,
    ) -> Result<(SpeakerConfig, Vec<usize>), StartError> {
        let mut places = old.peers.clone();
        for place in &mut places {
            if !config.peers.iter().any(|peer| peer.name == place.name) {
                *place = PeerConfig { role: Role::Gone, ..PeerConfig::new("", place.address, 0) };
            }
        }
        let mut order = Vec::new();
        // Those that are there first: what one leaves another may have only afterwards.
        let known: BTreeSet<String> = places.iter().map(|place| place.name.clone()).collect();
        for peer in std::mem::take(&mut config.peers) {
            let wanted = if known.contains(&peer.name) { peer.name.as_str() } else { "" };
            let free = |place: &PeerConfig| place.name == wanted && (place.role == Role::Gone) == wanted.is_empty();
            let at = places.iter().position(free).unwrap_or(places.len());
            if at >= self.shared.slots.len() {
                return Err(StartError::NoPlace { peer: peer.name });
            }
            order.push(at);
            match places.get_mut(at) {
                Some(place) => *place = peer,
                None => places.push(peer),
            }
        }
        config.peers = places;
        // Of this process's sessions each knows by itself whether there was one before it.
        config.restarting = false;
        Ok((config, order))
    }

    /// Puts a configuration in force that was prepared since the last one. A peer that is gone is told so; one whose session must begin anew is left
    /// without a word where it keeps the routes for us meanwhile (graceful restart). Takes two seconds at most, where a peer doesn't listen.
    pub async fn commit(&mut self, prepared: Prepared) {
        let Prepared { config, order, watches, bfd, listeners } = prepared;
        let old = self.shared.config();
        let rebound = listen::options(&old) != listen::options(&config);
        let gone: Vec<SocketAddr> =
            self.listeners.keys().copied().filter(|address| rebound || !config.listen.contains(address)).collect();
        let again: Vec<SocketAddr> = gone.iter().copied().filter(|address| config.listen.contains(address)).collect();
        for address in gone {
            if let Some(mut listener) = self.listeners.remove(&address) {
                hang_up(&mut listener).await;
                self.shared.waiting.note(address, None);
            }
        }
        let keeps = !old.graceful_restart.is_zero() && (old.asn, old.router_id) == (config.asn, config.router_id);
        let mut ending = Vec::new();
        let mut begins = Vec::new();
        for (place, peer) in config.peers.iter().enumerate() {
            let before = old.peers.get(place).filter(|before| before.role != Role::Gone);
            let stop = match before {
                Some(before) if before.name != peer.name => Stop::Deconfigured,
                Some(_) if old.restarts(&config, &peer.name) && keeps => Stop::Restart,
                Some(_) if old.restarts(&config, &peer.name) => Stop::Changed,
                Some(_) => {
                    if let Some(running) = self.tasks.get(&place) {
                        running.tag.store(peer.tag, Ordering::SeqCst);
                    }
                    continue;
                }
                None => {
                    begins.push((place, false));
                    continue;
                }
            };
            if let Some(slot) = self.shared.slot(place) {
                *lock(&slot.door) = None;
            }
            if let Some(running) = self.tasks.remove(&place) {
                begins.push((place, stop == Stop::Restart));
                running.stop.send_replace(Some(stop));
                ending.push(running);
            }
        }
        let deadline = tokio::time::Instant::now() + PATIENCE;
        for running in &mut ending {
            running.ended(deadline).await;
        }
        let config = Arc::new(config);
        *lock(&self.shared.config) = Arc::clone(&config);
        let now = Instant::now();
        for (place, _) in &begins {
            if let Some(peer) = config.peers.get(*place) {
                self.take_in(*place, peer, watches.get(*place).cloned().flatten(), now);
            }
        }
        *lock(&self.shared.order) = order;
        // Behind BGP, whose own word on why it ends shall be the first that the peer hears.
        if self.bfd_updates.send(bfd).await.is_err() {
            tracing::error!("BFD has ended");
        }
        begins.into_iter().for_each(|(place, resumes)| self.begin(place, resumes));
        for (address, listener) in listeners {
            if listener.is_none() {
                self.shared.waiting.note(address, Some("the address isn't there".to_owned()));
            }
            self.listen(address, listener);
        }
        for address in again {
            match listen::bind(address, &config) {
                Ok(listener) => self.listen(address, Some(listener)),
                Err(error) => {
                    self.shared.waiting.note(address, Some(error.to_string()));
                    self.listen(address, None);
                }
            }
        }
        self.shared.changed.send_replace(());
    }
}
