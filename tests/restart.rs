//! What leases outlive, and what outlives no lease: the host's sleep, a crash, a reboot. The real daemon on the real
//! kernel, on clocks that the tests move. Needs root, `nft` and `cc`.
// Helpers outside of #[test] functions fail a test as tests do.
#![allow(clippy::expect_used, clippy::panic)]

#[path = "restart/daemon.rs"]
#[allow(dead_code)]
mod daemon;
#[path = "nftables/namespace.rs"]
#[allow(dead_code)]
mod namespace;

use std::net::IpAddr;
use std::time::Duration;

use daemon::{Host, elements};
use namespace::alone;

/// How long anything that must happen may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
const HOUR: u64 = 3600;

const SHORT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 1));
const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 3));
const LONG: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 2));

/// One name whose lease ends within the hour, one whose doesn't; both asked for.
fn two_leases(host: &Host) {
    host.upstream.set_addresses("short.test", 600, &[SHORT]);
    host.upstream.set_addresses("long.test", 2 * 3600, &[LONG]);
    assert_eq!((host.ask("short.test"), host.ask("long.test")), (vec![SHORT], vec![LONG]), "{}", host.log());
    assert_eq!(elements().into_keys().collect::<Vec<_>>(), [SHORT, LONG]);
}

#[test]
fn restored_leases_are_in_the_kernel_before_the_first_answer_and_before_ready() {
    alone(|| {
        let mut host = Host::up("");
        two_leases(&host);
        host.upstream.set_addresses("other.test", 600, &[OTHER]);
        host.reboot();
        assert!(elements().is_empty());
        host.launch();
        // The first answer, of whatever kind.
        let answered = std::thread::scope(|scope| {
            let client = scope.spawn(|| {
                host.ask_until("other.test", OTHER);
                elements()
            });
            client.join().expect("an answer")
        });
        assert!(answered.contains_key(&SHORT) && answered.contains_key(&LONG), "{answered:?}\n{}", host.log());
        host.wait_until_ready();
        host.reboot();
        host.start();
        let ready = elements();
        assert_eq!(ready.into_keys().collect::<Vec<_>>(), [SHORT, LONG, OTHER], "{}", host.log());
    });
}

#[test]
fn what_ended_while_the_host_slept_is_closed_when_it_wakes() {
    alone(|| {
        let host = Host::up("");
        two_leases(&host);
        assert!(elements()[&SHORT] > 300, "the kernel alone would keep it for minutes");
        host.set_clocks(3600, 3600);
        host.wait("the kernel's element goes", |_| !elements().contains_key(&SHORT));
        // The other one lasts as long as it would have.
        let left = elements()[&LONG];
        assert!((HOUR - 300..=HOUR + 60).contains(&left), "{left} s left of two hours, one of them slept away");
        assert_eq!(host.leased(), [LONG]);
        // What was kept of the answer is over too.
        assert_eq!(host.upstream.times_asked("short.test"), 1);
        assert_eq!(host.ask("short.test"), [SHORT]);
        assert_eq!(host.upstream.times_asked("short.test"), 2, "a kept answer of the hour before was given");
        assert!(elements().contains_key(&SHORT));
        assert_eq!(host.ask("long.test"), [LONG]);
        assert_eq!(host.upstream.times_asked("long.test"), 1, "it is kept for two hours");
    });
}
