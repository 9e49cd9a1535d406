//! Data-path probes: a UDP packet whose TTL ends in the router that it is given to, for an address that was just announced.
//!
//! A router that would forward it answers ICMP Time Exceeded; the null route swallows it; nothing reaches the address. The packet is
//! handed to the router's own address on the link by a packet socket, whatever the host's routes say, so that several routers on one
//! network are asked one by one. Packet sockets are also not seen by the host's packet filter, ours among them; the answers
//! must be let in by it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::link::{self, Link};
use super::sys;
use crate::config::PeerConfig;

/// Where traceroute's packets go; nobody listens there.
const TO_PORT: u16 = 33434;
/// The same for a look before an address is announced, so that its answer can be told apart.
const LOOK_PORT: u16 = TO_PORT + 1;
/// How long what is known of the link is believed.
const FRESH: Duration = Duration::from_secs(10);
/// How long until somebody who was no neighbour is looked for again.
const RETRY: Duration = Duration::from_millis(200);
const UDP: u8 = 17;
const UDP_LENGTH: u16 = 8;

/// What was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Forwards {
    /// The router forwards to this address.
    pub(super) address: IpAddr,
    /// It did before the address was announced.
    pub(super) before: bool,
}

/// Probes through one router. Needs CAP_NET_RAW.
pub(super) struct Prober {
    router: IpAddr,
    zone: Option<String>,
    local: Option<IpAddr>,
    ttl: u8,
    packets: Socket,
    icmp4: tokio::net::UdpSocket,
    icmp6: Option<tokio::net::UdpSocket>,
    /// Only reserves the port.
    _reserved: UdpSocket,
    port: u16,
    link: Option<Link>,
    looked: Option<Instant>,
    /// Why nothing could be sent last.
    problem: Option<String>,
}

impl Prober {
    /// Opens the sockets. Must be called on the runtime.
    pub(super) fn new(peer: &PeerConfig) -> io::Result<Self> {
        let any = |address: IpAddr| UdpSocket::bind((address, 0));
        let reserved = any(Ipv6Addr::UNSPECIFIED.into()).or_else(|_| any(Ipv4Addr::UNSPECIFIED.into()))?;
        let icmp4 = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
        sys::only_time_exceeded(icmp4.as_fd(), false)?;
        // A kernel without IPv6 has no IPv6 routes to ask for.
        let icmp6 = match Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)) {
            Ok(socket) => {
                sys::only_time_exceeded(socket.as_fd(), true)?;
                Some(asynchronous(socket)?)
            }
            Err(_) => None,
        };
        let packets = Socket::new(Domain::PACKET, Type::DGRAM, None)?;
        packets.set_nonblocking(true)?;
        Ok(Self {
            router: peer.address,
            zone: peer.zone.clone(),
            local: peer.local_address,
            ttl: peer.probe_ttl,
            packets,
            icmp4: asynchronous(icmp4)?,
            icmp6,
            port: reserved.local_addr()?.port(),
            _reserved: reserved,
            link: None,
            looked: None,
            problem: None,
        })
    }

    /// Why the last probe could not be sent.
    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Sends one probe. What can't be sent is like one that isn't answered; see [`Self::problem`].
    pub(super) fn send(&mut self, to: IpAddr, now: Instant) {
        self.problem = self.try_send(to, TO_PORT, now).err();
    }

    /// Likewise, before the address is announced: whether the router forwards to it anyway.
    pub(super) fn look(&mut self, to: IpAddr, now: Instant) {
        self.problem = self.try_send(to, LOOK_PORT, now).err();
    }

    fn try_send(&mut self, to: IpAddr, port: u16, now: Instant) -> Result<(), String> {
        let believed = if self.link.is_some() { FRESH } else { RETRY };
        if self.looked.is_none_or(|at| now.saturating_duration_since(at) >= believed) {
            self.looked = Some(now);
            let on = self.zone.as_deref().map(sys::index).transpose().map_err(|error| error.to_string())?;
            match link::neighbour(self.router, on, self.local) {
                Ok(link) => self.link = Some(link),
                // An entry that is just being renewed isn't listed; what was known still holds.
                Err(error) if self.link.is_none() => return Err(error.to_string()),
                Err(_) => {}
            }
        }
        let link = self.link.as_ref().ok_or_else(|| format!("{} is no neighbour on any link", self.router))?;
        let packet = match to {
            IpAddr::V4(to) => {
                let from = link.ipv4.ok_or("no IPv4 address of our own on the router's link")?;
                ipv4(from, to, (self.port, port), self.ttl)
            }
            IpAddr::V6(to) => {
                let from = link.ipv6.ok_or("no IPv6 address of our own on the router's link")?;
                ipv6(from, to, (self.port, port), self.ttl)
            }
        };
        let sent = sys::send_on_link(self.packets.as_fd(), link.interface, &link.hardware, to.is_ipv4(), &packet);
        sent.map_err(|error| format!("probes can't be sent: {error}"))
    }

    /// The next address that the router forwards to. Cancel safe.
    pub(super) async fn answered(&self) -> Forwards {
        loop {
            let (mut four, mut six) = ([0; 512], [0; 512]);
            let none = std::future::pending();
            let from6 = async {
                match &self.icmp6 {
                    Some(socket) => socket.recv(&mut six).await,
                    None => none.await,
                }
            };
            let address = tokio::select! {
                count = self.icmp4.recv(&mut four) => received(count, &four).and_then(|octets| expired4(octets, self.port)),
                count = from6 => received(count, &six).and_then(|octets| expired6(octets, self.port)),
            };
            if let Some(address) = address {
                return address;
            }
        }
    }
}

