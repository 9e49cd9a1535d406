use std::collections::HashMap;
use std::io::Cursor;
use std::net::IpAddr;

use ipnet::IpNet;
use netgauze_bgp_pkt::BgpMessage;
use netgauze_bgp_pkt::path_attribute::{
    Aggregator, AsPath, AsPathSegmentType, MpReach, MpUnreach, PathAttributeValue as Value,
};
use netgauze_bgp_pkt::update::BgpUpdateMessage;
use netgauze_bgp_pkt::wire::deserializer::BgpParsingContext;
use netgauze_parse_utils::WritablePdu;
use netgauze_parse_utils::reader::SliceReader;
use netgauze_parse_utils::traits::ParseFromWithOneInput;

use crate::{Codec, Meaning, Verdict};

/// The codec of netgauze-bgp-pkt (Apache-2.0).
pub struct Netgauze;

fn parse(octets: &[u8]) -> Result<BgpMessage, String> {
    let mut context = BgpParsingContext::new(true, HashMap::new(), HashMap::new(), true, true, true, true);
    BgpMessage::parse(&mut SliceReader::new(octets), &mut context).map_err(|error| format!("{error:?}"))
}

impl Codec for Netgauze {
    fn read(octets: &[u8]) -> Verdict {
        match parse(octets) {
            Ok(BgpMessage::Update(update)) => match meaning(&update) {
                Some(meaning) => Verdict::Update(Box::new(meaning)),
                None => Verdict::Abstains,
            },
            Ok(other) => Verdict::Other(other.get_type() as u8),
            Err(error) => Verdict::Refused(error),
        }
    }

    fn rewrite(octets: &[u8]) -> Option<Vec<u8>> {
        let message = parse(octets).ok()?;
        let mut out = vec![];
        message.write(&mut Cursor::new(&mut out)).ok()?;
        Some(out)
    }
}

fn meaning(update: &BgpUpdateMessage) -> Option<Meaning> {
    let mut all = Meaning {
        announced: update.nlri().iter().map(|it| IpNet::V4(it.network().address()).trunc()).collect(),
        withdrawn: update.withdraw_routes().iter().map(|it| IpNet::V4(it.network().address()).trunc()).collect(),
        ..Meaning::default()
    };
    for attribute in update.path_attributes() {
        match attribute.value() {
            Value::Origin(origin) => all.origin = Some(*origin as u8),
            Value::AsPath(AsPath::As4PathSegments(segments)) => {
                all.as_path = Some(
                    segments
                        .iter()
                        .map(|it| (it.segment_type() == AsPathSegmentType::AsSet, it.as_numbers().to_vec()))
                        .collect(),
                );
            }
            Value::NextHop(next_hop) => all.next_hop = Some(IpAddr::V4(next_hop.next_hop())),
            Value::MultiExitDiscriminator(med) => all.med = Some(med.metric()),
            Value::LocalPreference(preference) => all.local_pref = Some(preference.metric()),
            Value::AtomicAggregate(_) => all.atomic_aggregate = true,
            Value::Aggregator(Aggregator::As4Aggregator(it)) => {
                all.aggregator = Some((*it.asn(), IpAddr::V4(it.origin())));
            }
            Value::Communities(list) => all.communities = list.communities().iter().map(|it| it.value()).collect(),
            Value::LargeCommunities(list) => {
                all.large_communities = list
                    .communities()
                    .iter()
                    .map(|it| [it.global_admin(), it.local_data1(), it.local_data2()])
                    .collect();
            }
            Value::Originator(id) => all.originator_id = Some(IpAddr::V4(id.id())),
            Value::ClusterList(list) => {
                all.cluster_list = list.cluster_list().iter().map(|id| IpAddr::V4(id.id())).collect();
            }
            Value::OnlyToCustomer(otc) => all.otc = Some(otc.asn()),
            Value::MpReach(MpReach::Ipv4Unicast { next_hop, nlri, .. }) => {
                all.mp_next_hop = Some(*next_hop);
                all.announced.extend(nlri.iter().map(|it| IpNet::V4(it.network().address()).trunc()));
            }
            Value::MpReach(MpReach::Ipv6Unicast { next_hop_global, nlri, .. }) => {
                all.mp_next_hop = Some(IpAddr::V6(*next_hop_global));
                all.announced.extend(nlri.iter().map(|it| IpNet::V6(it.network().address()).trunc()));
            }
            Value::MpUnreach(MpUnreach::Ipv4Unicast { nlri }) => {
                all.withdrawn.extend(nlri.iter().map(|it| IpNet::V4(it.network().address()).trunc()));
            }
            Value::MpUnreach(MpUnreach::Ipv6Unicast { nlri }) => {
                all.withdrawn.extend(nlri.iter().map(|it| IpNet::V6(it.network().address()).trunc()));
            }
            Value::ExtendedCommunities(_) | Value::UnknownAttribute(_) => {}
            _ => return None,
        }
    }
    Some(all)
}
