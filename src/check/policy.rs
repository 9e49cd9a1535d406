//! `[policy]` and `[addresses]`

use std::collections::HashSet;

use ipnet::IpNet;

use super::Checks;
use crate::config::Config;
use crate::config::https_url;
use crate::config::list_file;
use crate::config::schema::{Action, Group, ListFormat, Nftables, NftablesMode, PolicyList, split_ports};
use crate::config::value::Span;
use crate::core::address;
use crate::core::groups::GroupCommunities;
use crate::core::narrow::Port;
use crate::core::policy::list::Report;
use crate::core::policy::schedule::MOST_WINDOWS;
use crate::core::policy::{self, ListFile, PolicyError, Table, ports, view};
use crate::enforce::nftables::ruleset::RESOLVER_PORTS;
use crate::sys::{on_link, time_zone};

/// Longest name of a group; it is kept beside each lease.
const GROUP_NAME: usize = 64;
/// Most prefixes that an error suggests.
const SUGGESTED: usize = 4;
/// How often a list may be fetched at most.
const REFRESH_LEAST: std::time::Duration = std::time::Duration::from_secs(60);
/// Octets of communities that an UPDATE of 4096 has room for beside all else.
const COMMUNITIES: usize = 3072;

impl Checks<'_, '_> {
    pub(super) fn policy(&mut self) {
        let policy = &self.config.policy;
        self.own_rules("policy", &policy.allow, &policy.deny);
        self.rules_with_ports();
        self.lists();
        self.schedules();
        self.groups();
        self.communities_fit();
        let lists_allow = policy.list.iter().any(|list| list.action == Action::Allow);
        let sound = self.sound(&["policy.allow", "policy.list"]);
        if policy.default == Action::Deny && policy.allow.is_empty() && !lists_allow && sound {
            self.warning("policy.default", "nothing is allowed: every name gets NXDOMAIN", "add names to policy.allow");
        }
        for (index, private) in policy.private.iter().enumerate() {
            let path = format!("policy.private[{index}]");
            self.name(&format!("{path}.domain"), &private.domain);
            let prefixes = format!("{path}.prefixes");
            if private.prefixes.is_empty() {
                self.error(&prefixes, "no prefix: the entry would do nothing");
            }
            self.prefixes(&prefixes, &private.prefixes);
            for (at, net) in private.prefixes.iter().enumerate().filter(|(_, net)| net.prefix_len() == 0) {
                self.warning(
                    &format!("{prefixes}[{at}]"),
                    format!("{net}: answers for {} may lie anywhere, inside your network too", private.domain),
                    "name the prefixes in use",
                );
            }
        }
    }

    fn schedules(&mut self) {
        let policy = &self.config.policy;
        if let Err(error) = time_zone::named(policy.timezone.as_deref()) {
            self.error("policy.timezone", error.to_string());
        }
        let groups =
            policy.group.iter().enumerate().map(|(at, group)| (format!("policy.group[{at}]"), &group.schedule));
        let lists = policy.list.iter().enumerate().map(|(at, list)| (format!("policy.list[{at}]"), &list.schedule));
        let long: Vec<String> = groups
            .chain(lists)
            .filter(|(_, windows)| windows.len() > MOST_WINDOWS)
            .map(|(key, _)| format!("{key}.schedule"))
            .collect();
        for key in long {
            self.error(&key, format!("a schedule has {MOST_WINDOWS} windows at most"));
        }
    }

    fn own_rules(&mut self, table: &str, allow: &[String], deny: &[String]) {
        for (key, rules) in [("allow", allow), ("deny", deny)] {
            let key = format!("{table}.{key}");
            for (index, rule) in rules.iter().enumerate() {
                let path = format!("{key}[{index}]");
                let (name, ports) = match split_ports(rule) {
                    (name, Some(ports)) if key.ends_with(".allow") => (name, Some(ports)),
                    _ => (rule.as_str(), None),
                };
                self.pattern(&path, name);
                if let Some(ports) = ports {
                    self.ports(&path, ports);
                }
            }
            self.unique(&key, rules);
        }
        let denied: HashSet<&String> = deny.iter().collect();
        for (index, rule) in allow.iter().enumerate().filter(|(_, rule)| denied.contains(rule)) {
            self.warning(
                &format!("{table}.allow[{index}]"),
                format!("\"{rule}\" is denied as well, and deny wins"),
                "remove one of the two",
            );
        }
    }

