//! The named counters of the table as metrics, read from the kernel when somebody asks.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::Registry;

use super::Count;

/// Registers them. While the table is gone they are left out.
pub fn register(registry: &mut Registry) {
    registry.register_collector(Box::new(PacketCounters));
}

#[derive(Debug)]
struct PacketCounters;

impl Collector for PacketCounters {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let counters = match super::counters() {
            Ok(counters) => counters,
            Err(error) => {
                tracing::debug!(%error, "the nftables counters can't be read");
                return Ok(());
            }
        };
        let named = [
            ("allowed", counters.allowed),
            ("established", counters.established),
            ("denied", counters.denied),
            ("dns_bypass", counters.dns_bypass),
        ];
        let packets: (&str, fn(&Count) -> u64) = (
            "Packets since the table was made: opened by a lease, established, denied (in audit: to be denied), to other \
             resolvers (denied as well)",
            |count| count.packets,
        );
        let bytes: (&str, fn(&Count) -> u64) = ("Octets of those packets", |count| count.bytes);
        for (name, (help, value)) in [("nftables_packets", packets), ("nftables_bytes", bytes)] {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (counter, count) in &named {
                ConstCounter::new(value(count)).encode(family.encode_family(&[("counter", *counter)])?)?;
            }
        }
        Ok(())
    }
}
