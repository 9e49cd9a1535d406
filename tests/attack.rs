//! Hostile clients beside honest ones, each with addresses of its own on one bridge: the honest lose nothing. `lab/attack` does the same for longer,
//! and measures.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use lab::attack::{Kind, Plan, Result, run};

#[path = "support/namespace.rs"]
#[allow(dead_code)]
mod namespace;

/// Runs these attacks for so many seconds each.
fn attacked(seconds: u64, kinds: &[Kind]) {
    let directory = tempfile::tempdir().unwrap();
    let plan = Plan {
        binary: env!("CARGO_BIN_EXE_destguard").into(),
        dir: directory.path().to_owned(),
        length: Duration::from_secs(seconds),
        kinds: kinds.to_vec(),
    };
    // An error can't leave the thread as it is.
    let outcome = namespace::alone(|| run(&plan).map_err(|error| error.to_string())).unwrap();
    Result::print_head();
    outcome.results.iter().for_each(Result::print);
    let lost: Vec<String> = outcome.results.iter().flat_map(Result::losses).collect();
    assert_eq!(lost, Vec::<String>::new());
}

#[test]
fn one_client_with_one_domain_leaves_leases_and_pairs_to_others() {
    attacked(5, &[Kind::Leases, Kind::Pairs]);
}

#[test]
fn names_of_a_silent_domain_leave_places_to_others() {
    attacked(8, &[Kind::Silent]);
}

#[test]
fn one_host_with_hundreds_of_addresses_leaves_connections_to_others() {
    attacked(6, &[Kind::Connections, Kind::Handshakes, Kind::Slow]);
}

#[test]
fn the_hosts_of_one_64_are_many_clients() {
    attacked(8, &[Kind::Lan]);
}
