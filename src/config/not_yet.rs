//! Keys that this version knows and cannot do. They are refused, never ignored. Whoever builds a feature deletes its line.

use super::read::Document;
use super::report::Severity;
use super::schema::{Config, Scope};

/// A key, and the paths at which a configuration uses it.
type Missing = (&'static str, fn(&Config) -> Vec<String>);

const MISSING: &[Missing] =
    &[("leases of one client alone", |c| when(c.nftables.scope == Scope::Client, "nftables.scope"))];

fn when(used: bool, path: &str) -> Vec<String> {
    if used { vec![path.to_owned()] } else { Vec::new() }
}

/// Refuses what is not there yet.
pub fn refuse(document: &mut Document<'_>, config: &Config) {
    for (what, uses) in MISSING {
        for path in uses(config) {
            let message = format!("{what}: not available in this version");
            document.say(Severity::Error, &path, message, Some("remove the key"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Uses everything that ever was or is listed above.
    const ALL: &str = r#"
[dns.cache]
serve_stale = "1h"
[[policy.list]]
path = "/dev/null"
format = "domains"
action = "deny"
[[policy.group]]
name = "red"
clients = ["192.0.2.0/24"]
communities = ["64512:7"]
[nftables]
mode = "gateway"
inside = ["lan0"]
scope = "client"
"#;

    #[test]
    fn each_is_refused_at_its_key_and_none_without_being_used() {
        let config: Config = toml::from_str(ALL).unwrap();
        let report = crate::config::parse(Path::new("destguard.toml"), ALL).unwrap_err();
        for (what, uses) in MISSING {
            assert!(uses(&Config::default()).is_empty(), "{what} is refused although it is not used");
            let paths = uses(&config);
            assert!(!paths.is_empty(), "{what} is not recognised when it is used");
            for path in paths {
                let refused = report.errors().any(|error| {
                    error.key == path && error.message == format!("{what}: not available in this version")
                });
                assert!(refused, "{what} at {path}:\n{report}");
            }
        }
    }
}
