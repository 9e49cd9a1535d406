//! A gateway between a client and a server.

use super::*;

/// A client (10.9.1.2, .3 behind in0) and a server (10.9.2.2, .3, .4 behind out0) with the calling thread's namespace
/// as gateway between them.
pub fn client_and_server() -> (Namespace, Namespace) {
    let (client, server) = (Namespace::new(), Namespace::new());
    run("echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
    link("in0", &client, "c0");
    link("out0", &server, "s0");
    address("in0", 1, 1);
    address("out0", 2, 1);
    client.within(|| {
        address("c0", 1, 2);
        address("c0", 1, 3);
        run("ip route add default via 10.9.1.1; ip -6 route add default via 2001:db8:1::1");
        serve(&[80]);
    });
    server.within(|| {
        for host in 2..=4 {
            address("s0", 2, host);
        }
        run("ip route add default via 10.9.2.1; ip -6 route add default via 2001:db8:2::1");
        serve(&[53, 80, 853]);
    });
    assert_eq!(client.within(|| connect("10.9.2.2", 80)), Met::Connected);
    assert_eq!(client.within(|| connect("2001:db8:2::2", 80)), Met::Connected);
    (client, server)
}

#[test]
fn a_gateway_guards_the_inside_and_nothing_else() {
    alone(|| {
        let (client, server) = client_and_server();
        let mut running = Running::start(&config(NftablesMode::Gateway), &[]);
        assert_eq!(server.within(|| connect("10.9.1.2", 80)), Met::Connected, "what comes in is not guarded");
        assert_eq!(server.within(|| connect("2001:db8:1::2", 80)), Met::Connected);
        for (leased, other) in [("10.9.2.2", "10.9.2.3"), ("2001:db8:2::2", "2001:db8:2::3")] {
            assert_eq!(client.within(|| connect(leased, 80)), Met::Refused, "{leased} before its lease");
            running.open(leased, 1);
            let mut flow = client.within(|| open(leased, 80)).expect("leased");
            assert_eq!(client.within(|| connect(other, 80)), Met::Refused);
            assert_eq!(client.within(|| connect(leased, 853)), Met::Refused);
            eventually("the lease ends", || left(leased).is_none());
            assert_eq!(client.within(|| connect(leased, 80)), Met::Refused);
            assert!(alive(&mut flow), "the live flow goes on");
            running.open(leased, 300);
            running.send(Command::CutFlows(ip(leased)));
            running.apply(vec![Change::Close { address: ip(leased) }]);
            running.applied();
            eventually("the flow is cut", || !alive(&mut flow));
            assert_eq!(connect(leased, 80), Met::Connected, "the gateway's own traffic is not guarded");
        }
        running.stop();

        let running = Running::start(&config(NftablesMode::Both), &[]);
        assert_eq!(connect("10.9.2.3", 80), Met::Refused, "both: the gateway's own traffic is");
        assert_eq!(client.within(|| connect("10.9.2.3", 80)), Met::Refused);
        running.stop();

        // From gateway to local: no drop chain stays in the way of what is forwarded.
        let running = Running::start(&local(), &[]);
        assert_eq!(client.within(|| connect("10.9.2.3", 80)), Met::Connected);
        running.stop();
    });
}

#[test]
fn foreign_dns_from_inside_is_sent_to_this_guard() {
    alone(|| {
        let (client, _server) = client_and_server();
        let redirect = Nftables { redirect_dns: true, ..config(NftablesMode::Gateway) };
        let running = Running::start(&redirect, &[]);
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
        running.stop();
    });
}
