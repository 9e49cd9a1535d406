//! What is wrong with the journal, for `status`, and what was repaired, for the metrics.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One kind of trouble; each has at most one reason at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// It can't be written where it should be.
    Place,
    /// The disk is full, or read-only, though what is open is still written.
    Room,
    /// A part of it could not be read at the start.
    Damage,
    /// Nobody else is kept from the state directory.
    Lock,
}

#[derive(Debug, Default)]
struct State {
    troubles: BTreeMap<Trouble, String>,
    repairs: BTreeMap<&'static str, u64>,
}

/// Shared by the journal, which writes it, and whoever tells operators. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Mutex<State>>);

impl Health {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A reason for each trouble that lasts.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        self.state().troubles.values().cloned().collect()
    }

    /// What was found otherwise than the journal believed and is mended, by kind.
    #[must_use]
    pub fn repairs(&self) -> BTreeMap<&'static str, u64> {
        self.state().repairs.clone()
    }

    /// This trouble has this reason from now on; `None`: it is over. Logged where that is news.
    pub fn set(&self, trouble: Trouble, reason: Option<String>) {
        let mut state = self.state();
        match reason {
            Some(reason) => {
                if state.troubles.get(&trouble) != Some(&reason) {
                    tracing::error!("{reason}");
                    state.troubles.insert(trouble, reason);
                }
            }
            None => {
                if let Some(reason) = state.troubles.remove(&trouble) {
                    tracing::info!("over: {reason}");
                }
            }
        }
    }

    /// Something of this kind was found otherwise than believed and is mended.
    pub fn repaired(&self, kind: &'static str) {
        let mut state = self.state();
        let count = state.repairs.entry(kind).or_default();
        *count = count.saturating_add(1);
    }
}
