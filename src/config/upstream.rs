//! `dns.upstream.url`: where questions go and how they travel.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use hyper::http::uri::InvalidUri;

use super::endpoint::{self, AddressError, Endpoint};

/// Why a text is no URL of an upstream.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamUrlError {
    /// There is no `://` in it.
    #[error(
        "\"{0}\" is not an upstream; write a transport and an address, as in \"udp://192.0.2.53\" or \"tls://[2001:db8::53]:853\""
    )]
    Shape(String),
    /// What stands before `://` is none of the transports.
    #[error("\"{0}\" is not a transport; there are udp, tcp, tls, https and quic")]
    Transport(String),
    /// A path where the transport has none.
    #[error("\"{0}\": only https upstreams have a path")]
    Path(String),
    /// An address that nobody can be asked at.
    #[error("{0} is not the address of a server")]
    NoServer(IpAddr),
    /// A character that must be written otherwise in a path.
    #[error(
        "{path:?}: {character:?} can't stand in a path like this; write other characters as % and two hexadecimal digits"
    )]
    Character {
        /// The path with its query part.
        path: String,
        /// The first such character.
        character: char,
    },
    /// A path that the client can't ask for, for its length above all.
    #[error("the path can't be asked for: {0}")]
    Unaskable(#[source] InvalidUri),
    /// What stands behind the colon is none.
    #[error("\"{0}\" is not a port")]
    Port(String),
    /// The port that stands for any.
    #[error("port 0 is not a port")]
    PortZero,
    /// No address, or something behind it that is no port.
    #[error("\"{0}\" is not an IP address with an optional port")]
    Host(String),
    /// The address, with its zone.
    #[error(transparent)]
    Address(#[from] AddressError),
}

/// How questions travel to an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// UDP, and TCP when the reply is truncated (RFC 1035, RFC 7766).
    Udp,
    /// TCP only (RFC 7766).
    Tcp,
    /// DNS over TLS (RFC 7858).
    Tls,
    /// DNS over HTTPS (RFC 8484).
    Https,
    /// DNS over QUIC (RFC 9250).
    Quic,
}

impl Transport {
    /// The URL scheme.
    #[must_use]
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Https => "https",
            Self::Quic => "quic",
        }
    }

    /// The port when the URL has none.
    #[must_use]
    pub fn default_port(self) -> u16 {
        match self {
            Self::Udp | Self::Tcp => 53,
            Self::Tls | Self::Quic => 853,
            Self::Https => 443,
        }
    }

    /// Whether the upstream proves its name by a certificate.
    #[must_use]
    pub fn is_encrypted(self) -> bool {
        !matches!(self, Self::Udp | Self::Tcp)
    }
}

/// A parsed `url`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamUrl {
    /// How questions travel.
    pub transport: Transport,
    /// The address and port that are asked.
    pub addr: Endpoint,
    /// Path of `https` URLs, with its slash; "/dns-query" when the URL has none. Empty for the others.
    pub path: String,
}

impl FromStr for UpstreamUrl {
    type Err = UpstreamUrlError;

