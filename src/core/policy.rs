//! Which names may be asked: allow and deny rules by name, the longest match decides, deny wins a tie.
//!
//! Rules are kept in tables, one for the configuration and one for each list ([`table`]): a lookup probes the name and each of its
//! parents in every table, allocates nothing, and costs the same with one rule as with a million. Which clients are judged by which
//! tables says [`view`].
//!
//! A tie, that is rules with the same reach at the same name: the configuration's own rules win over list files, so that a listed name can
//! always be let through; exceptions of a list win over that list's other rules; otherwise deny wins.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::name::{Name, NameError};
use super::narrow::Openings;
use crate::config::schema::{Action, Config, ListFormat, Rule, split_ports};

pub mod bound;
pub mod exceptions;
pub mod list;
pub mod ports;
pub mod schedule;
pub mod table;
#[cfg(test)]
mod tests;
pub mod view;

use exceptions::Exception;
use ports::PortRules;
pub use table::{Effect, Table};

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
    layer: u16,
    slot: u32,
    at: At,
}

/// What a rule is about: a name, by its place in the table, or a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Node(u32),
    Net(IpNet),
}

/// A rule in words, for logs, EDE and `explain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleRef {
    /// As the operator wrote it: "*.example.com"; of a list: the name.
    pub text: String,
    /// The name of its list, where that has one.
    pub list: Option<String>,
    /// Where it stands: `policy.deny[3]` (from 0), or `lists/malware.txt:17` (line, from 1).
    pub place: String,
}

impl RuleRef {
    /// Of no list that has a name.
    fn new(text: String, place: String) -> Self {
        Self { text, list: None, place }
    }
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.list {
            Some(list) => write!(f, "{} (list {list}, {})", self.text, self.place),
            None => write!(f, "{} ({})", self.text, self.place),
        }
    }
}

/// A rule that can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: \"{text}\" can't be used: {reason}")]
pub struct PolicyError {
    /// The key, as in `policy.deny[3]`.
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

/// Why a text is no rule for names.
#[derive(Debug, thiserror::Error)]
pub enum PatternError {
    /// A star that isn't in front.
    #[error(
        "a wildcard stands for all names below another and must be in front, as in \"*.example.com\"; \
         what no rule names follows policy.default"
    )]
    Wildcard,
    /// The name is none that the DNS can have.
    #[error(transparent)]
    Name(#[from] UserNameError),
}

impl std::str::FromStr for Pattern {
    type Err = PatternError;

