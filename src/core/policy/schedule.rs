//! When groups and lists are in force: hours of the week in local time.
//!
//! A window counts by what the clock on the wall shows. Where it is put back, an hour that comes twice counts twice; where it is put
//! forward, what lies in the hour that is left out doesn't come that day.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil::{DateTime, Time, Weekday};
use jiff::tz::TimeZone;

use super::Table;
use crate::config::schema::Config;

/// Minutes of a day.
const DAY: u16 = 24 * 60;
/// Days as they are written, Monday first.
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
/// Most windows of one schedule.
pub const MOST_WINDOWS: usize = 64;

/// "mon-fri 08:00-17:00": hours of some days. One that ends before it starts goes on into the next day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    text: String,
    /// One bit a day, Monday's the lowest.
    days: u8,
    start: u16,
    end: u16,
}

impl Window {
    fn holds(&self, at: DateTime) -> bool {
        let minute = u16::from(at.hour().unsigned_abs()) * 60 + u16::from(at.minute().unsigned_abs());
        let today = at.weekday();
        let on = |day: Weekday| self.days & (1 << day.to_monday_zero_offset()) != 0;
        if self.start < self.end {
            on(today) && (self.start..self.end).contains(&minute)
        } else {
            on(today) && minute >= self.start || on(today.previous()) && minute < self.end
        }
    }
}

impl FromStr for Window {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| {
            format!(
                "\"{text}\": {what}; write days and hours, as in \"mon-fri 08:00-17:00\", \"sat,sun 22:00-06:00\", \"12:00-13:30\""
            )
        };
        let mut words = text.split_whitespace();
        let (days, hours) = match (words.next(), words.next(), words.next()) {
            (Some(days), Some(hours), None) => (Some(days), Some(hours)),
            (Some(one), None, None) if one.contains(':') => (None, Some(one)),
            (Some(days), None, None) => (Some(days), None),
            _ => return Err(wrong("not a window of time")),
        };
        let days = days.map_or(Ok(0x7f), days_of).map_err(|error| wrong(&error))?;
        let (start, end) = hours.map_or(Ok((0, DAY)), hours_of).map_err(|error| wrong(&error))?;
        Ok(Self { text: text.to_owned(), days, start, end })
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// "mon-fri,sun"; "sat-mon" goes over the week's end.
fn days_of(text: &str) -> Result<u8, String> {
    let day = |word: &str| {
        let place = DAYS.iter().position(|day| day.eq_ignore_ascii_case(word));
        place.ok_or_else(|| format!("\"{word}\" is none of {}", DAYS.join(", ")))
    };
    let mut days = 0;
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (mut at, last) = (day(first)?, day(last)?);
        days |= 1 << at;
        while at != last {
            at = (at + 1) % DAYS.len();
            days |= 1 << at;
        }
    }
    Ok(days)
}

fn hours_of(text: &str) -> Result<(u16, u16), String> {
    let (start, end) = text.split_once('-').ok_or_else(|| format!("\"{text}\" has no end"))?;
    let (start, end) = (minute_of(start)?, minute_of(end)?);
    if start == DAY {
        return Err("a day ends at 24:00, nothing starts there".to_owned());
    }
    // "22:00-00:00" is until midnight.
    let end = if end == 0 { DAY } else { end };
    if start == end {
        return Err("it ends when it starts (a whole day is 00:00-24:00)".to_owned());
    }
    Ok((start, end))
}

/// "08:30", "8:30", "24:00".
fn minute_of(text: &str) -> Result<u16, String> {
    let number = |digits: &str| {
        let are_digits = (1..=2).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_digit());
        digits.parse::<u16>().ok().filter(|_| are_digits)
    };
    let parts = text.split_once(':').and_then(|(hour, minute)| Some((number(hour)?, number(minute)?)));
    let minute = parts.filter(|(hour, minute)| *minute < 60 && (*hour < 24 || (*hour, *minute) == (24, 0)));
    minute.map(|(hour, minute)| hour * 60 + minute).ok_or_else(|| format!("\"{text}\" is no time of a day"))
}

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
        for minute in windows.iter().flat_map(|window| [window.start, window.end]) {
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
