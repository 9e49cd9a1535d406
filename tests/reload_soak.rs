//! Every key is changed while clients ask: none of them notices. `lab/reload-soak` does the same more often.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::time::Duration;

use destguard::config::Config;
use lab::reload_soak::keys::{KEYS, Trial};
use lab::reload_soak::{Plan, run};
use serde_json::Value;

#[path = "support/namespace.rs"]
#[allow(dead_code)]
mod namespace;

/// The keys of a table of the schema, those of tables in it with a dot between.
fn keys(schema: &Value, table: &Value, path: &str, out: &mut BTreeSet<String>) {
    let of = |name: &str| &schema["$defs"][name.trim_start_matches("#/$defs/")];
    for (key, property) in table["properties"].as_object().unwrap() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let below = [&property["$ref"], &property["items"]["$ref"]].into_iter().find_map(Value::as_str).map(of);
        match below.filter(|table| table["properties"].is_object()) {
            Some(table) => keys(schema, table, &path, out),
            None => drop(out.insert(path)),
        }
    }
}

#[test]
fn every_key_of_the_schema_is_tried_or_said_to_need_a_restart() {
    let schema = serde_json::to_value(schemars::schema_for!(Config)).unwrap();
    let mut all = BTreeSet::new();
    keys(&schema, &schema, "", &mut all);
    assert!(all.len() > 100, "{all:?}");
    let known: BTreeSet<String> = KEYS.iter().map(|key| key.key.to_owned()).collect();
    assert_eq!(known.len(), KEYS.len(), "a key stands there twice");
    let new: Vec<_> = all.difference(&known).collect();
    assert!(new.is_empty(), "lab/src/reload_soak/keys.rs says nothing of {new:?}");
    let gone: Vec<_> = known.difference(&all).collect();
    assert!(gone.is_empty(), "no such keys any more: {gone:?}");
    for key in KEYS {
        if let Trial::With(other) = key.trial {
            let tried = KEYS.iter().any(|key| key.key == other && !matches!(key.trial, Trial::With(_)));
            assert!(tried, "{}: {other} is not tried", key.key);
        }
    }
}

#[test]
fn a_key_that_waits_for_a_restart_is_named_in_the_docs() {
    let text = std::fs::read_to_string("docs/operation.md").unwrap();
    let section = text.split("## Change the configuration").nth(1).unwrap().split("\n## ").next().unwrap();
    let told = section.split("These need a restart").nth(1).unwrap();
    for key in KEYS.iter().filter(|key| matches!(key.trial, Trial::Waits(..))) {
        assert!(
            told.contains(&format!("`{}`", key.key)),
            "docs/operation.md doesn't say why {} needs a restart",
            key.key
        );
    }
}

#[test]
fn every_key_changes_under_load_and_no_client_notices() {
    let directory = tempfile::tempdir().unwrap();
    let plan = Plan {
        binary: env!("CARGO_BIN_EXE_destguard").into(),
        dir: directory.path().to_owned(),
        times: 2,
        rate: 500,
        // Longer than a busy machine looks away.
        deadline: Duration::from_secs(5),
        only: Vec::new(),
    };
    // An error can't leave the thread as it is.
    let outcome = namespace::alone(|| run(&plan).map_err(|error| error.to_string())).unwrap();
    outcome.print();
    assert_eq!(outcome.wrong(), Vec::<String>::new());
    assert!(outcome.asked > 1000 && outcome.over_tcp > 50, "{outcome:?}");
}
