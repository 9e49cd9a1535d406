//! The eBPF enforcer in this machine's kernel. Each test has a network, mounts and a control group of its own; nothing else of the machine is touched.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "ebpf/daemon.rs"]
mod daemon;
#[path = "support/control_group.rs"]
mod group;
#[path = "support/ebpf_host.rs"]
mod host;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use destguard::config::schema::{Nftables, NftablesMode};
use destguard::core::narrow::{Narrow, Port, Who};
use destguard::enforce::ebpf::Table;
use destguard::enforce::rules::{Own, OwnTraffic, Rules, Special, Transport};
use destguard::enforce::timed::{Entry, Table as _, TableError};

use host::{Host, alone, run};

const LONG: Duration = Duration::from_secs(600);

fn rules() -> Rules {
    Rules {
        ports: true,
        config: Nftables { mode: NftablesMode::Local, ..Nftables::default() },
        open: vec!["198.51.100.0/24".parse().unwrap(), "2001:db8:5::/48".parse().unwrap()],
        own: Own::default(),
        capacity: 1000,
        special: Special::default(),
    }
}

/// These rules, for the host's own control group.
fn of(host: &Host, rules: &Rules) -> Rules {
    Rules { special: Special { cgroup: host.group.path.clone(), ..rules.special.clone() }, ..rules.clone() }
}

fn installed(host: &Host, rules: &Rules) -> Table {
    let mut table = Table::new(&of(host, rules));
    table.install().unwrap();
    // Packets to anywhere go nowhere, without a word.
    run(
        "ip link add away type veth peer name nowhere && ip link set away up && ip link set nowhere up && ip addr add 10.1.1.1/24 dev away && ip route add default via 10.1.1.2 && \
         ip neigh add 10.1.1.2 lladdr 02:00:00:00:00:01 dev away && ip -6 addr add fd00:1::1/64 dev away nodad && \
         ip -6 neigh add fd00:1::2 lladdr 02:00:00:00:00:01 dev away && ip -6 route add default via fd00:1::2",
    );
    table.look().unwrap();
    table
}

fn address(text: &str) -> Entry {
    Entry::Address(text.parse().unwrap())
}

#[test]
fn every_way_out_is_judged_and_refused_at_once() {
    alone(|host| {
        let mut table = installed(host, &rules());
        let all = "udp/203.0.113.1/443 udp-connect/203.0.113.1/443 udp-connected/203.0.113.1/443 udp-mapped/203.0.113.1/443 \
                   udp/2001:db8::1/443 udp-connect/2001:db8::1/443";
        let refused = ["EPERM"; 6].join(" ");
        assert_eq!(host.probe(all), refused);
        assert_eq!(
            host.probe("tcp/203.0.113.1/443 tcp-mapped/203.0.113.1/443 tcp/2001:db8::1/443 fastopen/203.0.113.1/443"),
            ["EPERM"; 4].join(" ")
        );
        assert_eq!(
            host.probe("udp/127.0.0.1/9 udp/10.1.1.1/9 udp/fd00:1::1/9 udp/::1/9 udp/0.0.0.0/9"),
            ["ok"; 5].join(" ")
        );
        assert_eq!(host.probe("udp/198.51.100.7/9 udp/2001:db8:5::7/9"), "ok ok", "open prefixes");
        assert_eq!(host.probe("udp/198.51.100.7/53 udp/2001:db8:5::7/853"), "EPERM EPERM", "DNS elsewhere");
        table.write(&[], &[(address("203.0.113.1"), LONG), (address("2001:db8::1"), LONG)]).unwrap();
        assert_eq!(host.probe(all), ["ok"; 6].join(" "));
        assert_eq!(host.probe("udp/203.0.113.2/443 udp/203.0.113.1/53"), "EPERM EPERM");
        table.write(&[address("203.0.113.1")], &[]).unwrap();
        assert_eq!(host.probe("udp/203.0.113.1/443 udp/2001:db8::1/443"), "EPERM ok");
        table.remove().unwrap();
        assert_eq!(host.probe(all), ["ok"; 6].join(" "));
        assert!(!destguard::enforce::ebpf::is_left_behind());
    });
}

