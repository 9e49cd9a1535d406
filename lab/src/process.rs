//! One program in a node: its id, its log, and its end with the guard that holds it.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::Duration;

use crate::sys;
use crate::wait::wait_for;

/// A running program. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    pub(crate) fn new(name: String, child: Child, log: PathBuf) -> Self {
        Self { name, child, log }
    }

    /// The program's name, as it was started.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id, as seen from outside.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to stdout and stderr so far.
    #[must_use]
    pub fn log(&self) -> String {
        read_log(&self.log)
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends a signal (`libc::SIGTERM` and the like).
    ///
    /// # Errors
    /// The kernel's.
    pub fn signal(&mut self, signal: i32) -> io::Result<()> {
        if self.ended().is_some() {
            // Its id may belong to somebody else by now.
            return Err(io::Error::other(format!("{} has ended", self.name)));
        }
        sys::kill(self.child.id(), signal)
    }

    /// Waits for its end; `None` when `deadline` passed first.
    pub fn wait(&mut self, deadline: Duration) -> Option<ExitStatus> {
        wait_for(deadline, || self.ended())
    }

    /// kill -9, and waits for the end.
    pub fn kill(&mut self) {
        // Fails only when it has ended already.
        if self.child.kill().is_ok() && self.child.wait().is_err() {
            eprintln!("lab: {} can't be waited for", self.name);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A log's text, however broken its encoding.
pub(crate) fn read_log(path: &Path) -> String {
    std::fs::read(path).map(|octets| String::from_utf8_lossy(&octets).into_owned()).unwrap_or_default()
}

/// The last lines of a log, indented.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    let from = all.len().saturating_sub(lines);
    all.iter().skip(from).map(|line| format!("    {line}\n")).collect()
}
