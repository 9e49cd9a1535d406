//! The file of the operator's exceptions: written whole beside the old one, flushed and renamed over it; believed only when its sum is right.
//!
//! Ends are kept on two clocks, as those of leases are. After a reboot the wall clock counts. Where that is behind the time of writing, as on a
//! machine without a clock, an exception that allows is over, and one that denies lasts as long as it did when it was written.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::whole::{Unusable, Whole};
use crate::config::schema::Action;
use crate::sys::clock::Outside;

const FILE: &str = "exceptions";
const BAD: &str = "exceptions.bad";
/// Octets read at most: many times what the most of them take.
const LARGEST: u64 = 1 << 20;
const WHOLE: Whole =
    Whole { file: FILE, bad: BAD, magic: "destguard exceptions 1", holds: "exceptions", largest: LARGEST };

/// One exception as it is in the file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Stored {
    /// The names, as a rule of the configuration is written.
    pub name: String,
    /// What they get.
    pub action: Action,
    /// The one client it is for; without it, it is for everybody.
    pub client: Option<IpAddr>,
    /// The boot in which it was made.
    pub boot_id: String,
    /// Wall clock when it was made, in milliseconds.
    pub made_wall: u64,
    /// End on the boot clock, in milliseconds.
    pub ends_boot: u64,
    /// End on the wall clock.
    pub ends_wall: u64,
}

impl Stored {
    /// Made now, for so long.
    #[must_use]
    pub fn new(name: String, action: Action, client: Option<IpAddr>, span: Duration, now: &Outside) -> Self {
        let span = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Self {
            name,
            action,
            client,
            boot_id: now.boot_id.clone(),
            made_wall: now.wall,
            ends_boot: now.since_boot.saturating_add(span),
            ends_wall: now.wall.saturating_add(span),
        }
    }

    /// How much longer it lasts; never longer than when it was made.
    #[must_use]
    pub fn left(&self, now: &Outside) -> Duration {
        let whole = self.ends_wall.saturating_sub(self.made_wall);
        let left = if self.boot_id == now.boot_id {
            self.ends_boot.saturating_sub(now.since_boot)
        } else if now.wall < self.made_wall {
            if self.action == Action::Deny { whole } else { 0 }
        } else {
            self.ends_wall.saturating_sub(now.wall)
        };
        Duration::from_millis(left.min(whole))
    }
}

/// All that is written; none where there is no file.
///
/// # Errors
/// Why the file can't be used; it is then kept beside under another name.
pub fn read(directory: &Path) -> Result<Vec<Stored>, Unusable> {
    WHOLE.read(directory)
}

/// Writes all of them in place of what there is.
///
/// # Errors
/// The disk's; the old file is still there then.
pub fn write(directory: &Path, exceptions: &[Stored]) -> io::Result<()> {
    WHOLE.write(directory, exceptions, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outside(boot: &str, since_boot: u64, wall: u64) -> Outside {
        Outside { boot_id: boot.to_owned(), since_boot, wall }
    }

    fn made(action: Action) -> Stored {
        Stored::new("shop.test".to_owned(), action, None, Duration::from_millis(600), &outside("a", 1000, 50_000))
    }

    #[test]
    fn what_is_written_is_read_and_what_is_not_right_is_kept_beside() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("state");
        assert_eq!(read(&place).unwrap(), Vec::new());
        let both = [made(Action::Deny), Stored { client: Some([10, 0, 0, 1].into()), ..made(Action::Allow) }];
        write(&place, &both).unwrap();
        assert_eq!(read(&place).unwrap(), both.to_vec());
        let good = std::fs::read(place.join(FILE)).unwrap();
        for at in 0..good.len() {
            let mut flipped = good.clone();
            flipped[at] ^= 1;
            std::fs::write(place.join(FILE), flipped).unwrap();
            let error = read(&place).unwrap_err().to_string();
            assert!(error.contains("kept as") && place.join(BAD).exists(), "{at}: {error}");
            assert_eq!(read(&place).unwrap(), Vec::new(), "{at}");
        }
        std::fs::write(place.join(FILE), &good[..good.len() / 2]).unwrap();
        assert!(read(&place).is_err());
    }

    #[test]
    fn it_ends_by_the_boot_clock_and_after_a_reboot_by_the_wall_clock() {
        let millis = Duration::from_millis;
        for action in [Action::Deny, Action::Allow] {
            let stored = made(action);
            // A step of the wall clock changes nothing within a boot; time asleep counts.
            assert_eq!(stored.left(&outside("a", 1200, 1)), millis(400));
            assert_eq!(stored.left(&outside("a", 99_999, 50_001)), millis(0));
            assert_eq!(stored.left(&outside("b", 5, 50_200)), millis(400));
            assert_eq!(stored.left(&outside("b", 5, 60_000)), millis(0));
            assert_eq!(stored.left(&outside("a", 0, 0)), millis(600), "never longer than it was made for");
        }
        // Without a clock: nothing is allowed that was not meant to be, nor let through early.
        assert_eq!(made(Action::Allow).left(&outside("b", 5, 49_000)), millis(0));
        assert_eq!(made(Action::Deny).left(&outside("b", 5, 49_000)), millis(600));
    }
}
