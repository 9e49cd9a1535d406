//! What a speaker is told about itself and its peers.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::wire::iana::Families;
pub use crate::wire::iana::Role as BgpRole;

/// The function of a large community that names a guard by its router id: "dgrd".
pub const GUARD: u32 = 0x6467_7264;
/// The function of a large community that says when a guard's lease ends, to other guards: "dgre". Seconds since 1970; 0 = it was taken back.
pub const LEASE_END: u32 = 0x6467_7265;
/// The function of a large community that names the guard, by its router id, whose lease another one passes on: "dgrf".
pub const LEASE_OF: u32 = 0x6467_7266;

/// Ourselves. One per speaker.
#[derive(Clone, Debug)]
pub struct SpeakerConfig {
    /// AS number of this speaker.
    pub asn: u32,
    /// BGP identifier (RFC 6286); not zero.
    pub router_id: Ipv4Addr,
    /// Next hop of IPv4 routes. Without it they have the IPv6 next hop, for peers that negotiate that (RFC 8950), and are not announced to
    /// others.
    pub next_hop_ipv4: Option<Ipv4Addr>,
    /// Next hop of IPv6 routes. Without it no IPv6 route is announced to anybody.
    pub next_hop_ipv6: Option<Ipv6Addr>,
    /// On every route (RFC 1997).
    pub communities: Vec<u32>,
    /// On every route (RFC 8092).
    pub large_communities: Vec<[u32; 3]>,
    /// NO_EXPORT on every route.
    pub no_export: bool,
    /// LOCAL_PREF to internal peers.
    pub local_pref: u32,
    /// false = audit: sessions come up, nothing is announced.
    pub announce: bool,
    /// Where passive peers connect to.
    pub listen: Vec<SocketAddr>,
    /// Restart time of the graceful restart capability (RFC 4724); zero = the capability isn't sent.
    pub graceful_restart: Duration,
    /// Long-lived stale time (RFC 9494): for so long behind the restart time, peers that can keep the routes as a last resort. Zero, or no
    /// restart time = the capability isn't sent.
    pub long_lived: Duration,
    /// This process took over from an earlier one and knows its routes: R and F bits in the first OPEN to each peer, and no session
    /// before the table is filled for the first time.
    pub restarting: bool,
    /// `SO_MARK` on every socket.
    pub mark: Option<u32>,
    /// Peers that sessions are kept with, in the order of the configuration.
    pub peers: Vec<PeerConfig>,
}

/// One peer as its configuration describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerConfig {
    /// As shown to users; unique.
    pub name: String,
    /// Address of the peer, to connect to and to be connected from.
    pub address: IpAddr,
    /// The interface that a link-local address is on.
    pub zone: Option<String>,
    /// Its AS; ours = internal.
    pub asn: u32,
    /// TCP port that sessions are opened to.
    pub port: u16,
    /// The address we connect from, and accept it on.
    pub local_address: Option<IpAddr>,
    /// Never connect, wait for it.
    pub passive: bool,
    /// TCP-MD5 (RFC 2385), or the master key of [`Self::tcp_ao`].
    pub password: Option<Secret>,
    /// TCP-AO (RFC 5925) instead of TCP-MD5. Where the kernel can't, the speaker doesn't start.
    pub tcp_ao: Option<TcpAo>,
    /// GTSM (RFC 5082): send with TTL 255, accept nothing that came further than `multihop` hops (one without it).
    pub ttl_security: bool,
    /// Hops to an external peer that isn't adjacent.
    pub multihop: Option<u8>,
    /// Proposed hold time; zero = no keepalives; else at least 3 s.
    pub hold_time: Duration,
    /// A peer that takes nothing off its connection for so long is given up (RFC 9687); zero = 8 minutes. Twice the hold time at least.
    pub send_hold: Duration,
    /// Families to negotiate.
    pub families: Families,
    /// What counts as its word that a route is open.
    pub confirm: Confirm,
    /// Waited after that; with `learn` until something is learnt.
    pub settle: Duration,
    /// `settle` follows what occasional data-path probes show.
    pub learn: bool,
    /// Whether occasional data-path probes look if it forwards what it confirmed by its word alone, where they can be sent.
    pub samples: bool,
    /// For [`Confirm::Reflect`]: the name of the peer on whose session the router sends routes back.
    pub observer: Option<String>,
    /// TTL of data-path probes: 1 is answered by the router, 2 by its next hop.
    pub probe_ttl: u8,
    /// For [`Confirm::Reflect`] and [`Confirm::Probe`]: a prefix that isn't confirmed by then is given up, see
    /// [`crate::io::What::Refused`].
    pub patience: Duration,
    /// Whether it gets routes.
    pub role: Role,
    /// Whether it forwards packets itself; a route reflector or a route server doesn't, and its word says nothing of the routers behind it.
    pub forwards: bool,
    /// For [`Role::Observer`]: its router is an edge, and what it sends on this session is that router's word on the whole table.
    pub watches: bool,
    /// Our role towards an external peer (RFC 9234); `None` sends none. The session comes up only with a peer that has the counterpart or
    /// says nothing.
    pub bgp_role: Option<BgpRole>,
    /// BFD beside the BGP session; see [`crate::bfd`].
    pub bfd: Option<BfdConfig>,
    /// What the caller knows it by: each of its events bears it.
    pub tag: u64,
}

