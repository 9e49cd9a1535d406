//! What was in force before, for `undo` and for changes that are on trial (`reload --confirm`).
//!
//! ```text
//!  reload --confirm 5m --> on trial --confirm, or another reload--> in force
//!                             | five minutes
//!                             v
//!                         as before
//! ```

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::config::{Config, Places};

/// A configuration that was in force, and where its values stand.
pub type Former = (Config, Places);

/// The longest that a change may be on trial.
const LONGEST: Duration = Duration::from_secs(30 * 86_400);
/// A change that could not be taken back is tried again after this.
const AGAIN: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
struct Inner {
    /// What `undo` goes back to.
    before: Option<Former>,
    /// What an unconfirmed change goes back to, and when.
    trial: Option<(Former, Instant)>,
    /// Keys of the file that are not in force, and why.
    apart: Vec<String>,
}

/// One for the daemon.
#[derive(Debug, Default)]
pub struct History {
    inner: Mutex<Inner>,
    changed: Notify,
}

impl History {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A change is in force, in place of `before`: until it is confirmed, where `trial` says for how long that is waited for.
    pub fn changed(&self, before: Former, trial: Option<Duration>, apart: Vec<String>) {
        let mut inner = self.inner();
        // Changes on top of one that nobody confirmed go back together with it.
        let last = inner.trial.take().map(|(former, _)| former);
        inner.trial = trial.map(|trial| (last.unwrap_or_else(|| before.clone()), Instant::now() + trial.min(LONGEST)));
        inner.before = Some(before);
        inner.apart = apart;
        drop(inner);
        self.changed.notify_one();
    }

    /// The change on trial stays; `false`: there is none.
    pub fn confirm(&self) -> bool {
        let confirmed = self.inner().trial.take().is_some();
        self.changed.notify_one();
        confirmed
    }

    /// What to go back to.
    #[must_use]
    pub fn before(&self) -> Option<Former> {
        self.inner().before.clone()
    }

    /// How long a change waits to be confirmed yet.
    #[must_use]
    pub fn trial(&self) -> Option<Duration> {
        self.inner().trial.as_ref().map(|(_, until)| until.saturating_duration_since(Instant::now()))
    }

    /// Keys of the file that are not in force, and why.
    #[must_use]
    pub fn apart(&self) -> Vec<String> {
        self.inner().apart.clone()
    }

    /// Nothing changed, but what the file says besides.
    pub fn set_apart(&self, apart: Vec<String>) {
        self.inner().apart = apart;
    }

    /// It could not be taken back yet; unless something else is in force meanwhile, it is tried again.
    pub fn try_again(&self, former: Former) {
        self.inner().trial.get_or_insert((former, Instant::now() + AGAIN));
    }

    /// Until a change on trial is to be taken back, or there is another one, or none any more.
    pub async fn until_due(&self) {
        let due = self.inner().trial.as_ref().map(|(_, until)| *until);
        let wait = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = wait => {}
            () = self.changed.notified() => {}
        }
    }

    /// What to go back to now: the change on trial was not confirmed in time. It is on trial no more.
    pub fn overdue(&self) -> Option<Former> {
        let mut inner = self.inner();
        if inner.trial.as_ref().is_some_and(|(_, until)| *until <= Instant::now()) {
            return inner.trial.take().map(|(former, _)| former);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn former(min: u64) -> Former {
        let mut config = Config::default();
        config.lease.min = crate::config::value::Span::secs(min);
        (config, Places::default())
    }

    fn min(former: Option<Former>) -> Option<u64> {
        former.map(|(config, _)| config.lease.min.0.as_secs())
    }

    #[tokio::test]
    async fn what_nobody_confirms_goes_back_to_the_last_that_was_confirmed() {
        let (long, none) = (Some(Duration::from_secs(3600)), Some(Duration::ZERO));
        let history = History::default();
        assert!(!history.confirm() && history.before().is_none() && history.overdue().is_none());
        history.changed(former(1), Some(Duration::MAX), vec![]);
        history.changed(former(1), long, vec![]);
        assert!(history.overdue().is_none() && history.trial().is_some());
        history.changed(former(2), none, vec!["dns.listen".to_owned()]);
        assert_eq!((min(history.before()), history.apart().len()), (Some(2), 1));
        assert_eq!(min(history.overdue()), Some(1), "both were on trial");
        assert!(history.overdue().is_none(), "once");
        history.changed(former(3), none, vec![]);
        assert!(history.confirm() && !history.confirm());
        assert!(history.overdue().is_none());
        history.changed(former(4), none, vec![]);
        history.changed(former(5), None, vec![]);
        assert!(history.overdue().is_none() && history.trial().is_none(), "a reload without --confirm stands for both");
    }
}
