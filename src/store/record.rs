//! One record of the lease journal.
//!
//! ```text
//!  0     1         9            17           25
//!  +-----+---------+------------+------------+---------+-----------+
//!  | tag | written | ends, boot | ends, wall | address | names ... |
//!  +-----+---------+------------+------------+---------+-----------+
//! ```
//! Integers are big-endian, times milliseconds. `written` is the wall clock at writing. An address is its length (4 or 16) and its octets. Behind it stands the
//! number of groups whose communities the route bears, and of each the length of its name, the name, and its own two ends. A name is its length and its
//! uncompressed wire form; behind a question stand four octets, by how much its own end comes before the lease's; an alias stands behind its question, with an
//! octet of zero in front. A lease with the tag for additions has only the questions that came since the record before it for its address; behind a closing,
//! or alone, it counts like any other. A revoked name is its wire form. A pair of client and address has the client's address behind the other, no groups, and no ends of
//! questions. Any other pair has behind the address an octet that says for whom (0: anyone; 1: a client, whose address follows; 2: an application, whose name
//! follows behind its length), the protocol (0: all ports), and the port in two octets.
//!
//! What is around a record in the file is [`super::frame`]'s; before version 4 it was its length in two octets and its crc32c in four.

use std::net::IpAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::core::name::Name;
use crate::core::narrow::Port;
use crate::core::policy::view::MOST_GROUPS;

/// Questions kept per record; the rest is for `explain` only and comes back with the next answer.
const NAMES: usize = crate::core::event::ASKED;
/// Aliases kept per record, of all its questions.
const ALIASES: usize = 32;
/// In place of a name's length, which is never zero: the name behind it is an alias.
const ALIAS: u8 = 0;
/// A lease as earlier versions wrote it: its questions have no ends of their own; with groups, and without.
const PLAIN_LEASE: u8 = 1;
const LEASE_OF_GROUPS: u8 = 3;
const CLOSED: u8 = 2;
const PAIR: u8 = 4;
const PAIR_CLOSED: u8 = 5;
const TIME: u8 = 6;
const LEASE: u8 = 7;
const LEASE_ADDS: u8 = 8;
const REVOKED: u8 = 9;
const NARROW: u8 = 10;
const NARROW_CLOSED: u8 = 11;
/// Pairs whose questions have ends of their own; [`PAIR`] and [`NARROW`] are of earlier versions.
const PAIR_OF_ENDS: u8 = 12;
const NARROW_OF_ENDS: u8 = 13;
/// For whom a pair is.
const ANYONE: u8 = 0;
const CLIENT: u8 = 1;
const APPLICATION: u8 = 2;
/// Octets before a record of an earlier version.
pub const OLD_HEAD: usize = 6;

/// One group of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRecord {
    /// The group's name; a longer one than 255 octets isn't kept.
    pub name: String,
    /// End of the lease for this group on the boot clock.
    pub ends_boot: u64,
    /// The same on the wall clock.
    pub ends_wall: u64,
}

/// A question of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathRecord {
    /// The name that the question asked for.
    pub question: Name,
    /// The aliases behind it, in order.
    pub chain: Arc<[Name]>,
    /// Milliseconds by which its own end comes before the lease's.
    pub before_end: u32,
}

/// Those of a record; most have one.
pub type PathRecords = SmallVec<[PathRecord; 1]>;

/// For whom a pair is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whom {
    /// Everybody who is guarded here.
    Anyone,
    /// The client of this address alone.
    Client(IpAddr),
    /// An application of this host, by name; of a longer one than 255 octets nothing is kept behind them.
    Application(String),
}

