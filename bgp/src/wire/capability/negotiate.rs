//! What two OPENs agree on: a pure function of both.

use std::net::Ipv4Addr;

use super::{Capability, GracefulRestart, LongLivedFamily};
use crate::wire::error::OpenError;
use crate::wire::iana::{Families, Family, Role};
use crate::wire::message::Open;
use crate::wire::{DecodeContext, EncodeContext, PeerType};

/// What a session may use, from [`negotiate`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// Whether the peer is in our AS.
    pub peer_type: PeerType,
    /// The peer's AS.
    pub peer_as: u32,
    /// The peer's BGP identifier.
    pub peer_identifier: Ipv4Addr,
    /// The lesser of both hold times, seconds; 0: no KEEPALIVEs.
    pub hold_time: u16,
    /// Families of both; IPv4 is implied by an OPEN without any multiprotocol capability.
    pub families: Families,
    /// Both have four-octet AS numbers.
    pub four_octet_as: bool,
    /// Both have ROUTE-REFRESH (capability 2).
    pub route_refresh: bool,
    /// Both have BoRR and EoRR (capability 70).
    pub enhanced_route_refresh: bool,
    /// Both have messages up to 65535 octets.
    pub extended_message: bool,
    /// Both have IPv4 with an IPv6 next hop.
    pub extended_next_hop: bool,
    /// Families in which the peer may send several paths, and we said that we can take them.
    pub add_path_receive: Families,
    /// The peer's Graceful Restart; none if it or we did not offer it.
    pub graceful_restart: Option<GracefulRestart>,
    /// Both set N: NOTIFICATIONs but Hard Reset keep routes (RFC 8538).
    pub graceful_notification: bool,
    /// The peer's Long-Lived Graceful Restart, without families if it only keeps ours; none if it or we did not offer it, or plain GR is not
    /// negotiated.
    pub long_lived: Option<Vec<LongLivedFamily>>,
    /// The peer's role, whatever ours is.
    pub peer_role: Option<Role>,
}

impl Negotiated {
    /// How to read what the peer sends.
    pub fn decode_context(&self) -> DecodeContext {
        DecodeContext {
            peer_type: self.peer_type,
            four_octet_as: self.four_octet_as,
            extended_message: self.extended_message,
            enhanced_route_refresh: self.enhanced_route_refresh,
            extended_next_hop: self.extended_next_hop,
            families: self.families,
            add_path: self.add_path_receive,
        }
    }

    /// How to write what the peer gets. IPv4 goes into the classic fields; set `ipv4_in_mp` for the other way.
    pub fn encode_context(&self) -> EncodeContext {
        EncodeContext {
            four_octet_as: self.four_octet_as,
            extended_message: self.extended_message,
            extended_next_hop: self.extended_next_hop,
            ipv4_in_mp: false,
            families: self.families,
            add_path: Families::NONE,
        }
    }
}

/// Checks the peer's OPEN against what is configured: its AS, and RFC 6286 section 2.1's identifier rule.
///
/// `peer_as` is the configured AS of the peer.
pub fn check_open(ours: &Open, theirs: &Open, peer_as: u32) -> Result<(), OpenError> {
    if theirs.asn != peer_as {
        return Err(OpenError::BadPeerAs(theirs.asn));
    }
    if theirs.asn == ours.asn && theirs.identifier == ours.identifier {
        return Err(OpenError::BadIdentifier);
    }
    Ok(())
}

