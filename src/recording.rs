//! What the core hears, in a file, and what it makes of it again.
//!
//! ```text
//!   destguard run --record FILE      core --event, time--> Recorder --turn, bounded--> thread --lines--> FILE
//!   destguard replay FILE            FILE --event, time--> the same core --> every decision, and whether it is the one that was recorded
//! ```
//!
//! The core is a function of what it hears and when, so that a file of that is a fault report. Each [`mod@line`] is JSON. A recording never holds the
//! core up: what the disk doesn't take in time ends it, and so does its size.

use std::path::PathBuf;

mod hidden;
pub mod line;
mod recorder;
pub mod replay;
mod words;

pub use recorder::{RecordError, Recorder};

/// What `run` was told of a recording.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Where to; what was there is overwritten.
    pub file: PathBuf,
    /// Labels of names are written as keyed hashes, so that the file may be shown to others.
    pub hide_names: bool,
    /// Most octets; then the recording ends.
    pub most: u64,
}

#[cfg(test)]
mod tests;
