//! BFD's sockets and clock: one task for all sessions of a speaker.
//!
//! ```text
//!   UDP 3784, 4784 --> by discriminator, or by addresses --> session --> its own socket (source port 49152 to 65535)
//!   session --watch: BfdStatus--> the peer's BGP task
//! ```
//!
//! Packets over one hop must arrive with TTL 255 (RFC 5881 section 5), others with what the configured hops leave of it. A packet must come from the
//! peer's address also when it bears the right discriminator, so that nobody further away can speak for the peer.
//!
//! Whatever waits in the sockets is read before a timer fires: a process that was held up for a while doesn't blame its neighbours. The watch
//! holds the newest status only; what must not be missed is counted in it.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};

use super::sys::{self, Datagram};
use super::{AbortOnDrop, REBIRTH, Shared, StartError};
use crate::bfd::packet::Packet;
use crate::bfd::session::{self, Event, Session};
use crate::bfd::state::{Cause, State};
use crate::config::{PeerConfig, SpeakerConfig};
use crate::status::BfdStatus;

/// RFC 5881 section 4.
pub const SINGLE_HOP: u16 = 3784;
/// RFC 5883 section 5.
pub const MULTIHOP: u16 = 4784;
/// Source ports (RFC 5881 section 4), and how many are tried before that is an error.
const PORTS: std::ops::RangeInclusive<u16> = 49152..=65535;
const TRIES: u32 = 64;
/// Datagrams read from one socket before timers get their turn.
const READS: usize = 64;

/// One session with its sockets.
struct Place {
    name: String,
    peer: IpAddr,
    local: Option<IpAddr>,
    port: u16,
    /// Packets with less are not the peer's.
    least_ttl: u8,
    session: Session,
    sender: UdpSocket,
    status: watch::Sender<BfdStatus>,
}

/// All sessions of a speaker.
pub(super) struct Driver {
    receivers: Vec<(SocketAddr, UdpSocket)>,
    places: Vec<Place>,
}

/// Sessions that come and go while the driver runs.
#[derive(Default)]
pub(super) struct Update {
    /// Peers whose sessions end.
    gone: Vec<String>,
    new: Vec<Place>,
    receivers: Vec<(SocketAddr, UdpSocket)>,
    /// Where packets are received from then on.
    addresses: BTreeSet<SocketAddr>,
}

impl Update {
    /// Prepares everything that can fail. `keeps`: the session of a peer goes on as it is.
    ///
    /// # Errors
    /// [`StartError`].
    pub(super) fn prepare(
        before: &SpeakerConfig,
        after: &SpeakerConfig,
        watches: &Watches,
    ) -> Result<Self, StartError> {
        let now = Instant::now();
        let old = |name: &str| before.peers.iter().find(|peer| peer.name == name && peer.bfd.is_some());
        let mut update = Self::default();
        for peer in before.peers.iter().filter(|peer| peer.bfd.is_some()) {
            if !after.peers.iter().any(|other| other.name == peer.name && is_same(peer, other)) {
                update.gone.push(peer.name.clone());
            }
        }
        for (peer, watch) in after.peers.iter().zip(watches) {
            if let (Some(watch), false) = (watch, old(&peer.name).is_some_and(|old| is_same(old, peer))) {
                update.new.extend(place(peer, watch.clone(), after.mark, &[], now)?);
            }
        }
        update.addresses = addresses(after);
        for address in update.addresses.difference(&addresses(before)) {
            update.receivers.push((*address, receiver(*address, after.mark)?));
        }
        Ok(update)
    }
}

/// Whether a peer's session is the same in both configurations.
pub(super) fn is_same(before: &PeerConfig, after: &PeerConfig) -> bool {
    let session = |peer: &PeerConfig| {
        (peer.bfd, peer.address, peer.zone.clone(), peer.local_address, peer.multihop, peer.ttl_security)
    };
    session(before) == session(after)
}

