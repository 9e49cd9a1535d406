//! The process itself and the program's version, read when somebody asks. The names are those that every Prometheus client uses.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::sys::process::{self, Usage};

/// `build_info`, with the prefix of the others.
#[derive(Debug)]
pub struct Build;

impl Collector for Build {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let help = "1, with the version of the program";
        let mut family = encoder.encode_descriptor("build_info", help, None, MetricType::Gauge)?;
        ConstGauge::new(1_i64).encode(family.encode_family(&[("version", env!("CARGO_PKG_VERSION"))])?)
    }
}

/// `process_...`, without it.
#[derive(Debug)]
pub struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let usage = match process::usage() {
            Ok(usage) => usage,
            Err(error) => {
                tracing::debug!(%error, "what the process takes can't be read");
                return Ok(());
            }
        };
        let Usage { cpu, resident, virtual_memory, open_files, most_files, age } = usage;
        let help = "Seconds of processor time, of the user and the system";
        let descriptor = encoder.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?;
        ConstCounter::new(cpu.as_secs_f64()).encode(descriptor)?;
        let whole = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let gauges = [
            ("process_resident_memory_bytes", "Memory in use, in octets", resident),
            ("process_virtual_memory_bytes", "Address space, in octets", virtual_memory),
            ("process_open_fds", "Open file descriptors", open_files),
            ("process_max_fds", "Most file descriptors that may be open", most_files),
            ("process_start_time_seconds", "When the process started, in seconds since 1970", started(age).as_secs()),
        ];
        for (name, help, value) in gauges {
            let descriptor = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(whole(value)).encode(descriptor)?;
        }
        Ok(())
    }
}

fn started(age: Duration) -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(age)
}
