//! `lock` and `unlock`: the host before its guard runs, and the way back in.

use std::path::{Path, PathBuf};

use super::{Exit, ask, complain, say};
use crate::daemon::early::{self, Locked};

/// Closes the host before the network comes up.
pub fn lock(config: &Path, state_dir: Option<PathBuf>) -> Exit {
    if let Err(error) = crate::sys::log::start() {
        return complain(&error, Exit::Failed);
    }
    let outcome = early::lock(config, &state_dir.unwrap_or_else(early::state_dir));
    crate::sys::log::finish();
    match outcome {
        Ok((locked, instead)) => {
            if let Some(instead) = instead {
                complain(&instead, Exit::Done);
            }
            say(&match locked {
                Locked::Now => "locked: until the daemon runs, only what is always open is reachable; \
                                `destguard unlock` opens the host"
                    .to_owned(),
                Locked::Before => "the table inet destguard stands already".to_owned(),
                Locked::Nothing(why) => format!("nothing is locked: {why}"),
            })
        }
        Err(error) => complain(&error, Exit::Failed),
    }
}

/// Opens the host, whatever closed it.
pub fn unlock(json: bool) -> Exit {
    let exit = ask::Daemon::disarm(json);
    if exit == Exit::Done && !json {
        return say("It stays so until the daemon or the host starts again: to keep it, set mode = \"audit\", \
                    or `systemctl disable --now destguard destguard-lock`");
    }
    exit
}
