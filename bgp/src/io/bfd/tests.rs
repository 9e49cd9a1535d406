//! Two speakers with BFD, and strangers, on loopback. All waiting is for a condition, with a deadline.

use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::sync::mpsc;

use super::*;
use crate::bfd::state::Diagnostic;
use crate::config::{BfdConfig, Role};
use crate::io::{PeerEvent, Speaker, What};
use crate::status::{self, PeerStatus};

const LONG: Duration = Duration::from_secs(20);

/// An address of this test process alone: BFD's port is the same for all.
fn address(last: u8) -> IpAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    IpAddr::from([127, high | 1, low, last])
}

fn bfd() -> BfdConfig {
    BfdConfig { interval: Duration::from_millis(50), multiplier: 3, multihop: false }
}

fn config(asn: u32, peer: PeerConfig) -> SpeakerConfig {
    SpeakerConfig {
        next_hop_ipv4: Some(Ipv4Addr::new(192, 0, 2, 1)),
        peers: vec![peer],
        ..SpeakerConfig::new(asn, Ipv4Addr::from(asn))
    }
}

/// A side of a test: what its speaker says.
struct Side {
    speaker: Speaker,
    events: mpsc::Receiver<PeerEvent>,
}

impl Side {
    async fn start(config: SpeakerConfig) -> Self {
        let (speaker, events) = Speaker::start(config).await.unwrap();
        Self { speaker, events }
    }

    fn status(&self) -> PeerStatus {
        self.speaker.handle().status().remove(0)
    }

    /// As the BGP task knows it now, or will once it runs.
    fn bfd(&self) -> BfdStatus {
        self.speaker.shared.bfd(0).unwrap().borrow().clone()
    }

    async fn down(&mut self) -> String {
        let search = async {
            loop {
                if let What::Down(reason) = self.events.recv().await.unwrap().what {
                    return reason;
                }
            }
        };
        tokio::time::timeout(LONG, search).await.expect("down in time")
    }
}

