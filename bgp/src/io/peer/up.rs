//! A session that comes up: what it is sent, how it confirms.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::{LOOK, Reader, Task, Up, missing};
use crate::adj_out::AdjOut;
use crate::config::PeerConfig;
use crate::confirm::Confirmer;
use crate::io::What;
use crate::session::ConnectionId;
use crate::wire::capability::Negotiated;
use crate::wire::iana::{Cease, Families};
use crate::wire::message::Notification;

impl Task {
    pub(super) async fn came_up(&mut self, id: ConnectionId, negotiated: &Negotiated) {
        let Some(peer) = self.peer().cloned() else { return };
        tracing::info!(peer = peer.name, hold_time = negotiated.hold_time, "BGP session up");
        let restart = negotiated.graceful_restart.as_ref().map(|restart| Duration::from_secs(restart.time.into()));
        self.networks(|networks| {
            networks.came_up(restart, Instant::now());
            false
        });
        let mut ends = BytesMut::new();
        let draining = self.place.shared.draining.load(Ordering::SeqCst);
        let adj_out = AdjOut::new(&self.config, &peer, negotiated, draining)
            .and_then(|adj_out| adj_out.bare_ends(&mut ends).map(|()| adj_out));
        let adj_out = match adj_out.and_then(|out| if peer.follows() { out.following(&self.config) } else { Ok(out) }) {
            Ok(adj_out) => adj_out,
            Err(error) => {
                let reason = format!("the configured attributes can't be sent: {error}");
                self.session.abort(id, &Notification::cease(Cease::OutOfResources), reason, Instant::now());
                return;
            }
        };
        if let Some(connection) = self.connection(id) {
            connection.push(ends.freeze());
        }
        self.take_up(id, &peer, negotiated, (adj_out, draining)).await;
    }

    /// A session came up, or an edge is fed: its word on the table is waited for from now on.
    pub(super) async fn take_up(
        &mut self,
        id: ConnectionId,
        peer: &PeerConfig,
        negotiated: &Negotiated,
        (adj_out, draining): (AdjOut, bool),
    ) {
        let missing = missing(&self.config, peer, adj_out.families());
        if !missing.is_empty() {
            let families: Vec<String> = missing.iter().map(|family| family.to_string()).collect();
            tracing::warn!(
                peer = peer.name,
                "the peer doesn't take {}, although it is configured",
                families.join(", ")
            );
        }
        self.evidence.fresh();
        let reader = self.place.table().attach(adj_out.families());
        if self.config.feeds(peer) {
            self.place.shared.feeders().insert(self.place.index, reader);
            self.place.shared.changed.send_replace(());
        }
        self.up = Some(Up {
            sends: !peer.follows(),
            connection: id,
            reader: Reader { place: self.place.clone(), id: reader },
            style: self.place.shared.style(&adj_out),
            adj_out,
            missing,
            bare: Families::NONE,
            draining,
            confirmer: Confirmer::new(
                peer,
                negotiated,
                self.evidence.settle(peer),
                self.evidence.lost_session(),
                Instant::now(),
            )
            .leading_to(
                [self.config.next_hop_ipv4.map(IpAddr::V4), self.config.next_hop_ipv6.map(IpAddr::V6)],
                Instant::now(),
            ),
            look: LOOK.0,
            looking: false,
        });
        if let Some(mut status) = self.place.shared.status(self.place.index) {
            status.established += 1;
            status.confirmed = None;
        }
        self.publish();
        self.place.tell(What::Up { missing }).await;
    }

    /// Follows another configuration of the speaker, where the session goes on: what routes bear, and who brings routes to edges.
    pub(super) fn renew(&mut self, now: Instant) {
        let config = self.place.shared.config();
        if Arc::ptr_eq(&config, &self.config) {
            return;
        }
        let Some(peer) = self.peer().cloned() else { return };
        if config.restarts(&self.config, &peer.name) {
            // This task is about to end.
            return;
        }
        let before = std::mem::replace(&mut self.config, config);
        let Some(up) = &self.up else { return };
        let reader = up.reader.id;
        if self.config.feeds(&peer) {
            self.place.shared.feeders().insert(self.place.index, reader);
        } else {
            self.place.shared.feeders().remove(&self.place.index);
        }
        let bears_same = before.attributes() == self.config.attributes();
        if !bears_same && up.sends {
            let draining = up.draining;
            self.announce_anew(draining, now);
        }
    }

    /// Announces everything again, with GRACEFUL_SHUTDOWN, once the speaker is to go.
    pub(super) fn drain(&mut self, now: Instant) {
        if !self.place.shared.draining.load(Ordering::SeqCst)
            || self.up.as_ref().is_none_or(|up| up.draining || !up.sends)
        {
            return;
        }
        self.announce_anew(true, now);
    }

    /// Announces everything again, with other attributes, in place of what the peer has.
    fn announce_anew(&mut self, draining: bool, now: Instant) {
        let (Some(peer), Some(negotiated)) = (self.peer().cloned(), self.session.negotiated().cloned()) else { return };
        let adj_out = AdjOut::new(&self.config, &peer, &negotiated, draining);
        let Some(up) = &mut self.up else { return };
        match adj_out {
            Ok(adj_out) => {
                up.draining = draining;
                up.style = self.place.shared.style(&adj_out);
                up.adj_out = adj_out;
                self.place.table().again(up.reader.id);
            }
            Err(error) => {
                let reason = format!("the configured attributes can't be sent: {error}");
                let id = up.connection;
                self.session.abort(id, &Notification::cease(Cease::OutOfResources), reason, now);
            }
        }
    }
}
