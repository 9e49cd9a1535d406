//! `[dns]`

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::time::SystemTime;

use ipnet::IpNet;

use super::Checks;
use crate::config::schema::Dnssec;
use crate::config::upstream::UpstreamUrl;
use crate::core::name::Name;
use crate::core::policy::name_from_user;
use crate::dns::validate::anchor::Anchors;
use crate::tls::{TlsError, client, server, validity};

impl Checks<'_, '_> {
    pub(super) fn dns(&mut self) {
        let dns = &self.config.dns;
        let tls = &dns.tls;
        let encrypted = [("dns.tls.dot", &tls.dot), ("dns.tls.doh", &tls.doh), ("dns.tls.doq", &tls.doq)];
        if dns.listen.is_empty() && encrypted.iter().all(|(_, list)| list.is_empty()) {
            self.error("dns.listen", "no address to listen on: nobody could ask");
        }
        self.unique("dns.listen", &dns.listen);
        for (path, list) in encrypted {
            self.unique(path, list);
            if list.is_empty() {
                continue;
            }
            for (key, given) in [("certificate", tls.certificate.is_some()), ("key", tls.key.is_some())] {
                if !given && self.sound(&[&format!("dns.tls.{key}")]) {
                    self.error(path, format!("needs `{key}` in [dns.tls]"));
                }
            }
        }
        self.pair("dns.tls", tls.certificate.as_deref(), tls.key.as_deref());
        // TCP for the first two, UDP for the third; `dns.listen` has both.
        let taken = [
            ("dns.tls.dot", &tls.dot, None),
            ("dns.tls.doh", &tls.doh, Some(&tls.dot)),
            ("dns.tls.doq", &tls.doq, None),
        ];
        for (path, list, beside) in taken {
            for (index, address) in list.iter().enumerate().filter(|(_, address)| address.port() != 0) {
                if dns.listen.contains(address) {
                    self.error(&format!("{path}[{index}]"), format!("{address} is in dns.listen already"));
                } else if beside.is_some_and(|beside| beside.contains(address)) {
                    self.error(&format!("{path}[{index}]"), format!("{address} is in dns.tls.dot already"));
                }
            }
        }
        self.people();
        self.virtual_addresses();
        if dns.clients.is_empty() {
            self.error("dns.clients", "no client may ask; every question would be refused");
        }
        self.prefixes("dns.clients", &dns.clients);
        if dns.listen.iter().any(|addr| !addr.ip().is_loopback()) {
            for (index, net) in dns.clients.iter().enumerate().filter(|(_, net)| net.prefix_len() == 0) {
                self.warning(
                    &format!("dns.clients[{index}]"),
                    format!("{net}: everybody may ask, an open resolver"),
                    "name the prefixes of your own clients",
                );
            }
        }
        let only_loopback = |net: &IpNet| net.network().is_loopback() && net.broadcast().is_loopback();
        let refuses_others = !dns.clients.is_empty() && dns.clients.iter().all(only_loopback);
        let lists = [
            ("dns.listen", &dns.listen),
            ("dns.tls.dot", &dns.tls.dot),
            ("dns.tls.doh", &dns.tls.doh),
            ("dns.tls.doq", &dns.tls.doq),
        ];
        for (path, list) in lists.into_iter().filter(|_| refuses_others) {
            let for_others = list.iter().position(|addr| !addr.ip().to_canonical().is_loopback());
            let Some(index) = for_others else { continue };
            self.warning(
                &format!("{path}[{index}]"),
                "other hosts reach this address, and all of them get REFUSED: dns.clients has only loopback",
                "name their prefixes in `dns.clients`, or listen on loopback only",
            );
        }
        if dns.rate_limit.is_some_and(|rate| rate.count == 0) {
            self.error("dns.rate_limit", "zero: nobody would get a reply over UDP");
        }
        if dns.workers > 1024 {
            self.error("dns.workers", format!("{} threads are more than the 1024 that make sense", dns.workers));
        }
        self.upstreams();
        self.dnssec();
    }

