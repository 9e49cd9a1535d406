//! Whether every crate of the workspace's tree may be shipped, where it is from, and which crates come in two versions.
//!
//! It judges by `deny.toml` as cargo-deny does, for `.ci/run`: building that tool would cost every run some minutes.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde::Deserialize;
use serde_json::Value;

use crate::error::Error;

/// What `deny.toml` allows; cargo-deny reads the same file.
#[derive(Debug, Deserialize)]
pub struct Rules {
    licenses: Licences,
    bans: Bans,
    sources: Sources,
}

#[derive(Debug, Deserialize)]
struct Licences {
    allow: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Bans {
    /// Crates that may come in two versions.
    skip: Vec<Skip>,
}

#[derive(Debug, Deserialize)]
struct Skip {
    #[serde(rename = "crate")]
    name: String,
}

#[derive(Debug, Deserialize)]
struct Sources {
    /// Addresses of registries' indexes.
    #[serde(rename = "allow-registry")]
    registries: Vec<String>,
}

/// What the tree holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Number of crates looked at.
    pub crates: usize,
    /// "name version: licence" of those that may not be shipped.
    pub refused: Vec<String>,
    /// "name version: source" of those that no registry of the rules has.
    pub foreign: Vec<String>,
    /// Crates in two versions that nobody accepted.
    pub duplicates: Vec<String>,
    /// Accepted duplicates that are none any more.
    pub outdated: Vec<String>,
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn good(&self) -> bool {
        self.refused.is_empty() && self.foreign.is_empty() && self.duplicates.is_empty() && self.outdated.is_empty()
    }
}

