//! What leases outlive, and what outlives no lease: the host's sleep, a crash, a reboot. The real daemon on the real
//! kernel, on clocks that the tests move. Needs root, `nft` and `cc`.
// Helpers outside of #[test] functions fail a test as tests do.
#![allow(clippy::expect_used, clippy::panic)]

#[path = "restart/daemon.rs"]
mod daemon;
#[path = "support/namespace.rs"]
#[allow(dead_code)]
mod namespace;

use std::net::IpAddr;
use std::time::Duration;

use daemon::{Host, elements};
use lab::dns::server::many_v4;
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
        assert!((HOUR - 300..=HOUR + 90).contains(&left), "{left} s left of two hours, one of them slept away");
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

/// Nobody knows what time it is: what was leased ends.
#[test]
fn a_reboot_with_the_clock_set_back_lengthens_no_lease() {
    alone(|| {
        let mut host = Host::up("");
        two_leases(&host);
        host.reboot();
        host.set_clocks(0, -86_400);
        host.start();
        assert!(elements().is_empty() && host.leased().is_empty(), "{:?}\n{}", elements(), host.log());
        // It serves, and what it leases by that clock it keeps.
        host.ask_until("short.test", SHORT);
        host.kill();
        host.start();
        assert_eq!(elements().into_keys().collect::<Vec<_>>(), [SHORT], "{}", host.log());
    });
}

/// A host that starts with the time at which it went down, and learns the true one an hour too late.
#[test]
fn a_clock_that_is_set_right_after_a_reboot_ends_what_is_over_by_it() {
    alone(|| {
        let mut host = Host::up("");
        two_leases(&host);
        host.reboot();
        host.start();
        assert_eq!(elements().into_keys().collect::<Vec<_>>(), [SHORT, LONG], "{}", host.log());
        host.upstream.set_addresses("other.test", 600, &[OTHER]);
        host.ask_until("other.test", OTHER);
        host.set_clocks(0, 3600);
        host.wait("it is closed", |host| !elements().contains_key(&SHORT) && !host.leased().contains(&SHORT));
        let left = elements();
        assert!((HOUR - 300..=HOUR + 90).contains(&left[&LONG]), "{left:?}: two hours, one of them passed");
        assert!((300..=690).contains(&left[&OTHER]), "{left:?}: what is answered since is by no clock on the wall");
    });
}

#[test]
fn a_damaged_journal_gives_what_is_whole_and_is_kept_beside() {
    alone(|| {
        let mut host = Host::up("");
        two_leases(&host);
        host.upstream.set_addresses("other.test", 600, &[OTHER]);
        host.ask_until("other.test", OTHER);
        assert!(host.command(&["revoke", "203.0.113.1"]).status.success());
        host.wait("revoked", |host| !host.leased().contains(&SHORT));
        host.kill();
        let mut octets = std::fs::read(host.journal()).expect("a journal");
        octets[3] ^= 1;
        std::fs::write(host.journal(), &octets).expect("written");
        host.start();
        assert_eq!(elements().into_keys().collect::<Vec<_>>(), [LONG, OTHER], "{}", host.log());
        let bad = host.state().join("leases.journal.bad");
        assert!(host.reasons().contains("leases.journal.bad"), "{}", host.status());
        assert_eq!(std::fs::read(&bad).expect("kept"), octets);
        std::fs::remove_file(bad).expect("removed");
        host.wait("the reason goes", |host| host.status()["state"] == "enforcing");
        host.kill();
        std::fs::write(host.journal(), "garbage").expect("written");
        host.start();
        assert!(elements().is_empty() && host.reasons().contains("leases.journal.bad"), "{}", host.status());
        host.ask_until("long.test", LONG);
    });
}

#[test]
fn a_state_directory_that_is_removed_under_load_is_there_again() {
    alone(|| {
        let mut host = Host::up("");
        host.upstream.many_ttl(600);
        let mut asked = Vec::new();
        for number in 0..30 {
            if number == 15 {
                std::fs::remove_dir_all(host.state()).expect("removed");
            }
            let address = IpAddr::from(many_v4(number));
            host.ask_until(&format!("n{number}.many.test"), address);
            asked.push(address);
        }
        host.wait("it is there again", |host| {
            host.journal().exists()
                && host.status()["state"] == "enforcing"
                && host.metric(r#"destguard_enforcer_repairs_total{enforcer="journal",kind="directory"}"#).as_deref()
                    == Some("1")
        });
        assert!(host.log().contains("was removed"), "{}", host.log());
        host.reboot();
        host.start();
        asked.sort();
        assert_eq!(elements().into_keys().collect::<Vec<_>>(), asked, "{}", host.log());
    });
}

#[test]
fn on_a_full_disk_answers_go_on_and_a_crash_loses_none() {
    alone(|| {
        let mut host = Host::off("");
        host.mount("size=4m");
        host.start();
        two_leases(&host);
        let fill = host.state().join("fill");
        let mut file = std::fs::File::create(&fill).expect("made");
        while std::io::Write::write(&mut file, &[1; 4096]).is_ok_and(|written| written > 0) {}
        drop(file);
        host.upstream.set_addresses("other.test", 600, &[OTHER]);
        host.wait("it is told", |host| host.reasons().contains("takes nothing"));
        host.ask_until("other.test", OTHER);
        host.kill();
        host.start();
        let all = [SHORT, LONG, OTHER];
        assert_eq!(elements().into_keys().collect::<Vec<_>>(), all, "{}", host.log());
        assert!(host.reasons().contains("takes nothing"), "{}", host.status());
        std::fs::remove_file(fill).expect("removed");
        host.wait("there is room again", |host| host.status()["state"] == "enforcing");
        host.reboot();
        host.start();
        assert_eq!(elements().into_keys().collect::<Vec<_>>(), all, "{}", host.log());
    });
}

#[test]
fn on_a_read_only_disk_the_guard_starts_and_serves_and_nothing_revoked_comes_back() {
    alone(|| {
        let mut host = Host::off("");
        host.mount("size=4m");
        host.start();
        two_leases(&host);
        host.kill();
        host.remount("ro");
        host.start();
        assert!(host.reasons().contains("takes nothing"), "{}", host.status());
        assert_eq!(elements().into_keys().collect::<Vec<_>>(), [SHORT, LONG]);
        host.upstream.set_addresses("other.test", 600, &[OTHER]);
        host.ask_until("other.test", OTHER);
        assert!(host.command(&["revoke", "203.0.113.1"]).status.success());
        host.wait("revoked", |host| !host.leased().contains(&SHORT));
        host.kill();
        host.start();
        assert_eq!(elements().into_keys().collect::<Vec<_>>(), [LONG, OTHER], "{}", host.log());
        host.remount("rw");
        host.wait("it can be written", |host| host.status()["state"] == "enforcing");
        host.reboot();
        host.start();
        assert_eq!(elements().into_keys().collect::<Vec<_>>(), [LONG, OTHER], "{}", host.log());
    });
}
