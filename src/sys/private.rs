//! Directories and files that are nobody else's business.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Makes a directory, and those above it that are missing, for its owner alone. One that is there keeps its mode.
///
/// # Errors
/// The file system's.
pub fn directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Puts a file with these octets in place of the one of that name, if there was one, for its owner alone; on the disk when this returns.
///
/// # Errors
/// The file system's; the old one is still there then.
pub fn replace(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let mut temporary = path.to_owned().into_os_string();
    temporary.push(".new");
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        parts.iter().try_for_each(|part| file.write_all(part))?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    };
    write().inspect_err(|_: &io::Error| {
        // The disk may be full: half a file takes room only.
        if let Err(error) = std::fs::remove_file(&temporary) {
            tracing::debug!(%error, path = %path.display(), "half a copy stays");
        }
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn others_may_neither_look_nor_lock() {
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("state/leases");
        super::directory(&below).unwrap();
        super::directory(&below).unwrap();
        let file = below.join("file");
        replace(&file, &[b"o", b"ne"]).unwrap();
        replace(&file, &[b"two"]).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"two");
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!([mode(&below), mode(below.parent().unwrap()), mode(&file)], [0o700, 0o700, 0o600]);
    }
}