impl Prober {
    /// Another one that is at hand.
    pub(super) fn more(&self) -> Option<Forwards> {
        let mut octets = [0; 512];
        // What isn't an answer to us ends it too: the socket is still ready then.
        if let Ok(count) = self.icmp4.try_recv(&mut octets) {
            return octets.get(..count).and_then(|octets| expired4(octets, self.port));
        }
        let count = self.icmp6.as_ref()?.try_recv(&mut octets).ok()?;
        octets.get(..count).and_then(|octets| expired6(octets, self.port))
    }
}

fn received(count: io::Result<usize>, buffer: &[u8]) -> Option<&[u8]> {
    match count {
        Ok(count) => buffer.get(..count),
        Err(error) => {
            tracing::debug!(%error, "ICMP");
            None
        }
    }
}

/// A raw socket is read like one for UDP.
fn asynchronous(socket: Socket) -> io::Result<tokio::net::UdpSocket> {
    socket.set_nonblocking(true)?;
    tokio::net::UdpSocket::from_std(UdpSocket::from(OwnedFd::from(socket)))
}

/// The Internet checksum (RFC 1071).
fn checksum(octets: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in octets.chunks(2) {
        let high = pair.first().copied().unwrap_or(0);
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u32::from(u16::from_be_bytes([high, low]));
    }
    while let (low, high @ 1..) = (sum & 0xFFFF, sum >> 16) {
        sum = low + high;
    }
    !u16::try_from(sum).unwrap_or(0)
}

fn udp((port, to): (u16, u16), checksum: u16) -> [u8; 8] {
    let mut udp = [0; 8];
    let fields = [port, to, UDP_LENGTH, checksum].into_iter().flat_map(u16::to_be_bytes);
    for (octet, value) in udp.iter_mut().zip(fields) {
        *octet = value;
    }
    udp
}

fn ipv4(from: Ipv4Addr, to: Ipv4Addr, ports: (u16, u16), ttl: u8) -> Vec<u8> {
    // Version and length, no special service, 28 octets; no identification, don't fragment.
    let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0x40, 0, ttl, UDP, 0, 0];
    packet.extend_from_slice(&from.octets());
    packet.extend_from_slice(&to.octets());
    let sum = checksum(&packet).to_be_bytes();
    for (octet, value) in packet.iter_mut().skip(10).zip(sum) {
        *octet = value;
    }
    // Zero: no checksum (RFC 768).
    packet.extend_from_slice(&udp(ports, 0));
    packet
}