/// TCP-AO with one peer: one key for both directions and all time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpAo {
    /// How codes are made.
    pub algorithm: AoAlgorithm,
    /// KeyID of the segments we send: the peer's RecvID.
    pub send_id: u8,
    /// KeyID of the peer's segments: its SendID.
    pub recv_id: u8,
}

/// The algorithms that every TCP-AO has (RFC 5926 section 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AoAlgorithm {
    /// The code is HMAC-SHA-1, cut to 96 bits (RFC 5926).
    #[default]
    HmacSha1,
    /// The code is AES-128-CMAC, cut to 96 bits (RFC 5926).
    Aes128Cmac,
}

impl fmt::Display for AoAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HmacSha1 => "hmac-sha-1-96",
            Self::Aes128Cmac => "aes-128-cmac-96",
        })
    }
}

/// BFD with one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BfdConfig {
    /// How often we want to send and can receive. The slower end decides in each direction.
    pub interval: Duration,
    /// So many of our packets may be lost in a row before the peer gives us up; not zero.
    pub multiplier: u8,
    /// RFC 5883 instead of RFC 5881. An external peer's [`PeerConfig::multihop`] implies it.
    pub multihop: bool,
}

impl SpeakerConfig {
    /// A speaker with defaults: it announces with NO_EXPORT and no other community, has no next hop yet, listens nowhere, and is no
    /// restarted one; without graceful restart.
    #[must_use]
    pub fn new(asn: u32, router_id: Ipv4Addr) -> Self {
        Self {
            asn,
            router_id,
            next_hop_ipv4: None,
            next_hop_ipv6: None,
            communities: Vec::new(),
            large_communities: Vec::new(),
            no_export: true,
            local_pref: 100,
            announce: true,
            listen: Vec::new(),
            graceful_restart: Duration::ZERO,
            long_lived: Duration::ZERO,
            restarting: false,
            mark: None,
            peers: Vec::new(),
        }
    }

    /// A large community on every route that tells whose it is, where observers are to tell our paths from another guard's.
    #[must_use]
    pub fn mark_of_guard(&self) -> Option<[u32; 3]> {
        let observed = self.peers.iter().any(|peer| peer.role == Role::Observer);
        observed.then_some([self.asn, GUARD, self.router_id.to_bits()])
    }

    /// Peers whose sessions bring edges their routes: those that don't forward themselves, or all where there are none.
    #[must_use]
    pub fn feeds(&self, peer: &PeerConfig) -> bool {
        let reflects = |peer: &PeerConfig| peer.role == Role::Enforcer && !peer.forwards;
        peer.role == Role::Enforcer && (reflects(peer) || !self.peers.iter().any(reflects))
    }

    /// IPv4 routes have the IPv6 next hop, with peers that can (RFC 8950).
    #[must_use]
    pub fn ipv4_over_ipv6(&self) -> bool {
        self.next_hop_ipv4.is_none() && self.next_hop_ipv6.is_some()
    }

