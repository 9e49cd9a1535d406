//! One peer's task: carries out what the session machine wants, feeds its socket from the table, watches for acknowledgements.

use std::future::poll_fn;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc, watch};

use super::connection::{Connection, Seen};
use super::sys::FineTimer;
use super::{PeerEvent, Shared, What};
use crate::adj_out::AdjOut;
use crate::config::{PeerConfig, Role, SpeakerConfig};
use crate::confirm::{Confirmed, Confirmer};
use crate::networks::Networks;
use crate::session::{ConnectionId, Output, Session, SessionConfig, Stop};
use crate::status::{BfdStatus, State};
use crate::table::{Batch, ReaderId, Table, index};
use crate::wire::capability::{MAX_RESTART_TIME, MAX_STALE_TIME, Negotiated};
use crate::wire::error::EncodeError;
use crate::wire::iana::{Cease, Families};
use crate::wire::message::Notification;

mod confirming;
mod connecting;
mod edge;
mod guards;
mod sampling;
mod up;

use self::confirming::Evidence;
pub(super) use self::confirming::check;
use self::connecting::Connecting;
use self::edge::Nudge;

/// Reads from a connection that can't be written to any more.
const LAST_WORDS: usize = 4;
/// How long sessions of a process that restarts wait for the table.
const FILL: Duration = Duration::from_secs(5);
/// Octets of UPDATEs kept ready in our own memory; more are made when the socket took them.
const READY: usize = 128 * 1024;
/// Routes of a family taken out of the table in one go, at most.
const ROOM: usize = 4096;
/// Times that the table is asked before others get their turn.
const TAKES: usize = 16;
/// Reads per connection before others get their turn.
const READS: usize = 16;
/// First and longest time between two looks for acknowledgements.
const LOOK: (Duration, Duration) = (Duration::from_micros(100), Duration::from_millis(1));

/// Where a peer's task belongs.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) shared: Arc<Shared>,
    pub(super) index: usize,
    pub(super) name: Arc<str>,
    /// The peer's mark now: see [`PeerConfig::tag`].
    pub(super) tag: Arc<AtomicU64>,
    /// Its session takes the place of one that was there before, whose routes the peer may have kept.
    pub(super) resumes: bool,
    /// It is another guard: what it is sent are our own leases.
    pub(super) is_guard: bool,
    pub(super) events: mpsc::Sender<PeerEvent>,
}

impl Place {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What its session is sent.
    fn table(&self) -> MutexGuard<'_, Table> {
        if self.is_guard { self.shared.leases() } else { self.shared.table() }
    }

    /// Tells the caller. It is gone only when everything ends.
    async fn tell(&self, what: What) {
        if self.events.send(PeerEvent { peer: self.index, tag: self.tag.load(Ordering::SeqCst), what }).await.is_err() {
            tracing::trace!("nobody listens to the speaker any more");
        }
    }

    /// A defect on purpose, at a bad moment: while the table is locked.
    #[cfg(test)]
    fn fail_if_told(&self) {
        let told = self.shared.fault.compare_exchange(self.index, usize::MAX, Ordering::SeqCst, Ordering::SeqCst);
        if told.is_ok() {
            let _table = self.shared.table();
            panic!("told to fail");
        }
    }

    /// After a panic: what the task can't say any more.
    pub(super) async fn died(&self) {
        let reason = "a defect in this program ended the session";
        if let Some(mut status) = self.shared.status(self.index) {
            status.state = State::Idle;
            status.since = Instant::now();
            status.last_error = Some((reason.to_owned(), status.since));
        }
        self.tell(What::Down(reason.to_owned())).await;
    }
}

/// A reader of the table that is detached whatever happens.
struct Reader {
    place: Place,
    id: ReaderId,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.place.table().detach(self.id);
        if !self.place.is_guard {
            let id = self.id;
            self.place.shared.feeders().retain(|_, reader| *reader != id);
        }
        self.place.shared.changed.send_replace(());
    }
}

/// What an established session has besides its connection.
struct Up {
    connection: ConnectionId,
    reader: Reader,
    adj_out: AdjOut,
    /// It is sent the routes; else it follows them, see [`PeerConfig::follows`].
    sends: bool,
    style: u32,
    /// Configured to be announced here, but not negotiated.
    missing: Families,
    /// Replays without routes that the peer asked for and that are still to be sent.
    bare: Families,
    /// What it sends asks the peer to prefer other routes.
    draining: bool,
    confirmer: Confirmer,
    look: Duration,
    looking: bool,
}

