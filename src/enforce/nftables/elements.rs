//! Elements of our sets as netlink requests: pure encoding and decoding. The semantics that matter here:
//!
//! - An element without a timeout would never end, so a timeout is a [`NonZeroU64`] of milliseconds.
//! - Adding an element that exists moves its end since Linux 6.12, if the timeout is another (counted in jiffies) or an
//!   expiration is given. With the same timeout and no expiration it says "done" and changes nothing. Names that are
//!   asked again have the same TTL, so the expiration is always given.
//! - Older kernels say "done" and change nothing whatever is given. There, add + delete + add in one transaction does it,
//!   whether the element existed or not, and no packet sees it absent. [`super::probe`] finds out which way works.
//! - Deleting an absent element fails the whole transaction. Since Linux 6.3 "destroy" doesn't; before, add + delete.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU64;
use std::time::Duration;

use super::wire::{self, ATTRIBUTE_LIMIT, F_ACK, F_CREATE, F_DUMP, F_REQUEST, NFPROTO_INET, SUBSYS_NFTABLES, Writer};
use super::{TABLE, applications};

const NEW_ELEMENTS: u8 = 12;
const GET_ELEMENTS: u8 = 13;
const DELETE_ELEMENTS: u8 = 14;
const DESTROY_ELEMENTS: u8 = 30;

const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const LIST_ITEM: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_TIMEOUT: u16 = 4;
const ELEMENT_EXPIRATION: u16 = 5;
const DATA_VALUE: u16 = 1;

/// The longest timeout that is ever written: what is meant to last longer is written anew before.
const LONGEST: u64 = 400 * 86_400_000;

/// The shortest: kernels before 6.12 round down to jiffies, of up to 10 ms, and none of them would mean for ever.
const SHORTEST: u64 = 20;

/// Time to live of an element in milliseconds; never zero, which would mean for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timeout(NonZeroU64);

impl Timeout {
    /// At least 20 milliseconds, at most 400 days.
    #[must_use]
    pub fn of(span: Duration) -> Self {
        let millis = u64::try_from(span.as_millis()).unwrap_or(LONGEST).clamp(SHORTEST, LONGEST);
        Self(NonZeroU64::new(millis).unwrap_or(NonZeroU64::MIN))
    }

    /// The span in milliseconds, as the kernel takes it.
    #[must_use]
    pub fn millis(self) -> u64 {
        self.0.get()
    }
}

/// A set whose elements the driver writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Set {
    /// Leased IPv4 addresses.
    Lease4,
    /// Leased IPv6 addresses.
    Lease6,
    /// IPv4 client and leased address.
    ClientLease4,
    /// IPv6 client and leased address.
    ClientLease6,
    /// IPv4 address and port.
    PortLease4,
    /// IPv6 address and port.
    PortLease6,
    /// IPv4 client, address and port.
    ClientPortLease4,
    /// IPv6 client, address and port.
    ClientPortLease6,
    /// IPv4 addresses whose live flows are being cut.
    Cut4,
    /// IPv6 addresses whose live flows are being cut.
    Cut6,
    /// Addresses leased to one application of this host, by its number.
    Application(u16, OfApplication),
}

/// Which of an application's sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OfApplication {
    /// IPv4 addresses that are leased to it.
    Lease4,
    /// IPv6 addresses that are leased to it.
    Lease6,
    /// IPv4 address, protocol and port.
    Port4,
    /// IPv6 address, protocol and port.
    Port6,
}

impl OfApplication {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Lease4, Self::Lease6, Self::Port4, Self::Port6];

    /// Whether it holds IPv6 addresses.
    #[must_use]
    pub fn is_ipv6(self) -> bool {
        matches!(self, Self::Lease6 | Self::Port6)
    }

    /// Whether a port belongs to its keys.
    #[must_use]
    pub fn has_port(self) -> bool {
        matches!(self, Self::Port4 | Self::Port6)
    }
}

