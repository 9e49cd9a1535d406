//! Where a list is fetched from.

use hyper::Uri;

/// Host, as it stands in the URL, and port.
///
/// # Errors
/// It is no URL of this scheme with a host; in words.
pub fn parts(url: &str) -> Result<(Uri, String, u16), String> {
    let uri: Uri = url.parse().map_err(|error| format!("{url:?} is no URL: {error}"))?;
    if uri.scheme_str() != Some("https") {
        return Err(format!("{url:?} is not https://"));
    }
    let authority = uri.authority().ok_or_else(|| format!("{url:?} names no host"))?;
    if authority.as_str().contains('@') {
        return Err(format!("{url:?} has a user: say it otherwise"));
    }
    let host = authority.host().to_owned();
    if host.is_empty() {
        return Err(format!("{url:?} names no host"));
    }
    let port = authority.port_u16().unwrap_or(443);
    Ok((uri, host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_with_a_host_is_fetched() {
        assert_eq!(
            parts("https://lists.example/a").map(|(_, host, port)| (host, port)),
            Ok(("lists.example".to_owned(), 443))
        );
        assert_eq!(
            parts("https://[2001:db8::1]:8443/a").map(|(_, host, port)| (host, port)),
            Ok(("[2001:db8::1]".to_owned(), 8443))
        );
        for wrong in
            ["http://lists.example/a", "https:///a", "lists.example/a", "https://u:p@lists.example/", "", "https://"]
        {
            assert!(parts(wrong).is_err(), "{wrong}");
        }
    }
}
