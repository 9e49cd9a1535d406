//! How much may wait at once: in all, and for one client, so that one client's flood costs only its own questions.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Parts with a lock of their own.
const SHARDS: usize = 16;

/// Counts what is taken, in all and per client.
pub struct Limit {
    total: AtomicUsize,
    most: usize,
    most_per_client: usize,
    /// A client is in it only while it holds something, so that its size is bounded by `most`.
    clients: [Mutex<HashMap<IpAddr, usize>>; SHARDS],
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
        })
    }

    fn shard(&self, client: IpAddr) -> Option<&Mutex<HashMap<IpAddr, usize>>> {
        // Who shares a lock with whom needs no secret.
        let low = match client {
            IpAddr::V4(v4) => v4.octets()[3],
            IpAddr::V6(v6) => v6.octets()[7] ^ v6.octets()[15],
        };
        self.clients.get(usize::from(low) % SHARDS)
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
        if self.total.fetch_add(count, Ordering::Relaxed).saturating_add(count) > self.most {
            self.total.fetch_sub(count, Ordering::Relaxed);
            return Err(Full::Total);
        }
        if let Some(shard) = self.shard(client) {
            let mut clients = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let taken = clients.get(&client).copied().unwrap_or(0).saturating_add(count);
            if taken > self.most_per_client {
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
            let mut clients = shard.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(taken) = clients.get_mut(&self.client) {
                *taken = taken.saturating_sub(self.count);
                if *taken == 0 {
                    clients.remove(&self.client);
                }
            }
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
}
