//! What values mean together. Every finding is placed at the key it is about; keys that could not be read are left alone.

use std::collections::HashSet;
use std::fmt::Display;
use std::hash::Hash;
use std::path::Path;

use ipnet::IpNet;

use super::read::Document;
use super::report::Severity;
use super::schema::{Config, NftablesMode, Role};
use crate::core::policy::name_from_user;

mod bgp;
mod dns;
mod edges;
mod host;
mod policy;

/// Judges a configuration that was read; what it finds goes into `document`.
pub fn check(file: &Path, document: &mut Document<'_>, config: &Config) {
    let mut checks = Checks { document, config };
    checks.something_enforces();
    checks.mode();
    checks.dns();
    checks.policy();
    checks.addresses();
    checks.lease_and_gate();
    checks.nftables();
    checks.http();
    checks.bgp();
    checks.readable_by_all(file);
}

struct Checks<'d, 't> {
    document: &'d mut Document<'t>,
    config: &'d Config,
}

impl Checks<'_, '_> {
    fn error(&mut self, path: &str, message: impl Into<String>) {
        self.document.say(Severity::Error, path, message, None);
    }

    fn error_with(&mut self, path: &str, message: impl Into<String>, help: &str) {
        self.document.say(Severity::Error, path, message, Some(help));
    }

    fn warning(&mut self, path: &str, message: impl Into<String>, help: &str) {
        self.document.say(Severity::Warning, path, message, Some(help));
    }

    /// Whether nothing was wrong with these keys when they were read.
    fn sound(&self, paths: &[&str]) -> bool {
        paths.iter().all(|path| self.document.is_sound(path))
    }

    /// A guard without enforcer would resolve and block nothing.
    fn something_enforces(&mut self) {
        let peers = &self.config.bgp.peer;
        let edges = &self.config.bgp.edge;
        let enforced = self.config.nftables.mode != NftablesMode::Off
            || (!peers.is_empty() && edges.iter().any(|edge| edge.required))
            || peers.iter().any(|peer| peer.required && peer.role == Role::Enforcer);
        if enforced || !self.sound(&["nftables.mode", "bgp.peer"]) {
            return;
        }
        let (path, message) = if peers.is_empty() {
            ("nftables.mode", "nothing enforces: `nftables.mode` is \"off\" and there is no [[bgp.peer]]")
        } else {
            ("bgp.peer", "nothing enforces: `nftables.mode` is \"off\" and no [[bgp.peer]] is a required enforcer")
        };
        self.error_with(
            path,
            message,
            "set nftables.mode to \"local\", \"gateway\" or \"both\", or add a [[bgp.peer]] whose `required` is true",
        );
    }

    /// Reports what occurs twice in a list.
    fn unique<T: Eq + Hash + Display>(&mut self, path: &str, values: &[T]) {
        let mut seen = HashSet::new();
        for (index, value) in values.iter().enumerate() {
            if !seen.insert(value) {
                self.error(&format!("{path}[{index}]"), format!("{value} stands here twice"));
            }
        }
    }

    /// Reports prefixes with bits set behind their length: nobody can tell which of the two was meant.
    fn prefixes(&mut self, path: &str, nets: &[IpNet]) {
        for (index, net) in nets.iter().enumerate() {
            if net.trunc() != *net {
                self.error_with(
                    &format!("{path}[{index}]"),
                    format!("{net} has bits set behind its prefix length"),
                    &format!("write {} for the prefix, {} for the one address", net.trunc(), net.addr()),
                );
            }
        }
    }

    /// Reports what is not a domain name as it travels in DNS.
    fn name(&mut self, path: &str, text: &str) {
        let problem = if text.is_empty() {
            Some("an empty name".to_owned())
        } else if text.contains(['/', ':', ' ', '\t']) {
            Some("a domain name, not a URL or an address with a port".to_owned())
        } else if text.contains('*') {
            Some("a star stands only at the front, as in \"*.example.com\"".to_owned())
        } else {
            name_from_user(text).err()
        };
        if let Some(problem) = problem {
            self.error(path, format!("\"{text}\" is not a domain name: {problem}"));
        }
    }

    /// Reports a file that can't be opened.
    fn readable(&mut self, path: &str, file: &Path) {
        let opened = std::fs::File::open(file).and_then(|file| file.metadata());
        match opened {
            Ok(metadata) if metadata.is_dir() => self.error(path, format!("{} is a directory", file.display())),
            Ok(_) => {}
            Err(error) => self.error(path, format!("{} can't be read: {error}", file.display())),
        }
    }

    /// Passwords belong into files that not everybody reads.
    fn readable_by_all(&mut self, file: &Path) {
        use std::os::unix::fs::PermissionsExt;
        let open_to_all =
            |file: &Path| std::fs::metadata(file).is_ok_and(|meta| meta.permissions().mode() & 0o004 != 0);
        let config_open = open_to_all(file);
        for (index, peer) in self.config.bgp.peer.iter().enumerate() {
            if peer.password.is_some() && config_open {
                self.warning(
                    &format!("bgp.peer[{index}].password"),
                    format!("everybody on this host can read {}", file.display()),
                    "chmod 640 it, or use password_file",
                );
            }
            if let Some(secret) = peer.password_file.as_deref().filter(|secret| open_to_all(secret)) {
                self.warning(
                    &format!("bgp.peer[{index}].password_file"),
                    format!("everybody on this host can read {}", secret.display()),
                    "chmod 640 it",
                );
            }
        }
    }
}