struct Task {
    place: Place,
    config: Arc<SpeakerConfig>,
    session: Session,
    connections: Vec<Connection>,
    connecting: Option<Connecting>,
    up: Option<Up>,
    batch: Batch,
    read_buffer: Vec<u8>,
    fine: FineTimer,
    busy: bool,
    /// The table had more than was looked at in one go.
    more: bool,
    /// What BFD says of the path, where it is wanted, and how many failures it had when we last looked.
    bfd: Option<watch::Receiver<BfdStatus>>,
    bfd_failures: u64,
    evidence: Evidence,
    nudge: Nudge,
    /// What the log has of the peer's trouble.
    logged: String,
}

/// Runs until `stop` says so and the peer was told.
pub(super) async fn run(
    place: Place,
    accepted: Arc<Mutex<mpsc::Receiver<TcpStream>>>,
    mut stop: watch::Receiver<Option<Stop>>,
) {
    let config = place.shared.config();
    let Some(peer) = config.peers.get(place.index).cloned() else { return };
    let fine = match FineTimer::new() {
        Ok(timer) => timer,
        Err(error) => {
            tracing::error!(peer = peer.name, %error, "no timer for this BGP session");
            return;
        }
    };
    let mut accepted = accepted.lock().await;
    let mut changed = place.shared.changed.subscribe();
    let session = Session::new(session_config(&config, &peer, place.resumes), Instant::now());
    let bfd = place.shared.bfd(place.index).map(|bfd| bfd.subscribe());
    let evidence = Evidence::new(&config, &peer);
    let mut task = Task {
        logged: String::new(),
        nudge: Nudge::default(),
        evidence,
        place,
        config,
        session,
        connections: Vec::new(),
        connecting: None,
        up: None,
        batch: Batch::default(),
        read_buffer: Vec::new(),
        fine,
        busy: false,
        more: false,
        bfd_failures: bfd.as_ref().map_or(0, |bfd| bfd.borrow().failures),
        bfd,
    };
    let mut filled = task.place.shared.filled.subscribe();
    tokio::select! {
        _ = filled.wait_for(|filled| *filled) => {}
        () = tokio::time::sleep(FILL) => {
            tracing::warn!(peer = peer.name, "the restored routes are late: the session starts without them");
        }
        _ = told_to_stop(&mut stop) => return,
    }
    task.session.start(Instant::now());
    let mut stopping = false;
    loop {
        task.work().await;
        if stopping && task.connections.is_empty() {
            return;
        }
        let deadline = task.deadline();
        let up = task.up.is_some() || task.is_edge();
        let looking = task.up.as_ref().is_some_and(|up| up.looking);
        let Task { connections, connecting, fine, busy, bfd, evidence, .. } = &mut task;
        let ready = poll_fn(|context| {
            let mut any = false;
            for connection in connections.iter() {
                any |= connection.poll_ready(context).is_ready();
            }
            if any { Poll::Ready(()) } else { Poll::Pending }
        });
        let connected = async {
            match connecting {
                Some(connecting) => connecting.await,
                None => std::future::pending().await,
            }
        };
        let timer = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            how = told_to_stop(&mut stop), if !stopping => {
                stopping = true;
                task.session.stop(&how, Instant::now());
            }
            () = ready => {
                task.read();
                // Others on this thread get their turn between two rounds.
                tokio::task::yield_now().await;
            }
            () = tokio::task::yield_now(), if *busy => {}
            result = connected => task.connected(result),
            Some(stream) = accepted.recv() => task.accepted(stream),
            // Without a session there is nobody to tell.
            Ok(()) = changed.changed(), if up => {}
            () = bfd_changed(bfd) => {}
            result = fine.fired(), if looking => {
                if let Err(error) = result {
                    tracing::warn!(%error, "timer");
                }
                if let Some(up) = &mut task.up {
                    up.looking = false;
                }
            }
            address = evidence.answered() => task.forwarded(address),
            () = timer => {}
        }
    }
}

/// A speaker that is gone without a word is like a crash: peers with graceful restart keep the routes.
async fn told_to_stop(stop: &mut watch::Receiver<Option<Stop>>) -> Stop {
    match stop.wait_for(Option::is_some).await {
        Ok(how) => how.clone().unwrap_or(Stop::Restart),
        Err(_) => Stop::Restart,
    }
}

