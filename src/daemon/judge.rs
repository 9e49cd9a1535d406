//! What the rules say of a name or an address, in words for `explain`. Names are judged by [`crate::dns::resolver::explain`], addresses by
//! [`verdict::judge_for`], as answers are: what is said here is what a question would meet.

use std::net::IpAddr;
use std::path::Path;

use crate::config::{Config, Places};
use crate::control::sources::Subject;
use crate::control::types::{Judgement, Tried, TriedAddress};
use crate::core::address::Admitted;
use crate::core::answer::{CLASS_IN, Question, Record, RecordData};
use crate::core::local_names::Local;
use crate::core::name::Name;
use crate::core::policy::view::{ViewId, Whose};
use crate::core::policy::{Effect, RuleRef};
use crate::core::verdict::{self, Judged};
use crate::dns::Rules;
use crate::dns::codec::wire::{rcode, rtype};
use crate::dns::resolver::ddr::is_resolver_arpa;
use crate::dns::resolver::explain::{self, Fate};

/// Where rules are written.
#[derive(Clone, Copy)]
pub struct Written<'a> {
    /// A key of the configuration, as file:line.
    pub place: &'a dyn Fn(&str) -> Option<String>,
    /// A list's name, by its file.
    pub list: &'a dyn Fn(&str) -> Option<String>,
}

/// Where a key is written, as file:line.
#[must_use]
pub fn place_of(places: &Places, file: &Path, key: &str) -> Option<String> {
    places.get(key).map(|(line, _)| format!("{}:{line}", file.display()))
}

/// The name of the list with this file: its own, else that of the file without its ending.
#[must_use]
pub fn list_of(config: &Config, path: &str) -> Option<String> {
    let list = config.policy.list.iter().find(|list| list.shown() == path)?;
    list.name.clone().or_else(|| Some(list.path.file_stem()?.to_string_lossy().into_owned()))
}

/// What would happen now to a question for a name, or to an answer with an address: of everybody, or of those whom `whose` names. `causes`: questions that
/// had the address in their answers, with their aliases.
#[must_use]
pub fn judge(
    rules: &Rules,
    subject: &Subject,
    whose: Whose<'_>,
    causes: &[(Name, Vec<Name>)],
    written: Written<'_>,
) -> Judgement {
    let view = rules.views.of_whose(whose);
    match subject {
        Subject::Name(name) => {
            answered_here(rules, name, written).unwrap_or_else(|| judge_name(rules, name, view, written))
        }
        Subject::Address(address) => {
            let general = judge_address(rules, *address, view, written);
            let known = causes.iter().filter(|(question, _)| *question != Name::root());
            let of_cause = |(question, chain): &(Name, Vec<Name>)| {
                judge_answer(rules, *address, view.unwrap_or(0), (question, chain), written)
            };
            let known: Vec<Judgement> = known.map(of_cause).collect();
            let open = known.iter().find(|judged| ["allowed", "always open"].contains(&judged.verdict.as_str()));
            match (open, general.verdict.as_str()) {
                (Some(open), _) => open.clone(),
                // Another name might open it, but none is known to.
                (None, "allowed") => known.into_iter().next().unwrap_or(general),
                (None, _) => general,
            }
        }
    }
}

