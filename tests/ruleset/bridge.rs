//! What goes from port to port of a bridge isn't the gateway's; what it routes back to the same interface is.

use super::namespace::alone;
use super::*;

/// Two hosts on the bridge in0, 10.9.1.2 and .3, and one of another network on the same wire, 10.9.3.2.
fn bridged() -> [Namespace; 3] {
    run(
        "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding; ip link add in0 type bridge; \
         ip link set in0 up; echo 0 > /proc/sys/net/ipv4/conf/all/send_redirects; echo 0 > /proc/sys/net/ipv4/conf/in0/send_redirects",
    );
    address("in0", 1, 1);
    address("in0", 3, 1);
    [(1, 2), (1, 3), (3, 2)].map(|(net, host)| {
        let namespace = Namespace::new();
        let port = format!("v{net}{host}");
        link(&port, &namespace, "c0");
        run(&format!("ip link set {port} master in0"));
        namespace.within(|| {
            address("c0", net, host);
            run(&format!("ip route add default via 10.9.{net}.1; ip -6 route add default via 2001:db8:{net}::1"));
            serve(&[80]);
            serve_udp(&[80]);
        });
        namespace
    })
}

#[test]
fn between_ports_of_a_bridge_nothing_is_refused_and_what_is_routed_back_is() {
    alone(|| {
        // The kernel has br_netfilter: this fails where it hasn't, since nothing would be shown.
        run(
            "echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables; echo 1 > /proc/sys/net/bridge/bridge-nf-call-ip6tables",
        );
        let [one, other, elsewhere] = bridged();
        assert_eq!(one.within(|| connect("10.9.1.3", 80)), Met::Connected);
        assert_eq!(one.within(|| connect("10.9.3.2", 80)), Met::Connected, "routed back to the bridge");
        run("nft add table inet seen; nft add chain inet seen c '{ type filter hook postrouting priority 0; }'; \
             nft add rule inet seen c meta mark '& 0x80000000 != 0' counter");
        install(&config(NftablesMode::Gateway));
        for (from, to) in [(&one, both(1, 3)), (&other, both(1, 2))] {
            for address in to {
                assert_eq!(from.within(|| connect(&address, 80)), Met::Connected, "{address}");
                assert!(echoes(&from.within(|| flow_udp(0, &at(&address, 80)))), "{address}");
            }
        }
        for address in both(3, 2) {
            assert_eq!(one.within(|| connect(&address, 80)), Met::Refused, "{address} is routed");
        }
        for address in both(1, 2) {
            assert_eq!(elsewhere.within(|| connect(&address, 80)), Met::Refused, "{address} is routed");
        }
        assert!(run("nft list table inet seen").contains("counter packets 0"), "the mark is taken off again");
        // What is listed can be loaded again, as is done with whole rulesets.
        run(
            "nft list ruleset > /dev/null; nft list table bridge destguard | nft -c -f -; nft list table inet destguard | nft -c -f -",
        );
        // Of a gateway no longer, nothing is left.
        install(&config(NftablesMode::Local));
        assert_eq!(run("nft list tables"), "table inet seen\ntable inet destguard\n");
        install(&config(NftablesMode::Gateway));
        destguard::enforce::nftables::disarm().expect("disarmed");
        assert_eq!(run("nft list tables"), "table inet seen\n");
    });
}

#[test]
fn a_kernel_that_lacks_something_gets_a_whole_ruleset_without_it() {
    use destguard::enforce::nftables::needs::{self, Feature};
    use destguard::enforce::nftables::program::Program;
    use destguard::enforce::nftables::ruleset::{Ruleset, Settings};
    alone(|| {
        let program = Program::find().expect("nft");
        let special = Special {
            doh: ["192.0.2.0/24", "2001:db8::1/128"].map(|net| net.parse().expect("a prefix")).to_vec(),
            local_discovery: true,
            resolver: ["127.0.0.2:5353", "[::]:53"].map(|at| at.parse().expect("an address")).to_vec(),
            ..Special::default()
        };
        let bridges = ["docker0", "br-*"].map(str::to_owned).to_vec();
        let settings = Settings { redirect_dns: true, bridges, special, ..Settings::nothing(NftablesMode::Both) };
        // This kernel has all of it, so that every sample is one that a kernel takes; and none stays.
        assert_eq!(needs::judge(&settings, |sample| program.check(sample)).expect("checked"), []);
        assert_eq!(run("nft list tables"), "");
        let less = Settings { without: vec![Feature::Log, Feature::Bridge], ..settings };
        program.apply(&Ruleset::of(&less).replacing()).expect("taken");
        let table = run("nft list table inet destguard");
        assert!(!table.contains("log") && table.contains("reject with tcp reset"), "{table}");
        let table = table.split_whitespace().collect::<Vec<_>>().join(" ");
        for rule in [
            "iifname != @inside iifname != \"docker0\" iifname != \"br-*\" accept comment \"not_inside\"",
            "oifname \"br-*\" ct status dnat accept comment \"to br-*\"",
            "iifname \"br-*\" fib daddr oifname != \"br-*\" meta l4proto { tcp, udp } th dport 53 fib daddr type != local redirect to :53",
            "fib daddr type != local dnat ip to 127.0.0.2:5353 comment \"redirect4\"",
            "fib daddr type != local dnat ip6 to [::1]:53 comment \"redirect6\"",
            "ip daddr @doh4 meta l4proto { tcp, udp } th dport 443 counter name \"dns_bypass\" jump deny",
            "224.0.0.251 . 5353",
            "ff02::1:3 . 5355",
            "accept comment \"discovery4\"",
            "udp sport { 1900, 5353, 5355 } ip ttl set 1 accept",
            "udp sport { 1900, 5353, 5355 } ip6 hoplimit set 1 accept",
        ] {
            assert!(table.contains(rule), "{rule}: {table}");
        }
        assert_eq!(run("nft list tables"), "table inet destguard\n");
    });
}