async fn bfd_changed(bfd: &mut Option<watch::Receiver<BfdStatus>>) {
    let changed = match bfd {
        Some(bfd) => bfd.changed().await.is_ok(),
        None => false,
    };
    // Gone together with the whole speaker.
    if !changed {
        std::future::pending().await
    }
}

fn session_config(config: &SpeakerConfig, peer: &PeerConfig, resumes: bool) -> SessionConfig {
    let whole = |span: Duration, most: u16| u16::try_from(span.as_secs()).unwrap_or(most).min(most);
    SessionConfig {
        asn: config.asn,
        router_id: config.router_id,
        peer_asn: peer.asn,
        hold_time: whole(peer.hold_time, u16::MAX),
        send_hold: peer.send_hold,
        families: peer.families,
        passive: peer.passive,
        restart_time: whole(config.graceful_restart, MAX_RESTART_TIME),
        stale_time: u32::try_from(config.long_lived.as_secs()).unwrap_or(MAX_STALE_TIME).min(MAX_STALE_TIME),
        restarting: config.restarting || resumes,
        extended_next_hop: config.ipv4_over_ipv6() && peer.families.ipv4,
        bgp_role: peer.bgp_role,
        hear: confirming::hears(peer),
        seed: RandomState::new().hash_one(&peer.name),
    }
}

impl Task {
    fn peer(&self) -> Option<&PeerConfig> {
        self.config.peers.get(self.place.index)
    }

