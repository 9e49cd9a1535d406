//! Reloads: what other rules forbid is closed with one turn, and nothing rests on former ones behind it.

use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;

use super::{settings, specs};
use crate::config::schema::Config;
use crate::core::address::AddressFilter;
use crate::core::event::{Admission, Change, Decision, Event, Forbidden, Grant, Output, Refusal, Reload, Ticket};
use crate::core::guard::{Guard, Settings};
use crate::core::judge::Judge;
use crate::core::moment::Moment;
use crate::core::narrow::{Narrow, Port};
use crate::core::policy::bound::Bound;
use crate::core::policy::view::Views;
use crate::core::policy::{ListFile, Table};

const GROUP: &str = "[[policy.private]]\ndomain = \".\"\nprefixes = [\"203.0.113.0/24\", \"64:ff9b::/96\"]\n\
                     [[policy.group]]\nname = \"g\"\nclients = [\"10.0.0.0/8\"]\n";

/// Rules of a configuration, and of one list where it has one.
fn judge(number: u64, text: &str, list: &str) -> Judge {
    let config: Config = toml::from_str(&format!("{text}{GROUP}")).unwrap();
    let lists = config.policy.list.iter().map(|one| {
        let (format, action) = (one.format, one.action);
        let file = ListFile { path: "list", format, action, content: list.as_bytes() };
        Arc::new(Table::from_list(&file).unwrap().0)
    });
    let lists: Vec<_> = lists.collect();
    let views = Views::new(&config, &lists).unwrap();
    let filter = AddressFilter::new(&config, &[]).unwrap();
    Judge::new(number, Arc::new(views), Arc::new(filter), Arc::new(Bound::new(&config)))
}

fn roomy() -> Settings {
    let mut settings = settings();
    settings.lease.capacity = 1000;
    settings.lease.max = crate::config::value::Span::secs(3600);
    settings
}

fn address(last: u8) -> IpAddr {
    IpAddr::from([203, 0, 113, last])
}

fn everybody() -> IpAddr {
    IpAddr::from([192, 0, 2, 1])
}

fn of_group() -> IpAddr {
    IpAddr::from([10, 0, 0, 1])
}

fn admission(ticket: u64, client: IpAddr, question: &str, address: IpAddr) -> Admission {
    Admission {
        judged: 0,
        openings: Default::default(),
        whole: false,
        ticket: Ticket(ticket),
        client,
        mark: None,
        question: question.parse().unwrap(),
        qtype: 1,
        chain: Arc::default(),
        domain: "test".parse().unwrap(),
        grants: [Grant { address, ttl: 600 }].into(),
    }
}

fn rules(judge: Judge) -> Event {
    Event::Reload(Box::new(Reload { judge: Some(judge), ..Reload::default() }))
}

/// Every output that waits, in order.
fn drained(guard: &mut Guard) -> Vec<Output> {
    std::iter::from_fn(|| guard.poll_output()).collect()
}

fn decided(outputs: &[Output]) -> Vec<(u64, bool)> {
    let decision = |output: &Output| match output {
        Output::Decide { ticket, decision } => Some((ticket.0, matches!(decision, Decision::Release { .. }))),
        _ => None,
    };
    outputs.iter().filter_map(decision).collect()
}

/// Takes the turns that it is due to have, all at this moment.
fn finish(guard: &mut Guard, now: Moment) -> usize {
    let mut turns = 0;
    while guard.is_reloading() {
        assert!(guard.poll_timeout().is_some_and(|due| due <= now), "it is due at once");
        guard.handle_timeout(now);
        turns += 1;
        assert!(turns < 10_000);
    }
    turns
}

fn open(guard: &Guard) -> Vec<IpAddr> {
    guard.stored().map(|lease| lease.address).collect()
}

/// What the last reload forbade.
fn forbidden(guard: &mut Guard) -> Forbidden {
    guard.take_reloaded().and_then(|reload| reload.forbidden).unwrap()
}

