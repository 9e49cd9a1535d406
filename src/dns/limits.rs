//! How much may wait at once: in all, for one client, and for one registrable domain, so that a flood costs only whoever causes it.
//!
//! Who a client is, [`crate::core::client`] says; what its part is, the rule of all tables ([`crate::core::share::may_hold`]): as much as is free
//! afterwards. Beside that one host has a bound of its own, where it is known to be one: each address of a /64 has it, and all of them together have
//! the part of one client.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::core::client::Claim;
use crate::core::share::{HashHolder, Holder, may_hold};

/// Parts with a lock of their own.
const SHARDS: usize = 16;

/// Counts what is taken, in all and by whom.
pub struct Limit {
    total: AtomicUsize,
    most: usize,
    most_per_host: usize,
    least: usize,
    /// Somebody is in it only while holding something, so that its size is bounded by `most`.
    holders: [Mutex<HashMap<Holder, usize, HashHolder>>; SHARDS],
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The whole is used up.
    Total,
    /// This client's share is used up.
    Client,
    /// That of the domain which is asked for.
    Domain,
}

/// One place, or several taken together; given back when dropped.
pub struct Place {
    limit: Arc<Limit>,
    claim: Claim,
    count: usize,
}

impl Limit {
    /// At most `most` places, `most_per_host` of them for one host (times its parts), and `least` for anybody as long as there are any.
    #[must_use]
    pub fn new(most: usize, most_per_host: usize, least: usize) -> Arc<Self> {
        Arc::new(Self {
            total: AtomicUsize::new(0),
            most,
            most_per_host,
            least,
            holders: std::array::from_fn(|_| Mutex::default()),
        })
    }

    /// Takes a place.
    ///
    /// # Errors
    /// [`Full`].
    pub fn take(self: &Arc<Self>, claim: Claim) -> Result<Place, Full> {
        self.take_some(claim, 1)
    }

    /// Takes so many places together.
    ///
    /// # Errors
    /// [`Full`]: not all of them are free, or its own.
    pub fn take_some(self: &Arc<Self>, claim: Claim, count: usize) -> Result<Place, Full> {
        let total = self.total.fetch_add(count, Ordering::Relaxed).saturating_add(count);
        let free = self.most.checked_sub(total);
        // Whatever is not to be had is given back with it.
        let mut place = Place { limit: self.clone(), claim: Claim::NOBODY, count };
        let free = free.ok_or(Full::Total)?;
        let hosts = |then: usize| then <= self.most_per_host.saturating_mul(usize::from(claim.host.parts()));
        let fair = |holder: Holder, then: usize| may_hold(holder, then, free, self.least);
        let one = claim.host == claim.client;
        if !one {
            place.claim.host = self.add(claim.host, count, hosts).ok_or(Full::Client)?;
        }
        let both = |then: usize| fair(claim.client, then) && (!one || hosts(then));
        place.claim.client = self.add(claim.client, count, both).ok_or(Full::Client)?;
        place.claim.domain = self.add(claim.domain, count, |then| fair(claim.domain, then)).ok_or(Full::Domain)?;
        Ok(place)
    }

    /// Counts so many more for a holder, if it may have them.
    fn add(&self, holder: Holder, count: usize, may: impl FnOnce(usize) -> bool) -> Option<Holder> {
        if holder == Holder::NOBODY {
            return Some(holder);
        }
        let mut holders = self.shard(holder)?.lock().unwrap_or_else(PoisonError::into_inner);
        let then = holders.get(&holder).copied().unwrap_or(0).saturating_add(count);
        may(then).then(|| {
            holders.insert(holder, then);
            holder
        })
    }

    fn remove(&self, holder: Holder, count: usize) {
        if holder == Holder::NOBODY {
            return;
        }
        let Some(shard) = self.shard(holder) else { return };
        let mut holders = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = holders.get_mut(&holder) {
            *taken = taken.saturating_sub(count);
            if *taken == 0 {
                holders.remove(&holder);
            }
        }
    }

    fn shard(&self, holder: Holder) -> Option<&Mutex<HashMap<Holder, usize, HashHolder>>> {
        self.holders.get(holder.spread(SHARDS))
    }