/// Asks cargo for the locked tree of the current directory's workspace, with all features, for Linux, and judges it.
/// `rules` is the text of `deny.toml`.
///
/// # Errors
/// [`Error::Command`] when cargo fails or `rules` has another shape, [`Error::System`].
pub fn check(rules: &str) -> Result<Report, Error> {
    let target = "x86_64-unknown-linux-gnu";
    let arguments = ["metadata", "--format-version", "1", "--locked", "--all-features", "--filter-platform", target];
    let output = Command::new("cargo").args(arguments).output().map_err(Error::system("cargo metadata"))?;
    let wrong = |reason: String| Error::Command {
        place: "host".to_owned(),
        command: format!("cargo {}", arguments.join(" ")),
        reason,
    };
    let rules: Rules = toml::from_str(rules).map_err(|error| wrong(format!("the rules for it: {error}")))?;
    if !output.status.success() {
        return Err(wrong(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    let metadata = serde_json::from_slice(&output.stdout).map_err(|error| wrong(error.to_string()))?;
    judge(&metadata, &rules).ok_or_else(|| wrong("its output has another shape than expected".to_owned()))
}

fn judge(metadata: &Value, rules: &Rules) -> Option<Report> {
    let nodes = metadata.get("resolve")?.get("nodes")?.as_array()?;
    let used: BTreeSet<&str> = nodes.iter().filter_map(|node| node.get("id")?.as_str()).collect();
    let mut report = Report::default();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in metadata.get("packages")?.as_array()? {
        if !used.contains(package.get("id")?.as_str()?) {
            continue;
        }
        let (name, version) = (package.get("name")?.as_str()?, package.get("version")?.as_str()?);
        let licence = package.get("license").and_then(Value::as_str).unwrap_or("none");
        report.crates += 1;
        versions.entry(name).or_default().insert(version);
        if !allowed(licence, &rules.licenses.allow) {
            report.refused.push(format!("{name} {version}: {licence}"));
        }
        // The workspace's own crates have no source.
        let source = package.get("source").and_then(Value::as_str);
        let known = |source: &str| {
            let registry = source.strip_prefix("registry+").unwrap_or_default();
            rules.sources.registries.iter().any(|one| one == registry)
        };
        if let Some(source) = source.filter(|source| !known(source)) {
            report.foreign.push(format!("{name} {version}: {source}"));
        }
    }
    let mut accepted: BTreeSet<&str> = rules.bans.skip.iter().map(|skip| skip.name.as_str()).collect();
    for (name, versions) in versions.iter().filter(|(_, versions)| versions.len() > 1) {
        if !accepted.remove(name) {
            let versions: Vec<&str> = versions.iter().copied().collect();
            report.duplicates.push(format!("{name} {}", versions.join(", ")));
        }
    }
    report.outdated = accepted.iter().map(|&name| name.to_owned()).collect();
    Some(report)
}

/// Evaluates an SPDX expression ("MIT OR (Apache-2.0 AND ISC)"); "/" is cargo's old OR. OR binds looser than AND.
fn allowed(expression: &str, licences: &[String]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    any_of(&mut rest, licences) == Some(true) && rest.is_empty()
}

/// `None`: not an expression.
fn any_of(words: &mut &[&str], licences: &[String]) -> Option<bool> {
    let mut holds = all_of(words, licences)?;
    while let ["OR", rest @ ..] = words {
        *words = rest;
        holds |= all_of(words, licences)?;
    }
    Some(holds)
}

fn all_of(words: &mut &[&str], licences: &[String]) -> Option<bool> {
    let mut holds = one(words, licences)?;
    while let ["AND", rest @ ..] = words {
        *words = rest;
        holds &= one(words, licences)?;
    }
    Some(holds)
}

fn one(words: &mut &[&str], licences: &[String]) -> Option<bool> {
    match words {
        ["(", rest @ ..] => {
            *words = rest;
            let holds = any_of(words, licences)?;
            let [")", rest @ ..] = words else { return None };
            *words = rest;
            Some(holds)
        }
        [licence, "WITH", exception, rest @ ..] => {
            let whole = format!("{licence} WITH {exception}");
            *words = rest;
            Some(licences.contains(&whole))
        }
        [licence, rest @ ..] => {
            let holds = licences.iter().any(|one| one == licence);
            *words = rest;
            Some(holds)
        }
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DENY: &str = include_str!("../../deny.toml");

    fn shipped() -> Rules {
        toml::from_str(DENY).unwrap()
    }

    #[test]
    fn expressions_are_judged_as_spdx_says() {
        let licences = shipped().licenses.allow;
        assert!(!licences.iter().any(|one| one.contains("GPL")), "{licences:?}");
        for good in [
            "MIT",
            "MIT/Apache-2.0",
            "GPL-3.0-only OR MIT",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR MPL-2.0",
            "MPL-2.0 AND MIT OR ISC",
        ] {
            assert!(allowed(good, &licences), "{good}");
        }
        for bad in
            ["GPL-3.0", "MIT AND GPL-3.0-only", "MPL-2.0", "none", "", "MIT OR", "(MIT", "MIT ISC", "LGPL-2.1 WITH x"]
        {
            assert!(!allowed(bad, &licences), "{bad}");
        }
    }

    #[test]
    fn duplicates_must_be_accepted_and_the_list_kept_short() {
        let metadata = serde_json::json!({
            "packages": [
                {"id": "a1", "name": "a", "version": "1.0.0", "license": "MIT", "source": null},
                {"id": "a2", "name": "a", "version": "2.0.0", "license": "GPL-2.0",
                    "source": "registry+https://github.com/rust-lang/crates.io-index"},
                {"id": "g1", "name": "g", "version": "1.0.0", "license": "MIT", "source": "git+https://forge.example/g"},
                {"id": "w1", "name": "unused", "version": "1.0.0", "license": "GPL-2.0"},
            ],
            "resolve": {"nodes": [{"id": "a1"}, {"id": "a2"}, {"id": "g1"}]},
        });
        let skipping = |name: &str| Rules { bans: Bans { skip: vec![Skip { name: name.to_owned() }] }, ..shipped() };
        let report = judge(&metadata, &skipping("b")).unwrap();
        assert_eq!(report.crates, 3);
        assert_eq!(report.refused, ["a 2.0.0: GPL-2.0"]);
        assert_eq!(report.foreign, ["g 1.0.0: git+https://forge.example/g"]);
        assert_eq!(report.duplicates, ["a 1.0.0, 2.0.0"]);
        assert_eq!(report.outdated, ["b"]);
        assert!(judge(&metadata, &skipping("a")).unwrap().duplicates.is_empty());
    }
}
