//! From text to [`Config`], collecting every error of shape and type instead of stopping at the first.
//!
//! Of syntax errors the first alone is told: what stands behind it is read as something else than it is. For the rest the tree is deserialised; on an error the offending node is noted
//! and taken out (or replaced by a harmless value where the key is required), and it is tried again. What was taken out is
//! *spoilt*: later checks say nothing about it, since the user already knows.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeArray, DeInteger, DeTable, DeValue};

use super::report::{Finding, Lines, Severity, edits, is_secret};
use super::schema::{Config, Places};

/// Most findings of one file; beyond, the user has enough to do.
pub const MOST: usize = 100;

/// One step of a key path.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

/// Writes the steps to a key as one text, such as `bgp.peer[1].asn`.
fn path_text(steps: &[Step]) -> String {
    let mut text = String::new();
    for step in steps {
        match step {
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) => text.extend([".", key]),
            Step::Index(index) => text.push_str(&format!("[{index}]")),
        }
    }
    text
}

/// A file that was read: what it says, where it says it, and what is wrong with it so far.
#[derive(Debug)]
pub struct Document<'t> {
    file: Arc<PathBuf>,
    lines: Lines<'t>,
    /// The tree as written; stays whole, since places are looked up in it.
    tree: Spanned<DeTable<'t>>,
    secrets: Vec<Range<usize>>,
    findings: Vec<Finding>,
    /// How many errors among them keep no guard from starting.
    bearable: usize,
    spoilt: BTreeSet<String>,
    syntax: bool,
}

/// Keys that must be there, by the table they belong to.
const REQUIRED: [(&str, &str, &[&str]); 5] = [
    ("dns", "upstream", &["url"]),
    ("dns", "zone", &["name"]),
    ("policy", "list", &["format", "action"]),
    ("policy", "private", &["domain", "prefixes"]),
    ("bgp", "peer", &["name", "address", "asn"]),
];

/// A value that deserialises, for a required key that has none.
fn stand_in(key: &str) -> DeValue<'static> {
    let text = match key {
        "asn" => return DeValue::Integer(DeInteger::default()),
        "prefixes" => return DeValue::Array(DeArray::new()),
        "address" => "192.0.2.1",
        "format" => "domains",
        "action" => "deny",
        _ => "",
    };
    DeValue::String(Cow::Borrowed(text))
}

impl<'t> Document<'t> {
    /// Parses `text` and makes the best [`Config`] of it. When [`Document::has_errors`], the configuration serves further
    /// checks only.
    #[must_use]
    pub fn read(file: &Path, text: &'t str) -> (Self, Config) {
        let (tree, errors) = DeTable::parse_recoverable(text);
        let mut secrets = Vec::new();
        collect_secrets(tree.get_ref(), &mut secrets);
        let mut document = Self {
            file: Arc::new(file.to_owned()),
            lines: Lines::new(text),
            tree,
            secrets,
            findings: Vec::new(),
            bearable: 0,
            spoilt: BTreeSet::new(),
            syntax: !errors.is_empty(),
        };
        // What stands behind it is read as something else than it is: the rest would be guesses.
        if let Some(error) = errors.into_iter().min_by_key(|error| error.span().map_or(0, |span| span.start)) {
            document.note(Severity::Error, error.span().unwrap_or(0..0), "", error.message().to_owned(), None);
            return (document, Config::default());
        }
        let mut work = document.tree.clone();
        document.require(&mut work);
        let config = document.deserialise(work);
        (document, config)
    }

    /// Reports required keys that are missing and puts stand-ins in their places.
    fn require(&mut self, work: &mut Spanned<DeTable<'t>>) {
        for (section, list, keys) in REQUIRED {
            let Some(DeValue::Table(section_table)) = work.get_mut().get_mut(section).map(Spanned::get_mut) else {
                continue;
            };
            let Some(DeValue::Array(entries)) = section_table.get_mut(list).map(Spanned::get_mut) else { continue };
            for (index, entry) in entries.iter_mut().enumerate() {
                let span = entry.span();
                let DeValue::Table(table) = entry.get_mut() else { continue };
                for key in keys {
                    if table.contains_key(*key) {
                        continue;
                    }
                    let path = format!("{section}.{list}[{index}]");
                    // A misspelt key is reported as such.
                    let misspelt = table.keys().any(|other| {
                        nearest(other.get_ref(), &[key]).is_some() && !keys.contains(&other.get_ref().as_ref())
                    });
                    if !misspelt {
                        let message = format!("`{key}` is missing");
                        let help = Some(format!("every [[{section}.{list}]] needs {}", quoted(keys)));
                        self.note(Severity::Error, span.clone(), &path, message, help);
                    }
                    self.spoilt.insert(format!("{path}.{key}"));
                    table.insert(
                        Spanned::new(span.clone(), Cow::Borrowed(*key)),
                        Spanned::new(span.clone(), stand_in(key)),
                    );
                }
            }
        }
    }

