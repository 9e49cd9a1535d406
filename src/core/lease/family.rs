//! Leases counted by the family of their address.

use std::net::IpAddr;

/// Number of leases by family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByFamily {
    /// The part of IPv4.
    pub ipv4: usize,
    /// The part of IPv6.
    pub ipv6: usize,
}

impl ByFamily {
    /// The sum over both families.
    #[must_use]
    pub fn total(self) -> usize {
        self.ipv4 + self.ipv6
    }

    /// These and those.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { ipv4: self.ipv4 + other.ipv4, ipv6: self.ipv6 + other.ipv6 }
    }

    /// The number of one address's family.
    pub fn of(&mut self, address: IpAddr) -> &mut usize {
        if address.is_ipv4() { &mut self.ipv4 } else { &mut self.ipv6 }
    }
}