    /// One that no listener names would be a slip of the pen, and its listener would keep `/ready` at 503.
    fn virtual_addresses(&mut self) {
        let config = self.config;
        let tls = &config.dns.tls;
        let lists = [&config.dns.listen, &tls.dot, &tls.doh, &tls.doq, &config.http.listen, &config.bgp.listen];
        for (index, address) in config.dns.virtual_addresses.iter().enumerate() {
            if !lists.iter().any(|list| list.iter().any(|endpoint| endpoint.ip() == *address)) {
                self.error(
                    &format!("dns.virtual_addresses[{index}]"),
                    format!("nothing listens on {address}: no dns.listen, dns.tls, http.listen or bgp.listen names it"),
                );
            }
        }
    }

    fn dnssec(&mut self) {
        let dnssec = &self.config.dns.dnssec;
        for (index, domain) in dnssec.insecure.iter().enumerate() {
            self.name(&format!("dns.dnssec.insecure[{index}]"), domain);
        }
        let named = Dnssec { insecure: Vec::new(), ..dnssec.clone() };
        let anchors = match Anchors::new(&named) {
            Ok(anchors) => anchors,
            Err(error) => {
                let error = error.to_string();
                self.error("dns.dnssec.trust_anchor", error.strip_prefix("trust_anchor: ").unwrap_or(&error));
                return;
            }
        };
        if !dnssec.validate {
            for (key, given) in
                [("trust_anchor", dnssec.trust_anchor.is_some()), ("insecure", !dnssec.insecure.is_empty())]
            {
                if given {
                    self.warning(
                        &format!("dns.dnssec.{key}"),
                        format!("`{key}` has no effect while nothing is validated"),
                        "set `validate = true`",
                    );
                }
            }
            return;
        }
        self.forwarded_domains(&anchors);
    }

    /// A domain with servers of its own is a private one more often than not, and then the public tree proves that it isn't there.
    fn forwarded_domains(&mut self, anchors: &Anchors) {
        let dns = &self.config.dns;
        let insecure: Vec<Name> = dns.dnssec.insecure.iter().filter_map(|domain| name_from_user(domain).ok()).collect();
        for (index, upstream) in dns.upstream.iter().enumerate() {
            for (at, domain) in upstream.domains.iter().enumerate() {
                let Ok(name) = name_from_user(domain) else { continue };
                let told = insecure.iter().any(|above| name.is_within(above));
                let anchored = anchors.above(&name).is_none_or(|(top, _)| top.wire().len() > 1);
                if !told && !anchored {
                    self.warning(
                        &format!("dns.upstream[{index}].domains[{at}]"),
                        format!("answers for {domain} are validated: if it is a private zone, they get SERVFAIL"),
                        "name it in `dns.dnssec.insecure`, or give its key with `dns.dnssec.trust_anchor`",
                    );
                }
            }
        }
    }

    /// A certificate and its key in this table.
    pub(super) fn pair(&mut self, table: &str, certificate: Option<&Path>, key: Option<&Path>) {
        for (name, file) in [("certificate", certificate), ("key", key)] {
            if let Some(file) = file {
                self.readable(&format!("{table}.{name}"), file);
            }
        }
        if let (Some(certificate), Some(key)) = (certificate, key)
            && certificate.is_file()
            && key.is_file()
        {
            match server::load(certificate, key) {
                Ok(_) => self.dates(&format!("{table}.certificate"), certificate, false),
                Err(error) => {
                    let name = if error.file() == Some(key) { "key" } else { "certificate" };
                    self.error(&format!("{table}.{name}"), error.to_string());
                }
            }
        }
    }

    /// Warns of a certificate that is not good now, or not for long.
    fn dates(&mut self, path: &str, file: &Path, roots: bool) {
        if let Some(complaint) = validity::complaint(file, roots, SystemTime::now()) {
            self.warning(path, complaint, "renew it; the guard reads the file again when it changes");
        }
    }

