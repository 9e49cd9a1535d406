//! Local zones (`[[dns.zone]]`): records that this host answers with, judged and leased like those of an upstream.
//!
//! The records stand in hickory-server's in-memory zone handlers. Which name of a zone answers a question says an index of our own
//! ([`crate::core::zones`]): the handlers let a wildcard stand for names that exist, look through all records on a miss, and know no border below. So they
//! are asked only for what is there. Nothing listens, and no zone is transferred.
//!
//! Addresses have their reverse names by themselves ([`Zones::answers`]), unless a zone, an upstream or a private domain is there for these.
//! Nothing here is signed: a zone is insecure, whatever the public tree says of its name.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;
use hickory_proto::rr::{LowerName, Name as HickoryName, Record as HickoryRecord, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder, NameEncoding};
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{LookupOptions, ZoneHandler};

use crate::config::Config;
use crate::core::answer::{CLASS_IN, Record, RecordData};
use crate::core::name::Name;
use crate::core::policy::name_from_user;
use crate::core::zones::{Found, ZoneIndex, ZoneSet};
use crate::dns::checked::Checked;
use crate::dns::codec::ede::{Ede, code};
use crate::dns::codec::response::{Authority, Rdata, Response, understand};
use crate::dns::codec::wire::{rcode, rtype};

pub mod read;
#[cfg(test)]
mod tests;

/// How long negative answers of our own are good, and reverse names.
const OWN_TTL: u32 = 60;
/// Reverse names of one address.
const POINTERS: usize = 8;

/// One zone with its records.
pub struct Zone {
    index: Arc<ZoneIndex>,
    /// Names below which others answer.
    cuts: Vec<Name>,
    soa: Authority,
    records: usize,
    /// Names with what they stand for.
    aliases: Vec<(Name, Name)>,
    /// Addresses with the names that they lead back to.
    pointers: Vec<(IpAddr, Name)>,
    /// Or why there is none.
    handler: Result<InMemoryZoneHandler, String>,
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Zone").field("name", self.index.apex()).field("records", &self.records).finish_non_exhaustive()
    }
}

impl Zone {
    /// One that can't be read: its names get SERVFAIL, so that nobody takes them for absent.
    #[must_use]
    pub fn broken(apex: &Name, why: String) -> Self {
        Self {
            index: Arc::new(ZoneIndex::new(apex.clone())),
            cuts: Vec::new(),
            soa: own_soa(apex),
            records: 0,
            aliases: Vec::new(),
            pointers: Vec::new(),
            handler: Err(why),
        }
    }

    /// How many records it has.
    #[must_use]
    pub fn records(&self) -> usize {
        self.records
    }

    async fn answer(&self, name: &Name, qtype: u16) -> Checked {
        let handler = match &self.handler {
            Ok(handler) => handler,
            Err(why) => {
                let words = format!("the local zone {} can't be read: {why}", self.index.apex());
                return Checked::Refused("zone", Ede::new(code::OTHER, words));
            }
        };
        let (owner, kind) = match self.index.find(name, qtype) {
            Found::Records { owner, rtype } => (owner, rtype),
            Found::NoData => return self.negative(rcode::NOERROR),
            Found::NoName => return self.negative(rcode::NXDOMAIN),
        };
        let mut response = Response::default();
        if let Some(owner) = hickory_name(&owner) {
            let (owner, wanted) = (LowerName::new(&owner), RecordType::from(kind));
            let looked_up = handler.lookup(&owner, wanted, None, LookupOptions::default()).await;
            if let Some(Ok(lookup)) = looked_up.map_result() {
                let records = lookup.iter().filter(|record| record.record_type() == wanted);
                for (record, rdata) in records.filter_map(|record| record_of(record, name)) {
                    response.answers.push(record);
                    response.rdata.push(rdata);
                }
            }
        }
        if response.answers.is_empty() {
            // The index and the handler are made of the same records.
            return Checked::Refused("internal", Ede::new(code::OTHER, "an error within the guard"));
        }
        Checked::Response(response)
    }

    fn negative(&self, rcode: u16) -> Checked {
        Checked::Response(Response { rcode, authority: vec![self.soa.clone()], ..Response::default() })
    }
}

/// All zones of a configuration. Never changed: a reload builds another.
#[derive(Debug, Default)]
pub struct Zones {
    /// The names of the zones, by which a question finds its zone.
    pub set: Arc<ZoneSet>,
    zones: Vec<Arc<Zone>>,
    /// Reverse names with what they lead to.
    pointers: HashMap<Name, Vec<Name>>,
    /// Domains that others answer for.
    others: Vec<Name>,
}

