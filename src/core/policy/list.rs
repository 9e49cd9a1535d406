//! Files of names: one name a line, hosts files, adblock rules, response policy zones. Pure: octets in, entries and located errors out.
//!
//! A line that is not about names as a whole (a cosmetic filter, a rule for certain web requests, a trigger on name servers), or is longer than any
//! rule, is counted as skipped; a line that can't be read is an error. What either means for the list is the caller's to decide. Adblock lists have no errors:
//! their language is larger than what is about names, and grows, so what is not understood there is skipped.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Pattern, PatternError, Reach, name_from_user};
use crate::config::schema::ListFormat;
use crate::core::name::Name;

mod rpz;
#[cfg(test)]
mod tests;

/// The longest line that is read, comments aside; the longest name takes 1,012 octets when every octet is escaped.
pub const MAX_LINE: usize = 2048;

/// The most errors and warnings that are kept; the rest is counted.
pub const MAX_ERRORS: usize = 20;

/// With so many skipped lines for each rule, a list is warned of.
const MOSTLY: usize = 20;

/// What an entry says of its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sense {
    /// They get the list's action.
    Listed,
    /// They are exempt: the opposite of the list's action (`@@` rules, `rpz-passthru`).
    Exempt,
    /// Like `Listed`, with NODATA for an answer.
    NoData,
    /// Like `Listed`, without answer.
    Drop,
    /// Not listed, but answered over TCP only.
    TcpOnly,
    /// Answered with the list's own data.
    Data,
}

/// One record of a list's own answer for a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalData {
    /// An address, for questions of its family.
    Address(IpAddr),
    /// Another name, asked in place of the question.
    Alias(Name),
    /// Data of another type, which leads to no name or address of its own: number and RDATA.
    Record(u16, Box<[u8]>),
}

impl LocalData {
    /// Octets of memory beside its own place.
    pub(super) fn octets(&self) -> usize {
        match self {
            Self::Address(_) => 0,
            Self::Alias(name) => name.wire().len(),
            Self::Record(_, rdata) => rdata.len(),
        }
    }
}

/// What a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// The rule is about these names.
    Name(Pattern),
    /// Addresses in answers.
    Answer(IpNet),
    /// The rule is about the questions of these clients.
    Client(IpNet),
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(pattern) => pattern.fmt(f),
            Self::Answer(net) => write!(f, "answer {net}"),
            Self::Client(net) => write!(f, "client {net}"),
        }
    }
}

/// One rule of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Line, from 1.
    pub line: u32,
    /// What it is about.
    pub trigger: Trigger,
    /// What of it.
    pub sense: Sense,
    /// With [`Sense::Data`]: what the answer bears.
    pub data: Option<LocalData>,
}

/// A line that can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct LineError {
    /// Line, from 1.
    pub line: u32,
    /// What is wrong.
    pub reason: String,
}

/// What came of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Rules that were found in the file.
    pub entries: usize,
    /// Lines that say nothing of names as a whole.
    pub skipped: usize,
    /// The first of these.
    pub first_skipped: Option<u32>,
    /// Of these, those longer than [`MAX_LINE`], where they would be rules (in adblock lists they hardly are).
    pub long: usize,
    /// The first of these.
    pub first_long: Option<u32>,
    /// Of the entries those whose own data (RPZ local data of other types, or not for names) is not served: what they list is
    /// denied with NXDOMAIN.
    pub denied_instead: usize,
    /// The line of the first of these.
    pub first_denied_instead: Option<u32>,
    /// Of the entries those whose data is not served since their name has too many records before them
    /// ([`MOST_DATA`](super::table::MOST_DATA)); counted by who builds the table.
    pub surplus: usize,
    /// The line of the first of these.
    pub first_surplus: Option<u32>,
    /// Lines that could not be read, all of them.
    pub wrong: usize,
    /// The first [`MAX_ERRORS`] of them.
    pub errors: Vec<LineError>,
}

