//! A peer that stops reading during a replay while routes change: memory stays bounded, other peers are served, and it has the right
//! routes once it reads again. Nothing is timed; the allocator of this program counts what is held.
#![cfg(feature = "io")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicIsize, Ordering};
use std::sync::mpsc;
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use destguard_bgp::config::{PeerConfig, SpeakerConfig};
use destguard_bgp::io::{PeerEvent, Speaker, What};
use destguard_bgp::session::Stop;
use destguard_bgp::table::Table;
use destguard_bgp::wire::capability::{Capability, negotiate};
use destguard_bgp::wire::iana::{Families, Family};
use destguard_bgp::wire::message::{Message, Open};
use destguard_bgp::wire::{DecodeContext, EncodeContext};

use self::counting::Counting;

#[path = "support/counting.rs"]
mod counting;

static HELD: AtomicIsize = AtomicIsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting(count);

fn count(octets: usize, sign: isize) {
    HELD.fetch_add(sign * octets as isize, Ordering::Relaxed);
}

/// Routes that don't change, in 10.0.0.0/8.
const STILL: u32 = 400_000;
/// Routes that come and go, in 198.18.0.0/15.
const FLAPPING: u32 = 10_000;
const ROUNDS: u64 = 30;
/// Changes kept for peers that lag: two rounds.
const LOG: usize = 20_000;
const LONG: Duration = Duration::from_secs(120);

fn open(asn: u32) -> Open {
    Open {
        asn,
        hold_time: 0,
        identifier: Ipv4Addr::from(asn),
        capabilities: vec![Capability::Multiprotocol(Family::Ipv4.afi_safi()), Capability::FourOctetAs(asn)],
    }
}

fn config(ports: [u16; 2]) -> SpeakerConfig {
    let peers = ports.into_iter().enumerate().map(|(number, port)| PeerConfig {
        port,
        hold_time: Duration::ZERO,
        families: Families { ipv4: true, ipv6: false },
        ..PeerConfig::new(format!("peer{number}"), IpAddr::from([127, 0, 0, 1]), 64513)
    });
    SpeakerConfig {
        next_hop_ipv4: Some(Ipv4Addr::new(192, 0, 2, 1)),
        peers: peers.collect(),
        ..SpeakerConfig::new(64512, Ipv4Addr::from(64512))
    }
}

/// Answers the OPEN and does nothing more.
fn accept(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = listener.accept().unwrap();
    let mut octets = BytesMut::new();
    Message::Open(open(64513)).encode(&EncodeContext::initial(), &mut octets).unwrap();
    Message::Keepalive.encode(&EncodeContext::initial(), &mut octets).unwrap();
    stream.write_all(&octets).unwrap();
    stream
}

/// What a peer is told of the flapping routes, and how many of the others.
#[derive(Default)]
struct Heard {
    flapping: BTreeSet<IpAddr>,
    still: u32,
}

/// Reads until told to end.
fn read(mut stream: TcpStream, end: &mpsc::Receiver<()>) -> Heard {
    let context: DecodeContext = negotiate(&open(64513), &open(64512)).unwrap().decode_context();
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let (mut heard, mut octets, mut buffer) = (Heard::default(), Vec::new(), vec![0; 1 << 16]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return heard,
            Ok(count) => octets.extend_from_slice(&buffer[..count]),
            Err(_) if end.try_recv().is_ok() => return heard,
            Err(_) => {}
        }
        let mut used = 0;
        while let Some(header) = octets.get(used..used + 19) {
            let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
            let Some(message) = octets.get(used..used + length) else { break };
            used += length;
            let Message::Update(update) = Message::decode(message, &context).unwrap() else { continue };
            for route in update.withdrawn() {
                heard.flapping.remove(&route.prefix.addr());
            }
            for route in update.announced() {
                match route.prefix.addr() {
                    IpAddr::V4(address) if address.octets()[0] == 198 => drop(heard.flapping.insert(address.into())),
                    _ => heard.still += 1,
                }
            }
        }
        octets.drain(..used);
    }
}

fn reading(stream: TcpStream) -> (mpsc::Sender<()>, JoinHandle<Heard>) {
    let (end, told) = mpsc::channel();
    (end, spawn(move || read(stream, &told)))
}

/// Until this peer confirms the generation; whether the other confirmed anything meanwhile.
async fn confirmed(events: &mut tokio::sync::mpsc::Receiver<PeerEvent>, peer: usize, wanted: u64) -> bool {
    let mut other = false;
    let search = async {
        loop {
            let event = events.recv().await.expect("the speaker runs");
            if let What::Confirmed { generation, .. } = event.what {
                other |= event.peer != peer;
                if event.peer == peer && generation >= wanted {
                    return;
                }
            }
        }
    };
    tokio::time::timeout(LONG, search).await.expect("confirmed in time");
    other
}

fn flapping(round: u64) -> impl Iterator<Item = (IpAddr, bool)> {
    (0..FLAPPING).map(move |n| (IpAddr::from((0xc612_0000 + n).to_be_bytes()), round % 2 == 1 || n % 3 == 0))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_stops_reading_in_a_replay_costs_a_bounded_log_and_delays_nobody() {
    let mut table = Table::new(LOG);
    let still = (0..STILL).map(|n| (IpAddr::from((0x0a00_0000 + n).to_be_bytes()), true));
    table.apply(1, still, Instant::now());
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    // What the kernel takes for a peer that doesn't read is little beside the table.
    socket2::SockRef::from(&listeners[1]).set_recv_buffer_size(8192).unwrap();
    let ports = [0, 1].map(|peer: usize| listeners[peer].local_addr().unwrap().port());
    let (speaker, mut events) = Speaker::start_with(config(ports), table).await.unwrap();
    let handle = speaker.handle();
    let (end, good) = reading(accept(&listeners[0]));
    let stuck = accept(&listeners[1]);
    assert!(!confirmed(&mut events, 0, 1).await, "nobody reads at the other");

    let mut before = 0;
    for round in 1..=ROUNDS {
        handle.apply(round + 1, flapping(round));
        assert!(!confirmed(&mut events, 0, round + 1).await, "nobody reads at the other");
        let queued = handle.status()[1].queued;
        assert!((1..1 << 20).contains(&queued), "{queued} octets wait for it");
        // The first rounds fill the log.
        let held = HELD.load(Ordering::Relaxed);
        if round < 4 {
            before = held;
        }
        assert!(held - before < 4 << 20, "{} octets more in round {round}", held - before);
    }

    let (other_end, late) = reading(stuck);
    confirmed(&mut events, 1, ROUNDS + 1).await;
    let announced = handle.announced();
    let ends = [end, other_end];
    for (end, reader) in ends.iter().zip([good, late]) {
        end.send(()).unwrap();
        let heard = reader.join().unwrap();
        let expected: BTreeSet<IpAddr> = flapping(ROUNDS).filter(|(_, on)| *on).map(|(address, _)| address).collect();
        assert!(heard.flapping == expected, "{} routes instead of {}", heard.flapping.len(), expected.len());
        assert!(heard.still >= STILL);
    }
    assert_eq!(announced[0], usize::try_from(STILL).unwrap() + flapping(ROUNDS).filter(|(_, on)| *on).count());
    speaker.stop(Stop::Restart).await;
}
