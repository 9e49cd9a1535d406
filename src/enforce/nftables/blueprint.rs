//! Our tables as the kernel tells them, read once they were installed and verified: chains, counters, sets, rules and the elements of sets
//! without timeout.
//!
//! It serves for two things. Reading it again and comparing shows whether anybody changed the ruleset, in a fraction of
//! a millisecond. And it can be written back as it is, in one transaction, without the `nft` program: that closes a host
//! again at once whose ruleset was flushed.

use super::TABLE;
use super::elements::Transaction;
use super::error::NftError;
use super::kernel::Kernel;
use super::wire::{self, F_APPEND, F_CREATE, F_DUMP, F_REQUEST, NFPROTO_BRIDGE, NFPROTO_INET, SUBSYS_NFTABLES, Writer};

const NEW_TABLE: u8 = 0;
const DELETE_TABLE: u8 = 2;
const NEW_CHAIN: u8 = 3;
const GET_CHAIN: u8 = 4;
const NEW_RULE: u8 = 6;
const GET_RULE: u8 = 7;
const DELETE_RULE: u8 = 8;
const NEW_SET: u8 = 9;
const GET_SET: u8 = 10;
const NEW_ELEMENTS: u8 = 12;
const GET_ELEMENTS: u8 = 13;
const NEW_OBJECT: u8 = 18;
const GET_OBJECT: u8 = 19;

/// The first attribute of all of them.
const ANY_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_DESCRIPTION: u16 = 9;
const SET_ID: u16 = 10;
const DESCRIPTION_SIZE: u16 = 1;
const OBJECT_DATA: u16 = 4;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const LIST_ITEM: u16 = 1;
/// Elements written in one message, which has room for 64 KiB.
const ELEMENTS_AT_ONCE: usize = 256;
/// The kernel's `NFT_SET_ANONYMOUS`: the set belongs to one rule.
const FLAG_ANONYMOUS: u32 = 0x1;
/// The kernel's `NFT_SET_TIMEOUT`: elements end by themselves.
const FLAG_TIMEOUT: u32 = 0x10;

/// Attributes that describe a chain: table, name, hook, policy, type, comment. Not: handles and counters.
const OF_CHAIN: [u16; 6] = [1, 3, 4, 5, 7, 12];
/// Of a rule: table, chain, expressions, compatibility, comment.
const OF_RULE: [u16; 5] = [1, 2, 4, 5, 7];
/// Of a set: table, name, flags, types and lengths, policy, description, timeout, garbage collection, comment.
const OF_SET: [u16; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13];
/// Of an object: table, name, type, comment. Not its values.
const OF_OBJECT: [u16; 4] = [1, 2, 3, 8];

type Attribute = (u16, Vec<u8>);

/// A chain, object, set or rule.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part(Vec<Attribute>);

impl Part {
    fn get(&self, attribute: u16) -> Option<&[u8]> {
        self.0.iter().find(|(found, _)| *found == attribute).map(|(_, value)| value.as_slice())
    }

    /// Of a set.
    fn resize(&mut self, size: u32) {
        let Some((_, value)) = self.0.iter_mut().find(|(attribute, _)| *attribute == SET_DESCRIPTION) else { return };
        let mut writer = Writer::default();
        for (attribute, inner) in wire::attributes(value) {
            match attribute {
                DESCRIPTION_SIZE => writer.put_u32(attribute, size),
                _ => writer.put(attribute, inner),
            }
        }
        *value = writer.octets().to_vec();
    }

    fn write(&self, writer: &mut Writer) {
        self.0.iter().for_each(|(attribute, value)| writer.put(*attribute, value));
    }
}

/// A set and, when its elements have no timeout, those.
#[derive(Clone, Debug)]
struct SetPart {
    set: Part,
    elements: Vec<Vec<u8>>,
}

impl SetPart {
    fn flags(&self) -> u32 {
        self.set.get(SET_FLAGS).and_then(wire::u32_of).unwrap_or(0)
    }

    /// Whether it belongs to a rule.
    fn is_anonymous(&self) -> bool {
        self.flags() & FLAG_ANONYMOUS != 0
    }
}

