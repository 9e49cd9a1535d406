//! The kernel's ipsets over netlink (linux/netfilter/ipset/ip_set.h): own code, since every lease passes here.
//!
//! What matters of them: adding an element that exists sets its time anew, the same time too, when it isn't forbidden (`-exist`); an element that has
//! ended makes room as soon as room is needed; times are whole seconds, never shorter than asked for, 2,147,483 at most.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::enforce::nftables::wire::{self, F_ACK, F_CREATE, F_DUMP, F_EXCL, F_REQUEST, Message, Writer};
use crate::sys::netlink::Socket;

/// The kernel's `NFNL_SUBSYS_IPSET`: the part of netfilter that has sets.
const SUBSYS: u8 = 6;
/// The protocol's version: known to every kernel since 2011.
const PROTOCOL: u8 = 6;

const CREATE: u8 = 2;
const DESTROY: u8 = 3;
const SWAP: u8 = 6;
const LIST: u8 = 7;
const ADD: u8 = 9;
const DELETE: u8 = 10;
const TEST: u8 = 11;

const A_PROTOCOL: u16 = 1;
const A_SET: u16 = 2;
const A_TYPE: u16 = 3;
const A_OTHER_SET: u16 = 3;
const A_REVISION: u16 = 4;
const A_FAMILY: u16 = 5;
const A_FLAGS: u16 = 6;
const A_DATA: u16 = 7;
const A_ELEMENTS: u16 = 8;
const A_LINE: u16 = 9;

const D_IP: u16 = 1;
const D_PORT: u16 = 4;
const D_PORT_TO: u16 = 5;
const D_TIMEOUT: u16 = 6;
const D_PROTOCOL: u16 = 7;
const D_HASH_SIZE: u16 = 18;
const D_MOST: u16 = 19;
const D_IP_2: u16 = 20;
const IPV4: u16 = 1;
const IPV6: u16 = 2;
/// `NLA_F_NET_BYTEORDER`: without it a number is refused.
const NETWORK_ORDER: u16 = 0x4000;
/// The kernel's `IPSET_FLAG_LIST_HEADER`: a list of sets without their elements.
const HEADER_ONLY: u32 = 4;

/// The kernel's own error numbers.
const UNKNOWN_TYPE: i32 = 4098;
const BUSY: i32 = 4100;
const OTHER_TYPE: i32 = 4102;
const NOT_THERE: i32 = 4103;
const FULL: i32 = 4352;

/// The longest time of an element.
pub const LONGEST: Duration = Duration::from_secs(2_147_483);
/// The time of an element that somebody adds without one.
const WITHOUT_TIME: u32 = 1;
/// Elements of one request: it stays below the 65,535 octets of an attribute.
const AT_ONCE: usize = 512;
const BUFFER: i32 = 2 << 20;
/// One part of a list; the kernel makes them at most 32 KiB.
const PART: usize = 64 << 10;
const PATIENCE_MS: i32 = 10_000;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;

/// What sets are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Addresses: the kernel's `hash:ip`.
    Address,
    /// `hash:net,net`, of single addresses: the kernel has no `hash:ip,ip`.
    Pair,
    /// Address, protocol and port: the kernel's `hash:ip,port`.
    Port,
    /// `hash:ip,port,ip`: client, protocol and port, address.
    PairPort,
    /// `bitmap:port`, all of them.
    Ports,
}

impl Kind {
    /// As `ipset` names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Address => "hash:ip",
            Self::Pair => "hash:net,net",
            Self::Port => "hash:ip,port",
            Self::PairPort => "hash:ip,port,ip",
            Self::Ports => "bitmap:port",
        }
    }

    /// The oldest that every `ipset` program knows: newer ones only have more options.
    fn revision(self) -> u8 {
        match self {
            Self::Address | Self::Pair | Self::Ports => 0,
            Self::Port | Self::PairPort => 1,
        }
    }
}

/// One element: what is left out isn't part of its set's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element {
    /// The first address: of a pair the client's.
    pub first: IpAddr,
    /// Protocol and port.
    pub port: Option<(u8, u16)>,
    /// The second address.
    pub second: Option<IpAddr>,
}

/// An element, and the seconds that are left to it; `None`: it lasts for ever.
pub type Left = (Element, Option<u32>);

