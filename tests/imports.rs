//! Imports run one way: modules use what stands before them in one order, files of one module make no circles, and what is pure
//! names no clock, no socket and no task.
//!
//! Clippy's `disallowed_types` can't say the last: its list is one for a package, drivers and tests included.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Each may use those before it.
const ORDER: [&str; 17] = [
    "config",
    "core",
    "sys",
    "metrics",
    "recording",
    "store",
    "flows",
    "tls",
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

/// A module by the words of its path: `["core", "guard", "admit"]`.
type Module = Vec<String>;

/// The program's own files without tests, by module.
fn sources(top: &Path) -> BTreeMap<Module, String> {
    fn files(directory: &Path, all: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.file_stem().unwrap() == "tests" {
                continue;
            }
            if path.is_dir() {
                files(&path, all);
            } else if path.extension().is_some_and(|end| end == "rs") {
                all.push(path);
            }
        }
    }
    let mut all = Vec::new();
    files(top, &mut all);
    let module = |path: PathBuf| {
        let inside = path.strip_prefix(top).unwrap().with_extension("");
        let words: Module = inside.iter().map(|word| word.to_str().unwrap().to_owned()).collect();
        (words != ["lib"]).then(|| (words, code(&std::fs::read_to_string(path).unwrap())))
    };
    all.into_iter().filter_map(module).collect()
}

/// What is compiled outside of tests, without comments.
fn code(text: &str) -> String {
    let text = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// Reads one path or tree of paths behind `before`; returns what follows it.
fn tree<'a>(before: &[String], text: &'a str, all: &mut Vec<Module>) -> &'a str {
    let end = text.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    let path = [before, &[word.to_owned()]].concat();
    let Some(behind) = rest.strip_prefix("::") else {
        all.push(path);
        return rest;
    };
    let Some(mut group) = behind.strip_prefix('{') else { return tree(&path, behind, all) };
    loop {
        group = group.trim_start_matches(|letter: char| letter.is_whitespace() || letter == ',');
        match group.chars().next() {
            None => return group,
            Some('}') => return &group[1..],
            Some(_) => {
                let rest = tree(&path, group, all);
                // What it is renamed to.
                group = rest.find([',', '}']).map_or("", |at| &rest[at..]);
            }
        }
    }
}

/// All paths of a file that begin in its own crate, from the crate's root.
fn paths(own: &Module, code: &str) -> Vec<Module> {
    let mut all = Vec::new();
    for first in ["crate", "super", "self"] {
        for (at, _) in code.match_indices(&format!("{first}::")) {
            let goes_on = |letter: char| letter.is_ascii_alphanumeric() || "_:$".contains(letter);
            if !code[..at].ends_with(goes_on) {
                tree(&[], &code[at..], &mut all);
            }
        }
    }
    let from_root = |path: Module| {
        let ups = path.iter().take_while(|word| *word == "super").count();
        let start = match path[0].as_str() {
            "crate" => return path[1..].to_vec(),
            "self" => own.clone(),
            // An own module within a file may be one deeper.
            _ => own[..own.len().saturating_sub(ups)].to_vec(),
        };
        start.into_iter().chain(path.into_iter().skip(ups.max(1))).collect()
    };
    all.into_iter().map(from_root).collect()
}

/// Which modules each module uses, none its own.
fn uses(sources: &BTreeMap<Module, String>) -> BTreeMap<Module, BTreeSet<Module>> {
    let known = |path: Module| {
        let longest = (1..=path.len()).rev().find(|length| sources.contains_key(&path[..*length]));
        longest.map(|length| path[..length].to_vec())
    };
    let of = |(own, code): (&Module, &String)| {
        let used = paths(own, code).into_iter().filter_map(known).filter(|used| used != own);
        (own.clone(), used.collect())
    };
    sources.iter().map(of).collect()
}

