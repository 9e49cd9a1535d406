//! The token that a reader must tell.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use ring::hmac;

use crate::tls::base64;

/// Shorter ones can be guessed.
const LEAST: usize = 16;
/// Octets of a file at most.
const MOST: u64 = 1024;
/// What is signed; any text does.
const TEXT: &[u8] = b"destguard http.token_file";

/// Why a file holds no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The kernel doesn't let it be read.
    #[error("{} can't be read: {source}", path.display())]
    Unreadable {
        /// The file's path.
        path: PathBuf,
        /// The kernel's word.
        source: io::Error,
    },
    /// What it holds is none.
    #[error("{}: {source}", path.display())]
    In {
        /// The file's path.
        path: PathBuf,
        /// What is wrong with it.
        source: NoToken,
    },
}

/// Why octets are no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoToken {
    /// A space, or what nobody can type.
    #[error("a token is one line of letters, digits and signs, without spaces")]
    Sign,
    /// So few characters that it could be guessed.
    #[error("a token has {LEAST} characters at least, this one {0}; `openssl rand -hex 32` makes a good one")]
    Short(usize),
    /// More than is read of a file.
    #[error("too long for a token")]
    Long,
}

/// Kept as what it makes of a text, so that no one finds it in a dump, and comparing takes the same time for every wrong one.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Vec<u8>);

fn made(token: &[u8]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, token)
}

impl Token {
    /// Of a file of one line.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn read(file: &Path) -> Result<Self, TokenError> {
        let mut octets = Vec::new();
        let opened = std::fs::File::open(file).and_then(|file| file.take(MOST).read_to_end(&mut octets));
        opened.map_err(|source| TokenError::Unreadable { path: file.to_owned(), source })?;
        let line = octets.strip_suffix(b"\n").unwrap_or(&octets);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        Self::new(line).map_err(|source| TokenError::In { path: file.to_owned(), source })
    }

    /// Of its octets.
    ///
    /// # Errors
    /// Why it can't be one.
    pub fn new(token: &[u8]) -> Result<Self, NoToken> {
        if !token.iter().all(u8::is_ascii_graphic) {
            return Err(NoToken::Sign);
        }
        if token.len() < LEAST {
            return Err(NoToken::Short(token.len()));
        }
        if u64::try_from(token.len()).is_ok_and(|len| len >= MOST) {
            return Err(NoToken::Long);
        }
        Ok(Self(hmac::sign(&made(token), TEXT).as_ref().to_vec()))
    }

    /// Whether a header `Authorization` has it: as bearer token (RFC 6750), or as password of any user (RFC 7617).
    pub fn is_told(&self, header: Option<&str>) -> bool {
        let Some((scheme, rest)) = header.and_then(|header| header.split_once(' ')) else { return false };
        let rest = rest.trim_matches(' ').as_bytes();
        if scheme.eq_ignore_ascii_case("bearer") {
            return self.is(rest);
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return false;
        }
        let pair = base64(rest).unwrap_or_default();
        let colon = pair.iter().position(|octet| *octet == b':');
        colon.and_then(|at| pair.get(at.saturating_add(1)..)).is_some_and(|password| self.is(password))
    }

    fn is(&self, told: &[u8]) -> bool {
        hmac::verify(&made(told), TEXT, &self.0).is_ok()
    }
}