/// What a question got, in words.
#[must_use]
pub fn tried(rules: &Rules, name: &Name, tried: explain::Tried, written: Written<'_>) -> Tried {
    let (verdict, mut reason) = match tried.fate {
        Fate::Answered if tried.rcode == rcode::NXDOMAIN => ("allowed", "there is no such name".to_owned()),
        Fate::Answered if tried.opened.is_empty() && tried.already_open.is_empty() => {
            ("allowed", "there is no such data".to_owned())
        }
        Fate::Answered => ("allowed", String::new()),
        Fate::Denied => ("denied", format!("denied by {}", tried.words)),
        Fate::Silent => ("denied", format!("gets no reply by {}", tried.words)),
        Fate::Filtered => ("filtered", "no address is left".to_owned()),
        Fate::Failed => ("failed", tried.words.clone()),
        Fate::AnsweredHere => ("answered here", tried.words.clone()),
    };
    let (mut rule, mut place) = (None, None);
    if let Some((matched, by)) = tried.rule {
        reason = match &by {
            Some(by) if matched == *name => format!("the rule \"{}\" denies it", by.text),
            Some(by) => format!("the rule \"{}\" denies it through {matched}", by.text),
            None => "no rule matches, policy.default decides".to_owned(),
        };
        let (key, at) = named(by, written);
        (rule, place) = (Some(key), at);
    }
    let lifted = |address: IpAddr| {
        let key = rules.filter.lifted_by(address, name).map(|entry| format!("policy.private[{entry}]"));
        let place = key.as_deref().and_then(written.place);
        (key, place)
    };
    let mut addresses = Vec::new();
    for address in tried.opened {
        let (rule, place) = lifted(address);
        addresses.push(TriedAddress { address, verdict: "allowed".to_owned(), reason: None, rule, place });
    }
    for address in tried.already_open {
        let judged = always_open(rules, address, written);
        let reason = judged.rule.is_none().then_some(judged.reason);
        addresses.push(TriedAddress {
            address,
            verdict: judged.verdict,
            reason,
            rule: judged.rule,
            place: judged.place,
        });
    }
    for (address, why) in tried.removed {
        let reason = Some(why.to_string());
        addresses.push(TriedAddress { address, verdict: "filtered".to_owned(), reason, rule: None, place: None });
    }
    let qtype = if tried.qtype == rtype::AAAA { "AAAA" } else { "A" };
    Tried {
        qtype: qtype.to_owned(),
        verdict: verdict.to_owned(),
        reason,
        rule,
        place,
        chain: tried.chain.iter().map(Name::to_string).collect(),
        addresses,
    }
}

/// An answer to a question, over these aliases, that holds the address and nothing else.
fn judge_answer(
    rules: &Rules,
    address: IpAddr,
    view: ViewId,
    (question, chain): (&Name, &[Name]),
    written: Written<'_>,
) -> Judgement {
    const TTL: u32 = 60;
    let record = |owner: &Name, rtype, data| Record { owner: owner.clone(), rtype, class: CLASS_IN, ttl: TTL, data };
    let mut owner = question;
    let mut records = Vec::new();
    for alias in chain {
        records.push(record(owner, rtype::CNAME, RecordData::Cname(alias.clone())));
        owner = alias;
    }
    let qtype = match address {
        IpAddr::V4(ip) => {
            records.push(record(owner, rtype::A, RecordData::A(ip)));
            rtype::A
        }
        IpAddr::V6(ip) => {
            records.push(record(owner, rtype::AAAA, RecordData::Aaaa(ip)));
            rtype::AAAA
        }
    };
    let asked = Question { name: question.clone(), qtype, qclass: CLASS_IN };
    let response = verdict::Response { question: &asked, records: &records, noerror: true, dnssec_ok: false };
    let plain = |verdict: &str, reason| Judgement { verdict: verdict.to_owned(), reason, rule: None, place: None };
    match verdict::judge_for(rules.views.policy(view), &rules.filter, response, None) {
        Judged::Answer(answer) if answer.grants.is_empty() => always_open(rules, address, written),
        Judged::Answer(_) => match rules.filter.lifted_by(address, question) {
            None => plain("allowed", format!("an answer for {question} may open it")),
            Some(entry) => {
                let key = format!("policy.private[{entry}]");
                let place = (written.place)(&key);
                Judgement {
                    rule: Some(key),
                    place,
                    ..plain("allowed", format!("an answer for {question} may open it"))
                }
            }
        },
        Judged::Denied { name, rule, .. } => {
            let text = rule.as_ref().map_or("policy.default", |rule| rule.text.as_str());
            let through = if name == *question { String::new() } else { format!(" through {name}") };
            let reason = format!("an answer for {question} is denied by \"{text}\"{through}");
            let (key, place) = named(rule, written);
            Judgement { rule: Some(key), place, ..plain("denied", reason) }
        }
        Judged::Filtered { removed, .. } => {
            let why = removed.first().map_or_else(String::new, |removed| format!(": {}", removed.reason));
            plain("filtered", format!("{address} is removed from answers{why}"))
        }
        Judged::Unbound(error) => plain("unknown", error.to_string()),
    }
}

fn always_open(rules: &Rules, address: IpAddr, written: Written<'_>) -> Judgement {
    const KEY: &str = "addresses.open";
    if !rules.filter.is_open(address) {
        let reason = match rules.filter.zones_holding(address).next() {
            Some(zone) => format!("the local zone {zone} holds {address}, which clients reach without the guard"),
            None => format!("{address} is an address of this host, which is reached without a lease"),
        };
        return Judgement { verdict: "always open".to_owned(), reason, ..Judgement::default() };
    }
    Judgement {
        verdict: "always open".to_owned(),
        reason: format!("{address} lies in {KEY}"),
        rule: Some(KEY.to_owned()),
        place: (written.place)(KEY),
    }
}

