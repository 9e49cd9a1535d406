//! How a question comes and its reply goes out.

/// The transport between a client and the guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// The question came in a datagram of UDP.
    Udp,
    /// The question came over a connection of plain TCP.
    Tcp,
    /// DNS over TLS.
    Tls,
    /// DNS over HTTPS.
    Https,
    /// DNS over QUIC.
    Quic,
}
