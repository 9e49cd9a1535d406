//! A kernel's sets of nf_tables: it reads netlink transactions as they are sent and does what Linux does, by its
//! version.

use std::collections::BTreeMap;
use std::net::IpAddr;

use destguard::enforce::nftables::elements::{Held, Set, read_elements};
use destguard::enforce::nftables::wire::{self, F_EXCL, NFPROTO_INET, SUBSYS_NFTABLES, Writer};

use super::plan::{Linux, Millis};

const NEW: u16 = 12;
const DELETE: u16 = 14;
const DESTROY: u16 = 30;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const ITEM: u16 = 1;
const KEY: u16 = 1;
const VALUE: u16 = 1;
const TIMEOUT: u16 = 4;
const EXPIRATION: u16 = 5;
const BEGIN: u16 = 0x10;
const END: u16 = 0x11;
const NO_ENTRY: i32 = 2;
const IO: i32 = 5;
const EXISTS: i32 = 17;
const INVALID: i32 = 22;
/// The number of the error `ENFILE`.
const FULL: i32 = 23;
/// A jiffy, of a kernel with 250 of them in a second.
const JIFFY: Millis = 4;
/// What has ended gives its room back after so long.
const COLLECTED: u64 = 1_000 / JIFFY;

/// An element; times in jiffies.
#[derive(Clone, Copy, Debug)]
struct Element {
    timeout: u64,
    ends: u64,
}

type Sets = BTreeMap<String, BTreeMap<Vec<u8>, Element>>;

/// See the module.
#[derive(Debug)]
pub struct Kernel {
    linux: Linux,
    size: usize,
    sets: Sets,
    /// Whether our table is there.
    pub there: bool,
    /// Everything is refused.
    pub fails: bool,
    /// Since the boot, sleep included.
    now: Millis,
    /// How long it slept.
    slept: Millis,
    /// What lists show, where they don't show what is there.
    frozen: Option<Sets>,
}

impl Kernel {
    /// With our table, whose sets hold so many.
    pub fn new(linux: Linux, size: usize) -> Self {
        Self { linux, size, sets: Sets::new(), there: true, fails: false, now: 0, slept: 0, frozen: None }
    }

    /// Which version it is of.
    pub fn linux(&self) -> Linux {
        self.linux
    }

    /// It is so late.
    pub fn advance(&mut self, now: Millis) {
        self.now = now;
    }

    /// It slept for so long; its own clock stood still.
    pub fn sleep(&mut self, span: Millis) {
        self.slept += span;
    }

    /// Lists go on to show what they would show now.
    pub fn freeze(&mut self) {
        self.frozen = Some(self.sets.clone());
    }

    /// Somebody empties the sets.
    pub fn flush(&mut self) {
        self.sets.clear();
    }

    fn jiffies(&self) -> u64 {
        (self.now - self.slept) / JIFFY
    }

    /// Carries out a transaction, as a whole or not at all.
    ///
    /// # Errors
    /// The errno.
    pub fn transact(&mut self, octets: &[u8]) -> Result<(), i32> {
        if self.fails {
            return Err(IO);
        }
        if !self.there {
            return Err(NO_ENTRY);
        }
        let now = self.jiffies();
        let mut sets = self.sets.clone();
        for message in wire::messages(octets) {
            if message.kind == BEGIN || message.kind == END {
                continue;
            }
            let attributes = message.attributes();
            let name = wire::find(attributes, LIST_SET).map(wire::text).ok_or(INVALID)?;
            let set = sets.entry(name).or_default();
            let Some(list) = wire::find(attributes, LIST_ELEMENTS) else {
                set.clear();
                continue;
            };
            for (_, item) in wire::attributes(list) {
                let key = wire::find(item, KEY).and_then(|key| wire::find(key, VALUE)).ok_or(INVALID)?.to_vec();
                let live = set.get(&key).copied().filter(|element| element.ends > now);
                match (message.kind & 0xff, live) {
                    (NEW, Some(_)) if message.flags & F_EXCL != 0 => return Err(EXISTS),
                    (NEW, live) => {
                        let jiffies =
                            |attribute| wire::find(item, attribute).and_then(wire::u64_of).map(|millis| millis / JIFFY);
                        let timeout = jiffies(TIMEOUT).unwrap_or(u64::MAX / 2);
                        let expiration = jiffies(EXPIRATION);
                        if let Some(live) = live
                            && (self.linux != Linux::V6_12 || (live.timeout == timeout && expiration.is_none()))
                        {
                            continue;
                        }
                        set.insert(key, Element { timeout, ends: now + expiration.unwrap_or(timeout) });
                        set.retain(|_, element| element.ends + COLLECTED > now);
                        if set.len() > self.size {
                            return Err(FULL);
                        }
                    }
                    (DELETE, None) => return Err(NO_ENTRY),
                    (DESTROY, _) if self.linux == Linux::V5_10 => return Err(INVALID),
                    (DELETE | DESTROY, _) => drop(set.remove(&key)),
                    _ => return Err(INVALID),
                }
            }
        }
        self.sets = sets;
        Ok(())
    }

