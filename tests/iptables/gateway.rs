//! A gateway between a client and a server.

use super::*;

/// A client (10.9.1.2 behind in0) and a server (10.9.2.2, .3 behind out0) with the calling thread's namespace as gateway between them.
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
        serve(&[80]);
    });
    server.within(|| {
        address("s0", 2, 2);
        address("s0", 2, 3);
        run("ip route add default via 10.9.2.1; ip -6 route add default via 2001:db8:2::1");
        serve(&[53, 80, 853]);
    });
    assert_eq!(client.within(|| connect("10.9.2.2", 80)), Met::Connected);
    assert_eq!(client.within(|| connect("2001:db8:2::2", 80)), Met::Connected);
    (client, server)
}

#[test]
fn a_gateway_guards_the_inside_and_nothing_else() {
    both(|programs| {
        let (client, server) = client_and_server();
        let mut running = Running::start(programs, &config(NftablesMode::Gateway), &[]);
        assert_eq!(server.within(|| connect("10.9.1.2", 80)), Met::Connected, "what comes in is not guarded");
        assert_eq!(server.within(|| connect("2001:db8:1::2", 80)), Met::Connected);
        for (leased, other) in [("10.9.2.2", "10.9.2.3"), ("2001:db8:2::2", "2001:db8:2::3")] {
            assert_eq!(client.within(|| connect(leased, 80)), Met::Refused, "{leased} before its lease");
            running.open(leased, 300);
            let mut flow = client.within(|| open(leased, 80)).expect("leased");
            assert_eq!(client.within(|| connect(other, 80)), Met::Refused);
            assert_eq!(client.within(|| connect(leased, 853)), Met::Refused);
            running.open(leased, 1);
            eventually("the lease ends", || client.within(|| connect(leased, 80)) == Met::Refused);
            assert!(alive(&mut flow), "the live flow goes on");
            running.open(leased, 300);
            running.send(Command::CutFlows(ip(leased)));
            running.close(leased);
            eventually("the flow is cut", || !alive(&mut flow));
            assert_eq!(connect(leased, 80), Met::Connected, "the gateway's own traffic is not guarded");
        }
        // Both, then the host alone, by reload.
        running.change(rules(&config(NftablesMode::Both))).expect("changed");
        assert_eq!(connect("10.9.2.3", 80), Met::Refused, "both: the gateway's own traffic is");
        assert_eq!(client.within(|| connect("10.9.2.3", 80)), Met::Refused);
        running.change(rules(&config(NftablesMode::Local))).expect("changed");
        assert_eq!(client.within(|| connect("10.9.2.3", 80)), Met::Connected);
        assert_eq!(connect("10.9.2.3", 80), Met::Refused);
        assert!(!remains().contains("destguard-fwd") && !remains().contains("destguard-adopt4"), "{}", remains());
        running.stop();
    });
}

#[test]
fn foreign_dns_from_inside_is_sent_to_this_guard() {
    both(|programs| {
        let (client, _server) = client_and_server();
        let redirect = Nftables { redirect_dns: true, ..config(NftablesMode::Gateway) };
        let running = Running::start(programs, &redirect, &[]);
        // The server's port 53 echoes; the guard's says something else.
        let listener = std::net::TcpListener::bind("[::]:53").expect("port 53");
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                std::io::Write::write_all(&mut stream, b"here").expect("written");
            }
        });
        for address in ["10.9.2.2", "2001:db8:2::2"] {
            let mut stream = client.within(|| open(address, 53)).expect("redirected");
            let mut said = [0u8; 4];
            std::io::Read::read_exact(&mut stream, &mut said).expect("an answer");
            assert_eq!(&said, b"here", "{address}");
            assert_eq!(client.within(|| connect(address, 853)), Met::Refused, "encrypted DNS can't be redirected");
        }
        running.change(rules(&config(NftablesMode::Gateway))).expect("changed");
        assert!(!remains().contains("destguard-nat"), "{}", remains());
        assert_eq!(client.within(|| connect("10.9.2.2", 53)), Met::Refused);
        running.stop();
    });
}

#[test]
fn connections_from_before_are_found_and_dns_elsewhere_ends() {
    both(|programs| {
        let (client, server) = client_and_server();
        let to = ["10.9.2.2", "2001:db8:2::2"];
        let mut streams: Vec<_> = client.within(|| to.iter().map(|to| open(to, 80).expect("open")).collect());
        let mut inbound = server.within(|| open("10.9.1.2", 80)).expect("open");
        let mut resolvers: Vec<_> = client.within(|| to.iter().map(|to| open(to, 853).expect("open")).collect());
        assert!(streams.iter_mut().chain(&mut resolvers).all(alive) && alive(&mut inbound));
        let running = Running::start(programs, &config(NftablesMode::Gateway), &[]);
        assert!(streams.iter_mut().all(alive) && alive(&mut inbound));
        assert!(!resolvers.iter_mut().any(alive), "DoT to another resolver");
        assert_eq!(client.within(|| connect("10.9.2.2", 80)), Met::Refused, "what is new is judged");
        // The kernel ends the time in which they are found.
        assert!(run("ipset list destguard-adopt4").contains("timeout"));
        running.stop();
    });
}
