//! Code points of the IANA registries that BGP uses; unsupported ones stand as comments.

/// The AS that stands for a four-octet AS at a two-octet speaker (RFC 6793 section 9).
pub const AS_TRANS: u32 = 23456;
/// The only version of BGP (RFC 4271 section 4.2).
pub const VERSION: u8 = 4;

/// BGP Message Types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MessageType {
    /// 1, RFC 4271.
    Open,
    /// 2, RFC 4271.
    Update,
    /// 3, RFC 4271.
    Notification,
    /// 4, RFC 4271.
    Keepalive,
    /// 5, RFC 2918.
    RouteRefresh,
    // 128: the same before it had a number; only sent to who offers capability 128.
}

impl MessageType {
    /// The type with this code, if it is known.
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Open,
            2 => Self::Update,
            3 => Self::Notification,
            4 => Self::Keepalive,
            5 => Self::RouteRefresh,
            _ => return None,
        })
    }

    /// The code on the wire.
    pub const fn code(self) -> u8 {
        match self {
            Self::Open => 1,
            Self::Update => 2,
            Self::Notification => 3,
            Self::Keepalive => 4,
            Self::RouteRefresh => 5,
        }
    }

    /// Least length of a message of this type, header included, octets.
    pub const fn min_len(self) -> usize {
        match self {
            Self::Open => 29,
            Self::Update => 23,
            Self::Notification => 21,
            Self::Keepalive => 19,
            Self::RouteRefresh => 23,
        }
    }
}

/// Address family and subsequent address family, as numbers: also of families that we don't speak (RFC 4760).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AfiSafi {
    /// Address Family Identifier.
    pub afi: u16,
    /// Subsequent Address Family Identifier.
    pub safi: u8,
}

impl AfiSafi {
    /// The family, if it is one that we speak.
    pub const fn family(self) -> Option<Family> {
        match (self.afi, self.safi) {
            (1, 1) => Some(Family::Ipv4),
            (2, 1) => Some(Family::Ipv6),
            _ => None,
        }
    }
}

impl From<Family> for AfiSafi {
    fn from(family: Family) -> Self {
        family.afi_safi()
    }
}

impl std::fmt::Display for AfiSafi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.family() {
            Some(family) => family.fmt(f),
            None => write!(f, "afi {} safi {}", self.afi, self.safi),
        }
    }
}

/// A family that we speak: unicast of one of the two protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// AFI 1, SAFI 1.
    Ipv4,
    /// AFI 2, SAFI 1.
    Ipv6,
}

impl Family {
    /// All families, in order.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// The numbers of the family.
    pub const fn afi_safi(self) -> AfiSafi {
        match self {
            Self::Ipv4 => AfiSafi { afi: 1, safi: 1 },
            Self::Ipv6 => AfiSafi { afi: 2, safi: 1 },
        }
    }

    /// Longest prefix of the family, bits.
    pub const fn max_len(self) -> u8 {
        match self {
            Self::Ipv4 => 32,
            Self::Ipv6 => 128,
        }
    }

    /// The family of an address.
    pub const fn of(address: std::net::IpAddr) -> Self {
        match address {
            std::net::IpAddr::V4(_) => Self::Ipv4,
            std::net::IpAddr::V6(_) => Self::Ipv6,
        }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        })
    }
}

/// A set of [`Family`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Families {
    /// Holds IPv4 unicast.
    pub ipv4: bool,
    /// Holds IPv6 unicast.
    pub ipv6: bool,
}

impl Families {
    /// The empty set.
    pub const NONE: Self = Self { ipv4: false, ipv6: false };
    /// IPv4 and IPv6 unicast.
    pub const ALL: Self = Self { ipv4: true, ipv6: true };

    /// Whether the family is in the set.
    pub const fn contains(self, family: Family) -> bool {
        match family {
            Family::Ipv4 => self.ipv4,
            Family::Ipv6 => self.ipv6,
        }
    }