impl PartialEq for SetPart {
    fn eq(&self, other: &Self) -> bool {
        // Hash sets tell their elements in any order.
        let sorted = |elements: &[Vec<u8>]| {
            let mut elements = elements.to_vec();
            elements.sort_unstable();
            elements
        };
        self.set == other.set && sorted(&self.elements) == sorted(&other.elements)
    }
}

/// A table of the kernel as far as it is compared: what it has, not what it counts.
#[derive(Clone, Debug, PartialEq)]
struct Table {
    family: u8,
    chains: Vec<Part>,
    objects: Vec<Part>,
    sets: Vec<SetPart>,
    rules: Vec<Part>,
}

impl Table {
    fn read(kernel: &mut Kernel, family: u8) -> Result<Self, NftError> {
        let chains = parts(kernel, family, GET_CHAIN, &OF_CHAIN)?;
        let objects = parts(kernel, family, GET_OBJECT, &OF_OBJECT)?;
        let rules = parts(kernel, family, GET_RULE, &OF_RULE)?;
        let mut sets = Vec::new();
        for set in parts(kernel, family, GET_SET, &OF_SET)? {
            let mut part = SetPart { set, elements: Vec::new() };
            if part.flags() & FLAG_TIMEOUT == 0 {
                part.elements = elements(kernel, family, &part.set)?;
            }
            sets.push(part);
        }
        Ok(Self { family, chains, objects, sets, rules })
    }

    fn restore(&self, found: &Self, transaction: &mut Transaction) {
        let family = self.family;
        let table = |writer: &mut Writer| writer.put_text(ANY_TABLE, TABLE);
        let only_rules = self.chains == found.chains && self.objects == found.objects && self.has_named_sets_of(found);
        if only_rules {
            // All of the table, and the sets without a name with them.
            transaction.request_of(family, DELETE_RULE, 0, table);
        } else {
            // Naming it once makes certain that it exists, so that deleting it can't fail.
            transaction.request_of(family, NEW_TABLE, F_CREATE, table);
            transaction.request_of(family, DELETE_TABLE, 0, table);
            transaction.request_of(family, NEW_TABLE, F_CREATE, table);
            for chain in &self.chains {
                transaction.request_of(family, NEW_CHAIN, F_CREATE, |writer| chain.write(writer));
            }
            for object in &self.objects {
                transaction.request_of(family, NEW_OBJECT, F_CREATE, |writer| {
                    object.write(writer);
                    let data = writer.nest(OBJECT_DATA);
                    writer.unnest(data);
                });
            }
        }
        for (number, part) in (1u32..).zip(&self.sets).filter(|(_, part)| !only_rules || part.is_anonymous()) {
            transaction.request_of(family, NEW_SET, F_CREATE, |writer| {
                part.set.write(writer);
                writer.put_u32(SET_ID, number);
            });
            for elements in part.elements.chunks(ELEMENTS_AT_ONCE) {
                transaction.request_of(family, NEW_ELEMENTS, F_CREATE, |writer| {
                    writer.put_text(ANY_TABLE, TABLE);
                    writer.put(LIST_SET, part.set.get(SET_NAME).unwrap_or_default());
                    let list = writer.nest(LIST_ELEMENTS);
                    elements.iter().for_each(|element| writer.put(LIST_ITEM, element));
                    writer.unnest(list);
                });
            }
        }
        for rule in &self.rules {
            transaction.request_of(family, NEW_RULE, F_CREATE | F_APPEND, |writer| rule.write(writer));
        }
    }

    fn has_named_sets_of(&self, other: &Self) -> bool {
        let named =
            |table: &Self| -> Vec<SetPart> { table.sets.iter().filter(|part| !part.is_anonymous()).cloned().collect() };
        !self.chains.is_empty() && named(self) == named(other)
    }
}

/// The table that guards, and the one that marks what is bridged, where there is one.
#[derive(Clone, Debug, PartialEq)]
pub struct Blueprint {
    inet: Table,
    bridge: Table,
}

