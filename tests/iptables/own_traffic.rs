//! A host's own traffic, and the life of a lease.

use super::*;

#[test]
fn only_what_is_leased_opens_for_as_long_as_it_is_leased() {
    both(|programs| {
        let peer = host_and_peer();
        let mut running = Running::start(programs, &config(NftablesMode::Local), &[]);
        for (leased, other) in [("10.9.1.2", "10.9.1.3"), ("2001:db8:1::2", "2001:db8:1::3")] {
            assert_eq!(connect(leased, 80), Met::Refused, "{leased} before its lease");
            running.open(leased, 300);
            let mut flow = open(leased, 80).expect("leased");
            assert_eq!(connect(other, 80), Met::Refused);
            assert_eq!(connect(leased, 853), Met::Refused, "no second resolver");
            running.open(leased, 1);
            eventually("the lease ends", || connect(leased, 80) == Met::Refused);
            assert!(alive(&mut flow), "the live flow goes on");
            running.open(leased, 300);
            running.send(Command::CutFlows(ip(leased)));
            running.close(leased);
            eventually("the flow is cut", || !alive(&mut flow));
            running.open(leased, 300);
            assert_eq!(connect(leased, 80), Met::Connected, "opened again behind the cut");
            running.close(leased);
            assert_eq!(connect(leased, 80), Met::Refused);
        }
        // What comes in is not guarded, and is answered.
        serve(&[8022]);
        for address in ["10.9.1.1", "2001:db8:1::1"] {
            let mut stream = peer.within(|| open(address, 8022)).expect("connected");
            assert!(alive(&mut stream));
        }
        running.stop();
    });
}

#[test]
fn equal_later_and_earlier_ends_are_in_force_and_none_is_for_ever() {
    both(|programs| {
        let mut running = Running::start(programs, &config(NftablesMode::Local), &[]);
        for address in ["203.0.113.7", "2001:db8:7::7"] {
            running.open(address, 100);
            for seconds in [100, 500, 60, 40 * 86_400] {
                let ends = running.in_seconds(seconds);
                running.apply(vec![Change::Extend { address: ip(address), ends }]);
                running.applied();
                let seconds = seconds.min(2_147_483);
                assert!(near(left(address), seconds), "{:?}, not {seconds}", left(address));
            }
            // The same time again: ipset takes it for a new one.
            running.open(address, 500);
            eventually("an equal time is in force", || {
                run("sleep 3");
                let before = left(address);
                running.open(address, 500);
                left(address) > before
            });
            // An end that has passed still gets a time.
            running.apply(vec![Change::Open { address: ip(address), ends: Moment::ZERO }]);
            running.applied();
            eventually("it ends", || left(address).is_none());
        }
        running.stop();
    });
}

#[test]
fn the_guards_own_traffic_open_prefixes_and_the_link_pass() {
    both(|programs| {
        let peer = host_and_peer();
        peer.within(|| run("ip addr add 10.88.0.1/32 dev p0; ip addr add 2001:db8:88::1/128 dev p0 nodad"));
        run("ip route add 10.88.0.1 via 10.9.1.2; ip -6 route add 2001:db8:88::1 via 2001:db8:1::2");
        let running = Running::start(programs, &config(NftablesMode::Local), &[]);
        assert_eq!(connect("10.88.0.1", 80), Met::Connected, "an open prefix");
        assert_eq!(connect("2001:db8:88::1", 80), Met::Connected);
        assert_eq!(connect("10.88.0.1", 53), Met::Refused, "but no resolver there");
        serve(&[8080]);
        assert_eq!(connect("127.0.0.1", 8080), Met::Connected, "loopback");
        assert!(!datagram_leaves(0, "10.9.1.5:53") && !datagram_leaves(0, "10.9.1.3:9"));
        let sends = |marked: bool, from: u16, to: &str| {
            let any: IpAddr = if to.starts_with('[') { [0u16; 8].into() } else { [0, 0, 0, 0].into() };
            let socket = UdpSocket::bind((any, from)).expect("a port");
            if marked {
                socket2::SockRef::from(&socket).set_mark(destguard::sys::MARK).expect("CAP_NET_ADMIN");
            }
            socket.send_to(b"x", to).is_ok()
        };
        assert!(sends(true, 0, "10.9.1.5:53"), "to an upstream");
        assert!(!sends(true, 0, "10.9.1.5:54") && !sends(true, 0, "10.9.1.3:53"), "and nowhere else");
        assert!(sends(true, 5300, "10.9.1.3:9"), "from a port that it answers from");
        assert!(!sends(false, 5300, "10.9.1.3:9"));
        assert!(datagram_leaves(68, "255.255.255.255:67") || run("ip route").contains("h0"), "DHCP");
        // Neighbours are found anew.
        run("ip neigh flush dev h0; ip -6 neigh flush dev h0");
        assert_eq!(connect("2001:db8:88::1", 80), Met::Connected);
        running.stop();
    });
}

