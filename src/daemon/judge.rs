//! What the rules say of a name or an address, in words for `explain`.

use std::net::IpAddr;

use crate::control::sources::Subject;
use crate::control::types::Judgement;
use crate::core::address::Admitted;
use crate::core::local_names::Local;
use crate::core::name::Name;
use crate::core::policy::{Effect, Policy, RuleRef, Verdict};
use crate::dns::Rules;
use crate::dns::ddr::is_resolver_arpa;
use crate::dns::wire::rtype;

/// Where a key of the configuration is written, as file:line.
type Place<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What would happen now to a question for a name, or to an answer with an address.
#[must_use]
pub fn judge(rules: &Rules, subject: &Subject, place: Place<'_>) -> Judgement {
    match subject {
        Subject::Name(name) => answered_here(rules, name, place).unwrap_or_else(|| judge_name(rules, name, place)),
        Subject::Address(address) => judge_address(rules, *address, place),
    }
}

/// The guard's own names come before the policy, as they do when a client asks.
fn answered_here(rules: &Rules, name: &Name, place: Place<'_>) -> Option<Judgement> {
    const KEY: &str = "dns.local_names";
    let verdict = "answered here".to_owned();
    if is_resolver_arpa(name.wire()) {
        let reason = format!("the guard answers {name} itself: RFC 9462");
        return Some(Judgement { verdict, reason, rule: None, place: None });
    }
    let (local, why) = rules.local.answer(name, rtype::A)?;
    let with = match local {
        Local::NoName => "that there is no such name".to_owned(),
        Local::NoData => "with no data".to_owned(),
        Local::Addresses(addresses) => {
            format!("with {}", addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", "))
        }
    };
    let reason = format!("the guard answers {name} itself, {with}: {why}");
    Some(Judgement { verdict, reason, rule: Some(KEY.to_owned()), place: place(KEY) })
}

fn judge_name(rules: &Rules, name: &Name, place: Place<'_>) -> Judgement {
    let policy = rules.views.policy(0);
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
    for view in rules.views.all().skip(1) {
        let (theirs, group) = (rules.views.policy(view), rules.views.name(view).unwrap_or_default());
        let judged = theirs.judge(name);
        if judged.denies() != verdict.denies() {
            let word = if judged.denies() { "denied" } else { "allowed" };
            reason.push_str(&format!("; for the group {group} it is {word} by {}", theirs.words(judged)));
        }
    }
    let (rule, place) = named(rule, place);
    Judgement { verdict: word.to_owned(), reason, place, rule: Some(rule) }
}

/// The rule of a list is named by its file and line, that of the configuration by its key.
fn named(rule: Option<RuleRef>, place: Place<'_>) -> (String, Option<String>) {
    let (key, in_file) = rule.map_or_else(
        || ("policy.default".to_owned(), None),
        |rule| (rule.place.clone(), Some(rule.place).filter(|place| !place.starts_with("policy."))),
    );
    let place = in_file.or_else(|| place(&key));
    (key, place)
}

fn judge_address(rules: &Rules, address: IpAddr, place: Place<'_>) -> Judgement {
    // The root lies in no private domain: what is judged is an answer to a name without exceptions.
    let (word, reason) = match rules.filter.judge(address, &Name::root(), &[]) {
        Ok(Admitted::AlreadyOpen) => ("always open", format!("{address} lies in addresses.open")),
        Ok(Admitted::Lease) => ("allowed", format!("{address} may be opened by an answer")),
        Err(reason) => ("filtered", format!("{address} is removed from answers: {reason}")),
    };
    let policy = rules.views.policy(0);
    let verdict = denied(rules, policy, address);
    let mut groups = String::new();
    for view in rules.views.all().skip(1) {
        let (theirs, group) = (rules.views.policy(view), rules.views.name(view).unwrap_or_default());
        match denied(rules, theirs, address) {
            Some(judged) if verdict.is_none() => {
                let words = theirs.words(judged);
                groups.push_str(&format!("; for the group {group} an answer with it is denied by {words}"));
            }
            None if verdict.is_some() => groups.push_str(&format!("; for the group {group} no list denies it")),
            _ => {}
        }
    }
    let Some(verdict) = verdict else {
        return Judgement { verdict: word.to_owned(), reason: reason + &groups, rule: None, place: None };
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
    let (word, reason) =
        if word == "always open" { (word, format!("{reason}, but {by_list}")) } else { ("denied", by_list) };
    let (rule, place) = named(rule, place);
    Judgement { verdict: word.to_owned(), reason: reason + &groups, rule: Some(rule), place }
}

/// The rule that denies an answer with this address. The IPv4 address inside counts like one that stands alone.
fn denied(rules: &Rules, policy: &Policy, address: IpAddr) -> Option<Verdict> {
    let inner = || policy.judge_answer(IpAddr::V4(rules.filter.embedded(address)?.1));
    let verdict = policy.judge_answer(address).filter(Verdict::denies).or_else(inner);
    verdict.filter(Verdict::denies)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::core::policy::name_from_user;
    use crate::daemon::{lists::Lists, rules::rules};

    fn rules_of(text: &str) -> Rules {
        let config: Config = toml::from_str(text).unwrap();
        rules(&config, &Lists::load(&config, &Lists::default()).unwrap(), &[]).unwrap()
    }

    fn judged(rules: &Rules, subject: &str) -> Judgement {
        let subject = match subject.parse() {
            Ok(address) => Subject::Address(address),
            Err(_) => Subject::Name(name_from_user(subject).unwrap()),
        };
        judge(rules, &subject, &|key| Some(format!("destguard.toml:{}", key.len())))
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
        assert_eq!((now.verdict.as_str(), now.place, now.rule), ("denied", at(2), at(2)));
        assert!(now.reason.contains("is denied by the rule \"203.0.113.7/32\""), "{}", now.reason);
        assert!(now.reason.ends_with("for the group staff no list denies it"), "{}", now.reason);
        let now = judged(&rules, "203.0.113.8");
        assert_eq!((now.verdict.as_str(), now.place), ("denied", at(3)));
        assert!(now.reason.contains("is answered with no data"), "{}", now.reason);
        // Behind NAT64, and what is none of the list's business.
        assert_eq!(judged(&rules, "64:ff9b::203.0.113.7").verdict, "denied");
        for allowed in ["203.0.113.9", "203.0.113.11"] {
            let now = judged(&rules, allowed);
            assert_eq!((now.verdict.as_str(), now.rule), ("allowed", None), "{}", now.reason);
        }
        // Packets pass, answers don't.
        let now = judged(&rules, "203.0.113.10");
        assert_eq!((now.verdict.as_str(), now.place), ("always open", at(5)));
        assert!(now.reason.contains("is denied by the rule"), "{}", now.reason);
    }
}