    /// Deserialises, taking out what does not fit until the rest does.
    fn deserialise(&mut self, mut work: Spanned<DeTable<'t>>) -> Config {
        while self.findings.len() < MOST {
            let error = match Config::deserialize(toml::de::Deserializer::from(work.clone())) {
                Ok(config) => return config,
                Err(error) => error,
            };
            let span = error.span().unwrap_or(0..0);
            let Some((steps, is_key)) = find(work.get_ref(), &span) else {
                self.note(Severity::Error, span, "", error.message().to_owned(), None);
                break;
            };
            let path = path_text(&steps);
            let (message, help) = explain(error.message(), &steps, is_key);
            if let Some(meant) = is_key.then(|| meant(error.message(), &steps)).flatten() {
                self.spoilt.insert(meant);
            }
            self.note(Severity::Error, span, &path, message, help);
            take_out(work.get_mut(), &steps);
            // Elements move up when one is taken out of a list, so the whole list is spoilt.
            let spoilt = match steps.split_last() {
                Some((Step::Index(_), list)) => path_text(list),
                _ => path,
            };
            self.spoilt.insert(spoilt);
        }
        Config::default()
    }

    fn note(&mut self, severity: Severity, span: Range<usize>, key: &str, message: String, help: Option<String>) {
        if self.findings.len() >= MOST {
            return;
        }
        let (line, column) = self.lines.position(span.start);
        let (source, caret) = self.lines.excerpt(&span, &self.secrets);
        self.findings.push(Finding {
            severity,
            file: Arc::clone(&self.file),
            line,
            column,
            key: key.to_owned(),
            message,
            help,
            source,
            caret,
        });
    }

    /// Says something about the key at `path`, or the nearest table above it that the file has. Silent when an earlier
    /// error already concerns the key.
    pub fn say(&mut self, severity: Severity, path: &str, message: impl Into<String>, help: Option<&str>) {
        if !self.is_sound(path) {
            return;
        }
        let span = self.span(path);
        self.note(severity, span, path, message.into(), help.map(str::to_owned));
    }

    /// Like [`Document::say`] of an error that a check refuses and a guard lives with: of a file beside this one.
    pub fn say_bearable(&mut self, path: &str, message: impl Into<String>) {
        let before = self.findings.len();
        self.say(Severity::Error, path, message, None);
        self.bearable = self.bearable.saturating_add(self.findings.len().saturating_sub(before));
    }

    /// Whether nothing at, above or below `path` was taken out, and the file parsed.
    #[must_use]
    pub fn is_sound(&self, path: &str) -> bool {
        !self.syntax && !self.spoilt.iter().any(|spoilt| is_at_or_below(path, spoilt) || is_at_or_below(spoilt, path))
    }

    /// Whether the file itself has `path`.
    #[must_use]
    pub fn has(&self, path: &str) -> bool {
        self.walk(path).1
    }

    /// The span of the value at `path`, or of the nearest thing above it.
    fn span(&self, path: &str) -> Range<usize> {
        self.walk(path).0
    }

    fn walk(&self, path: &str) -> (Range<usize>, bool) {
        let mut span = 0..0;
        let mut table = Some(self.tree.get_ref());
        let mut here: Option<&Spanned<DeValue<'t>>> = None;
        for part in path.split(['.', '[']).map(|part| part.trim_end_matches(']')) {
            let next = match (here.map(Spanned::get_ref), table.take()) {
                (None, Some(root)) => root.get(part),
                (Some(DeValue::Table(inner)), _) => inner.get(part),
                (Some(DeValue::Array(list)), _) => part.parse::<usize>().ok().and_then(|index| list.get(index)),
                _ => None,
            };
            let Some(next) = next else { return (span, false) };
            span = next.span();
            here = Some(next);
        }
        (span, true)
    }

    /// Line and column of every key and list element of the file.
    #[must_use]
    pub fn places(&self) -> Places {
        let mut places = Places::new();
        let mut add = |path: &str, span: Range<usize>| {
            places.insert(path.to_owned(), self.lines.position(span.start));
        };
        visit_table(self.tree.get_ref(), "", &mut add);
        places
    }

