//! Two guards beside one FRR, as daemons: a client asks both, one of them goes, and the other answers with nothing that is forwarded no more.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lab::dns::server::many_v4;
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
const GUARDS: [(&str, &str); 2] = [("guard1", "10.0.3"), ("guard2", "10.0.5")];

fn address(number: u32) -> IpAddr {
    many_v4(number).into()
}

fn replaced(text: &str, edits: &[(&str, &str)]) -> String {
    edits.iter().fold(text.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from:?} is not in it");
        text.replace(from, to)
    })
}

struct World {
    lab: Lab,
    _dns: Server,
    _echo: EchoServer,
}

impl World {
    /// With `reflect` each guard has an observer's session too. The router takes the address of n66 from the first guard alone.
    fn up(reflect: bool) -> Self {
        let lab = Lab::builder("lab/two-guards/two-guards.clab.yml")
            .destguard(BINARY)
            .hold("guard1")
            .hold("guard2")
            .hold("router")
            .up()
            .unwrap();
        let router = lab.node("router");
        let mut text = replaced(
            &router.file(FRR).unwrap(),
            &[
                (
                    "route-map GUARD4-IN permit 10\n",
                    &format!(
                        "ip prefix-list UNWANTED seq 5 permit {}/32\nroute-map SECOND4-IN deny 5\n match ip address prefix-list UNWANTED\n!\n\
                         route-map SECOND4-IN permit 10\n match ip address prefix-list HOST4\n match ip next-hop prefix-list NH4\n!\n\
                         route-map ALL permit 10\n!\nroute-map GUARD4-IN permit 10\n",
                        address(66)
                    ),
                ),
                ("neighbor 10.0.5.2 route-map GUARD4-IN in", "neighbor 10.0.5.2 route-map SECOND4-IN in"),
            ],
        );
        if reflect {
            text = text.replace(" set community no-advertise additive\n", "");
            text = replaced(
                &text,
                &[(" bgp route-map delay-timer 0\n", " bgp route-map delay-timer 0\n bgp suppress-fib-pending\n")],
            );
            for (_, net) in GUARDS {
                let at = format!("{net}.3");
                let session = format!(
                    " neighbor {at} remote-as 65020\n neighbor {at} timers 3 9\n neighbor {at} advertisement-interval 0\n neighbor {at} passive\n \
                     address-family ipv4 unicast\n"
                );
                let family = format!(
                    "  neighbor {at} activate\n  neighbor {at} route-map DENY in\n  neighbor {at} route-map ALL out\n exit-address-family\n"
                );
                let (before, after) = text.split_once(" address-family ipv4 unicast\n").unwrap();
                let (inside, rest) = after.split_once(" exit-address-family\n").unwrap();
                text = format!("{before}{session}{inside}{family}{rest}");
            }
        }
        router.write(FRR, &text).unwrap();
        router.start().unwrap();
        for (guard, net) in GUARDS {
            let node = lab.node(guard);
            node.ok(&format!("ip addr add {net}.3/24 dev eth1")).unwrap();
            let confirm = if reflect { "confirm = \"reflect\"\nobserver = \"watch\"" } else { "confirm = \"probe\"" };
            let mut text = replaced(
                &node.file(CONFIG).unwrap(),
                &[
                    ("confirm = \"acked\"", confirm),
                    ("settle = \"250ms\"", "settle = \"0s\""),
                    // The router is to drop what a guard that is gone had announced.
                    ("linger = \"10m\"", "linger = \"10m\"\ngraceful_restart = \"0s\""),
                    ("next_hop_ipv6 = \"fd00:2::2\"\n", ""),
                    ("asn = 65010\n", "asn = 65010\nfamilies = [\"ipv4\"]\n"),
                ],
            );
            if reflect {
                // FRR 8.4 sends on once a second.
                text = text.replace("[bgp]\n", "[gate]\ndeadline = \"3s\"\n\n[bgp]\nno_export = false\n");
                text.push_str(&format!(
                    "[[bgp.peer]]\nname = \"watch\"\naddress = \"{net}.1\"\nlocal_address = \"{net}.3\"\nasn = 65010\nfamilies = [\"ipv4\"]\n\
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
        let world = Self { lab, _dns: dns, _echo: echo };
        for (guard, _) in GUARDS {
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
        let server: SocketAddr = format!("{}.2:53", GUARDS[guard].1).parse().unwrap();
        let ask = || dns::ask(server, &format!("n{number}.many.test"), dns::A, ANSWER);
        self.lab.node("client").in_namespace(ask).unwrap().unwrap().addresses()
    }

    fn connects(&self, number: u32) -> bool {
        self.lab.node("client").in_namespace(|| tcp::connect(address(number), PORT, FIRST_SYN)).unwrap().is_ok()
    }
}

fn a_name_that_the_other_one_holds(reflect: bool) {
    let world = World::up(reflect);
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
    a_name_that_the_other_one_holds(false);
}

#[test]
fn is_answered_at_once_where_an_observer_confirms() {
    a_name_that_the_other_one_holds(true);
}
