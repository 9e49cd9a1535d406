//! What one session is told about itself and its peer.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::wire::iana::{Families, Role};

/// What a session is told about both ends.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// Our AS.
    pub asn: u32,
    /// Our identifier.
    pub router_id: Ipv4Addr,
    /// The peer's AS.
    pub peer_asn: u32,
    /// Proposed hold time, seconds; 0 or at least 3.
    pub hold_time: u16,
    /// A connection that takes nothing for so long is given up (RFC 9687), and never before twice the hold time; zero = the RFC's 8 minutes.
    pub send_hold: Duration,
    /// Families to negotiate.
    pub families: Families,
    /// Never connect.
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
