//! Whether enforcers block, and what they let the guard itself do: switched by a reload, without a restart.
//!
//! From audit to enforcement the resolver goes first, then the packets: who is told an address meanwhile finds it open. The other way round the packets
//! go first. Leases, flows and sessions stay either way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ipnet::IpNet;
use tokio::sync::mpsc::WeakSender;
use tokio::sync::oneshot;

use crate::config::Config;
use crate::enforce::{Command, nftables};

/// How enforcers are told. The channels are held by the core alone, so that they close with it.
#[derive(Debug)]
pub struct Switches {
    /// The nftables driver, when there is one.
    pub nftables: Option<WeakSender<Command>>,
    /// The BGP speaker, when there is one.
    pub bgp: Option<WeakSender<Command>>,
    /// Whether nftables refuses what it denies.
    pub nftables_blocks: Arc<AtomicBool>,
    /// The guard's own traffic as the kernel lets it pass.
    own: tokio::sync::Mutex<nftables::Own>,
}

impl Switches {
    /// As the daemon starts.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let nftables_blocks = Arc::new(AtomicBool::new(config.nftables_enforces()));
        Self { nftables: None, bgp: None, nftables_blocks, own: tokio::sync::Mutex::default() }
    }

    /// With what the ruleset was installed with.
    #[must_use]
    pub fn with_own(mut self, mut own: nftables::Own) -> Self {
        own.traffic.sort_unstable();
        own.traffic.dedup();
        own.listeners.sort_unstable();
        own.listeners.dedup();
        self.own = tokio::sync::Mutex::new(own);
        self
    }

    /// Changes what the guard's own traffic is, and waits until the kernel lets it pass: what is new before it is used, what is old once it isn't any more.
    ///
    /// # Errors
    /// Why all is as it was.
    pub async fn own(&self, change: impl FnOnce(&mut nftables::Own)) -> Result<(), String> {
        let mut own = self.own.lock().await;
        let mut wanted = own.clone();
        change(&mut wanted);
        wanted.traffic.sort_unstable();
        wanted.traffic.dedup();
        wanted.listeners.sort_unstable();
        wanted.listeners.dedup();
        if wanted == *own {
            return Ok(());
        }
        let told = wanted.clone();
        let command = |done| Command::Own { own: told, done };
        tell(self.nftables.as_ref(), command).await.map_err(|error| format!("nftables: {error}"))?;
        *own = wanted;
        Ok(())
    }

    /// Waits until the kernel has the rules.
    ///
    /// # Errors
    /// Why the old ones stay.
    pub async fn nftables(&self, enforce: bool) -> Result<(), String> {
        if self.nftables_blocks.load(Ordering::Relaxed) == enforce {
            return Ok(());
        }
        tell(self.nftables.as_ref(), blocks(enforce)).await.map_err(|error| format!("nftables: {error}"))?;
        self.nftables_blocks.store(enforce, Ordering::Relaxed);
        Ok(())
    }

    /// The prefixes that are announced without a lease, where any are.
    ///
    /// # Errors
    /// The speaker has stopped.
    pub async fn open(&self, mut open: Vec<IpNet>) -> Result<(), String> {
        open.sort_unstable();
        open.dedup();
        let command = |done| Command::Open { open, done };
        tell(self.bgp.as_ref(), command).await.map_err(|error| format!("bgp: {error}"))
    }

    /// Whether prefixes are announced without a lease.
    ///
    /// # Errors
    /// The speaker has stopped.
    pub async fn bgp(&self, enforce: bool) -> Result<(), String> {
        tell(self.bgp.as_ref(), blocks(enforce)).await.map_err(|error| format!("bgp: {error}"))
    }
}

fn blocks(enforce: bool) -> impl FnOnce(oneshot::Sender<Result<(), String>>) -> Command {
    move |done| Command::Enforce { enforce, done }
}

async fn tell(
    driver: Option<&WeakSender<Command>>,
    command: impl FnOnce(oneshot::Sender<Result<(), String>>) -> Command,
) -> Result<(), String> {
    let Some(driver) = driver else { return Ok(()) };
    let stopped = || "it has stopped".to_owned();
    let (done, outcome) = oneshot::channel();
    let driver = driver.upgrade().ok_or_else(stopped)?;
    driver.send(command(done)).await.map_err(|_| stopped())?;
    drop(driver);
    outcome.await.map_err(|_| stopped())?
}
