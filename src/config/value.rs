//! Values that are strings in the file: durations ("30s"), sizes ("64MiB"), rates ("50/s").

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::config::endpoint::{AddressError, Endpoint, Host};
use crate::config::window::Window;

/// Why a text is none of the values of this module.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// The text is no [`Span`].
    #[error("\"{0}\" is not a duration; write a number and a unit, as in \"500ms\", \"30s\", \"5m\", \"24h\", \"7d\"")]
    Span(String),
    /// The text is no [`Size`].
    #[error("\"{0}\" is not a size; write a number and a unit, as in \"64MiB\" or \"1GiB\"")]
    Size(String),
    /// The text is no [`Rate`].
    #[error("\"{0}\" is not a rate; write a number and a time, as in \"50/s\" or \"600/m\"")]
    Rate(String),
    /// The text is no [`Target`].
    #[error("\"{0}\" is no target; write \"unix:/PATH\", \"udp:ADDRESS:PORT\" or \"tcp:ADDRESS:PORT\"")]
    Target(String),
    /// A [`Target`] whose address is none.
    #[error("\"{text}\": {source}")]
    Address {
        /// The whole target, as it was written.
        text: String,
        /// What is wrong with its address.
        source: AddressError,
    },
}

/// A duration: a whole number and one of `ms`, `s`, `m`, `h`, `d`; "0s" is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Span {
    /// `seconds` as a span.
    #[must_use]
    pub const fn secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// `millis` as a span.
    #[must_use]
    pub const fn millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }
}

/// Splits "30s" into its number and unit.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let (digits, unit) = text.split_at_checked(split)?;
    Some((digits.parse().ok()?, unit))
}

impl FromStr for Span {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = || ValueError::Span(text.to_owned());
        let (number, unit) = number_and_unit(text).ok_or_else(wrong)?;
        let millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        Ok(Self(Duration::from_millis(number.checked_mul(millis).ok_or_else(wrong)?)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
            if millis != 0 && millis.is_multiple_of(size) {
                return write!(f, "{}{unit}", millis / size);
            }
        }
        if millis == 0 { f.write_str("0s") } else { write!(f, "{millis}ms") }
    }
}

/// A number of octets: a whole number and one of `B`, `KiB`, `MiB`, `GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = || ValueError::Size(text.to_owned());
        let (number, unit) = number_and_unit(text).ok_or_else(wrong)?;
        let scale = match unit {
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1u64 << 30,
            _ => return Err(wrong()),
        };
        number.checked_mul(scale).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, size) in [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
            if self.0 != 0 && self.0.is_multiple_of(size) {
                return write!(f, "{}{unit}", self.0 / size);
            }
        }
        write!(f, "{}B", self.0)
    }
}

/// Events per time: a whole number and `/s`, `/m` or `/h`. The bucket holds one second's, minute's or hour's worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The number of events.
    pub count: u64,
    /// In what time.
    pub per: Duration,
}

impl FromStr for Rate {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = || ValueError::Rate(text.to_owned());
        let (count, unit) = number_and_unit(text).ok_or_else(wrong)?;
        let per = match unit {
            "/s" => 1,
            "/m" => 60,
            "/h" => 3_600,
            _ => return Err(wrong()),
        };
        Ok(Self { count, per: Duration::from_secs(per) })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.per.as_secs() {
            3_600 => "h",
            60 => "m",
            _ => "s",
        };
        write!(f, "{}/{unit}", self.count)
    }
}

/// `settle`: waited after the confirmation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Settle {
    /// Learnt from data-path probes; starts at 75 ms.
    #[default]
    Auto,
    /// The same span always, as configured.
    Fixed(Span),
}

/// Who is told of questions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A socket of this host.
    Unix(PathBuf),
    /// Datagrams of UDP, which may be lost.
    Udp(Endpoint),
    /// A connection of TCP, made again when it is lost.
    Tcp(Endpoint),
}

impl FromStr for Target {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = || ValueError::Target(text.to_owned());
        let (kind, place) = text.split_once(':').ok_or_else(wrong)?;
        let misplaced = |source| ValueError::Address { text: text.to_owned(), source };
        let endpoint = || place.parse::<Endpoint>().map_err(misplaced);
        match kind {
            "unix" if place.starts_with('/') => Ok(Self::Unix(PathBuf::from(place))),
            "udp" => endpoint().map(Self::Udp),
            "tcp" => endpoint().map(Self::Tcp),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Udp(endpoint) => write!(f, "udp:{endpoint}"),
            Self::Tcp(endpoint) => write!(f, "tcp:{endpoint}"),
        }
    }
}

macro_rules! string_serde {
    ($type:ty) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

string_serde!(Span);
string_serde!(Size);
string_serde!(Rate);
string_serde!(Window);

macro_rules! string_schema {
    ($type:ty, $name:literal, $pattern:literal) => {
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                Cow::Borrowed($name)
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern })
            }
        }
    };
}

string_schema!(Span, "Duration", "^[0-9]+(ms|s|m|h|d)$");
string_schema!(Size, "Size", "^[0-9]+(B|KiB|MiB|GiB)$");
string_schema!(Rate, "Rate", "^[0-9]+/(s|m|h)$");
string_schema!(Window, "Window", "^([A-Za-z,-]+ *)?([0-9]{1,2}:[0-9]{2}-[0-9]{1,2}:[0-9]{2})?$");
string_schema!(Target, "Target", "^(unix:/|udp:|tcp:).+$");
string_schema!(Settle, "Settle", "^(auto|[0-9]+(ms|s|m|h|d))$");

impl<'de> Deserialize<'de> for Settle {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "auto" {
            return Ok(Self::Auto);
        }
        text.parse().map(Self::Fixed).map_err(|error: ValueError| de::Error::custom(format!("{error}, or \"auto\"")))
    }
}

impl Serialize for Settle {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Fixed(span) => serializer.collect_str(span),
        }
    }
}

/// Addresses, with the name of an interface where they are of one link.
macro_rules! address_serde {
    ($type:ty, $expected:literal) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                /// As [`nets`] has one.
                struct Visitor;

                impl de::Visitor<'_> for Visitor {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expected)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Visitor)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

address_serde!(Endpoint, "a string with an address and a port");
address_serde!(Host, "a string with an address");
address_serde!(Target, "a string as in \"unix:/dev/log\" or \"udp:192.0.2.1:514\"");

/// Lists of prefixes in which a bare address means its host prefix.
pub mod nets {
    use std::net::IpAddr;

    use ipnet::IpNet;
    use serde::{Deserialize, Deserializer, Serializer, de, ser::SerializeSeq};

    /// One element; a type of its own, so that an error stands at the element and not at the list.
    struct Net(IpNet);

    impl<'de> Deserialize<'de> for Net {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_str(NetVisitor)
        }
    }

    /// A visitor, since errors that arise within one bear the place of the value.
    struct NetVisitor;

    impl de::Visitor<'_> for NetVisitor {
        type Value = Net;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a string with an address or a prefix")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Net, E> {
            text.parse::<IpNet>()
                .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
                .map(Net)
                .map_err(|_| E::custom(format!("\"{text}\" is neither an address nor a prefix")))
        }
    }

    /// Reads "192.0.2.0/24" and "192.0.2.1".
    ///
    /// # Errors
    /// Anything else.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
        Ok(Vec::<Net>::deserialize(deserializer)?.into_iter().map(|net| net.0).collect())
    }

    /// Writes them back.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(nets: &[IpNet], serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(nets.len()))?;
        for net in nets {
            list.serialize_element(&net.to_string())?;
        }
        list.end()
    }
}
