//! The data of a zone's own records, from presentation form (RFC 1035 section 5.1; of any type in the form of RFC 3597 section 5) to the wire's.

use crate::core::answer::rtype;
use crate::core::name::Name;

/// Types whose data is read, with their numbers.
const KNOWN: &[(&str, u16)] = &[("PTR", 12), ("MX", 15), ("TXT", 16), ("SRV", 33), ("SPF", 99), ("CAA", 257)];

/// The number of a type that may be served as it is written; `None` for one that is unknown here, belongs to a zone as a whole, leads to other names
/// or addresses (which are judged in forms of their own), or is no data at all.
pub(super) fn number(text: &str) -> Option<u16> {
    if let Some((_, number)) = KNOWN.iter().find(|(known, _)| known.eq_ignore_ascii_case(text)) {
        return Some(*number);
    }
    let number: u16 =
        text.get(..4).filter(|front| front.eq_ignore_ascii_case("TYPE")).and(text.get(4..))?.parse().ok()?;
    let own = [rtype::A, rtype::CNAME, rtype::AAAA, rtype::DNAME, rtype::SVCB, rtype::HTTPS];
    // NS, SOA, OPT, what signs a zone, and what only questions have.
    let of_the_zone = [0, 2, 6, 41, 43, 46, 47, 48, 50, 51, 59, 60];
    (!own.contains(&number) && !of_the_zone.contains(&number) && !(128..=255).contains(&number)).then_some(number)
}

/// Data of the type `number` as octets. `name`: reads a name, relative to the origin.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read(number: u16, text: &str, name: impl Fn(&str) -> Result<Name, String>) -> Result<Box<[u8]>, String> {
    let parts = strings(text)?;
    let mut parts = parts.iter();
    let mut out = Vec::new();
    if text.trim_start().starts_with("\\#") {
        return generic(text);
    }
    let mut next = || parts.next().ok_or_else(|| "data that ends early".to_owned());
    let small = |part: &Part| -> Result<u16, String> {
        part.text().and_then(|text| text.parse().ok()).ok_or_else(|| "a number from 0 to 65535 is missing".to_owned())
    };
    let numbers = match number {
        15 => 1,
        33 => 3,
        _ => 0,
    };
    for _ in 0..numbers {
        out.extend_from_slice(&small(next()?)?.to_be_bytes());
    }
    match number {
        12 | 15 | 33 => out.extend_from_slice(name(next()?.raw)?.wire()),
        257 => {
            let flags = u8::try_from(small(next()?)?).map_err(|_| "flags from 0 to 255 are missing".to_owned())?;
            let tag = next()?.octets.as_slice();
            let len =
                u8::try_from(tag.len()).ok().filter(|len| *len > 0).ok_or("a tag of 1 to 255 octets is missing")?;
            out.extend_from_slice(&[flags, len]);
            out.extend_from_slice(tag);
            out.extend_from_slice(&next()?.octets);
        }
        16 | 99 => {
            let mut part = Some(next()?);
            while let Some(string) = part {
                out.push(u8::try_from(string.octets.len()).map_err(|_| "a string longer than 255 octets".to_owned())?);
                out.extend_from_slice(&string.octets);
                part = parts.next();
            }
        }
        _ => return Err("data of this type is written as in \"\\# 2 abcd\" (RFC 3597 section 5)".to_owned()),
    }
    match parts.next() {
        None => Ok(out.into()),
        Some(more) => Err(format!("\"{}\" behind the data", more.raw)),
    }
}

/// `\# length hexadecimal digits`.
fn generic(text: &str) -> Result<Box<[u8]>, String> {
    let mut words = text.split_whitespace().skip(1);
    let length: usize = words.next().and_then(|word| word.parse().ok()).ok_or("a length is missing behind \"\\#\"")?;
    let digits: String = words.collect();
    let octet = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let digits_only = digits.bytes().all(|digit| digit.is_ascii_hexdigit()) && digits.len().is_multiple_of(2);
    let octets: Option<Vec<u8>> = digits.as_bytes().chunks(2).map(octet).collect();
    octets
        .filter(|octets| digits_only && octets.len() == length)
        .map(Into::into)
        .ok_or_else(|| format!("these are not {length} octets in hexadecimal digits"))
}

/// One word or quoted string.
struct Part<'a> {
    /// As written, quotes included.
    raw: &'a str,
    /// Unquoted and unescaped.
    octets: Vec<u8>,
}

impl Part<'_> {
    fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.octets).ok()
    }
}

/// Splits at white space that isn't quoted, and takes quotes and escapes away.
fn strings(text: &str) -> Result<Vec<Part<'_>>, String> {
    let mut parts = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let quoted = first == '"';
        let mut octets = Vec::new();
        let mut bytes = rest.bytes().enumerate().skip(usize::from(quoted));
        let end = loop {
            match bytes.next() {
                None if quoted => return Err("a quote that is never closed".to_owned()),
                None => break rest.len(),
                Some((at, b'"')) if quoted => break at.saturating_add(1),
                Some((at, octet)) if !quoted && octet.is_ascii_whitespace() => break at,
                Some((_, b'\\')) => octets.push(escaped(&mut bytes)?),
                Some((_, octet)) => octets.push(octet),
            }
        };
        let (raw, behind) = rest.split_at_checked(end).ok_or("a quote within a character")?;
        parts.push(Part { raw, octets });
        rest = behind.trim_start();
    }
    Ok(parts)
}

/// What stands behind a backslash: `DDD`, or any other octet for itself.
fn escaped(bytes: &mut impl Iterator<Item = (usize, u8)>) -> Result<u8, String> {
    let bad = || "a backslash needs an octet, or three digits up to 255".to_owned();
    let (_, first) = bytes.next().ok_or_else(bad)?;
    if !first.is_ascii_digit() {
        return Ok(first);
    }
    let mut value = u32::from(first.saturating_sub(b'0'));
    for _ in 0..2 {
        let (_, digit) = bytes.next().filter(|(_, digit)| digit.is_ascii_digit()).ok_or_else(bad)?;
        value = value.saturating_mul(10).saturating_add(u32::from(digit.saturating_sub(b'0')));
    }
    u8::try_from(value).map_err(|_| bad())
}