fn ipv6(from: Ipv6Addr, to: Ipv6Addr, ports: (u16, u16), hop_limit: u8) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 8, UDP, hop_limit];
    packet.extend_from_slice(&from.octets());
    packet.extend_from_slice(&to.octets());
    let mut pseudo = Vec::from(from.octets());
    pseudo.extend_from_slice(&to.octets());
    pseudo.extend_from_slice(&[0, 0, 0, 8, 0, 0, 0, UDP]);
    pseudo.extend_from_slice(&udp(ports, 0));
    // RFC 8200 section 8.1: never zero.
    let sum = match checksum(&pseudo) {
        0 => 0xFFFF,
        sum => sum,
    };
    packet.extend_from_slice(&udp(ports, sum));
    packet
}

/// The destination of the packet of ours that this ICMP message (with its IP header) says expired in transit.
fn expired4(octets: &[u8], port: u16) -> Option<Forwards> {
    let length = |octets: &[u8]| octets.first().map(|octet| usize::from(octet & 15) * 4);
    let icmp = octets.get(length(octets)?..)?;
    let inner = icmp.get(8..).filter(|_| icmp.starts_with(&[11, 0]))?;
    let transport = inner.get(length(inner)?..)?;
    let ours = inner.get(9) == Some(&UDP) && transport.get(..2) == Some(&port.to_be_bytes());
    let to = <[u8; 4]>::try_from(inner.get(16..20)?).ok()?;
    let before = transport.get(2..4) == Some(&LOOK_PORT.to_be_bytes());
    ours.then(|| Forwards { address: IpAddr::from(to), before })
}

/// Likewise for ICMPv6, which comes without its IP header.
fn expired6(icmp: &[u8], port: u16) -> Option<Forwards> {
    let inner = icmp.get(8..).filter(|_| icmp.starts_with(&[3, 0]))?;
    let ours = inner.get(6) == Some(&UDP) && inner.get(40..42) == Some(&port.to_be_bytes());
    let to = <[u8; 16]>::try_from(inner.get(24..40)?).ok()?;
    let before = inner.get(42..44) == Some(&LOOK_PORT.to_be_bytes());
    ours.then(|| Forwards { address: IpAddr::from(to), before })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_have_right_checksums() {
        let packet = ipv4([192, 0, 2, 1].into(), [203, 0, 113, 9].into(), (40000, TO_PORT), 1);
        assert_eq!((packet.len(), checksum(&packet[..20]), packet[8]), (28, 0, 1));
        let (from, to): (Ipv6Addr, Ipv6Addr) = ("2001:db8::1".parse().unwrap(), "2001:db8:1::2".parse().unwrap());
        let packet = ipv6(from, to, (40000, TO_PORT), 1);
        let mut pseudo = packet[8..40].to_vec();
        pseudo.extend_from_slice(&[0, 0, 0, 8, 0, 0, 0, 17]);
        pseudo.extend_from_slice(&packet[40..]);
        assert_eq!((packet.len(), checksum(&pseudo)), (48, 0));
    }

    #[test]
    fn only_our_own_expired_packets_count() {
        let packet = ipv4([192, 0, 2, 1].into(), [203, 0, 113, 9].into(), (40000, TO_PORT), 1);
        let mut message = ipv4([192, 0, 2, 254].into(), [192, 0, 2, 1].into(), (0, 0), 64)[..20].to_vec();
        message.extend_from_slice(&[11, 0, 0, 0, 0, 0, 0, 0]);
        message.extend_from_slice(&packet);
        assert_eq!(
            expired4(&message, 40000),
            Some(Forwards { address: IpAddr::from([203, 0, 113, 9]), before: false })
        );
        assert_eq!(expired4(&message, 40001), None);
        for cut in 0..message.len() - 7 {
            assert_eq!(expired4(&message[..cut], 40000), None, "{cut}");
        }
        message[20] = 3;
        assert_eq!(expired4(&message, 40000), None, "unreachable is not forwarded");
        let to: Ipv6Addr = "2001:db8:1::2".parse().unwrap();
        let packet = ipv6("2001:db8::1".parse().unwrap(), to, (40000, LOOK_PORT), 1);
        let mut message = vec![3, 0, 0, 0, 0, 0, 0, 0];
        message.extend_from_slice(&packet);
        assert_eq!(expired6(&message, 40000), Some(Forwards { address: IpAddr::from(to), before: true }));
        assert_eq!(expired6(&message, 1), None);
        for cut in 0..message.len() - 6 {
            assert_eq!(expired6(&message[..cut], 40000), None, "{cut}");
        }
    }
}
