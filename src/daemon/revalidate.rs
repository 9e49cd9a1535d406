//! `lease.revalidate`: a packet to an address whose lease ended has the name asked for again, once for each end of a lease. The answer opens what it
//! names now: the address, if the name still leads there. Nothing else is opened, and policy and budgets apply as to the client's own question.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;

use super::shared::Shared;
use crate::control::sources::CoreView as _;
use crate::core::client::prefix;
use crate::core::ended::End;
use crate::core::name::Name;
use crate::core::remembered::Remembered;
use crate::dns::limits::{Limit, Place};
use crate::metrics::labelled;

/// Packets that wait to be looked at; beyond it they are left out, and the next of their flow comes soon.
pub const WAITING: usize = 64;
/// Addresses that are remembered as asked for.
const REMEMBERED: usize = 4096;
/// An address isn't looked at again for so long: a flow that is refused sends a packet each second.
const REST: Duration = Duration::from_secs(60);
/// Asked for at once, in all and of one client.
const ASKING: usize = 32;
const ASKING_OF_CLIENT: usize = 4;
/// Names of one address that are asked for.
const NAMES: usize = 2;

/// A packet that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Who sent it.
    pub source: IpAddr,
    /// The address that the packet was sent to.
    pub destination: IpAddr,
}

/// What is counted.
#[derive(Clone, Debug, Default)]
pub struct RevalidateMetrics(Family<[(&'static str, &'static str); 1], Counter>);

impl RevalidateMetrics {
    /// Registers the metrics of refused packets that are looked at again.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let help = "Addresses whose lease had ended when packets came, by what asking again for their names brought: opened, moved (the name leads elsewhere \
                    now), failed or overload (not asked: too many at once)";
        labelled(registry, "lease_revalidations", help, &metrics.0);
        metrics
    }

    fn count(&self, outcome: &'static str) {
        self.0.get_or_create(&[("outcome", outcome)]).inc();
    }
}

/// Which addresses were looked at lately. A client has its share of the table.
#[derive(Debug)]
struct Lately(Remembered<IpAddr, IpAddr, Instant>);

impl Default for Lately {
    fn default() -> Self {
        Self(Remembered::new(REMEMBERED))
    }
}

impl Lately {
    /// Whether the address is due; then it rests.
    fn take(&mut self, Refused { source, destination }: Refused, now: Instant) -> bool {
        if self.0.get(&destination).is_some_and(|at| now.saturating_duration_since(*at) < REST) {
            return false;
        }
        self.0.put(destination, prefix(source), now);
        true
    }
}

/// Until nobody sends packets any more.
pub async fn follow(shared: Arc<Shared>, mut packets: mpsc::Receiver<Refused>, metrics: RevalidateMetrics) {
    let mut lately = Lately::default();
    let asking = Limit::new(ASKING, ASKING_OF_CLIENT, 1);
    while let Some(packet) = packets.recv().await {
        if !shared.config().0.lease.revalidate {
            continue;
        }
        let Ok(known) = shared.core.known(packet.destination).await else { return };
        let Some(ended) = known.ended.filter(|ended| ended.how == End::Expired.words()) else { continue };
        // A name whose servers are silent holds up nobody else.
        let Ok(place) = asking.take(shared.dns.whom().load().claim(packet.source)) else {
            metrics.count("overload");
            continue;
        };
        if lately.take(packet, Instant::now()) {
            tokio::spawn(ask(shared.clone(), packet, ended.causes, metrics.clone(), place));
        }
    }
}

async fn ask(
    shared: Arc<Shared>,
    Refused { source, destination }: Refused,
    causes: Vec<(Name, Vec<Name>)>,
    metrics: RevalidateMetrics,
    _place: Place,
) {
    let mut outcome = "failed";
    for (name, _) in causes.into_iter().take(NAMES) {
        match shared.dns.open_unasked(Some(source), &name).await {
            Ok(opened) if opened.addresses.contains(&destination) => {
                tracing::debug!(%destination, %name, %source, "asked for again: open");
                outcome = "opened";
                break;
            }
            Ok(_) => outcome = "moved",
            Err(error) => tracing::debug!(%destination, %name, %error, "asked for again in vain"),
        }
    }
    metrics.count(outcome);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_rests_and_one_client_pushes_out_nobody_elses() {
        let mut lately = Lately::default();
        let now = Instant::now();
        let packet = |source: u8, n: u32| Refused {
            source: [10, 0, 0, source].into(),
            destination: (0xcb00_7100_u32 + n).to_be_bytes().into(),
        };
        assert!(lately.take(packet(1, 1), now) && !lately.take(packet(2, 1), now + REST / 2));
        assert!(lately.take(packet(1, 1), now + REST));
        for n in 2..10_000 {
            lately.take(packet(2, n), now + REST);
        }
        assert_eq!(lately.0.len(), REMEMBERED);
        assert!(!lately.take(packet(1, 1), now + REST + REST / 2), "it rests still");
    }
}
