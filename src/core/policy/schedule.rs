//! When groups and lists are in force: hours of the week in local time.
//!
//! A window counts by what the clock on the wall shows. Where it is put back, an hour that comes twice counts twice; where it is put
//! forward, what lies in the hour that is left out doesn't come that day.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;

use super::Table;
use crate::config::schema::Config;
use crate::config::window::Window;

/// Most windows of one schedule.
pub const MOST_WINDOWS: usize = 64;

/// Whether a schedule is in force; one without windows always is.
#[must_use]
pub fn in_force(windows: &[Window], zone: &TimeZone, at: Timestamp) -> bool {
    let local = zone.to_datetime(at);
    windows.is_empty() || windows.iter().any(|window| window.holds(local))
}

/// When that changes the next time; `None`: not within the next days, a week long.
#[must_use]
pub fn next_change(windows: &[Window], zone: &TimeZone, at: Timestamp) -> Option<Timestamp> {
    let now = in_force(windows, zone, at);
    let mut moments = BTreeSet::new();
    let mut date = zone.to_datetime(at).date().yesterday().ok()?;
    for _ in 0..10 {
        for minute in windows.iter().flat_map(Window::bounds) {
            // The end of a day is the start of the next, which is looked at as well.
            let (Ok(hour), Ok(minute)) = (i8::try_from(minute / 60 % 24), i8::try_from(minute % 60)) else { continue };
            let local = DateTime::from_parts(date, Time::constant(hour, minute, 0, 0));
            let twice = || zone.to_ambiguous_timestamp(local);
            moments.extend([twice().earlier(), twice().later()].into_iter().flatten());
        }
        date = date.tomorrow().ok()?;
    }
    let last = moments.last().copied()?;
    // Between these nothing changes: where a clock is set, it may skip what is no boundary itself.
    let set = zone.following(at).map(|transition| transition.timestamp()).take_while(|moment| *moment <= last);
    moments.extend(set);
    moments.into_iter().find(|moment| *moment > at && in_force(windows, zone, *moment) != now)
}

/// Which groups and lists of a configuration are out of their hours, by place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hours {
    groups: BTreeSet<usize>,
    lists: BTreeSet<usize>,
}

impl Hours {
    /// At a moment.
    #[must_use]
    pub fn at(config: &Config, zone: &TimeZone, at: Timestamp) -> Self {
        fn out<'a>(all: impl Iterator<Item = &'a Vec<Window>>, is_out: impl Fn(&[Window]) -> bool) -> BTreeSet<usize> {
            all.enumerate().filter(|(_, windows)| is_out(windows)).map(|(place, _)| place).collect()
        }
        let is_out = |windows: &[Window]| !in_force(windows, zone, at);
        Self {
            groups: out(config.policy.group.iter().map(|group| &group.schedule), is_out),
            lists: out(config.policy.list.iter().map(|list| &list.schedule), is_out),
        }
    }

    /// Groups that nobody belongs to now.
    pub fn groups(&self) -> impl Iterator<Item = usize> {
        self.groups.iter().copied()
    }

    /// Lists that say nothing now.
    pub fn lists(&self) -> impl Iterator<Item = usize> {
        self.lists.iter().copied()
    }

    /// The configuration as it counts now: a group that is out of its hours has no clients. Places stay.
    #[must_use]
    pub fn narrow<'a>(&self, config: &'a Config) -> Cow<'a, Config> {
        if self.groups.is_empty() {
            return Cow::Borrowed(config);
        }
        let mut config = config.clone();
        for place in &self.groups {
            if let Some(group) = config.policy.group.get_mut(*place) {
                group.clients.clear();
                group.certificate.clear();
                group.doh_path = None;
            }
        }
        Cow::Owned(config)
    }

    /// Likewise, the tables of its lists.
    #[must_use]
    pub fn of_lists(&self, mut tables: Vec<Arc<Table>>) -> Vec<Arc<Table>> {
        for place in &self.lists {
            if let Some(table) = tables.get_mut(*place) {
                *table = Arc::new(Table::empty());
            }
        }
        tables
    }
}

#[cfg(test)]
mod tests;
