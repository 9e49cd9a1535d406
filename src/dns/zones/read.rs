//! A zone from its master file, its hosts file or the records of the configuration.
//!
//! Master files are read by hickory's parser, which doesn't say where it stops: the line is found by reading ever shorter beginnings of the file.
//! Each of our own demands is such that a beginning which breaks it stays broken, however the file goes on.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hickory_proto::rr::rdata::{A, AAAA, SOA};
use hickory_proto::rr::{DNSClass, Name as HickoryName, RData, Record, RecordSet, RecordType, RrKey};
use hickory_proto::serialize::txt::{ParseError, Parser};
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{AxfrPolicy, ZoneType};

use super::{OWN_TTL, Zone, hickory_name, own_name, own_soa, record_of};
use crate::config::list_file::{self, Stamp};
use crate::config::schema;
use crate::core::answer::RecordData;
use crate::core::name::Name;
use crate::core::policy::{UserNameError, name_from_user};
use crate::core::zones::{Found, ZoneIndex};
use crate::dns::codec::response::Authority;
use crate::dns::codec::wire::rtype;

/// Most octets of a zone's file.
pub const MOST_OCTETS: usize = 16 << 20;
/// Most records of a zone.
pub const MOST_RECORDS: usize = 100_000;

/// Warnings of one zone that are kept.
const WARNINGS: usize = 10;

/// What is wrong with a zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// The key of `[[dns.zone]]` that is concerned, as `records[2]`.
    pub key: String,
    /// In words, with file and line.
    pub reason: String,
    /// Whether the configuration itself is wrong, not a file beside it.
    pub in_config: bool,
}

impl Wrong {
    fn config(key: impl Into<String>, reason: impl ToString) -> Vec<Self> {
        vec![Self { key: key.into(), reason: reason.to_string(), in_config: true }]
    }

    fn file(key: &str, reason: impl ToString) -> Vec<Self> {
        vec![Self { key: key.to_owned(), reason: reason.to_string(), in_config: false }]
    }
}

