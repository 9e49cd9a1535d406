//! What the guard does in single cases; [`properties`] has what holds in all of them.

use std::net::IpAddr;
use std::time::Duration;

use super::*;
use crate::config::value::{Rate, Span};
use crate::core::event::{Admission, Change, Decision, Grant, LeaseHandles, QueryPath, Refusal};
use crate::core::gate::MOST_WAITING;
use crate::core::proof::EnforcerState;

mod changes;
mod checks;
mod clients;
mod flows;
mod guards;
mod operations;
mod properties;
mod reload;

fn name(index: u8) -> Name {
    format!("n{index}.a.test").parse().unwrap()
}

/// One client's answer: a question without aliases that leads to one address.
fn admission(ticket: u64, question: Name, address: IpAddr, ttl: u32) -> Admission {
    Admission {
        judged: 0,
        openings: Default::default(),
        whole: false,
        ticket: Ticket(ticket),
        client: IpAddr::from([192, 0, 2, 1]),
        mark: None,
        question: question.clone(),
        qtype: 1,
        chain: Arc::default(),
        domain: question,
        grants: [Grant { address, ttl }].into(),
    }
}

const CAPACITY: usize = 7;
const ROUTE_BUDGET: usize = 6;

fn settings() -> Settings {
    let free = Rate { count: 1_000_000, per: Duration::from_secs(1) };
    let lease = LeaseSettings {
        min: Span::secs(30),
        max: Span::secs(150),
        grace: Span::secs(10),
        capacity: CAPACITY,
        per_answer: 3,
        new_per_client: free,
        burst_per_client: free.count,
        new_per_domain: free,
        burst_per_domain: free.count,
        ..LeaseSettings::default()
    };
    let gate = GateSettings { deadline: Span::secs(1), on_deadline: OnDeadline::Servfail };
    Settings { lease, gate, linger: Duration::from_secs(60) }
}

fn specs() -> Vec<EnforcerSpec> {
    let spec = |name: &str, kind, required, max_addresses| EnforcerSpec {
        name: name.to_owned(),
        kind,
        required,
        max_addresses,
        ipv4: true,
        ipv6: true,
        narrow: Default::default(),
    };
    vec![
        spec("nft", EnforcerKind::Timed, true, usize::MAX),
        spec("edge1", EnforcerKind::Route, true, 100),
        spec("edge2", EnforcerKind::Route, true, 100),
        spec("spare", EnforcerKind::Route, false, ROUTE_BUDGET),
    ]
}

/// A guard with one required peer and plenty of room, and what it was asked for: `answers` names with one address each.
fn many(answers: u32, per_batch: usize) -> (Guard, Vec<Output>) {
    let mut settings = settings();
    settings.lease.capacity = usize::MAX / 8;
    let edge = specs().into_iter().filter(|spec| spec.name == "edge1");
    let mut guard = Guard::new(settings, edge.map(|spec| EnforcerSpec { max_addresses: usize::MAX, ..spec }).collect());
    let mut outputs = Vec::new();
    for index in 0..answers {
        let admission = admission(
            u64::from(index),
            format!("n{index}.test").parse().unwrap(),
            IpAddr::V4(std::net::Ipv4Addr::from_bits(0xc633_0000 + index)),
            0,
        );
        guard.handle(Event::Admit(admission), Moment(1000));
        if (index as usize + 1).is_multiple_of(per_batch) {
            outputs.extend(std::iter::from_fn(|| guard.poll_output()));
        }
    }
    outputs.extend(std::iter::from_fn(|| guard.poll_output()));
    (guard, outputs)
}

#[test]
fn what_a_router_refused_while_nobody_waited_for_it_is_told_anew_once_somebody_does() {
    let (mut guard, _) = many(3, 1);
    let (enforcer, now) = (EnforcerId(0), Moment(1500));
    let require = |guard: &mut Guard, required| {
        let spec = specs().into_iter().find(|spec| spec.name == "edge1").unwrap();
        let spec = EnforcerSpec { required, ..spec };
        let list = vec![crate::core::event::Listed { id: enforcer, spec, joins: false }];
        guard.handle(changes::enforcers(guard, list), now);
    };
    let told = |guard: &mut Guard| -> Vec<Change> {
        let outputs = std::iter::from_fn(|| guard.poll_output());
        let plans = outputs.filter_map(|output| match output {
            Output::ApplyRoutes { changes, .. } => Some(changes.to_vec()),
            _ => None,
        });
        plans.flatten().collect()
    };
    require(&mut guard, false);
    guard.handle(Event::Applied { enforcer, generation: Generation(3) }, now);
    assert_eq!(told(&mut guard), []);
    let address = IpAddr::from([198, 51, 0, 1]);
    let reason = "not confirmed".to_owned();
    guard.handle(Event::RefusedAddress { enforcer, address, generation: Generation(3), reason }, now);
    assert_eq!(told(&mut guard), [], "nobody waits for it");
    require(&mut guard, true);
    let anew = told(&mut guard);
    assert!(matches!(anew[..], [Change::Open { address: told, .. }] if told == address), "{anew:?}");
    let in_force = |guard: &Guard| guard.table.get(address).unwrap().has_route(None);
    assert!(!in_force(&guard));
    guard.handle(Event::Applied { enforcer, generation: guard.generation }, now);
    assert!(in_force(&guard));
    require(&mut guard, true);
    assert_eq!(told(&mut guard), [], "once");
}

