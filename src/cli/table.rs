//! Aligned columns, durations, and colours where a person looks on.

use std::io::IsTerminal;

use comfy_table::ContentArrangement;
use comfy_table::presets::NOTHING;

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
    /// Something is wrong.
    Bad,
    /// The word is a heading.
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
        let mut table = comfy_table::Table::new();
        table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.add_rows(&self.rows);
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let mut out = String::new();
        for (index, line) in table.lines().enumerate() {
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

/// A number with commas between thousands, as "1,204".
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
    }

    #[test]
    fn columns_align_and_foreign_text_is_harmless() {
        let mut table = Table::new(&["name", "state"]);
        table.row(["a".to_owned(), "x\x1b[31m\n".to_owned()]);
        table.row(["longer".to_owned(), "y".to_owned()]);
        assert_eq!(table.render(false), "name    state\na       x?[31m?\nlonger  y\n");
        table.row(["東京".to_owned(), "wide".to_owned()]);
        assert!(table.render(false).ends_with("longer  y\n東京    wide\n"), "as wide as it is shown");
    }
}
