//! How full the cache is, looked up when somebody asks.

use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::Cache;

/// Registers the metrics of the cache, which are read at each scrape.
pub fn register(registry: &mut Registry, cache: &Arc<Cache>) {
    registry.register_collector(Box::new(Usage(cache.clone())));
}

struct Usage(Arc<Cache>);

impl std::fmt::Debug for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Usage")
    }
}

impl Collector for Usage {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let (entries, octets, evicted) = self.0.usage();
        for (name, help, value) in [
            ("dns_cache_entries", "Answers kept for other clients and later questions", entries),
            ("dns_cache_bytes", "Octets that kept answers take; at most dns.cache.size", octets),
        ] {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        let counter = ConstCounter::new(evicted);
        let help = "Kept answers that went before their end, for want of room";
        counter.encode(encoder.encode_descriptor("dns_cache_evictions", help, None, MetricType::Counter)?)
    }
}
