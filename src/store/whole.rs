//! Files that are written whole beside the old one and renamed over it, and believed only when their sum is right.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::record::crc32c;

/// Why such a file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// It can't be opened.
    #[error("{}: {source}", path.display())]
    Open {
        /// The path of the file.
        path: PathBuf,
        /// The kernel's word.
        source: io::Error,
    },
    /// It holds something else.
    #[error("{}: {source}; {kept}", path.display())]
    Content {
        /// The path of the file.
        path: PathBuf,
        /// What is wrong with it.
        source: Wrong,
        /// Where it is now.
        kept: Kept,
    },
}

/// What is wrong with a file's content.
#[derive(Debug, thiserror::Error)]
pub enum Wrong {
    /// It can't be read to its end.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// Its octets are no text.
    #[error("not text")]
    NotText,
    /// Its head is another's.
    #[error("not a file of {0}")]
    Kind(&'static str),
    /// Its content is not what was written.
    #[error("its checksum is wrong")]
    Sum,
    /// Its content is none that this version reads.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// What became of a file that can't be used: nothing is thrown away.
#[derive(Debug)]
pub enum Kept {
    /// It has another name.
    As(PathBuf),
    /// It lies where it was.
    There(io::Error),
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::As(path) => write!(f, "it is kept as {}", path.display()),
            Self::There(error) => write!(f, "and it can't be moved aside: {error}"),
        }
    }
}

/// One kind of file.
pub(super) struct Whole {
    /// Its name in the state directory.
    pub(super) file: &'static str,
    /// Its name when it can't be used.
    pub(super) bad: &'static str,
    /// What its first line begins with.
    pub(super) magic: &'static str,
    /// What it holds, in words.
    pub(super) holds: &'static str,
    /// Octets read at most.
    pub(super) largest: u64,
}

impl Whole {
    /// What is written; nothing where there is no file.
    pub(super) fn read<T: DeserializeOwned + Default>(&self, directory: &Path) -> Result<T, Unusable> {
        let path = directory.join(self.file);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(T::default()),
            Err(source) => return Err(Unusable::Open { path, source }),
        };
        let mut octets = Vec::new();
        let read = file.take(self.largest).read_to_end(&mut octets).map_err(Wrong::Read);
        read.and_then(|_| self.parse(&octets)).map_err(|source| {
            let beside = directory.join(self.bad);
            let kept = match std::fs::rename(&path, &beside) {
                Ok(()) => Kept::As(beside),
                Err(error) => Kept::There(error),
            };
            Unusable::Content { path, source, kept }
        })
    }

    fn parse<T: DeserializeOwned>(&self, octets: &[u8]) -> Result<T, Wrong> {
        let text = std::str::from_utf8(octets).map_err(|_| Wrong::NotText)?;
        let (head, body) = text.split_once('\n').ok_or(Wrong::Kind(self.holds))?;
        let sum = head.strip_prefix(self.magic).and_then(|sum| u32::from_str_radix(sum.trim(), 16).ok());
        match sum {
            None => Err(Wrong::Kind(self.holds)),
            Some(sum) if sum != crc32c(&[body.as_bytes()]) => Err(Wrong::Sum),
            Some(_) => Ok(serde_json::from_str(body)?),
        }
    }

    /// Writes it in place of what there is, a line for each part where people may read it.
    pub(super) fn write<T: Serialize + ?Sized>(&self, directory: &Path, what: &T, pretty: bool) -> io::Result<()> {
        let body = if pretty { serde_json::to_string_pretty(what)? } else { serde_json::to_string(what)? };
        let text = format!("{} {:08x}\n{body}", self.magic, crc32c(&[body.as_bytes()]));
        crate::sys::private::directory(directory)?;
        crate::sys::private::replace(&directory.join(self.file), &[text.as_bytes()])
    }
}
