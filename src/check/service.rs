//! `[bgp.service]` and `[[bgp.service.peer]]`

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::Checks;
use super::bgp::unicast;
use crate::config::community;
use crate::config::schema::{Family, Peer, ServicePeer};
use crate::core::address::infrastructure;

/// Supervisors kill what takes too long to stop, and clients go elsewhere meanwhile.
const LONGEST_DRAIN: Duration = Duration::from_secs(10);
/// Whoever waits longer waits for an operator.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

impl Checks<'_, '_> {
    pub(super) fn service(&mut self) {
        let service = &self.config.bgp.service;
        for (index, text) in service.communities.iter().enumerate() {
            if let Err(error) = community::standard(text) {
                self.error(&format!("bgp.service.communities[{index}]"), error.to_string());
            }
        }
        for (index, text) in service.large_communities.iter().enumerate() {
            if let Err(error) = community::large(text) {
                self.error(&format!("bgp.service.large_communities[{index}]"), error.to_string());
            }
        }
        if service.drain.0 > LONGEST_DRAIN {
            self.error("bgp.service.drain", format!("{}: at most {}s", service.drain, LONGEST_DRAIN.as_secs()));
        }
        for (key, wait) in [("up_after", service.up_after), ("down_after", service.down_after)] {
            if wait.0 > LONGEST_WAIT {
                self.error(&format!("bgp.service.{key}"), format!("{wait}: at most {}s", LONGEST_WAIT.as_secs()));
            }
        }
        self.unique("bgp.service.addresses", &service.addresses);
        for (index, address) in service.addresses.iter().enumerate() {
            self.service_address(&format!("bgp.service.addresses[{index}]"), *address);
        }
        let mut names = HashSet::new();
        for (index, peer) in service.peer.iter().enumerate() {
            let path = format!("bgp.service.peer[{index}]");
            if !names.insert(&peer.name) {
                self.error(&format!("{path}.name"), format!("\"{}\" is the name of another one already", peer.name));
            }
            self.service_peer(&path, index, peer);
        }
        match (service.addresses.is_empty(), service.peer.is_empty()) {
            (true, false) => self.warning(
                "bgp.service.peer",
                "there is nothing to announce: bgp.service.addresses is empty",
                "its sessions come up, and no client is led here",
            ),
            (false, true) => {
                self.error("bgp.service.addresses", "nobody hears of them: there is no [[bgp.service.peer]]")
            }
            _ => {}
        }
        if service.peer.is_empty() {
            return;
        }
        let bgp = &self.config.bgp;
        for (key, given) in [("asn", bgp.asn.is_some()), ("router_id", bgp.router_id.is_some())] {
            if !given && bgp.peer.is_empty() {
                self.error(
                    &format!("bgp.{key}"),
                    format!("`bgp.{key}` is missing; it is needed with a [[bgp.service.peer]]"),
                );
            }
        }
        if self.config.audits() || (!bgp.peer.is_empty() && !bgp.enforce) {
            self.warning(
                "bgp.service",
                "audit: the service addresses are not announced",
                "a guard that only tries itself out gets no clients by anycast",
            );
        }
    }

    fn service_address(&mut self, path: &str, address: IpAddr) {
        let config = self.config;
        let of_link = |ip: IpAddr| match ip {
            IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some(),
            IpAddr::V4(v4) => v4.is_link_local() || v4.octets().first() == Some(&0),
        };
        if !unicast(address) || of_link(address) {
            return self.error(path, format!("{address} can't be announced as a service address"));
        }
        // Only this host's own have another meaning: listeners are meant to have the address.
        let others = infrastructure(config).unwrap_or_default();
        let listens = |label: &str| label.contains("listen") || label.starts_with("dns.tls.");
        let other = others.iter().find(|(other, label)| {
            *other == address && label != "bgp.service.addresses" && !listens(label) && label != "bgp.router_id"
        });
        if let Some((_, label)) = other {
            return self.error_with(
                path,
                format!("{address} is in use already: {label}"),
                "a service address belongs to every guard that announces it, and to nothing else",
            );
        }
        if config.bgp.router_id.is_some_and(|id| address == IpAddr::V4(id)) {
            return self.error_with(
                path,
                format!("{address} is bgp.router_id"),
                "routers tell guards apart by it: give each guard its own",
            );
        }
        if config.bgp.announce_open && config.addresses.open.contains(&IpNet::from(address)) {
            self.error_with(
                path,
                format!("{address} stands in addresses.open too, so that the leases' sessions would announce it"),
                "remove it there: clients reach the guard's own addresses without",
            );
        }
        let family = config.bgp.service.peer.iter().any(|peer| peer.local_address.is_ipv4() == address.is_ipv4());
        if !family && !config.bgp.service.peer.is_empty() && self.sound(&["bgp.service.peer"]) {
            let (mine, version) = if address.is_ipv4() { ("ipv4", 4) } else { ("ipv6", 6) };
            self.error_with(
                path,
                format!("no [[bgp.service.peer]] takes it: none has an {mine} session"),
                &format!("add one whose address and local_address are IPv{version}"),
            );
        }
        let dns = &config.dns;
        let heard = dns.listen.iter().any(|listen| {
            listen.ip() == address || (listen.ip().is_unspecified() && listen.is_ipv4() == address.is_ipv4())
        });
        if !heard && self.sound(&["dns.listen"]) {
            let all = if address.is_ipv4() { "0.0.0.0:53".to_owned() } else { "[::]:53".to_owned() };
            let one = std::net::SocketAddr::new(address, 53);
            self.error_with(
                path,
                format!("questions to {address} would reach nobody: no dns.listen takes them"),
                &format!("add \"{one}\" or \"{all}\" to dns.listen"),
            );
        }
    }

