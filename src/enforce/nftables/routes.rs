//! Where this host would send a packet (rtnetlink(7)): to itself, or through which interface.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;

use super::dialogue::Dialogue;
use super::wire;

/// The kernel's `RTM_GETROUTE`: a request for a route.
const GET: u16 = 26;
/// The kernel's `RTM_NEWROUTE`: a route, as the kernel tells it.
const NEW: u16 = 24;
/// The kernel's `RTA_DST`: the attribute of the destination.
const DESTINATION: u16 = 1;
/// The kernel's `RTA_OIF`: the attribute of the interface that packets leave by.
const INTERFACE: u16 = 4;
/// The kernel's `RTN_LOCAL`: the route leads to this host itself.
const LOCAL: u8 = 2;
/// Attributes begin behind `struct rtmsg`.
const MESSAGE: usize = 12;
/// Answers kept; asked again beyond.
const KEPT: usize = 65_536;

/// The way to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// It is one of this host's own.
    pub local: bool,
    /// The interface's number.
    pub interface: Option<u32>,
}

/// Asks for ways and remembers them. For one round of questions: what changes meanwhile isn't seen.
#[derive(Debug)]
pub struct Ways {
    kernel: Dialogue,
    known: HashMap<IpAddr, Option<Way>>,
}

impl Ways {
    /// Of the calling thread's network namespace.
    ///
    /// # Errors
    /// The system's.
    pub fn open() -> io::Result<Self> {
        Ok(Self { kernel: Dialogue::open(libc::NETLINK_ROUTE)?, known: HashMap::new() })
    }

    /// The way to an address; `None`: there is none.
    pub fn to(&mut self, address: IpAddr) -> Option<Way> {
        if let Some(known) = self.known.get(&address) {
            return *known;
        }
        let found = self.ask(address);
        if self.known.len() < KEPT {
            self.known.insert(address, found);
        }
        found
    }

    fn ask(&mut self, address: IpAddr) -> Option<Way> {
        let (family, length, octets) = match address {
            IpAddr::V4(address) => (libc::AF_INET, 32, address.octets().to_vec()),
            IpAddr::V6(address) => (libc::AF_INET6, 128, address.octets().to_vec()),
        };
        let mut body = vec![0u8; MESSAGE];
        body[0] = u8::try_from(family).unwrap_or(0);
        body[1] = length;
        body.extend_from_slice(&u16::try_from(octets.len() + 4).unwrap_or(0).to_ne_bytes());
        body.extend_from_slice(&DESTINATION.to_ne_bytes());
        body.extend_from_slice(&octets);
        let mut way = None;
        let asked = self.kernel.ask(GET, 0, &body, |kind, payload| {
            if kind == NEW {
                let interface = payload
                    .get(MESSAGE..)
                    .and_then(|attributes| wire::find(attributes, INTERFACE))
                    .and_then(|value| wire::number(value, 0))
                    .map(u32::from_ne_bytes);
                way = Some(Way { local: payload.get(7) == Some(&LOCAL), interface });
            }
        });
        // Unreachable, prohibited and the like.
        asked.ok().and(way)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_this_host_itself() {
        let mut ways = Ways::open().unwrap();
        let way = ways.to(IpAddr::from([127, 0, 0, 1])).unwrap();
        assert!(way.local && way.interface == crate::sys::netlink::interface_index("lo"), "{way:?}");
        assert_eq!(crate::sys::netlink::interface_index("no such one"), None);
    }
}
