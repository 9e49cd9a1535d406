//! What goes wrong with programs and tables of the kernel, in words that say what to do.

use std::io;
use std::path::Path;

use super::PINS;

/// Why the host can't be guarded so, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The place of pins isn't one.
    #[error(
        "{PINS} is no place for pins: {0}; a BPF file system must be mounted at /sys/fs/bpf (mount -t bpf bpf /sys/fs/bpf)"
    )]
    Pins(String),
    /// The cgroup isn't one.
    #[error(
        "ebpf.cgroup = \"{place}\" {reason}; it must be a control group of version 2, such as /sys/fs/cgroup or /sys/fs/cgroup/unified"
    )]
    Cgroup {
        /// The path of `ebpf.cgroup`, as configured.
        place: String,
        /// What it is.
        reason: String,
    },
    /// The kernel, or what the daemon may do, isn't enough.
    #[error(
        "the kernel doesn't take the program: {reason}; Linux 5.11 with CONFIG_CGROUP_BPF is needed, and CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN"
    )]
    Load {
        /// The kernel's word.
        reason: String,
    },
    /// A call that works on what was loaded.
    #[error("{doing}: {source}")]
    Call {
        /// What was tried.
        doing: String,
        /// The kernel's word.
        source: io::Error,
    },
    /// A table holds no more.
    #[error("the table {name} is full: it has room for {most}")]
    Full {
        /// The table's name in the program.
        name: &'static str,
        /// The most elements that the table was made for.
        most: u32,
    },
    /// The program that was built isn't the one that this code knows.
    #[error("the program lacks {0}")]
    Lacks(&'static str),
}

impl Error {
    pub(super) fn call(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Call { doing, source }
    }

    pub(super) fn map(doing: &'static str) -> impl FnOnce(aya::maps::MapError) -> Self {
        move |error| Self::Call { doing: doing.to_owned(), source: io::Error::other(chain(&error)) }
    }

    pub(super) fn load(error: &dyn std::error::Error) -> Self {
        Self::Load { reason: chain(error) }
    }

    pub(super) fn cgroup(place: &Path, reason: impl Into<String>) -> Self {
        Self::Cgroup { place: place.display().to_string(), reason: reason.into() }
    }
}

/// What the verifier says behind its reason.
const BEHIND: [&str; 5] = ["processed ", "verification time", "stack depth", "}", "]"];

/// An error and what caused it, on one line. Of the verifier's log only the end, which says why.
fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    let mut lines = words.lines().map(str::trim).filter(|line| !BEHIND.iter().any(|start| line.starts_with(start)));
    let short = |line: &str| line.chars().take(200).collect::<String>();
    let first = lines.next().map(short).unwrap_or_default();
    match lines.rfind(|line| !line.is_empty()) {
        Some(last) => format!("{first} ... {}", short(last)),
        None => first,
    }
}
