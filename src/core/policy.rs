//! Which names may be asked: allow and deny rules by name, the longest match decides, deny wins a tie.
//!
//! Rules are kept as one arena of wire-form names and a hash table of their places: a lookup probes the name and each of its
//! parents, allocates nothing, and costs the same with one rule as with a million (about 50 octets a rule).
//!
//! A tie, that is rules with the same reach at the same name: the configuration's own rules win over list files, so that a listed name can
//! always be let through; exceptions of a list win over that list's other rules; otherwise deny wins.

use std::fmt;

use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;

use super::name::{Name, NameError};
use crate::config::schema::{Action, Config, ListFormat};

pub mod list;
#[cfg(test)]
mod tests;

/// What the policy says of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Allow or deny.
    pub action: Action,
    /// The rule that decided; `None`: `policy.default` did. [`Policy::describe`] turns it into words.
    pub rule: Option<RuleId>,
}

impl Verdict {
    /// Whether the name is denied.
    #[must_use]
    pub fn denies(&self) -> bool {
        self.action == Action::Deny
    }
}

/// A rule of one [`Policy`]; means nothing to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleId {
    slot: u32,
    node: u32,
}

/// A rule in words, for logs, EDE and `explain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleRef {
    /// As the operator wrote it: "*.example.com"; of a list: the name.
    pub text: String,
    /// Where: "policy.deny[3]" (from 0), or "lists/malware.txt:17" (line, from 1).
    pub place: String,
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.text, self.place)
    }
}

/// A rule that can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: \"{text}\" can't be used: {reason}")]
pub struct PolicyError {
    /// The key, as in "policy.deny[3]".
    pub key: String,
    /// What stands there.
    pub text: String,
    /// What is wrong with it and what to write.
    pub reason: String,
}

/// What of a name a rule covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reach {
    /// "example.com": itself and all below.
    Tree,
    /// "*.example.com": all below, not itself.
    Below,
    /// "=example.com": itself only.
    Itself,
}

/// One rule, read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern {
    /// What it covers.
    pub reach: Reach,
    /// Of which name.
    pub name: Name,
}

impl std::str::FromStr for Pattern {
    type Err = String;

    /// "example.com", "*.example.com", "=example.com"; a trailing dot is optional, Unicode names become A-labels (UTS 46).
    fn from_str(text: &str) -> Result<Self, String> {
        let (reach, rest) = if let Some(rest) = text.strip_prefix("*.") {
            (Reach::Below, rest)
        } else if let Some(rest) = text.strip_prefix('=') {
            (Reach::Itself, rest)
        } else {
            (Reach::Tree, text)
        };
        if rest.contains('*') {
            return Err(
                "a wildcard stands for all names below another and must be in front, as in \"*.example.com\"; \
                        what no rule names follows policy.default"
                    .to_owned(),
            );
        }
        Ok(Self { reach, name: name_from_user(rest)? })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.reach {
            Reach::Tree => "",
            Reach::Below => "*.",
            Reach::Itself => "=",
        };
        write!(f, "{mark}{}", self.name)
    }
}

/// A name as a person writes it: ASCII in presentation form, or Unicode, which becomes A-labels (UTS 46, non-transitional).
///
/// # Errors
/// Says what is wrong with it.
pub fn name_from_user(text: &str) -> Result<Name, String> {
    if text.is_empty() {
        return Err("an empty name".to_owned());
    }
    // Any octet may stand in a name, but what a person writes unescaped and is none of these is a URL, a rule of another format, a slip.
    let usual = |c: char| {
        c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '\\') || (!c.is_ascii() && !c.is_whitespace())
    };
    if let Some(odd) = text.chars().find(|c| !usual(*c)) {
        return Err(format!("a domain name has no {odd:?}; write its octets as \\DDD if they are meant"));
    }
    if text.is_ascii() {
        return text.parse().map_err(|error: NameError| error.to_string());
    }
    let ascii = idna::domain_to_ascii(text).map_err(|_| "no A-label form (UTS 46)".to_owned())?;
    ascii.parse().map_err(|error: NameError| error.to_string())
}

/// Marks a rule as denying in a [`Node`]'s slots.
const DENY: u32 = 1 << 31;
/// Marks a rule as exception of its list.
const EXEMPT: u32 = 1 << 30;
/// The rule's number in a slot.
const NUMBER: u32 = EXEMPT - 1;
/// An empty slot.
const NONE: u32 = u32::MAX;

