//! Speakers and raw sockets on loopback. All waiting is for a condition, with a deadline.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::config::{AoAlgorithm, Confirm, PeerConfig, Role, Secret, TcpAo};
use crate::status::State;
use crate::wire::EncodeContext;
use crate::wire::capability::Capability;
use crate::wire::iana::Family;
use crate::wire::message::{Message, Open, RefreshSubtype, RouteRefresh};

const LEFT: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1));
const RIGHT: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const LONG: Duration = Duration::from_secs(20);

fn config(asn: u32, peer: PeerConfig) -> SpeakerConfig {
    SpeakerConfig {
        next_hop_ipv4: Some(Ipv4Addr::new(192, 0, 2, 1)),
        next_hop_ipv6: Some(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
        communities: vec![0xfc00_0064],
        large_communities: vec![[64512, 1, 2]],
        graceful_restart: Duration::from_secs(120),
        peers: vec![peer],
        ..SpeakerConfig::new(asn, Ipv4Addr::from(asn))
    }
}

/// A port that is free on both addresses.
fn port() -> u16 {
    loop {
        let probe = std::net::TcpListener::bind((LEFT, 0)).unwrap();
        let port = probe.local_addr().unwrap().port();
        if std::net::TcpListener::bind((RIGHT, port)).is_ok() {
            return port;
        }
    }
}

/// The left one connects, the right one waits; the right one announces nothing.
fn two(change: impl Fn(&mut SpeakerConfig, &mut SpeakerConfig)) -> (SpeakerConfig, SpeakerConfig) {
    let port = port();
    let left_peer = PeerConfig { port, local_address: Some(LEFT), ..PeerConfig::new("right", RIGHT, 64513) };
    let right_peer = PeerConfig { passive: true, role: Role::Observer, ..PeerConfig::new("left", LEFT, 64512) };
    let mut left = config(64512, left_peer);
    let mut right = config(64513, right_peer);
    right.listen = vec![SocketAddr::new(RIGHT, port)];
    change(&mut left, &mut right);
    (left, right)
}

async fn until(what: &str, mut met: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + LONG;
    while !met() {
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn event(events: &mut mpsc::Receiver<PeerEvent>, mut wanted: impl FnMut(&What) -> bool) -> What {
    let search = async {
        loop {
            let event = events.recv().await.expect("the speaker runs");
            if wanted(&event.what) {
                return event.what;
            }
        }
    };
    tokio::time::timeout(LONG, search).await.expect("an event in time")
}

async fn confirmed(events: &mut mpsc::Receiver<PeerEvent>, wanted: u64) -> Option<Duration> {
    let is = |what: &What| matches!(what, What::Confirmed { generation, .. } if *generation >= wanted);
    match event(events, is).await {
        What::Confirmed { latency, .. } => latency,
        _ => None,
    }
}

fn hosts(count: u32) -> impl Iterator<Item = (IpAddr, bool)> {
    (0..count).map(|n| (IpAddr::from((0xc612_0000 + n).to_be_bytes()), true))
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_flow_and_are_confirmed() {
    for rule in [Confirm::Sent, Confirm::Acked] {
        let (left, right) = two(|left, _| left.peers[0].confirm = rule);
        let (right, _right_events) = Speaker::start(right).await.unwrap();
        let (left, mut events) = Speaker::start(left).await.unwrap();
        left.handle().apply(1, [("2001:db8::1".parse().unwrap(), true)]);
        left.handle().set_open(&["203.0.113.0/24".parse().unwrap()]);
        event(&mut events, |what| matches!(what, What::Up { .. })).await;
        confirmed(&mut events, 1).await;
        left.handle().apply(2, hosts(50_000));
        assert!(confirmed(&mut events, 2).await.is_some());
        left.handle().apply(3, [(IpAddr::from([198, 18, 0, 7]), false)]);
        confirmed(&mut events, 3).await;
        let (seen, mine) = (right.handle(), left.handle());
        until("all routes seen", || seen.status()[0].received.withdrawn == 1).await;
        let received = seen.status()[0].received;
        assert_eq!((received.announced, received.malformed), (50_002, 0));
        assert!(received.updates < 50_000 / 500, "packed: {}", received.updates);
        let status = &mine.status()[0];
        assert_eq!((status.state, status.advertised), (State::Established, [50_000, 1]));
        assert_eq!(status.confirmed, Some(3));
        assert!(status.capabilities.contains(&"extended-message"));
        left.stop(Stop::Shutdown("maintenance".to_owned())).await;
        until("the text", || {
            seen.status()[0]
                .last_error
                .as_ref()
                .is_some_and(|(text, _)| text.ends_with("Cease, administrative shutdown: \"maintenance\""))
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settle_delays_the_confirmation() {
    let settle = Duration::from_millis(120);
    let (left, right) = two(|left, _| left.peers[0].settle = settle);
    let (_right, _right_events) = Speaker::start(right).await.unwrap();
    let (left, mut events) = Speaker::start(left).await.unwrap();
    confirmed(&mut events, 0).await;
    left.handle().apply(1, hosts(1));
    assert!(confirmed(&mut events, 1).await.unwrap() >= settle);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_active_ends_come_to_one_session() {
    let (left, right) = two(|left, right| {
        let port = left.peers[0].port;
        left.listen = vec![SocketAddr::new(LEFT, port)];
        right.peers[0].passive = false;
        right.peers[0].port = port;
        right.peers[0].local_address = Some(RIGHT);
    });
    let (left, right) = tokio::join!(Speaker::start(left), Speaker::start(right));
    let (left, mut events) = left.unwrap();
    let (_right, _right_events) = right.unwrap();
    confirmed(&mut events, 0).await;
    left.handle().apply(1, hosts(10));
    confirmed(&mut events, 1).await;
    assert_eq!(left.handle().status()[0].established, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_and_observers_get_nothing_but_the_ends() {
    for audit in [true, false] {
        let (left, right) =
            two(|left, _| if audit { left.announce = false } else { left.peers[0].role = Role::Observer });
        let (right, _right_events) = Speaker::start(right).await.unwrap();
        let (left, mut events) = Speaker::start(left).await.unwrap();
        left.handle().apply(1, hosts(10));
        confirmed(&mut events, 1).await;
        let seen = right.handle();
        until("both End-of-RIBs", || seen.status()[0].received.updates == 2).await;
        assert_eq!(seen.status()[0].received.announced, 0);
        left.stop(Stop::Restart).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_family_that_the_peer_lacks_is_never_confirmed() {
    let (left, right) = two(|_, right| right.peers[0].families = Families { ipv4: true, ipv6: false });
    let (right, _right_events) = Speaker::start(right).await.unwrap();
    let (left, mut events) = Speaker::start(left).await.unwrap();
    let up = event(&mut events, |what| matches!(what, What::Up { .. })).await;
    assert_eq!(up, What::Up { missing: Families { ipv4: false, ipv6: true } });
    left.handle().apply(1, hosts(1));
    confirmed(&mut events, 1).await;
    let v6: IpAddr = "2001:db8::1".parse().unwrap();
    left.handle().apply(2, hosts(2).chain([(v6, true)]));
    let seen = right.handle();
    // A change made during the first replay may be sent twice.
    until("the IPv4 route", || seen.status()[0].received.announced >= 2).await;
    assert_eq!(left.handle().status()[0].confirmed, Some(1));
    left.handle().apply(3, [(v6, false)]);
    confirmed(&mut events, 3).await;
    assert_eq!(seen.status()[0].received.malformed, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_must_match_and_the_error_says_so() {
    let secret = |text: &str| Some(Secret::new(text));
    let (left, right) = two(|left, right| {
        left.peers[0].password = secret("one");
        right.peers[0].password = secret("one");
    });
    let (right, _right_events) = Speaker::start(right).await.unwrap();
    let (left, mut events) = Speaker::start(left).await.unwrap();
    confirmed(&mut events, 0).await;
    left.stop(Stop::Restart).await;
    right.stop(Stop::Restart).await;

    let (left, right) = two(|left, right| {
        left.peers[0].password = secret("one");
        right.peers[0].password = secret("two");
    });
    let (_right, _right_events) = Speaker::start(right).await.unwrap();
    let (left, _events) = Speaker::start(left).await.unwrap();
    let status = left.handle();
    until("a hint at the password", || {
        status.status()[0].last_error.as_ref().is_some_and(|(text, _)| text.contains("is the password the same"))
    })
    .await;
}

/// TCP-AO holds where the kernel has it; where it hasn't, nothing starts that was to be protected, listening or connecting, and the cause is named.
#[tokio::test(flavor = "multi_thread")]
async fn tcp_ao_protects_or_the_kernel_is_named() {
    let ao = |send_id, recv_id, algorithm| Some(TcpAo { algorithm, send_id, recv_id });
    let pair = |theirs: Option<TcpAo>, password: &'static str| {
        two(move |left, right| {
            left.peers[0].password = Some(Secret::new("one"));
            left.peers[0].tcp_ao = ao(5, 6, AoAlgorithm::Aes128Cmac);
            right.peers[0].password = Some(Secret::new(password));
            right.peers[0].tcp_ao = theirs;
        })
    };
    let right_ids = ao(6, 5, AoAlgorithm::Aes128Cmac);
    if sys::tcp_ao::known().unwrap() {
        let (left, right) = pair(right_ids, "one");
        let (right, _right_events) = Speaker::start(right).await.unwrap();
        let (left, mut events) = Speaker::start(left).await.unwrap();
        confirmed(&mut events, 0).await;
        left.stop(Stop::Restart).await;
        right.stop(Stop::Restart).await;
        let wrong = [
            (right_ids, "two"),
            (ao(6, 6, AoAlgorithm::Aes128Cmac), "one"),
            (ao(6, 5, AoAlgorithm::HmacSha1), "one"),
            (None, "one"),
        ];
        for (theirs, password) in wrong {
            let (left, right) = pair(theirs, password);
            let (right, _right_events) = Speaker::start(right).await.unwrap();
            let (left, _events) = Speaker::start(left).await.unwrap();
            let status = left.handle();
            until("a hint at the key", || {
                let error = status.status()[0].last_error.clone();
                error.is_some_and(|(text, _)| text.contains("are TCP-AO's password, ids and algorithm the same"))
            })
            .await;
            assert_eq!(status.status()[0].established, 0);
            left.stop(Stop::Restart).await;
            right.stop(Stop::Restart).await;
        }
    } else {
        let named =
            "TCP-AO can't be set: this kernel has no TCP-AO (it takes Linux 6.7 or later, built with CONFIG_TCP_AO)";
        let (left, right) = pair(right_ids, "one");
        let (listens, peers) = (right.listen[0], right.peers.clone());
        for config in [left, right] {
            let name = config.peers[0].name.clone();
            let error = Speaker::start(config).await.map(|_| ()).unwrap_err();
            assert!(matches!(error, StartError::Option { .. }), "{error:?}");
            assert_eq!(error.to_string(), format!("peer {name}: {named}"));
        }
        let error = sys::listener(listens, &peers, None).unwrap_err();
        assert_eq!(error.to_string(), format!("peer {}: {named}", peers[0].name));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ends_of_gtsm_come_up() {
    let (left, right) = two(|left, right| {
        left.peers[0].ttl_security = true;
        right.peers[0].ttl_security = true;
    });
    let (_right, _right_events) = Speaker::start(right).await.unwrap();
    let (_left, mut events) = Speaker::start(left).await.unwrap();
    confirmed(&mut events, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_as_is_named_at_both_ends() {
    let (left, right) = two(|left, _| left.peers[0].asn = 64999);
    let (right, _right_events) = Speaker::start(right).await.unwrap();
    let (left, _events) = Speaker::start(left).await.unwrap();
    let (left, right) = (left.handle(), right.handle());
    let says = |handle: &SpeakerHandle, wanted: &str| {
        handle.status()[0].last_error.as_ref().is_some_and(|(text, _)| text.contains(wanted))
    };
    until("the cause", || says(&left, "wrong AS: peer says 64513, configured 64999") || says(&left, "bad peer AS"))
        .await;
    until("the cause", || says(&right, "bad peer AS") || says(&right, "peer closed")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_work_is_refused_at_the_start() {
    let (mut left, _) = two(|_, _| {});
    left.peers[0].passive = true;
    assert!(matches!(Speaker::start(left).await, Err(StartError::NoListener { .. })));
    let (mut left, _) = two(|_, _| {});
    left.peers[0].password = Some(Secret::new("x".repeat(81)));
    assert!(matches!(Speaker::start(left).await, Err(StartError::Option { .. })));
    let taken = TcpListener::bind((LEFT, 0)).await.unwrap();
    let (mut left, _) = two(|_, _| {});
    left.listen = vec![taken.local_addr().unwrap()];
    assert!(matches!(Speaker::start(left).await, Err(StartError::Listen { .. })));
}

/// A connection that came to another address than the peer's `local_address` is none of its.
#[tokio::test(flavor = "multi_thread")]
async fn only_the_bound_local_address_is_connected_from_and_accepted_on() {
    for (bound, comes_up) in [(RIGHT, true), (IpAddr::from([127, 0, 0, 9]), false)] {
        let (left, right) = two(|_, right| right.peers[0].local_address = Some(bound));
        let (right, _right_events) = Speaker::start(right).await.unwrap();
        let (left, mut events) = Speaker::start(left).await.unwrap();
        tokio::spawn(async move { while events.recv().await.is_some() {} });
        let (ours, theirs) = (left.handle(), right.handle());
        let up = || theirs.status()[0].established > 0;
        until("a session, or its refusal", || {
            up() || ours.status()[0].last_error.as_ref().is_some_and(|(text, _)| text.contains("before its OPEN"))
        })
        .await;
        assert_eq!(up(), comes_up, "{:?}", ours.status()[0].last_error);
    }
    // Nobody listens on an address that isn't ours: the cause is named.
    let (left, _right) = two(|left, _| left.peers[0].local_address = Some(IpAddr::from([192, 0, 2, 250])));
    let (left, _events) = Speaker::start(left).await.unwrap();
    let ours = left.handle();
    until("the address to be named", || {
        let error = ours.status()[0].last_error.clone();
        error.is_some_and(|(text, _)| text.contains("can't connect from local_address 192.0.2.250"))
    })
    .await;
}

/// A panic in one peer's task, the table's lock in hand: that session ends and comes back with the whole table; the other one, fed by the same
/// table, notices nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_one_session_ends_that_session_only() {
    let third = IpAddr::from([127, 0, 0, 3]);
    let (mut left, right) = two(|_, _| {});
    let port = right.listen[0].port();
    let mut other = right.clone();
    other.router_id = Ipv4Addr::new(192, 0, 2, 77);
    other.listen = vec![SocketAddr::new(third, port)];
    left.peers.push(PeerConfig { port, local_address: Some(LEFT), ..PeerConfig::new("third", third, 64513) });
    let (right, _right_events) = Speaker::start(right).await.unwrap();
    let (other, _other_events) = Speaker::start(other).await.unwrap();
    let (left, mut events) = Speaker::start(left).await.unwrap();
    let status = left.handle();
    let confirmed_at = |generation| {
        let status = left.handle();
        move || status.status().iter().all(|peer| peer.confirmed == Some(generation))
    };
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    status.apply(1, hosts(1000));
    until("both sessions", confirmed_at(1)).await;

    left.shared.fault.store(0, Ordering::SeqCst);
    status.apply(2, [(IpAddr::from([203, 0, 113, 1]), true)]);
    let seen = status.clone();
    until("the defect", move || {
        let error = seen.status()[0].last_error.clone();
        error.is_some_and(|(text, _)| text == "a defect in this program ended the session")
    })
    .await;
    until("both sessions again", confirmed_at(2)).await;
    status.apply(3, [(IpAddr::from([203, 0, 113, 2]), true)]);
    until("both sessions on", confirmed_at(3)).await;
    let times: Vec<u64> = status.status().iter().map(|peer| peer.established).collect();
    assert_eq!(times, [2, 1]);
    assert_eq!(status.status()[1].last_error, None);
    let (first, second) = (right.handle(), other.handle());
    until("all routes at both", || {
        first.status()[0].received.announced >= 2002 && second.status()[0].received.announced == 1002
    })
    .await;
}

/// Brings a session up by hand and returns its socket.
async fn by_hand(listener: &TcpListener) -> TcpStream {
    by_hand_with(listener, []).await
}

/// The same with more capabilities.
async fn by_hand_with(listener: &TcpListener, more: impl IntoIterator<Item = Capability>) -> TcpStream {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut octets = BytesMut::new();
    let plain = [Capability::Multiprotocol(Family::Ipv4.afi_safi()), Capability::FourOctetAs(64513)];
    let open = Open {
        asn: 64513,
        hold_time: 0,
        identifier: Ipv4Addr::new(192, 0, 2, 9),
        capabilities: plain.into_iter().chain(more).collect(),
    };
    Message::Open(open).encode(&EncodeContext::initial(), &mut octets).unwrap();
    Message::Keepalive.encode(&EncodeContext::initial(), &mut octets).unwrap();
    stream.write_all(&octets).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_stops_reading_costs_little_and_confirms_nothing() {
    let listener = TcpListener::bind((RIGHT, 0)).await.unwrap();
    socket2::SockRef::from(&listener).set_recv_buffer_size(8192).unwrap();
    let (mut left, _) = two(|_, _| {});
    left.peers[0].port = listener.local_addr().unwrap().port();
    left.peers[0].hold_time = Duration::ZERO;
    left.peers[0].families = Families { ipv4: true, ipv6: false };
    let (left, mut events) = Speaker::start(left).await.unwrap();
    let mut stream = by_hand(&listener).await;
    confirmed(&mut events, 0).await;
    left.handle().apply(1, hosts(400_000));
    let status = left.handle();
    until("the queue to fill", || status.status()[0].queued > 0).await;
    for generation in 2..50 {
        left.handle().apply(generation, [(IpAddr::from([203, 0, 113, 1]), generation % 2 == 0)]);
        tokio::task::yield_now().await;
    }
    assert!(status.status()[0].queued < 1 << 20, "{} octets", status.status()[0].queued);
    assert!(events.try_recv().is_err(), "nothing is confirmed");
    let drain = tokio::spawn(async move {
        let mut buffer = vec![0; 1 << 20];
        while stream.read(&mut buffer).await.unwrap() > 0 {}
    });
    confirmed(&mut events, 49).await;
    assert_eq!(status.status()[0].advertised, [400_000, 0]);
    left.stop(Stop::Restart).await;
    drain.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_session_comes_back_and_gets_the_table_as_it_is() {
    let listener = TcpListener::bind((RIGHT, 0)).await.unwrap();
    let (mut left, _) = two(|_, _| {});
    left.peers[0].port = listener.local_addr().unwrap().port();
    let (left, mut events) = Speaker::start(left).await.unwrap();
    let stream = by_hand(&listener).await;
    confirmed(&mut events, 0).await;
    left.handle().apply(1, hosts(5));
    confirmed(&mut events, 1).await;
    drop(stream);
    let down = event(&mut events, |what| matches!(what, What::Down(_))).await;
    let What::Down(reason) = down else { panic!("{down:?}") };
    assert!(reason.contains("closed") || reason.contains("reset"), "{reason}");
    let shown = left.handle().status()[0].last_error.clone().map(|(text, _)| text).unwrap_or_default();
    assert!(shown.starts_with(&reason), "the status agrees with the event: {shown}");
    left.handle().apply(2, hosts(2).map(|(address, _)| (address, false)));
    let _stream = by_hand(&listener).await;
    event(&mut events, |what| matches!(what, What::Up { .. })).await;
    confirmed(&mut events, 2).await;
    assert_eq!(left.handle().status()[0].advertised, [3, 0]);
}

/// Closes a connection so that its other end hears nothing of it, as when a router loses power. Needs CAP_NET_ADMIN.
fn forget(stream: TcpStream) {
    sys::set_int(stream.as_fd(), libc::IPPROTO_TCP, libc::TCP_REPAIR, 1).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_the_peer_forgot_before_its_open_is_tried_again() {
    let port = port();
    let listener = TcpListener::bind((RIGHT, port)).await.unwrap();
    let hold_time = Duration::from_secs(3);
    let peer = PeerConfig { port, local_address: Some(LEFT), hold_time, ..PeerConfig::new("right", RIGHT, 64513) };
    let (_speaker, mut events) = Speaker::start(config(64512, peer)).await.unwrap();
    let (mut forgets, _) = listener.accept().await.unwrap();
    // Its OPEN is here and acknowledged: nothing of it is on the way any more.
    forgets.read_exact(&mut [0; 19]).await.unwrap();
    forget(forgets);
    let again = tokio::time::timeout(LONG, by_hand(&listener)).await;
    again.expect("a connection in less time than an OPEN may take");
    event(&mut events, |what| matches!(what, What::Up { .. })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_connects_only_once_the_table_is_there() {
    let listener = TcpListener::bind((RIGHT, 0)).await.unwrap();
    let (mut left, _) = two(|left, _| left.restarting = true);
    left.peers[0].port = listener.local_addr().unwrap().port();
    let (left, mut events) = Speaker::start(left).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(300), listener.accept()).await;
    assert!(early.is_err(), "a session before the table");
    left.handle().apply(1, hosts(5));
    let _stream = by_hand(&listener).await;
    confirmed(&mut events, 1).await;
    assert_eq!(left.handle().status()[0].advertised, [5, 0]);
}

/// RFC 8326: everything once more, with GRACEFUL_SHUTDOWN, on the session that is there.
#[tokio::test(flavor = "multi_thread")]
async fn before_it_goes_for_good_it_asks_for_other_routes() {
    let listener = TcpListener::bind((RIGHT, 0)).await.unwrap();
    let (mut left, _) = two(|_, _| {});
    left.peers[0].port = listener.local_addr().unwrap().port();
    let (left, mut events) = Speaker::start(left).await.unwrap();
    left.handle().apply(1, hosts(3));
    let mut stream = by_hand(&listener).await;
    confirmed(&mut events, 1).await;
    left.handle().drain();
    let community = [0xff, 0xff, 0, 0];
    let mut heard: Vec<u8> = Vec::new();
    let search = async {
        // The community, and behind it the three routes of the same UPDATE.
        let last = [32, 198, 18, 0, 2];
        loop {
            let mut buffer = vec![0; 65536];
            let count = stream.read(&mut buffer).await.unwrap();
            assert_ne!(count, 0, "the session stays up");
            heard.extend_from_slice(&buffer[..count]);
            let at = heard.windows(4).position(|window| window == community);
            if at.is_some_and(|at| heard[at..].windows(5).any(|window| window == last)) {
                return;
            }
        }
    };
    tokio::time::timeout(LONG, search).await.expect("the routes again, marked");
    assert_eq!(left.handle().status()[0].advertised, [3, 0]);
    left.stop(Stop::Shutdown(String::new())).await;
}

/// An observer is sent no routes, so a replay is two short messages; it may ask for as many as it likes.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_asks_for_replays_and_takes_none_costs_little() {
    let listener = TcpListener::bind((RIGHT, 0)).await.unwrap();
    socket2::SockRef::from(&listener).set_recv_buffer_size(8192).unwrap();
    let (mut left, _) = two(|_, _| {});
    left.peers[0].port = listener.local_addr().unwrap().port();
    left.peers[0].role = Role::Observer;
    left.peers[0].hold_time = Duration::ZERO;
    let (left, _events) = Speaker::start(left).await.unwrap();
    let refreshes = [Capability::RouteRefresh, Capability::EnhancedRouteRefresh];
    let mut stream = by_hand_with(&listener, refreshes).await;
    let mut ask = BytesMut::new();
    let request = RouteRefresh { family: Family::Ipv4.afi_safi(), subtype: RefreshSubtype::Request };
    (0..1000).for_each(|_| request.encode(&mut ask));
    let flood = async {
        for _ in 0..300 {
            stream.write_all(&ask).await.unwrap();
        }
    };
    tokio::time::timeout(LONG, flood).await.expect("the requests are read");
    let status = left.handle();
    until("all requests", || status.status()[0].received.refreshes == 300_000).await;
    let queued = status.status()[0].queued;
    assert!(queued < 1 << 20, "{queued} octets wait for it");
    left.stop(Stop::Restart).await;
}

/// Two sessions to one router differ by our own addresses.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_passive_peers_with_one_address_each_gets_its_own_connections() {
    let (left, mut right) = two(|_, _| {});
    let port = left.peers[0].port;
    let third = IpAddr::from([127, 0, 0, 3]);
    right.listen = vec![SocketAddr::new(RIGHT, port), SocketAddr::new(third, port)];
    right.peers[0].local_address = Some(third);
    let second = PeerConfig { name: "second".to_owned(), local_address: Some(RIGHT), ..right.peers[0].clone() };
    right.peers.push(second);
    let (right, _right_events) = Speaker::start(right).await.unwrap();
    let (_left, mut events) = Speaker::start(left).await.unwrap();
    confirmed(&mut events, 0).await;
    // The other end may hear of it a moment later.
    let up = || right.handle().status().iter().map(|peer| peer.established).collect::<Vec<u64>>();
    until("its own connection", || up() == [0, 1]).await;
}

/// A listener has one key for an address: with two, the first peer's sessions would never come up and nobody would know why.
#[tokio::test(flavor = "multi_thread")]
async fn two_passwords_for_one_address_are_refused() {
    for (passive, second, refused) in [(true, "one", false), (true, "two", true), (false, "two", false)] {
        let (_, mut right) = two(|_, right| {
            right.peers[0].password = Some(Secret::new("one"));
            right.peers[0].passive = passive;
        });
        let other = PeerConfig { password: Some(Secret::new(second)), ..right.peers[0].clone() };
        right.peers.push(PeerConfig { name: "other".to_owned(), local_address: Some(RIGHT), ..other });
        let error = Speaker::start(right).await.err().map(|error| error.to_string());
        let named = |text: &String| text.contains("peer other: its password or tcp_ao differs from that of left");
        assert_eq!(error.as_ref().is_some_and(named), refused, "{error:?}");
        assert_eq!(error.is_some(), refused);
    }
}

/// The operator raises the gate's deadline for a slow router while all runs.
#[tokio::test(flavor = "multi_thread")]
async fn another_patience_holds_from_the_next_announcement_on() {
    let (left, right) = two(|left, _| {
        left.peers[0].confirm = Confirm::Reflect;
        left.peers[0].patience = Duration::from_millis(1);
    });
    let (_right, _right_events) = Speaker::start(right).await.unwrap();
    let (left, mut events) = Speaker::start(left).await.unwrap();
    confirmed(&mut events, 0).await;
    let mut waited = Vec::new();
    for (generation, address) in [(1, [203, 0, 113, 1]), (2, [203, 0, 113, 2])] {
        let begun = Instant::now();
        left.handle().apply(generation, [(IpAddr::from(address), true)]);
        let refused = event(&mut events, |what| matches!(what, What::Refused { .. })).await;
        let What::Refused { reason, .. } = refused else { panic!("{refused:?}") };
        assert!(reason.starts_with(&format!("{} not confirmed within", IpAddr::from(address))), "{reason}");
        waited.push(begun.elapsed());
        left.handle().set_patience(Duration::from_millis(300));
    }
    assert!(waited[1] >= Duration::from_millis(300), "{waited:?}");
}
