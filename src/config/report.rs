//! What is wrong with a file, as a user reads it: file:line:column, the line itself and a caret under the place.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// Longest part of a source line that is shown, in characters.
const SHOWN: usize = 120;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is legal and dangerous.
    Warning,
}

/// One thing to say about one place of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Whether it keeps the file from being used, as [`Severity`] says.
    pub severity: Severity,
    /// The file, as it was named.
    #[serde(serialize_with = "path_as_text")]
    pub file: Arc<PathBuf>,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The key, as in `bgp.peer[1].asn`; empty when the place belongs to no key.
    pub key: String,
    /// What is wrong, in one sentence.
    pub message: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// The line as it is shown (secrets masked).
    pub source: String,
    /// Where in `source` the carets stand, in characters.
    #[serde(skip)]
    pub caret: Range<usize>,
}

/// A finding that does not stop the daemon.
pub type Warning = Finding;

fn path_as_text<S: Serializer>(path: &Arc<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        if self.line == 0 {
            write!(f, "{}: {word}: {}", self.file.display(), self.message)?;
            if let Some(help) = &self.help {
                write!(f, "\n      = {help}")?;
            }
            return Ok(());
        }
        writeln!(f, "{}:{}:{}: {word}: {}", self.file.display(), self.line, self.column, self.message)?;
        writeln!(f, "{:>5} | {}", self.line, self.source)?;
        let carets = self.caret.len().max(1);
        write!(f, "      | {}{}", " ".repeat(self.caret.start), "^".repeat(carets))?;
        if let Some(help) = &self.help {
            write!(f, "\n      = {help}")?;
        }
        Ok(())
    }
}

/// Why a configuration was refused: every error, and the warnings beside them, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The file, as it was named.
    pub file: PathBuf,
    /// At least one error.
    pub findings: Vec<Finding>,
}

impl Report {
    /// A report about a file that can't be read at all.
    #[must_use]
    pub fn unreadable(file: &Path, message: String) -> Self {
        let finding = Finding {
            severity: Severity::Error,
            file: Arc::new(file.to_owned()),
            line: 0,
            column: 0,
            key: String::new(),
            message,
            help: None,
            source: String::new(),
            caret: 0..0,
        };
        Self { file: file.to_owned(), findings: vec![finding] }
    }

    /// The errors alone.
    pub fn errors(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.severity == Severity::Error)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{finding}\n")?;
        }
        f.write_str(&summary(&self.file, &self.findings))
    }
}

impl std::error::Error for Report {}

/// "destguard.toml: 2 errors, 1 warning".
#[must_use]
pub fn summary(file: &Path, findings: &[Finding]) -> String {
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    let warnings = findings.len().saturating_sub(errors);
    let count = |n: usize, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
    match (errors, warnings) {
        (0, 0) => format!("{}: no errors, no warnings", file.display()),
        (0, n) => format!("{}: no errors, {}", file.display(), count(n, "warning")),
        (n, 0) => format!("{}: {}", file.display(), count(n, "error")),
        (e, w) => format!("{}: {}, {}", file.display(), count(e, "error"), count(w, "warning")),
    }
}

/// What `check --json` prints.
#[derive(Serialize)]
struct Checked<'a> {
    version: u32,
    file: String,
    ok: bool,
    errors: Vec<&'a Finding>,
    warnings: Vec<&'a Finding>,
}

/// The findings as one JSON object: `version`, `file`, `ok`, `errors`, `warnings`.
///
/// # Errors
/// The serializer's; none occur on these types.
pub fn to_json(file: &Path, findings: &[Finding]) -> Result<String, serde_json::Error> {
    let (errors, warnings): (Vec<_>, Vec<_>) = findings.iter().partition(|finding| finding.severity == Severity::Error);
    serde_json::to_string_pretty(&Checked {
        version: 1,
        file: file.display().to_string(),
        ok: errors.is_empty(),
        errors,
        warnings,
    })
}

