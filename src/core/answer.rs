//! Binds the records of a response to its question: only what the question's name reaches along CNAME and DNAME counts.
//! All else in the ANSWER section (and the whole of the other sections, which never come here) opens nothing and is not
//! passed on.
//!
//! Sources: RFC 1034 section 3.6.2 (CNAME), RFC 6672 (DNAME), RFC 2181 sections 5, 8 and 10.1, RFC 4034 section 3 (what may
//! stand beside a CNAME), RFC 9460 (SVCB and HTTPS).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::name::{Name, NameError};
use super::places::Places;

#[cfg(test)]
mod tests;

/// The most aliases followed from the question.
pub const MAX_CHAIN: usize = 16;

/// The class IN of questions and records, the only one that is answered.
pub const CLASS_IN: u16 = 1;

/// Numbers of the record types that the core knows (IANA, "Resource Record (RR) TYPEs").
pub mod rtype {
    /// The type of IPv4 addresses.
    pub const A: u16 = 1;
    /// The type of an alias for one name.
    pub const CNAME: u16 = 5;
    /// Signature of RFC 2535.
    pub const SIG: u16 = 24;
    /// Key of RFC 2535.
    pub const KEY: u16 = 25;
    /// The type of IPv6 addresses.
    pub const AAAA: u16 = 28;
    /// Denial of RFC 2535.
    pub const NXT: u16 = 30;
    /// Alias of all below a name.
    pub const DNAME: u16 = 39;
    /// The type of DNSSEC's signatures over a set of records.
    pub const RRSIG: u16 = 46;
    /// Denial of existence.
    pub const NSEC: u16 = 47;
    /// The type of a service binding (RFC 9460).
    pub const SVCB: u16 = 64;
    /// Service binding for HTTPS.
    pub const HTTPS: u16 = 65;
    /// Every type; never bound.
    pub const ANY: u16 = 255;
}

/// Numbers of SvcParamKeys (RFC 9460 section 14.3.2).
pub mod svcparam {
    /// Keys without which the record is of no use.
    pub const MANDATORY: u16 = 0;
    /// Protocols that are spoken.
    pub const ALPN: u16 = 1;
    /// Not the usual one.
    pub const NO_DEFAULT_ALPN: u16 = 2;
    /// The key `port`: the port where the service is.
    pub const PORT: u16 = 3;
    /// IPv4 addresses to try.
    pub const IPV4HINT: u16 = 4;
    /// IPv6 addresses to try.
    pub const IPV6HINT: u16 = 6;
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// The name asked for (QNAME).
    pub name: Name,
    /// The type asked for (QTYPE).
    pub qtype: u16,
    /// The class asked for (QCLASS).
    pub qclass: u16,
}

/// One record of the ANSWER section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The owner's name, to which the data belongs.
    pub owner: Name,
    /// The record's type (TYPE).
    pub rtype: u16,
    /// The record's class (CLASS).
    pub class: u16,
    /// TTL as it stood on the wire; see [`effective_ttl`].
    pub ttl: u32,
    /// RDATA as far as the core needs it.
    pub data: RecordData,
}

/// RDATA as far as the core needs it. It must fit [`Record::rtype`]; an address, alias or service record on the chain whose
/// data is something else is [`BindError::Malformed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordData {
    /// An IPv4 address, of type A.
    A(Ipv4Addr),
    /// An IPv6 address, of type AAAA.
    Aaaa(Ipv6Addr),
    /// Type CNAME: where it points.
    Cname(Name),
    /// Type DNAME: what replaces the owner name at the end of names below it.
    Dname(Name),
    /// Types SVCB and HTTPS.
    Svcb {
        /// SvcPriority; 0 is AliasMode.
        priority: u16,
        /// TargetName; the root stands for the owner.
        target: Name,
        /// Keys listed in `mandatory`.
        mandatory: Vec<u16>,
        /// Addresses of `ipv4hint`.
        ipv4hint: Vec<Ipv4Addr>,
        /// Addresses of `ipv6hint`.
        ipv6hint: Vec<Ipv6Addr>,
    },
    /// Type RRSIG: the type it covers.
    Rrsig {
        /// The type that the signature covers (Type Covered).
        covered: u16,
    },
    /// Everything else, or data that could not be read.
    Other,
}