fn own() -> BTreeMap<Module, BTreeSet<Module>> {
    let all = uses(&sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")));
    let seen: usize = all.values().map(BTreeSet::len).sum();
    assert!(seen > 1000, "{seen}: the files are read otherwise than they are written");
    all
}

#[test]
fn modules_use_what_stands_before_them() {
    let place = |module: &Module| {
        let place = ORDER.iter().position(|name| *name == module[0]);
        place.unwrap_or_else(|| panic!("{} has no place in the order", module[0]))
    };
    let all = own();
    let pairs = all.iter().flat_map(|(user, used)| used.iter().map(move |used| (user, used)));
    let backwards: Vec<String> = pairs
        .filter(|(user, used)| place(used) > place(user))
        .map(|(user, used)| format!("{} uses {}", user.join("::"), used.join("::")))
        .collect();
    assert!(backwards.is_empty(), "these use a module behind their own: {backwards:#?}");
}

/// Groups of nodes each of which leads to all others.
fn circles(uses: &BTreeMap<String, BTreeSet<String>>) -> Vec<BTreeSet<String>> {
    let reached = |from: &String| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(node) = next.pop() {
            next.extend(uses.get(node).into_iter().flatten().filter(|used| seen.insert((*used).clone())));
        }
        seen
    };
    let reach: BTreeMap<&String, BTreeSet<String>> = uses.keys().map(|node| (node, reached(node))).collect();
    let circle = |(node, to): (&&String, &BTreeSet<String>)| {
        let both = |other: &&String| reach.get(other).is_some_and(|back| back.contains(*node));
        to.contains(*node).then(|| to.iter().filter(both).cloned().collect::<BTreeSet<_>>())
    };
    let all: BTreeSet<_> = reach.iter().filter_map(circle).collect();
    all.into_iter().collect()
}

#[test]
fn parts_of_a_module_make_no_circle() {
    let all = own();
    let mut found = BTreeSet::new();
    for top in ORDER {
        let mut parts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (user, used) in all.iter().filter(|(user, _)| user[0] == top && user.len() > 1) {
            let others = used.iter().filter(|used| used[0] == top && used.len() > 1 && used[1] != user[1]);
            parts.entry(user[1].clone()).or_default().extend(others.map(|used| used[1].clone()));
        }
        found.extend(circles(&parts).into_iter().map(|circle| (top.to_owned(), circle)));
    }
    assert!(found.is_empty(), "parts that use each other: {found:#?}");
}

/// What takes the time as an argument and leaves sockets, files and tasks to its drivers: where it lies, but for what drives it, and the
/// words that may not stand in it. Of the BGP crate's machines, `Instant` is what they are given and never what they ask.
const PURE: [(&str, &[&str], &[&str]); 2] = [
    (
        "src/core",
        &[],
        &["tokio", "Instant", "SystemTime", "std::fs", "std::thread", "std::env", "TcpStream", "UdpSocket", "tracing"],
    ),
    (
        "bgp/src",
        &["io"],
        &["tokio", "Instant::now", "SystemTime", "std::fs", "std::thread", "std::env", "TcpStream", "UdpSocket"],
    ),
];

/// Whether a word or path stands in code, as a whole.
fn names(code: &str, word: &str) -> bool {
    let joins = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    code.match_indices(word).any(|(at, _)| !code[..at].ends_with(joins) && !code[at + word.len()..].starts_with(joins))
}

#[test]
fn what_is_pure_names_no_clock_no_socket_and_no_task() {
    for (place, drivers, words) in PURE {
        let files = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(place));
        assert!(files.len() > 20, "{place}: {} files are too few", files.len());
        for (module, code) in files.iter().filter(|(module, _)| !drivers.contains(&module[0].as_str())) {
            let named: Vec<_> = words.iter().filter(|word| names(code, word)).collect();
            assert!(named.is_empty(), "{place}: {} names {named:?}", module.join("::"));
        }
    }
}

#[test]
fn paths_are_read_in_groups_and_from_where_they_stand() {
    let own: Module = ["core", "guard", "admit"].map(str::to_owned).to_vec();
    let code = "use crate::core::{event::{Admission, Refusal as Why}, gate::Needs, name};\nuse super::Guard;\n\
                let x = super::super::lease::Lease { a: self::b() };\nuse $crate::no;\nuse other::super_::no;\n";
    let mut read: Vec<String> = paths(&own, code).iter().map(|path| path.join("::")).collect();
    read.sort();
    let expected = [
        "core::event::Admission",
        "core::event::Refusal",
        "core::gate::Needs",
        "core::guard::Guard",
        "core::guard::admit::b",
        "core::lease::Lease",
        "core::name",
    ];
    assert_eq!(read, expected);
}

#[test]
fn circles_are_found() {
    let uses = |all: &[(&str, &[&str])]| {
        let words = |used: &[&str]| used.iter().map(|word| (*word).to_owned()).collect();
        all.iter().map(|(user, used)| ((*user).to_owned(), words(used))).collect::<BTreeMap<_, BTreeSet<_>>>()
    };
    assert_eq!(circles(&uses(&[("a", &["b", "c"]), ("b", &["c"])])), []);
    let found = circles(&uses(&[("a", &["b"]), ("b", &["c"]), ("c", &["b", "d"]), ("d", &["e"]), ("e", &["d"])]));
    assert_eq!(found, [BTreeSet::from(["b", "c"].map(str::to_owned)), BTreeSet::from(["d", "e"].map(str::to_owned))]);
}
