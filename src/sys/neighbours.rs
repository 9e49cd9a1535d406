//! The kernel's neighbour table (rtnetlink(7), RTM_GETNEIGH): which address on link has which link-layer address. Read once and then followed.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;

use tokio::io::unix::AsyncFd;

use super::netlink::Socket;
use super::rtnetlink::{self, Message, messages, number};
use crate::core::client::{Station, Stations};

/// Most addresses that are remembered; those beyond are as if not on link.
const MOST: usize = 65_536;
/// Of notifications that wait for us. When it overflows, the table is read anew.
const BUFFER: i32 = 1 << 20;

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
        let mut all = Self { socket: socket.watched()?, stations: HashMap::new(), room: vec![0; rtnetlink::PART] };
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
        let (socket, stations) = (self.socket.get_ref(), &mut self.stations);
        rtnetlink::dump(socket, &mut self.room, libc::RTM_GETNEIGH, &[0; NDMSG], |message| {
            note(stations, message);
        })
    }
}

/// Takes in one word on one neighbour. Whether that changes anything.
fn note(stations: &mut Stations, message: &Message<'_>) -> bool {
    let Some((address, station)) = neighbour(message) else { return false };
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
fn neighbour(message: &Message<'_>) -> Option<(IpAddr, Option<Station>)> {
    let interface = u32::from_ne_bytes(number(message.body, 4)?);
    let state = u16::from_ne_bytes(number(message.body, 8)?);
    let (mut address, mut link) = (None, None);
    for (kind, value) in message.attributes(NDMSG) {
        match kind {
            NDA_DST => address = rtnetlink::address(value),
            NDA_LLADDR => {
                let mut octets = [0; 8];
                octets.iter_mut().zip(value).for_each(|(octet, value)| *octet = *value);
                link = Some(octets).filter(|octets| value.len() <= 8 && *octets != [0; 8]);
            }
            _ => {}
        }
    }
    let known = state & KNOWN != 0;
    Some((address?, link.filter(|_| known).map(|octets| Station { interface, octets })))
}

#[cfg(test)]
mod tests {
    use super::rtnetlink::HEADER;
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
            neighbour(&Message { kind: new, body: &whole[HEADER..HEADER + end] });
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