/// A record as it is in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A lease began or moved later.
    Lease {
        /// The leased address.
        address: IpAddr,
        /// Wall clock at writing.
        written: u64,
        /// End of the lease on the boot clock.
        ends_boot: u64,
        /// End of the lease on the wall clock.
        ends_wall: u64,
        /// The questions that caused it.
        paths: PathRecords,
        /// Only the new ones of these: those of the record before count as well.
        adds: bool,
        /// Groups whose communities the route bears.
        groups: Vec<GroupRecord>,
    },
    /// A lease was closed early.
    Closed {
        /// The closed address.
        address: IpAddr,
    },
    /// A name was revoked: no lease is open for it, as question or alias.
    Revoked {
        /// The name that was revoked.
        name: Name,
    },
    /// So much of an address was opened, or for longer.
    Pair {
        /// The address that was opened.
        address: IpAddr,
        /// The ones who may reach it.
        whom: Whom,
        /// To which port.
        to: Port,
        /// Wall clock at writing.
        written: u64,
        /// The end on the boot clock.
        ends_boot: u64,
        /// The end on the wall clock.
        ends_wall: u64,
        /// The questions that caused it.
        paths: PathRecords,
    },
    /// It was closed early.
    PairClosed {
        /// The address that was closed.
        address: IpAddr,
        /// The ones who could reach it.
        whom: Whom,
        /// To which port.
        to: Port,
    },
    /// So late it was when nothing else was written for a while.
    Time {
        /// Wall clock at writing.
        written: u64,
    },
}

/// Appends `record` to `out`.
pub fn encode(record: &Record, out: &mut Vec<u8>) {
    match record {
        Record::Lease { address, written, ends_boot, ends_wall, paths, adds, groups } => {
            let groups: Vec<(u8, &GroupRecord)> = groups
                .iter()
                .filter_map(|group| Some((u8::try_from(group.name.len()).ok()?, group)))
                .take(MOST_GROUPS)
                .collect();
            out.push(if *adds { LEASE_ADDS } else { LEASE });
            for time in [written, ends_boot, ends_wall] {
                out.extend_from_slice(&time.to_be_bytes());
            }
            put_address(*address, out);
            out.push(u8::try_from(groups.len()).unwrap_or(u8::MAX));
            for (len, group) in groups {
                out.push(len);
                out.extend_from_slice(group.name.as_bytes());
                out.extend_from_slice(&group.ends_boot.to_be_bytes());
                out.extend_from_slice(&group.ends_wall.to_be_bytes());
            }
            put_paths(paths, out);
        }
        Record::Pair { address, whom, to, written, ends_boot, ends_wall, paths } => {
            out.push(if is_of_client(whom, *to) { PAIR_OF_ENDS } else { NARROW_OF_ENDS });
            for time in [written, ends_boot, ends_wall] {
                out.extend_from_slice(&time.to_be_bytes());
            }
            put_address(*address, out);
            put_narrow(whom, *to, out);
            put_paths(paths, out);
        }
        Record::PairClosed { address, whom, to } => {
            out.push(if is_of_client(whom, *to) { PAIR_CLOSED } else { NARROW_CLOSED });
            put_address(*address, out);
            put_narrow(whom, *to, out);
        }
        Record::Revoked { name } => {
            out.push(REVOKED);
            out.extend_from_slice(name.wire());
        }
        Record::Closed { address } => {
            out.push(CLOSED);
            put_address(*address, out);
        }
        Record::Time { written } => {
            out.push(TIME);
            out.extend_from_slice(&written.to_be_bytes());
        }
    }
}

/// Reads the record at the front of `octets` as earlier versions wrote it; returns it and its length. `None`: torn or damaged.
#[must_use]
pub fn decode_old(octets: &[u8]) -> Option<(Record, usize)> {
    let (len, rest) = octets.split_first_chunk::<2>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let payload = rest.get(..usize::from(u16::from_be_bytes(*len)))?;
    if crc32c(&[payload]) != u32::from_be_bytes(*sum) {
        return None;
    }
    Some((decode(payload)?, OLD_HEAD + payload.len()))
}

/// Reads a whole record; `None` for one of no known kind.
#[must_use]
pub fn decode(payload: &[u8]) -> Option<Record> {
    let (&tag, mut rest) = payload.split_first()?;
    let record = match tag {
        PLAIN_LEASE | LEASE_OF_GROUPS | LEASE | LEASE_ADDS => {
            let written = take_time(&mut rest)?;
            let ends_boot = take_time(&mut rest)?;
            let ends_wall = take_time(&mut rest)?;
            let address = take_address(&mut rest)?;
            let groups = if tag == PLAIN_LEASE { Vec::new() } else { take_groups(&mut rest)? };
            let paths = take_paths(rest, matches!(tag, LEASE | LEASE_ADDS))?;
            Record::Lease { address, written, ends_boot, ends_wall, paths, adds: tag == LEASE_ADDS, groups }
        }
        PAIR | NARROW | PAIR_OF_ENDS | NARROW_OF_ENDS => {
            let written = take_time(&mut rest)?;
            let ends_boot = take_time(&mut rest)?;
            let ends_wall = take_time(&mut rest)?;
            let address = take_address(&mut rest)?;
            let (whom, to) = take_narrow(matches!(tag, PAIR | PAIR_OF_ENDS), &mut rest)?;
            let paths = take_paths(rest, matches!(tag, PAIR_OF_ENDS | NARROW_OF_ENDS))?;
            Record::Pair { address, whom, to, written, ends_boot, ends_wall, paths }
        }
        PAIR_CLOSED | NARROW_CLOSED => {
            let address = take_address(&mut rest)?;
            let (whom, to) = take_narrow(tag == PAIR_CLOSED, &mut rest)?;
            Record::PairClosed { address, whom, to }
        }
        REVOKED => Record::Revoked { name: Name::from_wire(rest).ok()? },
        CLOSED => Record::Closed { address: take_address(&mut rest)? },
        TIME => Record::Time { written: take_time(&mut rest)? },
        _ => return None,
    };
    Some(record)
}

