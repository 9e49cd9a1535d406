//! Audience an upstream must prove to be. Each upstream has a configuration of its own: roots, pins and the guard's identity
//! towards one are never used towards another, nor are resumed sessions.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::identity::ClientIdentity;
use super::{TlsError, base64, certificates, content, provider};
use crate::config::UpstreamUrl;
use crate::config::schema::Upstream;

/// The name that the upstream's certificate must bear; without `server_name` its address.
///
/// # Errors
/// [`TlsError::Name`].
pub fn server_name(upstream: &Upstream, url: &UpstreamUrl) -> Result<ServerName<'static>, TlsError> {
    match &upstream.server_name {
        Some(name) => ServerName::try_from(name.clone()).map_err(|_| TlsError::Name(name.clone())),
        None => Ok(ServerName::from(url.addr.ip())),
    }
}

/// The configuration towards one upstream.
///
/// # Errors
/// A file can't be read or used, a pin isn't one, or there are no roots.
pub fn config(upstream: &Upstream, alpn: &[&[u8]]) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    match &upstream.ca {
        Some(file) => {
            for certificate in certificates(file)? {
                roots.add(certificate).map_err(|error| content(file, format!("not usable as a root: {error}")))?;
            }
        }
        None => {
            // Single files that can't be read are passed over, as every other program on the host does.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(TlsError::NoRoots);
            }
        }
    }
    let pins = upstream.pins.iter().map(|text| pin(text)).collect::<Result<Vec<_>, _>>()?;
    let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let verifier: Arc<dyn ServerCertVerifier> = if pins.is_empty() { chain } else { Arc::new(Pinned { chain, pins }) };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match (&upstream.client_certificate, &upstream.client_key) {
        (Some(certificate), Some(key)) => {
            let identity = ClientIdentity::open(certificate, key)?;
            let mut config = builder.with_client_cert_resolver(identity.clone());
            config.resumption = identity.resumption();
            config
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

fn pin(text: &str) -> Result<[u8; 32], TlsError> {
    let encoded = text.strip_prefix("sha256/").unwrap_or(text);
    let decoded = base64(encoded.as_bytes()).and_then(|octets| <[u8; 32]>::try_from(octets).ok());
    decoded.ok_or_else(|| TlsError::Pin(text.to_owned()))
}

/// The pin of a certificate: SHA-256 of its public key, as RFC 7858 section 4.2 has it.
///
/// # Errors
/// It is not a certificate.
pub fn pin_of(certificate: &CertificateDer<'_>) -> Result<[u8; 32], rustls::Error> {
    let key = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
    let digest = ring::digest::digest(&ring::digest::SHA256, &key);
    digest.as_ref().try_into().map_err(|_| rustls::Error::General("SHA-256 has 32 octets".to_owned()))
}

/// A good chain to a root, and a key that is pinned.
#[derive(Debug)]
struct Pinned {
    chain: Arc<WebPkiServerVerifier>,
    pins: Vec<[u8; 32]>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        if self.pins.contains(&pin_of(end_entity)?) {
            Ok(verified)
        } else {
            Err(rustls::Error::General("the certificate's key is not among `pins`".to_owned()))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