#[test]
fn a_burst_of_names_makes_one_plan_a_batch_and_is_decided_as_one() {
    let (mut guard, outputs) = many(2000, 250);
    let plans = outputs.iter().filter(|output| matches!(output, Output::ApplyRoutes { .. })).count();
    assert_eq!(plans, 8);
    guard.handle(Event::Applied { enforcer: EnforcerId(0), generation: Generation(7) }, Moment(1500));
    let released = std::iter::from_fn(|| guard.poll_output())
        .filter(|output| matches!(output, Output::Decide { decision: Decision::Release { .. }, .. }))
        .count();
    assert_eq!(released, 1750);
    guard.handle_timeout(guard.poll_timeout().unwrap());
    let refused = std::iter::from_fn(|| guard.poll_output()).count();
    assert_eq!((refused, guard.counts().gate_timeouts), (250, 250));
    guard.table.check_consistency();
}

#[test]
fn the_gate_takes_a_bounded_number_of_answers() {
    let most = u32::try_from(MOST_WAITING).unwrap();
    let (guard, outputs) = many(most + 10, 256);
    assert_eq!(guard.counts().waiting, MOST_WAITING);
    let refused = outputs
        .iter()
        .filter(|output| matches!(output, Output::Decide { decision: Decision::Refuse(Refusal::Capacity), .. }))
        .count();
    assert_eq!(refused, 10);
}

#[test]
fn very_many_leases_end_at_once_in_two_steps() {
    let (mut guard, _) = many(10_000, 256);
    guard.handle_timeout(Moment(41_000));
    let outputs: Vec<_> = std::iter::from_fn(|| guard.poll_output()).collect();
    assert!(outputs.iter().all(|output| matches!(output, Output::Decide { .. })), "routes linger");
    guard.handle_timeout(Moment(101_000));
    let outputs: Vec<_> = std::iter::from_fn(|| guard.poll_output()).collect();
    assert!(matches!(outputs.as_slice(), [Output::ApplyRoutes { changes, .. }] if changes.len() == 10_000));
    assert_eq!((guard.table.len(), guard.table.entries(), guard.poll_timeout()), (0, 0, None));
}

#[test]
fn what_is_not_known_or_comes_from_the_future_changes_nothing() {
    let (mut guard, _) = many(1, 1);
    let nobody = EnforcerId(9);
    guard.handle(Event::Applied { enforcer: nobody, generation: Generation(1) }, Moment(1001));
    guard.handle(Event::Lost { enforcer: nobody, reason: String::new() }, Moment(1001));
    guard.handle(Event::Refused { enforcer: nobody, generation: Generation(1), reason: String::new() }, Moment(1001));
    guard.handle(Event::WantSync { enforcer: nobody }, Moment(1001));
    assert!(guard.poll_output().is_none());
    // An acknowledgement of a plan that was never made counts as one of the last that was.
    guard.handle(Event::Applied { enforcer: EnforcerId(0), generation: Generation(u64::MAX) }, Moment(1001));
    assert!(matches!(guard.poll_output(), Some(Output::Decide { decision: Decision::Release { .. }, .. })));
    assert_eq!(guard.enforcers(Moment(1001))[0].acknowledged, Some(1));
    // Time that goes back is taken for the latest seen.
    guard.handle(Event::Revoke(RevokeTarget::Name(name(1))), Moment(5));
    assert_eq!(guard.table.len(), 1);
}

