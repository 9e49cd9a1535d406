//! Why the daemon did not start, or ended.

use crate::config;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration was refused.
    #[error("{0}")]
    Config(config::Report),
    /// Anything else: an error of its own kind, or a text.
    #[error(transparent)]
    Failed(Box<dyn std::error::Error + Send + Sync>),
}

impl RunError {
    /// Of anything but the configuration.
    pub fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Failed(error.into())
    }
}
