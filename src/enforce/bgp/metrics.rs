//! Sessions, BFD and confirmations as metrics, read from the speaker when somebody asks.

use destguard_bgp::bfd::state::State;
use destguard_bgp::status::{self, BfdStatus, PeerStatus};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::BgpStatus;

/// Registers the speaker's metrics, which are read at each scrape.
pub fn register(registry: &mut Registry, status: BgpStatus) {
    super::confirmations::register(registry, status.clone());
    registry.register_collector(Box::new(Classes(status.clone())));
    registry.register_collector(Box::new(Sessions(status.clone())));
    registry.register_collector(Box::new(Guards(status.clone())));
    registry.register_collector(Box::new(Bfd(status)));
}

/// Routes that bear communities of their own.
#[derive(Debug)]
struct Classes(BgpStatus);

impl Collector for Classes {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let (used, refused) = self.0.classes();
        let help = "Sets of communities that routes bear beyond those of every route";
        let used = i64::try_from(used).unwrap_or(i64::MAX);
        ConstGauge::new(used).encode(encoder.encode_descriptor(
            "bgp_route_classes",
            help,
            None,
            MetricType::Gauge,
        )?)?;
        let help =
            "Routes that were announced without the communities of their groups, since there were too many such sets";
        ConstCounter::new(refused).encode(encoder.encode_descriptor(
            "bgp_route_classes_refused",
            help,
            None,
            MetricType::Counter,
        )?)
    }
}

/// Leases that guards tell each other of.
#[derive(Debug)]
struct Guards(BgpStatus);

impl Collector for Guards {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let said = self.0.other_guards();
        let help = "Leases that another guard tells of now";
        let mut family = encoder.encode_descriptor("guard_leases", help, None, MetricType::Gauge)?;
        for (peer, said) in &said {
            let leases = i64::try_from(said.told).unwrap_or(i64::MAX);
            ConstGauge::new(leases).encode(family.encode_family(&[("peer", peer.as_str())])?)?;
        }
        let help = "Announcements of another guard that weren't taken in: beyond max_routes (room), without an end or over (end)";
        let mut family = encoder.encode_descriptor("guard_leases_refused", help, None, MetricType::Counter)?;
        for (peer, said) in &said {
            for (reason, count) in [("room", said.beyond), ("end", said.useless)] {
                let labels = [("peer", peer.as_str()), ("reason", reason)];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        let filtered = self.0.heard().filtered.load(std::sync::atomic::Ordering::Relaxed);
        let help = "Leases of other guards that this one's own filter refused";
        ConstCounter::new(filtered).encode(encoder.encode_descriptor(
            "guard_leases_filtered",
            help,
            None,
            MetricType::Counter,
        )?)?;
        let ([ipv4, ipv6], refused) = self.0.told_guards();
        let told = i64::try_from(ipv4 + ipv6).unwrap_or(i64::MAX);
        let help = "Leases that other guards are told of";
        ConstGauge::new(told).encode(encoder.encode_descriptor(
            "guard_leases_told",
            help,
            None,
            MetricType::Gauge,
        )?)?;
        let help = "Leases that were told without their ends, and so in vain: too many different ends at once";
        ConstCounter::new(refused).encode(encoder.encode_descriptor(
            "guard_leases_told_in_vain",
            help,
            None,
            MetricType::Counter,
        )?)
    }
}

#[derive(Debug)]
struct Bfd(BgpStatus);

impl Collector for Bfd {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let sessions = self.0.sessions();
        let sessions: Vec<_> =
            sessions.iter().filter_map(|peer| Some((peer.name.as_str(), peer.bfd.as_ref()?))).collect();
        let mut up = encoder.encode_descriptor("bfd_up", "1 while the BFD session is up", None, MetricType::Gauge)?;
        for (name, bfd) in &sessions {
            let value = i64::from(bfd.state == State::Up);
            ConstGauge::new(value).encode(up.encode_family(&[("peer", *name)])?)?;
        }
        type Count = fn(&BfdStatus) -> u64;
        let counts: [(&str, &str, Count); 2] = [
            ("bfd_failures", "Times the BFD session went down after it was up, and not on purpose", |bfd| bfd.failures),
            ("bfd_discarded_packets", "BFD packets from the peer's address that were discarded", |bfd| bfd.discarded),
        ];
        for (metric, help, count) in counts {
            let mut family = encoder.encode_descriptor(metric, help, None, MetricType::Counter)?;
            for (name, bfd) in &sessions {
                ConstCounter::new(count(bfd)).encode(family.encode_family(&[("peer", *name)])?)?;
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Sessions(BgpStatus);

impl Collector for Sessions {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let sessions = self.0.sessions();
        type Count = fn(&PeerStatus) -> u64;
        let counts: [(&str, &str, Count); 7] = [
            ("bgp_sessions", "Times the session came up", |peer| peer.established),
            ("bgp_received_messages", "BGP messages from the peer", |peer| peer.received.messages),
            ("bgp_received_updates", "UPDATEs from the peer; they are counted, never used", |peer| {
                peer.received.updates
            }),
            ("bgp_received_announced", "Routes announced in the peer's UPDATEs", |peer| peer.received.announced),
            ("bgp_received_withdrawn", "Routes withdrawn in the peer's UPDATEs", |peer| peer.received.withdrawn),
            ("bgp_received_malformed", "UPDATEs with an error that a session survives (RFC 7606)", |peer| {
                peer.received.malformed
            }),
            ("bgp_received_refreshes", "ROUTE-REFRESH requests of the peer", |peer| peer.received.refreshes),
        ];
        for (metric, help, count) in counts {
            let mut family = encoder.encode_descriptor(metric, help, None, MetricType::Counter)?;
            for peer in &sessions {
                ConstCounter::new(count(peer)).encode(family.encode_family(&[("peer", peer.name.as_str())])?)?;
            }
        }
        let help = "1 while the session is established, by peer and whether answers wait for it (required)";
        let mut family = encoder.encode_descriptor("bgp_session_up", help, None, MetricType::Gauge)?;
        for peer in self.0.peers() {
            let required = if peer.required { "true" } else { "false" };
            let labels = [("peer", peer.status.name.as_str()), ("required", required)];
            ConstGauge::new(i64::from(peer.status.state == status::State::Established))
                .encode(family.encode_family(&labels)?)?;
        }
        let help = "Routes announced to the peer, by peer and family";
        let mut family = encoder.encode_descriptor("bgp_advertised_routes", help, None, MetricType::Gauge)?;
        for peer in &sessions {
            for (of, count) in ["ipv4", "ipv6"].into_iter().zip(peer.advertised) {
                let labels = [("peer", peer.name.as_str()), ("family", of)];
                ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX)).encode(family.encode_family(&labels)?)?;
            }
        }
        let help = "Networks that the peer announces to the guard, at most 4,096; with bgp.exclude_announced they are never leased";
        let mut family = encoder.encode_descriptor("bgp_announced_networks", help, None, MetricType::Gauge)?;
        for (peer, count, _) in self.0.network_counts() {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            ConstGauge::new(count).encode(family.encode_family(&[("peer", peer.as_str())])?)?;
        }
        let help = "Octets that wait in the guard's memory until the peer takes them";
        let mut family = encoder.encode_descriptor("bgp_queued_octets", help, None, MetricType::Gauge)?;
        for peer in &sessions {
            let octets = i64::try_from(peer.queued).unwrap_or(i64::MAX);
            ConstGauge::new(octets).encode(family.encode_family(&[("peer", peer.name.as_str())])?)?;
        }
        Ok(())
    }
}