#[test]
fn a_switch_to_audit_withdraws_routes_keeps_leases_and_back_waits_for_the_routers() {
    let (mut guard, outputs) = many(3, 3);
    assert!(matches!(&outputs[0], Output::ApplyRoutes { changes, .. } if changes.len() == 3));
    let drain = |guard: &mut Guard| std::iter::from_fn(|| guard.poll_output()).collect::<Vec<_>>();
    // Who waits at the gate waits for nobody any more.
    guard.handle(changes::announce(false), Moment(1100));
    let outputs = drain(&mut guard);
    let closed = |output: &Output| matches!(output, Output::ApplyRoutes { changes, .. } if changes.iter().all(|change| matches!(change, Change::Close { .. })) && changes.len() == 3);
    assert!(outputs.iter().any(closed), "{outputs:?}");
    let released: Vec<LeaseHandles> = outputs
        .into_iter()
        .filter_map(|output| match output {
            Output::Decide { decision: Decision::Release { leases, .. }, .. } => Some(leases),
            _ => None,
        })
        .collect();
    assert_eq!((released.len(), guard.table.len()), (3, 3));
    let in_force = |at| released.iter().flatten().all(|lease| lease.in_force_for(Moment(at), Duration::ZERO));
    assert!(in_force(1100));
    let shown = guard.leases(&Default::default(), None, 9, Moment(1100));
    assert!(shown.iter().all(|lease| lease.enforcers["edge1"] == "audit"), "{shown:?}");
    let enforcer = guard.enforcers(Moment(1100)).remove(0);
    assert_eq!((enforcer.required, enforcer.installed, enforcer.would_announce), (false, 0, Some((3, 0))));

    // The same leases, and nobody uses them before the router has their routes.
    guard.handle(changes::announce(true), Moment(1200));
    let outputs = drain(&mut guard);
    let Some(Output::ApplyRoutes { generation, changes }) = outputs.first() else { panic!("{outputs:?}") };
    assert!(changes.len() == 3 && !in_force(1200));
    guard.handle(Event::Applied { enforcer: EnforcerId(0), generation: *generation }, Moment(1300));
    assert!(in_force(1300) && guard.table.len() == 3);
    guard.handle(changes::announce(true), Moment(1300));
    assert!(drain(&mut guard).is_empty() && in_force(1300));
    guard.table.check_consistency();
}

fn many_address(index: u32) -> IpAddr {
    IpAddr::V4(std::net::Ipv4Addr::from_bits(0xc633_0000 + index))
}

/// What was decided since the last time: ticket, released or not.
fn decided(guard: &mut Guard) -> Vec<(u64, bool)> {
    let outputs: Vec<_> = std::iter::from_fn(|| guard.poll_output()).collect();
    let decided = outputs.iter().filter_map(|output| match output {
        Output::Decide { ticket, decision } => Some((ticket.0, matches!(decision, Decision::Release { .. }))),
        _ => None,
    });
    decided.collect()
}

fn confirm(guard: &mut Guard, index: u32, generation: u64) {
    let addresses = vec![(many_address(index), Generation(generation))];
    guard.handle(Event::Confirmed { enforcer: EnforcerId(0), addresses }, Moment(1500));
}

#[test]
fn an_address_that_is_never_confirmed_holds_nobody_else_up() {
    let (mut guard, _) = many(4, 1);
    confirm(&mut guard, 2, 3);
    assert_eq!(decided(&mut guard), [(2, true)], "plan 3, while plans 1 and 2 are not confirmed");
    let views = guard.enforcers(Moment(1500));
    assert_eq!((views[0].state, views[0].acknowledged, views[0].installed), (EnforcerState::Partial, None, 1));
    confirm(&mut guard, 2, 3);
    confirm(&mut guard, 3, 2);
    assert_eq!(decided(&mut guard), [], "plan 4 opened it, not 2");
    confirm(&mut guard, 3, 99);
    assert_eq!(decided(&mut guard), [(3, true)], "the table was at 4 at least");
    guard.handle(Event::Applied { enforcer: EnforcerId(0), generation: Generation(1) }, Moment(1500));
    assert_eq!(decided(&mut guard), [(0, true)]);
    let refused = |generation| Event::RefusedAddress {
        enforcer: EnforcerId(0),
        address: many_address(1),
        generation: Generation(generation),
        reason: "not forwarded".to_owned(),
    };
    guard.handle(refused(1), Moment(1600));
    assert_eq!((decided(&mut guard), guard.table.len()), (vec![], 4), "plan 2 opened it");
    guard.handle(refused(2), Moment(1600));
    assert_eq!((decided(&mut guard), guard.table.len()), (vec![(1, false)], 3), "it alone is closed");
    guard.handle(Event::Applied { enforcer: EnforcerId(0), generation: Generation(5) }, Moment(1600));
    let views = guard.enforcers(Moment(1600));
    assert_eq!((views[0].state, views[0].acknowledged, views[0].installed), (EnforcerState::InForce, Some(5), 3));
    guard.handle(refused(5), Moment(1600));
    assert_eq!(guard.table.len(), 3);
}

