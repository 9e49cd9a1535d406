//! People and programs live behind the real daemon for four minutes, at six places side by side, and every connect is judged.
//! `lab/live` does the same for longer, with the default leases everywhere.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use lab::live::place::Place;
use lab::live::{Plan, run};

#[test]
fn minute_after_minute_every_connect_goes_as_the_client_was_told() {
    // The default leases on one host; elsewhere short ones, so that each is renewed, and ends, many times.
    let places = ["single", "single-short", "gateway-short", "gateway-client-short", "frr-short", "bird-short"];
    let plan = Plan {
        binary: env!("CARGO_BIN_EXE_destguard").into(),
        length: Duration::from_secs(235),
        places: places.iter().map(|name| Place::parse(name).unwrap()).collect(),
    };
    let outcome = run(&plan).unwrap();
    outcome.print();
    assert_eq!(outcome.wrong(), Vec::<String>::new());
}
