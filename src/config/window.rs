//! Hours of the week, as the `schedule` of groups and lists is written.

use std::fmt;
use std::str::FromStr;

use jiff::civil::{DateTime, Weekday};

/// Minutes of a day.
const DAY: u16 = 24 * 60;
/// Days as they are written, Monday first.
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Why a text is no [`Window`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{text}\": {source}; write days and hours, as in \"mon-fri 08:00-17:00\", \"sat,sun 22:00-06:00\", \"12:00-13:30\""
)]
pub struct WindowError {
    text: String,
    source: Unread,
}

/// The part of a window that can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Unread {
    #[error("not a window of time")]
    Shape,
    #[error("\"{word}\" is none of {}", DAYS.join(", "))]
    Day { word: String },
    #[error("\"{0}\" has no end")]
    NoEnd(String),
    #[error("a day ends at 24:00, nothing starts there")]
    Late,
    #[error("it ends when it starts (a whole day is 00:00-24:00)")]
    Empty,
    #[error("\"{0}\" is no time of a day")]
    Time(String),
}

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
    /// Whether it holds at this time on the wall.
    #[must_use]
    pub fn holds(&self, at: DateTime) -> bool {
        let minute = u16::from(at.hour().unsigned_abs()) * 60 + u16::from(at.minute().unsigned_abs());
        let today = at.weekday();
        let on = |day: Weekday| self.days & (1 << day.to_monday_zero_offset()) != 0;
        if self.start < self.end {
            on(today) && (self.start..self.end).contains(&minute)
        } else {
            on(today) && minute >= self.start || on(today.previous()) && minute < self.end
        }
    }

    /// Minutes of a day at which it starts and ends.
    #[must_use]
    pub fn bounds(&self) -> [u16; 2] {
        [self.start, self.end]
    }
}

impl FromStr for Window {
    type Err = WindowError;

    fn from_str(text: &str) -> Result<Self, WindowError> {
        let wrong = |source| WindowError { text: text.to_owned(), source };
        let mut words = text.split_whitespace();
        let (days, hours) = match (words.next(), words.next(), words.next()) {
            (Some(days), Some(hours), None) => (Some(days), Some(hours)),
            (Some(one), None, None) if one.contains(':') => (None, Some(one)),
            (Some(days), None, None) => (Some(days), None),
            _ => return Err(wrong(Unread::Shape)),
        };
        let days = days.map_or(Ok(0x7f), days_of).map_err(wrong)?;
        let (start, end) = hours.map_or(Ok((0, DAY)), hours_of).map_err(wrong)?;
        Ok(Self { text: text.to_owned(), days, start, end })
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// "mon-fri,sun"; "sat-mon" goes over the week's end.
fn days_of(text: &str) -> Result<u8, Unread> {
    let day = |word: &str| {
        let place = DAYS.iter().position(|day| day.eq_ignore_ascii_case(word));
        place.ok_or_else(|| Unread::Day { word: word.to_owned() })
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

fn hours_of(text: &str) -> Result<(u16, u16), Unread> {
    let (start, end) = text.split_once('-').ok_or_else(|| Unread::NoEnd(text.to_owned()))?;
    let (start, end) = (minute_of(start)?, minute_of(end)?);
    if start == DAY {
        return Err(Unread::Late);
    }
    // "22:00-00:00" is until midnight.
    let end = if end == 0 { DAY } else { end };
    if start == end {
        return Err(Unread::Empty);
    }
    Ok((start, end))
}

/// "08:30", "8:30", "24:00".
fn minute_of(text: &str) -> Result<u16, Unread> {
    let number = |digits: &str| {
        let are_digits = (1..=2).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_digit());
        digits.parse::<u16>().ok().filter(|_| are_digits)
    };
    let parts = text.split_once(':').and_then(|(hour, minute)| Some((number(hour)?, number(minute)?)));
    let minute = parts.filter(|(hour, minute)| *minute < 60 && (*hour < 24 || (*hour, *minute) == (24, 0)));
    minute.map(|(hour, minute)| hour * 60 + minute).ok_or_else(|| Unread::Time(text.to_owned()))
}