impl Blueprint {
    /// Reads them. A table that isn't there has no parts.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn read(kernel: &mut Kernel) -> Result<Self, NftError> {
        Ok(Self { inet: Table::read(kernel, NFPROTO_INET)?, bridge: Table::read(kernel, NFPROTO_BRIDGE)? })
    }

    /// Whether what was found is as this says.
    #[must_use]
    pub fn is_met_by(&self, found: &Self) -> bool {
        self.inet == found.inet && !self.lacks_bridge(found)
    }

    fn lacks_bridge(&self, found: &Self) -> bool {
        // Where we have none it isn't ours, and blocks nothing.
        !self.bridge.chains.is_empty() && self.bridge != found.bridge
    }

    /// The same with room for so many elements in these sets.
    #[must_use]
    pub fn resized(&self, sets: &[&str], size: u32) -> Self {
        let mut resized = self.clone();
        for part in &mut resized.inet.sets {
            let named = part.set.get(SET_NAME).map(wire::text);
            if named.is_some_and(|name| sets.contains(&name.as_str())) {
                part.set.resize(size);
            }
        }
        resized
    }

    /// The first thing in which they differ, in words.
    #[must_use]
    pub fn difference(&self, found: &Self) -> &'static str {
        if found.inet.chains.is_empty() {
            "the table is gone"
        } else if self.inet.chains != found.inet.chains {
            "its chains are others"
        } else if self.inet.rules != found.inet.rules {
            "its rules are others"
        } else if self.inet.objects != found.inet.objects {
            "its counters are others"
        } else if self.inet.sets != found.inet.sets {
            "its sets are others"
        } else {
            "the bridge's table is another"
        }
    }

    /// Puts it in the place of `found`. Where only rules differ, only they are replaced, since that takes the same time however
    /// many leases there are; else a table is made anew, with empty sets of leases.
    pub fn restore(&self, found: &Self, transaction: &mut Transaction) {
        if self.inet != found.inet {
            self.inet.restore(&found.inet, transaction);
        }
        if self.lacks_bridge(found) {
            self.bridge.restore(&found.bridge, transaction);
        }
    }
}

/// What a dump tells of our table, without what doesn't describe it.
fn parts(kernel: &mut Kernel, family: u8, get: u8, wanted: &[u16]) -> Result<Vec<Part>, NftError> {
    let mut parts = Vec::new();
    dump(
        kernel,
        (family, get),
        |_| {},
        |attributes| {
            let kept = wire::attributes(attributes).filter(|(attribute, _)| wanted.contains(attribute));
            parts.push(Part(kept.map(|(attribute, value)| (attribute, value.to_vec())).collect()));
        },
    )?;
    Ok(parts)
}

fn elements(kernel: &mut Kernel, family: u8, set: &Part) -> Result<Vec<Vec<u8>>, NftError> {
    let name = set.get(SET_NAME).unwrap_or_default();
    let mut elements = Vec::new();
    dump(
        kernel,
        (family, GET_ELEMENTS),
        |writer| writer.put(LIST_SET, name),
        |attributes| {
            let list = wire::find(attributes, LIST_ELEMENTS).into_iter().flat_map(wire::attributes);
            elements.extend(list.filter(|(item, _)| *item == LIST_ITEM).map(|(_, element)| element.to_vec()));
        },
    )?;
    Ok(elements)
}

/// Hands the attributes of everything of our table to `each`: not every kernel heeds the table's name.
fn dump(
    kernel: &mut Kernel,
    (family, get): (u8, u8),
    more: impl FnOnce(&mut Writer),
    mut each: impl FnMut(&[u8]),
) -> Result<(), NftError> {
    let sequence = kernel.next_sequence();
    let mut writer = Writer::default();
    let open = writer.begin(wire::kind(SUBSYS_NFTABLES, get), F_REQUEST | F_DUMP, sequence, family, 0);
    writer.put_text(ANY_TABLE, TABLE);
    more(&mut writer);
    writer.end(open);
    let asked = kernel.ask("reading the ruleset back", sequence, writer.octets(), |message| {
        let ours = wire::find(message.attributes(), ANY_TABLE).is_some_and(|name| wire::text(name) == TABLE);
        if ours && message.family() == Some(family) {
            each(message.attributes());
        }
    });
    match asked {
        Err(NftError::Gone) => Ok(()),
        other => other,
    }
}