    fn pattern(&mut self, path: &str, text: &str) {
        self.name(path, text.strip_prefix("*.").or_else(|| text.strip_prefix('=')).unwrap_or(text));
    }

    fn ports(&mut self, path: &str, text: &str) {
        match ports::read(text) {
            Err(error) => self.error(path, error.to_string()),
            Ok(all) => {
                let is_dns = |to: &&Port| matches!(to, Port::Of { port, .. } if RESOLVER_PORTS.contains(port));
                if let Some(to) = all.iter().find(is_dns) {
                    self.warning(path, format!("{to}: resolvers elsewhere stay closed"), "leave it out");
                }
            }
        }
    }

    fn rules_with_ports(&mut self) {
        let policy = &self.config.policy;
        for (index, rule) in policy.rule.iter().enumerate() {
            let key = format!("policy.rule[{index}]");
            if rule.names.is_empty() {
                self.error(&format!("{key}.names"), "no name: the rule would do nothing");
            }
            for (at, name) in rule.names.iter().enumerate() {
                self.pattern(&format!("{key}.names[{at}]"), name);
            }
            for (at, name) in rule.clients.iter().enumerate() {
                if !policy.group.iter().any(|group| group.name == *name) {
                    self.error(&format!("{key}.clients[{at}]"), format!("there is no [[policy.group]] \"{name}\""));
                }
            }
            for (at, text) in rule.ports.iter().enumerate() {
                self.ports(&format!("{key}.ports[{at}]"), text);
            }
        }
        if self.config.narrows_ports() && !self.config.bgp.peer.is_empty() {
            self.warning(
                "bgp.peer",
                "routes open whole addresses: routers let pass every port of a name for which single ones are named",
                "guard these names by nftables, or filter ports on the router",
            );
        }
        let mode = self.config.nftables.mode;
        let on =
            Config { nftables: Nftables { mode: NftablesMode::Local, ..Nftables::default() }, ..self.config.clone() };
        if mode == NftablesMode::Off && on.narrows_ports() {
            self.warning(
                "policy.allow",
                "names have ports, but only nftables keeps the others closed, and nftables.mode is \"off\"",
                "set nftables.mode",
            );
        }
    }

    /// Reads every list. What can't be read is an error that keeps no guard from starting.
    fn lists(&mut self) {
        let policy = &self.config.policy;
        let mut names = HashSet::new();
        for (index, list) in policy.list.iter().enumerate() {
            let key = format!("policy.list[{index}]");
            if let Some(name) = list.name.as_ref().filter(|name| !names.insert(*name)) {
                self.error(&format!("{key}.name"), format!("another list is called \"{name}\" too"));
            }
            let used = |group: &Group| group.lists.iter().flatten().any(|name| list.name.as_ref() == Some(name));
            if !list.everybody && !policy.group.iter().any(used) {
                self.warning(&key, "no group names this list: it does nothing", "name it in a group's `lists`");
            }
            if list.format == ListFormat::Rpz && list.action == Action::Allow {
                self.warning(
                    &format!("{key}.action"),
                    "what the zone blocks is allowed, and what it lets pass is denied",
                    "action = \"deny\"",
                );
            }
            let path = format!("{key}.{}", if list.url.is_some() { "url" } else { "path" });
            let shown = list.shown();
            if !self.source(&key, list) {
                continue;
            }
            let content = match list_file::read(&list.path) {
                Ok((content, _)) => content,
                Err(reason) => {
                    self.document.say_bearable(&path, format!("{shown} {reason}"));
                    continue;
                }
            };
            let report = match read_list(list, &content) {
                Ok(report) => report,
                Err(error) => {
                    self.error(&path, error.to_string());
                    continue;
                }
            };
            for error in &report.errors {
                self.document.say_bearable(&path, format!("{shown}:{}: {}", error.line, error.reason));
            }
            if report.wrong > report.errors.len() {
                let more = report.wrong.saturating_sub(report.errors.len());
                self.document.say_bearable(&path, format!("{shown}: {more} more lines can't be read"));
            }
            if report.wrong == 0 && report.entries == 0 {
                self.warning(&path, format!("{shown} has no rule"), "check its format");
            }
            for warning in report.warnings(&shown) {
                self.warning(&path, warning, "ask who makes the list for what can be served");
            }
        }
    }

