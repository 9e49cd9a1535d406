//! From when until when a certificate is good (RFC 5280 section 4.1.2.5), for a warning before clients or upstreams find out.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::certificates;

/// Seconds of a day.
const DAY: i64 = 86_400;
/// A certificate that ends sooner is warned of.
const SOON: i64 = 3 * DAY;

/// What is wrong with the dates of a file's first certificate, in words; for a file of roots, with those of all of them. `None` where nothing is,
/// or where the file can't be read, which others say.
#[must_use]
pub fn complaint(file: &Path, roots: bool, now: SystemTime) -> Option<String> {
    let now = i64::try_from(now.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()?;
    let certificates = certificates(file).ok()?;
    let words = |der: &[u8]| {
        let (begin, end) = dates(der)?;
        let state = if now > end {
            "ended on"
        } else if now < begin {
            return Some(format!("not good before {}", date(begin)));
        } else if end.saturating_sub(now) < SOON {
            "ends on"
        } else {
            return None;
        };
        Some(format!("{state} {}", date(end)))
    };
    let mut complaints = certificates.iter().map(|der| words(der));
    let first = complaints.next().flatten()?;
    if roots && !complaints.all(|complaint| complaint.is_some()) {
        return None;
    }
    Some(format!("the certificate in {} {first}", file.display()))
}

/// notBefore and notAfter in seconds since 1970; `None` when it is no certificate.
fn dates(der: &[u8]) -> Option<(i64, i64)> {
    const SEQUENCE: u8 = 0x30;
    const VERSION: u8 = 0xa0;
    let inside = |(tag, content, _): (u8, _, _)| (tag == SEQUENCE).then_some(content);
    let signed: &[u8] = inside(element(inside(element(der)?)?)?)?;
    // version (optional), serialNumber, signature, issuer
    let mut rest = signed;
    let (tag, _, behind) = element(rest)?;
    if tag == VERSION {
        rest = behind;
    }
    for _ in 0..3 {
        rest = element(rest)?.2;
    }
    let (begin, content, behind) = element(inside(element(rest)?)?)?;
    let (end, other, _) = element(behind)?;
    Some((seconds(begin, content)?, seconds(end, other)?))
}

/// Whether a certificate is good at this moment, in seconds since 1970; `None` when it is none.
#[must_use]
pub fn is_good(der: &[u8], now: u64) -> Option<bool> {
    let (begin, end) = dates(der)?;
    let now = i64::try_from(now).ok()?;
    Some((begin..=end).contains(&now))
}

/// The tag and content of a DER element, and what stands behind it.
pub(super) fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81..=0x84 => {
            let (octets, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (octets.iter().fold(0usize, |length, octet| length << 8 | usize::from(*octet)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

/// UTCTime (YYMMDDHHMMSSZ, 1950 to 2049) or GeneralizedTime (YYYYMMDDHHMMSSZ).
fn seconds(tag: u8, text: &[u8]) -> Option<i64> {
    const UTC: u8 = 0x17;
    const GENERALIZED: u8 = 0x18;
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (year, rest) = match tag {
        UTC => {
            let (year, rest) = text.split_at_checked(2)?;
            let year: i64 = year.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED => {
            let (year, rest) = text.split_at_checked(4)?;
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    let field = |at: usize| -> Option<i64> { rest.get(at..at + 2)?.parse().ok() };
    let (month, day) = (field(0)?, field(2)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    Some(days(year, month, day) * DAY + field(4)? * 3600 + field(6)? * 60 + field(8)?)
}

/// Days since 1970-01-01 in the Gregorian calendar; the year begins in March, so that a leap day is its last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month < 3 { year - 1 } else { year };
    let month = (month + 9) % 12;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + (month * 153 + 2) / 5 + day
        - 719_469
}

/// The day of a moment, as YYYY-MM-DD.
fn date(seconds: i64) -> String {
    let day = seconds.div_euclid(DAY);
    // Never more than some days off, so that the search is short.
    let mut year = 1970 + day.div_euclid(366);
    while days(year + 1, 1, 1) <= day {
        year += 1;
    }
    let month = (1..=12).rev().find(|month| days(year, *month, 1) <= day).unwrap_or(1);
    format!("{year:04}-{month:02}-{:02}", day - days(year, month, 1) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_dates_are_each_others_reverse() {
        for (seconds, text) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (951_868_800, "2000-03-01"),
            (4_107_542_399, "2100-02-28"),
            (4_107_542_400, "2100-03-01"),
            (1_735_689_599, "2024-12-31"),
        ] {
            assert_eq!(date(seconds), text);
        }
        assert_eq!(super::seconds(0x17, b"491231235959Z"), Some(2_524_607_999));
        assert_eq!(super::seconds(0x17, b"500101000000Z"), Some(-631_152_000));
        assert_eq!(super::seconds(0x18, b"20500101000000Z"), Some(2_524_608_000));
        for broken in [&b""[..], b"Z", b"4912312359", b"491331000000Z", b"xx1231235959Z"] {
            assert_eq!(super::seconds(0x17, broken), None);
        }
    }

    #[test]
    fn broken_certificates_have_no_dates() {
        let mut params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2001, 2, 3);
        params.not_after = rcgen::date_time_ymd(2055, 4, 5);
        let der = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec();
        let (begin, end) = dates(&der).unwrap();
        assert_eq!((date(begin), date(end)), ("2001-02-03".to_owned(), "2055-04-05".to_owned()));
        // No octet, cut or changed, makes it panic.
        for at in 0..der.len() {
            assert_eq!(dates(&der[..at]), None);
            for value in [0, 0x80, 0xff] {
                let mut other = der.clone();
                other[at] = value;
                let _ = dates(&other);
            }
        }
    }
}
