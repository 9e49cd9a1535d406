//! The encrypted ways in which clients ask: what listeners serve, and what the resolver tells clients of.

use crate::core::way::Way;
use crate::dns::metrics;

/// Where everybody's questions over HTTPS are taken; the path of the usual URI template "/dns-query{?dns}".
pub const HTTPS_PATH: &str = "/dns-query";

/// How a question came, where it was encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// DNS over TLS.
    Tls,
    /// DNS over HTTPS.
    Https,
    /// DNS over QUIC.
    Quic,
}

impl Transport {
    /// How its replies go out.
    #[must_use]
    pub fn way(self) -> Way {
        match self {
            Self::Tls => Way::Tls,
            Self::Https => Way::Https,
            Self::Quic => Way::Quic,
        }
    }

    /// The metrics' label.
    #[must_use]
    pub fn label(self) -> metrics::Transport {
        let transport = match self {
            Self::Tls => "dot",
            Self::Https => "doh",
            Self::Quic => "doq",
        };
        metrics::Transport { transport }
    }
}
