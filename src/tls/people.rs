//! Which certificates of clients are believed: of the CAs of `dns.tls.client_ca`, and those whose hash a group names.
//!
//! What is believed changes while connections go on: by a reload, by other files, by a date that has come. So each connection is asked again for its
//! certificate, see [`Trust::certificate_of`], and no session is resumed while certificates count: a resumed one shows nothing.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ServerSessionMemoryCache, StoresServerSessions, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use tokio::sync::watch;

use super::{Reloads, TlsError, Version, certificates, content, octets, provider, validity, version};
use crate::config::Config;
use crate::core::person::{self, Certificate};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How long a certificate is believed without another look at its dates.
const AGAIN: Duration = Duration::from_secs(60);
/// Sessions that are remembered; as many as rustls would.
const SESSIONS: usize = 256;

/// Where what is believed stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Files {
    ca: Option<PathBuf>,
    crl: Option<PathBuf>,
}

impl Files {
    fn versions(&self) -> (Version, Version) {
        (self.ca.as_deref().and_then(version), self.crl.as_deref().and_then(version))
    }
}

/// What is believed, read.
#[derive(Debug, Default)]
pub struct Believed {
    files: Files,
    versions: (Version, Version),
    chain: Option<Arc<dyn ClientCertVerifier>>,
    hashes: HashSet<[u8; 32]>,
    mandatory: bool,
    /// Grows with every change.
    epoch: u64,
}

impl Believed {
    /// As the configuration says.
    ///
    /// # Errors
    /// A file can't be read or used.
    pub fn read(config: &Config) -> Result<Self, TlsError> {
        let tls = &config.dns.tls;
        let files = Files { ca: tls.client_ca.clone(), crl: tls.client_crl.clone() };
        // Before they are read: what changes meanwhile is read once more.
        let versions = files.versions();
        let chain = chain(&files)?;
        let hashes = person::hashes(config).collect();
        Ok(Self { files, versions, chain, hashes, mandatory: tls.require_client_certificate, epoch: 0 })
    }

    /// Whether clients are asked for a certificate.
    fn asks(&self) -> bool {
        self.mandatory || self.chain.is_some() || !self.hashes.is_empty()
    }

    fn judge(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Certificate, rustls::Error> {
        let digest = ring::digest::digest(&ring::digest::SHA256, end_entity);
        let sha256: [u8; 32] =
            digest.as_ref().try_into().map_err(|_| rustls::Error::General("SHA-256 has 32 octets".to_owned()))?;
        let unknown = || rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let chained = match &self.chain {
            Some(chain) => chain.verify_client_cert(end_entity, intermediates, now).map(drop),
            None => Err(unknown()),
        };
        match &chained {
            Ok(()) => {}
            // Whoever signed it says that it counts no more.
            Err(rustls::Error::InvalidCertificate(CertificateError::Revoked)) => {
                return Err(rustls::Error::InvalidCertificate(CertificateError::Revoked));
            }
            Err(_) if self.hashes.contains(&sha256) => match validity::is_good(end_entity, now.as_secs()) {
                Some(true) => {}
                Some(false) => return Err(rustls::Error::InvalidCertificate(CertificateError::Expired)),
                None => return Err(rustls::Error::InvalidCertificate(CertificateError::BadEncoding)),
            },
            Err(error) => return Err(error.clone()),
        }
        Ok(Certificate { sha256, names: super::names::names(end_entity), chained: chained.is_ok() })
    }
}

/// Who checks chains; `None` without a CA.
fn chain(files: &Files) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
    let Some(ca) = &files.ca else { return Ok(None) };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots.add(certificate).map_err(|error| content(ca, format!("not usable as a CA: {error}")))?;
    }
    let mut lists = Vec::new();
    if let Some(file) = &files.crl {
        let read: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&octets(file)?).collect();
        lists = read.map_err(|error| content(file, error.to_string()))?;
        if lists.is_empty() {
            return Err(content(file, "holds no PEM list of revoked certificates (X509 CRL)"));
        }
    }
    let blamed = files.crl.as_ref().unwrap_or(ca);
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .with_crls(lists)
        // A CA that has no list among them has revoked nothing.
        .allow_unknown_revocation_status()
        .build()
        .map(Some)
        .map_err(|error| content(blamed, error.to_string()))
}

/// What is believed now. One for all listeners.
#[derive(Debug, Default)]
pub struct Trust {
    now: ArcSwap<Believed>,
}