    /// Whether the list says where it comes from, and there is something to read.
    fn source(&mut self, key: &str, list: &PolicyList) -> bool {
        let Some(url) = &list.url else {
            let named = !list.path.as_os_str().is_empty();
            if !named {
                self.error(key, "`path` or `url` is missing".to_owned());
            }
            return named;
        };
        if list.path != PolicyList::fetched(&self.config.state.dir, url) {
            self.error(&format!("{key}.path"), "`path` and `url`: a list comes from one of them".to_owned());
        }
        if let Err(error) = https_url::parts(url) {
            self.error(&format!("{key}.url"), error.to_string());
        }
        if list.refresh.0 < REFRESH_LEAST {
            let message = format!("{} is too often: the least is {}", list.refresh, Span(REFRESH_LEAST));
            self.error(&format!("{key}.refresh"), message);
        }
        if list.max_size.0 > list_file::MOST_OCTETS {
            let message = format!("a list has {} octets at most", list_file::MOST_OCTETS);
            self.error(&format!("{key}.max_size"), message);
        }
        // Not fetched yet: nothing to say of it.
        list.path.exists()
    }

    fn groups(&mut self) {
        let policy = &self.config.policy;
        let lists: HashSet<&String> = policy.list.iter().filter_map(|list| list.name.as_ref()).collect();
        let (mut names, mut clients) = (HashSet::new(), HashSet::new());
        if policy.group.len() > view::MOST_GROUPS {
            self.error("policy.group", format!("there may be {} groups at most", view::MOST_GROUPS));
        }
        for (index, group) in policy.group.iter().enumerate() {
            let key = format!("policy.group[{index}]");
            if group.name.is_empty() || !names.insert(&group.name) {
                self.error(&format!("{key}.name"), "every group needs a name of its own");
            } else if group.name.len() > GROUP_NAME {
                self.error(&format!("{key}.name"), format!("a name has {GROUP_NAME} octets at most"));
            }
            if let Err((at, error)) = GroupCommunities::of(&group.communities) {
                self.error(&format!("{key}.communities[{at}]"), error.to_string());
            }
            self.unique(&format!("{key}.communities"), &group.communities);
            if !group.communities.is_empty() && self.config.bgp.peer.is_empty() {
                self.warning(
                    &format!("{key}.communities"),
                    "there is no [[bgp.peer]]: no route bears them",
                    "add the routers, or remove the key",
                );
            }
            if group.share == 0 {
                self.error(&format!("{key}.share"), "zero: each client counts for one at least");
            }
            let path = format!("{key}.clients");
            if group.clients.is_empty() && group.certificate.is_empty() && group.doh_path.is_none() {
                self.error(&path, "no prefix, certificate or doh_path: nobody would be in the group");
            }
            self.prefixes(&path, &group.clients);
            for (at, net) in group.clients.iter().enumerate().filter(|(_, net)| !clients.insert(net.trunc())) {
                self.error(&format!("{path}[{at}]"), format!("{net} belongs to two groups, or stands here twice"));
            }
            for (at, net) in group.clients.iter().enumerate() {
                let served = |served: &ipnet::IpNet| served.contains(net) || net.contains(served);
                if !self.config.dns.clients.iter().any(served) {
                    self.warning(
                        &format!("{path}[{at}]"),
                        format!("nobody in {net} may ask: it lies outside dns.clients"),
                        "add it to dns.clients",
                    );
                }
            }
            self.own_rules(&key, &group.allow, &group.deny);
            for (at, name) in group.lists.iter().flatten().enumerate().filter(|(_, name)| !lists.contains(name)) {
                self.error(&format!("{key}.lists[{at}]"), format!("no [[policy.list]] is called \"{name}\""));
            }
        }
    }

    /// The route of an address that every group opened bears everything.
    pub(super) fn communities_fit(&mut self) {
        let config = self.config;
        let groups = config.policy.group.iter().filter_map(|group| GroupCommunities::of(&group.communities).ok());
        let own = config.bgp.communities.len() * 4 + config.bgp.large_communities.len() * 12;
        let octets = groups.map(|communities| communities.octets()).fold(own, usize::saturating_add);
        if octets > COMMUNITIES {
            let path = config.policy.group.iter().position(|group| !group.communities.is_empty());
            let path = path.map_or("bgp.communities".to_owned(), |at| format!("policy.group[{at}].communities"));
            self.error(
                &path,
                format!("the communities of all groups and of [bgp] together take {octets} octets, a route holds {COMMUNITIES}"),
            );
        }
    }