    /// Whether the file must be refused.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.findings.iter().filter(|finding| finding.severity == Severity::Error).count() > self.bearable
    }

    /// Everything found, in the order of the file.
    #[must_use]
    pub fn into_findings(self) -> Vec<Finding> {
        let mut findings = self.findings;
        findings.sort_by_key(|finding| (finding.line, finding.column, finding.severity));
        findings
    }
}

/// Whether `path` is `above` or lies below it.
fn is_at_or_below(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

fn visit_table(table: &DeTable<'_>, prefix: &str, add: &mut impl FnMut(&str, Range<usize>)) {
    for (key, value) in table.iter() {
        let name: &str = key.get_ref();
        let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
        visit(value, &path, add);
    }
}

fn visit(value: &Spanned<DeValue<'_>>, path: &str, add: &mut impl FnMut(&str, Range<usize>)) {
    add(path, value.span());
    match value.get_ref() {
        DeValue::Table(table) => visit_table(table, path, add),
        DeValue::Array(list) => {
            for (index, element) in list.iter().enumerate() {
                visit(element, &format!("{path}[{index}]"), add);
            }
        }
        _ => {}
    }
}

/// Spans of the values of every key that may be meant for a secret.
fn collect_secrets(table: &DeTable<'_>, secrets: &mut Vec<Range<usize>>) {
    fn within(value: &Spanned<DeValue<'_>>, secrets: &mut Vec<Range<usize>>) {
        match value.get_ref() {
            DeValue::Table(table) => collect_secrets(table, secrets),
            DeValue::Array(list) => list.iter().for_each(|element| within(element, secrets)),
            _ => {}
        }
    }
    for (key, value) in table.iter() {
        if is_secret(key.get_ref()) {
            secrets.push(value.span());
        }
        within(value, secrets);
    }
}

/// The node whose key or value has exactly this span, or else the deepest whose value holds it. The flag says that it was
/// the key.
fn find(table: &DeTable<'_>, span: &Range<usize>) -> Option<(Vec<Step>, bool)> {
    fn value_at(value: &Spanned<DeValue<'_>>, span: &Range<usize>, steps: &mut Vec<Step>, best: &mut Best) {
        let here = value.span();
        if here == *span {
            best.exact(steps, false);
        } else if here.start <= span.start && span.end <= here.end {
            best.around(steps);
        }
        match value.get_ref() {
            DeValue::Table(table) => table_at(table, span, steps, best),
            DeValue::Array(list) => {
                for (index, element) in list.iter().enumerate() {
                    steps.push(Step::Index(index));
                    value_at(element, span, steps, best);
                    steps.pop();
                }
            }
            _ => {}
        }
    }
    fn table_at(table: &DeTable<'_>, span: &Range<usize>, steps: &mut Vec<Step>, best: &mut Best) {
        for (key, value) in table.iter() {
            steps.push(Step::Key(key.get_ref().to_string()));
            if key.span() == *span {
                best.exact(steps, true);
            }
            value_at(value, span, steps, best);
            steps.pop();
        }
    }
    #[derive(Default)]
    struct Best {
        exact: Option<(Vec<Step>, bool)>,
        around: Option<Vec<Step>>,
    }
    impl Best {
        fn exact(&mut self, steps: &[Step], is_key: bool) {
            if self.exact.as_ref().is_none_or(|(old, _)| old.len() <= steps.len()) {
                self.exact = Some((steps.to_vec(), is_key));
            }
        }
        fn around(&mut self, steps: &[Step]) {
            if self.around.as_ref().is_none_or(|old| old.len() <= steps.len()) {
                self.around = Some(steps.to_vec());
            }
        }
    }
    let mut best = Best::default();
    table_at(table, span, &mut Vec::new(), &mut best);
    best.exact.or_else(|| best.around.map(|steps| (steps, false)))
}

/// Removes the node at `steps`; a required key keeps a stand-in.
fn take_out(root: &mut DeTable<'_>, steps: &[Step]) {
    let Some((Step::Key(first), rest)) = steps.split_first() else { return };
    if rest.is_empty() {
        root.remove(first.as_str());
        return;
    }
    let Some(mut here) = root.get_mut(first.as_str()) else { return };
    for (depth, step) in rest.iter().enumerate() {
        let last = depth.saturating_add(1) == rest.len();
        match (step, here.get_mut()) {
            (Step::Key(key), DeValue::Table(table)) => {
                if last {
                    let required = REQUIRED.iter().any(|(section, list, keys)| {
                        keys.contains(&key.as_str())
                            && matches!(steps, [Step::Key(a), Step::Key(b), Step::Index(_), Step::Key(_)]
                                if a == section && b == list)
                    });
                    match table.get_mut(key.as_str()) {
                        Some(value) if required => *value.get_mut() = stand_in(key),
                        _ => drop(table.remove(key.as_str())),
                    }
                    return;
                }
                match table.get_mut(key.as_str()) {
                    Some(next) => here = next,
                    None => return,
                }
            }
            (Step::Index(index), DeValue::Array(list)) => {
                if last {
                    let kept =
                        std::mem::replace(list, DeArray::new()).into_iter().enumerate().filter(|(at, _)| at != index);
                    *list = kept.map(|(_, element)| element).collect();
                    return;
                }
                match list.get_mut(*index) {
                    Some(next) => here = next,
                    None => return,
                }
            }
            _ => return,
        }
    }
}

/// The key that a misspelt one was probably meant to be.
fn meant(message: &str, steps: &[Step]) -> Option<String> {
    let names: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let (wrong, known) = names.split_first()?;
    let near = nearest(wrong, known)?;
    let (_, above) = steps.split_last()?;
    Some(path_text(&[above, &[Step::Key(near.to_owned())]].concat()))
}

/// Says the deserialiser's message in the user's words.
fn explain(message: &str, steps: &[Step], is_key: bool) -> (String, Option<String>) {
    let names: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let is_secret = steps.last() == Some(&Step::Key("password".to_owned()));
    if message.starts_with("unknown field") && is_key {
        let (wrong, known) = names.split_first().map_or(("", [].as_slice()), |(wrong, known)| (*wrong, known));
        let help = match nearest(wrong, known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => match steps.split_last() {
                Some((_, [])) => format!("there are the sections {}", quoted(known)),
                Some((_, above)) => format!("`{}` has the keys {}", path_text(above), quoted(known)),
                None => String::new(),
            },
        };
        return (format!("unknown key `{wrong}`"), Some(help));
    }
    if message.starts_with("unknown variant") {
        let (wrong, known) = names.split_first().map_or(("", [].as_slice()), |(wrong, known)| (*wrong, known));
        let help = nearest(wrong, known).map(|near| format!("did you mean \"{near}\"?"));
        let known: Vec<String> = known.iter().map(|name| format!("\"{name}\"")).collect();
        return (format!("\"{wrong}\" is not known here; there are {}", listed(&known)), help);
    }
    if let Some(rest) = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "))
        && let Some((found, expected)) = rest.rsplit_once(", expected ")
    {
        let expected = match expected {
            text if text.starts_with("struct ") => "a table",
            "a sequence" => "a list",
            "a boolean" => "true or false",
            "usize" | "u32" | "u16" | "u8" => "a whole number in range",
            "path string" => "a string",
            text if text.contains("address") && !found.contains("string") => "a string with an address",
            other => other,
        };
        let found = if is_secret { "something else".to_owned() } else { found.replace('`', "") };
        let found = match found.as_str() {
            "map" => "a table".to_owned(),
            "sequence" => "a list".to_owned(),
            _ => found,
        };
        return (format!("expected {expected}, found {found}"), None);
    }
    let plain = match message {
        "invalid socket address syntax" => {
            "not an address with its port, as in \"192.0.2.1:53\" or \"[2001:db8::1]:53\""
        }
        "invalid IP address syntax" => "not an IP address",
        "invalid IPv4 address syntax" => "not an IPv4 address",
        "invalid IPv6 address syntax" => "not an IPv6 address",
        other => other,
    };
    (plain.to_owned(), None)
}

/// "`a`, `b` and `c`"
fn quoted(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    listed(&names)
}

fn listed(names: &[String]) -> String {
    match names.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => "nothing".to_owned(),
    }
}

/// The candidate that is the fewest edits away, when that is few enough to be a slip; or the only one that begins alike.
fn nearest<'a>(wrong: &str, known: &[&'a str]) -> Option<&'a str> {
    let lower = wrong.to_ascii_lowercase().replace('-', "_");
    let slip = known
        .iter()
        .map(|name| (edits(&lower, name), *name))
        .min()
        .filter(|(distance, name)| *distance <= 2 && *distance < name.len().div_ceil(2));
    if let Some((_, name)) = slip {
        return Some(name);
    }
    let mut alike = known.iter().filter(|name| {
        lower.len() >= 3 && (name.starts_with(&lower) || (name.len() >= 3 && lower.starts_with(**name)))
    });
    alike.next().copied()
}