#[test]
fn a_full_set_refuses_the_plan_that_does_not_fit_and_nothing_else() {
    both(|programs| {
        let mut running = Running::start(programs, &config(NftablesMode::Local), &[("198.51.100.1", 300)]);
        // Capacity, a quarter, and 1024.
        let list: String =
            (0..1148).map(|n| format!("add destguard4 10.77.{}.{} timeout 900\n", n / 200, n % 200)).collect();
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("others"), list).expect("written");
        let others = directory.path().join("others").display().to_string();
        let change = |address, ends| Change::Open { address: ip(address), ends };
        // The comparison may have found the strangers already: then they come again.
        eventually("it is refused", || {
            run(&format!("ipset -! restore < {others}"));
            let ends = running.in_seconds(800);
            let extend = Change::Extend { address: ip("198.51.100.1"), ends };
            running.apply(vec![extend, change("198.51.100.2", ends), change("198.51.100.3", ends)]);
            let wanted = Generation(running.generation);
            let event = running.until("a word on the plan", |event| {
                matches!(event, Event::Refused { generation, .. } | Event::Applied { generation, .. } if *generation == wanted)
            });
            assert!(near(left("198.51.100.1"), 800), "the extension is in force");
            let Event::Refused { reason, .. } = event else {
                running.close("198.51.100.2");
                running.close("198.51.100.3");
                return false;
            };
            assert!(reason.contains("full"), "{reason}");
            true
        });
        assert!(left("198.51.100.2").is_none() && left("198.51.100.3").is_none());
        // The strangers are found by the comparison, and there is room again.
        eventually("they are removed", || !run("ipset list destguard4").contains("10.77."));
        running.open("198.51.100.2", 300);
        assert!(left("198.51.100.2").is_some() && left("198.51.100.1").is_some());
        running.stop();
    });
}

#[test]
fn in_audit_nothing_is_blocked_and_all_is_counted() {
    both(|programs| {
        let _peer = host_and_peer();
        let audit = Nftables { enforce: false, ..config(NftablesMode::Local) };
        let mut running = Running::start(programs, &audit, &[]);
        assert_eq!(connect("10.9.1.2", 80), Met::Connected);
        assert_eq!(connect("2001:db8:1::2", 853), Met::Connected);
        running.open("10.9.1.3", 300);
        assert_eq!(connect("10.9.1.3", 80), Met::Connected);
        let count = |running: &Running, counter: &str| {
            let text = running.counters();
            let line = text
                .lines()
                .find(|line| line.contains(&format!("packets_total{{counter=\"{counter}\"")))
                .expect("it is there");
            line.rsplit(' ').next().and_then(|value| value.parse::<u64>().ok()).expect("a number")
        };
        let counters = ["allowed", "denied", "dns_bypass", "established"].map(|counter| count(&running, counter));
        assert!(counters.iter().all(|count| *count >= 1), "{counters:?}");
        // Enforced from now on, with what was counted kept.
        running.change(rules(&config(NftablesMode::Local))).expect("changed");
        assert_eq!(connect("10.9.1.2", 80), Met::Refused);
        assert_eq!(connect("10.9.1.3", 80), Met::Connected, "what is leased stays");
        assert!(count(&running, "denied") > counters[1]);
        running.stop();
    });
}

