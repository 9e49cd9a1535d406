//! Log lines on stderr; systemd's journal takes them from there.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

mod recent;

pub use recent::recent;

/// What decides which lines are written, in the syntax of `tracing_subscriber`'s filters: "debug", "destguard::dns=trace".
pub const VARIABLE: &str = "DESTGUARD_LOG";

/// Starts to write log lines: `info` and above, or what [`VARIABLE`] says. Called again it changes nothing.
///
/// # Errors
/// The variable holds no filter.
pub fn start() -> Result<(), String> {
    let filter = match std::env::var(VARIABLE) {
        Ok(text) => EnvFilter::try_new(&text).map_err(|error| format!("{VARIABLE}=\"{text}\": {error}"))?,
        Err(_) => EnvFilter::new("info"),
    };
    let colours = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colours);
    let lines = tracing_subscriber::registry().with(filter).with(lines).with(recent::Recent);
    // A second daemon in one process (tests) keeps the first one's.
    drop(lines.try_init());
    Ok(())
}
