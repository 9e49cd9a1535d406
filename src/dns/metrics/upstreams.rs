//! How the upstreams are, looked up when somebody asks.

use std::sync::Arc;

use arc_swap::ArcSwap;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::dns::resolver::origin::Origin;

/// Registers the upstreams' metrics, which are read at each scrape.
pub(in crate::dns) fn register(registry: &mut Registry, origin: &Arc<ArcSwap<Origin>>) {
    registry.register_collector(Box::new(Upstreams(origin.clone())));
}

struct Upstreams(Arc<ArcSwap<Origin>>);

impl std::fmt::Debug for Upstreams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Upstreams")
    }
}

impl Collector for Upstreams {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let upstreams = self.0.load().upstreams.status();
        let help = "1 while the upstream answers, or was not asked yet; 0 while it is down, by upstream";
        let mut family = encoder.encode_descriptor("dns_upstream_up", help, None, MetricType::Gauge)?;
        for upstream in &upstreams {
            let labels = [("upstream", upstream.url.as_str())];
            ConstGauge::new(i64::from(upstream.healthy)).encode(family.encode_family(&labels)?)?;
        }
        let help = "Smoothed round-trip time, in seconds, by upstream; none before the first reply";
        let mut family = encoder.encode_descriptor("dns_upstream_rtt_seconds", help, None, MetricType::Gauge)?;
        for upstream in &upstreams {
            let Some(rtt) = upstream.rtt else { continue };
            let labels = [("upstream", upstream.url.as_str())];
            ConstGauge::new(rtt.as_secs_f64()).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
