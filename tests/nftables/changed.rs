//! Rules of another configuration, put in force while leases and flows are there.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::gateway::client_and_server;
use super::*;
use destguard::enforce::EnforceError;

/// Ends the threads of a scope also where a check fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Has the driver put these rules in force.
fn change(running: &Running, rules: &Rules) -> Result<(), EnforceError> {
    let (done, outcome) = tokio::sync::oneshot::channel();
    running.send(Command::Rules { rules: Box::new(rules.clone()), done });
    outcome.blocking_recv().expect("an outcome").map(drop)
}

/// The set's own handle, and its elements.
fn set_as_it_is(name: &str) -> (String, Vec<String>) {
    let listed = run(&format!("nft -a list set inet destguard {name}"));
    let handle = listed.lines().find_map(|line| line.trim().strip_prefix(&format!("set {name} {{ # handle ")));
    let mut elements: Vec<String> = listed
        .split(['{', ',', '}'])
        .filter_map(|part| part.split(" timeout ").next())
        .map(str::trim)
        .map(String::from)
        .collect();
    elements.retain(|element| element.parse::<IpAddr>().is_ok() || element.starts_with("elements"));
    elements.sort_unstable();
    (handle.expect("a handle").to_owned(), elements)
}

#[test]
fn other_modes_are_put_in_force_while_flows_and_leases_live() {
    alone(|| {
        let (client, server) = client_and_server();
        let mut running = Running::start(&local(), &[("10.9.2.2", 300), ("2001:db8:2::2", 300)]);
        let mut flows: Vec<_> = ["10.9.2.2", "2001:db8:2::2"]
            .into_iter()
            .flat_map(|to| [open(to, 80).expect("leased"), client.within(|| open(to, 80)).expect("leased")])
            .collect();
        // This one is not leased, and is forwarded from before the gateway was guarded.
        let mut older = client.within(|| open("10.9.2.4", 80)).expect("not guarded yet");
        let kept = set_as_it_is("lease4");
        let receiver = server.within(|| std::net::UdpSocket::bind(("10.9.2.3", 9999)).expect("a port"));
        receiver.set_read_timeout(Some(Duration::from_millis(20))).expect("a time-out");
        let sender = std::net::UdpSocket::bind(("10.9.2.1", 0)).expect("a port");
        let (stop, tried) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            let (stop, tried, receiver) = (&stop, &tried, &receiver);
            let arrived = scope.spawn(move || {
                let mut arrived = 0;
                while !stop.load(Ordering::Relaxed) {
                    arrived += usize::from(receiver.recv(&mut [0; 8]).is_ok());
                }
                arrived
            });
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    drop(sender.send_to(b"out", ("10.9.2.3", 9999)));
                    tried.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_micros(50));
                }
            });
            let stopping = Stop(stop);
            for redirect_dns in [true, false, true] {
                let before = running.generation;
                for mode in [NftablesMode::Both, NftablesMode::Local, NftablesMode::Both] {
                    change(&running, &rules(&Nftables { redirect_dns, ..config(mode) }, CAPACITY)).expect("changed");
                    let gateway = mode == NftablesMode::Both;
                    let met = client.within(|| connect("10.9.2.3", 80));
                    assert_eq!(met, if gateway { Met::Refused } else { Met::Connected }, "{mode:?}");
                    assert_eq!(client.within(|| connect("10.9.2.2", 80)), Met::Connected, "{mode:?}");
                    assert_eq!((connect("10.9.2.2", 80), connect("10.9.2.3", 80)), (Met::Connected, Met::Refused));
                    assert!(flows.iter_mut().all(alive) && alive(&mut older), "{mode:?}");
                    let redirects = run("nft list table inet destguard").contains("dns_redirect");
                    assert_eq!(redirects, gateway && redirect_dns);
                    assert_eq!(set_as_it_is("lease4"), kept, "{mode:?}: it is the same set");
                    assert!(run("nft list tables").contains("destguard_lock"));
                }
                assert_eq!(running.generation, before);
            }
            // The lease table goes on, and nobody was told of a loss.
            running.open("10.9.2.4", 300);
            drop(stopping);
            assert!(tried.load(Ordering::Relaxed) > 100);
            let arrived: usize = arrived.join().expect("the receiver");
            assert_eq!(arrived, 0, "this host was guarded all the time");
        });
        change(&running, &rules(&config(NftablesMode::Gateway), CAPACITY)).expect("changed");
        assert_eq!(connect("10.9.2.3", 80), Met::Connected, "this host itself is not guarded any more");
        let lock = run("nft list tables");
        assert!(lock.contains("destguard_lock"), "{lock}");
        assert_eq!(
            client.within(|| (connect("10.9.2.3", 80), connect("10.9.2.4", 80))),
            (Met::Refused, Met::Connected)
        );
        running.stop();
    });
}

