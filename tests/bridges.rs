//! Containers and virtual machines on a host that guards itself: with bridges and hosts of the test's own, and with the engines and firewalls of
//! Debian, each in namespaces of its own. Needs root, `nft` and the packages that lab/install-packages names for it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "bridges/engines.rs"]
mod engines;
#[path = "bridges/firewalls.rs"]
mod firewalls;
#[path = "support/bridged_host.rs"]
mod host;
// Helpers of another test file; each uses some of them.
#[allow(dead_code)]
#[path = "support/namespace.rs"]
mod namespace;
#[allow(dead_code)]
#[path = "support/traffic.rs"]
mod traffic;

use std::time::{Duration, Instant};

use host::{Daemon, World, answers, asks};
use namespace::{Namespace, alone, link, run};
use traffic::{Met, alive, connect, open, serve};

/// How long anything that must happen may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A bridge with an address, and containers on it: `NET.1` is the bridge's, `NET.2` and so on are theirs.
fn bridge(name: &str, net: &str, net6: &str, containers: u8) -> Vec<Namespace> {
    run(&format!(
        "ip link add {name} type bridge && ip link set {name} up && ip addr add {net}.1/24 dev {name} && \
         ip -6 addr add {net6}::1/64 dev {name} nodad"
    ));
    (2..2 + containers)
        .map(|host| {
            let container = Namespace::new();
            let port = format!("port{}x{host}", net.split('.').nth(1).unwrap_or_default());
            link(&port, &container, "c0");
            run(&format!("ip link set {port} master {name}"));
            container.within(|| {
                run(&format!(
                    "ip addr add {net}.{host}/24 dev c0 && ip -6 addr add {net6}::{host}/64 dev c0 nodad && \
                     ip route add default via {net}.1 && ip -6 route add default via {net6}::1"
                ));
                serve(&[80, 53]);
            });
            container
        })
        .collect()
}

const GUARDED: &str = "mode = \"local\"\nbridges = [\"docker0\", \"br-*\", \"virbr*\"]\nredirect_dns = true\n";

#[test]
fn containers_are_guarded_and_nothing_else_of_them_is_in_the_way() {
    alone(|| {
        let world = World::new();
        // With this, what goes from port to port of a bridge comes to the host's rules. It fails where the kernel hasn't got it.
        run(
            "echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables; echo 1 > /proc/sys/net/bridge/bridge-nf-call-ip6tables",
        );
        let containers = bridge("docker0", "172.17.0", "2001:db8:17", 2);
        let (one, other) = (&containers[0], &containers[1]);
        // What an engine does: it publishes a port, and has its containers' packets leave from the host's address.
        run("nft add table ip engine; nft add chain ip engine pre '{ type nat hook prerouting priority dstnat; }'; \
             nft add rule ip engine pre fib daddr type local tcp dport 8080 dnat to 172.17.0.3:80; \
             nft add chain ip engine post '{ type nat hook postrouting priority srcnat; }'; \
             nft add rule ip engine post ip saddr 172.17.0.0/24 oifname eth0 masquerade");
        assert_eq!(one.within(|| connect("45.67.89.10", 80)), Met::Connected, "before the guard");
        let mut published = world.within(|| open("198.51.100.1", 8080)).expect("published");
        let daemon = Daemon::start(&format!("[nftables]\n{GUARDED}"));

        // Nothing is open that nobody asked for; a name opens its address for the containers too, whoever answers it.
        for address in ["45.67.89.10", "2a00:1234:203::10"] {
            assert_eq!(one.within(|| connect(address, 80)), Met::Refused, "{address}");
        }
        assert_eq!(one.within(|| asks("172.17.0.1", "web.test")), answers(&["45.67.89.10"]), "the guard itself");
        assert_eq!(one.within(|| connect("45.67.89.10", 80)), Met::Connected);
        assert_eq!(one.within(|| asks("8.8.8.8", "other.test")), answers(&["45.67.89.11"]), "sent to the guard");
        assert_eq!(other.within(|| asks("2001:4860:4860::8888", "six.test")), answers(&["2a00:1234:203::10"]));
        assert_eq!(one.within(|| connect("45.67.89.11", 80)), Met::Connected);
        assert_eq!(other.within(|| connect("2a00:1234:203::10", 80)), Met::Connected);
        assert_eq!(one.within(|| connect("45.67.89.12", 80)), Met::Refused, "never asked for");
        assert_eq!(one.within(|| connect("45.67.89.10", 853)), Met::Refused, "no other resolver, leased or not");

        // Among themselves they are free, DNS too; and what is published stays reachable, with its replies.
        for address in ["172.17.0.3", "2001:db8:17::3"] {
            for port in [80, 53] {
                let mut stream =
                    one.within(|| open(address, port)).unwrap_or_else(|error| panic!("{address} {port}: {error}"));
                assert!(alive(&mut stream), "{address} {port} is the neighbour's");
            }
        }
        assert!(alive(&mut published), "a connection from before");
        assert!(alive(&mut world.within(|| open("198.51.100.1", 8080)).expect("published")));
        assert!(alive(&mut one.within(|| open("198.51.100.1", 8080)).expect("by the host's address")));
        // docker-proxy, health checks.
        assert_eq!(connect("172.17.0.2", 80), Met::Connected, "the host reaches them");
        assert_eq!(asks("172.17.0.2", "third.test"), answers(&["45.67.89.13"]), "but for DNS: the guard answers");

        // What comes later is guarded from its first packet on.
        let later = bridge("br-0123456789ab", "172.18.0", "2001:db8:18", 1);
        assert_eq!(later[0].within(|| connect("45.67.89.12", 80)), Met::Refused, "a new bridge");
        assert_eq!(later[0].within(|| connect("45.67.89.10", 80)), Met::Connected, "leased");
        assert_eq!(later[0].within(|| connect("172.17.0.2", 80)), Met::Refused, "from bridge to bridge");
        // Who is on no such bridge is none of its business.
        let strangers = bridge("lan0", "172.19.0", "2001:db8:19", 1);
        assert_eq!(strangers[0].within(|| connect("45.67.89.12", 80)), Met::Connected);

        eventually("who was refused is named", || {
            let denied = daemon.ask(&["denied"]);
            denied.contains("172.17.0.2") && denied.contains("45.67.89.12")
        });
        assert!(!daemon.ask(&["status"]).contains("not guarded"));
    });
}

