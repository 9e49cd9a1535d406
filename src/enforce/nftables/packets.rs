//! Reads the denied packets that the ruleset logs (linux/netfilter/nfnetlink_log.h): who wanted to go where. The ruleset
//! logs a few a second only, so this is a sample; the counters count all.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::unix::AsyncFd;

use super::error::NftError;
use super::kernel::failed;
use super::ruleset::LOG_GROUP;
use super::wire::{self, F_ACK, F_REQUEST, Writer};
use crate::enforce::rules::Transport;
use crate::sys::netlink::Socket;

/// The kernel's `NFNL_SUBSYS_ULOG`: the part of netfilter that tells of packets.
const SUBSYS_LOG: u8 = 4;
const PACKET: u8 = 0;
const CONFIG: u8 = 1;
const CONFIG_COMMAND: u16 = 1;
const CONFIG_MODE: u16 = 2;
const COMMAND_BIND: u8 = 1;
const COPY_PACKET: u8 = 2;
const PAYLOAD: u16 = 9;
const USER: u16 = 11;
/// Octets of each packet that are wanted: the IP header and the ports.
const SNAP: u32 = 96;
const BUFFER: i32 = 1 << 20;
/// The longest datagram; the kernel sends a packet at once, or several up to its own limit of 128 KiB.
const DATAGRAM: usize = 160 << 10;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// One denied packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Who sent it.
    pub source: IpAddr,
    /// Where it was to go.
    pub destination: IpAddr,
    /// IP protocol number; of IPv6 the first header behind the fixed one.
    pub protocol: u8,
    /// Destination port, of TCP and UDP.
    pub port: Option<u16>,
    /// Source port likewise.
    pub source_port: Option<u16>,
    /// The user whose socket it came from, if that is one of this host.
    pub user: Option<u32>,
}

impl std::fmt::Display for Packet {
    /// The destination, as `203.0.113.9 tcp/443`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.destination, self.service())
    }
}

impl Packet {
    /// The socket that it came from: protocol, its end, the other end.
    #[must_use]
    pub fn from(&self) -> Option<(Transport, SocketAddr, SocketAddr)> {
        let transport = match self.protocol {
            TCP => Transport::Tcp,
            UDP => Transport::Udp,
            _ => return None,
        };
        let local = SocketAddr::new(self.source, self.source_port?);
        Some((transport, local, SocketAddr::new(self.destination, self.port?)))
    }

    /// Protocol and port, as in "tcp/443".
    #[must_use]
    pub fn service(&self) -> String {
        match (self.protocol, self.port) {
            (TCP, Some(port)) => format!("tcp/{port}"),
            (UDP, Some(port)) => format!("udp/{port}"),
            (1 | 58, _) => "icmp".to_owned(),
            (protocol, _) => format!("protocol {protocol}"),
        }
    }
}

/// The subscription. One process of a network namespace can have it.
pub struct Packets {
    socket: AsyncFd<Socket>,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Packets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Packets")
    }
}

impl Packets {
    /// Subscribes to the ruleset's group. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`NftError::Netlink`]; [`NftError::Refused`] without CAP_NET_ADMIN, or when somebody else reads the group.
    pub fn open() -> Result<Self, NftError> {
        let doing = "subscribing to denied packets";
        let socket = Socket::netfilter(BUFFER).map_err(|source| failed(doing, source))?;
        let mut buffer = vec![0; DATAGRAM];
        let group = u16::try_from(LOG_GROUP).unwrap_or(u16::MAX);
        let mut writer = Writer::default();
        let open = writer.begin(wire::kind(SUBSYS_LOG, CONFIG), F_REQUEST | F_ACK, 1, 0, group);
        writer.put(CONFIG_COMMAND, &[COMMAND_BIND]);
        let mut mode = SNAP.to_be_bytes().to_vec();
        mode.extend([COPY_PACKET, 0]);
        writer.put(CONFIG_MODE, &mode);
        writer.end(open);
        socket.send(writer.octets()).map_err(|source| failed(doing, source))?;
        // The kernel answers within `send`.
        let answer = socket.receive(&mut buffer).map_err(|source| failed(doing, source))?.unwrap_or_default();
        match wire::messages(answer).find_map(|message| message.verdict()) {
            Some(Ok(())) => {}
            Some(Err(refusal)) => {
                let reason = match refusal.errno {
                    libc::EPERM | libc::EBUSY | libc::EEXIST => {
                        format!("another program reads NFLOG group {LOG_GROUP}, or CAP_NET_ADMIN is missing")
                    }
                    _ => refusal.to_string(),
                };
                return Err(NftError::Refused { doing, reason });
            }
            None => return Err(NftError::Malformed("the subscription to denied packets was not answered")),
        }
        let socket = socket.watched().map_err(|source| failed(doing, source))?;
        Ok(Self { socket, buffer })
    }

