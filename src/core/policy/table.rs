//! Rules of one origin (the configuration, or one list file), in a form that is asked quickly: one arena of wire-form names and a hash
//! table of their places, about 50 octets a rule. Never changed once built, so that views share it.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::IpAddr;

use hashbrown::{DefaultHashBuilder, HashTable};
use ipnet::IpNet;

use super::list::{self, LocalData, Sense, Trigger};
use super::{At, ListFile, Pattern, PolicyError, Reach, RuleRef};
use crate::config::schema::{Action, split_ports};
use crate::core::name::Name;
use crate::core::nets::NetMap;

/// Marks a rule as denying in a slot.
pub(super) const DENY: u32 = 1 << 31;
/// Marks a rule as exception of its list.
const EXEMPT: u32 = 1 << 30;
/// The rule's number in a slot.
const NUMBER: u32 = EXEMPT - 1;
/// An empty slot.
const NONE: u32 = u32::MAX;

/// Most records of a name's own answer. What a list has beyond them is counted, and its operator told.
pub const MOST_DATA: usize = 64;

/// What a matching rule does to a question beside allowing or denying it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effect {
    /// Denied: NXDOMAIN. Allowed: nothing.
    #[default]
    Plain,
    /// Denied with NODATA.
    NoData,
    /// Denied without any reply.
    Drop,
    /// Allowed over TCP; over UDP a cut reply sends the client there.
    TcpOnly,
    /// Denied as it is, and answered with the list's own data; as an alias it is denied.
    Data,
}

/// The table has no number left for a rule, or no room for its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many rules")]
struct TooManyRules;

/// All rules at one name.
#[derive(Clone, Copy, Debug)]
struct Node {
    /// Start of the name in the arena.
    start: u32,
    /// The length of the name in wire form, in octets.
    len: u8,
    /// The rule for the name itself: its number, [`DENY`] and [`EXEMPT`].
    itself: u32,
    /// The rule for what lies below.
    below: u32,
}

/// Where rules come from.
#[derive(Clone, Debug)]
enum Source {
    /// Lists in the configuration: numbers from `first` on, the key, and the texts.
    Config(Vec<(u32, String, Vec<Box<str>>)>),
    /// A file: the line of each rule.
    List { path: Box<str>, name: Option<Box<str>>, lines: Vec<u32> },
}

/// The rules of one origin.
#[derive(Clone, Debug)]
pub struct Table {
    nodes: Vec<Node>,
    arena: Vec<u8>,
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
    longest: usize,
    source: Source,
    rules: u32,
    /// Of the rules that do something else than [`Effect::Plain`].
    effects: HashMap<u32, Effect>,
    /// What rules with [`Effect::Data`] answer.
    data: HashMap<u32, Vec<LocalData>>,
    /// Rules on addresses in answers.
    answers: NetMap<u32>,
    /// Rules on who asks.
    clients: NetMap<u32>,
}

impl Table {
    /// A table without rules, where every name gets the default.
    #[must_use]
    pub fn empty() -> Self {
        Self::new(Source::Config(Vec::new()))
    }

    fn new(source: Source) -> Self {
        Self {
            nodes: Vec::new(),
            arena: Vec::new(),
            index: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            longest: 0,
            source,
            rules: 0,
            effects: HashMap::new(),
            data: HashMap::new(),
            answers: NetMap::default(),
            clients: NetMap::default(),
        }
    }

    /// From rules of the configuration: (key, action, texts).
    pub(super) fn from_config(lists: &[(String, Action, &[String])]) -> Result<Self, Vec<PolicyError>> {
        let mut table = Self::new(Source::Config(Vec::new()));
        let mut errors = Vec::new();
        for (key, action, texts) in lists {
            let kept = texts.iter().map(|text| text.clone().into_boxed_str()).collect();
            let first = table.rules;
            if let Source::Config(sources) = &mut table.source {
                sources.push((first, key.clone(), kept));
            }
            for (place, text) in texts.iter().enumerate() {
                // Ports are another one's business, and only what is allowed has some.
                let name = if *action == Action::Allow { split_ports(text).0 } else { text };
                let read = name.parse::<Pattern>().map_err(|error| error.to_string());
                let added = read.and_then(|pattern| {
                    let inserted = table.slot(*action, false).and_then(|slot| table.insert(&pattern, slot));
                    inserted.map_err(|error| error.to_string())
                });
                if let Err(reason) = added {
                    errors.push(PolicyError { key: format!("{key}[{place}]"), text: text.clone(), reason });
                }
            }
        }
        if errors.is_empty() { Ok(table.finish()) } else { Err(errors) }
    }

    /// A list that has a name is told of by it.
    #[must_use]
    pub fn named(mut self, of_list: Option<&str>) -> Self {
        if let Source::List { name, .. } = &mut self.source {
            *name = of_list.map(Box::from);
        }
        self
    }

