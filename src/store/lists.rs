//! The last readable copy of each list and local zone, in `lists/` and `zones/` of the state directory: what serves when the file itself can't be read at a start.
//!
//! A copy begins with a line that names its list and format and bears a sum over the rest. It is written whole beside the old one,
//! flushed and renamed over it. There is one for each list of the configuration; others are removed.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::record::crc32c;
use crate::config::list_file::MOST_OCTETS;
use crate::config::schema::ListFormat;

/// Where copies of lists lie.
pub const LISTS: &str = "lists";
/// Where copies of local zones lie.
pub const ZONES: &str = "zones";
const MAGIC: &str = "destguard list 1";
/// Octets of the first line at most: a path has 4,096, each written with four.
const HEAD: usize = 32 << 10;

/// Which list a copy is of. The same file read as another format is another list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Which {
    /// [`LISTS`] or [`ZONES`].
    pub directory: &'static str,
    /// The path of the list's file, as configured.
    pub path: PathBuf,
    /// How it is written.
    pub format: ListFormat,
}

impl Which {
    fn file_name(&self) -> String {
        let digest = ring::digest::digest(&ring::digest::SHA256, self.title().as_bytes());
        digest.as_ref().iter().take(16).map(|octet| format!("{octet:02x}")).collect()
    }

    /// One line, whatever the path has.
    fn title(&self) -> String {
        format!("{:?} {}", self.format, self.path.as_os_str().as_bytes().escape_ascii())
    }

    fn head(&self, content: &[u8]) -> String {
        format!("{MAGIC} {:08x} {}\n", crc32c(&[content]), self.title())
    }
}

/// Why a list's copy can't be used.
#[derive(Debug, thiserror::Error)]
#[error("its copy {} can't be used: {source}", path.display())]
pub struct BadCopy {
    /// The path of the copy.
    pub path: PathBuf,
    /// What is wrong with it.
    pub source: Wrong,
}

/// What is wrong with a copy.
#[derive(Debug, thiserror::Error)]
pub enum Wrong {
    /// It can't be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// It has no first line.
    #[error("it has no head")]
    Head,
    /// It is another list's, or not what was written.
    #[error("its head or checksum is wrong")]
    Sum,
}

/// The list as it was when it was last kept; `None` where it never was.
///
/// # Errors
/// Why the copy can't be used.
pub fn read(state: &Path, which: &Which) -> Result<Option<Vec<u8>>, BadCopy> {
    let path = state.join(which.directory).join(which.file_name());
    read_at(&path, which).map_err(|source| BadCopy { path, source })
}

fn read_at(path: &Path, which: &Which) -> Result<Option<Vec<u8>>, Wrong> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let most = MOST_OCTETS.saturating_add(u64::try_from(HEAD).unwrap_or(0));
    let mut octets = Vec::new();
    file.take(most).read_to_end(&mut octets)?;
    let end = octets.iter().take(HEAD).position(|octet| *octet == b'\n').ok_or(Wrong::Head)?;
    let content = octets.split_off(end.saturating_add(1));
    if octets == which.head(&content).as_bytes() { Ok(Some(content)) } else { Err(Wrong::Sum) }
}

/// Keeps a list in place of what was kept of it. Nothing is written when it is the same.
///
/// # Errors
/// The disk's; the old copy is still there then.
pub fn keep(state: &Path, which: &Which, content: &[u8]) -> io::Result<()> {
    if read(state, which).is_ok_and(|held| held.as_deref() == Some(content)) {
        return Ok(());
    }
    let directory = state.join(which.directory);
    crate::sys::private::directory(&directory)?;
    crate::sys::private::replace(&directory.join(which.file_name()), &[which.head(content).as_bytes(), content])
}

/// Removes the copies of all others of this directory.
///
/// # Errors
/// The disk's.
pub fn forget_others(state: &Path, directory: &'static str, lists: &[Which]) -> io::Result<()> {
    let names: HashSet<String> = lists.iter().map(Which::file_name).collect();
    let entries = match std::fs::read_dir(state.join(directory)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(|name| names.contains(name)) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_and_a_damaged_copy_is_not() {
        let state = tempfile::tempdir().unwrap();
        let which = |path: &str, format| Which { directory: LISTS, path: path.into(), format };
        let [one, two] = [ListFormat::Domains, ListFormat::Adblock].map(|format| which("/etc/x\ny", format));
        assert_eq!(read(state.path(), &one).unwrap(), None);
        keep(state.path(), &one, b"a.test\n").unwrap();
        keep(state.path(), &one, b"b.test\n").unwrap();
        assert_eq!(read(state.path(), &one).unwrap().unwrap(), b"b.test\n");
        assert_eq!(read(state.path(), &two).unwrap(), None, "another format is another list");
        keep(state.path(), &two, b"").unwrap();
        assert_eq!(read(state.path(), &two).unwrap(), Some(Vec::new()));
        forget_others(state.path(), LISTS, std::slice::from_ref(&one)).unwrap();
        assert_eq!(read(state.path(), &two).unwrap(), None);
        let file = state.path().join(LISTS).join(one.file_name());
        let good = std::fs::read(&file).unwrap();
        for at in 0..good.len() {
            let mut flipped = good.clone();
            flipped[at] ^= 1;
            std::fs::write(&file, flipped).unwrap();
            assert!(read(state.path(), &one).is_err(), "octet {at}");
        }
    }
}