/// All rules at one name.
#[derive(Clone, Copy, Debug)]
struct Node {
    /// Start of the name in the arena.
    start: u32,
    /// Its length.
    len: u8,
    /// The rule for the name itself: its number, [`DENY`] and [`EXEMPT`].
    itself: u32,
    /// The rule for what lies below.
    below: u32,
}

/// Where rules come from: numbers from `first` on.
#[derive(Clone, Debug)]
struct Source {
    first: u32,
    kind: SourceKind,
}

#[derive(Clone, Debug)]
enum SourceKind {
    /// A list in the configuration: its key and its texts.
    Config { key: &'static str, texts: Vec<Box<str>> },
    /// A file: the line of each rule.
    List { path: Box<str>, lines: Vec<u32> },
}

/// A list file, read into memory.
#[derive(Clone, Copy, Debug)]
pub struct ListFile<'a> {
    /// As shown to users.
    pub path: &'a str,
    /// How it is written.
    pub format: ListFormat,
    /// What its names get.
    pub action: Action,
    /// The whole of it.
    pub content: &'a [u8],
}

/// All rules, ready to be asked. Never changed: a reload builds another.
#[derive(Clone, Debug)]
pub struct Policy {
    default: Action,
    nodes: Vec<Node>,
    arena: Vec<u8>,
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
    longest: usize,
    sources: Vec<Source>,
    rules: u32,
}

impl Policy {
    /// From `[policy]`: default, allow and deny.
    ///
    /// # Errors
    /// Every rule that can't be read, not only the first.
    pub fn new(config: &Config) -> Result<Self, Vec<PolicyError>> {
        let mut policy = Self {
            default: config.policy.default,
            nodes: Vec::new(),
            arena: Vec::new(),
            index: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            longest: 0,
            sources: Vec::new(),
            rules: 0,
        };
        let mut errors = Vec::new();
        let lists =
            [("policy.allow", Action::Allow, &config.policy.allow), ("policy.deny", Action::Deny, &config.policy.deny)];
        for (key, action, texts) in lists {
            let kept = texts.iter().map(|text| text.clone().into_boxed_str()).collect();
            policy.sources.push(Source { first: policy.rules, kind: SourceKind::Config { key, texts: kept } });
            for (place, text) in texts.iter().enumerate() {
                let wrong = |reason| PolicyError { key: format!("{key}[{place}]"), text: text.clone(), reason };
                match text.parse::<Pattern>() {
                    Ok(pattern) => {
                        if let Err(reason) = policy.insert(&pattern, action, false) {
                            errors.push(wrong(reason));
                        }
                    }
                    Err(reason) => errors.push(wrong(reason)),
                }
            }
        }
        if errors.is_empty() { Ok(policy.finish()) } else { Err(errors) }
    }

