//! The Debian package on a fresh Debian 12 that is booted with systemd; the story is told in packaging/test.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::process::Command;

#[test]
fn a_fresh_host_is_installed_armed_rebooted_upgraded_and_freed() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let told = Command::new("bash").arg(top.join("packaging/test")).env("PROFILE", "dev").output().unwrap();
    let (out, errors) = (String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
    assert!(told.status.success(), "{out}\n{errors}");
    assert!(out.ends_with("All as promised.\n"), "{out}");
}
