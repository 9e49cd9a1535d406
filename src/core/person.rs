//! Who asks, where that is known by more than an address: by the certificate that a connection has shown, or by the path of DNS over HTTPS.
//!
//! ```text
//!   certificate --> path --> address      the first that says which group it is
//! ```
//!
//! A path is no secret, so that it only says what somebody wishes: whoever shows a certificate of a group is of that one, whatever the path.
//!
//! The core keeps a [`Mark`] beside the address of whoever asked: what of the configuration it was known by. So a reload finds out where those belong
//! now who are known by it. Marks live in memory alone.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::schema::Config;

/// What stands before the SHA-256 of a certificate.
pub const SHA256: &str = "sha256:";
/// Most octets of a certificate's name that count.
pub const NAME: usize = 255;

/// A certificate that was believed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Certificate {
    /// SHA-256 of all of it.
    pub sha256: [u8; 32],
    /// In lower case: those of subjectAltName, or where it has none its common name.
    pub names: Vec<Box<str>>,
    /// Whether its chain leads to a CA that is believed; else its names say nothing.
    pub chained: bool,
}

/// What somebody has shown beside an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Person {
    /// By the connection.
    pub certificate: Option<Arc<Certificate>>,
    /// Of DNS over HTTPS, where it isn't the usual one.
    pub path: Option<Box<str>>,
}

impl Person {
    /// For people: the certificate's first name, else its hash, else the path.
    #[must_use]
    pub fn words(&self) -> String {
        match &self.certificate {
            Some(certificate) => match certificate.names.first() {
                Some(name) if certificate.chained => name.to_string(),
                _ => hex(&certificate.sha256),
            },
            None => self.path.as_deref().unwrap_or_default().to_owned(),
        }
    }
}

/// "sha256:" and the digits.
#[must_use]
pub fn hex(sha256: &[u8; 32]) -> String {
    sha256.iter().fold(SHA256.to_owned(), |text, octet| format!("{text}{octet:02x}"))
}

/// The one who asks, by address, and as a person where more is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Who {
    /// From where, canonical.
    pub address: IpAddr,
    /// As whom, where more is known.
    pub person: Option<Arc<Person>>,
}

impl From<IpAddr> for Who {
    fn from(address: IpAddr) -> Self {
        Self { address: address.to_canonical(), person: None }
    }
}

/// What of the configuration somebody is known by. The same text has the same mark as long as the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark(NonZeroU16);

#[derive(Default)]
struct Known {
    marks: HashMap<Arc<str>, Mark>,
    texts: Vec<Arc<str>>,
}

/// Of all configurations that were ever read: some dozens, and never more than a [`Mark`] can tell apart.
static KNOWN: LazyLock<RwLock<Known>> = LazyLock::new(RwLock::default);

impl Mark {
    /// Of this text; `None` where there are too many: its people are then judged by their addresses when something is to be closed.
    #[must_use]
    pub fn of(text: &str) -> Option<Self> {
        if let Some(mark) = KNOWN.read().unwrap_or_else(PoisonError::into_inner).marks.get(text) {
            return Some(*mark);
        }
        let mut known = KNOWN.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(mark) = known.marks.get(text) {
            return Some(*mark);
        }
        let mark = Self(NonZeroU16::new(u16::try_from(known.texts.len().saturating_add(1)).ok()?)?);
        let text: Arc<str> = text.into();
        known.texts.push(text.clone());
        known.marks.insert(text, mark);
        Some(mark)
    }

    /// The text that the mark stands for.
    #[must_use]
    pub fn words(self) -> Arc<str> {
        let known = KNOWN.read().unwrap_or_else(PoisonError::into_inner);
        let place = usize::from(self.0.get()).saturating_sub(1);
        known.texts.get(place).cloned().unwrap_or_else(|| "".into())
    }
}

/// By its text: its number is this process's own.
impl Serialize for Mark {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.words())
    }
}

impl<'de> Deserialize<'de> for Mark {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::of(&text).ok_or_else(|| serde::de::Error::custom("too many marks"))
    }
}

/// Why a text is no entry of `policy.group.certificate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPattern {
    /// Of the digest of a certificate.
    #[error("\"sha256:\" stands before the 64 hexadecimal digits of a certificate")]
    Digits,
    /// Of a name.
    #[error("is no name of a certificate; write \"name\", \"*.name\", \"*\" or \"sha256:HEX\"")]
    Name,
}

/// One entry of `policy.group.certificate`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Pattern {
    /// This very certificate, whoever signed it.
    Sha256([u8; 32]),
    /// One that a CA signed, with this name.
    Name(Box<str>),
    /// With a name below this: ".kids.example".
    Below(Box<str>),
    /// Any that a CA signed.
    Any,
}

