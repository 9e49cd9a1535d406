//! What the process keeps of the kernel once it runs: a list of system calls, and the places it may write to.
//!
//! Both are set before the first thread starts, hold for `nft` too, and can't be taken back. Where the kernel lacks one, the daemon goes on and `status`
//! says so. With `confine = false` neither is set.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};

pub mod calls;
pub mod files;

/// Why the process isn't confined.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// The kernel doesn't take the rules of files.
    #[error("landlock: {0}")]
    Landlock(#[from] landlock::RulesetError),
    /// A place that the rules name can't be opened.
    #[error("landlock: {}: {source}", path.display())]
    Place {
        /// The path of the place.
        path: PathBuf,
        /// The kernel's word.
        source: landlock::PathFdError,
    },
    /// The rules of files are not in force.
    #[error("the kernel has no landlock, or doesn't use it")]
    NoLandlock,
    /// The rules of files are said to be in force, and hold nothing back.
    #[error("landlock was set, but {ELSEWHERE} can be written to all the same")]
    Unheld,
    /// The filter of system calls can't be made.
    #[error("seccomp: {0}")]
    Filter(#[from] seccompiler::BackendError),
    /// The kernel doesn't take the filter of system calls.
    #[error("seccomp: {0}")]
    Seccomp(#[from] seccompiler::Error),
    /// The filter is said to be in force, and the kernel knows of none.
    #[error("the filter was set, but /proc/thread-self/status knows of none")]
    Unfiltered,
    /// Whether the filter is in force can't be known.
    #[error("/proc/thread-self/status: {0}")]
    Status(#[source] io::Error),
    /// What must be there before can't be made, in words.
    #[error("{0}")]
    Before(String),
}

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
        Err(why) => Err(ConfineError::Before(why.clone())),
    };
    let calls = calls::restrict(!needs.programs.is_empty(), needs.bpf).and_then(|()| prove_calls());
    let why = |outcome: Result<(), ConfineError>| outcome.err().map(|error| error.to_string());
    Confined { calls: why(calls), files: why(files) }
}

/// A file that everybody may write to, and that isn't among the needs.
const ELSEWHERE: &str = "/dev/full";

/// The kernel's own word counts, not that a call succeeded.
fn prove_files() -> Result<(), ConfineError> {
    match OpenOptions::new().write(true).open(ELSEWHERE) {
        Ok(_) => Err(ConfineError::Unheld),
        Err(_) => Ok(()),
    }
}

fn prove_calls() -> Result<(), ConfineError> {
    match std::fs::read_to_string("/proc/thread-self/status") {
        Ok(status) if filters(&status) => Ok(()),
        Ok(_) => Err(ConfineError::Unfiltered),
        // Without /proc the call's word is all there is.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(ConfineError::Status(error)),
    }
}

/// Whether a process of this status (proc(5)) has a filter.
fn filters(status: &str) -> bool {
    status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2"))
}

#[cfg(test)]
mod tests;