/// What the two OPENs agree on. Fails with [`OpenError::RoleMismatch`] only.
pub fn negotiate(ours: &Open, theirs: &Open) -> Result<Negotiated, OpenError> {
    let both = |wanted: &Capability| ours.capabilities.contains(wanted) && theirs.capabilities.contains(wanted);
    let families = families(ours).intersection(families(theirs));
    let graceful_restart = match (graceful_restart(ours), graceful_restart(theirs)) {
        (Some(_), Some(restart)) => Some(restart.clone()),
        _ => None,
    };
    let long_lived = match (long_lived(ours), long_lived(theirs)) {
        (Some(_), Some(entries)) if graceful_restart.is_some() => Some(entries.clone()),
        _ => None,
    };
    Ok(Negotiated {
        peer_type: if ours.asn == theirs.asn { PeerType::Internal } else { PeerType::External },
        peer_as: theirs.asn,
        peer_identifier: theirs.identifier,
        hold_time: ours.hold_time.min(theirs.hold_time),
        families,
        four_octet_as: has_four_octet_as(ours) && has_four_octet_as(theirs),
        route_refresh: both(&Capability::RouteRefresh),
        enhanced_route_refresh: both(&Capability::EnhancedRouteRefresh),
        extended_message: both(&Capability::ExtendedMessage),
        extended_next_hop: extended_next_hop(ours) && extended_next_hop(theirs),
        add_path_receive: families
            .iter()
            .filter(|family| add_path(ours, *family).0 && add_path(theirs, *family).1)
            .collect(),
        graceful_notification: self::graceful_restart(ours).is_some_and(|restart| restart.notification)
            && graceful_restart.as_ref().is_some_and(|restart| restart.notification),
        graceful_restart,
        long_lived,
        peer_role: roles(ours, theirs)?,
    })
}

fn families(open: &Open) -> Families {
    let mut offered = open.capabilities.iter().filter_map(|capability| match capability {
        Capability::Multiprotocol(family) => Some(family.family()),
        _ => None,
    });
    match offered.next() {
        None => Families { ipv4: true, ipv6: false },
        Some(first) => first.into_iter().chain(offered.flatten()).collect(),
    }
}

fn has_four_octet_as(open: &Open) -> bool {
    open.capabilities.iter().any(|capability| matches!(capability, Capability::FourOctetAs(_)))
}

fn extended_next_hop(open: &Open) -> bool {
    let wanted = (Family::Ipv4.afi_safi(), Family::Ipv6.afi_safi().afi);
    open.capabilities
        .iter()
        .any(|capability| matches!(capability, Capability::ExtendedNextHop(families) if families.contains(&wanted)))
}

/// Whether the speaker can receive, and send, several paths of a family. The last entry counts (RFC 7911 section 4).
fn add_path(open: &Open, family: Family) -> (bool, bool) {
    open.capabilities
        .iter()
        .filter_map(|capability| match capability {
            Capability::AddPath(entries) => Some(entries),
            _ => None,
        })
        .flatten()
        .rfind(|(entry, _)| entry.family() == Some(family))
        .map_or((false, false), |(_, mode)| (mode.receives(), mode.sends()))
}

/// The last instance counts, should there be several (RFC 4724 section 3).
fn graceful_restart(open: &Open) -> Option<&GracefulRestart> {
    open.capabilities.iter().rev().find_map(|capability| match capability {
        Capability::GracefulRestart(restart) => Some(restart),
        _ => None,
    })
}

fn long_lived(open: &Open) -> Option<&Vec<LongLivedFamily>> {
    open.capabilities.iter().rev().find_map(|capability| match capability {
        Capability::LongLivedGracefulRestart(entries) => Some(entries),
        _ => None,
    })
}

fn roles(ours: &Open, theirs: &Open) -> Result<Option<Role>, OpenError> {
    let role = |open: &Open| {
        let mut found = None;
        for capability in &open.capabilities {
            if let Capability::Role(role) = capability {
                if found.is_some_and(|other| other != *role) {
                    return Err(OpenError::RoleMismatch);
                }
                found = Some(*role);
            }
        }
        Ok(found)
    };
    match (role(ours)?, role(theirs)?) {
        // Between internal peers a role has no meaning (RFC 9234 section 4).
        (Some(local), Some(remote)) if ours.asn != theirs.asn && remote != local.counterpart() => {
            Err(OpenError::RoleMismatch)
        }
        (_, remote) => Ok(remote),
    }
}
