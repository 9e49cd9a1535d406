//! Live flows keep routes, and nothing else.

use super::*;
use crate::core::event::Change;
use crate::core::flows::FlowsSeen;

const ADDRESS: &str = "203.0.113.9";
const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
const EXPORTER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 254));
/// Asked for at 1 s with a TTL of 60 s and 10 s of grace.
const ENDS: u64 = 71;
const LINGER: u64 = 60;
const INTERVAL: u64 = 10;
const MAX: u64 = 1000;

fn address() -> IpAddr {
    ADDRESS.parse().unwrap()
}

fn at(seconds: u64) -> Moment {
    Moment(seconds * 1000)
}

/// A packet filter, and routers with plenty of room.
fn enforcers() -> Vec<EnforcerSpec> {
    let mut specs = specs();
    specs[3].max_addresses = 1000;
    specs
}

/// A guard with a packet filter and routers that has leased the address.
fn leased() -> Guard {
    let mut settings = settings();
    settings.lease.capacity = 1000;
    let mut guard = Guard::new(settings, enforcers());
    guard.handle(Event::FlowLimit(Duration::from_secs(MAX)), at(0));
    ask_for(&mut guard, 1, ADDRESS);
    guard
}

/// A flow is seen; what follows until then.
fn seen(guard: &mut Guard, from: IpAddr, to: IpAddr, now: u64) -> Vec<Output> {
    let seen = FlowsSeen { source: EXPORTER, interval: Duration::from_secs(INTERVAL), ends: vec![(from, to)] };
    guard.handle(Event::FlowsSeen(seen), at(now));
    outputs(guard)
}

fn outputs(guard: &mut Guard) -> Vec<Output> {
    std::iter::from_fn(|| guard.poll_output()).collect()
}

fn pass(guard: &mut Guard, now: u64) -> Vec<Output> {
    guard.handle_timeout(at(now));
    outputs(guard)
}

fn closes_route(outputs: &[Output]) -> bool {
    outputs.iter().any(|output| match output {
        Output::ApplyRoutes { changes, .. } => changes.contains(&Change::Close { address: address() }),
        _ => false,
    })
}

#[test]
fn a_flow_keeps_the_route_of_a_lease_that_ended_and_gives_it_up_after_its_linger() {
    let mut guard = leased();
    for now in (5..600).step_by(10) {
        // Whichever end is leased.
        let outputs = match now % 20 {
            5 => seen(&mut guard, CLIENT, address(), now),
            _ => seen(&mut guard, address(), CLIENT, now),
        };
        assert!(!closes_route(&outputs), "at {now} s");
        let opened = outputs.iter().any(|output| matches!(output, Output::ApplyTimed { .. }));
        assert!(!opened, "the packet filter hears nothing of it");
        let lease = guard.table.get(address()).unwrap();
        assert_eq!(lease.is_active(), now < ENDS, "the lease ends in its time");
        let explained = guard.explain(address(), at(now)).unwrap();
        if now > ENDS + LINGER {
            let (soon, most) = explained.held_by_flow_seconds.unwrap();
            assert!((LINGER * 3 / 4..=LINGER).contains(&soon), "{soon}");
            assert_eq!((most, guard.counts().held_by_flows), (ENDS + MAX - now, 1));
        }
    }
    let last = 595;
    assert!(!closes_route(&pass(&mut guard, last + LINGER / 2)));
    assert!(closes_route(&pass(&mut guard, last + LINGER)));
    assert_eq!((guard.counts().held_by_flows, guard.table.len()), (0, 0));
    assert_eq!(seen(&mut guard, CLIENT, address(), last + LINGER + 1).len(), 0, "a flow opens nothing");
    assert_eq!(guard.table.len(), 0);
}