#[test]
fn a_restart_adopts_what_is_there_and_nothing_is_open_or_closed_meanwhile() {
    both(|programs| {
        let _peer = host_and_peer();
        let local = config(NftablesMode::Local);
        let running = Running::start(programs, &local, &[("10.9.1.2", 900), ("2001:db8:1::2", 900), ("10.9.1.4", 900)]);
        let mut flow = open("10.9.1.2", 80).expect("leased");
        // As after `kill -9`: rules and sets stay.
        running.stop();
        assert_eq!(connect("10.9.1.2", 80), Met::Connected);
        assert_eq!(connect("10.9.1.3", 80), Met::Refused, "it fails closed");
        let ends = left("10.9.1.2").expect("leased");
        let mut enforcer = Enforcer::new(&rules(&local), Clock::start(), ID).expect("made").by(programs.clone());
        enforcer.install().expect("installed");
        assert!(left("10.9.1.2").is_some_and(|left| left <= ends), "untouched by the installation");
        assert_eq!(connect("10.9.1.2", 80), Met::Connected);
        let running = Running::start(programs, &local, &[("10.9.1.2", 500), ("2001:db8:1::2", 500)]);
        assert!(near(left("10.9.1.2"), 500) && near(left("2001:db8:1::2"), 500));
        assert_eq!(connect("10.9.1.4", 80), Met::Refused, "what nobody wants any more is closed");
        assert!(alive(&mut flow));
        running.stop();
    });
}

#[test]
fn connections_from_before_live_on_and_dns_elsewhere_does_not() {
    both(|programs| {
        let _peer = host_and_peer();
        let mut streams = [open("10.9.1.2", 80).expect("open"), open("2001:db8:1::2", 80).expect("open")];
        let mut resolvers = [open("10.9.1.2", 853).expect("open"), open("2001:db8:1::2", 853).expect("open")];
        assert!(streams.iter_mut().chain(&mut resolvers).all(alive));
        let running = Running::start(programs, &config(NftablesMode::Local), &[]);
        assert!(streams.iter_mut().all(alive), "connections from before");
        assert!(!resolvers.iter_mut().any(alive), "DoT to another resolver");
        assert_eq!(connect("10.9.1.2", 80), Met::Refused);
        running.stop();
    });
}

#[test]
fn it_is_removed_where_that_is_wanted_and_by_disarm() {
    both(|programs| {
        let _peer = host_and_peer();
        tables(programs, "-A OUTPUT -p tcp --dport 81 -j ACCEPT");
        let remove = Nftables { on_stop: OnStop::Remove, ..config(NftablesMode::Local) };
        assert_eq!(iptables::is_there(), Ok(false));
        let running = Running::start(programs, &remove, &[("10.9.1.2", 900)]);
        assert_eq!(iptables::is_there(), Ok(true));
        running.stop();
        assert_eq!(remains(), "");
        assert_eq!(connect("10.9.1.3", 80), Met::Connected);

        let mut running = Running::start(programs, &config(NftablesMode::Local), &[("10.9.1.2", 900)]);
        assert!(running.control.stop(Stop::Disarm).expect("disarmed"));
        assert!(running.control.status().disarmed);
        assert_eq!(remains(), "");
        assert_eq!(connect("10.9.1.3", 80), Met::Connected);
        running.until("a wish for the full state", |event| matches!(event, Event::WantSync { .. }));
        running.sync(&[("10.9.1.2", 900)]);
        running.open("10.9.1.4", 60);
        assert_eq!(remains(), "", "what was disarmed stays so");
        running.stop();
        iptables::remove().expect("removed");
        assert!(tables(programs, "-S OUTPUT").contains("--dport 81"), "what is another's stays");
    });
}

