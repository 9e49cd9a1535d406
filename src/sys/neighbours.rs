//! The kernel's neighbour table (rtnetlink(7), RTM_GETNEIGH): which address on link has which link-layer address. Read once and then followed.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;

use tokio::io::unix::AsyncFd;

use super::netlink::Socket;
use crate::core::client::{Station, Stations};

/// Most addresses that are remembered; those beyond are as if not on link.
const MOST: usize = 65_536;
/// Of notifications that wait for us. When it overflows, the table is read anew.
const BUFFER: i32 = 1 << 20;
/// The kernel's parts of a dump are no longer.
const PART: usize = 64 * 1024;
/// A dump has ended by then.
const DUMP_MILLIS: i32 = 2000;

const HEADER: usize = 16;
const NDMSG: usize = 12;
/// States in which the kernel knows the address: reachable, stale, delay, probe, permanent.
const KNOWN: u16 = 0x02 | 0x04 | 0x08 | 0x10 | 0x80;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;

/// The table, as far as the kernel has told of it.
pub struct Neighbours {
    socket: AsyncFd<Socket>,
    stations: Stations,
    room: Vec<u8>,
}

impl Neighbours {
    /// Subscribes to changes, then reads the table.
    ///
    /// # Errors
    /// The system's.
    pub fn open() -> io::Result<Self> {
        let socket = Socket::open(libc::NETLINK_ROUTE, BUFFER)?;
        socket.join(i32::try_from(libc::RTNLGRP_NEIGH).unwrap_or(3))?;
        let mut all = Self { socket: socket.watched()?, stations: HashMap::new(), room: vec![0; PART] };
        all.read_all()?;
        Ok(all)
    }

    /// Who is on link.
    #[must_use]
    pub fn stations(&self) -> &Stations {
        &self.stations
    }

    /// Waits until something of the table has changed.
    ///
    /// # Errors
    /// The system's.
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            self.socket.readable().await?.clear_ready();
            if self.take()? {
                return Ok(());
            }
        }
    }

    /// Takes in what was told so far. Whether that changes anything.
    ///
    /// # Errors
    /// The system's.
    pub fn take(&mut self) -> io::Result<bool> {
        let mut changed = false;
        loop {
            match self.socket.get_ref().receive(&mut self.room) {
                Ok(Some(octets)) => {
                    for message in messages(octets) {
                        changed |= note(&mut self.stations, &message);
                    }
                }
                Ok(None) => return Ok(changed),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.read_all()?;
                    changed = true;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn read_all(&mut self) -> io::Result<()> {
        self.stations.clear();
        let socket = self.socket.get_ref();
        socket.send(&dump())?;
        loop {
            if !socket.wait(DUMP_MILLIS)? {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let octets = match socket.receive(&mut self.room) {
                Ok(octets) => octets.unwrap_or_default(),
                // What was lost is in the dump.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => continue,
                Err(error) => return Err(error),
            };
            for message in messages(octets) {
                match i32::from(message.kind) {
                    libc::NLMSG_DONE => return Ok(()),
                    libc::NLMSG_ERROR => {
                        let code = message.body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                        return Err(io::Error::from_raw_os_error(code.saturating_neg()));
                    }
                    _ => {
                        note(&mut self.stations, &message);
                    }
                }
            }
        }
    }
}

/// RTM_GETNEIGH for all families.
fn dump() -> Vec<u8> {
    let length = u32::try_from(HEADER + NDMSG).unwrap_or(0);
    let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_DUMP).unwrap_or(0);
    let mut out = length.to_ne_bytes().to_vec();
    out.extend(libc::RTM_GETNEIGH.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.resize(HEADER + NDMSG, 0);
    out
}

/// A netlink message without its header.
struct Message<'a> {
    kind: u16,
    body: &'a [u8],
}

/// A number in host order.
fn number<const N: usize>(octets: &[u8], at: usize) -> Option<[u8; N]> {
    octets.get(at..)?.first_chunk().copied()
}

fn messages(mut octets: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(number(octets, 0)?)).ok()?;
        let kind = u16::from_ne_bytes(number(octets, 4)?);
        let body = octets.get(HEADER..length)?;
        octets = octets.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind, body })
    })
}

