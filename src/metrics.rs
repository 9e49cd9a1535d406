//! The registry that all metrics live in. Each module registers its own and documents them by their HELP text; the
//! prefix `destguard_` is added here.

use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

/// An empty registry with the common prefix.
#[must_use]
pub fn registry() -> Registry {
    Registry::with_prefix("destguard")
}

/// The OpenMetrics text of everything registered.
///
/// # Errors
/// Formatting failed; it never does on a `String`.
pub fn encode(registry: &Registry) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    text::encode(&mut out, registry)?;
    Ok(out)
}