/// The guard's own names come before the policy, as they do when a client asks.
fn answered_here(rules: &Rules, name: &Name, written: Written<'_>) -> Option<Judgement> {
    const KEY: &str = "dns.local_names";
    let verdict = "answered here".to_owned();
    if is_resolver_arpa(name.wire()) {
        let reason = format!("the guard answers {name} itself: RFC 9462");
        return Some(Judgement { verdict, reason, rule: None, place: None });
    }
    let (local, why) = rules.answer_local(name, rtype::A)?;
    let with = match local {
        Local::NoName => "that there is no such name".to_owned(),
        Local::NoData => "with no data".to_owned(),
        Local::Addresses(addresses) => {
            format!("with {}", addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", "))
        }
    };
    let reason = format!("the guard answers {name} itself, {with}: {why}");
    Some(Judgement { verdict, reason, rule: Some(KEY.to_owned()), place: (written.place)(KEY) })
}

fn judge_name(rules: &Rules, name: &Name, view: Option<ViewId>, written: Written<'_>) -> Judgement {
    let policy = rules.views.policy(view.unwrap_or(0));
    let verdict = policy.judge(name);
    let rule = verdict.rule.map(|rule| policy.describe(rule));
    let (word, does) = if verdict.denies() { ("denied", "is denied") } else { ("allowed", "may be asked") };
    let does = match policy.effect(verdict) {
        Effect::Plain => does,
        Effect::NoData => "is answered with no data",
        Effect::Drop => "gets no reply",
        Effect::TcpOnly => "may be asked over TCP only",
        Effect::Data => "is answered with the list's own data",
    };
    let mut reason = match &rule {
        Some(rule) => format!("{name} {does} by the rule \"{}\"", rule.text),
        None => format!("{name} {does}: no rule matches, policy.default decides"),
    };
    if !verdict.denies()
        && let Some(zone) = rules.zones.set.zone_of(name)
    {
        reason.push_str(&format!("; the local zone {} (dns.zone) answers it", zone.apex()));
    }
    for view in others(rules, view) {
        let (theirs, group) = (rules.views.policy(view), rules.views.name(view).unwrap_or_default());
        let judged = theirs.judge(name);
        if judged.denies() != verdict.denies() {
            let word = if judged.denies() { "denied" } else { "allowed" };
            reason.push_str(&format!("; for the group {group} it is {word} by {}", theirs.words(judged)));
        }
    }
    let (rule, place) = named(rule, written);
    Judgement { verdict: word.to_owned(), reason, place, rule: Some(rule) }
}

/// The views that are to be told apart, where no client is named.
fn others(rules: &Rules, view: Option<ViewId>) -> impl Iterator<Item = ViewId> {
    let named = view.is_some();
    rules.views.all().skip(1).filter(move |_| !named)
}

/// The rule of a list is named by the list, and by its file and line; that of the configuration by its key.
fn named(rule: Option<RuleRef>, written: Written<'_>) -> (String, Option<String>) {
    let Some(rule) = rule else {
        return ("policy.default".to_owned(), (written.place)("policy.default"));
    };
    if rule.place.starts_with("exception: ") {
        return (rule.place, None);
    }
    match rule.place.rsplit_once(':').filter(|_| !rule.place.starts_with("policy.")) {
        Some((file, _)) => {
            let list = (written.list)(file).map_or_else(|| rule.place.clone(), |list| format!("list {list}"));
            (list, Some(rule.place))
        }
        None => {
            let place = (written.place)(&rule.place);
            (rule.place, place)
        }
    }
}