impl Pattern {
    /// From "sha256:HEX" (colons between octets may be there), "name", "*.name" or "*".
    ///
    /// # Errors
    /// [`NoPattern`].
    pub fn parse(text: &str) -> Result<Self, NoPattern> {
        if let Some(digits) = text.strip_prefix(SHA256) {
            let digits: String = digits.chars().filter(|one| *one != ':').collect();
            let octet = |at: usize| u8::from_str_radix(digits.get(at..at.saturating_add(2))?, 16).ok();
            let octets: Option<Vec<u8>> = (0..digits.len()).step_by(2).map(octet).collect();
            let plain = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            return octets
                .filter(|_| plain)
                .and_then(|octets| octets.try_into().ok())
                .map(Self::Sha256)
                .ok_or(NoPattern::Digits);
        }
        let text = text.to_lowercase();
        if text == "*" {
            return Ok(Self::Any);
        }
        let (below, name) = text.strip_prefix("*.").map_or((false, text.as_str()), |name| (true, name));
        if name.is_empty() || name.len() > NAME || name.contains('*') || name.contains(char::is_control) {
            return Err(NoPattern::Name);
        }
        Ok(if below { Self::Below(format!(".{name}").into()) } else { Self::Name(name.into()) })
    }

    /// Whether a CA must have signed it.
    #[must_use]
    pub fn needs_ca(&self) -> bool {
        !matches!(self, Self::Sha256(_))
    }

    fn matches(&self, certificate: &Certificate) -> bool {
        match self {
            Self::Sha256(sha256) => *sha256 == certificate.sha256,
            _ if !certificate.chained => false,
            Self::Name(name) => certificate.names.contains(name),
            Self::Below(suffix) => certificate.names.iter().any(|name| {
                // What stands before it is a name too, no mailbox and no URI.
                let before = name.strip_suffix(&**suffix).unwrap_or_default();
                !before.is_empty() && !before.contains(['@', '/', ':'])
            }),
            Self::Any => true,
        }
    }

    /// The closer it says who is meant, the less.
    fn rank(&self) -> u16 {
        match self {
            Self::Sha256(_) => 0,
            Self::Name(_) => 1,
            Self::Below(suffix) => 1000_u16.saturating_sub(u16::try_from(suffix.len()).unwrap_or(u16::MAX)),
            Self::Any => u16::MAX,
        }
    }
}

/// By what people are known, and the place in `[[policy.group]]` of whom it stands for. Never changed: a reload makes another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct People {
    /// The closest first; equals in the order of the file.
    certificates: Vec<(Pattern, Option<Mark>, usize)>,
    paths: HashMap<Box<str>, (Option<Mark>, usize)>,
    marks: HashMap<Mark, usize>,
}

impl People {
    /// From `[[policy.group]]`. What can't be read was refused by the check.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let mut people = Self::default();
        for (place, group) in config.policy.group.iter().enumerate() {
            for text in &group.certificate {
                let Ok(pattern) = Pattern::parse(text) else { continue };
                let mark = Mark::of(&format!("certificate {}", text.to_lowercase()));
                people.certificates.push((pattern, mark, place));
                people.marks.extend(mark.map(|mark| (mark, place)));
            }
            if let Some(path) = &group.doh_path {
                let mark = Mark::of(&format!("path {path}"));
                people.paths.insert(path.as_str().into(), (mark, place));
                people.marks.extend(mark.map(|mark| (mark, place)));
            }
        }
        people.certificates.sort_by_key(|(pattern, ..)| pattern.rank());
        people
    }

    /// Whether nobody is known by anything but an address.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.certificates.is_empty() && self.paths.is_empty()
    }

    /// The place of the group that somebody is of, and by what that is known.
    #[must_use]
    pub fn find(&self, person: &Person) -> Option<(Option<Mark>, usize)> {
        let of_certificate = person.certificate.as_ref().and_then(|certificate| {
            let found = self.certificates.iter().find(|(pattern, ..)| pattern.matches(certificate));
            found.map(|(_, mark, place)| (*mark, *place))
        });
        of_certificate.or_else(|| self.paths.get(person.path.as_deref()?).copied())
    }

    /// The place of the group of those who are known by this.
    #[must_use]
    pub fn by_mark(&self, mark: Mark) -> Option<usize> {
        self.marks.get(&mark).copied()
    }

    /// All of them, and the places of their groups.
    pub fn marks(&self) -> impl Iterator<Item = (Mark, usize)> {
        self.marks.iter().map(|(mark, place)| (*mark, *place))
    }

    /// Whether questions are taken at this path.
    #[must_use]
    pub fn has_path(&self, path: &str) -> bool {
        self.paths.contains_key(path)
    }

    /// The places of groups that somebody may be of by more than an address.
    pub fn places(&self) -> impl Iterator<Item = usize> {
        let of_paths = self.paths.values().map(|(_, place)| *place);
        let places: std::collections::BTreeSet<usize> =
            self.certificates.iter().map(|(_, _, place)| *place).chain(of_paths).collect();
        places.into_iter()
    }
}