impl Set {
    /// All but those of applications.
    pub const ALL: [Self; 10] = [
        Self::Lease4,
        Self::Lease6,
        Self::ClientLease4,
        Self::ClientLease6,
        Self::PortLease4,
        Self::PortLease6,
        Self::ClientPortLease4,
        Self::ClientPortLease6,
        Self::Cut4,
        Self::Cut6,
    ];

    /// Whether it is there for leases of single clients only.
    #[must_use]
    pub fn is_of_clients(self) -> bool {
        matches!(self, Self::ClientLease4 | Self::ClientLease6 | Self::ClientPortLease4 | Self::ClientPortLease6)
    }

    /// Whether it is there for leases of single ports only.
    #[must_use]
    pub fn is_of_ports(self) -> bool {
        matches!(self, Self::PortLease4 | Self::PortLease6 | Self::ClientPortLease4 | Self::ClientPortLease6)
    }

    /// Whether it holds leases, so that its size follows `lease.capacity`.
    #[must_use]
    pub fn is_of_leases(self) -> bool {
        !matches!(self, Self::Cut4 | Self::Cut6)
    }

    /// Its name in the kernel.
    #[must_use]
    pub fn name(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Lease4 => "lease4",
            Self::Lease6 => "lease6",
            Self::ClientLease4 => "client_lease4",
            Self::ClientLease6 => "client_lease6",
            Self::PortLease4 => "port_lease4",
            Self::PortLease6 => "port_lease6",
            Self::ClientPortLease4 => "client_port_lease4",
            Self::ClientPortLease6 => "client_port_lease6",
            Self::Cut4 => "cut4",
            Self::Cut6 => "cut6",
            Self::Application(number, which) => return Cow::Owned(applications::set_name(number, which)),
        })
    }
}

/// An element's key. It names its set, but for the question whether an address is leased or being cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// An address that is leased to everybody.
    Address(IpAddr),
    /// IPv4 client and destination.
    Pair4(Ipv4Addr, Ipv4Addr),
    /// IPv6 client and destination.
    Pair6(Ipv6Addr, Ipv6Addr),
    /// An application, by its number, and a destination.
    Application(u16, IpAddr),
    /// The same with the number of a protocol, and a port.
    ApplicationPort(u16, IpAddr, u8, u16),
    /// Destination, protocol and port.
    Port(IpAddr, u8, u16),
    /// IPv4 client, destination, protocol and port.
    ClientPort4(Ipv4Addr, Ipv4Addr, u8, u16),
    /// IPv6 client, destination, protocol and port.
    ClientPort6(Ipv6Addr, Ipv6Addr, u8, u16),
}

impl Key {
    /// The pair of a client and a destination; `None` when their families differ (no packet can match).
    #[must_use]
    pub fn pair(client: IpAddr, address: IpAddr) -> Option<Self> {
        match (client.to_canonical(), address) {
            (IpAddr::V4(client), IpAddr::V4(address)) => Some(Self::Pair4(client, address)),
            (IpAddr::V6(client), IpAddr::V6(address)) => Some(Self::Pair6(client, address)),
            _ => None,
        }
    }

    /// A client, a destination and a port; likewise.
    #[must_use]
    pub fn client_port(client: IpAddr, address: IpAddr, protocol: u8, port: u16) -> Option<Self> {
        match Self::pair(client, address)? {
            Self::Pair4(client, address) => Some(Self::ClientPort4(client, address, protocol, port)),
            Self::Pair6(client, address) => Some(Self::ClientPort6(client, address, protocol, port)),
            _ => None,
        }
    }

    /// The set in which this key is a lease.
    #[must_use]
    pub fn lease_set(self) -> Set {
        match self {
            Self::Address(IpAddr::V4(_)) => Set::Lease4,
            Self::Address(IpAddr::V6(_)) => Set::Lease6,
            Self::Pair4(..) => Set::ClientLease4,
            Self::Pair6(..) => Set::ClientLease6,
            Self::Application(number, IpAddr::V4(_)) => Set::Application(number, OfApplication::Lease4),
            Self::Application(number, IpAddr::V6(_)) => Set::Application(number, OfApplication::Lease6),
            Self::ApplicationPort(number, IpAddr::V4(_), ..) => Set::Application(number, OfApplication::Port4),
            Self::ApplicationPort(number, IpAddr::V6(_), ..) => Set::Application(number, OfApplication::Port6),
            Self::Port(IpAddr::V4(_), ..) => Set::PortLease4,
            Self::Port(IpAddr::V6(_), ..) => Set::PortLease6,
            Self::ClientPort4(..) => Set::ClientPortLease4,
            Self::ClientPort6(..) => Set::ClientPortLease6,
        }
    }

