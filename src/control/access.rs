//! Who may read over TCP: by which names the guard may be asked, with which token, over TLS or not. A reload changes all of it.
//!
//! A web page whose own name is made to resolve to the guard's address (DNS rebinding) would read the guard through a visitor's browser. Its requests bear that name, so
//! names that nobody configured are refused. Addresses are not: no name server decides what they mean.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::config::schema::Http;
use crate::core::name::Name;
use crate::core::policy::{UserNameError, name_from_user};
use crate::tls::server::{self, Identity};
use crate::tls::{Reloads, TlsError};

mod host;
mod token;

pub use token::{Token, TokenError};

/// Spoken under TLS.
const ALPN: &[&[u8]] = &[b"http/1.1"];

/// Shared by all listeners; cheap to clone.
#[derive(Clone, Default)]
pub struct Access(Arc<Inner>);

#[derive(Default)]
struct Inner {
    rules: ArcSwap<Rules>,
    /// Ends whoever follows the certificate's files.
    followed: Mutex<Option<watch::Sender<bool>>>,
    /// The number of the rules in force.
    number: watch::Sender<u64>,
    followers: Gauge,
    refused: Family<[(&'static str, &'static str); 1], Counter>,
    reloads: Reloads,
}

/// What is in force.
#[derive(Default)]
pub struct Rules {
    /// Another one where something else may be read than before.
    number: u64,
    names: Vec<Name>,
    tls: Option<Tls>,
    token: Option<Token>,
    metrics_need_token: bool,
}

struct Tls {
    identity: Arc<Identity>,
    acceptor: TlsAcceptor,
}

/// Read and not in force yet.
pub struct Prepared {
    rules: Rules,
    /// The certificate is of other files than before.
    other: bool,
}

/// Why a request isn't answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It bears a name that isn't the guard's.
    Name,
    /// It has no Host, several, or one that can't be read.
    Host,
    /// A web page of another site made a browser send it.
    Site,
    /// It has no token, or a wrong one.
    Token,
    /// It came in plain text on a connection from before TLS was configured.
    Plain,
}

impl Refused {
    const ALL: [Self; 5] = [Self::Name, Self::Host, Self::Site, Self::Token, Self::Plain];

    fn label(self) -> [(&'static str, &'static str); 1] {
        let reason = match self {
            Self::Name => "name",
            Self::Host => "host",
            Self::Site => "site",
            Self::Token => "token",
            Self::Plain => "plain",
        };
        [("reason", reason)]
    }
}

/// How a connection came.
#[derive(Clone, Copy, Debug, Default)]
pub struct Way {
    /// Whether the connection is under TLS, which nobody on the way can read.
    pub tls: bool,
}

/// What a request says of itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked<'a> {
    /// Of the URL, where it names a host.
    pub authority: Option<&'a str>,
    /// Every `Host` header of the request, as sent.
    pub hosts: &'a [&'a str],
    /// What browsers say of the page that asks.
    pub site: Option<&'a str>,
    /// The `Authorization` header as sent, where a token is looked for.
    pub authorization: Option<&'a str>,
    /// The path of the request's URL, by which it is known what is asked for.
    pub path: &'a str,
    /// It came encrypted.
    pub tls: bool,
    /// The listener is one of loopback.
    pub loopback: bool,
}

