//! A small signed Internet in memory: zones with NSEC or NSEC3, answered as a resolver that doesn't validate gives them. Signatures are made over what
//! hickory serializes, hashes and orders by code of their own here: the code under test shares none of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use hickory_proto::dnssec::crypto::Ed25519SigningKey;
use hickory_proto::dnssec::rdata::sig::SigInput;
use hickory_proto::dnssec::{Algorithm, Nsec3HashAlgorithm, SigningKey, TBS};
use hickory_proto::rr::{DNSClass, Name as HickoryName, Record, RecordType, SerialNumber};
use hickory_proto::serialize::binary::{BinDecodable, BinEncodable};
use ring::signature::Ed25519KeyPair;

// What is under test, by a name that the fuzz target has as well: it includes this file.
use super::outside::{AskError, Name, Pick, Query, Source, rtype};

pub const NOW: u32 = 1_800_000_000;
pub const DAY: u32 = 86_400;
pub const TTL: u32 = 300;
pub const TXT: u16 = 16;

pub fn name(text: &str) -> Name {
    text.parse().unwrap()
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rr {
    pub owner: Name,
    pub kind: u16,
    pub ttl: u32,
    pub rdata: Vec<u8>,
}

#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub rcode: u16,
    pub answer: Vec<Rr>,
    pub authority: Vec<Rr>,
}

impl Reply {
    pub fn message(&self, query: &Query) -> Vec<u8> {
        let mut out = vec![0, 1, 0x81, 0x80 | self.rcode as u8, 0, 1];
        out.extend_from_slice(&(self.answer.len() as u16).to_be_bytes());
        out.extend_from_slice(&(self.authority.len() as u16).to_be_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&query.question());
        for rr in self.answer.iter().chain(&self.authority) {
            out.extend_from_slice(&record(rr));
        }
        out
    }

    /// Signatures over sets of this type.
    pub fn signatures(&mut self, covered: u16) -> impl Iterator<Item = &mut Rr> {
        let all = self.answer.iter_mut().chain(&mut self.authority);
        all.filter(move |rr| rr.kind == rtype::RRSIG && rr.rdata[..2] == covered.to_be_bytes())
    }

    pub fn strip_signatures(&mut self) {
        self.answer.retain(|rr| rr.kind != rtype::RRSIG);
        self.authority.retain(|rr| rr.kind != rtype::RRSIG);
    }
}

fn record(rr: &Rr) -> Vec<u8> {
    let mut out = rr.owner.wire().to_vec();
    out.extend_from_slice(&rr.kind.to_be_bytes());
    out.extend_from_slice(&[0, 1]);
    out.extend_from_slice(&rr.ttl.to_be_bytes());
    out.extend_from_slice(&(rr.rdata.len() as u16).to_be_bytes());
    out.extend_from_slice(&rr.rdata);
    out
}

#[derive(Clone, Copy)]
pub enum Denial {
    Nsec,
    Nsec3 { iterations: u16, opt_out: bool },
}

pub struct Zone {
    pub name: Name,
    pub key: Option<Ed25519SigningKey>,
    pub denial: Denial,
    pub window: (u32, u32),
    pub records: BTreeMap<(Name, u16), Vec<Vec<u8>>>,
    /// Number of the signing algorithm that DS and DNSKEY claim.
    pub algorithm: u8,
    hashes: Mutex<BTreeMap<Name, Vec<u8>>>,
}

const SALT: [u8; 2] = [0xab, 0xcd];

impl Zone {
    pub fn new(text: &str, denial: Option<Denial>) -> Self {
        // The same in each run.
        let seed = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        let key = || Ed25519SigningKey::from_ed25519(Ed25519KeyPair::from_seed_unchecked(seed.as_ref()).unwrap());
        let key = denial.map(|_| key());
        let mut zone = Self {
            name: name(text),
            key,
            denial: denial.unwrap_or(Denial::Nsec),
            window: (NOW - DAY, NOW + DAY),
            records: BTreeMap::new(),
            algorithm: 15,
            hashes: Mutex::default(),
        };
        let mut soa = b"\x02ns\x00\x04mail\x00".to_vec();
        for number in [1, 2, 3, 4, 60u32] {
            soa.extend_from_slice(&number.to_be_bytes());
        }
        zone.add(text, rtype::SOA, &soa);
        zone.add(text, rtype::NS, b"\x02ns\x04test\x00");
        if zone.key.is_some() {
            let dnskey = zone.dnskey();
            zone.add(text, rtype::DNSKEY, &dnskey);
        }
        zone
    }

