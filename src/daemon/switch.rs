//! How enforcers are told of another configuration, without a restart.
//!
//! Packets are judged by two rulesets in turn. What either configuration lets pass is let through first ([`Switches::packets_open`]); then the
//! resolver and the routes follow; then the packets are judged by the new one alone ([`Switches::packets_close`]). So from audit to enforcement the
//! resolver goes first: who is told an address meanwhile finds it open. The other way round the packets go first. Leases, flows and sessions stay
//! either way.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;
use tokio::sync::mpsc::WeakSender;
use tokio::sync::oneshot;

use crate::config::Config;
use crate::config::schema::{self, NftablesMode};
use crate::core::narrow::NarrowKinds;
use crate::enforce::backend::LeftOut;
use crate::enforce::rules::{Own, Rules, Special};
use crate::enforce::{Command, EnforceError, can_hold};

/// The ruleset of a configuration.
#[must_use]
pub fn rules(config: &Config, own: Own) -> Rules {
    Rules {
        config: schema::Nftables { enforce: config.nftables_enforces(), ..config.nftables.clone() },
        open: config.addresses.open.clone(),
        own,
        ports: config.narrows_ports(),
        capacity: config.lease.capacity,
        special: Special {
            doh: config.addresses.doh.clone(),
            local_discovery: config.addresses.local_discovery,
            // Elsewhere it means nothing, so that a change of it changes nothing.
            cgroup: if config.enforcer == "ebpf" { config.ebpf.cgroup.clone() } else { PathBuf::new() },
            resolver: config.dns.listen.iter().map(|at| SocketAddr::new(at.ip(), at.port())).collect(),
        },
    }
}

/// Lets pass what either lets pass, as far as one ruleset can.
fn either(old: &Rules, new: &Rules) -> Rules {
    // What isn't guarded any more goes at once, what is guarded from now on comes last.
    let (was, is) = (old.config.mode, new.config.mode);
    let off = [was, is].contains(&NftablesMode::Off);
    let hooks = if is == was || was == NftablesMode::Both || off { &new.config } else { &old.config };
    // Where nothing was guarded, the rules only count until they know what is leased.
    let enforce = old.config.enforce && new.config.enforce && was != NftablesMode::Off;
    // What is open for an application that goes is closed before its sets are.
    let goes = |one: &&schema::Application| new.config.application.iter().all(|other| other.name != one.name);
    let going = old.config.application.iter().filter(goes).cloned();
    let application = new.config.application.iter().cloned().chain(going).collect();
    Rules {
        config: schema::Nftables { enforce, application, ..hooks.clone() },
        open: [old.open.as_slice(), &new.open].concat(),
        special: Special {
            doh: new.special.doh.iter().filter(|net| old.special.doh.contains(net)).copied().collect(),
            local_discovery: old.special.local_discovery || new.special.local_discovery,
            cgroup: old.special.cgroup.clone(),
            ..new.special.clone()
        },
        ports: old.ports || new.ports,
        ..new.clone()
    }
}

/// The driver of this host's packet filter, and what it was told last; the guard's own traffic apart.
#[derive(Debug)]
pub struct Packets {
    /// As in `enforcer`.
    name: String,
    driver: WeakSender<Command>,
    /// What it can hold apart.
    narrow: NarrowKinds,
    rules: Mutex<Rules>,
}

impl Packets {
    /// Of a driver that has put the rules of this configuration in force.
    #[must_use]
    pub fn new(driver: WeakSender<Command>, config: &Config, narrow: NarrowKinds) -> Self {
        crate::sys::keep_marking();
        Self { name: config.enforcer.clone(), driver, narrow, rules: Mutex::new(rules(config, Own::default())) }
    }

