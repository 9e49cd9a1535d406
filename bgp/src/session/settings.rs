//! What one session is told about itself and its peer.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::wire::capability::{Capability, GracefulRestart, LongLivedFamily, RestartFamily};
use crate::wire::iana::{Families, Family, Role};
use crate::wire::message::Open;

/// What a session is told about both ends.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// AS number of this speaker.
    pub asn: u32,
    /// BGP identifier of this speaker.
    pub router_id: Ipv4Addr,
    /// The peer's AS.
    pub peer_asn: u32,
    /// Proposed hold time, seconds; 0 or at least 3.
    pub hold_time: u16,
    /// A connection that takes nothing for so long is given up (RFC 9687), and never before twice the hold time; zero = the RFC's 8 minutes.
    pub send_hold: Duration,
    /// Families to negotiate.
    pub families: Families,
    /// Whether it only waits for the peer to connect.
    pub passive: bool,
    /// Restart time, seconds; 0 = capability 64 isn't sent.
    pub restart_time: u16,
    /// Long-lived stale time, seconds (RFC 9494); 0, or no restart time = capability 71 isn't sent.
    pub stale_time: u32,
    /// R bit until the first session, and F bits from the start.
    pub restarting: bool,
    /// Offer IPv4 with an IPv6 next hop (RFC 8950).
    pub extended_next_hop: bool,
    /// Our role towards an external peer (RFC 9234).
    pub bgp_role: Option<Role>,
    /// [`super::Output::Heard`] is wanted. Then capability 64 is always sent: FRR ends a replay with EoRR only for who has it.
    pub hear: bool,
    /// Seed for jitter.
    pub seed: u64,
}

impl SessionConfig {
    /// Our OPEN. `restarting`, `forwarding`: the bits of graceful restart (RFC 4724 section 3).
    pub(super) fn open(&self, restarting: bool, forwarding: bool) -> Open {
        let families: Vec<Family> = self.families.iter().collect();
        let mut capabilities: Vec<Capability> =
            families.iter().map(|family| Capability::Multiprotocol(family.afi_safi())).collect();
        capabilities.push(Capability::RouteRefresh);
        capabilities.push(Capability::EnhancedRouteRefresh);
        capabilities.push(Capability::ExtendedMessage);
        if self.restart_time > 0 {
            capabilities.push(Capability::GracefulRestart(GracefulRestart {
                restarting,
                notification: true,
                time: self.restart_time,
                families: families
                    .iter()
                    .map(|family| RestartFamily { family: family.afi_safi(), forwarding })
                    .collect(),
            }));
            // Never without the one above (RFC 9494 section 4.1).
            if self.stale_time > 0 {
                let stale_time = self.stale_time;
                let entry = |family: &Family| LongLivedFamily { family: family.afi_safi(), forwarding, stale_time };
                let families = families.iter().map(entry).collect();
                capabilities.push(Capability::LongLivedGracefulRestart(families));
            }
        } else if self.hear {
            capabilities.push(Capability::GracefulRestart(GracefulRestart::default()));
        }
        if self.extended_next_hop {
            let (ipv4, ipv6) = (Family::Ipv4.afi_safi(), Family::Ipv6.afi_safi());
            capabilities.push(Capability::ExtendedNextHop(vec![(ipv4, ipv6.afi)]));
        }
        if let Some(role) = self.bgp_role.filter(|_| self.asn != self.peer_asn) {
            capabilities.push(Capability::Role(role));
        }
        capabilities.push(Capability::FourOctetAs(self.asn));
        Open { asn: self.asn, hold_time: self.hold_time, identifier: self.router_id, capabilities }
    }
}
