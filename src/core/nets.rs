//! Prefixes and what they hold.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Prefixes and what they hold, asked by hash: one probe for each prefix length in use, however many prefixes there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::core) struct NetMap<T> {
    nets: HashMap<IpNet, T>,
    /// Lengths in use, the longest first.
    ipv4: Vec<u8>,
    ipv6: Vec<u8>,
}

impl<T> Default for NetMap<T> {
    fn default() -> Self {
        Self { nets: HashMap::new(), ipv4: Vec::new(), ipv6: Vec::new() }
    }
}

impl<T: Copy> NetMap<T> {
    pub(in crate::core) fn is_empty(&self) -> bool {
        self.nets.is_empty()
    }

    /// How many prefixes it has.
    pub(in crate::core) fn len(&self) -> usize {
        self.nets.len()
    }

    /// Puts `merge(what was there, value)` at the prefix.
    pub(in crate::core) fn insert(&mut self, net: IpNet, value: T, merge: impl FnOnce(T, T) -> T) {
        let net = net.trunc();
        let lengths = if matches!(net, IpNet::V4(_)) { &mut self.ipv4 } else { &mut self.ipv6 };
        if let Err(place) = lengths.binary_search_by(|length| net.prefix_len().cmp(length)) {
            lengths.insert(place, net.prefix_len());
        }
        let value = match self.nets.get(&net) {
            Some(old) => merge(*old, value),
            None => value,
        };
        self.nets.insert(net, value);
    }

    /// The longest prefix that holds the address.
    pub(in crate::core) fn find(&self, address: IpAddr) -> Option<(IpNet, T)> {
        let lengths = if address.is_ipv4() { &self.ipv4 } else { &self.ipv6 };
        let nets = lengths.iter().filter_map(|length| IpNet::new(address, *length).ok()).map(|net| net.trunc());
        nets.filter_map(|net| Some((net, *self.nets.get(&net)?))).next()
    }
}

/// A list of prefix and value, in order.
impl<T: Copy + Serialize> Serialize for NetMap<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut all: Vec<(IpNet, T)> = self.nets.iter().map(|(net, value)| (*net, *value)).collect();
        all.sort_by_key(|(net, _)| *net);
        all.serialize(serializer)
    }
}

impl<'de, T: Copy + Deserialize<'de>> Deserialize<'de> for NetMap<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut map = Self::default();
        for (net, value) in Vec::<(IpNet, T)>::deserialize(deserializer)? {
            map.insert(net, value, |_, last| last);
        }
        Ok(map)
    }
}
