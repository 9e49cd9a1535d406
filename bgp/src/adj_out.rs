//! What one session is sent: attributes and next hops as configured, routes packed into UPDATEs.

use std::net::IpAddr;

use bytes::BytesMut;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::config::{Role, SpeakerConfig};
use crate::table::{Batch, Replay};
use crate::wire::attribute::{AsPath, Attributes, LargeCommunity, Origin};
use crate::wire::builder::{AttributeBlock, announce, end_of_rib, withdraw};
use crate::wire::capability::Negotiated;
use crate::wire::error::EncodeError;
use crate::wire::iana::{Families, Family, community};
use crate::wire::message::{RefreshSubtype, RouteRefresh};
use crate::wire::nlri::Prefix;
use crate::wire::{EncodeContext, PeerType};

impl Prefix for Ipv4Net {
    fn family(&self) -> Family {
        Family::Ipv4
    }

    fn put(&self, out: &mut BytesMut) {
        IpNet::V4(*self).put(out);
    }

    fn encoded_len(&self) -> usize {
        IpNet::V4(*self).encoded_len()
    }
}

impl Prefix for Ipv6Net {
    fn family(&self) -> Family {
        Family::Ipv6
    }

    fn put(&self, out: &mut BytesMut) {
        IpNet::V6(*self).put(out);
    }

    fn encoded_len(&self) -> usize {
        IpNet::V6(*self).encoded_len()
    }
}

/// Turns [`Batch`]es into octets for one established session.
#[derive(Clone, Debug)]
pub struct AdjOut {
    context: EncodeContext,
    enhanced_refresh: bool,
    v4: Option<AttributeBlock>,
    v6: Option<AttributeBlock>,
}

impl AdjOut {
    /// For a session with these terms. Families without a configured next hop get no routes.
    ///
    /// # Errors
    /// When the attributes can't be encoded: more communities than a message holds.
    pub fn new(config: &SpeakerConfig, role: Role, negotiated: &Negotiated) -> Result<Self, EncodeError> {
        let context = negotiated.encode_context();
        let block = |family: Family, next_hop: Option<IpAddr>| match next_hop {
            Some(next_hop) if config.announce && role == Role::Enforcer && context.families.contains(family) => {
                AttributeBlock::new(&context, family, next_hop.into(), &attributes(config, negotiated)).map(Some)
            }
            _ => Ok(None),
        };
        Ok(Self {
            context,
            enhanced_refresh: negotiated.enhanced_route_refresh,
            v4: block(Family::Ipv4, config.next_hop_ipv4.map(IpAddr::V4))?,
            v6: block(Family::Ipv6, config.next_hop_ipv6.map(IpAddr::V6))?,
        })
    }

    /// Families of which this session gets routes.
    #[must_use]
    pub fn families(&self) -> Families {
        Families { ipv4: self.v4.is_some(), ipv6: self.v6.is_some() }
    }

    /// End-of-RIB of the negotiated families that get no routes; due when the session comes up.
    ///
    /// # Errors
    /// Never for a negotiated family.
    pub fn bare_ends(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        for family in self.context.families.iter().filter(|family| !self.families().contains(*family)) {
            end_of_rib(&self.context, family, out)?;
        }
        Ok(())
    }

    /// Answers a refresh of a negotiated family that gets no routes: with nothing, but marked.
    pub fn empty_replay(&self, family: Family, out: &mut BytesMut) {
        if self.context.families.contains(family) {
            self.mark(family, RefreshSubtype::Begin, out);
            self.mark(family, RefreshSubtype::End, out);
        }
    }

    /// Appends the messages for a batch.
    ///
    /// # Errors
    /// A batch with routes of a family that [`Self::families`] hasn't.
    pub fn encode(&self, batch: &Batch, out: &mut BytesMut) -> Result<(), EncodeError> {
        if let Some(family) = batch.begin {
            self.mark(family, RefreshSubtype::Begin, out);
        }
        self.withdraw(Family::Ipv4, &batch.withdraw4, out)?;
        self.withdraw(Family::Ipv6, &batch.withdraw6, out)?;
        self.announcements(batch, out)?;
        if let Some(encoded) = &batch.encoded {
            out.extend_from_slice(encoded);
        }
        match batch.end {
            Some((family, Replay::Initial)) => end_of_rib(&self.context, family, out)?,
            Some((family, Replay::Refresh)) => self.mark(family, RefreshSubtype::End, out),
            Some((_, Replay::Repair)) | None => {}
        }
        Ok(())
    }

    /// Appends the announcements of a batch alone: the same octets for every session that [`Self::same_style`] says so of.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn announcements(&self, batch: &Batch, out: &mut BytesMut) -> Result<(), EncodeError> {
        self.announce(self.v4.as_ref(), &batch.announce4, out)?;
        self.announce(self.v6.as_ref(), &batch.announce6, out)
    }

    /// Whether both encode announcements alike.
    #[must_use]
    pub fn same_style(&self, other: &Self) -> bool {
        self.context == other.context && self.v4 == other.v4 && self.v6 == other.v6
    }

    fn mark(&self, family: Family, subtype: RefreshSubtype, out: &mut BytesMut) {
        if self.enhanced_refresh {
            RouteRefresh { family: family.afi_safi(), subtype }.encode(out);
        }
    }

    fn withdraw<P: Prefix>(&self, family: Family, mut nets: &[P], out: &mut BytesMut) -> Result<(), EncodeError> {
        while !nets.is_empty() {
            let count = withdraw(&self.context, family, nets, out)?;
            nets = nets.get(count..).unwrap_or_default();
        }
        Ok(())
    }

    fn announce<P: Prefix>(
        &self,
        block: Option<&AttributeBlock>,
        mut nets: &[P],
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        while !nets.is_empty() {
            let block = block.ok_or(EncodeError::NotNegotiated)?;
            let count = announce(&self.context, block, nets, out)?;
            nets = nets.get(count..).unwrap_or_default();
        }
        Ok(())
    }
}

fn attributes(config: &SpeakerConfig, negotiated: &Negotiated) -> Attributes {
    let mut communities = config.communities.clone();
    if config.no_export {
        communities.push(community::NO_EXPORT);
    }
    communities.sort_unstable();
    communities.dedup();
    let large = config.large_communities.iter();
    Attributes {
        origin: Some(Origin::Igp),
        as_path: Some(AsPath::originated(negotiated.peer_type, config.asn)),
        local_pref: (negotiated.peer_type == PeerType::Internal).then_some(config.local_pref),
        communities,
        large_communities: large
            .map(|[global, first, second]| LargeCommunity { global: *global, first: *first, second: *second })
            .collect(),
        ..Attributes::default()
    }
}
