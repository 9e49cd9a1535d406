//! A seeded simulation: the guard's core and real driver code over a simulated kernel, wires, upstreams and clients,
//! on a virtual clock. What is promised is
//! checked against the simulated world. `docs/architecture.md` says what is real in it.
//!
//! ```text
//! cargo test --test simulation                          # a few seeds
//! SEEDS=1000 cargo test --release --test simulation     # all of them; FIRST_SEED=N begins there
//! ```
//!
//! A seed that fails is printed, with the smallest plan that fails likewise. That plan, put into
//! `tests/simulation/found/NAME.json`, is a test from then on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use plan::{Client, Defect, Fault, Linux, Plan, What};
use promises::Promise;
use statistics::Seen;
use world::{history, run};

#[path = "simulation/daemon.rs"]
mod daemon;
#[path = "simulation/draw.rs"]
mod draw;
#[path = "simulation/host.rs"]
mod host;
#[path = "simulation/journal.rs"]
mod journal;
#[path = "simulation/kernel.rs"]
mod kernel;
#[path = "simulation/names.rs"]
mod names;
#[path = "simulation/nftables.rs"]
mod nftables;
#[path = "simulation/plan.rs"]
mod plan;
#[path = "simulation/promises.rs"]
mod promises;
#[path = "simulation/router.rs"]
mod router;
#[path = "simulation/routers.rs"]
mod routers;
#[path = "simulation/shrink.rs"]
mod shrink;
#[path = "simulation/statistics.rs"]
mod statistics;
#[path = "simulation/world.rs"]
mod world;

/// Seeds where nobody asks for more.
const SEEDS: u64 = 40;
/// Threads that simulate.
const THREADS: u64 = 2;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// What is told of a plan that breaks a promise.
fn report(plan: &Plan) -> Option<String> {
    let (violation, _) = run(plan).err()?;
    let (small, violation) = shrink::shrink(plan, &violation);
    let history = history(&small).join("\n  ");
    let json = serde_json::to_string_pretty(&small).unwrap();
    Some(format!("seed {}: {violation}\n  {history}\ntests/simulation/found/NAME.json:\n{json}\n", plan.seed))
}

#[test]
fn whatever_happens_in_an_hour_the_promises_hold() {
    let (first, seeds) = (number("FIRST_SEED", 0), number("SEEDS", SEEDS));
    let (next, wrong, total) = (AtomicU64::new(first), Mutex::new(Vec::new()), Mutex::new(Seen::default()));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds || wrong.lock().unwrap().len() > 2 {
                        break;
                    }
                    let plan = Plan::of(seed);
                    match run(&plan) {
                        Ok(seen) => total.lock().unwrap().add(&seen),
                        Err(_) => wrong.lock().unwrap().extend(report(&plan)),
                    }
                }
            });
        }
    });
    let hours = begun.elapsed().as_secs_f64() / 3600.0;
    println!("{seeds} seeds, {:.0} seeds an hour: {}", seeds as f64 / hours, total.into_inner().unwrap());
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_seed_gives_the_same_hour_each_time() {
    let once = run(&Plan { span: 900_000, ..Plan::of(7) }).expect("no promise is broken");
    let again = run(&Plan { span: 900_000, ..Plan::of(7) }).expect("no promise is broken");
    assert_eq!(once, again);
    assert!(once.released > 20 && once.connected > 50, "{once}");
}

#[test]
fn what_was_found_before_is_not_found_again() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/simulation/found");
    let paths = std::fs::read_dir(folder).expect("the folder").map(|entry| entry.unwrap().path());
    for path in paths.filter(|path| path.extension().is_some_and(|end| end == "json")) {
        let plan: Plan = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).expect("a plan");
        if let Err((violation, _)) = run(&plan) {
            panic!("{}: {violation}\n  {}", path.display(), history(&plan).join("\n  "));
        }
    }
}

/// A quarter of an hour in which little goes wrong by itself.
fn quiet(faults: Vec<Fault>, router: bool) -> Plan {
    Plan {
        span: 900_000,
        linux: Linux::V6_12,
        min: 5,
        grace: 10,
        max: 3_600,
        linger: 0,
        capacity: 100,
        names: 6,
        addresses: 12,
        router,
        second: false,
        apart: false,
        clients: (1..=3).map(|number| Client { number, pause: 6_000 }).collect(),
        faults,
        ..Plan::of(1)
    }
}

fn every(span: u64, what: impl Fn(u64) -> What) -> Vec<Fault> {
    (1..900_000 / span).map(|number| Fault { at: number * span, what: what(number) }).collect()
}

/// The plan holds as it is, and with the defect it breaks one of these promises, also when it has shrunk.
fn finds(plan: Plan, defect: Defect, promises: &[Promise]) {
    if let Err((violation, _)) = run(&plan) {
        panic!("without the defect: {violation}\n  {}", history(&plan).join("\n  "));
    }
    let plan = plan.with(defect);
    let (violation, _) = run(&plan).expect_err("the defect is not found");
    assert!(promises.contains(&violation.promise), "{violation}");
    let (small, shrunk) = shrink::shrink(&plan, &violation);
    println!("{defect:?}: {shrunk}, with {} clients and {} faults", small.clients.len(), small.faults.len());
    assert_eq!(shrunk.promise, violation.promise);
    assert!(small.span <= plan.span && small.clients.len() <= plan.clients.len());
}

