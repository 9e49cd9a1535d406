//! Syslog (RFC 5424), as datagrams.

use std::collections::VecDeque;
use std::io;
use std::sync::OnceLock;

use socket2::{Socket, Type};

use super::{Sink, connect};
use crate::config::value::Target;

/// daemon (3), informational (6).
const PRIORITY: u8 = 3 * 8 + 6;

/// The header, and the question behind it.
pub fn message(time: u64, json: Vec<u8>) -> Vec<u8> {
    static HOST: OnceLock<String> = OnceLock::new();
    let host = HOST.get_or_init(host);
    let head = format!("<{PRIORITY}>1 {} {host} destguard {} query - ", timestamp(time), std::process::id());
    [head.as_bytes(), &json].concat()
}

/// This host's name, or "-".
pub fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name.trim().chars().filter(char::is_ascii_graphic).take(255).collect();
    if name.is_empty() { "-".to_owned() } else { name }
}

/// Milliseconds since 1970 as RFC 3339 has them.
fn timestamp(time: u64) -> String {
    let (seconds, millis) = (time / 1000, time % 1000);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let (year, month, day) = date(seconds / 86_400);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// Year, month and day of a number of days since 1970, by the Gregorian calendar: years begin in March, so that the odd day comes last.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days.saturating_add(719_468);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 { (year, month + 3) } else { (year + 1, month - 9) };
    (year + era * 400, month, day)
}

/// The way to syslog's daemon, connected with the first line that is written.
pub struct Syslog {
    target: Target,
    mark: Option<u32>,
    socket: Option<Socket>,
}

impl Syslog {
    /// Connected with the first write.
    pub fn new(target: Target, mark: Option<u32>) -> Self {
        Self { target, mark, socket: None }
    }
}

impl Sink for Syslog {
    fn write(&mut self, items: &mut VecDeque<Vec<u8>>) -> io::Result<()> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => connect(&self.target, Type::DGRAM, self.mark)?,
        };
        while let Some(item) = items.front() {
            socket.send(item)?;
            items.pop_front();
        }
        self.socket = Some(socket);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (time, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_001, "2024-02-29T23:59:59.001Z"),
            (1_709_251_200_000, "2024-03-01T00:00:00.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (1_798_761_599_000, "2026-12-31T23:59:59.000Z"),
        ] {
            assert_eq!(timestamp(time), text);
        }
    }
}
