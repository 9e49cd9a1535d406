//! The guard is killed, stopped, starved and lied to while clients ask: no answer is unenforced, no lease lost, nothing open too long, no question
//! lost. `lab/faults` does the same for longer, and measures how long it takes to recover.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use lab::faults::{Plan, run};

#[test]
fn faults_cost_no_answer_no_lease_and_no_question() {
    let outcome = run(&Plan::quick(Path::new(env!("CARGO_BIN_EXE_destguard")))).unwrap();
    outcome.print();
    assert_eq!(outcome.wrong(), Vec::<String>::new());
    // Every fault was made.
    assert!(outcome.rows.iter().all(|row| row.times > 0 && row.answers > 0));
    assert_eq!(outcome.rows.len(), 27);
}
