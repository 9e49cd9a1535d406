//! Containers, the host's own DNS, DNS over HTTPS, names of the link.

use std::io::Read as _;
use std::net::TcpListener;

use super::*;

/// Says "here" to whoever connects.
fn says_here(addresses: &[&str]) {
    for address in addresses {
        let listener = TcpListener::bind(address).expect("a port");
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                std::io::Write::write_all(&mut stream, b"here").expect("written");
            }
        });
    }
}

fn heard(address: &str, port: u16) -> String {
    let mut said = [0u8; 4];
    open(address, port).and_then(|mut stream| stream.read_exact(&mut said)).expect("an answer");
    String::from_utf8_lossy(&said).into_owned()
}

#[test]
fn containers_on_a_host_are_judged_as_the_host_is() {
    both(|programs| {
        let peer = host_and_peer();
        run("echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
        run("ip link add br-a type bridge; ip link set br-a up");
        let container = Namespace::new();
        link("v0", &container, "c0");
        run("ip link set v0 master br-a");
        address("br-a", 3, 1);
        container.within(|| {
            address("c0", 3, 2);
            run("ip route add default via 10.9.3.1; ip -6 route add default via 2001:db8:3::1");
            serve(&[80]);
        });
        peer.within(|| run("ip route add 10.9.3.0/24 via 10.9.1.1; ip -6 route add 2001:db8:3::/64 via 2001:db8:1::1"));
        run(&format!(
            "iptables-{} -t nat -A PREROUTING -d 10.9.1.1 -p tcp --dport 8088 -j DNAT --to-destination 10.9.3.2:80",
            programs.variant.name()
        ));
        let local = Nftables { bridges: vec!["br-*".to_owned()], redirect_dns: true, ..config(NftablesMode::Local) };
        let mut running = Running::start(programs, &local, &[]);
        for (leased, other) in [("10.9.1.2", "10.9.1.3"), ("2001:db8:1::2", "2001:db8:1::3")] {
            assert_eq!(container.within(|| connect(leased, 80)), Met::Refused, "{leased}");
            running.open(leased, 300);
            assert_eq!(container.within(|| connect(leased, 80)), Met::Connected);
            assert_eq!(container.within(|| connect(other, 80)), Met::Refused);
            assert_eq!(connect(other, 80), Met::Refused, "the host as well");
        }
        assert_eq!(connect("10.9.3.2", 80), Met::Connected, "the host reaches its containers");
        assert_eq!(peer.within(|| connect("10.9.1.1", 8088)), Met::Connected, "a published port");
        says_here(&["10.9.3.1:53"]);
        assert_eq!(container.within(|| heard("10.9.1.2", 53)), "here", "its questions come to this host");
        running.stop();
    });
}

#[test]
fn the_hosts_own_questions_come_to_the_guard() {
    both(|programs| {
        let _peer = host_and_peer();
        let rules = Rules {
            special: Special {
                resolver: vec![
                    "127.0.0.1:5353".parse().expect("an address"),
                    "[::1]:5353".parse().expect("an address"),
                ],
                ..Special::default()
            },
            ..rules(&Nftables { redirect_dns: true, ..config(NftablesMode::Local) })
        };
        let running = Running::start(programs, &config(NftablesMode::Local), &[]);
        assert_eq!(connect("10.9.1.2", 53), Met::Refused);
        running.change(rules).expect("changed");
        says_here(&["127.0.0.1:5353", "[::1]:5353"]);
        for address in ["10.9.1.2", "2001:db8:1::2"] {
            assert_eq!(heard(address, 53), "here", "{address}");
            assert_eq!(connect(address, 853), Met::Refused);
        }
        // What somebody does to those rules is undone as well.
        let mut running = running;
        tables(programs, "-t nat -F");
        assert!(running.repaired("ruleset").contains("destguard-n"));
        eventually("it is put back", || connect("2001:db8:1::2", 53) == Met::Connected);
        running.stop();
        iptables::remove().expect("removed");
        assert_eq!(remains(), "");
    });
}

#[test]
fn servers_of_dns_over_https_are_refused_and_the_link_is_asked() {
    both(|programs| {
        let peer = host_and_peer();
        peer.within(|| serve(&[443]));
        run("ip route add 224.0.0.0/4 dev h0");
        let special = Special {
            doh: vec!["10.9.1.3/32".parse().expect("a net"), "2001:db8:1::3/128".parse().expect("a net")],
            local_discovery: true,
            ..Special::default()
        };
        let all = [("10.9.1.3", 300), ("2001:db8:1::3", 300), ("10.9.1.2", 300)];
        let running = Running::start(programs, &config(NftablesMode::Local), &all);
        assert_eq!(connect("10.9.1.3", 443), Met::Connected);
        assert!(!datagram_leaves(0, "224.0.0.251:5353") && !datagram_leaves(5353, "10.9.1.4:9"));
        running.change(Rules { special, ..rules(&config(NftablesMode::Local)) }).expect("changed");
        for address in ["10.9.1.3", "2001:db8:1::3"] {
            assert_eq!((connect(address, 443), connect(address, 80)), (Met::Refused, Met::Connected), "{address}");
        }
        assert_eq!(connect("10.9.1.2", 443), Met::Connected);
        assert!(datagram_leaves(0, "224.0.0.251:5353") && datagram_leaves(5353, "10.9.1.4:9"));
        assert!(!datagram_leaves(0, "224.0.0.251:5354") && !datagram_leaves(5354, "10.9.1.4:9"));
        let counted = run(&format!("iptables-{}-save -c -t mangle | grep 'ttl-set 1'", programs.variant.name()));
        assert!(!counted.starts_with("[0:0]"), "an answer goes no further than the link: {counted}");
        running.stop();
    });
}
