//! The named counters of the table as metrics, read from the kernel when somebody asks.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::applications::held_members;
use super::kernel::Kernel;
use super::{Count, Counters};
use crate::enforce::EnforceError;

/// Registers them. While the table is gone they are left out.
pub fn register(registry: &mut Registry) {
    register_by(registry, super::counters);
    registry.register_collector(Box::new(ApplicationGroups));
}

/// The same of another packet filter, by whatever reads its counters.
pub fn register_by<E>(registry: &mut Registry, read: impl Fn() -> Result<Counters, E> + Send + Sync + 'static)
where
    EnforceError: From<E>,
{
    registry.register_collector(Box::new(PacketCounters(Box::new(move || Ok(read()?)))));
}

type Read = dyn Fn() -> Result<Counters, EnforceError> + Send + Sync;

struct PacketCounters(Box<Read>);

impl std::fmt::Debug for PacketCounters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PacketCounters")
    }
}

impl Collector for PacketCounters {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let counters = match (self.0)() {
            Ok(counters) => counters,
            Err(error) => {
                tracing::debug!(%error, "the counters of the packet filter can't be read");
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

#[derive(Debug)]
struct ApplicationGroups;

impl Collector for ApplicationGroups {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        if let Ok(groups) = Kernel::open().and_then(|mut kernel| held_members(&mut kernel)) {
            let help = "Control groups that lead to applications (nftables.application); 1024 at most";
            let gauge = ConstGauge::new(i64::try_from(groups.len()).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor("nftables_application_groups", help, None, MetricType::Gauge)?)?;
        }
        Ok(())
    }
}