/// A set as it is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// What it is made of.
    pub kind: Kind,
    /// The family; of no account to [`Kind::Ports`].
    pub ipv4: bool,
    /// The most elements.
    pub most: u32,
}

/// Why the kernel refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// The set of this name holds as many elements as it was made for.
    #[error("ipset {0} is full")]
    Full(String),
    /// There is no such set.
    #[error("there is no ipset {0}")]
    Gone(String),
    /// Rules use it.
    #[error("ipset {0} is in use")]
    Busy(String),
    /// There is one of another type by this name.
    #[error("ipset {0} has another type")]
    OtherType(String),
    /// The kernel has no such type.
    #[error("this kernel has no ipset type {0}")]
    UnknownType(&'static str),
    /// The process lacks CAP_NET_ADMIN.
    #[error("ipset needs CAP_NET_ADMIN")]
    Permission,
    /// The kernel refused for another reason.
    #[error("ipset: {doing}: {reason}")]
    Other {
        /// What was tried.
        doing: &'static str,
        /// The kernel's word.
        reason: String,
    },
}

/// A socket to the kernel's sets of one network namespace.
#[derive(Debug)]
pub struct Sets {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
    /// The reply to the last request was read to its end.
    ended: bool,
}

impl Sets {
    /// Opens one in the calling thread's network namespace.
    ///
    /// # Errors
    /// The system's.
    pub fn open() -> Result<Self, SetError> {
        let socket = Socket::netfilter(BUFFER).map_err(|error| other("opening a socket", &error))?;
        Ok(Self { socket, sequence: 1, buffer: vec![0; PART], ended: true })
    }

    /// Makes a set, empty.
    ///
    /// # Errors
    /// [`SetError::UnknownType`] and others; there may be one of this name.
    pub fn create(&mut self, name: &str, shape: Shape) -> Result<(), SetError> {
        let asked = self.ask("making a set", CREATE, F_CREATE | F_EXCL, name, |writer| {
            writer.put_text(A_TYPE, shape.kind.name());
            writer.put(A_REVISION, &[shape.kind.revision()]);
            writer.put(A_FAMILY, &[if shape.ipv4 { NFPROTO_IPV4 } else { NFPROTO_IPV6 }]);
            let data = writer.nest(A_DATA);
            if shape.kind == Kind::Ports {
                writer.put(D_PORT | NETWORK_ORDER, &0u16.to_be_bytes());
                writer.put(D_PORT_TO | NETWORK_ORDER, &u16::MAX.to_be_bytes());
            } else {
                writer.put_u32(D_HASH_SIZE | NETWORK_ORDER, (shape.most / 4).clamp(64, 65_536).next_power_of_two());
                writer.put_u32(D_MOST | NETWORK_ORDER, shape.most);
            }
            writer.put_u32(D_TIMEOUT | NETWORK_ORDER, WITHOUT_TIME);
            writer.unnest(data);
        });
        match asked {
            Err(Failure { errno: UNKNOWN_TYPE, .. }) => Err(SetError::UnknownType(shape.kind.name())),
            other => other.map_err(|failure| failure.of(name)),
        }
    }

    /// Removes a set; its absence is no error.
    ///
    /// # Errors
    /// [`SetError::Busy`] and others.
    pub fn destroy(&mut self, name: &str) -> Result<(), SetError> {
        match self.ask("removing a set", DESTROY, 0, name, |_| ()) {
            Err(Failure { errno: libc::ENOENT, .. }) => Ok(()),
            other => other.map_err(|failure| failure.of(name)),
        }
    }

    /// Has two sets of one type change places, for every rule at once.
    ///
    /// # Errors
    /// [`SetError::OtherType`] and others.
    pub fn swap(&mut self, name: &str, with: &str) -> Result<(), SetError> {
        let swapped = self.ask("changing sets", SWAP, 0, name, |writer| writer.put_text(A_OTHER_SET, with));
        swapped.map_err(|failure| failure.of(name))
    }