async fn until(what: &str, mut met: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + LONG;
    while !met() {
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The left one connects to the right one; both have BFD. `number` tells the tests of this process apart.
async fn two(number: u8, multihop: bool) -> (Side, Side) {
    let (left, right) = (address(2 * number), address(2 * number + 1));
    let port = 1790;
    let common = |name, peer, local, asn| PeerConfig {
        local_address: Some(local),
        bfd: Some(BfdConfig { multihop, ..bfd() }),
        port,
        ..PeerConfig::new(name, peer, asn)
    };
    let left_config = config(64512, common("right", right, left, 64513));
    let passive = PeerConfig { passive: true, role: Role::Observer, ..common("left", left, right, 64512) };
    let mut right_config = config(64513, passive);
    right_config.listen = vec![SocketAddr::new(right, port)];
    let right = Side::start(right_config).await;
    let left = Side::start(left_config).await;
    until("both sessions up", || {
        [&left, &right].iter().all(|side| {
            let status = side.status();
            status.state == status::State::Established && status.bfd.is_some_and(|bfd| bfd.state == State::Up)
        })
    })
    .await;
    (left, right)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_that_falls_silent_ends_the_session_on_both_sides() {
    let (mut left, mut right) = two(1, false).await;
    until("the quick interval", || left.bfd().detection_time == Duration::from_millis(150)).await;
    let quiet = Instant::now();
    right.speaker.bfd.abort();
    assert_eq!(left.down().await, "BFD down: control detection time expired");
    assert!(quiet.elapsed() < left.status().hold_time.unwrap_or(Duration::from_secs(90)) / 10);
    assert_eq!(right.down().await, "peer says: Cease, BFD down");
    let status = left.status();
    let bfd = status.bfd.unwrap();
    assert_eq!((bfd.cause, bfd.ups, bfd.failures), (Some(Cause::Expired), 1, 1));
    // BFD isn't needed for BGP to come back.
    until("BGP again", || left.status().state == status::State::Established).await;
    assert_ne!(left.bfd().state, State::Up);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_that_takes_bfd_down_on_purpose_ends_nothing() {
    let (left, right) = two(2, true).await;
    right.speaker.stop_bfd.send_replace(true);
    until("BFD down", || left.bfd().state == State::Down).await;
    let bfd = left.bfd();
    assert_eq!((bfd.cause, bfd.failures), (Some(Cause::NeighborAdmin), 0));
    until("it is shown", || left.status().bfd.is_some_and(|bfd| bfd.state == State::Down)).await;
    let status = left.status();
    assert_eq!((status.state, status.established), (status::State::Established, 1), "{:?}", status.last_error);
}

/// A socket that plays the peer.
fn stranger(local: IpAddr, ttl: u32) -> Socket {
    let socket = Socket::new(Domain::for_address(SocketAddr::new(local, 0)), Type::DGRAM, None).unwrap();
    let set = if local.is_ipv4() { socket.set_ttl_v4(ttl) } else { socket.set_unicast_hops_v6(ttl) };
    set.unwrap();
    socket.bind(&SocketAddr::new(local, 0).into()).unwrap();
    socket
}

#[tokio::test]
async fn only_what_the_peer_may_have_sent_is_heard() {
    let (local, peer, other) = (address(10), address(11), address(12));
    let peer_config = PeerConfig { local_address: Some(local), bfd: Some(bfd()), ..PeerConfig::new("p", peer, 64513) };
    let side = Side::start(config(64512, peer_config)).await;
    let to = SocketAddr::new(local, SINGLE_HOP).into();
    let packet = Packet {
        diagnostic: Diagnostic::NONE,
        state: State::Down,
        poll: false,
        is_final: false,
        independent: false,
        demand: false,
        multiplier: 3,
        my_discriminator: 5,
        your_discriminator: 0,
        desired_min_tx: 1_000_000,
        required_min_rx: 1_000_000,
        required_min_echo_rx: 0,
    };
    let good = stranger(peer, 255);
    let refused: [(&Socket, Vec<u8>, &str); 4] = [
        (&stranger(peer, 254), packet.encode().to_vec(), "arrived with TTL 254, 255 is the least allowed"),
        (&good, Vec::new(), "0 octets are too few"),
        (&good, vec![0xff; 200], "version 7"),
        (&good, Packet { your_discriminator: 1, ..packet }.encode().to_vec(), "your discriminator 1 is not ours"),
    ];
    stranger(other, 255).send_to(&packet.encode(), &to).unwrap();
    for (number, (socket, octets, reason)) in (1..).zip(refused) {
        socket.send_to(&octets, &to).unwrap();
        until(reason, || side.bfd().discarded == number).await;
        assert_eq!(side.bfd().last_discard.as_deref(), Some(reason));
    }
    assert_eq!((side.bfd().state, side.bfd().remote_state), (State::Down, State::Down));
    good.send_to(&packet.encode(), &to).unwrap();
    until("the peer is heard", || side.bfd().state == State::Init).await;
    assert_eq!(side.bfd().discarded, 4);
    assert_eq!(side.bfd().detection_time, Duration::from_secs(3));
}

#[test]
fn the_kernel_tells_how_far_a_datagram_came() {
    for local in [address(13), IpAddr::from(Ipv6Addr::LOCALHOST)] {
        let receiver = sys::bfd_receiver(SocketAddr::new(local, 0), None).unwrap();
        let to = receiver.local_addr().unwrap();
        let mut buffer = [0; 8];
        assert_eq!(sys::receive(receiver.as_fd(), &mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        receiver.set_nonblocking(false).unwrap();
        for ttl in [1, 77, 255] {
            let sender = stranger(local, ttl);
            sender.send_to(b"twelve bytes", &to).unwrap();
            let seen = sys::receive(receiver.as_fd(), &mut buffer).unwrap();
            let from = sender.local_addr().unwrap().as_socket().unwrap();
            assert_eq!(seen, Datagram { length: 12, from, to: Some(local), ttl: u8::try_from(ttl).ok() });
        }
    }
}

#[test]
fn one_receiver_for_each_local_address_or_one_for_all() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    let places = |locals: &[Option<IpAddr>]| {
        let mut speaker = config(64512, PeerConfig::new("p", address(20), 64513));
        speaker.peers = locals
            .iter()
            .map(|local| PeerConfig { local_address: *local, bfd: Some(bfd()), ..speaker.peers[0].clone() })
            .collect();
        let watches = watches(&speaker);
        let place = |(peer, status): (&PeerConfig, watch::Sender<BfdStatus>)| Place {
            name: String::new(),
            peer: peer.address,
            local: peer.local_address,
            port: port(peer),
            least_ttl: least_ttl(peer),
            session: Session::new(
                session::Config { discriminator: 1, interval: LONG, multiplier: 3, seed: 1 },
                Instant::now(),
            ),
            sender: sender(peer, None).unwrap(),
            status,
        };
        let places: Vec<Place> = speaker.peers.iter().zip(watches.into_iter().flatten()).map(place).collect();
        let mut ports: Vec<u16> = places.iter().map(|place| place.sender.local_addr().unwrap().port()).collect();
        assert!(ports.iter().all(|port| PORTS.contains(port)), "{ports:?}");
        ports.dedup();
        assert_eq!(ports.len(), locals.len());
        addresses(&speaker).into_iter().map(|address| address.ip()).collect::<Vec<_>>()
    };
    let (a, b) = (address(21), address(22));
    assert_eq!(places(&[Some(a), Some(b), Some(a)]), [a, b]);
    assert_eq!(places(&[Some(a), None]), [IpAddr::from(Ipv4Addr::UNSPECIFIED)]);
}

#[test]
fn how_far_packets_may_have_come() {
    let mut peer = PeerConfig { bfd: Some(bfd()), ..PeerConfig::new("p", address(1), 64513) };
    assert_eq!((port(&peer), least_ttl(&peer)), (3784, 255));
    peer.multihop = Some(3);
    assert_eq!((port(&peer), least_ttl(&peer)), (4784, 253));
    peer.multihop = None;
    peer.bfd = Some(BfdConfig { multihop: true, ..bfd() });
    assert_eq!((port(&peer), least_ttl(&peer)), (4784, 0));
    peer.ttl_security = true;
    assert_eq!((port(&peer), least_ttl(&peer)), (4784, 255));
}
