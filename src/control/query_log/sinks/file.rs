//! A file of lines, with those before it.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use super::Sink;
use crate::sys::{disk, private};

/// Octets that are written at once; far less than a file holds.
const AT_ONCE: usize = 64 << 10;
/// Percent of the disk that leases lie on, from which on this file takes no more of it.
const FULL: u64 = 95;

/// A line of the file.
pub fn line(_time: u64, mut json: Vec<u8>) -> Vec<u8> {
    json.push(b'\n');
    json
}

/// The file of the log, which is opened anew when another has its name.
pub struct File {
    path: PathBuf,
    size: u64,
    keep: u32,
    /// It lies beside the leases: its directory is made, and room is left for them.
    spare: bool,
    open: Option<fs::File>,
}

impl File {
    /// Opened with the first write.
    pub fn new(path: PathBuf, size: u64, keep: u32, spare: bool) -> Self {
        Self { path, size, keep, spare, open: None }
    }

    /// The file and its length; opened anew when another file, or none, has its name.
    fn ready(&mut self) -> io::Result<(&mut fs::File, u64)> {
        let own = self.open.take().and_then(|file| file.metadata().ok().map(|is| (file, is)));
        let there = match fs::metadata(&self.path) {
            Ok(is) => Some((is.dev(), is.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let (file, len) = match own {
            Some((file, is)) if there == Some((is.dev(), is.ino())) => (file, is.len()),
            _ => self.begin()?,
        };
        Ok((self.open.insert(file), len))
    }

    fn begin(&self) -> io::Result<(fs::File, u64)> {
        if self.spare
            && let Some(directory) = self.path.parent()
        {
            private::directory(directory)?;
        }
        let mut options = OpenOptions::new();
        // Of a pipe it may not wait for the reader.
        options.append(true).create(true).mode(0o640).custom_flags(libc::O_NONBLOCK);
        let file = options.open(&self.path)?;
        let is = file.metadata()?;
        if !is.is_file() {
            return Err(io::Error::other("is no regular file"));
        }
        Ok((file, is.len()))
    }

    fn former(&self, number: u32) -> PathBuf {
        let mut path = OsString::from(&self.path);
        path.push(format!(".{number}"));
        PathBuf::from(path)
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.open = None;
        let there = |result: io::Result<()>| match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        };
        if self.keep == 0 {
            return there(fs::remove_file(&self.path));
        }
        for number in (1..self.keep).rev() {
            there(fs::rename(self.former(number), self.former(number.saturating_add(1))))?;
        }
        there(fs::rename(&self.path, self.former(1)))
    }

    /// Writes a text whole or not at all.
    fn append(&mut self, text: &[u8]) -> io::Result<()> {
        let size = self.size;
        let (mut file, mut len) = self.ready()?;
        if len > 0 && len.saturating_add(super::count(text.len())) > size {
            self.rotate()?;
            (file, len) = self.ready()?;
        }
        let written = file.write_all(text);
        if written.is_err() {
            // A half line would spoil the one behind it.
            if let Err(error) = file.set_len(len) {
                tracing::debug!(%error, "half a line stays in the query log");
            }
            self.open = None;
        }
        written
    }
}

impl Sink for File {
    fn write(&mut self, items: &mut VecDeque<Vec<u8>>) -> io::Result<()> {
        self.ready()?;
        if self.spare
            && let Some(room) = self.path.parent().and_then(|directory| disk::room(directory).ok())
            && room.percent >= FULL
        {
            return Err(io::Error::other(format!("the disk is {} % full: what is left is for leases", room.percent)));
        }
        while !items.is_empty() {
            let mut text = Vec::new();
            let mut lines = 0usize;
            for item in items.iter() {
                if lines > 0 && text.len().saturating_add(item.len()) > AT_ONCE {
                    break;
                }
                text.extend_from_slice(item);
                lines = lines.saturating_add(1);
            }
            self.append(&text)?;
            items.drain(..lines);
        }
        Ok(())
    }
}
