//! A map and a queue by address, in which an IPv4 address takes four octets and not seventeen: there may be some
//! hundred thousand, and nearly all are IPv4.
//!
//! Both have the order of [`IpAddr`]: IPv4 stands before IPv6.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::{Bound, RangeInclusive};

/// Something of each address.
#[derive(Debug)]
pub(super) struct AddressMap<T> {
    ipv4: BTreeMap<Ipv4Addr, T>,
    ipv6: BTreeMap<Ipv6Addr, T>,
}

impl<T> Default for AddressMap<T> {
    fn default() -> Self {
        Self { ipv4: BTreeMap::new(), ipv6: BTreeMap::new() }
    }
}

impl<T> AddressMap<T> {
    pub(super) fn get(&self, address: IpAddr) -> Option<&T> {
        match address {
            IpAddr::V4(address) => self.ipv4.get(&address),
            IpAddr::V6(address) => self.ipv6.get(&address),
        }
    }

    pub(super) fn get_mut(&mut self, address: IpAddr) -> Option<&mut T> {
        match address {
            IpAddr::V4(address) => self.ipv4.get_mut(&address),
            IpAddr::V6(address) => self.ipv6.get_mut(&address),
        }
    }

    pub(super) fn insert(&mut self, address: IpAddr, value: T) -> Option<T> {
        match address {
            IpAddr::V4(address) => self.ipv4.insert(address, value),
            IpAddr::V6(address) => self.ipv6.insert(address, value),
        }
    }

    pub(super) fn remove(&mut self, address: IpAddr) -> Option<T> {
        match address {
            IpAddr::V4(address) => self.ipv4.remove(&address),
            IpAddr::V6(address) => self.ipv6.remove(&address),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.ipv4.len() + self.ipv6.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ipv4.is_empty() && self.ipv6.is_empty()
    }

    /// All leases, in the order of their addresses.
    pub(super) fn iter(&self) -> impl Iterator<Item = (IpAddr, &T)> {
        let ipv4 = self.ipv4.iter().map(|(address, value)| (IpAddr::V4(*address), value));
        ipv4.chain(self.ipv6.iter().map(|(address, value)| (IpAddr::V6(*address), value)))
    }

    /// All leases to be changed, in the order of their addresses.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (IpAddr, &mut T)> {
        let ipv4 = self.ipv4.iter_mut().map(|(address, value)| (IpAddr::V4(*address), value));
        ipv4.chain(self.ipv6.iter_mut().map(|(address, value)| (IpAddr::V6(*address), value)))
    }

    /// Those from here up to `last`, in order. `from` stands no further behind than `last`.
    pub(super) fn range(&self, from: Bound<IpAddr>, last: IpAddr) -> impl Iterator<Item = (IpAddr, &T)> {
        let ipv4 = match last {
            IpAddr::V4(last) => Bound::Included(last),
            IpAddr::V6(_) => Bound::Unbounded,
        };
        let ipv4 = ipv4_bound(from).map(|from| self.ipv4.range((from, ipv4)));
        let ipv6 = match last {
            IpAddr::V4(_) => None,
            IpAddr::V6(last) => Some(self.ipv6.range((ipv6_bound(from), Bound::Included(last)))),
        };
        let ipv4 = ipv4.into_iter().flatten().map(|(address, value)| (IpAddr::V4(*address), value));
        ipv4.chain(ipv6.into_iter().flatten().map(|(address, value)| (IpAddr::V6(*address), value)))
    }
}

/// Where IPv4 begins; none of it stands behind an IPv6 address.
fn ipv4_bound(from: Bound<IpAddr>) -> Option<Bound<Ipv4Addr>> {
    match from {
        Bound::Included(IpAddr::V4(address)) => Some(Bound::Included(address)),
        Bound::Excluded(IpAddr::V4(address)) => Some(Bound::Excluded(address)),
        Bound::Unbounded => Some(Bound::Unbounded),
        Bound::Included(IpAddr::V6(_)) | Bound::Excluded(IpAddr::V6(_)) => None,
    }
}

/// Where IPv6 begins.
fn ipv6_bound(from: Bound<IpAddr>) -> Bound<Ipv6Addr> {
    match from {
        Bound::Included(IpAddr::V6(address)) => Bound::Included(address),
        Bound::Excluded(IpAddr::V6(address)) => Bound::Excluded(address),
        Bound::Included(IpAddr::V4(_)) | Bound::Excluded(IpAddr::V4(_)) | Bound::Unbounded => Bound::Unbounded,
    }
}

/// Addresses by a moment, or by a plan's number. Without holes between them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct AddressQueue {
    ipv4: BTreeSet<([u8; 8], Ipv4Addr)>,
    ipv6: BTreeSet<([u8; 8], Ipv6Addr)>,
}

