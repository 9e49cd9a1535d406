//! Lines that wait to be written, and the thread that writes them.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

/// Octets that may wait; more are dropped.
const MOST: usize = 1 << 20;
/// How long the writer waits where stderr doesn't block and is full.
const FULL: Duration = Duration::from_millis(50);
/// Between two lines that say how many were dropped.
const TELL: Duration = Duration::from_secs(10);

/// The process's, as the subscriber is.
pub static LINES: Lines = Lines::new();
static STARTED: AtomicBool = AtomicBool::new(false);

/// Lines that weren't written, by reason.
pub static DROPPED: LazyLock<Family<[(&'static str, &'static str); 1], Counter>> = LazyLock::new(Family::default);

/// Counts a line that is not written.
pub fn count_dropped(reason: &'static str) {
    DROPPED.get_or_create(&[("reason", reason)]).inc();
}

/// Whether there is a writer.
pub fn is_started() -> bool {
    STARTED.load(Ordering::Acquire)
}

/// Starts the writer.
///
/// # Errors
/// There is no stderr, or no thread.
pub fn start() -> io::Result<()> {
    // A descriptor beside std's handle, whose lock nobody else must wait for.
    let stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    std::thread::Builder::new().name("log".to_owned()).spawn(move || LINES.write_to(stderr))?;
    STARTED.store(true, Ordering::Release);
    Ok(())
}

/// A bounded queue of lines.
#[derive(Debug)]
pub struct Lines {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug)]
struct Waiting {
    lines: VecDeque<Vec<u8>>,
    octets: usize,
    /// One is out of the queue and not yet written.
    writing: bool,
    /// Since that was last told.
    dropped: u64,
}

impl Lines {
    const fn new() -> Self {
        let waiting = Waiting { lines: VecDeque::new(), octets: 0, writing: false, dropped: 0 };
        Self { waiting: Mutex::new(waiting), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a line, or drops it: nobody waits.
    pub fn push(&self, line: &[u8]) {
        let mut waiting = self.lock();
        let octets = waiting.octets.saturating_add(line.len());
        if octets > MOST {
            waiting.dropped = waiting.dropped.saturating_add(1);
            count_dropped("unread");
            return;
        }
        waiting.octets = octets;
        waiting.lines.push_back(line.to_vec());
        drop(waiting);
        self.changed.notify_all();
    }

    /// Waits until everything that was taken is written, at most so long.
    pub fn wait_until_empty(&self, most: Duration) {
        let end = Instant::now() + most;
        let mut waiting = self.lock();
        while waiting.writing || !waiting.lines.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            waiting = self.changed.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Writes for ever.
    fn write_to(&self, mut out: impl Write) {
        let mut told: Option<Instant> = None;
        loop {
            let line = self.next();
            if write_whole(&mut out, &line).is_err() {
                // Stderr is closed, or its disk full: the line is gone, and others may fare better.
                count_dropped("unread");
            }
            let mut waiting = self.lock();
            waiting.writing = false;
            let mut dropped = 0;
            // Said when there is a reader again, and room.
            if waiting.octets < MOST / 2 && told.is_none_or(|told| told.elapsed() >= TELL) {
                dropped = std::mem::take(&mut waiting.dropped);
            }
            drop(waiting);
            self.changed.notify_all();
            if dropped > 0 {
                told = Some(Instant::now());
                tracing::warn!(lines = dropped, "log lines were dropped: nobody took them from stderr in time");
            }
        }
    }

    /// The next line, once there is one.
    fn next(&self) -> Vec<u8> {
        let mut waiting = self.lock();
        loop {
            if let Some(line) = waiting.lines.pop_front() {
                waiting.octets = waiting.octets.saturating_sub(line.len());
                waiting.writing = true;
                return line;
            }
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Also where stderr doesn't block: others may have set it so.
fn write_whole(out: &mut impl Write, mut line: &[u8]) -> io::Result<()> {
    while !line.is_empty() {
        match out.write(line) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => line = line.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(FULL),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Takes one line as the subscriber writes it: whole, at once.
pub struct Line(pub &'static Lines);

impl Write for Line {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.push(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_a_reader_and_what_it_missed_is_counted() {
        let lines: &'static Lines = Box::leak(Box::new(Lines::new()));
        let (mut reader, writer) = io::pipe().unwrap();
        std::thread::spawn(move || lines.write_to(writer));
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        // The pipe takes 64 KiB of them, the queue 1 MiB.
        for _ in 0..3000 {
            Line(lines).write_all(&line).unwrap();
        }
        let dropped = lines.lock().dropped;
        assert!((3000 - 1024 - 66..3000).contains(&dropped), "{dropped}");
        lines.wait_until_empty(Duration::from_millis(10));
        assert!(!lines.lock().lines.is_empty(), "nobody has read");
        let written = usize::try_from(3000 - dropped).unwrap() * line.len();
        let mut read = vec![0; written];
        io::Read::read_exact(&mut reader, &mut read).unwrap();
        assert!(read.chunks(line.len()).all(|one| one == line));
        lines.wait_until_empty(Duration::from_secs(60));
        let waiting = lines.lock();
        assert_eq!((waiting.octets, waiting.writing, waiting.dropped), (0, false, 0));
    }

    #[test]
    fn a_stderr_that_does_not_block_gets_whole_lines() {
        struct Shy(Vec<u8>, bool);
        impl Write for Shy {
            fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
                self.1 = !self.1;
                if self.1 {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                self.0.extend(octets.iter().take(3));
                Ok(octets.len().min(3))
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut out = Shy(Vec::new(), false);
        write_whole(&mut out, b"a line\n").unwrap();
        assert_eq!(out.0, b"a line\n");
    }
}
