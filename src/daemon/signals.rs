//! What the daemon is told by signals, and by others who may end it.

use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;

use super::error::RunError;
use super::reload;
use super::shared::Shared;
use crate::control::sources::Wish;

/// Those that come while it starts wait until it runs: a reload then would be its end.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// From now on.
    ///
    /// # Errors
    /// The kernel's.
    pub fn listen() -> Result<Self, RunError> {
        let wanted = |kind| signal(kind).map_err(|error| RunError::failed(format!("signals: {error}")));
        let (terminate, interrupt) = (wanted(SignalKind::terminate())?, wanted(SignalKind::interrupt())?);
        Ok(Self { terminate, interrupt, hangup: wanted(SignalKind::hangup())? })
    }

    /// Until SIGTERM or SIGINT, or until the operator wants the end; SIGHUP reloads.
    ///
    /// # Errors
    /// The core has ended by itself.
    pub async fn wait(&mut self, shared: &Arc<Shared>, mut core_task: JoinHandle<()>) -> Result<(), RunError> {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return Ok(()),
                _ = self.interrupt.recv() => return Ok(()),
                () = shared.stop.notified() => return Ok(()),
                _ = self.hangup.recv() => {
                    let outcome = reload::reload(shared, Wish::default()).await;
                    if outcome.applied {
                        tracing::info!(changes = ?outcome.changes, needs_restart = ?outcome.needs_restart, "the configuration was reloaded");
                    } else {
                        tracing::error!("the old configuration stays:\n{}", outcome.report);
                    }
                }
                ended = &mut core_task => {
                    return Err(RunError::failed(match ended {
                        Ok(()) => "the core ended".to_owned(),
                        Err(error) => format!("the core failed: {error}"),
                    }));
                }
            }
        }
    }
}
