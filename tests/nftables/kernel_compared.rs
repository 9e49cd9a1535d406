//! Belief compared with the kernel: what no notification told is found, said, and made good.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::gateway::client_and_server;
use super::namespace::Namespace;
use super::traffic::{Met, alive, connect, datagram_leaves, open, serve};
use super::{PATIENCE, Running, alone, config, enforcer, eventually, held, host_and_peer, ip, left, local, near, run};
use destguard::config::schema::{Nftables, NftablesMode, OnStop, Scope};
use destguard::core::event::{Change, Event, Generation};
use destguard::core::narrow::Narrow;
use destguard::enforce::Command;
use destguard::enforce::nftables::elements::{Key, Set, Timeout, Transaction};
use destguard::enforce::nftables::kernel::{Kernel, LOOK_UP};
use destguard::enforce::nftables::{self, Enforcer, blueprint::Blueprint};

const LEASES: [(&str, u64); 3] = [("203.0.113.1", 300), ("203.0.113.2", 300), ("2001:db8::1", 300)];

/// A driver that hears nothing of what others do.
fn deaf(config: &Nftables) -> Running {
    Running::start_as(config, &LEASES, Enforcer::deaf)
}

/// Does something to the sets behind the driver's back.
fn behind_its_back(act: impl FnOnce(&mut Transaction)) {
    let mut kernel = Kernel::open().expect("a socket");
    let mut transaction = kernel.transaction();
    act(&mut transaction);
    kernel.commit("a test", transaction).expect("committed");
}

fn key(address: &str) -> Key {
    Key::Address(ip(address))
}

fn seconds(seconds: u64) -> Timeout {
    Timeout::of(Duration::from_secs(seconds))
}

impl Running {
    /// Which addresses, and pairs of address and client, the driver says it lacks.
    fn lacking(&mut self) -> (Vec<String>, Vec<(String, String)>) {
        match self.next() {
            Event::Missing { addresses, pairs, .. } => (
                addresses.iter().map(ToString::to_string).collect(),
                pairs
                    .iter()
                    .map(|(address, narrow)| (address.to_string(), narrow.client().expect("for a client").to_string()))
                    .collect(),
            ),
            other => panic!("something missing was expected, not {other:?}"),
        }
    }

