use std::net::IpAddr;

use bgpkit_parser::models::{
    AsPath, AsPathSegment, AsnLength, AttributeValue as Value, BgpMessage, BgpUpdateMessage, Community, NextHopAddress,
};
use bgpkit_parser::parser::bgp::parse_bgp_message;
use bytes::Bytes;

use crate::{Codec, Meaning, Verdict};

/// The codec of bgpkit-parser (MIT).
pub struct Bgpkit;

fn parse(octets: &[u8]) -> Result<BgpMessage, String> {
    parse_bgp_message(&mut Bytes::copy_from_slice(octets), false, &AsnLength::Bits32).map_err(|error| error.to_string())
}

impl Codec for Bgpkit {
    fn read(octets: &[u8]) -> Verdict {
        match parse(octets) {
            Ok(BgpMessage::Update(update)) if update.attributes.has_validation_warnings() => {
                Verdict::Refused(format!("{:?}", update.attributes.validation_warnings()))
            }
            Ok(BgpMessage::Update(update)) => match meaning(&update) {
                Some(meaning) => Verdict::Update(Box::new(meaning)),
                None => Verdict::Abstains,
            },
            Ok(other) => Verdict::Other(other.msg_type() as u8),
            Err(error) => Verdict::Refused(error),
        }
    }

    fn rewrite(octets: &[u8]) -> Option<Vec<u8>> {
        parse(octets).ok()?.encode(AsnLength::Bits32).ok().map(|octets| octets.to_vec())
    }
}

fn segments(path: &AsPath) -> Vec<(bool, Vec<u32>)> {
    path.iter_segments()
        .map(|segment| {
            let set = matches!(segment, AsPathSegment::AsSet(_) | AsPathSegment::ConfedSet(_));
            (set, segment.iter().map(|asn| u32::from(*asn)).collect())
        })
        .collect()
}

fn meaning(update: &BgpUpdateMessage) -> Option<Meaning> {
    let mut all = Meaning {
        announced: update.announced_prefixes.iter().map(|it| it.prefix.trunc()).collect(),
        withdrawn: update.withdrawn_prefixes.iter().map(|it| it.prefix.trunc()).collect(),
        ..Meaning::default()
    };
    for attribute in update.attributes.iter() {
        match attribute {
            Value::Origin(origin) => all.origin = Some(*origin as u8),
            Value::AsPath(path) => all.as_path = Some(segments(path)),
            Value::NextHop(address) => all.next_hop = Some(*address),
            Value::MultiExitDiscriminator(med) => all.med = Some(*med),
            Value::LocalPreference(preference) => all.local_pref = Some(*preference),
            Value::OnlyToCustomer(asn) => all.otc = Some(u32::from(*asn)),
            Value::AtomicAggregate => all.atomic_aggregate = true,
            Value::Aggregator { asn, id } => all.aggregator = Some((u32::from(*asn), IpAddr::V4(*id))),
            Value::Communities(list) => {
                all.communities = list
                    .iter()
                    .map(|community| match community {
                        Community::NoExport => 0xFFFF_FF01,
                        Community::NoAdvertise => 0xFFFF_FF02,
                        Community::NoExportSubConfed => 0xFFFF_FF03,
                        Community::Custom(asn, value) => u32::from(*asn) << 16 | u32::from(*value),
                    })
                    .collect();
            }
            Value::LargeCommunities(list) => {
                all.large_communities =
                    list.iter().map(|it| [it.global_admin, it.local_data[0], it.local_data[1]]).collect();
            }
            Value::OriginatorId(id) => all.originator_id = Some(IpAddr::V4(*id)),
            Value::Clusters(list) => all.cluster_list = list.iter().map(|id| IpAddr::V4((*id).into())).collect(),
            Value::MpReachNlri(nlri) => {
                all.mp_next_hop = Some(match nlri.next_hop? {
                    NextHopAddress::Ipv4(address) => IpAddr::V4(address),
                    NextHopAddress::Ipv6(address) | NextHopAddress::Ipv6LinkLocal(address, _) => IpAddr::V6(address),
                    _ => return None,
                });
                all.announced.extend(nlri.prefixes.iter().map(|it| it.prefix.trunc()));
            }
            Value::MpUnreachNlri(nlri) => all.withdrawn.extend(nlri.prefixes.iter().map(|it| it.prefix.trunc())),
            Value::ExtendedCommunities(_) | Value::Unknown(_) => {}
            _ => return None,
        }
    }
    Some(all)
}