/// Why a zone can't be made of what it is to hold.
#[derive(Debug, thiserror::Error)]
pub enum ZoneError {
    /// Its name is none.
    #[error("\"{text}\" is not a domain name: {source}")]
    Apex {
        /// The name, as it was written.
        text: String,
        /// What is wrong with it.
        source: UserNameError,
    },
    /// It would take every name from the upstreams.
    #[error("the root can't be a local zone: every name would lie in it")]
    Root,
    /// Its file is longer than is read.
    #[error("{}: is longer than {MOST_OCTETS} octets", .0.display())]
    Long(PathBuf),
    /// Its file is no text.
    #[error("{}:{line}: is not UTF-8 text", path.display())]
    NoText {
        /// The file's path.
        path: PathBuf,
        /// The line of the first octet that is none.
        line: usize,
    },
    /// A directive that would lead to other files.
    #[error("$INCLUDE is not supported: put the records in one file")]
    Include,
    /// A line that the parser would pass over.
    #[error("a name without a record, or half of one")]
    Half,
    /// The parser refuses it.
    #[error(transparent)]
    Parser(#[from] ParseError),
    /// The parser failed on it.
    #[error("can't be read")]
    Defect,
    /// A name that the guard has no form for.
    #[error("not a name")]
    NoName,
    /// A record of somebody else's.
    #[error("{owner} lies outside the zone {apex}")]
    Outside {
        /// The record's owner.
        owner: Name,
        /// The zone's name.
        apex: Name,
    },
    /// An alias at the zone's own name.
    #[error("the top of a zone can't be an alias (CNAME)")]
    AliasAtTop,
    /// An alias that isn't alone.
    #[error("{0} has an alias (CNAME) beside other data")]
    AliasBeside(Name),
    /// A SOA below the zone's own name.
    #[error("a SOA at {owner}, which is not the top of the zone {apex}")]
    Soa {
        /// The record's owner.
        owner: Name,
        /// The zone's name.
        apex: Name,
    },
    /// A record that would have to be looked up elsewhere.
    #[error("{0}: ANAME is not supported")]
    Aname(Name),
    /// A record of another class than IN.
    #[error("{owner}: class {class} is not supported")]
    Class {
        /// The record's owner.
        owner: Name,
        /// The record's class.
        class: DNSClass,
    },
    /// Data that has no form on the wire.
    #[error("{owner}: its {kind} can't be written as DNS has it")]
    Unwritable {
        /// The record's owner.
        owner: Name,
        /// The record's type.
        kind: RecordType,
    },
    /// More records than are held.
    #[error("a zone has {MOST_RECORDS} records at most")]
    Many,
    /// A text of the configuration that is several records, or a directive.
    #[error("not one record")]
    NotOneLine,
    /// A text of the configuration without a record.
    #[error("not one record, as in \"nas A 192.0.2.7\"")]
    NotOne,
    /// A line of a hosts file without its address.
    #[error("\"{0}\" is not an address")]
    NoAddress(String),
    /// A word of a hosts file that no host can be called.
    #[error("\"{word}\" is not a name: {source}")]
    HostName {
        /// The word, as it was written.
        word: String,
        /// What is wrong with it.
        source: UserNameError,
    },
    /// A word of a hosts file that the parser's library takes for no name.
    #[error("\"{0}\" is not a name")]
    Host(String),
    /// The library that answers refuses the records.
    #[error("{0}")]
    Handler(String),
}

/// A zone that was read.
#[derive(Debug)]
pub struct Read {
    /// What came of it.
    pub zone: Zone,
    /// Of its file.
    pub stamp: Option<Stamp>,
    /// Of its file's octets, in hexadecimal.
    pub sha256: Option<String>,
    /// Names of a hosts file that are not the zone's.
    pub skipped: usize,
    /// What is likely not meant, in words.
    pub warnings: Vec<String>,
}

/// By name and type.
type Records = BTreeMap<RrKey, RecordSet>;

/// Reads a zone whole.
///
/// # Errors
/// All that is wrong with records of the configuration, or the first of a file.
pub fn read(zone: &schema::Zone) -> Result<Read, Vec<Wrong>> {
    one_source(zone)?;
    let Some(path) = zone.path() else { return of_content(zone, &[]) };
    let (content, stamp) =
        list_file::read(path).map_err(|reason| Wrong::file(key_of(zone), format!("{}: {reason}", path.display())))?;
    of_content(zone, &content).map(|read| Read { stamp: Some(stamp), ..read })
}

/// Likewise, with this in place of what its file has.
///
/// # Errors
/// See [`read`].
pub fn of_content(zone: &schema::Zone, content: &[u8]) -> Result<Read, Vec<Wrong>> {
    let apex = apex(&zone.name).map_err(|reason| Wrong::config("name", reason))?;
    let origin = hickory_name(&apex).ok_or_else(|| Wrong::config("name", "not a name"))?;
    let ttl = u32::try_from(zone.ttl.0.as_secs()).unwrap_or(u32::MAX);
    let made = Made { apex, origin, ttl };
    let (zone, skipped) = match (&zone.file, &zone.hosts) {
        (None, None) => {
            let records = made.inline(&zone.records)?;
            let zone = made.zone(records, None).map_err(|reason| Wrong::config("records", reason))?;
            return Ok(Read { warnings: warnings(&zone), zone, stamp: None, sha256: None, skipped: 0 });
        }
        (Some(path), _) | (_, Some(path)) => {
            let key = key_of(zone);
            let at =
                |(line, reason): (usize, ZoneError)| Wrong::file(key, format!("{}:{line}: {reason}", path.display()));
            let text = text_of(path, content).map_err(|reason| Wrong::file(key, reason))?;
            let (records, pointers, skipped) = match zone.hosts.is_some() {
                true => {
                    let hosts = made.hosts(text).map_err(at)?;
                    (hosts.records, Some(hosts.pointers), hosts.skipped)
                }
                false => (made.master(text).map_err(at)?, None, 0),
            };
            (made.zone(records, pointers).map_err(|reason| Wrong::file(key, reason))?, skipped)
        }
    };
    let digest = ring::digest::digest(&ring::digest::SHA256, content);
    let sha256 = digest.as_ref().iter().map(|octet| format!("{octet:02x}")).collect();
    Ok(Read { warnings: warnings(&zone), zone, stamp: None, sha256: Some(sha256), skipped })
}

/// Whether the configuration says where the records come from, once.
fn one_source(zone: &schema::Zone) -> Result<(), Vec<Wrong>> {
    let sources = [zone.file.is_some(), zone.hosts.is_some(), !zone.records.is_empty()];
    match sources.into_iter().filter(|given| *given).count() {
        0 => Err(Wrong::config("name", "`file`, `hosts` or `records` must say what the zone holds")),
        1 => Ok(()),
        _ => Err(Wrong::config("name", "a zone comes from one of `file`, `hosts` and `records`")),
    }
}

/// The key that names its file.
fn key_of(zone: &schema::Zone) -> &'static str {
    if zone.hosts.is_some() { "hosts" } else { "file" }
}

