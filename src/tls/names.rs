//! The names that a client's certificate bears (RFC 5280 sections 4.1.2.6 and 4.2.1.6).

use super::validity::element;
use crate::core::person::NAME;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID: u8 = 0x06;
const OCTETS: u8 = 0x04;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
/// The object identifier id-ce-subjectAltName, in DER.
const ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
/// The object identifier id-at-commonName, in DER.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// rfc822Name, dNSName, uniformResourceIdentifier
const KINDS: [u8; 3] = [0x81, 0x82, 0x86];
/// UTF8String, PrintableString, IA5String
const TEXTS: [u8; 3] = [0x0c, 0x13, 0x16];
/// More of one certificate count for nothing.
const MOST: usize = 64;

/// The contents of the elements that follow each other here, with their tags.
fn elements(mut der: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (tag, content, rest) = element(der)?;
        der = rest;
        Some((tag, content))
    })
}

fn inside(der: &[u8], wanted: u8) -> Option<&[u8]> {
    element(der).filter(|(tag, ..)| *tag == wanted).map(|(_, content, _)| content)
}

/// Addresses of mail, DNS names and URIs of subjectAltName; of a certificate without that the common names. In lower case, those that a mistake
/// or a trick made unreadable left out.
#[must_use]
pub fn names(certificate: &[u8]) -> Vec<Box<str>> {
    found(certificate).unwrap_or_default()
}

fn found(certificate: &[u8]) -> Option<Vec<Box<str>>> {
    let signed = inside(inside(certificate, SEQUENCE)?, SEQUENCE)?;
    let mut fields = elements(signed).skip_while(|(tag, _)| *tag == VERSION);
    // serialNumber, signature, issuer, validity
    let (_, subject) = fields.nth(4)?;
    let extensions = fields.find(|(tag, _)| *tag == EXTENSIONS).and_then(|(_, content)| inside(content, SEQUENCE));
    let alt_name = extensions.into_iter().flat_map(elements).find_map(|(_, extension)| {
        let (oid, value, rest) = element(extension)?;
        (oid == OID && value == ALT_NAME).then(|| elements(rest).find(|(tag, _)| *tag == OCTETS))?
    });
    let readable = |octets: &[u8]| {
        let text = std::str::from_utf8(octets).ok().filter(|text| !text.is_empty() && text.len() <= NAME)?;
        (!text.contains(char::is_control)).then(|| text.to_lowercase().into_boxed_str())
    };
    if let Some((_, value)) = alt_name {
        let names = elements(inside(value, SEQUENCE)?).filter(|(tag, _)| KINDS.contains(tag));
        return Some(names.filter_map(|(_, name)| readable(name)).take(MOST).collect());
    }
    let attributes = elements(subject).filter(|(tag, _)| *tag == SET).flat_map(|(_, set)| elements(set));
    let common = attributes.filter_map(|(_, attribute)| {
        let (oid, value, rest) = element(attribute)?;
        let (tag, text, _) = element(rest)?;
        (oid == OID && value == COMMON_NAME && TEXTS.contains(&tag)).then(|| readable(text))?
    });
    Some(common.take(MOST).collect())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    use super::*;

    fn made(names: Vec<SanType>, common: &str) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Example");
        params.distinguished_name.push(DnType::CommonName, common);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn names_of_people_are_read_and_the_common_name_stands_in_for_none() {
        let all = vec![
            SanType::Rfc822Name("Anna@Example.org".try_into().unwrap()),
            SanType::DnsName("pad.kids.example".try_into().unwrap()),
            SanType::IpAddress([192, 0, 2, 1].into()),
            SanType::URI("urn:x:anna".try_into().unwrap()),
        ];
        let expected: Vec<Box<str>> = ["anna@example.org", "pad.kids.example", "urn:x:anna"].map(Box::from).to_vec();
        assert_eq!(names(&made(all, "the boss")), expected);
        assert_eq!(names(&made(Vec::new(), "Änna")), [Box::from("änna")]);
        // A subjectAltName without any name of these kinds leaves no name, so that nobody picks one by a common name.
        assert_eq!(names(&made(vec![SanType::IpAddress([192, 0, 2, 1].into())], "the boss")), []);
    }

    #[test]
    fn nonsense_has_no_names() {
        let whole = made(vec![SanType::DnsName("pad.kids.example".try_into().unwrap())], "anna");
        for end in 0..whole.len() {
            assert!(names(&whole[..end]).is_empty(), "{end}");
        }
        assert!(names(&[0x30, 0x80, 0x30, 0x80]).is_empty());
    }
}
