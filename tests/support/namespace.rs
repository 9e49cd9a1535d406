//! Network namespaces for one test each: a thread that leaves the common one. They vanish with their threads.
#![allow(unsafe_code)]

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::process::Command;

/// Runs `body` in a thread of its own, in a fresh network namespace with loopback up; passes a panic on.
pub fn alone<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let handle = scope.spawn(|| {
            unshare();
            run("ip link set lo up");
            body()
        });
        match handle.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// A namespace kept open beside the thread's own.
pub struct Namespace(File);

impl Namespace {
    /// A fresh one with loopback up; the calling thread stays where it is.
    pub fn new() -> Self {
        let file = std::thread::spawn(|| {
            unshare();
            run("ip link set lo up");
            File::open("/proc/thread-self/ns/net").expect("its namespace")
        })
        .join()
        .expect("a namespace");
        Self(file)
    }

    /// Runs `body` in it, in a thread of its own.
    pub fn within<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let handle = scope.spawn(|| {
                self.enter();
                body()
            });
            match handle.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Moves the calling thread into it.
    pub fn enter(&self) {
        // SAFETY: setns takes a descriptor that lives, and changes the calling thread only.
        let done = unsafe { libc::setns(self.0.as_raw_fd(), libc::CLONE_NEWNET) };
        assert_eq!(done, 0, "setns: {}", std::io::Error::last_os_error());
    }

    /// Where `ip` finds it.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// Runs `body` in a thread of its own, in the same namespace, as nobody.
pub fn without_privileges<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let handle = scope.spawn(|| {
            // SAFETY: plain numbers. The bare system call changes the calling thread only, unlike libc's function.
            let done = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
            assert_eq!(done, 0, "setresuid: {}", std::io::Error::last_os_error());
            body()
        });
        match handle.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn unshare() {
    // SAFETY: no pointers; only the calling thread changes its namespace.
    let done = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(done, 0, "these tests need root: {}", std::io::Error::last_os_error());
}

/// Runs a command line in the calling thread's namespace; panics unless it succeeds.
pub fn run(line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).output().expect("sh");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A veth pair between the calling thread's namespace (`here`) and another (`there`).
pub fn link(here: &str, other: &Namespace, there: &str) {
    run(&format!("ip link add {here} type veth peer name {there}"));
    run(&format!("ip link set {there} netns {}", other.path()));
    run(&format!("ip link set {here} up"));
    other.within(|| run(&format!("ip link set {there} up")));
}

/// Gives an interface of the calling thread's namespace `10.9.NET.HOST/24` and `2001:db8:NET::HOST/64`, usable at once.
pub fn address(interface: &str, net: u8, host: u8) -> Ipv4Addr {
    run(&format!(
        "ip addr add 10.9.{net}.{host}/24 dev {interface} && ip -6 addr add 2001:db8:{net}::{host}/64 dev {interface} nodad"
    ));
    Ipv4Addr::new(10, 9, net, host)
}
