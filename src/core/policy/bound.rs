//! Names that are bound to applications of this host (`[[nftables.application]]`): what an answer for them opens, and for whom.
//!
//! As with rules, the longest match decides; applications that name the same one share it.

use std::collections::HashMap;

use super::ports::{self, PortsError};
use super::{Pattern, PatternError, Reach};
use crate::config::schema::{Config, split_ports};
use crate::core::applications;
use crate::core::name::Name;
use crate::core::narrow::{Opening, Openings, Port};

/// All of them.
#[derive(Debug, Default)]
pub struct Bound {
    names: HashMap<Name, Vec<(Reach, u16, Port)>>,
}

impl Bound {
    /// Those of a configuration that was checked.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let mut names: HashMap<Name, Vec<_>> = HashMap::new();
        for one in &config.nftables.application {
            let Some(number) = applications::number_of(&one.name) else { continue };
            for (pattern, ports) in one.names.iter().filter_map(|name| read(name).ok()) {
                let of = names.entry(pattern.name).or_default();
                of.extend(ports.into_iter().map(|port| (pattern.reach, number, port)));
            }
        }
        Self { names }
    }

    /// What a question opens, of what the policy lets it open; nothing, where it may open all and is for whoever asked.
    #[must_use]
    pub fn openings(&self, question: &Name, allowed: Openings) -> Openings {
        let bound = self.of(question);
        if bound.is_empty() {
            return allowed;
        }
        let all = [Opening::ALL];
        let allowed = if allowed.is_empty() { &all } else { &*allowed };
        let mut openings: Vec<Opening> = Vec::new();
        for (application, port) in bound {
            for to in allowed.iter().filter_map(|allowed| both(allowed.to, port)) {
                openings.push(Opening { application: Some(application), to });
            }
            if openings.is_empty() {
                // Neither the one nor the other: a port that nothing uses. Nothing at all would mean everything.
                openings.push(Opening { application: Some(application), to: Port::Of { protocol: 0, port: 0 } });
            }
        }
        openings.sort_unstable();
        openings.dedup();
        openings.into()
    }

    /// Whose a name is, and to which ports.
    fn of(&self, question: &Name) -> Vec<(u16, Port)> {
        if self.names.is_empty() {
            return Vec::new();
        }
        let mut at = Some(question.clone());
        while let Some(name) = at {
            let covers = |reach: Reach| match reach {
                Reach::Tree => true,
                Reach::Below => name != *question,
                Reach::Itself => name == *question,
            };
            let of = self.names.get(&name).into_iter().flatten().filter(|(reach, ..)| covers(*reach));
            let of: Vec<(u16, Port)> = of.map(|(_, application, port)| (*application, *port)).collect();
            if !of.is_empty() {
                return of;
            }
            at = name.parent();
        }
        Vec::new()
    }
}

/// Why a text is no name of an application.
#[derive(Debug, thiserror::Error)]
pub enum BoundError {
    /// The name is none that a rule could have.
    #[error(transparent)]
    Name(#[from] PatternError),
    /// The ports behind it.
    #[error(transparent)]
    Ports(#[from] PortsError),
}

/// A name of an application, and its ports.
///
/// # Errors
/// [`BoundError`].
pub fn read(text: &str) -> Result<(Pattern, Vec<Port>), BoundError> {
    let (name, ports) = split_ports(text);
    Ok((name.parse()?, ports.map_or_else(|| Ok(vec![Port::Any]), ports::read)?))
}

/// What both let through.
fn both(one: Port, other: Port) -> Option<Port> {
    match (one, other) {
        (Port::Any, port) | (port, Port::Any) => Some(port),
        (one, other) => (one == other).then_some(one),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::schema::Application;

    #[test]
    fn the_longest_match_decides_and_ports_are_those_of_both() {
        let mut config = Config::default();
        let one = |name: &str, names: &[&str]| Application {
            name: name.to_owned(),
            user: Some("1".to_owned()),
            names: names.iter().map(|&name| name.to_owned()).collect(),
            ..Application::default()
        };
        config.nftables.application = vec![
            one("bound-a", &["example.com", "*.below.test"]),
            one("bound-b", &["api.example.com", "=exact.test:443,5432"]),
        ];
        let bound = Bound::new(&config);
        let of = |name: &str| -> Vec<String> {
            let openings = bound.openings(&name.parse().unwrap(), Openings::default());
            openings.iter().map(|opening| applications::name_of(opening.application.unwrap()).to_string()).collect()
        };
        assert_eq!(of("www.example.com"), ["bound-a"]);
        assert_eq!(of("example.com"), ["bound-a"]);
        assert_eq!(of("v1.api.example.com"), ["bound-b"]);
        assert_eq!(of("a.below.test"), ["bound-a"]);
        for free in ["below.test", "www.exact.test", "example.org", "."] {
            assert_eq!(of(free), [""; 0], "{free}");
        }
        let ports = |ports: &[u16]| -> Openings {
            let opening = |port: &u16| Opening { application: None, to: Port::Of { protocol: 6, port: *port } };
            ports.iter().map(opening).collect()
        };
        let free = bound.openings(&"example.org".parse().unwrap(), ports(&[443]));
        assert_eq!(free, ports(&[443]), "what is not bound is as the policy says");
        let of = |ports: Openings| -> Vec<String> {
            let openings = bound.openings(&"exact.test".parse().unwrap(), ports);
            assert!(openings.iter().all(|opening| opening.application.is_some()));
            openings.iter().map(|opening| opening.to.to_string()).collect()
        };
        assert_eq!(of(ports(&[443, 8443])), ["tcp/443"], "what both let through");
        assert_eq!(of(Openings::default()), ["tcp/443", "tcp/5432"]);
        assert_eq!(of(ports(&[80])), ["0/0"], "nothing, and not everything");
    }
}
