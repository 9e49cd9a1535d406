//! What the kernel tells of directories (inotify(7)): the only calls that need `unsafe` for it are here.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Octets read at once: hundreds of events.
const BUFFER: usize = 32 << 10;
/// `struct inotify_event` without the name.
const HEADER: usize = 16;

/// One queue of events.
#[derive(Debug)]
pub struct Inotify(OwnedFd);

/// Something came or went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// In this watched directory, by this name.
    Of(i32, String),
    /// A watch is over: its directory is gone.
    Over(i32),
    /// There were too many to be told.
    Lost,
}

impl Inotify {
    /// Makes one.
    ///
    /// # Errors
    /// The system's: fs.inotify.max_user_instances.
    pub fn open() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked.
        let raw = unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `raw` is a fresh descriptor that nobody else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(raw) }))
    }

    /// Hands it to the calling tokio runtime, to wait for events.
    ///
    /// # Errors
    /// The system's.
    pub fn watched(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: the descriptor is owned by this, never changes and is closed only when this is dropped, after its
        // registration.
        Ok(unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) }?)
    }

    /// Has it tell of directories that come and go in this one. The same directory has the same number.
    ///
    /// # Errors
    /// The system's: it isn't there, fs.inotify.max_user_watches.
    pub fn watch(&self, directory: &Path) -> io::Result<i32> {
        let path = CString::new(directory.as_os_str().as_bytes())?;
        let mask = libc::IN_CREATE | libc::IN_DELETE | libc::IN_MOVED_TO | libc::IN_MOVED_FROM | libc::IN_ONLYDIR;
        // SAFETY: the pointer is that of a live, zero-terminated string.
        let number = unsafe { libc::inotify_add_watch(self.0.as_raw_fd(), path.as_ptr(), mask) };
        if number < 0 { Err(io::Error::last_os_error()) } else { Ok(number) }
    }

    /// Takes what is queued. Never waits.
    ///
    /// # Errors
    /// The system's.
    pub fn read(&self) -> io::Result<Vec<Said>> {
        let mut buffer = vec![0u8; BUFFER];
        let mut all = Vec::new();
        loop {
            // SAFETY: the pointer and length are those of a live, exclusively borrowed buffer.
            let got = unsafe { libc::read(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
            let Ok(count) = usize::try_from(got) else {
                let error = io::Error::last_os_error();
                match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(all),
                    io::ErrorKind::Interrupted => continue,
                    _ => return Err(error),
                }
            };
            if count == 0 {
                return Ok(all);
            }
            all.extend(events(buffer.get(..count).unwrap_or_default()));
        }
    }
}

impl AsRawFd for Inotify {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn events(mut octets: &[u8]) -> Vec<Said> {
    let word = |octets: &[u8], at: usize| -> Option<[u8; 4]> { octets.get(at..at.checked_add(4)?)?.try_into().ok() };
    let mut all = Vec::new();
    while let (Some(number), Some(mask), Some(length)) = (word(octets, 0), word(octets, 4), word(octets, 12)) {
        let (number, mask) = (i32::from_ne_bytes(number), u32::from_ne_bytes(mask));
        let length = usize::try_from(u32::from_ne_bytes(length)).unwrap_or(usize::MAX);
        let Some(end) = HEADER.checked_add(length) else { break };
        let Some(name) = octets.get(HEADER..end) else { break };
        if mask & libc::IN_Q_OVERFLOW != 0 {
            all.push(Said::Lost);
        } else if mask & libc::IN_IGNORED != 0 {
            all.push(Said::Over(number));
        } else if mask & libc::IN_ISDIR != 0 {
            let name = name.split(|octet| *octet == 0).next().unwrap_or_default();
            all.push(Said::Of(number, String::from_utf8_lossy(name).into_owned()));
        }
        octets = octets.get(end..).unwrap_or_default();
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn directories_that_come_and_go_are_told() {
        let place = tempfile::tempdir().unwrap();
        let inotify = Inotify::open().unwrap();
        let number = inotify.watch(place.path()).unwrap();
        std::fs::create_dir(place.path().join("one")).unwrap();
        std::fs::write(place.path().join("file"), "").unwrap();
        std::fs::remove_dir(place.path().join("one")).unwrap();
        let said = Said::Of(number, "one".to_owned());
        assert_eq!(inotify.read().unwrap(), [said.clone(), said]);
        assert_eq!(inotify.read().unwrap(), []);
    }

    proptest! {
        #[test]
        fn any_octets_are_read_without_panic(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
            std::hint::black_box(events(&octets));
        }
    }
}
