//! `[bgp]` and `[[bgp.peer]]`

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use super::Checks;
use crate::config::community;
use crate::config::endpoint::Host;
use crate::config::schema::{Confirm, Family, Peer, Role};
use crate::config::value::Settle;

/// Longest key of TCP-MD5 on Linux (TCP_MD5SIG_MAXKEYLEN).
const MD5_KEY: usize = 80;
/// The restart time has 12 bits (RFC 4724 section 3).
const RESTART_TIME: u64 = 4095;
/// The long-lived stale time has 24 bits (RFC 9494 section 4.1).
const STALE_TIME: u64 = 0x00ff_ffff;
/// A stop that takes longer would be killed half-way by most supervisors (systemd waits 90 s).
const LONGEST_DRAIN: u64 = 60;

/// What settle = "auto" may want to wait.
const LEARNT: Duration = Duration::from_millis(700);
/// What software can keep up with, and what is still of use.
const BFD_INTERVAL: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(60);
/// Detection times below this are asking for trouble.
const BFD_QUICK: Duration = Duration::from_millis(150);

/// Whether two peers have different passwords, or protect their sessions in different ways. Of a text and a file only the start of the guard
/// finds out.
fn other_key(one: &Peer, other: &Peer) -> bool {
    let ao = |peer: &Peer| peer.tcp_ao.map(|algorithm| (algorithm, peer.tcp_ao_send_id, peer.tcp_ao_recv_id));
    let (text, file) = (one.password.is_some(), one.password_file.is_some());
    let alike = (text, file) == (other.password.is_some(), other.password_file.is_some());
    let any = |peer: &Peer| peer.password.is_some() || peer.password_file.is_some();
    let differ = alike && (&one.password, &one.password_file) != (&other.password, &other.password_file);
    differ || any(one) != any(other) || ao(one) != ao(other)
}

/// An address that a host can have, as others see it.
pub(super) fn unicast(ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    !(ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() || broadcast)
}

/// AS numbers that no speaker has: 0 (RFC 7607), AS_TRANS (RFC 6793), the last of both sizes (RFC 7300).
fn unusable_asn(asn: u32) -> bool {
    matches!(asn, 0 | 23456 | 65535 | u32::MAX)
}

