//! Changes of a running guard: tried, applied as far as they can be, taken back.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(60);

struct Guard {
    directory: tempfile::TempDir,
    process: Child,
}

impl Guard {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let guard = |directory: &tempfile::TempDir| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_destguard"));
            command.arg("--socket").arg(directory.path().join("control"));
            command.arg("--config").arg(directory.path().join("destguard.toml"));
            command
        };
        write(&directory, "60s", "127.0.0.1:0", "");
        let process = guard(&directory).arg("run").stderr(Stdio::null()).spawn().unwrap();
        let guard = Self { directory, process };
        eventually("it starts", || guard.run(&["peers"]).0);
        guard
    }

    fn write(&self, min: &str, listen: &str, more: &str) {
        write(&self.directory, min, listen, more);
    }

    /// Whether it succeeded, and what it printed.
    fn run(&self, arguments: &[&str]) -> (bool, String) {
        let path = |name: &str| -> PathBuf { self.directory.path().join(name) };
        let mut command = Command::new(env!("CARGO_BIN_EXE_destguard"));
        command.arg("--socket").arg(path("control")).arg("--config").arg(path("destguard.toml"));
        let output = command.args(arguments).output().unwrap();
        (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let (done, text) = self.run(&[arguments, &["--json"]].concat());
        assert!(done, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    /// What the file would change of what is in force.
    fn differs(&self) -> Vec<String> {
        texts(&self.json(&["reload", "--dry-run"])["changes"])
    }

    fn warnings(&self) -> String {
        texts(&self.json(&["status"])["warnings"]).join("\n")
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < DEADLINE, "{what}: never");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn write(directory: &tempfile::TempDir, min: &str, listen: &str, more: &str) {
    let text = format!(
        "[dns]\nlisten = [\"{listen}\"]\n[[dns.upstream]]\nurl = \"udp://127.0.0.1:9\"\n[lease]\nmin = \"{min}\"\n\
         [state]\ndir = \"state\"\n[addresses]\ninside = []\n\
         [bgp]\nasn = 64512\nrouter_id = \"192.0.2.2\"\nnext_hop_ipv4 = \"192.0.2.1\"\nlisten = [\"127.0.0.1:0\"]\n\
         [[bgp.peer]]\nname = \"edge1\"\naddress = \"127.0.0.77\"\nasn = 64513\npassive = true\nfamilies = [\"ipv4\"]\n{more}"
    );
    std::fs::write(directory.path().join("destguard.toml"), text).unwrap();
}

const CHANGE: &str = "lease.min: \"1m\" -> \"70s\"";

#[test]
fn one_key_that_needs_a_restart_keeps_no_other_from_being_applied() {
    let guard = Guard::start();
    guard.write("70s", "127.0.0.2:0", "");
    let tried = guard.json(&["reload", "--dry-run"]);
    assert_eq!((tried["applied"].as_bool(), tried["dry_run"].as_bool()), (Some(false), Some(true)));
    assert_eq!(texts(&tried["changes"]), [CHANGE]);
    assert_eq!(guard.differs(), [CHANGE], "nothing was applied by that");
    let applied = guard.json(&["reload"]);
    assert_eq!(applied["applied"], true);
    assert_eq!(texts(&applied["changes"]), [CHANGE]);
    assert_eq!(texts(&applied["needs_restart"]), ["dns.listen[0]: \"127.0.0.1:0\" -> \"127.0.0.2:0\""]);
    assert!(guard.differs().is_empty());
    assert!(guard.warnings().contains("dns.listen[0]"), "{}", guard.warnings());
    let (done, text) = guard.run(&["reload"]);
    assert!(
        done && text.contains("nothing differs") && text.contains("need a restart") && text.contains("dns.listen"),
        "{text}"
    );
    guard.write("70s", "127.0.0.1:0", "");
    guard.json(&["reload"]);
    assert!(!guard.warnings().contains("dns.listen"), "{}", guard.warnings());
    // A file with an error changes nothing.
    guard.write("80s", "127.0.0.1:0", "[policy]\ndeny = [\"a..b\"]\n");
    let (done, text) = guard.run(&["reload"]);
    assert!(!done && text.contains("a..b"), "{text}");
    guard.write("70s", "127.0.0.1:0", "");
    assert!(guard.differs().is_empty());
}

#[test]
fn a_change_is_undone_and_done_again() {
    let guard = Guard::start();
    let (done, text) = guard.run(&["undo"]);
    assert!(!done && text.contains("nothing was changed since the start"), "{text}");
    guard.write("70s", "127.0.0.1:0", "");
    guard.json(&["reload"]);
    let undone = guard.json(&["undo"]);
    assert_eq!(texts(&undone["changes"]), ["lease.min: \"70s\" -> \"1m\""]);
    assert_eq!(guard.differs(), [CHANGE]);
    assert!(guard.warnings().contains("lease.min"), "{}", guard.warnings());
    assert_eq!(texts(&guard.json(&["undo"])["changes"]), [CHANGE]);
    assert!(guard.differs().is_empty());
}

#[test]
fn what_nobody_confirms_goes_back_by_itself() {
    let guard = Guard::start();
    guard.write("70s", "127.0.0.1:0", "");
    let tried = guard.json(&["reload", "--confirm", "1s"]);
    assert_eq!((tried["applied"].as_bool(), tried["goes_back_in_seconds"].as_u64()), (Some(true), Some(1)));
    eventually("it goes back", || guard.differs() == [CHANGE]);
    assert!(!guard.run(&["confirm"]).0, "too late");
    guard.json(&["reload", "--confirm", "1h"]);
    assert!(guard.warnings().contains("on trial"), "{}", guard.warnings());
    assert!(guard.run(&["confirm"]).0);
    assert!(!guard.warnings().contains("on trial"), "{}", guard.warnings());
    assert!(guard.differs().is_empty());
    assert!(!guard.run(&["confirm"]).0, "once");
}
