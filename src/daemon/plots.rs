//! Reads the counters for the page's plots.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::shared::Shared;
use crate::control::history::{EVERY, Reading};
use crate::control::sources::Sources as _;

/// Reads once a minute, until it is dropped.
pub async fn follow(shared: Arc<Shared>) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        match shared.metrics() {
            Ok(text) => shared.plots().take(now, Reading::of(&text)),
            Err(error) => tracing::warn!(%error, "the plots of the page miss a minute"),
        }
    }
}