impl Checks<'_, '_> {
    pub(super) fn bgp(&mut self) {
        let bgp = &self.config.bgp;
        for (index, text) in bgp.communities.iter().enumerate() {
            if let Err(error) = community::standard(text) {
                let path = format!("bgp.communities[{index}]");
                match community::meant(text) {
                    Some(help) => self.error_with(&path, format!("\"{text}\" is not a community"), help),
                    None => self.error(&path, error.to_string()),
                }
            }
        }
        for (index, text) in bgp.large_communities.iter().enumerate() {
            if let Err(error) = community::large(text) {
                self.error(&format!("bgp.large_communities[{index}]"), error.to_string());
            }
        }
        if let Some(asn) = bgp.asn.filter(|asn| unusable_asn(*asn)) {
            self.error("bgp.asn", format!("{asn} is reserved, no speaker can have it"));
        }
        if bgp.router_id.is_some_and(|id| id.is_unspecified()) {
            self.error("bgp.router_id", "0.0.0.0 identifies nobody (RFC 6286)");
        } else if let Some(id) = bgp.router_id.filter(|id| id.is_multicast() || id.is_broadcast()) {
            self.error("bgp.router_id", format!("{id} is no host's address: some routers refuse it"));
        }
        let next_hops = [
            ("bgp.next_hop_ipv4", bgp.next_hop_ipv4.map(IpAddr::V4)),
            ("bgp.next_hop_ipv6", bgp.next_hop_ipv6.map(IpAddr::V6)),
        ];
        for (path, next_hop) in next_hops {
            if let Some(hop) = next_hop.filter(|hop| !unicast(*hop)) {
                self.error(path, format!("{hop} can't be a next hop"));
            } else if let Some(hop) = next_hop.filter(|hop| matches!(hop, IpAddr::V6(v6) if v6.is_unicast_link_local()))
            {
                self.error_with(
                    path,
                    format!("{hop} is of one link only, and routes lead there from all routers"),
                    "name a global or unique local address of that router",
                );
            }
            let itself = |peer: &&Peer| peer.role == Role::Enforcer && Some(*peer.address) == next_hop;
            if let Some(peer) = bgp.peer.iter().find(itself) {
                self.error_with(
                    path,
                    format!("is the address of peer \"{}\": routers refuse a next hop that is themselves", peer.name),
                    "name where that router sends the traffic on, as its provider's router",
                );
            }
        }
        let restart = bgp.graceful_restart.0;
        if restart.as_secs() > RESTART_TIME || restart.subsec_millis() != 0 {
            self.error(
                "bgp.graceful_restart",
                format!("{}: whole seconds, at most {RESTART_TIME}s", bgp.graceful_restart),
            );
        }
        let stale = bgp.long_lived_graceful_restart.0;
        if stale.as_secs() > STALE_TIME || stale.subsec_millis() != 0 {
            let given = bgp.long_lived_graceful_restart;
            self.error("bgp.long_lived_graceful_restart", format!("{given}: whole seconds, at most {STALE_TIME}s"));
        } else if !stale.is_zero() && restart.is_zero() {
            self.error_with(
                "bgp.long_lived_graceful_restart",
                "has no effect while bgp.graceful_restart is off (RFC 9494 section 4.1)",
                "set bgp.graceful_restart too",
            );
        }
        if bgp.shutdown_drain.0.as_secs() > LONGEST_DRAIN {
            self.error("bgp.shutdown_drain", format!("{}: at most {LONGEST_DRAIN}s", bgp.shutdown_drain));
        }
        self.unique("bgp.listen", &bgp.listen);
        for (index, address) in bgp.listen.iter().enumerate().filter(|(_, address)| address.zone().is_some()) {
            self.error_with(
                &format!("bgp.listen[{index}]"),
                format!("{address} is of one link only"),
                &format!("write [::]:{}; a peer is known by its own address", address.port()),
            );
        }
        self.edges();
        if bgp.peer.is_empty() {
            return;
        }
        for (key, given) in [("asn", bgp.asn.is_some()), ("router_id", bgp.router_id.is_some())] {
            if !given {
                self.error(&format!("bgp.{key}"), format!("`bgp.{key}` is missing; it is needed with a [[bgp.peer]]"));
            }
        }
        for (family, name, given) in
            [(Family::Ipv4, "ipv4", bgp.next_hop_ipv4.is_some()), (Family::Ipv6, "ipv6", bgp.next_hop_ipv6.is_some())]
        {
            let takes = |peer: &&Peer| peer.role != Role::Observer && peer.families.contains(&family);
            let Some(peer) = bgp.peer.iter().find(takes).filter(|_| !given) else { continue };
            if family == Family::Ipv4 && bgp.next_hop_ipv6.is_some() {
                self.warning(
                    "bgp.next_hop_ipv4",
                    format!(
                        "not set: peer \"{}\" gets ipv4 routes with the ipv6 next hop, if it can (RFC 8950)",
                        peer.name
                    ),
                    "set it, unless the routers forward IPv4 over IPv6 links",
                );
            } else {
                self.error_with(
                    &format!("bgp.next_hop_{name}"),
                    format!("`bgp.next_hop_{name}` is missing: peer \"{}\" takes {name} routes", peer.name),
                    &format!("set it, or leave \"{name}\" out of the peers' `families`"),
                );
            }
        }
        if bgp.linger.0.is_zero() {
            self.warning(
                "bgp.linger",
                "a route goes with its lease, and live flows with the route",
                "give flows some minutes",
            );
        }
        if !bgp.enforce && !self.config.audits() {
            self.warning("bgp.enforce", "audit: sessions come up, nothing is announced", "true enforces");
        }
        self.peers();
    }