    /// Adds a family.
    pub const fn insert(&mut self, family: Family) {
        match family {
            Family::Ipv4 => self.ipv4 = true,
            Family::Ipv6 => self.ipv6 = true,
        }
    }

    /// Takes a family out.
    pub const fn remove(&mut self, family: Family) {
        match family {
            Family::Ipv4 => self.ipv4 = false,
            Family::Ipv6 => self.ipv6 = false,
        }
    }

    /// What is in both sets.
    pub const fn intersection(self, other: Self) -> Self {
        Self { ipv4: self.ipv4 && other.ipv4, ipv6: self.ipv6 && other.ipv6 }
    }

    /// Whether nothing is in the set.
    pub const fn is_empty(self) -> bool {
        !self.ipv4 && !self.ipv6
    }

    /// The families in the set, in order.
    pub fn iter(self) -> impl Iterator<Item = Family> {
        Family::ALL.into_iter().filter(move |family| self.contains(*family))
    }
}

impl FromIterator<Family> for Families {
    fn from_iter<T: IntoIterator<Item = Family>>(iter: T) -> Self {
        let mut set = Self::NONE;
        for family in iter {
            set.insert(family);
        }
        set
    }
}

/// The registry of Capability Codes.
pub mod capability {
    /// MULTIPROTOCOL is defined by RFC 4760.
    pub const MULTIPROTOCOL: u8 = 1;
    /// ROUTE_REFRESH is defined by RFC 2918.
    pub const ROUTE_REFRESH: u8 = 2;
    // 3 Outbound Route Filtering, RFC 5291
    /// EXTENDED_NEXT_HOP is defined by RFC 8950.
    pub const EXTENDED_NEXT_HOP: u8 = 5;
    /// EXTENDED_MESSAGE is defined by RFC 8654.
    pub const EXTENDED_MESSAGE: u8 = 6;
    // 7 BGPsec, RFC 8205; 8 Multiple Labels, RFC 8277
    /// ROLE is defined by RFC 9234.
    pub const ROLE: u8 = 9;
    /// RFC 4724, RFC 8538.
    pub const GRACEFUL_RESTART: u8 = 64;
    /// FOUR_OCTET_AS is defined by RFC 6793.
    pub const FOUR_OCTET_AS: u8 = 65;
    // 67 Dynamic Capability
    /// ADD_PATH is defined by RFC 7911.
    pub const ADD_PATH: u8 = 69;
    /// ENHANCED_ROUTE_REFRESH is defined by RFC 7313.
    pub const ENHANCED_ROUTE_REFRESH: u8 = 70;
    /// LONG_LIVED_GRACEFUL_RESTART is defined by RFC 9494.
    pub const LONG_LIVED_GRACEFUL_RESTART: u8 = 71;
    // 72 Routing Policy Distribution
    /// FQDN is defined by draft-walton-bgp-hostname-capability.
    pub const FQDN: u8 = 73;
    /// Route refresh before it had a number.
    pub const OLD_ROUTE_REFRESH: u8 = 128;
}

/// OPEN Optional Parameter Types.
pub mod open_parameter {
    // 1 Authentication, deprecated by RFC 4271
    /// CAPABILITIES is defined by RFC 5492.
    pub const CAPABILITIES: u8 = 2;
    /// EXTENDED_LENGTH is defined by RFC 9072.
    pub const EXTENDED_LENGTH: u8 = 255;
}

