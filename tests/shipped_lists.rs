//! Filter lists as a package ships them: each is read whole, and denies exactly what its plain rules say. The oracle reads those in its own way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use destguard::config::schema::{Action, Config, ListFormat};
use destguard::core::name::Name;
use destguard::core::policy::{ListFile, Policy};

/// Files that hold lists, of the Debian package.
fn lists() -> Vec<PathBuf> {
    let output = Command::new("dpkg").args(["-L", "webext-ublock-origin-firefox"]).output().unwrap();
    let files = String::from_utf8(output.stdout).unwrap();
    let is_list = |path: &&str| path.contains("/assets/") && path.ends_with(".txt");
    let lists: Vec<PathBuf> = files.lines().filter(is_list).map(PathBuf::from).collect();
    assert!(lists.len() >= 5, "{lists:?}: tests/run installs the package");
    lists
}

/// What the rules of a list say that are about whole names and nothing else.
#[derive(Default)]
struct Oracle {
    denied: HashSet<String>,
    exempt: HashSet<String>,
}

impl Oracle {
    fn read(content: &str) -> Self {
        let mut oracle = Self::default();
        for line in content.lines() {
            let (into, rule) = match line.strip_prefix("@@||") {
                Some(rule) => (&mut oracle.exempt, rule),
                None => match line.strip_prefix("||") {
                    Some(rule) => (&mut oracle.denied, rule),
                    // A host's name alone.
                    None => (&mut oracle.denied, line),
                },
            };
            let bare = !line.contains("||");
            let end = rule.find(|c: char| !c.is_ascii_alphanumeric() && !"-._".contains(c)).unwrap_or(rule.len());
            let (name, rest) = rule.split_at(end);
            let last = name.rsplit('.').next().unwrap_or_default();
            let well_formed = name.contains('.')
                && name.split('.').all(|label| {
                    !label.is_empty() && label.len() < 64 && !label.starts_with(['-', '_']) && !label.ends_with('-')
                })
                && last.chars().any(|c| c.is_ascii_alphabetic());
            let whole = if bare { rest.is_empty() } else { matches!(rest, "^" | "^$all" | "^$important" | "^|") };
            if well_formed && whole {
                into.insert(name.to_ascii_lowercase());
            }
        }
        oracle
    }

    /// The longest rule that covers a name counts; of the same length, the exemption.
    fn denies(&self, name: &str) -> bool {
        let mut rest = name;
        loop {
            if self.exempt.contains(rest) {
                return false;
            }
            if self.denied.contains(rest) {
                return true;
            }
            match rest.split_once('.') {
                Some((_, above)) => rest = above,
                None => return false,
            }
        }
    }
}

fn policy(path: &Path, content: &str) -> Policy {
    let path = path.display().to_string();
    let file = ListFile { path: &path, format: ListFormat::Adblock, action: Action::Deny, content: content.as_bytes() };
    let (policy, reports) = Policy::with_lists(&Config::default(), &[file]).unwrap();
    let [report] = reports.try_into().unwrap();
    assert_eq!(report.wrong, 0, "{path}: {:?}", report.errors);
    policy
}

#[test]
fn lists_that_packages_ship_deny_what_their_plain_rules_say() {
    let mut rules = 0;
    for path in lists() {
        let content = std::fs::read_to_string(&path).unwrap();
        let (policy, oracle) = (policy(&path, &content), Oracle::read(&content));
        rules += oracle.denied.len();
        // Every name that a rule is made of, names below and above it, and every host that stands anywhere in the list.
        let words =
            content.split(|c: char| !c.is_ascii_alphanumeric() && !"-._".contains(c)).filter(|word| word.contains('.'));
        let mut asked = 0;
        for word in words.map(str::to_ascii_lowercase).collect::<HashSet<_>>() {
            let above = word.split_once('.').map_or(word.clone(), |(_, above)| above.to_owned());
            for name in [word.clone(), format!("www.{word}"), format!("not{word}"), above] {
                let Ok(read) = name.parse::<Name>() else { continue };
                asked += 1;
                assert_eq!(policy.judge(&read).denies(), oracle.denies(&name), "{name} by {}", path.display());
            }
        }
        assert!(asked > 100, "{}: {asked} names", path.display());
        println!("{}: {} plain rules, {asked} names asked", path.display(), oracle.denied.len());
    }
    assert!(rules > 10_000, "{rules} plain rules in all");
}

#[test]
fn a_guard_takes_them_all_as_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let mut text = "nftables.mode = \"local\"\n[[dns.upstream]]\nurl = \"udp://192.0.2.53\"\n".to_owned();
    for path in lists() {
        text += &format!("[[policy.list]]\npath = \"{}\"\nformat = \"adblock\"\naction = \"deny\"\n", path.display());
    }
    let file = directory.path().join("destguard.toml");
    std::fs::write(&file, text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_destguard")).args(["check", "--config"]).arg(&file).output().unwrap();
    let words = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}");
}