/// Turns octet offsets of a text into lines and columns, and cuts out the line.
#[derive(Debug)]
pub struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    /// Of a whole file.
    #[must_use]
    pub fn new(text: &'a str) -> Self {
        let starts = std::iter::once(0)
            .chain(text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at.saturating_add(1)))
            .collect();
        Self { text, starts }
    }

    /// Index of the line that holds `offset`.
    fn index(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset).saturating_sub(1)
    }

    fn line(&self, index: usize) -> (usize, &'a str) {
        let start = self.starts.get(index).copied().unwrap_or(self.text.len());
        let end = self.starts.get(index.saturating_add(1)).copied().unwrap_or(self.text.len());
        let line = self.text.get(start..end).unwrap_or("");
        (start, line.trim_end_matches(['\n', '\r']))
    }

    /// Line and column of an octet offset, both from 1; columns count characters.
    #[must_use]
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let index = self.index(offset.min(self.text.len()));
        let (start, line) = self.line(index);
        let within = offset.saturating_sub(start).min(line.len());
        let column = line.char_indices().filter(|(at, _)| *at < within).count();
        (index.saturating_add(1), column.saturating_add(1))
    }

    /// The line of `span.start` as it is shown, and where its carets stand. `secrets` are spans to mask.
    #[must_use]
    pub fn excerpt(&self, span: &Range<usize>, secrets: &[Range<usize>]) -> (String, Range<usize>) {
        let index = self.index(span.start.min(self.text.len()));
        let (start, line) = self.line(index);
        let value_at = secret_from(line);
        let mut shown = String::new();
        let (mut from, mut to) = (None, 0usize);
        for (place, (at, character)) in line.char_indices().enumerate() {
            let offset = start.saturating_add(at);
            let secret =
                secrets.iter().any(|range| range.contains(&offset)) || value_at.is_some_and(|value| at >= value);
            if span.contains(&offset) {
                from.get_or_insert(place);
                to = place.saturating_add(1);
            }
            shown.push(match character {
                _ if secret => '*',
                '\t' => ' ',
                other if other.is_control() => '?',
                other => other,
            });
        }
        let length = shown.chars().count();
        let start = from.unwrap_or(if span.start >= start.saturating_add(line.len()) { length } else { 0 });
        let caret = start..to.max(start);
        cut(&shown, length, caret)
    }
}

/// Where in a line that may not parse the value of a key begins that looks like a secret's, misspelt as it may be. What follows it is taken for
/// secret too: where a value ends that has lost a quote, nobody knows.
fn secret_from(line: &str) -> Option<usize> {
    let is_part = |character: char| character.is_alphanumeric() || matches!(character, '_' | '-');
    let mut quote = None;
    let mut word_at = None;
    for (at, character) in line.char_indices().chain([(line.len(), ' ')]) {
        if is_part(character) {
            word_at.get_or_insert(at);
            continue;
        }
        if let Some(word) = word_at.take().and_then(|start| line.get(start..at)) {
            // A word within quotes is a key only with its sign behind it; others may have lost theirs.
            let rest = line.get(at..).unwrap_or("");
            let behind = rest.trim_start_matches(['"', '\'', ' ', '\t']);
            let assigned = behind.starts_with(['=', ':', '.']) && !rest.starts_with(['.', ':']);
            if is_secret(word) && (quote.is_none() || assigned) {
                let sign = rest.len().saturating_sub(behind.len());
                let skip = if assigned { sign.saturating_add(1) } else { 0 };
                let value = rest.get(skip..).unwrap_or("");
                return Some(line.len().saturating_sub(value.trim_start().len()));
            }
        }
        match (quote, character) {
            (None, '"' | '\'') => quote = Some(character),
            (Some(open), close) if open == close => quote = None,
            _ => {}
        }
    }
    None
}

/// Keeps the part of a very long line that holds the carets.
fn cut(shown: &str, length: usize, caret: Range<usize>) -> (String, Range<usize>) {
    if length <= SHOWN {
        return (shown.to_owned(), caret);
    }
    let skip = caret.start.saturating_sub(SHOWN / 2).min(length.saturating_sub(SHOWN));
    let part: String = shown.chars().skip(skip).take(SHOWN).collect();
    let start = caret.start.saturating_sub(skip).min(SHOWN);
    let end = caret.end.saturating_sub(skip).min(SHOWN);
    (part, start..end.max(start))
}

/// Whether a key may have been meant for a secret: `password`, and whatever is like it or like what others call theirs. Keys that name
/// files are not.
pub(super) fn is_secret(key: &str) -> bool {
    let lower = key.to_ascii_lowercase();
    if ["password_file", "key", "client_key", "passive"].contains(&lower.as_str()) {
        return false;
    }
    ["pass", "word", "pwd", "psw", "secret", "key"].iter().any(|part| lower.contains(part))
        || edits(&lower, "password") <= 3
}

/// Levenshtein distance in octets; bounded, since keys can be as long as the file.
pub(super) fn edits(a: &str, b: &str) -> usize {
    if a.len() > 64 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut corner = i;
        let mut left = i.saturating_add(1);
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let above = *cell;
            let replaced = corner.saturating_add(usize::from(x != y));
            left = replaced.min(above.saturating_add(1)).min(left.saturating_add(1));
            corner = above;
            *cell = left;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}
