//! A host without a clock of its own starts with the time at which it went down, and learns the true one later. By how much that is ahead,
//! leases of an earlier boot have been restored for too long.

use std::time::Duration;

use crate::core::event::Event;
use crate::core_task::CoreHandle;
use crate::sys::clock::Outside;

/// How often the clocks are compared.
const LOOK: Duration = Duration::from_millis(500);
/// What is not worth closing anything for: a clock that is adjusted little by little.
const STEP: u64 = 2_000;

/// By how much the wall clock went ahead since leases were restored by it.
#[derive(Debug)]
pub struct Steps {
    /// The wall clock less the boot clock up to which everything is told.
    pub told: u64,
}

impl Steps {
    /// What is to be told now. A clock that goes back lengthens nothing, and may come forward again.
    pub fn ahead(&mut self, apart: u64) -> Option<Duration> {
        let ahead = i64::try_from(apart.wrapping_sub(self.told)).ok().and_then(|ahead| u64::try_from(ahead).ok())?;
        (ahead > STEP).then(|| {
            self.told = apart;
            Duration::from_millis(ahead)
        })
    }
}

/// Follows the clocks for as long as anything that was restored may last. `apart` is [`Outside::apart`] of then.
pub async fn follow(core: CoreHandle, apart: u64, longest: Duration) {
    let mut steps = Steps { told: apart };
    let mut outside = match Outside::read() {
        Ok(outside) => outside,
        Err(error) => return tracing::warn!(%error, "a clock that is set right can't be noticed"),
    };
    let until = outside.since_boot.saturating_add(u64::try_from(longest.as_millis()).unwrap_or(u64::MAX));
    let mut tick = tokio::time::interval(LOOK);
    while outside.since_boot <= until {
        tick.tick().await;
        if let Err(error) = outside.refresh() {
            return tracing::warn!(%error, "a clock that is set right can't be noticed");
        }
        let Some(ahead) = steps.ahead(outside.apart()) else { continue };
        tracing::info!(seconds = ahead.as_secs(), "the clock was behind: what was leased before the boot ends earlier");
        if core.tell(Event::RestoredEarlier(ahead)).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_ahead_is_told_once_and_one_back_never() {
        let mut steps = Steps { told: 10_000 };
        let mut told = |apart| steps.ahead(apart).map(|by| by.as_millis());
        assert_eq!((told(10_000), told(12_000), told(5_000)), (None, None, None));
        assert_eq!((told(70_000), told(70_500)), (Some(60_000), None));
        assert_eq!((told(9_000), told(70_000), told(73_000)), (None, None, Some(3_000)));
    }
}