/// Certificates that are believed by their hash, whoever signed them.
pub fn hashes(config: &Config) -> impl Iterator<Item = [u8; 32]> {
    let texts = config.policy.group.iter().flat_map(|group| &group.certificate);
    texts.filter_map(|text| match Pattern::parse(text) {
        Ok(Pattern::Sha256(sha256)) => Some(sha256),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn people() -> People {
        let config = toml::from_str(
            "[[policy.group]]\nname = \"staff\"\ncertificate = [\"*\"]\n\
             [[policy.group]]\nname = \"kids\"\ncertificate = [\"*.kids.example\", \"Anna@Example.org\"]\ndoh_path = \"/dns-query/kids\"\n\
             [[policy.group]]\nname = \"tablet\"\ncertificate = [\"tablet.kids.example\"]\n\
             [[policy.group]]\nname = \"tv\"\ncertificate = [\"sha256:0101010101010101010101010101010101010101010101010101010101010101\"]\n",
        );
        People::new(&config.unwrap())
    }

    fn certificate(names: &[&str], sha256: u8, chained: bool) -> Option<Arc<Certificate>> {
        let names = names.iter().map(|name| (*name).into()).collect();
        Some(Arc::new(Certificate { sha256: [sha256; 32], names, chained }))
    }

    #[test]
    fn the_closest_certificate_decides_and_the_path_comes_behind_it() {
        let people = people();
        let of = |certificate, path: Option<&str>| {
            people.find(&Person { certificate, path: path.map(Into::into) }).map(|(_, place)| place)
        };
        let kids = Some("/dns-query/kids");
        assert_eq!(of(certificate(&["someone"], 0, true), None), Some(0));
        assert_eq!(of(certificate(&["pad.kids.example"], 0, true), None), Some(1));
        assert_eq!(of(certificate(&["anna@example.org"], 0, true), None), Some(1));
        assert_eq!(of(certificate(&["tablet.kids.example"], 0, true), None), Some(2));
        assert_eq!(of(certificate(&["kids.example", "xkids.example"], 0, true), None), Some(0));
        assert_eq!(of(certificate(&["a@b.kids.example", "https://x/y.kids.example"], 0, true), None), Some(0));
        // Whose hash is known needs no CA, and its names count for nothing without one.
        assert_eq!(of(certificate(&["tablet.kids.example"], 1, false), None), Some(3));
        assert_eq!(of(certificate(&["tablet.kids.example"], 2, false), None), None);
        // A certificate wins over the path; a path is enough where there is none.
        assert_eq!(of(certificate(&["someone"], 0, true), kids), Some(0));
        assert_eq!(of(None, kids), Some(1));
        assert_eq!(of(None, Some("/dns-query/others")), None);
        assert!(people.has_path("/dns-query/kids") && !people.has_path("/dns-query/kid"));
    }

    #[test]
    fn the_same_text_has_the_same_mark() {
        let (one, other) = (Mark::of("certificate a mark's").unwrap(), Mark::of("certificate another mark's").unwrap());
        assert_ne!(one, other);
        assert_eq!(Mark::of("certificate a mark's"), Some(one));
        assert_eq!(&*one.words(), "certificate a mark's");
        let known = people();
        assert_eq!(known.by_mark(Mark::of("path /dns-query/kids").unwrap()), Some(1));
        assert_eq!(known.by_mark(one), None);
    }

    #[test]
    fn patterns_are_told_from_what_is_none() {
        let colons = format!("sha256:{}", ["AB"; 32].join(":"));
        assert_eq!(Pattern::parse(&colons), Ok(Pattern::Sha256([0xab; 32])));
        assert_eq!(Pattern::parse("*.Kids.Example"), Ok(Pattern::Below(".kids.example".into())));
        assert_eq!(Pattern::parse("*"), Ok(Pattern::Any));
        assert_eq!(Pattern::parse("https://example.org/anna"), Ok(Pattern::Name("https://example.org/anna".into())));
        for wrong in ["", "sha256:", "sha256:abc", "sha256:+1+1", "a*b", "*.", "**", "a\nb"] {
            assert!(Pattern::parse(wrong).is_err(), "{wrong}");
        }
    }
}