    /// Waits until so many repairs of this kind were reported.
    fn repaired(&mut self, kind: &'static str, count: u64) {
        let begin = Instant::now();
        while self.repairs.get(kind) != Some(&count) {
            assert!(begin.elapsed() < 3 * PATIENCE, "{kind} {count}: {:?}", self.repairs);
            if let Ok(event) = self.reports.try_recv() {
                assert!(self.note(event).is_none(), "only repairs are to come");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn what_is_missing_or_ends_too_early_is_told_and_opened_again() {
    alone(|| {
        let mut running = deaf(&local());
        run("nft delete element inet destguard lease4 '{ 203.0.113.1 }'");
        assert_eq!(running.lacking(), (vec!["203.0.113.1".to_owned()], vec![]));
        assert!(left("203.0.113.1").is_none(), "the core opens it, not the driver");
        running.open("203.0.113.1", 300);
        running.repaired("missing", 1);
        let mut kernel = Kernel::open().expect("a socket");
        kernel.features = nftables::probe::probe(&mut kernel).expect("probed");
        let features = kernel.features;
        behind_its_back(|transaction| transaction.put(features, Set::Lease6, &[(key("2001:db8::1"), seconds(100))]));
        assert_eq!(running.lacking(), (vec!["2001:db8::1".to_owned()], vec![]));
        running.repaired("short", 1);
        running.open("2001:db8::1", 300);
        assert!(near(left("2001:db8::1"), 300.0));
        // All of a set at once.
        run("nft flush set inet destguard lease4");
        assert_eq!(running.lacking().0, ["203.0.113.1", "203.0.113.2"]);
        running.repaired("missing", 3);
        running.stop();
    });
}

/// After a crash nearly everything is as it should be. To write it all again takes ten times as long, and answers wait for it.
#[test]
fn what_an_earlier_daemon_left_as_it_should_be_is_not_written_again() {
    alone(|| {
        let config = Nftables { on_stop: OnStop::Keep, ..local() };
        Running::start(&config, &[]).stop();
        let address = |last: u32| format!("203.0.113.{last}");
        let leased = 1..=40;
        // A machine that dawdles makes times uncertain, and what is uncertain is written.
        eventually("what is as it should be is left alone", || {
            let ends = Instant::now() + Duration::from_secs(300);
            let left = || Timeout::of(ends.duration_since(Instant::now()) + nftables::PAD);
            behind_its_back(|transaction| {
                transaction.flush(Set::Lease4);
                // Its timeout shows who wrote it: the kernel keeps it beside what is left.
                for last in leased.clone().filter(|last| *last != 7) {
                    let left = if last == 8 {
                        seconds(100)
                    } else if last == 9 {
                        seconds(900)
                    } else {
                        left()
                    };
                    transaction.add_begun(Set::Lease4, key(&address(last)), seconds(9000), left);
                }
                transaction.add_begun(Set::Lease4, key("203.0.113.99"), seconds(9000), left());
            });
            run(
                "nft delete element inet destguard lease4 '{ 203.0.113.10 }'; nft add element inet destguard lease4 '{ 203.0.113.10 }'",
            );
            let mut running = Running::begin(&config, Enforcer::deaf);
            let end = running.clock.now().plus(ends.duration_since(Instant::now()));
            running.sync_all(leased.clone().map(|last| (ip(&address(last)), end)).collect());
            let left: Vec<f64> = leased.clone().map(|last| left_of(&address(last))).collect();
            assert!(left.iter().all(|left| near(Some(*left), 300.0)), "whatever it found: {left:?}");
            assert_eq!(held(Set::Lease4).len(), 40, "and nothing else");
            let found = run("nft list set inet destguard lease4").matches("timeout 2h30m").count();
            running.stop();
            assert!(found <= 36, "{found}: four were not as they should be");
            found == 36
        });
    });
}

fn left_of(address: &str) -> f64 {
    left(address).unwrap_or_else(|| panic!("{address} is not leased"))
}

#[test]
fn what_ends_too_late_or_never_is_shortened_and_what_was_not_written_is_removed() {
    alone(|| {
        let mut running = deaf(&local());
        let mut kernel = Kernel::open().expect("a socket");
        let features = nftables::probe::probe(&mut kernel).expect("probed");
        behind_its_back(|transaction| transaction.put(features, Set::Lease4, &[(key("203.0.113.1"), seconds(9000))]));
        running.repaired("long", 1);
        assert!(near(left("203.0.113.1"), 300.0));
        run(
            "nft delete element inet destguard lease4 '{ 203.0.113.2 }'; nft add element inet destguard lease4 '{ 203.0.113.2 }'",
        );
        // Its absence may be seen in between.
        eventually("it ends again", || {
            let found = held(Set::Lease4).into_iter().find(|held| held.key == key("203.0.113.2"));
            found.is_none_or(|held| held.left.is_some())
        });
        run(
            "nft add element inet destguard lease6 '{ 2001:db8::bad timeout 1h }'; nft add element inet destguard lease4 '{ 203.0.113.66, 203.0.113.67 }'",
        );
        running.drop_others();
        eventually("what was not written is gone", || {
            held(Set::Lease6).len() == 1 && !held(Set::Lease4).iter().any(|held| held.key == key("203.0.113.66"))
        });
        running.stop();
    });
}

#[test]
fn pairs_and_cuts_are_compared_as_well() {
    alone(|| {
        let config = Nftables { scope: Scope::Client, ..config(NftablesMode::Both) };
        let mut running = Running::start_as(&config, &[], Enforcer::deaf);
        let pair = |running: &Running, client: &str, address: &str| Change::Narrow {
            address: ip(address),
            narrow: Narrow::of_client(ip(client)),
            ends: Some(running.in_seconds(300)),
            new: true,
        };
        let changes = vec![
            pair(&running, "10.9.2.7", "203.0.113.1"),
            pair(&running, "2001:db8:2::7", "2001:db8::1"),
            pair(&running, "127.0.0.1", "203.0.113.1"),
        ];
        running.apply(changes);
        running.send(Command::CutFlows(ip("203.0.113.9")));
        running.applied();
        eventually("it is being cut", || held(Set::Cut4).len() == 1);
        behind_its_back(|transaction| {
            for set in [Set::Lease4, Set::ClientLease4, Set::ClientLease6, Set::Cut4] {
                transaction.flush(set);
            }
        });
        let owned = |list: &[(&str, &str)]| -> Vec<(String, String)> {
            list.iter().map(|(address, client)| ((*address).to_owned(), (*client).to_owned())).collect()
        };
        let lacking = running.lacking();
        let wanted =
            owned(&[("203.0.113.1", "127.0.0.1"), ("203.0.113.1", "10.9.2.7"), ("2001:db8::1", "2001:db8:2::7")]);
        assert_eq!(lacking, (vec![], wanted));
        running.repaired("missing", 4);
        assert_eq!(held(Set::Cut4).len(), 1, "the driver's own business");
        running.stop();
    });
}

#[test]
fn a_ruleset_that_was_changed_unseen_is_put_back() {
    alone(|| {
        let mut running = deaf(&local());
        for act in [
            "nft flush chain inet destguard output",
            "nft delete element inet destguard open4 '{ 10.88.0.0/16 }'",
            "nft insert rule inet destguard output accept",
            "nft delete table inet destguard",
        ] {
            let before = Blueprint::read(&mut Kernel::open().expect("a socket")).expect("the table");
            run(act);
            let gone = act.contains("delete table");
            let event = running.next_but(|event| gone && matches!(event, Event::Missing { .. }));
            assert!(matches!(&event, Event::Lost { .. }), "{act}: {event:?}");
            running.expect("a wish for the full state", |event| matches!(event, Event::WantSync { .. }));
            running.sync(&LEASES);
            let after = Blueprint::read(&mut Kernel::open().expect("a socket")).expect("the table");
            assert!(before == after, "{act}");
            assert!(left("203.0.113.1").is_some());
        }
        running.stop();
    });
}

#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    alone(|| {
        let mut running = Running::start(&local(), &LEASES);
        let begin = Instant::now();
        // Leases that begin, move and end all the while, over two sweeps.
        let mut number = 0u8;
        while begin.elapsed() < Duration::from_secs(12) {
            number = number.wrapping_add(1);
            running.open(&format!("198.51.100.{number}"), 1);
            running.open("203.0.113.1", 300);
            if number.is_multiple_of(3) {
                running.apply(vec![Change::Close { address: ip(&format!("198.51.100.{number}")) }]);
                running.applied();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(running.repairs, BTreeMap::new());
        running.stop();
    });
}

#[test]
fn a_table_is_written_back_as_it_was_in_every_mode() {
    alone(|| {
        for mode in [NftablesMode::Local, NftablesMode::Gateway, NftablesMode::Both] {
            for (enforce, scope) in [(true, Scope::Shared), (false, Scope::Client)] {
                let config = Nftables { enforce, scope, ..config(mode) };
                enforcer(&config).install().expect("installed");
                let listed = run("nft -s -t list table inet destguard");
                let mut kernel = Kernel::open().expect("a socket");
                let blueprint = Blueprint::read(&mut kernel).expect("the table");
                for act in [
                    "nft flush chain inet destguard deny",
                    "nft flush ruleset",
                    "nft flush table inet destguard",
                    "nft flush set inet destguard own4",
                ] {
                    run(act);
                    let found = Blueprint::read(&mut kernel).expect("the table");
                    let mut transaction = kernel.transaction();
                    blueprint.restore(&found, &mut transaction);
                    kernel.commit("restoring", transaction).unwrap_or_else(|error| panic!("{mode:?} {act}: {error}"));
                    assert!(Blueprint::read(&mut kernel).expect("the table") == blueprint, "{mode:?} {act}");
                    assert_eq!(run("nft -s -t list table inet destguard"), listed, "{mode:?} {act}");
                }
            }
        }
    });
}

#[test]
fn every_flush_is_undone_before_it_is_told_also_the_third_in_a_row() {
    alone(|| {
        let mut running = Running::start(&local(), &LEASES);
        for act in ["nft flush ruleset", "nft delete table inet destguard", "nft flush table inet destguard"] {
            // Nobody answers with the full state: the driver needs no one to close the host, nor to keep its leases.
            for _ in 0..3 {
                run(act);
                let event = running.next();
                assert!(matches!(&event, Event::Lost { reason, .. } if reason.contains("\"nft\"")), "{event:?}");
                assert!(run("nft list chain inet destguard output").contains("policy drop"), "{act}");
                assert!(near(left("203.0.113.1"), 300.0) && near(left("2001:db8::1"), 300.0), "{act}");
                running.expect("a wish for the full state", |event| matches!(event, Event::WantSync { .. }));
            }
        }
        running.generation += 1;
        let generation = Generation(running.generation);
        running.send(Command::Sync { generation, leases: Vec::new(), pairs: Vec::new() });
        running.applied();
        running.open("203.0.113.7", 60);
        running.stop();
    });
}

/// CPU time of this thread in milliseconds.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("its times");
    let nanos = stat.split_whitespace().next().and_then(|word| word.parse::<f64>().ok());
    nanos.expect("a number") / 1e6
}

fn cpu_since(before: f64) -> String {
    format!("{:.0} ms", cpu() - before)
}

/// Prints what comparing costs; nothing is asserted of it.
#[test]
fn cost_of_comparing_a_large_network() {
    alone(|| {
        let many: u32 = 100_000;
        let mut enforcer =
            Enforcer::new(&super::rules(&local(), many as usize), super::Clock::start(), super::ID).expect("nft");
        enforcer.install().expect("installed");
        let mut kernel = Kernel::open().expect("a socket");
        let keys: Vec<Key> = (0..many).map(|n| Key::Address((0x0a00_0000 + n).to_be_bytes().into())).collect();
        let mut transaction = kernel.transaction();
        let elements: Vec<_> = keys.iter().map(|key| (*key, seconds(600))).collect();
        transaction.add(Set::Lease4, &elements);
        kernel.commit("many leases", transaction).expect("committed");
        let (begin, cpu) = (Instant::now(), self::cpu());
        for page in keys.chunks(LOOK_UP) {
            let found = kernel.look_up("destguard", Set::Lease4, page).expect("looked up");
            assert!(found.iter().all(Option::is_some));
        }
        println!("{many} elements looked up, page by page: {:?}, CPU {:?}", begin.elapsed(), cpu_since(cpu));
        let (begin, cpu) = (Instant::now(), self::cpu());
        assert_eq!(kernel.dump("destguard", Set::Lease4).expect("dumped").len(), keys.len());
        println!("{many} elements dumped: {:?}, CPU {:?}", begin.elapsed(), cpu_since(cpu));
        let begin = Instant::now();
        let blueprint = Blueprint::read(&mut kernel).expect("the table");
        println!("the ruleset read: {:?}", begin.elapsed());
        for act in ["nft flush table inet destguard", "nft flush ruleset"] {
            run(act);
            let begin = Instant::now();
            let found = Blueprint::read(&mut kernel).expect("the table");
            let mut transaction = kernel.transaction();
            blueprint.restore(&found, &mut transaction);
            kernel.commit("restoring", transaction).expect("restored");
            println!("{act}: put back in {:?}", begin.elapsed());
        }
    });
}

/// Sends datagrams that are to be refused, from `from` to `to`, while somebody flushes the ruleset again and again; those that arrived.
fn datagrams_that_arrive(
    running: &mut Running,
    (from, source): (Option<&Namespace>, &str),
    (to, destination): (&Namespace, &str),
) -> usize {
    let receiver = to.within(|| std::net::UdpSocket::bind((destination, 9999)).expect("a port"));
    receiver.set_read_timeout(Some(Duration::from_millis(20))).expect("a time-out");
    let bind = || std::net::UdpSocket::bind((source, 0)).expect("a port");
    let sender = from.map_or_else(bind, |from| from.within(bind));
    let (stop, tried) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let (stop, tried) = (&stop, &tried);
        let arrived = scope.spawn(move || {
            let mut arrived = 0;
            while !stop.load(Ordering::Relaxed) {
                arrived += usize::from(receiver.recv(&mut [0; 8]).is_ok());
            }
            arrived
        });
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                drop(sender.send_to(b"out", (destination, 9999)));
                tried.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_micros(50));
            }
        });
        for number in 0..24 {
            if number % 3 == 0 {
                // The second and third in a row follow at once.
                std::thread::sleep(Duration::from_millis(100));
            }
            run("nft flush ruleset");
            assert!(matches!(running.next(), Event::Lost { .. }));
            assert!(run("nft list tables").contains("destguard_ct"), "flows were kept track of");
            running.expect("a wish for the full state", |event| matches!(event, Event::WantSync { .. }));
        }
        std::thread::sleep(Duration::from_millis(100));
        stop.store(true, Ordering::Relaxed);
        assert!(tried.load(Ordering::Relaxed) > 100);
        arrived.join().expect("the receiver")
    })
}

