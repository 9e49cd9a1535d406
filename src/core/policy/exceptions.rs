//! The operator's exceptions from the policy, each with an end: `destguard deny NAME --for 1h`, `destguard allow NAME --for 30m`.
//!
//! They stand above the file: one that denies wins over one that allows, and either over every rule of the configuration and of lists, whatever
//! the lengths of their names. They are about names; rules on addresses (`rpz-ip`, the address filter) stay.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Pattern;
use crate::config::schema::Action;
use crate::core::client;
use crate::core::moment::Moment;
use crate::core::name::Name;

/// Most exceptions. With the groups there are so many views at most.
pub const MOST: usize = 128;

/// An exception of the operator, which goes before the rules of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exception {
    /// The names that it is about.
    pub pattern: Pattern,
    /// What they get.
    pub action: Action,
    /// Whose questions; `None`: everybody's.
    pub client: Option<IpAddr>,
    /// When it ends.
    pub ends: Moment,
    /// How it is named as a rule.
    pub words: String,
}

impl Exception {
    /// Whether both say something of the same names of the same clients.
    #[must_use]
    pub fn is_same(&self, pattern: &Pattern, action: Action, client: Option<IpAddr>) -> bool {
        (&self.pattern, self.action, self.client) == (pattern, action, client)
    }
}

/// Whose questions an exception for this client is about: an IPv4 address, or the /64 of an IPv6 address.
#[must_use]
pub fn owner(client: IpAddr) -> IpAddr {
    client::prefix(client.to_canonical())
}

/// The prefix of [`owner`]'s addresses.
#[must_use]
pub fn prefix(owner: IpAddr) -> IpNet {
    let length = if owner.is_ipv4() { 32 } else { 64 };
    IpNet::new(owner, length).unwrap_or_else(|_| IpNet::from(owner))
}

/// The exception that decides on a name, and its place.
#[must_use]
pub fn find<'a>(exceptions: &'a [Exception], name: &Name) -> Option<(usize, &'a Exception)> {
    let matching = || exceptions.iter().enumerate().filter(|(_, exception)| exception.pattern.covers(name));
    matching().find(|(_, exception)| exception.action == Action::Deny).or_else(|| matching().next())
}
