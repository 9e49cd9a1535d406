//! Domain names as the core compares them: lower-cased wire form (RFC 1035 section 3.1), any octet allowed in a label.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A fully qualified domain name, lower-cased (ASCII only, RFC 4343), in uncompressed wire form with the root label at
/// its end. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<[u8]>);

/// Why a name was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// A label is empty ("a..b").
    #[error("an empty label")]
    EmptyLabel,
    /// A label is longer than 63 octets.
    #[error("a label longer than 63 octets")]
    LabelTooLong,
    /// The name is longer than 255 octets.
    #[error("a name longer than 255 octets")]
    NameTooLong,
    /// A backslash escape that is not `\DDD` or `\X`.
    #[error("a bad escape")]
    BadEscape,
    /// Wire form that ends early, is compressed or has octets behind the root.
    #[error("not an uncompressed wire-form name")]
    NotWire,
}

/// A table of names can be asked for a [suffix](Name::suffixes) of another.
impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl Name {
    /// The root, ".".
    #[must_use]
    pub fn root() -> Self {
        Self(Arc::from([0u8].as_slice()))
    }

    /// From uncompressed wire form, to its end exactly; lower-cases it.
    ///
    /// # Errors
    /// [`NameError`] when it isn't one.
    pub fn from_wire(wire: &[u8]) -> Result<Self, NameError> {
        if wire.len() > 255 {
            return Err(NameError::NameTooLong);
        }
        let mut at = 0usize;
        loop {
            let Some(&len) = wire.get(at) else { return Err(NameError::NotWire) };
            if len == 0 {
                break;
            }
            if len > 63 {
                return Err(NameError::NotWire);
            }
            at = at.saturating_add(1).saturating_add(usize::from(len));
        }
        if at.saturating_add(1) != wire.len() {
            return Err(NameError::NotWire);
        }
        // Length octets are below 64, so lower-casing the whole buffer can't touch them.
        let mut room = [0u8; 255];
        let Some(lower) = room.get_mut(..wire.len()) else { return Err(NameError::NameTooLong) };
        lower.copy_from_slice(wire);
        lower.make_ascii_lowercase();
        Ok(Self(Arc::from(&*lower)))
    }

    /// A name that this suffix of another one's [`Name::wire`] stands for.
    pub(in crate::core) fn of_suffix(suffix: &[u8]) -> Self {
        Self(Arc::from(suffix))
    }

    /// The wire form, root label included.
    #[must_use]
    pub fn wire(&self) -> &[u8] {
        &self.0
    }

    /// The labels from the left, without the root.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest: &[u8] = &self.0;
        std::iter::from_fn(move || {
            let (&len, tail) = rest.split_first()?;
            if len == 0 {
                return None;
            }
            let (label, next) = tail.split_at_checked(usize::from(len))?;
            rest = next;
            Some(label)
        })
    }

    /// Number of labels without the root.
    #[must_use]
    pub fn label_count(&self) -> usize {
        self.labels().count()
    }

    /// This name's wire form, then its parent's, and so on to the root: each a suffix of [`Name::wire`].
    pub fn suffixes(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest: Option<&[u8]> = Some(&self.0);
        std::iter::from_fn(move || {
            let here = rest?;
            rest = match here.split_first() {
                Some((&len, tail)) if len != 0 => tail.get(usize::from(len)..),
                _ => None,
            };
            Some(here)
        })
    }

    /// Whether this is `ancestor` or lies below it.
    #[must_use]
    pub fn is_within(&self, ancestor: &Self) -> bool {
        self.suffixes().any(|suffix| suffix == ancestor.wire())
    }

    /// The name without its leftmost label; `None` for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        self.suffixes().nth(1).map(|suffix| Self(Arc::from(suffix)))
    }
}

impl std::str::FromStr for Name {
    type Err = NameError;

    /// From presentation form; a trailing dot is optional, `\DDD` and `\X` escapes are understood.
    fn from_str(text: &str) -> Result<Self, NameError> {
        if text == "." {
            return Ok(Self::root());
        }
        let mut wire = Vec::with_capacity(text.len().saturating_add(2));
        let mut label: Vec<u8> = Vec::new();
        let mut bytes = text.bytes().peekable();
        let mut finish = |label: &mut Vec<u8>| -> Result<(), NameError> {
            if label.is_empty() {
                return Err(NameError::EmptyLabel);
            }
            let len = u8::try_from(label.len()).ok().filter(|len| *len <= 63).ok_or(NameError::LabelTooLong)?;
            wire.push(len);
            wire.append(label);
            Ok(())
        };
        while let Some(byte) = bytes.next() {
            match byte {
                b'.' => finish(&mut label)?,
                b'\\' => match bytes.next() {
                    Some(digit) if digit.is_ascii_digit() => {
                        let mut value = u32::from(digit - b'0');
                        for _ in 0..2 {
                            let next = bytes.next().filter(u8::is_ascii_digit).ok_or(NameError::BadEscape)?;
                            value = value * 10 + u32::from(next - b'0');
                        }
                        label.push(u8::try_from(value).map_err(|_| NameError::BadEscape)?.to_ascii_lowercase());
                    }
                    Some(other) => label.push(other.to_ascii_lowercase()),
                    None => return Err(NameError::BadEscape),
                },
                other => label.push(other.to_ascii_lowercase()),
            }
        }
        if !text.ends_with('.') || !label.is_empty() {
            finish(&mut label)?;
        }
        wire.push(0);
        if wire.len() > 255 {
            return Err(NameError::NameTooLong);
        }
        Ok(Self(Arc::from(wire)))
    }
}

impl fmt::Display for Name {
    /// Presentation form without the trailing dot (the root is "."); octets that aren't printable ASCII as `\DDD`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.len() <= 1 {
            return f.write_str(".");
        }
        for (index, label) in self.labels().enumerate() {
            if index > 0 {
                f.write_str(".")?;
            }
            for &octet in label {
                match octet {
                    b'.' | b'\\' => write!(f, "\\{}", char::from(octet))?,
                    0x21..=0x7e => write!(f, "{}", char::from(octet))?,
                    _ => write!(f, "\\{octet:03}")?,
                }
            }
        }
        Ok(())
    }
}

/// Presentation form behind [`MARK`], by which a name is known among other texts.
impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{MARK}{self}"))
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let name = text.strip_prefix(MARK).unwrap_or(&text).parse();
        name.map_err(|error| serde::de::Error::custom(format!("{text:?}: {error}")))
    }
}

/// Stands before each name that is written as JSON.
pub const MARK: char = '~';

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