/// By what was believed at an epoch, and when: the certificate, or none.
type Judged = (u64, Instant, Option<Arc<Certificate>>);

/// What a connection has shown.
#[derive(Debug)]
pub struct Shown {
    /// With those that it brought for its chain; none: it has no certificate.
    chain: Vec<CertificateDer<'static>>,
    /// What it is believed to be, by what was believed then.
    judged: Mutex<Option<Judged>>,
}

impl Shown {
    /// After a handshake.
    #[must_use]
    pub fn new(chain: Option<&[CertificateDer<'static>]>) -> Self {
        Self { chain: chain.unwrap_or_default().to_vec(), judged: Mutex::new(None) }
    }
}

/// A connection whose certificate counts no more, or that lacks one which it needs now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoLonger;

impl Trust {
    /// Puts other certificates in force, for connections that are open too.
    pub fn put(&self, believed: Believed) {
        let old = self.now.load();
        let same = old.versions == believed.versions
            && old.files == believed.files
            && old.hashes == believed.hashes
            && old.mandatory == believed.mandatory;
        if !same {
            self.now.store(Arc::new(Believed { epoch: old.epoch.saturating_add(1), ..believed }));
        }
    }

    /// The certificate of a connection, if it has one; looked at again when other certificates are believed, and from time to time.
    ///
    /// # Errors
    /// [`NoLonger`]: the connection is to end.
    pub fn certificate_of(&self, shown: &Shown) -> Result<Option<Arc<Certificate>>, NoLonger> {
        let believed = self.now.load();
        let mut judged = shown.judged.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((epoch, at, certificate)) = &*judged
            && *epoch == believed.epoch
            && at.elapsed() < AGAIN
        {
            return Ok(certificate.clone());
        }
        let certificate = match shown.chain.split_first() {
            None if believed.mandatory => return Err(NoLonger),
            None => None,
            Some((end_entity, intermediates)) => {
                let seen = believed.judge(end_entity, intermediates, UnixTime::now()).map_err(|error| {
                    tracing::debug!(%error, "a client's certificate counts no more");
                    NoLonger
                })?;
                Some(Arc::new(seen))
            }
        };
        *judged = Some((believed.epoch, Instant::now(), certificate.clone()));
        Ok(certificate)
    }

    /// Follows the files until `stop`. Files that can't be used leave the old ones in force, and are said once.
    pub async fn follow(self: Arc<Self>, reloads: Reloads, mut stop: watch::Receiver<bool>) {
        let mut failed = None;
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let old = self.now.load_full();
            let versions = old.files.versions();
            if versions == old.versions || failed == Some(versions) {
                continue;
            }
            match chain(&old.files) {
                Ok(chain) => {
                    tracing::info!("dns.tls.client_ca: other certificates of clients are believed from now on");
                    reloads.done.inc();
                    let next = Believed {
                        files: old.files.clone(),
                        versions,
                        chain,
                        hashes: old.hashes.clone(),
                        mandatory: old.mandatory,
                        epoch: old.epoch.saturating_add(1),
                    };
                    // Unless a reload was faster.
                    self.now.compare_and_swap(&old, Arc::new(next));
                }
                Err(error) => {
                    reloads.failed.inc();
                    failed = Some(versions);
                    tracing::error!(%error, "dns.tls: the new file can't be used, certificates are believed as before");
                }
            }
        }
    }
}

impl ClientCertVerifier for Trust {
    fn offer_client_auth(&self) -> bool {
        self.now.load().asks()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.now.load().mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Those that are believed by their hash have none.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.now.load().judge(end_entity, intermediates, now).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Sessions to be resumed, as long as nobody is asked for a certificate.
#[derive(Debug)]
pub struct Sessions {
    trust: Arc<Trust>,
    kept: Arc<ServerSessionMemoryCache>,
}

impl Sessions {
    /// The sessions of a guard that has just begun: none.
    #[must_use]
    pub fn new(trust: Arc<Trust>) -> Arc<Self> {
        Arc::new(Self { trust, kept: ServerSessionMemoryCache::new(SESSIONS) })
    }
}

impl StoresServerSessions for Sessions {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        !self.trust.offer_client_auth() && self.kept.put(key, value)
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.kept.get(key).filter(|_| !self.trust.offer_client_auth())
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.kept.take(key).filter(|_| !self.trust.offer_client_auth())
    }

    fn can_cache(&self) -> bool {
        true
    }
}