#[test]
fn word_on_an_earlier_opening_is_none_on_a_later_one() {
    let (mut guard, _) = many(1, 1);
    guard.handle(Event::Revoke(RevokeTarget::Address(many_address(0))), Moment(1500));
    assert_eq!(decided(&mut guard), [(0, false)]);
    confirm(&mut guard, 0, 1);
    let admission = admission(7, name(1), many_address(0), 0);
    guard.handle(Event::Admit(admission), Moment(1500));
    assert_eq!(decided(&mut guard), []);
    confirm(&mut guard, 0, 1);
    confirm(&mut guard, 0, 2);
    assert_eq!(decided(&mut guard), [], "plan 1 opened it, plan 2 closed it, plan 3 opened it anew");
    confirm(&mut guard, 0, 3);
    assert_eq!(decided(&mut guard), [(7, true)]);
}

#[test]
fn after_a_loss_addresses_are_proven_one_by_one_and_those_waited_for_are_hurried() {
    let (mut guard, _) = many(3, 1);
    guard.handle(Event::Applied { enforcer: EnforcerId(0), generation: Generation(3) }, Moment(1500));
    assert_eq!(decided(&mut guard).len(), 3);
    guard.handle(Event::Lost { enforcer: EnforcerId(0), reason: "gone".to_owned() }, Moment(1600));
    let mut ask = |ticket, index| {
        let admission = admission(ticket, name(1), many_address(index), 0);
        guard.handle(Event::Admit(admission), Moment(1700));
        let outputs: Vec<_> = std::iter::from_fn(|| guard.poll_output()).collect();
        let hurried = |output: &Output| matches!(output, Output::Hurry(of) if *of == [many_address(index)]);
        assert!(outputs.iter().any(hurried), "{outputs:?}");
        let decided = |output: &Output| matches!(output, Output::Decide { .. });
        assert!(!outputs.iter().any(decided), "{outputs:?}");
    };
    ask(10, 1);
    ask(11, 2);
    // It comes with the whole table once there is a session, and somebody waits for it then.
    ask(12, 9);
    confirm(&mut guard, 2, 3);
    assert_eq!(decided(&mut guard), [(11, true)]);
    confirm(&mut guard, 9, 4);
    assert_eq!(decided(&mut guard), [(12, true)]);
    // What was confirmed once costs a later answer nothing, though the rest is still not.
    confirm(&mut guard, 1, 3);
    assert_eq!(decided(&mut guard), [(10, true)]);
    assert_eq!(guard.enforcers(Moment(1700))[0].installed, 3);
    assert_eq!(guard.counts().pending, 1);
}

/// What comes of a question for one address.
fn ask_for(guard: &mut Guard, ticket: u64, address: &str) -> Vec<Decision> {
    let admission = admission(ticket, name(1), address.parse().unwrap(), 60);
    guard.handle(Event::Admit(admission), Moment(1000));
    std::iter::from_fn(|| guard.poll_output())
        .filter_map(|output| match output {
            Output::Decide { decision, .. } => Some(decision),
            _ => None,
        })
        .collect()
}

#[test]
fn what_a_new_session_can_not_hold_is_not_in_force_however_much_it_acknowledges() {
    let edge = specs().into_iter().filter(|spec| spec.name == "edge1");
    let mut guard = Guard::new(settings(), edge.collect());
    let enforcer = EnforcerId(0);
    let (four, six) = ("203.0.113.4", "2001:db8::6");
    assert!(ask_for(&mut guard, 1, four).is_empty() && ask_for(&mut guard, 2, six).is_empty());
    let mut handles = Vec::new();
    guard.handle(Event::Applied { enforcer, generation: Generation(2) }, Moment(1000));
    while let Some(output) = guard.poll_output() {
        if let Output::Decide { decision: Decision::Release { leases, .. }, .. } = output {
            handles.extend(leases);
        }
    }
    let in_force =
        || handles.iter().map(|handle| handle.in_force_for(Moment(1000), Duration::ZERO)).collect::<Vec<_>>();
    assert_eq!(in_force(), [true, true]);
    for (ipv6, wanted) in [(false, [true, false]), (true, [true, true])] {
        guard.handle(Event::Lost { enforcer, reason: "gone".to_owned() }, Moment(1000));
        assert_eq!(in_force(), [false, false]);
        guard.handle(Event::Families { enforcer, ipv4: true, ipv6 }, Moment(1000));
        guard.handle(Event::Applied { enforcer, generation: Generation(2) }, Moment(1000));
        assert!(guard.poll_output().is_none());
        assert_eq!(in_force(), wanted, "cached answers follow");
        let asked_anew = ask_for(&mut guard, 3, six);
        assert_eq!(matches!(asked_anew.as_slice(), [Decision::Release { .. }]), ipv6, "{asked_anew:?}");
    }
}