    /// From a list file. Lines that can't be read are left out; the report tells of them.
    ///
    /// # Errors
    /// More than a thousand million rules.
    pub fn from_list(file: &ListFile<'_>) -> Result<(Self, list::Report), PolicyError> {
        let mut table = Self::new(Source::List { path: file.path.into(), name: None, lines: Vec::new() });
        let lines = file.content.split(|octet| *octet == b'\n').count();
        table.nodes.reserve(lines);
        let (nodes, arena, hasher) = (&table.nodes, &table.arena, &table.hasher);
        table.index.reserve(lines, |place| hasher.hash_one(name_at(nodes, arena, *place)));
        let mut numbers = Vec::new();
        let mut failure = None;
        let (mut surplus, mut first_surplus) = (0usize, None);
        let mut report = list::parse(file.format, file.content, &mut |entry| match table.take(&entry, file.action) {
            Ok(kept) => {
                numbers.push(entry.line);
                if !kept {
                    surplus = surplus.saturating_add(1);
                    first_surplus.get_or_insert(entry.line);
                }
            }
            Err(error) => failure = Some((entry.line, error.to_string())),
        });
        (report.surplus, report.first_surplus) = (surplus, first_surplus);
        if let Some((line, reason)) = failure {
            let text = format!("line {line}");
            return Err(PolicyError { key: format!("policy.list {}", file.path), text, reason });
        }
        numbers.shrink_to_fit();
        if let Source::List { lines, .. } = &mut table.source {
            *lines = numbers;
        }
        Ok((table.finish(), report))
    }

    /// False: the rule counts, but its data has no room beside that of its name.
    fn take(&mut self, entry: &list::Entry, listed: Action) -> Result<bool, TooManyRules> {
        let mut kept = true;
        let (action, effect) = match entry.sense {
            Sense::Listed => (listed, Effect::Plain),
            Sense::Exempt => (opposite(listed), Effect::Plain),
            Sense::NoData => (listed, Effect::NoData),
            Sense::Drop => (listed, Effect::Drop),
            Sense::TcpOnly => (opposite(listed), Effect::TcpOnly),
            Sense::Data => (listed, Effect::Data),
        };
        let slot = self.slot(action, entry.sense == Sense::Exempt)?;
        if effect != Effect::Plain {
            self.effects.insert(slot & NUMBER, effect);
        }
        match &entry.trigger {
            Trigger::Name(pattern) => {
                if let Some(data) = &entry.data {
                    // The records of one name come together under the number of the first.
                    let first = self.rule_at(pattern).filter(|held| self.effect(*held) == Effect::Data).unwrap_or(slot);
                    let records = self.data.entry(first & NUMBER).or_default();
                    // The same record twice is one (RFC 2181 section 5).
                    if !records.contains(data) {
                        kept = records.len() < MOST_DATA;
                        if kept {
                            records.push(data.clone());
                        }
                    }
                }
                self.insert(pattern, slot)?;
            }
            Trigger::Answer(net) => self.answers.insert(*net, slot, merge),
            Trigger::Client(net) => self.clients.insert(*net, slot, merge),
        }
        Ok(kept)
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
        let source = match &self.source {
            Source::Config(lists) => lists
                .iter()
                .flat_map(|(_, _, texts)| texts)
                .map(|text| text.len().saturating_add(size_of::<Box<str>>()))
                .sum::<usize>(),
            Source::List { lines, .. } => lines.capacity().saturating_mul(size_of::<u32>()),
        };
        // Half as much again as its entries is what a hash table of the standard library takes at most.
        let map =
            |entries: usize, octets: usize| entries.saturating_mul(octets.saturating_add(1)).saturating_mul(3) / 2;
        let nets = self.answers.len().saturating_add(self.clients.len());
        self.arena
            .capacity()
            .saturating_add(self.nodes.capacity().saturating_mul(size_of::<Node>()))
            .saturating_add(self.index.allocation_size())
            .saturating_add(map(self.effects.len(), size_of::<(u32, Effect)>()))
            .saturating_add(map(self.data.len(), size_of::<(u32, Vec<LocalData>)>()))
            .saturating_add(self.data.values().map(|data| data.capacity().saturating_mul(size_of::<LocalData>())).sum())
            .saturating_add(self.data.values().flatten().map(LocalData::octets).sum())
            .saturating_add(map(nets, size_of::<(IpNet, u32)>()))
            .saturating_add(source)
    }

