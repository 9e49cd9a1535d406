//! Where a neighbour is on the link, as the kernel knows it: one rtnetlink dump of neighbours, one of our own addresses.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

/// RTM_GETADDR and its answer, RTM_GETNEIGH and its answer (linux/rtnetlink.h).
const ADDRESSES: (u16, u16) = (22, 20);
const NEIGHBOURS: (u16, u16) = (30, 28);
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// NLM_F_REQUEST | NLM_F_DUMP.
const DUMP: u16 = 0x301;
const NLMSG_HEADER: usize = 16;
/// NDA_DST and IFA_ADDRESS; NDA_LLADDR and IFA_LOCAL.
const FIRST: u16 = 1;
const SECOND: u16 = 2;
/// The scope RT_SCOPE_UNIVERSE of linux/rtnetlink.h.
const GLOBAL: u8 = 0;

/// A neighbour, and who we are to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Index of the interface it is on.
    pub interface: i32,
    /// Its address there, 6 octets on Ethernet.
    pub hardware: Vec<u8>,
    /// Our own address there, IPv4.
    pub ipv4: Option<Ipv4Addr>,
    /// IPv6, not link-local.
    pub ipv6: Option<Ipv6Addr>,
}

/// Finds a neighbour, `on` this interface where its address says so. `local` is preferred as our own address.
///
/// # Errors
/// From the kernel; `NotFound` for somebody who is no neighbour. Blocks for a moment.
pub fn neighbour(address: IpAddr, on: Option<u32>, local: Option<IpAddr>) -> io::Result<Link> {
    let mut found = None;
    dump(NEIGHBOURS, family(address), |body| {
        // struct ndmsg.
        let Some((head, attributes)) = body.split_at_checked(12) else { return };
        let interface = head.get(4..8).and_then(int);
        let mut hardware = None;
        let mut here = false;
        for (kind, value) in Attributes(attributes) {
            here |= kind == FIRST && ip(value) == Some(address);
            if kind == SECOND && value.len() <= 8 && value.iter().any(|octet| *octet != 0) {
                hardware = Some(value.to_vec());
            }
        }
        let meant = on.is_none_or(|on| interface.and_then(|interface| u32::try_from(interface).ok()) == Some(on));
        if let (true, Some(hardware), Some(interface)) = (here && meant, hardware, interface) {
            found = Some((interface, hardware));
        }
    })?;
    let Some((interface, hardware)) = found else {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("{address} is no neighbour on any link")));
    };
    let mut link = Link { interface, hardware, ipv4: None, ipv6: None };
    dump(ADDRESSES, 0, |body| {
        // struct ifaddrmsg.
        let Some((head, attributes)) = body.split_at_checked(8) else { return };
        if head.get(4..8).and_then(int) != Some(interface) || head.get(3) != Some(&GLOBAL) {
            return;
        }
        // With IFA_LOCAL, IFA_ADDRESS is the other end of a point-to-point link.
        let own = Attributes(attributes).filter(|(kind, _)| *kind <= SECOND).max_by_key(|(kind, _)| *kind);
        match own.and_then(|(_, value)| ip(value)) {
            Some(IpAddr::V4(own)) if link.ipv4.is_none() || local == Some(own.into()) => link.ipv4 = Some(own),
            Some(IpAddr::V6(own)) if link.ipv6.is_none() || local == Some(own.into()) => link.ipv6 = Some(own),
            _ => {}
        }
    })?;
    Ok(link)
}

fn family(address: IpAddr) -> u8 {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    u8::try_from(family).unwrap_or(0)
}

fn int(octets: &[u8]) -> Option<i32> {
    octets.try_into().ok().map(i32::from_ne_bytes)
}

fn ip(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()
}

/// Asks for everything of a kind; each answer's body goes to `each`.
fn dump((request, answer): (u16, u16), family: u8, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let mut socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(libc::NETLINK_ROUTE)))?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    // The longer of both bodies; the kernel reads what it needs.
    let mut message = Vec::from(28u32.to_ne_bytes());
    message.extend_from_slice(&request.to_ne_bytes());
    message.extend_from_slice(&DUMP.to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    message.push(family);
    message.resize(28, 0);
    socket.write_all(&message)?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = socket.read(&mut buffer)?;
        let mut rest = buffer.get(..count).unwrap_or_default();
        if rest.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while let Some(header) = rest.get(..NLMSG_HEADER) {
            let length = header.get(..4).and_then(int).and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
            let kind = header.get(4..6).and_then(|kind| kind.try_into().ok()).map_or(0, u16::from_ne_bytes);
            let Some(body) = rest.get(NLMSG_HEADER..length) else { return Err(io::ErrorKind::InvalidData.into()) };
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let code = body.get(..4).and_then(int).unwrap_or(0);
                    return Err(io::Error::from_raw_os_error(code.saturating_neg()));
                }
                kind if kind == answer => each(body),
                _ => {}
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// Walks `struct rtattr`s.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16::from_ne_bytes(self.0.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(self.0.get(2..4)?.try_into().ok()?);
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_no_neighbour_is_not_found() {
        let error = neighbour(IpAddr::from([192, 0, 2, 77]), None, None).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn attributes_end_at_what_is_cut_short() {
        let octets = [6, 0, 1, 0, 7, 8, 0, 0, 9, 0, 2, 0, 1];
        assert_eq!(Attributes(&octets).collect::<Vec<_>>(), [(1, &[7, 8][..])]);
        assert_eq!(Attributes(&[0, 0, 1, 0]).count(), 0);
    }
}
