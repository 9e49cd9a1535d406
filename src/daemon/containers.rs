//! Says which containers and virtual machines on this host nobody guards.

use crate::config::Config;
use crate::config::schema::NftablesMode;
use crate::sys::interfaces::{self, CONTAINERS, is_like};

/// Bridges by their usual names that neither `nftables.bridges` nor `nftables.inside` names, on a host that guards itself.
#[must_use]
pub fn unguarded(config: &Config) -> Option<String> {
    let nftables = &config.nftables;
    if !matches!(nftables.mode, NftablesMode::Local | NftablesMode::Both) {
        return None;
    }
    let all = interfaces::like(&CONTAINERS.map(str::to_owned))
        .inspect_err(|error| tracing::debug!(%error, "this host's interfaces can't be listed"))
        .unwrap_or_default();
    let named =
        |name: &String| nftables.inside.contains(name) || nftables.bridges.iter().any(|pattern| is_like(name, pattern));
    let mut missing: Vec<String> = all.into_iter().map(|(name, _)| name).filter(|name| !named(name)).collect();
    missing.sort_unstable();
    let first = missing.first()?;
    let more = missing.len().saturating_sub(1);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    Some(format!(
        "containers or virtual machines on {first}{more} are not guarded: nftables.bridges names such bridges (docs/containers.md)"
    ))
}
