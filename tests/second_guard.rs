//! Two guards beside one FRR, as daemons: a client asks both, one of them goes, and the other answers with nothing that is forwarded no more.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lab::dns::server::{many_v4, many_v6};
use lab::dns::{self, Server};
use lab::tcp::{self, EchoServer};
use lab::{Lab, wait_until};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_destguard");
const CONFIG: &str = "/etc/destguard/destguard.toml";
const FRR: &str = "/etc/frr/frr.conf";
const PORT: u16 = 80;
const FIRST_SYN: Duration = Duration::from_millis(300);
const ANSWER: Duration = Duration::from_secs(5);
const LONG: Duration = Duration::from_secs(60);
const GUARDS: [&str; 2] = ["guard1", "guard2"];

/// What the sessions run over, and what they carry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    Ipv4,
    Ipv6,
}

impl Over {
    /// As FRR and the guard name the family.
    fn family(self) -> &'static str {
        if self == Self::Ipv4 { "ipv4" } else { "ipv6" }
    }

    /// The words of FRR's lists, and the number at the end of the lab's.
    fn words(self) -> (&'static str, u8, u8) {
        if self == Self::Ipv4 { ("ip", 4, 32) } else { ("ipv6", 6, 128) }
    }

    /// On the link of a guard: 1 is the router's, 2 the guard's, 3 its observer's.
    fn at(self, guard: usize, host: u8) -> IpAddr {
        let net = [3, 5][guard];
        let text = match self {
            Self::Ipv4 => format!("10.0.{net}.{host}"),
            Self::Ipv6 => format!("fd00:{net}::{host}"),
        };
        text.parse().unwrap()
    }

    fn address(self, number: u32) -> IpAddr {
        if self == Self::Ipv4 { many_v4(number).into() } else { many_v6(number).into() }
    }
}

fn replaced(text: &str, edits: &[(&str, &str)]) -> String {
    edits.iter().fold(text.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from:?} is not in it");
        text.replace(from, to)
    })
}

struct World {
    over: Over,
    lab: Lab,
    _dns: Server,
    _echo: EchoServer,
}

impl World {
    /// With `reflect` each guard has an observer's session too. The router takes the address of n66 from the first guard alone.
    fn up(over: Over, reflect: bool) -> Self {
        let lab = Lab::builder("lab/two-guards/two-guards.clab.yml")
            .destguard(BINARY)
            .hold("guard1")
            .hold("guard2")
            .hold("router")
            .up()
            .unwrap();
        let router = lab.node("router");
        let mut text = router.file(FRR).unwrap();
        let (family, (list, number, length)) = (over.family(), over.words());
        let [guard, second] = [0, 1].map(|guard| over.at(guard, 2));
        for (guard, at) in [(guard, "10.0.3.2"), (second, "10.0.5.2")] {
            text = replaced(&text, &[(&format!("neighbor {at} "), &format!("neighbor {guard} "))]);
        }
        let set = if over == Over::Ipv6 { " set ipv6 next-hop prefer-global\n" } else { "" };
        text = replaced(
            &text,
            &[
                (
                    &format!("route-map GUARD{number}-IN permit 10\n"),
                    &format!(
                        "{list} prefix-list UNWANTED seq 5 permit {}/{length}\nroute-map SECOND-IN deny 5\n \
                         match {list} address prefix-list UNWANTED\n!\nroute-map SECOND-IN permit 10\n \
                         match {list} address prefix-list HOST{number}\n match {list} next-hop prefix-list NH{number}\n{set}!\n\
                         route-map ALL permit 10\n!\nroute-map GUARD{number}-IN permit 10\n",
                        over.address(66)
                    ),
                ),
                (
                    &format!("neighbor {second} route-map GUARD{number}-IN in"),
                    &format!("neighbor {second} route-map SECOND-IN in"),
                ),
            ],
        );
        if reflect {
            text = text.replace(" set community no-advertise additive\n", "");
            text = replaced(
                &text,
                &[(" bgp route-map delay-timer 0\n", " bgp route-map delay-timer 0\n bgp suppress-fib-pending\n")],
            );
            for at in [0, 1].map(|guard| over.at(guard, 3)) {
                let session = format!(
                    " neighbor {at} remote-as 65020\n neighbor {at} timers 3 9\n neighbor {at} advertisement-interval 0\n neighbor {at} passive\n"
                );
                let activated = format!(
                    "  neighbor {at} activate\n  neighbor {at} route-map DENY in\n  neighbor {at} route-map ALL out\n"
                );
                // Sessions stand before the families.
                let first = " address-family ipv4 unicast\n";
                text = replaced(&text, &[(first, &format!("{session}{first}"))]);
                let opening = format!(" address-family {family} unicast\n");
                text = replaced(&text, &[(&opening, &format!("{opening}{activated}"))]);
            }
        }
        router.write(FRR, &text).unwrap();
        router.start().unwrap();
        for (number, guard) in GUARDS.into_iter().enumerate() {
            let node = lab.node(guard);
            let [peer, own, watch] = [1, 2, 3].map(|host| over.at(number, host));
            let [old_peer, old_own] = [1, 2].map(|host| Over::Ipv4.at(number, host));
            node.ok(&format!("ip addr add {watch}/{} dev eth1", if over == Over::Ipv4 { "24" } else { "64 nodad" }))
                .unwrap();
            let confirm = if reflect { "confirm = \"reflect\"\nobserver = \"watch\"" } else { "confirm = \"probe\"" };
            let unused =
                if over == Over::Ipv4 { "next_hop_ipv6 = \"fd00:2::2\"\n" } else { "next_hop_ipv4 = \"10.0.2.2\"\n" };
            let mut text = replaced(
                &node.file(CONFIG).unwrap(),
                &[
                    ("confirm = \"acked\"", confirm),
                    ("settle = \"250ms\"", "settle = \"0s\""),
                    // The router is to drop what a guard that is gone had announced.
                    ("linger = \"10m\"", "linger = \"10m\"\ngraceful_restart = \"0s\""),
                    (unused, ""),
                    ("asn = 65010\n", &format!("asn = 65010\nfamilies = [\"{family}\"]\n")),
                    (&format!("\naddress = \"{old_peer}\""), &format!("\naddress = \"{peer}\"")),
                    (&format!("local_address = \"{old_own}\""), &format!("local_address = \"{own}\"")),
                ],
            );
            if reflect {
                // FRR 8.4 sends on once a second.
                text = text.replace("[bgp]\n", "[gate]\ndeadline = \"3s\"\n\n[bgp]\nno_export = false\n");
                text.push_str(&format!(
                    "[[bgp.peer]]\nname = \"watch\"\naddress = \"{peer}\"\nlocal_address = \"{watch}\"\nasn = 65010\nfamilies = [\"{family}\"]\n\
                     hold_time = \"9s\"\nrole = \"observer\"\n"
                ));
            }
            node.write(CONFIG, &text).unwrap();
            node.start().unwrap();
        }
        let internet = lab.node("internet");
        let dns =
            Server::start(internet, &["192.0.2.53:53", "[2001:db8:53::53]:53"].map(|at| at.parse().unwrap())).unwrap();
        let echo = EchoServer::start(internet, PORT).unwrap();
        let world = Self { over, lab, _dns: dns, _echo: echo };
        for guard in GUARDS {
            let ready = || world.status(guard)["state"] == "enforcing";
            assert!(wait_until(LONG, ready), "{}\n{}", world.status(guard), world.lab.logs());
        }
        world
    }

