//! In work: spawns every task.

use std::path::PathBuf;

/// What `destguard run` was told.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The configuration file.
    pub config: PathBuf,
    /// Instead of `state.dir`.
    pub state_dir: Option<PathBuf>,
    /// Where the control socket goes.
    pub socket: PathBuf,
}

/// Why the daemon did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration was refused.
    #[error("{0}")]
    Config(crate::config::Report),
    /// Anything else, with its cause.
    #[error("{0}")]
    Failed(String),
}

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// [`RunError`].
pub fn run(_options: &RunOptions) -> Result<(), RunError> {
    Err(RunError::Failed("not built yet".to_owned()))
}