#[test]
fn a_lease_ends_by_itself_and_again_and_again() {
    alone(|host| {
        let mut table = installed(host, &rules());
        table.write(&[], &[(address("203.0.113.1"), LONG)]).unwrap();
        assert_eq!(host.probe("udp/203.0.113.1/443"), "ok");
        table.write(&[], &[(address("203.0.113.1"), Duration::from_millis(300))]).unwrap();
        let begun = Instant::now();
        while host.probe("udp/203.0.113.1/443") != "EPERM" {
            assert!(begun.elapsed() < Duration::from_secs(60));
        }
        assert_eq!(table.has(&[address("203.0.113.1")]).unwrap(), [false]);
        table.write(&[], &[(address("203.0.113.1"), LONG)]).unwrap();
        table.write(&[], &[(address("203.0.113.1"), LONG)]).unwrap();
        assert_eq!(table.has(&[address("203.0.113.1")]).unwrap(), [true]);
        assert_eq!(host.probe("udp/203.0.113.1/443"), "ok");
    });
}

#[test]
fn ports_of_an_address_servers_of_doh_and_names_of_the_link() {
    alone(|host| {
        let doh = vec!["198.51.100.8/32".parse().unwrap(), "2001:db8:5::8/128".parse().unwrap()];
        let special = Special { doh, local_discovery: true, ..Special::default() };
        let mut table = installed(host, &Rules { special, ..rules() });
        let one = |protocol, port| {
            Entry::Pair(("203.0.113.1".parse().unwrap(), Narrow { who: Who::Anyone, to: Port::Of { protocol, port } }))
        };
        table.write(&[], &[(one(17, 443), LONG), (one(6, 5432), LONG)]).unwrap();
        assert_eq!(
            host.probe("udp/203.0.113.1/443 udp/203.0.113.1/444 udp/203.0.113.1/5432 tcp/203.0.113.1/443"),
            "ok EPERM EPERM EPERM"
        );
        assert_eq!(listed(&mut table), [one(6, 5432), one(17, 443)]);
        table.write(&[one(17, 443)], &[(address("203.0.113.1"), LONG)]).unwrap();
        assert_eq!(host.probe("udp/203.0.113.1/443 udp/203.0.113.1/444"), "ok ok");
        assert_eq!(
            host.probe("udp/198.51.100.8/443 udp/198.51.100.8/80 udp/2001:db8:5::8/443 udp/198.51.100.9/443"),
            "EPERM ok EPERM ok"
        );
        assert_eq!(host.probe("udp/224.0.0.251/5353 udp/224.0.0.251/53 udp/224.0.0.9/5353"), "ok EPERM EPERM");
    });
}

/// Every entry that is listed.
fn listed(table: &mut Table) -> Vec<Entry> {
    let mut all = Vec::new();
    table.list().unwrap();
    while let Some(part) = table.listed().unwrap() {
        all.extend(part.into_iter().map(|held| held.entry));
    }
    all.sort_unstable();
    all
}

#[test]
fn what_has_ended_gives_its_room_back_and_a_full_table_says_so() {
    alone(|host| {
        let mut table = installed(host, &Rules { capacity: 0, ..rules() });
        let many = |net: u8, count: u32| -> Vec<(Entry, Duration)> {
            let one =
                |number: u32| Entry::Address(IpAddr::from((u32::from_be_bytes([net, 0, 0, 0]) + number).to_be_bytes()));
            (0..count).map(|number| (one(number), if net == 20 { Duration::from_millis(1) } else { LONG })).collect()
        };
        table.write(&[], &many(20, 1000)).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        table.write(&[], &many(30, 1000)).unwrap();
        assert_eq!(listed(&mut table).len(), 1000);
        let full = table.write(&[], &many(40, 1000)).unwrap_err();
        let why = full.to_string();
        assert!(matches!(full, TableError::Full(_)) && why.contains("lease4") && why.contains("1024"), "{why}");
        // What isn't there is removed without a word.
        let gone: Vec<Entry> = many(30, 1200).into_iter().map(|(entry, _)| entry).collect();
        table.write(&gone, &many(40, 1000)).unwrap();
        assert_eq!(listed(&mut table).len(), 1000);
    });
}

