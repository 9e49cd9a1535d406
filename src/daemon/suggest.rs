//! What was used in audit, judged by the rules in force: what an allow list needs, and what it doesn't.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::control::types::{Suggested, SuggestedAddress, SuggestedName};
use crate::control::usage::is_reverse;
use crate::core::name::Name;
use crate::core::policy::registrable;
use crate::dns::Rules;
use crate::store::usage::{Got, Seen, Used, UsedAddress, UsedName};

/// What clients of this prefix used since then.
#[must_use]
pub fn suggest(used: &Used, rules: &Rules, client: Option<IpNet>, since: u64) -> Suggested {
    let mut names: Vec<(Name, Name, SuggestedName)> = used
        .names_of(client, since)
        .into_iter()
        .filter_map(|(text, of)| {
            let name: Name = text.parse().ok()?;
            let domain = registrable(&name);
            let told = of_name(rules, &name, &domain, &of)?;
            Some((domain, name, told))
        })
        .collect();
    // Domains in the order of their names, and the domain's own name first.
    names.sort_by_cached_key(|(domain, name, _)| (domain.to_string(), name.label_count(), name.to_string()));
    Suggested {
        since: used.since,
        audit: rules.audit,
        forgotten: used.forgotten,
        names: names.into_iter().map(|(_, _, told)| told).collect(),
        addresses: used.addresses_of(client, since).into_iter().filter_map(|(to, of)| of_address(to, &of)).collect(),
    }
}

fn together(seen: impl Iterator<Item = Seen>) -> Option<Seen> {
    seen.reduce(Seen::with)
}

fn of_name(rules: &Rules, name: &Name, domain: &Name, of: &[&UsedName]) -> Option<SuggestedName> {
    let seen = together(of.iter().map(|used| used.seen))?;
    let got = of.iter().map(|used| used.got).max()?;
    let (verdict, why) = match got {
        Got::Nothing => ("nothing", None),
        Got::Filtered => ("filtered", None),
        Got::Data if is_reverse(name) => ("reverse", None),
        Got::Data => by_rules(rules, name, of),
    };
    Some(SuggestedName {
        name: name.to_string(),
        domain: domain.to_string(),
        verdict: verdict.to_owned(),
        why,
        questions: seen.count,
        clients: of.len(),
        first: seen.first,
        last: seen.last,
    })
}

/// "allowed" and "denied" only where each client has a rule that says so. A list of names may be the one that the suggestion is to replace, and an
/// exception ends: what these allow is suggested all the same.
fn by_rules(rules: &Rules, name: &Name, of: &[&UsedName]) -> (&'static str, Option<String>) {
    let mut last = None;
    for used in of {
        let policy = rules.views.policy(rules.views.of(used.client));
        let verdict = policy.judge(name);
        let Some(rule) = verdict.rule.map(|rule| policy.describe(rule)) else { return ("suggested", None) };
        let own = rule.place.starts_with("policy.allow[") || rule.place.starts_with("policy.group[");
        let word = match (verdict.denies(), own) {
            (true, _) => "denied",
            (false, true) => "allowed",
            (false, false) => return ("suggested", None),
        };
        if last.as_ref().is_some_and(|(before, _)| *before != word) {
            return ("suggested", None);
        }
        last = Some((word, rule.to_string()));
    }
    last.map_or(("suggested", None), |(word, rule)| (word, Some(rule)))
}

fn of_address(address: IpAddr, of: &[&UsedAddress]) -> Option<SuggestedAddress> {
    let seen = together(of.iter().map(|used| used.seen))?;
    let ports: BTreeSet<&str> = of.iter().map(|used| used.to.port.as_str()).collect();
    let clients: BTreeSet<IpAddr> = of.iter().map(|used| used.to.client).collect();
    Some(SuggestedAddress {
        address,
        ports: ports.into_iter().map(str::to_owned).collect(),
        name: of.iter().find_map(|used| used.name.clone()),
        packets: seen.count,
        clients: clients.len(),
        first: seen.first,
        last: seen.last,
    })
}
