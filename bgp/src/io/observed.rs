//! What an observer's session shows: which prefixes the router sends back, and the order in which it did.

use std::collections::{BTreeMap, HashMap};

use ipnet::IpNet;

/// Most prefixes kept; more are not noticed.
const MOST: usize = 1 << 20;

/// One observer's view. Each announcement it hears gets a number, a *word*.
#[derive(Debug, Default)]
pub(super) struct Observed {
    newest: u64,
    by_net: HashMap<IpNet, u64>,
    by_word: BTreeMap<u64, IpNet>,
    /// Heard while there was no room.
    lost: u64,
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

    /// The router announced it, maybe again.
    pub(super) fn announced(&mut self, net: IpNet) {
        self.withdrawn(net);
        if self.by_net.len() >= MOST {
            self.lost += 1;
            return;
        }
        self.newest += 1;
        self.by_net.insert(net, self.newest);
        self.by_word.insert(self.newest, net);
    }

    /// The router withdrew it.
    pub(super) fn withdrawn(&mut self, net: IpNet) {
        if let Some(word) = self.by_net.remove(&net) {
            self.by_word.remove(&word);
        }
    }

    /// The session ended: nothing is known.
    pub(super) fn clear(&mut self) {
        self.by_net.clear();
        self.by_word.clear();
    }

    /// Words after this one, oldest first.
    pub(super) fn after(&self, word: u64) -> impl Iterator<Item = (u64, IpNet)> {
        self.by_word.range(word.saturating_add(1)..).map(|(word, net)| (*word, *net))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_in_order_and_a_prefix_has_one() {
        let net = |n: u8| IpNet::from(std::net::IpAddr::from([203, 0, 113, n]));
        let mut observed = Observed::default();
        for n in [1, 2, 1, 3] {
            observed.announced(net(n));
        }
        observed.withdrawn(net(3));
        assert_eq!(observed.after(0).collect::<Vec<_>>(), [(2, net(2)), (3, net(1))]);
        assert_eq!(observed.after(2).count(), 1);
        assert!(observed.has(net(1)) && !observed.has(net(3)));
        observed.clear();
        assert_eq!((observed.newest(), observed.after(0).count()), (4, 0));
    }
}
