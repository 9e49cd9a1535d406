//! Names without the guard, on a host that guards itself: its own questions for other servers, DNS over HTTPS, and names of the link. Needs root and
//! `nft`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/bridged_host.rs"]
#[allow(dead_code)]
mod host;
#[allow(dead_code)]
#[path = "support/namespace.rs"]
mod namespace;
#[allow(dead_code)]
#[path = "support/traffic.rs"]
mod traffic;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use host::{Daemon, World, answers, asks};
use lab::dns;
use namespace::{Namespace, alone, link, run};
use traffic::{Met, connect, datagram_leaves};

/// How long anything that must happen may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const FOREIGN: [&str; 2] = ["8.8.8.8", "2001:4860:4860::8888"];

fn over_tcp(server: &str, name: &str) -> Vec<IpAddr> {
    let server = SocketAddr::new(server.parse().expect("an address"), 53);
    let answer = dns::ask_over(dns::Transport::Tcp, server, name, dns::A, PATIENCE);
    answer.expect("an answer over TCP").addresses()
}

#[test]
fn this_hosts_own_questions_for_others_come_to_the_guard() {
    alone(|| {
        let world = World::new();
        // One that has asked another resolver before, and asks on from the same port.
        let older = dns::Asker::new("8.8.8.8:53".parse().expect("an address")).expect("a socket");
        assert!(older.ask("other.test", dns::A, PATIENCE).is_ok());
        let before = world.times_asked("other.test");
        assert_eq!(before, 1);
        let mut daemon = Daemon::start("[nftables]\nmode = \"local\"\n");
        for foreign in FOREIGN {
            assert_eq!(connect(foreign, 53), Met::Refused, "not by default: {foreign}");
        }
        daemon.reload("[nftables]\nmode = \"local\"\nredirect_dns = true\n");
        for foreign in FOREIGN {
            assert_eq!(asks(foreign, "web.test"), answers(&["45.67.89.10"]), "{foreign}");
            assert_eq!(over_tcp(foreign, "web.test"), answers(&["45.67.89.10"]).expect("addresses"), "{foreign}");
            assert_eq!(connect(foreign, 853), Met::Refused, "encrypted DNS can't be redirected: {foreign}");
        }
        let asked = older.ask("other.test", dns::A, PATIENCE).expect("a flow from before is redirected too");
        assert_eq!(Some(asked.addresses()), answers(&["45.67.89.11"]));
        for open in ["45.67.89.10", "45.67.89.11"] {
            assert_eq!(connect(open, 80), Met::Connected, "what was answered is open: {open}");
        }
        assert_eq!(connect("45.67.89.12", 80), Met::Refused);
        // The guard asked its own upstream, once for each; nobody else was asked. What it sends itself isn't redirected.
        assert_eq!((world.times_asked("web.test"), world.times_asked("other.test")), (1, before + 1));
        // Whoever redirects what: the host's own rules behind it, and other programs' marks, change nothing.
        run("nft add table ip nat2; nft add chain ip nat2 o '{ type nat hook output priority -100; }'; \
             nft add rule ip nat2 o ip daddr 8.8.8.8 udp dport 53 dnat to 9.9.9.9");
        assert_eq!(asks("8.8.8.8", "third.test"), answers(&["45.67.89.13"]));
        let marked = UdpSocket::bind("0.0.0.0:0").expect("a port");
        socket2::SockRef::from(&marked).set_mark(destguard::sys::MARK).expect("CAP_NET_ADMIN");
        assert!(marked.send_to(b"x", "9.9.9.9:53").is_err(), "the mark alone opens no other resolver");
        // The guard is killed: nobody answers, and nothing leaks.
        let asked = world.times_asked("six.test");
        daemon.kill();
        let at = "9.9.9.9:53".parse().expect("an address");
        assert!(dns::ask(at, "six.test", dns::AAAA, Duration::from_secs(2)).is_err());
        assert_eq!(world.times_asked("six.test"), asked);
        daemon.start_again();
        daemon.reload("[nftables]\nmode = \"local\"\n");
        assert_eq!(connect("8.8.8.8", 53), Met::Refused);
    });
}

