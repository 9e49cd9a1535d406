//! What lies in the tables, octet by octet as `guard.bpf.c` has it.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;

use crate::core::narrow::{Port, TCP, UDP};
use crate::enforce::rules::{OwnTraffic, Transport};

/// Octets of a key of `lease4`.
pub const LEASE4: usize = 8;
/// Octets of a key of `lease6` and of `own`.
pub const LEASE6: usize = 20;
/// Octets of a key of `answers`.
pub const ANSWER: usize = 32;
/// Octets of a `struct refusal`.
pub const REFUSAL: usize = 64;

/// mDNS, LLMNR, SSDP: groups and ports of UDP.
const DISCOVERY: [(&str, u16); 6] = [
    ("224.0.0.251", 5353),
    ("224.0.0.252", 5355),
    ("239.255.255.250", 1900),
    ("ff02::fb", 5353),
    ("ff02::1:3", 5355),
    ("ff02::c", 1900),
];

const DENY_DNS: u8 = 2;
const IN_AUDIT: u8 = 0x80;

fn number(to: Port) -> u32 {
    match to {
        Port::Any => 0,
        Port::Of { protocol, port } => u32::from(protocol) << 16 | u32::from(port),
    }
}

fn port(number: u32) -> Port {
    let [_, protocol, high, low] = number.to_be_bytes();
    if number == 0 { Port::Any } else { Port::Of { protocol, port: u16::from_be_bytes([high, low]) } }
}

/// One lease, as the kernel keys it.
pub type Key = (IpAddr, Port);

/// Appends the key of a lease to keys of its family.
pub fn put_key((address, to): Key, keys: &mut Vec<u8>) {
    match address {
        IpAddr::V4(address) => keys.extend(address.octets()),
        IpAddr::V6(address) => keys.extend(address.octets()),
    }
    keys.extend(number(to).to_ne_bytes());
}

/// Reads a key of either family.
#[must_use]
pub fn key(octets: &[u8]) -> Option<Key> {
    let (address, to) = octets.split_last_chunk::<4>()?;
    let address = match address.len() {
        4 => IpAddr::from(*address.first_chunk::<4>()?),
        16 => IpAddr::from(*address.first_chunk::<16>()?),
        _ => return None,
    };
    Some((address, port(u32::from_ne_bytes(*to))))
}

/// When a lease ends: nanoseconds since the boot.
#[must_use]
pub fn ends(since_boot: Duration) -> [u8; 8] {
    u64::try_from(since_boot.as_nanos()).unwrap_or(u64::MAX).to_ne_bytes()
}

/// Reads an element's value: the end of a lease, as time since the boot.
#[must_use]
pub fn read_ends(value: &[u8]) -> Option<Duration> {
    value.first_chunk().map(|octets| Duration::from_nanos(u64::from_ne_bytes(*octets)))
}

/// An address of either family, as the program compares them.
#[must_use]
pub fn address(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// Reads an address that is a whole key.
#[must_use]
pub fn plain(key: &[u8]) -> Option<IpAddr> {
    key.first_chunk().map(|octets| read_address(*octets))
}

fn read_address(octets: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(octets).to_canonical()
}

fn protocol(transport: Transport) -> u8 {
    match transport {
        Transport::Tcp => TCP,
        Transport::Udp => UDP,
    }
}

/// The key of the guard's own traffic.
#[must_use]
pub fn own(own: &OwnTraffic) -> [u8; LEASE6] {
    let mut key = [0; LEASE6];
    let (to, port) = key.split_at_mut(16);
    to.copy_from_slice(&address(own.address));
    port.copy_from_slice(&listener(own.transport, own.port));
    key
}

/// The keys of what `addresses.local_discovery` opens.
pub fn discovery() -> impl Iterator<Item = [u8; LEASE6]> {
    let key = |(group, port): (&str, u16)| {
        let address = group.parse().ok()?;
        Some(own(&OwnTraffic { address, transport: Transport::Udp, port }))
    };
    DISCOVERY.into_iter().filter_map(key)
}

/// The key of a port that the guard answers from.
#[must_use]
pub fn listener(transport: Transport, port: u16) -> [u8; 4] {
    number(Port::Of { protocol: protocol(transport), port }).to_ne_bytes()
}

/// The peer of an entry of `answers`.
#[must_use]
pub fn answered(key: &[u8]) -> Option<IpAddr> {
    key.get(8..24).and_then(|octets| octets.first_chunk()).map(|octets| read_address(*octets))
}

/// A prefix of a family: its length, its address.
pub type Prefix<const OCTETS: usize> = (u32, [u8; OCTETS]);

/// IPv4 prefixes and the others.
#[must_use]
pub fn prefixes(nets: &[IpNet]) -> (Vec<Prefix<4>>, Vec<Prefix<16>>) {
    let (mut ipv4, mut ipv6) = (Vec::new(), Vec::new());
    for net in IpNet::aggregate(&nets.to_vec()) {
        match net {
            IpNet::V4(net) => ipv4.push((u32::from(net.prefix_len()), net.network().octets())),
            IpNet::V6(net) => ipv6.push((u32::from(net.prefix_len()), net.network().octets())),
        }
    }
    (ipv4, ipv6)
}

/// One connection or datagram that was refused, or would have been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// When: time since the boot.
    pub at: Duration,
    /// The cgroup's number.
    pub cgroup: u64,
    /// Where it was to go.
    pub address: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// The port; 0 for protocols without.
    pub port: u16,
    /// The process, as the first PID namespace numbers it.
    pub pid: u32,
    /// The user of the process, by number.
    pub uid: u32,
    /// Its name, as it calls itself.
    pub comm: String,
    /// It was DNS that goes round the guard.
    pub dns: bool,
    /// It was only said: in audit nothing is refused.
    pub audit: bool,
}

