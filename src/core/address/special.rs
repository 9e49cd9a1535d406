//! The special-purpose address registries as a table (IANA "IPv4 Special-Purpose Address Space" and "IPv6 Special-Purpose Address Space",
//! RFC 6890 and RFC 8190), with the blocks of the IPv4 and IPv6 address space registries that are no unicast space.
//!
//! [`Special::reachable`] is the registry's own column. [`Special::admit`] is ours: it differs where a block is called globally reachable
//! but its addresses are served by the nearest device, perhaps inside the network (PCP, TURN, SRP anycast), or are identifiers that
//! are not routed (ORCHIDv2, DRIP).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The column "Globally Reachable".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reachable {
    /// The registry says True: the block may be reached from anywhere.
    Yes,
    /// The registry says False: the block means something here alone.
    No,
    /// N/A, or the block stands in another registry.
    Unstated,
}

/// Where a block is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registry {
    /// IANA IPv4 Special-Purpose Address Registry.
    Ipv4Special,
    /// IANA IPv4 Address Space Registry.
    Ipv4Space,
    /// IANA IPv6 Special-Purpose Address Registry.
    Ipv6Special,
    /// IANA Internet Protocol Version 6 Address Space.
    Ipv6Space,
}

impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4Special => "IPv4 special-purpose registry",
            Self::Ipv4Space => "IPv4 address space registry",
            Self::Ipv6Special => "IPv6 special-purpose registry",
            Self::Ipv6Space => "IPv6 address space registry",
        })
    }
}

/// A block of the registries of special addresses.
#[derive(Debug, PartialEq, Eq)]
pub struct Special {
    /// The addresses of the block, as one prefix.
    pub net: IpNet,
    /// Its name in the registry.
    pub name: &'static str,
    /// Where it is registered.
    pub registry: Registry,
    /// The document that the registry cites.
    pub rfc: &'static str,
    /// What the registry says of reachability.
    pub reachable: Reachable,
    /// Whether an answer may open it.
    pub admit: bool,
}

impl fmt::Display for Special {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {} ({}, {})", self.net, self.name, self.registry, self.rfc)
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, len: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), len))
}

const fn v6(segments: [u16; 8], len: u8) -> IpNet {
    let [a, b, c, d, e, f, g, h] = segments;
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), len))
}

const fn special(
    net: IpNet,
    name: &'static str,
    registry: Registry,
    rfc: &'static str,
    reachable: Reachable,
    admit: bool,
) -> Special {
    Special { net, name, registry, rfc, reachable, admit }
}

use Reachable::{No, Unstated, Yes};
use Registry::{Ipv4Space, Ipv4Special, Ipv6Space, Ipv6Special};

