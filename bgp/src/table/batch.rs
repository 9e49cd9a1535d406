//! What a reader of the table takes at a time.

use std::sync::Arc;

use bytes::Bytes;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::classes::PLAIN;
use super::{Replay, index};
use crate::wire::iana::Family;

/// How many routes a call of [`super::Table::take`] gives at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    most: usize,
    hosts: Arc<[[usize; 2]]>,
}

impl From<usize> for Room {
    fn from(most: usize) -> Self {
        Self { most, hosts: Arc::default() }
    }
}

impl Room {
    /// At most about `most` of a family. `hosts`: what one message holds of a class and family (by [`index`]); multiples of that
    /// are given, so that messages are full.
    #[must_use]
    pub fn new(most: usize, hosts: Arc<[[usize; 2]]>) -> Self {
        Self { most, hosts }
    }

    /// What one message holds.
    pub(super) fn message(&self, family: Family, class: u16) -> usize {
        let hosts = self.hosts.get(usize::from(class)).and_then(|hosts| hosts.get(index(family))).copied();
        hosts.filter(|hosts| (1..self.most).contains(hosts)).unwrap_or(self.most.max(1))
    }

    pub(super) fn of(&self, family: Family, class: u16) -> usize {
        let message = self.message(family, class);
        self.most.max(1) / message * message
    }
}

/// What to send next. A prefix occurs once at most.
#[derive(Debug, Default)]
pub struct Batch {
    /// BoRR of this family is due before the routes.
    pub begin: Option<Family>,
    /// IPv4 routes to withdraw.
    pub withdraw4: Vec<Ipv4Net>,
    /// IPv4 routes to announce.
    pub announce4: Vec<Ipv4Net>,
    /// IPv6 routes to withdraw.
    pub withdraw6: Vec<Ipv6Net>,
    /// IPv6 routes to announce.
    pub announce6: Vec<Ipv6Net>,
    /// The classes of `announce4`, in the same order; empty when all are [`PLAIN`].
    pub classes4: Vec<u16>,
    /// The classes of `announce6`, likewise.
    pub classes6: Vec<u16>,
    /// Routes that are encoded already, by the `make` of this or an earlier [`super::Table::take_encoded`] for the same style; the
    /// lists are empty then.
    pub encoded: Option<Bytes>,
    /// The announcements are a piece of this replay, not changes.
    pub replay: Option<Replay>,
    /// The replay of this family ends after the routes.
    pub end: Option<(Family, Replay)>,
}

impl Batch {
    /// Routes in it.
    #[must_use]
    pub fn routes(&self) -> usize {
        self.withdraw4.len() + self.announce4.len() + self.withdraw6.len() + self.announce6.len()
    }

    /// Whether there is room for one more of this family.
    pub(super) fn has_room(&self, limits: [usize; 2], family: Family) -> bool {
        let [ipv4, ipv6] = limits;
        match family {
            Family::Ipv4 => self.withdraw4.len() + self.announce4.len() < ipv4,
            Family::Ipv6 => self.withdraw6.len() + self.announce6.len() < ipv6,
        }
    }

    /// Empties it, keeps its memory.
    pub fn clear(&mut self) {
        self.begin = None;
        self.withdraw4.clear();
        self.announce4.clear();
        self.withdraw6.clear();
        self.announce6.clear();
        self.classes4.clear();
        self.classes6.clear();
        self.encoded = None;
        self.replay = None;
        self.end = None;
    }

    pub(super) fn announce(&mut self, net: IpNet, class: u16) {
        let classes = match net {
            IpNet::V4(net) => {
                self.announce4.push(net);
                (&mut self.classes4, self.announce4.len())
            }
            IpNet::V6(net) => {
                self.announce6.push(net);
                (&mut self.classes6, self.announce6.len())
            }
        };
        // Nothing is kept for those who have no classes.
        if let (list, count) = classes
            && (class != PLAIN || !list.is_empty())
        {
            list.resize(count - 1, PLAIN);
            list.push(class);
        }
    }

    pub(super) fn withdraw(&mut self, net: IpNet) {
        match net {
            IpNet::V4(net) => self.withdraw4.push(net),
            IpNet::V6(net) => self.withdraw6.push(net),
        }
    }

    pub(super) fn forget_announcements(&mut self) {
        self.announce4.clear();
        self.announce6.clear();
        self.classes4.clear();
        self.classes6.clear();
    }

    pub(super) fn truncate_announcements(&mut self, count: usize) {
        self.announce4.truncate(count);
        self.announce6.truncate(count);
        self.classes4.truncate(count);
        self.classes6.truncate(count);
    }
}
