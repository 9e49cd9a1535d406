//! When routes come into a node's kernel and leave it (RTM_NEWROUTE, RTM_DELROUTE of rtnetlink(7)).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::error::Error;
use crate::node::Node;
use crate::sys;

/// One change of a routing table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// When this process heard of it; never before it was so.
    pub at: Instant,
    /// Added or replaced; false: removed.
    pub added: bool,
    /// The address that the route leads to.
    pub destination: IpAddr,
    /// Its prefix length.
    pub length: u8,
    /// RTN_UNICAST; not a blackhole, local or broadcast route.
    pub unicast: bool,
}

/// Listens to a node's routing tables; ends when dropped.
#[derive(Debug)]
pub struct Monitor {
    seen: Arc<Mutex<Vec<Change>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Monitor {
    /// Begins to listen; what happens after this returns is seen.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn start(node: &Node) -> Result<Self, Error> {
        let socket = node.in_namespace(sys::route_events)?.map_err(Error::system("rtnetlink"))?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (seen, stop) = (Arc::clone(&seen), Arc::clone(&stop));
            std::thread::spawn(move || listen(&socket, &seen, &stop))
        };
        Ok(Self { seen, stop, thread: Some(thread) })
    }

    /// Everything so far, in order.
    #[must_use]
    pub fn changes(&self) -> Vec<Change> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// When the host route of an address was last added (`true`) or removed.
    #[must_use]
    pub fn last(&self, address: IpAddr, added: bool) -> Option<Instant> {
        let host = if address.is_ipv4() { 32 } else { 128 };
        let changes = self.changes();
        let mut matching = changes.iter().rev().filter(|change| change.destination == address && change.length == host);
        matching.find(|change| change.added == added).map(|change| change.at)
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            eprintln!("lab: the route monitor panicked");
        }
    }
}

fn listen(socket: &OwnedFd, seen: &Mutex<Vec<Change>>, stop: &AtomicBool) {
    let mut room = vec![0; 65536];
    while !stop.load(Ordering::Relaxed) {
        match sys::receive(socket, &mut room) {
            Ok(length) => {
                let at = Instant::now();
                let changes = parse(room.get(..length).unwrap_or_default(), at);
                seen.lock().unwrap_or_else(PoisonError::into_inner).extend(changes);
            }
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => {}
            Err(error) => eprintln!("lab: route monitor: {error}; changes were missed"),
        }
    }
}

/// nlmsghdr (16 octets), rtmsg (12), then attributes of two 16-bit words and content, each padded to 4.
fn parse(mut octets: &[u8], at: Instant) -> Vec<Change> {
    let mut changes = Vec::new();
    while let Some(length) = word32(octets, 0).and_then(|length| usize::try_from(length).ok()) {
        let Some(message) = octets.get(..length).filter(|message| message.len() >= 16) else { break };
        if let Some(change) = parse_one(message, at) {
            changes.push(change);
        }
        octets = octets.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    changes
}

fn parse_one(message: &[u8], at: Instant) -> Option<Change> {
    let kind = word16(message, 4)?;
    if kind != libc::RTM_NEWROUTE && kind != libc::RTM_DELROUTE {
        return None;
    }
    let (family, length, route_type) = (*message.get(16)?, *message.get(17)?, *message.get(23)?);
    let mut destination = match i32::from(family) {
        libc::AF_INET => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        libc::AF_INET6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let mut rest = message.get(28..)?;
    while let (Some(size), Some(attribute)) = (word16(rest, 0), word16(rest, 2)) {
        let size = usize::from(size);
        let content = rest.get(4..size)?;
        if attribute == libc::RTA_DST {
            destination = match destination {
                IpAddr::V4(_) => IpAddr::from(<[u8; 4]>::try_from(content).ok()?),
                IpAddr::V6(_) => IpAddr::from(<[u8; 16]>::try_from(content).ok()?),
            };
        }
        rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(Change {
        at,
        added: kind == libc::RTM_NEWROUTE,
        destination,
        length,
        unicast: route_type == libc::RTN_UNICAST,
    })
}

fn word16(octets: &[u8], at: usize) -> Option<u16> {
    octets.get(at..)?.first_chunk().map(|two| u16::from_ne_bytes(*two))
}

fn word32(octets: &[u8], at: usize) -> Option<u32> {
    octets.get(at..)?.first_chunk().map(|four| u32::from_ne_bytes(*four))
}