    /// Whether the session with this peer must begin anew when `new` takes the place of this configuration; so it is with one that isn't in both. What
    /// every route bears needs none: routes are announced again, in place of what the peer has.
    #[must_use]
    pub fn restarts(&self, new: &Self, name: &str) -> bool {
        let find = |config: &Self| {
            let peer = config.peers.iter().find(|peer| peer.name == name && peer.role != Role::Gone)?;
            Some(PeerConfig { tag: 0, patience: Duration::ZERO, ..peer.clone() })
        };
        let (Some(before), Some(after)) = (find(self), find(new)) else { return true };
        let common = |config: &Self| {
            let restart = (config.graceful_restart, config.long_lived);
            (config.asn, config.router_id, restart, config.mark, config.announce, config.announced())
        };
        let hops = |config: &Self| (config.next_hop_ipv4, config.next_hop_ipv6);
        // What is seen of a route, or behind the router, is compared with its next hop.
        let looks = matches!(after.confirm, Confirm::Reflect | Confirm::Probe) || after.follows();
        before != after
            || common(self) != common(new)
            || self.ipv4_over_ipv6() != new.ipv4_over_ipv6()
            || (looks && hops(self) != hops(new))
    }

    /// What every route bears.
    #[cfg(feature = "io")]
    pub(crate) fn attributes(&self) -> impl PartialEq + '_ {
        let communities = (&self.communities, &self.large_communities, self.mark_of_guard());
        (communities, self.no_export, self.local_pref, self.next_hop_ipv4, self.next_hop_ipv6)
    }

    /// Families with a next hop.
    #[must_use]
    pub fn announced(&self) -> Families {
        let ipv6 = self.next_hop_ipv6.is_some();
        Families { ipv4: self.next_hop_ipv4.is_some() || ipv6, ipv6 }
    }
}

impl PeerConfig {
    /// Whether nothing is sent to it, and yet it says what it has of the table.
    #[must_use]
    pub fn follows(&self) -> bool {
        self.role == Role::Edge || (self.role == Role::Observer && self.watches)
    }

    /// A peer with defaults: port 179, active, hold time 90 s, both families, `acked` without settle.
    #[must_use]
    pub fn new(name: impl Into<String>, address: IpAddr, asn: u32) -> Self {
        Self {
            name: name.into(),
            address,
            zone: None,
            asn,
            port: 179,
            local_address: None,
            passive: false,
            password: None,
            tcp_ao: None,
            ttl_security: false,
            multihop: None,
            hold_time: Duration::from_secs(90),
            send_hold: Duration::ZERO,
            families: Families::ALL,
            confirm: Confirm::Acked,
            settle: Duration::ZERO,
            learn: false,
            samples: false,
            observer: None,
            probe_ttl: 1,
            patience: Duration::from_millis(800),
            role: Role::Enforcer,
            forwards: true,
            watches: false,
            bgp_role: None,
            bfd: None,
            tag: 0,
        }
    }
}

/// What counts as a peer's word that what was sent is in force there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Confirm {
    /// Written to the socket.
    Sent,
    /// Acknowledged by the peer's TCP.
    #[default]
    Acked,
    /// It answered a ROUTE-REFRESH that was sent behind the UPDATE: with EoRR (RFC 7313), or by sending again what it exports.
    Refresh,
    /// The router sent the prefix back on the session of [`PeerConfig::observer`].
    Reflect,
    /// A packet sent through the router to the address came back as ICMP Time Exceeded.
    Probe,
}

impl fmt::Display for Confirm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sent => "sent",
            Self::Acked => "acked",
            Self::Refresh => "refresh",
            Self::Reflect => "reflect",
            Self::Probe => "probe",
        })
    }
}

/// What a peer is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Gets the routes.
    #[default]
    Enforcer,
    /// The peer gets no routes; what it sends is looked at.
    Observer,
    /// Has no session: a router that gets the routes from others than us, and is asked by probes alone. It is up as long as there is a
    /// session with one of those.
    Edge,
    /// Another guard, or a reflector between guards: gets our own leases with their ends, and tells us its own. See [`crate::leases`].
    Guard,
    /// It was removed, and its place is free.
    Gone,
}

/// A password that no log shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// `octets` as a secret.
    #[must_use]
    pub fn new(octets: impl Into<Vec<u8>>) -> Self {
        Self(octets.into())
    }

    /// Returns the octets of the secret, as they go to the kernel.
    #[must_use]
    pub fn octets(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(...)")
    }
}
