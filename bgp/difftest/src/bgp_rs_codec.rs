use std::io::Cursor;
use std::net::IpAddr;
use std::panic::catch_unwind;

use bgp_rs::{ASPath, Capabilities, Message, NLRIEncoding, Origin, PathAttribute, Prefix, Reader, Segment, Update};
use ipnet::IpNet;

use crate::{Codec, Meaning, Verdict};

/// bgp-rs (GPL-3.0), unmaintained since 2020.
///
/// Its limits: it panics on some input; drops a malformed attribute without a word; guesses whether NLRI carry path
/// identifiers, and whether AS numbers have four octets; cannot write large communities and more. It abstains where
/// one of these shows.
pub struct BgpRs;

fn parse(octets: &[u8]) -> Option<Message> {
    let octets = octets.to_vec();
    catch_unwind(move || {
        let capabilities = Capabilities { FOUR_OCTET_ASN_SUPPORT: true, ..Capabilities::default() };
        Reader { stream: Cursor::new(octets), capabilities }.read().ok()
    })
    .ok()
    .flatten()
    .map(|(_, message)| message)
}

impl Codec for BgpRs {
    fn read(octets: &[u8]) -> Verdict {
        match parse(octets) {
            Some(Message::Update(update)) => match meaning(&update) {
                Some(meaning) => Verdict::Update(Box::new(meaning)),
                None => Verdict::Abstains,
            },
            Some(Message::Open(_)) => Verdict::Other(1),
            Some(Message::Notification(_)) => Verdict::Other(3),
            Some(Message::KeepAlive) => Verdict::Other(4),
            Some(Message::RouteRefresh(_)) => Verdict::Other(5),
            None => Verdict::Abstains,
        }
    }

    fn rewrite(octets: &[u8]) -> Option<Vec<u8>> {
        let octets = octets.to_vec();
        catch_unwind(move || {
            let message = parse(&octets)?;
            let mut out = vec![];
            message.encode(&mut out).ok()?;
            Some(out)
        })
        .ok()
        .flatten()
    }
}

fn net(prefix: &Prefix) -> Option<IpNet> {
    IpNet::new(IpAddr::from(prefix), prefix.length).ok().map(|net| net.trunc())
}

fn nets(list: &[NLRIEncoding]) -> Option<Vec<IpNet>> {
    list.iter()
        .map(|it| match it {
            NLRIEncoding::IP(prefix) => net(prefix),
            _ => None,
        })
        .collect()
}

fn next_hop(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => <[u8; 4]>::try_from(octets).ok().map(IpAddr::from),
        16 | 32 => octets.first_chunk::<16>().map(|octets| IpAddr::from(*octets)),
        _ => None,
    }
}

fn path(path: &ASPath) -> Vec<(bool, Vec<u32>)> {
    path.segments
        .iter()
        .map(|segment| match segment {
            Segment::AS_SEQUENCE(asns) => (false, asns.clone()),
            Segment::AS_SET(asns) => (true, asns.clone()),
        })
        .collect()
}

fn meaning(update: &Update) -> Option<Meaning> {
    let mut all = Meaning {
        announced: nets(&update.announced_routes)?.into_iter().collect(),
        withdrawn: nets(&update.withdrawn_routes)?.into_iter().collect(),
        ..Meaning::default()
    };
    for attribute in &update.attributes {
        match attribute {
            PathAttribute::ORIGIN(origin) => {
                all.origin = Some(match origin {
                    Origin::IGP => 0,
                    Origin::EGP => 1,
                    Origin::INCOMPLETE => 2,
                });
            }
            PathAttribute::AS_PATH(it) => all.as_path = Some(path(it)),
            PathAttribute::NEXT_HOP(address) => all.next_hop = Some(*address),
            PathAttribute::MULTI_EXIT_DISC(med) => all.med = Some(*med),
            PathAttribute::LOCAL_PREF(preference) => all.local_pref = Some(*preference),
            PathAttribute::ATOMIC_AGGREGATOR => all.atomic_aggregate = true,
            PathAttribute::AGGREGATOR((asn, address)) => all.aggregator = Some((*asn, IpAddr::V4(*address))),
            PathAttribute::COMMUNITY(list) => all.communities = list.clone(),
            PathAttribute::ORIGINATOR_ID(id) => all.originator_id = Some(IpAddr::V4((*id).into())),
            PathAttribute::CLUSTER_LIST(list) => {
                all.cluster_list = list.iter().map(|id| IpAddr::V4((*id).into())).collect();
            }
            PathAttribute::LARGE_COMMUNITY(list) => {
                all.large_communities = list.iter().map(|(a, b, c)| [*a, *b, *c]).collect();
            }
            PathAttribute::MP_REACH_NLRI(mp) => {
                all.mp_next_hop = Some(next_hop(&mp.next_hop)?);
                all.announced.extend(nets(&mp.announced_routes)?);
            }
            PathAttribute::MP_UNREACH_NLRI(mp) => all.withdrawn.extend(nets(&mp.withdrawn_routes)?),
            PathAttribute::EXTENDED_COMMUNITIES(_) => {}
            _ => return None,
        }
    }
    Some(all)
}
