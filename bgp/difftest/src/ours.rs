use std::net::IpAddr;

use bytes::BytesMut;
use destguard_bgp::wire::attribute::{Origin, SegmentKind};
use destguard_bgp::wire::iana::Families;
use destguard_bgp::wire::message::{Message, Update};
use destguard_bgp::wire::{DecodeContext, EncodeContext, PeerType};

use crate::{Codec, Meaning, Verdict};

/// How all messages here are read: everything negotiated, from an internal peer.
pub const DECODE: DecodeContext = DecodeContext {
    peer_type: PeerType::Internal,
    four_octet_as: true,
    extended_message: true,
    enhanced_route_refresh: true,
    extended_next_hop: true,
    families: Families::ALL,
    add_path: Families::NONE,
};

/// How all messages here are written.
pub const ENCODE: EncodeContext = EncodeContext {
    four_octet_as: true,
    extended_message: true,
    extended_next_hop: true,
    ipv4_in_mp: false,
    families: Families::ALL,
    add_path: Families::NONE,
};

/// The codec of destguard-bgp.
pub struct Ours;

impl Codec for Ours {
    fn read(octets: &[u8]) -> Verdict {
        match Message::decode(octets, &DECODE) {
            Ok(Message::Update(update)) if update.problems.is_empty() => Verdict::Update(Box::new(meaning(&update))),
            Ok(Message::Update(update)) => Verdict::Refused(format!("{:?}", update.problems)),
            Ok(other) => Verdict::Other(other.kind().code()),
            Err(error) => Verdict::Refused(error.to_string()),
        }
    }

    fn rewrite(octets: &[u8]) -> Option<Vec<u8>> {
        let mut out = BytesMut::new();
        Message::decode(octets, &DECODE).ok()?.encode(&ENCODE, &mut out).ok()?;
        Some(out.to_vec())
    }
}

fn meaning(update: &Update<'_>) -> Meaning {
    let attributes = &update.attributes;
    Meaning {
        announced: update.announced().map(|route| route.prefix).collect(),
        withdrawn: update.withdrawn().map(|route| route.prefix).collect(),
        next_hop: attributes.next_hop.map(IpAddr::V4),
        mp_next_hop: update.mp_reach.map(|mp| mp.next_hop.address()),
        origin: attributes.origin.map(|origin| match origin {
            Origin::Igp => 0,
            Origin::Egp => 1,
            Origin::Incomplete => 2,
        }),
        as_path: attributes.as_path.as_ref().map(|path| {
            path.segments
                .iter()
                .map(|segment| {
                    let set = matches!(segment.kind, SegmentKind::Set | SegmentKind::ConfederationSet);
                    (set, segment.asns.clone())
                })
                .collect()
        }),
        med: attributes.med,
        local_pref: attributes.local_pref,
        atomic_aggregate: attributes.atomic_aggregate,
        aggregator: attributes.aggregator.map(|it| (it.asn, IpAddr::V4(it.address))),
        communities: attributes.communities.clone(),
        originator_id: attributes.originator_id.map(IpAddr::V4),
        cluster_list: attributes.cluster_list.iter().copied().map(IpAddr::V4).collect(),
        large_communities: attributes.large_communities.iter().map(|it| [it.global, it.first, it.second]).collect(),
        otc: attributes.otc,
    }
}
