//! Why a lab could not be brought up or used.

use std::path::PathBuf;

/// What went wrong; the text says in which node and file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The path of the file.
        path: PathBuf,
        /// The kernel's word on the file.
        source: std::io::Error,
    },
    /// The topology file is wrong, or asks for something that the runner does not do.
    #[error("{path}: {reason}")]
    Topology {
        /// The path of the topology file.
        path: PathBuf,
        /// What and where.
        reason: String,
    },
    /// A command ended with an error.
    #[error("{place}: `{command}`: {reason}")]
    Command {
        /// The node, or "host".
        place: String,
        /// The command with its arguments, as it was run.
        command: String,
        /// Exit status and what it wrote to stderr.
        reason: String,
    },
    /// A daemon did not come up.
    #[error("{node}: {program} is not ready: {reason}")]
    NotReady {
        /// The node that the daemon runs in.
        node: String,
        /// The daemon's program.
        program: String,
        /// The last of its log.
        reason: String,
    },
    /// Namespaces need root.
    #[error("a lab needs root (network namespaces)")]
    NotRoot,
    /// The operating system's.
    #[error("{place}: {source}")]
    System {
        /// What was tried.
        place: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl Error {
    /// For `map_err` on file operations.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }

    /// For `map_err` on system calls.
    pub(crate) fn system(place: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let place = place.into();
        move |source| Self::System { place, source }
    }
}
