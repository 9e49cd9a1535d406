//! The registry that all metrics live in. Each module registers its own and documents them by their HELP text; the
//! prefix `destguard_` is added here.

use std::fmt::Debug;

use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder, text};
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;

pub mod log;
pub mod process;

/// An empty registry with the common prefix.
#[must_use]
pub fn registry() -> Registry {
    Registry::with_prefix("destguard")
}

/// The OpenMetrics text of everything registered.
///
/// # Errors
/// Formatting failed; it never does on a `String`.
pub fn encode(registry: &Registry) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    text::encode(&mut out, registry)?;
    Ok(out)
}

/// The same with the program's version and the process, as `/metrics` tells it.
///
/// # Errors
/// As of [`encode`].
pub fn encode_all(registry: &Registry) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    let mut build = self::registry();
    build.register_collector(Box::new(process::Build));
    let mut own = Registry::default();
    own.register_collector(Box::new(process::Process));
    for registry in [registry, &build, &own] {
        text::encode_registry(&mut out, registry)?;
    }
    text::encode_eof(&mut out)?;
    Ok(out)
}

/// The same in the older text format, for readers that don't ask for OpenMetrics: there a counter's family is named like its series.
#[must_use]
pub fn plain(open_metrics: &str) -> String {
    let mut out = String::with_capacity(open_metrics.len());
    let mut help: Option<(&str, &str)> = None;
    for line in open_metrics.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(name), text) => help = Some((name, text.unwrap_or_default())),
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let end = if kind == "counter" { "_total" } else { "" };
                if let Some((_, text)) = help.take().filter(|(helped, _)| *helped == name) {
                    out.push_str(&format!("# HELP {name}{end} {text}\n"));
                }
                // What is always 1 is an info there, and a gauge here.
                let kind = if kind == "info" { "gauge" } else { kind };
                out.push_str(&format!("# TYPE {name}{end} {kind}\n"));
            }
            (Some("#"), ..) => {}
            _ => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out
}

/// Registers a family whose name, type and help are told even while nothing was counted yet.
pub fn labelled<L, M, C>(registry: &mut Registry, name: &str, help: &str, family: &Family<L, M, C>)
where
    L: Clone + std::hash::Hash + Eq + EncodeLabelSet + Debug + Send + Sync + 'static,
    M: EncodeMetric + TypedMetric + Debug + Send + Sync + 'static,
    C: MetricConstructor<M> + Clone + Debug + Send + Sync + 'static,
{
    registry.register(name, help, Told(family.clone()));
}

/// A family that is never left out.
#[derive(Debug)]
struct Told<F>(F);

impl<F: EncodeMetric> EncodeMetric for Told<F> {
    fn encode(&self, encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        self.0.metric_type()
    }
}