    /// Places that this one has now.
    #[must_use]
    pub fn taken_by(&self, holder: Holder) -> usize {
        let holders = self.shard(holder).map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner));
        holders.and_then(|holders| holders.get(&holder).copied()).unwrap_or(0)
    }

    /// Places taken now.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.limit.total.fetch_sub(self.count, Ordering::Relaxed);
        let Claim { host, client, domain } = self.claim;
        [host, client, domain].into_iter().for_each(|holder| self.limit.remove(holder, self.count));
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::core::client::Clients;

    fn claim(address: impl Into<IpAddr>) -> Claim {
        Clients::default().claim(address.into())
    }

    fn is_empty(limit: &Limit) -> bool {
        limit.taken() == 0 && limit.holders.iter().all(|shard| shard.lock().unwrap().is_empty())
    }

    #[test]
    fn one_client_uses_up_its_own_share_only() {
        let limit = Limit::new(3, 2, 2);
        let (one, two) = (claim([192, 0, 2, 1]), claim([192, 0, 2, 2]));
        let first = limit.take(one).ok().unwrap();
        let _second = limit.take(one).ok().unwrap();
        assert_eq!(limit.take(one).err(), Some(Full::Client));
        let _third = limit.take(two).ok().unwrap();
        assert_eq!(limit.take(two).err(), Some(Full::Total));
        assert_eq!((limit.taken_by(one.client), limit.taken_by(two.client)), (2, 1));
        drop(first);
        assert_eq!((limit.taken(), limit.taken_by(one.host)), (2, 1));
        assert!(limit.take(one).is_ok());
    }

    #[test]
    fn several_places_are_had_together_or_not_at_all() {
        let limit = Limit::new(10, 6, 6);
        let (one, two) = (claim([192, 0, 2, 1]), claim([192, 0, 2, 2]));
        let four = limit.take_some(one, 4).ok().unwrap();
        assert_eq!(limit.take_some(one, 3).err(), Some(Full::Client));
        assert_eq!(limit.take_some(two, 7).err(), Some(Full::Total));
        let six = limit.take_some(two, 6).ok().unwrap();
        assert_eq!((limit.taken(), limit.take(two).err()), (10, Some(Full::Total)));
        drop((four, six));
        assert!(limit.take_some(one, 6).is_ok());
        assert!(is_empty(&limit));
    }

    #[test]
    fn one_host_with_all_addresses_of_its_64_leaves_places_to_others() {
        let limit = Limit::new(2048, 64, 64);
        let address = |network: u128, host: u128| {
            claim(IpAddr::from((0x2001_0db8_u128 << 96 | network << 64 | host).to_be_bytes()))
        };
        let taken: Vec<Place> = (0..4096).filter_map(|host| limit.take(address(1, host)).ok()).collect();
        assert_eq!(taken.len(), 1024);
        assert_eq!(limit.take(address(1, 5000)).err(), Some(Full::Client));
        let others: Vec<Place> = (0..64).filter_map(|_| limit.take(address(2, 1)).ok()).collect();
        let four: Vec<Place> = (0..100).filter_map(|_| limit.take(claim([192, 0, 2, 1])).ok()).collect();
        assert_eq!((others.len(), four.len()), (64, 64));
        // A network of many hosts, each with a few.
        let lan: Vec<Place> = (0..400).filter_map(|host| limit.take(address(3, host)).ok()).collect();
        assert_eq!(lan.len(), 400);
        // A forwarder that counts for ten.
        let ten = Claim { host: claim([192, 0, 2, 9]).host.with_parts(10), ..claim([192, 0, 2, 9]) };
        let ten = Claim { client: ten.host, ..ten };
        let forwarder: Vec<Place> = (0..1000).filter_map(|_| limit.take(ten).ok()).collect();
        assert_eq!(
            forwarder.len(),
            2048 - 1024 - 64 - 64 - 400,
            "all that is left, for it holds less than ten times as much"
        );
        drop((taken, others, four, lan, forwarder));
        assert!(is_empty(&limit));
    }

    #[test]
    fn ten_thousand_honest_clients_all_find_places_beside_a_greedy_one() {
        let limit = Limit::new(16_384, 16_384, 16);
        let asked = |client: u32, domain: &str| {
            Clients::default().claim_for(IpAddr::from(client.to_be_bytes()), domain.as_bytes())
        };
        let flood: Vec<Place> =
            (0..20_000).filter_map(|_| limit.take(asked(0x0a00_0000, "silent.example")).ok()).collect();
        assert_eq!(flood.len(), 8192);
        // Half of them for one domain that everybody uses.
        let domain = |n: u32| if n.is_multiple_of(2) { "cloud.example".to_owned() } else { format!("d{n}.example") };
        let honest = |n: u32| limit.take(asked(0x0a01_0000 + n, &domain(n)));
        let all: Vec<Place> = (0..5000).filter_map(|n| honest(n).ok()).collect();
        assert_eq!(all.len(), 5000);
        drop(flood);
        let more: Vec<Place> = (5000..10_000).filter_map(|n| honest(n).ok()).collect();
        assert_eq!(more.len(), 5000);
        drop((all, more));
        assert!(is_empty(&limit));
    }

    #[test]
    fn one_domain_leaves_places_to_others_whoever_asks_for_it() {
        let limit = Limit::new(1000, 1000, 16);
        let asked =
            |client: u8, domain: &str| Clients::default().claim_for([10, 0, 0, client].into(), domain.as_bytes());
        let silent: Vec<Place> =
            (0..2000u32).filter_map(|n| limit.take(asked((n % 200) as u8, "silent.example")).ok()).collect();
        assert_eq!((silent.len(), limit.take(asked(1, "silent.example")).err()), (500, Some(Full::Domain)));
        let others: Vec<Place> = (0..250).filter_map(|n| limit.take(asked(n as u8, "other.example")).ok()).collect();
        assert_eq!(others.len(), 250);
        // On one host likewise: another program finds places.
        let program = |domain: &str| Clients::default().claim_for([127, 0, 0, 1].into(), domain.as_bytes());
        let flood: Vec<Place> = (0..1000).filter_map(|_| limit.take(program("flood.example")).ok()).collect();
        assert_eq!(flood.len(), 125);
        assert!(limit.take(program("cron.example")).is_ok());
        drop((silent, others, flood));
        assert!(is_empty(&limit));
    }
}
