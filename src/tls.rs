//! TLS for both sides: whom the guard believes as a client ([`client`]) and what it shows as one ([`identity`]), and what it shows as a server
//! ([`server`]), and which clients' certificates it believes ([`people`]). [`validity`]: dates of certificates.
//!
//! One crypto provider (ring) for everything, named wherever a configuration is built, so that nothing depends on a process-wide default.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

pub mod client;
pub mod identity;
pub mod names;
pub mod people;
pub mod server;
pub mod validity;

/// Most octets of a file of certificates: the largest bundles of roots have a quarter of a million.
const MOST_OCTETS: u64 = 4 << 20;

/// Why certificates, keys or names can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file can't be read.
    #[error("{}: {error}", file.display())]
    Read {
        /// The path of the file.
        file: PathBuf,
        /// The kernel's word.
        error: io::Error,
    },
    /// The file holds something else, or nothing.
    #[error("{}: {problem}", file.display())]
    Content {
        /// The path of the file.
        file: PathBuf,
        /// What is wrong with the content, in words.
        problem: String,
    },
    /// Not a name that a certificate can bear.
    #[error("\"{0}\" is neither a host name nor an address")]
    Name(String),
    /// Not a pin.
    #[error("\"{0}\" is not a pin; write \"sha256/\" and the base64 of the SHA-256 of the public key (SPKI)")]
    Pin(String),
    /// This host has no roots.
    #[error("no root certificates are installed here; name some with `ca`")]
    NoRoots,
    /// What rustls refuses.
    #[error("{0}")]
    Rustls(#[from] rustls::Error),
}

impl TlsError {
    /// The file that is to blame, if one is.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Read { file, .. } | Self::Content { file, .. } => Some(file),
            Self::Name(_) | Self::Pin(_) | Self::NoRoots | Self::Rustls(_) => None,
        }
    }
}

/// Changed files that were read again.
#[derive(Clone, Debug, Default)]
pub struct Reloads {
    /// And are shown now.
    pub done: Counter,
    /// And can't be used.
    pub failed: Counter,
}

/// The library that computes: ring, named here so that no feature chooses another.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn content(file: &Path, problem: impl Into<String>) -> TlsError {
    TlsError::Content { file: file.to_owned(), problem: problem.into() }
}

fn octets(file: &Path) -> Result<Vec<u8>, TlsError> {
    let unread = |error| TlsError::Read { file: file.to_owned(), error };
    if std::fs::metadata(file).map_err(unread)?.len() > MOST_OCTETS {
        return Err(content(file, "is too large for a file of certificates"));
    }
    std::fs::read(file).map_err(unread)
}

/// What tells one version of a file from another without reading it.
type Version = Option<(u64, u64, i64, i64)>;

fn version(file: &Path) -> Version {
    std::fs::metadata(file).ok().map(|meta| (meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
}

/// The certificates of a PEM file, at least one.
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let octets = octets(file)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&octets).collect();
    match read {
        Ok(certificates) if certificates.is_empty() => Err(content(file, "holds no PEM certificate")),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(content(file, error.to_string())),
    }
}

/// The private key of a PEM file.
fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let octets = octets(file)?;
    PrivateKeyDer::from_pem_slice(&octets).map_err(|_| content(file, "holds no PEM private key"))
}

/// Decodes base64 of either alphabet, padded or not (RFC 4648 sections 4 and 5). `None` for anything else.
#[must_use]
pub fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let end = text.iter().rposition(|octet| *octet != b'=').map_or(0, |last| last.saturating_add(1));
    let (text, padding) = text.split_at_checked(end)?;
    if padding.len() > 2 || text.len() % 4 == 1 {
        return None;
    }
    let mut out = Vec::with_capacity(text.len());
    let (mut bits, mut held) = (0u32, 0u32);
    for octet in text {
        let value = match octet {
            b'A'..=b'Z' => octet - b'A',
            b'a'..=b'z' => octet - b'a' + 26,
            b'0'..=b'9' => octet - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(value)) & 0xffff;
        held = held.saturating_add(6);
        if held >= 8 {
            held = held.saturating_sub(8);
            out.push(u8::try_from(bits >> held & 0xff).ok()?);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_in_both_alphabets() {
        for (text, octets) in [
            ("", Some(&b""[..])),
            ("Zg==", Some(b"f")),
            ("Zm8", Some(b"fo")),
            ("Zm9v", Some(b"foo")),
            ("-_8", Some(&[0xfb, 0xff])),
            ("+/8=", Some(&[0xfb, 0xff])),
            ("Z", None),
            ("Zg===", None),
            ("Z*==", None),
        ] {
            assert_eq!(base64(text.as_bytes()).as_deref(), octets, "{text}");
        }
    }
}