/// Why a response can't be bound to its question. The client gets SERVFAIL; nothing is opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// The class isn't IN.
    #[error("class {0} is not IN")]
    NotInternet(u16),
    /// QTYPE ANY is answered as RFC 8482 says, without an upstream.
    #[error("type ANY is not bound")]
    Any,
    /// The aliases come back to a name they left.
    #[error("the aliases loop at {0}")]
    Loop(Name),
    /// More than [`MAX_CHAIN`] aliases.
    #[error("more than {MAX_CHAIN} aliases")]
    TooDeep,
    /// Two different CNAMEs, or two different DNAMEs, at one owner.
    #[error("two different aliases at {0}")]
    TwoAliases(Name),
    /// A CNAME that isn't what the DNAME above it makes of its owner.
    #[error("the CNAME at {0} contradicts the DNAME above it")]
    DnameMismatch(Name),
    /// Data that doesn't fit its type.
    #[error("malformed record of type {rtype} at {owner}")]
    Malformed {
        /// The name that the record belongs to.
        owner: Name,
        /// The type that the data doesn't fit.
        rtype: u16,
    },
}

/// One record of the ANSWER section that goes to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// The record at this index of the input.
    Record(usize),
    /// A CNAME to be built, since only the DNAME at index `dname` came (RFC 6672 section 3.1).
    SynthesisedCname {
        /// The name that the CNAME is built for.
        owner: Name,
        /// Where it points.
        target: Name,
        /// The DNAME's effective TTL.
        ttl: u32,
        /// The DNAME's index.
        dname: usize,
    },
}

/// Where an address stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In an A or AAAA record.
    Direct,
    /// In an `ipv4hint` or `ipv6hint`.
    Hint,
}

/// An address that the question reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundAddress {
    /// The address that may be leased.
    pub address: IpAddr,
    /// Seconds: the least effective TTL along the chain to it, its own record included.
    pub ttl: u32,
    /// Index of its record.
    pub record: usize,
    /// Where it stood.
    pub origin: Origin,
}

/// What the question reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The ANSWER section: in chain order, the RRSIGs behind what they cover.
    pub keep: Vec<Kept>,
    /// The aliases from the question to `terminal`, in order, without the question; empty without CNAME or DNAME.
    pub chain: Vec<Name>,
    /// The name at which the chain ends.
    pub terminal: Name,
    /// A DNAME would make a name longer than 255 octets of `terminal`: the code is YXDOMAIN, and the DNAME, which is kept, proves it (RFC 6672
    /// section 2.2).
    pub overlong: bool,
    /// The addresses. An A or AAAA that came twice is here (and in `keep`) once, with the larger TTL; a hint is here once for each
    /// time it stands in a record.
    pub addresses: Vec<BoundAddress>,
    /// Seconds: the least effective TTL of all in `keep`; `None` when nothing is kept.
    pub ttl: Option<u32>,
    /// Number of records that the question doesn't reach: other classes, and data beside an alias, included.
    pub dropped: usize,
    /// Number of records that only repeat another.
    pub duplicates: usize,
}

/// The longest that anything is kept or told to last, a week (RFC 8767 section 4).
pub const LONGEST_TTL: u32 = 7 * 24 * 3600;

/// TTL by RFC 2181 section 8: with the top bit set it is 0. At most [`LONGEST_TTL`].
#[must_use]
pub fn effective_ttl(raw: u32) -> u32 {
    if raw > 0x7fff_ffff { 0 } else { raw.min(LONGEST_TTL) }
}

/// Binds the ANSWER section of a NOERROR response. `records` may stand in any order.
///
/// # Errors
/// [`BindError`]: nothing of the response may be used.
pub fn bind(question: &Question, records: &[Record]) -> Result<Bound, BindError> {
    Walk::new(question, records)?.run(true)
}

/// Binds the ANSWER section of a response with another rcode (NXDOMAIN behind a CNAME, RFC 6604): only the aliases are kept, no
/// address is bound.
///
/// # Errors
/// Like [`bind`].
pub fn bind_aliases(question: &Question, records: &[Record]) -> Result<Bound, BindError> {
    Walk::new(question, records)?.run(false)
}

