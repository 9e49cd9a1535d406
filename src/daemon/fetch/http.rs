//! One file over HTTPS: HTTP/1.1 on a connection of its own, a few redirects, bounded in octets and time.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{HeaderMap, Request, Response, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use crate::config::https_url::{HttpsUrlError, parts};
use crate::config::schema::Upstream;
use crate::core::policy::name_from_user;
use crate::dns::upstream::transport::dial::Target;
use crate::dns::{OpenError, View};
use crate::tls::{TlsError, client};

/// Most redirects that are followed.
const REDIRECTS: usize = 5;
/// To connect, and between two pieces of the body.
const STEP: Duration = Duration::from_secs(20);
/// For all of it.
const WHOLE: Duration = Duration::from_secs(300);

/// Why nothing came, as words behind the list's URL.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The URL, or the one that the server led to.
    #[error(transparent)]
    Url(#[from] HttpsUrlError),
    /// The roots of `ca` can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// All of it takes too long.
    #[error("takes longer than {} s", WHOLE.as_secs())]
    Slow,
    /// A redirect that says no place.
    #[error("HTTP {0} to nowhere")]
    Nowhere(StatusCode),
    /// A redirect to an address, which the operator alone may name.
    #[error("is led to the address {0}")]
    Address(String),
    /// A redirect that would give up encryption.
    #[error("is led to {0:?}, not https://")]
    Plain(String),
    /// Another answer than the file.
    #[error("HTTP status {0}")]
    Status(StatusCode),
    /// The server leads on and on.
    #[error("more than {REDIRECTS} redirects")]
    Redirects,
    /// A host that no certificate can be of.
    #[error("{0:?} is no host name")]
    HostName(String),
    /// A host that can't be asked for.
    #[error("{0:?} is no name")]
    Name(String),
    /// The host's addresses were not opened.
    #[error(transparent)]
    Closed(#[from] OpenError),
    /// The host has none.
    #[error("has no address")]
    NoAddress,
    /// The server can't be reached, or its certificate is not the host's.
    #[error("{peer}: {source}")]
    Connect {
        /// Its address and port.
        peer: SocketAddr,
        /// The kernel's word, or that of TLS.
        source: io::Error,
    },
    /// The server takes no connection.
    #[error("{0} doesn't answer")]
    Silent(SocketAddr),
    /// The server doesn't speak HTTP.
    #[error("{peer}: {source}")]
    Http {
        /// Its address and port.
        peer: SocketAddr,
        /// The library's word.
        source: hyper::Error,
    },
    /// What is to be sent is no request.
    #[error(transparent)]
    Request(#[from] hyper::http::Error),
    /// The server took the request, and says nothing.
    #[error("{0} doesn't answer the request")]
    Unanswered(SocketAddr),
    /// The file came compressed.
    #[error("is encoded ({0}) although that was not asked for")]
    Encoded(String),
    /// An error page, most likely.
    #[error("is a web page, not a list")]
    WebPage,
    /// The file is longer than `max_size`.
    #[error("is longer than {0} octets (max_size)")]
    TooLong(u64),
    /// The file comes no further.
    #[error("stops in its middle")]
    Stops,
    /// The connection ended before the file.
    #[error("breaks off: {0}")]
    BreaksOff(#[source] hyper::Error),
}

/// By which the server knows what is there already (RFC 9110 section 8.8).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validators {
    /// The header `ETag` of the last response, sent back as `If-None-Match`.
    pub etag: Option<String>,
    /// The header `Last-Modified` of the last response, sent back as `If-Modified-Since`.
    pub modified: Option<String>,
}

/// What the server sent.
#[derive(Debug)]
pub enum Got {
    /// What is there is still right.
    Same,
    /// Another file, and how the server knows it next time.
    File(Vec<u8>, Validators),
}

/// What is asked for.
pub struct Wanted<'a> {
    /// The list's URL, which must begin with `https://`.
    pub url: &'a str,
    /// PEM roots in place of the platform's.
    pub ca: Option<&'a Path>,
    /// The most octets that are taken; a longer file is refused.
    pub most: u64,
    /// What is there.
    pub known: &'a Validators,
}

/// Fetches it.
///
/// # Errors
/// See [`FetchError`].
pub async fn fetch(dns: &View, mark: Option<u32>, wanted: &Wanted<'_>) -> Result<Got, FetchError> {
    let roots = Upstream {
        url: String::new(),
        server_name: None,
        ca: wanted.ca.map(Path::to_owned),
        pins: Vec::new(),
        client_certificate: None,
        client_key: None,
        domains: Vec::new(),
    };
    let tls = Arc::new(client::config(&roots, &[b"http/1.1"])?);
    match tokio::time::timeout(WHOLE, follow(dns, mark, &tls, wanted)).await {
        Ok(got) => got,
        Err(_) => Err(FetchError::Slow),
    }
}

async fn follow(
    dns: &View,
    mark: Option<u32>,
    tls: &Arc<ClientConfig>,
    wanted: &Wanted<'_>,
) -> Result<Got, FetchError> {
    let mut url = wanted.url.to_owned();
    for _ in 0..=REDIRECTS {
        let (uri, host, port) = parts(&url)?;
        let response = ask(dns, mark, tls, (&uri, &host, port), wanted.known).await?;
        let status = response.status();
        if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
            let to = text(response.headers(), header::LOCATION).ok_or(FetchError::Nowhere(status))?;
            url = target(&uri, &to)?;
            // An address that nobody asked for: only the operator may name one.
            let (_, host, _) = parts(&url)?;
            if bare(&host).parse::<IpAddr>().is_ok() {
                return Err(FetchError::Address(host));
            }
            continue;
        }
        return match status {
            StatusCode::NOT_MODIFIED if *wanted.known != Validators::default() => Ok(Got::Same),
            StatusCode::OK => body(response, wanted.most).await,
            other => Err(FetchError::Status(other)),
        };
    }
    Err(FetchError::Redirects)
}

