//! What clients asked for and where their packets went in audit, for `suggest`: bounded, and kept over restarts.
//!
//! Names that lead somewhere and names that lead nowhere have room apart, so that a program that makes up names pushes out none that matters. Where
//! there is no room, the client with the most gives up what it used longest ago; that is counted.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::config::Config;
use crate::config::schema::Hide;
use crate::core::client::prefix;
use crate::core::name::Name;
use crate::core::remembered::Remembered;
use crate::store::usage::{Destination, Got, Seen, Used, UsedAddress, UsedName};

/// Parts with a lock of their own, by client and name.
const PARTS: usize = 16;
/// Names of a client that lead somewhere, in each part.
const NAMES: usize = 2048;
/// Those that lead nowhere.
const NOWHERE: usize = 256;
/// Destinations of a client's packets.
const DESTINATIONS: usize = 4096;
/// Addresses whose name is known, in each part.
const ADDRESSES: usize = 1024;
/// What is used again after so many seconds becomes the newest.
const TOUCH: u64 = 60;
/// Stands for the names of all addresses: how often each is asked for says nothing of what is to be allowed.
static REVERSE: LazyLock<Vec<Name>> =
    LazyLock::new(|| ["in-addr.arpa", "ip6.arpa"].iter().filter_map(|name| name.parse().ok()).collect());

/// Whether a name stands for the names of all addresses of its family.
#[must_use]
pub fn is_reverse(name: &Name) -> bool {
    REVERSE.contains(name)
}

type Key = (IpAddr, Name);

#[derive(Debug)]
struct Part {
    /// Of these the better outcome counts.
    names: Remembered<Key, IpAddr, (Got, Seen)>,
    nowhere: Remembered<Key, IpAddr, Seen>,
    /// Names whose answers had an address.
    led: Remembered<IpAddr, IpAddr, Name>,
}

impl Default for Part {
    fn default() -> Self {
        Self { names: Remembered::new(NAMES), nowhere: Remembered::new(NOWHERE), led: Remembered::new(ADDRESSES) }
    }
}

impl Part {
    /// Puts one down; returns whether another had to go for it.
    fn put(&mut self, key: Key, got: Got, now: u64, seen: Seen) -> bool {
        let holder = key.0;
        if got == Got::Nothing {
            if let Some((_, known)) = self.names.get_mut(&key) {
                *known = known.with(seen);
                return false;
            }
            let known = self.nowhere.get(&key).copied();
            let full = known.is_none() && self.nowhere.is_full();
            self.nowhere.put(key, holder, known.map_or(seen, |known| known.with(seen)));
            return full;
        }
        let before = self.nowhere.forget(&key);
        let seen = before.map_or(seen, |before| before.with(seen));
        let known = self.names.get_mut(&key);
        if let Some((best, known)) = known {
            let old = now.saturating_sub(known.last) >= TOUCH;
            (*best, *known) = (got.max(*best), known.with(seen));
            if !old {
                return false;
            }
            let value = (*best, *known);
            self.names.put(key, holder, value);
            return false;
        }
        let full = self.names.is_full();
        self.names.put(key, holder, (got, seen));
        full
    }
}

type Packets = Remembered<Destination, IpAddr, (Option<Name>, Seen)>;

/// Shared by who answers, who reads refused packets and who shows it; cheap to clone.
#[derive(Clone, Debug)]
pub struct Usage(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Whether anything is put down: in audit, unless names are hidden.
    on: AtomicBool,
    /// Clients aren't told apart.
    without_clients: AtomicBool,
    /// Something is not on disk yet.
    changed: AtomicBool,
    since: AtomicU64,
    forgotten: AtomicU64,
    hasher: RandomState,
    parts: [Mutex<Part>; PARTS],
    packets: Mutex<Packets>,
}

/// Nothing was seen yet.
const NEVER: u64 = u64::MAX;
/// Instead of a client.
const ANYBODY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

impl Default for Usage {
    fn default() -> Self {
        Self(Arc::new(Shared {
            on: AtomicBool::new(false),
            without_clients: AtomicBool::new(false),
            changed: AtomicBool::new(false),
            since: AtomicU64::new(NEVER),
            forgotten: AtomicU64::new(0),
            hasher: RandomState::new(),
            parts: std::array::from_fn(|_| Mutex::default()),
            packets: Mutex::new(Remembered::new(DESTINATIONS)),
        }))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Usage {
    /// Registers a collector that counts what is kept at each scrape.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(self.clone()));
    }

    /// As the configuration says. What readers may not learn is forgotten at once.
    pub fn configure(&self, config: &Config) {
        let hides = |what| config.log.hide.contains(&what);
        let without = hides(Hide::Clients);
        self.0.on.store(config.audits() && !hides(Hide::Names), Ordering::Relaxed);
        let was_without = self.0.without_clients.swap(without, Ordering::Relaxed);
        if hides(Hide::Names) {
            self.clear();
        } else if without && !was_without {
            let used = self.used();
            self.clear();
            self.load(used);
            self.0.changed.store(true, Ordering::Relaxed);
        }
    }

    fn clear(&self) {
        for part in &self.0.parts {
            *lock(part) = Part::default();
        }
        *lock(&self.0.packets) = Remembered::new(DESTINATIONS);
        self.0.since.store(NEVER, Ordering::Relaxed);
        self.0.forgotten.store(0, Ordering::Relaxed);
        self.0.changed.store(true, Ordering::Relaxed);
    }

    /// Whether anything is put down.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.on.load(Ordering::Relaxed)
    }

    fn client(&self, client: IpAddr) -> IpAddr {
        if self.0.without_clients.load(Ordering::Relaxed) { ANYBODY } else { prefix(client.to_canonical()) }
    }

