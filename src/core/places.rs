//! What is known of the addresses of one answer. Most answers have few, and to look through those costs less than a table; but one answer may have
//! thousands.

use std::collections::HashMap;
use std::net::IpAddr;

use smallvec::SmallVec;

/// So many are looked through.
const FEW: usize = 8;

/// Something about each address, as it was given first.
#[derive(Debug)]
pub struct Places<T> {
    few: SmallVec<[(IpAddr, T); FEW]>,
    /// Everything, once it is more than a few.
    many: HashMap<IpAddr, T>,
}

impl<T> Default for Places<T> {
    fn default() -> Self {
        Self { few: SmallVec::new(), many: HashMap::new() }
    }
}

impl<T: Copy> Places<T> {
    /// What was given with the address.
    #[must_use]
    pub fn get(&self, address: IpAddr) -> Option<T> {
        if self.many.is_empty() {
            return self.few.iter().find(|(other, _)| *other == address).map(|(_, what)| *what);
        }
        self.many.get(&address).copied()
    }

    /// Notes an address that is not there yet.
    pub fn insert(&mut self, address: IpAddr, what: T) {
        if self.few.len() < FEW {
            self.few.push((address, what));
            return;
        }
        if self.many.is_empty() {
            self.many.extend(self.few.iter().copied());
        }
        self.many.insert(address, what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_or_many_each_is_found() {
        let address = |number: u32| IpAddr::V4(std::net::Ipv4Addr::from_bits(number));
        let mut places = Places::default();
        for number in 0..40 {
            assert_eq!(places.get(address(number)), None);
            places.insert(address(number), number);
            for known in 0..=number {
                assert_eq!(places.get(address(known)), Some(known));
            }
        }
    }
}
