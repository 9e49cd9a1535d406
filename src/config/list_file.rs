//! The octets of a list file, and by what one sees that it changed.

use std::io::{self, Read as _};
use std::path::Path;
use std::time::SystemTime;

/// Most octets of one list file: four million names and more.
pub const MOST_OCTETS: u64 = 128 << 20;

/// Why a file is no list that can be read, as words behind its name.
#[derive(Debug, thiserror::Error)]
pub enum ListFileError {
    /// It isn't there, or the kernel refuses.
    #[error("can't be read: {0}")]
    Unreadable(#[source] io::Error),
    /// It is a directory, a pipe or the like.
    #[error("is not a regular file")]
    NotRegular,
    /// It would take too much memory.
    #[error("is longer than {MOST_OCTETS} octets")]
    TooLong,
    /// Somebody writes it now.
    #[error("changes while it is read")]
    Changes,
}

/// What changes when somebody writes a file or puts another in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    octets: u64,
    modified: Option<SystemTime>,
    /// Seconds and nanoseconds: also a write that sets the old time of modification back is one.
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &std::fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            octets: metadata.len(),
            modified: metadata.modified().ok(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// As of now; `None`: there is no file, or nobody may see it.
    #[must_use]
    pub fn now(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().map(|metadata| Self::of(&metadata))
    }
}

/// The whole file.
///
/// # Errors
/// See [`ListFileError`].
pub fn read(path: &Path) -> Result<(Vec<u8>, Stamp), ListFileError> {
    let unreadable = ListFileError::Unreadable;
    // Opening a pipe would wait for its writer.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(ListFileError::NotRegular);
    }
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let before = Stamp::of(&file.metadata().map_err(unreadable)?);
    let mut content = Vec::with_capacity(usize::try_from(before.octets.min(MOST_OCTETS)).unwrap_or(0));
    (&file).take(MOST_OCTETS.saturating_add(1)).read_to_end(&mut content).map_err(unreadable)?;
    if u64::try_from(content.len()).unwrap_or(u64::MAX) > MOST_OCTETS {
        return Err(ListFileError::TooLong);
    }
    let after = Stamp::of(&file.metadata().map_err(unreadable)?);
    if before != after {
        return Err(ListFileError::Changes);
    }
    Ok((content, after))
}