    fn status(&self, guard: &str) -> Value {
        let output = self.lab.node(guard).command(BINARY).args(["status", "--json"]).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// What this guard answers for a name.
    fn ask(&self, guard: usize, number: u32) -> Vec<IpAddr> {
        let server = SocketAddr::new(self.over.at(guard, 2), 53);
        let rtype = if self.over == Over::Ipv4 { dns::A } else { dns::AAAA };
        let ask = || dns::ask(server, &format!("n{number}.many.test"), rtype, ANSWER);
        self.lab.node("client").in_namespace(ask).unwrap().unwrap().addresses()
    }

    fn connects(&self, number: u32) -> bool {
        self.lab
            .node("client")
            .in_namespace(|| tcp::connect(self.over.address(number), PORT, FIRST_SYN))
            .unwrap()
            .is_ok()
    }
}

fn a_name_that_the_other_one_holds(over: Over, reflect: bool) {
    let world = World::up(over, reflect);
    let address = |number| over.address(number);
    // FRR gathers for a second and more what it sends first on a new session.
    for guard in 0..2 {
        let warm = || world.ask(guard, 100 + u32::try_from(guard).unwrap()).len() == 1;
        assert!(wait_until(LONG, warm), "{}", world.lab.logs());
    }
    for number in [1, 66] {
        assert_eq!(world.ask(0, number), [address(number)], "n{number}: {}", world.lab.logs());
        assert!(world.connects(number), "{}", world.lab.logs());
        assert_eq!(world.ask(1, number), [address(number)], "the other guard holds it: {}", world.lab.logs());
        assert!(world.connects(number));
    }
    let status = world.status("guard2");
    let said = format!("{}{}", status["reasons"], status["warnings"]);
    assert!(status["state"] == "enforcing" && !said.contains("withdrawn but not closed"), "{status}");
    let borrowed = status["peers"][0]["confirmations"]["borrowed"].as_u64();
    assert_eq!(borrowed, Some(2), "n1 and n66: {status}");

    // The first guard is gone, and its routes with it. The second one has its own for n1; for n66 the router has none.
    world.lab.node("guard1").stop();
    assert!(wait_until(LONG, || !world.connects(66)), "{}", world.lab.logs());
    assert!(wait_until(LONG, || world.ask(1, 66).is_empty()), "{}\n{}", world.status("guard2"), world.lab.logs());
    assert!(wait_until(LONG, || world.ask(1, 1) == [address(1)]), "{}\n{}", world.status("guard2"), world.lab.logs());
    assert!(world.connects(1), "{}", world.lab.logs());
}

#[test]
fn is_answered_at_once_where_probes_confirm() {
    a_name_that_the_other_one_holds(Over::Ipv4, false);
}

#[test]
fn is_answered_at_once_where_an_observer_confirms() {
    a_name_that_the_other_one_holds(Over::Ipv4, true);
}

#[test]
fn is_answered_at_once_over_ipv6_where_probes_confirm() {
    a_name_that_the_other_one_holds(Over::Ipv6, false);
}

#[test]
fn is_answered_at_once_over_ipv6_where_an_observer_confirms() {
    a_name_that_the_other_one_holds(Over::Ipv6, true);
}
