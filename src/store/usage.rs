//! The file of what was asked for and used in audit: written whole beside the old one and renamed over it; believed only when its sum is right.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use super::record::crc32c;
use crate::control::usage::Used;

const FILE: &str = "usage";
const BAD: &str = "usage.bad";
const MAGIC: &str = "destguard usage 1";
/// Octets read at most: many times what the most of it takes.
const LARGEST: u64 = 64 << 20;

/// What an earlier run wrote; nothing where there is no file.
///
/// # Errors
/// Why the file can't be used, in words; it is then kept beside under another name.
pub fn read(directory: &Path) -> Result<Used, String> {
    let path = directory.join(FILE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Used::default()),
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    let mut octets = Vec::new();
    let read = file.take(LARGEST).read_to_end(&mut octets).map_err(|error| error.to_string());
    read.and_then(|_| parse(&octets)).map_err(|reason| {
        let beside = directory.join(BAD);
        let kept = match std::fs::rename(&path, &beside) {
            Ok(()) => format!("it is kept as {}", beside.display()),
            Err(error) => format!("and it can't be moved aside: {error}"),
        };
        format!("{}: {reason}; {kept}", path.display())
    })
}

fn parse(octets: &[u8]) -> Result<Used, String> {
    let text = std::str::from_utf8(octets).map_err(|_| "not text".to_owned())?;
    let (head, body) = text.split_once('\n').ok_or("not a file of usage")?;
    let sum = head.strip_prefix(MAGIC).and_then(|sum| u32::from_str_radix(sum.trim(), 16).ok());
    match sum {
        None => Err("not a file of usage".to_owned()),
        Some(sum) if sum != crc32c(&[body.as_bytes()]) => Err("its checksum is wrong".to_owned()),
        Some(_) => serde_json::from_str(body).map_err(|error| error.to_string()),
    }
}

/// Writes it in place of what there is.
///
/// # Errors
/// The disk's; the old file is still there then.
pub fn write(directory: &Path, used: &Used) -> io::Result<()> {
    let body = serde_json::to_string(used)?;
    let text = format!("{MAGIC} {:08x}\n{body}", crc32c(&[body.as_bytes()]));
    crate::sys::private::directory(directory)?;
    crate::sys::private::replace(&directory.join(FILE), &[text.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::usage::{Got, Seen, UsedName};

    #[test]
    fn what_is_written_is_read_and_what_is_not_right_is_kept_beside() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(read(directory.path()), Ok(Used::default()));
        let name = UsedName {
            client: [10, 0, 0, 1].into(),
            name: "a\\.b.example".to_owned(),
            got: Got::Data,
            seen: Seen { count: 3, first: 1, last: 9 },
        };
        let used = Used { since: Some(1), names: vec![name], ..Used::default() };
        write(directory.path(), &used).unwrap();
        assert_eq!(read(directory.path()), Ok(used));
        let good = std::fs::read(directory.path().join(FILE)).unwrap();
        std::fs::write(directory.path().join(FILE), &good[..good.len() - 3]).unwrap();
        assert!(read(directory.path()).unwrap_err().contains("kept as"));
        assert!(directory.path().join(BAD).exists());
        assert_eq!(read(directory.path()), Ok(Used::default()));
    }
}
