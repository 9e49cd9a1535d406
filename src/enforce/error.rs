//! Why an enforcer did not do as it was told, whichever it is.

use super::bgp::BgpError;
use super::iptables::ipset::SetError;
use super::iptables::program::ProgramError;
use super::nftables::error::NftError;
use super::timed::TableError;

/// Why an enforcer is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum EnforceError {
    /// The configuration opens less than an address, and this enforcer holds whole addresses alone.
    #[error("{name}: it can't open {what}")]
    CantHold {
        /// The enforcer's name, as in `status`.
        name: String,
        /// What it can't open, with the keys that ask for it.
        what: &'static str,
    },
    /// nftables, its kernel or its program.
    #[error(transparent)]
    Nftables(#[from] NftError),
    /// A table of entries with times of their own: ipsets, or those of eBPF.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A set of iptables.
    #[error(transparent)]
    Set(#[from] SetError),
    /// The programs of iptables.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The eBPF program.
    #[cfg(feature = "ebpf")]
    #[error(transparent)]
    Ebpf(#[from] super::ebpf::error::Error),
    /// The BGP speaker.
    #[error(transparent)]
    Bgp(#[from] BgpError),
    /// The table of nftables isn't as it was made, and must be mended before it is changed.
    #[error("the table inet destguard is being repaired")]
    Repairing,
    /// The speaker can't take another configuration now.
    #[error("its sessions are being changed, or it has ended")]
    Changing,
    /// The driver's task or thread has ended.
    #[error("it has stopped")]
    Stopped,
    /// One of these, and whose it is.
    #[error("{name}: {source}")]
    Of {
        /// The enforcer's name, or the section that it has its configuration from.
        name: String,
        /// What it said.
        source: Box<EnforceError>,
    },
}

impl EnforceError {
    /// The same, as said by the enforcer of this name.
    #[must_use]
    pub fn of(self, name: &str) -> Self {
        Self::Of { name: name.to_owned(), source: Box::new(self) }
    }
}
