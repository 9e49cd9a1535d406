//! How full a file system is.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Percent from which on a file system counts as nearly full.
pub const NEARLY: u64 = 80;
/// Octets that must be free, or nothing can be written soon: less than a compacted journal of a few leases needs.
const LEAST: u64 = 64 << 10;

/// What a file system has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Octets that this process may still write.
    pub free: u64,
    /// Whether files can still be made.
    pub has_inodes: bool,
    /// Used, of what this process may use, as `df` tells it.
    pub percent: u64,
    /// Nothing can be written at all.
    pub is_read_only: bool,
}

impl Room {
    /// Whether nothing more fits.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.free < LEAST || !self.has_inodes
    }
}

/// Room of the file system that holds `path`.
///
/// # Errors
/// `path` is not there, or can't be reached.
pub fn room(path: &Path) -> io::Result<Room> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: all its fields are numbers, for which zeros are values.
    let mut is: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `path` ends with a zero, and `is` lives across the call, which writes nothing else.
    if unsafe { libc::statvfs(path.as_ptr(), &raw mut is) } != 0 {
        return Err(io::Error::last_os_error());
    }
    #[allow(clippy::useless_conversion, reason = "the fields are narrower on some machines")]
    let (block, blocks, free, usable) =
        (u64::from(is.f_frsize), u64::from(is.f_blocks), u64::from(is.f_bfree), u64::from(is.f_bavail));
    let used = blocks.saturating_sub(free);
    let percent = used.saturating_mul(100).div_ceil(used.saturating_add(usable).max(1));
    // Some file systems have no fixed number of inodes and say 0.
    let has_inodes = is.f_files == 0 || is.f_favail > 0;
    Ok(Room { free: usable.saturating_mul(block), has_inodes, percent, is_read_only: is.f_flag & libc::ST_RDONLY != 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_room_and_one_that_is_gone_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let here = room(directory.path()).unwrap();
        assert!(here.percent <= 100 && here.has_inodes && !here.is_read_only, "{here:?}");
        let error = room(&directory.path().join("gone")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let full = Room { free: 0, has_inodes: true, percent: 100, is_read_only: false };
        assert!(full.is_full() && Room { free: 1 << 30, has_inodes: false, ..full }.is_full());
    }
}
