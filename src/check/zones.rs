//! `[[dns.zone]]`

use std::collections::HashSet;

use super::Checks;
use crate::core::policy::name_from_user;
use crate::dns::zones::read;

impl Checks<'_, '_> {
    /// Reads every zone. What can't be read of a file is an error that keeps no guard from starting.
    pub(super) fn zones(&mut self) {
        let mut names = HashSet::new();
        for (index, zone) in self.config.dns.zone.iter().enumerate() {
            let key = format!("dns.zone[{index}]");
            if !self.sound(&[&key]) {
                continue;
            }
            if name_from_user(&zone.name).is_ok_and(|name| !names.insert(name)) {
                self.error(&format!("{key}.name"), format!("another zone is called \"{}\" too", zone.name));
            }
            match read::read(zone) {
                Ok(read) if read.zone.records() <= 1 => {
                    self.warning(&key, format!("the zone {} has no record", zone.name), "check what it is read from");
                }
                Ok(read) => {
                    for warning in read.warnings {
                        let path = if zone.records.is_empty() { key.clone() } else { format!("{key}.records") };
                        self.warning(&path, warning, "an absolute name ends with a dot, as in \"cdn.example.\"");
                    }
                }
                Err(wrong) => {
                    for wrong in wrong {
                        let path = format!("{key}.{}", wrong.key);
                        match wrong.in_config {
                            true => self.error(&path, wrong.reason),
                            false => self.document.say_bearable(&path, wrong.reason),
                        }
                    }
                }
            }
        }
    }
}