impl Zones {
    /// These, beside the domains of upstreams and of `policy.private`.
    #[must_use]
    pub fn new(zones: &[Arc<Zone>], config: &Config) -> Self {
        let upstreams = config.dns.upstream.iter().flat_map(|upstream| &upstream.domains);
        let upstreams: Vec<Name> = upstreams.filter_map(|domain| name_from_user(domain).ok()).collect();
        let private = config.policy.private.iter().filter_map(|entry| name_from_user(&entry.domain).ok());
        let private: Vec<Name> = private.filter(|domain| *domain != Name::root()).collect();
        let cuts = zones.iter().flat_map(|zone| &zone.cuts).chain(&upstreams).cloned();
        let set = ZoneSet::new(zones.iter().map(|zone| zone.index.clone()).collect(), cuts);
        let others: Vec<Name> =
            upstreams.iter().chain(&private).filter(|domain| **domain != Name::root()).cloned().collect();
        let mut pointers: HashMap<Name, Vec<Name>> = HashMap::new();
        for (address, name) in zones.iter().flat_map(|zone| &zone.pointers) {
            let Some(reverse) = reverse_name(*address) else { continue };
            let taken = set.place_of(&reverse).is_some() || others.iter().any(|domain| reverse.is_within(domain));
            // What a deeper zone answers otherwise.
            if taken || !set.zone_of(name).is_some_and(|zone| zone.has(name)) {
                continue;
            }
            let names = pointers.entry(reverse).or_default();
            if names.len() < POINTERS && !names.contains(name) {
                names.push(name.clone());
            }
        }
        Self { set: Arc::new(set), zones: zones.to_vec(), pointers, others }
    }

    /// Whether both answer alike.
    #[must_use]
    pub fn are_same(&self, other: &Self) -> bool {
        let same = |(one, other): (&Arc<Zone>, &Arc<Zone>)| Arc::ptr_eq(one, other);
        self.zones.len() == other.zones.len()
            && self.zones.iter().zip(&other.zones).all(same)
            && (self.zones.is_empty() || self.others == other.others)
    }

    /// Whether questions for this name are answered here: it lies in a zone, or is the reverse name of an address in one.
    #[must_use]
    pub fn answers(&self, name: &Name) -> bool {
        self.set.place_of(name).is_some() || self.pointers.contains_key(name)
    }

    /// Whether a zone has this very name.
    #[must_use]
    pub fn has(&self, name: &Name) -> bool {
        self.set.zone_of(name).is_some_and(|zone| zone.has(name))
    }

    /// What they say to a question that they answer. An alias stands alone: it may lead anywhere.
    pub async fn answer(&self, name: &Name, qtype: u16) -> Checked {
        match self.set.place_of(name).and_then(|place| self.zones.get(place)) {
            Some(zone) => zone.answer(name, qtype).await,
            None => Checked::Response(self.pointer(name, qtype)),
        }
    }

    fn pointer(&self, name: &Name, qtype: u16) -> Response {
        let mut response = Response::default();
        for target in self.pointers.get(name).into_iter().flatten().filter(|_| qtype == PTR) {
            let owner = name.clone();
            response.answers.push(Record { owner, rtype: PTR, class: CLASS_IN, ttl: OWN_TTL, data: RecordData::Other });
            response.rdata.push(target.wire().into());
        }
        if response.answers.is_empty() {
            response.authority.push(own_soa(name));
        }
        response
    }
}

const PTR: u16 = 12;

/// A made-up SOA at the top of a zone that has none.
fn own_soa(apex: &Name) -> Authority {
    let mut rdata = Rdata::from_slice(apex.wire());
    rdata.extend_from_slice(b"\x06nobody\x07invalid\x00");
    for number in [1, 3600, 600, 86_400, OWN_TTL] {
        rdata.extend_from_slice(&number.to_be_bytes());
    }
    Authority { owner: apex.clone(), rtype: rtype::SOA, ttl: OWN_TTL, rdata }
}

/// A record of the zone with this owner, as the core and the replies have it.
fn record_of(record: &HickoryRecord, owner: &Name) -> Option<(Record, Rdata)> {
    let mut rdata = Vec::with_capacity(16);
    let mut encoder = BinEncoder::new(&mut rdata);
    encoder.set_name_encoding(NameEncoding::Uncompressed);
    record.data.emit(&mut encoder).ok()?;
    let kind = u16::from(record.record_type());
    let data = understand(kind, &rdata);
    let record = Record { owner: owner.clone(), rtype: kind, class: CLASS_IN, ttl: record.ttl, data };
    Some((record, rdata.into()))
}

fn hickory_name(name: &Name) -> Option<HickoryName> {
    HickoryName::from_labels(name.labels()).ok()
}

fn own_name(name: &HickoryName) -> Option<Name> {
    let mut wire = Vec::with_capacity(64);
    for label in name.iter() {
        wire.push(u8::try_from(label.len()).ok()?);
        wire.extend_from_slice(label);
    }
    wire.push(0);
    Name::from_wire(&wire).ok()
}

/// RFC 1035 section 3.5, RFC 3596 section 2.5.
fn reverse_name(address: IpAddr) -> Option<Name> {
    let text = match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(v6) => {
            let nibbles = v6.octets().into_iter().rev().map(|octet| format!("{:x}.{:x}.", octet & 15, octet >> 4));
            nibbles.collect::<String>() + "ip6.arpa"
        }
    };
    text.parse().ok()
}