    fn connection(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|connection| connection.id == id)
    }

    /// Everything that can be done without waiting.
    async fn work(&mut self) {
        let now = Instant::now();
        #[cfg(test)]
        self.place.fail_if_told();
        if self.session.poll_timeout().is_some_and(|due| due <= now) {
            self.session.handle_timeout(now);
        }
        self.renew(now);
        self.heed_bfd(now);
        self.heed_feeders(now).await;
        // Before anything that was heard is taken in: others sent it on only after it was in the table.
        self.follow(now);
        self.carry_out().await;
        self.be_patient();
        self.drain(now);
        self.fill(now);
        self.follow(now);
        self.ask(now);
        self.nudge(now);
        self.flush(now);
        // A write may have failed and so ended the session.
        self.carry_out().await;
        // Who hears of an event reads a status that agrees with it.
        self.publish();
        self.log_trouble();
        self.gather(now).await;
        self.confirm(now).await;
    }

    /// A path that BFD calls dead ends an established session (RFC 5882 section 4.4, RFC 9384).
    fn heed_bfd(&mut self, now: Instant) {
        let Some(bfd) = &mut self.bfd else { return };
        let (failures, cause) = {
            let status = bfd.borrow_and_update();
            (status.failures, status.cause)
        };
        if failures == self.bfd_failures {
            return;
        }
        self.bfd_failures = failures;
        if let (Some(up), Some(cause)) = (&self.up, cause) {
            let (id, reason) = (up.connection, format!("BFD down: {cause}"));
            self.session.abort(id, &Notification::cease(Cease::BfdDown), reason, now);
        }
    }

    async fn carry_out(&mut self) {
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Connect => self.connect(),
                Output::CancelConnect => self.connecting = None,
                Output::Send(id, octets) => {
                    if let Some(connection) = self.connection(id) {
                        connection.push(octets);
                    }
                }
                Output::Close(id) => {
                    let now = Instant::now();
                    if let Some(connection) = self.connection(id) {
                        connection.close(now);
                    }
                }
                Output::Up(id, negotiated) => self.came_up(id, &negotiated).await,
                Output::Heard(heard) if self.place.is_guard => self.told(heard).await,
                Output::Heard(heard) => self.heard(heard),
                Output::Networks(news, gone) => self.networks(|networks| networks.said(&news, &gone)),
                Output::Said(family) => self.networks(|networks| networks.said_all(family)),
                Output::Down(reason) => {
                    self.up = None;
                    self.evidence.ended(Instant::now());
                    self.heard_nothing();
                    self.networks(|networks| networks.went_down(Instant::now()));
                    tracing::warn!(peer = self.place.name(), reason, "BGP session down");
                    self.logged.clone_from(&reason);
                    self.publish();
                    self.place.tell(What::Down(reason)).await;
                }
                Output::Refresh(family) => {
                    let Some(up) = &mut self.up else { continue };
                    tracing::debug!(peer = self.place.name(), %family, "the peer asks for a replay");
                    if up.sends && up.adj_out.families().contains(family) {
                        self.place.table().refresh(up.reader.id, family);
                    } else {
                        // Asked again before it was sent, once is enough.
                        up.bare.insert(family);
                    }
                }
            }
        }
    }

    /// Changes what is known of the router's networks.
    fn networks(&self, change: impl FnOnce(&mut Networks) -> bool) {
        let shared = &self.place.shared;
        // Told when it can be read.
        let news = shared.networks(self.place.index).is_some_and(|mut networks| change(&mut networks));
        if news {
            shared.networks.send_replace(());
        }
    }

    fn connect(&mut self) {
        let Some(peer) = self.peer() else { return };
        let internal = peer.asn == self.config.asn;
        self.connecting = Some(connecting::connect(peer.clone(), internal, self.config.mark));
    }

    fn connected(&mut self, result: io::Result<TcpStream>) {
        self.connecting = None;
        let now = Instant::now();
        match result {
            Ok(stream) => {
                if let Some(id) = self.session.connected(true, now) {
                    self.connections.push(Connection::new(id, stream));
                }
            }
            Err(error) => {
                tracing::debug!(peer = self.place.name(), %error, "can't connect");
                self.session.connect_failed(&plain(&error), now);
            }
        }
    }

    fn accepted(&mut self, stream: TcpStream) {
        match self.session.connected(false, Instant::now()) {
            Some(id) => self.connections.push(Connection::new(id, stream)),
            None => tracing::debug!(peer = self.place.name(), "connection not wanted now"),
        }
    }

    fn read(&mut self) {
        let now = Instant::now();
        let ids: Vec<ConnectionId> =
            self.connections.iter().filter(|c| c.closing().is_none()).map(|connection| connection.id).collect();
        for id in ids {
            for _ in 0..READS {
                let Some(at) = self.connections.iter().position(|connection| connection.id == id) else { break };
                let Some(connection) = self.connections.get_mut(at) else { break };
                match connection.read(&mut self.read_buffer) {
                    Seen::Read(count) => {
                        let octets = self.read_buffer.get(..count).unwrap_or_default();
                        self.session.received(id, octets, now);
                    }
                    Seen::Ended(error) => {
                        self.connections.swap_remove(at);
                        self.session.closed(id, error.map(|error| plain(&error)).as_deref(), now);
                    }
                    Seen::Nothing => break,
                }
            }
        }
    }

    /// Makes UPDATEs ready for the socket, as many as it may take soon.
    fn fill(&mut self, now: Instant) {
        let Some(up) = &mut self.up else { return };
        let Some(peer) = self.config.peers.get(self.place.index) else { return };
        let id = up.connection;
        let Some(connection) = self.connections.iter_mut().find(|connection| connection.id == id) else { return };
        let mut octets = BytesMut::new();
        let mut takes = 0;
        if connection.queued() < READY {
            std::mem::take(&mut up.bare).iter().for_each(|family| up.adj_out.empty_replay(family, &mut octets));
        }
        if !up.sends {
            connection.push(octets.freeze());
            return;
        }
        self.more = false;
        while connection.queued() + octets.len() < READY {
            let learned;
            let (pending, stamp, newest) = {
                let mut table = self.place.table();
                learned = up.adj_out.learn(table.classes());
                let room = up.adj_out.room(ROOM);
                let pending = table.pending(up.reader.id);
                if pending && up.confirmer.wants_prefixes() {
                    table.take(up.reader.id, room, &mut self.batch);
                } else if pending {
                    let adj_out = &up.adj_out;
                    table.take_encoded(up.reader.id, room, &mut self.batch, up.style, |batch| {
                        let mut piece = BytesMut::new();
                        // No more memory than it has octets: it may be kept.
                        adj_out.announcements(batch, &mut piece).ok().map(|()| Bytes::copy_from_slice(&piece))
                    });
                }
                // What the peer can't hold can't be confirmed by it.
                let lacks = up.missing.iter().any(|family| table.leased()[index(family)] > 0);
                (pending, if lacks { None } else { table.reached(up.reader.id) }, table.newest())
            };
            let encoded = learned.and_then(|()| if pending { encode(up, &self.batch, &mut octets) } else { Ok(()) });
            if let Err(error) = encoded {
                // Not sent means not confirmed: better no session than one that lies.
                let reason = format!("an UPDATE can't be encoded: {error}");
                self.session.abort(id, &Notification::cease(Cease::OutOfResources), reason, now);
                return;
            }
            let offset = connection.end() + octets.len() as u64;
            if pending {
                let taken = (&self.batch, newest, offset);
                confirming::announce(up, &mut self.evidence, &self.place.shared, peer, taken, now);
            }
            if let Some(stamp) = stamp {
                up.confirmer.encoded(stamp, offset);
                confirming::stamped(&mut self.evidence, stamp.generation);
            }
            if !pending {
                break;
            }
            takes += 1;
            // A long way through the table without a route that is to be sent.
            self.more = takes >= TAKES;
            if self.more {
                break;
            }
        }
        connection.push(octets.freeze());
    }

    fn flush(&mut self, now: Instant) {
        let mut ended = Vec::new();
        self.busy = std::mem::take(&mut self.more);
        let up = self.up.as_ref().map(|up| up.connection);
        for connection in &mut self.connections {
            if connection.closing().is_some() || connection.queued() == 0 {
                continue;
            }
            match connection.flush() {
                Ok(0) => self.session.stuck(connection.id, now),
                Ok(_) => {
                    self.session.written(connection.id, connection.queued() > 0, now);
                    // There may be more to make ready.
                    self.busy |= Some(connection.id) == up && connection.queued() == 0;
                }
                Err(error) => ended.push((connection.id, plain(&error))),
            }
        }
        for (id, error) in ended {
            if let Some(place) = self.connections.iter().position(|connection| connection.id == id) {
                // What the peer said before it hung up, a NOTIFICATION most likely, names the cause better than the error.
                let mut connection = self.connections.swap_remove(place);
                for _ in 0..LAST_WORDS {
                    let Seen::Read(count) = connection.read(&mut self.read_buffer) else { break };
                    self.session.received(id, self.read_buffer.get(..count).unwrap_or_default(), now);
                }
            }
            self.session.closed(id, Some(&error), now);
        }
        let buffer = &mut self.read_buffer;
        self.connections.retain_mut(|connection| !connection.finish(buffer, now));
        if self.busy {
            self.busy = self.up.as_ref().is_some_and(|up| self.place.table().pending(up.reader.id));
        }
    }

    async fn confirm(&mut self, now: Instant) {
        let Some(up) = &mut self.up else { return };
        let connection = self.connections.iter().find(|connection| connection.id == up.connection);
        let written = match connection {
            _ if !up.sends => u64::MAX,
            Some(connection) => connection.written(),
            None => return,
        };
        up.confirmer.progress(written, 0, now);
        if let Some(connection) = connection.filter(|_| up.sends && self.evidence.is_to_look(up.confirmer.lags(), now))
        {
            self.evidence.acknowledged(written, connection.acknowledged(), now);
        }
        if let Some(connection) = connection.filter(|_| up.confirmer.wants_acks()) {
            up.confirmer.progress(written, connection.acknowledged(), now);
        }
        Self::note_evident(up, &mut self.evidence, now);
        if !up.confirmer.wants_acks() {
            up.look = LOOK.0;
        } else if !up.looking {
            match self.fine.set(up.look) {
                Ok(()) => up.looking = true,
                Err(error) => tracing::warn!(%error, "timer"),
            }
            up.look = (up.look * 2).min(LOOK.1);
        }
        let unable = up.confirmer.became_unavailable();
        let confirmed = up.confirmer.poll(now);
        let one_by_one = up.confirmer.wants_prefixes();
        let mut held = Vec::new();
        if let Some(mut status) = self.place.shared.status(self.place.index) {
            if let Some(confirmed) = confirmed {
                status.confirmed = Some(confirmed.generation);
                // Of what is confirmed one by one each is counted by itself.
                if let Some(latency) = confirmed.latency.filter(|_| !one_by_one) {
                    status.latency.add(latency);
                    self.evidence.timed(latency);
                }
            }
            while let Some((one, news)) = up.confirmer.poll_held(now) {
                (self.evidence.lost, self.evidence.any_held) = ((0, None), true);
                if let Some(latency) = one.latency {
                    status.latency.add(latency);
                }
                if news {
                    held.push((one.address, one.generation));
                }
            }
            (status.unverified, status.closing) = up.confirmer.outstanding();
            status.borrowed = up.confirmer.borrowed();
            if unable.is_some() {
                status.confirmed = None;
            }
        }
        if let Some(reason) = unable {
            self.place.tell(What::Unable(reason)).await;
        }
        if !held.is_empty() {
            self.place.tell(What::Held(held)).await;
        }
        if let Some(Confirmed { generation, latency }) = confirmed {
            self.place.tell(What::Confirmed { generation, latency }).await;
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let closing = self.connections.iter().filter_map(Connection::closing);
        let settling = self.up.as_ref().and_then(|up| up.confirmer.poll_timeout());
        let trial = self.evidence.poll_timeout().filter(|_| self.up.is_some());
        let nudge = self.nudge.due().filter(|_| self.up.is_some());
        closing.chain(settling).chain(trial).chain(nudge).chain(self.session.poll_timeout()).min()
    }

    /// What keeps a session from coming up, once for each cause.
    fn log_trouble(&mut self) {
        if let Some((reason, _)) = self.session.last_error()
            && *reason != self.logged
        {
            self.logged.clone_from(reason);
            tracing::warn!(peer = self.place.name(), reason, "no BGP session");
        }
    }

    fn publish(&self) {
        let advertised = self.up.as_ref().map(|up| self.place.table().advertised(up.reader.id));
        let Some(mut status) = self.place.shared.status(self.place.index) else { return };
        (status.state, status.since) = match self.is_edge() {
            true => self.edge_state((status.state, status.since)),
            false => self.session.state(),
        };
        let newest = self.session.last_error().map(|(_, at)| at);
        if status.last_error.as_ref().map(|(_, at)| at) != newest && !self.is_edge() {
            status.last_error = self.session.last_error().cloned();
        }
        status.received = self.session.counts();
        status.bfd = self.bfd.as_ref().map(|bfd| bfd.borrow().clone());
        status.advertised = advertised.unwrap_or_default();
        status.queued = self.connections.iter().map(Connection::queued).sum();
        match (self.session.negotiated(), status.hold_time.is_some()) {
            (Some(negotiated), false) => {
                status.families = negotiated.families;
                status.hold_time = Some(Duration::from_secs(negotiated.hold_time.into()));
                status.capabilities = capabilities(negotiated);
            }
            (None, true) => {
                status.families = Families::NONE;
                status.hold_time = None;
                status.capabilities = Vec::new();
                status.confirmed = None;
                status.warning = None;
                status.unverified = 0;
                status.closing = 0;
            }
            _ => {}
        }
    }
}

