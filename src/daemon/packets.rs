//! Denied packets go to the log of what was refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use crate::control::{DeniedKind, DeniedLog};
use crate::enforce::nftables::packets::{Packet, Packets};

/// Between two tries to subscribe.
const RETRY: Duration = Duration::from_secs(30);
/// DNS in the clear, over TLS and over QUIC: what goes there goes round the guard.
const RESOLVERS: [u16; 2] = [53, 853];

/// What is counted.
#[derive(Debug, Default)]
pub struct PacketMetrics {
    seen: Counter,
    overruns: Counter,
}

impl PacketMetrics {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let seen = "Denied packets that the log of refusals was told of; the ruleset logs a few a second only";
        registry.register("nftables_packets_logged", seen, metrics.seen.clone());
        let overruns = "Times the kernel dropped logged packets because they were not read fast enough";
        registry.register("nftables_log_overruns", overruns, metrics.overruns.clone());
        metrics
    }
}

fn reason(packet: &Packet) -> &'static str {
    let resolver = packet.port.is_some_and(|port| RESOLVERS.contains(&port));
    if resolver { "DNS that goes round the guard" } else { "no lease" }
}

/// Until it is dropped. Whatever fails is said once and tried again: nothing depends on it but what `denied` shows.
/// `enforced`: whether nftables refuses them.
pub async fn follow(denied: DeniedLog, metrics: PacketMetrics, enforced: Arc<AtomicBool>) {
    let mut said = false;
    loop {
        match Packets::open() {
            Ok(mut packets) => {
                said = false;
                let error = loop {
                    let seen = |packet: Packet| {
                        metrics.seen.inc();
                        let (what, client) = (packet.to_string(), Some(packet.source));
                        if enforced.load(Ordering::Relaxed) {
                            denied.record(DeniedKind::Packet, &what, client, reason(&packet));
                            denied.refused(packet.source, packet.destination);
                        } else {
                            denied.record_audit(DeniedKind::Packet, &what, client, reason(&packet));
                        }
                    };
                    match packets.read(seen).await {
                        Ok(overruns) => metrics.overruns.inc_by(overruns),
                        Err(error) => break error,
                    };
                };
                tracing::warn!(%error, "denied packets can't be read any more; trying again");
            }
            Err(error) if !said => {
                said = true;
                tracing::warn!(%error, "`destguard denied` can't show denied packets");
            }
            Err(_) => {}
        }
        tokio::time::sleep(RETRY).await;
    }
}