    fn from_str(text: &str) -> Result<Self, UpstreamUrlError> {
        let (scheme, rest) = text.split_once("://").ok_or_else(|| UpstreamUrlError::Shape(text.to_owned()))?;
        let transport = match scheme {
            "udp" => Transport::Udp,
            "tcp" => Transport::Tcp,
            "tls" => Transport::Tls,
            "https" => Transport::Https,
            "quic" => Transport::Quic,
            other => return Err(UpstreamUrlError::Transport(other.to_owned())),
        };
        let (host, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let path = match (transport, path) {
            (Transport::Https, "" | "/") => "/dns-query",
            (Transport::Https, path) => sendable(path)?,
            (_, "" | "/") => "",
            (_, path) => return Err(UpstreamUrlError::Path(path.to_owned())),
        };
        let addr = host_and_port(host, transport.default_port())?;
        if addr.ip().is_unspecified() || addr.ip().is_multicast() {
            return Err(UpstreamUrlError::NoServer(addr.ip()));
        }
        Ok(Self { transport, addr, path: path.to_owned() })
    }
}

/// The path, with its query part, when it can stand in a request as it is (RFC 3986, sections 3.3 and 3.4).
fn sendable(path: &str) -> Result<&str, UpstreamUrlError> {
    let strange = path.char_indices().find(|(at, character)| match character {
        '%' => {
            let code = path.as_bytes().get(at.saturating_add(1)..at.saturating_add(3));
            !code.is_some_and(|code| code.iter().all(u8::is_ascii_hexdigit))
        }
        other => !other.is_ascii_alphanumeric() && !"-._~!$&'()*+,;=:@/?".contains(*other),
    });
    if let Some((_, character)) = strange {
        return Err(UpstreamUrlError::Character { path: path.to_owned(), character });
    }
    // The client's own word, on the length above all.
    path.parse::<hyper::Uri>().map(|_| path).map_err(UpstreamUrlError::Unaskable)
}

/// Reads `192.0.2.1`, `192.0.2.1:53`, `[2001:db8::1]`, `[2001:db8::1]:53` and a bare `2001:db8::1`. On one link it is
/// `[fe80::1%eth0]:53`.
fn host_and_port(host: &str, default_port: u16) -> Result<Endpoint, UpstreamUrlError> {
    if host.contains('%') {
        let (inner, port) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')).unwrap_or((host, ""));
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().map_err(|_| UpstreamUrlError::Port(port.to_owned()))?,
            None => default_port,
        };
        let (ip, zone) = endpoint::host(inner)?;
        if port == 0 {
            return Err(UpstreamUrlError::PortZero);
        }
        return Ok(Endpoint::new((ip, port).into(), zone)?);
    }
    Ok(Endpoint::new(without_zone(host, default_port)?, None)?)
}

fn without_zone(host: &str, default_port: u16) -> Result<SocketAddr, UpstreamUrlError> {
    if let Ok(addr) = host.parse::<SocketAddr>() {
        return if addr.port() == 0 { Err(UpstreamUrlError::PortZero) } else { Ok(addr) };
    }
    let bare = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host);
    bare.parse::<IpAddr>()
        .map(|ip| SocketAddr::new(ip, default_port))
        .map_err(|_| UpstreamUrlError::Host(host.to_owned()))
}

impl fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.transport.scheme(), self.addr, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_default_by_transport() {
        for (text, shown) in [
            ("udp://192.0.2.1", "udp://192.0.2.1:53"),
            ("tcp://192.0.2.1:5353", "tcp://192.0.2.1:5353"),
            ("tls://[2001:db8::1]", "tls://[2001:db8::1]:853"),
            ("udp://2001:db8::1", "udp://[2001:db8::1]:53"),
            ("quic://[2001:db8::1]:8853", "quic://[2001:db8::1]:8853"),
            ("https://192.0.2.1", "https://192.0.2.1:443/dns-query"),
            ("https://192.0.2.1/q?x=1", "https://192.0.2.1:443/q?x=1"),
            ("https://192.0.2.1/~a/b%20c;d='e'?x=1&y=/?", "https://192.0.2.1:443/~a/b%20c;d='e'?x=1&y=/?"),
        ] {
            assert_eq!(text.parse::<UpstreamUrl>().unwrap().to_string(), shown, "{text}");
        }
    }

    #[test]
    fn others_are_refused_with_their_reason() {
        for (text, reason) in [
            ("192.0.2.1", "write a transport"),
            ("ftp://192.0.2.1", "not a transport"),
            ("udp://dns.example", "not an IP address"),
            ("udp://192.0.2.1/x", "only https"),
            ("udp://192.0.2.1:0", "port 0"),
            ("udp://192.0.2.1:70000", "not an IP address"),
            ("udp://0.0.0.0", "not the address of a server"),
            ("udp://", "not an IP address"),
            ("https://192.0.2.1/a b{", "' ' can't stand in a path"),
            ("https://192.0.2.1/{?dns}", "'{' can't stand in a path"),
            ("https://192.0.2.1/a%2", "'%' can't stand in a path"),
            ("https://192.0.2.1/a#b", "'#' can't stand in a path"),
            ("https://192.0.2.1/ä", "'ä' can't stand in a path"),
            ("https://192.0.2.1/\u{7f}", "can't stand in a path"),
            (&format!("https://192.0.2.1/{}", "a".repeat(70_000)), "too long"),
        ] {
            let error = text.parse::<UpstreamUrl>().unwrap_err();
            assert!(error.to_string().contains(reason), "{text}: {error}");
        }
    }
}