impl Report {
    /// What of the list is not as its author meant it though the list is in force, a line each with file and line.
    #[must_use]
    pub fn warnings(&self, path: &str) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(line) = self.first_skipped.filter(|_| self.is_nearly_all_skipped()) {
            let (entries, skipped) = (self.entries, self.skipped);
            warnings.push(format!(
                "{path}:{line}: nearly all lines are skipped, since they are not about names as a whole ({skipped} such lines, {entries} rules)"
            ));
        }
        if let Some(line) = self.first_long {
            let lines = self.long;
            warnings
                .push(format!("{path}:{line}: lines longer than {MAX_LINE} octets are skipped ({lines} such lines)"));
        }
        if let Some(line) = self.first_denied_instead {
            let records = self.denied_instead;
            warnings.push(format!(
                "{path}:{line}: data of this type or place is not served, its name is denied instead ({records} such records)"
            ));
        }
        if let Some(line) = self.first_surplus {
            let (records, most) = (self.surplus, super::table::MOST_DATA);
            warnings.push(format!(
                "{path}:{line}: this name has more than {most} records of its own, those beyond are not served ({records} such records)"
            ));
        }
        warnings
    }

    /// Whether so little is left that the list hardly does what somebody expects of it: less than a twentieth.
    fn is_nearly_all_skipped(&self) -> bool {
        self.entries.saturating_mul(MOSTLY) < self.skipped
    }
}

/// Why a line gives no entry.
enum NoEntry {
    Skipped,
    Wrong(String),
}

/// Where a format's reader puts what it finds.
struct Sink<'a> {
    report: Report,
    take: &'a mut dyn FnMut(Entry),
}

impl Sink<'_> {
    fn entry(&mut self, line: u32, trigger: Trigger, sense: Sense, data: Option<LocalData>) {
        self.report.entries = self.report.entries.saturating_add(1);
        (self.take)(Entry { line, trigger, sense, data });
    }

    fn none(&mut self, line: u32, why: NoEntry) {
        match why {
            NoEntry::Skipped => {
                self.report.skipped = self.report.skipped.saturating_add(1);
                self.report.first_skipped.get_or_insert(line);
            }
            NoEntry::Wrong(reason) => {
                self.report.wrong = self.report.wrong.saturating_add(1);
                if self.report.errors.len() < MAX_ERRORS {
                    self.report.errors.push(LineError { line, reason });
                }
            }
        }
    }

    fn result(&mut self, line: u32, read: Result<(Pattern, Sense), NoEntry>) {
        match read {
            Ok((pattern, sense)) => self.entry(line, Trigger::Name(pattern), sense, None),
            Err(why) => self.none(line, why),
        }
    }
}

/// Reads a whole file, calling `take` for each entry in order.
pub fn parse(format: ListFormat, content: &[u8], take: &mut dyn FnMut(Entry)) -> Report {
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    let mut sink = Sink { report: Report::default(), take };
    let mut zone = rpz::Zone::default();
    for (line, octets) in (1u32..).zip(content.split(|octet| *octet == b'\n')) {
        let read = match std::str::from_utf8(octets) {
            _ if is_comment(format, octets) => continue,
            _ if octets.len() > MAX_LINE => Err(NoEntry::Skipped),
            Ok(text) => Ok(text),
            Err(_) if format == ListFormat::Adblock => Err(NoEntry::Skipped),
            Err(_) => Err(NoEntry::Wrong("not UTF-8".to_owned())),
        };
        let text = match read {
            Ok(text) => text,
            Err(why) => {
                if format != ListFormat::Adblock && matches!(why, NoEntry::Skipped) {
                    sink.report.long = sink.report.long.saturating_add(1);
                    sink.report.first_long.get_or_insert(line);
                }
                sink.none(line, why);
                zone.broken_line();
                continue;
            }
        };
        match format {
            ListFormat::Domains => domains(line, text, &mut sink),
            ListFormat::Hosts => hosts(line, text, &mut sink),
            ListFormat::Adblock => adblock(line, text, &mut sink),
            ListFormat::Rpz => zone.line(line, text, &mut sink),
        }
    }
    if format == ListFormat::Rpz {
        zone.end(&mut sink);
    }
    sink.report
}

/// Whether a line is nothing but a comment, of whatever octets and length. In a zone the state between lines doesn't change by it.
fn is_comment(format: ListFormat, octets: &[u8]) -> bool {
    let text = octets.trim_ascii_start();
    match format {
        ListFormat::Domains | ListFormat::Hosts => text.starts_with(b"#"),
        ListFormat::Adblock => {
            text.starts_with(b"!") || text.starts_with(b"[") || (text.starts_with(b"#") && !text.starts_with(b"##"))
        }
        ListFormat::Rpz => text.starts_with(b";"),
    }
}