#[test]
fn other_rules_are_put_in_force_without_a_gap_and_sets_grow() {
    both(|programs| {
        let _peer = host_and_peer();
        let mut running = Running::start(programs, &config(NftablesMode::Local), &[("10.9.1.2", 900)]);
        let mut flow = open("10.9.1.2", 80).expect("leased");
        let wider = Rules {
            capacity: 5000,
            open: vec!["10.9.1.3/32".parse().expect("a net")],
            ..rules(&config(NftablesMode::Local))
        };
        running.change(wider.clone()).expect("changed");
        assert!(run("ipset -t list destguard4").contains("maxelem 7274"), "{}", run("ipset -t list destguard4"));
        assert!(near(left("10.9.1.2"), 900));
        assert!(alive(&mut flow));
        assert_eq!((connect("10.9.1.2", 80), connect("10.9.1.3", 80)), (Met::Connected, Met::Connected));
        assert_eq!(connect("10.9.1.4", 80), Met::Refused);
        // What is refused leaves the old ones.
        let bad = Rules {
            config: Nftables { inside: vec!["a-name-that-is-too-long".to_owned()], ..config(NftablesMode::Gateway) },
            ..wider
        };
        assert!(running.change(bad).is_err());
        running.until("a wish for the full state", |event| matches!(event, Event::WantSync { .. }));
        running.sync(&[("10.9.1.2", 900)]);
        assert_eq!((connect("10.9.1.3", 80), connect("10.9.1.4", 80)), (Met::Connected, Met::Refused));
        running.change(rules(&config(NftablesMode::Off))).expect("changed");
        assert_eq!((remains().as_str(), connect("10.9.1.4", 80)), ("", Met::Connected));
        running.stop();
    });
}

#[test]
fn one_port_of_an_address_opens_alone() {
    both(|programs| {
        let _peer = host_and_peer();
        let mut running = Running::start(programs, &config(NftablesMode::Local), &[]);
        for to in ["10.9.1.2", "2001:db8:1::2"] {
            let narrow = Narrow { who: Who::Anyone, to: Port::Of { protocol: TCP, port: 80 } };
            let change = |ends, new| Change::Narrow { address: ip(to), narrow, ends, new };
            let ends = running.in_seconds(300);
            running.apply(vec![change(Some(ends), true)]);
            running.applied();
            assert_eq!(connect(to, 80), Met::Connected);
            assert_eq!(connect(to, 81), Met::Refused, "{to}");
            let listed = run("ipset list | grep -E '^Name|timeout'");
            assert!(listed.contains(&format!("{to},tcp:80 timeout ")), "{listed}");
            running.generation += 1;
            let (generation, pairs) = (Generation(running.generation), vec![((ip(to), narrow), ends)]);
            running.send(Command::Sync { generation, leases: Vec::new(), pairs });
            running.applied();
            assert_eq!(connect(to, 80), Met::Connected);
            running.apply(vec![change(None, false)]);
            running.applied();
            assert_eq!(connect(to, 80), Met::Refused);
        }
        running.stop();
    });
}

#[test]
fn per_client_leases_need_a_set_type_and_say_so() {
    both(|programs| {
        let clients = Nftables { scope: Scope::Client, ..config(NftablesMode::Gateway) };
        let has =
            std::process::Command::new("ipset").args(["create", "probe", "hash:net,net"]).output().expect("ipset");
        let mut enforcer = Enforcer::new(&rules(&clients), Clock::start(), ID).expect("made").by(programs.clone());
        let installed = enforcer.install();
        match has.status.success() {
            true => assert!(installed.expect("installed").is_empty()),
            false => assert!(installed.is_err_and(|error| error.to_string().contains("hash:net,net"))),
        }
    });
}