/// Why `[http]` can't be in force as it is, with the key.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The certificate or its key can't be used.
    #[error("http.certificate: {0}")]
    Certificate(#[source] TlsError),
    /// The library takes no such configuration.
    #[error("http: {0}")]
    Tls(#[source] TlsError),
    /// One of the two is missing.
    #[error("http: `certificate` and `key` go together")]
    Half,
    /// The file of the token.
    #[error("http.token_file: {0}")]
    Token(#[from] TokenError),
    /// A name that page and API may not be asked by.
    #[error("http.names: {0}")]
    Name(#[from] UserNameError),
}

/// What who asks may learn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reader {
    /// Who asked for what.
    pub knows: bool,
    /// The rules that said so; `None`: the operator's socket.
    number: Option<u64>,
}

impl Reader {
    /// Who has the control socket.
    pub const OPERATOR: Self = Self { knows: true, number: None };
}

impl Access {
    /// Registers who was refused, and who follows.
    pub fn register(&self, registry: &mut Registry) {
        let inner = &self.0;
        for reason in Refused::ALL {
            drop(inner.refused.get_or_create(&reason.label()));
        }
        let help = "Requests to http.listen that were refused, by reason";
        registry.register("http_refused", help, inner.refused.clone());
        registry.register("query_log_followers", "Who follows the query log now", inner.followers.clone());
        let help = "Certificates of http.listen taken over from changed files";
        registry.register("http_certificate_reloads", help, inner.reloads.done.clone());
        let help = "Changed certificates of http.listen that can't be used";
        registry.register("http_certificate_errors", help, inner.reloads.failed.clone());
    }

    /// Reads certificate and token.
    ///
    /// # Errors
    /// See [`AccessError`]; nothing has changed then.
    pub fn prepare(&self, http: &Http) -> Result<Prepared, AccessError> {
        let now = self.0.rules.load();
        let mut other = false;
        let tls = match (&http.certificate, &http.key) {
            (Some(certificate), Some(key)) => {
                let identity = match now.tls.as_ref().filter(|tls| tls.identity.is_of(certificate, key)) {
                    Some(tls) => tls.identity.clone(),
                    None => {
                        other = true;
                        Identity::open("http", certificate, key).map_err(AccessError::Certificate)?
                    }
                };
                let config = server::config(identity.clone(), &Arc::default(), ALPN).map_err(AccessError::Tls)?;
                Some(Tls { identity, acceptor: TlsAcceptor::from(Arc::new(config)) })
            }
            (None, None) => None,
            _ => return Err(AccessError::Half),
        };
        let token = http.token_file.as_deref().map(Token::read).transpose()?;
        let names = http.names.iter().map(|name| name_from_user(name)).collect::<Result<Vec<Name>, _>>()?;
        let mut rules = Rules { number: now.number, names, tls, token, metrics_need_token: http.metrics_need_token };
        if !rules.are_as(&now) {
            rules.number = now.number.wrapping_add(1);
        }
        Ok(Prepared { rules, other })
    }

    /// Puts in force what was read. Must be called on the runtime.
    pub fn switch(&self, prepared: Prepared) {
        let inner = &self.0;
        let mut followed = inner.followed.lock().unwrap_or_else(PoisonError::into_inner);
        match &prepared.rules.tls {
            None => *followed = None,
            Some(tls) if prepared.other => {
                let (end, ended) = watch::channel(false);
                *followed = Some(end);
                tokio::spawn(tls.identity.clone().follow(inner.reloads.clone(), ended));
            }
            Some(_) => {}
        }
        let number = prepared.rules.number;
        inner.rules.store(Arc::new(prepared.rules));
        inner.number.send_replace(number);
    }

    /// What new connections are greeted with.
    #[must_use]
    pub fn acceptor(&self) -> Option<TlsAcceptor> {
        self.0.rules.load().tls.as_ref().map(|tls| tls.acceptor.clone())
    }

    /// Who follows the query log now.
    #[must_use]
    pub fn followers(&self) -> &Gauge {
        &self.0.followers
    }

    /// Whether something else may be read by now.
    #[must_use]
    pub fn is_over(&self, reader: Reader) -> bool {
        reader.number.is_some_and(|number| number != self.0.rules.load().number)
    }

    /// Waits until something else may be read.
    pub async fn over(&self, reader: Reader) {
        let Some(number) = reader.number else { return std::future::pending().await };
        // The sender is ours: it doesn't end before.
        drop(self.0.number.subscribe().wait_for(|now| *now != number).await);
    }

    /// Whether a request is answered.
    ///
    /// # Errors
    /// Why it isn't; counted.
    pub fn judge(&self, asked: &Asked<'_>) -> Result<Reader, Refused> {
        let judged = self.0.rules.load().judge(asked);
        if let Err(refused) = judged {
            self.0.refused.get_or_create(&refused.label()).inc();
        }
        judged
    }
}

impl Rules {
    /// Whether the same may be read.
    fn are_as(&self, other: &Self) -> bool {
        (&self.names, self.tls.is_some(), &self.token, self.metrics_need_token)
            == (&other.names, other.tls.is_some(), &other.token, other.metrics_need_token)
    }

    fn is_ours(&self, name: &Name) -> bool {
        self.names.contains(name) || self.tls.as_ref().is_some_and(|tls| tls.identity.current().bears(name))
    }

    fn judge(&self, asked: &Asked<'_>) -> Result<Reader, Refused> {
        if self.tls.is_some() && !asked.tls {
            return Err(Refused::Plain);
        }
        let open = matches!(asked.path, "/health" | "/ready") || asked.path == "/metrics" && !self.metrics_need_token;
        if !open {
            if asked.path != "/metrics" {
                host::judge(asked, |name| self.is_ours(name))?;
            }
            // Only a link may lead from elsewhere to the page; nothing else of a browser has to do with us.
            if asked.path.starts_with("/api/") && asked.site.is_some_and(|site| !matches!(site, "same-origin" | "none"))
            {
                return Err(Refused::Site);
            }
            if self.token.as_ref().is_some_and(|token| !token.is_told(asked.authorization)) {
                return Err(Refused::Token);
            }
        }
        let knows = asked.loopback || self.token.is_some() && asked.tls;
        Ok(Reader { knows, number: Some(self.number) })
    }
}

#[cfg(test)]
mod tests;