/// Without the brackets of an IPv6 address.
fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Where a redirect leads: whole URLs and paths of the same host (RFC 9110 section 10.2.2).
fn target(from: &Uri, to: &str) -> Result<String, FetchError> {
    if to.contains("://") {
        return if to.starts_with("https://") { Ok(to.to_owned()) } else { Err(FetchError::Plain(to.to_owned())) };
    }
    let authority = from.authority().map_or("", |authority| authority.as_str());
    match to.strip_prefix("//") {
        Some(rest) => Ok(format!("https://{rest}")),
        None if to.starts_with('/') => Ok(format!("https://{authority}{to}")),
        None => {
            let directory = from.path().rsplit_once('/').map_or("", |(directory, _)| directory);
            Ok(format!("https://{authority}{directory}/{to}"))
        }
    }
}

async fn ask(
    dns: &View,
    mark: Option<u32>,
    tls: &Arc<ClientConfig>,
    (uri, host, port): (&Uri, &str, u16),
    known: &Validators,
) -> Result<Response<hyper::body::Incoming>, FetchError> {
    let bare = bare(host);
    let name = ServerName::try_from(bare.to_owned()).map_err(|_| FetchError::HostName(bare.to_owned()))?;
    let addresses = match bare.parse() {
        Ok(address) => vec![address],
        Err(_) => {
            let name = name_from_user(bare).map_err(|_| FetchError::Name(bare.to_owned()))?;
            dns.open_unasked(None, &name).await?.addresses
        }
    };
    let mut failed = FetchError::NoAddress;
    for address in addresses {
        let peer = SocketAddr::new(address, port);
        let connect = async {
            let stream = Target { peer: peer.into(), mark }.tcp().await?;
            TlsConnector::from(tls.clone()).connect(name.clone(), stream).await
        };
        let stream = match tokio::time::timeout(STEP, connect).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(source)) => {
                failed = FetchError::Connect { peer, source };
                continue;
            }
            Err(_) => {
                failed = FetchError::Silent(peer);
                continue;
            }
        };
        let broken = |source| FetchError::Http { peer, source };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection that fetched a list ended");
            }
        });
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let mut request = Request::get(path)
            .header(header::HOST, authority)
            .header(header::USER_AGENT, concat!("destguard/", env!("CARGO_PKG_VERSION")))
            .header(header::ACCEPT_ENCODING, "identity");
        for (name, value) in [(header::IF_NONE_MATCH, &known.etag), (header::IF_MODIFIED_SINCE, &known.modified)] {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        let request = request.body(Empty::<Bytes>::new())?;
        let response = tokio::time::timeout(STEP, sender.send_request(request)).await;
        return response.map_err(|_| FetchError::Unanswered(peer))?.map_err(broken);
    }
    Err(failed)
}

async fn body(response: Response<hyper::body::Incoming>, most: u64) -> Result<Got, FetchError> {
    let headers = response.headers();
    if let Some(coding) = text(headers, header::CONTENT_ENCODING).filter(|coding| coding != "identity") {
        return Err(FetchError::Encoded(coding));
    }
    if text(headers, header::CONTENT_TYPE).is_some_and(|kind| kind.to_ascii_lowercase().starts_with("text/html")) {
        return Err(FetchError::WebPage);
    }
    let validators = Validators { etag: text(headers, header::ETAG), modified: text(headers, header::LAST_MODIFIED) };
    let mut body = response.into_body();
    let mut content = Vec::new();
    loop {
        let frame = tokio::time::timeout(STEP, body.frame()).await.map_err(|_| FetchError::Stops)?;
        let Some(frame) = frame else { break };
        if let Ok(data) = frame.map_err(FetchError::BreaksOff)?.into_data() {
            let length = u64::try_from(content.len().saturating_add(data.len())).unwrap_or(u64::MAX);
            if length > most {
                return Err(FetchError::TooLong(most));
            }
            content.extend_from_slice(&data);
        }
    }
    Ok(Got::File(content, validators))
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_stays_encrypted() {
        let from: Uri = "https://lists.example:8443/a/b.txt?x=1".parse().unwrap();
        let to = |text: &str| target(&from, text).unwrap_or_else(|error| error.to_string());
        assert_eq!(to("https://other.example/c"), "https://other.example/c");
        assert_eq!(to("/c"), "https://lists.example:8443/c");
        assert_eq!(to("c.txt"), "https://lists.example:8443/a/c.txt");
        assert_eq!(to("//cdn.example/c"), "https://cdn.example/c");
        assert!(to("http://lists.example/c").contains("not https://"));
        assert!(to("ftp://lists.example/c").contains("not https://"));
    }
}
