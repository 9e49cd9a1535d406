//! What the packets of this host are judged by, as the configuration says it; every packet filter makes its own rules of it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;

use crate::config::schema::Nftables;

/// Transport protocol of the guard's own traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// The guard's traffic goes over TCP.
    Tcp,
    /// The guard's traffic goes over UDP.
    Udp,
}

/// One place that the guard itself must reach: an upstream resolver or a BGP peer. Packets reach it when they bear
/// [`crate::sys::MARK`] and go to exactly this address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnTraffic {
    /// The address that the packets go to.
    pub address: IpAddr,
    /// Protocol. An upstream asked over UDP needs an entry for TCP too (truncated answers).
    pub transport: Transport,
    /// The port that the packets go to.
    pub port: u16,
}

/// All traffic of the guard itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// What it connects to.
    pub traffic: Vec<OwnTraffic>,
    /// The ports that it answers from: its replies pass also where nothing is tracked.
    pub listeners: Vec<(Transport, u16)>,
}

/// Everything of the configuration that the ruleset is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// `[nftables]`; `enforce` is whether it blocks, also by the guard's mode.
    pub config: Nftables,
    /// Prefixes that are open without a lease (`addresses.open`).
    pub open: Vec<IpNet>,
    /// Of the guard itself.
    pub own: Own,
    /// Whether names have ports, so that leases can be for single ones.
    pub ports: bool,
    /// `lease.capacity`. The kernel's sets grow to it and never shrink while they are in use.
    pub capacity: usize,
    /// Of single services.
    pub special: Special,
}

/// Services that are judged otherwise than by leases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Special {
    /// Resolvers whose HTTPS is refused, lease or not (`addresses.doh`).
    pub doh: Vec<IpNet>,
    /// Whether mDNS, LLMNR and SSDP may pass (`addresses.local_discovery`).
    pub local_discovery: bool,
    /// `ebpf.cgroup`; only for the enforcer of that name.
    pub cgroup: PathBuf,
    /// Where the guard is asked: `dns.listen`, as the file has it.
    pub resolver: Vec<SocketAddr>,
}