/// The registry of BGP Path Attributes.
pub mod attribute {
    /// ORIGIN is defined by RFC 4271.
    pub const ORIGIN: u8 = 1;
    /// AS_PATH is defined by RFC 4271.
    pub const AS_PATH: u8 = 2;
    /// NEXT_HOP is defined by RFC 4271.
    pub const NEXT_HOP: u8 = 3;
    /// MULTI_EXIT_DISC is defined by RFC 4271.
    pub const MULTI_EXIT_DISC: u8 = 4;
    /// LOCAL_PREF is defined by RFC 4271.
    pub const LOCAL_PREF: u8 = 5;
    /// ATOMIC_AGGREGATE is defined by RFC 4271.
    pub const ATOMIC_AGGREGATE: u8 = 6;
    /// AGGREGATOR is defined by RFC 4271.
    pub const AGGREGATOR: u8 = 7;
    /// COMMUNITIES is defined by RFC 1997.
    pub const COMMUNITIES: u8 = 8;
    /// ORIGINATOR_ID is defined by RFC 4456.
    pub const ORIGINATOR_ID: u8 = 9;
    /// CLUSTER_LIST is defined by RFC 4456.
    pub const CLUSTER_LIST: u8 = 10;
    /// MP_REACH_NLRI is defined by RFC 4760.
    pub const MP_REACH_NLRI: u8 = 14;
    /// MP_UNREACH_NLRI is defined by RFC 4760.
    pub const MP_UNREACH_NLRI: u8 = 15;
    /// EXTENDED_COMMUNITIES is defined by RFC 4360.
    pub const EXTENDED_COMMUNITIES: u8 = 16;
    /// AS4_PATH is defined by RFC 6793.
    pub const AS4_PATH: u8 = 17;
    /// AS4_AGGREGATOR is defined by RFC 6793.
    pub const AS4_AGGREGATOR: u8 = 18;
    // 22 PMSI_TUNNEL, 23 Tunnel Encapsulation, 25 IPv6 Extended Communities, 26 AIGP, 29 BGP-LS: kept as unknown
    /// LARGE_COMMUNITIES is defined by RFC 8092.
    pub const LARGE_COMMUNITIES: u8 = 32;
    /// Only to Customer, RFC 9234.
    pub const OTC: u8 = 35;
    // 40 Prefix-SID, 128 ATTR_SET: kept as unknown
}

/// BGP Error (Notification) Codes.
pub mod error_code {
    /// MESSAGE_HEADER is defined by RFC 4271.
    pub const MESSAGE_HEADER: u8 = 1;
    /// OPEN is defined by RFC 4271.
    pub const OPEN: u8 = 2;
    /// UPDATE is defined by RFC 4271.
    pub const UPDATE: u8 = 3;
    /// HOLD_TIMER_EXPIRED is defined by RFC 4271.
    pub const HOLD_TIMER_EXPIRED: u8 = 4;
    /// RFC 4271, RFC 6608.
    pub const FSM: u8 = 5;
    /// RFC 4271, RFC 4486.
    pub const CEASE: u8 = 6;
    /// ROUTE_REFRESH is defined by RFC 7313.
    pub const ROUTE_REFRESH: u8 = 7;
    /// SEND_HOLD_TIMER_EXPIRED is defined by RFC 9687.
    pub const SEND_HOLD_TIMER_EXPIRED: u8 = 8;
}

/// Finite State Machine Error subcodes (RFC 6608).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FsmError {
    /// Number 0: unspecified.
    Unspecified,
    /// Number 1: a message that OpenSent does not expect.
    UnexpectedInOpenSent,
    /// Number 2: a message that OpenConfirm does not expect.
    UnexpectedInOpenConfirm,
    /// Number 3: a message that Established does not expect.
    UnexpectedInEstablished,
}

impl FsmError {
    /// The subcode on the wire.
    pub const fn code(self) -> u8 {
        match self {
            Self::Unspecified => 0,
            Self::UnexpectedInOpenSent => 1,
            Self::UnexpectedInOpenConfirm => 2,
            Self::UnexpectedInEstablished => 3,
        }
    }
}

