//! The whole daemon with a recording, in a namespace of its own: what it decided is decided again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lab::dns::server::many_v4;
use lab::dns::{self, Server};
use lab::{Lab, wait_until};

const BINARY: &str = env!("CARGO_BIN_EXE_destguard");
const CONFIG: &str = "/etc/destguard/destguard.toml";
const LONG: Duration = Duration::from_secs(60);

struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.0.kill().and_then(|()| self.0.wait()));
    }
}

fn recorded(more: &[&str], kill: bool) -> (String, String, bool) {
    let lab = Lab::builder("lab/single/single.clab.yml").destguard(BINARY).hold("laptop").up().unwrap();
    let dns = Server::start(lab.node("internet"), &["192.0.2.53:53".parse().unwrap()]).unwrap();
    dns.many_ttl(2);
    let laptop = lab.node("laptop");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("recording");
    let mut command = laptop.command(BINARY);
    command.args(["run", "--config", CONFIG, "--record"]).arg(&file).args(more);
    laptop.ok("mkdir -p /run/destguard /var/lib/destguard").unwrap();
    let mut daemon = Daemon(command.stderr(Stdio::piped()).spawn().unwrap());
    let ask = |words: &[&str]| laptop.command(BINARY).args(words).output().unwrap();
    assert!(wait_until(LONG, || ask(&["status"]).status.success()), "{:?}", daemon.0.try_wait());
    let resolve = |number: u32| {
        let ask = || dns::ask("127.0.0.1:53".parse().unwrap(), &format!("n{number}.many.test"), dns::A, LONG);
        laptop.in_namespace(ask).unwrap().unwrap().addresses()
    };
    for number in 0..50 {
        assert_eq!(resolve(number), [many_v4(number)]);
    }
    assert!(ask(&["revoke", &many_v4(7).to_string()]).status.success());
    assert_eq!(resolve(7), [many_v4(7)]);
    if kill {
        daemon.0.kill().unwrap();
        daemon.0.wait().unwrap();
    } else {
        assert!(ask(&["stop"]).status.success());
        assert!(wait_until(LONG, || daemon.0.try_wait().unwrap().is_some()));
    }
    let text = std::fs::read_to_string(&file).unwrap();
    let replayed = Command::new(BINARY).arg("replay").arg(&file).output().unwrap();
    let said = String::from_utf8(replayed.stdout).unwrap() + &String::from_utf8_lossy(&replayed.stderr);
    (text, said, replayed.status.success())
}

#[test]
fn a_recording_is_replayed_with_the_same_decisions() {
    let (_, said, success) = recorded(&[], false);
    assert!(success, "{said}");
    assert!(said.contains("asks n7.many.test") && said.contains(&format!("revoke {}", many_v4(7))), "{said}");
    assert!(said.contains("0 turns decided otherwise"), "{said}");
}

#[test]
fn a_recording_of_a_process_that_was_killed_has_all_that_was_answered_and_hides_names() {
    let (text, said, success) = recorded(&["--record-hides-names"], true);
    assert!(success, "{said}");
    assert!(!text.contains("many") && said.contains(&format!("revoke {}", many_v4(7))), "{said}");
    let released = said.lines().filter(|line| line.contains("released")).count();
    assert!(released >= 51, "{said}");
}