/// As octets, behind the withdrawals that must go first.
fn encode(up: &Up, batch: &Batch, out: &mut BytesMut) -> Result<(), EncodeError> {
    if let Some(first) = up.confirmer.anew(batch) {
        up.adj_out.encode(&first, out)?;
    }
    up.adj_out.encode(batch, out)
}

/// Families of which the peer is meant to get routes and doesn't.
fn missing(config: &SpeakerConfig, peer: &PeerConfig, gets: Families) -> Families {
    let mut missing = Families::NONE;
    if config.announce && (matches!(peer.role, Role::Enforcer | Role::Guard) || peer.follows()) {
        missing = peer.families.intersection(config.announced());
        for family in gets.iter() {
            missing.remove(family);
        }
    }
    missing
}

/// Names of what both ends have.
fn capabilities(negotiated: &Negotiated) -> Vec<&'static str> {
    [
        (negotiated.families.ipv4, "ipv4-unicast"),
        (negotiated.families.ipv6, "ipv6-unicast"),
        (negotiated.four_octet_as, "four-octet-as"),
        (negotiated.route_refresh, "route-refresh"),
        (negotiated.enhanced_route_refresh, "enhanced-route-refresh"),
        (negotiated.extended_message, "extended-message"),
        (negotiated.extended_next_hop, "extended-next-hop"),
        (negotiated.graceful_restart.is_some(), "graceful-restart"),
        (negotiated.graceful_notification, "graceful-notification"),
        (negotiated.long_lived.is_some(), "long-lived-graceful-restart"),
    ]
    .into_iter()
    .filter_map(|(has, name)| has.then_some(name))
    .collect()
}

/// An error in the system's words, without the number.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text.get(..end).unwrap_or(&text).to_owned(),
        None => text,
    }
}