#[test]
fn what_a_refused_plan_opened_is_opened_anew_when_it_was_closed_and_asked_for_before_the_refusal_came() {
    for which in ["nft", "edge1"] {
        let only = specs().into_iter().filter(|spec| spec.name == which);
        let mut guard = Guard::new(settings(), only.collect());
        let enforcer = EnforcerId(0);
        assert!(ask_for(&mut guard, 1, "203.0.113.4").is_empty());
        // One batch: the enforcer's words are on their way while the rest happens.
        let address = "203.0.113.4".parse().unwrap();
        guard.handle(changes::forbid(&guard, &[name(1)]), Moment(1000));
        let admission = admission(2, name(2), address, 60);
        guard.handle(Event::Admit(admission), Moment(1000));
        let (generation, reason) = (Generation(1), "no room".to_owned());
        let refused = match which {
            "nft" => Event::Refused { enforcer, generation, reason },
            _ => Event::RefusedAddress { enforcer, address, generation, reason },
        };
        guard.handle(refused, Moment(1000));
        guard.handle(Event::Applied { enforcer, generation }, Moment(1000));
        let (mut opened, mut refused) = (false, 0);
        while let Some(output) = guard.poll_output() {
            match output {
                Output::ApplyTimed { changes, generation } | Output::ApplyRoutes { changes, generation } => {
                    opened |= generation == Generation(2)
                        && matches!(changes.as_slice(), [Change::Open { address: other, .. }] if *other == address);
                }
                Output::Decide { ticket, decision } => {
                    assert!(ticket == Ticket(1) && matches!(decision, Decision::Refuse(_)), "{ticket:?}: {decision:?}");
                    refused += 1;
                }
                _ => {}
            }
        }
        assert!(opened && refused == 1, "{which}");
        guard.handle(Event::Applied { enforcer, generation: Generation(2) }, Moment(1000));
        assert_eq!(decided(&mut guard), [(2, true)], "{which}");
    }
}

#[test]
fn a_peer_without_ipv6_for_now_still_has_room_for_it() {
    let spare = specs().into_iter().filter(|spec| spec.name == "spare");
    let mut guard = Guard::new(settings(), spare.map(|spec| EnforcerSpec { max_addresses: 2, ..spec }).collect());
    guard.handle(Event::Families { enforcer: EnforcerId(0), ipv4: true, ipv6: false }, Moment(1000));
    for (ticket, address) in ["203.0.113.4", "2001:db8::6"].into_iter().enumerate() {
        let decided = ask_for(&mut guard, ticket as u64, address);
        assert!(matches!(decided.as_slice(), [Decision::Release { .. }]), "{decided:?}");
    }
    // Else its next session would begin with more than it takes.
    let decided = ask_for(&mut guard, 9, "2001:db8::7");
    assert!(matches!(decided.as_slice(), [Decision::Refuse(Refusal::RouteBudget { .. })]), "{decided:?}");
}

#[test]
fn other_times_and_limits_count_from_the_next_answer_on() {
    let (mut guard, _) = many(3, 1);
    let address = |index: u32| IpAddr::V4(std::net::Ipv4Addr::from_bits(0xc633_0000 + index));
    let before = guard.table.get(address(1)).unwrap().ends();
    let Settings { lease, gate, .. } = settings();
    let lease = LeaseSettings { min: Span::secs(100), grace: Span::secs(40), capacity: 2, ..lease };
    guard.handle(changes::settings(lease, gate), Moment(2000));
    assert_eq!((guard.table.len(), guard.counts().capacity), (3, 2), "what is there stays");
    let mut ask = |ticket: u64, index: u32| {
        let question: Name = format!("n{index}.test").parse().unwrap();
        let admission = admission(ticket, question, address(index), 0);
        guard.handle(Event::Admit(admission), Moment(2000));
        std::iter::from_fn(|| guard.poll_output())
            .any(|output| matches!(output, Output::Decide { decision: Decision::Refuse(Refusal::Capacity), .. }))
    };
    assert!(!ask(10, 2), "what is open already needs no room");
    assert!(ask(11, 7), "and nothing new fits");
    assert_eq!(guard.table.get(address(1)).unwrap().ends(), before);
    assert_eq!(guard.table.get(address(2)).unwrap().ends(), Moment(2000).plus(Duration::from_secs(140)));
    guard.table.check_consistency();
}

