//! The enforcers as the daemon starts with them, and what an earlier configuration left of others.

use std::time::Duration;

use super::error::RunError;
use super::switch;
use crate::config::Config;
use crate::config::schema::NftablesMode;
use crate::core::event::EnforcerSpec;
use crate::enforce::backend::{self, Backend, PacketBackend};
use crate::enforce::bgp::BgpEnforcer;
use crate::enforce::packet_filters;
use crate::enforce::rules::Own;
use crate::sys::clock::Clock;

/// How long the kernel may take to hold the leases that were restored.
pub const HOLDING: Duration = Duration::from_secs(10);

/// Everything of the enforcers that the daemon holds.
pub struct Enforcers {
    /// What the core is to know of each.
    pub specs: Vec<EnforcerSpec>,
    /// Of this host's packets.
    pub packets: Option<Box<dyn Backend>>,
    /// Also without peers: they may come.
    pub bgp: BgpEnforcer,
}

impl Enforcers {
    /// Makes them; nothing of the kernel or the network is touched yet. `restored`: leases of an earlier run are there; `own`: the guard's
    /// own traffic.
    ///
    /// # Errors
    /// The configuration names what isn't there, or can't be read.
    pub fn new(config: &Config, clock: Clock, restored: bool, own: Own) -> Result<Self, RunError> {
        let mut ids = backend::Ids::default();
        let mut packets = None;
        if config.nftables.mode != NftablesMode::Off {
            let unknown = || RunError::failed(format!("enforcer: there is no {:?}", config.enforcer));
            let backend = packet_filters::named(&config.enforcer).ok_or_else(unknown)?;
            let rules = switch::rules(config, own);
            packets = Some((backend.make)(&rules, clock, ids.hand_out()).map_err(RunError::failed)?);
        }
        let bgp = BgpEnforcer::with_ids(config, |_, _| ids.hand_out(), restored).map_err(RunError::failed)?;
        let mut specs = packets.as_ref().map(|packets| packets.specs()).unwrap_or_default();
        specs.extend_from_slice(bgp.specs());
        Ok(Self { specs, packets, bgp })
    }

    /// Puts the packet filter in force; what another one of an earlier configuration left goes behind that. What this host can't do comes back.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn install(&mut self, config: &Config) -> Result<Vec<backend::LeftOut>, RunError> {
        let Some(packets) = &mut self.packets else {
            packet_filters::left_behind(None).for_each(|left| tracing::warn!("{}", left_behind(left)));
            return Ok(Vec::new());
        };
        let left_out = packets.install().await.map_err(RunError::failed)?;
        for left in packet_filters::left_behind(Some(&config.enforcer)) {
            tracing::info!(
                removed = left.leaves,
                "what another enforcer left is removed: {} guards now",
                config.enforcer
            );
            (left.remove)().map_err(RunError::failed)?;
        }
        Ok(left_out)
    }
}

/// What is wrong while something of an earlier run stands and there is no enforcer for it.
#[must_use]
pub fn left_behind(what: &PacketBackend) -> String {
    format!(
        "nftables.mode is \"off\", but the {} of an earlier run is still in the kernel and goes on blocking what has no lease \
         there; `destguard disarm` removes it",
        what.leaves
    )
}
