//! Addresses as users write them: with the name of an interface where an address is of one link only (`fe80::1%eth0`).
//!
//! Names become numbers only when a socket is made ([`crate::sys::endpoint`]): the interface may come later, or come again with another number.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::str::FromStr;

/// What an interface's name has room for (IFNAMSIZ), without the zero behind it.
const NAME: usize = 15;

/// Why a text is no address, or not one that can be used as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// What stands behind the `%` is no name of an interface.
    #[error("\"{0}\" is not the name of an interface")]
    Interface(String),
    /// A link-local address without a zone.
    #[error("{0} is of one link only: name its interface, as in \"{0}%eth0\"")]
    NoZone(IpAddr),
    /// Another address with one.
    #[error("{ip} is not of one link only: take %{zone} away")]
    Zone {
        /// The address, as it was written.
        ip: IpAddr,
        /// The interface that stands behind it.
        zone: Zone,
    },
    /// No address before the `%`.
    #[error("\"{0}\" is not an IP address")]
    NoIp(String),
    /// No address, in the standard library's words.
    #[error("invalid IP address syntax")]
    Host,
    /// No address with a port, in the standard library's words, which the report of a configuration puts plainer.
    #[error("invalid socket address syntax")]
    Endpoint,
}

/// The name of an interface.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Zone {
    name: [u8; NAME],
    length: u8,
}

impl Zone {
    /// The interface's name, of 15 octets at most.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.get(..usize::from(self.length)).and_then(|name| std::str::from_utf8(name).ok()).unwrap_or_default()
    }
}

impl FromStr for Zone {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let good =
            (1..=NAME).contains(&text.len()) && text.bytes().all(|octet| octet.is_ascii_graphic() && octet != b'/');
        if !good {
            return Err(AddressError::Interface(text.to_owned()));
        }
        let mut name = [0; NAME];
        name.iter_mut().zip(text.bytes()).for_each(|(to, octet)| *to = octet);
        Ok(Self { name, length: u8::try_from(text.len()).unwrap_or_default() })
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.name(), f)
    }
}

/// An address and port, on one interface where it is link-local.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    addr: SocketAddr,
    zone: Option<Zone>,
}

impl Endpoint {
    /// With this zone.
    ///
    /// # Errors
    /// A link-local address has none, or another one has.
    pub fn new(addr: SocketAddr, zone: Option<Zone>) -> Result<Self, AddressError> {
        fits(addr.ip(), zone)?;
        Ok(Self { addr, zone })
    }

    /// The interface it is on.
    #[must_use]
    pub fn zone(&self) -> Option<Zone> {
        self.zone
    }
}

/// Whether the address has a zone exactly if it needs one.
///
/// # Errors
/// [`AddressError::NoZone`], [`AddressError::Zone`].
pub fn fits(ip: IpAddr, zone: Option<Zone>) -> Result<(), AddressError> {
    let local = matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
    match zone {
        None if local => Err(AddressError::NoZone(ip)),
        Some(zone) if !local => Err(AddressError::Zone { ip, zone }),
        _ => Ok(()),
    }
}

/// An IP address and the zone behind its `%`.
///
/// # Errors
/// See [`AddressError`].
pub fn host(text: &str) -> Result<(IpAddr, Option<Zone>), AddressError> {
    let (address, zone) = match text.split_once('%') {
        // In URLs the sign itself is written %25 (RFC 6874).
        Some((address, zone)) => {
            (address, Some(zone.strip_prefix("25").filter(|zone| !zone.is_empty()).unwrap_or(zone).parse()?))
        }
        None => (text, None),
    };
    let ip = address.parse::<IpAddr>().map_err(|_| AddressError::NoIp(text.to_owned()))?;
    fits(ip, zone)?;
    Ok((ip, zone))
}

/// An address without port, on one interface where it is link-local.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Host {
    ip: IpAddr,
    zone: Option<Zone>,
}

impl Host {
    /// The interface it is on.
    #[must_use]
    pub fn zone(&self) -> Option<Zone> {
        self.zone
    }
}

impl From<IpAddr> for Host {
    fn from(ip: IpAddr) -> Self {
        Self { ip, zone: None }
    }
}

impl Deref for Host {
    type Target = IpAddr;

    fn deref(&self) -> &IpAddr {
        &self.ip
    }
}

impl FromStr for Host {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        // As for an endpoint, in the standard library's words.
        if !text.contains('%') && text.parse::<IpAddr>().is_err() {
            return Err(AddressError::Host);
        }
        host(text).map(|(ip, zone)| Self { ip, zone })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.zone {
            Some(zone) => write!(f, "{}%{zone}", self.ip),
            None => self.ip.fmt(f),
        }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(addr: SocketAddr) -> Self {
        Self { addr, zone: None }
    }
}

impl Deref for Endpoint {
    type Target = SocketAddr;

    fn deref(&self) -> &SocketAddr {
        &self.addr
    }
}

impl PartialEq<SocketAddr> for Endpoint {
    fn eq(&self, other: &SocketAddr) -> bool {
        self.addr == *other
    }
}

impl FromStr for Endpoint {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let Some((address, port)) = text.strip_prefix('[').and_then(|rest| rest.split_once("]:")) else {
            return text.parse().map(|addr: SocketAddr| addr.into()).map_err(|_| AddressError::Endpoint);
        };
        let port = port.parse().map_err(|_| AddressError::Endpoint)?;
        if !address.contains('%') {
            let ip: std::net::Ipv6Addr = address.parse().map_err(|_| AddressError::Endpoint)?;
            return Self::new(SocketAddr::new(ip.into(), port), None);
        }
        let (ip, zone) = host(address)?;
        Self::new(SocketAddr::new(ip, port), zone)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.zone {
            Some(zone) => write!(f, "[{}%{zone}]:{}", self.addr.ip(), self.addr.port()),
            None => self.addr.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown_as_they_are_written() {
        for text in ["192.0.2.1:53", "[2001:db8::1]:53", "[fe80::1%eth0]:853", "[::]:0", "[fe80::1%br-lan.7]:1"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        assert_eq!("[fe80::1%25eth0]:53".parse::<Endpoint>().unwrap().to_string(), "[fe80::1%eth0]:53");
        for (text, said) in [
            ("[fe80::1]:53", "name its interface"),
            ("[2001:db8::1%eth0]:53", "take %eth0 away"),
            ("[fe80::1%]:53", "not the name of an interface"),
            ("[fe80::1%a-name-that-is-too-long]:53", "not the name of an interface"),
            ("192.0.2.1", "invalid socket"),
            ("[fe80::1%eth0]:70000", "invalid socket"),
        ] {
            let error = text.parse::<Endpoint>().unwrap_err();
            assert!(error.to_string().contains(said), "{text}: {error}");
        }
    }
}
