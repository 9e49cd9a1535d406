//! The table of standards names only tests that exist.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

/// The text of every Rust file below a directory.
fn sources(directory: &Path, all: &mut String) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, all);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn every_test_that_the_table_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut code = String::new();
    for directory in ["src", "bgp/src", "tests"] {
        sources(&root.join(directory), &mut code);
    }
    let text = std::fs::read_to_string(root.join("docs/bgp-standards.md")).unwrap();
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| RFC")).collect();
    assert!(rows.len() > 30, "{} rows", rows.len());
    let mut missing = Vec::new();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [rfc, _, state, tests] = cells[..] else { panic!("four cells: {row}") };
        let names: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty() || state.starts_with("no"), "RFC {rfc} has no test");
        missing.extend(names.into_iter().filter(|name| !code.contains(&format!("fn {name}("))));
    }
    assert!(missing.is_empty(), "there is no test of this name: {missing:?}");
}