#[test]
fn a_flush_opens_the_host_for_no_packet() {
    alone(|| {
        let peer = host_and_peer();
        let mut running = Running::start(&local(), &[("10.9.1.2", 300)]);
        let arrived = datagrams_that_arrive(&mut running, (None, "10.9.1.1"), (&peer, "10.9.1.3"));
        assert_eq!(arrived, 0, "24 flushes");
        assert_eq!((connect("10.9.1.2", 80), connect("10.9.1.4", 80)), (Met::Connected, Met::Refused));
        running.stop();
    });
}

#[test]
fn a_flush_opens_the_gateway_for_no_packet() {
    alone(|| {
        let (client, server) = client_and_server();
        let mut running = Running::start(&config(NftablesMode::Gateway), &[("10.9.2.2", 300)]);
        let arrived = datagrams_that_arrive(&mut running, (Some(&client), "10.9.1.2"), (&server, "10.9.2.3"));
        assert_eq!(arrived, 0, "24 flushes");
        assert_eq!(client.within(|| connect("10.9.2.2", 80)), Met::Connected);
        assert_eq!(client.within(|| connect("10.9.2.4", 80)), Met::Refused);
        running.stop();
    });
}

/// While the table is away: what is known goes on, what is new is refused, and what isn't the guard's business passes.
#[test]
fn until_the_table_is_back_only_what_was_there_goes_on() {
    alone(|| {
        let (client, server) = client_and_server();
        serve(&[80]);
        let mut running = Running::start_as(
            &config(NftablesMode::Both),
            &[("10.9.2.2", 300), ("2001:db8:2::2", 300)],
            Enforcer::deaf,
        );
        let mut flows: Vec<_> = ["10.9.2.2", "2001:db8:2::2"]
            .into_iter()
            .flat_map(|to| [open(to, 80).expect("leased"), client.within(|| open(to, 80)).expect("leased")])
            .collect();
        let away = || !run("nft list tables").lines().any(|line| line == "table inet destguard");
        let begin = Instant::now();
        loop {
            run("nft flush ruleset");
            let refused = !datagram_leaves(0, "10.9.2.3:9") && !datagram_leaves(0, "[2001:db8:2::3]:9");
            let lives = flows.iter_mut().all(alive);
            let others = connect("127.0.0.1", 80) == Met::Connected
                && server.within(|| connect("10.9.1.2", 80)) == Met::Connected
                && client.within(|| connect("10.9.1.1", 80)) == Met::Connected;
            if away() {
                assert!(refused && lives && others, "{refused} {lives} {others}");
                break;
            }
            assert!(begin.elapsed() < 3 * PATIENCE, "it comes back before anybody can look");
        }
        let event = running.next_but(|event| matches!(event, Event::Missing { .. }));
        assert!(matches!(&event, Event::Lost { .. }), "{event:?}");
        running.expect("a wish for the full state", |event| matches!(event, Event::WantSync { .. }));
        running.sync(&[("10.9.2.2", 300)]);
        assert_eq!((connect("10.9.2.2", 80), connect("10.9.2.3", 80)), (Met::Connected, Met::Refused));
        running.stop();
        assert!(!run("nft list tables").contains("destguard_lock"), "it ends with the driver");
    });
}

