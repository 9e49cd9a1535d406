//! What an observer's session shows: which prefixes the router sends back, and the order in which it did.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use ipnet::IpNet;

use crate::table::classes::Extra;
use crate::wire::iana::{Families, Family};

/// Most prefixes kept; more are not noticed.
const MOST: usize = 1 << 20;
/// Most of them that are others': a router that sends its whole table takes no more memory.
const OTHERS: usize = 1 << 17;
/// Most words kept for those who haven't looked yet; who lags more learns only what there is now.
const LOG: usize = 1 << 16;

/// Something that an observer heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    /// The word's number; later words have greater ones.
    pub(super) number: u64,
    pub(super) net: IpNet,
    /// Announced, maybe again, with these communities; else withdrawn.
    pub(super) bears: Option<Arc<Extra>>,
    /// It is another guard's path.
    pub(super) another: bool,
}

/// Whose path a router sent back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// It bears our mark.
    Ours,
    /// It has our AS or our communities, as another guard's may have.
    Untold,
    /// Another speaker announces it.
    Another,
}

/// One observer's view. Each announcement and withdrawal it hears is a *word* with a number.
#[derive(Debug, Default)]
pub(super) struct Observed {
    newest: u64,
    by_net: HashMap<IpNet, u64>,
    by_word: BTreeMap<u64, (IpNet, Arc<Extra>, bool)>,
    log: VecDeque<Word>,
    /// Heard while there was no room.
    lost: u64,
    /// Families of which the router has sent its table to the end, in this session.
    whole: Families,
    /// So many tables were sent to their end, in all sessions.
    tables: u64,
    /// Our mark comes through: what bears none is another's.
    marked: bool,
    /// Prefixes of others among those that the router sends.
    others: usize,
}

impl Observed {
    /// The number of the newest word.
    pub(super) fn newest(&self) -> u64 {
        self.newest
    }

    /// Whether the router sends this prefix now.
    pub(super) fn has(&self, net: IpNet) -> bool {
        self.by_net.contains_key(&net)
    }

    /// What the path that it sends bears, if that is another guard's.
    pub(super) fn anothers(&self, net: IpNet) -> Option<Arc<Extra>> {
        let word = self.by_net.get(&net).and_then(|word| self.by_word.get(word));
        word.filter(|(_, _, another)| *another).map(|(_, bears, _)| Arc::clone(bears))
    }

    /// Whether a path is another's, by what is known of this session.
    pub(super) fn tell(&mut self, whose: Whose) -> bool {
        self.marked |= whose == Whose::Ours;
        whose == Whose::Another || (whose == Whose::Untold && self.marked)
    }

    /// Whether the router sends none of ours, although it has sent a table to its end.
    pub(super) fn is_empty(&self) -> bool {
        self.by_net.is_empty() && self.whole != Families::NONE
    }

    /// How many tables, each of one family, the router has sent to their end.
    pub(super) fn tables(&self) -> u64 {
        self.tables
    }

    /// The router has sent all that it has of a family.
    pub(super) fn ended(&mut self, family: Family) {
        self.whole.insert(family);
        self.tables += 1;
    }

    /// Families of which everything that the router has was heard.
    pub(super) fn whole(&self) -> Families {
        self.whole
    }

    /// Whether there were withdrawals after this word that [`Self::after`] may not tell.
    pub(super) fn forgot(&self, word: u64) -> bool {
        self.newest > word && self.log.front().is_none_or(|first| first.number > word.saturating_add(1))
    }

    fn say(&mut self, net: IpNet, bears: Option<Arc<Extra>>, another: bool) {
        self.newest += 1;
        if self.log.len() >= LOG {
            self.log.pop_front();
        }
        self.log.push_back(Word { number: self.newest, net, bears, another });
    }

    /// The router announced it, maybe again; `another`: a path of another guard.
    pub(super) fn announced(&mut self, net: IpNet, bears: &Arc<Extra>, another: bool) {
        let full = self.by_net.len() >= MOST || (another && self.others >= OTHERS);
        if full && !(self.by_net.contains_key(&net) && self.anothers(net).is_some() == another) {
            // What it takes the place of is gone all the same.
            self.lost += 1;
            self.withdrawn(net);
            return;
        }
        self.forget(net);
        self.others += usize::from(another);
        self.say(net, Some(Arc::clone(bears)), another);
        self.by_net.insert(net, self.newest);
        self.by_word.insert(self.newest, (net, Arc::clone(bears), another));
    }

    /// The router withdrew it.
    pub(super) fn withdrawn(&mut self, net: IpNet) {
        if self.forget(net) {
            self.say(net, None, false);
        }
    }

