//! Changes on trial (`reload --confirm`) are taken back when nobody confirms them.

use std::sync::Arc;

use crate::daemon::reload;
use crate::daemon::shared::Shared;

/// Takes changes back that nobody confirmed in time.
pub async fn follow(shared: Arc<Shared>) {
    loop {
        shared.history.until_due().await;
        let Some(former) = shared.history.overdue() else { continue };
        match reload::go_back(&shared, former.clone()).await {
            Ok(changes) => tracing::warn!(?changes, "nobody confirmed the reload: what was in force before is again"),
            Err(error) => {
                tracing::error!(%error, "nobody confirmed the reload, and it can't be taken back yet");
                shared.history.try_again(former);
            }
        }
    }
}