    /// A host route is more specific than all that a router knows of its own network.
    fn inside_is_named(&mut self) {
        let addresses = &self.config.addresses;
        if self.config.bgp.peer.is_empty() {
            return;
        }
        if !self.document.has("addresses.inside") {
            let here = on_link();
            let example =
                if here.is_empty() { "\"198.51.100.0/24\"".to_owned() } else { format!("\"{}\"", here.join("\", \"")) };
            let whose = if here.is_empty() { "" } else { " (on-link at this host)" };
            self.error_with(
                "bgp.peer",
                "addresses.inside is missing: an answer with an address of your own network would become a host route that draws its traffic out",
                &format!(
                    "name the network's public prefixes, as in addresses.inside = [{example}]{whose}, or write [] if there are none"
                ),
            );
            return;
        }
        for (index, private) in self.config.policy.private.iter().enumerate() {
            for (at, net) in private.prefixes.iter().enumerate() {
                let Some(inside) = addresses.inside.iter().find(|inside| inside.contains(net) || net.contains(*inside))
                else {
                    continue;
                };
                self.warning(
                    &format!("policy.private[{index}].prefixes[{at}]"),
                    format!("{net}: an answer for {} makes a host route inside your network ({inside})", private.domain),
                    "where routers reach it by themselves, write it into addresses.open, with bgp.announce_open = false",
                );
            }
        }
    }

    pub(super) fn addresses(&mut self) {
        let addresses = &self.config.addresses;
        self.prefixes("addresses.open", &addresses.open);
        self.prefixes("addresses.never", &addresses.never);
        self.prefixes("addresses.inside", &addresses.inside);
        self.unique("addresses.inside", &addresses.inside);
        self.inside_is_named();
        self.unique("addresses.open", &addresses.open);
        self.unique("addresses.never", &addresses.never);
        self.prefixes("addresses.doh", &addresses.doh);
        self.unique("addresses.doh", &addresses.doh);
        let mode = self.config.nftables.mode;
        if !addresses.doh.is_empty() && (mode == NftablesMode::Off || !self.config.bgp.peer.is_empty()) {
            self.warning(
                "addresses.doh",
                "routers can't tell ports apart: only nftables refuses port 443 of these",
                "addresses.never keeps them closed altogether",
            );
        }
        if addresses.local_discovery && matches!(mode, NftablesMode::Off | NftablesMode::Gateway) {
            self.warning(
                "addresses.local_discovery",
                "of no effect: this host's own packets are guarded in the modes \"local\" and \"both\" alone",
                "leave it out",
            );
        }
        for (index, net) in addresses.open.iter().enumerate() {
            let path = format!("addresses.open[{index}]");
            if let Some(never) = addresses.never.iter().find(|never| never.contains(net)) {
                self.error(&path, format!("{net} is never opened: addresses.never has {never}"));
            }
            let wide = match net {
                IpNet::V4(net) => net.prefix_len() < 8,
                IpNet::V6(net) => net.prefix_len() < 16,
            };
            if wide {
                self.warning(
                    &path,
                    format!("{net} is open for ever, without any question"),
                    "keep the list to what can't be asked for by name",
                );
            }
        }
        if let Some(nat64) = addresses.nat64
            && nat64.prefix_len() != 96
        {
            self.error("addresses.nat64", format!("{nat64} is not a /96"));
        }
    }
}

/// What this host has on-link of the public address space, for a suggestion.
fn on_link() -> Vec<String> {
    let found = on_link::read().unwrap_or_default();
    let public = found.nets.into_keys().filter(|net| address::special::find(net.addr()).is_none());
    public.take(SUGGESTED).map(|net| net.to_string()).collect()
}

/// What is wrong with a list, and what of it can't be served. How many records a name has shows only when the rules are put together.
fn read_list(list: &PolicyList, content: &[u8]) -> Result<Report, PolicyError> {
    if list.format != ListFormat::Rpz {
        return Ok(policy::list::parse(list.format, content, &mut |_| {}));
    }
    let path = list.shown();
    let file = ListFile { path: &path, format: list.format, action: list.action, content };
    Table::from_list(&file).map(|(_, report)| report)
}