#[test]
fn the_guards_own_traffic_changes_while_leases_stay() {
    use destguard::enforce::rules::{Own, OwnTraffic, Transport};
    alone(|| {
        let _peer = host_and_peer();
        let mut running = Running::start(&local(), &LEASES);
        let upstream = |last| OwnTraffic { address: [10, 9, 1, last].into(), transport: Transport::Tcp, port: 80 };
        let tell = |traffic: Vec<OwnTraffic>, port| {
            let (done, outcome) = tokio::sync::oneshot::channel();
            running.send(Command::Own { own: Own { traffic, listeners: vec![(Transport::Udp, port)] }, done });
            outcome.blocking_recv().expect("an outcome").expect("switched");
        };
        let has = |set: &str, what: &str| run(&format!("nft list set inet destguard {set}")).contains(what);
        let leased = run("nft list set inet destguard lease4 | grep -c expires");
        for (last, port) in [(4, 5354), (5, 5355)] {
            tell(vec![upstream(last)], port);
            assert!(has("own4", &format!("10.9.1.{last} . tcp . 80")) && has("own_ports", &format!("udp . {port}")));
            assert!(!has("own4", &format!("10.9.1.{} ", 9 - last)));
            assert_eq!(run("nft list set inet destguard lease4 | grep -c expires"), leased);
            assert!(run("nft list tables").contains("destguard_lock"));
        }
        run("nft flush ruleset");
        running.expect("it is put back", |event| matches!(event, Event::Lost { .. }));
        assert!(has("own4", "10.9.1.5 . tcp . 80") && has("own_ports", "udp . 5355"));
        running.stop();
    });
}

