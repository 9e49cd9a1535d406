//! For whom, and on which port, an address is open: what [`super::pairs`] keep beside the address.
//!
//! An address that is open to [`Port::Any`] for [`Who::Anyone`] is open as a lease opens it. Everything else is less than that, and a timed
//! enforcer holds it in other sets; one that can't says so, see [`NarrowKinds`].

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smallvec::SmallVec;

/// Who stands for all of this host's own loopback addresses: it asks by any of them, and connects from yet others.
pub const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The numbers of protocols that have ports.
pub const TCP: u8 = 6;
/// The number of UDP among IP's protocols, like [`TCP`].
pub const UDP: u8 = 17;
/// The number of SCTP among IP's protocols, like [`TCP`].
pub const SCTP: u8 = 132;

/// Who may reach an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Who {
    /// Everybody who is guarded here.
    Anyone,
    /// One client, as [`owner`] names it.
    Client(IpAddr),
    /// One application of this host, by its number: see [`super::applications`].
    Application(u16),
}

/// What of an address may be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Port {
    /// All of it.
    Any,
    /// One port of one transport may be reached.
    Of {
        /// Its protocol's number.
        protocol: u8,
        /// The destination port of the packets.
        port: u16,
    },
}

/// For whom and to which port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Narrow {
    /// The clients that may reach it.
    pub who: Who,
    /// To which port.
    pub to: Port,
}

impl Narrow {
    /// Everything, for everybody: as a lease alone opens an address.
    pub const NOT: Self = Self { who: Who::Anyone, to: Port::Any };
    /// Before all others.
    pub const FIRST: Self = Self::NOT;
    /// Behind all others.
    pub const LAST: Self = Self { who: Who::Application(u16::MAX), to: Port::Of { protocol: u8::MAX, port: u16::MAX } };

    /// All of the address, for one client.
    #[must_use]
    pub fn of_client(client: IpAddr) -> Self {
        Self { who: Who::Client(owner(client)), to: Port::Any }
    }

    /// The application, where it is for one.
    #[must_use]
    pub fn application(self) -> Option<u16> {
        match self.who {
            Who::Application(number) => Some(number),
            Who::Anyone | Who::Client(_) => None,
        }
    }

    /// The client, where it is for one.
    #[must_use]
    pub fn client(self) -> Option<IpAddr> {
        match self.who {
            Who::Client(client) => Some(client),
            Who::Anyone | Who::Application(_) => None,
        }
    }
}

/// Address, and for whom and to which port it is open, in this order: all that is open of an address stands side by side.
pub type PairId = (IpAddr, Narrow);

/// One thing that an answer opens of each of its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Opening {
    /// For this application of the host alone; `None`: for whoever asked, or for everybody, as leases are.
    pub application: Option<u16>,
    /// To this port.
    pub to: Port,
}

impl Opening {
    /// Everything, for whoever asked.
    pub const ALL: Self = Self { application: None, to: Port::Any };
}

/// Those of an answer; none: [`Opening::ALL`].
pub type Openings = Arc<[Opening]>;

/// Those of one answer for its client; most have one.
pub type Narrows = SmallVec<[Narrow; 1]>;

/// What a timed enforcer can hold apart. All of them hold [`Narrow::NOT`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NarrowKinds {
    /// Addresses for single clients.
    pub clients: bool,
    /// Single ports of an address.
    pub ports: bool,
    /// Addresses for single applications.
    pub applications: bool,
}

/// Whom an answer to `client` opens addresses for.
#[must_use]
pub fn owner(client: IpAddr) -> IpAddr {
    let client = client.to_canonical();
    if client.is_loopback() { HOST } else { client }
}

/// The same where so many bits of IPv6 addresses tell clients apart.
#[must_use]
pub fn owner_of(client: IpAddr, ipv6_prefix: u8) -> IpAddr {
    match owner(client) {
        IpAddr::V6(address) => {
            let rest = 128_u32.saturating_sub(u32::from(ipv6_prefix));
            let mask = u128::MAX.checked_shl(rest).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
        }
        own => own,
    }
}

/// Whether packets from this client can go to this address: its own family, or any from this host.
#[must_use]
pub fn reaches(client: IpAddr, address: IpAddr) -> bool {
    let owner = owner(client);
    owner == HOST || owner.is_ipv4() == address.is_ipv4()
}

/// The name of a protocol that has ports, as configuration and output write it.
#[must_use]
pub fn protocol_name(protocol: u8) -> Option<&'static str> {
    match protocol {
        TCP => Some("tcp"),
        UDP => Some("udp"),
        SCTP => Some("sctp"),
        _ => None,
    }
}

impl fmt::Display for Port {
    /// "tcp/443"; "all ports".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("all ports"),
            Self::Of { protocol, port } => match protocol_name(*protocol) {
                Some(name) => write!(f, "{name}/{port}"),
                None => write!(f, "{protocol}/{port}"),
            },
        }
    }
}

impl Serialize for Port {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || serde::de::Error::custom(format!("{text:?} is no port"));
        if text == Self::Any.to_string() {
            return Ok(Self::Any);
        }
        let (protocol, port) = text.split_once('/').ok_or_else(wrong)?;
        let known = [TCP, UDP, SCTP].into_iter().find(|number| protocol_name(*number) == Some(protocol));
        let protocol = known.or_else(|| protocol.parse().ok()).ok_or_else(wrong)?;
        Ok(Self::Of { protocol, port: port.parse().map_err(|_| wrong())? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn this_host_is_one_client_and_reaches_both_families() {
        for own in ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(owner(ip(own)), HOST);
            assert!(reaches(ip(own), ip("203.0.113.1")) && reaches(ip(own), ip("2001:db8::1")));
        }
        assert_eq!(owner(ip("::ffff:192.0.2.7")), ip("192.0.2.7"));
        assert_eq!(owner_of(ip("2001:db8:1:2:3:4:5:6"), 64), ip("2001:db8:1:2::"));
        assert_eq!(owner_of(ip("2001:db8:1:2:3:4:5:6"), 128), ip("2001:db8:1:2:3:4:5:6"));
        assert_eq!(owner_of(ip("::ffff:192.0.2.7"), 64), ip("192.0.2.7"));
        assert_eq!(owner_of(ip("::1"), 64), HOST);
        assert!(reaches(ip("192.0.2.7"), ip("203.0.113.1")) && !reaches(ip("192.0.2.7"), ip("2001:db8::1")));
        assert!(reaches(ip("2001:db8:1::7"), ip("2001:db8::1")) && !reaches(ip("2001:db8:1::7"), ip("203.0.113.1")));
    }

    #[test]
    fn nothing_stands_before_the_first_or_behind_the_last() {
        let port = Port::Of { protocol: TCP, port: 443 };
        for who in [Who::Anyone, Who::Client(HOST), Who::Client(ip("ffff::")), Who::Application(7)] {
            for to in [Port::Any, port] {
                let narrow = Narrow { who, to };
                assert!(Narrow::FIRST <= narrow && narrow <= Narrow::LAST, "{narrow:?}");
            }
        }
        assert!(size_of::<PairId>() <= 44, "{}", size_of::<PairId>());
        assert_eq!(port.to_string(), "tcp/443");
    }
}
