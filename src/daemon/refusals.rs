//! Refusals of the eBPF enforcer go to the log of what was refused: every one of them, where nftables tells of a sample.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;

use super::packets::{PacketMetrics, reason};
use super::revalidate;
use super::whose::Whose;
use crate::control::types::Sender;
use crate::control::{DeniedLog, Usage};
use crate::core::pairs::HOST;
use crate::core_task::CoreHandle;
use crate::enforce::ebpf::layout::Refusal;
use crate::enforce::ebpf::refusals::Refusals;
use crate::enforce::nftables::packets::Packet;

/// Between two tries to open the ring, and two looks whether it is still that of the program in force.
const RETRY: Duration = Duration::from_secs(5);

fn packet(refusal: &Refusal) -> Packet {
    // Without a port the protocol has none.
    let port = Some(refusal.port).filter(|port| *port != 0);
    Packet {
        source: HOST,
        destination: refusal.address,
        protocol: refusal.protocol,
        port,
        source_port: None,
        user: None,
    }
}

/// Who was refused each. Reads files, so not in the thread of this.
async fn senders(whose: &mut Whose, refusals: Vec<Refusal>) -> Vec<(Refusal, Option<Sender>)> {
    let mut known = std::mem::take(whose);
    let nobody = refusals.clone();
    let asked = tokio::task::spawn_blocking(move || {
        let who = |refusal: Refusal| {
            let by = known.is(refusal.uid, refusal.cgroup, (refusal.pid, refusal.comm.clone()));
            (refusal, Some(by))
        };
        let all = refusals.into_iter().map(who).collect();
        (known, all)
    });
    match asked.await {
        Ok((known, all)) => {
            *whose = known;
            all
        }
        Err(error) => {
            tracing::debug!(%error, "who was refused isn't known");
            nobody.into_iter().map(|refusal| (refusal, None)).collect()
        }
    }
}

/// Until it is dropped, as [`super::packets::follow`].
pub async fn follow(
    (denied, usage, core): (DeniedLog, Usage, CoreHandle),
    metrics: PacketMetrics,
    enforced: Arc<AtomicBool>,
    refused: mpsc::Sender<revalidate::Refused>,
) {
    let mut said = false;
    let mut whose = Whose::default();
    loop {
        match Refusals::open() {
            Ok(mut refusals) => {
                said = false;
                let error = loop {
                    let mut all = Vec::new();
                    match tokio::time::timeout(RETRY, refusals.read(|refusal| all.push(refusal))).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => break Some(error),
                        Err(_) if refusals.is_current() => {}
                        // Another program brought another ring.
                        Err(_) => break None,
                    }
                    for (refusal, by) in senders(&mut whose, all).await {
                        let packet = packet(&refusal);
                        metrics.seen.inc();
                        let audit = refusal.audit || !enforced.load(Ordering::Relaxed);
                        denied.record_packet(&packet.to_string(), HOST, &reason(&packet, &core).await, audit, by);
                        if audit {
                            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                            usage.sent(HOST, packet.destination, packet.service(), now);
                            continue;
                        }
                        denied.refused(HOST, packet.destination);
                        let told = revalidate::Refused { source: HOST, destination: packet.destination };
                        // The application tries again.
                        if refused.try_send(told).is_err() {
                            metrics.overlooked.inc();
                        }
                    }
                };
                if let Some(error) = error {
                    tracing::warn!(%error, "refusals can't be read any more; trying again");
                }
            }
            Err(error) if !said => {
                said = true;
                tracing::warn!(%error, "`destguard denied` can't show what the eBPF program refuses");
            }
            Err(_) => {}
        }
        tokio::time::sleep(RETRY).await;
    }
}