fn judge_address(rules: &Rules, address: IpAddr, view: Option<ViewId>, written: Written<'_>) -> Judgement {
    // The root lies in no private domain: what is judged is an answer to a name without exceptions.
    let judged = match rules.filter.judge(address, &Name::root(), &[]) {
        Ok(Admitted::AlreadyOpen | Admitted::Here | Admitted::Told) => always_open(rules, address, written),
        Ok(Admitted::Lease) => {
            let key = rules.filter.lifted_by(address, &Name::root()).map(|entry| format!("policy.private[{entry}]"));
            let place = key.as_deref().and_then(written.place);
            let reason = format!("{address} may be opened by an answer");
            Judgement { verdict: "allowed".to_owned(), reason, rule: key, place }
        }
        Err(reason) => lifted(rules, address, written).unwrap_or_else(|| Judgement {
            verdict: "filtered".to_owned(),
            reason: format!("{address} is removed from answers: {reason}"),
            ..Judgement::default()
        }),
    };
    let policy = rules.views.policy(view.unwrap_or(0));
    let verdict = verdict::denied_address(policy, &rules.filter, address);
    let mut groups = String::new();
    for view in others(rules, view) {
        let (theirs, group) = (rules.views.policy(view), rules.views.name(view).unwrap_or_default());
        match verdict::denied_address(theirs, &rules.filter, address) {
            Some(judged) if verdict.is_none() => {
                let words = theirs.words(judged);
                groups.push_str(&format!("; for the group {group} an answer with it is denied by {words}"));
            }
            None if verdict.is_some() => groups.push_str(&format!("; for the group {group} no list denies it")),
            _ => {}
        }
    }
    let Some(verdict) = verdict else {
        return Judgement { reason: judged.reason + &groups, ..judged };
    };
    let rule = verdict.rule.map(|rule| policy.describe(rule));
    let does = match policy.effect(verdict) {
        Effect::NoData => "is answered with no data",
        Effect::Drop => "gets no reply",
        _ => "is denied",
    };
    let text = rule.as_ref().map(|rule| rule.text.as_str()).unwrap_or_default();
    let by_list = format!("a question whose answer holds {address} {does} by the rule \"{text}\"");
    // Packets to what is always open pass, whatever lists say of answers.
    if judged.verdict == "always open" {
        return Judgement { reason: format!("{}, but {by_list}{groups}", judged.reason), ..judged };
    }
    let (rule, place) = named(rule, written);
    Judgement { verdict: "denied".to_owned(), reason: by_list + &groups, rule: Some(rule), place }
}

