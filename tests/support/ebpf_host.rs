//! A host of a test's own: network, mounts and a control group that only its thread and what that starts are in.
#![allow(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Runs `sh`, which must succeed.
pub fn run(line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a probe does, in the words of `probe.py`.
pub const PROBE: &str = include_str!("ebpf_probe.py");

/// A control group of its own, in a mount of the whole tree.
pub struct Group {
    pub path: PathBuf,
    tree: PathBuf,
}

impl Group {
    /// Makes one below the root of the tree that is mounted at `tree`.
    pub fn make(tree: &Path) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = tree.join(format!("destguard-test-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self { path, tree: tree.to_owned() }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Whoever is left goes back to the root.
        let procs = fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
        for process in procs.lines() {
            drop(fs::write(self.tree.join("cgroup.procs"), process));
        }
        drop(fs::remove_dir(&self.path));
    }
}

/// A thread's own.
pub struct Host {
    pub group: Group,
    _directory: tempfile::TempDir,
    probe: PathBuf,
}

/// Runs `body` in a thread that has a network, mounts and a control group of its own.
pub fn alone(body: impl FnOnce(&Host) + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: no pointers; only the calling thread changes its namespaces.
            let done = unsafe { libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS) };
            assert_eq!(done, 0, "these tests need root: {}", std::io::Error::last_os_error());
            let directory = tempfile::tempdir().unwrap();
            let tree = directory.path().join("cgroup");
            fs::create_dir(&tree).unwrap();
            run(&format!(
                "mount --make-rprivate / && mount -t bpf bpf /sys/fs/bpf && mount -t cgroup2 none {} && ip link set lo up",
                tree.display()
            ));
            let group = Group::make(&tree);
            let probe = directory.path().join("probe.py");
            fs::write(&probe, PROBE).unwrap();
            let host = Host { group, _directory: directory, probe };
            body(&host);
            drop(host);
            run(&format!("umount -l {}", tree.display()));
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

impl Host {
    /// What a probe says, as a process of the group.
    pub fn probe(&self, words: &str) -> String {
        let procs = self.group.path.join("cgroup.procs");
        let line = format!("echo $$ > {} && exec python3 {} {words}", procs.display(), self.probe.display());
        run(&line).trim().to_owned()
    }
}
