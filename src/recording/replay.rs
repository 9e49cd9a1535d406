//! Runs a recording through the core again, on the recording's clock.

use std::io::{BufRead, Read as _, Write};

use super::line::{Beginning, Line, Said};
use super::words;
use crate::core::event::{Event, Output};
use crate::core::guard::Guard;
use crate::core::moment::Moment;

/// Most octets of a line: all that is restored stands in one.
const LINE: u64 = 512 << 20;

/// Why a recording can't be replayed, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The file can't be read, or what is printed can't be written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A line is none of a recording.
    #[error("line {line}: {source}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What JSON's reader says of the line.
        source: serde_json::Error,
    },
    /// An event that an earlier version recorded, before a reload was one event.
    #[error(
        "line {line}: the event {event} is of an earlier version ({version} recorded it): replay it with that version"
    )]
    Earlier {
        /// Counted from 1.
        line: usize,
        /// The name of the event, as the line has it.
        event: &'static str,
        /// The version that recorded.
        version: String,
    },
    /// A line is longer than any of a recording.
    #[error("line {0}: longer than {LINE} octets")]
    Long(usize),
    /// The first line says nothing of how the core began.
    #[error("line {0}: a recording begins with what the core began with")]
    NoBeginning(usize),
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Of the program that recorded.
    pub version: String,
    /// Events that the core was given again.
    pub events: usize,
    /// Answers that the core released.
    pub released: usize,
    /// Answers that the core refused.
    pub refused: usize,
    /// Turns whose decisions are others than those recorded.
    pub different: usize,
    /// The file ends within a line, or without a last one: the process was killed.
    pub torn: bool,
    /// Why the recording ended.
    pub why: Option<String>,
}

/// Replays and prints every event, plan and decision to `out`; `quiet`: only where decisions are others than those recorded.
///
/// # Errors
/// [`ReplayError`].
pub fn replay(recording: impl BufRead, quiet: bool, out: &mut impl Write) -> Result<Summary, ReplayError> {
    let mut recording = recording;
    let mut core: Option<Replayed> = None;
    let mut summary = Summary { torn: true, ..Summary::default() };
    let mut text = Vec::new();
    for at in 1.. {
        text.clear();
        // Files come from strangers.
        if recording.by_ref().take(LINE).read_until(b'\n', &mut text)? == 0 {
            break;
        }
        let is_whole = text.ends_with(b"\n");
        if !is_whole && u64::try_from(text.len()).is_ok_and(|length| length >= LINE) {
            return Err(ReplayError::Long(at));
        }
        let line = match serde_json::from_slice::<Line<Event>>(&text) {
            Ok(line) => line,
            // The process was killed while it wrote.
            Err(error) if error.is_eof() && !is_whole => break,
            Err(source) => return Err(unreadable(at, &text, summary.version, source)),
        };
        match (line, &mut core) {
            (Line::Begins(begins), _) => {
                summary.version.clone_from(&begins.version);
                core = Some(Replayed::new(&begins));
            }
            (_, None) => return Err(ReplayError::NoBeginning(at)),
            (Line::Event { at, event }, Some(core)) => {
                summary.events += 1;
                if !quiet {
                    writeln!(out, "{} < {}", words::seconds(at.0), words::event(&event))?;
                }
                core.now = at;
                core.guard.handle(event, at);
            }
            (Line::Timeout { at }, Some(core)) => {
                core.now = at;
                core.guard.handle_timeout(at);
            }
            (Line::Turn { decided }, Some(core)) => core.turn(&decided, quiet, out, &mut summary)?,
            (Line::Ends { why }, Some(_)) => {
                summary.why = Some(why);
                summary.torn = false;
                break;
            }
        }
    }
    Ok(summary)
}

/// Events that a reload was made of before it was one event; nothing writes them any more.
const EARLIER: [&str; 9] =
    ["Announce", "Enforcers", "Forbid", "ForbidPairs", "Groups", "Linger", "Narrowly", "Reopen", "Settings"];

/// Why this line is none that this version replays.
fn unreadable(line: usize, text: &[u8], version: String, source: serde_json::Error) -> ReplayError {
    let Ok(Line::Event { event, .. }) = serde_json::from_slice::<Line<serde_json::Value>>(text) else {
        return ReplayError::Line { line, source };
    };
    let is_named = |name: &&str| event.as_str() == Some(*name) || event.get(*name).is_some();
    match EARLIER.into_iter().find(is_named) {
        Some(event) => ReplayError::Earlier { line, event, version },
        None => ReplayError::Line { line, source },
    }
}

struct Replayed {
    guard: Guard,
    now: Moment,
}

impl Replayed {
    fn new(begins: &Beginning) -> Self {
        Self { guard: begins.guard(), now: Moment::ZERO }
    }

    fn turn(
        &mut self,
        recorded: &[(u64, Said)],
        quiet: bool,
        out: &mut impl Write,
        summary: &mut Summary,
    ) -> std::io::Result<()> {
        let at = words::seconds(self.now.0);
        let mut decided = Vec::new();
        while let Some(output) = self.guard.poll_output() {
            if let Some(words) = words::output(&output).filter(|_| !quiet) {
                writeln!(out, "{at}   {words}")?;
            }
            if let Output::Decide { ticket, decision } = output {
                decided.push((ticket.0, Said::from(&decision)));
            }
        }
        for (ticket, said) in &decided {
            match said {
                Said::Released { .. } => summary.released += 1,
                Said::Refused(_) => summary.refused += 1,
            }
            if !quiet {
                writeln!(out, "{at} > #{ticket} {}", told(said))?;
            }
        }
        if decided != recorded {
            summary.different += 1;
            let list = |all: &[(u64, Said)]| {
                let each = all.iter().map(|(ticket, said)| format!("#{ticket} {}", told(said)));
                each.collect::<Vec<_>>().join(", ")
            };
            writeln!(out, "{at} ! recorded: [{}], now: [{}]", list(recorded), list(&decided))?;
        }
        Ok(())
    }
}

fn told(said: &Said) -> String {
    match said {
        Said::Released { leases, short: None } => format!("released, {leases} leases"),
        Said::Released { leases, short: Some(why) } => format!("released, {leases} leases, not all for {why}"),
        Said::Refused(why) => format!("refused: {why}"),
    }
}