#[test]
fn new_rules_forbid_what_nobody_who_asked_may_ask() {
    let list = "@ SOA a. b. 1 1 1 1 1\ndata.test A 203.0.113.5\n32.7.113.0.203.rpz-ip CNAME .\n";
    let text = "[addresses]\nnat64 = \"64:ff9b::/96\"\n[policy]\ndeny = [\"=mixed.test\", \"=denied.test\"]\n\
                [[policy.list]]\npath = \"list\"\nformat = \"rpz\"\naction = \"deny\"\n";
    let new = judge(1, text, list);
    let behind_nat64: IpAddr = "64:ff9b::203.0.113.7".parse().unwrap();
    for single in [false, true] {
        let mut guard = Guard::new(roomy(), Vec::new());
        if single {
            guard = guard.for_single_clients();
        }
        for (client, question, to) in [
            (everybody(), "fine.test", address(1)),
            (everybody(), "denied.test", address(2)),
            (everybody(), "mixed.test", address(3)),
            (of_group(), "mixed.test", address(3)),
            (everybody(), "data.test", address(4)),
            (everybody(), "data.test", address(5)),
            (everybody(), "trap.test", address(7)),
            (everybody(), "trap.test", behind_nat64),
        ] {
            guard.handle(Event::Admit(admission(1, client, question, to)), Moment(1));
            assert_eq!(decided(&drained(&mut guard)), [(1, true)]);
        }
        guard.handle(rules(new.clone()), Moment(2));
        finish(&mut guard, Moment(2));
        let found = forbidden(&mut guard);
        assert_eq!(found.addresses, [address(4), address(7), behind_nat64]);
        let paths: Vec<_> = found.paths.iter().map(|path| (path.address, path.question.to_string())).collect();
        assert_eq!(paths, [(address(2), "denied.test".to_owned())], "a group may still ask for the mixed one");
        let pairs: Vec<_> = found.pairs.iter().map(|(id, names, _)| (*id, names[0].to_string())).collect();
        let of = |last, question: &str| ((address(last), Narrow::of_client(everybody())), question.to_owned());
        let denied = [of(2, "denied.test"), of(3, "mixed.test")];
        assert_eq!(pairs, if single { denied.to_vec() } else { Vec::new() }, "each client is judged by its own rules");
        assert_eq!(open(&guard), [address(1), address(3), address(5)]);
        let left = guard.pair_causes().map(|cause| cause.id.0).collect::<Vec<_>>();
        assert_eq!(left, if single { vec![address(1), address(3), address(5)] } else { Vec::new() });
    }
}

#[test]
fn an_answer_by_former_rules_is_judged_again_when_it_comes() {
    let mut guard = Guard::new(roomy(), Vec::new()).for_single_clients();
    guard.handle(rules(judge(7, "[policy]\nallow = [\"ports.test:443\"]\ndeny = [\"late.test\"]\n", "")), Moment(1));
    assert!(!guard.is_reloading(), "there is nothing to judge");
    for (ticket, question) in [(1, "www.late.test"), (2, "fine.test"), (3, "ports.test")] {
        let last = u8::try_from(ticket).unwrap();
        guard.handle(Event::Admit(admission(ticket, everybody(), question, address(last))), Moment(2));
    }
    // By the rules in force, as far as it says: nobody looks again.
    let known = Admission { judged: 7, ..admission(4, everybody(), "www.late.test", address(4)) };
    guard.handle(Event::Admit(known), Moment(2));
    assert_eq!(decided(&drained(&mut guard)), [(1, false), (2, true), (3, true), (4, true)]);
    assert_eq!(open(&guard), [address(2), address(3), address(4)]);
    let ports = guard.pair_causes().find(|cause| cause.id.0 == address(3)).unwrap().id.1.to;
    assert_eq!(ports.to_string(), "tcp/443", "what it opens is what the rules in force say");
}

#[test]
fn who_waits_is_refused_what_the_new_rules_deny() {
    let mut settings = roomy();
    settings.lease.new_per_client = crate::config::value::Rate { count: 10, per: std::time::Duration::from_secs(1) };
    settings.lease.burst_per_client = 2;
    let timed = specs().into_iter().filter(|spec| spec.name == "nft");
    let mut guard = Guard::new(settings, timed.collect());
    for (ticket, question) in [(1, "bad.test"), (2, "good.test"), (3, "bad.test")] {
        let last = u8::try_from(ticket).unwrap();
        guard.handle(Event::Admit(admission(ticket, everybody(), question, address(last))), Moment(1));
    }
    assert_eq!(decided(&drained(&mut guard)), [], "two wait for the enforcer, one for a token");
    guard.handle(rules(judge(1, "[policy]\ndeny = [\"bad.test\"]\n", "")), Moment(2));
    finish(&mut guard, Moment(2));
    let outputs = drained(&mut guard);
    assert_eq!(decided(&outputs), [(3, false), (1, false)]);
    let revoked = |output: &Output| match output {
        Output::Decide { decision, .. } => matches!(decision, Decision::Refuse(Refusal::Revoked)),
        _ => true,
    };
    assert!(outputs.iter().all(revoked), "{outputs:?}");
    assert_eq!(open(&guard), [address(2)]);
}

#[test]
fn ports_that_begin_with_a_reload_close_in_the_enforcers_what_was_open_as_a_whole() {
    let timed = specs().into_iter().filter(|spec| spec.name == "nft");
    let mut guard = Guard::new(roomy(), timed.collect());
    for (last, question) in [(1, "ports.test"), (2, "bad.test"), (3, "good.test")] {
        guard.handle(Event::Admit(admission(last.into(), everybody(), question, address(last))), Moment(1));
    }
    drained(&mut guard);
    let judge = Some(judge(1, "[policy]\nallow = [\"ports.test:443\"]\ndeny = [\"bad.test\"]\n", ""));
    guard.handle(Event::Reload(Box::new(Reload { judge, narrowly: true, ..Reload::default() })), Moment(2));
    finish(&mut guard, Moment(2));
    let plans = drained(&mut guard).into_iter().filter_map(|output| match output {
        Output::ApplyTimed { changes, .. } => Some(changes),
        _ => None,
    });
    let told = |change: &Change| match change {
        Change::Narrow { address, narrow, ends, .. } => (*address, narrow.to.to_string(), ends.is_some()),
        other => panic!("{other:?}"),
    };
    let told: Vec<_> = plans.flatten().map(|change| told(&change)).collect();
    let whole = Port::Any.to_string();
    let expected = [(address(1), whole.clone(), true), (address(2), whole.clone(), false), (address(3), whole, true)];
    assert_eq!(told, expected, "a group may open all of the first");
}

