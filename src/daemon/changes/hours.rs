//! Groups and lists come in force and go by the clock on the wall, without a reload.
//!
//! Every [`LOOK`] what should be in force is compared with what is: a clock that is set and a host that slept need nothing else.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use crate::core::policy::schedule::Hours;
use crate::daemon::hours::{due, has_any, views};
use crate::daemon::reload;
use crate::daemon::shared::Shared;

/// How often the clock is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Puts in force what the clock says; never ends. `clock`: what it shows.
pub async fn follow(shared: Arc<Shared>, clock: impl Fn() -> Timestamp) {
    loop {
        tokio::time::sleep(LOOK).await;
        if !has_any(&shared.config.lock().unwrap_or_else(PoisonError::into_inner).0)
            && *shared.rules.load().views.hours() == Hours::default()
        {
            continue;
        }
        let _applying = shared.applying.lock().await;
        let (config, _) = shared.config();
        let Some(hours) = due(&config, shared.rules.load().views.hours(), clock()) else { continue };
        let out: Vec<String> = views(&config, &hours, clock()).into_iter().map(|out| out.what).collect();
        match reload::apply_lists(&shared, shared.lists.lists()).await {
            Ok(()) => tracing::info!(out_of_hours = out.join(", "), "schedules: other groups or lists are in force"),
            Err(error) => tracing::error!(%error, "a schedule can't be put in force; trying again"),
        }
    }
}