    fn peers(&mut self) {
        let bgp = &self.config.bgp;
        let mut names: HashMap<&str, usize> = HashMap::new();
        let mut addresses: HashMap<(Host, Option<IpAddr>), usize> = HashMap::new();
        for (index, peer) in bgp.peer.iter().enumerate() {
            let path = format!("bgp.peer[{index}]");
            let name_path = format!("{path}.name");
            if self.sound(&[&name_path]) {
                self.plain_name(&name_path, &peer.name);
                if let Some(first) = names.insert(&peer.name, index) {
                    self.error(&name_path, format!("\"{}\" is the name of bgp.peer[{first}] already", peer.name));
                }
            }
            let address_path = format!("{path}.address");
            if self.sound(&[&address_path])
                && let Some(first) = addresses.insert((peer.address, peer.local_address), index)
            {
                self.error_with(
                    &address_path,
                    format!("{} is the address of bgp.peer[{first}] already", peer.address),
                    "two sessions to one router need different `local_address`es",
                );
            }
            let mut before = bgp.peer.iter().take(index).enumerate();
            let waits = |other: &Peer| other.passive || peer.passive;
            let first =
                before.find(|(_, other)| other.address == peer.address && waits(other) && other_key(other, peer));
            if let Some((first, _)) = first.filter(|_| !bgp.listen.is_empty()) {
                self.error_with(
                    &address_path,
                    format!("bgp.peer[{first}] has this address too, and another password or tcp_ao"),
                    "a listening socket knows one key for an address: give both sessions the same, or let no `passive` one need it",
                );
            }
            self.peer(&path, peer);
        }
        for (index, peer) in bgp.peer.iter().enumerate().filter(|(_, peer)| peer.role == Role::Observer) {
            let watched = bgp
                .peer
                .iter()
                .any(|other| other.observer.as_deref() == Some(&peer.name) || other.observers.contains(&peer.name));
            if !watched {
                self.warning(
                    &format!("bgp.peer[{index}].role"),
                    format!("no peer names \"{}\" as its observer", peer.name),
                    "name it as `observer` of the peer it watches, or among the `observers` of the reflector behind which it is",
                );
            }
        }
    }

    pub(super) fn peer(&mut self, path: &str, peer: &Peer) {
        let key = |key: &str| format!("{path}.{key}");
        let bgp_asn = self.config.bgp.asn;
        if peer.address.is_unspecified() || peer.address.is_multicast() {
            self.error(&key("address"), format!("{} is not the address of a router", peer.address));
        }
        self.not_this_host(&key("address"), *peer.address);
        if unusable_asn(peer.asn) {
            self.error(&key("asn"), format!("{} is reserved, no speaker can have it", peer.asn));
        }
        if peer.port == 0 {
            self.error(&key("port"), "0 is not a port");
        }
        let of_link = |ip: IpAddr| matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
        if peer.local_address.is_some_and(of_link) && peer.address.zone().is_none() {
            self.error(&key("local_address"), "of one link only, and the peer's address is not");
        }
        if let Some(zone) = peer.address.zone().filter(|_| peer.bfd) {
            self.error_with(
                &key("bfd"),
                format!("not possible with an address of one link ({zone})"),
                "leave it out, or use another address of the router",
            );
        }
        if matches!(*peer.address, IpAddr::V4(v4) if v4.is_broadcast()) {
            self.error(&key("address"), format!("{} is not the address of a router", peer.address));
        }
        if peer.local_address.is_some_and(|local| local == *peer.address) {
            self.error(&key("local_address"), "the peer's own address");
        }
        if peer.local_address.is_some_and(|local| local.is_ipv4() != peer.address.is_ipv4()) {
            self.error(&key("local_address"), format!("not of the same family as the peer's address {}", peer.address));
        }
        if peer.passive && self.config.bgp.listen.is_empty() && self.sound(&["bgp.listen"]) {
            self.error(&key("passive"), "waits for the peer to connect, and bgp.listen is empty");
        }
        if peer.bgp_role.is_some() && Some(peer.asn) == bgp_asn {
            self.error(&key("bgp_role"), "only for external peers (RFC 9234 section 4)");
        }
        self.peer_security(path, peer);
        self.peer_bfd(path, peer);
        let hold = peer.hold_time.0;
        let in_range = hold.is_zero() || (3..=65_535).contains(&hold.as_secs());
        if !in_range || hold.subsec_millis() != 0 {
            self.error(&key("hold_time"), format!("{}: \"0s\", or whole seconds from 3s to 65535s", peer.hold_time));
        }
        let send_hold = peer.send_hold_time;
        if send_hold.0 < Duration::from_secs(1) || send_hold.0.subsec_millis() != 0 {
            self.error(&key("send_hold_time"), format!("{send_hold}: whole seconds, at least 1s"));
        } else if in_range && send_hold.0 < hold * 2 && self.document.has(&key("send_hold_time")) {
            self.error(
                &key("send_hold_time"),
                format!("{send_hold} is less than twice hold_time ({}) (RFC 9687 section 3.4)", peer.hold_time),
            );
        }
        if peer.families.is_empty() {
            self.error(&key("families"), "no family: nothing could be announced");
        }
        let repeated =
            peer.families.iter().enumerate().any(|(at, family)| peer.families.iter().skip(at + 1).any(|f| f == family));
        if repeated {
            self.error(&key("families"), "a family stands here twice");
        }
        let capacity = self.config.lease.capacity;
        if peer.max_routes == 0 {
            self.error(&key("max_routes"), "zero: nothing could ever be opened");
        } else if peer.max_routes > capacity && self.document.has(&key("max_routes")) {
            self.warning(
                &key("max_routes"),
                format!("{} is more than the {capacity} of lease.capacity, which then decides", peer.max_routes),
                "lower it, or raise lease.capacity",
            );
        }
        if let Settle::Fixed(settle) = peer.settle
            && settle >= self.config.gate.deadline
            && peer.required
            && self.sound(&["gate.deadline"])
        {
            self.error(
                &key("settle"),
                format!(
                    "{settle} is not below gate.deadline ({}): every answer would be refused",
                    self.config.gate.deadline
                ),
            );
        }
        self.peer_roles(path, peer);
    }

