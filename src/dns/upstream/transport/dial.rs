//! Getting a connection to an upstream: marked sockets, TLS on top, and one attempt at a time that all who need it share.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::endpoint::Endpoint;
use crate::sys::descriptors::Use;

/// How long connecting may take, the handshake included.
pub const CONNECT: Duration = Duration::from_millis(2500);
/// A query given up after this, while nothing at all came on its connection, speaks against the connection.
pub const DEAF_AFTER: Duration = Duration::from_secs(2);

/// Where to and with which mark.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The upstream's address and port.
    pub peer: Endpoint,
    /// The mark of its packets (SO_MARK), by which the guard's own are known.
    pub mark: Option<u32>,
}

impl Target {
    /// A TCP connection.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn tcp(self) -> io::Result<TcpStream> {
        use socket2::{Domain, Protocol, Socket, Type};
        let socket = Socket::new(Domain::for_address(*self.peer), Type::STREAM, Some(Protocol::TCP))?;
        let socket = Use::Upstream.within(socket)?;
        socket.set_nonblocking(true)?;
        if let Some(mark) = self.mark {
            socket.set_mark(mark)?;
        }
        let stream: std::net::TcpStream = socket.into();
        let stream =
            tokio::net::TcpSocket::from_std_stream(stream).connect(crate::sys::endpoint::now(&self.peer)?).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// A UDP socket on a random port, not connected (QUIC moves between addresses by itself).
    ///
    /// # Errors
    /// The kernel's.
    pub fn udp(self) -> io::Result<std::net::UdpSocket> {
        use socket2::{Domain, Protocol, Socket, Type};
        let socket = Socket::new(Domain::for_address(*self.peer), Type::DGRAM, Some(Protocol::UDP))?;
        let socket = Use::Upstream.within(socket)?;
        socket.set_nonblocking(true)?;
        if let Some(mark) = self.mark {
            socket.set_mark(mark)?;
        }
        let any: SocketAddr = match *self.peer {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        socket.bind(&any.into())?;
        Ok(socket.into())
    }
}

/// How TLS is spoken to one upstream.
#[derive(Clone)]
pub struct Tls {
    /// Roots, pins, the guard's own identity.
    pub config: Arc<ClientConfig>,
    /// What the certificate must bear.
    pub name: ServerName<'static>,
    /// Counts the handshakes that were begun.
    pub handshakes: Counter,
}

impl Tls {
    /// TLS over a new TCP connection.
    ///
    /// # Errors
    /// Connecting failed, or the upstream isn't who it should be. There is no way back to plain text.
    pub async fn connect(&self, target: Target) -> io::Result<TlsStream<TcpStream>> {
        let stream = target.tcp().await?;
        self.handshakes.inc();
        TlsConnector::from(self.config.clone()).connect(self.name.clone(), stream).await.map_err(named)
    }
}

/// Says that it was TLS that failed.
fn named(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("TLS: {error}"))
}

/// A connection that can end.
pub trait Ends {
    /// Whether it takes no more queries.
    fn has_ended(&self) -> bool;
}

/// Names the likely cause when a TLS connection ends before anything was heard on it. In TLS 1.3 a server judges the client's
/// certificate after the client may send; its alert is lost when the reset that follows overtakes it.
pub fn ended_unheard(error: &io::Error) -> io::Error {
    let words = error.to_string();
    if words.contains("ertificate") {
        return io::Error::new(error.kind(), words);
    }
    let words = format!("{words}, before anything was heard: it may want another client certificate");
    io::Error::new(error.kind(), words)
}

struct State<C> {
    connection: Option<Arc<C>>,
    failed: Option<(Instant, io::ErrorKind, String)>,
}

/// The one connection to an upstream, made when it is needed. Whoever waits while it is made shares the outcome, so that a dead or
/// wrong upstream costs one attempt at a time however many questions wait.
pub struct Slot<C> {
    state: Arc<tokio::sync::Mutex<State<C>>>,
}

impl<C> Default for Slot<C> {
    fn default() -> Self {
        Self { state: Arc::new(tokio::sync::Mutex::new(State { connection: None, failed: None })) }
    }
}

impl<C: Ends + Send + Sync + 'static> Slot<C> {
    /// The connection, and whether it was there before. `open` goes on when its asker gives up: the next one will want it.
    ///
    /// # Errors
    /// Those of `open`, or that it took too long.
    pub async fn get<F>(&self, open: F) -> io::Result<(Arc<C>, bool)>
    where
        F: Future<Output = io::Result<C>> + Send + 'static,
    {
        let since = Instant::now();
        let mut state = self.state.clone().lock_owned().await;
        if let Some(connection) = state.connection.as_ref().filter(|connection| !connection.has_ended()) {
            return Ok((connection.clone(), true));
        }
        if let Some((_, kind, words)) = state.failed.as_ref().filter(|(at, ..)| *at >= since) {
            return Err(io::Error::new(*kind, words.clone()));
        }
        let opening = tokio::spawn(async move {
            let opened = tokio::time::timeout(CONNECT, open).await;
            match opened.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "connecting took too long"))) {
                Ok(connection) => {
                    let connection = Arc::new(connection);
                    *state = State { connection: Some(connection.clone()), failed: None };
                    Ok(connection)
                }
                Err(error) => {
                    let failed = Some((Instant::now(), error.kind(), error.to_string()));
                    *state = State { connection: None, failed };
                    Err(error)
                }
            }
        });
        opening.await.unwrap_or_else(|error| Err(io::Error::other(error))).map(|connection| (connection, false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_on_udp_sockets() {
        let target = Target { peer: "127.0.0.1:853".parse().unwrap(), mark: Some(crate::sys::MARK) };
        assert_eq!(socket2::SockRef::from(&target.udp().unwrap()).mark().unwrap(), crate::sys::MARK);
    }

    #[tokio::test]
    async fn the_mark_is_on_tcp_sockets() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target { peer: listener.local_addr().unwrap().into(), mark: Some(crate::sys::MARK) };
        let stream = target.tcp().await.unwrap();
        assert_eq!(socket2::SockRef::from(&stream).mark().unwrap(), crate::sys::MARK);
    }

    struct Once;

    impl Ends for Once {
        fn has_ended(&self) -> bool {
            false
        }
    }

    #[tokio::test]
    async fn who_waits_shares_the_failure() {
        let slot: Arc<Slot<Once>> = Arc::default();
        let tries = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let askers: Vec<_> = (0..50)
            .map(|_| {
                let (slot, tries) = (slot.clone(), tries.clone());
                tokio::spawn(async move {
                    let open = async move {
                        tries.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        Err(io::Error::other("no"))
                    };
                    slot.get(open).await.map(|_| ()).unwrap_err().to_string()
                })
            })
            .collect();
        for asker in askers {
            assert_eq!(asker.await.unwrap(), "no");
        }
        assert_eq!(tries.load(std::sync::atomic::Ordering::SeqCst), 1);
    }
}
