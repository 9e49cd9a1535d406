//! Aligned columns, durations, and colours where a person looks on.

use std::io::IsTerminal;

/// Whether to colour stdout: it is a terminal, and nobody said no (no-color.org).
#[must_use]
pub fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// How a word is to stand out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// On its way, or by choice.
    Warn,
    /// Wrong.
    Bad,
    /// A heading.
    Head,
}

/// `text` in `tone` when `colour` says so.
#[must_use]
pub fn paint(text: &str, tone: Tone, colour: bool) -> String {
    if !colour {
        return text.to_owned();
    }
    let code = match tone {
        Tone::Good => "32",
        Tone::Warn => "33",
        Tone::Bad => "31",
        Tone::Head => "1",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// What others wrote must not steer the terminal.
#[must_use]
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Rows under a heading, each column as wide as its widest cell.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With these column titles.
    #[must_use]
    pub fn new(titles: &[&str]) -> Self {
        Self { rows: vec![titles.iter().map(|title| (*title).to_owned()).collect()] }
    }

    /// Adds a row; its cells are cleaned.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| clean(&cell)).collect());
    }

    /// The lines, without spaces at their ends.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|at| {
                self.rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect();
        let mut out = String::new();
        for (index, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count()).saturating_add(2)));
            }
            let line = line.trim_end();
            if index == 0 {
                out.push_str(&paint(line, Tone::Head, colour));
            } else {
                out.push_str(line);
            }
            out.push('\n');
        }
        out
    }
}

/// "12s", "4m 10s", "3h 12m", "2d 4h".
#[must_use]
pub fn duration(seconds: u64) -> String {
    let pair = |big: u64, unit: &str, small: u64, small_unit: &str| {
        if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit} {small}{small_unit}") }
    };
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => pair(seconds / 60, "m", seconds % 60, "s"),
        3_600..86_400 => pair(seconds / 3_600, "h", seconds / 60 % 60, "m"),
        _ => pair(seconds / 86_400, "d", seconds / 3_600 % 24, "h"),
    }
}

/// Seconds since 1970 as "2026-01-31 12:34:56Z".
#[must_use]
pub fn time(seconds: u64) -> String {
    let (day, rest) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01, in years that begin in March, so that the leap day is the last.
    let day = day.saturating_add(719_468);
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day_of_month = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day_of_month:02} {:02}:{:02}:{:02}Z", rest / 3_600, rest / 60 % 60, rest % 60)
}

/// The same with milliseconds, of milliseconds since 1970.
#[must_use]
pub fn millis_of_day(millis: u64) -> String {
    let whole = time(millis / 1000);
    format!("{}.{:03}Z", whole.trim_end_matches('Z'), millis % 1000)
}

/// "1,204".
#[must_use]
pub fn number(value: impl TryInto<u64>) -> String {
    let digits = value.try_into().unwrap_or(u64::MAX).to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_read_well() {
        assert_eq!(
            [duration(0), duration(59), duration(250), duration(11_520), duration(172_800)],
            ["0s", "59s", "4m 10s", "3h 12m", "2d"]
        );
        assert_eq!(
            [number(0u64), number(999u64), number(1_000u64), number(1_234_567u64)],
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!(time(0), "1970-01-01 00:00:00Z");
        assert_eq!(time(951_782_400), "2000-02-29 00:00:00Z");
        assert_eq!(time(1_795_444_245), "2026-11-23 14:30:45Z");
    }

    #[test]
    fn columns_align_and_foreign_text_is_harmless() {
        let mut table = Table::new(&["name", "state"]);
        table.row(["a".to_owned(), "x\x1b[31m\n".to_owned()]);
        table.row(["longer".to_owned(), "y".to_owned()]);
        assert_eq!(table.render(false), "name    state\na       x?[31m?\nlonger  y\n");
    }
}
