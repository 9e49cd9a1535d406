//! `run --record`, and `replay`.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use super::{Exit, complain};
use crate::config::value::Size;
use crate::recording::{self, replay};

/// What `run` may be told of a recording.
#[derive(Debug, clap::Args)]
pub struct Record {
    /// Write all that the core hears to this file, for `replay`. What was there is overwritten.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Write names in the recording as hashes. Addresses stay.
    #[arg(long, requires = "record")]
    record_hides_names: bool,
    /// The recording ends when it is so large.
    #[arg(long, value_name = "SIZE", default_value = "1GiB", requires = "record")]
    record_limit: Size,
}

impl Record {
    pub(super) fn wanted(self) -> Option<recording::Wanted> {
        let (hide_names, most) = (self.record_hides_names, self.record_limit.0);
        self.record.map(|file| recording::Wanted { file, hide_names, most })
    }
}

/// Prints what the core makes of a recording. Fails where that is another thing than was recorded.
pub fn replay(path: &Path, quiet: bool) -> Exit {
    let named = |error: &dyn std::fmt::Display| complain(&format!("{}: {error}", path.display()), Exit::Failed);
    let file = match File::open(path) {
        Ok(file) => BufReader::new(file),
        Err(error) => return named(&error),
    };
    let mut out = BufWriter::new(std::io::stdout().lock());
    let summary = match replay::replay(file, quiet, &mut out) {
        Ok(summary) => summary,
        // A reader that went away (`| head`).
        Err(replay::ReplayError::Io(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => return Exit::Done,
        Err(error) => {
            // What was replayed so far leads there.
            drop(out.flush());
            return named(&error);
        }
    };
    let ended = match &summary.why {
        Some(why) => format!("ended since {why}"),
        None => "ends within a turn: the process was killed".to_owned(),
    };
    let told = writeln!(
        out,
        "{} events of destguard {}: {} answers released, {} refused; {} turns decided otherwise than recorded; the recording {ended}",
        summary.events, summary.version, summary.released, summary.refused, summary.different
    );
    if told.and_then(|()| out.flush()).is_err_and(|error| error.kind() != std::io::ErrorKind::BrokenPipe) {
        return Exit::Failed;
    }
    if summary.different == 0 { Exit::Done } else { Exit::Failed }
}
