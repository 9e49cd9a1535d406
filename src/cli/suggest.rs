//! `suggest`: an allow list of what clients used in audit.

use clap::Args;
use hyper::Method;
use ipnet::IpNet;

use super::Exit;
use super::ask::Daemon;
use super::table::{clean, number};
use super::top::prefix;
use crate::config::value::Span;
use crate::control::client::escape;
use crate::control::types::{Suggested, SuggestedAddress, SuggestedName};
use crate::core::name::Name;
use crate::core::policy::{Pattern, registrable};
use crate::sys::time_zone::time;

/// Whose, and how it is written.
#[derive(Clone, Debug, Args)]
pub struct Wanted {
    /// Of this client, or of those of this prefix: a list for their group.
    #[arg(long, value_name = "ADDRESS|PREFIX", value_parser = prefix)]
    client: Option<IpNet>,
    /// Only what was used within this: "7d".
    #[arg(long, value_name = "DURATION")]
    since: Option<Span>,
    /// Names that were asked for less often become comments.
    #[arg(long, value_name = "N", default_value_t = 1)]
    at_least: u64,
    /// Allow whole registrable domains, with all that is below them, instead of the names.
    #[arg(long)]
    domains: bool,
    /// Print JSON instead of rules.
    #[arg(long)]
    pub(super) json: bool,
}

/// With so many names of one domain it is said how to allow the whole of it.
const MANY: usize = 8;
/// Where comments begin, unless the name is longer.
const COMMENTS: usize = 44;
/// Ports of DNS: what goes there goes round the guard.
const DNS: [&str; 4] = ["udp/53", "tcp/53", "tcp/853", "udp/853"];

impl Daemon {
    /// Runs `destguard suggest`.
    #[must_use]
    pub fn suggest(&self, wanted: &Wanted) -> Exit {
        let client = wanted.client.map(|client| format!("&client={}", escape(&client.to_string()))).unwrap_or_default();
        let since = wanted.since.map(|since| format!("&since={}", since.0.as_secs())).unwrap_or_default();
        let query = format!("{since}{client}");
        let path = format!("/api/v1/suggest?{}", query.trim_start_matches('&'));
        self.show(Method::GET, &path, wanted.json, |suggested: &Suggested| file(suggested, wanted))
    }
}

/// The file: every line is a rule or a comment.
fn file(suggested: &Suggested, wanted: &Wanted) -> String {
    let (rules, left): (Vec<&SuggestedName>, Vec<&SuggestedName>) =
        suggested.names.iter().partition(|one| is_rule(one, wanted));
    let mut out = head(suggested, wanted, &rules);
    for (domain, names) in by_domain(&rules) {
        out.push_str(&format!("\n# {}: {}\n", clean(domain), counts(&names)));
        let whole = can_be_whole(domain);
        if wanted.domains && whole {
            out.push_str(&line(domain, &listed(&names)));
            continue;
        }
        if names.len() >= MANY && whole {
            out.push_str(&format!("# {} instead allows them all, and whatever else is below it.\n", clean(domain)));
        }
        names.iter().for_each(|one| out.push_str(&line(&format!("={}", one.name), &seen(one))));
    }
    left_out(&mut out, &left, wanted);
    addresses(&mut out, &suggested.addresses);
    out
}

/// Whether a name gets a line of its own. One with a "*" label can't be written as a rule.
fn is_rule(one: &SuggestedName, wanted: &Wanted) -> bool {
    one.verdict == "suggested"
        && one.questions >= wanted.at_least
        && one.name != "."
        && format!("={}", one.name).parse::<Pattern>().is_ok_and(|pattern| pattern.name.to_string() == one.name)
}

/// Whether what is below the domain belongs to one owner: not of a public suffix.
fn can_be_whole(domain: &str) -> bool {
    let owner = |text: &str| text.parse::<Name>().ok().map(|name| registrable(&name));
    owner(&format!("a.{domain}")).is_some_and(|of_child| Some(of_child) == domain.parse().ok())
}

