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

/// One place; given back when dropped.
pub struct Place {
    limit: Arc<Limit>,
    client: IpAddr,
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
        if self.total.fetch_add(1, Ordering::Relaxed) >= self.most {
            self.total.fetch_sub(1, Ordering::Relaxed);
            return Err(Full::Total);
        }
        if let Some(shard) = self.shard(client) {
            let mut clients = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let taken = clients.entry(client).or_insert(0);
            if *taken >= self.most_per_client {
                self.total.fetch_sub(1, Ordering::Relaxed);
                return Err(Full::Client);
            }
            *taken = taken.saturating_add(1);
        }
        Ok(Place { limit: self.clone(), client })
    }

    /// Places taken now.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.limit.total.fetch_sub(1, Ordering::Relaxed);
        if let Some(shard) = self.limit.shard(self.client) {
            let mut clients = shard.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(taken) = clients.get_mut(&self.client) {
                *taken = taken.saturating_sub(1);
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
        drop(first);
        assert_eq!(limit.taken(), 2);
        assert!(limit.take(one).is_ok());
    }
}
