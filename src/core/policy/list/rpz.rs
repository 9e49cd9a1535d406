//! Response policy zones as master files (draft-vixie-dnsop-dns-rpz-00; RFC 1035 section 5 for the file): triggers on names, on addresses
//! of answers (`rpz-ip`) and on clients (`rpz-client-ip`); the actions NXDOMAIN, NODATA, DROP, TCP-ONLY (not on addresses of answers)
//! and PASSTHRU (exempt); local data at names: of types CNAME, A, AAAA, TXT, SPF, MX, SRV, PTR and CAA, and of any other that leads to no name or
//! address in the form of RFC 3597. What bears other data (service bindings and DNAME among it) is listed, and counted. Triggers on name
//! servers (`rpz-nsdname`, `rpz-nsip`) are skipped and counted, since the guard doesn't see which servers gave an answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use data::DataError;

use super::{LocalData, NoEntry, Pattern, Reach, Sense, Sink, Trigger};
use crate::core::name::Name;

mod data;

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

/// A record that is a rule.
struct Record {
    trigger: Trigger,
    sense: Sense,
    data: Option<LocalData>,
    /// It bears data that is not served.
    denied_instead: bool,
}

impl Record {
    /// Data is served for names only; what can't be served is denied.
    fn with(trigger: Trigger, data: Option<LocalData>) -> Self {
        let data = data.filter(|_| matches!(trigger, Trigger::Name(_)));
        let sense = if data.is_some() { Sense::Data } else { Sense::Listed };
        Self { trigger, sense, denied_instead: data.is_none(), data }
    }
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
            Ok(Some(Record { trigger, sense, data, denied_instead })) => {
                if denied_instead {
                    sink.report.denied_instead = sink.report.denied_instead.saturating_add(1);
                    sink.report.first_denied_instead.get_or_insert(line);
                }
                sink.entry(line, trigger, sense, data);
            }
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
    fn record(&mut self, text: &str) -> Result<Option<Record>, NoEntry> {
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
        let trigger = trigger(name, owner.wildcard)?;
        if !rtype.eq_ignore_ascii_case("CNAME") {
            // Signatures of the zone itself say nothing of anybody's names.
            if is_of_the_zone(rtype) {
                return Err(NoEntry::Skipped);
            }
            if let Some(number) = data::number(rtype) {
                if self.open_since.is_some() {
                    return wrong(format!("{rtype} data must stand on one line"));
                }
                // `rdata` is a part of `text`.
                let start = rdata.map_or(text.len(), |word| word.as_ptr().addr().saturating_sub(text.as_ptr().addr()));
                let name = |text: &str| match self.owner_name(text) {
                    Ok(Owner { wildcard: false, name }) => Ok(name),
                    Ok(_) | Err(NoEntry::Skipped) => Err(DataError::Name(format!("\"{text}\" can't stand there"))),
                    Err(NoEntry::Wrong(reason)) => Err(DataError::Name(reason)),
                };
                return match data::read(number, text.get(start..).unwrap_or_default(), name) {
                    Ok(rdata) => Ok(Some(Record::with(trigger, Some(LocalData::Record(number, rdata))))),
                    Err(reason) => wrong(format!("{rtype}: {reason}")),
                };
            }
            let address = if rtype.eq_ignore_ascii_case("A") {
                Some(rdata.and_then(|text| text.parse().ok()).map(IpAddr::V4))
            } else if rtype.eq_ignore_ascii_case("AAAA") {
                Some(rdata.and_then(|text| text.parse().ok()).map(IpAddr::V6))
            } else {
                None
            };
            return match address {
                Some(Some(address)) => Ok(Some(Record::with(trigger, Some(LocalData::Address(address))))),
                Some(None) => wrong(format!("{rtype} without an address of its family")),
                None => Ok(Some(Record::with(trigger, None))),
            };
        }
        let Some(target) = rdata else { return wrong("a CNAME without target") };
        let sense = match target.to_ascii_lowercase().as_str() {
            "." => Sense::Listed,
            "*." => Sense::NoData,
            "rpz-drop." => Sense::Drop,
            "rpz-tcp-only." => Sense::TcpOnly,
            "rpz-passthru." => Sense::Exempt,
            "rpz-drop" | "rpz-passthru" | "rpz-tcp-only" | "*" => return wrong("the action needs a dot at its end"),
            // "*.garden." would put the question in front of the name.
            _ => {
                let alias = self.owner_name(target)?;
                let data = (!alias.wildcard).then_some(LocalData::Alias(alias.name));
                return Ok(Some(Record::with(trigger, data)));
            }
        };
        if sense == Sense::TcpOnly && matches!(trigger, Trigger::Answer(_)) {
            return Err(NoEntry::Skipped);
        }
        Ok(Some(Record { trigger, sense, data: None, denied_instead: false }))
    }

