//! Who a client is: the host. Everything that is shared among clients is counted by what is said here.
//!
//! | asks from | is |
//! |---|---|
//! | an address on link | the host with that link-layer address, whatever addresses it has, of both families |
//! | an IPv4 address elsewhere | that address |
//! | an IPv6 address elsewhere | its /64, within which a host chooses its addresses freely (RFC 8981) |
//! | loopback | a program of this host, which is told apart by the registrable domain that it asks for |
//!
//! So a host with a thousand addresses is one client, and a LAN with one /64 is many. What is on link, the kernel's neighbour table says; an
//! address that isn't in it (yet) is taken as one from elsewhere. The programs of this host share one address, and to look up whose a
//! port is would cost more than an answer: so a browser's page and a cron job get what they ask for each, and two programs that want the same
//! domain share its part.
//!
//! A forwarder or a NAT has many hosts behind it: the `share` of its `[[policy.group]]` is how many it counts for.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::nets::NetMap;
use super::share::Holder;
use crate::config::schema::Config;

/// A link-layer address on one interface. Those of other interfaces are other hosts': nobody takes another link's address as its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Station {
    /// The interface where the station is seen, by its number in the kernel.
    pub interface: u32,
    /// At most eight octets; zeros behind shorter ones.
    pub octets: [u8; 8],
}

/// Who is on link.
pub type Stations = HashMap<IpAddr, Station>;

/// In whose parts something is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The one host, as well as that is known: an address, where the client is a /64 or this host.
    pub host: Holder,
    /// The client, in whose part it is counted.
    pub client: Holder,
    /// The registrable domain that is asked for, where one is.
    pub domain: Holder,
}

impl Claim {
    /// Counted for nobody.
    pub const NOBODY: Self = Self { host: Holder::NOBODY, client: Holder::NOBODY, domain: Holder::NOBODY };
}

/// What is known of clients. Never changed: whoever learns something makes another.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Clients {
    stations: Arc<Stations>,
    /// By the prefixes of groups.
    parts: Arc<NetMap<u8>>,
}

/// The prefix by which an address that is not on link is known.
#[must_use]
pub fn prefix(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
    }
}

impl Clients {
    /// Nobody is known to be on link; groups have the parts that the configuration says.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self::default().with_parts(config)
    }

    /// With other parts.
    #[must_use]
    pub fn with_parts(&self, config: &Config) -> Self {
        let mut parts = NetMap::default();
        if config.policy.group.iter().any(|group| group.share > 1) {
            for group in &config.policy.group {
                // The first of equals, as everywhere.
                group.clients.iter().for_each(|net| parts.insert(*net, group.share, |first, _| first));
            }
        }
        Self { stations: self.stations.clone(), parts: Arc::new(parts) }
    }

    /// With others on link.
    #[must_use]
    pub fn with_stations(&self, stations: Arc<Stations>) -> Self {
        Self { stations, parts: self.parts.clone() }
    }

    /// How many addresses are known to be on link.
    #[must_use]
    pub fn on_link(&self) -> usize {
        self.stations.len()
    }

    /// In whose parts something is counted that is no question, or whose question doesn't matter.
    #[must_use]
    pub fn claim(&self, address: IpAddr) -> Claim {
        let address = address.to_canonical();
        // Once each: this is done for every question that isn't answered from the cache.
        let (host, client) = if address.is_loopback() {
            (Holder::of(&address), Holder::of("this host"))
        } else if let Some(station) = self.stations.get(&address) {
            let host = Holder::of(station);
            (host, host)
        } else {
            let (host, prefix) = (Holder::of(&address), prefix(address));
            (host, if prefix == address { host } else { Holder::of(&prefix) })
        };
        let parts = if self.parts.is_empty() { 1 } else { self.parts.find(address).map_or(1, |(_, parts)| parts) };
        Claim { host: host.with_parts(parts), client: client.with_parts(parts), domain: Holder::NOBODY }
    }

    /// The same of a question for a name of this registrable domain.
    #[must_use]
    pub fn claim_for(&self, address: IpAddr, domain: &[u8]) -> Claim {
        let claim = self.claim(address);
        let is_program = address.to_canonical().is_loopback();
        let client = if is_program { Holder::of(&(address, domain)) } else { claim.client };
        Claim { client, domain: Holder::of(domain), ..claim }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_client_is_the_host() {
        let station = |last| Station { interface: 2, octets: [2, 0, 0, 0, 0, last, 0, 0] };
        let mut stations = Stations::new();
        for host in 1..=3u8 {
            stations.insert(ip(&format!("192.0.2.{host}")), station(host));
            // A whole LAN in one /64, and one host of it with many addresses of both families.
            stations.extend((0..50).map(|n| (ip(&format!("2001:db8:1::{host}:{n:x}")), station(host))));
        }
        let clients = Clients::default().with_stations(Arc::new(stations));
        let of = |text: &str| clients.claim(ip(text));
        assert_eq!(of("2001:db8:1::1:0"), of("2001:db8:1::1:31"));
        assert_eq!(of("2001:db8:1::1:0"), of("192.0.2.1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("2001:db8:1::1:0").client, of("2001:db8:1::2:0").client);
        // Elsewhere: the address, or the /64.
        assert_ne!(of("192.0.2.8").client, of("192.0.2.9").client);
        assert_eq!(of("2001:db8:2::1").client, of("2001:db8:2::ffff:1:2:3").client);
        assert_ne!(of("2001:db8:2::1").host, of("2001:db8:2::2").host);
        assert_ne!(of("2001:db8:2::1").client, of("2001:db8:3::1").client);
        // Who isn't in the kernel's table has no part in that of anybody who is.
        assert_ne!(of("2001:db8:1::9:9").client, of("2001:db8:1::1:0").client);
    }

    #[test]
    fn programs_of_this_host_are_told_apart_by_what_they_ask_for() {
        let clients = Clients::default();
        let of = |domain: &str| clients.claim_for(ip("127.0.0.1"), domain.as_bytes());
        assert_eq!(of("one.example"), of("one.example"));
        assert_ne!(of("one.example").client, of("two.example").client);
        let host = |text: &str, domain: &str| clients.claim_for(ip(text), domain.as_bytes()).client;
        assert_eq!(host("192.0.2.1", "one.example"), host("192.0.2.1", "two.example"));
    }

    #[test]
    fn a_group_counts_for_as_many_as_it_says_and_the_longest_prefix_decides() {
        let config: Config = toml::from_str(
            "[[policy.group]]\nname = \"branch\"\nclients = [\"10.0.0.0/8\"]\nshare = 20\n\
             [[policy.group]]\nname = \"guests\"\nclients = [\"10.5.0.0/16\"]\n",
        )
        .unwrap();
        let clients = Clients::new(&config);
        let parts = |text: &str| clients.claim(ip(text)).client.parts();
        assert_eq!([parts("10.0.0.1"), parts("10.5.0.1"), parts("192.0.2.1"), parts("127.0.0.1")], [20, 1, 1, 1]);
    }
}