/// What each peer's BGP task reads, in the order of the configuration; `None` where no BFD is wanted.
pub(super) type Watches = Vec<Option<watch::Sender<BfdStatus>>>;

/// A status of each peer.
pub(super) fn watches(config: &SpeakerConfig) -> Watches {
    let now = Instant::now();
    config.peers.iter().map(|peer| peer.bfd.map(|_| watch::Sender::new(BfdStatus::new(now)))).collect()
}

/// Binds all sockets.
///
/// # Errors
/// [`StartError`].
pub(super) fn bind(config: &SpeakerConfig, watches: &Watches) -> Result<Driver, StartError> {
    let now = Instant::now();
    let mut places = Vec::<Place>::new();
    for (peer, watch) in config.peers.iter().zip(watches) {
        if let Some(status) = watch.clone() {
            places.extend(place(peer, status, config.mark, &places, now)?);
        }
    }
    let mut receivers = Vec::new();
    for address in addresses(config) {
        receivers.push((address, receiver(address, config.mark)?));
    }
    Ok(Driver { receivers, places })
}

fn receiver(address: SocketAddr, mark: Option<u32>) -> Result<UdpSocket, StartError> {
    let failed = |source| StartError::Listen { protocol: "BFD", address, source };
    let socket = sys::bfd_receiver(address, mark).map_err(failed)?;
    UdpSocket::from_std(socket.into()).map_err(failed)
}

fn place(
    peer: &PeerConfig,
    status: watch::Sender<BfdStatus>,
    mark: Option<u32>,
    others: &[Place],
    now: Instant,
) -> Result<Option<Place>, StartError> {
    let Some(wanted) = peer.bfd else { return Ok(None) };
    let sender = sender(peer, mark).map_err(|source| StartError::Bfd { peer: peer.name.clone(), source })?;
    let mut discriminator = 0;
    while discriminator == 0 || others.iter().any(|place| place.session.discriminator() == discriminator) {
        discriminator = random() as u32;
    }
    let settings =
        session::Config { discriminator, interval: wanted.interval, multiplier: wanted.multiplier, seed: random() };
    Ok(Some(Place {
        name: peer.name.clone(),
        peer: peer.address,
        local: peer.local_address,
        port: port(peer),
        least_ttl: least_ttl(peer),
        session: Session::new(settings, now),
        sender,
        status,
    }))
}

