//! The last warnings and errors, for `status`: an operator looks there before the journal.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// Kept; older ones are in the log.
const KEPT: usize = 16;
/// Octets of one that are kept.
const LONGEST: usize = 400;

/// One for the process, as the subscriber is.
static LINES: Mutex<VecDeque<(Instant, String)>> = Mutex::new(VecDeque::new());

/// The last warnings and errors with their times, newest first; the same one again counts once, as the newest.
#[must_use]
pub fn recent() -> Vec<(Instant, String)> {
    let lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    lines.iter().rev().cloned().collect()
}

/// Takes note of them.
#[derive(Clone, Copy, Debug)]
pub struct Recent;

impl<S: Subscriber> Layer<S> for Recent {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        // Levels that say more are greater.
        if *event.metadata().level() > Level::WARN {
            return;
        }
        let mut line = Line::default();
        event.record(&mut line);
        // Indented lines show a place in a file; without them it is one line.
        let told: Vec<&str> = line.message.lines().take_while(|line| !line.starts_with(' ')).collect();
        line.message = told.join(" ");
        line.message.push_str(&line.fields);
        let cut =
            (0..=LONGEST.min(line.message.len())).rev().find(|at| line.message.is_char_boundary(*at)).unwrap_or(0);
        line.message.truncate(cut);
        let mut lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
        lines.retain(|(_, known)| *known != line.message);
        if lines.len() >= KEPT {
            lines.pop_front();
        }
        lines.push_back((Instant::now(), line.message));
    }
}

/// An event in one line: its message, then the fields.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a string can't fail.
        let written = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
        debug_assert!(written.is_ok());
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn warnings_are_kept_newest_first_and_once_and_information_is_not() {
        let subscriber = tracing_subscriber::registry().with(Recent);
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(path = %"/x", octets = 3, "one");
            tracing::info!("information");
            for number in 0..50 {
                tracing::error!(number, "many");
            }
            tracing::warn!(path = %"/x", octets = 3, "one");
            tracing::error!("panicked at x.rs:1:2:\nwhy");
            tracing::warn!("x.toml:3:1: warning: what\n    3 | key = 5\n      | ^^^\n      = help");
            tracing::error!("{}", "long ".repeat(200));
        });
        let seen: Vec<String> = recent().into_iter().map(|(_, line)| line).collect();
        assert_eq!(seen.len(), KEPT);
        assert_eq!(seen[0].len(), LONGEST);
        assert_eq!((seen[1].as_str(), seen[2].as_str()), ("x.toml:3:1: warning: what", "panicked at x.rs:1:2: why"));
        assert_eq!((seen[3].as_str(), seen[4].as_str()), ("one path=/x octets=3", "many number=49"));
        assert_eq!(seen.iter().filter(|line| line.starts_with("one")).count(), 1);
    }
}
