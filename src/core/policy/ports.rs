//! Which ports a name opens: all, unless every rule of the configuration that allows it says which.
//!
//! All rules that match count, not the longest match alone: their ports add up, and one without ports opens everything. What stands above a rule
//! that denies does not count. Lists have no ports, and where the configuration itself allows a name they have no say.

use std::collections::HashMap;

use crate::core::name::Name;
use crate::core::narrow::{Opening, Openings, Port, SCTP, TCP, UDP};

use super::{Pattern, Reach};

/// Most ports of one rule, and of all rules for one name: each is an element in the kernel for each address.
pub const MOST_PORTS: usize = 32;

/// Why a text names no ports.
#[derive(Debug, thiserror::Error)]
pub enum PortsError {
    /// A protocol without ports.
    #[error("\"{0}\" is no protocol with ports: write tcp, udp or sctp, as in \"443/tcp+udp\"")]
    Protocol(String),
    /// Not a number, or none of a port.
    #[error("\"{0}\" is no port: 1 to 65535")]
    Number(String),
    /// A range from the greater to the lesser.
    #[error("{0}: the range ends before it begins")]
    Backwards(String),
    /// More than can be enforced one by one.
    #[error("more than {MOST_PORTS} ports: a name without ports opens all")]
    Many,
}

/// Reads "443", "443/tcp+udp", "8000-8003/udp", "22,80".
///
/// # Errors
/// [`PortsError`].
pub fn read(text: &str) -> Result<Vec<Port>, PortsError> {
    let (numbers, protocols) = text.split_once('/').unwrap_or((text, "tcp"));
    let mut all = Vec::new();
    for name in protocols.split('+') {
        let protocol = match name {
            "tcp" => TCP,
            "udp" => UDP,
            "sctp" => SCTP,
            _ => return Err(PortsError::Protocol(name.to_owned())),
        };
        for range in numbers.split(',') {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let number = |text: &str| match text.parse::<u16>() {
                Ok(port) if port > 0 => Ok(port),
                _ => Err(PortsError::Number(text.to_owned())),
            };
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return Err(PortsError::Backwards(range.to_owned()));
            }
            all.extend((first..=last).take(MOST_PORTS + 1).map(|port| Port::Of { protocol, port }));
            if all.len() > MOST_PORTS {
                return Err(PortsError::Many);
            }
        }
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

/// What rules at one name open; nothing: everything.
type Ports = Vec<Port>;

/// All rules of a view that allow, by the name they are about.
#[derive(Clone, Debug, Default)]
pub(super) struct PortRules {
    /// By the wire form: for the name itself, and for what lies below it. Empty where no rule has ports.
    rules: HashMap<Vec<u8>, [Option<Ports>; 2]>,
}

impl PortRules {
    /// From every rule that allows: what it covers, and its ports.
    pub(super) fn new(all: &[(Pattern, Option<Ports>)]) -> Self {
        let mut rules = Self::default();
        if all.iter().all(|(_, ports)| ports.is_none()) {
            return rules;
        }
        for (pattern, ports) in all {
            let [itself, below] = rules.rules.entry(pattern.name.wire().to_vec()).or_default();
            let ports = ports.clone().unwrap_or_default();
            if pattern.reach != Reach::Below {
                add(itself, &ports);
            }
            if pattern.reach != Reach::Itself {
                add(below, &ports);
            }
        }
        rules
    }

    /// What a name opens. `denied`: whether the configuration denies it at this of its suffixes; `true` for the whole name.
    pub(super) fn openings(&self, name: &Name, denied: impl Fn(&[u8], bool) -> bool) -> Openings {
        if self.rules.is_empty() {
            return Openings::default();
        }
        let mut found: Option<Ports> = None;
        for suffix in name.suffixes() {
            let whole = suffix.len() == name.wire().len();
            if denied(suffix, whole) {
                break;
            }
            let Some([itself, below]) = self.rules.get(suffix) else { continue };
            if let Some(ports) = if whole { itself } else { below } {
                add(&mut found, ports);
            }
        }
        let opening = |to: Port| Opening { application: None, to };
        found.unwrap_or_default().into_iter().map(opening).collect()
    }
}

/// Rules add up; one without ports opens everything.
fn add(all: &mut Option<Ports>, ports: &[Port]) {
    match all {
        None => *all = Some(ports.to_vec()),
        Some(known) if known.is_empty() || ports.is_empty() => known.clear(),
        Some(known) => {
            known.extend(ports);
            known.sort_unstable();
            known.dedup();
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use crate::core::policy::view::Views;

    fn opens(config: &str, client: &str, name: &str) -> Vec<String> {
        let config: Config = toml::from_str(config).unwrap();
        let views = Views::new(&config, &[]).unwrap();
        let policy = views.policy(views.of(client.parse().unwrap()));
        policy.openings(&name.parse().unwrap()).iter().map(|opening| opening.to.to_string()).collect()
    }

    #[test]
    fn all_rules_that_match_add_up_and_one_without_ports_opens_everything() {
        let rules = "[policy]\nallow = [\"db.test:5432\", \"*.db.test:22\", \"web.test:443/tcp+udp\", \"=one.web.test\", \
                     \"low.test:80,8000-8002/udp\", \"bad.low.test:1\", \"x.bad.low.test:2\"]\ndeny = [\"bad.low.test\"]\n";
        for (name, ports) in [
            ("db.test", &["tcp/5432"][..]),
            ("a.db.test", &["tcp/22", "tcp/5432"]),
            ("web.test", &["tcp/443", "udp/443"]),
            ("one.web.test", &[]),
            ("two.one.web.test", &["tcp/443", "udp/443"]),
            ("low.test", &["udp/80", "udp/8000", "udp/8001", "udp/8002"]),
            ("x.bad.low.test", &["tcp/2"]),
            ("else.test", &[]),
        ] {
            assert_eq!(opens(rules, "192.0.2.1", name), ports, "{name}");
        }
        assert!(opens("[policy]\nallow = [\"a.test\"]\n", "192.0.2.1", "a.test").is_empty());
    }

    #[test]
    fn a_rule_for_groups_opens_its_ports_for_their_clients_alone() {
        let rules = "[[policy.group]]\nname = \"dev\"\nclients = [\"10.0.0.0/8\"]\n\
                     [[policy.rule]]\nnames = [\"db.test\"]\nports = [\"5432\"]\n\
                     [[policy.rule]]\nnames = [\"db.test\"]\nclients = [\"dev\"]\nports = [\"22\", \"53/udp\"]\n";
        assert_eq!(opens(rules, "192.0.2.1", "db.test"), ["tcp/5432"]);
        assert_eq!(opens(rules, "10.0.0.1", "db.test"), ["tcp/22", "tcp/5432", "udp/53"]);
    }

    #[test]
    fn what_is_no_port_is_named() {
        for (text, wrong) in [
            ("", "\"\" is no port"),
            ("0", "\"0\" is no port"),
            ("70000", "\"70000\" is no port"),
            ("443/icmp", "\"icmp\" is no protocol"),
            ("9-3", "ends before it begins"),
            ("1-65535", "more than 32 ports"),
        ] {
            let error = super::read(text).unwrap_err();
            assert!(error.to_string().contains(wrong), "{text}: {error}");
        }
    }
}