    fn write(self, writer: &mut Writer) {
        match self {
            Self::Application(_, address) => Self::Address(address).write(writer),
            Self::ApplicationPort(_, address, protocol, port) => {
                let mut octets = match address {
                    IpAddr::V4(address) => address.octets().to_vec(),
                    IpAddr::V6(address) => address.octets().to_vec(),
                };
                let [high, low] = port.to_be_bytes();
                octets.extend([protocol, 0, 0, 0, high, low, 0, 0]);
                writer.put(DATA_VALUE, &octets);
            }
            Self::Address(IpAddr::V4(address)) => writer.put(DATA_VALUE, &address.octets()),
            Self::Address(IpAddr::V6(address)) => writer.put(DATA_VALUE, &address.octets()),
            Self::Pair4(client, address) => writer.put(DATA_VALUE, &[client.octets(), address.octets()].concat()),
            Self::Pair6(client, address) => writer.put(DATA_VALUE, &[client.octets(), address.octets()].concat()),
            Self::Port(IpAddr::V4(address), protocol, port) => {
                writer.put(DATA_VALUE, &[&address.octets()[..], &port_octets(protocol, port)].concat());
            }
            Self::Port(IpAddr::V6(address), protocol, port) => {
                writer.put(DATA_VALUE, &[&address.octets()[..], &port_octets(protocol, port)].concat());
            }
            Self::ClientPort4(client, address, protocol, port) => writer
                .put(DATA_VALUE, &[&client.octets()[..], &address.octets(), &port_octets(protocol, port)].concat()),
            Self::ClientPort6(client, address, protocol, port) => writer
                .put(DATA_VALUE, &[&client.octets()[..], &address.octets(), &port_octets(protocol, port)].concat()),
        }
    }

    fn read(set: Set, octets: &[u8]) -> Option<Self> {
        match set {
            Set::Application(number, which) => {
                let (address, behind) = octets.split_at_checked(if which.is_ipv6() { 16 } else { 4 })?;
                let address = match which.is_ipv6() {
                    true => IpAddr::from(<[u8; 16]>::try_from(address).ok()?),
                    false => IpAddr::from(<[u8; 4]>::try_from(address).ok()?),
                };
                match (which.has_port(), behind) {
                    (false, []) => Some(Self::Application(number, address)),
                    (true, &[protocol, _, _, _, high, low, _, _]) => {
                        Some(Self::ApplicationPort(number, address, protocol, u16::from_be_bytes([high, low])))
                    }
                    _ => None,
                }
            }
            Set::Lease4 | Set::Cut4 => {
                Some(Self::Address(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?))))
            }
            Set::Lease6 | Set::Cut6 => {
                Some(Self::Address(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?))))
            }
            Set::ClientLease4 => {
                let (client, address) = octets.split_at_checked(4)?;
                let client = <[u8; 4]>::try_from(client).ok()?;
                Some(Self::Pair4(client.into(), <[u8; 4]>::try_from(address).ok()?.into()))
            }
            Set::ClientLease6 => {
                let (client, address) = octets.split_at_checked(16)?;
                let client = <[u8; 16]>::try_from(client).ok()?;
                Some(Self::Pair6(client.into(), <[u8; 16]>::try_from(address).ok()?.into()))
            }
            Set::PortLease4 | Set::PortLease6 | Set::ClientPortLease4 | Set::ClientPortLease6 => {
                let whole = match set {
                    Set::PortLease4 => Set::Lease4,
                    Set::PortLease6 => Set::Lease6,
                    Set::ClientPortLease4 => Set::ClientLease4,
                    _ => Set::ClientLease6,
                };
                let (addresses, port) = octets.split_last_chunk::<8>()?;
                let &[protocol, _, _, _, high, low, _, _] = port;
                let port = u16::from_be_bytes([high, low]);
                match Self::read(whole, addresses)? {
                    Self::Address(address) => Some(Self::Port(address, protocol, port)),
                    Self::Pair4(client, address) => Some(Self::ClientPort4(client, address, protocol, port)),
                    Self::Pair6(client, address) => Some(Self::ClientPort6(client, address, protocol, port)),
                    _ => None,
                }
            }
        }
    }
}