    fn peer_security(&mut self, path: &str, peer: &Peer) {
        let key = |key: &str| format!("{path}.{key}");
        if let Some(hops) = peer.multihop {
            // Other guards may be further away, and yet no further than is said.
            let bounds = peer.ttl_security && peer.role == Role::Guard;
            if peer.ttl_security && !bounds {
                self.error(&key("multihop"), "either `ttl_security` (an adjacent peer) or `multihop`, not both");
            }
            if Some(peer.asn) == self.config.bgp.asn && !bounds {
                self.error_with(
                    &key("multihop"),
                    "only for external peers",
                    "internal peers may be any number of hops away; remove it",
                );
            } else if hops < 2 {
                self.error(
                    &key("multihop"),
                    format!("{hops}: an adjacent peer needs no multihop; others are at least 2 hops away"),
                );
            }
        }
        if peer.password.is_some() && peer.password_file.is_some() {
            self.error(&key("password_file"), "either `password` or `password_file`, not both");
        }
        let (at, password) = match (&peer.password, &peer.password_file) {
            (Some(password), _) => (key("password"), password.clone()),
            (None, Some(file)) => {
                self.readable(&key("password_file"), file);
                let Ok(text) = std::fs::read_to_string(file) else { return };
                (key("password_file"), text.trim_end_matches(['\n', '\r']).to_owned())
            }
            (None, None) => {
                if peer.tcp_ao.is_some() {
                    self.error(&key("tcp_ao"), "needs a `password` or a `password_file`: its master key");
                }
                return;
            }
        };
        if peer.tcp_ao.is_some() && !destguard_bgp::io::sys::tcp_ao::known().unwrap_or(true) {
            self.warning(
                &key("tcp_ao"),
                "this host's kernel has no TCP-AO: the guard won't start here",
                "it takes Linux 6.7 or later, built with CONFIG_TCP_AO",
            );
        }
        if peer.tcp_ao.is_none() {
            for given in ["tcp_ao_send_id", "tcp_ao_recv_id"] {
                if self.document.has(&key(given)) {
                    self.error(&key(given), "has no meaning without `tcp_ao`");
                }
            }
        }
        if password.is_empty() || password.len() > MD5_KEY {
            let what = if peer.tcp_ao.is_some() { "TCP-AO" } else { "TCP-MD5" };
            self.error(&at, format!("a {what} password has 1 to {MD5_KEY} octets, this one {}", password.len()));
        }
    }