/// Reads a refusal from the ring; `None` where the octets are too few.
#[must_use]
pub fn refusal(octets: &[u8]) -> Option<Refusal> {
    let octets: &[u8; REFUSAL] = octets.first_chunk()?;
    let long =
        |at: usize| octets.get(at..).and_then(|rest| rest.first_chunk()).map(|octets| u64::from_ne_bytes(*octets));
    let word =
        |at: usize| octets.get(at..).and_then(|rest| rest.first_chunk()).map(|octets| u32::from_ne_bytes(*octets));
    let comm = octets.get(48..)?;
    let comm = comm.split(|octet| *octet == 0).next().unwrap_or_default();
    Some(Refusal {
        at: Duration::from_nanos(long(0)?),
        cgroup: long(8)?,
        address: read_address(*octets.get(16..)?.first_chunk()?),
        pid: word(32)?,
        uid: word(36)?,
        port: u16::from_ne_bytes([octets[40], octets[41]]),
        protocol: octets[42],
        dns: octets[43] & !IN_AUDIT == DENY_DNS,
        audit: octets[43] & IN_AUDIT != 0,
        // Printed by tools: nothing that moves a cursor.
        comm: String::from_utf8_lossy(comm).replace(char::is_control, "?"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_refusal_is_read_as_the_program_writes_it() {
        let mut octets = Vec::new();
        octets.extend(5_000_000_000u64.to_ne_bytes());
        octets.extend(77u64.to_ne_bytes());
        octets.extend(address("203.0.113.9".parse().unwrap()));
        octets.extend(4242u32.to_ne_bytes());
        octets.extend(1000u32.to_ne_bytes());
        octets.extend(443u16.to_ne_bytes());
        octets.extend([6, 0x81, 0, 0, 0, 0]);
        octets.extend(*b"cu\x1brl\0\0\0\0\0\0\0\0\0\0\0");
        let read = refusal(&octets).unwrap();
        assert_eq!((read.address.to_string().as_str(), read.port, read.protocol), ("203.0.113.9", 443, 6));
        assert_eq!((read.pid, read.uid, read.comm.as_str(), read.cgroup), (4242, 1000, "cu?rl", 77));
        assert_eq!((read.audit, read.dns, read.at), (true, false, Duration::from_secs(5)));
    }

    proptest! {
        #[test]
        fn a_key_is_read_as_it_was_written(v4: [u8; 4], v6: [u8; 16], protocol in 1u8.., port: u16) {
            for address in [IpAddr::from(v4), IpAddr::from(v6)] {
                for to in [Port::Any, Port::Of { protocol, port }] {
                    let mut octets = Vec::new();
                    put_key((address, to), &mut octets);
                    prop_assert_eq!(octets.len(), if address.is_ipv4() { LEASE4 } else { LEASE6 });
                    prop_assert_eq!(key(&octets), Some((address, to)));
                }
            }
        }

        #[test]
        fn any_octets_are_read_without_panic(octets in proptest::collection::vec(any::<u8>(), 0..100)) {
            std::hint::black_box((refusal(&octets), key(&octets), answered(&octets), read_ends(&octets)));
        }
    }
}
