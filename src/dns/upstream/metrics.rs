//! How the upstreams are, looked up when somebody asks.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::UpstreamStatus;

/// Registers the upstreams' metrics, which are read at each scrape; `status` says how each of them is.
pub(in crate::dns) fn register<S>(registry: &mut Registry, status: S)
where
    S: Fn() -> Vec<UpstreamStatus> + Send + Sync + 'static,
{
    registry.register_collector(Box::new(Upstreams(status)));
}

struct Upstreams<S>(S);

impl<S> std::fmt::Debug for Upstreams<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Upstreams")
    }
}

impl<S> Collector for Upstreams<S>
where
    S: Fn() -> Vec<UpstreamStatus> + Send + Sync + 'static,
{
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let upstreams = (self.0)();
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
