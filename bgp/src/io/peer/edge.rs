//! Routers that others bring the routes to. Nothing is sent to one; it follows the table, and what it shows is its word on it: answers to probes
//! ([`Role::Edge`], without a session), or what its own session, that of an observer, sends back ([`PeerConfig::watches`]).
//!
//! A probed edge is up as long as a session *feeds* it, see [`SpeakerConfig::feeds`]. After that was gone, nothing that was seen before counts.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::{ROOM, TAKES, Task, confirming};
use crate::adj_out::AdjOut;
#[cfg(doc)]
use crate::config::SpeakerConfig;
use crate::config::{PeerConfig, Role};
use crate::io::What;
use crate::session::ConnectionId;
use crate::status::State;
use crate::table::index;
use crate::wire::capability::Negotiated;
use crate::wire::iana::Families;
use crate::wire::message::Message;
use crate::wire::{EncodeContext, PeerType};

/// When KEEPALIVEs follow a change of the table.
const NUDGES: [Duration; 3] = [Duration::from_millis(2), Duration::from_millis(20), Duration::from_millis(200)];

/// KEEPALIVEs to a router that is to pass on what it heard: BIRD's event loop may else sleep up to 3 s before it sends what it has for others.
#[derive(Debug, Default)]
pub(super) struct Nudge {
    /// The table's generation that was seen last.
    generation: u64,
    /// When, and how many were sent since.
    since: Option<(Instant, usize)>,
}

impl Nudge {
    pub(super) fn due(&self) -> Option<Instant> {
        let (since, sent) = self.since?;
        NUDGES.get(sent).map(|after| since + *after)
    }
}

impl Task {
    /// Wakes a reflector or an observed router after a change of the table.
    pub(super) fn nudge(&mut self, now: Instant) {
        let passes_on =
            |peer: &PeerConfig| peer.role == Role::Observer || (peer.role == Role::Enforcer && !peer.forwards);
        let Some(up) = self.up.as_ref().filter(|_| self.config.peers.get(self.place.index).is_some_and(passes_on))
        else {
            return;
        };
        let generation = self.place.shared.table().newest();
        if generation != self.nudge.generation {
            self.nudge = Nudge { generation, since: Some((now, 0)) };
        }
        let id = up.connection;
        if self.nudge.due().is_none_or(|due| now < due) {
            return;
        }
        if let Some((_, sent)) = &mut self.nudge.since {
            *sent += 1;
        }
        let Some(connection) = self.connections.iter_mut().find(|connection| connection.id == id) else { return };
        let mut octets = BytesMut::new();
        match Message::Keepalive.encode(&EncodeContext::initial(), &mut octets) {
            Ok(_) => connection.push(octets.freeze()),
            Err(error) => tracing::error!(%error, "a KEEPALIVE can't be encoded"),
        }
    }

    /// Whether this is a router without a session.
    pub(super) fn is_edge(&self) -> bool {
        self.peer().is_some_and(|peer| peer.role == Role::Edge)
    }

    /// As an operator sees it: there is no session whose state it could be. `before`: what was said last.
    pub(super) fn edge_state(&self, before: (State, Instant)) -> (State, Instant) {
        let state = if self.up.is_some() { State::Established } else { State::Idle };
        if state == before.0 { before } else { (state, Instant::now()) }
    }

    /// An edge comes and goes with the sessions that bring it the routes.
    pub(super) async fn heed_feeders(&mut self, now: Instant) {
        if !self.is_edge() {
            return;
        }
        let fed = !self.place.shared.feeders().is_empty();
        match (fed, self.up.is_some()) {
            (true, false) => self.is_fed().await,
            (false, true) => {
                self.up = None;
                self.evidence.ended(now);
                let reason = self.nothing_feeds();
                tracing::warn!(peer = self.place.name(), reason, "edge without routes");
                self.note(&reason, now);
                self.place.tell(What::Down(reason)).await;
            }
            (false, false) => {
                if self.place.shared.status(self.place.index).is_some_and(|status| status.last_error.is_none()) {
                    let reason = self.nothing_feeds();
                    self.note(&reason, now);
                }
            }
            (true, true) => {}
        }
    }

    fn note(&self, reason: &str, now: Instant) {
        if let Some(mut status) = self.place.shared.status(self.place.index) {
            status.last_error = Some((reason.to_owned(), now));
            (status.confirmed, status.warning, status.is_failing) = (None, None, false);
            (status.unverified, status.closing) = (0, 0);
        }
    }

    fn nothing_feeds(&self) -> String {
        let names: Vec<&str> =
            self.config.peers.iter().filter(|peer| self.config.feeds(peer)).map(|peer| peer.name.as_str()).collect();
        format!("nothing brings it the routes: there is no session with {}", names.join(" or "))
    }

    async fn is_fed(&mut self) {
        let Some(peer) = self.peer().cloned() else { return };
        // Its families are what is configured: there is nobody to ask.
        let terms = Negotiated {
            peer_type: PeerType::Internal,
            peer_as: peer.asn,
            peer_identifier: Ipv4Addr::UNSPECIFIED,
            hold_time: 0,
            families: peer.families,
            four_octet_as: true,
            route_refresh: false,
            enhanced_route_refresh: false,
            extended_message: false,
            extended_next_hop: true,
            add_path_receive: Families::NONE,
            graceful_restart: None,
            graceful_notification: false,
            long_lived: None,
            peer_role: None,
        };
        match AdjOut::new(&self.config, &peer, &terms, false).and_then(|adj_out| adj_out.following(&self.config)) {
            Ok(adj_out) => {
                tracing::info!(peer = peer.name, "edge is brought the routes");
                self.take_up(ConnectionId::NONE, &peer, &terms, (adj_out, false)).await;
            }
            // The sessions that are to bring it the routes fail for the same reason, and say so.
            Err(error) => tracing::debug!(peer = peer.name, %error, "the configured attributes can't be sent"),
        }
    }

    /// Takes in what there is new in the table, without sending it.
    pub(super) fn follow(&mut self, now: Instant) {
        let Some(up) = self.up.as_mut().filter(|up| !up.sends) else { return };
        let Some(peer) = self.config.peers.get(self.place.index) else { return };
        for takes in 1.. {
            let learned;
            let (pending, stamp, newest) = {
                let mut table = self.place.shared.table();
                learned = up.adj_out.learn(table.classes());
                let room = up.adj_out.room(ROOM);
                let pending = table.pending(up.reader.id);
                if pending {
                    table.take(up.reader.id, room, &mut self.batch);
                }
                let lacks = up.missing.iter().any(|family| table.leased()[index(family)] > 0);
                (pending, if lacks { None } else { table.reached(up.reader.id) }, table.newest())
            };
            if let Err(error) = learned {
                tracing::debug!(peer = peer.name, %error, "attributes that can't be sent");
            }
            if pending {
                confirming::announce(up, &mut self.evidence, &self.place.shared, peer, (&self.batch, newest, 0), now);
            }
            if let Some(stamp) = stamp {
                up.confirmer.encoded(stamp, 0);
                confirming::stamped(&mut self.evidence, stamp.generation);
            }
            if !pending {
                return;
            }
            if takes >= TAKES {
                self.more = true;
                return;
            }
        }
    }
}
