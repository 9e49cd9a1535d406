//! What one session is sent: attributes and next hops as configured, routes packed into UPDATEs.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::BytesMut;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::config::{BgpRole, PeerConfig, Role, SpeakerConfig};
use crate::table::classes::{Classes, Extra, PLAIN};
use crate::table::{Batch, Replay, Room};
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
    /// What [`Self::learn`] makes the blocks of other classes from.
    attributes: Attributes,
    hops: Hops,
    /// Of classes 1 and up.
    classes: Vec<ClassBlocks>,
    /// The classes' version that `classes` is of.
    version: u64,
    /// Routes to a message: see [`Self::count_hosts`].
    hosts: Arc<[[usize; 2]]>,
}

/// Next hops of the families that this session gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Hops {
    v4: Option<IpAddr>,
    v6: Option<IpAddr>,
}

impl Hops {
    fn block(
        next_hop: Option<IpAddr>,
        family: Family,
        context: &EncodeContext,
        attributes: &Attributes,
    ) -> Result<Option<AttributeBlock>, EncodeError> {
        next_hop.map(|next_hop| AttributeBlock::new(context, family, next_hop.into(), attributes)).transpose()
    }
}

#[derive(Clone, Debug)]
struct ClassBlocks {
    extra: Arc<Extra>,
    v4: Option<AttributeBlock>,
    v6: Option<AttributeBlock>,
}

impl AdjOut {
    /// For a session with these terms. Families without a next hop that the peer takes get no routes. `draining`: with GRACEFUL_SHUTDOWN
    /// (RFC 8326).
    ///
    /// # Errors
    /// When the attributes can't be encoded: more communities than a message holds.
    pub fn new(
        config: &SpeakerConfig,
        peer: &PeerConfig,
        negotiated: &Negotiated,
        draining: bool,
    ) -> Result<Self, EncodeError> {
        let context = negotiated.encode_context();
        let attributes = attributes(config, peer, negotiated, draining);
        let gets = |family| {
            config.announce && matches!(peer.role, Role::Enforcer | Role::Guard) && context.families.contains(family)
        };
        let ipv6 = config.next_hop_ipv6.map(IpAddr::V6);
        let over_ipv6 = ipv6.filter(|_| context.extended_next_hop);
        let hops = Hops {
            v4: config.next_hop_ipv4.map(IpAddr::V4).or(over_ipv6).filter(|_| gets(Family::Ipv4)),
            v6: ipv6.filter(|_| gets(Family::Ipv6)),
        };
        let mut adj_out = Self {
            enhanced_refresh: negotiated.enhanced_route_refresh,
            v4: Hops::block(hops.v4, Family::Ipv4, &context, &attributes)?,
            v6: Hops::block(hops.v6, Family::Ipv6, &context, &attributes)?,
            context,
            attributes,
            hops,
            classes: Vec::new(),
            version: 0,
            hosts: Arc::default(),
        };
        adj_out.count_hosts();
        Ok(adj_out)
    }