/// The entry of `policy.private` that lets answers for some names hold an address that is else filtered.
fn lifted(rules: &Rules, address: IpAddr, written: Written<'_>) -> Option<Judgement> {
    if let Some(zone) = rules.filter.zones_holding(address).find(|zone| rules.filter.judge(address, zone, &[]).is_ok())
    {
        let reason = format!("answers for names of the local zone {zone} (dns.zone) alone may have it");
        return Some(Judgement { verdict: "allowed".to_owned(), reason, rule: None, place: None });
    }
    let mut entries = rules.filter.private_entries(address);
    let (entry, domain) = entries.find(|(_, domain)| rules.filter.judge(address, domain, &[]).is_ok())?;
    let key = format!("policy.private[{entry}]");
    let place = (written.place)(&key);
    let reason = format!("answers for names within {domain} alone may open it");
    Some(Judgement { verdict: "allowed".to_owned(), reason, rule: Some(key), place })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::core::policy::name_from_user;
    use crate::daemon::{lists::Lists, rules::rules};

    fn rules_of(text: &str) -> Rules {
        let config: Config = toml::from_str(text).unwrap();
        rules(&config, &Lists::load(&config, &Lists::default()).unwrap(), &Default::default(), &Default::default())
            .unwrap()
    }

    fn judged(rules: &Rules, subject: &str) -> Judgement {
        let subject = match subject.parse() {
            Ok(address) => Subject::Address(address),
            Err(_) => Subject::Name(name_from_user(subject).unwrap()),
        };
        let place = |key: &str| Some(format!("destguard.toml:{}", key.len()));
        let list = |path: &str| path.rsplit('/').next().map(str::to_owned);
        judge(rules, &subject, Whose::default(), &[], Written { place: &place, list: &list })
    }

    #[test]
    fn names_that_the_guard_answers_itself_are_not_called_allowed() {
        let rules =
            rules_of("[policy]\ndefault = \"deny\"\n[[policy.private]]\ndomain = \"home.arpa\"\nprefixes = []\n");
        for (name, with) in [
            ("localhost", "with 127.0.0.1: RFC 6761"),
            ("mask.icloud.com", "that there is no such name: it turns iCloud Private Relay off"),
            ("10.in-addr.arpa", "with no data: RFC 6303"),
        ] {
            let now = judged(&rules, name);
            assert_eq!((now.verdict.as_str(), now.rule.as_deref()), ("answered here", Some("dns.local_names")));
            assert!(now.reason.contains(with), "{}", now.reason);
            assert_eq!(now.place.as_deref(), Some("destguard.toml:15"));
        }
        assert_eq!(judged(&rules, "_dns.resolver.arpa").verdict, "answered here");
        // The operator's upstreams know this one.
        assert_eq!(judged(&rules, "nas.home.arpa").verdict, "denied");
        let rules = rules_of("[dns]\nlocal_names = false\n");
        assert_eq!(judged(&rules, "localhost").verdict, "allowed");
        assert_eq!(judged(&rules, "_dns.resolver.arpa").verdict, "answered here");
    }

    #[test]
    fn an_own_address_needs_no_lease_and_one_on_link_is_inside() {
        let text = "[[policy.private]]\ndomain = \"lan.test\"\nprefixes = [\"45.10.1.0/24\"]\n";
        let config: Config = toml::from_str(text).unwrap();
        let nets = [
            ("45.10.0.0/24".parse().unwrap(), "eth0".to_owned()),
            ("45.10.1.0/24".parse().unwrap(), "eth1".to_owned()),
        ];
        let on_link = crate::sys::on_link::Found { nets: nets.into(), ..Default::default() };
        let here = crate::sys::interfaces::Here {
            addresses: vec!["45.10.0.1".parse().unwrap()],
            on_link,
            ..Default::default()
        };
        let rules =
            rules(&config, &Lists::load(&config, &Lists::default()).unwrap(), &here, &Default::default()).unwrap();
        let now = judged(&rules, "45.10.0.1");
        assert_eq!((now.verdict.as_str(), now.rule), ("always open", None));
        assert!(now.reason.contains("an address of this host, which is reached without a lease"), "{}", now.reason);
        let now = judged(&rules, "45.10.0.2");
        assert_eq!(now.verdict, "filtered");
        assert!(now.reason.contains("45.10.0.0/24 is on-link at eth0"), "{}", now.reason);
        let now = judged(&rules, "45.10.1.2");
        assert_eq!((now.verdict.as_str(), now.rule.as_deref()), ("allowed", Some("policy.private[0]")));
    }

    #[test]
    fn addresses_that_a_list_denies_in_answers_are_not_called_allowed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("zone");
        let zone = "@ SOA a. b. 1 1 1 1 1\n32.7.113.0.203.rpz-ip CNAME .\n32.8.113.0.203.rpz-ip CNAME *.\n\
                    32.9.113.0.203.rpz-ip CNAME rpz-passthru.\n32.10.113.0.203.rpz-ip CNAME .\n";
        std::fs::write(&path, zone).unwrap();
        let rules = rules_of(&format!(
            "[addresses]\nnat64 = \"64:ff9b::/96\"\nopen = [\"203.0.113.10\"]\n\
             [[policy.private]]\ndomain = \".\"\nprefixes = [\"203.0.113.0/24\"]\n\
             [[policy.list]]\npath = \"{}\"\nformat = \"rpz\"\naction = \"deny\"\n\
             [[policy.group]]\nname = \"staff\"\nclients = [\"10.0.0.0/8\"]\nlists = []\n",
            path.display()
        ));
        let at = |line: usize| Some(format!("{}:{line}", path.display()));
        let now = judged(&rules, "203.0.113.7");
        assert_eq!((now.verdict.as_str(), now.place, now.rule.as_deref()), ("denied", at(2), Some("list zone")));
        assert!(now.reason.contains("is denied by the rule \"203.0.113.7/32\""), "{}", now.reason);
        assert!(now.reason.ends_with("for the group staff no list denies it"), "{}", now.reason);
        let now = judged(&rules, "203.0.113.8");
        assert_eq!((now.verdict.as_str(), now.place), ("denied", at(3)));
        assert!(now.reason.contains("is answered with no data"), "{}", now.reason);
        // Behind NAT64, and what is none of the list's business.
        assert_eq!(judged(&rules, "64:ff9b::203.0.113.7").verdict, "denied");
        for allowed in ["203.0.113.9", "203.0.113.11"] {
            let now = judged(&rules, allowed);
            let rule = now.rule.as_deref();
            assert_eq!((now.verdict.as_str(), rule), ("allowed", Some("policy.private[0]")), "{}", now.reason);
        }
        // Packets pass, answers don't.
        let now = judged(&rules, "203.0.113.10");
        assert_eq!((now.verdict.as_str(), now.rule.as_deref()), ("always open", Some("addresses.open")));
        assert!(now.reason.contains("is denied by the rule"), "{}", now.reason);
    }
}
