//! `[[bgp.peer]]` with `role = "guard"`: who may open addresses here must prove who it is, and that it is near.

use super::Checks;
use crate::config::schema::Peer;

impl Checks<'_, '_> {
    pub(super) fn other_guard(&mut self, path: &str, peer: &Peer) {
        let key = |key: &str| format!("{path}.{key}");
        for given in ["confirm", "settle", "observer", "observers", "forwards", "probe_ttl"] {
            if self.document.has(&key(given)) {
                self.error(&key(given), format!("`{given}` has no meaning for another guard, for which nothing waits"));
            }
        }
        if peer.required && self.document.has(&key("required")) {
            self.error(&key("required"), "answers never wait for another guard");
        }
        if peer.password.is_none() && peer.password_file.is_none() && peer.tcp_ao.is_none() {
            self.error_with(
                &key("role"),
                "what another guard says opens addresses here: it needs a `password`, `password_file` or `tcp_ao`",
                "set the same at both ends; lab keys are made by `openssl rand -base64 24`",
            );
        }
        if !peer.ttl_security {
            self.error_with(
                &key("role"),
                "what another guard says opens addresses here: it needs `ttl_security = true`",
                "set it at both ends, with `multihop` where routers lie between",
            );
        }
        if self.config.narrows_ports() {
            self.error_with(
                &key("role"),
                "guards tell each other of whole addresses, and names have ports here (policy.allow, policy.rule)",
                "leave one of the two out",
            );
        }
        if self.config.per_client() {
            self.error_with(
                &key("role"),
                "leases of other guards are for everybody, those here for single clients (nftables.scope = \"client\")",
                "leave one of the two out",
            );
        }
    }
}
