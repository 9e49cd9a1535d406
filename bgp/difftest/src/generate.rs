use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::BytesMut;
use destguard_bgp::wire::attribute::{Aggregator, AsPath, Attributes, LargeCommunity, Origin, Segment, SegmentKind};
use destguard_bgp::wire::builder::{AttributeBlock, announce, withdraw};
use destguard_bgp::wire::iana::Family;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::ours::ENCODE;

/// A source of messages: the same ones for the same seed (SplitMix64).
pub struct Generator(u64);

impl Generator {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Less than `end`.
    fn below(&mut self, end: usize) -> usize {
        (self.draw() % end as u64) as usize
    }

    fn coin(&mut self) -> bool {
        self.draw() & 1 == 1
    }

    fn some<T>(&mut self, value: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.coin().then(|| value(self))
    }

    fn many<T>(&mut self, most: usize, mut value: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(most + 1)).map(|_| value(self)).collect()
    }

    fn asn(&mut self) -> u32 {
        // Among the private ones of both sizes.
        if self.coin() { 64512 + self.below(1000) as u32 } else { 4_200_000_000 + self.below(1000) as u32 }
    }

    fn address(&mut self) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, self.below(256) as u8)
    }

    fn attributes(&mut self) -> Attributes {
        let segments = self.many(3, |g| Segment {
            kind: if g.coin() { SegmentKind::Sequence } else { SegmentKind::Set },
            asns: (0..=g.below(5)).map(|_| g.asn()).collect(),
        });
        Attributes {
            origin: Some([Origin::Igp, Origin::Egp, Origin::Incomplete][self.below(3)]),
            as_path: Some(AsPath { segments }),
            next_hop: None,
            med: self.some(|g| g.draw() as u32),
            local_pref: Some(self.draw() as u32),
            atomic_aggregate: self.coin(),
            aggregator: self.some(|g| Aggregator { asn: g.asn(), address: g.address() }),
            communities: self.many(90, |g| if g.coin() { 0xFFFF_FF01 } else { g.draw() as u32 }),
            originator_id: self.some(Self::address),
            cluster_list: self.many(3, Self::address),
            // Route targets: kinds that every codec writes as it read them.
            extended_communities: self.many(3, |g| [0, 2, 0xFC, 0, 0, 0, 0, g.below(256) as u8]),
            large_communities: self.many(30, |g| LargeCommunity {
                global: g.asn(),
                first: g.draw() as u32,
                second: g.draw() as u32,
            }),
            otc: self.some(Self::asn),
            unknown: vec![],
        }
    }

    /// Prefixes of the documentation networks, half of them host routes, none twice.
    fn prefixes(&mut self, family: Family, most: usize) -> Vec<IpNet> {
        let mut all = self.many(most, |g| match family {
            Family::Ipv4 => {
                let network = [[192, 0, 2], [198, 51, 100], [203, 0, 113]][g.below(3)];
                let address = Ipv4Addr::new(network[0], network[1], network[2], g.below(256) as u8);
                let length = if g.coin() { 32 } else { 24 + g.below(9) as u8 };
                IpNet::V4(Ipv4Net::new(address, length).expect("a length").trunc())
            }
            Family::Ipv6 => {
                let address = Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(g.draw()));
                let length = if g.coin() { 128 } else { 32 + g.below(97) as u8 };
                IpNet::V6(Ipv6Net::new(address, length).expect("a length").trunc())
            }
        });
        all.sort();
        all.dedup();
        all
    }

    /// One UPDATE of the route injector: announces or withdraws some routes.
    pub fn update(&mut self) -> Vec<u8> {
        let mut out = BytesMut::new();
        let family = if self.coin() { Family::Ipv4 } else { Family::Ipv6 };
        let most = [3, 40, 900][self.below(3)];
        let prefixes = loop {
            let prefixes = self.prefixes(family, most);
            if !prefixes.is_empty() {
                break prefixes;
            }
        };
        let mut context = ENCODE;
        context.ipv4_in_mp = self.below(4) == 0;
        if self.below(3) == 0 {
            withdraw(&context, family, &prefixes, &mut out).expect("room");
        } else {
            let ipv6: IpAddr = "2001:db8::1".parse().expect("an address");
            let next_hop = if family == Family::Ipv6 || self.below(4) == 0 { ipv6 } else { self.address().into() };
            let attributes = self.attributes();
            let block = AttributeBlock::new(&context, family, next_hop.into(), &attributes).expect("negotiated");
            announce(&context, &block, &prefixes, &mut out).expect("room");
        }
        out.to_vec()
    }

    /// Changes one to four octets behind the header.
    pub fn mutate(&mut self, octets: &mut [u8]) {
        for _ in 0..=self.below(4) {
            // Most often near the front, where lengths and attributes are.
            let end = if self.coin() { octets.len() } else { octets.len().min(120) };
            let at = 19 + self.below(end - 19);
            octets[at] = match self.below(3) {
                0 => self.draw() as u8,
                1 => octets[at] ^ 1 << self.below(8),
                _ => octets[at].wrapping_add(1),
            };
        }
    }
}
