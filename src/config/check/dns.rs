//! `[dns]`

use std::collections::HashMap;

use super::Checks;
use crate::config::not_yet;
use crate::config::upstream::UpstreamUrl;

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
        for (path, file) in [("dns.tls.certificate", &tls.certificate), ("dns.tls.key", &tls.key)] {
            if let Some(file) = file {
                self.readable(path, file);
            }
        }
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
        if dns.workers > 1024 {
            self.error("dns.workers", format!("{} threads are more than the 1024 that make sense", dns.workers));
        }
        self.upstreams();
    }

    fn upstreams(&mut self) {
        let dns = &self.config.dns;
        if dns.upstream.is_empty() && self.sound(&["dns.upstream"]) {
            self.error_with(
                "dns.upstream",
                "there is no upstream to ask",
                "add a [[dns.upstream]] with `url = \"udp://ADDRESS\"`",
            );
        }
        let mut seen: HashMap<(UpstreamUrl, &[String]), usize> = HashMap::new();
        for (index, upstream) in dns.upstream.iter().enumerate() {
            let path = format!("dns.upstream[{index}]");
            let url_path = format!("{path}.url");
            for (at, domain) in upstream.domains.iter().enumerate() {
                self.name(&format!("{path}.domains[{at}]"), domain);
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
            if upstream.client_certificate.is_some() != upstream.client_key.is_some() {
                self.error(&path, "`client_certificate` and `client_key` go together");
            }
            if !self.sound(&[&url_path]) {
                continue;
            }
            let url = match upstream.url.parse::<UpstreamUrl>() {
                Ok(url) => url,
                Err(error) => {
                    self.error(&url_path, error);
                    continue;
                }
            };
            let scheme = url.transport.scheme();
            if !not_yet::TRANSPORTS.contains(&url.transport) {
                let known: Vec<&str> = not_yet::TRANSPORTS.iter().map(|transport| transport.scheme()).collect();
                self.error_with(
                    &url_path,
                    format!("{scheme} upstreams: not available in this version"),
                    &format!("there are {}", known.join(", ")),
                );
            } else if url.transport.is_encrypted() {
                match &upstream.server_name {
                    Some(name) => self.name(&format!("{path}.server_name"), name),
                    None => self
                        .error(&path, format!("`server_name` is missing: {scheme} needs the name of the certificate")),
                }
            } else {
                let unused = files.iter().filter(|(_, file)| file.is_some()).map(|(key, _)| *key);
                for key in unused.chain(upstream.server_name.as_ref().map(|_| "server_name")) {
                    self.error(
                        &format!("{path}.{key}"),
                        format!("`{key}` has no meaning for {scheme}, which is not encrypted"),
                    );
                }
            }
            let own = dns.listen.iter().any(|listen| {
                listen.port() == url.addr.port()
                    && (listen.ip() == url.addr.ip() || (listen.ip().is_unspecified() && url.addr.ip().is_loopback()))
            });
            if own {
                self.error(&url_path, format!("{} is this guard itself (dns.listen)", url.addr));
            }
            if let Some(first) = seen.insert((url, &upstream.domains), index) {
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