    /// The same for a session that is sent nothing and yet follows the table, since others bring its router the routes.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn following(mut self, config: &SpeakerConfig) -> Result<Self, EncodeError> {
        let families = config.announced().intersection(self.context.families);
        let ipv6 = config.next_hop_ipv6.map(IpAddr::V6);
        let context = EncodeContext { extended_next_hop: true, ..self.context };
        self.hops = Hops {
            v4: config.next_hop_ipv4.map(IpAddr::V4).or(ipv6).filter(|_| families.ipv4 && config.announce),
            v6: ipv6.filter(|_| families.ipv6 && config.announce),
        };
        self.v4 = Hops::block(self.hops.v4, Family::Ipv4, &context, &self.attributes)?;
        self.v6 = Hops::block(self.hops.v6, Family::Ipv6, &context, &self.attributes)?;
        self.context = context;
        self.count_hosts();
        Ok(self)
    }

    /// Makes what the table's classes need. Must be called under the same lock as the [`crate::table::Table::take`] of a batch that is to be
    /// encoded. Costs nothing where no class is new.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn learn(&mut self, classes: &Classes) -> Result<(), EncodeError> {
        if self.version == classes.version() {
            return Ok(());
        }
        for (at, extra) in classes.iter().skip(1).enumerate() {
            if self.classes.get(at).is_some_and(|known| known.extra == *extra) {
                continue;
            }
            let mut attributes = self.attributes.clone();
            attributes.communities.extend(extra.standard());
            attributes.communities.sort_unstable();
            attributes.communities.dedup();
            attributes.large_communities.extend(extra.large().iter().copied().map(large));
            attributes.large_communities.sort_unstable();
            attributes.large_communities.dedup();
            let blocks = ClassBlocks {
                extra: Arc::clone(extra),
                v4: Hops::block(self.hops.v4, Family::Ipv4, &self.context, &attributes)?,
                v6: Hops::block(self.hops.v6, Family::Ipv6, &self.context, &attributes)?,
            };
            match self.classes.get_mut(at) {
                Some(place) => *place = blocks,
                None => self.classes.push(blocks),
            }
        }
        self.version = classes.version();
        self.count_hosts();
        Ok(())
    }

    /// What routes of a class bear beside what every route bears, once it is learned.
    #[must_use]
    pub fn extra(&self, class: u16) -> Option<&Arc<Extra>> {
        self.classes.get(usize::from(class).checked_sub(1)?).map(|blocks| &blocks.extra)
    }

    /// Families of which this session gets routes.
    #[must_use]
    pub fn families(&self) -> Families {
        Families { ipv4: self.v4.is_some(), ipv6: self.v6.is_some() }
    }

    /// About `most` routes, such that the messages they are packed into are full.
    #[must_use]
    pub fn room(&self, most: usize) -> Room {
        Room::new(most, Arc::clone(&self.hosts))
    }

    /// Host routes that a message holds, for each class and family.
    fn count_hosts(&mut self) {
        let count = |block: Option<&AttributeBlock>| block.map_or(0, |block| block.hosts(&self.context));
        let plain = [count(self.v4.as_ref()), count(self.v6.as_ref())];
        let others = self.classes.iter().map(|class| [count(class.v4.as_ref()), count(class.v6.as_ref())]);
        self.hosts = std::iter::once(plain).chain(others).collect();
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
        self.announce_classes(Family::Ipv4, &batch.announce4, &batch.classes4, out)?;
        self.announce_classes(Family::Ipv6, &batch.announce6, &batch.classes6, out)
    }

    /// Whether both encode announcements alike, once they have learned the same classes.
    #[must_use]
    pub fn same_style(&self, other: &Self) -> bool {
        self.context == other.context && self.v4 == other.v4 && self.v6 == other.v6
    }

    fn block(&self, family: Family, class: u16) -> Option<&AttributeBlock> {
        let of = |v4, v6| match family {
            Family::Ipv4 => v4,
            Family::Ipv6 => v6,
        };
        match usize::from(class).checked_sub(1) {
            None => of(self.v4.as_ref(), self.v6.as_ref()),
            Some(at) => self.classes.get(at).and_then(|blocks| of(blocks.v4.as_ref(), blocks.v6.as_ref())),
        }
    }

    /// One run of UPDATEs for each class.
    fn announce_classes<P: Prefix>(
        &self,
        family: Family,
        nets: &[P],
        classes: &[u16],
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        if classes.is_empty() {
            return self.announce(self.block(family, PLAIN), nets, out);
        }
        let mut order: Vec<(u16, P)> = classes.iter().copied().zip(nets.iter().copied()).collect();
        order.sort_by_key(|(class, _)| *class);
        for run in order.chunk_by(|(one, _), (other, _)| one == other) {
            let nets: Vec<P> = run.iter().map(|(_, net)| *net).collect();
            let class = run.first().map_or(PLAIN, |(class, _)| *class);
            self.announce(self.block(family, class), &nets, out)?;
        }
        Ok(())
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

fn large([global, first, second]: [u32; 3]) -> LargeCommunity {
    LargeCommunity { global, first, second }
}

fn attributes(config: &SpeakerConfig, peer: &PeerConfig, negotiated: &Negotiated, draining: bool) -> Attributes {
    let mut communities = config.communities.clone();
    if config.no_export {
        communities.push(community::NO_EXPORT);
    }
    if draining {
        communities.push(community::GRACEFUL_SHUTDOWN);
    }
    communities.sort_unstable();
    communities.dedup();
    let external = negotiated.peer_type == PeerType::External;
    // RFC 9234 section 5: who is a provider, a peer or a route server to the other end marks what it sends there.
    let marks = matches!(peer.bgp_role, Some(BgpRole::Provider | BgpRole::Peer | BgpRole::RouteServer));
    let local_pref = if draining { 0 } else { config.local_pref };
    Attributes {
        origin: Some(Origin::Igp),
        as_path: Some(AsPath::originated(negotiated.peer_type, config.asn)),
        local_pref: (!external).then_some(local_pref),
        otc: (external && marks).then_some(config.asn),
        communities,
        large_communities: config.large_communities.iter().copied().chain(config.mark_of_guard()).map(large).collect(),
        ..Attributes::default()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::wire::capability::{Capability, negotiate};
    use crate::wire::iana::MessageType;
    use crate::wire::message::{Message, NextHop, Open, Update};

    const HOP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

    fn config() -> SpeakerConfig {
        SpeakerConfig {
            next_hop_ipv4: Some(Ipv4Addr::new(192, 0, 2, 1)),
            next_hop_ipv6: Some(HOP6),
            ..SpeakerConfig::new(4_200_000_000, Ipv4Addr::new(192, 0, 2, 1))
        }
    }

    fn peer(asn: u32) -> PeerConfig {
        PeerConfig::new("router", IpAddr::from([192, 0, 2, 2]), asn)
    }

    fn open(asn: u32, capabilities: Vec<Capability>) -> Open {
        let mut all = vec![
            Capability::Multiprotocol(Family::Ipv4.afi_safi()),
            Capability::Multiprotocol(Family::Ipv6.afi_safi()),
        ];
        all.extend(capabilities);
        Open { asn, hold_time: 90, identifier: Ipv4Addr::from(asn), capabilities: all }
    }

    /// What the peer reads when one IPv4 route is announced to it.
    fn heard<T>(adj_out: &AdjOut, terms: &Negotiated, look: impl FnOnce(&Update<'_>) -> T) -> T {
        let batch = Batch { announce4: vec!["203.0.113.7/32".parse().unwrap()], ..Batch::default() };
        let mut out = BytesMut::new();
        adj_out.encode(&batch, &mut out).unwrap();
        let message = Message::decode(&out, &terms.decode_context()).unwrap();
        assert_eq!(message.kind(), MessageType::Update);
        let Message::Update(update) = message else { panic!("{message:?}") };
        look(&update)
    }

    #[test]
    fn an_old_peer_gets_as_trans_and_the_true_path_beside_it() {
        let ours = open(4_200_000_000, vec![Capability::FourOctetAs(4_200_000_000)]);
        let terms = negotiate(&ours, &open(64513, vec![])).unwrap();
        assert!(!terms.four_octet_as);
        let adj_out = AdjOut::new(&config(), &peer(64513), &terms, false).unwrap();
        heard(&adj_out, &terms, |update| {
            assert_eq!(update.problems, []);
            assert_eq!(update.attributes.as_path, Some(AsPath::originated(PeerType::External, 4_200_000_000)));
            assert_eq!(update.attributes.local_pref, None);
        });
        let batch = Batch { announce4: vec!["203.0.113.7/32".parse().unwrap()], ..Batch::default() };
        let mut out = BytesMut::new();
        adj_out.encode(&batch, &mut out).unwrap();
        // AS_PATH with one sequence of one two-octet number, 23456; the four-octet one in AS4_PATH (17).
        assert!(out.windows(7).any(|octets| octets == [0x40, 2, 4, 2, 1, 0x5b, 0xa0]), "{out:x?}");
        assert!(out.windows(9).any(|octets| octets == [0xc0, 17, 6, 2, 1, 0xfa, 0x56, 0xea, 0x00]), "{out:x?}");
    }

    #[test]
    fn ipv4_has_the_ipv6_next_hop_where_that_is_all_there_is_and_the_peer_can() {
        let config = SpeakerConfig { next_hop_ipv4: None, ..config() };
        let over_ipv6 = Capability::ExtendedNextHop(vec![(Family::Ipv4.afi_safi(), Family::Ipv6.afi_safi().afi)]);
        let ours = open(64512, vec![Capability::FourOctetAs(64512), over_ipv6.clone()]);
        let can = negotiate(&ours, &open(64513, vec![Capability::FourOctetAs(64513), over_ipv6])).unwrap();
        let adj_out = AdjOut::new(&config, &peer(64513), &can, false).unwrap();
        assert_eq!(adj_out.families(), Families::ALL);
        heard(&adj_out, &can, |update| {
            assert_eq!(update.mp_reach.map(|mp| mp.next_hop), Some(NextHop::Ipv6(HOP6)));
            assert_eq!((update.announced_len(), update.attributes.next_hop), (1, None));
        });
        let cannot = negotiate(&ours, &open(64513, vec![Capability::FourOctetAs(64513)])).unwrap();
        let adj_out = AdjOut::new(&config, &peer(64513), &cannot, false).unwrap();
        assert_eq!(adj_out.families(), Families { ipv4: false, ipv6: true });
    }

    #[test]
    fn classes_are_packed_apart_and_bear_their_communities_beside_those_of_all() {
        use crate::table::Table;
        use crate::table::classes::Want;
        let config = SpeakerConfig { communities: vec![7], large_communities: vec![[1, 2, 3]], ..config() };
        let ours = open(64512, vec![Capability::FourOctetAs(64512)]);
        let terms = negotiate(&ours, &open(64513, vec![Capability::FourOctetAs(64513)])).unwrap();
        let mut adj_out = AdjOut::new(&config, &peer(64513), &terms, false).unwrap();
        let mut table = Table::default();
        let id = table.attach(adj_out.families());
        let extra = |n: u32| Want::With(Arc::new(Extra::new(vec![n, 7], vec![[n, 0, 0]])));
        let hosts = (1..=9u8)
            .map(|n| (IpAddr::from([203, 0, 113, n]), if n % 3 == 0 { Want::Plain } else { extra(u32::from(n % 3)) }));
        table.apply(1, hosts, std::time::Instant::now());
        let mut batch = Batch::default();
        let mut out = BytesMut::new();
        adj_out.learn(table.classes()).unwrap();
        table.take(id, 100, &mut batch);
        adj_out.encode(&batch, &mut out).unwrap();
        let mut heard = Vec::new();
        while !out.is_empty() {
            let length = usize::from(u16::from_be_bytes([out[16], out[17]]));
            let octets = out.split_to(length);
            let Message::Update(update) = Message::decode(&octets, &terms.decode_context()).unwrap() else { panic!() };
            let communities: Vec<u32> = update.attributes.communities.clone();
            heard.push((communities, update.attributes.large_communities.len(), update.announced_len()));
        }
        let no_export = community::NO_EXPORT;
        let own = |n: Option<u32>| {
            let no_export = config.no_export.then_some(no_export);
            let mut all: Vec<u32> = n.into_iter().chain([7]).chain(no_export).collect();
            all.sort_unstable();
            all
        };
        assert_eq!(heard, [(own(None), 1, 3), (own(Some(1)), 2, 3), (own(Some(2)), 2, 3)]);
        // A class that comes later, for a session that is up.
        table.apply(2, [(IpAddr::from([203, 0, 113, 1]), extra(9))], std::time::Instant::now());
        table.take(id, 100, &mut batch);
        assert!(adj_out.encode(&batch, &mut out).is_err(), "not learned");
        adj_out.learn(table.classes()).unwrap();
        adj_out.encode(&batch, &mut out).unwrap();
    }

    #[test]
    fn a_role_marks_and_the_last_announcements_ask_for_other_routes() {
        let four = |asn| open(asn, vec![Capability::FourOctetAs(asn)]);
        let external = negotiate(&four(64512), &four(64513)).unwrap();
        let internal = negotiate(&four(64512), &four(64512)).unwrap();
        let config = SpeakerConfig { asn: 64512, ..config() };
        let provider = PeerConfig { bgp_role: Some(BgpRole::Provider), ..peer(64513) };
        let customer = PeerConfig { bgp_role: Some(BgpRole::Customer), ..peer(64513) };
        for (peer, otc) in [(&provider, Some(64512)), (&customer, None), (&peer(64513), None)] {
            let adj_out = AdjOut::new(&config, peer, &external, false).unwrap();
            heard(&adj_out, &external, |update| assert_eq!(update.attributes.otc, otc, "RFC 9234 section 5"));
        }
        for (draining, local_pref) in [(false, 100), (true, 0)] {
            let adj_out = AdjOut::new(&config, &peer(64512), &internal, draining).unwrap();
            heard(&adj_out, &internal, |update| {
                let marked = update.attributes.communities.contains(&community::GRACEFUL_SHUTDOWN);
                assert_eq!((marked, update.attributes.local_pref), (draining, Some(local_pref)), "RFC 8326 section 4");
                assert!(update.attributes.communities.contains(&community::NO_EXPORT));
            });
        }
    }
}