/// Every block; of those that hold an address, the longest speaks.
pub static TABLE: &[Special] = &[
    special(v4(0, 0, 0, 0, 8), "\"This network\"", Ipv4Special, "RFC 791 section 3.2", No, false),
    special(v4(0, 0, 0, 0, 32), "\"This host on this network\"", Ipv4Special, "RFC 1122 section 3.2.1.3", No, false),
    special(v4(10, 0, 0, 0, 8), "Private-Use", Ipv4Special, "RFC 1918", No, false),
    special(v4(100, 64, 0, 0, 10), "Shared Address Space", Ipv4Special, "RFC 6598", No, false),
    special(v4(127, 0, 0, 0, 8), "Loopback", Ipv4Special, "RFC 1122 section 3.2.1.3", No, false),
    special(v4(169, 254, 0, 0, 16), "Link Local", Ipv4Special, "RFC 3927", No, false),
    special(v4(172, 16, 0, 0, 12), "Private-Use", Ipv4Special, "RFC 1918", No, false),
    special(v4(192, 0, 0, 0, 24), "IETF Protocol Assignments", Ipv4Special, "RFC 6890 section 2.1", No, false),
    special(v4(192, 0, 0, 0, 29), "IPv4 Service Continuity Prefix", Ipv4Special, "RFC 7335", No, false),
    special(v4(192, 0, 0, 8, 32), "IPv4 dummy address", Ipv4Special, "RFC 7600", No, false),
    special(v4(192, 0, 0, 9, 32), "Port Control Protocol Anycast", Ipv4Special, "RFC 7723", Yes, false),
    special(v4(192, 0, 0, 10, 32), "Traversal Using Relays around NAT Anycast", Ipv4Special, "RFC 8155", Yes, false),
    special(v4(192, 0, 0, 170, 31), "NAT64/DNS64 Discovery", Ipv4Special, "RFC 8880, RFC 7050 section 2.2", No, false),
    special(v4(192, 0, 2, 0, 24), "Documentation (TEST-NET-1)", Ipv4Special, "RFC 5737", No, false),
    special(v4(192, 31, 196, 0, 24), "AS112-v4", Ipv4Special, "RFC 7535", Yes, true),
    special(v4(192, 52, 193, 0, 24), "AMT", Ipv4Special, "RFC 7450", Yes, true),
    special(v4(192, 88, 99, 0, 24), "Deprecated (6to4 Relay Anycast)", Ipv4Special, "RFC 7526", Unstated, false),
    special(v4(192, 88, 99, 2, 32), "6a44-relay anycast address", Ipv4Special, "RFC 6751", No, false),
    special(v4(192, 168, 0, 0, 16), "Private-Use", Ipv4Special, "RFC 1918", No, false),
    special(v4(192, 175, 48, 0, 24), "Direct Delegation AS112 Service", Ipv4Special, "RFC 7534", Yes, true),
    special(v4(198, 18, 0, 0, 15), "Benchmarking", Ipv4Special, "RFC 2544", No, false),
    special(v4(198, 51, 100, 0, 24), "Documentation (TEST-NET-2)", Ipv4Special, "RFC 5737", No, false),
    special(v4(203, 0, 113, 0, 24), "Documentation (TEST-NET-3)", Ipv4Special, "RFC 5737", No, false),
    special(v4(224, 0, 0, 0, 4), "Multicast", Ipv4Space, "RFC 5771", Unstated, false),
    special(v4(240, 0, 0, 0, 4), "Reserved", Ipv4Special, "RFC 1112 section 4", No, false),
    special(v4(255, 255, 255, 255, 32), "Limited Broadcast", Ipv4Special, "RFC 8190, RFC 919 section 7", No, false),
    special(
        v6([0; 8], 96),
        "IPv4-Compatible Address (deprecated)",
        Ipv6Space,
        "RFC 4291 section 2.5.5.1",
        Unstated,
        false,
    ),
    special(v6([0; 8], 128), "Unspecified Address", Ipv6Special, "RFC 4291", No, false),
    special(v6([0, 0, 0, 0, 0, 0, 0, 1], 128), "Loopback Address", Ipv6Special, "RFC 4291", No, false),
    special(v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96), "IPv4-mapped Address", Ipv6Special, "RFC 4291", No, false),
    // Reachable only through a translator: opened where `addresses.nat64` names the prefix.
    special(v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96), "IPv4-IPv6 Translat.", Ipv6Special, "RFC 6052", Yes, false),
    special(v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48), "IPv4-IPv6 Translat.", Ipv6Special, "RFC 8215", No, false),
    special(v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64), "Discard-Only Address Block", Ipv6Special, "RFC 6666", No, false),
    special(v6([0x100, 0, 0, 1, 0, 0, 0, 0], 64), "Dummy IPv6 Prefix", Ipv6Special, "RFC 9780", No, false),
    special(v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), "IETF Protocol Assignments", Ipv6Special, "RFC 2928", No, false),
    special(v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32), "TEREDO", Ipv6Special, "RFC 4380, RFC 8190", Unstated, false),
    special(
        v6([0x2001, 1, 0, 0, 0, 0, 0, 1], 128),
        "Port Control Protocol Anycast",
        Ipv6Special,
        "RFC 7723",
        Yes,
        false,
    ),
    special(
        v6([0x2001, 1, 0, 0, 0, 0, 0, 2], 128),
        "Traversal Using Relays around NAT Anycast",
        Ipv6Special,
        "RFC 8155",
        Yes,
        false,
    ),
    special(v6([0x2001, 1, 0, 0, 0, 0, 0, 3], 128), "DNS-SD SRP Anycast", Ipv6Special, "RFC 9665", Yes, false),
    special(v6([0x2001, 2, 0, 0, 0, 0, 0, 0], 48), "Benchmarking", Ipv6Special, "RFC 5180", No, false),
    special(v6([0x2001, 3, 0, 0, 0, 0, 0, 0], 32), "AMT", Ipv6Special, "RFC 7450", Yes, true),
    special(v6([0x2001, 4, 0x112, 0, 0, 0, 0, 0], 48), "AS112-v6", Ipv6Special, "RFC 7535", Yes, true),
    special(v6([0x2001, 0x10, 0, 0, 0, 0, 0, 0], 28), "Deprecated (ORCHID)", Ipv6Special, "RFC 4843", Unstated, false),
    special(v6([0x2001, 0x20, 0, 0, 0, 0, 0, 0], 28), "ORCHIDv2", Ipv6Special, "RFC 7343", Yes, false),
    special(
        v6([0x2001, 0x30, 0, 0, 0, 0, 0, 0], 28),
        "Drone Remote ID Protocol Entity Tags (DETs)",
        Ipv6Special,
        "RFC 9374",
        Yes,
        false,
    ),
    special(v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), "Documentation", Ipv6Special, "RFC 3849", No, false),
    // Judged by the IPv4 address inside before this table is asked.
    special(v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), "6to4", Ipv6Special, "RFC 3056", Unstated, false),
    special(
        v6([0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0], 48),
        "Direct Delegation AS112 Service",
        Ipv6Special,
        "RFC 7534",
        Yes,
        true,
    ),
    special(v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), "Documentation", Ipv6Special, "RFC 9637", No, false),
    special(v6([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16), "Segment Routing (SRv6) SIDs", Ipv6Special, "RFC 9602", No, false),
    special(v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), "Unique-Local", Ipv6Special, "RFC 4193, RFC 8190", No, false),
    special(v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), "Link-Local Unicast", Ipv6Special, "RFC 4291", No, false),
    special(v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10), "Site-Local (deprecated)", Ipv6Space, "RFC 3879", Unstated, false),
    special(v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), "Multicast", Ipv6Space, "RFC 4291 section 2.7", Unstated, false),
];

/// The longest block that holds the address.
#[must_use]
pub fn find(address: IpAddr) -> Option<&'static Special> {
    TABLE.iter().filter(|special| special.net.contains(&address)).max_by_key(|special| special.net.prefix_len())
}
