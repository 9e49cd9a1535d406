//! Reads an upstream's response with hickory's decoder into what the core judges.
//!
//! Names are read by hickory (pointers only backwards, bounded length). RDATA is kept as octets with its names decompressed,
//! for the types whose names may be compressed (RFC 3597 section 4); every other type is opaque and passes unchanged. DNAME is a type
//! that hickory doesn't know; it is read here.

use hickory_proto::rr::Name as HickoryName;
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use smallvec::SmallVec;

use crate::core::answer::{Record, RecordData, svcparam};
use crate::core::name::Name;
use crate::dns::codec::wire::{self, flag, rtype, u16_at, u32_at};

/// A response that can't be read; nothing of it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed response")]
pub struct Malformed;

/// RDATA; that of addresses needs no memory of its own.
pub type Rdata = SmallVec<[u8; 16]>;

/// A record of the AUTHORITY section that may be passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// The owner's name, as the upstream sent it.
    pub owner: Name,
    /// The record's type as a number.
    pub rtype: u16,
    /// TTL as it stood on the wire.
    pub ttl: u32,
    /// RDATA, names decompressed.
    pub rdata: Rdata,
}

/// An upstream's response.
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// Response code, the extended bits of EDNS included.
    pub rcode: u16,
    /// Whether it was cut (TC).
    pub truncated: bool,
    /// The records of the ANSWER section, in the order they came.
    pub answers: Vec<Record>,
    /// RDATA of `answers`, in the same order, names decompressed.
    pub rdata: Vec<Rdata>,
    /// SOA, NSEC, NSEC3 and their RRSIG of AUTHORITY, class IN.
    pub authority: Vec<Authority>,
    /// Whether all of it was validated here and found secure.
    pub authentic: bool,
}

struct RawRecord {
    owner: Name,
    rtype: u16,
    class: u16,
    ttl: u32,
    rdata: Rdata,
    data: RecordData,
}

/// Reads a response whose header and question were already checked against what was asked.
///
/// # Errors
/// [`Malformed`]: it ends early, a name loops, or the data of a type that must be understood can't be.
pub fn read(message: &[u8]) -> Result<Response, Malformed> {
    let head = |at| u16_at(message, at).ok_or(Malformed);
    let flags = head(2)?;
    let mut at = wire::HEADER;
    let mut question = None;
    for _ in 0..head(4)? {
        let end = wire::skip_name(message, at).ok_or(Malformed)?;
        if at == wire::HEADER {
            question = message.get(at..end).and_then(|name| Name::from_wire(name).ok());
        }
        at = end.saturating_add(4);
    }
    let mut response = Response { rcode: flags & 0x0f, truncated: flags & flag::TC != 0, ..Response::default() };
    if response.truncated {
        // What follows may be cut anywhere, and none of it is used.
        return Ok(response);
    }
    let mut decoder = at_offset(message, at)?;
    for _ in 0..head(6)? {
        let raw = read_record(message, &mut decoder, question.as_ref())?;
        response.answers.push(Record {
            owner: raw.owner,
            rtype: raw.rtype,
            class: raw.class,
            ttl: raw.ttl,
            data: raw.data,
        });
        response.rdata.push(raw.rdata);
    }
    for _ in 0..head(8)? {
        let raw = read_record(message, &mut decoder, question.as_ref())?;
        if raw.class == 1 && matches!(raw.rtype, rtype::SOA | rtype::NSEC | rtype::NSEC3 | rtype::RRSIG) {
            response.authority.push(Authority { owner: raw.owner, rtype: raw.rtype, ttl: raw.ttl, rdata: raw.rdata });
        }
    }
    // Of ADDITIONAL only the extended response code of OPT counts, so that the rest is skipped without being understood.
    let mut at = decoder.index();
    for _ in 0..head(10)? {
        at = wire::skip_name(message, at).ok_or(Malformed)?;
        let len = head(at.saturating_add(8))?;
        if head(at)? == rtype::OPT {
            let extended = u32_at(message, at.saturating_add(4)).ok_or(Malformed)? >> 24;
            response.rcode |= u16::try_from(extended).unwrap_or(0) << 4;
        }
        at = at.saturating_add(10).saturating_add(usize::from(len));
    }
    Ok(response)
}

