//! What the peers' confirmations look like, for Prometheus.

use destguard_bgp::status::{Latency, PeerStatus};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::BgpStatus;

/// Registers the metrics of confirmations, which are read at each scrape.
pub(super) fn register(registry: &mut Registry, status: BgpStatus) {
    registry.register_collector(Box::new(Confirmations(status)));
}

#[derive(Debug)]
struct Confirmations(BgpStatus);

impl Collector for Confirmations {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let sessions = self.0.sessions();
        let enforcers = || sessions.iter().filter(|session| session.confirms);
        let mut family = encoder.encode_descriptor(
            "bgp_confirm_seconds",
            "From a change of the route table to its being confirmed by the peer, settle included",
            None,
            MetricType::Histogram,
        )?;
        for session in enforcers() {
            Histogram(&session.latency).encode(family.encode_family(&[("peer", session.name.as_str())])?)?;
        }
        let mut family = encoder.encode_descriptor(
            "bgp_close_seconds",
            "From a route's withdrawal to the observer's hearing of it (confirm = reflect)",
            None,
            MetricType::Histogram,
        )?;
        for session in enforcers() {
            Histogram(&session.close_latency).encode(family.encode_family(&[("peer", session.name.as_str())])?)?;
        }
        type Gauge = fn(&PeerStatus) -> usize;
        let gauges: [(&str, &str, Gauge); 3] = [
            (
                "bgp_unverified_routes",
                "Routes of the table that the session started with, not confirmed yet",
                |session| session.unverified,
            ),
            ("bgp_closing_routes", "Withdrawals that the observer hasn't heard of yet", |session| session.closing),
            ("bgp_borrowed_routes", "Routes in force by another guard's path", |session| session.borrowed),
        ];
        for (metric, help, value) in gauges {
            let mut family = encoder.encode_descriptor(metric, help, None, MetricType::Gauge)?;
            for session in enforcers() {
                let value = i64::try_from(value(session)).unwrap_or(i64::MAX);
                ConstGauge::new(value).encode(family.encode_family(&[("peer", session.name.as_str())])?)?;
            }
        }
        let settle = "What is waited after the peer's word now, before it counts as confirmed";
        let mut family = encoder.encode_descriptor("bgp_settle_seconds", settle, None, MetricType::Gauge)?;
        for session in enforcers() {
            let labels = [("peer", session.name.as_str())];
            ConstGauge::new(session.settle.as_secs_f64()).encode(family.encode_family(&labels)?)?;
        }
        let warning = "1 while confirming works worse than configured; `destguard peers` says how";
        let mut family = encoder.encode_descriptor("bgp_confirm_warning", warning, None, MetricType::Gauge)?;
        for session in enforcers() {
            let labels = [("peer", session.name.as_str())];
            ConstGauge::new(i64::from(session.warning.is_some())).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

struct Histogram<'a>(&'a Latency);

impl EncodeMetric for Histogram<'_> {
    fn encode(&self, mut encoder: MetricEncoder) -> Result<(), std::fmt::Error> {
        let bounds = Latency::BOUNDS.iter().map(|micros| std::time::Duration::from_micros(*micros).as_secs_f64());
        // The last bucket is the one without bound.
        let buckets: Vec<(f64, u64)> = bounds.chain([f64::MAX]).zip(self.0.buckets).collect();
        encoder.encode_histogram::<NoLabelSet>(self.0.sum.as_secs_f64(), self.0.count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}
