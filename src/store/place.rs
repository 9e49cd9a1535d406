//! Where the journal lies: its place on disk, the spare one for as long as the disk takes nothing, and how to tell that a file is still
//! what it was.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::sys::disk;

/// The journal's name in the state directory.
pub const FILE: &str = "leases.journal";
const LOCK: &str = "lock";
/// Who asked for what is nobody else's business.
const OWNER_ONLY: u32 = 0o600;
/// A file, and what is beside it.
#[derive(Clone, Debug)]
pub struct Place {
    /// Where it lies.
    pub directory: PathBuf,
    /// The path of the file itself.
    pub file: PathBuf,
    /// The next one, until it takes the file's place.
    pub temporary: PathBuf,
}

impl Place {
    /// The journal in a state directory.
    #[must_use]
    pub fn home(directory: &Path) -> Self {
        Self::of(directory.join(FILE))
    }

    /// A file by its name.
    #[must_use]
    pub fn of(file: PathBuf) -> Self {
        let beside = |end: &str| {
            let mut name = file.clone().into_os_string();
            name.push(end);
            PathBuf::from(name)
        };
        let directory = file.parent().map(Path::to_owned).unwrap_or_default();
        Self { temporary: beside(".new"), directory, file }
    }

    /// Makes the directory where it is missing.
    ///
    /// # Errors
    /// The file system's.
    pub fn make(&self) -> io::Result<()> {
        crate::sys::private::directory(&self.directory)
    }

    /// Writes a new file beside the old one.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&self, octets: &[u8]) -> io::Result<File> {
        let mut options = OpenOptions::new();
        // Each write goes to the end: what somebody cut is then too short for good, and noticed.
        options.create(true).read(true).append(true).mode(OWNER_ONLY);
        let mut file = options.open(&self.temporary)?;
        file.set_len(0)?;
        // One that was left behind keeps the mode it had.
        file.set_permissions(Permissions::from_mode(OWNER_ONLY))?;
        if let Err(error) = file.write_all(octets) {
            // It takes room where there is none.
            drop(fs::remove_file(&self.temporary));
            return Err(error);
        }
        Ok(file)
    }

    /// Flushes what [`Place::write`] made and puts it in place of the old one.
    ///
    /// # Errors
    /// The file system's; the old one is still there then.
    pub fn put(&self, file: &File) -> io::Result<()> {
        // Whatever may fail comes before the rename: behind it there is no way back.
        let parent = File::open(&self.directory)?;
        file.sync_all()?;
        self.swap(&parent)
    }

    /// Puts the new file in place of the old one. An error means that the old one is still there.
    pub(super) fn swap(&self, parent: &File) -> io::Result<()> {
        fs::rename(&self.temporary, &self.file)?;
        if let Err(error) = parent.sync_all() {
            // After a crash of the machine the old one may be there again; it ends with this moment.
            tracing::warn!(%error, path = %self.directory.display(), "the state directory can't be flushed");
        }
        Ok(())
    }

    /// Keeps what can't be read as a whole beside, in place of what was kept before.
    ///
    /// # Errors
    /// The file system's.
    pub fn keep_bad(&self) -> io::Result<PathBuf> {
        let bad = self.bad();
        match fs::remove_file(&bad) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        // The file itself stays until a new one takes its place: a crash in between must not lose it.
        if fs::hard_link(&self.file, &bad).is_err() {
            fs::rename(&self.file, &bad)?;
        }
        Ok(bad)
    }

    /// Where [`Place::keep_bad`] keeps it.
    #[must_use]
    pub fn bad(&self) -> PathBuf {
        let mut name = self.file.clone().into_os_string();
        name.push(".bad");
        PathBuf::from(name)
    }

    /// What differs from a file that was put here and holds so many octets; `None`: nothing.
    #[must_use]
    pub fn difference(&self, file: &File, length: u64) -> Option<Difference> {
        let Ok(open) = file.metadata() else { return Some(Difference::Replaced) };
        match fs::metadata(&self.file) {
            Ok(there) if (there.dev(), there.ino()) != (open.dev(), open.ino()) => Some(Difference::Replaced),
            Ok(_) if open.size() != length => Some(Difference::Length),
            Ok(_) => None,
            Err(_) if fs::metadata(&self.directory).is_err() => Some(Difference::NoDirectory),
            Err(_) => Some(Difference::NoFile),
        }
    }

    /// Whether a file of so many octets can be written here.
    ///
    /// # Errors
    /// Why not.
    pub fn takes(&self, octets: u64) -> io::Result<()> {
        let room = disk::room(&self.directory)?;
        if room.is_read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        // A file system that has a little left may still refuse a new file.
        if room.is_full() || room.free < octets {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

/// How a file is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// The directory is gone.
    NoDirectory,
    /// The file is gone.
    NoFile,
    /// Another file has its name.
    Replaced,
    /// Somebody wrote to it, or cut it.
    Length,
}

impl Difference {
    /// Its name in the metrics.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::NoDirectory => "directory",
            Self::NoFile => "file",
            Self::Replaced => "replaced",
            Self::Length => "length",
        }
    }

    /// In words, of the file at `place`.
    #[must_use]
    pub fn words(self, place: &Place) -> String {
        let (directory, file) = (place.directory.display(), place.file.display());
        match self {
            Self::NoDirectory => format!("the state directory {directory} was removed"),
            Self::NoFile => format!("the lease journal {file} was removed"),
            Self::Replaced => format!("another file stands in place of the lease journal {file}"),
            Self::Length => format!("the lease journal {file} was cut, or written to, by somebody else"),
        }
    }
}

/// Keeps other daemons from a state directory while it lives.
#[derive(Debug)]
pub struct Lock(File);

/// Why a directory can't be locked.
#[derive(Debug)]
pub enum LockError {
    /// Another daemon holds the lock.
    Held,
    /// The file system's.
    Failed(io::Error),
}

impl Lock {
    /// Takes the lock of a directory.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn take(directory: &Path) -> Result<Self, LockError> {
        let path = Self::path(directory);
        let made = OpenOptions::new().create(true).truncate(false).write(true).mode(OWNER_ONLY).open(&path);
        // Of a disk that takes nothing the old one will do.
        let file = made.or_else(|error| File::open(&path).map_err(|_| error)).map_err(LockError::Failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(LockError::Held),
            Err(TryLockError::Error(error)) => Err(LockError::Failed(error)),
        }
    }

    /// Whether it is still the one that others would find.
    #[must_use]
    pub fn is_of(&self, directory: &Path) -> bool {
        match (self.0.metadata(), fs::metadata(Self::path(directory))) {
            (Ok(own), Ok(there)) => (own.dev(), own.ino()) == (there.dev(), there.ino()),
            _ => false,
        }
    }

    /// Where it lies.
    #[must_use]
    pub fn path(directory: &Path) -> PathBuf {
        directory.join(LOCK)
    }
}