/// Types that may stand beside a CNAME: RFC 2181 section 10.1, RFC 4034 sections 3 and 4.
fn beside_cname(rtype: u16) -> bool {
    matches!(rtype, rtype::CNAME | rtype::RRSIG | rtype::NSEC | rtype::SIG | rtype::KEY | rtype::NXT)
}

/// `name` with `owner` at its end replaced by `target`; `owner` is a suffix of `name`. `None`: too long.
fn substitute(name: &Name, owner: &Name, target: &Name) -> Result<Option<Name>, BindError> {
    let front = name.wire().len().saturating_sub(owner.wire().len());
    let mut wire = name.wire().get(..front).unwrap_or_default().to_vec();
    wire.extend_from_slice(target.wire());
    match Name::from_wire(&wire) {
        Ok(name) => Ok(Some(name)),
        Err(NameError::NameTooLong) => Ok(None),
        Err(_) => Err(BindError::Malformed { owner: owner.clone(), rtype: rtype::DNAME }),
    }
}

/// The state of one walk.
struct Walk<'a> {
    question: &'a Question,
    records: &'a [Record],
    /// Indexes of the records of class IN, by owner, then by place: a large hostile answer costs n log n.
    by_owner: Vec<usize>,
    kept: Vec<bool>,
    keep: Vec<Kept>,
    chain: Vec<Name>,
    addresses: Vec<BoundAddress>,
    least: u32,
    duplicates: usize,
}

/// One alias found at a name.
struct Alias {
    /// `None`: too long a name.
    target: Option<Name>,
    cname: Option<usize>,
    dname: Option<usize>,
}

impl<'a> Walk<'a> {
    fn new(question: &'a Question, records: &'a [Record]) -> Result<Self, BindError> {
        if question.qclass != CLASS_IN {
            return Err(BindError::NotInternet(question.qclass));
        }
        if question.qtype == rtype::ANY {
            return Err(BindError::Any);
        }
        let mut by_owner: Vec<(&[u8], usize)> = records
            .iter()
            .enumerate()
            .filter(|(_, record)| record.class == CLASS_IN)
            .map(|(index, record)| (record.owner.wire(), index))
            .collect();
        by_owner.sort_unstable();
        Ok(Self {
            question,
            records,
            by_owner: by_owner.into_iter().map(|(_, index)| index).collect(),
            kept: vec![false; records.len()],
            keep: Vec::new(),
            chain: Vec::new(),
            addresses: Vec::new(),
            least: u32::MAX,
            duplicates: 0,
        })
    }

