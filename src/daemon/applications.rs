//! Applications as `status` shows them.

use crate::config::Config;
use crate::config::schema::Application as Configured;
use crate::control::types;
use crate::enforce::nftables::applications::{Application, Reach, members, patterns};
use crate::sys::cgroups;

/// Most control groups that are shown of each.
const SHOWN: usize = 16;

/// All of them, as they are now. Reads the tree of control groups.
pub fn now(config: &Config) -> Vec<types::Application> {
    let configured = &config.nftables.application;
    if configured.is_empty() {
        return Vec::new();
    }
    let all: Vec<(&Configured, Application)> =
        configured.iter().filter_map(|one| Some((one, Application::of(one).ok()?))).collect();
    let known: Vec<Application> = all.iter().map(|(_, one)| one.clone()).collect();
    let root = cgroups::mounted();
    let (_, wanted) = patterns(&known);
    let groups = root.as_ref().map(|root| cgroups::now(root, wanted)).unwrap_or_default();
    let whose = members(&known, &groups);
    let shown = all.iter().enumerate().map(|(place, (configured, one))| {
        let mut paths: Vec<String> = groups
            .iter()
            .filter(|(number, _)| whose.get(number) == Some(&place))
            .map(|(_, group)| group.path.clone())
            .collect();
        paths.sort_unstable();
        let groups = paths.len();
        paths.truncate(SHOWN);
        let trouble = match &one.reach {
            Reach::Nobody(why) => Some(why.clone()),
            Reach::Groups(_) if root.is_none() => Some("no control groups of version 2 are mounted".to_owned()),
            Reach::Groups(_) if groups == 0 => Some("it has no control group now".to_owned()),
            Reach::Groups(_) | Reach::User(_) => None,
        };
        types::Application { name: one.name.to_string(), who: who(configured), cgroups: paths, groups, trouble }
    });
    shown.collect()
}

/// As configured, in words.
pub fn who(one: &Configured) -> String {
    match (&one.unit, &one.user, &one.cgroup) {
        (Some(unit), Some(user), _) => format!("unit {unit} of user {user}"),
        (Some(unit), None, _) => format!("unit {unit}"),
        (None, Some(user), _) => format!("user {user}"),
        (None, None, Some(group)) => format!("cgroup {group}"),
        (None, None, None) => String::new(),
    }
}