#[test]
fn audit_locks_nothing() {
    alone(|| {
        let _peer = host_and_peer();
        let locked = || run("nft list tables").contains("destguard_lock");
        let running = Running::start(&local(), &LEASES);
        assert!(locked());
        let switch = |enforce| {
            let (done, outcome) = tokio::sync::oneshot::channel();
            running.send(Command::Enforce { enforce, done });
            outcome.blocking_recv().expect("an outcome").expect("switched");
        };
        switch(false);
        assert!(!locked());
        assert_eq!(connect("10.9.1.4", 80), Met::Connected);
        switch(true);
        assert!(locked());
        assert_eq!(connect("10.9.1.4", 80), Met::Refused);
        running.stop();
        // Somebody saved the ruleset while the guard ran, and loads it at boot.
        let saved = "nft add table inet destguard_lock; \
                     nft add chain inet destguard_lock old '{ type filter hook output priority 0; policy drop; }'";
        run(saved);
        assert_eq!(connect("10.9.1.4", 80), Met::TimedOut);
        let running = Running::start(&Nftables { enforce: false, ..local() }, &LEASES);
        assert!(!locked());
        assert_eq!(connect("10.9.1.4", 80), Met::Connected);
        running.stop();
        run(saved);
        nftables::disarm().expect("disarmed");
        assert!(!locked());
    });
}