#[test]
fn what_was_restored_ends_earlier_once_the_clock_is_set_right_and_what_was_asked_for_since_does_not() {
    let nft = specs().into_iter().take(1).collect();
    let mut guard = Guard::new(settings(), nft);
    let seconds = |seconds| Moment(1000).plus(Duration::from_secs(seconds));
    let address = |last: u8| IpAddr::from([198, 51, 100, last]);
    let stored = |last: u8| StoredLease {
        address: address(last),
        ends: seconds(100),
        paths: smallvec::smallvec![QueryPath { question: name(last), chain: Arc::default(), ends: seconds(100) }],
        adds: false,
        groups: Vec::new(),
    };
    guard.handle(Event::Restore(vec![stored(1), stored(2), stored(3)]), Moment(1000));
    let ask = |guard: &mut Guard, last: u8, ttl| {
        let admission = admission(u64::from(last), name(last), address(last), ttl);
        guard.handle(Event::Admit(admission), Moment(1000));
        while guard.poll_output().is_some() {}
    };
    // Till after 70 s; and till after 130 s.
    ask(&mut guard, 2, 60);
    ask(&mut guard, 3, 120);
    let ends = |guard: &Guard, last: u8| guard.table.get(address(last)).map(|lease| lease.ends());
    let all = |guard: &Guard| [1, 2, 3].map(|last| ends(guard, last));
    assert_eq!(all(&guard), [100, 100, 130].map(|at| Some(seconds(at))));
    guard.handle(Event::RestoredEarlier(Duration::from_secs(60)), Moment(1000));
    assert_eq!(all(&guard), [40, 70, 130].map(|at| Some(seconds(at))));
    let told = std::iter::from_fn(|| guard.poll_output());
    let told: BTreeSet<IpAddr> = told
        .filter_map(|output| if let Output::Journal(lease) = output { Some(lease.address) } else { None })
        .collect();
    assert_eq!(told, BTreeSet::from([address(1), address(2)]), "on disk they end earlier as well");
    guard.handle(Event::RestoredEarlier(Duration::from_secs(3600)), Moment(1000));
    guard.handle_timeout(Moment(1000));
    while guard.poll_output().is_some() {}
    assert_eq!(all(&guard), [None, Some(seconds(70)), Some(seconds(130))], "what is over is closed");
    guard.table.check_consistency();
}

#[test]
fn what_a_shorter_longest_lease_cuts_at_the_start_is_cut_on_disk_as_well() {
    let mut settings = settings();
    settings.lease.max = Span::secs(60);
    let mut guard = Guard::new(settings, specs().into_iter().take(1).collect());
    let seconds = |seconds| Moment(1000).plus(Duration::from_secs(seconds));
    let stored = |last: u8, ends| StoredLease {
        address: IpAddr::from([198, 51, 100, last]),
        ends: seconds(ends),
        paths: smallvec::smallvec![QueryPath { question: name(last), chain: Arc::default(), ends: seconds(ends) }],
        adds: false,
        groups: Vec::new(),
    };
    guard.handle(Event::Restore(vec![stored(1, 100), stored(2, 50)]), Moment(1000));
    let outputs = std::iter::from_fn(|| guard.poll_output());
    let written: Vec<StoredLease> =
        outputs.filter_map(|output| if let Output::Journal(lease) = output { Some(lease) } else { None }).collect();
    assert_eq!(written.len(), 1, "what is as it was needs no record");
    assert!(!written[0].adds);
    assert_eq!((written[0].ends, written[0].paths[0].ends), (seconds(60), seconds(60)));
}

#[test]
fn a_word_on_an_earlier_plan_brings_back_no_end_that_was_taken_back_since() {
    let mut guard = Guard::new(settings(), specs().into_iter().take(1).collect());
    for (number, ttl) in [(1, 0), (2, 3600)] {
        let admission = admission(u64::from(number), name(number), IpAddr::from([198, 51, 100, 1]), ttl);
        guard.handle(Event::Admit(admission), Moment(1000));
    }
    let plans = std::iter::from_fn(|| guard.poll_output()).filter_map(|output| match output {
        Output::ApplyTimed { generation, .. } => Some(generation),
        _ => None,
    });
    let generation = plans.last().unwrap();
    // In one batch: the shorter end is not planned yet.
    guard.handle(changes::forbid(&guard, &[name(2)]), Moment(1000));
    guard.handle(Event::Applied { enforcer: EnforcerId(0), generation }, Moment(1000));
    let lease = guard.table.get(IpAddr::from([198, 51, 100, 1])).unwrap();
    let believed = lease.handle_of(None).ends();
    assert!(believed <= lease.ends(), "believed until {believed:?}, ends at {:?}", lease.ends());
}