#[test]
fn elements_that_are_added_again_with_an_equal_timeout_are_found_as_on_linux_6_12() {
    finds(
        quiet(Vec::new(), false),
        Defect::PlainAdds,
        &[Promise::EnforcedBeforeAnswered, Promise::InForceStaysInForce],
    );
}

#[test]
fn an_acknowledgement_before_it_is_in_force_is_found() {
    finds(quiet(Vec::new(), false), Defect::AckedEarly, &[Promise::EnforcedBeforeAnswered]);
}

#[test]
fn elements_that_end_earlier_by_the_grace_are_found() {
    finds(quiet(Vec::new(), false), Defect::TooShort, &[Promise::EnforcedBeforeAnswered, Promise::InForceStaysInForce]);
}

#[test]
fn a_record_that_is_lost_after_its_answer_left_is_found() {
    let kills = every(30_000, |_| What::Kill { down: 500, within: None });
    finds(quiet(kills, false), Defect::RecordLost, &[Promise::InForceStaysInForce]);
}

#[test]
fn a_withdrawal_that_overtakes_an_announcement_is_found() {
    let mut faults = every(1_500, |number| What::RevokeName { name: u8::try_from(number * 5 % 6).unwrap() });
    faults.insert(0, Fault { at: 0, what: What::SlowRouter { span: 850_000, by: 2_500 } });
    let clients = (1..=3).map(|number| Client { number, pause: 40_000 }).collect();
    let plan = Plan { clients, ..quiet(faults, true) };
    finds(plan, Defect::Overtaken, &[Promise::ClosedAfterTheLease, Promise::BeliefIsSo]);
}

#[test]
fn an_answer_by_former_rules_that_is_not_judged_again_is_found() {
    let faults = every(7_300, |number| What::Forbid { name: u8::try_from(number % 6).unwrap(), span: 20_000 });
    let clients = (1..=6).map(|number| Client { number, pause: 400 }).collect();
    finds(Plan { clients, ..quiet(faults, false) }, Defect::LateAsNew, &[Promise::NothingForbidden]);
}

#[test]
fn a_flush_that_lists_do_not_show_is_found() {
    let faults = vec![Fault { at: 300_000, what: What::Flushed }];
    let promises = [Promise::EnforcedBeforeAnswered, Promise::InForceStaysInForce, Promise::BeliefIsSo];
    finds(quiet(faults, false), Defect::BlindLists, &promises);
}

/// Reloads take each of two routers out in turn, behind a slow way.
fn rerouted(by: u64) -> Plan {
    let mut faults = every(40_000, |number| What::RouterTakenOut { place: usize::from(number % 2 == 0), span: 15_000 });
    faults.insert(0, Fault { at: 0, what: What::SlowRouter { span: 850_000, by } });
    let clients = (1..=3).map(|number| Client { number, pause: 400 }).collect();
    Plan { second: true, clients, ..quiet(faults, true) }
}

#[test]
fn a_router_that_is_waited_for_before_it_has_what_is_leased_is_found() {
    finds(rerouted(500), Defect::ThereAtOnce, &[Promise::EnforcedBeforeAnswered, Promise::InForceStaysInForce]);
}

#[test]
fn a_session_that_outlives_the_reload_that_ends_it_is_found() {
    finds(rerouted(0), Defect::LeftBehind, &[Promise::ClosedAfterTheLease]);
}

#[test]
fn ends_that_follow_the_wall_clock_alone_are_found() {
    let of = |number: u64| [3_600_000, -86_400_000][usize::try_from(number % 2).unwrap()];
    let kill = What::Kill { down: 500, within: None };
    let mut faults = every(50_000, |number| What::ClockStepped { by: of(number) });
    faults.iter_mut().for_each(|fault| fault.at += 100);
    faults.extend(faults.clone().iter().map(|fault| Fault { at: fault.at + 60, what: kill }));
    faults.sort_by_key(|fault| fault.at);
    finds(quiet(faults, false), Defect::WallAlone, &[Promise::InForceStaysInForce]);
}

#[test]
fn a_clock_that_is_set_right_after_a_boot_and_not_heeded_is_found() {
    let faults = vec![Fault { at: 300_000, what: What::Reboot { down: 200_000, behind: 190_000, kept: None } }];
    let clients = (1..=3).map(|number| Client { number, pause: 60_000 }).collect();
    let plan = Plan { min: 250, clients, ..quiet(faults, false) };
    finds(plan, Defect::ClockUnheeded, &[Promise::ClosedAfterTheLease]);
}

#[test]
fn what_is_leased_to_one_client_and_open_for_all_is_found() {
    let plan = Plan { apart: true, ..quiet(Vec::new(), false) };
    finds(plan, Defect::ForEverybody, &[Promise::ClosedAfterTheLease]);
}