/// Takes in one word on one neighbour. Whether that changes anything.
fn note(stations: &mut Stations, message: &Message<'_>) -> bool {
    let Some((address, station)) = neighbour(message.body) else { return false };
    match (message.kind, station) {
        (libc::RTM_NEWNEIGH, Some(station)) => {
            let fits = stations.len() < MOST || stations.contains_key(&address);
            fits && stations.insert(address, station) != Some(station)
        }
        // Gone, or not known any more.
        (libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH, _) => stations.remove(&address).is_some(),
        _ => false,
    }
}

/// The address of a `ndmsg`, and its station where the kernel knows it.
fn neighbour(body: &[u8]) -> Option<(IpAddr, Option<Station>)> {
    let interface = u32::from_ne_bytes(number(body, 4)?);
    let state = u16::from_ne_bytes(number(body, 8)?);
    let (mut address, mut link) = (None, None);
    let mut at = NDMSG;
    while let Some(length) = number(body, at).map(|length| usize::from(u16::from_ne_bytes(length))) {
        let kind = u16::from_ne_bytes(number(body, at.saturating_add(2))?);
        let value = body.get(at.saturating_add(4)..at.saturating_add(length))?;
        match kind {
            NDA_DST => {
                address = match value.len() {
                    4 => number::<4>(value, 0).map(IpAddr::from),
                    16 => number::<16>(value, 0).map(IpAddr::from),
                    _ => None,
                };
            }
            NDA_LLADDR => {
                let mut octets = [0; 8];
                octets.iter_mut().zip(value).for_each(|(octet, value)| *octet = *value);
                link = Some(octets).filter(|octets| value.len() <= 8 && *octets != [0; 8]);
            }
            _ => {}
        }
        at = at.saturating_add(length.next_multiple_of(4)).max(at.saturating_add(4));
    }
    let known = state & KNOWN != 0;
    Some((address?, link.filter(|_| known).map(|octets| Station { interface, octets })))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel writes it.
    fn word(kind: u16, state: u16, address: &[u8], link: &[u8]) -> Vec<u8> {
        let mut body = vec![2, 0, 0, 0];
        body.extend(7u32.to_ne_bytes());
        body.extend(state.to_ne_bytes());
        body.extend([0, 1]);
        for (number, value) in [(NDA_DST, address), (NDA_LLADDR, link)] {
            body.extend((value.len() as u16 + 4).to_ne_bytes());
            body.extend(number.to_ne_bytes());
            body.extend(value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        let mut out = (body.len() as u32 + 16).to_ne_bytes().to_vec();
        out.extend(kind.to_ne_bytes());
        out.resize(HEADER, 0);
        out.extend(body);
        out
    }

    fn told(stations: &mut Stations, octets: &[u8]) -> bool {
        messages(octets).map(|message| note(stations, &message)).fold(false, |any, one| any | one)
    }

    #[test]
    fn neighbours_come_change_and_go() {
        let mut stations = Stations::new();
        let (four, mac) = ([192, 0, 2, 1], [2, 0, 0, 0, 0, 9]);
        let six = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        let (new, gone) = (libc::RTM_NEWNEIGH, libc::RTM_DELNEIGH);
        // Two in one datagram: one that is being looked for is nobody yet.
        let both = [word(new, 0x04, &four, &mac), word(new, 0x01, &six, &mac)].concat();
        assert!(told(&mut stations, &both));
        let station = Station { interface: 7, octets: [2, 0, 0, 0, 0, 9, 0, 0] };
        assert_eq!(stations, Stations::from([(IpAddr::from(four), station)]));
        assert!(!told(&mut stations, &word(new, 0x02, &four, &mac)), "no news");
        assert!(told(&mut stations, &word(new, 0x02, &six, &mac)));
        assert_eq!(stations.get(&IpAddr::from(six)), Some(&station));
        assert!(told(&mut stations, &word(gone, 0x04, &four, &mac)));
        assert!(told(&mut stations, &word(new, 0x20, &six, &[])));
        assert!(stations.is_empty());
        // Loopback and multicast have none, and whatever is cut says nothing.
        assert!(!told(&mut stations, &word(new, 0x40, &four, &[0; 6])));
        let whole = word(new, 0x04, &four, &mac);
        for end in 0..whole.len() {
            told(&mut stations, &whole[..end]);
        }
        for end in 0..whole.len() - HEADER {
            neighbour(&whole[HEADER..HEADER + end]);
        }
        assert!(stations.is_empty());
    }

    #[tokio::test]
    async fn the_kernels_own_table_can_be_read() {
        // However many there are: reading ends, and what is read is on link.
        let all = Neighbours::open().unwrap();
        assert!(all.stations().keys().all(|address| !address.is_loopback()));
    }
}
