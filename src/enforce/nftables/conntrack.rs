//! The kernel's list of flows: those that are known, flows made known, and flows ended. Without its entry a flow's next
//! packet is a new one, which the ruleset judges anew.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};

use super::error::NftError;
use super::kernel::{Kernel, failed};
use super::wire::{self, F_ACK, F_CREATE, F_DUMP, F_EXCL, F_REQUEST, SUBSYS_CTNETLINK, Writer};
use crate::enforce::rules::Transport;
use crate::sys::netlink::Socket;

const NEW: u8 = 0;
const GET: u8 = 1;
const DELETE: u8 = 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const PROTOCOL_INFO: u16 = 4;
const TIMEOUT: u16 = 7;
const ID: u16 = 12;
const ZONE: u16 = 18;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const IP_V4_SOURCE: u16 = 1;
const IP_V4_DESTINATION: u16 = 2;
const IP_V6_SOURCE: u16 = 3;
const IP_V6_DESTINATION: u16 = 4;
const PROTOCOL_NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;
const INFO_TCP: u16 = 1;
const TCP_STATE: u16 = 1;
const TCP_FLAGS_ORIGINAL: u16 = 4;
const TCP_FLAGS_REPLY: u16 = 5;
/// `IP_CT_TCP_FLAG_SACK_PERM | IP_CT_TCP_FLAG_BE_LIBERAL`, as the kernel itself sets them on a connection that it finds in
/// its middle: window scales aren't known.
const LIBERAL: u8 = 0x0a;
const NESTED: u16 = 0x8000;
/// `IPS_SEEN_REPLY`, `IPS_ASSURED`, `IPS_CONFIRMED`
const SEEN_REPLY: u32 = 0x2;
const ASSURED: u32 = 0x4;
const CONFIRMED: u32 = 0x8;
/// Requests in one datagram: their acknowledgements fit the receive queue.
const AT_ONCE: usize = 256;
/// Receive buffer, and room for one datagram of it.
const BUFFER: i32 = 1 << 20;
const PART: usize = 64 << 10;

/// A flow that the kernel knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// IANA's number of the protocol.
    pub protocol: u8,
    /// Who sent its first packet; port 0 where the protocol has none.
    pub source: SocketAddr,
    /// Where that was sent to.
    pub destination: SocketAddr,
    /// Where it arrives, behind destination NAT.
    pub arrives: SocketAddr,
}

/// Where in its life a flow is that is to be made known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Both ends have spoken.
    Established,
    /// The first packet has left; an answer to it is one to a flow that is known.
    Asked,
}

/// A flow that was there before the kernel kept a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Older {
    /// TCP or UDP.
    pub transport: Transport,
    /// Who began it.
    pub source: SocketAddr,
    /// With whom; of the same family.
    pub destination: SocketAddr,
    /// Where in its life.
    pub stage: Stage,
    /// How long it is kept in the list while it says nothing.
    pub seconds: u32,
}

/// Deletes the conntrack entries of flows that go to one of `addresses`, before or after destination NAT; returns how many.
/// Dumps the table: 0.2 s at 130,000 flows.
///
/// # Errors
/// [`NftError::Permission`] and others.
pub fn cut(kernel: &mut Kernel, addresses: &[IpAddr]) -> Result<usize, NftError> {
    // A name that is revoked may have thousands, and the table many more flows.
    let wanted: HashSet<IpAddr> = addresses.iter().copied().collect();
    let families = [libc::AF_INET, libc::AF_INET6].into_iter().filter(|family| {
        let ipv4 = *family == libc::AF_INET;
        addresses.iter().any(|address| address.is_ipv4() == ipv4)
    });
    end_in(kernel, families, |flow| wanted.contains(&flow.destination.ip()) || wanted.contains(&flow.arrives.ip()))
}