    /// "example.com", "*.example.com", "=example.com"; ".example.com" is the first (as others write it); a trailing dot is optional, Unicode names become A-labels (UTS 46).
    fn from_str(text: &str) -> Result<Self, PatternError> {
        let (reach, rest) = if let Some(rest) = text.strip_prefix("*.") {
            (Reach::Below, rest)
        } else if let Some(rest) = text.strip_prefix('=') {
            (Reach::Itself, rest)
        } else {
            (Reach::Tree, text.strip_prefix('.').filter(|rest| !rest.is_empty()).unwrap_or(text))
        };
        if rest.contains('*') {
            return Err(PatternError::Wildcard);
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

impl Pattern {
    /// Whether a name is one of those.
    #[must_use]
    pub fn covers(&self, name: &Name) -> bool {
        match self.reach {
            Reach::Tree => name.is_within(&self.name),
            Reach::Below => name.is_within(&self.name) && *name != self.name,
            Reach::Itself => *name == self.name,
        }
    }
}

/// Why a name as a person writes it is none.
#[derive(Debug, thiserror::Error)]
pub enum UserNameError {
    /// Nothing is written.
    #[error("an empty name")]
    Empty,
    /// A character that people mean for something else.
    #[error("a domain name has no {0:?}; write its octets as \\DDD if they are meant")]
    Odd(char),
    /// Unicode that has no form in DNS.
    #[error("no A-label form (UTS 46)")]
    NoALabel,
    /// Not in presentation form, or too long.
    #[error(transparent)]
    Name(#[from] NameError),
}

/// A name as a person writes it: ASCII in presentation form, or Unicode, which becomes A-labels (UTS 46, non-transitional).
///
/// # Errors
/// [`UserNameError`].
pub fn name_from_user(text: &str) -> Result<Name, UserNameError> {
    if text.is_empty() {
        return Err(UserNameError::Empty);
    }
    // Any octet may stand in a name, but what a person writes unescaped and is none of these is a URL, a rule of another format, a slip.
    let usual = |c: char| {
        c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '\\') || (!c.is_ascii() && !c.is_whitespace())
    };
    if let Some(odd) = text.chars().find(|c| !usual(*c)) {
        return Err(UserNameError::Odd(odd));
    }
    if text.is_ascii() {
        return Ok(text.parse::<Name>()?);
    }
    let ascii = idna::domain_to_ascii(text).map_err(|_| UserNameError::NoALabel)?;
    Ok(ascii.parse::<Name>()?)
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

/// The rules of one view, ready to be asked. Never changed: a reload builds another.
#[derive(Clone, Debug)]
pub struct Policy {
    default: Action,
    /// The configuration's own rules, then the lists in their order. Lists are shared between views.
    layers: Vec<Arc<Table>>,
    /// The operator's, above all of these.
    exceptions: Arc<[Exception]>,
    /// Which ports names open.
    ports: Arc<PortRules>,
}

/// The layer that rules of exceptions are said to be in: no table has so many before it.
const EXCEPTIONS: u16 = u16::MAX;

/// The configuration's own rules for one view: key in front of "allow" and "deny", and what stands there.
#[derive(Clone, Copy, Debug)]
pub struct OwnRules<'a> {
    /// The key of the table that holds them: "policy", or as "policy.group\[0\]".
    pub key: &'a str,
    /// For names that nothing matches.
    pub default: Action,
    /// The patterns of names that are allowed.
    pub allow: &'a [String],
    /// The patterns of names that are denied.
    pub deny: &'a [String],
    /// The rules of `[[policy.rule]]`, in the order of the file.
    pub rules: &'a [Rule],
    /// The group whose rules these are.
    pub group: Option<&'a str>,
}

impl Policy {
    /// From `[policy]`: default, allow and deny.
    ///
    /// # Errors
    /// Every rule that can't be read, not only the first.
    pub fn new(config: &Config) -> Result<Self, Vec<PolicyError>> {
        Self::of(OwnRules::of_everybody(config), Vec::new())
    }

    /// From a view's own rules and its lists.
    ///
    /// # Errors
    /// Every rule that can't be read, not only the first.
    pub fn of(own: OwnRules<'_>, lists: Vec<Arc<Table>>) -> Result<Self, Vec<PolicyError>> {
        let mut sources = vec![
            (format!("{}.allow", own.key), Action::Allow, own.allow),
            (format!("{}.deny", own.key), Action::Deny, own.deny),
        ];
        let is_meant = |rule: &Rule| match own.group {
            _ if rule.clients.is_empty() => true,
            Some(group) => rule.clients.iter().any(|name| name == group),
            None => false,
        };
        let rules = own.rules.iter().enumerate().filter(|(_, rule)| is_meant(rule));
        let rules: Vec<(String, &Rule)> = rules.map(|(at, rule)| (format!("policy.rule[{at}]"), rule)).collect();
        sources.extend(rules.iter().map(|(key, rule)| (format!("{key}.names"), Action::Allow, rule.names.as_slice())));
        let table = Table::from_config(&sources)?;
        let ports = port_rules(own, &rules)?;
        let mut layers = vec![Arc::new(table)];
        layers.extend(lists);
        Ok(Self { default: own.default, layers, exceptions: Arc::from([]), ports: Arc::new(ports) })
    }

    /// Like [`Policy::new`], with list files; a report for each, in order. Lines that can't be read are left out.
    ///
    /// # Errors
    /// Like [`Policy::new`]; and more than a thousand million rules in a file.
    pub fn with_lists(config: &Config, files: &[ListFile<'_>]) -> Result<(Self, Vec<list::Report>), Vec<PolicyError>> {
        let mut tables = Vec::with_capacity(files.len());
        let mut reports = Vec::with_capacity(files.len());
        for file in files {
            let (table, report) = Table::from_list(file).map_err(|error| vec![error])?;
            tables.push(Arc::new(table));
            reports.push(report);
        }
        Ok((Self::of(OwnRules::of_everybody(config), tables)?, reports))
    }

    /// With the operator's exceptions, in place of others.
    #[must_use]
    pub fn with_exceptions(mut self, exceptions: Arc<[Exception]>) -> Self {
        self.exceptions = exceptions;
        self
    }

    /// What an answer to a question for this name opens of its addresses; nothing: everything. An exception of the operator's opens everything.
    #[must_use]
    pub fn openings(&self, name: &Name) -> Openings {
        let denies = |suffix: &[u8], whole| {
            let own = self.layers.first().and_then(|table| table.find(suffix, whole));
            own.is_some_and(|(slot, _)| slot & table::DENY != 0)
        };
        if exceptions::find(&self.exceptions, name).is_some() {
            return Openings::default();
        }
        self.ports.openings(name, denies)
    }

    /// Octets of memory that the rules take, shared lists included.
    #[must_use]
    pub fn octets(&self) -> usize {
        self.layers.iter().map(|table| table.octets()).sum()
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

    /// The rule of a list for an address in an answer (`rpz-ip`); the longest prefix counts, deny wins between lists.
    #[must_use]
    pub fn judge_answer(&self, address: IpAddr) -> Option<Verdict> {
        self.by_address(|table| table.find_answer(address))
    }

    /// The rule of a list for who asks (`rpz-client-ip`); likewise.
    #[must_use]
    pub fn judge_client(&self, client: IpAddr) -> Option<Verdict> {
        if self.has_client_rules() { self.by_address(|table| table.find_client(client)) } else { None }
    }

    /// Whether who asks matters to any list.
    #[must_use]
    pub fn has_client_rules(&self) -> bool {
        self.layers.iter().any(|table| table.has_clients())
    }

    fn by_address(&self, find: impl Fn(&Table) -> Option<(u32, IpNet)>) -> Option<Verdict> {
        let found = self.layers.iter().enumerate().filter_map(|(layer, table)| Some((layer, find(table)?)));
        let best = found
            .max_by_key(|(layer, (slot, net))| (net.prefix_len(), slot & table::DENY != 0, std::cmp::Reverse(*layer)));
        best.map(|(layer, (slot, net))| verdict(layer, slot, At::Net(net)))
    }

    /// What a verdict's rule does beside allowing or denying.
    #[must_use]
    pub fn effect(&self, verdict: Verdict) -> Effect {
        let Some(rule) = verdict.rule else { return Effect::Plain };
        self.layers.get(usize::from(rule.layer)).map_or(Effect::Plain, |table| table.effect(rule.slot))
    }

    /// The answer that a list bears for a question, if it has one.
    #[must_use]
    pub fn local_data(&self, name: &Name) -> Option<&[list::LocalData]> {
        let verdict = self.judge(name);
        let rule = verdict.rule.filter(|_| self.effect(verdict) == Effect::Data)?;
        Some(self.layers.get(usize::from(rule.layer))?.data(rule.slot))
    }

    /// The rule's words.
    #[must_use]
    pub fn describe(&self, rule: RuleId) -> RuleRef {
        let exception = usize::try_from(rule.slot).ok().filter(|_| rule.layer == EXCEPTIONS);
        if let Some(exception) = exception.and_then(|place| self.exceptions.get(place)) {
            return RuleRef::new(exception.pattern.to_string(), exception.words.clone());
        }
        self.layers.get(usize::from(rule.layer)).map_or_else(
            || RuleRef::new(String::new(), "policy".to_owned()),
            |table| table.describe(rule.slot, rule.at),
        )
    }

    /// The words of a verdict, for people: the rule, or "policy.default".
    #[must_use]
    pub fn words(&self, verdict: Verdict) -> String {
        verdict.rule.map_or_else(|| "policy.default".to_owned(), |rule| self.describe(rule).to_string())
    }

    /// Number of names and prefixes that have a rule, counted in each list.
    #[must_use]
    pub fn len(&self) -> usize {
        self.layers.iter().map(|table| table.len()).sum()
    }

    /// Whether there is no rule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn matching(&self, name: &Name) -> Option<Verdict> {
        if let Some((place, exception)) = exceptions::find(&self.exceptions, name) {
            let slot = u32::try_from(place).unwrap_or(u32::MAX);
            return Some(Verdict {
                action: exception.action,
                rule: Some(RuleId { layer: EXCEPTIONS, slot, at: At::Node(0) }),
            });
        }
        let longest = self.layers.iter().map(|table| table.longest()).max()?;
        for suffix in name.suffixes().filter(|suffix| suffix.len() <= longest) {
            let whole = suffix.len() == name.wire().len();
            let mut best: Option<(usize, u32, At)> = None;
            for (layer, table) in self.layers.iter().enumerate() {
                let Some((slot, at)) = table.find(suffix, whole) else { continue };
                if best.is_none_or(|(_, held, _)| slot & table::DENY != 0 && held & table::DENY == 0) {
                    best = Some((layer, slot, at));
                }
                // The configuration's own rule wins over any list's at the same name.
                if layer == 0 {
                    break;
                }
            }
            if let Some((layer, slot, at)) = best {
                return Some(verdict(layer, slot, at));
            }
        }
        None
    }
}

impl<'a> OwnRules<'a> {
    /// Those of `[policy]`.
    #[must_use]
    pub fn of_everybody(config: &'a Config) -> Self {
        let policy = &config.policy;
        Self {
            key: "policy",
            default: policy.default,
            allow: &policy.allow,
            deny: &policy.deny,
            rules: &policy.rule,
            group: None,
        }
    }
}

/// Which ports the rules of a view open. The names are right.
fn port_rules(own: OwnRules<'_>, rules: &[(String, &Rule)]) -> Result<PortRules, Vec<PolicyError>> {
    let (mut all, mut errors) = (Vec::new(), Vec::new());
    let mut read = |key: String, text: &str, ports: &str| match ports::read(ports) {
        Ok(ports) => Some(ports),
        Err(reason) => {
            errors.push(PolicyError { key, text: text.to_owned(), reason: reason.to_string() });
            None
        }
    };
    for (at, text) in own.allow.iter().enumerate() {
        let (name, ports) = split_ports(text);
        let ports = ports.and_then(|ports| read(format!("{}.allow[{at}]", own.key), text, ports));
        all.extend(name.parse().ok().map(|pattern: Pattern| (pattern, ports)));
    }
    for (key, rule) in rules {
        let given = rule.ports.iter().enumerate();
        let mut opened: Vec<_> =
            given.filter_map(|(at, text)| read(format!("{key}.ports[{at}]"), text, text)).flatten().collect();
        opened.sort_unstable();
        opened.dedup();
        let opened = (!rule.ports.is_empty()).then_some(opened);
        let names = rule.names.iter().filter_map(|name| name.parse::<Pattern>().ok());
        all.extend(names.map(|pattern| (pattern, opened.clone())));
    }
    if errors.is_empty() { Ok(PortRules::new(&all)) } else { Err(errors) }
}

fn verdict(layer: usize, slot: u32, at: At) -> Verdict {
    let action = if slot & table::DENY == 0 { Action::Allow } else { Action::Deny };
    let layer = u16::try_from(layer).unwrap_or(u16::MAX);
    Verdict { action, rule: Some(RuleId { layer, slot, at }) }
}

/// The registrable domain of `name` (public suffix list, private section included): one label more than its public suffix. A public
/// suffix itself, and the root, stand for themselves.
#[must_use]
pub fn registrable(name: &Name) -> Name {
    use psl::Psl as _;
    // Most names have fewer labels than that.
    let labels: smallvec::SmallVec<[&[u8]; 12]> = name.labels().collect();
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
    if domain.len() == name.wire().len() { name.clone() } else { Name::of_suffix(domain) }
}
