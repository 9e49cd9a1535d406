//! Whether enforcers block: switched by a reload, without a restart.
//!
//! From audit to enforcement the resolver goes first, then the packets: who is told an address meanwhile finds it open. The other way round the packets
//! go first. Leases, flows and sessions stay either way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc::WeakSender;
use tokio::sync::oneshot;

use crate::config::Config;
use crate::enforce::Command;

/// How enforcers are told. The channels are held by the core alone, so that they close with it.
#[derive(Debug)]
pub struct Switches {
    /// The nftables driver, when there is one.
    pub nftables: Option<WeakSender<Command>>,
    /// The BGP speaker, when there is one.
    pub bgp: Option<WeakSender<Command>>,
    /// Whether nftables refuses what it denies.
    pub nftables_blocks: Arc<AtomicBool>,
}

impl Switches {
    /// As the daemon starts.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let nftables_blocks = Arc::new(AtomicBool::new(config.nftables_enforces()));
        Self { nftables: None, bgp: None, nftables_blocks }
    }

    /// Waits until the kernel has the rules.
    ///
    /// # Errors
    /// Why the old ones stay.
    pub async fn nftables(&self, enforce: bool) -> Result<(), String> {
        if self.nftables_blocks.load(Ordering::Relaxed) == enforce {
            return Ok(());
        }
        tell(self.nftables.as_ref(), enforce).await.map_err(|error| format!("nftables: {error}"))?;
        self.nftables_blocks.store(enforce, Ordering::Relaxed);
        Ok(())
    }

    /// The prefixes that are announced without a lease.
    ///
    /// # Errors
    /// The speaker has stopped.
    pub async fn bgp(&self, enforce: bool) -> Result<(), String> {
        tell(self.bgp.as_ref(), enforce).await.map_err(|error| format!("bgp: {error}"))
    }
}

async fn tell(driver: Option<&WeakSender<Command>>, enforce: bool) -> Result<(), String> {
    let Some(driver) = driver else { return Ok(()) };
    let stopped = || "it has stopped".to_owned();
    let (done, outcome) = oneshot::channel();
    let driver = driver.upgrade().ok_or_else(stopped)?;
    driver.send(Command::Enforce { enforce, done }).await.map_err(|_| stopped())?;
    drop(driver);
    outcome.await.map_err(|_| stopped())?
}
