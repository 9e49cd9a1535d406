//! Response policy zones as master files (draft-vixie-dnsop-dns-rpz-00; RFC 1035 section 5 for the file): QNAME triggers and the
//! actions NXDOMAIN, NODATA, DROP (all three: listed) and PASSTHRU (exempt). Triggers on addresses, servers and clients, the action
//! TCP-ONLY and local data are skipped and counted.

use super::{NoEntry, Pattern, Reach, Sense, Sink};
use crate::core::name::Name;

/// The state of a reader between lines.
#[derive(Debug, Default)]
pub(super) struct Zone {
    /// Origin of relative names; that of the zone is the owner of its SOA.
    origin: Option<Name>,
    apex: Option<Name>,
    /// Owner of the record before, for lines that begin with white space; `None` after one that could not be read.
    owner: Option<Owner>,
    /// Inside parentheses that this line opened.
    open_since: Option<u32>,
}

/// An owner name: a leading `*` is kept apart, it is no label here.
#[derive(Clone, Debug)]
struct Owner {
    wildcard: bool,
    name: Name,
}

fn wrong<T>(reason: impl Into<String>) -> Result<T, NoEntry> {
    Err(NoEntry::Wrong(reason.into()))
}

/// The line without its comment, and how many parentheses it opens and closes; quotes are respected.
fn strip(text: &str) -> (String, usize, usize) {
    let (mut kept, mut opened, mut closed) = (String::with_capacity(text.len()), 0usize, 0usize);
    let (mut quoted, mut escaped) = (false, false);
    for c in text.chars() {
        let special = !escaped && !quoted;
        match c {
            ';' if special => break,
            '(' if special => opened = opened.saturating_add(1),
            ')' if special => closed = closed.saturating_add(1),
            _ => {
                if c == '"' && !escaped {
                    quoted = !quoted;
                }
                kept.push(c);
            }
        }
        escaped = c == '\\' && !escaped;
    }
    (kept, opened, closed)
}

impl Zone {
    /// A line that could not even be read as text.
    pub(super) fn broken_line(&mut self) {
        self.owner = None;
    }

    /// Takes the next line.
    pub(super) fn line(&mut self, line: u32, text: &str, sink: &mut Sink<'_>) {
        let (text, opened, closed) = strip(text);
        let inside = self.open_since.is_some();
        if opened > closed && !inside {
            self.open_since = Some(line);
        } else if closed > opened {
            self.open_since = None;
        }
        // What follows in parentheses is never needed: triggers and actions stand on the first line.
        if inside || text.trim().is_empty() {
            return;
        }
        match self.record(&text) {
            Ok(Some((pattern, sense))) => sink.entry(line, pattern, sense),
            Ok(None) => {}
            Err(why) => sink.none(line, why),
        }
    }

    /// The end of the file.
    pub(super) fn end(&self, sink: &mut Sink<'_>) {
        if let Some(line) = self.open_since {
            sink.none(line, NoEntry::Wrong("a parenthesis that is never closed".to_owned()));
        }
    }

    /// One record; `None` for what belongs to the zone itself.
    fn record(&mut self, text: &str) -> Result<Option<(Pattern, Sense)>, NoEntry> {
        let mut words = text.split_whitespace().peekable();
        if text.starts_with('$') {
            return self.directive(words.next().unwrap_or_default(), words.next());
        }
        if !text.starts_with([' ', '\t']) {
            // Should the name be wrong, the lines that lean on it must not take the one before.
            self.owner = None;
            self.owner = Some(self.owner_name(words.next().unwrap_or_default())?);
        }
        let Some(owner) = self.owner.clone() else { return wrong("no owner name to continue") };
        // TTL and class may come in either order.
        while words.next_if(|word| is_ttl(word) || is_class(word)).is_some() {}
        let Some(rtype) = words.next() else { return wrong("a record without type") };
        let rdata = words.next();
        if rtype.eq_ignore_ascii_case("SOA") {
            self.apex.get_or_insert(owner.name.clone());
            self.origin.get_or_insert(owner.name);
            return Ok(None);
        }
        let Some(apex) = &self.apex else { return wrong("a record before the zone's SOA") };
        if !owner.wildcard && owner.name == *apex {
            return Ok(None);
        }
        let Some(name) = below(&owner.name, apex) else { return wrong("a name outside the zone") };
        if name.labels().last().is_some_and(|label| label.starts_with(b"rpz-")) {
            return Err(NoEntry::Skipped);
        }
        if !rtype.eq_ignore_ascii_case("CNAME") {
            return Err(NoEntry::Skipped);
        }
        let Some(target) = rdata else { return wrong("a CNAME without target") };
        let sense = match target.to_ascii_lowercase().as_str() {
            "." | "*." | "rpz-drop." => Sense::Listed,
            "rpz-passthru." => Sense::Exempt,
            "rpz-drop" | "rpz-passthru" | "*" => return wrong("the action needs a dot at its end"),
            _ => return Err(NoEntry::Skipped),
        };
        let reach = if owner.wildcard { Reach::Below } else { Reach::Itself };
        Ok(Some((Pattern { reach, name }, sense)))
    }

    fn directive(&mut self, word: &str, value: Option<&str>) -> Result<Option<(Pattern, Sense)>, NoEntry> {
        match (word.to_ascii_uppercase().as_str(), value) {
            ("$TTL", Some(_)) => Ok(None),
            ("$ORIGIN", Some(name)) => {
                self.origin = Some(self.owner_name(name)?.name);
                Ok(None)
            }
            ("$TTL" | "$ORIGIN", None) => wrong(format!("{word} without value")),
            ("$INCLUDE" | "$GENERATE", _) => wrong(format!("{word} is not supported")),
            _ => wrong(format!("unknown directive {word}")),
        }
    }

    fn owner_name(&self, text: &str) -> Result<Owner, NoEntry> {
        let origin = || self.origin.clone().unwrap_or_else(Name::root);
        let (wildcard, rest) = match text {
            "@" => return Ok(Owner { wildcard: false, name: origin() }),
            "*" => return Ok(Owner { wildcard: true, name: origin() }),
            _ => text.strip_prefix("*.").map_or((false, text), |rest| (true, rest)),
        };
        let absolute = rest == "." || (rest.ends_with('.') && !rest.ends_with("\\."));
        let read = rest.parse::<Name>().and_then(|name| {
            let mut wire = name.wire().to_vec();
            if !absolute {
                wire.pop();
                wire.extend_from_slice(origin().wire());
            }
            Name::from_wire(&wire)
        });
        match read {
            Ok(name) => Ok(Owner { wildcard, name }),
            Err(error) => wrong(format!("\"{text}\" is not a domain name: {error}")),
        }
    }
}

/// `name` without `apex` at its end; `None` when it doesn't lie in it.
fn below(name: &Name, apex: &Name) -> Option<Name> {
    if !name.is_within(apex) {
        return None;
    }
    let front = name.wire().len().checked_sub(apex.wire().len())?;
    let mut wire = name.wire().get(..front)?.to_vec();
    wire.push(0);
    Name::from_wire(&wire).ok()
}

fn is_ttl(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_digit())
        && word.chars().all(|c| c.is_ascii_digit() || matches!(c.to_ascii_lowercase(), 's' | 'm' | 'h' | 'd' | 'w'))
}

fn is_class(word: &str) -> bool {
    ["IN", "CH", "HS"].iter().any(|class| class.eq_ignore_ascii_case(word))
}