fn put_address(address: IpAddr, out: &mut Vec<u8>) {
    match address {
        IpAddr::V4(v4) => {
            out.push(4);
            out.extend_from_slice(&v4.octets());
        }
        IpAddr::V6(v6) => {
            out.push(16);
            out.extend_from_slice(&v6.octets());
        }
    }
}

/// Whether earlier versions know it.
fn is_of_client(whom: &Whom, to: Port) -> bool {
    matches!((whom, to), (Whom::Client(_), Port::Any))
}

fn put_narrow(whom: &Whom, to: Port, out: &mut Vec<u8>) {
    match whom {
        Whom::Client(client) if to == Port::Any => return put_address(*client, out),
        Whom::Anyone => out.push(ANYONE),
        Whom::Client(client) => {
            out.push(CLIENT);
            put_address(*client, out);
        }
        Whom::Application(name) => {
            let name = name.as_bytes();
            let name = name.get(..usize::from(u8::MAX)).unwrap_or(name);
            out.push(APPLICATION);
            out.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
            out.extend_from_slice(name);
        }
    }
    let (protocol, port) = match to {
        Port::Any => (0, 0),
        Port::Of { protocol, port } => (protocol, port),
    };
    out.push(protocol);
    out.extend_from_slice(&port.to_be_bytes());
}

/// `of_client`: a client's address alone.
fn take_narrow(of_client: bool, rest: &mut &[u8]) -> Option<(Whom, Port)> {
    if of_client {
        return Some((Whom::Client(take_address(rest)?), Port::Any));
    }
    let (&tag, tail) = rest.split_first()?;
    *rest = tail;
    let whom = match tag {
        ANYONE => Whom::Anyone,
        CLIENT => Whom::Client(take_address(rest)?),
        APPLICATION => {
            let (&len, tail) = rest.split_first()?;
            let (name, tail) = tail.split_at_checked(usize::from(len))?;
            *rest = tail;
            Whom::Application(String::from_utf8_lossy(name).into_owned())
        }
        _ => return None,
    };
    let (&[protocol, high, low], tail) = rest.split_first_chunk::<3>()?;
    *rest = tail;
    let port = u16::from_be_bytes([high, low]);
    Some((whom, if protocol == 0 { Port::Any } else { Port::Of { protocol, port } }))
}

/// Each question with its own end.
fn put_paths(all: &[PathRecord], out: &mut Vec<u8>) {
    let mut room = ALIASES;
    let put = |name: &Name, out: &mut Vec<u8>| {
        // A wire name is at most 255 octets by construction.
        out.push(u8::try_from(name.wire().len()).unwrap_or(u8::MAX));
        out.extend_from_slice(name.wire());
    };
    for PathRecord { question, chain, before_end } in all.iter().take(NAMES) {
        put(question, out);
        out.extend_from_slice(&before_end.to_be_bytes());
        for alias in chain.iter().take(room) {
            out.push(ALIAS);
            put(alias, out);
        }
        room = room.saturating_sub(chain.len());
    }
}

