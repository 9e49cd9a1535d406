//! What was asked for and used in audit, and its file: written whole beside the old one and renamed over it; believed only when its sum is right.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::whole::{Unusable, Whole};
use crate::core::client::prefix;

const FILE: &str = "usage";
const BAD: &str = "usage.bad";
/// Octets read at most: many times what the most of it takes.
const LARGEST: u64 = 64 << 20;
const WHOLE: Whole = Whole { file: FILE, bad: BAD, magic: "destguard usage 1", holds: "usage", largest: LARGEST };

/// What questions for a name got, the best of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Got {
    /// Nothing: no such name, no data, no answer.
    Nothing,
    /// Addresses that would all be filtered.
    Filtered,
    /// The answer had data.
    Data,
}

/// How often, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Seen {
    /// The number of times it was seen.
    pub count: u64,
    /// The first time, in seconds since 1970.
    pub first: u64,
    /// The last time.
    pub last: u64,
}

impl Seen {
    /// Seen for the first time at this moment, in seconds since 1970.
    #[must_use]
    pub fn at(now: u64) -> Self {
        Self { count: 1, first: now, last: now }
    }

    /// Of both. The clock may have been set back between them.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        let count = self.count.saturating_add(other.count);
        Self { count, first: self.first.min(other.first), last: self.last.max(other.last) }
    }
}

/// A name that a client asked for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct UsedName {
    /// The client: IPv4 an address, IPv6 the /64; unspecified where clients are hidden.
    pub client: IpAddr,
    /// The name, in presentation form.
    pub name: String,
    /// What it got.
    pub got: Got,
    /// How often the client asked, and when.
    pub seen: Seen,
}

/// Where packets went that were to no lease.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub struct Destination {
    /// The address that the packets were sent to.
    pub address: IpAddr,
    /// Protocol and port, as in "tcp/443".
    pub port: String,
    /// As in [`UsedName`].
    pub client: IpAddr,
}

/// The same with how often.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct UsedAddress {
    /// Where to, and who.
    pub to: Destination,
    /// The name whose answer had the address.
    pub name: Option<String>,
    /// How often packets went there, and when.
    pub seen: Seen,
}

/// All of it, as it is kept on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Used {
    /// When the first of it was seen, in seconds since 1970; `None`: nothing was yet.
    pub since: Option<u64>,
    /// What there was no room for.
    pub forgotten: u64,
    /// Names by client.
    pub names: Vec<UsedName>,
    /// Destinations by client.
    pub addresses: Vec<UsedAddress>,
}

impl Used {
    /// Names of these clients that were asked for since then, whoever asked; each with who asked.
    #[must_use]
    pub fn names_of(&self, clients: Option<IpNet>, since: u64) -> BTreeMap<&str, Vec<&UsedName>> {
        let mut names: BTreeMap<&str, Vec<&UsedName>> = BTreeMap::new();
        let wanted = |used: &&UsedName| used.seen.last >= since && is_of(clients, used.client);
        for used in self.names.iter().filter(wanted) {
            names.entry(used.name.as_str()).or_default().push(used);
        }
        names
    }

    /// Destinations of these clients since this moment, by address.
    #[must_use]
    pub fn addresses_of(&self, clients: Option<IpNet>, since: u64) -> BTreeMap<IpAddr, Vec<&UsedAddress>> {
        let mut addresses: BTreeMap<IpAddr, Vec<&UsedAddress>> = BTreeMap::new();
        let wanted = |used: &&UsedAddress| used.seen.last >= since && is_of(clients, used.to.client);
        for used in self.addresses.iter().filter(wanted) {
            addresses.entry(used.to.address).or_default().push(used);
        }
        addresses
    }
}

/// Whether a client is of a prefix: of IPv6 the /64 is known alone, so that a longer prefix has it too.
fn is_of(clients: Option<IpNet>, client: IpAddr) -> bool {
    clients.is_none_or(|net| {
        net.contains(&client) || (client.is_ipv6() && net.prefix_len() > 64 && prefix(net.addr()) == client)
    })
}

/// What an earlier run wrote; nothing where there is no file.
///
/// # Errors
/// Why the file can't be used; it is then kept beside under another name.
pub fn read(directory: &Path) -> Result<Used, Unusable> {
    WHOLE.read(directory)
}

/// Writes it in place of what there is.
///
/// # Errors
/// The disk's; the old file is still there then.
pub fn write(directory: &Path, used: &Used) -> io::Result<()> {
    WHOLE.write(directory, used, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_not_right_is_kept_beside() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(read(directory.path()).unwrap(), Used::default());
        let name = UsedName {
            client: [10, 0, 0, 1].into(),
            name: "a\\.b.example".to_owned(),
            got: Got::Data,
            seen: Seen { count: 3, first: 1, last: 9 },
        };
        let used = Used { since: Some(1), names: vec![name], ..Used::default() };
        write(directory.path(), &used).unwrap();
        assert_eq!(read(directory.path()).unwrap(), used);
        let good = std::fs::read(directory.path().join(FILE)).unwrap();
        std::fs::write(directory.path().join(FILE), &good[..good.len() - 3]).unwrap();
        assert!(read(directory.path()).unwrap_err().to_string().contains("kept as"));
        assert!(directory.path().join(BAD).exists());
        assert_eq!(read(directory.path()).unwrap(), Used::default());
    }
}