    pub fn add(&mut self, owner: &str, kind: u16, rdata: &[u8]) {
        self.records.entry((name(owner), kind)).or_default().push(rdata.to_vec());
    }

    pub fn address(&mut self, owner: &str, last: u8) {
        self.add(owner, rtype::A, &[192, 0, 2, last]);
    }

    pub fn alias(&mut self, owner: &str, target: &str) {
        self.add(owner, rtype::CNAME, name(target).wire());
    }

    /// Delegates to `child`, with a DS record when that is signed.
    pub fn delegate(&mut self, child: &Zone) {
        let owner = child.name.to_string();
        self.add(&owner, rtype::NS, b"\x02ns\x04test\x00");
        if child.key.is_some() {
            self.add(&owner, rtype::DS, &child.ds());
        }
    }

    fn dnskey(&self) -> Vec<u8> {
        let public = self.key.as_ref().unwrap().to_public_key().unwrap().into_inner();
        [&[1, 1, 3, self.algorithm], &public[..]].concat()
    }

    pub fn tag(&self) -> u16 {
        let sum: u32 = self
            .dnskey()
            .iter()
            .enumerate()
            .map(|(at, octet)| if at % 2 == 0 { u32::from(*octet) << 8 } else { u32::from(*octet) })
            .sum();
        ((sum + (sum >> 16)) & 0xffff) as u16
    }

    pub fn ds(&self) -> Vec<u8> {
        let digest = ring::digest::digest(&ring::digest::SHA256, &[self.name.wire(), &self.dnskey()].concat());
        [&self.tag().to_be_bytes()[..], &[self.algorithm, 2], digest.as_ref()].concat()
    }

    /// The set at `owner` as it stands at `shown` (another one for a wildcard), with its signature.
    pub fn set(&self, owner: &Name, kind: u16, shown: &Name) -> Vec<Rr> {
        let rdata = &self.records[&(owner.clone(), kind)];
        self.signed(shown, owner, kind, rdata)
    }

    pub fn signed(&self, shown: &Name, owner: &Name, kind: u16, rdata: &[Vec<u8>]) -> Vec<Rr> {
        let rr = |owner: &Name, rdata: &Vec<u8>| Rr { owner: owner.clone(), kind, ttl: TTL, rdata: rdata.clone() };
        let mut out: Vec<Rr> = rdata.iter().map(|rdata| rr(shown, rdata)).collect();
        let Some(key) = &self.key else { return out };
        let records: Vec<Record> =
            rdata.iter().map(|rdata| Record::from_bytes(&record(&rr(owner, rdata))).unwrap()).collect();
        let owner = HickoryName::from_bytes(owner.wire()).unwrap();
        let input = SigInput {
            type_covered: RecordType::from(kind),
            algorithm: Algorithm::ED25519,
            num_labels: owner.num_labels(),
            original_ttl: TTL,
            sig_expiration: SerialNumber::new(self.window.1),
            sig_inception: SerialNumber::new(self.window.0),
            key_tag: self.tag(),
            signer_name: HickoryName::from_bytes(self.name.wire()).unwrap(),
        };
        let tbs = TBS::from_input(&owner, DNSClass::IN, &input, records.iter()).unwrap();
        let mut rrsig = input.to_bytes().unwrap();
        rrsig.extend_from_slice(&key.sign(&tbs).unwrap());
        out.push(Rr { owner: shown.clone(), kind: rtype::RRSIG, ttl: TTL, rdata: rrsig });
        out
    }

    fn has(&self, owner: &Name, kind: u16) -> bool {
        self.records.contains_key(&(owner.clone(), kind))
    }

    fn exists(&self, owner: &Name) -> bool {
        self.records.keys().any(|(name, _)| name.is_within(owner))
    }

    fn types(&self, owner: &Name) -> Vec<u8> {
        let mut kinds: BTreeSet<u16> =
            self.records.keys().filter(|(name, _)| name == owner).map(|(_, kind)| *kind).collect();
        if !kinds.is_empty() && (kinds.contains(&rtype::DS) || !kinds.contains(&rtype::NS) || *owner == self.name) {
            kinds.insert(rtype::RRSIG);
        }
        if matches!(self.denial, Denial::Nsec) {
            kinds.insert(rtype::NSEC);
        }
        let mut bits = [0u8; 32];
        for kind in &kinds {
            bits[usize::from(kind / 8)] |= 0x80 >> (kind % 8);
        }
        let len = kinds.last().map_or(0, |kind| usize::from(kind / 8) + 1);
        if len == 0 { Vec::new() } else { [&[0, len as u8], &bits[..len]].concat() }
    }

