//! Denied packets go to the log of what was refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;

use super::revalidate::Refused;
use super::whose::Whose;
use crate::control::types::Sender;
use crate::control::{DeniedLog, Usage};
use crate::core::guard::Guard;
use crate::core::moment::Moment;
use crate::core_task::CoreHandle;
use crate::enforce::nftables::packets::{Packet, Packets};

/// Between two tries to subscribe.
const RETRY: Duration = Duration::from_secs(30);
/// DNS in the clear, over TLS and over QUIC: what goes there goes round the guard.
const RESOLVERS: [u16; 2] = [53, 853];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByEnforcer {
    enforcer: &'static str,
}

/// What is counted, of the one enforcer that judges packets or sockets of this host.
#[derive(Debug)]
pub struct PacketMetrics {
    pub(super) seen: Counter,
    overruns: Counter,
    pub(super) overlooked: Counter,
}

impl PacketMetrics {
    /// Registers them, for the enforcer of this name.
    pub fn register(registry: &mut Registry, enforcer: &'static str) -> Self {
        let mut by_enforcer = |name: &str, help: &str| -> Counter {
            let family = Family::<ByEnforcer, Counter>::default();
            registry.register(name, help, family.clone());
            family.get_or_create_owned(&ByEnforcer { enforcer })
        };
        let seen = "Refusals that `destguard denied` was told of, by enforcer: nftables and iptables tell of a few packets a second, eBPF of every \
                    connect and datagram";
        let seen = by_enforcer("refusals_logged", seen);
        let overlooked =
            "Refusals whose address wasn't looked at for lease.revalidate, since too many came at once, by enforcer";
        let overlooked = by_enforcer("refusals_overlooked", overlooked);
        let overruns = Counter::default();
        let help = "Times the kernel dropped logged packets because they were not read fast enough";
        registry.register("nftables_log_overruns", help, overruns.clone());
        Self { seen, overruns, overlooked }
    }
}

/// Why a packet was refused. What other ports of the address are open only the core knows.
pub(super) async fn reason(packet: &Packet, core: &CoreHandle) -> String {
    if packet.port.is_some_and(|port| RESOLVERS.contains(&port)) {
        return "DNS that goes round the guard".to_owned();
    }
    let (source, destination) = (packet.source, packet.destination);
    let leased = move |guard: &Guard, _: Moment| {
        (guard.leased_ports(destination, Some(source)), guard.leased_applications(destination))
    };
    let (ports, applications) = core.inspect(leased).await.unwrap_or_default();
    match (ports.as_slice(), applications.as_slice()) {
        ([], []) => "no lease".to_owned(),
        (_, [_, ..]) => {
            let applications: Vec<&str> = applications.iter().map(AsRef::as_ref).collect();
            format!("leased for application {} only", applications.join(", "))
        }
        (ports, []) => {
            let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
            format!("leased for {} only", ports.join(", "))
        }
    }
}

/// Who on this host sent each. Reads files, so not in the thread of this.
async fn senders(whose: &mut Whose, packets: Vec<Packet>) -> Vec<(Packet, Option<Sender>)> {
    if packets.iter().all(|packet| packet.user.is_none()) {
        return packets.into_iter().map(|packet| (packet, None)).collect();
    }
    let mut known = std::mem::take(whose);
    let nobody = packets.clone();
    let asked = tokio::task::spawn_blocking(move || {
        let all = packets.into_iter().map(|packet| (packet, known.sent(&packet))).collect();
        (known, all)
    });
    match asked.await {
        Ok((known, all)) => {
            *whose = known;
            all
        }
        Err(error) => {
            tracing::debug!(%error, "who sent refused packets isn't known");
            nobody.into_iter().map(|packet| (packet, None)).collect()
        }
    }
}

/// Until it is dropped. Whatever fails is said once and tried again: nothing depends on it but what `denied` shows.
/// `enforced`: whether nftables refuses them. `refused`: who is told of these.
pub async fn follow(
    (denied, usage, core): (DeniedLog, Usage, CoreHandle),
    metrics: PacketMetrics,
    enforced: Arc<AtomicBool>,
    refused: mpsc::Sender<Refused>,
) {
    let mut said = false;
    let mut whose = Whose::default();
    loop {
        match Packets::open() {
            Ok(mut packets) => {
                said = false;
                let error = loop {
                    let mut all = Vec::new();
                    let overruns = match packets.read(|packet| all.push(packet)).await {
                        Ok(overruns) => overruns,
                        Err(error) => break error,
                    };
                    metrics.overruns.inc_by(overruns);
                    for (packet, by) in senders(&mut whose, all).await {
                        metrics.seen.inc();
                        let (what, client) = (packet.to_string(), packet.source);
                        let reason = reason(&packet, &core).await;
                        if enforced.load(Ordering::Relaxed) {
                            denied.record_packet(&what, client, &reason, false, by);
                            denied.refused(packet.source, packet.destination);
                            let packet = Refused { source: packet.source, destination: packet.destination };
                            // The next of its flow comes soon.
                            if refused.try_send(packet).is_err() {
                                metrics.overlooked.inc();
                            }
                        } else {
                            denied.record_packet(&what, client, &reason, true, by);
                            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                            usage.sent(packet.source, packet.destination, packet.service(), now);
                        }
                    }
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
