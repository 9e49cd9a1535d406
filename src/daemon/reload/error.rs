//! Why a configuration is not in force.

use crate::config::community::CommunityError;
use crate::control::access::AccessError;
use crate::core_task::Stopped;
use crate::daemon::listening::ListenError;
use crate::daemon::rules::RulesError;
use crate::dns::DnsError;
use crate::enforce::EnforceError;
use crate::sys::interfaces::InterfacesError;
use crate::sys::time_zone::UnknownZone;

/// Why all stays as it was.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The thread that reads the lists.
    #[error("reading the lists failed: {0}")]
    Reading(#[from] tokio::task::JoinError),
    /// Lists and zones, each with what is wrong with it.
    #[error("{}", .0.join("\n"))]
    Lists(Vec<String>),
    /// They have no common form.
    #[error("the configurations can't be compared: {0}")]
    Comparing(#[from] serde_json::Error),
    /// What the resolver needs can't be had.
    #[error(transparent)]
    Dns(#[from] DnsError),
    /// The daemon stops.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// The kernel, which held no lease before, doesn't hold them.
    #[error("nftables: the kernel doesn't hold the leases in time")]
    Unheld,
    /// Certificates and tokens of the control interface.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// A community of a group.
    #[error(transparent)]
    Community(#[from] CommunityError),
    /// An enforcer, with its name in front.
    #[error(transparent)]
    Enforcer(#[from] EnforceError),
    /// The packet filter refused the last step, and the way back isn't in force everywhere.
    #[error("{error}; what was in force before is not again, and is tried again until it is: {back}")]
    Halfway {
        /// Why the configuration isn't in force.
        error: EnforceError,
        /// Why the one before isn't.
        back: Box<ReloadError>,
    },
    /// The host's own interfaces.
    #[error(transparent)]
    Interfaces(#[from] InterfacesError),
    /// An address to listen at.
    #[error(transparent)]
    Listening(#[from] ListenError),
    /// Rules that can't be made of the configuration.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// A time zone of schedules.
    #[error(transparent)]
    Zone(#[from] UnknownZone),
}