#[test]
fn no_flow_keeps_a_route_beyond_the_longest_time_or_what_was_revoked() {
    let mut guard = leased();
    let closed = (5..2 * MAX).step_by(10).find(|now| closes_route(&seen(&mut guard, CLIENT, address(), *now)));
    assert_eq!(closed, Some(1075), "ENDS + MAX is 1071");

    let mut guard = leased();
    for now in (5..300).step_by(10) {
        seen(&mut guard, CLIENT, address(), now);
    }
    guard.handle(Event::Revoke(RevokeTarget::Address(address())), at(300));
    assert!(closes_route(&outputs(&mut guard)), "at once");
    assert!(seen(&mut guard, CLIENT, address(), 301).is_empty() && guard.counts().held_by_flows == 0);

    let mut guard = leased();
    for now in (5..300).step_by(10) {
        seen(&mut guard, CLIENT, address(), now);
    }
    guard.handle(changes::forbid(&guard, &["a.test".parse().unwrap(), name(1)]), at(300));
    assert!(closes_route(&outputs(&mut guard)), "policy cuts as well");
}

#[test]
fn what_is_leased_again_is_held_by_its_lease_and_counts_no_more() {
    let mut guard = leased();
    for now in (5..300).step_by(10) {
        seen(&mut guard, CLIENT, address(), now);
    }
    assert_eq!(guard.counts().held_by_flows, 1);
    guard.handle(Event::Slept, at(300));
    let admission = Admission {
        judged: 0,
        openings: Default::default(),
        whole: false,
        ticket: Ticket(2),
        client: CLIENT,
        mark: None,
        question: name(1),
        qtype: 1,
        chain: Arc::default(),
        domain: name(1),
        grants: [Grant { address: address(), ttl: 60 }].into(),
    };
    guard.handle(Event::Admit(admission), at(300));
    assert_eq!(guard.counts().held_by_flows, 0);
    assert!(!closes_route(&outputs(&mut guard)));
    assert!(closes_route(&pass(&mut guard, 300 + 70 + LINGER)));
}

#[test]
fn without_a_limit_nothing_stays_and_without_linger_flows_alone_keep_it() {
    let mut guard = leased();
    guard.handle(Event::FlowLimit(Duration::ZERO), at(2));
    let closed = (5..300).step_by(10).find(|now| closes_route(&seen(&mut guard, CLIENT, address(), *now)));
    assert_eq!(closed, Some(135), "as if nobody saw flows");

    let mut guard = leased();
    guard.handle(changes::linger(&guard, enforcers(), Duration::ZERO), at(2));
    for now in (5..300).step_by(10) {
        assert!(!closes_route(&seen(&mut guard, CLIENT, address(), now)));
    }
    assert!(!closes_route(&pass(&mut guard, 295 + 2 * INTERVAL)));
    assert!(closes_route(&pass(&mut guard, 295 + 3 * INTERVAL)), "three intervals without a word");
}

#[test]
fn what_a_flow_holds_is_on_disk_as_ended_and_lives_through_a_restart_until_it_is_seen_again() {
    for linger in [Duration::from_secs(LINGER), Duration::from_secs(5)] {
        let mut guard = leased();
        guard.handle(changes::linger(&guard, enforcers(), linger), at(2));
        let mut disk = None;
        for now in (5..400).step_by(10) {
            for output in seen(&mut guard, CLIENT, address(), now) {
                if let Output::Journal(record) = output {
                    disk = Some(record);
                }
            }
            let stored: Vec<StoredLease> = guard.stored().collect();
            assert!(now <= ENDS || stored[0].ends <= at(now), "never read back as a lease that lives");
        }
        let record = disk.unwrap();
        let mut after = leased_nothing(&guard);
        after.handle(changes::linger(&after, specs(), linger), at(400));
        after.handle(Event::Restore(vec![record]), at(400));
        drop(outputs(&mut after));
        if linger.as_secs() == LINGER {
            assert!(!closes_route(&pass(&mut after, 400 + INTERVAL)), "until the next report at least");
            for now in (411..ENDS + MAX).step_by(10) {
                assert!(!closes_route(&seen(&mut after, CLIENT, address(), now)), "at {now} s");
            }
            let closed = (ENDS + MAX - 20..ENDS + 2 * MAX)
                .step_by(10)
                .find(|now| closes_route(&seen(&mut after, CLIENT, address(), *now)));
            assert!(closed.is_some_and(|closed| closed <= ENDS + MAX + 10), "the longest time goes on: {closed:?}");
        }
    }
}

/// A new process with the same settings.
fn leased_nothing(guard: &Guard) -> Guard {
    let mut after = Guard::new(guard.settings.clone(), specs());
    after.handle(Event::FlowLimit(Duration::from_secs(MAX)), at(400));
    after
}