    fn directive(&mut self, word: &str, value: Option<&str>) -> Result<Option<Record>, NoEntry> {
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

/// The trigger that an owner name, without the zone's, stands for.
fn trigger(name: Name, wildcard: bool) -> Result<Trigger, NoEntry> {
    let labels: Vec<String> = name.labels().map(|label| String::from_utf8_lossy(label).to_ascii_lowercase()).collect();
    let make = match labels.last().map(String::as_str) {
        Some("rpz-ip") => Trigger::Answer,
        Some("rpz-client-ip") => Trigger::Client,
        Some(other) if other.starts_with("rpz-") => return Err(NoEntry::Skipped),
        _ => {
            let reach = if wildcard { Reach::Below } else { Reach::Itself };
            return Ok(Trigger::Name(Pattern { reach, name }));
        }
    };
    let front = labels.get(..labels.len().saturating_sub(1)).unwrap_or_default();
    match net(front).filter(|_| !wildcard) {
        Some(net) => Ok(make(net)),
        None => wrong(format!("\"{name}\" holds no prefix as in 24.0.2.0.192.rpz-ip")),
    }
}

/// A prefix as labels: its length, then the address backwards; of IPv6 in groups of 16 bits, the longest row of zeros as "zz".
fn net(labels: &[String]) -> Option<IpNet> {
    let (length, parts) = labels.split_first()?;
    let length: u8 = length.parse().ok()?;
    let parts = || parts.iter().rev().map(String::as_str);
    let address = if parts().count() == 4 && parts().all(|part| part.parse::<u8>().is_ok()) {
        IpAddr::V4(parts().collect::<Vec<_>>().join(".").parse::<Ipv4Addr>().ok()?)
    } else {
        let mut text = parts().map(|part| if part == "zz" { "" } else { part }).collect::<Vec<_>>().join(":");
        if parts().next() == Some("zz") {
            text.insert(0, ':');
        }
        if parts().next_back() == Some("zz") {
            text.push(':');
        }
        IpAddr::V6(text.parse::<Ipv6Addr>().ok()?)
    };
    let net = IpNet::new(address, length).ok()?;
    (net.trunc() == net).then_some(net)
}

/// Types that a signed zone holds at its names for itself (RFC 4034, RFC 5155).
fn is_of_the_zone(rtype: &str) -> bool {
    ["RRSIG", "NSEC", "NSEC3", "NSEC3PARAM", "DNSKEY", "CDS", "CDNSKEY", "NS", "DS"]
        .iter()
        .any(|own| own.eq_ignore_ascii_case(rtype))
}

fn is_ttl(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_digit())
        && word.chars().all(|c| c.is_ascii_digit() || matches!(c.to_ascii_lowercase(), 's' | 'm' | 'h' | 'd' | 'w'))
}

fn is_class(word: &str) -> bool {
    ["IN", "CH", "HS"].iter().any(|class| class.eq_ignore_ascii_case(word))
}