fn head(suggested: &Suggested, wanted: &Wanted, rules: &[&SuggestedName]) -> String {
    let whose = wanted.client.map_or_else(|| "clients".to_owned(), |net| format!("clients of {net}"));
    let since = match (suggested.since, wanted.since) {
        (None, _) => "no question was seen yet: it takes mode = \"audit\" and clients that ask".to_owned(),
        (Some(first), None) => format!("what {whose} asked for in audit since {}", time(first)),
        (Some(first), Some(span)) => {
            format!("what {whose} asked for in audit in the last {span} (seen since {})", time(first))
        }
    };
    let domains = by_domain(rules).len();
    let questions = rules.iter().fold(0, |sum: u64, one| sum.saturating_add(one.questions));
    let (names, questions) = (number(rules.len()), number(questions));
    let mut out = format!("# Suggested by destguard: {since}.\n");
    out.push_str(&format!("# {names} names of {} domains, {questions} questions.\n", number(domains)));
    if !suggested.audit && suggested.since.is_some() {
        out.push_str("# The guard is not in audit now: nothing is added.\n");
    }
    if suggested.forgotten > 0 {
        let forgotten = number(suggested.forgotten);
        out.push_str(&format!("# INCOMPLETE: {forgotten} names or destinations were forgotten for want of room.\n"));
    }
    out.push_str("#\n# Review it, delete what nobody should reach, and load it:\n#\n");
    const LIST: &str =
        "[[policy.list]]\nname = \"suggested\"\npath = \"suggested.txt\"\nformat = \"domains\"\naction = \"allow\"";
    let text = match wanted.client {
        None => format!("[policy]\ndefault = \"deny\"\n\n{LIST}"),
        Some(net) => format!(
            "{LIST}\neverybody = false\n\n[[policy.group]]\nname = \"suggested\"\nclients = [\"{net}\"]\ndefault = \"deny\"\n\
             lists = [\"suggested\"]"
        ),
    };
    for line in text.lines() {
        out.push_str(format!("#   {line}").trim_end());
        out.push('\n');
    }
    out
}

fn by_domain<'a>(names: &[&'a SuggestedName]) -> Vec<(&'a str, Vec<&'a SuggestedName>)> {
    let mut domains: Vec<(&str, Vec<&SuggestedName>)> = Vec::new();
    for one in names {
        match domains.last_mut().filter(|(domain, _)| *domain == one.domain) {
            Some((_, names)) => names.push(one),
            None => domains.push((&one.domain, vec![one])),
        }
    }
    domains
}

fn line(rule: &str, comment: &str) -> String {
    format!("{rule:COMMENTS$} # {comment}\n")
}

fn counts(names: &[&SuggestedName]) -> String {
    let questions = names.iter().fold(0, |sum: u64, one| sum.saturating_add(one.questions));
    format!("{}, {}", plural(names.len(), "name"), plural(questions, "question"))
}

fn listed(names: &[&SuggestedName]) -> String {
    let shown: Vec<String> = names.iter().take(MANY).map(|one| clean(&one.name)).collect();
    let more = names.len().saturating_sub(MANY);
    if more == 0 { shown.join(", ") } else { format!("{}, {more} more", shown.join(", ")) }
}

fn plural(count: impl TryInto<u64>, word: &str) -> String {
    let count = count.try_into().unwrap_or(u64::MAX);
    if count == 1 { format!("1 {word}") } else { format!("{} {word}s", number(count)) }
}

fn seen(one: &SuggestedName) -> String {
    let (questions, clients) = (plural(one.questions, "question"), plural(one.clients, "client"));
    format!("{questions}, {clients}, {}", between(one.first, one.last))
}

fn between(first: u64, last: u64) -> String {
    if first == last { time(first) } else { format!("{} to {}", time(first), time(last)) }
}

/// Why names are no rules.
const LEFT: [(&str, &str); 6] = [
    ("reverse", "Names of addresses (PTR), which open nothing; without # such a line allows them all"),
    ("suggested", "Asked for less often than --at-least, or not to be written as a rule"),
    ("filtered", "All their addresses are filtered, which allowing the name doesn't change: see [[policy.private]]"),
    ("denied", "Denied by a rule. Without # the longer rule decides; deny wins a tie"),
    ("allowed", "Allowed by the configuration's own rules already"),
    ("nothing", "Led nowhere: no such name, no data, no answer"),
];

fn left_out(out: &mut String, left: &[&SuggestedName], wanted: &Wanted) {
    for (verdict, why) in LEFT {
        let names: Vec<&&SuggestedName> = left.iter().filter(|one| one.verdict == verdict).collect();
        if names.is_empty() {
            continue;
        }
        let why = if verdict == "suggested" && wanted.at_least <= 1 { "Not to be written as a rule" } else { why };
        out.push_str(&format!("\n# {why}:\n"));
        for one in names {
            let rule = one.why.as_ref().map_or_else(String::new, |rule| format!(", {}", clean(rule)));
            let reach = if verdict == "reverse" { "#" } else { "#=" };
            out.push_str(&line(&format!("{reach}{}", clean(&one.name)), &format!("{}{rule}", seen(one))));
        }
    }
}