#[test]
fn switched_off_the_host_is_open_and_on_again_it_holds_what_is_leased() {
    alone(|| {
        let _peer = host_and_peer();
        let mut running = Running::start(&local(), &[("10.9.1.2", 300)]);
        let mut flow = open("10.9.1.2", 80).expect("leased");
        for _ in 0..3 {
            change(&running, &rules(&config(NftablesMode::Off), CAPACITY)).expect("changed");
            assert_eq!(connect("10.9.1.4", 80), Met::Connected, "nothing is guarded");
            let tables = run("nft list tables");
            assert!(!tables.contains("destguard"), "{tables}");
            running.expect("a wish for the full state", |event| matches!(event, Event::WantSync { .. }));
            running.sync(&[("10.9.1.2", 300), ("10.9.1.3", 300)]);
            running.open("10.9.1.5", 300);
            let mut begun = open("10.9.1.4", 80).expect("open");
            // First it only counts, until it knows what is leased.
            change(&running, &rules(&Nftables { enforce: false, ..local() }, CAPACITY)).expect("changed");
            running.expect("a wish for the full state", |event| matches!(event, Event::WantSync { .. }));
            running.sync(&[("10.9.1.2", 300), ("10.9.1.3", 300)]);
            change(&running, &rules(&local(), CAPACITY)).expect("changed");
            assert!(run("nft list tables").contains("destguard_lock"));
            assert_eq!((connect("10.9.1.3", 80), connect("10.9.1.5", 80)), (Met::Connected, Met::Refused));
            assert!(alive(&mut flow) && alive(&mut begun), "flows go on");
        }
        run("nft flush ruleset");
        running.expect("it is put back", |event| matches!(event, Event::Lost { .. }));
        running.expect("a wish for the full state", |event| matches!(event, Event::WantSync { .. }));
        running.sync(&[("10.9.1.2", 300)]);
        assert_eq!((connect("10.9.1.2", 80), connect("10.9.1.4", 80)), (Met::Connected, Met::Refused));
        running.stop();
    });
}

#[test]
fn what_is_open_and_whom_the_guard_asks_follow_the_configuration() {
    alone(|| {
        let _peer = host_and_peer();
        let mut running = Running::start(&local(), &[("10.9.1.2", 300)]);
        assert_eq!(connect("10.9.1.3", 80), Met::Refused);
        let open = Rules { open: vec!["10.9.1.3/32".parse().expect("net")], ..rules(&local(), CAPACITY) };
        change(&running, &open).expect("changed");
        assert_eq!((connect("10.9.1.3", 80), connect("10.9.1.2", 80)), (Met::Connected, Met::Connected));
        change(&running, &rules(&local(), CAPACITY)).expect("changed");
        assert_eq!((connect("10.9.1.3", 80), connect("10.9.1.2", 80)), (Met::Refused, Met::Connected));
        // What is flushed comes back as it is now.
        change(&running, &open).expect("changed");
        run("nft flush ruleset");
        running.expect("a loss", |event| matches!(event, Event::Lost { .. }));
        running.expect("a wish for the full state", |event| matches!(event, Event::WantSync { .. }));
        running.sync(&[("10.9.1.2", 300)]);
        assert_eq!((connect("10.9.1.3", 80), connect("10.9.1.2", 80)), (Met::Connected, Met::Connected));
        assert_eq!(connect("10.9.1.4", 80), Met::Refused);
        let wrong =
            Nftables { inside: vec!["a name that is too long for any".to_owned()], ..config(NftablesMode::Both) };
        let error = change(&running, &rules(&wrong, CAPACITY)).expect_err("refused");
        assert!(!error.to_string().is_empty());
        assert_eq!((connect("10.9.1.4", 80), connect("10.9.1.2", 80)), (Met::Refused, Met::Connected), "as before");
        running.open("10.9.1.4", 300);
        running.stop();
    });
}

/// A full set grows while all that it holds stays open.
fn grows(resizable: bool) {
    alone(|| {
        let _peer = host_and_peer();
        let mut running = Running::start_as(&local(), &[("10.9.1.2", 300), ("2001:db8:1::2", 300)], |enforcer| {
            if resizable { enforcer } else { enforcer.unresizable() }
        });
        let mut flow = open("10.9.1.2", 80).expect("leased");
        let room = CAPACITY + CAPACITY / 4 + 1024 - 1;
        let fill = |from: usize, count: usize, ends| -> Vec<Change> {
            let address =
                |number: usize| IpAddr::from((0x0a10_0000 + u32::try_from(number).expect("small")).to_be_bytes());
            (from..from + count).map(|number| Change::Open { address: address(number), ends }).collect()
        };
        let ends = running.in_seconds(300);
        running.apply(fill(0, room, ends));
        running.applied();
        running.apply(fill(room, 100, ends));
        assert!(matches!(running.next(), Event::Refused { .. }), "it is full");
        let before = set_as_it_is("lease4");
        change(&running, &rules(&local(), 2 * CAPACITY)).expect("changed");
        let after = set_as_it_is("lease4");
        assert_eq!(after.1, before.1, "nothing was lost");
        assert_eq!(after.0 == before.0, resizable, "it is the same set where the kernel can");
        assert!(near(left("10.9.1.2"), 300.0) && near(left("2001:db8:1::2"), 300.0));
        assert!(alive(&mut flow));
        assert_eq!((connect("10.9.1.2", 80), connect("10.9.1.4", 80)), (Met::Connected, Met::Refused));
        running.apply(fill(room, 100, ends));
        running.applied();
        // Less is for what comes from now on: what is held has its room.
        change(&running, &rules(&local(), CAPACITY / 2)).expect("changed");
        assert_eq!(set_as_it_is("lease4").0, after.0);
        assert_eq!(connect("10.9.1.2", 80), Met::Connected);
        running.open("10.9.1.4", 300);
        running.stop();
    });
}

#[test]
fn a_full_set_grows_with_all_that_it_holds() {
    grows(true);
}

#[test]
fn a_full_set_grows_on_kernels_before_6_5() {
    grows(false);
}
