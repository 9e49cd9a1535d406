//! The operator's exceptions: those that stand, and as they are kept on disk.
//!
//! Each change is on disk before it is in force. Each ends by the clock that goes on while the host sleeps.

use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::config::schema::Action;
use crate::config::value::Span;
use crate::control::sources::Change;
use crate::control::types;
use crate::core::policy::exceptions::{Exception, MOST, owner};
use crate::core::policy::{Pattern, PatternError};
use crate::store::exceptions::{self as store, Stored};
use crate::sys::clock::{Clock, Outside};
use crate::sys::time_zone;

/// The longest: what is to last longer belongs into the file.
const LONGEST: Duration = Duration::from_secs(30 * 86_400);

/// Why an exception is neither made nor undone.
#[derive(Debug, thiserror::Error)]
pub enum ExceptionError {
    /// The name is no rule for names.
    #[error("\"{name}\" can't be used: {source}")]
    Name {
        /// The name, as it was given.
        name: String,
        /// What is wrong with it.
        source: PatternError,
    },
    /// The name can't be kept.
    #[error("\"{0}\" can't be used")]
    Unusable(String),
    /// There is none to be undone.
    #[error("there is no such exception for {0}")]
    NotThere(Pattern),
    /// It would last too long, or not at all.
    #[error("an exception lasts at most {}; what is to last longer belongs into the file", Span(LONGEST))]
    Span,
    /// As many as there may be stand already.
    #[error("there are {MOST} exceptions already; undo one")]
    Full,
    /// Its end can't be told from that of another boot.
    #[error("the clocks can't be read: {0}")]
    Clock(#[source] io::Error),
    /// The disk doesn't take it.
    #[error("the exceptions can't be written to {}: {source}", directory.display())]
    Write {
        /// The state directory.
        directory: PathBuf,
        /// The kernel's word.
        source: io::Error,
    },
}

/// Those in force. One owner changes them: whoever puts other rules in force.
#[derive(Debug)]
pub struct ExceptionState {
    directory: PathBuf,
    clock: Clock,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    all: Vec<(Stored, Exception)>,
    /// What the start could not read, or what can't be written now.
    trouble: Option<String>,
}

impl ExceptionState {
    /// Reads what an earlier run wrote. A file that can't be used is kept beside, and told of.
    #[must_use]
    pub fn open(directory: PathBuf, clock: Clock) -> Self {
        let state = Self { directory, clock, inner: Mutex::default() };
        let read = Outside::read().map_err(|error| format!("the clocks can't be read: {error}"));
        match read.and_then(|now| Ok((store::read(&state.directory).map_err(|error| error.to_string())?, now))) {
            Ok((stored, now)) => {
                let live = stored.into_iter().filter(|stored| !stored.left(&now).is_zero()).take(MOST);
                state.inner().all = live
                    .filter_map(|stored| Some((state.exception(&stored, &now)?, stored)))
                    .map(|(e, s)| (s, e))
                    .collect();
            }
            Err(reason) => {
                let line = format!(
                    "the exceptions of deny and allow could not be read, the guard started without any: {reason}"
                );
                tracing::error!("{line}");
                state.inner().trouble = Some(line);
            }
        }
        state
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn exception(&self, stored: &Stored, now: &Outside) -> Option<Exception> {
        let word = match stored.action {
            Action::Deny => "deny",
            Action::Allow => "allow",
        };
        Some(Exception {
            pattern: stored.name.parse().ok()?,
            action: stored.action,
            client: stored.client,
            ends: self.clock.now().plus(stored.left(now)),
            words: format!("exception: {word} until {}", time_zone::time(stored.ends_wall / 1000)),
        })
    }

    /// Those in force.
    #[must_use]
    pub fn current(&self) -> Vec<Exception> {
        self.inner().all.iter().map(|(_, exception)| exception.clone()).collect()
    }

    /// For `status`, in the order in which they end.
    #[must_use]
    pub fn views(&self) -> Vec<types::Exception> {
        let now = self.clock.now();
        let view = |(stored, exception): &(Stored, Exception)| types::Exception {
            name: stored.name.clone(),
            action: stored.action,
            client: stored.client,
            ends_in_seconds: now.until(exception.ends).as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX),
        };
        let mut views: Vec<_> = self.inner().all.iter().map(view).collect();
        views.sort_by_key(|view| view.ends_in_seconds);
        views
    }

    /// What is not well.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.inner().trouble.clone()
    }

    /// On disk first, then in force.
    fn put(&self, all: Vec<(Stored, Exception)>) -> Result<(), ExceptionError> {
        let stored: Vec<Stored> = all.iter().map(|(stored, _)| stored.clone()).collect();
        store::write(&self.directory, &stored)
            .map_err(|source| ExceptionError::Write { directory: self.directory.clone(), source })?;
        *self.inner() = Inner { all, trouble: None };
        Ok(())
    }

    /// Changes them; returns for how long what was made lasts.
    ///
    /// # Errors
    /// Nothing is changed then.
    pub fn change(&self, change: &Change) -> Result<Option<Duration>, ExceptionError> {
        let wrong = |source| ExceptionError::Name { name: change.name.clone(), source };
        let pattern: Pattern = change.name.parse().map_err(wrong)?;
        let client = change.client.map(owner);
        let mut all = self.inner().all.clone();
        let before = all.len();
        all.retain(|(_, exception)| !exception.is_same(&pattern, change.action, client));
        let Some(span) = change.span else {
            if all.len() == before {
                return Err(ExceptionError::NotThere(pattern));
            }
            self.put(all)?;
            return Ok(None);
        };
        if span.is_zero() || span > LONGEST {
            return Err(ExceptionError::Span);
        }
        if all.len() >= MOST {
            return Err(ExceptionError::Full);
        }
        let now = Outside::read().map_err(ExceptionError::Clock)?;
        let stored = Stored::new(pattern.to_string(), change.action, client, span, &now);
        let exception = self.exception(&stored, &now).ok_or_else(|| ExceptionError::Unusable(change.name.clone()))?;
        all.push((stored, exception));
        self.put(all)?;
        Ok(Some(span))
    }

    /// Takes out what has ended; returns whether there was any.
    pub fn end(&self) -> bool {
        let now = self.clock.now();
        let mut all = self.inner().all.clone();
        let before = all.len();
        all.retain(|(_, exception)| exception.ends > now);
        if all.len() == before {
            return false;
        }
        if let Err(error) = self.put(all.clone()) {
            // They end all the same: what is on disk has its end with it.
            tracing::warn!("{error}");
            *self.inner() = Inner { all, trouble: Some(error.to_string()) };
        }
        true
    }
}
