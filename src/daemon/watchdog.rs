//! Tells systemd that the guard lives (`WatchdogSec=`): that its core takes turns, which is what answers wait for.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::core_task::CoreHandle;

/// How often systemd wants to hear of it; half the time after which it kills. `None`: it doesn't ask.
#[must_use]
pub fn interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|within| within / 2)
}

/// Asks the core each `interval`, and says so when it answered. One that doesn't answer is not told of, and systemd starts the guard anew.
pub async fn follow(core: CoreHandle, interval: Duration) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match tokio::time::timeout(interval, core.inspect(|_, _| ())).await {
            Ok(Ok(())) => notify(&[NotifyState::Watchdog]),
            Ok(Err(error)) => tracing::error!(%error, "the core doesn't answer"),
            Err(_) => tracing::error!(seconds = interval.as_secs(), "the core doesn't answer in time"),
        }
    }
}

/// Tells systemd, when it wants to know.
pub fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd can't be notified");
    }
}