/// Protocol and port as the kernel keeps them side by side: each fills four octets from the front.
fn port_octets(protocol: u8, port: u16) -> [u8; 8] {
    let [high, low] = port.to_be_bytes();
    [protocol, 0, 0, 0, high, low, 0, 0]
}

/// What this kernel can do; found out by [`super::probe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Adding an existing element with timeout and expiration moves its end, also when the timeout is the same (Linux 6.12).
    pub refresh: bool,
    /// Elements can be destroyed: deleted without error when absent (Linux 6.3).
    pub destroy: bool,
}

/// A transaction on elements in the making.
#[derive(Debug)]
pub struct Transaction {
    writer: Writer,
    table: String,
    first: u32,
    next: u32,
}

impl Transaction {
    /// An empty transaction on our table. `sequence` is the first sequence number it may use.
    #[must_use]
    pub fn new(sequence: u32) -> Self {
        Self::on(TABLE, sequence)
    }

    /// An empty transaction on another table.
    #[must_use]
    pub fn on(table: &str, sequence: u32) -> Self {
        let mut writer = Writer::default();
        writer.batch_begin(sequence);
        Self { writer, table: table.to_owned(), first: sequence, next: sequence.wrapping_add(1) }
    }

    /// Number of requests so far.
    #[must_use]
    pub fn requests(&self) -> u32 {
        self.next.wrapping_sub(self.first).saturating_sub(1)
    }

    /// Opens keys until their timeout from now, whether they are in the set or not.
    pub fn put(&mut self, features: Features, set: Set, elements: &[(Key, Timeout)]) {
        if features.refresh {
            self.list(NEW_ELEMENTS, F_CREATE, set, elements, Some);
        } else {
            self.add(set, elements);
            self.list(DELETE_ELEMENTS, 0, set, elements, |_| None);
            self.add(set, elements);
        }
    }

    /// Adds keys that are not in the set: for an empty one, and for the probe. Nothing is sure of a key that is there already.
    pub fn add(&mut self, set: Set, elements: &[(Key, Timeout)]) {
        self.list(NEW_ELEMENTS, F_CREATE, set, elements, |_| None);
    }

    /// Adds a key that is not in the set, with a timeout that began earlier: `left` of it is left. For the probe.
    pub fn add_begun(&mut self, set: Set, key: Key, timeout: Timeout, left: Timeout) {
        self.list(NEW_ELEMENTS, F_CREATE, set, &[(key, timeout)], |_| Some(left));
    }

    /// Closes keys, whether they are in the set or not. Without `destroy` the set must have room for one element more.
    pub fn remove(&mut self, features: Features, set: Set, keys: &[Key]) {
        let elements: Vec<_> = keys.iter().map(|key| (*key, Timeout::of(Duration::from_secs(1)))).collect();
        if features.destroy {
            self.list(DESTROY_ELEMENTS, 0, set, &elements, |_| None);
        } else {
            self.add(set, &elements);
            self.list(DELETE_ELEMENTS, 0, set, &elements, |_| None);
        }
    }

    /// Empties a set. Elements added later in the same transaction are there without a gap.
    pub fn flush(&mut self, set: Set) {
        let open = self.begin(DELETE_ELEMENTS, 0, set);
        self.writer.end(open);
    }

    /// A request that is not about elements.
    pub fn request(&mut self, message: u8, flags: u16, attributes: impl FnOnce(&mut Writer)) {
        self.request_of(NFPROTO_INET, message, flags, attributes);
    }