#[test]
fn an_enforcer_that_has_not_reported_is_so_since_the_start_and_not_since_the_clock_began() {
    let month = Duration::from_secs(30 * 86_400);
    let mut guard = Guard::new(settings(), specs());
    let before = Moment::ZERO.plus(month);
    assert!(guard.enforcers(before).iter().all(|enforcer| enforcer.since_seconds == 0));
    guard.handle(Event::Restore(Vec::new()), before);
    let later = before.plus(Duration::from_secs(2));
    assert!(guard.enforcers(later).iter().all(|enforcer| enforcer.since_seconds == 2), "{:?}", guard.enforcers(later));
    guard.handle(Event::Applied { enforcer: EnforcerId(1), generation: Generation(0) }, later);
    assert_eq!(guard.enforcers(later.plus(Duration::from_secs(1)))[1].since_seconds, 1);
}

#[test]
fn a_closed_address_is_remembered_with_its_names_and_why_it_is_closed() {
    let (mut guard, _) = many(3, 3);
    let opened: Vec<IpAddr> = guard.stored().map(|lease| lease.address).collect();
    guard.handle(Event::Revoke(RevokeTarget::Address(opened[0])), Moment(2000));
    guard.handle(changes::forbid(&guard, &["n1.test".parse().unwrap()]), Moment(2000));
    let end = Moment(2000).plus(Duration::from_secs(1000));
    guard.handle_timeout(end);
    while guard.poll_output().is_some() {}
    for (address, how, seconds_ago) in
        [(opened[0], "revoked", 1000), (opened[1], "the rules forbid it", 1000), (opened[2], "its lease ended", 0)]
    {
        let known = guard.known(address, end);
        assert_eq!(known.lease, None);
        let ended = known.ended.unwrap();
        assert_eq!((ended.how, ended.seconds_ago), (how, seconds_ago), "{address}");
        assert_eq!(known.causes, ended.causes);
        assert_eq!(guard.ended_of_name(&ended.causes[0].0, 9, end).len(), 1);
    }
    assert_eq!(guard.known(IpAddr::from([203, 0, 113, 1]), end), Default::default());
}

#[test]
fn what_a_router_lost_is_out_of_force_until_that_router_confirms_it_again() {
    let edges = specs().into_iter().filter(|spec| spec.name.starts_with("edge"));
    let mut guard = Guard::new(settings(), edges.collect());
    let admit = |guard: &mut Guard, ticket: u64, at| {
        let admission = admission(ticket, name(1), many_address(0), 60);
        guard.handle(Event::Admit(admission), Moment(at));
    };
    let (one, two) = (EnforcerId(0), EnforcerId(1));
    admit(&mut guard, 1, 1000);
    assert_eq!(decided(&mut guard), []);
    guard.handle(Event::Applied { enforcer: one, generation: Generation(1) }, Moment(1000));
    guard.handle(Event::Applied { enforcer: two, generation: Generation(1) }, Moment(1000));
    let released: Vec<_> = std::iter::from_fn(|| guard.poll_output()).collect();
    let [Output::Decide { decision: Decision::Release { leases, .. }, .. }] = &released[..] else {
        panic!("{released:?}")
    };
    let handle = leases[0].clone();

    let missing = vec![many_address(0), many_address(7)];
    let missing = |generation| Event::MissingRoutes { enforcer: one, addresses: missing.clone(), generation };
    guard.handle(missing(Generation(0)), Moment(2000));
    assert!(handle.in_force_for(Moment(2000), Duration::ZERO), "opened since");
    guard.handle(missing(Generation(1)), Moment(2000));
    assert!(!handle.in_force_for(Moment(2000), Duration::ZERO), "no cached answer leaves with it");
    admit(&mut guard, 2, 2000);
    assert_eq!(decided(&mut guard), [], "who asks again waits");
    // A plan as a whole says nothing of it, nor does the other router's word.
    guard.handle(Event::Applied { enforcer: one, generation: Generation(2) }, Moment(2001));
    guard.handle(Event::Confirmed { enforcer: two, addresses: vec![(many_address(0), Generation(2))] }, Moment(2001));
    assert_eq!(decided(&mut guard), []);
    assert!(!handle.in_force_for(Moment(2001), Duration::ZERO));
    guard.handle(Event::Confirmed { enforcer: one, addresses: vec![(many_address(0), Generation(1))] }, Moment(2002));
    assert_eq!(decided(&mut guard), [(2, true)]);
    assert!(handle.in_force_for(Moment(2002), Duration::ZERO));
}

