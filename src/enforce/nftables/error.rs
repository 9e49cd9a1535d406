//! What can go wrong between the guard and nf_tables, split by what the operator (or the driver) can do about it.

use std::io;

/// An error of the nftables enforcer.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// `nft` is at none of the usual places.
    #[error("nft was not found at {looked_at}: install the package \"nftables\"")]
    NftMissing {
        /// The paths that were tried.
        looked_at: String,
    },
    /// `nft` is older than what the ruleset needs.
    #[error("{path} is version {found}, at least {needed} is needed")]
    NftTooOld {
        /// Where it is.
        path: String,
        /// Its own word.
        found: String,
        /// The least that will do.
        needed: String,
    },
    /// `nft` could not be run, refused the ruleset, or said something that is not its JSON.
    #[error("nft failed while {doing}: {reason}")]
    Nft {
        /// What it was asked.
        doing: &'static str,
        /// Its standard error, shortened.
        reason: String,
    },
    /// The kernel lacks what the ruleset can't do without.
    #[error("this kernel can't do what nftables.mode needs: {what} is missing")]
    Unsupported {
        /// What, with the names of the kernel's modules.
        what: &'static str,
    },
    /// Not enough privilege.
    #[error("no permission to change nftables: CAP_NET_ADMIN is needed")]
    Permission,
    /// What the kernel holds after the installation is not what was asked for.
    #[error("nftables holds something else than what was installed: {what}")]
    ReadBack {
        /// The chain, set or rule that differs, and how.
        what: String,
    },
    /// The table or a set of it is gone: somebody else removed it.
    #[error("the table inet destguard, or a set in it, is gone")]
    Gone,
    /// A set is full.
    #[error("the nftables lease set is full")]
    Full,
    /// The netlink socket failed.
    #[error("netlink: {doing}: {source}")]
    Netlink {
        /// What was tried.
        doing: &'static str,
        /// The system's word.
        source: io::Error,
    },
    /// The kernel refused a message for a reason that none of the above names.
    #[error("the kernel refused {doing}: {reason}")]
    Refused {
        /// What was tried.
        doing: &'static str,
        /// errno as text, and the kernel's extended word where it gave one.
        reason: String,
    },
    /// The kernel answered with something that is not netlink.
    #[error("a netlink reply can't be read: {0}")]
    Malformed(&'static str),
}
