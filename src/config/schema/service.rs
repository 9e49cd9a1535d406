//! `[bgp.service]`

use std::net::IpAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AoAlgorithm, Confirm, Family, Peer, Role, Settle, Span, defaults};
use crate::config::endpoint::Host;

/// `[bgp.service]`: anycast addresses that clients ask, announced while this guard is well.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Service {
    /// The guard's service addresses, announced as host routes while it enforces.
    pub addresses: Vec<IpAddr>,
    /// On these routes alone: "64512:53", RFC 1997.
    pub communities: Vec<String>,
    /// "64512:1:53", RFC 8092.
    pub large_communities: Vec<String>,
    /// NO_EXPORT on these routes.
    pub no_export: bool,
    /// It is announced once the guard was well for so long; longer when it was withdrawn again and again of late.
    pub up_after: Span,
    /// It is withdrawn once the guard was not well for so long.
    pub down_after: Span,
    /// When the daemon stops, questions are answered for so long after the routes were withdrawn.
    pub drain: Span,
    /// The routers' sessions for these routes alone.
    pub peer: Vec<ServicePeer>,
}

impl Default for Service {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            communities: Vec::new(),
            large_communities: Vec::new(),
            no_export: true,
            up_after: Span::secs(5),
            down_after: Span::secs(1),
            drain: Span::secs(1),
            peer: Vec::new(),
        }
    }
}

/// `[[bgp.service.peer]]`: a session of its own, without graceful restart, which carries service addresses of its family and nothing else.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServicePeer {
    /// As shown to users; unique among all peers.
    pub name: String,
    /// The router's address.
    #[schemars(with = "String")]
    pub address: Host,
    /// The router's AS; same as `bgp.asn`: internal.
    pub asn: u32,
    /// The address we connect from, and the routes' next hop: another one than that of the leases' session, so that routers tell both apart.
    pub local_address: IpAddr,
    /// The router's port.
    #[serde(default = "defaults::port")]
    pub port: u16,
    /// TCP-MD5, RFC 2385; with `tcp_ao` its master key.
    #[serde(default)]
    pub password: Option<String>,
    /// A file that holds it.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// TCP-AO, RFC 5925, instead of TCP-MD5, where the kernel has it: the algorithm.
    #[serde(default)]
    pub tcp_ao: Option<AoAlgorithm>,
    /// KeyID of the segments we send.
    #[serde(default = "defaults::ao_id")]
    pub tcp_ao_send_id: u8,
    /// KeyID of the router's segments.
    #[serde(default = "defaults::ao_id")]
    pub tcp_ao_recv_id: u8,
    /// GTSM, RFC 5082.
    #[serde(default)]
    pub ttl_security: bool,
    /// Hops to the router, for external ones that are not adjacent.
    #[serde(default)]
    pub multihop: Option<u8>,
    /// Proposed hold time.
    #[serde(default = "defaults::hold_time")]
    pub hold_time: Span,
    /// BFD beside the session: without it a host that falls silent is noticed by the hold time alone.
    #[serde(default = "defaults::yes")]
    pub bfd: bool,
    /// How often BFD packets go out, and may come in; the slower end decides.
    #[serde(default = "defaults::bfd_interval")]
    pub bfd_interval: Span,
    /// So many BFD packets may be lost in a row.
    #[serde(default = "defaults::bfd_multiplier")]
    pub bfd_multiplier: u8,
    /// Multihop BFD: for internal peers that are not adjacent, and for FRR with `ttl_security`; `multihop` implies it.
    #[serde(default)]
    pub bfd_multihop: bool,
}

impl ServicePeer {
    /// The family of its routes.
    #[must_use]
    pub fn family(&self) -> Family {
        if self.local_address.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 }
    }

    /// As a peer for which nothing waits.
    #[must_use]
    pub fn as_peer(&self) -> Peer {
        Peer {
            name: self.name.clone(),
            address: self.address,
            asn: self.asn,
            port: self.port,
            local_address: Some(self.local_address),
            passive: false,
            password: self.password.clone(),
            password_file: self.password_file.clone(),
            tcp_ao: self.tcp_ao,
            tcp_ao_send_id: self.tcp_ao_send_id,
            tcp_ao_recv_id: self.tcp_ao_recv_id,
            ttl_security: self.ttl_security,
            multihop: self.multihop,
            hold_time: self.hold_time,
            send_hold_time: defaults::send_hold_time(),
            families: vec![self.family()],
            max_routes: defaults::max_routes(),
            required: false,
            confirm: Confirm::Acked,
            settle: Settle::Fixed(Span::secs(0)),
            observer: None,
            forwards: true,
            observers: Vec::new(),
            probe_ttl: defaults::probe_ttl(),
            role: Role::Enforcer,
            bgp_role: None,
            bfd: self.bfd,
            bfd_interval: self.bfd_interval,
            bfd_multiplier: self.bfd_multiplier,
            bfd_multihop: self.bfd_multihop,
        }
    }
}
