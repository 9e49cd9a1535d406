//! `lease.preload`: names that are asked for at the start, and again when their answers end, so that their addresses are always open.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::core::name::Name;
use crate::core::policy::name_from_user;
use crate::dns::{OpenError, View};
use crate::sys::clock::since_boot;

/// How often it is looked whether a name is due.
const LOOK: Duration = Duration::from_millis(500);
/// Answers of shorter life are asked for again after this all the same.
const LEAST: Duration = Duration::from_secs(5);
/// Likewise the longest: a name may move, and its lease ends with `lease.max`.
const MOST: Duration = Duration::from_secs(3600);
/// After the first failure; doubled with each more.
const AGAIN: Duration = Duration::from_secs(1);
/// The longest wait after failures; shorter than `lease.grace`.
const AGAIN_MOST: Duration = Duration::from_secs(30);
/// Asked for at once.
const TOGETHER: usize = 16;

/// Why names aren't kept open. Bounded by the configuration.
#[derive(Debug, Default)]
pub struct Preloaded(Mutex<BTreeMap<String, String>>);

impl Preloaded {
    /// The names that aren't kept open, as `status` warns of them.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let failed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        failed.iter().map(|(name, error)| format!("lease.preload: {name} isn't kept open: {error}")).collect()
    }

    fn note(&self, name: &str, outcome: Result<(), OpenError>) {
        let mut failed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(()) => drop(failed.remove(name)),
            Err(error) => drop(failed.insert(name.to_owned(), error.to_string())),
        }
    }

    fn retain(&self, names: &[String]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, _| names.contains(name));
    }
}

/// When a name is asked for next.
#[derive(Clone, Copy, Debug)]
struct Due {
    /// Time since the boot: it goes on while the host sleeps, as leases do.
    at: Duration,
    failures: u32,
    asking: bool,
}

/// Until then, by how long the answer is good; `None`: there was none.
fn wait(ttl: Option<Duration>, failures: u32) -> Duration {
    match ttl {
        Some(ttl) => ttl.clamp(LEAST, MOST),
        None => AGAIN.saturating_mul(1 << failures.min(10)).min(AGAIN_MOST),
    }
}

/// Keeps open the names that `wanted` says; it never ends by itself.
pub async fn follow(preloaded: Arc<Preloaded>, dns: View, wanted: impl Fn() -> Vec<String>) {
    let mut tick = tokio::time::interval(LOOK);
    let mut names: BTreeMap<String, Due> = BTreeMap::new();
    let mut asking: JoinSet<(String, Result<Duration, OpenError>)> = JoinSet::new();
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            Some(asked) = asking.join_next() => {
                let Ok((name, asked)) = asked else { continue };
                let Some(due) = names.get_mut(&name) else { continue };
                due.failures = if asked.is_ok() { 0 } else { due.failures.saturating_add(1) };
                due.at = since_boot() + wait(asked.as_ref().ok().copied(), due.failures.saturating_sub(1));
                due.asking = false;
                preloaded.note(&name, asked.map(drop));
                continue;
            }
        }
        let wanted = wanted();
        names.retain(|name, _| wanted.contains(name));
        preloaded.retain(&wanted);
        let now = since_boot();
        for text in wanted {
            let due = names.entry(text.clone()).or_insert(Due { at: now, failures: 0, asking: false });
            if due.asking || due.at > now || asking.len() >= TOGETHER {
                continue;
            }
            // The check lets no other pass.
            let Ok(name) = name_from_user(&text) else { continue };
            due.asking = true;
            asking.spawn(ask(dns.clone(), text, name));
        }
    }
}

async fn ask(dns: View, text: String, name: Name) -> (String, Result<Duration, OpenError>) {
    let opened = dns.open_unasked(None, &name).await;
    (text, opened.map(|opened| opened.ttl))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_asked_for_when_its_answer_ends_and_sooner_after_a_failure() {
        let seconds = Duration::from_secs;
        assert_eq!(wait(Some(seconds(300)), 0), seconds(300));
        assert_eq!(wait(Some(seconds(0)), 0), LEAST);
        assert_eq!(wait(Some(seconds(86_400)), 0), MOST);
        let waits: Vec<u64> = (0..8).map(|failures| wait(None, failures).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30]);
    }
}
