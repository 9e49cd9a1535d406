//! Writes a recording, in a thread of its own.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use serde::Serialize;

use super::Wanted;
use super::hidden::Hider;
use super::line::{Beginning, Line, Said};
use crate::core::event::{Decision, Event, Reload, Ticket};
use crate::core::moment::Moment;

/// Turns that wait for the disk, and their octets; one turn alone may be longer.
const WAITING: usize = 1024;
const MOST_WAITING: usize = 64 << 20;
/// A turn is handed over as soon as it is so long, in octets.
const LONG: usize = 1 << 20;

const SLOW: &str = "the disk is too slow for it";

/// Why there is no recording.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The recording's file can't be made or written.
    #[error("--record {path}: {source}")]
    File {
        /// The file's path, as `--record` names it.
        path: String,
        /// The kernel's word on the file.
        source: std::io::Error,
    },
    /// The thread that writes the file can't be started.
    #[error("--record: no thread to write it: {0}")]
    Thread(std::io::Error),
}

/// A recording that goes on. It ends when it is dropped, or before by its bounds.
#[derive(Debug)]
pub struct Recorder {
    turns: Option<SyncSender<Vec<u8>>>,
    /// Of this turn.
    lines: Vec<u8>,
    /// Something was heard since the last turn.
    heard: bool,
    left: u64,
    /// Octets that wait for the disk.
    waiting: Arc<AtomicUsize>,
}

impl Recorder {
    /// Opens the file, which only its owner may read. Before the daemon gives up its rights to write.
    ///
    /// # Errors
    /// [`RecordError::File`].
    pub fn open(wanted: &Wanted) -> Result<File, RecordError> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let named = |source| RecordError::File { path: wanted.file.display().to_string(), source };
        options.open(&wanted.file).map_err(named)
    }

    /// Begins to write to a file that was opened.
    ///
    /// # Errors
    /// [`RecordError::Thread`].
    pub fn start(file: File, wanted: &Wanted, begins: Beginning) -> Result<Self, RecordError> {
        let (turns, written) = sync_channel(WAITING);
        let hider = wanted.hide_names.then(Hider::default);
        let path = wanted.file.clone();
        let waiting = Arc::<AtomicUsize>::default();
        let taken = Arc::clone(&waiting);
        let write = move || write((file, &path), hider.as_ref(), &written, &taken);
        std::thread::Builder::new().name("recorder".to_owned()).spawn(write).map_err(RecordError::Thread)?;
        let mut recorder = Self { turns: Some(turns), lines: Vec::new(), heard: true, left: wanted.most, waiting };
        recorder.put(&Line::<()>::Begins(Box::new(begins)));
        recorder.hand_over();
        Ok(recorder)
    }

    /// The core hears this. A reload counts from when it is in force: see [`Recorder::reloaded`].
    pub fn event(&mut self, event: &Event, at: Moment) {
        if matches!(event, Event::Reload(_)) {
            return;
        }
        self.heard = true;
        self.put(&Line::Event { at, event });
    }

    /// A reload came in force, with what its rules forbade.
    pub fn reloaded(&mut self, reload: Box<Reload>, at: Moment) {
        self.heard = true;
        self.put(&Line::Event { at, event: &Event::Reload(reload) });
    }

    /// The core does what is due.
    pub fn timeout(&mut self, at: Moment) {
        self.heard = true;
        self.put(&Line::<()>::Timeout { at });
    }

    /// A turn is over.
    pub fn turn(&mut self, decisions: &[(Ticket, Decision)]) {
        if self.turns.is_none() || !std::mem::take(&mut self.heard) {
            return;
        }
        let decided = decisions.iter().map(|(ticket, decision)| (ticket.0, Said::from(decision))).collect();
        self.put(&Line::<()>::Turn { decided });
        self.hand_over();
    }

    fn put<E: Serialize>(&mut self, line: &Line<E>) {
        if self.turns.is_none() {
            return;
        }
        let begin = self.lines.len();
        if let Err(error) = serde_json::to_writer(&mut self.lines, line) {
            self.lines.truncate(begin);
            self.end(&format!("an event could not be written: {error}"));
            return;
        }
        self.lines.push(b'\n');
        let octets = u64::try_from(self.lines.len() - begin).unwrap_or(u64::MAX);
        match self.left.checked_sub(octets) {
            Some(left) => self.left = left,
            None => {
                self.lines.truncate(begin);
                self.end("it is as large as it may be (--record-limit)");
            }
        }
        if self.lines.len() > LONG {
            self.hand_over();
        }
    }

    fn hand_over(&mut self) {
        let Some(turns) = &self.turns else { return };
        let (octets, waiting) = (self.lines.len(), self.waiting.load(Ordering::Relaxed));
        if waiting > 0 && waiting.saturating_add(octets) > MOST_WAITING {
            self.lines.clear();
            self.end(SLOW);
            return;
        }
        // Before the other end can take them from it.
        self.waiting.fetch_add(octets, Ordering::Relaxed);
        match turns.try_send(std::mem::take(&mut self.lines)) {
            Ok(()) => {}
            // With a gap it would say what was not.
            Err(TrySendError::Full(_)) => self.end(SLOW),
            Err(TrySendError::Disconnected(_)) => self.turns = None,
        }
    }

    /// What was heard so far is kept; nothing more is recorded.
    fn end(&mut self, why: &str) {
        tracing::warn!("the recording ends: {why}");
        let mut last = std::mem::take(&mut self.lines);
        if serde_json::to_writer(&mut last, &Line::<()>::Ends { why: why.to_owned() }).is_ok() {
            last.push(b'\n');
        }
        // Where the channel is full the file ends as one of a process that was killed does.
        if let Some(turns) = self.turns.take()
            && turns.try_send(last).is_err()
        {
            tracing::debug!("the recording has no last line");
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if self.turns.is_some() {
            self.end("the guard stops");
        }
    }
}

fn write((file, path): (File, &Path), hider: Option<&Hider>, turns: &Receiver<Vec<u8>>, waiting: &AtomicUsize) {
    let mut file = BufWriter::new(file);
    let mut put = || -> std::io::Result<()> {
        while let Ok(mut lines) = turns.recv() {
            loop {
                match hider {
                    Some(hider) => file.write_all(hider.hide(&String::from_utf8_lossy(&lines)).as_bytes())?,
                    None => file.write_all(&lines)?,
                }
                waiting.fetch_sub(lines.len(), Ordering::Relaxed);
                match turns.try_recv() {
                    Ok(more) => lines = more,
                    Err(_) => break,
                }
            }
            // Whatever has been heard is in the file when the process is killed.
            file.flush()?;
        }
        Ok(())
    };
    if let Err(error) = put() {
        tracing::error!(%error, file = %path.display(), "the recording ends: it can't be written");
    }
}