    /// Waits for denied packets and hands each of them to `seen`; returns how many times the kernel had to drop some for want of
    /// room since the last call (0 or 1).
    ///
    /// # Errors
    /// The socket's.
    pub async fn read(&mut self, mut seen: impl FnMut(Packet)) -> io::Result<u64> {
        let mut ready = self.socket.readable().await?;
        let received = ready.get_inner().receive(&mut self.buffer);
        match received {
            Ok(Some(datagram)) => {
                packets(datagram).for_each(&mut seen);
                Ok(0)
            }
            Ok(None) => {
                ready.clear_ready();
                Ok(0)
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(1),
            Err(error) => Err(error),
        }
    }
}

/// Every packet of a datagram whose IP header is whole.
fn packets(datagram: &[u8]) -> impl Iterator<Item = Packet> {
    wire::messages(datagram).filter(|message| message.kind == wire::kind(SUBSYS_LOG, PACKET)).filter_map(|message| {
        let user = wire::find(message.attributes(), USER).and_then(wire::u32_of);
        Some(Packet { user, ..packet(wire::find(message.attributes(), PAYLOAD)?)? })
    })
}

/// IPv4 (RFC 791) or IPv6 (RFC 8200) header, and the port behind it. A later fragment has none.
fn packet(octets: &[u8]) -> Option<Packet> {
    let version = octets.first()? >> 4;
    let (source, destination, protocol, behind, whole): (IpAddr, IpAddr, u8, usize, bool) = match version {
        4 => {
            let header: &[u8; 20] = octets.first_chunk()?;
            let [.., a, b, c, d, e, f, g, h] = *header;
            let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
            let length = usize::from(header[0] & 0x0f).saturating_mul(4);
            (Ipv4Addr::new(a, b, c, d).into(), Ipv4Addr::new(e, f, g, h).into(), header[9], length, fragment == 0)
        }
        6 => {
            let header: &[u8; 40] = octets.first_chunk()?;
            let source: [u8; 16] = header.get(8..24)?.try_into().ok()?;
            let destination: [u8; 16] = header.get(24..40)?.try_into().ok()?;
            (Ipv6Addr::from(source).into(), Ipv6Addr::from(destination).into(), header[6], 40, true)
        }
        _ => return None,
    };
    let ports = octets.get(behind..).and_then(|rest| rest.first_chunk::<4>());
    let (source_port, port) = match (protocol, whole, ports) {
        (TCP | UDP, true, Some([from_high, from_low, high, low])) => {
            (Some(u16::from_be_bytes([*from_high, *from_low])), Some(u16::from_be_bytes([*high, *low])))
        }
        _ => (None, None),
    };
    Some(Packet { source, destination, protocol, port, source_port, user: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ports_are_those_behind_the_options_and_a_later_fragment_has_none() {
        let mut octets = vec![0x46, 0, 0, 0, 0, 0, 0, 0, 64, TCP, 0, 0, 192, 0, 2, 1, 203, 0, 113, 9, 1, 1, 1, 1];
        octets.extend([0x80, 0, 1, 187]);
        let seen = packet(&octets).unwrap();
        assert_eq!((seen.to_string().as_str(), seen.source.to_string().as_str()), ("203.0.113.9 tcp/443", "192.0.2.1"));
        octets[7] = 1;
        assert_eq!(packet(&octets).unwrap().port, None);
        let mut six = vec![0x60, 0, 0, 0, 0, 4, UDP, 64];
        six.extend("2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
        six.extend("2001:db8::2".parse::<Ipv6Addr>().unwrap().octets());
        six.extend([0, 1, 0, 53]);
        assert_eq!(packet(&six).unwrap().to_string(), "2001:db8::2 udp/53");
        six[6] = 58;
        assert_eq!(packet(&six).unwrap().to_string(), "2001:db8::2 icmp");
        assert_eq!(packet(&six[..39]), None);
    }

    proptest! {
        #[test]
        fn any_octets_are_read_without_panic(octets in proptest::collection::vec(any::<u8>(), 0..300)) {
            std::hint::black_box((packets(&octets).count(), packet(&octets)));
        }
    }
}