#[test]
fn a_long_table_is_judged_in_slices_and_closed_with_one_turn() {
    let mut guard = Guard::new(roomy(), Vec::new());
    for last in 0..200 {
        let question = if last % 2 == 0 { "good.test" } else { "bad.test" };
        guard.handle(Event::Admit(admission(1, everybody(), question, address(last))), Moment(1));
    }
    drained(&mut guard);
    let other = Reload {
        settings: Some((crate::config::schema::Lease { capacity: 77, ..roomy().lease }, roomy().gate)),
        judge: Some(judge(1, "[policy]\ndeny = [\"bad.test\"]\n", "")),
        ..Reload::default()
    };
    guard.handle(Event::Reload(Box::new(other)), Moment(2));
    let mut turns = 0;
    while guard.is_reloading() {
        assert_eq!((open(&guard).len(), guard.counts().capacity), (200, 1000), "nothing of it is in force yet");
        assert!(drained(&mut guard).is_empty());
        guard.handle_timeout(Moment(3));
        turns += 1;
    }
    assert_eq!((open(&guard).len(), guard.counts().capacity), (100, 77), "all of it is");
    assert!(turns > 40, "{turns}");
}

/// What happens while a reload is judged.
#[derive(Clone, Debug)]
enum Step {
    Admit { client: bool, name: u8, address: u8 },
    Slice,
    Revoke { address: u8 },
    Again,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (any::<bool>(), 0..3u8, 0..30u8).prop_map(|(client, name, address)| Step::Admit { client, name, address }),
        4 => Just(Step::Slice),
        1 => (0..30u8).prop_map(|address| Step::Revoke { address }),
        1 => Just(Step::Again),
    ]
}

proptest! {
    #[test]
    fn whatever_comes_meanwhile_nothing_forbidden_is_open_behind_the_turn(
        single: bool,
        before in prop::collection::vec((any::<bool>(), 0..3u8, 0..30u8), 0..60),
        steps in prop::collection::vec(step(), 0..60),
    ) {
        // One name is everybody's, one the group's alone, one nobody's.
        let text = "[policy]\ndeny = [\"n1.test\", \"n2.test\"]\n";
        let new = || {
            let group = GROUP.replace("name = \"g\"", "name = \"g\"\nallow = [\"n1.test\"]\ndeny = [\"n2.test\"]");
            let config: Config = toml::from_str(&format!("{text}{group}")).unwrap();
            let (views, filter) = (Views::new(&config, &[]).unwrap(), AddressFilter::new(&config, &[]).unwrap());
            Judge::new(1, Arc::new(views), Arc::new(filter), Arc::default())
        };
        let mut guard = Guard::new(roomy(), Vec::new());
        if single {
            guard = guard.for_single_clients();
        }
        let admit = |guard: &mut Guard, (client, name, last): (bool, u8, u8)| {
            let client = if client { of_group() } else { everybody() };
            guard.handle(Event::Admit(admission(1, client, &format!("n{name}.test"), address(last))), Moment(1));
            drained(guard);
        };
        before.into_iter().for_each(|one| admit(&mut guard, one));
        guard.handle(rules(new()), Moment(1));
        for step in steps {
            match step {
                Step::Admit { client, name, address } => admit(&mut guard, (client, name, address)),
                Step::Slice => guard.handle_timeout(Moment(1)),
                Step::Revoke { address: last } => {
                    guard.handle(Event::Revoke(crate::core::event::RevokeTarget::Address(address(last))), Moment(1));
                }
                Step::Again => guard.handle(rules(new()), Moment(1)),
            }
        }
        finish(&mut guard, Moment(1));
        drained(&mut guard);
        guard.table.check_consistency();
        for cause in guard.causes() {
            let asked_by_group = cause.clients.iter().any(|(client, _)| *client == of_group());
            match cause.question.to_string().as_str() {
                "n0.test" => {}
                "n1.test" => prop_assert!(asked_by_group, "{cause:?}"),
                _ => prop_assert!(false, "{cause:?}"),
            }
        }
        for cause in guard.pair_causes() {
            let of_group = cause.id.1.client() == Some(of_group());
            prop_assert!(
                cause.question.to_string() == "n0.test" || of_group && cause.question.to_string() == "n1.test",
                "{cause:?}"
            );
        }
    }
}
