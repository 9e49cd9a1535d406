//! Gives up capabilities: all but those that are needed, for `nft` too, and no program that is started can gain any (`no_new_privs`).
//!
//! Before the first thread is started: each has its own.

use std::collections::HashSet;

use caps::{CapSet, Capability};

/// Why privileges could not be given up.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// The kernel's word on capabilities.
    #[error("capabilities can't be given up: {0}")]
    Capabilities(#[from] caps::errors::CapsError),
    /// The kernel's word on `no_new_privs`.
    #[error("no_new_privs can't be set: {0}")]
    NoNewPrivileges(std::io::Error),
}

/// Gives up all but `needed`, for this thread and those it starts from now on. What it doesn't have to begin with stays missing.
///
/// # Errors
/// [`PrivilegeError`].
pub fn give_up(needed: &HashSet<Capability>) -> Result<(), PrivilegeError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    let kept: HashSet<Capability> = permitted.intersection(needed).copied().collect();
    if permitted.contains(&Capability::CAP_SETPCAP) {
        caps::raise(None, CapSet::Effective, Capability::CAP_SETPCAP)?;
        for capability in caps::read(None, CapSet::Bounding)?.difference(&kept) {
            caps::drop(None, CapSet::Bounding, *capability)?;
        }
    }
    // Ambient ones must be inheritable: what `nft` needs it gets so, where the daemon isn't root.
    caps::clear(None, CapSet::Ambient)?;
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Inheritable, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)?;
    caps::set(None, CapSet::Ambient, &kept)?;
    no_new_privileges()
}

/// The user this process runs as.
#[must_use]
#[allow(unsafe_code)]
pub fn user() -> u32 {
    // SAFETY: geteuid(2) takes nothing and can't fail.
    unsafe { libc::geteuid() }
}

#[allow(unsafe_code)]
fn no_new_privileges() -> Result<(), PrivilegeError> {
    // SAFETY: prctl(2) takes no pointer for this option.
    let set = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    if set == 0 { Ok(()) } else { Err(PrivilegeError::NoNewPrivileges(std::io::Error::last_os_error())) }
}
