//! The eBPF enforcer as a backend: its tables, and the driver of timed tables.

use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;

use super::{NAME, Table, program, spec};
use crate::core::event::EnforcerSpec;
use crate::enforce::backend::{Backend, BackendStatus, Control, Later, LeftOut, PacketBackend, Stop};
use crate::enforce::timed::{self, Settings, Switch, Table as _};
use crate::enforce::{Command, EnforceError, Reports};

/// The row of eBPF in [`crate::enforce::packet_filters::PACKETS`].
pub const BACKEND: PacketBackend = PacketBackend {
    name: NAME,
    spec,
    make: |rules, clock, id| {
        let (rules, switch) = (rules.clone(), Switch::default());
        Ok(Box::new(Ebpf {
            table: Table::new(&rules),
            settings: Settings { id, clock, switch, rules, left_out: Vec::new() },
        }))
    },
    is_there: || Ok(program::is_left_behind()),
    remove: || Ok(program::remove()?),
    leaves: "the eBPF program at /sys/fs/bpf/destguard",
};

/// Nothing is touched before it is installed.
#[derive(Debug)]
pub struct Ebpf {
    table: Table,
    settings: Settings,
}

impl Backend for Ebpf {
    fn specs(&self) -> Vec<EnforcerSpec> {
        vec![spec(self.settings.rules.capacity)]
    }

    fn install(&mut self) -> Later<'_, Result<Vec<LeftOut>, EnforceError>> {
        Box::pin(async { Ok(self.table.install()?.left_out) })
    }

    fn control(&self) -> Arc<dyn Control> {
        Arc::new(Running(self.settings.switch.clone()))
    }

    fn run(self: Box<Self>, commands: mpsc::Receiver<Command>, reports: Reports) -> Later<'static, ()> {
        Box::pin(timed::run(self.table, self.settings, commands, reports))
    }
}

#[derive(Debug)]
struct Running(Switch);

impl Control for Running {
    fn status(&self) -> BackendStatus {
        BackendStatus { name: NAME, disarmed: self.0.is_disarmed(), warnings: Vec::new() }
    }

    fn stop(&self, how: Stop) -> Result<bool, EnforceError> {
        Ok(self.0.stop(how, program::remove)?)
    }

    fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(Counts));
    }
}

/// What the program counts, read from the kernel when somebody asks. While it isn't there they are left out.
#[derive(Debug)]
struct Counts;

impl Collector for Counts {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let (counters, lost) = match program::counters() {
            Ok(counters) => counters,
            Err(error) => {
                tracing::debug!(%error, "the counters of the eBPF program can't be read");
                return Ok(());
            }
        };
        let named = [
            ("allowed", counters.allowed),
            ("answers", counters.established),
            ("denied", counters.denied),
            ("dns_bypass", counters.dns_bypass),
        ];
        let help = "Connections and datagrams that the eBPF program judged: opened by a lease, datagrams that answer one, denied (in audit: to be \
                    denied), to other resolvers (denied as well)";
        let mut family = encoder.encode_descriptor("ebpf_judged", help, None, MetricType::Counter)?;
        for (counter, count) in &named {
            ConstCounter::new(count.packets).encode(family.encode_family(&[("counter", *counter)])?)?;
        }
        let help = "Refusals that the eBPF program had no room to tell of";
        let lost = ConstCounter::new(lost);
        lost.encode(encoder.encode_descriptor("ebpf_refusals_lost", help, None, MetricType::Counter)?)
    }
}
