//! What the ruleset does to flows from before it, to the guard's own packets and to what is not its business: each test in
//! network namespaces of its own, on the real kernel. Needs root and `nft`.
#![allow(clippy::expect_used, clippy::panic)]

#[path = "ruleset/arming.rs"]
mod arming;
#[path = "ruleset/bridge.rs"]
mod bridge;
#[path = "ruleset/live.rs"]
mod live;
#[path = "ruleset/own.rs"]
mod own;
// Helpers of another test file; each uses some of them.
#[allow(dead_code)]
#[path = "support/namespace.rs"]
mod namespace;
#[allow(dead_code)]
#[path = "support/traffic.rs"]
mod traffic;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use destguard::config::schema::{Nftables, NftablesMode};
use destguard::core::event::EnforcerId;
use destguard::enforce::nftables::Enforcer;
use destguard::enforce::rules::{Own, OwnTraffic, Rules, Special, Transport};
use destguard::sys::clock::Clock;
use namespace::{Namespace, address, link, run};
use traffic::{Met, alive, connect, open, serve};

/// What the guard itself asks.
const UPSTREAM: &str = "10.9.1.5";

fn config(mode: NftablesMode) -> Nftables {
    Nftables { mode, inside: vec!["in0".to_owned()], ..Nftables::default() }
}

fn enforcer(config: &Nftables) -> Enforcer {
    let address: IpAddr = UPSTREAM.parse().expect("an address");
    let own = [
        OwnTraffic { address, transport: Transport::Udp, port: 53 },
        OwnTraffic { address, transport: Transport::Tcp, port: 853 },
    ];
    let own = Own { traffic: own.to_vec(), ..Own::default() };
    let rules = Rules {
        config: config.clone(),
        open: Vec::new(),
        own,
        ports: false,
        capacity: 100,
        special: Special::default(),
    };
    Enforcer::new(&rules, Clock::start(), EnforcerId(0)).expect("nft")
}

fn install(config: &Nftables) {
    enforcer(config).install().expect("installed");
}

/// A host in the calling thread's namespace (h0, 10.9.1.1) and a peer with echo servers at 10.9.1.2 to .5.
fn host_and_peer() -> Namespace {
    let peer = Namespace::new();
    link("h0", &peer, "p0");
    address("h0", 1, 1);
    peer.within(|| {
        for host in 2..=5 {
            address("p0", 1, host);
        }
        serve(&[53, 80, 853]);
        serve_udp(&[53, 80]);
    });
    assert_eq!(connect("10.9.1.2", 80), Met::Connected);
    peer
}

/// A client (10.9.1.2, behind in0) and a server (10.9.2.2, behind out0) with the calling thread's namespace as gateway.
fn client_and_server() -> (Namespace, Namespace) {
    let (client, server) = (Namespace::new(), Namespace::new());
    run("echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
    link("in0", &client, "c0");
    link("out0", &server, "s0");
    address("in0", 1, 1);
    address("out0", 2, 1);
    client.within(|| {
        address("c0", 1, 2);
        run("ip route add default via 10.9.1.1; ip -6 route add default via 2001:db8:1::1");
        serve(&[53, 80]);
        serve_udp(&[53]);
    });
    server.within(|| {
        address("s0", 2, 2);
        address("s0", 2, 3);
        run("ip route add default via 10.9.2.1; ip -6 route add default via 2001:db8:2::1");
        serve(&[53, 80]);
        serve_at("10.9.2.2:853");
        serve_at("[2001:db8:2::2]:853");
        serve_udp(&[53, 80]);
    });
    assert_eq!(client.within(|| connect("10.9.2.2", 80)), Met::Connected);
    (client, server)
}

/// Echoes at one address.
fn serve_at(at: &str) {
    let listener = std::net::TcpListener::bind(at).expect("a port");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut buffer = [0u8; 64];
                while let Ok(length @ 1..) = std::io::Read::read(&mut stream, &mut buffer) {
                    drop(std::io::Write::write_all(&mut stream, &buffer[..length]));
                }
            });
        }
    });
}

/// Echoes datagrams, from the address that each came to.
fn serve_udp(ports: &[u16]) {
    let addresses = run("ip -o addr show scope global | awk '{print $4}' | cut -d/ -f1");
    for address in addresses.split_whitespace() {
        let address: IpAddr = address.parse().expect("an address");
        for port in ports {
            let socket = UdpSocket::bind((address, *port)).expect("a port");
            std::thread::spawn(move || {
                let mut buffer = [0u8; 64];
                while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    drop(socket.send_to(&buffer[..length], from));
                }
            });
        }
    }
}

/// A socket whose datagrams go to one place.
fn flow_udp(from: u16, to: &str) -> UdpSocket {
    let to: SocketAddr = to.parse().expect("address and port");
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0u8; 16].into() };
    let socket = UdpSocket::bind((any, from)).expect("a port");
    socket.connect(to).expect("connected");
    socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a time-out");
    socket
}

/// Whether one echo comes back.
fn echoes(socket: &UdpSocket) -> bool {
    let mut buffer = [0u8; 64];
    socket.send(b"ping").is_ok() && socket.recv(&mut buffer).is_ok_and(|length| &buffer[..length] == b"ping")
}

/// Tries a few times: what an earlier refusal left in the socket's error is read off first.
fn comes_to_echo(socket: &UdpSocket) -> bool {
    (0..10).any(|_| echoes(socket))
}

/// IPv4 and IPv6 forms of a host's address.
fn both(net: u8, host: u8) -> [String; 2] {
    [format!("10.9.{net}.{host}"), format!("2001:db8:{net}::{host}")]
}

fn at(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

fn all_alive(flows: &mut [std::net::TcpStream]) -> bool {
    flows.iter_mut().all(alive)
}

fn opened(addresses: &[String], port: u16) -> Vec<std::net::TcpStream> {
    addresses.iter().map(|address| open(address, port).expect("nothing is guarded yet")).collect()
}
