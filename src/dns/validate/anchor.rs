//! Where trust begins, and where it ends: the keys that are trusted without proof, and the domains that are not validated.
//!
//! An anchor is a DS or DNSKEY record in presentation form (RFC 4034 sections 2.2 and 5.3), as `dig`, `dnssec-keygen` and unbound's `root.key` write it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use hickory_proto::dnssec::{Algorithm, DigestType};

use super::rrset::Key;
use crate::config::names_a_file;
use crate::config::schema::Dnssec;
use crate::core::name::{Name, NameError};
use crate::core::policy::name_from_user;

/// The root's key-signing keys of 2017 and 2024, as IANA publishes their digests (root-anchors.xml).
const ROOT: &str = "\
. IN DS 20326 8 2 E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D
. IN DS 38696 8 2 683D2D0ACB8C9B712A1948B27F741219298D0A450D612C483AF444A4C0FB2B16
";
/// Most octets of a file of anchors.
const MOST_OCTETS: u64 = 1 << 20;

/// A trust anchor that can't be used. The text begins with the key below `dns.dnssec`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnchorError {
    /// The file can't be read.
    #[error("trust_anchor: {} can't be read: {error}", file.display())]
    File {
        /// The path of `trust_anchor`.
        file: PathBuf,
        /// The kernel's word.
        error: String,
    },
    /// A line is no anchor.
    #[error("trust_anchor: {place}{problem}")]
    Line {
        /// File and line, with a colon; empty for what stands in the configuration itself.
        place: String,
        /// What is wrong with it.
        #[source]
        problem: NoAnchor,
    },
    /// A name of `insecure` is none.
    #[error("insecure: \"{0}\" is not a domain name")]
    Insecure(String),
}

/// Why a line is no anchor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAnchor {
    /// There is no record at all.
    #[error("there is no DS or DNSKEY record")]
    Nothing,
    /// The words are none of the two records.
    #[error("\"{0}\" is not a DS or DNSKEY record; write \". IN DS 20326 8 2 E06D...\"")]
    Shape(String),
    /// The owner is none.
    #[error("\"{owner}\" is not a domain name: {source}")]
    Name {
        /// The word, as it was written.
        owner: String,
        /// What is wrong with it.
        source: NameError,
    },
    /// A word where a number stands.
    #[error("\"{word}\" is not the number of {what}")]
    Number {
        /// The word, as it was written.
        word: String,
        /// What the number is of.
        what: &'static str,
    },
    /// A number that an octet can't hold.
    #[error("{word} is not the number of {what}")]
    Large {
        /// The number, as it was written.
        word: String,
        /// What the number is of.
        what: &'static str,
    },
    /// Digits that are none.
    #[error("\"{0}\" is not a digest in hexadecimal")]
    Digest(String),
    /// A digest that is never computed here.
    #[error("digest type {0} can't be checked here")]
    DigestType(u8),
    /// A digest of another length than its type has.
    #[error("a digest of type {kind} has {length} octets, not {has}")]
    Length {
        /// The number of its type.
        kind: u8,
        /// Octets that the type has.
        length: usize,
        /// Octets that are there.
        has: usize,
    },
    /// An algorithm of keys that is unknown here.
    #[error("algorithm {0} can't be checked here")]
    Algorithm(u8),
    /// Letters that are no base64.
    #[error("\"{0}\" is not a key in base64")]
    Key(String),
    /// A key that signs no zone.
    #[error("not the key of a zone (flags 256 or 257, protocol 3), or revoked")]
    NotOfZone,
}

/// A digest of a key (DS).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// The key tag of the key that it is of.
    pub tag: u16,
    /// Algorithm of the key.
    pub algorithm: u8,
    /// The number of the digest's algorithm (IANA, "Digest Algorithms").
    pub kind: u8,
    /// The digest's octets.
    pub digest: Box<[u8]>,
}

impl Digest {
    /// From the RDATA of a DS record; `None` when it is malformed.
    #[must_use]
    pub fn from_rdata(rdata: &[u8]) -> Option<Self> {
        let (&[high, low, algorithm, kind], digest) = rdata.split_first_chunk()?;
        Some(Self { tag: u16::from_be_bytes([high, low]), algorithm, kind, digest: digest.into() })
    }

    /// Whether the algorithm of the key and that of the digest are ones that can be checked here.
    #[must_use]
    pub fn is_supported(&self) -> bool {
        Algorithm::from_u8(self.algorithm).is_supported() && DigestType::from(self.kind).is_supported()
    }
}

/// The anchors of one name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Anchor {
    /// Digests of keys (DS) that are trusted.
    pub digests: Vec<Digest>,
    /// Keys that are trusted themselves (DNSKEY).
    pub keys: Vec<Key>,
}

/// All of them.
#[derive(Clone, Debug)]
pub struct Anchors {
    /// `None`: nothing is validated from here down.
    by_name: HashMap<Name, Option<Anchor>>,
}