/// Cease subcodes (RFC 4486, 8538, 9384).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cease {
    /// Number 1: maximum prefixes.
    MaximumPrefixes,
    /// 2; may carry a text (RFC 9003).
    AdministrativeShutdown,
    /// Number 3: peer deconfigured.
    PeerDeconfigured,
    /// 4; may carry a text (RFC 9003).
    AdministrativeReset,
    /// Number 5: connection rejected.
    ConnectionRejected,
    /// Number 6: other configuration change.
    OtherConfigurationChange,
    /// Number 7: connection collision.
    ConnectionCollision,
    /// Number 8: out of resources.
    OutOfResources,
    /// 9; carries the real reason (RFC 8538).
    HardReset,
    /// 10, RFC 9384.
    BfdDown,
}

impl Cease {
    /// The subcode on the wire.
    pub const fn code(self) -> u8 {
        match self {
            Self::MaximumPrefixes => 1,
            Self::AdministrativeShutdown => 2,
            Self::PeerDeconfigured => 3,
            Self::AdministrativeReset => 4,
            Self::ConnectionRejected => 5,
            Self::OtherConfigurationChange => 6,
            Self::ConnectionCollision => 7,
            Self::OutOfResources => 8,
            Self::HardReset => 9,
            Self::BfdDown => 10,
        }
    }

    /// The subcode with this number, if it is known.
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::MaximumPrefixes,
            2 => Self::AdministrativeShutdown,
            3 => Self::PeerDeconfigured,
            4 => Self::AdministrativeReset,
            5 => Self::ConnectionRejected,
            6 => Self::OtherConfigurationChange,
            7 => Self::ConnectionCollision,
            8 => Self::OutOfResources,
            9 => Self::HardReset,
            10 => Self::BfdDown,
            _ => return None,
        })
    }
}

/// BGP Roles: what the sender is to the receiver (RFC 9234 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Number 0: provider.
    Provider,
    /// Number 1: route server.
    RouteServer,
    /// Number 2: route server client.
    RouteServerClient,
    /// Number 3: customer.
    Customer,
    /// Number 4: peer.
    Peer,
}

impl Role {
    /// The role with this number, if it is known.
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::Provider,
            1 => Self::RouteServer,
            2 => Self::RouteServerClient,
            3 => Self::Customer,
            4 => Self::Peer,
            _ => return None,
        })
    }

    /// The number on the wire.
    pub const fn code(self) -> u8 {
        match self {
            Self::Provider => 0,
            Self::RouteServer => 1,
            Self::RouteServerClient => 2,
            Self::Customer => 3,
            Self::Peer => 4,
        }
    }

    /// The only role that the other side may have (RFC 9234 section 4.2, table 2).
    pub const fn counterpart(self) -> Self {
        match self {
            Self::Provider => Self::Customer,
            Self::Customer => Self::Provider,
            Self::RouteServer => Self::RouteServerClient,
            Self::RouteServerClient => Self::RouteServer,
            Self::Peer => Self::Peer,
        }
    }
}

/// Well-known communities (RFC 1997, 7999, 8326, 9494).
pub mod community {
    /// GRACEFUL_SHUTDOWN, RFC 8326.
    pub const GRACEFUL_SHUTDOWN: u32 = 0xFFFF_0000;
    /// LLGR_STALE, RFC 9494.
    pub const LLGR_STALE: u32 = 0xFFFF_0006;
    /// NO_LLGR, RFC 9494.
    pub const NO_LLGR: u32 = 0xFFFF_0007;
    /// BLACKHOLE, RFC 7999: the opposite of what this crate is for; only on leases that were taken back, as other guards are told of them.
    pub const BLACKHOLE: u32 = 0xFFFF_029A;
    /// NO_EXPORT, RFC 1997.
    pub const NO_EXPORT: u32 = 0xFFFF_FF01;
    /// NO_ADVERTISE, RFC 1997.
    pub const NO_ADVERTISE: u32 = 0xFFFF_FF02;
    /// NO_EXPORT_SUBCONFED, RFC 1997.
    pub const NO_EXPORT_SUBCONFED: u32 = 0xFFFF_FF03;
}
