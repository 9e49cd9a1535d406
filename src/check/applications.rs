//! `[[nftables.application]]`

use std::collections::HashMap;

use super::Checks;
use crate::config::schema::{Action, NftablesMode};
use crate::core::policy::{Policy, bound};
use crate::enforce::nftables::applications::{Application, MOST, Reach};

impl Checks<'_, '_> {
    pub(super) fn applications(&mut self) {
        let all = &self.config.nftables.application;
        if all.is_empty() {
            return;
        }
        let local = matches!(self.config.nftables.mode, NftablesMode::Local | NftablesMode::Both);
        if !local && self.sound(&["nftables.mode"]) {
            self.error_with(
                "nftables.application",
                "only for the modes \"local\" and \"both\": packets of other hosts bear no word of who sent them",
                "set nftables.mode to \"local\", or remove the tables",
            );
        }
        if self.config.enforcer != "nftables" && self.sound(&["enforcer"]) {
            self.error("nftables.application", format!("{} can't tell applications apart", self.config.enforcer));
        }
        if all.len() > MOST {
            self.error("nftables.application", format!("there may be {MOST} at most"));
        }
        let policy = Policy::new(self.config).ok();
        let lists_allow = self.config.policy.list.iter().any(|list| list.action == Action::Allow);
        let (mut names, mut known) = (HashMap::new(), HashMap::new());
        for (index, one) in all.iter().enumerate() {
            let key = format!("nftables.application[{index}]");
            if let Some(first) = names.insert(&one.name, index) {
                let message = format!("nftables.application[{first}] is called \"{}\" too", one.name);
                self.error(&format!("{key}.name"), message);
            }
            match Application::of(one) {
                Err((at, message)) => self.error(&format!("{key}.{at}"), message),
                Ok(Application { reach: Reach::Nobody(why), .. }) => {
                    self.warning(&format!("{key}.user"), format!("{why}: it reaches nothing"), "name a user by number");
                }
                Ok(_) => {}
            }
            if let Some(first) = known.insert((&one.unit, &one.user, &one.cgroup), index) {
                let message = format!("nftables.application[{first}] is the same: put all names into one");
                self.error(&key, message);
            }
            if one.names.is_empty() {
                self.error(&format!("{key}.names"), "no name: the entry would do nothing");
            }
            self.unique(&format!("{key}.names"), &one.names);
            for (at, name) in one.names.iter().enumerate() {
                let place = format!("{key}.names[{at}]");
                match bound::read(name) {
                    Err(error) => self.error(&place, format!("\"{name}\" can't be used: {error}")),
                    Ok((pattern, _)) => {
                        let refused = policy.as_ref().is_some_and(|policy| policy.judge(&pattern.name).denies());
                        if refused && !lists_allow && pattern.reach != crate::core::policy::Reach::Below {
                            self.warning(
                                &place,
                                format!("the policy refuses \"{name}\", so that it opens nothing"),
                                "allow it in policy.allow too",
                            );
                        }
                    }
                }
            }
        }
    }
}