    fn peer_bfd(&mut self, path: &str, peer: &Peer) {
        let key = |key: &str| format!("{path}.{key}");
        if !peer.bfd {
            for given in ["bfd_interval", "bfd_multiplier", "bfd_multihop"] {
                if self.document.has(&key(given)) {
                    self.error(&key(given), "has no meaning without `bfd = true`");
                }
            }
            return;
        }
        let interval = peer.bfd_interval.0;
        if !BFD_INTERVAL.contains(&interval) {
            self.error(&key("bfd_interval"), format!("{}: from 10ms to 60s", peer.bfd_interval));
        } else if interval.saturating_mul(peer.bfd_multiplier.into()) < BFD_QUICK && peer.bfd_multiplier > 0 {
            self.warning(
                &key("bfd_interval"),
                format!("a pause of {} ms ends the session", (interval * peer.bfd_multiplier.into()).as_millis()),
                "interval x multiplier below 150ms is for hardware; a busy host may fall silent for longer",
            );
        }
        if peer.bfd_multiplier == 0 {
            self.error(&key("bfd_multiplier"), "zero: at least one packet must be missed");
        }
    }

    fn peer_roles(&mut self, path: &str, peer: &Peer) {
        let key = |key: &str| format!("{path}.{key}");
        let bgp = &self.config.bgp;
        if peer.role == Role::Guard {
            self.other_guard(path, peer);
            return;
        }
        if peer.role == Role::Observer {
            for given in ["confirm", "settle", "max_routes", "observer", "observers", "forwards", "probe_ttl"] {
                if self.document.has(&key(given)) {
                    self.error(&key(given), format!("`{given}` has no meaning for an observer, which gets no routes"));
                }
            }
            let counts = bgp.peer.iter().any(|other| other.observers.contains(&peer.name));
            if peer.required && self.document.has(&key("required")) && !counts {
                self.error(&key("required"), "an observer gets no routes, so it can't confirm any");
            }
            return;
        }
        self.reflector(path, peer);
        match (&peer.observer, peer.confirm) {
            (None, Confirm::Reflect) if peer.observers.is_empty() => {
                self.error_with(
                    &key("confirm"),
                    "\"reflect\" needs an `observer`",
                    "name the peer entry on which the router sends routes back",
                );
            }
            (Some(_), confirm) if confirm != Confirm::Reflect => {
                self.error(&key("observer"), "only for confirm = \"reflect\"");
            }
            (Some(observer), _) => match bgp.peer.iter().find(|other| other.name == *observer) {
                None => self.error(&key("observer"), format!("there is no peer called \"{observer}\"")),
                Some(other) if other.role != Role::Observer => {
                    self.error(
                        &key("observer"),
                        format!("\"{observer}\" is not an observer; set role = \"observer\" on it"),
                    );
                }
                Some(_) => {}
            },
            (None, _) => {}
        }
        if peer.confirm == Confirm::Reflect && self.config.bgp.no_export && Some(peer.asn) != self.config.bgp.asn {
            self.warning(
                &key("confirm"),
                "routers send no route with NO_EXPORT back to an external observer: nothing would be confirmed",
                "set bgp.no_export = false and let the router export these routes to the observer alone, or make both sessions internal",
            );
        }
        if peer.confirm == Confirm::Probe && peer.multihop.is_some() && peer.forwards {
            self.error_with(
                &key("confirm"),
                "\"probe\" needs an adjacent router: its packets are handed to the router on the link",
                "use \"refresh\" or \"reflect\" with a router that is further away",
            );
        }
        if !(1..=2).contains(&peer.probe_ttl) {
            self.error(
                &key("probe_ttl"),
                format!("{}: 1 is answered by the router, 2 by the hop behind it", peer.probe_ttl),
            );
        }
        let room = self.config.gate.deadline.0.mul_f64(0.7);
        if peer.settle == Settle::Auto
            && peer.confirm != Confirm::Probe
            && peer.required
            && peer.forwards
            && room < LEARNT
            && self.sound(&["gate.deadline"])
        {
            self.warning(
                &key("settle"),
                format!(
                    "\"auto\" may want to wait up to 700ms, but gate.deadline ({}) leaves room for {}ms",
                    self.config.gate.deadline,
                    room.as_millis()
                ),
                "raise gate.deadline to 1s, or set a duration that is known to be enough",
            );
        }
        let early = matches!(peer.confirm, Confirm::Sent | Confirm::Acked) && peer.forwards;
        if early
            && self.document.has(&key("settle"))
            && peer.settle == Settle::Fixed(crate::config::value::Span(Duration::ZERO))
        {
            self.warning(
                &key("settle"),
                "a router that confirms before its forwarding table holds the route will lose first packets",
                "\"auto\" learns what the router needs",
            );
        }
    }
}
