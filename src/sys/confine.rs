//! What the process keeps of the kernel once it runs: a list of system calls, and the places it may write to.
//!
//! Both are set before the first thread starts, hold for `nft` too, and can't be taken back. Where the kernel lacks one, the daemon goes on and `status`
//! says so. With `confine = false` neither is set.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};

pub mod calls;
pub mod files;

/// How far the process is confined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confined {
    /// Why system calls aren't filtered; `None`: they are.
    pub calls: Option<String>,
    /// Why it may write wherever its user may; `None`: it may not.
    pub files: Option<String>,
}

/// What it needs beside its own memory and sockets.
#[derive(Clone, Debug)]
pub struct Needs<'a> {
    /// Directories that it writes to; or why they aren't there yet, so that nothing is said of them.
    pub writes: Result<Vec<&'a Path>, String>,
    /// Programs that it runs; those that aren't there are passed over.
    pub programs: Vec<PathBuf>,
    /// It loads programs into the kernel and writes their tables.
    pub bpf: bool,
}

/// Confines this thread and those it starts from now on. Files go first: the filter of system calls knows no landlock.
#[must_use]
pub fn confine(needs: &Needs<'_>) -> Confined {
    let files = match &needs.writes {
        Ok(writes) => files::restrict(writes, &needs.programs).and_then(|()| prove_files()),
        Err(why) => Err(why.clone()),
    };
    let calls = calls::restrict(!needs.programs.is_empty(), needs.bpf).and_then(|()| prove_calls());
    Confined { calls: calls.err(), files: files.err() }
}

/// A file that everybody may write to, and that isn't among the needs.
const ELSEWHERE: &str = "/dev/full";

/// The kernel's own word counts, not that a call succeeded.
fn prove_files() -> Result<(), String> {
    match OpenOptions::new().write(true).open(ELSEWHERE) {
        Ok(_) => Err(format!("landlock was set, but {ELSEWHERE} can be written to all the same")),
        Err(_) => Ok(()),
    }
}

fn prove_calls() -> Result<(), String> {
    match std::fs::read_to_string("/proc/thread-self/status") {
        Ok(status) if filters(&status) => Ok(()),
        Ok(_) => Err("the filter was set, but /proc/thread-self/status knows of none".to_owned()),
        // Without /proc the call's word is all there is.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(format!("/proc/thread-self/status: {error}")),
    }
}

/// Whether a process of this status (proc(5)) has a filter.
fn filters(status: &str) -> bool {
    status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2"))
}

#[cfg(test)]
mod tests;
