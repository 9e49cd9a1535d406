//! Flows from before the guard: connections live, and DNS that goes round the guard ends.

use super::namespace::alone;
use super::*;

#[test]
fn connections_of_a_host_that_tracked_nothing_live_on_and_dns_elsewhere_does_not() {
    alone(|| {
        let peer = host_and_peer();
        let mut chatting = opened(&both(1, 2), 80);
        let mut idle = opened(&both(1, 3), 80);
        // A socket that speaks both families; a server's accepted connection; a connected UDP socket.
        idle.push(mapped("10.9.1.4:80"));
        serve(&[8022]);
        let mut inbound = peer.within(|| opened(&both(1, 1), 8022));
        let datagrams: Vec<_> = both(1, 2).iter().map(|to| flow_udp(0, &at(to, 80))).collect();
        assert!(all_alive(&mut chatting) && all_alive(&mut inbound) && datagrams.iter().all(echoes));
        let mut resolvers = opened(&both(1, 2), 853);
        let questions: Vec<_> = both(1, 2).iter().map(|to| flow_udp(0, &at(to, 53))).collect();
        assert!(all_alive(&mut resolvers) && questions.iter().all(echoes));

        install(&config(NftablesMode::Local));
        assert!(all_alive(&mut chatting), "connections from before");
        assert!(all_alive(&mut idle), "that said nothing, and IPv4 within IPv6");
        assert!(all_alive(&mut inbound), "of clients of this host");
        assert!(datagrams.iter().all(echoes), "connected UDP sockets");
        for stream in &mut resolvers {
            assert!(!alive(stream), "DoT to another resolver");
        }
        assert!(!questions.iter().any(comes_to_echo), "DNS to another resolver");
        assert_eq!(connect("10.9.1.3", 80), Met::Refused, "what is new is judged");
        assert_eq!(run("nft list tables"), "table inet destguard\n", "nothing else stays");

        // Once more, with flows that are tracked by now.
        install(&config(NftablesMode::Local));
        assert!(all_alive(&mut chatting) && all_alive(&mut idle) && all_alive(&mut inbound));
    });
}

/// A connection of an IPv6 socket to an IPv4 address.
fn mapped(to: &str) -> std::net::TcpStream {
    let to: SocketAddr = to.parse().expect("address and port");
    let IpAddr::V4(address) = to.ip() else { panic!("IPv4 is meant") };
    let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).expect("a socket");
    socket.connect(&SocketAddr::new(address.to_ipv6_mapped().into(), to.port()).into()).expect("connected");
    socket.set_read_timeout(Some(Duration::from_secs(3))).expect("a time-out");
    socket.into()
}

#[test]
fn tracked_dns_flows_of_the_host_end_at_every_installation_but_for_the_guards_own() {
    alone(|| {
        let peer = host_and_peer();
        run("nft add table inet other; nft add chain inet other c '{ type filter hook output priority 0; }'; \
             nft add rule inet other c ct state established accept");
        // Of this host's own server, whose client has port 53 too.
        serve_udp(&[5300]);
        let client = peer.within(|| flow_udp(53_53, "10.9.1.1:5300"));
        let secondary = peer.within(|| {
            run("ip addr add 10.9.1.9/24 dev p0");
            let socket = UdpSocket::bind("10.9.1.9:53").expect("a port");
            socket.connect("10.9.1.1:5300").expect("connected");
            socket.set_read_timeout(Some(Duration::from_secs(3))).expect("a time-out");
            socket
        });
        let other = flow_udp(0, "10.9.1.2:53");
        let mut dot = opened(&both(1, 2), 853);
        let own = flow_udp(0, "10.9.1.5:53");
        socket2::SockRef::from(&own).set_mark(destguard::sys::MARK).expect("CAP_NET_ADMIN");
        assert!(echoes(&client) && echoes(&secondary) && echoes(&other) && echoes(&own) && all_alive(&mut dot));
        for _ in 0..2 {
            install(&config(NftablesMode::Local));
            assert!(echoes(&client) && echoes(&secondary), "a server's replies leave, to port 53 as well");
            assert!(echoes(&own), "the guard's own questions");
            assert!(!comes_to_echo(&other));
            assert!(!dot.iter_mut().any(alive));
        }
        // In audit they are only counted.
        install(&Nftables { enforce: false, ..config(NftablesMode::Local) });
        assert!(comes_to_echo(&other));
        install(&config(NftablesMode::Local));
        assert!(!comes_to_echo(&other), "enforced again");
    });
}