    /// The same, of a table of another family.
    pub fn request_of(&mut self, family: u8, message: u8, flags: u16, attributes: impl FnOnce(&mut Writer)) {
        let kind = wire::kind(SUBSYS_NFTABLES, message);
        let open = self.writer.begin(kind, F_REQUEST | F_ACK | flags, self.next, family, 0);
        self.next = self.next.wrapping_add(1);
        attributes(&mut self.writer);
        self.writer.end(open);
    }

    /// The datagram, the sequence numbers that will be acknowledged (first, one behind the last), and the next free one.
    #[must_use]
    pub fn finish(mut self) -> (Vec<u8>, std::ops::Range<u32>, u32) {
        self.writer.batch_end(self.next);
        (self.writer.octets().to_vec(), self.first..self.next, self.next.wrapping_add(1))
    }

    fn begin(&mut self, message: u8, flags: u16, set: Set) -> wire::Open {
        let kind = wire::kind(SUBSYS_NFTABLES, message);
        let open = self.writer.begin(kind, F_REQUEST | F_ACK | flags, self.next, NFPROTO_INET, 0);
        self.next = self.next.wrapping_add(1);
        self.writer.put_text(LIST_TABLE, &self.table);
        self.writer.put_text(LIST_SET, &set.name());
        open
    }

    /// `expiration`: what is left of a timeout, if that is to be said as well.
    fn list(
        &mut self,
        message: u8,
        flags: u16,
        set: Set,
        elements: &[(Key, Timeout)],
        expiration: impl Fn(Timeout) -> Option<Timeout>,
    ) {
        let timed = message == NEW_ELEMENTS;
        let mut elements = elements.iter().peekable();
        while elements.peek().is_some() {
            let open = self.begin(message, flags, set);
            let list = self.writer.nest(LIST_ELEMENTS);
            while self.writer.since(list) < ATTRIBUTE_LIMIT {
                let Some((key, timeout)) = elements.next() else { break };
                let item = self.writer.nest(LIST_ITEM);
                let value = self.writer.nest(ELEMENT_KEY);
                key.write(&mut self.writer);
                self.writer.unnest(value);
                if timed {
                    self.writer.put_u64(ELEMENT_TIMEOUT, timeout.millis());
                    if let Some(left) = expiration(*timeout) {
                        self.writer.put_u64(ELEMENT_EXPIRATION, left.millis());
                    }
                }
                self.writer.unnest(item);
            }
            self.writer.unnest(list);
            self.writer.end(open);
        }
    }
}

/// The request that dumps a set.
#[must_use]
pub fn dump_request(table: &str, set: Set, sequence: u32) -> Vec<u8> {
    let mut writer = Writer::default();
    let kind = wire::kind(SUBSYS_NFTABLES, GET_ELEMENTS);
    let open = writer.begin(kind, F_REQUEST | F_DUMP, sequence, NFPROTO_INET, 0);
    writer.put_text(LIST_TABLE, table);
    writer.put_text(LIST_SET, &set.name());
    writer.end(open);
    writer.octets().to_vec()
}

/// The request that looks these keys up in a set. Each that is found is told by a message of its own, in order; the first that isn't ends it.
#[must_use]
pub fn look_up_request(table: &str, set: Set, keys: &[Key], sequence: u32) -> Vec<u8> {
    let mut writer = Writer::default();
    let kind = wire::kind(SUBSYS_NFTABLES, GET_ELEMENTS);
    let open = writer.begin(kind, F_REQUEST | F_ACK, sequence, NFPROTO_INET, 0);
    writer.put_text(LIST_TABLE, table);
    writer.put_text(LIST_SET, &set.name());
    let list = writer.nest(LIST_ELEMENTS);
    for key in keys {
        let item = writer.nest(LIST_ITEM);
        let value = writer.nest(ELEMENT_KEY);
        key.write(&mut writer);
        writer.unnest(value);
        writer.unnest(item);
    }
    writer.unnest(list);
    writer.end(open);
    writer.octets().to_vec()
}

/// An element as the kernel holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The key, which names the set too.
    pub key: Key,
    /// What is left of its time; `None` for an element without timeout (not ours).
    pub left: Option<Duration>,
}