    /// Labels from the right, which is how names sort.
    fn order(name: &Name) -> Vec<Vec<u8>> {
        let mut labels: Vec<Vec<u8>> = name.labels().map(<[u8]>::to_vec).collect();
        labels.reverse();
        labels
    }

    fn nsec(&self, wanted: &Name) -> Vec<Rr> {
        let names: BTreeSet<Vec<Vec<u8>>> = self.records.keys().map(|(name, _)| Self::order(name)).collect();
        let names: Vec<Name> = names
            .into_iter()
            .map(|labels| {
                let mut wire = Vec::new();
                for label in labels.iter().rev() {
                    wire.push(label.len() as u8);
                    wire.extend_from_slice(label);
                }
                wire.push(0);
                Name::from_wire(&wire).unwrap()
            })
            .collect();
        let at = names.iter().rposition(|name| Self::order(name) <= Self::order(wanted)).unwrap();
        let owner = &names[at];
        let next = names.get(at + 1).unwrap_or(&self.name);
        let rdata = [next.wire(), &self.types(owner)].concat();
        self.signed(owner, owner, rtype::NSEC, &[rdata])
    }

    fn hash(&self, name: &Name, iterations: u16) -> Vec<u8> {
        let mut hashes = self.hashes.lock().unwrap();
        let hash = || {
            let name = HickoryName::from_bytes(name.wire()).unwrap();
            Nsec3HashAlgorithm::SHA1.hash(&SALT, &name, iterations).unwrap().as_ref().to_vec()
        };
        hashes.entry(name.clone()).or_insert_with(hash).clone()
    }

    fn nsec3(&self, wanted: &Name, iterations: u16, opt_out: bool) -> Vec<Rr> {
        let mut names: BTreeSet<Name> = BTreeSet::new();
        for (owner, kind) in self.records.keys() {
            let delegation = *kind == rtype::NS && *owner != self.name && !self.has(owner, rtype::DS);
            if delegation && opt_out {
                continue;
            }
            let mut here = Some(owner.clone());
            while let Some(name) = here.filter(|name| name.is_within(&self.name)) {
                here = name.parent();
                names.insert(name);
            }
        }
        let hashed: BTreeMap<Vec<u8>, Name> =
            names.into_iter().map(|name| (self.hash(&name, iterations), name)).collect();
        let hash = self.hash(wanted, iterations);
        let (own, owner) = hashed.range(..=hash.clone()).next_back().or(hashed.iter().next_back()).unwrap();
        let (next, _) = hashed.range(own.clone()..).nth(1).or(hashed.iter().next()).unwrap();
        let mut rdata = vec![1, u8::from(opt_out)];
        rdata.extend_from_slice(&iterations.to_be_bytes());
        rdata.push(SALT.len() as u8);
        rdata.extend_from_slice(&SALT);
        rdata.push(20);
        rdata.extend_from_slice(next);
        rdata.extend_from_slice(&self.types(owner));
        let mut wire = vec![32];
        wire.extend(base32(own));
        wire.extend_from_slice(self.name.wire());
        let owner = Name::from_wire(&wire).unwrap();
        self.signed(&owner, &owner, rtype::NSEC3, &[rdata])
    }

    /// The denial records for these names, each once.
    fn prove(&self, reply: &mut Reply, names: &[&Name]) {
        if self.key.is_none() {
            return;
        }
        for name in names {
            let set = match self.denial {
                Denial::Nsec => self.nsec(name),
                Denial::Nsec3 { iterations, opt_out } => self.nsec3(name, iterations, opt_out),
            };
            if !reply.authority.contains(&set[0]) {
                reply.authority.extend(set);
            }
        }
    }

