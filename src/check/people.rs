//! Who is known by more than an address: certificates of clients, and paths of DNS over HTTPS.

use std::collections::HashMap;
use std::path::PathBuf;

use super::Checks;
use crate::config::schema::{Scope, WHOLE_IPV6};
use crate::core::person::Pattern;
use crate::dns::transport::HTTPS_PATH;
use crate::tls::people::Believed;

/// Most octets of a path.
const PATH_OCTETS: usize = 255;
/// Most entries of `certificate` in one group.
const CERTIFICATES: usize = 1024;

impl Checks<'_, '_> {
    pub(super) fn people(&mut self) {
        let tls = &self.config.dns.tls;
        let encrypted = !(tls.dot.is_empty() && tls.doh.is_empty() && tls.doq.is_empty());
        let certificates = self.certificates();
        self.paths();
        for (key, given) in [
            ("dns.tls.client_ca", tls.client_ca.is_some()),
            ("dns.tls.client_crl", tls.client_crl.is_some()),
            ("dns.tls.require_client_certificate", tls.require_client_certificate),
        ] {
            if given && !encrypted {
                let words = "nothing is encrypted: no client can show a certificate";
                self.warning(key, words, "add dns.tls.dot, dns.tls.doh or dns.tls.doq");
            }
        }
        if tls.client_crl.is_some() && tls.client_ca.is_none() {
            self.error("dns.tls.client_crl", "needs `client_ca`: whose list it is");
        }
        if tls.require_client_certificate && tls.client_ca.is_none() && !certificates {
            self.error("dns.tls.require_client_certificate", "no certificate is believed: nobody could ask");
        }
        for (key, file) in [("dns.tls.client_ca", &tls.client_ca), ("dns.tls.client_crl", &tls.client_crl)] {
            if let Some(file) = file {
                self.readable(key, file);
            }
        }
        let there = |file: &Option<PathBuf>| file.as_ref().is_none_or(|file| file.is_file());
        if there(&tls.client_ca)
            && there(&tls.client_crl)
            && let Err(error) = Believed::read(self.config)
        {
            let crl = tls.client_crl.as_deref().is_some_and(|crl| error.file() == Some(crl));
            self.error(if crl { "dns.tls.client_crl" } else { "dns.tls.client_ca" }, error.to_string());
        }
    }

    /// Whether a certificate is believed by its hash.
    fn certificates(&mut self) -> bool {
        let tls = &self.config.dns.tls;
        let encrypted = !(tls.dot.is_empty() && tls.doh.is_empty() && tls.doq.is_empty());
        let mut hashes = false;
        let mut seen: HashMap<Pattern, String> = HashMap::new();
        for (index, group) in self.config.policy.group.iter().enumerate() {
            let key = format!("policy.group[{index}].certificate");
            if group.certificate.len() > CERTIFICATES {
                self.error(
                    &key,
                    format!("a group has {CERTIFICATES} certificates at most; \"*.name\" stands for many"),
                );
            }
            if !group.certificate.is_empty() && !encrypted {
                let words = "nothing is encrypted: no client can show a certificate";
                self.warning(&key, words, "add dns.tls.dot, dns.tls.doh or dns.tls.doq");
            }
            for (at, text) in group.certificate.iter().enumerate() {
                let key = format!("{key}[{at}]");
                match Pattern::parse(text) {
                    Ok(pattern) => {
                        hashes |= !pattern.needs_ca();
                        if pattern.needs_ca() && tls.client_ca.is_none() {
                            self.error(&key, "needs dns.tls.client_ca: the CA that says who bears this name");
                        }
                        if let Some(other) = seen.insert(pattern, key.clone()) {
                            self.error(&key, format!("\"{text}\" stands at {other} already"));
                        }
                    }
                    Err(error) => self.error(&key, format!("\"{text}\": {error}")),
                }
            }
        }
        hashes
    }

    fn paths(&mut self) {
        let mut seen: HashMap<&str, usize> = HashMap::new();
        for (index, group) in self.config.policy.group.iter().enumerate() {
            let Some(path) = &group.doh_path else { continue };
            let key = format!("policy.group[{index}].doh_path");
            // What a path may hold unescaped (RFC 3986 section 3.3): a client would escape all else, and never meet it.
            let fits = |octet: u8| octet.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&octet);
            if !path.starts_with('/') || path.len() > PATH_OCTETS || !path.bytes().all(fits) {
                let example = format!("as in \"{HTTPS_PATH}/children\"");
                self.error(&key, format!("\"{path}\" is no path: a slash, letters, digits and -._~ , {example}"));
            } else if path == HTTPS_PATH {
                self.error(&key, format!("{HTTPS_PATH} is everybody's"));
            } else if let Some(other) = seen.insert(path, index) {
                self.error(&key, format!("\"{path}\" is that of policy.group[{other}] already"));
            }
            if self.config.dns.tls.doh.is_empty() {
                self.warning(&key, "there is no DNS over HTTPS: nobody asks at a path", "add dns.tls.doh");
            }
        }
    }

    /// Who is one client where leases are for single ones.
    pub(super) fn client_prefix(&mut self) {
        const KEY: &str = "nftables.client_ipv6_prefix";
        let nftables = &self.config.nftables;
        let prefix = nftables.client_ipv6_prefix;
        if !(1..=WHOLE_IPV6).contains(&prefix) {
            self.error(KEY, format!("{prefix}: from 1 to {WHOLE_IPV6} bits tell clients apart"));
            return;
        }
        if prefix == WHOLE_IPV6 {
            return;
        }
        if nftables.scope != Scope::Client {
            let words = "counts with scope = \"client\" alone: else leases are everybody's";
            self.warning(KEY, words, "set nftables.scope, or remove the key");
            return;
        }
        if self.config.enforcer != "nftables" {
            self.error(KEY, "only with enforcer = \"nftables\": no other takes many addresses as one client");
        }
        for (index, group) in self.config.policy.group.iter().enumerate() {
            for (at, net) in group.clients.iter().enumerate().filter(|(_, net)| net.network().is_ipv6()) {
                if net.prefix_len() > prefix {
                    self.warning(
                        &format!("policy.group[{index}].clients[{at}]"),
                        format!("{net} is a part of what is one client: what others of its /{prefix} may open is open for it too"),
                        "name whole clients, or raise nftables.client_ipv6_prefix",
                    );
                }
            }
        }
    }
}