#[test]
fn bridges_come_and_go_by_a_reload_and_fail_closed() {
    alone(|| {
        let _world = World::new();
        let containers = bridge("docker0", "172.17.0", "2001:db8:17", 2);
        let one = &containers[0];
        let mut daemon = Daemon::start("[nftables]\nmode = \"local\"\n");
        assert_eq!(one.within(|| connect("45.67.89.12", 80)), Met::Connected, "off by default");
        let status = daemon.ask(&["status"]);
        assert!(status.contains("docker0 are not guarded: nftables.bridges names such bridges"), "{status}");
        let mut flow = one.within(|| open("45.67.89.12", 80)).expect("not guarded");
        daemon.reload(&format!("[nftables]\n{GUARDED}"));
        assert_eq!(one.within(|| connect("45.67.89.12", 80)), Met::Refused);
        assert!(alive(&mut flow), "a flow from before goes on");
        // Somebody flushes everything: the lock keeps them closed, and all is put back.
        run("nft flush ruleset");
        assert_ne!(one.within(|| connect("45.67.89.12", 80)), Met::Connected);
        eventually("the table is back", || one.within(|| connect("45.67.89.12", 80)) == Met::Refused);
        // The daemon dies: they stay guarded, and what was leased stays open.
        assert_eq!(one.within(|| asks("172.17.0.1", "web.test")), answers(&["45.67.89.10"]));
        daemon.kill();
        assert_eq!(one.within(|| connect("45.67.89.12", 80)), Met::Refused);
        assert_eq!(one.within(|| connect("45.67.89.10", 80)), Met::Connected);
        daemon.start_again();
        assert_eq!(one.within(|| connect("45.67.89.12", 80)), Met::Refused);
        assert_eq!(one.within(|| connect("45.67.89.10", 80)), Met::Connected);
        // In audit nothing is refused, and it is said what would be.
        daemon.reload(&format!("mode = \"audit\"\n[nftables]\n{GUARDED}"));
        assert_eq!(one.within(|| connect("45.67.89.12", 80)), Met::Connected);
        eventually("it is said", || daemon.ask(&["denied"]).contains("45.67.89.12"));
        daemon.reload("[nftables]\nmode = \"local\"\n");
        assert_eq!(one.within(|| connect("45.67.89.12", 80)), Met::Connected);
        assert!(!run("nft list ruleset").contains("hook forward"), "nothing of it is left");
    });
}

#[test]
fn a_job_waits_until_the_guard_answers() {
    alone(|| {
        let _world = World::new();
        let mut daemon = Daemon::prepared("[nftables]\nmode = \"local\"\n");
        let (code, said) = daemon.run(&["wait-ready", "--timeout", "300ms"]);
        assert_eq!((code, said.contains("is not running")), (3, true), "{said}");
        // Begins before the daemon does, and ends once it is ready.
        let waiting = daemon.spawn(&["wait-ready", "--timeout", "2m"]);
        daemon.start_again();
        assert!(waiting.wait_with_output().expect("it ends").status.success());
        assert_eq!(asks("127.0.0.1", "web.test"), answers(&["45.67.89.10"]), "at once");
        daemon.kill();
        daemon.start_again();
        assert_eq!(daemon.run(&["wait-ready"]), (0, String::new()));
        assert_eq!(connect("45.67.89.10", 80), Met::Connected, "what was restored is open");
        // A guard that isn't well is not ready, and it is said why.
        daemon.kill();
        daemon.write("[nftables]\nmode = \"local\"\n[http]\nlisten = [\"10.77.0.1:8053\"]\n");
        daemon.begin();
        let (code, said) = daemon.run(&["wait-ready", "--timeout", "0s"]);
        assert_eq!((code, said.contains("not ready: ")), (1, true), "{said}");
        let (_, said) = daemon.run(&["wait-ready", "--timeout", "3s"]);
        assert!(said.contains("not ready: degraded: ") && said.contains("10.77.0.1"), "{said}");
        let waiting = daemon.spawn(&["wait-ready", "--timeout", "2m"]);
        run("ip addr add 10.77.0.1/32 dev lo");
        assert!(waiting.wait_with_output().expect("it ends").status.success());
    });
}