    /// Returns whether it was there.
    fn forget(&mut self, net: IpNet) -> bool {
        let Some(word) = self.by_net.remove(&net) else { return false };
        let another = self.by_word.remove(&word).is_some_and(|(_, _, another)| another);
        self.others -= usize::from(another);
        true
    }

    /// The session ended: nothing is known.
    pub(super) fn clear(&mut self) {
        self.by_net.clear();
        self.by_word.clear();
        self.log.clear();
        self.whole = Families::NONE;
        self.marked = false;
        self.others = 0;
    }

    /// At most `room` words after this one, oldest first. Where they aren't all kept, only those on what the router sends now.
    pub(super) fn after(&self, word: u64, room: usize) -> Vec<Word> {
        let next = word.saturating_add(1);
        match self.log.front() {
            Some(first) if first.number <= next => {
                let skip = usize::try_from(next - first.number).unwrap_or(usize::MAX);
                self.log.iter().skip(skip).take(room).cloned().collect()
            }
            _ => {
                let now = self.by_word.range(next..).take(room);
                let word = |(number, (net, bears, another)): (&u64, &(IpNet, Arc<Extra>, bool))| Word {
                    number: *number,
                    net: *net,
                    bears: Some(Arc::clone(bears)),
                    another: *another,
                };
                now.map(word).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(n: u8) -> IpNet {
        IpNet::from(std::net::IpAddr::from([203, 0, 113, n]))
    }

    #[test]
    fn words_are_in_order_with_the_withdrawals() {
        let mut observed = Observed::default();
        for n in [1, 2, 1] {
            observed.announced(net(n), &Arc::default(), false);
        }
        observed.withdrawn(net(2));
        observed.withdrawn(net(3));
        let words: Vec<_> =
            observed.after(1, 9).iter().map(|word| (word.number, word.net, word.bears.is_some())).collect();
        assert_eq!(words, [(2, net(2), true), (3, net(1), true), (4, net(2), false)]);
        assert_eq!((observed.after(1, 2).len(), observed.after(4, 9).len()), (2, 0));
        assert!(observed.has(net(1)) && !observed.has(net(2)));
        observed.clear();
        assert_eq!((observed.newest(), observed.after(0, 9).len()), (4, 0));
        observed.announced(net(7), &Arc::default(), false);
        assert_eq!(observed.after(4, 9).len(), 1);
        assert_eq!(observed.after(0, 9).len(), 1, "what is left of it");
        assert!(
            !observed.forgot(4) && observed.forgot(3),
            "a withdrawal may have been among what went with the session"
        );
        observed.ended(Family::Ipv4);
        assert_eq!((observed.tables(), observed.whole().contains(Family::Ipv4)), (1, true));
        observed.clear();
        assert_eq!((observed.tables(), observed.whole()), (1, Families::NONE));
    }

    #[test]
    fn a_path_without_our_mark_is_anothers_once_the_mark_came_through() {
        let mut observed = Observed::default();
        assert!(!observed.tell(Whose::Untold) && observed.tell(Whose::Another) && !observed.tell(Whose::Ours));
        assert!(observed.tell(Whose::Untold));
        observed.announced(net(1), &Arc::default(), true);
        assert!(observed.has(net(1)) && observed.anothers(net(1)).is_some() && observed.after(0, 9)[0].another);
        observed.announced(net(1), &Arc::default(), false);
        assert!(observed.anothers(net(1)).is_none() && observed.anothers(net(2)).is_none());
        assert_eq!(observed.others, 0);
        observed.clear();
        assert!(!observed.tell(Whose::Untold), "another session may take other ways");
    }

    #[test]
    fn others_have_a_bound_of_their_own() {
        let mut observed = Observed::default();
        observed.announced(net(1), &Arc::default(), false);
        let other = |n: usize| IpNet::from(std::net::IpAddr::from(u32::try_from(n).unwrap().to_be_bytes()));
        for n in 0..OTHERS {
            observed.announced(other(n), &Arc::default(), true);
        }
        observed.announced(net(1), &Arc::default(), true);
        assert!(!observed.has(net(1)), "ours is gone, and there is no room for what came");
        observed.announced(net(1), &Arc::default(), false);
        observed.announced(other(7), &Arc::default(), true);
        assert!(observed.has(net(1)) && observed.has(other(7)));
        observed.withdrawn(other(7));
        assert_eq!(observed.others, OTHERS - 1);
    }

    #[test]
    fn who_lags_too_far_learns_what_there_is_now() {
        let mut observed = Observed::default();
        observed.announced(net(1), &Arc::default(), false);
        for _ in 0..LOG {
            observed.announced(net(2), &Arc::default(), false);
        }
        observed.withdrawn(net(1));
        let words = observed.after(0, 9);
        let last = Word { number: LOG as u64 + 1, net: net(2), bears: Some(Arc::default()), another: false };
        assert_eq!(words, [last]);
    }
}
