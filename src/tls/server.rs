//! What the guard shows to clients: a certificate chain and its key, replaced while connections go on when the files change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;

use super::people::{Sessions, Trust};
use super::{Reloads, TlsError, certificates, content, private_key, provider, version};
use crate::core::name::Name;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// A chain, its key and the names it bears.
#[derive(Debug)]
pub struct Loaded {
    key: Arc<CertifiedKey>,
    names: Vec<String>,
    /// Those that DNS can carry.
    dns: Vec<Name>,
}

impl Loaded {
    /// DNS names of the certificate, in lower case and without wildcards.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether it is for this name, word for word.
    #[must_use]
    pub fn bears(&self, name: &Name) -> bool {
        self.dns.contains(name)
    }
}

/// Reads a chain and its key.
///
/// # Errors
/// They can't be read, are no such things, or don't belong together.
pub fn load(certificate: &Path, key: &Path) -> Result<Loaded, TlsError> {
    let chain = certificates(certificate)?;
    let names = chain.first().map(|first| names_of(certificate, first)).transpose()?.unwrap_or_default();
    let key_file = key;
    let key = CertifiedKey::from_der(chain, private_key(key)?, &provider())
        .map_err(|error| content(certificate, format!("does not fit {}: {error}", key_file.display())))?;
    let dns = names.iter().filter_map(|name| name.parse().ok()).collect();
    Ok(Loaded { key: Arc::new(key), names, dns })
}

fn names_of(file: &Path, der: &rustls::pki_types::CertificateDer<'_>) -> Result<Vec<String>, TlsError> {
    let certificate = webpki::EndEntityCert::try_from(der)
        .map_err(|error| content(file, format!("its first certificate can't be used: {error}")))?;
    let names = certificate.valid_dns_names().filter(|name| !name.contains('*'));
    Ok(names.map(str::to_ascii_lowercase).collect())
}

/// The identity that new connections get.
#[derive(Debug)]
pub struct Identity {
    /// Of the configuration, as in "dns.tls".
    table: &'static str,
    /// Certificate and key.
    files: ArcSwap<(PathBuf, PathBuf)>,
    current: ArcSwap<Loaded>,
}

impl Identity {
    /// Reads the files that this table of the configuration names.
    ///
    /// # Errors
    /// See [`load`].
    pub fn open(table: &'static str, certificate: &Path, key: &Path) -> Result<Arc<Self>, TlsError> {
        let current = ArcSwap::from_pointee(load(certificate, key)?);
        let files = ArcSwap::from_pointee((certificate.to_owned(), key.to_owned()));
        Ok(Arc::new(Self { table, files, current }))
    }

    /// Whether it follows these files.
    #[must_use]
    pub fn is_of(&self, certificate: &Path, key: &Path) -> bool {
        let files = self.files.load();
        (files.0.as_path(), files.1.as_path()) == (certificate, key)
    }

    /// Shows what was read of other files, and follows these.
    pub fn show(&self, certificate: &Path, key: &Path, loaded: Loaded) {
        self.files.store(Arc::new((certificate.to_owned(), key.to_owned())));
        self.current.store(Arc::new(loaded));
        tracing::info!(certificate = %certificate.display(), "a new certificate is shown from now on");
    }

    /// What is shown now.
    #[must_use]
    pub fn current(&self) -> Arc<Loaded> {
        self.current.load_full()
    }

    /// Follows the files until `stop`. A new pair that can't be used leaves the old one in place and says so once.
    pub async fn follow(self: Arc<Self>, reloads: Reloads, mut stop: watch::Receiver<bool>) {
        let versions = |identity: &Self| {
            let files = identity.files.load();
            (version(&files.0), version(&files.1))
        };
        // Taken after the files were read first: a change in between is found as none, so that they are read once more.
        let mut known = (None, None);
        loop {
            let now = versions(&self);
            if now != known {
                known = now;
                self.read_again(&reloads);
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    fn read_again(&self, reloads: &Reloads) {
        let files = self.files.load_full();
        match load(&files.0, &files.1) {
            Ok(loaded) => {
                if loaded.key.cert != self.current.load().key.cert {
                    tracing::info!(certificate = %files.0.display(), "a new certificate is shown from now on");
                    reloads.done.inc();
                }
                self.current.store(Arc::new(loaded));
            }
            Err(error) => {
                reloads.failed.inc();
                tracing::error!(%error, "{}: the new certificate can't be used, the old one is shown on", self.table);
            }
        }
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load().key.clone())
    }
}

/// The configuration of listeners of these protocols, the best first. `trust`: whose certificates are believed.
///
/// # Errors
/// rustls has no protocol version in common with its provider.
pub fn config(identity: Arc<Identity>, trust: &Arc<Trust>, alpn: &[&[u8]]) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(trust.clone())
        .with_cert_resolver(identity);
    config.session_storage = Sessions::new(trust.clone());
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}
