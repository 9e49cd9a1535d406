//! The real daemon under load for a while: what it holds stays bounded. `lab/soak` does the same for longer.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use lab::soak::{Plan, run};

#[path = "support/namespace.rs"]
#[allow(dead_code)]
mod namespace;

#[test]
fn memory_and_descriptors_stay_flat_under_load_with_a_lossy_upstream() {
    let directory = tempfile::tempdir().unwrap();
    let plan = Plan {
        binary: env!("CARGO_BIN_EXE_destguard").into(),
        dir: directory.path().to_owned(),
        length: Duration::from_secs(18),
    };
    // An error can't leave the thread as it is.
    let outcome = namespace::alone(|| run(&plan).map_err(|error| error.to_string())).unwrap();
    outcome.print();
    assert_eq!(outcome.growth(), Vec::<String>::new());
    assert!(outcome.asked > 1000 && outcome.over_tcp > 10 && outcome.dropped > 10, "{outcome:?}");
    // What the upstream lost was asked for again: a reply for nearly everybody.
    assert!(outcome.answered * 100 > outcome.asked * 95, "{outcome:?}");
    // One socket per slot of the pool, one per connection, and a few of the daemon's own.
    assert!(outcome.samples.iter().all(|sample| sample.descriptors < 600), "{outcome:?}");
}