/// Aliases that lead nowhere: most likely a dot is missing. The first few.
fn warnings(zone: &Zone) -> Vec<String> {
    let apex = zone.index.apex();
    let within = zone.aliases.iter().filter(|(_, target)| target.is_within(apex));
    let lost = within.filter(|(_, target)| {
        let cut = zone.cuts.iter().any(|cut| target.is_within(cut));
        !cut && zone.index.find(target, rtype::CNAME) == Found::NoName
    });
    let words =
        |(owner, target): &(Name, Name)| format!("{owner} is an alias of {target}, which the zone does not have");
    lost.take(WARNINGS).map(words).collect()
}

/// The name of a zone.
///
/// # Errors
/// Why it can't be one.
pub fn apex(text: &str) -> Result<Name, ZoneError> {
    let name = name_from_user(text).map_err(|source| ZoneError::Apex { text: text.to_owned(), source })?;
    match name == Name::root() {
        true => Err(ZoneError::Root),
        false => Ok(name),
    }
}

fn text_of<'a>(path: &Path, content: &'a [u8]) -> Result<&'a str, ZoneError> {
    if content.len() > MOST_OCTETS {
        return Err(ZoneError::Long(path.to_owned()));
    }
    let text = std::str::from_utf8(content).map_err(|error| {
        let good = content.get(..error.valid_up_to()).unwrap_or_default();
        let line = good.iter().filter(|octet| **octet == b'\n').count().saturating_add(1);
        ZoneError::NoText { path: path.to_owned(), line }
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// What comes of a hosts file.
struct Hosts {
    records: Records,
    /// Only the first name of a line.
    pointers: Vec<(IpAddr, Name)>,
    skipped: usize,
}

/// What is known of a zone before its records.
struct Made {
    apex: Name,
    origin: HickoryName,
    ttl: u32,
}

impl Made {
    /// A master file; or the line that is wrong, and why.
    fn master(&self, text: &str) -> Result<Records, (usize, ZoneError)> {
        let includes =
            |line: &str| line.trim_start().get(..8).is_some_and(|word| word.eq_ignore_ascii_case("$include"));
        if let Some(at) = text.lines().position(includes) {
            return Err((at.saturating_add(1), ZoneError::Include));
        }
        let entries = entries(text);
        // The parser takes these for blank lines.
        if let Some(entry) = entries.iter().find(|entry| entry.is_short(text)) {
            return Err((entry.line, ZoneError::Half));
        }
        let read = |text: &str| self.parse(text).and_then(|records| self.check(&records).map(|()| records));
        let reason = match read(text) {
            Ok(records) => return Ok(records),
            Err(reason) => reason,
        };
        let beginning = |count: usize| {
            let end = count.checked_sub(1).and_then(|last| entries.get(last)).map_or(0, |entry| entry.end);
            text.get(..end).unwrap_or(text)
        };
        let count = first_wrong(entries.len(), |count| read(beginning(count)).is_err());
        let line = count.checked_sub(1).and_then(|last| entries.get(last)).map_or(1, |entry| entry.line);
        // What is wrong first need not be what stopped the whole.
        Err((line, read(beginning(count)).err().unwrap_or(reason)))
    }

    fn parse(&self, text: &str) -> Result<Records, ZoneError> {
        let text = format!("$TTL {}\n{text}", self.ttl);
        let origin = self.origin.clone();
        // A defect in the parser must take nothing with it but this zone.
        let parsed = std::panic::catch_unwind(move || Parser::new(text, None, Some(origin)).parse());
        match parsed {
            Ok(Ok((_, records))) => Ok(records),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(ZoneError::Defect),
        }
    }

    /// What no zone of ours may have.
    fn check(&self, records: &Records) -> Result<(), ZoneError> {
        let mut count = 0usize;
        let mut before: Option<(&RrKey, bool)> = None;
        for (key, set) in records {
            let owner = own_name(set.name()).ok_or(ZoneError::NoName)?;
            if !owner.is_within(&self.apex) {
                return Err(ZoneError::Outside { owner, apex: self.apex.clone() });
            }
            let kind = set.record_type();
            let alias = kind == RecordType::CNAME;
            if alias && owner == self.apex {
                return Err(ZoneError::AliasAtTop);
            }
            let beside = before.is_some_and(|(other, was)| other.name() == key.name() && (was || alias));
            let several = set.records_without_rrsigs().count();
            if beside || (alias && several > 1) {
                return Err(ZoneError::AliasBeside(owner));
            }
            before = Some((key, alias));
            if kind == RecordType::SOA && owner != self.apex {
                return Err(ZoneError::Soa { owner, apex: self.apex.clone() });
            }
            if kind == RecordType::ANAME {
                return Err(ZoneError::Aname(owner));
            }
            for record in set.records_without_rrsigs() {
                if record.dns_class != DNSClass::IN {
                    return Err(ZoneError::Class { owner, class: record.dns_class });
                }
                if record_of(record, &owner).is_none() {
                    return Err(ZoneError::Unwritable { owner, kind });
                }
            }
            count = count.saturating_add(several);
        }
        if count > MOST_RECORDS {
            return Err(ZoneError::Many);
        }
        Ok(())
    }

    /// Records of the configuration.
    fn inline(&self, texts: &[String]) -> Result<Records, Vec<Wrong>> {
        let (mut sets, mut wrong) = (Vec::new(), Vec::new());
        for (at, text) in texts.iter().enumerate() {
            let one = match text.contains(['\n', '\r']) || text.trim_start().starts_with('$') {
                true => Err(ZoneError::NotOneLine),
                false => self.parse(text),
            };
            let one = one.and_then(|set| match set.len() {
                1 => self.check(&set).map(|()| set),
                _ => Err(ZoneError::NotOne),
            });
            match one {
                Ok(set) => sets.push(set),
                Err(reason) => wrong.extend(Wrong::config(format!("records[{at}]"), format!("\"{text}\": {reason}"))),
            }
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let merged = |count: usize| {
            let mut records = Records::new();
            sets.iter().take(count).flatten().for_each(|(_, set)| {
                set.records_without_rrsigs().for_each(|record| insert(&mut records, record.clone()));
            });
            records
        };
        let records = merged(sets.len());
        let Err(reason) = self.check(&records) else { return Ok(records) };
        let count = first_wrong(sets.len(), |count| self.check(&merged(count)).is_err());
        let at = count.saturating_sub(1);
        let text = texts.get(at).map(String::as_str).unwrap_or_default();
        Err(Wrong::config(format!("records[{at}]"), format!("\"{text}\": {reason}")))
    }

    /// A hosts file; or the line that is wrong, and why.
    fn hosts(&self, text: &str) -> Result<Hosts, (usize, ZoneError)> {
        let mut hosts = Hosts { records: Records::new(), pointers: Vec::new(), skipped: 0 };
        let mut count = 0usize;
        for (at, line) in text.lines().enumerate() {
            let wrong = |reason: ZoneError| (at.saturating_add(1), reason);
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let Some(first) = words.next() else { continue };
            // "fe80::1%lo0 localhost"
            let plain = first.split('%').next().unwrap_or_default();
            let address: IpAddr = plain.parse().map_err(|_| wrong(ZoneError::NoAddress(first.to_owned())))?;
            // Of the host that the file was written on.
            let of_host = !crate::core::address::can_be_elsewhere(address) || first.contains('%');
            let mut pointed = false;
            for word in words {
                let name = if word.contains('.') { word.to_owned() } else { format!("{word}.{}", self.apex) };
                let unnamed = |source| wrong(ZoneError::HostName { word: word.to_owned(), source });
                let name = name_from_user(&name).map_err(unnamed)?;
                if of_host || !name.is_within(&self.apex) {
                    hosts.skipped = hosts.skipped.saturating_add(1);
                    continue;
                }
                let owner = hickory_name(&name).ok_or_else(|| wrong(ZoneError::Host(word.to_owned())))?;
                let data = match address {
                    IpAddr::V4(v4) => RData::A(A(v4)),
                    IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
                };
                insert(&mut hosts.records, Record::from_rdata(owner, self.ttl, data));
                count = count.saturating_add(1);
                if count > MOST_RECORDS {
                    return Err(wrong(ZoneError::Many));
                }
                if !pointed {
                    hosts.pointers.push((address, name));
                    pointed = true;
                }
            }
        }
        Ok(hosts)
    }

    /// The zone of records that were checked. `pointers`: those there are to be, where not every name of an address is one.
    fn zone(&self, mut records: Records, pointers: Option<Vec<(IpAddr, Name)>>) -> Result<Zone, ZoneError> {
        // Somebody else's from there on: an upstream is asked, whose matter glue is.
        let delegates = |set: &RecordSet| set.record_type() == RecordType::NS;
        let delegated = records.values().filter(|set| delegates(set)).filter_map(|set| own_name(set.name()));
        let cuts: Vec<Name> = delegated.filter(|name| *name != self.apex).collect();
        if !cuts.is_empty() {
            records
                .retain(|_, set| own_name(set.name()).is_some_and(|name| !cuts.iter().any(|cut| name.is_within(cut))));
        }
        let soa_key = RrKey::new((&self.origin).into(), RecordType::SOA);
        let mut soa = own_soa(&self.apex);
        match records.get(&soa_key).and_then(|set| record_of(set.records_without_rrsigs().next()?, &self.apex)) {
            Some((record, rdata)) => {
                soa = Authority { owner: self.apex.clone(), rtype: record.rtype, ttl: record.ttl, rdata };
            }
            None => insert(&mut records, self.soa()),
        }
        let mut index = ZoneIndex::new(self.apex.clone());
        let (mut found, mut aliases) = (Vec::new(), Vec::new());
        let mut count = 0usize;
        for set in records.values() {
            let owner = own_name(set.name()).ok_or(ZoneError::NoName)?;
            index.add(&owner, u16::from(set.record_type()));
            for (record, _) in set.records_without_rrsigs().filter_map(|record| record_of(record, &owner)) {
                count = count.saturating_add(1);
                match record.data {
                    RecordData::A(address) => found.push((IpAddr::V4(address), owner.clone())),
                    RecordData::Aaaa(address) => found.push((IpAddr::V6(address), owner.clone())),
                    RecordData::Cname(target) => aliases.push((owner.clone(), target)),
                    RecordData::Svcb { ipv4hint, ipv6hint, .. } => {
                        ipv4hint.into_iter().for_each(|hint| index.add_address(IpAddr::V4(hint)));
                        ipv6hint.into_iter().for_each(|hint| index.add_address(IpAddr::V6(hint)));
                    }
                    _ => {}
                }
            }
        }
        found.iter().for_each(|(address, _)| index.add_address(*address));
        let pointers = pointers.unwrap_or_else(|| {
            let is_wildcard = |name: &Name| name.labels().next() == Some(b"*".as_slice());
            found.into_iter().filter(|(_, name)| !is_wildcard(name)).collect()
        });
        let handler = InMemoryZoneHandler::new(self.origin.clone(), records, ZoneType::Primary, AxfrPolicy::Deny);
        let handler = handler.map_err(ZoneError::Handler)?;
        Ok(Zone { index: Arc::new(index), cuts, soa, records: count, aliases, pointers, handler: Ok(handler) })
    }

    /// The zone's SOA, made like that of [`own_soa`].
    fn soa(&self) -> Record {
        let nobody = HickoryName::from_labels([b"nobody".as_slice(), b"invalid"]).unwrap_or_default();
        let soa = SOA::new(self.origin.clone(), nobody, 1, 3600, 600, 86_400, OWN_TTL);
        Record::from_rdata(self.origin.clone(), OWN_TTL, RData::SOA(soa))
    }
}

fn insert(records: &mut Records, record: Record) {
    let key = RrKey::new((&record.name).into(), record.record_type());
    match records.get_mut(&key) {
        Some(set) => drop(set.insert(record, 0)),
        None => drop(records.insert(key, RecordSet::from(record))),
    }
}

/// The least count up to this one at which something is wrong, which it then is at all that follow.
fn first_wrong(count: usize, is_wrong: impl Fn(usize) -> bool) -> usize {
    let (mut good, mut wrong) = (0, count);
    while wrong.saturating_sub(good) > 1 {
        let middle = good.midpoint(wrong);
        if is_wrong(middle) {
            wrong = middle;
        } else {
            good = middle;
        }
    }
    wrong
}

/// An entry of a master file: the line it begins at, and its place in the text.
struct Entry {
    line: usize,
    start: usize,
    end: usize,
}

impl Entry {
    /// Whether it is too short for a record, its name, type and data, and not blank.
    fn is_short(&self, text: &str) -> bool {
        let text = text.get(self.start..self.end).unwrap_or_default();
        let words = text.split(';').next().unwrap_or_default();
        let least = if words.starts_with([' ', '\t', '$']) { 2 } else { 3 };
        (1..least).contains(&words.split_whitespace().count())
    }
}

/// Lines, joined where parentheses or quotes go on.
fn entries(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    let (mut line, mut begin, mut start) = (1usize, 1usize, 0usize);
    let (mut depth, mut quoted, mut comment, mut escaped) = (0usize, false, false, false);
    for (at, octet) in text.bytes().enumerate() {
        let was_escaped = std::mem::take(&mut escaped);
        match octet {
            b'\n' => {
                line = line.saturating_add(1);
                comment = false;
                if depth == 0 && !quoted {
                    entries.push(Entry { line: begin, start, end: at.saturating_add(1) });
                    (begin, start) = (line, at.saturating_add(1));
                }
            }
            _ if comment || was_escaped => {}
            b'\\' => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b';' => comment = true,
            b'(' => depth = depth.saturating_add(1),
            b')' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    if entries.last().is_none_or(|last| last.end < text.len()) {
        entries.push(Entry { line: begin, start, end: text.len() });
    }
    entries
}
