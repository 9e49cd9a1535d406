//! Reads a configuration, and judges what its values mean together. Nothing is bound before it passes. Every finding is placed at the key it is about; keys that could not be read are left alone.

use std::collections::HashSet;
use std::fmt::Display;
use std::hash::Hash;
use std::path::Path;

use ipnet::IpNet;

use crate::config::read::Document;
use crate::config::report::Severity;
use crate::config::schema::{Config, NftablesMode, Role};
use crate::config::{self, Places, Report, Warning};
use crate::core::policy::name_from_user;

mod applications;
mod bgp;
mod dns;
mod ebpf;
mod edges;
mod flows;
mod guards;
mod host;
mod http;
mod log;
mod people;
mod policy;
mod service;
mod zones;

/// Most octets of a configuration file; lists have files of their own.
const MOST_OCTETS: u64 = 4 << 20;

/// Reads and checks a file. Paths in the returned configuration are relative to the file's directory no more.
///
/// # Errors
/// A report with every error of the file, each with its place.
pub fn load(path: &Path) -> Result<(Config, Vec<Warning>, Places), Report> {
    let text = read_text(path)?;
    parse(path, &text)
}

/// Like [`load`], from a text; `path` names it and is where relative paths start.
///
/// # Errors
/// See [`load`].
pub fn parse(path: &Path, text: &str) -> Result<(Config, Vec<Warning>, Places), Report> {
    let (mut document, mut config) = Document::read(path, text);
    config::resolve_paths(path, &mut config);
    config.place_lists();
    check(path, &mut document, &config);
    let failed = document.has_errors();
    let places = document.places();
    let findings = document.into_findings();
    if failed { Err(Report { file: path.to_owned(), findings }) } else { Ok((config, findings, places)) }
}

fn read_text(path: &Path) -> Result<String, Report> {
    let unreadable = |reason: String| Report::unreadable(path, reason);
    let length = std::fs::metadata(path).map_err(|error| unreadable(format!("can't be read: {error}")))?.len();
    if length > MOST_OCTETS {
        return Err(unreadable(format!("has {length} octets; a configuration has at most {MOST_OCTETS}")));
    }
    let octets = std::fs::read(path).map_err(|error| unreadable(format!("can't be read: {error}")))?;
    String::from_utf8(octets).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = error.as_bytes().iter().take(good).filter(|octet| **octet == b'\n').count().saturating_add(1);
        unreadable(format!("line {line} is not UTF-8 text"))
    })
}

/// Judges a configuration that was read; what it finds goes into `document`.
pub fn check(file: &Path, document: &mut Document<'_>, config: &Config) {
    let mut checks = Checks { document, config };
    checks.something_enforces();
    checks.mode();
    checks.enforcer();
    checks.ebpf();
    checks.dns();
    checks.zones();
    checks.policy();
    checks.addresses();
    checks.lease_and_gate();
    checks.nftables();
    checks.applications();
    checks.http();
    checks.log();
    checks.bgp();
    checks.service();
    checks.flows();
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
            name_from_user(text).err().map(|error| error.to_string())
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
        if let Some(token) = self.config.http.token_file.as_deref().filter(|file| file.is_file() && open_to_all(file)) {
            self.warning(
                "http.token_file",
                format!("everybody on this host can read {}", token.display()),
                "chmod 640 it",
            );
        }
        let config_open = open_to_all(file);
        let bgp = &self.config.bgp;
        let peers = bgp.peer.iter().enumerate().map(|(index, peer)| {
            (format!("bgp.peer[{index}]"), peer.password.is_some(), peer.password_file.as_deref())
        });
        let service = bgp.service.peer.iter().enumerate().map(|(index, peer)| {
            (format!("bgp.service.peer[{index}]"), peer.password.is_some(), peer.password_file.as_deref())
        });
        for (path, password, secret) in peers.chain(service) {
            if password && config_open {
                self.warning(
                    &format!("{path}.password"),
                    format!("everybody on this host can read {}", file.display()),
                    "chmod 640 it, or use password_file",
                );
            }
            if let Some(secret) = secret.filter(|secret| open_to_all(secret)) {
                self.warning(
                    &format!("{path}.password_file"),
                    format!("everybody on this host can read {}", secret.display()),
                    "chmod 640 it",
                );
            }
        }
    }
}
