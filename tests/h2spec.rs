//! The DoH listener under h2spec, which is built from its Go module: all of its cases pass. In a network namespace of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lab::wait_until;

#[path = "support/namespace.rs"]
#[allow(dead_code)]
mod namespace;
#[path = "support/programs.rs"]
mod programs;

use programs::{Running, certificates, run, write};

const LONG: Duration = Duration::from_secs(60);
/// Seconds that h2spec waits for each thing that must come.
const PATIENCE: &str = "30";

const GUARD: &str = "[dns]
listen = [\"127.0.0.10:53\"]
clients = [\"127.0.0.0/8\"]
[dns.tls]
certificate = \"DIR/own.pem\"
key = \"DIR/own.key\"
doh = [\"127.0.0.10:443\"]
[[dns.upstream]]
url = \"udp://127.0.0.1:5300\"
[nftables]
mode = \"local\"
[state]
dir = \"DIR/state\"
";

/// Built once, kept with what else was built. `tests/h2spec/go.mod` names the versions.
fn h2spec() -> PathBuf {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("h2spec");
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/h2spec");
    // Go knows what is built already.
    run(Command::new("go")
        .args(["build", "-mod=readonly", "-o"])
        .arg(&program)
        .arg("github.com/summerwind/h2spec/cmd/h2spec")
        .env("CGO_ENABLED", "0")
        .current_dir(module));
    program
}

/// `guard.example A`, which the guard answers by itself: it is a name of its certificate.
fn question() -> String {
    let name = b"\x05guard\x07example\0";
    let query = [&[0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], name, &[0, 1, 0, 1]].concat();
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for three in query.chunks(3) {
        let bits = three.iter().fold(0_u32, |bits, octet| bits << 8 | u32::from(*octet)) << (8 * (3 - three.len()));
        let letters = (0..=three.len()).map(|nth| char::from(LETTERS[(bits >> (18 - 6 * nth) & 63) as usize]));
        text.extend(letters);
    }
    text
}

#[test]
fn every_case_of_h2spec_passes() {
    let h2spec = h2spec();
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path();
    certificates(dir, &[("own", &["guard.example"])]);
    std::fs::create_dir(dir.join("state")).unwrap();
    write(dir, "guard.toml", GUARD);
    let command =
        format!("{} --config {1}/guard.toml --socket {1}/control run", env!("CARGO_BIN_EXE_destguard"), dir.display());
    namespace::alone(|| {
        let guard = Running::start(dir, "guard", &command);
        let listens = || TcpStream::connect("127.0.0.10:443").is_ok();
        assert!(wait_until(LONG, listens), "{}", guard.log());
        let path = format!("/dns-query?dns={}", question());
        let mut tester = Command::new(&h2spec);
        tester.args(["--tls", "--insecure", "--host", "127.0.0.10", "--port", "443", "--timeout", PATIENCE, "--path"]);
        let output = tester.arg(path).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let passed = text.contains("145 tests, 145 passed, 0 skipped, 0 failed");
        assert!(passed && output.status.success(), "{text}\n{}", guard.log());
    });
}