    /// Like [`Policy::new`], with the files of `[[policy.list]]`; a report for each, in order. Lines that can't be read are left out.
    ///
    /// # Errors
    /// Like [`Policy::new`]; and more than a thousand million rules.
    pub fn with_lists(config: &Config, files: &[ListFile<'_>]) -> Result<(Self, Vec<list::Report>), Vec<PolicyError>> {
        let mut policy = Self::new(config)?;
        let mut reports = Vec::with_capacity(files.len());
        for file in files {
            let lines = file.content.split(|octet| *octet == b'\n').count();
            policy.nodes.reserve(lines);
            let (nodes, arena, hasher) = (&policy.nodes, &policy.arena, &policy.hasher);
            policy.index.reserve(lines, |place| hasher.hash_one(name_at(nodes, arena, *place)));
            let first = policy.rules;
            policy.sources.push(Source { first, kind: SourceKind::List { path: file.path.into(), lines: Vec::new() } });
            let mut numbers = Vec::new();
            let mut failure = None;
            let report = list::parse(file.format, file.content, &mut |entry| {
                let exempt = entry.sense == list::Sense::Exempt;
                let action = if exempt { opposite(file.action) } else { file.action };
                match policy.insert(&entry.pattern, action, exempt) {
                    Ok(()) => numbers.push(entry.line),
                    Err(reason) => failure = Some((entry.line, reason)),
                }
            });
            if let Some((line, reason)) = failure {
                let text = format!("line {line}");
                return Err(vec![PolicyError { key: format!("policy.list {}", file.path), text, reason }]);
            }
            numbers.shrink_to_fit();
            if let Some(Source { kind: SourceKind::List { lines, .. }, .. }) = policy.sources.last_mut() {
                *lines = numbers;
            }
            reports.push(report);
        }
        Ok((policy.finish(), reports))
    }

    /// Gives back what building took too much of.
    fn finish(mut self) -> Self {
        self.nodes.shrink_to_fit();
        self.arena.shrink_to_fit();
        let (nodes, arena, hasher) = (&self.nodes, &self.arena, &self.hasher);
        self.index.shrink_to_fit(|place| hasher.hash_one(name_at(nodes, arena, *place)));
        self
    }

    /// Octets of memory that the rules take.
    #[must_use]
    pub fn octets(&self) -> usize {
        let sources = self.sources.iter().map(|source| match &source.kind {
            SourceKind::Config { texts, .. } => {
                texts.iter().map(|text| text.len().saturating_add(size_of::<Box<str>>())).sum::<usize>()
            }
            SourceKind::List { lines, .. } => lines.capacity().saturating_mul(size_of::<u32>()),
        });
        self.arena
            .capacity()
            .saturating_add(self.nodes.capacity().saturating_mul(size_of::<Node>()))
            .saturating_add(self.index.allocation_size())
            .saturating_add(sources.sum())
    }

    /// What happens to a question for `name`. Allocates nothing.
    #[must_use]
    pub fn judge(&self, name: &Name) -> Verdict {
        self.matching(name).unwrap_or(Verdict { action: self.default, rule: None })
    }

    /// What happens to an answer that leads over the alias `name`: denied only by a rule that matches it. `policy.default` is for
    /// questions: who owns an allowed name may point it anywhere, by an alias or by an address.
    #[must_use]
    pub fn judge_alias(&self, name: &Name) -> Verdict {
        self.matching(name).unwrap_or(Verdict { action: Action::Allow, rule: None })
    }

    /// The rule's words.
    #[must_use]
    pub fn describe(&self, rule: RuleId) -> RuleRef {
        let number = rule.slot & NUMBER;
        let unknown = RuleRef { text: String::new(), place: "policy".to_owned() };
        let Some(source) = self.source(rule.slot).and_then(|place| self.sources.get(place)) else { return unknown };
        let offset = usize::try_from(number.saturating_sub(source.first)).unwrap_or(usize::MAX);
        match &source.kind {
            SourceKind::Config { key, texts } => texts
                .get(offset)
                .map_or(unknown, |text| RuleRef { text: text.to_string(), place: format!("{key}[{offset}]") }),
            SourceKind::List { path, lines } => RuleRef {
                text: Name::from_wire(name_at(&self.nodes, &self.arena, rule.node))
                    .map_or_else(|_| String::new(), |name| name.to_string()),
                place: lines.get(offset).map_or_else(|| path.to_string(), |line| format!("{path}:{line}")),
            },
        }
    }

    /// Index of the source that a slot's rule comes from: the last of those that begin at or before its number, since a source
    /// without rules begins where the next one does.
    fn source(&self, slot: u32) -> Option<usize> {
        self.sources.partition_point(|source| source.first <= slot & NUMBER).checked_sub(1)
    }

    /// Number of names that have a rule.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is no rule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    fn matching(&self, name: &Name) -> Option<Verdict> {
        for suffix in name.suffixes() {
            if suffix.len() > self.longest {
                continue;
            }
            let Some((place, node)) = self.find(suffix) else { continue };
            let slot = if suffix.len() == name.wire().len() { node.itself } else { node.below };
            if slot != NONE {
                let action = if slot & DENY == 0 { Action::Allow } else { Action::Deny };
                return Some(Verdict { action, rule: Some(RuleId { slot, node: place }) });
            }
        }
        None
    }

    fn find(&self, wire: &[u8]) -> Option<(u32, &Node)> {
        let hash = self.hasher.hash_one(wire);
        let place = *self.index.find(hash, |place| name_at(&self.nodes, &self.arena, *place) == wire)?;
        Some((place, self.nodes.get(usize::try_from(place).ok()?)?))
    }