fn addresses(out: &mut String, all: &[SuggestedAddress]) {
    let dns = |one: &&SuggestedAddress| one.ports.iter().all(|port| DNS.contains(&port.as_str()));
    let (resolvers, others): (Vec<_>, Vec<_>) = all.iter().partition(dns);
    let (named, bare): (Vec<_>, Vec<_>) = others.into_iter().partition(|one| one.name.is_some());
    let sections = [
        (
            bare,
            "Addresses used without DNS, as far as the packet filter told of them. To keep one open, put it into addresses.open",
        ),
        (
            named,
            "Addresses used while no lease was open: beyond the TTL (lease.grace, lease.revalidate), or before the name is allowed",
        ),
        (resolvers, "DNS that goes round the guard: have these clients ask the guard (nftables.redirect_dns)"),
    ];
    for (addresses, words) in sections {
        if addresses.is_empty() {
            continue;
        }
        out.push_str(&format!("\n# {words}:\n"));
        for one in addresses {
            let name = one.name.as_ref().map_or_else(String::new, |name| format!(" of {}", clean(name)));
            let (packets, clients) = (plural(one.packets, "packet"), plural(one.clients, "client"));
            let what = format!("#   \"{}\"{name}", one.address);
            let ports = clean(&one.ports.join(" "));
            out.push_str(&line(&what, &format!("{ports}, {packets}, {clients}, {}", between(one.first, one.last))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::schema::{Action, Config, ListFormat};
    use crate::core::policy::{ListFile, Policy};

    fn name(name: &str, verdict: &str, questions: u64) -> SuggestedName {
        SuggestedName {
            domain: registrable(&name.parse().unwrap()).to_string(),
            name: name.to_owned(),
            verdict: verdict.to_owned(),
            why: (verdict == "denied").then(|| "list ads (ads.txt:3)".to_owned()),
            questions,
            clients: 1,
            first: 1_000,
            last: 2_000,
        }
    }

    fn wanted() -> Wanted {
        Wanted { client: None, since: None, at_least: 1, domains: false, json: false }
    }

    fn suggested(names: Vec<SuggestedName>) -> Suggested {
        Suggested { since: Some(1), audit: true, names, ..Suggested::default() }
    }

    /// With `policy.default = "deny"`.
    fn loaded(text: &str) -> impl Fn(&str) -> bool {
        let mut config = Config::default();
        config.policy.default = Action::Deny;
        let file = ListFile { path: "s", format: ListFormat::Domains, action: Action::Allow, content: text.as_bytes() };
        let (policy, reports) = Policy::with_lists(&config, &[file]).unwrap();
        assert!(reports[0].errors.is_empty() && reports[0].skipped == 0, "{reports:?}\n{text}");
        move |name: &str| !policy.judge(&name.parse().unwrap()).denies()
    }

    #[test]
    fn the_file_loads_and_admits_what_is_suggested_alone() {
        let odd = ["a\\.b.example.com", "_dmarc.example.com", "\\200x.example.com", "com", "\\032a.example.org"];
        let mut names: Vec<SuggestedName> = odd.iter().map(|odd| name(odd, "suggested", 3)).collect();
        names.push(name("\\*.example.com", "suggested", 3));
        names.push(name(".", "suggested", 3));
        names.push(name("once.example.com", "suggested", 1));
        names.extend(["nothing", "denied", "filtered"].map(|word| name(&format!("{word}.example.com"), word, 9)));
        let mut all = suggested(names);
        all.addresses.push(SuggestedAddress {
            address: [203, 0, 113, 9].into(),
            ports: vec!["udp/123".to_owned()],
            name: None,
            packets: 7,
            clients: 1,
            first: 1,
            last: 2,
        });
        let text = file(&all, &Wanted { at_least: 2, ..wanted() });
        let admits = loaded(&text);
        odd.iter().for_each(|odd| assert!(admits(odd), "{odd}\n{text}"));
        for other in ["once.example.com", "nothing.example.com", "denied.example.com", "example.com", "x.com", "."] {
            assert!(!admits(other), "{other}\n{text}");
        }
        assert!(text.contains("list ads (ads.txt:3)") && text.contains("\"203.0.113.9\""), "{text}");
    }

    #[test]
    fn whole_domains_but_no_public_suffix() {
        let names = ["example.com", "www.example.com", "com", "a.co.uk", "co.uk"];
        let text = file(
            &suggested(names.iter().map(|one| name(one, "suggested", 1)).collect()),
            &Wanted { domains: true, ..wanted() },
        );
        let admits = loaded(&text);
        for other in ["example.com", "deep.www.example.com", "com", "x.a.co.uk", "co.uk"] {
            assert!(admits(other), "{other}\n{text}");
        }
        assert!(!admits("other.com") && !admits("b.co.uk"), "{text}");
    }

    #[test]
    fn a_list_of_some_clients_is_for_their_group() {
        let one = Wanted { client: Some("10.0.5.0/24".parse().unwrap()), ..wanted() };
        let text = file(&suggested(vec![name("a.example.com", "suggested", 1)]), &one);
        let shown: String = text
            .lines()
            .filter_map(|line| line.strip_prefix("#   "))
            .fold(String::new(), |all, line| all + line + "\n");
        let config: Config = toml::from_str(&shown).unwrap_or_else(|error| panic!("{error}\n{shown}"));
        assert_eq!((config.policy.group.len(), config.policy.list.len()), (1, 1));
        assert!(!config.policy.list[0].everybody);
        assert!(file(&Suggested::default(), &wanted()).contains("no question was seen yet"));
    }
}