    fn upstreams(&mut self) {
        let dns = &self.config.dns;
        let tls = &dns.tls;
        if dns.upstream.is_empty() && self.sound(&["dns.upstream"]) {
            self.error_with(
                "dns.upstream",
                "there is no upstream to ask",
                "add a [[dns.upstream]] with `url = \"udp://ADDRESS\"`",
            );
        }
        let mut seen: HashMap<(UpstreamUrl, BTreeSet<Name>), usize> = HashMap::new();
        for (index, upstream) in dns.upstream.iter().enumerate() {
            let path = format!("dns.upstream[{index}]");
            let url_path = format!("{path}.url");
            let mut names = BTreeSet::new();
            for (at, domain) in upstream.domains.iter().enumerate() {
                let path = format!("{path}.domains[{at}]");
                self.name(&path, domain);
                if name_from_user(domain).is_ok_and(|name| !names.insert(name)) {
                    self.warning(&path, format!("{domain} is named twice"), "once is enough; take it out");
                }
            }
            let files = [
                ("ca", &upstream.ca),
                ("client_certificate", &upstream.client_certificate),
                ("client_key", &upstream.client_key),
            ];
            for (key, file) in files {
                if let Some(file) = file {
                    self.readable(&format!("{path}.{key}"), file);
                }
            }
            if let Some((given, missing)) = match (&upstream.client_certificate, &upstream.client_key) {
                (Some(_), None) => Some(("client_certificate", "client_key")),
                (None, Some(_)) => Some(("client_key", "client_certificate")),
                _ => None,
            } {
                self.error(&format!("{path}.{given}"), format!("needs `{missing}` beside it"));
            }
            if !self.sound(&[&url_path]) {
                continue;
            }
            let url = match upstream.url.parse::<UpstreamUrl>() {
                Ok(url) => url,
                Err(error) => {
                    match by_name(&upstream.url) {
                        Some(help) => self.error_with(&url_path, error.to_string(), help),
                        None => self.error(&url_path, error.to_string()),
                    }
                    continue;
                }
            };
            let scheme = url.transport.scheme();
            if url.transport.is_encrypted() {
                // A file that isn't there was named above.
                let files_are_there = files.iter().filter_map(|(_, file)| file.as_ref()).all(|file| file.is_file());
                let together = upstream.client_certificate.is_some() == upstream.client_key.is_some();
                if let Err(error) = client::server_name(upstream, &url) {
                    self.error(&format!("{path}.server_name"), error.to_string());
                } else if files_are_there && together {
                    match client::config(upstream, &[]) {
                        Ok(_) => {
                            for (key, file) in files.iter().filter(|(key, _)| *key != "client_key") {
                                if let Some(file) = file {
                                    self.dates(&format!("{path}.{key}"), file, *key == "ca");
                                }
                            }
                        }
                        Err(error) => {
                            let key = match &error {
                                TlsError::Pin(_) => "pins",
                                error => files
                                    .iter()
                                    .find(|(_, own)| own.is_some() && own.as_deref() == error.file())
                                    .map_or("url", |(key, _)| *key),
                            };
                            self.error(&format!("{path}.{key}"), error.to_string());
                        }
                    }
                }
            } else {
                let unused = files.iter().filter(|(_, file)| file.is_some()).map(|(key, _)| *key);
                for key in unused
                    .chain(upstream.server_name.as_ref().map(|_| "server_name"))
                    .chain((!upstream.pins.is_empty()).then_some("pins"))
                {
                    self.error(
                        &format!("{path}.{key}"),
                        format!("`{key}` has no meaning for {scheme}, which is not encrypted"),
                    );
                }
            }
            let own = dns.listen.iter().chain(&tls.dot).chain(&tls.doh).chain(&tls.doq).any(|listen| {
                listen.port() == url.addr.port()
                    && (listen.ip() == url.addr.ip() || (listen.ip().is_unspecified() && url.addr.ip().is_loopback()))
            });
            if own {
                self.error(&url_path, format!("{} is this guard itself", url.addr));
            }
            if let Some(first) = seen.insert((url, names), index) {
                self.error(&url_path, format!("the same upstream as dns.upstream[{first}]"));
            }
        }
        if !dns.upstream.is_empty() && dns.upstream.iter().all(|upstream| !upstream.domains.is_empty()) {
            self.warning(
                "dns.upstream",
                "every upstream is for some domains only; all other names get SERVFAIL",
                "add one without `domains`",
            );
        }
    }
}

/// What to do about an upstream that is given by a name.
fn by_name(text: &str) -> Option<&'static str> {
    let (_, rest) = text.split_once("://")?;
    let host = rest.split(['/', ':']).next()?;
    // What has only digits and dots is an address with a slip.
    let is_name = host.bytes().any(|byte| byte.is_ascii_alphabetic()) && name_from_user(host).is_ok();
    is_name.then_some("give the address; put the name into server_name")
}