/// `ends`: each question with its own.
fn take_paths(mut rest: &[u8], ends: bool) -> Option<PathRecords> {
    let mut all: SmallVec<[(Name, Vec<Name>, u32); 1]> = SmallVec::new();
    while let Some((&first, tail)) = rest.split_first() {
        let (len, tail) = if first == ALIAS { tail.split_first()? } else { (&first, tail) };
        let (wire, next) = tail.split_at_checked(usize::from(*len))?;
        let name = Name::from_wire(wire).ok()?;
        rest = next;
        if first == ALIAS {
            all.last_mut()?.1.push(name);
            continue;
        }
        let mut before_end = 0;
        if ends {
            let (octets, next) = rest.split_first_chunk::<4>()?;
            (before_end, rest) = (u32::from_be_bytes(*octets), next);
        }
        all.push((name, Vec::new(), before_end));
    }
    let path = |(question, chain, before_end): (Name, Vec<Name>, u32)| PathRecord {
        question,
        chain: chain.into(),
        before_end,
    };
    Some(all.into_iter().map(path).collect())
}

fn take_groups(rest: &mut &[u8]) -> Option<Vec<GroupRecord>> {
    let (&count, tail) = rest.split_first()?;
    *rest = tail;
    let mut groups = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let (&len, tail) = rest.split_first()?;
        let (name, tail) = tail.split_at_checked(usize::from(len))?;
        *rest = tail;
        let name = String::from_utf8(name.to_vec()).ok()?;
        groups.push(GroupRecord { name, ends_boot: take_time(rest)?, ends_wall: take_time(rest)? });
    }
    Some(groups)
}

fn take_time(rest: &mut &[u8]) -> Option<u64> {
    let (octets, tail) = rest.split_first_chunk::<8>()?;
    *rest = tail;
    Some(u64::from_be_bytes(*octets))
}

fn take_address(rest: &mut &[u8]) -> Option<IpAddr> {
    let (&len, tail) = rest.split_first()?;
    match len {
        4 => {
            let (octets, tail) = tail.split_first_chunk::<4>()?;
            *rest = tail;
            Some(IpAddr::from(*octets))
        }
        16 => {
            let (octets, tail) = tail.split_first_chunk::<16>()?;
            *rest = tail;
            Some(IpAddr::from(*octets))
        }
        _ => None,
    }
}

/// CRC-32C (Castagnoli) of these parts one behind the other, as RFC 3720 section 12.1 names it.
#[must_use]
pub fn crc32c(parts: &[&[u8]]) -> u32 {
    !parts.iter().fold(!0, |sum, octets| crc32c_on(sum, octets))
}

