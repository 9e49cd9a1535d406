//! Groups of clients whose routes bear communities of their own, so that routers can import each group into its own VRF.
//!
//! A lease knows until when each group was told of its address; its route bears the communities of all of them. An address
//! is in force for a group only once the route with that group's communities is confirmed.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::nets::NetMap;
use super::person::{Mark, People};
use super::policy::view::MOST_GROUPS;
use crate::config::community::{self, CommunityError};
use crate::config::schema::Config;

/// Most different sets of groups that routes bear at once; a new one beyond it is refused.
pub const MOST_SETS: usize = 1024;

/// A group with communities, by its place in `[[policy.group]]`; below [`MOST_GROUPS`]. Means something within one [`Groups`] only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Group(u8);

/// A set of groups, one bit for each, so that it is copied for nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupSet(u64);

impl GroupSet {
    /// The set without groups, which answers outside of all groups have.
    pub const EMPTY: Self = Self(0);

    /// With this one too.
    #[must_use]
    pub fn with(self, group: Group) -> Self {
        Self(self.0 | 1u64.checked_shl(u32::from(group.0)).unwrap_or(0))
    }

    /// Those at the places of these bits.
    #[cfg(test)]
    pub fn of_places(places: u64) -> Self {
        Self(places)
    }

    /// Whether this one is among them.
    #[must_use]
    pub fn has(self, group: Group) -> bool {
        self.with(group) == self
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The groups of the set in the order of the configuration.
    pub fn iter(self) -> impl Iterator<Item = Group> {
        (0..64).map(Group).filter(move |group| self.has(*group))
    }
}

impl FromIterator<Group> for GroupSet {
    fn from_iter<I: IntoIterator<Item = Group>>(groups: I) -> Self {
        groups.into_iter().fold(Self::EMPTY, Self::with)
    }
}

/// Communities of RFC 1997 and RFC 8092, each sorted and unique.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GroupCommunities {
    /// Standard communities (RFC 1997), 32 bits each.
    pub standard: Vec<u32>,
    /// Large communities (RFC 8092), three numbers each.
    pub large: Vec<[u32; 3]>,
}

impl GroupCommunities {
    /// "64512:7" or "64512:0:7" each.
    ///
    /// # Errors
    /// The place of the first that is neither, and why.
    pub fn of(texts: &[String]) -> Result<Self, (usize, CommunityError)> {
        let mut all = Self::default();
        for (at, text) in texts.iter().enumerate() {
            if text.matches(':').count() == 2 {
                all.large.push(community::large(text).map_err(|error| (at, error))?);
            } else {
                all.standard.push(community::standard(text).map_err(|error| (at, error))?);
            }
        }
        all.tidy();
        Ok(all)
    }

    fn tidy(&mut self) {
        self.standard.sort_unstable();
        self.standard.dedup();
        self.large.sort_unstable();
        self.large.dedup();
    }

    /// Octets in an UPDATE.
    #[must_use]
    pub fn octets(&self) -> usize {
        self.standard.len().saturating_mul(4).saturating_add(self.large.len().saturating_mul(12))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    name: String,
    communities: GroupCommunities,
}

/// Who belongs to which group, and what the groups' routes bear. Never changed: a reload makes another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Groups {
    /// All groups: a client of one without communities belongs to none here, also when a wider prefix is of one that has some.
    clients: NetMap<Group>,
    /// Of those who are known by more than an address.
    marks: BTreeMap<Mark, Group>,
    known: BTreeMap<Group, Known>,
}

impl Groups {
    /// From `[[policy.group]]`.
    ///
    /// # Errors
    /// A community that isn't one; none in a configuration that was checked.
    pub fn new(config: &Config) -> Result<Self, CommunityError> {
        let mut groups = Self::default();
        if config.policy.group.iter().all(|group| group.communities.is_empty()) {
            return Ok(groups);
        }
        let people = People::new(config);
        let group = |place: usize| u8::try_from(place).ok().map(Group);
        groups.marks = people.marks().filter_map(|(mark, place)| Some((mark, group(place)?))).collect();
        for (place, group) in config.policy.group.iter().enumerate().take(MOST_GROUPS) {
            let number = Group(u8::try_from(place).unwrap_or(u8::MAX));
            for net in &group.clients {
                groups.clients.insert(*net, number, |first, _| first);
            }
            if !group.communities.is_empty() {
                let communities = GroupCommunities::of(&group.communities).map_err(|(_, error)| error)?;
                groups.known.insert(number, Known { name: group.name.clone(), communities });
            }
        }
        Ok(groups)
    }

    /// Whether no group has communities.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// The group of a client that was known by this, when it has communities.
    #[must_use]
    pub fn of(&self, client: IpAddr, mark: Option<Mark>) -> Option<Group> {
        if self.known.is_empty() {
            return None;
        }
        let of_mark = mark.and_then(|mark| self.marks.get(&mark).copied());
        let of_address = || self.clients.find(client.to_canonical()).map(|(_, group)| group);
        of_mark.or_else(of_address).filter(|group| self.known.contains_key(group))
    }

    /// The name of a group; empty for one that isn't known.
    #[must_use]
    pub fn name(&self, group: Group) -> &str {
        self.known.get(&group).map_or("", |known| known.name.as_str())
    }

    /// The group of this name, when it has communities.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<Group> {
        self.known.iter().find(|(_, known)| known.name == name).map(|(group, _)| *group)
    }

    /// What a route bears that all these groups opened.
    #[must_use]
    pub fn communities(&self, set: GroupSet) -> GroupCommunities {
        let mut all = GroupCommunities::default();
        for (_, known) in self.known.iter().filter(|(group, _)| set.has(**group)) {
            all.standard.extend(&known.communities.standard);
            all.large.extend(&known.communities.large);
        }
        all.tidy();
        all
    }

    /// The groups of `other` whose communities are the same as those of `set` here; `None` where one of them has no such group.
    #[must_use]
    pub fn translated(&self, set: GroupSet, other: &Self) -> Option<GroupSet> {
        let same = |group: Group| {
            let known = self.known.get(&group)?;
            // The group at the same place first: most reloads move none.
            let there = other.known.get(&group).filter(|there| there.communities == known.communities);
            if there.is_some() {
                return Some(group);
            }
            other.known.iter().find(|(_, there)| there.communities == known.communities).map(|(group, _)| *group)
        };
        set.iter().map(same).collect()
    }
}
