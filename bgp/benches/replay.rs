//! Prints what the speaker costs and how fast it is, on loopback against sinks that discard: memory per route, replay of a million routes
//! to one and to ten peers, one fresh route to the socket while idle and during a replay. Not a test: it asserts nothing.
//!
//! `cargo bench -p destguard-bgp --features io --bench replay`
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use destguard_bgp::config::{PeerConfig, SpeakerConfig};
use destguard_bgp::io::{PeerEvent, Speaker, What};
use destguard_bgp::session::Stop;
use destguard_bgp::table::Table;
use destguard_bgp::wire::EncodeContext;
use destguard_bgp::wire::capability::Capability;
use destguard_bgp::wire::iana::{Families, Family};
use destguard_bgp::wire::message::{Message, Open, RefreshSubtype, RouteRefresh};

const MILLION: u32 = 1_000_000;

fn config(ports: &[u16]) -> SpeakerConfig {
    let peers = ports.iter().enumerate().map(|(number, port)| {
        let mut peer = PeerConfig::new(format!("sink{number}"), IpAddr::from([127, 0, 0, 1]), 64513);
        peer.port = *port;
        peer.hold_time = Duration::ZERO;
        peer.families = Families { ipv4: true, ipv6: false };
        peer
    });
    SpeakerConfig {
        next_hop_ipv4: Some(Ipv4Addr::new(192, 0, 2, 1)),
        communities: vec![(64512 << 16) | 100],
        peers: peers.collect(),
        ..SpeakerConfig::new(64512, Ipv4Addr::new(192, 0, 2, 2))
    }
}

/// A peer that answers the OPEN and discards; tells when octets came.
fn sink(arrivals: Option<mpsc::Sender<Instant>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            discard(stream, arrivals.as_ref());
        }
    });
    port
}

fn discard(mut stream: TcpStream, arrivals: Option<&mpsc::Sender<Instant>>) {
    let mut octets = BytesMut::new();
    let open = Open {
        asn: 64513,
        hold_time: 0,
        identifier: Ipv4Addr::new(192, 0, 2, 9),
        capabilities: vec![Capability::Multiprotocol(Family::Ipv4.afi_safi()), Capability::FourOctetAs(64513)],
    };
    Message::Open(open).encode(&EncodeContext::initial(), &mut octets).unwrap();
    Message::Keepalive.encode(&EncodeContext::initial(), &mut octets).unwrap();
    stream.write_all(&octets).unwrap();
    let mut buffer = vec![0; 1 << 20];
    while stream.read(&mut buffer).is_ok_and(|count| count > 0) {
        if let Some(arrivals) = arrivals
            && arrivals.send(Instant::now()).is_err()
        {
            return;
        }
    }
}

fn routes(count: u32) -> impl Iterator<Item = (IpAddr, bool)> {
    // Scattered as answers are, not in order.
    (0..count).map(|n| (IpAddr::from(n.wrapping_mul(2_654_435_761).to_be_bytes()), true))
}

/// Resident octets of this process.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

async fn confirmed(events: &mut tokio::sync::mpsc::Receiver<PeerEvent>, peers: usize, wanted: u64) {
    let mut done = vec![false; peers];
    while done.iter().any(|done| !done) {
        let event = events.recv().await.unwrap();
        if matches!(event.what, What::Confirmed { generation, .. } if generation >= wanted) {
            done[event.peer] = true;
        }
    }
}

/// From the sinks' being there to everything acknowledged by all of them; the table is full before.
async fn replay(peers: usize) {
    let held: Vec<TcpListener> = (0..peers).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let ports: Vec<u16> = held.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
    let (speaker, mut events) = Speaker::start(config(&ports)).await.unwrap();
    speaker.handle().apply(1, routes(MILLION));
    // TCP is up by now, but nobody has said OPEN.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = resident();
    let start = Instant::now();
    for listener in held {
        std::thread::spawn(move || discard(listener.accept().unwrap().0, None));
    }
    confirmed(&mut events, peers, 1).await;
    let took = start.elapsed();
    let more = (resident().saturating_sub(before)) as f64 / f64::from(MILLION) / peers as f64;
    println!("  {peers} peers: {took:?}, {more:.1} more octets a (route, peer)");
    speaker.stop(Stop::Restart).await;
}

fn quantile(samples: &mut [Duration], share: f64) -> Duration {
    samples.sort_unstable();
    let at = (samples.len() as f64 * share) as usize;
    samples.get(at.min(samples.len().saturating_sub(1))).copied().unwrap_or_default()
}

/// From `apply` to octets at the peer, one route at a time; `busy`: while another peer gets a million routes again and again.
async fn single(busy: bool) -> (Duration, Duration) {
    let (sender, arrivals) = mpsc::channel();
    let mut ports = vec![sink(Some(sender))];
    if busy {
        ports.push(asking());
    }
    let (speaker, mut events) = Speaker::start(config(&ports)).await.unwrap();
    let handle = speaker.handle();
    handle.apply(1, if busy { routes(MILLION) } else { routes(1) });
    confirmed(&mut events, ports.len(), 1).await;
    let drain = tokio::spawn(async move { while events.recv().await.is_some() {} });
    let mut samples = Vec::new();
    for n in 0..1000u32 {
        tokio::time::sleep(Duration::from_millis(1)).await;
        while arrivals.try_recv().is_ok() {}
        let start = Instant::now();
        handle.apply(u64::from(n) + 2, [(IpAddr::from((0x0a00_0000 + n).to_be_bytes()), n % 2 == 0)]);
        handle.apply(u64::from(n) + 2, [(IpAddr::from([192, 0, 2, 1]), n % 2 == 0)]);
        let arrival = tokio::task::block_in_place(|| arrivals.recv().unwrap());
        samples.push(arrival.saturating_duration_since(start));
    }
    speaker.stop(Stop::Restart).await;
    drain.abort();
    (quantile(&mut samples, 0.5), quantile(&mut samples, 0.99))
}

/// A sink that asks for everything again and again.
fn asking() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut asks = stream.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut octets = BytesMut::new();
            let refresh = RouteRefresh { family: Family::Ipv4.afi_safi(), subtype: RefreshSubtype::Request };
            refresh.encode(&mut octets);
            loop {
                std::thread::sleep(Duration::from_millis(50));
                if asks.write_all(&octets).is_err() {
                    return;
                }
            }
        });
        discard(stream, None);
    });
    port
}

fn main() {
    let before = resident();
    let mut table = Table::default();
    let start = Instant::now();
    table.apply(1, routes(MILLION), Instant::now());
    let took = start.elapsed();
    println!(
        "table: {MILLION} IPv4 routes in {took:?}, {:.1} octets a route",
        (resident() - before) as f64 / f64::from(MILLION)
    );
    let start = Instant::now();
    let id = table.attach(Families::ALL);
    let mut batch = destguard_bgp::table::Batch::default();
    let mut count = 0;
    while table.pending(id) {
        table.take(id, 4096, &mut batch);
        count += batch.routes();
    }
    println!("table: {count} routes taken by a new reader in {:?}", start.elapsed());
    drop(table);

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        println!("a million routes to sinks on loopback:");
        replay(1).await;
        replay(10).await;
        for (busy, what) in [(false, "idle"), (true, "during replays to another peer")] {
            let (median, p99) = tokio::spawn(single(busy)).await.unwrap();
            println!("one fresh route to the peer's socket, {what}: median {median:?}, p99 {p99:?}");
        }
    });
}
