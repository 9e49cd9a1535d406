//! No place in the code writes more than so many lines a while: a client that provokes them must neither fill the disk nor hide the others.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::queue;

/// Lines that one place may write at once: a start with all its warnings, or a hundred peers.
const BURST: u32 = 200;
/// After so many it has another one.
const EACH: Duration = Duration::from_millis(100);

/// What one place has left.
#[derive(Debug)]
struct Bucket {
    lines: u32,
    since: Instant,
    /// Not written since that was last told.
    dropped: u64,
}

impl Bucket {
    fn new(now: Instant) -> Self {
        Self { lines: BURST, since: now, dropped: 0 }
    }

    /// Whether one more may be written; with it, how many weren't before.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let earned = now.saturating_duration_since(self.since).as_nanos() / EACH.as_nanos();
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        if self.lines.saturating_add(earned) >= BURST {
            (self.lines, self.since) = (BURST, now);
        } else {
            self.lines = self.lines.saturating_add(earned);
            self.since += EACH.saturating_mul(earned);
        }
        if let Some(left) = self.lines.checked_sub(1) {
            self.lines = left;
            // Told with a line in ten at most, while it goes on.
            let tell = self.dropped > 0 && left > 0 || self.dropped >= 10;
            return Some(if tell { std::mem::take(&mut self.dropped) } else { 0 });
        }
        self.dropped = self.dropped.saturating_add(1);
        None
    }
}

/// Limits what is written at `info` and above; who asks for more detail wants all of it.
#[derive(Debug)]
pub struct Limit {
    /// As many as there are places in the code.
    buckets: Mutex<HashMap<Identifier, Bucket>>,
}

impl Limit {
    /// Of all places.
    pub fn new() -> Self {
        Self { buckets: Mutex::default() }
    }
}

impl<S: Subscriber> Layer<S> for Limit {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        // Levels that say more are greater.
        if *metadata.level() > Level::INFO {
            return true;
        }
        let now = Instant::now();
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = buckets.entry(metadata.callsite()).or_insert_with(|| Bucket::new(now)).take(now);
        drop(buckets);
        match taken {
            None => queue::count_dropped("flood"),
            Some(0) => {}
            Some(dropped) => {
                let (module, line) = (metadata.module_path().unwrap_or("?"), metadata.line().unwrap_or(0));
                queue::LINES
                    .push(format!("{dropped} lines like the next were left out ({module}:{line})\n").as_bytes());
            }
        }
        taken.is_some()
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn one_place_writes_so_many_at_once_and_then_so_many_a_while() {
        let now = Instant::now();
        let mut bucket = Bucket::new(now);
        assert_eq!((0..300).filter(|_| bucket.take(now).is_some()).count(), 200);
        let (mut written, mut told) = (0, 0);
        // A thousand a second, for ten seconds.
        for step in 0..10_000 {
            if let Some(dropped) = bucket.take(now + Duration::from_millis(step)) {
                written += 1;
                told += dropped;
            }
        }
        assert_eq!(written, 99);
        assert_eq!(told + bucket.dropped, 100 + 10_000 - written);
        let later = now + Duration::from_secs(60);
        assert!(bucket.take(later).is_some_and(|dropped| dropped > 0));
        assert_eq!((0..300).filter(|_| bucket.take(later).is_some()).count(), 199);
    }

    #[test]
    fn another_place_and_details_are_not_held_up() {
        #[derive(Clone, Default)]
        struct Count(std::sync::Arc<Mutex<Vec<String>>>);
        impl<S: Subscriber> Layer<S> for Count {
            fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
                self.0.lock().unwrap().push(event.metadata().level().to_string());
            }
        }
        let count = Count::default();
        let subscriber = tracing_subscriber::registry().with(Limit::new()).with(count.clone());
        tracing::subscriber::with_default(subscriber, || {
            for number in 0..1000 {
                tracing::warn!(number, "flood");
                tracing::debug!(number, "detail");
            }
            tracing::error!("another");
        });
        let seen = count.0.lock().unwrap();
        let of = |level: &str| seen.iter().filter(|one| *one == level).count();
        assert!((200..1000).contains(&of("WARN")), "{}", of("WARN"));
        assert_eq!((of("DEBUG"), of("ERROR")), (1000, 1));
    }
}