#[test]
fn known_servers_of_dns_over_https_are_refused_also_while_they_are_leased() {
    alone(|| {
        let world = World::new();
        let doh = "[addresses]\ndoh = [\"45.67.89.10\", \"2a00:1234:203::/48\"]\n";
        let local = "[nftables]\nmode = \"local\"\n";
        let daemon = Daemon::start(local);
        for name in ["web.test", "other.test", "six.test"] {
            assert!(asks("127.0.0.1", name).is_some_and(|addresses| !addresses.is_empty()), "{name}");
        }
        let mut flow = traffic::open("45.67.89.10", 443).expect("leased");
        daemon.reload(&format!("{local}{doh}"));
        for address in ["45.67.89.10", "2a00:1234:203::10"] {
            assert_eq!(connect(address, 443), Met::Refused, "{address}");
            assert_eq!(connect(address, 80), Met::Connected, "{address}: its other services");
            let quic = SocketAddr::new(address.parse().expect("an address"), 443).to_string();
            assert!(!datagram_leaves(0, &quic), "{quic} over QUIC");
        }
        assert!(!traffic::alive(&mut flow), "one from before ends, as to any other resolver");
        assert_eq!(connect("45.67.89.11", 443), Met::Connected, "another server");
        let counted = run("nft list counter inet destguard dns_bypass");
        assert!(!counted.contains("packets 0"), "{counted}");
        daemon.reload(local);
        assert_eq!(connect("45.67.89.10", 443), Met::Connected);
        assert!(!run("nft list table inet destguard").contains("doh"), "nothing of it is left");
        drop(world);
    });
}

/// Groups and ports, and a port of theirs that isn't the service's.
const GROUPS: [(&str, u16); 6] = [
    ("224.0.0.251", 5353),
    ("224.0.0.252", 5355),
    ("239.255.255.250", 1900),
    ("ff02::fb", 5353),
    ("ff02::1:3", 5355),
    ("ff02::c", 1900),
];

/// Whether a datagram to a group leaves on eth0.
fn to_group(group: &str, port: u16) -> bool {
    let group: IpAddr = group.parse().expect("a group");
    let any: IpAddr = if group.is_ipv4() { [0; 4].into() } else { [0u8; 16].into() };
    let socket = UdpSocket::bind((any, 0)).expect("a port");
    let eth0 = run("ip -o link show eth0 | cut -d: -f1").trim().parse().expect("a number");
    match group {
        IpAddr::V4(_) => socket2::SockRef::from(&socket).set_multicast_if_v4(&[198, 51, 100, 1].into()),
        IpAddr::V6(_) => socket2::SockRef::from(&socket).set_multicast_if_v6(eth0),
    }
    .expect("the interface");
    socket.send_to(b"x", (group, port)).is_ok()
}

#[test]
fn names_of_the_link_are_asked_for_and_answered_by_one_key() {
    alone(|| {
        let world = World::new();
        // A host behind the router, and one on the link: the router itself.
        let behind = Namespace::new();
        world.within(|| {
            run("echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
            link("b0", &behind, "b1");
            run("ip addr add 192.168.7.1/24 dev b0; ip -6 addr add 2001:db8:7::1/64 dev b0 nodad");
        });
        behind.within(|| {
            run("ip addr add 192.168.7.2/24 dev b1; ip -6 addr add 2001:db8:7::2/64 dev b1 nodad; \
                 ip route add default via 192.168.7.1; ip -6 route add default via 2001:db8:7::1");
        });
        let listening = |at: &str| {
            let socket = UdpSocket::bind(at).expect("a port");
            socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
            socket
        };
        let neighbours = world.within(|| ["198.51.100.2:40000", "[2001:db8:198::2]:40000"].map(listening));
        let others = behind.within(|| ["192.168.7.2:40000", "[2001:db8:7::2]:40000"].map(listening));

        let daemon = Daemon::start("[nftables]\nmode = \"local\"\n");
        for (group, port) in GROUPS {
            assert!(!to_group(group, port), "not by default: {group}");
        }
        assert!(!datagram_leaves(5353, "198.51.100.2:40000"), "not by default");
        daemon.reload("[nftables]\nmode = \"local\"\n[addresses]\nlocal_discovery = true\n");
        for (group, port) in GROUPS {
            assert!(to_group(group, port), "{group}");
            assert!(!to_group(group, port + 1), "{group}: another port");
        }
        for port in [5353, 5355, 1900] {
            for (at, neighbour) in ["198.51.100.2:40000", "[2001:db8:198::2]:40000"].into_iter().zip(&neighbours) {
                assert!(datagram_leaves(port, at), "an answer from {port} to {at}");
                neighbour.recv(&mut [0; 8]).expect("it comes");
            }
        }
        assert!(!datagram_leaves(0, "198.51.100.2:40000"), "from another port");
        // Nobody tunnels through these ports: what is not on the link is not reached.
        for (at, other) in ["192.168.7.2:40000", "[2001:db8:7::2]:40000"].into_iter().zip(&others) {
            datagram_leaves(5353, at);
            world.within(|| assert!(datagram_leaves(0, at), "the router itself reaches it"));
            let mut octets = [0; 8];
            let (_, from) = other.recv_from(&mut octets).expect("what the router sends");
            assert!(["192.168.7.1", "2001:db8:7::1"].contains(&from.ip().to_string().as_str()), "{from} came first");
        }
        daemon.reload("[nftables]\nmode = \"local\"\n");
        assert!(!to_group("224.0.0.251", 5353));
    });
}