/// `question`: the name behind the header, to which most owner names point.
fn read_record<'a>(
    message: &'a [u8],
    decoder: &mut BinDecoder<'a>,
    question: Option<&Name>,
) -> Result<RawRecord, Malformed> {
    const TO_QUESTION: &[u8] = &[0xc0, wire::HEADER as u8];
    let start = decoder.index();
    let (owner, at) = match question {
        Some(name) if message.get(start..start.saturating_add(2)) == Some(TO_QUESTION) => {
            (name.clone(), start.saturating_add(2))
        }
        _ => {
            let owner = name(decoder)?;
            (owner, decoder.index())
        }
    };
    let (Some(kind), Some(class), Some(ttl), Some(len)) = (
        u16_at(message, at),
        u16_at(message, at.saturating_add(2)),
        u32_at(message, at.saturating_add(4)),
        u16_at(message, at.saturating_add(8)),
    ) else {
        return Err(Malformed);
    };
    let start = at.saturating_add(10);
    let end = start.saturating_add(usize::from(len));
    let raw = message.get(start..end).ok_or(Malformed)?;
    let mut inner = at_offset(message, start)?;
    let rdata = decompress(kind, raw, &mut inner, end)?;
    let data = if class == 1 { understand(kind, &rdata) } else { RecordData::Other };
    *decoder = at_offset(message, end)?;
    Ok(RawRecord { owner, rtype: kind, class, ttl, rdata, data })
}

/// A decoder of the whole message that stands at `offset`. hickory's own `clone` panics behind the end.
fn at_offset(message: &[u8], offset: usize) -> Result<BinDecoder<'_>, Malformed> {
    if offset > message.len() {
        return Err(Malformed);
    }
    Ok(BinDecoder::new(message).clone(u16::try_from(offset).map_err(|_| Malformed)?))
}

/// A name in the core's form.
fn name(decoder: &mut BinDecoder<'_>) -> Result<Name, Malformed> {
    let mut wire = Vec::with_capacity(64);
    append_name(decoder, &mut wire)?;
    Name::from_wire(&wire).map_err(|_| Malformed)
}

/// Reads a name and appends its uncompressed wire form.
fn append_name(decoder: &mut BinDecoder<'_>, out: &mut Vec<u8>) -> Result<(), Malformed> {
    let name = HickoryName::read(decoder).map_err(|_| Malformed)?;
    for label in name.iter() {
        out.push(u8::try_from(label.len()).ok().filter(|len| *len < 64).ok_or(Malformed)?);
        out.extend_from_slice(label);
    }
    out.push(0);
    Ok(())
}

/// Where names stand in the data of a type that RFC 3597 section 4 lets be compressed: octets before the first, and how many follow each other.
pub(in crate::dns) fn names_in(kind: u16, raw: &[u8]) -> Result<Option<(usize, usize)>, Malformed> {
    Ok(Some(match kind {
        // NS, MD, MF, CNAME, MB, MG, MR, PTR, NXT, DNAME, NSEC
        2..=5 | 7..=9 | 12 | 30 | rtype::DNAME | rtype::NSEC => (0, 1),
        // SOA, MINFO, RP
        6 | 14 | 17 => (0, 2),
        // MX, AFSDB, RT
        15 | 18 | 21 => (2, 1),
        // PX
        26 => (2, 2),
        // SRV
        33 => (6, 1),
        // SIG, RRSIG
        24 | rtype::RRSIG => (18, 1),
        // NAPTR: two numbers, three strings, a name
        35 => {
            let mut at = 4usize;
            for _ in 0..3 {
                at = at.saturating_add(1).saturating_add(usize::from(*raw.get(at).ok_or(Malformed)?));
            }
            (at, 1)
        }
        _ => return Ok(None),
    }))
}

/// RDATA with its names decompressed. `decoder` stands at its start; it ends at `end`.
fn decompress(kind: u16, raw: &[u8], decoder: &mut BinDecoder<'_>, end: usize) -> Result<Rdata, Malformed> {
    let Some((before, names)) = names_in(kind, raw)? else { return Ok(raw.into()) };
    let mut out = raw.get(..before).ok_or(Malformed)?.to_vec();
    decoder.read_slice(before).map_err(|_| Malformed)?;
    for _ in 0..names {
        append_name(decoder, &mut out)?;
    }
    let rest = end.checked_sub(decoder.index()).ok_or(Malformed)?;
    out.extend_from_slice(raw.get(raw.len().checked_sub(rest).ok_or(Malformed)?..).ok_or(Malformed)?);
    Ok(out.into())
}

