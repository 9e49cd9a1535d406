//! Log lines on stderr; systemd's journal takes them from there.
//!
//! Whoever logs never waits: a line goes into a bounded queue, and a thread of its own writes it ([`queue`]). What nobody reads is dropped and
//! counted. One place in the code that logs again and again is limited ([`flood`]).

use std::io::IsTerminal;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

mod flood;
mod queue;
mod recent;

pub use queue::DROPPED;
pub use recent::recent;

/// What decides which lines are written, in the syntax of `tracing_subscriber`'s filters: "debug", "destguard::dns=trace".
pub const VARIABLE: &str = "DESTGUARD_LOG";

/// How long the end of the process waits for a reader.
const FAREWELL: Duration = Duration::from_secs(2);

/// Why no log is written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// [`VARIABLE`] holds no filter.
    #[error("{VARIABLE}=\"{text}\": {source}")]
    Filter {
        /// What it holds.
        text: String,
        /// The parser's word.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The thread that writes can't be had.
    #[error("the log's writer can't be started: {0}")]
    Writer(#[source] std::io::Error),
}

/// Starts to write log lines: `info` and above, or what [`VARIABLE`] says. Called again it changes nothing.
///
/// # Errors
/// See [`LogError`].
pub fn start() -> Result<(), LogError> {
    let filter = match std::env::var(VARIABLE) {
        Ok(text) => EnvFilter::try_new(&text).map_err(|source| LogError::Filter { text, source })?,
        Err(_) => EnvFilter::new("info"),
    };
    let colours = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_writer(|| queue::Line(&queue::LINES)).with_ansi(colours);
    let lines = tracing_subscriber::registry().with(filter).with(flood::Limit::new()).with(lines).with(recent::Recent);
    // A second daemon in one process (tests) keeps the first one's.
    if lines.try_init().is_ok() {
        queue::start().map_err(LogError::Writer)?;
        // The usual hook would wait for whoever reads stderr.
        std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
    }
    Ok(())
}

/// Waits until everything is written, or nobody seems to read it.
pub fn finish() {
    queue::LINES.wait_until_empty(FAREWELL);
}

/// Writes a line as it is, behind all others, and waits for it as [`finish`] does.
pub fn say(line: &str) {
    if queue::is_started() {
        queue::LINES.push(format!("{line}\n").as_bytes());
        finish();
    } else {
        use std::io::Write;
        // Nobody is left to tell when stderr is gone.
        drop(writeln!(std::io::stderr(), "{line}"));
    }
}