/// The part before a comment, without white space around it. A comment begins with `#` at the line's start or after white space.
fn before_comment(text: &str) -> &str {
    let start = text
        .char_indices()
        .find(|(at, c)| {
            *c == '#' && text.get(..*at).is_none_or(|front| front.chars().next_back().is_none_or(char::is_whitespace))
        })
        .map_or(text.len(), |(at, _)| at);
    text.get(..start).unwrap_or(text).trim()
}

fn no_name(text: &str, reason: &dyn std::fmt::Display) -> NoEntry {
    NoEntry::Wrong(format!("\"{text}\" is not a domain name: {reason}"))
}

/// One rule a line, as in `policy.deny`.
fn domains(line: u32, text: &str, sink: &mut Sink<'_>) {
    let text = before_comment(text);
    if !text.is_empty() {
        sink.result(
            line,
            text.parse().map(|pattern| (pattern, Sense::Listed)).map_err(|reason: PatternError| no_name(text, &reason)),
        );
    }
}

/// Names of the host itself, in every hosts file; never a rule.
const OWN_NAMES: &[&str] = &[
    "localhost",
    "localhost.localdomain",
    "local",
    "broadcasthost",
    "ip6-localhost",
    "ip6-loopback",
    "ip6-localnet",
    "ip6-mcastprefix",
    "ip6-allnodes",
    "ip6-allrouters",
    "ip6-allhosts",
    "0.0.0.0",
];

/// An address, then names, each for itself only.
fn hosts(line: u32, text: &str, sink: &mut Sink<'_>) {
    let mut words = before_comment(text).split_whitespace();
    let Some(address) = words.next() else { return };
    // A zone index ("fe80::1%lo0") stands in the file of some systems.
    let bare = address.split_once('%').map_or(address, |(bare, _)| bare);
    if bare.parse::<IpAddr>().is_err() {
        return sink.none(line, NoEntry::Wrong(format!("\"{address}\" is no address")));
    }
    let mut named = false;
    for word in words {
        named = true;
        if OWN_NAMES.iter().any(|own| own.eq_ignore_ascii_case(word)) {
            sink.none(line, NoEntry::Skipped);
            continue;
        }
        let read = name_from_user(word).map(|name| (Pattern { reach: Reach::Itself, name }, Sense::Listed));
        sink.result(line, read.map_err(|reason| no_name(word, &reason)));
    }
    if !named {
        sink.none(line, NoEntry::Wrong("an address without names".to_owned()));
    }
}

/// `||name^` and `@@||name^`, both with their subdomains; `||*.name^` without the name itself; `name` and `@@name` like the first two.
fn adblock(line: u32, text: &str, sink: &mut Sink<'_>) {
    let text = text.trim();
    if !text.is_empty() {
        sink.result(line, adblock_rule(text).ok_or(NoEntry::Skipped));
    }
}

/// `None` for what is not about names as a whole, or is no rule that anybody could read.
fn adblock_rule(text: &str) -> Option<(Pattern, Sense)> {
    let (sense, rule) = text.strip_prefix("@@").map_or((Sense::Listed, text), |rule| (Sense::Exempt, rule));
    let Some(rule) = rule.strip_prefix("||") else {
        return is_bare_host(rule).then(|| name_from_user(rule).ok()).flatten().map(|name| {
            let reach = Reach::Tree;
            (Pattern { reach, name }, sense)
        });
    };
    // Without the separator the rule means every name that begins so; with more behind it, certain requests only.
    let (name, rest) = rule.split_once('^')?;
    let options = match rest {
        "" | "|" => "",
        _ => rest.strip_prefix('$')?,
    };
    if !options.is_empty() && !options.split(',').all(|option| matches!(option, "important" | "all")) {
        return None;
    }
    let (reach, name) = name.strip_prefix("*.").map_or((Reach::Tree, name), |name| (Reach::Below, name));
    if name.parse::<IpAddr>().is_ok() {
        return None;
    }
    Some((Pattern { reach, name: name_from_user(name).ok()? }, sense))
}

/// Whether a rule without marks is a host's name (as blockers read it too), not a part of URLs such as `-banner.` or `_ads.js`: two labels
/// or more of letters, digits, hyphens and underscores, none empty, none with a hyphen at an end or an underscore in front, the last not numeric.
fn is_bare_host(text: &str) -> bool {
    let label = |label: &str| {
        let usual = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
        !label.is_empty() && !label.starts_with(['-', '_']) && !label.ends_with('-') && label.chars().all(usual)
    };
    let last = text.rsplit_once('.').map(|(_, last)| last);
    text.split('.').all(label) && last.is_some_and(|last| last.chars().any(char::is_alphabetic))
}