    /// Names that have a rule, and prefixes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len().saturating_add(self.answers.len()).saturating_add(self.clients.len())
    }

    /// Whether there is no rule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Octets of the longest name.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// Whether who asks matters.
    pub(super) fn has_clients(&self) -> bool {
        !self.clients.is_empty()
    }

    /// The slot and node of the rule for the name `wire`: for the name `whole`, else for what lies below it.
    pub(super) fn find(&self, wire: &[u8], whole: bool) -> Option<(u32, At)> {
        if wire.len() > self.longest {
            return None;
        }
        let hash = self.hasher.hash_one(wire);
        let place = *self.index.find(hash, |place| name_at(&self.nodes, &self.arena, *place) == wire)?;
        let node = self.nodes.get(usize::try_from(place).ok()?)?;
        let slot = if whole { node.itself } else { node.below };
        (slot != NONE).then_some((slot, At::Node(place)))
    }

    /// The rule for an address of an answer.
    pub(super) fn find_answer(&self, address: IpAddr) -> Option<(u32, IpNet)> {
        self.answers.find(address).map(|(net, slot)| (slot, net))
    }

    /// The rule for a client.
    pub(super) fn find_client(&self, address: IpAddr) -> Option<(u32, IpNet)> {
        self.clients.find(address).map(|(net, slot)| (slot, net))
    }

    /// What the rule of this slot does.
    pub(super) fn effect(&self, slot: u32) -> Effect {
        if self.effects.is_empty() {
            return Effect::Plain;
        }
        self.effects.get(&(slot & NUMBER)).copied().unwrap_or_default()
    }

    /// What the rule of this slot answers.
    pub(super) fn data(&self, slot: u32) -> &[LocalData] {
        self.data.get(&(slot & NUMBER)).map_or(&[], Vec::as_slice)
    }

    /// The slot of the rule with just this pattern's name and reach.
    fn rule_at(&self, pattern: &Pattern) -> Option<u32> {
        self.find(pattern.name.wire(), pattern.reach != Reach::Below).map(|(slot, _)| slot)
    }

    /// The rule's words.
    pub(super) fn describe(&self, slot: u32, at: At) -> RuleRef {
        let number = slot & NUMBER;
        let unknown = || RuleRef::new(String::new(), "policy".to_owned());
        match &self.source {
            Source::Config(lists) => {
                // A list without rules begins where the next one does: the last of those that begin at or before the number.
                let place = lists.partition_point(|(first, ..)| *first <= number).checked_sub(1);
                let Some((first, key, texts)) = place.and_then(|place| lists.get(place)) else { return unknown() };
                let offset = usize::try_from(number.saturating_sub(*first)).unwrap_or(usize::MAX);
                texts
                    .get(offset)
                    .map_or_else(unknown, |text| RuleRef::new(text.to_string(), format!("{key}[{offset}]")))
            }
            Source::List { path, name, lines } => RuleRef {
                list: name.as_ref().map(ToString::to_string),
                text: match at {
                    At::Node(node) => Name::from_wire(name_at(&self.nodes, &self.arena, node))
                        .map_or_else(|_| String::new(), |name| name.to_string()),
                    At::Net(net) => net.to_string(),
                },
                place: usize::try_from(number)
                    .ok()
                    .and_then(|number| lines.get(number))
                    .map_or_else(|| path.to_string(), |line| format!("{path}:{line}")),
            },
        }
    }

    /// The next number with its marks. A number is used up in any case, so that numbers and places in the list agree.
    fn slot(&mut self, action: Action, exempt: bool) -> Result<u32, TooManyRules> {
        let number = self.rules;
        if number >= NUMBER {
            return Err(TooManyRules);
        }
        self.rules = self.rules.saturating_add(1);
        let deny = if action == Action::Deny { DENY } else { 0 };
        Ok(number | deny | if exempt { EXEMPT } else { 0 })
    }

    fn insert(&mut self, pattern: &Pattern, slot: u32) -> Result<(), TooManyRules> {
        let wire = pattern.name.wire();
        let hash = self.hasher.hash_one(wire);
        let place = match self.index.find(hash, |place| name_at(&self.nodes, &self.arena, *place) == wire) {
            Some(place) => *place,
            None => self.add_node(wire, hash)?,
        };
        let Some(node) = usize::try_from(place).ok().and_then(|place| self.nodes.get_mut(place)) else {
            return Err(TooManyRules);
        };
        if pattern.reach != Reach::Below {
            node.itself = merge(node.itself, slot);
        }
        if pattern.reach != Reach::Itself {
            node.below = merge(node.below, slot);
        }
        Ok(())
    }

    fn add_node(&mut self, wire: &[u8], hash: u64) -> Result<u32, TooManyRules> {
        let place = u32::try_from(self.nodes.len()).map_err(|_| TooManyRules)?;
        let start = u32::try_from(self.arena.len()).map_err(|_| TooManyRules)?;
        let len = u8::try_from(wire.len()).map_err(|_| TooManyRules)?;
        self.arena.extend_from_slice(wire);
        self.longest = self.longest.max(wire.len());
        self.nodes.push(Node { start, len, itself: NONE, below: NONE });
        let (nodes, arena, hasher) = (&self.nodes, &self.arena, &self.hasher);
        self.index.insert_unique(hash, place, |place| hasher.hash_one(name_at(nodes, arena, *place)));
        Ok(place)
    }
}

/// Which of two rules of one table with the same reach at one name counts: the list's exception, then the denying one, then the first.
fn merge(old: u32, new: u32) -> u32 {
    if old == NONE {
        return new;
    }
    if (old ^ new) & EXEMPT != 0 {
        return if new & EXEMPT != 0 { new } else { old };
    }
    if new & DENY != 0 && old & DENY == 0 { new } else { old }
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