    /// The elements of a set, as its list shows them.
    pub fn list(&self, set: Set) -> Vec<Held> {
        let now = self.jiffies();
        let mut writer = Writer::default();
        let message = writer.begin(wire::kind(SUBSYS_NFTABLES, 12), 0, 1, NFPROTO_INET, 0);
        let list = writer.nest(LIST_ELEMENTS);
        let sets = self.frozen.as_ref().unwrap_or(&self.sets);
        let live = sets.get(&*set.name()).into_iter().flatten().filter(|(_, element)| element.ends > now);
        for (key, element) in live {
            let item = writer.nest(ITEM);
            let value = writer.nest(KEY);
            writer.put(VALUE, key);
            writer.unnest(value);
            writer.put_u64(TIMEOUT, element.timeout * JIFFY);
            writer.put_u64(EXPIRATION, (element.ends - now) * JIFFY);
            writer.unnest(item);
        }
        writer.unnest(list);
        writer.end(message);
        let read = |message: wire::Message<'_>| read_elements(set, message.attributes()).collect::<Vec<_>>();
        wire::messages(writer.octets()).flat_map(read).collect()
    }

    /// Whether a set has this, as a look at it shows.
    pub fn shows(&self, set: Set, key: &[u8]) -> bool {
        let sets = self.frozen.as_ref().unwrap_or(&self.sets);
        let element = sets.get(&*set.name()).and_then(|set| set.get(key));
        element.is_some_and(|element| element.ends > self.jiffies())
    }

    /// Until when packets to an address pass, as it is now: those of this client, or of everybody where that is 0.
    pub fn open_until(&self, address: IpAddr, client: u8) -> Option<Millis> {
        let (lease, cut) = match (address.is_ipv4(), client) {
            (true, 0) => ("lease4", "cut4"),
            (true, _) => ("client_lease4", "cut4"),
            (false, _) => ("lease6", "cut6"),
        };
        let place = octets(address);
        let key = if client == 0 { place.clone() } else { [&[192, 0, 2, client], &*place].concat() };
        let live = |set: &str, key: &[u8]| {
            let element = self.sets.get(set)?.get(key)?;
            (element.ends > self.jiffies()).then_some(element.ends)
        };
        let closed = !self.there || live(cut, &place).is_some();
        live(lease, &key).filter(|_| !closed).map(|ends| ends * JIFFY + self.slept)
    }

    /// All addresses that are open, by the last octets of address and client, and until when.
    pub fn open(&self) -> Vec<((u8, u8), Millis)> {
        let keys = ["lease4", "lease6", "client_lease4"].into_iter().filter_map(|set| self.sets.get(set));
        let keys = keys.flat_map(BTreeMap::keys).filter_map(|key| match **key {
            [_, _, _, client, a, b, c, d] => Some((IpAddr::from([a, b, c, d]), client)),
            [a, b, c, d] => Some((IpAddr::from([a, b, c, d]), 0)),
            _ => Some((IpAddr::from(<[u8; 16]>::try_from(&**key).ok()?), 0)),
        });
        let open = keys.filter_map(|(address, client)| {
            Some(((*octets(address).last()?, client), self.open_until(address, client)?))
        });
        open.collect()
    }

    /// How many a set holds.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The most elements that a set has, those included that have ended of late.
    pub fn most(&self) -> usize {
        self.sets.values().map(BTreeMap::len).max().unwrap_or(0)
    }
}

/// The key of an address.
fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
