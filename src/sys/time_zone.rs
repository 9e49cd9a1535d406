//! Time zones, from this host's own database, and the time as it is shown to people.

use std::sync::{LazyLock, Once};

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// The host has no zone of the name that `policy.timezone` gives.
#[derive(Debug, thiserror::Error)]
#[error(
    "this host knows no time zone \"{0}\"; write one of /usr/share/zoneinfo (package tzdata), as in \"Europe/Berlin\""
)]
pub struct UnknownZone(String);

/// It is asked for every second.
static SAID: Once = Once::new();

/// The zone of that name; without one the host's, and UTC where the host doesn't say.
///
/// # Errors
/// [`UnknownZone`].
pub fn named(name: Option<&str>) -> Result<TimeZone, UnknownZone> {
    match name {
        Some(name) => TimeZone::get(name).map_err(|_| UnknownZone(name.to_owned())),
        None => Ok(TimeZone::try_system().unwrap_or_else(|error| {
            SAID.call_once(|| {
                tracing::warn!(%error, "this host's time zone can't be read: schedules go by UTC; write policy.timezone");
            });
            TimeZone::UTC
        })),
    }
}

/// This host's zone.
static ZONE: LazyLock<TimeZone> = LazyLock::new(TimeZone::system);

/// Seconds since 1970 as "2026-01-31 13:34:56+01:00", in this host's time zone.
#[must_use]
pub fn time(seconds: u64) -> String {
    at(seconds, "%F %T%:z", &ZONE)
}

/// The same with milliseconds, of milliseconds since 1970.
#[must_use]
pub fn with_millis(millis: u64) -> String {
    let seconds = millis / 1000;
    format!("{}.{:03}{}", at(seconds, "%F %T", &ZONE), millis % 1000, at(seconds, "%:z", &ZONE))
}

fn at(seconds: u64, format: &str, zone: &TimeZone) -> String {
    let moment = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    // Beyond the year 9999: nobody's clock.
    let moment = moment.unwrap_or(Timestamp::MAX);
    moment.to_zoned_datetime(zone.clone()).strftime(format).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_with_their_offsets() {
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let shown = |seconds, zone: &TimeZone| at(seconds, "%F %T%:z", zone);
        assert_eq!(shown(0, &TimeZone::UTC), "1970-01-01 00:00:00+00:00");
        assert_eq!(shown(951_782_400, &TimeZone::UTC), "2000-02-29 00:00:00+00:00");
        assert_eq!(shown(1_795_444_245, &berlin), "2026-11-23 15:30:45+01:00");
        assert_eq!(shown(1_784_000_000, &berlin), "2026-07-14 05:33:20+02:00");
        assert!(shown(u64::MAX, &berlin).starts_with("9999-12-3"));
    }
}
