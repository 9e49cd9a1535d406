//! How much may wait at once: in all, and for one client, so that one client's flood costs only its own questions.
//!
//! A /64 may be one host with as many addresses as it likes (RFC 8981), or a whole network. So each of its addresses has a client's places, and all
//! of them together no more than are free afterwards, as in [`crate::core::share`]: one host with a thousand addresses ends at a half, and
//! everybody else finds places.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::core::budget::client_key;

/// Parts with a lock of their own.
const SHARDS: usize = 16;

/// Counts what is taken, in all and per client.
pub struct Limit {
    total: AtomicUsize,
    most: usize,
    most_per_client: usize,
    /// A client is in it only while it holds something, so that its size is bounded by `most`.
    clients: [Mutex<HashMap<IpAddr, usize>>; SHARDS],
    /// The same of the /64 of IPv6 clients.
    networks: [Mutex<HashMap<IpAddr, usize>>; SHARDS],
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The whole is used up.
    Total,
    /// This client's share is used up.
    Client,
}

/// One place, or several taken together; given back when dropped.
pub struct Place {
    limit: Arc<Limit>,
    client: IpAddr,
    count: usize,
}

impl Limit {
    /// At most `most` places, `most_per_client` of them for one client.
    #[must_use]
    pub fn new(most: usize, most_per_client: usize) -> Arc<Self> {
        Arc::new(Self {
            total: AtomicUsize::new(0),
            most,
            most_per_client,
            clients: std::array::from_fn(|_| Mutex::default()),
            networks: std::array::from_fn(|_| Mutex::default()),
        })
    }

    fn shard(&self, client: IpAddr) -> Option<&Mutex<HashMap<IpAddr, usize>>> {
        self.clients.get(place(client))
    }

    /// Of an IPv6 client.
    fn network(&self, client: IpAddr) -> Option<(IpAddr, &Mutex<HashMap<IpAddr, usize>>)> {
        let network = client_key(client);
        let shard = self.networks.get(place(network))?;
        client.is_ipv6().then_some((network, shard))
    }

    /// Counts what a client's network takes, if it may.
    fn take_of_network(&self, client: IpAddr, count: usize, total: usize) -> bool {
        let Some((network, shard)) = self.network(client) else { return true };
        let mut networks = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = networks.get(&network).copied().unwrap_or(0).saturating_add(count);
        let may = taken <= self.most_per_client || taken <= self.most.saturating_sub(total);
        if may {
            networks.insert(network, taken);
        }
        may
    }

    /// Takes a place.
    ///
    /// # Errors
    /// [`Full`].
    pub fn take(self: &Arc<Self>, client: IpAddr) -> Result<Place, Full> {
        self.take_some(client, 1)
    }

    /// Takes so many places together.
    ///
    /// # Errors
    /// [`Full`]: not all of them are free.
    pub fn take_some(self: &Arc<Self>, client: IpAddr, count: usize) -> Result<Place, Full> {
        let total = self.total.fetch_add(count, Ordering::Relaxed).saturating_add(count);
        if total > self.most {
            self.total.fetch_sub(count, Ordering::Relaxed);
            return Err(Full::Total);
        }
        if let Some(shard) = self.shard(client) {
            let mut clients = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let taken = clients.get(&client).copied().unwrap_or(0).saturating_add(count);
            if taken > self.most_per_client || !self.take_of_network(client, count, total) {
                self.total.fetch_sub(count, Ordering::Relaxed);
                return Err(Full::Client);
            }
            clients.insert(client, taken);
        }
        Ok(Place { limit: self.clone(), client, count })
    }

    /// Places that this client has now.
    #[must_use]
    pub fn taken_by(&self, client: IpAddr) -> usize {
        let clients = self.shard(client).map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner));
        clients.and_then(|clients| clients.get(&client).copied()).unwrap_or(0)
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
        if let Some(shard) = self.limit.shard(self.client) {
            give_back(shard, self.client, self.count);
        }
        if let Some((network, shard)) = self.limit.network(self.client) {
            give_back(shard, network, self.count);
        }
    }
}

/// Who shares a lock with whom needs no secret.
fn place(client: IpAddr) -> usize {
    let low = match client {
        IpAddr::V4(v4) => v4.octets()[3],
        IpAddr::V6(v6) => v6.octets()[7] ^ v6.octets()[15],
    };
    usize::from(low) % SHARDS
}

fn give_back(shard: &Mutex<HashMap<IpAddr, usize>>, key: IpAddr, count: usize) {
    let mut all = shard.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(taken) = all.get_mut(&key) {
        *taken = taken.saturating_sub(count);
        if *taken == 0 {
            all.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_uses_up_its_own_share_only() {
        let limit = Limit::new(3, 2);
        let (one, two) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let first = limit.take(one).ok().unwrap();
        let _second = limit.take(one).ok().unwrap();
        assert_eq!(limit.take(one).err(), Some(Full::Client));
        let _third = limit.take(two).ok().unwrap();
        assert_eq!(limit.take(two).err(), Some(Full::Total));
        assert_eq!((limit.taken_by(one), limit.taken_by(two)), (2, 1));
        drop(first);
        assert_eq!((limit.taken(), limit.taken_by(one)), (2, 1));
        assert!(limit.take(one).is_ok());
    }

    #[test]
    fn several_places_are_had_together_or_not_at_all() {
        let limit = Limit::new(10, 6);
        let (one, two) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let four = limit.take_some(one, 4).ok().unwrap();
        assert_eq!(limit.take_some(one, 3).err(), Some(Full::Client));
        assert_eq!(limit.take_some(two, 7).err(), Some(Full::Total));
        let six = limit.take_some(two, 6).ok().unwrap();
        assert_eq!((limit.taken(), limit.take(two).err()), (10, Some(Full::Total)));
        drop((four, six));
        assert!(limit.take_some(one, 6).is_ok());
        assert_eq!(limit.taken(), 0);
    }

    #[test]
    fn one_host_with_all_addresses_of_its_64_leaves_places_to_others() {
        let limit = Limit::new(2048, 64);
        let address =
            |network: u128, host: u128| IpAddr::from((0x2001_0db8_u128 << 96 | network << 64 | host).to_be_bytes());
        let taken: Vec<Place> = (0..4096).filter_map(|host| limit.take(address(1, host)).ok()).collect();
        assert_eq!(taken.len(), 1024);
        assert_eq!(limit.take(address(1, 5000)).err(), Some(Full::Client));
        let others: Vec<Place> = (0..64).filter_map(|_| limit.take(address(2, 1)).ok()).collect();
        let four: Vec<Place> = (0..64).filter_map(|_| limit.take(IpAddr::from([192, 0, 2, 1])).ok()).collect();
        assert_eq!((others.len(), four.len()), (64, 64));
        // A network of many hosts, each with a few.
        let lan: Vec<Place> = (0..400).filter_map(|host| limit.take(address(3, host)).ok()).collect();
        assert_eq!(lan.len(), 400);
        drop((taken, others, four, lan));
        assert_eq!(limit.taken(), 0);
        assert!(limit.networks.iter().all(|networks| networks.lock().unwrap().is_empty()));
    }
}
