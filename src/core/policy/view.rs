//! Which clients are judged by which rules: everybody by `[policy]`, the clients of a `[[policy.group]]` by that group's.
//!
//! Lists are read once and shared by all views. What a view opens is opened for the whole network behind the guard, unless
//! `nftables.scope` is "client": groups say who may *ask* for what.

use std::net::IpAddr;
use std::sync::Arc;

use super::exceptions::{self, Exception};
use super::table::NetMap;
use super::{OwnRules, Policy, PolicyError, Table};
use crate::config::schema::Config;

/// Names a view within one [`Views`]; 0 is everybody's.
pub type ViewId = u8;

/// Most groups.
pub const MOST_GROUPS: usize = 64;

/// A group, read.
#[derive(Clone, Debug)]
struct Group {
    name: String,
    policy: Policy,
}

/// All views. Never changed: a reload builds another.
#[derive(Clone, Debug)]
pub struct Views {
    everybody: Policy,
    groups: Vec<Group>,
    clients: NetMap<ViewId>,
}

impl From<Policy> for Views {
    /// One view for everybody.
    fn from(everybody: Policy) -> Self {
        Self { everybody, groups: Vec::new(), clients: NetMap::default() }
    }
}

impl From<Policy> for Arc<Views> {
    fn from(everybody: Policy) -> Self {
        Self::new(everybody.into())
    }
}

impl Views {
    /// From `[policy]` and its groups; `lists`: those of `[[policy.list]]`, in the same order.
    ///
    /// # Errors
    /// Every rule that can't be read.
    pub fn new(config: &Config, lists: &[Arc<Table>]) -> Result<Self, Vec<PolicyError>> {
        let mut errors = Vec::new();
        let all = || config.policy.list.iter().zip(lists);
        let shared: Vec<Arc<Table>> =
            all().filter(|(list, _)| list.everybody).map(|(_, table)| table.clone()).collect();
        let everybody =
            Policy::of(OwnRules::of_everybody(config), shared.clone()).map_err(|wrong| errors.extend(wrong));
        let mut clients = NetMap::default();
        let mut groups = Vec::new();
        for (place, group) in config.policy.group.iter().enumerate() {
            let key = format!("policy.group[{place}]");
            let default = group.default.unwrap_or(config.policy.default);
            let own = OwnRules { key: &key, default, allow: &group.allow, deny: &group.deny };
            let chosen = match &group.lists {
                None => shared.clone(),
                Some(names) => {
                    let named = |name: &Option<String>| name.as_ref().is_some_and(|name| names.contains(name));
                    all().filter(|(list, _)| named(&list.name)).map(|(_, table)| table.clone()).collect()
                }
            };
            match Policy::of(own, chosen) {
                Ok(policy) => groups.push(Group { name: group.name.clone(), policy }),
                Err(wrong) => errors.extend(wrong),
            }
            let Some(view) = ViewId::try_from(place).ok().and_then(|place| place.checked_add(1)) else {
                let reason = format!("there may be {MOST_GROUPS} groups at most");
                errors.push(PolicyError { key, text: group.name.clone(), reason });
                break;
            };
            for net in &group.clients {
                // The first of equals: the check refuses the second.
                clients.insert(*net, view, |first, _| first);
            }
        }
        match everybody {
            Ok(everybody) if errors.is_empty() => Ok(Self { everybody, groups, clients }),
            _ => Err(errors),
        }
    }

    /// The same with the operator's exceptions. Each client that has some of its own gets a view of its own.
    #[must_use]
    pub fn with_exceptions(&self, all: &[Exception]) -> Self {
        let of = |client: Option<IpAddr>| -> Arc<[Exception]> {
            all.iter().filter(|one| one.client.is_none() || one.client == client).cloned().collect()
        };
        let everybodys = of(None);
        let mut views = Self {
            everybody: self.everybody.clone().with_exceptions(everybodys.clone()),
            groups: self.groups.clone(),
            clients: self.clients.clone(),
        };
        for group in &mut views.groups {
            group.policy = group.policy.clone().with_exceptions(everybodys.clone());
        }
        let owners: std::collections::BTreeSet<IpAddr> = all.iter().filter_map(|one| one.client).collect();
        for client in owners {
            let policy = self.policy(self.of(client)).clone().with_exceptions(of(Some(client)));
            let place = views.groups.len();
            let Some(view) = ViewId::try_from(place).ok().and_then(|place| place.checked_add(1)) else { break };
            views.groups.push(Group { name: format!("of the client {client}"), policy });
            views.clients.insert(exceptions::prefix(client), view, |_, own| own);
        }
        views
    }

    /// The view of a client: that of the longest prefix that holds it.
    #[must_use]
    pub fn of(&self, client: IpAddr) -> ViewId {
        if self.clients.is_empty() {
            return 0;
        }
        self.clients.find(client).map_or(0, |(_, view)| view)
    }

    /// The rules of a view; everybody's where there is no such view.
    #[must_use]
    pub fn policy(&self, view: ViewId) -> &Policy {
        self.group(view).map_or(&self.everybody, |group| &group.policy)
    }

    /// The name of a view's group.
    #[must_use]
    pub fn name(&self, view: ViewId) -> Option<&str> {
        self.group(view).map(|group| group.name.as_str())
    }

    /// Whether the numbers of views mean the same clients there.
    #[must_use]
    pub fn same_clients(&self, other: &Self) -> bool {
        std::ptr::eq(self, other) || self.clients == other.clients
    }

    /// All views.
    pub fn all(&self) -> impl Iterator<Item = ViewId> {
        0..=ViewId::try_from(self.groups.len()).unwrap_or(ViewId::MAX)
    }

    fn group(&self, view: ViewId) -> Option<&Group> {
        usize::from(view).checked_sub(1).and_then(|place| self.groups.get(place))
    }
}

#[cfg(test)]
mod tests;
