//! A control group in a lab's node: what is started in it is judged by the guard that is told of it.

use std::sync::atomic::{AtomicUsize, Ordering};

use lab::{Node, Process};

/// Where the tree of control groups is mounted, in the node alone.
const TREE: &str = "/run/cgroup";

/// Removed when dropped, whoever is left in it.
pub struct Group {
    host: Node,
    /// Its directory, as the node sees it.
    pub path: String,
}

impl Group {
    /// Makes one, with what the guard needs beside it: the file system of BPF.
    pub fn make(host: &Node) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let path = format!("{TREE}/destguard-lab-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let line = format!(
            "mount -t bpf bpf /sys/fs/bpf && mkdir {TREE} && mount -t cgroup2 none {TREE} && mkdir {path} && \
             install -d -m 755 /run/destguard /var/lib/destguard"
        );
        host.ok(&line).unwrap();
        Self { host: host.clone(), path }
    }

    /// A shell's command line that has what it runs in the group.
    pub fn line(&self, line: &str) -> String {
        format!("echo $$ > {}/cgroup.procs && exec {line}", self.path)
    }

    /// Starts a program as one of the group.
    pub fn spawn(&self, line: &str) -> Process {
        self.host.spawn("sh", &["-c", &self.line(line)]).unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let leave = format!(
            "while read process; do echo $process > {TREE}/cgroup.procs; done < {0}/cgroup.procs; rmdir {0}",
            self.path
        );
        drop(self.host.run(&leave));
    }
}