#[test]
fn what_an_enforcer_lacks_is_out_of_force_until_it_is_opened_again() {
    let nft = specs().into_iter().filter(|spec| spec.name == "nft");
    let mut guard = Guard::new(settings(), nft.collect());
    let outputs = |guard: &mut Guard| -> Vec<Output> { std::iter::from_fn(|| guard.poll_output()).collect() };
    let admit = |guard: &mut Guard, ticket: u64, at| {
        let admission = admission(ticket, name(1), many_address(0), 61 - u32::try_from(ticket).unwrap());
        guard.handle(Event::Admit(admission), Moment(at));
    };
    let id = EnforcerId(0);
    guard.handle(Event::WantSync { enforcer: id }, Moment(1000));
    assert!(matches!(outputs(&mut guard)[..], [Output::Sync { generation: Generation(1), .. }]));
    guard.handle(Event::Applied { enforcer: id, generation: Generation(1) }, Moment(1000));
    admit(&mut guard, 1, 1000);
    outputs(&mut guard);
    guard.handle(Event::Applied { enforcer: id, generation: Generation(2) }, Moment(1000));
    let released = outputs(&mut guard);
    let [Output::Decide { decision: Decision::Release { leases, .. }, .. }] = &released[..] else {
        panic!("{released:?}")
    };
    let handle = leases[0].clone();
    assert!(handle.in_force_for(Moment(1000), Duration::ZERO));

    let what = "1 element was missing".to_owned();
    guard.handle(Event::Repaired { enforcer: id, kind: "missing", count: 1, what }, Moment(2000));
    let missing = |addresses| Event::Missing { enforcer: id, addresses, pairs: Vec::new() };
    guard.handle(missing(vec![many_address(0), many_address(7)]), Moment(2000));
    assert!(!handle.in_force_for(Moment(2000), Duration::ZERO), "no cached answer leaves with it");
    let planned = outputs(&mut guard);
    let [Output::ApplyTimed { generation: Generation(3), changes }] = &planned[..] else { panic!("{planned:?}") };
    assert_eq!(changes[..], [Change::Open { address: many_address(0), ends: Moment(71_000) }]);
    // Who asks again waits for that plan, also where the end stays the same.
    admit(&mut guard, 2, 1000);
    assert_eq!(decided(&mut guard), []);
    guard.handle(Event::Applied { enforcer: id, generation: Generation(3) }, Moment(2001));
    assert_eq!(decided(&mut guard), [(2, true)]);
    assert!(handle.in_force_for(Moment(2001), Duration::ZERO));
    let view = &guard.enforcers(Moment(5000))[0];
    assert_eq!(view.last_error.as_deref(), Some("1 element was missing (3 s ago)"));
    assert_eq!(view.repairs.get("missing"), Some(&1));
    assert_eq!(guard.enforcers(Moment(5_000_000))[0].last_error, None, "not for ever");
}

#[test]
fn one_client_with_one_domain_of_long_ttls_leaves_room_for_everybody_else() {
    let mut settings = settings();
    (settings.lease.capacity, settings.lease.per_answer) = (2000, 16);
    let mut guard = Guard::new(settings, Vec::new());
    let mut ticket = 0;
    let mut ask = |guard: &mut Guard, client: [u8; 4], domain: &str, number: u32| {
        ticket += 1;
        guard.handle(
            Event::Admit(Admission {
                judged: 0,
                openings: Default::default(),
                ticket: Ticket(ticket),
                client: client.into(),
                mark: None,
                question: format!("n{number}.{domain}").parse().unwrap(),
                qtype: 1,
                chain: Arc::default(),
                domain: domain.parse().unwrap(),
                grants: [Grant { address: many_address(number), ttl: 86_400 }].into(),
                whole: false,
            }),
            Moment(1000),
        );
        decided(guard) == [(ticket, true)]
    };
    let greedy: Vec<bool> = (0..2000).map(|number| ask(&mut guard, [192, 0, 2, 1], "greedy.test", number)).collect();
    assert_eq!(greedy.iter().filter(|opened| **opened).count(), 1000, "a half");
    // Another domain helps the client as little as another client helps the domain.
    assert!(
        !ask(&mut guard, [192, 0, 2, 1], "other.test", 3000) && !ask(&mut guard, [192, 0, 2, 2], "greedy.test", 3001)
    );
    let honest = (0..300).filter(|number| ask(&mut guard, [192, 0, 2, 3], &format!("d{number}.test"), 4000 + number));
    assert_eq!(honest.count(), 300);
    guard.table.check_consistency();
    // What it took beyond half of its share ends soon; nobody else's does.
    guard.handle_timeout(Moment(1000 + 41_000));
    let left = |guard: &Guard, first: u32, last: u32| {
        (first..last).filter(|number| guard.table.get(many_address(*number)).is_some()).count()
    };
    assert!((600..700).contains(&left(&guard, 0, 2000)), "{}", left(&guard, 0, 2000));
    assert_eq!(left(&guard, 4000, 4300), 300);
    guard.table.check_consistency();
}
