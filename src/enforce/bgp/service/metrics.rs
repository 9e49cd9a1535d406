//! Whether the service addresses are announced, and why not, as metrics.

use std::sync::Arc;
use std::time::Instant;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::Service;
use super::steady::Ill;

/// Registers the metrics of the service addresses, which are read at each scrape.
pub fn register(registry: &mut Registry, service: Arc<Service>) {
    registry.register_collector(Box::new(Announced(service)));
}

#[derive(Debug)]
struct Announced(Arc<Service>);

impl Collector for Announced {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let (announced, ill, [ups, downs]) = {
            let known = self.0.known();
            (known.steady.is_announced(), known.steady.ill(Instant::now()), known.changes)
        };
        let wanted = self.0.is_wanted();
        let help = "1 while the service addresses are announced (bgp.service)";
        let value = i64::from(announced && wanted);
        ConstGauge::new(value).encode(encoder.encode_descriptor(
            "service_announced",
            help,
            None,
            MetricType::Gauge,
        )?)?;
        let help = "1 for why they aren't announced, or soon won't be: core, state, upstreams, waiting (for bgp.service.up_after), stopping";
        let mut family = encoder.encode_descriptor("service_withheld", help, None, MetricType::Gauge)?;
        for word in Ill::WORDS.into_iter().filter(|_| wanted) {
            let is = ill.as_ref().is_some_and(|ill| ill.word == word);
            ConstGauge::new(i64::from(is)).encode(family.encode_family(&[("reason", word)])?)?;
        }
        let help = "Times the service addresses were announced, and withdrawn";
        let mut family = encoder.encode_descriptor("service_changes", help, None, MetricType::Counter)?;
        for (to, count) in [("announced", ups), ("withdrawn", downs)] {
            ConstCounter::new(count).encode(family.encode_family(&[("to", to)])?)?;
        }
        let help = "1 while the session that carries service addresses to the router is established";
        let mut family = encoder.encode_descriptor("service_session_up", help, None, MetricType::Gauge)?;
        for peer in self.0.sessions() {
            let up = peer.state == destguard_bgp::status::State::Established;
            ConstGauge::new(i64::from(up)).encode(family.encode_family(&[("peer", peer.name.as_str())])?)?;
        }
        Ok(())
    }
}