    /// How a set was made; `None`: there is none, or it is nothing that we would make.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn shape(&mut self, name: &str) -> Result<Option<Shape>, SetError> {
        let mut found = None;
        let listed = self.dump(name, |writer| writer.put_u32(A_FLAGS | NETWORK_ORDER, HEADER_ONLY)).and_then(|()| {
            while self.part(|message| found = found.or_else(|| read_shape(message.attributes())))? {}
            Ok(())
        });
        match listed {
            Ok(()) => Ok(found),
            Err(Failure { errno: libc::ENOENT, .. }) => Ok(None),
            Err(failure) => Err(failure.of(name)),
        }
    }

    /// Whether there is a set of this name.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn is_there(&mut self, name: &str) -> Result<bool, SetError> {
        let listed = self.dump(name, |writer| writer.put_u32(A_FLAGS | NETWORK_ORDER, HEADER_ONLY)).and_then(|()| {
            while self.part(|_| ())? {}
            Ok(())
        });
        match listed {
            Ok(()) => Ok(true),
            Err(Failure { errno: libc::ENOENT, .. }) => Ok(false),
            Err(failure) => Err(failure.of(name)),
        }
    }

    /// Adds elements, or sets the times of those that are there.
    ///
    /// # Errors
    /// [`SetError::Full`]: those before the first that didn't fit are there; [`SetError::Gone`] and others.
    pub fn add(&mut self, name: &str, elements: &[(Element, u32)]) -> Result<(), SetError> {
        for some in elements.chunks(AT_ONCE) {
            let added = self.ask("adding elements", ADD, 0, name, |writer| {
                write_elements(writer, some.iter().map(|(element, seconds)| (element, Some(*seconds))));
            });
            added.map_err(|failure| failure.of(name))?;
        }
        Ok(())
    }

    /// Adds every port to a set of [`Kind::Ports`].
    ///
    /// # Errors
    /// The kernel's.
    pub fn add_ports(&mut self, name: &str, seconds: u32) -> Result<(), SetError> {
        let added = self.ask("adding elements", ADD, 0, name, |writer| {
            let data = writer.nest(A_DATA);
            writer.put(D_PORT | NETWORK_ORDER, &0u16.to_be_bytes());
            writer.put(D_PORT_TO | NETWORK_ORDER, &u16::MAX.to_be_bytes());
            writer.put_u32(D_TIMEOUT | NETWORK_ORDER, seconds);
            writer.unnest(data);
        });
        added.map_err(|failure| failure.of(name))
    }

    /// Removes elements; those that aren't there are passed over.
    ///
    /// # Errors
    /// [`SetError::Gone`] and others.
    pub fn remove(&mut self, name: &str, elements: &[Element]) -> Result<(), SetError> {
        for some in elements.chunks(AT_ONCE) {
            let removed = self.ask("removing elements", DELETE, 0, name, |writer| {
                write_elements(writer, some.iter().map(|element| (element, None)));
            });
            removed.map_err(|failure| failure.of(name))?;
        }
        Ok(())
    }

    /// Whether an element is there and has not ended.
    ///
    /// # Errors
    /// [`SetError::Gone`] and others.
    pub fn has(&mut self, name: &str, element: &Element) -> Result<bool, SetError> {
        let tested = self.ask("looking for an element", TEST, 0, name, |writer| {
            let data = writer.nest(A_DATA);
            write_element(writer, element, None);
            writer.unnest(data);
        });
        match tested {
            Ok(()) => Ok(true),
            Err(Failure { errno: NOT_THERE, .. }) => Ok(false),
            Err(failure) => Err(failure.of(name)),
        }
    }

    /// Begins to list a set. Nothing else may be asked of this socket until [`Self::listed`] has said `None`.
    ///
    /// # Errors
    /// The socket's.
    pub fn list(&mut self, name: &str) -> Result<(), SetError> {
        self.dump(name, |_| ()).map_err(|failure| failure.of(name))
    }

    /// The next elements of the list, with the seconds that are left to each; `None`: it has ended.
    ///
    /// # Errors
    /// [`SetError::Gone`] and others.
    pub fn listed(&mut self, name: &str) -> Result<Option<Vec<Left>>, SetError> {
        let mut found = Vec::new();
        let more = self.part(|message| {
            let list = wire::find(message.attributes(), A_ELEMENTS).unwrap_or_default();
            found.extend(wire::attributes(list).filter_map(|(_, data)| read_element(data)));
        });
        more.map(|more| more.then_some(found)).map_err(|failure| failure.of(name))
    }

    fn dump(&mut self, name: &str, build: impl FnOnce(&mut Writer)) -> Result<(), Failure> {
        self.send("listing a set", LIST, F_DUMP, name, build)
    }

    /// Reads one part of a reply; `false`: it was the last.
    fn part(&mut self, mut each: impl FnMut(Message<'_>)) -> Result<bool, Failure> {
        let doing = "listing a set";
        while !self.ended {
            let failed = |error: std::io::Error| Failure::socket(doing, &error);
            let ready = self.socket.wait(PATIENCE_MS).map_err(failed)?;
            let Some(part) = self.socket.receive(&mut self.buffer).map_err(failed)? else {
                if ready {
                    continue;
                }
                return Err(Failure { doing, errno: 0, reason: "the kernel did not answer".to_owned() });
            };
            let mut any = false;
            for message in wire::messages(part).filter(|message| message.sequence == self.sequence) {
                match message.verdict() {
                    Some(Ok(())) => self.ended = true,
                    Some(Err(refusal)) => {
                        self.ended = true;
                        return Err(Failure { doing, errno: refusal.errno, reason: refusal.to_string() });
                    }
                    None => {
                        any = true;
                        each(message);
                    }
                }
            }
            if any {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn send(
        &mut self,
        doing: &'static str,
        command: u8,
        flags: u16,
        name: &str,
        build: impl FnOnce(&mut Writer),
    ) -> Result<(), Failure> {
        // Replies to what was given up.
        while let Ok(Some(_)) = self.socket.receive(&mut self.buffer) {}
        self.sequence = self.sequence.wrapping_add(1);
        self.ended = false;
        let mut writer = Writer::default();
        let message = writer.begin(wire::kind(SUBSYS, command), F_REQUEST | flags, self.sequence, NFPROTO_IPV4, 0);
        writer.put(A_PROTOCOL, &[PROTOCOL]);
        writer.put_text(A_SET, name);
        build(&mut writer);
        writer.end(message);
        self.socket.send(writer.octets()).map_err(|error| Failure::socket(doing, &error))
    }

    fn ask(
        &mut self,
        doing: &'static str,
        command: u8,
        flags: u16,
        name: &str,
        build: impl FnOnce(&mut Writer),
    ) -> Result<(), Failure> {
        self.send(doing, command, flags | F_ACK, name, build)?;
        // The kernel has answered within `send`.
        loop {
            let received = self.socket.receive(&mut self.buffer).map_err(|error| Failure::socket(doing, &error))?;
            let Some(datagram) = received else {
                return Err(Failure { doing, errno: 0, reason: "the kernel did not answer".to_owned() });
            };
            let mine = |message: &Message<'_>| message.sequence == self.sequence;
            match wire::messages(datagram).filter(mine).find_map(|message| message.verdict()) {
                Some(Ok(())) => return Ok(()),
                Some(Err(refusal)) => {
                    return Err(Failure { doing, errno: refusal.errno, reason: refusal.to_string() });
                }
                None => {}
            }
        }
    }
}

/// A refusal before it is known what it is about.
#[derive(Debug)]
struct Failure {
    doing: &'static str,
    errno: i32,
    reason: String,
}

impl Failure {
    fn socket(doing: &'static str, error: &std::io::Error) -> Self {
        Self { doing, errno: error.raw_os_error().unwrap_or(0), reason: error.to_string() }
    }

    fn of(self, name: &str) -> SetError {
        match self.errno {
            libc::ENOENT => SetError::Gone(name.to_owned()),
            libc::EPERM | libc::EACCES => SetError::Permission,
            BUSY => SetError::Busy(name.to_owned()),
            OTHER_TYPE => SetError::OtherType(name.to_owned()),
            FULL => SetError::Full(name.to_owned()),
            // Of ipset, in no table of the system's.
            errno @ 4096.. => SetError::Other { doing: self.doing, reason: format!("{name}: error {errno} of ipset") },
            _ => SetError::Other { doing: self.doing, reason: format!("{name}: {}", self.reason) },
        }
    }
}

fn other(doing: &'static str, error: &std::io::Error) -> SetError {
    SetError::Other { doing, reason: error.to_string() }
}

fn write_elements<'a>(writer: &mut Writer, elements: impl Iterator<Item = (&'a Element, Option<u32>)>) {
    // The kernel demands it where there are several; without one of each element's own an error is told as any other.
    writer.put_u32(A_LINE | NETWORK_ORDER, 0);
    let list = writer.nest(A_ELEMENTS);
    for (element, seconds) in elements {
        let data = writer.nest(A_DATA);
        write_element(writer, element, seconds);
        writer.unnest(data);
    }
    writer.unnest(list);
}

fn write_element(writer: &mut Writer, element: &Element, seconds: Option<u32>) {
    let mut address = |attribute, address: IpAddr| {
        let nest = writer.nest(attribute);
        match address {
            IpAddr::V4(address) => writer.put(IPV4 | NETWORK_ORDER, &address.octets()),
            IpAddr::V6(address) => writer.put(IPV6 | NETWORK_ORDER, &address.octets()),
        }
        writer.unnest(nest);
    };
    address(D_IP, element.first);
    if let Some(second) = element.second {
        address(D_IP_2, second);
    }
    if let Some((protocol, port)) = element.port {
        writer.put(D_PORT | NETWORK_ORDER, &port.to_be_bytes());
        writer.put(D_PROTOCOL, &[protocol]);
    }
    if let Some(seconds) = seconds {
        writer.put_u32(D_TIMEOUT | NETWORK_ORDER, seconds);
    }
}

fn read_element(data: &[u8]) -> Option<Left> {
    let address = |attribute| {
        let nest = wire::find(data, attribute)?;
        let v4 = || wire::number::<4>(wire::find(nest, IPV4)?, 0).map(|octets| IpAddr::V4(Ipv4Addr::from(octets)));
        let v6 = || wire::number::<16>(wire::find(nest, IPV6)?, 0).map(|octets| IpAddr::V6(Ipv6Addr::from(octets)));
        v4().or_else(v6)
    };
    let port = wire::find(data, D_PORT).and_then(|value| wire::number(value, 0)).map(u16::from_be_bytes);
    let protocol = wire::find(data, D_PROTOCOL).and_then(|value| value.first().copied());
    let seconds = wire::find(data, D_TIMEOUT).and_then(wire::u32_of);
    // What says zero lasts for ever.
    let seconds = seconds.filter(|seconds| *seconds > 0);
    Some((Element { first: address(D_IP)?, port: protocol.zip(port), second: address(D_IP_2) }, seconds))
}

fn read_shape(attributes: &[u8]) -> Option<Shape> {
    let kind = wire::text(wire::find(attributes, A_TYPE)?);
    let kinds = [Kind::Address, Kind::Pair, Kind::Port, Kind::PairPort, Kind::Ports];
    let kind = kinds.into_iter().find(|known| known.name() == kind)?;
    let ipv4 = wire::find(attributes, A_FAMILY)?.first().copied() != Some(NFPROTO_IPV6);
    let data = wire::find(attributes, A_DATA)?;
    // Without this one its elements have no times.
    wire::find(data, D_TIMEOUT)?;
    let most = wire::find(data, D_MOST).and_then(wire::u32_of).unwrap_or(u32::MAX);
    Some(Shape { kind, ipv4, most })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn elements_are_read_as_they_were_written() {
        let all = [
            Element { first: IpAddr::from([192, 0, 2, 1]), port: None, second: None },
            Element { first: "2001:db8::1".parse().unwrap(), port: Some((6, 443)), second: None },
            Element { first: IpAddr::from([10, 0, 0, 7]), port: Some((17, 53)), second: Some([192, 0, 2, 1].into()) },
        ];
        let mut writer = Writer::default();
        write_elements(&mut writer, all.iter().map(|element| (element, Some(60))));
        let list = wire::find(writer.octets(), A_ELEMENTS).unwrap();
        let read: Vec<_> = wire::attributes(list).filter_map(|(_, data)| read_element(data)).collect();
        assert_eq!(read, all.map(|element| (element, Some(60))));
    }

    #[test]
    fn the_most_elements_at_once_fit_an_attribute() {
        let element =
            Element { first: Ipv6Addr::LOCALHOST.into(), port: Some((6, 1)), second: Some(Ipv6Addr::LOCALHOST.into()) };
        let mut writer = Writer::default();
        write_elements(&mut writer, std::iter::repeat_n((&element, Some(1)), AT_ONCE));
        assert!(writer.octets().len() < usize::from(u16::MAX), "{}", writer.octets().len());
    }

    proptest! {
        #[test]
        fn any_octets_are_read_without_panic(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
            std::hint::black_box((read_element(&octets), read_shape(&octets)));
        }
    }
}
