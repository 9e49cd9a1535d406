//! Modules use what stands before them in one order. What still runs the other way is listed: nothing may join it, and what is gone leaves the list.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Each may use those before it.
const ORDER: [&str; 16] = [
    "config",
    "core",
    "sys",
    "metrics",
    "recording",
    "store",
    "flows",
    "enforce",
    "core_task",
    "control",
    "dns",
    "check",
    "live",
    "daemon",
    "cli",
    "main",
];

/// What still uses a module behind its own: the file, and the module.
const BACKWARDS: [(&str, &str); 19] = [
    ("config/schema/group.rs", "core"),
    ("config/schema/list.rs", "core"),
    ("config/schema/rule.rs", "core"),
    ("config/upstream.rs", "core"),
    ("config/value.rs", "core"),
    ("control/access.rs", "dns"),
    ("control/access/token.rs", "dns"),
    ("control/api.rs", "daemon"),
    ("control/query_log/sinks/dnstap.rs", "dns"),
    ("control/sources.rs", "daemon"),
    ("daemon/exceptions.rs", "cli"),
    ("enforce/bgp.rs", "control"),
    ("enforce/bgp/confirmations.rs", "control"),
    ("enforce/bgp/service.rs", "control"),
    ("enforce/bgp/service.rs", "dns"),
    ("store/journal.rs", "core_task"),
    ("store/usage.rs", "control"),
    ("sys/confine/files.rs", "enforce"),
    ("sys/privileges.rs", "enforce"),
];

/// The program's own files, without tests.
fn sources(directory: &Path, all: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if name == "tests" {
            continue;
        }
        if path.is_dir() {
            sources(&path, all);
        } else if path.extension().is_some_and(|end| end == "rs") {
            all.push(path);
        }
    }
}

/// Modules of the crate that a file names, outside comments and its own tests.
fn used(text: &str) -> BTreeSet<String> {
    let code = text.split("\nmod tests {").next().unwrap_or_default();
    let lines = code.lines().map(|line| line.split("//").next().unwrap_or_default());
    let mut used = BTreeSet::new();
    for line in lines {
        for after in line.split("crate::").skip(1) {
            let end =
                after.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').unwrap_or(after.len());
            used.insert(after[..end].to_owned());
        }
    }
    used
}

#[test]
fn modules_use_what_stands_before_them() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&top, &mut files);
    let place: BTreeMap<&str, usize> = ORDER.iter().enumerate().map(|(place, name)| (*name, place)).collect();
    let (mut backwards, mut seen) = (BTreeSet::new(), 0);
    for file in files {
        let inside = file.strip_prefix(&top).unwrap().to_string_lossy().into_owned();
        let own = inside.split(['/', '.']).next().unwrap();
        if own == "lib" {
            continue;
        }
        let own_place = *place.get(own).unwrap_or_else(|| panic!("{own} has no place in the order"));
        for module in used(&std::fs::read_to_string(&file).unwrap()) {
            seen += 1;
            if place.get(module.as_str()).is_some_and(|place| *place > own_place) {
                backwards.insert((inside.clone(), module));
            }
        }
    }
    assert!(seen > 500, "{seen}: the files are read otherwise than they are written");
    let listed: BTreeSet<(String, String)> =
        BACKWARDS.iter().map(|(file, module)| ((*file).to_owned(), (*module).to_owned())).collect();
    let new: Vec<_> = backwards.difference(&listed).collect();
    assert!(new.is_empty(), "these use a module behind their own: {new:#?}");
    let gone: Vec<_> = listed.difference(&backwards).collect();
    assert!(gone.is_empty(), "these do no more, so that the list can be shorter: {gone:#?}");
}