impl Anchors {
    /// From the configuration.
    ///
    /// # Errors
    /// [`AnchorError`].
    pub fn new(dnssec: &Dnssec) -> Result<Self, AnchorError> {
        let mut anchors = match dnssec.trust_anchor.as_deref() {
            None => Self::parse(ROOT, None)?,
            Some(text) if names_a_file(text) => Self::read(Path::new(text))?,
            Some(text) => Self::parse(text, None)?,
        };
        for domain in &dnssec.insecure {
            let name = name_from_user(domain).map_err(|_| AnchorError::Insecure(domain.clone()))?;
            anchors.by_name.insert(name, None);
        }
        Ok(anchors)
    }

    fn read(file: &Path) -> Result<Self, AnchorError> {
        let unread = |error: String| AnchorError::File { file: file.to_owned(), error };
        let about = std::fs::metadata(file).map_err(|error| unread(error.to_string()))?;
        // A device may have no end, and a pipe no beginning.
        if !about.is_file() {
            return Err(unread("it is not a file".to_owned()));
        }
        if about.len() > MOST_OCTETS {
            return Err(unread(format!("{} octets are too many for trust anchors", about.len())));
        }
        let text = std::fs::read_to_string(file).map_err(|error| unread(error.to_string()))?;
        Self::parse(&text, Some(file))
    }

    fn parse(text: &str, file: Option<&Path>) -> Result<Self, AnchorError> {
        let mut by_name: HashMap<Name, Option<Anchor>> = HashMap::new();
        let fail = |line: usize, problem: NoAnchor| AnchorError::Line {
            place: file.map_or_else(String::new, |file| format!("{}:{line}: ", file.display())),
            problem,
        };
        for (line, words) in records(text) {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let (name, record) = record(&words).map_err(|problem| fail(line, problem))?;
            let anchor = by_name.entry(name).or_default().get_or_insert_default();
            match record {
                Trusted::Digest(digest) => anchor.digests.push(digest),
                Trusted::Key(key) => anchor.keys.push(key),
            }
        }
        if by_name.is_empty() {
            return Err(fail(1, NoAnchor::Nothing));
        }
        Ok(Self { by_name })
    }

    /// The deepest name at or above `name` that has anchors, with them. `None`: nothing is to be validated there.
    #[must_use]
    pub fn above(&self, name: &Name) -> Option<(&Name, &Anchor)> {
        let mut here = Some(name.clone());
        while let Some(name) = here {
            if let Some((name, anchor)) = self.by_name.get_key_value(&name) {
                return anchor.as_ref().map(|anchor| (name, anchor));
            }
            here = name.parent();
        }
        None
    }
}

enum Trusted {
    Digest(Digest),
    Key(Key),
}

/// The records of a text, each as its words with the line it begins at. Parentheses join lines; a semicolon begins a remark.
fn records(text: &str) -> Vec<(usize, Vec<String>)> {
    let mut out = Vec::new();
    let (mut words, mut begun, mut depth) = (Vec::new(), 1usize, 0usize);
    for (index, line) in text.lines().enumerate() {
        let line = line.split(';').next().unwrap_or_default();
        if words.is_empty() {
            begun = index.saturating_add(1);
        }
        for word in line.replace('(', " ( ").replace(')', " ) ").split_whitespace() {
            match word {
                "(" => depth = depth.saturating_add(1),
                ")" => depth = depth.saturating_sub(1),
                _ => words.push(word.to_owned()),
            }
        }
        if depth == 0 && !words.is_empty() {
            out.push((begun, std::mem::take(&mut words)));
        }
    }
    if !words.is_empty() {
        out.push((begun, words));
    }
    out
}