/// What the core needs of the data. `rdata` has no compressed names. Data that doesn't fit its type is `Other`, which the binder
/// refuses where it stands on the chain.
pub(in crate::dns) fn understand(kind: u16, rdata: &[u8]) -> RecordData {
    let read = || -> Option<RecordData> {
        Some(match kind {
            rtype::A => RecordData::A(<[u8; 4]>::try_from(rdata).ok()?.into()),
            rtype::AAAA => RecordData::Aaaa(<[u8; 16]>::try_from(rdata).ok()?.into()),
            rtype::CNAME => RecordData::Cname(Name::from_wire(rdata).ok()?),
            rtype::DNAME => RecordData::Dname(Name::from_wire(rdata).ok()?),
            rtype::RRSIG => RecordData::Rrsig { covered: u16_at(rdata, 0)? },
            rtype::SVCB | rtype::HTTPS => service(rdata)?,
            _ => return None,
        })
    };
    read().unwrap_or(RecordData::Other)
}

/// SVCB and HTTPS (RFC 9460 section 2.2). `None`: malformed, so that no client may use it.
fn service(rdata: &[u8]) -> Option<RecordData> {
    let mut at = 2usize;
    while let Some(len) = rdata.get(at).filter(|len| **len != 0) {
        at = at.checked_add(1)?.checked_add(usize::from(*len))?;
    }
    let end = at.checked_add(1)?;
    let (priority, target) = (u16_at(rdata, 0)?, Name::from_wire(rdata.get(2..end)?).ok()?);
    let (mut mandatory, mut ipv4hint, mut ipv6hint) = (Vec::new(), Vec::new(), Vec::new());
    let mut rest = rdata.get(end..)?;
    let mut last = None;
    while !rest.is_empty() {
        let (key, len) = (u16_at(rest, 0)?, u16_at(rest, 2)?);
        let end = usize::from(len).checked_add(4)?;
        let value = rest.get(4..end)?;
        rest = rest.get(end..)?;
        // In strictly increasing order.
        if last.is_some_and(|last| last >= key) {
            return None;
        }
        last = Some(key);
        match key {
            svcparam::MANDATORY => mandatory = keys_of(value)?,
            svcparam::ALPN if !is_list_of_protocols(value) => return None,
            svcparam::NO_DEFAULT_ALPN if !value.is_empty() => return None,
            svcparam::PORT if value.len() != 2 => return None,
            svcparam::IPV4HINT => ipv4hint = hints::<4, _>(value)?,
            svcparam::IPV6HINT => ipv6hint = hints::<16, _>(value)?,
            _ => {}
        }
    }
    Some(RecordData::Svcb { priority, target, mandatory, ipv4hint, ipv6hint })
}

/// RFC 9460 section 8: at least one key, in increasing order, and not "mandatory" itself.
fn keys_of(value: &[u8]) -> Option<Vec<u16>> {
    let (pairs, []) = value.as_chunks::<2>() else { return None };
    let keys: Vec<u16> = pairs.iter().map(|pair| u16::from_be_bytes(*pair)).collect();
    let fine = !keys.is_empty() && keys.is_sorted_by(|one, next| one < next) && !keys.contains(&svcparam::MANDATORY);
    fine.then_some(keys)
}

/// RFC 9460 section 7.1.1: at least one, none of them empty, of whatever octets.
fn is_list_of_protocols(mut value: &[u8]) -> bool {
    let mut any = false;
    while let Some((len, rest)) = value.split_first() {
        match rest.get(usize::from(*len)..) {
            Some(rest) if *len > 0 => value = rest,
            _ => return false,
        }
        any = true;
    }
    any
}

/// RFC 9460 section 7.3: at least one address.
fn hints<const N: usize, A: From<[u8; N]>>(value: &[u8]) -> Option<Vec<A>> {
    let (addresses, []) = value.as_chunks::<N>() else { return None };
    (!addresses.is_empty()).then(|| addresses.iter().map(|octets| A::from(*octets)).collect())
}

#[cfg(test)]
mod tests;
