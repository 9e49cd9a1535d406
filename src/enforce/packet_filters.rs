//! All that guards the packets of this host, in one list: the one of a name, and what any of them has left in the kernel.

use super::EnforceError;
use super::backend::PacketBackend;
#[cfg(feature = "ebpf")]
use super::ebpf;
use super::{iptables, nftables};

/// All of them. A guard uses one at a time.
pub const PACKETS: &[PacketBackend] = &[
    nftables::BACKEND,
    iptables::BACKEND,
    #[cfg(feature = "ebpf")]
    ebpf::backend::BACKEND,
];

/// The one of this name.
#[must_use]
pub fn named(name: &str) -> Option<&'static PacketBackend> {
    PACKETS.iter().find(|backend| backend.name == name)
}

/// What stands in the kernel and isn't `used`'s: of an earlier configuration. As far as this process may know.
pub fn left_behind(used: Option<&str>) -> impl Iterator<Item = &'static PacketBackend> {
    PACKETS.iter().filter(move |backend| used != Some(backend.name)).filter(|backend| match (backend.is_there)() {
        Ok(there) => there,
        Err(error) => {
            tracing::debug!(%error, backend = backend.name, "whether an earlier run left anything can't be known");
            false
        }
    })
}

/// Removes whatever any of them left, where no driver runs: the only way in which the guard opens the host. Blocks.
///
/// # Errors
/// The first that could not be removed.
pub fn remove_all() -> Result<Vec<&'static PacketBackend>, EnforceError> {
    let mut removed = Vec::new();
    for backend in PACKETS {
        let there = (backend.is_there)()?;
        (backend.remove)()?;
        removed.extend(there.then_some(backend));
    }
    Ok(removed)
}