impl AddressQueue {
    pub(super) fn insert(&mut self, at: u64, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.ipv4.insert((at.to_be_bytes(), address)),
            IpAddr::V6(address) => self.ipv6.insert((at.to_be_bytes(), address)),
        }
    }

    pub(super) fn remove(&mut self, at: u64, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.ipv4.remove(&(at.to_be_bytes(), address)),
            IpAddr::V6(address) => self.ipv6.remove(&(at.to_be_bytes(), address)),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.ipv4.len() + self.ipv6.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ipv4.is_empty() && self.ipv6.is_empty()
    }

    /// The first by number, then by address.
    pub(super) fn first(&self) -> Option<(u64, IpAddr)> {
        let ipv4 = self.ipv4.first().map(|(at, address)| (u64::from_be_bytes(*at), IpAddr::V4(*address)));
        let ipv6 = self.ipv6.first().map(|(at, address)| (u64::from_be_bytes(*at), IpAddr::V6(*address)));
        ipv4.into_iter().chain(ipv6).min()
    }

    /// Those with these numbers, by number, then by address.
    pub(super) fn of(&self, numbers: RangeInclusive<u64>) -> Vec<IpAddr> {
        if numbers.is_empty() {
            return Vec::new();
        }
        let (from, upto) = (numbers.start().to_be_bytes(), numbers.end().to_be_bytes());
        let ipv4 = self.ipv4.range((from, Ipv4Addr::UNSPECIFIED)..=(upto, Ipv4Addr::BROADCAST));
        let ipv6 = self.ipv6.range((from, Ipv6Addr::UNSPECIFIED)..=(upto, Ipv6Addr::from_bits(u128::MAX)));
        let ipv4 = ipv4.map(|(at, address)| (*at, IpAddr::V4(*address)));
        let mut all: Vec<_> = ipv4.chain(ipv6.map(|(at, address)| (*at, IpAddr::V6(*address)))).collect();
        all.sort_unstable();
        all.into_iter().map(|(_, address)| address).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Some addresses of both families, with the first and the last of each among them.
    fn address() -> impl Strategy<Value = IpAddr> {
        let ipv4 = prop_oneof![0..4u32, u32::MAX - 2..=u32::MAX].prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits)));
        let ipv6 =
            prop_oneof![0..4u128, u128::MAX - 2..=u128::MAX].prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits)));
        prop_oneof![ipv4, ipv6]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// They are what a map by whole addresses is, and a set by number and whole address.
        #[test]
        fn they_are_in_the_order_of_whole_addresses(
            steps in prop::collection::vec((prop::bool::weighted(0.7), 0..4u64, address()), 0..60),
            from in address(), last in address(), excluded in any::<bool>(), numbers in (0..4u64, 0..4u64),
        ) {
            let (mut map, mut queue) = (AddressMap::default(), AddressQueue::default());
            let (mut plain, mut plain_queue) = (BTreeMap::new(), BTreeSet::new());
            for (comes, at, address) in steps {
                if comes {
                    prop_assert_eq!(map.insert(address, at), plain.insert(address, at));
                    prop_assert_eq!(queue.insert(at, address), plain_queue.insert((at, address)));
                } else {
                    prop_assert_eq!(map.remove(address), plain.remove(&address));
                    prop_assert_eq!(queue.remove(at, address), plain_queue.remove(&(at, address)));
                }
                prop_assert_eq!(map.get(address), plain.get(&address));
                prop_assert_eq!(map.get_mut(address), plain.get_mut(&address));
            }
            prop_assert_eq!((map.len(), map.is_empty()), (plain.len(), plain.is_empty()));
            prop_assert_eq!((queue.len(), queue.is_empty()), (plain_queue.len(), plain_queue.is_empty()));
            prop_assert!(map.iter().eq(plain.iter().map(|(address, at)| (*address, at))));
            prop_assert!(map.iter_mut().map(|(address, _)| address).eq(plain.keys().copied()));
            prop_assert_eq!(queue.first(), plain_queue.first().copied());
            let (first, upto) = numbers;
            let meant = plain_queue.iter().filter(|(at, _)| (first..=upto).contains(at)).map(|(_, address)| *address);
            prop_assert!(queue.of(first..=upto).into_iter().eq(meant));
            if from <= last {
                let bound = if excluded { Bound::Excluded(from) } else { Bound::Included(from) };
                let meant = plain.range((bound, Bound::Included(last))).map(|(address, at)| (*address, at));
                prop_assert!(map.range(bound, last).eq(meant));
                let meant = plain.range(..=last).map(|(address, at)| (*address, at));
                prop_assert!(map.range(Bound::Unbounded, last).eq(meant));
            }
        }
    }
}
