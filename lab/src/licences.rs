//! Whether every crate of the workspace's tree may be shipped, and which crates come in two versions.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

use crate::error::Error;

/// Licences that ask for no more than a notice (or nothing).
const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// What the tree holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Number of crates looked at.
    pub crates: usize,
    /// "name version: licence" of those that may not be shipped.
    pub refused: Vec<String>,
    /// Crates in two versions that nobody accepted.
    pub duplicates: Vec<String>,
    /// Accepted duplicates that are none any more.
    pub outdated: Vec<String>,
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn good(&self) -> bool {
        self.refused.is_empty() && self.duplicates.is_empty() && self.outdated.is_empty()
    }
}

/// Asks cargo for the locked tree of the current directory's workspace, for Linux, and judges it. `accepted` holds a
/// crate name a line; `#` begins a comment.
///
/// # Errors
/// [`Error::Command`] when cargo fails, [`Error::System`].
pub fn check(accepted: &str) -> Result<Report, Error> {
    let arguments = ["metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"];
    let output = Command::new("cargo").args(arguments).output().map_err(Error::system("cargo metadata"))?;
    let wrong = |reason: String| Error::Command {
        place: "host".to_owned(),
        command: format!("cargo {}", arguments.join(" ")),
        reason,
    };
    if !output.status.success() {
        return Err(wrong(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    let metadata = serde_json::from_slice(&output.stdout).map_err(|error| wrong(error.to_string()))?;
    judge(&metadata, accepted).ok_or_else(|| wrong("its output has another shape than expected".to_owned()))
}

fn judge(metadata: &Value, accepted: &str) -> Option<Report> {
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
        if !allowed(licence) {
            report.refused.push(format!("{name} {version}: {licence}"));
        }
    }
    let lines = accepted.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let mut accepted: BTreeSet<&str> = lines.filter(|line| !line.is_empty()).collect();
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
fn allowed(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    any_of(&mut rest) == Some(true) && rest.is_empty()
}

/// `None`: not an expression.
fn any_of(words: &mut &[&str]) -> Option<bool> {
    let mut holds = all_of(words)?;
    while let ["OR", rest @ ..] = words {
        *words = rest;
        holds |= all_of(words)?;
    }
    Some(holds)
}

fn all_of(words: &mut &[&str]) -> Option<bool> {
    let mut holds = one(words)?;
    while let ["AND", rest @ ..] = words {
        *words = rest;
        holds &= one(words)?;
    }
    Some(holds)
}

fn one(words: &mut &[&str]) -> Option<bool> {
    match words {
        ["(", rest @ ..] => {
            *words = rest;
            let holds = any_of(words)?;
            let [")", rest @ ..] = words else { return None };
            *words = rest;
            Some(holds)
        }
        [licence, "WITH", exception, rest @ ..] => {
            let whole = format!("{licence} WITH {exception}");
            *words = rest;
            Some(ALLOWED.contains(&whole.as_str()))
        }
        [licence, rest @ ..] => {
            let holds = ALLOWED.contains(licence);
            *words = rest;
            Some(holds)
        }
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_judged_as_spdx_says() {
        for good in [
            "MIT",
            "MIT/Apache-2.0",
            "GPL-3.0-only OR MIT",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR MPL-2.0",
            "MPL-2.0 AND MIT OR ISC",
        ] {
            assert!(allowed(good), "{good}");
        }
        for bad in
            ["GPL-3.0", "MIT AND GPL-3.0-only", "MPL-2.0", "none", "", "MIT OR", "(MIT", "MIT ISC", "LGPL-2.1 WITH x"]
        {
            assert!(!allowed(bad), "{bad}");
        }
    }

    #[test]
    fn duplicates_must_be_accepted_and_the_list_kept_short() {
        let metadata = serde_json::json!({
            "packages": [
                {"id": "a1", "name": "a", "version": "1.0.0", "license": "MIT"},
                {"id": "a2", "name": "a", "version": "2.0.0", "license": "GPL-2.0"},
                {"id": "w1", "name": "unused", "version": "1.0.0", "license": "GPL-2.0"},
            ],
            "resolve": {"nodes": [{"id": "a1"}, {"id": "a2"}]},
        });
        let report = judge(&metadata, "b # not there\n").unwrap();
        assert_eq!(report.crates, 2);
        assert_eq!(report.refused, ["a 2.0.0: GPL-2.0"]);
        assert_eq!(report.duplicates, ["a 1.0.0, 2.0.0"]);
        assert_eq!(report.outdated, ["b"]);
        assert!(judge(&metadata, "a").unwrap().duplicates.is_empty());
    }
}