    /// Answers from this zone; where the chain goes on.
    fn answer(&self, query: &Name, kind: u16, reply: &mut Reply) -> Option<Name> {
        let target = |set: &[Rr]| Some(Name::from_wire(&set[0].rdata).unwrap());
        if self.has(query, kind) {
            reply.answer.extend(self.set(query, kind, query));
            return None;
        }
        if self.has(query, rtype::CNAME) {
            let set = self.set(query, rtype::CNAME, query);
            reply.answer.extend(set.clone());
            return target(&set);
        }
        let mut above = query.parent();
        while let Some(owner) = above.filter(|owner| owner.is_within(&self.name)) {
            if self.has(&owner, rtype::DNAME) {
                let set = self.set(&owner, rtype::DNAME, &owner);
                reply.answer.extend(set.clone());
                let front = &query.wire()[..query.wire().len() - owner.wire().len()];
                let made = Name::from_wire(&[front, &set[0].rdata].concat()).unwrap();
                let rdata = made.wire().to_vec();
                reply.answer.push(Rr { owner: query.clone(), kind: rtype::CNAME, ttl: TTL, rdata });
                return Some(made);
            }
            above = owner.parent();
        }
        let nsec3 = matches!(self.denial, Denial::Nsec3 { .. });
        if self.exists(query) {
            self.absent(reply);
            let hidden = matches!(self.denial, Denial::Nsec3 { opt_out: true, .. })
                && self.has(query, rtype::NS)
                && !self.has(query, rtype::DS)
                && *query != self.name;
            let above = query.parent().unwrap_or_else(Name::root);
            let names = if hidden { vec![&above, query] } else { vec![query] };
            self.prove(reply, &names);
            return None;
        }
        let mut next = query.clone();
        let encloser = loop {
            let parent = next.parent().unwrap();
            if self.exists(&parent) {
                break parent;
            }
            next = parent;
        };
        let star = Name::from_wire(&[b"\x01*", encloser.wire()].concat()).unwrap();
        for (found, alias) in [(kind, false), (rtype::CNAME, true)] {
            if self.has(&star, found) {
                let set = self.set(&star, found, query);
                reply.answer.extend(set.clone());
                self.prove(reply, &[if nsec3 { &next } else { query }]);
                return alias.then(|| target(&set)).flatten();
            }
        }
        if !self.exists(&star) {
            reply.rcode = 3;
        }
        self.absent(reply);
        let names = if nsec3 { vec![&encloser, &next, &star] } else { vec![query, &star] };
        self.prove(reply, &names);
        None
    }

    fn absent(&self, reply: &mut Reply) {
        reply.authority.extend(self.set(&self.name, rtype::SOA, &self.name));
    }
}

fn base32(octets: &[u8]) -> Vec<u8> {
    let bits: String = octets.iter().map(|octet| format!("{octet:08b}")).collect();
    let digit = |at: usize| usize::from_str_radix(&bits[at * 5..at * 5 + 5], 2).unwrap();
    (0..32).map(|at| b"0123456789abcdefghijklmnopqrstuv"[digit(at)]).collect()
}

pub type Tamper = Box<dyn Fn(&Query, &mut Reply) + Send + Sync>;

/// Zones and what lies between them and the guard.
pub struct Internet {
    pub zones: Vec<Zone>,
    pub tamper: Tamper,
    pub asked: Mutex<Vec<(Name, u16)>>,
}

impl Internet {
    pub fn new(zones: Vec<Zone>) -> Self {
        Self { zones, tamper: Box::new(|_, _| {}), asked: Mutex::default() }
    }

    pub fn reply(&self, query: &Query) -> Reply {
        let mut reply = Reply::default();
        let mut here = Some(query.name.clone());
        while let Some(name) = here {
            let own = |zone: &&Zone| {
                name.is_within(&zone.name) && (query.qtype != rtype::DS || zone.name != name || name == Name::root())
            };
            let zone = self.zones.iter().filter(own).max_by_key(|zone| zone.name.wire().len()).unwrap();
            here = zone.answer(&name, query.qtype, &mut reply);
        }
        reply
    }

    pub fn zone(&mut self, text: &str) -> &mut Zone {
        let wanted = name(text);
        self.zones.iter_mut().find(|zone| zone.name == wanted).unwrap()
    }
}

impl Source for Internet {
    async fn ask(&self, query: &Query, _: Pick) -> Result<Vec<u8>, AskError> {
        assert!(query.dnssec_ok, "without DO no signatures come");
        self.asked.lock().unwrap().push((query.name.clone(), query.qtype));
        let mut reply = if self.zones.is_empty() { Reply::default() } else { self.reply(query) };
        (self.tamper)(query, &mut reply);
        Ok(reply.message(query))
    }

    fn choices(&self) -> usize {
        1
    }
}
