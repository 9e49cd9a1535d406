//! What `router-config` prints, on the routers themselves: the lab with the generated file in place of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use lab::dns::server::{many_v4, many_v6};
use lab::dns::{self, Server};
use lab::tcp::{self, EchoServer};
use lab::{Lab, wait_until};
use serde_json::Value;

const PORT: u16 = 80;
/// Less than the second after which Linux sends a lost SYN again.
const FIRST_SYN: Duration = Duration::from_millis(300);
const ANSWER: Duration = Duration::from_secs(5);
const LONG: Duration = Duration::from_secs(60);

/// Copies a lab, all but its router's file, which becomes `own` and what is generated from its guard's.
fn copy_with_generated(from: &Path, to: &Path, kind: &str, file: &str, own: &str) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy_with_generated(&entry.path(), &target, kind, file, own);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
    let router = to.join(file);
    if router.exists() {
        let config = to.join("guard/destguard.toml");
        let output = Command::new(env!("CARGO_BIN_EXE_destguard"))
            .args(["router-config", kind, "--config"])
            .arg(config)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::write(&router, format!("{own}{}", String::from_utf8(output.stdout).unwrap())).unwrap();
    }
}

/// Nothing is reached before its name is asked, and all is at once afterwards.
fn names_open_the_way(kind: &str, topology: &str, file: &str, own: &str) {
    let dir = tempfile::tempdir().unwrap();
    // The router's daemons run as a user of their own.
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("lab").join(kind);
    copy_with_generated(&source, dir.path(), kind, file, own);
    let lab =
        Lab::builder(dir.path().join(topology)).destguard(env!("CARGO_BIN_EXE_destguard")).hold("guard").up().unwrap();
    let upstreams = ["192.0.2.53:53", "[2001:db8:53::53]:53"].map(|at| at.parse().unwrap());
    let _dns = Server::start(lab.node("internet"), &upstreams).unwrap();
    let _echo = EchoServer::start(lab.node("internet"), PORT).unwrap();
    lab.node("guard").start().unwrap();
    let established = || {
        let output =
            lab.node("guard").command(env!("CARGO_BIN_EXE_destguard")).args(["peers", "--json"]).output().unwrap();
        let peers: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        peers["peers"][0]["state"] == "Established"
    };
    assert!(wait_until(LONG, established), "no session: {}", lab.logs());

    let guard: SocketAddr = "10.0.3.2:53".parse().unwrap();
    let outcome = lab.node("client").in_namespace(|| {
        for (rtype, address) in [(dns::A, IpAddr::from(many_v4(7))), (dns::AAAA, IpAddr::from(many_v6(7)))] {
            assert!(tcp::connect(address, PORT, FIRST_SYN).is_err(), "{address} is reached without a question");
            let answer = dns::ask(guard, "n7.many.test", rtype, ANSWER).unwrap();
            assert_eq!(answer.addresses(), [address], "{:?}", answer.message);
            tcp::connect(address, PORT, FIRST_SYN).unwrap_or_else(|error| panic!("{address} after its name: {error}"));
        }
    });
    outcome.unwrap_or_else(|error| panic!("{error}: {}", lab.logs()));
}

#[test]
fn on_frr() {
    let own = "ip route 192.0.2.53/32 10.0.2.2\nipv6 route 2001:db8:53::53/128 fd00:2::2\n";
    names_open_the_way("frr", "frr.clab.yml", "router/frr.conf", own);
}

#[test]
fn on_bird() {
    let own = "protocol static own4 { ipv4; route 192.0.2.53/32 via 10.0.2.2; }
protocol static own6 { ipv6; route 2001:db8:53::53/128 via fd00:2::2; }\n";
    names_open_the_way("bird", "bird.clab.yml", "router/bird.conf", own);
}