    fn part(&self, key: &impl std::hash::Hash) -> MutexGuard<'_, Part> {
        let at = usize::try_from(self.0.hasher.hash_one(key) % PARTS as u64).unwrap_or(0);
        lock(self.0.parts.get(at).unwrap_or(&self.0.parts[0]))
    }

    fn began(&self, now: u64, forgot: bool) {
        self.0.since.fetch_min(now, Ordering::Relaxed);
        self.0.forgotten.fetch_add(u64::from(forgot), Ordering::Relaxed);
        self.0.changed.store(true, Ordering::Relaxed);
    }

    /// A client asked for a name and got that; `now`: in seconds since 1970. `led`: the addresses of the answer.
    pub fn asked(&self, client: IpAddr, wire: &[u8], got: Got, now: u64, led: impl Iterator<Item = IpAddr>) {
        if !self.is_on() {
            return;
        }
        let Ok(name) = Name::from_wire(wire) else { return };
        let client = self.client(client);
        for address in led {
            let mut part = self.part(&address);
            if part.led.get(&address) != Some(&name) {
                part.led.put(address, client, name.clone());
            }
        }
        let name = REVERSE.iter().find(|zone| name.is_within(zone)).cloned().unwrap_or(name);
        let key = (client, name);
        let forgot = self.part(&key).put(key, got, now, Seen::at(now));
        self.began(now, forgot);
    }

    /// A packet of a client would have been refused. `port`: as in [`Destination`].
    pub fn sent(&self, client: IpAddr, address: IpAddr, port: String, now: u64) {
        if !self.is_on() {
            return;
        }
        let client = self.client(client);
        let name = self.part(&address).led.get(&address).cloned();
        let forgot = put_packet(&mut lock(&self.0.packets), Destination { address, port, client }, name, Seen::at(now));
        self.began(now, forgot);
    }

    /// All of it.
    #[must_use]
    pub fn used(&self) -> Used {
        let since = Some(self.0.since.load(Ordering::Relaxed)).filter(|since| *since != NEVER);
        let mut used = Used { since, forgotten: self.0.forgotten.load(Ordering::Relaxed), ..Used::default() };
        for part in &self.0.parts {
            let part = lock(part);
            let one = |(client, name): &Key, got: Got, seen: Seen| UsedName {
                client: *client,
                name: name.to_string(),
                got,
                seen,
            };
            used.names.extend(part.names.iter().map(|(key, (got, seen))| one(key, *got, *seen)));
            used.names.extend(part.nowhere.iter().map(|(key, seen)| one(key, Got::Nothing, *seen)));
        }
        // Copied first: parts have locks of their own.
        let packets: Vec<(Destination, Option<Name>, Seen)> =
            lock(&self.0.packets).iter().map(|(to, (name, seen))| (to.clone(), name.clone(), *seen)).collect();
        used.addresses.extend(packets.into_iter().map(|(to, name, seen)| {
            let name = name.or_else(|| self.part(&to.address).led.get(&to.address).cloned());
            UsedAddress { to, name: name.map(|name| name.to_string()), seen }
        }));
        used
    }

    /// Adds what an earlier run saw.
    pub fn load(&self, used: Used) {
        for UsedName { client, name, got, seen } in used.names {
            if let Ok(name) = name.parse::<Name>() {
                let key = (self.client(client), name);
                let forgot = self.part(&key).put(key, got, seen.last, seen);
                self.0.forgotten.fetch_add(u64::from(forgot), Ordering::Relaxed);
            }
        }
        for UsedAddress { to, name, seen } in used.addresses {
            let to = Destination { client: self.client(to.client), ..to };
            let name = name.and_then(|name| name.parse().ok());
            let forgot = put_packet(&mut lock(&self.0.packets), to, name, seen);
            self.0.forgotten.fetch_add(u64::from(forgot), Ordering::Relaxed);
        }
        self.0.forgotten.fetch_add(used.forgotten, Ordering::Relaxed);
        self.0.since.fetch_min(used.since.unwrap_or(NEVER), Ordering::Relaxed);
    }

    /// Whether something came since this was asked the last time.
    #[must_use]
    pub fn take_changed(&self) -> bool {
        self.0.changed.swap(false, Ordering::Relaxed)
    }

    /// What was taken could not be kept.
    pub fn is_not_kept(&self) {
        self.0.changed.store(true, Ordering::Relaxed);
    }
}

fn put_packet(packets: &mut Packets, to: Destination, name: Option<Name>, seen: Seen) -> bool {
    let known = packets.get(&to).cloned();
    let full = known.is_none() && packets.is_full();
    let (before, seen) = known.map_or((None, seen), |(before, known)| (before, known.with(seen)));
    let holder = to.client;
    packets.put(to, holder, (name.or(before), seen));
    full
}

impl Collector for Usage {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let names: usize = self.0.parts.iter().map(|part| lock(part)).map(|p| p.names.len() + p.nowhere.len()).sum();
        let addresses = lock(&self.0.packets).len();
        for (name, help, value) in [
            (
                "usage_names",
                "Names that clients asked for in audit, for suggest; each counts once for each client",
                names,
            ),
            ("usage_addresses", "Destinations of packets in audit to no lease, for suggest", addresses),
        ] {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        let counter = ConstCounter::new(self.0.forgotten.load(Ordering::Relaxed));
        let help = "Names and destinations that suggest has forgotten for want of room";
        counter.encode(encoder.encode_descriptor("usage_forgotten", help, None, MetricType::Counter)?)
    }
}

#[cfg(test)]
mod tests;
