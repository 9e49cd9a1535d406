//! What is counted of log lines.

use prometheus_client::registry::Registry;

use crate::sys::log::DROPPED;

/// Registers the counter of lines in the log, by level.
pub fn register(registry: &mut Registry) {
    super::labelled(
        registry,
        "log_lines_dropped",
        "Log lines that weren't written: unread, where nobody took them from stderr; flood, too many from one place in the code",
        &DROPPED,
    );
}
