//! Which clients are judged by which rules: everybody by `[policy]`, the clients of a `[[policy.group]]` by that group's.
//!
//! Lists are read once and shared by all views. What a view opens is opened for the whole network behind the guard, unless
//! `nftables.scope` is "client": groups say who may *ask* for what.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::exceptions::{self, Exception};
use super::schedule::Hours;
use super::{OwnRules, Policy, PolicyError, Table};
use crate::config::schema::Config;
use crate::core::nets::NetMap;
use crate::core::person::{Mark, People, Who};

/// Names a view within one [`Views`]; 0 is everybody's.
pub type ViewId = u16;

/// Most groups of a configuration: a set of them is one word of 64 bits.
pub const MOST_GROUPS: usize = 64;

/// A group, read.
#[derive(Clone, Debug)]
struct Group {
    name: String,
    /// The configured group that its clients are counted in; of a client with exceptions alone: none.
    counted: Option<Arc<str>>,
    policy: Policy,
}

/// Whose questions are meant, where nobody asks in earnest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Whose<'a> {
    /// The client whose groups count; without it everybody's rules do.
    pub client: Option<IpAddr>,
    /// Of somebody of this group, by whatever that is known.
    pub group: Option<&'a str>,
}

/// All views. Never changed: a reload builds another.
#[derive(Clone, Debug)]
pub struct Views {
    everybody: Policy,
    groups: Vec<Group>,
    clients: NetMap<ViewId>,
    people: People,
    /// Of people of a group who ask from the address of a client with exceptions: the group's view, and the client.
    both: HashMap<(ViewId, IpAddr), ViewId>,
    /// Where questions are taken, also out of the hours of those who ask there.
    paths: HashSet<String>,
    hours: Hours,
}

impl From<Policy> for Views {
    /// One view for everybody.
    fn from(everybody: Policy) -> Self {
        Self {
            everybody,
            groups: Vec::new(),
            clients: NetMap::default(),
            people: People::default(),
            both: HashMap::new(),
            paths: HashSet::new(),
            hours: Hours::default(),
        }
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
            let own = OwnRules {
                key: &key,
                default,
                allow: &group.allow,
                deny: &group.deny,
                rules: &config.policy.rule,
                group: Some(&group.name),
            };
            let chosen = match &group.lists {
                None => shared.clone(),
                Some(names) => {
                    let named = |name: &Option<String>| name.as_ref().is_some_and(|name| names.contains(name));
                    all().filter(|(list, _)| named(&list.name)).map(|(_, table)| table.clone()).collect()
                }
            };
            match Policy::of(own, chosen) {
                Ok(policy) => {
                    groups.push(Group { name: group.name.clone(), counted: Some(group.name.as_str().into()), policy })
                }
                Err(wrong) => errors.extend(wrong),
            }
            let Some(view) = view_at(place).filter(|_| place < usize::from(u8::MAX)) else {
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
            Ok(everybody) if errors.is_empty() => Ok(Self {
                everybody,
                groups,
                clients,
                people: People::new(config),
                both: HashMap::new(),
                paths: paths(config),
                hours: Hours::default(),
            }),
            _ => Err(errors),
        }
    }

    /// Likewise, at some hour: a group that is out of its hours has no clients and no people, and a list no rules.
    ///
    /// # Errors
    /// As [`Views::new`].
    pub fn at(config: &Config, lists: &[Arc<Table>], hours: &Hours) -> Result<Self, Vec<PolicyError>> {
        let views = Self::new(&hours.narrow(config), &hours.of_lists(lists.to_vec()))?;
        Ok(Self { hours: hours.clone(), paths: paths(config), ..views })
    }

    /// What is out of its hours here.
    #[must_use]
    pub fn hours(&self) -> &Hours {
        &self.hours
    }