#[test]
fn a_gateway_that_tracked_nothing_finds_connections_and_ends_dns_elsewhere() {
    alone(|| {
        let (client, server) = client_and_server();
        let mut silent = client.within(|| opened(&both(2, 2), 80));
        let mut chatting = client.within(|| opened(&both(2, 2), 80));
        let mut inbound = server.within(|| opened(&both(1, 2), 80));
        let mut resolvers = client.within(|| opened(&both(2, 2), 853));
        // One whose server speaks first: seen from the middle, it is the one who began.
        let pushing = server.within(|| std::net::TcpListener::bind("10.9.2.3:853").expect("a port"));
        let mut pushed = client.within(|| open("10.9.2.3", 853)).expect("nothing is guarded yet");
        let (mut push, _) = pushing.accept().expect("accepted");
        assert!(all_alive(&mut chatting) && all_alive(&mut inbound) && all_alive(&mut resolvers));

        install(&config(NftablesMode::Gateway));
        std::io::Write::write_all(&mut push, b"push").expect("written");
        std::io::Read::read_exact(&mut pushed, &mut [0u8; 4]).expect("what comes in is not guarded");
        push.set_read_timeout(Some(Duration::from_millis(500))).expect("a time-out");
        drop(std::io::Write::write_all(&mut pushed, b"question"));
        assert!(!std::io::Read::read(&mut push, &mut [0u8; 8]).is_ok_and(|length| length > 0), "a question leaves");
        assert!(all_alive(&mut chatting) && all_alive(&mut inbound));
        assert!(all_alive(&mut silent), "the client speaks first");
        assert!(!resolvers.iter_mut().any(alive), "DoT to another resolver");
        for address in both(2, 2) {
            assert_eq!(client.within(|| connect(&address, 80)), Met::Refused, "a new connection");
        }
        // The time in which they are found is the kernel's own, and ends.
        let element = run("nft list set inet destguard adopt");
        assert!(element.contains("tcp") && element.contains("expires"), "{element}");
        run("nft flush set inet destguard adopt");
        assert!(all_alive(&mut chatting) && all_alive(&mut inbound) && all_alive(&mut silent), "known by now");

        // What is installed once more finds none: who is unknown then was opened round the guard.
        run("nft flush set inet destguard adopt");
        install(&config(NftablesMode::Gateway));
        let element = run("nft list set inet destguard adopt");
        assert!(!element.contains("expires"), "{element}");
    });
}

#[test]
fn a_clients_dns_flow_to_another_resolver_comes_to_this_guard() {
    alone(|| {
        let (client, server) = client_and_server();
        // The gateway tracks already, as one that translates addresses does.
        run("nft add table inet other; nft add chain inet other c '{ type filter hook forward priority 0; }'; \
             nft add rule inet other c ct state established accept");
        let questions: Vec<_> = client.within(|| both(2, 2).iter().map(|to| flow_udp(0, &at(to, 53))).collect());
        let mut streams = client.within(|| opened(&both(2, 2), 80));
        // The inside's own server, and a client of it whose port is 53.
        let secondary = server.within(|| {
            run("ip addr add 10.9.2.9/24 dev s0");
            let socket = UdpSocket::bind("10.9.2.9:53").expect("a port");
            socket.connect("10.9.1.2:53").expect("connected");
            socket.set_read_timeout(Some(Duration::from_secs(3))).expect("a time-out");
            socket
        });
        assert!(questions.iter().all(echoes) && echoes(&secondary) && all_alive(&mut streams));
        // The guard says something else than the echo.
        for address in ["0.0.0.0:53", "[::]:53"] {
            let socket = socket2::Socket::new(
                if address.starts_with('[') { socket2::Domain::IPV6 } else { socket2::Domain::IPV4 },
                socket2::Type::DGRAM,
                None,
            )
            .expect("a socket");
            if address.starts_with('[') {
                socket.set_only_v6(true).expect("IPv6 only");
            }
            socket.bind(&address.parse::<SocketAddr>().expect("address").into()).expect("port 53");
            let socket: UdpSocket = socket.into();
            std::thread::spawn(move || {
                let mut buffer = [0u8; 64];
                while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                    drop(socket.send_to(b"here", from));
                }
            });
        }
        let redirect = Nftables { redirect_dns: true, ..config(NftablesMode::Gateway) };
        for _ in 0..2 {
            install(&redirect);
            for socket in &questions {
                let here = (0..10).any(|_| {
                    let mut buffer = [0u8; 64];
                    let length = socket.send(b"ping").and_then(|_| socket.recv(&mut buffer)).unwrap_or(0);
                    &buffer[..length] == b"here"
                });
                assert!(here, "the flow's next question is this guard's");
            }
            assert!(echoes(&secondary), "questions to the inside's own server, and its replies");
            assert!(all_alive(&mut streams), "everything else lives");
        }
    });
}