/// Runs the driver; after a panic a new one, with new sessions. BGP goes on meanwhile.
pub(super) async fn keep_alive(
    driver: Driver,
    shared: Arc<Shared>,
    updates: mpsc::Receiver<Update>,
    mut stop: watch::Receiver<bool>,
) {
    let updates = Arc::new(tokio::sync::Mutex::new(updates));
    let mut next = Some(driver);
    loop {
        if let Some(driver) = next.take() {
            let run = tokio::spawn(driver.run(Arc::clone(&updates), stop.clone()));
            let guard = AbortOnDrop(run.abort_handle());
            let result = run.await;
            drop(guard);
            if !result.is_err_and(|error| error.is_panic()) {
                return;
            }
            tracing::error!("a defect ended BFD; it starts again");
            for status in shared.bfd_watches().iter().flatten() {
                status
                    .send_modify(|status| *status = BfdStatus { state: State::Down, interval: None, ..status.clone() });
            }
        }
        tokio::select! {
            () = tokio::time::sleep(REBIRTH) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        // All that is waiting there is part of the configuration.
        let mut waiting = updates.lock().await;
        while waiting.try_recv().is_ok() {}
        match bind(&shared.config(), &shared.bfd_watches()) {
            Ok(driver) => next = Some(driver),
            Err(error) => tracing::error!(%error, "no BFD"),
        }
    }
}

/// Where packets are received: on the peers' local addresses; on all where one of a family and kind has none.
fn addresses(config: &SpeakerConfig) -> BTreeSet<SocketAddr> {
    let any =
        |peer: IpAddr| if peer.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { IpAddr::from(Ipv6Addr::UNSPECIFIED) };
    let alike = |a: &PeerConfig, b: &PeerConfig| port(a) == port(b) && a.address.is_ipv4() == b.address.is_ipv4();
    let all = || config.peers.iter().filter(|peer| peer.bfd.is_some());
    let address = |peer: &PeerConfig| {
        let everywhere = all().any(|other| alike(peer, other) && other.local_address.is_none());
        let local = peer.local_address.filter(|_| !everywhere).unwrap_or_else(|| any(peer.address));
        SocketAddr::new(local, port(peer))
    };
    all().map(address).collect()
}

fn multihop(peer: &PeerConfig) -> bool {
    peer.multihop.is_some() || peer.bfd.is_some_and(|bfd| bfd.multihop)
}

fn port(peer: &PeerConfig) -> u16 {
    if multihop(peer) { MULTIHOP } else { SINGLE_HOP }
}

/// How far packets may have come. How far an internal peer is away nobody has told us.
fn least_ttl(peer: &PeerConfig) -> u8 {
    match (multihop(peer), peer.multihop, peer.ttl_security) {
        (false, ..) => u8::MAX,
        (true, Some(hops), _) => u8::MAX - hops.saturating_sub(1),
        // Adjacent after all: FRR speaks multihop BFD with every external peer that has GTSM.
        (true, None, true) => u8::MAX,
        (true, None, false) => 0,
    }
}

fn random() -> u64 {
    RandomState::new().hash_one(0)
}

/// A socket on a source port of its own.
fn sender(peer: &PeerConfig, mark: Option<u32>) -> io::Result<UdpSocket> {
    let any = if peer.address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { IpAddr::from(Ipv6Addr::UNSPECIFIED) };
    let local = peer.local_address.unwrap_or(any);
    let count = u64::from(PORTS.end() - PORTS.start()) + 1;
    let mut tries = 0;
    loop {
        let port = PORTS.start() + u16::try_from(random() % count).unwrap_or(0);
        match sys::bfd_sender(SocketAddr::new(local, port), mark) {
            Ok(socket) => return UdpSocket::from_std(socket.into()),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries < TRIES => tries += 1,
            Err(error) => return Err(error),
        }
    }
}

impl Driver {
    /// Runs until `stop` says so; then the neighbours are told that this end is taken down on purpose.
    pub(super) async fn run(
        mut self,
        updates: Arc<tokio::sync::Mutex<mpsc::Receiver<Update>>>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut updates = updates.lock().await;
        let mut buffer = [0u8; 256];
        self.work(Instant::now());
        loop {
            let deadline = self.places.iter().filter_map(|place| place.session.poll_timeout()).min();
            let readable = std::future::poll_fn(|context| {
                let ready = self.receivers.iter().any(|(_, socket)| socket.poll_recv_ready(context).is_ready());
                if ready { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
            });
            let timer = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // Sent, or the speaker is gone: the same.
                _ = stop.wait_for(|stop| *stop) => break,
                () = readable => {}
                () = timer => {}
                Some(update) = updates.recv() => self.update(update),
            }
            self.read(&mut buffer);
            self.work(Instant::now());
            // A flood of packets must not keep others of this thread from their work.
            tokio::task::yield_now().await;
        }
        let now = Instant::now();
        self.places.iter_mut().for_each(|place| place.session.set_admin_down(true, now));
        self.work(now);
    }

    fn update(&mut self, update: Update) {
        let now = Instant::now();
        let gone = |place: &Place| update.gone.contains(&place.name);
        self.places.iter_mut().filter(|place| gone(place)).for_each(|place| place.session.set_admin_down(true, now));
        self.work(now);
        self.places.retain(|place| !gone(place));
        self.places.extend(update.new);
        self.receivers.retain(|(address, _)| update.addresses.contains(address));
        self.receivers.extend(update.receivers);
    }

    fn read(&mut self, buffer: &mut [u8]) {
        for (address, socket) in &self.receivers {
            for _ in 0..READS {
                match socket.try_io(Interest::READABLE, || sys::receive(socket.as_fd(), buffer)) {
                    Ok(datagram) => {
                        // A longer one is no control packet: what was cut off is refused by its length.
                        let octets = buffer.get(..datagram.length.min(buffer.len())).unwrap_or_default();
                        take(&mut self.places, address.port(), octets, &datagram);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => {
                        tracing::debug!(%error, "BFD packets can't be read");
                        break;
                    }
                }
            }
        }
    }

    fn work(&mut self, now: Instant) {
        for place in &mut self.places {
            place.session.handle_timeout(now);
            while let Some(packet) = place.session.poll_transmit(now) {
                let to = SocketAddr::new(place.peer, place.port);
                // A path that can't be sent through is what BFD is there to notice, by itself.
                if let Err(error) = place.sender.try_send_to(&packet.encode(), to) {
                    tracing::debug!(peer = place.name, %error, "a BFD packet can't be sent");
                }
            }
            place.publish();
        }
    }
}

impl Place {
    /// Tells the peer's BGP task what is new.
    fn publish(&mut self) {
        let session = &mut self.session;
        let name = &self.name;
        self.status.send_if_modified(|status| {
            let before = (status.state, status.remote_state, status.interval, status.detection_time, status.failures);
            while let Some(event) = session.poll_event() {
                match event {
                    Event::Up => {
                        status.ups += 1;
                        tracing::info!(peer = name, "BFD session up");
                    }
                    Event::Down(cause) => {
                        // RFC 5882 section 3.2: what was done on purpose says nothing about the path.
                        status.failures += u64::from(cause != Cause::NeighborAdmin);
                        status.cause = Some(cause);
                        tracing::warn!(peer = name, %cause, "BFD session down");
                    }
                }
            }
            (status.state, status.since) = session.state();
            status.remote_state = session.remote_state();
            status.interval = session.interval();
            status.detection_time = session.detection_time();
            before != (status.state, status.remote_state, status.interval, status.detection_time, status.failures)
        });
    }

    fn discard(&self, reason: String) {
        tracing::debug!(peer = self.name, reason, "BFD packet discarded");
        self.status.send_if_modified(|status| {
            status.discarded += 1;
            status.last_discard = Some(reason);
            // Not worth waking anybody.
            false
        });
    }
}

/// Finds the session that a packet is for (RFC 5880 section 6.3) and gives it the packet, if it may have it.
fn take(places: &mut [Place], port: u16, octets: &[u8], datagram: &Datagram) {
    let from = datagram.from.ip().to_canonical();
    let here = |place: &Place| {
        place.port == port && place.peer == from && (place.local.is_none() || place.local == datagram.to)
    };
    let Some(first) = places.iter().position(here) else {
        tracing::debug!(%from, port, "BFD packet from nobody we know");
        return;
    };
    let packet = match Packet::decode(octets) {
        Ok(packet) => packet,
        Err(error) => return places.get(first).map_or((), |place| place.discard(error.to_string())),
    };
    let yours = packet.your_discriminator;
    let wanted = |place: &Place| here(place) && (yours == 0 || place.session.discriminator() == yours);
    let Some(at) = places.iter().position(wanted) else {
        return places.get(first).map_or((), |place| place.discard(format!("your discriminator {yours} is not ours")));
    };
    let Some(place) = places.get_mut(at) else { return };
    if datagram.ttl.is_none_or(|ttl| ttl < place.least_ttl) {
        let ttl = datagram.ttl.unwrap_or(0);
        return place.discard(format!("arrived with TTL {ttl}, {} is the least allowed", place.least_ttl));
    }
    place.session.received(&packet, Instant::now());
}

#[cfg(test)]
mod tests;