/// The elements in one part of a dump; keys of another length than the set's are left out.
pub fn read_elements(set: Set, attributes: &[u8]) -> impl Iterator<Item = Held> {
    wire::find(attributes, LIST_ELEMENTS)
        .into_iter()
        .flat_map(wire::attributes)
        .filter(|(item, _)| *item == LIST_ITEM)
        .filter_map(move |(_, item)| {
            let value = wire::find(wire::find(item, ELEMENT_KEY)?, DATA_VALUE)?;
            let left = wire::find(item, ELEMENT_EXPIRATION).and_then(wire::u64_of).map(Duration::from_millis);
            Some(Held { key: Key::read(set, value)?, left })
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys(count: u32) -> Vec<(Key, Timeout)> {
        (0..count)
            .map(|n| {
                (
                    Key::Address(IpAddr::V6(Ipv6Addr::from(u128::from(n)))),
                    Timeout::of(Duration::from_millis(u64::from(n))),
                )
            })
            .collect()
    }

    #[test]
    fn zero_is_never_written() {
        assert_eq!(Timeout::of(Duration::ZERO).millis(), SHORTEST);
        assert_eq!(Timeout::of(Duration::MAX).millis(), LONGEST);
    }

    #[test]
    fn a_long_list_is_split_and_nothing_is_lost() {
        let elements = keys(5000);
        let mut transaction = Transaction::new(1);
        transaction.put(Features { refresh: true, destroy: true }, Set::Lease6, &elements);
        let requests = transaction.requests();
        assert!(requests > 1);
        let (octets, acknowledged, next) = transaction.finish();
        assert_eq!(acknowledged, 1..requests + 2);
        assert_eq!(next, requests + 3);
        let read: Vec<Key> = wire::messages(&octets)
            .flat_map(|message| read_elements(Set::Lease6, message.attributes()))
            .map(|held| held.key)
            .collect();
        assert_eq!(read, elements.iter().map(|(key, _)| *key).collect::<Vec<_>>());
    }

    #[test]
    fn old_kernels_get_add_delete_add() {
        let mut transaction = Transaction::new(1);
        transaction.put(Features { refresh: false, destroy: false }, Set::Lease6, &keys(1));
        let (octets, ..) = transaction.finish();
        let kinds: Vec<u16> = wire::messages(&octets).map(|message| message.kind & 0xff).collect();
        assert_eq!(kinds[1..4], [u16::from(NEW_ELEMENTS), u16::from(DELETE_ELEMENTS), u16::from(NEW_ELEMENTS)]);
    }

    #[test]
    fn keys_of_applications_are_read_as_they_were_written() {
        let (four, six) = (IpAddr::from([192, 0, 2, 1]), IpAddr::V6("2001:db8::1".parse().expect("address")));
        for address in [four, six] {
            for key in [Key::Application(7, address), Key::ApplicationPort(7, address, 17, 443)] {
                let mut transaction = Transaction::new(1);
                transaction.add(key.lease_set(), &[(key, Timeout::of(Duration::from_secs(1)))]);
                let (octets, ..) = transaction.finish();
                let mut read = wire::messages(&octets)
                    .flat_map(|message| read_elements(key.lease_set(), message.attributes()).collect::<Vec<_>>());
                assert_eq!(read.next().map(|held| held.key), Some(key));
            }
        }
    }

    #[test]
    fn a_pair_needs_one_family() {
        let four: IpAddr = "192.0.2.1".parse().expect("address");
        let six: IpAddr = "2001:db8::1".parse().expect("address");
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().expect("address");
        assert!(Key::pair(four, six).is_none());
        assert_eq!(Key::pair(mapped, four), Key::pair(four, four));
    }

    proptest! {
        #[test]
        fn any_octets_are_read_without_panic(octets in proptest::collection::vec(any::<u8>(), 0..300)) {
            let of_one = OfApplication::ALL.map(|which| Set::Application(0, which));
            for set in Set::ALL.into_iter().chain(of_one) {
                prop_assert!(read_elements(set, &octets).count() <= octets.len());
            }
        }
    }
}
