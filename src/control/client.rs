//! Asks a running daemon over its control socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

/// Most octets of an answer.
const MOST: usize = 64 << 20;
/// An answer that takes longer is none. Longer than `denied` waits.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens, or we may not connect.
    #[error("{}", unreachable(path, source))]
    Unreachable {
        /// The control socket's path as it was tried.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the daemon's answer did not come: {0}")]
    Broken(String),
    /// The daemon said no.
    #[error("{message}")]
    Refused {
        /// The status code.
        code: StatusCode,
        /// What it said.
        message: String,
        /// Its whole answer.
        body: String,
    },
}

/// Where the daemon's socket is unless somebody says otherwise.
pub const SOCKET: &str = "/run/destguard/control.sock";

/// What a failed connect means, with what to do.
fn unreachable(path: &Path, error: &io::Error) -> String {
    let place = path.display();
    let start = if path == Path::new(SOCKET) {
        "Start it: systemctl start destguard"
    } else {
        "Start it, or name its socket with --socket"
    };
    match error.kind() {
        io::ErrorKind::NotFound => format!("destguard is not running (no socket at {place}). {start}"),
        io::ErrorKind::ConnectionRefused => {
            format!("destguard is not running (it left its socket behind at {place}). {start}")
        }
        io::ErrorKind::PermissionDenied => {
            format!("permission denied ({place}): use sudo or join group destguard")
        }
        _ => format!("destguard can't be reached at {place}: {error}"),
    }
}

/// Sends one request and returns the answer's text.
///
/// # Errors
/// [`ClientError`].
pub async fn ask(socket: &Path, method: Method, path_and_query: &str) -> Result<String, ClientError> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|source| ClientError::Unreachable { path: socket.to_owned(), source })?;
    match tokio::time::timeout(PATIENCE, exchange(stream, method, path_and_query)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(ClientError::Broken(format!("nothing within {} s", PATIENCE.as_secs()))),
    }
}

async fn exchange(stream: UnixStream, method: Method, path_and_query: &str) -> Result<String, ClientError> {
    let broken = |error: &dyn std::fmt::Display| ClientError::Broken(error.to_string());
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    let driver = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path_and_query)
        .header("host", "localhost")
        .body(Empty::<Bytes>::new())
        .map_err(|error| broken(&error))?;
    let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
    let code = response.status();
    let octets = Limited::new(response.into_body(), MOST)
        .collect()
        .await
        .map_err(|error| ClientError::Broken(error.to_string()))?;
    let body = String::from_utf8_lossy(&octets.to_bytes()).into_owned();
    driver.abort();
    if code.is_success() {
        return Ok(body);
    }
    let message = serde_json::from_str::<super::types::Failed>(&body)
        .map_or_else(|_| format!("the daemon answered {code}"), |failed| failed.error);
    Err(ClientError::Refused { code, message, body })
}

/// A query's value with everything but unreserved characters escaped (RFC 3986 section 2.3).
#[must_use]
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