    fn service_peer(&mut self, path: &str, index: usize, given: &ServicePeer) {
        let key = |key: &str| format!("{path}.{key}");
        let bgp = &self.config.bgp;
        let peer = given.as_peer();
        self.plain_name(&key("name"), &given.name);
        let taken = bgp.peer.iter().any(|other| other.name == given.name)
            || bgp.edge.iter().any(|other| other.name == given.name);
        if taken {
            self.error(&key("name"), format!("\"{}\" is the name of a bgp.peer or bgp.edge already", given.name));
        }
        self.peer(path, &peer);
        let local = given.local_address;
        let of_link = matches!(local, IpAddr::V6(v6) if v6.is_unicast_link_local());
        if !unicast(local) && !local.is_loopback() || of_link {
            self.error_with(
                &key("local_address"),
                format!("{local} can't be the next hop of the service's routes"),
                "name an address of this host on the link with the router",
            );
        }
        let same = |other: &&Peer| other.local_address == Some(local);
        if let Some(other) = bgp.peer.iter().find(same) {
            self.error_with(
                &key("local_address"),
                format!("{local} is the local_address of bgp.peer \"{}\" already", other.name),
                "the leases' session has graceful restart and this one has not: give this host a second address for it",
            );
        }
        let guessed = |other: &&Peer| *other.address == *given.address && other.local_address.is_none();
        if let Some(other) = bgp.peer.iter().find(guessed) {
            self.error_with(
                &key("address"),
                format!("bgp.peer \"{}\" is a session with the same router and has no local_address", other.name),
                "set both: a router tells the sessions apart by the guard's addresses",
            );
        }
        let far = |peer: &Peer| peer.bfd_multihop || peer.multihop.is_some();
        let everywhere = |other: &&Peer| {
            other.bfd
                && other.local_address.is_none()
                && other.address.is_ipv4() == local.is_ipv4()
                && far(other) == far(&peer)
        };
        if let Some(other) = bgp.peer.iter().find(everywhere).filter(|_| given.bfd) {
            self.error_with(
                &key("bfd"),
                format!(
                    "bgp.peer \"{}\" has BFD and no local_address: it takes this session's packets too",
                    other.name
                ),
                "give it a local_address",
            );
        }
        let mut before = bgp.service.peer.iter().take(index);
        if before.any(|other| (other.address, other.local_address) == (given.address, local)) {
            self.error(&key("address"), format!("there is a session from {local} to {} already", given.address));
        }
        if !bgp.service.addresses.is_empty() {
            let (none, family) = match given.family() {
                Family::Ipv4 => (!bgp.service.addresses.iter().any(IpAddr::is_ipv4), "ipv4"),
                Family::Ipv6 => (!bgp.service.addresses.iter().any(IpAddr::is_ipv6), "ipv6"),
            };
            if none {
                self.warning(
                    &key("local_address"),
                    format!("bgp.service.addresses holds no {family} address: this session carries nothing"),
                    "a session carries the addresses of its own family",
                );
            }
        }
        if !given.bfd {
            self.warning(
                &key("bfd"),
                format!(
                    "off: when this host falls silent, the router goes on sending questions here for up to {}",
                    given.hold_time
                ),
                "BFD notices it within interval x multiplier",
            );
        }
    }
}
