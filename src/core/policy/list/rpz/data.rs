//! The data of a zone's own records, from presentation form (RFC 1035 section 5.1; of any type in the form of RFC 3597 section 5) to the wire's.

use crate::core::answer::rtype;
use crate::core::name::Name;

/// Types whose data is read, with their numbers.
const KNOWN: &[(&str, u16)] = &[("PTR", 12), ("MX", 15), ("TXT", 16), ("SRV", 33), ("SPF", 99), ("CAA", 257)];

/// Why a text is no data of its type.
#[derive(Debug, thiserror::Error)]
pub(super) enum DataError {
    /// Fewer words than the type has.
    #[error("data that ends early")]
    Short,
    /// A word where the type has this.
    #[error("{0}")]
    Missing(&'static str),
    /// A name that can't stand in the zone.
    #[error("{0}")]
    Name(String),
    /// A string that its length octet can't count.
    #[error("a string longer than 255 octets")]
    Long,
    /// A type that has no form of its own here.
    #[error("data of this type is written as in \"\\# 2 abcd\" (RFC 3597 section 5)")]
    Generic,
    /// Something that the type doesn't have.
    #[error("\"{0}\" behind the data")]
    Behind(String),
    /// Digits that don't fit their count, or aren't any.
    #[error("these are not {0} octets in hexadecimal digits")]
    Digits(usize),
    /// A quoted string that goes on behind the line.
    #[error("a quote that is never closed")]
    Open,
    /// A quote that divides a character.
    #[error("a quote within a character")]
    Within,
    /// An escape of a master file that is none.
    #[error("a backslash needs an octet, or three digits up to 255")]
    Escape,
}

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
pub(super) fn read(
    number: u16,
    text: &str,
    name: impl Fn(&str) -> Result<Name, DataError>,
) -> Result<Box<[u8]>, DataError> {
    let parts = strings(text)?;
    let mut parts = parts.iter();
    let mut out = Vec::new();
    if text.trim_start().starts_with("\\#") {
        return generic(text);
    }
    let mut next = || parts.next().ok_or(DataError::Short);
    let small = |part: &Part| -> Result<u16, DataError> {
        let number = part.text().and_then(|text| text.parse().ok());
        number.ok_or(DataError::Missing("a number from 0 to 65535 is missing"))
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
            let flags = u8::try_from(small(next()?)?);
            let flags = flags.map_err(|_| DataError::Missing("flags from 0 to 255 are missing"))?;
            let tag = next()?.octets.as_slice();
            let len = u8::try_from(tag.len()).ok().filter(|len| *len > 0);
            let len = len.ok_or(DataError::Missing("a tag of 1 to 255 octets is missing"))?;
            out.extend_from_slice(&[flags, len]);
            out.extend_from_slice(tag);
            out.extend_from_slice(&next()?.octets);
        }
        16 | 99 => {
            let mut part = Some(next()?);
            while let Some(string) = part {
                out.push(u8::try_from(string.octets.len()).map_err(|_| DataError::Long)?);
                out.extend_from_slice(&string.octets);
                part = parts.next();
            }
        }
        _ => return Err(DataError::Generic),
    }
    match parts.next() {
        None => Ok(out.into()),
        Some(more) => Err(DataError::Behind(more.raw.to_owned())),
    }
}

/// `\# length hexadecimal digits`.
fn generic(text: &str) -> Result<Box<[u8]>, DataError> {
    let mut words = text.split_whitespace().skip(1);
    let length = words.next().and_then(|word| word.parse().ok());
    let length: usize = length.ok_or(DataError::Missing("a length is missing behind \"\\#\""))?;
    let digits: String = words.collect();
    let octet = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let digits_only = digits.bytes().all(|digit| digit.is_ascii_hexdigit()) && digits.len().is_multiple_of(2);
    let octets: Option<Vec<u8>> = digits.as_bytes().chunks(2).map(octet).collect();
    octets.filter(|octets| digits_only && octets.len() == length).map(Into::into).ok_or(DataError::Digits(length))
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
fn strings(text: &str) -> Result<Vec<Part<'_>>, DataError> {
    let mut parts = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let quoted = first == '"';
        let mut octets = Vec::new();
        let mut bytes = rest.bytes().enumerate().skip(usize::from(quoted));
        let end = loop {
            match bytes.next() {
                None if quoted => return Err(DataError::Open),
                None => break rest.len(),
                Some((at, b'"')) if quoted => break at.saturating_add(1),
                Some((at, octet)) if !quoted && octet.is_ascii_whitespace() => break at,
                Some((_, b'\\')) => octets.push(escaped(&mut bytes)?),
                Some((_, octet)) => octets.push(octet),
            }
        };
        let (raw, behind) = rest.split_at_checked(end).ok_or(DataError::Within)?;
        parts.push(Part { raw, octets });
        rest = behind.trim_start();
    }
    Ok(parts)
}

/// What stands behind a backslash: `DDD`, or any other octet for itself.
fn escaped(bytes: &mut impl Iterator<Item = (usize, u8)>) -> Result<u8, DataError> {
    let (_, first) = bytes.next().ok_or(DataError::Escape)?;
    if !first.is_ascii_digit() {
        return Ok(first);
    }
    let mut value = u32::from(first.saturating_sub(b'0'));
    for _ in 0..2 {
        let (_, digit) = bytes.next().filter(|(_, digit)| digit.is_ascii_digit()).ok_or(DataError::Escape)?;
        value = value.saturating_mul(10).saturating_add(u32::from(digit.saturating_sub(b'0')));
    }
    u8::try_from(value).map_err(|_| DataError::Escape)
}
