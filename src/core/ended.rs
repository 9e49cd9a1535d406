//! Leases that are over, as far as they are remembered: by which names an address was open, until when, and why no longer.

use std::net::IpAddr;

use smallvec::SmallVec;

use super::client::prefix;
use super::lease::Cause;
use super::moment::Moment;
use super::name::Name;
use super::remembered::Remembered;

/// Most of them.
const MOST: usize = 4096;
/// Names kept of each.
const NAMES: usize = 4;

/// Why a lease is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its time had come.
    Expired,
    /// The operator took it back.
    Revoked,
    /// The rules changed.
    Forbidden,
    /// A required enforcer did not take it.
    Refused,
}

impl End {
    /// In a few words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Expired => "its lease ended",
            Self::Revoked => "revoked",
            Self::Forbidden => "the rules forbid it",
            Self::Refused => "an enforcer refused it",
        }
    }
}

/// One lease that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Questions with their aliases, those that ended last first, at most so many.
    pub causes: SmallVec<[(Name, std::sync::Arc<[Name]>); 1]>,
    /// When it was closed.
    pub at: Moment,
    /// The reason of the end: its time came, or something closed it.
    pub how: End,
}

/// The table. A client, and an IPv6 network of one, has its share of it.
#[derive(Debug)]
pub struct EndedLeases(Remembered<IpAddr, Option<IpAddr>, Ended>);

impl Default for EndedLeases {
    fn default() -> Self {
        Self(Remembered::new(MOST))
    }
}

impl EndedLeases {
    /// A lease is over.
    pub fn note(&mut self, address: IpAddr, causes: &[Cause], how: End, now: Moment) {
        let mut causes: SmallVec<[_; 1]> = causes.iter().collect();
        causes.sort_by_key(|cause| std::cmp::Reverse(cause.ends));
        let holder = causes.first().and_then(|cause| cause.clients.first()).map(|(client, _)| prefix(*client));
        let causes = causes.iter().take(NAMES).map(|cause| (cause.question.clone(), cause.chain.clone())).collect();
        self.0.put(address, holder, Ended { causes, at: now, how });
    }

    /// It is open again.
    pub fn forget(&mut self, address: IpAddr) {
        self.0.forget(&address);
    }

    /// The last lease of an address.
    #[must_use]
    pub fn of(&self, address: IpAddr) -> Option<&Ended> {
        self.0.get(&address)
    }

    /// Those that this name had, as question or alias. O(entries).
    pub fn of_name<'a>(&'a self, name: &'a Name) -> impl Iterator<Item = (IpAddr, &'a Ended)> {
        let bears =
            move |ended: &Ended| ended.causes.iter().any(|(asked, chain)| asked == name || chain.contains(name));
        self.0.range(..).filter(move |(_, ended)| bears(ended)).map(|(address, ended)| (*address, ended))
    }
}