/// Deletes the conntrack entries of these flows; returns how many.
///
/// # Errors
/// [`NftError::Permission`] and others.
pub fn end(kernel: &mut Kernel, which: impl FnMut(&Flow) -> bool) -> Result<usize, NftError> {
    end_in(kernel, [libc::AF_INET, libc::AF_INET6].into_iter(), which)
}

fn end_in(
    kernel: &mut Kernel,
    families: impl Iterator<Item = i32>,
    mut which: impl FnMut(&Flow) -> bool,
) -> Result<usize, NftError> {
    let mut found = Vec::new();
    for family in families {
        let number = u8::try_from(family).unwrap_or(0);
        list_family(kernel, family, |flow, entry| {
            if which(&flow) {
                found.push((number, entry.to_vec()));
            }
        })?;
    }
    for some in found.chunks(AT_ONCE) {
        let mut writer = Writer::default();
        let first = kernel.next_sequence();
        let mut last = first;
        for (at, (family, entry)) in some.iter().enumerate() {
            if at > 0 {
                last = kernel.next_sequence();
            }
            let open = writer.begin(wire::kind(SUBSYS_CTNETLINK, DELETE), F_REQUEST | F_ACK, last, *family, 0);
            for (attribute, nested) in [(TUPLE_ORIGINAL, NESTED), (ID, 0), (ZONE, 0)] {
                if let Some(value) = wire::find(entry, attribute) {
                    writer.put(attribute | nested, value);
                }
            }
            writer.end(open);
        }
        // A flow that ended by itself meanwhile is as good as cut.
        match kernel.send_acknowledged("cutting flows", writer.octets(), first, some.len()) {
            Ok(()) | Err(NftError::Gone) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found.len())
}

/// Every flow.
///
/// # Errors
/// [`NftError::Permission`] and others.
pub fn list(kernel: &mut Kernel, mut each: impl FnMut(Flow)) -> Result<(), NftError> {
    for family in [libc::AF_INET, libc::AF_INET6] {
        list_family(kernel, family, |flow, _| each(flow))?;
    }
    Ok(())
}

/// Both ends of every flow that lives: that was answered, and is not about to end. Takes as long as [`cut`].
///
/// # Errors
/// [`NftError::Permission`] and others.
pub fn living(mut each: impl FnMut(IpAddr, IpAddr)) -> Result<(), NftError> {
    let mut kernel = Kernel::open()?;
    for family in [libc::AF_INET, libc::AF_INET6] {
        list_family(&mut kernel, family, |flow, entry| {
            if lives(&flow, entry) {
                each(flow.source.ip(), flow.destination.ip());
                if flow.arrives.ip() != flow.destination.ip() {
                    each(flow.source.ip(), flow.arrives.ip());
                }
            }
        })?;
    }
    Ok(())
}

fn lives(flow: &Flow, entry: &[u8]) -> bool {
    let status = wire::find(entry, STATUS).and_then(|value| wire::number(value, 0)).map_or(0, u32::from_be_bytes);
    let state = || {
        let tcp = wire::find(wire::find(entry, PROTOCOL_INFO)?, INFO_TCP)?;
        wire::find(tcp, TCP_STATE)?.first().copied()
    };
    // TCP_CONNTRACK_ESTABLISHED, _FIN_WAIT and _CLOSE_WAIT: one side may go on.
    let open = || state().is_some_and(|state| (3..=5).contains(&state));
    status & SEEN_REPLY != 0 && (i32::from(flow.protocol) != libc::IPPROTO_TCP || open())
}

fn list_family(kernel: &mut Kernel, family: i32, mut each: impl FnMut(Flow, &[u8])) -> Result<(), NftError> {
    let mut writer = Writer::default();
    let sequence = kernel.next_sequence();
    let number = u8::try_from(family).unwrap_or(0);
    let open = writer.begin(wire::kind(SUBSYS_CTNETLINK, GET), F_REQUEST | F_DUMP, sequence, number, 0);
    writer.end(open);
    kernel.ask("listing flows", sequence, writer.octets(), |message| {
        let entry = message.attributes();
        if let Some(flow) = read(entry, family == libc::AF_INET) {
            each(flow, entry);
        }
    })
}

fn read(entry: &[u8], ipv4: bool) -> Option<Flow> {
    let original = wire::find(entry, TUPLE_ORIGINAL)?;
    let reply = wire::find(entry, TUPLE_REPLY)?;
    let protocol = wire::find(original, TUPLE_PROTOCOL)?;
    let (from, to) = ends(original, ipv4)?;
    Some(Flow {
        protocol: *wire::find(protocol, PROTOCOL_NUMBER)?.first()?,
        source: from,
        destination: to,
        arrives: ends(reply, ipv4)?.0,
    })
}

/// Source and destination of a tuple.
fn ends(tuple: &[u8], ipv4: bool) -> Option<(SocketAddr, SocketAddr)> {
    let (source, destination) =
        if ipv4 { (IP_V4_SOURCE, IP_V4_DESTINATION) } else { (IP_V6_SOURCE, IP_V6_DESTINATION) };
    let ip = wire::find(tuple, TUPLE_IP)?;
    let protocol = wire::find(tuple, TUPLE_PROTOCOL)?;
    let address = |attribute| {
        let octets = wire::find(ip, attribute)?;
        if ipv4 {
            Some(IpAddr::from(<[u8; 4]>::try_from(octets).ok()?))
        } else {
            Some(IpAddr::from(<[u8; 16]>::try_from(octets).ok()?))
        }
    };
    let port = |attribute| {
        wire::find(protocol, attribute).and_then(|value| wire::number(value, 0)).map_or(0, u16::from_be_bytes)
    };
    Some((
        SocketAddr::new(address(source)?, port(SOURCE_PORT)),
        SocketAddr::new(address(destination)?, port(DESTINATION_PORT)),
    ))
}

/// Makes flows known that the kernel may not know; what it knows already stays as it is. Returns how many are new.
///
/// # Errors
/// [`NftError::Permission`] and others; a kernel without ctnetlink refuses all of it.
pub fn adopt(flows: &[Older]) -> Result<usize, NftError> {
    const DOING: &str = "making older flows known";
    let socket = Socket::netfilter(BUFFER).map_err(|source| failed(DOING, source))?;
    let mut buffer = vec![0; PART];
    let (mut known, mut there, mut refused) = (0usize, 0usize, None);
    for some in flows.chunks(AT_ONCE) {
        let mut writer = Writer::default();
        for (sequence, flow) in (1u32..).zip(some) {
            write(&mut writer, sequence, flow);
        }
        socket.send(writer.octets()).map_err(|source| failed(DOING, source))?;
        while let Some(datagram) = socket.receive(&mut buffer).map_err(|source| failed(DOING, source))? {
            for message in wire::messages(datagram) {
                match message.verdict() {
                    Some(Ok(())) => known = known.saturating_add(1),
                    Some(Err(refusal)) if refusal.errno == libc::EEXIST => there = there.saturating_add(1),
                    Some(Err(refusal)) => refused = Some(refusal),
                    None => {}
                }
            }
        }
        match &refused {
            Some(refusal) if refusal.errno == libc::EPERM => return Err(NftError::Permission),
            // Where nothing can be done the first ones say so; else it concerns some flows alone.
            Some(refusal) if known == 0 && there == 0 => {
                return Err(NftError::Refused { doing: DOING, reason: refusal.to_string() });
            }
            _ => {}
        }
    }
    if let Some(refusal) = refused {
        tracing::warn!(%refusal, "some connections from before the start can't be made known and may end");
    }
    Ok(known)
}

fn write(writer: &mut Writer, sequence: u32, flow: &Older) {
    let family = if flow.source.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let protocol = match flow.transport {
        Transport::Tcp => libc::IPPROTO_TCP,
        Transport::Udp => libc::IPPROTO_UDP,
    };
    let protocol = u8::try_from(protocol).unwrap_or(0);
    let flags = F_REQUEST | F_ACK | F_CREATE | F_EXCL;
    let open = writer.begin(wire::kind(SUBSYS_CTNETLINK, NEW), flags, sequence, u8::try_from(family).unwrap_or(0), 0);
    for (tuple, from, to) in
        [(TUPLE_ORIGINAL, flow.source, flow.destination), (TUPLE_REPLY, flow.destination, flow.source)]
    {
        let whole = writer.nest(tuple);
        let ip = writer.nest(TUPLE_IP);
        for (address, v4, v6) in
            [(from.ip(), IP_V4_SOURCE, IP_V6_SOURCE), (to.ip(), IP_V4_DESTINATION, IP_V6_DESTINATION)]
        {
            match address {
                IpAddr::V4(address) => writer.put(v4, &address.octets()),
                IpAddr::V6(address) => writer.put(v6, &address.octets()),
            }
        }
        writer.unnest(ip);
        let ports = writer.nest(TUPLE_PROTOCOL);
        writer.put(PROTOCOL_NUMBER, &[protocol]);
        writer.put(SOURCE_PORT, &from.port().to_be_bytes());
        writer.put(DESTINATION_PORT, &to.port().to_be_bytes());
        writer.unnest(ports);
        writer.unnest(whole);
    }
    let status = match flow.stage {
        Stage::Established => CONFIRMED | SEEN_REPLY | ASSURED,
        Stage::Asked => CONFIRMED,
    };
    writer.put_u32(STATUS, status);
    writer.put_u32(TIMEOUT, flow.seconds);
    if flow.transport == Transport::Tcp {
        let info = writer.nest(PROTOCOL_INFO);
        let tcp = writer.nest(INFO_TCP);
        // TCP_CONNTRACK_ESTABLISHED, TCP_CONNTRACK_SYN_SENT
        let state = match flow.stage {
            Stage::Established => 3,
            Stage::Asked => 1,
        };
        writer.put(TCP_STATE, &[state]);
        writer.put(TCP_FLAGS_ORIGINAL, &[LIBERAL, LIBERAL]);
        writer.put(TCP_FLAGS_REPLY, &[LIBERAL, LIBERAL]);
        writer.unnest(tcp);
        writer.unnest(info);
    }
    writer.end(open);
}

/// How long the kernel keeps a silent flow of this name in its list, in seconds: `tcp_timeout_established` and the like.
#[must_use]
pub fn kept_for(name: &str, usual: u32) -> u32 {
    let path = format!("/proc/sys/net/netfilter/nf_conntrack_{name}");
    std::fs::read_to_string(path).and_then(|text| text.trim().parse().map_err(io::Error::other)).unwrap_or(usual)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_made_known_reads_as_it_was_written() {
        for (source, destination) in [("10.0.0.1:1000", "192.0.2.1:443"), ("[2001:db8::1]:1000", "[2001:db8::2]:443")] {
            let older = Older {
                transport: Transport::Tcp,
                source: source.parse().unwrap(),
                destination: destination.parse().unwrap(),
                stage: Stage::Established,
                seconds: 60,
            };
            let mut writer = Writer::default();
            write(&mut writer, 7, &older);
            let message = wire::messages(writer.octets()).next().unwrap();
            let flow = read(message.attributes(), older.source.is_ipv4()).unwrap();
            let (source, destination) = (older.source, older.destination);
            assert_eq!(flow, Flow { protocol: 6, source, destination, arrives: destination });
            assert!(lives(&flow, message.attributes()));
        }
    }

    proptest! {
        #[test]
        fn any_octets_are_read_without_panic(octets in proptest::collection::vec(any::<u8>(), 0..300)) {
            std::hint::black_box((read(&octets, true), read(&octets, false)));
        }
    }
}