/// `owner [TTL] [IN] DS|DNSKEY data`
fn record(words: &[&str]) -> Result<(Name, Trusted), NoAnchor> {
    let shape = || NoAnchor::Shape(words.join(" "));
    let (owner, mut rest) = words.split_first().ok_or_else(shape)?;
    while let Some((word, tail)) = rest.split_first() {
        if word.eq_ignore_ascii_case("IN") || word.parse::<u32>().is_ok() {
            rest = tail;
        } else {
            break;
        }
    }
    let name: Name = owner.parse().map_err(|source| NoAnchor::Name { owner: (*owner).to_owned(), source })?;
    let (kind, data) = rest.split_first().ok_or_else(shape)?;
    let number = |at: usize, what: &'static str| -> Result<u16, NoAnchor> {
        let word = data.get(at).ok_or_else(shape)?;
        word.parse().map_err(|_| NoAnchor::Number { word: (*word).to_owned(), what })
    };
    let small = |at: usize, what: &'static str| -> Result<u8, NoAnchor> {
        let large = || NoAnchor::Large { word: data.get(at).copied().unwrap_or_default().to_owned(), what };
        u8::try_from(number(at, what)?).map_err(|_| large())
    };
    let tail = data.get(3..).unwrap_or_default().concat();
    match kind.to_ascii_uppercase().as_str() {
        "DS" => {
            let digest = Digest {
                tag: number(0, "a key")?,
                algorithm: small(1, "an algorithm")?,
                kind: small(2, "a digest type")?,
                digest: hex(&tail).ok_or_else(|| NoAnchor::Digest(tail.clone()))?.into(),
            };
            let length = match digest.kind {
                1 => 20,
                2 => 32,
                4 => 48,
                other => return Err(NoAnchor::DigestType(other)),
            };
            if digest.digest.len() != length {
                let has = digest.digest.len();
                return Err(NoAnchor::Length { kind: digest.kind, length, has });
            }
            if !digest.is_supported() {
                return Err(NoAnchor::Algorithm(digest.algorithm));
            }
            Ok((name, Trusted::Digest(digest)))
        }
        "DNSKEY" => {
            let (flags, protocol, algorithm) =
                (number(0, "flags")?, small(1, "a protocol")?, small(2, "an algorithm")?);
            let public = crate::tls::base64(tail.as_bytes()).filter(|public| !public.is_empty());
            let public = public.ok_or_else(|| NoAnchor::Key(tail.clone()))?;
            let [high, low] = flags.to_be_bytes();
            let rdata = [&[high, low, protocol, algorithm], &public[..]].concat();
            if !Algorithm::from_u8(algorithm).is_supported() {
                return Err(NoAnchor::Algorithm(algorithm));
            }
            let key = Key::from_rdata(&rdata).ok_or(NoAnchor::NotOfZone)?;
            Ok((name, Trusted::Key(key)))
        }
        _ => Err(shape()),
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let digits = digits.filter(|digits| !digits.is_empty() && digits.len().is_multiple_of(2))?;
    Some(digits.chunks_exact(2).map(|pair| pair.iter().fold(0u8, |octet, digit| octet << 4 | digit)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(text: &str) -> Result<Anchors, AnchorError> {
        Anchors::new(&Dnssec { validate: true, trust_anchor: Some(text.to_owned()), insecure: Vec::new() })
    }

    #[test]
    fn the_root_has_two_anchors_built_in() {
        let anchors = Anchors::new(&Dnssec::default()).unwrap();
        let (name, anchor) = anchors.above(&"www.example".parse().unwrap()).unwrap();
        assert_eq!(
            (name, anchor.digests.iter().map(|digest| digest.tag).collect()),
            (&Name::root(), vec![20326, 38696])
        );
    }

    #[test]
    fn records_are_read_as_tools_write_them() {
        let digest = "E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D";
        for text in [
            format!(". IN DS 20326 8 2 {digest}"),
            format!(". 172800 IN DS 20326 8 2 {} {}", &digest[..56], &digest[56..].to_lowercase()),
            format!("; a remark\n.\tDS 20326 8 2 ( {}\n  {} ) ; the end\n", &digest[..56], &digest[56..]),
        ] {
            let anchors = from(&text).unwrap();
            assert_eq!(anchors.above(&Name::root()).unwrap().1.digests[0].digest.len(), 32, "{text}");
        }
        let key = "corp.example. 3600 IN DNSKEY 257 3 15 ( l02Woi0iS8Aa25FQkUd9RMzZHJpBoRQwAQEX1SxZJA4= ) ; KSK";
        let anchors = from(key).unwrap();
        assert!(anchors.above(&"a.corp.example".parse().unwrap()).is_some());
        assert!(anchors.above(&"example".parse().unwrap()).is_none(), "nothing above the anchor is validated");
    }

    #[test]
    fn what_is_no_anchor_is_named() {
        for (text, words) in [
            ("hello world", "is not a DS or DNSKEY record"),
            (". IN A 192.0.2.1", "is not a DS or DNSKEY record"),
            (". IN DS 20326 8 2", "is not a digest in hexadecimal"),
            (". IN DS 20326 8 2 E06D", "a digest of type 2 has 32 octets, not 2"),
            (". IN DS 99999 8 2 E06D", "\"99999\" is not the number of a key"),
            (". IN DS 1 300 2 E06D", "300 is not the number of an algorithm"),
            (". IN DS 1 8 3 E06D", "digest type 3 can't be checked here"),
            (". IN DS 1 16 1 0000000000000000000000000000000000000000", "algorithm 16 can't be checked here"),
            (". IN DNSKEY 257 3 8 *", "is not a key in base64"),
            (". IN DNSKEY 0 3 8 AwEAAQ==", "not the key of a zone"),
            ("a..b IN DS 1 8 2 E06D", "is not a domain name"),
            (" ; nothing \n\n ; here", "there is no DS or DNSKEY record"),
            ("", "there is no DS or DNSKEY record"),
            ("/does/not/exist", "can't be read"),
            ("/dev/zero", "it is not a file"),
        ] {
            let error = from(text).unwrap_err().to_string();
            assert!(error.starts_with("trust_anchor: ") && error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn the_deepest_word_on_a_name_counts() {
        let mut dnssec = Dnssec { insecure: vec!["corp.example".to_owned()], ..Dnssec::default() };
        let anchors = Anchors::new(&dnssec).unwrap();
        assert!(anchors.above(&"www.corp.example".parse().unwrap()).is_none());
        assert!(anchors.above(&"corp2.example".parse().unwrap()).is_some());
        dnssec.insecure = vec!["a b".to_owned()];
        assert!(Anchors::new(&dnssec).unwrap_err().to_string().starts_with("insecure: "));
    }
}