    fn told(&self) -> Rules {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the kernel has them. `None`: it has them already.
    async fn tell(&self, mut rules: Rules, own: &Own) -> Result<Option<Vec<LeftOut>>, EnforceError> {
        let told = self.told();
        // The core goes on with ports until it ends.
        rules.ports |= told.ports;
        if told == rules {
            return Ok(None);
        }
        let whole = Box::new(Rules { own: own.clone(), ..rules.clone() });
        let left_out = tell(Some(&self.driver), |done| Command::Rules { rules: whole, done }).await?;
        *self.rules.lock().unwrap_or_else(PoisonError::into_inner) = rules;
        Ok(Some(left_out))
    }
}

/// How enforcers are told. The channels are held by the core alone, so that they close with it.
#[derive(Debug)]
pub struct Switches {
    /// The packet filter's driver, when there is one.
    pub packets: Option<Packets>,
    /// The BGP speaker, when there is one.
    pub bgp: Option<WeakSender<Command>>,
    /// Whether it refuses what it denies.
    pub packets_block: Arc<AtomicBool>,
    /// The guard's own traffic as the kernel lets it pass.
    own: tokio::sync::Mutex<Own>,
    /// What the kernel can't do of the packet filter's rules.
    left_out: Mutex<Vec<LeftOut>>,
}

impl Switches {
    /// As the daemon starts: `own` is what the ruleset was installed with.
    #[must_use]
    pub fn new(config: &Config, mut own: Own, left_out: Vec<LeftOut>) -> Self {
        let packets_block = Arc::new(AtomicBool::new(config.nftables_enforces()));
        own.traffic.sort_unstable();
        own.traffic.dedup();
        own.listeners.sort_unstable();
        own.listeners.dedup();
        let left_out = Mutex::new(left_out);
        Self { packets: None, bgp: None, packets_block, own: tokio::sync::Mutex::new(own), left_out }
    }

    /// Changes what the guard's own traffic is, and waits until the kernel lets it pass: what is new before it is used, what is old once it isn't any more.
    ///
    /// # Errors
    /// Why all is as it was.
    pub async fn own(&self, change: impl FnOnce(&mut Own)) -> Result<(), EnforceError> {
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
        if let Some(packets) = &self.packets {
            tell(Some(&packets.driver), command).await.map_err(|error| error.of(&packets.name))?;
        }
        *own = wanted;
        Ok(())
    }

    /// What the kernel can't do of the packet filter's rules.
    #[must_use]
    pub fn left_out(&self) -> Vec<LeftOut> {
        self.left_out.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets pass what the configuration in force and this one let pass. Waits until the kernel does.
    ///
    /// # Errors
    /// Why the old rules stay.
    pub async fn packets_open(&self, config: &Config) -> Result<(), EnforceError> {
        let Some(packets) = &self.packets else { return Ok(()) };
        can_hold(&packets.name, packets.narrow, config)?;
        self.packets(packets, either(&packets.told(), &rules(config, Own::default()))).await
    }

    /// Lets pass what this configuration alone lets pass. Waits until the kernel does.
    ///
    /// # Errors
    /// Why the former rules stay.
    pub async fn packets_close(&self, config: &Config) -> Result<(), EnforceError> {
        let Some(packets) = &self.packets else { return Ok(()) };
        self.packets(packets, rules(config, Own::default())).await
    }

    async fn packets(&self, packets: &Packets, rules: Rules) -> Result<(), EnforceError> {
        let enforce = rules.config.enforce && rules.config.mode != NftablesMode::Off;
        let own = self.own.lock().await;
        let left_out = packets.tell(rules, &own).await.map_err(|error| error.of(&packets.name))?;
        if let Some(left_out) = left_out {
            *self.left_out.lock().unwrap_or_else(PoisonError::into_inner) = left_out;
        }
        self.packets_block.store(enforce, Ordering::Relaxed);
        Ok(())
    }

    /// The prefixes that are announced without a lease, where any are.
    ///
    /// # Errors
    /// The speaker has stopped.
    pub async fn open(&self, mut open: Vec<IpNet>) -> Result<(), EnforceError> {
        open.sort_unstable();
        open.dedup();
        let command = |done| Command::Open { open, done };
        tell(self.bgp.as_ref(), command).await.map_err(|error| error.of("bgp"))
    }

    /// Whether prefixes are announced without a lease.
    ///
    /// # Errors
    /// The speaker has stopped.
    pub async fn bgp(&self, enforce: bool) -> Result<(), EnforceError> {
        tell(self.bgp.as_ref(), blocks(enforce)).await.map_err(|error| error.of("bgp"))
    }
}

fn blocks(enforce: bool) -> impl FnOnce(oneshot::Sender<Result<(), EnforceError>>) -> Command {
    move |done| Command::Enforce { enforce, done }
}

async fn tell<T: Default>(
    driver: Option<&WeakSender<Command>>,
    command: impl FnOnce(oneshot::Sender<Result<T, EnforceError>>) -> Command,
) -> Result<T, EnforceError> {
    let Some(driver) = driver else { return Ok(T::default()) };
    let (done, outcome) = oneshot::channel();
    let driver = driver.upgrade().ok_or(EnforceError::Stopped)?;
    driver.send(command(done)).await.map_err(|_| EnforceError::Stopped)?;
    drop(driver);
    outcome.await.map_err(|_| EnforceError::Stopped)?
}
