//! Where a list is fetched from.

use hyper::Uri;
use hyper::http::uri::InvalidUri;

/// Why a list can't be fetched from a URL.
#[derive(Debug, thiserror::Error)]
pub enum HttpsUrlError {
    /// The text is no URL.
    #[error("{url:?} is no URL: {source}")]
    Unread {
        /// The text, as it was written.
        url: String,
        /// The parser's word.
        source: InvalidUri,
    },
    /// The scheme is another.
    #[error("{0:?} is not https://")]
    Scheme(String),
    /// There is nobody to ask.
    #[error("{0:?} names no host")]
    NoHost(String),
    /// A name and password would be shown wherever the URL is.
    #[error("{0:?} has a user: say it otherwise")]
    User(String),
}

/// Host, as it stands in the URL, and port.
///
/// # Errors
/// See [`HttpsUrlError`].
pub fn parts(url: &str) -> Result<(Uri, String, u16), HttpsUrlError> {
    let uri: Uri = url.parse().map_err(|source| HttpsUrlError::Unread { url: url.to_owned(), source })?;
    if uri.scheme_str() != Some("https") {
        return Err(HttpsUrlError::Scheme(url.to_owned()));
    }
    let authority = uri.authority().ok_or_else(|| HttpsUrlError::NoHost(url.to_owned()))?;
    if authority.as_str().contains('@') {
        return Err(HttpsUrlError::User(url.to_owned()));
    }
    let host = authority.host().to_owned();
    if host.is_empty() {
        return Err(HttpsUrlError::NoHost(url.to_owned()));
    }
    let port = authority.port_u16().unwrap_or(443);
    Ok((uri, host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_with_a_host_is_fetched() {
        for (url, expected) in [
            ("https://lists.example/a", ("lists.example", 443)),
            ("https://[2001:db8::1]:8443/a", ("[2001:db8::1]", 8443)),
        ] {
            let (_, host, port) = parts(url).unwrap();
            assert_eq!((host.as_str(), port), expected);
        }
        for wrong in
            ["http://lists.example/a", "https:///a", "lists.example/a", "https://u:p@lists.example/", "", "https://"]
        {
            assert!(parts(wrong).is_err(), "{wrong}");
        }
    }
}
