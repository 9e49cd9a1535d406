//! Polling with a deadline, in place of sleeping for luck.

use std::time::{Duration, Instant};

/// Polls until `condition` holds; false when `deadline` passed first. The condition is tried at least twice.
pub fn wait_until(deadline: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + deadline;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            // One last look: the machine may have been away for the whole time.
            return condition();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Polls until `look` finds something; `None` when `deadline` passed first.
pub fn wait_for<T>(deadline: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let mut found = None;
    wait_until(deadline, || {
        found = look();
        found.is_some()
    });
    found
}
