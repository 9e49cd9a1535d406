//! `[log]`

use std::path::Component;

use super::Checks;
use crate::config::value::Target;

/// Octets that a file holds at least: a batch of lines must fit.
const LEAST: u64 = 1 << 20;
/// Most questions in memory: some 200 MB.
const QUERIES: usize = 1_000_000;
/// Most former files.
const MOST: u32 = 100;

impl Checks<'_, '_> {
    pub(super) fn log(&mut self) {
        let log = &self.config.log;
        if let Some(file) = &log.file {
            let climbs = file.components().any(|part| part == Component::ParentDir);
            if file.file_name().is_none() || climbs {
                self.error("log.file", format!("\"{}\" is no path of a file, or leads upwards", file.display()));
            }
        }
        if log.queries > QUERIES {
            let much = format!("{} is too much to keep in memory; at most {QUERIES}", log.queries);
            self.error_with("log.queries", much, "log.file, log.syslog and log.dnstap keep more");
        }
        if log.file_size.0 < LEAST {
            self.error("log.file_size", format!("{} is too small; at least 1MiB", log.file_size));
        }
        if log.file_keep > MOST {
            self.error("log.file_keep", format!("{} is too much; at most {MOST}", log.file_keep));
        }
        if matches!(log.dnstap, Some(Target::Udp(_))) {
            self.error("log.dnstap", "dnstap goes to \"unix:/PATH\" or \"tcp:ADDRESS:PORT\"");
        }
        if matches!(log.syslog, Some(Target::Tcp(_))) {
            self.error("log.syslog", "syslog goes to \"unix:/PATH\" or \"udp:ADDRESS:PORT\"");
        }
    }
}
