//! The packages on fresh Debian 12 hosts that are booted with systemd; the stories are told in packaging/test and packaging/quickstart.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

fn run(script: &str, arguments: &[&Path]) -> String {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let told = Command::new("bash").arg(top.join(script)).args(arguments).output().unwrap();
    let (out, errors) = (String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
    assert!(told.status.success(), "{out}\n{errors}");
    out.into_owned()
}

/// The Debian package; the RPM lies beside it.
fn package() -> &'static Path {
    static PACKAGE: OnceLock<PathBuf> = OnceLock::new();
    PACKAGE.get_or_init(|| {
        run("packaging/build", &[Path::new("dev")]);
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or(own, PathBuf::from);
        let packages = std::fs::read_dir(target.join("packages")).unwrap().map(|entry| entry.unwrap().path());
        packages.filter(|path| path.extension().is_some_and(|kind| kind == "deb")).max().unwrap()
    })
}

#[test]
fn a_fresh_host_is_installed_armed_rebooted_upgraded_and_freed() {
    assert!(run("packaging/test", &[package()]).ends_with("All as promised.\n"));
}

#[test]
fn the_quick_start_of_each_use_is_followed_word_by_word() {
    assert!(run("packaging/quickstart", &[package()]).ends_with("All as promised.\n"));
}
