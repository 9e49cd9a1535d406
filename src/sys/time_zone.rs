//! Time zones, from this host's own database.

use std::sync::Once;

use jiff::tz::TimeZone;

/// It is asked for every second.
static SAID: Once = Once::new();

/// The zone of that name; without one the host's, and UTC where the host doesn't say.
///
/// # Errors
/// The host knows none of that name.
pub fn named(name: Option<&str>) -> Result<TimeZone, String> {
    match name {
        Some(name) => TimeZone::get(name).map_err(|_| {
            format!("this host knows no time zone \"{name}\"; write one of /usr/share/zoneinfo (package tzdata), as in \"Europe/Berlin\"")
        }),
        None => Ok(TimeZone::try_system().unwrap_or_else(|error| {
            SAID.call_once(|| {
                tracing::warn!(%error, "this host's time zone can't be read: schedules go by UTC; write policy.timezone");
            });
            TimeZone::UTC
        })),
    }
}
