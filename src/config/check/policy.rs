//! `[policy]` and `[addresses]`

use std::collections::HashSet;

use ipnet::IpNet;

use super::Checks;
use crate::config::schema::Action;

impl Checks<'_, '_> {
    pub(super) fn policy(&mut self) {
        let policy = &self.config.policy;
        for (key, rules) in [("policy.allow", &policy.allow), ("policy.deny", &policy.deny)] {
            for (index, rule) in rules.iter().enumerate() {
                let name = rule.strip_prefix("*.").or_else(|| rule.strip_prefix('=')).unwrap_or(rule);
                self.name(&format!("{key}[{index}]"), name);
            }
            self.unique(key, rules);
        }
        let denied: HashSet<&String> = policy.deny.iter().collect();
        for (index, rule) in policy.allow.iter().enumerate().filter(|(_, rule)| denied.contains(rule)) {
            self.warning(
                &format!("policy.allow[{index}]"),
                format!("\"{rule}\" is denied as well, and deny wins"),
                "remove one of the two",
            );
        }
        for (index, list) in policy.list.iter().enumerate() {
            self.readable(&format!("policy.list[{index}].path"), &list.path);
        }
        let lists_allow = policy.list.iter().any(|list| list.action == Action::Allow);
        let sound = self.sound(&["policy.allow", "policy.list"]);
        if policy.default == Action::Deny && policy.allow.is_empty() && !lists_allow && sound {
            self.warning("policy.default", "nothing is allowed: every name gets NXDOMAIN", "add names to policy.allow");
        }
        for (index, private) in policy.private.iter().enumerate() {
            let path = format!("policy.private[{index}]");
            self.name(&format!("{path}.domain"), &private.domain);
            let prefixes = format!("{path}.prefixes");
            if private.prefixes.is_empty() {
                self.error(&prefixes, "no prefix: the entry would do nothing");
            }
            self.prefixes(&prefixes, &private.prefixes);
            for (at, net) in private.prefixes.iter().enumerate().filter(|(_, net)| net.prefix_len() == 0) {
                self.warning(
                    &format!("{prefixes}[{at}]"),
                    format!("{net}: answers for {} may lie anywhere, inside your network too", private.domain),
                    "name the prefixes in use",
                );
            }
        }
    }

    pub(super) fn addresses(&mut self) {
        let addresses = &self.config.addresses;
        self.prefixes("addresses.open", &addresses.open);
        self.prefixes("addresses.never", &addresses.never);
        self.unique("addresses.open", &addresses.open);
        self.unique("addresses.never", &addresses.never);
        for (index, net) in addresses.open.iter().enumerate() {
            let path = format!("addresses.open[{index}]");
            if let Some(never) = addresses.never.iter().find(|never| never.contains(net)) {
                self.error(&path, format!("{net} is never opened: addresses.never has {never}"));
            }
            let wide = match net {
                IpNet::V4(net) => net.prefix_len() < 8,
                IpNet::V6(net) => net.prefix_len() < 16,
            };
            if wide {
                self.warning(
                    &path,
                    format!("{net} is open for ever, without any question"),
                    "keep the list to what can't be asked for by name",
                );
            }
        }
        if let Some(nat64) = addresses.nat64
            && nat64.prefix_len() != 96
        {
            self.error("addresses.nat64", format!("{nat64} is not a /96"));
        }
    }
}
