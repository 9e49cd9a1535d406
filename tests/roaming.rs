//! A host whose address changes while it asks: DHCP, another access point, a link that is gone for a moment. In network namespaces; needs root.
// Helpers outside of #[test] functions fail a test as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code)]

#[path = "support/namespace.rs"]
mod namespace;

use std::net::UdpSocket;
use std::time::Duration;

use destguard::config::Config;
use destguard::core::client::Claim;
use destguard::dns::metrics::Metrics;
use destguard::dns::upstream::Upstreams;
use destguard::dns::upstream::query::Query;
use namespace::{Namespace, address, alone, link, run};

/// Answers every question with its own octets, as a response without data.
fn answer(address: &str) {
    let socket = UdpSocket::bind(address).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((len, peer)) = socket.recv_from(&mut buffer) {
            let mut reply = buffer[..len].to_vec();
            reply[2..4].copy_from_slice(&[0x81, 0x80]);
            // Who has moved meanwhile isn't there any more.
            drop(socket.send_to(&reply, peer));
        }
    });
}

/// Upstream and what there is to ask of it, in the calling thread's namespace, with `far` behind a link.
async fn all_are_answered(far: &Namespace, upstream: &str, moves: &[&str]) {
    let text = format!("[[dns.upstream]]\nurl = \"udp://{upstream}\"\n");
    let config: Config = toml::from_str(&text).unwrap();
    let metrics = Metrics::register(&mut destguard::metrics::registry());
    let upstreams = Upstreams::new(&config.dns.upstream, None, &metrics).unwrap();
    let ask = async |name: String| {
        let name = name.parse().unwrap();
        let query =
            Query { name, qtype: 1, dnssec_ok: false, checking_disabled: false, plain: false, whose: Claim::NOBODY };
        upstreams.ask(&query).await
    };
    for (round, command) in [&["true"], moves].concat().into_iter().enumerate() {
        run(command);
        // Neighbours are found anew.
        far.within(|| run("ip neigh flush all"));
        for number in 0..200 {
            let asked = ask(format!("n{number}.round{round}.example")).await;
            assert!(asked.is_ok(), "{upstream}, after {command:?}: question {number}: {asked:?}");
        }
    }
    assert!(upstreams.status()[0].healthy, "{:?}", upstreams.status());
}

fn world(body: impl AsyncFnOnce(&Namespace) + Send) {
    alone(|| {
        let far = Namespace::new();
        link("up0", &far, "far0");
        address("up0", 1, 1);
        far.within(|| {
            address("far0", 1, 53);
            answer("0.0.0.0:53");
            answer("[2001:db8:1::53]:53");
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let watchdog = Duration::from_secs(120);
        runtime.block_on(async { tokio::time::timeout(watchdog, body(&far)).await.expect("in time") });
    });
}

#[test]
fn another_address_costs_no_question() {
    world(async |far: &Namespace| {
        let moves = [
            "ip addr del 10.9.1.1/24 dev up0; ip addr add 10.9.1.2/24 dev up0",
            "ip addr flush dev up0; ip addr add 10.9.1.3/24 dev up0",
            // The old one stays, and isn't what is to be used any more.
            "ip addr add 10.9.1.4/24 dev up0; ip route replace 10.9.1.0/24 dev up0 src 10.9.1.4",
        ];
        all_are_answered(far, "10.9.1.53", &moves).await;
    });
}

#[test]
fn another_address_costs_no_question_over_ipv6() {
    world(async |far: &Namespace| {
        let moves = [
            "ip addr add 2001:db8:1::2/64 dev up0 nodad; ip addr del 2001:db8:1::1/64 dev up0",
            "ip addr del 2001:db8:1::2/64 dev up0; ip addr add 2001:db8:1::3/64 dev up0 nodad",
        ];
        all_are_answered(far, "[2001:db8:1::53]", &moves).await;
    });
}

#[test]
fn a_network_that_is_gone_for_a_moment_costs_no_question() {
    world(async |far: &Namespace| {
        let moves = ["ip link set up0 down; (sleep 0.4; ip link set up0 up) >/dev/null 2>&1 &"];
        all_are_answered(far, "10.9.1.53", &moves).await;
    });
}
