//! In a process of its own each: what is set stays.
#![allow(unsafe_code)]

use std::path::PathBuf;
use std::process::Command;

use super::*;
use crate::enforce::nftables::program::PLACES;

const CHILD: &str = "DESTGUARD_TEST_CONFINED";

/// Runs one of this file's tests again, where [`CHILD`] is set, in a process that may be confined.
fn again(test: &str, directory: &Path, nft: bool) {
    let own = std::env::current_exe().unwrap();
    let name = format!("sys::confine::tests::{test}");
    let mut command = Command::new(own);
    command.args(["--exact", &name, "--nocapture", "--test-threads=1"]).env(CHILD, directory);
    if nft {
        command.env("DESTGUARD_TEST_NFT", "1");
    }
    let output = command.output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

fn inside() -> Option<PathBuf> {
    std::env::var_os(CHILD).map(PathBuf::from)
}

/// By the kernel's word (landlock_create_ruleset(2), the version).
fn has_landlock() -> bool {
    // SAFETY: with this flag the call takes no pointer.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, 1) > 0 }
}

/// Whether it may write to its own directories alone now.
fn confined(directory: &Path, nft: bool) -> bool {
    let landlock = has_landlock();
    let programs = if nft { PLACES.map(PathBuf::from).to_vec() } else { Vec::new() };
    let reached = confine(&Needs { writes: Ok(vec![directory]), programs, bpf: false });
    assert_eq!(reached.calls, None);
    assert_eq!(reached.files.is_none(), landlock, "{reached:?}");
    landlock
}

#[test]
fn only_its_own_directories_can_be_written_to() {
    let Some(own) = inside() else {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("own")).unwrap();
        std::fs::write(directory.path().join("list"), "x").unwrap();
        return again("only_its_own_directories_can_be_written_to", &directory.path().join("own"), false);
    };
    let landlock = confined(&own, false);
    let other = own.with_file_name("other");
    let work = move || {
        crate::sys::private::replace(&own.join("state"), &[b"1"]).unwrap();
        crate::sys::private::replace(&own.join("state"), &[b"2"]).unwrap();
        crate::sys::private::directory(&own.join("lists/deep")).unwrap();
        drop(std::os::unix::net::UnixListener::bind(own.join("socket")).unwrap());
        std::fs::remove_file(own.join("socket")).unwrap();
        assert_eq!(std::fs::create_dir(&other).is_err(), landlock);
        assert_eq!(std::fs::write(other.join("../third"), "x").is_err(), landlock);
        assert_eq!(std::fs::read_to_string(own.with_file_name("list")).unwrap(), "x", "lists are read where they are");
    };
    // Threads that start later are no freer.
    std::thread::spawn(work).join().unwrap();
    assert!(Command::new("/bin/true").status().is_err());
}

#[test]
fn nft_runs_and_no_other_program() {
    let Some(own) = inside() else {
        let directory = tempfile::tempdir().unwrap();
        return again("nft_runs_and_no_other_program", directory.path(), true);
    };
    let landlock = confined(&own, true);
    crate::enforce::nftables::program::Program::find().unwrap();
    let shell = Command::new("/bin/sh").arg("-c").arg("true").status();
    assert_eq!(
        shell.map_err(|error| error.kind()).is_err_and(|kind| kind == io::ErrorKind::PermissionDenied),
        landlock
    );
    let copy = own.join("nft");
    std::fs::write(&copy, std::fs::read("/usr/sbin/nft").unwrap()).unwrap();
    std::fs::set_permissions(&copy, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(Command::new(copy).arg("--version").status().is_err(), landlock, "what it can write it can't run");
}

#[test]
fn system_calls_that_it_never_needs_are_as_if_they_were_not_there() {
    let Some(own) = inside() else {
        let directory = tempfile::tempdir().unwrap();
        let test = "system_calls_that_it_never_needs_are_as_if_they_were_not_there";
        return again(test, directory.path(), false);
    };
    confined(&own, false);
    let fails = |result: libc::c_long| {
        assert_eq!((result, io::Error::last_os_error().raw_os_error()), (-1, Some(libc::ENOSYS)));
    };
    // SAFETY: numbers alone go in, and none is carried out.
    unsafe {
        fails(libc::syscall(libc::SYS_unshare, libc::CLONE_NEWUSER));
        fails(libc::syscall(libc::SYS_ptrace, 0, 0, 0, 0));
        fails(libc::syscall(libc::SYS_bpf, 0, 0, 0));
        fails(libc::syscall(libc::SYS_io_uring_setup, 1, 0));
        fails(libc::syscall(libc::SYS_keyctl, 0, 0));
        fails(libc::syscall(libc::SYS_mount, 0, 0, 0, 0, 0));
        fails(libc::syscall(libc::SYS_execve, 0, 0, 0));
        fails(libc::syscall(libc::SYS_socket, libc::AF_ALG, libc::SOCK_SEQPACKET, 0));
        fails(libc::syscall(libc::SYS_clone, libc::CLONE_NEWNET, 0, 0, 0, 0));
    }
    for family in [libc::AF_INET, libc::AF_INET6] {
        // SAFETY: as above; the descriptor ends with the process.
        assert!(unsafe { libc::socket(family, libc::SOCK_DGRAM, 0) } >= 0);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::sleep(std::time::Duration::from_millis(5)).await });
}

#[test]
fn the_kernels_own_word_is_read() {
    assert!(filters("Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n"));
    assert!(!filters("Seccomp:\t0\nSeccomp_filters:\t0\n"));
    assert!(!filters("Name:\tSeccomp: 2\n"));
}