    /// The same with the operator's exceptions. Each client that has some of its own gets a view of its own, and one more for each group of people
    /// who may ask from there.
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
            people: self.people.clone(),
            both: HashMap::new(),
            paths: self.paths.clone(),
            hours: self.hours.clone(),
        };
        let of_people: Vec<ViewId> = views.people.places().filter_map(view_at).collect();
        for group in &mut views.groups {
            group.policy = group.policy.clone().with_exceptions(everybodys.clone());
        }
        let owners: BTreeSet<IpAddr> = all.iter().filter_map(|one| one.client).collect();
        for client in owners {
            let before = self.of(client);
            let policy = self.policy(before).clone().with_exceptions(of(Some(client)));
            let counted = self.counted(before).cloned();
            let Some(view) = views.add(Group { name: format!("of the client {client}"), counted, policy }) else {
                break;
            };
            views.clients.insert(exceptions::prefix(client), view, |_, own| own);
            for group in &of_people {
                let policy = self.policy(*group).clone().with_exceptions(of(Some(client)));
                let name = format!("{} of the client {client}", self.name(*group).unwrap_or_default());
                let counted = self.counted(*group).cloned();
                let Some(view) = views.add(Group { name, counted, policy }) else { break };
                views.both.insert((*group, client), view);
            }
        }
        views
    }

    fn add(&mut self, group: Group) -> Option<ViewId> {
        let view = view_at(self.groups.len())?;
        self.groups.push(group);
        Some(view)
    }

    /// The view of whoever asks: of the group that the certificate says, else the path, else the address.
    #[must_use]
    pub fn of_who(&self, who: &Who) -> ViewId {
        let found = who.person.as_deref().and_then(|person| self.people.find(person));
        found.map_or_else(|| self.of(who.address), |(_, place)| self.of_place(place, who.address))
    }

    /// By what it is known where somebody belongs, if by more than the address.
    #[must_use]
    pub fn mark_of(&self, who: &Who) -> Option<Mark> {
        self.people.find(who.person.as_deref()?)?.0
    }

    /// Of whom it is remembered by what it was known who that is. What the configuration doesn't have any more says nothing.
    #[must_use]
    pub fn of_marked(&self, client: IpAddr, mark: Option<Mark>) -> ViewId {
        let place = mark.and_then(|mark| self.people.by_mark(mark));
        place.map_or_else(|| self.of(client), |place| self.of_place(place, client))
    }

    /// The view of one of this group, from this client's address where one is named; else that of the client, or nobody's in particular.
    #[must_use]
    pub fn of_whose(&self, whose: Whose<'_>) -> Option<ViewId> {
        let is =
            |group: &str, place: usize| self.groups.get(place).and_then(|one| one.counted.as_deref()) == Some(group);
        let place = whose.group.and_then(|group| (0..self.groups.len()).find(|place| is(group, *place)));
        let client = whose.client.map(|client| client.to_canonical());
        match (place, client) {
            (Some(place), Some(client)) => Some(self.of_place(place, client)),
            (Some(place), None) => view_at(place),
            (None, client) => client.map(|client| self.of(client)),
        }
    }

    /// Whether questions are taken at this path of DNS over HTTPS, beside the usual one.
    #[must_use]
    pub fn has_path(&self, path: &str) -> bool {
        self.paths.contains(path)
    }

    /// All views that somebody may be judged by who asks from there.
    #[must_use]
    pub fn of_anybody(&self, client: IpAddr) -> Vec<ViewId> {
        let of_people = self.people.places().map(|place| self.of_place(place, client));
        std::iter::once(self.of(client)).chain(of_people).collect()
    }

    fn of_place(&self, place: usize, client: IpAddr) -> ViewId {
        let Some(view) = view_at(place) else { return 0 };
        if self.both.is_empty() {
            return view;
        }
        self.both.get(&(view, exceptions::owner(client))).copied().unwrap_or(view)
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

    /// The configured group that a view's clients are counted in.
    #[must_use]
    pub fn counted(&self, view: ViewId) -> Option<&Arc<str>> {
        self.group(view)?.counted.as_ref()
    }

    /// Whether the numbers of views mean the same clients there.
    #[must_use]
    pub fn same_clients(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
            || self.clients == other.clients && self.people == other.people && self.both == other.both
    }

    /// All views, but for those of people with a client's exceptions, which allow nothing that no other does.
    pub fn all(&self) -> impl Iterator<Item = ViewId> {
        let both: HashSet<ViewId> = self.both.values().copied().collect();
        (0..=ViewId::try_from(self.groups.len()).unwrap_or(ViewId::MAX)).filter(move |view| !both.contains(view))
    }

    fn group(&self, view: ViewId) -> Option<&Group> {
        usize::from(view).checked_sub(1).and_then(|place| self.groups.get(place))
    }
}

/// The view of the group at this place.
fn view_at(place: usize) -> Option<ViewId> {
    ViewId::try_from(place).ok()?.checked_add(1)
}

fn paths(config: &Config) -> HashSet<String> {
    config.policy.group.iter().filter_map(|group| group.doh_path.clone()).collect()
}

#[cfg(test)]
mod tests;