/// Eight octets at a time with tables made at compile time: a row for each place among the eight.
fn crc32c_on(sum: u32, octets: &[u8]) -> u32 {
    const TABLE: [[u32; 256]; 8] = {
        let mut table = [[0u32; 256]; 8];
        let mut index = 0usize;
        while index < 256 {
            let mut value = index as u32;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 == 1 { (value >> 1) ^ 0x82f6_3b78 } else { value >> 1 };
                bit += 1;
            }
            table[0][index] = value;
            index += 1;
        }
        let mut row = 1usize;
        while row < 8 {
            let mut index = 0usize;
            while index < 256 {
                let value = table[row - 1][index];
                table[row][index] = (value >> 8) ^ table[0][(value & 0xff) as usize];
                index += 1;
            }
            row += 1;
        }
        table
    };
    let (eights, rest) = octets.as_chunks::<8>();
    let sum = eights.iter().fold(sum, |sum, eight| {
        let mixed = u64::from_le_bytes(*eight) ^ u64::from(sum);
        let rows = TABLE.iter().rev().zip(mixed.to_le_bytes());
        rows.fold(0, |sum, (row, octet)| sum ^ row.get(usize::from(octet)).copied().unwrap_or_default())
    });
    let [first, ..] = &TABLE;
    rest.iter().fold(sum, |sum, octet| {
        let index = usize::from((sum as u8) ^ octet);
        (sum >> 8) ^ first.get(index).copied().unwrap_or_default()
    })
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_checksum_is_crc32c() {
        // The first example of RFC 3720, B.4: 32 octets of zero.
        assert_eq!(crc32c(&[&[0; 32]]), 0x8a91_36aa);
        assert_eq!(crc32c(&[b"123456789"]), 0xe306_9283);
        assert_eq!(crc32c(&[b"1234", b"", b"56789"]), 0xe306_9283);
    }

    pub(in crate::store) fn records() -> impl Strategy<Value = Record> {
        let name = "[a-z]{1,20}(\\.[a-z]{1,20}){0,3}".prop_map(|text| text.parse::<Name>().unwrap());
        let group = (".{0,20}", any::<[u64; 2]>()).prop_map(|(name, [ends_boot, ends_wall])| GroupRecord {
            name,
            ends_boot,
            ends_wall,
        });
        let groups = prop_oneof![Just(Vec::new()), prop::collection::vec(group, 0..5)];
        let path = (name.clone(), prop::collection::vec(name.clone(), 0..2), any::<u32>())
            .prop_map(|(question, chain, before_end)| PathRecord { question, chain: chain.into(), before_end });
        let paths = prop::collection::vec(path, 0..NAMES).prop_map(PathRecords::from_vec);
        let whom = prop_oneof![
            Just(Whom::Anyone),
            any::<IpAddr>().prop_map(Whom::Client),
            ".{0,20}".prop_map(Whom::Application)
        ];
        let of = (1..=u8::MAX, any::<u16>()).prop_map(|(protocol, port)| Port::Of { protocol, port });
        let narrow = (whom, prop_oneof![Just(Port::Any), of]);
        prop_oneof![
            (any::<IpAddr>(), narrow.clone(), any::<[u64; 3]>(), paths.clone()).prop_map(
                |(address, (whom, to), [written, ends_boot, ends_wall], paths)| Record::Pair {
                    address,
                    whom,
                    to,
                    written,
                    ends_boot,
                    ends_wall,
                    paths
                }
            ),
            (any::<IpAddr>(), narrow).prop_map(|(address, (whom, to))| Record::PairClosed { address, whom, to }),
            (any::<IpAddr>(), any::<[u64; 3]>(), paths, any::<bool>(), groups).prop_map(
                |(address, [written, ends_boot, ends_wall], paths, adds, groups)| Record::Lease {
                    address,
                    written,
                    ends_boot,
                    ends_wall,
                    paths,
                    adds,
                    groups
                }
            ),
            any::<IpAddr>().prop_map(|address| Record::Closed { address }),
            name.clone().prop_map(|name| Record::Revoked { name }),
            any::<u64>().prop_map(|written| Record::Time { written }),
        ]
    }

    #[test]
    fn leases_of_earlier_versions_have_no_ends_of_their_questions() {
        let times = [1u64, 2, 3].map(u64::to_be_bytes).concat();
        let names = b"\x03\x01a\x00\x00\x03\x01b\x00\x03\x01c\x00";
        let path = |question: &str, chain: &[&str]| PathRecord {
            question: question.parse().unwrap(),
            chain: chain.iter().map(|name| name.parse::<Name>().unwrap()).collect(),
            before_end: 0,
        };
        let paths: PathRecords = smallvec::smallvec![path("a", &["b"]), path("c", &[])];
        for groups in [&b""[..], b"\x01\x04kids\x00\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00\x06"] {
            let tag = if groups.is_empty() { PLAIN_LEASE } else { LEASE_OF_GROUPS };
            let octets = [&[tag][..], &times, &[4, 192, 0, 2, 1], groups, names].concat();
            let kids = GroupRecord { name: "kids".to_owned(), ends_boot: 5, ends_wall: 6 };
            let wanted = Record::Lease {
                address: IpAddr::from([192, 0, 2, 1]),
                written: 1,
                ends_boot: 2,
                ends_wall: 3,
                paths: paths.clone(),
                adds: false,
                groups: if groups.is_empty() { vec![] } else { vec![kids] },
            };
            assert_eq!(decode(&octets), Some(wanted));
        }
        // And so have pairs.
        let octets = [&[PAIR][..], &times, &[4, 192, 0, 2, 1], &[4, 192, 0, 2, 9], names].concat();
        let wanted = Record::Pair {
            address: IpAddr::from([192, 0, 2, 1]),
            whom: Whom::Client(IpAddr::from([192, 0, 2, 9])),
            to: Port::Any,
            written: 1,
            ends_boot: 2,
            ends_wall: 3,
            paths,
        };
        assert_eq!(decode(&octets), Some(wanted));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(record in records()) {
            let mut octets = Vec::new();
            encode(&record, &mut octets);
            prop_assert_eq!(decode(&octets), Some(record));
        }

        #[test]
        fn any_octets_are_read_without_panic(octets in prop::collection::vec(any::<u8>(), 0..300)) {
            std::hint::black_box((decode(&octets), decode_old(&octets)));
        }
    }
}