#[test]
fn a_million_leases_are_held_adopted_and_copied_into_a_larger_table() {
    alone(|host| {
        let rules = Rules { capacity: 1_000_000, ..rules() };
        let mut table = installed(host, &rules);
        let all: Vec<(Entry, Duration)> = (0..1_000_000u32)
            .map(|number| (Entry::Address(IpAddr::from((0x2000_0000 + number).to_be_bytes())), LONG))
            .collect();
        let begun = Instant::now();
        table.write(&[], &all).unwrap();
        println!("a million leases were written in {:?}", begun.elapsed());
        // As after a crash: nothing is closed, and the program of before is in force meanwhile.
        drop(table);
        assert_eq!(host.probe("udp/32.0.0.1/443 udp/32.255.0.1/443"), "ok EPERM");
        let mut table = Table::new(&of(host, &rules));
        assert!(!table.install().unwrap().fresh);
        let begun = Instant::now();
        assert_eq!(listed(&mut table).len(), 1_000_000);
        println!("they were listed in {:?}", begun.elapsed());
        let larger = Rules { capacity: 1_100_000, ..of(host, &rules) };
        table.set(&larger);
        assert!(!table.install().unwrap().fresh);
        assert_eq!(listed(&mut table).len(), 1_000_000);
        assert_eq!(host.probe("udp/32.0.0.1/443 udp/32.255.0.1/443"), "ok EPERM");
        assert_eq!(run("ls /sys/fs/bpf/destguard | grep -c lease4").trim(), "1");
    });
}

#[test]
fn what_others_take_away_is_noticed_and_put_back() {
    alone(|host| {
        let mut table = installed(host, &rules());
        table.write(&[], &[(address("203.0.113.1"), LONG)]).unwrap();
        let pins = "/sys/fs/bpf/destguard";
        for (harm, what) in [
            (format!("bpftool link detach pinned {pins}/connect4"), "connect4 was detached"),
            (format!("rm {pins}/sendmsg4"), "sendmsg4"),
            (format!("rm {pins}/1-lease4*"), "1-lease4"),
            (format!("rm -r {pins}"), "the pin"),
        ] {
            assert_eq!(table.look().unwrap(), None);
            run(&harm);
            let said = table.look().unwrap().expect(what);
            assert!(said.contains(what), "{said}");
            if table.install().unwrap().fresh {
                table.write(&[], &[(address("203.0.113.1"), LONG)]).unwrap();
            }
            assert_eq!(
                host.probe("tcp/203.0.113.9/443 udp/203.0.113.9/443 udp/203.0.113.1/443"),
                "EPERM EPERM ok",
                "{harm}"
            );
        }
    });
}

#[test]
fn the_guards_own_traffic_passes_by_its_mark_and_place() {
    alone(|host| {
        let traffic =
            vec![OwnTraffic { address: "203.0.113.53".parse().unwrap(), transport: Transport::Udp, port: 53 }];
        let rules = Rules { own: Own { traffic, listeners: vec![(Transport::Udp, 5353)] }, ..rules() };
        let _table = installed(host, &rules);
        assert_eq!(host.probe("udp/203.0.113.53/53"), "EPERM", "not without the mark");
        assert_eq!(
            host.probe("--mark=0x64670001 udp/203.0.113.53/53 udp/203.0.113.54/53 udp/203.0.113.53/54"),
            "ok EPERM EPERM"
        );
        assert_eq!(
            host.probe("--mark=0x64670001 --from=5353 udp/203.0.113.99/4000"),
            "ok",
            "answers from its own port"
        );
        assert_eq!(host.probe("--from=5353 udp/203.0.113.99/4000"), "EPERM");
    });
}