    /// Adds a rule under the next number. A number is used up in any case, so that numbers and places in the list agree.
    fn insert(&mut self, pattern: &Pattern, action: Action, exempt: bool) -> Result<(), String> {
        let number = self.rules;
        if number >= NUMBER {
            return Err("too many rules".to_owned());
        }
        self.rules = self.rules.saturating_add(1);
        let deny = if action == Action::Deny { DENY } else { 0 };
        let slot = number | deny | if exempt { EXEMPT } else { 0 };
        let wire = pattern.name.wire();
        let hash = self.hasher.hash_one(wire);
        let place = match self.index.find(hash, |place| name_at(&self.nodes, &self.arena, *place) == wire) {
            Some(place) => *place,
            None => self.add_node(wire, hash)?,
        };
        let Some(place) = usize::try_from(place).ok() else { return Err("too many rules".to_owned()) };
        let Some(Node { itself, below, .. }) = self.nodes.get(place).copied() else { return Ok(()) };
        let itself = if pattern.reach == Reach::Below { itself } else { self.merge(itself, slot) };
        let below = if pattern.reach == Reach::Itself { below } else { self.merge(below, slot) };
        if let Some(node) = self.nodes.get_mut(place) {
            (node.itself, node.below) = (itself, below);
        }
        Ok(())
    }

    /// Which of two rules with the same reach at one name counts; see the head of this file.
    fn merge(&self, old: u32, new: u32) -> u32 {
        if old == NONE {
            return new;
        }
        let (old_source, new_source) = (self.source(old), self.source(new));
        let in_file = |source: Option<usize>| {
            source
                .and_then(|place| self.sources.get(place))
                .is_some_and(|source| matches!(source.kind, SourceKind::List { .. }))
        };
        if in_file(old_source) != in_file(new_source) {
            return if in_file(old_source) { new } else { old };
        }
        if old_source == new_source && (old ^ new) & EXEMPT != 0 {
            return if new & EXEMPT != 0 { new } else { old };
        }
        if new & DENY != 0 && old & DENY == 0 { new } else { old }
    }

    fn add_node(&mut self, wire: &[u8], hash: u64) -> Result<u32, String> {
        let too_many = || "too many rules".to_owned();
        let place = u32::try_from(self.nodes.len()).map_err(|_| too_many())?;
        let start = u32::try_from(self.arena.len()).map_err(|_| too_many())?;
        let len = u8::try_from(wire.len()).map_err(|_| too_many())?;
        self.arena.extend_from_slice(wire);
        self.longest = self.longest.max(wire.len());
        self.nodes.push(Node { start, len, itself: NONE, below: NONE });
        let (nodes, arena, hasher) = (&self.nodes, &self.arena, &self.hasher);
        self.index.insert_unique(hash, place, |place| hasher.hash_one(name_at(nodes, arena, *place)));
        Ok(place)
    }
}

/// The name of the node at `place`.
fn name_at<'a>(nodes: &[Node], arena: &'a [u8], place: u32) -> &'a [u8] {
    let node = usize::try_from(place).ok().and_then(|place| nodes.get(place));
    let range = node.and_then(|node| {
        let start = usize::try_from(node.start).ok()?;
        Some(start..start.checked_add(usize::from(node.len))?)
    });
    range.and_then(|range| arena.get(range)).unwrap_or_default()
}

fn opposite(action: Action) -> Action {
    match action {
        Action::Allow => Action::Deny,
        Action::Deny => Action::Allow,
    }
}

/// The registrable domain of `name` (public suffix list, private section included): one label more than its public suffix. A public
/// suffix itself, and the root, stand for themselves.
#[must_use]
pub fn registrable(name: &Name) -> Name {
    use psl::Psl as _;
    let labels: Vec<&[u8]> = name.labels().collect();
    let suffix = psl::List.find(labels.iter().rev().copied());
    // `len` counts the labels and the dots between them; the wire form has one octet more in front and the root behind.
    let wire_len = suffix.len.saturating_add(2);
    let mut domain = name.wire();
    for here in name.suffixes() {
        if here.len() <= wire_len {
            break;
        }
        domain = here;
    }
    Name::from_wire(domain).unwrap_or_else(|_| name.clone())
}