    /// Indexes and records at an owner name, in the order they came.
    fn at(&self, owner: &[u8]) -> impl Iterator<Item = (usize, &'a Record)> + use<'a> {
        let records = self.records;
        let wire = |index: &usize| records.get(*index).map_or(&[][..], |record| record.owner.wire());
        let start = self.by_owner.partition_point(|index| wire(index) < owner);
        let end = self.by_owner.partition_point(|index| wire(index) <= owner);
        let here: Vec<usize> = self.by_owner.get(start..end).unwrap_or_default().to_vec();
        here.into_iter().filter_map(move |index| records.get(index).map(|record| (index, record)))
    }

    fn run(mut self, with_data: bool) -> Result<Bound, BindError> {
        let qtype = self.question.qtype;
        let mut here = self.question.name.clone();
        let mut overlong = false;
        loop {
            let ends_here = beside_cname(qtype) && qtype != rtype::CNAME && self.has(&here, qtype);
            let alias = if ends_here { None } else { self.alias(&here)? };
            let Some(alias) = alias else {
                if with_data {
                    self.keep_data(&here)?;
                }
                break;
            };
            self.keep_alias(&here, &alias);
            let Some(target) = alias.target else {
                overlong = true;
                break;
            };
            if qtype == rtype::CNAME {
                break;
            }
            if target == self.question.name || self.chain.contains(&target) {
                return Err(BindError::Loop(target));
            }
            if self.chain.len() >= MAX_CHAIN {
                return Err(BindError::TooDeep);
            }
            self.chain.push(target.clone());
            here = target;
        }
        let kept = self.kept.iter().filter(|kept| **kept).count();
        Ok(Bound {
            ttl: self.least_kept(),
            dropped: self.records.len().saturating_sub(kept).saturating_sub(self.duplicates),
            keep: self.keep,
            chain: self.chain,
            terminal: here,
            overlong,
            addresses: self.addresses,
            duplicates: self.duplicates,
        })
    }

    fn has(&self, owner: &Name, rtype: u16) -> bool {
        self.at(owner.wire()).any(|(_, record)| record.rtype == rtype)
    }

    /// The one CNAME at `owner`, its least TTL noted; the repeated ones are counted.
    fn cname(&mut self, owner: &Name) -> Result<Option<(usize, &'a Name)>, BindError> {
        let mut found: Option<(usize, &'a Name, u32)> = None;
        for (index, record) in self.at(owner.wire()) {
            if record.rtype != rtype::CNAME {
                continue;
            }
            let RecordData::Cname(target) = &record.data else {
                return Err(BindError::Malformed { owner: owner.clone(), rtype: record.rtype });
            };
            let ttl = effective_ttl(record.ttl);
            match found {
                None => found = Some((index, target, ttl)),
                Some((before, first, least)) if first == target => {
                    self.duplicates = self.duplicates.saturating_add(1);
                    // Of the same record with two TTLs the lower one counts (RFC 2181 section 5.2).
                    found = Some(if ttl < least { (index, target, ttl) } else { (before, first, least) });
                }
                Some(_) => return Err(BindError::TwoAliases(owner.clone())),
            }
        }
        let Some((index, target, ttl)) = found else { return Ok(None) };
        self.least = self.least.min(ttl);
        Ok(Some((index, target)))
    }

    /// The DNAME nearest to the root above `name` (what lies below a DNAME doesn't exist, RFC 6672 section 2.4).
    fn dname(&mut self, name: &Name) -> Result<Option<(usize, &'a Record, &'a Name)>, BindError> {
        let mut highest = None;
        for suffix in name.suffixes().skip(1) {
            let mut found: Option<(usize, &'a Record, &'a Name)> = None;
            for (index, record) in self.at(suffix) {
                if record.rtype != rtype::DNAME {
                    continue;
                }
                let RecordData::Dname(target) = &record.data else {
                    return Err(BindError::Malformed { owner: record.owner.clone(), rtype: record.rtype });
                };
                match found {
                    None => found = Some((index, record, target)),
                    Some((_, before, first)) if first == target => {
                        if effective_ttl(record.ttl) < effective_ttl(before.ttl) {
                            found = Some((index, record, target));
                        }
                    }
                    Some(_) => return Err(BindError::TwoAliases(record.owner.clone())),
                }
            }
            highest = found.or(highest);
        }
        Ok(highest)
    }

    /// Where `here` points, if it is an alias.
    fn alias(&mut self, here: &Name) -> Result<Option<Alias>, BindError> {
        let dname = self.dname(here)?;
        let cname = self.cname(here)?;
        let alias = match (dname, cname) {
            (None, None) => return Ok(None),
            (None, Some((index, target))) => Alias { target: Some(target.clone()), cname: Some(index), dname: None },
            (Some((index, record, replacement)), cname) => {
                let target = substitute(here, &record.owner, replacement)?;
                if cname.is_some_and(|(_, named)| Some(named) != target.as_ref()) {
                    return Err(BindError::DnameMismatch(here.clone()));
                }
                Alias { target, cname: cname.map(|(index, _)| index), dname: Some(index) }
            }
        };
        // Other data of the same owner has no place beside it (RFC 2181 section 10.1). Servers give it all the same: it isn't kept.
        Ok(Some(alias))
    }

    fn keep_alias(&mut self, here: &Name, alias: &Alias) {
        if let Some(dname) = alias.dname {
            self.keep_record(dname);
            if let Some(record) = self.records.get(dname) {
                self.least = self.least.min(effective_ttl(record.ttl));
                self.keep_signatures(&record.owner, rtype::DNAME);
            }
        }
        match (alias.cname, alias.dname.zip(alias.target.as_ref())) {
            (Some(cname), _) => {
                self.keep_record(cname);
                self.keep_signatures(here, rtype::CNAME);
            }
            (None, Some((dname, target))) => {
                let ttl = self.records.get(dname).map_or(0, |record| effective_ttl(record.ttl));
                self.keep.push(Kept::SynthesisedCname { owner: here.clone(), target: target.clone(), ttl, dname });
            }
            (None, None) => {}
        }
    }

    /// Keeps the records of the question's type at the end of the chain.
    fn keep_data(&mut self, here: &Name) -> Result<(), BindError> {
        let qtype = self.question.qtype;
        if self.is_unusable_service(here) {
            return Ok(());
        }
        let chain_ttl = self.least;
        // Where the address stands in `addresses` and its record in `keep`.
        let mut first_of: Places<(usize, usize)> = Places::default();
        for (index, record) in self.at(here.wire()) {
            if record.rtype != qtype {
                continue;
            }
            let ttl = chain_ttl.min(effective_ttl(record.ttl));
            let address = match (qtype, &record.data) {
                (rtype::A, RecordData::A(address)) => IpAddr::V4(*address),
                (rtype::AAAA, RecordData::Aaaa(address)) => IpAddr::V6(*address),
                (rtype::SVCB | rtype::HTTPS, RecordData::Svcb { ipv4hint, ipv6hint, .. }) => {
                    // In AliasMode clients ignore all parameters (RFC 9460 section 2.4.2); for one that doesn't, they are addresses like others.
                    let hints = ipv4hint.iter().copied().map(IpAddr::V4);
                    let hints = hints.chain(ipv6hint.iter().copied().map(IpAddr::V6));
                    self.addresses.extend(hints.map(|address| BoundAddress {
                        address,
                        ttl,
                        record: index,
                        origin: Origin::Hint,
                    }));
                    self.keep_record(index);
                    continue;
                }
                (rtype::A | rtype::AAAA, _) => {
                    return Err(BindError::Malformed { owner: here.clone(), rtype: qtype });
                }
                _ => {
                    self.keep_record(index);
                    continue;
                }
            };
            if let Some((place, kept)) = first_of.get(address) {
                self.duplicates = self.duplicates.saturating_add(1);
                self.prefer_longer(place, kept, ttl, index);
                continue;
            }
            first_of.insert(address, (self.addresses.len(), self.keep.len()));
            self.addresses.push(BoundAddress { address, ttl, record: index, origin: Origin::Direct });
            self.keep_record(index);
        }
        if qtype != rtype::RRSIG {
            self.keep_signatures(here, qtype);
        }
        Ok(())
    }

    /// Whether the answer is a set of services of which one is malformed: clients must reject all of them, and do without (RFC 9460 section 2.2).
    fn is_unusable_service(&self, here: &Name) -> bool {
        let qtype = self.question.qtype;
        matches!(qtype, rtype::SVCB | rtype::HTTPS)
            && self.at(here.wire()).any(|(_, record)| record.rtype == qtype && record.data == RecordData::Other)
    }

    /// A repeated address with a larger TTL takes the first one's place.
    fn prefer_longer(&mut self, place: usize, kept: usize, ttl: u32, index: usize) {
        let Some(bound) = self.addresses.get_mut(place).filter(|bound| bound.ttl < ttl) else { return };
        bound.ttl = ttl;
        let old = std::mem::replace(&mut bound.record, index);
        if let Some(kept) = self.keep.get_mut(kept) {
            *kept = Kept::Record(index);
        }
        for (record, value) in [(old, false), (index, true)] {
            if let Some(flag) = self.kept.get_mut(record) {
                *flag = value;
            }
        }
    }

    /// Keeps a record once, however often the chain comes by.
    fn keep_record(&mut self, index: usize) {
        if let Some(flag) = self.kept.get_mut(index)
            && !std::mem::replace(flag, true)
        {
            self.keep.push(Kept::Record(index));
        }
    }

    fn keep_signatures(&mut self, owner: &Name, covers: u16) {
        for (index, record) in self.at(owner.wire()) {
            if record.rtype == rtype::RRSIG && matches!(record.data, RecordData::Rrsig { covered } if covered == covers)
            {
                self.keep_record(index);
            }
        }
    }

    fn least_kept(&self) -> Option<u32> {
        let ttl = |kept: &Kept| match kept {
            Kept::Record(index) => self.records.get(*index).map(|record| effective_ttl(record.ttl)),
            Kept::SynthesisedCname { ttl, .. } => Some(*ttl),
        };
        self.keep.iter().filter_map(ttl).chain((!self.keep.is_empty()).then_some(self.least)).min()
    }
}
