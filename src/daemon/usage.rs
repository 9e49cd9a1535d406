//! Keeps on disk what was used in audit, every [`EVERY`] and at the end.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::shared::Shared;
use crate::control::Usage;
use crate::store::usage as store;

/// How often what is new is written: it is only what `suggest` tells of, and the disk may be a card.
const EVERY: Duration = Duration::from_secs(300);

/// Adds what an earlier run wrote. What can't be read is said.
pub fn load(usage: &Usage, directory: &Path) {
    match store::read(directory) {
        Ok(used) => usage.load(used),
        Err(reason) => tracing::warn!("suggest begins anew: {reason}"),
    }
}

/// Writes what is new.
pub fn keep(usage: &Usage, directory: &Path) {
    if !usage.take_changed() {
        return;
    }
    if let Err(error) = store::write(directory, &usage.used()) {
        tracing::warn!(%error, "what was used in audit can't be written to {}", directory.display());
        usage.is_not_kept();
    }
}

/// Until it is dropped.
pub async fn follow(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(EVERY).await;
        let (usage, directory) = (shared.dns.usage(), shared.config().0.state.dir);
        if let Err(error) = tokio::task::spawn_blocking(move || keep(&usage, &directory)).await {
            tracing::error!(%error, "what was used in audit can't be written");
        }
    }
}
