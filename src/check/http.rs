//! `[http]`

use super::Checks;
use crate::control::access::Token;

impl Checks<'_, '_> {
    pub(super) fn http(&mut self) {
        let http = &self.config.http;
        self.unique("http.listen", &http.listen);
        self.unique("http.names", &http.names);
        for (index, name) in http.names.iter().enumerate() {
            self.name(&format!("http.names[{index}]"), name);
        }
        self.pair("http", http.certificate.as_deref(), http.key.as_deref());
        if let Some((given, missing)) = match (&http.certificate, &http.key) {
            (Some(_), None) => Some(("certificate", "key")),
            (None, Some(_)) => Some(("key", "certificate")),
            _ => None,
        } && self.sound(&[&format!("http.{missing}")])
        {
            self.error(&format!("http.{given}"), format!("needs `{missing}` beside it"));
        }
        if let Some(Err(error)) = http.token_file.as_deref().map(Token::read) {
            self.error("http.token_file", error.to_string());
        }
        if http.metrics_need_token && http.token_file.is_none() && self.sound(&["http.token_file"]) {
            self.warning("http.metrics_need_token", "there is no token that they could need", "set `token_file`");
        }
        let (token, tls) = (http.token_file.is_some(), http.certificate.is_some() && http.key.is_some());
        let (words, help) = match (token, tls) {
            (true, true) => return,
            (true, false) => (
                "the token, and all that is read with it, passes in plain text",
                "set `certificate` and `key`, or listen on loopback",
            ),
            (false, _) => (
                "whoever reaches it reads leases, names and clients: there is no token",
                "set `token_file`, `certificate` and `key`, or listen on loopback",
            ),
        };
        for (index, addr) in http.listen.iter().enumerate().filter(|(_, addr)| !addr.ip().to_canonical().is_loopback())
        {
            self.warning(&format!("http.listen[{index}]"), format!("{addr}: {words}"), help);
        }
    }
}
