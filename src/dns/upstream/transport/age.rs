//! How long a response lay in HTTP caches, and its TTLs without that time (RFC 8484 section 5.1).

use hyper::HeaderMap;
use hyper::header::AGE;

use crate::dns::codec::wire::{HEADER, put_u32, rtype, skip_name, u16_at, u32_at};

/// TTLs above this are 0 (RFC 2181 section 8).
const TTL_MAX: u32 = 0x7fff_ffff;

/// Seconds in the `Age` header; 0 without one. As RFC 9111 section 5.1 has it: of several values the first counts, and one that is no number of seconds
/// doesn't; section 1.2.2: one that is too large is as large as can be.
pub fn age_of(headers: &HeaderMap) -> u32 {
    let Some(value) = headers.get(AGE).and_then(|value| value.to_str().ok()) else { return 0 };
    let first = value.split(',').next().unwrap_or("").trim();
    if first.is_empty() || !first.bytes().all(|octet| octet.is_ascii_digit()) {
        return 0;
    }
    first.parse().unwrap_or(u32::MAX)
}

/// Takes `age` seconds off every TTL but that of OPT, which is none. 0 is the least. Where a message ends early the rest stays; nobody uses such a one.
pub fn shorten_ttls(message: &mut [u8], age: u32) {
    if age > 0 {
        // Whether it was read to its end makes no difference here.
        let _ended = walk(message, age);
    }
}

fn walk(message: &mut [u8], age: u32) -> Option<()> {
    let mut at = HEADER;
    for _ in 0..u16_at(message, 4)? {
        at = skip_name(message, at)?.checked_add(4)?;
    }
    let answers = u32::from(u16_at(message, 6)?);
    let authority = u32::from(u16_at(message, 8)?);
    let all = answers.saturating_add(authority).saturating_add(u32::from(u16_at(message, 10)?));
    for index in 0..all {
        let fixed = skip_name(message, at)?;
        let kind = u16_at(message, fixed)?;
        let ttl_at = fixed.checked_add(4)?;
        let mut ttl = u32_at(message, ttl_at)?;
        at = fixed.checked_add(10)?.checked_add(usize::from(u16_at(message, fixed.checked_add(8)?)?))?;
        if kind == rtype::OPT {
            continue;
        }
        if ttl > TTL_MAX {
            ttl = 0;
        }
        // How long there is no such name is the lesser of this TTL and the SOA's last number (RFC 2308 section 5), and that grows old with it.
        if kind == rtype::SOA && (answers..answers.saturating_add(authority)).contains(&index) {
            ttl = ttl.min(u32_at(message, at.checked_sub(4)?)?);
        }
        put_u32(message, ttl_at, ttl.saturating_sub(age));
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::codec::wire::put_u16;

    #[test]
    fn every_value_of_age_has_its_meaning() {
        let cases: [(&[&str], u32); 13] = [
            (&[], 0),
            (&["0"], 0),
            (&["100"], 100),
            (&[" 100 "], 100),
            (&["100, 7"], 100),
            (&["100", "7"], 100),
            (&["99999999999999999999"], u32::MAX),
            (&[""], 0),
            (&["-1"], 0),
            (&["+1"], 0),
            (&["1.5"], 0),
            (&["soon, 7"], 0),
            (&["\u{e9}"], 0),
        ];
        for (lines, seconds) in cases {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(AGE, hyper::header::HeaderValue::from_bytes(line.as_bytes()).unwrap());
            }
            assert_eq!(age_of(&headers), seconds, "{lines:?}");
        }
    }

    #[test]
    fn ttls_shrink_to_nothing_and_opt_stays() {
        let mut message = b"\0\0\x81\x80\0\x01\0\x02\0\x01\0\x01\x01a\0\0\x01\0\x01".to_vec();
        let ttls = [(1u16, 60u32), (1, 0x8000_0001), (rtype::SOA, 3600), (rtype::OPT, 0x8000)];
        let mut places = Vec::new();
        for (kind, ttl) in ttls {
            let owner: &[u8] = if kind == rtype::OPT { b"\0" } else { b"\xc0\x0c" };
            message.extend_from_slice(owner);
            message.extend_from_slice(&[&kind.to_be_bytes()[..], &[0, 1]].concat());
            places.push(message.len());
            message.extend_from_slice(&ttl.to_be_bytes());
            let rdata =
                if kind == rtype::SOA { [vec![0; 18], 50u32.to_be_bytes().to_vec()].concat() } else { vec![0; 4] };
            message.extend_from_slice(&(rdata.len() as u16).to_be_bytes());
            message.extend_from_slice(&rdata);
        }
        let after = |age| {
            let mut message = message.clone();
            shorten_ttls(&mut message, age);
            places.iter().map(|at| u32_at(&message, *at).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(after(0), [60, 0x8000_0001, 3600, 0x8000], "untouched");
        assert_eq!(after(20), [40, 0, 30, 0x8000]);
        assert_eq!(after(u32::MAX), [0, 0, 0, 0x8000]);
        // Cut anywhere, or with counts that lie.
        put_u16(&mut message, 10, u16::MAX);
        for len in 0..=message.len() {
            shorten_ttls(&mut message[..len].to_vec(), 7);
        }
    }
}
