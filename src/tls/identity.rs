//! What the guard shows to one upstream (mutual TLS): read anew when its files change, so that a renewed certificate needs no restart.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, ResolvesClientCert, Tls12ClientSessionValue};
use rustls::client::{Resumption, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::{NamedGroup, SignatureScheme};

use super::{TlsError, Version, certificates, content, private_key, provider, version};

/// Servers whose sessions are remembered; there is one, under one name.
const SESSIONS: usize = 8;

/// Certificate and key for one upstream.
#[derive(Debug)]
pub struct ClientIdentity {
    certificate: PathBuf,
    key: PathBuf,
    current: ArcSwap<Shown>,
}

#[derive(Debug)]
struct Shown {
    key: Arc<CertifiedKey>,
    /// Of the files when they were read, or found broken.
    versions: (Version, Version),
    /// Sessions begun with this identity: to resume one would be to show it on.
    sessions: Arc<ClientSessionMemoryCache>,
}

fn load(certificate: &Path, key: &Path) -> Result<Arc<CertifiedKey>, TlsError> {
    CertifiedKey::from_der(certificates(certificate)?, private_key(key)?, &provider())
        .map(Arc::new)
        .map_err(|error| content(certificate, format!("does not fit {}: {error}", key.display())))
}

impl ClientIdentity {
    /// Reads the files.
    ///
    /// # Errors
    /// They can't be read, are no such things, or don't belong together.
    pub fn open(certificate: &Path, key: &Path) -> Result<Arc<Self>, TlsError> {
        let versions = (version(certificate), version(key));
        let sessions = Arc::new(ClientSessionMemoryCache::new(SESSIONS));
        let shown = Shown { key: load(certificate, key)?, versions, sessions };
        let current = ArcSwap::from_pointee(shown);
        Ok(Arc::new(Self { certificate: certificate.to_owned(), key: key.to_owned(), current }))
    }

    /// Where sessions with this upstream are kept: as long as the identity stays the same.
    #[must_use]
    pub fn resumption(self: &Arc<Self>) -> Resumption {
        Resumption::store(self.clone())
    }

    /// What is shown now. Looks at the files, which costs two system calls for each handshake; a pair that can't be used leaves the old one in place and
    /// is said once.
    fn current(&self) -> Arc<Shown> {
        let shown = self.current.load_full();
        let versions = (version(&self.certificate), version(&self.key));
        if versions == shown.versions {
            return shown;
        }
        let next = match load(&self.certificate, &self.key) {
            Ok(key) if key.cert != shown.key.cert => {
                tracing::info!(certificate = %self.certificate.display(), "a new client certificate is shown from now on");
                Shown { key, versions, sessions: Arc::new(ClientSessionMemoryCache::new(SESSIONS)) }
            }
            Ok(key) => Shown { key, versions, sessions: shown.sessions.clone() },
            Err(error) => {
                tracing::error!(%error, "the new client certificate can't be used, the old one is shown on");
                Shown { key: shown.key.clone(), versions, sessions: shown.sessions.clone() }
            }
        };
        self.current.store(Arc::new(next));
        self.current.load_full()
    }
}

impl ResolvesClientCert for ClientIdentity {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let shown = self.current();
        shown.key.key.choose_scheme(schemes).is_some().then(|| shown.key.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ClientSessionStore for ClientIdentity {
    fn set_kx_hint(&self, server_name: ServerName<'static>, group: NamedGroup) {
        self.current().sessions.set_kx_hint(server_name, group);
    }

    fn kx_hint(&self, server_name: &ServerName<'_>) -> Option<NamedGroup> {
        self.current().sessions.kx_hint(server_name)
    }

    fn set_tls12_session(&self, server_name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.current().sessions.set_tls12_session(server_name, value);
    }

    fn tls12_session(&self, server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.current().sessions.tls12_session(server_name)
    }

    fn remove_tls12_session(&self, server_name: &ServerName<'static>) {
        self.current().sessions.remove_tls12_session(server_name);
    }

    fn insert_tls13_ticket(&self, server_name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.current().sessions.insert_tls13_ticket(server_name, value);
    }

    fn take_tls13_ticket(&self, server_name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.current().sessions.take_tls13_ticket(server_name)
    }
}
